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
use super::delete_guard::decisions::Ruling;
use super::messages::{PeerMsg, PeersMsg};
use super::reconciliation;
use super::session::{Input, Verdict, judge_holding};
use crate::actor::ServiceRef;
use crate::clock::now_ms;
use crate::events::{EventLog, NodeEvent};
use crate::library::registry::{Deleter, Deletion};
use crate::library::ticket::LibraryId;
use crate::library::{Libraries, Library};
use crate::reconcile::tree::Snapshot;
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_BY_TICKET_MAX_MS, HLC_AHEAD_MAX_MS, Hlc, WriterId};
use crate::store::{IncomingAsset, IncomingContent, Outcome, Redating, StoreError, StoreRef, StoredRecord};
use crate::transfer::receive::Results;
use crate::transfer::schedule::{Failure, SessionId};

/// Wait before a store that failed is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long our feed has to catch up with our store before a summary goes out as it is.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);
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

    fn report(&self, input: Input) {
        // An actor that is gone needs no outcome.
        let _ = self.actor.send_message(PeerMsg::Outcome { epoch: self.epoch, lane: self.lane, input });
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

/// What a session of one library may see of the store.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) libraries: Arc<Libraries>,
    pub(super) library: Arc<Library>,
}

impl Scope {
    /// Takes out of `ours` what is not in the library, so that whoever offers a hash learns nothing of what else is here,
    /// and out of `records` what does not belong, with what that means. Takes note of what comes through the library.
    async fn narrow(
        &self,
        records: Vec<AssetRecord>,
        held_there: bool,
        ours: &mut HashMap<ContentHash, StoredRecord>,
    ) -> (Vec<AssetRecord>, Vec<(AssetRecord, Verdict)>) {
        let mut decided = Vec::new();
        let Some(shared) = self.library.shared() else { return (records, decided) };
        let (records, refused): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| self.library.takes(record));
        let full = shared.is_full();
        let (records, too_many): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| !full || self.library.has(&record.hash) || shared.came_through(&record.hash));
        let refusal = Verdict::Refuse("more came through the library than this node takes note of".into());
        decided.extend(too_many.into_iter().map(|record| (record, refusal.clone())));
        let refusal = Verdict::Refuse("it does not belong to the library".into());
        decided.extend(refused.into_iter().map(|record| (record, refusal.clone())));
        // What came through it once is known to be here; a deletion reaches what is in it now and nothing else.
        let (hidden, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| {
            record.deleted && ours.contains_key(&record.hash) && !self.library.has(&record.hash)
        });
        decided.extend(hidden.into_iter().map(|record| (record, Verdict::Settled)));
        // What nobody delivers is no part of our store: a member could fill it with names.
        let (hollow, records): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| !held_there && !record.deleted && !self.library.has(&record.hash));
        decided.extend(hollow.into_iter().map(|record| (record, Verdict::Settled)));
        // Somebody who knows a hash need not have the content: what is here and not in the library stays unknown, and out
        // of it, until all of it came.
        let coming = records.iter().map(|record| record.hash).filter(|hash| !self.library.has(hash));
        let (named, coming): (Vec<_>, Vec<_>) =
            coming.partition(|hash| ours.contains_key(hash) && !shared.was_shown(hash));
        let coming = coming.into_iter().map(|hash| (hash, ours.contains_key(&hash))).collect();
        // What was let go of comes like anything else.
        let is_here = |hash: &ContentHash| ours.get(hash).is_some_and(|ours| !ours.is_absent());
        let named: Vec<_> = named.into_iter().map(|hash| (hash, is_here(&hash))).collect();
        ours.retain(|hash, ours| {
            self.library.has(hash) && self.library.holds(&ours.record) || shared.was_shown(hash)
        });
        shared.name(&named);
        self.receive(coming).await;
        (records, decided)
    }

    /// Takes into the library what was here before and came through it in full now.
    pub(super) async fn show(&self, store: &StoreRef, hashes: &[ContentHash]) {
        let Some(shared) = self.library.shared() else { return };
        let shown = shared.show(hashes);
        if shown.is_empty() {
            return;
        }
        let hashes: Vec<ContentHash> = shown.iter().map(|(hash, _)| *hash).collect();
        self.receive(shown).await;
        // Read again: what changed before it was noted above is no news to anybody.
        self.library.take_in(&insist(|| store.records(hashes.clone())).await);
    }

    async fn receive(&self, coming: Vec<(ContentHash, bool)>) {
        let Some(shared) = self.library.shared() else { return };
        let fresh = shared.receive(coming);
        let Some(registry) = self.libraries.registry().cloned().filter(|_| !fresh.is_empty()) else { return };
        let id = shared.id();
        let noted = spawn_blocking(move || registry.receive(id, &fresh)).await;
        if !matches!(noted, Ok(Ok(()))) {
            tracing::warn!(library = %id, "what comes through a library is not written down");
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

/// By what versions are judged, besides what is here.
pub(super) struct Rules {
    pub(super) deletes: Arc<DeleteGuard>,
    /// As whom the peer deletes.
    pub(super) deleter: Deleter,
    pub(super) deferrals: Deferrals,
    /// Whether we may write into the library: only then ours can be written once more.
    pub(super) gives: bool,
}

impl Rules {
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
        scope: &Scope,
        live: &HashSet<ContentHash>,
        verdicts: &mut [(AssetRecord, Verdict)],
    ) {
        let mut going: Vec<&mut (AssetRecord, Verdict)> = verdicts
            .iter_mut()
            .filter(|(record, verdict)| {
                record.deleted && *verdict == Verdict::Apply && live.contains(&record.hash)
            })
            .collect();
        if going.is_empty() {
            return;
        }
        let assets = match scope.library.shared() {
            Some(_) => scope.library.summary().assets,
            None => insist(|| store.status()).await.assets,
        };
        let deletions: Vec<Deletion> = going.iter().map(|(record, _)| Deletion::of(record)).collect();
        let (guard, by, count) = (Arc::clone(&self.deletes), self.deleter.clone(), going.len());
        let rulings = spawn_blocking(move || guard.judge(&by, &deletions, assets)).await;
        // Where the brake itself fails, nothing is deleted.
        let rulings = rulings.unwrap_or_else(|_| vec![Ruling::Hold; count]);
        for ((_, verdict), ruling) in going.iter_mut().zip(rulings) {
            match ruling {
                Ruling::Apply => {}
                Ruling::Hold | Ruling::Ignore => *verdict = Verdict::Settled,
            }
        }
    }

    /// Takes note of a version that has to wait. Over one that had to and is taken now, ours stays if it was written in
    /// the meantime.
    fn settle(
        &self,
        (record, verdict): (&AssetRecord, &mut Verdict),
        ours: Option<&AssetRecord>,
        library: Option<LibraryId>,
        now_ms: u64,
    ) {
        match verdict {
            Verdict::Later(wait_ms) => {
                let due_ms = now_ms.saturating_add(*wait_ms);
                self.deferrals.add(Note::of(record, library, now_ms, due_ms));
            }
            Verdict::Apply | Verdict::Fetch | Verdict::TakeAbsent
                // What is fetched for its content alone does not win over ours.
                if ours.is_none_or(|ours| record.supersedes(ours)) =>
            {
                if self.deferrals.settle(record, ours, self.gives) {
                    tracing::info!(hash = %record.hash, "what was written while a version had to wait stays");
                    *verdict = Verdict::Reassert;
                }
            }
            Verdict::Settled
            | Verdict::Apply
            | Verdict::Fetch
            | Verdict::TakeAbsent
            | Verdict::Revive
            | Verdict::Reassert
            | Verdict::Refuse(_) => {}
        }
    }
}

pub(super) async fn judge_all(
    report: Reporter,
    store: StoreRef,
    rules: Rules,
    scope: Scope,
    (records, held_there): (Vec<AssetRecord>, bool),
    sought: Sought,
    (session, peers): (SessionId, ServiceRef<PeersMsg>),
) {
    let (records, put_off) = rules.put_off(records);
    let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
    let ours = insist(|| store.records(hashes.clone())).await;
    let mut ours: HashMap<ContentHash, StoredRecord> =
        ours.into_iter().map(|stored| (stored.record.hash, stored)).collect();
    let live = ours.values().filter(|ours| !ours.record.deleted).map(|ours| ours.record.hash).collect();
    let (records, mut decided) = scope.narrow(records, held_there, &mut ours).await;
    decided.extend(put_off.into_iter().map(|record| (record, Verdict::Settled)));
    let now = rules.deferrals.clock().now_ms();
    let library = scope.library.id();
    let ahead_max = if library.is_some() { HLC_AHEAD_BY_TICKET_MAX_MS } else { HLC_AHEAD_MAX_MS };
    let mut verdicts: Vec<(AssetRecord, Verdict)> = records
        .into_iter()
        .map(|record| {
            let ours = ours.get(&record.hash);
            let limits = (ahead_max, rules.deletes.is_enabled());
            let verdict = judge_holding(&record, held_there, ours, now, limits);
            match (verdict, sought.revived(&record, ours.map(|ours| &ours.record), now)) {
                (Verdict::Settled, Some(revived)) if held_there => (revived, Verdict::Revive),
                (verdict, _) => (record, verdict),
            }
        })
        .collect();
    for (record, verdict) in &mut verdicts {
        let ours = ours.get(&record.hash).map(|ours| &ours.record);
        rules.settle((record, verdict), ours, library, now);
    }
    rules.deferrals.save_if_changed().await;
    rules.rule_on_deletions(&store, &scope, &live, &mut verdicts).await;
    if library.is_none() {
        // What a machine of the user's own has and our clock bears out is no later than the time.
        let taken = verdicts
            .iter()
            .filter(|(_, v)| matches!(v, Verdict::Apply | Verdict::Fetch | Verdict::TakeAbsent));
        let newest_ms = taken.map(|(record, _)| record.hlc.ms()).max().unwrap_or_default();
        rules.deferrals.clock().note_confirmed(newest_ms);
    }
    verdicts.extend(decided);
    // What comes of these is told by whoever fetches them; of the others nothing comes.
    let in_vain = |(record, verdict): &&(AssetRecord, Verdict)| {
        sought.hashes.contains(&record.hash)
            && matches!(
                verdict,
                Verdict::Settled | Verdict::Reassert | Verdict::Later(_) | Verdict::Refuse(_)
            )
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
    let held = records.into_iter().filter(|stored| stored.holding.is_held()).map(|stored| stored.record);
    let mut held: HashMap<ContentHash, AssetRecord> = held.map(|record| (record.hash, record)).collect();
    let mut found: Vec<(usize, Vec<AssetRecord>)> = lanes.iter().map(|(n, _)| (*n, Vec::new())).collect();
    let mut lacks = Vec::new();
    for hash in hashes {
        let holds = |library: &Library, record: &AssetRecord| {
            library.shared().is_none() || library.has(&record.hash) && library.holds(record)
        };
        let record = held.remove(&hash);
        let place = record.as_ref().and_then(|record| lanes.iter().position(|(_, lane)| holds(lane, record)));
        match (record, place) {
            (Some(record), Some(place)) => found[place].1.push(record),
            (_, _) => lacks.push(hash),
        }
    }
    found.retain(|(_, records)| !records.is_empty());
    (found, lacks)
}

pub(super) async fn apply(report: Reporter, store: StoreRef, records: Vec<AssetRecord>) {
    let outcomes = insist(|| store.apply(records.clone())).await;
    report_applied(&report, records, outcomes);
}

pub(super) async fn take_absent(report: Reporter, store: StoreRef, records: Vec<AssetRecord>) {
    let outcomes = insist(|| store.take_absent(records.clone())).await;
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

/// Writes what is here once more, later than versions that had to wait.
pub(super) async fn reassert(report: Reporter, store: StoreRef, others: Vec<(ContentHash, Hlc)>) {
    let redatings = |some: &[(ContentHash, Hlc)]| {
        some.iter().map(|(hash, other)| Redating::Reassert { hash: *hash, other: *other }).collect()
    };
    for some in others.chunks(STORE_BATCH) {
        insist(|| store.redate(redatings(some))).await;
    }
    report.report(Input::Settled(others.into_iter().map(|(hash, _)| hash).collect()));
}

/// Stores contents that came with an offer. What the store does not take now goes the usual way.
pub(super) async fn store_inline(
    report: Reporter,
    store: StoreRef,
    peers: ServiceRef<PeersMsg>,
    scope: Scope,
    items: Vec<(AssetRecord, Bytes)>,
) {
    let records: Vec<AssetRecord> = items.iter().map(|(record, _)| record.clone()).collect();
    // Before the store's feed can tell: what came from a peer goes along with no offer of ours.
    let hashes = records.iter().map(|record| record.hash).collect();
    let _ = peers.cast(PeersMsg::Arriving(hashes));
    let asset = |(record, content)| IncomingAsset { record, content: IncomingContent::Bytes(content) };
    let outcomes = match store.ingest(items.into_iter().map(asset).collect()).await {
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
                results.push((record.hash, Ok(record.size)));
                stored.push(record);
            }
            Outcome::NeedsContent | Outcome::Absent => not_stored.push(record),
            Outcome::Rejected(reason) => {
                let reason = format!("the peer sent wrong bytes, or a wrong record: {reason}");
                results.push((record.hash, Err(Failure::WrongBytes(reason.clone()))));
                failed.push((record.hash, reason));
            }
        }
    }
    let hashes: Vec<ContentHash> = stored.iter().map(|record| record.hash).collect();
    scope.show(&store, &hashes).await;
    report.report(Input::Settled(hashes));
    if !not_stored.is_empty() {
        report.report(Input::NotStored(not_stored));
    }
    if !failed.is_empty() {
        report.report(Input::Failed(failed));
    }
    let _ = peers.cast(PeersMsg::Arrived(stored));
    let _ = report.actor.send_message(PeerMsg::Received { epoch: report.epoch, results });
}

/// Contents that the scheduler asked the peer for are durable: only then they are part of the library.
pub(super) async fn settle(
    report: Reporter,
    store: StoreRef,
    scope: Scope,
    owed: Vec<ContentHash>,
    hashes: Vec<ContentHash>,
) {
    scope.show(&store, &owed).await;
    report.report(Input::Settled(hashes));
}

pub(super) async fn load(report: Reporter, store: StoreRef, hashes: Vec<ContentHash>) {
    let records = insist(|| store.records(hashes.clone())).await;
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
    for (hash, result) in results {
        let (hash, from) = (hash.to_string(), peer.to_string());
        match result {
            Ok(size) => events.publish(at_ms, NodeEvent::AssetReceived { hash, size: *size, from }),
            Err(failure) => {
                let reason = failure.reason().to_owned();
                events.publish(at_ms, NodeEvent::AssetFailed { hash, from, reason });
            }
        }
    }
}
