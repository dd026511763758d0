//! Writing what a peer offered into the store.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::time::sleep;

use super::{Reporter, STORE_RETRY, until_the_store_answers};
use crate::actor::ServiceRef;
use crate::peer::deferrals::Deferrals;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::session::SessionInput;
use crate::record::{AssetRecord, LibraryId};
use crate::store::{IncomingAsset, IncomingContent, ItemOutcome, Redating, StoreError, StoreRef};
use crate::transfer::receive::Results;
use crate::transfer::schedule::{FetchFailure, WantKey};
use crate::transfer::take::Taker;

/// Longest wait before a store that failed is asked again.
const STORE_RETRY_MAX: Duration = Duration::from_mins(1);
const STORE_BATCH: usize = 1_000;
/// Contents of one offer that are looked for at once where the store keeps its own.
const TAKEN_OVER_AT_ONCE: usize = 64;
const OUTCOME_BATCH: usize = 256;

pub(in crate::peer) async fn apply(
    report: Reporter,
    taker: Taker,
    library: Option<LibraryId>,
    records: Vec<AssetRecord>,
) {
    let outcomes = until_the_store_answers(|| taker.apply(library, records.clone())).await;
    report_applied(&report, records, outcomes);
}

pub(in crate::peer) async fn take_absent(report: Reporter, taker: Taker, records: Vec<AssetRecord>) {
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
pub(in crate::peer) async fn reassert(
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

/// Takes over contents of the mirror that are where the store keeps its own already; what is not there is fetched from peers.
pub(in crate::peer) async fn take_over(
    report: Reporter,
    taker: Taker,
    peers: ServiceRef<PeersMsg>,
    records: Vec<AssetRecord>,
) {
    // As in `store_inline`.
    let _ = peers.cast(PeersMsg::Arriving(records.iter().map(|record| record.hash).collect()));
    let take = |record: AssetRecord| {
        let taker = taker.clone();
        async move { (taker.take_over(record.clone()).await, record) }
    };
    let mut tried =
        stream::iter(records).map(take).buffer_unordered(TAKEN_OVER_AT_ONCE).ready_chunks(OUTCOME_BATCH);
    while let Some(tried) = tried.next().await {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (outcome, record) in tried {
            match outcome {
                Ok(Some(ItemOutcome::Stored | ItemOutcome::Unchanged)) => found.push(record),
                // The usual way finds out what is wrong.
                Ok(_) => missing.push(record),
                Err(error) => {
                    tracing::debug!(%error, "a content is not taken over; it is fetched");
                    missing.push(record);
                }
            }
        }
        if !missing.is_empty() {
            let _ =
                report.actor.send_message(PeerMsg::NotTakenOver { epoch: report.epoch, records: missing });
        }
        if !found.is_empty() {
            report.report(SessionInput::Settled(found.iter().map(|record| record.hash).collect()));
            let results = found.iter().map(|record| (WantKey::new(None, record), Ok(()))).collect();
            let _ = peers.cast(PeersMsg::Arrived { library: None, records: found });
            let _ = report.actor.send_message(PeerMsg::Received { epoch: report.epoch, results });
        }
    }
}

/// Stores contents that came with an offer. What the store does not take now goes the usual way.
pub(in crate::peer) async fn store_inline(
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
                results.push((WantKey::new(library, &record), Err(FetchFailure::WrongBytes(reason.clone()))));
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
