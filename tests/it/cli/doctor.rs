//! `can-sync doctor`, against real infrastructure on loopback, and against none.

use std::collections::BTreeMap;
use std::path::Path;

use can_sync::testing::config::Config;
use can_sync::testing::peer::report::{ConnectionState, SyncState};
use can_sync::testing::store::ContentStore as _;
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use serde_json::{Value, json};

use crate::support::agent::{Agent, peer};
use crate::support::command::{Ran, User};
use crate::support::fake_daemon::FakeDaemon;
use crate::support::infrastructure::Infrastructure;
use crate::support::nodes::eventually;
use crate::support::store::record_of;

/// An address at which nothing listens.
fn nobody() -> String {
    format!("http://{}", crate::support::ports::nobody())
}

async fn doctor(home: &Path, api: &str, args: &[&str]) -> Ran {
    let args: Vec<String> = [&["doctor"], args].concat().iter().map(|arg| (*arg).to_owned()).collect();
    let (home, api) = (home.to_owned(), api.to_owned());
    let addr = api.trim_start_matches("http://").to_owned();
    let command = move || User::at(&home, &args, &[("CAN_SYNC_LISTEN_ADDR", &addr)], b"");
    tokio::task::spawn_blocking(command).await.expect("it ran")
}

/// Each layer's state, of the JSON output.
fn states(ran: &Ran) -> BTreeMap<String, String> {
    let checks = ran.json()[0]["checks"].clone();
    let checks = checks.as_array().expect("checks").iter().map(|check| {
        let text = |key: &str| check[key].as_str().expect(key).to_owned();
        assert!(!text("detail").is_empty(), "{check}");
        let says_what_to_do = check["advice"].is_string();
        assert_eq!(says_what_to_do, matches!(text("state").as_str(), "warn" | "fail"), "{check}");
        (text("layer"), text("state"))
    });
    checks.collect()
}

fn expected(states: &[(&str, &str)]) -> BTreeMap<String, String> {
    states.iter().map(|(layer, state)| ((*layer).to_owned(), (*state).to_owned())).collect()
}

fn config(relay_url: &str, discovery: &Value) -> String {
    format!(
        "bind_addr: 127.0.0.1:0\nrelay_url: {relay_url}\ndata_dir: ./data\nlimits: {{ disk_reserve_bytes: 0 }}\n\
         discovery: {discovery}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_work_are_told_apart_from_those_that_are_off() {
    let user = User::new();
    let off = json!({ "pkarr_relays": [], "dht": false, "mdns": false });
    user.write("config.yaml", config("disabled", &off));
    let ran = doctor(user.home(), &nobody(), &["--json"]).await;
    assert_eq!(ran.code, 0, "{} {}", ran.text(), ran.stderr);
    let all_off = expected(&[
        ("daemon", "warn"),
        ("store", "ok"),
        ("clock", "off"),
        ("udp", "ok"),
        ("relay", "off"),
        ("pkarr_relays", "off"),
        ("dht", "off"),
        ("mdns", "off"),
    ]);
    assert_eq!(states(&ran), all_off);
    assert_eq!((&ran.json()[0]["health"], &ran.json()[0]["daemon"]), (&json!("ok"), &Value::Null));
    assert!(!user.home().join("data").exists(), "nothing was made");

    let mut server = ServerConfig::default();
    server.relay = Some(RelayConfig::new(([127, 0, 0, 1], 0)));
    let relay = Server::spawn(server).await.expect("a relay");
    let relay_url = format!("http://{}", relay.http_addr().expect("an address"));
    let infrastructure = Infrastructure::start().await;
    let mut found = Config::default();
    infrastructure.relays(&mut found);
    infrastructure.dht(&mut found);
    let pkarr = found.discovery.pkarr_relays[0].to_string();
    let on = json!({ "pkarr_relays": [pkarr], "dht_bootstrap": found.discovery.dht_bootstrap, "mdns": true });
    user.write("config.yaml", config(&relay_url, &on));
    let mut all_on = all_off;
    for layer in ["relay", "pkarr_relays", "dht", "mdns"] {
        all_on.insert(layer.to_owned(), "ok".to_owned());
    }
    // Each has a few seconds, which may be too few on a busy machine.
    eventually("all layers work", async || {
        let ran = doctor(user.home(), &nobody(), &["--json"]).await;
        let mut states = states(&ran);
        // The relays of tests may leave the time out of their answers.
        let clock = states.insert("clock".to_owned(), "off".to_owned());
        let is_known = matches!(clock.as_deref(), Some("ok" | "warn"));
        let is_so = ran.code == 0 && is_known && states == all_on;
        is_so.then_some(()).ok_or_else(|| format!("{} {}", ran.text(), ran.stderr))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_fails_degrades_and_all_of_them_fail_the_node() {
    let user = User::new();
    let dead = nobody();
    let infrastructure = Infrastructure::start().await;
    let mut found = Config::default();
    infrastructure.dht(&mut found);
    let dht =
        json!({ "pkarr_relays": [dead], "dht_bootstrap": found.discovery.dht_bootstrap, "mdns": false });
    user.write("config.yaml", config(&dead, &dht));
    // A busy machine may take too long over the one that works.
    let ran = eventually("the DHT answers", async || {
        let ran = doctor(user.home(), &nobody(), &["--json"]).await;
        if states(&ran)["dht"] == "ok" { Ok(ran) } else { Err(ran.text().to_owned()) }
    })
    .await;
    assert_eq!(ran.code, 4, "{} {}", ran.text(), ran.stderr);
    let states = states(&ran);
    for (layer, state) in [("relay", "fail"), ("pkarr_relays", "fail"), ("dht", "ok"), ("clock", "warn")] {
        assert_eq!(states[layer], state, "{layer}: {}", ran.text());
    }
    assert_eq!(ran.json()[0]["health"], json!("degraded"));

    // Nodes that do not answer.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let node = silent.local_addr().expect("an address").to_string();
    let none = json!({ "pkarr_relays": [dead], "dht_bootstrap": [node], "mdns": false });
    user.write("config.yaml", config("disabled", &none));
    // That they do not answer takes most of the time that there is to find it out.
    let ran = eventually("nobody answers", async || {
        let ran = doctor(user.home(), &nobody(), &[]).await;
        if ran.code == 1 { Ok(ran) } else { Err(format!("{} {}", ran.text(), ran.stderr)) }
    })
    .await;
    let lines: Vec<Vec<&str>> = ran.text().lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0], ["LAYER", "STATE", "WHAT", "WHAT_TO_DO"]);
    let of = |layer: &str| lines.iter().find(|line| line[0] == layer).expect(layer);
    assert_eq!((of("pkarr_relays")[1], of("dht")[1]), ("fail", "fail"), "{}", ran.text());
    assert!(of("pkarr_relays")[2].contains(&dead), "it says which: {}", ran.text());
    assert!(of("dht")[3].contains("firewall"), "and what to do: {}", ran.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_used_fails_the_node() {
    let user = User::new();
    let off = json!({ "pkarr_relays": [], "dht": false, "mdns": false });
    user.write(
        "config.yaml",
        config("disabled", &off).replace("disk_reserve_bytes: 0", "disk_reserve_bytes: 900 TiB"),
    );
    let ran = doctor(user.home(), &nobody(), &["--json"]).await;
    assert_eq!((ran.code, states(&ran)["store"].as_str()), (1, "fail"), "{}", ran.text());
    user.write(
        "config.yaml",
        format!("can_service_url: {}\nsync_api_key: k\n{}", nobody(), config("disabled", &off)),
    );
    let ran = doctor(user.home(), &nobody(), &["--json"]).await;
    assert_eq!((ran.code, states(&ran)["store"].as_str()), (1, "fail"), "{}", ran.text());

    user.write("config.yaml", config("disabled", &off));
    let daemon = FakeDaemon::start();
    daemon
        .change(|fake| fake.status = json!({ "store": { "healthy": false, "error": "disk\u{1b}[2J full" } }));
    let ran = doctor(user.home(), &daemon.url, &[]).await;
    assert_eq!(ran.code, 1, "{}", ran.text());
    assert!(ran.text().contains("disk\\u{1b}[2J full"), "{}", ran.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_says_how_its_channels_do() {
    let user = User::new();
    let off = json!({ "pkarr_relays": [], "dht": false, "mdns": false });
    user.write("config.yaml", config("disabled", &off));
    let agent = Agent::start().await;
    agent.set_peers(SyncState::InSync, vec![peer(2, "cellar", ConnectionState::InSync)]);
    let ran = doctor(user.home(), &agent.url(""), &[]).await;
    assert_eq!(ran.code, 0, "{} {}", ran.text(), ran.stderr);
    let line = |start: &str| ran.text().lines().find(|line| line.starts_with(start)).expect(start);
    assert!(
        line("daemon\tok\t")
            .contains("atelier 0.1.0, in sync: nothing is missing, with 1 peer; 1 peer connected"),
        "{}",
        ran.text()
    );
    assert!(line("daemon: tickets\tup\t").contains("1 agent found, last success"), "{}", ran.text());
    let ran = doctor(user.home(), &agent.url(""), &["--json"]).await;
    assert_eq!(ran.json()[0]["daemon"]["name"], json!("atelier"));

    agent.store.take_absent(vec![record_of(b"elsewhere")]).await.expect("taken");
    let ran = doctor(user.home(), &agent.url(""), &[]).await;
    let line = |start: &str| ran.text().lines().find(|line| line.starts_with(start)).expect(start);
    assert!(line("store\t").contains("1 asset, 1 of them known and not held here"), "{}", ran.text());
}
