//! Two daemons that find each other through a ticket file, seen through the command line.

use rustix::process::Signal;

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;

#[tokio::test]
async fn what_is_put_into_one_is_got_from_the_other() {
    let shared = tempfile::tempdir().unwrap();
    let ticket = shared.path().join("ticket");
    let setting = |name: &str| format!("name: {name}\nreplicate_deletes: true\n");
    // The one that reads the file is there first.
    let b = Daemon::start(&embedded_yaml(&format!(
        "{}connect_ticket_file: {}",
        setting("cellar"),
        ticket.display()
    )));
    let mut a =
        Daemon::start(&embedded_yaml(&format!("{}ticket_file: {}", setting("attic"), ticket.display())));

    assert_eq!(a.ok(&["id"]).text().trim(), a.id());
    eventually("connected through the file", async || {
        let peers = b.ok(&["peers", "--json"]).json();
        let found = peers.iter().any(|peer| peer["endpoint_id"] == a.id() && peer["path"] == "direct");
        found.then_some(()).ok_or_else(|| format!("{peers:?}"))
    })
    .await;

    a.user.write("note.txt", "a note about otters\n");
    a.user.write("dir/deep/pixels.bin", vec![7; 300_000]);
    let put = a.ok(&["put", "note.txt", "--tags", "one,two", "--user", "ü", "--json"]).json();
    let note = put[0]["hash"].as_str().unwrap().to_owned();
    a.ok(&["put", "-r", "dir", "--application", "test"]);

    let waited = b.ok(&["wait", "--in-sync"]);
    assert_eq!(waited.text(), "in sync with 1 peer\n");
    assert_eq!(b.ok(&["get", &note]).stdout, b"a note about otters\n");
    b.ok(&["get", &note, "-o", "copy.txt"]);
    assert_eq!(std::fs::read(b.user.home().join("copy.txt")).unwrap(), b"a note about otters\n");
    let without_own = |daemon: &Daemon| {
        let mut listed = daemon.ok(&["list", "--json"]).json();
        for asset in &mut listed {
            let fields = asset.as_object_mut().unwrap();
            fields.remove("seq");
            fields.remove("updated_at");
        }
        listed
    };
    let listed = without_own(&b);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed, without_own(&a));
    for search in [&["search", "otters"][..], &["search", "--tags", "two,other"], &["search", "--user", "ü"]]
    {
        let mut args = search.to_vec();
        args.push("--json");
        let found = b.ok(&args).json();
        let hashes: Vec<_> = found.iter().filter_map(|asset| asset["hash"].as_str()).collect();
        let expected = if search[1] == "otters" { vec![] } else { vec![note.as_str()] };
        assert_eq!(hashes, expected, "{search:?}: q is about names and descriptions");
    }
    assert_eq!(b.ok(&["search", "pixels", "--json"]).json()[0]["size"], 300_000);

    let status = b.ok(&["status", "--json"]).json().remove(0);
    assert_eq!(status["name"], "cellar");
    assert_eq!(status["peers"]["connected"], 1);
    assert_eq!(status["store"]["assets"], 2);
    assert_eq!(status["discovery"]["tickets"]["state"], "up");
    let peers = b.ok(&["peers"]);
    assert!(
        peers.text().lines().any(|row| row.starts_with(a.id()) && row.contains("attic")),
        "{}",
        peers.text()
    );

    assert_eq!(b.ok(&["rm", &note]).text(), format!("deleted {note}\n"));
    eventually("gone on the other side too", async || {
        let got = a.run(&["get", &note]);
        (got.code == 6).then_some(()).ok_or_else(|| got.text().to_owned())
    })
    .await;
    assert_eq!(b.run(&["rm", &note]).code, 6, "there is no such thing any more");
    assert_eq!(a.run(&["list", "--json"]).json().len(), 1);
    a.signal(Signal::TERM);
    assert_eq!(a.end().await, Some(0));
    eventually("alone", async || {
        let ran = b.run(&["wait", "--in-sync", "--timeout", "0"]);
        (ran.code == 7 && ran.stderr.contains("no peer is connected")).then_some(()).ok_or(ran.stderr)
    })
    .await;
}

#[test]
fn commands_without_a_daemon_say_so() {
    let user = User::new();
    user.write("config.yaml", "listen_addr: 127.0.0.1:1\n");
    user.write("file", "");
    for args in [
        &["status"][..],
        &["peers"],
        &["id"],
        &["list"],
        &["put", "file"],
        &["search", "x"],
        &["wait", "--in-sync"],
    ] {
        let ran = user.run(args);
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("127.0.0.1:1") && ran.stderr.contains("can-sync"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn names_that_machines_gave_the_same_content_are_all_kept_until_somebody_takes_one_away() {
    let start = |name: &str| Daemon::start(&embedded_yaml(&format!("name: {name}")));
    let machines = [start("desk"), start("attic"), start("cellar")];
    for (machine, name) in machines.iter().zip(["a.jpg", "b.jpg", "c.jpg"]) {
        machine.user.write(name, "the same picture");
        machine.ok(&["put", name]);
    }
    let [desk, attic, cellar] = &machines;
    attic.dial(desk).await;
    cellar.dial(desk).await;
    let named = |machine: &Daemon| {
        let mut assets = machine.ok(&["list", "--json"]).json();
        assert_eq!(assets.len(), 1);
        let asset = assets.remove(0);
        let further = asset["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let mut all: Vec<String> = further.chain(asset["filename"].as_str().map(str::to_owned)).collect();
        all.sort();
        (all, asset["filename"].as_str().map(str::to_owned))
    };
    let agree = async |expected: &[&str]| {
        eventually(&format!("all know {expected:?}, and the same first"), async || {
            let all = [named(desk), named(attic), named(cellar)];
            let agreed = all.iter().all(|one| one.0 == expected && one.1 == all[0].1);
            agreed.then(|| all[0].1.clone().unwrap()).ok_or_else(|| format!("{all:?}"))
        })
        .await
    };
    let first = agree(&["a.jpg", "b.jpg", "c.jpg"]).await;
    for name in ["a.jpg", "b.jpg", "c.jpg"] {
        assert_eq!(attic.ok(&["get", name]).stdout, b"the same picture");
    }
    // Renamed on one: what it was called does not come back from the machine that called it so.
    desk.ok(&["edit", &first, "--name", "renamed.jpg"]);
    let mut left = vec!["a.jpg", "b.jpg", "c.jpg"];
    left.retain(|name| *name != first);
    agree(&[left[0], left[1], "renamed.jpg"]).await;
    // Taken away on another one, and put once more on a third.
    attic.ok(&["edit", left[0], "--remove-name", left[1]]);
    agree(&[left[0], "renamed.jpg"]).await;
    cellar.user.write(&first, "the same picture");
    let again = cellar.ok(&["put", &first]);
    assert!(again.stderr.contains(&format!("now also named {first}")), "{}", again.stderr);
    let mut back = [left[0], first.as_str(), "renamed.jpg"];
    back.sort_unstable();
    agree(&back).await;
    for machine in &machines {
        machine.wait_in_sync().await;
    }
}
