//! One path at a time.

use super::*;

#[test]
fn gone_is_said_only_where_it_is_certain() {
    let desk = Desk::new();
    desk.put("d/a", "x");
    desk.put("f", "x");
    let gone = DiskSight::Gone(String::new());
    assert!(matches!(desk.sight("d/a"), DiskSight::File(_)));
    for name in ["d/b", "none", "none/at/all", "f/below"] {
        assert_eq!(desk.sight(name), gone, "{name}");
    }
    assert_eq!(desk.sight("d"), DiskSight::Directory(String::new()));
    // It goes after it was listed.
    fs::remove_file(desk.at("d/a")).unwrap();
    assert_eq!(desk.sight("d/a"), gone);
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::StaleNetworkFileHandle] {
        desk.dir.begin_look(0);
        desk.hook(move |moment| if moment == HookPoint::Listing { Err(kind.into()) } else { Ok(()) });
        assert_eq!(desk.sight("d/a"), DiskSight::Unknown);
        desk.hook(move |moment| if moment == HookPoint::Descending { Err(kind.into()) } else { Ok(()) });
        assert_eq!(desk.sight("d/a"), DiskSight::Unknown);
        desk.no_hook();
    }
}

#[test]
fn no_link_is_followed() {
    let mut desk = Desk::new();
    desk.put("real/a", "x");
    std::os::unix::fs::symlink("real", desk.at("link")).unwrap();
    std::os::unix::fs::symlink("real/a", desk.at("file")).unwrap();
    for openat2 in [true, false] {
        desk.dir.abilities.openat2 = openat2;
        assert_eq!(desk.sight("link"), DiskSight::Foreign);
        assert_eq!(desk.sight("file"), DiskSight::Foreign);
        assert_eq!(desk.sight("link/a"), DiskSight::Unknown);
        assert_eq!(desk.sight("link/none"), DiskSight::Unknown);
        assert!(matches!(desk.write_over("link/new", b"x", None), Err(WriteError::Blocked(..))));
        assert!(matches!(desk.write_over("link/sub/new", b"x", None), Err(WriteError::Blocked(..))));
        let row = desk.row("real/a");
        assert_eq!(desk.remove("link/a", &row).unwrap(), ActEnd::LookAgain);
        assert_eq!(desk.contents().len(), 1);
    }
    rustix::fs::mknodat(rustix::fs::CWD, desk.at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(desk.sight("pipe"), DiskSight::Foreign);
    assert_eq!(desk.sight("pipe/a"), DiskSight::Unknown);
}

#[test]
fn a_file_aside_stands_for_its_path() {
    let desk = Desk::new();
    desk.put("name/below", "x");
    let aside = path("name").aside(MARK.folder);
    desk.put(aside.as_str(), "aside");
    assert!(matches!(desk.sight("name"), DiskSight::File(file) if file.is_aside));
    let (all, _) = desk.look(&IgnoreRules::default(), &|_, _| false);
    let found = all.iter().find_map(|sighted| {
        let Sighted::File(file) = sighted else { return None };
        (file.name == aside).then(|| (file.path.clone(), file.file.is_aside))
    });
    assert_eq!(found, Some((path("name"), true)));
    fs::remove_dir_all(desk.at("name")).unwrap();
    assert!(matches!(desk.sight("name"), DiskSight::File(file) if file.is_aside));
    desk.put("name", "plain");
    assert!(matches!(desk.sight("name"), DiskSight::File(file) if !file.is_aside));
}

#[test]
fn a_name_that_is_written_otherwise_is_the_same_file() {
    let desk = Desk::new();
    let (composed, decomposed) = ("\u{e9}/caf\u{e9}", "e\u{301}/cafe\u{301}");
    desk.put(decomposed, "x");
    if desk.at(composed).exists() {
        return println!("left out: this file system folds names");
    }
    assert!(matches!(desk.sight(composed), DiskSight::File(_)));
    assert!(matches!(desk.sight("\u{e9}/none"), DiskSight::Gone(_)));
    // It is replaced under the name that it has, in the directory that is there.
    let row = AgreedRow { entry: entry(composed, b"x"), ..desk.row(decomposed) };
    let end = desk.write_over(composed, b"new", Some(&row)).unwrap();
    assert!(matches!(end, ActEnd::Done { .. }), "{end:?}");
    assert_eq!(desk.read(decomposed).unwrap(), "new");
    assert!(!desk.at(composed).exists() && !desk.at("\u{e9}").exists());
    let end = desk.write_over("\u{e9}/second", b"2", None).unwrap();
    assert!(matches!(end, ActEnd::Done { .. }) && desk.at("e\u{301}/second").exists(), "{end:?}");
}

#[test]
fn what_may_not_be_read_is_unknown() {
    if rustix::process::geteuid().is_root() {
        return println!("left out: root may read everything");
    }
    let desk = Desk::new();
    desk.put("closed/a", "x");
    desk.put("secret", "x");
    fs::set_permissions(desk.at("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(desk.at("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(desk.sight("closed/a"), DiskSight::Unknown);
    assert_eq!(desk.sight("closed/none"), DiskSight::Unknown);
    let (_, end) = desk.look(&IgnoreRules::default(), &|_, _| false);
    assert!(matches!(end, LookEnd::Done(LookCounts { unknown: 1, files: 1, .. })), "{end:?}");
    let error = desk.dir.copy(&path("secret"), &desk.tmp.path().join("copy"), None).unwrap_err();
    assert!(matches!(error, CopyError::Unreadable(..)), "{error}");
    assert!(desk.write_over("closed/b", b"new", None).is_err());
    // It can be listed, but nothing can be made in it.
    fs::set_permissions(desk.at("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    let row = desk.row("closed/a");
    assert!(desk.write_over("closed/b", b"new", None).is_err());
    assert!(desk.write_over("closed/a", b"new", Some(&row)).is_err());
    assert!(desk.remove("closed/a", &row).is_err());
    assert_eq!(desk.read("closed/a").unwrap(), "x");
    assert!(desk.journal.all().unwrap().is_empty());
    fs::set_permissions(desk.at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn what_was_taken_out_costs_no_listing_and_what_held_still_none_in_a_later_look() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let desk = Desk::new();
    let names: Vec<String> = (0..20).map(|n| format!("d/{n}")).collect();
    for name in &names {
        desk.put(name, name);
    }
    desk.put("d/stays", "x");
    let listed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&listed);
    desk.hook(move |moment| {
        count.fetch_add(usize::from(moment == HookPoint::Listing), Ordering::Relaxed);
        Ok(())
    });
    let rows: Vec<_> = names.iter().map(|name| desk.row(name)).collect();
    assert_eq!(listed.swap(0, Ordering::Relaxed), 1);
    for (name, row) in names.iter().zip(&rows) {
        assert!(matches!(desk.remove(name, row), Ok(ActEnd::Done { .. })));
        assert_eq!(desk.sight(name), DiskSight::Gone(String::new()));
    }
    assert_eq!(listed.swap(0, Ordering::Relaxed), 0);
    // Long after the directory changed.
    for look in [1, 0, 0] {
        desk.dir.begin_look(LATER_MS);
        assert!(matches!(desk.sight("d/stays"), DiskSight::File(_)));
        assert_eq!(listed.swap(0, Ordering::Relaxed), look);
    }
    // Time goes by, and it changes.
    std::fs::File::open(desk.at("d")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    desk.put("d/STAYS", "y");
    desk.dir.begin_look(LATER_MS);
    assert_eq!(desk.sight("d/stays"), DiskSight::Foreign);
    // One that changed just now may change again without showing it.
    let fresh = Desk::new();
    fresh.put("d/a", "x");
    let count = Arc::clone(&listed);
    fresh.hook(move |moment| {
        count.fetch_add(usize::from(moment == HookPoint::Listing), Ordering::Relaxed);
        Ok(())
    });
    for _ in 0..3 {
        listed.store(0, Ordering::Relaxed);
        fresh.dir.begin_look(0);
        assert!(matches!(fresh.sight("d/a"), DiskSight::File(_)));
        assert_eq!(listed.load(Ordering::Relaxed), 1);
    }
}
