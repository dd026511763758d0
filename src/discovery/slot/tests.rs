//! Vectors of the compatible format, laws of merging, claims, and what hostile packets do.

use std::collections::BTreeSet;

use iroh::SecretKey;
use proptest::prelude::*;
use sha2::Digest as _;

use super::pace::{Spread, Timing, next_read, publishes};
use super::packet::{decode, encode, sign};
use super::*;

fn id(n: u16) -> EndpointId {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_bytes(&bytes).public()
}

fn compatible() -> SlotKeys {
    SlotKeys::Compatible { passphrase: "my-secret-phrase".into() }
}

fn sealed() -> SlotKeys {
    let keys = NetworkKeys::derive(&"a passphrase of several words".into());
    SlotKeys::new(SlotFormat::Sealed, &keys, &"unused here".into())
}

fn slot(index: u8) -> Slot {
    Slot { day: 0, index }
}

const NOW: u64 = 1_790_000_000 * MICROS;

fn entry(n: u16, age_secs: u64) -> SlotEntry {
    SlotEntry { id: id(n), alive_us: NOW - age_secs * MICROS }
}

/// Public keys of the slots of `my-secret-phrase`, hexadecimal and z-base-32, computed from the description by another
/// program with another BLAKE3 and another Ed25519.
#[rustfmt::skip]
const VECTORS: [(&str, &str); 8] = [
    ("8d59db637efc6fcad85cf54ffc0de04a1297e37f6dba53b73f851993ca55a928", "tic7sa569tzhisnh6i89adxyjejjxa59ps7f8p39owc3811iirwy"),
    ("00326bd0a4d799c0e764662a952fb297eb3486e6ccdd3e13f5c9ab73e97cd212", "yy3gzwfr46chb35rcaijkm7119iujbzg3uquhr9i3giz84mh4ejy"),
    ("edf5d0e0aeb55f6aea85faade146185c3361096a9aa82c1491be993ff052f840", "7z47bafqsixsi4wf9ks6ntoamo3snnmkukwnafrtz4cu9hn19byy"),
    ("770dc124545814006c87c76cc03fcee82f07979d5df01eeeb3fb899679dfd79e", "qhghnjnwmykyy5r8a7scyx6q7yzoxfh7mzab75iu9qr3c6q946xy"),
    ("8a81fbc451862e4faa314770e9b33a481d4340a42234222df7236d2b0c64120a", "tky9ztntoazr9ktte7aquc34jyqwgofrre4nrmxzrps1sddrnefy"),
    ("4317c4f69fb4ed1588848cab5330691880284fcdd1c0b249740df38dbb3399cd", "ecmhj7w9sustmnrrt1iigcdjdnynou6p48ymr1mwbz3a5q3uu8go"),
    ("8355a7e1ceb8deb25da78200d25dba5337f8841a5a55c6d63ce46976d866098e", "opk4xaqqzdxmrzp8oeyprzp4kc59tby4mjkhpithhtwzpsdgbg8y"),
    ("9269675716822f76e4346c95ed020e9373ddf5c04ab9f0ca094efad531eb8807", "1jwsqiasoezzp3bwp1k64yoq1p3757qyjkh9b1ojj57pkcxmtydo"),
];

#[test]
fn compatible_slots_lie_where_the_passphrase_says_however_it_was_typed() {
    let keys = NetworkKeys::derive(&"my-secret-phrase".into());
    let place = |typed: &str| {
        SlotKeys::new(SlotFormat::Compatible, &keys, &typed.into()).keypair(slot(3)).public_key()
    };
    assert_eq!(place("my-secret-phrase"), compatible().keypair(slot(3)).public_key());
    for typed in ["\u{feff}my-secret-phrase\r\n", " \u{ff4d}y-secret-phrase "] {
        assert_eq!(place(typed), place("my-secret-phrase"), "{typed:?}");
    }
    assert_eq!(place("caf\u{e9}"), place("cafe\u{301}"));
}

#[test]
fn compatible_keys_are_those_of_the_agents_before() {
    for (index, (hex, z32)) in (0..SLOTS).zip(VECTORS) {
        let key = compatible().keypair(slot(index)).public_key();
        assert_eq!(data_encoding::HEXLOWER.encode(key.as_bytes()), hex, "slot {index}");
        assert_eq!(key.to_z32(), z32, "slot {index}");
    }
    let later = compatible().keypair(Slot { day: 20_000, index: 0 });
    assert_eq!(later.public_key(), compatible().keypair(slot(0)).public_key(), "they do not change");
}

/// Of the payload as relays carry it (signature, date, DNS packet) with the endpoint of the secret key 01…01 in slot 3 of
/// `my-secret-phrase`, dated [`NOW`]; made by the same other program.
const PAYLOAD_SHA256: &str = "b47dc094708b6e9aedb518a651b81c8456f439acdd6efa058d46e244d677c00e";

#[test]
fn a_compatible_packet_is_byte_for_byte_what_it_was() {
    let own = SecretKey::from_bytes(&[1; 32]).public();
    let entries = compatible().with_own(own, &[entry(9, 1)], NOW);
    assert_eq!(entries.len(), 1, "one id per slot");
    let packet = compatible().pack(slot(3), &entries, NOW, [0; seal::NONCE]).unwrap();
    let hash = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(packet.to_relay_payload()));
    let fields = (packet.public_key().to_z32(), packet.encoded_packet().len());
    assert_eq!(fields, (VECTORS[3].1.to_owned(), 151));
    assert_eq!(hash, PAYLOAD_SHA256, "Ed25519 and this much of DNS are deterministic, so is the packet");
    let records: Vec<_> = packet.all_resource_records().map(|r| (r.name.to_string(), r.ttl)).collect();
    assert_eq!(records, [(format!("_can_sync.{}", VECTORS[3].1), 300)]);
    assert_eq!(naive_reader(packet.encoded_packet().as_ref()), Some(*own.as_bytes()));
    assert_eq!(compatible().unpack(&packet, NOW), [SlotEntry { id: own, alive_us: NOW }]);
}

/// What agents before this one do with a slot: the first TXT record `_can_sync` whose text is 64 hexadecimal digits.
/// Written for this test from that sentence and RFC 1035 alone.
fn naive_reader(dns: &[u8]) -> Option<[u8; 32]> {
    let u16_at = |at: usize| Some(usize::from(u16::from_be_bytes([*dns.get(at)?, *dns.get(at + 1)?])));
    let skip_name = |mut at: usize| loop {
        match *dns.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    };
    let mut at = 12;
    for _ in 0..u16_at(4)? {
        at = skip_name(at)? + 4;
    }
    for _ in 0..u16_at(6)? {
        let (start, end) = (at, skip_name(at)?);
        let (kind, length) = (u16_at(end)?, u16_at(end + 8)?);
        let data = dns.get(end + 10..end + 10 + length)?;
        at = end + 10 + length;
        if kind != 16 || !dns[start..].starts_with(b"\x09_can_sync") {
            continue;
        }
        let text = data.get(1..=usize::from(*data.first()?))?;
        let digits: Option<Vec<u8>> =
            text.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect();
        if let Some(id) = digits.and_then(|bytes| bytes.try_into().ok()) {
            return Some(id);
        }
    }
    None
}

#[test]
fn the_first_record_that_is_an_id_counts() {
    let keypair = compatible().keypair(slot(0));
    let txt = |text: &str| pkarr::dns::rdata::TXT::new().with_string(text).unwrap().into_owned();
    let name = || pkarr::dns::Name::new(packet::RECORD).unwrap();
    let (one, two) = (id(1), id(2));
    let hex = |id: &EndpointId| data_encoding::HEXUPPER.encode(id.as_bytes());
    let packet = pkarr::SignedPacket::builder()
        .txt("_other".try_into().unwrap(), txt(&hex(&two)), 300)
        .txt(name(), txt("a message"), 300)
        .txt(name(), txt(&hex(&one)), 300)
        .txt(name(), txt(&hex(&two)), 300)
        .timestamp(pkarr::Timestamp::from(NOW - 9 * MICROS))
        .sign(&keypair)
        .unwrap();
    assert_eq!(compatible().unpack(&packet, NOW), [entry(1, 9)]);
}

#[test]
fn sealed_slots_change_with_the_day_and_hide_who_is_in_them() {
    let keys = sealed();
    let day = keys.day(NOW);
    let key = |day, index| keys.keypair(Slot { day, index }).public_key();
    let all: BTreeSet<_> =
        (0..SLOTS).flat_map(|i| [key(day, i), key(day + 1, i)]).map(|k| k.to_z32()).collect();
    assert_eq!(all.len(), 16);
    let entries = keys.with_own(id(1), &[], NOW);
    let packet = keys.pack(Slot { day, index: 0 }, &entries, NOW, [3; seal::NONCE]).unwrap();
    let listed = id(1);
    assert!(!packet.as_bytes().windows(8).any(|bytes| bytes == &listed.as_bytes()[..8]));
    assert_eq!(keys.unpack(&packet, NOW + 5 * MICROS), entries);
    let full: Vec<SlotEntry> = (1..40).map(|n| entry(n, u64::from(n))).collect();
    let full = keys.with_own(id(100), &full, NOW);
    assert_eq!(full.len(), ENTRIES_MAX);
    let large = keys.pack(Slot { day, index: 0 }, &full, NOW, [3; seal::NONCE]).unwrap();
    assert_eq!(
        large.encoded_packet().len(),
        packet.encoded_packet().len(),
        "its length does not tell how many"
    );
    assert!(large.encoded_packet().len() <= 1000, "{}", large.encoded_packet().len());
    assert_eq!(keys.unpack(&large, NOW), full);

    // Moved to another slot by somebody who can sign and not read, or read with another passphrase, it is nothing.
    let moved =
        sign(&keys.keypair(Slot { day, index: 1 }), &packet::contents(&large).next().unwrap(), 300, NOW);
    assert_eq!(keys.unpack(&moved.unwrap(), NOW), []);
    let other = NetworkKeys::derive(&"somebody else's passphrase".into());
    let other = SlotKeys::new(SlotFormat::Sealed, &other, &"unused".into());
    assert_eq!(other.unpack(&large, NOW), []);
}

#[test]
fn the_neighbouring_day_is_read_near_midnight() {
    let midnight = 20_000 * DAY_SECS * MICROS;
    let minutes = |n: u64| n * 60 * MICROS;
    assert_eq!(sealed().day(midnight), 20_000);
    assert_eq!(sealed().neighbour_day(midnight + minutes(59)), Some(19_999));
    assert_eq!(sealed().neighbour_day(midnight + minutes(61)), None);
    assert_eq!(sealed().neighbour_day(midnight - minutes(59)), Some(20_000));
    assert_eq!(sealed().neighbour_day(midnight - minutes(61)), None);
    assert_eq!(compatible().neighbour_day(midnight), None);
}

#[test]
fn ages_go_on_while_a_packet_lies_there() {
    let keys = sealed();
    let at = Slot { day: keys.day(NOW), index: 0 };
    let packet = keys.pack(at, &[entry(1, 0), entry(2, 600)], NOW, [3; seal::NONCE]).unwrap();
    let later = NOW + 25 * 60 * MICROS;
    assert_eq!(keys.unpack(&packet, later), [entry(1, 0)], "600 s and 25 min are more than half an hour");
    assert_eq!(keys.unpack(&packet, NOW + 3_600 * MICROS), []);
    // A writer whose clock is ahead of ours does not make anybody alive in the future.
    let ahead = keys.pack(at, &[entry(1, 0)], NOW + 300 * MICROS, [3; seal::NONCE]).unwrap();
    assert!(keys.unpack(&ahead, NOW).iter().all(|entry| entry.alive_us <= NOW));
}

#[test]
fn garbage_is_nobody() {
    for keys in [sealed(), compatible()] {
        let at = Slot { day: keys.day(NOW), index: 0 };
        let digits = ["z".repeat(64), "ab".repeat(33)].map(String::into_bytes);
        let [no_digits, too_long] = digits;
        for content in [Vec::new(), b"hello".to_vec(), vec![0xff; 900], no_digits, too_long] {
            let packet = sign(&keys.keypair(at), &content, 300, NOW).unwrap();
            assert_eq!(keys.unpack(&packet, NOW), []);
        }
        let empty = pkarr::SignedPacket::builder().sign(&keys.keypair(at)).unwrap();
        assert_eq!(keys.unpack(&empty, NOW), []);
    }
    // The right key, and a list that is none.
    let SlotKeys::Sealed { sealing, .. } = sealed() else { unreachable!() };
    let keypair = sealed().keypair(Slot { day: 1, index: 0 });
    for plain in [vec![], vec![9; 500], vec![1, 255], vec![1, 24, 0, 0]] {
        let key = SlotKeys::sealing_key(&sealing);
        let content = seal::seal(&key, keypair.public_key().as_bytes(), &plain, [1; seal::NONCE]);
        let packet = sign(&keypair, &content, 300, NOW).unwrap();
        assert_eq!(sealed().unpack(&packet, NOW), []);
    }
}

#[test]
fn a_claim_keeps_its_place_or_takes_the_lowest() {
    let keys = sealed();
    let full = |from: u16| SlotReading::Read((from..from + 24).map(|n| entry(n, 1)).collect());
    let mut looks = vec![SlotReading::Closed, full(100), full(200), SlotReading::Read(vec![entry(1, 1)])];
    looks.resize(8, SlotReading::Read(Vec::new()));
    assert_eq!(keys.claim(&id(9), &looks, NOW), Some(3));
    looks[6] = SlotReading::Read(vec![entry(9, 1)]);
    assert_eq!(keys.claim(&id(9), &looks, NOW), Some(6), "where it is already");
    looks[1] = SlotReading::Unread;
    assert_eq!(keys.claim(&id(8), &looks, NOW), Some(1), "it may have room");
    // All full: by hash, past those that are closed.
    let mut looks: Vec<SlotReading> = (1..9).map(|n| full(100 * n)).collect();
    let hashed = keys.claim(&id(9), &looks, NOW).unwrap();
    let expected = u64::from_le_bytes(blake3::hash(id(9).as_bytes()).as_bytes()[..8].try_into().unwrap()) % 8;
    assert_eq!(u64::from(hashed), expected);
    looks[usize::from(hashed)] = SlotReading::Closed;
    assert_eq!(keys.claim(&id(9), &looks, NOW), Some((hashed + 1) % 8));
    assert_eq!(keys.claim(&id(9), &vec![SlotReading::Closed; 8], NOW), None);
}

#[test]
fn a_compatible_claim_never_takes_a_live_owners_slot() {
    let keys = compatible();
    let mut looks: Vec<SlotReading> = (0..8).map(|n| SlotReading::Read(vec![entry(n, 10)])).collect();
    assert_eq!(keys.claim(&id(50), &looks, NOW), None);
    looks[5] = SlotReading::Read(vec![entry(5, OWNER_LIFE.as_secs() + 1)]);
    assert_eq!(keys.claim(&id(50), &looks, NOW), Some(5), "its owner is gone");
    looks[7] = SlotReading::Read(vec![entry(50, OWNER_LIFE.as_secs() + 1)]);
    assert_eq!(keys.claim(&id(50), &looks, NOW), Some(7), "our own");
}

#[test]
fn the_rhythm_slows_down_with_company() {
    let timing = Timing::default();
    let scans: Vec<u64> = (0..9).map(|quiet| timing.until_scan(quiet, 0.5).as_secs()).collect();
    assert_eq!(scans, [15, 30, 60, 120, 240, 480, 900, 900, 900]);
    assert_eq!(timing.until_scan(u32::MAX, 0.5).as_secs(), 900);
    assert_eq!(timing.until_scan(0, 0.0).as_secs(), 12);
    assert_eq!(timing.until_publish(0.5).as_secs(), 60);
    assert_eq!(timing.until_retry(u32::MAX, 1.0).as_secs(), 360);
    assert!(publishes(1, 0.999) && publishes(4, 0.999) && !publishes(8, 0.5) && publishes(8, 0.499));
    assert!(!publishes(1_000_000, 0.001));
}

#[test]
fn a_look_is_thorough_alone_and_short_in_company() {
    let reads = |rooms: [bool; 8], thorough, draw| {
        let (mut read, mut order) = ([None; 8], Vec::new());
        while let Some(slot) = next_read(read, thorough, draw) {
            read[usize::from(slot)] = Some(rooms[usize::from(slot)]);
            order.push(slot);
        }
        order
    };
    assert_eq!(reads([true; 8], true, 0.5), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(reads([true; 8], false, 0.0), [0, 1, 2]);
    assert_eq!(reads([true; 8], false, 0.99), [0, 1, 7]);
    let full_first = [false, false, true, true, true, true, true, true];
    assert_eq!(reads(full_first, false, 0.99), [0, 1, 2, 3, 7]);
    assert_eq!(reads([false; 8], false, 0.5), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(start_paused = true)]
async fn requests_are_spread() {
    let start = tokio::time::Instant::now();
    let mut spread = Spread::new(Duration::from_millis(500), 2);
    let waits: Vec<u128> = (0..5).map(|_| (spread.reserve(start) - start).as_millis()).collect();
    assert_eq!(waits, [0, 0, 500, 1000, 1500]);
    let later = start + Duration::from_mins(1);
    assert_eq!(spread.reserve(later), later);
}

fn entries() -> impl Strategy<Value = Vec<SlotEntry>> {
    prop::collection::vec((0..30_u16, 0..4_000_u64).prop_map(|(n, age)| entry(n, age)), 0..40)
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(a in entries(), b in entries(), c in entries()) {
        prop_assert_eq!(merge(&a, &b, NOW), merge(&b, &a, NOW));
        let (left, right) = (merge(&merge(&a, &b, NOW), &c, NOW), merge(&a, &merge(&b, &c, NOW), NOW));
        prop_assert_eq!(left, right);
        let once = merge(&a, &b, NOW);
        prop_assert_eq!(&merge(&once, &once, NOW), &once);
        prop_assert!(once.len() <= ENTRIES_MAX && once.iter().all(|e| e.age(NOW) <= ENTRY_LIFE));
        for e in a.iter().chain(&b).filter(|e| e.age(NOW) <= ENTRY_LIFE) {
            let kept = once.iter().find(|kept| kept.id == e.id);
            let fresher = once.len() == ENTRIES_MAX && once.iter().all(|kept| kept.alive_us >= e.alive_us);
            prop_assert!(kept.map_or(fresher, |kept| kept.alive_us >= e.alive_us));
        }
    }

    #[test]
    fn lists_survive_the_trip(n in 0..=24_u16, ages in prop::collection::vec(0..1800_u64, 24)) {
        let list: Vec<SlotEntry> = (0..n).map(|n| entry(n, ages[usize::from(n)])).collect();
        prop_assert_eq!(decode(&encode(&list, NOW), NOW), list);
    }

    #[test]
    fn decoding_never_panics_and_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..1200), at in any::<u64>()) {
        prop_assert!(decode(&bytes, at).len() <= ENTRIES_MAX);
        let mut list = vec![1];
        list.extend(bytes);
        prop_assert!(decode(&list, at).iter().all(|e| e.alive_us <= at));
    }

    #[test]
    fn packets_with_anything_in_them_are_read_without_harm(
        content in prop::collection::vec(any::<u8>(), 0..860),
        at in any::<u64>(),
        now in any::<u64>(),
    ) {
        for keys in [compatible(), SLOW_KEYS.clone()] {
            let packet = sign(&keys.keypair(slot(0)), &content, 300, at).unwrap();
            prop_assert_eq!(packet::contents(&packet).next().unwrap_or_default(), content.clone());
            prop_assert!(keys.unpack(&packet, now).len() <= ENTRIES_MAX);
        }
    }

    #[test]
    fn a_claim_is_a_place_that_may_be_had(states in prop::collection::vec(0..4_u8, 8), n in 0..9_u16) {
        let looks: Vec<SlotReading> = states.iter().zip(0_u16..).map(|(state, i)| match state {
            0 => SlotReading::Unread,
            1 => SlotReading::Closed,
            2 => SlotReading::Read(Vec::new()),
            _ => SlotReading::Read(vec![entry(i, 5)]),
        }).collect();
        for keys in [compatible(), SLOW_KEYS.clone()] {
            match keys.claim(&id(n), &looks, NOW) {
                Some(index) => prop_assert_ne!(&looks[usize::from(index)], &SlotReading::Closed),
                None => prop_assert!(!looks.contains(&SlotReading::Unread) && !looks.contains(&SlotReading::Read(Vec::new()))),
            }
        }
    }
}

/// Stretching a passphrase takes its time on purpose.
static SLOW_KEYS: std::sync::LazyLock<SlotKeys> = std::sync::LazyLock::new(sealed);
