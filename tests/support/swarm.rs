//! A network of very many agents in one process and in virtual time, made of the product's own pure parts: whom to dial
//! (`Roster`), who is there (`Directory`, the gate in front of it), when slots are read and written, when agents announce
//! themselves, and iroh-gossip's protocol. What is simulated around them is the network: one round trip per dial and request,
//! slots that the last writer wins, agents that all answer. The same seed gives the same figures.
//!
//! Two things are too large for ten thousand agents in one memory, and every agent is like the others: a whole directory is kept
//! by the first few, the **watched**, and the others take the size of the network from them; and of all announcements some
//! a minute are spread message by message, the others are heard by the watched and a few more.

#![allow(clippy::cast_precision_loss, reason = "figures for people, far below 2^52")]

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use can_sync::testing::discovery::announcement::Signed;
use can_sync::testing::peer::roster::LinkState;
use iroh::EndpointId;
use iroh_gossip::proto::{Command, InEvent, Message, Timer, TopicId, topic};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use agent::SimAgent;
pub(crate) use figures::SwarmFigures;

#[path = "swarm/agent.rs"]
mod agent;
#[path = "swarm/figures.rs"]
mod figures;
#[path = "swarm/gossip.rs"]
mod gossip;
#[path = "swarm/peers.rs"]
mod peers;
#[path = "swarm/slots.rs"]
mod slots;

/// All start within this time.
const STARTS_WITHIN: Duration = Duration::from_mins(1);
/// The last part of it is the steady state.
const STEADY_FOR: Duration = Duration::from_mins(4);
/// How often PeersActor and GossipActor look what is to be done.
const TICK: Duration = Duration::from_secs(1);
/// One way between two agents, at least, and what chance adds.
const ONE_WAY: Duration = Duration::from_millis(10);
const ONE_WAY_MORE: Duration = Duration::from_millis(40);
/// From the first packet of a dial to a session on both sides.
const DIAL: Duration = Duration::from_millis(200);
/// Places for connections, as `limits.max_connections` has them.
const CONNECTIONS_MAX: usize = 64;
/// Agents with a whole directory.
const WATCHED: usize = 16;
/// Others that hear an announcement that is not spread message by message, and announcements a minute that are.
const HEARD_BY: usize = 8;
const SPREAD_PER_MIN: f64 = 10.0;
/// A new asset comes to somebody this often, and to everybody within a moment.
const ASSET_EVERY: Duration = Duration::from_mins(1);
/// Everybody has heard an agent so long after its start.
const HEARD_WITHIN: Duration = Duration::from_mins(1);
/// How often it is looked whether all are in one graph.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) const TOPIC: [u8; 32] = [7; 32];

/// The wall clock when the simulation begins: noon of some day, far from midnight, when slots change.
const NOON_US: u64 = 1_767_268_800_000_000;

#[derive(Debug)]
enum SimEvent {
    Start,
    Tick,
    Slots(slots::SlotStep),
    DialEnds {
        to: usize,
    },
    Gossip {
        from: usize,
        message: Box<Message<u32>>,
    },
    GossipTimer(Box<Timer<u32>>),
    GossipGone {
        from: usize,
    },
    /// A new asset reaches everybody.
    Asset,
    /// An attempt to join the swarm has found out that the other one is there.
    Joins {
        through: usize,
    },
    Probed {
        whom: EndpointId,
    },
    Look,
}

struct Scheduled {
    at: Duration,
    number: u64,
    agent: usize,
    event: SimEvent,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

pub(crate) struct Swarm {
    agents: Vec<SimAgent>,
    by_id: HashMap<EndpointId, usize>,
    slots: slots::SharedSlots,
    queue: BinaryHeap<Scheduled>,
    number: u64,
    began: Instant,
    now: Duration,
    random: StdRng,
    figures: SwarmFigures,
    is_steady: bool,
    /// Announcements that are spread message by message: each signature is checked once, not by each agent.
    spread: HashMap<bytes::Bytes, Signed>,
    /// Agents that are alive for the watched, on the average.
    alive: u32,
}

impl Swarm {
    /// Lets so many agents start within a minute, and looks at them for so long.
    pub(crate) fn run(agents: usize, seed: u64, runs_for: Duration) -> SwarmFigures {
        let mut swarm = Self::new(agents, seed);
        let end = runs_for;
        while let Some(next) = swarm.queue.pop() {
            if next.at > end {
                break;
            }
            swarm.now = next.at;
            if !swarm.is_steady && swarm.now + STEADY_FOR > end {
                swarm.is_steady = true;
                let swarm_so_far = swarm.gossip_so_far();
                swarm.figures.begin_steady(swarm_so_far);
            }
            swarm.step(next.agent, next.event);
        }
        swarm.close()
    }

    fn new(count: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let began = Instant::now();
        let agents: Vec<SimAgent> = (0..count).map(|n| SimAgent::new(n, seed, &mut random)).collect();
        let by_id = agents.iter().enumerate().map(|(n, agent)| (agent.id, n)).collect();
        let mut swarm = Self {
            agents,
            by_id,
            slots: slots::SharedSlots::new(),
            queue: BinaryHeap::new(),
            number: 0,
            began,
            now: Duration::ZERO,
            random,
            figures: SwarmFigures::new(count, STEADY_FOR),
            is_steady: false,
            spread: HashMap::new(),
            alive: 0,
        };
        for agent in 0..count {
            let at = STARTS_WITHIN.mul_f64(swarm.random.random());
            swarm.after(at, agent, SimEvent::Start);
        }
        swarm.after(LOOK_EVERY, 0, SimEvent::Look);
        swarm.after(ASSET_EVERY, 0, SimEvent::Asset);
        swarm
    }

    // ---- Time and chance --------------------------------------------------------------------------------------------------

    fn after(&mut self, delay: Duration, agent: usize, event: SimEvent) {
        self.number += 1;
        self.queue.push(Scheduled { at: self.now + delay, number: self.number, agent, event });
    }

    fn instant(&self) -> Instant {
        self.began + self.now
    }

    fn now_us(&self) -> u64 {
        NOON_US + u64::try_from(self.now.as_micros()).unwrap_or(u64::MAX)
    }

    /// From one agent to another one: always as long, so that nothing on a connection overtakes what was sent before.
    fn one_way(from: usize, to: usize) -> Duration {
        let pair = (from.min(to) as u64) << 32 | from.max(to) as u64;
        let share = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        ONE_WAY + ONE_WAY_MORE * u32::try_from(share).unwrap_or(0) / 256
    }

    fn step(&mut self, n: usize, event: SimEvent) {
        match event {
            SimEvent::Start => self.on_start(n),
            SimEvent::Tick => self.on_tick(n),
            SimEvent::Slots(step) => self.on_slots(n, step),
            SimEvent::DialEnds { to } => self.on_dial_ends(n, to),
            SimEvent::Gossip { from, message } => {
                self.gossip(n, InEvent::RecvMessage(number(from), *message));
            }
            SimEvent::GossipTimer(timer) => self.gossip(n, InEvent::TimerExpired(*timer)),
            SimEvent::GossipGone { from } => self.gossip(n, InEvent::PeerDisconnected(number(from))),
            SimEvent::Joins { through } => self.on_joins(n, through),
            SimEvent::Probed { whom } => self.on_probed(n, &whom),
            SimEvent::Asset => self.on_asset(),
            SimEvent::Look => self.on_look(),
        }
    }

    fn on_start(&mut self, n: usize) {
        let now = self.instant();
        let agent = &mut self.agents[n];
        agent.started = Some(self.now);
        agent.directory.begin(agent.id, n as u64, now);
        self.gossip(n, InEvent::Command(TopicId::from_bytes(TOPIC), Command::Join(Vec::new())));
        self.begin_slots(n);
        let first = TICK.mul_f64(self.random.random());
        self.after(first, n, SimEvent::Tick);
    }

    fn on_look(&mut self) {
        let watched = &self.agents[..WATCHED.min(self.agents.len())];
        let all: u32 = watched.iter().map(|agent| agent.directory.settled()).sum();
        self.alive = all / u32::try_from(watched.len()).unwrap_or(1);
        if self.figures.is_complete() {
            return self.after(LOOK_EVERY * 10, 0, SimEvent::Look);
        }
        let all_run = self.agents.iter().all(|agent| agent.started.is_some());
        if all_run {
            let sessions = self.session_graph();
            let swarm: Vec<Vec<usize>> = self.agents.iter().map(SimAgent::gossip_neighbours).collect();
            self.figures.looked(self.now, &sessions, &swarm);
        }
        self.after(LOOK_EVERY, 0, SimEvent::Look);
    }

    fn session_graph(&self) -> Vec<Vec<usize>> {
        let connected = |agent: &SimAgent| {
            let up =
                agent.roster.iter().filter(|(_, known)| matches!(known.link, LinkState::Connected { .. }));
            up.map(|(id, _)| self.by_id[id]).collect()
        };
        self.agents.iter().map(connected).collect()
    }

    /// Payloads and control messages that all together have received from gossip.
    fn gossip_so_far(&self) -> (u64, u64) {
        let topic = TopicId::from_bytes(TOPIC);
        let stats =
            self.agents.iter().filter_map(|agent| agent.gossip.state(&topic)).map(topic::State::gossip_stats);
        stats.fold((0, 0), |(payloads, control), stats| {
            (payloads + stats.payload_messages_received, control + stats.control_messages_received)
        })
    }

    fn close(mut self) -> SwarmFigures {
        let sessions = self.session_graph();
        let swarm: Vec<Vec<usize>> = self.agents.iter().map(SimAgent::gossip_neighbours).collect();
        let firsts = self.agents.iter().map(|agent| agent.first_session).collect();
        let so_far = self.gossip_so_far();
        let topic = TopicId::from_bytes(TOPIC);
        let states = self.agents.iter().filter_map(|agent| agent.gossip.state(&topic));
        let hops = states.map(|state| state.gossip_stats().max_last_delivery_hop).max();
        self.figures.announcement_hops = hops.unwrap_or_default();
        self.figures.close(firsts, [&sessions, &swarm], so_far, self.alive, &mut self.random);
        self.figures
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("fewer agents")
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("at least 32 bits")
}
