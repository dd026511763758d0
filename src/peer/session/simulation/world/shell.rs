//! What the actors and their tasks do around the sessions: the feed, PeersActor's scheduler, streams, the store's answers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{At, Channel, Event, KEYS, LIBRARY, MS, Mode, News, PeersNews, SECOND, World};
use crate::library::Library;
use crate::peer::deferrals::Note;
use crate::peer::establish::{summary_from_wire, summary_to_wire};
use crate::peer::session::{
    Effect, INLINE_CONTENT_BYTES_MAX, InlineContents, Input, Session, SessionSettings, Verdict, judge_holding,
};
use crate::reconcile::Summary;
use crate::reconcile::engine::{Initiator, Limits, Responder};
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, WriterId};
use crate::store::{FeedEntry, Outcome};
use crate::transfer::ranges::Ranges;
use crate::transfer::schedule::{Committed, Decision, Failure, SessionId};
use crate::wire::proto::{Cancel, ContentRequest, Frame, Offer, Ping, Pong, Want, frame};
use crate::wire::{FRAME_BYTES_MAX, decode_frame, encode};

/// Reconciliations that a peer may have open at once; one more would cost the connection.
const RECONCILIATIONS_MAX: usize = 4;

impl World {
    // ---- What CanServiceActor and PeersActor do ------------------------------------------------------------------

    pub(super) fn on_feed(&mut self, agent: usize) {
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

    pub(super) fn on_peers(&mut self, agent: usize, news: PeersNews) {
        let decisions = match news {
            PeersNews::Changed(entries) => {
                let contents = Arc::new(self.inline(agent, &entries));
                let ends: Vec<At> =
                    self.ends().filter(|at| self.links[at.link].agents[at.end] == agent).collect();
                for at in ends {
                    let news = News::Changed(Arc::clone(&entries), Arc::clone(&contents));
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
            PeersNews::Reset(id) => self.agents[agent].scheduler.session_ended(id),
            PeersNews::Finished(id, results) => {
                if results.iter().any(|(_, result)| matches!(result, Err(Failure::Store(_)))) {
                    self.put(self.now + 3 * SECOND, Event::Resume(agent));
                }
                self.agents[agent].scheduler.finished(id, results)
            }
            PeersNews::PartFinished(id, request, result) => {
                self.note_store(agent, &result);
                self.agents[agent].scheduler.part_finished(id, request, result)
            }
            PeersNews::Commit(record) => self.commit(agent, &record),
            PeersNews::Apply(record) => {
                let hash = record.hash;
                let result = if self.now < self.agents[agent].store_down_until {
                    Err(Failure::Store("down".into()))
                } else {
                    match self.agents[agent].merge(record, false) {
                        Outcome::NeedsContent => Err(Failure::Source("its content went away".into())),
                        _ => Ok(()),
                    }
                };
                self.note_store(agent, &result);
                self.later(Event::Feed(agent));
                self.agents[agent].scheduler.applied(hash, result)
            }
            PeersNews::Restrict(hash) => self.agents[agent].scheduler.restricted(hash, Ok(())),
        };
        self.carry_out(agent, decisions);
    }

    /// Contents that go along with an offer, now and then those of an asset that came from somebody else.
    fn inline(&self, agent: usize, entries: &[FeedEntry]) -> InlineContents {
        let agent = &self.agents[agent];
        let eligible = |record: &&AssetRecord| {
            record.size <= INLINE_CONTENT_BYTES_MAX as u64
                && record.writer == WriterId::NULL
                && agent.contents.contains(&record.hash)
                && !agent.scheduler.wants(&record.hash)
        };
        let records = entries.iter().map(|entry| &entry.record).filter(eligible);
        let content = |size: u64| Bytes::from(vec![0; usize::try_from(size).unwrap()]);
        records.map(|record| (record.hash, content(record.size))).collect()
    }

    fn note_store(&mut self, agent: usize, result: &Result<(), Failure>) {
        if let Err(Failure::Store(_)) = result {
            self.put(self.now + 3 * SECOND, Event::Resume(agent));
        }
    }

    /// All parts of a large content are here, or so the scheduler says.
    fn commit(&mut self, number: usize, record: &AssetRecord) -> Vec<Decision> {
        let agent = &mut self.agents[number];
        let whole = agent.parts.get(&record.hash).map_or(0, Ranges::len) == record.size;
        assert!(whole, "parts are missing that were said to be here");
        let committed = if self.now < agent.store_down_until {
            let down = Failure::Store("down".into());
            self.note_store(number, &Err(down.clone()));
            Committed::NotTaken(down)
        } else {
            assert_ne!(agent.merge(record.clone(), true), Outcome::NeedsContent);
            agent.parts.remove(&record.hash);
            Committed::Stored
        };
        self.later(Event::Feed(number));
        self.agents[number].scheduler.committed(record.hash, committed)
    }

    fn end_of(&self, agent: usize, id: SessionId) -> Option<At> {
        self.ends().find(|at| {
            let side = self.links[at.link].sides.as_ref().map(|sides| &sides[at.end]);
            side.is_some_and(|side| side.agent == agent && side.id == id)
        })
    }

    pub(super) fn carry_out(&mut self, agent: usize, decisions: Vec<Decision>) {
        for decision in decisions {
            let (id, news) = match decision {
                Decision::Fetch { session, request, records } => (session, News::Fetch(request, records)),
                Decision::FetchPart { session, request, hash, range, .. } => {
                    (session, News::FetchPart(request, hash, range))
                }
                Decision::Revoke { session, request } => (session, News::Revoke(request)),
                Decision::Commit(record) => {
                    self.put(self.now + MS, Event::Peers(agent, PeersNews::Commit(record)));
                    continue;
                }
                Decision::Apply(record) => {
                    self.put(self.now + MS, Event::Peers(agent, PeersNews::Apply(record)));
                    continue;
                }
                Decision::Restrict { hash, .. } => {
                    self.put(self.now + MS, Event::Peers(agent, PeersNews::Restrict(hash)));
                    continue;
                }
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

    pub(super) fn on_news(&mut self, at: At, news: News) {
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
            News::Changed(entries, contents) => match self.side(at) {
                Some(side) if side.session.is_none() => side.early.push(entries),
                _ => self.step(at, Input::Created { entries, contents }),
            },
            News::Fetch(request, records) => {
                let Some(side) = self.side(at).filter(|side| side.session.is_some()) else { return };
                side.expected.insert(request, records.clone());
                self.step(at, Input::Fetch { request, records });
            }
            News::FetchPart(request, hash, range) => self.on_fetch_part(at, request, hash, range),
            News::Revoke(request) => {
                let Some(side) = self.side(at).filter(|side| side.session.is_some()) else { return };
                side.expected.remove(&request);
                side.expected_parts.remove(&request);
                self.send_frame(at, frame::Kind::Cancel(Cancel { request }));
            }
            News::PartReceived(request, result) => {
                let Some((agent, id)) = self.side(at).map(|side| (side.agent, side.id)) else { return };
                self.tell_peers(agent, PeersNews::PartFinished(id, request, result));
            }
            News::Find(names) => self.on_find(at, names),
            News::Lacks(names) => {
                if let Some(side) = self.side(at) {
                    for hash in &names {
                        side.wishes.answered(hash, false);
                    }
                }
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
                self.ask_for_wanted(at);
                self.recall(self.links[at.link].agents[at.end]);
                self.put(self.now + SECOND, Event::Side(at, News::Tick));
            }
        }
    }

    /// What is wanted and missing is asked for by name; the answer is an offer of what the peer holds.
    fn ask_for_wanted(&mut self, at: At) {
        let Some(session) = self.side(at).and_then(|side| side.session.as_ref()) else { return };
        let coming = session.owed();
        let library = self.library_of(at);
        let now = self.instant();
        let Some(side) = self.side(at) else { return };
        let names = side.wishes.next(now, coming, |after, limit| library.wanted(after, limit));
        if !names.is_empty() {
            self.send(at, News::Find(names));
        }
    }

    fn on_find(&mut self, at: At, names: Vec<ContentHash>) {
        if self.side(at).is_none_or(|side| side.session.is_none()) {
            return self.put(self.now + 5 * MS, Event::Side(at, News::Find(names)));
        }
        let agent = &self.agents[self.links[at.link].agents[at.end]];
        if self.now < agent.store_down_until {
            return self.put(self.now + SECOND, Event::Side(at, News::Find(names)));
        }
        let (held, lacks): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|hash| agent.contents.contains(hash));
        let found = held.iter().map(|hash| agent.records[hash].1.clone()).collect();
        self.step(at, Input::Found(found));
        self.send(at, News::Lacks(lacks));
    }

    fn library_of(&self, at: At) -> Arc<Library> {
        Arc::clone(&self.agents[self.links[at.link].agents[at.end]].library)
    }

    fn send(&mut self, from: At, news: News) {
        let to = from.other();
        self.in_order(Channel::Control(to), Event::Side(to, news));
    }

    fn begin(&mut self, at: At, ours: Summary, theirs: Summary) {
        let settings = SessionSettings {
            tag: bytes::Bytes::new(),
            gives: true,
            takes: true,
            library: LIBRARY,
            record_key: KEYS.record().clone(),
            dialer: at.end == 0,
            probe_after: Duration::from_secs(15),
        };
        let (session, effects) = Session::new(settings, ours, theirs, self.instant());
        let Some(side) = self.side(at) else { return };
        side.session = Some(session);
        let early = std::mem::take(&mut side.early);
        let (agent, id) = (side.agent, side.id);
        self.tell_peers(agent, PeersNews::Reset(id));
        self.perform(at, effects);
        for entries in early {
            self.step(at, Input::StoreChanged(entries));
        }
        let first_tick = self.now + self.dice.below(SECOND);
        self.put(first_tick, Event::Side(at, News::Tick));
    }

    pub(super) fn step(&mut self, at: At, input: Input) {
        let now = self.instant();
        let Some(session) = self.side(at).and_then(|side| side.session.as_mut()) else { return };
        let effects = session.handle(input, now);
        let confirmed = session.confirmed();
        let agent = &mut self.agents[self.links[at.link].agents[at.end]];
        agent.confirmed = agent.confirmed.max(confirmed);
        self.perform(at, effects);
    }

    /// Has versions dated anew that were written while the clock was ahead, once it is right.
    fn recall(&mut self, number: usize) {
        if self.mode != Mode::WrongClock || self.agents[number].wrong_ms != 0 {
            return;
        }
        let sides = self.links.iter().filter_map(|link| link.sides.as_ref()).flatten();
        let sessions = sides.filter(|side| side.agent == number).filter_map(|side| side.session.as_ref());
        let offered = sessions.map(Session::newest_offered).max().unwrap_or_default();
        let now = self.now;
        if now >= self.agents[number].store_down_until && self.agents[number].recall(now, offered) {
            self.later(Event::Feed(number));
        }
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
                Effect::Judge(_)
                | Effect::JudgeAbsent(_)
                | Effect::TakeAbsent(_)
                | Effect::Apply(_)
                | Effect::Reassert(_)
                | Effect::Store(_)
                | Effect::Load(_)
                | Effect::Serve(_) => {
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
                // What is on its way comes all the same.
                Effect::CancelServe(_) => {}
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
        let (answer, nonce, summaries, behind) = match kind {
            frame::Kind::Ping(Ping { nonce, libraries, behind, .. }) => (false, nonce, libraries, behind),
            frame::Kind::Pong(Pong { nonce, libraries, behind, .. }) => (true, nonce, libraries, behind),
            kind => {
                if let (frame::Kind::Offer(offer), Some(side)) = (&kind, self.side(at)) {
                    side.heard.extend(digests(offer));
                }
                return self.step(at, Input::Frame(kind));
            }
        };
        let theirs = summary_from_wire(&LIBRARY, &summaries).expect("an honest peer's summary");
        let ours = self.library_of(at).summary();
        let certain = !behind && self.side(at).is_some_and(|side| !side.asked_behind);
        self.step(at, Input::Compared { answer, nonce, theirs, ours, certain });
    }

    fn on_summary(&mut self, at: At, nonce: u64, answer: bool, seq: u64, until: u64) {
        let library = self.library_of(at);
        let behind = library.cursor().borrow().unwrap_or_default() < seq;
        if behind && self.now < until {
            let again = Event::Side(at, News::Summary { nonce, answer, seq, until });
            return self.put(self.now + 20 * MS, again);
        }
        let libraries = vec![summary_to_wire(&LIBRARY, &library.summary())];
        if answer {
            return self.send_frame(at, frame::Kind::Pong(Pong { nonce, libraries, behind, clock_ms: 0 }));
        }
        if let Some(side) = self.side(at) {
            side.asked_behind = behind;
        }
        self.send_frame(at, frame::Kind::Ping(Ping { nonce, libraries, behind, clock_ms: 0 }));
    }

    /// Tasks that ask the store; they insist until it answers.
    fn on_perform(&mut self, at: At, effect: Effect) {
        let number = self.links[at.link].agents[at.end];
        let now = self.now;
        let agent = &mut self.agents[number];
        if now < agent.store_down_until {
            return match effect {
                Effect::Store(items) => {
                    let records = items.into_iter().map(|(record, _)| record).collect();
                    self.step(at, Input::NotStored(records));
                }
                effect => self.put(now + SECOND, Event::Side(at, News::Perform(effect))),
            };
        }
        let input = match effect {
            Effect::Store(items) => {
                for (record, content) in &items {
                    assert_eq!(content.len() as u64, record.size);
                    assert_ne!(agent.merge(record.clone(), true), Outcome::NeedsContent);
                }
                let records: Vec<AssetRecord> = items.into_iter().map(|(record, _)| record).collect();
                let decisions = agent.scheduler.arrived(&records);
                self.carry_out(number, decisions);
                self.later(Event::Feed(number));
                Input::Settled(records.iter().map(|record| record.hash).collect())
            }
            Effect::Judge(records) => self.judge(at, records, true),
            Effect::JudgeAbsent(records) => self.judge(at, records, false),
            Effect::Reassert(others) => {
                for (hash, other) in &others {
                    agent.reassert(*hash, *other);
                }
                self.later(Event::Feed(number));
                Input::Settled(others.into_iter().map(|(hash, _)| hash).collect())
            }
            Effect::TakeAbsent(records) => {
                let hashes = records.iter().map(|record| record.hash).collect();
                for record in records {
                    agent.take_absent(record);
                }
                self.later(Event::Feed(number));
                Input::Settled(hashes)
            }
            Effect::Apply(records) => {
                let (mut settled, mut failed) = (Vec::new(), Vec::new());
                for record in records {
                    let hash = record.hash;
                    match agent.merge(record, false) {
                        Outcome::Stored | Outcome::Unchanged | Outcome::Absent => settled.push(hash),
                        Outcome::NeedsContent => failed.push((hash, "its content went away".to_owned())),
                        Outcome::Rejected(why) => panic!("{why}"),
                    }
                }
                self.later(Event::Feed(number));
                self.step(at, Input::Failed(failed));
                Input::Settled(settled)
            }
            Effect::Load(hashes) => Input::Loaded { records: agent.all_stored(&hashes) },
            Effect::Serve(want) => return self.serve(at, want),
            other => panic!("{other:?} is done at once"),
        };
        self.step(at, input);
    }

    fn judge(&mut self, at: At, records: Vec<AssetRecord>, held_there: bool) -> Input {
        if let Some(side) = self.side(at) {
            for record in &records {
                side.wishes.answered(&record.hash, held_there);
            }
        }
        let agent = &mut self.agents[self.links[at.link].agents[at.end]];
        let clock = agent.clock_ms(self.now);
        let limits = (HLC_AHEAD_MAX_MS, agent.replicate_deletes);
        let mut verdicts = Vec::new();
        for record in records {
            let ours = agent.stored(&record.hash);
            let mut verdict = judge_holding(&record, held_there, ours.as_ref(), clock, limits);
            let ours = ours.map(|ours| ours.record);
            match &verdict {
                Verdict::Later(wait_ms) => {
                    assert_eq!(self.mode, Mode::WrongClock);
                    agent.notes.add(Note::of(&record, None, clock, clock + wait_ms));
                }
                Verdict::Apply | Verdict::Fetch | Verdict::TakeAbsent
                    if ours.as_ref().is_none_or(|ours| record.supersedes(ours)) =>
                {
                    if agent.notes.settle(&record, ours.as_ref(), true).0 {
                        verdict = Verdict::Reassert;
                    }
                    agent.confirmed = agent.confirmed.max(record.hlc);
                }
                Verdict::Refuse(why) => panic!("{why}"),
                _ => {}
            }
            verdicts.push((record, verdict));
        }
        Input::Judged(verdicts)
    }

    fn on_fetch_part(&mut self, at: At, request: u64, hash: ContentHash, range: Range<u64>) {
        let Some(number) = self.side(at).filter(|side| side.session.is_some()).map(|side| side.agent) else {
            return;
        };
        let missing = self.agents[number].parts.entry(hash).or_default().missing(range);
        if missing.is_empty() {
            return self.later(Event::Side(at, News::PartReceived(request, Ok(()))));
        }
        let contents = missing.iter().map(|range| ContentRequest {
            hash: hash.0.to_vec().into(),
            offset: range.start,
            length: range.end - range.start,
        });
        let want = Want { request, contents: contents.collect() };
        if let Some(side) = self.side(at) {
            side.expected_parts.insert(request, (hash, missing));
        }
        self.send_frame(at, frame::Kind::Want(want));
    }

    /// The ranges of a part come in order; a stream that breaks brings some of them.
    fn on_part(&mut self, at: At, request: u64, items: &[(ContentHash, bool)]) {
        let Some(side) = self.side(at) else { return };
        let Some((hash, ranges)) = side.expected_parts.remove(&request) else { return };
        let number = side.agent;
        let agent = &mut self.agents[number];
        let down = self.now < agent.store_down_until;
        let came = items.iter().take_while(|(_, there)| *there).count();
        let result = if down {
            Err(Failure::Store("down".into()))
        } else {
            let parts = agent.parts.entry(hash).or_default();
            ranges.iter().take(came).for_each(|range| parts.insert(range.clone()));
            if came < ranges.len() {
                let half = ranges[came].start..u64::midpoint(ranges[came].start, ranges[came].end);
                parts.insert(half);
                Err(Failure::Source("it did not all come".into()))
            } else {
                Ok(())
            }
        };
        self.later(Event::Side(at, News::PartReceived(request, result)));
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
        if self.side(at).is_some_and(|side| side.expected_parts.contains_key(&request)) {
            return self.on_part(at, request, &items);
        }
        let Some(side) = self.side(at).filter(|side| side.expected.contains_key(&request)) else { return };
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
