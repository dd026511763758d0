//! Whether peers' deletions are applied here, and the brake on mass deletions.
//!
//! The rules are in [`decisions`]; this gives them the time, writes down what they come to before anything is done, and finds
//! out which of what waits has settled itself. It outlives every actor.

pub mod decisions;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::decisions::{Decisions, Ruling};
use crate::clock::Clock;
use crate::events::{EventLog, NodeEvent};
use crate::library::registry::{Decision, Deleter, Deletion, DeletionChange, Registry, RegistryError};
use crate::record::{AssetRecord, ContentHash, WriterId};
use crate::store::{Outcome, StoreError, StoreRef, StoredRecord};

/// Records that the store is asked for, or given, at once.
const BATCH: usize = 500;
/// How long it has for them.
const STORE_WITHIN: Duration = Duration::from_secs(30);
/// Assets that are named of those whose deletion waits.
const EXAMPLES: usize = 5;

/// See the module.
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

/// Time that goes on whatever the clock does, and follows it forward.
#[derive(Debug)]
struct SteadyTime {
    ms: u64,
    /// How long the clock had run then.
    at: Duration,
}

impl SteadyTime {
    /// As of a start: what is written down was before.
    fn start(clock_ms: u64, latest_ms: u64, at: Duration) -> Self {
        Self { ms: clock_ms.max(latest_ms), at }
    }

    fn now(&mut self, clock_ms: u64, uptime: Duration) -> u64 {
        let passed = u64::try_from(uptime.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        *self = Self { ms: clock_ms.max(self.ms.saturating_add(passed)), at: uptime };
        self.ms
    }
}

/// The deletions of one deleter that wait, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldReport {
    /// Names it.
    pub id: String,
    /// Who brought them.
    pub deleter: Deleter,
    /// How many.
    pub count: u64,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Some of the assets.
    pub examples: Vec<ContentHash>,
}

/// There is no hold of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is held back under this id")]
pub struct UnknownHold;

impl DeleteGuard {
    /// One that writes nothing down; `enabled` is the setting `replicate_deletes`.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        Self::of(enabled, Decisions::default(), None, Clock::system(), EventLog::default())
    }

    /// As it was written down. Blocks.
    ///
    /// # Errors
    /// What the registry says.
    pub fn open(
        enabled: bool,
        registry: Option<&Registry>,
        clock: Clock,
        events: EventLog,
    ) -> Result<Self, RegistryError> {
        let kept = registry.map(Registry::deletions).transpose()?.unwrap_or_default();
        Ok(Self::of(enabled, Decisions::new(kept), registry.cloned(), clock, events))
    }

    fn of(
        enabled: bool,
        decisions: Decisions,
        registry: Option<Registry>,
        clock: Clock,
        events: EventLog,
    ) -> Self {
        let time = SteadyTime::start(clock.now_ms(), decisions.latest_ms(), clock.uptime());
        let (decisions, writing, time) = (Mutex::new(decisions), Mutex::default(), Mutex::new(time));
        Self { enabled, decisions, registry, writing, clock, time, events }
    }

    /// Whether peers' deletions are applied at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn decisions(&self) -> MutexGuard<'_, Decisions> {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.now(self.clock.now_ms(), self.clock.uptime())
    }

    /// Decides something and writes it down; says whether it is written down, too. Blocks.
    fn change<T>(&self, work: impl FnOnce(&mut Decisions) -> (T, Vec<DeletionChange>)) -> (T, bool) {
        let _order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, changes) = work(&mut self.decisions());
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

    /// Assets whose deletion waits.
    #[must_use]
    pub fn held(&self) -> u64 {
        if self.enabled { self.decisions().held() } else { 0 }
    }

    /// What waits, by deleter.
    #[must_use]
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
    #[must_use]
    pub fn decided(&self) -> (u64, u64) {
        self.decisions().decided()
    }

    /// Rules on deletions that came together from one deleter, in a set of `assets` live assets. Blocks: what is applied is
    /// counted on the disk before.
    pub fn judge(&self, by: &Deleter, deletions: &[Deletion], assets: u64) -> Vec<Ruling> {
        let now_ms = self.now_ms();
        let ((mut rulings, began), written) = self.change(|decisions| {
            let before = decisions.hold(by).is_some();
            let (rulings, changes) = decisions.judge(by, deletions, assets, now_ms);
            let began = decisions.hold(by).filter(|_| !before).map(|hold| hold.deletions.len());
            ((rulings, began), changes)
        });
        if !written {
            // What is not counted on the disk is not applied: it comes again with the next comparison.
            rulings.iter_mut().filter(|ruling| **ruling == Ruling::Apply).for_each(|r| *r = Ruling::Hold);
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
    ///
    /// # Errors
    /// [`UnknownHold`].
    pub fn decide(
        &self,
        hold: Option<&str>,
        decision: Decision,
    ) -> Result<Vec<(String, Deletion)>, UnknownHold> {
        let (about, _) = self.change(|decisions| {
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
    #[must_use]
    pub fn concerns<'a>(&self, mut hashes: impl Iterator<Item = &'a ContentHash>) -> bool {
        let decisions = self.decisions();
        hashes.any(|hash| decisions.concerns(hash))
    }

    /// The store has these now. Blocks.
    pub fn note(&self, records: &[AssetRecord]) {
        self.change(|decisions| ((), decisions.note(records)));
    }

    /// A library is gone. Blocks.
    pub fn forget_library(&self, library: &str) {
        self.change(|decisions| ((), decisions.forget_library(library)));
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
                guard.change(|decisions| ((), decisions.note_gone(&gone)));
            });
            // Nothing but a panic ends it, and that is told already.
            let _ = noted.await;
        }
    }
}

/// Writes what is here once more, later than deletions of it that were rejected, so that it lives everywhere again. Says how
/// much that was. `now_ms` is the time.
///
/// # Errors
/// What the store says.
pub async fn restore(
    store: &StoreRef,
    own: WriterId,
    rejected: &[Deletion],
    now_ms: u64,
) -> Result<u64, StoreError> {
    let mut restored = 0;
    for some in rejected.chunks(BATCH) {
        let records = store.records(some.iter().map(|deletion| deletion.hash).collect()).await?;
        let again = |StoredRecord { record, .. }: StoredRecord| {
            let deletion = some.iter().find(|deletion| deletion.hash == record.hash)?;
            let hlc = record.hlc.max(deletion.hlc).next(now_ms);
            (!record.deleted).then_some(AssetRecord { hlc, writer: own, ..record })
        };
        let outcomes = store.apply(records.into_iter().filter_map(again).collect()).await?;
        restored += outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Stored)).count() as u64;
    }
    Ok(restored)
}

/// A hold's name: short enough to be typed, and the same after a restart.
fn hold_id(by: &Deleter) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(by.library.as_bytes()).update(&[0]).update(by.source.as_bytes());
    data_encoding::HEXLOWER.encode(&hasher.finalize().as_bytes()[..4])
}
