//! Records that no honest peer writes.

use can_sync::testing::record::{ContentHash, Hlc};
use can_sync::testing::wire::proto::{Offer, WireMeta, WireRecord, frame};

use crate::support::hostile::{Arena, Attacker, Session, record, records};

fn with_meta(change: impl FnOnce(&mut WireMeta)) -> WireRecord {
    let mut record = record(ContentHash(rand::random()), 5);
    change(record.meta.as_mut().expect("metadata"));
    record
}

fn with(change: impl FnOnce(&mut WireRecord)) -> WireRecord {
    let mut record = record(ContentHash(rand::random()), 5);
    change(&mut record);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_break_the_rules_end_the_session() {
    let mut arena = Arena::new().await;
    let tags = |tags: &[&str]| tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<String>>();
    let one = |record| vec![record];
    let cases: Vec<(&str, Vec<WireRecord>, &str)> = vec![
        ("1,001 records", records(1001, 5), "'Offer.records'"),
        ("unsorted tags", one(with_meta(|m| m.tags = tags(&["b", "a"]))), "sorted"),
        ("repeated tags", one(with_meta(|m| m.tags = tags(&["a", "a"]))), "sorted"),
        ("an empty tag", one(with_meta(|m| m.tags = tags(&[""]))), "sorted"),
        ("a long tag", one(with_meta(|m| m.tags = vec!["x".repeat(129)])), "too long"),
        (
            "many tags",
            one(with_meta(|m| m.tags = (0..65).map(|n| format!("{n:02}")).collect())),
            "'AssetMeta.tags'",
        ),
        ("much text", one(with_meta(|m| m.description = Some("x".repeat(16 * 1024 + 1)))), "too many"),
        ("a far creation", one(with_meta(|m| m.created_at_ms = u64::MAX)), "out of range"),
        ("a short hash", one(with(|r| r.hash = r.hash.slice(..31))), "'hash'"),
        ("a long writer", one(with(|r| r.writer = vec![0; 33].into())), "'writer'"),
        ("a short BLAKE3", one(with(|r| r.blake3 = Some(vec![0; 31].into()))), "'blake3'"),
        ("a size beyond counting", one(with(|r| r.size = u64::MAX)), "bytes of content"),
        ("no metadata", one(with(|r| r.meta = None)), "no metadata"),
    ];
    for (what, records, reason) in cases {
        let attack = async |session: &mut Session| {
            session.offer(records).await;
            session.closed_for(reason).await;
        };
        arena.survives_inside(what, attack).await;
    }
    let attack = async |session: &mut Session| {
        let elsewhere = Offer { library: vec![9; 32].into(), records: records(1, 5), ..Offer::default() };
        session.send(frame::Kind::Offer(elsewhere)).await;
        session.closed_for("not shared").await;
    };
    arena.survives_inside("another library", attack).await;
    for absent in [vec![0b10_0000], vec![0, 0], vec![0xff; 1 << 18]] {
        let attack = async |session: &mut Session| {
            let (library, records) = (session.library(), records(5, 5));
            let absent = absent.into();
            session.send(frame::Kind::Offer(Offer { library, records, absent, ..Offer::default() })).await;
            session.closed_for("not in the offer").await;
        };
        arena.survives_inside("contents that are absent of no record", attack).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_believed_is_refused_alone() {
    let mut arena = Arena::new().await;
    let held = arena.held();
    let attack = async |session: &mut Session| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let tomorrow = Hlc::from_ms(u64::try_from(now.as_millis()).unwrap() + 86_400_000);
        let future = ContentHash(rand::random());
        session.offer(vec![WireRecord { hlc: tomorrow.0, ..record(future, 5) }]).await;
        let wait_ms = session.deferred(future).await;
        assert!((85_000_000..86_400_000).contains(&wait_ms), "a day less ten minutes: {wait_ms}");
        // Sizes that no disk has.
        let huge: Vec<ContentHash> = (0..3).map(|_| ContentHash(rand::random())).collect();
        session.offer(huge.iter().map(|hash| record(*hash, 1 << 45)).collect()).await;
        for hash in huge {
            let reason = session.refused(hash).await;
            assert!(reason.contains("bytes"), "{reason}");
        }
        // Another size for what is there already, in a newer version.
        let now = Hlc::from_ms(u64::try_from(now.as_millis()).unwrap());
        session.offer(vec![WireRecord { hlc: now.0, ..record(held, 12_345) }]).await;
        let reason = session.refused(held).await;
        assert!(reason.contains("12345 bytes"), "{reason}");
        assert!(session.connection.close_reason().is_none(), "the session goes on");
    };
    arena.survives_inside("records that cannot be believed", attack).await;
}

/// The limits on text are none for those who keep to them, however much they have to say.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_node_full_of_text_is_not_taken_for_a_hostile_one() {
    use crate::support::nodes::TestNode;
    use futures::StreamExt as _;

    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let text = "x".repeat(14_000);
    let fill = async |from: usize| {
        futures::stream::iter(from..from + 700)
            .map(|n| {
                let (a, text) = (&a, text.as_str());
                async move { a.ingest(n.to_le_bytes(), &[("description", text)]).await }
            })
            .buffer_unordered(64)
            .for_each(|_| std::future::ready(()))
            .await;
    };
    // What is found by comparing, then what is told as it comes.
    for (from, count) in [(0, 700), (700, 1_400)] {
        fill(from).await;
        if from == 0 {
            b.dial(&a).await;
        }
        crate::support::nodes::eventually("all of it", async || {
            let n = b.get("/status").await["data"]["store"]["assets"].clone();
            (n == count).then_some(()).ok_or_else(|| n.to_string())
        })
        .await;
        b.wait_in_sync().await;
    }
    let (events, _) = a.node().events().since(0);
    assert!(events.iter().all(|logged| logged.event.name() != "peer_lost"), "{events:?}");
}

/// What is allowed as text need not be allowed everywhere: it must not act on those who are shown it.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_text_wherever_it_goes() {
    use crate::support::hostile::{hash_of, header};
    use can_sync::testing::wire;

    let arena = Arena::new().await;
    let attacker = Attacker::member(&arena).await;
    let mut session = attacker.session().await;
    let content = b"<script>alert(1)</script>";
    let hash = hash_of(content);
    let mut evil = record(hash, content.len() as u64);
    let meta = evil.meta.as_mut().unwrap();
    meta.mime_type = "text/html\r\nX-Injected: yes\r\n\r\n<b>".into();
    meta.filename = Some("../../etc/\u{1b}]0;owned\u{7}\"\r\nX-Injected: yes\0".into());
    meta.description = Some("<img src=x onerror=alert(1)>\u{1b}[2J\u{202e}".into());
    meta.tags = vec!["\"><script>".into()];
    session.offer(vec![evil]).await;
    let want = session.wanted().await;
    let mut stream = session.content_stream().await;
    stream.write_chunk(wire::encode(&header(want.request, hash, content.len() as u64))).await.unwrap();
    stream.write_all(content).await.unwrap();
    stream.finish().unwrap();
    session.wait_for("it is taken", |kind| matches!(kind, frame::Kind::Have(_)).then_some(())).await;

    let victim = &arena.victim;
    let answer = victim.http.get(victim.store_url(&format!("/asset/{hash}"))).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().get("x-injected").is_none());
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    let disposition = answer.headers()["content-disposition"].to_str().unwrap().to_owned();
    assert!(disposition.starts_with("attachment"), "{disposition}");
    assert_eq!(answer.bytes().await.unwrap(), &content[..]);
    let listed = victim.ok(&["list"]);
    assert!(!listed.text().contains(['\u{1b}', '\u{7}', '\0', '\u{202e}']), "{:?}", listed.text());
    let page = victim.http.get(victim.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(!page.contains("<img src=x") && !page.contains("\"><script>"), "{page}");
    // Named by itself, it must not leave the directory.
    let ran = victim.run(&["get", &hash.to_string()]);
    assert_eq!((ran.code, ran.stdout.as_slice()), (0, &content[..]));
}
