//! The receiving end of a part of a large content.
//!
//! Where the content has a root, the header's proof says what each group hashes to, and no byte of a group is written or counted
//! before all of it was found to be right. What was proved before a wrong group stays.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use iroh::EndpointId;
use iroh::endpoint::RecvStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Intake, Trouble, WRONG_BYTES};
use crate::store::groups::{GROUP_BYTES, GroupSum, check_proof, group_count, group_sum, groups_of};
use crate::store::{StoreError, StoreRef, StoreResult};
use crate::transfer::partial::{BLOCK_BYTES, Block, BlockPool, Partial, Partials};
use crate::transfer::schedule::{FetchFailure, WantKey};
use crate::wire::proto::ContentHeader;

/// What came is written after this time, also if it does not fill a block: less is lost with the process.
const WRITE_AFTER: Duration = Duration::from_millis(100);
/// How often it is looked whether those who work on a content for another root have stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the groups of `range` hash to, as the header proves; none without a root.
pub(super) fn sums_of(
    header: &ContentHeader,
    root: Option<GroupSum>,
    range: &Range<u64>,
) -> Result<Vec<GroupSum>, FetchFailure> {
    let Some(root) = root else { return Ok(Vec::new()) };
    let (proof, rest) = header.proof.as_chunks::<32>();
    if proof.is_empty() && rest.is_empty() {
        return Err(FetchFailure::NoProof("the peer cannot prove parts of it".into()));
    }
    let sums = check_proof(&root, group_count(header.total), &groups_of(range), proof);
    sums.filter(|_| rest.is_empty()).ok_or_else(|| {
        FetchFailure::FalseProof(
            "what it sent as proof does not lead to the BLAKE3 that it says the content has".into(),
        )
    })
}

impl Intake {
    /// Takes in the bytes of `range`, whose groups hash to `sums` where there is a root; the inner error is our own disk's, or
    /// says that they are wrong.
    pub(super) async fn part(
        &mut self,
        stream: &mut RecvStream,
        key: WantKey,
        root: Option<GroupSum>,
        range: Range<u64>,
        sums: Vec<GroupSum>,
    ) -> Result<Result<(), FetchFailure>, Trouble> {
        let partial = match self.open(key, root).await {
            Ok(partial) => partial,
            Err(failure) => return Ok(Err(failure)),
        };
        let pool = self.receiver.partials.blocks().clone();
        let mut writer =
            BlockWriter::new(partial, pool, self.receiver.peer, range.clone(), root.map(|_| sums));
        while writer.left() > 0 {
            let read = self.read(stream, &mut writer).await?;
            if let Err(failure) = self.take(&mut writer, read).await {
                return Ok(Err(failure));
            }
        }
        let _held = self.receiver.traffic.hold();
        Ok(writer.finish().await.map_err(store_failure))
    }

    /// Reads into the block; no bytes came if what is there has waited long enough to be written.
    async fn read(&self, stream: &mut RecvStream, writer: &mut BlockWriter) -> Result<usize, Trouble> {
        let give_up = writer.last_came + self.receiver.stall;
        let until = writer.write_by().map_or(give_up, |by| by.min(give_up));
        let read = match timeout_at(until, stream.read(writer.free())).await {
            Ok(read) => read.map_err(|error| Trouble::Broken(error.to_string()))?,
            Err(_) if until < give_up => return Ok(0),
            Err(_) => return Err(self.stalled()),
        };
        let read = read.ok_or_else(|| Trouble::Broken("the stream ended inside a content".into()))?;
        self.count(read).await;
        writer.last_came = Instant::now();
        Ok(read)
    }

    /// Checks what came as far as it can be, and writes what is due.
    async fn take(&self, writer: &mut BlockWriter, read: usize) -> Result<(), FetchFailure> {
        let is_right = writer.take(read);
        let is_due = writer.is_full()
            || writer.left() == 0
            || writer.write_by().is_some_and(|by| by <= Instant::now());
        if (is_due || !is_right) && writer.ready > 0 {
            let _held = self.receiver.traffic.hold();
            writer.write().await.map_err(store_failure)?;
        }
        if is_right {
            return Ok(());
        }
        let at = writer.at;
        Err(FetchFailure::WrongBytes(format!("{WRONG_BYTES}: those at {at} are not of this content")))
    }

    async fn open(&self, key: WantKey, root: Option<GroupSum>) -> Result<Arc<Partial>, FetchFailure> {
        let partials = &self.receiver.partials;
        // It was looked at before it was asked for; that may be a while ago.
        check_room_for_parts(&self.receiver.taker.store, partials, &key)?;
        let give_up = Instant::now() + self.receiver.stall;
        loop {
            match partials.begin(key, root).await {
                // Others, who work on it for another root, were told to stop.
                Err(StoreError::Busy(_)) if Instant::now() < give_up => sleep(LOOK_AGAIN).await,
                Err(StoreError::Busy(why)) => return Err(FetchFailure::Source(why)),
                begun => return begun.map_err(store_failure),
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn store_failure(error: StoreError) -> FetchFailure {
    FetchFailure::Store(error.to_string())
}

/// Whether there is room for what is missing of a large content.
///
/// # Errors
/// [`FetchFailure::Asset`] if there is not, [`FetchFailure::Store`] if nothing is taken at all.
pub fn check_room_for_parts(
    store: &StoreRef,
    partials: &Partials,
    key: &WantKey,
) -> Result<(), FetchFailure> {
    if partials.get(key).is_some() {
        return Ok(());
    }
    let held = partials.held(key).unwrap_or(0).min(key.size);
    // What others are about to fill is as good as taken.
    check_room(store, (key.size - held).saturating_add(partials.outstanding()))
}

/// Whether there is room for `bytes`.
pub fn check_room(store: &StoreRef, bytes: u64) -> Result<(), FetchFailure> {
    store.check_room(bytes).map_err(|error| match error {
        StoreError::Full(_) | StoreError::OverQuota(_) | StoreError::BucketAway { .. } => {
            FetchFailure::Asset(error.to_string())
        }
        StoreError::NotFound(_)
        | StoreError::NotHeld(_)
        | StoreError::Changed(_)
        | StoreError::InFolder(_)
        | StoreError::NoFolders
        | StoreError::Corrupt(_)
        | StoreError::ReadOnly(_)
        | StoreError::Busy(_)
        | StoreError::Invalid(_)
        | StoreError::Unavailable { .. }
        | StoreError::Unauthorized { .. }
        | StoreError::Unsupported { .. }
        | StoreError::Io { .. } => FetchFailure::Store(error.to_string()),
    })
}

/// Gathers blocks, and writes one while the next one is gathered.
struct BlockWriter {
    partial: Arc<Partial>,
    pool: BlockPool,
    peer: EndpointId,
    block: Block,
    /// Where the block begins in the content.
    at: u64,
    end: u64,
    /// Bytes at the beginning of the block that may be written.
    ready: usize,
    /// What the groups hash to that were not written yet; nothing is checked without.
    sums: Option<std::vec::IntoIter<GroupSum>>,
    /// Of those groups whose bytes are ready.
    ready_sums: Vec<GroupSum>,
    writing: Option<JoinHandle<StoreResult>>,
    last_write: Instant,
    last_came: Instant,
}

impl BlockWriter {
    fn new(
        partial: Arc<Partial>,
        pool: BlockPool,
        peer: EndpointId,
        range: Range<u64>,
        sums: Option<Vec<GroupSum>>,
    ) -> Self {
        let (block, now) = (pool.take(), Instant::now());
        Self {
            partial,
            pool,
            peer,
            block,
            at: range.start,
            end: range.end,
            ready: 0,
            sums: sums.map(IntoIterator::into_iter),
            ready_sums: Vec::new(),
            writing: None,
            last_write: now,
            last_came: now,
        }
    }

    /// Bytes of the range that did not come yet.
    fn left(&self) -> u64 {
        self.end - self.at - self.block.filled().len() as u64
    }

    /// Where the next bytes go: as far as the range does, and to the end of a group where groups are checked.
    fn free(&mut self) -> &mut [u8] {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let group = self.sums.as_ref().map(|_| GROUP_BYTES - (self.block.filled().len() - self.ready));
        let free = self.block.free();
        let most = left.min(group.unwrap_or(left)).min(free.len());
        &mut free[..most]
    }

    /// So many bytes came; whether they are right as far as that can be said.
    fn take(&mut self, read: usize) -> bool {
        self.block.advance(read);
        let Some(sums) = &mut self.sums else {
            self.ready = self.block.filled().len();
            return true;
        };
        let open = &self.block.filled()[self.ready..];
        let is_last = self.at + self.block.filled().len() as u64 == self.end;
        if open.is_empty() || (open.len() < GROUP_BYTES && !is_last) {
            return true;
        }
        let group = usize::try_from((self.at + self.ready as u64) / GROUP_BYTES as u64).unwrap_or(usize::MAX);
        let Some(sum) = sums.next().filter(|sum| group_sum(group, open) == *sum) else {
            self.block.truncate(self.ready);
            return false;
        };
        self.ready_sums.push(sum);
        self.ready = self.block.filled().len();
        true
    }

    /// Whether nothing more can be taken before the block is written.
    fn is_full(&self) -> bool {
        self.ready == BLOCK_BYTES
    }

    /// When what is ready is to be written at the latest.
    fn write_by(&self) -> Option<Instant> {
        (self.ready > 0).then(|| self.last_write + WRITE_AFTER)
    }

    /// Begins to write what is ready, once what came before it is written.
    async fn write(&mut self) -> StoreResult {
        self.finish().await?;
        self.begin()
    }

    fn begin(&mut self) -> StoreResult {
        let mut next = self.pool.take();
        next.extend(&self.block.filled()[self.ready..]);
        self.block.truncate(self.ready);
        let (block, sums) = (std::mem::replace(&mut self.block, next), std::mem::take(&mut self.ready_sums));
        let at = self.at;
        self.at += self.ready as u64;
        (self.ready, self.last_write) = (0, Instant::now());
        self.writing = self.partial.begin_write(at, block, sums, self.peer)?;
        Ok(())
    }

    async fn finish(&mut self) -> StoreResult {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        written.unwrap_or_else(|error| {
            Err(StoreError::Io { action: "write a part of a content".into(), reason: error.to_string() })
        })
    }
}

impl Drop for BlockWriter {
    /// What came counts, also when the stream breaks, or its task ends with its session.
    fn drop(&mut self) {
        if self.ready > 0 && tokio::runtime::Handle::try_current().is_ok() {
            // Nobody is left to hear of a disk that fails; the content says so to the session that goes on with it.
            let _ = self.begin();
        }
    }
}
