//! kill -9 of either side in the middle of one large asset: what was durable is not sent again.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::multipart::{Form, Part};
use sha2::{Digest as _, Sha256};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::scoreboard;

const SEED: u64 = 0x7061_7274_6961_6c73;
const BYTES: u64 = 120_000_000;
/// Slow enough that no kill comes too late.
const UPLOAD: &str = "disk_reserve_bytes: 0, upload_bytes_per_sec: 6 MiB";
const KILLS: u64 = 4;

fn start(name: &str, more: &str) -> Daemon {
    let yaml = embedded_yaml(&format!("name: {name}\n{more}"));
    Daemon::start(&yaml.replace("disk_reserve_bytes: 0", UPLOAD))
}

/// Bytes that the receiver got in this life of its process.
async fn received(to: &Daemon, from: &str) -> u64 {
    eventually("the receiver's count", async || {
        let peer = to.get(&format!("/peers/{from}")).await;
        peer["bytes_received"].as_u64().ok_or_else(|| peer.to_string())
    })
    .await
}

/// How much of the asset the receiver says to have.
async fn done(to: &Daemon, hash: &str) -> u64 {
    let transfers = to.get("/transfers").await;
    let ours =
        transfers["transfers"].as_array().into_iter().flatten().find(|transfer| transfer["hash"] == hash);
    ours.and_then(|transfer| transfer["done"].as_u64()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_durable_is_not_sent_again() {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut content = vec![0; usize::try_from(BYTES).unwrap()];
    random.fill(&mut content[..]);
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));

    let shared = tempfile::tempdir().unwrap();
    let ticket = shared.path().join("ticket");
    let mut from = start("from", &format!("ticket_file: {}", ticket.display()));
    let form = Form::new().part("file", Part::bytes(content).file_name("large.bin"));
    let answer = from.http.post(from.store_url("/ingest")).multipart(form).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let mut to = start("to", &format!("connect_ticket_file: {}", ticket.display()));

    let began = Instant::now();
    let mut in_earlier_lives = 0;
    for kill in 0..KILLS {
        // Somewhere in this fifth of the asset.
        let goal = BYTES / (KILLS + 1) * (kill + 1) + random.random_range(0..BYTES / (KILLS + 1) / 2);
        eventually("the transfer goes on", async || {
            let now = done(&to, &hash).await;
            (now >= goal).then_some(()).ok_or_else(|| format!("{now} of {goal}\n{}", to.stderr()))
        })
        .await;
        let got = received(&to, from.id()).await;
        assert!(done(&to, &hash).await > 0, "it was complete already");
        if kill % 2 == 1 {
            from = from.restart();
        } else {
            // What is on its way in this moment and nobody reads any more is at most the windows of the streams.
            in_earlier_lives += got;
            to = to.restart();
        }
        println!("kill {kill} at {goal} after {:?}: {got} received in this life", began.elapsed());
    }
    eventually("all of it", async || {
        let there = to.assets().await.len();
        let moving = to.get("/transfers").await;
        (there == 1).then_some(()).ok_or_else(|| format!("{moving}\n{}", to.stderr()))
    })
    .await;
    let got = in_earlier_lives + received(&to, from.id()).await;
    let stored = to.http.get(to.store_url(&format!("/asset/{hash}"))).send().await.unwrap();
    let stored = stored.bytes().await.unwrap();
    assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&stored)), hash);
    println!("seed {SEED:#x}: all there after {:?}", began.elapsed());
    scoreboard::figure(true, &format!("{KILLS} kills in a transfer: {got} bytes received for {BYTES}"));
    assert!(got * 100 <= BYTES * 105, "{got} bytes were received for {BYTES}");
    eventually("nothing is left lying", async || {
        let left: Vec<_> = std::fs::read_dir(to.data_dir().join("partial")).unwrap().collect();
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_proved_of_a_smaller_one_is_not_sent_again_either() {
    // Of each, how fast it comes, and after how much the receiver is killed.
    for (bytes, kib_per_sec, goal) in
        [(100 << 10, 12, 64 << 10), (1 << 20, 200, 400 << 10), (8 << 20, 1_600, 4 << 20)]
    {
        let mut content = vec![0; usize::try_from(bytes).unwrap()];
        StdRng::seed_from_u64(SEED ^ bytes).fill(&mut content[..]);
        let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));
        let shared = tempfile::tempdir().unwrap();
        let ticket = shared.path().join("ticket");
        let yaml = embedded_yaml(&format!("name: from\nticket_file: {}", ticket.display()));
        let upload = format!("disk_reserve_bytes: 0, upload_bytes_per_sec: {kib_per_sec} KiB");
        let from = Daemon::start(&yaml.replace("disk_reserve_bytes: 0", &upload));
        let form = Form::new().part("file", Part::bytes(content).file_name("small.bin"));
        let answer = from.http.post(from.store_url("/ingest")).multipart(form).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let mut to = start("to", &format!("connect_ticket_file: {}", ticket.display()));
        let before = eventually("the transfer goes on", async || {
            let now = done(&to, &hash).await;
            (now >= goal).then_some(now).ok_or_else(|| format!("{now} of {goal}\n{}", to.stderr()))
        })
        .await;
        assert!(before < bytes, "it was complete already");
        to = to.restart();
        eventually("all of it", async || {
            let there = to.assets().await.len();
            (there == 1).then_some(()).ok_or_else(|| to.stderr())
        })
        .await;
        let after = received(&to, from.id()).await;
        println!("{bytes} bytes: {before} were proved, {after} came afterwards");
        assert!(after <= bytes - before, "{after} of {bytes} after {before}");
    }
}
