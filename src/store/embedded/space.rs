//! Whether the disk has room, without asking it each time.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::store::StoreError;

/// How long an answer of the file system is believed.
const FRESH: Duration = Duration::from_secs(1);

/// Keeps count of the room left on the disk under `dir`, less a reserve.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    reserve_bytes: u64,
    /// When we last asked, and what has been left since: the answer, less what was claimed after it.
    left: Mutex<Option<(Instant, u64)>>,
}

impl Space {
    pub(super) fn new(dir: PathBuf, reserve_bytes: u64) -> Self {
        Self { dir, reserve_bytes, left: Mutex::new(None) }
    }

    /// Says that `bytes` are about to be written.
    ///
    /// # Errors
    /// [`StoreError::Full`] if they would go into the reserve.
    pub(super) fn claim(&self, bytes: u64) -> Result<(), StoreError> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = bytes.saturating_add(self.reserve_bytes);
        let known = left.filter(|(asked, _)| asked.elapsed() < FRESH);
        let (asked, free) = match known {
            Some((asked, free)) if free >= needed => (asked, free),
            // Too little as we count it, but space may have been freed: ask before refusing.
            Some(_) | None => (Instant::now(), self.ask()?),
        };
        if free < needed {
            *left = None;
            return Err(StoreError::Full(format!(
                "the disk that holds {} has {} free, and {} are kept in reserve: free some space on it, or lower \
                 disk_reserve",
                self.dir.display(),
                ByteSize(free),
                ByteSize(self.reserve_bytes),
            )));
        }
        *left = Some((asked, free - bytes));
        Ok(())
    }

    fn ask(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|error| StoreError::Io {
            action: format!("ask how much space is free on the disk that holds {}", self.dir.display()),
            reason: error.to_string(),
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_never_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let free = Space::new(dir.path().into(), 0).ask().unwrap();
        assert!(Space::new(dir.path().into(), 0).claim(1).is_ok());
        let space = Space::new(dir.path().into(), free.saturating_mul(2));
        let refused = space.claim(1).unwrap_err();
        assert!(matches!(&refused, StoreError::Full(why) if why.contains("disk_reserve")), "{refused}");
    }

    #[test]
    fn claims_add_up_between_two_questions() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path().into(), 0);
        space.claim(1).unwrap();
        let before = space.left.lock().unwrap().unwrap();
        space.claim(1000).unwrap();
        let after = space.left.lock().unwrap().unwrap();
        assert!(after.0 != before.0 || after.1 == before.1 - 1000);
    }
}
