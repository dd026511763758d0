//! PeerActor between a recording PeersActor, a real store, and a real connection whose other end the test drives frame by
//! frame.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::clock::Clock;
use can_sync::testing::events::{EventLog, NodeEvent};
use can_sync::testing::identity::{LibraryKeys, NetworkKeys};
use can_sync::testing::library::{Libraries, Library};
use can_sync::testing::net::auth;
use can_sync::testing::net::bulk::{BulkSessions, InboundWindow};
use can_sync::testing::net::close;
use can_sync::testing::net::endpoint::open_up;
use can_sync::testing::peer::actor::PeerActor;
use can_sync::testing::peer::args::{PeerArgs, PeerLimits, Replica};
use can_sync::testing::peer::deferrals::{Deferrals, Note};
use can_sync::testing::peer::delete_guard::DeleteGuard;
use can_sync::testing::peer::establish::{self, ConnectionMemory, Established, Introduction, Meeting};
use can_sync::testing::peer::held::SessionMemory;
use can_sync::testing::peer::messages::{PeerMsg, PeersMsg};
use can_sync::testing::peer::report::ConnectionState;
use can_sync::testing::reconcile::engine::{EngineLimits, Initiator};
use can_sync::testing::record::{AssetRecord, ContentHash, Hlc};
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::{ContentStore as _, FeedEntry, Holding, StoreError, StoreRef};
use can_sync::testing::transfer::partial::Partials;
use can_sync::testing::transfer::receive::Results;
use can_sync::testing::transfer::schedule::{FetchFailure, SessionId, WantKey};
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{
    Auth, Cancel, ContentHeader, ContentRequest, Find, Frame, Have, Hello, Lacks, LibraryProof, Offer, Ping,
    Pong, ReconMsg, ReconOpen, Want, Welcome, WireRecord, frame,
};
use iroh::SecretKey;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use ractor::{Actor, ActorRef};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::embedded;
use crate::support::nodes::{DEADLINE, eventually};
use crate::support::peers::{KEYS, Remote, assert_closed, peer_limits};
use crate::support::probe::Probe;
use crate::support::proving::Talk;
use crate::support::scripted::{Mood, ScriptedStore};
use crate::support::store::{LONG_AGO_MS, edited, held, noise, read, read_feed, record_of};

mod bulk;

const SESSION: SessionId = SessionId(7);

// ---- Beginning -------------------------------------------------------------------------------------------------------

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
    // Half of an introduction is none.
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
    let limits = PeerLimits { establish: Duration::from_millis(700), ..peer_limits() };
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

// ---- Frames ----------------------------------------------------------------------------------------------------------

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

// ---- Contents --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_is_asked_for_stored_and_confirmed() {
    let mut t = Test::start(Setup::default()).await;
    let mut session = t.open().await;
    t.up(1).await;
    let contents = [noise(0, 0), noise(500, 1), noise(65_536, 2), noise(65_537, 3), noise(3_000_000, 4)];
    let records: Vec<AssetRecord> = contents.iter().map(|content| record_of(content)).collect();
    let library = session.shared[0].blinded.clone();
    let wire_records = records.iter().map(WireRecord::from).collect();
    let offer = frame::Kind::Offer(Offer { library, records: wire_records, ..Offer::default() });
    wire::write_frame(&mut session.send, offer).await.unwrap();
    t.peers.wait_for("what is wanted", |seen| wanted(seen) == records).await;
    assert_eq!(t.standing(), Some(ConnectionState::Syncing));

    t.tell(PeerMsg::Fetch { request: 40, library: None, records: records.clone() });
    let asked = want(&mut session).await;
    assert_eq!(asked.request, 40);
    let hashes: Vec<_> = asked.contents.iter().map(|content| content.hash.to_vec()).collect();
    assert_eq!(hashes, records.iter().map(|record| record.hash.0.to_vec()).collect::<Vec<_>>());
    let parts: Vec<_> = records.iter().zip(&contents).map(|(r, c)| (r, c.as_slice())).collect();
    t.send_content(40, &parts).await;
    t.wait_finished(records.len()).await;
    for (record, content) in &parts {
        assert!(t.finished().contains(&(WantKey::new(None, record), Ok(()))));
        assert_eq!(held(&t.store, record.hash).await.as_ref(), Some(*record), "metadata as it was");
        assert_eq!(read(&t.store, record.hash, 0, None).await.unwrap(), *content);
    }
    let bytes: usize = contents.iter().map(Vec::len).sum();
    assert_eq!(t.args.traffic.received.load(Ordering::Relaxed), bytes as u64);
    let received = t.args.events.since(0).0;
    let received = received.iter().filter(|e| matches!(e.event, NodeEvent::AssetReceived { .. })).count();
    assert_eq!(received, records.len());
    assert_eq!(
        std::fs::read_dir(t.args.replica.partials.dir()).unwrap().count(),
        0,
        "nothing is left behind"
    );

    t.tell(PeerMsg::Settled(records.iter().map(|record| WantKey::new(None, record)).collect()));
    let Have { hashes, .. } = have(&mut session).await;
    assert_eq!(hashes.len(), records.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_the_content_are_reported_and_not_stored() {
    let mut t = Test::start(Setup::default()).await;
    let mut session = t.open().await;
    t.up(1).await;
    for (n, len) in (1..).zip([1_000, 2_000_000]) {
        let record = record_of(&noise(len, 1));
        t.tell(PeerMsg::Fetch { request: n, library: None, records: vec![record.clone()] });
        want(&mut session).await;
        t.send_content(n, &[(&record, &noise(len, 2))]).await;
        t.wait_finished(usize::try_from(n).unwrap()).await;
        let (hash, result) = t.finished().pop().unwrap();
        let Err(FetchFailure::WrongBytes(reason)) = result else { panic!("{result:?}") };
        assert!(
            hash == WantKey::new(None, &record) && reason.starts_with("the peer sent wrong bytes"),
            "{reason}"
        );
        assert!(held(&t.store, record.hash).await.is_none());
    }
    assert!(t.connection.close_reason().is_none(), "PeersActor decides what it makes of it");
    assert_eq!(std::fs::read_dir(t.args.replica.partials.dir()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_of_another_size_is_reported_and_not_stored() {
    let mut t = Test::start(Setup::default()).await;
    let mut session = t.open().await;
    t.up(1).await;
    let content = noise(100_000, 1);
    let record = record_of(&content);
    let honest = header(0, &record);
    let lies = [
        ContentHeader { length: 10, total: 10, ..honest.clone() },
        ContentHeader { length: u64::MAX, total: u64::MAX, ..honest.clone() },
        ContentHeader { offset: 1, length: 99_999, ..honest.clone() },
        ContentHeader { length: 5, ..honest },
    ];
    for (n, lie) in (1..).zip(lies) {
        t.tell(PeerMsg::Fetch { request: n, library: None, records: vec![record.clone()] });
        want(&mut session).await;
        t.send_raw(&ContentHeader { request: n, ..lie }, &content).await;
        t.wait_finished(usize::try_from(n).unwrap()).await;
        assert!(
            matches!(t.finished().pop(), Some((_, Err(FetchFailure::WrongBytes(_))))),
            "{:?}",
            t.finished()
        );
    }
    assert!(held(&t.store, record.hash).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_nobody_asked_for_is_not_taken() {
    let mut t = Test::start(Setup::default()).await;
    let mut session = t.open().await;
    t.up(1).await;
    let (content, other) = (noise(80_000, 1), noise(500, 2));
    let (uninvited, wanted) = (record_of(&content), record_of(&other));
    for request in [0, 1, u64::MAX] {
        t.send_content(request, &[(&uninvited, &content)]).await;
    }
    t.tell(PeerMsg::Fetch { request: 5, library: None, records: vec![wanted.clone()] });
    want(&mut session).await;
    t.send_content(5, &[(&uninvited, &content)]).await;
    t.wait_finished(1).await;
    assert!(
        matches!(&t.finished()[..], [(hash, Err(FetchFailure::Source(_)))] if *hash == WantKey::new(None, &wanted))
    );
    assert!(read_feed(&t.store, 0, 1000).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_nothing_is_not_the_peers_fault() {
    let scripted = ScriptedStore::new();
    let mut t = Test::start(Setup { store: Some(scripted.as_ref()), ..Setup::default() }).await;
    let mut session = t.open().await;
    t.up(1).await;
    scripted.set_mood(Mood::Failing(crate::support::scripted::down("disk full")));
    let content = noise(500, 1);
    let record = record_of(&content);
    t.tell(PeerMsg::Fetch { request: 1, library: None, records: vec![record.clone()] });
    want(&mut session).await;
    t.send_content(1, &[(&record, &content)]).await;
    t.wait_finished(1).await;
    assert!(matches!(&t.finished()[..], [(_, Err(FetchFailure::Store(_)))]), "{:?}", t.finished());
}

/// A store that has a version of the user's, and one that is dated after it, had to wait, and was first seen before it.
async fn overtaken() -> (ScriptedStore, Test, AssetRecord, AssetRecord) {
    let scripted = ScriptedStore::new();
    let t = Test::start(Setup { store: Some(scripted.as_ref()), ..Setup::default() }).await;
    let now = can_sync::testing::clock::now_ms();
    let ours = edited(&record_of(&noise(500, 1)), now - LONG_AGO_MS, Some("ours"));
    let ahead = AssetRecord { hlc: Hlc::from_ms(now + 30_000), ..edited(&ours, 0, Some("ahead")) };
    t.args.replica.deferrals.add(Note::of(&ahead, None, ours.hlc.ms() - 1, now));
    scripted.put(&ours);
    (scripted, t, ours, ahead)
}

async fn say(session: &mut Established, record: &AssetRecord) {
    let (library, records) = (session.shared[0].blinded.clone(), vec![WireRecord::from(record)]);
    let offer = frame::Kind::Offer(Offer { library, records, ..Offer::default() });
    wire::write_frame(&mut session.send, offer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_version_had_to_wait_is_forgotten_once_ours_is_written_once_more_and_no_sooner() {
    let (scripted, mut t, ours, ahead) = overtaken().await;
    let mut session = t.open().await;
    t.up(1).await;
    scripted.set_mood(Mood::KeepingDates(crate::support::scripted::down("for a while")));
    say(&mut session, &ahead).await;
    let asked = async |times: usize| {
        eventually("the store is asked", async || {
            let asked = scripted.script().redatings;
            (asked >= times).then_some(()).ok_or_else(|| asked.to_string())
        })
        .await;
    };
    asked(2).await;
    assert_eq!(t.args.replica.deferrals.of(&ours.hash).len(), 1);
    // The session ends with it undone, and the peer brings it again.
    let mut session = t.open().await;
    t.up(2).await;
    let before = scripted.script().redatings;
    say(&mut session, &ahead).await;
    asked(before + 1).await;
    scripted.set_mood(Mood::Well);
    assert_eq!(have(&mut session).await.hashes, [ahead.hash.0.to_vec()]);
    assert_eq!(t.args.replica.deferrals.of(&ours.hash), []);
    let kept: Vec<AssetRecord> = scripted.script().records.values().cloned().collect();
    assert_eq!(kept, [ours]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_date_versions_anew_is_asked_once_for_each_time_they_come() {
    let (scripted, mut t, ours, ahead) = overtaken().await;
    let mut session = t.open().await;
    t.up(1).await;
    let url = "http://store.test".to_owned();
    scripted.set_mood(Mood::KeepingDates(StoreError::Unsupported { url, what: "date versions anew" }));
    for times in 1..=2 {
        say(&mut session, &ahead).await;
        let why = pick(&mut session, |kind| match kind {
            frame::Kind::Error(error) => Some(error.message),
            _ => None,
        })
        .await;
        assert!(why.contains("cannot date versions anew") && why.contains("update it"), "{why}");
        assert_eq!(scripted.script().redatings, times);
    }
    assert_eq!(t.args.replica.deferrals.of(&ours.hash).len(), 1, "once it can, ours is written once more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nothing_comes_of_is_given_up_and_cancelled() {
    let limits = PeerLimits { stall: Duration::from_millis(500), ..peer_limits() };
    let mut t = Test::start(Setup { limits, ..Setup::default() }).await;
    let mut session = t.open().await;
    t.up(1).await;
    let record = record_of(b"never sent");
    t.tell(PeerMsg::Fetch { request: 3, library: None, records: vec![record.clone()] });
    want(&mut session).await;
    t.wait_finished(1).await;
    assert_eq!(
        t.finished(),
        [(WantKey::new(None, &record), Err(FetchFailure::Source("no progress".into())))]
    );
    let cancelled = pick(&mut session, |kind| match kind {
        frame::Kind::Cancel(cancel) => Some(cancel.request),
        _ => None,
    });
    assert_eq!(cancelled.await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_served_as_long_as_it_is_wanted() {
    let mut t = Test::start(Setup::default()).await;
    let (small, large) = (noise(500, 1), noise(40_000_000, 2));
    let (small_hash, large_hash) = (t.ingest(&small).await, t.ingest(&large).await);
    let mut session = t.open().await;
    t.up(1).await;
    let missing = ContentHash([9; 32]);
    wire::write_frame(&mut session.send, want_of(11, vec![missing, small_hash])).await.unwrap();
    let mut stream = timeout(DEADLINE, t.connection.accept_uni()).await.unwrap().unwrap();
    let first = wire::read_header(&mut stream).await.unwrap().unwrap();
    assert_eq!((first.request, first.hash.to_vec(), first.gone), (11, missing.0.to_vec(), true));
    let second = wire::read_header(&mut stream).await.unwrap().unwrap();
    assert_eq!((second.length, second.total, second.gone), (500, 500, false));
    let mut content = vec![0; 500];
    stream.read_exact(&mut content).await.unwrap();
    assert_eq!(content, small);
    assert!(wire::read_header(&mut stream).await.unwrap().is_none());
    assert_eq!(t.args.traffic.sent.load(Ordering::Relaxed), 500);

    wire::write_frame(&mut session.send, want_of(12, vec![large_hash])).await.unwrap();
    let mut stream = timeout(DEADLINE, t.connection.accept_uni()).await.unwrap().unwrap();
    assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().length, 40_000_000);
    wire::write_frame(&mut session.send, frame::Kind::Cancel(Cancel { request: 12 })).await.unwrap();
    // The answer to a question shows that the cancellation was read.
    t.ping(&mut session).await;
    let mut came = 0;
    while let Ok(Some(chunk)) = timeout(DEADLINE, stream.read_chunk(1 << 20)).await.expect("an end") {
        came += chunk.len();
    }
    assert!(came < 30_000_000, "{came} bytes came of a cancelled request");
    assert!(t.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_by_name_is_offered_what_is_here_and_told_of_the_rest() {
    let mut t = Test::start(Setup::default()).await;
    let held = t.ingest(&noise(500, 1)).await;
    let mut session = t.open().await;
    assert!(session.finds, "it says that it can be asked");
    t.up(1).await;
    let missing = ContentHash([9; 32]);
    wire::write_frame(&mut session.send, find(&[held, missing])).await.unwrap();
    // The comparison may have offered it before.
    let lacks = pick(&mut session, |kind| match kind {
        frame::Kind::Offer(offer) => {
            assert!(offer.records.iter().all(|record| record.hash.as_ref() == held.0));
            None
        }
        frame::Kind::Lacks(lacks) => Some(lacks),
        _ => None,
    })
    .await;
    assert_eq!(lacks.hashes, [bytes::Bytes::copy_from_slice(&missing.0)]);
    for too_much in [
        find(&[missing; 65]),
        find(&[]),
        frame::Kind::Find(Find { hashes: vec![Bytes::from_static(b"x")], ..Find::default() }),
    ] {
        let mut t = Test::start(Setup::default()).await;
        let mut session = t.open().await;
        t.up(1).await;
        wire::write_frame(&mut session.send, too_much).await.unwrap();
        assert_closed(&t.connection, close::VIOLATION).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_is_asked_by_name_if_it_can_be() {
    let mut t = Test::start(Setup::default()).await;
    let mut session = t.open().await;
    t.up(1).await;
    let wanted = [ContentHash([8; 32]), ContentHash([9; 32])];
    t.tell(PeerMsg::Find(wanted.to_vec()));
    let asked = pick(&mut session, |kind| match kind {
        frame::Kind::Find(find) => Some(find.hashes),
        _ => None,
    })
    .await;
    assert!(asked.iter().map(AsRef::as_ref).eq(wanted.iter().map(|hash| hash.0.as_slice())));
    // What it was not asked for is no answer.
    let hashes = [[7; 32], wanted[1].0].map(|hash| Bytes::copy_from_slice(&hash)).to_vec();
    wire::write_frame(&mut session.send, frame::Kind::Lacks(Lacks { hashes, ..Lacks::default() }))
        .await
        .unwrap();
    let lacks = |m: &PeersMsg| match m {
        PeersMsg::Lacks { session, hashes, asked: true } => Some((*session, hashes.clone())),
        _ => None,
    };
    t.peers.wait_for("the answer", |seen| seen.iter().any(|m| lacks(m).is_some())).await;
    let told: Vec<_> = t.peers.look(|seen| seen.iter().filter_map(lacks).collect());
    assert_eq!(told, [(SESSION, vec![wanted[1]])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_requests_may_wait_as_offers_may_be_open() {
    let mut t = Test::start(Setup::default()).await;
    let hash = t.ingest(&noise(200, 1)).await;
    let mut session = t.open().await;
    t.up(1).await;
    // A slow path: none of the streams is taken yet.
    for request in 0..4096 {
        wire::write_frame(&mut session.send, want_of(request, vec![hash])).await.unwrap();
    }
    t.ping(&mut session).await;
    let mut served = 0;
    while served < 4096 {
        let mut stream = timeout(DEADLINE, t.connection.accept_uni()).await.unwrap().unwrap();
        assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().length, 200);
        served += 1;
    }
}

// ---- Ending ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_task_is_the_actors_failure_and_the_next_one_takes_the_connection_over() {
    let scripted = ScriptedStore::new();
    let mut t = Test::start(Setup { store: Some(scripted.as_ref()), ..Setup::default() }).await;
    let mut session = t.open().await;
    t.up(1).await;
    scripted.set_mood(Mood::Panicking);
    let library = session.shared[0].blinded.clone();
    let records = vec![WireRecord::from(&record_of(b"x"))];
    let offer = frame::Kind::Offer(Offer { library, records, ..Offer::default() });
    wire::write_frame(&mut session.send, offer).await.unwrap();
    timeout(DEADLINE, &mut t.ends).await.expect("it fails").unwrap();
    assert!(t.connection.close_reason().is_none(), "the connection outlives it");
    scripted.set_mood(Mood::Well);

    t.again().await;
    let mut session = t.answer().await;
    t.up(2).await;
    t.ping(&mut session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_stop_closes_the_connection_and_the_connections_end_stops_it() {
    let mut t = Test::start(Setup::default()).await;
    t.open().await;
    t.up(1).await;
    t.actor.stop(None);
    assert_closed(&t.connection, close::SHUTDOWN).await;
    t.ends_in_order().await;

    let mut t = Test::start(Setup::default()).await;
    t.open().await;
    t.up(1).await;
    t.connection.close(0_u32.into(), b"bye");
    t.ends_in_order().await;
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

/// How a test begins.
struct Setup {
    /// Whether the actor's side dialled.
    dials: bool,
    /// Whether the actor opens the control stream.
    opens: bool,
    limits: PeerLimits,
    /// What the other end knows.
    keys: LibraryKeys,
    /// A store other than a real one.
    store: Option<StoreRef>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { dials: false, opens: false, limits: peer_limits(), keys: KEYS.clone(), store: None }
    }
}

struct Test {
    actor: ActorRef<PeerMsg>,
    ends: JoinHandle<()>,
    args: PeerArgs,
    peers: Probe<PeersMsg>,
    /// The actor's store, unless the setup has another one.
    store: EmbeddedStore,
    /// The other end of the connection.
    connection: Connection,
    remote: Remote,
    memory: ConnectionMemory,
    /// What the other end shares.
    library: Arc<Library>,
    /// The actor's end.
    near: Remote,
    _dir: TempDir,
}

impl Test {
    async fn start(setup: Setup) -> Self {
        let (near, remote) =
            tokio::join!(Remote::with_key(SecretKey::generate()), Remote::with_key(SecretKey::generate()));
        let (connection, far) = if setup.dials {
            tokio::join!(near.dial(&remote.0), remote.accept())
        } else {
            tokio::join!(near.accept(), remote.dial(&near.0))
        };
        open_up(&far, 32);
        let window = InboundWindow::new(connection.clone());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = embedded::open(&dir.path().join("store")).await;
        let partials = Partials::open(&dir.path().join("partial")).expect("a directory");
        let peers = Probe::spawn().await;
        let library = Arc::new(Library::new(KEYS.clone()));
        library.set_cursor(0);
        let args = PeerArgs {
            session: SESSION,
            connection,
            opens: setup.opens,
            window,
            endpoint: near.0.clone(),
            bulk: BulkSessions::default(),
            memory: Arc::default(),
            offers_mirror: true,
            introduction: introduction("under test", "its ticket"),
            replica: Replica {
                store: setup.store.unwrap_or_else(|| Arc::new(store.clone())),
                libraries: Arc::new(Libraries::of(library)),
                partials,
                deletes: Arc::new(DeleteGuard::new(false)),
                deferrals: Deferrals::in_memory(Clock::system()),
            },
            traffic: Arc::default(),
            receiving: can_sync::testing::transfer::active::ActiveTransfers::default(),
            sending: can_sync::testing::transfer::active::ActiveTransfers::default(),
            board: Arc::default(),
            peers: peers.service(),
            events: EventLog::default(),
            held: SessionMemory::default(),
            limits: setup.limits,
        };
        let (actor, ends) = Actor::spawn(None, PeerActor, args.clone()).await.expect("it starts");
        let library = Arc::new(Library::new(setup.keys));
        let (connection, memory) = (far, ConnectionMemory::default());
        Self { actor, ends, args, peers, store, connection, memory, remote, library, near, _dir: dir }
    }

    /// The next incarnation, as PeersActor starts it.
    async fn again(&mut self) {
        self.args.opens = true;
        let (actor, ends) = Actor::spawn(None, PeerActor, self.args.clone()).await.expect("it starts");
        (self.actor, self.ends) = (actor, ends);
    }

    fn tell(&self, message: PeerMsg) {
        self.actor.send_message(message).expect("it runs");
    }

    fn meeting<'a>(&'a self, libraries: &'a Libraries, introduction: &'a Introduction) -> Meeting<'a> {
        Meeting {
            connection: &self.connection,
            own_id: self.remote.id(),
            libraries,
            introduction,
            memory: &self.memory,
            offers_mirror: true,
            within: DEADLINE,
        }
    }

    /// The other end opens a control stream.
    async fn open(&self) -> Established {
        let introduction = introduction("the other end", "our ticket");
        let libraries = Libraries::of(Arc::clone(&self.library));
        self.meeting(&libraries, &introduction).open().await.expect("a session")
    }

    /// The other end answers the control stream that the actor opens.
    async fn answer(&self) -> Established {
        let (send, mut receive) = self.accept_bi().await;
        let hello = self.first_frame(&mut receive).await;
        self.answer_on(hello, send, receive).await.expect("a session")
    }

    async fn answer_on(
        &self,
        hello: frame::Kind,
        send: SendStream,
        receive: RecvStream,
    ) -> Result<Established, establish::EstablishError> {
        let frame::Kind::Hello(first) = hello else { panic!("{hello:?} is no hello") };
        let introduction = introduction("the other end", "our ticket");
        let streams = (send, receive);
        let libraries = Libraries::of(Arc::clone(&self.library));
        self.meeting(&libraries, &introduction).answer(first, streams).await
    }

    async fn accept_bi(&self) -> (SendStream, RecvStream) {
        timeout(DEADLINE, self.connection.accept_bi()).await.expect("a stream in time").expect("a stream")
    }

    async fn first_frame(&self, receive: &mut RecvStream) -> frame::Kind {
        timeout(DEADLINE, wire::read_frame(receive)).await.expect("a frame in time").expect("a frame")
    }

    /// Waits until the `n`th session was said to be up.
    async fn up(&mut self, n: usize) {
        let ups = |seen: &[PeersMsg]| seen.iter().filter(|m| matches!(m, PeersMsg::SessionUp { .. })).count();
        self.peers.wait_for("the session", |seen| ups(seen) == n).await;
        // The standing is published a moment later, in the same handler.
        self.health().await;
    }

    async fn not_shared(&mut self) {
        let id = self.remote.id();
        let said = |m: &PeersMsg| matches!(m, PeersMsg::NotShared { endpoint_id, .. } if *endpoint_id == id);
        self.peers.wait_for("that nothing is shared", |seen| seen.iter().any(said)).await;
    }

    fn resets(&self) -> usize {
        self.peers.look(resets)
    }

    fn standing(&self) -> Option<ConnectionState> {
        self.args.board.lock().standing.as_ref().map(|standing| standing.state)
    }

    async fn health(&self) -> String {
        let actor = can_sync::testing::actor::ServiceRef::fixed(self.actor.clone());
        let answer = actor.call(|reply| PeerMsg::GetHealth { reply }, Duration::from_secs(1)).await;
        answer.expect("it answers").detail.expect("it says something")
    }

    async fn ends_in_order(mut self) {
        timeout(DEADLINE, &mut self.ends).await.expect("it ends").expect("in order");
        assert!(self.connection.close_reason().is_some());
    }

    /// Stores an asset on the actor's side, and has its index follow.
    async fn ingest(&self, content: &[u8]) -> ContentHash {
        let hash = embedded::upload(&self.store, content, IngestFields::default()).await.asset.record.hash;
        let feed = read_feed(&self.store, 0, 1000).await;
        let last = feed.last().map_or(0, |entry| entry.seq);
        self.args.replica.libraries.mirror().apply(feed);
        self.args.replica.libraries.mirror().set_store_status(self.store.status().await.expect("its status"));
        self.args.replica.libraries.mirror().set_cursor(last);
        hash
    }

    /// Asks how the actor's side stands.
    async fn ping(&self, session: &mut Established) -> Pong {
        let libraries = vec![establish::summary_to_wire(&session.shared[0].blinded, &self.library.summary())];
        let question = frame::Kind::Ping(Ping { nonce: 99, libraries, ..Ping::default() });
        wire::write_frame(&mut session.send, question).await.expect("it is taken");
        pick(session, |kind| match kind {
            frame::Kind::Pong(pong) if pong.nonce == 99 => Some(pong),
            _ => None,
        })
        .await
    }

    /// Answers a request as an honest peer does.
    async fn send_content(&self, request: u64, contents: &[(&AssetRecord, &[u8])]) {
        self.send_all_on(&self.connection, request, contents).await;
    }

    /// As [`Self::send_content`], on another connection.
    async fn send_all_on(&self, connection: &Connection, request: u64, contents: &[(&AssetRecord, &[u8])]) {
        let mut stream = connection.open_uni().await.expect("a stream");
        for (record, content) in contents {
            // Taken or not: that is for the test to see elsewhere.
            let _ = stream.write_chunk(wire::encode(&header(request, record))).await;
            let _ = stream.write_all(content).await;
        }
        let _ = stream.finish();
        let _ = timeout(DEADLINE, stream.stopped()).await.expect("an end");
    }

    async fn send_raw(&self, header: &ContentHeader, content: &[u8]) {
        let mut stream = self.connection.open_uni().await.expect("a stream");
        let _ = stream.write_chunk(wire::encode(header)).await;
        let _ = stream.write_all(content).await;
        let _ = stream.finish();
        let _ = timeout(DEADLINE, stream.stopped()).await.expect("an end");
    }

    /// Every result that was told, in order.
    fn finished(&self) -> Results {
        self.peers.look(|seen| seen.iter().flat_map(results).cloned().collect())
    }

    async fn wait_finished(&mut self, count: usize) {
        let counted = |seen: &[PeersMsg]| seen.iter().flat_map(results).count() == count;
        self.peers.wait_for("results", counted).await;
    }
}

fn introduction(name: &str, ticket: &str) -> Introduction {
    let ticket = watch::Sender::new(ticket.to_owned()).subscribe();
    Introduction { name: name.to_owned(), ticket, clock: Clock::system(), boot_id: 1 }
}

fn hello(version: u32) -> frame::Kind {
    frame::Kind::Hello(Hello { version, nonce: vec![7; 32].into() })
}

fn find(hashes: &[ContentHash]) -> frame::Kind {
    let hashes = hashes.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect();
    frame::Kind::Find(Find { hashes, ..Find::default() })
}

fn header(request: u64, record: &AssetRecord) -> ContentHeader {
    let (hash, size) = (record.hash.0.to_vec().into(), record.size);
    ContentHeader { request, hash, offset: 0, length: size, total: size, ..ContentHeader::default() }
}

fn want_of(request: u64, hashes: Vec<ContentHash>) -> frame::Kind {
    let one = |hash: ContentHash| ContentRequest {
        hash: hash.0.to_vec().into(),
        offset: 0,
        length: 0,
        proved: false,
    };
    frame::Kind::Want(Want { request, contents: hashes.into_iter().map(one).collect() })
}

/// A change of the actor's store: an asset of `n` bytes.
fn changed(n: usize) -> PeerMsg {
    let record = record_of(&noise(n, n as u64));
    let entry = FeedEntry { seq: n as u64, record, holding: Holding::Held, formers: Vec::new() };
    PeerMsg::StoreChanged { entries: [entry].into(), contents: Arc::default() }
}

/// Reads frames until `pick` picks one.
async fn pick<T>(session: &mut Established, pick: impl Fn(frame::Kind) -> Option<T>) -> T {
    loop {
        let kind = timeout(DEADLINE, wire::read_frame(&mut session.receive)).await.expect("a frame in time");
        if let Some(found) = pick(kind.expect("a frame")) {
            return found;
        }
    }
}

async fn want(session: &mut Established) -> Want {
    pick(session, |kind| match kind {
        frame::Kind::Want(want) => Some(want),
        _ => None,
    })
    .await
}

async fn offer(session: &mut Established) -> Offer {
    pick(session, |kind| match kind {
        frame::Kind::Offer(offer) => Some(offer),
        _ => None,
    })
    .await
}

async fn have(session: &mut Established) -> Have {
    pick(session, |kind| match kind {
        frame::Kind::Have(have) => Some(have),
        _ => None,
    })
    .await
}

fn resets(seen: &[PeersMsg]) -> usize {
    seen.iter().filter(|message| matches!(message, PeersMsg::SessionReset { session: SESSION })).count()
}

/// Everything that was announced, in order.
fn wanted(seen: &[PeersMsg]) -> Vec<AssetRecord> {
    let records = |message: &PeersMsg| match message {
        PeersMsg::Wanted { session: SESSION, library: None, records } => records.clone(),
        _ => Vec::new(),
    };
    seen.iter().flat_map(records).collect()
}

fn results(message: &PeersMsg) -> &[(WantKey, Result<(), FetchFailure>)] {
    match message {
        PeersMsg::Finished { session: SESSION, results } => results,
        _ => &[],
    }
}
