//! What is dialled and let in, what becomes of it, and what discovery hears of it.

use super::*;

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
    let is_c = |peer: &PeerReport| peer.endpoint_id == c.id().to_string();
    rig.wait_for_report("nothing is kept of it", |report| !report.peers.iter().any(is_c)).await;
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
    // The connection may be closed again before its other end has seen the handshake through.
    if let Ok(connection) = incoming.await {
        assert_closed(&connection, close::SHUTDOWN).await;
    }
    assert!(rig.peer(remote.id()).await.is_none());
    assert_eq!(rig.stage.starts(remote.id()), 0);
}

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
