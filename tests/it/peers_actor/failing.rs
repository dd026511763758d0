//! PeerActors that fail, hang and stop.

use super::*;

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
    let started = async || {
        let starts = rig.stage.starts(bad.id());
        if starts == 7 { Ok(()) } else { Err(format!("{starts} starts")) }
    };
    rig.dial(bad.addr()).await.unwrap();
    // The connection may be closed again before its other end has seen the handshake through.
    let accepted = async { Some(bad.0.accept().await?.await) };
    let (accepted, ()) = tokio::join!(timeout(DEADLINE, accepted), eventually("another start", started));
    accepted.expect("it is dialled");
    assert_eq!(rig.stage.starts(bad.id()), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_hangs_is_shown_as_such_in_time() {
    let rig = PeersRig::start().await;
    let (a, b) = tokio::join!(Remote::bind(), Remote::bind());
    let (a_session, _a) = rig.session(&a).await;
    let (_, _b) = rig.session(&b).await;
    rig.stage.command(a_session, "hang");
    // On a busy machine, one that works may be late as well, once.
    eventually("an answer within the root's patience", async || {
        let query = |reply| PeersMsg::GetHealth { reply };
        let answer = rig.service.call(query, ASK_CHILD_LIMIT).await;
        let detail = answer.map_err(|error| error.to_string())?;
        assert_eq!(detail.detail.as_deref(), Some("2 connected, 2 known"));
        let state = |id: EndpointId| {
            let label = Some(id.fmt_short().to_string());
            let child = detail.children.iter().find(|child| child.label == label).unwrap();
            (child.state, child.detail.as_deref())
        };
        assert_eq!(state(a.id()), (ActorState::Unresponsive, None));
        let is_well = state(b.id()) == (ActorState::Running, Some("well"));
        is_well.then_some(()).ok_or_else(|| format!("{detail:?}"))
    })
    .await;
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
