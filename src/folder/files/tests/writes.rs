//! Versions that are put in their places.

use std::os::unix::fs::MetadataExt as _;

use super::*;

/// With and without what a file system may lack.
fn desks() -> impl Iterator<Item = Desk> {
    [(true, true, true), (true, false, true), (false, false, true), (true, true, false)].into_iter().map(
        |(no_replace, exchange, openat2)| {
            let mut desk = Desk::new();
            desk.dir.abilities = Abilities { openat2, no_replace, exchange, clone: true };
            desk
        },
    )
}

fn is_done(end: &Result<ActEnd, WriteError>) -> bool {
    matches!(end, Ok(ActEnd::Done { .. }))
}

#[test]
fn a_new_file_gets_its_place_time_and_row() {
    for desk in desks() {
        let end = desk.write_over("a/b/c", b"new", None).unwrap();
        let ActEnd::Done { row, after } = end else { panic!("{end:?}") };
        desk.journal.settle(&after);
        assert!(desk.journal.all().unwrap().is_empty());
        assert_eq!(desk.read("a/b/c").unwrap(), "new");
        let stat = desk.seen("a/b/c").stat;
        assert_eq!(stat.mtime_ns, 1_500_000_000_123_000_000);
        assert_eq!(row.disk.as_ref().map(|disk| (disk.stat, disk.is_settled)), Some((stat, true)));
        assert_eq!(desk.contents().len(), 1);
        // The place is taken.
        assert_eq!(desk.write_over("a/b/c", b"other", None).unwrap(), ActEnd::LookAgain);
        assert!(matches!(desk.write_over("a/b/c/d", b"other", None), Err(WriteError::Blocked(..))));
        assert_eq!(desk.contents().len(), 1);
        assert!(is_done(&desk.write_over("empty", b"", None)));
        let long = "n".repeat(255);
        assert!(is_done(&desk.write_over(&long, b"long", None)));
        let row = desk.row(&long);
        assert!(is_done(&desk.write_over(&long, b"longer", Some(&row))));
    }
}

#[test]
fn a_file_makes_way_and_is_watched() {
    for desk in desks() {
        desk.put("a", "old");
        fs::set_permissions(desk.at("a"), fs::Permissions::from_mode(0o640)).unwrap();
        let row = desk.row("a");
        let mut open = fs::OpenOptions::new().append(true).open(desk.at("a")).unwrap();
        let end = desk.write_over("a", b"new", Some(&row)).unwrap();
        let ActEnd::Done { row: new, after } = end else { panic!("{end:?}") };
        desk.journal.settle(&after);
        assert_eq!(desk.read("a").unwrap(), "new");
        assert_eq!(new.disk.unwrap().stat, desk.seen("a").stat);
        // Who may read it is as before.
        assert_eq!(fs::metadata(desk.at("a")).unwrap().mode() & 0o777, 0o640);
        let notes = desk.journal.all().unwrap();
        assert_eq!(desk.journal.steps(), [NoteStep::Old]);
        assert_eq!(desk.dir.old_file(&notes[0]).unwrap(), DiskJudgement::Agreed);
        assert!(desk.has_content("old") && desk.temporaries().is_empty());
        // A program that has it open still writes to it.
        io::Write::write_all(&mut open, b" and more").unwrap();
        assert_eq!(desk.dir.old_file(&notes[0]).unwrap(), DiskJudgement::Changed);
        let copied = desk.dir.copy_trashed(&notes[0].trash, &desk.tmp.path().join("copy")).unwrap();
        assert_eq!(copied.hash, hash(b"old and more"));
        let before = FileStat { size: 3, ..copied.stat };
        assert!(!desk.dir.drop_trashed(&notes[0].trash, before).unwrap());
        assert!(desk.dir.drop_trashed(&notes[0].trash, copied.stat).unwrap());
        assert_eq!(desk.dir.old_file(&notes[0]).unwrap(), DiskJudgement::Missing);
    }
}

#[test]
fn who_may_execute_is_kept_to_those_who_may_read() {
    let desk = Desk::new();
    desk.put("a", "old");
    fs::set_permissions(desk.at("a"), fs::Permissions::from_mode(0o640)).unwrap();
    let row = desk.row("a");
    let mut entry = entry("a", b"old");
    entry.file.as_mut().unwrap().executable = true;
    let (name, content) = (path("a"), NewContent::Bytes(b"old"));
    let order = WriteOrder { entry: &entry, over: Some(&row), is_aside: false, name: &name, content };
    let end = desk.dir.write(&[order], &desk.journal, (NOW_MS, 0)).remove(0);
    assert!(is_done(&end), "{end:?}");
    assert_eq!(fs::metadata(desk.at("a")).unwrap().mode() & 0o777, 0o750);
}

#[test]
fn a_save_at_the_last_moment_is_put_back() {
    type Save = fn(&Path);
    let saves: [Save; 3] = [
        |at| save_by_rename(at, "edited"),
        |at| fs::write(at, "edited").unwrap(),
        // Of the same length and time.
        |at| {
            let time = fs::metadata(at).unwrap().modified().unwrap();
            save_by_rename(at, "edi");
            fs::File::options().write(true).open(at).unwrap().set_modified(time).unwrap();
        },
    ];
    for save in saves {
        for moment in [HookPoint::Noted, HookPoint::Making, HookPoint::Made, HookPoint::Placing] {
            for desk in desks() {
                desk.put("a", "old");
                let (row, at) = (desk.row("a"), desk.at("a"));
                desk.once(moment, move || save(&at));
                let end = desk.write_over("a", b"new", Some(&row)).unwrap();
                assert_eq!(end, ActEnd::LookAgain);
                assert!(desk.read("a").unwrap().starts_with("edi"), "{:?}", desk.contents());
                // Ours may have been in the place for a moment, and is watched then.
                assert!(desk.journal.steps().iter().all(|step| *step == NoteStep::Old));
                assert_eq!(desk.contents().len(), 1 + desk.journal.steps().len(), "{:?}", desk.contents());
                for note in desk.journal.all().unwrap() {
                    assert_eq!(desk.dir.old_file(&note).unwrap(), DiskJudgement::Agreed);
                    assert_eq!(desk.dir.hash_trashed(&note.trash).unwrap().unwrap().1, hash(b"new"));
                }
            }
        }
    }
}

#[test]
fn a_second_save_while_the_first_is_put_back_is_lost_neither() {
    for desk in desks() {
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
        let end = desk.write_over("a", b"new", Some(&row)).unwrap();
        let ActEnd::Salvage(note) = end else { panic!("{end:?}") };
        assert!(desk.has_content("first") && desk.has_content("second"), "{:?}", desk.contents());
        let copied = desk.dir.copy_trashed(&note.trash, &desk.tmp.path().join("copy")).unwrap();
        assert!([hash(b"first"), hash(b"second")].contains(&copied.hash));
        assert_eq!(desk.journal.steps(), [NoteStep::Write]);
        assert!(desk.temporaries().is_empty());
    }
}

#[test]
fn what_takes_the_place_of_the_file_stays() {
    type Change = fn(&Path);
    let changes: [Change; 4] = [
        |at| {
            fs::remove_file(at).unwrap();
            fs::create_dir(at).unwrap();
            fs::write(at.join("inside"), "inside").unwrap();
        },
        |at| {
            fs::remove_file(at).unwrap();
            std::os::unix::fs::symlink("/dev/null", at).unwrap();
        },
        |at| fs::remove_file(at).unwrap(),
        |at| fs::rename(at, at.with_file_name("moved")).unwrap(),
    ];
    for (which, change) in changes.into_iter().enumerate() {
        for desk in desks() {
            desk.put("a", "old");
            let (row, at) = (desk.row("a"), desk.at("a"));
            desk.once(HookPoint::Placing, move || change(&at));
            let end = desk.write_over("a", b"new", Some(&row));
            let what = format!("{which} {end:?} {:?} {:?}", desk.dir.abilities, desk.contents());
            assert!(!is_done(&end), "{what}");
            let kind = fs::symlink_metadata(desk.at("a")).ok().map(|data| data.file_type());
            match which {
                0 => assert!(kind.is_some_and(|kind| kind.is_dir()) && desk.has_content("inside"), "{what}"),
                1 => assert!(kind.is_some_and(|kind| kind.is_symlink()), "{what}"),
                2 => assert!(kind.is_none(), "{what}"),
                _ => assert!(kind.is_none() && desk.read("moved").unwrap() == "old", "{what}"),
            }
            desk.no_hook();
            desk.dir.recover(&desk.journal, &|_| true).unwrap();
            assert!(desk.journal.steps().iter().all(|step| *step == NoteStep::Old), "{what}");
            assert!(desk.temporaries().is_empty(), "{what}");
        }
    }
}

#[test]
fn a_save_while_a_name_is_given_by_linking_is_not_lost() {
    let mut desk = Desk::new();
    desk.dir.abilities = Abilities { no_replace: false, exchange: false, ..Abilities::default() };
    for (name, is_there) in [("a", false), ("b", true)] {
        let row = is_there.then(|| {
            desk.put(name, "old");
            desk.row(name)
        });
        let at = desk.at(name);
        desk.once(HookPoint::Linked, move || save_by_rename(&at, "edited"));
        assert!(is_done(&desk.write_over(name, b"new", row.as_ref())));
        assert_eq!(desk.read(name).unwrap(), "edited");
    }
    let row = desk.row("a");
    let (at, again) = (desk.at("a"), desk.at("a"));
    let mut has_saved = false;
    desk.hook(move |moment| {
        if moment == HookPoint::Placing && !std::mem::replace(&mut has_saved, true) {
            save_by_rename(&at, "second");
        } else if moment == HookPoint::Linked {
            save_by_rename(&again, "third");
        }
        Ok(())
    });
    // What is put back is replaced by the user, as any file may be.
    assert_eq!(desk.remove("a", &row).unwrap(), ActEnd::LookAgain);
    assert_eq!(desk.read("a").unwrap(), "third");
}

#[test]
fn a_file_that_comes_to_a_free_place_stays() {
    for desk in desks() {
        let at = desk.at("d/a");
        desk.once(HookPoint::Placing, move || fs::write(at, "theirs").unwrap());
        assert_eq!(desk.write_over("d/a", b"new", None).unwrap(), ActEnd::LookAgain);
        assert_eq!(desk.contents().into_iter().collect::<Vec<_>>(), [("d/a".to_owned(), b"theirs".to_vec())]);
    }
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    for desk in desks() {
        desk.put("d/a", "old");
        let (row, at, home) = (desk.row("d/a"), desk.at("d"), desk.tmp.path().join("home"));
        fs::write(home.join("a"), "old").unwrap();
        let (to, kept) = (home.clone(), desk.at("kept"));
        desk.once(HookPoint::Made, move || {
            fs::rename(&at, kept).unwrap();
            std::os::unix::fs::symlink(to, &at).unwrap();
        });
        assert_eq!(desk.write_over("d/a", b"new", Some(&row)).unwrap(), ActEnd::LookAgain);
        assert_eq!(fs::read_to_string(home.join("a")).unwrap(), "old");
        assert_eq!(fs::read_dir(home).unwrap().count(), 1);
        assert_eq!(desk.contents().into_values().collect::<Vec<_>>(), [b"old".to_vec()]);
    }
}

#[test]
fn names_that_people_take_for_the_same_are_not_made() {
    let desk = Desk::new();
    desk.put("d/Readme", "x");
    let end = desk.write_over("d/README", b"new", None);
    assert!(
        matches!(&end, Err(WriteError::Twin(_, twin)) if twin == "Readme")
            || matches!(end, Ok(ActEnd::LookAgain))
    );
    // Also of what was made here since the directory was listed.
    assert!(is_done(&desk.write_over("d/other", b"new", None)));
    assert!(!is_done(&desk.write_over("d/OTHER", b"new", None)));
    assert_eq!(desk.contents().len(), 2);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let desk = Desk::new();
    let (entry, name) = (entry("d/a", b"content"), path("d/a"));
    let order = |content| WriteOrder { entry: &entry, over: None, is_aside: false, name: &name, content };
    let write =
        |content, reserve| desk.dir.write(&[order(content)], &desk.journal, (NOW_MS, reserve)).remove(0);
    assert!(matches!(write(NewContent::Bytes(b"content"), u64::MAX), Err(WriteError::NoRoom(_))));
    assert!(matches!(write(NewContent::Bytes(b"another"), 0), Err(WriteError::WrongContent(_))));
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        desk.hook(move |moment| {
            if moment == HookPoint::Reading {
                Err(io::Error::from_raw_os_error(errno.raw_os_error()))
            } else {
                Ok(())
            }
        });
        assert!(matches!(write(NewContent::Bytes(b"content"), 0), Err(WriteError::NoRoom(_))));
        desk.no_hook();
    }
    desk.journal.is_broken.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(write(NewContent::Bytes(b"content"), 0), Err(WriteError::Failed(..))));
    desk.journal.is_broken.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(desk.contents().is_empty() && !desk.at("d").exists());
    assert!(desk.journal.all().unwrap().is_empty());
}

#[test]
fn a_disk_that_is_full_keeps_what_it_has() {
    let desk = Desk::new();
    fs::create_dir(desk.at("disk")).unwrap();
    let Some(_mount) = SmallMount::new(&desk.at("disk"), "1m") else { return };
    desk.put("disk/a", "old");
    let row = desk.row("disk/a");
    let large = vec![1; 3 << 20];
    assert!(matches!(desk.write_over("disk/a", &large, Some(&row)), Err(WriteError::NoRoom(_))));
    assert!(matches!(desk.write_over("disk/d/b", &large, None), Err(WriteError::NoRoom(_))));
    // An entry that says less than its content has is no way around.
    let mut entry = entry("disk/c", &large);
    entry.file.as_mut().unwrap().size = 3;
    let (name, content) = (path("disk/c"), NewContent::Bytes(&large));
    let order = WriteOrder { entry: &entry, over: None, is_aside: false, name: &name, content };
    let end = desk.dir.write(&[order], &desk.journal, (NOW_MS, 0)).remove(0);
    assert!(matches!(end, Err(WriteError::NoRoom(_))), "{end:?}");
    assert_eq!(desk.contents().into_iter().collect::<Vec<_>>(), [("disk/a".to_owned(), b"old".to_vec())]);
    assert!(!desk.at("disk/d").exists() && desk.journal.all().unwrap().is_empty());
}

#[test]
fn a_batch_ends_in_its_order_and_one_failure_is_its_own() {
    let desk = Desk::new();
    let store = tempfile::tempdir().unwrap();
    fs::write(store.path().join("content"), "content").unwrap();
    let source = fs::File::open(store.path().join("content")).unwrap();
    desk.put("d/7", "taken");
    let entries: Vec<EntryRecord> = (0..200).map(|n| entry(&format!("d/{n}"), b"content")).collect();
    let orders: Vec<WriteOrder<'_>> = entries
        .iter()
        .map(|entry| WriteOrder {
            entry,
            over: None,
            is_aside: false,
            name: &entry.path,
            content: NewContent::File(&source),
        })
        .collect();
    let started = std::time::Instant::now();
    let ends = desk.dir.write(&orders, &desk.journal, (NOW_MS, 0));
    println!("wrote 200 files in {:?}", started.elapsed());
    for (n, end) in ends.iter().enumerate() {
        assert_eq!(is_done(end), n != 7, "{n} {end:?}");
        if let Ok(ActEnd::Done { row, .. }) = end {
            assert_eq!(row.entry.path, entries[n].path);
        }
    }
    assert_eq!(desk.read("d/7").unwrap(), "taken");
    assert_eq!(desk.contents().len(), 200);
}

#[test]
fn many_files_are_made_at_once_and_each_has_its_own_end() {
    let desk = Desk::new();
    let files: Vec<(String, String)> =
        (0..300).map(|n| (format!("{}/{n:03}", n / 50), format!("content {n}"))).collect();
    let names: Vec<EntryPath> = files.iter().map(|(name, _)| path(name)).collect();
    let entries: Vec<EntryRecord> =
        files.iter().map(|(name, content)| entry(name, content.as_bytes())).collect();
    desk.put("2/123", "in the way");
    let orders: Vec<WriteOrder<'_>> = (0..300)
        .map(|n| WriteOrder {
            entry: &entries[n],
            over: None,
            is_aside: false,
            name: &names[n],
            // One of them is not what it is to be.
            content: NewContent::Bytes(if n == 77 { b"something else" } else { files[n].1.as_bytes() }),
        })
        .collect();
    let ends = desk.dir.write(&orders, &desk.journal, (NOW_MS, 0));
    for (n, end) in ends.iter().enumerate() {
        match n {
            77 => {
                assert!(matches!(end, Err(WriteError::WrongContent(name)) if *name == names[77]), "{end:?}");
            }
            123 => assert!(matches!(end, Ok(ActEnd::LookAgain)), "{end:?}"),
            _ => {
                let Ok(ActEnd::Done { row, .. }) = end else { panic!("{n}: {end:?}") };
                assert_eq!(row.entry, entries[n]);
            }
        }
    }
    for (n, (name, content)) in files.iter().enumerate() {
        let expected = match n {
            77 => None,
            123 => Some("in the way".to_owned()),
            _ => Some(content.clone()),
        };
        assert_eq!(desk.read(name), expected, "{name}");
    }
    assert!(desk.temporaries().is_empty());
}
