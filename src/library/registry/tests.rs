use ed25519_dalek::SigningKey;
use iroh::{EndpointId, SecretKey};
use zeroize::Zeroizing;

use super::devices::WAITING_MAX;
use super::*;
use crate::library::Aside;
use crate::library::filter::Filter;
use crate::library::private::Private;
use crate::library::revocation::{ListDates, Revocations, SignedRevocations};
use crate::library::sharing::Sharing;
use crate::library::ticket::{LibraryId, Subject, Terms, Ticket};
use crate::record::{AssetMeta, AssetRecord, ContentHash};
use crate::store::Holding;

fn endpoint(n: u8) -> EndpointId {
    SecretKey::from_bytes(&[n; 32]).public()
}

fn ticket(key: &SigningKey, serial: u64) -> Ticket {
    let terms = Terms {
        name: "pictures".into(),
        access: Access::Write,
        subject: Subject::Bearer,
        not_before_ms: 0,
        expires_ms: Some(99),
        uses: 2,
        serial,
        epoch: 0,
        held: (0, 0),
        fresh_within_ms: 0,
    };
    Ticket::issue(key, terms, Zeroizing::new([5; 32]), Filter::default(), Vec::new()).unwrap()
}

fn registry() -> (tempfile::TempDir, Registry, SigningKey, LibraryId) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
    let key = SigningKey::from_bytes(&[1; 32]);
    assert!(registry.keep(Some(&key), &ticket(&key, 0), None, (Sharing::default(), None), 5).unwrap());
    let id = LibraryId(key.verifying_key().to_bytes());
    (dir, registry, key, id)
}

#[test]
fn everything_survives_a_restart_and_goes_with_its_library() {
    let (dir, registry, key, id) = registry();
    assert_eq!((registry.next_serial(id).unwrap(), registry.next_serial(id).unwrap()), (1, 2));
    registry.issued(&ticket(&key, 1), 6).unwrap();
    let aside = |n, deleted| {
        let meta = AssetMeta { filename: Some("a".into()), ..AssetMeta::default() };
        let record = AssetRecord::new(ContentHash([n; 32]), 7, None, meta);
        let holding = if deleted { Holding::Unwanted } else { Holding::Wanted };
        let from = deleted.then_some(u64::from(n));
        Aside {
            record: AssetRecord { deleted, left: deleted, ..record },
            holding,
            from,
            is_forgotten: deleted,
        }
    };
    let all = [aside(3, false), aside(4, true), aside(5, false)];
    let set = all.clone().map(|aside| (aside.record.hash, Some(aside)));
    registry.set_asides(id, &set, 9).unwrap();
    registry.set_asides(id, &[(ContentHash([5; 32]), None)], 9).unwrap();
    let list = |version| {
        let list = Revocations { version, serials: [version].into(), ..Revocations::default() };
        SignedRevocations::sign(&key, list)
    };
    registry.set_revocations(id, &list(2)).unwrap();
    registry.set_revocations(id, &list(1)).unwrap();
    let mut private = Private::default();
    private.add(&aside(6, false).record);
    let sharing = Sharing::agreed(1, 2).renewed(0, 3);
    for kept in [Some(&private), None] {
        assert!(registry.keep(None, &ticket(&key, 0), None, (sharing, kept), 5).unwrap());
    }
    let dates = ListDates { received_ms: 3, told_ms: 4 };
    registry.set_dated_revocations(id, || Some((list(2), dates))).unwrap();
    // What comes late of an older list says nothing of the one that is kept.
    let newer = ListDates { received_ms: 30, told_ms: 40 };
    registry.set_dated_revocations(id, || Some((list(1), newer))).unwrap();
    registry.set_dated_revocations(id, || None).unwrap();
    let member = Member {
        endpoint_id: endpoint(2).to_string(),
        name: "two".into(),
        access: Access::Read,
        serial: 1,
        last_synced_ms: 8,
    };
    registry.remember(id, &member).unwrap();
    drop(registry);
    let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
    let kept = registry.libraries().unwrap().pop().unwrap();
    assert_eq!(kept.key.unwrap().to_bytes(), key.to_bytes());
    assert_eq!((kept.ticket, kept.created_ms, kept.sharing), (ticket(&key, 0), 5, sharing));
    assert_eq!(registry.list_dates(id).unwrap(), dates);
    assert_eq!(registry.private(id).unwrap(), private);
    assert_eq!(kept.revocations.unwrap(), list(2).encode(), "the newer one, whatever the order");
    assert_eq!(registry.next_serial(id).unwrap(), 3);
    assert_eq!(registry.tickets(id).unwrap()[0].expires_ms, Some(99));
    assert_eq!(registry.members(id).unwrap(), std::slice::from_ref(&member));
    assert!(registry.asides_noted(id, 9).unwrap().is_empty());
    assert_eq!(registry.asides_noted(id, 10).unwrap(), [all[0].record.hash, all[1].record.hash]);
    let kept = registry.asides(id).unwrap();
    assert_eq!((kept.len(), &kept[&all[0].record.hash], &kept[&all[1].record.hash]), (2, &all[0], &all[1]));

    assert!(registry.forget(id).unwrap() && !registry.forget(id).unwrap());
    assert!(registry.next_serial(id).is_err());
    assert!(registry.tickets(id).unwrap().is_empty() && registry.asides(id).unwrap().is_empty());
    // News that was under way when the library went leaves nothing behind.
    registry.remember(id, &member).unwrap();
    registry.set_asides(id, &set, 9).unwrap();
    assert!(registry.members(id).unwrap().is_empty() && registry.asides(id).unwrap().is_empty());
}

#[test]
fn nothing_is_old_enough_by_one_look_or_by_two_that_are_close() {
    const HOUR: u64 = 3_600_000;
    let (dir, registry, ..) = registry();
    assert_eq!(registry.look(100 * HOUR, HOUR).unwrap(), None, "the first one");
    assert_eq!(registry.look(9_000 * HOUR, 23 * HOUR).unwrap(), None, "whatever the clock shows");
    drop(registry);
    let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
    assert_eq!(registry.look(9_001 * HOUR, HOUR).unwrap(), Some(100 * HOUR), "by the earlier of the two");
    assert_eq!(registry.look(9_002 * HOUR, HOUR).unwrap(), None);
    assert_eq!(registry.look(200 * HOUR, 23 * HOUR).unwrap(), Some(200 * HOUR));
}

#[test]
fn of_many_that_race_for_the_uses_as_many_as_there_are_win() {
    let (_dir, registry, _, id) = registry();
    let won = std::thread::scope(|scope| {
        let attempt = |n| {
            let registry = registry.clone();
            scope.spawn(move || registry.redeem(id, 1, 2, endpoint(n)).unwrap())
        };
        let racing: Vec<_> = (1..9).map(attempt).collect();
        racing.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 2);
    for (n, won) in (1..9).zip(won) {
        assert_eq!(registry.redeem(id, 1, 2, endpoint(n)).unwrap(), won, "the same again");
    }
    registry.issued(&ticket(&SigningKey::from_bytes(&[1; 32]), 1), 6).unwrap();
    assert_eq!(registry.tickets(id).unwrap()[0].used, 2);
}

#[test]
fn the_file_is_its_owners_alone_and_room_is_limited() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, registry, _, _) = registry();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
    let kept = |n: u8| {
        let key = SigningKey::from_bytes(&[n; 32]);
        registry.keep(None, &ticket(&key, 0), None, (Sharing::default(), None), 5).unwrap()
    };
    assert!((2..=63).all(kept));
    assert!(!kept(64), "no room");
    assert!(kept(63), "a newer ticket of one that is there");
}

#[test]
fn asking_again_does_not_undo_a_decision() {
    let (_dir, registry, _, _) = registry();
    let set = |n, standing, name: &str| {
        let endpoint_id = endpoint(n).to_string();
        registry.set_device(&Device { endpoint_id, name: name.into(), standing, at_ms: 1 }).unwrap();
    };
    let standing = || registry.devices().unwrap().pop().map(|d| (d.standing, d.name));
    set(1, DeviceStanding::Waiting, "desk");
    assert_eq!(standing(), Some((DeviceStanding::Waiting, "desk".into())));
    set(1, DeviceStanding::Denied, "");
    set(1, DeviceStanding::Waiting, "other");
    assert_eq!(standing(), Some((DeviceStanding::Denied, "desk".into())));
    set(1, DeviceStanding::Approved, "");
    assert_eq!(standing(), Some((DeviceStanding::Approved, "desk".into())));
}

#[test]
fn the_waiting_list_keeps_its_oldest() {
    let (_dir, registry, _, _) = registry();
    let wait = |id: &str, name: &str, at_ms| {
        let standing = DeviceStanding::Waiting;
        registry.set_device(&Device { endpoint_id: id.into(), name: name.into(), standing, at_ms }).unwrap();
    };
    let waits = |id: &str| {
        let devices = registry.devices().unwrap();
        devices.into_iter().find(|device| device.endpoint_id == id).map(|device| (device.name, device.at_ms))
    };
    wait("the honest one", "", 7);
    for n in 0..2 * u64::from(WAITING_MAX) {
        wait(&format!("fake {n}"), "fake", 1_000 + n);
    }
    assert_eq!(registry.devices().unwrap().len(), WAITING_MAX as usize);
    assert_eq!(waits("the honest one"), Some((String::new(), 7)), "newcomers push nobody off");
    assert_eq!(waits("one more"), None);
    // It says its name later, and goes on waiting since then.
    wait("the honest one", "desk", 9_000);
    assert_eq!(waits("the honest one"), Some(("desk".into(), 7)));
    // A decision needs no room, and makes some.
    let fake = Device {
        endpoint_id: "fake 3".into(),
        name: String::new(),
        standing: DeviceStanding::Denied,
        at_ms: 1,
    };
    registry.set_device(&fake).unwrap();
    wait("fake 3", "again", 2);
    assert_eq!(registry.devices().unwrap().len(), WAITING_MAX as usize);
    wait("one more", "", 3);
    assert_eq!(waits("one more"), Some((String::new(), 3)));
}

#[test]
fn a_registry_from_before_epochs_and_the_brake_on_deletions_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libraries.db");
    let key = SigningKey::from_bytes(&[1; 32]);
    let id = LibraryId(key.verifying_key().to_bytes());
    {
        let mut before = Connection::open(&path).unwrap();
        Migrations::new(vec![M::up(SCHEMA)]).to_latest(&mut before).unwrap();
        let own = ticket(&key, 0).to_text().to_string();
        let library = "INSERT INTO libraries (id, signing_key, ticket, created_ms) VALUES (?1, ?2, ?3, 5)";
        before.execute(library, (id.to_string(), key.to_bytes().as_slice(), own)).unwrap();
        let issued =
            "INSERT INTO issued (library, serial, access, issued_ms, uses) VALUES (?1, 1, 'read', 6, 0)";
        before.execute(issued, [id.to_string()]).unwrap();
    }
    let registry = Registry::open(&path).unwrap();
    assert_eq!(registry.libraries().unwrap()[0].ticket, ticket(&key, 0));
    assert_eq!(registry.deletions().unwrap(), KeptDeletions::default());
    registry.issued(&ticket(&key, 2), 7).unwrap();
    let sealing = |serial, kept: bool| SealingKey {
        serial,
        epoch: kept.then_some(0),
        key: kept.then(|| ticket(&key, serial).sealing_key()),
    };
    assert_eq!(registry.sealing_keys(id, 98).unwrap(), [sealing(1, false), sealing(2, true)]);
    assert_eq!(registry.sealing_keys(id, 99).unwrap(), [sealing(1, false)], "what has expired needs no key");
    // All are revoked: those of which nothing was kept are in nobody's way any more.
    let list = Revocations { version: 1, min_epoch: 1, ..Revocations::default() };
    registry.begin_epoch(id, &SignedRevocations::sign(&key, list), Some(&ticket(&key, 0))).unwrap();
    assert!(registry.sealing_keys(id, 98).unwrap().iter().all(|ticket| ticket.epoch == Some(0)));
    registry.forget(id).unwrap();
    assert_eq!(registry.sealing_keys(id, 98).unwrap(), []);
}
