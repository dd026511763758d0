//! Live assets whose contents are not in the store: known, and not held.

use can_sync::testing::record::{AssetRecord, ContentHash};
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{Holding, IncomingAsset, ItemOutcome, StoreError, StoredRecord};

use super::{Fixture, apply_one, described, ingest_one, is_rejected};
use crate::support::store::{
    edited, hash_of, held, holding, incoming, incoming_file, noise, read, read_feed, record_of,
};

/// Contents that lie in the database, and in a file; others for each seed.
fn contents(seed: u64) -> [Vec<u8>; 2] {
    [noise(100, 2 * seed), noise(100_000, 2 * seed + 1)]
}

/// As a store has it that never had the content: with no hint of its own.
fn unhinted(record: &AssetRecord) -> AssetRecord {
    AssetRecord { blake3: None, ..record.clone() }
}

async fn take_absent(fixture: &dyn Fixture, record: AssetRecord) -> ItemOutcome {
    let outcomes = fixture.store().take_absent(vec![record]).await;
    outcomes.expect("the store takes records").pop().expect("an outcome for each record")
}

async fn let_go(fixture: &dyn Fixture, hash: ContentHash) -> ItemOutcome {
    let outcomes = fixture.store().let_go(vec![hash]).await;
    outcomes.expect("the store lets go").pop().expect("an outcome for each hash")
}

async fn want(fixture: &dyn Fixture, hash: ContentHash) -> ItemOutcome {
    let outcomes = fixture.store().want(vec![hash]).await;
    outcomes.expect("the store takes wishes").pop().expect("an outcome for each hash")
}

/// The last change in the feed says the same of the asset as the question by its name.
async fn check(fixture: &dyn Fixture, record: &AssetRecord, expected: Holding) {
    let store = fixture.store();
    let stored = holding(&*store, record.hash).await;
    assert_eq!(stored, Some(StoredRecord { record: record.clone(), holding: expected }));
    let entry = read_feed(&*store, 0, 100).await.pop().expect("an entry");
    assert_eq!((&entry.record, entry.holding), (record, expected));
    let content = read(&*store, record.hash, 0, None).await;
    match expected {
        Holding::Held => assert_eq!(content.map(|content| hash_of(&content)), Ok(record.hash)),
        Holding::Wanted | Holding::Unwanted => {
            assert_eq!(content, Err(StoreError::NotHeld(record.hash)));
            let nothing = read(&*store, record.hash, 0, Some(0)).await;
            assert_eq!(nothing, Err(StoreError::NotHeld(record.hash)));
        }
    }
}

/// Live assets and their bytes; those that are held and theirs.
async fn counts(fixture: &dyn Fixture) -> [u64; 4] {
    let status = fixture.store().status().await.expect("status");
    [status.assets, status.bytes, status.assets_held, status.bytes_held]
}

pub(crate) async fn a_record_is_taken_without_its_content(fixture: &dyn Fixture) {
    let base = record_of(b"elsewhere");
    assert_eq!(
        apply_one(fixture, base.clone()).await,
        ItemOutcome::NeedsContent,
        "only where that is asked for"
    );
    assert_eq!(take_absent(fixture, base.clone()).await, ItemOutcome::Absent);
    check(fixture, &unhinted(&base), Holding::Wanted).await;
    assert_eq!(counts(fixture).await, [1, 9, 0, 0]);
    assert_eq!(take_absent(fixture, base.clone()).await, ItemOutcome::Unchanged);
    // Edits and tombstones are taken by either way.
    let newer = edited(&base, 10, Some("newer"));
    assert_eq!(apply_one(fixture, newer.clone()).await, ItemOutcome::Absent);
    check(fixture, &unhinted(&newer), Holding::Wanted).await;
    let newest = edited(&base, 20, Some("newest"));
    assert_eq!(take_absent(fixture, newest.clone()).await, ItemOutcome::Absent);
    check(fixture, &unhinted(&newest), Holding::Wanted).await;
    assert_eq!(apply_one(fixture, edited(&base, 30, None)).await, ItemOutcome::Stored);
    assert_eq!(counts(fixture).await, [0, 0, 0, 0]);
    let gone = read(&*fixture.store(), base.hash, 0, None).await;
    assert_eq!(gone, Err(StoreError::NotFound(base.hash)));

    // Of what is held, it is a version like any other.
    ingest_one(fixture, record_of(b"here"), b"here").await;
    let newer = edited(&record_of(b"here"), 10, Some("newer"));
    assert_eq!(take_absent(fixture, newer.clone()).await, ItemOutcome::Stored);
    check(fixture, &newer, Holding::Held).await;
    assert_eq!(counts(fixture).await, [1, 4, 1, 4]);
}

pub(crate) async fn content_comes_to_a_record_that_is_there(fixture: &dyn Fixture) {
    type Makes = fn(AssetRecord, &[u8]) -> IncomingAsset;
    let ways: [Makes; 2] = [incoming, incoming_file];
    for (n, way) in (0..).zip(ways) {
        for (m, len) in (0..).zip([0, 100, 64 * 1024, 100_000]) {
            for (k, after_ms) in (0..).zip([0, 10, 20]) {
                let content = noise(len, 100 * n + 10 * m + k);
                if len == 0 && n + k > 0 {
                    continue;
                }
                let ours = edited(&record_of(&content), 10, Some("ours"));
                assert_eq!(take_absent(fixture, ours.clone()).await, ItemOutcome::Absent);
                let theirs = AssetRecord { hlc: record_of(&content).hlc, ..ours.clone() };
                let theirs =
                    if after_ms == 10 { ours.clone() } else { edited(&theirs, after_ms, Some("theirs")) };
                let outcomes = fixture.store().ingest(vec![way(theirs.clone(), &content)]).await;
                assert_eq!(outcomes, Ok(vec![ItemOutcome::Stored]), "{len} bytes, {after_ms} ms");
                check(fixture, if after_ms > 10 { &theirs } else { &ours }, Holding::Held).await;
            }
        }
    }
    let [assets, bytes, assets_held, bytes_held] = counts(fixture).await;
    assert_eq!((assets, bytes), (assets_held, bytes_held));
    // Bytes that are not what the hash says are no content.
    let base = record_of(b"right");
    take_absent(fixture, base.clone()).await;
    assert!(is_rejected(&ingest_one(fixture, base.clone(), b"wrong").await));
    check(fixture, &unhinted(&base), Holding::Wanted).await;
}

pub(crate) async fn content_let_go_leaves_its_record(fixture: &dyn Fixture) {
    for content in contents(0) {
        let record = edited(&record_of(&content), 10, Some("of a peer"));
        ingest_one(fixture, record.clone(), &content).await;
        let [assets, bytes, held, held_bytes] = counts(fixture).await;
        let seq = fixture.store().status().await.expect("status").seq;
        assert_eq!(let_go(fixture, record.hash).await, ItemOutcome::Absent);
        check(fixture, &record, Holding::Unwanted).await;
        assert_eq!(counts(fixture).await, [assets, bytes, held - 1, held_bytes - record.size]);
        let after = fixture.store().status().await.expect("status").seq;
        assert!(after > seq, "the feed tells it");
        assert_eq!(let_go(fixture, record.hash).await, ItemOutcome::Unchanged);
        assert_eq!(fixture.store().status().await.expect("status").seq, after);
    }
    // There is nothing to let go of.
    let deleted = record_of(b"deleted");
    ingest_one(fixture, deleted.clone(), b"deleted").await;
    apply_one(fixture, edited(&deleted, 10, None)).await;
    for hash in [hash_of(b"unknown"), deleted.hash] {
        assert_eq!(let_go(fixture, hash).await, ItemOutcome::Unchanged);
        assert_eq!(want(fixture, hash).await, ItemOutcome::Unchanged);
    }
    // What never came is not waited for any more.
    take_absent(fixture, record_of(b"awaited")).await;
    assert_eq!(let_go(fixture, hash_of(b"awaited")).await, ItemOutcome::Absent);
    check(fixture, &unhinted(&record_of(b"awaited")), Holding::Unwanted).await;
    assert_eq!(fixture.store().let_go(Vec::new()).await, Ok(Vec::new()));
    let too_many = fixture.store().let_go(vec![hash_of(b"x"); 1_001]).await;
    assert!(matches!(too_many, Err(StoreError::Invalid(_))), "{too_many:?}");
}

pub(crate) async fn content_let_go_is_had_back_from_the_trash(fixture: &dyn Fixture) {
    for content in contents(0) {
        let record = edited(&record_of(&content), 10, Some("of a peer"));
        ingest_one(fixture, record.clone(), &content).await;
        let before = counts(fixture).await;
        assert_eq!(want(fixture, record.hash).await, ItemOutcome::Unchanged, "it is here");
        for round in 0..3 {
            assert_eq!(let_go(fixture, record.hash).await, ItemOutcome::Absent, "round {round}");
            assert_eq!(want(fixture, record.hash).await, ItemOutcome::Stored, "round {round}");
            check(fixture, &record, Holding::Held).await;
            assert_eq!(counts(fixture).await, before);
        }
        // An edit that came meanwhile is not lost.
        let_go(fixture, record.hash).await;
        let newer = edited(&record, 10, Some("newer"));
        assert_eq!(apply_one(fixture, newer.clone()).await, ItemOutcome::Absent);
        check(fixture, &newer, Holding::Unwanted).await;
        assert_eq!(want(fixture, record.hash).await, ItemOutcome::Stored);
        check(fixture, &newer, Holding::Held).await;
        // And from a peer, too.
        let_go(fixture, record.hash).await;
        assert_eq!(ingest_one(fixture, record.clone(), &content).await, ItemOutcome::Stored);
        check(fixture, &newer, Holding::Held).await;
        assert_eq!(counts(fixture).await, before);
    }
    let too_many = fixture.store().want(vec![hash_of(b"x"); 1_001]).await;
    assert!(matches!(too_many, Err(StoreError::Invalid(_))), "{too_many:?}");
}

pub(crate) async fn content_that_is_not_wanted_stays_so(fixture: &dyn Fixture) {
    let base = record_of(b"x");
    take_absent(fixture, base.clone()).await;
    let_go(fixture, base.hash).await;
    let newer = edited(&base, 10, Some("newer"));
    assert_eq!(take_absent(fixture, newer.clone()).await, ItemOutcome::Absent);
    check(fixture, &unhinted(&newer), Holding::Unwanted).await;
    assert_eq!(want(fixture, base.hash).await, ItemOutcome::NeedsContent);
    check(fixture, &unhinted(&newer), Holding::Wanted).await;
    let seq = fixture.store().status().await.expect("status").seq;
    assert_eq!(want(fixture, base.hash).await, ItemOutcome::NeedsContent, "still");
    assert_eq!(fixture.store().status().await.expect("status").seq, seq);
    assert_eq!(ingest_one(fixture, newer.clone(), b"x").await, ItemOutcome::Stored);
    check(fixture, &newer, Holding::Held).await;
}

pub(crate) async fn an_asset_that_is_not_held_is_edited_deleted_and_uploaded(fixture: &dyn Fixture) {
    let never = contents(0).map(|content| (true, content));
    let once = contents(1).map(|content| (false, content));
    for (never_here, content) in never.into_iter().chain(once) {
        let store = fixture.store();
        let base = record_of(&content);
        if never_here {
            take_absent(fixture, base.clone()).await;
        } else {
            ingest_one(fixture, base.clone(), &content).await;
        }
        let_go(fixture, base.hash).await;
        fixture.describe(base.hash, "edited here").await;
        let edited_here = held(&*store, base.hash).await.expect("a record");
        assert_eq!(edited_here.meta.description.as_deref(), Some("edited here"));
        assert!(edited_here.supersedes(&base));
        check(fixture, &edited_here, Holding::Unwanted).await;
        fixture.delete(base.hash).await;
        let tombstone = held(&*store, base.hash).await.expect("a tombstone");
        assert!(tombstone.deleted && tombstone.supersedes(&edited_here));
        assert_eq!(fixture.put(content.clone(), described("again")).await, base.hash);
        assert!(held(&*store, base.hash).await.expect("a record").supersedes(&tombstone));

        // Uploaded while it is known and not held, it is held, and what was said of it stays.
        let_go(fixture, base.hash).await;
        let before = held(&*store, base.hash).await.expect("a record");
        fixture.put(content.clone(), IngestFields::default()).await;
        check(fixture, &before, Holding::Held).await;
        let_go(fixture, base.hash).await;
        fixture
            .put(content.clone(), IngestFields { user: Some("ann".into()), ..IngestFields::default() })
            .await;
        let after = held(&*store, base.hash).await.expect("a record");
        assert!(after.supersedes(&before));
        assert_eq!(after.meta.user.as_deref(), Some("ann"));
        assert_eq!(after.meta.description.as_deref(), Some("again"));
        check(fixture, &after, Holding::Held).await;
        fixture.delete(base.hash).await;
    }
    assert_eq!(counts(fixture).await, [0, 0, 0, 0]);
}

pub(crate) async fn the_size_of_what_never_came_is_not_believed(fixture: &dyn Fixture) {
    let lie = |content: &[u8], size| AssetRecord { size, ..edited(&record_of(content), 10, Some("a lie")) };
    // Sums of what anybody may say do not overflow.
    for n in 0..4_u8 {
        assert_eq!(take_absent(fixture, lie(&[n; 10], i64::MAX as u64)).await, ItemOutcome::Absent);
    }
    assert_eq!(counts(fixture).await[2..], [0, 0]);
    // Another record may be the right one.
    let right = edited(&record_of(&[0; 10]), 20, Some("right"));
    assert_eq!(apply_one(fixture, right.clone()).await, ItemOutcome::Absent);
    // And the right content is what tells, whichever version would win.
    let right = record_of(&[1; 10]);
    assert_eq!(ingest_one(fixture, right.clone(), &[1; 10]).await, ItemOutcome::Stored);
    check(fixture, &right, Holding::Held).await;
    fixture.put(vec![2; 10], IngestFields::default()).await;
    let uploaded = held(&*fixture.store(), hash_of(&[2; 10])).await.expect("a record");
    assert_eq!(uploaded.size, 10);
    assert!(uploaded.supersedes(&lie(&[2; 10], i64::MAX as u64)), "everybody is to hear of it");
    assert_eq!(apply_one(fixture, edited(&record_of(&[3; 10]), 20, None)).await, ItemOutcome::Stored);
    assert_eq!(counts(fixture).await, [3, 30, 2, 20]);
    // The size of what was here once is known.
    let_go(fixture, right.hash).await;
    assert!(is_rejected(&apply_one(fixture, lie(&[1; 10], 11)).await));
    assert!(is_rejected(&take_absent(fixture, lie(&[1; 10], 11)).await));
}

pub(crate) async fn a_deleted_asset_comes_back_without_its_content(fixture: &dyn Fixture) {
    // It was never here: only its tombstone was.
    let base = record_of(b"unknown");
    apply_one(fixture, edited(&base, 10, None)).await;
    assert_eq!(take_absent(fixture, base.clone()).await, ItemOutcome::Unchanged, "the tombstone is newer");
    let back = edited(&base, 20, Some("back"));
    assert_eq!(take_absent(fixture, back.clone()).await, ItemOutcome::Absent);
    check(fixture, &unhinted(&back), Holding::Wanted).await;
    assert_eq!(ingest_one(fixture, back.clone(), b"unknown").await, ItemOutcome::Stored);
    check(fixture, &back, Holding::Held).await;
    // Deleted after it was let go, it is still in the trash.
    for content in contents(0) {
        let base = record_of(&content);
        ingest_one(fixture, base.clone(), &content).await;
        let_go(fixture, base.hash).await;
        apply_one(fixture, edited(&base, 10, None)).await;
        let back = edited(&base, 20, Some("back"));
        assert_eq!(take_absent(fixture, back.clone()).await, ItemOutcome::Stored);
        check(fixture, &back, Holding::Held).await;
    }
}

pub(crate) async fn many_are_let_go_and_wanted_at_once(fixture: &dyn Fixture) {
    let store = fixture.store();
    let contents: Vec<Vec<u8>> = (0..200).map(|n| noise(if n % 20 == 0 { 70_000 } else { 200 }, n)).collect();
    let batch = contents.iter().map(|content| incoming(record_of(content), content)).collect();
    store.ingest(batch).await.expect("ingested");
    let hashes: Vec<ContentHash> = contents.iter().map(|content| hash_of(content)).collect();
    let [assets, bytes, ..] = counts(fixture).await;
    assert_eq!(store.let_go(hashes.clone()).await, Ok(vec![ItemOutcome::Absent; 200]));
    assert_eq!(counts(fixture).await, [assets, bytes, 0, 0]);
    let mut asked = hashes.clone();
    asked.insert(100, hash_of(b"unknown"));
    let mut expected = vec![ItemOutcome::Stored; 201];
    expected[100] = ItemOutcome::Unchanged;
    assert_eq!(store.want(asked).await, Ok(expected), "in the order of the question");
    assert_eq!(counts(fixture).await, [assets, bytes, assets, bytes]);
    for content in &contents {
        assert!(read(&*store, hash_of(content), 0, None).await.expect("content") == *content);
    }
}
