//! What the actors and their tasks do around the sessions: the feed, PeersActor's scheduler, streams, the store's answers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use iroh::EndpointId;

use super::super::agent::size_of;
use super::{
    At, MS, Mode, News, PeersNews, SECOND, SimChannel, SimEvent, SimLane, SimSide, SimWorld, blinded,
};
use crate::library::Library;
use crate::library::ticket::Access;
use crate::peer::deferrals::Note;
use crate::peer::establish::{summary_from_wire, summary_to_wire};
use crate::peer::session::{
    INLINE_CONTENT_BYTES_MAX, InlineContents, OfferVerdict, Session, SessionEffect, SessionInput,
    SessionSettings, judge_for, judge_holding,
};
use crate::reconcile::Summary;
use crate::reconcile::engine::{EngineLimits, Initiator, Responder};
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, LibraryId, WriterId};
use crate::store::{FeedEntry, IncomingAsset, IncomingContent, ItemOutcome};
use crate::transfer::commit::CommitOutcome;
use crate::transfer::fetching::FetchDecision;
use crate::transfer::ranges::Ranges;
use crate::transfer::schedule::{Failure, ScheduleDecision, SessionId, WantKey};
use crate::wire::proto::{Cancel, ContentRequest, Frame, Offer, Ping, Pong, Want, frame};
use crate::wire::{FRAME_BYTES_MAX, decode_frame, encode};

/// Reconciliations that a peer may have open at once; one more would cost the connection.
const RECONCILIATIONS_MAX: usize = 4;

impl SimWorld {
    // ---- What CanServiceActor and PeersActor do ------------------------------------------------------------------

    pub(super) fn on_feed(&mut self, agent: usize) {
        if self.now < self.agents[agent].store_down_until {
            return self.put(self.now + SECOND, SimEvent::Feed(agent));
        }
        let limit = 1 + self.dice.index(20);
        let (changed, more) = self.agents[agent].follow(limit);
        if !changed.is_empty() {
            self.tell_peers(agent, PeersNews::Changed(changed.into()));
        }
        self.later(SimEvent::Keep(agent));
        if more {
            self.later(SimEvent::Feed(agent));
        }
    }

    pub(super) fn on_keep(&mut self, agent: usize) {
        for (library, entries) in self.agents[agent].keep_asides() {
            self.tell_peers(agent, PeersNews::LibraryChanged(library, entries));
        }
        self.oracle.is_own(&self.agents[agent]);
    }

    /// Takes contents with their records, or records alone, as the tasks do. The store answers at once.
    pub(super) fn take(
        &mut self,
        number: usize,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
        with_content: bool,
    ) -> Vec<ItemOutcome> {
        let agent = &self.agents[number];
        let before: Vec<Option<AssetRecord>> = records.iter().map(|r| agent.record(&r.hash)).collect();
        let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
        let content = || IncomingContent::Bytes(Bytes::new());
        let asset = |record| IncomingAsset { record, content: content() };
        let taker = agent.taker();
        let outcomes = if with_content {
            let batch = records.into_iter().map(asset).collect();
            taker.ingest(library, batch).now_or_never()
        } else {
            taker.apply(library, records).now_or_never()
        };
        for (hash, before) in hashes.iter().zip(before) {
            if let Some(library) = library {
                self.oracle.stored(agent, library, before.as_ref(), agent.record(hash).as_ref());
            }
        }
        self.oracle.stays_own(agent);
        self.later(SimEvent::Feed(number));
        outcomes.unwrap().unwrap()
    }

    fn tell_peers(&mut self, agent: usize, news: PeersNews) {
        self.in_order(SimChannel::PeersActor(agent), SimEvent::Peers(agent, Box::new(news)));
    }

    pub(super) fn on_peers(&mut self, agent: usize, news: PeersNews) {
        let decisions = match news {
            PeersNews::Changed(entries) => {
                let contents = Arc::new(self.inline(agent, &entries));
                let ends: Vec<At> =
                    self.ends().filter(|at| self.links[at.link].agents[at.end] == agent).collect();
                for at in ends {
                    let news = News::Changed(Arc::clone(&entries), Arc::clone(&contents));
                    self.in_order(SimChannel::PeerActor(at), SimEvent::Side(at, news));
                }
                return;
            }
            PeersNews::LibraryChanged(library, entries) => {
                let ends: Vec<At> =
                    self.ends().filter(|at| self.links[at.link].agents[at.end] == agent).collect();
                for at in ends {
                    let news = News::LibraryChanged(library, Arc::clone(&entries));
                    self.in_order(SimChannel::PeerActor(at), SimEvent::Side(at, news));
                }
                return;
            }
            PeersNews::Wanted(id, library, records) => {
                if self.end_of(agent, id).is_none() {
                    return;
                }
                self.agents[agent].fetching.announce(id, library, records)
            }
            PeersNews::Reset(id) => self.agents[agent].fetching.session_ended(id),
            PeersNews::Finished(id, results) => self.agents[agent].fetching.finished(id, results),
            PeersNews::PartFinished(id, request, hash, result) => {
                self.agents[agent].fetching.part_finished(id, request, hash, result)
            }
            PeersNews::Commit(key, record) => self.commit(agent, key, record),
            PeersNews::Apply(key, record) => {
                let result = if self.now < self.agents[agent].store_down_until {
                    Err(Failure::Store("down".into()))
                } else {
                    match self.take(agent, key.library, vec![record], false)[0] {
                        ItemOutcome::NeedsContent => Err(Failure::Source("its content went away".into())),
                        _ => Ok(()),
                    }
                };
                self.agents[agent].fetching.applied(key, result)
            }
            PeersNews::Restrict(key) => self.agents[agent].fetching.restricted(key, Ok(())),
        };
        self.carry_out(agent, decisions);
    }

    /// Contents that go along with an offer, now and then those of an asset that came from somebody else.
    fn inline(&self, agent: usize, entries: &[FeedEntry]) -> InlineContents {
        let agent = &self.agents[agent];
        let eligible = |record: &&AssetRecord| {
            record.size <= INLINE_CONTENT_BYTES_MAX as u64
                && record.writer == WriterId::NULL
                && agent.has(&record.hash)
                && !agent.fetching.scheduler().wants(&record.hash)
        };
        let records = entries.iter().map(|entry| &entry.record).filter(eligible);
        let content = |size: u64| Bytes::from(vec![0; usize::try_from(size).unwrap()]);
        records.map(|record| (record.hash, content(record.size))).collect()
    }

    /// All parts of a large content are here, or so the scheduler says.
    fn commit(&mut self, number: usize, key: WantKey, record: AssetRecord) -> Vec<FetchDecision> {
        let agent = &mut self.agents[number];
        let whole = agent.parts.get(&key).map_or(0, Ranges::len) == key.size;
        assert!(whole, "parts are missing that were said to be here");
        let outcome = if self.now < agent.store_down_until {
            CommitOutcome::NotTaken(Failure::Store("down".into()))
        } else {
            agent.parts.remove(&key);
            let outcomes = self.take(number, key.library, vec![record], true);
            assert_ne!(outcomes, [ItemOutcome::NeedsContent]);
            CommitOutcome::Stored { from: None, liars: Vec::new() }
        };
        self.agents[number].fetching.committed(key, outcome)
    }

    /// A peer sent something else than was asked of it: the connection is closed, and there is another one later.
    fn distrust(&mut self, agent: usize, peer: &EndpointId) {
        let liar = self.agents.len() - 1;
        let honest = self.mode != Mode::Libraries || self.agents[liar].endpoint_id() != *peer;
        assert!(!honest, "an honest agent is distrusted");
        let is_between = |link: &&usize| {
            let agents = self.links[**link].agents;
            agents.contains(&agent) && agents.contains(&liar)
        };
        let Some(link) = (0..self.links.len()).collect::<Vec<_>>().iter().find(is_between).copied() else {
            return;
        };
        if self.links[link].sides.is_some() {
            self.cut(link);
            self.put(self.now + SECOND, SimEvent::Mend(link));
        }
    }

    fn end_of(&self, agent: usize, id: SessionId) -> Option<At> {
        self.ends().find(|at| {
            let side = self.links[at.link].sides.as_ref().map(|sides| &sides[at.end]);
            side.is_some_and(|side| side.agent == agent && side.id == id)
        })
    }

    pub(super) fn carry_out(&mut self, agent: usize, decisions: Vec<FetchDecision>) {
        for decision in decisions {
            let decision = match decision {
                FetchDecision::Schedule(decision) => decision,
                FetchDecision::Distrust { peer, .. } => {
                    self.distrust(agent, &peer);
                    continue;
                }
            };
            let (id, news) = match decision {
                ScheduleDecision::Fetch { session, request, library, records } => {
                    (session, News::Fetch(request, library, records))
                }
                ScheduleDecision::FetchPart { session, request, key, range, .. } => {
                    (session, News::FetchPart(request, key, range))
                }
                ScheduleDecision::Revoke { session, request } => (session, News::Revoke(request)),
                ScheduleDecision::Commit(key, record) => {
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Commit(key, record))));
                    continue;
                }
                ScheduleDecision::Apply(key, record) => {
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Apply(key, record))));
                    continue;
                }
                ScheduleDecision::Lied { .. } | ScheduleDecision::Misnamed { .. } => continue,
                ScheduleDecision::Restart(key) => {
                    self.agents[agent].parts.remove(&key);
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Restrict(key))));
                    continue;
                }
                ScheduleDecision::Restrict { key, .. } => {
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Restrict(key))));
                    continue;
                }
                ScheduleDecision::Settled { session, keys } => (session, News::Settled(keys)),
                ScheduleDecision::Failed { session, key, reason } => (session, News::Failed(key, reason)),
            };
            if let Some(at) = self.end_of(agent, id) {
                self.in_order(SimChannel::PeerActor(at), SimEvent::Side(at, news));
            }
        }
    }

    // ---- What a PeerActor and its tasks do -----------------------------------------------------------------------

    pub(super) fn on_news(&mut self, at: At, news: News) {
        match news {
            News::Greet => {
                let ours = self.summaries(at);
                self.send(at, News::Greeted(ours));
            }
            News::Greeted(theirs) => {
                let ours = self.summaries(at);
                self.send(at, News::Met { ours: theirs.clone(), theirs: ours.clone() });
                self.begin(at, &ours, &theirs);
            }
            News::Met { ours, theirs } => self.begin(at, &ours, &theirs),
            News::Frame(bytes) => self.on_frame(at, bytes),
            News::Changed(entries, contents) => match self.side(at) {
                Some(side) if !side.is_up() => side.early.push(entries),
                _ => self.on_changed(at, &entries, &contents),
            },
            News::LibraryChanged(library, entries) => match self.side(at) {
                Some(side) if !side.is_up() => side.early_lost = true,
                _ => {
                    for lane in self.lanes_of(at, |lane| lane.library == Some(library)) {
                        self.step(at, lane, SessionInput::StoreChanged(Arc::clone(&entries)));
                    }
                }
            },
            News::Find(lane, names) => self.on_find(at, lane, names),
            News::Lacks(lane, names) => {
                if let Some(side) = self.side(at) {
                    let wishes = &mut side.lanes[lane].wishes;
                    for hash in &names {
                        wishes.answered(hash, false);
                    }
                }
            }
            News::Settled(keys) => self.on_settled(at, &keys),
            News::Failed(key, reason) => self.on_failed(at, key, &reason),
            News::Fetch(request, library, records) => {
                let Some(side) = self.side(at).filter(|side| side.is_up()) else { return };
                side.expected.insert(request, (library, records.clone()));
                self.step(at, 0, SessionInput::Fetch { request, records });
            }
            News::FetchPart(request, key, range) => self.on_fetch_part(at, request, key, range),
            News::Revoke(request) => {
                let Some(side) = self.side(at).filter(|side| side.is_up()) else { return };
                side.expected.remove(&request);
                side.expected_parts.remove(&request);
                self.send_frame(at, frame::Kind::Cancel(Cancel { request }));
            }
            News::PartReceived(request, hash, result) => {
                let Some((agent, id)) = self.side(at).map(|side| (side.agent, side.id)) else { return };
                self.tell_peers(agent, PeersNews::PartFinished(id, request, hash, result));
            }
            News::Perform(lane, effect) => self.on_perform(at, lane, effect),
            News::Summary { lane, nonce, answer, seq, until } => {
                self.on_summary(at, lane, nonce, answer, seq, until);
            }
            News::ToResponder(lane, id, message) => self.on_to_responder(at, lane, id, message),
            News::ToInitiator(lane, id, message) => self.on_to_initiator(at, lane, id, &message),
            News::ReconEnds(lane, id, result) => {
                let Some(side) = self.side(at) else { return };
                side.responders.remove(&id);
                self.step(at, lane, SessionInput::ReconEnded { opened_here: false, result });
            }
            News::Content { request, items, broken } => self.on_content(at, request, items, broken),
            News::Received(results) => {
                let Some((agent, id)) = self.side(at).map(|side| (side.agent, side.id)) else { return };
                self.tell_peers(agent, PeersNews::Finished(id, results));
            }
            News::Tick => {
                for lane in 0..self.links[at.link].lanes.len() {
                    self.step(at, lane, SessionInput::Tick);
                }
                self.ask_for_wanted(at);
                self.recall(self.links[at.link].agents[at.end]);
                self.put(self.now + SECOND, SimEvent::Side(at, News::Tick));
            }
        }
    }

    fn on_settled(&mut self, at: At, keys: &[WantKey]) {
        for lane in 0..self.links[at.link].lanes.len() {
            let library = self.links[at.link].lanes[lane];
            let theirs = keys.iter().filter(|key| key.library == library).map(|key| key.hash);
            let (theirs, now): (Vec<ContentHash>, _) = (theirs.collect(), self.instant());
            if let Some(side) = self.side(at) {
                for hash in &theirs {
                    side.lanes[lane].wishes.came(hash, now);
                }
            }
            self.step(at, lane, SessionInput::Settled(theirs));
        }
    }

    fn on_failed(&mut self, at: At, key: WantKey, reason: &str) {
        let owes = |lane: &SimLane| {
            lane.library == key.library && lane.session.as_ref().is_some_and(|s| s.owes(&key.hash))
        };
        for lane in self.lanes_of(at, owes) {
            self.step(at, lane, SessionInput::Failed(vec![(key.hash, reason.to_owned())]));
        }
    }

    /// What is wanted and missing is asked for by name; the answer is an offer of what the peer holds.
    fn ask_for_wanted(&mut self, at: At) {
        let lanes = self.links[at.link].lanes.len();
        let libraries: Vec<Arc<Library>> = (0..lanes).map(|lane| self.library_of(at, lane)).collect();
        let now = self.instant();
        let Some(SimSide { lanes, .. }) = self.side(at).filter(|side| side.is_up()) else { return };
        let coming = lanes.iter().filter_map(|lane| lane.session.as_ref()).map(Session::owed).sum();
        let mut asked = Vec::new();
        for (n, (lane, library)) in lanes.iter_mut().zip(libraries).enumerate() {
            if lane.session.as_ref().is_some_and(Session::takes) {
                asked.push((n, lane.wishes.next(now, coming, |after, limit| library.wanted(after, limit))));
            }
        }
        for (lane, names) in asked.into_iter().filter(|(_, names)| !names.is_empty()) {
            self.send(at, News::Find(lane, names));
        }
    }

    fn on_find(&mut self, at: At, lane: usize, names: Vec<ContentHash>) {
        if self.side(at).is_none_or(|side| !side.is_up()) {
            return self.put(self.now + 5 * MS, SimEvent::Side(at, News::Find(lane, names)));
        }
        let agent = &self.agents[self.agent_of(at)];
        if self.now < agent.store_down_until {
            return self.put(self.now + SECOND, SimEvent::Side(at, News::Find(lane, names)));
        }
        let library = self.links[at.link].lanes[lane];
        let gives = library.is_none_or(|id| agent.access(id) == Some(Access::Write));
        let (mut found, mut lacks) = (Vec::new(), Vec::new());
        for hash in names {
            let version = agent.library(library).version(&hash, agent.stored(&hash).as_ref());
            match version.filter(|version| gives && version.holding.is_held()) {
                Some(version) => found.push(version.record),
                None => lacks.push(hash),
            }
        }
        if !found.is_empty() {
            self.step(at, lane, SessionInput::Found(found));
        }
        self.send(at, News::Lacks(lane, lacks));
    }

    fn agent_of(&self, at: At) -> usize {
        self.links[at.link].agents[at.end]
    }

    fn library_of(&self, at: At, lane: usize) -> Arc<Library> {
        self.agents[self.agent_of(at)].library(self.links[at.link].lanes[lane])
    }

    fn lanes_of(&mut self, at: At, is: impl Fn(&SimLane) -> bool) -> Vec<usize> {
        let Some(SimSide { lanes, .. }) = self.side(at) else { return Vec::new() };
        (0..lanes.len()).filter(|n| is(&lanes[*n])).collect()
    }

    fn summaries(&self, at: At) -> Vec<Summary> {
        let lanes = 0..self.links[at.link].lanes.len();
        lanes.map(|lane| self.library_of(at, lane).summary()).collect()
    }

    fn on_changed(&mut self, at: At, entries: &Arc<[FeedEntry]>, contents: &Arc<InlineContents>) {
        for lane in 0..self.links[at.link].lanes.len() {
            if let Some(entries) = self.library_of(at, lane).changes(entries) {
                self.step(at, lane, SessionInput::Created { entries, contents: Arc::clone(contents) });
            }
        }
    }

    fn send(&mut self, from: At, news: News) {
        let to = from.other();
        self.in_order(SimChannel::Control(to), SimEvent::Side(to, news));
    }

    fn begin(&mut self, at: At, ours: &[Summary], theirs: &[Summary]) {
        let (agent, peer) = (self.agent_of(at), self.agent_of(at.other()));
        let writes = |agent: usize, library: Option<LibraryId>| {
            library.is_none_or(|library| self.agents[agent].access(library) == Some(Access::Write))
        };
        let mut begun = Vec::new();
        for (lane, library) in self.links[at.link].lanes.iter().enumerate() {
            let settings = SessionSettings {
                tag: library.map(|library| blinded(Some(library))).unwrap_or_default(),
                gives: writes(agent, *library),
                takes: writes(peer, *library),
                library: blinded(*library),
                record_key: self.library_of(at, lane).keys().record().clone(),
                lanes: self.links[at.link].lanes.len(),
                dialer: at.end == 0,
                probe_after: Duration::from_secs(15),
            };
            begun.push(Session::new(settings, ours[lane], theirs[lane], self.instant()));
        }
        let Some(side) = self.side(at) else { return };
        let (mut effects, id) = (Vec::new(), side.id);
        for (lane, (session, first)) in side.lanes.iter_mut().zip(begun) {
            lane.session = Some(session);
            effects.push(first);
        }
        let (early, lost) = (std::mem::take(&mut side.early), std::mem::take(&mut side.early_lost));
        self.tell_peers(agent, PeersNews::Reset(id));
        for (lane, effects) in effects.into_iter().enumerate() {
            self.perform(at, lane, effects);
        }
        for entries in early {
            self.on_changed(at, &entries, &Arc::default());
        }
        for lane in 0..self.links[at.link].lanes.len() {
            if lost {
                self.step(at, lane, SessionInput::ChangesLost);
            }
        }
        let first_tick = self.now + self.dice.below(SECOND);
        self.put(first_tick, SimEvent::Side(at, News::Tick));
    }

    pub(super) fn step(&mut self, at: At, lane: usize, input: SessionInput) {
        let now = self.instant();
        let Some(session) = self.side(at).and_then(|side| side.lanes[lane].session.as_mut()) else { return };
        let effects = session.handle(input, now);
        let confirmed = session.confirmed();
        let number = self.agent_of(at);
        let agent = &mut self.agents[number];
        agent.confirmed = agent.confirmed.max(confirmed);
        self.perform(at, lane, effects);
    }

    /// Has versions dated anew that were written while the clock was ahead, once it is right.
    fn recall(&mut self, number: usize) {
        if self.mode != Mode::WrongClock || self.agents[number].wrong_ms != 0 {
            return;
        }
        let sides = self.links.iter().filter_map(|link| link.sides.as_ref()).flatten();
        let lanes = sides.filter(|side| side.agent == number).flat_map(|side| &side.lanes);
        let sessions = lanes.filter_map(|lane| lane.session.as_ref());
        let offered = sessions.map(Session::newest_offered).max().unwrap_or_default();
        let now = self.now;
        if now >= self.agents[number].store_down_until && self.agents[number].recall(now, offered) {
            self.later(SimEvent::Feed(number));
        }
    }

    fn perform(&mut self, at: At, lane: usize, effects: Vec<SessionEffect>) {
        for effect in effects {
            match effect {
                SessionEffect::Send(kind) => {
                    self.said += 1;
                    if let frame::Kind::Offer(offer) = &kind {
                        self.count_echoes(at, lane, offer);
                    }
                    self.send_frame(at, kind);
                }
                SessionEffect::Judge(_)
                | SessionEffect::JudgeAbsent(_)
                | SessionEffect::TakeAbsent(_)
                | SessionEffect::Apply(_)
                | SessionEffect::Reassert(_)
                | SessionEffect::Store(_)
                | SessionEffect::Load(_)
                | SessionEffect::Serve(_) => {
                    self.later(SimEvent::Side(at, News::Perform(lane, effect)));
                }
                SessionEffect::Resolve(rids) => {
                    let (found, gone) = self.library_of(at, lane).resolve(&rids);
                    self.step(at, lane, SessionInput::Resolved { found, gone });
                }
                SessionEffect::Announce(records) => {
                    let Some((agent, id)) = self.side(at).map(|side| (side.agent, side.id)) else { return };
                    let library = self.links[at.link].lanes[lane];
                    self.tell_peers(agent, PeersNews::Wanted(id, library, records));
                }
                SessionEffect::SendSummary { nonce, answer } => {
                    let agent = self.agent_of(at);
                    let (seq, until) = (self.agents[agent].seq(), self.now + 2 * SECOND);
                    self.later(SimEvent::Side(at, News::Summary { lane, nonce, answer, seq, until }));
                }
                SessionEffect::Reconcile => {
                    self.said += 1;
                    let id = self.number();
                    let snapshot = self.library_of(at, lane).snapshot();
                    let (initiator, first) = Initiator::new(snapshot, EngineLimits::default());
                    let Some(side) = self.side(at) else { return };
                    side.initiators.insert(id, initiator);
                    self.later(SimEvent::Side(at.other(), News::ToResponder(lane, id, first)));
                }
                // What is on its way comes all the same.
                SessionEffect::CancelServe(_) => {}
                SessionEffect::Close { code, reason } => {
                    panic!("{at:?} closes the connection: {code} {reason}")
                }
            }
        }
    }

    fn count_echoes(&mut self, at: At, lane: usize, offer: &Offer) {
        for digest in digests(offer) {
            self.offers += 1;
            let heard = self.side(at).is_some_and(|side| side.lanes[lane].heard.contains(&digest));
            self.echoes += u64::from(heard);
        }
    }

    pub(super) fn send_frame(&mut self, at: At, kind: frame::Kind) {
        let bytes = encode(&Frame { kind: Some(kind) });
        assert!(bytes.len() - 4 <= FRAME_BYTES_MAX, "a frame of {} bytes", bytes.len());
        self.send(at, News::Frame(bytes.slice(4..)));
    }

    fn on_frame(&mut self, at: At, bytes: Bytes) {
        let kind = decode_frame(bytes).expect("a frame");
        let named = match &kind {
            frame::Kind::Offer(offer) => offer.library.clone(),
            frame::Kind::Records(records) => records.library.clone(),
            frame::Kind::Have(have) => have.library.clone(),
            frame::Kind::Error(error) => error.library.clone(),
            frame::Kind::Later(later) => later.library.clone(),
            frame::Kind::Ping(Ping { libraries, .. }) | frame::Kind::Pong(Pong { libraries, .. }) => {
                libraries[0].blinded.clone()
            }
            _ => Bytes::new(),
        };
        let lane = if named.is_empty() {
            0
        } else {
            let mut lanes = self.links[at.link].lanes.iter();
            lanes.position(|library| blinded(*library) == named).expect("a library that is shared")
        };
        let library = self.links[at.link].lanes[lane];
        let (answer, nonce, summaries, behind) = match kind {
            frame::Kind::Ping(Ping { nonce, libraries, behind, .. }) => (false, nonce, libraries, behind),
            frame::Kind::Pong(Pong { nonce, libraries, behind, .. }) => (true, nonce, libraries, behind),
            // The liar does not say what it has got.
            frame::Kind::Have(_) if self.mode == Mode::Libraries && self.withholds(at) => return,
            kind => {
                if let frame::Kind::Offer(offer) = &kind {
                    self.on_heard(at, lane, offer);
                }
                return self.step(at, lane, SessionInput::Frame(kind));
            }
        };
        let theirs = summary_from_wire(&blinded(library), &summaries).expect("an honest peer's summary");
        let ours = self.library_of(at, lane).summary();
        let certain = !behind && self.side(at).is_some_and(|side| !side.lanes[lane].asked_behind);
        self.step(at, lane, SessionInput::Compared { answer, nonce, theirs, ours, certain });
    }

    fn withholds(&mut self, at: At) -> bool {
        self.agent_of(at.other()) + 1 == self.agents.len() && self.chaos() && self.dice.one_in(3)
    }

    fn on_heard(&mut self, at: At, lane: usize, offer: &Offer) {
        if let Some(side) = self.side(at) {
            side.lanes[lane].heard.extend(digests(offer));
        }
        if self.mode != Mode::Libraries {
            return;
        }
        let (agent, library) = (self.agent_of(at), self.links[at.link].lanes[lane]);
        for wire in &offer.records {
            let record = AssetRecord::try_from(wire.clone()).expect("a record");
            self.oracle.heard(agent, library, &record);
        }
        for inline in &offer.contents {
            self.oracle.received(agent, ContentHash::from_slice(&inline.hash).expect("a hash"));
        }
    }

    fn on_summary(&mut self, at: At, lane: usize, nonce: u64, answer: bool, seq: u64, until: u64) {
        let library = self.library_of(at, lane);
        let behind = library.cursor().borrow().unwrap_or_default() < seq;
        if behind && self.now < until {
            let again = SimEvent::Side(at, News::Summary { lane, nonce, answer, seq, until });
            return self.put(self.now + 20 * MS, again);
        }
        let shared = self.links[at.link].lanes[lane];
        let libraries = vec![summary_to_wire(&blinded(shared), &library.summary())];
        if answer {
            return self.send_frame(at, frame::Kind::Pong(Pong { nonce, libraries, behind, clock_ms: 0 }));
        }
        if let Some(side) = self.side(at) {
            side.lanes[lane].asked_behind = behind;
        }
        self.send_frame(at, frame::Kind::Ping(Ping { nonce, libraries, behind, clock_ms: 0 }));
    }

    /// Tasks that ask the store; they insist until it answers.
    fn on_perform(&mut self, at: At, lane: usize, effect: SessionEffect) {
        let (number, now) = (self.agent_of(at), self.now);
        let shared = self.links[at.link].lanes[lane];
        let agent = &self.agents[number];
        if now < agent.store_down_until {
            return match effect {
                SessionEffect::Store(items) => {
                    let records = items.into_iter().map(|(record, _)| record).collect();
                    self.step(at, lane, SessionInput::NotStored(records));
                }
                effect => self.put(now + SECOND, SimEvent::Side(at, News::Perform(lane, effect))),
            };
        }
        let input = match effect {
            SessionEffect::Store(items) => {
                let records: Vec<AssetRecord> = items.iter().map(|(record, _)| record.clone()).collect();
                assert!(items.iter().all(|(record, content)| content.len() as u64 == record.size));
                let outcomes = self.take(number, shared, records.clone(), true);
                assert!(!outcomes.contains(&ItemOutcome::NeedsContent));
                let decisions = self.agents[number].fetching.arrived(shared, &records);
                self.carry_out(number, decisions);
                SessionInput::Settled(records.iter().map(|record| record.hash).collect())
            }
            SessionEffect::Judge(records) => self.judge(at, lane, records, true),
            SessionEffect::JudgeAbsent(records) => self.judge(at, lane, records, false),
            SessionEffect::Reassert(others) => {
                for other in &others {
                    self.agents[number].reassert(other.hash, other.hlc);
                    self.agents[number].notes.spend(other, None);
                }
                self.later(SimEvent::Feed(number));
                SessionInput::Settled(others.into_iter().map(|other| other.hash).collect())
            }
            SessionEffect::TakeAbsent(records) => {
                let hashes = records.iter().map(|record| record.hash).collect();
                let taken = agent.taker().take_absent(records).now_or_never();
                assert!(taken.is_some_and(|taken| taken.is_ok()));
                self.oracle.stays_own(agent);
                self.later(SimEvent::Feed(number));
                SessionInput::Settled(hashes)
            }
            SessionEffect::Apply(records) => {
                let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
                let (mut settled, mut failed) = (Vec::new(), Vec::new());
                for (hash, outcome) in hashes.into_iter().zip(self.take(number, shared, records, false)) {
                    match outcome {
                        ItemOutcome::Stored | ItemOutcome::Unchanged | ItemOutcome::Absent => {
                            settled.push(hash);
                        }
                        ItemOutcome::NeedsContent => failed.push((hash, "its content went away".to_owned())),
                        ItemOutcome::Rejected(why) if self.mode == Mode::Libraries => {
                            failed.push((hash, why));
                        }
                        ItemOutcome::Rejected(why) => panic!("{why}"),
                    }
                }
                self.step(at, lane, SessionInput::Failed(failed));
                SessionInput::Settled(settled)
            }
            SessionEffect::Load(hashes) => {
                let held = hashes.iter().filter_map(|hash| agent.stored(hash)).collect();
                SessionInput::Loaded { records: agent.library(shared).versions(&hashes, held) }
            }
            SessionEffect::Serve(want) => return self.serve(at, want),
            other => panic!("{other:?} is done at once"),
        };
        self.step(at, lane, input);
    }

    fn judge(&mut self, at: At, lane: usize, records: Vec<AssetRecord>, held_there: bool) -> SessionInput {
        if let Some(side) = self.side(at) {
            for record in &records {
                side.lanes[lane].wishes.answered(&record.hash, held_there);
            }
        }
        let (number, shared) = (self.agent_of(at), self.links[at.link].lanes[lane]);
        let from = self.agent_of(at.other()) as u64;
        let agent = &mut self.agents[number];
        let (clock, deletes) = (agent.clock_ms(self.now), agent.replicate_deletes);
        let library = agent.library(shared);
        let mut verdicts = Vec::new();
        for record in records {
            let ours = agent.stored(&record.hash);
            let mut verdict = match shared {
                None => judge_holding(&record, held_there, ours.as_ref(), clock, (HLC_AHEAD_MAX_MS, deletes)),
                Some(_) => judge_for(
                    &library,
                    &record,
                    held_there,
                    ours.as_ref(),
                    clock,
                    (deletes, false),
                    Some(from),
                ),
            };
            let ours = ours.filter(|ours| shared.is_none() || library.is_here(ours)).map(|ours| ours.record);
            match &verdict {
                OfferVerdict::Later(wait_ms) => {
                    assert_eq!(self.mode, Mode::WrongClock);
                    agent.notes.add(Note::of(&record, None, clock, clock + wait_ms));
                }
                OfferVerdict::Apply | OfferVerdict::Fetch | OfferVerdict::TakeAbsent
                    if ours.as_ref().is_none_or(|ours| record.supersedes(ours)) =>
                {
                    if agent.notes.settle(&record, ours.as_ref(), None, true).0 {
                        verdict = OfferVerdict::Reassert;
                    }
                    agent.confirmed = agent.confirmed.max(record.hlc);
                }
                // Of two sizes that are told of one content, one is a lie.
                OfferVerdict::Refuse(why) => assert_eq!(self.mode, Mode::Libraries, "{why}"),
                _ => {}
            }
            verdicts.push((record, verdict));
        }
        self.later(SimEvent::Keep(number));
        SessionInput::Judged(verdicts)
    }

    fn on_fetch_part(&mut self, at: At, request: u64, key: WantKey, range: Range<u64>) {
        let Some(number) = self.side(at).filter(|side| side.is_up()).map(|side| side.agent) else {
            return;
        };
        let missing = self.agents[number].parts.entry(key).or_default().missing(range);
        if missing.is_empty() {
            return self.later(SimEvent::Side(at, News::PartReceived(request, key.hash, Ok(()))));
        }
        let contents = missing.iter().map(|range| ContentRequest {
            hash: key.hash.0.to_vec().into(),
            offset: range.start,
            length: range.end - range.start,
            proved: false,
        });
        let want = Want { request, contents: contents.collect() };
        if let Some(side) = self.side(at) {
            side.expected_parts.insert(request, (key, missing));
        }
        self.send_frame(at, frame::Kind::Want(want));
    }

    /// The ranges of a part come in order; a stream that breaks brings some of them.
    fn on_part(&mut self, at: At, request: u64, items: &[(ContentHash, bool)]) {
        let Some(side) = self.side(at) else { return };
        let Some((key, ranges)) = side.expected_parts.remove(&request) else { return };
        let number = side.agent;
        let agent = &mut self.agents[number];
        let down = self.now < agent.store_down_until;
        let came = items.iter().take_while(|(_, there)| *there).count();
        let result = if down {
            Err(Failure::Store("down".into()))
        } else {
            let parts = agent.parts.entry(key).or_default();
            ranges.iter().take(came).for_each(|range| parts.insert(range.clone()));
            if came < ranges.len() {
                let half = ranges[came].start..u64::midpoint(ranges[came].start, ranges[came].end);
                parts.insert(half);
                Err(Failure::Source("it did not all come".into()))
            } else {
                Ok(())
            }
        };
        self.later(SimEvent::Side(at, News::PartReceived(request, key.hash, result)));
    }

    fn serve(&mut self, at: At, Want { request, contents }: Want) {
        let agent = &self.agents[self.agent_of(at)];
        let lanes = &self.links[at.link].lanes;
        let libraries: Vec<Arc<Library>> = lanes.iter().map(|library| agent.library(*library)).collect();
        let serves = |hash: &ContentHash| {
            let held = agent.stored(hash).filter(|_| agent.has(hash));
            held.is_some_and(|held| libraries.iter().any(|library| library.serves(&held)))
        };
        // Of another size than the peer says, it is none of what it asks for.
        let is_served = |content: &ContentRequest| {
            let hash = ContentHash::from_slice(&content.hash).expect("a hash");
            (hash, serves(&hash))
        };
        let mut items: Vec<(ContentHash, bool)> = contents.iter().map(is_served).collect();
        let broken = self.chaos() && self.dice.one_in(15);
        if broken {
            let arrived = self.dice.index(items.len());
            items.truncate(arrived);
        }
        self.later(SimEvent::Side(at.other(), News::Content { request, items, broken }));
    }

    fn on_content(&mut self, at: At, request: u64, items: Vec<(ContentHash, bool)>, broken: bool) {
        if self.mode == Mode::Libraries {
            let agent = self.agent_of(at);
            items.iter().filter(|(_, there)| *there).for_each(|(hash, _)| self.oracle.received(agent, *hash));
        }
        if self.side(at).is_some_and(|side| side.expected_parts.contains_key(&request)) {
            return self.on_part(at, request, &items);
        }
        let Some(side) = self.side(at).filter(|side| side.expected.contains_key(&request)) else { return };
        let (library, records) = side.expected.remove(&request).unwrap_or_default();
        let mut expected: HashMap<ContentHash, AssetRecord> =
            records.into_iter().map(|record| (record.hash, record)).collect();
        let number = side.agent;
        let agent = &self.agents[number];
        let down = self.now < agent.store_down_until;
        let mut results = Vec::new();
        for (hash, there) in items {
            let record = expected.remove(&hash).expect("asked for");
            let key = WantKey::new(library, &record);
            let result = if !there {
                Err(Failure::Source("the peer no longer has it".into()))
            } else if down {
                Err(Failure::Store("down".into()))
            } else if record.size != size_of(hash) {
                Err(Failure::WrongBytes("another size".into()))
            } else {
                assert_ne!(self.take(number, library, vec![record], true), [ItemOutcome::NeedsContent]);
                Ok(())
            };
            results.push((key, result));
        }
        assert!(broken || expected.is_empty(), "the peer did not send everything");
        let broke = Failure::Source("the stream broke".into());
        let left = expected.into_values().map(|record| (WantKey::new(library, &record), Err(broke.clone())));
        results.extend(left);
        self.later(SimEvent::Side(at, News::Received(results)));
    }

    fn on_to_responder(&mut self, at: At, lane: usize, id: u64, message: Vec<u8>) {
        let snapshot = self.library_of(at, lane).snapshot();
        let (now, fails) = (self.now, self.chaos() && self.dice.one_in(40));
        let Some(side) = self.side(at) else { return };
        if !side.is_up() {
            // A stream may overtake the end of the introduction.
            return self.put(now + 5 * MS, SimEvent::Side(at, News::ToResponder(lane, id, message)));
        }
        let responder =
            side.responders.entry(id).or_insert_with(|| Responder::new(snapshot, EngineLimits::default()));
        let reply = responder.handle(&message).expect("an honest peer's message");
        let most = RECONCILIATIONS_MAX * side.lanes.len();
        assert!(side.responders.len() <= most, "too many reconciliations");
        if fails {
            self.end_recon(at.other(), lane, id, Err("the stream broke".into()));
        } else {
            self.later(SimEvent::Side(at.other(), News::ToInitiator(lane, id, reply)));
        }
    }

    fn on_to_initiator(&mut self, at: At, lane: usize, id: u64, message: &[u8]) {
        let Some(initiator) = self.side(at).and_then(|side| side.initiators.get_mut(&id)) else { return };
        let found = initiator.handle(message).expect("an honest peer's message");
        let have = found.have.iter().map(|item| item.hash).collect();
        self.step(at, lane, SessionInput::Differences { have, need: found.need });
        match found.reply {
            Some(reply) => self.later(SimEvent::Side(at.other(), News::ToResponder(lane, id, reply))),
            None => self.end_recon(at, lane, id, Ok(())),
        }
    }

    /// A reconciliation that the end `at` opened is over, for better or worse.
    fn end_recon(&mut self, at: At, lane: usize, id: u64, result: Result<(), String>) {
        if let Some(side) = self.side(at) {
            side.initiators.remove(&id);
        }
        self.step(at, lane, SessionInput::ReconEnded { opened_here: true, result: result.clone() });
        self.later(SimEvent::Side(at.other(), News::ReconEnds(lane, id, result)));
    }
}

fn digests(offer: &Offer) -> impl Iterator<Item = [u8; 32]> {
    offer.records.iter().map(|wire| AssetRecord::try_from(wire.clone()).expect("an honest record").digest())
}
