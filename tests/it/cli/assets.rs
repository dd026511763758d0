//! Commands that work on assets.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::support::command::{Ran, User};
use crate::support::fake_daemon::{FakeDaemon, sha256};

fn run(user: &User, daemon: &FakeDaemon, args: &[&str]) -> Ran {
    user.run_with(args, &[("CAN_SYNC_API", &daemon.url)], b"")
}

fn files_in(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> =
        names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn files_go_in_and_come_out_the_same() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    user.write("a.txt", "first");
    user.write("large.bin", &large);
    user.write("empty", "");
    let ran = run(&user, &daemon, &["put", "a.txt", "large.bin", "empty", "--tags", "x,y", "--user", "ann"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let expected = [(sha256(b"first"), "a.txt"), (sha256(&large), "large.bin"), (sha256(b""), "empty")];
    let lines: Vec<String> = expected.iter().map(|(hash, name)| format!("{hash}  {name}")).collect();
    assert_eq!(ran.text().lines().collect::<Vec<_>>(), lines, "in the order given");
    daemon.change(|fake| {
        let asset = &fake.assets.iter().find(|(_, content)| content == b"first").expect("stored").0;
        assert_eq!(asset["filename"], json!("a.txt"));
        assert_eq!((&asset["tags"], &asset["user"]), (&json!(["x", "y"]), &json!("ann")));
    });

    let hash = sha256(&large);
    let got = run(&user, &daemon, &["get", &hash.to_uppercase(), "-o", "out/../copy.bin"]);
    assert_eq!(got.code, 1, "there is no directory 'out'");
    let got = run(&user, &daemon, &["get", &hash, "-o", "copy.bin"]);
    assert_eq!((got.code, got.text()), (0, ""), "{}", got.stderr);
    assert!(got.stderr.contains("verified"));
    assert_eq!(std::fs::read(user.home().join("copy.bin")).expect("the copy"), large);
    assert_eq!(run(&user, &daemon, &["get", &hash]).stdout, large);
    let json = run(&user, &daemon, &["get", &hash, "-o", "copy.bin", "--json"]).json();
    assert_eq!((&json[0]["hash"], &json[0]["verified"]), (&json!(hash), &json!(true)));
    assert_eq!(files_in(user.home()), ["a.txt", "copy.bin", "empty", "large.bin"]);
}

#[test]
fn directories_go_in_whole_and_links_are_passed_over() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    user.write("tree/b/two", "2");
    user.write("tree/one", "1");
    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc/passwd", user.home().join("tree/link")).expect("a link");
    let ran = run(&user, &daemon, &["put", "-r", "tree"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.text(), format!("{}  tree/b/two\n{}  tree/one\n", sha256(b"2"), sha256(b"1")));
}

#[test]
fn stdin_goes_in() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    let ran = user.run_with(&["put", "-"], &[("CAN_SYNC_API", &daemon.url)], b"piped");
    assert_eq!(ran.text(), format!("{}  -\n", sha256(b"piped")), "{}", ran.stderr);
    let named = ["put", "-", "--filename", "named.txt", "--json"];
    let ran = user.run_with(&named, &[("CAN_SYNC_API", &daemon.url)], b"piped, too");
    assert_eq!(ran.json()[0]["filename"], json!("named.txt"));
}

#[test]
fn what_cannot_be_stored_is_named_and_the_rest_goes_in() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    user.write("good", "good");
    user.write("bad", "refuse me");
    let ran = run(&user, &daemon, &["put", "missing", "bad", "good"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.text(), format!("{}  good\n", sha256(b"good")));
    for expected in ["missing: No such file", "bad: this one is refused", "2 files could not be stored"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
}

#[test]
fn damaged_content_never_takes_a_files_place() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    let hash = daemon.add(b"good", &json!({}));
    daemon.change(|fake| fake.assets[0].1 = b"evil".to_vec());
    user.write("out", "what was there before");
    let ran = run(&user, &daemon, &["get", &hash, "-o", "out"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is damaged"), "{}", ran.stderr);
    assert_eq!(std::fs::read(user.home().join("out")).expect("the file"), b"what was there before");
    assert_eq!(files_in(user.home()), ["out"], "no temporary file stays");
    assert_eq!(run(&user, &daemon, &["get", &hash]).code, 1);
}

#[test]
fn content_goes_where_the_user_says_and_nowhere_else() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    let hash = daemon.add(b"content", &json!({ "filename": "../../escaped" }));
    user.write("dir/keep", "");
    let ran = run(&user, &daemon, &["get", &hash, "-o", "dir"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains(&format!("dir/{hash}")), "the hash is proposed: {}", ran.stderr);
    assert!(!ran.stderr.contains("escaped"));
    assert_eq!(run(&user, &daemon, &["get", &hash, "--json"]).code, 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;

        assert_eq!(run(&user, &daemon, &["get", &hash, "-o", "/dev/null"]).code, 2);
        let null = std::fs::metadata("/dev/null").expect("the null device");
        assert!(null.file_type().is_char_device(), "a device is not replaced by a file");
        user.write("target", "old");
        std::os::unix::fs::symlink("target", user.home().join("link")).expect("a link");
        assert_eq!(run(&user, &daemon, &["get", &hash, "-o", "link"]).code, 0);
        assert_eq!(std::fs::read(user.home().join("target")).expect("the target"), b"content");
        assert!(user.home().join("link").is_symlink());
    }
    let missing = run(&user, &daemon, &["get", &"00".repeat(32), "-o", "x"]);
    assert_eq!(missing.code, 6, "{}", missing.stderr);
    assert!(!user.home().join("x").exists());
}

#[test]
fn lists_are_tab_separated_and_escaped() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    let meta =
        json!({ "filename": "a\tb\u{1b}[31m\u{202e}c", "tags": ["x", "y"], "mime_type": "text/plain" });
    let hash = daemon.add(b"12345", &meta);
    let ran = run(&user, &daemon, &["list"]);
    let expected = format!(
        "HASH\tSIZE\tTYPE\tNAME\tTAGS\tCREATED\n\
         {hash}\t5\ttext/plain\ta\\tb\\u{{1b}}[31m\\u{{202e}}c\tx,y\t2026-11-20T12:00:00.000Z\n"
    );
    assert_eq!((ran.code, ran.text()), (0, expected.as_str()), "{}", ran.stderr);
    let json = run(&user, &daemon, &["list", "--json"]);
    assert_eq!(json.json()[0]["filename"], meta["filename"]);
    assert_eq!(json.json()[0]["seq"], json!(1));
    assert!(!json.text().contains('\u{202e}'), "not as it is, but as an escape");
}

#[test]
fn all_follows_pages_and_a_limit_says_what_is_left() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    for n in 0..1_203_u32 {
        daemon.add(&n.to_le_bytes(), &json!({ "filename": format!("file-{n}") }));
    }
    let some = run(&user, &daemon, &["list", "--limit", "3"]);
    assert_eq!(some.text().lines().count(), 4);
    assert!(some.stderr.contains("3 of 1203 shown; --all shows the rest"), "{}", some.stderr);
    assert_eq!(run(&user, &daemon, &["list"]).text().lines().count(), 51);
    let many = run(&user, &daemon, &["list", "--limit", "1100"]);
    assert_eq!(many.text().lines().count(), 1_101, "more than a page holds");
    let all = run(&user, &daemon, &["list", "--all"]);
    assert_eq!((all.text().lines().count(), all.stderr.as_str()), (1_204, ""));
    let found = run(&user, &daemon, &["search", "file-120", "--all", "--json"]);
    let names: Vec<_> = found.json().iter().map(|asset| asset["filename"].clone()).collect();
    assert_eq!(names, ["file-120", "file-1200", "file-1201", "file-1202"]);
    let none = run(&user, &daemon, &["search", "nothing like it"]);
    assert_eq!((none.code, none.text().lines().count()), (0, 1));
}

#[test]
fn rm_deletes_and_says_what_was_not_there() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    let hash = daemon.add(b"x", &json!({}));
    let missing = "00".repeat(32);
    let ran = run(&user, &daemon, &["rm", &missing, &hash]);
    assert_eq!((ran.code, ran.text()), (6, format!("deleted {hash}\n").as_str()));
    assert!(ran.stderr.contains(&missing), "{}", ran.stderr);
    daemon.change(|fake| assert!(fake.assets.is_empty()));
}

#[test]
fn a_store_that_is_gone_is_told_from_a_daemon_that_is_gone() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    daemon.change(|fake| fake.status = json!({ "store": { "url": "http://127.0.0.1:1/api/v1/can/0" } }));
    let ran = run(&user, &daemon, &["list"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("the CAN Service at http://127.0.0.1:1/api/v1/can/0"), "{}", ran.stderr);
}

#[test]
fn a_reader_that_leaves_ends_a_list() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    for n in 0..3_000_u32 {
        daemon.add(&n.to_le_bytes(), &json!({ "description": "d".repeat(200) }));
    }
    let mut child = user
        .command(&["list", "--all", "--json", "--api", &daemon.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}
