//! A transaction of the writer, and the few ways in which it changes rows. What to change is decided in
//! [`merge`](super::merge) and [`edit`](super::edit).

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension};

use super::damage::{self, AfterCommit, DamageEvent};
use super::index::{self, IndexChanges, IndexStage};
use super::layout::Layout;
use super::objects::{self, waiting};
use super::rows::{self, ContentPlace, InlineContent, StoredRow};
use super::sums;
use super::types::StoredAsset;
use crate::record::{AssetRecord, ContentHash, Hlc, WriterId};
use crate::store::Holding;
use crate::text::folded;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Totals {
    pub(super) last_seq: u64,
    /// All changes there were.
    pub(super) changes: u64,
    /// The greatest number whose row was purged.
    pub(super) purge_floor: u64,
    /// Live assets, held or not.
    pub(super) assets: u64,
    pub(super) bytes: u64,
    pub(super) assets_held: u64,
    pub(super) bytes_held: u64,
    /// Up to which number the index has the words of records.
    pub(super) words_seq: u64,
}

impl Totals {
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let read = "SELECT last_seq, purge_floor, assets, bytes, assets_held, bytes_held, changes, words_seq FROM state";
        conn.prepare_cached(read)?.query_row([], |row| {
            Ok(Self {
                last_seq: rows::unsigned(row, 0)?,
                purge_floor: rows::unsigned(row, 1)?,
                assets: rows::unsigned(row, 2)?,
                bytes: rows::unsigned(row, 3)?,
                assets_held: rows::unsigned(row, 4)?,
                bytes_held: rows::unsigned(row, 5)?,
                changes: rows::unsigned(row, 6)?,
                words_seq: rows::unsigned(row, 7)?,
            })
        })
    }

    pub(super) fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Self { last_seq, purge_floor, assets, bytes, assets_held, bytes_held, changes, words_seq } =
            *self;
        conn.prepare_cached(
            "UPDATE state SET last_seq = ?1, purge_floor = ?2, assets = ?3, bytes = ?4, assets_held = ?5, \
             bytes_held = ?6, changes = ?7, words_seq = ?8",
        )?
        .execute(
            [last_seq, purge_floor, assets, bytes, assets_held, bytes_held, changes, words_seq]
                .map(u64::cast_signed),
        )
        .map(drop)
    }

    /// Sizes of what is not held are only what peers say, so that sums may overflow; wrapping, they come right again.
    fn add(&mut self, StoredAsset { record, holding, .. }: &StoredAsset) {
        if !record.deleted {
            self.assets += 1;
            self.bytes = self.bytes.wrapping_add(record.size);
        }
        if holding.is_held() {
            self.assets_held += 1;
            self.bytes_held += record.size;
        }
    }

    fn subtract(&mut self, StoredAsset { record, holding, .. }: &StoredAsset) {
        if !record.deleted {
            self.assets -= 1;
            self.bytes = self.bytes.wrapping_sub(record.size);
        }
        if holding.is_held() {
            self.assets_held -= 1;
            self.bytes_held -= record.size;
        }
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

#[derive(Clone, Debug)]
pub(super) enum VerifiedBytes {
    /// Here: they go into the table `contents`.
    Inline(bytes::Bytes),
    /// In a file that travels with the task; the writer has put it into its place before the transaction.
    File,
    /// In the bucket, where they were found to be right just now.
    Object,
}

/// Content that was deleted or let go.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrashRow {
    pub(super) place: ContentPlace,
    pub(super) size: u64,
}

pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    /// Sees what the transaction before left. Small contents whose pages may be damaged are read by it.
    pub(super) probe: &'a Connection,
    pub(super) layout: &'a Layout,
    /// Who we are in records that are edited here.
    pub(super) writer: WriterId,
    pub(super) now_ms: u64,
    /// The newest date of a version that another machine of the user's is known to have.
    pub(super) confirmed_ms: u64,
    pub(super) totals: Totals,
    /// Done once all of it is durable.
    pub(super) after_commit: Vec<AfterCommit>,
    pub(super) stage: IndexStage,
    /// Written before the commit.
    pub(super) index: IndexChanges,
    /// An entry of a folder names what was deleted.
    pub(super) targets_deleted: bool,
    pub(super) trash_changed: Cell<bool>,
    /// Files were named in `pending_files` to which nothing refers any more.
    pub(super) files_left: bool,
    /// What becomes of contents that get their place in a file.
    pub(super) going_up: waiting::Listing,
}

impl Tx<'_> {
    pub(super) fn find(&self, hash: ContentHash) -> rusqlite::Result<Option<StoredRow>> {
        rows::find(self.conn, hash)
    }

    /// As [`Tx::put`], for a version that a user of this store writes. The date of the version before it is kept, that
    /// nobody else is known to have a later one of: should our clock turn out to be ahead, this one can be dated anew.
    pub(super) fn put_own(
        &mut self,
        old: Option<&StoredRow>,
        record: AssetRecord,
        place: Option<ContentPlace>,
    ) -> rusqlite::Result<StoredAsset> {
        let before = match old {
            None => Hlc::default(),
            Some(StoredRow { asset, .. }) if asset.record.hlc.ms() <= self.confirmed_ms => asset.record.hlc,
            Some(StoredRow { asset, .. }) => self.before(asset.seq)?.unwrap_or(asset.record.hlc),
        };
        self.put_after(before, old, record, place)
    }

    /// As [`Tx::put`], for a version that was written here after one of this date.
    pub(super) fn put_after(
        &mut self,
        before: Hlc,
        old: Option<&StoredRow>,
        record: AssetRecord,
        place: Option<ContentPlace>,
    ) -> rusqlite::Result<StoredAsset> {
        let asset = self.put(old, record, place)?;
        self.set_before(asset.seq, before)?;
        Ok(asset)
    }

    fn set_before(&self, seq: u64, before: Hlc) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("UPDATE records SET before_hlc = ?2 WHERE seq = ?1")?
            .execute([seq.cast_signed(), before.0.cast_signed()])
            .map(drop)
    }

    /// The date of the version before the one under this number; `None` if that was not written here.
    pub(super) fn before(&self, seq: u64) -> rusqlite::Result<Option<Hlc>> {
        self.conn
            .prepare_cached("SELECT before_hlc FROM records WHERE seq = ?1")?
            .query_row([seq.cast_signed()], |row| row.get::<_, Option<i64>>(0))
            .map(|before| before.map(|hlc| Hlc(hlc.cast_unsigned())))
    }

    /// Writes a version of a record under the next number. `place` says where its content lies, if it is here; whether
    /// absent content is wanted stays as it was.
    pub(super) fn put(
        &mut self,
        old: Option<&StoredRow>,
        record: AssetRecord,
        place: Option<ContentPlace>,
    ) -> rusqlite::Result<StoredAsset> {
        let absent = old.filter(|old| !old.asset.record.deleted && old.place.is_none());
        let holding = match place {
            Some(_) => Holding::Held,
            None if record.deleted => Holding::Unwanted,
            None => absent.map_or(Holding::Wanted, |old| old.asset.holding),
        };
        self.write(old, record, place, holding)
    }

    /// Writes a live record again, whose content is not here, or not any more.
    pub(super) fn put_absent(&mut self, old: &StoredRow, wanted: bool) -> rusqlite::Result<()> {
        let holding = if wanted { Holding::Wanted } else { Holding::Unwanted };
        self.write(Some(old), old.asset.record.clone(), None, holding).map(drop)
    }

    fn write(
        &mut self,
        old: Option<&StoredRow>,
        record: AssetRecord,
        place: Option<ContentPlace>,
        holding: Holding,
    ) -> rusqlite::Result<StoredAsset> {
        debug_assert!(!record.deleted || place.is_none(), "a tombstone has no content");
        if let Some(StoredRow { asset: old, .. }) = old {
            self.totals.subtract(old);
            self.remove_tags(&old.record)?;
        }
        let same = |old: &&StoredRow| {
            let old = &old.asset.record;
            (old.hlc, old.writer) == (record.hlc, record.writer)
        };
        let before = old.filter(same).map(|old| self.before(old.asset.seq)).transpose()?.flatten();
        let formers = old.map(|old| self.formers_of(old, &record)).transpose()?.unwrap_or_default();
        self.totals.last_seq += 1;
        self.totals.changes += 1;
        let asset = StoredAsset { seq: self.totals.last_seq, updated_at_ms: self.now_ms, record, holding };
        self.totals.add(&asset);
        self.add_tags(&asset.record)?;
        self.index.words.note(&asset.record);
        let list_key = index::update(self.conn, &mut self.index, old, &asset)?;
        rows::write(self.conn, old, &asset, place, list_key)?;
        self.note_place(old.and_then(|old| old.place), place, asset.record.hash)?;
        // What was set aside is kept for as long as the content is wanted.
        if holding != Holding::Wanted && damage::forget(self, asset.record.hash)? && holding.is_held() {
            let healed = DamageEvent::Healed { hash: asset.record.hash, size: asset.record.size };
            self.after_commit.push(AfterCommit::Tell(healed));
        }
        if let Some(before) = before {
            self.set_before(asset.seq, before)?;
        }
        if !formers.is_empty() {
            rows::set_formers(self.conn, asset.seq, &formers)?;
        }
        Ok(asset)
    }

    /// Keeps in step what is to go up.
    fn note_place(
        &mut self,
        before: Option<ContentPlace>,
        now: Option<ContentPlace>,
        hash: ContentHash,
    ) -> rusqlite::Result<()> {
        let is_file = |place| place == Some(ContentPlace::File);
        match (is_file(before), is_file(now)) {
            (false, true) => waiting::list(self, hash),
            (true, false) => waiting::unlist(self.conn, hash),
            (true, true) | (false, false) => Ok(()),
        }
    }

    /// What is kept of versions before `record`, which takes the place of `old`: what users changed or deleted, until
    /// something comes through a library. The last of their own, and what came before that through a library: one library
    /// may have had the one, and another one the other.
    fn formers_of(&self, old: &StoredRow, record: &AssetRecord) -> rusqlite::Result<Vec<AssetRecord>> {
        let StoredAsset { seq, record: old, .. } = &old.asset;
        if record.via.is_some() || (old.deleted && !record.deleted) {
            return Ok(Vec::new());
        }
        let mut kept = rows::formers(self.conn, *seq)?;
        if !old.deleted && !old.is_version_of(record) {
            kept.retain(|kept| kept.via.is_some() && old.via.is_none());
            kept.push(old.clone());
        }
        Ok(kept)
    }

    fn add_tags(&self, record: &AssetRecord) -> rusqlite::Result<()> {
        self.change_tags(record, "INSERT OR IGNORE INTO record_tags (tag, hash) VALUES (?1, ?2)")
    }

    fn remove_tags(&self, record: &AssetRecord) -> rusqlite::Result<()> {
        self.change_tags(record, "DELETE FROM record_tags WHERE tag = ?1 AND hash = ?2")
    }

    /// The tags of a live record, where lists do not go by the index yet.
    fn change_tags(&self, record: &AssetRecord, sql: &str) -> rusqlite::Result<()> {
        if record.deleted || self.stage > IndexStage::Building {
            return Ok(());
        }
        for tag in &record.meta.tags {
            self.conn.prepare_cached(sql)?.execute((folded(tag), record.hash.0))?;
        }
        Ok(())
    }

    /// Stores content; the answer is where.
    pub(super) fn store_content(&self, content: &Verified) -> rusqlite::Result<ContentPlace> {
        match &content.bytes {
            VerifiedBytes::File => Ok(ContentPlace::File),
            VerifiedBytes::Object => Ok(ContentPlace::Object),
            VerifiedBytes::Inline(bytes) => {
                self.conn
                    .prepare_cached("INSERT INTO contents (data) VALUES (?1)")?
                    .execute([bytes.as_ref()])?;
                Ok(ContentPlace::Inline(self.conn.last_insert_rowid()))
            }
        }
    }

    pub(super) fn find_inline(&self, id: i64) -> rusqlite::Result<InlineContent> {
        match rows::find_inline(self.probe, id)? {
            // It may have come with this transaction.
            InlineContent::Missing => rows::find_inline(self.conn, id),
            found @ (InlineContent::Bytes(_) | InlineContent::Unreadable) => Ok(found),
        }
    }

    /// Puts the content of an asset that is being deleted or let go into the trash, if it is here.
    pub(super) fn bury(&self, stored: &StoredRow) -> rusqlite::Result<()> {
        let Some(place) = stored.place else { return Ok(()) };
        self.trash_changed.set(true);
        let record = &stored.asset.record;
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO trash (hash, content, size, trashed_at_ms) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((record.hash.0, place.to_column(), record.size.cast_signed(), self.now_ms.cast_signed()))
            .map(drop)
    }

    pub(super) fn trashed(&self, hash: ContentHash) -> rusqlite::Result<Option<TrashRow>> {
        trashed(self.conn, hash)
    }

    /// Takes an entry out of the trash; the content stays where it is.
    pub(super) fn unbury(&self, hash: ContentHash) -> rusqlite::Result<()> {
        self.trash_changed.set(true);
        self.conn.prepare_cached("DELETE FROM trash WHERE hash = ?1")?.execute([hash.0]).map(drop)
    }

    /// Forgets what the trash has of this hash, now that its content has arrived anew. A file in the trash has the place of the new one,
    /// and was replaced by it, unless the new one is elsewhere; so was an object. Which it is turns out once there is a record.
    pub(super) fn discard_trashed(&mut self, hash: ContentHash) -> rusqlite::Result<()> {
        let Some(trashed) = self.trashed(hash)? else { return Ok(()) };
        match trashed.place {
            ContentPlace::Inline(id) => rows::remove_inline(self.conn, self.probe, id)?,
            ContentPlace::Object => objects::leave(self.conn, hash)?,
            ContentPlace::File => self.leave_file(hash)?,
        }
        // What comes as a file or an object brings its own.
        sums::forget(self.conn, hash)?;
        self.unbury(hash)
    }

    /// Names a file to which nothing refers any more. It is removed after the commit, and when the store opens.
    pub(super) fn leave_file(&mut self, hash: ContentHash) -> rusqlite::Result<()> {
        self.files_left = true;
        self.conn
            .prepare_cached("INSERT OR IGNORE INTO pending_files (hash) VALUES (?1)")?
            .execute([hash.0])
            .map(drop)
    }

    pub(super) fn refers_to_file(&self, hash: ContentHash) -> rusqlite::Result<bool> {
        refers_to_file(self.conn, hash)
    }
}

pub(super) fn trashed(conn: &Connection, hash: ContentHash) -> rusqlite::Result<Option<TrashRow>> {
    conn.prepare_cached("SELECT content, size FROM trash WHERE hash = ?1")?
        .query_row([hash.0], |row| {
            Ok(TrashRow { place: ContentPlace::from_column(row.get(0)?), size: rows::unsigned(row, 1)? })
        })
        .optional()
}

/// Puts a content's file into the trash, which has no record of it; how many were put.
pub(super) fn trash_file(
    conn: &Connection,
    hash: ContentHash,
    size: u64,
    now_ms: u64,
) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "INSERT OR IGNORE INTO trash (hash, content, size, trashed_at_ms) VALUES (?1, 0, ?2, ?3)",
    )?
    .execute((hash.0, size.cast_signed(), now_ms.cast_signed()))
}

pub(super) fn refers_to_file(conn: &Connection, hash: ContentHash) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM records WHERE hash = ?1 AND content = 0) \
         OR EXISTS (SELECT 1 FROM trash WHERE hash = ?1 AND content = 0)",
    )?
    .query_row([hash.0], |row| row.get(0))
}
