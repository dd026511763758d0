//! Records of folders in the embedded store: what they keep, what is brought back, and the bounds.

use std::fs;
use std::path::Path;

use can_sync::testing::entry::{FolderId, FolderRecord};
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::entries::{EntryOutcome, EntryQuery};
use can_sync::testing::store::{ContentStore as _, StoreError};

use crate::support::clock::{DAY_MS, SetClock};
use crate::support::embedded::{content_files, content_path, open, open_by, upload};
use crate::support::folder::{FOLDER, author, definition, entry, listed, put, take};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, holding, noise};

async fn with_folder(store: &EmbeddedStore) {
    let folder = definition(FOLDER, "photos", &author(1, 0));
    assert_eq!(put(store, &folder, None).await, EntryOutcome::Stored);
}

/// Deletes a large content, damages it, and has a file of a folder name it; the entry, and the content as it was.
async fn named_while_damaged(store: &EmbeddedStore, dir: &Path) -> (FolderRecord, Vec<u8>) {
    with_folder(store).await;
    let content = noise(100_000, 1);
    upload(store, &content, IngestFields::default()).await;
    store.delete(hash_of(&content)).await.unwrap();
    fs::write(content_path(dir, hash_of(&content)), noise(100_000, 2)).unwrap();
    let file = entry("a", None, Some(&content), &author(1, 0));
    assert_eq!(put(store, &file, None).await, EntryOutcome::Stored);
    (file, content)
}

async fn is_back(store: &EmbeddedStore, hash: ContentHash) {
    eventually("the content is back", async || {
        let found = holding(store, hash).await.expect("it is known");
        if found.holding.is_held() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_a_folder_has_comes_back_when_the_store_opens_if_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (_, content) = named_while_damaged(&store, dir.path()).await;
    store.close().await;
    fs::write(content_path(dir.path(), hash_of(&content)), &content).unwrap();
    let store = open(dir.path()).await;
    is_back(&store, hash_of(&content)).await;
}

#[tokio::test]
async fn what_a_folder_has_is_not_purged_from_the_trash() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let store = open_by(dir.path(), &clock.start()).await;
    let (file, content) = named_while_damaged(&store, dir.path()).await;
    let hash = hash_of(&content);
    for _ in 0..3 {
        clock.pass(100 * DAY_MS);
        assert_eq!(store.purge().await.unwrap().contents, 0);
    }
    assert!(content_files(dir.path()).contains(&hash));
    assert!(holding(&store, hash).await.unwrap().record.deleted, "and its tombstone");
    let removed = entry("a", Some(&file), None, &author(1, 9));
    assert_eq!(put(&store, &removed, Some(file.digest())).await, EntryOutcome::Stored);
    clock.pass(DAY_MS);
    assert_eq!(store.purge().await.unwrap().contents, 1);
    assert!(!content_files(dir.path()).contains(&hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_races_with_an_entry_loses_no_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    with_folder(&store).await;
    for n in 0..40_u8 {
        let content = noise(if n % 2 == 0 { 100 } else { 100_000 }, u64::from(n));
        upload(&store, &content, IngestFields::default()).await;
        let file = entry(&format!("{n}"), None, Some(&content), &author(1, 0));
        let (deleted, stored) = tokio::join!(store.delete(hash_of(&content)), put(&store, &file, None));
        assert_eq!(stored, EntryOutcome::Stored);
        assert!(matches!(deleted, Ok(_) | Err(StoreError::InFolder(_))), "{deleted:?}");
        is_back(&store, hash_of(&content)).await;
    }
}

#[tokio::test]
async fn an_asset_leaves_all_folders_where_its_user_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    with_folder(&store).await;
    let content = noise(100, 1);
    let hash = upload(&store, &content, IngestFields::default()).await.asset.record.hash;
    let elsewhere = |record: FolderRecord| match record {
        FolderRecord::Entry(entry) => {
            FolderRecord::Entry(can_sync::testing::entry::EntryRecord { folder: FolderId([9; 32]), ..entry })
        }
        FolderRecord::Definition(_) => panic!("an entry"),
    };
    let files = [
        entry("b", None, Some(&content), &author(1, 0)),
        entry("a", None, Some(&content), &author(2, 0)),
        elsewhere(entry("x", None, Some(&content), &author(3, 0))),
    ];
    for file in &files {
        assert_eq!(take(&store, file).await, EntryOutcome::Stored);
    }
    let Err(StoreError::InFolder(places)) = store.delete(hash).await else { panic!("it is in a folder") };
    assert_eq!((places.folder, places.name.as_deref(), places.paths), (FOLDER, Some("photos"), 2));
    let sentence = places.to_string();
    assert!(sentence.contains("'photos' (0505") && sentence.contains("1 more path"), "{sentence}");
    assert!(store.delete_from_folders(hash, None).await.unwrap().record.deleted);
    let query = EntryQuery { folder: Some(FolderId([9; 32])), limit: 10, ..EntryQuery::default() };
    let others = store.entries(query).await.unwrap().records;
    let all: Vec<FolderRecord> = listed(&store, "", 10).await.into_iter().chain(others).collect();
    assert_eq!(all.iter().filter(|record| record.path() != "").count(), 3);
    assert!(all.iter().all(|record| record.target().is_none() && record.validate().is_ok()));
    assert!(all.iter().filter(|record| record.path() == "a").all(|record| record.supersedes(&files[1])));
}

#[tokio::test]
async fn a_folder_that_is_full_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let first = entry("a", None, Some(b"1"), &author(1, 0));
    let second = entry("a", Some(&first), Some(b"2"), &author(1, 10));
    for record in [&first, &second] {
        assert_eq!(take(&store, record).await, EntryOutcome::Stored);
    }
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let counts = database.query_row("SELECT entries, history FROM entry_counts", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    assert_eq!(counts, Ok((1, 1)));
    database.execute("UPDATE entry_counts SET entries = 2000000", []).unwrap();
    let outcome = take(&store, &entry("b", None, Some(b"1"), &author(1, 0))).await;
    assert!(matches!(&outcome, EntryOutcome::Rejected(why) if why.contains("full")), "{outcome:?}");
    let third = entry("a", Some(&second), Some(b"3"), &author(1, 20));
    assert_eq!(take(&store, &third).await, EntryOutcome::Stored, "it has that path");
    database.execute("UPDATE entry_counts SET history = 2000000", []).unwrap();
    let fourth = entry("a", Some(&third), Some(b"4"), &author(1, 30));
    let outcome = take(&store, &fourth).await;
    assert!(matches!(&outcome, EntryOutcome::Rejected(why) if why.contains("former")), "{outcome:?}");
}
