//! An older copy of something is in its place: of the store, of `agent.db`, of the directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::copies::copy;
use crate::support::files::files;
use crate::support::machine::{Machine, alike, pair};
use crate::support::nodes::eventually;

const FIRST: [(&str, &str); 5] = [
    ("edited.txt", "edited"),
    ("gone.txt", "gone"),
    ("kept.txt", "kept"),
    ("moved.txt", "moved"),
    ("theirs.txt", "theirs"),
];
const LATER: [(&str, &str); 5] = [
    ("d/moved.txt", "moved"),
    ("edited.txt", "edited, later"),
    ("kept.txt", "kept"),
    ("new.txt", "new"),
    ("theirs.txt", "theirs, later"),
];

/// Two machines, after things were done in both directories; what `what` of the first one's data directory, or its directory, was before.
async fn pair_with_past(what: impl Fn(&Machine) -> Vec<PathBuf>) -> (Machine, Machine, tempfile::TempDir) {
    let (mut a, b) = pair().await;
    for (name, content) in FIRST {
        a.put(name, content);
    }
    b.has(&FIRST).await;
    a.rests(5).await;
    b.rests(5).await;
    a.node.stop().await;
    let past = tempfile::tempdir().expect("a directory");
    for path in what(&a).iter().filter(|path| path.exists()) {
        copy(path, past.path());
    }
    a.node.boot().await;
    a.node.dial(&b.node).await;
    a.put("edited.txt", "edited, later");
    fs::remove_file(a.dir().join("gone.txt")).expect("it was there");
    fs::create_dir(a.dir().join("d")).expect("a directory");
    fs::rename(a.dir().join("moved.txt"), a.dir().join("d/moved.txt")).expect("it was there");
    a.put("new.txt", "new");
    b.put("theirs.txt", "theirs, later");
    a.has(&LATER).await;
    b.has(&LATER).await;
    alike(&[&a, &b]).await;
    a.node.stop().await;
    (a, b, past)
}

/// Puts into their places what was there before.
fn set_back(past: &Path, paths: &[PathBuf]) {
    for path in paths {
        let _ = fs::remove_dir_all(path);
        let _ = fs::remove_file(path);
        let before = past.join(path.file_name().expect("a name"));
        if before.exists() {
            copy(&before, path);
        }
    }
}

fn store(machine: &Machine) -> Vec<PathBuf> {
    vec![machine.node.config.data_dir.join("store")]
}

fn agent_db(machine: &Machine) -> Vec<PathBuf> {
    ["agent.db", "agent.db-wal", "agent.db-shm"].map(|name| machine.node.config.data_dir.join(name)).to_vec()
}

fn directory(machine: &Machine) -> Vec<PathBuf> {
    vec![machine.dir()]
}

/// All that ever was there.
async fn nothing_is_lost(machines: &[&Machine]) {
    let contents: Vec<&str> = FIRST.iter().chain(&LATER).map(|(_, content)| *content).collect();
    for machine in machines {
        machine.keeps(&contents).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_has_again_what_the_directory_shows() {
    let (mut a, mut b, past) = pair_with_past(store).await;
    set_back(past.path(), &store(&a));
    // Nobody is there to say what the store had.
    b.node.stop().await;
    a.put("kept.txt", "kept, and edited");
    a.node.boot().await;
    let mut now = LATER;
    now[2].1 = "kept, and edited";
    a.has(&now).await;
    a.rests(5).await;
    for (_, content) in now {
        let hash = crate::support::store::hash_of(content.as_bytes()).to_string();
        assert!(a.node.content(&hash).await.is_some(), "{content}");
    }
    b.put("theirs.txt", "theirs, last");
    b.node.boot().await;
    b.node.dial(&a.node).await;
    now[4].1 = "theirs, last";
    a.has(&now).await;
    b.has(&now).await;
    let found = alike(&[&a, &b]).await;
    assert_eq!(found.len(), 5, "{found:?}");
    nothing_is_lost(&[&b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_beside_one_that_was_not_is_filled_again() {
    let (mut a, b, past) = pair_with_past(store).await;
    set_back(past.path(), &store(&a));
    fs::remove_file(a.dir().join("new.txt")).expect("it was there");
    b.put("edited.txt", "edited, last");
    a.node.boot().await;
    a.node.dial(&b.node).await;
    let now = [
        ("d/moved.txt", "moved"),
        ("edited.txt", "edited, last"),
        ("kept.txt", "kept"),
        ("theirs.txt", "theirs, later"),
    ];
    a.has(&now).await;
    b.has(&now).await;
    alike(&[&a, &b]).await;
    nothing_is_lost(&[&b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_db_that_was_set_back_learns_again_what_was_agreed() {
    let (mut a, b, past) = pair_with_past(agent_db).await;
    set_back(past.path(), &agent_db(&a));
    // Here and there, of what the older one knows and of what it does not.
    a.put("kept.txt", "kept, and edited");
    a.put("new.txt", "new, and edited");
    b.put("edited.txt", "edited, last");
    b.rests(5).await;
    a.node.boot().await;
    a.node.dial(&b.node).await;
    // It does not know that it had `new.txt`: that is a copy, or the newer one.
    eventually("both have all", async || {
        let found = files(&a.dir());
        let has = |content: &str| found.values().any(|there| there == content);
        let is_it = has("kept, and edited") && has("new, and edited") && has("edited, last");
        is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    let found = alike(&[&a, &b]).await;
    assert_eq!(found["edited.txt"], "edited, last");
    assert_eq!(found["theirs.txt"], "theirs, later");
    assert_eq!(found["kept.txt"], "kept, and edited");
    assert!(!found.contains_key("gone.txt") && !found.contains_key("moved.txt"), "{found:?}");
    nothing_is_lost(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_set_back_is_what_its_user_wants_and_all_else_is_history() {
    let (mut a, b, past) = pair_with_past(directory).await;
    set_back(past.path(), &directory(&a));
    a.node.boot().await;
    a.node.dial(&b.node).await;
    a.has(&FIRST).await;
    b.has(&FIRST).await;
    alike(&[&a, &b]).await;
    nothing_is_lost(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_lacks_many_files_once_it_was_set_back_is_asked_about() {
    let (a, b) = pair().await;
    a.put("first.txt", "first");
    b.has(&[("first.txt", "first")]).await;
    a.rests(1).await;
    let past = tempfile::tempdir().expect("a directory");
    copy(&a.dir(), past.path());
    let names: Vec<String> = (0..60).map(|n| format!("{n:02}.txt")).collect();
    for name in &names {
        a.put(name, name);
    }
    a.put("first.txt", "first, later");
    let all: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), name.as_str()))
        .chain([("first.txt", "first, later")])
        .collect();
    b.has(&all).await;
    alike(&[&a, &b]).await;
    // While it is looked after: first it is not there, then the older one is.
    fs::rename(a.dir(), a.home.path().join("now")).expect("it was there");
    copy(&past.path().join("Photos"), &a.dir());
    a.says("what lacks is held", |report| report["held"] == 60).await;
    let edited: Vec<(&str, &str)> = all
        .iter()
        .map(|(name, content)| (*name, if *name == "first.txt" { "first" } else { content }))
        .collect();
    b.has(&edited).await;
    a.does("revert").await;
    a.has(&edited).await;
    alike(&[&a, &b]).await;
    a.keeps(&["first, later"]).await;
}
