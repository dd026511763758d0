//! What of a directory may be shared by ticket: what its user put there, and nothing that was written into it.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt as _;

use ed25519_dalek::SigningKey;

use super::*;
use crate::folder::rows::RowChange;
use crate::folder::work::answering::FolderCommand;
use crate::library::SharedLibrary;
use crate::library::filter::{Filter, FilterSpec};
use crate::library::manage::TakenContents as _;
use crate::library::registry::Kept;
use crate::library::ticket::{Access, Terms};
use crate::record::ContentHash;

const FOLDER: FolderId = MARKER.folder;

fn hash(content: &[u8]) -> ContentHash {
    ContentHash(<sha2::Sha256 as sha2::Digest>::digest(content).into())
}

impl Desk {
    /// Makes a library of the folder.
    fn share(&self) {
        let key = SigningKey::from_bytes(&[1; 32]);
        let folder = Some(data_encoding::HEXLOWER.encode(&FOLDER.0));
        let filter = Filter::try_from(FilterSpec { folder, ..FilterSpec::default() }).unwrap();
        let terms = Terms::unlimited("photos".into(), Access::Write);
        let kept = Kept { key: Some(key), ..Kept::sample(1, terms, filter) };
        self.work.context.libraries.add(SharedLibrary::new(kept, HashMap::new()));
    }

    /// What may be shared.
    fn taken(&self) -> BTreeSet<ContentHash> {
        self.work.context.rows.taken(FOLDER).unwrap().into_iter().collect()
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.file(from), self.file(to)).unwrap();
    }

    /// The process ends, and another one begins with these tables.
    fn restart(&mut self, rows: FolderRows) {
        let context = FolderContext { rows, ..self.work.context.clone() };
        self.work = FolderWork::new(context, self.work.binding.clone(), self.runtime.handle().clone());
    }

    /// `agent.db` is lost, and the directory bound once more.
    fn lose_tables(&mut self) {
        let path = self.home.path().join("data/lost.db");
        drop(AddressBook::open(&path).unwrap());
        let rows = FolderRows::open(&path).unwrap();
        rows.bind(&self.work.binding, false).unwrap();
        self.restart(rows);
    }
}

fn only<const N: usize>(contents: [&[u8]; N]) -> BTreeSet<ContentHash> {
    contents.map(hash).into()
}

#[test]
fn what_was_placed_is_not_the_directorys_own_whatever_is_done_with_its_file() {
    let mut desk = Desk::new();
    desk.receive("d/a.txt", b"placed");
    desk.look().unwrap();
    assert_eq!(fs::read(desk.file("d/a.txt")).unwrap(), b"placed");
    // Another mode, another directory, another name, a copy, and a mere touch.
    fs::set_permissions(desk.file("d/a.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    desk.look().unwrap();
    desk.rename("d", "e");
    desk.look().unwrap();
    desk.rename("e/a.txt", "b.txt");
    fs::copy(desk.file("b.txt"), desk.file("c.txt")).unwrap();
    desk.look().unwrap();
    fs::write(desk.file("c.txt"), "placed").unwrap();
    desk.look().unwrap();
    assert_eq!(desk.work.live_entries(), 2);
    assert_eq!(desk.taken(), only([]));
    fs::write(desk.file("own.txt"), "own").unwrap();
    desk.look().unwrap();
    assert_eq!(desk.taken(), only([b"own"]));
    // The user's word makes it so.
    desk.work.context.rows.take(FOLDER, &[hash(b"placed")]).unwrap();
    desk.rename("b.txt", "f.txt");
    desk.look().unwrap();
    assert_eq!(desk.taken(), only([b"own", b"placed"]));
}

#[test]
fn to_put_back_what_others_removed_shares_none_of_it() {
    let mut desk = Desk::new();
    let names: Vec<String> = (0..30).map(|number| format!("{number}.txt")).collect();
    for name in &names {
        desk.receive(name, name.as_bytes());
    }
    fs::write(desk.file("own.txt"), "own").unwrap();
    desk.look().unwrap();
    desk.remove_elsewhere(&names);
    desk.look().unwrap();
    assert!(desk.file("7.txt").exists(), "so many are asked about");
    desk.work.obey(&FolderCommand::Revert).unwrap().unwrap();
    desk.look().unwrap();
    assert_eq!(desk.work.live_entries(), 31);
    assert_eq!(desk.taken(), only([b"own"]));
}

#[test]
fn a_crash_between_file_and_row_does_not_make_it_the_directorys_own() {
    let mut desk = Desk::new();
    desk.receive("a.txt", b"placed");
    desk.look().unwrap();
    let path = EntryPath::parse("a.txt").unwrap();
    let rows = desk.work.context.rows.clone();
    rows.change(MARKER, &[RowChange::Forget(EntryHash::of(FOLDER, &path))]).unwrap();
    desk.restart(rows);
    desk.look().unwrap();
    assert!(desk.work.agreed.contains_key(&EntryHash::of(FOLDER, &path)), "it was adopted");
    assert_eq!(desk.taken(), only([]));
}

#[test]
fn without_agent_db_nothing_of_a_shared_folder_counts_as_its_own_that_may_have_been_placed() {
    for is_shared in [false, true] {
        let mut desk = Desk::new();
        if is_shared {
            desk.share();
        }
        for name in ["stays.txt", "moves.txt", "goes.txt", "kept.txt"] {
            desk.receive(name, name.as_bytes());
        }
        fs::write(desk.file("own.txt"), "own").unwrap();
        desk.look().unwrap();
        assert_eq!(desk.taken(), only([b"own"]));
        desk.lose_tables();
        desk.remove_elsewhere(&["kept.txt".to_owned()]);
        desk.rename("moves.txt", "moved.txt");
        fs::write(desk.file("new.txt"), "new").unwrap();
        desk.look().unwrap();
        desk.work.obey(&FolderCommand::Keep(None)).unwrap().unwrap();
        fs::set_permissions(desk.file("stays.txt"), fs::Permissions::from_mode(0o755)).unwrap();
        desk.rename("goes.txt", "gone.txt");
        desk.look().unwrap();
        assert!(desk.file("kept.txt").exists() && desk.work.live_entries() >= 6);
        let all = ["stays.txt", "moves.txt", "goes.txt", "kept.txt", "own", "new"];
        let taken = if is_shared { only([b"new"]) } else { all.map(|text| hash(text.as_bytes())).into() };
        assert_eq!(desk.taken(), taken, "{is_shared}");
    }
}

#[test]
fn what_the_user_puts_into_a_shared_folder_is_its_own() {
    let mut desk = Desk::new();
    desk.share();
    fs::write(desk.file("a.txt"), "one").unwrap();
    desk.look().unwrap();
    fs::write(desk.file("a.txt"), "other").unwrap();
    fs::write(desk.file("b.txt"), "one").unwrap();
    desk.look().unwrap();
    assert_eq!(desk.taken(), only([b"one", b"other"]));
}
