//! `POST /ingest`.

use std::time::Duration;

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::ContentStore;
use reqwest::multipart::{Form, Part};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::service::{TestService, data, refusal, soon, status, until};

fn hash_of(content: &[u8]) -> String {
    ContentHash(Sha256::digest(content).into()).to_string()
}

fn file(content: &[u8]) -> Part {
    Part::bytes(content.to_vec())
}

#[tokio::test]
async fn a_compressed_body_is_not_taken_for_the_content() {
    let service = TestService::start().await;
    let form = || reqwest::multipart::Form::new().text("file", "x");
    for encoding in ["gzip", "br", "identity, gzip"] {
        let upload = service.post("/ingest").header("content-encoding", encoding).multipart(form());
        assert_eq!(refusal(upload).await, (415, "unsupported_content_encoding".to_owned()), "{encoding}");
    }
    let plain = service.post("/ingest").header("content-encoding", "identity").multipart(form());
    assert_eq!(status(plain).await, 201);
}

#[tokio::test]
async fn new_content_is_created_and_known_content_merged() {
    let service = TestService::start().await;
    let form = Form::new()
        .text("application", "camera")
        .text("tags", "b, a,,a")
        .part("file", file(b"hello").file_name("../dir/photo.txt"))
        .text("tags", "c")
        .text("user", "ann")
        .text("description", "two\nlines, é")
        .text("something_else", "ignored")
        .text("filename", "named.txt")
        .text("mime_type", "text/x-test; charset=utf-8");
    let response = service.post("/ingest").multipart(form).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let hash = hash_of(b"hello");
    assert_eq!(response.headers()["location"], format!("/api/v1/can/0/asset/{hash}"));
    let asset = data(response).await;
    assert_eq!(asset["hash"], hash);
    assert_eq!(asset["size"], 5);
    assert_eq!(asset["mime_type"], "text/x-test; charset=utf-8");
    assert_eq!(asset["filename"], "named.txt");
    assert_eq!((&asset["application"], &asset["user"]), (&"camera".into(), &"ann".into()));
    assert_eq!(asset["description"], "two\nlines, é");
    assert_eq!(asset["tags"], serde_json::json!(["a", "b", "c"]));
    assert_eq!((&asset["seq"], &asset["deleted"]), (&1.into(), &false.into()));
    for time in ["created_at", "updated_at"] {
        let text = asset[time].as_str().unwrap();
        assert!(text.len() == 24 && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok(), "{text}");
    }

    let form = Form::new().text("tags", "d").text("user", "bob").part("file", file(b"hello"));
    let response = service.post("/ingest").multipart(form).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let merged = data(response).await;
    assert_eq!(merged["tags"], serde_json::json!(["a", "b", "c", "d"]));
    assert_eq!((&merged["user"], &merged["seq"]), (&"ann".into(), &2.into()));
}

#[tokio::test]
async fn what_is_not_said_is_taken_from_the_file_or_guessed() {
    let service = TestService::start().await;
    let form = Form::new().part("file", file(b"a,b").file_name("dir/table.csv"));
    let asset = data(service.post("/ingest").multipart(form).send().await.unwrap()).await;
    assert_eq!((&asset["filename"], &asset["mime_type"]), (&"table.csv".into(), &"text/csv".into()));

    let part = file(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").mime_str("application/octet-stream").unwrap();
    let asset =
        data(service.post("/ingest").multipart(Form::new().part("file", part)).send().await.unwrap()).await;
    assert_eq!((&asset["filename"], &asset["mime_type"]), (&serde_json::Value::Null, &"image/png".into()));

    let part = file(b"x").mime_str("text/markdown").unwrap();
    let asset =
        data(service.post("/ingest").multipart(Form::new().part("file", part)).send().await.unwrap()).await;
    assert_eq!(asset["mime_type"], "text/markdown");

    let part = file(b"const a: number = 1;").file_name("app.ts").mime_str("video/mp2t").unwrap();
    let asset =
        data(service.post("/ingest").multipart(Form::new().part("file", part)).send().await.unwrap()).await;
    assert_eq!(
        asset["mime_type"], "text/typescript",
        "what a program believes by the name alone is no proof"
    );
    let asset = service.put("y", &[("mime_type", "Text/X-Test; Charset=UTF-8")]).await;
    assert_eq!(asset["mime_type"], "text/x-test; Charset=UTF-8", "a media type has no case");

    let empty = service.put("", &[]).await;
    assert_eq!((&empty["hash"], &empty["size"]), (&hash_of(b"").into(), &0.into()));
}

#[tokio::test]
async fn file_names_arrive_as_they_were() {
    let service = TestService::start().await;
    let names: [(&[u8], &str); 6] = [
        (b"filename=\"a%22b%0Ac.txt\"", "a\"b\nc.txt"),
        (b"filename=\"100%25.txt\"", "100%25.txt"),
        (b"filename=\"_\"; filename*=UTF-8''na%C3%AFve.txt", "naïve.txt"),
        (b"filename=\"caf\xe9.txt\"", "caf%E9.txt"),
        (b"filename=\"C:\\fakepath\\x.png\"", "x.png"),
        (b"filename=\"back\\slash.txt\"", "back\\slash.txt"),
    ];
    for (n, (parameter, expected)) in names.into_iter().enumerate() {
        let mut body = b"--b\r\nContent-Disposition: form-data; name=\"file\"; ".to_vec();
        body.extend(parameter);
        body.extend(format!("\r\n\r\ncontent {n}\r\n--b--\r\n").bytes());
        let request = service.post("/ingest").header("Content-Type", "multipart/form-data; boundary=b");
        let asset = data(request.body(body).send().await.unwrap()).await;
        assert_eq!(asset["filename"], expected);
    }
}

#[tokio::test]
async fn forms_that_make_no_sense_are_refused_and_leave_nothing() {
    let service = TestService::start().await;
    let refused = async |form: Form| refusal(service.post("/ingest").multipart(form)).await;
    let invalid = || (400, "invalid_metadata".to_owned());
    assert_eq!(refused(Form::new().text("user", "ann")).await, (400, "file_missing".into()));
    let twice = Form::new().part("file", file(b"1")).part("file", file(b"2"));
    assert_eq!(refused(twice).await, (400, "file_repeated".into()));
    let with = |name: &'static str, value: Vec<u8>| {
        Form::new().part("file", file(&vec![7; 200_000])).part(name, Part::bytes(value))
    };
    assert_eq!(refused(with("description", vec![b'x'; 16 * 1024 + 1])).await, invalid());
    assert_eq!(refused(with("user", vec![0xff, 0xfe])).await, invalid());
    assert_eq!(refused(with("mime_type", b"nonsense".to_vec())).await, invalid());
    assert_eq!(refused(with("mime_type", b"text/plain\r\nX: y".to_vec())).await, invalid());
    assert_eq!(refused(with("tags", "x".repeat(129).into())).await, invalid());
    let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    assert_eq!(refused(with("tags", many.join(",").into())).await, invalid());
    let too_large = (413, "body_too_large".to_owned());
    assert_eq!(refused(with("unknown", vec![0; (1 << 20) + 1])).await, too_large);

    let json = service.post("/ingest").json(&serde_json::json!({"file": "x"}));
    assert_eq!(refusal(json).await, (415, "unsupported_media_type".into()));
    let multipart = |body: &'static str, kind: &'static str| {
        service.post("/ingest").header("Content-Type", kind).body(body)
    };
    let broken = (400, "invalid_multipart".to_owned());
    assert_eq!(refusal(multipart("x", "multipart/form-data")).await, broken);
    assert_eq!(refusal(multipart("no boundary here", "multipart/form-data; boundary=b")).await, broken);
    let unfinished = "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf";
    assert_eq!(refusal(multipart(unfinished, "multipart/form-data; boundary=b")).await, broken);

    let status = service.store.status().await.unwrap();
    assert_eq!((status.assets, status.seq), (0, 0));
    until("the removal of temporary files", async || service.temporary_files() == 0).await;
}

#[tokio::test]
async fn a_head_without_end_does_not_fill_the_memory() {
    let service = TestService::start().await;
    // Far more than the parser may hold, and never the blank line it waits for.
    let endless = futures::stream::iter((0..24).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1 << 20])));
    let start = futures::stream::iter([Ok(b"--b\r\nContent-Disposition: ".to_vec())]);
    let body = reqwest::Body::wrap_stream(futures::StreamExt::chain(start, endless));
    let request =
        service.post("/ingest").header("Content-Type", "multipart/form-data; boundary=b").body(body);
    assert_eq!(refusal(request).await, (413, "body_too_large".into()));
}

#[tokio::test]
async fn a_full_disk_is_said() {
    let service = TestService::start_with(u64::MAX / 2, |settings| settings).await;
    let form = Form::new().part("file", file(b"hello"));
    assert_eq!(refusal(service.post("/ingest").multipart(form)).await, (507, "disk_full".into()));
    assert_eq!(service.store.status().await.unwrap().assets, 0);
}

/// Sends the start of an upload by hand.
async fn begin_upload(service: &TestService, content: usize) -> TcpStream {
    let mut stream = TcpStream::connect(service.addr).await.expect("a connection");
    let head = format!(
        "POST /api/v1/can/0/ingest HTTP/1.1\r\nHost: {}\r\nContent-Type: multipart/form-data; boundary=b\r\n\
         Content-Length: 10000000\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n",
        service.addr
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&vec![b'x'; content]).await.expect("sent");
    stream
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let service = TestService::start().await;
    let stream = begin_upload(&service, 3_000_000).await;
    until("a temporary file", async || service.temporary_files() == 1).await;
    drop(stream);
    until("its removal", async || service.temporary_files() == 0).await;
    assert_eq!(service.store.status().await.unwrap().seq, 0);
}

#[tokio::test]
async fn a_client_that_stalls_is_cut() {
    let service = TestService::start().await;
    let mut stream = begin_upload(&service, 3_000_000).await;
    until("a temporary file", async || service.temporary_files() == 1).await;
    // From here on nothing moves but the clock.
    tokio::time::pause();
    let mut answer = String::new();
    let started = tokio::time::Instant::now();
    let read = tokio::time::timeout(Duration::from_mins(2), stream.read_to_string(&mut answer));
    read.await.expect("an answer in time").unwrap();
    // Thirty, less what passed before the clock stopped.
    assert!(started.elapsed() > Duration::from_secs(25));
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"stalled\""));
    tokio::time::resume();
    until("its removal", async || service.temporary_files() == 0).await;
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let service = TestService::start().await;
    let chunks = futures::stream::iter((0..16).map(|_| Ok::<_, std::io::Error>(vec![0; 1 << 20])));
    let body = reqwest::Body::wrap_stream(chunks);
    let request = service.post("/ingest").header("Content-Type", "text/plain").body(body);
    assert_eq!(refusal(request).await, (415, "unsupported_media_type".into()));
}

#[tokio::test]
async fn many_uploads_at_once_all_arrive() {
    let service = TestService::start().await;
    let uploads = (0..40u32).map(|n| service.put(n.to_le_bytes().repeat(30_000), &[("user", "ann")]));
    let assets = soon("all uploads", futures::future::join_all(uploads)).await;
    let hashes: std::collections::HashSet<_> = assets.iter().map(|asset| asset["hash"].to_string()).collect();
    assert_eq!(hashes.len(), 40);
    assert_eq!(service.store.status().await.unwrap().assets, 40);
}
