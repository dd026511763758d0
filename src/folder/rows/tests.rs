use super::*;
use crate::discovery::address_book::AddressBook;
use crate::entry::{EntryAuthor, EntryFile, EntryPath, EntryRecord};
use crate::folder::files::{FolderJournal as _, NoteStep, OwnPath};
use crate::folder::{FileStat, OnDisk, PathLoss};
use crate::record::{ContentHash, Hlc};

const FOLDER: FolderId = FolderId([7; 32]);

fn rows() -> (tempfile::TempDir, FolderRows) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    drop(AddressBook::open(&path).unwrap());
    (dir, FolderRows::open(&path).unwrap())
}

fn binding(number: u8) -> FolderBinding {
    FolderBinding {
        marker: FolderMarker { folder: FOLDER, binding: [number; 16] },
        path: format!("/home/{number}").into(),
        settings: FolderSettings::default(),
    }
}

fn agreed(path: &str) -> AgreedRow {
    let author = EntryAuthor { writer: WriterId([1; 32]), by: "desk".into(), now_ms: 1_000 };
    let file = EntryFile { target: ContentHash([3; 32]), size: 3, mtime_ms: 1, executable: false };
    let path = EntryPath::parse(path).unwrap();
    let entry = EntryRecord::after(None, (FOLDER, &path), Some(file), &author, Hlc::default());
    let stat = FileStat { size: 3, ..FileStat::default() };
    AgreedRow {
        entry,
        disk: Some(OnDisk {
            stat,
            mount: String::new(),
            is_aside: false,
            is_settled: true,
            is_left_out: false,
        }),
    }
}

#[test]
fn what_was_agreed_with_one_directory_never_counts_for_another() {
    let (_dir, rows) = rows();
    let (one, other) = (binding(1), binding(2));
    rows.bind(&one, false).unwrap();
    let row = agreed("a.txt");
    rows.change(one.marker, &[RowChange::Agree(row.clone())]).unwrap();
    // The same directory goes on from it; another one does not.
    rows.bind(&one, true).unwrap();
    assert_eq!(rows.rows(FOLDER).unwrap().into_values().collect::<Vec<_>>(), std::slice::from_ref(&row));
    rows.bind(&other, false).unwrap();
    assert!(rows.rows(FOLDER).unwrap().is_empty());
    // A look that was under way in the first writes nothing any more.
    assert!(rows.change(one.marker, &[RowChange::Agree(row.clone())]).is_err());
    assert!(rows.save_brake(one.marker, &FolderBrake::default()).is_err());
    assert_eq!(rows.change_settings(one.marker, |settings| settings.removed = true).unwrap(), None);
    assert!(rows.rows(FOLDER).unwrap().is_empty());
    assert!(!rows.settings(other.marker).unwrap().unwrap().removed);
    let (earlier, later) = (rows.bindings().unwrap(), rows.bindings().unwrap());
    assert!(earlier.at < later.at && earlier.all == later.all && earlier.all == [other]);
}

#[test]
fn to_pause_a_folder_does_not_bring_back_one_that_was_removed() {
    let (_dir, rows) = rows();
    let one = binding(1);
    rows.bind(&one, false).unwrap();
    rows.change_settings(one.marker, |settings| settings.removed = true).unwrap();
    let settings = rows.change_settings(one.marker, |settings| settings.paused = true).unwrap().unwrap();
    assert!(settings.removed && settings.paused);
    assert_eq!(rows.settings(one.marker).unwrap(), Some(settings));
}

#[test]
fn a_row_that_cannot_be_read_counts_as_none() {
    let (_dir, rows) = rows();
    let one = binding(1);
    rows.bind(&one, false).unwrap();
    let kept = agreed("kept.txt");
    let changes = [RowChange::Agree(agreed("broken.txt")), RowChange::Agree(kept.clone())];
    rows.change(one.marker, &changes).unwrap();
    rows.with("break a row", |connection| {
        let broken = agreed("broken.txt").entry.hash().0;
        connection.execute("UPDATE folder_rows SET record = x'ff' WHERE entry = ?1", [broken])?;
        Ok(())
    })
    .unwrap();
    assert_eq!(rows.rows(FOLDER).unwrap().into_values().collect::<Vec<_>>(), [kept]);
}

#[test]
fn a_brake_is_after_a_restart_what_it_was_before() {
    let (dir, rows) = rows();
    let one = binding(1);
    rows.bind(&one, false).unwrap();
    let losses: Vec<PathLoss> =
        (0..70).map(|n| PathLoss { entry: EntryHash([n; 32]), content: ContentHash([n; 32]) }).collect();
    let mut brake = FolderBrake::default();
    // Some pass, some are held, some are meant, and one has passed of those that may.
    assert_eq!(brake.judge(&losses[..10], 100, 1_000, |_| 1).len(), 10);
    assert_eq!(brake.judge(&losses[10..40], 90, 2_000, |_| 1).len(), 0);
    brake.confirm();
    assert_eq!(brake.judge(&losses[10..11], 90, 3_000, |_| 1).len(), 1);
    assert_eq!(brake.judge(&losses[40..], 90, 4_000, |_| 1).len(), 0);
    rows.save_brake(one.marker, &brake).unwrap();
    drop(rows);
    let rows = FolderRows::open(&dir.path().join("agent.db")).unwrap();
    let mut again = rows.brake(FOLDER).unwrap();
    assert_eq!(again, brake);
    assert_eq!(again.held.len(), 30);
    // It goes on as if nothing had happened.
    for (from, to) in [(10, 40), (40, 70), (0, 10)] {
        let ask = |brake: &mut FolderBrake| brake.judge(&losses[from..to], 90, 5_000, |_| 1);
        assert_eq!(ask(&mut again), ask(&mut brake));
        assert_eq!(again, brake);
    }
}

#[test]
fn a_note_that_cannot_be_read_hides_no_other() {
    let (_dir, rows) = rows();
    let one = binding(1);
    rows.bind(&one, false).unwrap();
    let note = |id: u8| JournalNote {
        id: NoteId([id; 16]),
        step: NoteStep::Remove,
        entry: agreed("a.txt").entry,
        over: Some(agreed("a.txt")),
        name: EntryPath::parse("a.txt").unwrap(),
        temporary: None,
        trash: OwnPath::parse(".can-sync-trash/x").unwrap(),
        at_ms: 1,
    };
    let journal = rows.journal(one.marker);
    journal.note(&[note(1), note(2)]).unwrap();
    rows.with("break a note", |connection| {
        connection.execute("UPDATE folder_journal SET note = '{}' WHERE id = ?1", [[1_u8; 16]])?;
        Ok(())
    })
    .unwrap();
    for _ in 0..2 {
        assert_eq!(journal.all().unwrap(), [note(2)]);
    }
    assert_eq!(*rows.told.lock(), BTreeSet::from([NoteId([1; 16])]));
}

#[test]
fn a_copy_writes_by_another_name() {
    let (dir, rows) = rows();
    let path = dir.path().join("agent.db");
    let own = rows.writer(None, [1; 32]).unwrap();
    assert_ne!(rows.writer(None, [2; 32]).unwrap(), own);
    drop(rows);
    let again = FolderRows::open(&path).unwrap();
    assert_eq!(again.writer(None, [1; 32]).unwrap(), own);
    drop(again);
    let copy = dir.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    assert_ne!(FolderRows::open(&copy).unwrap().writer(None, [1; 32]).unwrap(), own);
}
