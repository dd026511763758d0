//! Contents and records as they are read.

use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{Holding, ItemOutcome, StoreError, StoredRecord};

use super::{Fixture, apply_one, ingest_one};
use crate::support::store::{edited, hash_of, held, incoming, incoming_file, noise, read, record_of};

pub(crate) async fn content_is_read_in_ranges(fixture: &dyn Fixture) {
    let store = fixture.store();
    for len in [1000_usize, 64 * 1024, 64 * 1024 + 1, 1_000_000] {
        let content = noise(len, 1);
        let hash = fixture.put(content.clone(), IngestFields::default()).await;
        let ranges = [
            (0, None),
            (0, Some(1)),
            (len - 1, None),
            (len / 2, Some(len / 4)),
            (len / 2, Some(usize::MAX / 2)),
            (len, None),
            (len, Some(10)),
            (10, Some(0)),
        ];
        for (offset, length) in ranges {
            let end = length.map_or(len, |length| offset.saturating_add(length).min(len));
            let part = read(&*store, hash, offset as u64, length.map(|length| length as u64)).await;
            assert_eq!(part.as_deref(), Ok(&content[offset..end]), "{len}: {offset} {length:?}");
        }
        let reader = store.content(hash, 5, Some(7)).await.expect("a reader");
        assert_eq!(reader.total, len as u64);
        for offset in [len as u64 + 1, u64::MAX] {
            let past = store.content(hash, offset, None).await.map(|reader| reader.total);
            assert!(matches!(past, Err(StoreError::Invalid(_))), "{past:?}");
        }
    }
}

pub(crate) async fn content_of_nothing_is_not_found(fixture: &dyn Fixture) {
    let store = fixture.store();
    let deleted = fixture.put(b"x".to_vec(), IngestFields::default()).await;
    fixture.delete(deleted).await;
    for hash in [deleted, hash_of(b"unknown")] {
        assert_eq!(read(&*store, hash, 0, None).await, Err(StoreError::NotFound(hash)));
        assert_eq!(read(&*store, hash, 5, Some(5)).await, Err(StoreError::NotFound(hash)));
    }
}

pub(crate) async fn records_are_read_in_batches(fixture: &dyn Fixture) {
    let store = fixture.store();
    let contents: Vec<Vec<u8>> = (0..300_u64).map(|i| noise(50, i)).collect();
    let batch = contents.iter().map(|content| incoming(record_of(content), content)).collect();
    store.ingest(batch).await.expect("ingested");
    let tombstone = edited(&record_of(&contents[0]), 10, None);
    apply_one(fixture, tombstone.clone()).await;
    let mut asked: Vec<_> = contents.iter().map(|content| hash_of(content)).collect();
    asked.extend((1000..1700_u64).map(|i| hash_of(&noise(50, i))));
    assert_eq!(asked.len(), 1000);
    let mut are_held = store.held(asked.clone()).await.expect("held");
    are_held.sort_unstable();
    let mut expected: Vec<_> = contents[1..].iter().map(|content| hash_of(content)).collect();
    expected.sort_unstable();
    assert_eq!(are_held, expected);
    let mut found = store.records(asked).await.expect("records");
    let held = |content: &Vec<u8>| StoredRecord { record: record_of(content), holding: Holding::Held };
    let mut expected: Vec<_> = contents[1..].iter().map(held).collect();
    expected.push(StoredRecord { record: tombstone, holding: Holding::Unwanted });
    found.sort_by_key(|stored| stored.record.hash);
    expected.sort_by_key(|stored| stored.record.hash);
    assert_eq!(found, expected);
}

pub(crate) async fn large_content_arrives_by_file_and_from_memory(fixture: &dyn Fixture) {
    let store = fixture.store();
    let contents = [noise(5_000_000, 1), noise(5_000_001, 2), noise(64 * 1024, 3), noise(64 * 1024 + 1, 4)];
    let batch = vec![
        incoming_file(record_of(&contents[0]), &contents[0]),
        incoming(record_of(&contents[1]), &contents[1]),
        incoming_file(record_of(&contents[2]), &contents[2]),
        incoming(record_of(&contents[3]), &contents[3]),
    ];
    assert_eq!(store.ingest(batch).await, Ok(vec![ItemOutcome::Stored; 4]));
    for content in &contents {
        assert_eq!(held(&*store, hash_of(content)).await, Some(record_of(content)));
        let read = read(&*store, hash_of(content), 0, None).await.expect("content");
        assert!(read == *content, "{} bytes are the same", content.len());
    }
    let uploaded = noise(3_000_000, 5);
    let hash = fixture.put(uploaded.clone(), IngestFields::default()).await;
    assert_eq!(hash, hash_of(&uploaded));
    assert!(read(&*store, hash, 0, None).await.expect("content") == uploaded);
}

pub(crate) async fn empty_content_is_content(fixture: &dyn Fixture) {
    let store = fixture.store();
    assert_eq!(ingest_one(fixture, record_of(b""), b"").await, ItemOutcome::Stored);
    assert_eq!(read(&*store, hash_of(b""), 0, None).await, Ok(vec![]));
    assert_eq!(held(&*store, hash_of(b"")).await, Some(record_of(b"")));
    assert_eq!(store.status().await.expect("status").assets, 1);
}
