//! Our comparison of sets against the `negentropy` crate, as the project that made the protocol tries implementations against each
//! other: by lines of text, with sets by chance, and every limit of a message.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use proptest::prelude::*;

use self::lines::EngineLines;

#[path = "../support/negentropy_lines.rs"]
mod lines;

/// The crate behind the same lines.
struct CrateLines {
    storage: Option<NegentropyStorageVector>,
    limit: u64,
    engine: Option<Negentropy<'static, NegentropyStorageVector>>,
    initiates: bool,
}

impl CrateLines {
    fn new(limit: usize) -> Self {
        let storage = Some(NegentropyStorageVector::new());
        Self { storage, limit: limit as u64, engine: None, initiates: false }
    }

    fn take(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(',').collect();
        let message = |message: &[u8]| format!("msg,{}", HEXLOWER.encode(message));
        match words[..] {
            ["item", timestamp, id] => {
                let id = Id::from_slice(&HEXLOWER.decode(id.as_bytes()).unwrap()).unwrap();
                self.storage.as_mut().unwrap().insert(timestamp.parse().unwrap(), id).unwrap();
                Vec::new()
            }
            ["seal"] => {
                let mut storage = self.storage.take().unwrap();
                storage.seal().unwrap();
                self.engine = Some(Negentropy::owned(storage, self.limit).unwrap());
                Vec::new()
            }
            ["initiate"] => {
                self.initiates = true;
                vec![message(&self.engine.as_mut().unwrap().initiate().unwrap())]
            }
            ["msg", hex] => {
                let engine = self.engine.as_mut().unwrap();
                let said = HEXLOWER.decode(hex.as_bytes()).unwrap();
                if !self.initiates {
                    return vec![message(&engine.reconcile(&said).unwrap())];
                }
                let (mut have, mut need) = (Vec::new(), Vec::new());
                let reply = engine.reconcile_with_ids(&said, &mut have, &mut need).unwrap();
                let named = |kind: &str, id: &Id| format!("{kind},{}", HEXLOWER.encode(&id.to_bytes()));
                let mut lines: Vec<String> = have.iter().map(|id| named("have", id)).collect();
                lines.extend(need.iter().map(|id| named("need", id)));
                lines.push(reply.map_or("done".to_owned(), |reply| message(&reply)));
                lines
            }
            _ => panic!("no such line: {line}"),
        }
    }
}

type Lines<'a> = &'a mut dyn FnMut(&str) -> Vec<String>;

/// What the harness does: tells both sides their items, lets the first begin, and carries messages until it is done.
/// Answers with what the first side found that it has and the other lacks, and the other way round.
fn carry(asks: (Lines<'_>, &Set), answers: (Lines<'_>, &Set)) -> (BTreeSet<String>, BTreeSet<String>) {
    let (asks, set) = asks;
    let (answers, other) = answers;
    for (timestamp, id) in set {
        assert!(asks(&format!("item,{timestamp},{id}")).is_empty());
    }
    for (timestamp, id) in other {
        assert!(answers(&format!("item,{timestamp},{id}")).is_empty());
    }
    asks("seal");
    answers("seal");
    let (mut have, mut need) = (BTreeSet::new(), BTreeSet::new());
    let mut said = asks("initiate");
    for _ in 0..10_000 {
        let last = said.pop().unwrap();
        for line in said {
            match line.split_once(',').unwrap() {
                // A difference may be named again after a message that was cut.
                ("have", id) => drop(have.insert(id.to_owned())),
                ("need", id) => drop(need.insert(id.to_owned())),
                _ => panic!("not expected: {line}"),
            }
        }
        if last == "done" {
            return (have, need);
        }
        let answer = answers(&last);
        assert_eq!(answer.len(), 1, "the other side answers with one message");
        said = asks(&answer[0]);
    }
    panic!("the session does not end");
}

/// Timestamps and ids, in hexadecimal digits.
type Set = BTreeSet<(u64, String)>;

/// `seed` is what differs between cases; `spread` how many share a timestamp: 1 for next to nobody.
fn sets(seed: u64, count: u64, spread: u64, one_in: u64) -> (Set, Set) {
    let (mut one, mut other) = (Set::new(), Set::new());
    for number in 0..count {
        let digest = blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat());
        let chance = u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap());
        let item = (1_677_970_534 + (chance >> 32) % count / spread, digest.to_hex().to_string());
        match chance % (2 * one_in) {
            0 => drop(one.insert(item)),
            1 => drop(other.insert(item)),
            _ => {
                one.insert(item.clone());
                other.insert(item);
            }
        }
    }
    (one, other)
}

/// Every pairing finds exactly what differs.
fn assert_agree(one: &Set, other: &Set, limits: (usize, usize)) {
    let ids = |set: &Set, less: &Set| -> BTreeSet<String> {
        set.difference(less).map(|(_, id)| id.clone()).collect()
    };
    let expected = (ids(one, other), ids(other, one));
    for (ours_asks, ours_answers) in [(true, true), (true, false), (false, true)] {
        let (mut ours, mut oracle) = (EngineLines::new(limits.0), CrateLines::new(limits.0));
        let (mut our_answers, mut oracle_answers) = (EngineLines::new(limits.1), CrateLines::new(limits.1));
        let asks: Lines<'_> =
            if ours_asks { &mut |line| ours.take(line).unwrap() } else { &mut |line| oracle.take(line) };
        let answers: Lines<'_> = if ours_answers {
            &mut |line| our_answers.take(line).unwrap()
        } else {
            &mut |line| oracle_answers.take(line)
        };
        let found = carry((asks, one), (answers, other));
        assert!(found == expected, "ours asks: {ours_asks}, ours answers: {ours_answers}, limits {limits:?}");
    }
}

/// As the reference's own limits: none, the least, an odd one, and one that a message seldom reaches.
const LIMITS: [usize; 4] = [0, 4096, 5003, 60_000];

#[test]
fn ours_and_the_crate_find_the_same_whatever_the_limits() {
    for (case, (count, spread, one_in)) in
        [(0, 1, 1), (1, 1, 1), (40, 40, 2), (3_000, 1, 50), (3_000, 3_000, 2), (6_000, 7, 3)]
            .into_iter()
            .enumerate()
    {
        let (one, other) = sets(case as u64, count, spread, one_in);
        for asks in LIMITS {
            for answers in LIMITS {
                assert_agree(&one, &other, (asks, answers));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn ours_and_the_crate_find_the_same_in_any_sets(
        seed: u64,
        count in 0..2_000_u64,
        spread in 1..100_u64,
        one_in in 1..200_u64,
        limits in prop::sample::select(&LIMITS[..]).prop_flat_map(|one| (Just(one), prop::sample::select(&LIMITS[..]))),
    ) {
        let (one, other) = sets(seed, count, spread, one_in);
        assert_agree(&one, &other, limits);
    }
}

#[test]
fn a_line_that_is_none_is_refused() {
    let mut lines = EngineLines::new(0);
    for line in ["item,1", "item,x,ab", "item,1,abcd", "done", "msg,zz", "msg,62"] {
        assert!(lines.take(line).is_err(), "{line}");
    }
}
