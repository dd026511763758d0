//! Files and directories with secrets in them: one way to read each, one way to write each.
//!
//! Permissions, owner and content come from one open descriptor, so that nobody can put another file in between.

mod rules;
mod system;

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::rules::{Facts, FileRuling, ProcessIdentity, Remark};
pub use self::rules::{Fault, Keeper};
use super::IdentityError;
use super::secret_text::{TextFault, secret_in, trimmed};
use crate::disk;

/// Most that is read: anything longer is no secret, whatever surrounds it.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Whether reading a secret may mend its permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    Never,
    /// What this node made, and somebody opened to others since, is closed again.
    Ours,
}

#[derive(Debug)]
pub struct KeptSecret {
    pub text: Zeroizing<String>,
    /// Sentences about permissions that somebody should know of.
    pub remarks: Vec<String>,
}

/// Makes a directory that only its owner can enter, or takes one that others cannot change; says what somebody should know
/// about its permissions.
pub fn private_dir(path: &Path) -> Result<Vec<String>, IdentityError> {
    let failed = |action| move |source| IdentityError::Io { action, path: path.to_owned(), source };
    if path.is_dir() {
        return check_dir(path, Keeper::Node, Mend::Ours);
    }
    fs::create_dir_all(path).map_err(failed("create"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("restrict"))?;
    Ok(Vec::new())
}

/// Whether others can change what is in a directory; says what somebody should know. One that is not there is fine.
pub fn check_dir(path: &Path, keeper: Keeper, mend: Mend) -> Result<Vec<String>, IdentityError> {
    let failed = |action| move |source| IdentityError::Io { action, path: path.to_owned(), source };
    let dir = match open_at_once(path) {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        // A directory that we may enter and not list: its permissions can be had by name.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let metadata = fs::metadata(path).map_err(failed("read"))?;
            let facts = Facts { modes: true, ..facts(&metadata) };
            return settle(path, &facts, rules::judge_dir(&facts, keeper, &process()), |_| Err(e));
        }
        Err(e) => return Err(failed("read")(e)),
    };
    let metadata = dir.metadata().map_err(failed("read"))?;
    if !metadata.is_dir() {
        return Err(failed("use")(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    let facts = Facts { modes: system::keeps_modes(&dir, path, metadata.mode()), ..facts(&metadata) };
    let ruling = rules::judge_dir(&facts, keeper, &process());
    settle(path, &facts, ruling, |mode| restrict(&dir, mend, mode & 0o755))
}

/// Reads a secret; `None` if there is no such file.
pub fn read_secret(path: &Path, keeper: Keeper, mend: Mend) -> Result<Option<KeptSecret>, IdentityError> {
    let failed = |source| IdentityError::Io { action: "read", path: path.to_owned(), source };
    let file = match open_at_once(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let mut remarks = Vec::new();
    if !(kind.is_char_device() || system::is_unnamed_pipe(&file)) {
        let real = system::real_path(&file, path);
        if keeper == Keeper::User {
            for dir in directories(path, &real) {
                remarks.extend(check_dir(&dir, keeper, mend)?);
            }
        }
        let facts = Facts {
            modes: system::keeps_modes(&file, &parent(&real), metadata.mode()),
            credentials: system::is_credential(&real),
            ..facts(&metadata)
        };
        let ruling = rules::judge_file(&facts, keeper, &process());
        remarks.extend(settle(path, &facts, ruling, |_| restrict(&file, mend, 0o600))?);
    }
    let text = if kind.is_file() { read_all(&file) } else { system::read_pipe(&file, FILE_BYTES_MAX) };
    let text = text.map_err(failed)?;
    let fault = |fault| IdentityError::Text { path: path.to_owned(), fault };
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(TextFault::Long));
    }
    let text = std::str::from_utf8(&text).map_err(|_| fault(TextFault::Encoding))?;
    let text = Zeroizing::new(secret_in(text).map_err(fault)?.to_owned());
    Ok(Some(KeptSecret { text, remarks }))
}

/// Reads a secret in a file that a setting names.
pub fn read_given(path: &Path, mend: Mend) -> Result<KeptSecret, IdentityError> {
    read_secret(path, Keeper::User, mend)?.ok_or_else(|| IdentityError::Missing { path: path.to_owned() })
}

/// Who else can read or change a file with a secret in it that is not read as one, in a sentence; nothing where it is not known.
pub fn exposure(path: &Path) -> Option<String> {
    let file = open_at_once(path).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let real = system::real_path(&file, path);
    let facts = Facts {
        modes: system::keeps_modes(&file, &parent(&real), metadata.mode()),
        credentials: system::is_credential(&real),
        ..facts(&metadata)
    };
    let ruling = rules::judge_file(&facts, Keeper::User, &process());
    match settle(path, &facts, ruling, |_| Ok(())) {
        Ok(remarks) => remarks.into_iter().next(),
        Err(error) => Some(error.to_string()),
    }
}

/// Opens a regular file that nobody but us, or root, can have put there or can change.
///
/// # Errors
/// What the system says; [`io::ErrorKind::PermissionDenied`] for any other file.
pub fn open_own(path: &Path) -> io::Result<File> {
    let file = open_at_once(path)?;
    let metadata = file.metadata()?;
    let modes = system::keeps_modes(&file, &parent(path), metadata.mode());
    let is_own = rules::is_own(&Facts { modes, ..facts(&metadata) }, &process());
    if metadata.is_file() && is_own { Ok(file) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Whether what is in an open file can only come from us, from root, or from members of a group of ours.
pub fn is_of_ours(file: &File, path: &Path) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let modes = system::keeps_modes(file, &parent(path), metadata.mode());
    Ok(rules::is_of_ours(&Facts { modes, ..facts(&metadata) }, &process()))
}

/// Opens whatever it is: a pipe that nobody writes to must not hold up the opening of it.
fn open_at_once(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(system::NO_WAITING).open(path)
}

/// Writes a secret so that a crash leaves either all of it or nothing, readable by its owner alone. What a link leads to is
/// replaced, not the link.
pub fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Io { action: "write", path: path.to_owned(), source };
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = parent(&target);
    // A named temporary file is created with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(failed)?;
    writeln!(file, "{}", trimmed(text)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&target).map_err(|e| failed(e.error))?;
    disk::sync_dir(&dir).map_err(failed)
}

/// Says what a ruling comes to; `tighten` is given the mode as it is.
fn settle(
    path: &Path,
    facts: &Facts,
    ruling: FileRuling,
    tighten: impl FnOnce(u32) -> io::Result<()>,
) -> Result<Vec<String>, IdentityError> {
    let exposed = |fault| IdentityError::Exposed { path: path.to_owned(), mode: facts.mode & 0o7777, fault };
    let (shown, mode) = (path.display(), facts.mode & 0o777);
    match ruling {
        FileRuling::Take => Ok(Vec::new()),
        FileRuling::Refuse(fault) => Err(exposed(fault)),
        FileRuling::Warn(remark) => Ok(vec![match remark {
            Remark::GroupReads { group } => {
                format!("'{shown}' can be read by everybody in the group {group} (mode {mode:03o})")
            }
            Remark::GroupWrites { group } => {
                format!(
                    "what is in '{shown}' can be exchanged by everybody in the group {group} (mode {mode:03o})"
                )
            }
            Remark::NoModes => format!("'{shown}' is on a file system that keeps nobody out"),
        }]),
        FileRuling::Tighten => {
            tighten(facts.mode).map_err(|_| exposed(Fault::Writable))?;
            Ok(vec![format!("'{shown}' was opened to its group (mode {mode:03o}): a start closes it again")])
        }
    }
}

/// Takes a mode down through the descriptor by which it was found.
fn restrict(file: &File, mend: Mend, mode: u32) -> io::Result<()> {
    if mend == Mend::Never {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn facts(metadata: &fs::Metadata) -> Facts {
    Facts {
        mode: metadata.mode(),
        user: metadata.uid(),
        group: metadata.gid(),
        modes: true,
        credentials: false,
    }
}

fn process() -> ProcessIdentity {
    let (user, groups) = system::user_and_groups();
    ProcessIdentity { user, groups }
}

/// The directory that the name is in, and that of the file to which links lead from there.
fn directories(path: &Path, real: &Path) -> Vec<PathBuf> {
    let named = fs::canonicalize(parent(path)).unwrap_or_else(|_| parent(path));
    let mut dirs = vec![named, parent(real)];
    dirs.dedup();
    dirs
}

fn parent(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

fn read_all(file: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
