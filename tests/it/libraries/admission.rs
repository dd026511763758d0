//! Who is let in, to what, and until when.

use std::time::Duration;

use can_sync::testing::library::ticket::Ticket;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, RecordId};
use can_sync::testing::wire::proto::{Offer, WireRecord, frame};
use serde_json::json;

use super::{Share, stranger};
use crate::support::hostile::{closed, hash_of};
use crate::support::library_member::Member;
use crate::support::nodes::{TestNode, eventually, eventually_within};

const IMAGE: &[(&str, &str)] = &[("mime_type", "image/png")];
const TEXT: &[(&str, &str)] = &[("mime_type", "text/plain")];
/// How soon somebody who may not stay is gone. It takes two seconds, where a transfer to its end takes 50.
const GONE_WITHIN: Duration = Duration::from_secs(30);

async fn arrives(node: &TestNode, hash: &str) {
    eventually("it arrives", async || node.content(hash).await.map(drop).ok_or_else(|| hash.to_owned()))
        .await;
}

/// Waits until nobody is connected by the library any more.
async fn let_go(share: &Share, node: &TestNode) {
    eventually_within(GONE_WITHIN, "the member is let go", async || {
        let detail = share.detail(node).await;
        (detail["progress"]["connected"] == 0).then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_can_neither_see_nor_probe_nor_write_outside_its_library() {
    let a = TestNode::start("a", |_| {}).await;
    let picture = a.ingest("a picture", IMAGE).await;
    let text = a.ingest("a text", TEXT).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "read" })).await;
    let member = Member::new(&invited.ticket, &a).await;
    let mut session = member.session().await.map_err(|(_, error)| error).unwrap();
    assert_eq!(session.established.shared.len(), 1);
    assert_eq!(session.established.shared[0].theirs.assets, 1, "its count, not that of the store");

    let need = session.reconcile().await;
    assert_eq!(need.len(), 1, "one picture");
    let (offered, gone) = session.records(&need).await;
    assert_eq!((offered, gone), (vec![picture.parse().unwrap()], 0));
    // Ids are the library's own: those of the mirror mean nothing here, as little as any other.
    assert_eq!(session.records(&[RecordId([7; 32])]).await, (Vec::new(), 1));

    let known = session.content(1, picture.parse().unwrap()).await;
    assert_eq!((known.0.gone, known.1), (false, "a picture".len()));
    let hidden = session.content(2, text.parse().unwrap()).await;
    let unknown = session.content(2, ContentHash([9; 32])).await;
    assert!(hidden.0.gone && hidden.1 == 0);
    let same = |mut header: can_sync::testing::wire::proto::ContentHeader| {
        header.hash = bytes::Bytes::new();
        header
    };
    assert_eq!(same(hidden.0), same(unknown.0), "the same answer, but for the hash that was asked for");
    let names = [&picture, &text].map(|hash| hash.parse().unwrap());
    assert_eq!(
        session.find(&[names[0], names[1], ContentHash([9; 32])]).await,
        [names[1], ContentHash([9; 32])]
    );

    // An offer of a reader's is refused, whether what it is about is here or not.
    let offer = |content: &[u8], mime: &str| {
        let meta = AssetMeta { mime_type: mime.into(), created_at_ms: 5, ..AssetMeta::default() };
        let record = AssetRecord::new(hash_of(content), content.len() as u64, None, meta);
        WireRecord::from(&record)
    };
    let records = vec![offer(b"mine", "image/png"), offer(b"a text", "image/png")];
    let library = session.library();
    session.send(frame::Kind::Offer(Offer { library: library.clone(), records, ..Offer::default() })).await;
    for content in [&b"mine"[..], b"a text"] {
        let refusal = session
            .until("refusal", |kind| match kind {
                frame::Kind::Error(error) => Some(error.clone()),
                _ => None,
            })
            .await;
        assert_eq!((refusal.code, refusal.library), (403, library.clone()));
        assert_eq!(refusal.hash.unwrap(), hash_of(content).0.to_vec());
    }
    assert_eq!(a.assets().await.len(), 2);

    // A live session: another picture and another text; only the picture is heard of.
    a.ingest("another text", TEXT).await;
    let later: ContentHash = a.ingest("another picture", IMAGE).await.parse().unwrap();
    let offered_now = |kind: &frame::Kind| match kind {
        frame::Kind::Offer(offer) => offer.records.iter().any(|r| r.hash == later.0.to_vec()).then_some(()),
        _ => None,
    };
    session.until("the other picture", offered_now).await;
    let allowed = [picture.parse::<ContentHash>().unwrap().0.to_vec(), later.0.to_vec()];
    for kind in &session.heard {
        if let frame::Kind::Offer(offer) = kind {
            assert!(offer.records.iter().all(|record| allowed.contains(&record.hash.to_vec())), "{offer:?}");
        }
    }
}

/// What a writer says of an image; that it is there, a second after it was deleted.
fn record(content: &[u8], deleted: bool) -> WireRecord {
    let meta =
        AssetMeta { mime_type: "image/png".into(), created_at_ms: 1_700_000_000_000, ..AssetMeta::default() };
    let record = AssetRecord::new(hash_of(content), content.len() as u64, None, meta);
    let hlc = can_sync::testing::record::Hlc::from_ms(1_700_000_000_000 + if deleted { 0 } else { 1_000 });
    WireRecord::from(&AssetRecord { deleted, hlc, ..record })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_learns_nothing_of_what_is_outside_by_offering_it() {
    let a = TestNode::start("a", |config| config.replicate_deletes = true).await;
    let text = a.ingest("a text", TEXT).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "write" })).await;
    let member = Member::new(&invited.ticket, &a).await;
    let mut session = member.session().await.map_err(|(_, error)| error).unwrap();
    let library = session.library();
    // Deletions of what is there and of what is not: confirmed alike, and nothing goes.
    let deletions = vec![record(b"a text", true), record(b"nothing", true)];
    session
        .send(frame::Kind::Offer(Offer { library: library.clone(), records: deletions, ..Offer::default() }))
        .await;
    let mut confirmed = 0;
    while confirmed < 2 {
        confirmed += session
            .until("confirmation", |kind| match kind {
                frame::Kind::Have(have) => Some(have.hashes.len()),
                frame::Kind::Error(error) => panic!("{error:?}"),
                _ => None,
            })
            .await;
    }
    assert!(a.content(&text).await.is_some(), "it was deleted by somebody who may not know of it");
    // Offers of what is there and of what is not: the content of both is asked for.
    let offers = vec![record(b"a text", false), record(b"nothing else", false)];
    session.send(frame::Kind::Offer(Offer { library, records: offers, ..Offer::default() })).await;
    let mut wanted = Vec::new();
    while wanted.len() < 2 {
        let more = session
            .until("request", |kind| match kind {
                frame::Kind::Want(want) => Some(want.contents.clone()),
                frame::Kind::Have(have) => panic!("it says that it has {have:?}"),
                _ => None,
            })
            .await;
        wanted.extend(more.into_iter().map(|content| content.hash));
    }
    // Offered once more, with another size, then what is there looks like what is not: nothing says how long it is.
    let library = session.library();
    for (n, marker) in [b"one".as_slice(), b"two"].into_iter().enumerate() {
        let mut again = record(b"a text", false);
        again.size += n as u64;
        let records = vec![again, record(marker, true)];
        let contents = Vec::new();
        let offer = Offer { library: library.clone(), records, contents, ..Offer::default() };
        session.send(frame::Kind::Offer(offer)).await;
    }
    // Both may be confirmed at once.
    let mut missing = vec![hash_of(b"one"), hash_of(b"two")];
    while !missing.is_empty() {
        let confirmed = session
            .until("confirmation", |kind| match kind {
                frame::Kind::Have(have) => Some(have.hashes.clone()),
                frame::Kind::Error(error) => {
                    assert!(!error.message.contains("the content of that hash has"), "{error:?}");
                    None
                }
                _ => None,
            })
            .await;
        let says = |hash: &ContentHash| confirmed.iter().any(|confirmed| confirmed.as_ref() == hash.0);
        assert!(!says(&hash_of(b"a text")), "it says that it has it");
        missing.retain(|marker| !says(marker));
    }
    let (header, bytes) = session.content(99, hash_of(b"a text")).await;
    assert!(header.gone && bytes == 0, "it gives away what was named to it: {header:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_a_writers_claims_cannot_use_them() {
    let a = TestNode::start("a", |_| {}).await;
    let share = Share::images(&a).await;
    let reader = share.invite(&a, json!({ "access": "read" })).await;
    let writer = share.invite(&a, json!({ "access": "write" })).await;
    let member = Member::new(&reader.ticket, &a).await;
    let seen = Ticket::parse(&writer.ticket).expect("a ticket");
    let connection = member.show_claims_of(&seen).await;
    let (code, reason) = closed(&connection).await;
    assert_eq!(code, 403, "{reason}");
    assert!(reason.contains("without a proof of having it"), "{reason}");
    assert!(member.session().await.is_ok(), "its own ticket still holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_race_for_the_only_use_one_is_let_in() {
    let a = TestNode::start("a", |_| {}).await;
    let picture = a.ingest("a picture", IMAGE).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "read", "uses": 1 })).await;
    let racers = [stranger("c").await, stranger("d").await];
    let (one, two) = tokio::join!(invited.join(&racers[0]), invited.join(&racers[1]));
    assert_eq!((&one["status"], &two["status"]), (&"success".into(), &"success".into()));
    let loser = eventually("one is told that the ticket is spent", async || {
        let mut said = String::new();
        for (i, racer) in racers.iter().enumerate() {
            let problem = share.detail(racer).await["problem"].as_str().unwrap_or_default().to_owned();
            if problem.contains("used as often") {
                return Ok(i);
            }
            said.push_str(&problem);
        }
        Err(said)
    })
    .await;
    arrives(&racers[1 - loser], &picture).await;
    assert_eq!(share.detail(&a).await["tickets"][0]["used"], 1);
    assert_eq!(racers[loser].content(&picture).await, None);
    // Whoever was let in comes back as often as it likes.
    let Some(mut winner) = racers.into_iter().nth(1 - loser) else { unreachable!() };
    winner.stop().await;
    winner.boot().await;
    let later = a.ingest("another picture", IMAGE).await;
    arrives(&winner, &later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_member_is_let_go_in_the_middle_of_a_transfer_and_keeps_what_it_has() {
    // Slow enough that the large one is under way for a long time.
    let a = TestNode::start("a", |config| config.limits.upload_bytes_per_sec = Some(400_000)).await;
    let small = a.ingest("a picture", IMAGE).await;
    let share = Share::images(&a).await;
    let c = stranger("c").await;
    let invited = share.invite(&a, json!({ "access": "read" })).await;
    invited.join(&c).await;
    arrives(&c, &small).await;
    let large = a.ingest(vec![5; 20_000_000], IMAGE).await;
    eventually("the transfer is under way", async || {
        let moving = c.get("/transfers").await;
        let transfers = moving["data"]["transfers"].as_array().cloned().unwrap_or_default();
        let begun = transfers.iter().any(|t| t["hash"] == large.as_str() && t["started"] == true);
        begun.then_some(()).ok_or_else(|| moving.to_string())
    })
    .await;
    let revoked =
        a.post(&format!("/libraries/{}/revoke", share.id), json!({ "serial": invited.serial })).await;
    assert_eq!(revoked["status"], "success", "{revoked}");
    let_go(&share, &a).await;
    assert!(c.content(&small).await.is_some(), "what it has it keeps");
    assert_eq!(c.content(&large).await, None);
    eventually("it learns why", async || {
        let problem = share.detail(&c).await["problem"].clone();
        problem.as_str().filter(|p| p.contains("revoked")).map(drop).ok_or_else(|| problem.to_string())
    })
    .await;
    let again = c.post("/join", json!({ "ticket": invited.ticket })).await;
    assert!(again["error"].as_str().is_some_and(|e| e.contains("revoked")), "{again}");
    // Nor is anybody else let in with it.
    let other = Member::new(&invited.ticket, &a).await;
    let (connection, _) = other.session().await.err().expect("it is not let in");
    let (code, reason) = closed(&connection).await;
    assert!(code == 403 && reason.contains("revoked"), "{code}: {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tickets_are_revoked_at_once_and_new_ones_hold() {
    let a = TestNode::start("a", |_| {}).await;
    let picture = a.ingest("a picture", IMAGE).await;
    let share = Share::images(&a).await;
    let c = stranger("c").await;
    share.invite(&a, json!({ "access": "read" })).await.join(&c).await;
    arrives(&c, &picture).await;
    a.post(&format!("/libraries/{}/revoke", share.id), json!({ "all": true })).await;
    let_go(&share, &a).await;
    let later = a.ingest("another picture", IMAGE).await;
    assert_eq!(c.content(&later).await, None);
    share.invite(&a, json!({ "access": "read" })).await.join(&c).await;
    arrives(&c, &later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_ticket_does() {
    let a = TestNode::start("a", |_| {}).await;
    let picture = a.ingest("a picture", IMAGE).await;
    let share = Share::images(&a).await;
    let c = stranger("c").await;
    share.invite(&a, json!({ "access": "read", "expires_secs": 20 })).await.join(&c).await;
    arrives(&c, &picture).await;
    eventually("its ticket expires", async || {
        let detail = share.detail(&a).await;
        (detail["progress"]["connected"] == 0).then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    a.ingest("another picture", IMAGE).await;
    eventually("it learns why", async || {
        let problem = share.detail(&c).await["problem"].clone();
        problem.as_str().filter(|p| p.contains("expired")).map(drop).ok_or_else(|| problem.to_string())
    })
    .await;
    assert_eq!(c.assets().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_is_deleted_while_a_transfer_runs() {
    let a = TestNode::start("a", |config| config.limits.upload_bytes_per_sec = Some(400_000)).await;
    let small = a.ingest("a picture", IMAGE).await;
    let share = Share::images(&a).await;
    let c = stranger("c").await;
    let own = c.ingest("a picture of c's own", IMAGE).await;
    share.invite(&a, json!({ "access": "read" })).await.join(&c).await;
    arrives(&c, &small).await;
    let large = a.ingest(vec![5; 20_000_000], IMAGE).await;
    eventually("the transfer is under way", async || {
        let moving = c.get("/transfers").await;
        moving.to_string().contains(&large).then_some(()).ok_or_else(|| moving.to_string())
    })
    .await;
    let url = format!("http://{}/libraries/{}?content=delete", c.node().api_addr(), share.id);
    let answer: serde_json::Value = c.http.delete(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["data"], json!({ "let_go": 1, "promised": 0 }), "{answer}");
    let_go(&share, &a).await;
    eventually("what came goes, and what was here stays", async || {
        let held: Vec<_> = c.held().await;
        (held == [own.clone()]).then_some(()).ok_or_else(|| format!("{held:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_machine_is_shut_out_of_everything_until_it_is_approved() {
    let a = TestNode::start("a", |_| {}).await;
    let b = TestNode::start("b", |_| {}).await;
    b.dial(&a).await;
    let connected = async |expected: u64| {
        eventually("connections", async || {
            let status = a.get("/status").await;
            let connected = status["data"]["peers"]["connected"].as_u64();
            (connected == Some(expected)).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    };
    connected(1).await;
    a.post(&format!("/devices/{}/deny", b.id()), json!({})).await;
    connected(0).await;
    let secret = a.ingest("a secret", TEXT).await;
    b.dial(&a).await;
    eventually("b learns why", async || {
        let peer = b.peer(&a.id()).await;
        peer.to_string().contains("denied").then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    assert_eq!(b.content(&secret).await, None);
    let devices = a.get("/devices").await;
    assert_eq!(devices["data"]["devices"][0]["standing"], "denied", "{devices}");
    assert_eq!(
        devices["data"]["devices"][0]["name"], "b",
        "it is called as it was when it was met: {devices}"
    );
    let own = a.post(&format!("/devices/{}/deny", a.id()), json!({})).await;
    assert_eq!(own["code"], "own_id", "{own}");
    a.post(&format!("/devices/{}/approve", b.id()), json!({})).await;
    b.dial(&a).await;
    arrives(&b, &secret).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_waits_for_approval_where_that_is_asked_for() {
    let a = TestNode::start("a", |config| config.approve_devices = true).await;
    let secret = a.ingest("a secret", TEXT).await;
    let b = TestNode::start("b", |_| {}).await;
    b.dial(&a).await;
    eventually("b waits", async || {
        let devices = a.get("/devices").await;
        let device = &devices["data"]["devices"][0];
        let waits = device["endpoint_id"] == b.id() && device["standing"] == "waiting";
        waits.then_some(()).ok_or_else(|| devices.to_string())
    })
    .await;
    assert_eq!(b.content(&secret).await, None);
    a.post(&format!("/devices/{}/approve", b.id()), json!({})).await;
    b.dial(&a).await;
    arrives(&b, &secret).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_may_be_a_minute_ahead_and_no_more_and_hears_nobodys_clock() {
    let a = TestNode::start("a", |_| {}).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "write" })).await;
    let member = Member::new(&invited.ticket, &a).await;
    let mut session = member.session().await.map_err(|(_, error)| error).unwrap();
    assert_eq!(session.established.clock_ms, 0, "it is no machine of theirs");
    let library = session.library();
    let ahead = |content: &[u8], ms: u64| {
        let hlc = can_sync::testing::record::Hlc::from_ms(can_sync::testing::clock::now_ms() + ms);
        WireRecord { hlc: hlc.0, ..record(content, false) }
    };
    let records = vec![ahead(b"half a minute", 30_000), ahead(b"five minutes", 300_000)];
    let offer = Offer { library: library.clone(), records, ..Offer::default() };
    session.send(frame::Kind::Offer(offer)).await;
    let later = session
        .until("Later", |kind| match kind {
            frame::Kind::Later(later) => Some(later.clone()),
            _ => None,
        })
        .await;
    assert_eq!((later.library, later.deferrals.len()), (library, 1));
    assert_eq!(later.deferrals[0].hash, hash_of(b"five minutes").0.to_vec());
    assert!((180_000..=240_000).contains(&later.deferrals[0].wait_ms), "{:?}", later.deferrals);
    let wants = |kind: &frame::Kind| match kind {
        frame::Kind::Want(want) => Some(want.contents.iter().map(|one| one.hash.clone()).collect::<Vec<_>>()),
        _ => None,
    };
    let found = session.heard.iter().find_map(wants);
    let wanted = match found {
        Some(wanted) => wanted,
        None => session.until("Want", wants).await,
    };
    assert_eq!(wanted, [hash_of(b"half a minute").0.to_vec()]);
}
