//! What each congestion controller makes of each path: one stream alone, how much longer the round trip is meanwhile because of what
//! it keeps in the bottleneck's queue, and what overflows there; both ways at once; and the share that it gets within some
//! seconds beside another stream that began before it, with Cubic and with the same controller. Half is fair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use can_sync::testing::net::SESSION_ALPN;
use noq_proto::congestion::{Bbr3Config, CubicConfig};

use super::raw::{self, Controller, Far};
use super::support::figures::{Runs, Table, mb_per_sec, ms, ratio};
use super::support::{MIB, Result};
use super::{Args, Path};

/// Before the second of two streams begins; and for how long both are looked at from then on.
const HEAD_START: Duration = Duration::from_secs(3);
const BESIDE: Duration = Duration::from_secs(8);

fn candidates() -> [(&'static str, Controller); 2] {
    [("Cubic", Arc::new(CubicConfig::default())), ("BBR3", Arc::new(Bbr3Config::default()))]
}

pub(super) async fn compare(args: &Args, paths: impl Iterator<Item = &Path>) -> Result<()> {
    let title = format!("one raw stream, {} MiB, MB/s", args.mib);
    let alone = [("controller", 10), ("median", 8), ("worst", 8), ("queue", 9), ("overflow", 9)];
    let others = [("both ways", 10), ("beside Cubic", 13), ("beside its like", 16)];
    let table = Table::new(&[&[(&*title, 30)][..], &alone, &others].concat());
    let bytes = args.mib * MIB;
    for path in paths {
        for (name, controller) in candidates() {
            let [mut alone, mut round_trips, mut both] = [const { Runs::new() }; 3];
            let [mut overflowed, mut cubic, mut like] = [const { Vec::new() }; 3];
            for seed in args.seed..args.seed + args.runs {
                let one = || Arc::clone(&controller);
                let sent = raw::one_way(path, seed, bytes, Some(one())).await?;
                alone.add(sent.took);
                round_trips.add(sent.round_trip);
                overflowed.push(sent.overflowed);
                both.add(raw::both_ways(path, seed, bytes, Some(one())).await?);
                cubic.push(share(path, seed, [Arc::new(CubicConfig::default()), one()]).await?);
                like.push(share(path, seed, [one(), one()]).await?);
            }
            let waits = round_trips.median().saturating_sub(Duration::from_millis(path.round_trip_ms));
            table.row(&[
                path.name.to_owned(),
                name.to_owned(),
                format!("{:.2}", mb_per_sec(bytes, alone.median())),
                format!("{:.2}", mb_per_sec(bytes, alone.worst())),
                format!("{:.1} ms", ms(waits)),
                format!("{:.2} %", median(overflowed) * 100.0),
                format!("{:.2}", mb_per_sec(bytes, both.median())),
                format!("{:.0} %", median(cubic) * 100.0),
                format!("{:.0} %", median(like) * 100.0),
            ]);
        }
    }
    Ok(())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

/// How much of what both move a stream gets beside one that began before it.
async fn share(path: &Path, seed: u64, [first, second]: [Controller; 2]) -> Result<f64> {
    let far = Far::start(path, seed, None).await?;
    let mut ends = Vec::new();
    for (controller, head_start) in [(first, HEAD_START), (second, Duration::ZERO)] {
        let near = raw::bind("127.0.0.1:0", Some(controller)).await?;
        let connection = near.connect(far.addr.clone(), SESSION_ALPN).await?;
        let taken = Arc::new(AtomicU64::default());
        tokio::spawn(raw::write_on(connection.clone(), Arc::clone(&taken)));
        tokio::time::sleep(head_start).await;
        ends.push((near, connection, taken));
    }
    let taken = || -> Vec<u64> { ends.iter().map(|(_, _, taken)| taken.load(Ordering::Relaxed)).collect() };
    let before = taken();
    tokio::time::sleep(BESIDE).await;
    let moved: Vec<u64> = taken().iter().zip(before).map(|(after, before)| after - before).collect();
    for (near, connection, _) in ends {
        connection.close(0_u32.into(), b"done");
        near.close().await;
    }
    far.close().await;
    Ok(ratio(moved[1], moved[0] + moved[1]))
}
