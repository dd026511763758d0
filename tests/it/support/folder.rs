//! Records of folders for tests.

use can_sync::testing::entry::{
    EntryAuthor, EntryDigest, EntryFile, EntryPath, EntryRecord, FolderAccess, FolderDefinition, FolderId,
    FolderRecord,
};
use can_sync::testing::record::{Hlc, WriterId};
use can_sync::testing::store::ContentStore;
use can_sync::testing::store::entries::{EntryOutcome, EntryPut, EntryQuery};

use super::store::{LONG_AGO_MS, hash_of};

/// The folder of most tests.
pub(crate) const FOLDER: FolderId = FolderId([5; 32]);

/// A machine that writes entries.
pub(crate) fn author(number: u8, after_ms: u64) -> EntryAuthor {
    EntryAuthor {
        writer: WriterId([number; 32]),
        by: format!("machine {number}"),
        now_ms: LONG_AGO_MS + after_ms,
    }
}

pub(crate) fn file_of(content: &[u8]) -> EntryFile {
    EntryFile {
        target: hash_of(content),
        size: content.len() as u64,
        mtime_ms: LONG_AGO_MS,
        executable: false,
    }
}

/// What the author writes at a path after `before`, for a file with this content or for none.
pub(crate) fn entry(
    path: &str,
    before: Option<&FolderRecord>,
    content: Option<&[u8]>,
    author: &EntryAuthor,
) -> FolderRecord {
    let before = before.map(|before| match before {
        FolderRecord::Entry(entry) => entry,
        FolderRecord::Definition(_) => panic!("an entry follows an entry"),
    });
    let path = EntryPath::parse(path).expect("a path");
    let place = (FOLDER, &path);
    FolderRecord::Entry(EntryRecord::after(before, place, content.map(file_of), author, Hlc::default()))
}

/// What the folder is.
pub(crate) fn definition(folder: FolderId, name: &str, author: &EntryAuthor) -> FolderRecord {
    FolderRecord::Definition(FolderDefinition {
        folder,
        hlc: Hlc::from_ms(author.now_ms),
        writer: author.writer,
        name: name.to_owned(),
        access: FolderAccess::Everybody,
        by: author.by.clone(),
    })
}

/// Puts a version after another one.
pub(crate) async fn put(
    store: &dyn ContentStore,
    record: &FolderRecord,
    after: Option<EntryDigest>,
) -> EntryOutcome {
    let put = EntryPut { record: record.clone(), expects: after };
    store.put_entries(vec![put]).await.expect("the store keeps folders").pop().expect("an outcome")
}

/// Takes a version from elsewhere.
pub(crate) async fn take(store: &dyn ContentStore, record: &FolderRecord) -> EntryOutcome {
    let taken = store.take_entries(vec![record.clone()], None).await;
    taken.expect("the store keeps folders").pop().expect("an outcome")
}

/// All that the folder has, in the order of paths, read in pages of `limit`.
pub(crate) async fn listed(store: &dyn ContentStore, prefix: &str, limit: usize) -> Vec<FolderRecord> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let query = EntryQuery { folder: Some(FOLDER), prefix: prefix.to_owned(), cursor, limit };
        let page = store.entries(query).await.expect("a page");
        assert!(page.records.len() <= limit);
        all.extend(page.records);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

/// The versions that lost at a path, the newest first.
pub(crate) async fn history(store: &dyn ContentStore, path: &str) -> Vec<FolderRecord> {
    store.entry_history(FOLDER, path.to_owned(), None).await.expect("a history")
}
