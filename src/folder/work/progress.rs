//! How far a folder is: told by the thread that works on it, read by its actor at any time.

use std::time::Instant;

use parking_lot::Mutex;

use crate::clock::eta_secs;
use crate::folder::report::FolderProgress;

/// Files that are read or written now, and contents that come.
#[derive(Debug, Default)]
pub(crate) struct WorkMeter(Mutex<MeterState>);

#[derive(Debug, Default)]
struct MeterState {
    /// What is done now, and since when.
    now: Option<(FolderProgress, Instant)>,
    /// Since when contents come, and the most that was missing since.
    coming: Option<(Instant, u64)>,
    missing_bytes: u64,
}

impl WorkMeter {
    fn with<T>(&self, change: impl FnOnce(&mut MeterState) -> T) -> T {
        change(&mut self.0.lock())
    }

    /// So many files are read or written from now on.
    pub(super) fn begin(&self, files: u64, bytes: u64) {
        self.with(|measured| {
            let begun =
                FolderProgress { files_total: files, bytes_total: bytes, ..FolderProgress::default() };
            measured.now = (files > 0).then(|| (begun, Instant::now()));
        });
    }

    /// So many of them are done, or not done and left for later.
    pub(super) fn add(&self, files: u64, bytes: u64) {
        self.with(|measured| {
            if let Some((now, _)) = &mut measured.now {
                now.files = (now.files + files).min(now.files_total);
                now.bytes = (now.bytes + bytes).min(now.bytes_total);
            }
        });
    }

    /// Nothing is read or written any more; so many bytes of contents are missing.
    pub(crate) fn end(&self, missing_bytes: u64) {
        self.with(|measured| {
            measured.now = None;
            // What is missing in addition begins the measure anew.
            let goes_on = measured.coming.filter(|(_, most)| missing_bytes <= *most);
            measured.coming = (missing_bytes > 0).then(|| goes_on.unwrap_or((Instant::now(), missing_bytes)));
            measured.missing_bytes = missing_bytes;
        });
    }

    /// What is done now, and seconds until nothing is left of it and nothing is missing.
    pub(crate) fn read(&self) -> (Option<FolderProgress>, Option<u64>) {
        self.with(|measured| {
            let left = |done: u64, left: u64, since: Instant| eta_secs(left, rate(done, since));
            if let Some((now, since)) = measured.now {
                return (Some(now), left(now.bytes, now.bytes_total - now.bytes, since));
            }
            let coming = measured
                .coming
                .and_then(|(since, most)| left(most - measured.missing_bytes, measured.missing_bytes, since));
            (None, coming)
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate is an estimate")]
fn rate(bytes: u64, since: Instant) -> f64 {
    let secs = since.elapsed().as_secs_f64();
    if secs > 0.0 { bytes as f64 / secs } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_what_was_done() {
        let meter = WorkMeter::default();
        assert_eq!(meter.read(), (None, None));
        meter.begin(3, 300);
        assert_eq!(meter.read().1, None, "nobody knows how fast it goes");
        meter.add(2, 150);
        let (progress, eta) = meter.read();
        let progress = progress.unwrap();
        assert_eq!((progress.files, progress.files_total, progress.bytes), (2, 3, 150));
        assert!(eta.is_some());
        meter.add(5, 500);
        assert_eq!(meter.read().0.unwrap().files, 3);
        meter.end(100);
        assert_eq!(meter.read(), (None, None));
        meter.end(40);
        assert!(meter.read().1.is_some());
        meter.end(0);
        assert_eq!(meter.read(), (None, None));
    }
}
