//! Contents on connections of their own: how they come about, and what is left when they do not, or break.

use can_sync::testing::net::SESSION_ALPN;
use can_sync::testing::net::auth::BulkSecret;
use can_sync::testing::net::bulk::{BulkOutgoing, BulkSessions};
use can_sync::testing::net::handshakes::{RemoteNet, SharedHandshakes};

use super::*;
use crate::support::bulk;
use crate::support::peers::addr_of;

/// Lets in whatever connects to the actor's endpoint for a bulk connection, as PeersActor does.
fn let_in(near: &Remote, sessions: &BulkSessions) -> JoinHandle<()> {
    let (endpoint, sessions, handshakes) = (near.0.clone(), sessions.clone(), SharedHandshakes::new(16));
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            let Ok(pending) = handshakes.begin(RemoteNet::Other, true) else { continue };
            let (sessions, own_id) = (sessions.clone(), endpoint.id());
            tokio::spawn(async move { sessions.accept(connection, own_id, pending).await });
        }
    })
}

fn secret(session: &Established) -> BulkSecret {
    BulkSecret::new(&session.transcript, session.role)
}

/// Has the actor ask for one asset; the number of its request.
async fn asked(t: &Test, session: &mut Established, request: u64, record: &AssetRecord) -> Want {
    t.tell(PeerMsg::Fetch { request, library: None, records: vec![record.clone()] });
    want(session).await
}

async fn stream_of(connection: &Connection) -> RecvStream {
    timeout(DEADLINE, connection.accept_uni()).await.expect("a stream in time").expect("a stream")
}

/// Everything of a stream behind its header.
async fn rest_of(mut stream: RecvStream) -> Vec<u8> {
    timeout(DEADLINE, stream.read_to_end(64 << 20)).await.expect("an end").expect("all of it")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_comes_on_the_connection_that_the_peer_opens() {
    for (dials, opens) in [(false, false), (true, true)] {
        let mut t = Test::start(Setup { dials, opens, ..Setup::default() }).await;
        let _accepting = let_in(&t.near, &t.args.bulk);
        let mut session = if opens { t.answer().await } else { t.open().await };
        assert!(session.takes_bulk, "it says so");
        t.up(1).await;
        let content = noise(300_000, 1);
        let record = record_of(&content);
        let request = asked(&t, &mut session, 1, &record).await.request;
        let connection = bulk::open(&t.remote.0, addr_of(&t.near.0), &secret(&session)).await;
        t.send_all_on(&connection, request, &[(&record, &content)]).await;
        t.wait_finished(1).await;
        assert_eq!(t.finished()[0].1, Ok(()));
        assert_eq!(read(&t.store, record.hash, 0, None).await.unwrap(), content);
        assert!(t.args.window.has_bulk());
        // It ends with its session.
        t.actor.stop(None);
        assert_closed(&connection, close::SHUTDOWN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_with_its_connection_is_asked_for_again_and_what_had_come_counts() {
    let mut t = Test::start(Setup::default()).await;
    let _accepting = let_in(&t.near, &t.args.bulk);
    let mut session = t.open().await;
    t.up(1).await;
    let connection = bulk::open(&t.remote.0, addr_of(&t.near.0), &secret(&session)).await;
    // One part of which half has come, one asset that has begun, and one of which nothing is seen.
    let (large, begun, unbegun) = (noise(9_000_000, 1), noise(200_000, 2), noise(200_000, 3));
    let [large_record, begun_record, unbegun_record] =
        [&large, &begun, &unbegun].map(|bytes| record_of(bytes));
    let key = WantKey::new(None, &large_record);
    t.tell(PeerMsg::FetchPart { request: 1, key, range: 0..8_388_608, root: None });
    let part = want(&mut session).await;
    asked(&t, &mut session, 2, &begun_record).await;
    asked(&t, &mut session, 3, &unbegun_record).await;
    let mut streams = Vec::new();
    for (request, record, length, content) in [
        (part.request, &large_record, 8_388_608, &large[..4 << 20]),
        (2, &begun_record, 200_000, &begun[..50_000]),
    ] {
        let mut stream = connection.open_uni().await.unwrap();
        let header = ContentHeader { length, ..header(request, record) };
        stream.write_chunk(wire::encode(&header)).await.unwrap();
        stream.write_all(content).await.unwrap();
        streams.push(stream);
    }
    eventually("what was sent has come", async || {
        let came = t.args.traffic.received.load(Ordering::Relaxed);
        (came == (4 << 20) + 50_000).then_some(()).ok_or_else(|| came.to_string())
    })
    .await;
    connection.close(7_u32.into(), b"gone");
    let cancelled = pick(&mut session, |kind| match kind {
        frame::Kind::Cancel(Cancel { request }) => Some(request),
        _ => None,
    })
    .await;
    assert_eq!(cancelled, 3, "what had begun ends with its stream");
    t.wait_finished(2).await;
    let interrupted = |result: &Result<(), FetchFailure>| matches!(result, Err(FetchFailure::Interrupted(_)));
    assert!(t.finished().iter().all(|(_, result)| interrupted(result)), "{:?}", t.finished());
    let part_told = |m: &PeersMsg| match m {
        PeersMsg::PartFinished { result, .. } => Some(result.clone()),
        _ => None,
    };
    t.peers.wait_for("the part", |seen| seen.iter().any(|m| part_told(m).is_some())).await;
    let told: Vec<_> = t.peers.look(|seen| seen.iter().filter_map(part_told).collect());
    assert!(told.len() == 1 && told.iter().all(interrupted), "{told:?}");
    assert!(t.connection.close_reason().is_none(), "the session goes on");

    // What came is not asked for again, and the rest comes over the session's connection.
    t.tell(PeerMsg::FetchPart { request: 4, key, range: 0..8_388_608, root: None });
    let rest = want(&mut session).await;
    let here = rest.contents[0].offset;
    assert!(here >= 4 << 20, "{here} of {} bytes count", 4 << 20);
    assert_eq!(here + rest.contents[0].length, 8_388_608);
    let again = asked(&t, &mut session, 5, &begun_record).await.request;
    t.send_content(again, &[(&begun_record, &begun)]).await;
    t.wait_finished(3).await;
    assert_eq!(t.finished()[2].1, Ok(()));
    assert!(!t.args.window.has_bulk());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_bulk_connection_behind_and_the_next_session_has_its_own() {
    let scripted = ScriptedStore::new();
    let mut t = Test::start(Setup { store: Some(scripted.as_ref()), ..Setup::default() }).await;
    let _accepting = let_in(&t.near, &t.args.bulk);
    let mut session = t.open().await;
    t.up(1).await;
    let (to, former) = (addr_of(&t.near.0), secret(&session));
    let connection = bulk::open(&t.remote.0, to.clone(), &former).await;
    eventually("it is taken over", async || t.args.window.has_bulk().then_some(()).ok_or_else(String::new))
        .await;
    scripted.set_mood(Mood::Panicking);
    let library = session.shared[0].blinded.clone();
    let records = vec![WireRecord::from(&record_of(b"x"))];
    let offer = frame::Kind::Offer(Offer { library, records, ..Offer::default() });
    wire::write_frame(&mut session.send, offer).await.unwrap();
    timeout(DEADLINE, &mut t.ends).await.expect("it fails").unwrap();
    assert_closed(&connection, close::SHUTDOWN).await;
    assert!(!t.args.window.has_bulk());
    scripted.set_mood(Mood::Well);

    // Between two sessions there is none, and what proves the former one proves nothing in the next.
    let early = bulk::dial(&t.remote.0, to.clone()).await;
    assert_closed(&early, close::NOT_SHARED).await;
    t.again().await;
    let session = t.answer().await;
    t.up(2).await;
    let late = bulk::dial(&t.remote.0, to.clone()).await;
    assert_eq!(bulk::show(&late, &bulk::proof(&t.remote.0, &late, &former)).await, None);
    assert_closed(&late, close::NOT_SHARED).await;
    bulk::open(&t.remote.0, to, &secret(&session)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actor_opens_one_for_what_it_sends_and_closes_it_with_the_session() {
    let mut t = Test::start(Setup::default()).await;
    let content = noise(3_000_000, 1);
    let (large, small) = (t.ingest(&content).await, t.ingest(&noise(50_000, 2)).await);
    let mut session = t.open().await;
    t.up(1).await;
    // A small content is not worth it.
    wire::write_frame(&mut session.send, want_of(1, vec![small])).await.unwrap();
    let mut stream = stream_of(&t.connection).await;
    assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().request, 1);
    wire::write_frame(&mut session.send, want_of(2, vec![large])).await.unwrap();
    let connection = t.remote.accept().await;
    bulk::answer(&t.remote.0, &connection, &secret(&session)).await;
    let mut stream = stream_of(&connection).await;
    assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().request, 2);
    assert_eq!(rest_of(stream).await, content);
    // Now that it is there, it serves for small ones as well.
    wire::write_frame(&mut session.send, want_of(3, vec![small])).await.unwrap();
    let mut stream = stream_of(&connection).await;
    assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().request, 3);
    // The control stream ends, and its bulk connection with it.
    session.send.finish().unwrap();
    assert_closed(&connection, close::SHUTDOWN).await;
    assert!(t.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_go_over_the_sessions_connection_where_no_other_comes_about() {
    // The peer does not know the ALPN; does not answer; proves something else; closes it at once.
    for what in ["refuses", "is silent", "lies", "closes"] {
        let mut t = Test::start(Setup::default()).await;
        let content = noise(300_000, 1);
        let hash = t.ingest(&content).await;
        let mut session = t.open().await;
        t.up(1).await;
        if what == "refuses" {
            t.remote.0.set_alpns(vec![SESSION_ALPN.to_vec()]);
        }
        let endpoint = t.remote.0.clone();
        let other_end = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(incoming) = endpoint.accept().await {
                let Ok(connection) = incoming.await else { continue };
                if what == "lies"
                    && let Ok((mut send, _)) = connection.accept_bi().await
                {
                    let _ = send.write_all(&[7; 32]).await;
                    let _ = send.finish();
                }
                if what == "closes" {
                    connection.close(0_u32.into(), b"no");
                }
                kept.push(connection);
            }
        });
        for request in 0..3 {
            wire::write_frame(&mut session.send, want_of(request, vec![hash])).await.unwrap();
            let mut stream = stream_of(&t.connection).await;
            assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().request, request, "{what}");
            assert_eq!(rest_of(stream).await, content, "{what}");
        }
        assert!(t.connection.close_reason().is_none(), "{what}");
        other_end.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_breaks_while_it_sends_is_opened_again() {
    let mut t = Test::start(Setup::default()).await;
    let content = noise(3_000_000, 1);
    let hash = t.ingest(&content).await;
    let mut session = t.open().await;
    t.up(1).await;
    wire::write_frame(&mut session.send, want_of(1, vec![hash])).await.unwrap();
    let first = t.remote.accept().await;
    bulk::answer(&t.remote.0, &first, &secret(&session)).await;
    let mut stream = stream_of(&first).await;
    wire::read_header(&mut stream).await.unwrap();
    first.close(7_u32.into(), b"gone");
    // What broke off is served once more. Between two attempts the session's connection serves; afterwards there is another one.
    let (mut request, mut by_session) = (1, 0);
    let endpoint = t.remote.0.clone();
    let mut second = tokio::spawn(async move { Remote(endpoint).accept().await });
    let second = loop {
        if request > 1 {
            wire::write_frame(&mut session.send, want_of(request, vec![hash])).await.unwrap();
        }
        tokio::select! {
            second = &mut second => break second.unwrap(),
            mut stream = stream_of(&t.connection) => {
                assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().request, request);
                assert_eq!(rest_of(stream).await, content);
                (request, by_session) = (request + 1, by_session + 1);
            }
        }
    };
    bulk::answer(&t.remote.0, &second, &secret(&session)).await;
    let mut stream = stream_of(&second).await;
    assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().request, request);
    assert_eq!(rest_of(stream).await, content);
    println!("{by_session} went over the session's connection meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_small_does_not_wait_behind_what_is_large() {
    let mut t = Test::start(Setup::default()).await;
    let small = t.ingest(&noise(2_000, 1)).await;
    let large = t.ingest(&noise(30_000_000, 2)).await;
    let mut session = t.open().await;
    t.up(1).await;
    for request in 1..=4 {
        wire::write_frame(&mut session.send, want_of(request, vec![large])).await.unwrap();
    }
    let connection = t.remote.accept().await;
    bulk::answer(&t.remote.0, &connection, &secret(&session)).await;
    // The first large one goes, as far as somebody takes it, and the others wait for their turns.
    let mut first = stream_of(&connection).await;
    assert_eq!(wire::read_header(&mut first).await.unwrap().unwrap().request, 1);
    wire::write_frame(&mut session.send, want_of(5, vec![small])).await.unwrap();
    let mut next = stream_of(&connection).await;
    assert_eq!(wire::read_header(&mut next).await.unwrap().unwrap().request, 5);
    assert_eq!(rest_of(next).await, noise(2_000, 1));
    // They come in the order in which they were asked for.
    assert_eq!(rest_of(first).await.len(), 30_000_000);
    for request in 2..=4 {
        let mut stream = stream_of(&connection).await;
        assert_eq!(wire::read_header(&mut stream).await.unwrap().unwrap().request, request);
        assert_eq!(rest_of(stream).await.len(), 30_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_closed_half_a_minute_after_the_last_byte_was_sent_not_written() {
    let mut t = Test::start(Setup::default()).await;
    let session = t.open().await;
    t.up(1).await;
    let near = BulkSecret::new(&session.transcript, session.role.other());
    let outgoing = BulkOutgoing::new(t.near.0.clone(), t.args.connection.clone(), Some(near));
    let carrier = outgoing.carrier();
    let opening = tokio::spawn(async move { carrier.carry(true).await });
    let connection = t.remote.accept().await;
    bulk::answer(&t.remote.0, &connection, &secret(&session)).await;
    let carrying = opening.await.unwrap();
    let mut stream = carrying.connection().open_uni().await.unwrap();
    stream.write_all(&noise(1_000_000, 1)).await.unwrap();
    stream.finish().unwrap();
    let (begin, minute) = (tokio::time::Instant::now(), Duration::from_mins(1));
    outgoing.look(begin + minute);
    assert!(outgoing.is_open(), "something is being written");
    drop(carrying);
    assert_eq!(rest_of(stream_of(&connection).await).await.len(), 1_000_000);
    stream.stopped().await.unwrap();
    outgoing.look(begin + 2 * minute);
    assert!(outgoing.is_open(), "something was sent since it was looked at");
    outgoing.look(begin + 3 * minute);
    assert!(!outgoing.is_open());
    assert_closed(&connection, close::SHUTDOWN).await;
}
