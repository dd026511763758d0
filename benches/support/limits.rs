//! What the wire and the hash allow on this machine.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use can_sync::testing::net::endpoint;
use iroh::endpoint::Connection;
use iroh::{EndpointAddr, RelayMode, SecretKey, TransportAddr};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use super::{MIB, Result, noise, patience};

/// SHA-256 on one thread.
pub(crate) fn hashing(mib: u64) -> Duration {
    let block = vec![7; usize::try_from(MIB).expect("a megabyte")];
    let started = Instant::now();
    let mut sha256 = Sha256::new();
    (0..mib).for_each(|_| sha256.update(&block));
    std::hint::black_box(sha256.finalize());
    started.elapsed()
}

/// So much in a file of its own, until it is durable.
pub(crate) fn writing(dir: &Path, mib: u64) -> Result<Duration> {
    let (block, raw) = (noise(1, usize::try_from(MIB)?), dir.join("raw"));
    let began = Instant::now();
    let mut file = File::create(&raw)?;
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let took = began.elapsed();
    std::fs::remove_file(raw)?;
    Ok(took)
}

/// `total` bytes over so many streams of one connection on loopback, with the windows that agents use; nothing is done
/// with them.
pub(crate) async fn raw_streams(streams: u64, total: u64) -> Result<Duration> {
    tokio::time::timeout(patience(total), move_raw(1, streams, [total, 0])).await?
}

/// The same with half of the bytes each way at once, on one connection, or on `connections` of which the first carries what goes
/// there and the last what comes back.
pub(crate) async fn raw_both_ways(connections: usize, streams: u64, total: u64) -> Result<Duration> {
    tokio::time::timeout(patience(total), move_raw(connections, streams, [total / 2; 2])).await?
}

async fn move_raw(connections: usize, streams: u64, [there, back]: [u64; 2]) -> Result<Duration> {
    let bind = || endpoint::bind(SecretKey::generate(), ([127, 0, 0, 1], 0).into(), RelayMode::Disabled);
    let (near, far) = (bind().await?, bind().await?);
    let mut addr = EndpointAddr::new(far.id());
    addr.addrs.extend(far.bound_sockets().into_iter().map(TransportAddr::Ip));
    let answers = tokio::spawn(async move {
        let mut open = Vec::new();
        for _ in 0..connections {
            let server = endpoint::strangers_within_machine(&far);
            let connection = far.accept().await.ok_or("closed")?.accept_with(server)?.await?;
            endpoint::open_up(&connection, 8);
            open.push(connection);
        }
        let (first, last) = (&open[0], &open[connections - 1]);
        tokio::try_join!(read_all(first, streams, there), write_all(last, streams, back))?;
        // Whoever dialled closes once it has everything.
        first.closed().await;
        Result::Ok(())
    });
    let mut open = Vec::new();
    for _ in 0..connections {
        let connection = endpoint::connect(&near, addr.clone()).await?;
        endpoint::open_up(&connection, 8);
        open.push(connection);
    }
    let (first, last) = (&open[0], &open[connections - 1]);
    let started = Instant::now();
    tokio::try_join!(read_all(last, streams, back), write_all(first, streams, there))?;
    let took = started.elapsed();
    first.close(0_u32.into(), b"done");
    answers.await??;
    Ok(took)
}

/// Takes what comes over so many streams, if anything is to come.
async fn read_all(connection: &Connection, streams: u64, total: u64) -> Result<()> {
    let mut readers = JoinSet::new();
    for _ in (0..streams).filter(|_| total > 0) {
        let mut stream = connection.accept_uni().await?;
        readers.spawn(async move {
            while let Some(chunk) = stream.read_chunk(256 << 10).await? {
                std::hint::black_box(chunk);
            }
            Result::Ok(())
        });
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    Ok(())
}

/// Sends so many bytes over so many streams, until the other side has acknowledged all of them.
async fn write_all(connection: &Connection, streams: u64, total: u64) -> Result<()> {
    let share = total / streams;
    let chunk = bytes::Bytes::from(vec![7; usize::try_from(share.clamp(1, 256 << 10))?]);
    let mut writers = JoinSet::new();
    for _ in (0..streams).filter(|_| total > 0) {
        let (connection, chunk) = (connection.clone(), chunk.clone());
        writers.spawn(async move {
            let mut stream = connection.open_uni().await?;
            for _ in 0..share / chunk.len() as u64 {
                stream.write_chunk(chunk.clone()).await?;
            }
            stream.finish()?;
            stream.stopped().await?;
            Result::Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(())
}
