//! Changes that the writer is asked to make.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::RECORD_BYTES;
use crate::store::embedded::objects::UploadedContents;
use crate::store::embedded::tx::Tx;
use crate::store::{ReceivedFile, StoreError, StoreResult};

/// A change, and who waits for it.
pub(in crate::store::embedded) trait WriteJob: Send {
    /// Content that has to be in its place before the change is made.
    fn files(&mut self) -> Vec<ReceivedFile>;
    /// Content that is in the bucket now, and right.
    fn uploaded(&mut self) -> Option<UploadedContents> {
        None
    }
    /// Roughly what it adds to the WAL.
    fn weight(&self) -> usize;
    /// Whether it is never refused for want of room. It can be run again if it was not committed.
    fn is_deletion(&self) -> bool;
    /// Makes the change in the group's transaction; the answer is kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// Gives the answer, after the group was committed or failed.
    fn finish(self: Box<Self>, group: StoreResult);
}

/// The usual [`WriteJob`]: a closure.
pub(in crate::store::embedded) struct Task<F, T> {
    pub(in crate::store::embedded) files: Vec<ReceivedFile>,
    pub(in crate::store::embedded) uploaded: Option<UploadedContents>,
    pub(in crate::store::embedded) bytes: usize,
    pub(in crate::store::embedded) run: Option<F>,
    pub(in crate::store::embedded) answer: Option<StoreResult<T>>,
    pub(in crate::store::embedded) reply: oneshot::Sender<StoreResult<T>>,
    /// A place in the queue, given back with the answer.
    pub(in crate::store::embedded) _turn: OwnedSemaphorePermit,
}

impl<F, T> WriteJob for Task<F, T>
where
    F: FnOnce(&mut Tx<'_>) -> rusqlite::Result<StoreResult<T>> + Send,
    T: Send,
{
    fn files(&mut self) -> Vec<ReceivedFile> {
        std::mem::take(&mut self.files)
    }

    fn uploaded(&mut self) -> Option<UploadedContents> {
        self.uploaded.take()
    }

    fn weight(&self) -> usize {
        self.bytes + RECORD_BYTES
    }

    fn is_deletion(&self) -> bool {
        false
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        if let Some(run) = self.run.take() {
            self.answer = Some(run(tx)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, group: StoreResult) {
        let Self { answer, reply, .. } = *self;
        // The caller may have gone; the change stands all the same.
        let _ = reply.send(group.and_then(|()| answer.unwrap_or_else(not_run)));
    }
}

/// A [`WriteJob`] that makes room, or sets aside what is damaged.
pub(in crate::store::embedded) struct RoomMaking<F, T> {
    pub(in crate::store::embedded) run: F,
    pub(in crate::store::embedded) answer: Option<StoreResult<T>>,
    pub(in crate::store::embedded) reply: oneshot::Sender<StoreResult<T>>,
    /// A place in the queue, given back with the answer.
    pub(in crate::store::embedded) _turn: OwnedSemaphorePermit,
}

impl<F, T> WriteJob for RoomMaking<F, T>
where
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<StoreResult<T>> + Send,
    T: Send,
{
    fn files(&mut self) -> Vec<ReceivedFile> {
        Vec::new()
    }

    fn weight(&self) -> usize {
        RECORD_BYTES
    }

    fn is_deletion(&self) -> bool {
        true
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.answer = Some((self.run)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, group: StoreResult) {
        let Self { answer, reply, .. } = *self;
        // As above.
        let _ = reply.send(group.and_then(|()| answer.unwrap_or_else(not_run)));
    }
}

fn not_run<T>() -> StoreResult<T> {
    Err(StoreError::Io { action: "write to the store".into(), reason: "the change was not made".into() })
}
