//! Endpoint ids that two machines have at once: both run on copies of one data directory. Pure.
//!
//! Each run of a node has a boot id, chosen by chance. A node that is started anew shows another one, and the former never
//! again. Of two machines both show theirs: in turns, or the older connection is alive when the newer has a session.
//!
//! Only what this node saw itself counts: sessions, in which the peer proved its endpoint id, and announcements, which are
//! signed with the endpoint's key and heard in the order of their dates. Each is compared with its own kind alone: an
//! announcement of a former run may arrive after the first session of the next one.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use iroh::EndpointId;
use tokio::time::Instant;

/// How long it is told after the last sign of it. Machines that are turned away come again two or three times within this.
pub const DOUBLED_FOR: Duration = Duration::from_secs(90);
/// How long it is known which runs there were.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// Runs of one id that are told apart.
const RUNS_MAX: usize = 4;
/// Ids of which runs are known.
const IDS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    Session,
    Announcement,
}

#[derive(Clone, Debug, Default)]
pub struct Doubles {
    seen: HashMap<EndpointId, SeenRuns>,
}

#[derive(Clone, Debug)]
struct SeenRuns {
    /// Boot ids, the last one that showed itself at the end.
    sessions: VecDeque<u64>,
    announcements: VecDeque<u64>,
    seen: Instant,
    doubled: Option<Instant>,
}

impl Doubles {
    /// A run of `id` showed itself. Whether that makes it known that there are two.
    pub fn note(&mut self, id: EndpointId, boot_id: u64, sighting: Sighting, now: Instant) -> bool {
        let seen = self.entry(id, now);
        let runs = match sighting {
            Sighting::Session => &mut seen.sessions,
            Sighting::Announcement => &mut seen.announcements,
        };
        if runs.back() == Some(&boot_id) {
            return false;
        }
        let again = runs.contains(&boot_id);
        runs.retain(|other| *other != boot_id);
        runs.push_back(boot_id);
        if runs.len() > RUNS_MAX {
            runs.pop_front();
        }
        again && self.note_both(id, now)
    }

    /// Two runs of `id` showed that they are there at the same time. Whether that was not known.
    pub fn note_both(&mut self, id: EndpointId, now: Instant) -> bool {
        let known = self.is_doubled(&id, now);
        self.entry(id, now).doubled = Some(now);
        !known
    }

    pub fn is_doubled(&self, id: &EndpointId, now: Instant) -> bool {
        self.seen.get(id).is_some_and(|seen| seen.is_doubled(now))
    }

    pub fn doubled(&self, now: Instant) -> Vec<EndpointId> {
        let mut doubled: Vec<EndpointId> =
            self.seen.iter().filter(|(_, seen)| seen.is_doubled(now)).map(|(id, _)| *id).collect();
        doubled.sort_unstable();
        doubled
    }

    /// The entry of an id. Without room, what was not seen for longest goes, and those last that two machines have.
    fn entry(&mut self, id: EndpointId, now: Instant) -> &mut SeenRuns {
        if self.seen.len() >= IDS_MAX && !self.seen.contains_key(&id) {
            self.seen.retain(|_, seen| now.saturating_duration_since(seen.seen) < KEPT_FOR);
            let least = self.seen.iter().min_by_key(|(_, seen)| (seen.is_doubled(now), seen.seen));
            let least = least.map(|(id, _)| *id).filter(|_| self.seen.len() >= IDS_MAX);
            least.and_then(|least| self.seen.remove(&least));
        }
        let seen = self.seen.entry(id).or_insert_with(|| SeenRuns {
            sessions: VecDeque::new(),
            announcements: VecDeque::new(),
            seen: now,
            doubled: None,
        });
        if now.saturating_duration_since(seen.seen) >= KEPT_FOR {
            seen.sessions.clear();
            seen.announcements.clear();
        }
        seen.seen = now;
        seen
    }
}

impl SeenRuns {
    fn is_doubled(&self, now: Instant) -> bool {
        self.doubled.is_some_and(|at| now.saturating_duration_since(at) < DOUBLED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u16) -> EndpointId {
        let mut seed = [5; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_bytes(&seed).public()
    }

    /// Whether the runs showed two machines, each a second after the one before.
    fn shows(doubles: &mut Doubles, runs: &[u64], sighting: Sighting) -> bool {
        let now = Instant::now();
        let at = |second: usize| now + Duration::from_secs(second as u64);
        runs.iter()
            .enumerate()
            .fold(false, |shown, (second, run)| doubles.note(id(1), *run, sighting, at(second)) || shown)
    }

    #[test]
    fn machines_that_take_turns_are_two() {
        for sighting in [Sighting::Session, Sighting::Announcement] {
            for runs in [&[1, 2, 1][..], &[1, 2, 2, 1], &[1, 2, 3, 1], &[1, 2, 3, 2]] {
                assert!(shows(&mut Doubles::default(), runs, sighting), "{runs:?}");
            }
        }
    }

    #[test]
    fn an_announcement_that_is_late_is_no_second_machine() {
        let (mut doubles, now) = (Doubles::default(), Instant::now());
        for (run, sighting) in [
            (1, Sighting::Announcement),
            (1, Sighting::Session),
            (2, Sighting::Session),
            (1, Sighting::Announcement),
            (2, Sighting::Announcement),
        ] {
            assert!(!doubles.note(id(1), run, sighting, now));
        }
        assert!(doubles.doubled(now).is_empty());
    }

    #[test]
    fn it_is_told_once_and_forgotten_once_there_is_no_sign_of_it() {
        let (mut doubles, mut now) = (Doubles::default(), Instant::now());
        assert!(doubles.note_both(id(1), now));
        for _ in 0..20 {
            now += DOUBLED_FOR / 2;
            assert!(!doubles.note_both(id(1), now), "it is known");
        }
        assert_eq!(doubles.doubled(now), [id(1)]);
        now += DOUBLED_FOR;
        assert!(!doubles.is_doubled(&id(1), now));
        assert!(doubles.note_both(id(1), now), "it is news again");
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (mut doubles, mut now) = (Doubles::default(), Instant::now());
        for n in 0..u16::try_from(IDS_MAX).unwrap() + 100 {
            now += Duration::from_millis(1);
            doubles.note(id(n), 1, Sighting::Session, now);
            doubles.note_both(id(0), now);
        }
        assert_eq!(doubles.seen.len(), IDS_MAX);
        assert!(doubles.is_doubled(&id(0), now), "others make room first");
    }

    proptest! {
        #[test]
        fn no_restart_however_often_is_a_second_machine(times in vec(0_usize..4, 1..40)) {
            // A run shows itself some times, and then the next one does.
            let runs: Vec<u64> = times
                .iter()
                .enumerate()
                .flat_map(|(run, times)| std::iter::repeat_n(run as u64, *times))
                .collect();
            prop_assert!(!shows(&mut Doubles::default(), &runs, Sighting::Session));
        }
    }
}
