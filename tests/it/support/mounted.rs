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
        Self::mount(&["-t", "tmpfs", "-o", options, "tmpfs"], dir)
    }

    /// What `from` has, at `dir` as well. `None` as with [`Self::new`].
    pub(crate) fn bind(from: &Path, dir: &Path) -> Option<Self> {
        Self::mount(&["--bind", from.to_str().expect("UTF-8")], dir)
    }

    /// Changes how it is mounted.
    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("mount runs");
        assert!(done.success(), "{options}");
    }

    fn mount(args: &[&str], dir: &Path) -> Option<Self> {
        match Command::new("mount").args(args).arg(dir).output() {
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
