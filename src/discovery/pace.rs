//! When to announce ourselves: the more agents there are, the less often; and when to join the swarm through more of them. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How often we say that we are there, in a network of up to about five hundred.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// Announcements per second that all agents together make, as far as they know of each other: every agent hears all of them, and
/// looks at 64 at most. A directory holds 4,096 agents, so ten thousand, who take each other for as many, make about forty.
const ANNOUNCEMENTS_PER_SEC: u32 = 16;
/// A sign of life counts for so long, or for so many periods where those are long: one that got lost ends nobody.
pub const ALIVE_FOR: Duration = Duration::from_mins(2);
const ALIVE_FOR_PERIODS: f64 = 2.5;
/// Shortest time between two announcements, whatever there is to say: twice what receivers ask for, and longer in a large
/// network, up to what a flood of invented agents may make of it.
const ANNOUNCE_GAP: Duration = Duration::from_secs(2);
const ANNOUNCE_GAP_MAX: Duration = Duration::from_secs(10);

/// Below this many neighbours, more are looked for.
pub const NEIGHBOURS_WANTED: usize = 4;
/// Who has some neighbours, and too few, leaves it to gossip for so long to find others among those that it knows of. To join
/// through somebody takes a neighbour from about six agents; if all of those did the same at once, nobody would ever come to
/// rest, as simulated networks of thirty and more agents did not.
const FEW_FOR: Duration = Duration::from_secs(5);
/// What chance adds to it, at most.
const FEW_FOR_MORE: Duration = Duration::from_secs(5);
/// However many neighbours there are, another agent is joined this often: a swarm can split into parts that each have
/// enough.
pub const HEAL_EVERY: Duration = Duration::from_mins(3);

/// When to join the swarm through more agents.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinPace {
    /// Since there are few neighbours, or one more was joined: when it is time for another.
    due: Option<Instant>,
    heal_at: Option<Instant>,
}

impl JoinPace {
    /// Through how many agents to join now, with so many neighbours; by a `draw` from 0 up to 1.
    pub fn joins(&mut self, neighbours: usize, now: Instant, draw: f64) -> usize {
        if neighbours == 0 {
            self.due = None;
            // One more than are wanted: some of them do not answer.
            return NEIGHBOURS_WANTED + 1;
        }
        let heal_at = *self.heal_at.get_or_insert(now + jittered(HEAL_EVERY, draw));
        if now >= heal_at {
            self.heal_at = None;
            return 1;
        }
        if neighbours >= NEIGHBOURS_WANTED {
            self.due = None;
            return 0;
        }
        let wait = FEW_FOR + FEW_FOR_MORE.mul_f64(draw);
        let due = *self.due.get_or_insert(now + wait);
        if now < due {
            return 0;
        }
        self.due = Some(now + wait);
        1
    }
}

/// How long to wait between announcements of what others need to know, such as where we are now, in a network of so many others.
pub fn news_gap(others: u32) -> Duration {
    all_together(others).clamp(ANNOUNCE_GAP, ANNOUNCE_GAP_MAX)
}

/// The same for how much we hold: that changes everywhere at once, as an asset reaches all.
pub fn counts_gap(others: u32) -> Duration {
    all_together(others).max(ANNOUNCE_GAP)
}

/// How often to announce ourselves, with this many others.
pub fn announce_period(others: u32) -> Duration {
    all_together(others).max(ANNOUNCE_EVERY)
}

/// How long a sign of life counts in a network of so many others.
pub fn alive_for(others: u32) -> Duration {
    announce_period(others).mul_f64(ALIVE_FOR_PERIODS).max(ALIVE_FOR)
}

/// What it takes that each of them announces itself once.
fn all_together(others: u32) -> Duration {
    Duration::from_secs(u64::from(others / ANNOUNCEMENTS_PER_SEC))
}

/// A tenth less at most, by a `draw` from 0 up to 1, so that agents which started together do not speak together for ever.
pub fn jittered(period: Duration, draw: f64) -> Duration {
    period.mul_f64(1.0 - 0.1 * draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_joins_at_once_and_who_has_few_neighbours_later() {
        let now = Instant::now();
        let at = |secs: u64| now + Duration::from_secs(secs);
        let mut pace = JoinPace::default();
        assert_eq!([0, 1].map(|secs| pace.joins(0, at(secs), 0.5)), [5, 5]);
        assert_eq!([2, 6, 9].map(|secs| pace.joins(3, at(secs), 0.0)), [0, 0, 1]);
        assert_eq!([10, 13, 14].map(|secs| pace.joins(1, at(secs), 0.0)), [0, 0, 1]);
        // Gossip found somebody by itself.
        assert_eq!(pace.joins(4, at(18), 0.0), 0);
        assert_eq!([30, 34, 35].map(|secs| pace.joins(3, at(secs), 0.0)), [0, 0, 1]);
        assert_eq!(pace.joins(0, at(36), 0.0), 5);
    }

    #[test]
    fn who_has_enough_neighbours_joins_another_one_now_and_then() {
        let now = Instant::now();
        let mut pace = JoinPace::default();
        let mut joins = |secs| pace.joins(5, now + Duration::from_secs(secs), 0.0);
        let times: Vec<u64> = (0..600).filter(|secs| joins(*secs) > 0).collect();
        assert_eq!(times, [180, 361, 542]);
    }

    #[test]
    fn a_large_network_speaks_less_often_and_stays_alive() {
        let secs = |of: fn(u32) -> Duration| [0, 80, 1_600, 4_096].map(|alive| of(alive).as_secs());
        assert_eq!(secs(news_gap), [2, 5, 10, 10]);
        assert_eq!(secs(counts_gap), [2, 5, 100, 256]);
        assert_eq!(secs(announce_period), [30, 30, 100, 256]);
        assert_eq!(secs(alive_for), [120, 120, 250, 640]);
        assert_eq!(
            [0.0, 0.5, 1.0].map(|draw| jittered(ANNOUNCE_EVERY, draw).as_millis()),
            [30_000, 28_500, 27_000]
        );
    }
}
