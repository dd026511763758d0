//! Proofs and the machine, without tickets that anybody checks; those are in `peer/establish/tests.rs`.

use iroh::SecretKey;

use super::*;
use crate::identity::LibraryKeys;
use crate::wire::proto::{Auth, Hello, Ping, frame};

fn id(n: u8) -> EndpointId {
    SecretKey::from_bytes(&[n; 32]).public()
}

fn key(n: u8) -> Key {
    LibraryKeys::of_read_secret(&[n; 32]).auth().clone()
}

fn ends(ekm: u8) -> (Binding, Binding) {
    (Binding::new([ekm; 32], id(1), id(2)), Binding::new([ekm; 32], id(2), id(1)))
}

fn credential(n: u8, ticket: Option<&[u8]>) -> Credential {
    Credential { key: key(n), ticket: ticket.map(<[u8]>::to_vec) }
}

fn nothing_shown() -> OwnProofs {
    OwnProofs::default()
}

fn zeros(bytes: &mut [u8]) {
    bytes.fill(0);
}

fn auth(kind: frame::Kind) -> Auth {
    let frame::Kind::Auth(auth) = kind else { panic!("not an Auth: {kind:?}") };
    auth
}

/// Both machines until the opener is about to show.
fn greeted(domain: &'static Domain, keys: &[u8]) -> (Handshake, Handshake) {
    let (opener, answerer) = ends(3);
    let (mut opener, hello) = Handshake::open(domain, opener, [5; 32]);
    let keys = keys.iter().map(|n| key(*n)).collect();
    let mut answerer = Handshake::answer(domain, answerer, [6; 32], keys);
    assert!(opener.transcript().is_none());
    let HandshakeStep::Send(hello) = answerer.handle(hello, &nothing_shown()).unwrap() else {
        panic!("no Hello")
    };
    assert_eq!(opener.handle(hello, &nothing_shown()), Ok(HandshakeStep::Show));
    assert_eq!(opener.transcript().unwrap().secret(), answerer.transcript().unwrap().secret());
    (opener, answerer)
}

#[test]
fn both_ends_learn_what_both_know_and_no_more() {
    let (mut opener, mut answerer) = greeted(&SESSION, &[1, 2, 3]);
    let mut own = OwnProofs::default();
    let offered = vec![
        credential(9, Some(b"no ticket of ours")),
        credential(3, Some(b"a ticket")),
        credential(1, None),
    ];
    let shown = opener.show(offered, zeros, &mut own).unwrap();
    assert_eq!(auth(shown.clone()).libraries.len(), 8, "their number is hidden");
    let lengths: Vec<_> = auth(shown.clone()).libraries.iter().map(|shown| shown.ticket.len()).collect();
    assert_eq!(lengths, [SEALED_BYTES; 8], "no ticket can be told from another, or from none");
    let HandshakeStep::Judge(proved) = answerer.handle(shown, &nothing_shown()).unwrap() else {
        panic!("no verdict")
    };
    let expected = [
        ProvedSecret { index: 0, ticket: None },
        ProvedSecret { index: 2, ticket: Some(b"a ticket".to_vec()) },
    ];
    assert_eq!(proved, expected);

    let answer =
        answerer.show(vec![credential(3, Some(b"another"))], zeros, &mut OwnProofs::default()).unwrap();
    assert_eq!(auth(answer.clone()).libraries.len(), 1);
    let proved = opener.handle(answer, &own).unwrap();
    assert_eq!(
        proved,
        HandshakeStep::Judge(vec![ProvedSecret { index: 1, ticket: Some(b"another".to_vec()) }])
    );
}

#[test]
fn a_proof_holds_for_its_secret_prover_verifier_and_stream_alone() {
    let (here, there) = ends(3);
    let transcript = |binding: &Binding, role, own: u8, theirs: u8| {
        Transcript::new(&SESSION, binding, role, &[own; 32], &[theirs; 32])
    };
    let ours = transcript(&here, Role::Opener, 5, 6);
    let proof = [ours.prove(&key(1), Role::Opener)];
    let holds = |transcript: &Transcript, n, prover| transcript.find(&key(n), prover, &proof).is_some();
    assert!(holds(&ours, 1, Role::Opener));
    assert!(holds(&transcript(&there, Role::Answerer, 6, 5), 1, Role::Opener), "seen from the other end");

    assert!(!holds(&ours, 1, Role::Answerer), "reflected");
    assert!(!holds(&ours, 2, Role::Opener), "of another secret");
    assert!(!holds(&transcript(&ends(4).0, Role::Opener, 5, 6), 1, Role::Opener), "on another connection");
    assert!(!holds(&transcript(&here, Role::Opener, 7, 6), 1, Role::Opener), "on another stream");
    assert!(!holds(&transcript(&here, Role::Opener, 5, 7), 1, Role::Opener), "on another stream");
    for prover in [Role::Opener, Role::Answerer] {
        assert!(!holds(&transcript(&here, Role::Answerer, 5, 6), 1, prover), "roles of the ends swapped");
        assert!(!holds(&transcript(&here, Role::Answerer, 6, 5), 1, prover), "and their nonces, too");
        let third = Binding::new([3; 32], id(1), id(7));
        assert!(!holds(&transcript(&third, Role::Opener, 5, 6), 1, prover), "with somebody else");
    }
    let listing = Transcript::new(&LIST_PEERS, &here, Role::Opener, &[5; 32], &[6; 32]);
    assert!(!holds(&listing, 1, Role::Opener), "in another protocol");
    let mut cut = proof[0].clone();
    cut.proof.truncate(31);
    assert!(ours.find(&key(1), Role::Opener, &[cut]).is_none());
    assert!(ours.find(&key(1), Role::Opener, &[]).is_none());
}

#[test]
fn a_ticket_is_sealed_for_those_who_know_the_secret_on_this_stream() {
    let transcript = Transcript::new(&SESSION, &ends(3).0, Role::Opener, &[5; 32], &[6; 32]);
    let context = SESSION.tickets.unwrap();
    for ticket in [vec![], vec![7; 100], vec![7; TICKET_BYTES_MAX]] {
        let sealed = transcript.seal(context, &key(1), Role::Opener, &ticket).unwrap();
        assert_eq!(sealed.len(), SEALED_BYTES);
        assert_eq!(transcript.open(context, &key(1), Role::Opener, &sealed), Some(ticket));
        assert_eq!(transcript.open(context, &key(1), Role::Answerer, &sealed), None, "sent back");
        assert_eq!(transcript.open(context, &key(2), Role::Opener, &sealed), None);
        let other = Transcript::new(&SESSION, &ends(3).0, Role::Opener, &[5; 32], &[7; 32]);
        assert_eq!(other.open(context, &key(1), Role::Opener, &sealed), None, "sent again");
        let mut altered = sealed.clone();
        altered[40] ^= 1;
        assert_eq!(transcript.open(context, &key(1), Role::Opener, &altered), None);
    }
    assert_eq!(transcript.seal(context, &key(1), Role::Opener, &[0; TICKET_BYTES_MAX + 1]), None);
    assert_eq!(transcript.open(context, &key(1), Role::Opener, &[]), None);
}

#[test]
fn the_longest_auth_fits_its_limit() {
    let (mut opener, _) = greeted(&SESSION, &[]);
    let all = (0..64).map(|n| credential(n, Some(&[7; TICKET_BYTES_MAX]))).collect();
    let shown = opener.show(all, zeros, &mut OwnProofs::default()).unwrap();
    assert_eq!(auth(shown.clone()).libraries.len(), LIBRARIES_MAX);
    let bytes = prost::Message::encoded_len(&crate::wire::proto::Frame { kind: Some(shown) });
    assert!(bytes <= AUTH_BYTES_MAX, "{bytes}");
}

#[test]
fn our_own_proof_that_comes_back_is_an_attack_on_whatever_stream() {
    let mut own = OwnProofs::default();
    let (mut opener, mut answerer) = greeted(&SESSION, &[1]);
    let shown = opener.show(vec![credential(1, None)], zeros, &mut own).unwrap();
    assert_eq!(opener.handle(shown.clone(), &own), Err(AuthError::Reflected));
    // The one who opened the first stream answers on a second one.
    let (_, there) = ends(3);
    let (here, _) = ends(3);
    let (_, hello) = Handshake::open(&SESSION, there, [8; 32]);
    let mut second = Handshake::answer(&SESSION, here, [9; 32], vec![key(1)]);
    second.handle(hello, &own).unwrap();
    assert_eq!(second.handle(shown.clone(), &own), Err(AuthError::Reflected));
    // Blinded ids are alike from both ends, and no attack.
    let HandshakeStep::Judge(proved) = answerer.handle(shown, &nothing_shown()).unwrap() else {
        panic!("no verdict")
    };
    assert_eq!(proved.len(), 1);
    let answer = answerer.show(vec![credential(1, None)], zeros, &mut OwnProofs::default()).unwrap();
    assert!(opener.handle(answer, &own).is_ok());
}

#[test]
fn so_many_of_our_own_proofs_are_remembered_and_no_more() {
    let mut own = OwnProofs::default();
    let proof = |n: u32| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        LibraryProof { proof: bytes.to_vec().into(), ..LibraryProof::default() }
    };
    for n in 0..1000 {
        own.note(&[proof(n)]);
    }
    assert_eq!(own.0.len(), OWN_PROOFS_MAX);
    assert!(own.is_among(&[proof(1), proof(999)]));
    assert!(!own.is_among(&[proof(0), LibraryProof::default()]));
}

#[test]
fn whatever_has_no_place_is_refused() {
    let own = nothing_shown();
    let hello = |version, nonce: &'static [u8]| frame::Kind::Hello(Hello { version, nonce: nonce.into() });
    let empty = frame::Kind::Auth(Auth::default());
    let answerer = || Handshake::answer(&SESSION, ends(3).1, [6; 32], vec![key(1)]);
    let opener = || Handshake::open(&SESSION, ends(3).0, [5; 32]).0;
    for mut handshake in [answerer(), opener()] {
        assert_eq!(handshake.handle(frame::Kind::Ping(Ping::default()), &own), Err(AuthError::OutOfOrder));
        assert_eq!(handshake.handle(empty.clone(), &own), Err(AuthError::OutOfOrder), "Auth before Hello");
        assert_eq!(handshake.show(vec![], zeros, &mut OwnProofs::default()), Err(AuthError::OutOfOrder));
        assert_eq!(handshake.handle(hello(2, &[1; 32]), &own), Err(AuthError::Version(2)));
        for nonce in [&[1; 31][..], &[1; 33], &[]] {
            let error = handshake.handle(hello(VERSION, nonce), &own).unwrap_err();
            assert!(matches!(error, AuthError::Malformed(_)), "{error}");
        }
        handshake.handle(hello(VERSION, &[1; 32]), &own).unwrap();
        assert_eq!(handshake.handle(hello(VERSION, &[1; 32]), &own), Err(AuthError::OutOfOrder), "again");
    }
    // The opener has shown nothing yet.
    let mut early = opener();
    early.handle(hello(VERSION, &[1; 32]), &own).unwrap();
    assert_eq!(early.handle(empty.clone(), &own), Err(AuthError::OutOfOrder));
    let mut late = answerer();
    late.handle(hello(VERSION, &[1; 32]), &own).unwrap();
    assert_eq!(late.show(vec![], zeros, &mut OwnProofs::default()), Err(AuthError::OutOfOrder), "unasked");
    let many = frame::Kind::Auth(Auth { libraries: vec![LibraryProof::default(); LIBRARIES_MAX + 1] });
    assert!(matches!(late.handle(many, &own), Err(AuthError::Malformed(_))));
    assert_eq!(late.handle(empty.clone(), &own), Ok(HandshakeStep::Judge(vec![])));
    assert_eq!(late.handle(empty, &own), Err(AuthError::OutOfOrder), "a second guess");
}

#[test]
fn our_own_id_at_the_other_end_is_a_copy() {
    let copy = Binding::new([3; 32], id(1), id(1));
    let (mut handshake, hello) = Handshake::open(&SESSION, copy, [5; 32]);
    let error = handshake.handle(hello, &nothing_shown()).unwrap_err();
    assert_eq!(error, AuthError::OwnId(id(1)));
    assert!(error.to_string().contains("a copied data directory"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn who_fails_too_often_is_not_heard_for_a_while() {
    let mut throttle = Throttle::default();
    for _ in 0..FAILURES_MAX {
        assert!(!throttle.refuses(id(1), Instant::now()));
        throttle.failed(id(1), Instant::now());
    }
    assert!(throttle.refuses(id(1), Instant::now()));
    assert!(!throttle.refuses(id(2), Instant::now()));
    tokio::time::advance(FAILURE_WINDOW).await;
    assert!(!throttle.refuses(id(1), Instant::now()));
}
