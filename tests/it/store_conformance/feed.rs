//! The feed of changes, and watching it.

use std::collections::BTreeSet;
use std::sync::Arc;

use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{ItemOutcome, StoreEvent};
use futures::StreamExt;
use tokio::time::timeout;

use super::{Fixture, described, ingest_one};
use crate::support::nodes::DEADLINE;
use crate::support::store::{hash_of, incoming, noise, read_feed, record_of};

pub(crate) async fn the_feed_is_in_order_and_resumes_anywhere(fixture: &dyn Fixture) {
    let store = fixture.store();
    let contents: Vec<Vec<u8>> = (0..25).map(|i| format!("content {i}").into_bytes()).collect();
    for content in &contents {
        assert_eq!(ingest_one(fixture, record_of(content), content).await, ItemOutcome::Stored);
    }
    let all = read_feed(&*store, 0, 1000).await;
    assert!(all.is_sorted_by(|a, b| a.seq < b.seq));
    let order: Vec<_> = all.iter().map(|entry| entry.record.hash).collect();
    assert_eq!(order, contents.iter().map(|content| hash_of(content)).collect::<Vec<_>>());
    assert_eq!(read_feed(&*store, 0, 7).await, all);
    for (at, entry) in all.iter().enumerate() {
        assert_eq!(read_feed(&*store, entry.seq, 10).await, all[at + 1..]);
    }
    assert_eq!(store.status().await.expect("status").seq, all.last().expect("entries").seq);
}

pub(crate) async fn a_change_moves_the_record_to_the_end_of_the_feed(fixture: &dyn Fixture) {
    let store = fixture.store();
    let hash = fixture.put(b"one".to_vec(), described("old")).await;
    fixture.put(b"two".to_vec(), described("other")).await;
    let before = read_feed(&*store, 0, 10).await;
    fixture.describe(hash, "new").await;
    let after = read_feed(&*store, 0, 10).await;
    assert_eq!(after.len(), 2, "a record appears once");
    assert_eq!(after[1].record.hash, hash);
    assert_eq!(after[1].record.meta.description.as_deref(), Some("new"));
    assert!(after[1].seq > before[1].seq);
    assert_eq!(read_feed(&*store, before[1].seq, 10).await, after[1..]);
}

pub(crate) async fn the_feed_misses_nothing_while_others_write(fixture: &dyn Fixture) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 15;
    let store = fixture.store();
    let write = |writer: u64| {
        let store = Arc::clone(&store);
        async move {
            for i in 0..EACH {
                let content = noise(100, writer * 1000 + i);
                let outcomes = store.ingest(vec![incoming(record_of(&content), &content)]).await;
                assert_eq!(outcomes, Ok(vec![ItemOutcome::Stored]));
            }
        }
    };
    let follow = async {
        let (mut since, mut seen) = (0, BTreeSet::new());
        let mut events = store.watch(0);
        while (seen.len() as u64) < WRITERS * EACH {
            let event =
                timeout(DEADLINE, events.next()).await.expect("an event").expect("the stream goes on");
            let StoreEvent::Advanced(to) = event.expect("no error") else { panic!("no reset") };
            while since < to {
                let page = store.feed(since, 10).await.expect("a page");
                since = page.entries.last().expect("there are changes up to that number").seq;
                for entry in page.entries {
                    assert!(seen.insert(entry.record.hash), "each record once");
                }
            }
        }
    };
    futures::join!(follow, futures::future::join_all((0..WRITERS).map(write)));
}

pub(crate) async fn a_cursor_from_the_future_is_reset(fixture: &dyn Fixture) {
    let store = fixture.store();
    fixture.put(b"x".to_vec(), IngestFields::default()).await;
    let seq = store.status().await.expect("status").seq;
    for since in [seq + 1, seq + 1_000_000, u64::MAX] {
        let page = store.feed(since, 10).await.expect("a page");
        assert!(page.reset && page.entries.is_empty(), "{since}");
        let event = timeout(DEADLINE, store.watch(since).next()).await.expect("an event");
        assert_eq!(event, Some(Ok(StoreEvent::Reset)), "{since}");
    }
    assert!(!store.feed(seq, 10).await.expect("a page").reset);
}

pub(crate) async fn watching_wakes_on_each_change(fixture: &dyn Fixture) {
    let store = fixture.store();
    let mut events = store.watch(0);
    let hash = fixture.put(b"x".to_vec(), described("one")).await;
    let mut last = 0;
    for change in 0..4 {
        match change {
            0 => {}
            1 => fixture.describe(hash, "two").await,
            2 => fixture.delete(hash).await,
            _ => assert_eq!(ingest_one(fixture, record_of(b"y"), b"y").await, ItemOutcome::Stored),
        }
        let seq = store.status().await.expect("status").seq;
        assert!(seq > last);
        // A change may be announced together with those before it, but not left out.
        while last < seq {
            let event =
                timeout(DEADLINE, events.next()).await.expect("an event").expect("the stream goes on");
            let Ok(StoreEvent::Advanced(to)) = event else { panic!("{event:?}") };
            assert!(last < to && to <= seq, "from {last} to {to}, of {seq}");
            last = to;
        }
    }
}

pub(crate) async fn watching_begins_after_the_cursor(fixture: &dyn Fixture) {
    let store = fixture.store();
    for i in 0..5 {
        fixture.put(vec![i], IngestFields::default()).await;
    }
    let seq = store.status().await.expect("status").seq;
    let mut behind = store.watch(seq - 1);
    let event = timeout(DEADLINE, behind.next()).await.expect("changes that are there are announced at once");
    assert_eq!(event, Some(Ok(StoreEvent::Advanced(seq))));
    let mut level = store.watch(seq);
    fixture.put(vec![99], IngestFields::default()).await;
    let event = timeout(DEADLINE, level.next()).await.expect("an event");
    assert_eq!(event, Some(Ok(StoreEvent::Advanced(seq + 1))), "nothing before the cursor is announced");
}
