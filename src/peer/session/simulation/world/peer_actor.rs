//! What a PeerActor and its tasks do around the sessions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::parts::{At, News, PeersNews, SimChannel, SimEvent, SimLane, SimSide};
use super::{MS, Mode, SECOND, SimWorld, blinded};
use crate::library::Library;
use crate::library::ticket::Access;
use crate::peer::establish::summary_from_wire;
use crate::peer::session::{InlineContents, Session, SessionInput, SessionSettings};
use crate::reconcile::Summary;
use crate::record::{ContentHash, LibraryId};
use crate::store::FeedEntry;
use crate::transfer::schedule::WantKey;
use crate::wire::proto::{Cancel, Frame, Ping, Pong, frame};
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
}
