//! Reading: the file is copied first, and what was copied is what counts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::FileStat;
use super::held::{Descent, HeldDir, split};
use super::opened::open_file;
use super::own::OwnPath;
use super::stat::RawStat;
use super::{FolderDir, HookPoint};
use crate::disk::NotAFile;
use crate::entry::EntryPath;
use crate::record::ContentHash;

#[derive(Debug)]
pub(crate) struct CopiedFile {
    /// The copy, at its beginning. Not yet durable.
    pub(crate) file: File,
    /// The file, before copying began and after it ended.
    pub(crate) stat: FileStat,
    pub(crate) hash: ContentHash,
    pub(crate) bytes: u64,
    /// Whether it shares the file's blocks.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests ask"))]
    pub(crate) is_clone: bool,
}

#[derive(Debug)]
pub(crate) struct WholeFile {
    pub(crate) bytes: Vec<u8>,
    /// The file, before reading began and after it ended.
    pub(crate) stat: FileStat,
    pub(crate) hash: ContentHash,
}

/// Why a file was not read. Where the copy was to be there is nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// Somebody writes to it, or it is not what it was: try again once it rests.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// It is no file, or something on the way to it is no directory.
    #[error("{0} is not a file any more")]
    NotThere(String),
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, #[source] io::Error),
    /// The copy cannot be written.
    #[error("cannot copy {0} to {1}: {2}")]
    Copy(String, String, #[source] io::Error),
    /// [`FolderDir::stop_flag`] is set.
    #[error("stopped")]
    Stopped,
}

impl FolderDir {
    /// Copies a file to `into`, which must not be there. Blocks are shared where they can be; else all is hashed as it is copied. Give
    /// `agreed` as for [`sight`](Self::sight).
    pub(crate) fn copy(
        &self,
        name: &EntryPath,
        into: &Path,
        agreed: Option<bool>,
    ) -> Result<CopiedFile, CopyError> {
        self.copy_at(name.as_str(), into, agreed)
    }

    /// The same for a file in the trash.
    pub(crate) fn copy_trashed(&self, name: &OwnPath, into: &Path) -> Result<CopiedFile, CopyError> {
        self.copy_at(name.as_str(), into, None)
    }

    /// Reads a file of at most `most` bytes into memory, which is its copy. Give `agreed` as for [`sight`](Self::sight).
    ///
    /// # Errors
    /// [`CopyError`]; [`CopyError::Changed`], too, for one that is larger.
    pub(crate) fn read_whole(
        &self,
        name: &EntryPath,
        most: u64,
        agreed: Option<bool>,
    ) -> Result<WholeFile, CopyError> {
        let path = name.as_str();
        let (dir, from, before) = self.open_to_copy(path)?;
        let mut bytes = Vec::new();
        let read = self.hash_into((&from).take(most.saturating_add(1)), &mut bytes);
        let hash = read.map_err(|error| unreadable(path, error))?;
        let is_same = RawStat::of(&from).is_ok_and(|after| after == before);
        if !is_same || bytes.len() as u64 != before.size || before.size > most {
            return Err(CopyError::Changed(path.to_owned()));
        }
        Ok(WholeFile { bytes, stat: before.seen(dir.traits, agreed), hash })
    }

    /// What a file holds, without a copy: worth something only where the store has it already. Give `agreed` as for
    /// [`sight`](Self::sight).
    pub(crate) fn hash_in_place(
        &self,
        name: &EntryPath,
        agreed: Option<bool>,
    ) -> Result<(FileStat, ContentHash), CopyError> {
        let path = name.as_str();
        let (dir, mut from, before) = self.open_to_copy(path)?;
        let poured = self.hash_rest(&mut from).map_err(|error| unreadable(path, error))?;
        let is_same = RawStat::of(&from).is_ok_and(|after| after == before) && poured.bytes == before.size;
        if is_same {
            Ok((before.seen(dir.traits, agreed), poured.hash))
        } else {
            Err(CopyError::Changed(path.to_owned()))
        }
    }

    fn hash_into(&self, mut from: impl io::Read, bytes: &mut Vec<u8>) -> io::Result<ContentHash> {
        from.read_to_end(bytes)?;
        self.at(HookPoint::Reading)?;
        self.at(HookPoint::Copied)?;
        Ok(ContentHash(Sha256::digest(&bytes).into()))
    }

    fn open_to_copy(&self, path: &str) -> Result<(HeldDir, File, RawStat), CopyError> {
        let (directory, name) = split(path);
        let Descent::Open(dir) = self.descend(directory).map_err(|error| unreadable(path, error))? else {
            return Err(CopyError::NotThere(path.to_owned()));
        };
        let (from, before) = open_file(&dir, name).map_err(|error| unreadable(path, error))?;
        Ok((dir, from, before))
    }

    fn copy_at(&self, path: &str, into: &Path, agreed: Option<bool>) -> Result<CopiedFile, CopyError> {
        let (dir, mut from, before) = self.open_to_copy(path)?;
        let failed = |error| CopyError::Copy(path.to_owned(), into.display().to_string(), error);
        let mut options = OpenOptions::new();
        let mut copy =
            options.read(true).write(true).create_new(true).mode(0o600).open(into).map_err(failed)?;
        let copied = self.fill(&mut from, before.size, &mut copy).and_then(|(hash, bytes, is_clone)| {
            self.at(HookPoint::Copied)?;
            copy.rewind()?;
            Ok((hash, bytes, is_clone))
        });
        let is_same = RawStat::of(&from).is_ok_and(|after| after == before);
        let done = match copied {
            Ok((hash, bytes, is_clone)) if is_same && bytes == before.size => {
                let stat = before.seen(dir.traits, agreed);
                Ok(CopiedFile { file: copy, stat, hash, bytes, is_clone })
            }
            Ok(_) => Err(CopyError::Changed(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(CopyError::Stopped),
            Err(error) => Err(failed(error)),
        };
        if done.is_err() {
            std::fs::remove_file(into).ok();
        }
        done
    }

    fn fill(&self, from: &mut File, size: u64, copy: &mut File) -> io::Result<(ContentHash, u64, bool)> {
        let is_clone = self.clone_file(from, copy);
        // One that grows all the while has changed, and room was found for no more than its size.
        let mut until = from.take(size.saturating_add(1));
        let poured = if is_clone { self.hash_rest(copy)? } else { self.pour(&mut until, copy)? };
        Ok((poured.hash, poured.bytes, is_clone))
    }

    /// Hashes a file to which nobody writes meanwhile; `None` where somebody does.
    pub(super) fn hash_at(
        &self,
        dir: &HeldDir,
        name: &str,
        seen: &RawStat,
    ) -> io::Result<Option<ContentHash>> {
        let (mut file, before) = open_file(dir, name)?;
        let poured = self.hash_rest(&mut file)?;
        let is_same = *seen == before && RawStat::of(&file)? == before && poured.bytes == before.size;
        Ok(is_same.then_some(poured.hash))
    }
}

fn unreadable(path: &str, error: io::Error) -> CopyError {
    if error.kind() == io::ErrorKind::Interrupted {
        CopyError::Stopped
    } else if error.kind() == io::ErrorKind::NotFound || NotAFile::of(&error).is_some() {
        CopyError::NotThere(path.to_owned())
    } else {
        CopyError::Unreadable(path.to_owned(), error)
    }
}
