//! PeersActor on real connections, with PeerActors that record what they are told and fail on command.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

mod places;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::actor::status::{ASK_CHILD_LIMIT, ActorState, ActorStatus};
use can_sync::testing::discovery::address_book::RememberedPeer;
use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::gossip::GossipMsg;
use can_sync::testing::discovery::rendezvous::RendezvousMsg;
use can_sync::testing::events::NodeEvent;
use can_sync::testing::net::close;
use can_sync::testing::peer::messages::{PeerMsg, PeersMsg};
use can_sync::testing::peer::places::PlaceLimits;
use can_sync::testing::peer::report::{ConnectionState, SyncState, TransferDirection};
use can_sync::testing::peer::session::{SessionStatus, WaitingCounts};
use can_sync::testing::record::{AssetRecord, ContentHash};
use can_sync::testing::store::{FeedEntry, Holding, IncomingAsset, IncomingContent};
use can_sync::testing::transfer::schedule::{FetchFailure, SessionId, WantKey};
use iroh::{EndpointAddr, EndpointId, SecretKey};
use ractor::ActorStatus as Life;
use tokio::time::{Instant, sleep, timeout};

use crate::support::nodes::{DEADLINE, eventually};
use crate::support::peers::{Heard, PeersRig, Remote, assert_closed, told};
use crate::support::probe::Probe;
use crate::support::store::record_of;

// ---- Connections -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_dialled_peer_gets_its_actor_and_appears_in_the_report() {
    let (rig, remote) = tokio::join!(PeersRig::start(), Remote::bind());
    rig.dial(remote.addr()).await.unwrap();
    let connection = remote.accept().await;
    let (session, opens) = rig.stage.started(remote.id(), 0).await;
    assert!(opens, "the dialler opens the control stream");
    let peer = rig.peer(remote.id()).await.unwrap();
    assert_eq!((peer.state, peer.name.as_str(), peer.last_seen_ms), (ConnectionState::Connecting, "", None));
    assert_eq!(rig.report().await.connected(), 0);
    assert_eq!(rig.events(), [], "nothing proved yet");

    rig.up(session, "the other one");
    stands(&rig, session, ConnectionState::InSync, 0);
    rig.wait_for_report("in sync", |report| report.sync.state == SyncState::InSync).await;
    let peer = rig.peer(remote.id()).await.unwrap();
    assert_eq!(
        (peer.state, peer.name.as_str(), peer.path),
        (ConnectionState::InSync, "the other one", Some("direct"))
    );
    assert_eq!(peer.assets, Some(7));
    assert!(peer.last_seen_ms.is_some() && peer.last_error.is_none());
    let connected =
        NodeEvent::PeerConnected { endpoint_id: remote.id().to_string(), name: "the other one".into() };
    eventually("in sync is told", async || {
        let events = rig.events();
        let expected = [connected.clone(), NodeEvent::InSync { assets: 0 }];
        if events == expected { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    eventually("it is remembered", async || {
        let entries = rig.args.first.book.entries().unwrap();
        let known = entries.iter().find(|e| e.name == "the other one" && e.addr.addrs == remote.addr().addrs);
        known.map(drop).ok_or_else(|| format!("{entries:?}"))
    })
    .await;
    assert!(connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dials_gets_its_actor_once_the_store_was_read() {
    let rig = PeersRig::start_with(SecretKey::generate(), |_| {}).await;
    let (remote, early) = tokio::join!(Remote::bind(), Remote::bind());
    rig.dial(remote.addr()).await.unwrap();
    let _early = early.dial(rig.endpoint()).await;
    assert!(timeout(Duration::from_millis(300), rig.stage.started(early.id(), 0)).await.is_err());
    assert_eq!((rig.stage.starts(early.id()), rig.stage.starts(remote.id())), (0, 0));
    assert_eq!(rig.report().await.sync.state, SyncState::Paused);

    rig.tell(PeersMsg::StoreHealth(Some("still down".into())));
    assert_eq!(rig.report().await.sync.reason.as_deref(), Some("still down"));
    rig.args.replica.libraries.set_cursor(0);
    let _connection = remote.accept().await;
    tokio::join!(rig.stage.started(remote.id(), 0), rig.stage.started(early.id(), 0));
    rig.tell(PeersMsg::StoreHealth(None));
    assert_ne!(rig.report().await.sync.state, SyncState::Paused);

    let another = Remote::bind().await;
    let _connection = another.dial(rig.endpoint()).await;
    let (_, opens) = rig.stage.started(another.id(), 0).await;
    assert!(!opens, "the dialler opens the control stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_the_configuration_and_of_the_last_time_are_dialled_first() {
    let (named, met) = tokio::join!(Remote::bind(), Remote::bind());
    let entry = can_sync::testing::discovery::address_book::RememberedPeer {
        addr: met.addr(),
        name: "met".into(),
        last_seen_ms: Some(9),
        mirror: Some(true),
    };
    let rig = PeersRig::start_with(SecretKey::generate(), |args| {
        args.first.bootstrap = vec![named.addr()];
        args.first.book.remember(&entry).unwrap();
        // As it is when PeersActor was started again: the store was read long ago.
        args.replica.libraries.set_cursor(0);
    })
    .await;
    let (_named, _met) = tokio::join!(named.accept(), met.accept());
    rig.stage.started(named.id(), 0).await;
    rig.stage.started(met.id(), 0).await;
    assert_eq!(rig.peer(met.id()).await.unwrap().name, "met");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_dial_is_told_and_tried_again_when_somebody_asks() {
    let rig = PeersRig::start().await;
    // Whoever is there does not speak our protocol.
    let stranger = iroh::Endpoint::builder(iroh::endpoint::presets::Minimal)
        .relay_mode(iroh::RelayMode::Disabled)
        .alpns(vec![b"another/1".to_vec()])
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap();
    let answering = stranger.clone();
    let dials = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&dials);
    tokio::spawn(async move {
        while let Some(incoming) = answering.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let _ = incoming.await;
        }
    });
    let addr = crate::support::peers::addr_of(&stranger);
    rig.dial(addr.clone()).await.unwrap();
    let failed = |state: ConnectionState| {
        let id = stranger.id().to_string();
        move |report: &can_sync::testing::peer::report::PeersReport| {
            let peer = report.peers.iter().find(|peer| peer.endpoint_id == id);
            peer.is_some_and(|peer| peer.state == state && peer.last_error.is_some())
        }
    };
    rig.wait_for_report("the failure is told", failed(ConnectionState::Waiting)).await;
    let before = dials.load(std::sync::atomic::Ordering::Relaxed);
    rig.tell(PeersMsg::DialNow);
    eventually("dialled again", async || {
        let now = dials.load(std::sync::atomic::Ordering::Relaxed);
        if now > before { Ok(()) } else { Err(format!("{now} dials")) }
    })
    .await;
    let own = EndpointAddr::new(rig.endpoint().id());
    assert_eq!(rig.dial(own).await.unwrap_err(), "that is this node itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_connections_dialled_at_once_the_smaller_ids_is_kept() {
    let mut keys = [SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32])];
    keys.sort_unstable_by_key(|key| *key.public().as_bytes());
    for under_test in [0, 1] {
        let rig =
            PeersRig::start_with(keys[under_test].clone(), |args| args.replica.libraries.set_cursor(0)).await;
        let remote = Remote::with_key(keys[1 - under_test].clone()).await;
        rig.dial(remote.addr()).await.unwrap();
        let by_rig = remote.accept().await;
        let (first, _) = rig.stage.started(remote.id(), 0).await;
        let by_remote = remote.dial(rig.endpoint()).await;
        let rig_is_smaller = under_test == 0;
        let (kept, closed) = if rig_is_smaller { (by_rig, by_remote) } else { (by_remote, by_rig) };
        assert_closed(&closed, close::DUPLICATE).await;
        assert!(kept.close_reason().is_none());
        if rig_is_smaller {
            assert_eq!(rig.stage.starts(remote.id()), 1, "no actor for what is not kept");
        } else {
            let (second, _) = rig.stage.started(remote.id(), 1).await;
            assert_ne!(first, second);
            rig.stage.wait_for("the first actor's end", |h| stopped(h, first)).await;
        }
        eventually("one actor", async || {
            let children = health(&rig).await;
            if children.len() == 1 { Ok(()) } else { Err(format!("{children:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_told_and_dialled_again() {
    let (rig, remote) = tokio::join!(PeersRig::start(), Remote::bind());
    rig.dial(remote.addr()).await.unwrap();
    let connection = remote.accept().await;
    let (session, _) = rig.stage.started(remote.id(), 0).await;
    rig.up(session, "remote");
    // News of an end overtake messages, and a session that never came about is not lost.
    eventually("up", async || {
        let up = rig.events().iter().any(|event| matches!(event, NodeEvent::PeerConnected { .. }));
        if up { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    connection.close(0_u32.into(), b"gone for a moment");
    let _again = remote.accept().await;
    let (next, opens) = rig.stage.started(remote.id(), 1).await;
    assert!(next != session && opens);
    let lost = rig.events().into_iter().find_map(|event| match event {
        NodeEvent::PeerLost { endpoint_id, reason } => Some((endpoint_id, reason)),
        _ => None,
    });
    let (id, reason) = lost.expect("it is told");
    assert_eq!(id, remote.id().to_string());
    assert!(reason.contains("gone for a moment"), "{reason}");
    assert_eq!(restarts(&rig), [], "an end in order is no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_and_so_are_those_that_prove_nothing() {
    let rig = PeersRig::start_with(SecretKey::generate(), |args| {
        args.limits.places = PlaceLimits { connections: 2, pending: 1 };
        args.replica.libraries.set_cursor(0);
    })
    .await;
    let (a, b, c) = tokio::join!(Remote::bind(), Remote::bind(), Remote::bind());
    let _a = a.dial(rig.endpoint()).await;
    let (session, _) = rig.stage.started(a.id(), 0).await;
    assert_closed(&b.dial(rig.endpoint()).await, close::BUSY).await;
    assert_eq!(rig.stage.starts(b.id()), 0, "one at a time may be unproven");
    rig.up(session, "a");
    let (b_session, _b) = rig.session(&b).await;
    // There is no place for the third once it has proved itself, and nothing is kept of it.
    let (c_session, third) = rig.session(&c).await;
    assert_closed(&third, close::BUSY).await;
    rig.stage.wait_for("its end", |heard| stopped(heard, c_session)).await;
    assert!(rig.peer(c.id()).await.is_none());
    // Room again.
    rig.stage.command(b_session, "stop");
    rig.stage.wait_for("its end", |heard| stopped(heard, b_session)).await;
    let (_, third) = rig.session(&c).await;
    rig.wait_for_report("the third", |report| report.peers.iter().any(|peer| peer.name == "remote")).await;
    assert!(third.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_to_prove_himself_three_times_is_not_heard_for_a_while() {
    let (rig, remote) = tokio::join!(PeersRig::start(), Remote::bind());
    for n in 0..3 {
        let connection = remote.dial(rig.endpoint()).await;
        let (session, _) = rig.stage.started(remote.id(), n).await;
        rig.tell(PeersMsg::NotShared { endpoint_id: remote.id(), mirror: true, failed: true });
        rig.stage.args(session).connection.close(close::NOT_SHARED.into(), b"no shared library");
        assert_closed(&connection, close::NOT_SHARED).await;
        rig.stage.wait_for("its end", |heard| stopped(heard, session)).await;
    }
    for _ in 0..3 {
        let connection = remote.dial(rig.endpoint()).await;
        assert_closed(&connection, close::NOT_SHARED).await;
    }
    assert_eq!(rig.stage.starts(remote.id()), 3, "no actor any more");
    assert!(rig.peer(remote.id()).await.is_none(), "nothing is kept of strangers");
    let honest = Remote::bind().await;
    rig.session(&honest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_we_named_and_that_does_not_know_the_passphrase_says_so_in_the_report() {
    let (rig, remote) = tokio::join!(PeersRig::start(), Remote::bind());
    rig.dial(remote.addr()).await.unwrap();
    let connection = remote.accept().await;
    rig.stage.started(remote.id(), 0).await;
    rig.tell(PeersMsg::NotShared { endpoint_id: remote.id(), mirror: true, failed: true });
    connection.close(close::NOT_SHARED.into(), b"no shared library");
    let id = remote.id().to_string();
    rig.wait_for_report("told", |report| {
        let peer = report.peers.iter().find(|peer| peer.endpoint_id == id).unwrap();
        let said = peer.last_error.as_ref().is_some_and(|error| error.contains("passphrase"));
        said && peer.state == ConnectionState::OtherPassphrase
    })
    .await;
    assert!(rig.events().is_empty(), "it never was connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_peer_is_closed_and_left_alone() {
    let (rig, remote) = tokio::join!(PeersRig::start(), Remote::bind());
    rig.dial(remote.addr()).await.unwrap();
    let connection = remote.accept().await;
    let (session, _) = rig.stage.started(remote.id(), 0).await;
    rig.up(session, "remote");
    eventually("remembered", async || {
        if rig.args.first.book.entries().unwrap().len() == 1 { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    assert!(forget(&rig, remote.id()).await);
    let reason = assert_closed(&connection, close::SHUTDOWN).await;
    assert!(reason.to_string().contains("forgotten"), "{reason}");
    rig.stage.wait_for("its end", |heard| stopped(heard, session)).await;
    assert!(rig.peer(remote.id()).await.is_none());
    eventually("forgotten", async || {
        if rig.args.first.book.entries().unwrap().is_empty() { Ok(()) } else { Err("still there".into()) }
    })
    .await;
    // A lost peer would be dialled within a second.
    assert!(timeout(Duration::from_secs(2), remote.0.accept()).await.is_err(), "it was dialled again");
    assert!(!forget(&rig, remote.id()).await, "nobody any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_forgotten_while_it_is_dialled_stays_forgotten() {
    let met = RememberedPeer {
        addr: EndpointAddr::new(SecretKey::generate().public()),
        name: "met".into(),
        last_seen_ms: None,
        mirror: Some(true),
    };
    let rig = PeersRig::start_with(SecretKey::generate(), |args| {
        args.first.book.remember(&met).unwrap();
        args.replica.libraries.set_cursor(0);
    });
    let (rig, remote) = tokio::join!(rig, Remote::bind());
    // The address book was read: nobody comes back from there later on.
    rig.wait_for_report("the one met before", |report| report.peers.len() == 1).await;
    rig.dial(remote.addr()).await.unwrap();
    let incoming = timeout(DEADLINE, remote.0.accept()).await.unwrap().unwrap();
    assert!(forget(&rig, remote.id()).await);
    let connection = incoming.await.unwrap();
    assert_closed(&connection, close::SHUTDOWN).await;
    assert!(rig.peer(remote.id()).await.is_none());
    assert_eq!(rig.stage.starts(remote.id()), 0);
}

// ---- PeerActors that fail --------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_actor_that_fails_is_started_again_on_its_connection_and_nobody_else_notices() {
    let rig = PeersRig::start().await;
    let (a, b) = tokio::join!(Remote::bind(), Remote::bind());
    let (a_session, a_connection) = rig.session(&a).await;
    let (b_session, b_connection) = rig.session(&b).await;
    let b_actor = rig.stage.actor(b_session).get_id();
    let stable_id = rig.stage.args(a_session).connection.stable_id();
    for (n, how) in ["panic", "fail", "kill"].into_iter().enumerate() {
        let gone = rig.stage.actor(a_session);
        if how == "kill" {
            gone.kill();
        } else {
            rig.stage.command(a_session, how);
        }
        let (session, opens) = rig.stage.started(a.id(), n + 1).await;
        assert_eq!((session, opens), (a_session, true), "{how}: the same session's connection, taken over");
        assert_eq!(rig.stage.args(session).connection.stable_id(), stable_id);
        assert_ne!(rig.stage.actor(session).get_id(), gone.get_id());
        rig.up(session, "a");
    }
    let reasons: Vec<(String, u32)> = restarts(&rig);
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(
        reasons[0].0.contains("planned panic") && reasons[1].0.contains("planned failure"),
        "{reasons:?}"
    );
    assert_eq!(reasons[2], ("killed".to_owned(), 3));
    let lost = rig.events().iter().any(|event| matches!(event, NodeEvent::PeerLost { .. }));
    assert!(!lost && a_connection.close_reason().is_none() && b_connection.close_reason().is_none());
    assert_eq!((rig.stage.starts(b.id()), rig.stage.actor(b_session).get_id()), (1, b_actor));
    rig.tell(changed(1));
    rig.stage.told("the news", b_session, 0, store_changed).await;
    rig.stage.told("the news", a_session, 0, store_changed).await;
    let connected = rig.events().into_iter().filter(|e| matches!(e, NodeEvent::PeerConnected { .. })).count();
    assert_eq!(connected, 2, "a session that goes on is not news");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_actor_keeps_failing_is_left_alone_and_others_go_on() {
    let rig = PeersRig::start().await;
    let (good, bad) = tokio::join!(Remote::bind(), Remote::bind());
    let (good_session, good_connection) = rig.session(&good).await;
    rig.stage.curse(bad.id());
    rig.dial(bad.addr()).await.unwrap();
    let connection = bad.accept().await;
    assert_closed(&connection, close::SHUTDOWN).await;
    assert_eq!(rig.stage.starts(bad.id()), 6, "five restarts in a minute");
    assert_eq!(restarts(&rig).len(), 5);
    let peer = rig.peer(bad.id()).await.unwrap();
    assert_eq!(peer.state, ConnectionState::BackingOff);
    let error = peer.last_error.unwrap();
    assert!(error.contains("failed more than 5 times"), "{error}");

    // Neither do we dial it, nor may it come in by itself.
    let again = bad.dial(rig.endpoint()).await;
    assert_closed(&again, close::BUSY).await;
    assert!(timeout(Duration::from_secs(2), bad.0.accept()).await.is_err(), "it was dialled");
    assert_eq!(rig.stage.starts(bad.id()), 6);
    assert_eq!((rig.stage.starts(good.id()), good_connection.close_reason()), (1, None));
    rig.tell(changed(1));
    rig.stage.told("the news", good_session, 0, store_changed).await;

    // Whoever asks for it by name overrides that; what it did is not forgotten.
    rig.dial(bad.addr()).await.unwrap();
    assert_closed(&bad.accept().await, close::SHUTDOWN).await;
    assert_eq!(rig.stage.starts(bad.id()), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_hangs_is_shown_as_such_in_time() {
    let rig = PeersRig::start().await;
    let (a, b) = tokio::join!(Remote::bind(), Remote::bind());
    let (a_session, _a) = rig.session(&a).await;
    let (_, _b) = rig.session(&b).await;
    rig.stage.command(a_session, "hang");
    let query = |reply| PeersMsg::GetHealth { reply };
    let detail =
        rig.service.call(query, ASK_CHILD_LIMIT).await.expect("an answer within the root's patience");
    assert_eq!(detail.detail.unwrap(), "2 connected, 2 known");
    let state = |id: EndpointId| {
        let label = Some(id.fmt_short().to_string());
        let child = detail.children.iter().find(|child| child.label == label).unwrap();
        (child.state, child.detail.as_deref())
    };
    assert_eq!(state(a.id()), (ActorState::Unresponsive, None));
    assert_eq!(state(b.id()), (ActorState::Running, Some("well")));
    // It holds up nobody.
    rig.dial(a.addr()).await.unwrap();
    rig.report().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_stop_ends_the_actors_and_closes_the_connections() {
    let rig = PeersRig::start().await;
    let (a, b) = tokio::join!(Remote::bind(), Remote::bind());
    let (a_session, a_connection) = rig.session(&a).await;
    let (b_session, b_connection) = rig.session(&b).await;
    rig.stage.command(b_session, "hang");
    let (actor, b_actor) = (rig.actor.clone(), rig.stage.actor(b_session));
    actor.stop(Some("the test is over".into()));
    timeout(DEADLINE, rig.ends).await.expect("it ends, whatever hangs").unwrap();
    assert_closed(&a_connection, close::SHUTDOWN).await;
    assert_closed(&b_connection, close::SHUTDOWN).await;
    assert!(rig.stage.look(|heard| stopped(heard, a_session)).is_some(), "in order");
    eventually("the hung one is killed with its parent", async || {
        let status = b_actor.get_status();
        (status == Life::Stopped).then_some(()).ok_or_else(|| format!("{status:?}"))
    })
    .await;
}

// ---- What is fetched from whom ---------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn one_source_is_asked_and_all_are_told() {
    let (rig, [a, b], _held) = two_sessions().await;
    let r = record(1);
    rig.tell(wanted(a, &[&r]));
    let (_, records) = rig.stage.told("the request", a, 0, fetch).await;
    assert_eq!(records, std::slice::from_ref(&r));
    rig.tell(wanted(b, &[&r]));
    rig.tell(finished(a, &r, Ok(())));
    for session in [a, b] {
        assert_eq!(rig.stage.told("settled", session, 0, settled).await, [r.hash]);
    }
    assert_eq!(rig.stage.look(|heard| told(heard, b).filter_map(fetch).count()), 0, "asked once");
    assert_eq!(transfers(&rig).await, []);
    rig.tell(wanted(SessionId(999), &[&record(2)]));
    assert_eq!(transfers(&rig).await, [], "nobody has that");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_source_is_asked_when_the_first_fails() {
    let (rig, [a, b], _held) = two_sessions().await;
    let r = record(1);
    rig.tell(wanted(a, &[&r]));
    rig.stage.told("the request", a, 0, fetch).await;
    rig.tell(wanted(b, &[&r]));
    rig.tell(finished(a, &r, Err(FetchFailure::Source("wrong bytes".into()))));
    let failure = rig.stage.told("the failure", a, 0, failed).await;
    assert_eq!(failure, (r.hash, "wrong bytes".to_owned()));
    assert_eq!(rig.stage.told("the request", b, 0, fetch).await.1, std::slice::from_ref(&r));
    rig.tell(finished(b, &r, Ok(())));
    rig.stage.told("settled", b, 0, settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_leaves_behind_is_asked_of_another() {
    for how in ["close", "reset", "panic"] {
        let (rig, [a, b], connections) = two_sessions().await;
        let r = record(1);
        rig.tell(wanted(a, &[&r]));
        rig.stage.told("the request", a, 0, fetch).await;
        rig.tell(wanted(b, &[&r]));
        match how {
            "close" => connections[0].close(0_u32.into(), b"bye"),
            "reset" => rig.tell(PeersMsg::SessionReset { session: a }),
            _ => rig.stage.command(a, "panic"),
        }
        assert_eq!(rig.stage.told("the request", b, 0, fetch).await.1, std::slice::from_ref(&r), "{how}");
        // Late news of the old request change nothing.
        rig.tell(finished(a, &r, Ok(())));
        assert_eq!(transfers(&rig).await.len(), 1, "{how}");
        rig.tell(finished(b, &r, Ok(())));
        rig.stage.told("settled", b, 0, settled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_nothing_pauses_the_transfers_for_a_moment() {
    let (rig, [a, _], _held) = two_sessions().await;
    let (r, other) = (record(1), record(2));
    rig.tell(wanted(a, &[&r]));
    rig.stage.told("the request", a, 0, fetch).await;
    rig.tell(finished(a, &r, Err(FetchFailure::Store("disk full".into()))));
    rig.tell(wanted(a, &[&other]));
    let sync = rig.report().await.sync;
    assert_eq!((sync.state, sync.reason.as_deref(), sync.missing), (SyncState::Paused, Some("disk full"), 2));
    assert_eq!(rig.stage.look(|heard| told(heard, a).filter_map(fetch).count()), 1, "nothing more for now");
    let (_, records) = rig.stage.told("the next request", a, 1, fetch).await;
    let asked: BTreeSet<ContentHash> = records.iter().map(|record| record.hash).collect();
    assert_eq!(asked, BTreeSet::from([r.hash, other.hash]));
    let sync = rig.report().await.sync;
    assert!(sync.state != SyncState::Paused, "{sync:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_pauses_the_transfers_until_it_is_back() {
    let (rig, [a, _], _held) = two_sessions().await;
    let (r, other) = (record(1), record(2));
    rig.tell(wanted(a, &[&r]));
    rig.stage.told("the request", a, 0, fetch).await;
    rig.tell(finished(a, &r, Err(FetchFailure::Store("it broke".into()))));
    rig.tell(PeersMsg::StoreHealth(Some("down".into())));
    rig.tell(finished(a, &r, Err(FetchFailure::Store("it broke".into()))));
    rig.tell(wanted(a, &[&other]));
    // Longer than the moment after which a mere failure is tried again.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let sync = rig.report().await.sync;
        assert_eq!((sync.state, sync.reason.as_deref()), (SyncState::Paused, Some("down")), "{sync:?}");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rig.stage.look(|heard| told(heard, a).filter_map(fetch).count()), 1);
    rig.tell(PeersMsg::StoreHealth(None));
    let (_, records) = rig.stage.told("the next request", a, 1, fetch).await;
    assert_eq!(records.len(), 2);
    assert_ne!(rig.report().await.sync.state, SyncState::Paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_listed_those_on_their_way_first() {
    let (rig, [a, _], _held) = two_sessions().await;
    let peer = rig.stage.args(a).connection.remote_id();
    let large: Vec<AssetRecord> =
        (0..20).map(|n| AssetRecord { size: 10_000_000 + u64::from(n), ..record(n) }).collect();
    rig.tell(wanted(a, &large.iter().collect::<Vec<_>>()));
    let listed = transfers(&rig).await;
    assert_eq!(listed.len(), 20);
    let started = listed.iter().take_while(|transfer| transfer.started).count();
    assert!((1..20).contains(&started) && listed[started..].iter().all(|transfer| !transfer.started));
    assert!(listed.iter().all(|t| t.direction == TransferDirection::Receiving && t.peer == peer.to_string()));
    let sizes: BTreeSet<(String, u64)> = listed.into_iter().map(|t| (t.hash, t.size)).collect();
    assert_eq!(sizes, large.iter().map(|r| (r.hash.to_string(), r.size)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn making_sure_is_asked_of_every_session_and_of_those_to_come() {
    let (rig, [a, b], _held) = two_sessions().await;
    let unproven = Remote::bind().await;
    let _connection = unproven.dial(rig.endpoint()).await;
    let (c, _) = rig.stage.started(unproven.id(), 0).await;
    for session in [a, b] {
        stands(&rig, session, ConnectionState::InSync, 0);
    }
    assert_eq!(rig.report().await.sync.state, SyncState::InSync);
    rig.tell(PeersMsg::Verify);
    for session in [a, b] {
        assert_eq!(rig.stage.told("the wish", session, 0, verify).await, 1);
    }
    assert_eq!(rig.report().await.sync.state, SyncState::Reconciling, "in sync is what is not known now");
    stands(&rig, a, ConnectionState::InSync, 1);
    assert_eq!(rig.report().await.sync.state, SyncState::Reconciling);
    stands(&rig, b, ConnectionState::InSync, 1);
    assert_eq!(rig.report().await.sync.state, SyncState::InSync);
    assert_eq!(rig.stage.look(|heard| told(heard, c).count()), 0);
    rig.up(c, "late");
    assert_eq!(rig.stage.told("the wish", c, 0, verify).await, 1);
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

/// Two peers with sessions; their connections are to be held.
async fn two_sessions() -> (PeersRig, [SessionId; 2], [iroh::endpoint::Connection; 2]) {
    let (rig, a, b) = tokio::join!(PeersRig::start(), Remote::bind(), Remote::bind());
    let (a_session, a_connection) = rig.session(&a).await;
    let (b_session, b_connection) = rig.session(&b).await;
    // Endpoints close when they are dropped.
    std::mem::forget((a, b));
    (rig, [a_session, b_session], [a_connection, b_connection])
}

/// Has a session stand like this.
fn stands(rig: &PeersRig, session: SessionId, state: ConnectionState, verified: u64) {
    rig.stage.args(session).board.lock().standing = Some(SessionStatus {
        state,
        assets: 7,
        missing_here: 0,
        missing_here_bytes: 0,
        unseen: 0,
        missing_there: 0,
        waiting: WaitingCounts::default(),
        last_error: None,
        verified,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_comes_while_an_older_one_is_fetched_is_the_one_that_is_confirmed() {
    let (rig, [a, b], _held) = two_sessions().await;
    let old = record(1);
    let mut new = old.clone();
    new.hlc = old.hlc.next(1_700_000_000_000);
    new.meta.description = Some("edited meanwhile".into());
    rig.tell(wanted(a, &[&old]));
    rig.stage.told("the request", a, 0, fetch).await;
    rig.tell(wanted(b, &[&new]));
    // The PeerActor stores what it asked for, the older one.
    let asset = IncomingAsset { record: old.clone(), content: IncomingContent::Bytes(Bytes::new()) };
    rig.args.replica.store.ingest(vec![asset]).await.unwrap();
    rig.tell(finished(a, &old, Ok(())));
    for session in [a, b] {
        assert_eq!(rig.stage.told("settled", session, 0, settled).await, [old.hash]);
    }
    let stored = crate::support::store::held(&*rig.args.replica.store, old.hash).await;
    assert_eq!(stored, Some(new), "before anybody was told");
}

async fn forget(rig: &PeersRig, endpoint_id: EndpointId) -> bool {
    rig.call(|reply| PeersMsg::ForgetPeer { endpoint_id, reply }).await
}

async fn transfers(rig: &PeersRig) -> Vec<can_sync::testing::peer::report::TransferReport> {
    rig.call(|reply| PeersMsg::GetTransfers { reply }).await
}

async fn health(rig: &PeersRig) -> Vec<ActorStatus> {
    rig.call(|reply| PeersMsg::GetHealth { reply }).await.children
}

/// Every restart of a PeerActor that was told, with its reason and number.
fn restarts(rig: &PeersRig) -> Vec<(String, u32)> {
    let restart = |event| match event {
        NodeEvent::ActorRestarted { kind, reason, restarts } => {
            assert_eq!(kind, "PeerActor");
            Some((reason, restarts))
        }
        _ => None,
    };
    rig.events().into_iter().filter_map(restart).collect()
}

fn record(n: u32) -> AssetRecord {
    record_of(&n.to_be_bytes())
}

fn changed(n: u32) -> PeersMsg {
    PeersMsg::StoreChanged(
        [FeedEntry { seq: n.into(), record: record(n), holding: Holding::Held, formers: Vec::new() }].into(),
    )
}

fn wanted(session: SessionId, records: &[&AssetRecord]) -> PeersMsg {
    PeersMsg::Wanted {
        session,
        library: None,
        records: records.iter().map(|record| (*record).clone()).collect(),
    }
}

fn finished(session: SessionId, record: &AssetRecord, result: Result<(), FetchFailure>) -> PeersMsg {
    PeersMsg::Finished { session, results: vec![(WantKey::new(None, record), result)] }
}

fn stopped(heard: &[Heard], session: SessionId) -> Option<()> {
    heard.iter().any(|heard| matches!(heard, Heard::Stopped(who) if *who == session)).then_some(())
}

fn store_changed(message: &PeerMsg) -> Option<usize> {
    match message {
        PeerMsg::StoreChanged { entries, .. } => Some(entries.len()),
        _ => None,
    }
}

fn fetch(message: &PeerMsg) -> Option<(u64, Vec<AssetRecord>)> {
    match message {
        PeerMsg::Fetch { request, library: None, records } => Some((*request, records.clone())),
        _ => None,
    }
}

fn settled(message: &PeerMsg) -> Option<Vec<ContentHash>> {
    match message {
        PeerMsg::Settled(keys) => Some(keys.iter().map(|key| key.hash).collect()),
        _ => None,
    }
}

fn failed(message: &PeerMsg) -> Option<(ContentHash, String)> {
    match message {
        PeerMsg::Failed { key, reason } => Some((key.hash, reason.clone())),
        _ => None,
    }
}

fn verify(message: &PeerMsg) -> Option<u64> {
    match message {
        PeerMsg::Verify { round } => Some(*round),
        _ => None,
    }
}

// ---- Discovery -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_user_named_is_looked_up_and_a_new_network_concerns_all_of_discovery() {
    let mut rendezvous: Probe<RendezvousMsg> = Probe::spawn().await;
    let mut gossip: Probe<GossipMsg> = Probe::spawn().await;
    let (to_rendezvous, to_gossip) = (rendezvous.service(), gossip.service());
    let rig = PeersRig::start_with(SecretKey::generate(), move |args| {
        args.replica.libraries.set_cursor(0);
        (args.discovery.rendezvous, args.discovery.gossip) = (to_rendezvous, to_gossip);
    })
    .await;
    let [named, hinted] = [1, 2].map(|n| SecretKey::from_bytes(&[n; 32]).public());
    let hint = PeersMsg::Candidate { addr: EndpointAddr::new(hinted), channel: Channel::Mdns };
    rig.tell(hint);
    rig.dial(EndpointAddr::new(named)).await.unwrap();
    rendezvous
        .wait_for("the lookup", |seen| {
            seen.iter().any(|m| matches!(m, RendezvousMsg::Locate { endpoint_id } if *endpoint_id == named))
        })
        .await;
    gossip
        .wait_for("the hint", |seen| {
            let named = |m: &GossipMsg| matches!(m, GossipMsg::Candidate { addr, .. } if addr.id == named);
            let failed =
                |m: &GossipMsg| matches!(m, GossipMsg::DialFailed { endpoint_id } if *endpoint_id == hinted);
            seen.iter().any(named) && seen.iter().any(failed)
        })
        .await;
    rig.tell(PeersMsg::DialNow);
    rendezvous.wait_for("the look", |seen| seen.iter().any(|m| matches!(m, RendezvousMsg::LookNow))).await;
    gossip.wait_for("the joining", |seen| seen.iter().any(|m| matches!(m, GossipMsg::JoinNow))).await;
    let only_named = |seen: &[RendezvousMsg]| {
        seen.iter().all(|m| !matches!(m, RendezvousMsg::Locate { endpoint_id } if *endpoint_id == hinted))
    };
    assert!(rendezvous.look(only_named), "hints are not worth a lookup");
}
