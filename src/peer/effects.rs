//! The tasks that perform a session's effects and report their outcomes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use iroh::EndpointId;
use iroh::endpoint::Connection;
use ractor::ActorRef;
use tokio::time::{sleep, timeout};

use super::messages::PeerMsg;
use super::reconciliation::{self, ComparedRecords};
use super::session::{EntryNews, SessionInput};
use crate::clock::now_ms;
use crate::entry::EntryHash;
use crate::events::{EventLog, NodeEvent};
use crate::library::Library;
use crate::reconcile::tree::Snapshot;
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::store::{StoreRef, StoreResult};
use crate::transfer::receive::Results;
use crate::transfer::schedule::FetchFailure;

mod entries;
mod judging;
mod keeping;
mod storing;

pub(super) use self::entries::{load_entries, take_entries};
pub(super) use self::judging::{FetchRequest, Rules, judge_all};
pub use self::keeping::KeepQuestion;
pub(super) use self::keeping::{drop_copy, place_tag, prepare_drop, promise};
pub(super) use self::storing::{apply, reassert, store_inline, take_absent, take_over};

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

    fn report(&self, input: SessionInput) {
        // An actor that is gone needs no outcome.
        let _ = self.actor.send_message(PeerMsg::Outcome { epoch: self.epoch, lane: self.lane, input });
    }
}

/// Asks the store until it answers; a store that is down costs delay, nothing else. The task ends with its session.
async fn until_the_store_answers<T, F: Future<Output = StoreResult<T>>>(mut call: impl FnMut() -> F) -> T {
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

/// Looks for contents that the peer asked for by their names, in a library if we may give of it: what is there of them,
/// and what is not.
pub(super) async fn look(
    store: StoreRef,
    library: Option<Arc<Library>>,
    hashes: Vec<ContentHash>,
) -> (Vec<AssetRecord>, Vec<ContentHash>) {
    let Some(library) = library else { return (Vec::new(), hashes) };
    // A library that is shared by ticket knows what is in it; the mirror's index may lag behind the store.
    let may_be = |hash: &ContentHash| library.is_mirror() || library.has(hash);
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

/// Compares records with the peer's: those of assets, then those of folders. That the latter cannot be compared is no harm to the former.
pub(super) async fn reconcile(
    report: Reporter,
    connection: Connection,
    library: bytes::Bytes,
    assets: Option<Snapshot>,
    entries: Option<Snapshot>,
) {
    let mut result = Ok(());
    if let Some(assets) = assets {
        let found = |have: Vec<ContentHash>, need: Vec<RecordId>| {
            if !(have.is_empty() && need.is_empty()) {
                report.report(SessionInput::Differences { have, need });
            }
        };
        let subject = ComparedRecords { entries: false, more: entries.is_some() };
        result = reconciliation::initiate(&connection, library.clone(), (assets, subject), found).await;
    }
    if let Some(entries) = entries.filter(|_| result.is_ok()) {
        let found = |have: Vec<ContentHash>, need: Vec<RecordId>| {
            if !(have.is_empty() && need.is_empty()) {
                let have = have.into_iter().map(|ContentHash(hash)| EntryHash(hash)).collect();
                report.report(SessionInput::Entries(EntryNews::Differences { have, need }));
            }
        };
        let subject = ComparedRecords { entries: true, more: false };
        result = reconciliation::initiate(&connection, library, (entries, subject), found).await;
    }
    report.report(SessionInput::ReconEnded { opened_here: true, result: result.map_err(|e| e.to_string()) });
}

/// Tells the watchers what came and what did not.
pub(super) fn publish_results(events: &EventLog, peer: EndpointId, results: &Results) {
    let at_ms = now_ms();
    for (key, result) in results {
        let (hash, size, from) = (key.hash.to_string(), key.size, peer.to_string());
        match result {
            Ok(()) => events.publish(at_ms, NodeEvent::AssetReceived { hash, size, from }),
            // It is asked for again at once.
            Err(FetchFailure::Interrupted(_)) => {}
            Err(failure) => {
                let reason = failure.reason().to_owned();
                events.publish(at_ms, NodeEvent::AssetFailed { hash, from, reason });
            }
        }
    }
}
