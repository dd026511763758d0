//! What the process of the store does, and says.

use std::io::Write;
use std::time::{Duration, Instant};

use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields, MetaPatch};
use can_sync::testing::store::{ContentStore, ItemOutcome, StoreError};
use futures::future::join_all;

use crate::support::embedded::try_upload;
use crate::support::store::{hash_of, incoming, noise, read, read_feed, record_of};

/// How often a process tries. A fault hits each of its threads once.
const ATTEMPTS: u32 = 20;

pub(super) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{text}\n").as_bytes()).expect("the parent listens");
    out.flush().expect("the parent listens");
}

pub(super) async fn ingest_for_ever(store: &EmbeddedStore, seed: u64) {
    let tasks = (0..8_u64).map(|task| async move {
        for i in 0.. {
            let number = seed * 1_000_000 + task * 100_000 + i;
            let content = content_for_ever(number);
            let hash = hash_of(&content);
            if number.is_multiple_of(2) {
                try_upload(store, &content, IngestFields::default()).await.expect("uploaded");
            } else {
                let outcomes = store.ingest(vec![incoming(record_of(&content), &content)]).await;
                assert_eq!(outcomes, Ok(vec![ItemOutcome::Stored]));
            }
            say(&format!("stored {hash}"));
            if number.is_multiple_of(3) {
                let text = format!("number {number}");
                let patch = MetaPatch { description: Some(Some(text.clone())), ..MetaPatch::default() };
                store.patch(hash, patch).await.expect("described");
                say(&format!("described {hash} {text}"));
            }
            if number.is_multiple_of(5) {
                say(&format!("deleting {hash}"));
                store.delete(hash).await.expect("deleted");
                say(&format!("deleted {hash}"));
            }
            if number % 5 == 1 {
                say(&format!("letting-go {hash}"));
                assert_eq!(store.let_go(vec![hash]).await, Ok(vec![ItemOutcome::Absent]));
                say(&format!("let-go {hash}"));
            }
            if number % 10 == 1 {
                say(&format!("wanting {hash}"));
                assert_eq!(store.want(vec![hash]).await, Ok(vec![ItemOutcome::Stored]));
                say(&format!("had-back {hash}"));
            }
        }
    });
    join_all(tasks).await;
}

/// Mostly small, some in files, a few of several blocks.
fn content_for_ever(number: u64) -> Vec<u8> {
    let len = match number % 7 {
        0 => 2_500_000,
        1 | 2 => 100_000,
        _ => 3000,
    };
    noise(len, number)
}

/// Each kind of change, and all again if one failed: a full disk passes.
pub(super) async fn do_everything_once(store: &EmbeddedStore) {
    for attempt in 0..ATTEMPTS {
        let mut failed = Vec::new();
        for (number, len) in [(1, 100_000), (2, 3000), (3, 1_500_000)] {
            let content = noise(len, number);
            match try_upload(store, &content, IngestFields::default()).await {
                Ok(_) => say(&format!("stored {}", hash_of(&content))),
                Err(error) => failed.push(error),
            }
        }
        let (large, small) = (noise(200_000, 4), noise(2000, 5));
        let batch = vec![incoming(record_of(&large), &large), incoming(record_of(&small), &small)];
        match store.ingest(batch).await {
            Ok(_) => [&large, &small].iter().for_each(|content| say(&format!("stored {}", hash_of(content)))),
            Err(error) => failed.push(error),
        }
        let hash = hash_of(&large);
        let patch = MetaPatch { description: Some(Some("large".into())), ..MetaPatch::default() };
        match store.patch(hash, patch).await {
            Ok(_) => say(&format!("described {hash} large")),
            Err(error) => failed.push(error),
        }
        let hash = hash_of(&noise(100_000, 1));
        say(&format!("deleting {hash}"));
        match store.delete(hash).await {
            Ok(_) => say(&format!("deleted {hash}")),
            Err(error) => failed.push(error),
        }
        for hash in [hash_of(&large), hash_of(&small)] {
            say(&format!("letting-go {hash}"));
            match store.let_go(vec![hash]).await {
                Ok(_) => say(&format!("let-go {hash}")),
                Err(error) => failed.push(error),
            }
        }
        let hash = hash_of(&small);
        say(&format!("wanting {hash}"));
        match store.want(vec![hash]).await {
            Ok(_) => say(&format!("had-back {hash}")),
            Err(error) => failed.push(error),
        }
        let read_only = store.status().await.is_ok_and(|status| status.read_only.is_some());
        failed.retain(|error| !matches!(error, StoreError::NotFound(_)));
        for error in &failed {
            say(&format!("failed, read-only {read_only}: {error}"));
        }
        if failed.is_empty() || read_only {
            break;
        }
        assert!(attempt + 1 < ATTEMPTS, "it does not go on");
    }
    store.close().await;
}

/// Reads whatever there is, a part first; then the store takes one more.
pub(super) async fn read_everything(store: &EmbeddedStore) {
    for entry in read_feed(store, 0, 500).await {
        let hash = entry.record.hash;
        let part = read(store, hash, 10, Some(100)).await;
        match part.and(read(store, hash, 0, None).await) {
            Ok(content) if hash_of(&content) == hash => say(&format!("read {hash}")),
            Ok(_) => say("failed: wrong bytes"),
            Err(error) => say(&format!("failed: {error}")),
        }
    }
    // What is being examined is decided within a moment.
    let deadline = Instant::now() + Duration::from_secs(20);
    let set_aside = loop {
        let damaged = store.status().await.expect("status").damaged;
        let held = read_feed(store, 0, 500).await.iter().all(|entry| entry.holding.is_held());
        if damaged > 0 || (held && Instant::now() + Duration::from_secs(10) > deadline) {
            break damaged;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if set_aside > 0 {
        say(&format!("failed: set aside {set_aside}"));
    }
    let content = noise(100_000, 77);
    match try_upload(store, &content, IngestFields::default()).await {
        Ok(_) => say(&format!("stored {}", hash_of(&content))),
        Err(error) => say(&format!("failed: {error}")),
    }
    store.close().await;
}
