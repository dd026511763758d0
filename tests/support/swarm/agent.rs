//! One agent: the product's pure parts, and what its actors remember between them.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::discovery::announcement::Announcement;
use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::directory::{Directory, DirectoryEffect, SignatureGate};
use can_sync::testing::discovery::pace::JoinPace;
use can_sync::testing::peer::places::Class;
use can_sync::testing::peer::roster::{DialLimits, LinkState, Roster};
use iroh::{EndpointAddr, EndpointId, SecretKey};
use iroh_gossip::proto::{Config, PeerData, State};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::slots::SlotView;
use super::{DIAL, SimEvent, Swarm};

/// As GossipActor has them.
const JOINS_MAX: usize = 8;
/// `limits.max_announcements_per_sec`.
const ANNOUNCEMENTS_PER_SEC: u32 = 64;

pub(super) struct SimAgent {
    key: SecretKey,
    pub(super) id: EndpointId,
    pub(super) started: Option<Duration>,
    pub(super) first_session: Option<Duration>,
    pub(super) roster: Roster,
    pub(super) directory: Directory,
    pub(super) gate: SignatureGate,
    pub(super) gossip: State<u32, StdRng>,
    pub(super) neighbours: HashSet<u32>,
    pub(super) joining: HashSet<EndpointId>,
    pub(super) slots: SlotView,
    pub(super) news: bool,
    pub(super) counts_news: bool,
    pub(super) assets: u64,
    pub(super) said_at: Option<Duration>,
    pub(super) announce_at: Duration,
    pub(super) joins: JoinPace,
    pub(super) sweep_at: Duration,
    counter: u64,
    port: u16,
}

impl SimAgent {
    pub(super) fn new(n: usize, seed: u64, random: &mut StdRng) -> Self {
        let material = [&seed.to_le_bytes()[..], &(n as u64).to_le_bytes()].concat();
        let key = SecretKey::from_bytes(blake3::hash(&material).as_bytes());
        let id = key.public();
        // As the configuration has them by default.
        let limits = DialLimits {
            dialled_max: 16,
            hints_at_once_max: 8,
            known_max: 4096,
            sealed: Channel::ALL.into_iter().filter(|channel| *channel != Channel::Library).collect(),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_mins(5),
        };
        let number = u32::try_from(n).expect("fewer agents");
        let config = Config::default();
        let gossip = State::new(number, PeerData::default(), config, StdRng::seed_from_u64(random.random()));
        Self {
            id,
            key,
            started: None,
            first_session: None,
            roster: Roster::new(id, limits),
            directory: Directory::default(),
            gate: SignatureGate::new(ANNOUNCEMENTS_PER_SEC, Instant::now()),
            gossip,
            neighbours: HashSet::new(),
            joining: HashSet::new(),
            slots: SlotView::default(),
            news: true,
            counts_news: false,
            assets: 0,
            said_at: None,
            announce_at: Duration::ZERO,
            joins: JoinPace::default(),
            sweep_at: Duration::ZERO,
            counter: 0,
            port: u16::try_from(n % 60_000).expect("16 bits") + 1,
        }
    }

    pub(super) fn addr(&self) -> EndpointAddr {
        EndpointAddr::new(self.id).with_ip_addr(([192, 0, 2, 1], self.port).into())
    }

    pub(super) fn is_connected_with(&self, other: &EndpointId) -> bool {
        self.roster.get(other).is_some_and(|known| matches!(known.link, LinkState::Connected { .. }))
    }

    pub(super) fn is_in_company(&self) -> bool {
        self.roster.connected_count() > 0
    }

    pub(super) fn session_up(&mut self, id: &EndpointId, now: Instant, now_ms: u64) {
        self.roster.came_back(id, now);
        self.roster.session_up(id, Class::Own, true, now_ms);
    }

    pub(super) fn gossip_neighbours(&self) -> Vec<usize> {
        let mut all: Vec<usize> =
            self.neighbours.iter().map(|n| usize::try_from(*n).expect("32 bits")).collect();
        all.sort_unstable();
        all
    }

    /// Agents to join the swarm through, none of `but`, and whether each has proved itself.
    pub(super) fn choose_to_join(
        &mut self,
        mut but: HashSet<EndpointId>,
        count: usize,
        seed: u64,
        now: Instant,
    ) -> Vec<(EndpointId, bool)> {
        let count = count.min(JOINS_MAX).saturating_sub(self.joining.len());
        if count == 0 {
            return Vec::new();
        }
        but.extend(&self.joining);
        let chosen = self.directory.choose_to_join(&but, count, seed, now);
        self.joining.extend(chosen.iter().map(|(addr, _)| addr.id));
        chosen.into_iter().map(|(addr, proven)| (addr.id, proven)).collect()
    }

    pub(super) fn announcement(&mut self, now_ms: u64) -> Bytes {
        self.counter += 1;
        let announcement = Announcement {
            id: self.id,
            name: "agent".into(),
            assets: self.assets,
            total_bytes: 0,
            fingerprint: [0; 16],
            timestamp_ms: now_ms,
            boot_id: 1,
            counter: self.counter,
            addrs: vec![([192, 0, 2, 1], self.port).into()],
            relay_url: None,
            version: "0.1.0".into(),
        };
        announcement.sign(&self.key)
    }
}

impl Swarm {
    pub(super) fn carry_out(&mut self, n: usize, effects: Vec<DirectoryEffect>) {
        let now = self.instant();
        for effect in effects {
            match effect {
                DirectoryEffect::Found(addr) => {
                    self.agents[n].roster.candidate(addr, Channel::Gossip, now);
                }
                DirectoryEffect::Probe(addr) => {
                    self.figures.probes += 1;
                    self.after(DIAL, n, SimEvent::Probed { whom: addr.id });
                }
                DirectoryEffect::Located(_)
                | DirectoryEffect::WentStale { .. }
                | DirectoryEffect::Forgotten(_) => {}
            }
        }
    }
}
