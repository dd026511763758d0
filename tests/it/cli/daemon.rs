//! Commands that ask the daemon how it is.

use std::time::Duration;

use can_sync::testing::actor::status::ActorState;
use can_sync::testing::events::NodeEvent;
use can_sync::testing::peer::messages::PeersMsg;
use can_sync::testing::peer::report::{ConnectionState, SourceReport, SourceState, SyncState, WhyReport};
use iroh::{EndpointAddr, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use serde_json::json;

use crate::support::agent::{Agent, actor, peer};
use crate::support::command::{Ran, User};
use crate::support::fake_daemon::FakeDaemon;

/// For the API to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

fn run(url: &str, args: &[&str]) -> Ran {
    User::new().run_with(args, &[("CAN_SYNC_API", url)], b"")
}

fn id(seed: u8) -> String {
    SecretKey::from_bytes(&[seed; 32]).public().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_for_people_and_for_programs() {
    let agent = Agent::start().await;
    agent.set_peers(SyncState::InSync, vec![peer(2, "cellar", ConnectionState::InSync)]);
    let text = run(&agent.url(""), &["status"]);
    assert_eq!(text.code, 0, "{}", text.stderr);
    let name = format!("atelier ({})", id(1));
    for expected in
        [&name, "0.1.0, up ", "embedded at http://", ", 0 assets (0 B)", "in sync", "1 connected, 1 known"]
    {
        assert!(text.text().contains(expected), "{expected}: {}", text.text());
    }
    let json = run(&agent.url("/"), &["status", "--json"]).json();
    assert_eq!(json, [agent_status_without_time(&agent, &json[0]).await], "nothing is left out");
}

/// What the API says, with the time that `like` was asked at.
async fn agent_status_without_time(agent: &Agent, like: &serde_json::Value) -> serde_json::Value {
    let mut status = agent.data("/status").await;
    status["uptime_secs"] = like["uptime_secs"].clone();
    for shown in ["now", "own"] {
        status["clock"][shown] = like["clock"][shown].clone();
    }
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn why_names_who_has_an_asset_and_who_lied() {
    let agent = Agent::start().await;
    let hash = "ab".repeat(32);
    let unknown = run(&agent.url(""), &["why", &hash]);
    assert_eq!(unknown.code, 6, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("no peer is connected"), "{}", unknown.stderr);
    let source = |seed, name: &str| SourceReport {
        endpoint_id: id(seed),
        name: name.to_owned(),
        connected: true,
        ..SourceReport::default()
    };
    let error = Some("it sent wrong bytes".to_owned());
    agent.answers.lock().why = WhyReport {
        wanted: true,
        size: Some(100 << 20),
        done: 10 << 20,
        sources: vec![
            SourceReport { state: SourceState::Sending, ..source(2, "cellar") },
            SourceReport { state: SourceState::Lied, last_error: error, ..source(3, "attic") },
        ],
        connected: 2,
        ..WhyReport::default()
    };
    let ran = run(&agent.url(""), &["why", &hash]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (text, short) = (ran.text(), |seed| id(seed)[..10].to_owned());
    for expected in [
        format!("It is on its way from cellar ({}): 10.0 MiB of 100.0 MiB.", short(2)),
        format!("From attic ({}) it did not come: it sent wrong bytes.", short(3)),
        format!("{}  cellar  is sending", id(2)),
        format!("{}  attic  sent wrong bytes", id(3)),
    ] {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
    let json = run(&agent.url(""), &["why", &hash, "--json"]).json();
    assert_eq!((&json[0]["state"], &json[0]["sources"][1]["state"]), (&json!("on_its_way"), &json!("lied")));
    assert_eq!(run(&agent.url(""), &["why", "nonsense"]).code, 6, "nothing is called so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_node_is_exit_code_4_and_is_shown_all_the_same() {
    let agent = Agent::start().await;
    let mut ill = actor("CanServiceActor", vec![]);
    ill.state = ActorState::Degraded;
    agent.tree.lock().children.push(ill);
    let ran = run(&agent.url(""), &["status"]);
    assert_eq!(ran.code, 4);
    assert!(ran.text().contains("atelier"));
    assert!(ran.stderr.contains("degraded: not running as they should: CanServiceActor"), "{}", ran.stderr);
}

#[test]
fn what_a_store_says_of_its_illness_cannot_act_on_the_terminal() {
    let daemon = FakeDaemon::start();
    daemon
        .change(|fake| fake.status = json!({ "store": { "healthy": false, "error": "disk\u{1b}[2J full" } }));
    let ran = run(&daemon.url, &["status"]);
    assert_eq!(ran.code, 4);
    assert!(ran.text().contains("not healthy"));
    assert!(ran.stderr.contains("degraded: disk\\u{1b}[2J full"), "{}", ran.stderr);
}

#[test]
fn what_the_daemon_refuses_has_its_exit_code() {
    let daemon = FakeDaemon::start();
    for (status, code) in [(401, 5), (403, 5), (421, 5), (404, 6), (503, 4), (504, 7), (500, 1), (400, 1)] {
        daemon.change(|fake| fake.refuse = Some((status, "no such luck")));
        let ran = run(&daemon.url, &["peers"]);
        assert_eq!(ran.code, code, "{status}");
        assert_eq!(ran.stderr, "can-sync: no such luck\n  try something else\n");
    }
    daemon.change(|fake| {
        fake.refuse = None;
        fake.foreign = true;
    });
    let ran = run(&daemon.url, &["peers"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is not the can-sync daemon"), "{}", ran.stderr);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_sent() {
    use std::os::unix::fs::PermissionsExt as _;

    let agent = Agent::start_with(|view| view.api_token = Some("open-sesame".into())).await;
    assert_eq!(run(&agent.url(""), &["id"]).code, 5);
    let user = User::new();
    user.write("token", "open-sesame\n");
    user.write("config.yaml", "api_token_file: token\n");
    let path = user.home().join("token");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let ran = user.run_with(&["id"], &[("CAN_SYNC_API", &agent.url(""))], b"");
    assert_eq!((ran.code, ran.text()), (0, format!("{}\n", id(1)).as_str()), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn id_prints_the_id_or_the_ticket() {
    let agent = Agent::start().await;
    let ticket = agent.ticket.borrow().clone();
    assert_eq!(run(&agent.url(""), &["id"]).text(), format!("{}\n", id(1)));
    assert_eq!(run(&agent.url(""), &["id", "--ticket"]).text(), format!("{ticket}\n"));
    assert_eq!(run(&agent.url(""), &["--json", "id"]).json()[0]["ticket"], json!(ticket));
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_has_the_node_compare_and_returns_when_it_is_done() {
    let mut agent = Agent::start().await;
    agent.set_peers(SyncState::Syncing, vec![peer(2, "cellar", ConnectionState::Syncing)]);
    let url = agent.url("");
    let waiting = tokio::task::spawn_blocking(move || run(&url, &["wait", "--in-sync"]));
    let asked = |seen: &[PeersMsg]| seen.iter().any(|message| matches!(message, PeersMsg::Verify));
    agent.peers.wait_for("the node is asked to compare", asked).await;
    agent.set_peers(SyncState::InSync, vec![peer(2, "cellar", ConnectionState::InSync)]);
    let ran = waiting.await.unwrap();
    assert_eq!((ran.code, ran.text()), (0, "in sync with 1 peer\n"), "{}", ran.stderr);
}

#[test]
fn wait_gives_up_and_says_what_is_missing() {
    let daemon = FakeDaemon::start();
    daemon.change(|fake| fake.peers = vec![json!({ "endpoint_id": "cd", "missing_there": 5 })]);
    let ran = run(&daemon.url, &["wait", "--in-sync", "--timeout", "2"]);
    assert_eq!(ran.code, 7);
    assert!(
        ran.stderr.contains("not in sync after 2s: syncing: 3 assets (2.0 KiB) to receive"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("peers still lack 5"), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("waiting: syncing: 3 assets"), "no wait is silent: {}", ran.stderr);
    daemon.change(|fake| {
        fake.status = json!({ "sync": { "state": "alone", "summary": "alone: no peer is connected" } });
    });
    let alone = run(&daemon.url, &["wait", "--in-sync", "--timeout", "0"]);
    assert_eq!(alone.code, 7);
    assert!(
        alone.stderr.contains("no peer is connected") && alone.stderr.contains("peers add"),
        "{}",
        alone.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_listed_without_what_acts_on_a_terminal() {
    let agent = Agent::start().await;
    assert_eq!(run(&agent.url(""), &["peers", "list"]).text().lines().count(), 1, "the heading alone");
    let mut evil = peer(2, "evil\u{1b}]0;x\u{7}\tname", ConnectionState::BackingOff);
    evil.last_error = Some("line\nbreak".to_owned());
    agent.set_peers(SyncState::Alone, vec![evil]);
    let ran = run(&agent.url(""), &["peers", "list"]);
    let row: Vec<&str> = ran.text().lines().nth(1).expect("a row").split('\t').collect();
    let expected = [&id(2), "evil\\u{1b}]0;x\\u{7}\\tname", "backing_off", "direct", "12.5", "3", "2"];
    assert_eq!(row[..7], expected);
    assert_eq!(row[8], "line\\nbreak");
    assert_eq!(
        run(&agent.url(""), &["peers", "list", "--json"]).json()[0]["name"],
        json!("evil\u{1b}]0;x\u{7}\tname")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_added_by_ticket_or_by_id() {
    let mut agent = Agent::start().await;
    let addr = EndpointAddr::new(SecretKey::from_bytes(&[7; 32]).public())
        .with_ip_addr("192.0.2.9:1".parse().expect("an address"));
    let ticket = EndpointTicket::new(addr.clone()).to_string();
    let ran = run(&agent.url(""), &["peers", "add", &ticket]);
    assert_eq!((ran.code, ran.text()), (0, format!("connecting to {}\n", id(7)).as_str()), "{}", ran.stderr);
    run(&agent.url(""), &["peers", "add", &id(7), "--addr", "192.0.2.9:1"]);
    let dialled = |seen: &[PeersMsg]| {
        let is_dial = |message: &&PeersMsg| matches!(message, PeersMsg::DialPeer { addr: dialled, .. } if *dialled == addr);
        seen.iter().filter(is_dial).count()
    };
    // A dial is noted down after it was answered.
    agent.peers.wait_for("both dials", |seen| dialled(seen) == 2).await;
    assert_eq!(run(&agent.url(""), &["peers", "add", &ticket, "--addr", "127.0.0.1:9"]).code, 2);
    let garbage = run(&agent.url(""), &["peers", "add", "garbage"]);
    assert_eq!(garbage.code, 1, "{}", garbage.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_printed_until_enough_or_the_end() {
    let agent = Agent::start().await;
    agent.events.publish(0, NodeEvent::PeerConnected { endpoint_id: id(2), name: "a\u{1b}[2Jb".to_owned() });
    agent.events.publish(1_500, NodeEvent::InSync { assets: 7 });
    let ran = run(&agent.url(""), &["events", "--since", "0", "--count", "2"]);
    let lines: Vec<&str> = ran.text().lines().collect();
    let connected =
        format!("1970-01-01T00:00:00.000Z  peer_connected  endpoint_id={} name=a\\u{{1b}}[2Jb", id(2));
    let expected = [connected.as_str(), "1970-01-01T00:00:01.500Z  in_sync  assets=7"];
    assert_eq!((ran.code, lines.as_slice()), (0, expected.as_slice()), "{}", ran.stderr);
    let json =
        run(&agent.url(""), &["events", "--since", "0", "--json", "--type", "in_sync", "--count", "1"])
            .json();
    assert_eq!(json[0]["data"]["assets"], json!(7));
    assert_eq!(json[0]["id"], json!(format!("{}-2", agent.events.boot())));

    let user = User::new();
    let mut following =
        user.follow(&["events", "--since", "0", "--type", "in_sync", "--api", &agent.url("")]);
    assert_eq!(following.line(), "1970-01-01T00:00:01.500Z  in_sync  assets=7");
    agent.events.publish(2_000, NodeEvent::InSync { assets: 8 });
    assert_eq!(following.line(), "1970-01-01T00:00:02.000Z  in_sync  assets=8");
    agent.actor.stop_and_wait(None, Some(STOP_LIMIT)).await.unwrap();
    assert_eq!(following.end(), Some(3), "no daemon, once it has stopped");
}
