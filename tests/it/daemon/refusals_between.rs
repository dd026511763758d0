//! Why two machines that are there have no session: what each of them is told, wherever it looks.

use serde_json::Value;

use crate::support::daemon::{Daemon, embedded_yaml, yaml};
use crate::support::nodes::eventually;

fn start(name: &str, more: &str) -> Daemon {
    Daemon::start(&embedded_yaml(&format!("name: {name}\n{more}")))
}

/// The peer of this id, as `peers list` has it.
fn peer(daemon: &Daemon, id: &str) -> Option<Value> {
    daemon.ok(&["peers", "list", "--json"]).json().into_iter().find(|peer| peer["endpoint_id"] == id)
}

/// Waits until a daemon shows a peer in a state, and says so with this sentence in its list, its status, on its page and by its
/// doctor.
async fn tells(daemon: &Daemon, id: &str, state: &str, sentence: &str) {
    eventually(sentence, async || {
        let shown = peer(daemon, id);
        let is_so = shown.as_ref().is_some_and(|peer| {
            peer["state"] == state && peer["last_error"].as_str().is_some_and(|why| why.contains(sentence))
        });
        is_so.then_some(()).ok_or_else(|| format!("{shown:?}"))
    })
    .await;
    let status = daemon.run(&["status"]);
    assert!(status.text().contains(sentence), "{}", status.text());
    let (what, _) = sentence.split_once(": ").unwrap_or((sentence, ""));
    let doctor = daemon.run(&["doctor"]);
    assert!(doctor.text().contains(what), "{what}: {}", doctor.text());
    let page = daemon.http.get(daemon.url("/")).send().await.unwrap().text().await.unwrap();
    let shown = what.replace('\'', "&#39;");
    assert!(page.contains(&shown), "{shown}");
}

async fn connected(one: &Daemon, other: &Daemon) {
    for (daemon, id) in [(one, other.id()), (other, one.id())] {
        eventually("connected", async || {
            let shown = peer(daemon, id);
            let is_connected =
                shown.as_ref().is_some_and(|peer| peer["path"] == "direct" && peer["state"] == "in_sync");
            is_connected.then_some(()).ok_or_else(|| format!("{shown:?}"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_machine_that_waits_for_approval_is_told_so_and_comes_at_once() {
    let (desk, laptop) = (start("desk", "approve_devices: true\n"), start("laptop", ""));
    laptop.dial(&desk).await;
    let short = |daemon: &Daemon| daemon.id()[..10].to_owned();
    let approve = format!("can-sync approve {}", short(&laptop));
    tells(&desk, laptop.id(), "approval_wanted", &format!("waits for your approval: `{approve}`")).await;
    tells(&laptop, desk.id(), "not_approved", &format!("this machine waits for approval there: `{approve}`"))
        .await;
    let waited = laptop.run(&["wait", "--in-sync", "--timeout", "0"]);
    assert!(
        waited.stderr.contains("no peer is connected; ") && waited.stderr.contains("waits for approval"),
        "{}",
        waited.stderr
    );
    // By the beginning of its id, as it was said.
    let before = std::time::Instant::now();
    assert_eq!(desk.ok(&["approve", &short(&laptop)]).text(), format!("approved {}\n", laptop.id()));
    connected(&desk, &laptop).await;
    println!("connected {:?} after the approval", before.elapsed());

    // The one that was let in dials nobody: what brought it in was the other one's dial.
    desk.ok(&["deny", "laptop"]);
    tells(&desk, laptop.id(), "denied", &format!("you denied it: `{approve}`")).await;
    tells(&laptop, desk.id(), "denied_there", &format!("this machine was denied there: `{approve}`")).await;
    desk.ok(&["approve", "laptop"]);
    connected(&desk, &laptop).await;
}

#[tokio::test]
async fn another_passphrase_is_said_on_both_sides() {
    let desk = start("desk", "");
    let other =
        "sync_passphrase: quite another set of words for tests\ncan_listen_addr: 127.0.0.1:0\nname: other\n";
    let other = Daemon::start(&yaml(other));
    other.dial(&desk).await;
    tells(&other, desk.id(), "other_passphrase", "it does not know our passphrase: compare what").await;
    // It has nobody in its list: whoever only knocked is nobody. What happened is said all the same.
    eventually("it says who knocked", async || {
        let status = desk.ok(&["status"]);
        let said = format!("does not know our passphrase ({})", &other.id()[..10]);
        status.text().contains(&said).then_some(()).ok_or_else(|| status.text().to_owned())
    })
    .await;
    assert!(peer(&desk, other.id()).is_none());
}

#[tokio::test]
async fn a_peer_that_is_forgotten_stays_so_over_a_restart() {
    let (desk, mut cellar) = (start("desk", ""), start("cellar", ""));
    desk.dial(&cellar).await;
    connected(&desk, &cellar).await;
    cellar.kill();
    assert_eq!(desk.run(&["peers", "forget", "attic"]).code, 6);
    assert_eq!(desk.ok(&["peers", "forget", "CELLAR"]).text(), format!("forgot {}\n", cellar.id()));
    let unknown = async |desk: &Daemon| {
        eventually("nobody is known", async || {
            let peers = desk.ok(&["peers", "list", "--json"]).json();
            peers.is_empty().then_some(()).ok_or_else(|| format!("{peers:?}"))
        })
        .await;
    };
    unknown(&desk).await;
    let desk = desk.restart();
    unknown(&desk).await;
    let status = desk.ok(&["status"]);
    assert!(status.text().contains("no other machine is known yet"), "{}", status.text());
}

#[tokio::test]
async fn a_revoked_ticket_is_said_on_both_sides() {
    let desk = start("desk", "");
    let guest =
        "sync_passphrase: quite another set of words for tests\ncan_listen_addr: 127.0.0.1:0\nname: guest\n";
    let guest = Daemon::start(&yaml(guest));
    desk.user.write("a.txt", "text");
    desk.ok(&["put", "a.txt"]);
    desk.ok(&["library", "create", "texts", "--mime-prefix", "text/"]);
    let taken = desk.run(&["library", "create", "TEXTS", "--mime-prefix", "text/"]);
    assert_eq!(taken.code, 1);
    assert!(
        taken.stderr.contains("is called 'TEXTS' already") && !taken.stderr.contains("GET"),
        "{}",
        taken.stderr
    );
    let ticket = desk.ok(&["library", "invite", "texts"]).text().lines().next().unwrap().to_owned();
    guest.ok(&["join", &ticket]);
    connected(&desk, &guest).await;
    let tickets = desk.ok(&["library", "ticket", "list", "texts"]);
    assert!(tickets.text().contains("texts\t1\tread\tany\tnever"), "{}", tickets.text());
    assert_eq!(guest.run(&["library", "ticket", "list", "texts"]).code, 5);
    desk.ok(&["library", "revoke", "texts", "--serial", "1"]);
    tells(&desk, guest.id(), "ticket_refused", "its ticket does not let it in").await;
    tells(&guest, desk.id(), "ticket_refused", "was revoked").await;
    assert!(desk.ok(&["library", "ticket", "list"]).text().contains("revoked"));
}
