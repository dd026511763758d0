//! A member that may write into a library says of what is outside of it, or of what nobody has, whatever it likes.

use can_sync::testing::config::Config;
use can_sync::testing::peer::establish::summary_to_wire;
use can_sync::testing::reconcile::Summary;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, Hlc};
use can_sync::testing::wire::proto::{Ping, frame};
use serde_json::{Value, json};

use crate::libraries::{Share, edit, stranger};
use crate::support::hostile::hash_of;
use crate::support::library_member::{Member, Session};
use crate::support::nodes::{TestNode, eventually};

const IMAGE: &[(&str, &str)] = &[("mime_type", "image/png")];
const TEXT: &[(&str, &str)] = &[("mime_type", "text/plain")];

fn deletes(config: &mut Config) {
    config.replicate_deletes = true;
}

/// What a member says of an asset, as if it belonged to a library of images, dated so many milliseconds from now.
pub(crate) fn said(content: &[u8], from_now_ms: i64) -> AssetRecord {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
    let now = u64::try_from(now).expect("a time").saturating_add_signed(from_now_ms);
    let meta = AssetMeta {
        mime_type: "image/png".into(),
        filename: Some("of the member".into()),
        created_at_ms: now,
        ..AssetMeta::default()
    };
    let hlc = Hlc::from_ms(now);
    AssetRecord { hlc, ..AssetRecord::new(hash_of(content), content.len() as u64, None, meta) }
}

async fn session(ticket: &str, victim: &TestNode) -> Session {
    let member = Member::new(ticket, victim).await;
    let session = member.session().await.map_err(|(_, error)| error).expect("a session");
    // The endpoint ends with whoever drops it.
    std::mem::forget(member);
    session
}

async fn filename(node: &TestNode, hash: &str) -> Value {
    node.store(&format!("/asset/{hash}/meta")).await["data"]["filename"].clone()
}

/// The library has nothing, and gives nothing away.
async fn is_empty(share: &Share, owner: &TestNode, session: &mut Session, hash: ContentHash) {
    let counts = share.detail(owner).await["counts"].clone();
    assert_eq!(counts["assets"], 0, "{counts}");
    assert_eq!(session.reconcile().await, [], "its tree");
    assert_eq!(session.find(&[hash]).await, [hash]);
    let (header, bytes) = session.content(77, hash).await;
    assert!(header.gone && bytes == 0, "it is served: {header:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_an_own_machine_does_not_become_a_librarys_because_a_member_named_it() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "write" })).await;
    let mut m = session(&invited.ticket, &a).await;
    let secret = b"a text that is nobody else's";
    let hash = hash_of(secret);
    // Named under the newest time, asked for, and not delivered for as long as it takes.
    m.offer(&said(secret, 30_000), true).await;
    let request = m.wanted(hash).await;
    let text = b.ingest(&secret[..], TEXT).await;
    assert_eq!(text, hash.to_string());
    eventually("the own machine's offer is known", async || {
        let why = a.get(&format!("/why/{hash}")).await;
        let sources = why["data"]["sources"].as_array().map_or(0, Vec::len);
        (sources >= 2 || a.content(&text).await.is_some()).then_some(()).ok_or_else(|| why.to_string())
    })
    .await;
    m.deny(request, hash).await;
    eventually("it comes", async || a.content(&text).await.map(drop).ok_or_else(|| text.clone())).await;
    b.wait_in_sync().await;
    for node in [&a, &b] {
        assert_eq!(filename(node, &text).await, "file.bin", "{} has what the member says", node.config.name);
    }
    is_empty(&share, &a, &mut m, hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_puts_after_a_member_named_it_is_the_owners_and_stays() {
    let a = TestNode::start("a", |_| {}).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "write" })).await;
    let picture = b"a picture to come";
    let mut m = session(&invited.ticket, &a).await;
    m.offer(&said(picture, -1_000), true).await;
    m.wanted(hash_of(picture)).await;
    m.connection.close(0_u32.into(), b"it has named it");
    let own = a.ingest(&picture[..], IMAGE).await;
    eventually("it is in the library", async || {
        let counts = share.detail(&a).await["counts"].clone();
        (counts["assets"] == 1).then_some(()).ok_or_else(|| counts.to_string())
    })
    .await;
    let url = format!("http://{}/libraries/{}?content=delete", a.node().api_addr(), share.id);
    let answer: Value = a.http.delete(url).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer["data"]["let_go"], 0, "{answer}");
    assert_eq!(a.content(&own).await.as_deref(), Some(&picture[..]), "the owner's own went");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_puts_after_a_member_named_it_is_served_to_nobody() {
    let owner = stranger("owner").await;
    let share = Share::images(&owner).await;
    let reader = TestNode::start("reader", |_| {}).await;
    share.invite(&owner, json!({ "access": "read" })).await.join(&reader).await;
    let writes = share.invite(&owner, json!({ "access": "write" })).await;
    let picture = b"a picture of the reader's own";
    let hash = hash_of(picture);
    let mut m = session(&writes.ticket, &reader).await;
    m.offer(&said(picture, -1_000), true).await;
    m.wanted(hash).await;
    m.connection.close(0_u32.into(), b"it has named it");
    reader.ingest(&picture[..], IMAGE).await;
    reader.wait_in_sync().await;
    for access in ["read", "write"] {
        let ticket = share.invite(&owner, json!({ "access": access })).await.ticket;
        let mut other = session(&ticket, &reader).await;
        is_empty(&share, &reader, &mut other, hash).await;
    }
    assert!(owner.assets().await.is_empty(), "it reached the owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_deletion_of_what_was_never_here_reaches_no_other_machine() {
    let (a, b) = tokio::join!(TestNode::start("a", deletes), TestNode::start("b", deletes));
    let secret = b"a text of b's";
    let hash = hash_of(secret);
    let text = b.ingest(&secret[..], TEXT).await;
    let share = Share::images(&a).await;
    let invited = share.invite(&a, json!({ "access": "write" })).await;
    let mut m = session(&invited.ticket, &a).await;
    for left in [false, true] {
        let gone = AssetRecord { deleted: true, left, ..said(secret, 10_000) };
        m.offer(&gone, true).await;
        assert_eq!(m.answered(hash).await, Ok(()));
    }
    assert!(a.assets().await.is_empty());
    b.dial(&a).await;
    eventually("a has it from b", async || a.content(&text).await.map(drop).ok_or_else(|| text.clone()))
        .await;
    b.wait_in_sync().await;
    for node in [&a, &b] {
        assert_eq!(filename(node, &text).await, "file.bin");
        assert_eq!(node.content(&text).await.as_deref(), Some(&secret[..]), "{}", node.config.name);
    }
    // Deleted once more, while it is here; and told to be there, with another size.
    for record in [
        AssetRecord { deleted: true, ..said(secret, 20_000) },
        AssetRecord { size: 5, ..said(secret, 25_000) },
    ] {
        m.offer(&record, false).await;
        let _ = m.answered(hash).await;
    }
    b.wait_in_sync().await;
    for node in [&a, &b] {
        assert_eq!(filename(node, &text).await, "file.bin", "{} has what the member says", node.config.name);
        assert!(node.content(&text).await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_library_while_a_reader_confirms_nothing_is_not_told_afterwards() {
    // More text than may be unconfirmed at once, and more records than are loaded at once.
    const ASSETS: usize = 520;
    let owner = TestNode::start("owner", |_| {}).await;
    let filler = "x".repeat(15_000);
    let fields = [("mime_type", "image/png"), ("tags", "shared"), ("description", filler.as_str())];
    for n in 0..ASSETS {
        owner.ingest(format!("picture {n}"), &fields).await;
    }
    let share = Share::new(&owner, json!({ "tags": ["shared"] })).await;
    let invited = share.invite(&owner, json!({ "access": "read" })).await;
    let mut m = session(&invited.ticket, &owner).await;
    let need = m.reconcile().await;
    assert_eq!(need.len(), ASSETS);
    m.ask(&need).await;
    let mut offered = Vec::new();
    while m.find(&[ContentHash([1; 32])]).await.is_empty() || offered.is_empty() {
        offered = m.offered();
    }
    assert!(offered.len() < ASSETS, "{} wait for no confirmation", offered.len());
    let all: Vec<String> = owner.held().await;
    let waits = all.iter().find(|hash| offered.iter().all(|record| record.hash.to_string() != **hash));
    let waits = waits.expect("one that is not offered yet").clone();
    edit(&owner, &waits, json!({ "tags": ["private"], "description": "a secret" })).await;
    eventually("it left", async || {
        let counts = share.detail(&owner).await["counts"].clone();
        (counts["assets"] == ASSETS - 1).then_some(()).ok_or_else(|| counts.to_string())
    })
    .await;
    m.confirm(&offered).await;
    eventually("all the others are offered", async || {
        let _ = m.find(&[ContentHash([1; 32])]).await;
        let live = m.offered().iter().filter(|record| !record.deleted).count();
        (live >= ASSETS - 1).then_some(()).ok_or_else(|| live.to_string())
    })
    .await;
    for record in m.offered().iter().filter(|record| record.hash.to_string() == waits) {
        assert!(record.deleted && record.meta == AssetMeta::default(), "it is told: {record:?}");
    }
}

/// What the owner says about itself now.
async fn counts(session: &mut Session, nonce: u64) -> (u64, u64, u64) {
    let mine = summary_to_wire(&session.library(), &Summary::default());
    session.send(frame::Kind::Ping(Ping { nonce, libraries: vec![mine], ..Ping::default() })).await;
    session
        .until("Pong", |kind| match kind {
            frame::Kind::Pong(pong) if pong.nonce == nonce => {
                let theirs = &pong.libraries[0];
                Some((theirs.count, theirs.assets, theirs.total_bytes))
            }
            _ => None,
        })
        .await
}

/// All that a member can find out about a hash: what each step leads to, and what the owner looks like afterwards.
async fn probe(owner: &TestNode, ticket: &str, content: &[u8]) -> Vec<String> {
    let hash = hash_of(content);
    let mut m = session(ticket, owner).await;
    let mut seen = Vec::new();
    let mut nonce = 1_000;
    macro_rules! note {
        ($what:expr, $found:expr) => {{
            let found = $found;
            nonce += 1;
            // Once this is answered, all that was confirmed is seen everywhere.
            let counts = counts(&mut m, nonce).await;
            let lacks = m.find(&[hash, ContentHash([1; 32])]).await.len();
            let (header, bytes) = m.content(nonce, hash).await;
            let need = m.reconcile().await.len();
            let served = (header.gone, header.total, bytes);
            seen.push(format!("{}: {found:?}; {lacks} {served:?} {need} {counts:?}", $what));
        }};
    }
    note!("before", ());
    m.offer(&said(content, -9_000), true).await;
    let request = m.wanted(hash).await;
    m.deny(request, hash).await;
    note!("named", m.answered(hash).await);
    m.offer(&AssetRecord { deleted: true, ..said(content, -8_000) }, true).await;
    note!("deleted", m.answered(hash).await);
    m.offer(&AssetRecord { deleted: true, left: true, ..said(content, -7_000) }, true).await;
    note!("moved out", m.answered(hash).await);
    m.offer(&said(content, -6_000), false).await;
    note!("known", m.answered(hash).await);
    m.offer(&AssetRecord { size: 3, ..said(content, -5_000) }, false).await;
    note!("of another size", m.answered(hash).await);
    m.offer(&said(content, -4_000), true).await;
    let request = m.wanted(hash).await;
    m.give(request, content).await;
    note!("delivered", m.answered(hash).await);
    m.offer(&AssetRecord { size: 4, ..said(content, -3_000) }, true).await;
    note!("of another size again", m.answered(hash).await);
    m.offer(&said(content, -2_000), true).await;
    note!("edited", m.answered(hash).await);
    m.offer(&AssetRecord { deleted: true, ..said(content, -1_000) }, true).await;
    note!("deleted again", m.answered(hash).await);
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_of_a_library_makes_no_difference_to_anything_that_a_member_sees() {
    let content = b"a text that a member knows, too";
    for deletes in [false, true] {
        let mut seen = Vec::new();
        for is_here in [false, true] {
            let owner = TestNode::start("owner", |config| config.replicate_deletes = deletes).await;
            if is_here {
                owner.ingest(&content[..], TEXT).await;
            }
            let share = Share::images(&owner).await;
            let invited = share.invite(&owner, json!({ "access": "write" })).await;
            seen.push(probe(&owner, &invited.ticket, content).await);
            if is_here {
                let text = hash_of(content).to_string();
                assert_eq!(filename(&owner, &text).await, "file.bin", "what the member says came through");
                assert!(owner.content(&text).await.is_some(), "it was deleted");
            }
        }
        assert_eq!(seen[0], seen[1], "what is here shows (replicate_deletes: {deletes})");
        assert!(seen[0].iter().any(|step| step.contains("named: Err")), "{:?}", seen[0]);
        assert!(
            seen[0].iter().any(|step| step.starts_with("delivered: Ok(())") && step.contains("false")),
            "{:?}",
            seen[0]
        );
    }
}
