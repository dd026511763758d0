//! A data directory that was copied and goes on in two places: with the directory of a folder, without it, and with one for both.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::files::files;
use crate::support::machine::{Machine, alike, pair};
use crate::support::nodes::{TestNode, eventually};

/// As `cp -a` does it: the second need not be there.
pub(super) fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success(), "{} to {}", from.display(), to.display());
}

/// A machine on a copy of this one's data directory, whose node does not run. Paths are the same on another machine: here, its folder is
/// said to be where `dir` is, if that is given. It has not met anybody yet.
async fn copy_of(original: &Machine, dir: Option<&Path>) -> TestNode {
    let data = &original.node.config.data_dir;
    TestNode::start("copy", |config| {
        copy(data, &config.data_dir);
        let agent_db = rusqlite::Connection::open(config.data_dir.join("agent.db")).expect("a database");
        agent_db.execute_batch("DELETE FROM peers; DELETE FROM directory").expect("nobody is known");
        if let Some(dir) = dir {
            let path = dir.to_str().expect("UTF-8");
            let changed = agent_db.execute("UPDATE folder_bindings SET path = ?1", [path]);
            assert_eq!(changed.expect("it is written"), 1);
        }
    })
    .await
}

/// What whoever copied a node is told to do.
async fn gets_its_own_id(copy: &mut Machine) {
    let former = copy.node.id();
    assert!(!copy.node.stop().await.failed);
    let output = Command::new(env!("CARGO_BIN_EXE_can-sync"))
        .args(["id", "--new"])
        .env("CAN_SYNC_DATA_DIR", &copy.node.config.data_dir)
        .current_dir(&copy.node.config.data_dir)
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    copy.node.boot().await;
    assert_ne!(copy.node.id(), former);
}

const ALL: [(&str, &str); 5] = [
    ("d/five.txt", "five"),
    ("four.txt", "four"),
    ("one.txt", "one"),
    ("three.txt", "three"),
    ("two.txt", "two"),
];

async fn pair_with_files() -> (Machine, Machine) {
    let (a, b) = pair().await;
    for (name, content) in ALL {
        a.put(name, content);
    }
    b.has(&ALL).await;
    a.rests(5).await;
    b.rests(5).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_with_its_directory_loses_nothing_of_what_is_done_on_both() {
    let (mut a, b) = pair_with_files().await;
    a.node.stop().await;
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().canonicalize().expect("its path").join("Photos");
    copy(&a.dir(), &dir);
    let node = copy_of(&a, Some(&dir)).await;
    let mut copied = Machine { node, home };
    a.node.boot().await;
    b.node.dial(&a.node).await;
    a.put("one.txt", "one of a");
    copied.put("one.txt", "one of the copy");
    fs::remove_file(a.dir().join("two.txt")).expect("it was there");
    copied.put("two.txt", "two of the copy");
    a.put("new.txt", "new of a");
    copied.put("new.txt", "new of the copy");
    fs::remove_file(copied.dir().join("three.txt")).expect("it was there");
    for content in ["one of a", "new of a"] {
        a.takes_in(content).await;
    }
    for content in ["one of the copy", "two of the copy", "new of the copy"] {
        copied.takes_in(content).await;
    }
    // A second one of its own: who writes by the name of the first would be taken to have seen it.
    // Where it met the others before it was told from the first, it writes over what came from there, and that is a version then.
    let is_apart = fs::read(copied.dir().join("one.txt")).is_ok_and(|content| content == b"one of the copy");
    fs::write(copied.dir().join("one.txt"), "one of the copy, later").expect("it is written");
    copied.takes_in("one of the copy, later").await;
    b.put("d/five.txt", "five of b");
    gets_its_own_id(&mut copied).await;
    copied.node.dial(&b.node).await;
    copied.node.dial(&a.node).await;
    let found = alike(&[&a, &b, &copied]).await;
    let last =
        ["four", "one of the copy, later", "two of the copy", "new of a", "new of the copy", "five of b"];
    for content in last.into_iter().chain(is_apart.then_some("one of a")) {
        assert!(found.values().any(|there| there == content), "{content} in {found:?}");
    }
    for machine in [&a, &b, &copied] {
        machine.keeps(&["one", "one of a", "two", "three", "five"]).await;
    }
    copied.keeps(&["one of the copy"]).await;
    // From now on they are two.
    for (machine, content) in [(&a, "a's"), (&copied, "the copy's"), (&b, "b's")] {
        machine.put("four.txt", content);
        alike(&[&a, &b, &copied]).await;
    }
    let found = files(&a.dir());
    assert_eq!(found["four.txt"], "b's");
    assert!(!found.keys().any(|name| name.starts_with("four (")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_its_directory_removes_nothing() {
    let (mut a, b) = pair_with_files().await;
    a.node.stop().await;
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().canonicalize().expect("its path").join("Photos");
    let node = copy_of(&a, Some(&dir)).await;
    let mut copied = Machine { node, home };
    a.node.boot().await;
    b.node.dial(&a.node).await;
    copied.says("it is missing", |report| report["state"] == "missing").await;
    gets_its_own_id(&mut copied).await;
    // An empty directory is not the one that had the files.
    fs::create_dir(copied.dir()).expect("a directory");
    copied.node.dial(&b.node).await;
    copied.node.wait_in_sync().await;
    copied.act(serde_json::json!({ "action": "look" })).await;
    copied
        .says("it is missing", |report| {
            report["state"] == "missing"
                && report["reason"].as_str().is_some_and(|why| why.contains("add the folder"))
        })
        .await;
    a.put("one.txt", "one more");
    let all: Vec<(&str, &str)> = ALL
        .iter()
        .map(|(name, content)| (*name, if *name == "one.txt" { "one more" } else { content }))
        .collect();
    a.has(&all).await;
    b.has(&all).await;
    copied.add().await;
    copied.has(&all).await;
    assert_eq!(alike(&[&a, &b, &copied]).await.len(), 5);
    a.keeps(&["one"]).await;
}

/// Two nodes that take one directory for theirs, as where it lies on a disk that both see.
#[tokio::test(flavor = "multi_thread")]
async fn two_on_one_directory_lose_nothing() {
    let (mut a, b) = pair_with_files().await;
    a.node.stop().await;
    let mut copied = copy_of(&a, None).await;
    a.node.boot().await;
    b.node.dial(&a.node).await;
    for round in 0..5 {
        b.put("one.txt", &format!("one of b {round}"));
        b.put(&format!("{round}.txt"), &round.to_string());
        a.put("four.txt", &format!("four {round}"));
        let found = alike(&[&a, &b]).await;
        assert_eq!(found.len(), 6 + round, "{found:?}");
    }
    fs::remove_file(b.dir().join("two.txt")).expect("it was there");
    alike(&[&a, &b]).await;
    copied.stop().await;
    let empty = tempfile::tempdir().expect("a directory");
    let mut second = Machine { node: copied, home: empty };
    second.node.boot().await;
    gets_its_own_id(&mut second).await;
    second.node.dial(&b.node).await;
    second.node.wait_in_sync().await;
    let found = alike(&[&a, &b]).await;
    eventually("the other one rests, too", async || {
        let report = second.report().await;
        (report["state"] == "idle" && report["entries"] == 9).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    assert_eq!(found.len(), 9, "{found:?}");
    let all: Vec<String> =
        (0..5).flat_map(|round| [format!("one of b {round}"), format!("four {round}")]).collect();
    a.keeps(
        &all.iter().map(String::as_str).chain(["one", "two", "three", "four", "five"]).collect::<Vec<_>>(),
    )
    .await;
}
