//! What lies in a data directory that no start can open: databases that are none or newer than this program, files where
//! directories belong, a store that another process has open. Looked at without leaving a trace.

use std::path::Path;

use super::DataDir;
use super::backup;
use super::running::NodePresence;
use crate::config::Config;
use crate::discovery::address_book;
use crate::library::registry;
use crate::peer::deferrals;
use crate::store::at_rest::problem_at_rest;
use crate::store::embedded::EmbeddedStore;

/// What to do where the file can be done without.
const DISPENSABLE: &str = "restore it from a backup, or move it away to start with an empty one";
/// What to do where it cannot.
const NEEDED: &str =
    "restore it from a backup; without it, the libraries that were made here cannot be had again";
const STORE: &str =
    "restore the data directory from a backup, or move it away and let the network fill a new one";

/// All of it, with the next step. Nothing where the directory's node runs: it has all of that open.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let dir = DataDir::new(&config.data_dir);
    if matches!(NodePresence::of(&dir), NodePresence::Running(_) | NodePresence::Starting) {
        return Vec::new();
    }
    let mut problems = Vec::from_iter(backup::problem(dir.path()));
    let mut note = |path: &Path, problem: &str, advice: &str| {
        problems.push(format!("cannot open '{}': {problem}; {advice}", path.display()));
    };
    for (path, known, advice) in [
        (dir.agent_db(), address_book::SCHEMA_KNOWN, DISPENSABLE),
        (dir.clock_db(), deferrals::SCHEMA_KNOWN, DISPENSABLE),
        (dir.libraries_db(), registry::SCHEMA_KNOWN, NEEDED),
    ] {
        if let Some(problem) = problem_at_rest(&path, known) {
            note(&path, &problem, advice);
        }
    }
    let is_embedded = config.can_service_url.is_none();
    if let Some((path, problem)) = is_embedded.then(|| EmbeddedStore::problem_at_rest(&dir.store())).flatten()
    {
        note(&path, &problem, STORE);
    }
    for (path, is_dir) in [(dir.partial(), true), (dir.lock(), false)] {
        let fits = if is_dir { path.is_dir() } else { path.is_file() };
        if path.symlink_metadata().is_ok() && !fits {
            let kind = match (is_dir, path.is_dir()) {
                (true, _) => "it is no directory",
                (false, true) => "it is a directory",
                (false, false) => "it is no regular file",
            };
            note(&path, kind, "move it away");
        }
    }
    problems
}
