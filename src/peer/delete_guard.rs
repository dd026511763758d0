//! Whether peers' deletions are applied here, and the brake on mass deletions.
//!
//! The rules are in [`decisions`]; this gives them the time, writes down what they come to before anything is done, and finds
//! out which of what waits has settled itself. It outlives every actor.

pub mod decisions;
mod sizes;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::decisions::{Decisions, DeletionRuling};
use crate::clock::Clock;
use crate::events::{EventLog, NodeEvent};
use crate::library::registry::{
    Deleter, Deletion, DeletionChange, DeletionDecision, Registry, RegistryError,
};
use crate::record::{AssetRecord, ContentHash};
use crate::store::{ItemOutcome, StoreRef, StoreResult, StoredRecord};

/// Records that the store is asked for, or given, at once.
const BATCH: usize = 500;
/// How long it has for them.
const STORE_WITHIN: Duration = Duration::from_secs(30);
const EXAMPLES: usize = 5;
/// A clock that shows something else by more than this was set.
const JUMP_MS: u64 = 60 * 1000;

#[derive(Debug)]
pub struct DeleteGuard {
    enabled: bool,
    decisions: Mutex<Decisions>,
    /// Where it is written down; nowhere in some tests.
    registry: Option<Registry>,
    /// Taken before the decisions, so that they are written down in the order in which they were made.
    writing: Mutex<()>,
    clock: Clock,
    time: Mutex<SteadyTime>,
    events: EventLog,
}

/// Time that goes on evenly, and jumps where the clock was set.
#[derive(Debug)]
struct SteadyTime {
    ms: u64,
    /// How long the clock had run then.
    at: Duration,
}

impl SteadyTime {
    /// What time it is now, and by how much the clock was set since the last look: 0 where it was not.
    fn now(&mut self, clock_ms: u64, uptime: Duration) -> (u64, i64) {
        let passed = u64::try_from(uptime.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        let steady_ms = self.ms.saturating_add(passed);
        let was_set = clock_ms.abs_diff(steady_ms) > JUMP_MS;
        let ms = if was_set { clock_ms } else { steady_ms };
        *self = Self { ms, at: uptime };
        (ms, if was_set { clock_ms.cast_signed().saturating_sub(steady_ms.cast_signed()) } else { 0 })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldReport {
    pub id: String,
    pub deleter: Deleter,
    pub count: u64,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    pub examples: Vec<ContentHash>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is held back under this id")]
pub struct UnknownHold;

impl DeleteGuard {
    /// One that writes nothing down; `enabled` is the setting `replicate_deletes`.
    pub fn new(enabled: bool) -> Self {
        Self::of(enabled, Decisions::default(), None, Clock::system(), EventLog::default())
    }

    /// As it was written down. Blocks.
    pub fn open(
        enabled: bool,
        registry: Option<&Registry>,
        clock: Clock,
        events: EventLog,
    ) -> Result<Self, RegistryError> {
        let kept = registry.map(Registry::deletions).transpose()?.unwrap_or_default();
        let guard = Self::of(enabled, Decisions::new(kept), registry.cloned(), clock, events);
        guard.change(|decisions, now_ms| ((), decisions.bring_back(now_ms)));
        Ok(guard)
    }

    fn of(
        enabled: bool,
        decisions: Decisions,
        registry: Option<Registry>,
        clock: Clock,
        events: EventLog,
    ) -> Self {
        let time = SteadyTime { ms: clock.now_ms(), at: clock.uptime() };
        let (decisions, writing, time) = (Mutex::new(decisions), Mutex::default(), Mutex::new(time));
        Self { enabled, decisions, registry, writing, clock, time, events }
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn decisions(&self) -> MutexGuard<'_, Decisions> {
        self.decisions.lock()
    }

    /// Decides something at a time and writes it down; says whether it is written down, too. Blocks.
    fn change<T>(&self, work: impl FnOnce(&mut Decisions, u64) -> (T, Vec<DeletionChange>)) -> (T, bool) {
        let _order = self.writing.lock();
        let (now_ms, set_by_ms) = {
            let mut time = self.time.lock();
            time.now(self.clock.now_ms(), self.clock.uptime())
        };
        let (done, changes) = {
            let mut decisions = self.decisions();
            let mut changes =
                if set_by_ms == 0 { Vec::new() } else { decisions.follow_clock(set_by_ms, now_ms) };
            let (done, more) = work(&mut decisions, now_ms);
            changes.extend(more);
            (done, changes)
        };
        let Some(registry) = self.registry.as_ref().filter(|_| !changes.is_empty()) else {
            return (done, true);
        };
        let written = registry.change_deletions(&changes);
        if let Err(error) = &written {
            tracing::warn!(%error, "what is known of peers' deletions is forgotten at the next start");
        }
        (done, written.is_ok())
    }

    /// Which of these wait already in a library (`""` is the mirror), or were rejected there: nothing has to be looked at for
    /// them, however often they are brought.
    #[must_use]
    pub fn put_off(&self, library: &str, deletions: &[Deletion]) -> Vec<bool> {
        if !self.enabled {
            return vec![false; deletions.len()];
        }
        let decisions = self.decisions();
        deletions.iter().map(|deletion| decisions.is_put_off(library, deletion)).collect()
    }

    pub fn held(&self) -> u64 {
        if self.enabled { self.decisions().held() } else { 0 }
    }

    pub fn holds(&self) -> Vec<HoldReport> {
        if !self.enabled {
            return Vec::new();
        }
        let decisions = self.decisions();
        let report = decisions.holds().map(|(by, hold)| HoldReport {
            id: hold_id(by),
            deleter: by.clone(),
            count: hold.deletions.len() as u64,
            since_ms: hold.since_ms,
            examples: hold.deletions.keys().take(EXAMPLES).copied().collect(),
        });
        report.collect()
    }

    /// Deletions that were confirmed and that nobody has brought again yet, and those that were rejected.
    pub fn decided(&self) -> (u64, u64) {
        self.decisions().decided()
    }

    /// So many live assets has each library (`""` is the mirror) now. To be told regularly: a share is one of the least that
    /// there was within a day, of the day before deletions were switched on as well. Blocks.
    pub fn note_sizes(&self, sizes: &[(String, u64)]) {
        self.change(|decisions, now_ms| {
            let changes =
                sizes.iter().flat_map(|(library, assets)| decisions.note_size(library, *assets, now_ms));
            ((), changes.collect())
        });
    }

    /// Rules on deletions that came together from one deleter, in a set of `assets` live assets. Blocks: what is applied is
    /// counted on the disk before.
    pub fn judge(&self, by: &Deleter, deletions: &[Deletion], assets: u64) -> Vec<DeletionRuling> {
        let ((mut rulings, began), written) = self.change(|decisions, now_ms| {
            let before = decisions.hold(by).is_some();
            let (rulings, changes) = decisions.judge(by, deletions, assets, now_ms);
            let began = decisions.hold(by).filter(|_| !before).map(|hold| hold.deletions.len());
            ((rulings, began), changes)
        });
        if !written {
            // What is not counted on the disk is not applied: it comes again with the next comparison.
            rulings
                .iter_mut()
                .filter(|ruling| **ruling == DeletionRuling::Apply)
                .for_each(|r| *r = DeletionRuling::Hold);
        }
        if let Some(held) = began {
            let held = held as u64;
            let Deleter { library, source } = by.clone();
            let library = (!library.is_empty()).then_some(library);
            tracing::warn!(
                library,
                source,
                held,
                "too much would be deleted at once: held back until somebody decides; `can-sync deletions` lists it"
            );
            self.events.publish(crate::clock::now_ms(), NodeEvent::DeletionsHeld { library, source, held });
        }
        rulings
    }

    /// Somebody decided about one hold, or about all: what waits is applied when it comes again, or never is. Blocks.
    pub fn decide(
        &self,
        hold: Option<&str>,
        decision: DeletionDecision,
    ) -> Result<Vec<(String, Deletion)>, UnknownHold> {
        let (about, _) = self.change(|decisions, _| {
            let chosen = |by: &Deleter| hold.is_none_or(|id| hold_id(by) == id);
            let deleters: Vec<Deleter> =
                decisions.holds().map(|(by, _)| by).filter(|by| chosen(by)).cloned().collect();
            if deleters.is_empty() && hold.is_some() {
                return (None, Vec::new());
            }
            let (about, changes) = decisions.decide(&deleters, decision);
            (Some(about), changes)
        });
        about.ok_or(UnknownHold)
    }

    /// Whether any of these changes of the store settles something.
    pub fn concerns<'a>(&self, mut hashes: impl Iterator<Item = &'a ContentHash>) -> bool {
        let decisions = self.decisions();
        hashes.any(|hash| decisions.concerns(hash))
    }

    /// The store has these now. Blocks.
    pub fn note(&self, records: &[AssetRecord]) {
        self.change(|decisions, _| ((), decisions.note(records)));
    }

    /// A library is gone. Blocks.
    pub fn forget_library(&self, library: &str) {
        self.change(|decisions, _| ((), decisions.forget_library(library)));
    }

    /// Looks which of what waits has settled itself while this node did not run.
    pub async fn look_again(self: Arc<Self>, store: StoreRef) {
        let waiting = self.decisions().hashes();
        for hashes in waiting.chunks(BATCH) {
            let Ok(Ok(records)) = timeout(STORE_WITHIN, store.records(hashes.to_vec())).await else { return };
            let records: Vec<AssetRecord> = records.into_iter().map(|stored| stored.record).collect();
            let found: HashSet<ContentHash> = records.iter().map(|record| record.hash).collect();
            let gone: Vec<ContentHash> =
                hashes.iter().filter(|hash| !found.contains(*hash)).copied().collect();
            let guard = Arc::clone(&self);
            let noted = spawn_blocking(move || {
                guard.note(&records);
                guard.change(|decisions, _| ((), decisions.note_gone(&gone)));
            });
            // Nothing but a panic ends it, and that is told already.
            let _ = noted.await;
        }
    }
}

/// Writes what is here once more, later than deletions of it that were rejected, so that it lives everywhere again. Says how
/// much that was. `now_ms` is the time.
pub async fn restore(store: &StoreRef, rejected: &[Deletion], now_ms: u64) -> StoreResult<u64> {
    let mut restored = 0;
    for some in rejected.chunks(BATCH) {
        let records = store.records(some.iter().map(|deletion| deletion.hash).collect()).await?;
        let again = |StoredRecord { record, .. }: StoredRecord| {
            let deletion = some.iter().find(|deletion| deletion.hash == record.hash)?;
            let hlc = record.hlc.max(deletion.hlc).next(now_ms);
            // It is the same edit: what is private stays so.
            (!record.deleted).then_some(AssetRecord { hlc, ..record })
        };
        let outcomes = store.apply(records.into_iter().filter_map(again).collect()).await?;
        restored += outcomes.iter().filter(|outcome| matches!(outcome, ItemOutcome::Stored)).count() as u64;
    }
    Ok(restored)
}

/// A hold's name: short enough to be typed, and the same after a restart.
fn hold_id(by: &Deleter) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(by.library.as_bytes()).update(&[0]).update(by.source.as_bytes());
    data_encoding::HEXLOWER.encode(&hasher.finalize().as_bytes()[..4])
}
