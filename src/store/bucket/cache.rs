//! Contents of a bucket that lie on this disk, too: so many bytes, least recently used first.
//!
//! ```text
//! cache/ab/abcd…    a content, named by its hash
//! ```
//! A copy and no more: readers compare it like any content, and one that is wrong is removed. Nothing is fsynced.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use tempfile::TempPath;

use crate::disk::open_plain;
use crate::record::ContentHash;

#[derive(Debug)]
pub(crate) struct ContentCache {
    dir: PathBuf,
    bytes_max: u64,
    index: Mutex<CacheIndex>,
}

#[derive(Default, Debug)]
struct CacheIndex {
    sizes: HashMap<ContentHash, (u64, u64)>,
    /// The least recently used one comes first.
    order: BTreeMap<u64, ContentHash>,
    bytes: u64,
    next: u64,
}

impl CacheIndex {
    fn insert(&mut self, hash: ContentHash, size: u64) {
        self.remove(hash);
        self.next += 1;
        self.sizes.insert(hash, (size, self.next));
        self.order.insert(self.next, hash);
        self.bytes += size;
    }

    fn remove(&mut self, hash: ContentHash) {
        if let Some((size, turn)) = self.sizes.remove(&hash) {
            self.order.remove(&turn);
            self.bytes -= size;
        }
    }
}

impl ContentCache {
    /// Opens a cache, making it if there is none; what is too much is removed. Blocks.
    pub(crate) fn open(dir: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let cache = Self { dir, bytes_max, index: Mutex::default() };
        let mut found = Vec::new();
        for first in 0..=u8::MAX {
            let below = cache.dir.join(format!("{first:02x}"));
            fs::create_dir_all(&below)?;
            for entry in fs::read_dir(&below)? {
                let entry = entry?;
                let hash: Option<ContentHash> = entry.file_name().to_str().and_then(|name| name.parse().ok());
                let meta = entry.metadata()?;
                match hash.filter(|hash| meta.is_file() && cache.path(*hash) == entry.path()) {
                    Some(hash) => {
                        found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), hash, meta.len()));
                    }
                    None if meta.is_file() => fs::remove_file(entry.path())?,
                    None => {}
                }
            }
        }
        found.sort_unstable();
        {
            let mut index = cache.index();
            for (_, hash, size) in found {
                index.insert(hash, size);
            }
        }
        cache.shrink(bytes_max);
        Ok(cache)
    }

    fn index(&self) -> MutexGuard<'_, CacheIndex> {
        self.index.lock()
    }

    fn path(&self, hash: ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// Whether a content of this size is kept at all: one is not to drive out all others.
    pub(crate) fn takes(&self, size: u64) -> bool {
        size <= self.bytes_max / 2
    }

    /// The file of a content, if it is here and of this length. Blocks.
    pub(crate) fn file(&self, hash: ContentHash, size: u64) -> Option<File> {
        {
            let mut index = self.index();
            if index.sizes.get(&hash).is_none_or(|(known, _)| *known != size) {
                return None;
            }
            index.insert(hash, size);
        }
        let file = open_plain(&self.path(hash)).ok();
        let file = file.filter(|file| file.metadata().is_ok_and(|meta| meta.len() == size));
        match &file {
            // For the order after a restart.
            Some(file) => drop(file.set_modified(SystemTime::now())),
            None => self.remove(hash),
        }
        file
    }

    /// Takes a file over, if there is room for it; it is removed otherwise. Blocks.
    pub(crate) fn adopt(&self, hash: ContentHash, size: u64, file: TempPath) {
        if self.take_in(hash, size, &file) {
            // Nothing is in its place any more.
            drop(file.keep());
        }
    }

    /// Moves a file here, if there is room for it; whether it is not where it was any more. Blocks.
    pub(crate) fn take_in(&self, hash: ContentHash, size: u64, file: &Path) -> bool {
        if !self.takes(size) {
            return false;
        }
        self.shrink(self.bytes_max - size);
        match fs::rename(file, self.path(hash)) {
            Ok(()) => self.index().insert(hash, size),
            Err(error) => {
                tracing::debug!(%error, "a content is not kept in the cache");
                return false;
            }
        }
        true
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.index().bytes
    }

    /// Removes a content. Blocks.
    pub(crate) fn remove(&self, hash: ContentHash) {
        self.index().remove(hash);
        let _ = fs::remove_file(self.path(hash));
    }

    /// Removes contents until there are no more bytes than this. Blocks.
    pub(crate) fn shrink(&self, bytes_max: u64) {
        loop {
            let first = {
                let mut index = self.index();
                if index.bytes <= bytes_max {
                    return;
                }
                let Some((_, hash)) = index.order.first_key_value() else { return };
                let hash = *hash;
                index.remove(hash);
                hash
            };
            let _ = fs::remove_file(self.path(first));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn put(cache: &ContentCache, n: u8, size: usize) -> ContentHash {
        let mut file = tempfile::NamedTempFile::new_in(&cache.dir).unwrap();
        file.write_all(&vec![n; size]).unwrap();
        let hash = ContentHash([n; 32]);
        cache.adopt(hash, size as u64, file.into_temp_path());
        hash
    }

    fn read(cache: &ContentCache, hash: ContentHash, size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        cache.file(hash, size)?.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ContentCache::open(dir.path().join("cache"), 100).unwrap();
        let (a, b) = (put(&cache, 1, 40), put(&cache, 2, 40));
        assert_eq!(read(&cache, a, 40), Some(vec![1; 40]));
        let c = put(&cache, 3, 40);
        assert_eq!(read(&cache, b, 40), None);
        assert!(read(&cache, a, 40).is_some() && read(&cache, c, 40).is_some());
        // More than half of it is not taken.
        let d = put(&cache, 4, 51);
        assert_eq!(read(&cache, d, 51), None);
        // The same after a restart, with less room.
        drop(cache);
        let cache = ContentCache::open(dir.path().join("cache"), 40).unwrap();
        assert_eq!((read(&cache, a, 40), read(&cache, c, 40)), (None, Some(vec![3; 40])));
    }

    #[test]
    fn a_file_of_another_length_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ContentCache::open(dir.path().join("cache"), 100).unwrap();
        let a = put(&cache, 1, 40);
        fs::write(cache.path(a), "short").unwrap();
        assert_eq!(read(&cache, a, 40), None);
        assert!(!cache.path(a).exists());
    }
}
