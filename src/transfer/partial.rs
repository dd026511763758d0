//! Large contents that are not complete yet, in a directory of their own, across restarts.
//!
//! `<hash>-<size>` is the content as far as it is here, `<hash>-<size>.ranges` its ledger; of what is wanted for a library,
//! the library's id follows, so that bytes which came through one library complete nothing that is wanted for another one
//! or for the mirror. What a crash or a restart leaves is
//! picked up again when somebody offers that content, for as long as it is neither too old nor too much; who sent
//! it is forgotten then, and the hash of the whole decides. What was proved for one root completes nothing of another one, nor of
//! what nobody proves, and the other way round: then it is begun anew. A file that is complete and right is given a second name,
//! `….whole`, under which the store takes it; nothing is copied.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::record::ContentHash;
use crate::store::embedded::failure;
use crate::store::groups::{GROUP_BYTES, GroupSum};
use crate::store::{StoreError, StoreResult};
use crate::transfer::ranges::Ranges;
use crate::transfer::schedule::WantKey;

mod block;
mod content;
pub mod fuzz;
mod ledger;

pub use self::block::{BLOCK_BYTES, Block, BlockPool};
use self::content::ledger_path;
pub use self::content::{Blame, Finished, Partial};
use self::ledger::{Ledger, LedgerSubject};

/// Less than this of a content is not worth keeping.
const KEPT_LEAST_BYTES: u64 = 64 * 1024;
/// How long what nobody offers any more is kept.
const KEPT_FOR: Duration = Duration::from_hours(7 * 24);
/// How much of that is kept, in bytes and in files: the latest.
const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
const KEPT_FILES_MAX: usize = 1024;

/// All partial contents of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Partials(Arc<PartialRegistry>);

#[derive(Debug)]
struct PartialRegistry {
    dir: PathBuf,
    entries: Mutex<BTreeMap<WantKey, PartialEntry>>,
    /// Somebody begins to work on a content, or nobody does any more.
    opened: Notify,
    /// Files are opened and removed one after another.
    disk: Mutex<()>,
    blocks: BlockPool,
}

#[derive(Debug)]
enum PartialEntry {
    /// Nobody works on it.
    Resting {
        durable: Ranges,
        since: SystemTime,
        /// As of [`Partial::root`].
        root: Option<GroupSum>,
    },
    Open(Arc<Partial>),
}

impl Partials {
    /// Those in `dir`, which is made if it is not there. Whatever is damaged, too old or too much is removed. Blocks.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Some((key, entry)) = look(&entry?.path()) {
                found.push((key, entry));
            }
        }
        let partials = Self(Arc::new(PartialRegistry {
            dir: dir.to_owned(),
            entries: Mutex::new(found.into_iter().collect()),
            opened: Notify::new(),
            disk: Mutex::default(),
            blocks: BlockPool::default(),
        }));
        partials.trim(SystemTime::now());
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(key_of);
            let kind = path.extension().and_then(|extension| extension.to_str());
            let known = stem.is_some_and(|key| partials.entries().contains_key(&key));
            if !known || !matches!(kind, None | Some("ranges")) {
                remove(&path);
            }
        }
        Ok(partials)
    }

    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Buffers for what comes.
    pub fn blocks(&self) -> &BlockPool {
        &self.0.blocks
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<WantKey, PartialEntry>> {
        self.0.entries.lock()
    }

    fn path(&self, key: &WantKey) -> PathBuf {
        self.0.dir.join(name_of(key))
    }

    /// What of `range` of a content is not here, as proved for this root.
    pub fn missing(&self, key: &WantKey, root: Option<GroupSum>, range: Range<u64>) -> Vec<Range<u64>> {
        match self.entries().get(key).filter(|entry| entry.root() == root) {
            Some(PartialEntry::Resting { durable, .. }) => durable.missing(range),
            Some(PartialEntry::Open(partial)) if !partial.has_failed() => partial.missing(range),
            _ => vec![range],
        }
    }

    /// How many bytes of a content are here.
    pub fn held(&self, key: &WantKey) -> Option<u64> {
        self.entries().get(key).map(PartialEntry::held)
    }

    /// The same, for whatever library most of them are.
    pub fn held_for_any(&self, hash: &ContentHash) -> Option<u64> {
        let first = WantKey { hash: *hash, library: None, size: 0 };
        let entries = self.entries();
        let all = entries.range(first..).take_while(|(key, _)| key.hash == *hash);
        all.map(|(_, entry)| entry.held()).max()
    }

    /// Contents of which something is here.
    pub fn keys(&self) -> Vec<WantKey> {
        self.entries().keys().copied().collect()
    }

    /// Bytes that the contents that are being worked on still lack.
    pub fn outstanding(&self) -> u64 {
        let entries = self.entries();
        let lacks = entries.values().map(|entry| match entry {
            PartialEntry::Resting { .. } => 0,
            PartialEntry::Open(partial) => partial.size() - partial.held(),
        });
        lacks.sum()
    }

    /// A content to work on, with what is here of it for this root.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`]; [`StoreError::Busy`] while somebody works on it for another root.
    pub async fn begin(&self, key: WantKey, root: Option<GroupSum>) -> StoreResult<Arc<Partial>> {
        if let Some(partial) = self.opened(&key, root) {
            return Ok(partial);
        }
        let (this, path) = (self.clone(), self.path(&key));
        let opened = tokio::task::spawn_blocking(move || this.begin_blocking(key, root)).await;
        opened.map_err(io::Error::other).and_then(|opened| opened).map_err(|error| {
            if error.kind() == io::ErrorKind::ResourceBusy {
                return StoreError::Busy(format!("{} is on its way under another BLAKE3", key.hash));
            }
            failure::io_error(format!("open a partial content in {}", path.display()), &self.0.dir, &error)
        })
    }

    /// As [`Self::begin`], for the root that what is here was proved for.
    pub async fn take_up(&self, key: WantKey) -> StoreResult<Arc<Partial>> {
        let root = self.entries().get(&key).and_then(PartialEntry::root);
        self.begin(key, root).await
    }

    fn opened(&self, key: &WantKey, root: Option<GroupSum>) -> Option<Arc<Partial>> {
        self.get(key).filter(|partial| !partial.has_failed() && partial.root() == root)
    }

    fn begin_blocking(&self, key: WantKey, root: Option<GroupSum>) -> io::Result<Arc<Partial>> {
        let _disk = self.0.disk.lock();
        if let Some(partial) = self.opened(&key, root) {
            return Ok(partial);
        }
        let path = self.path(&key);
        let former = self.entries().remove(&key);
        let durable = match former {
            Some(entry) if entry.root() == root => entry.durable(),
            Some(PartialEntry::Open(partial)) if Arc::strong_count(&partial) > 1 => {
                self.entries().insert(key, PartialEntry::Open(partial));
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            Some(_) | None => Ranges::default(),
        };
        if durable.is_empty() {
            // An earlier life of the file may be in other hands.
            remove(&path);
        }
        let subject = LedgerSubject { hash: key.hash, size: key.size, root };
        let partial = Arc::new(Partial::open(&path, subject, durable)?);
        self.entries().insert(key, PartialEntry::Open(Arc::clone(&partial)));
        self.0.opened.notify_waiters();
        Ok(partial)
    }

    /// A content that is being worked on.
    pub fn get(&self, key: &WantKey) -> Option<Arc<Partial>> {
        match self.entries().get(key) {
            Some(PartialEntry::Open(partial)) => Some(Arc::clone(partial)),
            Some(PartialEntry::Resting { .. }) | None => None,
        }
    }

    /// Waits until a content is worked on whose bytes are proved for a root, and its first one is here; that root.
    pub async fn begun(&self, key: &WantKey) -> GroupSum {
        loop {
            let mut opened = pin!(self.0.opened.notified());
            opened.as_mut().enable();
            if let Ok(Some((root, _))) = self.read(key, None, 0, 1).await {
                return root;
            }
            opened.await;
        }
    }

    /// At most `most` bytes from `at` on of a content that is worked on, once the first of them is here, and the root that they were
    /// proved for, which is `proved_for` where that is said. `None` where nobody works on it, for that root.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`], also for what was written before.
    pub async fn read(
        &self,
        key: &WantKey,
        proved_for: Option<GroupSum>,
        at: u64,
        most: usize,
    ) -> StoreResult<Option<(GroupSum, Bytes)>> {
        loop {
            let mut opened = pin!(self.0.opened.notified());
            opened.as_mut().enable();
            let Some(partial) = self.get(key) else { return Ok(None) };
            let root = partial.root().filter(|root| proved_for.is_none_or(|wanted| *root == wanted));
            let Some(root) = root else { return Ok(None) };
            let mut changed = pin!(partial.change());
            changed.as_mut().enable();
            if let Some(bytes) = partial.read(at, most).await? {
                return Ok(Some((root, bytes)));
            }
            tokio::select! {
                () = changed => {}
                () = opened => {}
            }
        }
    }

    /// The store did not take a complete content: it stays for the next attempt.
    pub fn not_taken(&self, key: &WantKey) {
        if let Some(partial) = self.get(key) {
            partial.unseal();
        }
    }

    /// Removes contents, also from tasks that work on them: the store has them, or nobody wants them.
    pub async fn remove(&self, keys: Vec<WantKey>) {
        let this = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let _disk = this.0.disk.lock();
            for key in keys {
                let removed = this.entries().remove(&key);
                if let Some(PartialEntry::Open(partial)) = &removed {
                    partial.retire();
                }
                if removed.is_some() {
                    remove_both(&this.path(&key));
                }
            }
            this.0.opened.notify_waiters();
        });
        // It can only fail by a panic, and what is left lying is swept at the next start.
        let _ = removed.await;
    }

    /// Lets those rest that nobody works on; what was written is durable then. Removes what is too old or too much.
    pub async fn rest(&self, is_wanted: impl Fn(&WantKey) -> bool) {
        let idle: Vec<(WantKey, Arc<Partial>)> = self
            .entries()
            .iter()
            .filter_map(|(key, entry)| match entry {
                PartialEntry::Open(partial) if !is_wanted(key) => Some((*key, Arc::clone(partial))),
                PartialEntry::Open(_) | PartialEntry::Resting { .. } => None,
            })
            .collect();
        for (key, partial) in idle {
            if let Err(error) = partial.settle().await {
                tracing::debug!(%error, "a part of a partial content is not kept");
            }
            let _disk = self.0.disk.lock();
            let mut entries = self.entries();
            // Two for the map and for us: somebody may have begun to work on it again, or still does. Then the next time.
            if Arc::strong_count(&partial) == 2 {
                let durable = partial.durable();
                if durable.len() < KEPT_LEAST_BYTES {
                    entries.remove(&key);
                    remove_both(&self.path(&key));
                } else {
                    let (since, root) = (SystemTime::now(), partial.root());
                    entries.insert(key, PartialEntry::Resting { durable, since, root });
                }
            }
        }
        let this = self.clone();
        let _ = tokio::task::spawn_blocking(move || this.trim(SystemTime::now())).await;
    }

    /// Removes what has rested too long or is too much, the oldest first. Blocks.
    fn trim(&self, now: SystemTime) {
        let _disk = self.0.disk.lock();
        let mut entries = self.entries();
        let mut resting: Vec<(SystemTime, WantKey, u64)> = entries
            .iter()
            .filter_map(|(key, entry)| match entry {
                PartialEntry::Resting { durable, since, .. } => Some((*since, *key, durable.len())),
                PartialEntry::Open(_) => None,
            })
            .collect();
        resting.sort_unstable_by_key(|entry| std::cmp::Reverse(*entry));
        let mut bytes = 0;
        for (n, (since, key, len)) in resting.into_iter().enumerate() {
            bytes += len;
            let too_old = now.duration_since(since).is_ok_and(|age| age > KEPT_FOR);
            if too_old || bytes > KEPT_BYTES_MAX || n >= KEPT_FILES_MAX {
                entries.remove(&key);
                remove_both(&self.path(&key));
            }
        }
    }
}

impl PartialEntry {
    fn root(&self) -> Option<GroupSum> {
        match self {
            Self::Resting { root, .. } => *root,
            Self::Open(partial) => partial.root(),
        }
    }

    fn durable(self) -> Ranges {
        match self {
            Self::Resting { durable, .. } => durable,
            Self::Open(partial) => partial.durable(),
        }
    }

    fn held(&self) -> u64 {
        match self {
            Self::Resting { durable, .. } => durable.len(),
            Self::Open(partial) => partial.held(),
        }
    }
}

fn name_of(WantKey { hash, library, size }: &WantKey) -> String {
    match library {
        None => format!("{hash}-{size}"),
        Some(library) => format!("{hash}-{size}-{library}"),
    }
}

/// What a file of this name is for, and nothing for a name that is not written so.
fn key_of(name: &str) -> Option<WantKey> {
    let mut parts = name.split('-');
    let (hash, size) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let library = parts.next().map(str::parse).transpose().ok()?;
    let key = WantKey { hash, library, size };
    (name_of(&key) == name).then_some(key)
}

/// What is at `path` from an earlier life of the process, if it is any good.
fn look(path: &Path) -> Option<(WantKey, PartialEntry)> {
    let name = path.file_name()?.to_str()?;
    let meta = fs::metadata(path).ok()?;
    // With a second name it is the store's, or was about to be: nothing may be written to it.
    if !meta.is_file() || meta.nlink() > 1 {
        return None;
    }
    let hash = name.split('-').next()?.parse().ok()?;
    let (LedgerSubject { size, root, .. }, mut durable) = Ledger::load(&ledger_path(path), hash).ok()??;
    durable.remove(&(meta.len()..u64::MAX));
    if root.is_some() {
        durable = whole_groups(&durable, size);
    }
    if durable.is_empty() {
        return None;
    }
    let since = fs::metadata(ledger_path(path)).and_then(|meta| meta.modified()).ok()?;
    let key = match key_of(name) {
        Some(key) => (key.size == size).then_some(key)?,
        // Before libraries were told apart, a file was called by its hash alone.
        None => renamed(path, WantKey { hash: name.parse().ok()?, library: None, size })?,
    };
    Some((key, PartialEntry::Resting { durable, since, root }))
}

fn whole_groups(ranges: &Ranges, size: u64) -> Ranges {
    const GROUP: u64 = GROUP_BYTES as u64;
    let whole = |range: Range<u64>| {
        let start = range.start.div_ceil(GROUP) * GROUP;
        start..if range.end == size { size } else { range.end / GROUP * GROUP }
    };
    ranges.iter().map(whole).filter(|range| range.start < range.end).collect()
}

fn renamed(path: &Path, key: WantKey) -> Option<WantKey> {
    let to = path.with_file_name(name_of(&key));
    fs::rename(ledger_path(path), ledger_path(&to)).ok()?;
    fs::rename(path, &to).ok()?;
    Some(key)
}

fn remove_both(path: &Path) {
    // The ledger last: without its file it claims nothing.
    remove(path);
    remove(&ledger_path(path));
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot be removed");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
