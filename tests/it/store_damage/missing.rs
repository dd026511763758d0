//! Files of contents that are not there, or not whole.

use std::fs;

use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{ContentStore, Holding, ItemOutcome, StoreError};

use super::{aside, becomes_absent, flip, holding, listen};
use crate::support::embedded::{content_path, open, upload};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, noise, read, record_of};

#[tokio::test]
async fn a_file_that_is_missing_cut_or_unreadable_is_noticed_by_a_look() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents: Vec<Vec<u8>> = (0..4).map(|seed| noise(300_000, seed)).collect();
    for content in &contents {
        upload(&store, content, IngestFields::default()).await;
    }
    let path = |n: usize| content_path(dir.path(), hash_of(&contents[n]));
    fs::remove_file(path(0)).unwrap();
    fs::write(path(1), &contents[1][..299_999]).unwrap();
    fs::remove_file(path(2)).unwrap();
    fs::create_dir(path(2)).unwrap();
    for content in &contents[..3] {
        let hash = hash_of(content);
        assert_eq!(store.look(hash).await.unwrap().unwrap().holding, Holding::Wanted);
        becomes_absent(&store, hash).await;
    }
    let hash = hash_of(&contents[3]);
    assert_eq!(store.look(hash).await.unwrap().unwrap().holding, Holding::Held);
    assert_eq!(store.verify(hash).await, Ok(true));
    flip(dir.path(), &contents[3], 7);
    assert_eq!(store.look(hash).await.unwrap().unwrap().holding, Holding::Held, "a look is no reading");
    assert_eq!(store.verify(hash).await, Ok(false));
    assert_eq!(store.verify(hash_of(b"unknown")).await, Ok(false));
    for content in &contents {
        upload(&store, content, IngestFields::default()).await;
        assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    }
}

#[tokio::test]
async fn what_a_crash_left_between_commit_and_move_is_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let content = noise(300_000, 1);
    let hash = hash_of(&content);
    upload(&store, &content, IngestFields::default()).await;
    flip(dir.path(), &content, 0);
    assert_eq!(store.verify(hash).await, Ok(false));
    store.close().await;
    // As before the move; files that are needed no more, as before their removal; and one of which nothing is known.
    let (aside_at, at) = (dir.path().join("damaged").join(hash.to_string()), content_path(dir.path(), hash));
    fs::rename(&aside_at, &at).unwrap();
    let other = hash_of(b"other");
    fs::write(dir.path().join("damaged").join(other.to_string()), "x").unwrap();
    let store = open(dir.path()).await;
    let held = noise(200_000, 2);
    upload(&store, &held, IngestFields::default()).await;
    store.close().await;
    fs::write(dir.path().join("damaged").join(hash_of(&held).to_string()), "y").unwrap();
    let store = open(dir.path()).await;
    eventually("what is held needs no damaged bytes", async || {
        let now = aside(dir.path());
        (now == [hash, other].into()).then_some(()).ok_or_else(|| format!("{now:?}"))
    })
    .await;
    assert!(!at.exists());
    assert_eq!(holding(&store, hash).await, Holding::Wanted);
    assert!(read(&store, hash_of(&held), 0, None).await.unwrap() == held);
}

#[tokio::test]
async fn what_is_set_aside_outlives_the_database_that_knew_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (damaged, whole) = (noise(300_000, 1), noise(300_000, 2));
    for content in [&damaged, &whole] {
        upload(&store, content, IngestFields::default()).await;
        flip(dir.path(), content, 1000);
        assert_eq!(store.verify(hash_of(content)).await, Ok(false));
    }
    store.close().await;
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("store.db{ending}")));
    }
    // What could not be read then can be read now.
    let aside_at = |content: &[u8]| dir.path().join("damaged").join(hash_of(content).to_string());
    fs::write(aside_at(&whole), &whole).unwrap();
    for _ in 0..2 {
        let store = open(dir.path()).await;
        eventually("the whole one is back in its place", async || {
            let damaged_now = store.status().await.unwrap().damaged;
            let now = (aside(dir.path()), content_path(dir.path(), hash_of(&whole)).exists(), damaged_now);
            (now == ([hash_of(&damaged)].into(), true, 1)).then_some(()).ok_or_else(|| format!("{now:?}"))
        })
        .await;
        store.close().await;
    }
    assert_eq!(fs::read(aside_at(&damaged)).unwrap()[2000..], damaged[2000..]);
    let store = open(dir.path()).await;
    let outcomes = store.take_absent(vec![record_of(&damaged), record_of(&whole)]).await.unwrap();
    assert_eq!(outcomes, [ItemOutcome::Absent, ItemOutcome::Stored]);
    assert!(read(&store, hash_of(&whole), 0, None).await.unwrap() == whole);
    assert!(aside_at(&damaged).exists());
}

#[tokio::test]
async fn all_contents_that_are_away_at_once_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let heard = listen(&store);
    let content = noise(300_000, 1);
    let hash = hash_of(&content);
    upload(&store, &content, IngestFields::default()).await;
    let (place, away) = (dir.path().join("content"), dir.path().join("away"));
    fs::rename(&place, &away).unwrap();
    for is_empty in [false, true] {
        // As a mount that is gone leaves behind.
        if is_empty {
            fs::create_dir(&place).unwrap();
        }
        let failures = [
            read(&store, hash, 0, None).await.map(drop).unwrap_err(),
            store.verify(hash).await.map(drop).unwrap_err(),
            store.look(hash).await.map(drop).unwrap_err(),
        ];
        for failure in failures {
            assert!(matches!(&failure, StoreError::ReadOnly(why) if why.contains("content")), "{failure}");
        }
    }
    fs::remove_dir(&place).unwrap();
    fs::rename(&away, &place).unwrap();
    assert!(read(&store, hash, 0, None).await.unwrap() == content);
    assert_eq!((holding(&store, hash).await, store.status().await.unwrap().damaged), (Holding::Held, 0));
    assert!(heard.lock().is_empty());
}

#[tokio::test]
async fn right_bytes_count_again_once_the_store_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents: Vec<Vec<u8>> = (0..3).map(|seed| noise(300_000, seed)).collect();
    let at = |n: usize| content_path(dir.path(), hash_of(&contents[n]));
    for content in &contents {
        upload(&store, content, IngestFields::default()).await;
    }
    // One that cannot be read for a while, one that is away for a while, and one that stays wrong.
    for n in [0, 2] {
        flip(dir.path(), &contents[n], 7);
    }
    fs::rename(at(1), dir.path().join("away")).unwrap();
    for content in &contents {
        assert_eq!(store.verify(hash_of(content)).await, Ok(false));
    }
    store.close().await;
    fs::write(dir.path().join("damaged").join(hash_of(&contents[0]).to_string()), &contents[0]).unwrap();
    fs::rename(dir.path().join("away"), at(1)).unwrap();
    let store = open(dir.path()).await;
    eventually("two are held again", async || {
        let status = store.status().await.unwrap();
        let now = (status.assets_held, status.damaged);
        (now == (2, 1)).then_some(()).ok_or_else(|| format!("{now:?}"))
    })
    .await;
    for content in &contents[..2] {
        assert!(read(&store, hash_of(content), 0, None).await.unwrap() == *content);
    }
    // Files go after what is written about them.
    eventually("one stays aside", async || {
        let aside = aside(dir.path());
        (aside == [hash_of(&contents[2])].into()).then_some(()).ok_or_else(|| format!("{aside:?}"))
    })
    .await;
}
