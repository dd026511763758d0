//! What a snapshot has of the database, as messages one behind the other.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::super::rows::{self, COLUMNS, ContentPlace, StoredRow};
use super::super::tx::Totals;
use super::super::{StoreShared, entries, own_names};
use crate::entry::{FolderId, FolderRecord};
use crate::record::AssetRecord;
use crate::store::Holding;
use crate::store::entries::StoredEntry;
use crate::store::sync_wire::{put, wire_holding};
use crate::wire::decode::HISTORY_PER_ITEM_MAX;
use crate::wire::proto::{SnapshotItem, WireEntry, WireFeedEntry, WireRecord};

/// Changes that are read at once: with small contents these are up to 16 MiB.
const PAGE: usize = 250;

/// Items behind a number.
pub(super) struct ItemPage {
    /// Each behind its length, in the order of their numbers.
    pub(super) items: Vec<Vec<u8>>,
    /// Up to which number they are all there is.
    pub(super) end: u64,
    pub(super) is_last: bool,
    pub(super) assets: u64,
}

/// Reads a page; `None` if the feed does not go on from there, where that is asked.
pub(super) fn page(
    conn: &Connection,
    shared: &StoreShared,
    since: u64,
    checked: bool,
) -> rusqlite::Result<Option<ItemPage>> {
    let totals = Totals::read(conn)?;
    if checked && shared.needs_reset(conn, since, &totals)? {
        return Ok(None);
    }
    let mut assets: Vec<StoredRow> = conn
        .prepare_cached(&format!("SELECT {COLUMNS} FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2"))?
        .query_map(params![since.cast_signed(), i64::try_from(PAGE).unwrap_or(i64::MAX)], rows::read_stored)?
        .collect::<Result<_, _>>()?;
    let mut of_folders = entries::changes(conn, &shared.unreadable_entries, since, PAGE)?;
    let mut numbers: Vec<u64> = assets.iter().map(|row| row.asset.seq).collect();
    numbers.extend(of_folders.iter().map(|entry| entry.seq));
    numbers.sort_unstable();
    let last = numbers.get(PAGE - 1).copied();
    let end = last.unwrap_or(totals.last_seq);
    assets.retain(|row| row.asset.seq <= end);
    of_folders.retain(|entry| entry.seq <= end);

    let mut items = Vec::with_capacity(numbers.len());
    let mut assets = assets.into_iter().peekable();
    let mut foreign = HashMap::new();
    for entry in of_folders {
        // In the order of the changes: a deletion is one only behind the removal from folders that came before it.
        while let Some(row) = assets.next_if(|row| row.asset.seq < entry.seq) {
            items.push(encoded(&of_asset(conn, &row)?));
        }
        let folder = entry.record.folder();
        let is_foreign = match foreign.get(&folder.0) {
            Some(known) => *known,
            None => *foreign.entry(folder.0).or_insert(is_foreign(conn, folder)?),
        };
        // What came by a ticket comes by it again.
        if !is_foreign {
            add_entry(conn, &entry, &mut items)?;
        }
    }
    for row in assets {
        items.push(encoded(&of_asset(conn, &row)?));
    }
    Ok(Some(ItemPage { items, end, is_last: last.is_none(), assets: totals.assets }))
}

fn encoded(item: &SnapshotItem) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, item);
    bytes
}

fn of_asset(conn: &Connection, row: &StoredRow) -> rusqlite::Result<SnapshotItem> {
    let StoredRow { asset, place, .. } = row;
    let hash = asset.record.hash;
    let content = match place {
        Some(ContentPlace::Inline(id)) => rows::whole_inline_content(conn, *id, hash)?,
        Some(ContentPlace::File | ContentPlace::Object) | None => None,
    };
    let is_damaged = content.is_none() && matches!(place, Some(ContentPlace::Inline(_)));
    let holding = if is_damaged { Holding::Wanted } else { asset.holding };
    let change = WireFeedEntry {
        seq: asset.seq,
        record: Some(WireRecord::from(&asset.record)),
        holding: wire_holding(holding).into(),
        ..WireFeedEntry::default()
    };
    Ok(SnapshotItem {
        change: Some(change),
        content: content.map(Into::into),
        own_names: own_names::of(conn, hash)?,
        history: Vec::new(),
    })
}

fn is_foreign(conn: &Connection, folder: FolderId) -> rusqlite::Result<bool> {
    entries::library_of(conn, folder).map(|library| library.is_some())
}

/// What is at a path, and what was there before.
fn add_entry(conn: &Connection, entry: &StoredEntry, items: &mut Vec<Vec<u8>>) -> rusqlite::Result<()> {
    let lost: Vec<FolderRecord> = entries::all_history(conn, entry.record.hash())?;
    for lost in lost.chunks(HISTORY_PER_ITEM_MAX) {
        let history = lost.iter().map(WireEntry::from).collect();
        items.push(encoded(&SnapshotItem { history, ..SnapshotItem::default() }));
    }
    let change = WireFeedEntry {
        seq: entry.seq,
        entry: Some(WireEntry::from(&entry.record)),
        ..WireFeedEntry::default()
    };
    items.push(encoded(&SnapshotItem { change: Some(change), ..SnapshotItem::default() }));
    Ok(())
}

/// What an asset's record says, with what the store made itself of its content.
pub(super) fn record_of(wire: WireRecord) -> Result<AssetRecord, String> {
    AssetRecord::try_from(wire).map_err(|error| error.to_string())
}
