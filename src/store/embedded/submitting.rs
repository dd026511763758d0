//! How changes get to the writer, and its answers back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::EmbeddedStore;
use super::objects;
use super::purge::Purged;
use super::tx::Tx;
use super::writer::{Msg, RoomMaking, Task};
use crate::store::{ReceivedFile, StoreError, StoreResult};

/// Longest wait for a place in the queue, and then for the commit. A commit takes milliseconds; a disk that takes this
/// long is as good as gone.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_mins(2);

impl EmbeddedStore {
    /// Queues a change and waits until it is durable. `files` are in their places before `run` is called; `bytes` is
    /// roughly what the change adds to the database.
    pub(super) async fn submit<T: Send + 'static>(
        &self,
        files: Vec<ReceivedFile>,
        bytes: usize,
        run: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<StoreResult<T>> + Send + 'static,
    ) -> StoreResult<T> {
        self.submit_with(files, None, bytes, run).await
    }

    /// Puts files into their places, durably, wherever that is, and then makes a change that relies on them.
    pub(super) async fn submit_contents<T: Send + 'static>(
        &self,
        mut files: Vec<ReceivedFile>,
        bytes: usize,
        run: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<StoreResult<T>> + Send + 'static,
    ) -> StoreResult<T> {
        match self.upload_all(&mut files).await? {
            None => self.submit(files, bytes, run).await,
            Some(uploaded) => {
                let done = self.submit_with(Vec::new(), Some(uploaded), bytes, run).await?;
                self.cache_uploaded(files).await;
                Ok(done)
            }
        }
    }

    pub(super) async fn submit_with<T: Send + 'static>(
        &self,
        files: Vec<ReceivedFile>,
        uploaded: Option<objects::UploadedContents>,
        bytes: usize,
        run: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<StoreResult<T>> + Send + 'static,
    ) -> StoreResult<T> {
        self.0.shared.check_writable()?;
        let turn = self.turn().await?;
        let (reply, answer) = oneshot::channel();
        let task = Task { files, uploaded, bytes, run: Some(run), answer: None, reply, _turn: turn };
        self.send(Msg::Work(Box::new(task)))?;
        in_time(answer).await
    }

    /// As [`Self::submit`], for what adds to the database and brings no content: it leaves the disk's reserve alone.
    pub(super) async fn submit_growing<T: Send + 'static>(
        &self,
        bytes: u64,
        run: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<StoreResult<T>> + Send + 'static,
    ) -> StoreResult<T> {
        self.0.shared.check_writable()?;
        self.0.shared.space.claim(bytes)?;
        // Half of that is in the WAL.
        self.submit(Vec::new(), usize::try_from(bytes / 2).unwrap_or(usize::MAX), run).await
    }

    /// As [`Self::submit`], for what is done even where there is no room any more. It may be run twice.
    pub(super) async fn submit_deletion<T: Send + 'static>(
        &self,
        run: impl FnMut(&mut Tx<'_>) -> rusqlite::Result<StoreResult<T>> + Send + 'static,
    ) -> StoreResult<T> {
        self.0.shared.check_writable()?;
        let turn = self.turn().await?;
        let (reply, answer) = oneshot::channel();
        self.send(Msg::Work(Box::new(RoomMaking { run, answer: None, reply, _turn: turn })))?;
        in_time(answer).await
    }

    pub(super) async fn turn(&self) -> StoreResult<OwnedSemaphorePermit> {
        tokio::time::timeout(WRITE_TIMEOUT, Arc::clone(&self.0.turns).acquire_owned())
            .await
            .map_err(|_| not_written("the disk does not keep up"))?
            .map_err(|_| not_written("the store is closed"))
    }

    pub(super) fn send(&self, msg: Msg) -> StoreResult {
        let queue = self.0.queue.lock();
        let sent = queue.as_ref().is_some_and(|queue| queue.try_send(msg).is_ok());
        if sent { Ok(()) } else { Err(not_written("the store is closed")) }
    }

    /// Looks for content deleted 30 days ago and tombstones of 180 days, as the store does by itself when it is opened and
    /// every hour after. What was old enough at the look before, a day of being open ago, is removed.
    pub async fn purge(&self) -> StoreResult<Purged> {
        self.0.shared.check_writable()?;
        let _turn = self.turn().await?;
        let (reply, answer) = oneshot::channel();
        self.send(Msg::Purge { reply })?;
        in_time(answer).await
    }
}

/// Waits for the writer's answer.
async fn in_time<T>(answer: oneshot::Receiver<StoreResult<T>>) -> StoreResult<T> {
    tokio::time::timeout(WRITE_TIMEOUT, answer)
        .await
        .map_err(|_| not_written("the disk does not answer; whether the change was made is not known"))?
        .map_err(|_| not_written("the store's writer has ended"))?
}

fn not_written(reason: &str) -> StoreError {
    StoreError::Io { action: "write to the store".into(), reason: reason.into() }
}
