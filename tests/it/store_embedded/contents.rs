//! Contents in the database, in files, and in the trash.

use std::fs;

use bytes::Bytes;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{
    ContentStore, HashingFile, IncomingAsset, IncomingContent, ItemOutcome, StoreError,
};

use crate::support::clock::{DAY_MS, SetClock};
use crate::support::embedded::{content_files, content_path, open, open_by, temporary_files, upload};
use crate::support::store::{edited, hash_of, held, incoming, noise, read, record_of};

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for len in [10, 100_000, 3_000_000] {
        let mut upload = store.begin_upload();
        upload.write(noise(len, 1).into()).await.unwrap();
        assert_eq!(upload.written(), len as u64);
        drop(upload);
    }
    assert_eq!(temporary_files(dir.path()), 0);
    assert_eq!(store.status().await.unwrap().seq, 0);
}

#[tokio::test]
async fn received_files_are_moved_in() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path()).await;
    let content = noise(3_000_000, 1);
    for deleted_before in [false, true] {
        let mut file = HashingFile::create(elsewhere.path()).unwrap();
        for chunk in content.chunks(70_000) {
            file.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        assert_eq!(file.written(), content.len() as u64);
        let received = file.finish().await.unwrap();
        assert_eq!(received.sha256, hash_of(&content));
        let record =
            if deleted_before { edited(&record_of(&content), 20, Some("x")) } else { record_of(&content) };
        let batch = vec![IncomingAsset { record, content: IncomingContent::File(received) }];
        assert_eq!(store.ingest(batch).await, Ok(vec![ItemOutcome::Stored]));
        assert!(read(&store, hash_of(&content), 0, None).await.unwrap() == content);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "moved, not copied");
        if !deleted_before {
            store.apply(vec![edited(&record_of(&content), 10, None)]).await.unwrap();
        }
    }
    // A duplicate is removed, and nothing is left of content that lost to a tombstone.
    let other = noise(100_000, 2);
    store.apply(vec![edited(&record_of(&other), 10, None)]).await.unwrap();
    let batch = vec![
        crate::support::store::incoming_file(record_of(&content), &content),
        incoming(record_of(&other), &other),
    ];
    assert_eq!(store.ingest(batch).await, Ok(vec![ItemOutcome::Unchanged; 2]));
    assert_eq!(temporary_files(dir.path()), 0);
    store.close().await;
    assert_eq!(content_files(dir.path()), [hash_of(&content)].into());
}

#[tokio::test]
async fn small_contents_are_read_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents: Vec<_> = (0..20).map(|i| noise(1000, i)).chain([noise(64 * 1024, 30), vec![]]).collect();
    for content in &contents {
        upload(&store, content, IngestFields::default()).await;
    }
    let large = upload(&store, &noise(64 * 1024 + 1, 31), IngestFields::default()).await.asset.record.hash;
    store.delete(hash_of(&contents[3])).await.unwrap();
    let mut asked: Vec<ContentHash> = contents.iter().map(|content| hash_of(content)).collect();
    asked.extend([large, hash_of(b"unknown")]);
    let found = store.contents_inline(asked).await.unwrap();
    assert_eq!(found.len(), contents.len() - 1);
    assert!(found.iter().all(|(hash, content)| *hash == hash_of(content)));
    let too_many = vec![large; 1001];
    assert!(matches!(store.contents_inline(too_many).await, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn damaged_content_is_never_served_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (small, short, missing) = (noise(1000, 1), noise(100_000, 2), noise(100_000, 3));
    let all = [&small, &short, &missing];
    for content in all {
        upload(&store, content, IngestFields::default()).await;
    }
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let mut flipped = small.clone();
    flipped[500] ^= 1;
    database.execute("UPDATE contents SET data = ?1", [flipped]).unwrap();
    drop(database);
    fs::write(content_path(dir.path(), hash_of(&short)), &short[..99_999]).unwrap();
    fs::remove_file(content_path(dir.path(), hash_of(&missing))).unwrap();
    for content in all {
        let hash = hash_of(content);
        assert_eq!(read(&store, hash, 0, Some(1)).await, Err(StoreError::Corrupt(hash)));
    }
    assert_eq!(store.contents_inline(vec![hash_of(&small)]).await, Ok(vec![]));
    // The same content again, from whomever, makes them whole.
    upload(&store, &small, IngestFields::default()).await;
    let batch = vec![incoming(record_of(&short), &short), incoming(record_of(&missing), &missing)];
    store.ingest(batch).await.unwrap();
    for content in all {
        assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    }
}

#[tokio::test]
async fn the_trash_is_emptied_after_thirty_days() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let store = open_by(dir.path(), &clock.start()).await;
    let contents = [noise(1000, 1), noise(100_000, 2)];
    let let_go = [noise(1000, 3), noise(100_000, 4)];
    for content in contents.iter().chain(&let_go) {
        store.ingest(vec![incoming(record_of(content), content)]).await.unwrap();
    }
    for content in &contents {
        store.delete(hash_of(content)).await.unwrap();
    }
    store.let_go(let_go.iter().map(|content| hash_of(content)).collect()).await.unwrap();
    // The look at which it is old enough, and one a day later.
    for (days, removed) in [(29, 0), (2, 0), (1, 4), (1, 0)] {
        assert_eq!(content_files(dir.path()).len(), if (days, removed) == (1, 0) { 0 } else { 2 });
        clock.pass(days * DAY_MS);
        assert_eq!(store.purge().await.unwrap().contents, removed);
    }
    assert!(content_files(dir.path()).is_empty());
    let left = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let rows = left.query_row("SELECT count(*) FROM contents", [], |row| row.get::<_, i64>(0));
    assert_eq!(rows, Ok(0));
    for content in &contents {
        let tombstone = held(&store, hash_of(content)).await.unwrap();
        assert!(tombstone.deleted, "the record stays");
        let back = edited(&tombstone, 10, Some("back"));
        assert_eq!(store.apply(vec![back.clone()]).await, Ok(vec![ItemOutcome::NeedsContent]));
        assert_eq!(store.ingest(vec![incoming(back, content)]).await, Ok(vec![ItemOutcome::Stored]));
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    for content in &let_go {
        assert_eq!(held(&store, hash_of(content)).await, Some(record_of(content)), "the record stays");
        assert_eq!(store.want(vec![hash_of(content)]).await, Ok(vec![ItemOutcome::NeedsContent]));
        assert_eq!(
            store.ingest(vec![incoming(record_of(content), content)]).await,
            Ok(vec![ItemOutcome::Stored])
        );
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
}

#[tokio::test]
async fn damaged_trash_is_not_brought_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let content = noise(100_000, 1);
    store.ingest(vec![incoming(record_of(&content), &content)]).await.unwrap();
    store.apply(vec![edited(&record_of(&content), 10, None)]).await.unwrap();
    let mut damaged = content.clone();
    damaged[7] ^= 1;
    fs::write(content_path(dir.path(), hash_of(&content)), damaged).unwrap();
    let back = edited(&record_of(&content), 20, Some("back"));
    assert_eq!(store.apply(vec![back.clone()]).await, Ok(vec![ItemOutcome::NeedsContent]));
    assert_eq!(store.ingest(vec![incoming(back, &content)]).await, Ok(vec![ItemOutcome::Stored]));
    assert!(read(&store, hash_of(&content), 0, None).await.unwrap() == content);
    store.let_go(vec![hash_of(&content)]).await.unwrap();
    fs::write(content_path(dir.path(), hash_of(&content)), &content[1..]).unwrap();
    assert_eq!(store.want(vec![hash_of(&content)]).await, Ok(vec![ItemOutcome::NeedsContent]));
    let held = read(&store, hash_of(&content), 0, None).await;
    assert_eq!(held, Err(StoreError::NotHeld(hash_of(&content))));
}
