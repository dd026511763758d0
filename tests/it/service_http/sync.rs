//! `/sync/…`, by hand: what the client of this project never sends.

use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::store::ContentStore;
use can_sync::testing::wire::proto::ingest_result::Outcome;
use can_sync::testing::wire::proto::{
    IngestHeader, IngestResult, WireFeedEntry, WireRecord, WireStoredRecord,
};
use prost::Message;
use reqwest::{Method, Response};
use sha2::{Digest, Sha256};

use crate::support::service::{TestService, refusal, soon, until};

fn record(content: &[u8]) -> AssetRecord {
    let meta = AssetMeta { mime_type: "text/plain".into(), created_at_ms: 5, ..AssetMeta::default() };
    AssetRecord::new(ContentHash(Sha256::digest(content).into()), content.len() as u64, None, meta)
}

fn asset(record: &AssetRecord, content: &[u8]) -> Vec<u8> {
    let header = IngestHeader { record: Some(record.into()), length: content.len() as u64 };
    [header.encode_length_delimited_to_vec(), content.to_vec()].concat()
}

async fn messages<M: Message + Default>(response: Response) -> Vec<M> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-protobuf");
    let mut body = response.bytes().await.expect("a body");
    let mut messages = Vec::new();
    while !body.is_empty() {
        messages.push(M::decode_length_delimited(&mut body).expect("a message"));
    }
    messages
}

async fn ingest(service: &TestService, body: Vec<u8>) -> Vec<IngestResult> {
    let request = service.sync(Method::POST, "/ingest").body(body);
    messages(soon("an ingest", request.send()).await.expect("an answer")).await
}

#[tokio::test]
async fn nobody_gets_in_without_the_key() {
    let service = TestService::start().await;
    let hash = "0".repeat(64);
    let content = format!("content/{hash}");
    let paths = ["feed", "records?hash=", "records", "records/query", &content, "ingest"];
    let paths = paths.into_iter().chain(["records/absent", "let-go", "want"]);
    let denied = (401, "unauthorized".to_owned());
    for path in paths {
        for method in [Method::GET, Method::POST] {
            let url = service.url(&format!("/sync/{path}"));
            let request = || service.client.request(method.clone(), &url);
            if status_exists(request().header("X-Sync-Key", crate::support::service::KEY)).await {
                assert_eq!(refusal(request()).await, denied, "{method} {path}");
                assert_eq!(refusal(request().header("X-Sync-Key", "wrong")).await, denied);
                assert_eq!(refusal(request().header("X-Sync-Key", "")).await, denied);
                let twice =
                    request().header("X-Sync-Key", crate::support::service::KEY).header("X-Sync-Key", "x");
                assert_eq!(refusal(twice).await, denied);
            }
        }
    }
}

async fn status_exists(request: reqwest::RequestBuilder) -> bool {
    crate::support::service::status(request).await != 405
}

#[tokio::test]
async fn the_feed_uses_the_numbers_of_the_events() {
    let service = TestService::start().await;
    for n in 0..5 {
        service.put(format!("content {n}"), &[]).await;
    }
    let page = service.sync(Method::GET, "/feed?since=1&limit=3").send().await.unwrap();
    assert!(!page.headers().contains_key("x-feed-reset"));
    let entries: Vec<WireFeedEntry> = messages(page).await;
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(entries.iter().all(|entry| entry.record.is_some()));
    let all: Vec<WireFeedEntry> = messages(service.sync(Method::GET, "/feed").send().await.unwrap()).await;
    assert_eq!(all.len(), 5);
    let reset = service.sync(Method::GET, "/feed?since=77").send().await.unwrap();
    assert_eq!(reset.headers()["x-feed-reset"], "true");
    assert!(messages::<WireFeedEntry>(reset).await.is_empty());
    assert_eq!(refusal(service.sync(Method::GET, "/feed?since=x")).await.0, 400);
}

#[tokio::test]
async fn records_can_be_asked_for_in_two_ways() {
    let service = TestService::start().await;
    let mut hashes = Vec::new();
    for n in 0..60 {
        let asset = service.put(format!("content {n}"), &[]).await;
        hashes.push(asset["hash"].as_str().unwrap().parse::<ContentHash>().unwrap());
    }
    let unknown = ContentHash([9; 32]);
    let some = format!("/records?hash={},{unknown}&hash={}", hashes[0], hashes[1]);
    let found: Vec<WireStoredRecord> = messages(service.sync(Method::GET, &some).send().await.unwrap()).await;
    assert_eq!(found.len(), 2);
    let list: Vec<String> = hashes.iter().map(ToString::to_string).collect();
    let too_many = service.sync(Method::GET, &format!("/records?hash={}", list.join(",")));
    assert_eq!(refusal(too_many).await, (400, "invalid_parameter".into()));

    let body: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
    let query = |body: Vec<u8>| service.sync(Method::POST, "/records/query").body(body);
    let found: Vec<WireStoredRecord> = messages(query(body.clone()).send().await.unwrap()).await;
    assert_eq!(found.len(), 60);
    assert_eq!(refusal(query(body[1..].to_vec())).await, (400, "malformed_body".into()));
    assert_eq!(refusal(query(vec![0; 32 * 1_001])).await, (413, "body_too_large".into()));
    let json =
        service.post("/sync/records/query").header("X-Sync-Key", crate::support::service::KEY).body("[]");
    assert_eq!(refusal(json).await, (415, "unsupported_media_type".into()));
}

#[tokio::test]
async fn a_batch_is_answered_one_by_one_and_in_order() {
    let service = TestService::start().await;
    let (small, large) = (b"small".to_vec(), vec![3; 5_000_000]);
    let bad_meta = {
        let mut record = record(b"bad meta");
        record.meta.tags = vec!["b".into(), "a".into()];
        record
    };
    let lying = AssetRecord { size: 99, ..record(b"lying") };
    let body = [
        asset(&record(&small), &small),
        asset(&record(b"other"), b"wrong"),
        asset(&bad_meta, b"bad meta"),
        asset(&lying, b"lying"),
        asset(&record(&large), &large),
        asset(&record(&large), &vec![4; 5_000_000]),
        asset(&record(b""), b""),
        asset(&record(&small), &small),
    ]
    .concat();
    let results = ingest(&service, body).await;
    let outcomes: Vec<Outcome> = results.iter().map(IngestResult::outcome).collect();
    let (stored, rejected) = (Outcome::Stored, Outcome::Rejected);
    let expected = [stored, rejected, rejected, rejected, stored, rejected, stored, Outcome::Unchanged];
    assert_eq!(outcomes, expected);
    assert_eq!(results[0].hash, Bytes::copy_from_slice(&record(&small).hash.0));
    for result in results.iter().filter(|result| result.outcome() == rejected) {
        assert!(!result.reason.is_empty());
    }
    let content = service.get(&format!("/asset/{}", record(&large).hash)).send().await.unwrap();
    assert_eq!(content.bytes().await.unwrap(), large);
    assert_eq!(service.store.status().await.unwrap().assets, 3);
    until("the removal of temporary files", async || service.temporary_files() == 0).await;
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let service = TestService::start().await;
    let refused = async |body: Vec<u8>| refusal(service.sync(Method::POST, "/ingest").body(body)).await;
    let malformed = (400, "malformed_body".to_owned());
    let good = asset(&record(b"good"), b"good");
    assert_eq!(refused(good[..good.len() - 1].to_vec()).await, (400, "body_cut".into()));
    assert_eq!(refused(vec![0xff; 100]).await, malformed);
    assert_eq!(refused([vec![0x80, 0x80, 0x80, 0x40], vec![0; 100]].concat()).await, malformed);
    assert_eq!(refused(vec![3, 0xff, 0xff, 0xff]).await, malformed);
    let no_record = IngestHeader { record: None, length: 0 }.encode_length_delimited_to_vec();
    assert_eq!(refused(no_record).await, malformed);
    let no_hash = WireRecord { hash: Bytes::new(), ..WireRecord::from(&record(b"x")) };
    let no_hash = IngestHeader { record: Some(no_hash), length: 0 }.encode_length_delimited_to_vec();
    assert_eq!(refused(no_hash).await, malformed);
    let many: Vec<u8> =
        (0..1_001u32).flat_map(|n| asset(&record(&n.to_le_bytes()), &n.to_le_bytes())).collect();
    assert_eq!(refused(many).await, (413, "body_too_large".into()));
    // A length that never comes: the bytes that did are thrown away.
    let liar = AssetRecord { size: u64::MAX, ..record(b"x") };
    let header =
        IngestHeader { record: Some((&liar).into()), length: u64::MAX }.encode_length_delimited_to_vec();
    assert_eq!(refused([header, vec![0; 200_000]].concat()).await, (400, "body_cut".into()));
    until("the removal of temporary files", async || service.temporary_files() == 0).await;
}

#[tokio::test]
async fn records_without_content_are_applied() {
    let service = TestService::start().await;
    let held = record(b"held");
    ingest(&service, asset(&held, b"held")).await;
    let tombstone = AssetRecord { deleted: true, hlc: held.hlc.next(10), ..held.clone() };
    let invalid = {
        let mut record = record(b"invalid");
        record.meta.description = Some("x".repeat(17_000));
        record
    };
    let mut body = Vec::new();
    for record in [&record(b"elsewhere"), &invalid, &tombstone, &held] {
        body.extend(WireRecord::from(record).encode_length_delimited_to_vec());
    }
    let answer = service.sync(Method::POST, "/records").body(body).send().await.unwrap();
    let outcomes: Vec<Outcome> =
        messages::<IngestResult>(answer).await.iter().map(IngestResult::outcome).collect();
    assert_eq!(outcomes, [Outcome::NeedsContent, Outcome::Rejected, Outcome::Stored, Outcome::Unchanged]);
    assert_eq!(refusal(service.get(&format!("/asset/{}", held.hash))).await, (404, "deleted".into()));
    assert_eq!(refusal(service.sync(Method::POST, "/records").body("\u{1}x")).await.0, 400);
}

#[tokio::test]
async fn content_for_agents_has_ranges_too() {
    let service = TestService::start().await;
    let asset = service.put("0123456789", &[]).await;
    let path = format!("/content/{}", asset["hash"].as_str().unwrap());
    let part = service.sync(Method::GET, &path).header("Range", "bytes=3-5").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.text().await.unwrap().as_str()), (206, "345"));
    let missing = service.sync(Method::GET, &format!("/content/{}", "0".repeat(64)));
    assert_eq!(refusal(missing).await, (404, "not_found".into()));
}
