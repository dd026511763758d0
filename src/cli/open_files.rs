//! How many files a program that serves may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than any node needs.
const FILES: u64 = 65_536;

/// Raises the soft limit as far as the hard one lets us: what a shell gives its programs is often 1,024 or less.
pub(super) fn allow_many() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(FILES, |maximum| maximum.min(FILES));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::debug!(%error, "the limit for open files stays as it is");
    }
}
