//! What a start says and keeps.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml, yaml};
use crate::support::nodes::eventually;

/// Starts a node as a person would, stops it once it has said everything, and gives what it said.
fn visit(user: &User) -> Vec<String> {
    let mut running = user.follow(&["serve"]);
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("discovery")) {
        lines.push(running.line());
    }
    // Once it answers, what it has to say is said; a line more would be in the pipe before its end.
    running.signal(Signal::TERM);
    lines.extend(running.rest());
    assert_eq!(running.end(), Some(0));
    lines
}

fn field<'a>(lines: &'a [String], name: &str) -> &'a str {
    let line = lines.iter().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {lines:?}")).trim()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_first_start_prints_a_passphrase_once_and_keeps_who_it_is() {
    let user = User::new();
    user.write("config.yaml", yaml("can_listen_addr: 127.0.0.1:0"));
    let first = visit(&user);
    let id = field(&first, "endpoint id").to_owned();
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert!(field(&first, "store").starts_with("http://127.0.0.1:"), "{first:?}");
    assert!(field(&first, "web page").starts_with("http://127.0.0.1:"), "{first:?}");
    assert_eq!(field(&first, "discovery"), "tickets, gossip");

    let data = user.home().join("data");
    let kept = std::fs::read_to_string(data.join("passphrase")).unwrap();
    let kept = kept.trim();
    assert!(kept.split('-').count() >= 7, "{kept}");
    let printed: Vec<&String> = first.iter().filter(|line| line.contains(kept)).collect();
    assert_eq!(printed.len(), 1, "{first:?}");
    let command = format!("CAN_SYNC_SYNC_PASSPHRASE='{kept}' can-sync --bootstrap endpoint");
    assert!(printed[0].trim().starts_with(&command), "{printed:?}");
    assert_eq!(mode(&data), 0o700);
    for secret in ["passphrase", "secret.key", "sync_api_key"] {
        assert_eq!(mode(&data.join(secret)), 0o600, "{secret}");
    }

    let second = visit(&user);
    assert_eq!(field(&second, "endpoint id"), id);
    assert!(!second.iter().any(|line| line.contains(kept)), "{second:?}");
    assert_eq!(user.run(&["passphrase"]).text().trim(), kept);

    // What was printed is all that the next machine needs.
    let here = Daemon::start_as(user);
    let there = Daemon::start(&yaml(&format!("can_listen_addr: 127.0.0.1:0\nsync_passphrase: {kept}")));
    there.dial(&here).await;
    eventually("they know each other", async || {
        let status = there.get("/status").await;
        (status["peers"]["connected"] == 1).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    assert_eq!(here.get("/status").await["passphrase_origin"], "data_dir");
    assert_eq!(there.get("/status").await["passphrase_origin"], "config");
    assert!(!here.stderr().contains(kept) && !there.stderr().contains(kept), "never in a log");
}

#[tokio::test]
async fn the_start_is_also_for_programs() {
    let daemon = Daemon::start(&embedded_yaml("name: atelier"));
    let said = &daemon.started;
    assert_eq!(said["name"], "atelier");
    assert_eq!(said["passphrase_generated"], serde_json::Value::Null);
    // Everything else is switched off here.
    assert_eq!(said["discovery"], serde_json::json!(["tickets", "gossip"]));
    let status = daemon.get("/status").await;
    assert_eq!(status["endpoint_id"], said["endpoint_id"]);
    assert_eq!(status["store"]["url"], said["store_url"]);
    let page = said["page_url"].as_str().unwrap();
    let answer = daemon.http.get(page).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains("atelier"));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(daemon.http.get(daemon.url(path)).send().await.unwrap().status(), 200, "{path}");
    }
    let ticket = daemon.ok(&["id", "--ticket"]);
    assert_eq!(ticket.text().trim(), said["ticket"].as_str().unwrap());
}
