use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::reconcile::oracle::{self, Numbers, item};

/// Everything that the tree promises itself.
fn check(tree: &ItemTree) {
    let mut last = None;
    let mut items = Vec::new();
    for leaf in &tree.leaves {
        let chunk = tree.chunk(leaf.chunk);
        let held = chunk.items();
        assert!((1..=ITEMS_MAX).contains(&held.len()), "a chunk of {}", held.len());
        assert_eq!(leaf.first, held[0].key());
        assert_eq!(chunk.sum(), IdSum::of(held.iter().map(|item| &item.rid)));
        for item in held {
            assert!(last < Some(item.key()), "out of order");
            last = Some(item.key());
            let at = held.iter().position(|other| other == item).unwrap();
            assert!(tree.spot_of_hash(&item.hash) == Some(Spot { chunk: leaf.chunk, at }), "lost by hash");
            assert!(tree.spot_of_rid(&item.rid) == Some(Spot { chunk: leaf.chunk, at }), "lost by id");
        }
        items.extend_from_slice(held);
    }
    assert_eq!(tree.len(), items.len());
    assert_eq!(tree.leaves.len() + tree.free.len(), tree.chunks.len());
    assert!(tree.free.iter().all(|chunk| tree.chunk(*chunk).items().is_empty()));
    let ids: Vec<RecordId> = items.iter().map(|item| item.rid).collect();
    assert_eq!(tree.fingerprint(), oracle::fingerprint(&ids));
}

fn sorted(model: &BTreeMap<ContentHash, Item>) -> Vec<Item> {
    let mut items: Vec<Item> = model.values().copied().collect();
    items.sort_unstable_by_key(Item::key);
    items
}

#[derive(Clone, Debug)]
enum Change {
    /// New versions of `count` contents from number `from` on, `apart` apart in time.
    Upsert {
        from: u16,
        count: u16,
        clock: u16,
        apart: u16,
    },
    Remove {
        from: u16,
        count: u16,
    },
    Hold,
    Release,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..2_000u16, 1..500u16, 0..5_000u16, 0..20u16)
            .prop_map(|(from, count, clock, apart)| Change::Upsert { from, count, clock, apart }),
        4 => (0..2_000u16, 1..700u16).prop_map(|(from, count)| Change::Remove { from, count }),
        2 => Just(Change::Hold),
        1 => Just(Change::Release),
    ]
}

/// Content `number`, spread so that neighbours in number are not neighbours in hash.
fn content(number: u16) -> ContentHash {
    ContentHash(Numbers(u64::from(number) << 32).id())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn behaves_like_a_map_and_snapshots_stay_as_they_were(changes in prop::collection::vec(change(), 1..24)) {
        let mut tree = ItemTree::new();
        let mut model: BTreeMap<ContentHash, Item> = BTreeMap::new();
        let mut held: Vec<(Snapshot, Vec<Item>)> = Vec::new();
        let mut ids = Numbers(1);
        for change in changes {
            match change {
                Change::Upsert { from, count, clock, apart } => {
                    for i in 0..count {
                        let hash = content((from + i) % 2_000);
                        let hlc = Hlc(u64::from(clock) + u64::from(i) * u64::from(apart));
                        let new = Item { hlc, rid: RecordId(ids.id()), hash };
                        prop_assert_eq!(tree.upsert(new), model.insert(hash, new));
                        prop_assert_eq!(tree.upsert(new), Some(new), "again, to no effect");
                    }
                }
                Change::Remove { from, count } => {
                    for i in 0..count {
                        let hash = content((from + i) % 2_000);
                        prop_assert_eq!(tree.remove(&hash), model.remove(&hash));
                    }
                }
                Change::Hold => held.push((tree.snapshot(), sorted(&model))),
                Change::Release => drop(held.pop()),
            }
            prop_assert_eq!(tree.len(), model.len());
        }
        check(&tree);
        for number in 0..2_000 {
            let hash = content(number);
            let expected = model.get(&hash).copied();
            prop_assert_eq!(tree.get(&hash), expected);
            prop_assert!(expected.is_none_or(|item| tree.find_rid(&item.rid) == Some(item)));
        }
        held.push((tree.snapshot(), sorted(&model)));
        for (snapshot, expected) in held {
            let items: Vec<Item> = snapshot.items().copied().collect();
            prop_assert_eq!(snapshot.len(), expected.len());
            prop_assert!(items == expected, "a snapshot has changed");
        }
    }

    #[test]
    fn ranges_of_a_snapshot_agree_with_a_plain_list(
        seed: u64,
        count in 0..2_000u64,
        clocks in 1..3_000u64,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
    ) {
        let mut numbers = Numbers(seed);
        let items = (0..count).map(|_| item(numbers.below(clocks), numbers.id())).collect();
        let tree = ItemTree::from_unsorted(items);
        check(&tree);
        let snapshot = tree.snapshot();
        let items: Vec<Item> = snapshot.items().copied().collect();
        prop_assert!(items.is_sorted_by_key(Item::key));
        for (a, b) in cuts {
            let (a, b) = (a.index(items.len() + 1), b.index(items.len() + 1));
            let (a, b) = (a.min(b), a.max(b));
            let ids: Vec<RecordId> = items[a..b].iter().map(|item| item.rid).collect();
            prop_assert_eq!(snapshot.fingerprint_of(a..b), oracle::fingerprint(&ids));
            prop_assert!(snapshot.items_of(a..b).eq(&items[a..b]));
            if let Some(item) = items.get(a) {
                prop_assert_eq!(snapshot.item(a), item);
                prop_assert_eq!(snapshot.lower_bound(&item.key()), a);
                prop_assert_eq!(snapshot.find(item.hlc, &item.rid), Some(*item));
                prop_assert_eq!(snapshot.find(Hlc(clocks), &item.rid), None);
            }
            let between = (Hlc(numbers.below(clocks + 1)), RecordId(numbers.id()));
            let expected = items.iter().filter(|item| item.key() < between).count();
            prop_assert_eq!(snapshot.lower_bound(&between), expected);
        }
    }
}

#[test]
fn empty() {
    let mut tree = ItemTree::new();
    check(&tree);
    assert!(tree.is_empty() && tree.snapshot().is_empty());
    assert_eq!(tree.fingerprint(), tree.snapshot().fingerprint());
    assert_eq!(tree.remove(&ContentHash([1; 32])), None);
    assert_eq!(tree.snapshot().items().count(), 0);
    assert_eq!(tree.snapshot().find(Hlc(0), &RecordId([0; 32])), None);
}

#[test]
fn a_content_and_an_id_occur_once() {
    let a = item(1, [1; 32]);
    let newer = Item { hlc: Hlc(2), rid: RecordId([2; 32]), ..a };
    let same_id = Item { hlc: Hlc(3), rid: RecordId([2; 32]), hash: ContentHash([9; 32]) };
    for items in [vec![a, newer], vec![newer, a]] {
        let tree = ItemTree::from_unsorted(items);
        check(&tree);
        assert_eq!((tree.len(), tree.get(&a.hash)), (1, Some(newer)));
    }
    let mut tree = ItemTree::from_sorted(vec![newer, same_id]);
    check(&tree);
    assert_eq!((tree.len(), tree.find_rid(&same_id.rid)), (1, Some(same_id)));
    assert_eq!(tree.upsert(newer), None);
    assert_eq!((tree.len(), tree.get(&same_id.hash)), (1, None));
}

#[test]
fn what_the_wire_cannot_name_is_not_held() {
    let endless = item(u64::MAX, [1; 32]);
    let last = item(u64::MAX - 1, [2; 32]);
    let tree = ItemTree::from_sorted(vec![last, endless]);
    assert_eq!((tree.len(), tree.get(&endless.hash), tree.get(&last.hash)), (1, None, Some(last)));
}

#[test]
fn an_unsorted_list_is_sorted_whatever_the_caller_says() {
    let mut numbers = Numbers(3);
    let items: Vec<Item> = (0..2_000).map(|_| item(numbers.below(100), numbers.id())).collect();
    let tree = ItemTree::from_sorted(items.clone());
    check(&tree);
    assert_eq!(tree.fingerprint(), ItemTree::from_unsorted(items).fingerprint());
}

#[test]
fn chunks_stay_full_when_items_come_in_order_and_join_when_they_go() {
    let mut numbers = Numbers(4);
    let items: Vec<Item> = (0..50_000).map(|hlc| item(hlc, numbers.id())).collect();
    let mut tree = ItemTree::new();
    for item in &items {
        tree.upsert(*item);
    }
    check(&tree);
    assert_eq!(tree.leaves.len(), items.len().div_ceil(ITEMS_MAX));
    for item in items.iter().filter(|item| item.hlc.0 % 100 != 0) {
        assert_eq!(tree.remove(&item.hash), Some(*item));
    }
    check(&tree);
    assert!(tree.leaves.len() <= 8, "{} chunks for {} items", tree.leaves.len(), tree.len());
}

#[test]
fn a_change_copies_one_chunk_and_only_while_it_is_shared() {
    let mut numbers = Numbers(5);
    let items = (0..5_000).map(|hlc| item(hlc * 2, numbers.id())).collect();
    let mut tree = ItemTree::from_sorted(items);
    let addresses = |tree: &ItemTree| -> Vec<*const TreeChunk> {
        tree.leaves.iter().map(|leaf| Arc::as_ptr(tree.chunk(leaf.chunk))).collect()
    };
    let changed = |before: &[*const TreeChunk], tree: &ItemTree| {
        addresses(tree).iter().zip(before).filter(|(now, then)| now != then).count()
    };
    let before = addresses(&tree);
    tree.upsert(item(5_001, numbers.id()));
    assert_eq!(changed(&before, &tree), 0, "nobody else holds it");
    let snapshot = tree.snapshot();
    tree.upsert(item(5_003, numbers.id()));
    tree.upsert(item(5_005, numbers.id()));
    assert_eq!(changed(&before, &tree), 1);
    assert_eq!(snapshot.len() + 2, tree.len());
}
