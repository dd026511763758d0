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

use crate::cli::error::{CliError, CliResult, Exit};
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

    /// Its path, in the directory that it goes to.
    pub(super) fn below(&self, dir: &Path) -> PathBuf {
        dir.join(&self.name)
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

/// What cannot be done to which file, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} '{}': {source}", path.display())]
pub(super) struct PlaceError {
    action: &'static str,
    path: PathBuf,
    pub(super) source: io::Error,
}

impl PlaceError {
    /// For `map_err`.
    pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, path: path.to_owned(), source }
    }
}

#[derive(Debug)]
pub(super) enum Place {
    There(PathBuf),
    /// In this directory, under a name that is chosen once it is whole. Until then it is in this file, which goes where it is dropped.
    Free(PathBuf, NamedTempFile),
}

#[derive(Debug)]
pub(super) struct ExportDir {
    root: PathBuf,
}

impl ExportDir {
    /// Makes it, if it is not there, and sees that it takes files.
    ///
    /// # Errors
    /// It cannot be made or written to, is no directory, or holds a node's own data.
    pub(super) fn make(dir: &Path) -> CliResult<Self> {
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
        let cannot = |what: &str, e: &dyn fmt::Display| {
            CliError::failure(format!("cannot {what} '{shown}': {e}"))
                .hint("export to a directory that you may write to")
        };
        fs::create_dir_all(dir).map_err(|e| cannot("make the directory", &e))?;
        let root = fs::canonicalize(dir).map_err(|e| cannot("look at", &e))?;
        // Rather than once for each file.
        Self::temporary(&root, false).map_err(|e| cannot("write to", &e.source))?;
        Ok(Self { root })
    }

    /// Looks whether the file is there, and begins it where it is not, with the directories above it.
    pub(super) fn begin(
        &self,
        name: &ExportName,
        hash: ContentHash,
        size: u64,
        executable: bool,
    ) -> Result<Place, PlaceError> {
        let mut dir = self.root.clone();
        for above in &name.above {
            dir = directory(&dir, above)?;
        }
        if let (path, true) = Self::free(&dir, name, hash, size)? {
            return Ok(Place::There(path));
        }
        let file = Self::temporary(&dir, executable)?;
        Ok(Place::Free(dir, file))
    }

    /// The first name that nothing has, or under which the file is, and then `true`.
    fn free(
        dir: &Path,
        name: &ExportName,
        hash: ContentHash,
        size: u64,
    ) -> Result<(PathBuf, bool), PlaceError> {
        for called in [name.name.clone(), name.apart(hash, 8), name.apart(hash, 64)] {
            let path = dir.join(called);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() && meta.len() == size => {
                    if is_same(&path, hash).map_err(PlaceError::at("read", &path))? {
                        return Ok((path, true));
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, false)),
                Err(error) => return Err(PlaceError::at("write", &path)(error)),
            }
        }
        let taken = io::Error::new(io::ErrorKind::AlreadyExists, "every name that it could have is taken");
        Err(PlaceError::at("write", &name.below(dir))(taken))
    }

    fn temporary(dir: &Path, executable: bool) -> Result<NamedTempFile, PlaceError> {
        let mut builder = tempfile::Builder::new();
        // As any new file: the umask takes its part.
        let mode = if executable { 0o777 } else { 0o666 };
        let begun =
            builder.prefix(".can-sync-export-").permissions(Permissions::from_mode(mode)).tempfile_in(dir);
        begun.map_err(PlaceError::at("make a file in", dir))
    }

    /// Gives it a name that nothing has; `false` if it came to be there meanwhile.
    pub(super) fn name(
        mut file: NamedTempFile,
        dir: &Path,
        name: &ExportName,
        hash: ContentHash,
        size: u64,
    ) -> Result<(PathBuf, bool), PlaceError> {
        loop {
            let (path, is_there) = Self::free(dir, name, hash, size)?;
            if is_there {
                return Ok((path, false));
            }
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok((path, true)),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => file = error.file,
                Err(error) => return Err(PlaceError::at("write", &path)(error.error)),
            }
        }
    }
}

/// The directory of this name, made if need be; beside it, where a file or a link has the name.
fn directory(dir: &Path, name: &str) -> Result<PathBuf, PlaceError> {
    for nth in 1..=DIRECTORY_NAMES {
        let called = if nth == 1 { name.to_owned() } else { format!("{name} ({nth})") };
        let path = dir.join(called);
        if is_directory(&path).map_err(PlaceError::at("make the directory", &path))? {
            return Ok(path);
        }
    }
    let taken = io::Error::new(io::ErrorKind::AlreadyExists, "files have the names that it could have");
    Err(PlaceError::at("make the directory", &dir.join(name))(taken))
}

/// Makes a directory, unless there is one; `false` where something else has the name.
fn is_directory(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::create_dir(path) {
            Ok(()) => Ok(true),
            // Another file made it meanwhile, or was put there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(fs::symlink_metadata(path)?.is_dir())
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

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
            match dir.begin(&name, hash, size, false).unwrap() {
                Place::There(path) => (below(path), false),
                Place::Free(at, mut file) => {
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
    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let home = tempfile::tempdir().unwrap();
        let dir = ExportDir::make(home.path()).unwrap();
        let name = ExportName::of_path("a/b.txt", HASH);
        fs::create_dir(home.path().join("a")).unwrap();
        for taken in ["b.txt".to_owned(), name.apart(HASH, 8), name.apart(HASH, 64)] {
            fs::write(home.path().join("a").join(taken), "others'").unwrap();
        }
        let error = dir.begin(&name, HASH, 1, false).unwrap_err().to_string();
        assert!(error.contains("/a/b.txt': every name that it could have is taken"), "{error}");
        let long = ExportName { above: vec!["d".repeat(300)], name: "x".to_owned() };
        let error = dir.begin(&long, HASH, 1, false).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the directory '") && error.contains("ddd': "), "{error}");
        let error = ExportDir::temporary(&home.path().join("none"), false).unwrap_err().to_string();
        assert!(error.contains("none': "), "{error}");
        let error = ExportDir::make(&home.path().join("a/b.txt/c")).unwrap_err().to_string();
        assert!(error.contains("/a/b.txt/c': ") && error.contains("\n  export to"), "{error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing is left of the attempts");
    }
}
