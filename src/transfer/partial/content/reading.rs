//! Reading what is here of a content before all of it is.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::futures::OwnedNotified;
use tokio::task::spawn_blocking;

use super::Partial;
use crate::store::{StoreError, StoreResult};

impl Partial {
    /// What ends once more was written, or something failed. It keeps nobody from beginning the content anew.
    pub(in crate::transfer::partial) fn change(&self) -> OwnedNotified {
        Arc::clone(&self.changed).notified_owned()
    }

    /// At most `most` bytes from `at` on; `None` where the first of them is not here yet. Only those of a content that has a root
    /// were proved.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`], also for what was written before.
    pub(in crate::transfer::partial) async fn read(
        self: Arc<Self>,
        at: u64,
        most: usize,
    ) -> StoreResult<Option<Bytes>> {
        let here = {
            let state = self.state();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            state.written.until(at) - at
        };
        let len = usize::try_from(here).unwrap_or(most).min(most);
        if len == 0 {
            return Ok(None);
        }
        let read = spawn_blocking(move || {
            let mut bytes = vec![0; len];
            let read = self.file.read_exact_at(&mut bytes, at);
            read.map(|()| bytes).map_err(|error| self.explain(&error))
        });
        let read = read.await.map_err(|error| StoreError::io("read a partial content", error.to_string()))?;
        read.map(|bytes| Some(bytes.into()))
    }
}
