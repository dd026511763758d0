//! The content of a file, whatever its size is said to be: read to its end and hashed before it is sent, so that what the store
//! has is not sent at all.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::CHUNK_BYTES;
use super::collect::refusal;
use crate::cli::error::{CliError, CliResult};
use crate::disk::{self, NotAFile};
use crate::record::ContentHash;

/// Content that is kept from the first reading, so that it is not read again.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// The same where the size says nothing: what the system makes up anew for every reader (`/proc`).
const KEPT_UNSIZED_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct FileContent {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    /// When it was last written, in milliseconds since the Unix epoch, where an asset can say that.
    pub(super) modified_ms: Option<u64>,
    pub(super) bytes: ReadAgain,
}

/// Where the bytes come from when they are sent.
#[derive(Debug)]
pub(super) enum ReadAgain {
    Memory(Bytes),
    /// At its beginning.
    File(File),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    #[error("it became shorter while it was read: {read} of {size} bytes were there")]
    Shorter { read: u64, size: u64 },
}

/// Opens a plain file, and nothing else: what may never answer, or do something when it is opened, is not waited for.
pub(super) fn open(path: &Path) -> CliResult<File> {
    let cannot = |e: io::Error| CliError::failure(ReadError::Io(e).to_string());
    disk::open_plain(path).map_err(|error| match NotAFile::of(&error) {
        Some(NotAFile(what)) => refusal(path, what),
        None => cannot(error),
    })
}

/// Reads a file to its end. Blocks.
///
/// A file that grows meanwhile is taken as it was when it was opened. Where its size says something else than its bytes, the bytes
/// are right.
pub(super) fn read(mut file: File) -> Result<FileContent, ReadError> {
    let before = file.metadata()?;
    let said = before.len();
    let kept_max = if said == 0 { KEPT_UNSIZED_BYTES_MAX } else { KEPT_BYTES_MAX };
    let mut reading = HashedInput { hasher: Sha256::new(), size: 0, kept: Some(Vec::new()), kept_max };
    reading.up_to(&mut file, said)?;
    if reading.size < said {
        let now = file.metadata()?.len();
        if now < said {
            return Err(ReadError::Shorter { read: reading.size, size: said });
        }
        // The size was never right.
    } else if said == 0 || file.metadata()?.len() <= said {
        // It has not grown, and yet there may be more: then its size is not what there is in it.
        reading.up_to(&mut file, u64::MAX)?;
    }
    let HashedInput { hasher, size, kept, .. } = reading;
    let bytes = if let Some(kept) = kept {
        ReadAgain::Memory(kept.into())
    } else {
        file.rewind()?;
        ReadAgain::File(file)
    };
    let hash = ContentHash(hasher.finalize().into());
    Ok(FileContent { hash, size, modified_ms: modified_ms(&before), bytes })
}

/// Times before 1970, and beyond 48 bits of milliseconds, are none that an asset can have.
fn modified_ms(meta: &Metadata) -> Option<u64> {
    let since = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().filter(|ms| ms >> 48 == 0)
}

struct HashedInput {
    hasher: Sha256,
    size: u64,
    /// All of it, as long as it is little.
    kept: Option<Vec<u8>>,
    kept_max: usize,
}

impl HashedInput {
    /// Reads until there are `end` bytes, or no more.
    fn up_to(&mut self, file: &mut File, end: u64) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while self.size < end {
            let room = usize::try_from(end - self.size).unwrap_or(usize::MAX).min(chunk.len());
            let read = match file.read(&mut chunk[..room]) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.hasher.update(&chunk[..read]);
            self.size += read as u64;
            match &mut self.kept {
                Some(kept) if kept.len() + read <= self.kept_max => kept.extend_from_slice(&chunk[..read]),
                kept => *kept = None,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    fn file_of(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn small_content_is_read_once_and_large_content_again() {
        let (_dir, path) = file_of(b"small");
        let content = read(open(&path).unwrap()).unwrap();
        assert_eq!(content.hash, ContentHash(Sha256::digest(b"small").into()));
        assert!(matches!(&content.bytes, ReadAgain::Memory(bytes) if **bytes == *b"small"));
        let large = vec![7; KEPT_BYTES_MAX + 1];
        let (_dir, path) = file_of(&large);
        let content = read(open(&path).unwrap()).unwrap();
        assert_eq!(content.size, large.len() as u64);
        let ReadAgain::File(mut file) = content.bytes else { panic!("it is too large to be kept") };
        let mut again = Vec::new();
        file.read_to_end(&mut again).unwrap();
        assert_eq!(again, large);
    }

    #[test]
    fn the_time_of_a_file_is_kept_where_an_asset_can_have_it() {
        let (_dir, path) = file_of(b"x");
        let set = |time| File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let kept = || read(open(&path).unwrap()).unwrap().modified_ms;
        set(UNIX_EPOCH + Duration::from_millis(1_500_000_000_123));
        assert_eq!(kept(), Some(1_500_000_000_123));
        set(UNIX_EPOCH);
        assert_eq!(kept(), Some(0));
        set(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(kept(), None, "before there were any");
        // Of the file system, which may not know such a time.
        let late = UNIX_EPOCH + Duration::from_millis(1 << 48);
        let file = File::options().write(true).open(&path).unwrap();
        if file.set_modified(late).is_ok() && file.metadata().unwrap().modified().unwrap() == late {
            assert_eq!(kept(), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_size_that_says_nothing_is_not_believed() {
        // Says 0 bytes.
        let content = read(open(Path::new("/proc/version")).unwrap()).unwrap();
        assert_eq!(content.size, std::fs::read("/proc/version").unwrap().len() as u64);
        // Says 4096.
        let sys = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
        if sys.exists() {
            assert_eq!(std::fs::metadata(sys).unwrap().len(), 4096);
            assert_eq!(read(open(sys).unwrap()).unwrap().size, std::fs::read(sys).unwrap().len() as u64);
        }
    }

    #[test]
    fn a_file_that_grows_is_taken_as_it_was_and_one_that_shrinks_is_refused() {
        let (_dir, path) = file_of(b"before");
        let file = open(&path).unwrap();
        let mut reading =
            HashedInput { hasher: Sha256::new(), size: 0, kept: Some(Vec::new()), kept_max: KEPT_BYTES_MAX };
        let mut again = file.try_clone().unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b" and after").unwrap();
        reading.up_to(&mut again, 6).unwrap();
        assert_eq!(reading.kept.as_deref(), Some(b"before".as_slice()));
        let shorter = ReadError::Shorter { read: 2, size: 6 }.to_string();
        assert!(shorter.contains("became shorter while it was read"), "{shorter}");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR.union(rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let refused = open(&path).unwrap_err().to_string();
        assert!(refused.contains("a named pipe") && refused.contains("put - <"), "{refused}");
    }
}
