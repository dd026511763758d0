//! The file in which other programs find this node's ticket.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// Writes the ticket so that a reader finds all of it or nothing.
pub(super) async fn write(path: &Path, ticket: &str) -> io::Result<()> {
    let (path, ticket) = (path.to_owned(), ticket.to_owned());
    let write = move || {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().permissions(readable_by_all()).tempfile_in(dir)?;
        io::Write::write_all(&mut file, format!("{ticket}\n").as_bytes())?;
        file.persist(&path).map(|_| ()).map_err(|e| e.error)
    };
    spawn_blocking(write).await.map_err(io::Error::other)?
}

/// A ticket is an address, not a secret: the passphrase is what lets somebody in.
fn readable_by_all() -> std::fs::Permissions {
    std::fs::Permissions::from_mode(0o644)
}

/// Keeps the ticket file current.
pub(super) async fn follow(path: PathBuf, mut ticket: watch::Receiver<String>) {
    while ticket.changed().await.is_ok() {
        let text = ticket.borrow_and_update().clone();
        if let Err(error) = write(&path, &text).await {
            tracing::warn!(path = %path.display(), %error, "cannot write ticket_file");
        }
    }
}
