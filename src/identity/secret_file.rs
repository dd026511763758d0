//! Files and directories that only their owner can read.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::IdentityError;

/// Makes a directory that only its owner can enter, or checks that it is one that we may write to.
///
/// # Errors
/// What the system says, with the path.
pub fn private_dir(path: &Path) -> Result<(), IdentityError> {
    let failed = |action| move |source| IdentityError::Io { action, path: path.to_owned(), source };
    let existed = path.is_dir();
    fs::create_dir_all(path).map_err(failed("create"))?;
    #[cfg(unix)]
    if !existed {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("restrict"))?;
    }
    Ok(())
}

/// Writes a secret so that a crash leaves either all of it or nothing, readable by its owner alone.
///
/// # Errors
/// What the system says, with the path.
pub fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Io { action: "write", path: path.to_owned(), source };
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A named temporary file is created with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    writeln!(file, "{text}").map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(failed)
}

/// Reads a secret that [`write_secret`] wrote; `None` if there is no such file.
///
/// # Errors
/// [`IdentityError::Permissions`] if others can read it, otherwise what the system says.
pub fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let failed = |source| IdentityError::Io { action: "read", path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Permissions { path: path.to_owned(), mode });
        }
    }
    Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())))
}
