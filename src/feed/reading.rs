//! CanServiceActor's tasks that read the store: the *follower*, which never ends, and a *scan*.
//!
//! Both wait until the actor has taken a page before they read the next, so at most one page of each is in its mailbox.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use ractor::ActorRef;
use tokio::time::{Instant, sleep, timeout};

use super::{CanServiceArgs, CanServiceMsg};
use crate::entry::{EntryHash, FolderRecord};
use crate::record::ContentHash;
use crate::store::{FeedPage, StoreError, StoreEvent, StoreResult};

/// Records per page of the feed.
const PAGE: usize = 1000;
/// Longest wait for one answer of the store.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Waits after a failed call to the store: doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Longest that the actor may take over a page before the follower gives up on it.
const TAKE_WITHIN: Duration = Duration::from_secs(30);

/// Reads the feed as it grows. Never ends.
pub(super) async fn follow(actor: ActorRef<CanServiceMsg>, args: CanServiceArgs) {
    let mut retry = RETRY_MIN;
    // What was read; the actor makes it known as the cursor once it has taken all of it.
    let mut read_to = 0;
    let mut events: Option<BoxStream<'static, StoreResult<StoreEvent>>> = None;
    let mut events_wanted_at = Instant::now();
    loop {
        let cursor = args.libraries.cursor().borrow().unwrap_or(read_to);
        read_to = cursor;
        match catch_up(&actor, &args, &mut read_to).await {
            Ok(()) => retry = RETRY_MIN,
            Err(error) => {
                let _ = actor.send_message(CanServiceMsg::StoreFailed(error));
                events = None;
                sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
                continue;
            }
        }
        let now = Instant::now();
        if events.is_none() && now >= events_wanted_at {
            let cursor = args.libraries.cursor().borrow().unwrap_or(read_to);
            events = Some(args.store.watch(cursor));
            // A stream that breaks at once is not asked for in a tight loop; the poll goes on meanwhile.
            events_wanted_at = now + RETRY_MIN.max(args.poll_interval / 4);
        }
        let next_event = async {
            match events.as_mut() {
                Some(stream) => stream.next().await,
                None => std::future::pending().await,
            }
        };
        match timeout(args.poll_interval, next_event).await {
            Ok(Some(Ok(StoreEvent::Advanced(_) | StoreEvent::Reset))) | Err(_) => {}
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "the event stream broke");
                events = None;
            }
            Ok(None) => events = None,
        }
    }
}

/// Reads pages after `cursor` until there are no more, hands each to the actor, and moves the cursor behind it.
async fn catch_up(actor: &ActorRef<CanServiceMsg>, args: &CanServiceArgs, cursor: &mut u64) -> StoreResult {
    loop {
        let page = answered(args.store.feed_with_entries(*cursor, PAGE)).await?;
        if page.reset && *cursor == 0 {
            return Err(StoreError::io(
                "cannot follow the store's feed",
                "it wants to be read from the start, and refuses the start",
            ));
        }
        if *cursor == 0 {
            args.libraries.set_source(page.store);
        } else if page.reset || args.libraries.is_other_source(page.store) {
            let _ = actor.send_message(CanServiceMsg::Reset);
            *cursor = 0;
            continue;
        }
        let Some(last) = page.last_seq() else {
            *cursor = page.end.max(*cursor);
            break;
        };
        let (more, end) = (page.len() >= PAGE, page.end);
        know_sources(args, &page).await?;
        hand_over(actor, page, true).await?;
        *cursor = if more { last } else { end.max(last) };
        if !more {
            break;
        }
    }
    let status = answered(args.store.status()).await?;
    let _ = actor.send_message(CanServiceMsg::CaughtUp { at: *cursor, status: Box::new(status) });
    Ok(())
}

/// Compares all of the store with the index: changed records go to the actor as pages, and what the index has and the
/// store does not is reported at the end.
pub(super) async fn scan(actor: ActorRef<CanServiceMsg>, args: CanServiceArgs) {
    let before = (args.libraries.mirror().hashes(), args.libraries.entry_hashes());
    let ended = match scan_store(&actor, &args, before).await {
        Ok((assets, entries)) => CanServiceMsg::Vanished { assets, entries },
        Err(error) => {
            tracing::debug!(%error, "a full comparison with the store did not end; the next one is due later");
            CanServiceMsg::ScanFailed
        }
    };
    let _ = actor.send_message(ended);
}

async fn scan_store(
    actor: &ActorRef<CanServiceMsg>,
    args: &CanServiceArgs,
    (assets, entries): (Vec<ContentHash>, Vec<EntryHash>),
) -> StoreResult<(Vec<ContentHash>, Vec<EntryHash>)> {
    let mut unseen: HashSet<ContentHash> = assets.into_iter().collect();
    let mut unseen_entries: HashSet<EntryHash> = entries.into_iter().collect();
    let (mut cursor, mut source) = (0, None);
    loop {
        let page = answered(args.store.feed_with_entries(cursor, PAGE)).await?;
        // A part of it says nothing about what is gone.
        if page.reset || (cursor > 0 && page.store != source) {
            return Err(StoreError::io(
                "cannot compare all of the store",
                "it is not what it was any more; it is read again",
            ));
        }
        source = page.store;
        let Some(last) = page.last_seq() else { break };
        for entry in &page.entries {
            unseen.remove(&entry.record.hash);
        }
        for entry in &page.folder_records {
            unseen_entries.remove(&entry.record.hash());
        }
        know_sources(args, &page).await?;
        hand_over(actor, page, false).await?;
        cursor = last;
    }
    // A record that changed while we read moved ahead of us, so ask once more before calling it gone.
    let unseen: Vec<ContentHash> = unseen.into_iter().collect();
    let mut vanished = Vec::new();
    for hashes in unseen.chunks(PAGE) {
        let found = answered(args.store.records(hashes.to_vec())).await?;
        let found: HashSet<ContentHash> = found.iter().map(|stored| stored.record.hash).collect();
        vanished.extend(hashes.iter().filter(|hash| !found.contains(hash)));
    }
    let unseen: Vec<EntryHash> = unseen_entries.into_iter().collect();
    let mut vanished_entries = Vec::new();
    for hashes in unseen.chunks(PAGE) {
        let found = match answered(args.store.entries_named(hashes.to_vec())).await {
            // An older service took the place of one that keeps entries. That says nothing about them.
            Err(StoreError::NoFolders | StoreError::Unsupported { .. }) => break,
            found => found?,
        };
        let found: HashSet<EntryHash> = found.iter().map(FolderRecord::hash).collect();
        vanished_entries.extend(hashes.iter().filter(|hash| !found.contains(hash)));
    }
    Ok((vanished, vanished_entries))
}

/// How often the store is asked which folders came by tickets, while users join and leave libraries.
const SOURCES_TRIES: u32 = 10;

/// Before records of folders are taken in: which folders came by tickets, maybe to another agent of the same store.
async fn know_sources(args: &CanServiceArgs, page: &FeedPage) -> StoreResult {
    if page.folder_records.is_empty() {
        return Ok(());
    }
    for _ in 0..SOURCES_TRIES {
        let before = args.libraries.foreign_folders();
        let folders = answered(args.store.foreign_folders()).await?;
        if args.libraries.set_foreign_folders(&before, folders) {
            return Ok(());
        }
    }
    Err(StoreError::io("cannot tell which folders came by tickets", "that changes all the time"))
}

async fn hand_over(actor: &ActorRef<CanServiceMsg>, page: FeedPage, follows: bool) -> StoreResult {
    let FeedPage { entries, folder_records, .. } = page;
    let page = |reply| CanServiceMsg::Page { entries, folder_records, follows, reply };
    match actor.call(page, Some(TAKE_WITHIN)).await {
        Ok(ractor::rpc::CallResult::Success(())) => Ok(()),
        Ok(ractor::rpc::CallResult::Timeout | ractor::rpc::CallResult::SenderError) | Err(_) => {
            Err(StoreError::io("cannot take in a page of the feed", "CanServiceActor does not answer"))
        }
    }
}

async fn answered<T>(call: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    timeout(ANSWER_WITHIN, call).await.unwrap_or_else(|_| {
        Err(StoreError::io("cannot read the store", format!("no answer for {} s", ANSWER_WITHIN.as_secs())))
    })
}
