//! What came of it.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::WATCHED;

/// Agents from which it is counted how far the others are.
const ORIGINS: usize = 20;

/// Everything is per agent, and per minute where it is a rate; rates are those of the steady state.
#[derive(Clone, Debug, Default)]
#[allow(dead_code, reason = "the bench shows what the test does not ask for")]
pub(crate) struct SwarmFigures {
    pub(crate) agents: usize,
    /// From an agent's start to its first session: the median, and the last one. `None` if somebody has had none.
    pub(crate) first_session: Option<(Duration, Duration)>,
    /// When all were in one graph of sessions, and in one swarm, since the first one started.
    pub(crate) one_graph: Option<Duration>,
    pub(crate) one_swarm: Option<Duration>,
    /// In the end.
    pub(crate) is_one_graph: bool,
    pub(crate) is_one_swarm: bool,
    /// Connections of an agent, on the average and at most.
    pub(crate) connections: (f64, usize),
    /// How many sessions a new asset passes, on the average and at most.
    pub(crate) hops: (f64, usize),
    /// How many agents pass an announcement on at most.
    pub(crate) announcement_hops: u16,
    /// Agents that an agent counts as alive.
    pub(crate) alive: u32,
    pub(crate) rates: Rates,
    /// Requests about slots from an agent's start until the steady state began.
    pub(crate) requests_before: f64,

    // Counts since the steady state began, or since the start until then.
    pub(super) dials: u64,
    pub(super) turned_away: u64,
    pub(super) questions: u64,
    pub(super) probes: u64,
    pub(super) announcements: u64,
    pub(super) spread: u64,
    pub(super) heard: u64,
    pub(super) refused: u64,
    pub(super) gossip_messages: u64,
    pub(super) slot_reads: u64,
    pub(super) slot_writes: u64,
    minutes: f64,
    swarm_before: (u64, u64),
}

/// Per agent and minute.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "as above")]
pub(crate) struct Rates {
    pub(crate) announced: f64,
    /// Announcements that come to an agent, and those of them that its gate drops unseen.
    pub(crate) heard: f64,
    pub(crate) refused: f64,
    /// Messages that gossip sends, as if all announcements had been spread.
    pub(crate) messages: f64,
    /// Connections that are dialled for sessions.
    pub(crate) dials: f64,
    /// Of those, the ones that found no place.
    pub(crate) turned_away: f64,
    /// Questions for a sign of life, and those before joining the swarm through somebody: a connection each.
    pub(crate) questions: f64,
    pub(crate) slot_reads: f64,
    pub(crate) slot_writes: f64,
}

impl SwarmFigures {
    pub(super) fn new(agents: usize, steady: Duration) -> Self {
        Self { agents, minutes: steady.as_secs_f64() / 60.0, ..Self::default() }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.one_graph.is_some() && self.one_swarm.is_some()
    }

    pub(super) fn looked(&mut self, now: Duration, sessions: &[Vec<usize>], swarm: &[Vec<usize>]) {
        for (whole, graph) in [(&mut self.one_graph, sessions), (&mut self.one_swarm, swarm)] {
            if whole.is_none() && is_whole(graph) {
                *whole = Some(now);
            }
        }
    }

    /// What was counted until now was the beginning. `swarm` is what all agents together have received from gossip.
    pub(super) fn begin_steady(&mut self, swarm: (u64, u64)) {
        self.requests_before = (self.slot_reads + self.slot_writes) as f64 / self.agents as f64;
        *self = Self {
            agents: self.agents,
            one_graph: self.one_graph,
            one_swarm: self.one_swarm,
            requests_before: self.requests_before,
            minutes: self.minutes,
            swarm_before: swarm,
            ..Self::default()
        };
    }

    pub(super) fn close(
        &mut self,
        mut firsts: Vec<Option<Duration>>,
        [sessions, swarm]: [&[Vec<usize>]; 2],
        (payloads, control): (u64, u64),
        alive: u32,
        random: &mut StdRng,
    ) {
        firsts.sort_unstable();
        if let (Some(Some(_)), Some(Some(median)), Some(Some(last))) =
            (firsts.first(), firsts.get(firsts.len() / 2), firsts.last())
        {
            self.first_session = Some((*median, *last));
        }
        (self.is_one_graph, self.is_one_swarm) = (is_whole(sessions), is_whole(swarm));
        let ends: usize = sessions.iter().map(Vec::len).sum();
        let most = sessions.iter().map(Vec::len).max().unwrap_or_default();
        self.connections = (ends as f64 / self.agents as f64, most);
        self.hops = hops(sessions, random);
        self.alive = alive;

        let all = self.agents as f64 * self.minutes;
        let watched = WATCHED.min(self.agents) as f64 * self.minutes;
        let (payloads, control) = (payloads - self.swarm_before.0, control - self.swarm_before.1);
        let membership = self.gossip_messages.saturating_sub(payloads + control) as f64;
        let per_announcement = (payloads + control) as f64 / self.spread.max(1) as f64;
        self.rates = Rates {
            announced: self.announcements as f64 / all,
            heard: self.heard as f64 / watched,
            refused: self.refused as f64 / watched,
            messages: (membership + per_announcement * self.announcements as f64) / all,
            dials: self.dials as f64 / all,
            turned_away: self.turned_away as f64 / all,
            questions: self.questions as f64 / all + self.probes as f64 / watched,
            slot_reads: self.slot_reads as f64 / all,
            slot_writes: self.slot_writes as f64 / all,
        };
    }
}

/// How far each one is from `origin`; `None` for those that it cannot reach. An end counts for both sides.
fn distances(graph: &[Vec<usize>], origin: usize) -> Vec<Option<usize>> {
    let mut found = vec![None; graph.len()];
    let mut queue = VecDeque::from([origin]);
    found[origin] = Some(0);
    while let Some(at) = queue.pop_front() {
        for next in &graph[at] {
            if found[*next].is_none() {
                found[*next] = found[at].map(|hops| hops + 1);
                queue.push_back(*next);
            }
        }
    }
    found
}

fn is_whole(graph: &[Vec<usize>]) -> bool {
    distances(graph, 0).iter().all(Option::is_some)
}

fn hops(graph: &[Vec<usize>], random: &mut StdRng) -> (f64, usize) {
    let all: Vec<usize> = (0..graph.len()).collect();
    let (mut sum, mut count, mut most) = (0, 0, 0);
    for origin in all.sample(random, ORIGINS) {
        for hops in distances(graph, *origin).into_iter().flatten().filter(|hops| *hops > 0) {
            (sum, count, most) = (sum + hops, count + 1, most.max(hops));
        }
    }
    (sum as f64 / f64::from(count.max(1)), most)
}
