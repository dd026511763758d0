//! Records as rows, and rows as records.

use prost::Message as _;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::failure;
use super::types::StoredAsset;
use crate::record::{AssetMeta, AssetRecord, ContentHash, Hlc, LibraryId, WriterId};
use crate::store::Holding;
use crate::text::folded;
use crate::wire::decode::decode;
use crate::wire::proto::WireRecord;

/// The columns of a record, in the order that [`read_stored`] expects.
pub(super) const COLUMNS: &str = "seq, hash, size, blake3, hlc, writer, deleted, content, updated_at_ms, \
     created_at_ms, mime_type, filename, application, user, tags, description, wanted, via, own_content, names, \
     dropped_names, modified_at_ms, list_key";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ContentPlace {
    /// In the file that is named by its hash.
    File,
    /// In the table `contents`, under this id.
    Inline(i64),
    /// In the bucket, under the key that is made of its hash.
    Object,
}

/// Stands in a column for a content in the bucket.
const OBJECT: i64 = -1;

impl ContentPlace {
    pub(super) fn from_column(value: i64) -> Self {
        match value {
            0 => Self::File,
            OBJECT => Self::Object,
            id => Self::Inline(id),
        }
    }

    pub(super) fn to_column(self) -> i64 {
        match self {
            Self::File => 0,
            Self::Inline(id) => id,
            Self::Object => OBJECT,
        }
    }
}

/// A record, and where its content lies.
#[derive(Clone, Debug)]
pub(super) struct StoredRow {
    pub(super) asset: StoredAsset,
    /// `None` for tombstones, and for content that is not here.
    pub(super) place: Option<ContentPlace>,
    /// Where the index has it; `None` for tombstones, and for what is not in the index yet.
    pub(super) list_key: Option<i64>,
}

/// The record of an asset, tombstones included.
pub(super) fn find(conn: &Connection, hash: ContentHash) -> rusqlite::Result<Option<StoredRow>> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM records WHERE hash = ?1"))?
        .query_row([hash.0], read_stored)
        .optional()
}

/// The list key of the record under this number.
pub(super) fn list_key(conn: &Connection, seq: u64) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT list_key FROM records WHERE seq = ?1")?
        .query_row([seq.cast_signed()], |row| row.get(0))
}

/// Names of the columns that [`read_formers`] reads.
pub(super) const FORMERS: &str = "former, former_own";

/// The versions that users changed into the one under this number, if they did.
pub(super) fn formers(conn: &Connection, seq: u64) -> rusqlite::Result<Vec<AssetRecord>> {
    conn.prepare_cached(&format!("SELECT {FORMERS} FROM records WHERE seq = ?1"))?
        .query_row([seq.cast_signed()], |row| read_formers(row, 0))
        .optional()
        .map(Option::unwrap_or_default)
}

/// Keeps them: one that came through a library, and one that did not.
pub(super) fn set_formers(conn: &Connection, seq: u64, formers: &[AssetRecord]) -> rusqlite::Result<()> {
    let encoded = |through: bool| {
        let former = formers.iter().find(|former| former.via.is_some() == through);
        former.map(|former| WireRecord::from(former).encode_to_vec())
    };
    conn.prepare_cached("UPDATE records SET former = ?2, former_own = ?3 WHERE seq = ?1")?
        .execute((seq.cast_signed(), encoded(true), encoded(false)))
        .map(drop)
}

/// Reads the columns [`FORMERS`], the first of which is `column`. What cannot be read is not there.
pub(super) fn read_formers(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<AssetRecord>> {
    let encoded: [Option<Vec<u8>>; 2] = [row.get(column)?, row.get(column + 1)?];
    let read = |encoded: Vec<u8>| decode::<WireRecord>(encoded.into()).ok()?.try_into().ok();
    Ok(encoded.into_iter().flatten().filter_map(read).collect())
}

/// A small content as it lies in the database.
pub(super) enum InlineContent {
    Bytes(Vec<u8>),
    Missing,
    /// The pages that it is on are damaged: that is this content's damage, and not that of the records.
    Unreadable,
}

/// What there is of a small content. Not for the transaction of a writer: damaged pages that it meets end it.
pub(super) fn find_inline(conn: &Connection, id: i64) -> rusqlite::Result<InlineContent> {
    let mut select = conn.prepare_cached("SELECT data FROM contents WHERE id = ?1")?;
    match select.query_row([id], |row| row.get(0)).optional() {
        Ok(Some(data)) => Ok(InlineContent::Bytes(data)),
        Ok(None) => Ok(InlineContent::Missing),
        Err(error) if failure::is_damaged_page(&error) => {
            tracing::warn!(id, %error, "a small content cannot be read in the database");
            Ok(InlineContent::Unreadable)
        }
        Err(error) => Err(error),
    }
}

/// A small content; `None` if it is not there, or cannot be read.
pub(super) fn inline_content(conn: &Connection, id: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(match find_inline(conn, id)? {
        InlineContent::Bytes(data) => Some(data),
        InlineContent::Missing | InlineContent::Unreadable => None,
    })
}

/// As [`inline_content`], if it is what it is named by.
pub(super) fn whole_inline_content(
    conn: &Connection,
    id: i64,
    hash: ContentHash,
) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(inline_content(conn, id)?.filter(|data| hash.is_of(data)))
}

/// Removes a small content that nothing refers to any more. One that `probe` cannot read stays where it is, for good.
pub(super) fn remove_inline(conn: &Connection, probe: &Connection, id: i64) -> rusqlite::Result<()> {
    if !matches!(find_inline(probe, id)?, InlineContent::Unreadable) {
        conn.prepare_cached("DELETE FROM contents WHERE id = ?1")?.execute([id])?;
    }
    Ok(())
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read_stored(row: &Row<'_>) -> rusqlite::Result<StoredRow> {
    let place: Option<i64> = row.get(7)?;
    let place = place.map(ContentPlace::from_column);
    Ok(StoredRow { asset: read_asset(row)?, place, list_key: row.get(22)? })
}

/// Reads a row of [`COLUMNS`], less where the content lies.
pub(super) fn read_asset(row: &Row<'_>) -> rusqlite::Result<StoredAsset> {
    let record = AssetRecord {
        hash: ContentHash(row.get(1)?),
        size: unsigned(row, 2)?,
        blake3: row.get(3)?,
        hlc: Hlc(unsigned(row, 4)?),
        writer: row.get::<_, Option<[u8; 32]>>(5)?.map_or(WriterId::NULL, WriterId),
        deleted: row.get(6)?,
        left: false,
        via: row.get::<_, Option<[u8; 32]>>(17)?.map(LibraryId),
        own_content: row.get(18)?,
        meta: AssetMeta {
            mime_type: row.get(10)?,
            filename: row.get(11)?,
            application: row.get(12)?,
            user: row.get(13)?,
            tags: texts(row, 14)?,
            description: row.get(15)?,
            created_at_ms: unsigned(row, 9)?,
            names: texts(row, 19)?,
            dropped_names: numbers(&row.get::<_, Option<Vec<u8>>>(20)?.unwrap_or_default()),
            modified_at_ms: row.get::<_, Option<i64>>(21)?.map(i64::cast_unsigned),
        },
    };
    let holding = match (row.get::<_, Option<i64>>(7)?, record.deleted, row.get(16)?) {
        (Some(_), ..) => Holding::Held,
        (None, false, true) => Holding::Wanted,
        (None, true, _) | (None, false, false) => Holding::Unwanted,
    };
    Ok(StoredAsset { seq: unsigned(row, 0)?, updated_at_ms: unsigned(row, 8)?, record, holding })
}

/// A list of texts, as JSON so that a record is one row.
fn texts(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let json: Option<String> = row.get(column)?;
    let read = |json: String| {
        serde_json::from_str(&json)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
    };
    json.map(read).transpose().map(Option::unwrap_or_default)
}

fn texts_column(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| serde_json::Value::from(texts).to_string())
}

/// A list of numbers, little-endian, one after the other.
fn numbers(bytes: &[u8]) -> Vec<u64> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
}

fn numbers_column(numbers: &[u64]) -> Option<Vec<u8>> {
    (!numbers.is_empty()).then(|| numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

/// Writes a row in place of the asset's earlier one, if there was one.
pub(super) fn write(
    conn: &Connection,
    earlier: Option<&StoredRow>,
    asset: &StoredAsset,
    place: Option<ContentPlace>,
    list_key: Option<i64>,
) -> rusqlite::Result<()> {
    let record = &asset.record;
    let meta = &record.meta;
    let [search, application, user] = derived(meta);
    if let Some(earlier) = earlier {
        // Replacing would also remove another record that has the same list key.
        conn.prepare_cached("DELETE FROM records WHERE seq = ?1")?
            .execute([earlier.asset.seq.cast_signed()])?;
    }
    let mut insert = conn.prepare_cached(
        "INSERT INTO records (seq, hash, size, blake3, hlc, writer, deleted, content, updated_at_ms, \
         created_at_ms, mime_type, filename, application, user, tags, description, search, wanted, via, own_content, \
         application_folded, user_folded, names, dropped_names, modified_at_ms, list_key) \
         VALUES (:seq, :hash, :size, :blake3, :hlc, :writer, :deleted, :content, :updated_at_ms, \
         :created_at_ms, :mime_type, :filename, :application, :user, :tags, :description, :search, :wanted, :via, \
         :own_content, :application_folded, :user_folded, :names, :dropped_names, :modified_at_ms, :list_key)",
    )?;
    insert.execute(named_params! {
        ":seq": asset.seq.cast_signed(),
        ":hash": record.hash.0,
        ":size": record.size.cast_signed(),
        ":blake3": record.blake3,
        ":hlc": record.hlc.0.cast_signed(),
        ":writer": (record.writer != WriterId::NULL).then_some(record.writer.0),
        ":deleted": record.deleted,
        ":content": place.map(ContentPlace::to_column),
        ":updated_at_ms": asset.updated_at_ms.cast_signed(),
        ":created_at_ms": meta.created_at_ms.cast_signed(),
        ":mime_type": meta.mime_type,
        ":filename": meta.filename,
        ":application": meta.application,
        ":user": meta.user,
        ":tags": texts_column(&meta.tags),
        ":description": meta.description,
        ":search": search,
        ":wanted": asset.holding != Holding::Unwanted,
        ":via": record.via.map(|via| via.0),
        ":own_content": record.own_content,
        ":application_folded": application,
        ":user_folded": user,
        ":names": texts_column(&meta.names),
        ":dropped_names": numbers_column(&meta.dropped_names),
        ":modified_at_ms": meta.modified_at_ms.map(u64::cast_signed),
        ":list_key": list_key,
    })?;
    Ok(())
}

/// What searches look into: words, application, user.
pub(super) fn derived(meta: &AssetMeta) -> [Option<String>; 3] {
    [searched_text(meta), meta.application.as_deref().map(folded), meta.user.as_deref().map(folded)]
}

/// What a search by words looks into.
pub(super) fn searched_text(meta: &AssetMeta) -> Option<String> {
    // The separator keeps a match from running from the one into the other.
    let parts: Vec<String> = meta.all_names().chain(meta.description.as_deref()).map(folded).collect();
    (!parts.is_empty()).then(|| parts.join("\u{1f}"))
}

/// An unsigned column: SQLite knows only signed integers, so the bits are kept.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}
