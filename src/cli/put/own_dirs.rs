//! What belongs to a node, and is never stored: keys, databases and the store itself would go to every other machine.
//!
//! A data directory is known by what is in it, so that a copy, a backup and another user's are as safe as the one in use, however
//! they are reached.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::node::backup::{BACKUP_MARK, RESTORING};

/// What a node, or a CAN Service, makes in its data directory.
const OWN_NAMES: [&str; 13] = [
    "agent.db",
    "clock.db",
    "libraries.db",
    "lock",
    "partial",
    "passphrase",
    "passphrase.former",
    "passphrase.rotated",
    RESTORING,
    "running.json",
    "secret.key",
    "status.txt",
    "store",
];
/// Entries of a directory by which it is judged.
const ENTRIES_LOOKED_AT: usize = 300;
const KEY_FILE: &str = "sync_api_key";
/// One of these and one of those make a data directory.
const DATABASES: [&str; 3] = ["agent.db", "clock.db", "libraries.db"];
const MARKS: [&str; 5] = ["secret.key", "passphrase", "lock", "partial", KEY_FILE];
/// What SQLite adds to the name of a database.
const DATABASE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Files with secrets of a node, wherever they are and whatever names and links lead to them.
#[derive(Debug, Default)]
pub(super) struct SecretFiles(HashSet<(u64, u64)>);

impl SecretFiles {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let found = paths.iter().filter_map(|path| fs::metadata(path).ok());
        Self(found.filter(Metadata::is_file).map(|meta| (meta.dev(), meta.ino())).collect())
    }

    pub(super) fn contains(&self, meta: &Metadata) -> bool {
        self.0.contains(&(meta.dev(), meta.ino()))
    }
}

/// Why a file or directory belongs to a node: the directory that is its own.
pub(super) fn owner(path: &Path) -> Option<PathBuf> {
    let real = std::fs::canonicalize(path).ok()?;
    let mut below: Vec<Component<'_>> = Vec::new();
    let mut dir = real.as_path();
    loop {
        let inside = match below.last() {
            // The directory itself.
            None => is_own_dir(dir),
            Some(name) => (is_data_dir(dir) && is_own_name(name)) || is_store(dir) || is_backup(dir),
        };
        if inside {
            return Some(dir.to_owned());
        }
        below.push(dir.components().next_back()?);
        dir = dir.parent()?;
    }
}

/// Whether a directory is a data directory, the store within one, or a backup.
pub(super) fn is_own_dir(dir: &Path) -> bool {
    is_data_dir(dir) || is_store(dir) || is_backup(dir)
}

/// It holds the keys of a node, and everything that it has.
fn is_backup(dir: &Path) -> bool {
    dir.join(BACKUP_MARK).is_file()
}

fn is_data_dir(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).symlink_metadata().is_ok();
    // A node's, with its store elsewhere or a copy without its key, too; a CAN Service's, which may have its key elsewhere.
    (DATABASES.iter().any(|name| has(name)) && MARKS.iter().any(|name| has(name)))
        || is_store(&dir.join("store"))
}

fn is_store(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).symlink_metadata().is_ok();
    // Others call a database and a directory so, too: ours is locked while it is in use, or holds contents by their hashes.
    has("store.db") && (has("store.lock") || holds_contents(&dir.join("content")))
}

/// Whether there is a directory of contents by their hashes: `ab/cd/abcd…`.
fn holds_contents(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    let names = entries.take(ENTRIES_LOOKED_AT).map(|entry| entry.map(|entry| entry.file_name()));
    let is_ours = |name: &std::ffi::OsString| {
        let bytes = name.as_encoded_bytes();
        bytes.len() == 2 && bytes.iter().all(u8::is_ascii_hexdigit)
    };
    names.map_while(Result::ok).all(|name| is_ours(&name))
}

fn is_own_name(name: &Component<'_>) -> bool {
    let Some(name) = name.as_os_str().to_str() else { return false };
    let database = DATABASE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    // Files that are being written have a name of their own until they are complete.
    database == KEY_FILE || OWN_NAMES.contains(&database) || name.starts_with(".tmp")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn make(home: &Path, files: &[&str]) {
        for file in files {
            let path = home.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn what_is_in_a_data_directory_belongs_to_its_node_however_it_is_reached() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        make(home, &["a/node/secret.key", "a/node/agent.db", "a/node/agent.db-wal", "a/node/photo.jpg"]);
        make(
            home,
            &["a/node/store/store.db", "a/node/store/content/ab/cd/abcd", "a/node/partial/x", "a/photo.jpg"],
        );
        make(home, &["service/store/store.db", "service/store/store.lock", "service/notes.txt"]);
        make(home, &["b/store/photo.jpg", "b/secret.key", "b/lock"]);
        make(home, &["web/store.db", "web/content/index.md", "web/content/ab/x", "web/photo.jpg"]);
        make(home, &["backup/can-sync-backup", "backup/states/1/secret.key", "backup/content/ab/cd/abcd"]);
        make(home, &["copy/passphrase", "copy/clock.db", "copy/notes.txt"]);
        symlink(home.join("a/node"), home.join("link")).unwrap();
        symlink(home.join("a/node/secret.key"), home.join("key")).unwrap();
        let owned = |path: &str| owner(&home.join(path)).is_some();
        for path in [
            "a/node",
            "a/node/secret.key",
            "a/node/agent.db-wal",
            "a/node/store",
            "a/node/store/content",
            "a/node/store/content/ab/cd/abcd",
            "a/node/partial/x",
            "service",
            "service/store/store.lock",
            "link",
            "link/store/store.db",
            "key",
            "a/../a/node/secret.key",
            "copy",
            "copy/passphrase",
            "backup",
            "backup/states/1/secret.key",
            "backup/content/ab/cd/abcd",
        ] {
            assert!(owned(path), "{path}");
        }
        // What a person keeps beside it is theirs, by name.
        for path in [
            "a",
            "a/photo.jpg",
            "a/node/photo.jpg",
            "service/notes.txt",
            "b",
            "b/store/photo.jpg",
            "b/secret.key",
            "web",
            "web/photo.jpg",
            "copy/notes.txt",
        ] {
            assert!(!owned(path), "{path}");
        }
    }
}
