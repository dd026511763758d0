//! The network of the simulation: who is connected, what is on its way, and what the shells around the sessions would
//! do. One event at a time, in the order of virtual time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::agent::{Agent, SKEW_MAX_MS, asset};
use crate::identity::{LibraryKeys, NetworkKeys};
use crate::peer::establish::{summary_from_wire, summary_to_wire};
use crate::peer::report::PeerState;
use crate::peer::session::{Effect, Input, Session, SessionSettings, Summary, Verdict, judge};
use crate::peer::wire::{FRAME_BYTES_MAX, decode_frame, encode};
use crate::proto::{Frame, Offer, Ping, Pong, Want, frame};
use crate::reconcile::engine::{Initiator, Limits, Responder};
use crate::record::{AssetRecord, ContentHash};
use crate::store::{FeedEntry, Outcome};
use crate::transfer::schedule::{Decision, Failure, SessionId};

/// Units of virtual time.
const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// How long the network may take to converge once it is calm: some rounds of trying again, hop by hop.
const CONVERGE_WITHIN: u64 = 240 * SECOND;
/// How long nothing may be said afterwards, once the last comparisons are through.
const SETTLE: u64 = 40 * SECOND;
const SILENCE: u64 = 40 * SECOND;
/// More events than any seed needs; beyond it something goes round in circles.
const EVENTS_MAX: u64 = 400_000;
/// Reconciliations that a peer may have open at once; one more would cost the connection.
const RECONCILIATIONS_MAX: usize = 4;
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
}

/// Chance from a seed, the same on every machine (SplitMix64).
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
    Changed(Arc<[FeedEntry]>),
    Fetch(u64, Vec<AssetRecord>),
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
    expected: HashMap<u64, Vec<AssetRecord>>,
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
                Agent::new(u8::try_from(n).unwrap(), skew, mode == Mode::Everything, &KEYS)
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
            if !agent.is_whole() {
                return Err(format!("the contents of agent {number} are not those of its records"));
            }
        }
        match self.mode {
            Mode::Everything => self.all_are_equal()?,
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
            let agrees = |version: &Option<&AssetRecord>| {
                version.is_some_and(|v| v == *live || (v.deleted && v.supersedes(live)))
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
        let (now, what, text) = (self.now, self.dice.below(20), self.dice.roll());
        match what {
            0..10 => self.agents[agent].ingest(hash, now),
            10..17 => self.agents[agent].edit(hash, Some(format!("edit {text}")), now),
            _ => self.agents[agent].edit(hash, None, now),
        }
        self.later(Event::Feed(agent));
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
        self.links[link].sides = Some([0, 1].map(|end| Side {
            agent: agents[end],
            id: ids[end],
            session: None,
            early: Vec::new(),
            heard: HashSet::new(),
            expected: HashMap::new(),
            initiators: HashMap::new(),
            responders: HashMap::new(),
        }));
        let at = At { link, end: self.dice.index(2), life: self.links[link].life };
        self.in_order(Channel::Control(at), Event::Side(at, News::Greet));
    }

    // ---- What CanServiceActor and PeersActor do ------------------------------------------------------------------

    fn on_feed(&mut self, agent: usize) {
        if self.now < self.agents[agent].store_down_until {
            return self.put(self.now + SECOND, Event::Feed(agent));
        }
        let limit = 1 + self.dice.index(20);
        let (changed, more) = self.agents[agent].follow(limit);
        if !changed.is_empty() {
            self.tell_peers(agent, PeersNews::Changed(changed.into()));
        }
        if more {
            self.later(Event::Feed(agent));
        }
    }

    fn tell_peers(&mut self, agent: usize, news: PeersNews) {
        self.in_order(Channel::PeersActor(agent), Event::Peers(agent, news));
    }

    fn on_peers(&mut self, agent: usize, news: PeersNews) {
        let decisions = match news {
            PeersNews::Changed(entries) => {
                let ends: Vec<At> =
                    self.ends().filter(|at| self.links[at.link].agents[at.end] == agent).collect();
                for at in ends {
                    let news = News::Changed(Arc::clone(&entries));
                    self.in_order(Channel::PeerActor(at), Event::Side(at, news));
                }
                return;
            }
            PeersNews::Wanted(id, records) => {
                if self.end_of(agent, id).is_none() {
                    return;
                }
                self.agents[agent].scheduler.announce(id, records)
            }
            PeersNews::Finished(id, results) => {
                if results.iter().any(|(_, result)| matches!(result, Err(Failure::Store(_)))) {
                    self.put(self.now + 3 * SECOND, Event::Resume(agent));
                }
                self.agents[agent].scheduler.finished(id, results)
            }
        };
        self.carry_out(agent, decisions);
    }

    fn end_of(&self, agent: usize, id: SessionId) -> Option<At> {
        self.ends().find(|at| {
            let side = self.links[at.link].sides.as_ref().map(|sides| &sides[at.end]);
            side.is_some_and(|side| side.agent == agent && side.id == id)
        })
    }

    fn carry_out(&mut self, agent: usize, decisions: Vec<Decision>) {
        for decision in decisions {
            let (id, news) = match decision {
                Decision::Fetch { session, request, records } => (session, News::Fetch(request, records)),
                Decision::Settled { session, hashes } => (session, News::Input(Input::Settled(hashes))),
                Decision::Failed { session, hash, reason } => {
                    (session, News::Input(Input::Failed(vec![(hash, reason)])))
                }
            };
            if let Some(at) = self.end_of(agent, id) {
                self.in_order(Channel::PeerActor(at), Event::Side(at, news));
            }
        }
    }

    // ---- What a PeerActor and its tasks do -----------------------------------------------------------------------

    fn on_news(&mut self, at: At, news: News) {
        match news {
            News::Greet => {
                let ours = self.library_of(at).summary();
                self.send(at, News::Greeted(ours));
            }
            News::Greeted(theirs) => {
                let ours = self.library_of(at).summary();
                self.send(at, News::Met { ours: theirs, theirs: ours });
                self.begin(at, ours, theirs);
            }
            News::Met { ours, theirs } => self.begin(at, ours, theirs),
            News::Frame(bytes) => self.on_frame(at, bytes),
            News::Changed(entries) => match self.side(at) {
                Some(side) if side.session.is_none() => side.early.push(entries),
                _ => self.step(at, Input::StoreChanged(entries)),
            },
            News::Fetch(request, records) => {
                let Some(side) = self.side(at).filter(|side| side.session.is_some()) else { return };
                side.expected.insert(request, records.clone());
                self.step(at, Input::Fetch { request, records });
            }
            News::Input(input) => self.step(at, input),
            News::Perform(effect) => self.on_perform(at, effect),
            News::Summary { nonce, answer, seq, until } => self.on_summary(at, nonce, answer, seq, until),
            News::ToResponder(id, message) => self.on_to_responder(at, id, message),
            News::ToInitiator(id, message) => self.on_to_initiator(at, id, &message),
            News::ReconEnds(id, result) => {
                let Some(side) = self.side(at) else { return };
                side.responders.remove(&id);
                self.step(at, Input::ReconEnded { opened_here: false, result });
            }
            News::Content { request, items, broken } => self.on_content(at, request, items, broken),
            News::Received(results) => {
                let Some((agent, id)) = self.side(at).map(|side| (side.agent, side.id)) else { return };
                self.tell_peers(agent, PeersNews::Finished(id, results));
            }
            News::Tick => {
                self.step(at, Input::Tick);
                self.put(self.now + SECOND, Event::Side(at, News::Tick));
            }
        }
    }

    fn library_of(&self, at: At) -> Arc<crate::library::Library> {
        Arc::clone(&self.agents[self.links[at.link].agents[at.end]].library)
    }

    fn send(&mut self, from: At, news: News) {
        let to = from.other();
        self.in_order(Channel::Control(to), Event::Side(to, news));
    }

    fn begin(&mut self, at: At, ours: Summary, theirs: Summary) {
        let settings = SessionSettings {
            library: LIBRARY,
            record_key: KEYS.record().clone(),
            dialer: at.end == 0,
            probe_after: Duration::from_secs(15),
        };
        let (session, effects) = Session::new(settings, ours, theirs, self.instant());
        let Some(side) = self.side(at) else { return };
        side.session = Some(session);
        let early = std::mem::take(&mut side.early);
        self.perform(at, effects);
        for entries in early {
            self.step(at, Input::StoreChanged(entries));
        }
        let first_tick = self.now + self.dice.below(SECOND);
        self.put(first_tick, Event::Side(at, News::Tick));
    }

    fn step(&mut self, at: At, input: Input) {
        let now = self.instant();
        let Some(session) = self.side(at).and_then(|side| side.session.as_mut()) else { return };
        let effects = session.handle(input, now);
        self.perform(at, effects);
    }

    fn perform(&mut self, at: At, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(kind) => {
                    self.said += 1;
                    if let frame::Kind::Offer(offer) = &kind {
                        self.count_echoes(at, offer);
                    }
                    self.send_frame(at, kind);
                }
                Effect::Judge(_) | Effect::Apply(_) | Effect::Load(_) | Effect::Serve(_) => {
                    self.later(Event::Side(at, News::Perform(effect)));
                }
                Effect::Resolve(rids) => {
                    let (found, gone) = self.library_of(at).resolve(&rids);
                    self.step(at, Input::Resolved { found, gone });
                }
                Effect::Announce(records) => {
                    let Some((agent, id)) = self.side(at).map(|side| (side.agent, side.id)) else { return };
                    self.tell_peers(agent, PeersNews::Wanted(id, records));
                }
                Effect::SendSummary { nonce, answer } => {
                    let agent = self.links[at.link].agents[at.end];
                    let (seq, until) = (self.agents[agent].seq(), self.now + 2 * SECOND);
                    self.later(Event::Side(at, News::Summary { nonce, answer, seq, until }));
                }
                Effect::Reconcile => {
                    self.said += 1;
                    let id = self.number();
                    let snapshot = self.library_of(at).snapshot();
                    let (initiator, first) = Initiator::new(snapshot, Limits::default());
                    let Some(side) = self.side(at) else { return };
                    side.initiators.insert(id, initiator);
                    self.later(Event::Side(at.other(), News::ToResponder(id, first)));
                }
                Effect::CancelServe(_) => panic!("nothing stalls here, so nothing is cancelled"),
                Effect::Close { code, reason } => panic!("{at:?} closes an honest peer: {code} {reason}"),
            }
        }
    }

    fn count_echoes(&mut self, at: At, offer: &Offer) {
        for digest in digests(offer) {
            self.offers += 1;
            self.echoes += u64::from(self.side(at).is_some_and(|side| side.heard.contains(&digest)));
        }
    }

    fn send_frame(&mut self, at: At, kind: frame::Kind) {
        let bytes = encode(&Frame { kind: Some(kind) });
        assert!(bytes.len() - 4 <= FRAME_BYTES_MAX, "a frame of {} bytes", bytes.len());
        self.send(at, News::Frame(bytes.slice(4..)));
    }

    fn on_frame(&mut self, at: At, bytes: Bytes) {
        let kind = decode_frame(bytes).expect("an honest peer's frame");
        let (answer, nonce, summaries) = match kind {
            frame::Kind::Ping(Ping { nonce, libraries }) => (false, nonce, libraries),
            frame::Kind::Pong(Pong { nonce, libraries }) => (true, nonce, libraries),
            kind => {
                if let (frame::Kind::Offer(offer), Some(side)) = (&kind, self.side(at)) {
                    side.heard.extend(digests(offer));
                }
                return self.step(at, Input::Frame(kind));
            }
        };
        let theirs = summary_from_wire(&LIBRARY, &summaries).expect("an honest peer's summary");
        let ours = self.library_of(at).summary();
        self.step(at, Input::Compared { answer, nonce, theirs, ours });
    }

    fn on_summary(&mut self, at: At, nonce: u64, answer: bool, seq: u64, until: u64) {
        let library = self.library_of(at);
        if library.cursor().borrow().unwrap_or_default() < seq && self.now < until {
            let again = Event::Side(at, News::Summary { nonce, answer, seq, until });
            return self.put(self.now + 20 * MS, again);
        }
        let libraries = vec![summary_to_wire(&LIBRARY, &library.summary())];
        self.send_frame(
            at,
            if answer {
                frame::Kind::Pong(Pong { nonce, libraries })
            } else {
                frame::Kind::Ping(Ping { nonce, libraries })
            },
        );
    }

    /// Tasks that ask the store; they insist until it answers.
    fn on_perform(&mut self, at: At, effect: Effect) {
        let number = self.links[at.link].agents[at.end];
        let now = self.now;
        let agent = &mut self.agents[number];
        if now < agent.store_down_until {
            return self.put(now + SECOND, Event::Side(at, News::Perform(effect)));
        }
        let input = match effect {
            Effect::Judge(records) => {
                let clock = agent.clock_ms(now);
                let verdicts = records.into_iter().map(|record| {
                    let ours = agent.records.get(&record.hash).map(|(_, ours)| ours);
                    let verdict = judge(&record, ours, clock, agent.replicate_deletes);
                    assert!(!matches!(verdict, Verdict::Refuse(_)), "{verdict:?}");
                    (record, verdict)
                });
                Input::Judged(verdicts.collect())
            }
            Effect::Apply(records) => {
                let (mut settled, mut failed) = (Vec::new(), Vec::new());
                for record in records {
                    let hash = record.hash;
                    match agent.merge(record, false) {
                        Outcome::Stored | Outcome::Unchanged => settled.push(hash),
                        Outcome::NeedsContent => failed.push((hash, "its content went away".to_owned())),
                        Outcome::Rejected(why) => panic!("{why}"),
                    }
                }
                self.later(Event::Feed(number));
                self.step(at, Input::Failed(failed));
                Input::Settled(settled)
            }
            Effect::Load(hashes) => Input::Loaded { records: agent.held(&hashes) },
            Effect::Serve(want) => return self.serve(at, want),
            other => panic!("{other:?} is done at once"),
        };
        self.step(at, input);
    }

    fn serve(&mut self, at: At, Want { request, contents }: Want) {
        let agent = &self.agents[self.links[at.link].agents[at.end]];
        let mut items: Vec<(ContentHash, bool)> = contents
            .iter()
            .map(|content| ContentHash::from_slice(&content.hash).expect("an honest peer's request"))
            .map(|hash| (hash, agent.contents.contains(&hash)))
            .collect();
        let broken = self.chaos() && self.dice.one_in(15);
        if broken {
            let arrived = self.dice.index(items.len());
            items.truncate(arrived);
        }
        self.later(Event::Side(at.other(), News::Content { request, items, broken }));
    }

    fn on_content(&mut self, at: At, request: u64, items: Vec<(ContentHash, bool)>, broken: bool) {
        let Some(side) = self.side(at) else { return };
        let mut expected: HashMap<ContentHash, AssetRecord> =
            side.expected.remove(&request).unwrap_or_default().into_iter().map(|r| (r.hash, r)).collect();
        let number = side.agent;
        let agent = &mut self.agents[number];
        let down = self.now < agent.store_down_until;
        let mut results = Vec::new();
        for (hash, there) in items {
            let record = expected.remove(&hash).expect("asked for");
            results.push((
                hash,
                if !there {
                    Err(Failure::Source("the peer no longer has it".into()))
                } else if down {
                    Err(Failure::Store("down".into()))
                } else {
                    assert_ne!(agent.merge(record, true), Outcome::NeedsContent);
                    Ok(())
                },
            ));
        }
        assert!(broken || expected.is_empty(), "the peer did not send everything");
        let broke = Failure::Source("the stream broke".into());
        results.extend(expected.into_keys().map(|hash| (hash, Err(broke.clone()))));
        self.later(Event::Feed(number));
        self.later(Event::Side(at, News::Received(results)));
    }

    fn on_to_responder(&mut self, at: At, id: u64, message: Vec<u8>) {
        let snapshot = self.library_of(at).snapshot();
        let (now, fails) = (self.now, self.chaos() && self.dice.one_in(40));
        let Some(side) = self.side(at) else { return };
        if side.session.is_none() {
            // A stream may overtake the end of the introduction.
            return self.put(now + 5 * MS, Event::Side(at, News::ToResponder(id, message)));
        }
        let responder =
            side.responders.entry(id).or_insert_with(|| Responder::new(snapshot, Limits::default()));
        let reply = responder.handle(&message).expect("an honest peer's message");
        assert!(side.responders.len() <= RECONCILIATIONS_MAX, "too many reconciliations");
        if fails {
            self.end_recon(at.other(), id, Err("the stream broke".into()));
        } else {
            self.later(Event::Side(at.other(), News::ToInitiator(id, reply)));
        }
    }

    fn on_to_initiator(&mut self, at: At, id: u64, message: &[u8]) {
        let Some(initiator) = self.side(at).and_then(|side| side.initiators.get_mut(&id)) else { return };
        let found = initiator.handle(message).expect("an honest peer's message");
        let have = found.have.iter().map(|item| item.hash).collect();
        self.step(at, Input::Differences { have, need: found.need });
        match found.reply {
            Some(reply) => self.later(Event::Side(at.other(), News::ToResponder(id, reply))),
            None => self.end_recon(at, id, Ok(())),
        }
    }

    /// A reconciliation that the end `at` opened is over, for better or worse.
    fn end_recon(&mut self, at: At, id: u64, result: Result<(), String>) {
        if let Some(side) = self.side(at) {
            side.initiators.remove(&id);
        }
        self.step(at, Input::ReconEnded { opened_here: true, result: result.clone() });
        self.later(Event::Side(at.other(), News::ReconEnds(id, result)));
    }
}

fn digests(offer: &Offer) -> impl Iterator<Item = [u8; 32]> {
    offer.records.iter().map(|wire| AssetRecord::try_from(wire.clone()).expect("an honest record").digest())
}
