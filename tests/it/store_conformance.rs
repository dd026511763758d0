//! What every [`ContentStore`] does. The cases know the trait alone; a [`Fixture`] makes the store, and does what users
//! do by whatever means that store has for them. [`conformance_tests`] makes a test of each case.

use std::collections::BTreeSet;
use std::sync::Arc;

use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, Hlc, META_BYTES_MAX, WriterId};
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{
    Holding, ItemOutcome, Redating, StoreError, StoreEvent, StoreRef, StoredRecord,
};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tokio::time::timeout;

use crate::support::nodes::DEADLINE;
use crate::support::store::{
    edited, hash_of, held, incoming, incoming_file, noise, read, read_feed, record_of,
};

mod absent;
mod entries;
mod names;
mod through;

pub(crate) use absent::*;
pub(crate) use entries::*;
pub(crate) use names::*;
pub(crate) use through::*;

/// A store under test, empty at first, and its users.
pub(crate) trait Fixture: Send + Sync {
    /// The store.
    fn store(&self) -> StoreRef;
    /// A user uploads content.
    fn put(&self, content: Vec<u8>, fields: IngestFields) -> BoxFuture<'_, ContentHash>;
    /// A user replaces the description.
    fn describe(&self, hash: ContentHash, text: &'static str) -> BoxFuture<'_, ()>;
    /// A user deletes an asset.
    fn delete(&self, hash: ContentHash) -> BoxFuture<'_, ()>;
}

/// Makes a test of each case. Takes an expression that evaluates to a new [`Fixture`] and may await.
macro_rules! conformance_tests {
    ($fixture:expr) => {
        $crate::store_conformance::conformance_tests! { $fixture =>
            a_new_store_is_empty
            uploads_are_assets_that_nobody_edited
            edits_and_deletions_by_users_supersede
            the_feed_is_in_order_and_resumes_anywhere
            a_change_moves_the_record_to_the_end_of_the_feed
            the_feed_misses_nothing_while_others_write
            a_cursor_from_the_future_is_reset
            an_ingested_asset_is_exactly_what_was_sent
            content_that_is_not_what_its_record_says_is_refused
            metadata_over_its_limits_is_refused
            a_refused_asset_leaves_the_others_alone
            the_greater_version_wins_in_either_order
            an_update_needs_content_that_is_there
            an_update_cannot_change_the_size
            a_tombstone_hides_the_content
            a_tombstone_of_an_unknown_asset_is_kept
            a_deleted_asset_does_not_come_back_by_an_older_version
            a_newer_version_brings_a_deleted_asset_back
            one_asset_twice_in_a_batch
            watching_wakes_on_each_change
            watching_begins_after_the_cursor
            content_is_read_in_ranges
            content_of_nothing_is_not_found
            records_are_read_in_batches
            large_content_arrives_by_file_and_from_memory
            empty_content_is_content
            status_counts_what_is_live
            many_tasks_at_once
            a_record_is_taken_without_its_content
            content_comes_to_a_record_that_is_there
            content_let_go_leaves_its_record
            content_let_go_is_had_back_from_the_trash
            content_that_is_not_wanted_stays_so
            an_asset_that_is_not_held_is_edited_deleted_and_uploaded
            the_size_of_what_never_came_is_not_believed
            a_deleted_asset_comes_back_without_its_content
            many_are_let_go_and_wanted_at_once
            what_a_library_delivers_takes_the_place_of_its_own_alone
            what_a_library_replaces_is_what_was_looked_at
            what_users_put_edit_or_delete_is_theirs_or_its_librarys
            what_users_put_stays_theirs_whatever_a_library_says_of_it
            what_users_change_is_told_with_what_it_was
            content_has_every_name_that_users_put_it_under
            a_name_that_others_did_not_know_is_added_to_their_version
            a_name_that_somebody_took_away_stays_away
            nobody_makes_a_store_write_through_a_library
            what_is_held_is_written_once_more_and_later
            what_users_wrote_by_a_clock_that_was_ahead_is_dated_anew
            what_others_wrote_or_may_have_keeps_its_date
            entries_are_put_listed_and_no_assets
            an_entry_follows_the_version_that_it_names
            entries_merge_in_either_order
            changes_of_folders_share_the_feed
            what_an_entry_says_of_a_content_is_so
            an_entry_keeps_the_content_that_it_names
            a_folder_keeps_what_a_library_deletes_and_publishes_nothing
            a_folder_that_came_by_a_ticket_has_one_source_and_keeps_nothing
            a_long_history_is_read_in_pages
            entries_of_many_tasks_at_once
        }
    };
    ($fixture:expr => $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = $fixture;
                let case = $crate::store_conformance::$case(&fixture);
                tokio::time::timeout(std::time::Duration::from_mins(2), case).await.unwrap();
            }
        )*
    };
}
pub(crate) use conformance_tests;

fn described(text: &str) -> IngestFields {
    IngestFields { description: Some(text.into()), ..IngestFields::default() }
}

async fn ingest_one(fixture: &dyn Fixture, record: AssetRecord, content: &[u8]) -> ItemOutcome {
    let outcomes = fixture.store().ingest(vec![incoming(record, content)]).await;
    outcomes.expect("the store takes assets").pop().expect("an outcome for each asset")
}

async fn apply_one(fixture: &dyn Fixture, record: AssetRecord) -> ItemOutcome {
    let outcomes = fixture.store().apply(vec![record]).await;
    outcomes.expect("the store takes records").pop().expect("an outcome for each record")
}

fn is_rejected(outcome: &ItemOutcome) -> bool {
    matches!(outcome, ItemOutcome::Rejected(why) if !why.is_empty())
}

pub(crate) async fn a_new_store_is_empty(fixture: &dyn Fixture) {
    let store = fixture.store();
    let status = store.status().await.expect("status");
    assert_eq!((status.assets, status.bytes, status.read_only), (0, 0, None));
    assert!(read_feed(&*store, 0, 10).await.is_empty());
    assert_eq!(store.records(vec![hash_of(b"nothing")]).await, Ok(vec![]));
    assert_eq!(store.records(vec![]).await, Ok(vec![]));
    assert_eq!(store.ingest(vec![]).await, Ok(vec![]));
    assert_eq!(store.apply(vec![]).await, Ok(vec![]));
}

pub(crate) async fn uploads_are_assets_that_nobody_edited(fixture: &dyn Fixture) {
    let fields = IngestFields {
        filename: Some("hello.txt".into()),
        application: Some("tests".into()),
        user: Some("ann".into()),
        tags: vec!["b".into(), "a".into()],
        ..described("a greeting")
    };
    let hash = fixture.put(b"hello".to_vec(), fields).await;
    assert_eq!(hash, hash_of(b"hello"));
    let store = fixture.store();
    let record = held(&*store, hash).await.expect("the asset is there");
    assert_eq!((record.size, record.deleted, record.writer), (5, false, WriterId::NULL));
    assert_eq!(record.hlc.ms(), record.meta.created_at_ms);
    assert_eq!(record.blake3, Some(*blake3::hash(b"hello").as_bytes()));
    assert_eq!(record.meta.mime_type, "text/plain");
    assert_eq!(record.meta.filename.as_deref(), Some("hello.txt"));
    assert_eq!(record.meta.application.as_deref(), Some("tests"));
    assert_eq!(record.meta.user.as_deref(), Some("ann"));
    assert_eq!(record.meta.description.as_deref(), Some("a greeting"));
    assert_eq!(record.meta.tags, ["a", "b"]);
    assert_eq!(read(&*store, hash, 0, None).await, Ok(b"hello".to_vec()));
}

pub(crate) async fn edits_and_deletions_by_users_supersede(fixture: &dyn Fixture) {
    let store = fixture.store();
    let hash = fixture.put(b"x".to_vec(), described("one")).await;
    let first = held(&*store, hash).await.expect("uploaded");
    fixture.describe(hash, "two").await;
    let second = held(&*store, hash).await.expect("edited");
    fixture.delete(hash).await;
    let third = held(&*store, hash).await.expect("a tombstone is a record");
    assert_eq!(second.meta.description.as_deref(), Some("two"));
    assert!(second.supersedes(&first) && third.supersedes(&second));
    assert_ne!(second.writer, WriterId::NULL);
    assert_eq!(third.writer, second.writer, "one store, one writer");
    assert!(third.deleted);
    // Uploaded again, it is there again, and for everyone who saw it go.
    fixture.put(b"x".to_vec(), described("three")).await;
    let fourth = held(&*store, hash).await.expect("uploaded again");
    assert!(fourth.supersedes(&third) && !fourth.deleted);
    assert_eq!(read(&*store, hash, 0, None).await, Ok(b"x".to_vec()));
}

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

pub(crate) async fn an_ingested_asset_is_exactly_what_was_sent(fixture: &dyn Fixture) {
    let plain = |content: &[u8]| record_of(content);
    let with = |content: &[u8], meta: AssetMeta| AssetRecord { meta, ..record_of(content) };
    let odd = AssetMeta {
        mime_type: String::new(),
        filename: Some("../Ünï\u{301}cödé \u{202e}文件\n\t\0.txt".into()),
        application: Some(String::new()),
        user: None,
        tags: vec![" spaced ".into(), "a,b".into(), "\"quoted\"".into(), "ß".into(), "🏷".into()],
        description: Some("'; DROP TABLE records; -- %_\\".into()),
        created_at_ms: (1 << 48) - 1,
        names: vec!["NA\u{308}ME".into(), "other \0 name".into(), "\u{202e}gpj.2".into()],
        dropped_names: vec![u64::MAX, 0, 7],
        modified_at_ms: Some(0),
    };
    let odd = AssetMeta {
        tags: {
            let mut tags = odd.tags.clone();
            tags.sort();
            tags
        },
        ..odd
    };
    let absent = AssetMeta::default();
    let empty =
        AssetMeta { filename: Some(String::new()), description: Some(String::new()), ..absent.clone() };
    let full = AssetMeta { description: Some("d".repeat(META_BYTES_MAX)), ..AssetMeta::default() };
    let sent = [
        (plain(b"plain"), b"plain".to_vec()),
        (with(b"odd", odd), b"odd".to_vec()),
        (with(b"absent", absent), b"absent".to_vec()),
        (with(b"empty", empty), b"empty".to_vec()),
        (with(b"full", full), b"full".to_vec()),
        (edited(&plain(b"edited"), 5, Some("by someone")), b"edited".to_vec()),
        (AssetRecord { hlc: can_sync::testing::record::Hlc(u64::MAX), ..plain(b"late") }, b"late".to_vec()),
    ];
    let batch = sent.iter().map(|(record, content)| incoming(record.clone(), content)).collect();
    let store = fixture.store();
    assert_eq!(store.ingest(batch).await, Ok(vec![ItemOutcome::Stored; sent.len()]));
    for (entry, (record, content)) in read_feed(&*store, 0, 3).await.iter().zip(&sent) {
        assert_eq!(&entry.record, record);
        assert_eq!(held(&*store, record.hash).await.as_ref(), Some(record));
        assert_eq!(read(&*store, record.hash, 0, None).await.as_ref(), Ok(content));
    }
    // A hint that is missing or wrong is replaced by what the store computed.
    for hint in [None, Some([1; 32])] {
        let content = format!("hint {hint:?}").into_bytes();
        let record = AssetRecord { blake3: hint, ..record_of(&content) };
        assert_eq!(ingest_one(fixture, record, &content).await, ItemOutcome::Stored);
        assert_eq!(held(&*store, hash_of(&content)).await, Some(record_of(&content)));
    }
}

pub(crate) async fn content_that_is_not_what_its_record_says_is_refused(fixture: &dyn Fixture) {
    let store = fixture.store();
    let large = noise(200_000, 1);
    let mut wrong = large.clone();
    wrong[150_000] ^= 1;
    let size = |content: &[u8], size| AssetRecord { size, ..record_of(content) };
    let batch = vec![
        incoming(record_of(b"right"), b"wrong"),
        incoming(record_of(b"right"), b"right and more"),
        incoming(record_of(b"right"), b""),
        incoming(size(b"right", 6), b"right"),
        incoming(size(b"right", u64::MAX), b"right"),
        incoming(record_of(&large), &wrong),
        incoming_file(record_of(&large), &wrong),
        incoming_file(size(&large, 200_001), &large),
        incoming_file(record_of(b"right"), b"wrong"),
    ];
    let count = batch.len();
    let outcomes = store.ingest(batch).await.expect("the batch is answered");
    assert_eq!(outcomes.len(), count);
    assert!(outcomes.iter().all(is_rejected), "{outcomes:?}");
    assert!(read_feed(&*store, 0, 10).await.is_empty());
    for hash in [hash_of(b"right"), hash_of(b"wrong"), hash_of(&large), hash_of(&wrong)] {
        assert_eq!(read(&*store, hash, 0, None).await, Err(StoreError::NotFound(hash)));
    }
}

pub(crate) async fn metadata_over_its_limits_is_refused(fixture: &dyn Fixture) {
    let with = |change: fn(&mut AssetMeta)| {
        let mut record = record_of(b"x");
        change(&mut record.meta);
        record
    };
    let bad = [
        with(|meta| meta.description = Some("d".repeat(META_BYTES_MAX + 1))),
        with(|meta| meta.tags = (0..65).map(|i| format!("{i:02}")).collect()),
        with(|meta| meta.tags = vec!["t".repeat(129)]),
        with(|meta| meta.tags = vec!["b".into(), "a".into()]),
        with(|meta| meta.tags = vec![String::new()]),
        with(|meta| meta.created_at_ms = 1 << 48),
    ];
    for record in bad {
        let outcome = ingest_one(fixture, record.clone(), b"x").await;
        assert!(is_rejected(&outcome), "{outcome:?}");
        let outcome = apply_one(fixture, AssetRecord { deleted: true, ..record }).await;
        assert!(is_rejected(&outcome), "{outcome:?}");
    }
    assert!(read_feed(&*fixture.store(), 0, 10).await.is_empty());
}

pub(crate) async fn a_refused_asset_leaves_the_others_alone(fixture: &dyn Fixture) {
    let batch = vec![
        incoming(record_of(b"one"), b"one"),
        incoming(record_of(b"two"), b"not two"),
        incoming(record_of(b"three"), b"three"),
    ];
    let store = fixture.store();
    let outcomes = store.ingest(batch).await.expect("the batch is answered");
    assert_eq!((&outcomes[0], &outcomes[2]), (&ItemOutcome::Stored, &ItemOutcome::Stored));
    assert!(is_rejected(&outcomes[1]));
    let hashes: Vec<_> = read_feed(&*store, 0, 10).await.iter().map(|entry| entry.record.hash).collect();
    assert_eq!(hashes, [hash_of(b"one"), hash_of(b"three")]);
}

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

pub(crate) async fn status_counts_what_is_live(fixture: &dyn Fixture) {
    let store = fixture.store();
    let one = fixture.put(vec![1; 10], IngestFields::default()).await;
    fixture.put(vec![2; 100_000], IngestFields::default()).await;
    fixture.put(vec![1; 10], described("the same again")).await;
    let status = store.status().await.expect("status");
    assert_eq!((status.assets, status.bytes), (2, 100_010));
    fixture.delete(one).await;
    let status = store.status().await.expect("status");
    assert_eq!((status.assets, status.bytes), (1, 100_000));
}

pub(crate) async fn many_tasks_at_once(fixture: &dyn Fixture) {
    let store = fixture.store();
    let tasks = (0..100_u64).map(|i| {
        let store = Arc::clone(&store);
        async move {
            // Every fourth is one that others bring too, every tenth is large.
            let len = if i.is_multiple_of(10) { 100_000 } else { 1000 };
            let content = noise(len, if i.is_multiple_of(4) { 4000 } else { i });
            let record = record_of(&content);
            let outcomes = store.ingest(vec![incoming(record.clone(), &content)]).await.expect("ingested");
            assert!(matches!(outcomes[..], [ItemOutcome::Stored | ItemOutcome::Unchanged]), "{outcomes:?}");
            let edit = edited(&record, 1 + i, Some("edited"));
            store.apply(vec![edit]).await.expect("applied");
            assert!(read(&*store, record.hash, 0, None).await.expect("acknowledged is readable") == content);
            record.hash
        }
    });
    let hashes: BTreeSet<_> = stream::iter(tasks).buffer_unordered(100).collect().await;
    let feed = read_feed(&*store, 0, 33).await;
    assert_eq!(feed.iter().map(|entry| entry.record.hash).collect::<BTreeSet<_>>(), hashes);
    assert_eq!(feed.len(), hashes.len());
    assert!(feed.iter().all(|entry| entry.record.meta.description.as_deref() == Some("edited")));
}

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
