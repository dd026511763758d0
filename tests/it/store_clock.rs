//! The embedded store and clocks that are wrong: what edits are dated, and what is purged.

use std::path::Path;

use can_sync::testing::clock::Clock;
use can_sync::testing::record::{AssetRecord, ContentHash, Hlc};
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields, MetaPatch, Purged};

use crate::support::clock::{DAY_MS, SetClock};
use crate::support::embedded::{content_files, open_by, upload};
use crate::support::store::{edited, hash_of, held, incoming, noise, record_of};

const NOTHING: Purged = Purged { contents: 0, tombstones: 0 };

/// A store that users have deleted one asset from.
async fn with_one_deleted(dir: &Path, clock: &Clock) -> (EmbeddedStore, ContentHash) {
    let store = open_by(dir, clock).await;
    let content = noise(100_000, 1);
    upload(&store, &content, IngestFields::default()).await;
    store.delete(hash_of(&content)).await.unwrap();
    (store, hash_of(&content))
}

async fn is_all_there(store: &EmbeddedStore, dir: &Path, hash: ContentHash) -> bool {
    let tombstone = held(store, hash).await.is_some_and(|record| record.deleted);
    tombstone && content_files(dir).contains(&hash)
}

async fn describe(store: &EmbeddedStore, hash: ContentHash, text: &str) -> AssetRecord {
    let patch = MetaPatch { description: Some(Some(text.into())), ..MetaPatch::default() };
    store.patch(hash, patch).await.unwrap().record
}

#[tokio::test]
async fn one_start_with_the_clock_200_days_ahead_purges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let (store, hash) = with_one_deleted(dir.path(), &clock.start()).await;
    clock.pass(2 * DAY_MS);
    assert_eq!(store.purge().await.unwrap(), NOTHING);
    // It runs for another day without looking, so that the next start is the second look.
    clock.pass(DAY_MS);
    store.close().await;
    clock.set_ahead(200 * DAY_MS);
    let store = open_by(dir.path(), &clock.start()).await;
    assert_eq!(store.purge().await.unwrap(), NOTHING);
    assert!(is_all_there(&store, dir.path(), hash).await);
    clock.pass(DAY_MS / 2);
    assert_eq!(store.purge().await.unwrap(), NOTHING, "half a day is not enough");
    // Somebody sets it right; that time was 200 days off at the look before does not matter.
    clock.set_ahead(0);
    for _ in 0..3 {
        clock.pass(DAY_MS);
        assert_eq!(store.purge().await.unwrap(), NOTHING);
    }
    store.close().await;
    let store = open_by(dir.path(), &clock.start()).await;
    assert!(is_all_there(&store, dir.path(), hash).await);
}

#[tokio::test]
async fn content_whose_record_is_lost_is_never_purged() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let store = open_by(dir.path(), &clock.start()).await;
    let content = noise(100_000, 1);
    upload(&store, &content, IngestFields::default()).await;
    store.close().await;
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("store.db{ending}")));
    }
    let store = open_by(dir.path(), &clock.start()).await;
    let notice = store.status().await.unwrap().notice.unwrap();
    assert!(notice.contains("stay in content/"), "{notice}");
    for _ in 0..3 {
        clock.pass(100 * DAY_MS);
        assert_eq!(store.purge().await.unwrap(), NOTHING);
    }
    assert!(content_files(dir.path()).contains(&hash_of(&content)));
    // What somebody deleted afterwards goes as ever.
    upload(&store, &content, IngestFields::default()).await;
    store.delete(hash_of(&content)).await.unwrap();
    for _ in 0..2 {
        clock.pass(100 * DAY_MS);
        store.purge().await.unwrap();
    }
    assert!(!content_files(dir.path()).contains(&hash_of(&content)));
}

#[tokio::test]
async fn the_day_between_two_looks_adds_up_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let (store, hash) = with_one_deleted(dir.path(), &clock.start()).await;
    clock.pass(200 * DAY_MS);
    assert_eq!(store.purge().await.unwrap(), NOTHING, "the first look at which it is old enough");
    store.close().await;
    let hour = DAY_MS / 24;
    for _ in 0..5 {
        let store = open_by(dir.path(), &clock.start()).await;
        assert!(is_all_there(&store, dir.path(), hash).await);
        clock.pass(4 * hour);
        assert_eq!(store.purge().await.unwrap(), NOTHING);
        store.close().await;
    }
    // While it is not open nothing adds up, whatever the clock says.
    clock.set_ahead(3 * DAY_MS);
    let store = open_by(dir.path(), &clock.start()).await;
    assert_eq!(store.purge().await.unwrap(), NOTHING);
    clock.pass(4 * hour);
    assert_eq!(store.purge().await.unwrap(), Purged { contents: 1, tombstones: 1 });
    assert!(!is_all_there(&store, dir.path(), hash).await);
}

#[tokio::test]
async fn tombstones_wait_until_another_machine_agrees_if_there_ever_was_one() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let ours = clock.start();
    let (store, hash) = with_one_deleted(dir.path(), &ours).await;
    ours.hear([1; 32], clock.shows_ms());
    clock.pass(200 * DAY_MS);
    store.purge().await.unwrap();
    clock.pass(DAY_MS);
    let purged = store.purge().await.unwrap();
    assert_eq!(purged, Purged { contents: 1, tombstones: 0 }, "the other was heard 201 days ago");
    clock.pass(DAY_MS);
    ours.hear([1; 32], clock.shows_ms() - 200 * DAY_MS);
    assert_eq!(store.purge().await.unwrap(), NOTHING, "the other shows another time");
    assert!(held(&store, hash).await.is_some());
    clock.pass(DAY_MS);
    ours.hear([1; 32], clock.shows_ms() - 60_000);
    assert_eq!(store.purge().await.unwrap(), Purged { contents: 0, tombstones: 1 });
    assert_eq!(held(&store, hash).await, None);
}

#[tokio::test]
async fn a_record_that_is_dated_ahead_empties_no_trash() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let ours = clock.start();
    // Others have a version that is a year ahead, so that alone it is taken for the time.
    ours.note_confirmed(clock.shows_ms() + 365 * DAY_MS);
    ours.hear([1; 32], clock.shows_ms());
    let (store, hash) = with_one_deleted(dir.path(), &ours).await;
    for _ in 0..3 {
        clock.pass(DAY_MS);
        assert!(ours.now_ms() > clock.shows_ms() + 300 * DAY_MS, "{ours:?}");
        assert_eq!(store.purge().await.unwrap(), NOTHING);
    }
    assert!(is_all_there(&store, dir.path(), hash).await);
}

#[tokio::test]
async fn a_store_looks_by_itself_and_remembers_how_long_it_was_open() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let (store, _) = with_one_deleted(dir.path(), &clock.start()).await;
    let gone = || content_files(dir.path()).is_empty();
    clock.pass(31 * DAY_MS);
    for _ in 0..2 {
        // An hour is enough for it to look again; it looks while nobody wants anything of it.
        let before = look_of(dir.path());
        crate::support::nodes::eventually("another look", async || {
            (look_of(dir.path()) != before || gone()).then_some(()).ok_or_else(|| format!("{before:?}"))
        })
        .await;
        clock.pass(DAY_MS + 1);
    }
    crate::support::nodes::eventually("an empty trash", async || {
        gone().then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    store.close().await;
}

/// What the database says of the last look.
fn look_of(dir: &Path) -> Option<i64> {
    let database = rusqlite::Connection::open(dir.join("store.db")).unwrap();
    database.query_row("SELECT look_ms FROM state", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn an_edit_is_dated_now_or_just_after_what_it_edits_and_never_after_another_asset() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let store = open_by(dir.path(), &clock.start()).await;
    // A peer whose clock is nine minutes ahead.
    let fast_ms = clock.shows_ms() + 9 * 60_000;
    let fast = AssetRecord { hlc: Hlc::from_ms(fast_ms), ..edited(&record_of(b"fast"), 0, Some("fast")) };
    store.ingest(vec![incoming(fast.clone(), b"fast")]).await.unwrap();
    assert_eq!(describe(&store, fast.hash, "edited").await.hlc, Hlc(fast.hlc.0 + 1));
    let deleted = store.delete(fast.hash).await.unwrap().record;
    assert_eq!(deleted.hlc, Hlc(fast.hlc.0 + 2));
    let back = upload(&store, b"fast", IngestFields::default()).await.asset.record;
    assert_eq!(back.hlc, Hlc(fast.hlc.0 + 3), "deleted and put again");
    let tagged = IngestFields { tags: vec!["again".into()], ..IngestFields::default() };
    assert_eq!(upload(&store, b"fast", tagged).await.asset.record.hlc, Hlc(fast.hlc.0 + 4), "put once more");

    // Other assets are dated by our own clock all the same.
    let near = |hlc: Hlc| hlc.ms().abs_diff(clock.shows_ms()) < 60_000;
    let slow = upload(&store, b"slow", IngestFields::default()).await.asset.record;
    assert!(near(slow.hlc), "{:?}", slow.hlc);
    assert!(near(describe(&store, slow.hash, "edited").await.hlc));
    let theirs = record_of(b"old");
    store.ingest(vec![incoming(theirs.clone(), b"old")]).await.unwrap();
    assert!(near(describe(&store, theirs.hash, "edited").await.hlc));
    assert!(near(store.delete(theirs.hash).await.unwrap().record.hlc));

    // By a clock that is behind, an edit still comes after what it edits.
    let before = describe(&store, slow.hash, "once more").await;
    clock.set_behind(5 * DAY_MS);
    let after = describe(&store, slow.hash, "behind").await;
    assert_eq!(after.hlc, Hlc(before.hlc.0 + 1));
}

#[tokio::test]
async fn edits_are_dated_by_the_clock_that_other_machines_agree_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::ahead(365 * DAY_MS);
    let ours = clock.start();
    let store = open_by(dir.path(), &ours).await;
    let ahead = upload(&store, b"ahead", IngestFields::default()).await.asset.record;
    assert!(ahead.hlc.ms() > can_sync::testing::clock::now_ms() + 300 * DAY_MS);
    let right = clock.shows_ms() - 365 * DAY_MS;
    ours.hear([1; 32], right);
    ours.hear([2; 32], right + 1_000);
    let agreed = upload(&store, b"agreed", IngestFields::default()).await.asset.record;
    assert!(agreed.hlc.ms().abs_diff(can_sync::testing::clock::now_ms()) < 60_000, "{:?}", agreed.hlc);
    assert_eq!(agreed.meta.created_at_ms, agreed.hlc.ms());
}
