//! Files that somebody is in the middle of writing.

use super::*;
use crate::clock::Moment;

impl Desk {
    /// From here on its clock stands where the file was written, however long the machine takes.
    fn stop_clock_at(&mut self, name: &str) {
        let written = fs::metadata(self.file(name)).unwrap().modified().unwrap();
        let written = written.duration_since(std::time::UNIX_EPOCH).unwrap();
        // What was written in the same millisecond is not newer than a look that begins then.
        let own_ms = u64::try_from(written.as_millis()).unwrap() + 1;
        self.work.context.clock = Clock::reading_from(move || Moment { own_ms, uptime: Duration::ZERO });
    }

    /// What the folder has and had at a path, the newest last, as texts of these.
    fn versions<'a>(&self, path: &str, texts: &[&'a str]) -> Vec<&'a str> {
        let path = EntryPath::parse(path).unwrap();
        let mut versions = self.work.history(&path).unwrap();
        versions.extend(self.work.entries.get(&EntryHash::of(MARKER.folder, &path)).cloned());
        versions.sort_by_key(|version| version.hlc);
        versions.dedup();
        let text = |version: &EntryRecord| {
            let target = version.target().unwrap();
            texts.iter().copied().find(|text| target.is_of(text.as_bytes()))
        };
        versions.iter().map(|version| text(version).unwrap()).collect()
    }
}

#[test]
fn a_file_that_was_opened_anew_and_is_empty_yet_is_no_version() {
    let mut desk = Desk::new();
    fs::write(desk.file("a.txt"), "one").unwrap();
    desk.look().unwrap();
    let mut file = fs::File::create(desk.file("a.txt")).unwrap();
    desk.stop_clock_at("a.txt");
    desk.look().unwrap();
    assert!(desk.work.has_unrested());
    desk.work.context.clock = Clock::system();
    std::io::Write::write_all(&mut file, b"two").unwrap();
    drop(file);
    desk.look_at(&["a.txt"]);
    assert!(!desk.work.has_unrested());
    assert_eq!(desk.versions("a.txt", &["one", "", "two"]), ["one", "two"]);
}

#[test]
fn an_empty_file_that_was_closed_is_taken_in_at_once_and_any_other_soon() {
    let mut desk = Desk::new();
    for name in ["closed", "made before"] {
        fs::write(desk.file(name), "").unwrap();
    }
    let while_ago = std::time::SystemTime::now() - Duration::from_secs(10);
    fs::File::options().write(true).open(desk.file("made before")).unwrap().set_modified(while_ago).unwrap();
    let closed = BTreeSet::from(["closed".to_owned()]);
    desk.work.look(&LookScope { names: closed.clone(), closed, ..LookScope::default() }).unwrap();
    assert_eq!(desk.work.live_entries(), 1);
    desk.look().unwrap();
    assert_eq!((desk.work.live_entries(), desk.work.has_unrested()), (2, false));
    // Nobody says of this one that it was closed.
    fs::write(desk.file("last"), "").unwrap();
    desk.stop_clock_at("last");
    desk.look().unwrap();
    assert_eq!((desk.work.live_entries(), desk.work.has_unrested()), (2, true));
    desk.work.context.clock = Clock::system();
    std::thread::sleep(desk.work.next_turn().unwrap());
    desk.work.look(&LookScope { later: true, ..LookScope::default() }).unwrap();
    assert_eq!((desk.work.live_entries(), desk.work.has_unrested()), (3, false));
}

#[test]
fn what_changes_between_the_look_and_the_reading_rests_before_it_is_a_version() {
    let mut desk = Desk::new();
    fs::write(desk.file("a.txt"), "one").unwrap();
    desk.look().unwrap();
    fs::write(desk.file("a.txt"), "two").unwrap();
    let todo = desk.work.observe_all().unwrap();
    let actions = desk.work.planned(&todo).unwrap();
    assert_eq!(actions.len(), 1);
    fs::write(desk.file("a.txt"), "two and").unwrap();
    desk.stop_clock_at("a.txt");
    desk.work.look_began_ms = desk.work.now_ms() - 500;
    desk.work.perform_in_parts(actions).unwrap();
    assert!(desk.work.has_unrested());
    desk.work.context.clock = Clock::system();
    fs::write(desk.file("a.txt"), "two and three").unwrap();
    desk.look_at(&["a.txt"]);
    assert_eq!(desk.versions("a.txt", &["one", "two", "two and", "two and three"]), ["one", "two and three"]);
}
