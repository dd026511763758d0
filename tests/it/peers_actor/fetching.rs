//! What is fetched from which session.

use super::*;

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
    let began = Instant::now();
    rig.tell(finished(a, &r, Err(FetchFailure::Store("disk full".into()))));
    rig.tell(wanted(a, &[&other]));
    let sync = rig.report().await.sync;
    let asked = rig.stage.look(|heard| told(heard, a).filter_map(fetch).count());
    // A busy machine may need longer for the answer than the pause lasts.
    if began.elapsed() < Duration::from_secs(3) {
        let expected = (SyncState::Paused, Some("disk full"), 2);
        assert_eq!((sync.state, sync.reason.as_deref(), sync.missing), expected);
        assert_eq!(asked, 1, "nothing more for now");
    }
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
