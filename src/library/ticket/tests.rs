use iroh::{EndpointId, SecretKey};
use proptest::prelude::*;

use super::*;
use crate::library::filter::tests::filter;
use crate::library::revocation::{Revocations, SignedRevocations};

const NOW: u64 = 1_800_000_000_000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn endpoint(n: u8) -> EndpointId {
    SecretKey::from_bytes(&[n; 32]).public()
}

fn terms() -> Terms {
    Terms {
        name: "holiday pictures".into(),
        access: Access::Read,
        subject: Subject::Bearer,
        not_before_ms: NOW,
        expires_ms: Some(NOW + 60_000),
        uses: 0,
        serial: 7,
        epoch: 2,
        held: (3, 4096),
        fresh_within_ms: 0,
    }
}

fn issue(terms: Terms, filter: Filter) -> Ticket {
    let addr = EndpointAddr::new(endpoint(9)).with_ip_addr("192.0.2.7:4433".parse().unwrap());
    Ticket::issue(&key(1), terms, Zeroizing::new([5; 32]), filter, vec![addr]).unwrap()
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let name = "[a-zé ]{0,10}[a-z]";
    let subject = prop_oneof![Just(Subject::Bearer), (1..9_u8).prop_map(|n| Subject::Endpoint(endpoint(n)))];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    (name, access, subject, any::<u64>(), any::<Option<u64>>(), any::<u32>(), any::<u64>(), any::<u64>())
        .prop_map(|(name, access, subject, not_before_ms, expires_ms, uses, serial, epoch)| Terms {
            name: name.trim().to_owned(),
            access,
            subject,
            not_before_ms,
            expires_ms,
            uses,
            serial,
            epoch,
            held: (serial, epoch),
            fresh_within_ms: uses.into(),
        })
}

proptest! {
    #[test]
    fn a_ticket_is_read_as_it_was_issued(terms in any_terms(), filter in filter()) {
        let ticket = issue(terms, filter);
        let text = ticket.to_text();
        prop_assert!(text.starts_with(PREFIX) && text.bytes().all(|b| b.is_ascii_alphanumeric()));
        prop_assert_eq!(&Ticket::parse(&format!(" {}\n", *text)).unwrap(), &ticket);
        prop_assert_eq!(&Ticket::parse(&text.to_ascii_uppercase()).unwrap(), &ticket);
        let shown = SignedClaims::decode(&ticket.signed.encode()).unwrap();
        prop_assert_eq!(shown, ticket.signed);
    }

    #[test]
    fn any_text_is_answered_without_harm(text in ".{0,200}", tail in "[a-z2-7]{0,300}") {
        prop_assert!(Ticket::parse(&text).is_err());
        let with_prefix = format!("{PREFIX}{tail}");
        prop_assert!(Ticket::parse(&with_prefix).is_err());
    }
}

#[test]
fn only_claims_that_limit_the_age_of_lists_tell_of_it() {
    let unlimited = issue(terms(), Filter::default()).signed;
    let limited = issue(Terms { fresh_within_ms: 86_400_000, ..terms() }, Filter::default()).signed;
    let (before, after) = (unlimited.encode(), limited.encode());
    assert_eq!((before[0], after[0], after.len()), (1, 2, before.len() + 8));
    assert_eq!(SignedClaims::decode(&after).unwrap().claims.fresh_within_ms, 86_400_000);
    // No limit has another encoding already.
    let mut claims = after[..after.len() - 64].to_vec();
    let at = claims.len() - 2 * 32 - 8;
    claims[at..at + 8].fill(0);
    let signature = key(1).sign(&[SIGNED, &claims].concat()).to_bytes();
    let refused = SignedClaims::decode(&[&claims[..], &signature].concat());
    assert_eq!(refused, Err(CodecError::Value("age of lists").into()));
}

/// Changes a text in one of the ways in which texts get changed, on purpose or not.
fn mutate(text: &str, rng: &mut impl rand::Rng) -> String {
    use rand::RngExt as _;
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = text.as_bytes().to_vec();
    let at = rng.random_range(PREFIX.len()..bytes.len());
    let letter = LETTERS[rng.random_range(0..LETTERS.len())];
    match rng.random_range(0..6) {
        0 | 1 => bytes[at] = letter,
        2 => bytes.insert(at, letter),
        3 => drop(bytes.remove(at)),
        4 => bytes.truncate(at),
        _ => {
            let other = rng.random_range(PREFIX.len()..bytes.len());
            bytes.swap(at, other);
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn of_a_hundred_thousand_mutated_tickets_none_is_accepted() {
    use rand::SeedableRng as _;
    let seed = rand::random::<u64>();
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let tickets: Vec<_> = [
        issue(terms(), Filter::default()),
        issue(Terms { subject: Subject::Endpoint(endpoint(3)), uses: 1, ..terms() }, Filter::default()),
        issue(
            Terms { access: Access::Write, expires_ms: None, fresh_within_ms: 1, ..terms() },
            Filter::default(),
        ),
    ]
    .iter()
    .map(Ticket::to_text)
    .collect();
    let mut tried = 0;
    while tried < 100_000 {
        let original: &str = &tickets[tried % tickets.len()];
        let mutated = mutate(original, &mut rng);
        if mutated == *original {
            continue;
        }
        tried += 1;
        assert!(Ticket::parse(&mutated).is_err(), "seed {seed}: accepted {mutated}");
    }
}

#[test]
fn flipping_any_bit_of_the_bytes_is_noticed() {
    let text = issue(terms(), Filter::default()).to_text();
    let bytes = BASE32_NOPAD.decode(text[PREFIX.len()..].to_ascii_uppercase().as_bytes()).unwrap();
    assert!(Ticket::decode(&bytes).is_ok());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Ticket::decode(&flipped).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Ticket::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
}

/// The digest among the claims is over what we would write, so that nothing else may be read for it.
#[test]
fn what_belongs_to_a_library_is_written_in_one_way() {
    let hash = |n: u8| crate::record::ContentHash([n; 32]).to_string();
    let spec = crate::library::filter::FilterSpec {
        tags: Some(vec!["ab".into(), "cd".into()]),
        mime_prefix: Some("image/".into()),
        hashes: Some(vec![hash(1), hash(2)]),
        ..crate::library::filter::FilterSpec::default()
    };
    let text = issue(terms(), spec.try_into().unwrap()).to_text();
    let bytes = BASE32_NOPAD.decode(text[PREFIX.len()..].to_ascii_uppercase().as_bytes()).unwrap();
    let (ab, cd) = (b"\0\0\0\x02ab", b"\0\0\0\x02cd");
    for (written, otherwise) in [
        ([&ab[..], cd].concat(), [&cd[..], ab].concat()),
        ([&ab[..], cd].concat(), [&ab[..], ab].concat()),
        ([[1; 32], [2; 32]].concat(), [[2; 32], [1; 32]].concat()),
        ([[1; 32], [2; 32]].concat(), [[2; 32], [2; 32]].concat()),
        (b"image/".to_vec(), b"imagE/".to_vec()),
    ] {
        let at = bytes.windows(written.len()).position(|some| some == written).expect("it is in there");
        let mut changed = bytes.clone();
        changed.splice(at..at + written.len(), otherwise.iter().copied());
        let refused = Ticket::decode(&changed).map(drop);
        assert_eq!(refused, Err(CodecError::Value("filter").into()), "{otherwise:?}");
    }
}

#[test]
fn claims_of_one_ticket_with_the_rest_of_another_are_refused() {
    let mine = issue(terms(), Filter::default());
    let other = Ticket { secret: Zeroizing::new([6; 32]), ..mine.clone() };
    assert_eq!(Ticket::parse(&other.to_text()), Err(TicketError::Signature));
    let elsewhere = Ticket { addrs: Vec::new(), ..mine };
    assert_eq!(Ticket::parse(&elsewhere.to_text()), Err(TicketError::Signature));
}

#[test]
fn claims_that_were_seen_are_no_ticket() {
    let (ticket, next) =
        (issue(terms(), Filter::default()), issue(Terms { serial: 8, ..terms() }, Filter::default()));
    let proof = ticket.prove(b"here");
    let shown = &ticket.signed;
    assert_eq!(shown.check_held(b"here", &proof), Ok(()));
    assert_eq!(shown.check_held(b"elsewhere", &proof), Err(TicketError::NotHeld), "shown again");
    assert_eq!(shown.check_held(b"here", &next.prove(b"here")), Err(TicketError::NotHeld), "of another");
    assert_eq!(shown.check_held(b"here", &proof[..63]), Err(TicketError::NotHeld));
    assert_eq!(shown.check_held(b"here", &[]), Err(TicketError::NotHeld));
    let other = Ticket { holder: next.holder, ..ticket };
    assert_eq!(Ticket::parse(&other.to_text()), Err(TicketError::Signature));
}

#[test]
fn every_refusal_names_its_rule() {
    let ticket = issue(terms(), Filter::default());
    let (claims, library) = (ticket.claims(), ticket.claims().library);
    let none = Revocations::default();
    let check = |now| claims.check(library, endpoint(3), &none, now);
    assert_eq!(check(NOW), Ok(()));
    assert_eq!(check(NOW - CLOCKS_APART_MAX_MS), Ok(()), "a clock that is ten minutes behind");
    let early = check(NOW - CLOCKS_APART_MAX_MS - 1).unwrap_err();
    assert!(
        matches!(early, TicketError::NotYetValid { .. }) && early.to_string().contains("2027-"),
        "{early}"
    );
    assert_eq!(check(NOW + 59_999), Ok(()));
    assert!(matches!(check(NOW + 60_000), Err(TicketError::Expired { .. })));
    assert_eq!(claims.check_time(NOW + 60_000, CLOCKS_APART_MAX_MS), Ok(()), "a joiner's clock may be ahead");
    let other = LibraryId(key(2).verifying_key().to_bytes());
    assert_eq!(claims.check(other, endpoint(3), &none, NOW), Err(TicketError::OtherLibrary));
    let bound = issue(Terms { subject: Subject::Endpoint(endpoint(3)), ..terms() }, Filter::default());
    assert_eq!(bound.claims().check(library, endpoint(3), &none, NOW), Ok(()));
    let foreign = bound.claims().check(library, endpoint(4), &none, NOW);
    assert_eq!(foreign, Err(TicketError::Subject(endpoint(3))));
    let revoked = Revocations { serials: [7].into(), ..Revocations::default() };
    assert_eq!(claims.check(library, endpoint(3), &revoked, NOW), Err(TicketError::Revoked(7)));
    let epoch = Revocations { min_epoch: 3, ..Revocations::default() };
    assert_eq!(claims.check(library, endpoint(3), &epoch, NOW), Err(TicketError::OldEpoch));

    assert_eq!(Ticket::parse("endpointabc"), Err(TicketError::NotATicket));
    assert_eq!(Ticket::parse(""), Err(TicketError::NotATicket));
    assert_eq!(Ticket::parse("canlib01"), Err(TicketError::Characters));
    assert_eq!(Ticket::parse("canlib"), Err(TicketError::Malformed(CodecError::Truncated)));
    assert_eq!(Ticket::parse(&format!("{PREFIX}au")), Err(TicketError::Version(5)));
    let long = "canlib".to_owned() + &"a".repeat(TEXT_BYTES_MAX);
    assert!(matches!(Ticket::parse(&long), Err(TicketError::TooLong(_))));
    let text = ticket.to_text();
    assert!(matches!(Ticket::parse(&text[..text.len() - 8]), Err(TicketError::Malformed(_))));
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?}", issue(terms(), Filter::default()));
    assert!(shown.contains("redacted") && !shown.contains("5, 5, 5"), "{shown}");
}

#[test]
fn a_filter_of_ten_thousand_hashes_fits_into_a_ticket() {
    let hash = |i: u32| {
        let mut bytes = [0xFF; 32];
        bytes[..4].copy_from_slice(&i.to_be_bytes());
        crate::record::ContentHash(bytes).to_string()
    };
    let spec = crate::library::filter::FilterSpec {
        hashes: Some((0..10_000).map(hash).collect()),
        ..crate::library::filter::FilterSpec::default()
    };
    let ticket = issue(terms(), spec.try_into().unwrap());
    assert_eq!(Ticket::parse(&ticket.to_text()).unwrap(), ticket);
}

#[test]
fn revocations_are_the_librarys_own_and_newer_ones_win() {
    let library = LibraryId(key(1).verifying_key().to_bytes());
    let list = Revocations { version: 3, min_epoch: 1, serials: [4, 9].into(), ..Revocations::default() };
    let signed = SignedRevocations::sign(&key(1), list.clone());
    assert_eq!(SignedRevocations::decode(library, &signed.encode()).unwrap().list, list);
    let forged = SignedRevocations::sign(&key(2), list);
    assert_eq!(SignedRevocations::decode(library, &forged.encode()), Err(TicketError::Signature));
    let bytes = signed.encode();
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        assert!(SignedRevocations::decode(library, &altered).is_err(), "byte {at}");
    }
}
