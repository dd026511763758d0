//! How a session begins, and begins anew.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_comes_about_whichever_side_opens_it() {
    for (dials, opens) in [(true, true), (false, false), (false, true), (true, false)] {
        let mut t = Test::start(Setup { dials, opens, ..Setup::default() }).await;
        let session = if opens { t.answer().await } else { t.open().await };
        assert_eq!((session.name.as_str(), session.ticket.as_str()), ("under test", "its ticket"));
        t.up(1).await;
        let told = t.peers.look(|seen| format!("{seen:?}"));
        assert!(told.contains(r#"name: "the other end", ticket: "our ticket""#), "{told}");
        assert_eq!(t.standing(), Some(ConnectionState::InSync), "nothing on either side");
        assert_eq!(t.health().await, "InSync, missing here 0, missing there 0");
        assert!(t.connection.close_reason().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_control_streams_opened_at_once_the_diallers_counts() {
    // The actor dialled: what the other end opens meanwhile is passed over.
    let mut t = Test::start(Setup { dials: true, opens: true, ..Setup::default() }).await;
    let (send, mut receive) = t.accept_bi().await;
    let hello = t.first_frame(&mut receive).await;
    let (mut lost, mut heard) = t.connection.open_bi().await.unwrap();
    wire::write_frame(&mut lost, hello.clone()).await.unwrap();
    let end = timeout(DEADLINE, wire::read_frame(&mut heard)).await.unwrap();
    assert!(end.is_err(), "{end:?}");
    t.answer_on(hello, send, receive).await.unwrap();
    t.up(1).await;

    // The other end dialled: the actor answers, although it has opened one itself.
    let mut t = Test::start(Setup { dials: false, opens: true, ..Setup::default() }).await;
    let _ignored = t.accept_bi().await;
    t.open().await;
    t.up(1).await;
    assert!(t.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_session_is_closed_in_time() {
    let limits = PeerLimits { establish: Duration::from_millis(300), ..peer_limits() };
    for (dials, opens) in [(false, false), (true, true), (false, true)] {
        let t = Test::start(Setup { dials, opens, limits: limits.clone(), ..Setup::default() }).await;
        assert_closed(&t.connection, close::TIMEOUT).await;
        t.ends_in_order().await;
    }
    // Half of an introduction is none; it is to be there in time.
    let limits = PeerLimits { establish: Duration::from_secs(5), ..peer_limits() };
    let t = Test::start(Setup { limits, ..Setup::default() }).await;
    let (mut send, _receive) = t.connection.open_bi().await.unwrap();
    wire::write_frame(&mut send, hello(3)).await.unwrap();
    assert_closed(&t.connection, close::TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_ends_the_connection_and_is_named() {
    let t = Test::start(Setup::default()).await;
    let (mut send, _receive) = t.connection.open_bi().await.unwrap();
    wire::write_frame(&mut send, hello(4)).await.unwrap();
    let reason = assert_closed(&t.connection, close::VIOLATION).await.to_string();
    assert!(reason.contains("version 4"), "{reason}");

    let t = Test::start(Setup { dials: true, opens: true, ..Setup::default() }).await;
    let (mut send, mut receive) = t.accept_bi().await;
    t.first_frame(&mut receive).await;
    wire::write_frame(&mut send, hello(1)).await.unwrap();
    let reason = assert_closed(&t.connection, close::VIOLATION).await.to_string();
    assert!(reason.contains("version 1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_the_passphrase_is_told_nothing_and_reported() {
    let strangers = NetworkKeys::derive(&"another network".into()).mirror().clone();
    // It opens: a nonce is all that comes back.
    let mut t = Test::start(Setup { keys: strangers.clone(), ..Setup::default() }).await;
    let mut talk = Talk::open(&t.connection, t.remote.id(), &auth::SESSION).await.unwrap();
    let guess = LibraryProof {
        blinded: Bytes::from_static(&[1; 32]),
        proof: Bytes::from_static(&[2; 32]),
        ..LibraryProof::default()
    };
    talk.say(frame::Kind::Auth(Auth { libraries: vec![guess] })).await.unwrap();
    assert!(talk.hear().await.is_err());
    assert_closed(&t.connection, close::NOT_SHARED).await;
    t.not_shared().await;

    // We open, and its proof is wrong.
    let mut t =
        Test::start(Setup { dials: true, opens: true, keys: strangers.clone(), ..Setup::default() }).await;
    let mut talk = Talk::accept(&t.connection, t.remote.id(), &auth::SESSION, vec![]).await.unwrap();
    talk.hear_auth().await.unwrap();
    talk.say(frame::Kind::Auth(Auth::default())).await.unwrap();
    assert_closed(&t.connection, close::NOT_SHARED).await;
    t.not_shared().await;

    // We open, and it says so.
    let mut t = Test::start(Setup { dials: true, opens: true, keys: strangers, ..Setup::default() }).await;
    let _stream = t.accept_bi().await;
    t.connection.close(close::NOT_SHARED.into(), b"no shared library");
    t.not_shared().await;
    t.ends_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_control_stream_begins_the_session_anew() {
    let mut t = Test::start(Setup::default()).await;
    let mut old = t.open().await;
    t.up(1).await;
    let records: Vec<AssetRecord> = vec![record_of(b"wanted")];
    t.tell(PeerMsg::Fetch { request: 1, library: None, records: records.clone() });
    let Want { request, .. } = want(&mut old).await;
    let mut new = t.open().await;
    t.up(2).await;
    assert_eq!(t.resets(), 2, "what was asked for is void, each time");
    // What was asked for before is not expected any more.
    t.send_content(request, &[(&records[0], b"wanted")]).await;
    // The old stream is over; the new one works.
    let gone = timeout(DEADLINE, old.receive.read_to_end(1 << 20)).await.unwrap();
    assert!(gone.is_ok_and(|rest| rest.len() < 200) || t.connection.close_reason().is_none());
    t.ping(&mut new).await;
    assert_eq!(t.finished(), []);
    assert!(held(&t.store, records[0].hash).await.is_none());
    assert!(t.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_stream_that_ends_may_be_replaced_for_a_moment() {
    let limits = PeerLimits { establish: Duration::from_secs(10), ..peer_limits() };
    let mut t = Test::start(Setup { limits, ..Setup::default() }).await;
    for n in 1..3 {
        let mut session = t.open().await;
        t.up(n).await;
        session.send.finish().unwrap();
        t.peers.wait_for("the reset", |seen| resets(seen) == 2 * n).await;
        assert_eq!(t.health().await, "establishing a session");
        assert_eq!(t.standing(), None);
    }
    assert_closed(&t.connection, close::TIMEOUT).await;
    t.ends_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_before_the_session_is_offered_in_it() {
    let mut t = Test::start(Setup::default()).await;
    t.tell(changed(1));
    t.tell(changed(2));
    let mut session = t.open().await;
    t.up(1).await;
    let mut offered = [offer(&mut session).await.records, offer(&mut session).await.records].concat();
    offered.sort_by_key(|record| record.size);
    let expected = [1, 2].map(|n| WireRecord::from(&record_of(&noise(n, n as u64))));
    assert_eq!(offered, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_changes_than_are_kept_are_found_by_comparing() {
    let mut t = Test::start(Setup::default()).await;
    for n in 0..300 {
        t.tell(changed(n));
    }
    let mut session = t.open().await;
    t.up(1).await;
    let mut hashes = Vec::new();
    while hashes.len() < 256 {
        hashes.extend(offer(&mut session).await.records.into_iter().map(|record| record.hash));
    }
    wire::write_frame(&mut session.send, frame::Kind::Have(Have { hashes, ..Have::default() }))
        .await
        .unwrap();
    let (_send, mut receive) = t.accept_bi().await;
    assert!(matches!(t.first_frame(&mut receive).await, frame::Kind::ReconOpen(_)));
}
