//! The network of the simulation: who is connected, what is on its way, and what the shells around the sessions would
//! do. One event at a time, in the order of virtual time.
#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::items_after_statements,
    clippy::ref_option_ref,
    reason = "what a test does not expect is one case"
)]

mod shell;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::agent::{Agent, SKEW_MAX_MS, asset};
use crate::identity::{LibraryKeys, NetworkKeys};
use crate::peer::report::PeerState;
use crate::peer::session::{Effect, InlineContents, Input, Session};
use crate::peer::wishes::Wishes;
use crate::reconcile::Summary;
use crate::reconcile::engine::{Initiator, Responder};
use crate::record::{AssetRecord, ContentHash};
use crate::store::FeedEntry;
use crate::transfer::schedule::{Failure, SessionId};

/// Units of virtual time.
const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// How long the network may take to converge once it is calm: some rounds of trying again, hop by hop.
const CONVERGE_WITHIN: u64 = 240 * SECOND;
/// How long nothing may be said afterwards, once the last comparisons are through.
const SETTLE: u64 = 150 * SECOND;
const SILENCE: u64 = 40 * SECOND;
/// More events than any seed needs; beyond it something goes round in circles.
const EVENTS_MAX: u64 = 400_000;
/// Different assets.
const ASSETS: u64 = 40;

static KEYS: LazyLock<LibraryKeys> =
    LazyLock::new(|| NetworkKeys::derive(&"a simulated network".into()).mirror().clone());
const LIBRARY: Bytes = Bytes::from_static(b"the mirror, blinded");

/// What the agents make of each other's deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All of them apply them.
    Everything,
    /// None of them does.
    AddOnly,
    /// All of them apply them; the clock of one is off while there is trouble.
    WrongClock,
}

/// Chance from a seed, the same on every machine (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// How long something takes: mostly little, at times much.
    fn delay(&mut self) -> u64 {
        let longest = if self.one_in(20) { 600 * MS } else { 30 * MS };
        self.below(longest)
    }
}

/// One end of one life of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct At {
    link: usize,
    end: usize,
    life: u64,
}

impl At {
    fn other(self) -> Self {
        Self { end: 1 - self.end, ..self }
    }
}

/// What arrives in the order in which it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Channel {
    Control(At),
    PeersActor(usize),
    PeerActor(At),
}

enum Event {
    User,
    Trouble,
    Feed(usize),
    Resume(usize),
    Peers(usize, PeersNews),
    Side(At, News),
}

/// For PeersActor.
enum PeersNews {
    Changed(Arc<[FeedEntry]>),
    Wanted(SessionId, Vec<AssetRecord>),
    Finished(SessionId, Vec<(ContentHash, Result<(), Failure>)>),
    PartFinished(SessionId, u64, Result<(), Failure>),
    Commit(AssetRecord),
    Apply(AssetRecord),
    Restrict(ContentHash),
    /// The session begins, perhaps anew: what an earlier one was asked for is void.
    Reset(SessionId),
}

/// For one end of a connection.
enum News {
    /// The answering side introduces itself.
    Greet,
    /// The opening side has heard that, and answers.
    Greeted(Summary),
    /// The answering side has heard that.
    Met {
        ours: Summary,
        theirs: Summary,
    },
    Frame(Bytes),
    Changed(Arc<[FeedEntry]>, Arc<InlineContents>),
    Fetch(u64, Vec<AssetRecord>),
    FetchPart(u64, ContentHash, Range<u64>),
    PartReceived(u64, Result<(), Failure>),
    Revoke(u64),
    /// Contents that the other side is missing.
    Find(Vec<ContentHash>),
    Lacks(Vec<ContentHash>),
    Input(Input),
    Perform(Effect),
    Summary {
        nonce: u64,
        answer: bool,
        seq: u64,
        until: u64,
    },
    ToResponder(u64, Vec<u8>),
    ToInitiator(u64, Vec<u8>),
    ReconEnds(u64, Result<(), String>),
    Content {
        request: u64,
        items: Vec<(ContentHash, bool)>,
        broken: bool,
    },
    Received(Vec<(ContentHash, Result<(), Failure>)>),
    Tick,
}

/// What a PeerActor has.
struct Side {
    agent: usize,
    id: SessionId,
    session: Option<Session>,
    early: Vec<Arc<[FeedEntry]>>,
    /// Versions that the peer has offered.
    heard: HashSet<[u8; 32]>,
    /// Whether our feed had not caught up when we last asked.
    asked_behind: bool,
    wishes: Wishes,
    expected: HashMap<u64, Vec<AssetRecord>>,
    /// Parts that were asked for: their contents, and what was missing of them.
    expected_parts: HashMap<u64, (ContentHash, Vec<Range<u64>>)>,
    initiators: HashMap<u64, Initiator>,
    responders: HashMap<u64, Responder>,
}

struct Link {
    /// Who dials, who accepts.
    agents: [usize; 2],
    life: u64,
    sides: Option<[Side; 2]>,
}

pub(super) struct World {
    dice: Dice,
    mode: Mode,
    start: Instant,
    now: u64,
    /// When the trouble ends.
    calm_at: u64,
    agents: Vec<Agent>,
    links: Vec<Link>,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    last_in: HashMap<Channel, u64>,
    next_number: u64,
    /// Frames sent, other than questions whether all is well, and reconciliations opened.
    said: u64,
    /// Versions offered, and those of them that had come from where they went.
    offers: u64,
    echoes: u64,
}

impl World {
    pub(super) fn new(seed: u64, mode: Mode) -> Self {
        let mut dice = Dice(seed);
        let count = 2 + dice.index(3);
        let agents = (0..count)
            .map(|n| {
                let skew = dice.below(2 * SKEW_MAX_MS.unsigned_abs()).cast_signed() - SKEW_MAX_MS;
                Agent::new(u8::try_from(n).unwrap(), skew, mode != Mode::AddOnly, &KEYS)
            })
            .collect();
        let calm_at = (10 + dice.below(30)) * SECOND;
        let mut world = Self {
            dice,
            mode,
            start: Instant::now(),
            now: 0,
            calm_at,
            agents,
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
        world
    }

    /// A random tree, and some links more; all of them where nobody passes on what he does not apply himself.
    fn connect(&mut self, count: usize) {
        for later in 1..count {
            let tree = self.dice.index(later);
            for earlier in 0..later {
                if earlier == tree || self.mode == Mode::AddOnly || self.dice.one_in(3) {
                    let agents = if self.dice.one_in(2) { [earlier, later] } else { [later, earlier] };
                    self.links.push(Link { agents, life: 0, sides: None });
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
            self.put(at, Event::User);
        }
        for _ in 0..self.dice.below(12) {
            let at = self.dice.below(self.calm_at);
            self.put(at, Event::Trouble);
        }
    }

    /// Runs until all is well, or says what is not.
    pub(super) fn run(mut self) -> Result<(), String> {
        self.advance_to(self.calm_at);
        self.set_clock();
        for link in 0..self.links.len() {
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

    /// Everyone is asked to make sure.
    fn verify(&mut self) -> Result<(), String> {
        let ends: Vec<At> = self.ends().collect();
        for at in &ends {
            self.step(*at, Input::Verify { round: 1 });
        }
        self.advance_to(self.now + 20 * SECOND);
        for at in ends {
            let standing = self.side(at).and_then(|side| side.session.as_ref()).map(Session::standing);
            if standing.as_ref().is_none_or(|s| s.verified != 1 || s.state != PeerState::InSync) {
                return Err(format!("asked to make sure, and 20 s later: {standing:?}"));
            }
        }
        self.state()
    }

    /// Whether all agents agree and know it.
    fn state(&self) -> Result<(), String> {
        for (number, agent) in self.agents.iter().enumerate() {
            if !agent.has_only_live() {
                return Err(format!("agent {number} has contents without a live record"));
            }
        }
        for link in &self.links {
            let [one, other] = link.agents.map(|number| &self.agents[number]);
            for (lacks, has) in [(one, other), (other, one)] {
                if let Some(hash) = lacks.missing().find(|hash| has.contents.contains(hash)) {
                    return Err(format!(
                        "{} is wanted on one end of a link and held on the other",
                        hash.short()
                    ));
                }
            }
        }
        match self.mode {
            Mode::Everything | Mode::WrongClock => self.all_are_equal()?,
            Mode::AddOnly => self.live_ones_are_equal()?,
        }
        for at in self.ends() {
            let session = self.links[at.link].sides.as_ref().and_then(|sides| sides[at.end].session.as_ref());
            match session.map(Session::standing) {
                Some(standing) if standing.state == PeerState::InSync => {}
                other => return Err(format!("{at:?} is not in sync: {other:?} {session:#?}")),
            }
        }
        Ok(())
    }

    fn all_are_equal(&self) -> Result<(), String> {
        let first = self.agents[0].versions();
        for (number, agent) in self.agents.iter().enumerate().skip(1) {
            let other = agent.versions();
            if other != first {
                let all: BTreeSet<_> = first.keys().chain(other.keys()).collect();
                let differ = all.into_iter().find(|hash| first.get(*hash) != other.get(*hash)).unwrap();
                return Err(format!(
                    "agent 0 has {:?}, agent {number} has {:?}",
                    first.get(differ),
                    other.get(differ)
                ));
            }
        }
        Ok(())
    }

    fn live_ones_are_equal(&self) -> Result<(), String> {
        for hash in (0..ASSETS).map(asset) {
            let versions: Vec<Option<&AssetRecord>> =
                self.agents.iter().map(|agent| agent.records.get(&hash).map(|(_, record)| record)).collect();
            let Some(live) = versions.iter().flatten().find(|record| !record.deleted) else { continue };
            let agrees = |version: Option<&AssetRecord>| {
                version.is_some_and(|v| v == *live || (v.deleted && v.supersedes(live)))
            };
            if !versions.iter().copied().all(agrees) {
                return Err(format!("versions of one asset: {versions:#?}"));
            }
        }
        Ok(())
    }

    fn ends(&self) -> impl Iterator<Item = At> + use<> {
        let lives: Vec<u64> = self.links.iter().map(|link| link.life).collect();
        lives.into_iter().enumerate().flat_map(|(link, life)| [0, 1].map(|end| At { link, end, life }))
    }

    fn side(&mut self, at: At) -> Option<&mut Side> {
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

    fn put(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        assert!(self.scheduled < EVENTS_MAX, "more than {EVENTS_MAX} events");
        self.events.insert((at, self.scheduled), event);
    }

    fn later(&mut self, event: Event) {
        let at = self.now + self.dice.delay();
        self.put(at, event);
    }

    /// As [`Self::later`], after everything that went the same way before.
    fn in_order(&mut self, channel: Channel, event: Event) {
        let delay = match channel {
            Channel::Control(_) => self.dice.delay(),
            // Mailboxes are quick.
            Channel::PeersActor(_) | Channel::PeerActor(_) => self.dice.below(MS),
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

    fn on_event(&mut self, event: Event) {
        match event {
            Event::User => self.act(),
            Event::Trouble => self.make_trouble(),
            Event::Feed(agent) => self.on_feed(agent),
            Event::Resume(agent) => {
                let decisions = self.agents[agent].scheduler.resume();
                self.carry_out(agent, decisions);
            }
            Event::Peers(agent, news) => self.on_peers(agent, news),
            Event::Side(at, news) => {
                if self.side(at).is_some() {
                    self.on_news(at, news);
                }
            }
        }
    }

    // ---- Users and troubles --------------------------------------------------------------------------------------

    fn act(&mut self) {
        let agent = self.dice.index(self.agents.len());
        let hash = asset(self.dice.below(ASSETS));
        let (now, what, text) = (self.now, self.dice.below(26), self.dice.roll());
        match what {
            0..10 => self.agents[agent].ingest(hash, now),
            10..17 => self.agents[agent].edit(hash, Some(format!("edit {text}")), now),
            17..20 => self.agents[agent].edit(hash, None, now),
            20..24 => self.agents[agent].let_go(hash),
            _ => self.agents[agent].want(hash),
        }
        self.later(Event::Feed(agent));
    }

    /// Somebody sets the clock that is wrong.
    fn set_clock(&mut self) {
        if std::mem::take(&mut self.agents[0].wrong_ms) == 0 {
            return;
        }
        let ends: Vec<At> = self.ends().filter(|at| self.links[at.link].agents[at.end] == 0).collect();
        for at in ends {
            self.step(at, Input::ClockChanged);
        }
    }

    fn make_trouble(&mut self) {
        let link = self.dice.index(self.links.len());
        match (self.dice.below(4), self.links[link].sides.is_some()) {
            (0, _) => {
                let agent = self.dice.index(self.agents.len());
                let until = self.now + self.dice.below(5 * SECOND);
                self.agents[agent].store_down_until = until;
            }
            (1, true) => {
                // One PeerActor crashed and is started again on the same connection.
                let ids = self.links[link].sides.as_ref().map(|sides| [sides[0].id, sides[1].id]);
                self.cut(link);
                self.mend(link, ids);
            }
            (_, true) => self.cut(link),
            (_, false) => self.mend(link, None),
        }
    }

    fn cut(&mut self, link: usize) {
        let Some(sides) = self.links[link].sides.take() else { return };
        self.links[link].life += 1;
        for side in sides {
            let decisions = self.agents[side.agent].scheduler.session_ended(side.id);
            self.carry_out(side.agent, decisions);
        }
    }

    fn mend(&mut self, link: usize, ids: Option<[SessionId; 2]>) {
        let fresh = [SessionId(self.number()), SessionId(self.number())];
        let ids = ids.unwrap_or(fresh);
        let agents = self.links[link].agents;
        let now = self.instant();
        self.links[link].sides = Some([0, 1].map(|end| Side {
            agent: agents[end],
            id: ids[end],
            session: None,
            early: Vec::new(),
            heard: HashSet::new(),
            asked_behind: false,
            wishes: Wishes::new(now),
            expected: HashMap::new(),
            expected_parts: HashMap::new(),
            initiators: HashMap::new(),
            responders: HashMap::new(),
        }));
        let at = At { link, end: self.dice.index(2), life: self.links[link].life };
        self.in_order(Channel::Control(at), Event::Side(at, News::Greet));
    }
}
