//! Writing pieces at their place in a file.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::Bytes;

/// Most slices that one system call takes.
const SLICES_MAX: usize = 1024;

/// Writes those of `chunks`, which begin at `offset`, that lie in `gap`.
pub(super) fn write_at(file: &File, offset: u64, chunks: &[Bytes], gap: &Range<u64>) -> io::Result<()> {
    let mut slices = Vec::with_capacity(chunks.len());
    let mut at = offset;
    for chunk in chunks {
        let (start, end) = (at, at + chunk.len() as u64);
        at = end;
        let (from, to) = (start.max(gap.start), end.min(gap.end));
        if from < to {
            // Both lie within the chunk.
            let index = |position: u64| usize::try_from(position - start).unwrap_or(chunk.len());
            slices.push(IoSlice::new(&chunk[index(from)..index(to)]));
        }
    }
    let (mut left, mut at) = (slices.as_mut_slice(), gap.start);
    while !left.is_empty() {
        let most = left.len().min(SLICES_MAX);
        match rustix::io::pwritev(file, &left[..most], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                IoSlice::advance_slices(&mut left, n);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
