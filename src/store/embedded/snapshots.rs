//! Snapshots of what the store knows, in the bucket where its contents are, so that a machine that is gone with its disk is no loss
//! of names, tags and folders.
//!
//! # What is in them
//! What the feed tells, and what the database alone knows of it: small contents, names that users here gave, versions of folders' files
//! that lost ([`items`]). Nothing else: no keys, no tickets, no ids to write by. They are read from the database in pages, each of which
//! is a transaction of its own, so that neither a long reading nor a copy of the database keeps its log from being cut; and go out in
//! chunks, so that no room on the disk is needed.
//!
//! # When
//! A *base* has everything, and is made every week; *increments* have what changed since the part before, every hour in which something
//! did. Records merge in any order: what is read twice does no harm, and a part that is damaged takes away only what it had. The first
//! increment behind a base begins where the generation before ended, so that an older base does as well.
//!
//! # What becomes of old ones
//! In a place of the store's own, the two latest generations stay. Of a place that others use, nothing is ever deleted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::EmbeddedStore;
use super::objects::Objects;
use crate::store::bucket::deletion::DeletionOutcome;
use crate::store::bucket::snapshots::{Generation, PartName, SnapshotManifest, is_ahead};
use crate::store::bucket::{BucketError, SnapshotPace};
use crate::store::{SnapshotReport, StoreResult};

pub mod fuzz;
pub(super) mod items;
mod taking;
mod writing;

/// Generations that are kept in a place of the store's own.
const KEPT: usize = 2;
/// Before the first increment behind a base, at most: a store is often filled right after it was made.
const FIRST_PAUSE: Duration = Duration::from_mins(1);
/// Increments behind one base, at most.
const PARTS_MAX: u32 = 10_000;

pub(super) struct Snapshots {
    /// `None` where none are made.
    pace: Option<SnapshotPace>,
    state: Mutex<SnapshotReport>,
}

impl Snapshots {
    pub(super) fn new(pace: Option<SnapshotPace>) -> Self {
        let problem = Some("the object storage was not reached yet".to_owned());
        Self { pace, state: Mutex::new(SnapshotReport { problem, ..SnapshotReport::default() }) }
    }

    fn note(&self, last_ms: Option<u64>, problem: Option<Unmade>) {
        let mut state = self.state.lock();
        state.last_ms = last_ms.or(state.last_ms);
        state.problem = problem;
    }

    /// What people are told; `None` where none are made.
    pub(super) fn report(&self) -> Option<SnapshotReport> {
        self.pace.map(|_| self.state.lock().clone())
    }
}

/// The snapshot that is gone on with.
struct Line {
    generation: Generation,
    /// When its base was begun.
    base_ms: u64,
    /// When its last part was begun.
    last_ms: u64,
    next_part: u32,
    /// Behind which number the next increment begins.
    next: u64,
}

impl Line {
    /// One that these manifests are the first and the last of.
    fn of(name: PartName, base: &SnapshotManifest, last: &SnapshotManifest) -> Self {
        Self {
            generation: name.generation,
            base_ms: base.facts.made_ms,
            last_ms: last.facts.made_ms,
            next_part: name.part + 1,
            next: last.facts.next,
        }
    }

    /// How long there is no increment to make, of a part that was made just now: as long as there has been a base, at most.
    fn pause(&self, now_ms: u64, pace: SnapshotPace) -> Duration {
        pace.increment.min(self.age(now_ms).max(FIRST_PAUSE))
    }

    fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.base_ms))
    }

    fn is_over(&self, now_ms: u64, pace: SnapshotPace) -> bool {
        let age = self.age(now_ms);
        age >= pace.base || is_ahead(self.base_ms, now_ms) || self.next_part >= PARTS_MAX
    }
}

/// Why no snapshot was made; a sentence.
type Unmade = String;

impl EmbeddedStore {
    /// Makes snapshots for as long as the store is open.
    pub(super) async fn keep_snapshots(self) {
        let Some(objects) = &self.0.shared.objects else { return };
        let Some(pace) = objects.snapshots.pace else { return };
        let look = objects.bucket.patience().look.min(pace.increment);
        let store = Arc::downgrade(&self.0);
        drop(self);
        let mut line = None;
        let mut due = Instant::now();
        loop {
            let Some(store) = store.upgrade().map(EmbeddedStore) else { return };
            if store.0.turns.is_closed() {
                return;
            }
            if let Some(objects) = &store.0.shared.objects {
                if let Some(why) = objects.bucket.trouble() {
                    objects.snapshots.note(None, Some(why));
                    // As soon as that is over.
                    due = Instant::now();
                } else if Instant::now() >= due {
                    due = Instant::now() + store.snapshot_in_turn(objects, pace, &mut line).await;
                }
            }
            drop(store);
            tokio::time::sleep(look).await;
        }
    }

    /// Makes a snapshot, and takes note of how it went; how long there is none to make.
    async fn snapshot_in_turn(
        &self,
        objects: &Objects,
        pace: SnapshotPace,
        line: &mut Option<Line>,
    ) -> Duration {
        if line.is_none() {
            let found = match self.find_line(objects).await {
                Ok(found) => found,
                Err(error) => return Self::note_unmade(objects, unmade(objects, error), pace),
            };
            if let Some(found) = found {
                let now_ms = self.0.shared.clock.now_ms();
                let age = Duration::from_millis(now_ms.saturating_sub(found.last_ms));
                let pause = found.pause(found.last_ms, pace);
                objects.snapshots.note(Some(found.last_ms), None);
                *line = Some(found);
                if age < pause {
                    return pause.saturating_sub(age);
                }
            }
        }
        objects.snapshots.state.lock().running = true;
        let made = self.make_snapshot(objects, pace, line).await;
        objects.snapshots.state.lock().running = false;
        match made {
            Ok(made_ms) => {
                objects.snapshots.note(Some(made_ms), None);
                line.as_ref().map_or(pace.increment, |line| line.pause(made_ms, pace))
            }
            // It ends in a moment.
            Err(_) if self.0.turns.is_closed() => pace.retry,
            Err(why) => Self::note_unmade(objects, why, pace),
        }
    }

    fn note_unmade(objects: &Objects, why: Unmade, pace: SnapshotPace) -> Duration {
        if objects.snapshots.state.lock().problem.as_ref() != Some(&why) {
            tracing::warn!(why, "no snapshot of the records is made in the object storage");
        }
        objects.snapshots.note(None, Some(why));
        pace.retry
    }

    /// The line that an earlier run left, if it can be gone on with.
    async fn find_line(&self, objects: &Objects) -> Result<Option<Line>, BucketError> {
        let parts = objects.bucket.snapshot_parts(Some(self.id())).await?;
        let Some(base) = parts.iter().rev().find(|name| name.part == 0) else { return Ok(None) };
        let of = parts.iter().filter(|name| name.generation == base.generation);
        // What lies behind a gap is of no line.
        let whole = of.zip(0..).take_while(|(name, number)| name.part == *number);
        let Some((last, _)) = whole.last() else { return Ok(None) };
        let read = async |name| match objects.bucket.read_part(name).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(BucketError::Missing | BucketError::Wrong(_)) => Ok(None),
            Err(error) => Err(error),
        };
        let line = read(base).await?.zip(read(last).await?);
        Ok(line.map(|(base, manifest)| Line::of(last.clone(), &base, &manifest)))
    }

    /// Makes an increment, or a base where that is due; of when it is.
    async fn make_snapshot(
        &self,
        objects: &Objects,
        pace: SnapshotPace,
        line: &mut Option<Line>,
    ) -> Result<u64, Unmade> {
        let now_ms = self.0.shared.clock.now_ms();
        if let Some(line) = line.as_mut().filter(|line| !line.is_over(now_ms, pace))
            && self.make_increment(objects, line, now_ms).await?
        {
            return Ok(now_ms);
        }
        // Of a store that was set back, the numbers before mean nothing.
        let before = match line {
            Some(line) => {
                self.continues(line.next).await.map_err(|error| error.to_string())?.then_some(line.next)
            }
            None => None,
        };
        let made = line.insert(self.make_base(objects, before, now_ms).await?);
        if let Err(error) = self.delete_old_snapshots(objects, &made.generation).await {
            tracing::debug!(?error, "old snapshots are not deleted yet");
        }
        Ok(now_ms)
    }

    /// Adds what changed to a line; `false` if that cannot be gone on with.
    async fn make_increment(&self, objects: &Objects, line: &mut Line, now_ms: u64) -> Result<bool, Unmade> {
        let name = PartName { store: self.id(), generation: line.generation.clone(), part: line.next_part };
        let Some(part) = self.write_part(objects, &name, line.next, now_ms).await? else { return Ok(false) };
        if part.items > 0 {
            let manifest = SnapshotManifest::new(&name, part.clone());
            if !objects.bucket.put_manifest(&name, &manifest).await.map_err(|error| unmade(objects, error))? {
                tracing::warn!(part = ?name, "a copy of this store makes snapshots, too: another one is begun");
                return Ok(false);
            }
            line.next_part += 1;
            // Where there is nothing to tell, the next one begins where the last part ended, so that there is no gap between the two.
            line.next = part.next;
        }
        line.last_ms = now_ms;
        Ok(true)
    }

    async fn make_base(&self, objects: &Objects, before: Option<u64>, now_ms: u64) -> Result<Line, Unmade> {
        let there = objects.bucket.snapshot_generations(self.id()).await;
        let there = there.map_err(|error| unmade(objects, error))?;
        let generation = Generation::after(there.last(), now_ms);
        let name = PartName { store: self.id(), generation, part: 0 };
        let part = self.write_part(objects, &name, 0, now_ms).await?;
        let mut part = part.ok_or("the feed of the store cannot be read")?;
        part.next = before.unwrap_or(part.end).min(part.end);
        let manifest = SnapshotManifest::new(&name, part);
        if !objects.bucket.put_manifest(&name, &manifest).await.map_err(|error| unmade(objects, error))? {
            return Err("the object storage does not give back what was put there".into());
        }
        tracing::info!(
            bucket = objects.bucket.shown(),
            assets = manifest.facts.assets,
            bytes = manifest.bytes(),
            "made a snapshot of all records in the object storage"
        );
        Ok(Line::of(name, &manifest, &manifest))
    }

    /// Deletes all generations of this store but the latest whole ones and the one that is gone on with, in a place of its own.
    async fn delete_old_snapshots(&self, objects: &Objects, current: &Generation) -> Result<(), BucketError> {
        let parts = objects.bucket.snapshot_parts(Some(self.id())).await?;
        let whole: Vec<&Generation> =
            parts.iter().filter(|name| name.part == 0).map(|name| &name.generation).collect();
        let Some(oldest) = whole.len().checked_sub(KEPT).and_then(|at| whole.get(at)) else { return Ok(()) };
        for generation in objects.bucket.snapshot_generations(self.id()).await? {
            let is_kept = generation == *current || generation >= **oldest && whole.contains(&&generation);
            if !is_kept
                && objects.bucket.delete_generation(self.id(), &generation).await? != DeletionOutcome::Done
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How snapshots stand, where contents are in a bucket and snapshots are made.
    pub(super) fn snapshot_report(&self) -> Option<SnapshotReport> {
        self.0.shared.objects.as_ref().and_then(|objects| objects.snapshots.report())
    }

    /// Whether a reader of the feed can go on behind this number.
    async fn continues(&self, number: u64) -> StoreResult<bool> {
        let shared = Arc::clone(&self.0.shared);
        let read = move |conn: &rusqlite::Connection| {
            Ok(!shared.needs_reset(conn, number, &super::tx::Totals::read(conn)?)?)
        };
        self.0.shared.readers.run("read the store's status", read).await
    }
}

/// Why the bucket takes no snapshot.
fn unmade(objects: &Objects, error: BucketError) -> Unmade {
    let why = match error {
        BucketError::Away(why) | BucketError::Wrong(why) => why,
        BucketError::Missing => "it does not have what was put there just now".into(),
    };
    format!("the object storage {}: {why}", objects.bucket.shown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_young_is_gone_on_with_sooner() {
        const BEGUN_MS: u64 = 1_790_000_000_000;
        let minutes = |n: u64| n * 60_000;
        let line = Line {
            generation: Generation::new(BEGUN_MS),
            base_ms: BEGUN_MS,
            last_ms: BEGUN_MS,
            next_part: 1,
            next: 0,
        };
        let pace = SnapshotPace::default();
        for (age, pause) in [(0, 1), (1, 1), (2, 2), (30, 30), (60, 60), (600, 60)] {
            assert_eq!(
                line.pause(BEGUN_MS + minutes(age), pace),
                Duration::from_mins(pause),
                "after {age} min"
            );
        }
        // By a clock that was set back.
        assert_eq!(line.pause(BEGUN_MS - 1, pace), FIRST_PAUSE);
        let restless = SnapshotPace { increment: Duration::from_millis(50), ..pace };
        assert_eq!(line.pause(BEGUN_MS, restless), restless.increment);
    }
}
