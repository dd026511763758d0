//! What every [`ContentStore`] does. The cases know the trait alone; a [`Fixture`] makes the store, and does what users
//! do by whatever means that store has for them. [`conformance_tests`] makes a test of each case.

use std::collections::BTreeSet;
use std::sync::Arc;

use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, META_BYTES_MAX, WriterId};
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{ItemOutcome, StoreError, StoreRef};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};

use crate::support::store::{
    edited, hash_of, held, incoming, incoming_file, noise, read, read_feed, record_of,
};

mod absent;
mod dates;
mod entries;
mod feed;
mod merging;
mod names;
mod reading;
mod through;

pub(crate) use absent::*;
pub(crate) use dates::*;
pub(crate) use entries::*;
pub(crate) use feed::*;
pub(crate) use merging::*;
pub(crate) use names::*;
pub(crate) use reading::*;
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
