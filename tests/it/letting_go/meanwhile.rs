//! What users say while contents are let go of: whom they shut out, what they bind and pin.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{daemon_connected, marked, put, said};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::store::hash_of;

/// A laptop, a desk and a cellar that are connected with each other.
async fn three_daemons() -> [Daemon; 3] {
    let names = ["laptop", "desk", "cellar"];
    let [laptop, desk, cellar] = names.map(|name| Daemon::start(&embedded_yaml(&format!("name: {name}"))));
    for other in [&desk, &cellar] {
        laptop.dial(other).await;
    }
    desk.dial(&cellar).await;
    for daemon in [&laptop, &desk, &cellar] {
        daemon_connected(daemon, 2).await;
    }
    [laptop, desk, cellar]
}

/// Waits until the command of a daemon is over; how it ended.
async fn daemon_over(daemon: &Daemon) -> Value {
    eventually("it is over", async || {
        let stands = daemon.get("/drops").await;
        (stands["running"] == false).then_some(stands.clone()).ok_or_else(|| stands.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_shut_out_meanwhile_does_not_count_whatever_it_promised() {
    let [laptop, desk, cellar] = three_daemons().await;
    let hash = put(&laptop, "a.txt", &[&desk, &cellar]).await;

    // One has promised, and the other one does not answer yet.
    cellar.signal(Signal::STOP);
    let answer = laptop.post("/drops", &json!({ "hashes": [hash] })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    eventually("the desk has promised it", async || {
        let why = desk.get(&format!("/why/{hash}")).await;
        let promised = why["promised_to"].as_array().is_some_and(|all| !all.is_empty());
        promised.then_some(()).ok_or_else(|| why.to_string())
    })
    .await;
    laptop.post(&format!("/devices/{}/deny", desk.id()), &json!({})).await;
    cellar.signal(Signal::CONT);
    let stands = daemon_over(&laptop).await;
    assert_eq!((&stands["dropped"], &stands["kept"]), (&json!(0), &json!(1)), "{stands}");
    assert!(said(&stands).contains("2 promises from other places are needed, there are 1"), "{stands}");
    assert!(laptop.ok(&["list", "--held"]).text().contains(&hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_folder_has_that_is_bound_meanwhile_stays_and_so_does_what_is_pinned_then() {
    let [laptop, desk, cellar] = three_daemons().await;
    let pinned = put(&laptop, "b.txt", &[&desk, &cellar]).await;
    let dropped = put(&laptop, "c.txt", &[&desk, &cellar]).await;
    desk.user.write("notes/a.txt", "a file of a folder");
    desk.ok(&["folder", "add", "notes"]);
    let in_folder = hash_of(b"a file of a folder").to_string();
    for daemon in [&laptop, &cellar] {
        eventually("it is held, and its folder known", async || {
            let listed = daemon.ok(&["list", "--held"]).text().to_owned();
            let known = daemon.get("/folders").await["known"].to_string();
            let is_there = listed.contains(&in_folder) && known.contains("notes");
            is_there.then_some(()).ok_or_else(|| format!("{listed} {known}"))
        })
        .await;
    }
    let hashes = [&in_folder, &pinned, &dropped];

    // Nobody answers until both are wanted.
    desk.signal(Signal::STOP);
    cellar.signal(Signal::STOP);
    let answer = laptop.post("/drops", &json!({ "hashes": hashes })).await;
    assert_eq!((&answer["status"], &answer["data"]["contents"]), (&json!("success"), &json!(3)), "{answer}");
    eventually("all are marked", async || match marked(&laptop) {
        3 => Ok(()),
        n => Err(format!("{n} are")),
    })
    .await;
    std::fs::create_dir(laptop.user.home().join("notes")).expect("a directory");
    laptop.ok(&["folder", "add", "notes"]);
    laptop.ok(&["pin", &pinned]);
    desk.signal(Signal::CONT);
    cellar.signal(Signal::CONT);
    let stands = daemon_over(&laptop).await;
    assert_eq!((&stands["dropped"], &stands["kept"]), (&json!(1), &json!(2)), "{stands}");
    let listed = laptop.ok(&["list", "--held"]).text().to_owned();
    let held = hashes.map(|hash| listed.contains(hash.as_str()));
    assert_eq!(held, [true, true, false], "{stands}");
    let text = stands["contents"].to_string();
    assert_eq!(text.matches("it was pinned, or a library or a bound folder has it").count(), 2, "{text}");
}
