//! The agent's API as its clients meet it.

use can_sync::testing::actor::status::ActorState;
use can_sync::testing::peer::messages::PeersMsg;
use can_sync::testing::peer::report::{
    ConnectionState, DropsProgress, SyncState, TransferDirection, TransferReport,
};
use can_sync::testing::store::embedded::IngestFields;
use iroh::{EndpointAddr, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use serde_json::json;

use crate::support::agent::{Agent, actor, hung, peer};
use crate::support::description;

mod events;
mod guards;
mod lifetime;
mod metrics;
mod page;
mod store;

#[tokio::test]
async fn status_says_everything_about_the_node() {
    let agent = Agent::start().await;
    agent.ingest(b"twelve bytes", IngestFields::default()).await;
    agent.set_peers(
        SyncState::Syncing,
        vec![peer(2, "cellar", ConnectionState::Syncing), peer(3, "attic", ConnectionState::Waiting)],
    );
    {
        let mut tree = agent.tree.lock();
        tree.children.push(actor("CanServiceActor", vec![]));
        tree.children[1].restarts = 4;
        tree.children[1].state = ActorState::Degraded;
    }
    let status = agent.data("/status").await;
    assert_eq!(status["endpoint_id"], SecretKey::from_bytes(&[1; 32]).public().to_string());
    assert_eq!(status["name"], "atelier");
    assert_eq!(status["version"], "0.1.0");
    assert_eq!(status["passphrase_origin"], "generated");
    assert_eq!(status["boot"], agent.events.boot());
    assert!(status["uptime_secs"].is_u64());
    assert_eq!((&status["drops"], &status["store"]["object_storage"]), (&json!(null), &json!(null)));
    let lacking = Some("no other machine is connected".to_owned());
    agent.answers.lock().report.drops = Some(DropsProgress::new(7, 2, 4, lacking));
    let said = "letting go of 7 contents, once other machines promise to keep them: 4 gone, 1 kept, 2 left: no other machine is connected";
    assert_eq!(agent.data("/status").await["drops"]["summary"], said);
    assert!(agent.text("/page/live").await.contains("letting go of 7 contents"));
    let store = &status["store"];
    assert_eq!((&store["mode"], &store["healthy"]), (&json!("embedded"), &json!(true)));
    assert_eq!((&store["assets"], &store["bytes"], &store["seq"]), (&json!(1), &json!(12), &json!(1)));
    assert!(store["url"].as_str().unwrap().ends_with("/api/v1/can/0"));
    assert_eq!(
        status["sync"],
        json!({"state": "syncing", "summary": "comparing: looking at what changed, with 1 peer", "reason": null, "missing": 0,
            "missing_bytes": 0, "absent": 0, "unseen": 0, "missing_there": 0, "rate": 0.0, "send_rate": 0.0, "held_deletions": 0,
            "dated_ahead": 0, "copied": null, "copied_peers": [], "eta_secs": null})
    );
    let clock = &status["clock"];
    assert_eq!(
        (&clock["state"], &clock["devices"], &clock["reason"]),
        (&json!("own"), &json!(0), &json!(null))
    );
    assert!(clock["now"].is_string() && clock["own"].is_string(), "{clock}");
    assert_eq!(status["peers"], json!({"connected": 1, "known": 2, "refusals": []}));
    assert_eq!(
        status["discovery"]["tickets"],
        json!({"state": "up", "last_success": "2023-11-14T22:13:20.123Z", "found": 1, "last_error": null})
    );
    assert_eq!(status["libraries"], json!([]));
    assert_eq!(status["actors"], json!({"total": 3, "restarts": 4, "degraded": ["CanServiceActor"]}));
}

#[tokio::test]
async fn peers_have_every_field_of_the_design() {
    let agent = Agent::start().await;
    assert_eq!(agent.data("/peers").await, json!({"peers": []}));
    let mut cellar = peer(2, "cellar", ConnectionState::InSync);
    cellar.last_error = Some("reset".into());
    let id = cellar.endpoint_id.clone();
    agent.set_peers(SyncState::InSync, vec![cellar]);
    let expected = json!({
        "endpoint_id": id, "name": "cellar", "state": "in_sync", "path": "direct", "remote_addr": "192.0.2.7:4433",
        "rtt_ms": 12.5, "bulk_in": true, "bulk_out": false, "assets": 40, "missing_here": 3, "missing_here_bytes": 4096, "missing_there": 2,
        "deferred_here": 0, "deferred_there": 0, "held_here": 0, "held_there": 0,
        "bytes_sent": 1000, "bytes_received": 2000, "rates": {"send": 10.5, "receive": 20.5}, "eta_secs": 200,
        "last_seen": "2023-11-14T22:13:20.000Z", "last_error": "reset",
        "sources": ["mdns", "gossip"],
    });
    assert_eq!(agent.data("/peers").await["peers"], json!([expected]));
    assert_eq!(agent.data(&format!("/peers/{id}")).await, expected);

    let (status, body) = agent.json(agent.get("/peers/nonsense")).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_endpoint_id")));
    let stranger = SecretKey::from_bytes(&[9; 32]).public();
    let (status, body) = agent.json(agent.get(&format!("/peers/{stranger}"))).await;
    assert_eq!((status, &body["code"]), (404, &json!("unknown_peer")));
}

#[tokio::test]
async fn a_peer_is_dialled_by_ticket_or_by_address() {
    let mut agent = Agent::start().await;
    let other = SecretKey::from_bytes(&[2; 32]).public();
    let addr = EndpointAddr::new(other).with_ip_addr("192.0.2.9:7777".parse().unwrap());
    let ticket = EndpointTicket::new(addr.clone()).to_string();
    let bodies =
        [json!({"ticket": ticket}), json!({"endpoint_id": other.to_string(), "addrs": ["192.0.2.9:7777"]})];
    for body in &bodies {
        let (status, answer) = agent.json(agent.client.post(agent.url("/peers")).json(body)).await;
        assert_eq!((status, &answer["data"]["endpoint_id"]), (202, &json!(other.to_string())), "{answer}");
    }
    let dialled =
        |message: &PeersMsg| matches!(message, PeersMsg::DialPeer { addr: sent, .. } if *sent == addr);
    agent.peers.wait_for("both dials", |seen| seen.iter().filter(|m| dialled(m)).count() == 2).await;

    agent.answers.lock().dial = Err("64 peers are connected already".into());
    let (status, answer) = agent.json(agent.client.post(agent.url("/peers")).json(&bodies[0])).await;
    assert_eq!((status, &answer["code"]), (409, &json!("not_dialled")));
    assert!(answer["error"].as_str().unwrap().contains("64 peers are connected already"));
}

#[tokio::test]
async fn a_dial_request_that_makes_no_sense_goes_nowhere() {
    let agent = Agent::start().await;
    let own = agent.ticket.borrow().clone();
    let cases = [
        (json!({}), "invalid_dial"),
        (json!({"ticket": "endpointnonsense"}), "invalid_ticket"),
        (json!({"endpoint_id": "abc"}), "invalid_endpoint_id"),
        (
            json!({"endpoint_id": SecretKey::from_bytes(&[2; 32]).public().to_string(), "addrs": ["localhost"]}),
            "invalid_address",
        ),
        (json!({"tiket": "x"}), "invalid_json"),
    ];
    for (body, code) in cases {
        let (status, answer) = agent.json(agent.client.post(agent.url("/peers")).json(&body)).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{body}");
        assert!(!answer["hint"].as_str().unwrap().is_empty());
    }
    let huge = json!({ "ticket": "x".repeat(2 << 20) });
    let (status, _) = agent.json(agent.client.post(agent.url("/peers")).json(&huge)).await;
    assert_eq!(status, 413);
    assert!(agent.peers.look(<[PeersMsg]>::is_empty));
    // PeersActor looks where its own ticket leads, and says what is wrong with it.
    agent.answers.lock().dial = Err("that is this node's own ticket".into());
    let request = agent.client.post(agent.url("/peers")).json(&json!({ "ticket": own }));
    let (status, answer) = agent.json(request).await;
    assert_eq!((status, &answer["code"]), (400, &json!("own_ticket")), "{answer}");
}

#[tokio::test]
async fn a_peer_is_forgotten() {
    let mut agent = Agent::start().await;
    let id = SecretKey::from_bytes(&[2; 32]).public();
    let forget = |agent: &Agent, id: &str| agent.client.delete(agent.url(&format!("/peers/{id}")));
    let (status, body) = agent.json(forget(&agent, &id.to_string())).await;
    assert_eq!((status, &body["data"]["endpoint_id"]), (200, &json!(id.to_string())));
    let forgotten =
        |m: &PeersMsg| matches!(m, PeersMsg::ForgetPeer { endpoint_id, .. } if *endpoint_id == id);
    agent.peers.wait_for("the peer being forgotten", |seen| seen.iter().any(forgotten)).await;
    agent.answers.lock().known = false;
    let (status, body) = agent.json(forget(&agent, &id.to_string())).await;
    assert_eq!((status, &body["code"]), (404, &json!("unknown_peer")));
    let (status, _) = agent.json(forget(&agent, "zz")).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn verify_asks_for_a_new_comparison() {
    let mut agent = Agent::start().await;
    let (status, body) = agent.json(agent.client.post(agent.url("/verify"))).await;
    assert_eq!((status, &body["data"]["state"]), (202, &json!("reconciling")));
    agent.peers.wait_for("the comparison", |seen| matches!(seen, [PeersMsg::Verify])).await;
}

#[tokio::test]
async fn transfers_actors_and_ticket() {
    let agent = Agent::start().await;
    agent.answers.lock().transfers = vec![TransferReport {
        hash: "ab".repeat(32),
        size: 100,
        done: 40,
        direction: TransferDirection::Receiving,
        peer: "cd".repeat(32),
        started: true,
    }];
    let expected = json!({"hash": "ab".repeat(32), "size": 100, "done": 40, "direction": "receiving",
        "peer": "cd".repeat(32), "started": true});
    assert_eq!(agent.data("/transfers").await["transfers"], json!([expected]));

    let tree = agent.data("/actors").await;
    assert_eq!(tree, serde_json::to_value(&*agent.tree.lock()).unwrap());
    assert_eq!(tree["children"][0]["kind"], "PeersActor");

    let ticket = agent.data("/ticket").await["ticket"].as_str().unwrap().parse::<EndpointTicket>().unwrap();
    assert_eq!(ticket.endpoint_addr().id, SecretKey::from_bytes(&[1; 32]).public());
    agent.ticket.send_replace(String::new());
    let (status, body) = agent.json(agent.get("/ticket")).await;
    assert_eq!((status, &body["code"]), (503, &json!("no_address")));
}

#[tokio::test]
async fn readiness_gives_its_reasons() {
    let agent = Agent::start().await;
    assert_eq!(agent.data("/healthz").await, json!({"alive": true}));
    assert_eq!(agent.data("/readyz").await, json!({"ready": true}));
    agent.tree.lock().children[0].state = ActorState::Restarting;
    let (status, body) = agent.json(agent.get("/readyz")).await;
    assert_eq!((status, &body["code"]), (503, &json!("not_ready")));
    assert_eq!(body["error"], "PeersActor is restarting");
    agent.tree.lock().children[0].state = ActorState::Running;
    agent.store.close().await;
    let (status, body) = agent.json(agent.get("/readyz")).await;
    assert_eq!(status, 503, "{body}");
    // The node itself is still described.
    let store = agent.data("/status").await["store"].clone();
    assert_eq!(store["healthy"], false);
    assert!(!store["error"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn the_description_names_every_path() {
    let agent = Agent::start().await;
    let (_, api) = agent.json(agent.get("/openapi.json")).await;
    let paths: Vec<&str> = api["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in [
        "/status",
        "/peers",
        "/peers/{id}",
        "/verify",
        "/transfers",
        "/why/{hash}",
        "/actors",
        "/events",
        "/ticket",
        "/metrics",
        "/healthz",
        "/readyz",
        "/store/ingest",
        "/store/list",
        "/store/asset/{hash}",
    ] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    let peer = &api["components"]["schemas"]["PeerReport"]["properties"];
    assert!(peer["missing_here"].is_object() && peer["last_seen"].is_object(), "{peer}");
    description::check(&api);
    description::parameters_are_those_described(&agent.client, &agent.url(""), &api).await;
}

#[tokio::test]
async fn a_hung_actor_is_named_in_time() {
    let (_probe, service) = hung().await;
    let agent = Agent::start_with(|view| view.peers = service).await;
    let id = SecretKey::from_bytes(&[2; 32]).public().to_string();
    let peer_path = format!("/peers/{id}");
    let requests = [
        agent.get("/status"),
        agent.get("/peers"),
        agent.get(&peer_path),
        agent.get("/transfers"),
        agent.client.delete(agent.url(&peer_path)),
        agent.client.post(agent.url("/peers")).json(&json!({"endpoint_id": id})),
        agent.get("/readyz"),
    ];
    let answers = futures::future::join_all(requests.map(|request| agent.json(request))).await;
    for (status, body) in answers {
        assert_eq!(status, 503, "{body}");
        assert!(body["error"].as_str().unwrap().contains("PeersActor did not answer within 2 s"), "{body}");
    }
    // What needs no answer from it works as ever.
    assert_eq!(agent.data("/healthz").await, json!({"alive": true}));
    assert_eq!(agent.data("/actors").await["kind"], "RootSupervisor");
}

#[tokio::test]
async fn an_actor_between_two_incarnations_is_named_at_once() {
    let down = can_sync::testing::actor::ServiceCell::new("PeersActor");
    let agent = Agent::start_with(|view| view.peers = down.service_ref()).await;
    for request in [agent.get("/peers"), agent.client.post(agent.url("/verify"))] {
        let (status, body) = agent.json(request).await;
        assert_eq!((status, &body["code"]), (503, &json!("actor_down")));
        assert_eq!(body["error"], "PeersActor is not running at the moment");
    }
}
