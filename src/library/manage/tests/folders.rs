//! Folders as libraries: what is known of one after a restart, and what the user releases of it.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::*;
use crate::entry::{
    EntryAuthor, EntryFile, EntryPath, EntryRecord, FolderAccess, FolderDefinition, FolderRecord,
};
use crate::library::report::Released;
use crate::record::WriterId;

const FOLDER: FolderId = FolderId([5; 32]);

/// A directory of which it is known what it had.
#[derive(Default)]
struct Directory {
    taken: Mutex<BTreeSet<ContentHash>>,
    is_gone: AtomicBool,
}

impl TakenContents for Directory {
    fn taken(&self, _: FolderId) -> Result<Vec<ContentHash>, String> {
        Ok(self.taken.lock().iter().copied().collect())
    }

    fn is_bound(&self, _: FolderId) -> Result<bool, String> {
        Ok(!self.is_gone.load(Ordering::Relaxed))
    }

    fn take(&self, _: FolderId, contents: &[ContentHash]) -> Result<(), String> {
        self.taken.lock().extend(contents);
        Ok(())
    }
}

fn hash_of(content: &str) -> ContentHash {
    ContentHash(Sha256::digest(content).into())
}

fn named(path: &str, content: &str) -> FolderRecord {
    let author = EntryAuthor { writer: WriterId([1; 32]), by: "desk".into(), now_ms: 1_000 };
    let (target, size) = (hash_of(content), content.len() as u64);
    let file = EntryFile { target, size, mtime_ms: 1, executable: false };
    let path = EntryPath::parse(path).unwrap();
    FolderRecord::Entry(EntryRecord::after(None, (FOLDER, &path), Some(file), &author, Hlc(0)))
}

fn definition() -> FolderRecord {
    FolderRecord::Definition(FolderDefinition {
        folder: FOLDER,
        hlc: Hlc::from_ms(1_000),
        writer: WriterId([1; 32]),
        name: "photos".into(),
        access: FolderAccess::Everybody,
        by: "desk".into(),
    })
}

/// A node whose directory had the content `own`, while the folder has more; and the folder's library.
async fn sharing() -> (Node, Arc<Directory>, LibraryId) {
    let mut node = Node::start().await;
    for content in ["own", "placed"] {
        node.put(content, &[]).await;
    }
    let records = vec![
        definition(),
        named("own.txt", "own"),
        named("b.txt", "placed"),
        named("c.txt", "placed"),
        named("d.txt", "not here"),
    ];
    node.store.take_entries(records, None).await.unwrap();
    let directory = Arc::new(Directory::default());
    directory.take(FOLDER, &[hash_of("own")]).unwrap();
    node.manager.taken = directory.clone();
    let filter = FilterSpec { folder: Some("photos".into()), ..FilterSpec::default() };
    let library = node.manager.create("photos".into(), filter, None).await.unwrap();
    node.manager.fill(&library).await;
    (node, directory, library.id().unwrap())
}

#[tokio::test]
async fn a_folder_is_not_seen_before_all_of_it_is_known_and_is_then_as_it_was() {
    let (mut node, directory, id) = sharing().await;
    let library = node.manager.libraries.get(id).unwrap();
    assert_eq!((library.hashes(), library.entry_hashes().len()), (vec![hash_of("own")], 5));
    let report = LibraryReport::new(&library, node.began_ms).unwrap();
    assert_eq!(report.not_shared, Some(2));
    // The directory is taken from here; nothing of what is shared depends on that.
    directory.is_gone.store(true, Ordering::Relaxed);
    node.restart().await;
    let library = node.manager.libraries.get(id).unwrap();
    assert!(library.is_filling());
    assert_eq!(LibraryReport::new(&library, node.began_ms).unwrap().not_shared, None);
    let restored = node.manager.restore().await.unwrap();
    for library in &restored {
        node.manager.fill(library).await;
    }
    assert!(restored.len() == 1 && !library.is_filling());
    assert_eq!((library.hashes(), library.entry_hashes().len()), (vec![hash_of("own")], 5));
    assert_eq!(LibraryReport::new(&library, node.began_ms).unwrap().not_shared, Some(2));
    // A library can be made where a directory is, all the same.
    let filter = FilterSpec { folder: Some("photos".into()), ..FilterSpec::default() };
    let refused = node.manager.create("again".into(), filter, None).await;
    assert!(matches!(refused, Err(LibraryError::FolderNotBound(_))), "{refused:?}");
}

#[tokio::test]
async fn just_what_the_user_names_is_released_and_stays_so() {
    let (mut node, _, id) = sharing().await;
    let (contents, total, next) = node.manager.unreleased(id, None, 9).await.unwrap();
    let mut shown: Vec<_> = contents.iter().map(|one| (one.hash.clone(), one.paths, one.held)).collect();
    shown.sort();
    let mut waiting = [(hash_of("placed").to_string(), 2, true), (hash_of("not here").to_string(), 1, false)];
    waiting.sort();
    assert_eq!((shown.as_slice(), total, next), (waiting.as_slice(), 2, None));
    let (first, _, next) = node.manager.unreleased(id, None, 1).await.unwrap();
    let (second, _, _) = node.manager.unreleased(id, next, 1).await.unwrap();
    assert_eq!([first, second].concat(), contents);
    // What does not wait is nothing that could be released.
    let named = vec![hash_of("not here"), hash_of("own"), hash_of("of nobody"), hash_of("not here")];
    let released = node.manager.release(id, Some(named)).await.unwrap();
    assert_eq!(released, Released { released: 0, absent: 1 });
    let library = node.manager.libraries.get(id).unwrap();
    assert!(!library.share().unwrap().belongs(&hash_of("placed")));
    assert_eq!(
        node.manager.release(id, None).await.unwrap(),
        Released { released: 1, absent: 0 },
        "all that still waits"
    );
    node.manager.keep_shares().await.unwrap();
    assert_eq!(set(library.hashes()), set([hash_of("own"), hash_of("placed")]));
    node.put("not here", &[]).await;
    node.restart().await;
    for library in node.manager.restore().await.unwrap() {
        node.manager.fill(&library).await;
    }
    let library = node.manager.libraries.get(id).unwrap();
    assert_eq!(set(library.hashes()), set(["own", "placed", "not here"].map(hash_of)));
    assert_eq!(library.share().unwrap().not_shared(), 0);
}
