//! The client of a CAN Service against services that fail, lie, stall and go away: the right error, and never a hang.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION};
use axum::response::Response;
use axum::routing::{any, get, post};
use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, Hlc};
use can_sync::testing::store::can_http::CanHttpStore;
use can_sync::testing::store::entries::{EntryPut, EntryQuery};
use can_sync::testing::store::hashing_file::HashingFile;
use can_sync::testing::store::service::BASE_PATH;
use can_sync::testing::store::{
    ContentStore, IncomingAsset, IncomingContent, ItemOutcome, Redating, StoreError, StoreEvent,
};
use can_sync::testing::wire::proto::{IngestResult, WireEntry, WireFeedEntry, WireRecord};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::folder::{FOLDER, author, entry};
use crate::support::service::{KEY, ServiceProcess, TestService, soon, until};

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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
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

/// A service that is there, answers `/status`, and then is silent.
async fn silent() -> CanHttpStore {
    let status = || async {
        let status = serde_json::json!({"healthy": true, "assets": 0, "bytes": 0, "assets_held": 0, "bytes_held": 0,
            "seq": 0, "read_only": null,
            "version": "0"});
        axum::Json(serde_json::json!({"status": "success", "data": status}))
    };
    let silence = || async { std::future::pending::<()>().await };
    let store = fake(Router::new().route("/status", get(status)).fallback(any(silence))).await;
    // The connection is there before the clock is stopped.
    store.status().await.expect("a status");
    store
}

#[tokio::test]
async fn a_service_that_never_answers_is_given_up() {
    let store = silent().await;
    tokio::time::pause();
    assert!(is_unavailable(&store.feed(0, 1).await.unwrap_err(), "30 s"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.content(HASH, 0, None).await.err().unwrap(), "30 s"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.watch(0).next().await.unwrap().unwrap_err(), "30 s"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.ingest(vec![asset(b"x")]).await.unwrap_err(), "did not confirm an upload"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.apply(vec![asset(b"x").record]).await.unwrap_err(), "120 s"));
}

async fn silent_again() -> CanHttpStore {
    tokio::time::resume();
    let store = silent().await;
    tokio::time::pause();
    store
}

#[tokio::test]
async fn an_event_stream_without_heartbeats_is_given_up() {
    let quiet = || async {
        let first = stream::once(async { Ok::<_, std::io::Error>("event: asset\nid: 4\ndata: {}\n\n") });
        ([("content-type", "text/event-stream")], Body::from_stream(first.chain(stream::pending())))
    };
    let store = fake(Router::new().route("/events", get(quiet))).await;
    let mut events = store.watch(0);
    assert_eq!(soon("an event", events.next()).await, Some(Ok(StoreEvent::Advanced(4))));
    tokio::time::pause();
    assert!(is_unavailable(&events.next().await.unwrap().unwrap_err(), "30 s"));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn event_streams_that_make_no_sense_end_with_an_error() {
    let cases =
        [("event: asset\nid: x\ndata: 1\n\n", "no number"), ("event: asset\ndata: 1\n\n", "no number")];
    for (piece, words) in cases {
        let body = move || async move {
            let pieces = stream::iter([Ok::<_, std::io::Error>(piece)]).chain(stream::pending());
            ([("content-type", "text/event-stream")], Body::from_stream(pieces))
        };
        let store = fake(Router::new().route("/events", get(body))).await;
        let mut events = store.watch(0);
        let error = soon("an error", events.next()).await.unwrap().unwrap_err();
        assert!(is_unavailable(&error, words), "{piece}: {error}");
        assert_eq!(soon("the end", events.next()).await, None);
    }
}

#[tokio::test]
async fn an_event_of_any_length_in_the_smallest_pieces_is_understood() {
    let body = || async {
        let data = stream::iter((0..50_000).map(|_| Ok::<_, std::io::Error>("data: ")));
        let start = stream::iter([Ok("event: asset\n"), Ok("id: 7\n")]);
        let end = stream::iter([Ok("\n"), Ok("\n")]);
        ([("content-type", "text/event-stream")], Body::from_stream(start.chain(data).chain(end)))
    };
    let store = fake(Router::new().route("/events", get(body))).await;
    assert_eq!(soon("an event", store.watch(0).next()).await, Some(Ok(StoreEvent::Advanced(7))));
}

#[tokio::test]
async fn unknown_events_and_comments_are_skipped() {
    let body = || async {
        let text = ": hello\n\nevent: news\nid: 3\ndata: x\n\nretry: 5\n\nevent: reset\nid: 0\ndata: 9\n\n";
        ([("content-type", "text/event-stream")], text)
    };
    let store = fake(Router::new().route("/events", get(body))).await;
    let events: Vec<_> = soon("the end", store.watch(9).collect()).await;
    assert_eq!(events, [Ok(StoreEvent::Reset)]);
}

/// Answers every connection with `head` and `body`, then closes it.
async fn raw(head: &'static str, body: Vec<u8>) -> CanHttpStore {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    });
    store_at(addr)
}

#[tokio::test]
async fn content_that_is_cut_is_an_error_and_not_an_end() {
    let cut = raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", vec![1; 600]).await;
    let reader = cut.content(HASH, 0, None).await.unwrap();
    assert_eq!(reader.total, 1000);
    let pieces: Vec<Result<Bytes, StoreError>> = soon("the end", reader.chunks.collect()).await;
    let error = pieces.last().unwrap().as_ref().unwrap_err();
    assert!(is_unavailable(error, ""), "{error}");
    let received: usize = pieces.iter().flatten().map(Bytes::len).sum();
    assert!(received <= 600);

    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let events = raw(head, b"1f\r\nevent: asset\nid: 1\ndata: {}\n\n\n".to_vec()).await;
    let mut events = events.watch(0);
    let first = soon("an event", events.next()).await;
    assert_eq!(first, Some(Ok(StoreEvent::Advanced(1))));
    assert!(matches!(soon("the end", events.next()).await, Some(Err(_)) | None));
}

#[tokio::test]
async fn content_other_than_what_was_asked_for_is_refused() {
    let answer = |range: &'static str| {
        let part = move || async move { (StatusCode::PARTIAL_CONTENT, [(CONTENT_RANGE, range)], vec![0; 5]) };
        fake(Router::new().route("/sync/content/{hash}", get(part)))
    };
    for wrong in ["bytes 3-7/10", "bytes 0-4/10", "nonsense"] {
        let store = answer(wrong).await;
        let error = store.content(HASH, 4, Some(5)).await.err().unwrap();
        assert!(is_unavailable(&error, "cannot be used"), "{wrong}: {error}");
    }
    let ignores_ranges =
        fake(Router::new().route("/sync/content/{hash}", get(|| async { vec![0; 10] }))).await;
    assert!(ignores_ranges.content(HASH, 4, None).await.is_err());
    // More than was asked for is left where it is.
    let store = answer("bytes 4-8/10").await;
    let reader = store.content(HASH, 4, Some(2)).await.unwrap();
    let chunks: Vec<Bytes> = reader.chunks.try_collect().await.unwrap();
    assert_eq!((reader.total, chunks.concat().len()), (10, 2));
    let no_length = || async {
        let mut response = Response::new(Body::from_stream(stream::iter([Ok::<_, std::io::Error>("abc")])));
        response.headers_mut().remove(CONTENT_LENGTH);
        response
    };
    let store = fake(Router::new().route("/sync/content/{hash}", get(no_length))).await;
    assert!(is_unavailable(&store.content(HASH, 0, None).await.err().unwrap(), "no length"));
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

/// Takes uploads, reading a part of the body and pausing, again and again.
async fn sluggish(pause: Duration) -> CanHttpStore {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut part = vec![0; 8 << 20];
                // The end of a body in chunks.
                while !part.ends_with(b"\r\n0\r\n\r\n") {
                    tokio::time::sleep(pause).await;
                    part.resize(8 << 20, 0);
                    let mut read = 0;
                    while read < part.len() {
                        let now = stream.read(&mut part[read..]).await.unwrap_or(0);
                        read += now;
                        if now == 0 || part[..read].ends_with(b"\r\n0\r\n\r\n") {
                            break;
                        }
                    }
                    part.truncate(read);
                    if read == 0 {
                        return;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            });
        }
    });
    store_at(addr)
}

#[tokio::test]
async fn a_slow_upload_goes_on_and_a_stalled_one_ends() {
    let batch = || (0..40u8).map(|n| asset(&vec![n; 1 << 20])).collect::<Vec<_>>();
    let slow = sluggish(Duration::from_secs(20)).await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    // It confirms nothing in the end, but it got everything, over a minute.
    let error = slow.ingest(batch()).await.unwrap_err();
    assert!(is_unavailable(&error, "outcomes"), "{error}");
    assert!(started.elapsed() > Duration::from_mins(1), "{:?}", started.elapsed());

    tokio::time::resume();
    let stuck = sluggish(Duration::from_hours(1)).await;
    tokio::time::pause();
    let error = stuck.ingest(batch()).await.unwrap_err();
    assert!(is_unavailable(&error, "took nothing of an upload"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_our_fault_and_said_to_be() {
    let service = TestService::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut file = HashingFile::create(dir.path()).unwrap();
    file.write(vec![5; 200_000].into()).await.unwrap();
    let file = file.finish().await.unwrap();
    std::fs::remove_file(&file.path).unwrap();
    let record = AssetRecord::new(file.sha256, file.size, None, AssetMeta::default());
    let batch = vec![IncomingAsset { record, content: IncomingContent::File(file) }];
    let error = soon("an error", service.remote().ingest(batch)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Io { action, .. } if action.contains("upload")), "{error}");
    until("the removal of temporary files", async || service.temporary_files() == 0).await;
}

#[tokio::test]
async fn what_was_uploaded_can_be_read_back() {
    let service = TestService::start().await;
    let store = service.remote();
    let large = vec![9; 3_000_000];
    let outcomes = store.ingest(vec![asset(b""), asset(b"small"), asset(&large)]).await.unwrap();
    assert_eq!(outcomes, vec![ItemOutcome::Stored; 3]);
    for content in [&b""[..], b"small", &large] {
        assert_eq!(read_all(&store, asset(content).record.hash).await.unwrap(), content);
    }
    let past = store.content(asset(b"small").record.hash, 6, None).await;
    assert!(matches!(past.err(), Some(StoreError::Invalid(_))));
    let end = store.content(asset(b"small").record.hash, 5, None).await.unwrap();
    assert_eq!((end.total, end.chunks.count().await), (5, 0));
}
