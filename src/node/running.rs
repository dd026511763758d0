//! What a running node writes into its data directory about itself, so that commands which are started there find it.
//!
//! The directory's lock says whether it still runs; the file alone says nothing, since a killed process leaves it behind.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DataDir;
use crate::identity;

/// Most that is read of the file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How a running node is reached from its own machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningNode {
    pub(crate) pid: u32,
    pub(crate) api_url: String,
    /// The CAN Service, where it is asked without a token.
    #[serde(default)]
    pub(crate) store_url: Option<String>,
    /// Where the token of the agent's API is read.
    #[serde(default)]
    pub(crate) api_token_file: Option<PathBuf>,
    /// Where the passphrase is read, if a setting named a file.
    #[serde(default)]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// What is known of the node of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePresence {
    /// No node has used this directory, or we may not look.
    Unknown,
    Stopped,
    /// It runs, and has not written down yet where it is.
    Starting,
    Running(RunningNode),
}

impl NodePresence {
    /// Looks whether the node of a data directory runs. Changes nothing there.
    pub(crate) fn of(dir: &DataDir) -> Self {
        let Ok(lock) = File::open(dir.lock()) else { return Self::Unknown };
        match lock.try_lock_shared() {
            Ok(()) => Self::Stopped,
            Err(TryLockError::Error(_)) => Self::Unknown,
            Err(TryLockError::WouldBlock) => match read(&dir.running()) {
                Ok(node) => Self::Running(node),
                // Another user's: it is not for us to know.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Self::Unknown,
                Err(_) => Self::Starting,
            },
        }
    }
}

fn read(path: &Path) -> io::Result<RunningNode> {
    let file = File::open(path)?;
    serde_json::from_reader(io::Read::take(file, FILE_BYTES_MAX)).map_err(io::Error::from)
}

impl RunningNode {
    /// Writes it down. The directory's lock has to be held.
    pub(super) fn write(&self, dir: &DataDir) -> Result<(), String> {
        let text = serde_json::to_string(self).map_err(|e| e.to_string())?;
        identity::write_secret(&dir.running(), &text).map_err(|e| e.to_string())
    }
}

/// Removes what a node wrote there. The directory's lock has to be held.
pub(super) fn forget(dir: &DataDir) {
    // What stays means nothing once the lock is free.
    let _ = fs::remove_file(dir.running());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_where_its_lock_is_held() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path());
        assert_eq!(NodePresence::of(&dir), NodePresence::Unknown);
        let node = RunningNode {
            pid: 7,
            api_url: "http://127.0.0.1:1".into(),
            store_url: None,
            api_token_file: Some("/token".into()),
            passphrase_file: None,
        };
        let lock = File::options().create(true).append(true).open(dir.lock()).unwrap();
        assert_eq!(NodePresence::of(&dir), NodePresence::Stopped);
        lock.lock().unwrap();
        assert_eq!(NodePresence::of(&dir), NodePresence::Starting);
        node.write(&dir).unwrap();
        assert_eq!(NodePresence::of(&dir), NodePresence::Running(node));
        fs::write(dir.running(), "garbage").unwrap();
        assert_eq!(NodePresence::of(&dir), NodePresence::Starting);
        drop(lock);
        assert_eq!(NodePresence::of(&dir), NodePresence::Stopped, "whatever was left behind");
        forget(&dir);
        assert!(!dir.running().exists());
    }
}
