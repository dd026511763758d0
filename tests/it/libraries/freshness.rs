//! How old a member's list of revocations may become, where the owner limits that.

use can_sync::testing::library::ticket::Ticket;
use can_sync::testing::record::ContentHash;
use can_sync::testing::wire::proto::frame;
use serde_json::{Value, json};

use super::{OTHER, Share, edit};
use crate::hostile::lanes::said;
use crate::support::clock::{DAY_MS, SetClock};
use crate::support::library_member::{Member, Session};
use crate::support::nodes::{TestNode, eventually};

async fn stranger_by(clock: &SetClock, name: &str) -> TestNode {
    let passphrase = format!("{OTHER} of {name}");
    TestNode::start_by(name, clock, |config| config.sync_passphrase = Some(passphrase.into())).await
}

async fn image(node: &TestNode, content: &str) -> String {
    node.ingest(content, &[("mime_type", "image/png")]).await
}

async fn arrives(node: &TestNode, hash: &str) {
    eventually("it arrives", async || node.content(hash).await.map(drop).ok_or_else(|| hash.to_owned()))
        .await;
}

async fn description(node: &TestNode, hash: &str) -> Value {
    node.store(&format!("/asset/{hash}/meta")).await["data"]["description"].clone()
}

/// Waits until `/why` says that a version waits for a list of revocations, here or at the other machine.
async fn is_held(node: &TestNode, hash: &str, here: bool) {
    eventually("it is held", async || {
        let why = node.get(&format!("/why/{hash}")).await;
        let all = why["data"]["waiting"].as_array().cloned().unwrap_or_default();
        let is = all.iter().any(|waiting| waiting["held"] == true && waiting["here"] == here);
        is.then_some(()).ok_or_else(|| why.to_string())
    })
    .await;
}

/// Whether an offer of this content waits for a list of revocations.
async fn is_held_by(session: &mut Session, hash: ContentHash) -> bool {
    let deferred = |kind: &frame::Kind| match kind {
        frame::Kind::Later(later) => {
            later.deferrals.iter().find(|one| one.hash == hash.0.to_vec()).map(|one| one.held)
        }
        _ => None,
    };
    session.until("answer", deferred).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_saw_a_list_holds_what_others_send() {
    let clock = SetClock::right();
    let (mut owner, member) = tokio::join!(stranger_by(&clock, "owner"), stranger_by(&clock, "member"));
    let request =
        json!({ "name": "images", "filter": { "mime_prefix": "image/" }, "fresh_within_secs": 86_400 });
    let made = owner.post("/libraries", request).await;
    let share = Share { id: made["data"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned() };
    let first = image(&owner, "first").await;
    let to_write = share.invite(&owner, json!({ "access": "write" })).await;
    let to_read = share.invite(&owner, json!({ "access": "read" })).await;
    // It joins while the owner is away, and whom it meets passes no list on: its ticket may be void.
    assert!(!owner.stop().await.failed);
    to_read.join(&member).await;
    let by_hand = Member::new(&to_write.ticket, &member).await;
    let mut writer = by_hand.session().await.map_err(|(_, error)| error).expect("a session");
    let said = said(b"second", -1_000);
    writer.offer(&said, true).await;
    assert!(is_held_by(&mut writer, said.hash).await);
    let detail = share.detail(&member).await;
    assert_eq!(detail["fresh_within_secs"], 86_400, "{detail}");
    let why = detail["stale"].as_str().unwrap_or_else(|| panic!("{detail}"));
    assert!(why.contains("no list of revoked tickets"), "{why}");

    owner.boot().await;
    member.dial(&owner).await;
    // What the owner has never waits, and with its list nothing does.
    arrives(&member, &first).await;
    eventually("nothing is held", async || {
        let detail = share.detail(&member).await;
        if detail["stale"].is_null() { Ok(()) } else { Err(detail.to_string()) }
    })
    .await;
    writer.offer(&said, true).await;
    writer.wanted(said.hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_writer_sends_waits_at_a_member_until_the_owner_was_met() {
    let clock = SetClock::right();
    let (mut owner, writer, member) = tokio::join!(
        stranger_by(&clock, "owner"),
        stranger_by(&clock, "writer"),
        stranger_by(&clock, "member")
    );
    let library = |secs: u64| json!({ "name": "images", "filter": { "mime_prefix": "image/" }, "fresh_within_secs": secs });
    for secs in [86_399, 31_536_001] {
        let refused = owner.post("/libraries", library(secs)).await;
        assert_eq!(refused["code"], "invalid_fresh_within", "{refused}");
        assert!(refused.to_string().contains(&format!("fresh_within_secs is {secs}")), "{refused}");
    }
    let made = owner.post("/libraries", library(86_400)).await;
    let share = Share { id: made["data"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned() };
    let first = image(&owner, "first").await;
    share.invite(&owner, json!({ "access": "write" })).await.join(&writer).await;
    arrives(&writer, &first).await;
    share.member(&owner).await;
    owner.dial(&writer).await;
    // The member finds the writer by the addresses in its ticket.
    let invited = eventually("a ticket that leads to the writer", async || {
        let invited = share.invite(&owner, json!({ "access": "read" })).await;
        let addrs = Ticket::parse(&invited.ticket).expect("a ticket").addrs;
        let leads = addrs.iter().any(|addr| addr.id.to_string() == writer.id());
        if leads { Ok(invited) } else { Err(format!("{addrs:?}")) }
    })
    .await;
    invited.join(&member).await;
    arrives(&member, &first).await;
    let state = async |node: &TestNode, what: &str, is: &dyn Fn(&Value) -> bool| {
        eventually(what, async || {
            let detail = share.detail(node).await;
            if is(&detail) { Ok(detail) } else { Err(detail.to_string()) }
        })
        .await
    };
    let detail = state(&member, "connected", &|detail| detail["progress"]["connected"] == 2).await;
    assert_eq!(detail["fresh_within_secs"], 86_400, "{detail}");

    // While the owner is there, it signs the list anew, and everybody has it.
    clock.pass(2 * DAY_MS);
    for node in [&member, &writer] {
        state(node, "a new list came", &|detail| detail["stale"].is_null()).await;
    }
    let second = image(&writer, "second").await;
    arrives(&member, &second).await;

    // The owner goes, and with time nobody can tell any more whether it took a ticket back.
    assert!(!owner.stop().await.failed);
    clock.pass(2 * DAY_MS);
    let third = image(&writer, "third").await;
    edit(&writer, &first, json!({ "description": "edited" })).await;
    for hash in [&third, &first] {
        is_held(&member, hash, true).await;
        is_held(&writer, hash, false).await;
    }
    // Whoever waits until everything is there is not told that it is.
    let status = eventually("the writer says so", async || {
        let status = writer.get("/status").await;
        if status["data"]["sync"]["state"] == "versions_held" { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let reason = status["data"]["sync"]["reason"].as_str().unwrap_or_else(|| panic!("{status}"));
    assert!(reason.contains("2 versions") && reason.contains("keep the original"), "{reason}");
    let library = share.detail(&writer).await;
    assert_eq!(
        (&library["progress"]["state"], &library["progress"]["held_there"]),
        (&json!("held"), &json!(2))
    );
    assert!(member.get("/status").await.to_string().contains("2 versions of others wait"));
    assert!(member.content(&third).await.is_none());
    assert_ne!(description(&member, &first).await, "edited");
    let detail = share.detail(&member).await;
    let said = detail["stale"].as_str().unwrap_or_else(|| panic!("{detail}"));
    assert!(said.contains("2 days old") && said.contains("allows 24 hours"), "{said}");
    // Nobody's clock is blamed for it, and nothing was refused.
    let peer = member.peer(&writer.id()).await;
    assert_eq!((&peer["deferred_here"], &peer["last_error"]), (&json!(0), &Value::Null), "{peer}");

    owner.boot().await;
    arrives(&member, &third).await;
    eventually("the edit", async || {
        let said = description(&member, &first).await;
        (said == "edited").then_some(()).ok_or_else(|| said.to_string())
    })
    .await;
    state(&member, "nothing is held", &|detail| detail["stale"].is_null()).await;
    state(&writer, "nothing is held there", &|detail| detail["progress"]["held_there"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_clock_is_behind_is_believed_by_whom_it_tells() {
    let (right, behind) = (SetClock::ahead(2 * DAY_MS), SetClock::right());
    let (mut owner, writer, member) = tokio::join!(
        stranger_by(&behind, "owner"),
        stranger_by(&right, "writer"),
        stranger_by(&right, "member")
    );
    let request =
        json!({ "name": "images", "filter": { "mime_prefix": "image/" }, "fresh_within_secs": 86_400 });
    let made = owner.post("/libraries", request).await;
    let share = Share { id: made["data"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned() };
    let first = image(&owner, "first").await;
    share.invite(&owner, json!({ "access": "write" })).await.join(&writer).await;
    arrives(&writer, &first).await;
    share.member(&owner).await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&member).await;
    arrives(&member, &first).await;
    let is_fresh = async |node: &TestNode, fresh: bool| {
        eventually("the list's age", async || {
            let detail = share.detail(node).await;
            if detail["stale"].is_null() == fresh { Ok(()) } else { Err(detail.to_string()) }
        })
        .await;
    };
    is_fresh(&member, true).await;
    // That ends once the owner has not been met for as long as it allows.
    assert!(!owner.stop().await.failed);
    right.pass(DAY_MS + 60_000);
    is_fresh(&member, false).await;
}
