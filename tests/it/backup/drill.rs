//! A machine is lost, and restored from an old backup beside two that moved on.

use std::time::Instant;

use serde_json::{Value, json};

use super::{backup, filled, ingest, read, text};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::mounted::tell;
use crate::support::nodes::eventually;
use crate::support::store::noise;

async fn edit(daemon: &Daemon, hash: &str, description: &str) {
    let url = daemon.store_url(&format!("/asset/{hash}/meta"));
    let answer = daemon.http.patch(url).json(&json!({ "description": description })).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

async fn equal(nodes: [&Daemon; 3], count: usize) {
    eventually("all are equal", async || {
        let [a, b, c] = [nodes[0].assets().await, nodes[1].assets().await, nodes[2].assets().await];
        let same = a.len() == count && a == b && b == c && a.iter().all(|asset| asset["held"] == true);
        same.then_some(()).ok_or_else(|| format!("{} {} {} of {count}", a.len(), b.len(), c.len()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_comes_back_from_an_old_backup_and_catches_up() {
    let (a, contents) = filled(24).await;
    let (b, c) = (
        Daemon::start(&embedded_yaml("replicate_deletes: true")),
        Daemon::start(&embedded_yaml("replicate_deletes: true")),
    );
    b.dial(&a).await;
    c.dial(&a).await;
    c.dial(&b).await;
    equal([&a, &b, &c], 24).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    backup(&a, &dir, &[]);

    // They move on, the one that is going to be lost among them.
    let hashes: Vec<String> =
        contents.iter().map(|content| crate::support::store::hash_of(content).to_string()).collect();
    let mut new = Vec::new();
    for n in 0..30 {
        new.push(
            ingest([&a, &b, &c][n % 3], noise(if n % 2 == 0 { 500 } else { 150_000 }, 9000 + n as u64)).await,
        );
    }
    for (n, hash) in hashes[..6].iter().enumerate() {
        edit([&a, &b, &c][n % 3], hash, "after the backup").await;
    }
    a.ok(&["rm", &hashes[10]]);
    b.ok(&["rm", &hashes[11]]);
    equal([&a, &b, &c], 24 + 30 - 2).await;
    let expected = b.assets().await;

    let id = a.id().to_owned();
    let user = a.into_user();
    std::fs::remove_dir_all(user.home().join("data")).unwrap();
    let began = Instant::now();
    let ran = user.run(&["restore", text(&dir), "--data-dir", "data"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let restored_after = began.elapsed();
    let a = Daemon::start_as(user);
    assert_eq!(a.id(), id);
    // Something is put before it has met anybody.
    let early = ingest(&a, noise(90_000, 5)).await;
    edit(&a, &hashes[12], "after the loss").await;
    a.dial(&b).await;
    equal([&a, &b, &c], 24 + 30 - 2 + 1).await;
    let equal_after = began.elapsed();
    tell(&format!("restored after {restored_after:?}, equal after {equal_after:?}"));
    tokio::join!(a.wait_in_sync(), b.wait_in_sync(), c.wait_in_sync());
    let now = a.assets().await;
    let of = |assets: &[Value], hash: &str| assets.iter().find(|asset| asset["hash"] == hash).cloned();
    for asset in &expected {
        let hash = asset["hash"].as_str().unwrap();
        if hash == hashes[12] {
            assert_eq!(of(&now, hash).unwrap()["description"], "after the loss");
        } else {
            assert_eq!(of(&now, hash).as_ref(), Some(asset), "as the others had it");
        }
    }
    assert!(of(&now, &early).is_some() && of(&now, &hashes[10]).is_none() && of(&now, &hashes[11]).is_none());
    for hash in &new {
        let [a, b] = [read(&a, hash).await, read(&b, hash).await];
        assert!(a.is_some() && a == b);
    }
}
