//! What the embedded store promises others to keep, and what it lets go of for good.

use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::promises::{
    CopyStanding, DROP_WITHIN, DropAnswer, DropTerms, KEPT_FOR, MarkAnswer, PromiseAnswer,
};
use can_sync::testing::store::{ContentStore as _, Holding, ItemOutcome};

use crate::support::clock::{DAY_MS, SetClock};
use crate::support::embedded::{content_files, open_by, upload};
use crate::support::store::{hash_of, noise};

const PEER: [u8; 32] = [7; 32];
const HOUR_MS: u64 = 3600 * 1000;

#[tokio::test]
async fn what_is_promised_stays_for_a_day_and_over_restarts() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::right());
    let store = open_by(dir.path(), &clock.start()).await;
    let content = noise(100_000, 1);
    upload(&store, &content, IngestFields::default()).await;
    let hash = hash_of(&content);
    assert_eq!(store.promise(hash_of(b"another"), PEER).await, Ok(PromiseAnswer::NotHeld));
    assert_eq!(store.promise(hash, PEER).await, Ok(PromiseAnswer::Promised));
    clock.pass(20 * HOUR_MS);
    store.close().await;

    // Nobody knows how long the machine was off: it runs anew.
    let started = clock.start();
    let store = open_by(dir.path(), &started).await;
    clock.pass(23 * HOUR_MS);
    // What the time of day is set to means nothing.
    clock.set_ahead(100 * DAY_MS);
    let lasts = store.standing(hash).await.unwrap().promises[0].lasts;
    assert!(lasts <= Duration::from_hours(1) && lasts > Duration::from_mins(50), "{lasts:?}");
    assert!(matches!(store.mark_dropping(vec![hash]).await.unwrap()[..], [MarkAnswer::Promised(_)]));
    assert_eq!(store.let_go(vec![hash]).await, Ok(vec![ItemOutcome::Unchanged]));
    let by = started.uptime() + DROP_WITHIN;
    assert_eq!(store.drop_marked(vec![hash], DropTerms::until(by)).await, Ok(vec![DropAnswer::NotMarked]));
    assert!(content_files(dir.path()).contains(&hash));
    store.purge().await.unwrap();
    assert_eq!(store.standing(hash).await.unwrap().promises.len(), 1);

    clock.pass(HOUR_MS);
    assert_eq!(store.standing(hash).await, Ok(CopyStanding::default()));
    store.purge().await.unwrap();
    assert_eq!(store.mark_dropping(vec![hash]).await, Ok(vec![MarkAnswer::Marked]));
    assert_eq!(store.promise(hash, PEER).await, Ok(PromiseAnswer::Dropping));
    store.clear_dropping(Some(vec![hash])).await.unwrap();
    assert_eq!(store.promise(hash, PEER).await, Ok(PromiseAnswer::Promised));
    let lasts = store.standing(hash).await.unwrap().promises[0].lasts;
    assert!(lasts > KEPT_FOR - Duration::from_mins(10));
    // A user's deletion goes before everything.
    store.delete(hash).await.unwrap();
    assert!(store.asset(hash).await.unwrap().unwrap().record.deleted);
}

#[tokio::test]
async fn what_is_marked_goes_for_good_and_in_time() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::right());
    let started = clock.start();
    let store = open_by(dir.path(), &started).await;
    let contents = [noise(0, 0), noise(500, 1), noise(100_000, 2), noise(300_000, 3)];
    let hashes: Vec<_> = contents.iter().map(|content| hash_of(content)).collect();
    for content in &contents {
        upload(&store, content, IngestFields::default()).await;
    }
    assert_eq!(store.mark_dropping(hashes.clone()).await, Ok(vec![MarkAnswer::Marked; 4]));
    let by = started.uptime() + DROP_WITHIN;
    clock.pass(HOUR_MS);
    assert_eq!(store.drop_marked(hashes.clone(), DropTerms::until(by)).await, Ok(vec![DropAnswer::Late; 4]));
    store.close().await;

    let started = clock.start();
    let store = open_by(dir.path(), &started).await;
    let by = started.uptime() + DROP_WITHIN;
    let not_marked = store.drop_marked(hashes.clone(), DropTerms::until(by)).await;
    assert_eq!(not_marked, Ok(vec![DropAnswer::NotMarked; 4]), "marks are cleared when it opens");
    store.mark_dropping(hashes[..3].to_vec()).await.unwrap();
    let dropped = store.drop_marked(hashes.clone(), DropTerms::until(by)).await.unwrap();
    let gone = DropAnswer::Dropped;
    assert_eq!(dropped, [gone, gone, gone, DropAnswer::NotMarked]);
    let status = store.status().await.unwrap();
    assert_eq!((status.assets, status.assets_held, status.bytes_held), (4, 1, 300_000));
    for stored in store.records(hashes[..3].to_vec()).await.unwrap() {
        assert_eq!(stored.holding, Holding::Unwanted);
    }
    assert_eq!(store.trash(None, None, 10).await.unwrap().total, 0);
    // Also where it is killed before it has removed the files.
    store.close().await;
    let store = open_by(dir.path(), &clock.start()).await;
    assert_eq!(content_files(dir.path()), [hashes[3]].into());
    assert_eq!(store.want(hashes[..3].to_vec()).await, Ok(vec![ItemOutcome::NeedsContent; 3]));
    upload(&store, &contents[2], IngestFields::default()).await;
    assert!(content_files(dir.path()).contains(&hashes[2]));
}

#[tokio::test]
async fn what_is_marked_stays_where_the_terms_hold_no_more() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::right());
    let started = clock.start();
    let store = open_by(dir.path(), &started).await;
    let content = noise(100_000, 1);
    upload(&store, &content, IngestFields::default()).await;
    let hash = hash_of(&content);
    store.mark_dropping(vec![hash]).await.unwrap();
    let by = started.uptime() + DROP_WITHIN;
    let void = DropTerms { holds: Arc::new(|| false), ..DropTerms::until(by) };
    assert_eq!(store.drop_marked(vec![hash], void).await, Ok(vec![DropAnswer::Unpromised]));
    assert!(content_files(dir.path()).contains(&hash));
    assert_eq!(store.drop_marked(vec![hash], DropTerms::until(by)).await, Ok(vec![DropAnswer::Dropped]));
}
