use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::record::LibraryId;

const HASH: ContentHash = ContentHash([7; 32]);
/// The same word, with a precomposed letter and with a combining accent.
const COMPOSED: &str = "café.jpg";
const DECOMPOSED: &str = "cafe\u{301}.jpg";

fn meta(filename: Option<&str>, names: &[&str]) -> AssetMeta {
    AssetMeta {
        filename: filename.map(str::to_owned),
        names: names.iter().map(|&name| name.to_owned()).collect(),
        ..AssetMeta::default()
    }
}

fn put(ms: u64, name: &str) -> AssetRecord {
    let meta = AssetMeta { created_at_ms: ms, ..meta(Some(name), &[]) };
    AssetRecord::new(HASH, 3, None, meta)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn further_names_are_each_written_once() {
    let names = owned(&["b", "a", DECOMPOSED, "b", COMPOSED, " ", "", "first", "A"]);
    assert_eq!(AssetMeta::further_names(Some("first"), names), ["A", "a", "b", DECOMPOSED]);
    assert_eq!(AssetMeta::further_names(Some(COMPOSED), owned(&[DECOMPOSED])), [""; 0]);
}

#[test]
fn a_name_is_added_where_there_is_room() {
    let mut asset = meta(None, &[]);
    assert_eq!(asset.add_name(COMPOSED), NameOutcome::Added);
    assert_eq!(asset.add_name(DECOMPOSED), NameOutcome::Known);
    assert_eq!(asset.filename.as_deref(), Some(COMPOSED));
    for n in (0..NAMES_MAX).rev() {
        assert_eq!(asset.add_name(&format!("{n:02}")), NameOutcome::Added);
        assert_eq!(asset.validate(), Ok(()));
    }
    assert_eq!(asset.add_name("more"), NameOutcome::LeftOut, "that are all");
    assert_eq!(asset.add_name("05"), NameOutcome::Known);

    let mut blank = meta(Some("  "), &[]);
    assert_eq!(blank.add_name("one"), NameOutcome::Added);
    assert_eq!(blank.filename.as_deref(), Some("one"), "a blank name is none");
    assert_eq!(blank.add_name(&"x".repeat(NAME_BYTES_MAX + 1)), NameOutcome::LeftOut);
    assert_eq!(blank.add_name(&"x".repeat(NAME_BYTES_MAX)), NameOutcome::Added);

    let mut full = AssetMeta { description: Some("d".repeat(META_BYTES_MAX - 5)), ..meta(Some("one"), &[]) };
    assert_eq!(full.add_name("two"), NameOutcome::LeftOut, "one byte too many");
    assert_eq!(full.add_name("2."), NameOutcome::Added);
    assert_eq!((full.text_bytes(), full.validate()), (META_BYTES_MAX, Ok(())));
    let mut blank = AssetMeta { description: Some("d".repeat(META_BYTES_MAX - 2)), ..meta(Some("  "), &[]) };
    assert_eq!(blank.add_name("ab"), NameOutcome::Added, "in its place");
    assert_eq!(blank.text_bytes(), META_BYTES_MAX);
    let mut nameless = AssetMeta { description: Some("d".repeat(META_BYTES_MAX)), ..meta(None, &[]) };
    assert_eq!(nameless.add_name("a"), NameOutcome::LeftOut);
}

#[test]
fn names_that_no_honest_store_writes_are_refused() {
    let names = |names: &[&str]| meta(Some("first"), names).validate();
    assert_eq!(names(&["a", "b"]), Ok(()));
    for bad in [&["b", "a"][..], &["a", "a"], &["", "a"], &[" "], &["first"]] {
        assert_eq!(names(bad), Err(MetaError::NamesNotCanonical), "{bad:?}");
    }
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(names(&[&long]), Err(MetaError::NameTooLong(NAME_BYTES_MAX + 1)));
    let many: Vec<String> = (0..=NAMES_MAX).map(|n| format!("{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(names(&many), Err(MetaError::TooManyNames(NAMES_MAX + 1)));
    let dropped = |ids: Vec<u64>| AssetMeta { dropped_names: ids, ..AssetMeta::default() }.validate();
    assert_eq!(dropped((0..DROPPED_NAMES_MAX as u64).collect()), Ok(()));
    let more = DROPPED_NAMES_MAX + 1;
    assert_eq!(dropped((0..more as u64).collect()), Err(MetaError::DroppedNames(more)));
    assert_eq!(dropped(vec![1, 2, 1]), Err(MetaError::DroppedNames(3)));
    // 16 names as long as they may be take all the room there is.
    let largest: Vec<String> = (0..16).map(|n| format!("{n:02}") + &"x".repeat(NAME_BYTES_MAX - 2)).collect();
    let full = AssetMeta { names: largest, ..AssetMeta::default() };
    assert_eq!((full.text_bytes(), full.validate()), (META_BYTES_MAX, Ok(())));
    let more = AssetMeta { user: Some("u".into()), ..full };
    assert_eq!(more.validate(), Err(MetaError::TooLarge(META_BYTES_MAX + 1)));
    let late = AssetMeta { modified_at_ms: Some(1 << 48), ..AssetMeta::default() };
    assert_eq!(late.validate(), Err(MetaError::ModifiedAt(1 << 48)));
}

#[test]
fn what_is_taken_away_is_noted_and_what_comes_back_is_not() {
    let before = meta(Some(COMPOSED), &["a", "b"]);
    let mut after = meta(Some("c"), &["b"]);
    after.note_dropped(HASH, &before);
    assert_eq!(after.dropped_names, [dropped_id(HASH, DECOMPOSED), dropped_id(HASH, "a")]);
    assert_ne!(dropped_id(HASH, "a"), dropped_id(ContentHash([8; 32]), "a"), "of another content");
    let mut again = meta(Some("c"), &["a", "b"]);
    again.note_dropped(HASH, &after);
    assert_eq!(again.dropped_names, [dropped_id(HASH, COMPOSED)]);
    let mut named = meta(Some("c"), &[]);
    named.note_dropped(HASH, &meta(Some(" "), &[]));
    assert_eq!(named.dropped_names, [0; 0], "a blank name is none");
    // The latest stay.
    let mut last = again;
    let most = DROPPED_NAMES_MAX as u64;
    for n in 0..most + 4 {
        let mut next = meta(Some(&n.to_string()), &["a", "b"]);
        next.note_dropped(HASH, &last);
        last = next;
    }
    let expected: Vec<u64> = (3..most + 3).map(|n: u64| dropped_id(HASH, &n.to_string())).collect();
    assert_eq!((last.dropped_names.as_slice(), last.validate()), (expected.as_slice(), Ok(())));
}

#[test]
fn records_without_further_names_are_what_they_were() {
    // As it was written before there were any.
    let plain = put(1, "a");
    let before = "9992e944b3234cbf1e8b62aa01f2009bf2f7beb5f3f14a8e63dbb0fa98f5c0a1";
    let digest = |record: &AssetRecord| data_encoding::HEXLOWER.encode(&record.digest());
    assert_eq!(digest(&plain), before);
    let with = |change: fn(&mut AssetMeta)| {
        let mut other = plain.clone();
        change(&mut other.meta);
        digest(&other)
    };
    let others = [
        digest(&plain),
        with(|meta| meta.names = vec!["b".into()]),
        with(|meta| meta.names = vec!["b".into(), "c".into()]),
        with(|meta| meta.dropped_names = vec![1]),
        with(|meta| meta.modified_at_ms = Some(0)),
        with(|meta| meta.modified_at_ms = Some(1)),
    ];
    assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), others.len());
}

#[test]
fn a_winner_is_given_the_names_that_it_did_not_know() {
    let us = WriterId([9; 32]);
    let winner = AssetRecord { writer: WriterId([1; 32]), ..put(5, "b") };
    let own = owned(&["a", COMPOSED]);
    let again = keep_names(&winner, &own, us).again.expect("it is written once more");
    assert_eq!((again.meta.filename.as_deref(), again.meta.names.clone()), (Some("b"), own.clone()));
    assert_eq!((again.hlc, again.writer), (Hlc(winner.hlc.0 + 1), us), "an edit made meanwhile still wins");
    assert!(again.supersedes(&winner));
    assert_eq!(keep_names(&again, &own, us), KeptNames::default(), "and once is enough");
    let written_otherwise = keep_names(&winner, &owned(&["b", DECOMPOSED]), us).again.expect("once more");
    assert_eq!(keep_names(&written_otherwise, &own[1..], us), KeptNames::default());

    let mut renamed = AssetRecord { hlc: Hlc(again.hlc.0 + 9), ..again.clone() };
    renamed.meta = meta(Some("b"), &[COMPOSED]);
    renamed.meta.note_dropped(HASH, &again.meta);
    assert_eq!(
        keep_names(&renamed, &own, us),
        KeptNames { again: None, gone: owned(&["a"]) },
        "its removal knew of it"
    );
    let deleted = AssetRecord { deleted: true, ..winner.clone() };
    assert_eq!(keep_names(&deleted, &own, us), KeptNames { again: None, gone: own.clone() });
    let through = AssetRecord { via: Some(LibraryId([2; 32])), ..winner.clone() };
    assert_eq!(keep_names(&through, &own, us), KeptNames::default(), "nobody outside makes us write");
    let last = AssetRecord { hlc: Hlc(u64::MAX), ..winner.clone() };
    assert_eq!(keep_names(&last, &own, us).again, None);
    let full: Vec<String> = (0..NAMES_MAX).map(|n| format!("{n:02}")).collect();
    let full = AssetRecord { meta: AssetMeta { names: full, ..winner.meta.clone() }, ..winner };
    assert_eq!(
        keep_names(&full, &own, us),
        KeptNames::default(),
        "there is no room, and it is not forgotten"
    );
}

/// What a user does, or which machines meet.
#[derive(Clone, Debug)]
enum Step {
    Put { at: usize, name: usize },
    Rename { at: usize, name: usize },
    Remove { at: usize, name: usize },
    Describe { at: usize },
    Meet { from: usize, to: usize },
}

/// A machine that does with the records of one content what the store does.
#[derive(Clone, Debug)]
struct Machine {
    id: WriterId,
    held: Option<AssetRecord>,
    own: BTreeSet<String>,
    /// Versions that it wrote because a winner lacked a name.
    again: usize,
}

/// A version, and what it was written over.
struct Version {
    before: Option<[u8; 32]>,
    meta: AssetMeta,
    by_user: bool,
}

/// All versions by their digest.
type History = BTreeMap<[u8; 32], Version>;

impl Machine {
    fn has(&self, name: &str) -> bool {
        self.held.as_ref().is_some_and(|held| held.meta.is_named(name))
    }

    fn write(&mut self, now: u64, history: &mut History, change: impl Fn(&mut AssetMeta)) {
        let old = self.held.take();
        let mut record = old.clone().unwrap_or_else(|| put(now, "x"));
        if old.is_none() {
            record.meta.filename = None;
        }
        change(&mut record.meta);
        if let Some(old) = &old {
            if record.meta == old.meta {
                self.held = Some(record);
                return;
            }
            record.meta.note_dropped(HASH, &old.meta);
            record.hlc = old.hlc.next(now);
            record.writer = self.id;
        }
        let (before, after) = (old.as_ref().map(|old| old.meta.clone()).unwrap_or_default(), &record.meta);
        self.own.retain(|name| after.is_named(name) || !before.is_named(name));
        let version =
            Version { before: old.map(|old| old.digest()), meta: record.meta.clone(), by_user: true };
        history.insert(record.digest(), version);
        self.held = Some(record);
    }

    fn hear(&mut self, theirs: &AssetRecord, history: &mut History) {
        if self.held.as_ref().is_some_and(|held| !theirs.supersedes(held)) {
            return;
        }
        let own: Vec<String> = self.own.iter().cloned().collect();
        let kept = keep_names(theirs, &own, self.id);
        for name in kept.gone {
            self.own.remove(&name);
        }
        if let Some(again) = &kept.again {
            assert!(again.meta.validate().is_ok() && again.supersedes(theirs));
            let version = Version { before: Some(theirs.digest()), meta: again.meta.clone(), by_user: false };
            history.insert(again.digest(), version);
            self.again += 1;
        }
        self.held = Some(kept.again.unwrap_or_else(|| theirs.clone()));
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (at, name) = (0..4_usize, 0..6_usize);
    let step = prop_oneof![
        3 => (at.clone(), name.clone()).prop_map(|(at, name)| Step::Put { at, name }),
        1 => (at.clone(), name.clone()).prop_map(|(at, name)| Step::Rename { at, name }),
        1 => (at.clone(), name).prop_map(|(at, name)| Step::Remove { at, name }),
        1 => at.clone().prop_map(|at| Step::Describe { at }),
        3 => (at.clone(), at).prop_map(|(from, to)| Step::Meet { from, to }),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    /// Whatever users do and whichever machines meet in between: all end with the same version, which has every name that was
    /// given and never taken away, and none that an edit before it took away and nobody gave again.
    #[test]
    fn machines_agree_and_keep_every_name_that_nobody_took_away(
        steps in steps(),
        jumps in proptest::collection::vec(0..3_u64, 40),
        order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let names = ["a", "b", COMPOSED, DECOMPOSED, "e", "f"];
        let machine = |n: u8| Machine { id: WriterId([n + 1; 32]), held: None, own: BTreeSet::new(), again: 0 };
        let mut machines: Vec<Machine> = (0..4).map(machine).collect();
        let mut history = History::new();
        let (mut given, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let mut now = 1_000;
        for (step, jump) in steps.iter().zip(jumps) {
            now += jump;
            match *step {
                Step::Put { at, name } => {
                    let machine = &mut machines[at];
                    machine.write(now, &mut history, |meta| {
                        assert_ne!(meta.add_name(names[name]), NameOutcome::LeftOut);
                    });
                    machine.own.insert(names[name].to_owned());
                    given.insert(composed(names[name]).into_owned());
                }
                Step::Rename { at, name } if machines[at].held.is_some() => {
                    let machine = &mut machines[at];
                    let old = machine.held.as_ref().and_then(|held| held.meta.filename.clone());
                    machine.write(now, &mut history, |meta| {
                        meta.filename = Some(names[name].to_owned());
                        meta.names = AssetMeta::further_names(meta.filename.as_deref(), meta.names.clone());
                    });
                    machine.own.insert(names[name].to_owned());
                    given.insert(composed(names[name]).into_owned());
                    let old = old.filter(|old| composed(old) != composed(names[name]));
                    taken.extend(old.map(|old| composed(&old).into_owned()));
                }
                Step::Remove { at, name } if machines[at].has(names[name]) => {
                    machines[at].write(now, &mut history, |meta| {
                        meta.names.retain(|known| composed(known) != composed(names[name]));
                        meta.filename = meta.filename.take().filter(|known| composed(known) != composed(names[name]));
                    });
                    taken.insert(composed(names[name]).into_owned());
                }
                Step::Describe { at } if machines[at].held.is_some() => {
                    machines[at].write(now, &mut history, |meta| meta.description = Some(now.to_string()));
                }
                Step::Meet { from, to } => {
                    if let Some(theirs) = machines[from].held.clone() {
                        machines[to].hear(&theirs, &mut history);
                    }
                }
                Step::Rename { .. } | Step::Remove { .. } | Step::Describe { .. } => {}
            }
        }
        // Then everybody hears everybody, in any order, until nothing changes.
        let pairs: Vec<(usize, usize)> =
            (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to).collect();
        let before: usize = machines.iter().map(|machine| machine.again).sum();
        for round in 0.. {
            prop_assert!(round < 12, "they do not come to an end: {machines:?}");
            let held: Vec<_> = machines.iter().map(|machine| machine.held.clone()).collect();
            for (from, to) in order.iter().map(|index| pairs[*index]) {
                if let Some(theirs) = machines[from].held.clone() {
                    machines[to].hear(&theirs, &mut history);
                }
            }
            if machines.iter().map(|machine| &machine.held).eq(held.iter()) {
                break;
            }
        }
        let Some(last) = machines[0].held.clone() else { return Ok(()) };
        prop_assert!(machines.iter().all(|machine| machine.held.as_ref() == Some(&last)), "{machines:?}");
        // Each version that is written again has a name more than the one before it, of at most 4 x 6.
        let again = machines.iter().map(|machine| machine.again).sum::<usize>() - before;
        prop_assert!(again <= 24, "{again} versions");

        prop_assert!(last.meta.validate().is_ok());
        let known: BTreeSet<String> = last.meta.all_names().map(|name| composed(name).into_owned()).collect();
        prop_assert_eq!(known.len(), last.meta.all_names().count(), "each is there once");
        for name in given.difference(&taken) {
            prop_assert!(known.contains(name), "'{name}' is lost: {last:?}");
        }
        // From the last version back: none that was taken away came back but by a user's hand.
        let mut version = last.digest();
        while let Some(Version { before: Some(before), meta, by_user }) = history.get(&version) {
            let former = &history[before].meta;
            for name in meta.all_names().filter(|name| !by_user && !former.is_named(name)) {
                prop_assert!(!former.dropped_names.contains(&dropped_id(HASH, name)), "{}", name);
            }
            version = *before;
        }
    }
}
