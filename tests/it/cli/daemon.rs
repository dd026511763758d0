//! Commands that ask the daemon how it is.

use serde_json::json;

use crate::support::command::{Ran, User};
use crate::support::fake_daemon::FakeDaemon;

fn run(daemon: &FakeDaemon, args: &[&str]) -> Ran {
    User::new().run_with(args, &[("CAN_SYNC_API", &daemon.url)], b"")
}

#[test]
fn status_is_for_people_and_for_programs() {
    let daemon = FakeDaemon::start();
    let text = run(&daemon, &["status"]);
    assert_eq!(text.code, 0, "{}", text.stderr);
    for expected in
        ["desk (abab", "0.1.0, up 61 s", "embedded at http://", "in sync", "1 connected, 2 known", "mdns: up"]
    {
        assert!(text.text().contains(expected), "{expected}: {}", text.text());
    }
    let json = run(&daemon, &["status", "--json"]);
    assert_eq!(json.json().len(), 1);
    assert_eq!(json.json()[0]["store"]["seq"], json!(3), "nothing is left out");
}

#[test]
fn a_degraded_node_is_exit_code_4_and_is_shown_all_the_same() {
    let daemon = FakeDaemon::start();
    daemon
        .change(|fake| fake.status = json!({ "store": { "healthy": false, "error": "disk\u{1b}[2J full" } }));
    let ran = run(&daemon, &["status"]);
    assert_eq!(ran.code, 4);
    assert!(ran.text().contains("not healthy"));
    assert!(ran.stderr.contains("degraded: disk\\u{1b}[2J full"), "{}", ran.stderr);
}

#[test]
fn what_the_daemon_refuses_has_its_exit_code() {
    let daemon = FakeDaemon::start();
    for (status, code) in [(401, 5), (403, 5), (421, 5), (404, 6), (503, 4), (504, 7), (500, 1), (400, 1)] {
        daemon.change(|fake| fake.refuse = Some((status, "no such luck")));
        let ran = run(&daemon, &["peers"]);
        assert_eq!(ran.code, code, "{status}");
        assert_eq!(ran.stderr, "can-sync: no such luck\n  try something else\n");
    }
    daemon.change(|fake| {
        fake.refuse = None;
        fake.foreign = true;
    });
    let ran = run(&daemon, &["peers"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is not the can-sync daemon"), "{}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn the_token_is_sent() {
    use std::os::unix::fs::PermissionsExt as _;

    let daemon = FakeDaemon::start();
    daemon.change(|fake| fake.token = Some("open-sesame"));
    assert_eq!(run(&daemon, &["id"]).code, 5);
    let user = User::new();
    user.write("token", "open-sesame\n");
    user.write("config.yaml", "api_token_file: token\n");
    let path = user.home().join("token");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let ran = user.run_with(&["id"], &[("CAN_SYNC_API", &daemon.url)], b"");
    assert_eq!((ran.code, ran.text()), (0, format!("{}\n", "ab".repeat(32)).as_str()), "{}", ran.stderr);
}

#[test]
fn id_prints_the_id_or_the_ticket() {
    let daemon = FakeDaemon::start();
    assert_eq!(run(&daemon, &["id", "--ticket"]).text(), "endpointticket\n");
    assert_eq!(run(&daemon, &["--json", "id"]).json()[0]["ticket"], json!("endpointticket"));
}

#[test]
fn wait_has_the_node_compare_and_returns_when_it_is_done() {
    let daemon = FakeDaemon::start();
    daemon.change(|fake| fake.in_sync_after = 3);
    let ran = run(&daemon, &["wait", "--in-sync"]);
    assert_eq!((ran.code, ran.text()), (0, "in sync with 1 peer\n"), "{}", ran.stderr);
    daemon.change(|fake| assert_eq!(fake.verified, 1));
}

#[test]
fn wait_gives_up_and_says_what_is_missing() {
    let daemon = FakeDaemon::start();
    daemon.change(|fake| {
        fake.in_sync_after = u32::MAX;
        fake.peers = vec![json!({ "endpoint_id": "cd", "missing_there": 5 })];
    });
    let ran = run(&daemon, &["wait", "--in-sync", "--timeout", "2"]);
    assert_eq!(ran.code, 7);
    assert!(
        ran.stderr.contains("not in sync after 2 s: syncing, 3 assets (2.0 KiB) missing"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("peers still lack 5"), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("waiting: syncing, 3 assets"), "no wait is silent: {}", ran.stderr);
    daemon.change(|fake| fake.status = json!({ "sync": { "state": "alone" } }));
    let alone = run(&daemon, &["wait", "--in-sync", "--timeout", "0"]);
    assert_eq!(alone.code, 7);
    assert!(
        alone.stderr.contains("no peer is connected") && alone.stderr.contains("peers add"),
        "{}",
        alone.stderr
    );
}

#[test]
fn peers_are_listed_without_what_acts_on_a_terminal() {
    let daemon = FakeDaemon::start();
    let empty = run(&daemon, &["peers"]);
    assert_eq!(empty.text().lines().count(), 1, "the heading alone");
    daemon.change(|fake| {
        fake.peers = vec![json!({
            "endpoint_id": "cd".repeat(32), "name": "evil\u{1b}]0;x\u{7}\tname", "state": "syncing", "path": "direct",
            "rtt_ms": 1.25, "missing_here": 1, "missing_there": 2, "last_seen": null, "last_error": "line\nbreak",
        })];
    });
    let ran = run(&daemon, &["peers"]);
    let row: Vec<&str> = ran.text().lines().nth(1).expect("a row").split('\t').collect();
    assert_eq!(row[0], "cd".repeat(32));
    assert_eq!(row[1], "evil\\u{1b}]0;x\\u{7}\\tname");
    assert_eq!(&row[2..7], ["syncing", "direct", "1.2", "1", "2"]);
    assert_eq!(row[8], "line\\nbreak");
    assert_eq!(run(&daemon, &["peers", "--json"]).json()[0]["name"], json!("evil\u{1b}]0;x\u{7}\tname"));
}

#[test]
fn peers_are_added_by_ticket_or_by_id() {
    let daemon = FakeDaemon::start();
    let id = "cd".repeat(32);
    let ran = run(&daemon, &["peers", "add", "endpointabc"]);
    assert_eq!((ran.code, ran.text()), (0, format!("connecting to {id}\n").as_str()), "{}", ran.stderr);
    run(&daemon, &["peers", "add", &id, "--addr", "127.0.0.1:9"]);
    assert_eq!(run(&daemon, &["peers", "add", "endpointabc", "--addr", "127.0.0.1:9"]).code, 2);
    daemon.change(|fake| {
        let expected =
            [json!({ "ticket": "endpointabc" }), json!({ "endpoint_id": id, "addrs": ["127.0.0.1:9"] })];
        assert_eq!(fake.dialled, expected);
    });
}

#[test]
fn events_are_printed_until_enough_or_the_end() {
    let daemon = FakeDaemon::start();
    let ran = run(&daemon, &["events", "--count", "2"]);
    let lines: Vec<&str> = ran.text().lines().collect();
    let expected = [
        "1970-01-01T00:00:00.000Z  peer_connected  name=a\\u{1b}[2Jb",
        "1970-01-01T00:00:01.500Z  asset_received  size=7",
    ];
    assert_eq!((ran.code, lines.as_slice()), (0, expected.as_slice()), "{}", ran.stderr);
    let json = run(&daemon, &["events", "--json", "--type", "asset_received", "--count", "1"]).json();
    assert_eq!((&json[0]["id"], &json[0]["data"]["size"]), (&json!("b-2"), &json!(7)));
    let ended = run(&daemon, &["events"]);
    assert_eq!((ended.code, ended.text().lines().count()), (3, 2), "{}", ended.stderr);
}
