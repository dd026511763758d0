//! Changes of assets in a CAN Service.

use std::time::Duration;

use reqwest::Response;
use tokio::time::Instant;

use super::answer::check;
use super::{CanHttpStore, body_of, concat, in_order, is_unknown_path, screened, upload};
use crate::record::{AssetRecord, ContentHash};
use crate::store::sync_wire::{BATCH_MAX, outcome_of};
use crate::store::{IncomingAsset, ItemOutcome, Redating, StoreError, StoreResult};
use crate::wire::proto::{IngestResult, RedateResult, WireRecord, WireRedating};

/// How long a service that cannot date versions anew is not asked again: it may be updated.
const REDATE_AGAIN: Duration = Duration::from_mins(10);

impl CanHttpStore {
    async fn send_batch(&self, batch: Vec<IncomingAsset>) -> StoreResult<Vec<ItemOutcome>> {
        let hashes: Vec<_> = batch.iter().map(|asset| asset.record.hash).collect();
        let (body, progress) = upload::body(batch);
        let sent = progress.watch(self.url(), self.post("sync/ingest", body).send()).await?;
        let response =
            check(self.url(), sent.map_err(|error| progress.explain(self.url(), &error))?, None).await?;
        self.outcomes(response, &hashes).await
    }

    pub(super) async fn send_hashes(
        &self,
        path: &str,
        hashes: Vec<ContentHash>,
    ) -> StoreResult<Vec<ItemOutcome>> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        if hashes.len() > BATCH_MAX {
            return Err(StoreError::Invalid(format!("at most {BATCH_MAX} assets can be named at once")));
        }
        self.change(path, concat(hashes.iter().map(|hash| &hash.0)), &hashes).await
    }

    /// Has these assets changed, without content.
    async fn change(
        &self,
        path: &str,
        body: Vec<u8>,
        hashes: &[ContentHash],
    ) -> StoreResult<Vec<ItemOutcome>> {
        let response = self.answer(self.post(path, body), upload::COMMIT_TIMEOUT).await?;
        let response = check(self.url(), response, None).await?;
        self.outcomes(response, hashes).await
    }

    /// Sends records without content, in as many batches as it takes.
    pub(super) async fn send_records(
        &self,
        path: &str,
        records: Vec<AssetRecord>,
    ) -> StoreResult<Vec<ItemOutcome>> {
        let (records, rejected) = screened(records, broken);
        let mut outcomes = Vec::with_capacity(records.len());
        for batch in records.chunks(BATCH_MAX) {
            let hashes: Vec<_> = batch.iter().map(|record| record.hash).collect();
            outcomes.extend(self.change(path, body_of(batch.iter().map(WireRecord::from)), &hashes).await?);
        }
        Ok(in_order(rejected, outcomes))
    }

    /// Sends assets with their contents, in as many batches as it takes.
    pub(super) async fn send_assets(&self, assets: Vec<IncomingAsset>) -> StoreResult<Vec<ItemOutcome>> {
        let (mut assets, rejected) = screened(assets, |asset| broken(&asset.record));
        let mut outcomes = Vec::with_capacity(assets.len());
        while !assets.is_empty() {
            let rest = assets.split_off(assets.len().min(BATCH_MAX));
            outcomes.extend(self.send_batch(std::mem::replace(&mut assets, rest)).await?);
        }
        Ok(in_order(rejected, outcomes))
    }

    pub(super) async fn send_redatings(
        &self,
        redatings: Vec<Redating>,
    ) -> StoreResult<Vec<Option<AssetRecord>>> {
        let unsupported =
            || StoreError::Unsupported { url: self.url().to_owned(), what: "date versions anew" };
        let redate_after = || self.redate_after.lock();
        if redate_after().is_some_and(|after| Instant::now() < after) {
            return Err(unsupported());
        }
        let body = body_of(redatings.iter().map(WireRedating::from));
        let response = self.answer(self.post("sync/redate", body), upload::COMMIT_TIMEOUT).await?;
        if is_unknown_path(&response) {
            if redate_after().replace(Instant::now() + REDATE_AGAIN).is_none() {
                tracing::warn!(
                    "{}; until then, versions that were dated by a wrong clock may win over newer ones",
                    unsupported()
                );
            }
            return Err(unsupported());
        }
        *redate_after() = None;
        let response = check(self.url(), response, None).await?;
        let hashes = redatings.iter().map(|redating| redating.hash().0);
        let results = self.results(response, hashes, |result: &RedateResult| &result.hash).await?;
        let before = |result: RedateResult| result.before.map(|wire| self.record(wire)).transpose();
        results.into_iter().map(before).collect()
    }

    async fn outcomes(&self, response: Response, hashes: &[ContentHash]) -> StoreResult<Vec<ItemOutcome>> {
        let hashes = hashes.iter().map(|hash| hash.0);
        let results = self.results(response, hashes, |result: &IngestResult| &result.hash).await?;
        let outcomes: Option<Vec<_>> = results.into_iter().map(outcome_of).collect();
        outcomes.ok_or_else(|| self.garbled(&"an outcome is unknown"))
    }
}

fn broken(record: &AssetRecord) -> Option<ItemOutcome> {
    record.meta.validate().err().map(|rule| ItemOutcome::Rejected(rule.to_string()))
}
