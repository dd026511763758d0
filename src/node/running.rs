//! What a running node writes into its data directory about itself, so that commands which are started there find it.
//!
//! The directory's lock says whether it still runs; the file alone says nothing, since a killed process leaves it behind.
//! Commands look into the working directory, too, which may be anybody's: what others could have put there counts as nothing,
//! or they would be told the token of the API, and everything that is uploaded.

use std::fs::{self, TryLockError};
use std::io;
use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DataDir;
use super::secrets::passphrase_sources;
use crate::config::{Config, Origin, Origins};
use crate::identity::{self, Keeper, Mend};

/// Most that is read of the file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How a running node is reached from its own machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningNode {
    pub(crate) pid: u32,
    pub(crate) api_url: String,
    /// The CAN Service, where it is asked without a token.
    pub(crate) store_url: Option<String>,
    /// Where the token of the agent's API is read.
    pub(crate) api_token_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) passphrase: PassphraseSource,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub(crate) enum PassphraseSource {
    #[default]
    DataDir,
    /// A file that the settings name.
    File {
        path: PathBuf,
        set_by: String,
        /// It is there to be read again; what came through a pipe is not.
        stays: bool,
    },
    /// The settings have its words.
    Setting {
        set_by: String,
        /// The start alone was given them, and they are kept in the data directory.
        kept: bool,
    },
}

impl PassphraseSource {
    pub(super) fn of(config: &Config, origins: &Origins) -> Self {
        let sources = passphrase_sources(config);
        let origin = origins.get(sources.setting());
        let set_by = origin.map_or_else(|| "the configuration".to_owned(), Origin::to_string);
        match (sources.configured, sources.file) {
            (Some(_), _) => Self::Setting { set_by, kept: origin.is_some_and(Origin::is_passing) },
            (None, Some(path)) => Self::File {
                path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
                set_by,
                stays: path.is_file(),
            },
            (None, None) => Self::DataDir,
        }
    }
}

/// What is known of the node of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePresence {
    /// No node has used this directory, or we may not look, or somebody else could have made what is there.
    Unknown,
    Stopped,
    /// It runs, and has not written down yet where it is.
    Starting,
    Running(RunningNode),
}

impl NodePresence {
    /// Looks whether the node of a data directory runs. Changes nothing there.
    pub(crate) fn of(dir: &DataDir) -> Self {
        if identity::check_dir(dir.path(), Keeper::Node, Mend::Never).is_err() {
            return Self::Unknown;
        }
        let Ok(lock) = identity::open_own(&dir.lock()) else { return Self::Unknown };
        // Many programs have a file of that name. Ours writes the other ones in its first moments.
        let marks = [dir.path().join(identity::KEY_FILE), dir.running()];
        if !marks.iter().any(|mark| identity::open_own(mark).is_ok()) {
            return Self::Unknown;
        }
        match lock.try_lock_shared() {
            Ok(()) => Self::Stopped,
            Err(TryLockError::Error(_)) => Self::Unknown,
            Err(TryLockError::WouldBlock) => match read(&dir.running()) {
                Ok(node) => Self::Running(node),
                Err(e) if matches!(e.kind(), NotFound | InvalidData | UnexpectedEof) => Self::Starting,
                Err(_) => Self::Unknown,
            },
        }
    }
}

fn read(path: &Path) -> io::Result<RunningNode> {
    let file = identity::open_own(path)?;
    let node: RunningNode =
        serde_json::from_reader(io::Read::take(file, FILE_BYTES_MAX)).map_err(io::Error::from)?;
    let urls = [Some(&node.api_url), node.store_url.as_ref()];
    let is_here = urls.into_iter().flatten().all(|url| is_of_this_machine(url));
    if is_here { Ok(node) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Whether a URL leads to an address of this machine, as a node writes its own.
fn is_of_this_machine(url: &str) -> bool {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let Some(Ok(mut addr)) = authority.map(str::parse::<SocketAddr>) else { return false };
    addr.set_port(0);
    addr.ip().is_loopback() || UdpSocket::bind(addr).is_ok()
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
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn node(api_url: &str) -> RunningNode {
        RunningNode {
            pid: 7,
            api_url: api_url.into(),
            store_url: None,
            api_token_file: Some("/token".into()),
            passphrase: PassphraseSource::DataDir,
        }
    }

    fn held(dir: &DataDir) -> File {
        let lock = File::options().create(true).append(true).open(dir.lock()).unwrap();
        set_mode(&dir.lock(), 0o600);
        lock.lock().unwrap();
        lock
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_node_is_where_its_lock_is_held() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path());
        assert_eq!(NodePresence::of(&dir), NodePresence::Unknown);
        let lock = held(&dir);
        assert_eq!(NodePresence::of(&dir), NodePresence::Unknown, "any program's");
        fs::write(home.path().join(identity::KEY_FILE), "key").unwrap();
        set_mode(&home.path().join(identity::KEY_FILE), 0o600);
        assert_eq!(NodePresence::of(&dir), NodePresence::Starting);
        let node = node("http://127.0.0.1:1");
        node.write(&dir).unwrap();
        assert_eq!(NodePresence::of(&dir), NodePresence::Running(node));
        fs::write(dir.running(), "garbage").unwrap();
        assert_eq!(NodePresence::of(&dir), NodePresence::Starting);
        drop(lock);
        assert_eq!(NodePresence::of(&dir), NodePresence::Stopped, "whatever was left behind");
        forget(&dir);
        assert!(!dir.running().exists());
        assert_eq!(NodePresence::of(&dir), NodePresence::Stopped);
    }

    #[test]
    fn what_others_can_write_is_no_node() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path());
        let _lock = held(&dir);
        let node = node("http://127.0.0.1:1");
        node.write(&dir).unwrap();
        for (path, private) in [(dir.lock(), 0o600), (dir.running(), 0o600), (dir.path().to_owned(), 0o700)] {
            assert_eq!(NodePresence::of(&dir), NodePresence::Running(node.clone()));
            for more in [0o002, 0o022, 0o006] {
                set_mode(&path, private | more);
                assert_eq!(NodePresence::of(&dir), NodePresence::Unknown, "{} {more:o}", path.display());
            }
            set_mode(&path, private);
        }
        // Others' files, which only root can make here.
        for path in [dir.lock(), dir.running()] {
            if std::os::unix::fs::chown(&path, Some(4711), None).is_ok() {
                assert_eq!(NodePresence::of(&dir), NodePresence::Unknown, "{}", path.display());
                std::os::unix::fs::chown(&path, Some(0), None).unwrap();
            }
        }
        assert_eq!(NodePresence::of(&dir), NodePresence::Running(node));
    }

    #[test]
    fn a_node_is_on_this_machine() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path());
        let _lock = held(&dir);
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://192.0.2.1:1", false),
            ("http://localhost.example:1", false),
            ("http://127.0.0.1:1@192.0.2.1:1", false),
            ("http://127.0.0.1:1?@192.0.2.1", false),
            ("https://127.0.0.1:1", false),
        ] {
            let api = node(url);
            api.write(&dir).unwrap();
            assert_eq!(NodePresence::of(&dir) == NodePresence::Running(api), expected, "{url}");
            let store =
                RunningNode { store_url: Some(format!("{url}/api/v1")), ..node("http://127.0.0.1:1") };
            store.write(&dir).unwrap();
            assert_eq!(NodePresence::of(&dir) == NodePresence::Running(store), expected, "{url}");
        }
    }

    #[test]
    fn other_kinds_of_files_are_no_node_and_hold_nobody_up() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(home.path());
        fs::write(home.path().join(identity::KEY_FILE), "key").unwrap();
        set_mode(&home.path().join(identity::KEY_FILE), 0o600);
        fs::create_dir(dir.lock()).unwrap();
        assert_eq!(NodePresence::of(&dir), NodePresence::Unknown);
        fs::remove_dir(dir.lock()).unwrap();
        let pipe = |path: &Path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        };
        pipe(&dir.lock());
        assert_eq!(NodePresence::of(&dir), NodePresence::Unknown);
        assert_eq!(NodePresence::of(&DataDir::new(dir.lock())), NodePresence::Unknown, "no directory");
        fs::remove_file(dir.lock()).unwrap();
        let _lock = held(&dir);
        pipe(&dir.running());
        assert_eq!(NodePresence::of(&dir), NodePresence::Unknown);
    }
}
