//! Where a store has its contents: the columns of the tables.

use std::path::{Path, PathBuf};

use can_sync::testing::clock::Clock;
use can_sync::testing::config::{BucketUrl, ContentBucket};
use can_sync::testing::store::bucket::BucketConfig;
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore};
use rustix::fs::{Advice, fadvise};

use super::Bench;
use super::service::Service;
use super::support::Result;
use super::support::figures::{Runs, Table};

pub(crate) enum Column {
    /// Files of its own.
    Disk,
    /// A directory for a bucket.
    Dir,
    Service(Service),
}

impl Column {
    const fn name(&self) -> &'static str {
        match self {
            Self::Disk => "local disk",
            Self::Dir => "directory",
            Self::Service(_) => "S3 service",
        }
    }

    pub(crate) const fn has_bucket(&self) -> bool {
        !matches!(self, Self::Disk)
    }

    /// An empty store below `dir`, with a new place.
    pub(crate) fn new_store(&self, dir: PathBuf) -> Result<Stored> {
        std::fs::create_dir_all(&dir)?;
        let place = match self {
            Self::Disk => None,
            Self::Dir => Some(ContentBucket::at(BucketUrl::Dir(dir.join("bucket")))),
            Self::Service(service) => Some(service.new_place()),
        };
        // A snapshot would come in between at some moment.
        let place = place.map(|place| ContentBucket { snapshots: false, ..place });
        Ok(Stored { dir, place })
    }
}

/// A store that is not open: where it is, and where its contents are.
pub(crate) struct Stored {
    dir: PathBuf,
    place: Option<ContentBucket>,
}

impl Stored {
    /// Contents are acknowledged before they are in the bucket.
    pub(crate) fn written_back(mut self) -> Self {
        if let Some(place) = &mut self.place {
            place.write_back = true;
        }
        self
    }

    /// Opens it, with so many bytes for the cache of its bucket.
    pub(crate) async fn open(&self, cache_bytes: u64) -> Result<EmbeddedStore> {
        let config = EmbeddedConfig { dir: self.store_dir(), disk_reserve_bytes: 0, clock: Clock::system() };
        let bucket = self.place.clone().map(|place| BucketConfig::new(place, cache_bytes));
        Ok(EmbeddedStore::open_on(config, bucket).await?)
    }

    fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Forgets what is nearer than its place: its cache, and what the system has of its files in memory.
    pub(crate) fn forget(&self) -> Result<()> {
        let cache = self.store_dir().join("cache");
        if cache.exists() {
            std::fs::remove_dir_all(cache)?;
        }
        out_of_memory(&self.dir)
    }

    pub(crate) fn remove(self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.dir)?)
    }
}

/// Has the system forget the bytes of all files below a directory, which are durable.
fn out_of_memory(dir: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let file = std::fs::File::open(entry.path())?;
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

impl Bench {
    pub(crate) fn table(&self) -> Table {
        let mut columns = vec![("", 44)];
        columns.extend(self.columns.iter().map(|column| (column.name(), 24)));
        columns.extend(self.rclone.iter().map(|_| ("rclone copy", 24)));
        Table::new(&columns)
    }

    /// A row of what each column took, and rclone; empty where nothing was measured.
    pub(crate) fn row(
        &self,
        table: &Table,
        what: &str,
        columns: &[Runs],
        rclone: &Runs,
        cell: impl Fn(&Runs) -> String,
    ) {
        let cell = |runs: &Runs| if runs.is_empty() { String::new() } else { cell(runs) };
        let mut cells = vec![what.to_owned()];
        cells.extend(columns.iter().map(cell));
        cells.extend(self.rclone.iter().map(|_| cell(rclone)));
        table.row(&cells);
    }

    /// Nothing, for each column.
    pub(crate) fn no_runs(&self) -> Vec<Runs> {
        vec![Runs::new(); self.columns.len()]
    }
}
