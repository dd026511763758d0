//! What a look meets.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use super::*;

fn files(all: &[Sighted]) -> Vec<&str> {
    let mut names: Vec<&str> = all
        .iter()
        .filter_map(|sighted| if let Sighted::File(file) = sighted { Some(file.name.as_str()) } else { None })
        .collect();
    names.sort_unstable();
    names
}

fn passed(all: &[Sighted]) -> BTreeMap<String, PassedOver> {
    let passed = |sighted: &Sighted| {
        if let Sighted::PassedOver { name, why, .. } = sighted { Some((name.clone(), *why)) } else { None }
    };
    all.iter().filter_map(passed).collect()
}

fn nobody(_: &EntryPath, _: bool) -> bool {
    false
}

#[test]
fn everything_is_named_for_what_it_is() {
    let desk = Desk::new();
    let long = "x".repeat(255);
    let decomposed = "cafe\u{301}";
    for name in ["a", "d/b", "d/e/c", "empty", &long, decomposed, "Grüße/日本"] {
        desk.put(name, if name == "empty" { "" } else { "x" });
    }
    fs::create_dir(desk.at("bare")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, desk.at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(desk.at("socket")).unwrap();
    std::os::unix::fs::symlink("d", desk.at("link")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", desk.at("zero")).unwrap();
    fs::write(desk.at("").join(OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
    desk.put("line\nbreak", "x");
    desk.put(".can-sync-tmp-mine", "x");
    desk.put("d/.can-sync-other", "x");
    desk.put("inner/.can-sync-folder", "x");
    desk.put("inner/file", "x");
    let (all, end) = desk.look(&IgnoreRules::default(), &nobody);
    assert!(matches!(end, LookEnd::Done(LookCounts { files: 7, directories: 5, unknown: 0 })), "{end:?}");
    let mut expected = vec!["a", "d/b", "d/e/c", "empty", &long, decomposed, "Grüße/日本"];
    expected.sort_unstable();
    assert_eq!(files(&all), expected);
    assert_eq!(
        passed(&all),
        BTreeMap::from([
            ("caf%E9".to_owned(), PassedOver::NotUtf8),
            ("inner".to_owned(), PassedOver::OtherFolder),
            ("line\nbreak".to_owned(), PassedOver::Path),
            ("link".to_owned(), PassedOver::Kind(FileKind::Symlink)),
            ("pipe".to_owned(), PassedOver::Kind(FileKind::Fifo)),
            ("socket".to_owned(), PassedOver::Kind(FileKind::Socket)),
            ("zero".to_owned(), PassedOver::Kind(FileKind::Symlink)),
        ])
    );
    let strays: Vec<_> = all.iter().filter(|sighted| matches!(sighted, Sighted::Stray(_))).collect();
    assert_eq!(strays, [&Sighted::Stray(OwnPath::parse(".can-sync-tmp-mine").unwrap())]);
    assert!(all.contains(&Sighted::Directory { name: path("bare"), mount: String::new() }));
}

#[test]
fn paths_that_are_too_long_are_passed_over() {
    let desk = Desk::new();
    let mut deep = desk.root.clone();
    for _ in 0..5 {
        deep.push("y".repeat(250));
        fs::create_dir(&deep).unwrap();
    }
    let (all, end) = desk.look(&IgnoreRules::default(), &nobody);
    assert!(matches!(end, LookEnd::Done(LookCounts { directories: 5, .. })), "{end:?}");
    assert_eq!(passed(&all).into_values().collect::<Vec<_>>(), [PassedOver::Path]);
}

#[test]
fn of_names_that_are_the_same_to_people_one_stays() {
    let desk = Desk::new();
    for name in ["Readme", "readme", "caf\u{e9}", "cafe\u{301}", "Photos/a", "photos/b", "STRASSE", "straße"]
    {
        desk.put(name, name);
    }
    if fs::read_dir(&desk.root).unwrap().count() != 9 {
        return println!("left out: this file system folds names");
    }
    let (all, _) = desk.look(&IgnoreRules::default(), &nobody);
    assert_eq!(files(&all), ["Photos/a", "Readme", "STRASSE", "cafe\u{301}"]);
    assert_eq!(passed(&all).len(), 4);
    let known = ["readme", "caf\u{e9}", "photos", "straße"];
    let keeps = |path: &EntryPath, _: bool| known.contains(&path.as_str());
    let (all, _) = desk.look(&IgnoreRules::default(), &keeps);
    assert_eq!(files(&all), ["caf\u{e9}", "photos/b", "readme", "straße"]);
    let sight = |name: &str| {
        let path = path(name);
        desk.dir.sight(&path, &path, LookRules { ignored: &IgnoreRules::default(), knows: &keeps }, None)
    };
    for (stays, goes) in [("readme", "Readme"), ("caf\u{e9}", "cafe\u{301}"), ("straße", "STRASSE")] {
        assert!(matches!(sight(stays), DiskSight::File(_)), "{stays}");
        assert_eq!(sight(goes), DiskSight::Foreign, "{goes}");
    }
}

#[test]
fn what_cannot_be_listed_is_unknown_and_nothing_else_is() {
    let desk = Desk::new();
    for name in ["a/1", "b/1", "c/1", "top"] {
        desk.put(name, "x");
    }
    let mut listings = 0;
    desk.hook(move |moment| {
        listings += usize::from(moment == HookPoint::Listing);
        let is_second = moment == HookPoint::Listing && listings == 3;
        if is_second { Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error())) } else { Ok(()) }
    });
    let (all, end) = desk.look(&IgnoreRules::default(), &nobody);
    assert!(matches!(end, LookEnd::Done(LookCounts { unknown: 1, .. })), "{end:?}");
    assert_eq!(files(&all), ["a/1", "c/1", "top"]);
    let unknown =
        all.iter().find_map(|s| if let Sighted::Unknown { name, .. } = s { Some(name) } else { None });
    assert_eq!(unknown, Some(&"b".to_owned()));
    // A file of which `lstat` says nothing.
    let mut looks = 0;
    desk.hook(move |moment| {
        looks += usize::from(moment == HookPoint::Looking);
        if moment == HookPoint::Looking && looks == 4 {
            Err(io::ErrorKind::PermissionDenied.into())
        } else {
            Ok(())
        }
    });
    let (all, end) = desk.look(&IgnoreRules::default(), &nobody);
    assert!(matches!(end, LookEnd::Done(LookCounts { unknown: 1, files: 3, .. })), "{end:?} {all:?}");
}

#[test]
fn a_directory_that_becomes_a_link_in_between_is_unknown() {
    for openat2 in [true, false] {
        let mut desk = Desk::new();
        desk.dir.abilities.openat2 = openat2;
        desk.put("a/1", "x");
        let (at, to) = (desk.at("a"), desk.tmp.path().join("home"));
        fs::write(to.join("secret"), "x").unwrap();
        let mut descents = 0;
        desk.hook(move |moment| {
            descents += usize::from(moment == HookPoint::Descending);
            if descents == 2 && moment == HookPoint::Descending {
                fs::rename(&at, at.with_file_name("b")).unwrap();
                std::os::unix::fs::symlink(&to, &at).unwrap();
            }
            Ok(())
        });
        let (all, end) = desk.look(&IgnoreRules::default(), &nobody);
        assert!(matches!(end, LookEnd::Done(LookCounts { unknown: 1, files: 0, .. })), "{end:?} {all:?}");
    }
}

#[test]
fn a_marker_that_goes_during_a_look_makes_it_worth_nothing() {
    let desk = Desk::new();
    desk.put("a/1", "x");
    let marker = desk.at(MARKER);
    desk.once(HookPoint::Looking, move || fs::remove_file(marker).unwrap());
    let (_, end) = desk.look(&IgnoreRules::default(), &nobody);
    assert!(matches!(end, LookEnd::Gone(FolderGone::NoMarker(_))), "{end:?}");
}

#[test]
fn what_the_user_leaves_out_is_left_out() {
    let desk = Desk::new();
    desk.put(IGNORE_FILE, "\u{feff}# mine\n*.tmp\n!keep.tmp\nbuild/\n/only-here\na/**/deep\n[\n");
    for name in
        ["x.tmp", "keep.tmp", "build/keep.tmp", "d/build/y", "only-here", "d/only-here", "a/b/deep", "z"]
    {
        desk.put(name, "x");
    }
    let rules = desk.dir.ignore_rules().unwrap();
    let (all, _) = desk.look(&rules, &nobody);
    assert_eq!(files(&all), ["d/only-here", "keep.tmp", "z"]);
    for (name, is_ignored) in
        [("build/keep.tmp", true), ("keep.tmp", false), ("a/b/deep", true), ("build", false)]
    {
        assert_eq!(rules.is_ignored(&path(name), false), is_ignored, "{name}");
        let sight =
            desk.dir.sight(&path(name), &path(name), LookRules { ignored: &rules, knows: &nobody }, None);
        let is_seen = sight == DiskSight::Ignored;
        assert_eq!(is_seen, is_ignored || name == "build", "{name} {sight:?}");
    }
    fs::remove_file(desk.at(IGNORE_FILE)).unwrap();
    assert_eq!(files(&desk.look(&desk.dir.ignore_rules().unwrap(), &nobody).0).len(), 8);
    // What cannot be read is no reason to leave out nothing.
    fs::create_dir(desk.at(IGNORE_FILE)).unwrap();
    assert!(desk.dir.ignore_rules().is_err());
}

#[test]
fn a_mount_point_has_a_name_and_is_missed_when_it_is_gone() {
    let mut desk = Desk::new();
    desk.put("disk/under", "covered");
    desk.put("disk/old", "covered");
    let Some(mount) = SmallMount::new(&desk.at("disk"), "1m") else { return };
    desk.put("disk/d/x", "on it");
    let (all, _) = desk.look(&IgnoreRules::default(), &nobody);
    assert_eq!(files(&all), ["disk/d/x"]);
    assert_eq!(desk.seen("disk/d/x").mount, "disk");
    assert!(all.contains(&Sighted::Directory { name: path("disk"), mount: "disk".to_owned() }));
    // Its trash is on it.
    let row = desk.row("disk/d/x");
    let end = desk.remove("disk/d/x", &row).unwrap();
    let ActEnd::Done { after: AfterAct::Watch(note), .. } = end else { panic!("{end:?}") };
    assert!(note.trash.as_str().starts_with("disk/.can-sync-trash/"), "{}", note.trash);
    assert!(!desk.at("disk/d").exists() && desk.at("disk").exists());
    drop(mount);
    desk.dir.begin_look(0);
    assert!(matches!(desk.sight("disk/d/x"), DiskSight::Gone(mount) if mount.is_empty()));
    desk.dir.know_mounts(BTreeSet::from(["disk".to_owned()]));
    assert_eq!(desk.sight("disk/d/x"), DiskSight::Unknown);
    let (all, end) = desk.look(&IgnoreRules::default(), &nobody);
    assert!(matches!(end, LookEnd::Done(LookCounts { unknown: 1, .. })), "{end:?} {all:?}");
    assert!(matches!(desk.write_over("disk/new", b"x", None), Err(WriteError::Blocked(..))));
    assert!(desk.remove("disk/under", &row).is_err());
    assert_eq!(desk.contents().len(), 2);
}

#[test]
fn twenty_thousand_files_stream() {
    let desk = Desk::new();
    for n in 0..20_000 {
        desk.put(&format!("{}/{n}", n % 7), "");
    }
    let started = Instant::now();
    let (mut met, mut seen) = (0_u32, 0_u32);
    let end = desk.dir.look(LookRules { ignored: &IgnoreRules::default(), knows: &nobody }, &mut |sighted| {
        seen += u32::from(matches!(sighted, Sighted::File(_)));
        ControlFlow::Continue(())
    });
    println!("looked at 20,000 files in {:?}", started.elapsed());
    assert!(matches!(end, LookEnd::Done(LookCounts { files: 20_000, .. })), "{end:?}");
    assert_eq!(seen, 20_000);
    let end = desk.dir.look(LookRules { ignored: &IgnoreRules::default(), knows: &nobody }, &mut |_| {
        met += 1;
        if met == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(end, LookEnd::Stopped) && met == 100);
    desk.dir.stop_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(desk.look(&IgnoreRules::default(), &nobody), (_, LookEnd::Stopped)));
}

#[test]
fn a_subvolume_is_a_file_system_of_its_own() {
    let desk = Desk::new();
    let mut command = std::process::Command::new("btrfs");
    let made = command.args(["subvolume", "create"]).arg(desk.at("sub")).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return println!("left out: no subvolume can be made here");
    }
    desk.put("sub/d/a", vec![1; 200_000]);
    assert_eq!(desk.seen("sub/d/a").mount, "sub");
    let copied = desk.dir.copy(&path("sub/d/a"), &desk.tmp.path().join("copy"), None).unwrap();
    assert!(copied.is_clone);
    let row = desk.row("sub/d/a");
    let end = desk.write_over("sub/d/a", b"new", Some(&row)).unwrap();
    let ActEnd::Done { after: AfterAct::Watch(note), row } = end else { panic!("{end:?}") };
    assert!(note.trash.as_str().starts_with("sub/.can-sync-trash/"), "{}", note.trash);
    assert!(matches!(desk.remove("sub/d/a", &row).unwrap(), ActEnd::Done { .. }));
    assert!(desk.at("sub").exists() && !desk.at("sub/d").exists());
    // A file does not move from one to the other.
    desk.put("sub/b", "x");
    assert!(desk.dir.step_aside(&path("sub/b"), &path("b")).is_err());
    assert_eq!(desk.read("sub/b").unwrap(), "x");
}
