//! Bulk connections that belong to nothing, prove the wrong thing, or are misused by a member.

use std::time::Duration;

use can_sync::testing::net::auth::{BulkSecret, Role};
use can_sync::testing::net::close;
use can_sync::testing::record::ContentHash;
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{ContentRequest, Want, frame};
use iroh::endpoint::Connection;
use serde_json::json;
use tokio::time::timeout;

use crate::libraries::{Share, edit};
use crate::support::bulk;
use crate::support::hostile::{Arena, Attacker, Session, closed, hash_of, header, record};
use crate::support::library_member::Member;
use crate::support::nodes::{DEADLINE, TestNode, eventually};
use crate::support::store::noise;

/// Streams of a kind that the victim lets a member open at once, by default.
const STREAMS: usize = 32;

fn secret(session: &Session) -> BulkSecret {
    BulkSecret::new(&session.established.transcript, session.established.role)
}

/// The victim's answer to what is shown on a fresh connection: nothing, and an end with this code.
async fn is_refused(
    attacker: &Attacker,
    arena: &Arena,
    proof: impl AsyncFnOnce(&Connection) -> Vec<u8>,
    code: u32,
) {
    let connection = bulk::dial(&attacker.endpoint, arena.addr()).await;
    let shown = proof(&connection).await;
    assert_eq!(bulk::show(&connection, &shown).await, None);
    let (said, reason) = closed(&connection).await;
    assert_eq!(said, code, "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_there_is_no_bulk_connection() {
    let mut arena = Arena::new().await;
    let (victim, stranger) = (arena.addr(), Attacker::member(&arena).await);
    let attack = async {
        // Hundreds, that say nothing: each is told at once, and none is kept.
        let mut open = Vec::new();
        for _ in 0..100 {
            open.push(bulk::dial(&stranger.endpoint, victim.clone()).await);
        }
        for connection in open {
            assert_eq!(closed(&connection).await.0, close::NOT_SHARED);
        }
    };
    arena.survives("bulk connections of a stranger", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_proof_is_refused_and_the_session_goes_on() {
    let arena = Arena::new().await;
    for what in
        ["noise", "another direction", "as the victim", "of a former session", "of another connection"]
    {
        let attacker = Attacker::member(&arena).await;
        let former = attacker.session().await;
        let old = secret(&former);
        former.connection.close(0_u32.into(), b"again");
        let mut session = attacker.session().await;
        let own = secret(&session);
        let endpoint = &attacker.endpoint;
        let elsewhere = bulk::dial(endpoint, arena.addr()).await;
        let made = async |connection: &Connection| {
            match what {
                "noise" => rand::random::<[u8; 32]>(),
                "another direction" => {
                    bulk::proof_of(endpoint, connection, &own, own.role().other(), own.role())
                }
                "as the victim" => bulk::proof_of(endpoint, connection, &own, own.role(), own.role().other()),
                "of a former session" => bulk::proof(endpoint, connection, &old),
                _ => bulk::proof(endpoint, &elsewhere, &own),
            }
            .to_vec()
        };
        is_refused(&attacker, &arena, made, close::NOT_SHARED).await;
        // After three guesses, it is not heard for a while, not even with the right one.
        for _ in 0..2 {
            let guess = async |_: &Connection| rand::random::<[u8; 32]>().to_vec();
            is_refused(&attacker, &arena, guess, close::NOT_SHARED).await;
        }
        let right = async |connection: &Connection| bulk::proof(endpoint, connection, &own).to_vec();
        is_refused(&attacker, &arena, right, close::NOT_SHARED).await;
        // The session has nothing of it.
        let hash = ContentHash(rand::random());
        session.offer(vec![record(hash, 1_000)]).await;
        session.wanted().await;
        assert!(session.connection.close_reason().is_none(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_cannot_use_a_members_proof() {
    let arena = Arena::new().await;
    let (member, thief) = (Attacker::member(&arena).await, Attacker::member(&arena).await);
    let session = member.session().await;
    let _own = thief.session().await;
    let stolen = secret(&session);
    let shown = async |connection: &Connection| bulk::proof(&thief.endpoint, connection, &stolen).to_vec();
    is_refused(&thief, &arena, shown, close::NOT_SHARED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_proves_nothing_in_time_is_closed() {
    let mut arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let (session, victim) = (attacker.session().await, arena.addr());
    let attack = async {
        let silent = bulk::dial(&attacker.endpoint, victim.clone()).await;
        let half = bulk::dial(&attacker.endpoint, victim.clone()).await;
        let (mut send, _receive) = half.open_bi().await.unwrap();
        send.write_all(&[1; 16]).await.unwrap();
        for connection in [silent, half] {
            assert_eq!(closed(&connection).await.0, close::TIMEOUT);
        }
        let ended = bulk::dial(&attacker.endpoint, victim.clone()).await;
        assert_eq!(bulk::show(&ended, &[1; 16]).await, None);
        assert_eq!(closed(&ended).await.0, close::VIOLATION);
        assert!(session.connection.close_reason().is_none());
    };
    arena.survives("bulk connections that never speak", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_takes_the_place_of_the_first_and_there_is_an_end_to_that() {
    let mut arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let (session, victim) = (attacker.session().await, arena.addr());
    let own = secret(&session);
    let attack = async {
        let mut last = bulk::open(&attacker.endpoint, victim.clone(), &own).await;
        for _ in 1..8 {
            let next = bulk::open(&attacker.endpoint, victim.clone(), &own).await;
            assert_eq!(closed(&last).await.0, close::DUPLICATE);
            last = next;
        }
        let ninth = bulk::dial(&attacker.endpoint, victim.clone()).await;
        assert_eq!(bulk::show(&ninth, &bulk::proof(&attacker.endpoint, &ninth, &own)).await, None);
        assert_eq!(closed(&ninth).await.0, close::BUSY);
        assert!(last.close_reason().is_none(), "the last one stays");
        assert!(session.connection.close_reason().is_none());
        session.connection.close(0_u32.into(), b"bye");
        assert_eq!(closed(&last).await.0, close::SHUTDOWN, "it ends with its session");
    };
    arena.survives("one bulk connection after the other", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_so_many_streams_and_no_more() {
    let mut arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let (session, victim) = (attacker.session().await, arena.addr());
    let own = secret(&session);
    let attack = async {
        let connection = bulk::open(&attacker.endpoint, victim, &own).await;
        // Of either kind, each with the beginning of a header that never ends.
        let mut kept = Vec::new();
        while kept.len() < 10_000 {
            let opened = timeout(Duration::from_secs(2), connection.open_uni()).await;
            let Ok(Ok(mut stream)) = opened else { break };
            let _ = timeout(Duration::from_secs(1), stream.write_all(&[0, 0, 0, 70, 8])).await;
            kept.push(stream);
        }
        let unidirectional = kept.len();
        assert!((1..=STREAMS).contains(&unidirectional), "{unidirectional} streams");
        let mut others = Vec::new();
        while others.len() < 10_000 {
            let Ok(Ok((mut send, receive))) = timeout(Duration::from_secs(1), connection.open_bi()).await
            else {
                break;
            };
            let _ = timeout(Duration::from_secs(1), send.write_all(&[7; 4096])).await;
            others.push((send, receive));
        }
        assert!(others.len() <= 2, "{} bidirectional streams", others.len());
        assert!(session.connection.close_reason().is_none());
    };
    arena.survives("10,000 streams", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_brings_nothing_that_nobody_asked_for() {
    let mut arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let (mut session, victim) = (attacker.session().await, arena.addr());
    let own = secret(&session);
    let attack = async {
        let connection = bulk::open(&attacker.endpoint, victim, &own).await;
        let content = vec![9; 300_000];
        let hash = hash_of(&content);
        let send = async |request: u64| {
            let mut stream = connection.open_uni().await.unwrap();
            let _ = stream.write_chunk(wire::encode(&header(request, hash, 300_000))).await;
            let _ = stream.write_all(&content).await;
            let _ = stream.finish();
            let _ = stream.stopped().await;
        };
        for request in [0, 1, u64::MAX] {
            send(request).await;
        }
        // In the place of something else.
        let wanted = ContentHash(rand::random());
        session.offer(vec![record(wanted, 400_000)]).await;
        let request = session.wanted().await.request;
        send(request).await;
        session.refused(wanted).await;
        let mut garbage = connection.open_uni().await.unwrap();
        garbage.write_all(b"\0\0\0\x08garbage!").await.unwrap();
        assert_eq!(session.closed().await.0, close::VIOLATION, "it costs the session");
        assert_eq!(closed(&connection).await.0, close::SHUTDOWN);
    };
    arena.survives("content that was not asked for, on a bulk connection", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_breaks_again_and_again_holds_nothing_up() {
    let mut arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let (mut session, victim) = (attacker.session().await, arena.addr());
    let own = secret(&session);
    let attack = async {
        let hash = ContentHash(rand::random());
        session.offer(vec![record(hash, 200_000)]).await;
        // It is asked again, but not for ever: the fifth time, it is its fault, whatever it says why.
        for reason in [close::SHUTDOWN, 0, close::BUSY, close::SHUTDOWN, close::SHUTDOWN] {
            let request = session.wanted().await.request;
            let connection = bulk::open(&attacker.endpoint, victim.clone(), &own).await;
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_chunk(wire::encode(&header(request, hash, 200_000))).await.unwrap();
            stream.write_all(&[1; 1_000]).await.unwrap();
            // Once it was seen; else the request would be one of which nothing is seen, and asked for anew all the same.
            let _ = timeout(Duration::from_millis(500), stream.stopped()).await;
            connection.close(reason.into(), b"");
        }
        let refused = session.refused(hash).await;
        assert!(!refused.is_empty());
        // Offered once more, it is asked for once more, like everything that could not be had.
        session.offer(vec![record(hash, 200_000)]).await;
        let request = session.wanted().await.request;
        let mut stream = session.content_stream().await;
        stream.write_chunk(wire::encode(&header(request, hash, 200_000))).await.unwrap();
        stream.write_all(&vec![1; 200_000]).await.unwrap();
        stream.finish().unwrap();
        session.closed_for("wrong bytes").await;
    };
    arena.survives("a bulk connection that breaks again and again", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_denied_loses_it_and_gets_no_other() {
    let arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let session = attacker.session().await;
    let connection = bulk::open(&attacker.endpoint, arena.addr(), &secret(&session)).await;
    let id = attacker.endpoint.id();
    let url = arena.victim.url(&format!("/devices/{id}/deny"));
    let answer = arena.victim.http.post(url).json(&json!({})).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    assert_eq!(closed(&connection).await.0, close::DENIED);
    assert_eq!(session.closed().await.0, close::DENIED);
    let again = bulk::dial(&attacker.endpoint, arena.addr()).await;
    assert_eq!(closed(&again).await.0, close::DENIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lets_no_bulk_connection_in_is_dialled_seldom() {
    let mut arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let mut session = attacker.session().await;
    let mine = arena.large().await;
    let endpoint = attacker.endpoint.clone();
    let dialled = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&dialled);
    let refusing = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            incoming.refuse();
        }
    });
    let attack = async {
        // Asked for and cancelled, hundreds of times, while it is dialled or not.
        for request in 0..300 {
            let one = ContentRequest {
                hash: mine.0.to_vec().into(),
                offset: 0,
                length: 0,
                ..ContentRequest::default()
            };
            session.send(frame::Kind::Want(Want { request, contents: vec![one] })).await;
            session.send(frame::Kind::Cancel(wire::proto::Cancel { request })).await;
        }
        let one = ContentRequest {
            hash: mine.0.to_vec().into(),
            offset: 0,
            length: 0,
            ..ContentRequest::default()
        };
        session.send(frame::Kind::Want(Want { request: 300, contents: vec![one] })).await;
        let served = async {
            loop {
                let mut stream = session.connection.accept_uni().await.expect("a stream");
                let Ok(Some(header)) = wire::read_header(&mut stream).await else { continue };
                if header.request == 300 {
                    return stream.read_to_end(1 << 20).await.expect("all of it").len();
                }
            }
        };
        assert_eq!(timeout(Duration::from_secs(30), served).await.expect("in time"), 200_000);
    };
    arena.survives("asking and cancelling", attack).await;
    let dialled = dialled.load(std::sync::atomic::Ordering::Relaxed);
    assert!(dialled <= 5, "it dialled {dialled} times");
    refusing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_direction_is_that_of_the_opener() {
    let arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let session = attacker.session().await;
    assert_eq!(secret(&session).role(), Role::Opener);
    let connection = bulk::open(&attacker.endpoint, arena.addr(), &secret(&session)).await;
    let peers = arena.victim.url(&format!("/peers/{}", attacker.endpoint.id()));
    eventually("it shows", async || {
        let peer = arena.victim.http.get(peers.clone()).send().await.unwrap();
        let peer: serde_json::Value = peer.json().await.unwrap();
        let peer = &peer["data"];
        let shows = peer["bulk_in"] == true && peer["bulk_out"] == false;
        shows.then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    let status = arena.victim.http.get(arena.victim.url("/status")).send().await.unwrap();
    let status: serde_json::Value = status.json().await.unwrap();
    assert_eq!(status["data"]["peers"]["connected"], 2, "it is no peer: {status}");
    drop(connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_the_library_while_it_waited_for_its_turn_is_not_served() {
    let owner = TestNode::start("owner", |_| {}).await;
    let share = Share::images(&owner).await;
    let put = async |bytes: usize, seed: u64| {
        let hash = owner.ingest(noise(bytes, seed), &[("mime_type", "image/png")]).await;
        hash.parse::<ContentHash>().expect("a hash")
    };
    let (first, second) = (put(8_000_000, 1).await, put(200_000, 2).await);
    let counts = async |assets: u64| {
        eventually("the library's assets", async || {
            let counts = share.detail(&owner).await["counts"].clone();
            (counts["assets"] == assets).then_some(()).ok_or_else(|| counts.to_string())
        })
        .await;
    };
    counts(2).await;
    let ticket = share.invite(&owner, json!({ "access": "read" })).await.ticket;
    let member = Member::new(&ticket, &owner).await;
    let mut session = member.session().await.map_err(|(_, error)| error).expect("a session");
    for (request, hash) in [(1, first), (2, second)] {
        let content = ContentRequest { hash: hash.0.to_vec().into(), ..ContentRequest::default() };
        session.send(frame::Kind::Want(Want { request, contents: vec![content] })).await;
    }
    let next = async || {
        let stream = timeout(DEADLINE, session.connection.accept_uni()).await;
        let mut stream = stream.expect("a stream in time").expect("a stream");
        (wire::read_header(&mut stream).await.expect("a header").expect("a header"), stream)
    };
    // The first one has its turn until it is read.
    let (header, mut stream) = next().await;
    assert_eq!((header.request, header.gone), (1, false));
    edit(&owner, &second.to_string(), json!({ "mime_type": "text/plain" })).await;
    counts(1).await;
    let all = timeout(DEADLINE, stream.read_to_end(8_000_001)).await.expect("in time").expect("all of it");
    assert_eq!(all.len(), 8_000_000);
    let (header, mut stream) = next().await;
    assert_eq!((header.request, header.gone), (2, true), "it is none of the library's any more");
    assert_eq!(stream.read_to_end(1 << 20).await.expect("an end").len(), 0);
}
