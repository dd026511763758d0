//! A CAN Service behind HTTP.
//!
//! [`CanHttpStore`] speaks the sync API of [`crate::store::service`]. Content streams both ways; nothing that the
//! service answers is held in memory beyond its bound. Every wait is limited: connecting, each piece that is read, each
//! piece that is sent, and the commit at the end. It neither follows redirects nor uses a proxy: the key goes to the
//! configured address and nowhere else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::http::envelope::Success;
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::entries::{
    EntryOutcome, EntryPage, EntryPut, EntryQuery, FolderClaim, HistoryPlace, StoredEntry,
};
use crate::store::scrub::ScrubFinding;
use crate::store::service::{BASE_PATH, StatusJson, key};
use crate::store::sync_wire::{
    BATCH_MAX, BodyReader, FEED_END, FEED_ENTRIES, FEED_RESET, PROTOBUF, QUERY_HASHES_MAX, STORE_ID,
    holding_of, outcome_of, put,
};
use crate::store::{
    ContentReader, ContentStore, FeedEntry, FeedPage, IncomingAsset, ItemOutcome, Redating, StoreError,
    StoreEvent, StoreStatus, StoredRecord,
};
use crate::wire::decode::Inbound;
use crate::wire::proto::{
    IngestResult, RecordError, RedateResult, WireFeedEntry, WireRecord, WireRedating, WireStoredRecord,
};

mod answer;
mod entries;
mod upload;
mod watch;

use answer::{check, fail, json, timed};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, and each piece of it to come. Twice the heartbeat of the event stream.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that idle longer are closed here, well before the service closes them under a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a service that cannot date versions anew is not asked again: it may be updated.
const REDATE_AGAIN: Duration = Duration::from_mins(10);
/// Largest piece of content that readers get.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Questions for one page of the feed, where what comes has to be passed over.
const FEED_ROUNDS_MAX: usize = 64;

/// Why a store behind HTTP cannot even be named.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CanHttpError {
    /// Not the URL of a CAN Service.
    #[error("'{url}' is not the URL of a CAN Service: write it as http://host:3210")]
    Url { url: String },
    /// The key cannot be sent.
    #[error("the sync API key holds characters that cannot be sent: copy it again from the CAN Service")]
    Key,
    /// No HTTP client could be made.
    #[error("no HTTP client can be set up: {0}")]
    Client(String),
}

/// A CAN Service behind HTTP. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CanHttpStore {
    client: Client,
    /// Ends with the base path, without a slash.
    base: Url,
    /// When it may be asked again to date versions anew, if it cannot. An older one has no such route.
    redate_after: Arc<Mutex<Option<Instant>>>,
}

impl CanHttpStore {
    /// The service at `base_url`: `http://host:3210`, with or without the API's base path. Connects to nothing yet.
    ///
    /// # Errors
    /// The URL or the key make no sense.
    pub fn new(base_url: &str, key: &SecretString) -> Result<Self, CanHttpError> {
        let base = base_of(base_url).ok_or_else(|| CanHttpError::Url { url: base_url.to_owned() })?;
        let mut key = HeaderValue::from_str(key.expose_secret()).map_err(|_| CanHttpError::Key)?;
        key.set_sensitive(true);
        let headers: HeaderMap =
            [(key::HEADER.parse().map_err(|_| CanHttpError::Key)?, key)].into_iter().collect();
        // The client wants a process-wide provider. When somebody installed one before, theirs is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|error| CanHttpError::Client(error.to_string()))?;
        Ok(Self { client, base, redate_after: Arc::default() })
    }

    /// The base URL, as errors name it.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}/{path}", self.base))
    }

    /// Sends a request that has no long body, and checks the status of the answer.
    async fn send(
        &self,
        request: RequestBuilder,
        about: Option<ContentHash>,
    ) -> Result<Response, StoreError> {
        let response = timed(self.url(), READ_TIMEOUT, request.send()).await?;
        check(self.url(), response.map_err(|error| fail(self.url(), &error))?, about).await
    }

    /// Reads at most `max` messages.
    async fn messages<M: Inbound>(&self, response: Response, max: usize) -> Result<Vec<M>, StoreError> {
        let mut reader = BodyReader::new(response.bytes_stream().boxed(), READ_TIMEOUT);
        let mut messages = Vec::new();
        while let Some(message) = reader.message().await.map_err(|error| self.garbled(&error))? {
            if messages.len() == max {
                return Err(self.garbled(&"more was sent than was asked for"));
            }
            messages.push(message);
        }
        Ok(messages)
    }

    fn garbled(&self, problem: &dyn std::fmt::Display) -> StoreError {
        StoreError::Unavailable {
            url: self.url().to_owned(),
            reason: format!("its answer cannot be used: {problem}"),
        }
    }

    async fn read_status(&self) -> Result<StoreStatus, StoreError> {
        let response = self.send(self.request(Method::GET, "status"), None).await?;
        let Success { data, .. } = json::<Success<StatusJson>>(self.url(), response).await?;
        Ok(StoreStatus {
            assets: data.assets,
            bytes: data.bytes,
            assets_held: data.assets_held,
            bytes_held: data.bytes_held,
            damaged: data.damaged,
            // One that makes no sense tells nothing.
            id: data.store_id.and_then(|id| id.parse().ok()),
            seq: data.seq,
            keeps_entries: data.keeps_entries,
            read_only: data.read_only,
            short_of_space: data.short_of_space,
            notice: data.notice,
            scrub: data.scrub.map(Box::new),
        })
    }

    /// A page of the feed. Entries of folders that are none by our rules are passed over, and the page is filled up with what follows.
    async fn read_feed(&self, since: u64, limit: usize, with_entries: bool) -> Result<FeedPage, StoreError> {
        let limit = limit.clamp(1, BATCH_MAX);
        let (mut page, mut last) = (FeedPage::default(), since);
        for _ in 0..FEED_ROUNDS_MAX {
            let mut request = self.request(Method::GET, &format!("sync/feed?since={last}&limit={limit}"));
            if with_entries {
                // One that knows none takes no notice.
                request = request.header(FEED_ENTRIES, "true");
            }
            let response = self.send(request, None).await?;
            let end = response.headers().get(FEED_END).and_then(|end| end.to_str().ok()?.parse().ok());
            let store = response.headers().get(STORE_ID).and_then(|id| id.to_str().ok()?.parse().ok());
            if response.headers().get(FEED_RESET).is_some_and(|value| value == "true") {
                return Ok(FeedPage { reset: true, store, ..FeedPage::default() });
            }
            if last > since && store != page.store {
                // Another store took its place meanwhile.
                return Ok(FeedPage { reset: true, store, ..FeedPage::default() });
            }
            (page.end, page.store) = (end.unwrap_or(0), store);
            let messages = self.messages::<WireFeedEntry>(response, limit).await?;
            let is_full = messages.len() == limit;
            for message in messages {
                if page.len() == limit {
                    page.end = last;
                    return Ok(page);
                }
                if message.seq <= last {
                    return Err(self.garbled(&format!("number {} follows {last} in its feed", message.seq)));
                }
                last = message.seq;
                self.add_to_page(message, with_entries, &mut page)?;
            }
            if !is_full || page.len() == limit {
                return Ok(page);
            }
        }
        // Nothing but entries that cannot be read: whoever follows goes on behind them.
        page.end = last;
        Ok(page)
    }

    fn add_to_page(
        &self,
        message: WireFeedEntry,
        with_entries: bool,
        page: &mut FeedPage,
    ) -> Result<(), StoreError> {
        let WireFeedEntry { seq, record, holding, formers, entry } = message;
        if let Some(entry) = entry.filter(|_| with_entries) {
            page.folder_records.extend(self.entry(entry).map(|record| StoredEntry { seq, record }));
            return Ok(());
        }
        let StoredRecord { record, holding } = self.stored(record, holding)?;
        let formers = formers.into_iter().map(|former| self.record(former));
        let mut formers = formers.collect::<Result<Vec<AssetRecord>, _>>()?;
        formers.retain(|former| former.hash == record.hash);
        page.entries.push(FeedEntry { seq, record, holding, formers });
        Ok(())
    }

    fn record(&self, wire: WireRecord) -> Result<AssetRecord, StoreError> {
        wire.try_into().map_err(|error: RecordError| self.garbled(&error))
    }

    fn stored(&self, record: Option<WireRecord>, holding: i32) -> Result<StoredRecord, StoreError> {
        let record = self.record(record.ok_or_else(|| self.garbled(&"a record is missing in it"))?)?;
        let holding = holding_of(holding).filter(|holding| !(record.deleted && holding.is_held()));
        let holding = holding
            .ok_or_else(|| self.garbled(&"it does not say whether the content of a record is there"))?;
        Ok(StoredRecord { record, holding })
    }

    async fn read_records(&self, hashes: Vec<ContentHash>) -> Result<Vec<StoredRecord>, StoreError> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        if hashes.len() > BATCH_MAX {
            return Err(StoreError::Invalid(format!("at most {BATCH_MAX} records can be read at once")));
        }
        let request = if hashes.len() <= QUERY_HASHES_MAX {
            let list: Vec<String> = hashes.iter().map(ToString::to_string).collect();
            self.request(Method::GET, &format!("sync/records?hash={}", list.join(",")))
        } else {
            self.request(Method::POST, "sync/records/query")
                .header(CONTENT_TYPE, PROTOBUF)
                .body(concat(&hashes))
        };
        let max = hashes.len();
        let messages = self.messages::<WireStoredRecord>(self.send(request, None).await?, max).await?;
        messages.into_iter().map(|wire| self.stored(wire.record, wire.holding)).collect()
    }

    async fn open_content(
        &self,
        hash: ContentHash,
        offset: u64,
        length: Option<u64>,
    ) -> Result<ContentReader, StoreError> {
        let path = format!("sync/content/{hash}");
        if length == Some(0) {
            // No range says "nothing": what is left is the question of how much there is.
            let asked = self.send(self.request(Method::HEAD, &path), Some(hash)).await;
            let response = match asked {
                // Answers to HEAD do not say why.
                Err(StoreError::NotFound(hash)) if self.is_absent(hash).await? => {
                    return Err(StoreError::NotHeld(hash));
                }
                asked => asked?,
            };
            let total =
                answer::content_length(&response).ok_or_else(|| self.garbled(&"it gives no length"))?;
            return empty(total, offset);
        }
        let mut request = self.request(Method::GET, &path);
        let partial = offset > 0 || length.is_some();
        if partial {
            let last = length.map(|length| offset.saturating_add(length - 1).to_string()).unwrap_or_default();
            request = request.header(RANGE, format!("bytes={offset}-{last}"));
        }
        let sent = timed(self.url(), READ_TIMEOUT, request.send()).await?;
        let response = sent.map_err(|error| fail(self.url(), &error))?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            let total = response.headers().get(CONTENT_RANGE).and_then(answer::total_of_unsatisfied);
            return empty(total.ok_or_else(|| self.garbled(&"it gives no length"))?, offset);
        }
        let response = check(self.url(), response, Some(hash)).await?;
        let (start, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(answer::start_and_total);
            range.ok_or_else(|| self.garbled(&"it does not say which bytes it sends"))?
        } else {
            (0, answer::content_length(&response).ok_or_else(|| self.garbled(&"it gives no length"))?)
        };
        if start != offset {
            return Err(self.garbled(&"it sends other bytes than were asked for"));
        }
        let expected = (total - offset.min(total)).min(length.unwrap_or(u64::MAX));
        Ok(ContentReader { total, chunks: answer::content(self.url().to_owned(), response, expected) })
    }

    async fn send_batch(&self, batch: Vec<IncomingAsset>) -> Result<Vec<ItemOutcome>, StoreError> {
        let hashes: Vec<_> = batch.iter().map(|asset| asset.record.hash).collect();
        let (body, progress) = upload::body(batch);
        let request = self.request(Method::POST, "sync/ingest").header(CONTENT_TYPE, PROTOBUF).body(body);
        let sent = progress.watch(self.url(), request.send()).await?;
        let response =
            check(self.url(), sent.map_err(|error| progress.explain(self.url(), &error))?, None).await?;
        self.outcomes(response, &hashes).await
    }

    async fn is_absent(&self, hash: ContentHash) -> Result<bool, StoreError> {
        Ok(self.read_records(vec![hash]).await?.iter().any(StoredRecord::is_absent))
    }

    async fn send_records(
        &self,
        path: &str,
        records: Vec<AssetRecord>,
    ) -> Result<Vec<ItemOutcome>, StoreError> {
        let hashes: Vec<_> = records.iter().map(|record| record.hash).collect();
        let mut body = Vec::new();
        for record in &records {
            put(&mut body, &WireRecord::from(record));
        }
        self.change(path, body, &hashes).await
    }

    async fn send_hashes(
        &self,
        path: &str,
        hashes: Vec<ContentHash>,
    ) -> Result<Vec<ItemOutcome>, StoreError> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        if hashes.len() > BATCH_MAX {
            return Err(StoreError::Invalid(format!("at most {BATCH_MAX} assets can be named at once")));
        }
        self.change(path, concat(&hashes), &hashes).await
    }

    /// Has these assets changed, without content.
    async fn change(
        &self,
        path: &str,
        body: Vec<u8>,
        hashes: &[ContentHash],
    ) -> Result<Vec<ItemOutcome>, StoreError> {
        let request = self.request(Method::POST, path).header(CONTENT_TYPE, PROTOBUF).body(body);
        let sent = timed(self.url(), upload::COMMIT_TIMEOUT, request.send()).await?;
        let response = check(self.url(), sent.map_err(|error| fail(self.url(), &error))?, None).await?;
        self.outcomes(response, hashes).await
    }

    async fn send_in_batches(
        &self,
        path: &str,
        records: Vec<AssetRecord>,
    ) -> Result<Vec<ItemOutcome>, StoreError> {
        let (mut records, rejected) = screened(records, |record| record);
        let mut outcomes = Vec::with_capacity(records.len());
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(BATCH_MAX));
            outcomes.extend(self.send_records(path, std::mem::replace(&mut records, rest)).await?);
        }
        Ok(in_order(rejected, outcomes))
    }

    async fn send_redatings(&self, redatings: Vec<Redating>) -> Result<Vec<Option<AssetRecord>>, StoreError> {
        let unsupported =
            || StoreError::Unsupported { url: self.url().to_owned(), what: "date versions anew" };
        let redate_after = || self.redate_after.lock().unwrap_or_else(PoisonError::into_inner);
        if redate_after().is_some_and(|after| Instant::now() < after) {
            return Err(unsupported());
        }
        let mut body = Vec::new();
        for redating in &redatings {
            put(&mut body, &WireRedating::from(redating));
        }
        let request = self.request(Method::POST, "sync/redate").header(CONTENT_TYPE, PROTOBUF).body(body);
        let sent = timed(self.url(), upload::COMMIT_TIMEOUT, request.send()).await?;
        let response = sent.map_err(|error| fail(self.url(), &error))?;
        if [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&response.status()) {
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
        let results = self.messages::<RedateResult>(response, redatings.len()).await?;
        let about = |(result, redating): (&RedateResult, &Redating)| result.hash[..] == redating.hash().0;
        if results.len() != redatings.len() || !results.iter().zip(&redatings).all(about) {
            return Err(self.garbled(&"its outcomes are not those of what was sent"));
        }
        let before = |result: RedateResult| result.before.map(|wire| self.record(wire)).transpose();
        results.into_iter().map(before).collect()
    }

    /// The outcomes of a request about these assets, which must be all there and in order.
    async fn outcomes(
        &self,
        response: Response,
        hashes: &[ContentHash],
    ) -> Result<Vec<ItemOutcome>, StoreError> {
        let results = self.messages::<IngestResult>(response, hashes.len()).await?;
        if results.len() != hashes.len()
            || results.iter().zip(hashes).any(|(result, hash)| result.hash[..] != hash.0)
        {
            return Err(self.garbled(&"its outcomes are not those of what was sent"));
        }
        let outcomes: Option<Vec<_>> = results.into_iter().map(outcome_of).collect();
        outcomes.ok_or_else(|| self.garbled(&"an outcome is unknown"))
    }
}

/// A reader of nothing at `offset` of content that has `total` bytes.
fn empty(total: u64, offset: u64) -> Result<ContentReader, StoreError> {
    if offset > total {
        return Err(StoreError::Invalid(format!("offset {offset} lies past the end of {total} bytes")));
    }
    Ok(ContentReader { total, chunks: futures::stream::empty().boxed() })
}

/// Those of `items` whose metadata keeps to its limits; and for each item why it is rejected, if it is. A service that cannot
/// even read one record refuses all that came with it.
fn screened<T>(items: Vec<T>, record: impl Fn(&T) -> &AssetRecord) -> (Vec<T>, Vec<Option<ItemOutcome>>) {
    let broken = |item: &T| record(item).meta.validate().err();
    let rejected: Vec<Option<ItemOutcome>> =
        items.iter().map(|item| broken(item).map(|rule| ItemOutcome::Rejected(rule.to_string()))).collect();
    let mut kept = rejected.iter().map(Option::is_none);
    let items = items.into_iter().filter(|_| kept.next().unwrap_or_default()).collect();
    (items, rejected)
}

/// The outcomes of all items, given those of the ones that were sent.
fn in_order(rejected: Vec<Option<ItemOutcome>>, sent: Vec<ItemOutcome>) -> Vec<ItemOutcome> {
    let mut sent = sent.into_iter();
    rejected.into_iter().filter_map(|outcome| outcome.or_else(|| sent.next())).collect()
}

/// Hashes as a body.
fn concat(hashes: &[ContentHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The URL of the API at what the user configured.
fn base_of(text: &str) -> Option<Url> {
    let mut url: Url = text.trim().parse().ok()?;
    let plain = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
        return None;
    }
    let path = url.path().trim_end_matches('/');
    // A service behind a proxy may live under a path of its own.
    let path = if path.ends_with(BASE_PATH) { path.to_owned() } else { format!("{path}{BASE_PATH}") };
    url.set_path(&path);
    Some(url)
}

impl ContentStore for CanHttpStore {
    fn status(&self) -> BoxFuture<'_, Result<StoreStatus, StoreError>> {
        self.read_status().boxed()
    }

    fn feed(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<FeedPage, StoreError>> {
        self.read_feed(since, limit, false).boxed()
    }

    fn feed_with_entries(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<FeedPage, StoreError>> {
        self.read_feed(since, limit, true).boxed()
    }

    fn entries(&self, query: EntryQuery) -> BoxFuture<'_, Result<EntryPage, StoreError>> {
        self.list_entries(query).boxed()
    }

    fn entries_named(&self, hashes: Vec<EntryHash>) -> BoxFuture<'_, Result<Vec<FolderRecord>, StoreError>> {
        self.find_entries(hashes).boxed()
    }

    fn entries_with(
        &self,
        contents: Vec<ContentHash>,
    ) -> BoxFuture<'_, Result<Vec<FolderRecord>, StoreError>> {
        self.find_entries_with(contents).boxed()
    }

    fn entry_history(
        &self,
        folder: FolderId,
        path: String,
        before: Option<HistoryPlace>,
    ) -> BoxFuture<'_, Result<Vec<FolderRecord>, StoreError>> {
        async move { self.read_entry_history(folder, &path, before).await }.boxed()
    }

    fn put_entries(&self, puts: Vec<EntryPut>) -> BoxFuture<'_, Result<Vec<EntryOutcome>, StoreError>> {
        self.send_puts(puts).boxed()
    }

    fn take_entries(
        &self,
        records: Vec<FolderRecord>,
    ) -> BoxFuture<'_, Result<Vec<EntryOutcome>, StoreError>> {
        self.send_entries(records, None).boxed()
    }

    fn take_entries_through(
        &self,
        records: Vec<FolderRecord>,
        library: LibraryId,
    ) -> BoxFuture<'_, Result<Vec<EntryOutcome>, StoreError>> {
        self.send_entries(records, Some(library)).boxed()
    }

    fn foreign_folders(&self) -> BoxFuture<'_, Result<Vec<(FolderId, LibraryId)>, StoreError>> {
        self.list_foreign().boxed()
    }

    fn claim_folder(
        &self,
        folder: FolderId,
        library: LibraryId,
    ) -> BoxFuture<'_, Result<FolderClaim, StoreError>> {
        self.claim(folder, library).boxed()
    }

    fn drop_folder(&self, folder: FolderId, library: LibraryId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.forget_folder(folder, library).boxed()
    }

    fn watch(&self, since: u64) -> BoxStream<'static, Result<StoreEvent, StoreError>> {
        watch::watch(self.clone(), since)
    }

    fn records(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>> {
        self.read_records(hashes).boxed()
    }

    fn content(
        &self,
        hash: ContentHash,
        offset: u64,
        length: Option<u64>,
    ) -> BoxFuture<'_, Result<ContentReader, StoreError>> {
        self.open_content(hash, offset, length).boxed()
    }

    fn damaged(&self, limit: usize) -> BoxFuture<'_, Result<Vec<ScrubFinding>, StoreError>> {
        async move {
            let response =
                self.send(self.request(Method::GET, &format!("damaged?limit={limit}")), None).await?;
            let Success { data, .. } = json::<Success<Vec<ScrubFinding>>>(self.url(), response).await?;
            Ok(data)
        }
        .boxed()
    }

    fn ingest(&self, batch: Vec<IncomingAsset>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        async move {
            let (mut batch, rejected) = screened(batch, |asset| &asset.record);
            let mut outcomes = Vec::with_capacity(batch.len());
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(BATCH_MAX));
                outcomes.extend(self.send_batch(std::mem::replace(&mut batch, rest)).await?);
            }
            Ok(in_order(rejected, outcomes))
        }
        .boxed()
    }

    fn apply(&self, records: Vec<AssetRecord>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        self.send_in_batches("sync/records", records).boxed()
    }

    fn take_absent(&self, records: Vec<AssetRecord>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        self.send_in_batches("sync/records/absent", records).boxed()
    }

    fn let_go(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        self.send_hashes("sync/let-go", hashes).boxed()
    }

    fn want(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        self.send_hashes("sync/want", hashes).boxed()
    }

    fn redate(
        &self,
        redatings: Vec<Redating>,
    ) -> BoxFuture<'_, Result<Vec<Option<AssetRecord>>, StoreError>> {
        self.send_redatings(redatings).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_with_and_without_the_base_path() {
        let expected = Some("http://nas:3210/api/v1/can/0".to_owned());
        for good in [
            "http://nas:3210",
            "http://nas:3210/",
            "http://nas:3210/api/v1/can/0",
            " http://nas:3210/api/v1/can/0/ ",
        ] {
            assert_eq!(base_of(good).map(String::from), expected, "{good}");
        }
        assert_eq!(
            base_of("https://nas/store/").map(String::from),
            Some("https://nas/store/api/v1/can/0".to_owned())
        );
        for bad in
            ["", "nas:3210", "ftp://nas", "http://", "http://nas/?x", "http://user:pass@nas", "file:///x"]
        {
            assert_eq!(base_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn both_schemes_have_what_they_need() {
        for url in ["http://localhost:1", "https://localhost:1"] {
            assert!(CanHttpStore::new(url, &"key".into()).is_ok(), "{url}");
        }
        assert_eq!(CanHttpStore::new("http://nas", &"a\nb".into()).err(), Some(CanHttpError::Key));
    }
}
