//! Scrubbing a store: everything that is wrong in it is found, told, and made whole where that can be; nothing else is disturbed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields, ListFilter, ListQuery};
use can_sync::testing::store::scrub::{ScrubFinding, ScrubReport, ScrubResult, ScrubSettings};
use can_sync::testing::store::{ContentStore as _, ItemOutcome, StoreError};
use rusqlite::Connection;
use tokio::task::JoinHandle;

use crate::support::embedded::{content_files, content_path, open, upload};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, incoming, noise, read, record_of};

const DAY: Duration = Duration::from_hours(24);

/// Ends with the test.
struct Scrubber(JoinHandle<()>);

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn settings(bytes_per_sec: u64) -> ScrubSettings {
    ScrubSettings { interval: 30 * DAY, bytes_per_sec, settle: Duration::ZERO, is_busy: Arc::new(|| false) }
}

fn scrub(store: &EmbeddedStore, settings: ScrubSettings) -> Scrubber {
    Scrubber(tokio::spawn(store.clone().scrub_for_ever(settings)))
}

async fn report(store: &EmbeddedStore) -> ScrubReport {
    store.scrub_report().await.expect("a report")
}

/// The end of a pass of this number.
async fn ended(store: &EmbeddedStore, pass: u64) -> ScrubResult {
    eventually("the store is scrubbed", async || {
        let report = report(store).await;
        report.last.clone().filter(|last| last.pass >= pass).ok_or_else(|| format!("{report:?}"))
    })
    .await
}

/// Scrubs a store once.
async fn scrubbed(store: &EmbeddedStore) -> ScrubResult {
    let _scrubber = scrub(store, settings(1 << 30));
    ended(store, 1).await
}

async fn findings(store: &EmbeddedStore) -> Vec<ScrubFinding> {
    store.scrub_findings(None, 1000).await.expect("findings")
}

async fn filled(store: &EmbeddedStore, sizes: &[usize]) -> Vec<Vec<u8>> {
    let contents: Vec<Vec<u8>> = (0..).zip(sizes).map(|(seed, size)| noise(*size, seed)).collect();
    for (n, content) in contents.iter().enumerate() {
        let fields = IngestFields {
            filename: Some(format!("Näme {n}")),
            tags: vec![format!("Tag{}", n % 3), "All".into()],
            application: Some("Camera".into()),
            ..IngestFields::default()
        };
        upload(store, content, fields).await;
    }
    contents
}

fn flip(dir: &Path, content: &[u8], at: usize) {
    if content.len() <= 64 * 1024 {
        let mut flipped = content.to_vec();
        flipped[at] ^= 4;
        let changed =
            database(dir).execute("UPDATE contents SET data = ?1 WHERE data = ?2", (flipped, content));
        assert_eq!(changed, Ok(1));
    } else {
        let file = fs::File::options().write(true).open(content_path(dir, hash_of(content))).unwrap();
        file.write_all_at(&[content[at] ^ 4], at as u64).unwrap();
    }
}

fn database(dir: &Path) -> Connection {
    let database = Connection::open(dir.join("store.db")).unwrap();
    database.busy_timeout(Duration::from_secs(30)).unwrap();
    database
}

const SIZES: [usize; 8] = [0, 1, 60_000, 70_000, 300_000, 600_000, 1_000_000, 2_000_001];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_is_found_and_what_comes_again_is_healed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &SIZES).await;
    let clean = scrubbed(&store).await;
    let bytes = SIZES.iter().sum::<usize>() as u64;
    assert_eq!((clean.checked, clean.bytes, clean.found, clean.rebuilt), (8, bytes, 0, 0), "{clean:?}");
    assert_eq!((clean.without_record, clean.database), (0, None));
    assert_eq!(report(&store).await.next_ms, Some(clean.ended_ms + 30 * 24 * 3600 * 1000));

    for content in &contents[1..] {
        flip(dir.path(), content, content.len() / 2);
    }
    fs::remove_file(content_path(dir.path(), hash_of(&contents[4]))).unwrap();
    fs::write(content_path(dir.path(), hash_of(&contents[5])), "short").unwrap();
    let scrubber = scrub(&store, settings(1 << 30));
    eventually("it is driven", async || store.is_scrubbed().then_some(()).ok_or_else(String::new)).await;
    let pass = store.begin_scrub(None).await.unwrap();
    let found = ended(&store, pass).await;
    assert_eq!((found.found, found.healed), (7, 0), "{found:?}");
    let told = findings(&store).await;
    let hashes: BTreeSet<String> = told.iter().map(|one| one.hash.clone()).collect();
    assert_eq!(hashes, contents[1..].iter().map(|content| hash_of(content).to_string()).collect());
    let missing = told.iter().find(|one| one.hash == hash_of(&contents[4]).to_string()).unwrap();
    assert_eq!((missing.filename.as_deref(), missing.size), (Some("Näme 4"), 300_000));
    assert!(missing.reason.contains("missing"), "{missing:?}");
    assert_eq!(store.damaged(1000).await.unwrap().len(), 7);

    for content in &contents[1..4] {
        assert_eq!(
            store.ingest(vec![incoming(record_of(content), content)]).await,
            Ok(vec![ItemOutcome::Stored])
        );
    }
    assert_eq!(report(&store).await.last.unwrap().healed, 3);
    assert_eq!(findings(&store).await.iter().filter(|one| one.healed).count(), 3);
    assert_eq!(store.damaged(1000).await.unwrap().len(), 4);
    // The next pass begins without them.
    let pass = store.begin_scrub(Some(1 << 30)).await.unwrap();
    let again = ended(&store, pass).await;
    assert_eq!((again.checked, again.found), (4, 0));
    assert_eq!(findings(&store).await, []);
    drop(scrubber);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_of_old_get_their_sums() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    filled(&store, &SIZES).await;
    store.close().await;
    let sums = || {
        let sums = database(dir.path()).query_row(
            "SELECT group_concat(hex(sums), ' ') FROM (SELECT sums FROM content_sums ORDER BY hash, part)",
            [],
            |row| row.get::<_, Option<String>>(0),
        );
        sums.unwrap()
    };
    let before = sums();
    assert!(before.is_some());
    database(dir.path()).execute("DELETE FROM content_sums", []).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(scrubbed(&store).await.found, 0);
    assert_eq!(sums(), before);
    // Sums that are wrong are no damage.
    database(dir.path()).execute("UPDATE content_sums SET sums = randomblob(length(sums))", []).unwrap();
    let _scrubber = scrub(&store, settings(1 << 30));
    eventually("it is driven", async || store.is_scrubbed().then_some(()).ok_or_else(String::new)).await;
    let pass = store.begin_scrub(None).await.unwrap();
    let right = ended(&store, pass).await;
    assert_eq!((right.found, right.checked), (0, 8));
    assert_eq!(sums(), before);
}

/// How far the pass is that the database knows of.
fn stored_state(dir: &Path) -> serde_json::Value {
    let state: String = database(dir).query_row("SELECT state FROM scrub", [], |row| row.get(0)).unwrap();
    serde_json::from_str(&state).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_goes_on_where_it_was_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &[100_000; 40]).await;
    // Damaged, and read by nobody but the scrub.
    let mut by_hash: Vec<&Vec<u8>> = contents.iter().collect();
    by_hash.sort_by_key(|content| hash_of(content));
    flip(dir.path(), by_hash[0], 5);
    flip(dir.path(), by_hash[39], 5);
    // A content in a second: what is written down after ten of them is far from the end.
    let scrubber = scrub(&store, settings(100_000));
    eventually("some of it is written down", async || {
        let state = stored_state(dir.path());
        (state["checked"].as_u64() > Some(5)).then_some(()).ok_or_else(|| state.to_string())
    })
    .await;
    let running = report(&store).await.running.expect("it is under way");
    assert!(running.checked < 40 && running.found == 1 && !running.asked, "{running:?}");
    assert!(running.eta_secs.is_some() && running.bytes_held == 4_000_000 - 100_000, "{running:?}");
    drop(scrubber);
    store.close().await;

    let before = stored_state(dir.path());
    let store = open(dir.path()).await;
    let _scrubber = scrub(&store, settings(1 << 30));
    let result = ended(&store, 1).await;
    // The first one was set aside before it was counted a second time.
    assert_eq!((result.pass, result.found), (1, 2), "{result:?}");
    assert_eq!(result.checked, 40, "nothing is read twice: {before}");
    assert_eq!(result.begun_ms, before["begun_ms"].as_u64().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_nobody_asked_for_waits_for_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &[400_000; 10]).await;
    let busy = Arc::new(AtomicBool::new(true));
    let is_busy = {
        let busy = Arc::clone(&busy);
        Arc::new(move || busy.load(Ordering::Relaxed))
    };
    let _scrubber = scrub(&store, ScrubSettings { is_busy, ..settings(1 << 30) });
    let waits = async |why: &str| {
        eventually("it waits", async || {
            let running = report(&store).await.running;
            let waits = running.as_ref().and_then(|running| running.waits_for.clone());
            waits.filter(|waits| waits.contains(why)).map(|_| ()).ok_or_else(|| format!("{running:?}"))
        })
        .await;
    };
    waits("other machines").await;
    let first = report(&store).await.running.unwrap();
    assert!(first.checked <= 1, "{first:?}");
    // While somebody reads, it waits for that.
    let reading = {
        let (store, content) = (store.clone(), contents[0].clone());
        tokio::spawn(async move {
            loop {
                assert!(read(&store, hash_of(&content), 0, None).await.as_ref() == Ok(&content));
            }
        })
    };
    waits("in use").await;
    busy.store(false, Ordering::Relaxed);
    waits("in use").await;
    assert!(report(&store).await.last.is_none());
    reading.abort();
    assert_eq!(ended(&store, 1).await.checked, 10);
    // Who asks for it does not wait.
    busy.store(true, Ordering::Relaxed);
    let pass = store.begin_scrub(None).await.unwrap();
    assert_eq!(ended(&store, pass).await.checked, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_takes_the_place_of_who_did_not_and_joins_who_did() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    filled(&store, &[300_000; 6]).await;
    // For hours, by itself.
    let _scrubber = scrub(&store, settings(100));
    eventually("it reads", async || {
        let running = report(&store).await.running;
        running.as_ref().filter(|one| one.bytes > 0).map(|_| ()).ok_or_else(|| format!("{running:?}"))
    })
    .await;
    let slow = store.begin_scrub(Some(1000)).await.unwrap();
    assert_eq!(slow, 2);
    eventually("it was asked for", async || {
        let running = report(&store).await.running;
        running
            .as_ref()
            .filter(|one| one.asked && one.bytes > 0)
            .map(|_| ())
            .ok_or_else(|| format!("{running:?}"))
    })
    .await;
    // The same one, faster.
    assert_eq!(store.begin_scrub(None).await.unwrap(), slow);
    assert_eq!(ended(&store, slow).await.checked, 6);
    assert_eq!(report(&store).await.running, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_derived_from_records_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &[100, 200, 70_000, 80_000]).await;
    let deleted = noise(300, 77);
    upload(&store, &deleted, IngestFields { tags: vec!["gone".into()], ..IngestFields::default() }).await;
    store.delete(hash_of(&deleted)).await.unwrap();
    let before = store.status().await.unwrap();
    store.close().await;
    {
        let database = database(dir.path());
        database
            .execute_batch(
                "UPDATE records SET search = 'x' WHERE filename = 'Näme 1';
                 UPDATE records SET application_folded = NULL WHERE filename = 'Näme 2';
                 DELETE FROM faceted WHERE facet = (SELECT id FROM facets WHERE value = 'tag0');
                 INSERT INTO faceted SELECT id, 5 FROM facets WHERE value = 'all';
                 INSERT INTO faceted VALUES (9999, 7);
                 UPDATE facets SET assets = 40 WHERE value = 'tag1';
                 DELETE FROM words WHERE rowid = (SELECT list_key FROM records WHERE filename = 'Näme 3');
                 INSERT INTO words (rowid, grams) VALUES (12345, 'str tra ray ay y');
                 UPDATE state SET assets = 1, bytes = 7, assets_held = 90, bytes_held = 0;",
            )
            .unwrap();
    }
    let store = open(dir.path()).await;
    let found = |filter: ListFilter| {
        let store = store.clone();
        async move { store.list(ListQuery { filter, ..ListQuery::default() }).await.unwrap().assets.len() }
    };
    let worded = |q: &str| ListFilter { q: Some(q.to_owned()), ..ListFilter::default() };
    let tagged = |tag: &str| ListFilter { tags: vec![tag.to_owned()], ..ListFilter::default() };
    assert_eq!(found(tagged("tag0")).await, 0);
    let result = scrubbed(&store).await;
    // Four records, two facets that no record has, two that were counted wrong, the words of two, and the totals.
    assert_eq!((result.rebuilt, result.found), (4 + 2 + 2 + 2 + 1, 0), "{result:?}");
    let after = store.status().await.unwrap();
    assert_eq!(
        (after.assets, after.bytes, after.assets_held, after.bytes_held),
        (before.assets, before.bytes, before.assets_held, before.bytes_held)
    );
    assert_eq!(found(tagged("tag0")).await, 2);
    assert_eq!(found(ListFilter { application: Some("camera".into()), ..ListFilter::default() }).await, 4);
    assert_eq!(found(worded("näme 3")).await, 1);
    assert_eq!(found(worded("stray")).await, 0);
    let facets: (i64, i64) = database(dir.path())
        .query_row("SELECT (SELECT count(*) FROM faceted), sum(assets) FROM facets", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    // Each of four has two tags, a media type, an application, and is held.
    assert_eq!(facets, (20, 20));
    for content in &contents {
        assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    }
}

/// Changes rows without an index: it does not see what is written while the schema does not name it.
fn behind_an_index(dir: &Path, name: &str, change: impl FnOnce(&Connection)) {
    let (root, sql, table): (i64, String, String) = database(dir)
        .query_row(
            "SELECT rootpage, sql, tbl_name FROM sqlite_schema WHERE type = 'index' AND name = ?1",
            [name],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    let writable = || {
        let database = database(dir);
        database.execute_batch("PRAGMA writable_schema = ON").unwrap();
        database
    };
    writable().execute("DELETE FROM sqlite_schema WHERE type = 'index' AND name = ?1", [name]).unwrap();
    change(&database(dir));
    writable()
        .execute("INSERT INTO sqlite_schema VALUES ('index', ?1, ?2, ?3, ?4)", (name, table, root, sql))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_index_is_made_of_rows_that_may_be_wrong() {
    let twice = "CREATE TEMP TABLE other AS SELECT * FROM records WHERE filename = 'Näme 2'; \
         UPDATE other SET seq = 1000, list_key = NULL; INSERT INTO records SELECT * FROM other;";
    for change in ["UPDATE records SET hash = randomblob(32) WHERE filename = 'Näme 2';", twice] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let contents = filled(&store, &[100, 200, 300, 70_000]).await;
        store.close().await;
        behind_an_index(dir.path(), "records_by_hash", |database| database.execute_batch(change).unwrap());
        let store = open(dir.path()).await;
        let _scrubber = scrub(&store, settings(1 << 30));
        let why = eventually("it is said", async || {
            let status = store.status().await;
            let why = status.as_ref().ok().and_then(|status| status.read_only.clone());
            why.ok_or_else(|| format!("{status:?}"))
        });
        let why = why.await;
        assert!(why.contains("is damaged") && why.contains("records_by_hash"), "{why}");
        // What is known of them still leads to all contents.
        for content in &contents {
            assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content), "{change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_hashes_that_lacks_a_row_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &[100, 200]).await;
    store.close().await;
    behind_an_index(dir.path(), "records_by_hash", |database| {
        let copy = "CREATE TEMP TABLE other AS SELECT * FROM records WHERE filename = 'Näme 1'; \
             UPDATE other SET seq = 1000, hash = randomblob(32), content = NULL, deleted = 1, list_key = NULL; \
             INSERT INTO records SELECT * FROM other;";
        database.execute_batch(copy).unwrap();
    });
    let store = open(dir.path()).await;
    let result = scrubbed(&store).await;
    assert_eq!((result.database.as_deref(), result.unreadable), (None, 0), "{result:?}");
    assert!(result.rebuilt >= 1, "{result:?}");
    let checked: String =
        database(dir.path()).query_row("PRAGMA integrity_check(records)", [], |row| row.get(0)).unwrap();
    assert_eq!(checked, "ok");
    for content in &contents {
        assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_lacks_rows_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &[100; 5]).await;
    store.close().await;
    behind_an_index(dir.path(), "trash_by_age", |database| {
        database
            .execute("INSERT INTO trash SELECT randomblob(32), 0, 7, 0 FROM records LIMIT 3", [])
            .unwrap();
    });
    let check = || -> String {
        database(dir.path()).query_row("PRAGMA integrity_check(trash)", [], |row| row.get(0)).unwrap()
    };
    assert_ne!(check(), "ok");
    let store = open(dir.path()).await;
    let result = scrubbed(&store).await;
    assert_eq!((result.rebuilt, result.database), (1, None));
    assert_eq!(check(), "ok");
    assert_eq!(store.status().await.unwrap().read_only, None);
    assert!(read(&store, hash_of(&contents[0]), 0, None).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_page_of_the_database_ends_writing_and_not_reading() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &[1000; 40]).await;
    store.close().await;
    let root: i64 = database(dir.path())
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'facets_by_value'", [], |row| row.get(0))
        .unwrap();
    let file = fs::File::options().write(true).open(dir.path().join("store.db")).unwrap();
    // A page that nobody reads otherwise.
    file.write_all_at(&[0xAB; 512], u64::try_from(root - 1).unwrap() * 4096).unwrap();
    let store = open(dir.path()).await;
    let _scrubber = scrub(&store, settings(1 << 30));
    let why = eventually("it is said", async || {
        let status = store.status().await;
        let why = status.as_ref().ok().and_then(|status| status.read_only.clone());
        why.ok_or_else(|| format!("{status:?}"))
    });
    let why = why.await;
    assert!(why.contains("is damaged") && why.contains("store.db"), "{why}");
    for content in &contents {
        assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    }
    assert!(store.delete(hash_of(&contents[0])).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_a_record_are_counted_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    filled(&store, &[100_000, 200_000]).await;
    let strays: Vec<Vec<u8>> = (50..53).map(|seed| noise(90_000, seed)).collect();
    for stray in &strays {
        let path = content_path(dir.path(), hash_of(stray));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, stray).unwrap();
    }
    let result = scrubbed(&store).await;
    assert_eq!((result.without_record, result.found, result.checked), (3, 0, 2), "{result:?}");
    assert_eq!(content_files(dir.path()).len(), 5);
    // Whoever knows what they are has them back.
    let records = strays.iter().map(|content| record_of(content)).collect();
    assert_eq!(store.take_absent(records).await.unwrap(), vec![ItemOutcome::Stored; 3]);
    for stray in &strays {
        assert!(read(&store, hash_of(stray), 0, None).await.as_ref() == Ok(stray));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trash_is_read_too_and_what_is_damaged_there_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store, &[5_000, 6_000, 300_000, 400_000]).await;
    for content in &contents {
        store.delete(hash_of(content)).await.unwrap();
    }
    for content in [&contents[0], &contents[2]] {
        flip(dir.path(), content, 100);
    }
    let result = scrubbed(&store).await;
    assert_eq!((result.trash_damaged, result.unreadable, result.found), (2, 0, 0), "{result:?}");
    for (n, content) in contents.iter().enumerate() {
        let hash = hash_of(content);
        let restored = store.restore(hash).await.map(|asset| asset.record.hash);
        let expected = if n % 2 == 0 { Err(StoreError::Corrupt(hash)) } else { Ok(hash) };
        assert_eq!(restored, expected);
    }
}
