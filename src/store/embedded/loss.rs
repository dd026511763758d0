//! Changes that were acknowledged and are gone: the database's log was deleted, damaged, or left behind when the database was
//! copied. SQLite opens what is left as if nothing had ever been after it.
//!
//! So the number of the last change that was acknowledged is kept beside the database, in a file of its own, written after each
//! commit, with how many changes there were. It costs no fsync: after a power cut it may be older than the database, and never newer. If it is newer when the
//! store opens, changes are lost. The next run of numbers begins behind it, and every reader of the feed begins again. Contents whose
//! records are gone are put into the trash, from where they come back once somebody else's record says what they are; without
//! a record they are never purged.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::failure::Abort;
use super::layout::Layout;
use super::rows;
use super::tx::{self, Totals};
use crate::clock;
use crate::disk::open_plain;
use crate::record::ContentHash;

const TOLD_FOR_MS: u64 = 30 * 24 * 3600 * 1000;

/// What was acknowledged, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Acknowledged {
    /// The number of the last change.
    pub(super) seq: u64,
    /// All changes there were.
    pub(super) changes: u64,
}

/// The file beside the database.
#[derive(Debug)]
pub(super) struct SeqMark {
    file: Option<File>,
    /// What it says, where that could be read.
    written: Option<Acknowledged>,
    /// Why what was in it is not known.
    pub(super) problem: Option<String>,
}

impl SeqMark {
    /// Opens it, or makes it. Without it, only, a loss is not noticed; that one is there and cannot be read is a problem to tell of.
    pub(super) fn open(path: &Path) -> Self {
        let existed = path.symlink_metadata().is_ok();
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let (file, read) = match opened {
            Ok(file) => {
                let read = read(&file);
                (Some(file), read)
            }
            Err(error) => (None, Err(error.to_string())),
        };
        let problem = read.as_ref().err().filter(|_| existed).map(|reason| {
            format!(
                "whether changes were lost is not known, since {} cannot be read ({reason}): compare what is here with another \
                 machine or a backup if the database was moved or copied",
                path.display()
            )
        });
        if let Some(problem) = &problem {
            tracing::warn!(problem, "the number of the last change is not known");
        }
        Self { file, written: read.ok(), problem }
    }

    pub(super) fn acknowledged(&self) -> Acknowledged {
        self.written.unwrap_or_default()
    }

    /// Makes it durable, as far as the disk lets it be.
    pub(super) fn sync(&self) {
        if let Some(Err(error)) = self.file.as_ref().map(File::sync_data) {
            tracing::debug!(%error, "the number of the last change is not durable");
        }
    }

    pub(super) fn set(&mut self, totals: &Totals) {
        let now = Acknowledged { seq: totals.last_seq, changes: totals.changes };
        let Some(file) = self.file.as_ref().filter(|_| self.written != Some(now)) else { return };
        // Digits, for people; always as many, so that one write replaces all of it.
        match file.write_all_at(format!("{:020}\n{:020}\n", now.seq, now.changes).as_bytes(), 0) {
            Ok(()) => self.written = Some(now),
            Err(error) => tracing::debug!(%error, "the number of the last change is not kept"),
        }
    }
}

/// All changes there were, by the file at this path; 0 where that is not known.
pub(super) fn acknowledged_at_rest(path: &Path) -> u64 {
    open_plain(path).ok().and_then(|file| read(&file).ok()).map_or(0, |acknowledged| acknowledged.changes)
}

fn read(file: &File) -> Result<Acknowledged, String> {
    let number = |at: u64| {
        let mut text = [0; 20];
        file.read_exact_at(&mut text, at).map_err(|error| error.to_string())?;
        let number: Option<u64> = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        // More than SQLite can count is no number of a change.
        number.filter(|number| *number < u64::MAX / 4).ok_or_else(|| "it has no number in it".to_owned())
    };
    let seq = number(0)?;
    // Numbers were counts before they left gaps.
    Ok(Acknowledged { seq, changes: number(21).unwrap_or(seq) })
}

/// Looks whether changes are gone, and makes the best of it; the run of numbers that begins now begins behind them.
pub(super) fn notice(
    conn: &mut Connection,
    layout: &Layout,
    totals: &mut Totals,
    mark: &SeqMark,
    now_ms: u64,
) -> Result<(), Abort> {
    let Acknowledged { seq, changes } = mark.acknowledged();
    if seq <= totals.last_seq {
        return Ok(());
    }
    // A run that began, and nothing more, is no change.
    let lost = changes.saturating_sub(totals.changes);
    if lost == 0 {
        return Ok(());
    }
    let mut next = *totals;
    // A reader that has got to the lost ones has to begin again.
    next.purge_floor = seq + 1;
    next.changes = changes;
    let files = content_files(layout)?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let kept = keep_without_record(&transaction, files, now_ms)?;
    next.write(&transaction)?;
    transaction
        .prepare_cached("UPDATE state SET lost_changes = lost_changes + ?1, lost_at_ms = ?2")?
        .execute((lost.cast_signed(), now_ms.cast_signed()))?;
    transaction.commit()?;
    *totals = next;
    tracing::error!(
        lost,
        contents = kept,
        "changes that were acknowledged are gone from the database: its log was deleted or damaged, or the database is an older copy. \
         What other machines have comes back from them; contents without a record stay"
    );
    Ok(())
}

fn content_files(layout: &Layout) -> Result<Vec<(ContentHash, u64)>, Abort> {
    layout.content_files().map_err(|source| Abort::Io {
        action: format!("list the contents in {}", layout.dir.display()),
        source,
    })
}

/// Puts those of these files into the trash that the database does not know; how many. The trash keeps what has no record.
pub(super) fn keep_without_record(
    conn: &Connection,
    files: impl IntoIterator<Item = (ContentHash, u64)>,
    now_ms: u64,
) -> rusqlite::Result<u64> {
    let mut kept = 0;
    for (hash, size) in files {
        if !tx::refers_to_file(conn, hash)? {
            kept += tx::trash_file(conn, hash, size, now_ms)?;
        }
    }
    Ok(kept as u64)
}

/// Keeps contents that were there before the database was.
pub(super) fn keep_unnamed(conn: &mut Connection, layout: &Layout, now_ms: u64) -> Result<(), Abort> {
    let files = content_files(layout)?;
    if !files.is_empty() {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        keep_without_record(&transaction, files, now_ms)?;
        transaction.commit()?;
    }
    Ok(())
}

/// How many contents are in the trash without a record.
pub(super) fn unnamed(conn: &Connection) -> rusqlite::Result<u64> {
    let counted = "SELECT count(*) FROM trash WHERE content = 0 \
         AND NOT EXISTS (SELECT 1 FROM records WHERE records.hash = trash.hash)";
    conn.prepare_cached(counted)?.query_row([], |row| rows::unsigned(row, 0))
}

/// That there are contents of which nothing else is known.
pub(super) fn unnamed_sentence(conn: &Connection, layout: &Layout) -> rusqlite::Result<Option<String>> {
    let unnamed = unnamed(conn)?;
    Ok((unnamed > 0).then(|| {
        format!(
            "{unnamed} contents in {} have no record in the database: they stay there, named by their SHA-256, and count again once \
             another machine has the record, the database is restored, or they are uploaded again",
            layout.contents().display()
        )
    }))
}

/// That changes are gone, for a while.
pub(super) fn sentence(conn: &Connection, now_ms: u64) -> rusqlite::Result<Option<String>> {
    let (lost, at_ms): (u64, Option<i64>) = conn
        .prepare_cached("SELECT lost_changes, lost_at_ms FROM state")?
        .query_row([], |row| Ok((rows::unsigned(row, 0)?, row.get(1)?)))?;
    let Some(at_ms) = at_ms.map(i64::cast_unsigned) else { return Ok(None) };
    let told = lost > 0 && now_ms.saturating_sub(at_ms) < TOLD_FOR_MS;
    Ok(told.then(|| {
        let at = clock::rfc3339(at_ms).unwrap_or_default();
        format!(
            "{lost} changes that had been acknowledged were gone from the database when the store was opened at {at}: its log was \
             deleted or damaged, or the database was an older copy; what other machines have comes back from them; larger contents \
             whose records are gone stay in content/, named by their SHA-256, and count again once another machine has the record or \
             they are uploaded again"
        )
    }))
}
