//! What people do with libraries over HTTP, and every clear answer when it makes no sense.

use serde_json::{Value, json};

use super::Share;
use crate::support::nodes::{TestNode, eventually};

/// The error code and sentence of an answer.
fn refusal(answer: &Value) -> (&str, &str) {
    assert_eq!(answer["status"], "error", "{answer}");
    (answer["code"].as_str().unwrap_or_default(), answer["error"].as_str().unwrap_or_default())
}

async fn delete(node: &TestNode, path: &str) -> Value {
    let url = format!("http://{}{path}", node.node().api_addr());
    node.http.delete(url).send().await.expect("an answer").json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_is_made_listed_kept_and_forgotten() {
    let mut node = TestNode::start("a", |_| {}).await;
    node.ingest("one picture", &[("mime_type", "image/png")]).await;
    node.ingest("another", &[("mime_type", "image/jpeg")]).await;
    node.ingest("a text", &[("mime_type", "text/plain")]).await;
    let filter = json!({ "mime_prefix": "image/" });
    let counted = node.post("/libraries/preview", json!({ "filter": filter })).await;
    assert_eq!(counted["data"], json!({ "assets": 2, "bytes": 18 }), "{counted}");
    let made = node.post("/libraries", json!({ "name": "images", "filter": filter })).await;
    let library = &made["data"];
    assert_eq!((&library["filter"], &library["name"]), (&filter, &"images".into()), "{made}");
    assert_eq!(library["counts"], json!({ "assets": 2, "bytes": 18 }), "{made}");
    assert_eq!((&library["members"], &library["progress"]["state"]), (&json!([]), &"alone".into()));
    let id = library["id"].as_str().unwrap().to_owned();
    assert_eq!(node.get("/libraries").await["data"]["libraries"][0], *library);
    assert_eq!(node.get("/status").await["data"]["libraries"][0]["id"], id);

    // An edit moves an asset in; what is added afterwards counts, too.
    node.ingest("a third", &[("mime_type", "image/gif")]).await;
    eventually("three pictures", async || {
        let library = node.get(&format!("/libraries/{id}")).await;
        (library["data"]["counts"]["assets"] == 3).then_some(()).ok_or_else(|| library.to_string())
    })
    .await;

    node.stop().await;
    node.boot().await;
    eventually("three pictures after a restart", async || {
        let library = node.get(&format!("/libraries/{id}")).await;
        (library["data"]["counts"]["assets"] == 3).then_some(()).ok_or_else(|| library.to_string())
    })
    .await;
    assert_eq!(delete(&node, &format!("/libraries/{id}?content=burn")).await["code"], "invalid_parameter");
    assert_eq!(
        delete(&node, &format!("/libraries/{id}")).await["data"],
        json!({ "let_go": 0, "promised": 0 })
    );
    assert_eq!(refusal(&node.get(&format!("/libraries/{id}")).await).0, "unknown_library");
    assert_eq!(node.assets().await.len(), 3 + 1, "the content stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_say_that_they_are_revoked_and_those_that_never_were_cannot_be() {
    let node = TestNode::start("a", |_| {}).await;
    let share = Share::images(&node).await;
    let revoke = async |what: Value| node.post(&format!("/libraries/{}/revoke", share.id), what).await;
    let unknown = revoke(json!({ "serial": 1 })).await;
    assert_eq!(refusal(&unknown).0, "ticket_not_found", "{unknown}");
    let (first, second) = (
        share.invite(&node, json!({ "access": "read" })).await.serial,
        share.invite(&node, json!({ "access": "read" })).await.serial,
    );
    let revoked = async || {
        let tickets = share.detail(&node).await["tickets"].clone();
        let of = |ticket: &Value| (ticket["serial"].as_u64().unwrap(), ticket["revoked"].as_bool().unwrap());
        tickets.as_array().unwrap().iter().map(of).collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(revoked().await, [(first, false), (second, false)].into());
    let once = revoke(json!({ "serial": first })).await;
    assert_eq!(once["data"]["serials"], 1, "{once}");
    assert_eq!(revoke(json!({ "serial": first })).await, once, "what holds already begins nothing anew");
    assert_eq!(revoked().await, [(first, true), (second, false)].into());
    assert_eq!(revoke(json!({ "all": true })).await["status"], "success");
    let third = share.invite(&node, json!({ "access": "read" })).await.serial;
    assert_eq!(revoked().await, [(first, true), (second, true), (third, false)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_answered_with_the_rule() {
    let node = TestNode::start("a", |_| {}).await;
    let create = |body: Value| node.post("/libraries", body);
    for (filter, word) in [
        (json!({ "user": "a\u{7}" }), "control"),
        (json!({ "application": "" }), "empty"),
        (json!({ "tags": [] }), "tags: empty"),
        (json!({ "hashes": [], "user": "a" }), "hashes: empty"),
        (json!({ "mime_prefix": "image/png/x" }), "media type"),
        (json!({ "hashes": ["abc"] }), "hash"),
        (json!({ "hashes": vec!["0".repeat(64); 10_001] }), "10001 hashes"),
    ] {
        let answer = create(json!({ "name": "x", "filter": filter })).await;
        let (code, error) = refusal(&answer);
        assert!(code == "invalid_filter" && error.contains(word), "{answer}");
    }
    let unknown = create(json!({ "name": "x", "filter": { "mime": "image/" } })).await;
    assert!(refusal(&unknown).1.contains("mime"), "{unknown}");
    for name in ["", "a\nb", &"x".repeat(65)] {
        assert_eq!(refusal(&create(json!({ "name": name })).await).0, "invalid_name");
    }
    assert_eq!(node.get("/libraries").await["data"]["libraries"], json!([]), "nothing half-done");

    let made = create(json!({ "name": "all" })).await;
    let path = format!("/libraries/{}", made["data"]["id"].as_str().unwrap());
    let invite = async |body: Value| node.post(&format!("{path}/invite"), body).await;
    assert_eq!(refusal(&invite(json!({ "access": "read", "uses": 0 })).await).0, "invalid_invitation");
    assert_eq!(
        refusal(&invite(json!({ "access": "read", "expires_secs": 0 })).await).0,
        "invalid_invitation"
    );
    assert_eq!(refusal(&invite(json!({ "access": "own" })).await).0, "invalid_json");
    let ticket = invite(json!({ "access": "read", "expires_secs": 60 })).await["data"]["ticket"].clone();
    let ticket = ticket.as_str().unwrap();
    assert!(ticket.starts_with("canlib"));

    let other = TestNode::start("b", |config| config.sync_passphrase = Some(super::OTHER.into())).await;
    let own = node.post("/join", json!({ "ticket": ticket })).await;
    assert_eq!(refusal(&own).0, "own_library");
    for (text, word) in [
        (ticket[..ticket.len() - 9].to_owned(), "damaged"),
        (ticket.replacen("canlibae", "canlibau", 1), "version"),
        (format!("{}{}", &ticket[..40], ticket[40..].replacen('a', "b", 1)), ""),
        ("hello".to_owned(), "no library ticket"),
    ] {
        let answer = other.post("/join", json!({ "ticket": text })).await;
        let (code, error) = refusal(&answer);
        assert!(code == "invalid_ticket" && error.contains(word), "{answer}");
    }
    let bound = json!({ "access": "write", "subject": node.id() });
    let foreign = invite(bound).await["data"]["ticket"].clone();
    let answer = other.post("/join", json!({ "ticket": foreign })).await;
    assert!(refusal(&answer).1.contains("for the endpoint"), "{answer}");
    let later = invite(json!({ "access": "read", "starts_secs": 3600, "expires_secs": 7200 })).await;
    let answer = other.post("/join", json!({ "ticket": later["data"]["ticket"] })).await;
    assert!(refusal(&answer).1.contains("not valid before"), "{answer}");
    assert_eq!(other.get("/libraries").await["data"]["libraries"], json!([]), "nothing half-done");

    let preview = other.post("/join/preview", json!({ "ticket": ticket })).await;
    assert_eq!((&preview["data"]["name"], &preview["data"]["access"]), (&"all".into(), &"read".into()));
    let joined = other.post("/join", json!({ "ticket": ticket })).await;
    assert_eq!(
        (&joined["data"]["name"], &joined["data"]["owner"]),
        (&"all".into(), &false.into()),
        "{joined}"
    );
    let again = other.post("/join", json!({ "ticket": ticket })).await;
    assert_eq!(again["data"]["id"], joined["data"]["id"], "{again}");
    assert_eq!(other.get("/libraries").await["data"]["libraries"].as_array().unwrap().len(), 1);
    let not_owner = other.post(&format!("{path}/invite"), json!({ "access": "read" })).await;
    assert_eq!(refusal(&not_owner).0, "not_owner");
    let revoked = node.post(&format!("{path}/revoke"), json!({ "serial": 1 })).await;
    assert_eq!(revoked["data"], json!({ "serials": 1, "min_epoch": 0 }), "{revoked}");
    let detail = node.get(&path).await;
    let first = detail["data"]["tickets"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&first["serial"], &first["revoked"]), (&1.into(), &true.into()), "{detail}");
}
