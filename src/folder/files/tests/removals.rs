//! Files that are taken out.

use super::*;

#[test]
fn a_file_goes_to_the_trash_and_empty_directories_go() {
    let desk = Desk::new();
    desk.put("a/b/c", "old");
    desk.put("a/other", "stays");
    fs::create_dir(desk.at("a/bare")).unwrap();
    let row = desk.row("a/b/c");
    let end = desk.remove("a/b/c", &row).unwrap();
    let ActEnd::Done { row: gone, after } = end else { panic!("{end:?}") };
    assert_eq!((gone.disk.as_ref(), gone.entry.is_live()), (None, false));
    desk.journal.settle(&after);
    assert_eq!(desk.journal.steps(), [NoteStep::Old]);
    assert!(!desk.at("a/b").exists() && desk.at("a/bare").exists() && desk.at("a/other").exists());
    let mut trashed = Vec::new();
    desk.dir
        .trash(&BTreeSet::new(), (None, NOW_MS), &mut |found| {
            trashed.push(found);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(trashed.len(), 1);
    assert_eq!((trashed[0].name.as_str(), trashed[0].at_ms), ("c", NOW_MS));
    for (after, until_ms) in [(None, NOW_MS - 1), (Some(&trashed[0].path), NOW_MS)] {
        let listed = desk.dir.trash(&BTreeSet::new(), (after, until_ms), &mut |found| panic!("{found:?}"));
        listed.unwrap();
    }
    assert_eq!(desk.dir.hash_trashed(&trashed[0].path).unwrap(), Some((trashed[0].stat, hash(b"old"))));
    // Back again, never over another.
    desk.put("a/b/c", "mine");
    assert_eq!(desk.dir.put_back(&trashed[0].path, &path("a/b/c")).unwrap(), PutBack::Taken);
    assert_eq!(desk.read("a/b/c").unwrap(), "mine");
    fs::remove_dir_all(desk.at("a")).unwrap();
    assert_eq!(desk.dir.put_back(&trashed[0].path, &path("a/b/c")).unwrap(), PutBack::Done);
    assert_eq!(desk.read("a/b/c").unwrap(), "old");
    assert_eq!(desk.dir.put_back(&trashed[0].path, &path("a/b/c")).unwrap(), PutBack::Gone);
}

#[test]
fn many_go_at_once_and_their_directories_with_them() {
    let desk = Desk::new();
    let names: Vec<String> = (0..300).map(|n| format!("a/{}/{n}", n % 3)).collect();
    for name in &names {
        desk.put(name, "old");
    }
    let rows: Vec<AgreedRow> = names.iter().map(|name| desk.row(name)).collect();
    desk.put("a/2/5", "edited");
    let orders: Vec<RemoveOrder<'_>> =
        rows.iter().map(|row| RemoveOrder { entry: &row.entry, over: row, name: &row.entry.path }).collect();
    let ends = desk.dir.remove(&orders, &desk.journal, NOW_MS);
    for (n, end) in ends.iter().enumerate() {
        assert_eq!(matches!(end, Ok(ActEnd::Done { .. })), n != 5, "{n} {end:?}");
    }
    assert_eq!(desk.read("a/2/5").unwrap(), "edited");
    assert_eq!(fs::read_dir(desk.at("a")).unwrap().count(), 1);
    assert_eq!(desk.contents().len(), 300);
}

#[test]
fn an_edit_at_the_last_moment_is_put_back() {
    for no_replace in [true, false] {
        for moment in [HookPoint::Noted, HookPoint::Placing, HookPoint::Trashing] {
            let mut desk = Desk::new();
            desk.dir.abilities.no_replace = no_replace;
            desk.put("d/a", "old");
            let (row, at) = (desk.row("d/a"), desk.at("d/a"));
            desk.once(moment, move || save_by_rename(&at, "edited"));
            assert_eq!(desk.remove("d/a", &row).unwrap(), ActEnd::LookAgain);
            assert_eq!(
                desk.contents().into_iter().collect::<Vec<_>>(),
                [("d/a".to_owned(), b"edited".to_vec())]
            );
            assert!(desk.journal.all().unwrap().is_empty());
        }
    }
}

#[test]
fn what_cannot_be_put_back_is_salvaged() {
    let desk = Desk::new();
    desk.put("a", "old");
    let (row, at) = (desk.row("a"), desk.at("a"));
    let mut saves = ["first", "second"].into_iter();
    desk.hook(move |moment| {
        if matches!(moment, HookPoint::Placing | HookPoint::PuttingBack)
            && let Some(save) = saves.next()
        {
            save_by_rename(&at, save);
        }
        Ok(())
    });
    let end = desk.remove("a", &row).unwrap();
    let ActEnd::Salvage(note) = end else { panic!("{end:?}") };
    assert_eq!(desk.read("a").unwrap(), "second");
    assert_eq!(desk.dir.hash_trashed(&note.trash).unwrap().unwrap().1, hash(b"first"));
    assert_eq!(desk.journal.steps(), [NoteStep::Remove]);
    desk.no_hook();
    // Until it is.
    let recovered = desk.dir.recover(&desk.journal, &|_| true).unwrap();
    assert!(matches!(recovered[..], [Recovered::Salvage(_)]), "{recovered:?}");
}

#[test]
fn what_is_no_file_is_not_taken_out() {
    let desk = Desk::new();
    desk.put("a", "old");
    let row = desk.row("a");
    fs::remove_file(desk.at("a")).unwrap();
    assert_eq!(desk.remove("a", &row).unwrap(), ActEnd::LookAgain);
    desk.put("a/inside", "x");
    assert_eq!(desk.remove("a", &row).unwrap(), ActEnd::LookAgain);
    fs::remove_dir_all(desk.at("a")).unwrap();
    desk.put("a", "old");
    let (row, at) = (desk.row("a"), desk.at("a"));
    desk.once(HookPoint::Placing, move || {
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        fs::write(at.join("inside"), "x").unwrap();
    });
    assert_eq!(desk.remove("a", &row).unwrap(), ActEnd::LookAgain);
    assert_eq!(desk.read("a/inside").unwrap(), "x");
    // A trash that is none: nothing is taken out.
    desk.no_hook();
    desk.put("b", "old");
    let row = desk.row("b");
    fs::remove_dir_all(desk.at(TRASH)).unwrap();
    std::os::unix::fs::symlink(desk.tmp.path().join("home"), desk.at(TRASH)).unwrap();
    assert!(desk.remove("b", &row).is_err());
    assert!(desk.write_over("b", b"new", Some(&row)).is_err());
    assert_eq!(desk.read("b").unwrap(), "old");
    assert!(desk.journal.all().unwrap().is_empty() && desk.temporaries().is_empty());
}

#[test]
fn names_in_the_trash_are_as_short_as_the_file_system_wants_them() {
    let desk = Desk::new();
    let root = desk.dir.held_root().unwrap();
    let traits = FsTraits { name_bytes_max: 143, ..root.traits };
    desk.dir.traits.lock().insert(root.key.device, traits);
    let name = "\u{e9}".repeat(71);
    desk.put(&name, "old");
    let row = desk.row(&name);
    assert!(matches!(desk.remove(&name, &row).unwrap(), ActEnd::Done { .. }));
    let names: Vec<_> = fs::read_dir(desk.at(TRASH))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let [trashed] = &names[..] else { panic!("{names:?}") };
    assert!(trashed.len() <= 143 && trashed.contains(&"\u{e9}".repeat(40)), "{trashed}");
}
