//! Which paths the user wants left out: `.can-syncignore` in the folder's root, in the syntax of `.gitignore`.

use std::io::{self, Read as _};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::FolderDir;
use super::opened::open_file;
use crate::entry::EntryPath;

/// The file that says what is left out. It is not synced.
pub(crate) const IGNORE_FILE: &str = ".can-syncignore";
const IGNORE_BYTES_MAX: u64 = 256 * 1024;
/// Most lines of it that are named as wrong.
const PROBLEMS_MAX: usize = 20;

/// What the user leaves out.
#[derive(Debug)]
pub(crate) struct IgnoreRules {
    rules: Gitignore,
    /// Lines that say nothing, with the reason. The others hold.
    pub(crate) problems: Vec<String>,
}

impl Default for IgnoreRules {
    /// Nothing is left out.
    fn default() -> Self {
        Self { rules: Gitignore::empty(), problems: Vec::new() }
    }
}

impl IgnoreRules {
    /// From the text of the file.
    ///
    /// # Errors
    /// The patterns together are more than can be matched.
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        let mut problems = Vec::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in text.lines().enumerate() {
            if let Err(error) = builder.add_line(None, line)
                && problems.len() < PROBLEMS_MAX
            {
                problems.push(format!("line {} of {IGNORE_FILE}: {error}", number + 1));
            }
        }
        let rules = builder.build().map_err(|error| io::Error::other(format!("{IGNORE_FILE}: {error}")))?;
        Ok(Self { rules, problems })
    }

    /// Whether a name is left out whose directory is not.
    pub(super) fn is_left_out(&self, path: &str, is_directory: bool) -> bool {
        self.rules.matched(path, is_directory).is_ignore()
    }

    /// Whether a path is left out: itself or with a directory above, from which nothing is taken in again, as with git.
    pub(crate) fn is_ignored(&self, path: &EntryPath, is_directory: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let path = path.as_str();
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        above.into_iter().any(|directory| self.is_left_out(directory, true))
            || self.is_left_out(path, is_directory)
    }
}

impl FolderDir {
    /// Reads what is left out; nothing, where there is no such file.
    ///
    /// # Errors
    /// It cannot be read, is no plain file, too long, or no UTF-8: what is left out is unknown, and nothing may be concluded from a look.
    pub(crate) fn ignore_rules(&self) -> io::Result<IgnoreRules> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{IGNORE_FILE}: {error}"));
        let root = self.held_root().map_err(named)?;
        if root.stat(IGNORE_FILE).map_err(named)?.is_none() {
            return Ok(IgnoreRules::default());
        }
        let (file, _) = open_file(&root, IGNORE_FILE).map_err(named)?;
        let mut text = String::new();
        file.take(IGNORE_BYTES_MAX + 1).read_to_string(&mut text).map_err(named)?;
        if text.len() as u64 > IGNORE_BYTES_MAX {
            return Err(io::Error::other(format!("{IGNORE_FILE} has more than {IGNORE_BYTES_MAX} bytes")));
        }
        IgnoreRules::parse(&text)
    }
}
