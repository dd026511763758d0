//! Files as programs write them, names as people and other systems give them, and both at once on two machines.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use can_sync::testing::entry::{EntryPath, EntryRecord, FolderId, FolderRecord};
use can_sync::testing::record::Hlc;
use can_sync::testing::store::entries::EntryOutcome;
use rusqlite::Connection;

use crate::support::files::files;
use crate::support::folder::{author, file_of, take};
use crate::support::machine::{Busy, alike, pair};
use crate::support::nodes::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_written_all_the_time_comes_whole_once_it_is_closed() {
    let (a, b) = pair().await;
    let path = a.dir().join("app.db");
    let rows = Arc::new(AtomicU64::new(0));
    let (database, written) = (Connection::open(&path).expect("a database"), Arc::clone(&rows));
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 20; PRAGMA locking_mode = EXCLUSIVE; \
             CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT);",
        )
        .expect("a table");
    let busy = Busy::start(move || {
        database.execute("INSERT INTO t (text) VALUES (hex(randomblob(500)))", []).expect("a row");
        written.fetch_add(1, Ordering::Relaxed);
    });
    for n in 0..5 {
        let name = format!("{n}.txt");
        a.put(&name, &name);
        eventually("the file is there", async || {
            let found = files(&b.dir());
            found.contains_key(&name).then_some(()).ok_or_else(|| format!("{:?}", found.keys()))
        })
        .await;
    }
    busy.end();
    let written = rows.load(Ordering::Relaxed);
    let whole = fs::read(&path).expect("it is there");
    eventually("it is there as it was closed", async || {
        let there = fs::read(b.dir().join("app.db")).unwrap_or_default();
        let is_alone = !b.dir().join("app.db-wal").exists() && !b.dir().join("app.db-shm").exists();
        (there == whole && is_alone).then_some(()).ok_or_else(|| format!("{} bytes", there.len()))
    })
    .await;
    let copy = b.home.path().join("copy.db");
    fs::copy(b.dir().join("app.db"), &copy).expect("it is copied");
    let copy = Connection::open(copy).expect("a database");
    let check: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    let count: i64 = copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("a count");
    assert_eq!((check.as_str(), u64::try_from(count)), ("ok", Ok(written)));
    a.says("there are no copies", |report| report["conflicts"] == serde_json::json!([])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn editors_that_move_the_old_file_away_first_lose_nothing() {
    let (a, b) = pair().await;
    a.put("text.txt", "0");
    b.has(&[("text.txt", "0")]).await;
    for n in 1..=10 {
        // With a backup that goes, and by way of a name that nobody else has.
        fs::rename(a.dir().join("text.txt"), a.dir().join("text.txt~")).expect("it is renamed");
        fs::write(a.dir().join("text.txt"), n.to_string()).expect("it is written");
        fs::remove_file(a.dir().join("text.txt~")).expect("it was there");
        fs::write(b.dir().join(".text.txt.swp"), "state").expect("it is written");
        fs::remove_file(b.dir().join(".text.txt.swp")).expect("it was there");
        if n % 3 == 0 {
            b.has(&[("text.txt", &n.to_string())]).await;
        }
    }
    b.has(&[("text.txt", "10")]).await;
    alike(&[&a, &b]).await;
    a.keeps(&["0", "3", "6", "9"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_where_the_other_side_has_a_directory_has_another_name_for_as_long() {
    let (a, mut b) = pair().await;
    a.put("plain.txt", "plain");
    b.has(&[("plain.txt", "plain")]).await;
    alike(&[&a, &b]).await;
    b.node.stop().await;
    a.put("name", "a file");
    a.put("other/x/y.txt", "below");
    a.rests(3).await;
    b.put("name/below.txt", "below a name");
    b.put("other", "another file");
    b.node.boot().await;
    b.node.dial(&a.node).await;
    for machine in [&a, &b] {
        eventually("all four are there", async || {
            let found = files(&machine.dir());
            let has = |content: &str| found.values().any(|there| there == content);
            let is_it = found.get("name/below.txt").is_some_and(|content| content == "below a name")
                && found.get("other/x/y.txt").is_some_and(|content| content == "below")
                && has("a file")
                && has("another file")
                && found.len() == 5;
            is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
        machine.says("nothing is wrong", |report| report["state"] == "idle" && report["entries"] == 5).await;
    }
    // The directories go, and both have their names again.
    fs::remove_dir_all(a.dir().join("name")).expect("it was there");
    fs::remove_dir_all(b.dir().join("other")).expect("it was there");
    let left = [("name", "a file"), ("other", "another file"), ("plain.txt", "plain")];
    a.has(&left).await;
    b.has(&left).await;
}

/// Neither file system can tell them apart for everybody: each machine keeps what it has, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_differ_in_case_on_two_machines_keep_their_files() {
    let (a, mut b) = pair().await;
    a.put("plain.txt", "plain");
    b.has(&[("plain.txt", "plain")]).await;
    alike(&[&a, &b]).await;
    b.node.stop().await;
    a.put("Readme.txt", "of a");
    a.put("caf\u{e9}.txt", "composed");
    a.rests(3).await;
    b.put("README.txt", "of b");
    b.put("cafe\u{301}.txt", "decomposed");
    b.node.boot().await;
    b.node.dial(&a.node).await;
    for (machine, own, other, own_content) in
        [(&a, "Readme.txt", "README.txt", "of a"), (&b, "README.txt", "Readme.txt", "of b")]
    {
        machine
            .says("the other one is named", |report| {
                let mut said =
                    report["problems"].as_array().into_iter().flatten().filter_map(|why| why.as_str());
                report["state"] == "failed" && said.any(|why| why.contains(other) && why.contains("case"))
            })
            .await;
        assert_eq!(files(&machine.dir()).get(own).map(String::as_str), Some(own_content));
        machine.keeps(&["of a", "of b", "composed", "decomposed"]).await;
    }
    a.put("last.txt", "last");
    eventually("the rest goes on", async || {
        let found = files(&b.dir());
        found.contains_key("last.txt").then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    // What is done about it: one of them gets another name.
    fs::rename(b.dir().join("README.txt"), b.dir().join("Readme of b.txt")).expect("it was there");
    for machine in [&a, &b] {
        eventually("all are on both, each under names as that disk writes them", async || {
            let (found, report) = (files(&machine.dir()), machine.report().await);
            let all = ["composed", "decomposed", "last", "of a", "of b", "plain"];
            let is_it = found.values().map(String::as_str).collect::<BTreeSet<_>>() == BTreeSet::from(all)
                && found.len() == all.len()
                && report["state"] == "idle";
            is_it.then_some(()).ok_or_else(|| format!("{found:?}, {report}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_and_the_oddest_names_are_files_like_others() {
    let (a, b) = pair().await;
    let long = "\u{10348}".repeat(63) + "xyz";
    let deep = "d/".repeat(500) + "file";
    for name in
        [long.as_str(), deep.as_str(), "C:", "-rf", "~", "a\\b", "con", "trailing. ", " ", "\u{202e}txt.exe"]
    {
        a.put(name, "first");
    }
    let found = eventually("all are there", async || {
        let found = files(&b.dir());
        (found.len() == 10).then_some(found).ok_or_else(|| format!("{}", 0))
    })
    .await;
    assert_eq!(files(&a.dir()), found);
    // Replaced, which takes them through the trash, and removed.
    for name in [long.as_str(), deep.as_str(), "C:"] {
        b.put(name, "second");
    }
    fs::remove_file(b.dir().join("-rf")).expect("it was there");
    fs::remove_file(b.dir().join(" ")).expect("it was there");
    let found = alike(&[&a, &b]).await;
    assert_eq!((found.len(), found[&long].as_str(), found[&deep].as_str()), (8, "second", "second"));
    // What comes from a machine that this one knows nothing of.
    let report = b.report().await;
    let id =
        data_encoding::HEXLOWER.decode(report["folder"].as_str().expect("an id").as_bytes()).expect("digits");
    let folder = FolderId(id.try_into().expect("32 bytes"));
    for name in
        ["aux", "e\u{301}.txt", "x/../y", "/etc/x", ".can-sync-trash/x", ".can-sync-folder", "a\u{1b}[2Jb"]
    {
        let Ok(path) = EntryPath::parse(name) else { continue };
        let record =
            EntryRecord::after(None, (folder, &path), Some(file_of(b"first")), &author(9, 0), Hlc::default());
        assert_eq!(take(&a.node.sync_store(), &FolderRecord::Entry(record)).await, EntryOutcome::Stored);
    }
    // They may be alike as they were before either one has seen them.
    eventually("both have them", async || {
        let found = alike(&[&a, &b]).await;
        (found.len() == 10).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    assert_eq!(b.home.path().read_dir().expect("a directory").count(), 1, "nothing is beside the folder");
}
