//! What users do with assets: looking them up, listing, editing, deleting.

use super::{EmbeddedStore, ListPage, ListQuery, MetaPatch, StoredAsset, edit, query, rows, writer};
use crate::record::{ContentHash, META_BYTES_MAX};
use crate::store::StoreResult;

impl EmbeddedStore {
    pub async fn asset(&self, hash: ContentHash) -> StoreResult<Option<StoredAsset>> {
        let found = self.0.shared.readers.run("look up an asset", move |conn| rows::find(conn, hash)).await?;
        Ok(found.map(|stored| {
            let holding = self.0.shared.damage.holding(&stored.asset);
            StoredAsset { holding, ..stored.asset }
        }))
    }

    /// Live assets, filtered, ordered by creation, in pages. A cursor keeps its place whatever is added meanwhile.
    ///
    /// # Errors
    /// `StoreError::Invalid` for a cursor that is not one of this order, or too many hashes; `StoreError::Busy` where
    /// too many others search; `StoreError::Io`.
    pub async fn list(&self, query: ListQuery) -> StoreResult<ListPage> {
        self.0.shared.scrub.note_use();
        let query = query::Prepared::new(query)?;
        let readers = &self.0.shared.readers;
        let others = readers.others();
        if query.is_quick(self.0.shared.building.is_built()) {
            return readers
                .run("list assets", move |conn| query.run(conn, &others))
                .await
                .map(|(page, _)| page);
        }
        let (page, is_garbled) =
            readers.search("search assets", move |conn| query.run(conn, &others)).await?;
        if is_garbled {
            tracing::warn!("the index of words is damaged: it is made anew");
            self.begin_words_anew().await?;
        }
        Ok(page)
    }

    /// Changes the metadata of a live asset. Nothing is written if it is that already.
    ///
    /// # Errors
    /// `StoreError::NotFound`, also for a deleted one; `StoreError::Invalid` for metadata over its limits; the
    /// errors of writing.
    pub async fn patch(&self, hash: ContentHash, patch: MetaPatch) -> StoreResult<StoredAsset> {
        self.patch_version(hash, patch, None).await
    }

    /// As [`EmbeddedStore::patch`], if the asset is of one of the versions that it is `meant_for`
    /// ([`StoredAsset::version_tag`]).
    ///
    /// # Errors
    /// `StoreError::Changed` if it is of another; those of [`EmbeddedStore::patch`].
    pub async fn patch_version(
        &self,
        hash: ContentHash,
        patch: MetaPatch,
        meant_for: Option<Vec<String>>,
    ) -> StoreResult<StoredAsset> {
        // The rest of its text is written anew, too.
        let bytes = writer::change_bytes(std::iter::once(META_BYTES_MAX));
        self.submit_growing(bytes, move |tx| edit::patch(tx, hash, patch, meant_for.as_deref())).await
    }

    /// Deletes a live asset: a tombstone remains, and its content stays in the trash for 30 days.
    ///
    /// # Errors
    /// `StoreError::NotFound`, also for one deleted before; the errors of writing.
    pub async fn delete(&self, hash: ContentHash) -> StoreResult<StoredAsset> {
        self.delete_version(hash, None).await
    }

    /// As [`EmbeddedStore::delete`], if the asset is of one of the versions that it is `meant_for`.
    ///
    /// # Errors
    /// `StoreError::Changed` if it is of another; those of [`EmbeddedStore::delete`].
    pub async fn delete_version(
        &self,
        hash: ContentHash,
        meant_for: Option<Vec<String>>,
    ) -> StoreResult<StoredAsset> {
        self.submit_deletion(move |tx| edit::delete(tx, hash, meant_for.as_deref())).await
    }

    /// As [`EmbeddedStore::delete_version`], of what files of folders may have, too: they are removed from the folders first, on all
    /// machines.
    ///
    /// # Errors
    /// Those of [`EmbeddedStore::delete_version`]; `StoreError::Invalid` where too many files have it.
    pub async fn delete_from_folders(
        &self,
        hash: ContentHash,
        meant_for: Option<Vec<String>>,
    ) -> StoreResult<StoredAsset> {
        self.submit_deletion(move |tx| edit::delete_from_folders(tx, hash, meant_for.as_deref())).await
    }
}
