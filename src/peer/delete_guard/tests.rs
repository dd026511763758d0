mod clocks;
mod holds;

use proptest::prelude::*;

use super::decisions::{LISTED_ALWAYS, LISTED_MAX};
use super::*;
use crate::clock::Moment;
use crate::library::registry::KeptDeletions;
use crate::record::{AssetMeta, Hlc};

const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;
const START: u64 = 1_700_000_000_000;
const LIBRARY: &str = "1b";

fn deletion(n: u32) -> Deletion {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    Deletion { hash: ContentHash(hash), digest: hash, hlc: Hlc::from_ms(START) }
}

fn some(range: std::ops::Range<u32>) -> Vec<Deletion> {
    range.map(deletion).collect()
}

fn device(n: u8) -> Deleter {
    Deleter::of_device(&format!("{n:02x}").repeat(32))
}

fn ticket(serial: u64) -> Deleter {
    Deleter::of_ticket(LIBRARY.into(), serial)
}

fn record(deletion: &Deletion, deleted: bool, hlc: Hlc) -> AssetRecord {
    let record = AssetRecord::new(deletion.hash, 1, None, AssetMeta::default());
    AssetRecord { hlc, deleted, ..record }
}

/// Decisions and what was written down of them, at a time.
struct Test {
    decisions: Decisions,
    kept: KeptDeletions,
    now: u64,
}

impl Test {
    fn new() -> Self {
        Self { decisions: Decisions::default(), kept: KeptDeletions::default(), now: START }
    }

    /// What becomes of all of these, of which either all are applied or none.
    #[track_caller]
    fn judge(&mut self, by: &Deleter, deletions: &[Deletion], assets: u64) -> DeletionRuling {
        let rulings = self.judge_each(by, deletions, assets);
        assert!(rulings.iter().all(|ruling| *ruling == rulings[0]), "{rulings:?}");
        rulings[0]
    }

    fn judge_each(&mut self, by: &Deleter, deletions: &[Deletion], assets: u64) -> Vec<DeletionRuling> {
        let (rulings, changes) = self.decisions.judge(by, deletions, assets, self.now);
        self.write(changes);
        rulings
    }

    fn decide(&mut self, by: &[Deleter], decision: DeletionDecision) -> usize {
        let (about, changes) = self.decisions.decide(by, decision);
        self.write(changes);
        about.len()
    }

    fn note(&mut self, records: &[AssetRecord]) {
        let changes = self.decisions.note(records);
        self.write(changes);
    }

    /// As the registry does it.
    fn write(&mut self, changes: Vec<DeletionChange>) {
        let KeptDeletions { spent, held, decided, sizes } = &mut self.kept;
        for change in changes {
            match change {
                DeletionChange::Spent(by, at, count) => {
                    spent.retain(|(one, when, _)| (one, *when) != (&by, at));
                    spent.push((by, at, count));
                }
                DeletionChange::SpentBefore(before) => spent.retain(|(_, at, _)| *at >= before),
                DeletionChange::Refreshed(by) => spent.retain(|(one, ..)| *one != by),
                DeletionChange::Held(by, since, deletion) => {
                    held.retain(|(one, _, d)| (one, d.hash) != (&by, deletion.hash));
                    held.push((by, since, deletion));
                }
                DeletionChange::Released(by, hash) => {
                    held.retain(|(one, _, d)| (one, d.hash) != (&by, hash));
                }
                DeletionChange::Decided(library, deletion, decision) => {
                    decided.retain(|(one, d, _)| (one, d.hash) != (&library, deletion.hash));
                    decided.push((library, deletion, decision));
                }
                DeletionChange::Undecided(library, hash) => {
                    decided.retain(|(one, d, _)| (one, d.hash) != (&library, hash));
                }
                DeletionChange::Size(library, at, least) => {
                    sizes.retain(|(one, when, _)| (one, *when) != (&library, at));
                    sizes.push((library, at, least));
                }
                DeletionChange::SizesBefore(library, before) => {
                    sizes.retain(|(one, at, _)| *one != library || *at >= before);
                }
                DeletionChange::Redated { spent: anew, sizes: sizes_anew, now_ms } => {
                    (*spent, *sizes) = (anew, sizes_anew);
                    for (_, since, _) in held.iter_mut() {
                        *since = now_ms.min(*since);
                    }
                }
                DeletionChange::LibraryGone(library) => {
                    sizes.retain(|(one, ..)| *one != library);
                    spent.retain(|(by, ..)| by.library != library);
                    held.retain(|(by, ..)| by.library != library);
                    decided.retain(|(one, ..)| *one != library);
                }
            }
        }
    }

    fn size(&mut self, library: &str, assets: u64) {
        let changes = self.decisions.note_size(library, assets, self.now);
        self.write(changes);
    }

    fn restart(&mut self) {
        self.decisions = Decisions::new(self.kept.clone());
    }

    fn held_by(&self, by: &Deleter) -> usize {
        self.decisions.hold(by).map_or(0, |hold| hold.deletions.len())
    }
}

#[test]
fn twenty_or_a_tenth_may_go_in_an_hour() {
    let mut t = Test::new();
    assert_eq!(t.judge(&device(1), &some(0..20), 40), DeletionRuling::Apply);
    assert_eq!(t.judge(&device(1), &some(0..20), 20), DeletionRuling::Apply, "the same once more");
    assert_eq!(t.judge(&device(1), &some(20..21), 20), DeletionRuling::Hold);
    assert_eq!(t.decisions.held(), 1);
    let mut large = Test::new();
    assert_eq!(large.judge(&device(1), &some(0..100), 1_000), DeletionRuling::Apply);
    assert_eq!(large.judge(&device(1), &some(100..101), 900), DeletionRuling::Hold);
}

#[test]
fn an_hour_makes_room_again_but_a_day_has_a_budget_of_its_own() {
    let mut t = Test::new();
    let mut gone = 0;
    // A tenth each hour would leave 8 of 100 after a day.
    for hour in 0..24 {
        t.now = START + hour * (HOUR + 6 * MINUTE);
        let next = some(gone..gone + 20);
        if t.judge(&device(1), &next, 200 - u64::from(gone)) == DeletionRuling::Apply {
            gone += 20;
        } else {
            break;
        }
    }
    assert_eq!(gone, 40, "a fifth of what was there when the day began");
    // A day after the last of them there is room again, but time alone confirms nothing.
    t.now += 25 * HOUR;
    assert_eq!(t.judge(&device(1), &some(500..501), 160), DeletionRuling::Hold);
    assert_eq!(t.judge(&device(2), &some(501..502), 160), DeletionRuling::Apply);
}

#[test]
fn budgets_and_holds_survive_a_restart() {
    let mut t = Test::new();
    assert_eq!(t.judge(&device(1), &some(0..20), 40), DeletionRuling::Apply);
    t.restart();
    assert_eq!(t.judge(&device(1), &some(20..21), 20), DeletionRuling::Hold);
    t.restart();
    assert_eq!(t.held_by(&device(1)), 1);
    for day in 1..4 {
        t.now = START + day * 24 * HOUR;
        t.restart();
        assert_eq!(t.judge(&device(1), &some(21..22), 20), DeletionRuling::Hold, "nor a small one behind it");
    }
    assert_eq!((t.held_by(&device(1)), t.decide(&[device(1)], DeletionDecision::Confirmed)), (2, 2));
    t.restart();
    assert_eq!(t.judge(&device(1), &some(20..22), 20), DeletionRuling::Apply);
    assert_eq!(t.kept.spent, [], "what was confirmed is not counted");
}

#[test]
fn one_hold_stops_no_other() {
    let mut t = Test::new();
    assert_eq!(t.judge(&device(1), &some(0..30), 100), DeletionRuling::Hold);
    assert_eq!(t.judge(&device(2), &some(30..40), 100), DeletionRuling::Apply);
    assert_eq!(t.judge(&ticket(3), &some(0..30), 100), DeletionRuling::Hold);
    assert_eq!(t.judge(&ticket(4), &some(50..60), 100), DeletionRuling::Apply);
    assert_eq!(t.decisions.held(), 30, "assets count once");
    assert_eq!(t.decisions.holds().count(), 2);
    assert_eq!(t.decide(&[ticket(3)], DeletionDecision::Confirmed), 30);
    assert_eq!(t.judge(&device(1), &some(0..30), 100), DeletionRuling::Hold, "that was about the library");
    assert_eq!(t.judge(&ticket(4), &some(0..30), 100), DeletionRuling::Apply, "by any member");
}

#[test]
fn who_passes_on_what_waits_is_not_held_back_with_it() {
    let mut t = Test::new();
    assert_eq!(t.judge(&device(1), &some(0..30), 100), DeletionRuling::Hold);
    for _ in 0..3 {
        assert_eq!(t.judge(&device(2), &some(0..30), 100), DeletionRuling::Hold);
    }
    assert_eq!((t.held_by(&device(1)), t.held_by(&device(2))), (30, 0));
    assert_eq!(t.judge(&device(2), &some(40..60), 100), DeletionRuling::Apply);
    t.restart();
    assert!(t.decisions.is_put_off("", &deletion(29)) && !t.decisions.is_put_off("", &deletion(30)));
    assert!(!t.decisions.is_put_off(LIBRARY, &deletion(29)), "in another library nobody brought it");
    let anew = Deletion { digest: [9; 32], ..deletion(29) };
    assert!(!t.decisions.is_put_off("", &anew), "another version of it is another deletion");
    t.decide(&[device(1)], DeletionDecision::Confirmed);
    assert!(!t.decisions.is_put_off("", &deletion(29)), "it goes now");
    assert_eq!(t.judge(&device(2), &some(0..30), 100), DeletionRuling::Apply);
}

#[test]
fn what_is_put_again_and_deleted_again_counts_again() {
    let mut t = Test::new();
    assert_eq!(t.judge(&ticket(3), &some(0..20), 40), DeletionRuling::Apply);
    let again: Vec<Deletion> = some(0..1).into_iter().map(|d| Deletion { digest: [7; 32], ..d }).collect();
    assert_eq!(t.judge(&ticket(3), &again, 40), DeletionRuling::Hold);
}

#[test]
fn a_ticket_with_many_endpoints_has_one_budget_and_many_devices_have_three() {
    let mut t = Test::new();
    assert_eq!(t.judge(&ticket(3), &some(0..20), 100), DeletionRuling::Apply);
    assert_eq!(t.judge(&ticket(3), &some(20..21), 80), DeletionRuling::Hold);
    // Each of them comes within its own budget.
    let applied = (0..64).filter(|n| {
        let from = u32::from(*n) * 20;
        t.judge(&device(*n), &some(from..from + 20), 100) == DeletionRuling::Apply
    });
    assert_eq!(applied.count(), 3);
}

#[test]
fn one_that_deletes_much_takes_nothing_from_the_others() {
    for greedy in [0, 20] {
        let mut t = Test::new();
        if greedy > 0 {
            assert_eq!(t.judge(&ticket(9), &some(0..greedy), 100), DeletionRuling::Apply);
            assert_eq!(t.judge(&ticket(9), &some(50..90), 80), DeletionRuling::Hold);
        }
        // As much as they may without it.
        assert_eq!(t.judge(&ticket(1), &some(100..120), 100), DeletionRuling::Apply);
        assert_eq!(t.judge(&ticket(2), &some(120..130), 100), DeletionRuling::Apply);
        assert_eq!(
            t.judge(&ticket(3), &some(130..135), 100),
            DeletionRuling::Apply,
            "{greedy} by another one"
        );
        t.restart();
        assert_eq!(
            t.judge(&ticket(4), &some(140..145), 100),
            DeletionRuling::Apply,
            "{greedy} by another one"
        );
    }
}

#[test]
fn what_was_added_lately_gives_nobody_more_to_delete() {
    let mut t = Test::new();
    t.size("", 200);
    t.now += 2 * HOUR;
    t.size("", 5_000);
    t.restart();
    assert_eq!(t.judge(&device(1), &some(0..21), 5_000), DeletionRuling::Hold, "200 were here");
    t.decide(&[device(1)], DeletionDecision::Rejected);
    assert_eq!(t.judge(&device(2), &some(100..120), 5_000), DeletionRuling::Apply, "a tenth of those");
    // Nor do small ones that came to be deleted.
    assert_eq!(t.judge(&device(2), &some(120..121), 5_000), DeletionRuling::Hold);
    assert_eq!(t.judge(&ticket(3), &some(200..300), 5_000), DeletionRuling::Apply, "another set");
    t.now += 25 * HOUR;
    assert_eq!(t.judge(&device(3), &some(400..800), 5_000), DeletionRuling::Apply, "they are here for a day");
}

#[test]
fn a_day_begins_with_what_was_here_before_the_node_was_off() {
    let mut t = Test::new();
    t.size("", 300);
    t.now += 24 * 7 * HOUR;
    t.restart();
    t.size("", 9_000);
    assert_eq!(t.judge(&device(1), &some(0..31), 9_000), DeletionRuling::Hold);
    // What was looked at since is known for a day, and no longer.
    for _ in 0..60 {
        t.now += HOUR;
        t.size("", 9_000);
    }
    t.restart();
    assert_eq!(t.judge(&device(2), &some(100..1_000), 9_000), DeletionRuling::Apply);
    assert!(t.kept.sizes.len() <= 26, "{}", t.kept.sizes.len());
}

#[test]
fn a_set_that_shrinks_keeps_the_share_that_it_had() {
    let mut t = Test::new();
    for hour in 0..30 {
        t.size("", 1_000);
        t.now = START + hour * HOUR;
    }
    assert_eq!(t.judge(&device(1), &some(0..60), 1_000), DeletionRuling::Apply);
    t.size("", 940);
    assert_eq!(
        t.judge(&device(1), &some(60..100), 940),
        DeletionRuling::Apply,
        "a tenth of what was there before"
    );
    t.size("", 900);
    assert_eq!(t.judge(&device(1), &some(100..101), 900), DeletionRuling::Hold);
    // Who owns it deletes most of it: now there is less to share.
    t.size("", 300);
    assert_eq!(t.judge(&device(2), &some(200..260), 300), DeletionRuling::Hold);
}

#[test]
fn a_new_machine_counts_once_it_is_filled() {
    let mut t = Test::new();
    t.size("", 0);
    for n in 1..=20 {
        t.now += MINUTE / 2;
        t.size("", n * 100);
        assert_eq!(t.kept.sizes, [], "{n}");
    }
    t.now += 2 * MINUTE;
    t.size("", 2_000);
    assert_eq!(t.kept.sizes.len(), 1);
    t.now += 2 * MINUTE;
    t.size("", 9_000);
    assert_eq!(t.judge(&device(1), &some(0..200), 9_000), DeletionRuling::Apply);
    assert_eq!(t.judge(&device(1), &some(200..230), 8_800), DeletionRuling::Hold);
    // What grows and grows is no new one for ever.
    t.size(LIBRARY, 0);
    for n in 1..=100 {
        t.now += MINUTE;
        t.size(LIBRARY, n * 100);
    }
    assert_eq!(t.judge(&ticket(3), &some(0..700), 10_000), DeletionRuling::Hold);
}

#[test]
fn the_same_deletions_from_several_peers_count_once() {
    let mut t = Test::new();
    for n in 0..5 {
        assert_eq!(t.judge(&device(n), &some(0..20), 100), DeletionRuling::Apply);
    }
    assert_eq!(t.judge(&device(6), &some(20..40), 80), DeletionRuling::Apply);
}

proptest! {
    /// Whatever members bring in whatever order, over restarts: no deleter has more applied in an hour or a day than its
    /// budget, and a library no more than three times as much, unless somebody confirmed it.
    #[test]
    fn no_order_of_events_lets_more_through(
        events in prop::collection::vec((0_u8..4, 0_u32..200, 1_u32..25, 0_u64..40, any::<[bool; 2]>()), 1..60)
    ) {
        let mut t = Test::new();
        let mut live: HashSet<u32> = (0..200).collect();
        let mut applied: Vec<(u64, u8, usize, u64)> = Vec::new();
        for (who, from, count, minutes, [restart, reject]) in events {
            t.now += minutes * MINUTE;
            if restart {
                t.restart();
            }
            let going: Vec<u32> = (from..(from + count).min(200)).filter(|n| live.contains(n)).collect();
            if going.is_empty() {
                continue;
            }
            let deletions: Vec<Deletion> = going.iter().map(|n| deletion(*n)).collect();
            let before = live.len() as u64;
            let rulings = t.judge_each(&device(who), &deletions, before);
            let gone: Vec<u32> =
                going.into_iter().zip(rulings).filter(|(_, r)| *r == DeletionRuling::Apply).map(|(n, _)| n).collect();
            for n in &gone {
                live.remove(n);
            }
            applied.push((t.now, who, gone.len(), before));
            if reject {
                // So that a hold does not hide what the budgets would let through.
                t.decide(&[device(who)], DeletionDecision::Rejected);
            }
            for (span, free, divisor) in [(HOUR, 20, 10), (24 * HOUR, 40, 5)] {
                let recent = applied.iter().filter(|(at, ..)| *at > t.now.saturating_sub(span));
                let allowed = free.max(200 / divisor);
                let own: usize = recent.clone().filter(|(_, one, ..)| *one == who).map(|(_, _, n, _)| n).sum();
                let together: usize = recent.map(|(_, _, n, _)| n).sum();
                prop_assert!(own <= allowed && together <= 3 * allowed, "{own} and {together} of {allowed}");
            }
        }
    }
}

#[test]
fn what_cannot_be_counted_on_the_disk_is_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libraries.db");
    let registry = Registry::open(&path).unwrap();
    let guard = DeleteGuard::open(true, Some(&registry), Clock::system(), EventLog::default()).unwrap();
    assert_eq!(guard.judge(&device(1), &some(0..1), 40), [DeletionRuling::Apply]);
    rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE deletions_spent").unwrap();
    assert_eq!(guard.judge(&device(1), &some(1..2), 40), [DeletionRuling::Hold]);
    assert_eq!(guard.held(), 0, "nobody has to decide: it comes again");
}
