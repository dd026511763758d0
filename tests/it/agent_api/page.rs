//! The page: complete, escaped, strict.

use can_sync::api::proxy::StoreProxy;
use can_sync::events::NodeEvent;
use can_sync::peer::messages::PeersMsg;
use can_sync::peer::report::{ConnectionState, SyncState};
use can_sync::store::embedded::IngestFields;

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
        let mut tree = agent.tree.lock().unwrap();
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
    let html = agent.text("/").await + &agent.text("/page/live").await + &agent.text("/page/recent").await;
    for markup in ["<script>", "<img src=x", "onerror=alert(1)>", "<b>", "\"'>"] {
        assert!(!html.contains(markup), "{markup} is in\n{html}");
    }
    assert!(html.matches("&#60;script&#62;alert(1)").count() >= 8, "{html}");
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
    for reference in html.split(['"', '\'']).filter(|text| text.starts_with("/assets/")) {
        let answer = agent.get(reference).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{reference}");
        assert!(!answer.text().await.unwrap().is_empty());
        files += 1;
    }
    assert_eq!(files, 3);
    assert!(!html.contains("http://") || !html.contains("src=\"http"), "nothing is loaded from elsewhere");
}

#[tokio::test]
async fn raster_images_are_shown_and_other_content_is_not() {
    let agent = Agent::start().await;
    let fields = |kind: &str| IngestFields { mime_type: Some(kind.into()), ..IngestFields::default() };
    let image = agent.ingest(b"\x89PNG\r\n\x1a\n", fields("image/png")).await.asset.record.hash;
    let vector = agent.ingest(b"<svg/>", fields("image/svg+xml")).await.asset.record.hash;
    let html = agent.text("/page/recent").await;
    assert!(html.contains(&format!("<img src=\"/store/asset/{image}\"")), "{html}");
    assert!(!html.contains(&format!("<img src=\"/store/asset/{vector}\"")), "{html}");
    assert!(html.contains(&format!("href=\"/store/asset/{vector}\"")), "{html}");
}

#[tokio::test]
async fn what_does_not_answer_leaves_a_sentence() {
    let (_probe, service) = hung::<PeersMsg>().await;
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
