//! Where exported files go: below one directory, never through a link, never over anything.
//!
//! Paths and names come from other machines. Each component is one name of a file system, whatever was written there.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::cli::error::{CliError, Exit};
use crate::entry::EntryPath;
use crate::entry::path::{COMPONENT_BYTES_MAX, is_own};
use crate::record::ContentHash;
use crate::text::is_hazard;

/// Bytes of a name that are left for what tells it apart from a namesake.
const SUFFIX_BYTES: usize = 70;
/// Longer extensions are none.
const EXTENSION_BYTES_MAX: usize = 16;
/// Names that are tried for a directory whose own is a file's.
const DIRECTORY_NAMES: u32 = 9;
/// What is read of a namesake at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Where a file is to be, from the root: names of directories, and its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ExportName {
    above: Vec<String>,
    name: String,
}

impl fmt::Display for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for above in &self.above {
            write!(f, "{above}/")?;
        }
        f.write_str(&self.name)
    }
}

impl ExportName {
    /// At the path that a file of a folder has.
    pub(super) fn of_path(path: &str, hash: ContentHash) -> Self {
        let Ok(path) = EntryPath::parse(path) else { return Self::of_asset(Some(path), hash) };
        let mut above: Vec<String> = path.as_str().split('/').map(str::to_owned).collect();
        let name = above.pop().unwrap_or_else(|| hash.to_string());
        Self { above, name }
    }

    /// By a file name, which may be anything.
    pub(super) fn of_asset(filename: Option<&str>, hash: ContentHash) -> Self {
        let name = filename.and_then(safe_name).unwrap_or_else(|| hash.to_string());
        Self { above: Vec::new(), name }
    }

    /// The name that it has where another file has its own: the beginning of the hash is in it, or all of the hash.
    fn apart(&self, hash: ContentHash, digits: usize) -> String {
        let (stem, extension) = split(&self.name);
        let hash = hash.to_string();
        let suffix = format!(" ({}){extension}", &hash[..digits]);
        let room = COMPONENT_BYTES_MAX.saturating_sub(suffix.len()).min(stem.len());
        format!("{}{suffix}", &stem[..stem.floor_char_boundary(room)])
    }
}

/// Stem and extension, with its dot.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= EXTENSION_BYTES_MAX => name.split_at(at),
        Some(_) | None => (name, ""),
    }
}

/// A file name as one component: no separators, nothing that acts on a terminal or hides, not too long, and not one of our own.
/// `None` if nothing is left of it.
fn safe_name(name: &str) -> Option<String> {
    let safe: String =
        name.chars().map(|c| if matches!(c, '/' | '\\') || is_hazard(c) { '_' } else { c }).collect();
    let safe = safe.trim();
    if safe.is_empty() || safe.chars().all(|c| matches!(c, '.' | '_' | ' ')) {
        return None;
    }
    let safe = if is_own(safe) { format!("_{safe}") } else { safe.to_owned() };
    if safe.len() <= COMPONENT_BYTES_MAX {
        return Some(safe);
    }
    let (stem, extension) = split(&safe);
    let room = COMPONENT_BYTES_MAX - SUFFIX_BYTES - extension.len();
    Some(format!("{}{extension}", &stem[..stem.floor_char_boundary(room.min(stem.len()))]))
}

/// Where a file may go.
#[derive(Debug)]
pub(super) enum Place {
    /// It is there already.
    There(PathBuf),
    /// In this directory, under a name that is chosen once it is whole.
    Free(PathBuf),
}

/// The directory that is exported to.
#[derive(Debug)]
pub(super) struct ExportDir {
    root: PathBuf,
}

impl ExportDir {
    /// Makes it, if it is not there.
    ///
    /// # Errors
    /// It cannot be made, is no directory, or holds a node's own data.
    pub(super) fn make(dir: &Path) -> Result<Self, CliError> {
        let shown = dir.display();
        if fs::metadata(dir).is_ok_and(|meta| !meta.is_dir()) {
            return Err(CliError::new(Exit::Usage, format!("'{shown}' is no directory"))
                .hint("name a directory for the files, or one that is to be made"));
        }
        // Before anything is made.
        let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let there = whole.ancestors().find(|above| above.exists()).unwrap_or(&whole);
        if let Some(own) = crate::cli::put::owner_of(there) {
            let own = own.display();
            let error = format!("'{shown}' belongs to the node whose data is in '{own}'");
            return Err(CliError::new(Exit::Usage, error).hint("export to a directory of your own"));
        }
        fs::create_dir_all(dir).map_err(|e| CliError::failure(format!("cannot make '{shown}': {e}")))?;
        let root =
            fs::canonicalize(dir).map_err(|e| CliError::failure(format!("cannot look at '{shown}': {e}")))?;
        Ok(Self { root })
    }

    /// Looks whether the file is there, and makes the directories above it.
    ///
    /// # Errors
    /// What the system says; no name is free.
    pub(super) fn place(&self, name: &ExportName, hash: ContentHash, size: u64) -> io::Result<Place> {
        let mut dir = self.root.clone();
        for above in &name.above {
            dir = directory(&dir, above)?;
        }
        match Self::free(&dir, name, hash, size)? {
            (path, true) => Ok(Place::There(path)),
            (_, false) => Ok(Place::Free(dir)),
        }
    }

    /// The first name that nothing has, or under which the file is, and then `true`.
    fn free(dir: &Path, name: &ExportName, hash: ContentHash, size: u64) -> io::Result<(PathBuf, bool)> {
        for called in [name.name.clone(), name.apart(hash, 8), name.apart(hash, 64)] {
            let path = dir.join(called);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() && meta.len() == size && is_same(&path, hash)? => {
                    return Ok((path, true));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, false)),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name that it could have is taken"))
    }

    /// A file in the making. It goes where it is dropped.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn temporary(dir: &Path, executable: bool) -> io::Result<NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        // As any new file: the umask takes its part.
        let mode = if executable { 0o777 } else { 0o666 };
        builder.prefix(".can-sync-export-").permissions(Permissions::from_mode(mode)).tempfile_in(dir)
    }

    /// Gives it a name that nothing has; `false` if it came to be there meanwhile.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn name(
        mut file: NamedTempFile,
        dir: &Path,
        name: &ExportName,
        hash: ContentHash,
        size: u64,
    ) -> io::Result<(PathBuf, bool)> {
        loop {
            let (path, is_there) = Self::free(dir, name, hash, size)?;
            if is_there {
                return Ok((path, false));
            }
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok((path, true)),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => file = error.file,
                Err(error) => return Err(error.error),
            }
        }
    }
}

/// The directory of this name, made if need be; beside it, where a file or a link has the name.
fn directory(dir: &Path, name: &str) -> io::Result<PathBuf> {
    for nth in 1..=DIRECTORY_NAMES {
        let called = if nth == 1 { name.to_owned() } else { format!("{name} ({nth})") };
        let path = dir.join(called);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => return Ok(path),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                // Another file made it meanwhile, or was put there.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if fs::symlink_metadata(&path)?.is_dir() {
                        return Ok(path);
                    }
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("files have the name of the directory '{name}'"),
    ))
}

/// Whether a file has this content.
fn is_same(path: &Path, hash: ContentHash) -> io::Result<bool> {
    let mut file: File = match crate::disk::open_plain(path) {
        Ok(file) => file,
        // What cannot be read is somebody's, and stays.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        Err(error) => return Err(error),
    };
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(ContentHash(hasher.finalize().into()) == hash),
            read => hasher.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: ContentHash = ContentHash([0xab; 32]);

    #[test]
    fn names_of_strangers_are_one_component() {
        let safe = |name: &str| ExportName::of_asset(Some(name), HASH).to_string();
        let hash = HASH.to_string();
        assert_eq!(safe("photo.jpg"), "photo.jpg");
        assert_eq!(safe("../../etc/passwd"), ".._.._etc_passwd");
        assert_eq!(safe("/etc/passwd"), "_etc_passwd");
        assert_eq!(safe("a\\b"), "a_b");
        assert_eq!(safe("new\nline\u{1b}\u{202e}"), "new_line__");
        for nothing in ["", " ", ".", "..", "/", "\0", "..."] {
            assert_eq!(safe(nothing), hash, "{nothing:?}");
        }
        assert_eq!(safe(".can-sync-folder"), "_.can-sync-folder");
        let long = safe(&format!("{}.jpeg", "\u{e4}".repeat(400)));
        assert!(long.len() <= COMPONENT_BYTES_MAX && split(&long).1 == ".jpeg", "{long}");
        assert_eq!(ExportName::of_path("a/b/c.txt", HASH).to_string(), "a/b/c.txt");
        assert_eq!(ExportName::of_path("a/../../c.txt", HASH).to_string(), "a_.._.._c.txt");
        let apart = ExportName::of_asset(Some("photo.jpg"), HASH).apart(HASH, 8);
        assert_eq!(apart, "photo (abababab).jpg");
    }

    #[test]
    fn nothing_is_written_over_or_through() {
        let home = tempfile::tempdir().unwrap();
        let (out, elsewhere) = (home.path().join("out"), home.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        let dir = ExportDir::make(&out).unwrap();
        let hash = |content: &str| ContentHash(Sha256::digest(content).into());
        let export = |path: &str, content: &str| {
            let (name, hash, size) =
                (ExportName::of_path(path, hash(content)), hash(content), content.len() as u64);
            let below = |path: PathBuf| path.strip_prefix(&dir.root).unwrap().display().to_string();
            match dir.place(&name, hash, size).unwrap() {
                Place::There(path) => (below(path), false),
                Place::Free(at) => {
                    let mut file = ExportDir::temporary(&at, false).unwrap();
                    io::Write::write_all(&mut file, content.as_bytes()).unwrap();
                    let (path, is_new) = ExportDir::name(file, &at, &name, hash, size).unwrap();
                    (below(path), is_new)
                }
            }
        };
        assert_eq!(export("a/b.txt", "one"), ("a/b.txt".to_owned(), true));
        assert_eq!(export("a/b.txt", "one"), ("a/b.txt".to_owned(), false));
        let (other, is_new) = export("a/b.txt", "two");
        assert!(is_new && other.starts_with("a/b (") && other.ends_with(").txt"), "{other}");
        assert_eq!(export("a/b.txt", "two"), (other, false));
        // A file where a directory should be, and the other way round.
        assert_eq!(export("a/b.txt/c", "three"), ("a/b.txt (2)/c".to_owned(), true));
        assert_eq!(export("a/b.txt/c", "three"), ("a/b.txt (2)/c".to_owned(), false));
        assert!(export("a", "four").0.starts_with("a ("));
        // Links lead nowhere.
        std::os::unix::fs::symlink(&elsewhere, out.join("link")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("file"), out.join("file")).unwrap();
        assert_eq!(export("link/x", "five"), ("link (2)/x".to_owned(), true));
        assert!(export("file", "six").0.starts_with("file ("));
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(out.join("a/b.txt")).unwrap(), "one");
    }
}
