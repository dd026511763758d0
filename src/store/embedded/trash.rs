//! Content that was deleted or let go and is still there: what lies in the trash, and how it comes back.

use rusqlite::Connection;
use rusqlite::params;

use super::rows::{self, COLUMNS};
use super::types::{HashPrefix, StoredAsset};
use super::{EmbeddedStore, edit};
use crate::record::ContentHash;
use crate::store::{StoreError, StoreResult};

/// Most entries of a page.
const LIMIT_MAX: usize = 1000;

/// An asset whose content lies in the trash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrashedAsset {
    /// Its tombstone, or what is known of it where only the content was let go.
    pub asset: StoredAsset,
    /// When it went there, in milliseconds since the Unix epoch.
    pub trashed_at_ms: u64,
}

/// Some of the trash, the last thrown away first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrashPage {
    pub assets: Vec<TrashedAsset>,
    pub more: bool,
    pub total: u64,
}

impl EmbeddedStore {
    /// What lies in the trash, after the entry `after` (its time and hash), of which `prefix` is the beginning of the hash; at
    /// most `limit`, which is brought into 1..=1000.
    pub async fn trash(
        &self,
        prefix: Option<HashPrefix>,
        after: Option<(u64, ContentHash)>,
        limit: usize,
    ) -> StoreResult<TrashPage> {
        let limit = limit.clamp(1, LIMIT_MAX);
        let read = move |conn: &Connection| page(conn, prefix, after, limit);
        self.0.shared.readers.run("look into the trash", read).await
    }

    /// Brings a deleted asset back from the trash, as an edit of this moment; one whose content was let go gets that back. One
    /// that is live and held stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotHeld`] where the trash does not have its content, or not any more;
    /// [`StoreError::Corrupt`] where that is damaged; the errors of writing.
    pub async fn restore(&self, hash: ContentHash) -> StoreResult<StoredAsset> {
        let asset = self.asset(hash).await?.ok_or(StoreError::NotFound(hash))?;
        if !asset.record.deleted {
            if !asset.holding.is_held() {
                self.want_batch(vec![hash]).await?;
            }
            let asset = self.asset(hash).await?.ok_or(StoreError::NotFound(hash))?;
            return if asset.holding.is_held() { Ok(asset) } else { Err(StoreError::NotHeld(hash)) };
        }
        self.0.shared.check_writable()?;
        let whole = self.verify_trash(vec![hash], |stored| stored.record.deleted).await?;
        self.submit(Vec::new(), 0, move |tx| edit::restore(tx, hash, &whole)).await
    }
}

fn page(
    conn: &Connection,
    prefix: Option<HashPrefix>,
    after: Option<(u64, ContentHash)>,
    limit: usize,
) -> rusqlite::Result<TrashPage> {
    let total =
        conn.prepare_cached("SELECT count(*) FROM trash")?.query_row([], |row| rows::unsigned(row, 0))?;
    let (first, last) = prefix.map_or(([0; 32], [0xff; 32]), |prefix| prefix.range());
    // Nothing is later than this.
    let (ms, hash) =
        after.map_or((i64::MAX, [0xff; 32]), |(ms, hash)| (i64::try_from(ms).unwrap_or(i64::MAX), hash.0));
    let sql = format!(
        "SELECT {COLUMNS}, (SELECT trashed_at_ms FROM trash WHERE trash.hash = records.hash) AS trashed FROM records \
         WHERE hash IN (SELECT hash FROM trash WHERE hash BETWEEN ?1 AND ?2 \
         AND (trashed_at_ms, hash) < (?3, ?4) ORDER BY trashed_at_ms DESC, hash DESC LIMIT ?5) \
         ORDER BY trashed DESC, hash DESC"
    );
    let wanted = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut assets: Vec<TrashedAsset> = conn
        .prepare_cached(&sql)?
        .query_map(params![first, last, ms, hash, wanted], |row| {
            Ok(TrashedAsset {
                asset: rows::read_asset(row)?,
                trashed_at_ms: row.get::<_, i64>("trashed")?.cast_unsigned(),
            })
        })?
        .collect::<Result<_, _>>()?;
    let more = assets.len() > limit;
    assets.truncate(limit);
    Ok(TrashPage { assets, more, total })
}
