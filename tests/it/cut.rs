//! Two machines between which nothing passes for a while.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::netns::Routed;
use crate::support::nodes::eventually;
use crate::support::scoreboard;

/// What a machine says of the only other one.
fn other(daemon: &Daemon) -> serde_json::Value {
    daemon.ok(&["peers", "list", "--json"]).json().first().cloned().unwrap_or_default()
}

async fn are_together(daemons: [&Daemon; 2]) {
    for daemon in daemons {
        eventually("connected", async || {
            let peer = other(daemon);
            (peer["state"] == "in_sync").then_some(()).ok_or_else(|| peer.to_string())
        })
        .await;
    }
}

/// Two machines that are connected.
async fn connected(networks: &Routed, limits: &str) -> [Daemon; 2] {
    let [here, there] = networks.names();
    let start = |name: &str, network: &str| {
        let user = User::within(network);
        let yaml = embedded_yaml(&format!("name: {name}"))
            .replace("limits: { disk_reserve_bytes: 0 }", limits)
            .replace("bind_addr: 127.0.0.1:0", "bind_addr: 0.0.0.0:0");
        user.write("config.yaml", yaml);
        Daemon::start_given(user, &[], &[("RUST_LOG", "can_sync=debug")], b"")
    };
    let (a, b) = (start("attic", here), start("cellar", there));
    let ticket = a.ok(&["id", "--ticket"]).text().trim().to_owned();
    b.ok(&["peers", "add", &ticket]);
    are_together([&a, &b]).await;
    [a, b]
}

/// The back-off alone would keep them apart for five minutes after the first dial that failed.
#[tokio::test(flavor = "multi_thread")]
async fn machines_meet_soon_after_a_cut_whatever_the_back_off_says() {
    let Some(networks) = Routed::new() else { return };
    let limits = "limits: { dial_backoff_min_secs: 300, dial_backoff_max_secs: 300, disk_reserve_bytes: 0 }";
    let [a, b] = connected(&networks, limits).await;

    networks.forward(false);
    for daemon in [&a, &b] {
        eventually("it was dialled in vain", async || {
            let log = daemon.stderr();
            log.contains("a dial failed").then_some(()).ok_or(log)
        })
        .await;
    }
    networks.forward(true);
    are_together([&a, &b]).await;
}

/// What each of them has, by hash.
fn held(daemon: &Daemon) -> BTreeSet<String> {
    let listed = daemon.ok(&["list", "--all", "--json"]).json();
    listed.iter().map(|asset| asset["hash"].as_str().expect("a hash").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_sides_wrote_during_a_cut_is_everywhere_soon_after_it() {
    let Some(networks) = Routed::new() else { return };
    let rounds = scoreboard::number("CAN_SYNC_TEST_ROUNDS", 1);
    let daemons = connected(&networks, "limits: { disk_reserve_bytes: 0 }").await;
    let (mut all, mut slowest) = (BTreeSet::new(), Duration::ZERO);
    for round in 0..rounds {
        networks.forward(false);
        for daemon in &daemons {
            eventually("it notices", async || {
                let peer = other(daemon);
                (peer["state"] != "in_sync").then_some(()).ok_or_else(|| peer.to_string())
            })
            .await;
        }
        for (side, daemon) in daemons.iter().enumerate() {
            for n in 0..5 {
                let name = format!("{round}-{side}-{n}");
                daemon.user.write(&name, name.repeat(2_000 * n + 1));
                let path = daemon.user.home().join(&name).display().to_string();
                let put = daemon.ok(&["put", &path, "--json"]).json();
                all.insert(put[0]["hash"].as_str().expect("a hash").to_owned());
            }
        }
        let healed = Instant::now();
        networks.forward(true);
        for daemon in &daemons {
            eventually("everything is everywhere", async || {
                let now = held(daemon);
                (now == all).then_some(()).ok_or_else(|| format!("{} of {}", now.len(), all.len()))
            })
            .await;
        }
        slowest = slowest.max(healed.elapsed());
    }
    let figure =
        format!("{rounds} cuts: all {} assets on both within {} ms, 0 lost", all.len(), slowest.as_millis());
    scoreboard::figure(slowest <= Duration::from_secs(30), &figure);
}
