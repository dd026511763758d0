//! The way to the store: what the page puts in and gets out.

use std::time::Duration;

use can_sync::testing::api::proxy::StoreProxy;
use reqwest::multipart::{Form, Part};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::agent::Agent;
use crate::support::nodes::DEADLINE;

#[tokio::test]
async fn a_file_goes_in_and_comes_out() {
    let agent = Agent::start().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let form = || {
        let file = Part::bytes(content.clone()).file_name("holiday.bin");
        Form::new().text("tags", "a,b").part("file", file)
    };
    let ingest = || agent.client.post(agent.url("/store/ingest")).multipart(form());
    let (status, body) = agent.json(ingest()).await;
    assert_eq!((status, &body["data"]["size"]), (201, &json!(3_000_000)), "{body}");
    let hash = body["data"]["hash"].as_str().unwrap().to_owned();
    assert_eq!(agent.json(ingest()).await.0, 200);

    let list = agent.data("/store/list?limit=1").await;
    assert_eq!(
        (&list["assets"][0]["hash"], &list["assets"][0]["filename"]),
        (&json!(hash), &json!("holiday.bin"))
    );
    let path = format!("/store/asset/{hash}");
    let answer = agent.get(&path).send().await.unwrap();
    assert!(answer.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("sandbox"));
    assert_eq!(answer.content_length(), Some(3_000_000));
    assert!(answer.bytes().await.unwrap() == content);
    let part = agent.get(&path).header("Range", "bytes=10-19").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), content[10..20]);
}

#[tokio::test]
async fn errors_of_the_store_are_passed_on() {
    let agent = Agent::start().await;
    let unknown = format!("/store/asset/{}", "ab".repeat(32));
    assert_eq!(agent.json(agent.get(&unknown)).await.0, 404);
    let (status, body) = agent.json(agent.get("/store/asset/..%2fstatus")).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_hash")));
    let (status, _) = agent.json(agent.get("/store/list?limit=none")).await;
    assert_eq!(status, 400);
    let (status, body) = agent.json(agent.client.post(agent.url("/store/ingest")).json(&json!({}))).await;
    assert_eq!((status, &body["code"]), (415, &json!("unsupported_media_type")));
    let (status, _) = agent.json(agent.client.post(agent.url("/store/ingest")).multipart(Form::new())).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_store_that_is_gone_is_named() {
    let agent = Agent::start().await;
    agent.store_server.abort();
    let gone = async {
        while agent.get("/store/list").send().await.expect("an answer").status() != 502 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
    let (status, body) = agent.json(agent.get("/store/list")).await;
    assert_eq!((status, &body["code"]), (502, &json!("store_unavailable")));
    assert!(body["error"].as_str().unwrap().contains(agent.args.view.store_proxy.base()), "{body}");
}

#[tokio::test]
async fn a_store_cannot_send_the_browser_elsewhere() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        for answer in [
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Disposition: inline\r\nSet-Cookie: a=b\r\n\
             Content-Length: 5\r\nConnection: close\r\n\r\n<b>hi",
        ] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("written");
            stream.shutdown().await.expect("closed");
        }
    });
    let agent = Agent::start_with(|view| view.store_proxy = StoreProxy::new(&url).expect("a URL")).await;
    let (status, body) = agent.json(agent.get("/store/list")).await;
    assert_eq!((status, &body["code"]), (502, &json!("store_unavailable")));
    let answer = agent.get(&format!("/store/asset/{}", "ab".repeat(32))).send().await.unwrap();
    assert_eq!(answer.headers()["content-disposition"], "attachment");
    assert!(answer.headers().get("set-cookie").is_none());
    assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("sandbox"));
    server.await.unwrap();
}

#[tokio::test]
async fn content_is_not_read_ahead_of_the_client() {
    const CONTENT_BYTES: usize = 512 << 20;
    const CHUNK: &[u8] = &[7; 1 << 20];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let store = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 4096]).await.expect("a request");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {CONTENT_BYTES}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut taken = 0;
        while taken < CONTENT_BYTES {
            let write = tokio::time::timeout(Duration::from_secs(1), stream.write(CHUNK));
            let Ok(written) = write.await else { break };
            taken += written.expect("written");
        }
        taken
    });
    let agent = Agent::start_with(|view| view.store_proxy = StoreProxy::new(&url).expect("a URL")).await;
    let answer = agent.get(&format!("/store/asset/{}", "ab".repeat(32))).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let taken = store.await.unwrap();
    assert!(
        taken < CONTENT_BYTES / 4,
        "{taken} bytes were taken from the store for a client that reads none"
    );
    drop(answer);
}
