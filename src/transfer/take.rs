//! The last step of what came: into the store, and into what its library has.
//!
//! What came from an own device merges with what is here. What a library delivered concerns the store only as far as
//! that is the library's: the store looks in the transaction that writes it, and what it keeps goes beside it, into the
//! library alone ([`Library::deliver`]).

use std::collections::HashMap;
use std::sync::Arc;

use crate::library::{Libraries, Library, OfferMeaning, OtherwiseHeld};
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::{Holding, IncomingAsset, ItemOutcome, StoreRef, StoreResult, StoredRecord};

/// How often a record is looked at anew when the store's version changes under it.
const ATTEMPTS: usize = 4;
/// Hashes in one question to the store.
const ASKED_AT_ONCE: usize = 1000;

/// Where what came goes. Cheap to clone.
#[derive(Clone)]
pub struct Taker {
    pub store: StoreRef,
    pub libraries: Arc<Libraries>,
}

impl Taker {
    /// Takes contents with their records, for a library, or for the mirror. Answers in the same order once all is durable.
    ///
    /// # Errors
    /// What the store says; nothing of the batch may be counted on then.
    pub async fn ingest(
        &self,
        library: Option<LibraryId>,
        batch: Vec<IncomingAsset>,
    ) -> StoreResult<Vec<ItemOutcome>> {
        let Some(id) = library else {
            self.keep_versions(batch.iter().map(|asset| &asset.record), |_| true).await?;
            return self.store.ingest(batch).await;
        };
        let records: Vec<AssetRecord> = batch.iter().map(|asset| asset.record.for_members()).collect();
        let (batch, filled) = self.through(id, batch).await?;
        self.keep_versions(batch.iter().map(|asset| &asset.record), |over| over.deleted).await?;
        let outcomes = self.store.ingest_through(batch).await?;
        let is_open = |outcome: &Option<ItemOutcome>, filled: bool| match outcome {
            Some(ItemOutcome::Rejected(_)) => false,
            Some(_) => filled,
            None => true,
        };
        let open: Vec<bool> =
            outcomes.iter().zip(filled).map(|(outcome, filled)| is_open(outcome, filled)).collect();
        let stays = records.into_iter().zip(&open).filter_map(|(record, open)| open.then_some(record));
        let mut beside = self.put_beside(id, stays.collect()).await?.into_iter();
        let all = outcomes.into_iter().zip(open);
        let all = all.map(|(outcome, open)| if open { beside.next() } else { outcome });
        Ok(all.map(|outcome| outcome.unwrap_or(ItemOutcome::Unchanged)).collect())
    }

    /// Contents with the records that the store is to have with them, if it has none outside of the library: what the library
    /// says; or, where the library has a newer version without its content, that version, which is looked at again once it is
    /// filled. Says which of them those are.
    async fn through(
        &self,
        id: LibraryId,
        mut batch: Vec<IncomingAsset>,
    ) -> StoreResult<(Vec<IncomingAsset>, Vec<bool>)> {
        let library = self.libraries.get(id);
        let stored = self.stored(batch.iter().map(|asset| asset.record.hash)).await?;
        let mut filled = Vec::with_capacity(batch.len());
        for IncomingAsset { record, .. } in &mut batch {
            let stored = stored.get(&record.hash);
            let lacking = library.as_ref().and_then(|library| library.version_filled_by(record, stored));
            filled.push(lacking.is_some());
            match lacking {
                Some(version) => *record = version,
                None => record.via = Some(id),
            }
        }
        Ok((batch, filled))
    }

    /// Takes in what a library delivered and the store keeps its own of.
    async fn put_beside(&self, id: LibraryId, records: Vec<AssetRecord>) -> StoreResult<Vec<ItemOutcome>> {
        // A library that was forgotten meanwhile takes nothing in.
        let Some(library) = self.libraries.get(id).filter(|_| !records.is_empty()) else {
            return Ok(records.iter().map(|_| ItemOutcome::Unchanged).collect());
        };
        let stored = self.stored(records.iter().map(|record| record.hash)).await?;
        let (mut members, mut outcomes) = (Vec::new(), Vec::with_capacity(records.len()));
        for record in records {
            match library.deliver(&record, stored.get(&record.hash)) {
                // What finds no room is offered again, and refused.
                OtherwiseHeld::Beside | OtherwiseHeld::Full => outcomes.push(Some(ItemOutcome::Unchanged)),
                OtherwiseHeld::IsMember => {
                    members.push(record);
                    outcomes.push(None);
                }
            }
        }
        let mut replaced = self.replace(&library, members, true).await?.into_iter();
        let all = outcomes.into_iter().map(|outcome| outcome.or_else(|| replaced.next()));
        Ok(all.map(|outcome| outcome.unwrap_or(ItemOutcome::Unchanged)).collect())
    }

    /// Takes an asset of the mirror whose content is where the store keeps its own already; `None` if it is not.
    pub async fn take_over(&self, record: AssetRecord) -> StoreResult<Option<ItemOutcome>> {
        self.keep_versions(std::iter::once(&record), |_| true).await?;
        self.store.take_over(record).await
    }

    /// Takes note of records whose contents the offering peer does not have, for the mirror.
    pub async fn take_absent(&self, records: Vec<AssetRecord>) -> StoreResult<Vec<ItemOutcome>> {
        self.keep_versions(records.iter(), |_| true).await?;
        self.store.take_absent(records).await
    }

    /// Takes records without content, for a library, or for the mirror.
    pub async fn apply(
        &self,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    ) -> StoreResult<Vec<ItemOutcome>> {
        if let Some(id) = library {
            return match self.libraries.get(id) {
                Some(library) => self.replace(&library, records, false).await,
                None => Ok(records.iter().map(|_| ItemOutcome::Unchanged).collect()),
            };
        }
        self.keep_versions(records.iter(), |_| true).await?;
        self.store.apply(records).await
    }

    /// Lets libraries keep what they have and the store is about to replace by something of others, where that is so `of` what
    /// is stored.
    async fn keep_versions(
        &self,
        records: impl Iterator<Item = &AssetRecord> + Clone,
        of: impl Fn(&AssetRecord) -> bool,
    ) -> StoreResult {
        if self.libraries.shared().is_empty() {
            return Ok(());
        }
        let stored = self.stored(records.clone().map(|record| record.hash)).await?;
        for record in records {
            let over = stored.get(&record.hash);
            if let Some(over) = over.filter(|over| of(&over.record) && record.supersedes(&over.record)) {
                self.libraries.keep_versions(over, record);
            }
        }
        Ok(())
    }

    /// Puts versions that a library delivered in the place of its own in the store, and of no others; `whole` if it
    /// delivered their contents as well.
    async fn replace(
        &self,
        library: &Library,
        records: Vec<AssetRecord>,
        whole: bool,
    ) -> StoreResult<Vec<ItemOutcome>> {
        let mut outcomes: Vec<Option<ItemOutcome>> = records.iter().map(|_| None).collect();
        for _ in 0..ATTEMPTS {
            let open: Vec<usize> = (0..records.len()).filter(|n| outcomes[*n].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let stored = self.stored(open.iter().map(|n| records[*n].hash)).await?;
            let (mut places, mut changes) = (Vec::new(), Vec::new());
            for n in open {
                let (record, over) = (&records[n], stored.get(&records[n].hash));
                let meaning = if whole {
                    match library.deliver(record, over) {
                        OtherwiseHeld::Beside | OtherwiseHeld::Full => OfferMeaning::Noted,
                        OtherwiseHeld::IsMember => OfferMeaning::Replaces,
                    }
                } else {
                    // It was judged as one to apply. As one to fetch, by a claim that nobody ever delivered, it would be offered
                    // and judged again for ever.
                    library.consider(record, false, over, true, None)
                };
                match (meaning, over) {
                    (OfferMeaning::Replaces, Some(over)) => {
                        let fresh = library.for_store(record, &over.record);
                        self.libraries.keep_versions(over, &fresh);
                        places.push(n);
                        changes.push((fresh, over.record.clone()));
                    }
                    (OfferMeaning::Known | OfferMeaning::Noted, _) => {
                        outcomes[n] = Some(ItemOutcome::Unchanged);
                    }
                    (OfferMeaning::Refused(why), _) => outcomes[n] = Some(ItemOutcome::Rejected(why)),
                    (OfferMeaning::Wanted | OfferMeaning::Replaces, _) => {
                        outcomes[n] = Some(ItemOutcome::NeedsContent);
                    }
                }
            }
            if changes.is_empty() {
                break;
            }
            let replaced = self.store.replace(changes.clone()).await?;
            for ((n, (fresh, _)), outcome) in places.into_iter().zip(changes).zip(replaced) {
                if fresh.deleted {
                    let stored = match outcome {
                        None => None,
                        // A folder has it: it stays, and is the library's no more.
                        Some(ItemOutcome::Unchanged) => {
                            self.stored(std::iter::once(fresh.hash)).await?.remove(&fresh.hash)
                        }
                        Some(_) => Some(StoredRecord { record: fresh, holding: Holding::Unwanted }),
                    };
                    if let Some(stored) = stored {
                        library.note_deleted(&records[n], &stored);
                    }
                }
                outcomes[n] = outcome;
            }
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(ItemOutcome::NeedsContent)).collect())
    }

    async fn stored(
        &self,
        hashes: impl Iterator<Item = ContentHash>,
    ) -> StoreResult<HashMap<ContentHash, StoredRecord>> {
        let hashes: Vec<ContentHash> = hashes.collect();
        let mut stored = HashMap::with_capacity(hashes.len());
        for some in hashes.chunks(ASKED_AT_ONCE) {
            let records = self.store.records(some.to_vec()).await?;
            stored.extend(records.into_iter().map(|record| (record.record.hash, record)));
        }
        Ok(stored)
    }
}
