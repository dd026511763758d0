use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::reconcile::oracle::{self, Numbers, Oracle, item};
use crate::reconcile::tree::ItemTree;

type Ids = BTreeSet<RecordId>;

/// Who takes a side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Maker {
    Ours(Splitting),
    Oracle,
}

const LEAN: Maker = Maker::Ours(Splitting::Lean);
const LIKE_THE_ORACLE: Maker = Maker::Ours(Splitting::Reference);

/// All that passed in a session, from the first message on, and what the initiator learned.
#[derive(PartialEq, Eq, Debug, Default)]
struct Transcript {
    messages: Vec<Vec<u8>>,
    have: Ids,
    need: Ids,
}

fn frames_of(frame_bytes: usize) -> EngineLimits {
    EngineLimits { frame_bytes, ..EngineLimits::default() }
}

fn snapshot(items: &[Item]) -> Snapshot {
    ItemTree::from_unsorted(items.to_vec()).snapshot()
}

enum Asking<'a> {
    Ours(Initiator),
    Oracle(Oracle<'a>),
}

enum Answering<'a> {
    Ours(Responder),
    Oracle(Oracle<'a>),
}

/// Runs a session to its end between `asks` and `answers`, each with its items and frame limit.
fn run(asks: (Maker, &[Item], usize), answers: (Maker, &[Item], usize)) -> Transcript {
    let oracle = |items: &[Item], limit: usize| Oracle::owned(oracle::storage(items), limit as u64).unwrap();
    let (mut initiator, mut message) = match asks.0 {
        Maker::Ours(splitting) => {
            let (initiator, opening) = Initiator::with(splitting, snapshot(asks.1), frames_of(asks.2));
            (Asking::Ours(initiator), opening)
        }
        Maker::Oracle => {
            let mut initiator = oracle(asks.1, asks.2);
            let opening = initiator.initiate().unwrap();
            (Asking::Oracle(initiator), opening)
        }
    };
    let mut responder = match answers.0 {
        Maker::Ours(splitting) => {
            Answering::Ours(Responder::with(splitting, snapshot(answers.1), frames_of(answers.2)))
        }
        Maker::Oracle => Answering::Oracle(oracle(answers.1, answers.2)),
    };
    let mut transcript = Transcript::default();
    loop {
        let answer = match &mut responder {
            Answering::Ours(responder) => responder.handle(&message).unwrap(),
            Answering::Oracle(responder) => responder.reconcile(&message).unwrap(),
        };
        let reply = match &mut initiator {
            Asking::Ours(initiator) => {
                let step = initiator.handle(&answer).unwrap();
                transcript.have.extend(step.have.iter().map(|item| item.rid));
                transcript.need.extend(step.need);
                step.reply
            }
            Asking::Oracle(initiator) => {
                let (mut have, mut need) = (Vec::new(), Vec::new());
                let reply = initiator.reconcile_with_ids(&answer, &mut have, &mut need).unwrap();
                transcript.have.extend(have.iter().map(|id| RecordId(id.to_bytes())));
                transcript.need.extend(need.iter().map(|id| RecordId(id.to_bytes())));
                reply
            }
        };
        transcript.messages.extend([message, answer]);
        assert!(transcript.messages.len() < 4_000, "the session does not end");
        match reply {
            Some(next) => message = next,
            None => return transcript,
        }
    }
}

fn ids_of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Ids {
    items.into_iter().map(|item| item.rid).collect()
}

/// Whichever takes which side, the result is right and no message too long; and where we split like the oracle, all
/// pairings say the same, byte for byte.
fn assert_like_the_oracle(a: &[Item], b: &[Item], limit_a: usize, limit_b: usize) {
    let (ids_a, ids_b) = (ids_of(a), ids_of(b));
    let (only_a, only_b) = (&ids_a - &ids_b, &ids_b - &ids_a);
    let run = |asks: Maker, answers: Maker| {
        let transcript = run((asks, a, limit_a), (answers, b, limit_b));
        assert!(transcript.have == only_a, "{asks:?} asks, {answers:?} answers: what only the initiator has");
        assert!(transcript.need == only_b, "{asks:?} asks, {answers:?} answers: what only the responder has");
        for (i, message) in transcript.messages.iter().enumerate() {
            let limit = if i % 2 == 0 { limit_a } else { limit_b };
            assert!(limit == 0 || message.len() <= limit, "{} bytes with a limit of {limit}", message.len());
        }
        transcript
    };
    for (asks, answers) in [(LEAN, LEAN), (LEAN, Maker::Oracle), (Maker::Oracle, LEAN)] {
        run(asks, answers);
    }
    let expected = run(Maker::Oracle, Maker::Oracle);
    for (asks, answers) in [
        (LIKE_THE_ORACLE, LIKE_THE_ORACLE),
        (LIKE_THE_ORACLE, Maker::Oracle),
        (Maker::Oracle, LIKE_THE_ORACLE),
    ] {
        let ours = run(asks, answers);
        assert!(
            ours == expected,
            "{asks:?} asks, {answers:?} answers: {}",
            first_difference(&ours, &expected)
        );
    }
}

fn first_difference(ours: &Transcript, other: &Transcript) -> String {
    let mut pairs = ours.messages.iter().zip(&other.messages).enumerate();
    match pairs.find(|(_, (a, b))| a != b) {
        Some((i, (a, b))) => {
            let at = a.iter().zip(b.iter()).take_while(|(a, b)| a == b).count();
            format!("message {i} at byte {at} of {} and {}", a.len(), b.len())
        }
        None => format!("{} and {} messages", ours.messages.len(), other.messages.len()),
    }
}

/// How items lie in time.
#[derive(Clone, Copy, Debug)]
enum Clocks {
    Random,
    Clustered,
    Equal,
    Ascending,
}

/// Two sets of `shared` common items, and some that only one side has.
fn sets(seed: u64, clocks: Clocks, shared: usize, only_a: usize, only_b: usize) -> (Vec<Item>, Vec<Item>) {
    let mut numbers = Numbers(seed);
    let count = (shared + only_a + only_b) as u64;
    let mut items: Vec<Item> = (0..count)
        .map(|i| {
            let hlc = match clocks {
                Clocks::Random => numbers.next() >> 1,
                Clocks::Clustered => numbers.below(1 + count / 300) << 40,
                Clocks::Equal => 7,
                Clocks::Ascending => (1_700_000_000_000 + i) << 16,
            };
            item(hlc, numbers.id())
        })
        .collect();
    for i in (1..items.len()).rev() {
        items.swap(i, usize::try_from(numbers.below(i as u64 + 1)).unwrap());
    }
    let a = items[..shared + only_a].to_vec();
    let b = [&items[..shared], &items[shared + only_a..]].concat();
    (a, b)
}

const CLOCKS: [Clocks; 4] = [Clocks::Random, Clocks::Clustered, Clocks::Equal, Clocks::Ascending];

#[test]
fn same_bytes_as_the_oracle_around_every_threshold() {
    for clocks in CLOCKS {
        for shared in [0, 1, 15, 16, 31, 32, 33, 127, 128, 511, 512, 700] {
            for (only_a, only_b) in [(0, 0), (1, 0), (0, 1), (31, 32), (200, 0), (0, 300)] {
                let (a, b) = sets(11, clocks, shared, only_a, only_b);
                assert_like_the_oracle(&a, &b, 0, 0);
            }
        }
    }
}

#[test]
fn same_bytes_as_the_oracle_whatever_the_frame() {
    for (i, limit) in [4_096, 4_097, 4_128, 5_000, 8_192, 40_000, 262_144].into_iter().enumerate() {
        let (a, b) = sets(20 + i as u64, CLOCKS[i % 4], 1_500, 300, 500);
        assert_like_the_oracle(&a, &b, limit, limit);
        assert_like_the_oracle(&a, &b, limit, 4_096);
        assert_like_the_oracle(&b, &a, 4_767, limit);
        assert_like_the_oracle(&b, &a, limit, 0);
    }
}

#[test]
fn same_bytes_as_the_oracle_when_sets_are_large() {
    let cases = [
        (Clocks::Random, 50_000, 0, 0, 0),
        (Clocks::Random, 50_000, 5, 5, 262_144),
        (Clocks::Clustered, 49_000, 500, 500, 65_536),
        (Clocks::Equal, 20_000, 2_000, 1_000, 16_384),
        (Clocks::Ascending, 0, 20_000, 0, 262_144),
        (Clocks::Ascending, 0, 0, 20_000, 262_144),
        (Clocks::Random, 0, 10_000, 10_000, 32_768),
    ];
    for (clocks, shared, only_a, only_b, limit) in cases {
        let (a, b) = sets(31, clocks, shared, only_a, only_b);
        assert_like_the_oracle(&a, &b, limit, limit);
    }
}

/// Ids that share long prefixes or end in zeros, where shortened bounds are most easily wrong. They do not add up to
/// equal sums, as plainly counted ids would: powers of two, and ids with a random part.
fn crowded_items() -> impl Strategy<Value = Vec<(u64, [u8; 32], bool, bool)>> {
    let power = (0..256usize).prop_map(|bit| {
        let mut id = [0; 32];
        id[bit / 8] = 1 << (bit % 8);
        id
    });
    let shared = (0..3u8, 0..3u8, prop::sample::select(vec![2usize, 12, 24]), any::<[u8; 8]>());
    let shared = shared.prop_map(|(first, second, at, tail)| {
        let mut id = [0; 32];
        (id[0], id[1]) = (first, second);
        id[at..at + 8].copy_from_slice(&tail);
        id
    });
    let id = prop_oneof![power, shared];
    prop::collection::vec((0..5u64, id, any::<bool>(), any::<bool>()), 0..700)
}

/// Sorts out who has what; each id once.
fn deal(items: Vec<(u64, [u8; 32], bool, bool)>) -> (Vec<Item>, Vec<Item>) {
    let mut seen = BTreeSet::new();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (hlc, id, only_a, only_b) in items {
        if seen.insert(id) {
            let item = item(hlc, id);
            a.extend((only_a || !only_b).then_some(item));
            b.extend((only_b || !only_a).then_some(item));
        }
    }
    (a, b)
}

/// Damage to a message.
#[derive(Clone, Debug)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index),
    None,
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), any::<Vec<u8>>()).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => at().prop_map(Damage::Repeat),
        4 => Just(Damage::None),
    ]
}

fn damaged(mut message: Vec<u8>, damage: &Damage) -> Vec<u8> {
    let ends = message.len() + 1;
    match damage {
        Damage::Flip(at, bits) => {
            let at = at.index(message.len());
            message[at] ^= bits;
        }
        Damage::Cut(at) => message.truncate(at.index(ends)),
        Damage::Insert(at, bytes) => {
            let at = at.index(ends);
            message.splice(at..at, bytes.iter().copied());
        }
        Damage::Repeat(at) => message.extend_from_within(at.index(ends)..),
        Damage::None => {}
    }
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn same_bytes_as_the_oracle_for_crowded_sets(
        items in crowded_items(),
        limit_a in prop::sample::select(vec![0usize, 4_096, 4_500, 6_000]),
        limit_b in prop::sample::select(vec![0usize, 4_096, 4_500, 6_000]),
    ) {
        let (a, b) = deal(items);
        assert_like_the_oracle(&a, &b, limit_a, limit_b);
    }

    #[test]
    fn steps_are_bounded_and_together_complete(items in crowded_items(), have_max in 0..90usize) {
        let (a, b) = deal(items);
        let limits = EngineLimits { have_max, ..frames_of(4_096) };
        let (mut initiator, mut message) = Initiator::new(snapshot(&a), limits);
        let mut responder = Responder::new(snapshot(&b), limits);
        let (mut have, mut need) = (Ids::new(), Ids::new());
        for round in 0.. {
            prop_assert!(round < 800, "the session does not end");
            let answer = responder.handle(&message).unwrap();
            let step = initiator.handle(&answer).unwrap();
            prop_assert!(step.have.len() <= have_max.max(1));
            prop_assert!(step.have.is_sorted_by_key(|item| (item.hlc, item.rid)));
            have.extend(step.have.iter().map(|item| item.rid));
            need.extend(step.need);
            match step.reply {
                Some(reply) => message = reply,
                None => break,
            }
        }
        prop_assert_eq!(have, &ids_of(&a) - &ids_of(&b));
        prop_assert_eq!(need, &ids_of(&b) - &ids_of(&a));
    }

    /// A damaged message is refused or taken for another; either way the session ends, within its bounds, and names
    /// nothing as ours that is not.
    #[test]
    fn damage_does_no_harm(
        items in crowded_items(),
        damages in prop::collection::vec(damage(), 80),
    ) {
        let (a, b) = deal(items);
        let ours = ids_of(&a);
        let limits = EngineLimits { rounds_max: 30, ..frames_of(4_096) };
        let (mut initiator, mut message) = Initiator::new(snapshot(&a), limits);
        let mut responder = Responder::new(snapshot(&b), limits);
        for pair in damages.chunks(2) {
            let Ok(answer) = responder.handle(&damaged(message, &pair[0])) else { return Ok(()) };
            prop_assert!(answer.len() <= 4_096);
            let answer = damaged(answer, &pair[1]);
            let Ok(step) = initiator.handle(&answer) else { return Ok(()) };
            prop_assert!(step.need.len() * 32 <= answer.len());
            prop_assert!(step.have.iter().all(|item| ours.contains(&item.rid)));
            let Some(reply) = step.reply else { return Ok(()) };
            prop_assert!(reply.len() <= 4_096);
            message = reply;
        }
        prop_assert!(false, "the session does not end");
    }
}

#[test]
fn all_of_a_large_set_is_given_out_in_bounded_steps() {
    let (a, _) = sets(41, Clocks::Random, 0, 5_000, 0);
    let limits = EngineLimits { have_max: 600, ..EngineLimits::default() };
    let (mut initiator, mut message) = Initiator::new(snapshot(&a), limits);
    let mut responder = Responder::new(snapshot(&[]), limits);
    let mut steps = Vec::new();
    loop {
        let step = initiator.handle(&responder.handle(&message).unwrap()).unwrap();
        steps.push(step.have);
        match step.reply {
            Some(reply) => message = reply,
            None => break,
        }
    }
    assert_eq!(steps.len(), 5_000usize.div_ceil(600));
    let all: Vec<Item> = steps.concat();
    assert!(snapshot(&a).items().eq(&all), "each item once, in order");
}

#[test]
fn a_peer_that_never_agrees_is_left_in_the_end() {
    let (a, _) = sets(42, Clocks::Random, 100, 0, 0);
    let (mut initiator, _) =
        Initiator::new(snapshot(&a), EngineLimits { rounds_max: 50, ..EngineLimits::default() });
    let mut lie = MessageWriter::new();
    lie.fingerprint(&RangeBound::END, [0xee; 16]);
    let lie = lie.finish();
    for _ in 0..50 {
        assert!(initiator.handle(&lie).unwrap().reply.is_some());
    }
    assert_eq!(initiator.handle(&lie), Err(ReconError::TooManyRounds(50)));
    assert_eq!(initiator.handle(&lie), Err(ReconError::Finished));
}

#[test]
fn nothing_is_taken_after_the_end_or_after_an_error() {
    let nothing_to_say = MessageWriter::new().finish();
    let (mut initiator, opening) = Initiator::new(snapshot(&[]), EngineLimits::default());
    assert_eq!(initiator.handle(&nothing_to_say), Ok(EngineStep::default()));
    assert_eq!(initiator.handle(&nothing_to_say), Err(ReconError::Finished));

    let mut responder = Responder::new(snapshot(&[]), EngineLimits::default());
    assert_eq!(responder.handle(&[]), Err(ReconError::Empty));
    assert_eq!(responder.handle(&opening), Err(ReconError::Finished));

    let mut responder = Responder::new(snapshot(&[]), EngineLimits::default());
    assert_eq!(responder.handle(&[0x62, 0, 0, 0]), Err(ReconError::Version(0x62)));
}

#[test]
fn an_id_that_is_listed_twice_is_needed_once() {
    let (mut initiator, _) = Initiator::new(snapshot(&[]), EngineLimits::default());
    let id = RecordId([5; 32]);
    let mut twice = MessageWriter::new();
    twice.ids(&RangeBound::END, 2, [id, id].iter());
    let step = initiator.handle(&twice.finish()).unwrap();
    assert_eq!((step.need, step.reply), (vec![id], None));
}

#[test]
fn a_frame_limit_below_the_least_is_taken_as_the_least() {
    let (a, b) = sets(43, Clocks::Random, 0, 0, 2_000);
    let mut transcript = run((LEAN, &a, 4_096), (LEAN, &b, 4_096));
    let mut responder = Responder::new(snapshot(&b), frames_of(1));
    assert_eq!(responder.handle(&transcript.messages[0]).unwrap(), transcript.messages.swap_remove(1));
}

/// The usual case: a peer was away for a while.
#[test]
fn what_came_since_takes_one_round_trip() {
    let (all, _) = sets(44, Clocks::Ascending, 0, 30_000, 0);
    let mut all = all;
    all.sort_unstable_by_key(|item| item.hlc);
    let (earlier, since) = all.split_at(29_000);
    let transcript = run((LEAN, earlier, 262_144), (LEAN, &all, 262_144));
    assert_eq!(transcript.messages.len(), 2);
    assert_eq!(transcript.need, ids_of(since));
    let bytes: usize = transcript.messages.iter().map(Vec::len).sum();
    assert!(bytes < 1_000 * 32 + 1_000, "{bytes} bytes");
}

#[test]
fn scattered_differences_cost_less_than_with_the_oracles_splitting() {
    let (a, b) = sets(45, Clocks::Random, 60_000, 100, 100);
    let [ours, reference] = [LEAN, LIKE_THE_ORACLE].map(|maker| run((maker, &a, 0), (maker, &b, 0)));
    let bytes = |transcript: &Transcript| transcript.messages.iter().map(Vec::len).sum::<usize>();
    assert!(bytes(&ours) * 5 < bytes(&reference) * 4, "{} and {} bytes", bytes(&ours), bytes(&reference));
    assert!(ours.messages.len() <= 6, "{} messages", ours.messages.len());
}

#[test]
fn the_last_instant_that_can_be_named_is_reconciled() {
    let ids = |from: u8| (from..from + 40).map(|i| item(u64::MAX - 1, [i; 32])).collect::<Vec<Item>>();
    for limit in [0, 4_096] {
        assert_like_the_oracle(&ids(0), &ids(20), limit, limit);
        assert_like_the_oracle(&[ids(0), vec![item(5, [99; 32])]].concat(), &[], limit, limit);
    }
}
