//! What an actor does with files that were taken out of the folder: at once, at a start, and ten minutes later.

use super::super::{AgreedRow, CameOut, DiskSight, ReadFile, SeenFile, salvage};
use super::machine::{Crashed, FOLDER, Journalled, Lingering, SimMachine};
use super::perform::name_on_disk;
use super::{PlantedBug, SimTrouble};
use crate::entry::{EntryHash, EntryPath};

/// How long a file that made way is watched.
const LINGERS_MS: u64 = 10 * 60 * 1000;

impl SimMachine {
    /// Nothing is dropped whose content is not in the store.
    fn drop_temporary(&mut self, slot: u64, trouble: &mut SimTrouble) {
        if let Some(dropped) = self.disk.temporary.remove(&slot)
            && !self.store.contents.contains(&dropped.content.hash())
        {
            trouble
                .ledger
                .blame(|| format!("{} dropped {:?}, which its store lacks", self.name, dropped.content));
        }
    }

    pub(super) fn drop_journalled(&mut self, slot: u64, trouble: &mut SimTrouble) {
        self.drop_temporary(slot, trouble);
        self.db.journal.retain(|journalled| journalled.slot != slot);
    }

    /// Looks at what came out; what was agreed goes to the trash.
    pub(super) fn look_at(
        &mut self,
        slot: u64,
        path: &EntryPath,
        over: &AgreedRow,
        trouble: &mut SimTrouble,
    ) -> bool {
        let Some(out) = self.disk.temporary.get(&slot) else { return true };
        let (stat, hash) = (self.disk.stat(out), out.content.hash());
        let judged = match over.came_out(stat, None) {
            CameOut::NeedsHash => over.came_out(stat, Some(hash)),
            known => known,
        };
        if judged == CameOut::Agreed {
            self.accept(slot, path, over, trouble);
        }
        judged == CameOut::Agreed
    }

    pub(super) fn accept(&mut self, slot: u64, path: &EntryPath, over: &AgreedRow, trouble: &mut SimTrouble) {
        let Some(out) = self.disk.temporary.get(&slot) else { return };
        if !self.store.contents.contains(&out.content.hash()) {
            let what = out.content;
            trouble
                .ledger
                .blame(|| format!("{} took {what:?} from {path}, which its store lacks", self.name));
        }
        let until_ms = trouble.now_ms + LINGERS_MS;
        self.db.lingering.push(Lingering { slot, path: path.clone(), over: over.clone(), until_ms });
    }

    pub(super) fn put_back(
        &mut self,
        slot: u64,
        path: &EntryPath,
        name: &str,
        trouble: &mut SimTrouble,
    ) -> Result<(), Crashed> {
        if self.disk.files.contains_key(name) || !self.can_write(name) {
            return self.salvage(slot, path, trouble);
        }
        self.exchange(slot, name);
        self.step(trouble)?;
        self.drop_journalled(slot, trouble);
        Ok(())
    }

    /// What cannot be put back becomes a version of its own.
    pub(super) fn salvage(
        &mut self,
        slot: u64,
        path: &EntryPath,
        trouble: &mut SimTrouble,
    ) -> Result<(), Crashed> {
        if let Some(file) = self.disk.temporary.get(&slot).cloned() {
            let read = ReadFile { hash: file.content.hash(), at_ms: self.clock(trouble) };
            self.store.contents.insert(read.hash);
            self.step(trouble)?;
            let stat = self.disk.stat(&file);
            let seen = SeenFile { stat, mount: String::new(), is_aside: false, read: Some(read) };
            let gone = DiskSight::Gone(String::new());
            let version = self.with_sight(path, &gone, trouble, |sight| salvage(sight, &seen, read));
            self.take_own(&version, trouble);
            self.step(trouble)?;
        }
        self.drop_journalled(slot, trouble);
        Ok(())
    }

    /// What a start does with what the journal has.
    pub(super) fn recover(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        if trouble.bug == Some(PlantedBug::JournalIgnored) {
            for journalled in std::mem::take(&mut self.db.journal) {
                self.drop_temporary(journalled.slot, trouble);
            }
        }
        while let Some(Journalled { slot, path, entry, over }) = self.db.journal.first().cloned() {
            self.step(trouble)?;
            let out = self.disk.temporary.get(&slot).map(|file| file.content.hash());
            let is_ours = out == entry.target() && out.is_some_and(|out| self.store.contents.contains(&out));
            let lingers = self.db.lingering.iter().any(|lingering| lingering.slot == slot);
            match over {
                // The next look finds what the disk shows.
                _ if lingers => self.db.journal.retain(|journalled| journalled.slot != slot),
                _ if out.is_none() || is_ours => self.drop_journalled(slot, trouble),
                Some(over) if self.look_at(slot, &path, &over, trouble) => {
                    self.db.journal.retain(|journalled| journalled.slot != slot);
                }
                Some(over) if !entry.is_live() => {
                    let is_aside = over.disk.as_ref().is_some_and(|disk| disk.is_aside);
                    let name = name_on_disk(&path, is_aside);
                    self.put_back(slot, &path, &name, trouble)?;
                }
                Some(_) | None => self.salvage(slot, &path, trouble)?,
            }
        }
        Ok(())
    }

    /// Files that made way long enough ago: one that was written to since is an edit.
    pub(super) fn tidy(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        for Lingering { slot, path, over, until_ms } in self.db.lingering.clone() {
            if until_ms > trouble.now_ms {
                continue;
            }
            let now = self.disk.temporary.get(&slot).map(|file| file.content.hash());
            if trouble.bug != Some(PlantedBug::OldFileForgotten) {
                if now != over.entry.target() {
                    self.salvage(slot, &path, trouble)?;
                } else if let Some(hash) = now.filter(|hash| !self.store.contents.contains(hash)) {
                    // The store was set back since.
                    self.store.contents.insert(hash);
                    self.store.take(over.entry, trouble.bug);
                }
            }
            self.drop_temporary(slot, trouble);
            self.db.lingering.retain(|lingering| lingering.slot != slot);
        }
        Ok(())
    }

    /// Files aside whose plain name has a file, too.
    pub(super) fn retire(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        let names: Vec<String> = self.disk.files.keys().cloned().collect();
        for name in names {
            let plain = EntryPath::parse(&name).unwrap().plain(FOLDER);
            if let Some(path) = plain.filter(|path| self.disk.files.contains_key(path.as_str())) {
                self.retire_one(&name, &path, trouble)?;
            }
        }
        Ok(())
    }

    fn retire_one(&mut self, name: &str, path: &EntryPath, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        let hash = EntryHash::of(FOLDER, path);
        // Without an entry the plain file is new, and comes first.
        let (Some(entry), true) = (self.store.entries.get(&hash).cloned(), self.can_write(name)) else {
            return Ok(());
        };
        let slot = trouble.next_slot();
        let over = self.db.rows.get(&hash).filter(|row| row.disk.as_ref().is_some_and(|disk| disk.is_aside));
        let over = over.cloned();
        self.db.journal.push(Journalled { slot, path: path.clone(), entry, over: over.clone() });
        self.step(trouble)?;
        self.exchange(slot, name);
        self.step(trouble)?;
        let out = self.disk.temporary.get(&slot).map(|file| file.content.hash());
        let is_here = out.is_some_and(|out| self.store.contents.contains(&out));
        let is_kept = |over: &AgreedRow| is_here && self.store.has_version(&over.entry);
        match over.filter(is_kept) {
            Some(over) if self.look_at(slot, path, &over, trouble) => {
                self.db.journal.retain(|journalled| journalled.slot != slot);
                Ok(())
            }
            Some(_) | None => self.salvage(slot, path, trouble),
        }
    }

    /// A program that has an old file open writes to it.
    pub(super) fn write_to_old(&mut self, trouble: &mut SimTrouble) {
        let is_as_it_was = |lingering: &&Lingering| {
            let file = self.disk.temporary.get(&lingering.slot);
            file.map(|file| file.content.hash()) == lingering.over.entry.target()
        };
        // Once: what is overwritten by the same program is nobody's fault.
        let open = self.db.lingering.iter().filter(is_as_it_was);
        let open: Vec<u64> = open
            .filter(|lingering| lingering.until_ms > trouble.now_ms + 60_000)
            .map(|lingering| lingering.slot)
            .collect();
        if open.is_empty() {
            return;
        }
        let slot = *trouble.dice.pick(&open);
        let content = trouble.content_to_save();
        if let Some(file) = self.disk.temporary.get_mut(&slot) {
            file.content = content;
            trouble.ledger.owe(content.hash());
        }
    }
}
