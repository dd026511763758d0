//! A mass deletion on one machine, as whoever has the other one meets it: on the command line, over HTTP, after restarts.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;

/// Assets that are put, and deleted at once.
const PUT: usize = 40;
/// Of those, the deletions that need nobody's confirmation.
const FREE: usize = 20;

fn start(name: &str, more: &str) -> Daemon {
    Daemon::start(&embedded_yaml(&format!("name: {name}\n{more}")))
}

/// Puts small files, and says their hashes.
fn put(daemon: &Daemon, prefix: &str, count: usize) -> Vec<String> {
    for n in 0..count {
        daemon.user.write(&format!("{prefix}/{n:02}.txt"), format!("{prefix} number {n}\n"));
    }
    let put = daemon.ok(&["put", "-r", prefix, "--json"]).json();
    let hashes: Vec<String> =
        put.iter().filter_map(|asset| asset["hash"].as_str()).map(str::to_owned).collect();
    assert_eq!(hashes.len(), count);
    hashes
}

fn delete(daemon: &Daemon, hashes: &[String]) {
    let mut args = vec!["rm", "--yes"];
    args.extend(hashes.iter().map(String::as_str));
    daemon.ok(&args);
}

/// Waits until a daemon's store lists so many assets.
async fn lists(daemon: &Daemon, count: usize) {
    eventually("so many assets", async || {
        let found = daemon.assets().await.len();
        (found == count).then_some(()).ok_or_else(|| format!("{found}, not {count}"))
    })
    .await;
}

/// Waits until so many deletions are held back, and nothing else is missing.
async fn holds(daemon: &Daemon, held: usize) -> Value {
    eventually("deletions are held back", async || {
        let status = daemon.get("/status").await;
        let sync = &status["sync"];
        let expected = sync["held_deletions"] == held && sync["state"] == "deletions_held";
        expected.then(|| status.clone()).ok_or_else(|| status.to_string())
    })
    .await
}

fn held(daemon: &Daemon) -> Vec<Value> {
    daemon.ok(&["deletions", "--json"]).json()
}

/// One that deletes, and one that holds most of it back.
async fn two() -> (Daemon, Daemon, Vec<String>) {
    let (desk, cellar) = (start("desk", ""), start("cellar", "replicate_deletes: true\n"));
    cellar.dial(&desk).await;
    let hashes = put(&desk, "notes", PUT);
    lists(&cellar, PUT).await;
    delete_most(&desk, &cellar, &hashes).await;
    (desk, cellar, hashes)
}

/// Deletes what needs nobody's confirmation and, once it is gone, the rest, of which nothing goes.
async fn delete_most(desk: &Daemon, cellar: &Daemon, hashes: &[String]) {
    let (free, more) = hashes.split_at(FREE);
    let left = cellar.assets().await.len() - FREE;
    delete(desk, free);
    lists(cellar, left).await;
    delete(desk, more);
    holds(cellar, more.len()).await;
    lists(cellar, left).await;
}

#[tokio::test]
async fn a_budget_that_is_spent_is_spent_after_a_crash() {
    let (desk, cellar) = (start("desk", ""), start("cellar", "replicate_deletes: true\n"));
    cellar.dial(&desk).await;
    let hashes = put(&desk, "notes", PUT);
    lists(&cellar, PUT).await;
    delete(&desk, &hashes[..FREE]);
    lists(&cellar, PUT - FREE).await;
    // kill -9
    let cellar = cellar.restart();
    assert_eq!(cellar.get("/deletions").await["held"], 0);
    delete(&desk, &hashes[FREE..]);
    desk.dial(&cellar).await;
    holds(&cellar, PUT - FREE).await;
    lists(&cellar, PUT - FREE).await;
    cellar.hear("too much would be deleted at once");
}

#[tokio::test]
async fn a_mass_deletion_waits_over_restarts_until_it_is_confirmed() {
    let (desk, cellar, _) = two().await;
    let status = cellar.ok(&["status"]);
    for part in ["nothing is missing", "20 deletions by peers held back", "can-sync deletions"] {
        assert!(status.text().contains(part), "{part}: {}", status.text());
    }
    let waited = cellar.run(&["wait", "--in-sync"]);
    assert_eq!(waited.code, 4, "{}", waited.stderr);
    assert!(
        waited.stderr.contains("20 deletions") && waited.stderr.contains("can-sync deletions"),
        "{}",
        waited.stderr
    );
    // Whoever deleted has nothing to wait for.
    assert_eq!(desk.ok(&["wait", "--in-sync"]).text(), "in sync with 1 peer\n");
    let listed = held(&cellar);
    assert_eq!(listed.len(), 1);
    let (id, hold) = (listed[0]["id"].as_str().unwrap().to_owned(), &listed[0]);
    assert_eq!(
        (&hold["count"], &hold["from"], &hold["device"]),
        (&json!(20), &json!("desk"), &json!(desk.id()))
    );
    assert_eq!(hold["library"], Value::Null);
    assert!(hold["examples"][0]["filename"].as_str().unwrap().contains(".txt"), "{hold}");
    let doctor = cellar.run(&["doctor"]);
    assert!(
        doctor.text().contains("20 deletions by peers held back")
            && doctor.text().contains("can-sync deletions"),
        "{}",
        doctor.text()
    );
    let metrics = cellar.http.get(cellar.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("\ncan_sync_held_deletions 20\n"), "{metrics}");
    let told =
        cellar.ok(&["events", "--since", "0", "--type", "deletions_held", "--count", "1", "--json"]).json();
    assert_eq!(told[0]["data"]["source"], format!("device {}", desk.id()), "{told:?}");
    let table = cellar.ok(&["deletions", "list"]);
    assert!(
        table.text().contains("HOLD") && table.text().contains("desk") && table.text().contains(&id),
        "{}",
        table.text()
    );
    let page = cellar.http.get(cellar.url("/page/live")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("20 deletions waiting for your decision") && page.contains(&id), "{page}");

    // Restarted, and once more after a crash, it knows; and the budget is not new either.
    let mut cellar = cellar;
    cellar.signal(Signal::TERM);
    assert_eq!(cellar.end().await, Some(0));
    for _ in 0..2 {
        cellar = cellar.restart();
        let status = cellar.get("/status").await;
        assert_eq!(status["sync"]["held_deletions"], 20, "{status}");
        assert_eq!(held(&cellar)[0]["id"], id);
        desk.dial(&cellar).await;
        holds(&cellar, PUT - FREE).await;
        assert_eq!(cellar.assets().await.len(), FREE);
    }
    assert_eq!(cellar.run(&["deletions", "confirm", "00000000"]).code, 6);
    let confirmed = cellar.ok(&["deletions", "confirm"]);
    assert_eq!(confirmed.text(), "confirmed 20 deletions\n");
    lists(&cellar, 0).await;
    cellar.wait_in_sync().await;
    eventually("no decision is kept that is of no use", async || {
        let list = cellar.get("/deletions").await;
        (list["confirmed"] == 0 && list["held"] == 0).then_some(()).ok_or_else(|| list.to_string())
    })
    .await;
    assert_eq!(cellar.run(&["deletions", "confirm"]).code, 6, "nothing waits");
}

#[tokio::test]
async fn what_is_confirmed_while_nobody_is_there_goes_when_they_meet() {
    let (desk, cellar, _) = two().await;
    let desk_user = desk.into_user();
    eventually("the desk is gone", async || {
        let status = cellar.get("/status").await;
        (status["sync"]["state"] == "alone").then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    let answer = cellar.http.post(cellar.url("/deletions/confirm")).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["data"]["released"], 20, "without a body, everything: {answer}");
    let cellar = cellar.restart();
    assert_eq!(cellar.get("/deletions").await["confirmed"], 20);
    assert!(cellar.ok(&["deletions"]).stderr.contains("20 confirmed deletions"));
    assert_eq!(cellar.assets().await.len(), FREE);
    let desk = Daemon::start_as(desk_user);
    desk.dial(&cellar).await;
    lists(&cellar, 0).await;
}

#[tokio::test]
async fn what_is_rejected_stays_here_and_is_asked_about_no_more() {
    let (desk, cellar, hashes) = two().await;
    assert_eq!(cellar.ok(&["deletions", "reject"]).text(), "rejected 20 deletions\n");
    let mut cellar = cellar;
    for _ in 0..2 {
        cellar.wait_in_sync().await;
        assert_eq!(cellar.ok(&["wait", "--in-sync"]).text(), "in sync with 1 peer\n");
        assert_eq!((cellar.assets().await.len(), held(&cellar).len()), (FREE, 0));
        assert_eq!(cellar.get("/deletions").await["rejected"], 20);
        assert_eq!(desk.assets().await.len(), 0);
        cellar = cellar.restart();
        desk.dial(&cellar).await;
    }
    // Edited here, it is newer than its deletion, and lives everywhere again.
    let kept = cellar.assets().await[0]["hash"].as_str().unwrap().to_owned();
    assert!(hashes.contains(&kept));
    let edit = cellar.http.patch(cellar.store_url(&format!("/asset/{kept}/meta")));
    let edited = edit.json(&json!({ "description": "kept" })).send().await.unwrap();
    assert!(edited.status().is_success());
    lists(&desk, 1).await;
    // What was edited is told to peers, and written down here, side by side.
    eventually("one is rejected no more", async || {
        let list = cellar.get("/deletions").await;
        (list["rejected"] == 19).then_some(()).ok_or_else(|| list.to_string())
    })
    .await;
}

#[tokio::test]
async fn what_is_restored_lives_everywhere_again() {
    let (desk, cellar, _) = two().await;
    let restored = cellar.ok(&["deletions", "reject", "--restore", "--json"]).json();
    assert_eq!(restored[0], json!({ "rejected": 20, "restored": 20 }));
    lists(&desk, PUT - FREE).await;
    cellar.wait_in_sync().await;
    desk.wait_in_sync().await;
    assert_eq!(cellar.assets().await.len(), PUT - FREE);
    assert_eq!(desk.assets().await, cellar.assets().await);
}

#[tokio::test]
async fn one_hold_stops_no_other_and_each_is_decided_by_itself() {
    let cellar = start("cellar", "replicate_deletes: true\n");
    let (desk, phone) = (start("desk", ""), start("phone", ""));
    for daemon in [&desk, &phone] {
        daemon.dial(&cellar).await;
    }
    let first = put(&desk, "first", PUT);
    let second = put(&phone, "second", PUT);
    for daemon in [&cellar, &desk, &phone] {
        lists(daemon, 2 * PUT).await;
    }
    delete_most(&desk, &cellar, &first).await;
    // Those from elsewhere go through; then they are too many, too.
    delete(&phone, &second[..FREE]);
    lists(&cellar, 2 * (PUT - FREE)).await;
    delete(&phone, &second[FREE..]);
    eventually("both are held back", async || {
        let listed = held(&cellar);
        let counts: u64 = listed.iter().filter_map(|hold| hold["count"].as_u64()).sum();
        (listed.len() == 2 && counts == 40).then_some(()).ok_or_else(|| format!("{listed:?}"))
    })
    .await;
    let listed = held(&cellar);
    let id = |name: &str| {
        let hold = listed.iter().find(|hold| hold["from"] == name);
        hold.unwrap_or_else(|| panic!("{listed:?}"))["id"].as_str().unwrap().to_owned()
    };
    let unnamed = cellar.run(&["deletions", "confirm"]);
    assert_eq!(unnamed.code, 2, "{}", unnamed.stderr);
    assert!(unnamed.stderr.contains("--all"), "{}", unnamed.stderr);
    assert_eq!(cellar.ok(&["deletions", "confirm", &id("phone")]).text(), "confirmed 20 deletions\n");
    lists(&cellar, PUT - FREE).await;
    let left: Vec<Value> = held(&cellar);
    assert_eq!((left.len(), &left[0]["from"]), (1, &json!("desk")));
    assert_eq!(cellar.ok(&["deletions", "confirm", "--all"]).text(), "confirmed 20 deletions\n");
    lists(&cellar, 0).await;
}
