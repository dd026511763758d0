//! Paths that are left out for a while.

use std::fs;

use super::{Desk, EntryPath, FolderWork};

const RULES: &str = ".can-syncignore";

impl Desk {
    /// With a file that was agreed, and is left out since.
    fn leaving_out() -> Self {
        let mut desk = Self::new();
        fs::write(desk.file("x.tmp"), "old").unwrap();
        desk.look().unwrap();
        fs::write(desk.file(RULES), "*.tmp\n").unwrap();
        desk.look().unwrap();
        assert_eq!(desk.live(), [("x.tmp".to_owned(), 3)]);
        desk
    }

    /// Takes it in again.
    fn takes_in(&mut self) {
        fs::remove_file(self.file(RULES)).unwrap();
        self.look().unwrap();
    }

    /// What the folder has, with the sizes.
    fn live(&self) -> Vec<(String, u64)> {
        let live = self.work.entries.values().filter(|entry| entry.is_live());
        live.map(|entry| (entry.path.as_str().to_owned(), entry.file.as_ref().unwrap().size)).collect()
    }
}

#[test]
fn a_file_that_is_edited_while_it_is_left_out_is_the_newer_version_of_it() {
    let mut desk = Desk::leaving_out();
    fs::write(desk.file("x.tmp"), "edited").unwrap();
    desk.look().unwrap();
    assert_eq!(desk.live(), [("x.tmp".to_owned(), 3)], "it is not read meanwhile");
    // Also after a start.
    let (context, binding) = (desk.work.context.clone(), desk.work.binding.clone());
    desk.work = FolderWork::new(context, binding, desk.runtime.handle().clone());
    desk.takes_in();
    assert_eq!(desk.live(), [("x.tmp".to_owned(), 6)], "and no copy of it");
    assert_eq!(fs::read_to_string(desk.file("x.tmp")).unwrap(), "edited");
    // From now on it is a file like others.
    fs::remove_file(desk.file("x.tmp")).unwrap();
    desk.look().unwrap();
    assert!(desk.live().is_empty());
}

#[test]
fn a_file_that_goes_while_it_is_left_out_comes_back_and_one_removed_elsewhere_is_asked_about() {
    let mut desk = Desk::leaving_out();
    fs::remove_file(desk.file("x.tmp")).unwrap();
    desk.look().unwrap();
    desk.takes_in();
    assert_eq!(fs::read_to_string(desk.file("x.tmp")).unwrap(), "old");
    assert_eq!(desk.live(), [("x.tmp".to_owned(), 3)]);

    let mut desk = Desk::leaving_out();
    desk.remove_elsewhere(&["x.tmp".to_owned()]);
    desk.look().unwrap();
    desk.takes_in();
    assert_eq!(fs::read_to_string(desk.file("x.tmp")).unwrap(), "old");
    assert_eq!(desk.work.asked.values().map(EntryPath::as_str).collect::<Vec<_>>(), ["x.tmp"]);
}
