//! Paths from anywhere: see `testing::fuzz`.

use super::{EntryAuthor, EntryHash, EntryPath, FolderId};
use crate::record::Hlc;

/// A path, and what is made from one. What follows the first line feed is the name of a machine.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, by) = text.split_once('\n').unwrap_or((text, "machine"));
    let Ok(path) = EntryPath::parse(text) else { return };
    // As all have it by the time that a copy is named after them.
    let by = &EntryAuthor::name_from(by);
    assert_eq!(path.as_str(), text);
    assert!(path.is_same(&path) && !path.is_below(&path));
    let folder = FolderId([1; 32]);
    assert_eq!(EntryHash::of(folder, &path), EntryHash::of_path(folder, path.as_str()));
    let copy = path.conflict(by, Hlc::from_ms(1_790_000_000_000), &[9; 32]);
    assert_eq!(copy.conflict(by, Hlc::from_ms(1_790_000_000_000), &[9; 32]), copy, "of a copy of {path}");
    let aside = path.aside(folder);
    // Names of stems that were cut are not told apart.
    assert!(aside.plain(folder).is_none_or(|plain| plain.is_same(&path)), "{path} became {aside}");
    if let Some(plain) = path.plain(folder) {
        assert!(plain.aside(folder).is_same(&path));
    }
}
