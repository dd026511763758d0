//! What is asked for, sent, checked and stored.

use super::*;

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
