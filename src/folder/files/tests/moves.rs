//! Other names, and files that nobody knows.

use super::*;

#[test]
fn a_file_steps_aside_and_never_over_another() {
    let desk = Desk::new();
    desk.put("a", "1");
    assert!(desk.dir.step_aside(&path("a"), &path("d/b")).unwrap());
    assert_eq!(desk.contents().into_iter().collect::<Vec<_>>(), [("d/b".to_owned(), b"1".to_vec())]);
    desk.put("c", "2");
    assert!(!desk.dir.step_aside(&path("c"), &path("d/b")).unwrap());
    assert!(!desk.dir.step_aside(&path("c"), &path("d")).unwrap());
    assert!(!desk.dir.step_aside(&path("none"), &path("e")).unwrap());
    assert!(!desk.dir.step_aside(&path("d"), &path("e")).unwrap());
    let at = desk.at("e");
    desk.once(HookPoint::Placing, move || fs::write(at, "3").unwrap());
    assert!(!desk.dir.step_aside(&path("c"), &path("e")).unwrap());
    assert_eq!(desk.contents().len(), 3);
}

#[test]
fn a_temporary_file_that_nobody_noted_may_be_the_users() {
    let desk = Desk::new();
    desk.put("d/.can-sync-tmp-novel", "chapter one");
    let stray = OwnPath::parse("d/.can-sync-tmp-novel").unwrap();
    let trash = desk.dir.rescue(&stray, &desk.journal.all().unwrap(), NOW_MS).unwrap().unwrap();
    assert_eq!(desk.read(trash.as_str()).unwrap(), "chapter one");
    assert!(trash.as_str().ends_with("-.can-sync-tmp-novel") && desk.contents().len() == 1);
    assert_eq!(desk.dir.rescue(&stray, &desk.journal.all().unwrap(), NOW_MS).unwrap(), None);
}

#[test]
fn our_own_names_are_nothing_else() {
    for good in [".can-sync-tmp-1", "a/.can-sync-tmp-1", ".can-sync-trash/x", "m/.can-sync-trash/x"] {
        assert!(OwnPath::parse(good).is_some(), "{good}");
    }
    for bad in [
        "",
        "a",
        "a/b",
        "../.can-sync-tmp-1",
        ".can-sync-trash/../a",
        "/.can-sync-tmp-1",
        ".can-sync-trash/a/b",
    ] {
        assert!(OwnPath::parse(bad).is_none(), "{bad}");
    }
}
