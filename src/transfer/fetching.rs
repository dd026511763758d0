//! What is fetched from which peer, and what follows when it goes wrong: the rules that PeersActor carries out. Pure: time comes in.
//!
//! Around the [`Scheduler`], which picks a source for each content, stand three rules. A store that does not take content
//! pauses everything for a while. A peer that sent wrong bytes for a content is not asked for it again, and its connection is
//! closed. And what users asked for by name goes first ([`Searches`]).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use iroh::EndpointId;
use tokio::time::Instant;

use super::commit::CommitOutcome;
use super::partial::Blame;
use super::receive::Results;
use super::schedule::{
    Committed, FetchFailure, ScheduleDecision, ScheduleLimits, Scheduler, SessionId, SourceProgress, WantKey,
};
use super::search::{Searches, TooMany};
use super::setbacks::{Setback, Setbacks};
use crate::record::{AssetRecord, ContentHash, LibraryId};

/// Wait after the store failed to take content before it is tried again.
const STORE_PAUSE: Duration = Duration::from_secs(3);
/// Contents with wrong bytes that one peer may send before it has broken the rules.
const WRONG_CONTENTS_MAX: usize = 3;

/// What is said of a peer whose record of a content has a BLAKE3 that is not the content's.
const MISNAMED: &str = "its record says another BLAKE3 than the content has";

#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large kind")]
pub enum FetchDecision {
    Schedule(ScheduleDecision),
    /// Close the connection with this peer: it sent wrong bytes for this content.
    Distrust {
        peer: EndpointId,
        hash: ContentHash,
        reason: String,
        /// Whether it did so for several contents. One alone may be a disk that rots.
        repeatedly: bool,
    },
}

#[derive(Debug, Default)]
struct StoreFailure {
    /// The store does not work, as its feed says.
    unhealthy: Option<String>,
    /// The store took no content lately, and when it is tried again.
    refused: Option<(String, Instant)>,
}

#[derive(Debug)]
pub struct Fetching {
    scheduler: Scheduler,
    searches: Searches,
    setbacks: Setbacks,
    /// Sessions, with the peer of each.
    peers: HashMap<SessionId, EndpointId>,
    /// Contents that came with wrong bytes, by peer.
    distrusted: HashMap<EndpointId, HashSet<ContentHash>>,
    store: StoreFailure,
    now: Instant,
    now_ms: u64,
}

impl Fetching {
    /// `now_ms` is the same moment in milliseconds since the Unix epoch.
    pub fn new(limits: ScheduleLimits, now: Instant, now_ms: u64) -> Self {
        Self {
            scheduler: Scheduler::new(limits, now),
            searches: Searches::default(),
            setbacks: Setbacks::default(),
            peers: HashMap::new(),
            distrusted: HashMap::new(),
            store: StoreFailure::default(),
            now,
            now_ms,
        }
    }

    /// What is wanted, from which peers, and how far it is.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// What users asked for by name.
    pub fn searches(&self) -> &Searches {
        &self.searches
    }

    pub fn searches_mut(&mut self) -> &mut Searches {
        &mut self.searches
    }

    pub fn setbacks(&self, hash: &ContentHash) -> &[Setback] {
        self.setbacks.of(hash)
    }

    pub fn connected(&mut self, session: SessionId, peer: EndpointId) {
        self.peers.insert(session, peer);
    }

    pub fn disconnected(&mut self, session: SessionId) -> Vec<FetchDecision> {
        self.peers.remove(&session);
        let decisions = self.scheduler.session_ended(session);
        self.note_failures(decisions)
    }

    /// What the session was asked for is void: it begins anew, or its actor failed.
    pub fn session_ended(&mut self, session: SessionId) -> Vec<FetchDecision> {
        let decisions = self.scheduler.session_ended(session);
        self.note_failures(decisions)
    }

    /// A session has these in a library (`None` for the mirror), and we want their content for it.
    pub fn announce(
        &mut self,
        session: SessionId,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    ) -> Vec<FetchDecision> {
        let Some(peer) = self.peers.get(&session).copied() else { return Vec::new() };
        let distrusted = self.distrusted.get(&peer);
        let (refused, wanted): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| distrusted.is_some_and(|d| d.contains(&record.hash)));
        let mut decisions = Vec::new();
        for record in refused {
            self.searches.lacks(peer, &record.hash);
            let reason = "it sent wrong bytes for it before".to_owned();
            let key = WantKey::new(library, &record);
            decisions.push(FetchDecision::Schedule(ScheduleDecision::Failed { session, key, reason }));
        }
        let sought: Vec<ContentHash> =
            wanted.iter().map(|record| record.hash).filter(|hash| self.searches.seeks(hash)).collect();
        for hash in &sought {
            self.searches.found(peer, hash);
        }
        let mut scheduled = self.scheduler.announce(session, library, wanted);
        for hash in sought {
            scheduled.extend(self.scheduler.prefer(hash));
        }
        decisions.extend(self.note_failures(scheduled));
        decisions
    }

    /// A user asks for a content by name.
    pub fn search(&mut self, hash: ContentHash, now: Instant) -> Result<Vec<FetchDecision>, TooMany> {
        self.searches.begin(hash, now)?;
        let decisions = self.scheduler.prefer(hash);
        Ok(self.note_failures(decisions))
    }

    /// The peer of a session does not have these; or, unless `asked`, it cannot be asked.
    pub fn lacks(&mut self, session: SessionId, hashes: &[ContentHash], asked: bool) {
        let Some(peer) = self.peers.get(&session).copied() else { return };
        for hash in hashes {
            if asked {
                self.searches.lacks(peer, hash);
            } else {
                self.searches.cannot_answer(peer, hash);
            }
        }
    }

    /// Contents asked for from `session` are durable, or did not come.
    pub fn finished(&mut self, session: SessionId, results: Results) -> Vec<FetchDecision> {
        let mut decisions = Vec::new();
        for (key, result) in &results {
            if let Err(failure) = result {
                decisions.extend(self.note_failure(session, key.hash, failure));
            }
        }
        let scheduled = self.scheduler.finished(session, results);
        decisions.extend(self.note_failures(scheduled));
        decisions
    }

    /// It is `now`, as far as the following is concerned.
    pub fn advance(&mut self, now: Instant) {
        self.scheduler.advance(now);
    }

    /// A part that was asked for under `request` is here, or did not come.
    pub fn part_finished(
        &mut self,
        session: SessionId,
        request: u64,
        hash: ContentHash,
        result: Result<(), FetchFailure>,
    ) -> Vec<FetchDecision> {
        let distrust = result.as_ref().err().and_then(|failure| self.note_failure(session, hash, failure));
        let scheduled = self.scheduler.part_finished(session, request, result);
        let mut decisions: Vec<FetchDecision> = distrust.into_iter().collect();
        decisions.extend(self.note_failures(scheduled));
        decisions
    }

    /// What became of a content all of whose parts were here.
    pub fn committed(&mut self, key: WantKey, outcome: CommitOutcome) -> Vec<FetchDecision> {
        let mut liars = Vec::new();
        let committed = match outcome {
            CommitOutcome::Stored { liars: found, .. } => {
                liars = found;
                Committed::Stored
            }
            CommitOutcome::NotTaken(failure) => {
                self.note_store(&failure);
                Committed::NotTaken(failure)
            }
            CommitOutcome::Wrong(Blame::Peer(liar)) => {
                liars.push(liar);
                Committed::WrongFrom(self.session_of(&liar))
            }
            CommitOutcome::Wrong(Blame::Root(givers)) => {
                tracing::warn!(hash = %key.hash, "the BLAKE3 that peers say a content has is that of another one");
                let sessions = givers.iter().filter_map(|peer| self.session_of(peer)).collect();
                liars = givers;
                Committed::WrongRoot(sessions)
            }
            CommitOutcome::Wrong(Blame::OneOfSeveral(givers)) => {
                tracing::warn!(hash = %key.hash, "one of several peers sent wrong bytes; one is asked alone now");
                let session = |(peer, bytes): &(EndpointId, u64)| Some((self.session_of(peer)?, *bytes));
                Committed::WrongFromSeveral(givers.iter().filter_map(session).collect())
            }
            CommitOutcome::Wrong(Blame::Nobody) => {
                tracing::warn!(hash = %key.hash, "what an earlier process left of it was not usable");
                Committed::Again
            }
            CommitOutcome::Incomplete => Committed::Again,
        };
        let scheduled = self.scheduler.committed(key, committed);
        let mut decisions = self.note_failures(scheduled);
        for liar in liars {
            decisions.push(self.distrust(liar, key.hash, "the peer sent wrong bytes"));
        }
        decisions
    }

    /// A newer record of a content that is here was applied, or not.
    pub fn applied(&mut self, key: WantKey, result: Result<(), FetchFailure>) -> Vec<FetchDecision> {
        if let Err(failure) = &result {
            self.note_store(failure);
        }
        let decisions = self.scheduler.applied(key, result);
        self.note_failures(decisions)
    }

    /// What others sent of a content was thrown away, or could not be.
    pub fn restricted(&mut self, key: WantKey, result: Result<(), FetchFailure>) -> Vec<FetchDecision> {
        if let Err(failure) = &result {
            self.note_store(failure);
        }
        let decisions = self.scheduler.restricted(key, result);
        self.note_failures(decisions)
    }

    /// These came into the store on another way.
    pub fn arrived(&mut self, library: Option<LibraryId>, records: &[AssetRecord]) -> Vec<FetchDecision> {
        let decisions = self.scheduler.arrived(library, records);
        self.note_failures(decisions)
    }

    /// Whether the store works, as its feed says.
    pub fn store_health(&mut self, failure: Option<String>) -> Vec<FetchDecision> {
        self.store.unhealthy = failure;
        if self.store.unhealthy.is_some() {
            self.scheduler.pause();
        }
        self.resume()
    }

    pub fn paused(&self) -> Option<&str> {
        self.store.unhealthy.as_deref().or(self.store.refused.as_ref().map(|(why, _)| why.as_str()))
    }

    /// Whether the store does not work, as its feed says.
    pub fn is_unhealthy(&self) -> bool {
        self.store.unhealthy.is_some()
    }

    pub fn tick(&mut self, now: Instant, now_ms: u64) -> Vec<FetchDecision> {
        (self.now, self.now_ms) = (now, now_ms);
        self.store.refused.take_if(|(_, until)| *until <= now);
        self.resume()
    }

    /// Time passed for the searches; whether there are `more` peers that could be asked.
    pub fn tick_searches(&mut self, now: Instant, more: bool) {
        let scheduler = &self.scheduler;
        self.searches.tick(now, |hash| scheduler.wants(hash), more);
    }

    /// How far the sources are with what they were asked for.
    pub fn compare_sources(
        &mut self,
        now: Instant,
        progress: Vec<(SessionId, SourceProgress)>,
    ) -> Vec<FetchDecision> {
        let decisions = self.scheduler.tick(now, progress);
        self.note_failures(decisions)
    }

    fn resume(&mut self) -> Vec<FetchDecision> {
        if self.paused().is_some() {
            return Vec::new();
        }
        let decisions = self.scheduler.resume();
        self.note_failures(decisions)
    }

    /// The newest session with a peer.
    fn session_of(&self, peer: &EndpointId) -> Option<SessionId> {
        let sessions = self.peers.iter().filter(|(_, other)| *other == peer);
        sessions.map(|(session, _)| *session).max()
    }

    /// Takes note of what a peer could not give, and of who lied.
    fn note_failures(&mut self, decisions: Vec<ScheduleDecision>) -> Vec<FetchDecision> {
        let mut out = Vec::with_capacity(decisions.len());
        for decision in decisions {
            match &decision {
                ScheduleDecision::Failed { session, key, reason } => {
                    if let Some(peer) = self.peers.get(session).copied() {
                        self.note_setback(peer, key.hash, reason);
                        self.searches.lacks(peer, &key.hash);
                    }
                }
                ScheduleDecision::Lied { session, key, reason } => {
                    if let Some(peer) = self.peers.get(session).copied() {
                        out.push(self.distrust(peer, key.hash, reason));
                    }
                    continue;
                }
                ScheduleDecision::Misnamed { session, key } => {
                    if let Some(peer) = self.peers.get(session).copied() {
                        tracing::warn!(peer = %peer.fmt_short(), hash = %key.hash, MISNAMED);
                        self.note_setback(peer, key.hash, MISNAMED);
                    }
                    continue;
                }
                ScheduleDecision::Fetch { .. }
                | ScheduleDecision::FetchPart { .. }
                | ScheduleDecision::Revoke { .. }
                | ScheduleDecision::Restrict { .. }
                | ScheduleDecision::Restart(_)
                | ScheduleDecision::Commit(..)
                | ScheduleDecision::Apply(..)
                | ScheduleDecision::Settled { .. } => {}
            }
            out.push(FetchDecision::Schedule(decision));
        }
        out
    }

    fn note_setback(&mut self, peer: EndpointId, hash: ContentHash, reason: &str) {
        let setback = Setback { peer, reason: reason.to_owned(), lied: false, at_ms: self.now_ms };
        self.setbacks.note(hash, setback);
    }

    fn note_failure(
        &mut self,
        session: SessionId,
        hash: ContentHash,
        failure: &FetchFailure,
    ) -> Option<FetchDecision> {
        self.note_store(failure);
        let peer = self.peers.get(&session).copied()?;
        match failure {
            FetchFailure::WrongBytes(reason) => Some(self.distrust(peer, hash, reason)),
            FetchFailure::FalseProof(reason) => {
                tracing::warn!(peer = %peer.fmt_short(), %hash, reason);
                self.note_setback(peer, hash, reason);
                None
            }
            FetchFailure::Source(_)
            | FetchFailure::Interrupted(_)
            | FetchFailure::NoProof(_)
            | FetchFailure::Store(_)
            | FetchFailure::Asset(_) => None,
        }
    }

    fn note_store(&mut self, failure: &FetchFailure) {
        let FetchFailure::Store(reason) = failure else { return };
        tracing::warn!(reason, "the store does not take content; transfers pause");
        self.store.refused = Some((reason.clone(), self.now + STORE_PAUSE));
    }

    fn distrust(&mut self, peer: EndpointId, hash: ContentHash, reason: &str) -> FetchDecision {
        let contents = self.distrusted.entry(peer).or_default();
        contents.insert(hash);
        let repeatedly = contents.len() >= WRONG_CONTENTS_MAX;
        let reason = reason.to_owned();
        self.setbacks.note(hash, Setback { peer, reason: reason.clone(), lied: true, at_ms: self.now_ms });
        FetchDecision::Distrust { peer, hash, reason, repeatedly }
    }
}

#[cfg(test)]
mod tests;
