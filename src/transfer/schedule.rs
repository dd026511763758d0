//! Which source is asked for which content, and when. Pure: time comes in.
//!
//! Every asset that some peer has and we want is here once for each library that it is wanted for, with all sessions that
//! offered it in that library ([`WantKey`]). Small ones are asked for
//! in packs and middling ones one by one, each of a single source, so that a mesh does not fetch twice; large ones in
//! parts, of all sources at once. Sources draw from their own queues as they have room, which spreads assets and parts
//! over them by their speed; a share of the room is kept for small ones.
//!
//! **Slow sources.** Who has nothing left to do is also asked for parts that a slower one takes long over (a hedge).
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

use tokio::time::Instant;

mod assign;
mod decision;
mod large;
mod parts;
mod roots;
mod source;
#[cfg(test)]
mod tests;
mod wanted;

use self::decision::gather;
pub use self::decision::{Committed, FetchFailure, ScheduleDecision, ScheduleLimits, SessionId};
use self::parts::{Parts, PartsPhase};
pub use self::source::SourceProgress;
use self::source::{JUDGED_AFTER, Judgement, Source};
use self::wanted::{Claims, Flight, Requested, Wanted, WantedState, charge};
pub use self::wanted::{WantKey, WantedAsset, WantedStatus};
use crate::record::{AssetRecord, ContentHash, LibraryId};

/// Assets up to this size travel in packs and are held in memory; larger ones go into files.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// Size of the parts in which larger assets are asked for.
pub const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Content asked for in one pack.
const PACK_BYTES: u64 = 2 * 1024 * 1024;
/// Assets in one pack.
const PACK_ASSETS: usize = 512;
/// What a large asset or a part counts for while it streams: the stream's window, and what of it is checked and not written yet.
const LARGE_CHARGE: u64 = 1_250_000;
/// What a small asset counts for beyond its content.
const SMALL_OVERHEAD: u64 = 512;
/// How much sooner a second source must be expected to be done with a part, as a factor and in seconds.
const HEDGE_FACTOR: f64 = 2.0;
const HEDGE_SECS: f64 = 1.0;

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
    #[must_use]
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
        let Some(Flight { session: asked, work: Requested::Part { key, part, .. }, .. }) =
            self.flights.get(&request)
        else {
            return out;
        };
        let (key, part) = (*key, *part);
        if *asked != session {
            return out;
        }
        self.land(request, None);
        match result {
            Ok(()) => self.part_is_here(key, part, request, &mut out),
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
        self.now = now;
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

    /// Takes back what a source is too slow for: what others have, or, if so little `came` that it never ends,
    /// everything.
    fn take_from(&mut self, session: SessionId, came: Option<u64>, out: &mut Vec<ScheduleDecision>) {
        let theirs = self.flights.iter().filter(|(_, flight)| flight.session == session);
        let theirs: Vec<(u64, Vec<WantKey>)> =
            theirs.map(|(request, flight)| (*request, flight.keys())).collect();
        let mut took = false;
        for (request, keys) in theirs {
            let others_have = |key: &WantKey| {
                let sources = self.wanted.get(key).map(|wanted| wanted.sources.iter());
                sources.into_iter().flatten().any(|other| {
                    *other != session && self.sources.get(other).is_some_and(|other| !other.rests(self.now))
                })
            };
            let (shared, alone): (Vec<WantKey>, Vec<WantKey>) =
                keys.into_iter().partition(|key| others_have(key));
            if came.is_none() && !alone.is_empty() {
                continue;
            }
            took = true;
            self.revoke(request, out);
            for key in shared {
                self.requeue(key);
            }
            let came = came.unwrap_or(0);
            let reason = format!("no progress: {came} bytes in {} s or more", JUDGED_AFTER.as_secs());
            for key in alone {
                self.failed(session, key, Failure::Source(reason.clone()), out);
            }
        }
        if took && let Some(source) = self.sources.get_mut(&session) {
            source.rest(self.now);
        }
    }

    /// Whether parts of large contents are on their way, and the speed of sources matters.
    #[must_use]
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

    /// Assets wanted, and how many of their bytes are missing, to a part.
    #[must_use]
    pub fn missing(&self) -> (u64, u64) {
        (self.wanted.len() as u64, self.wanted_bytes)
    }

    /// Whether an asset is wanted or being stored, for whatever library.
    #[must_use]
    pub fn wants(&self, hash: &ContentHash) -> bool {
        !self.keys_of(hash).is_empty()
    }

    /// Whether it is for this library, at this size.
    #[must_use]
    pub fn wants_for(&self, key: &WantKey) -> bool {
        self.wanted.contains_key(key)
    }

    /// Up to `limit` wanted assets, those on their way first.
    #[must_use]
    pub fn report(&self, limit: usize) -> Vec<WantedAsset> {
        let of = |started: bool| {
            let all = self.wanted.iter().filter(move |(_, wanted)| wanted.is_started() == started);
            all.map(move |(key, w)| WantedAsset {
                key: *key,
                session: self.asked(w).next().or_else(|| w.sources.first().copied()),
                started,
            })
        };
        of(true).chain(of(false)).take(limit).collect()
    }

    /// How an asset stands, if it is wanted: for the mirror, or else for the first library.
    #[must_use]
    pub fn standing(&self, hash: &ContentHash) -> Option<WantedStatus> {
        let key = *self.keys_of(hash).first()?;
        let wanted = self.wanted.get(&key)?;
        let asked: BTreeSet<SessionId> = self.asked(wanted).collect();
        let (is_complete, only) = match &wanted.state {
            WantedState::Free | WantedState::Asked(_) => (false, None),
            WantedState::Parts(parts) => {
                (matches!(parts.phase, PartsPhase::Complete | PartsPhase::Committing), parts.only)
            }
            WantedState::Stored => (true, None),
        };
        Some(WantedStatus {
            key,
            sources: wanted.sources.clone(),
            asked: asked.into_iter().collect(),
            is_complete,
            is_paused: self.paused,
            only,
        })
    }

    fn asked(&self, wanted: &Wanted) -> impl Iterator<Item = SessionId> {
        wanted
            .requests()
            .into_iter()
            .filter_map(|request| self.flights.get(&request))
            .map(|flight| flight.session)
    }

    fn parts_mut(&mut self, key: &WantKey) -> Option<&mut Parts> {
        match &mut self.wanted.get_mut(key)?.state {
            WantedState::Parts(parts) => Some(parts),
            WantedState::Free | WantedState::Asked(_) | WantedState::Stored => None,
        }
    }

    fn requests_of(&self, session: SessionId, key: &WantKey) -> Vec<u64> {
        let requests = self.wanted.get(key).map(Wanted::requests).unwrap_or_default();
        let theirs =
            |request: &u64| self.flights.get(request).is_some_and(|flight| flight.session == session);
        requests.into_iter().filter(theirs).collect()
    }

    /// An asset without a source is forgotten, unless it is being stored.
    fn drop_if_orphan(&mut self, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get(&key).filter(|wanted| wanted.sources.is_empty()) else { return };
        let storing = match &wanted.state {
            WantedState::Parts(parts) => matches!(parts.phase, PartsPhase::Complete | PartsPhase::Committing),
            WantedState::Stored => true,
            WantedState::Free | WantedState::Asked(_) => false,
        };
        if !storing {
            self.forget(&key, out);
        }
    }

    fn forget(&mut self, key: &WantKey, out: &mut Vec<ScheduleDecision>) {
        let requests = self.wanted.get(key).map(Wanted::requests).unwrap_or_default();
        for request in requests {
            self.take_back(request, *key, out);
        }
        self.ready.remove(key);
        if let Some(wanted) = self.wanted.remove(key) {
            self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted.open_bytes());
        }
    }

    /// An asset, or all that is left, of a request came or is not expected any more.
    fn land(&mut self, request: u64, key: Option<WantKey>) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        let session = flight.session;
        let (charge, large, over) = match (&mut flight.work, key) {
            (Requested::Assets(assets), Some(key)) => {
                if !assets.remove(&key) {
                    return;
                }
                let size = self.wanted.get(&key).map_or(0, |wanted| wanted.record.size);
                (charge(size), size > SMALL_BYTES_MAX, assets.is_empty())
            }
            (Requested::Part { charge, .. }, _) => (*charge, true, true),
            (Requested::Assets(_), None) => return,
        };
        if over {
            self.flights.remove(&request);
        }
        self.in_flight -= charge;
        if let Some(source) = self.sources.get_mut(&session) {
            source.bytes -= charge;
            source.requests -= usize::from(over);
            source.large_requests -= usize::from(over && large);
        }
    }

    /// One content of a request is not expected of its source any more; the request is revoked with its last.
    fn take_back(&mut self, request: u64, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(flight) = self.flights.get(&request) else { return };
        let session = flight.session;
        if let Requested::Part { key, part, .. } = flight.work
            && let Some(parts) = self.parts_mut(&key)
        {
            parts.give_back(part, request);
        }
        self.land(request, Some(key));
        if let Some(wanted) = self.wanted.get_mut(&key)
            && let WantedState::Asked(_) = wanted.state
        {
            wanted.state = WantedState::Free;
        }
        if !self.flights.contains_key(&request) {
            out.push(ScheduleDecision::Revoke { session, request });
        }
    }

    fn revoke(&mut self, request: u64, out: &mut Vec<ScheduleDecision>) {
        let keys = self.flights.get(&request).map(Flight::keys).unwrap_or_default();
        for key in keys {
            self.take_back(request, key, out);
        }
    }

    /// Puts an asset at the head of its sources' queues, if there is something to ask for.
    fn requeue(&mut self, key: WantKey) {
        let Some(wanted) = self.wanted.get(&key) else { return };
        for session in &wanted.sources {
            if wanted.has_free_for(*session)
                && let Some(source) = self.sources.get_mut(session)
            {
                let queue = source.queue(wanted.record.size);
                if queue.front() != Some(&key) {
                    queue.push_front(key);
                }
            }
        }
    }
}
