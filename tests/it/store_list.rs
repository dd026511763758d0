//! Listing and searching in the embedded store.

use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::store::embedded::{EmbeddedStore, ListFilter, ListPage, ListQuery, Order};
use can_sync::testing::store::{ContentStore, Holding, ItemOutcome, StoreError};

use crate::support::embedded::open;
use crate::support::store::{LONG_AGO_MS, edited, hash_of, incoming, noise, record_of};

fn content(i: u64) -> Vec<u8> {
    noise(50, i)
}

/// Stores an asset that was created `after_ms` after the others.
async fn store_asset(
    store: &EmbeddedStore,
    i: u64,
    after_ms: u64,
    change: impl FnOnce(&mut AssetMeta),
) -> ContentHash {
    let mut meta = record_of(&content(i)).meta;
    meta.created_at_ms = LONG_AGO_MS + after_ms;
    change(&mut meta);
    let record = AssetRecord::new(hash_of(&content(i)), 50, None, meta);
    let outcomes = store.ingest(vec![incoming(record, &content(i))]).await;
    assert_eq!(outcomes, Ok(vec![ItemOutcome::Stored]));
    hash_of(&content(i))
}

fn hashes(page: &ListPage) -> Vec<ContentHash> {
    page.assets.iter().map(|asset| asset.record.hash).collect()
}

/// All assets that the filter lets through, in pages of `limit`.
async fn list_all(
    store: &EmbeddedStore,
    filter: &ListFilter,
    order: Order,
    limit: usize,
) -> Vec<ContentHash> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let query = ListQuery { filter: filter.clone(), order, limit, cursor };
        let page = store.list(query).await.expect("a page");
        assert!(page.assets.len() <= limit);
        all.extend(hashes(&page));
        let Some(next) = page.next_cursor else {
            assert_eq!(page.total, all.len() as u64, "the total is what all pages hold");
            return all;
        };
        assert_eq!(page.assets.len(), limit, "only the last page is short");
        cursor = Some(next);
    }
}

async fn found(store: &EmbeddedStore, filter: ListFilter) -> Vec<ContentHash> {
    let all = list_all(store, &filter, Order::OldestFirst, 1000).await;
    assert_eq!(list_all(store, &filter, Order::OldestFirst, 1).await, all);
    let mut newest = list_all(store, &filter, Order::NewestFirst, 2).await;
    newest.reverse();
    assert_eq!(newest, all);
    all
}

#[tokio::test]
async fn pages_are_in_order_of_creation_and_then_of_arrival() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let empty = store.list(ListQuery::default()).await.unwrap();
    assert_eq!(empty, ListPage::default());
    let mut expected = Vec::new();
    for i in 0..40 {
        // Stored in another order than created, four in each millisecond.
        let after_ms = (i * 7 % 40) / 4;
        expected.push((after_ms, store_asset(&store, i, after_ms, |_| ()).await));
    }
    // What arrived later counts as the newer of its millisecond.
    expected.sort_by_key(|(after_ms, _)| *after_ms);
    let mut expected: Vec<_> = expected.into_iter().map(|(_, hash)| hash).collect();
    let all = ListFilter::default();
    for limit in [1, 3, 39, 40, 1000] {
        assert_eq!(list_all(&store, &all, Order::OldestFirst, limit).await, expected);
    }
    expected.reverse();
    for limit in [1, 7, 40] {
        assert_eq!(list_all(&store, &all, Order::NewestFirst, limit).await, expected);
    }
    let query = ListQuery { limit: 0, ..ListQuery::default() };
    assert_eq!(store.list(query).await.unwrap().assets.len(), 1, "the limit is at least one");
}

#[tokio::test]
async fn a_cursor_keeps_its_place_whatever_is_added_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for i in 0..10 {
        store_asset(&store, i, i * 10, |_| ()).await;
    }
    let query = |cursor| ListQuery { limit: 5, cursor, ..ListQuery::default() };
    let first = store.list(query(None)).await.unwrap();
    assert_eq!(hashes(&first), (5..10).rev().map(|i| hash_of(&content(i))).collect::<Vec<_>>());
    // Newer than the page, in the page, after it; and the very asset that the cursor points at is gone.
    for (i, after_ms) in [(20, 200), (21, 75), (22, 35)] {
        store_asset(&store, i, after_ms, |_| ()).await;
    }
    store.delete(hash_of(&content(5))).await.unwrap();
    store.apply(vec![edited(&first.assets[0].record, 5, Some("edited"))]).await.unwrap();
    let second = store.list(query(first.next_cursor.clone())).await.unwrap();
    let expected: Vec<_> = [4, 22, 3, 2, 1].into_iter().map(|i| hash_of(&content(i))).collect();
    assert_eq!(hashes(&second), expected);

    for bad in ["", "x", "####", "bm90IGEgY3Vyc29y"] {
        let refused = store.list(query(Some(bad.into()))).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{bad}: {refused:?}");
    }
    let other_order = ListQuery { order: Order::OldestFirst, ..query(first.next_cursor) };
    assert!(matches!(store.list(other_order).await, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn filters_narrow_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut all = Vec::new();
    for i in 0..24_usize {
        let hash = store_asset(&store, i as u64, i as u64, |meta| {
            meta.mime_type = ["image/png", "image/jpeg", "imagex/png", "text/plain"][i % 4].into();
            meta.application = (i % 2 == 0).then(|| "camera".into());
            meta.user = (i % 3 == 0).then(|| "ann".into());
            meta.tags = ["a", "b", "c"].iter().take(i % 4).map(|&tag| tag.into()).collect();
        });
        all.push(hash.await);
    }
    let deleted = 12;
    store.delete(all[deleted]).await.unwrap();
    let pick = |which: fn(usize) -> bool| -> Vec<ContentHash> {
        (0..24).filter(|i| *i != deleted && which(*i)).map(|i| all[i]).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    let none = ListFilter::default;
    let cases: [(ListFilter, Vec<ContentHash>); 14] = [
        (none(), pick(|_| true)),
        (ListFilter { application: text("camera"), ..none() }, pick(|i| i % 2 == 0)),
        (ListFilter { application: text("Camera"), ..none() }, pick(|i| i % 2 == 0)),
        (ListFilter { user: text("ann"), ..none() }, pick(|i| i % 3 == 0)),
        (ListFilter { mime_prefix: text("image/"), ..none() }, pick(|i| i % 4 < 2)),
        (ListFilter { mime_prefix: text("image"), ..none() }, pick(|i| i % 4 < 3)),
        (ListFilter { mime_prefix: text(""), ..none() }, pick(|_| true)),
        (ListFilter { mime_prefix: text("%"), ..none() }, vec![]),
        (ListFilter { tags: vec!["c".into()], ..none() }, pick(|i| i % 4 == 3)),
        (ListFilter { tags: vec!["b".into(), "c".into(), "z".into()], ..none() }, pick(|i| i % 4 >= 2)),
        (ListFilter { hashes: vec![all[3], all[deleted], all[1]], ..none() }, vec![all[1], all[3]]),
        (
            ListFilter { from_ms: Some(LONG_AGO_MS + 5), to_ms: Some(LONG_AGO_MS + 7), ..none() },
            pick(|i| (5..=7).contains(&i)),
        ),
        (ListFilter { from_ms: Some(u64::MAX), ..none() }, vec![]),
        (
            ListFilter {
                application: text("camera"),
                user: text("ann"),
                mime_prefix: text("image"),
                tags: vec!["a".into(), "b".into()],
                to_ms: Some(LONG_AGO_MS + 20),
                ..none()
            },
            pick(|i| i % 6 == 0 && i % 4 == 2 && i <= 20),
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(found(&store, filter.clone()).await, expected, "{filter:?}");
    }
    let too_many = ListFilter { hashes: vec![all[0]; 1001], ..none() };
    let refused = store.list(ListQuery { filter: too_many, ..ListQuery::default() }).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn tags_follow_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let hash = store_asset(&store, 1, 0, |meta| meta.tags = vec!["old".into(), "same".into()]).await;
    let by = |tag: &str| ListFilter { tags: vec![tag.into()], ..ListFilter::default() };
    let mut record = store.asset(hash).await.unwrap().unwrap().record;
    record = edited(&record, 10, Some("edited"));
    record.meta.tags = vec!["new".into(), "same".into()];
    store.apply(vec![record.clone()]).await.unwrap();
    assert_eq!(found(&store, by("old")).await, []);
    assert_eq!(found(&store, by("new")).await, [hash]);
    assert_eq!(found(&store, by("same")).await, [hash]);
    store.apply(vec![edited(&record, 10, None)]).await.unwrap();
    assert_eq!(found(&store, by("same")).await, []);
    store.apply(vec![edited(&record, 20, Some("back"))]).await.unwrap();
    assert_eq!(found(&store, by("same")).await, [hash]);
}

#[tokio::test]
async fn words_are_found_whatever_their_case_and_wildcards_are_letters() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let texts = [
        (Some("Holiday.JPG"), None),
        (Some("100%.txt"), Some("a snake_case name")),
        (None, Some("ÜBER die Straße")),
        (Some("100 per cent"), Some("a snakeXcase name")),
        (None, None),
        (Some("ends with a"), Some("b begins")),
    ];
    let mut all = Vec::new();
    for (i, (filename, description)) in (0..).zip(texts) {
        let hash = store_asset(&store, i, i, |meta| {
            meta.filename = filename.map(str::to_owned);
            meta.description = description.map(str::to_owned);
        });
        all.push(hash.await);
    }
    let cases: [(&str, &[usize]); 12] = [
        ("holiday", &[0]),
        (".jpg", &[0]),
        ("100", &[1, 3]),
        ("100%", &[1]),
        ("snake_case", &[1]),
        ("über", &[2]),
        ("STRASSE", &[2]),
        ("straße", &[2]),
        ("%", &[1]),
        ("\\", &[]),
        ("with ab", &[]),
        ("", &[0, 1, 2, 3, 4, 5]),
    ];
    for (q, expected) in cases {
        let filter = ListFilter { q: Some(q.into()), ..ListFilter::default() };
        let expected: Vec<_> = expected.iter().map(|i| all[*i]).collect();
        assert_eq!(found(&store, filter).await, expected, "{q:?}");
    }
}

#[tokio::test]
async fn assets_are_listed_by_whether_they_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut all = Vec::new();
    for i in 0..12 {
        all.push(store_asset(&store, i, i, |meta| meta.tags = vec![format!("{}", i % 2)]).await);
    }
    let absent: Vec<ContentHash> = all.iter().copied().step_by(3).collect();
    store.let_go(absent.clone()).await.unwrap();
    let held: Vec<ContentHash> = all.iter().copied().filter(|hash| !absent.contains(hash)).collect();
    let by = |held| ListFilter { held, ..ListFilter::default() };
    assert_eq!(found(&store, by(None)).await, all);
    assert_eq!(found(&store, by(Some(true))).await, held);
    assert_eq!(found(&store, by(Some(false))).await, absent);
    let odd = |held| ListFilter { tags: vec!["1".into()], ..by(held) };
    let pick = |held: &[ContentHash]| {
        let odd = all.iter().copied().skip(1).step_by(2);
        odd.filter(|hash| held.contains(hash)).collect::<Vec<_>>()
    };
    assert_eq!(found(&store, odd(Some(true))).await, pick(&held));
    assert_eq!(found(&store, odd(Some(false))).await, pick(&absent));
    let page =
        store.list(ListQuery { filter: by(Some(false)), limit: 1, ..ListQuery::default() }).await.unwrap();
    assert_eq!((page.total, page.assets[0].holding), (4, Holding::Unwanted));
}

#[tokio::test]
async fn nothing_else_waits_for_searches() {
    const ASSETS: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let incoming_of = |i: u64| {
        let mut record = record_of(&content(i));
        // Longer than what the index is asked for: all are compared.
        record.meta.description = Some("word".repeat(40));
        incoming(record, &content(i))
    };
    for first in (0..ASSETS).step_by(500) {
        store.ingest((first..first + 500).map(incoming_of).collect()).await.expect("stored");
    }
    let miss = || ListQuery {
        filter: ListFilter { q: Some("word".repeat(40) + "nowhere"), ..ListFilter::default() },
        order: Order::NewestFirst,
        limit: 10,
        cursor: None,
    };
    let mut searches = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (store, miss) = (store.clone(), miss());
        searches.spawn(async move { store.list(miss).await });
    }
    // Let each of them take its place.
    tokio::task::yield_now().await;
    for i in 0..20 {
        assert!(store.asset(hash_of(&content(i))).await.unwrap().is_some());
    }
    assert_eq!(store.status().await.unwrap().assets, ASSETS);
    assert_eq!(store.feed(0, 100).await.unwrap().entries.len(), 100);
    let query = ListQuery { filter: ListFilter::default(), ..miss() };
    assert_eq!(store.list(query).await.unwrap().assets.len(), 10);
    let (mut found, mut refused, mut early) = (0, 0, 0);
    while let Some(done) = searches.try_join_next() {
        early += usize::from(done.unwrap().is_ok());
    }
    assert!(early < 60, "they went on while the rest was answered: {early} were done");
    while let Some(done) = searches.join_next().await {
        match done.unwrap() {
            Ok(page) => {
                assert_eq!(page.total, 0);
                found += 1;
            }
            Err(StoreError::Busy(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(found + early >= 60, "{found} and {early}");
    assert!(refused < 200 - 60);
    assert_eq!(store.list(miss()).await.unwrap().total, 0, "there is room again");
}

#[tokio::test]
async fn a_search_that_nobody_waits_for_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for i in 0..50 {
        store_asset(&store, i, i, |_| {}).await;
    }
    let miss = || ListQuery {
        filter: ListFilter { q: Some("nowhere".into()), ..ListFilter::default() },
        order: Order::NewestFirst,
        limit: 10,
        cursor: None,
    };
    // Given up at every moment that there is.
    for _ in 0..200 {
        let mut search = Box::pin(store.list(miss()));
        let _ = futures::poll!(search.as_mut());
        drop(search);
        tokio::task::yield_now().await;
    }
    assert_eq!(store.list(miss()).await.unwrap().total, 0);
    assert_eq!(store.list(ListQuery { filter: ListFilter::default(), ..miss() }).await.unwrap().total, 50);
}
