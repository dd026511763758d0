//! The streams beside the control stream: contents and reconciliations.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::agent::size_of;
use super::parts::{At, News, SimEvent};
use super::{MS, Mode, RECONCILIATIONS_MAX, SimWorld};
use crate::library::Library;
use crate::peer::session::SessionInput;
use crate::reconcile::engine::{EngineLimits, Responder};
use crate::record::{AssetRecord, ContentHash};
use crate::store::ItemOutcome;
use crate::transfer::schedule::{FetchFailure, WantKey};
use crate::wire::proto::{ContentRequest, Want, frame};

impl SimWorld {
    pub(super) fn on_fetch_part(&mut self, at: At, request: u64, key: WantKey, range: Range<u64>) {
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
    pub(super) fn on_part(&mut self, at: At, request: u64, items: &[(ContentHash, bool)]) {
        let Some(side) = self.side(at) else { return };
        let Some((key, ranges)) = side.expected_parts.remove(&request) else { return };
        let number = side.agent;
        let agent = &mut self.agents[number];
        let down = self.now < agent.store_down_until;
        let came = items.iter().take_while(|(_, there)| *there).count();
        let result = if down {
            Err(FetchFailure::Store("down".into()))
        } else {
            let parts = agent.parts.entry(key).or_default();
            ranges.iter().take(came).for_each(|range| parts.insert(range.clone()));
            if came < ranges.len() {
                let half = ranges[came].start..u64::midpoint(ranges[came].start, ranges[came].end);
                parts.insert(half);
                Err(FetchFailure::Source("it did not all come".into()))
            } else {
                Ok(())
            }
        };
        self.later(SimEvent::Side(at, News::PartReceived(request, key.hash, result)));
    }

    pub(super) fn serve(&mut self, at: At, Want { request, contents }: Want) {
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

    pub(super) fn on_content(&mut self, at: At, request: u64, items: Vec<(ContentHash, bool)>, broken: bool) {
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
                Err(FetchFailure::Source("the peer no longer has it".into()))
            } else if down {
                Err(FetchFailure::Store("down".into()))
            } else if record.size != size_of(hash) {
                Err(FetchFailure::WrongBytes("another size".into()))
            } else {
                assert_ne!(self.take(number, library, vec![record], true), [ItemOutcome::NeedsContent]);
                Ok(())
            };
            results.push((key, result));
        }
        assert!(broken || expected.is_empty(), "the peer did not send everything");
        let broke = FetchFailure::Source("the stream broke".into());
        let left = expected.into_values().map(|record| (WantKey::new(library, &record), Err(broke.clone())));
        results.extend(left);
        self.later(SimEvent::Side(at, News::Received(results)));
    }

    pub(super) fn on_to_responder(&mut self, at: At, lane: usize, id: u64, message: Vec<u8>) {
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

    pub(super) fn on_to_initiator(&mut self, at: At, lane: usize, id: u64, message: &[u8]) {
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
    pub(super) fn end_recon(&mut self, at: At, lane: usize, id: u64, result: Result<(), String>) {
        if let Some(side) = self.side(at) {
            side.initiators.remove(&id);
        }
        self.step(at, lane, SessionInput::ReconEnded { opened_here: true, result: result.clone() });
        self.later(SimEvent::Side(at.other(), News::ReconEnds(lane, id, result)));
    }
}
