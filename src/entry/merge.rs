//! Two versions of one entry: which one the folder has from now on, and what becomes of the other. Every store decides alike, whether or
//! not the folder is bound to a directory there.

use super::path::EntryPath;
use super::record::EntryRecord;

/// What a store does with a version that it did not have. All of it in one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryMerge {
    pub winner: EntryRecord,
    /// The version that lost: to be kept in the entry's history, with its content, unless it is there.
    pub history: Option<EntryRecord>,
    /// Another entry, for the content that lost: to be merged in turn at its own path, where it may be known, be removed, or lose to
    /// yet another, which makes a copy of a further name.
    pub copy: Option<EntryRecord>,
}

/// Merges `incoming` into what a store has of the same entry.
///
/// The winner by the record's rule has the path. Where it did not see the other and has another content, that content gets a copy. It is
/// the same to the bit whoever makes it, so that a removal of the copy beats whoever makes it later.
pub fn merge(current: Option<&EntryRecord>, incoming: EntryRecord) -> EntryMerge {
    let Some(current) = current else {
        return EntryMerge { winner: incoming, history: None, copy: None };
    };
    debug_assert!(current.hash() == incoming.hash(), "versions of different entries do not meet");
    if *current == incoming {
        return EntryMerge { winner: incoming, history: None, copy: None };
    }
    let (winner, loser) =
        if incoming.supersedes(current) { (incoming, current.clone()) } else { (current.clone(), incoming) };
    let copy = conflict_copy(&winner, &loser);
    EntryMerge { winner, history: Some(loser), copy }
}

/// The entry for the content of `loser`, if `winner` was written without having seen it and has another.
fn conflict_copy(winner: &EntryRecord, loser: &EntryRecord) -> Option<EntryRecord> {
    let file = loser.file.clone()?;
    if winner.descends_from(loser) || winner.target() == Some(file.target) {
        return None;
    }
    // The digest covers the path: a copy that loses at its own path goes on to another one.
    let path = loser.path.conflict(&loser.by, loser.hlc, &loser.digest());
    let copy = EntryRecord { path, file: Some(file), was: None, seen: Vec::new(), ..loser.clone() };
    // What no machine would take from another is not made here either. Its content stays with the history.
    (EntryPath::parse(copy.path.as_str()).is_ok() && copy.validate().is_ok()).then_some(copy)
}

#[cfg(test)]
mod tests {
    use super::super::record::{EntryAuthor, EntryFile, FolderId};
    use super::*;
    use crate::record::{ContentHash, Hlc, WriterId};

    fn version(before: Option<&EntryRecord>, writer: u8, now_ms: u64, content: Option<u8>) -> EntryRecord {
        let author = EntryAuthor { writer: WriterId([writer; 32]), by: format!("m{writer}"), now_ms };
        let file = content.map(|content| EntryFile {
            target: ContentHash([content; 32]),
            size: 3,
            mtime_ms: 5,
            executable: false,
        });
        let path = EntryPath::parse("d/a.txt").unwrap();
        EntryRecord::after(before, (FolderId([1; 32]), &path), file, &author, Hlc(0))
    }

    #[test]
    fn what_was_seen_makes_way_without_a_copy() {
        let first = version(None, 1, 100, Some(1));
        let second = version(Some(&first), 2, 50, Some(2));
        assert!(second.descends_from(&first) && second.supersedes(&first) && !first.descends_from(&second));
        for (have, comes) in [(&first, &second), (&second, &first)] {
            let merged = merge(Some(have), comes.clone());
            assert_eq!(
                (merged.winner, merged.history, merged.copy),
                (second.clone(), Some(first.clone()), None)
            );
        }
        assert_eq!(
            merge(Some(&second), second.clone()),
            EntryMerge { winner: second, history: None, copy: None }
        );
    }

    #[test]
    fn edits_made_apart_leave_the_same_copy_wherever_they_meet() {
        let first = version(None, 1, 100, Some(1));
        let (one, other) = (version(Some(&first), 1, 200, Some(2)), version(Some(&first), 2, 300, Some(3)));
        let (here, there) = (merge(Some(&one), other.clone()), merge(Some(&other), one.clone()));
        assert_eq!(here, there);
        assert_eq!((&here.winner, &here.history), (&other, &Some(one.clone())));
        let copy = here.copy.unwrap();
        assert!(copy.path.as_str().starts_with("d/a (m1 1970-01-01 ") && copy.seen.is_empty());
        assert_eq!(
            (copy.target(), copy.hlc, copy.writer, copy.validate()),
            (one.target(), one.hlc, one.writer, Ok(()))
        );
        // Who removes the copy is later than whoever makes it once more.
        let removed = version(None, 3, 0, None);
        let removed = EntryRecord {
            path: copy.path.clone(),
            ..EntryRecord::after(
                Some(&copy),
                (copy.folder, &copy.path),
                None,
                &EntryAuthor { writer: removed.writer, by: String::new(), now_ms: 0 },
                Hlc(0),
            )
        };
        let merged = merge(Some(&removed), copy);
        assert_eq!((merged.winner, merged.copy), (removed, None));
    }

    #[test]
    fn an_edit_that_loses_to_a_removal_has_its_copy_and_a_removal_has_none() {
        let first = version(None, 1, 100, Some(1));
        let (edit, removal) = (version(Some(&first), 1, 200, Some(2)), version(Some(&first), 2, 300, None));
        let merged = merge(Some(&edit), removal.clone());
        assert_eq!(merged.winner, removal);
        assert_eq!(merged.copy.and_then(|copy| copy.target()), edit.target());
        let late = version(Some(&first), 1, 400, Some(2));
        let merged = merge(Some(&late), removal.clone());
        assert_eq!((merged.winner, merged.history, merged.copy), (late, Some(removal), None));
    }

    #[test]
    fn the_same_content_twice_has_no_copy_and_a_copy_that_loses_has_another_name() {
        let (one, other) = (version(None, 1, 100, Some(1)), version(None, 2, 200, Some(1)));
        assert_eq!(merge(Some(&one), other.clone()).copy, None);
        let third = version(None, 3, 300, Some(3));
        let copy = merge(Some(&third), one).copy.unwrap();
        // Somebody's own file stands where the copy goes.
        let there = EntryRecord { path: copy.path.clone(), ..third };
        let again = merge(Some(&there), copy.clone()).copy.unwrap();
        assert!(!again.path.is_same(&copy.path) && again.path.as_str().starts_with("d/a (m1 "));
    }
}
