//! PeerActor's part in searches for contents by name: asking the peer, and answering it; and what its offers lead to.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::PeerState;
use crate::net::close;
use crate::peer::effects::{self, Rules};
use crate::peer::lane::Lane;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::session::SessionInput;
use crate::peer::wishes;
use crate::record::{AssetRecord, ContentHash, WriterId};
use crate::store::{FeedEntry, Holding};
use crate::transfer::search::SEARCH_WITHIN;
use crate::wire::decode::FINDS_PER_FRAME_MAX;
use crate::wire::proto::{Find, Lacks, frame};
use bytes::Bytes;
use ractor::ActorRef;
use tokio::time::Instant;

/// Contents that a peer may have asked for by name for its users, and heard nothing of yet.
const FINDING_MAX: usize = FINDS_PER_FRAME_MAX;

impl PeerState {
    /// Asks the peer. Without a session nobody is asked: PeersActor does it again when there is one.
    pub(super) fn on_find(&mut self, hashes: Vec<ContentHash>) {
        let Some(running) = &mut self.running else { return };
        let (mut fresh, mut others) = (vec![Vec::new(); running.lanes.len()], Vec::new());
        // What it has not answered yet still counts there.
        let now = Instant::now();
        for hash in hashes {
            // A peer that may only read what we share has nothing to give. Members of a library do not hear of what we look for
            // outside of it, nor of what they said is gone from it; and what they have in it, we know.
            let may_hear =
                |lane: &Lane| lane.session.takes() && (lane.library.is_mirror() || lane.library.lacks(&hash));
            match running.lanes.iter().position(may_hear).filter(|_| running.peer_finds) {
                None => others.push(hash),
                Some(lane) => {
                    let room = running.finding.len() < FINDING_MAX;
                    match running.finding.entry(hash) {
                        Entry::Occupied(mut known) => known.get_mut().1 = now,
                        Entry::Vacant(free) if room => {
                            free.insert((lane, now));
                            fresh[lane].push(hash);
                        }
                        Entry::Vacant(_) => {}
                    }
                }
            }
        }
        for (lane, hashes) in fresh.into_iter().enumerate() {
            self.ask_for(lane, &hashes);
        }
        if !others.is_empty() {
            let session = self.args.session;
            self.tell(PeersMsg::Lacks { session, hashes: others, asked: false });
        }
    }

    fn ask_for(&mut self, lane: usize, hashes: &[ContentHash]) {
        let shared = self.running.as_ref().and_then(|running| running.lanes.get(lane));
        let Some(library) = shared.map(Lane::tag).filter(|_| !hashes.is_empty()) else { return };
        self.send(frame::Kind::Find(Find { hashes: to_wire(hashes), library }));
    }

    /// The peer does not have these in a library.
    pub(super) fn on_lacks(&mut self, lane: usize, lacks: &Lacks) {
        let Some(running) = &mut self.running else { return };
        let named = lacks.hashes.iter().filter_map(|hash| ContentHash::from_slice(hash));
        let mut hashes = Vec::new();
        for hash in named {
            running.lanes[lane].wishes.answered(&hash, false);
            if running.finding.get(&hash).is_some_and(|(asked, _)| *asked == lane) {
                running.finding.remove(&hash);
                hashes.push(hash);
            }
        }
        if !hashes.is_empty() {
            self.tell(PeersMsg::Lacks { session: self.args.session, hashes, asked: true });
        }
        self.ask_for_wanted();
    }

    /// Asks the peer for contents that are missing here although their records are not, as far as it is their turn.
    pub(super) fn ask_for_wanted(&mut self) {
        let Some(running) = &mut self.running else { return };
        if !running.peer_finds {
            return;
        }
        let coming = running.lanes.iter().map(|lane| lane.session.owed()).sum();
        let now = Instant::now();
        let mut asked = Vec::new();
        for (n, lane) in running.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.session.takes()) {
            // A library is asked for what is in it, and for nothing else that may be missing.
            let library = &lane.library;
            let mut hashes = lane.wishes.next(now, coming, |after, limit| library.wanted(after, limit));
            // What a user asks for is asked already.
            hashes.retain(|hash| running.finding.get(hash).is_none_or(|(asked, _)| *asked != n));
            asked.push((n, hashes));
        }
        for (lane, hashes) in asked {
            self.ask_for(lane, &hashes);
        }
    }

    /// What was here and is missing now is asked for soon.
    pub(super) fn note_missed(&mut self, entries: &[FeedEntry]) {
        let Some(running) = &mut self.running else { return };
        if entries.iter().any(|entry| entry.holding == Holding::Wanted) {
            let now = Instant::now();
            running.lanes.iter_mut().for_each(|lane| lane.wishes.missed(now));
        }
    }

    /// What is wanted since the rules changed is asked for soon.
    pub(super) fn note_hold_rules(&mut self) {
        let generation = self.args.replica.libraries.hold_rules().generation();
        let Some(running) = &mut self.running else { return };
        if std::mem::replace(&mut running.hold_generation, generation) != generation {
            let now = Instant::now();
            running.lanes.iter_mut().for_each(|lane| lane.wishes.missed(now));
        }
    }

    /// Compares what the peer offers with ours.
    pub(super) fn judge(
        &mut self,
        myself: &ActorRef<PeerMsg>,
        lane: usize,
        records: Vec<AssetRecord>,
        held_there: bool,
    ) {
        let Some(running) = &mut self.running else { return };
        let Some(shared) = running.lanes.get_mut(lane) else { return };
        let args = &self.args;
        let report = effects::Reporter::new(myself.clone(), running.epoch, lane);
        let library = Arc::clone(&shared.library);
        let mut sought = HashSet::new();
        for hash in records.iter().map(|record| record.hash) {
            shared.wishes.answered(&hash, held_there);
            if running.finding.remove(&hash).is_some_and(|(_, asked_at)| asked_at.elapsed() < SEARCH_WITHIN) {
                sought.insert(hash);
            }
        }
        // Only what is one's own can be wanted back.
        let is_mirror = library.is_mirror();
        let revive = is_mirror.then(|| WriterId(*args.own_id().as_bytes()));
        let sought = effects::FetchRequest { hashes: sought, revive };
        let peers = (args.session, args.peers.clone());
        let rules = Rules {
            deletes: Arc::clone(&args.replica.deletes),
            deleter: shared.deleter(),
            deferrals: args.replica.deferrals.clone(),
            gives: shared.session.gives(),
            from_owner: shared.is_owners(),
        };
        let (store, offered) = (Arc::clone(&args.replica.store), (records, held_there));
        running.tasks.spawn(effects::judge_all(report, store, rules, library, offered, sought, peers));
        self.ask_for_wanted();
    }

    /// The peer asks. What it may not have is not looked for, and answered as what does not exist.
    pub(super) fn on_asked(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, find: &Find) {
        let Some(running) = &mut self.running else { return };
        let most = FINDING_MAX + running.lanes.len() * wishes::UNANSWERED_MAX;
        // An empty question costs a look at the store, too.
        if find.hashes.is_empty() || running.looking + find.hashes.len() > most {
            return self
                .close(close::VIOLATION, "contents asked for by name: none, or more than may be at once");
        }
        let hashes: Option<Vec<ContentHash>> =
            find.hashes.iter().map(|hash| ContentHash::from_slice(hash)).collect();
        let Some(hashes) = hashes else {
            return self.close(close::VIOLATION, "a name of a content that has not 32 bytes");
        };
        running.looking += hashes.len();
        let library = Some(&running.lanes[lane]).filter(|lane| lane.session.gives());
        let library = library.map(|lane| Arc::clone(&lane.library));
        let (actor, epoch, store) = (myself.clone(), running.epoch, Arc::clone(&self.args.replica.store));
        running.tasks.spawn(async move {
            let (found, lacks) = effects::look(store, library, hashes).await;
            // An actor that is gone has no session any more.
            let _ = actor.send_message(PeerMsg::Looked { epoch, lane, found, lacks });
        });
    }

    pub(super) fn on_looked(
        &mut self,
        myself: &ActorRef<PeerMsg>,
        lane: usize,
        found: Vec<AssetRecord>,
        lacks: &[ContentHash],
    ) {
        let Some(running) = &mut self.running else { return };
        running.looking = running.looking.saturating_sub(found.len() + lacks.len());
        let library = running.lanes[lane].tag();
        if !found.is_empty() {
            self.step(myself, lane, SessionInput::Found(found));
        }
        if !lacks.is_empty() {
            self.send(frame::Kind::Lacks(Lacks { hashes: to_wire(lacks), library }));
        }
    }
}

fn to_wire(hashes: &[ContentHash]) -> Vec<Bytes> {
    hashes.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect()
}
