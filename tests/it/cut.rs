//! Two machines between which nothing passes for a while.

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::netns::Routed;
use crate::support::nodes::eventually;

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

/// The back-off alone would keep them apart for five minutes after the first dial that failed.
#[tokio::test(flavor = "multi_thread")]
async fn machines_meet_soon_after_a_cut_whatever_the_back_off_says() {
    let Some(networks) = Routed::new() else { return };
    let [here, there] = networks.names();
    let start = |name: &str, network: &str| {
        let user = User::within(network);
        let limits =
            "limits: { dial_backoff_min_secs: 300, dial_backoff_max_secs: 300, disk_reserve_bytes: 0 }";
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
