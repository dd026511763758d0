//! Another program that copies files to and from object storage, with its defaults.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::service::Service;
use super::support::process::Process;
use super::support::{Result, patience};

const PROGRAM: &str = "rclone";
const REMOTE: &str = "ROOM";

/// Whether there is one to measure.
pub(crate) fn is_installed() -> bool {
    let asked = Command::new(PROGRAM).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

pub(crate) struct Rclone(Service);

impl Rclone {
    pub(crate) const fn new(service: Service) -> Self {
        Self(service)
    }

    /// Copies the files of a directory to a new place there: where that is, and how long it took.
    pub(crate) async fn put(&self, dir: &Path, bytes: u64) -> Result<(String, Duration)> {
        let remote = self.0.new_remote(REMOTE);
        let took = self.copy(&dir.display().to_string(), &remote, bytes).await?;
        Ok((remote, took))
    }

    /// Copies them from there into an empty directory.
    pub(crate) async fn get(&self, remote: &str, dir: &Path, bytes: u64) -> Result<Duration> {
        self.copy(remote, &dir.display().to_string(), bytes).await
    }

    async fn copy(&self, from: &str, to: &str, bytes: u64) -> Result<Duration> {
        let mut command = Command::new(PROGRAM);
        // Nothing of the user's own: this path is what rclone takes for an empty configuration.
        command.args(["copy", "--s3-no-check-bucket", "--config", "/notfound", from, to]);
        command
            .env_clear()
            .envs(["PATH", "HOME"].map(|name| (name, std::env::var_os(name).unwrap_or_default())));
        command.envs(self.0.rclone_variables(REMOTE));
        Process::spawn(&mut command)?.ended_well(patience(bytes)).await
    }
}
