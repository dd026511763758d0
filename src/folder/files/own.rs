//! Names of our own files in a folder: temporary ones beside their places, and the trash.

use std::fmt;
use std::path::Path;

use data_encoding::HEXLOWER;

use super::held::{HeldDir, below, split};
use crate::entry::path::OWN_PREFIX;

/// Where files go that are taken out: in the root, and where another file system is mounted in its top directory.
pub(crate) const TRASH: &str = ".can-sync-trash";
pub(super) const TEMPORARY_PREFIX: &str = ".can-sync-tmp-";
/// How temporary files end that are being made, and were never anything else.
const MAKING_SUFFIX: &str = ".part";
/// Digits of the time in the name of a file in the trash.
const TIME_DIGITS: usize = 13;
const ID_DIGITS: usize = 32;

pub(crate) fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()))
}

/// Names a note in the journal: random, and part of the names of its files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NoteId(pub(crate) [u8; 16]);

impl NoteId {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for NoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// The path of one of our own files from the folder's root. No entry has such a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct OwnPath(String);

impl fmt::Display for OwnPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl OwnPath {
    /// From the journal. `None` if it is no such path: nothing but our own files is ever named so.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_component = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
        let (directory, name) = split(text);
        let is_own = name.starts_with(OWN_PREFIX) || split(directory).1 == TRASH;
        (is_own && text.split('/').all(is_component)).then(|| Self(text.to_owned()))
    }

    /// From the folder's root.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn split(&self) -> (&str, &str) {
        split(&self.0)
    }

    pub(super) fn temporary(directory: &str, id: NoteId) -> Self {
        Self(below(directory, &format!("{TEMPORARY_PREFIX}{id}")))
    }

    /// Where that is while it is made.
    pub(super) fn making(&self) -> Self {
        Self(format!("{}{MAKING_SUFFIX}", self.0))
    }

    /// Where a file called `name` goes that is taken out of a directory at `at_ms`: the time first, so that a listing is in its order.
    pub(super) fn trashed(from: &HeldDir, id: NoteId, at_ms: u64, name: &str) -> Self {
        let fixed = format!("{at_ms:0TIME_DIGITS$}-{id}-");
        // Some file systems have names of 143 bytes at most.
        let room = from.traits.name_bytes_max.saturating_sub(fixed.len());
        let name = &name[..name.floor_char_boundary(room)];
        Self(format!("{}/{fixed}{name}", below(&from.mount, TRASH)))
    }

    /// When a file of this name in the trash was taken out, and what its name was; `None` if it is none of ours.
    pub(super) fn read_trashed(name: &str) -> Option<(u64, &str)> {
        let (time, rest) = name.split_once('-')?;
        let (id, name) = rest.split_once('-')?;
        let is_id = id.len() == ID_DIGITS && HEXLOWER.decode(id.as_bytes()).is_ok();
        let is_time = time.len() >= TIME_DIGITS && time.bytes().all(|digit| digit.is_ascii_digit());
        if is_id && is_time { Some((time.parse().ok()?, name)) } else { None }
    }

    /// Something in a directory that is no file of ours to anybody's knowledge.
    pub(super) fn stray(directory: &str, name: &str) -> Option<Self> {
        name.starts_with(TEMPORARY_PREFIX).then(|| Self(below(directory, name)))
    }
}
