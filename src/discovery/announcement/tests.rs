use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn announcement(n: u8) -> Announcement {
    Announcement {
        id: key(n).public(),
        name: "küche".to_owned(),
        assets: 3,
        total_bytes: 1 << 40,
        fingerprint: [9; 16],
        timestamp_ms: 1_763_000_000_000,
        boot_id: 77,
        counter: 5,
        addrs: vec!["192.0.2.7:4711".parse().unwrap(), "[2001:db8::1]:4711".parse().unwrap()],
        relay_url: Some("https://relay.example".parse().unwrap()),
        version: "0.1.0".to_owned(),
    }
}

/// Signed by an author that writes what it likes.
fn forged(key: &SecretKey, change: impl FnOnce(&mut WireAnnouncement)) -> Bytes {
    let honest: SignedAnnouncement = decode(announcement(1).sign(key)).unwrap();
    let mut wire: WireAnnouncement = decode(honest.announcement).unwrap();
    change(&mut wire);
    let bytes = wire.encode_to_vec();
    let signature = key.sign(&signed_part(&bytes)).to_bytes().to_vec();
    SignedAnnouncement { announcement: bytes.into(), signature: signature.into() }.encode_to_vec().into()
}

#[test]
fn what_was_signed_is_what_is_read() {
    let bytes = announcement(1).sign(&key(1));
    let signed = verify(&bytes).unwrap();
    assert_eq!((&signed.announcement, &signed.bytes), (&announcement(1), &bytes));
    assert_eq!(signed.announcement.addr().addrs.len(), 3);
}

#[test]
fn the_largest_one_fits() {
    let largest = Announcement {
        name: "\u{10348}".repeat(100),
        version: "\u{10348}".repeat(100),
        assets: u64::MAX,
        total_bytes: u64::MAX,
        timestamp_ms: u64::MAX,
        boot_id: u64::MAX,
        counter: u64::MAX,
        addrs: vec!["[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535".parse().unwrap(); 40],
        relay_url: Some(format!("https://{}.example", "r".repeat(490)).parse().unwrap()),
        ..announcement(1)
    };
    let bytes = largest.sign(&key(1));
    assert!(bytes.len() <= ANNOUNCEMENT_BYTES_MAX, "{}", bytes.len());
    let read = verify(&bytes).unwrap().announcement;
    assert_eq!((read.name.chars().count(), read.addrs.len()), (NAME_CHARS_MAX, ADDRS_MAX));
    assert!(read.relay_url.is_some());
}

#[test]
fn only_its_author_signs_it_and_only_as_an_announcement() {
    // Signed by another key than the one it names.
    let stolen = forged(&key(2), |wire| wire.endpoint_id = key(1).public().as_bytes().to_vec().into());
    assert_eq!(verify(&stolen), Err(AnnouncementError::Signature));
    // The same bytes, signed for another purpose.
    let mut envelope: SignedAnnouncement = decode(announcement(1).sign(&key(1))).unwrap();
    envelope.signature = key(1).sign(&envelope.announcement).to_bytes().to_vec().into();
    assert_eq!(verify(&envelope.encode_to_vec().into()), Err(AnnouncementError::Signature));
}

#[test]
fn what_no_honest_author_writes_is_refused_although_it_is_signed() {
    let refused = |change: fn(&mut WireAnnouncement)| verify(&forged(&key(1), change)).unwrap_err();
    let field = AnnouncementError::Field;
    assert_eq!(refused(|wire| wire.name = "x".repeat(65)), field("name"));
    assert_eq!(refused(|wire| wire.name = "a\u{1b}[2J".into()), field("name"));
    assert_eq!(refused(|wire| wire.name = "a\u{202e}b".into()), field("name"));
    assert_eq!(refused(|wire| wire.version = "\n".into()), field("version"));
    assert_eq!(refused(|wire| wire.root_fingerprint = vec![0; 17].into()), field("fingerprint"));
    assert_eq!(refused(|wire| wire.addrs = vec!["1.1.1.1:1".into(); 17]), field("number of addresses"));
    assert_eq!(refused(|wire| wire.addrs = vec!["localhost:1".into()]), field("address"));
    assert_eq!(refused(|wire| wire.relay_url = "not a url".into()), field("relay"));
    assert_eq!(refused(|wire| wire.endpoint_id = vec![1; 31].into()), AnnouncementError::Malformed);
    let long = forged(&key(1), |wire| wire.relay_url = "x".repeat(4000));
    assert_eq!(verify(&long), Err(AnnouncementError::TooLong(long.len())));
}

#[test]
fn addresses_where_nobody_is_are_dropped() {
    let bytes = forged(&key(1), |wire| {
        wire.addrs =
            ["0.0.0.0:5", "[::]:5", "224.0.0.251:5", "10.0.0.1:0", "10.0.0.1:5"].map(String::from).into();
    });
    assert_eq!(verify(&bytes).unwrap().announcement.addrs, ["10.0.0.1:5".parse().unwrap()]);
}

#[test]
fn what_was_put_around_it_is_not_passed_on() {
    let honest = announcement(1).sign(&key(1));
    // A field that this version does not know.
    let padded: Bytes = [honest.as_ref(), &[0x7a, 3, 1, 2, 3]].concat().into();
    assert_eq!(verify(&padded).unwrap().bytes, honest);
}

#[test]
fn a_run_counts_and_runs_follow_each_other_by_time() {
    let mark = |timestamp_ms, boot_id, counter| Mark { timestamp_ms, boot_id, counter };
    let last = mark(100, 1, 5);
    assert!(mark(50, 1, 6).is_after(&last), "a clock that was set back does not silence a run");
    assert!(!mark(200, 1, 5).is_after(&last));
    assert!(mark(101, 2, 0).is_after(&last));
    assert!(!mark(100, 2, 9).is_after(&last), "an earlier run, replayed");
}

proptest! {
    #[test]
    fn nothing_from_outside_makes_it_panic(bytes in vec(any::<u8>(), 0..600)) {
        let _ = verify(&Bytes::from(bytes));
    }

    #[test]
    fn a_single_changed_byte_is_refused(at in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let mut bytes = announcement(1).sign(&key(1)).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(verify(&Bytes::from(bytes)).is_err());
    }
}

#[test]
fn every_single_bit_counts() {
    let honest = announcement(1).sign(&key(1)).to_vec();
    for bit in 0..honest.len() * 8 {
        let mut bytes = honest.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&Bytes::from(bytes)).is_err(), "bit {bit}");
    }
}
