//! Odd files, odd names, no room, and versions that no honest machine writes.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;

use can_sync::testing::entry::{EntryPath, EntryRecord, FolderId, FolderRecord};
use can_sync::testing::record::Hlc;
use can_sync::testing::store::entries::EntryOutcome;
use serde_json::{Value, json};

use crate::support::files::files;
use crate::support::folder::{author, file_of, take};
use crate::support::machine::{Busy, pair};
use crate::support::nodes::eventually;

fn names(report: &Value, list: &str, path: &str) -> bool {
    report[list].as_array().is_some_and(|all| all.iter().any(|one| one["path"] == path))
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_odd_files_are_named_and_the_rest_goes_on() {
    let (a, b) = pair().await;
    let long = "x".repeat(251) + ".txt";
    let composed = "caf\u{e9}.txt";
    a.put(&long, "long");
    a.put(composed, "composed");
    a.put("Name.txt", "upper");
    let all = [(long.as_str(), "long"), (composed, "composed"), ("Name.txt", "upper")];
    b.has(&all).await;
    a.rests(3).await;
    // Names that other machines cannot tell apart, or cannot have; and what is no file.
    a.put("name.txt", "lower");
    a.put("cafe\u{301}.txt", "decomposed");
    a.put("two\nlines.txt", "newline");
    fs::write(a.dir().join(OsStr::from_bytes(b"\xff.txt")), "bytes").expect("a file");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        a.dir().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a pipe");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        let null = rustix::fs::makedev(1, 3);
        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, a.dir().join("null"), kind, mode, null).expect("a device");
    }
    let _socket = UnixListener::bind(a.dir().join("socket")).expect("a socket");
    std::os::unix::fs::symlink("loop", a.dir().join("loop")).expect("a link");
    std::os::unix::fs::symlink(a.dir(), a.dir().join("round")).expect("a link");
    a.put("last.txt", "last");
    a.does("look").await;
    let all = [(long.as_str(), "long"), (composed, "composed"), ("Name.txt", "upper"), ("last.txt", "last")];
    b.has(&all).await;
    a.says("all are named", |report| {
        ["name.txt", "cafe\u{301}.txt", "two\nlines.txt", "%FF.txt", "pipe", "socket", "loop", "round"]
            .iter()
            .all(|path| names(report, "passed_over", path))
            && (!is_root || names(report, "passed_over", "null"))
    })
    .await;
    assert_eq!(fs::read_to_string(a.dir().join("name.txt")).expect("it stays"), "lower");
    assert_eq!(fs::read_to_string(a.dir().join("cafe\u{301}.txt")).expect("it stays"), "decomposed");
    a.says("that is no failure", |report| report["state"] == "idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_all_the_time_holds_up_nothing() {
    let (a, b) = pair().await;
    let path = a.dir().join("log");
    let mut log = OpenOptions::new().create(true).append(true).open(&path).expect("a file");
    let busy = Busy::start(move || log.write_all(b"line\n").expect("it is written"));
    for n in 0..5 {
        let name = format!("{n}.txt");
        a.put(&name, &name);
        eventually("the file is there", async || {
            let found = files(&b.dir());
            found.contains_key(&name).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
    busy.end();
    let whole = fs::read_to_string(path).expect("it is there");
    eventually("all of it is there", async || {
        let found = files(&b.dir());
        let there = found.get("log").map(String::len);
        (there == Some(whole.len())).then_some(()).ok_or_else(|| format!("{there:?} of {}", whole.len()))
    })
    .await;
    a.says("there are no copies", |report| report["conflicts"].as_array().is_some_and(Vec::is_empty)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_nothing_is_lost_and_it_is_said() {
    let (mut a, mut b) = pair().await;
    a.put("one.txt", "one");
    b.has(&[("one.txt", "one")]).await;
    a.rests(1).await;
    b.rests(1).await;
    // Nothing fits beside such a reserve.
    for machine in [&mut a, &mut b] {
        machine.node.stop().await;
        machine.node.config.limits.disk_reserve_bytes = 1 << 60;
        machine.node.boot().await;
    }
    b.node.dial(&a.node).await;
    a.put("big.txt", &"0123456789".repeat(100_000));
    a.says("it is said that there is no room", |report| {
        let mut said = report["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
        report["state"] == "failed" && said.any(|why| why.contains("big.txt"))
    })
    .await;
    for machine in [&mut a, &mut b] {
        machine.node.stop().await;
        machine.node.config.limits.disk_reserve_bytes = 0;
        machine.node.boot().await;
    }
    b.node.dial(&a.node).await;
    let big = "0123456789".repeat(100_000);
    b.has(&[("big.txt", big.as_str()), ("one.txt", "one")]).await;
    a.rests(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_lies_about_does_no_harm() {
    let (a, b) = pair().await;
    b.put("docs/mine.txt", "mine");
    b.put("d/e/f.txt", "mine, too");
    b.put("plain.txt", "plain");
    let mine = [("d/e/f.txt", "mine, too"), ("docs/mine.txt", "mine"), ("plain.txt", "plain")];
    a.has(&mine).await;
    b.rests(3).await;
    let report = b.report().await;
    let id =
        data_encoding::HEXLOWER.decode(report["folder"].as_str().expect("an id").as_bytes()).expect("digits");
    let folder = FolderId(id.try_into().expect("32 bytes"));
    let liar = author(66, 0);
    let forged = |path: &str, content: &[u8], size: u64, mtime_ms: u64| {
        let mut file = file_of(content);
        (file.size, file.mtime_ms) = (size, mtime_ms);
        let path = EntryPath::parse(path).expect("a path");
        let mut record = EntryRecord::after(None, (folder, &path), Some(file), &liar, Hlc::default());
        record.by = "liar".into();
        FolderRecord::Entry(record)
    };
    a.node.ingest(b"forged".to_vec(), &[]).await;
    eventually("the content is there", async || {
        let held = b.node.held().await.len();
        (held >= 4).then_some(()).ok_or_else(|| format!("{held} contents"))
    })
    .await;
    // Sizes that are none, a time beyond what file systems have, directories and files of one name in every way, names that differ from
    // the user's in case.
    let lies = [
        forged("size.txt", b"forged", 1 << 43, 0),
        forged("less.txt", b"forged", 1, 0),
        forged("late.txt", b"forged", 6, (1 << 48) - 1),
        forged("docs", b"forged", 6, 0),
        forged("d/e", b"forged", 6, 0),
        forged("plain.txt/below.txt", b"forged", 6, 0),
        forged("DOCS/other.txt", b"forged", 6, 0),
        forged("PLAIN.txt", b"forged", 6, 0),
        forged("never.txt", b"never anywhere", 14, 0),
    ];
    for lie in &lies {
        assert_eq!(take(&a.node.sync_store(), lie).await, EntryOutcome::Stored, "{lie:?}");
    }
    b.says("what cannot be is named", |report| {
        let said: Vec<&str> =
            report["problems"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let names = |name: &str| said.iter().any(|why| why.contains(name));
        names("size.txt") && names("less.txt") && names("DOCS") && names("PLAIN.txt")
    })
    .await;
    // What the user has goes on, under its own names or beside a directory.
    b.put("docs/mine.txt", "mine, edited");
    for machine in [&a, &b] {
        eventually("the user's files are there", async || {
            let found = files(&machine.dir());
            let has = |content: &str| found.values().any(|there| there == content);
            let late = found.get("late.txt").is_some_and(|content| content == "forged");
            let is_it = late && has("mine, edited") && has("mine, too") && has("plain");
            is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
    let found = files(&b.dir());
    assert_eq!(found.get("docs/mine.txt").map(String::as_str), Some("mine, edited"), "{found:?}");
    assert_eq!(found.get("d/e/f.txt").map(String::as_str), Some("mine, too"), "{found:?}");
    let done = b.act(json!({ "action": "look" })).await;
    assert_eq!(done["status"], "success", "{done}");
}
