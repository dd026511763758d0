//! What each class of peers has of places, of the roster, and of memory.

use std::net::SocketAddr;
use std::time::Duration;

use can_sync::testing::actor::ServiceRef;
use can_sync::testing::discovery::address_book::RememberedPeer;
use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::hints::Hints;
use can_sync::testing::net::{SESSION_ALPN, close};
use can_sync::testing::peer::messages::PeersMsg;
use iroh::endpoint::Connection;
use iroh::{EndpointAddr, SecretKey};
use tokio::time::timeout;

use crate::support::nodes::{DEADLINE, eventually};
use crate::support::peers::{PeersRig, Remote, addr_of, assert_closed};

/// Many ids with one ticket take the places of nobody who has another one, or knows the passphrase.
#[tokio::test(flavor = "multi_thread")]
async fn members_with_one_ticket_leave_places_to_others() {
    let rig = PeersRig::start().await;
    let mut members = Vec::new();
    for n in 0..8 {
        let remote = Remote::bind().await;
        let connection = remote.dial(rig.endpoint()).await;
        let (session, _) = rig.stage.started(remote.id(), 0).await;
        rig.up_as_member(session, 1);
        if n >= 4 {
            let reason = assert_closed(&connection, close::BUSY).await;
            assert!(reason.to_string().contains("same ticket"), "{reason}");
        }
        members.push((remote, connection));
    }
    assert!(members[..4].iter().all(|(_, connection)| connection.close_reason().is_none()), "they stay");
    let another = Remote::bind().await;
    let connection = another.dial(rig.endpoint()).await;
    let (session, _) = rig.stage.started(another.id(), 0).await;
    rig.up_as_member(session, 2);
    let own_device = Remote::bind().await;
    let (_, own) = rig.session(&own_device).await;
    rig.wait_for_report("both", |report| report.peers.len() == 6).await;
    assert!(connection.close_reason().is_none() && own.close_reason().is_none());
    // A user that names one of them knows better.
    let (refused, _) = &members[7];
    rig.dial(refused.addr()).await.unwrap();
    let connection = refused.accept().await;
    let (session, _) = rig.stage.started(refused.id(), 1).await;
    rig.up_as_member(session, 1);
    rig.wait_for_report("the named one", |report| report.peers.len() == 7).await;
    assert!(connection.close_reason().is_none());
}

/// A hint at somebody who does not exist.
fn put_fake(hints: &Hints, n: usize, nowhere: SocketAddr, service: &ServiceRef<PeersMsg>) {
    let channels = [Channel::Mdns, Channel::Relays, Channel::Dht, Channel::Gossip];
    let addr = EndpointAddr::new(SecretKey::generate().public()).with_ip_addr(nowhere);
    if hints.put(addr, channels[n % channels.len()]) {
        let _ = service.cast(PeersMsg::HintsWaiting);
    }
}

/// What anybody can say must not keep those out of whom this node knows, however much of it there is.
#[tokio::test(flavor = "multi_thread")]
async fn fakes_by_the_thousand_keep_nobody_waiting() {
    let (named, met, configured) = tokio::join!(Remote::bind(), Remote::bind(), Remote::bind());
    let entry =
        RememberedPeer { addr: met.addr(), name: "met".into(), last_seen_ms: Some(9), mirror: Some(true) };
    let hints = Hints::default();
    let fakes = hints.clone();
    let rig = PeersRig::start_with(SecretKey::generate(), |args| {
        args.discovery.hints = fakes;
        args.first.bootstrap = vec![configured.addr()];
        args.first.book.remember(&entry).unwrap();
    })
    .await;
    // A port where nobody answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nowhere = silent.local_addr().unwrap();
    // So many that all that there may be are known, before the store is read and anybody is dialled.
    eventually("a roster full of fakes", async || {
        for n in 0..256 {
            put_fake(&hints, n, nowhere, &rig.service);
        }
        let known = rig.health().await;
        if known >= 1_500 { Ok(()) } else { Err(format!("{known} known")) }
    })
    .await;
    let service = rig.service.clone();
    let flood = tokio::spawn(async move {
        for n in 0.. {
            put_fake(&hints, n, nowhere, &service);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    rig.args.replica.libraries.set_cursor(0);
    rig.dial(named.addr()).await.unwrap();
    // After all the fakes, it would be many times as long.
    let within = Duration::from_mins(1);
    let accepted = async { tokio::join!(named.accept(), met.accept(), configured.accept()) };
    let _connections = timeout(within, accepted).await.expect("all three are dialled before the fakes");
    // PeersActor answers all the time.
    for _ in 0..20 {
        rig.health().await;
        put_fake(&rig.args.discovery.hints, 0, nowhere, &rig.service);
    }
    flood.abort();
}

/// How many bytes the other side takes that nobody reads there.
async fn taken_unread(connection: &Connection) -> usize {
    const NOTHING_MORE_AFTER: Duration = Duration::from_secs(2);
    let mut taken = 0;
    for _ in 0..2 {
        let Ok(Ok((mut stream, _))) = timeout(NOTHING_MORE_AFTER, connection.open_bi()).await else { break };
        while let Ok(written) = timeout(NOTHING_MORE_AFTER, stream.write(&[7; 1 << 14])).await {
            taken += written.expect("the stream lives");
        }
    }
    taken
}

/// What comes is kept until it is read, so all connections together may not have more than a sum on its way.
#[tokio::test(flavor = "multi_thread")]
async fn the_more_there_are_the_less_each_may_have_on_its_way() {
    let rig = PeersRig::start().await;
    let first = Remote::bind().await;
    let (_, alone) = rig.session(&first).await;
    let taken = taken_unread(&alone).await;
    assert!(taken >= 2 << 20, "{taken} bytes by one that is alone, whose two streams have a window each");
    let mut others = Vec::new();
    for _ in 0..33 {
        let remote = Remote::bind().await;
        let connection = rig.session(&remote).await.1;
        others.push((remote, connection));
    }
    rig.wait_for_report("all of them", |report| report.peers.len() == 34).await;
    let each = others.iter().map(|(_, connection)| taken_unread(connection));
    let all = futures::future::join_all(each).await;
    // A part of 64 MiB among 64, and what it might have before it proved itself. What the first ones were promised stays promised.
    let last = all.last().expect("one");
    assert!(*last <= (1 << 20) + (64 << 10), "{last} bytes by the last one");
    let member = Remote::bind().await;
    let connection = member.dial(rig.endpoint()).await;
    let (session, _) = rig.stage.started(member.id(), 0).await;
    rig.up_as_member(session, 1);
    rig.wait_for_report("the member", |report| report.peers.len() == 35).await;
    assert!(
        taken_unread(&connection).await > 1 << 20,
        "members have a sum of their own, and there is one of them"
    );
}

/// Nobody answers any more.
const NOBODY_ANSWERS_AFTER: Duration = Duration::from_secs(2);

/// Whether somebody's connection is answered within this time.
async fn is_answered(remote: &Remote, rig: &PeersRig, within: Duration) -> Option<Connection> {
    let connecting = Box::pin(remote.0.connect(addr_of(rig.endpoint()), SESSION_ALPN));
    timeout(within, connecting).await.ok()?.ok()
}

/// Places for handshakes are given by where a connection comes from, and half of them are for where own devices were.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_from_one_place_are_few_and_own_devices_have_theirs() {
    let met = Remote::bind().await;
    let entry =
        RememberedPeer { addr: met.addr(), name: "met".into(), last_seen_ms: Some(9), mirror: Some(true) };
    // The store is not read yet, so that everybody keeps the place of a handshake.
    let rig = PeersRig::start_with(SecretKey::generate(), |args| {
        args.limits.session.establish = DEADLINE;
        args.first.book.remember(&entry).unwrap();
    })
    .await;
    let mut open = Vec::new();
    for n in 0..5 {
        let stranger = Remote::bind().await;
        // From the third on, they are asked to show that they are where they say.
        let few = if n < 4 { 4 } else { 0 };
        for _ in 0..few {
            let answered = is_answered(&stranger, &rig, DEADLINE).await;
            open.push(answered.expect("one of the first four from there"));
        }
        if n == 0 || n == 4 {
            let answered = is_answered(&stranger, &rig, NOBODY_ANSWERS_AFTER).await;
            assert!(answered.is_none(), "one too many, the {n}th");
        }
    }
    eventually("an own device's place", async || {
        let answered = is_answered(&met, &rig, Duration::from_secs(20)).await;
        answered.map(|connection| open.push(connection)).ok_or_else(|| "not yet".into())
    })
    .await;
    assert_eq!(open.len(), 17);
}
