//! Content whose bytes are not right any more, or are gone: what becomes of it.
//!
//! A reader that meets wrong bytes says so ([`EmbeddedStore::suspect`]). From that moment the content counts as not held. It is read
//! in full and hashed ([`super::examining`]); if it is damaged indeed, the record becomes one whose content is not here and is wanted,
//! in one transaction, and what is there is set aside: kept, and never given away. Peers are asked for it like for any content that is
//! wanted. Once it came, what was set aside is removed. If the whole was right after all, what was wrong were its sums: they are made
//! anew.
//!
//! The writer moves files only after the commit; what a crash leaves in between is put right when the store opens.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension as _};

use super::examining::{FileIdentity, Seen};
use super::layout::Layout;
use super::objects;
use super::rows::{self, ContentPlace, InlineContent};
use super::sums::{self, SUMS_PER_ROW};
use super::tx::Tx;
use super::{EmbeddedStore, StoredAsset, scrub};
use crate::record::ContentHash;
use crate::store::groups::{GroupSum, group_count};
use crate::store::{Holding, StoreError, StoreResult};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DamageEvent {
    /// It is damaged and was set aside.
    Damaged { hash: ContentHash, size: u64, reason: String },
    /// It is here again, and right.
    Healed { hash: ContentHash, size: u64 },
}

/// Who hears of damage. Called on the store's own thread: it must not block.
pub type DamagePort = Arc<dyn Fn(DamageEvent) + Send + Sync>;

/// What is suspected at the moment, and who hears of what was found.
#[derive(Default)]
pub(super) struct DamageWatch {
    /// With whether somebody examines it.
    suspects: Mutex<HashMap<ContentHash, bool>>,
    port: OnceLock<DamagePort>,
}

impl DamageWatch {
    fn lock(&self) -> MutexGuard<'_, HashMap<ContentHash, bool>> {
        self.suspects.lock()
    }

    pub(super) fn is_suspect(&self, hash: &ContentHash) -> bool {
        self.lock().contains_key(hash)
    }

    /// Ends a suspicion: the content was examined.
    pub(super) fn clear(&self, hash: &ContentHash) {
        self.lock().remove(hash);
    }

    /// What counts as held: not what is suspected.
    pub(super) fn holding(&self, asset: &StoredAsset) -> Holding {
        let held = asset.holding;
        if held.is_held() && self.is_suspect(&asset.record.hash) { Holding::Wanted } else { held }
    }

    pub(super) fn tell(&self, event: DamageEvent) {
        match &event {
            DamageEvent::Damaged { hash, reason, .. } => {
                tracing::error!(%hash, reason, "a content is damaged: it is set aside, and asked for at other machines");
            }
            DamageEvent::Healed { hash, .. } => tracing::info!(%hash, "a damaged content is whole again"),
        }
        if let Some(port) = self.port.get() {
            port(event);
        }
    }
}

impl EmbeddedStore {
    /// Says who hears of damage; the first one stays.
    pub fn tell_damage(&self, port: DamagePort) {
        // A second one would hear what the first one is told already.
        let _ = self.0.shared.damage.port.set(port);
    }

    /// Wrong bytes of a content were met, or none. It counts as not held from now on, and is examined.
    pub(super) fn suspect(&self, hash: ContentHash, why: &str) -> StoreError {
        let being_examined = self.0.shared.damage.lock().insert(hash, true);
        if being_examined != Some(true) {
            tracing::warn!(%hash, why, "a content seems to be damaged: it is examined");
            let store = self.clone();
            tokio::spawn(async move {
                let examined = {
                    let _turn = store.0.shared.sums.turn().await;
                    store.examine(hash).await
                };
                if let Err(error) = examined {
                    tracing::error!(%hash, %error, "a content that seems to be damaged cannot be examined");
                    // It stays suspected, and the next one who asks for it has it examined again.
                    store.0.shared.damage.lock().entry(hash).and_modify(|examined| *examined = false);
                }
            });
        }
        StoreError::Corrupt(hash)
    }

    /// The asset, if there is one. That its content is here was seen on the disk.
    pub async fn look_at(&self, hash: ContentHash) -> StoreResult<Option<StoredAsset>> {
        let Some(mut asset) = self.asset(hash).await? else { return Ok(None) };
        if !asset.holding.is_held() {
            return Ok(Some(asset));
        }
        if !self.is_in_place(hash).await? {
            asset.holding = Holding::Wanted;
        }
        Ok(Some(asset))
    }

    pub(super) async fn is_object(&self, hash: ContentHash) -> StoreResult<bool> {
        let read = move |conn: &Connection| Ok(rows::find(conn, hash)?.and_then(|stored| stored.place));
        let place = self.0.shared.readers.run("look at content", read).await?;
        Ok(place == Some(ContentPlace::Object))
    }
}

/// All sums that are kept of a content, as far as they are there.
pub(super) fn kept_sums(conn: &Connection, hash: ContentHash, size: u64) -> rusqlite::Result<Vec<GroupSum>> {
    let mut kept = Vec::new();
    for row in 0..group_count(size).div_ceil(SUMS_PER_ROW as u64) {
        match sums::read(conn, hash, row, sums::sums_in(row, size))? {
            Some(sums) => kept.extend(sums),
            None => break,
        }
    }
    Ok(kept)
}

/// Makes a damaged content one that is not here and is wanted; whether it is still the one that was seen.
pub(super) fn set_aside(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    size: u64,
    seen: &Seen,
    reason: &str,
) -> rusqlite::Result<bool> {
    let Some(stored) = tx.find(hash)? else { return Ok(false) };
    let left = match (stored.place, seen) {
        (Some(ContentPlace::File), Seen::File(identity))
            if FileIdentity::at(&tx.layout.content(hash)) == *identity =>
        {
            identity.map(|_| ContentPlace::File)
        }
        (Some(ContentPlace::Inline(id)), Seen::Inline(seen)) if id == *seen => match tx.find_inline(id)? {
            InlineContent::Bytes(data) if hash.is_of(&data) => return Ok(false),
            InlineContent::Bytes(_) => Some(ContentPlace::Inline(id)),
            InlineContent::Missing | InlineContent::Unreadable => None,
        },
        // Its object stays where it is until the right bytes take its place, or nobody wants them any more.
        (Some(ContentPlace::Object), Seen::Object) => Some(ContentPlace::Object),
        (Some(_) | None, _) => return Ok(false),
    };
    tx.put_absent(&stored, true)?;
    tx.conn
        .prepare_cached(
            "INSERT OR REPLACE INTO damaged (hash, content, size, found_at_ms, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((
            hash.0,
            left.map(ContentPlace::to_column),
            size.cast_signed(),
            tx.now_ms.cast_signed(),
            reason,
        ))?;
    if left == Some(ContentPlace::File) {
        tx.after_commit.push(AfterCommit::SetAside(hash));
    }
    scrub::state::note_finding(tx.conn, hash, size, reason, tx.now_ms)?;
    let event = DamageEvent::Damaged { hash, size, reason: reason.to_owned() };
    tx.after_commit.push(AfterCommit::Tell(event));
    Ok(true)
}

/// What the writer does once a transaction is durable.
#[derive(Debug)]
pub(super) enum AfterCommit {
    SetAside(ContentHash),
    /// What was set aside is not needed any more.
    Drop(ContentHash),
    Tell(DamageEvent),
    /// The bytes were replaced by ones that were hashed just now.
    Trust(ContentHash),
}

impl AfterCommit {
    pub(super) fn perform(self, layout: &Layout, watch: &DamageWatch) {
        let (done, hash) = match self {
            Self::SetAside(hash) => (layout.set_aside(hash), hash),
            Self::Drop(hash) => (layout.remove_damaged(hash), hash),
            Self::Tell(event) => return watch.tell(event),
            Self::Trust(hash) => return watch.clear(&hash),
        };
        if let Err(error) = done {
            // Opening the store tries again; nobody reads these bytes meanwhile.
            tracing::warn!(%hash, %error, "a damaged file is not moved out of the way");
        }
    }
}

/// Forgets what was set aside of a content that is here again, or not wanted any more; whether there was something.
pub(super) fn forget(tx: &mut Tx<'_>, hash: ContentHash) -> rusqlite::Result<bool> {
    let left: Option<Option<i64>> = tx
        .conn
        .prepare_cached("SELECT content FROM damaged WHERE hash = ?1")?
        .query_row([hash.0], |row| row.get(0))
        .optional()?;
    let Some(left) = left else { return Ok(false) };
    match left.map(ContentPlace::from_column) {
        Some(ContentPlace::Inline(id)) => {
            rows::remove_inline(tx.conn, tx.probe, id)?;
        }
        Some(ContentPlace::File) => tx.after_commit.push(AfterCommit::Drop(hash)),
        Some(ContentPlace::Object) => objects::leave(tx.conn, hash)?,
        None => {}
    }
    tx.conn.prepare_cached("DELETE FROM damaged WHERE hash = ?1")?.execute([hash.0])?;
    Ok(true)
}

/// How many contents are set aside.
pub(super) fn count(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT count(*) FROM damaged")?.query_row([], |row| rows::unsigned(row, 0))
}
