//! What people type: the README's walk as it is written there, and the same with the program.

use serde_json::Value;

use crate::support::daemon::{Daemon, yaml};
use crate::support::nodes::eventually;

const README: &str = include_str!("../../../README.md");
const PORTS: [&str; 2] = ["127.0.0.1:3210", "127.0.0.1:3213"];

fn daemon(passphrase: &str) -> Daemon {
    Daemon::start(&yaml(&format!("sync_passphrase: {passphrase}\ncan_listen_addr: 127.0.0.1:0")))
}

fn two() -> [Daemon; 2] {
    [daemon("seven sleepy otters juggle quiet lanterns tonight"), daemon(super::OTHER)]
}

/// The README's commands for one machine.
fn commands(machine: &str) -> &'static str {
    let start = README.find(&format!("```sh\n# {machine}\n")).expect("its block") + "```sh\n".len();
    let block = &README[start..];
    &block[..block.find("```").expect("its end")]
}

/// Runs them where the machine's ports are others.
fn run(daemon: &Daemon, commands: &str) -> String {
    let authority =
        |url: &str| url.split("://").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
    let started = &daemon.started;
    let store = authority(started["store_url"].as_str().unwrap_or_default()).expect("the store's address");
    let page = authority(started["page_url"].as_str().unwrap_or_default()).expect("the API's address");
    let script = commands.replace(PORTS[0], &store).replace(PORTS[1], &page);
    let ran = std::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(daemon.user.home())
        .output()
        .expect("bash runs");
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_walk_works_as_written() {
    let [desk, laptop] = two();
    // No text, so that its name says what it is.
    desk.user.write("photo.png", vec![0; 70_000]);
    run(&desk, commands("desk"));
    let ticket = std::fs::read(desk.user.home().join("ticket.txt")).unwrap();
    laptop.user.write("ticket.txt", ticket);
    let mut lines = commands("laptop").lines().filter(|line| line.starts_with("curl"));
    let (join, look) = (lines.next().expect("a join"), lines.collect::<Vec<_>>().join("\n"));
    let joined: Value = serde_json::from_str(&run(&laptop, join)).unwrap();
    assert_eq!(joined["data"]["name"], "images", "{joined}");
    eventually("the picture is listed on the laptop", async || {
        let seen = run(&laptop, &look);
        let there = seen.contains("photo.png") && seen.contains("\"state\":\"in_sync\"");
        there.then_some(()).ok_or(seen)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_the_same() {
    let [desk, laptop] = two();
    // No text, so that its name says what it is.
    desk.user.write("photo.png", vec![0; 70_000]);
    let put = desk.ok(&["put", "photo.png", "--json"]).json();
    let hash = put[0]["hash"].as_str().unwrap().to_owned();
    let dry = desk.ok(&["library", "create", "images", "--mime-prefix", "image/", "--dry-run"]);
    assert!(dry.text().contains("1 asset"), "{}", dry.text());
    let none = desk.ok(&["library", "list", "--json"]);
    assert!(none.json().is_empty());
    let made = desk.ok(&["library", "create", "images", "--mime-prefix", "image/"]);
    assert!(made.text().contains("with 1 asset"), "{}", made.text());
    let invited = desk.ok(&["library", "invite", "images", "--expires", "1d", "--uses", "1", "--qr"]);
    let ticket = invited.text().lines().next().unwrap().to_owned();
    assert!(ticket.starts_with("canlib") && invited.text().contains('█'), "{}", invited.text());
    let looked = laptop.ok(&["join", &ticket, "--dry-run"]);
    assert!(looked.text().contains("'images' with 1 asset"), "{}", looked.text());
    let joined = laptop.ok(&["join", &ticket]);
    assert!(joined.text().contains("joined 'images'"), "{}", joined.text());
    eventually("the content is there", async || {
        let got = laptop.run(&["get", &hash]);
        (got.stdout == vec![0; 70_000]).then_some(()).ok_or(got.stderr)
    })
    .await;
    eventually("the member is listed", async || {
        let shown = desk.ok(&["library", "show", "images"]);
        shown.text().contains(laptop.id()).then_some(()).ok_or_else(|| shown.text().to_owned())
    })
    .await;
    desk.ok(&["library", "revoke", "images", "--serial", "1"]);
    eventually("the laptop is told", async || {
        let listed = laptop.ok(&["library", "list"]);
        listed.text().contains("revoked").then_some(()).ok_or_else(|| listed.text().to_owned())
    })
    .await;
    laptop.ok(&["library", "delete", "images"]);
    assert_eq!(laptop.run(&["library", "show", "images"]).code, 6);
    assert_eq!(laptop.run(&["join", "nonsense"]).code, 1);
    assert_eq!(laptop.ok(&["get", &hash]).stdout.len(), 70_000, "it keeps what it has");
    for what in ["deny", "approve"] {
        let own = desk.run(&[what, desk.id()]);
        assert!(own.code == 1 && own.stderr.contains("this machine's own id"), "{}", own.stderr);
    }
    assert_eq!(desk.run(&["deny", "b"]).code, 2);
    assert_eq!(desk.run(&["events", "--since", "x"]).code, 2);
    desk.ok(&["deny", laptop.id()]);
    assert!(desk.ok(&["devices"]).text().contains("denied"));
    desk.ok(&["approve", laptop.id()]);
    assert!(desk.ok(&["devices"]).text().contains("approved"));
}
