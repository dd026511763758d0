//! What is answered on the control stream, and what ends it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_or_has_no_place_ends_the_connection() {
    let framed = |kind| wire::encode(&Frame { kind: Some(kind) }).to_vec();
    let elsewhere = Bytes::from_static(b"another library");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a hello again", framed(hello(3))),
        ("a reconciliation on the control stream", framed(frame::Kind::ReconMsg(ReconMsg::default()))),
        ("another library", framed(frame::Kind::Offer(Offer { library: elsewhere, ..Offer::default() }))),
        ("a summary of nothing", framed(frame::Kind::Ping(Ping::default()))),
        ("an unknown kind", vec![0, 0, 0, 3, 0xa0, 0x06, 0x01]),
        ("garbage", b"\0\0\0\x10sixteen letters!".to_vec()),
        ("2 GiB", vec![0x80, 0, 0, 0, 1, 2, 3]),
        ("too many contents", framed(want_of(1, vec![ContentHash([1; 32]); 1025]))),
    ];
    for (what, bytes) in cases {
        let mut t = Test::start(Setup::default()).await;
        let mut session = t.open().await;
        t.up(1).await;
        session.send.write_all(&bytes).await.unwrap();
        let reason = timeout(DEADLINE, assert_closed(&t.connection, close::VIOLATION)).await;
        assert!(reason.is_ok(), "{what}");
        let misbehaved = t.args.board.lock().misbehaved.clone();
        assert!(misbehaved.is_some(), "{what}: whoever looks after the peers is to know");
        t.ends_in_order().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_with_what_the_store_holds() {
    let mut t = Test::start(Setup::default()).await;
    let mut session = t.open().await;
    t.up(1).await;
    let content = noise(100, 1);
    t.ingest(&content).await;
    let pong = t.ping(&mut session).await;
    assert!(!pong.behind);
    let [summary] = &pong.libraries[..] else { panic!("{pong:?}") };
    assert_eq!((summary.count, summary.assets, summary.total_bytes), (1, 1, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciliations_are_answered_four_at_once_at_most() {
    let mut t = Test::start(Setup::default()).await;
    for n in 0..50 {
        t.ingest(&noise(n, 5)).await;
    }
    let session = t.open().await;
    t.up(1).await;
    let empty = Library::new(KEYS.clone());
    let open = |message: Vec<u8>| {
        frame::Kind::ReconOpen(ReconOpen {
            library: session.shared[0].blinded.clone(),
            message: message.into(),
            entries: false,
            more: false,
        })
    };
    let mut held = Vec::new();
    for _ in 0..4 {
        let (mut initiator, first) = Initiator::new(empty.snapshot(), EngineLimits::default());
        let (mut send, mut receive) = t.connection.open_bi().await.unwrap();
        wire::write_frame(&mut send, open(first)).await.unwrap();
        let frame::Kind::ReconMsg(answer) = t.first_frame(&mut receive).await else { panic!("no answer") };
        let step = initiator.handle(&answer.message).unwrap();
        assert!(step.have.is_empty() && !(step.need.is_empty() && step.reply.is_none()));
        held.push((send, receive));
    }
    let (_, first) = Initiator::new(empty.snapshot(), EngineLimits::default());
    let (mut send, _receive) = t.connection.open_bi().await.unwrap();
    wire::write_frame(&mut send, open(first)).await.unwrap();
    let reason = assert_closed(&t.connection, close::VIOLATION).await.to_string();
    assert!(reason.contains("reconciliations"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_that_overtakes_the_end_of_the_introduction_is_answered_after_it() {
    let mut t = Test::start(Setup::default()).await;
    t.ingest(&noise(10, 1)).await;
    // The first frames by hand, all but the one that completes them.
    let mut talk = Talk::open(&t.connection, t.remote.id(), &auth::SESSION).await.unwrap();
    let library = Bytes::copy_from_slice(&talk.transcript().blinded(KEYS.auth()));
    talk.prove(&[KEYS.auth().clone()]).await.unwrap();
    assert_eq!(talk.hear_proofs().await.unwrap().len(), 1);
    assert!(matches!(talk.hear().await, Ok(frame::Kind::Welcome(_))));
    let (mut recon, mut answer) = t.connection.open_bi().await.unwrap();
    let (mut initiator, first) = Initiator::new(t.library.snapshot(), EngineLimits::default());
    let open = ReconOpen { library: library.clone(), message: first.into(), entries: false, more: false };
    wire::write_frame(&mut recon, frame::Kind::ReconOpen(open)).await.unwrap();
    let early = timeout(Duration::from_millis(200), wire::read_frame(&mut answer)).await;
    assert!(early.is_err(), "nothing is said before the introduction is complete: {early:?}");

    let libraries = vec![establish::summary_to_wire(&library, &t.library.summary())];
    talk.say(frame::Kind::Welcome(Welcome { libraries, ..Welcome::default() })).await.unwrap();
    let frame::Kind::ReconMsg(message) = t.first_frame(&mut answer).await else { panic!("no answer") };
    assert_eq!(initiator.handle(&message.message).unwrap().need.len(), 1);
    t.up(1).await;
}
