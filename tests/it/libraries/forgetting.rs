//! Who forgets a library and lets go of what came through it deletes nothing, anywhere; who joins again has it again.

use std::collections::BTreeMap;

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::{ContentStore as _, Holding};
use can_sync::testing::wire::proto::{frame, kept};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Share, stranger};
use crate::letting_go::keep;
use crate::support::hostile::Attacker;
use crate::support::library_member::Member;
use crate::support::nodes::{PASSPHRASE, TestNode, eventually};
use crate::support::store::noise;

const IMAGE: &[(&str, &str)] = &[("mime_type", "image/png")];

async fn forget(node: &TestNode, share: &Share) -> u64 {
    let answer = forgotten(node, share).await;
    answer["data"]["let_go"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

async fn forgotten(node: &TestNode, share: &Share) -> Value {
    let url = format!("http://{}/libraries/{}?content=delete", node.node().api_addr(), share.id);
    node.http.delete(url).send().await.expect("an answer").json().await.expect("JSON")
}

async fn holds(node: &TestNode, hashes: &[&str]) {
    eventually("what is held", async || {
        let held = node.held().await;
        let all = held.len() == hashes.len() && hashes.iter().all(|hash| held.iter().any(|h| h == hash));
        all.then_some(()).ok_or_else(|| format!("{held:?} instead of {hashes:?}"))
    })
    .await;
}

/// Content bytes that came from a peer so far.
async fn received(node: &TestNode, from: &TestNode) -> u64 {
    node.peer(&from.id()).await["bytes_received"].as_u64().unwrap_or_default()
}

async fn records(node: &TestNode) -> Vec<Value> {
    let without = |mut asset: Value| {
        asset.as_object_mut().expect("an object").remove("held");
        asset
    };
    node.assets().await.into_iter().map(without).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_a_library_deletes_nothing_elsewhere() {
    let deletes = |config: &mut can_sync::testing::config::Config| config.replicate_deletes = true;
    let owner = TestNode::start("owner", |config| {
        deletes(config);
        config.sync_passphrase = Some("nobody else hums this peculiar long tune at night".into());
    })
    .await;
    let (a, b) = tokio::join!(TestNode::start("a", deletes), TestNode::start("b", deletes));
    b.dial(&a).await;
    let small = owner.ingest(noise(500, 1), IMAGE).await;
    let large = owner.ingest(noise(3_000_000, 2), IMAGE).await;
    let share = Share::images(&owner).await;
    share.invite(&owner, json!({ "access": "write" })).await.join(&a).await;
    let all = [small.as_str(), &large];
    for node in [&a, &b] {
        holds(node, &all).await;
    }
    // What was here before and what is put here is this user's own.
    let own = a.ingest("a picture of a's own", IMAGE).await;
    let every = [small.as_str(), &large, &own];
    for node in [&owner, &b] {
        holds(node, &every).await;
    }
    share.in_sync(&a).await;
    a.wait_in_sync().await;
    let before = records(&a).await;

    assert_eq!(forget(&a, &share).await, 2);
    holds(&a, &[&own]).await;
    assert_eq!(records(&a).await, before, "what is known stays");
    let status = a.get("/status").await["data"]["store"].clone();
    assert_eq!((&status["assets"], &status["assets_held"]), (&json!(3), &json!(1)));
    for hash in all {
        assert_eq!(a.store(&format!("/asset/{hash}?local=true")).await["code"], "not_held");
        assert_eq!(a.get(&format!("/why/{hash}")).await["data"]["state"], "let_go");
    }
    // Nobody is told anything, and there is nothing to exchange: all are in sync, afresh and again after a restart of a
    // session, and a deletion would have come by now.
    for _ in 0..2 {
        // The owner may have nobody to be in sync with any more.
        tokio::join!(a.wait_in_sync(), b.wait_in_sync());
        assert_eq!(records(&b).await, before);
        holds(&b, &every).await;
        holds(&owner, &every).await;
        holds(&a, &[&own]).await;
        let _ = a.post("/verify", json!({})).await;
    }
    assert_eq!(a.get("/status").await["data"]["sync"]["missing"], 0, "nothing is missing that is not wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_go_of_stays_so_when_everything_starts_again() {
    let owner = stranger("owner").await;
    let (mut a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    a.dial(&b).await;
    let hash = owner.ingest(noise(100_000, 3), IMAGE).await;
    let share = Share::images(&owner).await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&a).await;
    holds(&b, &[&hash]).await;
    assert_eq!(forget(&a, &share).await, 1);
    a.stop().await;
    a.boot().await;
    // b is remembered, and has it.
    eventually("connected", async || {
        let peer = a.peer(&b.id()).await;
        peer["path"].is_string().then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    a.wait_in_sync().await;
    holds(&a, &[]).await;
    assert_eq!(received(&a, &b).await, 0);
    // An edit is an edit, and brings nothing.
    super::edit(&b, &hash, json!({ "description": "of b" })).await;
    eventually("the edit", async || {
        let meta = a.store(&format!("/asset/{hash}/meta")).await;
        (meta["data"]["description"] == "of b").then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;
    a.wait_in_sync().await;
    holds(&a, &[]).await;
    assert_eq!(received(&a, &b).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_machine_was_promised_is_told_and_goes_once_that_is_over() {
    let owner = stranger("owner").await;
    let mut a = TestNode::start("a", |_| {}).await;
    let (free, promised) =
        (owner.ingest(noise(90_000, 1), IMAGE).await, owner.ingest(noise(100_000, 2), IMAGE).await);
    let pinned = owner.ingest(noise(110_000, 3), IMAGE).await;
    let share = Share::images(&owner).await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&a).await;
    holds(&a, &[&free, &promised, &pinned]).await;
    let machine = Attacker::member_of(&a).await;
    let mut session = machine.session().await;
    for hash in [&promised, &pinned] {
        session.send(keep(hash.parse().expect("a hash"), 1, [9; 32], 0)).await;
        let kept = session.wait_for("an answer", |kind| match kind {
            frame::Kind::Kept(kept) => Some(kept),
            _ => None,
        });
        assert_eq!(kept.await.outcome(), kept::Outcome::Promised);
    }
    let done = forgotten(&a, &share).await["data"].clone();
    assert_eq!((&done["let_go"], &done["promised"]), (&json!(1), &json!(2)), "{done}");
    holds(&a, &[&promised, &pinned]).await;
    a.post("/pins", json!({ "hashes": [pinned] })).await;

    a.stop().await;
    let database = a.config.data_dir.join("store/store.db");
    let ended = Connection::open(database).and_then(|conn| conn.execute("DELETE FROM promises", []));
    assert_eq!(ended, Ok(2));
    a.boot().await;
    holds(&a, &[&pinned]).await;
    assert_eq!(a.get(&format!("/why/{promised}")).await["data"]["state"], "let_go");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_put_stays_when_a_library_is_forgotten_in_which_a_member_edited_it() {
    let member = stranger("member").await;
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    // Put here, and put on an own machine that is no member.
    let here = a.ingest(noise(500, 8), IMAGE).await;
    let there = b.ingest(noise(300_000, 9), IMAGE).await;
    holds(&a, &[&here, &there]).await;
    let share = Share::images(&a).await;
    share.invite(&a, json!({ "access": "write" })).await.join(&member).await;
    let theirs = member.ingest(noise(700, 10), IMAGE).await;
    let all = [here.as_str(), &there, &theirs];
    holds(&member, &all).await;
    holds(&b, &all).await;
    for hash in [&here, &there] {
        super::edit(&member, hash, json!({ "description": "of the member" })).await;
    }
    for node in [&a, &b] {
        for hash in [&here, &there] {
            eventually("the edit", async || {
                let meta = node.store(&format!("/asset/{hash}/meta")).await;
                (meta["data"]["description"] == "of the member").then_some(()).ok_or_else(|| meta.to_string())
            })
            .await;
        }
    }
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    // Of what came through the library, too, all machines know alike whose it is.
    let store = async |node: &TestNode| {
        let feed = node.sync_store().feed(0, 10).await.expect("a feed").entries.into_iter();
        feed.map(|entry| (entry.record.hash.to_string(), entry.record.own_content))
            .collect::<BTreeMap<_, _>>()
    };
    let owned = BTreeMap::from([(here.clone(), true), (there.clone(), true), (theirs.clone(), false)]);
    assert_eq!((store(&a).await, store(&b).await), (owned.clone(), owned));
    assert_eq!(forget(&a, &share).await, 1);
    holds(&a, &[&here, &there]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_edits_stays_in_the_library_as_it_was_and_does_not_come_again() {
    let (owner, reader) = (stranger("owner").await, TestNode::start("reader", |_| {}).await);
    let hash = owner.ingest(noise(400_000, 11), IMAGE).await;
    let share = Share::images(&owner).await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&reader).await;
    holds(&reader, &[&hash]).await;
    share.in_sync(&reader).await;
    let why = async || reader.get(&format!("/why/{hash}")).await["data"]["explanation"].clone();
    assert_eq!(why().await, "It is here.");
    let before = received(&reader, &owner).await;
    let counts = share.detail(&reader).await["counts"].clone();
    for text in ["of the reader", "of the reader, again"] {
        super::edit(&reader, &hash, json!({ "description": text })).await;
        reader.wait_in_sync().await;
    }
    // What the owner writes afterwards reaches the reader's library, and not what the reader wrote.
    super::edit(&owner, &hash, json!({ "filename": "of the owner" })).await;
    let other = owner.ingest(noise(500, 12), IMAGE).await;
    holds(&reader, &[&hash, &other]).await;
    share.in_sync(&reader).await;
    let meta = reader.store(&format!("/asset/{hash}/meta")).await["data"].clone();
    assert_eq!(meta["description"], "of the reader, again");
    assert_ne!(meta["filename"], "of the owner");
    let why = why().await;
    assert!(why.as_str().is_some_and(|why| why.contains("in 'images' is something else")), "{why}");
    let after = share.detail(&reader).await["counts"].clone();
    assert_eq!((&counts["assets"], &after["assets"]), (&json!(1), &json!(2)));
    let came = received(&reader, &owner).await - before;
    assert!(came < 400_000, "{came} bytes came again");
}

/// Deletes whatever the trash has, as if 30 days had passed.
async fn empty_the_trash(node: &mut TestNode) {
    node.stop().await;
    let database =
        rusqlite::Connection::open(node.config.data_dir.join("store/store.db")).expect("a database");
    database.execute("UPDATE trash SET trashed_at_ms = 0", []).expect("the trash ages");
    drop(database);
    node.boot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_again_has_it_again_and_keeps_it() {
    for (access, emptied) in [("read", false), ("read", true), ("write", false), ("write", true)] {
        let owner = stranger("owner").await;
        let mut c = TestNode::start("c", |config| config.sync_passphrase = Some(PASSPHRASE.into())).await;
        let contents = [noise(500, 4), noise(3_000_000, 5)];
        let mut hashes = Vec::new();
        for content in &contents {
            hashes.push(owner.ingest(content.clone(), IMAGE).await);
        }
        let all: Vec<&str> = hashes.iter().map(String::as_str).collect();
        let bytes: u64 = contents.iter().map(|content| content.len() as u64).sum();
        let share = Share::images(&owner).await;
        let invited = share.invite(&owner, json!({ "access": access, "uses": 3 })).await;
        invited.join(&c).await;
        holds(&c, &all).await;
        share.in_sync(&c).await;
        assert_eq!(forget(&c, &share).await, 2);
        holds(&c, &[]).await;
        if emptied {
            empty_the_trash(&mut c).await;
        }
        let before = received(&c, &owner).await;
        invited.join(&c).await;
        holds(&c, &all).await;
        share.in_sync(&c).await;
        share.in_sync(&owner).await;
        // It is not dropped and fetched over and over.
        for _ in 0..3 {
            tokio::join!(c.wait_in_sync(), owner.wait_in_sync());
            holds(&c, &all).await;
        }
        let came = received(&c, &owner).await.saturating_sub(before);
        assert!(came <= bytes, "{came} bytes came for {bytes}, {access}, trash emptied {emptied}");
        for (hash, content) in hashes.iter().zip(&contents) {
            assert!(c.content(hash).await.as_ref() == Some(content));
        }
        holds(&owner, &all).await;
        if access == "write" {
            continue;
        }
        // And it goes and comes once more.
        assert_eq!(forget(&c, &share).await, 2, "{access}, trash emptied {emptied}");
        holds(&c, &[]).await;
        invited.join(&c).await;
        holds(&c, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_does_not_hold_is_given_to_nobody_and_costs_nobody_anything() {
    let owner = TestNode::start("owner", |_| {}).await;
    let gone: ContentHash = owner.ingest(noise(20_000, 6), IMAGE).await.parse().unwrap();
    let kept: ContentHash = owner.ingest(noise(100, 7), IMAGE).await.parse().unwrap();
    let share = Share::images(&owner).await;
    let invited = share.invite(&owner, json!({ "access": "write" })).await;
    owner.sync_store().let_go(vec![gone]).await.unwrap();
    eventually("it is let go of", async || {
        let counts = share.detail(&owner).await["counts"].clone();
        (counts["assets"] == 1).then_some(()).ok_or_else(|| counts.to_string())
    })
    .await;
    let member = Member::new(&invited.ticket, &owner).await;
    let mut session = member.session().await.map_err(|(_, error)| error).unwrap();
    // It is offered as what it is, ...
    let need: Vec<_> = session.reconcile().await;
    let (offered, _) = session.records(&need).await;
    assert_eq!(offered.len(), 2);
    let absent = session.heard.iter().find_map(|kind| match kind {
        frame::Kind::Offer(offer) => {
            let place = offer.records.iter().position(|record| record.hash == gone.0.to_vec())?;
            Some(offer.absent.get(place / 8).is_some_and(|byte| byte & (1 << (place % 8)) != 0))
        }
        _ => None,
    });
    assert_eq!(absent, Some(true));
    // ... lacks when it is asked for by name, ...
    assert_eq!(session.find(&[gone]).await, [gone]);
    // ... and is gone when it is wanted all the same, as often as one likes.
    for request in 1..20 {
        let (header, bytes) = session.content(request, gone).await;
        assert!(header.gone && bytes == 0, "{header:?}");
    }
    let (header, bytes) = session.content(20, kept).await;
    assert_eq!((header.gone, bytes), (false, 100));
    let stored = owner.sync_store().records(vec![gone]).await.unwrap();
    assert_eq!(stored[0].holding, Holding::Unwanted);
}
