//! Members that delete: what goes, what waits for somebody's decision, and whom that concerns.

use std::time::{SystemTime, UNIX_EPOCH};

use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, Hlc, WriterId};
use can_sync::testing::wire::proto::{Offer, WireRecord, frame};
use serde_json::{Value, json};

use super::{Share, stranger};
use crate::support::library_member::{Member, Session};
use crate::support::nodes::{TestNode, eventually};

async fn images(node: &TestNode, numbers: std::ops::Range<u8>) -> Vec<String> {
    let mut hashes = Vec::new();
    for n in numbers {
        hashes.push(node.ingest(vec![n; 100], &[("mime_type", "image/png")]).await);
    }
    hashes
}

async fn delete(node: &TestNode, hashes: &[String]) {
    for hash in hashes {
        let url = format!("{}/asset/{hash}", node.node().store_url());
        assert!(node.http.delete(url).send().await.unwrap().status().is_success());
    }
}

/// Deletions as a member writes them, now.
fn tombstones(hashes: &[String]) -> Vec<WireRecord> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let hlc = Hlc::from_ms(u64::try_from(now.as_millis()).expect("before 292278994"));
    let tombstone = |hash: &String| {
        let hash: ContentHash = hash.parse().expect("a hash");
        let meta = AssetMeta {
            mime_type: "image/png".into(),
            created_at_ms: 1_700_000_000_000,
            ..AssetMeta::default()
        };
        let record = AssetRecord::new(hash, 100, None, meta);
        WireRecord::from(&AssetRecord { deleted: true, hlc, writer: WriterId([7; 32]), ..record })
    };
    hashes.iter().map(tombstone).collect()
}

/// Offers records, and waits until each is confirmed: nothing more is said about it.
async fn offers(session: &mut Session, records: &[WireRecord]) {
    let library = session.library();
    let offer = Offer { library, records: records.to_vec(), ..Offer::default() };
    session.send(frame::Kind::Offer(offer)).await;
    let mut confirmed = 0;
    while confirmed < records.len() {
        let have = |kind: &frame::Kind| match kind {
            frame::Kind::Have(have) => Some(have.hashes.len()),
            frame::Kind::Error(error) => panic!("{}", error.message),
            _ => None,
        };
        confirmed += session.until("Have", have).await;
    }
}

async fn holds(owner: &TestNode) -> Value {
    owner.get("/deletions").await["data"]["holds"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_deletes_in_bulk_in_one_library_is_held_back_alone() {
    let mut owner = TestNode::start("owner", |config| config.replicate_deletes = true).await;
    let (second, honest) =
        tokio::join!(TestNode::start("second", |config| config.replicate_deletes = true), stranger("honest"));
    second.dial(&owner).await;
    let pictures = Share::images(&owner).await;
    let notes = Share::new(&owner, json!({ "mime_prefix": "text/" })).await;
    let in_bulk = images(&owner, 0..33).await;
    let mut texts = Vec::new();
    for n in 0..10_u8 {
        texts.push(owner.ingest(vec![b'a' + n; 100], &[("mime_type", "text/plain")]).await);
    }
    let invited = pictures.invite(&owner, json!({ "access": "write" })).await;
    notes.invite(&owner, json!({ "access": "write" })).await.join(&honest).await;
    second.holds(43).await;
    honest.holds(10).await;

    // In one frame, and again and again: none of them goes, and each time costs a word.
    let hostile = Member::new(&invited.ticket, &owner).await;
    let mut session = hostile.session().await.map_err(|(_, error)| error).expect("it is let in");
    let deletions = tombstones(&in_bulk[..30]);
    for _ in 0..50 {
        offers(&mut session, &deletions).await;
    }
    let held = holds(&owner).await;
    assert_eq!((&held[0]["count"], &held[0]["ticket"]), (&json!(30), &json!(invited.serial)), "{held}");
    assert_eq!((held.as_array().unwrap().len(), owner.assets().await.len()), (1, 43));
    let (events, _) = owner.node().events().since(0);
    let told = events.iter().filter(|logged| logged.event.name() == "deletions_held").count();
    assert_eq!(told, 1, "told once, not each time");

    // The own second machine goes on deleting, pictures too, and so does a member of another library.
    delete(&second, &in_bulk[30..31]).await;
    delete(&honest, &texts[..5]).await;
    owner.holds(37).await;
    assert_eq!(holds(&owner).await, held);

    // Started again, and under another id with the same ticket: what goes beyond still waits, and a little behind it, too.
    assert!(!owner.stop().await.failed);
    owner.boot().await;
    assert_eq!(holds(&owner).await[0]["count"], 30);
    let hostile = Member::new(&invited.ticket, &owner).await;
    let mut session = hostile.session().await.map_err(|(_, error)| error).expect("it is let in");
    offers(&mut session, &tombstones(&in_bulk[31..32])).await;
    assert_eq!(holds(&owner).await[0]["count"], 31);
    assert_eq!(owner.assets().await.len(), 37);

    // What was rejected stays, however often it is brought.
    let rejected = owner.post("/deletions/reject", json!({ "hold": held[0]["id"] })).await;
    assert_eq!(rejected["data"]["rejected"], 31, "{rejected}");
    for _ in 0..3 {
        offers(&mut session, &deletions).await;
    }
    assert_eq!((holds(&owner).await, owner.assets().await.len()), (json!([]), 37));
    delete(&second, &in_bulk[32..33]).await;
    owner.holds(36).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_mass_deletion_waits_for_the_owner_by_its_ticket() {
    let owner = TestNode::start("owner", |config| config.replicate_deletes = true).await;
    let member = stranger("member").await;
    let library = Share::images(&owner).await;
    let mut images = Vec::new();
    for n in 0..30_u8 {
        images.push(owner.ingest(vec![n; 100], &[("mime_type", "image/png")]).await);
    }
    // What is not in the library does not make room for deletions in it.
    for n in 0..300_u16 {
        owner.ingest(n.to_le_bytes().repeat(51), &[]).await;
    }
    let invited = library.invite(&owner, json!({ "access": "write" })).await;
    invited.join(&member).await;
    member.holds(30).await;
    delete(&member, &images[..20]).await;
    owner.holds(310).await;
    delete(&member, &images[20..]).await;
    let hold = eventually("the rest is held back", async || {
        let list = owner.get("/deletions").await["data"].clone();
        let hold = list["holds"][0].clone();
        (hold["count"] == 10).then_some(hold).ok_or_else(|| list.to_string())
    })
    .await;
    assert_eq!((&hold["ticket"], &hold["device"]), (&json!(invited.serial), &json!(null)));
    assert_eq!((&hold["library"]["id"], &hold["library"]["name"]), (&json!(library.id), &json!("images")));
    assert!(hold["from"].as_str().unwrap().starts_with(&format!("ticket {}", invited.serial)), "{hold}");
    let answer = owner.post("/deletions/confirm", json!({ "hold": hold["id"] })).await;
    assert_eq!(answer["data"]["released"], 10, "{answer}");
    eventually("all of them are gone", async || {
        let listed = owner.assets().await.len();
        (listed == 300).then_some(()).ok_or_else(|| listed.to_string())
    })
    .await;
}
