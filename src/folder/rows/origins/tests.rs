use super::*;
use crate::discovery::address_book::AddressBook;

const FOLDER: FolderId = FolderId([7; 32]);
const OTHER: FolderId = FolderId([8; 32]);

fn rows() -> (tempfile::TempDir, FolderRows) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    drop(AddressBook::open(&path).unwrap());
    (dir, FolderRows::open(&path).unwrap())
}

fn content(number: u8) -> ContentHash {
    ContentHash([number; 32])
}

fn set<const N: usize>(numbers: [u8; N]) -> BTreeSet<ContentHash> {
    numbers.map(content).into()
}

fn place(rows: &FolderRows, number: u8) {
    let placed = rows.with("place", |connection| {
        let tx = connection.transaction()?;
        note_placed(&tx, FOLDER, [content(number)].into_iter())?;
        Ok(tx.commit()?)
    });
    placed.unwrap();
}

#[test]
fn what_was_placed_or_adopted_is_taken_by_the_users_word_alone() {
    let (_dir, rows) = rows();
    place(&rows, 1);
    rows.note_adopted(FOLDER, &set([2])).unwrap();
    assert_eq!(rows.unknown_contents(FOLDER, &set([1, 2, 3])).unwrap(), set([3]));
    assert_eq!(rows.note_taken(FOLDER, &set([1, 2, 3])).unwrap(), [content(3)]);
    assert_eq!(rows.taken(FOLDER).unwrap(), [content(3)]);
    rows.take(FOLDER, &[content(1), content(2)]).unwrap();
    assert_eq!(rows.note_taken(FOLDER, &set([1, 2, 3])).unwrap(), [1, 2, 3].map(content));
    // One folder says nothing of another.
    assert_eq!(rows.taken(OTHER).unwrap(), []);
    assert_eq!(rows.note_taken(OTHER, &set([1])).unwrap(), [content(1)]);
}

#[test]
fn what_was_taken_stays_so_whatever_is_done_with_it() {
    let (_dir, rows) = rows();
    assert_eq!(rows.note_taken(FOLDER, &set([1])).unwrap(), [content(1)]);
    place(&rows, 1);
    rows.note_adopted(FOLDER, &set([1])).unwrap();
    assert_eq!(rows.taken(FOLDER).unwrap(), [content(1)]);
    // What became of a directory does not matter either.
    assert_eq!(rows.is_bound(FOLDER), Ok(false));
}
