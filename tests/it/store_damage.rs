//! Damaged content in an embedded store: no wrong byte is given away, and the right ones make it whole.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::embedded::{DamageEvent, EmbeddedStore, IngestFields};
use can_sync::testing::store::groups::GROUP_BYTES;
use can_sync::testing::store::{ContentStore, Holding, ItemOutcome, StoreError};
use futures::StreamExt as _;
use parking_lot::Mutex;

use crate::support::embedded::{content_path, open, upload};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, incoming, incoming_file, noise, read, record_of};

mod missing;
mod places;
mod proofs;

/// In the database, at the edges of groups and of what is read at once, and in many.
const SIZES: [usize; 7] = [
    1,
    64 * 1024,
    GROUP_BYTES + 1,
    4 * GROUP_BYTES,
    4 * GROUP_BYTES + 1,
    7 * GROUP_BYTES,
    9 * GROUP_BYTES + 77_777,
];

/// Stores such contents; what each is, by its place in the list.
async fn filled(store: &EmbeddedStore) -> Vec<Vec<u8>> {
    let contents: Vec<Vec<u8>> = (0..).zip(SIZES).map(|(seed, size)| noise(size, seed)).collect();
    for content in &contents {
        upload(store, content, IngestFields::default()).await;
    }
    contents
}

/// Flips a bit of a stored content, wherever it lies.
fn flip(dir: &Path, content: &[u8], at: usize) {
    let hash = hash_of(content);
    if content.len() <= 64 * 1024 {
        let database = rusqlite::Connection::open(dir.join("store.db")).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        let mut flipped = content.to_vec();
        flipped[at] ^= 4;
        let changed = database.execute("UPDATE contents SET data = ?1 WHERE data = ?2", (flipped, content));
        assert_eq!(changed, Ok(1));
    } else {
        let file = fs::File::options().write(true).open(content_path(dir, hash)).unwrap();
        file.write_all_at(&[content[at] ^ 4], at as u64).unwrap();
    }
}

/// What a reader gets before an error or the end, and whether it was the end.
async fn got(store: &EmbeddedStore, hash: ContentHash, offset: u64, length: Option<u64>) -> (Vec<u8>, bool) {
    let mut got = Vec::new();
    let Ok(mut reader) = store.content(hash, offset, length).await else { return (got, false) };
    while let Some(chunk) = reader.chunks.next().await {
        let Ok(chunk) = chunk else { return (got, false) };
        assert!(chunk.len() <= 256 * 1024, "{}", chunk.len());
        got.extend_from_slice(&chunk);
    }
    (got, true)
}

async fn holding(store: &EmbeddedStore, hash: ContentHash) -> Holding {
    store.records(vec![hash]).await.unwrap()[0].holding
}

async fn becomes_absent(store: &EmbeddedStore, hash: ContentHash) {
    eventually("it is set aside", async || {
        // In the store itself, and not only suspected.
        let all = store.changes(0, 1000).await.unwrap().unwrap().assets;
        let now = all.iter().find(|asset| asset.record.hash == hash).unwrap().holding;
        (now == Holding::Wanted).then_some(()).ok_or_else(|| format!("{now:?}"))
    })
    .await;
}

/// Hears of damage.
fn listen(store: &EmbeddedStore) -> Arc<Mutex<Vec<DamageEvent>>> {
    let heard: Arc<Mutex<Vec<DamageEvent>>> = Arc::default();
    let into = Arc::clone(&heard);
    store.tell_damage(Arc::new(move |event| into.lock().push(event)));
    heard
}

/// Forgets all sums, as in a store of a version that kept none.
fn forget_sums(dir: &Path) {
    let database = rusqlite::Connection::open(dir.join("store.db")).unwrap();
    assert!(database.execute("DELETE FROM content_sums", []).unwrap() > 0);
}

fn aside(dir: &Path) -> BTreeSet<ContentHash> {
    let names = fs::read_dir(dir.join("damaged")).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn no_wrong_byte_is_given_away_and_the_content_is_set_aside() {
    for with_sums in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let contents = filled(&store).await;
        store.close().await;
        if !with_sums {
            forget_sums(dir.path());
        }
        let store = open(dir.path()).await;
        let heard = listen(&store);
        for (n, content) in contents.iter().enumerate() {
            let (hash, size) = (hash_of(content), content.len());
            let at = if n % 2 == 0 { size - 1 } else { size / 2 };
            flip(dir.path(), content, at);
            let (whole, complete) = got(&store, hash, 0, None).await;
            assert!(!complete && whole.len() < size, "{size} bytes: {} of them", whole.len());
            // Without sums, that something is wrong shows at the end.
            assert!(!with_sums || content.starts_with(&whole), "{size} bytes");
            // It counts as not here from that moment.
            assert_eq!(holding(&store, hash).await, Holding::Wanted);
            becomes_absent(&store, hash).await;
            assert_eq!(read(&store, hash, 0, None).await, Err(StoreError::NotHeld(hash)));
        }
        let files: BTreeSet<ContentHash> = contents
            .iter()
            .filter(|content| content.len() > 64 * 1024)
            .map(|content| hash_of(content))
            .collect();
        eventually("all files are aside", async || {
            let now = aside(dir.path());
            (now == files).then_some(()).ok_or_else(|| format!("{now:?}"))
        })
        .await;
        let status = store.status().await.unwrap();
        assert_eq!((status.damaged, status.assets, status.assets_held), (7, 7, 0));
        eventually("all is heard", async || {
            let heard = heard.lock().len();
            (heard == 7).then_some(()).ok_or_else(|| heard.to_string())
        })
        .await;
        // What is aside survives a restart, and is held by nobody.
        store.close().await;
        let store = open(dir.path()).await;
        assert_eq!(aside(dir.path()), files);
        let heard = listen(&store);
        for (n, content) in contents.iter().enumerate() {
            let incoming = if n % 2 == 0 { incoming } else { incoming_file };
            let outcome = store.ingest(vec![incoming(record_of(content), content)]).await;
            assert_eq!(outcome, Ok(vec![ItemOutcome::Stored]));
            assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
        }
        assert_eq!(aside(dir.path()), BTreeSet::new());
        let status = store.status().await.unwrap();
        assert_eq!((status.damaged, status.assets_held), (0, 7));
        let healed = heard.lock();
        assert!(healed.iter().all(|event| matches!(event, DamageEvent::Healed { .. })) && healed.len() == 7);
        let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        let rows = database.query_row("SELECT count(*) FROM contents", [], |row| row.get::<_, i64>(0));
        assert_eq!(rows, Ok(2), "no damaged bytes are left in the database");
    }
}

#[tokio::test]
async fn a_range_is_right_or_fails_wherever_the_damage_is() {
    for with_sums in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let content = noise(4 * GROUP_BYTES + 1000, 9);
        let hash = hash_of(&content);
        upload(&store, &content, IngestFields::default()).await;
        store.close().await;
        if !with_sums {
            forget_sums(dir.path());
        }
        let store = open(dir.path()).await;
        let group = GROUP_BYTES as u64;
        let all = content.len() as u64;
        let ranges = [
            (0, 1),
            (group - 1, 2),
            (group + 5, group),
            (2 * group, group),
            (2 * group + 100, 17),
            (all - 1, 1),
            (all, 0),
            (5, all - 6),
        ];
        for (offset, length) in ranges {
            let (part, complete) = got(&store, hash, offset, Some(length)).await;
            let end = usize::try_from((offset + length).min(all)).unwrap();
            assert!(complete && part == content[usize::try_from(offset).unwrap()..end], "{offset} {length}");
        }
        store.close().await;
        if !with_sums {
            forget_sums(dir.path());
        }
        let store = open(dir.path()).await;
        flip(dir.path(), &content, 2 * GROUP_BYTES + 50);
        if with_sums {
            // What lies elsewhere is right, and costs no look at the rest.
            let (part, complete) = got(&store, hash, 3 * group, Some(10)).await;
            assert!(complete && part == content[3 * GROUP_BYTES..][..10]);
        }
        // A byte of the same group that is right by itself.
        let (part, complete) = got(&store, hash, 2 * group + 100, Some(17)).await;
        assert!(!complete && part.is_empty());
        becomes_absent(&store, hash).await;
    }
}

#[tokio::test]
async fn sums_are_made_by_reading_and_cost_one_reading() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store).await;
    store.close().await;
    let sums = || {
        let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        let mut rows = database.prepare("SELECT hash, part, sums FROM content_sums ORDER BY 1, 2").unwrap();
        let all: Vec<(Vec<u8>, i64, Vec<u8>)> = rows
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        all
    };
    let before = sums();
    assert_eq!(before.len(), 5);
    forget_sums(dir.path());
    let store = open(dir.path()).await;
    for (n, content) in contents.iter().enumerate() {
        let hash = hash_of(content);
        if n % 2 == 0 {
            assert!(read(&store, hash, 0, None).await.as_ref() == Ok(content));
        } else {
            assert_eq!(read(&store, hash, 1, None).await.unwrap(), content[1..]);
        }
    }
    eventually("the same sums as before", async || {
        let now = sums();
        (now == before).then_some(()).ok_or_else(|| format!("{} rows", now.len()))
    })
    .await;
    // Wrong sums are no damage: the content is right.
    let content = contents.last().unwrap();
    {
        let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        database.execute("UPDATE content_sums SET sums = randomblob(length(sums))", []).unwrap();
    }
    assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    // Nor are sums of another length.
    {
        let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        database.execute("UPDATE content_sums SET sums = randomblob(33)", []).unwrap();
    }
    assert_eq!(read(&store, hash_of(content), 5, None).await.unwrap(), content[5..]);
    assert!(sums().contains(before.iter().find(|row| row.0 == hash_of(content).0).unwrap()));
    assert_eq!(store.status().await.unwrap().damaged, 0);
}

#[tokio::test]
async fn the_right_bytes_heal_what_nobody_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store).await;
    for content in &contents {
        flip(dir.path(), content, content.len() / 3);
    }
    for (n, content) in contents.iter().enumerate() {
        match n % 3 {
            0 => assert!(!upload(&store, content, IngestFields::default()).await.new),
            1 => drop(store.ingest(vec![incoming(record_of(content), content)]).await.unwrap()),
            _ => drop(store.ingest(vec![incoming_file(record_of(content), content)]).await.unwrap()),
        }
        assert!(read(&store, hash_of(content), 0, None).await.as_ref() == Ok(content));
    }
    assert_eq!(store.status().await.unwrap().damaged, 0);
}

#[tokio::test]
async fn what_is_deleted_or_let_go_leaves_no_damaged_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = filled(&store).await;
    for content in &contents {
        flip(dir.path(), content, 0);
        assert_eq!(store.verify(hash_of(content)).await, Ok(false));
    }
    for (n, content) in contents.iter().enumerate() {
        if n % 2 == 0 {
            store.delete(hash_of(content)).await.unwrap();
        } else {
            store.let_go(vec![hash_of(content)]).await.unwrap();
        }
    }
    store.close().await;
    assert_eq!(aside(dir.path()), BTreeSet::new());
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let rows = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        database.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((rows("damaged"), rows("contents")), (0, 0));
}

fn aside_names(dir: &Path) -> usize {
    fs::read_dir(dir.join("damaged")).unwrap().count()
}

#[tokio::test]
async fn sums_that_are_damaged_are_no_damage_of_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let content = noise(5 * GROUP_BYTES + 77_777, 1);
    let hash = hash_of(&content);
    upload(&store, &content, IngestFields::default()).await;
    store.close().await;
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let wrong = "UPDATE content_sums SET sums = CAST(randomblob(length(sums)) AS BLOB)";
    assert_eq!(database.execute(wrong, []), Ok(1));
    drop(database);
    let store = open(dir.path()).await;
    let heard = listen(&store);
    let (at, length) = (2 * GROUP_BYTES - 5, 10);
    let part = read(&store, hash, at as u64, Some(length as u64)).await;
    assert!(part.as_deref() == Ok(&content[at..at + length]));
    assert!(read(&store, hash, 0, None).await.as_ref() == Ok(&content));
    assert!(heard.lock().is_empty());
    assert_eq!((holding(&store, hash).await, store.status().await.unwrap().damaged), (Holding::Held, 0));
}
