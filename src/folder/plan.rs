//! The plan: what is to be done about one path, given what the disk, the table of what was agreed, and the store have there.
//!
//! Two rules come before all others. Nothing on the disk is replaced or removed whose content is not in the store here, and none whose
//! version the store has forgotten: first the file is read, first the version is put again. And an entry that we write saw what the disk
//! had shown, never what the store has learned since.

use super::sight::{
    AgreedRow, DiskSight, FolderMode, MountPoint, OnDisk, PathSight, ReadFile, SeenFile, StoreSight,
};
use crate::entry::{EntryFile, EntryPath, EntryRecord};
use crate::record::{ContentHash, Hlc};

mod left_out;

use left_out::{left_out, loses_while_left_out};

/// What the actor does about a path. After each action but `Nothing` it looks at the path again, until that is what comes out, or
/// something to wait for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FolderAction {
    /// Nothing to do, or nothing that can be said.
    Nothing,
    /// Take the content first: copy the file (reflink, or hash while copying) into the store's `tmp`, with `fstat` before and after
    /// alike; hash the copy; ingest that, durably. Then plan again with [`SeenFile::read`], the stat being the one from before. A file
    /// that changed meanwhile was not read; try again once it rests.
    Read,
    /// Write this row. No entry, nothing on the disk.
    Agree(AgreedRow),
    Forget,
    /// Merge the row's entry into the store, durably; then write the row as it is, whichever version won. A crash between the two is
    /// mended by the next look.
    Put(AgreedRow),
    /// The store was set back: merge this version into it once more, as it is, and nothing else. One that loses goes to history.
    PutAgain(EntryRecord),
    /// Wait for this content, and touch nothing meanwhile.
    Fetch(ContentHash),
    /// Put the content of `entry` on the disk. In this order:
    ///
    /// 1. Note path and temporary name in the journal, durably.
    /// 2. Make the temporary file beside the place (every component without following symlinks), hash what it holds, set times and
    ///    mode, `fsync`, `fstat`.
    /// 3. `over` is `None`: rename without replacing. Else exchange the two names, and look at what came out
    ///    ([`AgreedRow::came_out`] of `over`). Where exchanging is not known: rename the old file into the trash, look at it there, and
    ///    rename the new one to the free name without replacing.
    /// 4. If it changed: exchange back, drop the temporary file, look again. Should the path be taken by yet another file: [`salvage`](super::salvage()).
    /// 5. Write the row ([`AgreedRow::written`]), drop the journal's, and leave the old file in the trash for ten minutes; who has it
    ///    open may still write to it. One that is not what the row said then is an edit: [`salvage`](super::salvage()).
    ///
    /// What the journal has at a start is treated as after step 3.
    Write {
        /// The version to show.
        entry: EntryRecord,
        /// What the file that makes way has to be.
        over: Option<AgreedRow>,
        /// Whether the file goes to [`EntryPath::aside`].
        is_aside: bool,
    },
    /// Take the file off the disk: note it in the journal, rename it into the trash, look at what came out, put it back without
    /// replacing if it changed ([`salvage`](super::salvage()) where that is impossible), write the row [`AgreedRow::removed`]. What the journal has at a
    /// start is looked at likewise. The trash is kept for thirty days; what leaves it is in the store, else it is ingested and its version
    /// put again. A directory goes when it is empty.
    Remove {
        /// The version to show.
        removal: EntryRecord,
        /// What the file has to be.
        over: AgreedRow,
    },
    /// Rename the file to this name, without replacing; then look again. To the plain name this fails as long as there is a directory.
    StepAside(EntryPath),
    /// Removed elsewhere before this directory was bound to the folder: ask whether to keep or to trash it ([`keep`](super::keep), [`trash`](super::trash)).
    Ask,
}

impl FolderAction {
    /// Actions of lower phases go first: what is added is in the store before anything is removed, so that a rename moves a file
    /// instead of losing it for a while.
    pub(crate) fn phase(&self) -> u8 {
        match self {
            Self::Nothing | Self::Ask => 0,
            Self::PutAgain(_) | Self::Agree(_) | Self::Forget => 1,
            Self::Read => 2,
            Self::Put(row) if row.entry.is_live() => 3,
            Self::Fetch(_) | Self::StepAside(_) => 4,
            Self::Write { .. } => 5,
            Self::Put(_) => 6,
            Self::Remove { .. } => 7,
        }
    }

    /// The content that the path has no more after this, for the [`FolderBrake`](super::FolderBrake): removals here and elsewhere, and
    /// replacing by nothing.
    pub(crate) fn loses(&self, agreed: Option<&AgreedRow>) -> Option<ContentHash> {
        let before = agreed?.entry.file.as_ref()?;
        let after = match self {
            Self::Put(row) => row.entry.file.as_ref(),
            Self::Write { entry, .. } | Self::Remove { removal: entry, .. } => entry.file.as_ref(),
            Self::Nothing
            | Self::Read
            | Self::Agree(_)
            | Self::Forget
            | Self::PutAgain(_)
            | Self::Fetch(_)
            | Self::StepAside(_)
            | Self::Ask => return None,
        };
        // Of the two the name alone cannot be a lie.
        let is_empty = |file: &EntryFile| file.size == 0 || file.target.is_of(b"");
        let is_lost = after.is_none_or(|after| is_empty(after) && !is_empty(before));
        is_lost.then_some(before.target)
    }
}

pub(crate) fn plan(sight: &PathSight<'_>) -> FolderAction {
    let action = match (sight.disk, sight.agreed) {
        (DiskSight::Unknown | DiskSight::Foreign, _) | (DiskSight::Ignored, None) => FolderAction::Nothing,
        (DiskSight::Ignored, Some(agreed)) => left_out(agreed),
        (_, Some(agreed)) => with_row(sight, agreed),
        (DiskSight::Gone(_), None) => toward_entry(sight, None, false),
        (DiskSight::Directory(_), None) => toward_entry(sight, None, true),
        (DiskSight::File(file), None) => without_row(sight, file),
    };
    within_mode(sight, action)
}

/// What the disk shows beside what was agreed.
enum Shown<'a> {
    /// The same; where it was read anew, with the row that says so.
    Agreed(Option<Box<AgreedRow>>),
    /// Another content, or another mode.
    Changed(&'a SeenFile, ReadFile),
    Gone,
    /// A file that has to be read first.
    Unread,
    /// Gone, but not from where it was.
    Elsewhere,
}

impl<'a> Shown<'a> {
    fn of(disk: &'a DiskSight, agreed: &AgreedRow) -> Self {
        let gone_from = |mount: &MountPoint| match &agreed.disk {
            None => Self::Agreed(None),
            Some(known) if known.mount != *mount => Self::Elsewhere,
            Some(_) => Self::Gone,
        };
        match disk {
            DiskSight::Unknown | DiskSight::Ignored | DiskSight::Foreign => Self::Elsewhere,
            DiskSight::Gone(mount) | DiskSight::Directory(mount) => gone_from(mount),
            DiskSight::File(file) => {
                let known = agreed.disk.as_ref();
                if let Some(read) = file.read {
                    let is_agreed = agreed.entry.target() == Some(read.hash)
                        && known.is_some_and(|known| known.stat.executable == file.stat.executable);
                    return if is_agreed {
                        let row = AgreedRow::read(agreed.entry.clone(), file, read);
                        Self::Agreed(Some(Box::new(row)).filter(|row| **row != *agreed))
                    } else {
                        Self::Changed(file, read)
                    };
                }
                let looks_same = |known: &OnDisk| {
                    known.is_settled
                        && (&known.mount, known.is_aside, known.stat)
                            == (&file.mount, file.is_aside, file.stat)
                };
                if known.is_some_and(looks_same) {
                    Self::Agreed(agreed.is_left_out().then(|| Box::new(agreed.left_out(false))))
                } else {
                    Self::Unread
                }
            }
        }
    }
}

fn with_row(sight: &PathSight<'_>, agreed: &AgreedRow) -> FolderAction {
    let StoreSight { entry, is_shown_here, is_agreed_kept, .. } = sight.store;
    let shown = Shown::of(sight.disk, agreed);
    if agreed.is_left_out() && loses_while_left_out(sight, agreed, &shown) {
        return FolderAction::Forget;
    }
    let needs_reading = match &shown {
        Shown::Elsewhere => return FolderAction::Nothing,
        Shown::Unread => true,
        // It makes way on the disk, and is nothing for the store.
        Shown::Changed(..) if sight.rules.mode == FolderMode::ReadOnly => false,
        // The store lost it, or was set back: nothing may happen to the file before it is there again.
        Shown::Agreed(_) | Shown::Changed(..) => agreed.disk.is_some() && !is_shown_here,
        Shown::Gone => false,
    };
    let shown = if needs_reading {
        match sight.disk {
            DiskSight::File(file @ SeenFile { read: Some(read), .. }) => {
                if sight.rules.mode != FolderMode::ReadOnly {
                    // The store did not keep what was read; nothing is concluded from a store that does not.
                    return FolderAction::Nothing;
                }
                // What a reader may not put into the store makes way like what it changed.
                Shown::Changed(file, *read)
            }
            DiskSight::File(_)
            | DiskSight::Unknown
            | DiskSight::Ignored
            | DiskSight::Foreign
            | DiskSight::Gone(_)
            | DiskSight::Directory(_) => return FolderAction::Read,
        }
    } else {
        shown
    };
    // The store has an older version, or none, or one of a peer's that never met ours: it was set back.
    let is_same = entry == Some(&agreed.entry);
    let is_set_back = entry.is_none_or(|entry| agreed.entry.supersedes(entry)) || !is_agreed_kept;
    if !is_same && is_set_back && sight.rules.mode != FolderMode::ReadOnly {
        return FolderAction::PutAgain(agreed.entry.clone());
    }
    let is_newer = entry.is_some_and(|entry| entry.supersedes(&agreed.entry));
    match shown {
        Shown::Agreed(Some(row)) => FolderAction::Agree(*row),
        Shown::Agreed(None) => {
            let action =
                if is_newer { toward_entry(sight, Some(agreed), false) } else { settled(sight, agreed) };
            let has_to_wait = matches!(action, FolderAction::Nothing | FolderAction::Fetch(_));
            // What lies below the path needs the name, also while this waits.
            let is_in_the_way = agreed.disk.as_ref().is_some_and(|disk| sight.has_children && !disk.is_aside);
            if has_to_wait && is_in_the_way {
                return FolderAction::StepAside(agreed.entry.path.aside(sight.folder));
            }
            action
        }
        Shown::Changed(file, read) => changed(sight, agreed, file, read),
        Shown::Gone if is_newer => toward_entry(sight, None, matches!(sight.disk, DiskSight::Directory(_))),
        Shown::Gone => FolderAction::Put(AgreedRow::removed(next_version(sight, Some(&agreed.entry), None))),
        Shown::Unread | Shown::Elsewhere => FolderAction::Nothing,
    }
}

/// Disk and store agree: what remains is the file's name and mode.
fn settled(sight: &PathSight<'_>, agreed: &AgreedRow) -> FolderAction {
    let (Some(disk), Some(file)) = (&agreed.disk, &agreed.entry.file) else { return FolderAction::Nothing };
    if disk.is_aside && !sight.has_children {
        return FolderAction::StepAside(agreed.entry.path.clone());
    }
    if disk.stat.executable != file.executable && sight.store.entry == Some(&agreed.entry) {
        return write(&agreed.entry, Some(agreed), disk.is_aside);
    }
    FolderAction::Nothing
}

/// The disk shows nothing, or what was agreed; the folder has something else.
fn toward_entry(sight: &PathSight<'_>, agreed: Option<&AgreedRow>, is_directory: bool) -> FolderAction {
    let Some(entry) = sight.store.entry else { return FolderAction::Nothing };
    let over = agreed.filter(|agreed| agreed.disk.is_some());
    let Some(file) = &entry.file else {
        return match over {
            None => FolderAction::Agree(AgreedRow::removed(entry.clone())),
            Some(_) if sight.rules.ignores_removals => FolderAction::Nothing,
            Some(over) => FolderAction::Remove { removal: entry.clone(), over: over.clone() },
        };
    };
    let disk = over.and_then(|over| over.disk.as_ref());
    if let (Some(over), Some(disk)) = (over, disk)
        && over.entry.target() == Some(file.target)
        && disk.stat.executable == file.executable
    {
        return FolderAction::Agree(AgreedRow { entry: entry.clone(), disk: Some(disk.clone()) });
    }
    if !sight.store.is_target_here {
        return FolderAction::Fetch(file.target);
    }
    let is_aside = disk.map_or(is_directory || sight.has_children, |disk| disk.is_aside);
    write(entry, over, is_aside)
}

pub(super) fn write(entry: &EntryRecord, over: Option<&AgreedRow>, is_aside: bool) -> FolderAction {
    FolderAction::Write { entry: entry.clone(), over: over.cloned(), is_aside }
}

/// Somebody edited the file, or put one where none was agreed.
fn changed(sight: &PathSight<'_>, agreed: &AgreedRow, file: &SeenFile, read: ReadFile) -> FolderAction {
    let StoreSight { entry, shown_before, .. } = sight.store;
    let is_shown =
        |version: &&EntryRecord| version.supersedes(&agreed.entry) && version.target() == Some(read.hash);
    // What we wrote before a crash, or what the disk had shown before `agent.db` was set back.
    if let Some(version) = entry.filter(is_shown).or_else(|| shown_before.filter(is_shown)) {
        return FolderAction::Agree(AgreedRow::read(version.clone(), file, read));
    }
    // The reader's change makes way on the disk once there is something to make way for.
    if sight.rules.mode == FolderMode::ReadOnly {
        let newer = entry.filter(|entry| entry.supersedes(&agreed.entry));
        return newer
            .and_then(EntryRecord::target)
            .map_or(FolderAction::Nothing, |target| make_way(sight, file, read, target));
    }
    let edit = next_version(sight, Some(&agreed.entry), Some((file, read)));
    FolderAction::Put(AgreedRow::read(edit, file, read))
}

/// A reader's file makes way for this content.
fn make_way(sight: &PathSight<'_>, file: &SeenFile, read: ReadFile, target: ContentHash) -> FolderAction {
    if !sight.store.is_target_here {
        return FolderAction::Fetch(target);
    }
    let at = Hlc::from_ms(file.described(read.hash).mtime_ms);
    FolderAction::StepAside(sight.path.conflict(&sight.author.by, at, &read.hash.0))
}

/// The same where nothing is written to the folder: what it never had at the path is not in the store.
fn readers_without_row(sight: &PathSight<'_>, file: &SeenFile, read: ReadFile) -> FolderAction {
    let StoreSight { entry, is_shown_here, .. } = sight.store;
    let shown_before = sight.store.shown_before.filter(|_| is_shown_here);
    let adopt = |version: &EntryRecord| FolderAction::Agree(AgreedRow::read(version.clone(), file, read));
    match entry.map(|entry| (entry, entry.target())) {
        Some((entry, Some(target))) if target == read.hash => {
            if is_shown_here {
                adopt(entry)
            } else {
                FolderAction::Fetch(target)
            }
        }
        Some((_, Some(target))) => shown_before.map_or_else(|| make_way(sight, file, read, target), adopt),
        Some((entry, None)) if is_shown_here && (entry.was == Some(read.hash) || shown_before.is_some()) => {
            FolderAction::Ask
        }
        Some((_, None)) | None => FolderAction::Nothing,
    }
}

/// A file of which nothing was agreed: the directory was bound just now, the file is new, or `agent.db` was lost.
fn without_row(sight: &PathSight<'_>, file: &SeenFile) -> FolderAction {
    let StoreSight { entry, shown_before, is_shown_here, .. } = sight.store;
    let Some(read) = file.read else { return FolderAction::Read };
    if sight.rules.mode == FolderMode::ReadOnly {
        return readers_without_row(sight, file, read);
    }
    if !is_shown_here {
        return FolderAction::Nothing;
    }
    let adopt = |version: &EntryRecord| FolderAction::Agree(AgreedRow::read(version.clone(), file, read));
    let Some(entry) = entry else {
        return FolderAction::Put(AgreedRow::read(next_version(sight, None, Some((file, read))), file, read));
    };
    if entry.target() == Some(read.hash) {
        return adopt(entry);
    }
    if entry.is_live() {
        // An older version of the same file makes way without a copy; any other content has its own.
        return shown_before.map_or_else(|| FolderAction::Put(own_version(sight, file, read)), adopt);
    }
    if entry.was == Some(read.hash) || shown_before.is_some() {
        return FolderAction::Ask;
    }
    keep_version(sight, entry, file, read)
}

pub(super) fn keep_version(
    sight: &PathSight<'_>,
    removal: &EntryRecord,
    file: &SeenFile,
    read: ReadFile,
) -> FolderAction {
    FolderAction::Put(AgreedRow::read(next_version(sight, Some(removal), Some((file, read))), file, read))
}

/// The version that is written here after `before`.
fn next_version(
    sight: &PathSight<'_>,
    before: Option<&EntryRecord>,
    file: Option<(&SeenFile, ReadFile)>,
) -> EntryRecord {
    let file = file.map(|(file, read)| file.described(read.hash));
    // Two versions of one writer are never of one instant, even if a crash made it forget the first.
    let own = sight.store.entry.filter(|entry| entry.writer == sight.author.writer);
    let floor = own.map_or(Hlc(0), |own| own.hlc);
    EntryRecord::after(before, (sight.folder, sight.path), file, sight.author, floor)
}

/// A version for a content that never met the entry, dated before that, so that the entry keeps the path and this one gets the copy.
/// Dated by the file, so that a crash does not make two.
pub(super) fn own_version(sight: &PathSight<'_>, file: &SeenFile, read: ReadFile) -> AgreedRow {
    let mut version = next_version(sight, None, Some((file, read)));
    if let Some(earlier) = sight.store.entry.and_then(|entry| entry.hlc.0.checked_sub(1)) {
        let written = Hlc::from_ms(file.described(read.hash).mtime_ms);
        version.hlc = Hlc::from_ms(sight.author.now_ms).min(written).min(Hlc(earlier));
    }
    AgreedRow::read(version, file, read)
}

/// What comes out of the plan where the folder goes one way.
fn within_mode(sight: &PathSight<'_>, action: FolderAction) -> FolderAction {
    let is_for_disk = matches!(
        action,
        FolderAction::Fetch(_)
            | FolderAction::Write { .. }
            | FolderAction::Remove { .. }
            | FolderAction::StepAside(_)
            | FolderAction::Ask
    );
    let is_for_folder = matches!(action, FolderAction::Put(_) | FolderAction::PutAgain(_));
    match sight.rules.mode {
        FolderMode::SendOnly if is_for_disk => FolderAction::Nothing,
        FolderMode::ReadOnly if is_for_folder => FolderAction::Nothing,
        FolderMode::Both | FolderMode::SendOnly | FolderMode::ReadOnly => action,
    }
}

#[cfg(test)]
mod tests;
