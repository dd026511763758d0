//! What a revoked ticket leaves of what its holder knew: each revocation begins an epoch with a key of its own.

use can_sync::testing::library::revocation::SignedRevocations;
use can_sync::testing::library::ticket::Ticket;
use can_sync::testing::wire::proto::frame;
use serde_json::json;

use super::{Invited, Share, stranger};
use crate::support::hostile::closed;
use crate::support::member::HostileMember;
use crate::support::nodes::{TestNode, eventually};

async fn image(node: &TestNode, content: &str) -> String {
    node.ingest(content, &[("mime_type", "image/png")]).await
}

async fn arrives(node: &TestNode, hash: &str) {
    eventually("it arrives", async || node.content(hash).await.map(drop).ok_or_else(|| hash.to_owned()))
        .await;
}

async fn revoke(share: &Share, owner: &TestNode, invited: &Invited) {
    let path = format!("/libraries/{}/revoke", share.id);
    let answer = owner.post(&path, json!({ "serial": invited.serial })).await;
    assert_eq!(answer["status"], "success", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_when_tickets_were_revoked_finds_its_way_back() {
    let mut owner = TestNode::start("owner", |_| {}).await;
    let (mut away, connected) = tokio::join!(stranger("away"), stranger("connected"));
    let share = Share::images(&owner).await;
    let first = image(&owner, "first").await;
    for member in [&away, &connected] {
        share.invite(&owner, json!({ "access": "write" })).await.join(member).await;
        arrives(member, &first).await;
    }
    assert!(!away.stop().await.failed);
    for _ in 0..2 {
        let revoked = share.invite(&owner, json!({ "access": "read" })).await;
        revoke(&share, &owner, &revoked).await;
    }
    // Who is connected goes on, also over restarts of either side.
    let second = image(&owner, "second").await;
    arrives(&connected, &second).await;
    assert!(!owner.stop().await.failed);
    owner.boot().await;
    // Its port may be another test's by now, and nothing here would find it at a new one.
    connected.dial(&owner).await;
    let third = image(&owner, "third").await;
    arrives(&connected, &third).await;
    // Who was away proves the key of two epochs ago, is told the list, and is let in with the new one.
    away.boot().await;
    away.dial(&owner).await;
    arrives(&away, &third).await;
    let own = image(&away, "its own").await;
    arrives(&owner, &own).await;
    assert!(!away.stop().await.failed);
    away.boot().await;
    let fourth = image(&owner, "fourth").await;
    arrives(&away, &fourth).await;
    // A ticket of this epoch has its key.
    let newcomer = stranger("newcomer").await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&newcomer).await;
    arrives(&newcomer, &fourth).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_machine_that_was_away_is_told_however_much_was_revoked() {
    let desk = TestNode::start("desk", |_| {}).await;
    let mut laptop = TestNode::start("laptop", |_| {}).await;
    laptop.dial(&desk).await;
    let share = Share::images(&desk).await;
    share.invite(&desk, json!({ "access": "write" })).await.join(&laptop).await;
    let goes = share.invite(&desk, json!({ "access": "write" })).await;
    let picture = image(&desk, "a picture").await;
    arrives(&laptop, &picture).await;
    assert!(!laptop.stop().await.failed);
    revoke(&share, &desk, &goes).await;
    for _ in 0..3 {
        let more = share.invite(&desk, json!({ "access": "read" })).await;
        revoke(&share, &desk, &more).await;
    }
    laptop.boot().await;
    laptop.dial(&desk).await;
    let own = image(&laptop, "its own").await;
    arrives(&desk, &own).await;
    // It is a member itself, and knows that the ticket is void: its holder is no longer let in.
    let holder = HostileMember::invited(&goes.ticket).await;
    eventually("the list came with the mirror", async || {
        let connection = holder.dial(&laptop).await;
        let mut talk = holder.open(&connection).await;
        talk.show(vec![holder.credential(&talk)]).await.map_err(|error| error.to_string())?;
        match talk.hear().await {
            Err(_) => Ok(()),
            Ok(frame) => Err(format!("{frame:?}")),
        }
    })
    .await;
    let peer = desk.peer(&laptop.id()).await;
    assert!(peer["last_error"].is_null(), "{peer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_former_epoch_leads_to_the_list_or_to_nothing() {
    let owner = TestNode::start("owner", |_| {}).await;
    let member = stranger("member").await;
    let share = Share::images(&owner).await;
    let picture = image(&owner, "a picture").await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&member).await;
    arrives(&member, &picture).await;
    let (stays, goes) = (
        share.invite(&owner, json!({ "access": "read" })).await,
        share.invite(&owner, json!({ "access": "write" })).await,
    );
    revoke(&share, &owner, &goes).await;
    for node in [&owner, &member] {
        // A ticket that holds: the list that the library signed, and the end of the stream.
        let hand = HostileMember::invited(&stays.ticket).await;
        let attempt = async || {
            let connection = hand.dial(node).await;
            let mut talk = hand.open(&connection).await;
            talk.show(vec![hand.credential(&talk)]).await.expect("sent");
            match talk.hear().await {
                Ok(frame::Kind::Revocations(told)) => Ok((connection, talk, told)),
                // The member has not heard of it yet.
                other => Err(format!("{other:?}")),
            }
        };
        let (connection, mut talk, told) = eventually("the list instead of a session", attempt).await;
        assert_eq!(told.library[..], talk.transcript().blinded(&hand.key())[..]);
        let id = Ticket::parse(&stays.ticket).unwrap().claims().library;
        let list = SignedRevocations::decode(id, &told.list).expect("signed by the library").list;
        assert!(list.serials.contains(&goes.serial) && list.epoch.number == 1, "{list:?}");
        let more = talk.hear().await;
        assert!(more.is_err(), "{more:?}");
        assert!(connection.close_reason().is_none(), "it may come again on this connection");

        // One that was revoked: nothing at all, and of members no more than a stranger learns.
        let revoked = HostileMember::invited(&goes.ticket).await;
        let connection = revoked.dial(node).await;
        let mut talk = revoked.open(&connection).await;
        talk.show(vec![revoked.credential(&talk)]).await.expect("sent");
        let heard = talk.hear().await;
        assert!(heard.is_err(), "{heard:?}");
        let (_, why) = closed(&connection).await;
        assert_eq!(why.contains("revoked"), node.id() == owner.id(), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_with_a_list_that_is_no_news_or_not_the_librarys_is_closed() {
    use can_sync::testing::wire::proto::Revocations;

    let owner = TestNode::start("owner", |_| {}).await;
    let share = Share::images(&owner).await;
    let (first, second) = (
        share.invite(&owner, json!({ "access": "read" })).await,
        share.invite(&owner, json!({ "access": "write" })).await,
    );
    let hand = HostileMember::invited(&first.ticket).await;
    // The owner knows it as a member, and dials it.
    let connection = hand.dial(&owner).await;
    drop(hand.joins(&connection).await);
    // Before it goes: it is dialled again at once, and is to be shown the new epoch then.
    revoke(&share, &owner, &second).await;
    connection.close(0_u32.into(), b"gone");
    let dialled = owner.post("/peers", json!({ "ticket": hand.endpoint_ticket() })).await;
    assert_eq!(dialled["status"], "success", "{dialled}");
    let connection = hand.is_dialled().await;
    let (mut talk, offered) = hand.listen(&connection).await;
    // What the owner shows is of the new epoch: whoever has the former key alone recognises nothing.
    let role = talk.role().other();
    assert!(!crate::support::member::proves(&offered, &talk.transcript(), role, &hand.key()));
    let library = talk.transcript().blinded(&hand.key()).to_vec().into();
    talk.say(frame::Kind::Revocations(Revocations { library, list: vec![1; 200].into() }))
        .await
        .expect("sent");
    let (code, why) = closed(&connection).await;
    assert_eq!(code, 400, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_cannot_be_told_a_new_key_go_on_until_all_are_revoked() {
    let mut owner = TestNode::start("owner", |_| {}).await;
    let member = stranger("member").await;
    let share = Share::images(&owner).await;
    let first = image(&owner, "first").await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&member).await;
    arrives(&member, &first).await;
    let other = share.invite(&owner, json!({ "access": "read" })).await;
    // As if they had been issued before anything was kept of them.
    assert!(!owner.stop().await.failed);
    let kept = rusqlite::Connection::open(owner.config.data_dir.join("libraries.db")).expect("the registry");
    kept.execute("DELETE FROM sealing_keys", []).expect("written");
    drop(kept);
    owner.boot().await;
    member.dial(&owner).await;
    revoke(&share, &owner, &other).await;
    let second = image(&owner, "second").await;
    arrives(&member, &second).await;
    let hand = HostileMember::invited(&other.ticket).await;
    let connection = hand.dial(&owner).await;
    let mut talk = hand.open(&connection).await;
    talk.show(vec![hand.credential(&talk)]).await.expect("sent");
    assert!(talk.hear().await.is_err());
    let (_, why) = closed(&connection).await;
    assert!(why.contains("revoked"), "{why}");
    // After all were revoked, there are none left of which nothing is known.
    let path = format!("/libraries/{}/revoke", share.id);
    let all = owner.post(&path, json!({ "all": true })).await;
    assert_eq!(all["data"]["min_epoch"], 1, "{all}");
    share.invite(&owner, json!({ "access": "read" })).await.join(&member).await;
    let third = image(&owner, "third").await;
    arrives(&member, &third).await;
    let last = share.invite(&owner, json!({ "access": "read" })).await;
    revoke(&share, &owner, &last).await;
    let fourth = image(&owner, "fourth").await;
    arrives(&member, &fourth).await;
}
