//! Which source is asked for which content, and when. Pure: time comes in.
//!
//! Every asset that some peer has and we want is here once for each library that it is wanted for, with all sessions that
//! offered it in that library ([`WantKey`]). Small ones are asked for
//! in packs and middling ones one by one, each of a single source, so that a mesh does not fetch twice; large ones in
//! parts, of all sources at once. Sources draw from their own queues as they have room, which spreads assets and parts
//! over them by their speed; a share of the room is kept for small ones.
//!
//! **Slow sources.** Who has nothing left to do is also asked for parts that a slower one takes long over (a hedge). The hash of
//! the whole is made in order, from memory: what comes after a gap has to be read from the disk again. So a source that is
//! through with its own parts is first asked for those further ahead that a slower one should have sent long since, and whoever
//! was overtaken like that takes its next parts from the content's end.
//! A source that sends nothing for five seconds loses what others have, too; one that sends next to nothing loses
//! everything.
//!
//! **Roots.** A source's record says what the content's BLAKE3 is, its root. Where one does, parts are proved for the root that
//! most sources say, from 64 KiB up, and those are asked that say it; so who sends something else is known at once, and what others
//! sent stays. A source whose proof is none for its own root is not asked for parts any more: its record may be wrong, or it lies,
//! which is known once another one proved that root. Where nobody is left that proves anything, the content comes as it does from
//! sources whose records have no root; after such a failure from one source at a time. A root that turns out to be another
//! content's is not taken again. SHA-256 of the whole has the last word always.
//!
//! **Failures** are the source's (another is tried) or the store's (everything pauses). When a large content turns out
//! wrong that came from several sources, one of them is asked alone until it is known who lies.
//!
//! **Versions.** The newest record that anybody offered is what is stored. If a newer one comes while an older is on its
//! way into the store, it is applied behind it, and only then is anybody told that the asset is here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

mod assign;
mod decision;
mod large;
mod parts;
mod requests;
mod roots;
mod source;
mod standing;
#[cfg(test)]
mod tests;
mod wanted;

use self::decision::gather;
pub use self::decision::{Committed, FetchFailure, ScheduleDecision, ScheduleLimits, SessionId};
use self::parts::{Parts, PartsPhase};
pub use self::source::SourceProgress;
use self::source::{SessionSource, SourceJudgement};
use self::wanted::{Flight, Requested, RootClaims, Wanted, WantedState};
pub use self::wanted::{WantKey, WantedAsset, WantedStatus};
use crate::record::{AssetRecord, ContentHash, LibraryId};

/// Assets up to this size travel in packs and are held in memory; larger ones go into files.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// Size of the parts in which larger assets are asked for.
pub const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Content asked for in one pack.
const PACK_BYTES: u64 = 2 * 1024 * 1024;
const PACK_ASSETS: usize = 512;
/// What a large asset or a part counts for while it streams: the stream's window, and what of it is checked and not written yet.
const LARGE_CHARGE: u64 = 1_250_000;
/// What a small asset counts for beyond its content.
const SMALL_OVERHEAD: u64 = 512;
/// How much sooner a second source must be expected to be done with a part, as a factor and in seconds.
const HEDGE_FACTOR: f64 = 2.0;
const HEDGE_SECS: f64 = 1.0;
/// How much longer another source's part may be on its way than the last one of a source that could be asked for it, too: as a factor,
/// and beyond that.
const OVERDUE_FACTOR: f64 = 4.0;
const OVERDUE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Scheduler {
    limits: ScheduleLimits,
    wanted: BTreeMap<WantKey, Wanted>,
    wanted_bytes: u64,
    // Ordered, so that equal inputs give equal decisions.
    sources: BTreeMap<SessionId, SessionSource>,
    flights: BTreeMap<u64, Flight>,
    /// Assets that are here, and to be stored or their newest record applied.
    ready: BTreeSet<WantKey>,
    in_flight: u64,
    paused: bool,
    next_request: u64,
    now: Instant,
}

impl Scheduler {
    pub fn new(limits: ScheduleLimits, now: Instant) -> Self {
        Self {
            limits,
            wanted: BTreeMap::new(),
            wanted_bytes: 0,
            sources: BTreeMap::new(),
            flights: BTreeMap::new(),
            ready: BTreeSet::new(),
            in_flight: 0,
            paused: false,
            next_request: 1,
            now,
        }
    }

    /// It is `now`, as far as the following is concerned.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// A session has these in a library (`None` for the mirror) and we want their content for it.
    pub fn announce(
        &mut self,
        session: SessionId,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    ) -> Vec<ScheduleDecision> {
        let mut out = Vec::new();
        self.sources.entry(session).or_default();
        for record in records {
            let (key, size, root) = (WantKey::new(library, &record), record.size, record.blake3);
            let wanted = self.wanted.entry(key).or_insert_with(|| {
                self.wanted_bytes = self.wanted_bytes.saturating_add(size);
                let state = WantedState::new(size, root, &self.limits);
                let claims = RootClaims::default();
                Wanted { record: record.clone(), is_newer: false, sources: Vec::new(), claims, state }
            });
            if record.supersedes(&wanted.record) {
                wanted.record = record;
                wanted.is_newer = true;
            }
            if !wanted.sources.contains(&session) {
                wanted.sources.push(session);
            }
            if size > SMALL_BYTES_MAX {
                wanted.claims.add(session, root);
                self.weigh_roots(key, &mut out);
            }
            if self.wanted.get(&key).is_some_and(|wanted| wanted.has_free_for(session))
                && let Some(source) = self.sources.get_mut(&session)
            {
                source.queue(size).push_back(key);
            }
        }
        out.extend(self.assign());
        out
    }

    /// A user wants this one before everything else, whatever library it comes through.
    pub fn prefer(&mut self, hash: ContentHash) -> Vec<ScheduleDecision> {
        for key in self.keys_of(&hash) {
            self.requeue(key);
        }
        self.assign()
    }

    fn keys_of(&self, hash: &ContentHash) -> Vec<WantKey> {
        let first = WantKey { hash: *hash, library: None, size: 0 };
        self.wanted.range(first..).map(|(key, _)| *key).take_while(|key| key.hash == *hash).collect()
    }

    /// Contents asked for from `session` are durable, or did not come.
    pub fn finished(
        &mut self,
        session: SessionId,
        results: impl IntoIterator<Item = (WantKey, Result<(), FetchFailure>)>,
    ) -> Vec<ScheduleDecision> {
        let mut out = Vec::new();
        for (key, result) in results {
            let Some(wanted) = self.wanted.get(&key) else { continue };
            let WantedState::Asked(request) = wanted.state else { continue };
            if self.flights.get(&request).is_none_or(|flight| flight.session != session) {
                continue;
            }
            self.land(request, Some(key));
            match result {
                Ok(()) => self.stored(key, &mut out),
                Err(failure) => self.failed(session, key, failure, &mut out),
            }
        }
        out.extend(self.assign());
        gather(out)
    }

    /// A part that was asked for under this number is here, or did not come.
    pub fn part_finished(
        &mut self,
        session: SessionId,
        request: u64,
        result: Result<(), FetchFailure>,
    ) -> Vec<ScheduleDecision> {
        let mut out = Vec::new();
        let Some(Flight { session: asked, work: Requested::Part { key, part, .. }, asked_at }) =
            self.flights.get(&request)
        else {
            return out;
        };
        let (key, part, asked_at) = (*key, *part, *asked_at);
        if *asked != session {
            return out;
        }
        self.land(request, None);
        match result {
            Ok(()) => {
                let len = self.parts_mut(&key).map_or(0, |parts| parts.len(part));
                if let Some(source) = self.sources.get_mut(&session) {
                    source.last_part = Some((len, self.now.duration_since(asked_at)));
                    source.is_overtaken = false;
                }
                self.part_is_here(key, part, request, &mut out);
            }
            Err(failure) => {
                if let Some(parts) = self.parts_mut(&key) {
                    parts.give_back(part, request);
                }
                self.failed(session, key, failure, &mut out);
            }
        }
        out.extend(self.assign());
        gather(out)
    }

    fn part_is_here(&mut self, key: WantKey, part: u64, request: u64, out: &mut Vec<ScheduleDecision>) {
        self.root_is_proved(key, out);
        let Some(parts) = self.parts_mut(&key) else { return };
        let others = parts.done(part);
        let (len, complete) = (parts.len(part), parts.phase == PartsPhase::Complete);
        self.wanted_bytes = self.wanted_bytes.saturating_sub(len);
        for other in others.into_iter().filter(|other| *other != request) {
            if other < request {
                self.overtake(other);
            }
            self.revoke(other, out);
        }
        if complete {
            self.ready.insert(key);
        }
    }

    /// These are durable here in their newest version by another way, such as inside an offer.
    pub fn arrived(&mut self, library: Option<LibraryId>, records: &[AssetRecord]) -> Vec<ScheduleDecision> {
        let mut out = Vec::new();
        for record in records {
            let key = WantKey::new(library, record);
            let Some(wanted) = self.wanted.get_mut(&key) else { continue };
            let busy = match &wanted.state {
                WantedState::Parts(parts) => parts.phase == PartsPhase::Committing,
                WantedState::Stored => true,
                WantedState::Free | WantedState::Asked(_) => false,
            };
            if !busy {
                wanted.is_newer = wanted.record.supersedes(record);
                let requests = wanted.requests();
                for request in requests {
                    self.take_back(request, key, &mut out);
                }
                self.stored(key, &mut out);
            }
        }
        out.extend(self.assign());
        gather(out)
    }

    /// A version of the asset is durable.
    fn stored(&mut self, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        if wanted.is_newer {
            self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted.open_bytes());
            wanted.state = WantedState::Stored;
            self.ready.insert(key);
            return;
        }
        let sources = std::mem::take(&mut wanted.sources);
        let misnamed = wanted.misnamed();
        self.forget(&key, out);
        out.extend(misnamed.into_iter().map(|session| ScheduleDecision::Misnamed { session, key }));
        out.extend(sources.into_iter().map(|session| ScheduleDecision::Settled { session, keys: vec![key] }));
    }

    /// A source did not give what it was asked for.
    fn failed(
        &mut self,
        session: SessionId,
        key: WantKey,
        failure: FetchFailure,
        out: &mut Vec<ScheduleDecision>,
    ) {
        match failure {
            FetchFailure::Source(reason) | FetchFailure::WrongBytes(reason) => {
                let Some(wanted) = self.wanted.get_mut(&key) else { return };
                if !wanted.sources.contains(&session) {
                    return;
                }
                wanted.sources.retain(|source| *source != session);
                wanted.claims.forget(session);
                let theirs = self.requests_of(session, &key);
                for request in theirs {
                    self.take_back(request, key, out);
                }
                out.push(ScheduleDecision::Failed { session, key, reason });
                self.source_lost(session, key, out);
            }
            FetchFailure::NoProof(_) => self.unproved(session, key, None, out),
            FetchFailure::FalseProof(reason) => self.unproved(session, key, Some(reason), out),
            FetchFailure::Asset(reason) => self.fail_all(key, &reason, out),
            FetchFailure::Store(_) | FetchFailure::Interrupted(_) => {
                self.paused |= matches!(failure, FetchFailure::Store(_));
                if let Some(wanted) = self.wanted.get_mut(&key)
                    && let WantedState::Asked(_) = wanted.state
                {
                    wanted.state = WantedState::Free;
                }
                self.requeue(key);
            }
        }
    }

    /// An asset has one source less.
    fn source_lost(&mut self, session: SessionId, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        if let WantedState::Asked(request) = wanted.state
            && !self.flights.contains_key(&request)
        {
            wanted.state = WantedState::Free;
        }
        let was_only = matches!(&wanted.state, WantedState::Parts(parts) if parts.only == Some(session));
        if was_only {
            self.take_from_others(key, &[], out);
        }
        self.weigh_roots(key, out);
        self.drop_if_orphan(key, out);
        self.requeue(key);
    }

    fn fail_all(&mut self, key: WantKey, reason: &str, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        let sources = std::mem::take(&mut wanted.sources);
        self.forget(&key, out);
        let failed = |session| ScheduleDecision::Failed { session, key, reason: reason.to_owned() };
        out.extend(sources.into_iter().map(failed));
    }

    /// A session is over: what it was asked for is asked of others; what only it had is forgotten until it is offered
    /// again.
    pub fn session_ended(&mut self, session: SessionId) -> Vec<ScheduleDecision> {
        if !self.sources.contains_key(&session) {
            return Vec::new();
        }
        let mut out = Vec::new();
        let flights: Vec<u64> =
            self.flights.iter().filter(|(_, flight)| flight.session == session).map(|(n, _)| *n).collect();
        for request in flights {
            self.revoke(request, &mut out);
        }
        // One that ended needs not be told.
        out.clear();
        self.sources.remove(&session);
        let mut theirs: Vec<WantKey> = self
            .wanted
            .iter_mut()
            .filter(|(_, wanted)| wanted.sources.contains(&session))
            .map(|(key, wanted)| {
                wanted.sources.retain(|source| *source != session);
                wanted.claims.forget(session);
                *key
            })
            .collect();
        theirs.sort_unstable();
        for key in theirs {
            self.source_lost(session, key, &mut out);
        }
        out.extend(self.assign());
        gather(out)
    }

    /// Time passed, about a second of it, and this is what came meanwhile: looks for sources that are too slow.
    pub fn tick(
        &mut self,
        now: Instant,
        progress: impl IntoIterator<Item = (SessionId, SourceProgress)>,
    ) -> Vec<ScheduleDecision> {
        self.advance(now);
        let mut out = Vec::new();
        for (session, progress) in progress {
            let stall = self.limits.stall;
            let Some(source) = self.sources.get_mut(&session) else { continue };
            match source.note(progress, now, stall) {
                SourceJudgement::Fine => {}
                SourceJudgement::Silent => self.take_from(session, None, &mut out),
                SourceJudgement::Hopeless(came) => self.take_from(session, Some(came), &mut out),
            }
        }
        self.replace_slow_only(&mut out);
        out.extend(self.assign());
        gather(out)
    }

    /// Whether parts of large contents are on their way, and the speed of sources matters.
    pub fn compares_speeds(&self) -> bool {
        self.flights.values().any(|flight| matches!(flight.work, Requested::Part { .. }))
    }

    /// Nothing is asked for until [`Scheduler::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    pub fn resume(&mut self) -> Vec<ScheduleDecision> {
        self.paused = false;
        self.assign()
    }

    fn parts_mut(&mut self, key: &WantKey) -> Option<&mut Parts> {
        match &mut self.wanted.get_mut(key)?.state {
            WantedState::Parts(parts) => Some(parts),
            WantedState::Free | WantedState::Asked(_) | WantedState::Stored => None,
        }
    }
}
