//! Where things lie in the store's directory.
//!
//! ```text
//! store.lock              held while a process has the store open
//! store.db, -wal, -shm    records, and content up to 64 KiB
//! store.seq               the number of the last change that was acknowledged
//! ballast                 room that is laid by for deletions
//! content/ab/cd/abcd…     larger content, named by its hash
//! cache/ab/abcd…          content in object storage that is here, too
//! damaged/abcd…           content that was set aside because it is damaged
//! tmp/                    content that is being received; emptied when the store opens
//! ```

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use crate::disk::is_own_fault;
pub(super) use crate::disk::sync_dir;
use crate::record::ContentHash;
use crate::store::bucket::cache::ContentCache;

/// The paths below one store's directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
}

impl Layout {
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("store.lock")
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("store.db")
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.dir.join("store.seq")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    pub(super) fn damaged_dir(&self) -> PathBuf {
        self.dir.join("damaged")
    }

    /// Where a damaged file of this name is set aside.
    pub(super) fn damaged(&self, hash: ContentHash) -> PathBuf {
        self.damaged_dir().join(hash.to_string())
    }

    pub(super) fn contents(&self) -> PathBuf {
        self.dir.join("content")
    }

    /// The device and inode of the directory of contents; `None` if there is none that can be looked into.
    pub(super) fn contents_identity(&self) -> Option<(u64, u64)> {
        // What is below it needs the right to search it.
        fs::metadata(self.contents().join(".")).ok().map(|meta| (meta.dev(), meta.ino()))
    }

    /// Where the content of this hash lies if it is in a file. Made from the hash alone.
    pub(super) fn content(&self, hash: ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.contents().join(&name[..2]).join(&name[2..4]).join(name)
    }

    /// Makes what is missing, for the owner's eyes only. The directory of contents has one below it from the start: one that is empty
    /// is a place where something is not mounted. All others are made when the first content comes ([`Self::make_parent`]).
    pub(super) fn create(&self) -> io::Result<()> {
        create_dir(&self.dir)?;
        create_dir(&self.tmp())?;
        create_dir(&self.damaged_dir())?;
        if !self.contents().is_dir() {
            let part = self.dir.join("content.part");
            create_dir(&part.join("00"))?;
            sync_dir(&part)?;
            fs::rename(&part, self.contents())?;
        }
        sync_dir(&self.dir)
    }

    /// Removes whatever an earlier process left in `tmp`.
    pub(super) fn sweep_tmp(&self) -> io::Result<u64> {
        let mut removed = 0;
        for entry in fs::read_dir(self.tmp())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
            removed += 1;
        }
        Ok(removed)
    }

    /// Whether the content's file is there and has this length.
    pub(super) fn has_content(&self, hash: ContentHash, size: u64) -> bool {
        fs::metadata(self.content(hash)).is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    /// The files of contents, with their sizes, in no order. What has another name than a hash is not one.
    pub(super) fn content_files(&self) -> io::Result<Vec<(ContentHash, u64)>> {
        let mut found = Vec::new();
        for first in 0..=u8::MAX {
            found.extend(self.content_files_in(first)?);
        }
        Ok(found)
    }

    /// As [`Self::content_files`], of those whose hash begins with this byte.
    pub(super) fn content_files_in(&self, first: u8) -> io::Result<Vec<(ContentHash, u64)>> {
        let mut found = Vec::new();
        for second in subdirectory(&self.contents().join(format!("{first:02x}")))? {
            for entry in subdirectory(&second?.path())? {
                let entry = entry?;
                found.extend(named_file(&entry).filter(|(hash, _)| entry.path() == self.content(*hash)));
            }
        }
        Ok(found)
    }

    /// The files that were set aside, with their sizes, in no order. What has another name than a hash is not one.
    pub(super) fn damaged_files(&self) -> io::Result<Vec<(ContentHash, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.damaged_dir())? {
            found.extend(named_file(&entry?));
        }
        Ok(found)
    }

    /// Puts a file that was set aside back into its place, durably.
    pub(super) fn put_back(&self, hash: ContentHash) -> io::Result<()> {
        let place = self.content(hash);
        let mut changed = BTreeSet::new();
        let made = self.make_parent(hash, &mut changed);
        changed.iter().try_for_each(|dir| sync_dir(dir))?;
        made?;
        fs::rename(self.damaged(hash), &place)?;
        sync_dir(place.parent().unwrap_or(&self.dir))
    }

    /// Makes the directories above a content's file. Adds to `changed` those in which something was made, also where it fails after that.
    /// What is in the place of a directory and is none goes out of the way. The directory of contents itself is never made: it is away
    /// where its disk is.
    pub(super) fn make_parent(&self, hash: ContentHash, changed: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        let name = hash.to_string();
        let mut above = self.contents();
        let parent = above.join(&name[..2]).join(&name[2..4]);
        if usable(&parent).is_ok() {
            return Ok(());
        }
        for part in [&name[..2], &name[2..4]] {
            let dir = above.join(part);
            match usable(&dir) {
                Ok(()) => {}
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    self.clear_place(&dir)?;
                    match DirBuilder::new().mode(0o700).create(&dir) {
                        // Somebody was quicker.
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        made => made?,
                    }
                    changed.insert(above);
                }
                Err(Errno::ACCESS) => fs::set_permissions(&dir, Permissions::from_mode(0o700))?,
                Err(error) => return Err(error.into()),
            }
            above = dir;
        }
        Ok(())
    }

    /// Removes what is in the place of a directory and is none; a file is kept aside.
    fn clear_place(&self, place: &Path) -> io::Result<()> {
        let Ok(meta) = place.symlink_metadata() else { return Ok(()) };
        tracing::warn!(place = %place.display(), "something else is in the place of a directory of contents: it is moved out of the way");
        if !meta.is_file() {
            return fs::remove_file(place);
        }
        let name = format!("not-a-directory-{}", place.file_name().unwrap_or_default().to_string_lossy());
        fs::rename(place, free_name(&self.damaged_dir().join(name))?)
    }

    /// Sets the content's file aside. One that is gone already is not missed; one that was set aside before stays, under
    /// another name.
    pub(super) fn set_aside(&self, hash: ContentHash) -> io::Result<()> {
        let earlier = self.damaged(hash);
        if earlier.symlink_metadata().is_ok() && self.content(hash).symlink_metadata().is_ok() {
            fs::rename(&earlier, free_name(&earlier)?)?;
        }
        match fs::rename(self.content(hash), self.damaged(hash)) {
            Ok(()) => sync_dir(&self.damaged_dir()),
            Err(error) if leads_nowhere(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what was set aside in the place of a content, whatever it is; it may be gone already.
    pub(super) fn remove_damaged(&self, hash: ContentHash) -> io::Result<()> {
        let path = self.damaged(hash);
        let is_dir = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Has the cache take the content's file, durably, if it has one of this size and the cache takes it.
    pub(super) fn give_to_cache(&self, hash: ContentHash, size: u64, cache: &ContentCache) -> io::Result<()> {
        let path = self.content(hash);
        if self.has_content(hash, size) && cache.take_in(hash, size, &path) {
            sync_dir(path.parent().unwrap_or(&self.dir))?;
        }
        Ok(())
    }

    /// Removes the content's file, durably; it may be gone already.
    pub(super) fn remove_content(&self, hash: ContentHash) -> io::Result<()> {
        let path = self.content(hash);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(path.parent().unwrap_or(&self.dir)),
            Err(error) if leads_nowhere(&error) => Ok(()),
            // It is no file: what is known to be no content is set aside.
            Err(_) if path.is_dir() => self.set_aside(hash),
            Err(error) => Err(error),
        }
    }
}

/// A plain file that is named by a hash, and its size. It may be gone by now.
fn named_file(entry: &fs::DirEntry) -> Option<(ContentHash, u64)> {
    let hash = entry.file_name().to_str()?.parse().ok()?;
    entry.metadata().ok().filter(Metadata::is_file).map(|meta| (hash, meta.len()))
}

/// Whether there is nothing where a path leads.
pub(super) fn leads_nowhere(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Whether files can be put into a directory.
fn usable(dir: &Path) -> Result<(), Errno> {
    rustix::fs::access(dir.join("."), Access::WRITE_OK.union(Access::EXEC_OK))
}

/// A path like this one that nothing has.
fn free_name(path: &Path) -> io::Result<PathBuf> {
    let mut free = (1..u32::MAX).map(|n| path.with_extension(n.to_string()));
    Ok(free.find(|path| path.symlink_metadata().is_err()).ok_or(io::ErrorKind::AlreadyExists)?)
}

/// What is in a directory; nothing if it is something else, not there, or closed to us: what lies in it is missed one by one.
fn subdirectory(path: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => Some(entries),
        Err(error) if leads_nowhere(&error) => None,
        Err(error) if is_own_fault(&error) => {
            tracing::warn!(dir = %path.display(), %error, "a directory of contents cannot be read");
            None
        }
        Err(error) => return Err(error),
    };
    Ok(entries.into_iter().flatten())
}

/// Makes a directory and those above it, for the owner's eyes only.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
