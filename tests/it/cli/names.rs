//! One content under several names, on the command line.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::commands::{ok, run, sha256};
use crate::support::agent::Agent;
use crate::support::command::User;

const CONTENT: &str = "the same picture";

fn asset(user: &User, agent: &Agent, hash: &str) -> Value {
    ok(user, agent, &["search", "--hash", hash, "--json"]).json().remove(0)
}

fn set_modified(user: &User, name: &str, ms: u64) {
    let file = std::fs::File::options().write(true).open(user.home().join(name)).expect("the file");
    file.set_modified(UNIX_EPOCH + Duration::from_millis(ms)).expect("its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_put_under_another_name_is_found_by_each() {
    let (user, agent) = (User::new(), Agent::start().await);
    for name in ["first.jpg", "dir/second.jpg", "copy of first.jpg"] {
        user.write(name, CONTENT);
    }
    set_modified(&user, "first.jpg", 1_500_000_000_123);
    let hash = sha256(CONTENT.as_bytes());
    assert_eq!(ok(&user, &agent, &["put", "first.jpg"]).stderr, "");
    let second = ok(&user, &agent, &["put", "dir/second.jpg"]);
    assert!(
        second
            .stderr
            .contains("dir/second.jpg: its content is here already as first.jpg, now also named second.jpg"),
        "{}",
        second.stderr
    );
    let again = ok(&user, &agent, &["put", "dir/second.jpg"]);
    assert!(again.stderr.contains("it is here already as first.jpg, second.jpg"), "{}", again.stderr);
    let third = ok(&user, &agent, &["put", "copy of first.jpg", "--json"]).json();
    assert_eq!((&third[0]["outcome"], &third[0]["name_outcome"]), (&json!("merged"), &json!("added")));

    for words in ["first", "SECOND", "copy jpg"] {
        assert_eq!(ok(&user, &agent, &["search", words, "--json"]).json()[0]["hash"], json!(hash), "{words}");
    }
    let stored = asset(&user, &agent, &hash);
    assert_eq!(stored["filename"], json!("first.jpg"));
    assert_eq!(stored["names"], json!(["copy of first.jpg", "second.jpg"]));
    assert_eq!(stored["modified_at"], json!("2017-07-14T02:40:00.123Z"));
    let table = ok(&user, &agent, &["list"]);
    assert!(table.text().contains("\tfirst.jpg, copy of first.jpg, second.jpg\t"), "{}", table.text());
    assert_eq!(ok(&user, &agent, &["get", "Second.JPG"]).stdout, CONTENT.as_bytes());

    // The name that is said gets another one; then more and fewer of them.
    ok(&user, &agent, &["edit", "second.jpg", "--name", "third.jpg"]);
    let names = || {
        let asset = asset(&user, &agent, &hash);
        (asset["filename"].clone(), asset["names"].clone())
    };
    assert_eq!(names(), (json!("first.jpg"), json!(["copy of first.jpg", "third.jpg"])));
    assert_eq!(run(&user, &agent, &["get", "second.jpg"]).code, 6, "it is not called so any more");
    ok(&user, &agent, &["edit", &hash, "--name", "second.jpg"]);
    assert_eq!(names(), (json!("second.jpg"), json!(["copy of first.jpg", "third.jpg"])));
    ok(&user, &agent, &["edit", &hash, "--name", "third.jpg"]);
    assert_eq!(names(), (json!("third.jpg"), json!(["copy of first.jpg"])), "which is one of the others");
    ok(&user, &agent, &["edit", "THIRD.jpg", "--name", "second.jpg"]);
    assert_eq!(run(&user, &agent, &["get", "first.jpg"]).code, 6, "it is not called so any more");
    let edited = ok(&user, &agent, &["edit", "second.jpg", "--add-name", "a, b.jpg", "--tag", "t"]);
    assert_eq!(edited.text(), format!("edited {hash}  second.jpg, a, b.jpg, copy of first.jpg\n"));
    ok(&user, &agent, &["edit", "a, b.jpg", "--remove-name", "second.jpg"]);
    assert_eq!(names(), (json!("a, b.jpg"), json!(["copy of first.jpg"])), "the next one comes first");
    ok(&user, &agent, &["edit", "a, b.jpg", "--name", "c", "--remove-name", "COPY of first.jpg"]);
    assert_eq!(names(), (json!("c"), json!([])));
    let none = run(&user, &agent, &["edit", "c", "--remove-name", "d"]);
    assert!(none.code == 6 && none.stderr.contains("its names are: c"), "{}", none.stderr);
    assert_eq!(ok(&user, &agent, &["rm", "c", "--yes"]).code, 0);
    assert!(ok(&user, &agent, &["trash", "list"]).text().contains("\tc\t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_with_copies_tells_what_was_new_merged_and_skipped() {
    let (user, agent) = (User::new(), Agent::start().await);
    for (name, content) in [
        ("tree/a/one.txt", "one"),
        ("tree/b/one.txt", "another one"),
        ("tree/b/uno.txt", "one"),
        ("tree/c/one.txt", "one"),
        ("tree/c/two.txt", "two"),
    ] {
        user.write(name, content);
    }
    let first = ok(&user, &agent, &["put", "-r", "tree"]);
    assert_eq!(
        first.stderr.trim_end(),
        "3 new assets stored; 1 file merged into assets that are here as further names; 1 file skipped, here already"
    );
    assert_eq!(first.text().lines().count(), 5, "each file has its line");
    let stored = asset(&user, &agent, &sha256(b"one"));
    assert_eq!((&stored["filename"], &stored["names"]), (&json!("one.txt"), &json!(["uno.txt"])));
    let again = ok(&user, &agent, &["put", "-r", "tree", "--json"]);
    assert_eq!(again.stderr.trim_end(), "0 new assets stored; 5 files skipped, here already");
    assert!(again.json().iter().all(|file| file["outcome"] == "unchanged"), "{}", again.text());
    let tagged = ok(&user, &agent, &["put", "-r", "tree/c", "--tag", "t"]);
    assert_eq!(tagged.stderr.trim_end(), "0 new assets stored; 2 files merged into assets that are here");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_for_which_there_is_no_room_are_said() {
    let (user, agent) = (User::new(), Agent::start().await);
    for n in 0..30 {
        user.write(&format!("tree/{n:02}"), "");
    }
    let tree = ok(&user, &agent, &["put", "-r", "tree"]);
    assert!(tree.stderr.contains("13 names left out for want of room"), "{}", tree.stderr);
    let told = tree.stderr.lines().filter(|line| line.contains("no room for one more name")).count();
    assert_eq!(told, 8, "not each of many: {}", tree.stderr);
    user.write("more", "");
    let more = ok(&user, &agent, &["put", "more", "--tag", "t"]);
    assert!(
        more.stderr.contains("no room for one more name") && more.stderr.contains("--remove-name"),
        "{}",
        more.stderr
    );
    let stored = asset(&user, &agent, &sha256(b""));
    assert_eq!(stored["filename"], json!("00"), "the first file gives the first name");
    assert_eq!((stored["names"].as_array().map(Vec::len), &stored["tags"]), (Some(16), &json!(["t"])));
    let full = run(&user, &agent, &["edit", &sha256(b""), "--add-name", "more"]);
    assert!(full.code != 0 && full.stderr.contains("17 further names, more than 16"), "{}", full.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_kept_and_shown_as_such() {
    let (user, agent) = (User::new(), Agent::start().await);
    let names = ["caf\u{e9}", "cafe\u{301}", "line\nbreak", "\u{202e}gpj.x", "-", "a,b", "A,B"];
    for name in names {
        user.write(&format!("tree/{name}"), CONTENT);
    }
    let mut expected = 5;
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let raw = user.home().join("tree").join(std::ffi::OsStr::from_bytes(b"raw\xff"));
        std::fs::write(raw, CONTENT).expect("a file");
        expected += 1;
    }
    let put = ok(&user, &agent, &["put", "-r", "tree"]);
    assert!(
        put.stderr.contains(&format!("1 new asset stored; {expected} files merged into assets that are here as further names; 1 file skipped")),
        "canonically equal names are one: {}",
        put.stderr
    );
    let hash = sha256(CONTENT.as_bytes());
    let stored = asset(&user, &agent, &hash);
    let mut all: Vec<String> = stored["names"]
        .as_array()
        .expect("names")
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    all.push(stored["filename"].as_str().expect("a name").to_owned());
    for name in ["line\nbreak", "\u{202e}gpj.x", "-", "a,b", "A,B"] {
        assert!(all.iter().any(|known| known == name), "{name:?}: {all:?}");
    }
    assert!(all.iter().any(|known| known.starts_with("caf")) && all.len() == expected + 1, "{all:?}");
    if expected == 6 {
        assert!(all.iter().any(|known| known == "raw%FF"), "{all:?}");
    }
    let table = ok(&user, &agent, &["list"]);
    assert_eq!(
        table.text().lines().count(),
        2,
        "a line break in a name is none in a table: {}",
        table.text()
    );
    assert!(!table.text().contains('\u{202e}'));
    for name in ["CAF\u{c9}", "CAFE\u{301}", "line\nbreak"] {
        assert_eq!(ok(&user, &agent, &["get", name]).stdout, CONTENT.as_bytes(), "{name:?}");
    }
    ok(&user, &agent, &["edit", &hash, "--remove-name", "a,b"]);
    let names = asset(&user, &agent, &hash)["names"].clone();
    let has =
        |name: &str| names.as_array().expect("names").contains(&json!(name)) || name == stored["filename"];
    assert!(!has("a,b") && has("A,B"), "case tells names apart: {names}");
}
