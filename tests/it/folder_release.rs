//! What of a folder its owner shares, whatever became of its directory, of its tables and of the process; and what waits until the owner
//! says so.

use std::fs;

use can_sync::testing::entry::{EntryAuthor, EntryPath, EntryRecord, FolderRecord};
use can_sync::testing::record::{Hlc, WriterId};
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::store::entries::EntryOutcome;
use serde_json::{Value, json};

use crate::libraries::Share;
use crate::shared_folders::{PHOTOS, entries, folder_id, naming, owner, reader, share};
use crate::support::bound::BoundNode;
use crate::support::nodes::eventually;
use crate::support::store::hash_of;

const OWN: (&str, &str) = ("own.txt", "put here");
const PLACED: (&str, &str) = ("placed.txt", "put on another machine");

/// An owner whose directory had the one file, and got the other because an entry names it.
async fn with_placed_file() -> BoundNode {
    let owner = owner().await;
    owner.put(PHOTOS, OWN.0, OWN.1);
    owner.binds(PHOTOS).await;
    owner.node.ingest(PLACED.1, &[]).await;
    let named = naming(folder_id(&owner, PHOTOS).await, PLACED.0, PLACED.1.as_bytes(), None);
    let taken = owner.node.sync_store().take_entries(vec![FolderRecord::Entry(named)], None).await;
    assert_eq!(taken, Ok(vec![EntryOutcome::Stored]));
    owner.has(PHOTOS, &[OWN, PLACED]).await;
    owner.says(PHOTOS, "all is agreed", |report| report["state"] == "idle").await;
    owner
}

/// Waits until so many contents are shared, and so many wait.
async fn shares(owner: &BoundNode, share: &Share, shared: u64, waiting: u64) {
    eventually("so much is shared", async || {
        let detail = share.detail(&owner.node).await;
        let is_it = detail["counts"]["assets"] == shared && detail["not_shared"] == waiting;
        is_it.then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
}

/// Binds a reader's directory, which waits for what is not shared.
async fn follows(reader: &BoundNode) {
    reader.knows(PHOTOS).await;
    let answer = reader.add(PHOTOS).await;
    assert_eq!(answer["status"], "success", "{answer}");
}

async fn unreleased(owner: &BoundNode, share: &Share) -> Value {
    owner.node.get(&format!("/libraries/{}/unreleased", share.id)).await["data"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_does_not_depend_on_the_directory_and_is_the_same_after_a_restart() {
    let mut owner = with_placed_file().await;
    let (share, invited) = share(&owner, PHOTOS).await;
    shares(&owner, &share, 1, 1).await;
    let url = format!("http://{}/folders/{PHOTOS}", owner.node.node().api_addr());
    assert!(owner.node.http.delete(url).send().await.expect("an answer").status().is_success());
    shares(&owner, &share, 1, 1).await;
    owner.node.stop().await;
    owner.node.boot().await;
    shares(&owner, &share, 1, 1).await;
    // Somebody comes while no directory is there.
    let reader = reader("reader").await;
    invited.join(&reader.node).await;
    follows(&reader).await;
    reader.has(PHOTOS, &[OWN]).await;
    share.in_sync(&reader.node).await;
    owner.binds(PHOTOS).await;
    owner.put(PHOTOS, "later.txt", "later");
    reader.has(PHOTOS, &[OWN, ("later.txt", "later")]).await;
    shares(&owner, &share, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_agent_db_shares_nothing_that_the_user_did_not_put() {
    let mut owner = with_placed_file().await;
    let (share, _) = share(&owner, PHOTOS).await;
    owner.node.stop().await;
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(owner.node.config.data_dir.join(format!("agent.db{end}")));
    }
    fs::remove_file(owner.dir(PHOTOS).join(".can-sync-folder")).expect("it was there");
    owner.node.boot().await;
    owner.binds(PHOTOS).await;
    // Nothing tells the two files apart.
    shares(&owner, &share, 0, 2).await;
    owner.put(PHOTOS, "new.txt", "new");
    shares(&owner, &share, 1, 2).await;
    let own = hash_of(OWN.1.as_bytes()).to_string();
    let release = format!("/libraries/{}/release", share.id);
    let released = owner.node.post(&release, json!({ "hashes": [own] })).await;
    assert_eq!(released["data"], json!({ "released": 1, "absent": 0 }), "{released}");
    shares(&owner, &share, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_for_what_is_listed_and_holds_for_every_library_of_the_folder() {
    let owner = with_placed_file().await;
    let (first, _) = share(&owner, PHOTOS).await;
    let second = Share::new(&owner.node, json!({ "folder": PHOTOS })).await;
    let placed = hash_of(PLACED.1.as_bytes()).to_string();
    let listed = json!([{
        "path": PLACED.0, "hash": placed, "size": PLACED.1.len(), "paths": 1, "held": true,
    }]);
    for share in [&first, &second] {
        shares(&owner, share, 1, 1).await;
        let waiting = unreleased(&owner, share).await;
        assert_eq!(waiting, json!({ "contents": listed, "total": 1, "next_cursor": null }));
    }
    let release = format!("/libraries/{}/release", first.id);
    // What does not wait cannot be shared by its name.
    let private = owner.node.ingest("a letter", &[]).await;
    let released = owner.node.post(&release, json!({ "hashes": [private] })).await;
    assert_eq!(released["data"], json!({ "released": 0, "absent": 0 }), "{released}");
    for (body, code) in [
        (json!({ "hashes": ["abc"] }), "invalid_hash"),
        (json!({ "hashes": vec![private; 1001] }), "too_many_hashes"),
        (json!({ "hash": 1 }), "invalid_json"),
    ] {
        let answer = owner.node.post(&release, body).await;
        assert_eq!(answer["code"], code, "{answer}");
    }
    let released = owner.node.post(&release, json!({ "hashes": [placed] })).await;
    assert_eq!(released["data"], json!({ "released": 1, "absent": 0 }), "{released}");
    for share in [&first, &second] {
        shares(&owner, share, 2, 0).await;
        assert_eq!(unreleased(&owner, share).await["contents"], json!([]));
    }
    let answer = owner.node.get(&format!("/libraries/{}/unreleased?cursor=x", first.id)).await;
    assert_eq!(answer["code"], "invalid_parameter", "{answer}");
    let body = json!({ "name": "pictures", "filter": { "mime_prefix": "image/" } });
    let images = owner.node.post("/libraries", body).await["data"]["id"].clone();
    let path = format!("/libraries/{}/unreleased", images.as_str().expect("an id"));
    let answer = owner.node.get(&path).await;
    assert_eq!(answer["code"], "no_folder", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_hears_of_no_file_that_was_removed_before_the_library_was_made() {
    let owner = with_placed_file().await;
    let folder = folder_id(&owner, PHOTOS).await;
    let path = EntryPath::parse("a secret name.txt").expect("a path");
    let author = EntryAuthor { writer: WriterId([9; 32]), by: "somebody".into(), now_ms: 1_000_000_000_000 };
    let gone = EntryRecord::after(None, (folder, &path), None, &author, Hlc::default());
    let taken = owner.node.sync_store().take_entries(vec![FolderRecord::Entry(gone)], None).await;
    assert_eq!(taken, Ok(vec![EntryOutcome::Stored]));
    let (share, invited) = share(&owner, PHOTOS).await;
    owner.put(PHOTOS, "short.txt", "short");
    shares(&owner, &share, 2, 1).await;
    fs::remove_file(owner.dir(PHOTOS).join("short.txt")).expect("it was there");
    shares(&owner, &share, 1, 1).await;
    let reader = reader("reader").await;
    invited.join(&reader.node).await;
    follows(&reader).await;
    reader.has(PHOTOS, &[OWN]).await;
    share.in_sync(&reader.node).await;
    share.in_sync(&owner.node).await;
    let known = entries(&reader.node, folder).await;
    let mut paths: Vec<&str> = known.iter().map(FolderRecord::path).collect();
    paths.sort_unstable();
    // The first is what the folder is.
    assert_eq!(paths, ["", OWN.0, PLACED.0, "short.txt"]);
}
