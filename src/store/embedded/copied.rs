//! The database of a store that was copied: what a backup has to bring along, and what a restored store is told.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::layout::Layout;
use super::tx::Totals;
use super::{EmbeddedStore, loss, rows, runs, schema};
use crate::record::ContentHash;
use crate::store::StoreId;
use crate::store::at_rest::{open_at_rest, problem_at_rest};

/// A copy of a store's database, opened for reading. Nothing is made beside it.
pub struct CopiedDatabase(Connection);

/// What it says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopiedFigures {
    /// `None` for one of before stores had ids.
    pub id: Option<StoreId>,
    /// Number of the last change.
    pub seq: u64,
    /// Live assets, held or not.
    pub assets: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopiedContent {
    pub hash: ContentHash,
    pub size: u64,
    /// What people call it.
    pub name: Option<String>,
}

impl CopiedDatabase {
    /// # Errors
    /// A sentence: it is none, or newer than this program.
    pub fn open(path: &Path) -> Result<Self, String> {
        if let Some(problem) = problem_at_rest(path, schema::KNOWN) {
            return Err(problem);
        }
        open_at_rest(path).map(Self).map_err(|error| error.to_string())
    }

    pub fn figures(&self) -> rusqlite::Result<CopiedFigures> {
        let id = self.0.query_row("SELECT store_id FROM state", [], |row| row.get(0)).map(StoreId).ok();
        self.0.query_row("SELECT last_seq, assets FROM state", [], |row| {
            Ok(CopiedFigures { id, seq: rows::unsigned(row, 0)?, assets: rows::unsigned(row, 1)? })
        })
    }

    /// All changes there were; no end of them where they were not counted yet.
    pub fn changes(&self) -> u64 {
        self.0.query_row("SELECT changes FROM state", [], |row| rows::unsigned(row, 0)).unwrap_or(u64::MAX)
    }

    /// When it was last noticed that changes were gone, in milliseconds since the Unix epoch.
    pub fn lost_at_ms(&self) -> Option<i64> {
        self.0.query_row("SELECT lost_at_ms FROM state", [], |row| row.get(0)).ok().flatten()
    }

    /// Whether the change of this number may be in its past: as far as it remembers, it is.
    pub fn may_know(&self, seq: u64) -> bool {
        let Ok(totals) = Totals::read(&self.0) else { return true };
        seq < totals.purge_floor || runs::knows(&self.0, seq, &totals).unwrap_or(true)
    }

    fn contents(&self, sql: &str) -> rusqlite::Result<Vec<CopiedContent>> {
        self.0.prepare(sql)?.query_map([], read_content)?.collect()
    }

    /// Contents that lie in files, deleted ones in the trash among them, by hash.
    pub fn contents_in_files(&self) -> rusqlite::Result<Vec<CopiedContent>> {
        self.contents(
            "SELECT hash, size, filename FROM records WHERE content = 0 \
             UNION ALL SELECT hash, size, NULL FROM trash WHERE content = 0 \
             AND hash NOT IN (SELECT hash FROM records WHERE content = 0) ORDER BY 1",
        )
    }

    pub fn wanted_contents(&self) -> rusqlite::Result<Vec<CopiedContent>> {
        self.contents(
            "SELECT hash, size, filename FROM records WHERE deleted = 0 AND content IS NULL AND wanted = 1",
        )
    }

    /// A content that lies in the database itself, if its bytes are right.
    pub fn content_inside(&self, hash: ContentHash) -> Option<Vec<u8>> {
        let id: i64 = self
            .0
            .query_row("SELECT content FROM records WHERE hash = ?1 AND content > 0", [hash.0], |row| {
                row.get(0)
            })
            .ok()?;
        rows::inline_content(&self.0, id).ok().flatten().filter(|data| hash.is_of(data))
    }

    /// Contents that were found damaged, and are not here.
    pub fn contents_aside(&self) -> rusqlite::Result<Vec<CopiedContent>> {
        self.contents(
            "SELECT records.hash, records.size, filename FROM damaged JOIN records USING (hash) \
             WHERE deleted = 0 AND records.content IS NULL",
        )
    }

    pub fn name_of(&self, hash: ContentHash) -> Option<String> {
        let name =
            self.0.query_row("SELECT filename FROM records WHERE hash = ?1", [hash.0], |row| row.get(0));
        name.ok().flatten()
    }

    /// Contents in the database itself whose bytes are not those that they are named by. Reads all of them.
    pub fn damaged_inside(&self) -> rusqlite::Result<Vec<CopiedContent>> {
        let mut statement =
            self.0.prepare("SELECT hash, size, filename, content FROM records WHERE content > 0")?;
        let mut found = statement.query([])?;
        let mut damaged = Vec::new();
        while let Some(row) = found.next()? {
            let content = read_content(row)?;
            if rows::inline_content(&self.0, row.get(3)?)?.is_none_or(|data| !content.hash.is_of(&data)) {
                damaged.push(content);
            }
        }
        Ok(damaged)
    }
}

fn read_content(row: &Row<'_>) -> rusqlite::Result<CopiedContent> {
    Ok(CopiedContent { hash: ContentHash(row.get(0)?), size: rows::unsigned(row, 1)?, name: row.get(2)? })
}

impl EmbeddedStore {
    /// Where the content of this hash lies in the store of a directory if it is in a file.
    pub fn content_file(dir: &Path, hash: ContentHash) -> PathBuf {
        Layout { dir: dir.to_owned() }.content(hash)
    }

    /// The directory of the contents that lie in files.
    pub fn contents_dir(dir: &Path) -> PathBuf {
        Layout { dir: dir.to_owned() }.contents()
    }

    /// How many changes the store of a directory acknowledged, as far as is known without its database.
    pub fn acknowledged_changes(dir: &Path) -> u64 {
        loss::acknowledged_at_rest(&Layout { dir: dir.to_owned() }.mark())
    }

    pub fn database_file(dir: &Path) -> PathBuf {
        Layout { dir: dir.to_owned() }.database()
    }

    /// The file that a process holds locked while it has the store of a directory open.
    pub fn lock_file(dir: &Path) -> PathBuf {
        Layout { dir: dir.to_owned() }.lock()
    }

    /// Makes the directories of a store in which there is nothing yet.
    pub fn make_dirs(dir: &Path) -> std::io::Result<()> {
        Layout { dir: dir.to_owned() }.create()
    }

    /// Whether the store of a directory, open or not, still needs the file of this content.
    pub fn needs_file(dir: &Path, hash: ContentHash) -> bool {
        let asked = open_at_rest(&Self::database_file(dir)).and_then(|conn| {
            conn.query_row(
                "SELECT 1 FROM records WHERE hash = ?1 AND content = 0 \
                 UNION ALL SELECT 1 FROM trash WHERE hash = ?1 AND content = 0 LIMIT 1",
                [hash.0],
                |_| Ok(()),
            )
            .optional()
        });
        // Where nobody can tell, it is missed.
        !asked.is_ok_and(|found| found.is_none())
    }

    /// Makes the store of a directory that nobody has open another one than the one that it is a copy of: for a node beside
    /// that.
    pub fn make_another(dir: &Path) -> Result<(), String> {
        let conn =
            schema::open_for_writing(&Self::database_file(dir)).map_err(|error| format!("{error:?}"))?;
        conn.execute("UPDATE state SET writer_id = randomblob(32), store_id = randomblob(16)", [])
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
