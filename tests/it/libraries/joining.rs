//! What of one's own becomes part of a library that one joins with a ticket to write.

use can_sync::testing::config::Config;
use serde_json::json;

use super::{Share, edit, stranger};
use crate::support::clock::{DAY_MS, SetClock};
use crate::support::nodes::{TestNode, eventually};

async fn arrives(node: &TestNode, hash: &str) {
    eventually("the asset", async || node.content(hash).await.map(drop).ok_or_else(|| hash.to_owned())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_here_before_joining_is_shared_only_if_a_user_says_so() {
    let a = TestNode::start("a", |_| {}).await;
    let mut b = stranger("b").await;
    let theirs = a.ingest("theirs", &[("mime_type", "image/png")]).await;
    let private = b.ingest("private", &[("mime_type", "image/png")]).await;
    let changed = b.ingest("changed later", &[("mime_type", "text/plain")]).await;
    b.ingest("does not match", &[("mime_type", "text/plain")]).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "write" })).await;

    let preview = b.post("/join/preview", json!({ "ticket": invited.ticket })).await;
    assert_eq!(preview["data"]["matching"], json!({ "assets": 1, "bytes": 7 }), "{preview}");
    invited.join(&b).await;
    arrives(&b, &theirs).await;
    // What is put from now on is shared, and what is made to match from now on.
    let put = b.ingest("put later", &[("mime_type", "image/png")]).await;
    edit(&b, &changed, json!({ "mime_type": "image/x-changed" })).await;
    arrives(&a, &put).await;
    arrives(&a, &changed).await;
    share.in_sync(&a).await;
    assert!(a.content(&private).await.is_none(), "it was shared without a yes");
    assert_eq!(share.detail(&b).await["counts"]["assets"], 3);

    // A restart changes nothing about it.
    b.stop().await;
    b.boot().await;
    let after = b.ingest("after the restart", &[("mime_type", "image/png")]).await;
    arrives(&a, &after).await;
    share.in_sync(&a).await;
    assert!(a.content(&private).await.is_none(), "it was shared after a restart");

    // A user may say so later.
    let answer = b.post("/join", json!({ "ticket": invited.ticket, "share_existing": true })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    arrives(&a, &private).await;
    // Joining once more takes nothing back.
    invited.join(&b).await;
    assert_eq!(share.detail(&b).await["counts"]["assets"], 5);
}

/// Two own machines, of which the second joins without a yes; an edit that was made while the first one's clock was a day ahead
/// is overtaken there, so that what is private is written once more, at a later date.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_once_more_by_a_machine_stays_private() {
    let (clock_a, clock_b, right) = (SetClock::right(), SetClock::right(), SetClock::right());
    let passphrase =
        |config: &mut Config| config.sync_passphrase = Some("of the owner alone, and long".into());
    let (owner, ahead, b) = tokio::join!(
        TestNode::start_by("owner", &right, passphrase),
        TestNode::start_by("ahead", &clock_a, |_| {}),
        TestNode::start_by("b", &clock_b, |_| {})
    );
    let private = b.ingest("private", &[("mime_type", "image/png")]).await;
    ahead.dial(&b).await;
    ahead.holds(1).await;
    ahead.wait_in_sync().await;
    clock_a.set_ahead(DAY_MS);
    edit(&ahead, &private, json!({ "description": "a day ahead" })).await;
    eventually("it waits", async || {
        let peers = b.get("/peers").await;
        let waits = peers["data"]["peers"][0]["deferred_here"] == 1;
        waits.then_some(()).ok_or_else(|| peers.to_string())
    })
    .await;
    edit(&b, &private, json!({ "description": "newer" })).await;
    let share = Share::images(&owner).await;
    share.invite(&owner, json!({ "access": "write" })).await.join(&b).await;
    // The edit is dated anew, and was made before: what is here is written once more, after we joined.
    clock_a.set_ahead(0);
    eventually("the newer one stays", async || {
        let meta = ahead.store(&format!("/asset/{private}/meta")).await;
        (meta["data"]["description"] == "newer").then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;
    let put = b.ingest("put later", &[("mime_type", "image/png")]).await;
    arrives(&owner, &put).await;
    share.in_sync(&owner).await;
    assert!(owner.content(&private).await.is_none(), "it was shared without a yes");
    // A user's edit shares it.
    edit(&b, &private, json!({ "description": "by a user" })).await;
    arrives(&owner, &private).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_by_a_wrong_clock_shares_nothing_that_was_here_and_all_that_is_put_once_it_is_set() {
    // Clocks of before the program was built are not believed, so what was here is dated ahead instead.
    let (clock, right) = (SetClock::ahead(2 * DAY_MS), SetClock::right());
    let passphrase =
        |config: &mut Config| config.sync_passphrase = Some("of the owner alone, and long".into());
    let (owner, b) = tokio::join!(
        TestNode::start_by("owner", &right, passphrase),
        TestNode::start_by("b", &clock, |_| {})
    );
    let private = b.ingest("private", &[("mime_type", "image/png")]).await;
    // Joined while the clock is behind what was put.
    clock.set_ahead(0);
    let (behind, ahead) = (Share::images(&owner).await, Share::images(&owner).await);
    behind.invite(&owner, json!({ "access": "write" })).await.join(&b).await;
    assert_eq!(behind.detail(&b).await["counts"]["assets"], 0);
    // And another one while it is ahead.
    clock.set_ahead(2 * DAY_MS);
    ahead.invite(&owner, json!({ "access": "write" })).await.join(&b).await;
    clock.set_ahead(0);
    b.ingest("put later", &[("mime_type", "image/png")]).await;
    for share in [&behind, &ahead] {
        eventually("what is put belongs", async || {
            let counts = share.detail(&b).await["counts"].clone();
            (counts["assets"] == 1).then_some(()).ok_or_else(|| counts.to_string())
        })
        .await;
    }
    for share in [&behind, &ahead] {
        share.in_sync(&owner).await;
    }
    assert!(owner.content(&private).await.is_none(), "it was shared without a yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_to_read_shares_nothing_and_asks_nothing() {
    let a = TestNode::start("a", |_| {}).await;
    let b = stranger("b").await;
    b.ingest("private", &[("mime_type", "image/png")]).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "read" })).await;
    let preview = b.post("/join/preview", json!({ "ticket": invited.ticket })).await;
    assert_eq!(preview["data"]["matching"], json!({ "assets": 0, "bytes": 0 }), "{preview}");
    let answer = b.post("/join", json!({ "ticket": invited.ticket, "share_existing": true })).await;
    assert_eq!(answer["data"]["counts"]["assets"], 0, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_here_before_joining_is_deleted_without_a_word_to_the_library() {
    let a = TestNode::start("a", |config| config.replicate_deletes = true).await;
    let b = stranger("b").await;
    let both = a.ingest("both have it", &[("mime_type", "image/png")]).await;
    b.ingest("both have it", &[("mime_type", "image/png")]).await;
    let share = Share::images(&a).await;
    share.invite(&a, json!({ "access": "write" })).await.join(&b).await;
    share.in_sync(&b).await;
    delete(&b, &both).await;
    let own = b.ingest("of the library", &[("mime_type", "image/png")]).await;
    arrives(&a, &own).await;
    share.in_sync(&a).await;
    assert!(a.content(&both).await.is_some(), "a private deletion reached the library");
    // What is the library's is deleted there.
    delete(&b, &own).await;
    eventually("the deletion", async || {
        a.content(&own).await.is_none().then_some(()).ok_or_else(String::new)
    })
    .await;
}

async fn delete(node: &TestNode, hash: &str) {
    let url = format!("{}/asset/{hash}", node.node().store_url());
    let answer = node.http.delete(url).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
}
