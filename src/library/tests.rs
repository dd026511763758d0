use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::filter::Filter;
use super::registry::Kept;
use super::sharing::Sharing;
use super::ticket::{Access, Terms};
use super::*;
use crate::identity::LibraryKeys;
use crate::reconcile::tree::ItemTree;
use crate::record::Hlc;
use crate::store::{Holding, StoredRecord};

mod shares;

fn kept(n: u8, access: Access, filter: Filter) -> Kept {
    Kept::sample(n, Terms::unlimited(format!("library {n}"), access), filter)
}

fn libraries() -> Libraries {
    Libraries::of(Arc::new(Library::new(LibraryKeys::of_read_secret(&[0; 32]))))
}

type Store = BTreeMap<ContentHash, StoredRecord>;

/// A record with its content, or without.
fn stored() -> impl Strategy<Value = StoredRecord> {
    let holding =
        prop_oneof![2 => Just(Holding::Held), 1 => Just(Holding::Wanted), 1 => Just(Holding::Unwanted)];
    (filter::tests::record(), holding).prop_map(|(record, holding)| {
        let holding = if record.deleted { Holding::Unwanted } else { holding };
        StoredRecord { record, holding }
    })
}

fn entry(seq: u64, StoredRecord { record, holding }: StoredRecord) -> FeedEntry {
    FeedEntry { seq, record, holding, formers: Vec::new() }
}

/// Hashes of the records that [`filter::tests::record`] makes.
fn hashes() -> impl Iterator<Item = ContentHash> {
    (0..12_u8).map(|n| ContentHash([n; 32]))
}

fn check(library: &Library, store: &Store) -> Result<(), TestCaseError> {
    let has: Vec<StoredRecord> =
        hashes().filter_map(|hash| library.version(&hash, store.get(&hash))).collect();
    let wanted = has.iter().filter(|stored| stored.holding == Holding::Wanted);
    let wanted: Vec<ContentHash> = wanted.map(|stored| stored.record.hash).collect();
    let absent = has.iter().filter(|stored| stored.is_absent());
    prop_assert_eq!(library.absent(), (absent.clone().count() as u64, wanted.len() as u64));
    let unwanted = absent.filter(|stored| stored.holding == Holding::Unwanted);
    let unwanted: BTreeSet<ContentHash> = unwanted.map(|stored| stored.record.hash).collect();
    prop_assert_eq!(&library.unwanted().into_iter().collect::<BTreeSet<_>>(), &unwanted);
    prop_assert_eq!(&library.wanted(None, usize::MAX), &wanted);
    for n in 0..wanted.len() {
        prop_assert_eq!(&library.wanted(Some(wanted[n]), 3), &wanted[n + 1..wanted.len().min(n + 4)]);
    }
    let key = library.keys().record().expose();
    let ids: BTreeSet<RecordId> = has.iter().map(|stored| stored.record.id(key)).collect();
    let found: BTreeSet<RecordId> = library.snapshot().items().map(|item| item.rid).collect();
    prop_assert_eq!(&found, &ids);
    let summary = library.summary();
    prop_assert_eq!(summary.count, ids.len() as u64);
    let mut fresh = ItemTree::new();
    for stored in &has {
        fresh.upsert(library.item(&stored.record));
        prop_assert!(library.has(&stored.record.hash));
        prop_assert_eq!(library.lacks(&stored.record.hash), stored.is_absent());
    }
    prop_assert_eq!(summary.fingerprint, fresh.fingerprint());
    if library.shared().is_some() {
        let held = || has.iter().filter(|stored| stored.holding.is_held());
        let bytes = held().map(|stored| stored.record.size).sum();
        prop_assert_eq!((summary.assets, summary.bytes), (held().count() as u64, bytes));
        let strangers =
            store.values().filter(|stored| stored.record.via.is_some() && stored.record.via != library.id());
        for stranger in strangers {
            let version = library.version(&stranger.record.hash, Some(stranger));
            prop_assert!(version.is_none_or(|version| library.asides().contains_key(&version.record.hash)));
        }
    }
    Ok(())
}

/// What happens to the store: an edit, or a record that it loses.
#[derive(Clone, Debug)]
enum Change {
    Edit(Box<StoredRecord>),
    Lose(u8),
    /// A member says so, who has the content or not, and the library delivers what it wants.
    Offer(Box<AssetRecord>, bool),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (stored(), 0..4_u8).prop_map(|(StoredRecord { record, holding }, via)| {
            let via = (via < 2).then(|| kept(via, Access::Read, Filter::default()).ticket.claims().library);
            Change::Edit(Box::new(StoredRecord { record: AssetRecord { via, ..record }, holding }))
        }),
        1 => (0..12_u8).prop_map(Change::Lose),
        4 => (filter::tests::record(), any::<bool>())
            .prop_map(|(record, held)| Change::Offer(Box::new(record.for_members()), held)),
    ]
}

proptest! {
    #[test]
    fn membership_follows_every_edit(
        filters in proptest::collection::vec((filter::tests::filter(), any::<bool>()), 1..5),
        changes in proptest::collection::vec(change(), 0..60),
    ) {
        let libraries = libraries();
        for (n, (filter, writes)) in (1..).zip(filters) {
            let access = if writes { Access::Write } else { Access::Read };
            libraries.add(SharedLibrary::new(kept(n, access, filter), HashMap::new())).filled();
        }
        let mut store = BTreeMap::new();
        for (seq, change) in (1..).zip(changes) {
            match change {
                Change::Edit(stored) => {
                    store.insert(stored.record.hash, (*stored).clone());
                    libraries.apply(vec![entry(seq, *stored)]);
                }
                Change::Lose(n) => {
                    store.remove(&ContentHash([n; 32]));
                    libraries.remove(&[ContentHash([n; 32])]);
                }
                Change::Offer(record, held) => {
                    for library in libraries.shared() {
                        let stored = store.get(&record.hash);
                        if library.consider(&record, held, stored, false, Some(1)) == OfferMeaning::Wanted {
                            library.deliver(&record, stored);
                        }
                    }
                }
            }
            for library in libraries.shared().iter().chain([libraries.mirror()]) {
                check(library, &store)?;
            }
        }
    }

    #[test]
    fn what_the_store_held_before_comes_in_beside_what_changes_meanwhile(
        filter in filter::tests::filter(),
        before in proptest::collection::vec(stored(), 0..30),
        meanwhile in proptest::collection::vec((any::<bool>(), stored()), 0..30),
    ) {
        let libraries = libraries();
        let mut store: Store = before.into_iter().map(|stored| (stored.record.hash, stored)).collect();
        let library = libraries.add(SharedLibrary::new(kept(1, Access::Write, filter), HashMap::new()));
        // What is read in is as old as the moment at which it was read.
        let mut read: Vec<FeedEntry> = store.values().cloned().map(|stored| entry(0, stored)).collect();
        for (seq, (next, stored)) in (1..).zip(meanwhile) {
            if next && let Some(old) = read.pop() {
                library.fill(&[old]);
            }
            store.insert(stored.record.hash, stored.clone());
            libraries.apply(vec![entry(seq, stored)]);
        }
        library.fill(&read);
        library.filled();
        check(&library, &store)?;
    }
}

#[test]
fn peers_hear_of_contents_that_come_or_are_missing_and_not_of_those_that_were_let_go() {
    let libraries = libraries();
    let record = AssetRecord::new(ContentHash([7; 32]), 5, None, crate::record::AssetMeta::default());
    let told = |holding| {
        let told =
            libraries.apply(vec![FeedEntry { seq: 1, record: record.clone(), holding, formers: Vec::new() }]);
        told.into_iter().map(|entry| entry.holding).collect::<Vec<_>>()
    };
    assert_eq!(told(Holding::Held), [Holding::Held], "new");
    let fingerprint = libraries.mirror().summary().fingerprint;
    assert_eq!(told(Holding::Held), []);
    assert_eq!(told(Holding::Unwanted), []);
    assert_eq!(told(Holding::Wanted), []);
    assert_eq!(told(Holding::Held), [Holding::Held], "somebody may wait for it");
    assert_eq!(told(Holding::Wanted), [Holding::Wanted], "it was damaged, and somebody may have it");
    assert_eq!(told(Holding::Wanted), []);
    assert_eq!(told(Holding::Held), [Holding::Held]);
    assert_eq!(libraries.mirror().summary().fingerprint, fingerprint);
}

/// What is live is held.
fn held(record: &AssetRecord) -> StoredRecord {
    let holding = if record.deleted { Holding::Unwanted } else { Holding::Held };
    StoredRecord { record: record.clone(), holding }
}

fn record_of(n: u8) -> AssetRecord {
    AssetRecord::new(ContentHash([n; 32]), 5, None, crate::record::AssetMeta::default())
}

#[test]
fn a_readers_own_assets_are_no_part_of_the_library() {
    let libraries = libraries();
    let reader = libraries.add(SharedLibrary::new(kept(1, Access::Read, Filter::default()), HashMap::new()));
    let own = record_of(7);
    libraries.apply(vec![entry(1, held(&own))]);
    assert!(!reader.has(&own.hash) && libraries.mirror().has(&own.hash));
    // Somebody who names it has not shown it; once the library delivered it, it has a version of its own.
    assert_eq!(reader.consider(&own, true, Some(&held(&own)), true, Some(1)), OfferMeaning::Wanted);
    assert_eq!(reader.consider(&own, false, Some(&held(&own)), true, Some(1)), OfferMeaning::Noted);
    assert!(reader.has(&own.hash) && !reader.serves(&held(&own)), "known, and not delivered");
    assert_eq!(reader.consider(&own, true, Some(&held(&own)), true, Some(1)), OfferMeaning::Wanted);
    assert_eq!(reader.deliver(&own, Some(&held(&own))), OtherwiseHeld::Beside);
    assert!(reader.has(&own.hash) && reader.serves(&held(&own)));
    // What came through it is part of it.
    let came = AssetRecord { via: reader.id(), ..record_of(8) };
    libraries.apply(vec![entry(2, held(&came))]);
    assert_eq!(reader.version(&came.hash, Some(&held(&came))), Some(held(&record_of(8))));
    assert_eq!(reader.summary().bytes, 10);
}

#[test]
fn what_nobody_delivers_keeps_no_content_out_that_a_member_holds() {
    for (in_store, size) in [(false, 5), (false, 500_000), (true, 5), (true, 500_000)] {
        let libraries = libraries();
        let library =
            libraries.add(SharedLibrary::new(kept(1, Access::Read, Filter::default()), HashMap::new()));
        library.filled();
        let own = in_store.then(|| held(&record_of(7)));
        libraries.apply(own.iter().map(|own| entry(1, own.clone())).collect());
        let older = AssetRecord { hlc: record_of(7).hlc.next(5), ..record_of(7) };
        let claimed = AssetRecord { size, hlc: older.hlc.next(10), ..older.clone() };
        assert_eq!(library.consider(&claimed, false, own.as_ref(), true, Some(1)), OfferMeaning::Noted);
        assert_eq!(library.wanted(None, 10), [claimed.hash]);
        // Nothing comes of somebody who has not got it either, and a peer that has it is asked for it.
        assert_eq!(library.consider(&older, false, own.as_ref(), true, Some(1)), OfferMeaning::Known);
        assert_eq!(library.consider(&older, true, own.as_ref(), true, Some(1)), OfferMeaning::Wanted);
        let filled = library.version_filled_by(&older, own.as_ref());
        let fits = size == older.size;
        assert_eq!(filled, fits.then(|| AssetRecord { via: library.id(), ..claimed.clone() }));
        let stored = if in_store {
            assert_eq!(library.deliver(&older, own.as_ref()), OtherwiseHeld::Beside);
            own.clone()
        } else {
            let stored = filled.unwrap_or_else(|| AssetRecord { via: library.id(), ..older.clone() });
            libraries.apply(vec![entry(2, held(&stored))]);
            Some(held(&stored))
        };
        let version = if fits { &claimed } else { &older };
        assert_eq!(library.version(&older.hash, stored.as_ref()), Some(held(version)), "{in_store} {size}");
        assert_eq!(library.wanted(None, 10), []);
        // What is wrong is not believed any more.
        let again = AssetRecord { size: 500_000, hlc: claimed.hlc.next(10), ..claimed.clone() };
        let refused = library.consider(&again, false, stored.as_ref(), true, Some(1));
        assert!(matches!(refused, OfferMeaning::Refused(_)), "{refused:?}");
    }
}

#[test]
fn content_that_comes_from_an_own_machine_settles_what_was_claimed_of_it() {
    let libraries = libraries();
    let library =
        libraries.add(SharedLibrary::new(kept(1, Access::Write, Filter::default()), HashMap::new()));
    library.filled();
    for (n, size, fits) in [(1, 5, true), (2, 6, false)] {
        let came = AssetRecord { via: library.id(), ..record_of(n) };
        let claimed = AssetRecord { size, hlc: came.hlc.next(10), ..record_of(n) };
        assert_eq!(library.consider(&claimed, false, None, true, Some(1)), OfferMeaning::Noted);
        libraries.apply(vec![entry(u64::from(n), held(&came))]);
        let version = library.version(&came.hash, Some(&held(&came)));
        assert_eq!(version, Some(held(&if fits { claimed } else { record_of(n) })));
        assert!(library.wanted(None, 10).is_empty() && library.serves(&held(&came)));
    }
}

#[test]
fn what_members_delete_or_move_out_reaches_what_is_in_the_library() {
    let libraries = libraries();
    let tags = vec!["in".to_owned()];
    let spec = filter::FilterSpec { tags: Some(tags.clone()), ..filter::FilterSpec::default() };
    let filter = Filter::try_from(spec).unwrap();
    let library = libraries.add(SharedLibrary::new(kept(1, Access::Write, filter), HashMap::new()));
    library.filled();
    let tagged = |n, tags: &[String]| {
        let meta = crate::record::AssetMeta { tags: tags.to_vec(), ..record_of(n).meta };
        AssetRecord { meta, ..record_of(n) }
    };
    let (inside, outside) = (tagged(1, &tags), tagged(2, &[]));
    libraries.apply(vec![entry(1, held(&inside)), entry(2, held(&outside))]);
    let later = |record: &AssetRecord| AssetRecord { hlc: record.hlc.next(10), ..record.clone() };
    let gone = |record: &AssetRecord| AssetRecord { deleted: true, ..later(record) }.for_members();
    let deletion = gone(&inside);
    assert_eq!(
        library.consider(&deletion, true, Some(&held(&inside)), true, Some(1)),
        OfferMeaning::Replaces
    );
    let stored = library.for_store(&deletion, &inside);
    assert_eq!((stored.via, &stored.meta), (library.id(), &inside.meta), "the store keeps what it was");
    // Outside of it, of what was never here, and where nothing is deleted: it is gone from the library alone.
    for (tombstone, stored) in [(gone(&outside), Some(held(&outside))), (gone(&record_of(3)), None)] {
        assert_eq!(library.consider(&tombstone, true, stored.as_ref(), true, Some(1)), OfferMeaning::Noted);
        assert_eq!(library.version(&tombstone.hash, stored.as_ref()), Some(held(&tombstone)));
    }
    assert_eq!(library.consider(&deletion, true, Some(&held(&inside)), false, Some(1)), OfferMeaning::Noted);
    assert!(!library.serves(&held(&inside)));
    // What the filter does not match is nothing to offer.
    let refused = library.consider(&tagged(4, &[]), true, None, true, Some(1));
    assert!(matches!(refused, OfferMeaning::Refused(_)), "{refused:?}");
    // An edit of ours brings it back; one that moves it out says that it left, and nothing else.
    let edited = later(&later(&inside));
    libraries.apply(vec![entry(3, held(&edited))]);
    assert!(library.serves(&held(&edited)));
    let news = library.take_aside_news().unwritten;
    assert!(news.contains(&(inside.hash, None)), "{news:?}");
    let moved = AssetRecord { meta: outside.meta, ..later(&edited) };
    libraries.apply(vec![entry(4, held(&moved))]);
    let left = AssetRecord { deleted: true, left: true, ..moved.clone() }.for_members();
    assert_eq!(library.version(&moved.hash, Some(&held(&moved))), Some(held(&left)));
    assert_eq!(library.take_aside_news().changed, [Aside::of_own(left, Holding::Unwanted)]);
}

#[test]
fn what_a_folder_keeps_of_what_a_library_deleted_is_in_no_library() {
    let libraries = libraries();
    let add =
        |n| libraries.add(SharedLibrary::new(kept(n, Access::Write, Filter::default()), HashMap::new()));
    let (deleting, other, reader) = (
        add(1),
        add(2),
        libraries.add(SharedLibrary::new(kept(3, Access::Read, Filter::default()), HashMap::new())),
    );
    for library in [&deleting, &other, &reader] {
        library.filled();
    }
    for via in [None, deleting.id()] {
        let n = 5 + u8::from(via.is_some());
        let mine = AssetRecord { via, ..record_of(n) };
        libraries.apply(vec![entry(u64::from(n), held(&mine))]);
        assert!(deleting.has(&mine.hash));
        let deletion = AssetRecord { deleted: true, hlc: mine.hlc.next(10), ..record_of(n) }.for_members();
        let again = mine.reasserted(deletion.hlc).outside_libraries();
        libraries.keep_versions(&held(&mine), &again);
        libraries.apply(vec![entry(u64::from(10 + n), held(&again))]);
        deleting.note_deleted(&deletion, &held(&again));
        let of_deleting = deleting.version(&mine.hash, Some(&held(&again))).map(|version| version.record);
        assert_eq!(of_deleting, Some(deletion), "rid of it");
        assert!(!deleting.serves(&held(&again)) && !reader.has(&mine.hash));
        // What was in the other one stays there as it was; what was not does not come into it.
        let of_other = other.version(&mine.hash, Some(&held(&again)));
        assert_eq!(of_other, via.is_none().then(|| held(&record_of(n))));
        assert!(libraries.mirror().has(&mine.hash) && again.is_own());
    }
}

/// What users of this node made of what was there.
fn changed(seq: u64, record: &AssetRecord, former: &AssetRecord) -> FeedEntry {
    FeedEntry { formers: vec![former.clone()], ..entry(seq, held(record)) }
}

#[test]
fn what_a_reader_edits_stays_in_the_library_as_it_was_delivered() {
    let libraries = libraries();
    let library = libraries.add(SharedLibrary::new(kept(1, Access::Read, Filter::default()), HashMap::new()));
    library.filled();
    let came = AssetRecord { via: library.id(), ..record_of(7) };
    libraries.apply(vec![entry(1, held(&came))]);
    let before = library.summary();
    let edited = AssetRecord { hlc: came.hlc.next(10), via: None, ..came.clone() };
    libraries.apply(vec![changed(2, &edited, &came)]);
    assert_eq!(library.summary(), before);
    assert!(library.serves(&held(&edited)));
    assert_eq!(
        library.consider(&record_of(7), true, Some(&held(&edited)), true, Some(1)),
        OfferMeaning::Known
    );
    // What the reader put itself was never part of it, whatever it was before.
    let own = record_of(8);
    let again = AssetRecord { hlc: own.hlc.next(10), ..own.clone() };
    libraries.apply(vec![entry(3, held(&own)), changed(4, &again, &own)]);
    assert!(!library.has(&own.hash));
}

#[test]
fn what_moved_out_is_told_by_the_next_life_of_the_process_and_nothing_that_was_never_in() {
    let tags = vec!["in".to_owned()];
    let filter = || {
        let spec = filter::FilterSpec { tags: Some(tags.clone()), ..filter::FilterSpec::default() };
        Filter::try_from(spec).unwrap()
    };
    let tagged = |n, at_ms, tags: &[String]| {
        let meta = crate::record::AssetMeta { tags: tags.to_vec(), ..record_of(n).meta };
        AssetRecord { meta, hlc: Hlc::from_ms(at_ms), ..record_of(n) }
    };
    // Into a library that is read in, or follows the feed for the first time.
    for reads in [false, true] {
        let libraries = libraries();
        let kept = Kept { sharing: Sharing::agreed(0, 1_000), ..kept(1, Access::Write, filter()) };
        let library = libraries.add(SharedLibrary::new(kept, HashMap::new()));
        let was_in = changed(3, &tagged(1, 1_500, &[]), &tagged(1, 1_200, &tags));
        let never_in = changed(4, &tagged(2, 1_500, &[]), &tagged(2, 1_200, &[]));
        let before_it = changed(5, &tagged(3, 900, &[]), &tagged(3, 800, &tags));
        let other = AssetRecord { via: Some(LibraryId([9; 32])), ..tagged(4, 1_200, &tags) };
        let of_another = changed(6, &tagged(4, 1_500, &[]), &other);
        let entries = vec![was_in, never_in, before_it, of_another];
        if reads {
            library.fill(&entries);
        } else {
            libraries.apply(entries);
        }
        library.filled();
        let left = AssetRecord { deleted: true, left: true, ..tagged(1, 1_500, &[]) }.for_members();
        assert_eq!(library.hashes(), [left.hash]);
        let stored = held(&tagged(1, 1_500, &[]));
        assert_eq!(library.version(&left.hash, Some(&stored)), Some(held(&left)));
        assert_eq!(library.take_aside_news().changed.len(), 1);
    }
}

#[test]
fn what_was_deleted_long_ago_leaves_the_tree_as_well() {
    let libraries = libraries();
    let library =
        libraries.add(SharedLibrary::new(kept(1, Access::Write, Filter::default()), HashMap::new()));
    library.filled();
    let gone =
        |n, at_ms| AssetRecord { deleted: true, hlc: Hlc::from_ms(at_ms), ..record_of(n) }.for_members();
    let (old, new) = (gone(1, 1_000), gone(2, 2_000));
    for tombstone in [&old, &new] {
        assert_eq!(library.consider(tombstone, true, None, false, Some(1)), OfferMeaning::Noted);
    }
    library.wrote_asides(&library.take_aside_news().unwritten);
    assert_eq!(library.old_asides(vec![old.hash, new.hash], 2_000), [old.hash]);
    library.purge_asides(&[old.hash, new.hash], &HashSet::new(), 2_000);
    assert!(!library.has(&old.hash) && library.has(&new.hash));
    assert!(library.take_aside_news().unwritten.contains(&(old.hash, None)));
    // What is here does not come back into the library, neither by itself nor when it changes its holding.
    let mine = AssetRecord { hlc: Hlc::from_ms(500), ..record_of(3) };
    libraries.apply(vec![entry(1, held(&mine))]);
    let gone = gone(3, 1_000);
    assert_eq!(library.consider(&gone, true, Some(&held(&mine)), false, Some(1)), OfferMeaning::Noted);
    library.purge_asides(&[mine.hash], &HashSet::from([mine.hash]), 2_000);
    let asides = library.asides();
    let next = libraries.add(SharedLibrary::new(kept(1, Access::Write, Filter::default()), asides));
    for library in [&library, &next] {
        library.apply(vec![entry(2, held(&mine))]);
        assert!(!library.has(&mine.hash) && !library.serves(&held(&mine)));
        assert_eq!(
            library.consider(&mine.for_members(), true, Some(&held(&mine)), true, Some(1)),
            OfferMeaning::Known
        );
        // A member that has it yet did not hear of its end, and hears of it now.
        assert!(library.has(&mine.hash) && !library.asides()[&mine.hash].is_forgotten);
        assert!(library.take_aside_news().changed.iter().any(|aside| aside.record == gone));
    }
    // Another life of the library writes down what this one did not.
    let next = libraries.add(SharedLibrary::new(kept(1, Access::Write, Filter::default()), library.asides()));
    assert_eq!(next.take_aside_news().unwritten, []);
    next.take_over_asides(&library);
    assert_eq!(next.take_aside_news().unwritten.len(), 2);
}

#[test]
fn another_library_has_other_ids_of_the_same_record() {
    let libraries = libraries();
    let one = libraries.add(SharedLibrary::new(kept(1, Access::Write, Filter::default()), HashMap::new()));
    let two = libraries.add(SharedLibrary::new(kept(2, Access::Write, Filter::default()), HashMap::new()));
    let record = AssetRecord::new(ContentHash([7; 32]), 5, None, crate::record::AssetMeta::default());
    libraries.apply(vec![FeedEntry { seq: 1, record, holding: Holding::Held, formers: Vec::new() }]);
    let summaries = [one.summary(), two.summary(), libraries.mirror().summary()];
    let distinct: BTreeSet<_> = summaries.iter().map(|summary| summary.fingerprint).collect();
    assert_eq!(distinct.len(), 3);
    assert!(libraries.take(one.id().unwrap()) && libraries.get(one.id().unwrap()).is_none());
}

#[test]
fn the_mirror_counts_what_the_store_says_and_other_libraries_what_they_have() {
    let libraries = libraries();
    let library =
        libraries.add(SharedLibrary::new(kept(1, Access::Write, Filter::default()), HashMap::new()));
    assert!(library.is_filling() && !libraries.mirror().is_filling());
    library.filled();
    assert!(!library.is_filling());
    let absent = StoredRecord { record: record_of(2), holding: Holding::Wanted };
    libraries.apply(vec![entry(1, held(&record_of(1))), entry(2, absent)]);
    let (assets, assets_held, bytes_held, keeps_entries) = (7, 5, 50, true);
    libraries.set_store_status(StoreStatus {
        assets,
        assets_held,
        bytes_held,
        keeps_entries,
        ..StoreStatus::default()
    });
    let (mirrors, theirs) = (libraries.mirror().summary(), library.summary());
    assert_eq!((mirrors.count, mirrors.assets, mirrors.bytes), (2, assets_held, bytes_held));
    assert_eq!((theirs.count, theirs.assets, theirs.bytes), (2, 1, 5));
    assert_eq!((mirrors.entries.is_some(), theirs.entries), (true, None));
    assert_eq!((libraries.mirror().live_assets(), library.live_assets()), (assets, 1));
    libraries.set_cursor(9);
    assert_eq!(*library.cursor().borrow(), Some(9));
    let rid = |n| record_of(n).id(library.keys().record().expose());
    let known = vec![(rid(1), record_of(1).hash)];
    assert_eq!(library.resolve(&[rid(1), rid(3)]), (known, vec![rid(3)]), "the store has none of the other");
}
