//! What the database knows of the place where contents are, and of who opened it.

use rusqlite::{Connection, OptionalExtension as _};

use super::super::EmbeddedStore;
use super::super::anchors::DatabaseFile;
use super::Objects;
use crate::store::bucket::claim::{Claim, KnownOpening, PlaceUse};
use crate::store::bucket::marker::{PlaceId, Unsettled};
use crate::store::{StoreError, StoreResult};

impl EmbeddedStore {
    /// Finds out whether the bucket may be used, and takes note of it.
    pub(super) async fn settle_bucket(&self) -> Result<(), Unsettled> {
        let Some(objects) = &self.0.shared.objects else { return Ok(()) };
        let failed = |error: StoreError| Unsettled::Away(error.to_string());
        let (owner, own) = (self.id(), objects.bucket.opening());
        let file = DatabaseFile::of(&self.0.shared.layout.database());
        let read = move |conn: &Connection| {
            Ok(Claim {
                owner,
                known: known_place(conn)?,
                openings: openings(conn, file)?,
                halts: halts(conn)?,
            })
        };
        let claim = self.0.shared.readers.run("read where contents are", read).await.map_err(failed)?;
        let (inode, born_ms) = file.map(DatabaseFile::columns).unzip();
        // Before it may stand in the bucket.
        let named = self.submit_deletion(move |tx| {
            tx.conn.execute(
                "INSERT OR IGNORE INTO bucket_openings (id, inode, born_ms) VALUES (?1, ?2, ?3)",
                (own, inode, born_ms.flatten()),
            )?;
            Ok(Ok(()))
        });
        named.await.map_err(failed)?;
        let (place, used) = objects.bucket.settle(&claim).await?;
        if claim.known != Some(place) {
            let shown = objects.bucket.shown().to_owned();
            let kept = self.submit_deletion(move |tx| {
                tx.conn.execute(
                    "INSERT OR REPLACE INTO bucket (id, place, shown) VALUES (1, ?1, ?2)",
                    (place.0, &shown),
                )?;
                Ok(Ok(()))
            });
            kept.await.map_err(failed)?;
        }
        match used {
            PlaceUse::Own => self.forget_former_openings().await.map_err(failed),
            PlaceUse::Halted(code) => self.note_halt(code).await.map_err(failed),
            PlaceUse::Shared => Ok(()),
        }
    }

    /// Looks now and then whether another store takes the place for its own; `noted` is the code of which note was taken.
    pub(super) async fn look_for_others(&self, objects: &Objects, noted: &mut Option<String>) {
        if let Err(error) = objects.bucket.look_for_others().await {
            tracing::debug!(?error, "who uses the object storage is not known at the moment");
        }
        let Some(code) = objects.bucket.halted().filter(|code| noted.as_ref() != Some(code)) else { return };
        match self.note_halt(code.clone()).await {
            Ok(()) => *noted = Some(code),
            Err(error) => tracing::debug!(%error, "that the object storage is halted is not noted"),
        }
    }

    /// This opening stands in the bucket: no earlier one ever will.
    async fn forget_former_openings(&self) -> StoreResult {
        let Some(objects) = &self.0.shared.objects else { return Ok(()) };
        let own = objects.bucket.opening();
        let forgotten = self.submit_deletion(move |tx| {
            tx.conn.execute("DELETE FROM bucket_openings WHERE id <> ?1", [own])?;
            tx.conn.execute("DELETE FROM bucket_halts", [])?;
            Ok(Ok(()))
        });
        forgotten.await
    }

    async fn note_halt(&self, code: String) -> StoreResult {
        let noted = self.submit_deletion(move |tx| {
            tx.conn.execute("INSERT OR IGNORE INTO bucket_halts (code) VALUES (?1)", [&code])?;
            Ok(Ok(()))
        });
        noted.await
    }
}

/// Where contents are already.
pub(super) fn known_place(conn: &Connection) -> rusqlite::Result<Option<PlaceId>> {
    Ok(conn.query_row("SELECT place FROM bucket", [], |row| row.get(0)).optional()?.map(PlaceId))
}

/// Openings of which one may be the latest; the database is this file now.
fn openings(conn: &Connection, file: Option<DatabaseFile>) -> rusqlite::Result<Vec<KnownOpening>> {
    conn.prepare("SELECT id, inode, born_ms FROM bucket_openings")?
        .query_map([], |row| {
            let then = DatabaseFile::from_columns(row.get(1)?, row.get(2)?);
            let is_copied = then.zip(file).is_some_and(|(then, now)| then.differs_from(now));
            Ok(KnownOpening { id: row.get(0)?, is_copied })
        })?
        .collect()
}

fn halts(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT code FROM bucket_halts")?.query_map([], |row| row.get(0))?.collect()
}
