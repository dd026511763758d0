//! Files of a folder, open; and what is done with their bytes.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::held::HeldDir;
use super::stat::{FileKind, RawStat};
use super::{FolderDir, HookPoint};
use crate::disk::NotAFile;
use crate::record::ContentHash;

/// Bytes that are read at a time, and left out of a copy where all are zero.
const CHUNK_BYTES: usize = 128 * 1024;

/// Opens a plain file for reading, and nothing else.
pub(super) fn open_file(dir: &HeldDir, name: &str) -> io::Result<(File, RawStat)> {
    let seen = RawStat::at(dir, name.as_bytes())?;
    check_file(seen.kind)?;
    // A pipe that took the place meanwhile is not waited for.
    let flags = OFlags::RDONLY
        .union(OFlags::NOFOLLOW)
        .union(OFlags::NONBLOCK)
        .union(OFlags::NOCTTY)
        .union(OFlags::CLOEXEC);
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let stat = RawStat::of(&file)?;
    check_file(stat.kind)?;
    Ok((file, stat))
}

fn check_file(kind: FileKind) -> io::Result<()> {
    let what = match kind {
        FileKind::File => return Ok(()),
        FileKind::Directory => "a directory",
        FileKind::Symlink => "a symbolic link",
        FileKind::Fifo => "a named pipe",
        FileKind::Socket => "a socket",
        FileKind::Device => "a device",
    };
    Err(io::Error::other(NotAFile(what)))
}

/// What went from one file to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Poured {
    pub(super) hash: ContentHash,
    pub(super) bytes: u64,
}

impl FolderDir {
    pub(super) fn hash_rest(&self, file: &mut dyn Read) -> io::Result<Poured> {
        self.pass(file, |_| Ok(()))
    }

    /// Copies all that is left to read while it is hashed. Where whole chunks are zero, the copy gets a hole.
    pub(super) fn pour(&self, from: &mut dyn Read, into: &mut File) -> io::Result<Poured> {
        let mut has_hole = false;
        let poured = self.pass(from, |chunk| {
            has_hole = chunk.len() == CHUNK_BYTES && chunk.iter().all(|byte| *byte == 0);
            if has_hole {
                into.seek(SeekFrom::Current(i64::try_from(CHUNK_BYTES).unwrap_or_default())).map(drop)
            } else {
                into.write_all(chunk)
            }
        })?;
        if has_hole {
            into.set_len(poured.bytes)?;
        }
        Ok(poured)
    }

    fn pass(&self, from: &mut dyn Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Poured> {
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let mut filled = 0;
            while filled < CHUNK_BYTES {
                match from.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if filled == 0 {
                return Ok(Poured { hash: ContentHash(hasher.finalize().into()), bytes });
            }
            self.check_stop()?;
            self.at(HookPoint::Reading)?;
            hasher.update(&chunk[..filled]);
            each(&chunk[..filled])?;
            bytes += filled as u64;
        }
    }

    pub(super) fn check_stop(&self) -> io::Result<()> {
        let is_stopped = self.stop.load(Ordering::Relaxed);
        if is_stopped { Err(io::Error::new(io::ErrorKind::Interrupted, "stopped")) } else { Ok(()) }
    }

    /// Makes `into` share the blocks of `from`, if both lie on a file system that can.
    pub(super) fn clone_file(&self, from: &File, into: &File) -> bool {
        #[cfg(target_os = "linux")]
        return self.abilities.clone && rustix::fs::ioctl_ficlone(into, from).is_ok();
        #[cfg(not(target_os = "linux"))]
        return false;
    }
}
