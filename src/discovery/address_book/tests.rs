use iroh::SecretKey;

use super::*;

fn entry(n: u8, seen: Option<u64>) -> RememberedPeer {
    let id = SecretKey::from_bytes(&[n; 32]).public();
    let addr = EndpointAddr::new(id).with_ip_addr(([127, 0, 0, 1], u16::from(n)).into());
    RememberedPeer { addr, name: format!("node {n}"), last_seen_ms: seen, mirror: Some(n.is_multiple_of(2)) }
}

#[test]
fn peers_survive_a_restart_and_the_last_seen_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    let book = AddressBook::open(&path).unwrap();
    for entry in [entry(1, None), entry(2, Some(5)), entry(3, Some(9)), entry(4, Some(1))] {
        book.remember(&entry).unwrap();
    }
    book.remember(&entry(4, Some(7))).unwrap();
    book.forget(&entry(2, None).addr.id).unwrap();
    book.set_last_port(4711).unwrap();
    assert_eq!(read(&path).unwrap().len(), 3, "read beside the one that writes");
    drop(book);
    assert_eq!(read(&path).unwrap()[0], entry(3, Some(9)));
    assert!(read(&dir.path().join("none")).is_err());
    assert!(!dir.path().join("none").exists());
    let book = AddressBook::open(&path).unwrap();
    assert_eq!(book.entries().unwrap(), [entry(3, Some(9)), entry(4, Some(7)), entry(1, None)]);
    assert_eq!(book.last_port().unwrap(), Some(4711));
}

#[test]
fn members_of_libraries_push_no_own_device_out() {
    let dir = tempfile::tempdir().unwrap();
    let book = AddressBook::open(&dir.path().join("agent.db")).unwrap();
    let met = |n: u32, mirror| {
        let mut key = [5; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let addr = EndpointAddr::new(SecretKey::from_bytes(&key).public());
        RememberedPeer { addr, name: String::new(), last_seen_ms: Some(u64::from(n)), mirror }
    };
    let own = [met(1, Some(true)), met(2, None)];
    for entry in &own {
        book.remember(entry).unwrap();
    }
    for n in 10..10 + MEMBERS_MAX + 50 {
        book.remember(&met(n, Some(false))).unwrap();
    }
    let kept = book.entries().unwrap();
    assert_eq!(kept.len(), 2 + MEMBERS_MAX as usize);
    assert!(own.iter().all(|entry| kept.contains(entry)));
    assert_eq!(kept[0], met(10 + MEMBERS_MAX + 49, Some(false)), "those who were there last");
}

fn saved(n: u64) -> SavedPeer {
    let mut key = [3; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    let addr = EndpointAddr::new(SecretKey::from_bytes(&key).public());
    SavedPeer {
        addr: addr.with_ip_addr(([127, 0, 0, 1], 1).into()),
        name: format!("agent {n}"),
        sources: ChannelSet::from([Channel::Dht, Channel::Gossip]),
        last_success_ms: n,
        signed: n.is_multiple_of(2).then(|| vec![7; 300].into()),
    }
}

#[test]
fn the_directory_survives_a_restart_and_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    let book = AddressBook::open(&path).unwrap();
    book.save_directory(&[saved(1), saved(2)]).unwrap();
    book.remember(&entry(1, None)).unwrap();
    drop(book);
    let book = AddressBook::open(&path).unwrap();
    assert_eq!(book.directory().unwrap(), [saved(2), saved(1)]);
    let later = SavedPeer { last_success_ms: 9, sources: ChannelSet::new(), signed: None, ..saved(1) };
    book.save_directory(std::slice::from_ref(&later)).unwrap();
    assert_eq!(book.directory().unwrap(), [later, saved(2)]);
    assert_eq!(book.entries().unwrap().len(), 1, "the book of sessions is another table");
    let max = u64::from(DIRECTORY_MAX);
    book.save_directory(&(10..10 + max + 5).map(saved).collect::<Vec<_>>()).unwrap();
    let kept = book.directory().unwrap();
    assert_eq!((kept.len(), kept[0].last_success_ms), (DIRECTORY_MAX as usize, max + 14));
    assert_eq!(kept.last().unwrap().last_success_ms, 15);
}

#[test]
fn a_book_of_the_first_version_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    let mut old = Connection::open(&path).unwrap();
    Migrations::new(vec![M::up(SCHEMA)]).to_latest(&mut old).unwrap();
    let ticket = EndpointTicket::new(entry(1, None).addr).to_string();
    let id = entry(1, None).addr.id.to_string();
    old.execute("INSERT INTO peers VALUES (?1, ?2, 'node 1', 5)", (id, ticket)).unwrap();
    drop(old);
    let book = AddressBook::open(&path).unwrap();
    assert_eq!(book.entries().unwrap(), [RememberedPeer { mirror: None, ..entry(1, Some(5)) }]);
    assert_eq!(book.directory().unwrap(), []);
    book.save_directory(&[saved(1)]).unwrap();
    assert_eq!(book.directory().unwrap(), [saved(1)]);
}

#[test]
fn rows_that_mean_nothing_to_this_version_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let book = AddressBook::open(&dir.path().join("agent.db")).unwrap();
    book.save_directory(&[saved(1), saved(2)]).unwrap();
    book.with("alter", |db| {
        db.execute("UPDATE directory SET ticket = 'no ticket' WHERE last_success_ms = 1", [])?;
        db.execute(
            "UPDATE directory SET sources = 'carrier_pigeon,dht', announcement = zeroblob(5000)
             WHERE last_success_ms = 2",
            [],
        )
    })
    .unwrap();
    let read = book.directory().unwrap();
    assert_eq!(read, [SavedPeer { sources: ChannelSet::from([Channel::Dht]), signed: None, ..saved(2) }]);
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    std::fs::write(&path, "garbage, and long enough to be looked at by SQLite as a header of its own")
        .unwrap();
    let error = AddressBook::open(&path).unwrap_err().to_string();
    assert!(error.contains("agent.db") && error.contains("move the file away"), "{error}");
}
