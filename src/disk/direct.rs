//! Writing past the system's memory.
//!
//! What is written once and not read soon gains nothing from being kept in memory, and the copy into new pages costs more than all
//! hashing of it: 1 GiB with a sync at the end took 2.8 s that way, and 0.6 s past it. The system asks for whole pages in memory, in
//! the file and in length; what does not fit, and file systems that cannot do it, are written as usual.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What addresses, offsets and lengths are multiples of: the page, which no disk in use exceeds.
const ALIGNMENT: usize = 4096;

/// A buffer that begins on a page, is filled from its start, and never grows.
#[derive(Default)]
pub struct PageBuffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
    filled: usize,
}

impl fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageBuffer").field("filled", &self.filled).finish_non_exhaustive()
    }
}

impl PageBuffer {
    /// An empty one for so many bytes.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, length, filled: 0 }
    }

    /// The bytes that it was filled with, from the start of a page.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.filled]
    }

    /// The part that is not filled yet, to be written to before [`Self::advance`].
    pub fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start + self.filled..self.start + self.length]
    }

    pub fn is_full(&self) -> bool {
        self.filled == self.length
    }

    /// Counts the next `bytes` of the free part as filled, at most to the end of the buffer.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.length);
    }

    /// Keeps the first `bytes` that it was filled with, and frees the rest.
    pub fn truncate(&mut self, bytes: usize) {
        self.filled = self.filled.min(bytes);
    }

    /// Copies the start of `bytes` behind what is there, as far as there is room; returns how many bytes were copied.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let room = self.free();
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.advance(length);
        length
    }
}

/// A second handle of a file, for what is written past memory.
#[derive(Debug)]
pub struct DirectWriter {
    direct: Option<File>,
    /// A write past memory failed; no other is tried on this file.
    refused: AtomicBool,
}

impl DirectWriter {
    /// Writes nothing past memory.
    pub fn none() -> Self {
        Self { direct: None, refused: AtomicBool::new(false) }
    }

    /// For the file at `path`, where its file system can do that.
    pub fn of(path: &Path) -> Self {
        Self { direct: open(path), ..Self::none() }
    }

    /// Writes all of `bytes` at `at`: whole pages past memory, the rest through `file`, which is the same one.
    pub fn write_all_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let written = self.write_pages(bytes, at);
        file.write_all_at(&bytes[written..], at + written as u64)
    }

    /// Writes whole pages past memory, from the start of `bytes`, until one fails; returns how many bytes were written. The failure is
    /// not returned: if it lasts, writing the rest as usual meets it again.
    fn write_pages(&self, bytes: &[u8], at: u64) -> usize {
        let Some(direct) = self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed)) else {
            return 0;
        };
        if bytes.as_ptr().align_offset(ALIGNMENT) != 0 || !at.is_multiple_of(ALIGNMENT as u64) {
            return 0;
        }
        let pages = bytes.len() - bytes.len() % ALIGNMENT;
        let mut written = 0;
        while written < pages && written % ALIGNMENT == 0 {
            match direct.write_at(&bytes[written..pages], at + written as u64) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "nothing more is written past memory");
                    self.refused.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        written
    }
}

#[cfg(target_os = "linux")]
fn open(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().write(true).custom_flags(flags).open(path).ok()
}

/// Where the system has another way, or none.
#[cfg(not(target_os = "linux"))]
fn open(_: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn whatever_lies_how_it_is_written_at_its_place() {
        // Beside the program: the system's directory for temporary files may be memory.
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = dir.path().join("file");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        let mut buffer = PageBuffer::new(5 * ALIGNMENT);
        let pattern: Vec<u8> = (0..251).cycle().take(6 * ALIGNMENT).collect();
        assert_eq!(buffer.extend(&pattern), 5 * ALIGNMENT);
        assert!(buffer.is_full() && buffer.filled() == &pattern[..5 * ALIGNMENT]);
        assert_eq!(buffer.filled().as_ptr().align_offset(ALIGNMENT), 0);
        let mut expected = vec![0; 12 * ALIGNMENT];
        let pieces = [
            (0..5 * ALIGNMENT, 0),
            (0..3 * ALIGNMENT + 7, 4 * ALIGNMENT),
            (0..ALIGNMENT - 1, 8 * ALIGNMENT),
            (13..2 * ALIGNMENT + 13, 8 * ALIGNMENT),
            (0..ALIGNMENT, 10 * ALIGNMENT + 1),
            (0..0, 3),
        ];
        for direct in [DirectWriter::of(&path), DirectWriter::none()] {
            expected.fill(0);
            file.set_len(0).unwrap();
            file.set_len(expected.len() as u64).unwrap();
            for (piece, at) in pieces.clone() {
                let bytes = &buffer.filled()[piece];
                direct.write_all_at(&file, bytes, at as u64).unwrap();
                expected[at..at + bytes.len()].copy_from_slice(bytes);
            }
            assert_eq!(fs::read(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_system_that_refuses_is_written_as_usual_and_asked_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        // A handle that cannot be written.
        let direct = DirectWriter { direct: File::open(&path).ok(), ..DirectWriter::none() };
        let mut buffer = PageBuffer::new(2 * ALIGNMENT);
        buffer.advance(2 * ALIGNMENT);
        direct.write_all_at(&file, buffer.filled(), 0).unwrap();
        assert!(direct.refused.load(Ordering::Relaxed));
        direct.write_all_at(&file, buffer.filled(), 2 * ALIGNMENT as u64).unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![0; 4 * ALIGNMENT]);
    }
}
