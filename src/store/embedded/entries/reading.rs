//! Reads records of folders. A row that is no record by today's rules is passed over as if it were not there: one such row must not
//! keep all others from being read. It is counted and named, and a version that comes for its path takes its place.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};

use super::super::{EmbeddedStore, incoming::check_batch_size, rows};
use crate::entry::{self, EntryHash, FolderId, FolderRecord};
use crate::record::ContentHash;
use crate::store::entries::{ENTRIES_MAX, EntryPage, EntryQuery, HistoryPlace, PLACES_MAX, StoredEntry};
use crate::store::{StoreError, StoreResult};
use crate::wire::decode::decode;
use crate::wire::proto::WireEntry;

/// What cursors begin with: the key behind it may be empty.
const CURSOR_PREFIX: &str = "after-";
/// Rows that are remembered as unreadable.
const UNREADABLE_MAX: usize = 1_000;

const FROM_PREFIX: &str =
    "SELECT hash, entry, path FROM entries WHERE folder = ?1 AND path >= ?2 ORDER BY path";
const AFTER_PATH: &str =
    "SELECT hash, entry, path FROM entries WHERE folder = ?1 AND path > ?2 ORDER BY path";
const ALL_FOLDERS: &str = "SELECT hash, entry, folder FROM entries WHERE path = x'' ORDER BY folder";
const AFTER_FOLDER: &str =
    "SELECT hash, entry, folder FROM entries WHERE path = x'' AND folder > ?1 ORDER BY folder";
const CHANGES: &str = "SELECT hash, entry, seq FROM entries WHERE seq > ?1 ORDER BY seq";
const HISTORY: &str = "SELECT hash, entry FROM entry_history WHERE hash = ?1 AND (hlc, digest) < (?2, ?3) \
                       ORDER BY hlc DESC, digest DESC";

/// Rows of folders that could not be read since the store was opened.
#[derive(Debug, Default)]
pub(in super::super) struct UnreadableEntries(Mutex<BTreeSet<[u8; 32]>>);

impl UnreadableEntries {
    fn note(&self, hash: [u8; 32], why: &str) {
        let mut rows = self.0.lock();
        if rows.len() < UNREADABLE_MAX && rows.insert(hash) {
            let entry = data_encoding::HEXLOWER.encode(&hash);
            tracing::warn!(entry, why, "a record of a folder cannot be read, and is passed over");
        }
    }

    /// What people should know of them.
    pub(in super::super) fn sentence(&self) -> Option<String> {
        let rows = self.0.lock();
        let first = data_encoding::HEXLOWER.encode(rows.first()?);
        let count = rows.len();
        Some(format!(
            "{count} records of folders cannot be read and are passed over, among them {first}: the log says why"
        ))
    }
}

/// The record at a path, as the table has it.
pub(super) struct FoundEntry {
    /// The number of its latest change.
    pub(super) seq: u64,
    /// `None` where it cannot be read.
    pub(super) record: Option<FolderRecord>,
}

impl EmbeddedStore {
    pub(in super::super) async fn list_entries(&self, query: EntryQuery) -> StoreResult<EntryPage> {
        let limit = query.limit.clamp(1, ENTRIES_MAX);
        let EntryQuery { folder, prefix, cursor, .. } = query;
        let after = cursor.map(|cursor| {
            let key = cursor.strip_prefix(CURSOR_PREFIX);
            let decoded = key.and_then(|key| data_encoding::HEXLOWER.decode(key.as_bytes()).ok());
            decoded.ok_or_else(|| StoreError::Invalid("this cursor is not one of a list of entries".into()))
        });
        let (after, prefix) = (after.transpose()?, entry::composed(&prefix).into_owned());
        let shared = std::sync::Arc::clone(&self.0.shared);
        let read = move |conn: &Connection| match folder {
            Some(folder) => {
                let range = (prefix.as_bytes(), after.as_deref());
                page_of_folder(conn, &shared.unreadable_entries, folder, range, limit)
            }
            None => page_of_folders(conn, &shared.unreadable_entries, after.as_deref(), limit),
        };
        self.0.shared.readers.run("list entries of folders", read).await
    }

    pub(in super::super) async fn find_entries(
        &self,
        hashes: Vec<EntryHash>,
    ) -> StoreResult<Vec<FolderRecord>> {
        check_batch_size(hashes.len())?;
        let shared = std::sync::Arc::clone(&self.0.shared);
        let read = move |conn: &Connection| {
            let mut found = Vec::with_capacity(hashes.len());
            for EntryHash(hash) in hashes {
                let sql = "SELECT hash, entry FROM entries WHERE hash = ?1";
                found.extend(readable(conn, &shared.unreadable_entries, sql, [hash], 1, |_| Ok(()))?);
            }
            Ok(found.into_iter().map(|((), record)| record).collect())
        };
        self.0.shared.readers.run("read entries of folders", read).await
    }

    pub(in super::super) async fn find_entries_with(
        &self,
        contents: Vec<ContentHash>,
    ) -> StoreResult<Vec<FolderRecord>> {
        check_batch_size(contents.len())?;
        let shared = std::sync::Arc::clone(&self.0.shared);
        let read = move |conn: &Connection| {
            let mut found = Vec::new();
            for ContentHash(content) in contents {
                let left = PLACES_MAX - found.len();
                let sql = "SELECT hash, entry FROM entries WHERE target = ?1 ORDER BY folder, path";
                found.extend(readable(conn, &shared.unreadable_entries, sql, [content], left, |_| Ok(()))?);
            }
            Ok(found.into_iter().map(|((), record)| record).collect())
        };
        self.0.shared.readers.run("read entries of folders", read).await
    }

    pub(in super::super) async fn read_entry_history(
        &self,
        EntryHash(hash): EntryHash,
        before: Option<HistoryPlace>,
    ) -> StoreResult<Vec<FolderRecord>> {
        let shared = std::sync::Arc::clone(&self.0.shared);
        let read = move |conn: &Connection| {
            // Dates are kept as signed numbers; none that stores take is beyond the greatest.
            let (hlc, digest) = before.map_or((i64::MAX, [0xff; 32]), |HistoryPlace { hlc, digest }| {
                (i64::try_from(hlc.0).unwrap_or(i64::MAX), digest.0)
            });
            let range = params![hash, hlc, digest];
            let found = readable(conn, &shared.unreadable_entries, HISTORY, range, ENTRIES_MAX, |_| Ok(()))?;
            Ok(found.into_iter().map(|((), record)| record).collect())
        };
        self.0.shared.readers.run("read the history of an entry", read).await
    }
}

pub(super) fn find(conn: &Connection, hash: EntryHash) -> rusqlite::Result<Option<FoundEntry>> {
    conn.prepare_cached("SELECT seq, entry FROM entries WHERE hash = ?1")?
        .query_row([hash.0], |row| {
            Ok(FoundEntry { seq: rows::unsigned(row, 0)?, record: record_of(row.get(1)?).ok() })
        })
        .optional()
}

/// Records of folders after this number, in sequence.
pub(in super::super) fn changes(
    conn: &Connection,
    unreadable: &UnreadableEntries,
    since: u64,
    limit: usize,
) -> rusqlite::Result<Vec<StoredEntry>> {
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let found = readable(conn, unreadable, CHANGES, [since], limit, |row| rows::unsigned(row, 2))?;
    Ok(found.into_iter().map(|(seq, record)| StoredEntry { seq, record }).collect())
}

/// All versions of a path that lost and can be read, the latest first.
pub(in super::super) fn all_history(
    conn: &Connection,
    EntryHash(hash): EntryHash,
) -> rusqlite::Result<Vec<FolderRecord>> {
    let mut statement = conn
        .prepare_cached("SELECT entry FROM entry_history WHERE hash = ?1 ORDER BY hlc DESC, digest DESC")?;
    let mut rows = statement.query([hash])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(record_of(row.get(0)?).ok());
    }
    Ok(found)
}

/// Records under their keys: at most `limit` that can be read, whatever is between them.
fn readable<K>(
    conn: &Connection,
    unreadable: &UnreadableEntries,
    sql: &str,
    range: impl Params,
    limit: usize,
    key: impl Fn(&Row<'_>) -> rusqlite::Result<K>,
) -> rusqlite::Result<Vec<(K, FolderRecord)>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(range)?;
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        match record_of(row.get(1)?) {
            Ok(record) => found.push((key(row)?, record)),
            Err(why) => unreadable.note(row.get(0)?, &why),
        }
    }
    Ok(found)
}

pub(super) fn record_of(encoded: Vec<u8>) -> Result<FolderRecord, String> {
    let wire = decode::<WireEntry>(encoded.into()).map_err(|error| error.to_string())?;
    FolderRecord::try_from(wire).map_err(|error| error.to_string())
}

/// What begins with the first of `range`, behind the second.
fn page_of_folder(
    conn: &Connection,
    unreadable: &UnreadableEntries,
    FolderId(folder): FolderId,
    (prefix, after): (&[u8], Option<&[u8]>),
    limit: usize,
) -> rusqlite::Result<EntryPage> {
    // One bound of which SQLite can begin: with two it reads all that the other one leaves out, page for page.
    let (sql, from) = match after.filter(|after| *after >= prefix) {
        Some(after) => (AFTER_PATH, after),
        None => (FROM_PREFIX, prefix),
    };
    let mut rows =
        readable(conn, unreadable, sql, params![folder, from], limit + 1, |row| row.get::<_, Vec<u8>>(2))?;
    rows.truncate(rows.partition_point(|(path, _)| path.starts_with(prefix)));
    Ok(page(rows, limit))
}

fn page_of_folders(
    conn: &Connection,
    unreadable: &UnreadableEntries,
    after: Option<&[u8]>,
    limit: usize,
) -> rusqlite::Result<EntryPage> {
    let key = |row: &Row<'_>| row.get(2);
    let rows = match after {
        Some(after) => readable(conn, unreadable, AFTER_FOLDER, [after], limit + 1, key)?,
        None => readable(conn, unreadable, ALL_FOLDERS, [], limit + 1, key)?,
    };
    Ok(page(rows, limit))
}

/// A page of rows, of which there may be one more than it has.
fn page(mut rows: Vec<(Vec<u8>, FolderRecord)>, limit: usize) -> EntryPage {
    let is_last = rows.len() <= limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| !is_last);
    let next_cursor = last.map(|(key, _)| CURSOR_PREFIX.to_owned() + &data_encoding::HEXLOWER.encode(key));
    EntryPage { next_cursor, records: rows.into_iter().map(|(_, record)| record).collect() }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::super::super::schema;
    use super::*;
    use crate::entry::{EntryAuthor, EntryPath, EntryRecord};
    use crate::record::{Hlc, WriterId};

    const FOLDER: FolderId = FolderId([5; 32]);

    fn with_paths(paths: &[String]) -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = schema::open_for_writing(&dir.path().join("store.db")).unwrap();
        let author = EntryAuthor { writer: WriterId([1; 32]), by: "m".into(), now_ms: 1 };
        let transaction = conn.transaction().unwrap();
        for path in paths {
            let path = EntryPath::parse(path).unwrap();
            let record =
                FolderRecord::Entry(EntryRecord::after(None, (FOLDER, &path), None, &author, Hlc(0)));
            transaction
                .prepare_cached("INSERT INTO entries (hash, folder, path, entry) VALUES (?1, ?2, ?3, ?4)")
                .unwrap()
                .execute(params![
                    record.hash().0,
                    FOLDER.0,
                    path.as_str().as_bytes(),
                    prost::Message::encode_to_vec(&WireEntry::from(&record))
                ])
                .unwrap();
        }
        transaction.commit().unwrap();
        (dir, conn)
    }

    #[test]
    fn a_page_costs_the_same_wherever_it_begins() {
        let paths: Vec<String> = (0..5_000).map(|n| format!("d/{n:05}")).collect();
        let (_dir, conn) = with_paths(&paths);
        let none = UnreadableEntries::default();
        for (sql, prefix, after) in [
            (FROM_PREFIX, "d/04", None),
            (AFTER_PATH, "", Some("d/04900")),
            (AFTER_PATH, "d/", Some("d/04900")),
        ] {
            let range = (prefix.as_bytes(), after.map(str::as_bytes));
            let page = page_of_folder(&conn, &none, FOLDER, range, 10).unwrap();
            assert_eq!(page.records.len(), 10);
            assert!(page.records[0].path() > "d/03999" && page.next_cursor.is_some());
            let steps = conn.prepare_cached(sql).unwrap().reset_status(StatementStatus::VmStep);
            assert!((1..1_000).contains(&steps), "{steps} steps for {sql}");
        }
    }

    #[test]
    fn a_row_that_cannot_be_read_hides_nothing_else() {
        let paths: Vec<String> = (0..6).map(|n| format!("{n}")).collect();
        let (_dir, conn) = with_paths(&paths);
        let unreadable = UnreadableEntries::default();
        assert_eq!(unreadable.sentence(), None);
        let wrong = WireEntry {
            path: ".can-sync-trash".into(),
            folder: FOLDER.0.to_vec().into(),
            writer: vec![0; 32].into(),
            ..WireEntry::default()
        };
        for (path, bytes) in [("0", vec![0xff]), ("2", prost::Message::encode_to_vec(&wrong)), ("5", vec![])]
        {
            conn.execute("UPDATE entries SET entry = ?2 WHERE path = ?1", params![path.as_bytes(), bytes])
                .unwrap();
        }
        let shown = |records: &[FolderRecord]| -> Vec<String> {
            records.iter().map(|record| record.path().to_owned()).collect()
        };
        let page = page_of_folder(&conn, &unreadable, FOLDER, (b"", None), 2).unwrap();
        assert_eq!((shown(&page.records), page.next_cursor.is_some()), (vec!["1".into(), "3".into()], true));
        let rest = page_of_folder(&conn, &unreadable, FOLDER, (b"", Some(b"3")), 2).unwrap();
        assert_eq!((shown(&rest.records), rest.next_cursor), (vec!["4".to_owned()], None));
        let told: Vec<u64> =
            changes(&conn, &unreadable, 0, 2).unwrap().iter().map(|entry| entry.seq).collect();
        assert_eq!(told, [2, 4]);
        let sentence = unreadable.sentence().unwrap();
        assert!(sentence.starts_with("3 records of folders cannot be read"), "{sentence}");
        let found = find(&conn, EntryHash::of_path(FOLDER, "2")).unwrap().unwrap();
        assert!(found.record.is_none() && found.seq == 3, "the next version takes its place");
    }
}
