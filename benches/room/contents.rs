//! Contents that go to a bucket and come from there.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use futures::{StreamExt as _, TryStreamExt as _};

use super::Bench;
use super::support::figures::{Runs, Table, mb_per_sec, ms, per_sec};
use super::support::{MIB, Noise, Result, eventually, noise, patience};

/// Uploads at once.
const AT_ONCE: usize = 32;
/// Ranges that are read, and how long each is.
const RANGES: u64 = 50;
const RANGE_BYTES: u64 = 65_536;

/// As many seeds as contents: none is used twice.
fn seeds(count: u64) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(count, Ordering::Relaxed)
}

/// The median, with the worst and the best behind it where there were several, in a unit of which more is better.
fn rates(runs: &Runs, unit: &str, of: impl Fn(Duration) -> f64) -> String {
    let [median, worst, best] = [runs.median(), runs.worst(), runs.best()].map(of);
    if runs.len() == 1 {
        format!("{median:.0} {unit}")
    } else {
        format!("{median:.0} {unit} ({worst:.0}–{best:.0})")
    }
}

/// So many uploads of so many bytes each, until all are acknowledged.
pub(crate) async fn many(bench: &Bench, table: &Table, count: usize, len: usize) -> Result<()> {
    let (mut ours, mut theirs) = (bench.no_runs(), Runs::new());
    let bytes = (count * len) as u64;
    for _ in 0..bench.runs {
        for (column, runs) in bench.columns.iter().zip(&mut ours) {
            let stored = column.new_store(bench.dir.join("many"))?;
            let contents = some(count, len);
            let store = stored.open(0).await?;
            let began = Instant::now();
            let uploads = futures::stream::iter(contents).map(|content| {
                let store = store.clone();
                async move { tokio::spawn(async move { upload(&store, [content]).await }).await? }
            });
            uploads.buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
            runs.add(began.elapsed());
            assert_eq!(store.status().await?.assets_held, count as u64, "all are there");
            store.close().await;
            stored.remove()?;
        }
        if let Some(rclone) = &bench.rclone {
            let files = bench.dir.join("files");
            for (n, content) in some(count, len).into_iter().enumerate() {
                write_file(&files.join(format!("{}/{n}", n % 256)), [content])?;
            }
            theirs.add(rclone.put(&files, bytes).await?.1);
            std::fs::remove_dir_all(files)?;
        }
    }
    let what = format!("ingest {count} × {} KiB, {AT_ONCE} at a time", len / 1024);
    bench.row(table, &what, &ours, &theirs, |runs| rates(runs, "/s", |took| per_sec(count, took)));
    Ok(())
}

/// What was measured of one large content.
struct Large {
    ingest: Vec<Runs>,
    first: Vec<Runs>,
    cold: Vec<Runs>,
    again: Vec<Runs>,
}

/// One large content: its way there, parts of it, all of it, and all of it again.
pub(crate) async fn large(bench: &Bench, table: &Table, bytes: u64) -> Result<()> {
    let mut ours = Large {
        ingest: bench.no_runs(),
        first: bench.no_runs(),
        cold: bench.no_runs(),
        again: bench.no_runs(),
    };
    let (mut put, mut got) = (Runs::new(), Runs::new());
    for _ in 0..bench.runs {
        for n in 0..bench.columns.len() {
            large_of(bench, n, bytes, &mut ours).await?;
        }
        if let Some(rclone) = &bench.rclone {
            let (files, back) = (bench.dir.join("files"), bench.dir.join("back"));
            write_large(&files.join("large"), bytes).await?;
            let (remote, took) = rclone.put(&files, bytes).await?;
            put.add(took);
            got.add(rclone.get(&remote, &back, bytes).await?);
            assert_eq!(std::fs::metadata(back.join("large"))?.len(), bytes, "all came back");
            std::fs::remove_dir_all(files)?;
            std::fs::remove_dir_all(back)?;
        }
    }
    let (mib, none) = (bytes / MIB, Runs::new());
    let rate = |runs: &Runs| rates(runs, "MB/s", |took| mb_per_sec(bytes, took));
    bench.row(table, &format!("ingest {mib} MiB"), &ours.ingest, &put, rate);
    bench.row(table, &format!("read {mib} MiB, empty cache"), &ours.cold, &got, rate);
    bench.row(table, &format!("read {mib} MiB again"), &ours.again, &none, rate);
    bench.row(table, "first byte of a range of 64 KiB, p50 / p99", &ours.first, &none, |runs| {
        format!("{:.1} / {:.1} ms", ms(runs.at(50)), ms(runs.at(99)))
    });
    Ok(())
}

async fn large_of(bench: &Bench, n: usize, bytes: u64, measured: &mut Large) -> Result<()> {
    let stored = bench.columns[n].new_store(bench.dir.join("large"))?;
    // It takes nothing that fills more than half of it.
    let cache_bytes = bytes * 2;
    let store = stored.open(cache_bytes).await?;
    let (hash, took) = upload_large(&store, bytes).await?;
    measured.ingest[n].add(took);
    store.close().await;

    stored.forget()?;
    let store = stored.open(cache_bytes).await?;
    for range in 0..RANGES {
        let (began, at) = (Instant::now(), range * 7919 % RANGES * ((bytes - RANGE_BYTES) / RANGES));
        let mut reader = store.content(hash, at, Some(RANGE_BYTES)).await?;
        let first = reader.chunks.try_next().await?.ok_or("an empty range")?;
        measured.first[n].add(began.elapsed());
        let rest = reader.chunks.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await?;
        assert_eq!((first.len() + rest) as u64, RANGE_BYTES);
    }
    store.close().await;

    stored.forget()?;
    let store = stored.open(cache_bytes).await?;
    measured.cold[n].add(read_all(&store, hash, bytes).await?);
    measured.again[n].add(read_all(&store, hash, bytes).await?);
    store.close().await;
    stored.remove()
}

/// The same where it is acknowledged before it is in the bucket.
pub(crate) async fn later(bench: &Bench, table: &Table, bytes: u64) -> Result<()> {
    let (mut acknowledged, mut up) = (bench.no_runs(), bench.no_runs());
    for _ in 0..bench.runs {
        for (n, column) in bench.columns.iter().enumerate().filter(|(_, column)| column.has_bucket()) {
            let stored = column.new_store(bench.dir.join("later"))?.written_back();
            let store = stored.open(0).await?;
            let began = Instant::now();
            upload_large(&store, bytes).await?;
            acknowledged[n].add(began.elapsed());
            eventually("nothing waits", patience(bytes), async || {
                let waiting = store.status().await?.waiting_uploads;
                let waiting = waiting.ok_or("the store does not say what waits")?;
                Ok((waiting.contents == 0).then_some(()))
            })
            .await?;
            up[n].add(began.elapsed());
            store.close().await;
            stored.remove()?;
        }
    }
    let (mib, none) = (bytes / MIB, Runs::new());
    let rate = |runs: &Runs| rates(runs, "MB/s", |took| mb_per_sec(bytes, took));
    bench.row(table, &format!("write_back {mib} MiB, acknowledged"), &acknowledged, &none, rate);
    bench.row(table, &format!("write_back {mib} MiB, all is up"), &up, &none, rate);
    Ok(())
}

/// Contents that were in no store yet.
fn some(count: usize, len: usize) -> Vec<Bytes> {
    let first = seeds(count as u64);
    (first..first + count as u64).map(|seed| noise(seed, len).into()).collect()
}

async fn upload(store: &EmbeddedStore, chunks: impl IntoIterator<Item = Bytes>) -> Result<ContentHash> {
    let mut upload = store.begin_upload();
    for chunk in chunks {
        upload.write(chunk).await?;
    }
    Ok(upload.finish(IngestFields::default()).await?.asset.record.hash)
}

/// Its hash, and how long it took until it was acknowledged.
async fn upload_large(store: &EmbeddedStore, bytes: u64) -> Result<(ContentHash, Duration)> {
    let content = Noise { seed: seeds(1), len: bytes };
    let began = Instant::now();
    let mut upload = store.begin_upload();
    let mut chunks = content.chunks();
    while let Some(chunk) = chunks.try_next().await? {
        upload.write(chunk).await?;
    }
    let ingested = upload.finish(IngestFields::default()).await?;
    Ok((ingested.asset.record.hash, began.elapsed()))
}

async fn read_all(store: &EmbeddedStore, hash: ContentHash, bytes: u64) -> Result<Duration> {
    let began = Instant::now();
    let reader = store.content(hash, 0, None).await?;
    let read = reader.chunks.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await?;
    assert_eq!(read as u64, bytes, "all of it is read");
    Ok(began.elapsed())
}

fn write_file(path: &Path, chunks: impl IntoIterator<Item = Bytes>) -> Result<()> {
    std::fs::create_dir_all(path.parent().ok_or("no directory")?)?;
    let mut file = std::fs::File::create(path)?;
    for chunk in chunks {
        file.write_all(&chunk)?;
    }
    Ok(())
}

async fn write_large(path: &Path, bytes: u64) -> Result<()> {
    let content = Noise { seed: seeds(1), len: bytes };
    // Slices of one block.
    let chunks: Vec<Bytes> = content.chunks().try_collect().await?;
    write_file(path, chunks)
}
