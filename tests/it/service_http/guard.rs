//! Hosts, origins, and paths that do not exist.

use reqwest::Method;
use reqwest::header::HOST;

use crate::support::service::{TestService, refusal, status};

#[tokio::test]
async fn only_known_hosts_are_answered() {
    let allow = |mut settings: can_sync::testing::store::service::ServiceSettings| {
        settings.allowed_hosts = vec!["nas.lan".into()];
        settings
    };
    let service = TestService::start_with(0, allow).await;
    for good in ["localhost", "localhost:9999", "127.0.0.1", "[::1]:3210", "nas.lan:3210", "NAS.lan"] {
        assert_eq!(status(service.get("/status").header(HOST, good)).await, 200, "{good}");
    }
    for bad in ["evil.example", "127.0.0.1.evil.example", "192.168.1.9:3210"] {
        let response = service.get("/status").header(HOST, bad).send().await.unwrap();
        assert_eq!(response.status(), 421, "{bad}");
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["code"], "host_not_allowed");
        assert!(body["hint"].as_str().unwrap().contains("allowed_hosts"));
    }
    let anywhere =
        service.client.get(format!("http://{}/anything", service.addr)).header(HOST, "evil.example");
    assert_eq!(status(anywhere).await, 421);
}

#[tokio::test]
async fn other_sites_are_refused_everywhere() {
    let service = TestService::start().await;
    let cross = (403, "cross_origin".to_owned());
    let own = format!("http://{}", service.addr);
    for path in ["/status", "/list", "/events", "/openapi.json", "/sync/feed", "/nowhere"] {
        let evil = service.get(path).header("Origin", "http://evil.example");
        assert_eq!(refusal(evil).await, cross, "{path}");
        let fetched = service.get(path).header("Sec-Fetch-Site", "cross-site");
        assert_eq!(refusal(fetched).await, cross, "{path}");
    }
    let form = reqwest::multipart::Form::new().text("file", "x");
    let upload = service.post("/ingest").header("Origin", "null").multipart(form);
    assert_eq!(refusal(upload).await, cross);
    assert_eq!(
        status(service.get("/status").header("Origin", &own).header("Sec-Fetch-Site", "same-origin")).await,
        200
    );
    assert_eq!(status(service.get("/status").header("Sec-Fetch-Site", "none")).await, 200);

    let preflight = service
        .client
        .request(Method::OPTIONS, service.url("/asset/x/meta"))
        .header("Origin", "http://evil.example")
        .header("Access-Control-Request-Method", "PATCH");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control")));
}

#[tokio::test]
async fn what_does_not_exist_is_said_in_the_envelope() {
    let service = TestService::start().await;
    let unknown = (404, "unknown_path".to_owned());
    assert_eq!(refusal(service.get("/nothing")).await, unknown);
    assert_eq!(refusal(service.get("/sync/nothing")).await, unknown);
    assert_eq!(refusal(service.client.get(format!("http://{}/", service.addr))).await, unknown);
    let response = service.client.put(service.url("/list")).send().await.unwrap();
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    assert_eq!(crate::support::service::refusal_of(response).await, (405, "wrong_method".into()));
    for name in ["x-content-type-options", "content-security-policy", "referrer-policy"] {
        let answer = service.get("/nothing").send().await.unwrap();
        assert!(answer.headers().contains_key(name), "{name}");
    }
}
