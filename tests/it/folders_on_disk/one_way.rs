//! Folders that go one way, and such that nothing is removed from or nothing is done in.

use std::fs;

use serde_json::json;

use crate::support::files::files;
use crate::support::machine::{acquainted, knows, pair};
use crate::support::nodes::eventually;
use crate::support::store::hash_of;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_directory_that_only_sends() {
    let (a, mut b) = acquainted().await;
    a.put("one.txt", "one");
    b.put("mine.txt", "mine");
    a.add().await;
    knows(&b).await;
    b.add_as("send-only", "apply").await;
    a.has(&[("one.txt", "one"), ("mine.txt", "mine")]).await;
    // An edit by the other side does not come, and the own edit makes a copy there.
    a.put("mine.txt", "of a");
    a.rests(2).await;
    b.node.wait_in_sync().await;
    b.put("mine.txt", "of b");
    eventually("both edits are with a", async || {
        let found = files(&a.dir());
        let has = |content: &str| found.values().any(|there| there == content);
        let is_it = found.len() == 3 && has("of a") && has("of b") && has("one");
        is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    // A removal there takes nothing away here, and a restart changes nothing.
    fs::remove_file(a.dir().join("one.txt")).expect("it was there");
    b.node.stop().await;
    b.node.boot().await;
    b.node.dial(&a.node).await;
    b.says("it is looked after again", |report| report["state"].is_string()).await;
    b.does("look").await;
    b.has(&[("mine.txt", "of b")]).await;
    let refused = b.act(json!({ "action": "restore", "path": "mine.txt" })).await;
    assert!(refused["error"].as_str().is_some_and(|why| why.contains("send-only")), "{refused}");
    b.has(&[("mine.txt", "of b")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_reader_shows_elsewhere() {
    let (a, b) = acquainted().await;
    a.put("one.txt", "one");
    a.put("two.txt", "two");
    a.put("three.txt", "three");
    b.put("secret.txt", "a secret");
    b.put("two.txt", "two of b");
    a.add().await;
    a.rests(3).await;
    knows(&b).await;
    b.node.wait_in_sync().await;
    b.add_as("read-only", "apply").await;
    // What was there before makes way.
    eventually("all is there, and what the reader has of its own", async || {
        let found = files(&b.dir());
        let is_it = found.len() == 5
            && found.get("one.txt").is_some_and(|content| content == "one")
            && found.get("two.txt").is_some_and(|content| content == "two")
            && found.values().any(|content| content == "two of b");
        is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    // An edit and a removal stay here, and are named.
    b.put("one.txt", "one of b");
    fs::remove_file(b.dir().join("three.txt")).expect("it was there");
    b.does("look").await;
    b.says("its own is named", |report| {
        let named = report["passed_over"].as_array();
        let names = |path: &str| named.is_some_and(|named| named.iter().any(|one| one["path"] == path));
        names("one.txt") && names("three.txt") && names("secret.txt")
    })
    .await;
    for action in ["revert", "keep"] {
        let refused = b.act(json!({ "action": action })).await;
        assert!(refused["error"].as_str().is_some_and(|why| why.contains("read-only")), "{refused}");
    }
    let refused = b.act(json!({ "action": "restore", "path": "one.txt" })).await;
    assert!(refused["error"].as_str().is_some_and(|why| why.contains("read-only")), "{refused}");
    a.put("one.txt", "one more");
    eventually("the new version is there", async || {
        let found = files(&b.dir());
        let is_it = found.get("one.txt").is_some_and(|content| content == "one more")
            && found.values().any(|content| content == "one of b");
        is_it.then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    a.has(&[("one.txt", "one more"), ("two.txt", "two"), ("three.txt", "three")]).await;
    b.node.wait_in_sync().await;
    for own in ["a secret", "two of b", "one of b"] {
        let hash = hash_of(own.as_bytes()).to_string();
        for node in [&a.node, &b.node] {
            assert_eq!(node.content(&hash).await, None, "{own}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_remove_stays_where_removals_are_ignored() {
    let (a, mut b) = acquainted().await;
    a.put("one.txt", "one");
    a.put("two.txt", "two");
    a.add().await;
    knows(&b).await;
    b.add_as("both", "ignore").await;
    b.has(&[("one.txt", "one"), ("two.txt", "two")]).await;
    b.rests(2).await;
    fs::remove_file(a.dir().join("one.txt")).expect("it was there");
    b.says("it is not in the folder", |report| report["entries"] == 1).await;
    b.node.stop().await;
    b.node.boot().await;
    b.node.dial(&a.node).await;
    b.says("it is looked after again", |report| report["state"].is_string()).await;
    b.does("look").await;
    b.has(&[("one.txt", "one"), ("two.txt", "two")]).await;
    a.has(&[("two.txt", "two")]).await;
    // An edit brings it back for all.
    b.put("one.txt", "one, kept");
    a.has(&[("one.txt", "one, kept"), ("two.txt", "two")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_paused_nothing_is_done_also_after_a_restart() {
    let (a, mut b) = pair().await;
    a.put("one.txt", "one");
    b.has(&[("one.txt", "one")]).await;
    b.does("pause").await;
    b.says("it is paused", |report| report["state"] == "paused").await;
    a.put("one.txt", "one more");
    a.put("two.txt", "two");
    a.rests(2).await;
    b.put("three.txt", "three");
    b.node.stop().await;
    b.node.boot().await;
    b.node.dial(&a.node).await;
    b.node.wait_in_sync().await;
    b.says("it is paused", |report| report["state"] == "paused").await;
    for action in ["look", "confirm", "revert", "keep", "trash"] {
        let refused = b.act(json!({ "action": action })).await;
        assert!(refused["error"].as_str().is_some_and(|why| why.contains("paused")), "{refused}");
    }
    b.has(&[("one.txt", "one"), ("three.txt", "three")]).await;
    a.has(&[("one.txt", "one more"), ("two.txt", "two")]).await;
    b.does("resume").await;
    let all = [("one.txt", "one more"), ("two.txt", "two"), ("three.txt", "three")];
    b.has(&all).await;
    a.has(&all).await;
}
