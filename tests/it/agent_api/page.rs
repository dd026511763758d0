//! The page: complete, escaped, strict.

use can_sync::testing::api::proxy::StoreProxy;
use can_sync::testing::events::NodeEvent;
use can_sync::testing::peer::report::{ConnectionState, SyncState};
use can_sync::testing::store::embedded::IngestFields;

use crate::support::agent::{Agent, hung, peer};

const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

#[tokio::test]
async fn the_page_shows_the_node() {
    let agent = Agent::start().await;
    let html = agent.text("/").await;
    for text in ["atelier", "No peers discovered yet.", "No assets yet.", "RootSupervisor", "Alone"] {
        assert!(html.contains(text), "{text} is not in\n{html}");
    }
    assert!(html.contains(agent.ticket.borrow().as_str()));
    agent.set_peers(SyncState::InSync, vec![peer(2, "cellar", ConnectionState::InSync)]);
    let live = agent.text("/page/live").await;
    for text in ["cellar", "direct", "12 ms", "In sync", "d ago"] {
        assert!(live.contains(text), "{text} is not in\n{live}");
    }
}

#[tokio::test]
async fn nothing_from_strangers_becomes_markup() {
    let agent = Agent::start_with(|view| view.name = HOSTILE.into()).await;
    let mut evil = peer(2, HOSTILE, ConnectionState::Waiting);
    evil.last_error = Some(HOSTILE.into());
    evil.remote_addr = Some(HOSTILE.into());
    agent.set_peers(SyncState::Syncing, vec![evil]);
    agent.events.publish(1, NodeEvent::PeerConnected { endpoint_id: HOSTILE.into(), name: HOSTILE.into() });
    {
        let mut tree = agent.tree.lock();
        tree.children[0].label = Some(HOSTILE.into());
        tree.children[0].last_error = Some(HOSTILE.into());
        tree.children[0].detail = Some(HOSTILE.into());
    }
    let fields = IngestFields {
        filename: Some(HOSTILE.into()),
        tags: vec!["<b>tag</b>".into()],
        mime_type: Some("text/html".into()),
        ..IngestFields::default()
    };
    agent.ingest(b"<script>", fields).await;
    let again = IngestFields { filename: Some(format!("again {HOSTILE}")), ..IngestFields::default() };
    agent.ingest(b"<script>", again).await;
    let html = agent.text("/").await + &agent.text("/page/live").await + &agent.text("/page/recent").await;
    for markup in ["<script>", "<img src=x", "onerror=alert(1)>", "<b>", "\"'>"] {
        assert!(!html.contains(markup), "{markup} is in\n{html}");
    }
    assert!(html.matches("&#60;script&#62;alert(1)").count() >= 8, "{html}");
}

#[tokio::test]
async fn further_names_are_shown_with_an_asset() {
    let agent = Agent::start().await;
    for name in ["a.jpg", "b.jpg", "c\nc.jpg"] {
        let fields = IngestFields { filename: Some(name.into()), ..IngestFields::default() };
        agent.ingest(b"the same picture", fields).await;
    }
    let html = agent.text("/page/recent").await;
    assert!(html.contains("<bdi>a.jpg</bdi>"), "{html}");
    assert!(html.contains("also <bdi>b.jpg, c"), "{html}");
}

#[tokio::test]
async fn the_policy_allows_the_page_s_own_files_and_nothing_else() {
    let agent = Agent::start().await;
    let answer = agent.get("/").send().await.unwrap();
    let headers = answer.headers().clone();
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("data:"), "{policy}");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    let html = answer.text().await.unwrap();
    // What the policy would block: inline scripts, styles and handlers.
    assert!(!html.contains(" style=") && !html.contains("<style") && !html.contains(" onclick="));
    assert_eq!(html.matches("<script").count(), 1);
    let mut files = 0;
    for reference in html.split(['"', '\'']).filter(|text| text.starts_with("assets/")) {
        let answer = agent.get(&format!("/{reference}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{reference}");
        assert!(!answer.text().await.unwrap().is_empty());
        files += 1;
    }
    assert_eq!(files, 3);
    assert!(!html.contains("http://") || !html.contains("src=\"http"), "nothing is loaded from elsewhere");
}

/// Serves what `to` serves below `/under/this/`, as a proxy with other pages beside it would.
async fn below_a_path(to: String) -> String {
    let http = reqwest::Client::new();
    let pass = move |request: axum::extract::Request| {
        let (http, to) = (http.clone(), to.clone());
        async move {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let Some(path) = path.strip_prefix("/under/this/") else {
                return axum::response::Response::builder()
                    .status(404)
                    .body(axum::body::Body::empty())
                    .unwrap();
            };
            let answer = http.request(request.method().clone(), format!("{to}/{path}")).send().await.unwrap();
            let mut response = axum::response::Response::builder().status(answer.status());
            response.headers_mut().unwrap().extend(answer.headers().clone());
            response.body(axum::body::Body::from(answer.bytes().await.unwrap())).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/under/this/", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(pass);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn a_proxy_may_serve_the_page_below_a_path() {
    let agent = Agent::start().await;
    let fields = IngestFields { mime_type: Some("image/png".into()), ..IngestFields::default() };
    agent.ingest(b"\x89PNG\r\n\x1a\n", fields).await;
    let page = reqwest::Url::parse(&below_a_path(agent.url("")).await).unwrap();
    let html = agent.client.get(page.clone()).send().await.unwrap().text().await.unwrap();
    let script = agent.text("/assets/app.js").await;
    // Every quoted text that the script asks for, and everything that the page refers to.
    let asked =
        ["ask(\"", "askJson(\"", "EventSource(\"", "open(\"POST\", \""].into_iter().flat_map(|call| {
            script.split(call).skip(1).filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>()
        });
    let referred = ["href=\"", "src=\""].into_iter().flat_map(|attribute| {
        html.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>()
    });
    let mut seen = 0;
    for reference in asked.chain(referred).filter(|reference| !reference.starts_with('#')) {
        assert!(!reference.starts_with('/') && !reference.contains("://"), "{reference}");
        let url = page.join(reference).unwrap();
        assert!(url.path().starts_with(page.path()), "{reference} leads to {url}");
        if reference != "events" {
            let status = agent.client.get(url).send().await.unwrap().status().as_u16();
            // Some are for POST alone, and some actors are not there.
            assert!(matches!(status, 200 | 405 | 503), "{reference}: {status}");
        }
        seen += 1;
    }
    assert!(seen > 15, "{seen} references");
    let other = script.split(['"', '`', '\'']).find(|text| {
        text.strip_prefix('/').is_some_and(|path| path.starts_with(|c: char| c.is_ascii_lowercase()))
    });
    assert_eq!(other, None, "a path from the top of the host");
}

#[tokio::test]
async fn raster_images_are_shown_and_other_content_is_not() {
    let agent = Agent::start().await;
    let fields = |kind: &str| IngestFields { mime_type: Some(kind.into()), ..IngestFields::default() };
    let image = agent.ingest(b"\x89PNG\r\n\x1a\n", fields("image/png")).await.asset.record.hash;
    let vector = agent.ingest(b"<svg/>", fields("image/svg+xml")).await.asset.record.hash;
    let html = agent.text("/page/recent").await;
    assert!(html.contains(&format!("<img src=\"store/asset/{image}\"")), "{html}");
    assert!(!html.contains(&format!("<img src=\"store/asset/{vector}\"")), "{html}");
    assert!(html.contains(&format!("href=\"store/asset/{vector}\"")), "{html}");
}

#[tokio::test]
async fn what_waits_for_an_actor_and_what_found_none_is_shown() {
    let agent = Agent::start().await;
    {
        let child = &mut agent.tree.lock().children[0];
        (child.mailbox, child.mailbox_ms, child.undelivered) = (7_001, 64_000, 7_002);
    }
    let html = agent.text("/page/live").await;
    for shown in ["7001, 1m 4s", "7002"] {
        assert!(html.contains(&format!("<td class=\"number\">{shown}")), "{shown} in {html}");
    }
}

#[tokio::test]
async fn what_does_not_answer_leaves_a_sentence() {
    let (_probe, service) = hung().await;
    let agent = Agent::start_with(|view| {
        view.peers = service;
        view.store_proxy = StoreProxy::new("http://127.0.0.1:1").expect("a URL");
    })
    .await;
    let html = agent.text("/").await;
    assert!(html.contains("PeersActor did not answer within 2 s"), "{html}");
    assert!(html.contains("the CAN Service at http://127.0.0.1:1/api/v1/can/0 is not available"), "{html}");
    assert!(html.contains("atelier") && html.contains("RootSupervisor"));
}
