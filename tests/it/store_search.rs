//! Searching by the index: what is found is what a plain comparison of all records finds, whatever became of them.

use std::collections::BTreeMap;
use std::path::Path;

use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::store::embedded::{
    EmbeddedStore, IngestFields, ListFilter, ListQuery, MetaPatch, Order,
};
use can_sync::testing::store::{ContentStore as _, ItemOutcome};
use can_sync::testing::text::folded;
use proptest::prelude::*;
use rusqlite::Connection;

use crate::support::embedded::{open, upload};
use crate::support::nodes::eventually;
use crate::support::store::{LONG_AGO_MS, edited, incoming, record_of};

/// Pieces of names, and of what is searched for.
const PIECES: [&str; 30] = [
    "photo",
    "Photo",
    "PHO",
    "oto",
    "IMG_",
    "0001",
    "000",
    ".jpg",
    "İstanbul",
    "istanbul",
    "straße",
    "STRASSE",
    "Ärger",
    "A\u{308}rger",
    "🦀",
    "🦀🦀",
    "写真",
    "真",
    "\"",
    "\"\"",
    "OR",
    "AND",
    "NEAR(",
    "*",
    "^a",
    "\0",
    "a\0b",
    "z7a",
    "\u{1f}",
    "ΟΔΥΣΣΕΥΣ",
];
const TAGS: [&str; 5] = ["Sea", "sea", "ÉTÉ", "a,b", "x"];
const TYPES: [&str; 4] = ["image/png", "Image/JPEG", "text/plain", "application/x"];
const PEOPLE: [&str; 3] = ["Ann", "ANN", "Jörg"];

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[a-c]{1,4}",
        1 => Just(" ".to_owned()),
    ];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

fn meta() -> impl Strategy<Value = AssetMeta> {
    (
        prop::option::of(text()),
        prop::option::of(text()),
        prop::collection::vec(text(), 0..3),
        prop::collection::vec(prop::sample::select(&TAGS[..]), 0..3),
        prop::sample::select(&TYPES[..]),
        prop::option::of(prop::sample::select(&PEOPLE[..])),
        0..6_u64,
    )
        .prop_map(|(filename, description, names, tags, mime_type, user, after_ms)| AssetMeta {
            names: AssetMeta::further_names(filename.as_deref(), names),
            filename,
            description,
            tags: AssetMeta::normalise_tags(tags),
            mime_type: mime_type.into(),
            user: user.map(str::to_owned),
            application: user.map(|_| "Camera".to_owned()),
            created_at_ms: LONG_AGO_MS + after_ms,
            ..AssetMeta::default()
        })
}

fn filter() -> impl Strategy<Value = ListFilter> {
    let some = |text| prop::option::weighted(0.2, text);
    (
        prop::option::weighted(
            0.8,
            prop_oneof![
                3 => text(),
                1 => (text(), text()).prop_map(|(one, other)| format!("{one} {other}")),
                1 => any::<char>().prop_map(String::from),
                1 => "[a-c]{1,2}",
            ],
        ),
        prop::collection::vec(prop::sample::select(&TAGS[..]), 0..2),
        some(prop::sample::select(&["image/", "IMAGE/P", "t", "zz", ""][..])),
        some(prop::sample::select(&PEOPLE[..])),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.2, (0..6_u64, 0..6_u64)),
    )
        .prop_map(|(q, tags, mime_prefix, user, held, times)| ListFilter {
            q,
            tags: tags.into_iter().map(str::to_owned).collect(),
            mime_prefix: mime_prefix.map(str::to_owned),
            user: user.map(str::to_owned),
            held,
            from_ms: times.map(|(from, _)| LONG_AGO_MS + from),
            to_ms: times.map(|(_, to)| LONG_AGO_MS + to),
            ..ListFilter::default()
        })
}

/// Whether a plain look at the record says that it matches.
fn matches(record: &AssetRecord, is_held: bool, filter: &ListFilter) -> bool {
    let meta = &record.meta;
    let texts: Vec<String> = meta.all_names().chain(meta.description.as_deref()).map(folded).collect();
    let joined = texts.join("\u{1f}");
    let tags: Vec<String> = meta.tags.iter().map(|tag| folded(tag)).collect();
    let same = |one: &Option<String>, other: &Option<String>| {
        one.as_deref().is_none_or(|one| other.as_deref().is_some_and(|other| folded(one) == folded(other)))
    };
    let prefix = filter.mime_prefix.as_deref().unwrap_or_default().to_ascii_lowercase();
    let mut words = filter.q.iter().flat_map(|q| q.split_whitespace()).map(folded);
    words.all(|word| joined.contains(&word))
        && (filter.tags.is_empty() || filter.tags.iter().any(|tag| tags.contains(&folded(tag))))
        && meta.mime_type.to_ascii_lowercase().starts_with(&prefix)
        && same(&filter.user, &meta.user)
        && filter.held.is_none_or(|held| held == is_held)
        && filter.from_ms.is_none_or(|from| meta.created_at_ms >= from)
        && filter.to_ms.is_none_or(|to| meta.created_at_ms <= to)
}

/// What becomes of an asset after it was stored.
#[derive(Clone, Debug)]
enum Fate {
    Stays,
    Edited(Box<AssetMeta>),
    Deleted,
    Restored,
    LetGo,
    /// Somebody else's version wins, and then an older one comes and does not.
    Replaced(Box<AssetMeta>),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Stays),
        2 => meta().prop_map(|meta| Fate::Edited(Box::new(meta))),
        1 => Just(Fate::Deleted),
        1 => Just(Fate::Restored),
        1 => Just(Fate::LetGo),
        2 => meta().prop_map(|meta| Fate::Replaced(Box::new(meta))),
    ]
}

async fn befall(store: &EmbeddedStore, record: &AssetRecord, fate: &Fate) {
    let hash = record.hash;
    match fate {
        Fate::Stays => {}
        Fate::Edited(meta) => {
            let AssetMeta { filename, description, tags, mime_type, user, names, .. } = (**meta).clone();
            let patch = MetaPatch {
                mime_type: Some(mime_type),
                filename: Some(filename),
                description: Some(description),
                tags: Some(tags),
                user: Some(user),
                names: Some(names),
                ..MetaPatch::default()
            };
            store.patch(hash, patch).await.expect("edited");
        }
        Fate::Deleted => drop(store.delete(hash).await.expect("deleted")),
        Fate::Restored => {
            store.delete(hash).await.expect("deleted");
            store.restore(hash).await.expect("restored");
        }
        Fate::LetGo => drop(store.let_go(vec![hash]).await.expect("let go")),
        Fate::Replaced(meta) => {
            let other = AssetRecord { meta: (**meta).clone(), ..edited(record, 50, Some("")) };
            let done = store.apply(vec![other.clone(), edited(record, 20, Some("too late"))]).await;
            assert_eq!(done.expect("applied")[0], ItemOutcome::Stored);
        }
    }
}

fn content(i: usize) -> Vec<u8> {
    format!("content {i}").into_bytes()
}

/// Everything that is found, page by page, and what is said of how much it is.
async fn found(store: &EmbeddedStore, filter: &ListFilter, order: Order, limit: usize) -> Vec<ContentHash> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let query = ListQuery { filter: filter.clone(), order, limit, cursor };
        let page = store.list(query).await.expect("a page");
        all.extend(page.assets.iter().map(|asset| asset.record.hash));
        let Some(next) = page.next_cursor else {
            assert_eq!((page.total, page.total_is_bound), (all.len() as u64, false), "{filter:?}");
            return all;
        };
        cursor = Some(next);
    }
}

/// What is listed without any filter is right if every asset is there once, in order.
async fn check(store: &EmbeddedStore, filters: &[ListFilter]) {
    let mut known = BTreeMap::new();
    let mut since = 0;
    loop {
        let changes = store.changes(since, 1000).await.expect("changes").expect("no reset").assets;
        let Some(last) = changes.last() else { break };
        since = last.seq;
        known.extend(changes.into_iter().map(|asset| (asset.record.hash, asset)));
    }
    known.retain(|_, asset| !asset.record.deleted);
    let everything = found(store, &ListFilter::default(), Order::OldestFirst, 1000).await;
    assert_eq!(everything.len(), known.len());
    let created: Vec<u64> = everything.iter().map(|hash| known[hash].record.meta.created_at_ms).collect();
    assert!(created.is_sorted(), "{created:?}");
    for filter in filters {
        let expected: Vec<ContentHash> = everything
            .iter()
            .copied()
            .filter(|hash| matches(&known[hash].record, known[hash].holding.is_held(), filter))
            .collect();
        assert_eq!(found(store, filter, Order::OldestFirst, 3).await, expected, "{filter:?}");
        let mut newest = found(store, filter, Order::NewestFirst, 1000).await;
        newest.reverse();
        assert_eq!(newest, expected, "{filter:?}");
    }
}

async fn fill(store: &EmbeddedStore, metas: &[(AssetMeta, Fate)]) {
    let records: Vec<AssetRecord> = metas
        .iter()
        .enumerate()
        .map(|(i, (meta, _))| {
            let record = record_of(&content(i));
            AssetRecord::new(record.hash, record.size, record.blake3, meta.clone())
        })
        .collect();
    let batch = records.iter().enumerate().map(|(i, record)| incoming(record.clone(), &content(i)));
    let outcomes = store.ingest(batch.collect()).await.expect("stored");
    assert_eq!(outcomes, vec![ItemOutcome::Stored; metas.len()]);
    for (record, (_, fate)) in records.iter().zip(metas) {
        befall(store, record, fate).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Whether lists go by the index yet.
fn is_indexed(dir: &Path) -> bool {
    let database = Connection::open(dir.join("store.db")).unwrap();
    database.query_row("SELECT index_stage = 2 FROM state", [], |row| row.get(0)).unwrap()
}

async fn until_indexed(dir: &Path) {
    eventually("the index is made", async || is_indexed(dir).then_some(()).ok_or_else(String::new)).await;
}

/// Takes the index away: the database as it was before there was one.
fn without_index(dir: &Path) {
    let database = Connection::open(dir.join("store.db")).unwrap();
    database
        .execute_batch(
            "DROP INDEX content_sums_by_part;
             DROP TABLE waiting_objects; DROP TABLE waiting_totals; DROP TABLE dropping; DROP TABLE promises; DROP TABLE bucket_openings; DROP TABLE bucket_halts; DROP TABLE bucket; DROP TABLE pending_objects;
             DROP TABLE foreign_folders; DROP TABLE entries;
             DROP TABLE entry_history;
             DROP TABLE entry_counts;
             DROP TABLE words;
             DROP TABLE faceted;
             DROP TABLE facets;
             DROP INDEX records_by_list_key;
             ALTER TABLE records DROP COLUMN list_key;
             ALTER TABLE state DROP COLUMN index_stage;
             ALTER TABLE state DROP COLUMN key_spill;
             ALTER TABLE state DROP COLUMN words_seq;
             CREATE TABLE record_tags (tag TEXT NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (tag, hash)) STRICT, WITHOUT ROWID;
             CREATE INDEX records_by_creation ON records (created_at_ms, hash) WHERE deleted = 0;
             CREATE INDEX records_by_mime_type ON records (lower(mime_type), created_at_ms, hash) WHERE deleted = 0;
             CREATE INDEX records_by_application ON records (application_folded, created_at_ms, hash)
                 WHERE deleted = 0 AND application_folded IS NOT NULL;
             CREATE INDEX records_by_user ON records (user_folded, created_at_ms, hash)
                 WHERE deleted = 0 AND user_folded IS NOT NULL;
             CREATE INDEX records_absent ON records (created_at_ms, hash) WHERE deleted = 0 AND content IS NULL;
             PRAGMA user_version = 13;",
        )
        .unwrap();
    let mut live =
        database.prepare("SELECT hash, tags FROM records WHERE deleted = 0 AND tags IS NOT NULL").unwrap();
    let rows: Vec<(Vec<u8>, String)> =
        live.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    for (hash, tags) in rows {
        for tag in serde_json::from_str::<Vec<String>>(&tags).unwrap() {
            let add = "INSERT OR IGNORE INTO record_tags VALUES (?1, ?2)";
            database.execute(add, (folded(&tag), &hash)).unwrap();
        }
    }
}

/// How many records the index has words of.
fn with_words(dir: &Path) -> u64 {
    let database = Connection::open(dir.join("store.db")).unwrap();
    database.query_row("SELECT count(*) FROM words_docsize", [], |row| row.get::<_, u32>(0)).unwrap().into()
}

async fn found_by(store: &EmbeddedStore, q: &str) -> Vec<ContentHash> {
    let filter = ListFilter { q: Some(q.to_owned()), ..ListFilter::default() };
    found(store, &filter, Order::OldestFirst, 100).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_one_by_one_is_found_at_once_and_indexed_in_batches() {
    const ASSETS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let mut hashes = Vec::new();
    for i in 0..ASSETS {
        let named = IngestFields { filename: Some(format!("image-{i:04}.png")), ..IngestFields::default() };
        hashes.push(upload(&store, &content(i), named).await.asset.record.hash);
        if i % 50 == 0 {
            assert_eq!(found_by(&store, &format!("{i:04}")).await, hashes[i..]);
            assert_eq!(found_by(&store, "image").await.len(), i + 1, "old and new ones, each once");
            assert_eq!(found_by(&store, "ge").await.len(), i + 1, "short words, too");
        }
    }
    assert!(with_words(dir.path()) > 200, "nobody has to wait for a pause");
    // Of those that the index has and of those that it has not, maybe.
    for (i, hash) in hashes.iter().enumerate().filter(|(i, _)| i % 20 == 0) {
        if i % 40 == 0 {
            store.delete(*hash).await.unwrap();
        } else {
            let filename = Some(Some(format!("renamed-{i:04}.png")));
            store.patch(*hash, MetaPatch { filename, ..MetaPatch::default() }).await.unwrap();
            let tags = Some(vec!["tagged".to_owned()]);
            store.patch(*hash, MetaPatch { tags, ..MetaPatch::default() }).await.unwrap();
        }
    }
    for restart in [false, true] {
        if restart {
            store.close().await;
            store = open(dir.path()).await;
        }
        assert_eq!(found_by(&store, "renamed").await.len(), 7);
        assert_eq!(found_by(&store, "0020 renamed").await, hashes[20..=20]);
        assert_eq!(found_by(&store, "0040").await, []);
        assert_eq!(found_by(&store, ".png").await.len(), ASSETS - 8);
    }
    eventually("all are indexed", async || {
        let indexed = with_words(dir.path());
        (indexed == ASSETS as u64 - 8).then_some(()).ok_or_else(|| indexed.to_string())
    })
    .await;
    assert_eq!(found_by(&store, "renamed").await.len(), 7);
    assert_eq!(found_by(&store, "image").await.len(), ASSETS - 15);
    store.close().await;
}

/// Where words are in many more records than another condition, the records are compared instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_that_is_common_and_a_tag_that_is_not_find_what_has_both() {
    const ASSETS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut expected = Vec::new();
    let records: Vec<AssetRecord> = (0..ASSETS)
        .map(|i| {
            let name = if i % 7 == 0 { "sunset" } else { "holiday" };
            let meta = AssetMeta {
                filename: Some(format!("{name}-{i:05}.png")),
                tags: if i % 6 == 0 { vec!["rare".into()] } else { vec!["other".into()] },
                created_at_ms: LONG_AGO_MS + i as u64,
                ..AssetMeta::default()
            };
            let record = record_of(&content(i));
            if i % 6 == 0 && i % 7 != 0 {
                expected.push(record.hash);
            }
            AssetRecord::new(record.hash, record.size, record.blake3, meta)
        })
        .collect();
    for (n, some) in records.chunks(1000).enumerate() {
        let batch =
            some.iter().enumerate().map(|(i, record)| incoming(record.clone(), &content(n * 1000 + i)));
        store.ingest(batch.collect()).await.unwrap();
    }
    let filter =
        ListFilter { q: Some("holiday .png".into()), tags: vec!["rare".into()], ..ListFilter::default() };
    for order in [Order::OldestFirst, Order::NewestFirst] {
        for limit in [1000, 37] {
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let query = ListQuery { filter: filter.clone(), order, limit, cursor };
                let page = store.list(query).await.unwrap();
                found.extend(page.assets.iter().map(|asset| asset.record.hash));
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
            assert!(found == expected, "{} of {}, {order:?}", found.len(), expected.len());
        }
        expected.reverse();
    }
    // With none that has both, which only the last record shows.
    let none = ListFilter { q: Some("sunset holiday".into()), ..filter };
    let page = store.list(ListQuery { filter: none, ..ListQuery::default() }).await.unwrap();
    assert_eq!((page.assets.len(), page.next_cursor), (0, None));
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_the_records_say(
        metas in prop::collection::vec((meta(), fate()), 1..60),
        filters in prop::collection::vec(filter(), 40),
    ) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path()).await;
            assert!(is_indexed(dir.path()));
            fill(&store, &metas).await;
            check(&store, &filters).await;
            store.close().await;
        });
    }

    #[test]
    fn a_database_without_an_index_answers_the_same_before_and_after_it_is_made(
        metas in prop::collection::vec((meta(), fate()), 1..30),
        more in prop::collection::vec((meta(), fate()), 1..10),
        filters in prop::collection::vec(filter(), 20),
    ) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path()).await;
            fill(&store, &metas).await;
            store.close().await;
            without_index(dir.path());
            let store = open(dir.path()).await;
            // Changes that come while it is made, or just after.
            for (i, (meta, fate)) in more.iter().enumerate() {
                let content = content(1000 + i);
                let record = AssetRecord { meta: meta.clone(), ..record_of(&content) };
                let record = AssetRecord::new(record.hash, record.size, record.blake3, record.meta);
                store.ingest(vec![incoming(record.clone(), &content)]).await.unwrap();
                befall(&store, &record, fate).await;
            }
            until_indexed(dir.path()).await;
            check(&store, &filters).await;
            store.close().await;
        });
    }
}
