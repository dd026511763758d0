//! Judging what a peer offers: which versions are applied, fetched, put off or refused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{Reporter, until_the_store_answers};
use crate::actor::ServiceRef;
use crate::library::Library;
use crate::library::registry::{Deleter, Deletion};
use crate::peer::deferrals::{Deferrals, Note};
use crate::peer::delete_guard::DeleteGuard;
use crate::peer::delete_guard::decisions::DeletionRuling;
use crate::peer::messages::PeersMsg;
use crate::peer::session::{OfferVerdict, SessionInput, judge_for, judge_holding};
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, LibraryId, WriterId};
use crate::store::{Holding, StoreRef, StoredRecord};
use crate::transfer::schedule::SessionId;

/// How long deletions wait until their library was read from the store, and how often that is looked at.
const FILLED_WITHIN: Duration = Duration::from_secs(30);
const FILLED_LOOK: Duration = Duration::from_millis(200);
/// Time until records are offered again that had to wait a moment before.
const HELD_NO_MORE_MS: u64 = 100;

/// Waits until all that the store has was read into a library: until then it is larger than it looks.
async fn until_filled(library: &Library) {
    while library.is_filling() {
        sleep(FILLED_LOOK).await;
    }
}

/// What the peer was asked for by name, because a user wants it.
pub(in crate::peer) struct FetchRequest {
    pub(in crate::peer) hashes: HashSet<ContentHash>,
    /// Who writes the live version of what was deleted here, if that may come back.
    pub(in crate::peer) revive: Option<WriterId>,
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
pub(in crate::peer) struct Rules {
    pub(in crate::peer) deletes: Arc<DeleteGuard>,
    /// The device or ticket that the peer's deletions count for.
    pub(in crate::peer) deleter: Deleter,
    pub(in crate::peer) deferrals: Deferrals,
    /// Whether we may write into the library: only then ours can be written once more.
    pub(in crate::peer) gives: bool,
    /// Whether the peer owns the library: what it sends does not depend on what it took back.
    pub(in crate::peer) from_owner: bool,
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

/// As [`judge_holding`], where what is not to be held here comes as a record alone.
fn judge_mirrored(
    mirror: &Library,
    offered: &AssetRecord,
    held_there: bool,
    ours: Option<&StoredRecord>,
    sought: &FetchRequest,
    (now_ms, limits): (u64, (u64, bool)),
    store: &StoreRef,
) -> OfferVerdict {
    // What a user asked for is wanted, whatever the rules say.
    let rules = mirror.hold_rules();
    if sought.hashes.contains(&offered.hash) || rules.wants_offered(offered, ours) {
        let verdict = judge_holding(offered, held_there, ours, now_ms, limits);
        // Before it is asked for, so that many at once do not come in vain.
        if verdict != OfferVerdict::Fetch || rules.reserve(offered.hash, offered.size, store.quota_left()) {
            return verdict;
        }
        mirror.leave_out(&offered.hash);
    }
    let ours = ours.map(|ours| match ours.holding {
        Holding::Wanted => StoredRecord { holding: Holding::Unwanted, ..ours.clone() },
        Holding::Held | Holding::Unwanted => ours.clone(),
    });
    judge_holding(offered, false, ours.as_ref(), now_ms, limits)
}

pub(in crate::peer) async fn judge_all(
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
            if !library.is_mirror() {
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
            let verdict = judge_mirrored(&library, &record, held_there, ours, &sought, (now, limits), &store);
            match (verdict, sought.revived(&record, ours.map(|ours| &ours.record), now)) {
                (OfferVerdict::Settled, Some(revived)) if held_there => (revived, OfferVerdict::Revive),
                (verdict, _) => (record, verdict),
            }
        })
        .collect();
    for (record, verdict) in &mut verdicts {
        // What is here outside of a library stays as it is, whatever its members say.
        let ours = ours.get(&record.hash).filter(|ours| library.is_mirror() || library.is_here(ours));
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
    if library.is_mirror() {
        // What a machine of the user's own has and our clock bears out is no later than the time.
        let taken = verdicts.iter().filter(|(_, v)| {
            matches!(v, OfferVerdict::Apply | OfferVerdict::Fetch | OfferVerdict::TakeAbsent)
        });
        let newest_ms = taken.map(|(record, _)| record.hlc.ms()).max().unwrap_or_default();
        rules.deferrals.clock().note_confirmed(newest_ms);
    }
    // What comes of these is told by those who fetch them; of the others nothing comes.
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

#[cfg(test)]
mod tests;
