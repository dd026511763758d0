//! A CAN Service behind HTTP.
//!
//! [`CanHttpStore`] speaks the sync API of [`crate::store::service`]. Content streams both ways; nothing that the
//! service answers is held in memory beyond its bound. Every wait is limited: connecting, each piece that is read, each
//! piece that is sent, and the commit at the end. It neither follows redirects nor uses a proxy: the key goes to the
//! configured address and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::http::envelope::Success;
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::entries::{EntryOutcome, EntryPage, EntryPut, EntryQuery, FolderClaim, HistoryPlace};
use crate::store::scrub::ScrubFinding;
use crate::store::service::{BASE_PATH, StatusJson, key};
use crate::store::sync_wire::{BATCH_MAX, BodyReader, PROTOBUF, QUERY_HASHES_MAX, holding_of, put};
use crate::store::{
    ContentReader, ContentStore, FeedPage, IncomingAsset, ItemOutcome, Redating, StoreError, StoreEvent,
    StoreFuture, StoreResult, StoreStatus, StoredRecord,
};
use crate::wire::decode::Inbound;
use crate::wire::proto::{RecordError, WireRecord, WireStoredRecord};

mod answer;
mod changes;
mod content;
mod entries;
mod feed;
mod upload;
mod watch;

use answer::{check, fail, json, timed};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, and each piece of it to come. Twice the heartbeat of the event stream.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that idle longer are closed here, well before the service closes them under a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest piece of content that readers get.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Why a store behind HTTP cannot even be named.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CanHttpError {
    #[error("'{url}' is not the URL of a CAN Service: write it as http://host:3210")]
    Url { url: String },
    #[error("the sync API key holds characters that cannot be sent: copy it again from the CAN Service")]
    Key,
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

    fn post(&self, path: &str, body: impl Into<Body>) -> RequestBuilder {
        self.request(Method::POST, path).header(CONTENT_TYPE, PROTOBUF).body(body)
    }

    /// Sends a request whose answer begins within `limit`, whatever its status.
    async fn answer(&self, request: RequestBuilder, limit: Duration) -> StoreResult<Response> {
        let response = timed(self.url(), limit, request.send()).await?;
        response.map_err(|error| fail(self.url(), &error))
    }

    /// Sends a request that has no long body, and checks the status of the answer.
    async fn send(&self, request: RequestBuilder, about: Option<ContentHash>) -> StoreResult<Response> {
        check(self.url(), self.answer(request, READ_TIMEOUT).await?, about).await
    }

    /// Reads at most `max` messages.
    async fn messages<M: Inbound>(&self, response: Response, max: usize) -> StoreResult<Vec<M>> {
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

    /// Reads what became of things with these hashes, which must be all there and in order.
    async fn results<M: Inbound>(
        &self,
        response: Response,
        hashes: impl ExactSizeIterator<Item = [u8; 32]>,
        hash_of: impl Fn(&M) -> &Bytes,
    ) -> StoreResult<Vec<M>> {
        let results = self.messages::<M>(response, hashes.len()).await?;
        if results.len() != hashes.len()
            || hashes.zip(&results).any(|(hash, result)| hash_of(result)[..] != hash)
        {
            return Err(self.garbled(&"its outcomes are not those of what was sent"));
        }
        Ok(results)
    }

    fn garbled(&self, problem: &dyn std::fmt::Display) -> StoreError {
        StoreError::Unavailable {
            url: self.url().to_owned(),
            reason: format!("its answer cannot be used: {problem}"),
        }
    }

    async fn read_status(&self) -> StoreResult<StoreStatus> {
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
            contents_away: data.contents_away,
            quota: data.quota,
            waiting_uploads: data.waiting_uploads,
            notice: data.notice,
            scrub: data.scrub.map(Box::new),
            snapshots: data.snapshots.map(Box::new),
        })
    }

    fn record(&self, wire: WireRecord) -> StoreResult<AssetRecord> {
        wire.try_into().map_err(|error: RecordError| self.garbled(&error))
    }

    fn stored(&self, record: Option<WireRecord>, holding: i32) -> StoreResult<StoredRecord> {
        let record = self.record(record.ok_or_else(|| self.garbled(&"a record is missing in it"))?)?;
        let holding = holding_of(holding).filter(|holding| !(record.deleted && holding.is_held()));
        let holding = holding
            .ok_or_else(|| self.garbled(&"it does not say whether the content of a record is there"))?;
        Ok(StoredRecord { record, holding })
    }

    async fn read_records(&self, hashes: Vec<ContentHash>) -> StoreResult<Vec<StoredRecord>> {
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
            self.post("sync/records/query", concat(hashes.iter().map(|hash| &hash.0)))
        };
        let max = hashes.len();
        let messages = self.messages::<WireStoredRecord>(self.send(request, None).await?, max).await?;
        messages.into_iter().map(|wire| self.stored(wire.record, wire.holding)).collect()
    }
}

/// Those of `items` that keep to the rules; and for each item why it is rejected, if it is. A service that cannot even read one refuses
/// all that came with it.
fn screened<T, O>(items: Vec<T>, rejection: impl Fn(&T) -> Option<O>) -> (Vec<T>, Vec<Option<O>>) {
    let (mut kept, mut rejected) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
    for item in items {
        rejected.push(rejection(&item));
        kept.extend(rejected.last().is_some_and(Option::is_none).then_some(item));
    }
    (kept, rejected)
}

/// The outcomes of all items, given those of the ones that were sent.
fn in_order<O>(rejected: Vec<Option<O>>, sent: Vec<O>) -> Vec<O> {
    let mut sent = sent.into_iter();
    rejected.into_iter().filter_map(|outcome| outcome.or_else(|| sent.next())).collect()
}

fn concat<'a>(hashes: impl Iterator<Item = &'a [u8; 32]>) -> Vec<u8> {
    hashes.flatten().copied().collect()
}

fn body_of<M: Message>(messages: impl Iterator<Item = M>) -> Vec<u8> {
    let mut body = Vec::new();
    messages.for_each(|message| put(&mut body, &message));
    body
}

/// Whether the service has no such path: an older one.
fn is_unknown_path(response: &Response) -> bool {
    [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&response.status())
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
    fn status(&self) -> StoreFuture<'_, StoreStatus> {
        self.read_status().boxed()
    }

    fn feed(&self, since: u64, limit: usize) -> StoreFuture<'_, FeedPage> {
        self.read_feed(since, limit, false).boxed()
    }

    fn feed_with_entries(&self, since: u64, limit: usize) -> StoreFuture<'_, FeedPage> {
        self.read_feed(since, limit, true).boxed()
    }

    fn entries(&self, query: EntryQuery) -> StoreFuture<'_, EntryPage> {
        self.list_entries(query).boxed()
    }

    fn entries_named(&self, hashes: Vec<EntryHash>) -> StoreFuture<'_, Vec<FolderRecord>> {
        self.find_entries(hashes).boxed()
    }

    fn entries_with(&self, contents: Vec<ContentHash>) -> StoreFuture<'_, Vec<FolderRecord>> {
        self.find_entries_with(contents).boxed()
    }

    fn entry_history(
        &self,
        folder: FolderId,
        path: String,
        before: Option<HistoryPlace>,
    ) -> StoreFuture<'_, Vec<FolderRecord>> {
        async move { self.read_entry_history(folder, &path, before).await }.boxed()
    }

    fn put_entries(&self, puts: Vec<EntryPut>) -> StoreFuture<'_, Vec<EntryOutcome>> {
        self.send_puts(puts).boxed()
    }

    fn take_entries(
        &self,
        records: Vec<FolderRecord>,
        library: Option<LibraryId>,
    ) -> StoreFuture<'_, Vec<EntryOutcome>> {
        self.send_entries(records, library).boxed()
    }

    fn foreign_folders(&self) -> StoreFuture<'_, Vec<(FolderId, LibraryId)>> {
        self.list_foreign().boxed()
    }

    fn claim_folder(&self, folder: FolderId, library: LibraryId) -> StoreFuture<'_, FolderClaim> {
        self.claim(folder, library).boxed()
    }

    fn drop_folder(&self, folder: FolderId, library: LibraryId) -> StoreFuture<'_, ()> {
        self.forget_folder(folder, library).boxed()
    }

    fn watch(&self, since: u64) -> BoxStream<'static, StoreResult<StoreEvent>> {
        watch::watch(self.clone(), since)
    }

    fn records(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<StoredRecord>> {
        self.read_records(hashes).boxed()
    }

    fn content(&self, hash: ContentHash, offset: u64, length: Option<u64>) -> StoreFuture<'_, ContentReader> {
        self.open_content(hash, offset, length).boxed()
    }

    fn damaged(&self, limit: usize) -> StoreFuture<'_, Vec<ScrubFinding>> {
        async move {
            let response =
                self.send(self.request(Method::GET, &format!("damaged?limit={limit}")), None).await?;
            let Success { data, .. } = json::<Success<Vec<ScrubFinding>>>(self.url(), response).await?;
            Ok(data)
        }
        .boxed()
    }

    fn ingest(&self, batch: Vec<IncomingAsset>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.send_assets(batch).boxed()
    }

    fn apply(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.send_records("sync/records", records).boxed()
    }

    fn take_absent(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.send_records("sync/records/absent", records).boxed()
    }

    fn let_go(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.send_hashes("sync/let-go", hashes).boxed()
    }

    fn want(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.send_hashes("sync/want", hashes).boxed()
    }

    fn redate(&self, redatings: Vec<Redating>) -> StoreFuture<'_, Vec<Option<AssetRecord>>> {
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
