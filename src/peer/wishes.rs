//! Contents that are wanted and not here, although their records are: no comparison of records finds them, so peers are
//! asked for them by name. Pure: time comes in.
//!
//! One for each library of a session. A round asks for up to [`ROUND_MAX`] of them, a few at a time, and the next round goes on behind
//! it: at once where some of them came, else after [`ROUND_APART`]. That the peer says to have one is nothing that came.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::record::ContentHash;

/// Contents that are asked for in one round.
pub const ROUND_MAX: usize = 1_000;
/// Time between two rounds when the first one led to nothing.
pub const ROUND_APART: Duration = Duration::from_mins(3);
/// Time between two rounds where more is missing than before.
pub const MISSED_APART: Duration = Duration::from_secs(5);
/// Contents that the peer was asked for and has not answered yet.
pub const UNANSWERED_MAX: usize = 16;
/// Contents that the peer said to have and that are on their way: what an offer costs is bounded there, too.
const COMING_MAX: usize = 1_000;

#[derive(Debug)]
pub struct Wishes {
    /// Asked for, and not answered.
    open: HashSet<ContentHash>,
    /// The peer said to have them, and they did not come yet.
    coming: HashSet<ContentHash>,
    /// The last that was asked for: the next ones are behind it.
    after: Option<ContentHash>,
    /// How many were asked for in this round.
    asked: usize,
    /// One of them came.
    found: bool,
    /// Nothing is asked for before.
    next_at: Instant,
    /// When the peer was last asked.
    moved_at: Instant,
}

impl Wishes {
    /// For a session that begins: its first round is due.
    pub fn new(now: Instant) -> Self {
        let (open, coming) = (HashSet::new(), HashSet::new());
        Self { open, coming, after: None, asked: 0, found: false, next_at: now, moved_at: now }
    }

    /// What to ask the peer for now, while so many contents are on their way from it. `wanted` gives so many of those that
    /// are missing, in the order of their hashes, from behind one.
    pub fn next(
        &mut self,
        now: Instant,
        coming: usize,
        wanted: impl FnOnce(Option<ContentHash>, usize) -> Vec<ContentHash>,
    ) -> Vec<ContentHash> {
        if now >= self.moved_at + ROUND_APART {
            // An answer may be lost, or never come; what is missing is asked for again in its turn.
            self.open.clear();
            self.coming.clear();
        }
        let room = UNANSWERED_MAX.saturating_sub(self.open.len()).min(ROUND_MAX - self.asked);
        if now < self.next_at || coming >= COMING_MAX {
            return Vec::new();
        }
        let hashes = if room > 0 { wanted(self.after, room) } else { Vec::new() };
        if hashes.is_empty() {
            self.end_round(now, room > 0);
            return hashes;
        }
        self.moved_at = now;
        self.after = hashes.last().copied();
        self.asked += hashes.len();
        self.open.extend(&hashes);
        hashes
    }

    /// Ends the round once the peer has answered all of it. `at_the_end` says that nothing is missing behind the last one.
    fn end_round(&mut self, now: Instant, at_the_end: bool) {
        if !self.open.is_empty() || !(at_the_end || self.asked == ROUND_MAX) {
            return;
        }
        if at_the_end {
            self.after = None;
        }
        let goes_on = std::mem::take(&mut self.found) && self.asked > 0;
        self.asked = 0;
        if !goes_on {
            self.next_at = now + ROUND_APART;
        }
    }

    /// The peer answered, if it was asked: it has this, or not.
    pub fn answered(&mut self, hash: &ContentHash, has: bool) {
        if self.open.remove(hash) && has && self.coming.len() < COMING_MAX {
            self.coming.insert(*hash);
        }
    }

    /// More is missing than before: the next round does not wait its time.
    pub fn missed(&mut self, now: Instant) {
        self.next_at = self.next_at.min(now.max(self.moved_at + MISSED_APART));
    }

    /// This is here. If the peer was asked for it, there may be more to be had.
    pub fn came(&mut self, hash: &ContentHash, now: Instant) {
        if self.coming.remove(hash) {
            // The round may have ended while it was on its way.
            if self.next_at > now {
                self.next_at = now;
            } else {
                self.found = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use super::*;

    fn hash(n: usize) -> ContentHash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(n as u64).to_be_bytes());
        ContentHash(hash)
    }

    /// A peer that has some of what is asked for, and what of that is still missing here.
    struct WishSource {
        has: BTreeSet<ContentHash>,
        missing: BTreeSet<ContentHash>,
        asked: Vec<ContentHash>,
    }

    impl WishSource {
        fn new(missing: usize, has: impl IntoIterator<Item = usize>) -> Self {
            Self {
                has: has.into_iter().map(hash).collect(),
                missing: (0..missing).map(hash).collect(),
                asked: Vec::new(),
            }
        }

        /// Asks until nothing is asked for at this moment; what the peer has arrives at once.
        fn drain(&mut self, wishes: &mut Wishes, now: Instant) -> usize {
            let before = self.asked.len();
            // The end of one round and the beginning of the next may take a look each.
            for _ in 0..self.missing.len() + 10 {
                let missing = &self.missing;
                let asked = wishes.next(now, 0, |after, limit| {
                    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                    missing.range((from, Bound::Unbounded)).take(limit).copied().collect()
                });
                assert!(asked.len() <= UNANSWERED_MAX);
                for hash in &asked {
                    let has = self.has.contains(hash);
                    wishes.answered(hash, has);
                    if has {
                        self.missing.remove(hash);
                        wishes.came(hash, now);
                    }
                }
                self.asked.extend(asked);
            }
            self.asked.len() - before
        }
    }

    #[test]
    fn a_round_that_leads_to_nothing_is_the_last_for_a_while() {
        let now = Instant::now();
        let (mut wishes, mut peer) = (Wishes::new(now), WishSource::new(2_500, []));
        assert_eq!(peer.drain(&mut wishes, now), ROUND_MAX);
        assert_eq!(peer.drain(&mut wishes, now + ROUND_APART / 2), 0);
        assert_eq!(peer.drain(&mut wishes, now + ROUND_APART), ROUND_MAX);
        assert_eq!(peer.drain(&mut wishes, now + ROUND_APART * 2), 500, "the rest");
        assert_eq!(peer.asked.iter().collect::<BTreeSet<_>>().len(), 2_500, "each of them once");
        assert_eq!(peer.drain(&mut wishes, now + ROUND_APART * 3), ROUND_MAX, "from the beginning");
    }

    #[test]
    fn what_the_peer_has_comes_without_a_pause() {
        let now = Instant::now();
        let (mut wishes, mut peer) = (Wishes::new(now), WishSource::new(2_500, 0..2_500));
        assert_eq!(peer.drain(&mut wishes, now), 2_500);
        assert!(peer.missing.is_empty());
        // Nothing is wanted, and the next look is not before its time.
        peer.missing.insert(hash(0));
        assert_eq!(peer.drain(&mut wishes, now), 0);
        assert_eq!(peer.drain(&mut wishes, now + ROUND_APART), 1);
    }

    #[test]
    fn what_the_peer_only_says_to_have_is_asked_for_once_in_a_round() {
        let start = Instant::now();
        let mut wishes = Wishes::new(start);
        let missing: BTreeSet<ContentHash> = (0..40).map(hash).collect();
        let ask = |wishes: &mut Wishes, now: Instant| {
            let mut asked = Vec::new();
            for _ in 0..50 {
                let next = wishes.next(now, 0, |after, limit| {
                    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                    missing.range((from, Bound::Unbounded)).take(limit).copied().collect()
                });
                for hash in &next {
                    wishes.answered(hash, true);
                }
                asked.extend(next);
            }
            asked
        };
        for round in 0..4 {
            let now = start + ROUND_APART * round;
            assert_eq!(ask(&mut wishes, now).len(), 40);
            assert_eq!(ask(&mut wishes, now + ROUND_APART / 2), []);
        }
        // One that comes after all, while the next round is waited for.
        let now = start + ROUND_APART * 3 + ROUND_APART / 2;
        wishes.came(&hash(7), now);
        assert_eq!(ask(&mut wishes, now).len(), 40);
        wishes.came(&hash(77_777), now);
        assert_eq!(ask(&mut wishes, now + ROUND_APART / 2), [], "it was not asked for that");
    }

    #[test]
    fn a_peer_that_does_not_answer_is_asked_again() {
        let start = Instant::now();
        let mut wishes = Wishes::new(start);
        let all = |after: Option<ContentHash>, limit| {
            let first = after.map_or(0, |after| u64::from_be_bytes(after.0[..8].try_into().unwrap()) + 1);
            (first..20).take(limit).map(|n| hash(usize::try_from(n).unwrap())).collect()
        };
        assert_eq!(wishes.next(start, 0, all).len(), UNANSWERED_MAX);
        assert_eq!(wishes.next(start + ROUND_APART / 2, 0, all), []);
        let later = start + ROUND_APART;
        assert_eq!(wishes.next(later, 0, all).len(), 20 - UNANSWERED_MAX, "the round goes on");
        let asked_again = (1..10).any(|n| wishes.next(later + ROUND_APART * n, 0, all).contains(&hash(0)));
        assert!(asked_again, "and begins anew");
    }

    #[test]
    fn no_more_is_asked_for_than_is_answered_and_arrives() {
        let now = Instant::now();
        let mut wishes = Wishes::new(now);
        let all = |after: Option<ContentHash>, limit| {
            let first = after.map_or(0, |after| u64::from_be_bytes(after.0[..8].try_into().unwrap()) + 1);
            (first..).take(limit).map(|n| hash(usize::try_from(n).unwrap())).collect()
        };
        assert_eq!(wishes.next(now, COMING_MAX, all), []);
        let asked = wishes.next(now, 0, all);
        assert_eq!(asked.len(), UNANSWERED_MAX);
        assert_eq!(wishes.next(now, 0, all), []);
        wishes.answered(&asked[3], true);
        assert_eq!(wishes.next(now, 0, all), [hash(UNANSWERED_MAX)]);
        wishes.answered(&hash(77_777), true);
        assert_eq!(wishes.next(now, 0, all), [], "it was not asked for that");
    }

    #[test]
    fn what_is_missing_anew_is_asked_for_soon_and_not_without_end() {
        let start = Instant::now();
        let mut wishes = Wishes::new(start);
        let mut source = WishSource::new(3, []);
        assert!(source.drain(&mut wishes, start) > 0);
        assert_eq!(source.drain(&mut wishes, start + MISSED_APART), 0, "all were asked for in vain");
        let later = start + MISSED_APART;
        source.has.insert(hash(3));
        source.missing.insert(hash(3));
        wishes.missed(later);
        assert!(source.drain(&mut wishes, later) > 0);
        assert!(!source.missing.contains(&hash(3)), "it came");
        // Again and again: a round every so often, and no more.
        let rounds = (0..100).filter(|n| {
            let now = later + Duration::from_millis(100) * (n + 1);
            source.missing.insert(hash(4));
            wishes.missed(now);
            source.drain(&mut wishes, now) > 0
        });
        assert!(rounds.count() <= 4);
    }
}
