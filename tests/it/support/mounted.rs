//! File systems of a test's own, for disks that are full.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says something beside the harness's own output.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A file system of its own; unmounted when dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// `None`, having said why, where mounting is not allowed.
    pub(crate) fn new(dir: &Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir.to_owned())),
            Ok(output) => {
                tell(&format!("skipped: cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                tell(&format!("skipped: cannot mount: {error}"));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
