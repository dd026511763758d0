//! One command, step by step.

use super::*;
use crate::store::promises::{DROP_WITHIN, LastingPromise};

const NOW: Duration = Duration::from_hours(1);
const HASH: ContentHash = ContentHash([7; 32]);

fn session(n: u64) -> SessionId {
    SessionId(n)
}

/// A command for one content with the holders 1 to `holders`, and its piece.
struct OneDrop {
    job: Dropping,
    random: u8,
    asked: Vec<(SessionId, Nonce)>,
    effects: Vec<DropEffect>,
}

impl OneDrop {
    fn new(min_copies: usize, holders: u64) -> Self {
        let rules = DropRules { min_copies, own_place: [0; 32], until: NOW + Duration::from_mins(10) };
        let job = Dropping::new(rules, [(HASH, 5)]);
        let mut one = Self { job, random: 0, asked: Vec::new(), effects: Vec::new() };
        for n in 1..=holders {
            let holder = [u8::try_from(n).unwrap(); 32];
            one.tell(NOW, DropInput::HolderUp { session: session(n), holder });
        }
        one.tell(NOW, DropInput::Tick);
        let offset = 0;
        assert_eq!(one.effects.remove(0), DropEffect::Prepare { hash: HASH, offset, length: 5 });
        one
    }

    fn tell(&mut self, now: Duration, input: DropInput) {
        let random = &mut self.random;
        let mut next = || {
            *random += 1;
            [*random; 32]
        };
        for effect in self.job.handle(input, now, &mut next) {
            if let DropEffect::Ask { session, nonce, .. } = effect {
                self.asked.push((session, nonce));
            } else {
                self.effects.push(effect);
            }
        }
    }

    fn prepared(&mut self) {
        let sample = Bytes::from_static(b"bytes");
        let answer = Ok(PreparedCopy::Marked { sample });
        self.tell(NOW, DropInput::Prepared { hash: HASH, answer });
    }

    fn answered(&mut self, now: Duration, nth: usize, answer: KeepAnswer) {
        let (session, nonce) = self.asked[nth];
        self.tell(now, DropInput::Answered { session, hash: HASH, nonce, answer });
    }

    fn promise(&self, nth: usize, place: u8) -> KeepAnswer {
        KeepAnswer::Promised { place: [place; 32], proof: proof_of(&self.asked[nth].1, b"bytes") }
    }

    fn outcome(&self) -> &DropOutcome {
        assert!(self.job.is_over());
        &self.job.ended()[0].1
    }
}

#[test]
fn the_piece_may_be_anywhere_and_its_proof_is_of_these_bytes_and_this_question() {
    for size in [0, 1, SAMPLE_BYTES, SAMPLE_BYTES + 1, 3 * SAMPLE_BYTES] {
        let last = size.saturating_sub(SAMPLE_BYTES);
        assert_eq!([0, last, last + 1].map(|random| sample_offset(size, random)), [0, last, 0], "{size}");
    }
    let begun = |random: u8| {
        let rules = DropRules { min_copies: 1, own_place: [0; 32], until: NOW + Duration::from_mins(10) };
        Dropping::new(rules, [(HASH, 1 << 30)]).handle(DropInput::Tick, NOW, &mut || [random; 32])
    };
    assert_ne!(begun(1), begun(2), "nobody knows before which piece it is");
    let proof = proof_of(&[1; 32], b"bytes");
    assert!(proof_of(&[2; 32], b"bytes") != proof && proof_of(&[1; 32], b"bytez") != proof);
}

#[test]
fn it_goes_with_promises_of_enough_places() {
    let mut one = OneDrop::new(2, 3);
    one.prepared();
    assert_eq!(one.asked.len(), 2, "no more are asked than are needed");
    one.answered(NOW, 0, one.promise(0, 1));
    assert_eq!(one.asked.len(), 2, "nor once one has promised");
    // The second one has its copy where the first one has it.
    one.answered(NOW, 1, one.promise(1, 1));
    assert_eq!((one.asked.len(), one.effects.len()), (3, 0));
    one.answered(NOW, 2, one.promise(2, 3));
    assert_eq!(one.effects, [DropEffect::LetGo { hash: HASH, by: NOW + DROP_WITHIN }]);
    one.tell(NOW, DropInput::LetGo { hash: HASH, answer: Ok(DropAnswer::Dropped) });
    assert!(matches!(one.outcome(), DropOutcome::Dropped { promises } if promises.len() == 2));
}

#[test]
fn a_machine_counts_once_whatever_it_says_its_place_is() {
    let mut one = OneDrop::new(2, 2);
    one.prepared();
    one.answered(NOW, 0, one.promise(0, 1));
    // It comes again in a session of its own, as another place.
    one.tell(NOW, DropInput::HolderGone { session: session(1) });
    one.tell(NOW, DropInput::HolderUp { session: session(3), holder: [1; 32] });
    one.answered(NOW, 1, KeepAnswer::Lacks);
    assert_eq!(one.asked.len(), 2, "it is not asked again");
    assert_eq!(one.effects, [DropEffect::Clear { hash: HASH }]);
    // Nor does it count when it was asked in two sessions at once.
    let mut one = OneDrop::new(2, 1);
    one.tell(NOW, DropInput::HolderUp { session: session(2), holder: [1; 32] });
    one.prepared();
    one.answered(NOW, 0, one.promise(0, 1));
    one.answered(NOW, 1, one.promise(1, 2));
    assert_eq!(one.effects, [DropEffect::Clear { hash: HASH }]);
}

#[test]
fn who_is_shut_out_does_not_count_whatever_it_promised() {
    let mut one = OneDrop::new(2, 3);
    one.prepared();
    one.answered(NOW, 0, one.promise(0, 1));
    // It ends the session by itself: that takes nothing back.
    one.tell(NOW, DropInput::HolderGone { session: session(1) });
    one.tell(NOW, DropInput::HolderDenied { holder: [1; 32] });
    assert_eq!(one.asked.len(), 3, "another one is asked");
    one.answered(NOW, 1, one.promise(1, 2));
    assert_eq!(one.effects, []);
    one.answered(NOW, 2, KeepAnswer::Lacks);
    assert_eq!(one.effects, [DropEffect::Clear { hash: HASH }]);
    one.tell(NOW, DropInput::Cleared { hash: HASH });
    let DropOutcome::Kept(KeptBecause::TooFew { promises, refusals }) = one.outcome() else {
        panic!("{:?}", one.outcome())
    };
    assert_eq!((promises.len(), refusals[0]), (1, ([1; 32], HolderRefusal::Denied)));

    // An open question is none any more.
    let mut one = OneDrop::new(1, 2);
    one.prepared();
    one.tell(NOW, DropInput::HolderDenied { holder: [1; 32] });
    one.answered(NOW, 0, one.promise(0, 1));
    assert_eq!((one.asked.len(), one.effects.len()), (2, 0));
    one.answered(NOW, 1, one.promise(1, 2));
    assert!(matches!(one.effects[..], [DropEffect::LetGo { .. }]));
    // At the last moment the store looks: it knows who is counted on.
    assert_eq!(one.job.counted_on(&HASH), [[2; 32]]);
    one.tell(NOW, DropInput::HolderDenied { holder: [2; 32] });
    one.tell(NOW, DropInput::LetGo { hash: HASH, answer: Ok(DropAnswer::Unpromised) });
    one.tell(NOW, DropInput::Cleared { hash: HASH });
    assert_eq!(*one.outcome(), DropOutcome::Kept(KeptBecause::ShutOut));
}

#[test]
fn what_is_tried_in_vain_is_given_up_before_the_command_is_over() {
    let mut one = OneDrop::new(1, 1);
    let mut now = NOW;
    for tried in 1..=TRIES_MAX {
        one.prepared();
        one.answered(now, one.asked.len() - 1, KeepAnswer::Unable);
        one.tell(now, DropInput::Cleared { hash: HASH });
        if tried < TRIES_MAX {
            assert!(matches!(one.job.shortfall(), Some(KeptBecause::TooFew { .. })), "{tried}");
            // Each time it rests for about twice as long.
            let (rest, tries) = (REST_MIN * 2_u32.pow(tried - 1), one.effects.len());
            let just_before = (rest / 2).saturating_sub(Duration::from_millis(1));
            one.tell(now + just_before, DropInput::Tick);
            assert_eq!(one.effects.len(), tries, "{tried}");
            now += rest * 3 / 2;
            one.tell(now, DropInput::Tick);
            assert!(matches!(one.effects[tries..], [DropEffect::Prepare { .. }]), "{tried}");
        }
    }
    assert!(matches!(one.outcome(), DropOutcome::Kept(KeptBecause::TooFew { .. })));
}

#[test]
fn own_copies_and_wrong_bytes_do_not_count() {
    let mut one = OneDrop::new(1, 2);
    one.prepared();
    one.answered(NOW, 0, one.promise(0, 0));
    one.answered(NOW, 1, KeepAnswer::Promised { place: [2; 32], proof: [0; 32] });
    assert_eq!(one.effects, [DropEffect::Clear { hash: HASH }]);
    one.tell(NOW, DropInput::Cleared { hash: HASH });
    let DropOutcome::Kept(KeptBecause::TooFew { promises, refusals }) = one.outcome() else {
        panic!("{:?}", one.outcome())
    };
    let whys: Vec<HolderRefusal> = refusals.iter().map(|(_, why)| *why).collect();
    assert_eq!((promises.len(), whys), (0, vec![HolderRefusal::SamePlace, HolderRefusal::WrongProof]));
}

#[test]
fn who_lets_go_of_it_too_is_asked_again_after_a_while() {
    let mut one = OneDrop::new(1, 1);
    one.prepared();
    one.answered(NOW, 0, KeepAnswer::Dropping);
    assert_eq!(one.effects, [DropEffect::Clear { hash: HASH }]);
    one.tell(NOW, DropInput::Cleared { hash: HASH });
    one.tell(NOW, DropInput::Tick);
    assert_eq!(one.effects.len(), 1, "it rests");
    let later = NOW + Duration::from_secs(10);
    one.tell(later, DropInput::Tick);
    assert!(matches!(one.effects[1], DropEffect::Prepare { .. }));
    one.prepared();
    assert_ne!(one.asked[0].1, one.asked[1].1);
    // An answer to the first question comes late.
    one.answered(later, 0, one.promise(0, 1));
    assert_eq!(one.effects.len(), 2);
    one.answered(later, 1, one.promise(1, 1));
    assert!(matches!(one.effects[2], DropEffect::LetGo { .. }));
}

#[test]
fn nobody_waits_for_the_silent_or_longer_than_the_command() {
    let mut one = OneDrop::new(1, 2);
    one.prepared();
    one.tell(NOW + Duration::from_mins(2), DropInput::Tick);
    assert_eq!(one.asked.len(), 2, "the next one");
    one.tell(NOW + Duration::from_mins(2), DropInput::HolderGone { session: session(2) });
    assert_eq!(one.effects, [DropEffect::Clear { hash: HASH }]);
    one.tell(NOW + Duration::from_mins(10), DropInput::Cleared { hash: HASH });
    assert_eq!(*one.outcome(), DropOutcome::Kept(KeptBecause::TimeIsUp));
}

#[test]
fn who_has_much_to_read_may_take_longer_and_nobody_for_ever() {
    let mins = Duration::from_mins;
    for (size, patience) in [(5, mins(1)), (BYTES_PER_SEC * 60, mins(2)), (u64::MAX, mins(40))] {
        let rules = DropRules { min_copies: 1, own_place: [0; 32], until: NOW + mins(120) };
        let mut job = Dropping::new(rules, [(HASH, size)]);
        let mut tell = |input, now| job.handle(input, now, &mut || [1; 32]);
        for n in 1..=2 {
            tell(DropInput::HolderUp { session: session(n), holder: [u8::try_from(n).unwrap(); 32] }, NOW);
        }
        let marked = PreparedCopy::Marked { sample: Bytes::from_static(b"bytes") };
        let asked = tell(DropInput::Prepared { hash: HASH, answer: Ok(marked) }, NOW);
        assert!(matches!(asked[..], [DropEffect::Ask { session: SessionId(1), .. }]), "{asked:?}");
        assert_eq!(
            tell(DropInput::Tick, NOW + patience.saturating_sub(Duration::from_millis(1))),
            [],
            "{size}"
        );
        let next = tell(DropInput::Tick, NOW + patience);
        assert!(matches!(next[..], [DropEffect::Ask { session: SessionId(2), .. }]), "{size}: {next:?}");
    }
}

#[test]
fn who_was_asked_is_waited_for_no_longer_than_promises_count_or_the_user_wants() {
    let late = NOW + DROP_WITHIN;
    for (now, input, why) in [
        (NOW, DropInput::Cancel, KeptBecause::Cancelled),
        (NOW + Duration::from_hours(3), DropInput::Tick, KeptBecause::Late),
        (late, DropInput::Tick, KeptBecause::Late),
    ] {
        let mut one = OneDrop::new(2, 2);
        one.job.rules.until = NOW + Duration::from_hours(2);
        one.prepared();
        one.answered(NOW, 0, one.promise(0, 1));
        assert_eq!(one.effects, []);
        one.tell(now, input);
        assert_eq!(one.effects, [DropEffect::Clear { hash: HASH }], "{why:?}");
        one.tell(now, DropInput::Cleared { hash: HASH });
        assert_eq!(*one.outcome(), DropOutcome::Kept(why));
    }
}

#[test]
fn what_is_promised_or_not_here_stays_as_it_is() {
    for (answer, expected) in [
        (
            MarkAnswer::Promised(LastingPromise { to: [5; 32], until: NOW + KEPT_FOR }),
            KeptBecause::Promised { to: [5; 32], lasts: KEPT_FOR },
        ),
        (MarkAnswer::NotHeld, KeptBecause::NotHeld),
    ] {
        let mut one = OneDrop::new(1, 1);
        one.tell(NOW, DropInput::Prepared { hash: HASH, answer: Ok(PreparedCopy::Not(answer)) });
        assert_eq!(*one.outcome(), DropOutcome::Kept(expected));
    }
}

#[test]
fn many_contents_go_a_few_at_a_time() {
    let rules = DropRules { min_copies: 1, own_place: [0; 32], until: NOW + Duration::from_hours(1) };
    let contents = (0..200).map(|n| (ContentHash([n; 32]), 10 + u64::from(n)));
    let mut job = Dropping::new(rules, contents);
    let mut random = || [1; 32];
    let begun = job.handle(DropInput::Tick, NOW, &mut random);
    assert_eq!(begun.len(), AT_ONCE);
    let hash = ContentHash([0; 32]);
    let not_held = Ok(PreparedCopy::Not(MarkAnswer::NotHeld));
    let next = job.handle(DropInput::Prepared { hash, answer: not_held }, NOW, &mut random);
    assert_eq!(next.len(), 1);
    let ended = job.handle(DropInput::Cancel, NOW, &mut random);
    assert_eq!((ended.len(), job.left()), (0, AT_ONCE), "what is begun is brought to an end");
}

#[test]
fn large_contents_wait_for_each_other_and_one_that_is_too_large_goes_alone() {
    let rules = DropRules { min_copies: 1, own_place: [0; 32], until: NOW + Duration::from_hours(1) };
    let [small, large, huge] = [1, 2, 3].map(|n| ContentHash([n; 32]));
    let sizes = [(small, 10), (large, BYTES_AT_ONCE - 10), (huge, BYTES_AT_ONCE + 1)];
    let mut job = Dropping::new(rules, sizes);
    let mut begun = |input| -> Vec<ContentHash> {
        let hash = |effect| {
            let DropEffect::Prepare { hash, .. } = effect else { panic!("{effect:?}") };
            hash
        };
        job.handle(input, NOW, &mut || [1; 32]).into_iter().map(hash).collect()
    };
    assert_eq!(begun(DropInput::Tick), [small, large], "just as much as may be");
    let not_held = |hash| DropInput::Prepared { hash, answer: Ok(PreparedCopy::Not(MarkAnswer::NotHeld)) };
    assert_eq!(begun(not_held(small)), []);
    assert_eq!(begun(not_held(large)), [huge]);
}
