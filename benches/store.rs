//! The embedded store beside what the machine can do at best, in one run: a table on standard output.
//!
//! `cargo bench --bench store` measures in a directory below the one that `CAN_SYNC_BENCH_DIR` names (the temporary
//! directory if unset): point it at the disk that counts.

#![allow(clippy::print_stdout, reason = "a table is what this program is for")]
#![allow(missing_docs, reason = "a program, not a library")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use can_sync::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::store::embedded::{EmbeddedConfig, EmbeddedStore, IngestFields, ListFilter, ListQuery};
use can_sync::store::{ContentStore, HashingFile, IncomingAsset, IncomingContent};
use comfy_table::Table;
use futures::TryStreamExt;
use futures::future::join_all;
use sha2::{Digest, Sha256};

const MIB: usize = 1024 * 1024;
const SMALL: usize = 10_000;
const MANY: usize = 100_000;
const BIG_MIB: usize = 1024;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Rows of what, ours, and the limit.
struct Report(Table);

impl Report {
    fn add(&mut self, what: &str, ours: String, limit: String) {
        self.0.add_row([what.to_owned(), ours, limit]);
    }
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let root = std::env::var_os("CAN_SYNC_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(root)?;
    let mut report = Report(Table::new());
    report.0.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header([
        "work",
        "embedded store",
        "limit of this machine",
    ]);
    runtime.block_on(async {
        small(&dir.path().join("small"), &mut report).await?;
        big(&dir.path().join("big"), &mut report).await?;
        many(&dir.path().join("many"), &mut report).await
    })?;
    println!("{}", report.0);
    Ok(())
}

async fn open(dir: &Path) -> Outcome<EmbeddedStore> {
    Ok(EmbeddedStore::open(EmbeddedConfig { dir: dir.to_owned(), disk_reserve_bytes: 0 }).await?)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn rate(n: usize, elapsed: Duration) -> f64 {
    n as f64 / elapsed.as_secs_f64()
}

fn per_second(n: usize, elapsed: Duration) -> String {
    format!("{:.0}/s", rate(n, elapsed))
}

fn mb_per_second(bytes: usize, elapsed: Duration) -> String {
    format!("{:.0} MB/s", rate(bytes, elapsed) / 1e6)
}

fn incoming(content: &[u8], meta: AssetMeta) -> IncomingAsset {
    let hash = ContentHash(Sha256::digest(content).into());
    let record = AssetRecord::new(hash, content.len() as u64, None, meta);
    IncomingAsset { record, content: IncomingContent::Bytes(Bytes::copy_from_slice(content)) }
}

/// Appends of `len` bytes, each made durable.
fn durable_appends(dir: &Path, len: usize, count: usize) -> Outcome<Duration> {
    let mut file = File::create(dir.join("appends"))?;
    let block = noise(len, 0);
    let began = Instant::now();
    for _ in 0..count {
        file.write_all(&block)?;
        file.sync_data()?;
    }
    Ok(began.elapsed())
}

async fn small(dir: &Path, report: &mut Report) -> Outcome<()> {
    let store = open(dir).await?;
    let appends = per_second(1000, durable_appends(dir, 4096, 1000)?);
    let contents: Vec<Bytes> = (0..SMALL as u64).map(|i| noise(4096, i).into()).collect();

    for writers in [1, 32] {
        let count = if writers == 1 { 1000 } else { SMALL };
        let before = store.commits();
        let began = Instant::now();
        let tasks = (0..writers).map(|writer| {
            let (store, contents) = (store.clone(), contents.clone());
            tokio::spawn(async move {
                for content in contents.iter().take(count).skip(writer).step_by(writers) {
                    // Not the content of the other measurement.
                    let mut changed = content.to_vec();
                    changed[0] ^= u8::try_from(writers).unwrap_or(u8::MAX);
                    let mut upload = store.begin_upload();
                    upload.write(changed.into()).await?;
                    upload.finish(IngestFields::default()).await?;
                }
                Ok::<_, can_sync::store::StoreError>(())
            })
        });
        for done in join_all(tasks).await {
            done??;
        }
        let elapsed = began.elapsed();
        let commits = store.commits() - before;
        report.add(
            &format!("upload {count} × 4 KiB, {writers} at a time, durable ({commits} commits)"),
            per_second(count, elapsed),
            format!("{appends} durable appends of 4 KiB"),
        );
    }

    let batches: Vec<Vec<IncomingAsset>> = contents
        .chunks(1000)
        .map(|chunk| chunk.iter().map(|content| incoming(content, AssetMeta::default())).collect())
        .collect();
    let began = Instant::now();
    for batch in batches {
        store.ingest(batch).await?;
    }
    report.add(
        &format!("ingest {SMALL} × 4 KiB from a peer, batches of 1,000"),
        per_second(SMALL, began.elapsed()),
        format!("{appends} durable appends of 4 KiB"),
    );

    let hashes: Vec<ContentHash> = contents.iter().map(|c| ContentHash(Sha256::digest(c).into())).collect();
    let began = Instant::now();
    let mut found = 0;
    for chunk in hashes.chunks(1000) {
        found += store.contents_inline(chunk.to_vec()).await?.len();
    }
    assert_eq!(found, SMALL, "all small contents are read back");
    report.add("read small contents for packing", per_second(SMALL, began.elapsed()), String::new());
    store.close().await;
    Ok(())
}

async fn big(dir: &Path, report: &mut Report) -> Outcome<()> {
    let store = open(dir).await?;
    let block = Bytes::from(noise(MIB, 1));
    let began = Instant::now();
    let mut sha256 = Sha256::new();
    (0..256).for_each(|_| sha256.update(&block));
    let hashing = mb_per_second(256 * MIB, began.elapsed());
    drop(sha256);

    let raw = dir.join("raw");
    let began = Instant::now();
    let mut file = File::create(&raw)?;
    for _ in 0..BIG_MIB {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let writing = mb_per_second(BIG_MIB * MIB, began.elapsed());
    drop(file);
    std::fs::remove_file(raw)?;

    let limit = format!("SHA-256 {hashing} on one core; write and fsync {writing}");
    let began = Instant::now();
    let mut upload = store.begin_upload();
    for _ in 0..BIG_MIB * 16 {
        upload.write(block.slice(..MIB / 16)).await?;
    }
    let big = upload.finish(IngestFields::default()).await?;
    report.add(
        "upload 1 GiB in chunks of 64 KiB, durable",
        mb_per_second(BIG_MIB * MIB, began.elapsed()),
        limit.clone(),
    );

    let began = Instant::now();
    let mut file = HashingFile::create(dir)?;
    for i in 0..BIG_MIB as u64 {
        // Different from the upload, so that the store has to take it.
        let chunk = if i == 0 { noise(MIB, 2).into() } else { block.clone() };
        file.write(chunk).await?;
    }
    let received = file.finish().await?;
    let record = AssetRecord::new(received.sha256, received.size, None, AssetMeta::default());
    store.ingest(vec![IncomingAsset { record, content: IncomingContent::File(received) }]).await?;
    report.add("receive 1 GiB from a peer, durable", mb_per_second(BIG_MIB * MIB, began.elapsed()), limit);

    let began = Instant::now();
    let reader = store.content(big.asset.record.hash, 0, None).await?;
    let read: usize = reader.chunks.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await?;
    assert_eq!(read, BIG_MIB * MIB);
    report.add("read 1 GiB from the page cache", mb_per_second(read, began.elapsed()), String::new());
    store.close().await;
    Ok(())
}

async fn many(dir: &Path, report: &mut Report) -> Outcome<()> {
    let store = open(dir).await?;
    let began = Instant::now();
    for start in (0..MANY).step_by(1000) {
        let batch = (start..start + 1000).map(|i| {
            let meta = AssetMeta {
                mime_type: ["image/png", "text/plain", "video/mp4"][i % 3].into(),
                filename: Some(format!("file number {i}.dat")),
                application: (i % 10 == 0).then(|| "camera".into()),
                tags: vec![format!("tag {}", i % 100)],
                created_at_ms: 1_700_000_000_000 + i as u64,
                ..AssetMeta::default()
            };
            incoming(&(i as u64).to_le_bytes(), meta)
        });
        store.ingest(batch.collect()).await?;
    }
    report.add(
        &format!("ingest {MANY} tiny assets from a peer"),
        per_second(MANY, began.elapsed()),
        String::new(),
    );
    store.close().await;

    let began = Instant::now();
    let store = open(dir).await?;
    report.add(&format!("open a store of {MANY} assets"), format!("{:.1?}", began.elapsed()), String::new());

    let text = |text: &str| Some(text.to_owned());
    let none = ListFilter::default;
    let filters = [
        ("list the newest 50", none()),
        ("by application (1 in 10)", ListFilter { application: text("camera"), ..none() }),
        ("by a tag (1 in 100)", ListFilter { tags: vec!["tag 7".into()], ..none() }),
        ("by media type (1 in 3)", ListFilter { mime_prefix: text("image/"), ..none() }),
        ("by words in the name", ListFilter { q: text("NUMBER 4242"), ..none() }),
        (
            "by application and tag",
            ListFilter { application: text("camera"), tags: vec!["tag 10".into()], ..none() },
        ),
    ];
    for (what, filter) in filters {
        let began = Instant::now();
        let page = store.list(ListQuery { filter, ..ListQuery::default() }).await?;
        let total = page.total;
        report.add(
            &format!("{what}, of {MANY}: {total} match"),
            format!("{:.1?}", began.elapsed()),
            String::new(),
        );
    }

    let began = Instant::now();
    let (mut since, mut seen) = (0, 0);
    loop {
        let page = store.feed(since, 1000).await?;
        let Some(last) = page.entries.last() else { break };
        since = last.seq;
        seen += page.entries.len();
    }
    report.add("read the whole feed", per_second(seen, began.elapsed()), String::new());
    store.close().await;
    Ok(())
}
