//! Write-back: contents that were acknowledged once they were on this disk go up to the bucket.
//!
//! # How a content goes up
//! 1. it has its place in a file, as without a bucket, and is listed ([`waiting`]),
//! 2. it is uploaded from there, read back and hashed, as one that goes to the bucket at once,
//! 3. one commit moves its place, and takes it off the list,
//! 4. the writer makes its file one of the cache, or removes it.
//!
//! A crash after 3 leaves a file that `pending_files` names, and opening the store removes it. So there is no moment at which a record
//! names a place where its content is not. Whatever fails, the content stays in its file, and is tried again.
//!
//! What is listed goes up whether or not `write_back` is still set. In a place that is halted ([`claim`](crate::store::bucket::claim))
//! nothing goes up: another store may be the one that is to go on there, and what is on this disk is out of its reach.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;

use self::pace::UploadPace;
use super::super::content::open_whole;
use super::super::incoming::blocking;
use super::super::rows::{self, ContentPlace};
use super::super::tx::Tx;
use super::super::{EmbeddedStore, merge};
use super::waiting::{self, WaitingContent};
use super::{ObjectLock, Objects, settle};
use crate::record::ContentHash;
use crate::store::bucket::BucketError;
use crate::store::bucket::upload::{PutContent, PutError};
use crate::store::{StoreError, StoreResult, UploadWait, WaitingUploads};

mod pace;

/// Rows of the list that are read at once.
const PAGE: i64 = 100;
/// So many times as long as between two looks at the bucket, a content is left alone at most that did not go up.
const LONGEST_LOOKS: u32 = 20;

/// What the task that brings contents up shares with others.
#[derive(Default)]
pub(super) struct GoingUp {
    /// Why the latest one did not go up.
    error: Mutex<Option<String>>,
    /// Something is new on the list, or the store is closed.
    wake: Notify,
}

impl GoingUp {
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }
}

/// Where the task is in the list. It goes through it from the oldest to the newest, and begins again.
#[derive(Default)]
struct Round {
    after: i64,
    page: VecDeque<WaitingContent>,
}

/// What came of a content that was to go up.
struct UploadEnd {
    hash: ContentHash,
    /// Why it did not.
    failed: Option<String>,
}

impl EmbeddedStore {
    /// Brings up what waits, the oldest first. Ends when the store is closed.
    pub(super) async fn bring_up(self) {
        let Some(objects) = &self.0.shared.objects else { return };
        let patience = objects.bucket.patience();
        let mut pace = UploadPace::new(patience.pause, patience.look * LONGEST_LOOKS);
        let (mut round, mut under_way) = (Round::default(), HashSet::new());
        let mut running: FuturesUnordered<BoxFuture<'static, UploadEnd>> = FuturesUnordered::new();
        loop {
            if self.0.turns.is_closed() {
                // Whatever goes up is given up; it is begun anew when the store opens.
                return;
            }
            let at_once = if self.may_go_up(objects).await { pace.at_once(Instant::now()) } else { 0 };
            while running.len() < at_once
                && let Some(content) = self.next_waiting(&mut round, &pace, &under_way).await
            {
                under_way.insert(content.hash);
                running.push(Box::pin(self.clone().bring_one_up(content)));
            }
            let resting = pace.rests_until().map(|until| until.saturating_duration_since(Instant::now()));
            let pause =
                resting.filter(|left| !left.is_zero()).map_or(patience.look, |left| left.min(patience.look));
            tokio::select! {
                Some(UploadEnd { hash, failed }) = running.next() => {
                    under_way.remove(&hash);
                    match &failed {
                        None => pace.succeeded(hash),
                        Some(_) => pace.failed(hash, Instant::now(), rand::random()),
                    }
                    self.note_going_up(objects, failed);
                }
                () = objects.going_up.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether anything may go up now; takes note of why not, where something waits.
    async fn may_go_up(&self, objects: &Objects) -> bool {
        let hindrance = objects.bucket.trouble_of_writing().or_else(|| {
            let code = objects.bucket.halted()?;
            Some(format!("this store and a copy of it take the place for their own, by the code {code}"))
        });
        let Some(why) = hindrance else { return true };
        let first =
            self.0.shared.readers.run("look whether something waits", |conn| waiting::after(conn, 0, 1));
        let waits = first.await.is_ok_and(|first| !first.is_empty());
        self.note_going_up(objects, waits.then_some(why));
        false
    }

    fn note_going_up(&self, objects: &Objects, failed: Option<String>) {
        let shown = objects.bucket.shown();
        let waiting = failed.as_ref().map(|why| {
            format!("contents wait there that are not in the object storage {shown} yet, which frees room once it can be used: {why}")
        });
        self.0.shared.space.note_waiting(waiting);
        let mut error = objects.going_up.error.lock();
        if failed.is_some() && *error != failed {
            let why = failed.as_deref().unwrap_or_default();
            tracing::warn!(why, "contents stay on this disk until they can go up to the object storage");
        }
        *error = failed;
    }

    async fn next_waiting(
        &self,
        round: &mut Round,
        pace: &UploadPace,
        under_way: &HashSet<ContentHash>,
    ) -> Option<WaitingContent> {
        loop {
            while let Some(content) = round.page.pop_front() {
                round.after = content.id;
                if !under_way.contains(&content.hash) && pace.is_due(content.hash, Instant::now()) {
                    return Some(content);
                }
            }
            let after = round.after;
            let read = move |conn: &Connection| waiting::after(conn, after, PAGE);
            match self.0.shared.readers.run("list contents that wait", read).await {
                Ok(listed) if listed.is_empty() => {
                    if let Some(objects) = &self.0.shared.objects
                        && after == 0
                        && under_way.is_empty()
                    {
                        // What failed last does not wait any more.
                        self.note_going_up(objects, None);
                    }
                    // From the oldest again, when something happens.
                    round.after = 0;
                    return None;
                }
                Ok(listed) => round.page = listed.into(),
                Err(error) => {
                    tracing::debug!(%error, "what waits to go up is not known at the moment");
                    return None;
                }
            }
        }
    }

    async fn bring_one_up(self, content: WaitingContent) -> UploadEnd {
        let hash = content.hash;
        let failed = match self.try_bring_up(content).await {
            Ok(()) => None,
            Err(StoreError::BucketAway { reason, .. }) => Some(reason),
            Err(error) => Some(error.to_string()),
        };
        UploadEnd { hash, failed }
    }

    async fn try_bring_up(&self, WaitingContent { hash, size, .. }: WaitingContent) -> StoreResult {
        let Some(objects) = &self.0.shared.objects else { return Ok(()) };
        let lock = objects.lock(hash).await;
        if !self.is_to_go_up(hash).await? {
            return Ok(());
        }
        let path = self.0.shared.layout.content(hash);
        let opened = blocking("open content", move || Ok(open_whole(&path, size))).await?;
        let file = match opened {
            Ok(file) => Arc::new(file),
            // A damaged one is examined, once it is its turn, and is off the list then: until that it is not tried at once again.
            Err(error) => return Err(self.failed(hash, &error)),
        };
        let note = self.name_object(hash, &objects.bucket).await?;
        match objects.bucket.put(PutContent { hash, size, file }, note).await {
            Ok(()) => self.move_up(objects, hash, lock).await,
            Err(PutError::Bucket(error @ BucketError::Wrong(_))) => {
                drop(lock);
                // It may be the file that has wrong bytes.
                if self.examine(hash).await? { Err(objects.bucket.refusal(error.into())) } else { Ok(()) }
            }
            Err(error @ PutError::Store(StoreError::Io { .. })) => {
                drop(lock);
                self.examine(hash).await?;
                Err(objects.bucket.refusal(error))
            }
            Err(error) => Err(objects.bucket.refusal(error)),
        }
    }

    /// Whether a content that is listed is a live one in its file; else it is taken off the list.
    async fn is_to_go_up(&self, hash: ContentHash) -> StoreResult<bool> {
        let in_file = move |conn: &Connection| {
            Ok(rows::find(conn, hash)?.is_some_and(|stored| stored.place == Some(ContentPlace::File)))
        };
        if self.0.shared.readers.run("look at a content that waits", in_file).await? {
            return Ok(true);
        }
        let unlisted = self.submit_deletion(move |tx| {
            // It may be in its file again.
            if tx.find(hash)?.is_none_or(|stored| stored.place != Some(ContentPlace::File)) {
                waiting::unlist(tx.conn, hash)?;
            }
            Ok(Ok(()))
        });
        unlisted.await.map(|()| false)
    }

    /// Gives a content its place in the bucket, where it is and right.
    async fn move_up(&self, objects: &Objects, hash: ContentHash, lock: ObjectLock) -> StoreResult {
        let moved = self.submit_deletion(move |tx| {
            // Until this is durable.
            let _lock = &lock;
            go_up(tx, hash).map(Ok)
        });
        if !moved.await? {
            // It was deleted meanwhile: nothing refers to its object.
            objects.wake();
        }
        Ok(())
    }

    /// How much waits to go up, where something may.
    pub(in crate::store::embedded) async fn waiting_uploads(&self) -> StoreResult<Option<WaitingUploads>> {
        let Some(objects) = &self.0.shared.objects else { return Ok(None) };
        let figures = self.0.shared.readers.run("count contents that wait", waiting::figures).await?;
        if !objects.write_back && figures.contents == 0 {
            return Ok(None);
        }
        let now_ms = self.0.shared.clock.now_ms();
        Ok(Some(WaitingUploads {
            contents: figures.contents,
            bytes: figures.bytes,
            oldest_secs: figures.since_ms.map(|since| now_ms.saturating_sub(since) / 1000),
            last_error: objects.going_up.error().filter(|_| figures.contents > 0),
        }))
    }
}

impl EmbeddedStore {
    /// Whether a content waits to go up.
    pub(in crate::store::embedded) async fn find_upload_wait(
        &self,
        hash: ContentHash,
    ) -> StoreResult<Option<UploadWait>> {
        let Some(objects) = &self.0.shared.objects else { return Ok(None) };
        let read = move |conn: &Connection| waiting::since_ms(conn, hash);
        let since_ms = self.0.shared.readers.run("look whether a content waits", read).await?;
        let now_ms = self.0.shared.clock.now_ms();
        Ok(since_ms.map(|since| UploadWait {
            secs: now_ms.saturating_sub(since) / 1000,
            last_error: objects.going_up.error(),
        }))
    }
}

/// Moves a content from its file to the bucket; whether it is still in its file.
fn go_up(tx: &mut Tx<'_>, hash: ContentHash) -> rusqlite::Result<bool> {
    let Some(mut stored) = tx.find(hash)?.filter(|stored| stored.place == Some(ContentPlace::File)) else {
        return Ok(false);
    };
    merge::move_to_object(tx, &mut stored, ContentPlace::File)?;
    settle(tx.conn, hash)?;
    Ok(true)
}
