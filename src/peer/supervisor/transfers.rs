//! PeersActor's part in transfers: it tells [`Fetching`](crate::transfer::fetching::Fetching) what happened, and carries out what
//! that decides.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use iroh::EndpointId;
use iroh::endpoint::VarInt;
use ractor::ActorRef;
use tokio::time::Instant;

use super::{PeersState, TRANSFERS_MAX};
use crate::clock::now_ms;
use crate::events::NodeEvent;
use crate::net::close;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::report::{SourceReport, SourceState, TransferDirection, TransferReport, WhyReport};
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::{FeedEntry, Holding};
use crate::text::stated;
use crate::transfer::commit::{self, CommitOutcome};
use crate::transfer::fetching::FetchDecision;
use crate::transfer::receive::Results;
use crate::transfer::schedule::{FetchFailure, ScheduleDecision, SessionId, SourceProgress, WantKey};
use crate::transfer::take::Taker;

/// Hashes that the store is asked about at once.
const ASKED_AT_ONCE: usize = 1000;

impl PeersState {
    pub(super) fn on_wanted(
        &mut self,
        session: SessionId,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    ) {
        let decisions = self.fetching.announce(session, library, records);
        self.carry_out(decisions);
    }

    pub(super) fn on_session_reset(&mut self, session: SessionId) {
        if let Some(link) = self.links.get(session) {
            self.fetching.searches_mut().again(&link.endpoint_id, Instant::now());
        }
        let decisions = self.fetching.session_ended(session);
        self.carry_out(decisions);
        self.drop_holder_gone(session);
    }

    pub(super) fn on_finished(&mut self, session: SessionId, results: Results) {
        let came = results.iter().filter(|(_, result)| result.is_ok());
        self.feeding.note_foreign(came.map(|(key, _)| key.hash).collect());
        let decisions = self.fetching.finished(session, results);
        self.carry_out(decisions);
    }

    pub(super) fn on_part_finished(
        &mut self,
        session: SessionId,
        request: u64,
        key: WantKey,
        result: Result<(), FetchFailure>,
    ) {
        // PeerActor has published what it says itself.
        let said = result.as_ref().err().map(|failure| failure.reason().to_owned());
        let decisions = self.fetching.part_finished(session, request, key.hash, result);
        self.publish_lies(&decisions, said.as_deref());
        self.carry_out(decisions);
    }

    /// Publishes who is distrusted for other reasons than `said`.
    fn publish_lies(&self, decisions: &[FetchDecision], said: Option<&str>) {
        for decision in decisions {
            if let FetchDecision::Distrust { peer, hash, reason, .. } = decision
                && said != Some(reason)
            {
                let (hash, from, reason) = (hash.to_string(), peer.to_string(), reason.clone());
                self.args.events.publish(now_ms(), NodeEvent::AssetFailed { hash, from, reason });
            }
        }
    }

    pub(super) fn on_committed(&mut self, myself: &ActorRef<PeersMsg>, key: WantKey, outcome: CommitOutcome) {
        if let CommitOutcome::Stored { from, .. } = &outcome {
            let from = from.map(|from| from.to_string()).unwrap_or_default();
            let event = NodeEvent::AssetReceived { hash: key.hash.to_string(), size: key.size, from };
            self.args.events.publish(now_ms(), event);
        }
        let decisions = self.fetching.committed(key, outcome);
        self.publish_lies(&decisions, None);
        self.carry_out(decisions);
        self.keep_comparing(myself);
    }

    pub(super) fn on_applied(&mut self, key: WantKey, result: Result<(), FetchFailure>) {
        let decisions = self.fetching.applied(key, result);
        self.carry_out(decisions);
    }

    pub(super) fn on_restricted(&mut self, key: WantKey, result: Result<(), FetchFailure>) {
        let decisions = self.fetching.restricted(key, result);
        self.carry_out(decisions);
    }

    /// Closes the connection with a peer that sent wrong bytes. It may come back, for a disk may rot; after several contents it
    /// is left alone for a while.
    fn close_liar(&mut self, peer: EndpointId, hash: ContentHash, reason: &str, repeatedly: bool) {
        tracing::warn!(peer = %peer.fmt_short(), %hash, reason, "wrong bytes: closing the connection");
        if let Some(link) = self.links.current(&peer) {
            if repeatedly {
                link.shared_view().misbehaved = Some("it sent wrong bytes several times".into());
            }
            link.connection.close(VarInt::from_u32(close::VIOLATION), stated(reason).as_bytes());
        }
    }

    pub(super) fn carry_out(&mut self, decisions: Vec<FetchDecision>) {
        for decision in decisions {
            match decision {
                FetchDecision::Schedule(decision) => self.carry_out_scheduled(decision),
                FetchDecision::Distrust { peer, hash, reason, repeatedly } => {
                    self.close_liar(peer, hash, &reason, repeatedly);
                }
            }
        }
    }

    fn carry_out_scheduled(&mut self, decision: ScheduleDecision) {
        let (session, message) = match decision {
            ScheduleDecision::Fetch { session, request, library, records } => {
                (session, PeerMsg::Fetch { request, library, records })
            }
            ScheduleDecision::FetchPart { session, request, key, root, range } => {
                (session, PeerMsg::FetchPart { request, key, root, range })
            }
            ScheduleDecision::Revoke { session, request } => (session, PeerMsg::Revoke { request }),
            ScheduleDecision::Settled { session, keys } => (session, PeerMsg::Settled(keys)),
            ScheduleDecision::Failed { session, key, reason } => (session, PeerMsg::Failed { key, reason }),
            ScheduleDecision::Commit(key, record) => return self.commit(key, record),
            ScheduleDecision::Apply(key, record) => return self.apply(key, record),
            ScheduleDecision::Restrict { key, session } => return self.restrict(key, session),
            ScheduleDecision::Restart(key) => return self.restart(key),
            // These are no more than news, which was taken note of.
            ScheduleDecision::Lied { .. } | ScheduleDecision::Misnamed { .. } => return,
        };
        if let Some(link) = self.links.get(session) {
            link.cast(message);
        }
    }

    fn taker(&self) -> Taker {
        Taker {
            store: Arc::clone(&self.args.replica.store),
            libraries: Arc::clone(&self.args.replica.libraries),
        }
    }

    fn commit(&mut self, key: WantKey, record: AssetRecord) {
        let (partials, taker) = (self.args.replica.partials.clone(), self.taker());
        let myself = self.args.myself.clone();
        self.tasks.spawn(async move {
            let outcome = commit::commit(partials, taker, key, record).await;
            // Another incarnation that does not know of it finds it in the store.
            let _ = myself.cast(PeersMsg::Committed { key, outcome });
        });
    }

    fn apply(&mut self, key: WantKey, record: AssetRecord) {
        let (taker, myself) = (self.taker(), self.args.myself.clone());
        self.tasks.spawn(async move {
            let result = commit::apply(taker, key, record).await;
            let _ = myself.cast(PeersMsg::Applied { key, result });
        });
    }

    fn restrict(&mut self, key: WantKey, session: SessionId) {
        let peer = self.links.get(session).map(|link| link.endpoint_id);
        let (partials, myself) = (self.args.replica.partials.clone(), self.args.myself.clone());
        self.tasks.spawn(async move {
            let mut result = Ok(());
            if let (Some(partial), Some(peer)) = (partials.get(&key), peer) {
                result = partial.restrict(peer).await.map_err(|error| FetchFailure::Store(error.to_string()));
            }
            let _ = myself.cast(PeersMsg::Restricted { key, result });
        });
    }

    /// Throws away what is here of a content.
    fn restart(&mut self, key: WantKey) {
        let (partials, myself) = (self.args.replica.partials.clone(), self.args.myself.clone());
        self.tasks.spawn(async move {
            partials.remove(vec![key]).await;
            let _ = myself.cast(PeersMsg::Restricted { key, result: Ok(()) });
        });
    }

    /// How the sources do, for the scheduler; asks to be called again soon while their speed matters.
    pub(super) fn compare_sources(&mut self, myself: &ActorRef<PeersMsg>) {
        let progress: Vec<(SessionId, SourceProgress)> = self
            .links
            .iter()
            .filter_map(|(session, link)| {
                let traffic = &self.traffic.get(&link.endpoint_id)?.traffic;
                let received = traffic.received.load(Ordering::Relaxed);
                Some((session, SourceProgress { received, held_here: traffic.is_held() }))
            })
            .collect();
        let decisions = self.fetching.compare_sources(Instant::now(), progress);
        self.carry_out(decisions);
        self.keep_comparing(myself);
    }

    fn keep_comparing(&mut self, myself: &ActorRef<PeersMsg>) {
        if self.fetching.scheduler().compares_speeds() && !self.comparing {
            self.comparing = true;
            myself.send_after(super::COMPARE, || PeersMsg::CompareSources);
        }
    }

    pub(super) fn on_compare_sources(&mut self, myself: &ActorRef<PeersMsg>) {
        self.comparing = false;
        self.compare_sources(myself);
    }

    /// No parts are kept for the mirror of what the store holds by now, or does not want. What a library wants does not
    /// depend on that.
    pub(super) fn forget_parts(&mut self, entries: &[FeedEntry]) {
        let gone = entries.iter().filter(|entry| entry.holding != Holding::Wanted);
        let gone = gone.map(|entry| WantKey::new(None, &entry.record));
        let partials = self.args.replica.partials.clone();
        let gone: Vec<WantKey> = gone
            .filter(|key| !self.fetching.scheduler().wants_for(key) && partials.held(key).is_some())
            .collect();
        if !gone.is_empty() {
            self.tasks.spawn(async move { partials.remove(gone).await });
        }
    }

    /// As [`Self::forget_parts`], for what happened before we were here.
    pub(super) fn forget_stored_parts(&mut self) {
        let (partials, store) = (self.args.replica.partials.clone(), Arc::clone(&self.args.replica.store));
        self.tasks.spawn(async move {
            let mirrored = partials.keys().into_iter().filter(|key| key.library.is_none());
            let hashes: Vec<ContentHash> = mirrored.map(|key| key.hash).collect();
            for hashes in hashes.chunks(ASKED_AT_ONCE) {
                // A store that does not answer now is asked at the next start.
                let records = store.records(hashes.to_vec()).await.unwrap_or_default();
                let stored = records.iter().filter(|stored| stored.holding.is_held());
                partials.remove(stored.map(|stored| WantKey::new(None, &stored.record)).collect()).await;
            }
        });
    }

    /// Lets parts rest that nobody offers any more.
    pub(super) fn rest_parts(&mut self) {
        let partials = self.args.replica.partials.clone();
        let keys = partials.keys();
        if keys.is_empty() {
            return;
        }
        let wanted: HashSet<WantKey> =
            keys.into_iter().filter(|key| self.fetching.scheduler().wants_for(key)).collect();
        self.tasks.spawn(async move { partials.rest(|key| wanted.contains(key)).await });
    }

    pub(super) fn transfers(&self) -> Vec<TransferReport> {
        let sending = self.links.values().flat_map(|link| {
            link.sending.list().into_iter().map(|(hash, progress)| TransferReport {
                hash: hash.to_string(),
                size: progress.size,
                done: progress.done,
                direction: TransferDirection::Sending,
                peer: link.endpoint_id.to_string(),
                started: true,
            })
        });
        let receiving = self.fetching.scheduler().report(TRANSFERS_MAX).into_iter().map(|wanted| {
            let link = wanted.session.and_then(|session| self.links.get(session));
            let progress = link.and_then(|link| link.receiving.progress(&wanted.key.hash));
            let kept = self.args.replica.partials.held(&wanted.key);
            TransferReport {
                hash: wanted.key.hash.to_string(),
                size: wanted.key.size,
                done: kept.or(progress.map(|progress| progress.done)).unwrap_or(0),
                direction: TransferDirection::Receiving,
                peer: link.map(|link| link.endpoint_id.to_string()).unwrap_or_default(),
                started: wanted.started,
            }
        });
        sending.chain(receiving).take(TRANSFERS_MAX).collect()
    }
}

impl PeersState {
    /// Which peers have a content, and what went wrong with each.
    pub(super) fn why(&self, hash: &ContentHash) -> WhyReport {
        let standing = self.fetching.scheduler().standing(hash);
        let id_of = |session: &SessionId| self.links.get(*session).map(|link| link.endpoint_id);
        let ids = |sessions: &[SessionId]| sessions.iter().filter_map(id_of).collect::<Vec<EndpointId>>();
        let has_it = standing.as_ref().map(|standing| ids(&standing.sources)).unwrap_or_default();
        let asked = standing.as_ref().map(|standing| ids(&standing.asked)).unwrap_or_default();
        let setbacks = self.fetching.setbacks(hash);
        let mut all: Vec<EndpointId> = has_it.clone();
        all.extend(setbacks.iter().map(|setback| setback.peer).filter(|peer| !has_it.contains(peer)));
        let source = |peer: EndpointId| {
            let setback = setbacks.iter().find(|setback| setback.peer == peer);
            let state = if setback.is_some_and(|setback| setback.lied) {
                SourceState::Lied
            } else if asked.contains(&peer) {
                SourceState::Sending
            } else if has_it.contains(&peer) {
                SourceState::HasIt
            } else {
                SourceState::Failed
            };
            SourceReport {
                endpoint_id: peer.to_string(),
                name: self.roster.get(&peer).map(|known| known.name.clone()).unwrap_or_default(),
                connected: self.links.is_connected(&peer),
                state,
                last_error: setback.map(|setback| setback.reason.clone()),
                failed_at_ms: setback.map(|setback| setback.at_ms),
            }
        };
        WhyReport {
            wanted: standing.is_some(),
            size: standing.as_ref().map(|standing| standing.key.size),
            done: self.args.replica.partials.held_for_any(hash).unwrap_or(0),
            complete: standing.as_ref().is_some_and(|standing| standing.is_complete),
            paused: self.paused().map(str::to_owned),
            search: self.fetching.searches().report(hash),
            only: standing.and_then(|standing| id_of(&standing.only?)).map(|peer| peer.to_string()),
            sources: all.into_iter().map(source).collect(),
            connected: self.links.connected() as u64,
            waiting: self.waiting(hash),
            kept_by: self.promises_taken(hash),
        }
    }
}
