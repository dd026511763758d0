//! What a folder has at a path: a kind of record of its own, beside the records of assets.
//!
//! Entries go to the user's own machines, and content is never fetched because of one. Every store merges them alike
//! ([`merge()`]), whether or not a directory is bound to the folder there. Pure.

pub mod fuzz;
mod kinds;
pub(crate) mod merge;
pub(crate) mod path;
pub(crate) mod record;

pub use kinds::{EntryDigest, FolderMerge, FolderRecord, merge};
#[cfg(test)]
pub(crate) use merge::merge as merge_entries;
pub use path::{EntryPath, PathError, composed};
pub use record::{
    EntryAuthor, EntryError, EntryFile, EntryHash, EntryRecord, FolderAccess, FolderDefinition, FolderId,
    SEEN_MAX, SeenVersion,
};
