//! Contents that are not what was asked for.

use can_sync::testing::record::ContentHash;
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{ContentHeader, InlineContent, Offer, frame};

use crate::support::hostile::{Arena, Attacker, Session, hash_of, header, record, records};

/// Offers an asset and gives the number of the request that comes for it.
async fn bait(session: &mut Session, hash: ContentHash, size: u64) -> u64 {
    session.offer(vec![record(hash, size)]).await;
    let want = session.wanted().await;
    assert_eq!(want.contents.len(), 1);
    assert_eq!(want.contents[0].hash, hash.0.to_vec());
    want.request
}

/// Answers a request with a header and bytes; that they are not taken is what is expected.
async fn serve(session: &Session, header: &ContentHeader, content: &[u8]) {
    let mut stream = session.content_stream().await;
    let _ = stream.write_chunk(wire::encode(header)).await;
    let _ = stream.write_all(content).await;
    let _ = stream.finish();
    // Reset, closed or taken; in any case it is over.
    let _ = stream.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_not_stored_and_cost_their_sender_its_place() {
    let mut arena = Arena::new().await;
    let attack = async |session: &mut Session| {
        let hash = ContentHash(rand::random());
        let request = bait(session, hash, 1_000).await;
        serve(session, &header(request, hash, 1_000), &[7; 1_000]).await;
        session.closed_for("wrong bytes").await;
    };
    arena.survives_inside("small wrong bytes", attack).await;
    let attacker = Attacker::member(&arena).await;
    let attack = async {
        let mut before: Option<ContentHash> = None;
        for _ in 0..3 {
            let mut session = attacker.session().await;
            if let Some(hash) = before {
                // Offered again, it is not asked for again.
                session.offer(vec![record(hash, 3_000_000)]).await;
                let reason = session.refused(hash).await;
                assert!(reason.contains("before"), "{reason}");
            }
            let hash = ContentHash(rand::random());
            let request = bait(&mut session, hash, 3_000_000).await;
            serve(&session, &header(request, hash, 3_000_000), &vec![7; 3_000_000]).await;
            session.closed_for("wrong bytes").await;
            before = Some(hash);
        }
    };
    arena.survives("large wrong bytes", attack).await;
    // Three are enough: it is not heard for a while.
    attacker.is_left_alone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_inside_an_offer_cost_their_sender_its_place() {
    let mut arena = Arena::new().await;
    let attack = async |session: &mut Session| {
        let hash = ContentHash(rand::random());
        let content = InlineContent { hash: hash.0.to_vec().into(), content: vec![7; 1_000].into() };
        let (library, records) = (session.established.shared[0].blinded.clone(), vec![record(hash, 1_000)]);
        let offer = Offer { library, records, contents: vec![content], ..Offer::default() };
        session.send(frame::Kind::Offer(offer)).await;
        session.closed_for("wrong bytes").await;
    };
    arena.survives_inside("wrong bytes inside an offer", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_sizes_are_not_believed() {
    let mut arena = Arena::new().await;
    let content = vec![5; 200_000];
    let hash = hash_of(&content);
    // The record says one thing and the header another, smaller, larger, or with a part only.
    let lies = [
        ("a smaller size", 200_000, header(0, hash, 10)),
        ("a larger size", 10, header(0, hash, 200_000)),
        ("an enormous size", 10, header(0, hash, u64::MAX)),
        ("an offset", 200_000, ContentHeader { offset: 5, length: 199_995, ..header(0, hash, 200_000) }),
        ("a part", 200_000, ContentHeader { length: 5, ..header(0, hash, 200_000) }),
    ];
    for (what, size, lie) in lies {
        let attack = async |session: &mut Session| {
            let request = bait(session, hash, size).await;
            serve(session, &ContentHeader { request, ..lie.clone() }, &content).await;
            session.closed_for("bytes for an asset of").await;
        };
        arena.survives_inside(what, attack).await;
    }
    // The header agrees with the record, and the content with neither: more of it, without an end.
    for (what, size, code) in [("endless, small", 1_000, 400), ("endless, large", 100_000, 400)] {
        let attack = async |session: &mut Session| {
            let hash = ContentHash(rand::random());
            let request = bait(session, hash, size).await;
            let mut stream = session.content_stream().await;
            stream.write_chunk(wire::encode(&header(request, hash, size))).await.unwrap();
            let endless = vec![0xee; 1 << 20];
            while stream.write_all(&endless).await.is_ok() {}
            assert_eq!(session.closed().await.0, code);
        };
        arena.survives_inside(what, attack).await;
    }
    let attack = async |session: &mut Session| {
        let hash = ContentHash(rand::random());
        let request = bait(session, hash, 500_000).await;
        serve(session, &header(request, hash, 500_000), &[1; 1_000]).await;
        let reason = session.refused(hash).await;
        assert!(reason.contains("ended inside"), "{reason}");
    };
    arena.survives_inside("a content that ends early", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_that_finds_no_room_stops_nothing_else() {
    let mut arena = Arena::new().await;
    let (api, http) = (arena.victim.url("/status"), arena.victim.http.clone());
    let attack = async |session: &mut Session| {
        let hash = ContentHash(rand::random());
        // More than any disk that runs this test has.
        let size = 1 << 43;
        session.offer(vec![record(hash, size)]).await;
        let reason = session.refused(hash).await;
        assert!(reason.contains("free"), "{reason}");
        let status: serde_json::Value = http.get(api).send().await.unwrap().json().await.unwrap();
        assert_ne!(status["data"]["sync"]["state"], "paused", "{status}");
    };
    arena.survives_inside("an enormous asset", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_drips_loses_its_place() {
    let mut arena = Arena::new().await;
    for size in [50_000, 3_000_000, 30_000_000] {
        let attack = async |session: &mut Session| {
            let hash = ContentHash(rand::random());
            session.offer(vec![record(hash, size)]).await;
            let want = session.wanted().await;
            let (offset, length) = (want.contents[0].offset, want.contents[0].length.max(1));
            let length = if length == 1 { size } else { length };
            let mut stream = session.content_stream().await;
            let header = ContentHeader { offset, length, ..header(want.request, hash, size) };
            stream.write_chunk(wire::encode(&header)).await.unwrap();
            let drip = async {
                // A byte now and then, for as long as anybody takes it.
                while stream.write_all(&[7]).await.is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
                std::future::pending::<()>().await;
            };
            let reason = tokio::select! {
                reason = session.refused(hash) => reason,
                () = drip => unreachable!("it never ends"),
            };
            assert!(reason.starts_with("no progress: "), "{reason}");
        };
        arena.survives_inside("a byte now and then", attack).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asked_for_is_not_taken() {
    let mut arena = Arena::new().await;
    let attack = async |session: &mut Session| {
        let content = vec![9; 300_000];
        let hash = hash_of(&content);
        for request in [0, 1, u64::MAX] {
            serve(session, &header(request, hash, 300_000), &content).await;
        }
        // With the number of a request for something else.
        let wanted = ContentHash(rand::random());
        let request = bait(session, wanted, 400_000).await;
        serve(session, &header(request, hash, 300_000), &content).await;
        session.refused(wanted).await;
        let no_hash = ContentHeader { hash: vec![1; 31].into(), ..header(1, hash, 5) };
        serve(session, &no_hash, b"12345").await;
        session.closed_for("without a hash").await;
    };
    arena.survives_inside("content that was not asked for", attack).await;
    for (what, bytes) in [("a header of 4 GiB", &[0xff; 8][..]), ("no header", b"\0\0\0\x08garbage!")] {
        let attack = async |session: &mut Session| {
            let mut stream = session.content_stream().await;
            let _ = stream.write_all(bytes).await;
            assert_eq!(session.closed().await.0, 400);
        };
        arena.survives_inside(what, attack).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_that_are_not_kept_cost_little() {
    let mut arena = Arena::new().await;
    // Ten thousand assets, none of which is ever sent. It is asked for a few, and told to go at too many.
    let attack = async |session: &mut Session| {
        for _ in 0..10 {
            session.offer(records(1_000, 50_000)).await;
        }
        session.closed_for("more offers than may be open").await;
    };
    arena.survives_inside("10,000 offers", attack).await;
    // The same with as much text as a record may have.
    let attack = async |session: &mut Session| {
        'all: for _ in 0..600 {
            let mut frame = records(30, 50_000);
            for record in &mut frame {
                record.meta.as_mut().unwrap().description = Some("x".repeat(16_000));
            }
            if !session.offer(frame).await {
                break 'all;
            }
        }
        session.closed_for("by their text").await;
    };
    arena.survives_inside("offers with much text", attack).await;
}
