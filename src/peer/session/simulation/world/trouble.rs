//! What users do, what goes wrong, and what a member says that is not so.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::agent::{TAGS, asset, size_of};
use super::parts::{At, News, SimChannel, SimEvent, SimLane, SimSide};
use super::{ASSETS, Mode, SECOND, SimWorld, blinded};
use crate::library::OfferMeaning;
use crate::library::filter::FilterSpec;
use crate::library::ticket::Access;
use crate::peer::session::SessionInput;
use crate::record::{AssetMeta, AssetRecord, ContentHash, Hlc, LibraryId};
use crate::store::Holding;
use crate::transfer::schedule::SessionId;

impl SimWorld {
    pub(super) fn act(&mut self) {
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
    pub(super) fn set_clock(&mut self) {
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

    /// A liar that tells each member something else keeps a library apart. The lies are the same for all in the end: the liar's own
    /// library has them, too.
    pub(super) fn own_up(&mut self) {
        let liar = self.agents.len() - 1;
        let mut lies = std::mem::take(&mut self.lies);
        // An agent that has the content never takes another size of it; one that has not cannot know, until it comes: where it may, from
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
    pub(super) fn is_to_be_had(&self, id: LibraryId, hash: &ContentHash) -> bool {
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

    pub(super) fn some_tags(&mut self) -> Vec<String> {
        if self.mode != Mode::Libraries {
            return Vec::new();
        }
        let mut tags = TAGS.map(str::to_owned).to_vec();
        tags.retain(|_| self.dice.one_in(2));
        tags
    }

    /// The liar offers what it cannot deliver, under the newest time; deletes and moves out what it never had; and asks for
    /// what it was not offered.
    pub(super) fn lie(&mut self, liar: usize) {
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

    pub(super) fn make_trouble(&mut self) {
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

    pub(super) fn cut(&mut self, link: usize) {
        let Some(sides) = self.links[link].sides.take() else { return };
        self.links[link].life += 1;
        for side in sides {
            let decisions = self.agents[side.agent].fetching.disconnected(side.id);
            self.carry_out(side.agent, decisions);
        }
    }

    pub(super) fn mend(&mut self, link: usize, ids: Option<[SessionId; 2]>) {
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
