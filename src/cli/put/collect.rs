//! What `put` is to store: the files that were named, and those in directories. What is no plain file is refused or passed over by
//! its name, and never opened.

use std::path::{Path, PathBuf};

use super::PutSource;
use super::own_dirs::{self, SecretFiles};
use crate::cli::error::{CliError, CliResult, Exit};
use crate::cli::output::message;
use crate::cli::text;
use crate::disk::oddity;

/// What there is to store, and what came of looking for it.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) sources: Vec<PutSource>,
    /// Files and directories that could not be looked at.
    pub(super) failed: u64,
    /// Symbolic links in directories.
    pub(super) links: u64,
    /// Pipes, sockets and devices in directories.
    pub(super) odd: u64,
    /// Directories in which a node keeps its data.
    own: u64,
    /// Files with secrets of a node.
    secret: u64,
}

/// What makes no sense as a whole is an error before anything is stored.
pub(super) fn collect(files: &[PathBuf], recursive: bool, secrets: &SecretFiles) -> CliResult<Collected> {
    let mut all = Collected::default();
    for path in files {
        if path.as_os_str() == "-" {
            if all.sources.iter().any(|source| matches!(source, PutSource::Stdin)) {
                return Err(CliError::new(Exit::Usage, "'-' is given twice, and there is one stdin"));
            }
            all.sources.push(PutSource::Stdin);
            continue;
        }
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() && !recursive => {
                return Err(CliError::new(Exit::Usage, format!("'{}' is a directory", path.display()))
                    .hint("-r stores what is in it"));
            }
            Ok(meta) if let Some(own) = own_dirs::owner(path) => {
                if meta.is_dir() {
                    all.pass_own(path);
                } else {
                    all.complain(path, &belongs(&own));
                }
            }
            Ok(meta) if secrets.contains(&meta) => {
                all.complain(path, "it holds a secret of the node, which is not for other machines");
            }
            Ok(meta) if meta.is_dir() => all.walk(path, secrets),
            Ok(meta) => match oddity(meta.file_type()) {
                Some(what) => all.complain(path, &refusal(path, what).to_string()),
                None => all.sources.push(PutSource::File { path: path.clone(), size: meta.len() }),
            },
            Err(e) => all.complain(path, &e.to_string()),
        }
    }
    if all.sources.is_empty() && all.failed == 0 && all.own + all.secret > 0 {
        return Err(CliError::failure("nothing was stored: what a node keeps is not for other machines"));
    }
    Ok(all)
}

/// Why a file of a node's is not stored.
fn belongs(own: &Path) -> String {
    let own = text::escape(&own.display().to_string()).into_owned();
    format!("it belongs to the node whose data is in '{own}': keys and databases are not for other machines")
}

impl Collected {
    fn pass_own(&mut self, dir: &Path) {
        let shown = text::escape(&dir.display().to_string()).into_owned();
        message(&format!("can-sync: passed over '{shown}': a node keeps its data there"));
        self.own += 1;
    }

    fn walk(&mut self, dir: &Path, secrets: &SecretFiles) {
        let mut walk = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            if let Some(dir) = entry.as_ref().ok().filter(|entry| entry.file_type().is_dir())
                && own_dirs::is_own_dir(dir.path())
            {
                self.pass_own(dir.path());
                walk.skip_current_dir();
                continue;
            }
            match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
                Ok((meta, entry)) if secrets.contains(&meta) => {
                    let path = text::escape(&entry.path().display().to_string()).into_owned();
                    message(&format!("can-sync: {path}: passed over: it holds a secret of the node"));
                    self.secret += 1;
                }
                Ok((meta, entry)) if meta.is_file() => {
                    self.sources.push(PutSource::File { path: entry.into_path(), size: meta.len() });
                }
                Ok((meta, entry)) if meta.file_type().is_symlink() && entry.depth() > 0 => self.links += 1,
                Ok((meta, entry)) => {
                    if let Some(what) = oddity(meta.file_type()) {
                        let path = text::escape(&entry.path().display().to_string()).into_owned();
                        message(&format!("can-sync: {path}: passed over: it is {what}"));
                        self.odd += 1;
                    }
                }
                Err(e) => {
                    let why = e.io_error().map_or_else(|| e.to_string(), ToString::to_string);
                    self.complain(e.path().unwrap_or(dir), &why);
                }
            }
        }
    }

    fn complain(&mut self, path: &Path, problem: &str) {
        message(&format!("can-sync: {}: {problem}", text::escape(&path.display().to_string())));
        self.failed += 1;
    }

    /// What was passed over, as a clause; nothing where that is nothing.
    pub(super) fn passed_over(&self) -> Option<String> {
        let told = |count: u64, what: &str| (count > 0).then(|| text::counted(count, what));
        let parts: Vec<String> =
            [told(self.links, "symbolic link"), told(self.odd, "pipe, socket or device")]
                .into_iter()
                .flatten()
                .collect();
        (!parts.is_empty()).then(|| format!("{} passed over", parts.join(" and ")))
    }
}

/// Why such a thing is not stored, and how what comes out of it is.
pub(super) fn refusal(path: &Path, what: &str) -> CliError {
    CliError::failure(format!("it is {what} and not a file"))
        .hint(format!("to store what comes out of it: can-sync put - < {}", path.display()))
}
