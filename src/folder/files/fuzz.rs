//! Our own files in a directory that anybody may write to: see `testing::fuzz`.

use super::ignoring::IgnoreRules;
use super::marker::FolderMarker;
use super::own::OwnPath;
use crate::entry::EntryPath;

/// A marker.
pub(crate) fn marker(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(marker) = FolderMarker::parse(text) {
        assert_eq!(FolderMarker::parse(&marker.to_string()), Some(marker));
    }
}

/// What the user leaves out; and the first line as a name in the trash, and as a path of one of our files.
pub(crate) fn ignored(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let first = text.lines().next().unwrap_or_default();
    if let Some((_, name)) = OwnPath::read_trashed(first) {
        assert!(first.ends_with(name));
    }
    if let Some(own) = OwnPath::parse(first) {
        assert_eq!(EntryPath::parse(own.as_str()).ok(), None, "an entry has the path of one of our files");
    }
    let Ok(rules) = IgnoreRules::parse(text) else { return };
    for path in ["a", "a/b.txt", "Photos/2026/ä.jpg"] {
        let path = EntryPath::parse(path).expect("a path");
        let _ = (rules.is_ignored(&path, false), rules.is_ignored(&path, true));
    }
}
