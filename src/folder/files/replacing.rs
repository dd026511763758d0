//! From the temporary name to the place: an exchange with what is there, and a look at what came out.

use std::io;

use super::super::AgreedRow;
use super::held::Descent;
use super::journal::{FolderJournal, JournalNote};
use super::making::MadeFile;
use super::own::{NoteId, OwnPath};
use super::placing::{ActEnd, AfterAct, DiskJudgement};
use super::stat::RawStat;
use super::{FolderDir, HookPoint, exchange};

impl FolderDir {
    /// From the temporary name to the place.
    pub(super) fn place(
        &self,
        made: &mut MadeFile<'_>,
        journal: &dyn FolderJournal,
        now_ms: u64,
    ) -> io::Result<ActEnd> {
        let making = made.making();
        let Some((file, planned)) = made.made.take() else {
            return Err(io::Error::other("nothing was made"));
        };
        let dropped = |name: &str| self.drop_or_keep(made, name, &planned, journal);
        // Where the path leads elsewhere by now, the file would be written to what is none of its business.
        let still = match self.descend(&made.dir.path)? {
            Descent::Open(now) => {
                RawStat::of(&now)?.inode == RawStat::of(&made.dir)?.inode && now.key == made.dir.key
            }
            Descent::Missing { .. } | Descent::Blocked { .. } | Descent::Unmounted(_) => false,
        };
        self.at(HookPoint::Placing)?;
        if !still {
            return dropped(&making);
        }
        let after = if let Some(over) = made.order.over {
            match self.replace(made, over, &making, &planned, journal)? {
                Ok(old) => old,
                Err(end) => return Ok(end),
            }
        } else {
            match self.give((&made.dir, &making), (&made.dir, &made.name)) {
                Ok(()) => AfterAct::Forget(made.note.id),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return dropped(&making),
                Err(error) => {
                    let end = dropped(&making)?;
                    return if end == ActEnd::LookAgain {
                        journal.forget(&[made.note.id]).ok();
                        Err(error)
                    } else {
                        Ok(end)
                    };
                }
            }
        };
        self.at(HookPoint::Placed)?;
        let placed = RawStat::of(&file)?;
        let executable = Some(made.file.executable);
        let (planned, placed) =
            (planned.seen(made.dir.traits, executable), placed.seen(made.dir.traits, executable));
        let place = (made.dir.mount.clone(), made.order.is_aside);
        let row = AgreedRow::written(made.order.entry.clone(), planned, placed, place, now_ms);
        Ok(ActEnd::Done { row: Box::new(row), after })
    }

    /// Drops what is under a temporary name, if it is ours; else it is somebody's.
    fn drop_or_keep(
        &self,
        made: &MadeFile<'_>,
        name: &str,
        planned: &RawStat,
        journal: &dyn FolderJournal,
    ) -> io::Result<ActEnd> {
        if Self::drop_made(&made.dir, name, planned)? {
            return Ok(ActEnd::LookAgain);
        }
        self.keep_for_salvage(&made.dir, name, made.note.clone(), journal)
    }

    /// Exchanges the two, and looks at what came out.
    fn replace(
        &self,
        made: &MadeFile<'_>,
        over: &AgreedRow,
        making: &str,
        planned: &RawStat,
        journal: &dyn FolderJournal,
    ) -> io::Result<Result<AfterAct, ActEnd>> {
        let (dir, ready, name) = (&made.dir, made.ready(), made.name.as_str());
        let watch = || AfterAct::Watch(Box::new(made.note.clone().into_old()));
        let drop_or_keep = |at: &str| self.drop_or_keep(made, at, planned, journal);
        self.take((dir, making), (dir, ready))?;
        match exchange(self.abilities, dir, ready, name) {
            Ok(true) => {}
            Ok(false) => return self.replace_by_two(made, over, planned, journal),
            // Nothing is there any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return drop_or_keep(ready).map(Err),
            Err(error) => {
                let end = drop_or_keep(ready)?;
                if end != ActEnd::LookAgain {
                    return Ok(Err(end));
                }
                journal.forget(&[made.note.id]).ok();
                return Err(error);
            }
        }
        let judged = self.judge(dir, ready, Some(over)).unwrap_or(DiskJudgement::Changed);
        match judged {
            DiskJudgement::Agreed => {
                if self.move_to_trash(dir, ready, &made.note.trash).is_err() {
                    let note = made.note.clone().into_old();
                    let note = JournalNote { trash: made.temporary.clone(), ..note };
                    return Ok(Ok(AfterAct::Watch(Box::new(note))));
                }
                Ok(Ok(watch()))
            }
            // Somebody tidied up.
            DiskJudgement::Missing => Ok(Ok(AfterAct::Forget(made.note.id))),
            DiskJudgement::Changed => {
                self.at(HookPoint::PuttingBack)?;
                let end = match exchange(self.abilities, dir, ready, name) {
                    Ok(true) => self.retire(made, planned, journal)?,
                    Ok(false) | Err(_) if self.give((dir, ready), (dir, name)).is_ok() => ActEnd::LookAgain,
                    Ok(false) | Err(_) => self.keep_for_salvage(dir, ready, made.note.clone(), journal)?,
                };
                Ok(Err(end))
            }
        }
    }

    /// What was in the place for a moment, and is under the temporary name again: a program that opened it then may still write to it, so
    /// it is watched as an old file. If it is not ours, it is somebody's.
    fn retire(
        &self,
        made: &MadeFile<'_>,
        planned: &RawStat,
        journal: &dyn FolderJournal,
    ) -> io::Result<ActEnd> {
        let (dir, ready) = (&made.dir, made.ready());
        let is_ours = dir.stat(ready)?.is_some_and(|stat| stat.is_same_file(planned));
        if !is_ours {
            return self.keep_for_salvage(dir, ready, made.note.clone(), journal);
        }
        let seen = planned.seen(dir.traits, Some(made.file.executable));
        let place = (dir.mount.clone(), made.order.is_aside);
        let row = AgreedRow::written(made.order.entry.clone(), seen, seen, place, made.note.at_ms);
        // A name of its own, so that what the other note says is not mistaken.
        let id = NoteId::random();
        let trash = OwnPath::trashed(dir, id, made.note.at_ms, &made.name);
        let note = JournalNote { id, over: Some(row), trash: trash.clone(), ..made.note.clone().into_old() };
        journal.note(&[note])?;
        self.move_to_trash(dir, ready, &trash)?;
        Ok(ActEnd::LookAgain)
    }

    /// Where names cannot be exchanged: the old file goes to the trash, and the new one takes the name if it is free. For a moment there
    /// is none.
    fn replace_by_two(
        &self,
        made: &MadeFile<'_>,
        over: &AgreedRow,
        planned: &RawStat,
        journal: &dyn FolderJournal,
    ) -> io::Result<Result<AfterAct, ActEnd>> {
        let (dir, ready, name) = (&made.dir, made.ready(), made.name.as_str());
        let Some(trash) = self.place_of(&made.note.trash)? else {
            return Err(io::Error::other(format!("there is no directory for {}", made.note.trash)));
        };
        let out = (&trash.dir, trash.name.as_str());
        let drop_ours = || Self::drop_made(dir, ready, planned).map(drop);
        match self.take((dir, name), out) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop_ours()?;
                return Ok(Err(ActEnd::LookAgain));
            }
            done => done?,
        }
        self.at(HookPoint::Trashed)?;
        let judged = self.judge(out.0, out.1, Some(over)).unwrap_or(DiskJudgement::Changed);
        if judged == DiskJudgement::Agreed {
            let placed = self.give((dir, ready), (dir, name));
            if placed.is_ok() {
                return Ok(Ok(AfterAct::Watch(Box::new(made.note.clone().into_old()))));
            }
        }
        self.at(HookPoint::PuttingBack)?;
        let is_back = self.give(out, (dir, name)).is_ok();
        Self::drop_made(dir, ready, planned)?;
        if is_back || trash.dir.stat(&trash.name)?.is_none() {
            return Ok(Err(ActEnd::LookAgain));
        }
        // Somebody has put another file there.
        if judged == DiskJudgement::Agreed {
            let old = JournalNote { id: NoteId::random(), ..made.note.clone().into_old() };
            journal.note(&[old])?;
            return Ok(Err(ActEnd::LookAgain));
        }
        Ok(Err(ActEnd::Salvage(Box::new(made.note.clone()))))
    }
}
