//! The one thread that writes.
//!
//! It takes whatever is queued, runs it as one transaction, and answers everyone after the commit: many changes share
//! one fsync, and none is acknowledged before it. An answer that is an error of the caller's (no such asset, too many
//! tags) leaves the others of the group alone; a failure of the disk fails the whole group, and nothing of it stays.
//!
//! # Content in files
//! The bytes were hashed, written to `tmp` and fsynced before the task was queued. The writer then
//! 1. commits the hashes of the files to the table `pending_files`,
//! 2. renames the files into place and fsyncs the directories,
//! 3. commits the records, and with them the removal of the hashes from `pending_files`.
//!
//! A crash after 1 leaves at most files without a record, and `pending_files` says which they may be: opening the store
//! removes those to which nothing refers, without looking at any other. A record is never committed before its file
//! is durable under its name, so that readers need no second place to look.
//!
//! Deleting content moves nothing either: it is in the trash once the table says so, and the purge removes the file
//! *before* it forgets the entry. Only this thread renames and removes files in `content`, so that what it sees there
//! stays so for as long as it looks.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::StoreShared;
use super::damage::AfterCommit;
use super::failure::{self, Abort};
use super::index::facets::FacetChanges;
use super::index::words::{WordChanges, WordsBehind};
use super::index::{IndexChanges, IndexStage};
use super::keeping;
use super::layout::{self, Layout};
use super::loss::SeqMark;
use super::objects::waiting::{self, Listing};
use super::objects::{self, UploadedContents};
use super::purge::{Purged, Purging};
use super::quota;
use super::rows;
use super::runs::{self, ClockWatch};
use super::sums;
use super::tx::{self, Totals, Tx};
use crate::clock::Clock;
use crate::record::{ContentHash, WriterId};
use crate::store::bucket::cache::ContentCache;
use crate::store::groups::GroupSum;
use crate::store::{ReceivedFile, StoreError};

/// Most tasks in one transaction: what bounds the wait of the first of them.
const GROUP_TASKS_MAX: usize = 1024;
/// Most content in one transaction, in bytes.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much is written before the WAL is brought home even though there is more to do, in bytes.
const CHECKPOINT_BYTES: usize = 32 * 1024 * 1024;
/// The same where the disk has little room: what is in the WAL takes room twice until it is home.
const CHECKPOINT_BYTES_TIGHT: usize = 256 * 1024;
/// Without a task for so long, the WAL is brought home at leisure.
const IDLE: Duration = Duration::from_millis(500);
/// How often somebody looks for what is old enough to be purged. Often, so that a machine that runs for a few hours a
/// day finds another one that agrees with its clock.
const LOOK_INTERVAL: Duration = Duration::from_hours(1);
/// How long the database may be unreadable until it counts as damaged. A disk that fails once is read again with the next
/// change.
const UNREAD_FOR: Duration = Duration::from_secs(5);
/// What a record costs in the WAL, roughly, in bytes, where many share a transaction.
const RECORD_BYTES: usize = 4096;
/// Pages that a transaction writes at least: of the tables, of their indices, and once more when they are brought home.
const TRANSACTION_BYTES: usize = 64 * 1024;
/// How often text of a record is written: in its row, for searches, in the versions before it; and then from the WAL home.
const TEXT_COPIES: usize = 6;

/// What a change of records with so much text takes of the disk, roughly, in bytes.
pub(super) fn change_bytes(texts: impl Iterator<Item = usize>) -> u64 {
    let records = texts.map(|text| 2 * RECORD_BYTES + TEXT_COPIES * text);
    (TRANSACTION_BYTES + records.sum::<usize>()) as u64
}

pub(super) enum Msg {
    Work(Box<dyn WriteJob>),
    /// Look for what is old enough to be purged.
    Purge {
        reply: oneshot::Sender<Result<Purged, StoreError>>,
    },
    /// Bring everything home and end.
    Stop,
}

/// A change, and who waits for it.
pub(super) trait WriteJob: Send {
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
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), rusqlite::Error>;
    /// Gives the answer, after the group was committed or failed.
    fn finish(self: Box<Self>, group: Result<(), StoreError>);
}

/// The usual [`WriteJob`]: a closure.
pub(super) struct Task<F, T> {
    pub(super) files: Vec<ReceivedFile>,
    pub(super) uploaded: Option<UploadedContents>,
    pub(super) bytes: usize,
    pub(super) run: Option<F>,
    pub(super) answer: Option<Result<T, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
    /// A place in the queue, given back with the answer.
    pub(super) _turn: OwnedSemaphorePermit,
}

impl<F, T> WriteJob for Task<F, T>
where
    F: FnOnce(&mut Tx<'_>) -> Result<Result<T, StoreError>, rusqlite::Error> + Send,
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

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), rusqlite::Error> {
        if let Some(run) = self.run.take() {
            self.answer = Some(run(tx)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, group: Result<(), StoreError>) {
        let Self { answer, reply, .. } = *self;
        // The caller may have gone; the change stands all the same.
        let _ = reply.send(group.and_then(|()| answer.unwrap_or_else(not_run)));
    }
}

/// A [`WriteJob`] that makes room, or sets aside what is damaged.
pub(super) struct RoomMaking<F, T> {
    pub(super) run: F,
    pub(super) answer: Option<Result<T, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
    /// A place in the queue, given back with the answer.
    pub(super) _turn: OwnedSemaphorePermit,
}

impl<F, T> WriteJob for RoomMaking<F, T>
where
    F: FnMut(&mut Tx<'_>) -> Result<Result<T, StoreError>, rusqlite::Error> + Send,
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

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), rusqlite::Error> {
        self.answer = Some((self.run)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, group: Result<(), StoreError>) {
        let Self { answer, reply, .. } = *self;
        // As above.
        let _ = reply.send(group.and_then(|()| answer.unwrap_or_else(not_run)));
    }
}

fn not_run<T>() -> Result<T, StoreError> {
    Err(StoreError::Io { action: "write to the store".into(), reason: "the change was not made".into() })
}

pub(super) struct StoreWriter {
    /// Reads what may be damaged. It is closed before the other one, which removes the log.
    pub(super) probe: Connection,
    pub(super) conn: Connection,
    pub(super) layout: Layout,
    pub(super) id: WriterId,
    pub(super) totals: Totals,
    pub(super) words: WordsBehind,
    pub(super) shared: Arc<StoreShared>,
    pub(super) seq: watch::Sender<u64>,
    /// It has written since it last gave memory back.
    pub(super) has_cached: bool,
    /// Written since the WAL was last brought home, in bytes.
    pub(super) since_checkpoint: usize,
    /// `pending_files` may have entries of a group that failed.
    pub(super) has_pending: bool,
    pub(super) clock: Clock,
    pub(super) clock_watch: ClockWatch,
    pub(super) purging: Purging,
    pub(super) mark: SeqMark,
    /// Since when nothing can be committed because the database cannot be read.
    pub(super) unread_since: Option<Instant>,
    /// Kept until the very end: the next process may open the store once it is released.
    pub(super) _lock: fs::File,
}

impl StoreWriter {
    /// Works until it is stopped, or nobody is left to ask.
    pub(super) fn run(mut self, queue: &Receiver<Msg>) {
        loop {
            match queue.recv_timeout(IDLE) {
                Ok(Msg::Work(first)) => {
                    let (group, next) = collect(first, queue);
                    self.commit(group);
                    match next {
                        Some(Msg::Purge { reply }) => self.on_purge(reply),
                        Some(Msg::Stop) => break,
                        Some(Msg::Work(_)) | None => {}
                    }
                }
                Ok(Msg::Purge { reply }) => self.on_purge(reply),
                Ok(Msg::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.on_idle(),
            }
            let is_tight = self.since_checkpoint >= CHECKPOINT_BYTES_TIGHT && self.shared.space.is_tight();
            if is_tight || self.since_checkpoint >= CHECKPOINT_BYTES {
                self.checkpoint("PASSIVE");
            }
        }
        if self.shared.read_only().is_none()
            && let Err(error) = self.purging.keep_uptime(&self.conn)
        {
            self.on_abort(Abort::Sql(error));
        }
        self.checkpoint("TRUNCATE");
    }

    /// Commits a group, deletions by themselves: what has no room must not stop them.
    fn commit(&mut self, group: Vec<Box<dyn WriteJob>>) {
        let (deletions, others): (Vec<_>, Vec<_>) = group.into_iter().partition(|task| task.is_deletion());
        for (part, deletes) in [(others, false), (deletions, true)] {
            if !part.is_empty() {
                self.commit_part(part, deletes);
            }
        }
    }

    /// Commits a part of a group and answers everyone in it.
    fn commit_part(&mut self, mut group: Vec<Box<dyn WriteJob>>, deletes: bool) {
        if deletes {
            self.shared.space.make_way();
        }
        let result = if let Some(why) = self.shared.read_only() {
            Err(StoreError::ReadOnly(why))
        } else {
            let mut done = self.try_commit(&mut group);
            if deletes && done.as_ref().is_err_and(Abort::is_full) {
                // A quota is full without the disk's saying so. And what is in the WAL takes room twice until it is home.
                self.shared.space.give_way();
                self.checkpoint("TRUNCATE");
                done = self.try_commit(&mut group);
            }
            let done = done.map_err(|abort| self.on_abort(abort));
            // What went into a file that is not there any more is not acknowledged.
            done.and_then(|()| {
                self.shared.lost_database().map_or(Ok(()), |why| Err(StoreError::ReadOnly(why)))
            })
        };
        if result.is_ok() {
            self.unread_since = None;
            self.since_checkpoint += group.iter().map(|task| task.weight()).sum::<usize>();
            self.shared.commits.fetch_add(1, Ordering::Relaxed);
            let last = self.totals.last_seq;
            self.mark.set(&self.totals);
            self.seq.send_if_modified(|seq| std::mem::replace(seq, last) != last);
        }
        self.has_cached = true;
        for task in group {
            task.finish(result.clone());
        }
        if self.has_pending {
            self.clean_pending();
        }
    }

    fn try_commit(&mut self, group: &mut [Box<dyn WriteJob>]) -> Result<(), Abort> {
        self.commit_all(group).map_err(|abort| abort.or_full(&self.layout.tmp()))
    }

    fn commit_all(&mut self, group: &mut [Box<dyn WriteJob>]) -> Result<(), Abort> {
        let pending_before = self.has_pending;
        let files: Vec<ReceivedFile> = group.iter_mut().flat_map(|task| task.files()).collect();
        // Held until all is durable.
        let uploaded: Vec<UploadedContents> = group.iter_mut().filter_map(|task| task.uploaded()).collect();
        let placed = self.place(files)?;
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut totals = self.totals;
        // It may be the machine that was set back.
        let clock_set = self.clock_watch.was_set();
        if clock_set {
            runs::begin(&transaction, &mut totals, 0, self.clock.own_ms())?;
        }
        let mut tx = Tx {
            conn: &transaction,
            probe: &self.probe,
            layout: &self.layout,
            writer: self.id,
            now_ms: self.clock.now_ms(),
            confirmed_ms: self.clock.confirmed_ms(),
            totals,
            after_commit: Vec::new(),
            stage: IndexStage::read(&transaction)?,
            index: IndexChanges { facets: FacetChanges::default(), words: WordChanges::new(self.words) },
            targets_deleted: false,
            trash_changed: Cell::new(false),
            files_left: false,
            going_up: Listing::of(self.shared.objects.as_ref()),
        };
        for task in group {
            task.run(&mut tx)?;
        }
        let mut unused = false;
        for (hash, groups) in placed {
            if tx.refers_to_file(hash)? {
                sums::write(tx.conn, hash, &groups)?;
                waiting::list(&mut tx, hash)?;
                tx.after_commit.push(AfterCommit::Trust(hash));
                tx.conn.prepare_cached("DELETE FROM pending_files WHERE hash = ?1")?.execute([hash.0])?;
            } else {
                unused = true;
            }
        }
        let mut left = false;
        for (hash, groups) in uploaded.iter().flat_map(|uploaded| &uploaded.contents) {
            left |= !objects::take_uploaded(&mut tx, *hash, groups)?;
        }
        unused |= tx.files_left;
        let Tx { mut totals, after_commit, index, trash_changed, going_up, .. } = tx;
        let IndexChanges { mut facets, words } = index;
        facets.write(&transaction)?;
        let words = words.write(&transaction, &mut totals)?;
        if totals != self.totals {
            totals.write(&transaction)?;
        }
        // Before the commit: what fails here, fails all of it. All of the trash is counted, so not without need.
        let is_due = trash_changed.get() && self.shared.quota.is_set();
        let trashed = is_due.then(|| quota::trashed_bytes(&transaction)).transpose()?;
        transaction.commit()?;
        (self.totals, self.words) = (totals, words);
        match trashed {
            Some(trashed) => self.shared.quota.set_used(totals.bytes_held, trashed),
            None => self.shared.quota.set_held(totals.bytes_held),
        }
        if clock_set {
            self.clock_watch.note();
        }
        for task in after_commit {
            task.perform(&self.layout, &self.shared.damage);
        }
        self.has_pending = pending_before || unused;
        drop(uploaded);
        if left {
            self.clean_objects();
        }
        if going_up.has_new
            && let Some(objects) = &self.shared.objects
        {
            objects.wake_uploads();
        }
        Ok(())
    }

    /// Puts the files of a group under their names, durably, and says which, with the sums of their groups. One that is there
    /// already is replaced: nobody looked at it since it was stored, and these bytes were hashed just now.
    fn place(&mut self, wanted: Vec<ReceivedFile>) -> Result<Vec<(ContentHash, Vec<GroupSum>)>, Abort> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.has_pending = true;
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for file in &wanted {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO pending_files (hash) VALUES (?1)")?
                .execute([file.sha256.0])?;
        }
        transaction.commit()?;

        let mut dirs = BTreeSet::new();
        let mut placed = Vec::with_capacity(wanted.len());
        for mut file in wanted {
            let target = self.layout.content(file.sha256);
            let failed =
                |source| Abort::Io { action: format!("move content to {}", target.display()), source };
            placed.push((file.sha256, std::mem::take(&mut file.groups)));
            move_into_place(file, &self.layout, &mut dirs).map_err(failed)?;
        }
        for dir in &dirs {
            layout::sync_dir(dir)
                .map_err(|source| Abort::Io { action: format!("fsync {}", dir.display()), source })?;
        }
        Ok(placed)
    }

    /// What a failure means to those who wait, and to all who come after.
    fn on_abort(&mut self, abort: Abort) -> StoreError {
        let abort = abort.or_full(&self.layout.tmp());
        let answer = abort.answer("write to the store", &self.layout.dir);
        if abort.is_fatal() || self.cannot_be_read(&abort) {
            tracing::error!(error = %answer, "the store takes no more writes until it is opened again");
            self.shared.set_read_only(format!("{answer}; check the disk, then start again"));
        } else {
            tracing::warn!(error = %answer, "a group of changes was not committed");
        }
        answer
    }

    /// Whether the database could not be read this time, and has not been readable for a while.
    fn cannot_be_read(&mut self, abort: &Abort) -> bool {
        let is_unread = matches!(abort, Abort::Sql(error) if failure::is_unread(error));
        is_unread && self.unread_since.get_or_insert_with(Instant::now).elapsed() >= UNREAD_FOR
    }

    /// Has what nothing refers to in the bucket cleaned up.
    fn clean_objects(&self) {
        if let Some(objects) = &self.shared.objects {
            objects.wake();
        }
    }

    /// Removes placed files to which nothing refers.
    fn clean_pending(&mut self) {
        let cache = self.shared.objects.as_ref().map(|objects| objects.cache.as_ref());
        let cache = cache.filter(|_| self.shared.space.shortage().is_none());
        match clean_pending(&mut self.conn, &self.layout, cache) {
            Ok(removed) => {
                self.has_pending = false;
                tracing::debug!(removed, "removed content that nothing refers to");
            }
            // They stay named, and are looked at again later, at the latest when the store opens.
            Err(abort) if abort.is_fatal() => {
                self.on_abort(abort);
            }
            Err(abort) => tracing::debug!(?abort, "content that nothing refers to is not removed yet"),
        }
    }

    fn on_purge(&mut self, reply: oneshot::Sender<Result<Purged, StoreError>>) {
        let result = match self.shared.read_only() {
            Some(why) => Err(StoreError::ReadOnly(why)),
            None => self
                .purging
                .look(&mut self.conn, &self.layout, &mut self.totals)
                .map_err(|abort| self.on_abort(abort)),
        };
        self.shared.purge_floor.store(self.totals.purge_floor, Ordering::Release);
        self.forget_promises();
        if let Ok(trashed) = quota::trashed_bytes(&self.conn) {
            self.shared.quota.set_used(self.totals.bytes_held, trashed);
        }
        self.clean_objects();
        let _ = reply.send(result);
    }

    fn forget_promises(&mut self) {
        if self.shared.read_only().is_some() {
            return;
        }
        if let Err(error) = keeping::forget_old(&mut self.conn, &self.shared) {
            tracing::debug!(%error, "promises that are over are forgotten later");
        }
    }

    fn on_idle(&mut self) {
        self.shared.readers.close_unused();
        if self.has_cached {
            self.has_cached = false;
            // What it keeps of the database in memory, where nothing more comes.
            if let Err(error) = self.conn.execute_batch("PRAGMA shrink_memory") {
                tracing::debug!(%error, "the writer keeps its memory");
            }
        }
        if self.shared.read_only().is_some() {
            return;
        }
        if !self.words.is_empty() {
            self.catch_up_words();
        }
        if self.since_checkpoint > 0 {
            self.checkpoint("PASSIVE");
        }
        if self.has_pending {
            self.clean_pending();
        }
        if keeping::has_old(&self.shared) {
            self.forget_promises();
        }
        self.shared.space.lay_by();
        if self.purging.since_last_look() >= LOOK_INTERVAL {
            self.on_purge(oneshot::channel().0);
        }
    }

    /// Adds the words of the latest records to the index, now that nothing else is to be done.
    fn catch_up_words(&mut self) {
        match self.try_catch_up_words() {
            Ok(()) => self.since_checkpoint += TRANSACTION_BYTES,
            Err(abort) => match abort.or_full(&self.layout.tmp()) {
                abort if abort.is_fatal() => drop(self.on_abort(abort)),
                // Searches compare them, as before.
                abort => tracing::debug!(?abort, "words are not added to the index yet"),
            },
        }
    }

    fn try_catch_up_words(&mut self) -> Result<(), Abort> {
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut totals = self.totals;
        let mut words = WordChanges::new(self.words);
        words.catch_up(&transaction, &mut totals)?;
        let words = words.write(&transaction, &mut totals)?;
        totals.write(&transaction)?;
        transaction.commit()?;
        (self.totals, self.words) = (totals, words);
        Ok(())
    }

    /// Brings the WAL home into the database. Everything is durable before; this only keeps the WAL short.
    fn checkpoint(&mut self, mode: &str) {
        if self.shared.read_only().is_some() {
            return;
        }
        self.since_checkpoint = 0;
        self.mark.sync();
        let done = self.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        if let Err(error) = done {
            self.on_abort(Abort::Sql(error));
        }
    }
}

/// The tasks that are queued behind `first`, up to the bounds of a group, and what ended them.
fn collect(first: Box<dyn WriteJob>, queue: &Receiver<Msg>) -> (Vec<Box<dyn WriteJob>>, Option<Msg>) {
    let mut bytes = first.weight();
    let mut group = vec![first];
    while group.len() < GROUP_TASKS_MAX && bytes < GROUP_BYTES_MAX {
        match queue.try_recv() {
            Ok(Msg::Work(task)) => {
                bytes += task.weight();
                group.push(task);
            }
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

/// Renames a file into its place and adds the directories that have to be fsynced for that. A directory in its place is set aside.
fn move_into_place(file: ReceivedFile, layout: &Layout, dirs: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let (hash, target) = (file.sha256, layout.content(file.sha256));
    dirs.extend(layout.make_parent(hash)?);
    dirs.extend(target.parent().map(Path::to_owned));
    match file.path.persist(&target) {
        Err(failed) if target.symlink_metadata().is_ok_and(|meta| meta.is_dir()) => {
            layout.set_aside(hash)?;
            failed.path.persist(&target).map_err(|error| error.error)
        }
        done => done.map_err(|error| error.error),
    }
}

/// Removes the files that `pending_files` names and nothing refers to, then forgets the names. What went to the bucket goes to the cache.
pub(super) fn clean_pending(
    conn: &mut Connection,
    layout: &Layout,
    cache: Option<&ContentCache>,
) -> Result<u64, Abort> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let hashes: Vec<[u8; 32]> = transaction
        .prepare_cached("SELECT hash FROM pending_files")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut removed = 0;
    for hash in hashes.iter().copied().map(ContentHash) {
        if !tx::refers_to_file(&transaction, hash)? {
            let failed =
                |source| Abort::Io { action: format!("remove {}", layout.content(hash).display()), source };
            if let Some(cache) = cache
                && let Some(size) = size_in_bucket(&transaction, hash)?
            {
                layout.give_to_cache(hash, size, cache).map_err(failed)?;
            }
            layout.remove_content(hash).map_err(failed)?;
            removed += 1;
        }
    }
    if !hashes.is_empty() {
        transaction.execute("DELETE FROM pending_files", [])?;
    }
    transaction.commit()?;
    Ok(removed)
}

fn size_in_bucket(conn: &Connection, hash: ContentHash) -> Result<Option<u64>, rusqlite::Error> {
    conn.prepare_cached("SELECT size FROM records WHERE hash = ?1 AND content = -1")?
        .query_row([hash.0], |row| rows::unsigned(row, 0))
        .optional()
}

/// Whether a failure to receive content means that the disk is no longer to be trusted.
pub(super) fn note_io_failure(shared: &StoreShared, error: &io::Error, answer: &StoreError) {
    if failure::is_fatal(error) {
        shared.set_read_only(format!("{answer}; check the disk, then start again"));
    }
}
