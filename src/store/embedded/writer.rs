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
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::StoreShared;
use super::damage::AfterCommit;
use super::failure::{self, Abort};
use super::index::facets::FacetChanges;
use super::index::words::{WordChanges, WordsBehind};
use super::index::{IndexChanges, IndexStage};
use super::layout::Layout;
use super::loss::SeqMark;
use super::objects::waiting::{self, Listing};
use super::objects::{self, UploadedContents};
use super::purge::{Purged, Purging};
use super::quota;
use super::runs::{self, ClockWatch};
use super::sums;
use super::tx::{Totals, Tx};
use crate::clock::Clock;
use crate::record::WriterId;
use crate::store::{ReceivedFile, StoreError, StoreResult};

mod chores;
mod job;
mod placing;

pub(super) use self::job::{RoomMaking, Task, WriteJob};
pub(super) use self::placing::clean_pending;

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
        reply: oneshot::Sender<StoreResult<Purged>>,
    },
    /// Bring everything home and end.
    Stop,
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

/// Whether a failure to receive content means that the disk is no longer to be trusted.
pub(super) fn note_io_failure(shared: &StoreShared, error: &io::Error, answer: &StoreError) {
    if failure::is_fatal(error) {
        shared.set_read_only(format!("{answer}; check the disk, then start again"));
    }
}
