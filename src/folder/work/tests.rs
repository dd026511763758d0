use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::clock::Clock;
use crate::discovery::address_book::AddressBook;
use crate::entry::{EntryFile, FolderId, FolderRecord};
use crate::events::EventLog;
use crate::folder::FolderAction;
use crate::folder::files::{FolderMarker, Forbidden};
use crate::folder::rows::{FolderRows, FolderSettings};
use crate::identity::LibraryKeys;
use crate::library::{Libraries, Library};
use crate::record::Hlc;
use crate::store::ContentStore as _;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore, IngestFields};

mod braking;
mod left_out;
mod renaming;
mod sharing;
mod writing;

const MARKER: FolderMarker = FolderMarker { folder: FolderId([7; 32]), binding: [8; 16] };

/// A machine with a store and a bound directory, whose looks are the test's own.
struct Desk {
    runtime: Runtime,
    home: TempDir,
    store: EmbeddedStore,
    work: FolderWork,
}

impl Desk {
    fn new() -> Self {
        let (runtime, home) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| home.path().join(name);
        for name in ["folder", "copies", "data"] {
            fs::create_dir(at(name)).unwrap();
        }
        let config = EmbeddedConfig { dir: at("data/store"), disk_reserve_bytes: 0, clock: Clock::system() };
        let store = runtime.block_on(EmbeddedStore::open(config)).unwrap();
        drop(AddressBook::open(&at("data/agent.db")).unwrap());
        let rows = FolderRows::open(&at("data/agent.db")).unwrap();
        let path = at("folder").canonicalize().unwrap();
        let binding = FolderBinding { marker: MARKER, path, settings: FolderSettings::default() };
        let forbidden = Forbidden { data_dir: at("data"), home: None };
        rows.bind(&binding, false).unwrap();
        FolderDir::bind(&binding.path, MARKER, &forbidden).unwrap();
        let context = FolderContext {
            store: Arc::new(store.clone()),
            rows,
            name: "desk".into(),
            clock: Clock::system(),
            events: EventLog::default(),
            temporary: at("copies"),
            forbidden: Arc::new(forbidden),
            is_store_here: true,
            endpoint_id: [1; 32],
            network: [0; 32],
            reserve_bytes: 0,
            full_scan_interval: Duration::from_mins(10),
            busy: FolderLocks::default(),
            libraries: Arc::new(Libraries::of(Arc::new(Library::new(LibraryKeys::of_read_secret(&[0; 32]))))),
        };
        let work = FolderWork::new(context, binding, runtime.handle().clone());
        Self { runtime, home, store, work }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join("folder").join(name)
    }

    fn look(&mut self) -> Result<(), WorkError> {
        self.work.look(&LookScope { is_full: true, ..LookScope::default() })
    }

    /// Looks at what a watcher tells of.
    fn look_at(&mut self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.work.look(&LookScope { names, ..LookScope::default() }).unwrap();
    }

    /// Another machine removes these.
    fn remove_elsewhere(&self, names: &[String]) {
        let mut removals = Vec::new();
        for name in names {
            let path = EntryPath::parse(name).unwrap();
            let found = self.store.entries_named(vec![EntryHash::of(MARKER.folder, &path)]);
            let found = self.runtime.block_on(found).unwrap();
            let [FolderRecord::Entry(before)] = found.as_slice() else { panic!("{found:?}") };
            let author = EntryAuthor { writer: WriterId([9; 32]), by: "other".into(), now_ms: 2_000 };
            let removal = EntryRecord::after(Some(before), (MARKER.folder, &path), None, &author, before.hlc);
            removals.push(FolderRecord::Entry(removal));
        }
        self.runtime.block_on(self.store.take_entries(removals, None)).unwrap();
    }

    /// What another machine put.
    fn receive(&self, name: &str, content: &[u8]) {
        let path = EntryPath::parse(name).unwrap();
        let stored = self.runtime.block_on(async {
            let mut upload = self.store.begin_upload();
            upload.write(Bytes::copy_from_slice(content)).await.unwrap();
            upload.finish(IngestFields::default()).await.unwrap();
            let target = crate::record::ContentHash(<sha2::Sha256 as sha2::Digest>::digest(content).into());
            let file = EntryFile { target, size: content.len() as u64, mtime_ms: 1_000, executable: false };
            let author = EntryAuthor { writer: WriterId([9; 32]), by: "other".into(), now_ms: 1_000 };
            let entry = EntryRecord::after(None, (MARKER.folder, &path), Some(file), &author, Hlc::default());
            self.store.take_entries(vec![FolderRecord::Entry(entry)], None).await
        });
        stored.unwrap();
    }
}

#[test]
fn what_came_back_before_its_removal_was_written_is_not_removed() {
    let mut desk = Desk::new();
    fs::write(desk.file("a.txt"), "a").unwrap();
    fs::write(desk.file("b.txt"), "b").unwrap();
    desk.look().unwrap();
    assert_eq!(desk.work.live_entries(), 2);
    // The look sees neither; one of them is back by the time that something is done about it.
    for name in ["a.txt", "b.txt"] {
        fs::rename(desk.file(name), desk.home.path().join(name)).unwrap();
    }
    let todo = desk.work.observe_all().unwrap();
    let actions = desk.work.planned(&todo).unwrap();
    assert_eq!(actions.len(), 2);
    fs::rename(desk.home.path().join("a.txt"), desk.file("a.txt")).unwrap();
    let again = desk.work.perform(actions).unwrap();
    assert_eq!((again.len(), desk.work.live_entries()), (2, 1));
    desk.look().unwrap();
    assert_eq!(desk.work.live_entries(), 1);
    assert!(desk.file("a.txt").exists());
}

#[test]
fn a_large_content_is_written_without_a_copy_beside_the_folder() {
    let mut desk = Desk::new();
    desk.receive("big.txt", &vec![b'x'; 100_000]);
    fs::remove_dir(desk.home.path().join("copies")).unwrap();
    desk.look().unwrap();
    assert_eq!(fs::read(desk.file("big.txt")).unwrap().len(), 100_000);
    assert_eq!((desk.work.failures().len(), desk.work.next_turn()), (0, None));
}

#[test]
fn a_file_that_cannot_be_written_keeps_no_other_from_the_disk() {
    let mut desk = Desk::new();
    // People, and other machines, take it for the same name.
    fs::write(desk.file("BIG.txt"), "mine").unwrap();
    desk.look().unwrap();
    desk.receive("big.txt", &vec![b'x'; 100_000]);
    desk.receive("small.txt", b"small");
    desk.look().unwrap();
    assert_eq!(fs::read(desk.file("small.txt")).unwrap(), b"small");
    let failures = desk.work.failures();
    assert!(failures.len() == 1 && failures[0].contains("big.txt"), "{failures:?}");
    assert!(desk.work.next_turn().is_some());
    // Somebody makes it good, and asks for a look.
    fs::remove_file(desk.file("BIG.txt")).unwrap();
    desk.work.try_all_again();
    desk.look().unwrap();
    assert_eq!(fs::read(desk.file("big.txt")).unwrap().len(), 100_000);
    assert_eq!((desk.work.failures().len(), desk.work.next_turn()), (0, None));
}

#[test]
fn a_folder_that_was_paused_stays_so_whoever_is_started_for_it() {
    let mut desk = Desk::new();
    fs::write(desk.file("a.txt"), "a").unwrap();
    let rows = desk.work.context.rows.clone();
    rows.change_settings(MARKER, |settings| settings.paused = true).unwrap();
    desk.look().unwrap();
    assert_eq!(desk.work.live_entries(), 0);
    let said = desk.work.obey(&answering::FolderCommand::Confirm).unwrap();
    assert!(said.unwrap_err().contains("paused"));
    desk.work.obey(&answering::FolderCommand::Resume).unwrap().unwrap();
    desk.look().unwrap();
    assert_eq!(desk.work.live_entries(), 1);
}

#[test]
fn what_a_reader_has_of_its_own_is_named_and_not_in_the_store() {
    let mut desk = Desk::new();
    desk.receive("a.txt", b"one");
    let marker = desk.work.binding.marker;
    let rows = desk.work.context.rows.clone();
    rows.change_settings(marker, |settings| settings.read_only = true).unwrap();
    desk.look().unwrap();
    fs::write(desk.file("a.txt"), "mine").unwrap();
    let todo = desk.work.observe_all().unwrap();
    assert_eq!(desk.work.planned(&todo).unwrap().into_iter().next().unwrap().1, FolderAction::Read);
    desk.look().unwrap();
    // Nothing of it is in the store.
    let mine = crate::record::ContentHash(<sha2::Sha256 as sha2::Digest>::digest(b"mine").into());
    assert!(desk.work.are_here([mine]).unwrap().is_empty());
    assert_eq!(desk.work.kept_here().map(|one| one.path).collect::<Vec<_>>(), ["a.txt"]);
    assert_eq!(fs::read(desk.file("a.txt")).unwrap(), b"mine");
}

#[test]
fn a_file_that_stands_aside_does_so_without_complaint_and_is_edited_there() {
    let mut desk = Desk::new();
    fs::write(desk.file("name"), "a file").unwrap();
    desk.look().unwrap();
    desk.receive("name/below.txt", b"below");
    let aside = EntryPath::parse("name").unwrap().aside(MARKER.folder);
    for content in ["a file", "edited", "edited again"] {
        if content != "a file" {
            fs::write(desk.file(aside.as_str()), content).unwrap();
        }
        for _ in 0..2 {
            desk.look().unwrap();
            assert_eq!(fs::read_to_string(desk.file(aside.as_str())).unwrap(), content);
            assert_eq!(fs::read_to_string(desk.file("name/below.txt")).unwrap(), "below");
            assert_eq!((desk.work.failures(), desk.work.next_turn()), (Vec::new(), None));
            assert_eq!(desk.work.live_entries(), 2);
        }
    }
    fs::remove_dir_all(desk.file("name")).unwrap();
    desk.look().unwrap();
    assert_eq!(fs::read_to_string(desk.file("name")).unwrap(), "edited again");
}

#[test]
fn the_whole_trash_is_looked_at_and_then_left_alone_for_a_day() {
    let mut desk = Desk::new();
    desk.receive("a.txt", b"kept in the store");
    let trash = desk.file(".can-sync-trash");
    fs::create_dir(&trash).unwrap();
    let name = |n: u128| trash.join(format!("{n:013}-{n:032x}-old.txt"));
    // More than one look at it takes, and none of them in the store but the last.
    for n in 1..=1_001 {
        fs::write(name(n), n.to_string()).unwrap();
    }
    fs::write(name(1_002), "kept in the store").unwrap();
    let count = || fs::read_dir(&trash).unwrap().count();
    desk.look().unwrap();
    assert_eq!(count(), 1_002);
    desk.look().unwrap();
    assert_eq!((count(), name(1_002).exists()), (1_001, false));
    // The round is over.
    fs::write(name(1_002), "kept in the store").unwrap();
    desk.look().unwrap();
    assert_eq!(count(), 1_002);
    desk.work.purged_ms = desk.work.purged_ms.map(|ms| ms - 24 * 3600 * 1000);
    desk.look().unwrap();
    desk.look().unwrap();
    assert_eq!(count(), 1_001);
}
