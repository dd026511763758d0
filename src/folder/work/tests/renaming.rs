//! Names that are the same to people, or to other machines.
#![expect(clippy::print_stdout, reason = "a test that cannot run here says so")]

use std::fs;

use super::Desk;

impl Desk {
    /// Puts a file, and has everything looked at; `false` where the file system takes the other name for the same.
    fn has(&mut self, name: &str, other: &str) -> bool {
        fs::create_dir_all(self.file(name).parent().unwrap()).unwrap();
        fs::write(self.file(name), name).unwrap();
        self.look().unwrap();
        !self.file(other).exists()
    }

    /// Renames it, as a watcher tells of that.
    fn moves(&mut self, from: &str, to: &str) {
        fs::rename(self.file(from), self.file(to)).unwrap();
        self.look_at(&[from, to]);
    }

    /// Removes a file, as a watcher tells of that.
    fn loses(&mut self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
        self.look_at(&[name]);
    }

    /// Nothing is left to do, and the folder has these files.
    fn rests_with(&self, expected: &[&str]) {
        assert_eq!(self.work.next_turn(), None, "a path waits for its turn");
        assert!(!self.work.has_unrested() && self.work.waiting.is_empty());
        assert_eq!(self.work.failures(), Vec::<String>::new());
        let live = self.work.entries.values().filter(|entry| entry.is_live());
        let mut paths: Vec<String> = live.map(|entry| entry.path.composed().into_owned()).collect();
        paths.sort();
        assert_eq!(paths, expected);
        assert_eq!(self.work.files, expected.len() as u64);
    }

    fn passed_over(&self) -> Vec<&str> {
        self.work.passed_over.iter().map(|(name, _)| name.as_str()).collect()
    }
}

#[test]
fn a_file_whose_name_is_written_otherwise_from_now_on_waits_for_nothing() {
    let (composed, decomposed) = ("\u{e4}.txt", "a\u{308}.txt");
    for (from, to) in [(composed, decomposed), (decomposed, composed)] {
        let mut desk = Desk::new();
        if !desk.has(from, to) {
            return println!("left out: this file system folds names");
        }
        fs::write(desk.file("new.txt"), "new").unwrap();
        desk.look_at(&["new.txt"]);
        desk.rests_with(&["new.txt", composed]);
        desk.moves(from, to);
        desk.rests_with(&["new.txt", composed]);
        // It is edited and removed under the name that it has.
        fs::write(desk.file(to), "edited").unwrap();
        desk.look_at(&[to]);
        desk.rests_with(&["new.txt", composed]);
        desk.loses(to);
        desk.rests_with(&["new.txt"]);
    }
}

#[test]
fn what_changes_the_case_of_its_name_or_is_a_directory_waits_for_nothing() {
    let renames = [
        ("a.txt", "A.txt", "a.txt", "A.txt"),
        ("d", "D", "d/below.txt", "D/below.txt"),
        ("\u{e4}", "a\u{308}", "\u{e4}/below.txt", "\u{e4}/below.txt"),
    ];
    for (from, to, before, after) in renames {
        let mut desk = Desk::new();
        if !desk.has(before, to) {
            return println!("left out: this file system folds names");
        }
        desk.moves(from, to);
        desk.rests_with(&[after]);
    }
}

#[test]
fn a_file_that_is_left_alone_for_its_name_is_named_until_that_is_gone_or_free() {
    let mut desk = Desk::new();
    if !desk.has("case.txt", "CASE.txt") {
        return println!("left out: this file system folds names");
    }
    let twin_comes = |desk: &mut Desk| {
        fs::write(desk.file("CASE.txt"), "twin").unwrap();
        desk.look_at(&["CASE.txt"]);
        assert_eq!(desk.passed_over(), ["CASE.txt"]);
        desk.rests_with(&["case.txt"]);
    };
    twin_comes(&mut desk);
    desk.loses("CASE.txt");
    assert_eq!(desk.passed_over(), Vec::<&str>::new());
    desk.rests_with(&["case.txt"]);
    // With a name of its own it is a file like others.
    twin_comes(&mut desk);
    desk.moves("CASE.txt", "other.txt");
    assert_eq!(desk.passed_over(), Vec::<&str>::new());
    desk.rests_with(&["case.txt", "other.txt"]);
    desk.loses("other.txt");
    // Found by a look at everything, and free once the other one is gone.
    twin_comes(&mut desk);
    desk.look().unwrap();
    assert_eq!(desk.passed_over(), ["CASE.txt"]);
    desk.loses("case.txt");
    assert_eq!(desk.passed_over(), Vec::<&str>::new());
    desk.rests_with(&["CASE.txt"]);
}
