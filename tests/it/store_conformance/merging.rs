//! Which of two versions stays, and what becomes of the content.

use can_sync::testing::record::{AssetRecord, WriterId};
use can_sync::testing::store::{ItemOutcome, StoreError};

use super::{Fixture, apply_one, ingest_one, is_rejected};
use crate::support::store::{
    edited, hash_of, held, incoming, incoming_file, noise, read, read_feed, record_of,
};

pub(crate) async fn the_greater_version_wins_in_either_order(fixture: &dyn Fixture) {
    let store = fixture.store();
    for (content, newer_first) in [(b"a", false), (b"b", true)] {
        let base = record_of(content);
        let (older, newer) = (edited(&base, 10, Some("older")), edited(&base, 20, Some("newer")));
        assert_eq!(ingest_one(fixture, base.clone(), content).await, ItemOutcome::Stored);
        let (first, second) = if newer_first { (&newer, &older) } else { (&older, &newer) };
        assert_eq!(apply_one(fixture, first.clone()).await, ItemOutcome::Stored);
        let expected = if newer_first { ItemOutcome::Unchanged } else { ItemOutcome::Stored };
        assert_eq!(apply_one(fixture, second.clone()).await, expected);
        assert_eq!(held(&*store, base.hash).await, Some(newer.clone()));

        // What the store has, again, by either way: no change, and nothing new in the feed.
        let seq = store.status().await.expect("status").seq;
        assert_eq!(apply_one(fixture, newer.clone()).await, ItemOutcome::Unchanged);
        assert_eq!(ingest_one(fixture, newer, content).await, ItemOutcome::Unchanged);
        assert_eq!(ingest_one(fixture, base, content).await, ItemOutcome::Unchanged);
        assert_eq!(store.status().await.expect("status").seq, seq);
    }
    // The same instant: the writer decides.
    let base = record_of(b"c");
    let low = AssetRecord { writer: WriterId([1; 32]), ..edited(&base, 10, Some("low")) };
    let high = AssetRecord { writer: WriterId([2; 32]), ..edited(&base, 10, Some("high")) };
    assert_eq!(ingest_one(fixture, high.clone(), b"c").await, ItemOutcome::Stored);
    assert_eq!(apply_one(fixture, low).await, ItemOutcome::Unchanged);
    assert_eq!(held(&*store, base.hash).await, Some(high));
}

pub(crate) async fn an_update_needs_content_that_is_there(fixture: &dyn Fixture) {
    let record = edited(&record_of(b"x"), 10, Some("edited elsewhere"));
    assert_eq!(apply_one(fixture, record.clone()).await, ItemOutcome::NeedsContent);
    assert_eq!(held(&*fixture.store(), record.hash).await, None);
    assert_eq!(ingest_one(fixture, record.clone(), b"x").await, ItemOutcome::Stored);
    assert_eq!(apply_one(fixture, record).await, ItemOutcome::Unchanged);
}

pub(crate) async fn an_update_cannot_change_the_size(fixture: &dyn Fixture) {
    let base = record_of(b"x");
    ingest_one(fixture, base.clone(), b"x").await;
    for description in [Some("larger"), None] {
        let lie = AssetRecord { size: 2, ..edited(&base, 10, description) };
        let outcome = apply_one(fixture, lie).await;
        assert!(is_rejected(&outcome), "{outcome:?}");
    }
    assert_eq!(held(&*fixture.store(), base.hash).await, Some(base));
}

pub(crate) async fn a_tombstone_hides_the_content(fixture: &dyn Fixture) {
    let store = fixture.store();
    for content in [noise(100, 1), noise(100_000, 2)] {
        let base = record_of(&content);
        assert_eq!(ingest_one(fixture, base.clone(), &content).await, ItemOutcome::Stored);
        let tombstone = edited(&base, 10, None);
        assert_eq!(apply_one(fixture, tombstone.clone()).await, ItemOutcome::Stored);
        assert_eq!(held(&*store, base.hash).await, Some(tombstone.clone()));
        let read = read(&*store, base.hash, 0, None).await;
        assert_eq!(read, Err(StoreError::NotFound(base.hash)));
        assert_eq!(apply_one(fixture, tombstone.clone()).await, ItemOutcome::Unchanged);
        let last = read_feed(&*store, 0, 10).await.pop().expect("tombstones are in the feed");
        assert_eq!(last.record, tombstone);
    }
    let status = store.status().await.expect("status");
    assert_eq!((status.assets, status.bytes), (0, 0));
}

pub(crate) async fn a_tombstone_of_an_unknown_asset_is_kept(fixture: &dyn Fixture) {
    let store = fixture.store();
    let base = record_of(b"x");
    let tombstone = edited(&base, 10, None);
    assert_eq!(apply_one(fixture, tombstone.clone()).await, ItemOutcome::Stored);
    assert_eq!(held(&*store, base.hash).await, Some(tombstone.clone()));
    assert_eq!(read_feed(&*store, 0, 10).await[0].record, tombstone);
    let later = edited(&base, 20, None);
    assert_eq!(apply_one(fixture, later.clone()).await, ItemOutcome::Stored);
    assert_eq!(apply_one(fixture, tombstone).await, ItemOutcome::Unchanged);
    assert_eq!(held(&*store, base.hash).await, Some(later));
}

pub(crate) async fn a_deleted_asset_does_not_come_back_by_an_older_version(fixture: &dyn Fixture) {
    let store = fixture.store();
    let base = record_of(b"x");
    let tombstone = edited(&base, 10, None);
    apply_one(fixture, tombstone.clone()).await;
    assert_eq!(apply_one(fixture, base.clone()).await, ItemOutcome::Unchanged);
    assert_eq!(ingest_one(fixture, base.clone(), b"x").await, ItemOutcome::Unchanged);
    let large = noise(100_000, 1);
    apply_one(fixture, edited(&record_of(&large), 10, None)).await;
    let outcomes = store.ingest(vec![incoming_file(record_of(&large), &large)]).await;
    assert_eq!(outcomes, Ok(vec![ItemOutcome::Unchanged]));
    assert_eq!(held(&*store, base.hash).await, Some(tombstone));
    for hash in [base.hash, hash_of(&large)] {
        assert_eq!(read(&*store, hash, 0, None).await, Err(StoreError::NotFound(hash)));
    }
}

pub(crate) async fn a_newer_version_brings_a_deleted_asset_back(fixture: &dyn Fixture) {
    let store = fixture.store();
    for content in [noise(100, 1), noise(100_000, 2)] {
        // The store deleted it itself: the content is still in the trash.
        let base = record_of(&content);
        ingest_one(fixture, base.clone(), &content).await;
        apply_one(fixture, edited(&base, 10, None)).await;
        let lie = AssetRecord { size: 1, ..edited(&base, 20, Some("back")) };
        assert!(is_rejected(&apply_one(fixture, lie).await));
        let back = edited(&base, 20, Some("back"));
        assert_eq!(apply_one(fixture, back.clone()).await, ItemOutcome::Stored);
        assert_eq!(held(&*store, base.hash).await, Some(back));
        assert_eq!(read(&*store, base.hash, 0, None).await, Ok(content.clone()));
        // And once more, now with content.
        apply_one(fixture, edited(&base, 30, None)).await;
        let again = edited(&base, 40, Some("again"));
        assert_eq!(ingest_one(fixture, again.clone(), &content).await, ItemOutcome::Stored);
        assert_eq!(held(&*store, base.hash).await, Some(again));
        assert_eq!(read(&*store, base.hash, 0, None).await, Ok(content));
    }
    // It never had this one: there is nothing to bring back.
    let base = record_of(b"unknown");
    apply_one(fixture, edited(&base, 10, None)).await;
    let back = edited(&base, 20, Some("back"));
    assert_eq!(apply_one(fixture, back.clone()).await, ItemOutcome::NeedsContent);
    assert_eq!(ingest_one(fixture, back.clone(), b"unknown").await, ItemOutcome::Stored);
    assert_eq!(read(&*store, base.hash, 0, None).await, Ok(b"unknown".to_vec()));
}

pub(crate) async fn one_asset_twice_in_a_batch(fixture: &dyn Fixture) {
    let store = fixture.store();
    let large = noise(100_000, 1);
    let base = record_of(&large);
    let newer = edited(&base, 10, Some("newer"));
    let batch = vec![
        incoming(base.clone(), &large),
        incoming_file(newer.clone(), &large),
        incoming(base.clone(), &large),
    ];
    let outcomes = store.ingest(batch).await;
    assert_eq!(outcomes, Ok(vec![ItemOutcome::Stored, ItemOutcome::Stored, ItemOutcome::Unchanged]));
    let tombstone = edited(&base, 20, None);
    let outcomes = store.apply(vec![tombstone.clone(), newer, tombstone]).await;
    assert_eq!(outcomes, Ok(vec![ItemOutcome::Stored, ItemOutcome::Unchanged, ItemOutcome::Unchanged]));
    assert_eq!(read_feed(&*store, 0, 10).await.len(), 1);
}
