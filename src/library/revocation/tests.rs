use super::*;

const NOW_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3600 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Of a list that came when it was signed, from another member.
const DATES: ListDates = ListDates { received_ms: NOW_MS, told_ms: 0 };

fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn library() -> LibraryId {
    LibraryId(key().verifying_key().to_bytes())
}

fn list(fresh_within_ms: u64) -> Revocations {
    Revocations {
        version: 3,
        serials: [4].into(),
        signed_ms: NOW_MS,
        fresh_within_ms,
        ..Revocations::default()
    }
}

#[test]
fn lists_of_every_version_are_read_and_passed_on_as_they_were_signed() {
    let first = Revocations { version: 3, min_epoch: 2, serials: [4, 9].into(), ..Revocations::default() };
    let mut epoch = Epoch::default();
    epoch.number = 2;
    let with_epoch = Revocations { epoch, ..first.clone() };
    let dated = Revocations { signed_ms: NOW_MS, ..first.clone() };
    let limited = Revocations { fresh_within_ms: DAY_MS, ..with_epoch.clone() };
    for (list, version) in [
        (first.clone(), VERSION),
        (with_epoch, VERSION_WITH_EPOCH),
        (dated, VERSION_WITH_DATE),
        (limited, VERSION_WITH_DATE),
    ] {
        let encoded = SignedRevocations::sign(&key(), list.clone()).encode();
        assert_eq!(encoded[0], version, "{list:?}");
        let read = SignedRevocations::decode(library(), &encoded).unwrap();
        assert_eq!(read.list, list);
        assert_eq!(read.encode(), encoded);
    }
    // The first version byte by byte.
    let mut bytes = vec![1];
    bytes.extend([3_u64.to_be_bytes(), 2_u64.to_be_bytes()].concat());
    bytes.extend(2_u32.to_be_bytes());
    bytes.extend([4_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat());
    assert_eq!(first.encode(), bytes);
    let signature = key().sign(&[SIGNED, &bytes].concat()).to_bytes();
    let read = SignedRevocations::decode(library(), &[&bytes[..], &signature].concat()).unwrap().list;
    assert_eq!((read.signed_ms, read.fresh_within_ms), (0, 0));
    assert!(!Freshness::of(Some(&read), DATES, 0, u64::MAX).is_stale() && !read.is_due(u64::MAX), "no limit");
    // A date that is none has another encoding already.
    let mut none = list(0).encode();
    let at = none.len() - 16;
    none[at..].fill(0);
    let signature = key().sign(&[SIGNED, &none].concat()).to_bytes();
    let refused = SignedRevocations::decode(library(), &[&none[..], &signature].concat());
    assert_eq!(refused, Err(CodecError::Value("date").into()));
}

#[test]
fn a_list_is_stale_once_it_is_older_than_its_owner_allows() {
    let limited = list(7 * DAY_MS);
    for (now_ms, is_stale) in [
        (NOW_MS - AHEAD_MAX_MS, false),
        (NOW_MS, false),
        (NOW_MS + 7 * DAY_MS, false),
        (NOW_MS + 7 * DAY_MS + 1, true),
        (u64::MAX, true),
    ] {
        assert_eq!(Freshness::of(Some(&limited), DATES, 0, now_ms).is_stale(), is_stale, "{now_ms}");
        assert!(!Freshness::of(Some(&list(0)), DATES, 0, now_ms).is_stale(), "without a limit");
        // A ticket that tells the limit stands for a list that does not, and both count.
        for known in [list(0), list(30 * DAY_MS)] {
            assert_eq!(
                Freshness::of(Some(&known), DATES, 7 * DAY_MS, now_ms).is_stale(),
                is_stale,
                "{now_ms}"
            );
        }
        assert!(Freshness::of(None, DATES, 7 * DAY_MS, now_ms).is_stale(), "no list at all");
        assert!(!Freshness::of(None, DATES, 0, now_ms).is_stale(), "no list, and no limit");
    }
}

#[test]
fn a_limited_list_is_signed_anew_twice_a_day_and_once_the_owners_clock_is_set_back() {
    let limited = list(7 * DAY_MS);
    for (now_ms, is_due) in [
        (NOW_MS, false),
        (NOW_MS + 12 * HOUR_MS - 1, false),
        (NOW_MS + 12 * HOUR_MS, true),
        (NOW_MS - AHEAD_MAX_MS, false),
        (NOW_MS - AHEAD_MAX_MS - 1, true),
    ] {
        assert_eq!(limited.is_due(now_ms), is_due, "{now_ms}");
        assert!(!list(0).is_due(now_ms), "without a limit");
    }
    assert!(list(2 * HOUR_MS).is_due(NOW_MS + HOUR_MS), "twice within the limit");
    let anew = limited.clone().dated(NOW_MS + 1);
    assert_eq!(anew, Revocations { version: 4, signed_ms: NOW_MS + 1, ..limited });
}

#[test]
fn a_wrong_clock_at_the_owner_or_here_neither_keeps_a_list_new_nor_makes_it_old_for_ever() {
    const YEAR_MS: u64 = 365 * DAY_MS;
    let is_stale = |received_ms, told_ms, now_ms| {
        Freshness::of(Some(&list(7 * DAY_MS)), ListDates { received_ms, told_ms }, 0, now_ms).is_stale()
    };
    // It was signed by a clock that was a year ahead, and another member passed it on.
    let came = NOW_MS - YEAR_MS;
    for (now_ms, stale) in [(came, false), (came + 7 * DAY_MS, false), (came + 7 * DAY_MS + 1, true)] {
        assert_eq!(is_stale(came, 0, now_ms), stale, "{now_ms}");
    }
    assert!(is_stale(NOW_MS, 0, came), "our own clock was ahead as well, and is no more: nothing tells");
    // By a clock that is a year behind: the owner itself says that it is the newest.
    let told = NOW_MS + YEAR_MS;
    assert!(is_stale(told, 0, told), "another member passed it on");
    for (now_ms, stale) in [(told, false), (told + 7 * DAY_MS, false), (told + 7 * DAY_MS + 1, true)] {
        assert_eq!(is_stale(told, told, now_ms), stale, "{now_ms}");
    }
    // Told while our own clock was ahead: once it is right, what is signed counts.
    assert!(!is_stale(told, told, NOW_MS + 7 * DAY_MS));
    assert!(is_stale(told, told, NOW_MS + 7 * DAY_MS + 1));
}

/// Kept or passed on, it would be another list, which nobody signed.
#[test]
fn a_list_that_would_be_encoded_otherwise_is_refused() {
    let sorted = Revocations { version: 3, serials: [4, 9].into(), ..Revocations::default() }.encode();
    let at = sorted.len() - 16;
    let swapped = [&sorted[..at], &sorted[at + 8..], &sorted[at..at + 8]].concat();
    let twice = [&sorted[..at], &sorted[at..at + 8], &sorted[at..at + 8]].concat();
    for (bytes, is_taken) in [(sorted, true), (swapped, false), (twice, false)] {
        let signature = key().sign(&[SIGNED, &bytes].concat()).to_bytes();
        let read = SignedRevocations::decode(library(), &[&bytes[..], &signature].concat());
        assert_eq!(read.is_ok(), is_taken, "{read:?}");
    }
}
