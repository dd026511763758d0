//! The actions, step by step, as the actor is to carry them out.

use super::super::{AgreedRow, DiskSight, FolderAction, ReadFile};
use super::disk::{MOUNTED, SimContent, SimFile};
use super::machine::{Crashed, FOLDER, Journalled, SimMachine};
use super::{PlantedBug, SimTrouble};
use crate::entry::EntryPath;
use crate::entry::{EntryHash, EntryRecord};
use crate::record::ContentHash;

fn content_of(target: ContentHash) -> SimContent {
    SimContent(u32::from_le_bytes(target.0[..4].try_into().unwrap()))
}

pub(super) fn name_on_disk(path: &EntryPath, is_aside: bool) -> String {
    if is_aside { path.aside(FOLDER).as_str().to_owned() } else { path.as_str().to_owned() }
}

impl SimMachine {
    /// Carries out one action; says whether the path has to be looked at again.
    pub(super) fn perform(
        &mut self,
        path: &EntryPath,
        disk: &DiskSight,
        action: FolderAction,
        trouble: &mut SimTrouble,
    ) -> Result<bool, Crashed> {
        trouble.tell(|| format!("{}: {path} {disk:?}: {action:?}", self.name));
        trouble.focus = Some(name_on_disk(path, self.stands_aside(path)));
        let outcome = self.carry_out(path, disk, action, trouble);
        trouble.focus = None;
        outcome
    }

    fn carry_out(
        &mut self,
        path: &EntryPath,
        disk: &DiskSight,
        action: FolderAction,
        trouble: &mut SimTrouble,
    ) -> Result<bool, Crashed> {
        self.step(trouble)?;
        match action {
            FolderAction::Nothing | FolderAction::Fetch(_) | FolderAction::Ask => Ok(false),
            FolderAction::Read => self.read(path, disk, trouble),
            FolderAction::Agree(row) => Ok(self.agree_unless(row, trouble.bug)),
            FolderAction::Forget => {
                self.removals.remove(&EntryHash::of(FOLDER, path));
                self.db.rows.remove(&EntryHash::of(FOLDER, path));
                Ok(true)
            }
            FolderAction::Put(row) => self.put(row, trouble),
            FolderAction::PutAgain(entry) => {
                self.store.take(entry, trouble.bug);
                Ok(true)
            }
            FolderAction::Write { entry, over, is_aside } => self.write(entry, over, is_aside, trouble),
            FolderAction::Remove { removal, over } => self.remove(removal, &over, trouble),
            FolderAction::StepAside(to) => {
                let from = name_on_disk(path, self.stands_aside(path));
                let is_free = !self.disk.files.contains_key(to.as_str());
                if is_free && self.disk.has_room_for(to.as_str()) && self.disk.files.contains_key(&from) {
                    let now_ms = self.clock(trouble);
                    self.disk.rename(&from, to.as_str(), now_ms);
                    return Ok(true);
                }
                Ok(false)
            }
        }
    }

    /// Copies the file into the store, unless it changes meanwhile.
    fn read(
        &mut self,
        path: &EntryPath,
        disk: &DiskSight,
        trouble: &mut SimTrouble,
    ) -> Result<bool, Crashed> {
        let DiskSight::File(seen) = disk else { return Ok(false) };
        let name = name_on_disk(path, seen.is_aside);
        let at_ms = self.clock(trouble);
        let Some(before) = self.disk.files.get(&name).cloned() else { return Ok(false) };
        self.worst_moment(trouble)?;
        let after = self.disk.files.get(&name).map(|file| self.disk.stat(file));
        let stat = self.disk.stat(&before);
        let mut content = before.content;
        if after != Some(stat) {
            if trouble.bug != Some(PlantedBug::TornRead) {
                return Ok(true);
            }
            content = trouble.unsaved_content();
        }
        self.store.contents.insert(content.hash());
        let stat = if trouble.bug == Some(PlantedBug::TornRead) { after.unwrap_or(stat) } else { stat };
        self.remember_read(path, stat, ReadFile { hash: content.hash(), at_ms });
        Ok(true)
    }

    fn put(&mut self, mut row: AgreedRow, trouble: &mut SimTrouble) -> Result<bool, Crashed> {
        self.take_own(&row.entry, trouble);
        self.worst_moment(trouble)?;
        if trouble.bug == Some(PlantedBug::RowOfLater)
            && let Some(file) = self.disk.files.get(row.entry.path.as_str())
            && let Some(known) = &mut row.disk
        {
            known.stat = self.disk.stat(file);
        }
        Ok(self.agree_unless(Self::with_bug(row, trouble.bug), trouble.bug))
    }

    /// Writes a row, but for the bug that rows of removals are none.
    fn agree_unless(&mut self, row: AgreedRow, bug: Option<PlantedBug>) -> bool {
        let hash = row.entry.hash();
        if row.entry.is_live() {
            self.removals.remove(&hash);
        } else {
            self.removals.insert(hash);
            if bug == Some(PlantedBug::RemovalWithoutRow) {
                return self.db.rows.remove(&hash).is_some();
            }
        }
        self.agree(row);
        true
    }

    fn with_bug(mut row: AgreedRow, bug: Option<PlantedBug>) -> AgreedRow {
        if let (Some(PlantedBug::TrustsFreshTimes), Some(disk)) = (bug, &mut row.disk) {
            disk.is_settled = true;
        }
        row
    }

    pub(super) fn take_own(&mut self, version: &EntryRecord, trouble: &mut SimTrouble) {
        trouble.ledger.note_made(version);
        self.store.take(version.clone(), trouble.bug);
    }

    /// Whether the actor may make a file there.
    pub(super) fn can_write(&self, name: &str) -> bool {
        let is_in_mount = name.strip_prefix(MOUNTED).is_some_and(|rest| rest.starts_with('/'));
        let knows_mount =
            self.db.rows.values().any(|row| row.disk.as_ref().is_some_and(|disk| disk.mount == MOUNTED));
        self.disk.has_room_for(name) && !(is_in_mount && self.disk.is_unmounted && knows_mount)
    }

    fn write(
        &mut self,
        entry: EntryRecord,
        over: Option<AgreedRow>,
        is_aside: bool,
        trouble: &mut SimTrouble,
    ) -> Result<bool, Crashed> {
        let name = name_on_disk(&entry.path, is_aside);
        let file = entry.file.clone().unwrap();
        if !self.can_write(&name) || !self.store.contents.contains(&file.target) {
            return Ok(false);
        }
        let slot = trouble.next_slot();
        let path = entry.path.clone();
        self.db.journal.push(Journalled { slot, path, entry: entry.clone(), over: over.clone() });
        self.step(trouble)?;
        let now_ms = self.clock(trouble);
        let made = self.disk.made(content_of(file.target), file.mtime_ms, now_ms);
        let made = SimFile { executable: file.executable, ..made };
        let planned = self.disk.stat(&made);
        self.disk.temporary.insert(slot, made.clone());
        self.worst_moment(trouble)?;
        let is_there = self.disk.files.contains_key(&name);
        if is_there != over.is_some() || !self.can_write(&name) {
            self.drop_journalled(slot, trouble);
            return Ok(true);
        }
        self.exchange(slot, &name);
        if let Some(over) = over {
            self.last_moment(trouble)?;
            if trouble.bug == Some(PlantedBug::ReplaceWithoutLooking) {
                self.accept(slot, &entry.path, &over, trouble);
            } else if !self.look_at(slot, &entry.path, &over, trouble) {
                // Put back; what comes out then is ours again, or what somebody saved since.
                if self.can_write(&name) && self.disk.files.contains_key(&name) {
                    self.exchange(slot, &name);
                }
                self.step(trouble)?;
                let ours = self
                    .disk
                    .temporary
                    .get(&slot)
                    .is_some_and(|out| out.inode == made.inode && out.content == made.content);
                if ours {
                    self.drop_journalled(slot, trouble);
                } else {
                    self.salvage(slot, &entry.path, trouble)?;
                }
                return Ok(true);
            }
        }
        let placed = self.disk.files.get(&name).filter(|file| file.inode == made.inode);
        let placed = placed.map_or(planned, |file| self.disk.stat(file));
        let planned = if trouble.bug == Some(PlantedBug::RowOfLater) { placed } else { planned };
        let place = (self.disk.mount_of(&name), is_aside);
        let row = AgreedRow::written(entry, planned, placed, place, self.clock(trouble));
        self.worst_moment(trouble)?;
        self.agree(Self::with_bug(row, trouble.bug));
        self.db.journal.retain(|journalled| journalled.slot != slot);
        Ok(true)
    }

    /// Two names change places; a free one leaves the other free.
    pub(super) fn exchange(&mut self, slot: u64, name: &str) {
        let new = self.disk.temporary.remove(&slot);
        if let Some(old) = self.disk.files.remove(name) {
            self.disk.temporary.insert(slot, old);
        }
        if let Some(new) = new {
            self.disk.files.insert(name.to_owned(), new);
        }
    }

    fn remove(
        &mut self,
        removal: EntryRecord,
        over: &AgreedRow,
        trouble: &mut SimTrouble,
    ) -> Result<bool, Crashed> {
        let name = name_on_disk(&removal.path, over.disk.as_ref().is_some_and(|disk| disk.is_aside));
        if !self.can_write(&name) {
            return Ok(false);
        }
        let (slot, path) = (trouble.next_slot(), removal.path.clone());
        self.db.journal.push(Journalled {
            slot,
            path: path.clone(),
            entry: removal.clone(),
            over: Some(over.clone()),
        });
        self.worst_moment(trouble)?;
        if !self.can_write(&name) || !self.disk.files.contains_key(&name) {
            self.drop_journalled(slot, trouble);
            return Ok(true);
        }
        self.exchange(slot, &name);
        self.last_moment(trouble)?;
        if trouble.bug == Some(PlantedBug::RemoveWithoutLooking) {
            self.accept(slot, &path, over, trouble);
        } else if !self.look_at(slot, &path, over, trouble) {
            self.put_back(slot, &path, &name, trouble)?;
            return Ok(true);
        }
        self.step(trouble)?;
        self.agree_unless(AgreedRow::removed(removal), trouble.bug);
        self.db.journal.retain(|journalled| journalled.slot != slot);
        Ok(true)
    }
}
