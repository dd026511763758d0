//! A pass through the store, as it goes on in this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::incoming::blocking;
use super::super::rows::ContentPlace;
use super::super::{EmbeddedStore, aside, loss};
use super::ReadThrottle;
use super::reading::FileCheck;
use super::state::{self, ScrubState};
use crate::record::ContentHash;
use crate::store::StoreResult;
use crate::store::scrub::ScrubResult;

/// How often it is written down how far a pass is.
const SAVE_APART: Duration = Duration::from_secs(10);
/// Small contents that are checked in one read of the database.
const INLINE_AT_ONCE: usize = 32;

/// Contents that follow one another, and are taken at once: how far a pass is must never be ahead of what it read.
#[derive(Default)]
struct Batch {
    /// Hash, size in bytes, and key of each in the database.
    small: Vec<(ContentHash, u64, i64)>,
    skipped: Option<Skipped>,
}

/// Contents in object storage, which are not read.
struct Skipped {
    last: ContentHash,
    count: u64,
    bytes: u64,
}

impl Batch {
    fn skip(&mut self, hash: ContentHash, size: u64) {
        let before = self.skipped.take();
        let (count, bytes) = before.map_or((0, 0), |before| (before.count, before.bytes));
        self.skipped = Some(Skipped { last: hash, count: count + 1, bytes: bytes.saturating_add(size) });
    }
}

pub(super) struct Pass {
    pub(super) store: EmbeddedStore,
    pub(super) throttle: Arc<ReadThrottle>,
    saved: Instant,
}

impl Pass {
    pub(super) fn new(store: EmbeddedStore, throttle: Arc<ReadThrottle>) -> Self {
        Self { store, throttle, saved: Instant::now() }
    }

    pub(super) fn is_at_its_beginning(&self) -> bool {
        self.store.live().as_ref().is_none_or(|live| live.state.after.is_none())
    }

    /// Rests after work that reads no contents.
    pub(super) async fn breathe(&self, worked: Duration) -> StoreResult {
        let throttle = Arc::clone(&self.throttle);
        // The one that goes on sees that it is stopped.
        blocking("pace the scrub", move || {
            let _ = throttle.took(0, worked);
            Ok(())
        })
        .await
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut ScrubState)) {
        if let Some(live) = self.store.live().as_mut() {
            change(&mut live.state);
        }
    }

    fn after(&self) -> ContentHash {
        let after = self.store.live().as_ref().and_then(|live| live.state.after);
        after.unwrap_or(ContentHash([0; 32]))
    }

    /// Writes down how far it is, unless another pass began meanwhile.
    pub(super) async fn save(&mut self) -> StoreResult {
        let Some(state) = self.store.live().as_ref().map(|live| live.state.clone()) else { return Ok(()) };
        self.saved = Instant::now();
        let saved = self.store.submit_deletion(move |tx| {
            let stored = ScrubState::load(tx.conn)?;
            let counts = stored.pass == state.pass;
            if counts {
                // What its user wishes may be newer.
                ScrubState { bytes_per_sec: stored.bytes_per_sec, ..state.clone() }.save(tx.conn)?;
            }
            Ok(Ok(counts))
        });
        if !saved.await? {
            self.throttle.stop();
        }
        Ok(())
    }

    /// Reads everything that is held; whether it came to the end.
    pub(super) async fn read_all(&mut self) -> StoreResult<bool> {
        loop {
            let after = self.after();
            let page = move |conn: &Connection| aside::held_after(conn, after.0);
            let page = self.store.0.shared.readers.run("list contents to check", page).await?;
            if page.is_empty() {
                return Ok(true);
            }
            let mut batch = Batch::default();
            for held in page {
                if self.throttle.is_stopped() {
                    return Ok(false);
                }
                match held.place {
                    ContentPlace::Inline(id) => {
                        batch.small.push((held.hash, held.size, id));
                        if batch.small.len() == INLINE_AT_ONCE {
                            self.take_batch(&mut batch).await?;
                        }
                    }
                    // What is in a bucket is paid for by the byte: it is checked when it is read.
                    ContentPlace::Object => batch.skip(held.hash, held.size),
                    ContentPlace::File => {
                        self.take_batch(&mut batch).await?;
                        match self.store.check_file(held.hash, held.size, &self.throttle).await? {
                            FileCheck::Done => self.passed(held.hash, 1, held.size),
                            FileCheck::WentUp => batch.skip(held.hash, held.size),
                            FileCheck::Unreadable => {
                                self.update(|state| state.unreadable += 1);
                                self.passed(held.hash, 0, 0);
                            }
                            FileCheck::Stopped => return Ok(false),
                        }
                    }
                }
                if self.saved.elapsed() > SAVE_APART {
                    self.save().await?;
                }
            }
            self.take_batch(&mut batch).await?;
        }
    }

    /// Reads the small contents of a batch, and counts those that are passed over.
    async fn take_batch(&self, batch: &mut Batch) -> StoreResult {
        let Batch { small, skipped } = std::mem::take(batch);
        self.read_small(small).await?;
        let Some(Skipped { last, count, bytes }) = skipped else { return Ok(()) };
        self.update(|state| {
            // A small one may have come after it.
            state.after = state.after.max(Some(last));
            state.not_checked += count;
            state.not_checked_bytes = state.not_checked_bytes.saturating_add(bytes);
        });
        self.throttle.content_ends();
        Ok(())
    }

    async fn read_small(&self, small: Vec<(ContentHash, u64, i64)>) -> StoreResult {
        let Some((last, ..)) = small.last().copied() else { return Ok(()) };
        let bytes = small.iter().map(|(_, size, _)| size).sum();
        let count = small.len() as u64;
        self.store.check_small(small, &self.throttle).await?;
        self.passed(last, count, bytes);
        Ok(())
    }

    /// Contents up to this one were read.
    fn passed(&self, last: ContentHash, count: u64, bytes: u64) {
        self.update(|state| {
            state.after = Some(last);
            state.checked += count;
            state.bytes = state.bytes.saturating_add(bytes);
        });
        self.throttle.content_ends();
    }

    pub(super) async fn finish(&mut self) -> StoreResult {
        let Some(done) = self.store.live().as_ref().map(|live| live.state.clone()) else { return Ok(()) };
        let now_ms = self.store.0.shared.clock.now_ms();
        let ended = self.store.submit_deletion(move |tx| {
            let stored = ScrubState::load(tx.conn)?;
            if stored.pass != done.pass {
                return Ok(Ok(None));
            }
            let (found, healed) = state::count_findings(tx.conn)?;
            let without_record = loss::unnamed(tx.conn)?;
            let mut ended = done.clone();
            ended.end(now_ms, found, healed, without_record);
            ended.save(tx.conn)?;
            Ok(Ok(ended.last))
        });
        if let Some(result) = ended.await? {
            let ScrubResult {
                pass,
                checked,
                bytes,
                not_checked,
                found,
                healed,
                without_record,
                rebuilt,
                unreadable,
                trash_damaged,
                ..
            } = result;
            tracing::info!(
                pass,
                checked,
                bytes,
                not_checked,
                found,
                healed,
                without_record,
                rebuilt,
                unreadable,
                trash_damaged,
                "the store is scrubbed"
            );
        }
        Ok(())
    }
}
