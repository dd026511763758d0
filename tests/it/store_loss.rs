//! A database that lost changes which had been acknowledged, or whose pages are damaged: it is noticed, said, and made up for.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::{ContentStore as _, ItemOutcome, StoreError};

use crate::support::embedded::{content_files, copy_dir as copy, open, try_open, try_upload, upload};
use crate::support::nodes::{TestNode, eventually};
use crate::support::store::{hash_of, incoming, noise, read, record_of};

/// A store with one asset in the database alone, and then others that are in its log only; and who keeps them there: what is newer
/// than a reader is not brought home.
async fn filled(dir: &Path) -> (EmbeddedStore, Vec<Vec<u8>>, rusqlite::Connection) {
    let store = open(dir).await;
    upload(&store, b"first", IngestFields::default()).await;
    store.close().await;
    let store = open(dir).await;
    let reader = rusqlite::Connection::open(dir.join("store.db")).unwrap();
    reader.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM records", [], |_| Ok(())).unwrap();
    let contents: Vec<Vec<u8>> = (0..60).map(|n| noise(if n % 3 == 0 { 100_000 } else { 1000 }, n)).collect();
    let batch = contents.iter().map(|content| incoming(record_of(content), content)).collect();
    // One transaction.
    store.ingest(batch).await.unwrap();
    (store, contents, reader)
}

/// Checks a copy from which the last transaction is gone.
async fn check_loss(copied: &Path, original: &EmbeddedStore, contents: &[Vec<u8>], lost: u64) {
    let store = open(copied).await;
    let status = store.status().await.unwrap();
    let notice = status.notice.clone().expect("it is said");
    assert!(notice.starts_with(&format!("{lost} changes")), "{notice}");
    let seq = original.status().await.unwrap().seq;
    assert!(status.seq > seq, "no number is given twice: {} after {seq}", status.seq);
    // Whoever has read any of it begins again.
    for since in [1, seq - 1, seq] {
        assert!(store.feed(since, 10).await.unwrap().reset, "from {since}");
    }
    assert!(!store.feed(status.seq, 10).await.unwrap().reset);
    // Files stay, and a record is enough to have them back.
    assert_eq!(content_files(copied).len(), 20);
    let records: Vec<_> = contents.iter().map(|content| record_of(content)).collect();
    let outcomes = store.take_absent(records).await.unwrap();
    for (content, outcome) in contents.iter().zip(outcomes) {
        let expected = if content.len() > 64 * 1024 { ItemOutcome::Stored } else { ItemOutcome::Absent };
        assert_eq!(outcome, expected);
        if expected == ItemOutcome::Stored {
            assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
        }
    }
    store.close().await;
    // Once is enough.
    let store = open(copied).await;
    assert_eq!(store.status().await.unwrap().notice, Some(notice));
    store.close().await;
}

#[tokio::test]
async fn a_log_that_is_gone_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, contents, reader) = filled(&dir.path().join("store")).await;
    let copied = dir.path().join("copied");
    copy(&dir.path().join("store"), &copied);
    drop(reader);
    fs::remove_file(copied.join("store.db-wal")).unwrap();
    check_loss(&copied, &store, &contents, 60).await;
}

#[tokio::test]
async fn a_log_that_is_damaged_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, contents, reader) = filled(&dir.path().join("store")).await;
    let copied = dir.path().join("copied");
    copy(&dir.path().join("store"), &copied);
    drop(reader);
    let log = fs::File::options().write(true).read(true).open(copied.join("store.db-wal")).unwrap();
    let mut byte = [0];
    log.read_exact_at(&mut byte, 5000).unwrap();
    log.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    check_loss(&copied, &store, &contents, 60).await;
}

#[tokio::test]
async fn a_database_that_is_gone_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, contents, reader) = filled(&dir.path().join("store")).await;
    let copied = dir.path().join("copied");
    copy(&dir.path().join("store"), &copied);
    drop(reader);
    for ending in ["", "-wal", "-shm"] {
        fs::remove_file(copied.join(format!("store.db{ending}"))).unwrap();
    }
    check_loss(&copied, &store, &contents, 61).await;
}

#[tokio::test]
async fn nothing_is_missed_where_nothing_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, reader) = filled(&dir.path().join("store")).await;
    let copied = dir.path().join("copied");
    copy(&dir.path().join("store"), &copied);
    drop(reader);
    for dir in [&copied, &copied] {
        let store = open(dir).await;
        assert_eq!(store.status().await.unwrap().notice, None);
        store.close().await;
    }
    // A mark that says too little is as good as none; of one that says nothing it is told, once.
    let marks =
        [("", true), ("garbage", true), ("18446744073709551615\n", true), ("00000000000000000001\n", false)];
    for (mark, is_told) in marks {
        fs::write(copied.join("store.seq"), mark).unwrap();
        for is_told in [is_told, false] {
            let store = open(&copied).await;
            let notice = store.status().await.unwrap().notice;
            assert_eq!(
                notice.as_ref().is_some_and(|notice| notice.contains("store.seq")),
                is_told,
                "{notice:?}"
            );
            assert_eq!(notice.is_some(), is_told);
            store.close().await;
        }
    }
    store.close().await;
}

#[tokio::test]
async fn damaged_pages_end_all_writing_and_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents: Vec<Vec<u8>> = (0..600).map(|n| noise(900, n)).collect();
    for some in contents.chunks(200) {
        store
            .ingest(some.iter().map(|content| incoming(record_of(content), content)).collect())
            .await
            .unwrap();
    }
    store.close().await;
    let path = dir.path().join("store.db");
    let pages = fs::metadata(&path).unwrap().len() / 4096;
    let database = fs::File::options().write(true).open(&path).unwrap();
    // Pages of a tree, not of what is in them.
    for page in pages / 2..pages / 2 + pages / 8 {
        database.write_all_at(&[0xa5; 4096], page * 4096).unwrap();
    }
    let store = match try_open(dir.path(), 0).await {
        Ok(store) => store,
        Err(error) => panic!("these pages are not needed to open it: {error}"),
    };
    let (mut whole, mut failed) = (0, 0);
    for content in &contents {
        match read(&store, hash_of(content), 0, None).await {
            Ok(read) if read == *content => whole += 1,
            Ok(_) => panic!("wrong bytes"),
            Err(_) => failed += 1,
        }
    }
    assert!(whole > 0 && failed > 0, "{whole} and {failed}");
    let why = store.status().await.unwrap().read_only.expect("it is not healthy");
    assert!(why.contains("damaged") && why.contains("store.db"), "{why}");
    let refused = try_upload(&store, b"new", IngestFields::default()).await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly(_)), "{refused}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_database_is_gone_is_whole_again_by_its_peers() {
    let (mut a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    let contents: Vec<Vec<u8>> = (0..20).map(|n| noise(if n % 2 == 0 { 200_000 } else { 500 }, n)).collect();
    let mut hashes = Vec::new();
    for content in &contents {
        hashes.push(a.ingest(content.clone(), &[]).await);
    }
    b.holds(20).await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    a.stop().await;
    let store = a.config.data_dir.join("store");
    for ending in ["", "-wal", "-shm"] {
        // In order, it leaves no log.
        let _ = fs::remove_file(store.join(format!("store.db{ending}")));
    }
    a.boot().await;
    let status = a.get("/status").await["data"]["store"].clone();
    assert!(status["notice"].as_str().unwrap().contains("gone from the database"), "{status}");
    b.dial(&a).await;
    for (hash, content) in hashes.iter().zip(&contents) {
        eventually("it is back", async || {
            let got = a.content(hash).await;
            (got.as_ref() == Some(content)).then_some(()).ok_or_else(|| format!("{hash}: {}", got.is_some()))
        })
        .await;
    }
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
}

#[tokio::test]
async fn contents_that_are_all_missing_at_the_start_are_said_and_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents: Vec<Vec<u8>> = (0..200).map(|n| noise(if n % 2 == 0 { 70_000 } else { 500 }, n)).collect();
    for content in &contents {
        upload(&store, content, IngestFields::default()).await;
    }
    store.close().await;
    // A disk that is not mounted leaves an empty directory.
    fs::rename(dir.path().join("content"), dir.path().join("away")).unwrap();
    fs::create_dir(dir.path().join("content")).unwrap();
    let refused = try_open(dir.path(), 0).await.map(drop).unwrap_err().to_string();
    assert!(
        refused.contains("100 contents") && refused.contains("mount") && refused.contains("empty"),
        "{refused}"
    );
    assert_eq!(fs::read_dir(dir.path().join("content")).unwrap().count(), 0, "nothing was made there");
    fs::remove_dir(dir.path().join("content")).unwrap();
    let store = open(dir.path()).await;
    let notice = store.status().await.unwrap().notice.expect("it is said");
    assert!(notice.contains("content was missing") && notice.contains("100 contents"), "{notice}");
    eventually("they are wanted", async || {
        let status = store.status().await.unwrap();
        let now = (status.assets, status.assets_held, status.damaged);
        (now == (200, 100, 100)).then_some(()).ok_or_else(|| format!("{now:?}"))
    })
    .await;
    assert_eq!(
        store.ingest(vec![incoming(record_of(&contents[0]), &contents[0])]).await,
        Ok(vec![ItemOutcome::Stored])
    );
    store.close().await;
    // What is put back counts again.
    fs::remove_dir_all(dir.path().join("content")).unwrap();
    fs::rename(dir.path().join("away"), dir.path().join("content")).unwrap();
    let store = open(dir.path()).await;
    eventually("all are held", async || {
        let status = store.status().await.unwrap();
        (status.assets_held == 200 && status.notice.is_none())
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    })
    .await;
    for content in &contents {
        assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    }
}

#[tokio::test]
async fn contents_without_a_database_are_said_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("old")).await;
    let contents: Vec<Vec<u8>> = (0..5).map(|n| noise(100_000, n)).collect();
    for content in &contents {
        upload(&store, content, IngestFields::default()).await;
    }
    store.close().await;
    fs::create_dir(dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("old/content"), dir.path().join("new/content")).unwrap();
    for _ in 0..2 {
        let store = open(&dir.path().join("new")).await;
        let status = store.status().await.unwrap();
        let notice = status.notice.expect("it is said");
        assert!(notice.contains("5 contents in") && notice.contains("no record"), "{notice}");
        assert_eq!((status.assets, status.damaged), (0, 0));
        assert_eq!(content_files(&dir.path().join("new")).len(), 5);
        store.close().await;
    }
    let store = open(&dir.path().join("new")).await;
    let records = contents.iter().map(|content| record_of(content)).collect();
    assert_eq!(store.take_absent(records).await.unwrap(), vec![ItemOutcome::Stored; 5]);
    store.close().await;
    let store = open(&dir.path().join("new")).await;
    assert_eq!(store.status().await.unwrap().notice, None);
}
