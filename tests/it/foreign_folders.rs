//! Folders that came by a ticket, at the reader's: nothing of them becomes the reader's own, and nothing of the reader's own is touched.

use std::fs;

use can_sync::testing::config::ConfiguredFolder;
use serde_json::{Value, json};

use crate::libraries::{Invited, Share, stranger};
use crate::support::bound::BoundNode;
use crate::support::nodes::{TestNode, eventually};
use crate::support::store::hash_of;

const PHOTOS: &str = "photos";

async fn owner(files: &[(&str, &str)]) -> (BoundNode, Share, Invited) {
    let owner = BoundNode::new(TestNode::start("owner", |_| {}).await);
    for (name, content) in files {
        owner.put(PHOTOS, name, content);
    }
    owner.binds(PHOTOS).await;
    let share = Share::new(&owner.node, json!({ "folder": PHOTOS })).await;
    let invited = share.invite(&owner.node, json!({ "access": "read" })).await;
    (owner, share, invited)
}

/// A node of the reader's network, and another one of it.
async fn network() -> (BoundNode, BoundNode) {
    let reader = BoundNode::new(stranger("reader").await);
    let passphrase = reader.node.config.sync_passphrase.clone();
    let beside = TestNode::start("beside", |config| config.sync_passphrase = passphrase).await;
    beside.dial(&reader.node).await;
    (reader, BoundNode::new(beside))
}

async fn is_deleted(node: &TestNode, hash: &str) -> bool {
    !node.held().await.iter().any(|held| held == hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_reader_deleted_stays_deleted_and_everything_can_be() {
    let (owner, share, invited) = owner(&[("one.txt", "one"), ("two.txt", "two")]).await;
    let (reader, _beside) = network().await;
    let mine = reader.node.ingest("one", &[]).await;
    let delete = async |hash: &str| {
        let url = format!("{}/asset/{hash}", reader.node.node().store_url());
        reader.node.http.delete(url).send().await.expect("an answer").status()
    };
    assert!(delete(&mine).await.is_success());
    invited.join(&reader.node).await;
    reader.knows(PHOTOS).await;
    assert_eq!(reader.add(PHOTOS).await["status"], "success");
    reader.has(PHOTOS, &[("two.txt", "two")]).await;
    share.in_sync(&reader.node).await;
    owner.put(PHOTOS, "three.txt", "three");
    reader.has(PHOTOS, &[("two.txt", "two"), ("three.txt", "three")]).await;
    assert!(is_deleted(&reader.node, &mine).await, "a stranger's folder names it");
    assert!(delete(&hash_of(b"two").to_string()).await.is_success(), "no folder of ours has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_there_already_do_not_become_the_readers_own_assets() {
    let (owner, share, invited) = owner(&[("one.txt", "one"), ("two.txt", "two")]).await;
    let (reader, _beside) = network().await;
    // A friend gets all that is the reader's own.
    let friend = stranger("friend").await;
    let everything = Share::new(&reader.node, json!({})).await;
    everything.invite(&reader.node, json!({ "access": "read" })).await.join(&friend).await;
    reader.put(PHOTOS, "one.txt", "one");
    reader.put(PHOTOS, "mine.txt", "mine");
    invited.join(&reader.node).await;
    reader.knows(PHOTOS).await;
    assert_eq!(reader.add(PHOTOS).await["status"], "success");
    reader.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two"), ("mine.txt", "mine")]).await;
    share.in_sync(&reader.node).await;
    reader.says(PHOTOS, "all is agreed", |report| report["state"] == "idle" && report["entries"] == 2).await;
    reader.node.ingest("of this network", &[]).await;
    friend.holds(1).await;
    everything.in_sync(&friend).await;
    assert_eq!(friend.held().await, [hash_of(b"of this network").to_string()]);
    assert!(reader.node.content(&hash_of(b"mine").to_string()).await.is_none());
    // A newer version takes the place of the file that was there.
    fs::write(owner.dir(PHOTOS).join("one.txt"), "one more").expect("a file");
    reader.has(PHOTOS, &[("one.txt", "one more"), ("two.txt", "two"), ("mine.txt", "mine")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_folder_is_not_met_by_its_name_alone() {
    let (_owner, _, invited) = owner(&[("one.txt", "one")]).await;
    let (mut reader, beside) = network().await;
    invited.join(&reader.node).await;
    reader.knows(PHOTOS).await;
    // The directory has the name by chance.
    reader.put(PHOTOS, "mine.txt", "mine");
    let bind = async |node: &TestNode, body: Value| node.post("/folders", body).await;
    let path = reader.dir(PHOTOS);
    let refused = bind(&reader.node, json!({ "path": path })).await;
    assert_eq!(refused["status"], "error", "{refused}");
    assert!(refused["error"].as_str().expect("why").contains("ticket"), "{refused}");
    for mode in ["both", "send-only"] {
        let refused = bind(&reader.node, json!({ "path": path, "name": PHOTOS, "mode": mode })).await;
        assert_eq!(refused["status"], "error", "{refused}");
    }
    // By the configuration it becomes one of our own.
    reader.node.stop().await;
    let folder = ConfiguredFolder { path, name: Some(PHOTOS.to_owned()), ..ConfiguredFolder::default() };
    reader.node.config.folders.0.push(folder);
    reader.node.boot().await;
    beside.node.dial(&reader.node).await;
    beside.knows(PHOTOS).await;
    beside.binds(PHOTOS).await;
    beside.has(PHOTOS, &[("mine.txt", "mine")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_deleted_leaves_files_and_takes_the_folder_along() {
    let (owner, share, invited) = owner(&[("one.txt", "one")]).await;
    let (mut reader, _beside) = network().await;
    invited.join(&reader.node).await;
    reader.knows(PHOTOS).await;
    assert_eq!(reader.add(PHOTOS).await["status"], "success");
    reader.has(PHOTOS, &[("one.txt", "one")]).await;
    let url = format!("http://{}/libraries/{}?content=delete", reader.node.node().api_addr(), share.id);
    let deleted = reader.node.http.delete(url).send().await.expect("an answer");
    assert!(deleted.status().is_success(), "{:?}", deleted.text().await);
    assert!(reader.known().await.is_empty());
    let said = reader.report(PHOTOS).await;
    assert!(said["problems"].to_string().contains("library is not here any more"), "{said}");
    reader.act(PHOTOS, json!({ "action": "look" })).await;
    reader.has(PHOTOS, &[("one.txt", "one")]).await;
    assert!(is_deleted(&reader.node, &hash_of(b"one").to_string()).await, "it was let go of");
    // It can come again, to a node that has forgotten what it was called.
    reader.node.stop().await;
    reader.node.boot().await;
    owner.put(PHOTOS, "two.txt", "two");
    invited.join(&reader.node).await;
    reader.knows(PHOTOS).await;
    reader.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two")]).await;
    eventually("all is agreed", async || {
        let report = reader.report(PHOTOS).await;
        let is_it = report["state"] == "idle" && report["problems"] == json!([]);
        is_it.then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
}
