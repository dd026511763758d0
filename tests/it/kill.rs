//! kill -9 in the middle of a transfer: nothing is lost, nothing is altered, nothing is left lying about.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and sizes of a test, none of them large or negative"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::scoreboard;

/// For the moments at which processes are killed, and for what is stored.
const SEED: u64 = 0x6361_6e2d_7379_6e63;
const ASSETS: usize = 150;
const KILLS: usize = 6;
/// Of the smallest and of the largest asset.
const BYTES: (f64, f64) = (100.0, 3_000_000.0);
/// What the assets have together.
const TOTAL_BYTES: usize = 60_000_000;

/// Contents of mixed sizes, as many small as large ones by the logarithm, that add up to [`TOTAL_BYTES`].
fn contents(random: &mut StdRng) -> Vec<Vec<u8>> {
    let (least, most) = BYTES;
    let mut sizes: Vec<f64> =
        (0..ASSETS).map(|_| least * (most / least).powf(random.random::<f64>())).collect();
    // The larger ones are made larger still until the sum is right.
    while sizes.iter().sum::<f64>() < TOTAL_BYTES as f64 {
        for size in sizes.iter_mut().filter(|size| **size > 30_000.0) {
            *size = (*size * 1.05).min(most);
        }
    }
    sizes
        .into_iter()
        .map(|size| {
            let mut content = vec![0; size as usize];
            random.fill(&mut content[..]);
            content
        })
        .collect()
}

async fn ingest(daemon: &Daemon, number: usize, content: Vec<u8>) -> String {
    let form = Form::new()
        .text("application", "kill")
        .text("tags", format!("even-{},all", number.is_multiple_of(2)))
        .text("description", format!("number {number}"))
        .part("file", Part::bytes(content).file_name(format!("{number}.bin")));
    let answer =
        daemon.http.post(daemon.store_url("/ingest")).multipart(form).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.expect("JSON");
    answer["data"]["hash"].as_str().expect("a hash").to_owned()
}

async fn count(daemon: &Daemon) -> u64 {
    eventually("the store answers", async || {
        let status = daemon.get("/status").await;
        status["store"]["assets"].as_u64().ok_or_else(|| status.to_string())
    })
    .await
}

/// Waits until a node that began with half of the assets has received this share of the others.
async fn received(daemon: &Daemon, share: f64) {
    let goal = (ASSETS as f64 * f64::midpoint(1.0, share)) as u64;
    eventually("some assets arrive", async || {
        let now = count(daemon).await;
        (now >= goal).then_some(()).ok_or_else(|| format!("{now} of {goal}"))
    })
    .await;
}

fn files(dir: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.path().display().to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_both_end_with_everything() {
    let (rounds, seed) = (scoreboard::number("CAN_SYNC_TEST_ROUNDS", 1), scoreboard::seed(SEED));
    let mut ready = Vec::new();
    for round in 0..rounds {
        ready.extend(killed_in_a_transfer(seed.wrapping_add(round)).await);
    }
    ready.sort_unstable();
    let p95 = ready[(ready.len() * 95).div_ceil(100) - 1];
    let figure = format!("{} kills in transfers: 0 lost, ready again within {p95} ms (p95)", ready.len());
    scoreboard::figure(p95 <= 2_000, &figure);
}

/// Kills either end of one transfer again and again. How long each took until it was ready again, in milliseconds.
async fn killed_in_a_transfer(seed: u64) -> Vec<u128> {
    let began = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let contents = contents(&mut random);
    let total: usize = contents.iter().map(Vec::len).sum();
    println!("seed {seed:#x}, {} assets, {total} bytes", contents.len());

    let shared = tempfile::tempdir().unwrap();
    let ticket = shared.path().join("ticket");
    // As slow as it takes to be seen in the middle, even by somebody who rarely gets to look.
    let yaml = |more: &str| {
        embedded_yaml(more)
            .replace("disk_reserve_bytes: 0", "disk_reserve_bytes: 0, upload_bytes_per_sec: 8 MiB")
    };
    let a = Daemon::start(&yaml(&format!("name: a\nticket_file: {}", ticket.display())));
    // It looks for the ticket once it is there: nothing moves while the assets are stored.
    let late = shared.path().join("late");
    let b = Daemon::start(&yaml(&format!("name: b\nconnect_ticket_file: {}", late.display())));
    let acknowledged: BTreeMap<String, usize> = futures::stream::iter(contents.into_iter().enumerate())
        .map(|(number, content)| {
            let daemon = if number % 2 == 0 { &a } else { &b };
            async move { (ingest(daemon, number, content).await, number) }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    assert_eq!(acknowledged.len(), ASSETS);
    let stored = began.elapsed();

    std::fs::rename(&ticket, &late).unwrap();
    let mut sides = [Some(a), Some(b)];
    let (mut ready, mut in_the_middle) = (Vec::new(), 0);
    for kill in 0..KILLS {
        let victim = kill % 2;
        let watched = sides[random.random_range(0..2)].as_ref().unwrap();
        received(watched, (kill as f64 + random.random::<f64>()) / (KILLS + 1) as f64).await;
        // The moment itself is what is random, not a condition to wait for.
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        let mut killed = sides[victim].take().unwrap();
        killed.kill();
        let missing = ASSETS as u64 - count(sides[1 - victim].as_ref().unwrap()).await;
        in_the_middle += usize::from(missing > 0);
        println!("kill {kill} after {:?}, the other one lacks {missing}", began.elapsed());
        let restarted = killed.restart();
        ready.push(restarted.ready_after.as_millis());
        sides[victim] = Some(restarted);
    }
    let [Some(a), Some(b)] = sides else { panic!("both run") };
    println!("ready again after {ready:?} ms");
    assert!(in_the_middle * 2 >= KILLS, "only {in_the_middle} kills came before the end of the transfer");

    for daemon in [&a, &b] {
        eventually("everything is everywhere", async || {
            let n = daemon.assets().await.len();
            (n == ASSETS).then_some(()).ok_or_else(|| format!("{n} assets; {}", daemon.stderr()))
        })
        .await;
    }
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    let (of_a, of_b) = (a.assets().await, b.assets().await);
    assert_eq!(of_a, of_b, "the same metadata");
    for asset in &of_a {
        let hash = asset["hash"].as_str().unwrap();
        let number = acknowledged[hash];
        assert_eq!(asset["description"], format!("number {number}"));
        assert_eq!(asset["filename"], format!("{number}.bin"));
        for daemon in [&a, &b] {
            let content = daemon.http.get(daemon.store_url(&format!("/asset/{hash}"))).send().await.unwrap();
            let content = content.bytes().await.unwrap();
            assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&content)), hash);
        }
    }
    // Also while they run: nothing is under way any more.
    let homes: Vec<User> = [a, b].map(Daemon::into_user).into();
    for home in homes {
        let data = home.home().join("data");
        for place in ["partial", "store/tmp"] {
            assert_eq!(files(&data.join(place)), Vec::<String>::new(), "{place}");
        }
        let odd: Vec<String> = files(&data).into_iter().filter(|name| name.contains("data/.tmp")).collect();
        assert_eq!(odd, Vec::<String>::new());
    }
    println!("{KILLS} kills; stored after {stored:?}, all done after {:?}", began.elapsed());
    ready
}
