//! Copies contents, and checks what it copies.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::place::{make_dir, remove_file};
use crate::disk::{NotAFile, SHORT_PATIENCE, is_own_fault, open_plain, patiently, sync_dir};
use crate::record::ContentHash;

const BLOCK_BYTES: usize = 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyMethod {
    /// The file system lets both share the bytes until one changes, where it can; a copy elsewhere.
    Clone,
    Copy,
    /// One file with two names.
    HardLink,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum CopyOutcome {
    Whole,
    /// It is there, and not what its name says.
    Wrong(String),
    Absent,
}

/// Copies contents one after the other. What it wrote is durable once [`Self::settle`] was called.
pub(super) struct ContentCopier {
    tmp: PathBuf,
    method: CopyMethod,
    block: Vec<u8>,
    dirs: BTreeSet<PathBuf>,
}

impl ContentCopier {
    pub(super) fn new(tmp: &Path, method: CopyMethod) -> Self {
        Self { tmp: tmp.to_owned(), method, block: vec![0; BLOCK_BYTES], dirs: BTreeSet::new() }
    }

    /// Puts a content under its name, if its bytes are right. `read` is told what was read.
    ///
    /// # Errors
    /// It cannot be written there, with the path; or read for a reason that concerns every file.
    pub(super) fn copy(
        &mut self,
        from: &Path,
        to: &Path,
        hash: ContentHash,
        size: u64,
        read: &dyn Fn(u64),
    ) -> Result<CopyOutcome, (PathBuf, io::Error)> {
        let source = match open(from, size) {
            Ok(source) => source,
            Err(fault) => return fault.map_err(|error| (from.to_owned(), error)),
        };
        let part = self.tmp.join(hash.to_string());
        let at_part = |error| (part.clone(), error);
        remove_file(&part).map_err(at_part)?;
        let found = match self.method {
            CopyMethod::HardLink => {
                fs::hard_link(from, &part).map_err(at_part)?;
                self.hash(source, None, read).map_err(|(_, error)| error)
            }
            CopyMethod::Clone | CopyMethod::Copy => {
                let mut file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&part)
                    .map_err(at_part)?;
                let hashed = if self.method == CopyMethod::Clone && is_cloned(&source, &file) {
                    self.hash(&file, None, read)
                } else {
                    // One file tells for all: they are on one file system.
                    self.method = CopyMethod::Copy;
                    self.hash(source, Some(&mut file), read)
                };
                match hashed {
                    Err((Side::Target, error)) => return Err(at_part(error)),
                    Err((Side::Source, error)) => Err(error),
                    Ok(found) => {
                        file.sync_all().map_err(at_part)?;
                        Ok(found)
                    }
                }
            }
        };
        let wrong = match found {
            Ok(found) if found == hash => None,
            Ok(found) => Some(format!("its file hashes to {found}")),
            Err(error) => Some(format!("its file cannot be read: {error}")),
        };
        if let Some(wrong) = wrong {
            remove_file(&part).map_err(at_part)?;
            return Ok(CopyOutcome::Wrong(wrong));
        }
        self.place(&part, to).map_err(|error| (to.to_owned(), error))?;
        Ok(CopyOutcome::Whole)
    }

    /// Puts bytes under their name.
    ///
    /// # Errors
    /// They cannot be written there, with the path.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        to: &Path,
        hash: ContentHash,
    ) -> Result<(), (PathBuf, io::Error)> {
        let part = self.tmp.join(hash.to_string());
        let at_part = |error| (part.clone(), error);
        remove_file(&part).map_err(at_part)?;
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&part).map_err(at_part)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at_part)?;
        self.place(&part, to).map_err(|error| (to.to_owned(), error))
    }

    /// Reads a content that is in place; whether it is right.
    pub(super) fn is_right(
        &mut self,
        path: &Path,
        hash: ContentHash,
        size: u64,
        read: &dyn Fn(u64),
    ) -> io::Result<bool> {
        match open(path, size) {
            Ok(file) => Ok(self.hash(file, None, read).is_ok_and(|found| found == hash)),
            Err(fault) => fault.map(|_| false),
        }
    }

    /// Makes the names of all that was copied durable.
    pub(super) fn settle(&mut self) -> Result<(), (PathBuf, io::Error)> {
        for dir in std::mem::take(&mut self.dirs) {
            sync_dir(&dir).map_err(|error| (dir, error))?;
        }
        Ok(())
    }

    fn place(&mut self, part: &Path, to: &Path) -> io::Result<()> {
        let parent = to.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if !parent.is_dir() {
            make_dir(parent)?;
            self.dirs.extend(parent.ancestors().skip(1).take(2).map(Path::to_owned));
        }
        self.dirs.insert(parent.to_owned());
        fs::rename(part, to)
    }

    /// Hashes what is in a file, and writes it to another one on the way.
    fn hash(
        &mut self,
        mut from: impl io::Read,
        mut to: Option<&mut File>,
        read: &dyn Fn(u64),
    ) -> Result<ContentHash, (Side, io::Error)> {
        let mut sha256 = Sha256::new();
        loop {
            let n = match from.read(&mut self.block) {
                Ok(0) => return Ok(ContentHash(sha256.finalize().into())),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err((Side::Source, error)),
            };
            sha256.update(&self.block[..n]);
            if let Some(to) = &mut to {
                to.write_all(&self.block[..n]).map_err(|error| (Side::Target, error))?;
            }
            read(n as u64);
        }
    }
}

enum Side {
    Source,
    Target,
}

/// Opens a content; else what is wrong with it, or that this is not its own fault.
fn open(path: &Path, size: u64) -> Result<io::Take<File>, io::Result<CopyOutcome>> {
    let wrong = |what: String| Err(Ok(CopyOutcome::Wrong(what)));
    let file = match patiently(&SHORT_PATIENCE, || open_plain(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Ok(CopyOutcome::Absent)),
        Err(error) => {
            return match NotAFile::of(&error) {
                Some(NotAFile(what)) => wrong(format!("its file is {what}")),
                None if is_own_fault(&error) => wrong(format!("its file cannot be opened: {error}")),
                None => Err(Err(error)),
            };
        }
    };
    match file.metadata() {
        // One byte more than there should be shows in the hash.
        Ok(meta) if meta.len() == size => Ok(file.take(size + 1)),
        Ok(meta) => wrong(format!("its file has {} bytes, not {size}", meta.len())),
        Err(error) => wrong(format!("its file cannot be read: {error}")),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_cloned(from: &io::Take<File>, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from.get_ref()).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_cloned(_: &io::Take<File>, _: &File) -> bool {
    false
}

/// Whether files in one directory can share bytes with those of another one.
pub(super) fn can_clone(from: &Path, to: &Path) -> bool {
    let Ok(target) = tempfile::tempfile_in(to) else { return false };
    let Ok(source) = File::open(from) else { return false };
    is_cloned(&source.take(0), &target)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dirs {
        home: tempfile::TempDir,
        content: Vec<u8>,
        hash: ContentHash,
    }

    impl Dirs {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
            let hash = ContentHash(Sha256::digest(&content).into());
            fs::write(home.path().join("source"), &content).unwrap();
            fs::create_dir(home.path().join("tmp")).unwrap();
            Self { home, content, hash }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.home.path().join(name)
        }

        fn copy(&self, method: CopyMethod) -> CopyOutcome {
            let mut copier = ContentCopier::new(&self.path("tmp"), method);
            let to = self.path("a/b/target");
            let done = copier.copy(&self.path("source"), &to, self.hash, self.content.len() as u64, &|_| {});
            copier.settle().unwrap();
            assert_eq!(fs::read_dir(self.path("tmp")).unwrap().count(), 0);
            done.unwrap()
        }
    }

    #[test]
    fn a_content_arrives_whole_by_every_method() {
        for method in [CopyMethod::Clone, CopyMethod::Copy, CopyMethod::HardLink] {
            let dirs = Dirs::new();
            assert_eq!(dirs.copy(method), CopyOutcome::Whole, "{method:?}");
            assert!(fs::read(dirs.path("a/b/target")).unwrap() == dirs.content);
        }
    }

    #[test]
    fn a_content_that_is_wrong_does_not_arrive() {
        for method in [CopyMethod::Clone, CopyMethod::Copy, CopyMethod::HardLink] {
            let dirs = Dirs::new();
            let mut flipped = dirs.content.clone();
            flipped[2_999_999] ^= 1;
            for wrong in [&flipped, &dirs.content[..5].to_vec(), &[&dirs.content[..], b"x"].concat()] {
                fs::write(dirs.path("source"), wrong).unwrap();
                assert!(matches!(dirs.copy(method), CopyOutcome::Wrong(_)), "{method:?}");
                assert!(!dirs.path("a/b/target").exists());
            }
            fs::remove_file(dirs.path("source")).unwrap();
            assert_eq!(dirs.copy(method), CopyOutcome::Absent);
            fs::create_dir(dirs.path("source")).unwrap();
            assert!(matches!(dirs.copy(method), CopyOutcome::Wrong(_)), "a directory, {method:?}");
        }
    }
}
