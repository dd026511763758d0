//! Whatever the order in which versions arrive, stores that saw the same ones hold the same.

use std::collections::BTreeMap;

use can_sync::testing::record::{AssetRecord, ContentHash, Hlc, WriterId};
use can_sync::testing::store::{ContentStore, ItemOutcome};
use proptest::prelude::*;

use crate::support::embedded::open;
use crate::support::store::{noise, read, read_feed, record_of};

/// One version of one of three assets, and whether it is offered with its content at once.
#[derive(Clone, Debug)]
struct Version {
    asset: u64,
    hlc: u64,
    writer: u8,
    deleted: bool,
    name: String,
    with_content: bool,
}

/// The last asset is large enough for a file.
fn content(asset: u64) -> Vec<u8> {
    noise(if asset == 2 { 70_000 } else { 100 }, asset)
}

fn record(version: &Version) -> AssetRecord {
    let mut record = record_of(&content(version.asset));
    record.hlc = Hlc(version.hlc);
    record.writer = WriterId([version.writer; 32]);
    record.deleted = version.deleted;
    record.meta.filename = Some(version.name.clone());
    record
}

fn version() -> impl Strategy<Value = Version> {
    let fields = (0..3_u64, 1..4_u64, 0..2_u8, prop::bool::weighted(0.4), "[ab]", any::<bool>());
    fields.prop_map(|(asset, hlc, writer, deleted, name, with_content)| Version {
        asset,
        hlc,
        writer,
        deleted,
        name,
        with_content,
    })
}

/// Versions, and the same ones in another order.
fn histories() -> impl Strategy<Value = (Vec<Version>, Vec<Version>)> {
    prop::collection::vec(version(), 1..12).prop_flat_map(|one| {
        let other = Just(one.clone()).prop_shuffle();
        (Just(one), other)
    })
}

/// A directory whose disk is memory where there is such a thing: what is tested here is order, and a real disk would make
/// it wait for some thousand commits.
fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

/// What a store holds after these, in this order.
async fn state_after(versions: &[Version]) -> BTreeMap<ContentHash, AssetRecord> {
    let dir = quick_dir();
    let store = open(dir.path()).await;
    for version in versions {
        let (record, content) = (record(version), content(version.asset));
        let mut outcome = ItemOutcome::NeedsContent;
        if !version.with_content || record.deleted {
            outcome = store.apply(vec![record.clone()]).await.expect("applied").remove(0);
        }
        if outcome == ItemOutcome::NeedsContent {
            let batch = vec![crate::support::store::incoming(record, &content)];
            outcome = store.ingest(batch).await.expect("ingested").remove(0);
        }
        assert!(matches!(outcome, ItemOutcome::Stored | ItemOutcome::Unchanged), "{outcome:?}");
    }
    let held: BTreeMap<_, _> =
        read_feed(&store, 0, 2).await.into_iter().map(|entry| (entry.record.hash, entry.record)).collect();
    let (mut assets, mut bytes) = (0, 0);
    for asset in 0..3 {
        let content = content(asset);
        let record = record_of(&content);
        let live = held.get(&record.hash).is_some_and(|record| !record.deleted);
        assert_eq!(read(&store, record.hash, 0, None).await.ok(), live.then_some(content));
        assets += u64::from(live);
        bytes += if live { record.size } else { 0 };
    }
    let status = store.status().await.expect("status");
    assert_eq!((status.assets, status.bytes), (assets, bytes));
    store.close().await;
    held
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_makes_no_difference((one, other) in histories()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = runtime.block_on(async { tokio::join!(state_after(&one), state_after(&other)) });
        prop_assert_eq!(&first, &second);
        // And it is the greatest version of each that stays.
        for version in &one {
            let record = record(version);
            prop_assert!(!record.supersedes(&first[&record.hash]), "{version:?} should have won");
        }
    }
}
