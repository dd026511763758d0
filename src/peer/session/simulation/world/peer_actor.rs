//! What a PeerActor and its tasks do around the sessions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;

use super::parts::{At, News, PeersNews, SimChannel, SimEvent, SimLane, SimSide};
use super::{MS, Mode, SECOND, SimWorld, blinded};
use crate::library::Library;
use crate::library::ticket::Access;
use crate::peer::deferrals::Note;
use crate::peer::establish::{summary_from_wire, summary_to_wire};
use crate::peer::session::{
    InlineContents, OfferVerdict, Session, SessionEffect, SessionInput, SessionSettings, judge_for,
    judge_holding,
};
use crate::reconcile::Summary;
use crate::reconcile::engine::{EngineLimits, Initiator};
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, LibraryId};
use crate::store::{FeedEntry, ItemOutcome};
use crate::transfer::schedule::WantKey;
use crate::wire::proto::{Cancel, Frame, Offer, Ping, Pong, frame};
use crate::wire::{FRAME_BYTES_MAX, decode_frame, encode};

impl SimWorld {
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
                        self.step(at, lane, SessionInput::changed(Arc::clone(&entries)));
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

    pub(super) fn on_settled(&mut self, at: At, keys: &[WantKey]) {
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

    pub(super) fn on_failed(&mut self, at: At, key: WantKey, reason: &str) {
        let owes = |lane: &SimLane| {
            lane.library == key.library && lane.session.as_ref().is_some_and(|s| s.owes(&key.hash))
        };
        for lane in self.lanes_of(at, owes) {
            self.step(at, lane, SessionInput::Failed(vec![(key.hash, reason.to_owned())]));
        }
    }

    /// What is wanted and missing is asked for by name; the answer is an offer of what the peer holds.
    pub(super) fn ask_for_wanted(&mut self, at: At) {
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

    pub(super) fn on_find(&mut self, at: At, lane: usize, names: Vec<ContentHash>) {
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

    pub(super) fn agent_of(&self, at: At) -> usize {
        self.links[at.link].agents[at.end]
    }

    pub(super) fn library_of(&self, at: At, lane: usize) -> Arc<Library> {
        self.agents[self.agent_of(at)].library(self.links[at.link].lanes[lane])
    }

    pub(super) fn lanes_of(&mut self, at: At, is: impl Fn(&SimLane) -> bool) -> Vec<usize> {
        let Some(SimSide { lanes, .. }) = self.side(at) else { return Vec::new() };
        (0..lanes.len()).filter(|n| is(&lanes[*n])).collect()
    }

    pub(super) fn summaries(&self, at: At) -> Vec<Summary> {
        let lanes = 0..self.links[at.link].lanes.len();
        lanes.map(|lane| self.library_of(at, lane).summary()).collect()
    }

    pub(super) fn on_changed(&mut self, at: At, entries: &Arc<[FeedEntry]>, contents: &Arc<InlineContents>) {
        for lane in 0..self.links[at.link].lanes.len() {
            if let Some(entries) = self.library_of(at, lane).changes(entries) {
                self.step(at, lane, SessionInput::StoreChanged { entries, contents: Arc::clone(contents) });
            }
        }
    }

    pub(super) fn send(&mut self, from: At, news: News) {
        let to = from.other();
        self.in_order(SimChannel::Control(to), SimEvent::Side(to, news));
    }

    pub(super) fn begin(&mut self, at: At, ours: &[Summary], theirs: &[Summary]) {
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
                entries: false,
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
    pub(super) fn recall(&mut self, number: usize) {
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

    pub(super) fn perform(&mut self, at: At, lane: usize, effects: Vec<SessionEffect>) {
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
                SessionEffect::TakeEntries(_) | SessionEffect::LoadEntries(_) => {
                    panic!("there are no folders here");
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

    pub(super) fn count_echoes(&mut self, at: At, lane: usize, offer: &Offer) {
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

    pub(super) fn on_frame(&mut self, at: At, bytes: Bytes) {
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

    pub(super) fn withholds(&mut self, at: At) -> bool {
        self.agent_of(at.other()) + 1 == self.agents.len() && self.chaos() && self.dice.one_in(3)
    }

    pub(super) fn on_heard(&mut self, at: At, lane: usize, offer: &Offer) {
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

    pub(super) fn on_summary(&mut self, at: At, lane: usize, nonce: u64, answer: bool, seq: u64, until: u64) {
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
    pub(super) fn on_perform(&mut self, at: At, lane: usize, effect: SessionEffect) {
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

    pub(super) fn judge(
        &mut self,
        at: At,
        lane: usize,
        records: Vec<AssetRecord>,
        held_there: bool,
    ) -> SessionInput {
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
}

fn digests(offer: &Offer) -> impl Iterator<Item = [u8; 32]> {
    offer.records.iter().map(|wire| AssetRecord::try_from(wire.clone()).expect("an honest record").digest())
}
