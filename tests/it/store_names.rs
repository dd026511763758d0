//! One content under several names: what the embedded store makes of them, alone and where records of other stores come in.

use can_sync::testing::record::{
    AssetMeta, AssetRecord, ContentHash, Hlc, LibraryId, META_BYTES_MAX, NAMES_MAX, NameOutcome, WriterId,
};
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields, ListFilter, ListQuery, MetaPatch};
use can_sync::testing::store::{ContentStore, ItemOutcome, StoreError};
use proptest::prelude::*;

use crate::support::embedded::{open, upload};
use crate::support::store::{LONG_AGO_MS, hash_of, held, incoming, record_of};

const CONTENT: &[u8] = b"the same picture";
const COMPOSED: &str = "caf\u{e9}.jpg";
const DECOMPOSED: &str = "cafe\u{301}.jpg";

fn named(name: &str) -> IngestFields {
    IngestFields { filename: Some(name.into()), ..IngestFields::default() }
}

fn listing(names: &[&str]) -> MetaPatch {
    MetaPatch { names: Some(names.iter().map(|&name| name.to_owned()).collect()), ..MetaPatch::default() }
}

fn renamed(name: &str) -> MetaPatch {
    MetaPatch { filename: Some(Some(name.into())), ..MetaPatch::default() }
}

fn all_names(record: &AssetRecord) -> Vec<&str> {
    record.meta.all_names().collect()
}

async fn record(store: &EmbeddedStore) -> AssetRecord {
    held(store, hash_of(CONTENT)).await.expect("it is there")
}

/// What one store holds comes to another one.
async fn deliver(from: &EmbeddedStore, to: &EmbeddedStore) {
    let record = record(from).await;
    let mut outcome = to.apply(vec![record.clone()]).await.expect("applied").remove(0);
    if outcome == ItemOutcome::NeedsContent {
        outcome = to.ingest(vec![incoming(record, CONTENT)]).await.expect("ingested").remove(0);
    }
    assert!(matches!(outcome, ItemOutcome::Stored | ItemOutcome::Unchanged), "{outcome:?}");
}

#[tokio::test]
async fn content_put_under_another_name_has_both() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let first = upload(&store, CONTENT, named("a.jpg")).await;
    assert_eq!((first.new, first.name), (true, None));
    let second = upload(&store, CONTENT, named(COMPOSED)).await;
    assert_eq!((second.new, second.changed, second.name), (false, true, Some(NameOutcome::Added)));
    assert_eq!(all_names(&second.asset.record), ["a.jpg", COMPOSED]);
    assert!(second.asset.record.supersedes(&first.asset.record), "an edit");
    let hash = hash_of(CONTENT);
    for known in ["a.jpg", COMPOSED, DECOMPOSED] {
        let again = upload(&store, CONTENT, named(known)).await;
        assert_eq!((again.changed, again.name), (false, Some(NameOutcome::Known)), "{known}");
        let known = store.ingest_known(hash, named(known)).await.unwrap();
        assert_eq!((known.changed, known.name), (false, Some(NameOutcome::Known)));
        assert_eq!(known.asset, second.asset);
    }
    let nameless = upload(&store, CONTENT, named("  ")).await;
    assert_eq!((nameless.changed, nameless.name), (false, None));
    let third = store.ingest_known(hash, named("B.jpg")).await.unwrap();
    assert_eq!(third.name, Some(NameOutcome::Added));
    assert_eq!(all_names(&third.asset.record), ["a.jpg", "B.jpg", COMPOSED]);
    // Each is found as people type it, and none runs into the next.
    for (q, found) in [("b.JPG", 1), ("CAFE\u{301}", 1), ("a.jpg b.jpg", 1), ("jpgb", 0)] {
        let filter = ListFilter { q: Some(q.into()), ..ListFilter::default() };
        let page = store.list(ListQuery { filter, ..ListQuery::default() }).await.unwrap();
        assert_eq!(page.total, found, "{q}");
    }
    // A file of another size class goes the same way.
    let large = vec![7; 100_000];
    upload(&store, &large, named("one")).await;
    assert_eq!(all_names(&upload(&store, &large, named("two")).await.asset.record), ["one", "two"]);
}

#[tokio::test]
async fn what_is_not_in_the_list_of_names_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    upload(&store, CONTENT, named("a")).await;
    let hash = hash_of(CONTENT);
    let patch = async |patch: MetaPatch| store.patch(hash, patch).await.map(|asset| asset.record);
    let list = patch(listing(&["c", DECOMPOSED, "b", "c", COMPOSED, "a", " "])).await.unwrap();
    assert_eq!(all_names(&list), ["a", "b", "c", DECOMPOSED], "each once, and not the first again");
    assert_eq!(patch(listing(&["c", COMPOSED, "b"])).await.unwrap().meta.names, ["b", "c", COMPOSED]);
    // Renamed to one of the others: it is there once.
    let moved = patch(renamed("c")).await.unwrap();
    assert_eq!(all_names(&moved), ["c", "b", COMPOSED]);
    assert_eq!(moved.meta.dropped_names.len(), 1, "what it was called");
    let both = MetaPatch { filename: Some(None), ..listing(&["b"]) };
    let left = patch(both).await.unwrap();
    assert_eq!(all_names(&left), ["b"]);
    assert_eq!(left.meta.dropped_names.len(), 3);
    let again = upload(&store, CONTENT, named("a")).await.asset.record;
    assert_eq!((again.meta.filename.as_deref(), again.meta.dropped_names.len()), (Some("a"), 2));

    let before = record(&store).await;
    let many: Vec<String> = (0..=NAMES_MAX).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "x".repeat(1025);
    for wrong in [listing(&many), listing(&[&long])] {
        assert!(matches!(patch(wrong).await, Err(StoreError::Invalid(why)) if why.contains("further name")));
    }
    // 16 KiB of text, names included.
    let longest: Vec<String> = (0..16).map(|n| format!("{n:02}") + &"x".repeat(1022)).collect();
    let longest: Vec<&str> = longest.iter().map(String::as_str).collect();
    assert!(matches!(patch(listing(&longest)).await, Err(StoreError::Invalid(_))));
    assert_eq!(record(&store).await, before);
}

#[tokio::test]
async fn a_name_for_which_there_is_no_room_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let hash = hash_of(CONTENT);
    upload(&store, CONTENT, named("first")).await;
    for n in 0..NAMES_MAX {
        assert_eq!(upload(&store, CONTENT, named(&format!("{n:02}"))).await.name, Some(NameOutcome::Added));
    }
    let full = record(&store).await;
    assert_eq!(full.meta.names.len(), NAMES_MAX);
    let left_out = upload(&store, CONTENT, named("one more")).await;
    assert_eq!((left_out.changed, left_out.name), (false, Some(NameOutcome::LeftOut)));
    // What else is said is kept.
    let tagged = IngestFields { tags: vec!["t".into()], ..named("one more") };
    let tagged = store.ingest_known(hash, tagged).await.unwrap();
    assert_eq!((tagged.changed, tagged.name), (true, Some(NameOutcome::LeftOut)));
    assert_eq!((&tagged.asset.record.meta.names, tagged.asset.record.meta.tags.len()), (&full.meta.names, 1));

    // Somebody elsewhere filled it up to the last byte.
    let longest: Vec<String> = (0..16).map(|n| format!("{n:02}") + &"x".repeat(1022)).collect();
    let meta = AssetMeta { filename: None, names: longest, ..AssetMeta::default() };
    assert_eq!(meta.text_bytes(), META_BYTES_MAX);
    let other = b"filled by others";
    let theirs = AssetRecord::new(hash_of(other), other.len() as u64, None, meta);
    store.ingest(vec![incoming(theirs.clone(), other)]).await.unwrap();
    let put = upload(&store, other, named("ours")).await;
    assert_eq!((put.changed, put.name), (false, Some(NameOutcome::LeftOut)));
    // What other text there is no room for is refused as before.
    let user = IngestFields { user: Some("ann".into()), ..named("ours") };
    assert!(matches!(store.ingest_known(theirs.hash, user).await, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn when_a_file_was_written_is_kept_and_makes_no_version_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let at = |ms: u64, name: &str| IngestFields { modified_at_ms: Some(ms), ..named(name) };
    let first = upload(&store, CONTENT, at(5, "a")).await.asset;
    assert_eq!(first.record.meta.modified_at_ms, Some(5));
    assert_eq!(
        upload(&store, CONTENT, at(6, "a")).await.asset,
        first,
        "that it was written again is no edit"
    );
    assert_eq!(upload(&store, CONTENT, at(7, "b")).await.asset.record.meta.modified_at_ms, Some(5));
    let late = IngestFields { modified_at_ms: Some(1 << 48), ..named("c") };
    assert!(matches!(
        store.ingest_known(hash_of(CONTENT), late).await,
        Err(StoreError::Invalid(why)) if why.contains("modified_at")
    ));

    let other = b"put without a time";
    let plain = upload(&store, other, named("a")).await.asset;
    assert_eq!(upload(&store, other, at(8, "a")).await.asset, plain);
    let filled = upload(&store, other, at(9, "b")).await.asset;
    assert_eq!(filled.record.meta.modified_at_ms, Some(9), "along with another change");
    let edited = store.patch(hash_of(other), renamed("c")).await.unwrap();
    assert_eq!(edited.record.meta.modified_at_ms, Some(9));
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.asset(hash_of(other)).await.unwrap(), Some(edited));
}

#[tokio::test]
async fn a_deleted_asset_does_not_come_back_with_its_former_names() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (a, b) = (open(dirs[0].path()).await, open(dirs[1].path()).await);
    upload(&a, CONTENT, named("a")).await;
    deliver(&a, &b).await;
    b.delete(hash_of(CONTENT)).await.unwrap();
    let back = upload(&b, CONTENT, named("b")).await.asset.record;
    assert_eq!((all_names(&back), back.meta.dropped_names.len()), (vec!["b"], 1));
    // The one that gave the former name never saw that it was deleted.
    deliver(&b, &a).await;
    assert_eq!(record(&a).await, back);
    // It did, and the other one put it again meanwhile.
    a.delete(hash_of(CONTENT)).await.unwrap();
    deliver(&a, &b).await;
    let back = upload(&a, CONTENT, named("c")).await.asset.record;
    deliver(&a, &b).await;
    assert_eq!(record(&b).await, back);
    // What comes back from the trash has its names.
    upload(&a, CONTENT, named("d")).await;
    a.delete(hash_of(CONTENT)).await.unwrap();
    assert_eq!(all_names(&a.restore(hash_of(CONTENT)).await.unwrap().record), ["c", "d"]);
}

#[tokio::test]
async fn a_version_written_again_loses_to_an_edit_made_meanwhile() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (a, b, c) = (open(dirs[0].path()).await, open(dirs[1].path()).await, open(dirs[2].path()).await);
    upload(&a, CONTENT, named("a")).await;
    upload(&b, CONTENT, named("b")).await;
    let theirs = record(&b).await;
    deliver(&b, &c).await;
    let described = MetaPatch { description: Some(Some("by a person".into())), ..MetaPatch::default() };
    c.patch(hash_of(CONTENT), described).await.unwrap();
    let feed_before = a.status().await.unwrap().seq;
    deliver(&b, &a).await;
    let again = record(&a).await;
    assert_eq!((all_names(&again), again.hlc), (vec!["b", "a"], Hlc(theirs.hlc.0 + 1)));
    assert_eq!(a.status().await.unwrap().seq, feed_before + 1, "one change of the feed");
    deliver(&a, &c).await;
    assert_eq!(record(&c).await.meta.description.as_deref(), Some("by a person"));
    deliver(&c, &a).await;
    deliver(&a, &c).await;
    for store in [&a, &c] {
        let last = record(store).await;
        assert_eq!(
            (all_names(&last), last.meta.description.as_deref()),
            (vec!["b", "a"], Some("by a person"))
        );
    }
}

#[tokio::test]
async fn names_wait_for_room_and_are_kept_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    upload(&store, CONTENT, named("ours")).await;
    let ours = record(&store).await;
    let version = |after: u64, names: Vec<String>| AssetRecord {
        hlc: Hlc(ours.hlc.0 + (after << 16)),
        writer: WriterId([3; 32]),
        meta: AssetMeta { filename: Some("theirs".into()), names, ..ours.meta.clone() },
        ..ours.clone()
    };
    let many: Vec<String> = (0..NAMES_MAX).map(|n| format!("{n:02}")).collect();
    let full = version(1, many);
    store.apply(vec![full.clone()]).await.unwrap();
    assert_eq!(record(&store).await, full, "there is no room");
    store.close().await;
    let store = open(dir.path()).await;
    store.apply(vec![version(2, vec!["00".into()])]).await.unwrap();
    assert_eq!(all_names(&record(&store).await), ["theirs", "00", "ours"]);
}

#[tokio::test]
async fn no_library_hears_of_names_that_another_one_knew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let library = Some(LibraryId([1; 32]));
    let hash = hash_of(CONTENT);
    // As a member of one library named it, who had taken another name away.
    let through = |after: u64, names: &[&str], dropped: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut theirs = record_of(CONTENT);
        let before = AssetMeta { names: owned(dropped), ..AssetMeta::default() };
        theirs.meta.filename = Some(names[0].to_owned());
        theirs.meta.names = owned(&names[1..]);
        theirs.meta.note_dropped(hash, &before);
        AssetRecord {
            hlc: Hlc::from_ms(LONG_AGO_MS + after),
            writer: WriterId([4; 32]),
            via: library,
            ..theirs
        }
    };
    let came = through(1, &["salaries.pdf", "more.pdf"], &["secret.pdf"]);
    store.ingest(vec![incoming(came.clone(), CONTENT)]).await.unwrap();
    let ours = store.patch(hash, renamed("document.pdf")).await.unwrap().record;
    assert_eq!((ours.via, all_names(&ours)), (None, vec!["document.pdf", "more.pdf"]));
    assert_eq!(ours.meta.dropped_names, [0; 0], "what is not in the version cannot be guessed from it");
    // A name that a user here gave is another matter: it would come back from the machine that gave it.
    let shared = AssetRecord { hlc: Hlc(ours.hlc.0 + 1), own_content: true, ..came.clone() };
    let shared = AssetRecord { meta: through(1, &["document.pdf", "x"], &[]).meta, ..shared };
    store.replace(vec![(shared, ours)]).await.unwrap();
    let again = store.patch(hash, renamed("other.pdf")).await.unwrap().record;
    assert_eq!((all_names(&again), again.meta.dropped_names.len()), (vec!["other.pdf", "x"], 1));

    // Deleted and put again, or brought back.
    for n in 0..2 {
        let content = [CONTENT, &[n]].concat();
        let came =
            AssetRecord { hash: hash_of(&content), size: content.len() as u64, blake3: None, ..came.clone() };
        store.ingest(vec![incoming(came.clone(), &content)]).await.unwrap();
        store.delete(came.hash).await.unwrap();
        let back = if n == 0 {
            upload(&store, &content, named("mine.pdf")).await.asset.record
        } else {
            store.restore(came.hash).await.unwrap().record
        };
        assert_eq!((back.via, back.meta.dropped_names.len()), (None, 0));
    }
}

/// What a user does at one of the stores, or which two meet.
#[derive(Clone, Debug)]
enum Step {
    Put { at: usize, name: usize },
    Rename { at: usize, name: usize },
    Remove { at: usize, name: usize },
    Meet { from: usize, to: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (at, name) = (0..3_usize, 0..NAMES.len());
    let step = prop_oneof![
        3 => (at.clone(), name.clone()).prop_map(|(at, name)| Step::Put { at, name }),
        1 => (at.clone(), name.clone()).prop_map(|(at, name)| Step::Rename { at, name }),
        1 => (at.clone(), name).prop_map(|(at, name)| Step::Remove { at, name }),
        3 => (at.clone(), at).prop_map(|(from, to)| Step::Meet { from, to }),
    ];
    prop::collection::vec(step, 1..16)
}

const NAMES: [&str; 5] = ["a", "b", COMPOSED, DECOMPOSED, "e"];

/// Which of them it is: canonically equal ones are one.
fn place(name: &str) -> usize {
    let place = NAMES.iter().position(|known| *known == name).expect("one of them");
    if place == 3 { 2 } else { place }
}

async fn holds(store: &EmbeddedStore) -> Option<AssetRecord> {
    held(store, hash_of(CONTENT)).await
}

async fn run(steps: Vec<Step>, order: Vec<(usize, usize)>) {
    let dirs = [(); 3]
        .map(|()| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory"));
    let mut stores = Vec::new();
    for dir in &dirs {
        stores.push(open(dir.path()).await);
    }
    let hash: ContentHash = hash_of(CONTENT);
    let (mut given, mut taken) = ([false; NAMES.len()], [false; NAMES.len()]);
    for step in &steps {
        match *step {
            Step::Put { at, name } => {
                upload(&stores[at], CONTENT, named(NAMES[name])).await;
                given[place(NAMES[name])] = true;
            }
            Step::Rename { at, name } => {
                let Some(before) = holds(&stores[at]).await else { continue };
                stores[at].patch(hash, renamed(NAMES[name])).await.expect("patched");
                given[place(NAMES[name])] = true;
                let first = before.meta.filename.as_deref().map(place);
                first.filter(|first| *first != place(NAMES[name])).into_iter().for_each(|n| taken[n] = true);
            }
            Step::Remove { at, name } => {
                let Some(before) = holds(&stores[at]).await else { continue };
                let kept = before.meta.names.iter().filter(|known| place(known) != place(NAMES[name]));
                let kept: Vec<&str> = kept.map(String::as_str).collect();
                stores[at].patch(hash, listing(&kept)).await.expect("patched");
                taken[place(NAMES[name])] |= kept.len() < before.meta.names.len();
            }
            Step::Meet { from, to } => {
                if holds(&stores[from]).await.is_some() {
                    deliver(&stores[from], &stores[to]).await;
                }
            }
        }
    }
    for round in 0.. {
        assert!(round < 12, "they do not come to an end");
        let mut before = Vec::new();
        for store in &stores {
            before.push(store.status().await.unwrap().seq);
        }
        for (from, to) in &order {
            if holds(&stores[*from]).await.is_some() {
                deliver(&stores[*from], &stores[*to]).await;
            }
        }
        let mut after = Vec::new();
        for store in &stores {
            after.push(store.status().await.unwrap().seq);
        }
        if before == after {
            break;
        }
    }
    let last = holds(&stores[0]).await;
    for store in &stores {
        assert_eq!(holds(store).await, last);
    }
    let Some(last) = last else { return };
    let known: Vec<usize> = last.meta.all_names().map(place).collect();
    for n in 0..NAMES.len() {
        assert!(!given[n] || taken[n] || known.contains(&n), "'{}' is lost: {known:?}", NAMES[n]);
        assert!(known.iter().filter(|known| **known == n).count() <= 1, "'{}' is there twice", NAMES[n]);
    }
    for store in stores {
        store.close().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever the order in which stores hear of each other, they end with the same version, and no name is lost that nobody
    /// took away.
    #[test]
    fn stores_agree_and_keep_every_name(
        steps in steps(),
        order in Just(vec![(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]).prop_shuffle(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, order));
    }
}
