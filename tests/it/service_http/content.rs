//! `GET` and `HEAD /asset/{hash}`.

use std::time::Duration;

use reqwest::{Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::service::{TestService, data, refusal, soon};

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|n| u8::try_from(n % 251).expect("below 251")).collect()
}

async fn range(service: &TestService, hash: &str, range: &str) -> Response {
    let request = service.get(&format!("/asset/{hash}")).header("Range", range);
    soon("a range", request.send()).await.expect("an answer")
}

#[tokio::test]
async fn content_comes_as_a_safe_download() {
    let service = TestService::start().await;
    let fields = [("mime_type", "text/html"), ("filename", "../évil\".html")];
    let asset = service.put("<script>alert(1)</script>", &fields).await;
    let hash = asset["hash"].as_str().unwrap();
    let response = service.get(&format!("/asset/{hash}")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html");
    assert_eq!(
        header("content-disposition"),
        "attachment; filename=\"_vil_.html\"; filename*=UTF-8''%C3%A9vil%22.html"
    );
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-security-policy"), "default-src 'none'; frame-ancestors 'none'; sandbox");
    assert_eq!(header("cross-origin-resource-policy"), "same-origin");
    assert_eq!(header("cache-control"), "private, max-age=31536000, immutable");
    assert_eq!(header("etag"), format!("\"{hash}\""));
    assert_eq!(header("accept-ranges"), "bytes");
    assert_eq!(header("content-length"), "25");
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    assert_eq!(response.text().await.unwrap(), "<script>alert(1)</script>");
}

#[tokio::test]
async fn head_tells_the_same_without_the_content() {
    let service = TestService::start().await;
    let asset = service.put(pattern(300_000), &[]).await;
    let url = service.url(&format!("/asset/{}", asset["hash"].as_str().unwrap()));
    let head = service.client.request(Method::HEAD, &url).header("Range", "bytes=0-1").send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &"300000".parse().unwrap())
    );
    let get = service.client.get(&url).send().await.unwrap();
    for name in ["etag", "content-type", "content-disposition", "accept-ranges", "cache-control"] {
        assert_eq!(head.headers().get(name), get.headers().get(name), "{name}");
    }
    assert!(head.bytes().await.unwrap().is_empty());
    assert_eq!(get.bytes().await.unwrap(), pattern(300_000));
}

#[tokio::test]
async fn ranges_of_small_and_large_content() {
    let service = TestService::start().await;
    for size in [1_000, 1_000_000] {
        let content = pattern(size);
        let asset = service.put(content.clone(), &[]).await;
        let hash = asset["hash"].as_str().unwrap();
        let last = size - 1;
        let cases = [
            ("bytes=0-0".to_owned(), 0..1),
            ("bytes=10-99".to_owned(), 10..100),
            (format!("bytes={}-", size - 5), size - 5..size),
            (format!("bytes={last}-{last}"), last..size),
            (format!("bytes=990-{}", size * 2), 990..size),
            ("bytes=-7".to_owned(), size - 7..size),
            (format!("bytes=-{}", size * 2), 0..size),
            (format!("bytes=0-{last}"), 0..size),
        ];
        for (header, expected) in cases {
            let response = range(&service, hash, &header).await;
            assert_eq!(response.status(), 206, "{header}");
            let shown = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
            assert_eq!(response.headers()["content-range"], shown);
            assert_eq!(response.headers()["content-length"], expected.len().to_string());
            assert_eq!(response.bytes().await.unwrap(), content[expected], "{header}");
        }
        for header in [format!("bytes={size}-"), "bytes=-0".into(), format!("bytes={size}-{}", size + 9)] {
            let response = range(&service, hash, &header).await;
            assert_eq!(response.status(), 416, "{header}");
            assert_eq!(response.headers()["content-range"], format!("bytes */{size}"));
            let body: serde_json::Value = response.json().await.unwrap();
            assert_eq!(body["code"], "range_not_satisfiable");
        }
        for header in ["bytes=5-4", "bytes=0-1,4-5", "lines=0-1", "bytes=x"] {
            let response = range(&service, hash, header).await;
            assert_eq!(response.status(), 200, "{header}");
            assert_eq!(response.bytes().await.unwrap(), content);
        }
    }
}

#[tokio::test]
async fn empty_content_can_be_read_but_has_no_ranges() {
    let service = TestService::start().await;
    let asset = service.put("", &[]).await;
    let hash = asset["hash"].as_str().unwrap();
    let whole = service.get(&format!("/asset/{hash}")).send().await.unwrap();
    assert_eq!((whole.status().as_u16(), whole.bytes().await.unwrap().len()), (200, 0));
    assert_eq!(range(&service, hash, "bytes=0-").await.status(), 416);
}

#[tokio::test]
async fn what_is_held_already_is_not_sent_again() {
    let service = TestService::start().await;
    let asset = service.put("hello", &[]).await;
    let hash = asset["hash"].as_str().unwrap();
    let etag = format!("\"{hash}\"");
    let get = || service.get(&format!("/asset/{hash}"));
    let same = get().header("If-None-Match", &etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    assert_eq!(same.headers()["etag"], etag);
    assert!(same.bytes().await.unwrap().is_empty());
    assert_eq!(get().header("If-None-Match", "\"other\"").send().await.unwrap().status(), 200);

    let part = get().header("Range", "bytes=0-1");
    assert_eq!(part.header("If-Range", &etag).send().await.unwrap().status(), 206);
    for other in ["\"other\"", "Wed, 21 Oct 2015 07:28:00 GMT"] {
        let part = get().header("Range", "bytes=0-1").header("If-Range", other);
        assert_eq!(part.send().await.unwrap().status(), 200, "{other}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let service = TestService::start().await;
    for bad in ["abc", &"A".repeat(64), &"0".repeat(63), "%ff%fe"] {
        let refused = refusal(service.get(&format!("/asset/{bad}"))).await;
        assert_eq!(refused, (400, "invalid_hash".into()), "{bad}");
    }
    let unknown = "0".repeat(64);
    for path in ["", "/meta"] {
        let refused = refusal(service.get(&format!("/asset/{unknown}{path}"))).await;
        assert_eq!(refused, (404, "not_found".into()));
    }
}

#[tokio::test]
async fn damaged_content_is_not_served() {
    let service = TestService::start().await;
    let asset = service.put(pattern(200_000), &[]).await;
    let hash = asset["hash"].as_str().unwrap();
    let path = service.store.dir().join("content").join(&hash[..2]).join(&hash[2..4]).join(hash);
    std::fs::write(path, "short").unwrap();
    assert_eq!(refusal(service.get(&format!("/asset/{hash}"))).await, (404, "not_held".into()));
    let head = service.client.head(service.url(&format!("/asset/{hash}"))).send().await.unwrap();
    assert_eq!(head.status(), 404);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    const SIZE: usize = 32 << 20;
    let service = TestService::start().await;
    let asset = service.put(vec![1; SIZE], &[]).await;
    let mut stream = TcpStream::connect(service.addr).await.unwrap();
    let head = format!(
        "GET /api/v1/can/0/asset/{} HTTP/1.1\r\nHost: {}\r\n\r\n",
        asset["hash"].as_str().unwrap(),
        service.addr
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.unwrap();
    // From here on nothing moves but the clock.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_mins(11)).await;
    tokio::time::resume();
    let mut rest = Vec::new();
    // Either an end or a reset, but not the whole.
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < SIZE, "{}", rest.len());
}

#[tokio::test]
async fn an_asset_that_is_not_held_is_known_all_the_same() {
    let service = TestService::start().await;
    let asset = service.put(pattern(300_000), &[("filename", "a.bin")]).await;
    let other = service.put("other", &[]).await;
    assert_eq!(asset["held"], true);
    let hash = asset["hash"].as_str().unwrap();
    let path = format!("/asset/{hash}");
    let named: Vec<u8> = hash.parse::<can_sync::testing::record::ContentHash>().unwrap().0.to_vec();
    let answer = service.sync(Method::POST, "/let-go").body(named).send().await.unwrap();
    assert_eq!(answer.status(), 200);

    for request in [
        service.get(&path),
        service.get(&path).header("Range", "bytes=0-9"),
        service.get(&path).header("If-None-Match", format!("\"{hash}\"")),
        service.sync(Method::GET, &format!("/content/{hash}")),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 404);
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["code"], "not_held");
        assert!(body["hint"].as_str().unwrap().contains(&format!("can-sync fetch {hash}")), "{body}");
    }
    let head = service.client.request(Method::HEAD, service.url(&path)).send().await.unwrap();
    assert_eq!(head.status(), 404);

    let get = async |path: &str| data(service.get(path).send().await.unwrap()).await;
    let meta = get(&format!("{path}/meta")).await;
    assert_eq!(
        (&meta["held"], &meta["deleted"], &meta["filename"]),
        (&false.into(), &false.into(), &"a.bin".into())
    );
    let status = get("/status").await;
    assert_eq!((&status["assets"], &status["bytes"]), (&2.into(), &300_005.into()));
    assert_eq!((&status["assets_held"], &status["bytes_held"]), (&1.into(), &5.into()));
    for (query, expected) in [
        ("/list", vec![&other, &asset]),
        ("/list?held=true", vec![&other]),
        ("/list?held=false", vec![&asset]),
        ("/search?held=false&q=a.bin", vec![&asset]),
        ("/search?held=true&q=a.bin", vec![]),
    ] {
        let page = get(query).await;
        let mut found: Vec<&str> =
            page["assets"].as_array().unwrap().iter().map(|a| a["hash"].as_str().unwrap()).collect();
        let mut expected: Vec<&str> = expected.iter().map(|asset| asset["hash"].as_str().unwrap()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query}");
    }
    assert_eq!(refusal(service.get("/list?held=maybe")).await, (400, "invalid_parameter".into()));

    let edit =
        service.client.patch(service.url(&format!("{path}/meta"))).json(&serde_json::json!({"user": "ann"}));
    let edited = data(edit.send().await.unwrap()).await;
    assert_eq!((&edited["user"], &edited["held"]), (&"ann".into(), &false.into()));
    let tombstone = data(service.client.delete(service.url(&path)).send().await.unwrap()).await;
    assert_eq!((&tombstone["deleted"], &tombstone["held"]), (&true.into(), &false.into()));
    assert_eq!(refusal(service.get(&path)).await, (404, "deleted".into()));
}
