//! The client of a CAN Service against services that fail, lie, stall and go away: the right error, and never a hang.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::routing::{any, get, post};
use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, Hlc};
use can_sync::testing::store::can_http::CanHttpStore;
use can_sync::testing::store::entries::{EntryPut, EntryQuery};
use can_sync::testing::store::service::BASE_PATH;
use can_sync::testing::store::{
    ContentStore, IncomingAsset, IncomingContent, ItemOutcome, Redating, StoreError, StoreEvent,
};
use can_sync::testing::wire::proto::{IngestResult, WireEntry, WireFeedEntry, WireRecord};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::support::folder::{FOLDER, author, entry};
use crate::support::ports::kept;
use crate::support::service::{KEY, ServiceProcess, TestService, soon};

mod contents;
mod waiting;

/// Serves `api` under the base path.
async fn fake(api: Router) -> CanHttpStore {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let app = Router::new().nest(BASE_PATH, api);
    tokio::spawn(async move { axum::serve(listener, app).await });
    store_at(addr)
}

fn store_at(addr: SocketAddr) -> CanHttpStore {
    CanHttpStore::new(&format!("http://{addr}"), &KEY.into()).expect("a client")
}

fn asset(content: &[u8]) -> IncomingAsset {
    let hash = ContentHash(Sha256::digest(content).into());
    let record = AssetRecord::new(hash, content.len() as u64, None, AssetMeta::default());
    IncomingAsset { record, content: IncomingContent::Bytes(Bytes::copy_from_slice(content)) }
}

const HASH: ContentHash = ContentHash([7; 32]);

fn is_unavailable(error: &StoreError, words: &str) -> bool {
    matches!(error, StoreError::Unavailable { reason, .. } if reason.contains(words))
}

/// What every method says of a store that cannot work.
async fn every_error(store: &CanHttpStore) -> Vec<StoreError> {
    let asked = async {
        vec![
            store.status().await.err(),
            store.feed(0, 10).await.err(),
            store.records(vec![HASH]).await.err(),
            store.records(vec![HASH; 60]).await.err(),
            store.content(HASH, 0, None).await.err(),
            store.content(HASH, 5, Some(5)).await.err(),
            store.ingest(vec![asset(b"hello")]).await.err(),
            store.apply(vec![asset(b"hello").record]).await.err(),
            store.watch(0).next().await.and_then(Result::err),
        ]
    };
    let errors = soon("an error from each method", asked).await;
    errors.into_iter().map(|error| error.expect("each method to fail")).collect()
}

async fn read_all(store: &CanHttpStore, hash: ContentHash) -> Result<Vec<u8>, StoreError> {
    let reader = store.content(hash, 0, None).await?;
    let chunks: Vec<Bytes> = reader.chunks.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unavailable() {
    let addr = crate::support::ports::nobody();
    for error in every_error(&store_at(addr)).await {
        assert!(is_unavailable(&error, "cannot connect"), "{error}");
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}

#[tokio::test]
async fn server_errors_are_unavailable_whatever_they_look_like() {
    let bodies =
        ["", "<html>oops</html>", r#"{"status":"error","error":"no luck","code":"x","hint":"wait"}"#];
    for body in bodies {
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::BAD_GATEWAY] {
            let store = fake(Router::new().fallback(any(move || async move { (status, body) }))).await;
            for error in every_error(&store).await {
                assert!(is_unavailable(&error, status.as_str()), "{body}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_service_that_cannot_date_versions_anew_is_not_asked_again_and_again() {
    for status in [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let route = any(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { (status, "") }
        });
        let store = fake(Router::new().route("/sync/redate", route)).await;
        for _ in 0..3 {
            let redating = Redating::Reassert { hash: HASH, other: Hlc::from_ms(1) };
            let error = store.redate(vec![redating]).await.unwrap_err();
            assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("cannot date versions anew"), "{error}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}

/// As one of before there were folders: it knows no such paths, and refuses parameters that it does not know.
#[tokio::test]
async fn a_service_that_keeps_no_folders_is_named_and_goes_on() {
    let feed = |Query(asked): Query<HashMap<String, String>>| async move {
        let is_known = asked.keys().all(|name| ["since", "limit"].contains(&name.as_str()));
        let status = if is_known { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let entry = WireFeedEntry {
            seq: 5,
            record: Some(WireRecord::from(&asset(b"x").record)),
            holding: 1,
            ..WireFeedEntry::default()
        };
        (status, protobuf(&[entry]))
    };
    let status = || async {
        let status = serde_json::json!({"healthy": true, "assets": 1, "bytes": 1, "assets_held": 1, "bytes_held": 1,
            "seq": 5, "read_only": null, "version": "0.0.1"});
        axum::Json(serde_json::json!({"status": "success", "data": status}))
    };
    let former = Router::new().route("/sync/feed", any(feed)).route("/status", any(status));
    let store = fake(former).await;
    assert!(!store.status().await.unwrap().keeps_entries);
    let page = store.feed_with_entries(0, 10).await.unwrap();
    assert_eq!((page.entries.len(), page.folder_records.len(), page.last_seq()), (1, 0, Some(5)));
    let record = entry("a", None, Some(b"x"), &author(1, 0));
    let errors = [
        store.entries(EntryQuery::default()).await.unwrap_err(),
        store.entries_named(vec![record.hash()]).await.unwrap_err(),
        store.entry_history(FOLDER, "a".into(), None).await.unwrap_err(),
        store.put_entries(vec![EntryPut { record: record.clone(), expects: None }]).await.unwrap_err(),
        store.take_entries(vec![record], None).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains("cannot keep folders: it is older than this program"), "{error}");
    }
}

/// Ten entries, of which every other one is none by our rules.
#[tokio::test]
async fn an_entry_that_breaks_the_rules_hides_no_other_one() {
    let feed = |Query(asked): Query<HashMap<String, u64>>| async move {
        let entry = |seq: u64| {
            let good = WireEntry::from(&entry(&format!("{seq}"), None, Some(b"x"), &author(1, 0)));
            let path = if seq.is_multiple_of(2) { good.path.clone() } else { ".can-sync-trash".into() };
            WireFeedEntry { seq, entry: Some(WireEntry { path, ..good }), ..WireFeedEntry::default() }
        };
        let limit = usize::try_from(asked["limit"]).unwrap();
        protobuf(&(asked["since"] + 1..=10).take(limit).map(entry).collect::<Vec<_>>())
    };
    let store = fake(Router::new().route("/sync/feed", any(feed))).await;
    for limit in [1, 2, 3, 10] {
        let (mut seen, mut since) = (Vec::new(), 0);
        loop {
            let page = store.feed_with_entries(since, limit).await.unwrap();
            seen.extend(page.folder_records.iter().map(|entry| entry.seq));
            if page.len() < limit {
                break;
            }
            since = page.last_seq().unwrap();
        }
        assert_eq!(seen, [2, 4, 6, 8, 10], "in pages of {limit}");
    }
}

#[tokio::test]
async fn something_that_is_no_can_service_is_recognised() {
    let not_found =
        fake(Router::new().fallback(any(|| async { (StatusCode::NOT_FOUND, "nothing here") }))).await;
    assert!(is_unavailable(&not_found.status().await.unwrap_err(), "is it a CAN Service?"));
    let page = fake(Router::new().fallback(any(|| async { "<html>hello</html>" }))).await;
    assert!(is_unavailable(&page.status().await.unwrap_err(), "is it a CAN Service?"));
    assert!(is_unavailable(&page.watch(0).next().await.unwrap().unwrap_err(), "no event stream"));
    let endless =
        || async { Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 9_000]))) };
    let endless = fake(Router::new().fallback(any(endless))).await;
    assert!(is_unavailable(&soon("an error", endless.status()).await.unwrap_err(), "far too long"));
}

#[tokio::test]
async fn redirects_are_not_followed_with_the_key() {
    let elsewhere = || async { (StatusCode::FOUND, [(LOCATION, "http://192.0.2.1/")]) };
    let store = fake(Router::new().fallback(any(elsewhere))).await;
    for error in every_error(&store).await {
        assert!(is_unavailable(&error, "302"), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_said_to_be_one() {
    let service = TestService::start().await;
    let store = CanHttpStore::new(&service.url(""), &"wrong".into()).unwrap();
    let unauthorized = |error: &StoreError| matches!(error, StoreError::Unauthorized { .. });
    assert!(unauthorized(&store.feed(0, 1).await.unwrap_err()));
    assert!(unauthorized(&store.records(vec![HASH]).await.unwrap_err()));
    assert!(unauthorized(&store.content(HASH, 0, None).await.err().unwrap()));
    // More than sockets buffer: the refusal comes while the batch is still being sent.
    let large = vec![asset(&vec![1; 20_000_000])];
    assert!(unauthorized(&soon("a refusal", store.ingest(large)).await.unwrap_err()));
    assert!(store.status().await.is_ok());
}

#[tokio::test]
async fn errors_of_the_service_keep_their_meaning() {
    let service = TestService::start_with(u64::MAX / 2, |settings| settings).await;
    let store = service.remote();
    assert_eq!(store.content(HASH, 0, None).await.err(), Some(StoreError::NotFound(HASH)));
    assert_eq!(store.content(HASH, 0, Some(0)).await.err(), Some(StoreError::NotFound(HASH)));
    for size in [10, 500_000] {
        let full = store.ingest(vec![asset(&vec![1; size])]).await.unwrap_err();
        assert!(matches!(&full, StoreError::Full(why) if why.contains("reserve")), "{full}");
    }
    let error = |status: u16, code: &'static str| async move {
        let body = serde_json::json!({"status": "error", "error": "why", "code": code, "hint": "what"});
        (StatusCode::from_u16(status).unwrap_or_default(), axum::Json(body))
    };
    let read_only = fake(Router::new().fallback(any(move || error(503, "read_only")))).await;
    assert!(matches!(read_only.ingest(vec![asset(b"x")]).await, Err(StoreError::ReadOnly(_))));
    let corrupt = fake(Router::new().fallback(any(move || error(500, "corrupt")))).await;
    assert_eq!(corrupt.content(HASH, 0, None).await.err(), Some(StoreError::Corrupt(HASH)));
    let invalid = fake(Router::new().fallback(any(move || error(400, "malformed_body")))).await;
    assert_eq!(invalid.apply(vec![asset(b"x").record]).await, Err(StoreError::Invalid("why".into())));
    let host = fake(Router::new().fallback(any(move || error(421, "host_not_allowed")))).await;
    assert!(is_unavailable(&host.feed(0, 1).await.unwrap_err(), "421"));
}

#[tokio::test]
async fn a_service_that_is_killed_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = ServiceProcess::start(dir.path(), "127.0.0.1:0");
    let (addr, store) = (process.addr, process.remote());
    assert_eq!(store.ingest(vec![asset(b"one")]).await, Ok(vec![ItemOutcome::Stored]));
    let mut events = store.watch(0);
    assert_eq!(soon("an event", events.next()).await, Some(Ok(StoreEvent::Advanced(1))));

    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let _port = kept(addr);
    let cut = soon("the end of the stream", events.next()).await;
    assert!(matches!(cut, Some(Err(StoreError::Unavailable { .. })) | None), "{cut:?}");
    for error in every_error(&store).await {
        assert!(is_unavailable(&error, ""), "{error}");
    }

    let _again = ServiceProcess::start(dir.path(), &addr.to_string());
    assert_eq!(store.feed(0, 10).await.unwrap().entries.len(), 1);
    assert_eq!(
        store.ingest(vec![asset(b"one"), asset(b"two")]).await,
        Ok(vec![ItemOutcome::Unchanged, ItemOutcome::Stored])
    );
    let mut events = store.watch(1);
    // The run of numbers that began with the start is far above the one before.
    let advanced = soon("an event", events.next()).await;
    assert!(matches!(advanced, Some(Ok(StoreEvent::Advanced(2..)))), "{advanced:?}");
    let page = store.feed(1, 10).await.unwrap();
    assert!(!page.reset && page.entries.len() == 1, "what was read before goes on: {page:?}");
}

fn protobuf(messages: &[impl Message]) -> Vec<u8> {
    messages.iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

#[tokio::test]
async fn answers_that_lie_are_refused() {
    let entry = |seq, record: Option<WireRecord>| WireFeedEntry {
        seq,
        record,
        holding: 1,
        ..WireFeedEntry::default()
    };
    let good = || Some(WireRecord::from(&asset(b"x").record));
    let buried = good().map(|record| WireRecord { deleted: true, ..record });
    let no_meta = good().map(|record| WireRecord { meta: None, ..record });
    let pages = [
        protobuf(&[entry(5, good()), entry(5, good())]),
        protobuf(&[entry(2, good())]),
        protobuf(&[entry(5, None)]),
        protobuf(&[entry(5, no_meta)]),
        protobuf(&[WireFeedEntry { holding: 0, ..entry(5, good()) }]),
        protobuf(&[WireFeedEntry { holding: 9, ..entry(5, good()) }]),
        protobuf(&[entry(5, buried)]),
        protobuf(&[entry(5, good()), entry(6, good()), entry(7, good())]),
        vec![0xff; 100],
        vec![0x80, 0x80, 0x80, 0x10],
        b"<html>".to_vec(),
    ];
    for page in pages {
        let body = page.clone();
        let store = fake(Router::new().route("/sync/feed", get(move || async { body }))).await;
        let error = store.feed(2, 2).await.unwrap_err();
        assert!(is_unavailable(&error, "cannot be used"), "{page:?}: {error}");
    }
    let (one, two) = (asset(b"1"), asset(b"2"));
    let result = |asset: &IncomingAsset, outcome| {
        let hash = Bytes::copy_from_slice(&asset.record.hash.0);
        IngestResult { hash, outcome, reason: String::new() }
    };
    let answers = [
        protobuf(&[result(&two, 1), result(&one, 1)]),
        protobuf(&[result(&one, 1)]),
        protobuf(&[result(&one, 1), result(&two, 1), result(&two, 1)]),
        protobuf(&[result(&one, 1), result(&two, 0)]),
        protobuf(&[result(&one, 1), result(&two, 99)]),
    ];
    for answer in answers {
        let reply = |body: Vec<u8>| move |_: Bytes| async { body };
        let api = Router::new()
            .route("/sync/ingest", post(reply(answer.clone())))
            .route("/sync/records", post(reply(answer)));
        let store = fake(api).await;
        let error = store.ingest(vec![asset(b"1"), asset(b"2")]).await.unwrap_err();
        assert!(is_unavailable(&error, "cannot be used"), "{error}");
        assert!(store.apply(vec![one.record.clone(), two.record.clone()]).await.is_err());
    }
}
