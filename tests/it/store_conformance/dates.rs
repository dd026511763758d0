//! Versions that get other dates.

use can_sync::testing::record::{AssetRecord, ContentHash, Hlc, WriterId};
use can_sync::testing::store::Redating;

use super::{Fixture, apply_one, described, ingest_one};
use crate::support::store::{edited, hash_of, held, read, read_feed, record_of};

async fn held_of(fixture: &dyn Fixture, hash: ContentHash) -> AssetRecord {
    held(&*fixture.store(), hash).await.expect("the asset is there")
}

pub(crate) async fn what_is_held_is_written_once_more_and_later(fixture: &dyn Fixture) {
    let store = fixture.store();
    let (live, gone) = (record_of(b"live"), record_of(b"gone"));
    ingest_one(fixture, live.clone(), b"live").await;
    ingest_one(fixture, gone.clone(), b"gone").await;
    let tombstone = edited(&gone, 5, None);
    apply_one(fixture, tombstone.clone()).await;
    let other = Hlc(live.hlc.0 + 1_000_000_000);
    let again = |hash| Redating::Reassert { hash, other };
    let redatings = vec![again(live.hash), again(tombstone.hash), again(hash_of(b"unknown"))];
    let seq = store.status().await.expect("status").seq;
    let before = store.redate(redatings.clone()).await.expect("dated");
    assert_eq!(before, [Some(live.clone()), Some(tombstone.clone()), None]);
    for record in [live, tombstone] {
        let hash = record.hash;
        assert_eq!(held_of(fixture, hash).await, AssetRecord { hlc: Hlc(other.0 + 1), ..record });
    }
    assert_eq!(read(&*store, hash_of(b"live"), 0, None).await, Ok(b"live".to_vec()));
    assert_eq!(read_feed(&*store, seq, 10).await.len(), 2, "it is a change like any other");
    assert_eq!(store.redate(redatings).await, Ok(vec![None; 3]), "once is enough");
    assert_eq!(store.redate(vec![]).await, Ok(vec![]));
    assert!(store.redate(vec![again(hash_of(b"live")); 1_001]).await.is_err());
}

pub(crate) async fn what_users_wrote_by_a_clock_that_was_ahead_is_dated_anew(fixture: &dyn Fixture) {
    let store = fixture.store();
    let new = fixture.put(b"new".to_vec(), described("new")).await;
    // An asset of others that users edit, more than once.
    let theirs = record_of(b"edited");
    ingest_one(fixture, theirs.clone(), b"edited").await;
    fixture.describe(theirs.hash, "one").await;
    fixture.describe(theirs.hash, "two").await;
    let deleted = record_of(b"deleted");
    ingest_one(fixture, deleted.clone(), b"deleted").await;
    fixture.delete(deleted.hash).await;
    let back = fixture.put(b"deleted".to_vec(), described("back")).await;
    let hashes = [new, theirs.hash, back];
    let mut as_written = Vec::new();
    for hash in hashes {
        as_written.push(held_of(fixture, hash).await);
    }
    // The clock turns out to have been more than a year ahead.
    let now_ms = as_written[0].hlc.ms() - 400 * 24 * 3600 * 1000;
    let recall = |hash| Redating::Recall { hash, now_ms, known: Hlc::default() };
    let before = store.redate(hashes.map(recall).to_vec()).await.expect("dated");
    assert_eq!(before, as_written.iter().cloned().map(Some).collect::<Vec<_>>());
    for old in &as_written {
        let anew = held_of(fixture, old.hash).await;
        assert_eq!((anew.hlc, anew.edit()), (Hlc::from_ms(now_ms), old.edit()), "as if it was written now");
        let created_ms = if old.hash == theirs.hash { theirs.meta.created_at_ms } else { now_ms };
        assert_eq!(anew.meta.created_at_ms, created_ms);
    }
    assert_eq!(held_of(fixture, new).await.writer, WriterId::NULL, "nobody has edited it");
    assert_eq!(read(&*store, back, 0, None).await, Ok(b"deleted".to_vec()));
    assert_eq!(store.redate(hashes.map(recall).to_vec()).await, Ok(vec![None; 3]), "once is enough");
    // Never earlier than what it replaced: whoever has that takes it.
    let early = Redating::Recall { hash: theirs.hash, now_ms: 0, known: Hlc::default() };
    store.redate(vec![early]).await.expect("dated");
    assert_eq!(held_of(fixture, theirs.hash).await.hlc, Hlc(theirs.hlc.0 + 1));
}

pub(crate) async fn what_others_wrote_or_may_have_keeps_its_date(fixture: &dyn Fixture) {
    let store = fixture.store();
    let theirs = record_of(b"theirs");
    ingest_one(fixture, theirs.clone(), b"theirs").await;
    let edited_here = fixture.put(b"mine".to_vec(), described("mine")).await;
    let mine = held_of(fixture, edited_here).await;
    let taken = edited(&mine, 1, Some("by somebody else"));
    let shared = fixture.put(b"shared".to_vec(), described("shared")).await;
    let known = held_of(fixture, shared).await.hlc;
    apply_one(fixture, taken.clone()).await;
    let recall = |hash, now_ms, known| Redating::Recall { hash, now_ms, known };
    let redatings = vec![
        recall(theirs.hash, 0, Hlc::default()),
        recall(taken.hash, 0, Hlc::default()),
        recall(shared, 0, known),
        // Within ten minutes nothing is wrong with a clock.
        recall(shared, known.ms() - 600_000, Hlc::default()),
        recall(hash_of(b"unknown"), 0, Hlc::default()),
    ];
    assert_eq!(store.redate(redatings).await, Ok(vec![None; 5]));
    assert_eq!(held_of(fixture, theirs.hash).await, theirs);
    assert_eq!(held_of(fixture, taken.hash).await.hlc, taken.hlc);
    assert_eq!(held_of(fixture, shared).await.hlc, known);
}
