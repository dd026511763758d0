//! Folders that we share: what members hear of their entries, and of the contents.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::entry::{EntryAuthor, EntryFile, EntryHash, EntryPath, EntryRecord, FolderRecord};
use crate::library::filter::FilterSpec;
use crate::record::{AssetMeta, HLC_AHEAD_MAX_MS, WriterId};
use crate::store::entries::StoredEntry;

const FOLDER: FolderId = FolderId([5; 32]);
const CREATED_MS: u64 = 1_700_000_000_000;

/// A library of the folder that is ours.
fn share(libraries: &Libraries, asides: HashMap<ContentHash, Aside>) -> Arc<Library> {
    let folder = Some(data_encoding::HEXLOWER.encode(&FOLDER.0));
    let filter = Filter::try_from(FilterSpec { folder, ..FilterSpec::default() }).unwrap();
    let key = Some(SigningKey::from_bytes(&[1; 32]));
    let kept = Kept { key, created_ms: CREATED_MS, ..kept(1, Access::Write, filter) };
    libraries.add(SharedLibrary::new(kept, asides))
}

/// A version written at that time after `before`.
fn version(path: &str, content: Option<u8>, before: Option<&FolderRecord>, at_ms: u64) -> FolderRecord {
    let author = EntryAuthor { writer: WriterId([1; 32]), by: String::new(), now_ms: at_ms };
    let file =
        content.map(|n| EntryFile { target: ContentHash([n; 32]), size: 1, mtime_ms: 1, executable: false });
    let before = before.map(|record| match record {
        FolderRecord::Entry(entry) => entry,
        FolderRecord::Definition(_) => panic!("an entry"),
    });
    let path = EntryPath::parse(path).unwrap();
    FolderRecord::Entry(EntryRecord::after(before, (FOLDER, &path), file, &author, Hlc(0)))
}

/// The store's feed brings these; which of them members hear of.
fn changes(libraries: &Libraries, library: &Library, records: &[&FolderRecord]) -> Vec<EntryHash> {
    let stored = |record: &&FolderRecord| StoredEntry { seq: 1, record: (*record).clone() };
    let changed: Vec<StoredEntry> = records.iter().map(stored).collect();
    libraries.apply_entries(changed.clone());
    let told = library.entry_changes(&changed.into());
    told.iter().flat_map(|told| told.iter()).map(|entry| entry.record.hash()).collect()
}

#[test]
fn who_joins_late_hears_of_no_name_that_went_before_the_library_was_made() {
    let libraries = libraries();
    let library = share(&libraries, HashMap::new());
    let old = |path: &str| version(path, Some(1), None, CREATED_MS - 2 * HLC_AHEAD_MAX_MS);
    let gone = |path: &str, at_ms| version(path, None, Some(&old(path)), at_ms);
    let long_gone = gone("secret.txt", CREATED_MS - HLC_AHEAD_MAX_MS - 1);
    // The clock of the machine that removed it may have been that far behind.
    let near = gone("near.txt", CREATED_MS - HLC_AHEAD_MAX_MS);
    let (live, later) = (old("live.txt"), gone("later.txt", CREATED_MS + 1));
    let told = changes(&libraries, &library, &[&long_gone, &near, &live, &later]);
    assert_eq!(told, [near.hash(), live.hash(), later.hash()]);
    // What they may have seen goes for them, too, whatever its date; and what comes back.
    let went = gone("live.txt", CREATED_MS - HLC_AHEAD_MAX_MS - 1);
    assert_eq!(changes(&libraries, &library, &[&went]), [live.hash()]);
    let mut known = library.entry_hashes();
    known.sort_unstable();
    let mut expected = vec![near.hash(), live.hash(), later.hash()];
    expected.sort_unstable();
    assert_eq!(known, expected);
    let back = version("secret.txt", Some(2), Some(&long_gone), CREATED_MS + 2);
    assert_eq!(changes(&libraries, &library, &[&back]), [back.hash()]);
    // The mirror has them all.
    assert_eq!(libraries.mirror().entry_hashes().len(), 4);
    // The same where the store is read for it.
    let other = share(&libraries, HashMap::new());
    other.fill_entries(&[long_gone, near, live, later]);
    let mut known = other.entry_hashes();
    known.sort_unstable();
    assert_eq!(known, expected);
}

#[test]
fn what_is_read_of_a_store_late_is_older_than_what_its_feed_told() {
    let libraries = libraries();
    let library = share(&libraries, HashMap::new());
    let live = version("a.txt", Some(1), None, 1_000);
    let gone = version("a.txt", None, Some(&live), 2_000);
    library.share().unwrap().note_taken([ContentHash([1; 32])]);
    assert!(changes(&libraries, &library, &[&gone]).is_empty());
    library.fill_entries(&[live]);
    assert!(library.entry_hashes().is_empty());
    assert!(!library.share().unwrap().belongs(&ContentHash([1; 32])));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_lost_is_looked_at_for_the_folders_that_named_it() {
    let libraries = libraries();
    let library = share(&libraries, HashMap::new());
    library.share().unwrap().note_taken([ContentHash([1; 32])]);
    let live = version("a.txt", Some(1), None, 1_000);
    changes(&libraries, &library, &[&live]);
    libraries.shares_changed().await;
    let looked = library.share().unwrap().changed(9);
    library.share().unwrap().looked_at(&looked);
    libraries.remove_entries(&[live.hash()]);
    timeout(Duration::from_secs(1), libraries.shares_changed()).await.expect("somebody looks");
    assert_eq!(library.share().unwrap().changed(9).len(), 1);
}

#[test]
fn a_shared_folder_has_nothing_besides_the_contents_that_it_names() {
    let libraries = libraries();
    let record = record_of(1);
    let aside = Aside::of_own(record.clone(), Holding::Held);
    let library = share(&libraries, HashMap::from([(record.hash, aside)]));
    assert!(library.asides().is_empty() && library.hashes().is_empty());
    let live = version("a.txt", Some(1), None, 1_000);
    changes(&libraries, &library, &[&live]);
    library.share().unwrap().note_taken([record.hash]);
    libraries.apply(vec![entry(1, held(&record))]);
    assert_eq!(library.hashes(), [record.hash]);
    // A member of another library deletes it.
    let (hlc, via) = (Hlc(record.hlc.0 + 1), Some(LibraryId([9; 32])));
    let deleted = AssetRecord { deleted: true, hlc, via, ..record.clone() };
    libraries.keep_versions(&held(&record), &deleted);
    assert!(library.asides().is_empty());
    assert!(library.is_member(&record) && !library.is_member(&deleted));
}

#[test]
fn of_a_folder_that_came_by_ticket_belongs_what_came_through_it_and_nobody_here_writes() {
    let libraries = libraries();
    let folder = Some(data_encoding::HEXLOWER.encode(&FOLDER.0));
    let filter = Filter::try_from(FilterSpec { folder, ..FilterSpec::default() }).unwrap();
    let library = libraries.add(SharedLibrary::new(kept(2, Access::Write, filter), HashMap::new()));
    assert_eq!((library.folder(), library.joined_folder()), (Some(FOLDER), Some(FOLDER)));
    assert!(!library.writes() && library.share().is_none());
    let came = AssetRecord { via: library.id(), ..record_of(1) };
    for (record, is_member) in [
        (came.clone(), true),
        (AssetRecord { deleted: true, ..came }, false),
        (AssetRecord { via: Some(LibraryId([9; 32])), ..record_of(1) }, false),
        (record_of(1), false),
    ] {
        assert_eq!(library.is_member(&record), is_member, "{record:?}");
    }
    // Its entries are of the library by which the folder came, and no longer of the mirror.
    let has = || (library.has_folder(FOLDER), libraries.mirror().has_folder(FOLDER));
    assert_eq!(has(), (false, true));
    libraries.set_foreign(FOLDER, Some(LibraryId([9; 32])));
    assert_eq!(has(), (false, false));
    libraries.set_foreign(FOLDER, library.id());
    assert_eq!(has(), (true, false));
    assert!(!library.has_folder(FolderId([6; 32])));
}

#[test]
fn readers_hear_what_a_content_is_and_not_who_wrote_about_it() {
    let libraries = libraries();
    let library = share(&libraries, HashMap::new());
    changes(&libraries, &library, &[&version("a.txt", Some(1), None, 1_000)]);
    library.share().unwrap().note_taken([ContentHash([1; 32])]);
    let meta = AssetMeta {
        mime_type: "image/png".into(),
        created_at_ms: 77,
        description: Some("mine".into()),
        ..AssetMeta::default()
    };
    let (writer, hlc) = (WriterId([3; 32]), Hlc::from_ms(5_000));
    let record = AssetRecord { hlc, writer, meta, ..record_of(1) };
    let shown = library.version(&record.hash, Some(&held(&record))).unwrap().record;
    let other = AssetRecord { writer: WriterId([4; 32]), ..record.clone() };
    assert_eq!(library.version(&record.hash, Some(&held(&other))).unwrap().record, shown);
    let meta = AssetMeta { mime_type: "image/png".into(), created_at_ms: 5_000, ..AssetMeta::default() };
    assert_eq!(shown, AssetRecord { writer: WriterId::NULL, hlc, meta, ..record_of(1) });
    // For ever the same, whoever says it: a reader tells it on as it came.
    assert_eq!(library.version(&record.hash, Some(&held(&shown))).unwrap().record, shown);
}
