use super::super::CameOut;
use super::super::{FileStat, FolderRules, keep, revert, salvage, trash};
use super::*;
use crate::entry::{EntryAuthor, EntryFile, FolderId};
use crate::record::WriterId;

mod left_out;

const FOLDER: FolderId = FolderId([7; 32]);
const NOW_MS: u64 = 1_000_000;
const OLD_MS: u64 = 500_000;

/// What is known of the path `d`, to be changed by each test.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each says one thing that is known")]
struct KnownPath {
    disk: DiskSight,
    agreed: Option<AgreedRow>,
    entry: Option<EntryRecord>,
    before: Option<EntryRecord>,
    is_target_here: bool,
    is_shown_here: bool,
    is_agreed_kept: bool,
    has_children: bool,
    rules: FolderRules,
}

fn path() -> EntryPath {
    EntryPath::parse("d").unwrap()
}

fn hash(content: u8) -> ContentHash {
    ContentHash([content; 32])
}

/// The version of machine `writer` after `before`; content 0 is empty.
fn version(before: Option<&EntryRecord>, writer: u8, now_ms: u64, content: Option<u8>) -> EntryRecord {
    let author = EntryAuthor { writer: WriterId([writer; 32]), by: format!("m{writer}"), now_ms };
    let file = content.map(|content| EntryFile {
        target: hash(content),
        size: u64::from(content),
        mtime_ms: OLD_MS,
        executable: false,
    });
    EntryRecord::after(before, (FOLDER, &path()), file, &author, Hlc(0))
}

fn stat(size: u64) -> FileStat {
    FileStat { size, mtime_ns: 500_000_000_000, ctime_ns: 0, inode: 5, executable: false }
}

fn file(content: u8, is_read: bool) -> DiskSight {
    let read = is_read.then(|| ReadFile { hash: hash(content), at_ms: NOW_MS });
    DiskSight::File(SeenFile {
        stat: stat(u64::from(content)),
        mount: MountPoint::new(),
        is_aside: false,
        read,
    })
}

fn row(entry: &EntryRecord) -> AgreedRow {
    let disk = entry.file.as_ref().map(|file| OnDisk {
        stat: stat(file.size),
        mount: MountPoint::new(),
        is_aside: false,
        is_settled: true,
        is_left_out: false,
    });
    AgreedRow { entry: entry.clone(), disk }
}

impl KnownPath {
    /// Disk, row and store agree on `entry`.
    fn agreed(entry: &EntryRecord) -> Self {
        let content = entry.file.as_ref().map(|file| u8::try_from(file.size).unwrap());
        Self {
            disk: content.map_or(DiskSight::Gone(MountPoint::new()), |content| file(content, false)),
            agreed: Some(row(entry)),
            entry: Some(entry.clone()),
            before: None,
            is_target_here: true,
            is_shown_here: true,
            is_agreed_kept: true,
            has_children: false,
            rules: FolderRules::default(),
        }
    }

    fn with<T>(&self, then: impl FnOnce(&PathSight<'_>) -> T) -> T {
        let author = EntryAuthor { writer: WriterId([9; 32]), by: "m9".to_owned(), now_ms: NOW_MS };
        let store = StoreSight {
            entry: self.entry.as_ref(),
            is_target_here: self.is_target_here,
            is_shown_here: self.is_shown_here,
            is_agreed_kept: self.is_agreed_kept,
            shown_before: self.before.as_ref(),
        };
        then(&PathSight {
            folder: FOLDER,
            path: &path(),
            disk: &self.disk,
            agreed: self.agreed.as_ref(),
            store,
            has_children: self.has_children,
            rules: self.rules,
            author: &author,
        })
    }

    fn plan(&self) -> FolderAction {
        self.with(plan)
    }
}

/// The version that is put.
fn put(action: FolderAction) -> EntryRecord {
    let FolderAction::Put(row) = action else { panic!("{action:?} puts nothing") };
    row.entry
}

fn one() -> EntryRecord {
    version(None, 1, OLD_MS, Some(1))
}

#[test]
fn where_all_agree_nothing_is_done() {
    for entry in [one(), version(Some(&one()), 2, NOW_MS, None)] {
        assert_eq!(KnownPath::agreed(&entry).plan(), FolderAction::Nothing);
    }
    // Lost by the store: taken from the disk again.
    let lost = KnownPath { is_shown_here: false, ..KnownPath::agreed(&one()) };
    assert_eq!(lost.plan(), FolderAction::Read);
    assert_eq!(KnownPath { disk: file(1, true), ..lost }.plan(), FolderAction::Nothing);
}

#[test]
fn a_newer_version_is_written_once_its_content_is_here() {
    let newer = version(Some(&one()), 2, NOW_MS, Some(2));
    let known = KnownPath { entry: Some(newer.clone()), ..KnownPath::agreed(&one()) };
    let write = FolderAction::Write { entry: newer.clone(), over: Some(row(&one())), is_aside: false };
    assert_eq!(known.plan(), write);
    assert_eq!(
        KnownPath { is_target_here: false, ..known.clone() }.plan(),
        FolderAction::Fetch(hash(2)),
        "what is not here is waited for"
    );
    assert_eq!(
        KnownPath { is_shown_here: false, ..known.clone() }.plan(),
        FolderAction::Read,
        "what the disk has comes first"
    );
    assert_eq!(
        KnownPath { is_agreed_kept: false, ..known.clone() }.plan(),
        FolderAction::PutAgain(one()),
        "and the version that named it"
    );
    // The same content again.
    let again = version(Some(&newer), 3, NOW_MS, Some(1));
    let row = AgreedRow { entry: again.clone(), ..row(&one()) };
    assert_eq!(KnownPath { entry: Some(again), ..known }.plan(), FolderAction::Agree(row));
}

#[test]
fn a_newer_removal_takes_the_file_away_unless_removals_are_ignored() {
    let removal = version(Some(&one()), 2, NOW_MS, None);
    let known = KnownPath { entry: Some(removal.clone()), ..KnownPath::agreed(&one()) };
    assert_eq!(known.plan(), FolderAction::Remove { removal: removal.clone(), over: row(&one()) });
    assert_eq!(known.plan().loses(known.agreed.as_ref()), Some(hash(1)));
    let rules = FolderRules { ignores_removals: true, ..FolderRules::default() };
    assert_eq!(KnownPath { rules, ..known.clone() }.plan(), FolderAction::Nothing);
    let gone = KnownPath { disk: DiskSight::Gone(MountPoint::new()), ..known };
    assert_eq!(gone.plan(), FolderAction::Agree(AgreedRow::removed(removal)));
}

#[test]
fn a_store_that_was_set_back_learns_again_what_was_agreed() {
    let newer = version(Some(&one()), 2, NOW_MS, Some(2));
    for entry in [None, Some(one())] {
        let known = KnownPath { entry, is_agreed_kept: false, ..KnownPath::agreed(&newer) };
        assert_eq!(known.plan(), FolderAction::PutAgain(newer.clone()));
        // From the disk first, if its content is gone, too.
        assert_eq!(KnownPath { is_shown_here: false, ..known.clone() }.plan(), FolderAction::Read);
        // Also where the file changed or went since: the next version follows what was agreed.
        for disk in [file(3, true), DiskSight::Gone(MountPoint::new())] {
            assert_eq!(KnownPath { disk, ..known.clone() }.plan(), FolderAction::PutAgain(newer.clone()));
        }
    }
    // And a removal does not come undone.
    let removal = version(Some(&one()), 2, NOW_MS, None);
    let known = KnownPath { entry: Some(one()), is_agreed_kept: false, ..KnownPath::agreed(&removal) };
    assert_eq!(known.plan(), FolderAction::PutAgain(removal));
}

#[test]
fn an_edit_saw_what_was_agreed_and_nothing_that_came_since() {
    let newer = version(Some(&one()), 2, NOW_MS, Some(2));
    for entry in [one(), newer.clone(), version(Some(&one()), 2, NOW_MS, None)] {
        let known = KnownPath { entry: Some(entry), disk: file(3, false), ..KnownPath::agreed(&one()) };
        assert_eq!(known.plan(), FolderAction::Read);
        let edit = put(KnownPath { disk: file(3, true), ..known }.plan());
        assert!(edit.descends_from(&one()) && !edit.descends_from(&newer));
        assert_eq!((edit.target(), edit.was, edit.validate()), (Some(hash(3)), Some(hash(1)), Ok(())));
    }
    // Touched alone: a row, no entry.
    let touched = SeenFile {
        stat: FileStat { mtime_ns: 6, ..stat(1) },
        mount: MountPoint::new(),
        is_aside: false,
        read: Some(ReadFile { hash: hash(1), at_ms: NOW_MS }),
    };
    let known = KnownPath { disk: DiskSight::File(touched.clone()), ..KnownPath::agreed(&one()) };
    let row = AgreedRow::read(one(), &touched, touched.read.unwrap());
    assert_eq!(known.plan(), FolderAction::Agree(row));
}

#[test]
fn a_disk_that_shows_a_later_version_is_taken_at_its_word() {
    // A crash between rename and row; the second time, something newer has come meanwhile.
    let (newer, newest) = {
        let newer = version(Some(&one()), 2, NOW_MS, Some(2));
        (newer.clone(), version(Some(&newer), 3, NOW_MS, Some(3)))
    };
    let known = KnownPath { disk: file(2, true), entry: Some(newer.clone()), ..KnownPath::agreed(&one()) };
    let agree = FolderAction::Agree(row(&newer));
    assert_eq!(known.plan(), agree);
    let late = KnownPath { entry: Some(newest), before: Some(newer), ..known.clone() };
    assert_eq!(late.plan(), agree);
    assert_eq!(KnownPath { agreed: None, ..late }.plan(), agree, "also without a row");
    // What somebody put back by hand is an edit.
    let later = version(Some(&one()), 2, NOW_MS, Some(2));
    let back = KnownPath { disk: file(1, true), before: Some(one()), ..KnownPath::agreed(&later) };
    assert_eq!(put(back.plan()).target(), Some(hash(1)));
}

#[test]
fn what_is_gone_is_removed_unless_somebody_edited_it() {
    let gone = KnownPath { disk: DiskSight::Gone(MountPoint::new()), ..KnownPath::agreed(&one()) };
    let removal = put(gone.plan());
    assert!(!removal.is_live() && removal.descends_from(&one()) && removal.was == Some(hash(1)));
    assert_eq!(gone.plan().loses(gone.agreed.as_ref()), Some(hash(1)));
    let newer = version(Some(&one()), 2, NOW_MS, Some(2));
    let write = FolderAction::Write { entry: newer.clone(), over: None, is_aside: false };
    assert_eq!(KnownPath { entry: Some(newer), ..gone.clone() }.plan(), write);
    // Not from where it was: its file system is not mounted.
    let elsewhere = DiskSight::Gone("usb".to_owned());
    assert_eq!(KnownPath { disk: elsewhere, ..gone.clone() }.plan(), FolderAction::Nothing);
    for disk in [DiskSight::Unknown, DiskSight::Foreign] {
        assert_eq!(KnownPath { disk, ..gone.clone() }.plan(), FolderAction::Nothing);
    }
}

#[test]
fn a_file_that_nothing_is_known_of_is_added_adopted_copied_or_asked_about() {
    let fresh = KnownPath { agreed: None, ..KnownPath::agreed(&one()) };
    assert_eq!(fresh.plan(), FolderAction::Read);
    let read = |content: u8, entry: Option<EntryRecord>| KnownPath {
        disk: file(content, true),
        entry,
        ..fresh.clone()
    };
    assert_eq!(read(1, Some(one())).plan(), FolderAction::Agree(row(&one())));
    assert!(put(read(1, None).plan()).seen.is_empty());
    // The entry keeps the path, whenever the file was written.
    let ours = put(read(2, Some(one())).plan());
    assert!(one().supersedes(&ours) && !one().descends_from(&ours));
    assert!(crate::entry::merge_entries(Some(&one()), ours.clone()).copy.is_some());
    assert_eq!(put(read(2, Some(one())).plan()), ours, "a crash makes no second one");
    let removal = version(Some(&one()), 2, NOW_MS, None);
    let asked = read(1, Some(removal.clone()));
    assert_eq!(asked.plan(), FolderAction::Ask);
    let kept = put(asked.with(keep).unwrap());
    assert!(kept.descends_from(&removal) && kept.target() == Some(hash(1)));
    assert!(matches!(asked.with(trash), Some(FolderAction::Remove { .. })));
    let other = read(2, Some(removal.clone()));
    assert!(put(other.plan()).descends_from(&removal) && other.with(keep).is_none());
    // With the row of the removal the same content is the user's.
    let again = KnownPath { disk: file(1, true), ..KnownPath::agreed(&removal) };
    assert!(put(again.plan()).descends_from(&removal));
}

#[test]
fn a_file_makes_way_for_a_directory_of_its_name() {
    let aside = path().aside(FOLDER);
    let waiting = version(Some(&one()), 2, NOW_MS, Some(2));
    let known = KnownPath { has_children: true, ..KnownPath::agreed(&one()) };
    assert_eq!(known.plan(), FolderAction::StepAside(aside.clone()));
    let known = KnownPath { entry: Some(waiting), is_target_here: false, ..known };
    assert_eq!(known.plan(), FolderAction::StepAside(aside));
    let directory = DiskSight::Directory(MountPoint::new());
    let new = KnownPath { disk: directory, agreed: None, ..KnownPath::agreed(&one()) };
    assert_eq!(new.plan(), FolderAction::Write { entry: one(), over: None, is_aside: true });
    // And has its name again when that is free.
    let mut known = KnownPath::agreed(&one());
    if let (DiskSight::File(file), Some(AgreedRow { disk: Some(disk), .. })) =
        (&mut known.disk, &mut known.agreed)
    {
        (file.is_aside, disk.is_aside) = (true, true);
    }
    assert_eq!(known.plan(), FolderAction::StepAside(path()));
}

#[test]
fn a_folder_that_goes_one_way_does_nothing_in_the_other() {
    let mode = |mode| FolderRules { mode, ..FolderRules::default() };
    let newer = version(Some(&one()), 2, NOW_MS, Some(2));
    let known = KnownPath { entry: Some(newer), ..KnownPath::agreed(&one()) };
    assert_eq!(
        KnownPath { rules: mode(FolderMode::SendOnly), ..known.clone() }.plan(),
        FolderAction::Nothing
    );
    let reader = KnownPath { rules: mode(FolderMode::ReadOnly), is_agreed_kept: false, ..known };
    assert!(matches!(reader.plan(), FolderAction::Write { .. }), "a reader's store need not have written it");
    let changed = KnownPath { disk: file(3, true), ..reader.clone() };
    assert!(matches!(changed.plan(), FolderAction::StepAside(_)), "a reader's change makes way");
    let changed = KnownPath { entry: Some(one()), ..changed };
    assert_eq!(changed.plan(), FolderAction::Nothing, "and stays as long as nothing comes");
    let gone = KnownPath { disk: DiskSight::Gone(MountPoint::new()), entry: Some(one()), ..reader };
    assert_eq!(gone.plan(), FolderAction::Nothing);
}

#[test]
fn what_a_reader_has_of_its_own_needs_no_store_and_makes_way() {
    let rules = FolderRules { mode: FolderMode::ReadOnly, ..FolderRules::default() };
    let newer = version(Some(&one()), 2, NOW_MS, Some(2));
    let own = KnownPath { disk: file(3, true), is_shown_here: false, rules, ..KnownPath::agreed(&one()) };
    assert_eq!(own.plan(), FolderAction::Nothing);
    let changed = KnownPath { entry: Some(newer.clone()), ..own.clone() };
    assert!(matches!(changed.plan(), FolderAction::StepAside(_)));
    let missing = KnownPath { is_target_here: false, ..changed };
    assert_eq!(missing.plan(), FolderAction::Fetch(hash(2)));
    // What was there before the directory was bound.
    let found = KnownPath { agreed: None, ..own };
    assert!(matches!(found.plan(), FolderAction::StepAside(_)));
    assert_eq!(KnownPath { entry: None, ..found.clone() }.plan(), FolderAction::Nothing);
    let same = KnownPath { disk: file(1, true), is_shown_here: true, ..found };
    assert!(matches!(same.plan(), FolderAction::Agree(row) if row.entry == one()));
}

#[test]
fn what_a_row_says_of_a_written_file_is_what_was_written() {
    let at_ns = 999_999_000_000;
    let saved = FileStat { size: 8, mtime_ns: at_ns, ctime_ns: at_ns, inode: 5, executable: false };
    let row = AgreedRow::written(one(), stat(1), saved, (MountPoint::new(), false), NOW_MS);
    let disk = row.disk.clone().unwrap();
    assert_eq!(disk.stat, FileStat { ctime_ns: at_ns, ..stat(1) });
    assert!(disk.is_settled && !saved.is_settled(1_000_500) && saved.is_settled(1_001_999));
    for (out, hash_of, found) in [
        (stat(1), None, CameOut::Agreed),
        (FileStat { ctime_ns: 77, ..stat(1) }, None, CameOut::Agreed),
        (saved, None, CameOut::NeedsHash),
        (saved, Some(hash(8)), CameOut::Changed),
        (saved, Some(hash(1)), CameOut::Agreed),
    ] {
        assert_eq!(row.came_out(out, hash_of), found);
    }
}

#[test]
fn what_is_held_can_be_undone() {
    let gone = KnownPath { disk: DiskSight::Gone(MountPoint::new()), ..KnownPath::agreed(&one()) };
    assert_eq!(gone.with(revert), FolderAction::Forget, "the next look writes it again");
    let rules = FolderRules { mode: FolderMode::SendOnly, ..FolderRules::default() };
    let sender = KnownPath { rules, ..gone };
    assert!(matches!(sender.with(revert), FolderAction::Write { .. }), "no look writes anything");
    let removal = version(Some(&one()), 2, NOW_MS, None);
    let received = KnownPath { entry: Some(removal.clone()), ..KnownPath::agreed(&one()) };
    let again = put(received.with(revert));
    assert!(again.descends_from(&removal) && again.target() == Some(hash(1)));
    // Emptied here: what was agreed is written over it.
    let emptied = KnownPath { disk: file(0, true), ..KnownPath::agreed(&one()) };
    assert_eq!(emptied.plan().loses(emptied.agreed.as_ref()), Some(hash(1)));
    assert!(
        matches!(emptied.with(revert), FolderAction::Write { entry, over: Some(_), .. } if entry == one())
    );
    let missing = KnownPath { is_target_here: false, ..emptied };
    assert_eq!(missing.with(revert), FolderAction::Nothing, "it does not lose what it is to bring back");
}

#[test]
fn what_was_taken_out_by_mistake_loses_to_the_entry_and_has_a_copy() {
    let known = KnownPath::agreed(&one());
    let DiskSight::File(seen) = file(4, true) else { return };
    let version = known.with(|sight| salvage(sight, &seen, seen.read.unwrap()));
    let merged = crate::entry::merge_entries(Some(&one()), version);
    assert_eq!((merged.winner, merged.copy.and_then(|copy| copy.target())), (one(), Some(hash(4))));
}

#[test]
fn additions_go_before_removals() {
    let removal = version(Some(&one()), 2, NOW_MS, None);
    let actions = [
        FolderAction::PutAgain(one()),
        FolderAction::Read,
        FolderAction::Put(row(&one())),
        FolderAction::Write { entry: one(), over: None, is_aside: false },
        FolderAction::Put(row(&removal)),
        FolderAction::Remove { removal, over: row(&one()) },
    ];
    assert!(actions.is_sorted_by(|a, b| a.phase() < b.phase()));
}
