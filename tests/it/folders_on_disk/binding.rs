//! Which directory is a folder: markers that are lost, directories that are away, an `agent.db` that is lost.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::files::files;
use crate::support::machine::{Machine, acquainted, knows, pair};
use crate::support::nodes::eventually;

const ALL: [(&str, &str); 3] = [("d/three.txt", "three"), ("one.txt", "one"), ("two.txt", "two")];

async fn pair_with_files() -> (Machine, Machine) {
    let (a, b) = pair().await;
    for (name, content) in ALL {
        a.put(name, content);
    }
    b.has(&ALL).await;
    a.rests(3).await;
    b.rests(3).await;
    (a, b)
}

fn why(answer: &Value) -> &str {
    assert_eq!(answer["status"], "error", "{answer}");
    answer["error"].as_str().expect("a sentence")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_without_a_marker_that_is_added_again_removes_nothing() {
    let (a, b) = pair_with_files().await;
    // As if the disk of the directory were not mounted.
    fs::rename(b.dir(), b.home.path().join("away")).expect("it was there");
    fs::create_dir(b.dir()).expect("a directory");
    b.does("look").await;
    b.says("it is missing", |report| report["state"] == "missing").await;
    b.remove().await;
    b.add().await;
    b.has(&ALL).await;
    a.does("look").await;
    a.has(&ALL).await;
    a.says("it has all of them", |report| report["entries"] == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_lost_its_marker_goes_on_when_it_is_added_again() {
    let (a, b) = pair_with_files().await;
    fs::remove_file(b.dir().join(".can-sync-folder")).expect("it was there");
    b.act(json!({ "action": "look" })).await;
    b.says("it is missing, and says what to do", |report| {
        report["state"] == "missing"
            && report["reason"].as_str().is_some_and(|why| why.contains("add the folder again"))
    })
    .await;
    // What happens meanwhile is not lost.
    b.put("one.txt", "one of b");
    fs::remove_file(b.dir().join("two.txt")).expect("it was there");
    a.put("four.txt", "four");
    b.add().await;
    for machine in [&a, &b] {
        eventually("all is there, and what b changed", async || {
            let found = files(&machine.dir());
            let is_it = found.len() == 5
                && ALL.iter().all(|(name, content)| found.get(*name).is_some_and(|there| there == content))
                && found.values().any(|content| content == "one of b");
            is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_agent_db_a_machine_goes_on_once_the_marker_is_gone() {
    let (a, mut b) = pair_with_files().await;
    b.node.stop().await;
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(b.node.config.data_dir.join(format!("agent.db{end}")));
    }
    b.put("one.txt", "one, later");
    fs::remove_file(a.dir().join("two.txt")).expect("it was there");
    a.rests(2).await;
    b.node.boot().await;
    b.node.dial(&a.node).await;
    b.node.wait_in_sync().await;
    let body = json!({ "path": b.dir(), "name": "photos" });
    let refused = b.node.post("/folders", body.clone()).await;
    assert!(why(&refused).contains("remove its .can-sync-folder"), "{refused}");
    fs::remove_file(b.dir().join(".can-sync-folder")).expect("it was there");
    b.add().await;
    // What was removed meanwhile is asked about; what was edited is on both, beside what the folder has.
    b.says("it asks", |report| report["asked"] == json!(["two.txt"])).await;
    b.does("keep").await;
    for machine in [&a, &b] {
        eventually("all is there, and the edit", async || {
            let found = files(&machine.dir());
            let is_it = found.len() == 4
                && ALL.iter().all(|(name, content)| found.get(*name).is_some_and(|there| there == content))
                && found.values().any(|content| content == "one, later");
            is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_removed_while_it_syncs_goes_on_elsewhere_and_in_its_place() {
    const FILES: usize = 300;
    let (a, b) = acquainted().await;
    let names: Vec<String> = (0..FILES).map(|n| format!("{n:03}.txt")).collect();
    for name in &names {
        a.put(name, &name.repeat(20));
    }
    b.put("mine.txt", "mine");
    a.add().await;
    knows(&b).await;
    b.add().await;
    eventually("some are there", async || {
        let found = files(&b.dir()).len();
        (found > 20).then_some(()).ok_or_else(|| format!("{found} files"))
    })
    .await;
    b.remove().await;
    b.add().await;
    b.remove().await;
    // In another directory: nothing of what was agreed with the first counts there.
    let first = b.dir();
    let elsewhere = b.home.path().join("Elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let added = b.node.post("/folders", json!({ "path": elsewhere, "name": "photos" })).await;
    assert_eq!(added["status"], "success", "{added}");
    let is_whole = |found: &std::collections::BTreeMap<String, String>| {
        names.iter().all(|name| found.get(name).is_some_and(|content| *content == name.repeat(20)))
    };
    for dir in [&a.dir(), &elsewhere] {
        eventually("all are there", async || {
            let found = files(dir);
            is_whole(&found).then_some(()).ok_or_else(|| format!("{} files", found.len()))
        })
        .await;
    }
    a.says("all are in the folder", |report| report["entries"].as_u64() >= Some(FILES as u64)).await;
    assert_eq!(fs::read_to_string(first.join("mine.txt")).expect("it stays"), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_directory_of_its_own_can_be_a_folder() {
    let (a, _b) = pair().await;
    let home = a.home.path();
    fs::write(home.join("file"), "x").expect("a file");
    fs::create_dir_all(a.node.config.data_dir.join("inside")).expect("a directory");
    fs::create_dir(home.join("Other")).expect("a directory");
    std::os::unix::fs::symlink(home.join("Other"), home.join("link")).expect("a link");
    std::os::unix::fs::symlink(a.dir(), home.join("same")).expect("a link");
    let refused: [(PathBuf, &str); 6] = [
        (home.join("file"), "not a directory"),
        (home.join("none"), "no directory"),
        (a.node.config.data_dir.join("inside"), "data directory"),
        (a.node.config.data_dir.parent().expect("a parent").to_owned(), "data directory"),
        (home.to_owned(), "one inside the other"),
        (PathBuf::from("relative"), "absolute"),
    ];
    for (path, part) in refused {
        let answer = a.node.post("/folders", json!({ "path": path, "name": "other" })).await;
        assert!(why(&answer).contains(part), "{answer}");
    }
    // A link is the directory that it leads to.
    let answer = a.node.post("/folders", json!({ "path": home.join("same"), "name": "photos" })).await;
    assert_eq!(
        answer["data"]["path"],
        a.dir().canonicalize().expect("its path").display().to_string(),
        "{answer}"
    );
    let answer = a.node.post("/folders", json!({ "path": home.join("link"), "name": "other" })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    assert!(home.join("Other/.can-sync-folder").exists());
    // It is not taken for something else than it is.
    let answer = a.node.post("/folders", json!({ "path": a.dir(), "name": "videos" })).await;
    assert!(why(&answer).contains("already"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_64_folders_at_most_also_where_many_are_added_at_once() {
    let a = Machine::start("a").await;
    let bodies: Vec<Value> = (0..70)
        .map(|number| {
            let path = a.home.path().join(format!("d{number}"));
            fs::create_dir(&path).expect("a directory");
            json!({ "path": path, "scan_only": true })
        })
        .collect();
    let answers =
        futures::future::join_all(bodies.into_iter().map(|body| a.node.post("/folders", body))).await;
    let (bound, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer["status"] == "success");
    assert_eq!((bound.len(), refused.len()), (64, 6), "{refused:?}");
    assert!(refused.iter().all(|answer| why(answer).contains("64 folders")), "{refused:?}");
    // How one of them is kept can be changed all the same.
    let path = &bound[0]["data"]["path"];
    let answer = a.node.post("/folders", json!({ "path": path, "mode": "send-only" })).await;
    assert_eq!(answer["data"]["mode"], "send-only", "{answer}");
}
