//! A transaction of the writer, and the few ways in which it changes rows. What to change is decided in
//! [`merge`](super::merge) and [`edit`](super::edit).

use rusqlite::{Connection, OptionalExtension};

use super::layout::Layout;
use super::rows::{self, Held, Place};
use super::types::StoredAsset;
use crate::record::{AssetRecord, ContentHash, WriterId};

/// The row of `state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Totals {
    /// Number of the last change.
    pub(super) last_seq: u64,
    /// The greatest number whose row was purged.
    pub(super) purge_floor: u64,
    /// Live assets.
    pub(super) assets: u64,
    /// Sum of their sizes.
    pub(super) bytes: u64,
}

impl Totals {
    pub(super) fn read(conn: &Connection) -> Result<Self, rusqlite::Error> {
        conn.prepare_cached("SELECT last_seq, purge_floor, assets, bytes FROM state")?.query_row([], |row| {
            Ok(Self {
                last_seq: rows::unsigned(row, 0)?,
                purge_floor: rows::unsigned(row, 1)?,
                assets: rows::unsigned(row, 2)?,
                bytes: rows::unsigned(row, 3)?,
            })
        })
    }

    pub(super) fn write(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        conn.prepare_cached("UPDATE state SET last_seq = ?1, purge_floor = ?2, assets = ?3, bytes = ?4")?
            .execute([self.last_seq, self.purge_floor, self.assets, self.bytes].map(u64::cast_signed))?;
        Ok(())
    }
}

/// Content whose bytes are known to hash to `hash`.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    pub(super) blake3: [u8; 32],
    pub(super) bytes: VerifiedBytes,
}

/// Where the bytes of [`Verified`] are.
#[derive(Clone, Debug)]
pub(super) enum VerifiedBytes {
    /// Here: they go into the table `contents`.
    Inline(bytes::Bytes),
    /// In a file that travels with the task; the writer has put it into its place before the transaction.
    File,
}

/// What the content of a deleted asset left behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trashed {
    pub(super) place: Place,
    pub(super) size: u64,
}

/// One transaction of the writer.
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    pub(super) layout: &'a Layout,
    /// Who we are in records that are edited here.
    pub(super) writer: WriterId,
    /// The time of this transaction.
    pub(super) now_ms: u64,
    pub(super) totals: Totals,
}

impl Tx<'_> {
    pub(super) fn find(&self, hash: ContentHash) -> Result<Option<Held>, rusqlite::Error> {
        rows::find(self.conn, hash)
    }

    /// Writes a version of a record under the next number. `place` must say where its content lies, unless it is a
    /// tombstone.
    pub(super) fn put(
        &mut self,
        old: Option<&Held>,
        record: AssetRecord,
        place: Option<Place>,
    ) -> Result<StoredAsset, rusqlite::Error> {
        debug_assert_eq!(record.deleted, place.is_none());
        if let Some(Held { asset: StoredAsset { record: old, .. }, .. }) =
            old.filter(|o| !o.asset.record.deleted)
        {
            self.totals.assets -= 1;
            self.totals.bytes -= old.size;
            self.remove_tags(old)?;
        }
        if !record.deleted {
            self.totals.assets += 1;
            self.totals.bytes += record.size;
            self.add_tags(&record)?;
        }
        self.totals.last_seq += 1;
        let asset = StoredAsset { seq: self.totals.last_seq, updated_at_ms: self.now_ms, record };
        rows::write(self.conn, &asset, place)?;
        Ok(asset)
    }

    fn add_tags(&self, record: &AssetRecord) -> Result<(), rusqlite::Error> {
        for tag in &record.meta.tags {
            self.conn
                .prepare_cached("INSERT INTO record_tags (tag, hash) VALUES (?1, ?2)")?
                .execute((tag, record.hash.0))?;
        }
        Ok(())
    }

    fn remove_tags(&self, record: &AssetRecord) -> Result<(), rusqlite::Error> {
        for tag in &record.meta.tags {
            self.conn
                .prepare_cached("DELETE FROM record_tags WHERE tag = ?1 AND hash = ?2")?
                .execute((tag, record.hash.0))?;
        }
        Ok(())
    }

    /// Stores content; the answer is where.
    pub(super) fn store_content(&self, content: &Verified) -> Result<Place, rusqlite::Error> {
        match &content.bytes {
            VerifiedBytes::File => Ok(Place::File),
            VerifiedBytes::Inline(bytes) => {
                self.conn
                    .prepare_cached("INSERT INTO contents (data) VALUES (?1)")?
                    .execute([bytes.as_ref()])?;
                Ok(Place::Inline(self.conn.last_insert_rowid()))
            }
        }
    }

    /// Puts the content of an asset that is being deleted into the trash.
    pub(super) fn bury(&self, held: &Held) -> Result<(), rusqlite::Error> {
        let Some(place) = held.place else { return Ok(()) };
        let record = &held.asset.record;
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO trash (hash, content, size, trashed_at_ms) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((
                record.hash.0,
                place.to_column(),
                record.size.cast_signed(),
                self.now_ms.cast_signed(),
            ))?;
        Ok(())
    }

    /// What the trash has of this hash.
    pub(super) fn trashed(&self, hash: ContentHash) -> Result<Option<Trashed>, rusqlite::Error> {
        trashed(self.conn, hash)
    }

    /// Takes an entry out of the trash; the content stays where it is.
    pub(super) fn unbury(&self, hash: ContentHash) -> Result<(), rusqlite::Error> {
        self.conn.prepare_cached("DELETE FROM trash WHERE hash = ?1")?.execute([hash.0])?;
        Ok(())
    }

    /// Forgets what the trash has of this hash, now that its content has arrived anew. A file in the trash has the
    /// place of the new one, and was replaced by it.
    pub(super) fn discard_trashed(&self, hash: ContentHash) -> Result<(), rusqlite::Error> {
        let Some(trashed) = self.trashed(hash)? else { return Ok(()) };
        if let Place::Inline(id) = trashed.place {
            self.conn.prepare_cached("DELETE FROM contents WHERE id = ?1")?.execute([id])?;
        }
        self.unbury(hash)
    }

    /// Whether anything refers to a file of this hash.
    pub(super) fn refers_to_file(&self, hash: ContentHash) -> Result<bool, rusqlite::Error> {
        refers_to_file(self.conn, hash)
    }
}

/// What the trash has of this hash.
pub(super) fn trashed(conn: &Connection, hash: ContentHash) -> Result<Option<Trashed>, rusqlite::Error> {
    conn.prepare_cached("SELECT content, size FROM trash WHERE hash = ?1")?
        .query_row([hash.0], |row| {
            Ok(Trashed { place: Place::from_column(row.get(0)?), size: rows::unsigned(row, 1)? })
        })
        .optional()
}

/// Whether a record or the trash refers to a file of this hash.
pub(super) fn refers_to_file(conn: &Connection, hash: ContentHash) -> Result<bool, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM records WHERE hash = ?1 AND content = 0) \
         OR EXISTS (SELECT 1 FROM trash WHERE hash = ?1 AND content = 0)",
    )?
    .query_row([hash.0], |row| row.get(0))
}
