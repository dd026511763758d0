//! The network of the simulation: who is connected, what is on its way, and what the shells around the sessions would
//! do. One event at a time, in the order of virtual time.
#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::items_after_statements,
    clippy::ref_option_ref,
    reason = "what a test does not expect is one case"
)]

mod effects;
mod oracle;
mod parts;
mod peer_actor;
mod peers_actor;
mod streams;
mod trouble;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::oracle::KnowledgeOracle;
use self::parts::{At, SimChannel, SimEvent, SimLink, SimSide, delay};
use super::agent::{Agent, SKEW_BY_TICKET_MAX_MS, SKEW_MAX_MS};
use crate::identity::{LibraryKeys, NetworkKeys};
use crate::library::ticket::Access;
use crate::peer::session::Session;
use crate::record::{AssetRecord, LibraryId};
use crate::seeded::Dice;

/// Units of virtual time.
const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// How long the network may take to converge once it is calm: some rounds of trying again, hop by hop.
const CONVERGE_WITHIN: u64 = 240 * SECOND;
/// How long nothing may be said afterwards, once the last comparisons are through, and the last round of questions for
/// contents that are wanted.
const SETTLE: u64 = 190 * SECOND;
const SILENCE: u64 = 40 * SECOND;
/// More events than any seed needs; beyond it something goes round in circles.
const EVENTS_MAX: u64 = 400_000;
const ASSETS: u64 = 40;
/// Reconciliations that a peer may have open at once; one more would cost the connection.
const RECONCILIATIONS_MAX: usize = 4;

static KEYS: LazyLock<LibraryKeys> =
    LazyLock::new(|| NetworkKeys::derive(&"a simulated network".into()).mirror().clone());

/// A library's id on a connection; here it need not be hidden.
fn blinded(library: Option<LibraryId>) -> Bytes {
    library.map_or(Bytes::from_static(b"the mirror, blinded"), |library| Bytes::copy_from_slice(&library.0))
}

/// What the agents make of each other's deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All of them apply them.
    Everything,
    /// None of them does.
    AddOnly,
    /// All of them apply them; the clock of one is off while there is trouble.
    WrongClock,
    /// Two machines of one owner, who has two libraries, and members of these; one of the members lies. Some apply deletions.
    Libraries,
}

pub(super) struct SimWorld {
    dice: Dice,
    mode: Mode,
    start: Instant,
    now: u64,
    /// When the trouble ends.
    calm_at: u64,
    agents: Vec<Agent>,
    oracle: KnowledgeOracle,
    lies: Vec<(LibraryId, AssetRecord)>,
    links: Vec<SimLink>,
    events: BTreeMap<(u64, u64), SimEvent>,
    scheduled: u64,
    last_in: HashMap<SimChannel, u64>,
    next_number: u64,
    /// Frames sent, other than questions whether all is well, and reconciliations opened.
    said: u64,
    /// Versions offered, and those of them that had come from where they went.
    offers: u64,
    echoes: u64,
}

impl SimWorld {
    pub(super) fn new(seed: u64, mode: Mode) -> Self {
        let mut dice = Dice(seed);
        let (agents, groups) = match mode {
            Mode::Libraries => Self::cast(&mut dice),
            Mode::Everything | Mode::AddOnly | Mode::WrongClock => {
                let count = 2 + dice.index(3);
                let agent = |n| {
                    let skew = dice.below(2 * SKEW_MAX_MS.unsigned_abs()).cast_signed() - SKEW_MAX_MS;
                    let deletes = mode != Mode::AddOnly;
                    Agent::new(u8::try_from(n).unwrap(), skew, deletes, &KEYS, Vec::new())
                };
                ((0..count).map(agent).collect(), vec![0; count])
            }
        };
        let count = agents.len();
        let oracle = KnowledgeOracle::new(&agents, groups);
        let calm_at = (10 + dice.below(30)) * SECOND;
        let mut world = Self {
            dice,
            mode,
            start: Instant::now(),
            now: 0,
            calm_at,
            agents,
            oracle,
            lies: Vec::new(),
            links: Vec::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            last_in: HashMap::new(),
            next_number: 1,
            said: 0,
            offers: 0,
            echoes: 0,
        };
        world.connect(count);
        if mode == Mode::WrongClock {
            // More than anybody lets pass, so that nobody has what it wrote before it is set.
            let most = if world.dice.one_in(2) { 3_600_000 } else { 30 * 86_400_000 };
            let off = (30 * 60_000 + world.dice.below(most)).cast_signed();
            world.agents[0].wrong_ms = if world.dice.one_in(3) { -off } else { off };
        }
        world.schedule_users();
        for agent in 0..count {
            world.put(SECOND, SimEvent::FetchTick(agent));
        }
        world
    }

    /// The owner's two machines, and members of their libraries, each of a network of its own. The last one lies.
    fn cast(dice: &mut Dice) -> (Vec<Agent>, Vec<usize>) {
        let write = Access::Write;
        let member = |dice: &mut Dice| {
            let mut memberships: Vec<(u8, Access)> = Vec::new();
            for number in 0..2 {
                match dice.below(4) {
                    0 => {}
                    1 => memberships.push((number, Access::Read)),
                    _ => memberships.push((number, write)),
                }
            }
            memberships
        };
        // The first machine owns both libraries; the other one knows of some of them, or is what a member has at home.
        let mut all = vec![(0, vec![(0, write), (1, write)]), (0, member(dice))];
        for group in 1..3 + dice.index(2) {
            all.push((group, member(dice)));
        }
        if dice.one_in(3) {
            all.push((1, member(dice)));
        }
        let lying = vec![(u8::from(dice.one_in(2)), write)];
        all.push((9, lying));
        let groups = all.iter().map(|(group, _)| *group).collect();
        let agents = all.into_iter().enumerate().map(|(n, (group, memberships))| {
            let skew =
                dice.below(2 * SKEW_BY_TICKET_MAX_MS.unsigned_abs()).cast_signed() - SKEW_BY_TICKET_MAX_MS;
            let keys = LibraryKeys::of_read_secret(&[200 + u8::try_from(group).unwrap(); 32]);
            Agent::new(u8::try_from(n).unwrap(), skew, dice.one_in(2), &keys, memberships)
        });
        (agents.collect(), groups)
    }

    /// Agents that share something are connected: the mirror, or libraries in which one of them
    /// may write.
    fn connect_members(&mut self) {
        for later in 1..self.agents.len() {
            for earlier in 0..later {
                let agents = if self.dice.one_in(2) { [earlier, later] } else { [later, earlier] };
                let lanes = if self.oracle.groups[earlier] == self.oracle.groups[later] {
                    vec![None]
                } else {
                    let shared = self.agents[earlier].libraries.shared();
                    let ids = shared.iter().filter_map(|library| library.id());
                    ids.filter(|id| self.agents[later].access(*id).is_some()).map(Some).collect()
                };
                if !lanes.is_empty() {
                    self.links.push(SimLink { agents, lanes, life: 0, sides: None });
                }
            }
        }
        for link in 0..self.links.len() {
            self.mend(link, None);
        }
    }

    /// A random tree, and some links more; all of them where nobody passes on what he does not apply himself.
    fn connect(&mut self, count: usize) {
        if self.mode == Mode::Libraries {
            return self.connect_members();
        }
        for later in 1..count {
            let tree = self.dice.index(later);
            for earlier in 0..later {
                if earlier == tree || self.mode == Mode::AddOnly || self.dice.one_in(3) {
                    let agents = if self.dice.one_in(2) { [earlier, later] } else { [later, earlier] };
                    self.links.push(SimLink { agents, lanes: vec![None], life: 0, sides: None });
                }
            }
        }
        for link in 0..self.links.len() {
            self.mend(link, None);
        }
    }

    fn schedule_users(&mut self) {
        // Some have a past before they meet.
        for _ in 0..self.dice.below(60) {
            self.act();
        }
        for _ in 0..10 + self.dice.below(60) {
            let at = self.dice.below(self.calm_at);
            self.put(at, SimEvent::User);
        }
        for _ in 0..self.dice.below(12) {
            let at = self.dice.below(self.calm_at);
            self.put(at, SimEvent::Trouble);
        }
    }

    /// Runs until all is well, or says what is not.
    pub(super) fn run(mut self) -> Result<(), String> {
        self.advance_to(self.calm_at);
        self.set_clock();
        self.own_up();
        for link in 0..self.links.len() {
            // What the liar never confirmed, it is never asked about again in that session.
            if self.mode == Mode::Libraries && self.links[link].agents.contains(&(self.agents.len() - 1)) {
                self.cut(link);
            }
            if self.links[link].sides.is_none() {
                self.mend(link, None);
            }
        }
        let deadline = self.now + CONVERGE_WITHIN;
        while let Err(why) = self.state() {
            if self.now >= deadline {
                return Err(format!("not converged in time: {why}"));
            }
            self.advance_to(self.now + SECOND);
        }
        self.advance_to(self.now + SETTLE);
        self.said = 0;
        self.advance_to(self.now + SILENCE);
        self.state().map_err(|why| format!("converged, and then: {why}"))?;
        if self.said > 0 {
            return Err(format!("{} messages though nothing is left to say", self.said));
        }
        // Some are honest: a version that comes from two sides at once, a comparison that overtakes the feed.
        if self.mode == Mode::Everything && self.echoes * 5 > self.offers + 20 {
            return Err(format!(
                "{} of {} offers went back to where they came from",
                self.echoes, self.offers
            ));
        }
        self.verify()
    }

    /// The sessions of all lanes, at both ends.
    fn sessions(&self) -> impl Iterator<Item = (At, Option<&Session>)> {
        self.ends().flat_map(|at| {
            let link = &self.links[at.link];
            (0..link.lanes.len()).map(move |lane| {
                (at, link.sides.as_ref().and_then(|sides| sides[at.end].lanes[lane].session.as_ref()))
            })
        })
    }

    fn ends(&self) -> impl Iterator<Item = At> + use<> {
        let lives: Vec<u64> = self.links.iter().map(|link| link.life).collect();
        lives.into_iter().enumerate().flat_map(|(link, life)| [0, 1].map(|end| At { link, end, life }))
    }

    fn side(&mut self, at: At) -> Option<&mut SimSide> {
        let link = &mut self.links[at.link];
        link.sides.as_mut().filter(|_| link.life == at.life).map(|sides| &mut sides[at.end])
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn chaos(&self) -> bool {
        self.now < self.calm_at
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    // ---- Time ----------------------------------------------------------------------------------------------------

    fn put(&mut self, at: u64, event: SimEvent) {
        self.scheduled += 1;
        assert!(self.scheduled < EVENTS_MAX, "more than {EVENTS_MAX} events");
        self.events.insert((at, self.scheduled), event);
    }

    fn later(&mut self, event: SimEvent) {
        let at = self.now + delay(&mut self.dice);
        self.put(at, event);
    }

    /// As [`Self::later`], after everything that went the same way before.
    fn in_order(&mut self, channel: SimChannel, event: SimEvent) {
        let delay = match channel {
            SimChannel::Control(_) => delay(&mut self.dice),
            // Mailboxes are quick.
            SimChannel::PeersActor(_) | SimChannel::PeerActor(_) => self.dice.below(MS),
        };
        let last = self.last_in.entry(channel).or_default();
        *last = (self.now + delay).max(*last);
        let at = *last;
        self.put(at, event);
    }

    fn advance_to(&mut self, until: u64) {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.on_event(event);
        }
        self.now = until;
    }

    fn on_event(&mut self, event: SimEvent) {
        match event {
            SimEvent::User => self.act(),
            SimEvent::Trouble => self.make_trouble(),
            SimEvent::Feed(agent) => self.on_feed(agent),
            SimEvent::Keep(agent) => self.on_keep(agent),
            SimEvent::Mend(link) => {
                if self.links[link].sides.is_none() {
                    self.mend(link, None);
                }
            }
            SimEvent::FetchTick(agent) => {
                let now = self.instant();
                let decisions = self.agents[agent].fetching.tick(now, self.now / MS);
                self.carry_out(agent, decisions);
                self.put(self.now + SECOND, SimEvent::FetchTick(agent));
            }
            SimEvent::Peers(agent, news) => self.on_peers(agent, *news),
            SimEvent::Side(at, news) => {
                if self.side(at).is_some() {
                    self.on_news(at, news);
                }
            }
        }
    }

    // ---- Users and troubles --------------------------------------------------------------------------------------
}
