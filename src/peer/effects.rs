//! The tasks that perform a session's effects and report their outcomes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::Connection;
use ractor::ActorRef;
use tokio::time::{Instant, sleep, timeout};

use super::messages::{PeerMsg, PeersMsg};
use super::reconciliation;
use super::session::{Input, Verdict, judge_for, judge_holding};
use crate::actor::ServiceRef;
use crate::clock::now_ms;
use crate::events::{EventLog, NodeEvent};
use crate::library::Library;
use crate::reconcile::tree::Snapshot;
use crate::record::{AssetRecord, ContentHash, LibraryId, WriterId};
use crate::store::{IncomingAsset, IncomingContent, Outcome, StoreError, StoreRef, StoredRecord};
use crate::transfer::receive::Results;
use crate::transfer::schedule::{Failure, SessionId, WantKey};
use crate::transfer::take::Taker;

/// Wait before a store that failed is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long our feed has to catch up with our store before a summary goes out as it is.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);

/// Reports outcomes to the actor whose session they belong to.
#[derive(Clone)]
pub(super) struct Reporter {
    actor: ActorRef<PeerMsg>,
    epoch: u64,
    lane: usize,
}

impl Reporter {
    pub(super) fn new(actor: ActorRef<PeerMsg>, epoch: u64, lane: usize) -> Self {
        Self { actor, epoch, lane }
    }

    fn report(&self, input: Input) {
        // An actor that is gone needs no outcome.
        let _ = self.actor.send_message(PeerMsg::Outcome { epoch: self.epoch, lane: self.lane, input });
    }
}

/// Deletions allowed per [`DELETE_WINDOW`] without anyone's confirmation, however small the store.
const DELETES_FREE: usize = 20;
/// Share of the store's assets that may go per window, as a divisor.
const DELETES_SHARE: u64 = 10;
/// See [`DELETES_FREE`].
const DELETE_WINDOW: Duration = Duration::from_hours(1);
/// Deletions held back that are counted one by one; further ones are held back just the same.
const HELD_MAX: usize = 100_000;

/// Whether peers' deletions are applied here, and the brake on mass deletions: when more than a tenth of the store and
/// more than 20 assets would go within an hour, this and everything after it is held back until somebody confirms.
#[derive(Debug)]
pub struct DeleteGuard {
    enabled: bool,
    state: Mutex<DeleteState>,
}

#[derive(Debug, Default)]
struct DeleteState {
    window_start: Option<Instant>,
    admitted: HashSet<ContentHash>,
    held: HashSet<ContentHash>,
    confirmed_until: Option<Instant>,
}

impl DeleteGuard {
    /// `enabled` is the setting `replicate_deletes`.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        Self { enabled, state: Mutex::default() }
    }

    /// Assets whose deletion is held back.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state().held.len() as u64
    }

    /// Somebody looked and agrees: whatever is held back or comes within the next hour is applied. Says how many
    /// were held back.
    pub fn confirm(&self, now: Instant) -> u64 {
        let mut state = self.state();
        state.confirmed_until = Some(now + DELETE_WINDOW);
        std::mem::take(&mut state.held).len() as u64
    }

    /// Whether these deletions, which came together, may be applied at `now` in a store of `assets` live assets: all
    /// of them or none.
    fn admit(&self, hashes: &[ContentHash], assets: u64, now: Instant) -> bool {
        let mut state = self.state();
        if state.confirmed_until.is_some_and(|until| now < until) {
            return true;
        }
        let window_over = state.window_start.is_none_or(|start| now.duration_since(start) >= DELETE_WINDOW);
        // While something is held back nothing is forgotten: time alone confirms nothing.
        if window_over && state.held.is_empty() {
            state.window_start = Some(now);
            state.admitted.clear();
        }
        let fresh = hashes.iter().filter(|hash| !state.admitted.contains(*hash)).count();
        // What went already counted as part of the store when the window began.
        let share = (assets + state.admitted.len() as u64) / DELETES_SHARE;
        let allowed = DELETES_FREE.max(usize::try_from(share).unwrap_or(usize::MAX));
        let may = state.held.is_empty() && state.admitted.len() + fresh <= allowed;
        let noted = if may { &mut state.admitted } else { &mut state.held };
        for hash in hashes {
            if noted.len() < HELD_MAX {
                noted.insert(*hash);
            }
        }
        may
    }

    fn state(&self) -> std::sync::MutexGuard<'_, DeleteState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the store until it answers; a store that is down costs delay, nothing else. The task ends with its session.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(mut call: impl FnMut() -> F) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::debug!(%error, "the store does not work; asking again");
                sleep(STORE_RETRY).await;
            }
        }
    }
}

/// What the peer was asked for by name, because a user wants it.
pub(super) struct Sought {
    pub(super) hashes: HashSet<ContentHash>,
    /// Who writes the live version of what was deleted here, if that may come back.
    pub(super) revive: Option<WriterId>,
}

impl Sought {
    /// The version that makes what was deleted here live again; `None` if nobody wants that.
    fn revived(&self, offered: &AssetRecord, ours: Option<&AssetRecord>, now_ms: u64) -> Option<AssetRecord> {
        let writer = self.revive?;
        let tombstone = ours.filter(|ours| ours.deleted && !offered.supersedes(ours))?;
        let wanted = !offered.deleted && self.hashes.contains(&offered.hash);
        let hlc = tombstone.hlc.next(now_ms);
        // The deletion is newer than what is offered, and what it says of the asset is, too.
        wanted.then(|| AssetRecord { hlc, writer, meta: tombstone.meta.clone(), ..offered.clone() })
    }
}

pub(super) async fn judge_all(
    report: Reporter,
    store: StoreRef,
    deletes: Arc<DeleteGuard>,
    library: Arc<Library>,
    (records, held_there): (Vec<AssetRecord>, bool),
    sought: Sought,
    (session, peers): (SessionId, ServiceRef<PeersMsg>),
) {
    let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
    let ours = insist(|| store.records(hashes.clone())).await;
    let ours: HashMap<ContentHash, StoredRecord> =
        ours.into_iter().map(|stored| (stored.record.hash, stored)).collect();
    let (now, at) = (now_ms(), Instant::now());
    let mut verdicts: Vec<(AssetRecord, Verdict)> = records
        .into_iter()
        .map(|record| {
            let ours = ours.get(&record.hash);
            if library.shared().is_some() {
                let verdict = judge_for(&library, &record, held_there, ours, now, deletes.enabled);
                return (record, verdict);
            }
            let verdict = judge_holding(&record, held_there, ours, now, deletes.enabled);
            match (verdict, sought.revived(&record, ours.map(|ours| &ours.record), now)) {
                (Verdict::Settled, Some(revived)) if held_there => (revived, Verdict::Revive),
                (verdict, _) => (record, verdict),
            }
        })
        .collect();
    let held = |hash: &ContentHash| ours.get(hash).is_some_and(|ours| !ours.record.deleted);
    let goes = |(record, verdict): &&(AssetRecord, Verdict)| {
        record.deleted && *verdict == Verdict::Apply && held(&record.hash)
    };
    let going: Vec<ContentHash> = verdicts.iter().filter(goes).map(|(record, _)| record.hash).collect();
    if !going.is_empty() {
        let assets = insist(|| store.status()).await.assets;
        if !deletes.admit(&going, assets, at) {
            for (_, verdict) in verdicts.iter_mut().filter(|judged| goes(&&**judged)) {
                *verdict = Verdict::Refuse(
                    "held back: too much would be deleted at once; confirm with POST /deletions/confirm"
                        .into(),
                );
            }
        }
    }
    // What comes of these is told by whoever fetches them; of the others nothing comes.
    let in_vain = |(record, verdict): &&(AssetRecord, Verdict)| {
        sought.hashes.contains(&record.hash)
            && matches!(verdict, Verdict::Settled | Verdict::Noted | Verdict::Refuse(_))
    };
    let in_vain: Vec<ContentHash> = verdicts.iter().filter(in_vain).map(|(record, _)| record.hash).collect();
    if !in_vain.is_empty() {
        let _ = peers.cast(PeersMsg::Lacks { session, hashes: in_vain, asked: true });
    }
    report.report(Input::Judged(verdicts));
}

/// Looks for contents that the peer asked for by their names: what is there of it, by the library that holds it, and
/// what is not.
pub(super) async fn look(
    store: StoreRef,
    lanes: Vec<(usize, Arc<Library>)>,
    hashes: Vec<ContentHash>,
) -> (Vec<(usize, Vec<AssetRecord>)>, Vec<ContentHash>) {
    // A library that is shared by ticket knows what is in it; the mirror's index may lag behind the store.
    let may_be = |hash: &ContentHash| lanes.iter().any(|(_, lane)| lane.shared().is_none() || lane.has(hash));
    let asked: Vec<ContentHash> = hashes.iter().copied().filter(may_be).collect();
    let records = insist(|| store.records(asked.clone())).await;
    let held: HashMap<ContentHash, StoredRecord> =
        records.into_iter().map(|stored| (stored.record.hash, stored)).collect();
    let mut found: Vec<(usize, Vec<AssetRecord>)> = lanes.iter().map(|(n, _)| (*n, Vec::new())).collect();
    let mut lacks = Vec::new();
    for hash in hashes {
        let place = held.get(&hash).and_then(|stored| {
            let version = |library: &Library| {
                let version = library.version(&hash, Some(stored))?;
                version.holding.is_held().then_some(version.record)
            };
            lanes.iter().enumerate().find_map(|(n, (_, lane))| Some((n, version(lane)?)))
        });
        match place {
            Some((place, version)) => found[place].1.push(version),
            None => lacks.push(hash),
        }
    }
    found.retain(|(_, records)| !records.is_empty());
    (found, lacks)
}

pub(super) async fn apply(
    report: Reporter,
    taker: Taker,
    library: Option<LibraryId>,
    records: Vec<AssetRecord>,
) {
    let outcomes = insist(|| taker.apply(library, records.clone())).await;
    report_applied(&report, records, outcomes);
}

pub(super) async fn take_absent(report: Reporter, taker: Taker, records: Vec<AssetRecord>) {
    let outcomes = insist(|| taker.take_absent(records.clone())).await;
    report_applied(&report, records, outcomes);
}

fn report_applied(report: &Reporter, records: Vec<AssetRecord>, outcomes: Vec<Outcome>) {
    let (mut settled, mut failed) = (Vec::new(), Vec::new());
    for (record, outcome) in records.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Stored | Outcome::Unchanged | Outcome::Absent => settled.push(record.hash),
            Outcome::NeedsContent => failed.push((record.hash, "its content went away meanwhile".into())),
            Outcome::Rejected(reason) => failed.push((record.hash, reason)),
        }
    }
    if !failed.is_empty() {
        report.report(Input::Failed(failed));
    }
    report.report(Input::Settled(settled));
}

/// Stores contents that came with an offer. What the store does not take now goes the usual way.
pub(super) async fn store_inline(
    report: Reporter,
    taker: Taker,
    peers: ServiceRef<PeersMsg>,
    library: Option<LibraryId>,
    items: Vec<(AssetRecord, Bytes)>,
) {
    let records: Vec<AssetRecord> = items.iter().map(|(record, _)| record.clone()).collect();
    // Before the store's feed can tell: what came from a peer goes along with no offer of ours.
    let hashes = records.iter().map(|record| record.hash).collect();
    let _ = peers.cast(PeersMsg::Arriving(hashes));
    let asset = |(record, content)| IncomingAsset { record, content: IncomingContent::Bytes(content) };
    let outcomes = match taker.ingest(library, items.into_iter().map(asset).collect()).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::debug!(%error, "contents that came with an offer are not stored; they are fetched later");
            return report.report(Input::NotStored(records));
        }
    };
    let (mut results, mut failed) = (Results::new(), Vec::new());
    let (mut stored, mut not_stored) = (Vec::new(), Vec::new());
    for (record, outcome) in records.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Stored | Outcome::Unchanged => {
                results.push((WantKey::new(library, &record), Ok(())));
                stored.push(record);
            }
            Outcome::NeedsContent | Outcome::Absent => not_stored.push(record),
            Outcome::Rejected(reason) => {
                let reason = format!("the peer sent wrong bytes, or a wrong record: {reason}");
                results.push((WantKey::new(library, &record), Err(Failure::WrongBytes(reason.clone()))));
                failed.push((record.hash, reason));
            }
        }
    }
    report.report(Input::Settled(stored.iter().map(|record| record.hash).collect()));
    if !not_stored.is_empty() {
        report.report(Input::NotStored(not_stored));
    }
    if !failed.is_empty() {
        report.report(Input::Failed(failed));
    }
    let _ = peers.cast(PeersMsg::Arrived { library, records: stored });
    let _ = report.actor.send_message(PeerMsg::Received { epoch: report.epoch, results });
}

/// Loads what is to be offered, as the library has it at this moment. What left it meanwhile is not there.
pub(super) async fn load(report: Reporter, store: StoreRef, library: Arc<Library>, hashes: Vec<ContentHash>) {
    let stored = insist(|| store.records(hashes.clone())).await;
    let records = library.versions(&hashes, stored);
    report.report(Input::Loaded { records });
}

/// Waits until the index has followed the store to where it is now, so that a summary means "everything that was
/// acknowledged before the question".
pub(super) async fn catch_up(
    report: Reporter,
    store: StoreRef,
    library: Arc<Library>,
    nonce: u64,
    answer: bool,
) {
    let caught_up = async {
        let status = insist(|| store.status()).await;
        let mut cursor = library.cursor();
        let seq = status.seq;
        library.set_store_status(status);
        // The library outlives every session.
        let _ = cursor.wait_for(|cursor| cursor.is_some_and(|at| at >= seq)).await;
    };
    let behind = timeout(CATCH_UP_WITHIN, caught_up).await.is_err();
    let Reporter { actor, epoch, lane } = report;
    let _ = actor.send_message(PeerMsg::SummaryReady { epoch, lane, nonce, answer, behind });
}

pub(super) async fn reconcile(
    report: Reporter,
    connection: Connection,
    library: bytes::Bytes,
    snapshot: Snapshot,
) {
    let found = |have: Vec<ContentHash>, need| {
        if !(have.is_empty() && Vec::is_empty(&need)) {
            report.report(Input::Differences { have, need });
        }
    };
    let result = reconciliation::initiate(&connection, library, snapshot, found).await;
    report.report(Input::ReconEnded { opened_here: true, result: result.map_err(|e| e.to_string()) });
}

/// Tells whoever watches what came and what did not.
pub(super) fn publish_results(events: &EventLog, peer: EndpointId, results: &Results) {
    let at_ms = now_ms();
    for (key, result) in results {
        let (hash, size, from) = (key.hash.to_string(), key.size, peer.to_string());
        match result {
            Ok(()) => events.publish(at_ms, NodeEvent::AssetReceived { hash, size, from }),
            Err(failure) => {
                let reason = failure.reason().to_owned();
                events.publish(at_ms, NodeEvent::AssetFailed { hash, from, reason });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(from: u8, to: u8) -> Vec<ContentHash> {
        (from..to).map(|n| ContentHash([n; 32])).collect()
    }

    #[test]
    fn a_tenth_or_twenty_may_go_in_an_hour() {
        let start = Instant::now();
        let guard = DeleteGuard::new(true);
        assert!(guard.admit(&hashes(0, 20), 40, start));
        assert!(guard.admit(&hashes(0, 20), 20, start), "the same ones, from another peer");
        assert!(!guard.admit(&hashes(20, 21), 20, start));
        assert_eq!(guard.held(), 1);
        let large = DeleteGuard::new(true);
        assert!(large.admit(&hashes(0, 100), 1_000, start));
        assert!(!large.admit(&hashes(100, 101), 900, start));
    }

    #[test]
    fn time_alone_does_not_let_a_mass_deletion_through() {
        let start = Instant::now();
        let guard = DeleteGuard::new(true);
        for hour in 0..48 {
            let now = start + DELETE_WINDOW * hour;
            assert!(!guard.admit(&hashes(0, 200), 300, now));
            assert!(!guard.admit(&hashes(200, 201), 300, now), "nor a small one behind it");
        }
        assert_eq!(guard.confirm(start), 201);
        assert!(guard.admit(&hashes(0, 200), 300, start));
        assert_eq!(guard.held(), 0);
    }

    #[test]
    fn a_quiet_hour_makes_room_again() {
        let start = Instant::now();
        let guard = DeleteGuard::new(true);
        assert!(guard.admit(&hashes(0, 20), 40, start));
        assert!(guard.admit(&hashes(20, 40), 20, start + DELETE_WINDOW));
    }
}
