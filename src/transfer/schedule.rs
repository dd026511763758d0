//! Which source is asked for which content, and when. Pure.
//!
//! Every asset that some peer has and we want is here once, with all sessions that offered it; exactly one of them is
//! asked at a time, so a mesh does not fetch twice. Sources draw from their own queues as they have room, which spreads
//! assets over them by their speed. Small assets are asked for in packs, large ones one by one with a share of the
//! room kept for small ones. A failure is the source's (another is tried) or the store's (everything pauses).

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::record::{AssetRecord, ContentHash};

/// Assets up to this size travel in packs and are held in memory; larger ones stream into files.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// Content asked for in one pack.
const PACK_BYTES: u64 = 2 * 1024 * 1024;
/// Assets in one pack.
const PACK_ASSETS: usize = 512;
/// Large assets on their way from one peer: half of the 16 transfers that it may have.
const LARGE_PER_PEER: usize = 8;
/// What a large asset counts for while it streams: the stream's window, for that is all of it in memory.
const LARGE_CHARGE: u64 = 1_250_000;
/// What a small asset counts for beyond its content.
const SMALL_OVERHEAD: u64 = 512;

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
    /// Sessions that have it and have not failed at it.
    sources: Vec<SessionId>,
    fetching: Option<SessionId>,
}

#[derive(Debug, Default)]
struct Source {
    small: VecDeque<ContentHash>,
    large: VecDeque<ContentHash>,
    bytes: u64,
    large_count: usize,
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

/// The scheduler's state.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    wanted: HashMap<ContentHash, Wanted>,
    wanted_bytes: u64,
    // Ordered, so that equal inputs give equal decisions.
    sources: BTreeMap<SessionId, Source>,
    in_flight: u64,
    paused: bool,
    next_request: u64,
}

impl Scheduler {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            wanted: HashMap::new(),
            wanted_bytes: 0,
            sources: BTreeMap::new(),
            in_flight: 0,
            paused: false,
            next_request: 1,
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
                Wanted { record: record.clone(), sources: Vec::new(), fetching: None }
            });
            if wanted.record.size != size {
                let reason = format!("it says {size} bytes where another peer says {}", wanted.record.size);
                decisions.push(Decision::Failed { session, hash, reason });
                continue;
            }
            if record.supersedes(&wanted.record) {
                wanted.record = record;
            }
            if !wanted.sources.contains(&session) {
                wanted.sources.push(session);
            }
            if wanted.fetching.is_none() {
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
        let mut decisions = Vec::new();
        let mut settled: BTreeMap<SessionId, Vec<ContentHash>> = BTreeMap::new();
        for (hash, result) in results {
            for decision in self.conclude(session, hash, result) {
                match decision {
                    Decision::Settled { session, hashes } => {
                        settled.entry(session).or_default().extend(hashes);
                    }
                    Decision::Fetch { .. } | Decision::Failed { .. } => decisions.push(decision),
                }
            }
        }
        decisions.extend(settled.into_iter().map(|(session, hashes)| Decision::Settled { session, hashes }));
        decisions.extend(self.assign());
        decisions
    }

    fn conclude(
        &mut self,
        session: SessionId,
        hash: ContentHash,
        result: Result<(), Failure>,
    ) -> Vec<Decision> {
        let Some(wanted) = self.wanted.get_mut(&hash) else { return Vec::new() };
        if wanted.fetching != Some(session) {
            return Vec::new();
        }
        wanted.fetching = None;
        let size = wanted.record.size;
        self.in_flight -= charge(size);
        if let Some(source) = self.sources.get_mut(&session) {
            source.release(size);
        }
        match result {
            Ok(()) => {
                let sources = std::mem::take(&mut wanted.sources);
                self.forget(&hash);
                sources.into_iter().map(|session| Decision::Settled { session, hashes: vec![hash] }).collect()
            }
            Err(Failure::Source(reason) | Failure::WrongBytes(reason)) => {
                wanted.sources.retain(|s| *s != session);
                if wanted.sources.is_empty() {
                    self.forget(&hash);
                } else {
                    self.requeue(hash);
                }
                vec![Decision::Failed { session, hash, reason }]
            }
            Err(Failure::Asset(reason)) => {
                let sources = std::mem::take(&mut wanted.sources);
                self.forget(&hash);
                sources
                    .into_iter()
                    .map(|session| Decision::Failed { session, hash, reason: reason.clone() })
                    .collect()
            }
            Err(Failure::Store(_)) => {
                self.paused = true;
                self.requeue(hash);
                Vec::new()
            }
        }
    }

    /// A session is over: what it was asked for is asked of others; what only it had is forgotten until it is offered
    /// again.
    pub fn session_ended(&mut self, session: SessionId) -> Vec<Decision> {
        let Some(gone) = self.sources.remove(&session) else { return Vec::new() };
        self.in_flight -= gone.bytes;
        let mut orphans = Vec::new();
        let mut again = Vec::new();
        for (hash, wanted) in &mut self.wanted {
            let fetching = wanted.fetching == Some(session);
            if fetching {
                wanted.fetching = None;
            }
            wanted.sources.retain(|s| *s != session);
            if wanted.sources.is_empty() {
                orphans.push(*hash);
            } else if fetching {
                again.push(*hash);
            }
        }
        for hash in orphans {
            self.forget(&hash);
        }
        again.sort_unstable();
        for hash in again {
            self.requeue(hash);
        }
        self.assign()
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

    /// Assets wanted, and their bytes.
    #[must_use]
    pub fn missing(&self) -> (u64, u64) {
        (self.wanted.len() as u64, self.wanted_bytes)
    }

    /// Up to `limit` wanted assets, those on their way first.
    #[must_use]
    pub fn report(&self, limit: usize) -> Vec<WantedAsset> {
        let of = |started: bool| {
            self.wanted.values().filter(move |w| w.fetching.is_some() == started).map(move |w| WantedAsset {
                hash: w.record.hash,
                size: w.record.size,
                session: w.fetching.or_else(|| w.sources.first().copied()),
                started,
            })
        };
        of(true).chain(of(false)).take(limit).collect()
    }

    fn forget(&mut self, hash: &ContentHash) {
        if let Some(wanted) = self.wanted.remove(hash) {
            self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted.record.size);
        }
    }

    /// Puts an asset at the head of its sources' queues.
    fn requeue(&mut self, hash: ContentHash) {
        let Some(wanted) = self.wanted.get(&hash) else { return };
        for session in &wanted.sources {
            if let Some(source) = self.sources.get_mut(session) {
                source.queue(wanted.record.size).push_front(hash);
            }
        }
    }

    /// Gives every source with room something to do.
    fn assign(&mut self) -> Vec<Decision> {
        let mut decisions = Vec::new();
        if self.paused {
            return decisions;
        }
        let sessions: Vec<SessionId> = self.sources.keys().copied().collect();
        // A round gives each source one request; rounds go on while somebody got one.
        let mut progress = true;
        while progress {
            progress = false;
            for session in &sessions {
                if let Some(records) = self.next_request_for(*session) {
                    progress = true;
                    let request = self.next_request;
                    self.next_request += 1;
                    decisions.push(Decision::Fetch { session: *session, request, records });
                }
            }
        }
        decisions
    }

    fn next_request_for(&mut self, session: SessionId) -> Option<Vec<AssetRecord>> {
        let source = self.sources.get_mut(&session)?;
        let mut pack = Vec::new();
        let mut pack_bytes = 0;
        while pack.len() < PACK_ASSETS && pack_bytes < PACK_BYTES {
            let Some(hash) = source.small.front().copied() else { break };
            let Some(wanted) = self.wanted.get_mut(&hash).filter(|w| w.is_free_for(session)) else {
                source.small.pop_front();
                continue;
            };
            let cost = charge(wanted.record.size);
            if !has_room(&self.limits, self.in_flight, source.bytes, cost) {
                break;
            }
            source.small.pop_front();
            self.in_flight += cost;
            source.bytes += cost;
            pack_bytes += wanted.record.size;
            wanted.fetching = Some(session);
            pack.push(wanted.record.clone());
        }
        if !pack.is_empty() {
            return Some(pack);
        }
        while source.large_count < LARGE_PER_PEER {
            let hash = source.large.front().copied()?;
            let Some(wanted) = self.wanted.get_mut(&hash).filter(|w| w.is_free_for(session)) else {
                source.large.pop_front();
                continue;
            };
            let cost = charge(wanted.record.size);
            if !has_room(&self.limits, self.in_flight, source.bytes, cost) {
                return None;
            }
            source.large.pop_front();
            self.in_flight += cost;
            source.bytes += cost;
            source.large_count += 1;
            wanted.fetching = Some(session);
            return Some(vec![wanted.record.clone()]);
        }
        None
    }
}

impl Wanted {
    fn is_free_for(&self, session: SessionId) -> bool {
        self.fetching.is_none() && self.sources.contains(&session)
    }
}

impl Source {
    fn queue(&mut self, size: u64) -> &mut VecDeque<ContentHash> {
        if size <= SMALL_BYTES_MAX { &mut self.small } else { &mut self.large }
    }

    fn release(&mut self, size: u64) {
        self.bytes -= charge(size);
        if size > SMALL_BYTES_MAX {
            self.large_count -= 1;
        }
    }
}

fn charge(size: u64) -> u64 {
    if size <= SMALL_BYTES_MAX { size + SMALL_OVERHEAD } else { LARGE_CHARGE.min(size) }
}

/// Room for `cost` more; an idle source gets its first one under any limit, so that nothing can be stuck.
fn has_room(limits: &Limits, in_flight: u64, source_bytes: u64, cost: u64) -> bool {
    source_bytes == 0 || (in_flight + cost <= limits.node_bytes && source_bytes + cost <= limits.peer_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::AssetMeta;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn record(n: u32, size: u64) -> AssetRecord {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        AssetRecord::new(ContentHash(hash), size, None, AssetMeta::default())
    }

    fn scheduler() -> Scheduler {
        Scheduler::new(Limits { node_bytes: 64 << 20, peer_bytes: 8 << 20 })
    }

    fn fetched(decisions: &[Decision]) -> Vec<(SessionId, ContentHash)> {
        decisions
            .iter()
            .filter_map(|d| match d {
                Decision::Fetch { session, records, .. } => Some((*session, records)),
                Decision::Settled { .. } | Decision::Failed { .. } => None,
            })
            .flat_map(|(session, records)| records.iter().map(move |r| (session, r.hash)))
            .collect()
    }

    #[test]
    fn one_source_is_asked_and_all_are_told() {
        let mut s = scheduler();
        let r = record(1, 10);
        assert_eq!(fetched(&s.announce(A, vec![r.clone()])), [(A, r.hash)]);
        assert_eq!(s.announce(B, vec![r.clone()]), [], "already on its way");
        let told = s.finished(A, [(r.hash, Ok(()))]);
        assert_eq!(
            told,
            [A, B].map(|session| Decision::Settled { session, hashes: vec![r.hash] }),
            "both may confirm"
        );
        assert_eq!(s.missing(), (0, 0));
    }

    #[test]
    fn another_source_is_asked_when_one_fails_or_leaves() {
        let mut s = scheduler();
        let r = record(1, 10);
        s.announce(A, vec![r.clone()]);
        s.announce(B, vec![r.clone()]);
        let decisions = s.finished(A, [(r.hash, Err(Failure::Source("wrong bytes".into())))]);
        assert!(matches!(&decisions[0], Decision::Failed { session: A, .. }));
        assert_eq!(fetched(&decisions), [(B, r.hash)]);
        s.announce(A, vec![r.clone()]);
        assert_eq!(fetched(&s.session_ended(B)), [(A, r.hash)]);
        assert_eq!(s.session_ended(A), []);
        assert_eq!(s.missing(), (0, 0), "nobody has it any more");
    }

    #[test]
    fn a_failing_store_pauses_everything_and_loses_nothing() {
        let mut s = scheduler();
        let (r, other) = (record(1, 10), record(2, 10));
        s.announce(A, vec![r.clone()]);
        assert_eq!(s.finished(A, [(r.hash, Err(Failure::Store("disk full".into())))]), []);
        assert_eq!(s.announce(A, vec![other.clone()]), []);
        let all = fetched(&s.resume());
        assert_eq!(all, [(A, r.hash), (A, other.hash)]);
    }

    #[test]
    fn small_assets_travel_in_packs_past_large_ones() {
        let mut s = scheduler();
        let large: Vec<_> = (0..100).map(|n| record(n, 1 << 30)).collect();
        let first = s.announce(A, large);
        assert!(fetched(&first).len() <= LARGE_PER_PEER);
        let small: Vec<_> = (1000..1100).map(|n| record(n, 100)).collect();
        let packs = s.announce(A, small);
        assert_eq!(packs.len(), 1, "one request");
        assert_eq!(fetched(&packs).len(), 100);
    }

    #[test]
    fn sources_that_disagree_about_a_size_are_told_apart() {
        let mut s = scheduler();
        s.announce(A, vec![record(1, 10)]);
        let told = s.announce(B, vec![record(1, 1 << 30)]);
        assert!(matches!(&told[..], [Decision::Failed { session: B, .. }]));
        assert_eq!(s.missing(), (1, 10));
    }

    #[test]
    fn late_news_of_an_ended_session_is_ignored() {
        let mut s = scheduler();
        let r = record(1, 10);
        s.announce(A, vec![r.clone()]);
        s.session_ended(A);
        s.announce(B, vec![r.clone()]);
        assert_eq!(s.finished(A, [(r.hash, Ok(()))]), []);
        assert_eq!(s.missing(), (1, 10));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Announce(u64, u32, u64),
        Finish(usize, u8),
        End(u64),
        Resume,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..4u64, 0..40u32, prop_oneof![0..100u64, 60_000..70_000u64, 5_000_000..6_000_000u64])
                .prop_map(|(s, n, size)| Step::Announce(s, n, size)),
            4 => (any::<usize>(), 0..4u8).prop_map(|(i, how)| Step::Finish(i, how)),
            1 => (1..4u64).prop_map(Step::End),
            1 => Just(Step::Resume),
        ]
    }

    proptest! {
        /// Whatever happens: never two sources for one asset, limits hold, and once everything that is asked for
        /// arrives, nothing is missing and nothing is charged.
        #[test]
        fn nothing_is_fetched_twice_or_forgotten(steps in prop::collection::vec(step(), 0..200)) {
            let limits = Limits { node_bytes: 4 << 20, peer_bytes: 2 << 20 };
            let mut s = Scheduler::new(limits);
            let mut flying: Vec<(SessionId, ContentHash)> = Vec::new();
            for step in steps {
                let decisions = match step {
                    Step::Announce(session, n, size) => {
                        s.announce(SessionId(session), vec![record(n, size)])
                    }
                    Step::Finish(i, how) if !flying.is_empty() => {
                        let (session, hash) = flying.remove(i % flying.len());
                        s.finished(session, [(hash, match how {
                            0 => Err(Failure::Source("x".into())),
                            1 => Err(Failure::Store("x".into())),
                            _ => Ok(()),
                        })])
                    }
                    Step::Finish(..) => continue,
                    Step::End(session) => {
                        flying.retain(|(s, _)| *s != SessionId(session));
                        s.session_ended(SessionId(session))
                    }
                    Step::Resume => s.resume(),
                };
                for (session, hash) in fetched(&decisions) {
                    prop_assert!(flying.iter().all(|(_, h)| *h != hash), "fetched twice");
                    flying.push((session, hash));
                }
                prop_assert!(s.in_flight <= limits.node_bytes + 3 * LARGE_CHARGE);
            }
            let mut decisions = s.resume();
            for _ in 0..10_000 {
                flying.extend(fetched(&decisions));
                let Some((session, hash)) = flying.pop() else { break };
                decisions = s.finished(session, [(hash, Ok(()))]);
            }
            prop_assert_eq!(s.missing(), (0, 0));
            prop_assert_eq!(s.in_flight, 0);
        }
    }
}
