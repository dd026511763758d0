//! The embedded store: the contract that it shares with others, and what it promises beyond that.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::record::WriterId;
use can_sync::testing::store::embedded::{IngestFields, ListQuery, MetaPatch};
use can_sync::testing::store::{ContentStore, ItemOutcome, StoreError, StoreStatus};
use futures::StreamExt;
use futures::future::join_all;

use crate::support::clock::{DAY_MS, SetClock};
use crate::support::embedded::{
    content_files, content_path, open, open_by, temporary_files, try_open, try_upload, upload,
};
use crate::support::nodes::eventually;
use crate::support::store::{edited, hash_of, held, incoming, noise, read, read_feed, record_of};

mod contents;

fn tagged(tags: &[&str]) -> IngestFields {
    IngestFields { tags: tags.iter().map(|&tag| tag.to_owned()).collect(), ..IngestFields::default() }
}

mod contract {
    use can_sync::testing::record::ContentHash;
    use can_sync::testing::store::StoreRef;
    use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields, MetaPatch};
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use crate::store_conformance::{Fixture, conformance_tests};
    use crate::support::embedded::{open, upload};

    struct Embedded {
        store: EmbeddedStore,
        _dir: tempfile::TempDir,
    }

    impl Embedded {
        async fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            Self { store: open(dir.path()).await, _dir: dir }
        }
    }

    impl Fixture for Embedded {
        fn store(&self) -> StoreRef {
            std::sync::Arc::new(self.store.clone())
        }

        fn put(&self, content: Vec<u8>, fields: IngestFields) -> BoxFuture<'_, ContentHash> {
            async move { upload(&self.store, &content, fields).await.asset.record.hash }.boxed()
        }

        fn describe(&self, hash: ContentHash, text: &'static str) -> BoxFuture<'_, ()> {
            let patch = MetaPatch { description: Some(Some(text.into())), ..MetaPatch::default() };
            async move { drop(self.store.patch(hash, patch).await.expect("the asset is edited")) }.boxed()
        }

        fn delete(&self, hash: ContentHash) -> BoxFuture<'_, ()> {
            async move { drop(self.store.delete(hash).await.expect("the asset is deleted")) }.boxed()
        }
    }

    conformance_tests!(Embedded::new().await);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (noise(100, 1), noise(300_000, 2));
    let before = {
        let store = open(dir.path()).await;
        let hash = upload(&store, &small, tagged(&["a", "b"])).await.asset.record.hash;
        upload(&store, &large, IngestFields::default()).await;
        store
            .patch(hash, MetaPatch { user: Some(Some("ann".into())), ..MetaPatch::default() })
            .await
            .unwrap();
        let gone = upload(&store, b"gone", IngestFields::default()).await;
        store.delete(gone.asset.record.hash).await.unwrap();
        let before = (read_feed(&store, 0, 10).await, store.status().await.unwrap());
        store.close().await;
        before
    };
    let store = open(dir.path()).await;
    let after = store.status().await.unwrap();
    assert!(after.seq > before.1.seq, "a new run of numbers");
    assert_eq!(*store.subscribe().borrow(), after.seq);
    assert_eq!((read_feed(&store, 0, 10).await, StoreStatus { seq: before.1.seq, ..after }), before);
    assert!(!store.feed(before.1.seq, 10).await.unwrap().reset);
    for content in [&small, &large] {
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    let page = store.list(ListQuery::default()).await.unwrap();
    assert_eq!((page.assets.len(), page.total), (2, 2));
    // Still the same writer: an edit of its own edit is not one by somebody else.
    let edit = MetaPatch { user: Some(None), ..MetaPatch::default() };
    let again = store.patch(hash_of(&small), edit).await.unwrap();
    assert_eq!(again.record.writer, before.0[1].record.writer);
    assert_ne!(again.record.writer, WriterId::NULL);
}

/// Makes a database one of the first schema, without what only later ones have.
pub(crate) fn to_first_schema(path: &Path) {
    let database = rusqlite::Connection::open(path).unwrap();
    database
        .execute_batch(
            "DROP TABLE waiting_objects; DROP TABLE waiting_totals; DROP TABLE dropping; DROP TABLE promises; DROP TABLE bucket_openings; DROP TABLE bucket_halts; DROP TABLE bucket; DROP TABLE pending_objects;
             DROP TABLE foreign_folders; DROP TABLE entries; DROP TABLE entry_history; DROP TABLE entry_counts;
             DROP TABLE words;
             DROP TABLE faceted;
             DROP TABLE facets;
             DROP INDEX records_by_list_key;
             ALTER TABLE records DROP COLUMN list_key;
             ALTER TABLE state DROP COLUMN index_stage;
             ALTER TABLE state DROP COLUMN key_spill;
             ALTER TABLE state DROP COLUMN words_seq;
             CREATE TABLE record_tags (
                 tag TEXT NOT NULL,
                 hash BLOB NOT NULL,
                 PRIMARY KEY (tag, hash)
             ) STRICT, WITHOUT ROWID;
             CREATE INDEX records_by_creation ON records (created_at_ms, hash) WHERE deleted = 0;
             CREATE INDEX records_by_mime_type ON records (mime_type);
             CREATE INDEX records_by_application ON records (application);
             CREATE INDEX records_by_user ON records (user);
             ALTER TABLE records DROP COLUMN application_folded;
             ALTER TABLE records DROP COLUMN user_folded;
             ALTER TABLE records DROP COLUMN wanted;
             ALTER TABLE records DROP COLUMN before_hlc;
             ALTER TABLE records DROP COLUMN via;
             ALTER TABLE records DROP COLUMN own_content;
             ALTER TABLE records DROP COLUMN former;
             ALTER TABLE records DROP COLUMN former_own;
             ALTER TABLE records DROP COLUMN names;
             ALTER TABLE records DROP COLUMN dropped_names;
             ALTER TABLE records DROP COLUMN modified_at_ms;
             DROP TABLE own_names;
             DROP TABLE content_sums;
             DROP TABLE damaged;
             DROP TABLE runs;
             ALTER TABLE state DROP COLUMN store_id;
             ALTER TABLE state DROP COLUMN changes;
             DROP TABLE scrub;
             DROP TABLE scrub_findings;
             ALTER TABLE state DROP COLUMN lost_changes;
             ALTER TABLE state DROP COLUMN lost_at_ms;
             ALTER TABLE state DROP COLUMN uptime_ms;
             ALTER TABLE state DROP COLUMN look_ms;
             ALTER TABLE state DROP COLUMN look_uptime_ms;
             ALTER TABLE state DROP COLUMN assets_held;
             ALTER TABLE state DROP COLUMN bytes_held;
             PRAGMA user_version = 1;",
        )
        .unwrap();
}

#[tokio::test]
async fn a_directory_from_before_contents_could_be_absent_opens() {
    let dir = tempfile::tempdir().unwrap();
    let contents = [noise(100, 1), noise(300_000, 2)];
    let store = open(dir.path()).await;
    for content in &contents {
        upload(&store, content, tagged(&["a"])).await;
    }
    let gone = upload(&store, b"gone", IngestFields::default()).await.asset.record.hash;
    store.delete(gone).await.unwrap();
    let mut before = (read_feed(&store, 0, 10).await, store.status().await.unwrap());
    // What was deleted had been something else, which the first schema did not keep.
    before.0.iter_mut().for_each(|entry| entry.formers.clear());
    store.close().await;
    to_first_schema(&dir.path().join("store.db"));

    let store = open(dir.path()).await;
    // It says so for as long as its index is made.
    let after = eventually("the index is made", async || {
        let status = store.status().await.unwrap();
        if status.notice.is_none() { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let (seq, id) = (before.1.seq, before.1.id);
    assert!(after.seq > seq && after.id.is_some());
    assert_eq!((read_feed(&store, 0, 10).await, StoreStatus { seq, id, ..after }), before);
    // All numbers that were given out are known, and no others.
    assert!(!store.feed(1, 10).await.unwrap().reset && !store.feed(seq, 10).await.unwrap().reset);
    assert!(store.feed(seq + 1, 10).await.unwrap().reset);
    for content in &contents {
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
        assert_eq!(store.let_go(vec![hash_of(content)]).await, Ok(vec![ItemOutcome::Absent]));
        assert_eq!(store.want(vec![hash_of(content)]).await, Ok(vec![ItemOutcome::Stored]));
    }
    assert!(dir.path().join("store.db.schema-1").exists(), "a copy of the old database is kept");
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let refused = try_open(dir.path(), 0).await.map(drop).unwrap_err().to_string();
    assert!(
        refused.contains("another process") && refused.contains(&dir.path().display().to_string()),
        "{refused}"
    );
    store.close().await;
    let next = open(dir.path()).await;
    // The closed one says so instead of writing beside the new one.
    let mut late = store.begin_upload();
    late.write(Bytes::from_static(b"x")).await.unwrap();
    assert!(matches!(late.finish(IngestFields::default()).await, Err(StoreError::Io { .. })));
    assert!(matches!(store.status().await, Err(StoreError::Io { .. })));
    assert!(store.watch(0).next().await.is_none_or(|event| event.is_err()));
    upload(&next, b"x", IngestFields::default()).await;
}

#[tokio::test]
async fn what_a_crash_left_behind_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let kept = noise(100_000, 1);
    let store = open(dir.path()).await;
    upload(&store, &kept, IngestFields::default()).await;
    store.close().await;

    // As if the process had ended while it received one file, and between moving another into place and committing
    // its record. One that is held is among those it announced, too.
    fs::write(dir.path().join("tmp/received"), b"half").unwrap();
    let stray = hash_of(b"stray");
    fs::create_dir_all(content_path(dir.path(), stray).parent().unwrap()).unwrap();
    fs::write(content_path(dir.path(), stray), b"stray").unwrap();
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    for hash in [stray, hash_of(&kept), hash_of(b"announced, but not moved")] {
        database.execute("INSERT INTO pending_files VALUES (?1)", [hash.0]).unwrap();
    }
    drop(database);

    let store = open(dir.path()).await;
    assert_eq!(temporary_files(dir.path()), 0);
    assert_eq!(content_files(dir.path()), [hash_of(&kept)].into());
    assert!(read(&store, hash_of(&kept), 0, None).await.unwrap() == kept);
    store.close().await;
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let pending = database.query_row("SELECT count(*) FROM pending_files", [], |row| row.get::<_, i64>(0));
    assert_eq!(pending, Ok(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ingests_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let tasks = (0..500_u64).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { upload(&store, &noise(1000, i), IngestFields::default()).await })
    });
    let done = join_all(tasks).await;
    assert!(done.iter().all(|ingested| ingested.as_ref().is_ok_and(|ingested| ingested.new)));
    assert_eq!(store.status().await.unwrap().assets, 500);
    let commits = store.commits();
    assert!((1..=250).contains(&commits), "{commits} commits for 500 ingests");
}

#[tokio::test]
async fn uploading_again_adds_what_was_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let first = upload(&store, b"x", tagged(&["b", " a ", "b", ""])).await;
    assert!(first.new);
    assert_eq!(first.asset.record.meta.tags, ["a", "b"]);
    let again = upload(&store, b"x", IngestFields::default()).await;
    assert!(!again.new);
    assert_eq!(again.asset, first.asset, "nothing new is no edit");

    let named = IngestFields { filename: Some("one".into()), ..tagged(&["c"]) };
    let second = upload(&store, b"x", named).await;
    assert!(!second.new && second.asset.record.supersedes(&first.asset.record));
    assert_eq!(second.asset.record.meta.tags, ["a", "b", "c"]);
    let renamed = IngestFields { filename: Some("two".into()), ..tagged(&["a"]) };
    let third = upload(&store, b"x", renamed).await;
    assert_eq!(third.asset.record.meta.filename.as_deref(), Some("one"), "what is there stays");
    assert_eq!(third.asset.record.meta.names, ["two"]);

    store.delete(hash_of(b"x")).await.unwrap();
    let back = upload(&store, b"x", tagged(&["d"])).await;
    assert!(back.new);
    assert_eq!(back.asset.record.meta.tags, ["d"]);
    assert_eq!(read(&store, hash_of(b"x"), 0, None).await, Ok(b"x".to_vec()));
}

#[tokio::test]
async fn metadata_is_changed_field_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let fields = IngestFields { filename: Some("a.txt".into()), user: Some("ann".into()), ..tagged(&["a"]) };
    let first = upload(&store, b"x", fields).await.asset;
    let hash = first.record.hash;
    assert_eq!(store.patch(hash, MetaPatch::default()).await, Ok(first.clone()));
    let patch = MetaPatch {
        mime_type: Some("text/markdown".into()),
        filename: Some(None),
        description: Some(Some(String::new())),
        tags: Some(vec!["z".into(), "y".into(), "z".into()]),
        ..MetaPatch::default()
    };
    let second = store.patch(hash, patch).await.unwrap();
    assert!(second.seq > first.seq && second.record.supersedes(&first.record));
    let meta = &second.record.meta;
    assert_eq!((meta.mime_type.as_str(), &meta.filename), ("text/markdown", &None));
    assert_eq!((meta.user.as_deref(), meta.description.as_deref()), (Some("ann"), None));
    assert_eq!(meta.tags, ["y", "z"]);
    assert_eq!(store.asset(hash).await, Ok(Some(second.clone())));

    let too_long = MetaPatch { tags: Some(vec!["t".repeat(129)]), ..MetaPatch::default() };
    assert!(matches!(store.patch(hash, too_long.clone()).await, Err(StoreError::Invalid(_))));
    let too_long = IngestFields { tags: too_long.tags.unwrap(), ..IngestFields::default() };
    assert!(matches!(try_upload(&store, b"y", too_long.clone()).await, Err(StoreError::Invalid(_))));
    assert!(matches!(
        try_upload(&store, &noise(100_000, 1), too_long.clone()).await,
        Err(StoreError::Invalid(_))
    ));
    assert!(matches!(try_upload(&store, b"x", too_long).await, Err(StoreError::Invalid(_))));
    assert_eq!(store.asset(hash).await, Ok(Some(second)));
    assert_eq!((store.status().await.unwrap().assets, temporary_files(dir.path())), (1, 0));

    let unknown = hash_of(b"unknown");
    assert_eq!(store.patch(unknown, MetaPatch::default()).await, Err(StoreError::NotFound(unknown)));
    assert_eq!(store.delete(unknown).await, Err(StoreError::NotFound(unknown)));
    let tombstone = store.delete(hash).await.unwrap();
    assert!(tombstone.record.deleted);
    assert_eq!(store.asset(hash).await, Ok(Some(tombstone)));
    assert_eq!(store.delete(hash).await, Err(StoreError::NotFound(hash)));
    assert_eq!(store.patch(hash, MetaPatch::default()).await, Err(StoreError::NotFound(hash)));
}

#[tokio::test]
async fn numbers_never_go_back_and_old_cursors_are_reset() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::right();
    let store = open_by(dir.path(), &clock.start()).await;
    for i in 0..20_u8 {
        upload(&store, &[i], IngestFields::default()).await;
    }
    for i in 10..20_u8 {
        store.delete(hash_of(&[i])).await.unwrap();
    }
    for (days, removed) in [(179, 0), (2, 0), (1, 10)] {
        clock.pass(days * DAY_MS);
        assert_eq!(store.purge().await.unwrap().tombstones, removed);
    }
    assert_eq!(held(&store, hash_of(&[15])).await, None);
    // The purged rows had the greatest numbers.
    assert_eq!(store.status().await.unwrap().seq, 30);
    store.close().await;

    let store = open(dir.path()).await;
    let now = store.status().await.unwrap().seq;
    assert!(now > 30);
    for stale in [1, 7, 29] {
        assert!(store.feed(stale, 10).await.unwrap().reset, "{stale} may have missed a deletion");
        let event = store.watch(stale).next().await;
        assert_eq!(event, Some(Ok(can_sync::testing::store::StoreEvent::Reset)));
    }
    assert!(!store.feed(30, 10).await.unwrap().reset);
    // Reading everything again works, in pages however small, and ends beyond the floor.
    let all = read_feed(&store, 0, 3).await;
    assert_eq!(all.len(), 10);
    assert_eq!(upload(&store, b"new", IngestFields::default()).await.asset.seq, now + 1);
    assert_eq!(read_feed(&store, all[8].seq, 3).await.len(), 2, "the end of a page of that reading");
    assert!(store.feed(all[7].seq, 10).await.unwrap().reset, "no end of a page");
}

#[tokio::test]
async fn the_reserve_is_kept_free() {
    let dir = tempfile::tempdir().unwrap();
    let store = try_open(dir.path(), u64::MAX / 2).await.unwrap();
    let refused = try_upload(&store, b"x", IngestFields::default()).await.map(drop).unwrap_err();
    let StoreError::Full(why) = &refused else { panic!("{refused}") };
    assert!(why.contains(&dir.path().display().to_string()) && why.contains("disk_reserve"), "{why}");
    let refused = store.ingest(vec![incoming(record_of(b"x"), b"x")]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    assert_eq!(store.status().await.unwrap().assets, 0);
    // What frees space is never refused for want of space.
    let tombstone = edited(&record_of(b"y"), 10, None);
    assert_eq!(store.apply(vec![tombstone]).await, Ok(vec![ItemOutcome::Stored]));
}

#[tokio::test]
async fn watching_ends_when_the_store_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    upload(&store, b"x", IngestFields::default()).await;
    let mut events = store.watch(1);
    let closing = Arc::new(store);
    let (ended, ()) =
        futures::join!(tokio::time::timeout(Duration::from_secs(30), events.next()), closing.close());
    assert_eq!(ended, Ok(None));
}
