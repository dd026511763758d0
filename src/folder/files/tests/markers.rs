//! Whether the directory is the folder's.

use super::*;

#[test]
fn a_directory_is_bound_once_and_opened_again() {
    let mut desk = Desk::new();
    assert!(desk.read(MARKER).unwrap().starts_with("can-sync folder 1\n"));
    desk.reopen();
    desk.dir.check().unwrap();
    // The same binding once more changes nothing.
    FolderDir::bind(&desk.root, MARK, &forbidden(desk.tmp.path())).unwrap();
    let other = FolderMarker { binding: [1; 16], ..MARK };
    let error = FolderDir::bind(&desk.root, other, &forbidden(desk.tmp.path())).unwrap_err();
    assert!(matches!(error, BindError::OtherBinding(_)), "{error}");
    let another = FolderMarker { folder: FolderId([1; 32]), ..MARK };
    let error = FolderDir::bind(&desk.root, another, &forbidden(desk.tmp.path())).unwrap_err();
    assert!(matches!(error, BindError::Bound(_)), "{error}");
    assert_eq!(FolderDir::marker_at(&desk.root, &forbidden(desk.tmp.path())).unwrap(), Some(MARK));
    assert!(matches!(FolderDir::open(&desk.root, other), Err(FolderGone::OtherMarker(_))));
    fs::write(desk.at(MARKER), "").unwrap();
    let error = FolderDir::bind(&desk.root, MARK, &forbidden(desk.tmp.path())).unwrap_err();
    assert!(matches!(error, BindError::Bound(_)), "{error}");
    assert_eq!(desk.contents().len(), 0);
}

#[test]
fn what_cannot_be_a_folder_is_refused_with_a_reason() {
    let desk = Desk::new();
    let tmp = desk.tmp.path().canonicalize().unwrap();
    let bind = |path: &Path| FolderDir::bind(path, MARK, &forbidden(&tmp)).unwrap_err();
    fs::create_dir_all(tmp.join("data/inside")).unwrap();
    fs::create_dir_all(desk.at("a/b")).unwrap();
    fs::write(tmp.join("file"), "x").unwrap();
    assert!(matches!(bind(Path::new("/")), BindError::TooMuch(_)));
    assert!(matches!(bind(&tmp.join("home")), BindError::TooMuch(_)));
    for own in [tmp.join("data"), tmp.join("data/inside"), tmp.clone()] {
        assert!(matches!(bind(&own), BindError::OwnData { .. }), "{own:?}");
        assert!(!own.join(MARKER).exists());
    }
    fs::create_dir_all(tmp.join("homes/kim")).unwrap();
    let elsewhere = Forbidden { home: Some(tmp.join("homes/kim")), ..forbidden(&tmp) };
    let error = FolderDir::bind(&tmp.join("homes"), MARK, &elsewhere).unwrap_err();
    assert!(matches!(error, BindError::TooMuch(_)), "{error}");
    assert!(matches!(bind(&desk.at("a/b")), BindError::Inside { .. }));
    assert!(matches!(bind(&tmp.join("none")), BindError::Gone(FolderGone::Missing(_))));
    assert!(matches!(bind(&tmp.join("file")), BindError::Gone(FolderGone::NotADirectory(_))));
    // A link that leads to the directory is the user's matter.
    fs::create_dir(tmp.join("real")).unwrap();
    std::os::unix::fs::symlink(tmp.join("real"), tmp.join("link")).unwrap();
    let dir = FolderDir::bind(&tmp.join("link"), MARK, &forbidden(&tmp)).unwrap();
    assert_eq!(dir.path(), tmp.join("real"));
}

#[test]
fn nothing_is_concluded_once_the_directory_is_another() {
    let desk = Desk::new();
    desk.put("a", "1");
    let marker = fs::read(desk.at(MARKER)).unwrap();
    fs::remove_file(desk.at(MARKER)).unwrap();
    assert!(matches!(desk.dir.check(), Err(FolderGone::NoMarker(_))));
    fs::write(desk.at(MARKER), FolderMarker { binding: [2; 16], ..MARK }.to_string()).unwrap();
    assert!(matches!(desk.dir.check(), Err(FolderGone::OtherMarker(_))));
    fs::remove_file(desk.at(MARKER)).unwrap();
    std::os::unix::fs::symlink("a", desk.at(MARKER)).unwrap();
    assert!(matches!(desk.dir.check(), Err(FolderGone::OtherMarker(_))));
    fs::remove_file(desk.at(MARKER)).unwrap();
    fs::write(desk.at(MARKER), &marker).unwrap();
    desk.dir.check().unwrap();
    // Another directory, even with the marker.
    let away = desk.tmp.path().join("away");
    fs::rename(&desk.root, &away).unwrap();
    assert!(matches!(desk.dir.check(), Err(FolderGone::Missing(_))));
    fs::write(&desk.root, "a file").unwrap();
    assert!(matches!(desk.dir.check(), Err(FolderGone::NotADirectory(_))));
    fs::remove_file(&desk.root).unwrap();
    fs::create_dir(&desk.root).unwrap();
    assert!(matches!(desk.dir.check(), Err(FolderGone::Replaced(_))));
    fs::write(desk.at(MARKER), &marker).unwrap();
    assert!(matches!(desk.dir.check(), Err(FolderGone::Replaced(_))));
    assert!(
        matches!(desk.look(&IgnoreRules::default(), &|_, _| false), (seen, LookEnd::Gone(_)) if seen.is_empty())
    );
}

#[test]
fn an_unmounted_disk_is_not_an_empty_folder() {
    let desk = Desk::new();
    let away = desk.tmp.path().join("away");
    fs::create_dir(&away).unwrap();
    let Some(mount) = SmallMount::new(&away, "1m") else { return };
    let dir = FolderDir::bind(&away, MARK, &forbidden(desk.tmp.path())).unwrap();
    dir.check().unwrap();
    drop(mount);
    assert!(matches!(dir.check(), Err(FolderGone::Replaced(_))));
    assert!(matches!(FolderDir::open(&away, MARK), Err(FolderGone::NoMarker(_))));
    assert_eq!(fs::read_dir(&away).unwrap().count(), 0);
}
