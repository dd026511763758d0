//! PeerActor's part in searches for contents by name: asking the peer, and answering it; and what its offers lead to.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::PeerState;
use crate::library::Library;
use crate::net::close;
use crate::peer::effects::{self, Rules, Scope};
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::session::Input;
use crate::peer::wishes;
use crate::record::{AssetRecord, ContentHash, WriterId};
use crate::transfer::search::SEARCH_WITHIN;
use crate::wire::decode::FINDS_PER_FRAME_MAX;
use crate::wire::proto::{Find, Lacks, frame};
use bytes::Bytes;
use ractor::ActorRef;
use tokio::time::Instant;

/// Contents that a peer may have asked for by name for its users, and heard nothing of yet.
const FINDING_MAX: usize = FINDS_PER_FRAME_MAX;
/// The same with those that it is missing.
const LOOKING_MAX: usize = FINDING_MAX + wishes::UNANSWERED_MAX;

impl PeerState {
    /// Asks the peer. Without a session nobody is asked: PeersActor does it again when there is one.
    pub(super) fn on_find(&mut self, hashes: Vec<ContentHash>) {
        let Some(running) = &mut self.running else { return };
        // Whoever may only read what we share has nothing to give, and does not hear what we look for.
        let gives = running.lanes.iter().any(|lane| lane.session.takes());
        if !running.peer_finds || !gives {
            return self.tell(PeersMsg::Lacks { session: self.args.session, hashes, asked: false });
        }
        // What it has not answered yet still counts there.
        let now = Instant::now();
        let mut fresh = Vec::new();
        for hash in hashes {
            let known = running.finding.contains_key(&hash);
            if known || running.finding.len() < FINDING_MAX {
                running.finding.insert(hash, now);
            }
            if !known && running.finding.contains_key(&hash) {
                fresh.push(Bytes::copy_from_slice(&hash.0));
            }
        }
        if !fresh.is_empty() {
            self.send(frame::Kind::Find(Find { hashes: fresh }));
        }
    }

    /// The peer does not have these.
    pub(super) fn on_lacks(&mut self, lacks: &Lacks) {
        let Some(running) = &mut self.running else { return };
        let named = lacks.hashes.iter().filter_map(|hash| ContentHash::from_slice(hash));
        let mut hashes = Vec::new();
        for hash in named {
            running.wishes.answered(&hash, false);
            if running.finding.remove(&hash).is_some() {
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
        let taking = || running.lanes.iter().filter(|lane| lane.session.takes());
        let coming = taking().map(|lane| lane.session.owed()).sum();
        let hashes = running.wishes.next(Instant::now(), coming, |after, limit| {
            // A library is asked for what is in it, and for nothing else that may be missing.
            let wanted: BTreeSet<ContentHash> =
                taking().flat_map(|lane| lane.library.wanted(after, limit)).collect();
            wanted.into_iter().take(limit).collect()
        });
        // What a user asks for is asked already.
        let fresh = hashes.iter().filter(|hash| !running.finding.contains_key(*hash));
        let fresh: Vec<Bytes> = fresh.map(|hash| Bytes::copy_from_slice(&hash.0)).collect();
        if !fresh.is_empty() {
            self.send(frame::Kind::Find(Find { hashes: fresh }));
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
        let Some(shared) = running.lanes.get(lane) else { return };
        let args = &self.args;
        let report = effects::Reporter::new(myself.clone(), running.epoch, lane);
        let (libraries, library) = (Arc::clone(&args.libraries), Arc::clone(&shared.library));
        let scope = Scope { libraries, library };
        let mut sought = HashSet::new();
        for hash in records.iter().map(|record| record.hash) {
            running.wishes.answered(&hash, held_there);
            if running.finding.remove(&hash).is_some_and(|asked_at| asked_at.elapsed() < SEARCH_WITHIN) {
                sought.insert(hash);
            }
        }
        // Only what is one's own can be wanted back.
        let is_mirror = scope.library.shared().is_none();
        let revive = is_mirror.then(|| WriterId(*args.own_id.as_bytes()));
        let sought = effects::Sought { hashes: sought, revive };
        let peers = (args.session, args.peers.clone());
        let rules = Rules {
            deletes: Arc::clone(&args.deletes),
            deleter: shared.deleter(),
            deferrals: args.deferrals.clone(),
            gives: shared.session.gives(),
        };
        let (store, offered) = (Arc::clone(&args.store), (records, held_there));
        running.tasks.spawn(effects::judge_all(report, store, rules, scope, offered, sought, peers));
        self.ask_for_wanted();
    }

    /// The peer asks. What it may not have is not looked for, and answered as what does not exist.
    pub(super) fn on_asked(&mut self, myself: &ActorRef<PeerMsg>, find: &Find) {
        let Some(running) = &mut self.running else { return };
        // An empty question costs a look at the store, too.
        if find.hashes.is_empty() || running.looking + find.hashes.len() > LOOKING_MAX {
            return self
                .close(close::VIOLATION, "contents asked for by name: none, or more than may be at once");
        }
        let hashes: Option<Vec<ContentHash>> =
            find.hashes.iter().map(|hash| ContentHash::from_slice(hash)).collect();
        let Some(hashes) = hashes else {
            return self.close(close::VIOLATION, "a name of a content that has not 32 bytes");
        };
        running.looking += hashes.len();
        let giving = running.lanes.iter().enumerate().filter(|(_, lane)| lane.session.gives());
        let lanes: Vec<(usize, Arc<Library>)> =
            giving.map(|(n, lane)| (n, Arc::clone(&lane.library))).collect();
        let (actor, epoch, store) = (myself.clone(), running.epoch, Arc::clone(&self.args.store));
        running.tasks.spawn(async move {
            let (found, lacks) = effects::look(store, lanes, hashes).await;
            // An actor that is gone has no session any more.
            let _ = actor.send_message(PeerMsg::Looked { epoch, found, lacks });
        });
    }

    pub(super) fn on_looked(
        &mut self,
        myself: &ActorRef<PeerMsg>,
        found: Vec<(usize, Vec<AssetRecord>)>,
        lacks: &[ContentHash],
    ) {
        if let Some(running) = &mut self.running {
            let there: usize = found.iter().map(|(_, records)| records.len()).sum();
            running.looking = running.looking.saturating_sub(there + lacks.len());
        }
        for (lane, records) in found {
            self.step(myself, lane, Input::Found(records));
        }
        if !lacks.is_empty() {
            let hashes = lacks.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect();
            self.send(frame::Kind::Lacks(Lacks { hashes }));
        }
    }
}
