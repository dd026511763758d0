//! The tasks that perform a session's effects and report their outcomes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::Connection;
use ractor::ActorRef;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::deferrals::{Deferrals, Note};
use super::delete_guard::DeleteGuard;
use super::delete_guard::decisions::DeletionRuling;
use super::messages::{PeerMsg, PeersMsg};
use super::reconciliation;
use super::session::{OfferVerdict, SessionInput, judge_for, judge_holding};
use crate::actor::ServiceRef;
use crate::clock::now_ms;
use crate::events::{EventLog, NodeEvent};
use crate::library::Library;
use crate::library::registry::{Deleter, Deletion};
use crate::reconcile::tree::Snapshot;
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, LibraryId, WriterId};
use crate::store::{
    IncomingAsset, IncomingContent, ItemOutcome, Redating, StoreError, StoreRef, StoredRecord,
};
use crate::transfer::receive::Results;
use crate::transfer::schedule::{Failure, SessionId, WantKey};
use crate::transfer::take::Taker;

/// Wait before a store that failed is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// The same after many failures.
const STORE_RETRY_MAX: Duration = Duration::from_mins(1);
/// How long our feed has to catch up with our store before a summary goes out as it is.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);
/// How long deletions wait until their library was read from the store, and how often that is looked at.
const FILLED_WITHIN: Duration = Duration::from_secs(30);
const FILLED_LOOK: Duration = Duration::from_millis(200);
/// Time until records are offered again that had to wait a moment before.
const HELD_NO_MORE_MS: u64 = 100;
/// Most records that the store takes at once.
const STORE_BATCH: usize = 1_000;

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

    fn report(&self, input: SessionInput) {
        // An actor that is gone needs no outcome.
        let _ = self.actor.send_message(PeerMsg::Outcome { epoch: self.epoch, lane: self.lane, input });
    }
}

/// Asks the store until it answers; a store that is down costs delay, nothing else. The task ends with its session.
async fn until_the_store_answers<T, F: Future<Output = Result<T, StoreError>>>(
    mut call: impl FnMut() -> F,
) -> T {
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

/// Waits until all that the store has was read into a library: until then it is larger than it looks.
async fn until_filled(library: &Library) {
    while library.is_filling() {
        sleep(FILLED_LOOK).await;
    }
}

/// What the peer was asked for by name, because a user wants it.
pub(super) struct FetchRequest {
    pub(super) hashes: HashSet<ContentHash>,
    /// Who writes the live version of what was deleted here, if that may come back.
    pub(super) revive: Option<WriterId>,
}

impl FetchRequest {
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

/// By what versions are judged, besides what is here.
pub(super) struct Rules {
    pub(super) deletes: Arc<DeleteGuard>,
    /// As whom the peer deletes.
    pub(super) deleter: Deleter,
    pub(super) deferrals: Deferrals,
    /// Whether we may write into the library: only then ours can be written once more.
    pub(super) gives: bool,
    /// Whether the peer owns the library: what it sends does not depend on what it took back.
    pub(super) from_owner: bool,
}

impl Rules {
    /// Whether what would be news has to wait, because too much may have been taken back that we do not know of.
    fn holds(&self, library: &Library) -> bool {
        let now_ms = self.deferrals.clock().now_ms();
        !self.from_owner && library.shared().is_some_and(|shared| shared.is_stale(now_ms))
    }

    /// Takes out of what is offered the deletions that wait already, or were rejected: a peer that brings the same again and
    /// again costs no look at the store.
    fn put_off(&self, records: Vec<AssetRecord>) -> (Vec<AssetRecord>, Vec<AssetRecord>) {
        if !records.iter().any(|record| record.deleted) {
            return (records, Vec::new());
        }
        let (tombstones, mut records): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.deleted);
        let deletions: Vec<Deletion> = tombstones.iter().map(Deletion::of).collect();
        let put_off = self.deletes.put_off(&self.deleter.library, &deletions);
        let mut waiting = Vec::new();
        for (record, waits) in tombstones.into_iter().zip(put_off) {
            if waits { waiting.push(record) } else { records.push(record) }
        }
        (records, waiting)
    }

    /// Takes back what the brake does not let through of what would delete something `live`. What waits for somebody's decision
    /// is settled as far as the peer is concerned: it is told apart from what is missing, and comes again once it was confirmed.
    async fn rule_on_deletions(
        &self,
        store: &StoreRef,
        library: &Library,
        live: &HashSet<ContentHash>,
        verdicts: &mut [(AssetRecord, OfferVerdict)],
    ) {
        let mut going: Vec<&mut (AssetRecord, OfferVerdict)> = verdicts
            .iter_mut()
            .filter(|(record, verdict)| {
                record.deleted && *verdict == OfferVerdict::Apply && live.contains(&record.hash)
            })
            .collect();
        if going.is_empty() {
            return;
        }
        if timeout(FILLED_WITHIN, until_filled(library)).await.is_err() {
            // A share of what was read so far would be far too little: it comes again with the next comparison.
            tracing::debug!(library = ?library.id(), "deletions wait until the library was read from the store");
            for (_, verdict) in going {
                *verdict = OfferVerdict::Settled;
            }
            return;
        }
        let assets = match library.shared() {
            Some(_) => library.live_assets(),
            None => until_the_store_answers(|| store.status()).await.assets,
        };
        let deletions: Vec<Deletion> = going.iter().map(|(record, _)| Deletion::of(record)).collect();
        let (guard, by, count) = (Arc::clone(&self.deletes), self.deleter.clone(), going.len());
        let rulings = spawn_blocking(move || guard.judge(&by, &deletions, assets)).await;
        // Where the brake itself fails, nothing is deleted.
        let rulings = rulings.unwrap_or_else(|_| vec![DeletionRuling::Hold; count]);
        for ((_, verdict), ruling) in going.iter_mut().zip(rulings) {
            match ruling {
                DeletionRuling::Apply => {}
                DeletionRuling::Hold | DeletionRuling::Ignore => *verdict = OfferVerdict::Settled,
            }
        }
    }

    /// Takes note of a version that has to wait. Over one that had to and is taken now, ours stays if it was written in
    /// the meantime.
    fn settle(
        &self,
        (record, verdict): (&AssetRecord, &mut OfferVerdict),
        ours: Option<&AssetRecord>,
        library: Option<LibraryId>,
        now_ms: u64,
    ) {
        match verdict {
            OfferVerdict::Later(wait_ms) => {
                let due_ms = now_ms.saturating_add(*wait_ms);
                self.deferrals.add(Note::of(record, library, now_ms, due_ms));
            }
            OfferVerdict::Apply | OfferVerdict::Fetch | OfferVerdict::TakeAbsent
                // What is fetched for its content alone does not win over ours.
                if ours.is_none_or(|ours| record.supersedes(ours)) =>
            {
                // What came through a library is no machine's of the user's: a member does not have the last word over one of
                // those. A deletion says through which it came even where the user made it, and counts.
                let own = ours.filter(|ours| library.is_some() || ours.via.is_none() || ours.deleted);
                if self.deferrals.settle(record, own, library, self.gives) {
                    tracing::info!(hash = %record.hash, "what was written while a version had to wait stays");
                    *verdict = OfferVerdict::Reassert;
                }
            }
            OfferVerdict::Settled
            | OfferVerdict::Noted
            | OfferVerdict::Hold(_)
            | OfferVerdict::Apply
            | OfferVerdict::Fetch
            | OfferVerdict::TakeAbsent
            | OfferVerdict::Revive
            | OfferVerdict::Reassert
            | OfferVerdict::Refuse(_) => {}
        }
    }
}

pub(super) async fn judge_all(
    report: Reporter,
    store: StoreRef,
    rules: Rules,
    library: Arc<Library>,
    (records, held_there): (Vec<AssetRecord>, bool),
    sought: FetchRequest,
    (session, peers): (SessionId, ServiceRef<PeersMsg>),
) {
    let (records, put_off) = rules.put_off(records);
    let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
    let ours = until_the_store_answers(|| store.records(hashes.clone())).await;
    let ours: HashMap<ContentHash, StoredRecord> =
        ours.into_iter().map(|stored| (stored.record.hash, stored)).collect();
    let live = ours.values().filter(|ours| !ours.record.deleted).map(|ours| ours.record.hash).collect();
    let now = rules.deferrals.clock().now_ms();
    let limits = (HLC_AHEAD_MAX_MS, rules.deletes.is_enabled());
    let holds = rules.holds(&library);
    let mut verdicts: Vec<(AssetRecord, OfferVerdict)> = records
        .into_iter()
        .map(|record| {
            let ours = ours.get(&record.hash);
            if library.shared().is_some() {
                let verdict = judge_for(
                    &library,
                    &record,
                    held_there,
                    ours,
                    now,
                    (limits.1, holds),
                    rules.deleter.ticket(),
                );
                return (record, verdict);
            }
            let verdict = judge_holding(&record, held_there, ours, now, limits);
            match (verdict, sought.revived(&record, ours.map(|ours| &ours.record), now)) {
                (OfferVerdict::Settled, Some(revived)) if held_there => (revived, OfferVerdict::Revive),
                (verdict, _) => (record, verdict),
            }
        })
        .collect();
    for (record, verdict) in &mut verdicts {
        // What is here outside of a library stays as it is, whatever its members say.
        let ours = ours.get(&record.hash).filter(|ours| library.shared().is_none() || library.is_here(ours));
        rules.settle((record, verdict), ours.map(|ours| &ours.record), library.id(), now);
    }
    rules.deferrals.save_if_changed().await;
    if holds && !rules.holds(&library) {
        // The list came while the store was asked.
        for (_, verdict) in
            verdicts.iter_mut().filter(|(_, verdict)| matches!(verdict, OfferVerdict::Hold(_)))
        {
            *verdict = OfferVerdict::Hold(HELD_NO_MORE_MS);
        }
    }
    rules.rule_on_deletions(&store, &library, &live, &mut verdicts).await;
    verdicts.extend(put_off.into_iter().map(|record| (record, OfferVerdict::Settled)));
    if library.shared().is_none() {
        // What a machine of the user's own has and our clock bears out is no later than the time.
        let taken = verdicts.iter().filter(|(_, v)| {
            matches!(v, OfferVerdict::Apply | OfferVerdict::Fetch | OfferVerdict::TakeAbsent)
        });
        let newest_ms = taken.map(|(record, _)| record.hlc.ms()).max().unwrap_or_default();
        rules.deferrals.clock().note_confirmed(newest_ms);
    }
    // What comes of these is told by whoever fetches them; of the others nothing comes.
    let in_vain = |(record, verdict): &&(AssetRecord, OfferVerdict)| {
        sought.hashes.contains(&record.hash)
            && !matches!(
                verdict,
                OfferVerdict::Apply | OfferVerdict::TakeAbsent | OfferVerdict::Fetch | OfferVerdict::Revive
            )
    };
    let in_vain: Vec<ContentHash> = verdicts.iter().filter(in_vain).map(|(record, _)| record.hash).collect();
    if !in_vain.is_empty() {
        let _ = peers.cast(PeersMsg::Lacks { session, hashes: in_vain, asked: true });
    }
    report.report(SessionInput::Judged(verdicts));
}

/// Looks for contents that the peer asked for by their names, in a library if we may give of it: what is there of them,
/// and what is not.
pub(super) async fn look(
    store: StoreRef,
    library: Option<Arc<Library>>,
    hashes: Vec<ContentHash>,
) -> (Vec<AssetRecord>, Vec<ContentHash>) {
    let Some(library) = library else { return (Vec::new(), hashes) };
    // A library that is shared by ticket knows what is in it; the mirror's index may lag behind the store.
    let may_be = |hash: &ContentHash| library.shared().is_none() || library.has(hash);
    let asked: Vec<ContentHash> = hashes.iter().copied().filter(may_be).collect();
    let stored = until_the_store_answers(|| store.records(asked.clone())).await;
    let held = library.versions(&asked, stored).into_iter().filter(|version| version.holding.is_held());
    let held: HashMap<ContentHash, AssetRecord> =
        held.map(|version| (version.record.hash, version.record)).collect();
    let (mut found, mut lacks) = (Vec::new(), Vec::new());
    for hash in hashes {
        match held.get(&hash) {
            Some(version) => found.push(version.clone()),
            None => lacks.push(hash),
        }
    }
    (found, lacks)
}

pub(super) async fn apply(
    report: Reporter,
    taker: Taker,
    library: Option<LibraryId>,
    records: Vec<AssetRecord>,
) {
    let outcomes = until_the_store_answers(|| taker.apply(library, records.clone())).await;
    report_applied(&report, records, outcomes);
}

pub(super) async fn take_absent(report: Reporter, taker: Taker, records: Vec<AssetRecord>) {
    let outcomes = until_the_store_answers(|| taker.take_absent(records.clone())).await;
    report_applied(&report, records, outcomes);
}

fn report_applied(report: &Reporter, records: Vec<AssetRecord>, outcomes: Vec<ItemOutcome>) {
    let (mut settled, mut failed) = (Vec::new(), Vec::new());
    for (record, outcome) in records.into_iter().zip(outcomes) {
        match outcome {
            ItemOutcome::Stored | ItemOutcome::Unchanged | ItemOutcome::Absent => settled.push(record.hash),
            ItemOutcome::NeedsContent => failed.push((record.hash, "its content went away meanwhile".into())),
            ItemOutcome::Rejected(reason) => failed.push((record.hash, reason)),
        }
    }
    if !failed.is_empty() {
        report.report(SessionInput::Failed(failed));
    }
    report.report(SessionInput::Settled(settled));
}

/// Writes what is here once more, later than `others`, which had to wait and came through `library`. That they had to is
/// forgotten only then: whatever ends this before, they come again.
pub(super) async fn reassert(
    report: Reporter,
    store: StoreRef,
    deferrals: Deferrals,
    library: Option<LibraryId>,
    others: Vec<AssetRecord>,
) {
    for some in others.chunks(STORE_BATCH) {
        let redating = |other: &AssetRecord| Redating::Reassert { hash: other.hash, other: other.hlc };
        let mut wait = STORE_RETRY;
        let done = loop {
            match store.redate(some.iter().map(redating).collect()).await {
                Ok(_) => break Ok(()),
                Err(error @ StoreError::Unsupported { .. }) => break Err(error),
                Err(error) => {
                    tracing::debug!(%error, "what stays is not written once more yet");
                    sleep(wait).await;
                    wait = (wait * 2).min(STORE_RETRY_MAX);
                }
            }
        };
        match done {
            Ok(()) => {
                for other in some {
                    deferrals.spend(other, library);
                }
                deferrals.save_if_changed().await;
                report.report(SessionInput::Settled(some.iter().map(|other| other.hash).collect()));
            }
            // The peer offers it again, less and less often.
            Err(error) => {
                let why = |other: &AssetRecord| (other.hash, error.to_string());
                report.report(SessionInput::Failed(some.iter().map(why).collect()));
            }
        }
    }
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
            return report.report(SessionInput::NotStored(records));
        }
    };
    let (mut results, mut failed) = (Results::new(), Vec::new());
    let (mut stored, mut not_stored) = (Vec::new(), Vec::new());
    for (record, outcome) in records.into_iter().zip(outcomes) {
        match outcome {
            ItemOutcome::Stored | ItemOutcome::Unchanged => {
                results.push((WantKey::new(library, &record), Ok(())));
                stored.push(record);
            }
            ItemOutcome::NeedsContent | ItemOutcome::Absent => not_stored.push(record),
            ItemOutcome::Rejected(reason) => {
                let reason = format!("the peer sent wrong bytes, or a wrong record: {reason}");
                results.push((WantKey::new(library, &record), Err(Failure::WrongBytes(reason.clone()))));
                failed.push((record.hash, reason));
            }
        }
    }
    report.report(SessionInput::Settled(stored.iter().map(|record| record.hash).collect()));
    if !not_stored.is_empty() {
        report.report(SessionInput::NotStored(not_stored));
    }
    if !failed.is_empty() {
        report.report(SessionInput::Failed(failed));
    }
    let _ = peers.cast(PeersMsg::Arrived { library, records: stored });
    let _ = report.actor.send_message(PeerMsg::Received { epoch: report.epoch, results });
}

/// Loads what is to be offered, as the library has it at this moment. What left it meanwhile is not there.
pub(super) async fn load(report: Reporter, store: StoreRef, library: Arc<Library>, hashes: Vec<ContentHash>) {
    let stored = until_the_store_answers(|| store.records(hashes.clone())).await;
    let records = library.versions(&hashes, stored);
    report.report(SessionInput::Loaded { records });
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
        let status = until_the_store_answers(|| store.status()).await;
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
            report.report(SessionInput::Differences { have, need });
        }
    };
    let result = reconciliation::initiate(&connection, library, snapshot, found).await;
    report.report(SessionInput::ReconEnded { opened_here: true, result: result.map_err(|e| e.to_string()) });
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
mod tests;
