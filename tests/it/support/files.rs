//! What lies in a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every file below a directory with its content, by its path. Files and directories are passed over by name.
pub(crate) fn contents(dir: &Path, is_passed_over: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<u8>> {
    let walk = walkdir::WalkDir::new(dir).min_depth(1).into_iter();
    let walk = walk.filter_entry(|entry| !is_passed_over(&entry.file_name().to_string_lossy()));
    let files = walk.filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
    files
        .filter_map(|entry| {
            let name = entry.path().strip_prefix(dir).ok()?.to_str()?.to_owned();
            // One that goes meanwhile is found to be gone with the next look.
            Some((name, fs::read(entry.path()).ok()?))
        })
        .collect()
}

/// Those of people: none of ours. Each has to be text.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, String> {
    let files = contents(dir, |name| name.starts_with(".can-sync"));
    files.into_iter().filter_map(|(name, content)| Some((name, String::from_utf8(content).ok()?))).collect()
}
