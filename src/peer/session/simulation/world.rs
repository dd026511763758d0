//! The network of the simulation: who is connected, what is on its way, and what the shells around the sessions would
//! do. One event at a time, in the order of virtual time.
#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::items_after_statements,
    clippy::ref_option_ref,
    reason = "what a test does not expect is one case"
)]

mod oracle;
mod shell;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::oracle::KnowledgeOracle;
use super::agent::{Agent, SKEW_BY_TICKET_MAX_MS, SKEW_MAX_MS, TAGS, asset, size_of};
use crate::identity::{LibraryKeys, NetworkKeys};
use crate::library::filter::FilterSpec;
use crate::library::ticket::Access;
use crate::library::{Library, OfferMeaning};
use crate::peer::report::ConnectionState;
use crate::peer::session::{InlineContents, Session, SessionEffect, SessionInput};
use crate::peer::wishes::Wishes;
use crate::reconcile::Summary;
use crate::reconcile::engine::{Initiator, Responder};
use crate::record::{AssetMeta, AssetRecord, ContentHash, Hlc, LibraryId};
use crate::store::{FeedEntry, Holding};
use crate::transfer::schedule::{Failure, SessionId, WantKey};

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
    /// Two machines of one owner, who has two libraries, and members of these, one of whom lies. Some apply deletions.
    Libraries,
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
enum SimChannel {
    Control(At),
    PeersActor(usize),
    PeerActor(At),
}

enum SimEvent {
    User,
    Trouble,
    Feed(usize),
    /// What libraries have otherwise than the store is written down, and told.
    Keep(usize),
    /// There is a connection again.
    Mend(usize),
    /// A second passed for what this agent fetches.
    FetchTick(usize),
    Peers(usize, Box<PeersNews>),
    Side(At, News),
}

enum PeersNews {
    Changed(Arc<[FeedEntry]>),
    LibraryChanged(LibraryId, Arc<[FeedEntry]>),
    Wanted(SessionId, Option<LibraryId>, Vec<AssetRecord>),
    Finished(SessionId, Vec<(WantKey, Result<(), Failure>)>),
    PartFinished(SessionId, u64, ContentHash, Result<(), Failure>),
    Commit(WantKey, AssetRecord),
    Apply(WantKey, AssetRecord),
    Restrict(WantKey),
    /// The session begins, perhaps anew: what an earlier one was asked for is void.
    Reset(SessionId),
}

/// For one end of a connection.
enum News {
    /// The answering side introduces itself.
    Greet,
    /// The opening side has heard that, and answers.
    Greeted(Vec<Summary>),
    /// The answering side has heard that.
    Met {
        ours: Vec<Summary>,
        theirs: Vec<Summary>,
    },
    Frame(Bytes),
    Changed(Arc<[FeedEntry]>, Arc<InlineContents>),
    LibraryChanged(LibraryId, Arc<[FeedEntry]>),
    Fetch(u64, Option<LibraryId>, Vec<AssetRecord>),
    FetchPart(u64, WantKey, Range<u64>),
    PartReceived(u64, ContentHash, Result<(), Failure>),
    Revoke(u64),
    /// Contents that the other side is missing in one of the libraries.
    Find(usize, Vec<ContentHash>),
    Lacks(usize, Vec<ContentHash>),
    Settled(Vec<WantKey>),
    Failed(WantKey, String),
    Perform(usize, SessionEffect),
    Summary {
        lane: usize,
        nonce: u64,
        answer: bool,
        seq: u64,
        until: u64,
    },
    ToResponder(usize, u64, Vec<u8>),
    ToInitiator(usize, u64, Vec<u8>),
    ReconEnds(usize, u64, Result<(), String>),
    Content {
        request: u64,
        items: Vec<(ContentHash, bool)>,
        broken: bool,
    },
    Received(Vec<(WantKey, Result<(), Failure>)>),
    Tick,
}

/// One library on one connection, at one end.
struct SimLane {
    library: Option<LibraryId>,
    session: Option<Session>,
    wishes: Wishes,
    /// Versions that the peer has offered.
    heard: HashSet<[u8; 32]>,
    /// Whether our feed had not caught up when we last asked.
    asked_behind: bool,
}

impl SimLane {
    fn new(library: Option<LibraryId>, now: Instant) -> Self {
        let (session, wishes, heard) = (None, Wishes::new(now), HashSet::new());
        Self { library, session, wishes, heard, asked_behind: false }
    }
}

/// What a PeerActor has.
struct SimSide {
    agent: usize,
    id: SessionId,
    lanes: Vec<SimLane>,
    early: Vec<Arc<[FeedEntry]>>,
    early_lost: bool,
    expected: HashMap<u64, (Option<LibraryId>, Vec<AssetRecord>)>,
    /// Parts that were asked for: their contents, and what was missing of them.
    expected_parts: HashMap<u64, (WantKey, Vec<Range<u64>>)>,
    initiators: HashMap<u64, Initiator>,
    responders: HashMap<u64, Responder>,
}

impl SimSide {
    fn is_up(&self) -> bool {
        self.lanes.iter().all(|lane| lane.session.is_some())
    }
}

struct SimLink {
    /// Who dials, who accepts.
    agents: [usize; 2],
    /// What both share: the mirror, or libraries.
    lanes: Vec<Option<LibraryId>>,
    life: u64,
    sides: Option<[SimSide; 2]>,
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

    /// Everybody is connected to everybody with whom something is shared: the mirror, or libraries in which one of them
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

    /// Everyone is asked to make sure.
    fn verify(&mut self) -> Result<(), String> {
        let ends: Vec<At> = self.ends().collect();
        for at in &ends {
            for lane in 0..self.links[at.link].lanes.len() {
                self.step(*at, lane, SessionInput::Verify { round: 1 });
            }
        }
        self.advance_to(self.now + 20 * SECOND);
        for (at, session) in self.sessions() {
            let standing = session.map(Session::standing);
            if standing.as_ref().is_none_or(|s| s.verified != 1 || s.state != ConnectionState::InSync) {
                return Err(format!("{at:?} was asked to make sure, and 20 s later: {standing:?}"));
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
            if agent.library(None).cursor().borrow().unwrap_or_default() < agent.seq() {
                return Err(format!("the indices of agent {number} lag behind its store"));
            }
        }
        self.nothing_is_missing()?;
        match self.mode {
            Mode::Everything | Mode::WrongClock => self.all_are_equal()?,
            Mode::AddOnly => self.live_ones_are_equal()?,
            Mode::Libraries => self.libraries_are_equal()?,
        }
        for (at, session) in self.sessions() {
            match session.map(Session::standing) {
                Some(standing) if standing.state == ConnectionState::InSync => {}
                other => {
                    let link = &self.links[at.link];
                    return Err(format!(
                        "{at:?} of {:?} is not in sync: {other:?} {session:#?}",
                        link.agents
                    ));
                }
            }
        }
        Ok(())
    }

    /// What is wanted at one end of a link is not held at the other, where that may give.
    fn nothing_is_missing(&self) -> Result<(), String> {
        for link in &self.links {
            let [one, other] = link.agents.map(|number| &self.agents[number]);
            for (lacks, has) in [(one, other), (other, one)] {
                for library in &link.lanes {
                    let gives = library.is_none_or(|id| has.access(id) == Some(Access::Write));
                    let serves = |hash: &ContentHash| {
                        has.stored(hash).is_some_and(|stored| has.library(*library).serves(&stored))
                    };
                    let wanted = lacks.library(*library).wanted(None, usize::MAX);
                    if let Some(hash) = wanted.iter().find(|hash| gives && serves(hash)) {
                        let ends = (lacks.number, has.number);
                        return Err(format!("{hash:?} is wanted and held at two ends of a link: {ends:?}"));
                    }
                }
            }
        }
        Ok(())
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

    /// Whether all members of each library have the same, and all machines of each owner.
    fn libraries_are_equal(&self) -> Result<(), String> {
        let ids: BTreeSet<LibraryId> =
            self.agents.iter().flat_map(|agent| agent.libraries.shared()).filter_map(|l| l.id()).collect();
        for id in ids {
            let of = |number: usize| Some((number, self.agents[number].libraries.get(id)?));
            let members: Vec<_> = self.reached(id).into_iter().filter_map(of).collect();
            for (number, library) in &members {
                let has = |library: &Library| (library.summary().count, library.summary().fingerprint);
                if has(library) != has(&members[0].1) {
                    let (first, other) = (members[0].0, *number);
                    let has = |number: usize| self.have(number, id);
                    let both = has(first).into_iter().zip(has(other)).zip((0..ASSETS).map(asset));
                    let (differ, hash) =
                        both.into_iter().find(|((one, other), _)| one != other || !one.1).unwrap();
                    let stored: Vec<_> = self
                        .agents
                        .iter()
                        .map(|agent| Some((agent.record(&hash)?, agent.access(id))))
                        .collect();
                    let all: Vec<_> = members
                        .iter()
                        .map(|(n, _)| {
                            self.have(*n, id)[(0..ASSETS).position(|n| asset(n) == hash).unwrap()]
                                .0
                                .as_ref()
                                .map(|r| (n, r.hlc, r.deleted, r.left))
                        })
                        .collect();
                    return Err(format!(
                        "{id:?}: agents {first} and {other} have {differ:?} STORED {stored:?} ALL {all:?}"
                    ));
                }
            }
        }
        for (number, agent) in self.agents.iter().enumerate() {
            let group = self.oracle.groups[number];
            let first = self.oracle.groups.iter().position(|other| *other == group).unwrap();
            let (ours, theirs) = (agent.versions(), self.agents[first].versions());
            let all_delete = [number, first].iter().all(|n| self.agents[*n].replicate_deletes);
            let live = |versions: &BTreeMap<ContentHash, AssetRecord>| {
                let mut versions = versions.clone();
                versions.retain(|_, record| !record.deleted);
                versions
            };
            if all_delete && ours != theirs {
                return Err(format!("agents {first} and {number} of one owner: {theirs:#?}, {ours:#?}"));
            }
            // What one keeps, the other one deleted.
            let (live, other) = (live(&ours), &theirs);
            if let Some((hash, _)) = live
                .iter()
                .find(|(hash, record)| other.get(hash).is_none_or(|other| other != *record && !other.deleted))
            {
                return Err(format!(
                    "agents {first} and {number} of one owner: {:?}, {:?}",
                    other.get(hash),
                    live.get(hash)
                ));
            }
        }
        Ok(())
    }

    /// Members of a library to whom everything comes that anybody has. Machines of one owner share the mirror alone: where only
    /// those may write, one may have what nobody gives to the other.
    fn reached(&self, id: LibraryId) -> Vec<usize> {
        let writes = |number: usize| self.agents[number].access(id) == Some(Access::Write);
        let linked = |one: usize, other: usize| {
            let both = |link: &&SimLink| link.agents.contains(&one) && link.agents.contains(&other);
            self.links.iter().find(both).is_some_and(|link| link.lanes.contains(&Some(id)))
        };
        let all = 0..self.agents.len();
        let mut reached: Vec<usize> = all.clone().find(|n| writes(*n)).into_iter().collect();
        while let Some(next) = all
            .clone()
            .find(|n| !reached.contains(n) && writes(*n) && reached.iter().any(|other| linked(*n, *other)))
        {
            reached.push(next);
        }
        if all.clone().any(|n| writes(n) && !reached.contains(&n)) {
            return reached;
        }
        let readers = all.filter(|n| self.agents[*n].access(id) == Some(Access::Read));
        let readers: Vec<usize> = readers.filter(|n| reached.iter().any(|w| linked(*n, *w))).collect();
        reached.extend(readers);
        reached
    }

    /// What an agent's library has of each content, and whether its tree says so.
    fn have(&self, number: usize, id: LibraryId) -> Vec<(Option<AssetRecord>, bool)> {
        let (agent, library) = (&self.agents[number], self.agents[number].library(Some(id)));
        let hashes = (0..ASSETS).map(asset);
        let has = |hash| {
            let stored = agent.stored(&hash);
            let version = library.version(&hash, stored.as_ref());
            let shown = version.as_ref().map(|version| version.record.id(library.keys().record().expose()));
            let in_tree = library.snapshot().items().find(|item| item.hash == hash).map(|item| item.rid);
            (version.map(|version| version.record), shown == in_tree)
        };
        hashes.map(has).collect()
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
            let versions: Vec<Option<AssetRecord>> =
                self.agents.iter().map(|agent| agent.record(&hash)).collect();
            let Some(live) = versions.iter().flatten().find(|record| !record.deleted) else { continue };
            let agrees = |version: &Option<AssetRecord>| {
                version.as_ref().is_some_and(|v| v == live || (v.deleted && v.supersedes(live)))
            };
            if !versions.iter().all(agrees) {
                return Err(format!("versions of one asset: {versions:#?}"));
            }
        }
        Ok(())
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
        let at = self.now + self.dice.delay();
        self.put(at, event);
    }

    /// As [`Self::later`], after everything that went the same way before.
    fn in_order(&mut self, channel: SimChannel, event: SimEvent) {
        let delay = match channel {
            SimChannel::Control(_) => self.dice.delay(),
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

    fn act(&mut self) {
        let agent = self.dice.index(self.agents.len());
        if self.mode == Mode::Libraries && agent + 1 == self.agents.len() && self.dice.one_in(2) {
            return self.lie(agent);
        }
        let hash = asset(self.dice.below(ASSETS));
        let (now, what, text) = (self.now, self.dice.below(26), self.dice.roll());
        let tags = self.some_tags();
        let moves = self.mode == Mode::Libraries && self.dice.one_in(3);
        let acting = &mut self.agents[agent];
        let written = match what {
            0..10 => acting.put(hash, tags, now),
            10..17 => acting.edit(
                hash,
                |record| {
                    record.meta.description = Some(format!("edit {text}"));
                    if moves {
                        record.meta.tags = tags;
                    }
                },
                now,
            ),
            17..20 => acting.edit(hash, |record| record.deleted = true, now),
            20..24 => {
                acting.let_go(hash);
                None
            }
            _ => {
                acting.want(hash);
                None
            }
        };
        if let Some(written) = written {
            self.oracle.wrote(agent, &written);
        }
        self.later(SimEvent::Feed(agent));
    }

    /// Somebody sets the clock that is wrong.
    fn set_clock(&mut self) {
        if std::mem::take(&mut self.agents[0].wrong_ms) == 0 {
            return;
        }
        let ends: Vec<At> = self.ends().filter(|at| self.links[at.link].agents[at.end] == 0).collect();
        for at in ends {
            for lane in 0..self.links[at.link].lanes.len() {
                self.step(at, lane, SessionInput::Reconsider);
            }
        }
    }

    /// Whoever tells everybody something else keeps a library apart. The lies are the same for all in the end: the liar's own
    /// library has them, too.
    fn own_up(&mut self) {
        let liar = self.agents.len() - 1;
        let mut lies = std::mem::take(&mut self.lies);
        // Whoever has the content never takes another size of it; whoever has not cannot know, until it comes: where it may, from
        // somebody who has an older version of it, the lie ends by itself.
        let now_ms = self.agents[liar].clock_ms(self.now) - 1000;
        for (library, record) in &mut lies {
            let is_false = !record.deleted && record.size != size_of(record.hash);
            if is_false && !self.is_to_be_had(*library, &record.hash) {
                record.size = size_of(record.hash);
                record.hlc = record.hlc.next(now_ms);
                self.oracle.lied(*library, record);
            }
        }
        lies.retain(|(_, record)| record.deleted || record.size == size_of(record.hash));
        for (library, record) in lies {
            let agent = &self.agents[liar];
            let stored = agent.stored(&record.hash);
            let library_of = agent.library(Some(library));
            if library_of.consider(&record, false, stored.as_ref(), false, None) == OfferMeaning::Replaces {
                self.take(liar, Some(library), vec![record], false);
            }
        }
        self.later(SimEvent::Keep(liar));
    }

    /// Whether an honest member gives the content in a library to each of the others.
    fn is_to_be_had(&self, id: LibraryId, hash: &ContentHash) -> bool {
        let members = || (0..self.agents.len()).filter(|n| self.agents[*n].access(id).is_some());
        let gives_all = |number: usize| {
            let links = || self.links.iter().filter(|link| link.lanes.contains(&Some(id)));
            let linked = |other: usize| {
                number == other
                    || links().any(|link| link.agents.contains(&number) && link.agents.contains(&other))
            };
            members().all(linked)
        };
        // Who let go of it or deleted it does not fetch it, and cannot know.
        let wants = |number: usize| {
            let (agent, stored) = (&self.agents[number], self.agents[number].stored(hash));
            let version = agent.library(Some(id)).version(hash, stored.as_ref());
            !stored.is_some_and(|stored| stored.record.deleted)
                && version.is_none_or(|version| version.holding != Holding::Unwanted)
        };
        members().all(wants)
            && members().any(|number| {
                let agent = &self.agents[number];
                let serves = agent.stored(hash).is_some_and(|stored| agent.library(Some(id)).serves(&stored));
                number + 1 < self.agents.len()
                    && agent.access(id) == Some(Access::Write)
                    && serves
                    && gives_all(number)
            })
    }

    fn some_tags(&mut self) -> Vec<String> {
        if self.mode != Mode::Libraries {
            return Vec::new();
        }
        let mut tags = TAGS.map(str::to_owned).to_vec();
        tags.retain(|_| self.dice.one_in(2));
        tags
    }

    /// The liar offers what it cannot deliver, under the newest time; deletes and moves out what it never had; and asks for
    /// what it was not offered.
    fn lie(&mut self, liar: usize) {
        let links: Vec<usize> =
            (0..self.links.len()).filter(|n| self.links[*n].agents.contains(&liar)).collect();
        if links.is_empty() {
            return;
        }
        let link = links[self.dice.index(links.len())];
        let (lane, hash) = (self.dice.index(self.links[link].lanes.len()), asset(self.dice.below(ASSETS)));
        let end = usize::from(self.links[link].agents[1] == liar);
        let (at, library) = (At { link, end, life: self.links[link].life }, self.links[link].lanes[lane]);
        let up = self.side(at).is_some_and(|side| side.is_up());
        let Some(library) = library.filter(|_| up) else { return };
        let at_ms = self.agents[liar].clock_ms(self.now) - 1000;
        let tags = self.agents[liar]
            .library(Some(library))
            .shared()
            .map(|s| FilterSpec::from(s.filter()).tags.unwrap_or_default())
            .unwrap();
        let meta = AssetMeta { created_at_ms: at_ms, tags, ..AssetMeta::default() };
        let size = if self.dice.one_in(5) { 1 + self.dice.below(70_000) } else { size_of(hash) };
        let mut record =
            AssetRecord { writer: self.agents[liar].writer(), ..AssetRecord::new(hash, size, None, meta) };
        record.hlc = Hlc::from_ms(at_ms);
        match self.dice.below(6) {
            0 => record.deleted = true,
            1 => (record.deleted, record.left) = (true, true),
            2 | 3 => {
                // Its sessions do not know of the request: what comes is looked at by the oracle alone.
                let request = u64::MAX - self.number();
                let content = crate::wire::proto::ContentRequest {
                    hash: hash.0.to_vec().into(),
                    offset: 0,
                    length: 0,
                    proved: false,
                };
                let want = crate::wire::proto::Want { request, contents: vec![content] };
                return self.send_frame(at, crate::wire::proto::frame::Kind::Want(want));
            }
            _ => {}
        }
        if record.deleted {
            record = record.for_members();
        }
        self.oracle.lied(library, &record);
        self.lies.push((library, record.clone()));
        // It says that it has the content, or that somebody may have it.
        let absent =
            if record.deleted || self.dice.one_in(2) { Bytes::new() } else { Bytes::from_static(&[1]) };
        let offer = crate::wire::proto::Offer {
            library: blinded(Some(library)),
            records: vec![(&record).into()],
            absent,
            ..Default::default()
        };
        self.send_frame(at, crate::wire::proto::frame::Kind::Offer(offer));
    }

    fn make_trouble(&mut self) {
        let link = self.dice.index(self.links.len());
        match (self.dice.below(4), self.links[link].sides.is_some()) {
            (0, _) => {
                let agent = self.dice.index(self.agents.len());
                let until = self.now + self.dice.below(5 * SECOND);
                self.agents[agent].store_down_until = until;
            }
            (1, true) if self.mode == Mode::Libraries && self.dice.one_in(2) => {
                // One of both ends is started anew, with what it has written down.
                let agent = self.links[link].agents[self.dice.index(2)];
                for link in 0..self.links.len() {
                    if self.links[link].agents.contains(&agent) {
                        self.cut(link);
                    }
                }
                self.agents[agent].start();
                for link in 0..self.links.len() {
                    if self.links[link].agents.contains(&agent) && self.links[link].sides.is_none() {
                        self.mend(link, None);
                    }
                }
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
            let decisions = self.agents[side.agent].fetching.disconnected(side.id);
            self.carry_out(side.agent, decisions);
        }
    }

    fn mend(&mut self, link: usize, ids: Option<[SessionId; 2]>) {
        let fresh = [SessionId(self.number()), SessionId(self.number())];
        let ids = ids.unwrap_or(fresh);
        let agents = self.links[link].agents;
        for (end, other) in [(0, 1), (1, 0)] {
            let peer = self.agents[agents[other]].endpoint_id();
            self.agents[agents[end]].fetching.connected(ids[end], peer);
        }
        let (lanes, now) = (self.links[link].lanes.clone(), self.instant());
        self.links[link].sides = Some([0, 1].map(|end| SimSide {
            agent: agents[end],
            id: ids[end],
            lanes: lanes.iter().map(|library| SimLane::new(*library, now)).collect(),
            early: Vec::new(),
            early_lost: false,
            expected: HashMap::new(),
            expected_parts: HashMap::new(),
            initiators: HashMap::new(),
            responders: HashMap::new(),
        }));
        let at = At { link, end: self.dice.index(2), life: self.links[link].life };
        self.in_order(SimChannel::Control(at), SimEvent::Side(at, News::Greet));
    }
}
