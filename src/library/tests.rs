use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::filter::Filter;
use super::registry::Kept;
use super::ticket::{Access, Subject, Terms, Ticket};
use super::*;
use crate::identity::LibraryKeys;
use crate::store::Holding;

fn kept(n: u8, access: Access, filter: Filter) -> Kept {
    let key = SigningKey::from_bytes(&[n; 32]);
    let terms = Terms {
        name: format!("library {n}"),
        access,
        subject: Subject::Bearer,
        not_before_ms: 0,
        expires_ms: None,
        uses: 0,
        serial: 0,
        epoch: 0,
        held: (0, 0),
    };
    let ticket = Ticket::issue(&key, terms, Zeroizing::new([n; 32]), filter, Vec::new()).unwrap();
    Kept { key: None, ticket, created_ms: 0, revocations: None }
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
    FeedEntry { seq, record, holding }
}

/// What the index must be, from all records of the store.
fn expected(library: &Library, store: &Store) -> (BTreeSet<RecordId>, u64, u64) {
    let key = library.keys().record().expose();
    let inside: Vec<&StoredRecord> = store.values().filter(|stored| library.holds(&stored.record)).collect();
    let held = || inside.iter().filter(|stored| stored.holding.is_held());
    let ids = inside.iter().map(|stored| stored.record.id(key)).collect();
    (ids, held().count() as u64, held().map(|stored| stored.record.size).sum())
}

fn check(library: &Library, store: &Store) -> Result<(), TestCaseError> {
    let (ids, assets, bytes) = expected(library, store);
    let inside = || store.values().filter(|stored| library.holds(&stored.record));
    let wanted = inside().filter(|stored| stored.holding == Holding::Wanted).map(|stored| stored.record.hash);
    let wanted: Vec<ContentHash> = wanted.collect();
    let absent = inside().filter(|stored| stored.is_absent()).count();
    prop_assert_eq!(library.absent(), (absent as u64, wanted.len() as u64));
    prop_assert_eq!(&library.wanted(None, usize::MAX), &wanted);
    for n in 0..wanted.len() {
        prop_assert_eq!(&library.wanted(Some(wanted[n]), 3), &wanted[n + 1..wanted.len().min(n + 4)]);
    }
    let found: BTreeSet<RecordId> = library.snapshot().items().map(|item| item.rid).collect();
    prop_assert_eq!(&found, &ids);
    let summary = library.summary();
    prop_assert_eq!(summary.count, ids.len() as u64);
    let mut fresh = ItemTree::new();
    for stored in inside() {
        fresh.upsert(library.item(&stored.record));
        prop_assert!(library.has(&stored.record.hash));
    }
    prop_assert_eq!(summary.fingerprint, fresh.fingerprint());
    if library.shared().is_some() {
        prop_assert_eq!((summary.assets, summary.bytes), (assets, bytes));
    }
    Ok(())
}

/// What happens to the store: an edit, or a record that it loses.
#[derive(Clone, Debug)]
enum Change {
    Edit(Box<StoredRecord>),
    Lose(u8),
    /// A reader's library takes note that this came through it.
    Receive(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => stored().prop_map(|stored| Change::Edit(Box::new(stored))),
        1 => (0..12_u8).prop_map(Change::Lose),
        2 => (0..12_u8).prop_map(Change::Receive),
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
            libraries.add(Shared::new(kept(n, access, filter), HashMap::new())).filled();
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
                Change::Receive(n) => {
                    for library in libraries.shared() {
                        let hash = ContentHash([n; 32]);
                        library.shared().unwrap().receive(vec![(hash, false)]);
                        // As the session does: what is here already takes its place at once.
                        if let Some(record) = store.get(&hash) {
                            library.take_in(std::slice::from_ref(record));
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
        let library = libraries.add(Shared::new(kept(1, Access::Write, filter), HashMap::new()));
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
fn peers_hear_of_contents_that_come_and_not_of_those_that_go() {
    let libraries = libraries();
    let record = AssetRecord::new(ContentHash([7; 32]), 5, None, crate::record::AssetMeta::default());
    let told = |holding| {
        let told = libraries.apply(vec![FeedEntry { seq: 1, record: record.clone(), holding }]);
        told.into_iter().map(|entry| entry.holding).collect::<Vec<_>>()
    };
    assert_eq!(told(Holding::Held), [Holding::Held], "new");
    let fingerprint = libraries.mirror().summary().fingerprint;
    assert_eq!(told(Holding::Held), []);
    assert_eq!(told(Holding::Unwanted), []);
    assert_eq!(told(Holding::Wanted), []);
    assert_eq!(told(Holding::Held), [Holding::Held], "somebody may wait for it");
    assert_eq!(libraries.mirror().summary().fingerprint, fingerprint);
}

#[test]
fn a_readers_own_assets_are_no_part_of_the_library() {
    let libraries = libraries();
    let reader = libraries.add(Shared::new(kept(1, Access::Read, Filter::default()), HashMap::new()));
    let record = AssetRecord::new(ContentHash([7; 32]), 5, None, crate::record::AssetMeta::default());
    let entry = FeedEntry { seq: 1, record, holding: Holding::Held };
    libraries.apply(vec![entry.clone()]);
    assert!(!reader.has(&entry.record.hash) && libraries.mirror().has(&entry.record.hash));
    let coming = vec![(entry.record.hash, true)];
    assert_eq!(reader.shared().unwrap().receive(coming.clone()), coming);
    assert!(reader.shared().unwrap().receive(coming).is_empty(), "known");
    libraries.apply(vec![entry.clone()]);
    assert!(reader.has(&entry.record.hash));
    assert_eq!(reader.summary().bytes, 5);
}

#[test]
fn another_library_has_other_ids_of_the_same_record() {
    let libraries = libraries();
    let one = libraries.add(Shared::new(kept(1, Access::Write, Filter::default()), HashMap::new()));
    let two = libraries.add(Shared::new(kept(2, Access::Write, Filter::default()), HashMap::new()));
    let record = AssetRecord::new(ContentHash([7; 32]), 5, None, crate::record::AssetMeta::default());
    libraries.apply(vec![FeedEntry { seq: 1, record, holding: Holding::Held }]);
    let summaries = [one.summary(), two.summary(), libraries.mirror().summary()];
    let distinct: BTreeSet<_> = summaries.iter().map(|summary| summary.fingerprint).collect();
    assert_eq!(distinct.len(), 3);
    assert!(libraries.take(one.id().unwrap()) && libraries.get(one.id().unwrap()).is_none());
}
