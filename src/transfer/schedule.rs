//! Which source is asked for which content, and when. Pure: time comes in.
//!
//! Every asset that some peer has and we want is here once, with all sessions that offered it. Small ones are asked for
//! in packs and middling ones one by one, each of a single source, so that a mesh does not fetch twice; large ones in
//! parts, of all sources at once. Sources draw from their own queues as they have room, which spreads assets and parts
//! over them by their speed; a share of the room is kept for small ones.
//!
//! **Slow sources.** Who has nothing left to do is also asked for parts that a slower one takes long over (a hedge).
//! A source that sends nothing for five seconds loses what others have, too; one that sends next to nothing loses
//! everything.
//!
//! **Failures** are the source's (another is tried) or the store's (everything pauses). When a large content turns out
//! wrong that came from several sources, one of them is asked alone until it is known who lies.
//!
//! **Versions.** The newest record that anybody offered is what is stored. If a newer one comes while an older is on its
//! way into the store, it is applied behind it, and only then is anybody told that the asset is here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

mod parts;
mod source;
#[cfg(test)]
mod tests;

use self::parts::{Parts, Phase};
pub use self::source::Progress;
use self::source::{JUDGED_AFTER, Judgement, Source};
use crate::record::{AssetRecord, ContentHash};

/// Assets up to this size travel in packs and are held in memory; larger ones go into files.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// Size of the parts in which larger assets are asked for.
pub const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Content asked for in one pack.
const PACK_BYTES: u64 = 2 * 1024 * 1024;
/// Assets in one pack.
const PACK_ASSETS: usize = 512;
/// What a large asset or a part counts for while it streams: the stream's window, for that is all of it in memory.
const LARGE_CHARGE: u64 = 1_250_000;
/// What a small asset counts for beyond its content.
const SMALL_OVERHEAD: u64 = 512;
/// How much sooner a second source must be expected to be done with a part, as a factor and in seconds.
const HEDGE_FACTOR: f64 = 2.0;
const HEDGE_SECS: f64 = 1.0;

/// One session; a peer gets a new number whenever it has a new one, so that late messages are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// How much may be on its way.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in flight from all peers.
    pub node_bytes: u64,
    /// Bytes in flight from one peer.
    pub peer_bytes: u64,
    /// Assets above this size are asked for in parts of it.
    pub part_bytes: u64,
    /// A source that sends next to nothing for so long is given up in any case.
    pub stall: Duration,
}

/// Why content did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The source's fault: gone, broken off, no progress. Another one is tried.
    Source(String),
    /// The source sent something else than was asked for. Another one is tried, and this one has lost its place.
    WrongBytes(String),
    /// Our store's fault: the same is tried again once the store works.
    Store(String),
    /// It cannot be taken here, whoever sends it: too large for the disk, for example.
    Asset(String),
}

impl Failure {
    /// What happened, for whoever asks.
    #[must_use]
    pub fn reason(&self) -> &str {
        let (Self::Source(reason) | Self::WrongBytes(reason) | Self::Store(reason) | Self::Asset(reason)) =
            self;
        reason
    }
}

/// What became of a large content whose parts were all here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Stored.
    Stored,
    /// Not stored, and it is not the sources' fault: [`Failure::Store`] or [`Failure::Asset`].
    NotTaken(Failure),
    /// Wrong bytes, all of them from one peer: this session, unless it is over.
    WrongFrom(Option<SessionId>),
    /// Wrong bytes from one of several: these sessions, and others that are over; how much of it each one sent.
    WrongFromSeveral(Vec<(SessionId, u64)>),
    /// Not all was here after all, or it was spoilt here: once more.
    Again,
}

/// What the scheduler decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask this session for these, in one request.
    Fetch {
        /// Whom.
        session: SessionId,
        /// Number of the request, unique in this scheduler's life.
        request: u64,
        /// What.
        records: Vec<AssetRecord>,
    },
    /// Ask this session for a part of a large content, as far as it is not here.
    FetchPart {
        /// Whom.
        session: SessionId,
        /// Number of the request, from the same sequence.
        request: u64,
        /// Which content.
        hash: ContentHash,
        /// Size of the whole content.
        size: u64,
        /// The part.
        range: Range<u64>,
    },
    /// What this session was asked for under this number is not wanted of it any more.
    Revoke {
        /// Whom.
        session: SessionId,
        /// Number of the request.
        request: u64,
    },
    /// Throw away what others sent of this content, and take it from this session alone; then say
    /// [`Scheduler::restricted`].
    Restrict {
        /// Which content.
        hash: ContentHash,
        /// The only source.
        session: SessionId,
    },
    /// All parts are here: check and store it, then say [`Scheduler::committed`].
    Commit(AssetRecord),
    /// The content is stored, this newer record of it is not: apply it, then say [`Scheduler::applied`].
    Apply(AssetRecord),
    /// Tell this session that these are durable here.
    Settled {
        /// Whom.
        session: SessionId,
        /// What.
        hashes: Vec<ContentHash>,
    },
    /// Tell this session that this cannot be had from it, and from nobody else now.
    Failed {
        /// Whom.
        session: SessionId,
        /// What.
        hash: ContentHash,
        /// Why.
        reason: String,
    },
}

#[derive(Debug)]
struct Wanted {
    record: AssetRecord,
    /// `record` came after the one that is on its way into the store.
    is_newer: bool,
    /// Sessions that have it and have not failed at it.
    sources: Vec<SessionId>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// To be asked for.
    Free,
    /// Asked for as a whole, by this request.
    Asked(u64),
    /// Asked for in parts.
    Parts(Parts),
    /// The content is stored, and the newest record of it is about to be.
    Stored,
}

impl State {
    /// Of an asset of this size that nobody was asked for yet.
    fn new(size: u64, limits: &Limits) -> Self {
        if size > limits.part_bytes.max(SMALL_BYTES_MAX) {
            Self::Parts(Parts::new(size, limits.part_bytes))
        } else {
            Self::Free
        }
    }
}

/// A request on its way.
#[derive(Debug)]
struct Flight {
    session: SessionId,
    asked_at: Instant,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Whole assets that have not come yet.
    Assets(BTreeSet<ContentHash>),
    Part {
        hash: ContentHash,
        part: u64,
        charge: u64,
    },
}

/// An asset that is wanted, for the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedAsset {
    /// Its name.
    pub hash: ContentHash,
    /// Its size.
    pub size: u64,
    /// Who is asked, or the first who could be.
    pub session: Option<SessionId>,
    /// Whether it was asked for.
    pub started: bool,
}

/// How one wanted asset stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its size.
    pub size: u64,
    /// Sessions that have it.
    pub sources: Vec<SessionId>,
    /// Those of them that it was asked of.
    pub asked: Vec<SessionId>,
    /// Whether all of it is here, and it is being checked or stored.
    pub is_complete: bool,
    /// Whether nothing is asked for now because the store takes nothing.
    pub is_paused: bool,
    /// The only source, if wrong bytes came from one of several.
    pub only: Option<SessionId>,
}

/// The scheduler's state.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    wanted: HashMap<ContentHash, Wanted>,
    wanted_bytes: u64,
    // Ordered, so that equal inputs give equal decisions.
    sources: BTreeMap<SessionId, Source>,
    flights: BTreeMap<u64, Flight>,
    /// Assets that are here, and to be stored or their newest record applied.
    ready: BTreeSet<ContentHash>,
    in_flight: u64,
    paused: bool,
    next_request: u64,
    now: Instant,
}

impl Scheduler {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            wanted: HashMap::new(),
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

    /// A session has these and we want their content.
    pub fn announce(&mut self, session: SessionId, records: Vec<AssetRecord>) -> Vec<Decision> {
        let source = self.sources.entry(session).or_default();
        let mut decisions = Vec::new();
        for record in records {
            let (hash, size) = (record.hash, record.size);
            let wanted = self.wanted.entry(hash).or_insert_with(|| {
                self.wanted_bytes = self.wanted_bytes.saturating_add(size);
                let state = State::new(size, &self.limits);
                Wanted { record: record.clone(), is_newer: false, sources: Vec::new(), state }
            });
            if wanted.record.size != size {
                // Not what the other one says: this one may not be allowed to know.
                let reason = format!("it says {size} bytes, and another peer does not");
                decisions.push(Decision::Failed { session, hash, reason });
                continue;
            }
            if record.supersedes(&wanted.record) {
                wanted.record = record;
                wanted.is_newer = true;
            }
            if !wanted.sources.contains(&session) {
                wanted.sources.push(session);
            }
            if wanted.has_free_for(session) {
                source.queue(size).push_back(hash);
            }
        }
        decisions.extend(self.assign());
        decisions
    }

    /// Contents asked for from `session` are durable, or did not come.
    pub fn finished(
        &mut self,
        session: SessionId,
        results: impl IntoIterator<Item = (ContentHash, Result<(), Failure>)>,
    ) -> Vec<Decision> {
        let mut out = Vec::new();
        for (hash, result) in results {
            let Some(wanted) = self.wanted.get(&hash) else { continue };
            let State::Asked(request) = wanted.state else { continue };
            if self.flights.get(&request).is_none_or(|flight| flight.session != session) {
                continue;
            }
            self.land(request, Some(hash));
            match result {
                Ok(()) => self.stored(hash, &mut out),
                Err(failure) => self.failed(session, hash, failure, &mut out),
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
        result: Result<(), Failure>,
    ) -> Vec<Decision> {
        let mut out = Vec::new();
        let Some(Flight { session: asked, work: Work::Part { hash, part, .. }, .. }) =
            self.flights.get(&request)
        else {
            return out;
        };
        let (hash, part) = (*hash, *part);
        if *asked != session {
            return out;
        }
        self.land(request, None);
        match result {
            Ok(()) => self.part_is_here(hash, part, request, &mut out),
            Err(failure) => {
                if let Some(parts) = self.parts_mut(&hash) {
                    parts.give_back(part, request);
                }
                self.failed(session, hash, failure, &mut out);
            }
        }
        out.extend(self.assign());
        gather(out)
    }

    fn part_is_here(&mut self, hash: ContentHash, part: u64, request: u64, out: &mut Vec<Decision>) {
        let Some(parts) = self.parts_mut(&hash) else { return };
        let others = parts.done(part);
        let (len, complete) = (parts.len(part), parts.phase == Phase::Complete);
        self.wanted_bytes = self.wanted_bytes.saturating_sub(len);
        for other in others.into_iter().filter(|other| *other != request) {
            self.revoke(other, out);
        }
        if complete {
            self.ready.insert(hash);
        }
    }

    /// What others sent of a content was thrown away, as [`Decision::Restrict`] said; or that failed.
    pub fn restricted(&mut self, hash: ContentHash, result: Result<(), Failure>) -> Vec<Decision> {
        let mut out = Vec::new();
        if let Some(parts) = self.parts_mut(&hash).filter(|parts| parts.phase == Phase::Restricting) {
            parts.phase = Phase::Fetching;
            let only = parts.only;
            match result {
                Ok(()) => {}
                Err(Failure::Store(_)) => self.paused = true,
                Err(failure) => self.fail_all(hash, failure.reason(), &mut out),
            }
            if self.wanted.get(&hash).is_some_and(|w| only.is_some_and(|only| w.sources.contains(&only))) {
                self.requeue(hash);
            } else {
                // It left meanwhile.
                self.choose_only(hash, &[], &mut out);
            }
        }
        out.extend(self.assign());
        gather(out)
    }

    /// What became of [`Decision::Commit`].
    pub fn committed(&mut self, hash: ContentHash, result: Committed) -> Vec<Decision> {
        let mut out = Vec::new();
        if self.parts_mut(&hash).is_none_or(|parts| parts.phase != Phase::Committing) {
            return out;
        }
        match result {
            Committed::Stored => self.stored(hash, &mut out),
            Committed::NotTaken(failure) => {
                if let Some(parts) = self.parts_mut(&hash) {
                    parts.phase = Phase::Complete;
                }
                match failure {
                    Failure::Store(_) => {
                        self.paused = true;
                        self.ready.insert(hash);
                    }
                    Failure::Source(reason) | Failure::WrongBytes(reason) | Failure::Asset(reason) => {
                        self.fail_all(hash, &reason, &mut out);
                    }
                }
            }
            Committed::WrongFrom(liar) => {
                self.start_over(hash);
                if let Some(liar) = liar {
                    let reason = "it sent wrong bytes".to_owned();
                    self.failed(liar, hash, Failure::WrongBytes(reason), &mut out);
                }
            }
            Committed::WrongFromSeveral(givers) => {
                self.start_over(hash);
                self.choose_only(hash, &givers, &mut out);
            }
            Committed::Again => self.start_over(hash),
        }
        self.drop_if_orphan(hash, &mut out);
        out.extend(self.assign());
        gather(out)
    }

    /// What became of [`Decision::Apply`].
    pub fn applied(&mut self, hash: ContentHash, result: Result<(), Failure>) -> Vec<Decision> {
        let mut out = Vec::new();
        if let Some(wanted) =
            self.wanted.get_mut(&hash).filter(|wanted| matches!(wanted.state, State::Stored))
        {
            match result {
                Ok(()) => self.stored(hash, &mut out),
                Err(Failure::Store(_)) => {
                    self.paused = true;
                    self.ready.insert(hash);
                }
                Err(Failure::Source(_)) => {
                    // The content went away again.
                    wanted.state = State::new(wanted.record.size, &self.limits);
                    self.wanted_bytes = self.wanted_bytes.saturating_add(wanted.record.size);
                    self.requeue(hash);
                }
                Err(failure) => self.fail_all(hash, failure.reason(), &mut out),
            }
        }
        self.drop_if_orphan(hash, &mut out);
        out.extend(self.assign());
        gather(out)
    }

    /// These are durable here in their newest version by another way, such as inside an offer.
    pub fn arrived(&mut self, records: &[AssetRecord]) -> Vec<Decision> {
        let mut out = Vec::new();
        for record in records {
            let Some(wanted) = self.wanted.get_mut(&record.hash) else { continue };
            let busy = match &wanted.state {
                State::Parts(parts) => parts.phase == Phase::Committing,
                State::Stored => true,
                State::Free | State::Asked(_) => false,
            };
            if !busy {
                wanted.is_newer = wanted.record.supersedes(record);
                let requests = wanted.requests();
                for request in requests {
                    self.take_back(request, record.hash, &mut out);
                }
                self.stored(record.hash, &mut out);
            }
        }
        out.extend(self.assign());
        gather(out)
    }

    /// A version of the asset is durable.
    fn stored(&mut self, hash: ContentHash, out: &mut Vec<Decision>) {
        let Some(wanted) = self.wanted.get_mut(&hash) else { return };
        if wanted.is_newer {
            self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted.open_bytes());
            wanted.state = State::Stored;
            self.ready.insert(hash);
            return;
        }
        let sources = std::mem::take(&mut wanted.sources);
        self.forget(&hash, out);
        out.extend(sources.into_iter().map(|session| Decision::Settled { session, hashes: vec![hash] }));
    }

    /// A source did not give what it was asked for.
    fn failed(&mut self, session: SessionId, hash: ContentHash, failure: Failure, out: &mut Vec<Decision>) {
        match failure {
            Failure::Source(reason) | Failure::WrongBytes(reason) => {
                let Some(wanted) = self.wanted.get_mut(&hash) else { return };
                if !wanted.sources.contains(&session) {
                    return;
                }
                wanted.sources.retain(|source| *source != session);
                let theirs = self.requests_of(session, &hash);
                for request in theirs {
                    self.take_back(request, hash, out);
                }
                out.push(Decision::Failed { session, hash, reason });
                self.source_lost(session, hash, out);
            }
            Failure::Asset(reason) => self.fail_all(hash, &reason, out),
            Failure::Store(_) => {
                self.paused = true;
                if let Some(wanted) = self.wanted.get_mut(&hash)
                    && let State::Asked(_) = wanted.state
                {
                    wanted.state = State::Free;
                }
                self.requeue(hash);
            }
        }
    }

    /// An asset has one source less.
    fn source_lost(&mut self, session: SessionId, hash: ContentHash, out: &mut Vec<Decision>) {
        let Some(wanted) = self.wanted.get_mut(&hash) else { return };
        if let State::Asked(request) = wanted.state
            && !self.flights.contains_key(&request)
        {
            wanted.state = State::Free;
        }
        let was_only = matches!(&wanted.state, State::Parts(parts) if parts.only == Some(session));
        if was_only {
            self.choose_only(hash, &[], out);
        }
        self.drop_if_orphan(hash, out);
        self.requeue(hash);
    }

    fn fail_all(&mut self, hash: ContentHash, reason: &str, out: &mut Vec<Decision>) {
        let Some(wanted) = self.wanted.get_mut(&hash) else { return };
        let sources = std::mem::take(&mut wanted.sources);
        self.forget(&hash, out);
        let failed = |session| Decision::Failed { session, hash, reason: reason.to_owned() };
        out.extend(sources.into_iter().map(failed));
    }

    /// All parts are wanted once more; those that are here after all cost nothing.
    fn start_over(&mut self, hash: ContentHash) {
        if let Some(parts) = self.parts_mut(&hash) {
            let done = parts.start_over();
            self.wanted_bytes = self.wanted_bytes.saturating_add(done);
            self.requeue(hash);
        }
    }

    /// From now on one source alone gives a content: the one that is expected to be done first, given what each has
    /// sent already.
    #[expect(clippy::cast_precision_loss, reason = "times are for comparing")]
    fn choose_only(&mut self, hash: ContentHash, givers: &[(SessionId, u64)], out: &mut Vec<Decision>) {
        let Some(wanted) = self.wanted.get(&hash) else { return };
        let size = wanted.record.size;
        let secs = |session: SessionId| {
            let given = givers.iter().find(|giver| giver.0 == session).map_or(0, |giver| giver.1);
            let left = size.saturating_sub(given) as f64;
            let rate = self.sources.get(&session).map_or(0.0, |source| source.rate);
            // Of those whose speed is not known, who sent the most.
            if rate > 0.0 { left / rate } else { 1e12 + left }
        };
        let first = wanted.sources.iter().copied().min_by(|a, b| secs(*a).total_cmp(&secs(*b)));
        let requests = wanted.requests();
        let Some(only) = first else { return };
        for request in requests {
            self.take_back(request, hash, out);
        }
        self.start_over(hash);
        let Some(parts) = self.parts_mut(&hash) else { return };
        parts.only = Some(only);
        parts.phase = Phase::Restricting;
        out.push(Decision::Restrict { hash, session: only });
    }

    /// A session is over: what it was asked for is asked of others; what only it had is forgotten until it is offered
    /// again.
    pub fn session_ended(&mut self, session: SessionId) -> Vec<Decision> {
        if !self.sources.contains_key(&session) {
            return Vec::new();
        }
        let mut out = Vec::new();
        let flights: Vec<u64> =
            self.flights.iter().filter(|(_, flight)| flight.session == session).map(|(n, _)| *n).collect();
        for request in flights {
            self.revoke(request, &mut out);
        }
        // Whoever ended needs not be told.
        out.clear();
        self.sources.remove(&session);
        let mut theirs: Vec<ContentHash> = self
            .wanted
            .iter_mut()
            .filter(|(_, wanted)| wanted.sources.contains(&session))
            .map(|(hash, wanted)| {
                wanted.sources.retain(|source| *source != session);
                *hash
            })
            .collect();
        theirs.sort_unstable();
        for hash in theirs {
            self.source_lost(session, hash, &mut out);
        }
        out.extend(self.assign());
        gather(out)
    }

    /// Time passed, about a second of it, and this is what came meanwhile: looks for sources that are too slow.
    pub fn tick(
        &mut self,
        now: Instant,
        progress: impl IntoIterator<Item = (SessionId, Progress)>,
    ) -> Vec<Decision> {
        self.now = now;
        let mut out = Vec::new();
        for (session, progress) in progress {
            let stall = self.limits.stall;
            let Some(source) = self.sources.get_mut(&session) else { continue };
            match source.note(progress, now, stall) {
                Judgement::Fine => {}
                Judgement::Silent => self.take_from(session, None, &mut out),
                Judgement::Hopeless(came) => self.take_from(session, Some(came), &mut out),
            }
        }
        out.extend(self.assign());
        gather(out)
    }

    /// Takes back what a source is too slow for: what others have, or, if so little `came` that it never ends,
    /// everything.
    fn take_from(&mut self, session: SessionId, came: Option<u64>, out: &mut Vec<Decision>) {
        let theirs = self.flights.iter().filter(|(_, flight)| flight.session == session);
        let theirs: Vec<(u64, Vec<ContentHash>)> =
            theirs.map(|(request, flight)| (*request, flight.hashes())).collect();
        let mut took = false;
        for (request, hashes) in theirs {
            let others_have = |hash: &ContentHash| {
                let sources = self.wanted.get(hash).map(|wanted| wanted.sources.iter());
                sources.into_iter().flatten().any(|other| {
                    *other != session && self.sources.get(other).is_some_and(|other| !other.rests(self.now))
                })
            };
            let (shared, alone): (Vec<ContentHash>, Vec<ContentHash>) =
                hashes.into_iter().partition(|hash| others_have(hash));
            if came.is_none() && !alone.is_empty() {
                continue;
            }
            took = true;
            self.revoke(request, out);
            for hash in shared {
                self.requeue(hash);
            }
            let came = came.unwrap_or(0);
            let reason = format!("no progress: {came} bytes in {} s or more", JUDGED_AFTER.as_secs());
            for hash in alone {
                self.failed(session, hash, Failure::Source(reason.clone()), out);
            }
        }
        if took && let Some(source) = self.sources.get_mut(&session) {
            source.rest(self.now);
        }
    }

    /// Whether parts of large contents are on their way, and the speed of sources matters.
    #[must_use]
    pub fn compares_speeds(&self) -> bool {
        self.flights.values().any(|flight| matches!(flight.work, Work::Part { .. }))
    }

    /// Nothing is asked for until [`Scheduler::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// The store works again.
    pub fn resume(&mut self) -> Vec<Decision> {
        self.paused = false;
        self.assign()
    }

    /// Assets wanted, and how many of their bytes are missing, to a part.
    #[must_use]
    pub fn missing(&self) -> (u64, u64) {
        (self.wanted.len() as u64, self.wanted_bytes)
    }

    /// Whether an asset is wanted or being stored.
    #[must_use]
    pub fn wants(&self, hash: &ContentHash) -> bool {
        self.wanted.contains_key(hash)
    }

    /// Up to `limit` wanted assets, those on their way first.
    #[must_use]
    pub fn report(&self, limit: usize) -> Vec<WantedAsset> {
        let of = |started: bool| {
            self.wanted.values().filter(move |w| w.is_started() == started).map(move |w| WantedAsset {
                hash: w.record.hash,
                size: w.record.size,
                session: self.asked(w).next().or_else(|| w.sources.first().copied()),
                started,
            })
        };
        of(true).chain(of(false)).take(limit).collect()
    }

    /// How an asset stands, if it is wanted.
    #[must_use]
    pub fn standing(&self, hash: &ContentHash) -> Option<Standing> {
        let wanted = self.wanted.get(hash)?;
        let asked: BTreeSet<SessionId> = self.asked(wanted).collect();
        let (is_complete, only) = match &wanted.state {
            State::Free | State::Asked(_) => (false, None),
            State::Parts(parts) => (matches!(parts.phase, Phase::Complete | Phase::Committing), parts.only),
            State::Stored => (true, None),
        };
        Some(Standing {
            size: wanted.record.size,
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

    fn parts_mut(&mut self, hash: &ContentHash) -> Option<&mut Parts> {
        match &mut self.wanted.get_mut(hash)?.state {
            State::Parts(parts) => Some(parts),
            State::Free | State::Asked(_) | State::Stored => None,
        }
    }

    fn requests_of(&self, session: SessionId, hash: &ContentHash) -> Vec<u64> {
        let requests = self.wanted.get(hash).map(Wanted::requests).unwrap_or_default();
        let theirs =
            |request: &u64| self.flights.get(request).is_some_and(|flight| flight.session == session);
        requests.into_iter().filter(theirs).collect()
    }

    /// An asset without a source is forgotten, unless it is being stored.
    fn drop_if_orphan(&mut self, hash: ContentHash, out: &mut Vec<Decision>) {
        let Some(wanted) = self.wanted.get(&hash).filter(|wanted| wanted.sources.is_empty()) else { return };
        let storing = match &wanted.state {
            State::Parts(parts) => matches!(parts.phase, Phase::Complete | Phase::Committing),
            State::Stored => true,
            State::Free | State::Asked(_) => false,
        };
        if !storing {
            self.forget(&hash, out);
        }
    }

    fn forget(&mut self, hash: &ContentHash, out: &mut Vec<Decision>) {
        let requests = self.wanted.get(hash).map(Wanted::requests).unwrap_or_default();
        for request in requests {
            self.take_back(request, *hash, out);
        }
        self.ready.remove(hash);
        if let Some(wanted) = self.wanted.remove(hash) {
            self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted.open_bytes());
        }
    }

    /// An asset, or all that is left, of a request came or is not expected any more.
    fn land(&mut self, request: u64, hash: Option<ContentHash>) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        let session = flight.session;
        let (charge, large, over) = match (&mut flight.work, hash) {
            (Work::Assets(assets), Some(hash)) => {
                if !assets.remove(&hash) {
                    return;
                }
                let size = self.wanted.get(&hash).map_or(0, |wanted| wanted.record.size);
                (charge(size), size > SMALL_BYTES_MAX, assets.is_empty())
            }
            (Work::Part { charge, .. }, _) => (*charge, true, true),
            (Work::Assets(_), None) => return,
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
    fn take_back(&mut self, request: u64, hash: ContentHash, out: &mut Vec<Decision>) {
        let Some(flight) = self.flights.get(&request) else { return };
        let session = flight.session;
        if let Work::Part { hash, part, .. } = flight.work
            && let Some(parts) = self.parts_mut(&hash)
        {
            parts.give_back(part, request);
        }
        self.land(request, Some(hash));
        if let Some(wanted) = self.wanted.get_mut(&hash)
            && let State::Asked(_) = wanted.state
        {
            wanted.state = State::Free;
        }
        if !self.flights.contains_key(&request) {
            out.push(Decision::Revoke { session, request });
        }
    }

    fn revoke(&mut self, request: u64, out: &mut Vec<Decision>) {
        let hashes = self.flights.get(&request).map(Flight::hashes).unwrap_or_default();
        for hash in hashes {
            self.take_back(request, hash, out);
        }
    }

    /// Puts an asset at the head of its sources' queues, if there is something to ask for.
    fn requeue(&mut self, hash: ContentHash) {
        let Some(wanted) = self.wanted.get(&hash) else { return };
        for session in &wanted.sources {
            if wanted.has_free_for(*session)
                && let Some(source) = self.sources.get_mut(session)
            {
                let queue = source.queue(wanted.record.size);
                if queue.front() != Some(&hash) {
                    queue.push_front(hash);
                }
            }
        }
    }

    /// Gives every source with room something to do, and the store what is complete.
    fn assign(&mut self) -> Vec<Decision> {
        let mut decisions = Vec::new();
        if self.paused {
            return decisions;
        }
        while let Some(hash) = self.ready.pop_first() {
            let Some(wanted) = self.wanted.get_mut(&hash) else { continue };
            wanted.is_newer = false;
            decisions.push(match &mut wanted.state {
                State::Parts(parts) => {
                    parts.phase = Phase::Committing;
                    Decision::Commit(wanted.record.clone())
                }
                State::Stored => Decision::Apply(wanted.record.clone()),
                State::Free | State::Asked(_) => continue,
            });
        }
        let sessions: Vec<SessionId> = self.sources.keys().copied().collect();
        // A round gives each source one request; rounds go on while somebody got one.
        let mut progress = true;
        while progress {
            progress = false;
            for session in &sessions {
                if let Some(decision) = self.next_request_for(*session) {
                    progress = true;
                    decisions.push(decision);
                }
            }
        }
        decisions
    }

    fn next_request_for(&mut self, session: SessionId) -> Option<Decision> {
        if self.sources.get(&session)?.rests(self.now) {
            return None;
        }
        self.next_pack_for(session)
            .or_else(|| self.next_large_for(session))
            .or_else(|| self.next_hedge_for(session))
    }

    fn next_pack_for(&mut self, session: SessionId) -> Option<Decision> {
        let request = self.next_request;
        let source = self.sources.get_mut(&session)?;
        let mut pack = Vec::new();
        let mut pack_bytes = 0;
        while pack.len() < PACK_ASSETS && pack_bytes < PACK_BYTES {
            let Some(hash) = source.small.front().copied() else { break };
            let Some(wanted) = self.wanted.get_mut(&hash).filter(|w| w.has_free_for(session)) else {
                source.small.pop_front();
                continue;
            };
            let cost = charge(wanted.record.size);
            if !source.has_room(&self.limits, self.in_flight, cost, false) {
                break;
            }
            source.small.pop_front();
            self.in_flight += cost;
            source.bytes += cost;
            pack_bytes += wanted.record.size;
            wanted.state = State::Asked(request);
            wanted.is_newer = false;
            pack.push(wanted.record.clone());
        }
        (!pack.is_empty()).then(|| self.fetch(session, pack, false))
    }

    fn next_large_for(&mut self, session: SessionId) -> Option<Decision> {
        let source = self.sources.get_mut(&session)?;
        loop {
            let hash = source.large.front().copied()?;
            let Some(wanted) = self.wanted.get_mut(&hash).filter(|w| w.has_free_for(session)) else {
                source.large.pop_front();
                continue;
            };
            let cost = charge(wanted.record.size.min(self.limits.part_bytes));
            if !source.has_room(&self.limits, self.in_flight, cost, true) {
                return None;
            }
            if let State::Parts(parts) = &mut wanted.state {
                let part = parts.take(self.next_request)?;
                return self.fetch_part(session, hash, part);
            }
            source.large.pop_front();
            self.in_flight += cost;
            source.bytes += cost;
            wanted.state = State::Asked(self.next_request);
            wanted.is_newer = false;
            let record = wanted.record.clone();
            return Some(self.fetch(session, vec![record], true));
        }
    }

    /// A part that another source is expected to take much longer over than this one, which has nothing else to do.
    fn next_hedge_for(&mut self, session: SessionId) -> Option<Decision> {
        let mine = self.sources.get(&session)?;
        let expected = |flight: &Flight, len: u64| {
            let age = self.now.duration_since(flight.asked_at).as_secs_f64();
            let theirs = self.sources.get(&flight.session)?;
            Some(theirs.secs_for(len, 0).map_or(f64::INFINITY, |all| (all - age).max(0.0)).min(1e9))
                .filter(|_| theirs.rate > 0.0 || age > HEDGE_SECS)
        };
        let slowest = self.flights.values().filter_map(|flight| {
            let Work::Part { hash, part, charge } = flight.work else { return None };
            let wanted = self.wanted.get(&hash)?;
            let State::Parts(parts) = &wanted.state else { return None };
            let eligible = flight.session != session
                && wanted.sources.contains(&session)
                && parts.admits(session)
                && parts.flies_alone(part)
                && mine.has_room(&self.limits, self.in_flight, charge, true);
            let secs = expected(flight, parts.len(part)).filter(|_| eligible)?;
            let better = match mine.secs_for(parts.len(part), 1) {
                Some(mine) => mine * HEDGE_FACTOR + HEDGE_SECS < secs,
                // One try shows how fast it is.
                None => mine.large_requests == 0 && HEDGE_FACTOR * HEDGE_SECS < secs,
            };
            better.then_some((secs, hash, part))
        });
        let (_, hash, part) = slowest.max_by(|a, b| a.0.total_cmp(&b.0))?;
        let request = self.next_request;
        self.parts_mut(&hash)?.hedge(part, request);
        self.fetch_part(session, hash, part)
    }

    fn fetch(&mut self, session: SessionId, records: Vec<AssetRecord>, large: bool) -> Decision {
        let work = Work::Assets(records.iter().map(|record| record.hash).collect());
        let request = self.take_off(session, work, large);
        Decision::Fetch { session, request, records }
    }

    fn fetch_part(&mut self, session: SessionId, hash: ContentHash, part: u64) -> Option<Decision> {
        let wanted = self.wanted.get(&hash)?;
        let State::Parts(parts) = &wanted.state else { return None };
        let (size, range) = (wanted.record.size, parts.range(part));
        let charge = charge(size.min(self.limits.part_bytes));
        self.in_flight += charge;
        self.sources.get_mut(&session)?.bytes += charge;
        let request = self.take_off(session, Work::Part { hash, part, charge }, true);
        Some(Decision::FetchPart { session, request, hash, size, range })
    }

    fn take_off(&mut self, session: SessionId, work: Work, large: bool) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        if let Some(source) = self.sources.get_mut(&session) {
            source.requests += 1;
            source.large_requests += usize::from(large);
        }
        self.flights.insert(request, Flight { session, asked_at: self.now, work });
        request
    }
}

impl Wanted {
    /// Whether there is something that `session` could be asked for and nobody was.
    fn has_free_for(&self, session: SessionId) -> bool {
        self.sources.contains(&session)
            && match &self.state {
                State::Free => true,
                State::Asked(_) | State::Stored => false,
                State::Parts(parts) => parts.admits(session) && parts.has_free(),
            }
    }

    fn is_started(&self) -> bool {
        match &self.state {
            State::Free => false,
            State::Asked(_) | State::Stored => true,
            State::Parts(parts) => parts.first_request().is_some() || parts.phase != Phase::Fetching,
        }
    }

    fn requests(&self) -> Vec<u64> {
        match &self.state {
            State::Free | State::Stored => Vec::new(),
            State::Asked(request) => vec![*request],
            State::Parts(parts) => parts.requests(),
        }
    }

    fn open_bytes(&self) -> u64 {
        match &self.state {
            State::Parts(parts) => self.record.size - parts.done_bytes(),
            State::Free | State::Asked(_) => self.record.size,
            State::Stored => 0,
        }
    }
}

impl Flight {
    fn hashes(&self) -> Vec<ContentHash> {
        match &self.work {
            Work::Assets(assets) => assets.iter().copied().collect(),
            Work::Part { hash, .. } => vec![*hash],
        }
    }
}

fn charge(size: u64) -> u64 {
    if size <= SMALL_BYTES_MAX { size + SMALL_OVERHEAD } else { LARGE_CHARGE.min(size) }
}

/// One `Settled` for each session, in front of what was decided after it.
fn gather(decisions: Vec<Decision>) -> Vec<Decision> {
    let mut settled: BTreeMap<SessionId, Vec<ContentHash>> = BTreeMap::new();
    let mut others = Vec::with_capacity(decisions.len());
    for decision in decisions {
        if let Decision::Settled { session, hashes } = decision {
            settled.entry(session).or_default().extend(hashes);
        } else {
            others.push(decision);
        }
    }
    let settled = settled.into_iter().map(|(session, hashes)| Decision::Settled { session, hashes });
    settled.chain(others).collect()
}
