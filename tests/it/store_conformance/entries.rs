//! Records of folders: a kind of their own, which merge, have a history, and keep what they name.

use std::slice::from_ref;
use std::sync::Arc;

use can_sync::testing::entry::{EntryRecord, FolderId, FolderRecord};
use can_sync::testing::record::{AssetRecord, ContentHash, LibraryId};
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::entries::{EntryOutcome, EntryPut, EntryQuery, FolderClaim, StoredEntry};
use can_sync::testing::store::{ContentStore, ItemOutcome, StoreError, StoreEvent, StoredRecord};
use futures::StreamExt as _;
use tokio::time::timeout;

use super::{Fixture, apply_one, ingest_one};
use crate::support::folder::{FOLDER, author, definition, entry, history, listed, put, take};
use crate::support::nodes::{DEADLINE, eventually};
use crate::support::store::{edited, hash_of, held, holding, noise, read, read_feed, record_of};

/// All changes of folders after `since`.
async fn changes(store: &dyn ContentStore, mut since: u64, limit: usize) -> Vec<StoredEntry> {
    let mut all = Vec::new();
    loop {
        let page = store.feed_with_entries(since, limit).await.expect("a page");
        assert!(!page.reset && page.len() <= limit);
        let Some(last) = page.last_seq() else { return all };
        let numbers = page.entries.iter().map(|entry| entry.seq);
        let numbers: Vec<u64> = numbers.chain(page.folder_records.iter().map(|entry| entry.seq)).collect();
        assert!(numbers.iter().all(|seq| *seq > since && *seq <= last));
        all.extend(page.folder_records);
        since = last;
    }
}

pub(crate) async fn entries_are_put_listed_and_no_assets(fixture: &dyn Fixture) {
    let store = fixture.store();
    assert!(store.status().await.expect("status").keeps_entries);
    assert_eq!(store.take_entries(vec![], None).await, Ok(vec![]));
    assert_eq!(store.put_entries(vec![]).await, Ok(vec![]));
    let ann = author(1, 0);
    let folder = definition(FOLDER, "photos", &ann);
    let other = definition(FolderId([9; 32]), "photos", &ann);
    for record in [&folder, &other] {
        assert_eq!(put(&*store, record, None).await, EntryOutcome::Stored);
    }
    let paths = ["a", "a/b", "a/c", "b/%_", "caf\u{e9}/x", "z"];
    let entries: Vec<FolderRecord> = paths.iter().map(|path| entry(path, None, Some(b"x"), &ann)).collect();
    for record in &entries {
        assert_eq!(put(&*store, record, None).await, EntryOutcome::Stored);
    }
    let expected: Vec<FolderRecord> = [&folder].into_iter().chain(&entries).cloned().collect();
    for limit in [1, 2, 1000] {
        assert_eq!(listed(&*store, "", limit).await, expected, "in pages of {limit}");
    }
    assert_eq!(listed(&*store, "a/", 10).await, entries[1..3]);
    assert_eq!(listed(&*store, "b/%", 10).await, entries[3..4]);
    assert_eq!(listed(&*store, "cafe\u{301}", 10).await, entries[4..5], "however it is written");
    assert_eq!(listed(&*store, "b/x", 10).await, []);
    let folders = store.entries(EntryQuery { limit: 1, ..EntryQuery::default() }).await.expect("a page");
    assert_eq!(folders.records, from_ref(&folder));
    let rest = EntryQuery { cursor: folders.next_cursor, limit: 10, ..EntryQuery::default() };
    assert_eq!(store.entries(rest).await.expect("a page").records, from_ref(&other));
    for cursor in ["x", "0"] {
        let query = EntryQuery { cursor: Some(cursor.into()), folder: Some(FOLDER), ..EntryQuery::default() };
        assert!(matches!(store.entries(query).await, Err(StoreError::Invalid(_))), "{cursor}");
    }
    let names = vec![entries[0].hash(), folder.hash(), entry("unknown", None, None, &ann).hash()];
    let mut named = store.entries_named(names).await.expect("records");
    named.sort_unstable_by_key(|record| record.path().len());
    assert_eq!(named, [folder, entries[0].clone()]);
    // No asset knows of them.
    assert!(read_feed(&*store, 0, 10).await.is_empty());
    let status = store.status().await.expect("status");
    assert_eq!((status.assets, status.bytes, status.seq), (0, 0, 8));
    let as_asset = ContentHash(entries[0].hash().0);
    assert_eq!(store.records(vec![as_asset]).await, Ok(vec![]));
    let too_many = vec![EntryPut { record: entries[0].clone(), expects: None }; 1001];
    assert!(matches!(store.put_entries(too_many).await, Err(StoreError::Invalid(_))));
}

pub(crate) async fn an_entry_follows_the_version_that_it_names(fixture: &dyn Fixture) {
    let store = fixture.store();
    let (ann, ben) = (author(1, 0), author(2, 5));
    let first = entry("a", None, Some(b"one"), &ann);
    assert_eq!(put(&*store, &first, Some(first.digest())).await, EntryOutcome::Changed(None));
    assert_eq!(put(&*store, &first, None).await, EntryOutcome::Stored);
    let found = EntryOutcome::Changed(Some(Box::new(first.clone())));
    let second = entry("a", Some(&first), Some(b"two"), &ben);
    assert_eq!(put(&*store, &second, None).await, found);
    assert_eq!(put(&*store, &second, Some(second.digest())).await, found);
    assert_eq!(put(&*store, &second, Some(first.digest())).await, EntryOutcome::Stored);
    // Earlier than what it is to follow.
    let late = put(&*store, &first, Some(second.digest())).await;
    assert!(matches!(late, EntryOutcome::Rejected(why) if why.contains("later")));
    let removed = entry("a", Some(&second), None, &author(1, 9));
    assert_eq!(put(&*store, &removed, Some(second.digest())).await, EntryOutcome::Stored);
    assert_eq!(listed(&*store, "", 10).await, [removed]);
    assert_eq!(history(&*store, "a").await, [second, first]);
    assert_eq!(history(&*store, "b").await, []);
    // One that breaks a rule is refused alone, or with the sentence that says which.
    let FolderRecord::Entry(bad) = entry("b", None, Some(b"x"), &ann) else { panic!("an entry") };
    let bad = FolderRecord::Entry(EntryRecord { by: "x".repeat(33), ..bad });
    let good = entry("b", None, Some(b"good"), &ann);
    let batch = [&bad, &good].map(|record| EntryPut { record: record.clone(), expects: None }).to_vec();
    let outcomes = store.put_entries(batch).await.expect("the store keeps folders");
    let [EntryOutcome::Rejected(why), EntryOutcome::Stored] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(!why.is_empty());
    let outcomes = store.take_entries(vec![good.clone(), bad], None).await.expect("the store keeps folders");
    assert!(matches!(&outcomes[..], [EntryOutcome::Unchanged, EntryOutcome::Rejected(_)]), "{outcomes:?}");
    assert_eq!(listed(&*store, "b", 10).await, [good]);
}

pub(crate) async fn entries_merge_in_either_order(fixture: &dyn Fixture) {
    let store = fixture.store();
    let base = entry("d/a.txt", None, Some(b"base"), &author(1, 0));
    let mine = entry("d/a.txt", Some(&base), Some(b"mine"), &author(1, 10));
    let theirs = entry("d/a.txt", Some(&base), Some(b"theirs"), &author(2, 20));
    assert_eq!(take(&*store, &base).await, EntryOutcome::Stored);
    assert_eq!(take(&*store, &base).await, EntryOutcome::Unchanged);
    assert_eq!(take(&*store, &theirs).await, EntryOutcome::Stored);
    // What was edited apart and lost has a path of its own, and everybody makes the same of it.
    assert_eq!(take(&*store, &mine).await, EntryOutcome::Unchanged);
    let after = listed(&*store, "", 10).await;
    let [copy, winner] = &after[..] else { panic!("{after:?}") };
    assert_eq!((winner, copy.target()), (&theirs, Some(hash_of(b"mine"))));
    assert!(copy.path().starts_with("d/a (machine 1 2023-11-14 "), "{}", copy.path());
    assert_eq!(history(&*store, "d/a.txt").await, [mine.clone(), base.clone()]);
    let seq = store.status().await.expect("status").seq;
    for again in [&mine, &base, &theirs, copy] {
        assert_eq!(take(&*store, again).await, EntryOutcome::Unchanged);
    }
    assert_eq!(store.status().await.expect("status").seq, seq, "nothing is news any more");
    assert_eq!(history(&*store, "d/a.txt").await, [mine, base]);
    // A path written otherwise is the same path.
    let composed = entry("caf\u{e9}", None, Some(b"1"), &author(1, 0));
    let decomposed = entry("cafe\u{301}", Some(&composed), Some(b"2"), &author(2, 1));
    assert_eq!(take(&*store, &composed).await, EntryOutcome::Stored);
    assert_eq!(put(&*store, &decomposed, Some(composed.digest())).await, EntryOutcome::Stored);
    assert_eq!(listed(&*store, "caf\u{e9}", 10).await, [decomposed]);
    assert_eq!(history(&*store, "caf\u{e9}").await, [composed]);
}

pub(crate) async fn changes_of_folders_share_the_feed(fixture: &dyn Fixture) {
    let store = fixture.store();
    let mut events = store.watch(0);
    let mut records = Vec::new();
    for n in 0..7_u8 {
        let content = [n; 10];
        ingest_one(fixture, record_of(&content), &content).await;
        let record = entry(&format!("{n}"), None, Some(&content), &author(1, 0));
        assert_eq!(put(&*store, &record, None).await, EntryOutcome::Stored);
        records.push(record);
    }
    let event = timeout(DEADLINE, events.next()).await.expect("in time").expect("an event");
    assert!(matches!(event, Ok(StoreEvent::Advanced(_))));
    for limit in [1, 2, 3, 5, 14, 1000] {
        let all = changes(&*store, 0, limit).await;
        assert!(all.is_sorted_by(|a, b| a.seq < b.seq));
        assert_eq!(all.iter().map(|entry| entry.record.clone()).collect::<Vec<_>>(), records, "{limit}");
        assert_eq!(read_feed(&*store, 0, limit).await.len(), 7, "assets alone");
    }
    let page = store.feed_with_entries(0, 14).await.expect("a page");
    let mut numbers: Vec<u64> = page.entries.iter().map(|entry| entry.seq).collect();
    numbers.extend(page.folder_records.iter().map(|entry| entry.seq));
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 14, "no number twice");
    // A change moves it to the end.
    let seq = store.status().await.expect("status").seq;
    let mut events = store.watch(seq);
    let next = entry("0", Some(&records[0]), None, &author(1, 1));
    assert_eq!(take(&*store, &next).await, EntryOutcome::Stored);
    let event = timeout(DEADLINE, events.next()).await.expect("in time").expect("an event");
    assert!(matches!(event, Ok(StoreEvent::Advanced(now)) if now > seq));
    let fresh = changes(&*store, seq, 10).await;
    assert_eq!(fresh.iter().map(|entry| &entry.record).collect::<Vec<_>>(), [&next]);
    assert_eq!(changes(&*store, 0, 3).await.len(), 7, "each path once");
    let page = store.feed_with_entries(seq, 10).await.expect("a page");
    assert_eq!(page.end, fresh[0].seq);
}

pub(crate) async fn what_an_entry_says_of_a_content_is_so(fixture: &dyn Fixture) {
    let store = fixture.store();
    ingest_one(fixture, record_of(b"hello"), b"hello").await;
    let FolderRecord::Entry(honest) = entry("a", None, Some(b"hello"), &author(1, 0)) else {
        panic!("an entry")
    };
    let lying = |size| {
        let file = honest.file.clone().map(|file| can_sync::testing::entry::EntryFile { size, ..file });
        FolderRecord::Entry(EntryRecord { file, ..honest.clone() })
    };
    let outcome = take(&*store, &lying(1 << 45)).await;
    assert!(matches!(&outcome, EntryOutcome::Rejected(why) if why.contains("bytes")), "{outcome:?}");
    // Who has the content takes the same versions as who has it not: else the two never agree.
    for (path, content) in [("held", b"hello"), ("not", b"world")] {
        let FolderRecord::Entry(entry) = entry(path, None, Some(content), &author(1, 0)) else {
            panic!("an entry")
        };
        let file = entry.file.clone().map(|file| can_sync::testing::entry::EntryFile { size: 4, ..file });
        let lying = FolderRecord::Entry(EntryRecord { file, ..entry });
        assert_eq!(take(&*store, &lying).await, EntryOutcome::Stored, "{path}");
        assert_eq!(listed(&*store, path, 10).await, [lying]);
    }
    assert_eq!(take(&*store, &FolderRecord::Entry(honest.clone())).await, EntryOutcome::Stored);
    assert_eq!(listed(&*store, "a", 10).await, [FolderRecord::Entry(honest)]);
}

pub(crate) async fn a_long_history_is_read_in_pages(fixture: &dyn Fixture) {
    let store = fixture.store();
    let mut versions = vec![entry("a", None, Some(&[0]), &author(1, 0))];
    for n in 1..1_501_u64 {
        versions.push(entry("a", versions.last(), Some(&n.to_le_bytes()), &author(1, n)));
    }
    for some in versions.chunks(1000) {
        store.take_entries(some.to_vec(), None).await.expect("the store keeps folders");
    }
    versions.pop();
    versions.reverse();
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = store.entry_history(FOLDER, "a".into(), before).await.expect("a page");
        let Some(last) = page.last() else { break };
        before = Some(last.into());
        all.extend(page);
    }
    assert!(all == versions, "{} of {}", all.len(), versions.len());
}

pub(crate) async fn a_folder_that_came_by_a_ticket_has_one_source_and_keeps_nothing(fixture: &dyn Fixture) {
    let store = fixture.store();
    let (library, other) = (LibraryId([1; 32]), LibraryId([2; 32]));
    let ann = author(1, 0);
    let (folder, file) = (definition(FOLDER, "photos", &ann), entry("a", None, Some(b"mine"), &ann));
    let through = async |library, record: &FolderRecord| {
        let taken = store.take_entries(vec![record.clone()], Some(library)).await;
        taken.expect("the store keeps folders").pop().expect("an outcome")
    };
    let is_refused = |outcome: &EntryOutcome| matches!(outcome, EntryOutcome::Rejected(_));
    assert!(is_refused(&through(library, &folder).await), "nobody said that it comes so");
    assert_eq!(store.claim_folder(FOLDER, library).await, Ok(FolderClaim::Claimed));
    assert_eq!(store.claim_folder(FOLDER, library).await, Ok(FolderClaim::Claimed));
    assert_eq!(store.claim_folder(FOLDER, other).await, Ok(FolderClaim::Elsewhere(library)));
    assert_eq!(store.foreign_folders().await, Ok(vec![(FOLDER, library)]));
    for outcome in
        [take(&*store, &folder).await, put(&*store, &folder, None).await, through(other, &folder).await]
    {
        assert!(is_refused(&outcome), "{outcome:?}");
    }
    // What is deleted here stays so, and what it names can be deleted.
    ingest_one(fixture, record_of(b"mine"), b"mine").await;
    fixture.delete(hash_of(b"mine")).await;
    assert_eq!(through(library, &folder).await, EntryOutcome::Stored);
    assert_eq!(through(library, &file).await, EntryOutcome::Stored);
    ingest_one(fixture, record_of(b"other"), b"other").await;
    let second = entry("b", None, Some(b"other"), &ann);
    assert_eq!(through(library, &second).await, EntryOutcome::Stored);
    fixture.delete(hash_of(b"other")).await;
    // A folder of ours that has a deleted content brings it back, and by then the other one would have.
    let ours = FolderId([9; 32]);
    let FolderRecord::Entry(named) = entry("c", None, Some(b"third"), &ann) else { panic!("an entry") };
    ingest_one(fixture, record_of(b"third"), b"third").await;
    fixture.delete(hash_of(b"third")).await;
    assert_eq!(take(&*store, &definition(ours, "ours", &ann)).await, EntryOutcome::Stored);
    assert_eq!(store.claim_folder(ours, library).await, Ok(FolderClaim::Here));
    let named = FolderRecord::Entry(EntryRecord { folder: ours, ..named });
    assert_eq!(take(&*store, &named).await, EntryOutcome::Stored);
    revived(&*store, hash_of(b"third")).await;
    for content in [&b"mine"[..], b"other"] {
        let found = holding(&*store, hash_of(content)).await.expect("it is known");
        assert!(found.record.deleted && !found.holding.is_held(), "{found:?}");
    }
    // Forgotten, it is anybody's.
    assert_eq!(store.drop_folder(FOLDER, other).await, Ok(()));
    assert_eq!(listed(&*store, "", 10).await, [folder.clone(), file.clone(), second]);
    assert_eq!(store.drop_folder(FOLDER, library).await, Ok(()));
    assert_eq!(listed(&*store, "", 10).await, []);
    assert_eq!(store.foreign_folders().await, Ok(vec![]));
    assert_eq!(take(&*store, &folder).await, EntryOutcome::Stored);
    assert_eq!(store.claim_folder(FOLDER, library).await, Ok(FolderClaim::Here));
}

/// Waits until the asset is live again.
async fn revived(store: &dyn ContentStore, hash: ContentHash) -> StoredRecord {
    eventually("the content is back", async || {
        let found = holding(store, hash).await.expect("it is known");
        if found.holding.is_held() { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
}

pub(crate) async fn a_folder_keeps_what_a_library_deletes_and_publishes_nothing(fixture: &dyn Fixture) {
    let store = fixture.store();
    let library = Some(LibraryId([1; 32]));
    let ann = author(1, 0);
    assert_eq!(put(&*store, &definition(FOLDER, "photos", &ann), None).await, EntryOutcome::Stored);
    for (path, content) in [("small", noise(100, 1)), ("large", noise(100_000, 2))] {
        let came = AssetRecord { via: library, ..edited(&record_of(&content), 10, Some("came")) };
        ingest_one(fixture, came.clone(), &content).await;
        let file = entry(path, None, Some(&content), &ann);
        assert_eq!(put(&*store, &file, None).await, EntryOutcome::Stored);
        let tombstone = AssetRecord { via: library, ..edited(&came, 20, None) };
        let replaced = store.replace(vec![(tombstone.clone(), came)]).await.expect("the store takes records");
        assert_eq!(replaced, [Some(ItemOutcome::Unchanged)]);
        let kept = holding(&*store, tombstone.hash).await.expect("it is there");
        assert!(kept.holding.is_held() && kept.record.supersedes(&tombstone));
        assert_eq!((kept.record.via, kept.record.own_content), (Some(LibraryId::NONE), true));
        assert_eq!(read(&*store, tombstone.hash, 0, None).await, Ok(content.clone()));
        // Deleted before the folder has it: back for the folder alone.
        let removed = entry(path, Some(&file), None, &author(1, 10));
        assert_eq!(put(&*store, &removed, Some(file.digest())).await, EntryOutcome::Stored);
        let tombstone = AssetRecord { via: library, ..edited(&kept.record, 20, None) };
        assert_eq!(apply_one(fixture, tombstone).await, ItemOutcome::Stored);
        let again = entry(path, Some(&removed), Some(&content), &author(2, 20));
        assert_eq!(take(&*store, &again).await, EntryOutcome::Stored);
        let back = revived(&*store, hash_of(&content)).await;
        assert_eq!((back.record.via, back.record.own_content), (Some(LibraryId::NONE), true));
    }
}

pub(crate) async fn an_entry_keeps_the_content_that_it_names(fixture: &dyn Fixture) {
    let store = fixture.store();
    let folder = definition(FOLDER, "photos", &author(1, 0));
    for (path, content) in [("small", noise(100, 1)), ("large", noise(100_000, 2))] {
        if path == "small" {
            // What no known folder has is anybody's to delete.
            let stray = fixture.put(noise(50, 9), IngestFields::default()).await;
            let file = entry("stray", None, Some(&noise(50, 9)), &author(1, 0));
            assert_eq!(put(&*store, &file, None).await, EntryOutcome::Stored);
            fixture.delete(stray).await;
            assert!(holding(&*store, stray).await.expect("it is known").record.deleted);
            assert_eq!(put(&*store, &folder, None).await, EntryOutcome::Stored);
            revived(&*store, stray).await;
        }
        let hash = fixture.put(content.clone(), IngestFields::default()).await;
        let live = held(&*store, hash).await.expect("uploaded");
        let first = entry(path, None, Some(&content), &author(1, 0));
        assert_eq!(put(&*store, &first, None).await, EntryOutcome::Stored);
        // A deletion from elsewhere is answered with a version that is later.
        let tombstone = edited(&live, 1_000_000, None);
        assert_eq!(apply_one(fixture, tombstone.clone()).await, ItemOutcome::Unchanged);
        let kept = holding(&*store, hash).await.expect("it is there");
        assert!(kept.holding.is_held() && kept.record.supersedes(&tombstone));
        assert_eq!(kept.record, AssetRecord { hlc: kept.record.hlc, ..live });
        assert_eq!(read(&*store, hash, 0, None).await, Ok(content.clone()));
        // Once the file is removed, the asset can be deleted; and comes back with the file.
        let removed = entry(path, Some(&first), None, &author(1, 10));
        assert_eq!(put(&*store, &removed, Some(first.digest())).await, EntryOutcome::Stored);
        let tombstone = edited(&kept.record, 10, None);
        assert_eq!(apply_one(fixture, tombstone.clone()).await, ItemOutcome::Stored);
        assert_eq!(read(&*store, hash, 0, None).await, Err(StoreError::NotFound(hash)));
        let again = entry(path, Some(&removed), Some(&content), &author(2, 20));
        assert_eq!(take(&*store, &again).await, EntryOutcome::Stored);
        let revived = revived(&*store, hash).await;
        assert!(revived.holding.is_held() && revived.record.supersedes(&tombstone));
        assert_eq!((revived.record.writer, revived.record.size), (tombstone.writer, content.len() as u64));
        assert_eq!(read(&*store, hash, 0, None).await, Ok(content));
    }
}

pub(crate) async fn entries_of_many_tasks_at_once(fixture: &dyn Fixture) {
    let store = fixture.store();
    let base = entry("a", None, Some(b"base"), &author(1, 0));
    assert_eq!(put(&*store, &base, None).await, EntryOutcome::Stored);
    let writers = (2..12_u8).map(|number| {
        let (store, base) = (Arc::clone(&store), base.clone());
        tokio::spawn(async move {
            let mine = entry("a", Some(&base), Some(&[number]), &author(number, u64::from(number)));
            put(&*store, &mine, Some(base.digest())).await
        })
    });
    let outcomes = futures::future::join_all(writers).await;
    let stored = outcomes.iter().filter(|outcome| matches!(outcome, Ok(EntryOutcome::Stored))).count();
    assert_eq!(stored, 1, "one follows, the others see it: {outcomes:?}");
    assert_eq!(history(&*store, "a").await, [base]);
}
