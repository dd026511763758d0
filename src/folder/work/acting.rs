//! The actions, many of a kind at a time. What fails is named and left for another look; nothing that follows depends on it.

use std::collections::BTreeSet;

use super::contents::TempContent;
use super::{FolderWork, Observed, WorkError};
use crate::entry::{EntryHash, EntryPath, EntryRecord, FolderRecord};
use crate::folder::files::{ActEnd, AfterAct, NewContent, RemoveOrder, WriteError, WriteOrder};
use crate::folder::rows::RowChange;
use crate::folder::{AgreedRow, FolderAction};
use crate::record::ContentHash;
use crate::store::entries::{ENTRIES_MAX, EntryOutcome};

/// Files that are written at once, and the bytes of their contents that lie beside the folder meanwhile.
const WRITES_MAX: usize = 512;
const WRITE_BYTES_MAX: u64 = 64 << 20;

/// A version that is to be merged into the store, and the row that is written then.
pub(super) type EntryPutting = (EntryHash, EntryRecord, Option<AgreedRow>);

/// Files that are read before other machines hear of them.
const PART_MAX: usize = 1_000;

/// A file that is to be written.
struct Writing {
    hash: EntryHash,
    entry: EntryRecord,
    over: Option<AgreedRow>,
    is_aside: bool,
}

impl FolderWork {
    /// Carries out early actions, and puts what was read and takes nothing away: other machines have the first files while the last are
    /// read. Which paths have to be looked at again.
    pub(super) fn perform_in_parts(
        &mut self,
        mut actions: Vec<(EntryHash, FolderAction)>,
    ) -> Result<BTreeSet<EntryHash>, WorkError> {
        actions.sort_by_cached_key(|(hash, _)| self.name_of(*hash));
        let mut again = BTreeSet::new();
        let mut rest = actions.into_iter().peekable();
        while rest.peek().is_some() {
            let read = self.perform(rest.by_ref().take(PART_MAX).collect())?;
            let mut puts = self.planned(&read)?;
            // What loses something is counted with all that does.
            puts.retain(|(hash, action)| {
                let is_put = matches!(action, FolderAction::Put(row) if row.entry.is_live());
                is_put && action.loses(self.agreed.get(hash)).is_none()
            });
            again.extend(self.perform(puts)?);
            again.extend(read);
            self.check_stop()?;
        }
        Ok(again)
    }

    /// Carries out actions, sorted by phase. Which paths have to be looked at again.
    pub(super) fn perform(
        &mut self,
        actions: Vec<(EntryHash, FolderAction)>,
    ) -> Result<BTreeSet<EntryHash>, WorkError> {
        let (mut again, mut rows, mut kept) = (BTreeSet::new(), Vec::new(), Vec::new());
        let (mut reads, mut puts, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        let (mut fetches, mut aside, mut writes, mut removes) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (hash, action) in actions {
            match action {
                FolderAction::Nothing | FolderAction::Ask => {}
                FolderAction::Agree(row) => rows.push((hash, RowChange::Agree(row))),
                FolderAction::Forget => rows.push((hash, RowChange::Forget(hash))),
                FolderAction::PutAgain(entry) => kept.push((hash, entry, None)),
                FolderAction::Read => reads.push(hash),
                FolderAction::Put(row) if row.entry.is_live() => {
                    puts.push((hash, row.entry.clone(), Some(row)));
                }
                FolderAction::Put(row) => removals.push((hash, row.entry.clone(), Some(row))),
                FolderAction::Fetch(target) => fetches.push((hash, target)),
                FolderAction::StepAside(to) => aside.push((hash, to)),
                FolderAction::Write { entry, over, is_aside } => {
                    writes.push(Writing { hash, entry, over, is_aside });
                }
                FolderAction::Remove { removal, over } => removes.push((hash, removal, over)),
            }
        }
        self.measure(&reads, &writes);
        // In the order of paths: what lies in one directory is read, written and made durable together.
        reads.sort_by_cached_key(|hash| self.name_of(*hash));
        writes.sort_by(|one, other| one.entry.path.as_str().cmp(other.entry.path.as_str()));
        removes.sort_by(|(_, one, _), (_, other, _)| one.path.as_str().cmp(other.path.as_str()));
        again.extend(rows.iter().map(|(hash, _)| *hash));
        self.note_agreed(rows.iter().map(|(_, change)| change))?;
        self.change_rows(rows.into_iter().map(|(_, change)| change).collect())?;
        again.extend(self.put_all(&kept)?);
        again.extend(self.read_all(reads)?);
        again.extend(self.put_all(&puts)?);
        self.fetch_all(fetches)?;
        for (hash, to) in aside {
            if self.step_aside(hash, &to)? {
                again.insert(hash);
            }
        }
        again.extend(self.write_all(writes)?);
        let removals = self.still_gone(removals, &mut again)?;
        again.extend(self.put_all(&removals)?);
        again.extend(self.remove_all(&removes)?);
        for hash in &again {
            self.observe_again(*hash)?;
        }
        Ok(again)
    }

    /// What is read and written now, for who asks how far it is.
    fn measure(&self, reads: &[EntryHash], writes: &[Writing]) {
        let read = |hash: &EntryHash| self.file_of(*hash).map(|file| file.stat.size);
        let written = |writing: &Writing| writing.entry.file.as_ref().map_or(0, |file| file.size);
        let bytes = reads.iter().filter_map(read).chain(writes.iter().map(written)).sum();
        self.meter.begin((reads.len() + writes.len()) as u64, bytes);
    }

    /// Those of the removals whose files are still gone: it may be long since somebody looked.
    fn still_gone(
        &mut self,
        removals: Vec<EntryPutting>,
        again: &mut BTreeSet<EntryHash>,
    ) -> Result<Vec<EntryPutting>, WorkError> {
        if removals.is_empty() {
            return Ok(removals);
        }
        let mut gone = Vec::with_capacity(removals.len());
        self.held()?.check()?;
        self.held()?.begin_look(self.now_ms());
        for removal in removals {
            let before = self.observed.get(&removal.0).map(|observed| observed.disk.clone());
            self.observe_again(removal.0)?;
            if self.observed.get(&removal.0).map(|observed| &observed.disk) == before.as_ref() {
                gone.push(removal);
            } else {
                again.insert(removal.0);
            }
        }
        self.held()?.check()?;
        Ok(gone)
    }

    /// Writes rows, durably, and takes them in.
    pub(super) fn change_rows(&mut self, changes: Vec<RowChange>) -> Result<(), WorkError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.context.rows.change(self.binding.marker, &changes)?;
        for change in changes {
            match change {
                RowChange::Agree(row) => {
                    self.reads.remove(&row.entry.hash());
                    self.agreed.insert(row.entry.hash(), row);
                }
                RowChange::Forget(hash) => {
                    self.agreed.remove(&hash);
                }
                RowChange::Note(_) | RowChange::DropNote(_) => {}
            }
        }
        Ok(())
    }

    /// Merges versions into the store, and writes the rows that go with them.
    pub(super) fn put_all(&mut self, puts: &[EntryPutting]) -> Result<BTreeSet<EntryHash>, WorkError> {
        let mut done = BTreeSet::new();
        if self.is_reader() {
            return Ok(done);
        }
        for part in puts.chunks(ENTRIES_MAX) {
            self.note_put(part)?;
            let records = part.iter().map(|(_, entry, _)| FolderRecord::Entry(entry.clone())).collect();
            let outcomes = self.wait(self.context.store.take_entries(records, None))?;
            let mut rows = Vec::new();
            for ((hash, entry, row), outcome) in part.iter().zip(outcomes) {
                match outcome {
                    EntryOutcome::Stored | EntryOutcome::Unchanged => {
                        rows.extend(row.clone().map(RowChange::Agree));
                        done.insert(*hash);
                    }
                    EntryOutcome::Changed(_) => {
                        self.put_off(*hash, Some(format!("the store did not merge {}", entry.path)));
                    }
                    EntryOutcome::Rejected(why) => {
                        self.put_off(*hash, Some(format!("the store refuses {}: {why}", entry.path)));
                    }
                }
            }
            self.change_rows(rows)?;
            self.read_named(&part.iter().map(|(hash, ..)| *hash).collect())?;
        }
        Ok(done)
    }

    fn fetch_all(&mut self, fetches: Vec<(EntryHash, ContentHash)>) -> Result<(), WorkError> {
        // What came by a ticket comes through its library, or not at all: this network wants none of it.
        let own = fetches.iter().filter(|_| !self.is_foreign());
        let targets: BTreeSet<ContentHash> = own.map(|(_, target)| *target).collect();
        for part in targets.into_iter().collect::<Vec<_>>().chunks(1_000) {
            // What the store does not know comes with the assets of the network.
            self.wait(self.context.store.want(part.to_vec()))?;
            self.context.libraries.need(part);
        }
        self.waiting.extend(fetches);
        Ok(())
    }

    fn step_aside(&mut self, hash: EntryHash, to: &EntryPath) -> Result<bool, WorkError> {
        let Some(from) = self.name_on_disk(hash) else { return Ok(false) };
        match self.held()?.step_aside(&from, to) {
            Ok(true) => {
                // The reader's own change is another file from now on.
                if to.plain(self.binding.marker.folder).is_none()
                    && self.observed.get(&hash).is_some_and(|seen| seen.path != *to)
                {
                    let other = EntryHash::of(self.binding.marker.folder, to);
                    self.observe(other, to.clone(), to.clone())?;
                }
                Ok(true)
            }
            Ok(false) => {
                // Another file, or a directory, has the name, as a rule; or the file is not there any more.
                self.put_off(
                    hash,
                    Some(format!("cannot rename {from} to {to}, which has to be free for that")),
                );
                Ok(false)
            }
            Err(error) => {
                self.put_off(hash, Some(format!("cannot rename {from} to {to}: {error}")));
                Ok(false)
            }
        }
    }

    fn name_of(&self, hash: EntryHash) -> Option<String> {
        self.observed.get(&hash).map(|seen| seen.name.as_str().to_owned())
    }

    pub(super) fn name_on_disk(&self, hash: EntryHash) -> Option<EntryPath> {
        let Observed { path, name, .. } = self.observed.get(&hash)?;
        let is_aside = self.file_of(hash).is_some_and(|file| file.is_aside);
        Some(if is_aside { path.aside(self.binding.marker.folder) } else { name.clone() })
    }

    fn write_all(&mut self, writes: Vec<Writing>) -> Result<BTreeSet<EntryHash>, WorkError> {
        let mut again = BTreeSet::new();
        let mut rest = writes.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(writing) = rest.next_if(|writing| {
                let size = writing.entry.file.as_ref().map_or(0, |file| file.size);
                batch.is_empty() || (batch.len() < WRITES_MAX && bytes + size <= WRITE_BYTES_MAX)
            }) {
                bytes += writing.entry.file.as_ref().map_or(0, |file| file.size);
                batch.push(writing);
            }
            let files = batch.len() as u64;
            again.extend(self.write_batch(batch)?);
            self.meter.add(files, bytes);
            self.check_stop()?;
        }
        Ok(again)
    }

    fn write_batch(&mut self, batch: Vec<Writing>) -> Result<BTreeSet<EntryHash>, WorkError> {
        let mut ready: Vec<(Writing, EntryPath, TempContent)> = Vec::new();
        let small = self.small_contents(batch.iter().filter_map(|writing| writing.entry.file.as_ref()))?;
        for writing in batch {
            let Some(file) = writing.entry.file.clone() else { continue };
            let content = match small.get(&file.target) {
                Some(content) => Ok(TempContent::Small(content.clone())),
                None => self.content_of(&file),
            };
            match content {
                Ok(content) => {
                    let known = self.name_on_disk(writing.hash).filter(|_| writing.over.is_some());
                    let name = known.unwrap_or_else(|| {
                        if writing.is_aside {
                            writing.entry.path.aside(self.binding.marker.folder)
                        } else {
                            writing.entry.path.clone()
                        }
                    });
                    ready.push((writing, name, content));
                }
                // Others may have room, or be whole.
                Err(error @ (WorkError::Store(_) | WorkError::Io { .. })) => {
                    self.put_off(writing.hash, Some(format!("cannot write {}: {error}", writing.entry.path)));
                }
                Err(error) => return Err(error),
            }
        }
        let orders: Vec<WriteOrder<'_>> = ready
            .iter()
            .map(|(writing, name, content)| WriteOrder {
                entry: &writing.entry,
                over: writing.over.as_ref(),
                is_aside: writing.is_aside,
                name,
                content: match content {
                    TempContent::Small(bytes) => NewContent::Bytes(bytes),
                    TempContent::Stored(file) | TempContent::Large(file) => NewContent::File(file),
                },
            })
            .collect();
        let journal = self.context.rows.journal(self.binding.marker);
        let at = (self.now_ms(), self.context.reserve_bytes);
        let ends = self.held()?.write(&orders, &journal, at);
        drop(orders);
        let mut acted = Vec::new();
        for ((writing, _, content), end) in ready.iter().zip(ends) {
            match end {
                Ok(end) => acted.push((writing.hash, end)),
                Err(error) => {
                    if let (WriteError::WrongContent(_), TempContent::Stored(_), Some(file)) =
                        (&error, content, &writing.entry.file)
                    {
                        // The store finds out what is wrong with it while it reads it itself.
                        drop(self.checked_content(file));
                    }
                    self.must_recover = true;
                    self.put_off(writing.hash, Some(error.to_string()));
                }
            }
        }
        self.after_acts(acted)
    }

    fn remove_all(
        &mut self,
        removes: &[(EntryHash, EntryRecord, AgreedRow)],
    ) -> Result<BTreeSet<EntryHash>, WorkError> {
        let mut again = BTreeSet::new();
        for part in removes.chunks(WRITES_MAX) {
            let names: Vec<EntryPath> = part
                .iter()
                .map(|(hash, removal, _)| self.name_on_disk(*hash).unwrap_or_else(|| removal.path.clone()))
                .collect();
            let orders: Vec<RemoveOrder<'_>> = part
                .iter()
                .zip(&names)
                .map(|((_, removal, over), name)| RemoveOrder { entry: removal, over, name })
                .collect();
            let journal = self.context.rows.journal(self.binding.marker);
            let ends = self.held()?.remove(&orders, &journal, self.now_ms());
            let mut acted = Vec::new();
            for ((hash, removal, _), end) in part.iter().zip(ends) {
                match end {
                    Ok(end) => acted.push((*hash, end)),
                    Err(error) => {
                        self.must_recover = true;
                        self.put_off(*hash, Some(format!("cannot remove {}: {error}", removal.path)));
                    }
                }
            }
            again.extend(self.after_acts(acted)?);
            self.check_stop()?;
        }
        Ok(again)
    }

    /// Rows and journal in one transaction; then what could not be put back.
    fn after_acts(&mut self, acted: Vec<(EntryHash, ActEnd)>) -> Result<BTreeSet<EntryHash>, WorkError> {
        let (mut again, mut changes, mut salvages) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (hash, end) in acted {
            again.insert(hash);
            match end {
                ActEnd::Done { row, after } => {
                    changes.push(RowChange::Agree(*row));
                    changes.push(match after {
                        AfterAct::Forget(id) => RowChange::DropNote(id),
                        AfterAct::Watch(note) => RowChange::Note(note),
                    });
                }
                ActEnd::LookAgain => {}
                ActEnd::Salvage(note) => salvages.push(*note),
            }
        }
        if let Err(error) = self.change_rows(changes) {
            // It is done, and only the journal says so.
            self.must_recover = true;
            return Err(error);
        }
        for note in salvages {
            self.salvage(&note)?;
        }
        Ok(again)
    }
}
