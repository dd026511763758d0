//! What keeps web pages of other sites, and people without the token, out.

use iroh::SecretKey;
use reqwest::header::{CONTENT_TYPE, HOST, ORIGIN};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::agent::Agent;
use crate::support::nodes::DEADLINE;

#[tokio::test]
async fn only_known_hosts_are_answered() {
    let agent = Agent::start().await;
    for path in ["/", "/status", "/metrics", "/events", "/healthz", "/assets/app.js", "/nothing"] {
        let (status, body) = agent.json(agent.get(path).header(HOST, "evil.example")).await;
        assert_eq!((status, &body["code"]), (421, &json!("host_not_allowed")), "{path}");
        assert!(body["hint"].as_str().unwrap().contains("allowed_hosts"), "{body}");
    }
    for host in ["localhost:3213", "127.0.0.1", "nas.lan", "proxy.lan:8080"] {
        assert_eq!(agent.get("/status").header(HOST, host).send().await.unwrap().status(), 200, "{host}");
    }
}

#[tokio::test]
async fn probes_of_health_need_no_host_of_ours() {
    let agent = Agent::start().await;
    for path in ["/healthz", "/readyz"] {
        let answer = agent.get(path).header(HOST, "10.42.0.7:3210").send().await.unwrap();
        assert_ne!(answer.status(), 421, "{path}");
        assert_eq!(
            raw(&agent, &format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n")).await,
            answer.status()
        );
    }
    assert_eq!(agent.get("/status").header(HOST, "10.42.0.7:3210").send().await.unwrap().status(), 421);
    assert_eq!(raw(&agent, "GET /status HTTP/1.1\r\nConnection: close\r\n\r\n").await, 400);
}

/// The status of the answer to a request as it is written.
async fn raw(agent: &Agent, request: &str) -> u16 {
    let mut stream = TcpStream::connect(agent.addr).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer));
    read.await.expect("in time").expect("an answer");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let mut agent = Agent::start().await;
    let post = || agent.client.post(agent.url("/verify"));
    for request in [
        post().header(ORIGIN, "https://evil.example"),
        post().header(ORIGIN, "null"),
        post().header("Sec-Fetch-Site", "cross-site"),
        agent.get("/status").header(ORIGIN, "http://localhost:3210"),
        agent.client.post(agent.url("/store/ingest")).header(ORIGIN, "https://evil.example"),
    ] {
        let (status, body) = agent.json(request).await;
        assert_eq!((status, &body["code"]), (403, &json!("cross_origin")));
    }
    let own = format!("http://{}", agent.addr);
    let answer = post().header(ORIGIN, own).header("Sec-Fetch-Site", "same-origin").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert!(answer.headers().get("access-control-allow-origin").is_none());
    agent.peers.wait_for("our own page's wish", |seen| !seen.is_empty()).await;
    assert!(agent.peers.look(|seen| seen.len() == 1));
}

#[tokio::test]
async fn bodies_are_json() {
    let agent = Agent::start().await;
    let body = r#"{"ticket":"x"}"#;
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = agent.client.post(agent.url("/peers")).body(body);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let (status, body) = agent.json(request).await;
        assert_eq!((status, &body["code"]), (415, &json!("unsupported_media_type")), "{content_type:?}");
    }
}

#[tokio::test]
async fn wrong_paths_and_methods_are_in_the_envelope() {
    let agent = Agent::start().await;
    let (status, body) = agent.json(agent.get("/nothing")).await;
    assert_eq!((status, &body["status"], &body["code"]), (404, &json!("error"), &json!("unknown_path")));
    let (status, body) = agent.json(agent.client.delete(agent.url("/status"))).await;
    assert_eq!((status, &body["code"]), (405, &json!("wrong_method")));
    let (status, body) = agent.json(agent.get("/assets/..%2f..%2fCargo.toml")).await;
    assert_eq!((status, &body["code"]), (404, &json!("unknown_path")));
}

#[tokio::test]
async fn everything_but_liveness_needs_the_token() {
    let agent = Agent::start_with(|view| view.api_token = Some("right".into())).await;
    for path in ["/status", "/peers", "/events", "/metrics", "/openapi.json", "/page/live", "/store/list"] {
        for request in
            [agent.get(path), agent.get(path).bearer_auth("wrong"), agent.get(path).bearer_auth("")]
        {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        }
    }
    assert_eq!(agent.client.post(agent.url("/verify")).send().await.unwrap().status(), 401);
    assert!(agent.peers.look(<[_]>::is_empty));
    for path in ["/healthz", "/assets/app.css"] {
        assert_eq!(agent.get(path).send().await.unwrap().status(), 200, "{path}");
    }
    assert_eq!(agent.get("/status").bearer_auth("right").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_page_trades_the_token_for_a_cookie() {
    let agent = Agent::start_with(|view| view.api_token = Some("right".into())).await;
    let answer = agent.get("/").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let html = answer.text().await.unwrap();
    assert!(html.contains("id=\"sign-in\"") && !html.contains("atelier"), "{html}");

    let sign_in = |token: &str| agent.client.post(agent.url("/session")).json(&json!({ "token": token }));
    let (status, body) = agent.json(sign_in("wrong")).await;
    assert_eq!((status, &body["code"]), (401, &json!("wrong_token")));

    let answer = sign_in("right").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let set = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    assert!(!set.contains("right"), "{set}");
    let cookie = set.split(';').next().unwrap();
    let with = |cookie: &str| agent.get("/").header("Cookie", cookie).send();
    assert_eq!(with(cookie).await.unwrap().status(), 200);
    assert_eq!(with(&cookie[..cookie.len() - 1]).await.unwrap().status(), 401);
}

#[tokio::test]
async fn two_nodes_on_one_machine_keep_their_cookies_apart() {
    // One token for both, as one who has several nodes may well take.
    let node = async |seed: u8| {
        Agent::start_with(|view| {
            view.endpoint_id = SecretKey::from_bytes(&[seed; 32]).public();
            view.api_token = Some("the same".into());
        })
        .await
    };
    let (one, other) = (node(1).await, node(2).await);
    let sign_in = async |agent: &Agent, cookies: &str| {
        let asked = agent.client.post(agent.url("/session")).header("Cookie", cookies);
        let answer = asked.json(&json!({ "token": "the same" })).send().await.unwrap();
        let set = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        for part in ["Path=/", "HttpOnly", "SameSite=Strict"] {
            assert!(set.split("; ").any(|found| found == part), "{set}");
        }
        let (name, value) = set.split("; ").next().unwrap().split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    let (name, value) = sign_in(&one, "").await;
    let ones = format!("{name}={value}");
    let (others_name, others_value) = sign_in(&other, &ones).await;
    assert_ne!(name, others_name, "a browser keeps both");
    let others = format!("{others_name}={others_value}");
    // A browser sends both to both, in any order.
    for (agent, own, foreign) in [(&one, &ones, &others), (&other, &others, &ones)] {
        let status = async |cookies: String| {
            agent.get("/status").header("Cookie", cookies).send().await.unwrap().status().as_u16()
        };
        assert_eq!(status(format!("{own}; {foreign}")).await, 200);
        assert_eq!(status(format!("{foreign}; {own}")).await, 200);
        assert_eq!(status(foreign.clone()).await, 401);
    }
    // The other node's value under our name is worth nothing either.
    let forged = one.get("/status").header("Cookie", format!("{name}={others_value}")).send().await.unwrap();
    assert_eq!(forged.status(), 401);
}
