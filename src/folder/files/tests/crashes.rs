//! The program is killed between any two steps, while a user saves something at any of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::*;

/// What is done when the program is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Write,
    Replace,
    Remove,
}

/// What the user does, and before which step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum User {
    Nothing,
    Saves(usize),
    Deletes(usize),
}

struct Crash;

/// More steps than any action has.
const STEPS_MAX: usize = 40;

/// `false` once the action has fewer steps than `killed_at`.
fn crash(act: Act, abilities: Abilities, killed_at: usize, user: User) -> bool {
    let mut desk = if user == User::Nothing { Desk::new() } else { Desk::in_memory() };
    desk.dir.abilities = abilities;
    let what = format!("{act:?} {abilities:?} killed at {killed_at}, user {user:?}");
    let row = (act != Act::Write).then(|| {
        desk.put("d/a", "old");
        desk.row("d/a")
    });
    desk.put("d/keep", "keep");
    let at = desk.at("d/a");
    let steps = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&steps);
    desk.hook(move |_| {
        let step = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match user {
            User::Saves(when) if when == step => save_by_rename(&at, "edited"),
            User::Deletes(when) if when == step => drop(fs::remove_file(&at)),
            User::Nothing | User::Saves(_) | User::Deletes(_) => {}
        }
        if step == killed_at {
            resume_unwind(Box::new(Crash));
        }
        Ok(())
    });
    let done = catch_unwind(AssertUnwindSafe(|| {
        if act == Act::Remove {
            desk.remove("d/a", row.as_ref().unwrap()).map_err(|error| error.to_string())
        } else {
            desk.write_over("d/a", b"new", row.as_ref()).map_err(|error| error.to_string())
        }
    }));
    let was_killed = done.is_err();
    desk.no_hook();
    desk.reopen();
    if let Ok(Ok(ActEnd::Done { after, .. })) = &done {
        desk.journal.settle(after);
    }
    let took = steps.load(std::sync::atomic::Ordering::Relaxed);
    let has_saved = matches!(user, User::Saves(when) if when < took);
    let has_deleted = matches!(user, User::Deletes(when) if when < took);
    let is_kept = |hash_: ContentHash| [hash(b"old"), hash(b"new")].contains(&hash_);
    // A second start finds nothing more to do than the first.
    for _ in 0..2 {
        let recovered = desk.dir.recover(&desk.journal, &is_kept).unwrap();
        for recovered in recovered {
            match recovered {
                Recovered::Salvage(note) => {
                    let found = desk.dir.hash_trashed(&note.trash).unwrap().map(|(_, hash)| hash);
                    assert!(found.is_some(), "{what}: nothing to salvage");
                    let is_theirs = found == Some(hash(b"edited")) && has_saved;
                    assert!(is_theirs, "{what}: {found:?} is salvaged {:?}", desk.contents());
                }
                Recovered::Settled(_) | Recovered::Watched(_) => {}
                Recovered::Later(_, error) => panic!("{what}: {error}"),
            }
        }
    }
    let contents = desk.contents();
    let what = format!("{what}: {contents:?} {:?}", desk.journal.steps());
    assert_eq!(desk.read("d/keep").as_deref(), Some("keep"), "{what}");
    assert!(desk.temporaries().is_empty(), "{what}");
    if has_saved {
        assert!(desk.has_content("edited"), "lost: {what}");
    } else if row.is_some() && !has_deleted {
        assert!(desk.has_content("old"), "lost: {what}");
    }
    let shown = desk.read("d/a");
    if !has_saved && !has_deleted {
        // All or nothing, and never gone but for a removal.
        let allowed: &[Option<&str>] = match act {
            Act::Write => &[None, Some("new")],
            Act::Replace => &[Some("old"), Some("new")],
            Act::Remove => &[Some("old"), None],
        };
        assert!(allowed.contains(&shown.as_deref()), "{what}");
    }
    assert!(shown.is_none_or(|shown| ["old", "new", "edited"].contains(&shown.as_str())), "{what}");
    was_killed
}

#[test]
fn nothing_is_lost_between_any_two_steps() {
    let mut crashes = 0;
    for (no_replace, exchange) in [(true, true), (true, false), (false, false)] {
        let abilities = Abilities { no_replace, exchange, ..Abilities::default() };
        for act in [Act::Write, Act::Replace, Act::Remove] {
            for killed_at in 0..STEPS_MAX {
                let was_killed = crash(act, abilities, killed_at, User::Nothing);
                for when in 0..=killed_at {
                    crash(act, abilities, killed_at, User::Saves(when));
                    crash(act, abilities, killed_at, User::Deletes(when));
                    crashes += 2;
                }
                if !was_killed {
                    assert!(killed_at > 5, "{act:?} has only {killed_at} steps");
                    break;
                }
            }
        }
    }
    println!("killed {crashes} times");
}

#[test]
fn a_half_made_file_is_dropped_and_not_salvaged() {
    let desk = Desk::new();
    desk.put("a", "old");
    let row = desk.row("a");
    desk.hook(|moment| if moment == HookPoint::Reading { resume_unwind(Box::new(Crash)) } else { Ok(()) });
    let killed = catch_unwind(AssertUnwindSafe(|| desk.write_over("a", b"new", Some(&row))));
    assert!(killed.is_err() && desk.temporaries().len() == 1);
    desk.no_hook();
    // It is noted, and no stray.
    let stray = OwnPath::parse(&desk.temporaries()[0]).unwrap();
    assert_eq!(desk.dir.rescue(&stray, &desk.journal.all().unwrap(), NOW_MS).unwrap(), None);
    let recovered = desk.dir.recover(&desk.journal, &|_| true).unwrap();
    assert!(matches!(recovered[..], [Recovered::Settled(_)]), "{recovered:?}");
    assert!(desk.temporaries().is_empty() && desk.read("a").unwrap() == "old");
}

#[test]
fn what_the_store_lost_is_not_dropped() {
    let desk = Desk::new();
    desk.put("a", "old");
    let row = desk.row("a");
    let mut placings = 0;
    desk.hook(move |moment| {
        placings += usize::from(moment == HookPoint::Looking);
        if placings == 1 { resume_unwind(Box::new(Crash)) } else { Ok(()) }
    });
    let killed = catch_unwind(AssertUnwindSafe(|| desk.write_over("a", b"new", Some(&row))));
    assert!(killed.is_err());
    desk.no_hook();
    let recovered = desk.dir.recover(&desk.journal, &|_| false).unwrap();
    assert!(matches!(recovered[..], [Recovered::Watched(_)]), "{recovered:?}");
    assert!(desk.has_content("old") && desk.has_content("new"));
}
