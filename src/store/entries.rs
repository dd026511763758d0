//! What a store is asked about folders, and what it answers.

use std::fmt;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::entry::{EntryDigest, FolderDefinition, FolderId, FolderRecord};
use crate::record::{ContentHash, Hlc, LibraryId};
use crate::store::{StoreRef, StoreResult};
use crate::text::escape;

/// Most records on a page, in a batch, and of a history.
pub const ENTRIES_MAX: usize = 1_000;
/// Most paths that are told of contents at once.
pub const PLACES_MAX: usize = 10_000;

/// A record of a folder, under the number of its latest change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredEntry {
    /// Of the same sequence as those of assets.
    pub seq: u64,
    /// The version that won.
    pub record: FolderRecord,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EntryQuery {
    /// Of this folder; `None` for what all the folders are, without what they have.
    pub folder: Option<FolderId>,
    /// Whose paths begin so, canonically equal ones included.
    pub prefix: String,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// How many at most; brought into 1..=1000.
    pub limit: usize,
}

/// A page of records of folders, in the order of paths; removed ones are there, too.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EntryPage {
    /// The versions that won.
    pub records: Vec<FolderRecord>,
    pub next_cursor: Option<String>,
}

/// A version that is written here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryPut {
    pub record: FolderRecord,
    /// The version that it is to follow; `None` where there is to be none.
    pub expects: Option<EntryDigest>,
}

/// What became of a version of a folder's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryOutcome {
    /// Durable now, and what the folder has.
    Stored,
    /// The store had this version or a newer one; it is in the history.
    Unchanged,
    /// Another version is there than was expected, or none; nothing was stored.
    Changed(Option<Box<FolderRecord>>),
    /// Refused, and why.
    Rejected(String),
}

/// What became of the claim that a folder comes by a ticket of a library.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FolderClaim {
    /// It does, by now or already.
    Claimed,
    /// It is a folder of ours.
    Here,
    /// It came by this library.
    Elsewhere(LibraryId),
}

/// A version in the history of a path: those before it are older, or as old with a smaller digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryPlace {
    pub hlc: Hlc,
    pub digest: EntryDigest,
}

impl From<&FolderRecord> for HistoryPlace {
    fn from(record: &FolderRecord) -> Self {
        Self { hlc: record.hlc(), digest: record.digest() }
    }
}

/// What a folder has, removed files included, or, without one, what all the folders are: page by page.
pub(crate) fn entry_pages(
    store: &StoreRef,
    folder: Option<FolderId>,
) -> BoxStream<'_, StoreResult<Vec<FolderRecord>>> {
    let pages = stream::try_unfold(Some(None), move |next| async move {
        let Some(cursor) = next else { return Ok(None) };
        let query = EntryQuery { folder, prefix: String::new(), cursor, limit: ENTRIES_MAX };
        let EntryPage { records, next_cursor } = store.entries(query).await?;
        Ok(Some((records, next_cursor.map(Some))))
    });
    pages.boxed()
}

/// What the store knows of all folders.
pub(crate) async fn definitions(store: &StoreRef) -> StoreResult<Vec<FolderDefinition>> {
    let all: Vec<FolderRecord> = entry_pages(store, None).try_concat().await?;
    Ok(all.into_iter().filter_map(FolderRecord::into_definition).collect())
}

/// All former versions of what is at a path, the newest first.
pub(crate) async fn whole_history(
    store: &StoreRef,
    folder: FolderId,
    path: &str,
) -> StoreResult<Vec<FolderRecord>> {
    let mut all = Vec::new();
    loop {
        let before = all.last().map(HistoryPlace::from);
        let page = store.entry_history(folder, path.to_owned(), before).await?;
        // A service that gives the same again would never end.
        let place = |record: &FolderRecord| (record.hlc(), record.digest());
        let is_older = all.last().zip(page.first()).is_none_or(|(last, first)| place(first) < place(last));
        if page.is_empty() || !is_older {
            return Ok(all);
        }
        all.extend(page);
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderPlaces {
    pub hash: ContentHash,
    pub folder: FolderId,
    /// What people call it, where that is known.
    pub name: Option<String>,
    pub path: String,
    /// How many paths of all folders have it.
    pub paths: u64,
}

impl fmt::Display for FolderPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hash, folder: FolderId(folder), name, path, paths } = self;
        let folder = data_encoding::HEXLOWER.encode(folder);
        write!(f, "the asset {hash} is in the folder ")?;
        match name {
            Some(name) => write!(f, "'{}' ({folder})", escape(name))?,
            None => f.write_str(&folder)?,
        }
        write!(f, ", as '{}'", escape(path))?;
        if *paths > 1 { write!(f, " and at {} more paths", paths - 1) } else { Ok(()) }
    }
}
