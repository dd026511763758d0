//! Stores that are filled once and then used by many agents.

use std::path::Path;

use bytes::Bytes;
use can_sync::testing::clock::Clock;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore};
use can_sync::testing::store::{ContentStore, IncomingAsset, IncomingContent};
use sha2::{Digest as _, Sha256};

use super::{Result, noise};

pub(crate) async fn open(dir: &Path) -> Result<EmbeddedStore> {
    Ok(EmbeddedStore::open(EmbeddedConfig {
        dir: dir.to_owned(),
        disk_reserve_bytes: 0,
        clock: Clock::system(),
    })
    .await?)
}

/// An asset as it comes from a peer.
pub(crate) fn incoming(content: Vec<u8>, meta: AssetMeta) -> IncomingAsset {
    let hash = ContentHash(Sha256::digest(&content).into());
    let record = AssetRecord::new(hash, content.len() as u64, None, meta);
    IncomingAsset { record, content: IncomingContent::Bytes(Bytes::from(content)) }
}

/// Stores so many assets of so many bytes each, with names, types and tags, as a collection has them.
pub(crate) async fn fill(store: &EmbeddedStore, assets: usize, bytes: usize) -> Result<()> {
    for start in (0..assets).step_by(1000) {
        let batch = (start..assets.min(start + 1000)).map(|i| {
            let meta = AssetMeta {
                mime_type: ["image/png", "text/plain", "video/mp4"][i % 3].into(),
                filename: Some(format!("file number {i}.dat")),
                application: (i % 10 == 0).then(|| "camera".into()),
                tags: vec![format!("tag {}", i % 100)],
                created_at_ms: 1_700_000_000_000 + i as u64,
                ..AssetMeta::default()
            };
            incoming(noise(i as u64, bytes), meta)
        });
        store.ingest(batch.collect()).await?;
    }
    Ok(())
}

/// Puts a copy of a closed store into an empty place. Stored content never changes, so its files are linked.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry?;
        let below = entry.path().strip_prefix(from)?;
        let place = to.join(below);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(place)?;
        } else if below.starts_with("content") {
            std::fs::hard_link(entry.path(), place)?;
        } else {
            std::fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}
