//! Snapshots of the records in object storage, and data directories that are made of them by the real program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use can_sync::testing::clock::now_ms;
use can_sync::testing::record::{AssetRecord, ContentHash};
use can_sync::testing::store::bucket::BucketConfig;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields, MetaPatch};
use can_sync::testing::store::entries::EntryOutcome;
use can_sync::testing::store::{ContentStore as _, Holding};
use serde_json::{Value, json};

use crate::support::bucket::TestBucket;
use crate::support::command::{Ran, User};
use crate::support::daemon::embedded_yaml;
use crate::support::folder::{FOLDER, author, definition, entry, history, listed, put as put_entry, take};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, holding, noise, read, read_feed};

mod damage;
mod disaster;
mod kills;
mod places;
mod refusals;
mod secrets;

const PLACE: &str = "s3://assets/can";

async fn open(dir: &Path, bucket: BucketConfig) -> EmbeddedStore {
    let clock = can_sync::testing::clock::Clock::system();
    crate::support::bucket::try_open_on(dir, bucket, clock).await.expect("the store opens")
}

async fn put(store: &EmbeddedStore, content: &[u8], name: &str) -> ContentHash {
    let fields = IngestFields { filename: Some(name.to_owned()), ..IngestFields::default() };
    crate::support::embedded::upload(store, content, fields).await.asset.record.hash
}

/// Waits until all that was changed so far is in a snapshot.
async fn until_snapshot(store: &EmbeddedStore) {
    until_snapshot_behind(store, now_ms()).await;
}

/// Waits until one is made that was begun after this time.
async fn until_snapshot_behind(store: &EmbeddedStore, since: u64) {
    eventually("a snapshot is made", async || {
        let report = store.status().await.expect("a status").snapshots;
        let done = report.as_ref().and_then(|report| report.last_ms).is_some_and(|last| last > since);
        if done { Ok(()) } else { Err(format!("{report:?}")) }
    })
    .await;
}

/// Where the snapshots of a store lie.
fn snapshots_of(bucket: &TestBucket, store: &str) -> PathBuf {
    bucket.below().join("can-sync-snapshots").join(store)
}

/// The files of all snapshots, below their directory, in the order of their names.
fn snapshot_files(bucket: &TestBucket) -> BTreeSet<PathBuf> {
    let root = bucket.below().join("can-sync-snapshots");
    let entries = walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// The manifests of all snapshots, by store, oldest first.
fn all_manifests(bucket: &TestBucket) -> Vec<PathBuf> {
    let is_one = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
    snapshot_files(bucket).into_iter().filter(is_one).collect()
}

/// The manifests of a store's snapshots, oldest first.
fn manifests(bucket: &TestBucket, store: &str) -> Vec<PathBuf> {
    let below = snapshots_of(bucket, store);
    let is_one =
        |path: &PathBuf| path.starts_with(&below) && path.extension().is_some_and(|end| end == "json");
    snapshot_files(bucket).into_iter().filter(is_one).collect()
}

/// A user with this configuration, and nothing else.
fn new_user(yaml: &str) -> User {
    let user = User::new();
    user.write("config.yaml", embedded_yaml(yaml));
    user
}

fn restore(user: &User, more: &[&str]) -> Ran {
    user.run(&[&["--json", "restore", "--from", PLACE], more].concat())
}

fn report(ran: &Ran) -> Value {
    ran.json().into_iter().next().unwrap_or_else(|| panic!("{}", ran.stderr))
}

/// What a store knows of assets.
async fn known(store: &EmbeddedStore) -> BTreeMap<ContentHash, AssetRecord> {
    let feed = read_feed(store, 0, 500).await;
    feed.into_iter().map(|entry| (entry.record.hash, entry.record)).collect()
}

/// Waits until every content that is wanted is there.
async fn until_all_held(store: &EmbeddedStore) {
    eventually("all contents are there", async || {
        let status = store.status().await.expect("a status");
        if status.assets == status.assets_held {
            Ok(())
        } else {
            Err(format!("{} of {}", status.assets_held, status.assets))
        }
    })
    .await;
}

/// Contents of all kinds, changed and deleted, and a folder.
async fn fill(store: &EmbeddedStore) -> Vec<Vec<u8>> {
    let contents = vec![
        noise(0, 1),
        noise(100, 2),
        noise(4096, 3),
        noise(4097, 4),
        noise(300_000, 5),
        noise(9 << 20, 6),
    ];
    for (number, content) in contents.iter().enumerate() {
        put(store, content, &format!("file {number}.bin")).await;
    }
    until_snapshot(store).await;
    let patch = MetaPatch {
        description: Some(Some("edited".into())),
        tags: Some(vec!["work".into()]),
        ..MetaPatch::default()
    };
    store.patch(hash_of(&contents[4]), patch).await.unwrap();
    put(store, &contents[3], "another name.bin").await;
    let deleted = put(store, &noise(50_000, 7), "deleted.bin").await;
    until_snapshot(store).await;
    store.delete(deleted).await.unwrap();
    let let_go = put(store, &noise(60_000, 8), "let go.bin").await;
    store.let_go(vec![let_go]).await.unwrap();

    let folder = definition(FOLDER, "photos", &author(1, 0));
    assert_eq!(put_entry(store, &folder, None).await, EntryOutcome::Stored);
    let first = entry("a", None, Some(&contents[4]), &author(1, 0));
    let second = entry("a", Some(&first), Some(&contents[3]), &author(1, 10));
    for record in [&first, &second] {
        assert_eq!(take(store, record).await, EntryOutcome::Stored);
    }
    until_snapshot(store).await;
    contents
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_knew_is_restored_and_its_contents_are_found_in_the_bucket() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    let contents = fill(&store).await;
    let (before, entries) = (known(&store).await, listed(&store, "", 100).await);
    let lost = history(&store, "a").await;
    assert_eq!(lost.len(), 1);
    let id = store.id().to_string();
    store.close().await;
    assert!(manifests(&bucket, &id).len() >= 3, "{:?}", snapshot_files(&bucket));
    drop(dir);

    let user = new_user(&bucket.yaml());
    let ran = restore(&user, &["--alone"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report = report(&ran);
    assert_eq!((&report["assets"], &report["assets_held"]), (&json!(7), &json!(3)), "{report}");
    assert_eq!((&report["of_store"], &report["owns_place"]), (&json!(id), &json!(true)), "{report}");
    assert_eq!(report["problems"], json!([]), "{report}");
    let restored = open(&user.home().join("data/store"), bucket.config()).await;
    assert_ne!(restored.id().to_string(), id);
    let of_let_go = hash_of(&noise(60_000, 8));
    eventually("what was held is found in the bucket", async || {
        let status = restored.status().await.unwrap();
        if status.assets_held == 6 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(holding(&restored, of_let_go).await.unwrap().holding, Holding::Unwanted);
    assert_eq!(known(&restored).await, before);
    assert_eq!(listed(&restored, "", 100).await, entries);
    assert_eq!(history(&restored, "a").await, lost);
    for content in &contents {
        assert_eq!(read(&restored, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    let status = restored.status().await.unwrap();
    assert_eq!((status.contents_away, status.notice), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_does_as_well() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = place.path().join("contents");
    let config = BucketConfig {
        patience: crate::support::bucket::impatient(),
        snapshots: Some(crate::support::bucket::restless()),
        ..BucketConfig::new(crate::support::bucket::parse_place(at.to_str().unwrap()), 0)
    };
    let store = open(dir.path(), config.clone()).await;
    let contents = fill(&store).await;
    let before = known(&store).await;
    store.close().await;
    drop(dir);
    let user = new_user(&format!("store: {{ content: {{ url: {}, shared: true }} }}", at.display()));
    let ran = user.run(&["--json", "restore", "--from", at.to_str().unwrap(), "config.yaml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(report(&ran)["owns_place"], json!(false));
    let mut shared = config;
    shared.place.shared = true;
    let restored = open(&user.home().join("data/store"), shared).await;
    eventually("what was held is found", async || {
        let held = restored.status().await.unwrap().assets_held;
        if held == 6 { Ok(()) } else { Err(held.to_string()) }
    })
    .await;
    assert_eq!(known(&restored).await, before);
    for content in &contents {
        assert_eq!(read(&restored, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_from_folders_stays_deleted() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    let contents = [noise(5_000, 1), noise(200, 2)];
    let hashes = [hash_of(&contents[0]), hash_of(&contents[1])];
    let folder = definition(FOLDER, "photos", &author(1, 0));
    assert_eq!(put_entry(&store, &folder, None).await, EntryOutcome::Stored);
    for (content, path) in contents.iter().zip(["a", "b"]) {
        put(&store, content, path).await;
        assert_eq!(
            take(&store, &entry(path, None, Some(content), &author(1, 0))).await,
            EntryOutcome::Stored
        );
    }
    until_snapshot(&store).await;
    for hash in hashes {
        assert!(store.delete_from_folders(hash, None).await.unwrap().record.deleted);
    }
    until_snapshot(&store).await;
    let before = known(&store).await;
    store.close().await;
    let user = new_user(&bucket.yaml());
    let ran = restore(&user, &["--alone"]);
    assert_eq!((ran.code, &report(&ran)["assets"]), (0, &json!(0)), "{}", ran.stderr);
    let restored = open(&user.home().join("data/store"), bucket.config()).await;
    assert_eq!(known(&restored).await, before);
    assert!(before.values().all(|record| record.deleted) && before.len() == 2, "{before:?}");
}
