use super::*;

#[test]
fn what_was_left_out_for_a_while_keeps_what_was_agreed_and_removes_nothing() {
    let row = row(&one());
    let known = KnownPath { disk: DiskSight::Ignored, ..KnownPath::agreed(&one()) };
    let FolderAction::Agree(left_out) = known.plan() else { panic!("{:?}", known.plan()) };
    assert!(left_out.is_left_out() && left_out.entry == row.entry);
    // Nothing comes of it, whatever the store has meanwhile.
    let removal = version(Some(&one()), 2, NOW_MS, None);
    let newer = version(Some(&one()), 2, NOW_MS, Some(2));
    for entry in [None, Some(one()), Some(removal.clone()), Some(newer.clone())] {
        let known = KnownPath { agreed: Some(left_out.clone()), entry, ..known.clone() };
        assert_eq!(known.plan(), FolderAction::Nothing);
    }
    let again = KnownPath { agreed: Some(left_out), ..KnownPath::agreed(&one()) };
    assert_eq!(again.plan(), FolderAction::Agree(row));
    // Edited meanwhile: an edit of what was agreed.
    let unread = KnownPath { disk: file(2, false), ..again.clone() };
    assert_eq!(unread.plan(), FolderAction::Read);
    let edit = put(KnownPath { disk: file(2, true), ..again.clone() }.plan());
    assert!(edit.descends_from(&one()) && edit.target() == Some(hash(2)));
    // Gone meanwhile, here or elsewhere: as if it had never been bound.
    for disk in [DiskSight::Gone(MountPoint::new()), DiskSight::Directory(MountPoint::new())] {
        assert_eq!(KnownPath { disk, ..again.clone() }.plan(), FolderAction::Forget);
    }
    let removed = KnownPath { entry: Some(removal.clone()), ..again.clone() };
    assert_eq!(removed.plan(), FolderAction::Forget);
    let read = KnownPath { disk: file(1, true), agreed: None, ..removed };
    assert_eq!(read.plan(), FolderAction::Ask);
    // Of a removal nothing is forgotten.
    let known = KnownPath { disk: DiskSight::Ignored, ..KnownPath::agreed(&removal) };
    assert_eq!(known.plan(), FolderAction::Nothing);
}
