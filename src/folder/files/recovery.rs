//! What the journal has at a start: actions that may be anywhere between their steps.

use std::io;

use super::held::{HeldDir, split};
use super::journal::{FolderJournal, JournalNote, NoteStep};
use super::placing::{ActEnd, DiskJudgement};
use super::stat::FileKind;
use super::{FolderDir, exchange};
use crate::record::ContentHash;

#[derive(Debug)]
pub(crate) enum Recovered {
    /// Nothing is left to do: the note is dropped, and the path is looked at as any other.
    Settled(JournalNote),
    /// A file made way; this note, which is written, watches it.
    Watched(JournalNote),
    /// As [`ActEnd::Salvage`]: the note stays until it is done.
    Salvage(JournalNote),
    /// It cannot be told now, for instance because a disk is not mounted: the note stays.
    Later(JournalNote, io::Error),
}

impl FolderDir {
    /// Looks at what the journal has, but for the files that are watched. `is_kept` says whether a content is in the store. To be called
    /// with the marker checked and the mounts [known](Self::know_mounts), before a look, and whenever an action failed.
    pub(crate) fn recover(
        &self,
        journal: &dyn FolderJournal,
        is_kept: &dyn Fn(ContentHash) -> bool,
    ) -> io::Result<Vec<Recovered>> {
        let mut all = Vec::new();
        for note in journal.all()? {
            if note.step == NoteStep::Old {
                continue;
            }
            let recovered = match self.recover_one(&note, journal, is_kept) {
                Ok(recovered) => recovered,
                Err(error) => Recovered::Later(note, error),
            };
            match &recovered {
                Recovered::Settled(note) => journal.forget(&[note.id])?,
                Recovered::Watched(note) => journal.note(std::slice::from_ref(note))?,
                Recovered::Salvage(_) | Recovered::Later(..) => {}
            }
            all.push(recovered);
        }
        Ok(all)
    }

    fn recover_one(
        &self,
        note: &JournalNote,
        journal: &dyn FolderJournal,
        is_kept: &dyn Fn(ContentHash) -> bool,
    ) -> io::Result<Recovered> {
        if let Some(temporary) = &note.temporary {
            if let Some(place) = self.place_of(&temporary.making())? {
                // It was never in the folder, and belongs to nobody else.
                place.dir.remove(&place.name)?;
            }
            if let Some((place, _)) = self.found_at(temporary)? {
                let recovered = self.recover_temporary(note, &place.dir, &place.name, journal, is_kept)?;
                // The trash may have the old file all the same, where names cannot be exchanged.
                if let Some(recovered) = recovered {
                    return Ok(recovered);
                }
            }
        }
        self.recover_trashed(note)
    }

    /// What has the temporary name: ours, from before the exchange; or what came out. `None` if it was ours, and is dropped.
    fn recover_temporary(
        &self,
        note: &JournalNote,
        dir: &HeldDir,
        name: &str,
        journal: &dyn FolderJournal,
        is_kept: &dyn Fn(ContentHash) -> bool,
    ) -> io::Result<Option<Recovered>> {
        let Some(stat) = dir.stat(name)? else { return Ok(None) };
        let (_, place_name) = split(note.name.as_str());
        let placed = self.find(dir, place_name)?;
        if stat.kind != FileKind::File {
            return self.return_oddity(note, dir, name, placed.as_ref().map(|(name, _)| name.as_str()));
        }
        // Two names of one file, where a name is given by linking.
        let is_same = placed.as_ref().is_some_and(|(_, placed)| placed.is_same_file(&stat));
        if is_same && Self::drop_made(dir, name, &stat)? {
            return Ok(None);
        }
        // Before it is taken for ours, whose content may be the same: somebody may have the old one open.
        if self.judge(dir, name, note.over.as_ref())? == DiskJudgement::Agreed {
            self.open_trash(&dir.mount)?;
            self.move_to_trash(dir, name, &note.trash)?;
            return Ok(Some(Recovered::Watched(note.clone().into_old())));
        }
        let hash = self.hash_at(dir, name, &stat)?;
        let is_ours = hash.is_some() && hash == note.entry.target() && hash.is_some_and(is_kept);
        if is_ours && Self::drop_made(dir, name, &stat)? {
            return Ok(None);
        }
        self.open_trash(&dir.mount)?;
        match self.keep_for_salvage(dir, name, note.clone(), journal)? {
            ActEnd::Salvage(note) => Ok(Some(Recovered::Salvage(*note))),
            ActEnd::Done { .. } | ActEnd::LookAgain => Ok(Some(Recovered::Settled(note.clone()))),
        }
    }

    /// A directory or a link came out of an exchange: it gets its name again, if that is free or has what we put there.
    fn return_oddity(
        &self,
        note: &JournalNote,
        dir: &HeldDir,
        name: &str,
        placed: Option<&str>,
    ) -> io::Result<Option<Recovered>> {
        let Some(placed) = placed else {
            let (_, place_name) = split(note.name.as_str());
            self.give((dir, name), (dir, place_name))?;
            dir.sync()?;
            return Ok(Some(Recovered::Settled(note.clone())));
        };
        let ours = dir.stat(placed)?.filter(|stat| stat.kind == FileKind::File);
        let hash = match &ours {
            Some(stat) => self.hash_at(dir, placed, stat)?,
            None => None,
        };
        if let Some(ours) = ours
            && hash.is_some()
            && hash == note.entry.target()
            && exchange(self.abilities, dir, name, placed)?
            && Self::drop_made(dir, name, &ours)?
        {
            return Ok(Some(Recovered::Settled(note.clone())));
        }
        self.open_trash(&dir.mount)?;
        self.move_to_trash(dir, name, &note.trash)?;
        Ok(Some(Recovered::Salvage(note.clone())))
    }

    fn recover_trashed(&self, note: &JournalNote) -> io::Result<Recovered> {
        let Some((place, _)) = self.found_at(&note.trash)? else {
            // Whether the directory of the name is there matters only if something came out.
            return Ok(Recovered::Settled(note.clone()));
        };
        let (directory, name) = split(note.name.as_str());
        let dir = self.descend_written(directory, false)?.0.opened()?;
        let is_free = match &dir {
            Some(dir) => self.find(dir, name)?.is_none(),
            None => false,
        };
        let judged = self.judge(&place.dir, &place.name, note.over.as_ref())?;
        let is_replaced = note.step == NoteStep::Write && (!is_free || dir.is_none());
        if judged == DiskJudgement::Agreed && (is_replaced || note.step == NoteStep::Remove) {
            return Ok(Recovered::Watched(note.clone().into_old()));
        }
        if let Some(dir) = dir.filter(|_| is_free)
            && self.give((&place.dir, &place.name), (&dir, name)).is_ok()
        {
            dir.sync()?;
            return Ok(Recovered::Settled(note.clone()));
        }
        Ok(Recovered::Salvage(note.clone()))
    }
}
