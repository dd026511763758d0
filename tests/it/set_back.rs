//! A store that was set back: an older copy of it is in its place. What it gave out since then, it does not give out again for
//! something else, and whoever has read of that begins again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use can_sync::testing::clock::{Clock, Moment};
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::{ContentStore as _, StoreEvent};
use futures::StreamExt as _;

use crate::support::embedded::{copy_dir, open, open_by, upload};
use crate::support::service::soon;
use crate::support::store::{noise, read_feed};

async fn put(store: &EmbeddedStore, seeds: std::ops::Range<usize>) -> Vec<u64> {
    let mut numbers = Vec::new();
    for seed in seeds {
        numbers.push(upload(store, &noise(100, seed as u64), IngestFields::default()).await.asset.seq);
    }
    numbers
}

/// Puts the older copy into the place of the store.
fn set_back(dir: &Path, older: &Path) {
    fs::remove_dir_all(dir).unwrap();
    copy_dir(older, dir);
}

/// Checks the store in `dir`, of which `known` numbers are in the older copy and `lost` were given out after it.
async fn check(dir: &Path, clock: &Clock, known: &[u64], lost: &[u64]) {
    let store = open_by(dir, clock).await;
    for round in 0..2 {
        for number in lost {
            assert!(store.feed(*number, 10).await.unwrap().reset, "{number} in round {round}");
            let first = soon("an event", store.watch(*number).next()).await;
            assert_eq!(first, Some(Ok(StoreEvent::Reset)));
        }
        for number in known {
            assert!(!store.feed(*number, 10).await.unwrap().reset, "{number} is of before");
        }
        // More than were lost.
        put(&store, round * 1000..round * 1000 + lost.len() + 20).await;
    }
    let all = read_feed(&store, 0, 1000).await;
    assert_eq!(read_feed(&store, *known.last().unwrap(), 1000).await.len(), all.len() - known.len());
    assert!(all.is_sorted_by(|a, b| a.seq < b.seq) && all.last().unwrap().seq < 1 << 53);
    assert_eq!(store.status().await.unwrap().notice, None, "nothing was lost that this copy had");
    store.close().await;
}

/// Clocks that are right, that stand still, and that know nothing.
fn clocks() -> [Clock; 3] {
    let standing = |own_ms| Clock::reading_from(move || Moment { own_ms, uptime: Duration::ZERO });
    [Clock::system(), standing(1_800_000_000_000), standing(0)]
}

#[tokio::test]
async fn a_copy_of_a_closed_store_does_not_give_numbers_out_again() {
    for clock in clocks() {
        let dir = tempfile::tempdir().unwrap();
        let (place, older) = (dir.path().join("store"), dir.path().join("older"));
        let store = open_by(&place, &clock).await;
        let known = put(&store, 0..10).await;
        assert_eq!(known, (1..=10).collect::<Vec<_>>(), "a new store counts from 1");
        store.close().await;
        copy_dir(&place, &older);
        let store = open_by(&place, &clock).await;
        let mut lost = vec![store.status().await.unwrap().seq];
        lost.extend(put(&store, 100..130).await);
        store.close().await;
        set_back(&place, &older);
        check(&place, &clock, &known, &lost).await;
    }
}

#[tokio::test]
async fn a_copy_of_a_running_store_does_not_either() {
    for clock in clocks() {
        let dir = tempfile::tempdir().unwrap();
        let (place, older) = (dir.path().join("store"), dir.path().join("older"));
        let store = open_by(&place, &clock).await;
        let known = put(&store, 0..10).await;
        copy_dir(&place, &older);
        // The run that the copy was made in goes on.
        let lost = put(&store, 100..130).await;
        assert_eq!(lost[0], 11);
        store.close().await;
        set_back(&place, &older);
        check(&place, &clock, &known, &lost).await;
    }
}

#[tokio::test]
async fn a_store_that_was_set_back_to_nothing_does_not_begin_at_1_again() {
    let dir = tempfile::tempdir().unwrap();
    let (place, older) = (dir.path().join("store"), dir.path().join("older"));
    open(&place).await.close().await;
    copy_dir(&place, &older);
    let id = {
        let store = open(&place).await;
        put(&store, 0..30).await;
        let id = store.id();
        store.close().await;
        id
    };
    set_back(&place, &older);
    let store = open(&place).await;
    assert_eq!(store.id(), id, "it is the same store");
    assert!(put(&store, 50..51).await[0] > 30);
    store.close().await;
    // One that is made anew is another one, and begins at 1.
    fs::remove_dir_all(&place).unwrap();
    let store = open(&place).await;
    assert_ne!(store.id(), id);
    assert_eq!(put(&store, 0..1).await, [1]);
    store.close().await;
}

/// As a machine is set back that goes on running: nobody opens the store, but its clock is set right.
#[tokio::test]
async fn numbers_begin_anew_once_the_clock_was_set() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let clock = {
        let now = Arc::clone(&now);
        Clock::reading_from(move || Moment { own_ms: now.load(Ordering::Relaxed), uptime: Duration::ZERO })
    };
    let dir = tempfile::tempdir().unwrap();
    let store = open_by(dir.path(), &clock).await;
    assert_eq!(put(&store, 0..3).await, [1, 2, 3]);
    now.fetch_add(3_600_000, Ordering::Relaxed);
    let after = put(&store, 3..5).await;
    assert!(after[0] > 1_800_003_600_000_000 && after[1] == after[0] + 1, "{after:?}");
    assert!(store.feed(4, 10).await.unwrap().reset, "nobody was given it");
    assert!(!store.feed(3, 10).await.unwrap().reset);
    assert_eq!(read_feed(&store, 3, 10).await.len(), 2);
    store.close().await;
}
