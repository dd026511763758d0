//! Contents that come and go wrongly, or slowly.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord};
use can_sync::testing::store::can_http::CanHttpStore;
use can_sync::testing::store::hashing_file::HashingFile;
use can_sync::testing::store::{
    ContentStore, IncomingAsset, IncomingContent, ItemOutcome, StoreError, StoreEvent,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{HASH, asset, fake, is_unavailable, read_all, store_at};
use crate::support::service::{TestService, soon, until};

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
    // Time that stands still passes whenever nothing is ready: on a busy machine also while what was sent is on its way.
    let mut tries = 0;
    let (error, took) = loop {
        let started = tokio::time::Instant::now();
        let error = slow.ingest(batch()).await.unwrap_err();
        tries += 1;
        if is_unavailable(&error, "outcomes") || tries == 5 {
            break (error, started.elapsed());
        }
    };
    // It confirms nothing in the end, but it got everything, over a minute.
    assert!(is_unavailable(&error, "outcomes"), "{error}");
    assert!(took > Duration::from_mins(1), "{took:?}");

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
