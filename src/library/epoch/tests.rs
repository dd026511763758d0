use ed25519_dalek::SigningKey;

use super::*;
use crate::library::filter::Filter;
use crate::library::revocation::SignedRevocations;
use crate::library::ticket::{Access, Subject, Terms};

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn library() -> LibraryId {
    LibraryId(owner().verifying_key().to_bytes())
}

fn ticket(serial: u64, epoch: u64, session: Option<Key>) -> Ticket {
    let terms = Terms {
        name: "pictures".into(),
        access: Access::Read,
        subject: Subject::Bearer,
        not_before_ms: 0,
        expires_ms: None,
        uses: 0,
        serial,
        epoch,
        held: (0, 0),
        fresh_within_ms: 0,
    };
    let secrets = (Zeroizing::new([5; 32]), session);
    Ticket::issue_with(&owner(), terms, secrets, Filter::default(), Vec::new()).unwrap()
}

fn key(n: u64) -> Key {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Key::of_bytes(bytes)
}

/// The list with which the epoch of this number begins, for these tickets.
fn list(before: &SessionKeys, number: u64, survivors: &[&Ticket]) -> Revocations {
    let survivors = survivors.iter().map(|t| (t.claims().serial, t.sealing_key())).collect();
    let epoch = Epoch::begin(library(), before, (number, &key(number)), &survivors, |b| rand::fill(b));
    Revocations { version: number, serials: [2].into(), epoch, ..Revocations::default() }
}

#[test]
fn whose_ticket_still_holds_learns_the_new_key_and_nobody_else() {
    let (stays, goes) = (ticket(1, 0, None), ticket(2, 0, None));
    let first = SessionKeys::of(&stays, None);
    assert_eq!(first, SessionKeys::of(&goes, None));
    assert_eq!(first, SessionKeys::lasting(stays.session_key()));
    let list = list(&first, 1, &[&stays]);
    let signed = SignedRevocations::sign(&owner(), list.clone());
    assert_eq!(SignedRevocations::decode(library(), &signed.encode()).unwrap().list, list, "as it was sent");
    let now = SessionKeys::of(&stays, Some(&list));
    assert_eq!(now, SessionKeys { epoch: 1, current: key(1), former: vec![first.current.clone()] });
    assert_eq!(SessionKeys::of(&goes, Some(&list)), first, "what it knew, and no more");
    // Another ticket of the same number, as another library's owner would make it.
    assert_eq!(list.epoch.open(library(), 1, &goes.sealing_key()), None);
    assert_eq!(list.epoch.open(LibraryId([9; 32]), 1, &stays.sealing_key()), None);
}

#[test]
fn one_that_was_away_for_some_epochs_is_recognised_and_told_the_newest() {
    let stays = ticket(1, 0, None);
    let mut keys = SessionKeys::of(&stays, None);
    let latest = FORMER_MAX as u64 + 24;
    for number in 1..=latest {
        let list = list(&keys, number, &[&stays]);
        let next = SessionKeys::of(&stays, Some(&list));
        assert_eq!((next.epoch, &next.current), (number, &key(number)));
        assert_eq!(next.former[0], keys.current);
        assert_eq!(next.former.len(), usize::try_from(number).unwrap().min(FORMER_MAX));
        keys = next;
    }
    assert_eq!(keys.former.last(), Some(&key(24)));
    // A ticket of the newest epoch knows them, too, though nothing is sealed for it: it may be the only one that is met.
    let newest = list(
        &SessionKeys { former: keys.former[1..].to_vec(), ..SessionKeys::lasting(keys.former[0].clone()) },
        latest,
        &[&stays],
    );
    let issued = ticket(2, latest, Some(key(latest)));
    assert_eq!(SessionKeys::of(&issued, Some(&newest)).former[0], keys.former[0]);
    // A ticket that is issued now has the key, and needs no list; an older list takes it from nobody.
    let newcomer = ticket(3, latest, Some(key(latest)));
    assert_eq!(SessionKeys::of(&newcomer, None).current, key(latest));
    let old = list(&keys, latest - 1, &[&stays, &newcomer]);
    assert_eq!(SessionKeys::of(&newcomer, Some(&old)).current, key(latest));
    assert_eq!(Ticket::parse(&newcomer.to_text()).unwrap(), newcomer);
    assert_eq!(Ticket::parse(&newcomer.to_text()).unwrap().session_key(), key(latest));
}

#[test]
fn a_list_as_long_as_any_is_within_its_limit() {
    let survivors = (0..SURVIVORS_MAX as u64).map(|serial| (serial, key(serial))).collect();
    let before = SessionKeys { former: (0..300).map(key).collect(), ..SessionKeys::lasting(key(0)) };
    let epoch = Epoch::begin(library(), &before, (7, &key(7)), &survivors, |bytes| rand::fill(bytes));
    let serials = (0..crate::library::revocation::SERIALS_MAX as u64).collect();
    let list = Revocations { version: 9, min_epoch: 3, serials, epoch, signed_ms: 5, fresh_within_ms: 6 };
    let encoded = SignedRevocations::sign(&owner(), list.clone()).encode();
    assert_eq!(SignedRevocations::decode(library(), &encoded).unwrap().list, list);
}
