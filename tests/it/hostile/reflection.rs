//! A member of one library, or anybody whom the user dials, that hears proofs and tickets and uses them for itself.

use std::sync::LazyLock;

use can_sync::testing::identity::{Key, NetworkKeys};
use can_sync::testing::net::auth::{Credential, Role};
use can_sync::testing::reconcile::Summary;
use can_sync::testing::wire::proto::{Auth, Welcome, frame};
use iroh::endpoint::Connection;
use serde_json::{Value, json};

use crate::support::hostile::closed;
use crate::support::member::{HostileMember, proof_of, proves};
use crate::support::nodes::{PASSPHRASE, TestNode, eventually};

const IMAGE: &[(&str, &str)] = &[("mime_type", "image/png")];

/// What the attacker does not know, and the test does.
static MIRROR: LazyLock<Key> =
    LazyLock::new(|| NetworkKeys::derive(&PASSPHRASE.into()).mirror().auth().clone());

/// A node with a library of images, and one asset outside of it.
async fn owner() -> (TestNode, String) {
    let a = TestNode::start("a", |_| {}).await;
    a.ingest("a secret", &[("mime_type", "text/plain")]).await;
    a.ingest("a picture", IMAGE).await;
    let made = a.post("/libraries", json!({ "name": "images", "filter": { "mime_prefix": "image/" } })).await;
    (a, made["data"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned())
}

async fn invite(node: &TestNode, library: &str, terms: Value) -> (String, u64) {
    let answer = node.post(&format!("/libraries/{library}/invite"), terms).await;
    let ticket = answer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("{answer}"));
    (ticket.to_owned(), answer["data"]["serial"].as_u64().expect("a serial"))
}

/// Has a node dial the member, as its user asked for.
async fn dialled_by(a: &TestNode, m: &HostileMember) -> Connection {
    let answer = a.post("/peers", json!({ "ticket": m.endpoint_ticket() })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    m.is_dialled().await
}

/// The connection was closed as an attack, and the node says so.
async fn was_seen_through(a: &TestNode, m: &HostileMember, connection: &Connection) {
    let (code, reason) = closed(connection).await;
    assert_eq!(code, 400, "{reason}");
    assert!(reason.contains("sent our own proof back"), "{reason}");
    eventually("the peer is held for it", async || {
        let peer = a.peer(&m.id().to_string()).await;
        peer.to_string().contains("an attack").then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    let connected = a.get("/status").await["data"]["peers"]["connected"].clone();
    assert_eq!(connected, 0, "it has a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_worth_nothing_when_whoever_was_dialled_sends_it_back() {
    let (a, _) = owner().await;
    let m = HostileMember::new().await;
    let connection = dialled_by(&a, &m).await;
    let (mut talk, shown) = m.listen(&connection).await;
    assert!(proves(&shown, &talk.transcript(), Role::Opener, &MIRROR), "the user named it");
    talk.say(frame::Kind::Auth(shown)).await.unwrap();
    was_seen_through(&a, &m, &connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_worth_nothing_when_it_comes_back_on_a_second_control_stream() {
    let (a, library) = owner().await;
    let (ticket, _) = invite(&a, &library, json!({ "access": "read" })).await;
    let m = HostileMember::invited(&ticket).await;
    let connection = m.dial(&a).await;
    let (talk, _) = m.joins(&connection).await;
    is_connected(&a).await;
    drop(talk);
    connection.close(0_u32.into(), b"to be dialled");
    // The user takes it for a machine of his own, so it is shown the proof of the mirror beside that of its library.
    let mut connection = dialled_by(&a, &m).await;
    let (mut first, mut shown) = m.listen(&connection).await;
    // It may have been dialled as a member already, before the user named it; then it is dialled once more.
    while !proves(&shown, &first.transcript(), Role::Opener, &MIRROR) {
        connection.close(0_u32.into(), b"to be dialled");
        connection = m.is_dialled().await;
        (first, shown) = m.listen(&connection).await;
    }
    assert!(proves(&shown, &first.transcript(), Role::Opener, &m.key()), "it took part in this one");
    // While that stream is under way, no other one counts.
    let ignored = m.try_open(&connection).await;
    assert!(ignored.is_err(), "it answers");
    first.show(vec![m.credential(&first)]).await.unwrap();
    let library = bytes::Bytes::copy_from_slice(&first.transcript().blinded(&m.key()));
    let summary = can_sync::testing::peer::establish::summary_to_wire(&library, &Summary::default());
    let welcome = Welcome { libraries: vec![summary], ..Welcome::default() };
    first.say(frame::Kind::Welcome(welcome)).await.unwrap();
    is_connected(&a).await;
    let mut second = m.open(&connection).await;
    second.say(frame::Kind::Auth(shown)).await.unwrap();
    was_seen_through(&a, &m, &connection).await;
}

/// Waits until the node has a session.
async fn is_connected(node: &TestNode) {
    eventually("the session is up", async || {
        let status = node.get("/status").await;
        (status["data"]["peers"]["connected"] == 1).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_worth_nothing_when_whoever_dialled_sends_it_back() {
    let (a, library) = owner().await;
    let (ticket, _) = invite(&a, &library, json!({ "access": "read" })).await;
    let m = HostileMember::invited(&ticket).await;
    let connection = m.dial(&a).await;
    let (first, shown) = m.joins(&connection).await;
    assert!(proves(&shown, &first.transcript(), Role::Answerer, &m.key()));
    assert!(!proves(&shown, &first.transcript(), Role::Answerer, &MIRROR), "it did not prove that itself");
    // Until it is up, no other stream counts.
    is_connected(&a).await;
    let mut second = m.open(&connection).await;
    second.say(frame::Kind::Auth(shown)).await.unwrap();
    was_seen_through(&a, &m, &connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_worth_nothing_on_another_connection() {
    let (a, _) = owner().await;
    let m = HostileMember::new().await;
    let connection = dialled_by(&a, &m).await;
    let (talk, shown) = m.listen(&connection).await;
    let proof = proof_of(&shown, &talk.transcript(), Role::Opener, &MIRROR);
    let other = m.dial(&a).await;
    // The node has one connection with each peer, and may close this one for that; it is not let in either way.
    if let Ok(mut talk) = m.try_open(&other).await {
        let _ = talk.say(frame::Kind::Auth(Auth { libraries: vec![proof] })).await;
        assert!(talk.hear().await.is_err(), "it was let in");
    }
    let (code, reason) = closed(&other).await;
    assert!(code == 401 || code == 409, "{code}: {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitee_that_hangs_up_and_is_dialled_back_is_offered_its_library_and_nothing_else() {
    let (a, library) = owner().await;
    let (ticket, _) = invite(&a, &library, json!({ "access": "read" })).await;
    let m = HostileMember::invited(&ticket).await;
    let connection = m.dial(&a).await;
    let (talk, _) = m.joins(&connection).await;
    is_connected(&a).await;
    drop(talk);
    connection.close(0_u32.into(), b"gone for a moment");
    let connection = m.is_dialled().await;
    let (mut talk, shown) = m.listen(&connection).await;
    assert!(proves(&shown, &talk.transcript(), Role::Opener, &m.key()), "it took part in this one");
    assert!(!proves(&shown, &talk.transcript(), Role::Opener, &MIRROR), "it is no machine of the user's");
    talk.say(frame::Kind::Auth(shown)).await.unwrap();
    was_seen_through(&a, &m, &connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_ticket_is_worth_nothing_when_it_is_shown_back() {
    // A writes into the library of somebody else, by a ticket that whoever has it may use; the member only reads.
    let (owner, library) = owner().await;
    let a = stranger("a").await;
    let (write, _) = invite(&owner, &library, json!({ "access": "write" })).await;
    let joined = a.post("/join", json!({ "ticket": write })).await;
    assert_eq!(joined["status"], "success", "{joined}");
    let (read, _) = invite(&owner, &library, json!({ "access": "read" })).await;
    let m = HostileMember::invited(&read).await;

    // It takes part, and so is shown the ticket: it can open what is sealed, for it knows the secret.
    let connection = m.dial(&a).await;
    let mut talk = m.open(&connection).await;
    talk.show(vec![m.credential(&talk)]).await.unwrap();
    let proved = talk.hear_proofs().await.expect("it is let in, to read");
    let shown = proved[0].ticket.clone().expect("its ticket");
    // On a stream of its own it claims to hold that ticket, with the very proof of it.
    for on_another_connection in [false, true] {
        let again = if on_another_connection { m.dial(&a).await } else { connection.clone() };
        let mut second = m.open(&again).await;
        second.show(vec![Credential { key: m.key(), ticket: Some(shown.clone()) }]).await.unwrap();
        let heard = second.hear().await;
        assert!(heard.is_err(), "it was let in to write: {heard:?}");
        let (code, reason) = closed(&again).await;
        assert_eq!((code, reason.as_str()), (401, "no shared library"));
    }
}

/// A node that does not know the passphrase of the others.
async fn stranger(name: &str) -> TestNode {
    let passphrase = format!("eight other otters hum a quite different tune of {name}");
    TestNode::start(name, |config| config.sync_passphrase = Some(passphrase.into())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_member_cannot_tell_a_member_from_a_stranger() {
    let (owner, library) = owner().await;
    let (member, passer_by) = (stranger("member").await, stranger("passer-by").await);
    let (write, _) = invite(&owner, &library, json!({ "access": "write" })).await;
    let joined = member.post("/join", json!({ "ticket": write })).await;
    assert_eq!(joined["status"], "success", "{joined}");
    let (read, serial) = invite(&owner, &library, json!({ "access": "read" })).await;
    let m = HostileMember::invited(&read).await;
    owner.post(&format!("/libraries/{library}/revoke"), json!({ "serial": serial })).await;
    let ask = async |node: &TestNode| {
        let connection = m.dial(node).await;
        let mut talk = m.open(&connection).await;
        talk.show(vec![m.credential(&talk)]).await.unwrap();
        match talk.hear().await {
            Ok(said) => Err(format!("{said:?}")),
            Err(_) => Ok(closed(&connection).await),
        }
    };
    // Until the member has heard of it from the owner, it lets it in.
    let answers = [
        eventually("the member shuts it out", async || ask(&member).await).await,
        ask(&passer_by).await.expect("it says something"),
    ];
    assert_eq!(answers[0], answers[1], "the member makes itself known");
    assert_eq!(answers[0], (401, "no shared library".to_owned()));
}
