//! Real networks: everything between two agents passes a forwarder that delays, loses, repeats and reorders datagrams, is cut,
//! and changes its address.

use std::time::{Duration, Instant};

use crate::support::forwarder::{Link, Rate, Way};
use crate::support::nodes::{DEADLINE, TestNode, eventually, eventually_within};
use crate::support::path::Pair;
use crate::support::scoreboard;

const MIB: usize = 1 << 20;
/// A path that is whole again is used within this time.
const GOES_ON_WITHIN: Duration = Duration::from_mins(2);

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A way to somewhere in the same country.
fn country() -> Link {
    Link { delay: Duration::from_millis(10), jitter: Duration::from_millis(2), ..Link::default() }
}

/// Three megabytes per second, so that a transfer has a middle.
fn slow() -> Link {
    let rate = Rate::new(3_000_000, Duration::from_millis(50));
    Link { delay: Duration::from_millis(5), rate: Some(rate), ..Link::default() }
}

/// Both have something for the other one, then each stores something new.
async fn sync_and_live(link: Link, seed: u64) -> Option<Pair> {
    let pair = Pair::start([link; 2], seed).await?;
    let Pair { near, far, path } = &pair;
    for n in 0..30 {
        let node = if n % 2 == 0 { near } else { far };
        let len = [100, 5_000, 70_000][usize::try_from(n % 3).unwrap()];
        node.ingest(bytes(n, len), &[("tags", "one,two")]).await;
    }
    near.ingest(bytes(100, 5 * MIB), &[]).await;
    far.ingest(bytes(101, 3 * MIB), &[]).await;
    pair.dial().await;
    tokio::join!(near.holds(32), far.holds(32));
    pair.end_equal().await;

    for n in 200..220 {
        let (from, to) = if n % 2 == 0 { (near, far) } else { (far, near) };
        let content = bytes(n, 20_000);
        let hash = from.ingest(content.clone(), &[]).await;
        let there =
            eventually("a new asset", async || to.content(&hash).await.ok_or_else(|| hash.clone())).await;
        assert!(there == content);
    }
    pair.end_equal().await;
    // Nothing went past the forwarder.
    for (way, least) in [(Way::There, 5 * MIB), (Way::Back, 3 * MIB)] {
        let counts = path.counts(way);
        println!("{way:?}: {counts:?}");
        assert!(counts.passed_bytes > least as u64, "{counts:?}");
    }
    Some(pair)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_percent_loss_leaves_both_sides_equal() {
    let Some(pair) = sync_and_live(Link { loss: 0.05, ..country() }, 1).await else { return };
    for way in [Way::There, Way::Back] {
        let counts = pair.path.counts(way);
        assert!(counts.lost * 100 > counts.came * 2, "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_delivers_everything_twice_changes_nothing() {
    let Some(pair) = sync_and_live(Link { duplicate: 1.0, ..country() }, 2).await else { return };
    for way in [Way::There, Way::Back] {
        let counts = pair.path.counts(way);
        assert!(counts.passed >= counts.came * 3 / 2, "{counts:?}");
    }
    // What a datagram says twice is said once: the content crossed once.
    let received = |peer: serde_json::Value| peer["bytes_received"].as_u64().unwrap();
    let (near, far) = (pair.near.peer(&pair.far.id()).await, pair.far.peer(&pair.near.id()).await);
    let sizes = |assets: Vec<serde_json::Value>| {
        assets.iter().map(|asset| asset["size"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(received(near) + received(far), sizes(pair.near.assets().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_out_of_order_change_nothing() {
    let Some(pair) = sync_and_live(Link { reorder: 0.2, ..country() }, 3).await else { return };
    for way in [Way::There, Way::Back] {
        let counts = pair.path.counts(way);
        assert!(counts.overtaken * 10 > counts.came, "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_at_once_leaves_both_sides_equal() {
    let bad = Link {
        delay: Duration::from_millis(30),
        jitter: Duration::from_millis(30),
        loss: 0.03,
        duplicate: 0.1,
        reorder: 0.1,
        rate: Some(Rate::new(4_000_000, Duration::from_millis(100))),
    };
    let _ = sync_and_live(bad, 4).await;
}

/// As long as a way around half the world, and bad in every way.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_asset_arrives_over_a_long_and_bad_path() {
    let mib = scoreboard::number("CAN_SYNC_TEST_PATH_MIB", 100);
    let link = Link {
        delay: Duration::from_millis(50),
        jitter: Duration::from_millis(5),
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.05,
        rate: None,
    };
    let Some(pair) = Pair::start([link; 2], scoreboard::seed(8)).await else { return };
    pair.near.ingest(bytes(8, mib * MIB), &[]).await;
    let began = Instant::now();
    pair.dial().await;
    // A rate that falls as long as something is sent is slower than that before this much is there.
    let patience = DEADLINE * u32::try_from(mib.div_ceil(100)).expect("not that many");
    eventually_within(patience, "all of it", async || {
        let held = pair.far.held().await.len();
        (held == 1).then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let took = began.elapsed().as_secs_f64();
    pair.end_equal().await;
    let figure = format!("{mib} MiB over 100 ms there and back, 5 % lost, repeated, reordered: {took:.1} s");
    scoreboard::figure(true, &figure);
}

/// A transfer of this many bytes, half of it done; the asset's hash.
async fn half_done(from: &TestNode, to: &TestNode, len: usize) -> String {
    let hash = from.ingest(bytes(7, len), &[]).await;
    eventually("half of the asset", async || {
        let got = to.peer(&from.id()).await["bytes_received"].as_u64().unwrap_or(0);
        (got > len as u64 / 2).then_some(()).ok_or_else(|| format!("{got} of {len}"))
    })
    .await;
    assert!(to.content(&hash).await.is_none(), "it was too fast for what is to be tested");
    hash
}

/// The transfer ends soon, and little of it came twice: what was on its way, and less than a checkpoint.
async fn goes_on(pair: &Pair, from: &TestNode, to: &TestNode, hash: &str, len: usize, again: u64) {
    eventually_within(GOES_ON_WITHIN, "the rest of the asset", async || {
        to.content(hash).await.map(drop).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let got = to.peer(&from.id()).await["bytes_received"].as_u64().unwrap();
    println!("{got} bytes for {len}");
    assert!(got <= len as u64 + again, "{got} bytes for {len}");
    pair.end_equal().await;
}

async fn the_far_side_hears_from_another_address(upwards: bool, again: u64) {
    let Some(pair) = Pair::start([slow(); 2], 5).await else { return };
    pair.dial().await;
    pair.connected().await;
    let (from, to) = if upwards { (&pair.near, &pair.far) } else { (&pair.far, &pair.near) };
    let hash = half_done(from, to, 32 * MIB).await;
    pair.path.rebind();
    goes_on(&pair, from, to, &hash, 32 * MIB, again).await;
    assert!(pair.path.counts(Way::Back).passed > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_whose_address_changes_goes_on() {
    the_far_side_hears_from_another_address(true, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_address_changes_goes_on() {
    // The connection for contents stays with the old address, and another one takes its place: what had begun of a few groups
    // comes again.
    the_far_side_hears_from_another_address(false, MIB as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_gone_for_a_moment_is_used_again() {
    let Some(pair) = Pair::start([slow(); 2], 6).await else { return };
    pair.dial().await;
    pair.connected().await;
    let Pair { near, far, path } = &pair;
    let hash = half_done(near, far, 32 * MIB).await;
    path.cut();
    // Until both sides have tried again in vain.
    eventually("both sides send into nothing", async || {
        let cut = [Way::There, Way::Back].map(|way| path.counts(way).cut);
        (cut[0] > 20 && cut[1] > 0).then_some(()).ok_or_else(|| format!("{cut:?}"))
    })
    .await;
    path.heal();
    goes_on(&pair, near, far, &hash, 32 * MIB, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_dies_and_comes_back_is_dialled_anew() {
    let Some(pair) = Pair::start([slow(); 2], 7).await else { return };
    pair.dial().await;
    pair.connected().await;
    let Pair { near, far, path } = &pair;
    let hash = half_done(near, far, 32 * MIB).await;
    path.cut();
    for (node, other) in [(near, far), (far, near)] {
        eventually("the connection is given up", async || {
            let peer = node.peer(&other.id()).await;
            let over = ["waiting", "connecting", "backing_off"].iter().any(|state| peer["state"] == *state);
            over.then_some(()).ok_or_else(|| peer.to_string())
        })
        .await;
    }
    path.heal();
    // What was not yet in a checkpoint comes again.
    goes_on(&pair, near, far, &hash, 32 * MIB, 16 * MIB as u64).await;
}
