//! Nodes that run on copies of one data directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use iroh::EndpointAddr;
use iroh_tickets::endpoint::EndpointTicket;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::infrastructure::Infrastructure;
use crate::support::nodes::{TestNode, eventually, eventually_within};
use crate::support::scoreboard;

/// How soon all machines say that there are two.
const NAMED_WITHIN: Duration = Duration::from_mins(1);
/// Longer than a copy is told of after it is gone.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(200);

async fn copy_of(original: &TestNode) -> TestNode {
    let key = original.config.data_dir.join("secret.key");
    let copy = TestNode::start("copy", |config| {
        fs::create_dir_all(&config.data_dir).unwrap();
        fs::copy(&key, config.data_dir.join("secret.key")).unwrap();
    })
    .await;
    assert_eq!(copy.id(), original.id());
    copy
}

/// What a node says of its own endpoint id, and of its peers'.
async fn told(node: &TestNode) -> (Value, Value) {
    let status = node.get("/status").await;
    let sync = &status["data"]["sync"];
    (sync["copied"].clone(), sync["copied_peers"].clone())
}

async fn is_told(node: &TestNode) {
    eventually("it says that there are two", async || {
        let (own, of_peers) = told(node).await;
        let said = own.as_str().is_some_and(|said| said.contains("can-sync id --new"));
        said.then_some(()).ok_or_else(|| format!("{own} {of_peers}"))
    })
    .await;
}

/// Gathers a node's events.
async fn follow(node: &TestNode) -> Arc<Mutex<String>> {
    let events = Arc::new(Mutex::new(String::new()));
    let url = format!("http://{}/events", node.node().api_addr());
    let (mut stream, into) = (node.http.get(url).send().await.unwrap().bytes_stream(), Arc::clone(&events));
    tokio::spawn(async move {
        while let Some(Ok(bytes)) = stream.next().await {
            into.lock().push_str(&String::from_utf8_lossy(&bytes));
        }
    });
    events
}

fn changes(events: &Mutex<String>) -> usize {
    let events = events.lock();
    ["event: peer_connected", "event: peer_lost"].iter().map(|event| events.matches(event).count()).sum()
}

fn new_id(copy: &TestNode) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_can-sync"))
        .args(["--json", "id", "--new"])
        .env("CAN_SYNC_DATA_DIR", &copy.config.data_dir)
        .current_dir(&copy.config.data_dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_copies_and_the_third_say_so_and_nothing_takes_turns() {
    let (original, third) =
        tokio::join!(TestNode::start("original", |_| {}), TestNode::start("third", |_| {}));
    let mut copy = copy_of(&original).await;
    let (at_third, at_original) = (follow(&third).await, follow(&original).await);
    original.dial(&third).await;
    original.wait_in_sync().await;
    let began = Instant::now();
    copy.dial(&third).await;
    tokio::join!(is_told(&original), is_told(&copy));
    eventually("the third one says of whom", async || {
        let (own, of_peers) = told(&third).await;
        assert!(own.is_null(), "its own id is nobody else's: {own}");
        let said =
            of_peers[0].as_str().is_some_and(|said| said.contains("two machines have the endpoint id of"));
        said.then_some(()).ok_or_else(|| of_peers.to_string())
    })
    .await;
    let took = began.elapsed();
    let figure = format!("a copied directory: named on all three machines after {:.1} s", took.as_secs_f64());
    scoreboard::figure(took <= NAMED_WITHIN, &figure);
    eventually("the one that was there is listed as connected", async || {
        let listed = third.peer(&original.id()).await;
        let is_so = listed["path"].is_string() && listed["last_error"].to_string().contains("two machines");
        is_so.then_some(()).ok_or_else(|| listed.to_string())
    })
    .await;
    // The one that was there stays, and goes on.
    let hash = original.ingest("while there are two", &[]).await;
    eventually("the third one has it", async || third.content(&hash).await.map(drop).ok_or_else(String::new))
        .await;
    // The other one was turned away, and tries again later, again in vain.
    let here = told(&copy).await;
    eventually("it was turned away", async || {
        let peer = copy.peer(&third.id()).await;
        let error = peer["last_error"].as_str().unwrap_or_default();
        let away =
            error.contains("another machine that has this one's endpoint id") && peer["path"].is_null();
        away.then_some(()).ok_or_else(|| format!("{peer} {here:?}"))
    })
    .await;
    assert!(changes(&at_third) <= 3, "{}", at_third.lock());
    assert!(changes(&at_original) <= 3, "{}", at_original.lock());

    // What they are told to do helps.
    let former = copy.id();
    let from_copy = copy.ingest("from the copy", &[]).await;
    assert!(!copy.stop().await.failed);
    let renewed = new_id(&copy);
    copy.boot().await;
    assert_eq!(renewed["former_endpoint_id"], former);
    assert_eq!(renewed["endpoint_id"], copy.id());
    assert_ne!(copy.id(), original.id());
    copy.dial(&third).await;
    eventually("all three are one network", async || {
        let (there, here) = (original.content(&from_copy).await, copy.content(&hash).await);
        (there.is_some() && here.is_some()).then_some(()).ok_or_else(|| format!("{there:?} {here:?}"))
    })
    .await;
    for node in [&original, &third, &copy] {
        eventually_within(FORGOTTEN_WITHIN, "nobody says anything of it any more", async || {
            let (own, of_peers) = told(node).await;
            (own.is_null() && of_peers == json!([])).then_some(()).ok_or_else(|| format!("{own} {of_peers}"))
        })
        .await;
    }
    assert!(changes(&at_original) <= 5, "{}", at_original.lock());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_our_id_is_found_where_a_user_says_that_it_is() {
    let original = TestNode::start("original", |_| {}).await;
    let answer = original.post("/peers", json!({ "ticket": original.ticket() })).await;
    assert!(answer["error"].as_str().unwrap_or_default().contains("this node itself"), "{answer}");
    let copy = copy_of(&original).await;
    let answer = copy.post("/peers", json!({ "ticket": original.ticket() })).await;
    assert!(answer["error"].as_str().unwrap_or_default().contains("at another address"), "{answer}");
    // Nobody named the copy to the original: it hears it from the copy.
    is_told(&copy).await;
    is_told(&original).await;
}

/// Nobody else is there, and nobody names anybody: what both publish under their common key says it.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_are_alone_find_each_other_out_by_what_they_publish() {
    let network = Infrastructure::start().await;
    let original = TestNode::start("original", |config| network.relays(config)).await;
    let key = fs::read(original.config.data_dir.join("secret.key")).unwrap();
    let copy = TestNode::start("copy", |config| {
        network.relays(config);
        fs::create_dir_all(&config.data_dir).unwrap();
        let path = config.data_dir.join("secret.key");
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    })
    .await;
    for node in [&original, &copy] {
        eventually_within(FORGOTTEN_WITHIN, "it says that there are two", async || {
            let (own, _) = told(node).await;
            own.is_string().then_some(()).ok_or_else(|| own.to_string())
        })
        .await;
    }
}

/// Its own address as others see it is one that a node does not know itself by.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_node_behind_another_address_is_no_other_machine() {
    let user = User::new();
    user.write("config.yaml", embedded_yaml("").replace("bind_addr: 127.0.0.1:0", "bind_addr: 0.0.0.0:0"));
    let node = Daemon::start_given(user, &[], &[("RUST_LOG", "can_sync=debug")], b"");
    let ticket = node.ok(&["id", "--ticket"]).text().trim().parse::<EndpointTicket>().unwrap();
    let port = ticket.endpoint_addr().ip_addrs().find(|addr| addr.is_ipv4()).unwrap().port();
    let elsewhere = EndpointAddr::new(ticket.endpoint_addr().id).with_ip_addr(([127, 0, 0, 77], port).into());
    let answer = node.post("/peers", &json!({ "ticket": EndpointTicket::new(elsewhere).to_string() })).await;
    assert!(answer["error"].as_str().unwrap_or_default().contains("at another address"), "{answer}");
    eventually("it looked who is there", async || {
        let log = node.stderr();
        let looked = log.contains("looked who answers by our own endpoint id found=true came_here=true");
        looked.then_some(()).ok_or(log)
    })
    .await;
    assert!(node.get("/status").await["sync"]["copied"].is_null());
}

#[tokio::test]
async fn a_stopped_node_gets_another_id_and_keeps_what_it_has() {
    let empty = User::new();
    empty.write("config.yaml", embedded_yaml(""));
    let ran = empty.run(&["id", "--new"]);
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no node in"), "{}", ran.stderr);

    let node = Daemon::start(&embedded_yaml("name: desk"));
    node.user.write("note.txt", "kept\n");
    let hash = node.ok(&["put", "note.txt", "--json"]).json()[0]["hash"].as_str().unwrap().to_owned();
    node.ok(&["library", "create", "photos"]);
    let former = node.id().to_owned();
    let key = || fs::read_to_string(node.data_dir().join("secret.key")).unwrap();
    let before = key();
    let ran = node.user.run(&["id", "--new"]);
    assert_eq!((ran.code, key()), (5, before.clone()), "{}", ran.stderr);
    assert!(ran.stderr.contains("runs") && ran.stderr.contains("stop it"), "{}", ran.stderr);

    let user = node.into_user();
    let ran = user.run(&["id", "--new"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let renewed = ran.text().trim().to_owned();
    assert_ne!(renewed, former);
    for said in [former.as_str(), "can-sync approve", "invite and revoke on one of the two alone: photos"] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    // Nothing hands out the former one.
    for entry in fs::read_dir(user.home().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let held =
            path.is_file() && String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(before.trim());
        assert!(!held, "{}", path.display());
    }
    let node = Daemon::start_as(user);
    assert_eq!(node.id(), renewed);
    assert_eq!(node.ok(&["get", &hash]).stdout, b"kept\n");
    assert!(node.ok(&["library", "list"]).text().contains("photos"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_killed_and_started_again_is_one() {
    let yaml = |name: &str| embedded_yaml(&format!("name: {name}"));
    let (third, mut killed) = (Daemon::start(&yaml("third")), Daemon::start(&yaml("killed")));
    third.dial(&killed).await;
    for round in 0..4 {
        killed.dial(&third).await;
        eventually("connected", async || {
            let peers = killed.ok(&["peers", "list", "--json"]).json();
            let is_in_sync = peers.iter().any(|peer| peer["state"] == "in_sync");
            is_in_sync.then_some(()).ok_or_else(|| format!("{round}: {peers:?}"))
        })
        .await;
        killed = killed.restart();
    }
    killed.dial(&third).await;
    for daemon in [&third, &killed] {
        let status = daemon.get("/status").await;
        assert!(
            status["sync"]["copied"].is_null() && status["sync"]["copied_peers"] == json!([]),
            "{status}"
        );
        assert!(!daemon.stderr().contains("endpoint id"), "{}", daemon.stderr());
    }
}
