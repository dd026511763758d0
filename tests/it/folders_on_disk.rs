//! Folders with directories on two real nodes: what a user does in one shows in the other, and nothing is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::files::files;
use crate::support::machine::{Machine, knows, pair};
use crate::support::nodes::eventually;

mod binding;
mod copies;
mod mounts;
mod oddities;
mod one_way;
mod removals;
mod roots;
mod set_back;
mod unreadable;
mod written;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_in_one_directory_shows_in_the_other() {
    let (a, b) = pair().await;
    a.put("one.txt", "one");
    a.put("d/e/two.txt", "two");
    a.put("empty", "");
    let big = "0123456789".repeat(40_000);
    b.put("big.txt", &big);
    let all = [("one.txt", "one"), ("d/e/two.txt", "two"), ("empty", ""), ("big.txt", big.as_str())];
    a.has(&all).await;
    b.has(&all).await;
    // An edit, back the other way.
    b.put("one.txt", "one more");
    a.has(&[("one.txt", "one more"), ("d/e/two.txt", "two"), ("empty", ""), ("big.txt", &big)]).await;
    // A removal and a rename.
    fs::remove_file(a.dir().join("empty")).expect("it was there");
    fs::rename(a.dir().join("big.txt"), a.dir().join("d/large.txt")).expect("it was there");
    let left = [("one.txt", "one more"), ("d/e/two.txt", "two"), ("d/large.txt", big.as_str())];
    b.has(&left).await;
    a.has(&left).await;
    // A directory is renamed.
    fs::rename(b.dir().join("d"), b.dir().join("f")).expect("it was there");
    let left = [("one.txt", "one more"), ("f/e/two.txt", "two"), ("f/large.txt", big.as_str())];
    a.has(&left).await;
    b.has(&left).await;
    // Its versions are known, and come back.
    let history = b.node.get("/folders/photos/history?path=one.txt").await["data"]["versions"].clone();
    assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    let done = b.act(json!({ "action": "restore", "path": "one.txt" })).await;
    assert_eq!(done["status"], "success", "{done}");
    let left = [("one.txt", "one"), ("f/e/two.txt", "two"), ("f/large.txt", big.as_str())];
    a.has(&left).await;
    b.has(&left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_edited_while_apart_is_on_both_twice() {
    let (a, mut b) = pair().await;
    a.put("note.txt", "base");
    b.has(&[("note.txt", "base")]).await;
    b.node.stop().await;
    a.put("note.txt", "of a");
    a.says("the edit is in the store", |report| report["state"] == "idle").await;
    b.put("note.txt", "of b");
    b.node.boot().await;
    b.node.dial(&a.node).await;
    for machine in [&a, &b] {
        eventually("both versions are there", async || {
            let found = files(&machine.dir());
            let contents: Vec<&str> = found.values().map(String::as_str).collect();
            let is_it = contents.len() == 2 && contents.contains(&"of a") && contents.contains(&"of b");
            (is_it && found.contains_key("note.txt")).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
    assert_eq!(files(&a.dir()), files(&b.dir()));
    b.says("a copy is named", |report| report["conflicts"].as_array().is_some_and(|all| all.len() == 1))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_becomes_a_copy_and_what_is_alike_is_taken_over() {
    let (a, b) = tokio::join!(Machine::start("a"), Machine::start("b"));
    b.node.dial(&a.node).await;
    tokio::join!(a.node.wait_in_sync(), b.node.wait_in_sync());
    for machine in [&a, &b] {
        machine.put("same.txt", "same");
    }
    a.put("other.txt", "of a");
    b.put("other.txt", "of b");
    a.add().await;
    a.says("all is in the store", |report| report["entries"] == 2 && report["state"] == "idle").await;
    knows(&b).await;
    b.node.wait_in_sync().await;
    b.add().await;
    for machine in [&a, &b] {
        eventually("three files are there", async || {
            let found = files(&machine.dir());
            let is_it = found.len() == 3
                && found.get("same.txt").is_some_and(|content| content == "same")
                && found.get("other.txt").is_some_and(|content| content == "of a")
                && found.values().any(|content| content == "of b");
            is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_removals_at_once_wait_for_somebodys_word() {
    let (a, b) = pair().await;
    let names: Vec<String> = (0..60).map(|n| format!("{n:02}.txt")).collect();
    for name in &names {
        a.put(name, name);
    }
    let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    b.has(&all).await;
    a.says("all is agreed", |report| report["entries"] == 60 && report["state"] == "idle").await;
    for name in &names[..30] {
        fs::remove_file(a.dir().join(name)).expect("it was there");
    }
    a.says("removals are held", |report| report["held"].as_u64().is_some_and(|held| held >= 10)).await;
    let held = a.report().await["held"].as_u64().expect("a number");
    // Few of them may have gone before it was seen that they are many.
    let here = files(&b.dir()).len() as u64;
    assert!(here >= 60 - 20 && held <= 30, "{here} files, {held} held");
    let done = a.act(json!({ "action": "revert" })).await;
    assert_eq!(done["status"], "success", "{done}");
    a.says("they are back", |report| report["held"] == 0).await;
    let back = files(&a.dir());
    assert!(back.len() as u64 >= 60 - (30 - held), "{} files", back.len());
    // Once more, and it is meant.
    for name in back.keys() {
        if names[..30].contains(name) {
            fs::remove_file(a.dir().join(name)).expect("it was there");
        }
    }
    a.says("removals are held", |report| report["held"].as_u64().is_some_and(|held| held > 0)).await;
    let done = a.act(json!({ "action": "confirm" })).await;
    assert_eq!(done["status"], "success", "{done}");
    // Whoever receives so many asks as well.
    b.says("removals are held there, too", |report| report["held"].as_u64().is_some_and(|held| held > 0))
        .await;
    // It confirms those that it has heard of.
    b.node.wait_in_sync().await;
    let done = b.act(json!({ "action": "confirm" })).await;
    assert_eq!(done["status"], "success", "{done}");
    b.has(&all[30..]).await;
    a.has(&all[30..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_marker_nothing_is_removed_and_a_restart_goes_on() {
    let (mut a, b) = pair().await;
    a.put("one.txt", "one");
    a.put("two.txt", "two");
    b.has(&[("one.txt", "one"), ("two.txt", "two")]).await;
    a.says("all is agreed", |report| report["entries"] == 2 && report["state"] == "idle").await;
    // As if the disk of the directory were not mounted.
    let away = a.home.path().join("away");
    fs::rename(a.dir(), &away).expect("it was there");
    fs::create_dir(a.dir()).expect("a directory");
    a.act(json!({ "action": "look" })).await;
    a.says("the folder is missing", |report| report["state"] == "missing").await;
    b.act(json!({ "action": "look" })).await;
    assert_eq!(files(&b.dir()).len(), 2);
    a.node.stop().await;
    fs::remove_dir(a.dir()).expect("nothing was written there");
    fs::rename(&away, a.dir()).expect("it was there");
    // What happened while it was down.
    a.put("one.txt", "one, later");
    fs::remove_file(a.dir().join("two.txt")).expect("it was there");
    b.put("three.txt", "three");
    b.says("it is in the store", |report| report["entries"] == 3).await;
    a.node.boot().await;
    a.node.dial(&b.node).await;
    let left = [("one.txt", "one, later"), ("three.txt", "three")];
    b.has(&left).await;
    a.has(&left).await;
    // A folder that is taken away keeps its files, and goes on when it is added again.
    let url = format!("http://{}/folders/photos", a.node.node().api_addr());
    let answer = a.node.http.delete(url).send().await.expect("an answer");
    assert!(answer.status().is_success());
    a.put("one.txt", "one, last");
    a.add().await;
    b.has(&[("one.txt", "one, last"), ("three.txt", "three")]).await;
    assert_eq!(files(&a.dir()).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_in_the_middle_goes_on_and_loses_nothing() {
    const FILES: usize = 300;
    let (a, mut b) = (Daemon::start(&embedded_yaml("name: a")), Daemon::start(&embedded_yaml("name: b")));
    let dirs = [a.user.home().join("Photos"), b.user.home().join("Photos")];
    for dir in &dirs {
        fs::create_dir(dir).expect("a directory");
    }
    let content = |n: usize, round: usize| format!("{n} {round} ").repeat(1 + n * 10);
    for n in 0..FILES {
        fs::write(dirs[0].join(format!("{n:03}.txt")), content(n, 0)).expect("a file");
    }
    // What b alone has must survive as well.
    fs::write(dirs[1].join("mine.txt"), "mine").expect("a file");
    let post = async |daemon: &Daemon, path: &str, body: Value| {
        let answer = daemon.http.post(daemon.url(path)).json(&body).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")
    };
    let ticket = a.http.get(a.url("/ticket")).send().await.expect("an answer");
    let ticket: Value = ticket.json().await.expect("JSON");
    let dial = json!({ "ticket": ticket["data"]["ticket"] });
    post(&b, "/peers", dial.clone()).await;
    let added = post(&a, "/folders", json!({ "path": dirs[0], "name": "photos" })).await;
    assert_eq!(added["status"], "success", "{added}");
    eventually("the folder is known", async || {
        let known = b.http.get(b.url("/folders")).send().await.map_err(|e| e.to_string())?;
        let known: Value = known.json().await.map_err(|e| e.to_string())?;
        let is_known = known["data"]["known"].as_array().is_some_and(|known| known.len() == 1);
        is_known.then_some(()).ok_or_else(|| known.to_string())
    })
    .await;
    post(&b, "/folders", json!({ "path": dirs[1], "name": "photos" })).await;
    for some in [10, FILES / 2] {
        eventually("some are there", async || {
            let found = files(&dirs[1]).len();
            (found > some).then_some(()).ok_or_else(|| format!("{found} files"))
        })
        .await;
        b = b.restart();
        post(&b, "/peers", dial.clone()).await;
    }
    let mut expected: BTreeMap<String, String> =
        (0..FILES).map(|n| (format!("{n:03}.txt"), content(n, 0))).collect();
    expected.insert("mine.txt".into(), "mine".into());
    for dir in &dirs {
        eventually("all are there", async || {
            let found = files(dir);
            (found == expected).then_some(()).ok_or_else(|| format!("{} files", found.len()))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_or_is_no_file_stays_alone_and_a_directory_may_have_a_files_name() {
    let (a, b) = pair().await;
    a.put(".can-syncignore", "*.tmp\n");
    // A look that is under way goes by the rules that it began with.
    a.does("look").await;
    a.put("a.tmp", "ignored");
    std::os::unix::fs::symlink("/etc/hostname", a.dir().join("link")).expect("a link");
    a.put("one.txt", "one");
    b.has(&[("one.txt", "one")]).await;
    a.says("the link is named", |report| {
        let named = report["passed_over"].as_array();
        named.is_some_and(|named| named.iter().any(|one| one["path"] == "link"))
    })
    .await;
    assert!(a.dir().join("link").is_symlink() && a.dir().join("a.tmp").exists());
    // A file makes way for a directory.
    fs::remove_file(b.dir().join("one.txt")).expect("it was there");
    b.put("one.txt/two.txt", "two");
    eventually("a has the directory", async || {
        let found = files(&a.dir());
        let is_it = found.get("one.txt/two.txt").is_some_and(|content| content == "two");
        is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    b.has(&[("one.txt/two.txt", "two")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_no_more_is_on_the_other_machine_at_once() {
    let (a, b) = pair().await;
    a.put(".can-syncignore", "*.tmp\n*.bak\n");
    // A look that is under way goes by the rules that it began with.
    a.does("look").await;
    a.put("a.tmp", "one");
    a.put("b.bak", "two");
    a.put("c.txt", "three");
    b.has(&[("c.txt", "three")]).await;
    a.rests(1).await;
    a.put(".can-syncignore", "*.bak\n");
    b.has(&[("a.tmp", "one"), ("c.txt", "three")]).await;
    a.rests(2).await;
    fs::remove_file(a.dir().join(".can-syncignore")).expect("it was there");
    b.has(&[("a.tmp", "one"), ("b.bak", "two"), ("c.txt", "three")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_may_go_one_way() {
    let (a, b) = tokio::join!(Machine::start("a"), Machine::start("b"));
    b.node.dial(&a.node).await;
    tokio::join!(a.node.wait_in_sync(), b.node.wait_in_sync());
    a.put("one.txt", "one");
    b.put("mine.txt", "mine");
    a.add().await;
    knows(&b).await;
    let body = json!({ "path": b.dir(), "name": "photos", "mode": "read-only" });
    let answer = b.node.post("/folders", body).await;
    assert_eq!(answer["status"], "success", "{answer}");
    b.has(&[("one.txt", "one"), ("mine.txt", "mine")]).await;
    // What a reader changes stays here, and makes way under another name.
    b.put("one.txt", "one of b");
    b.act(json!({ "action": "look" })).await;
    a.put("one.txt", "one more");
    eventually("the new version and the reader's are there", async || {
        let found = files(&b.dir());
        let is_it = found.len() == 3
            && found.get("one.txt").is_some_and(|content| content == "one more")
            && found.values().any(|content| content == "one of b");
        is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    assert_eq!(files(&a.dir()).len(), 1);
    assert_eq!(files(&a.dir())["one.txt"], "one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_folder_is_refused_and_says_why() {
    let (a, b) = pair().await;
    for path in [PathBuf::from("/"), a.node.config.data_dir.clone(), a.dir().join("none")] {
        let answer = a.node.post("/folders", json!({ "path": path, "name": "other" })).await;
        assert_eq!(answer["status"], "error", "{answer}");
    }
    fs::create_dir(a.dir().join("inside")).expect("a directory");
    let answer = a.node.post("/folders", json!({ "path": a.dir().join("inside") })).await;
    assert_eq!(answer["code"], "invalid_folder", "{answer}");
    // Two folders of one name: it asks, and names both ids.
    let (more, third) = (b.home.path().join("More"), b.home.path().join("Third"));
    fs::create_dir(&more).expect("a directory");
    fs::create_dir(&third).expect("a directory");
    let answer = b.node.post("/folders", json!({ "path": more, "name": "photos", "new": true })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    let answer = b.node.post("/folders", json!({ "path": third, "name": "photos" })).await;
    assert_eq!(answer["code"], "ambiguous_folder", "{answer}");
    let known = b.node.get("/folders").await["data"]["known"].clone();
    assert_eq!(known.as_array().map(Vec::len), Some(2), "{known}");
    for one in known.as_array().expect("a list") {
        let id = one["folder"].as_str().expect("an id");
        assert!(answer["error"].as_str().expect("a sentence").contains(id), "{answer}");
    }
}
