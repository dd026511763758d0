use super::super::filter::FilterSpec;
use super::pins::{PINNED_FILTERS_MAX, PINNED_HASHES_MAX};
use super::room::RESERVED_AT_LEAST;
use super::*;
use crate::record::AssetMeta;

fn tagged(n: u8, tag: &str) -> AssetRecord {
    let meta = AssetMeta { tags: vec![tag.to_owned()], ..AssetMeta::default() };
    AssetRecord::new(ContentHash([n; 32]), 10, None, meta)
}

fn filter(tag: &str) -> Filter {
    Filter::try_from(FilterSpec { tags: Some(vec![tag.to_owned()]), ..FilterSpec::default() }).unwrap()
}

fn pins(hashes: &[u8], tags: &[&str]) -> Pins {
    Pins {
        hashes: hashes.iter().map(|n| ContentHash([*n; 32])).collect(),
        filters: tags.iter().map(|tag| filter(tag)).collect(),
    }
}

#[test]
fn the_rule_decides_and_exceptions_add_to_it() {
    let rules = HoldRules::new(HoldRule::Matching(filter("work")));
    assert!(rules.wants(&tagged(1, "work")) && !rules.wants(&tagged(2, "play")));
    let added = |pins: &Pins| rules.pin(pins).map(|new| new.count());
    assert_eq!(added(&pins(&[2, 2, 3], &["sea", "sea"])), Ok(3));
    assert_eq!(added(&pins(&[2], &["sea"])), Ok(0), "it is pinned already");
    assert_eq!(added(&pins(&[], &["SEA"])), Ok(0), "tags have no case");
    assert_eq!(rules.as_pinned(pins(&[2], &["Sea", "none"])), pins(&[2], &["sea"]));
    // What could not be written down takes back no more than it added.
    let new = rules.pin(&pins(&[2, 9], &["sea"])).unwrap();
    assert_eq!(new, pins(&[9], &[]));
    rules.unpin(&new);
    assert!(rules.wants(&tagged(2, "play")) && rules.wants(&tagged(9, "sea")));
    assert_eq!(rules.unpin(&pins(&[2, 7], &["sea", "lake"])), 2);
    assert!(!rules.wants(&tagged(2, "play")) && !rules.wants(&tagged(9, "sea")));
    assert_eq!(rules.pins(), pins(&[3], &[]));
    assert!(rules.set_shared(vec![filter("shared")]) && !rules.set_shared(vec![filter("shared")]));
    assert!(rules.wants(&tagged(4, "shared")));
}

#[test]
fn what_is_held_besides_is_told_and_comes_back_with_the_process() {
    let rules = HoldRules::new(HoldRule::Matching(filter("work")));
    rules.restore(KeptPins { pins: pins(&[1, 2], &["sea"]), wished: vec![ContentHash([9; 32])] });
    assert_eq!((rules.pins(), rules.pinned()), (pins(&[1, 2], &["sea"]), (2, 1)));
    assert!(rules.wants(&tagged(9, "play")), "somebody asked for it");
    for (record, is_pinned) in
        [(tagged(1, "play"), true), (tagged(3, "sea"), true), (tagged(3, "work"), false)]
    {
        assert_eq!(rules.is_pinned(&record), is_pinned, "{record:?}");
    }
    rules.set_shared(vec![filter("shared")]);
    assert!(rules.is_shared(&tagged(3, "shared")) && !rules.is_shared(&tagged(3, "sea")));
    assert_eq!(rules.unpin(&pins(&[2], &[])), 1, "the filter stays");
    assert_eq!(*rules.rule(), HoldRule::Matching(filter("work")));
}

#[test]
fn nothing_waits_any_more_for_what_is_here() {
    let waits: [fn(&HoldRules, ContentHash); 5] = [
        |rules, hash| assert!(rules.wish(hash)),
        |rules, hash| assert!(rules.change().needed.insert(hash)),
        |rules, hash| rules.note_wanted_again(&[hash]),
        |rules, hash| assert!(!rules.reserve(hash, 9, Some(1))),
        |rules, hash| assert!(rules.reserve(hash, 1, Some(9))),
    ];
    let hash = ContentHash([1; 32]);
    for wait in waits {
        let rules = HoldRules::new(HoldRule::Nothing);
        wait(&rules, hash);
        rules.settle(&hash);
        let HoldExceptions { wished, needed, wanted_again, no_room, reserved, reserved_bytes, .. } =
            &*rules.exceptions.read();
        assert!(wished.is_empty() && needed.is_empty() && wanted_again.is_empty());
        assert!(no_room.is_empty() && reserved.is_empty() && *reserved_bytes == 0);
    }
}

#[test]
fn room_is_kept_as_long_as_somebody_is_asked() {
    let rules = HoldRules::default();
    let [asked, other] = [1, 2].map(|n| ContentHash([n; 32]));
    assert!(rules.reserve(asked, 60, Some(100)) && rules.reserve(other, 40, Some(100)));
    for reserved in rules.change().reserved.values_mut() {
        reserved.since -= RESERVED_AT_LEAST;
    }
    rules.give_back(|hash| *hash == asked);
    let third = ContentHash([3; 32]);
    assert!(!rules.reserve(third, 41, Some(100)) && rules.reserve(third, 40, Some(100)));
}

#[test]
fn what_was_here_before_is_wanted_whatever_the_rule_says() {
    let rules = HoldRules::new(HoldRule::Nothing);
    let never = tagged(1, "work");
    let lost = AssetRecord { blake3: Some([1; 32]), ..never.clone() };
    assert_eq!(rules.applied(&never, Holding::Wanted), Holding::Unwanted);
    assert_eq!(rules.applied(&lost, Holding::Wanted), Holding::Wanted);
    assert_eq!(rules.applied(&lost, Holding::Unwanted), Holding::Unwanted, "a user let go of it");
    assert_eq!(rules.applied(&never, Holding::Held), Holding::Held);
    let stored = |record: &AssetRecord| StoredRecord { record: record.clone(), holding: Holding::Wanted };
    assert!(!rules.wants_offered(&lost, None), "a peer says of it what it likes");
    assert!(rules.wants_offered(&never, Some(&stored(&lost))));
    assert!(rules.leaves_out(&stored(&never)) && !rules.leaves_out(&stored(&lost)));
}

#[test]
fn the_version_that_stays_decides() {
    let rules = HoldRules::new(HoldRule::Matching(filter("work")));
    let (older, mut newer) = (tagged(1, "play"), tagged(1, "work"));
    newer.hlc = older.hlc.next(older.hlc.ms() + 1_000);
    let stored = |record: &AssetRecord| StoredRecord { record: record.clone(), holding: Holding::Wanted };
    assert!(rules.wants_offered(&newer, Some(&stored(&older))));
    assert!(rules.wants_offered(&older, Some(&stored(&newer))));
    let (older, mut newer) = (tagged(1, "work"), tagged(1, "play"));
    newer.hlc = older.hlc.next(older.hlc.ms() + 1_000);
    assert!(!rules.wants_offered(&newer, Some(&stored(&older))));
    assert!(!rules.wants_offered(&older, Some(&stored(&newer))));
}

#[test]
fn wishes_end_when_they_come_true() {
    let rules = HoldRules::new(HoldRule::Nothing);
    let record = tagged(1, "work");
    assert!(rules.wish(record.hash) && !rules.wish(record.hash));
    assert!(!HoldRules::default().wish(record.hash), "all is held in any case");
    assert!(rules.wants(&record));
    rules.settle(&record.hash);
    assert!(!rules.wants(&record));
    assert_eq!(rules.take_fulfilled(), [record.hash]);
    assert_eq!(rules.take_fulfilled(), []);
}

#[test]
fn room_is_kept_for_what_is_on_its_way_and_given_back() {
    let rules = HoldRules::default();
    let hash = |n: u8| ContentHash([n; 32]);
    assert!(rules.reserve(hash(9), u64::MAX, None), "there is no quota");
    assert!(rules.reserve(hash(1), 60, Some(100)));
    assert!(rules.reserve(hash(1), 60, Some(100)), "the same once more");
    assert!(!rules.reserve(hash(2), 50, Some(100)) && rules.reserve(hash(3), 40, Some(100)));
    assert!(!rules.reserve(hash(4), 1, Some(100)));
    assert_eq!(rules.without_room(), (2, 51));
    assert_eq!(rules.applied(&tagged(2, "any"), Holding::Wanted), Holding::Unwanted);
    assert_eq!(rules.take_fitting(Some(100)), [], "all of it is kept for others");
    // One came: what it took is in the store's count.
    rules.settle(&hash(1));
    assert_eq!(rules.take_fitting(Some(40)), []);
    assert_eq!(rules.take_fitting(Some(41)), [hash(4)], "the smallest first");
    assert_eq!(rules.applied(&tagged(4, "any"), Holding::Wanted), Holding::Wanted);
    assert_eq!(rules.take_fitting(None), [hash(2)]);
    assert_eq!(rules.without_room(), (0, 0));
    rules.give_back(|_| false);
    assert!(!rules.reserve(hash(5), 61, Some(100)), "it is young");
    assert_eq!(rules.without_room(), (1, 61));
    rules.let_be(&tagged(5, "any"), Holding::Wanted);
    assert_eq!(rules.without_room(), (1, 61), "it is still wanted");
    rules.let_be(&tagged(5, "any"), Holding::Unwanted);
    assert_eq!(rules.without_room(), (0, 0));
}

#[test]
fn there_is_a_limit_to_pins() {
    let rules = HoldRules::new(HoldRule::Nothing);
    let many: Vec<Filter> = (0..=PINNED_FILTERS_MAX).map(|n| filter(&format!("tag{n}"))).collect();
    let pins = |filters: &[Filter]| Pins { hashes: Vec::new(), filters: filters.to_vec() };
    assert_eq!(rules.pin(&pins(&many)), Err(TooManyPins));
    assert_eq!(rules.pin(&pins(&many[1..])).map(|new| new.count()), Ok(PINNED_FILTERS_MAX));
    assert_eq!(rules.pin(&pins(&many[..1])), Err(TooManyPins));
    let hash = |n: usize| ContentHash(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let pins =
        |numbers: std::ops::Range<usize>| Pins { hashes: numbers.map(hash).collect(), filters: Vec::new() };
    assert_eq!(rules.pin(&pins(0..PINNED_HASHES_MAX + 1)), Err(TooManyPins));
    assert_eq!(rules.pin(&pins(1..PINNED_HASHES_MAX + 1)).map(|new| new.count()), Ok(PINNED_HASHES_MAX));
    assert_eq!(rules.pin(&pins(0..1)), Err(TooManyPins));
    // As many as may be asked for and do not come.
    assert_eq!((0..WISHED_MAX + 5).filter(|n| rules.wish(hash(*n))).count(), WISHED_MAX);
}
