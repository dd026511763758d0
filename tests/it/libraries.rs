//! Libraries that are shared by ticket, with whole nodes: what people do with them, and what goes where.

mod admission;
mod deletions;
mod epochs;
mod forgetting;
mod freshness;
mod joining;
mod operations;
mod second_connection;
mod sharing;
mod walk;

use serde_json::{Value, json};

use crate::support::nodes::{TestNode, eventually};

/// A passphrase of another network.
const OTHER: &str = "eight other otters hum a quite different tune";

/// A node that does not know the passphrase of the others; each has one of its own.
pub(crate) async fn stranger(name: &str) -> TestNode {
    let passphrase = format!("{OTHER} of {name}");
    TestNode::start(name, |config| config.sync_passphrase = Some(passphrase.into())).await
}

/// A library that some node shares.
pub(crate) struct Share {
    pub(crate) id: String,
}

/// A ticket and its number.
pub(crate) struct Invited {
    pub(crate) ticket: String,
    pub(crate) serial: u64,
}

impl Share {
    pub(crate) async fn new(owner: &TestNode, filter: Value) -> Self {
        let mut made = owner.post("/libraries", json!({ "name": "images", "filter": filter })).await;
        if made["code"] == "name_taken" {
            made = owner.post("/libraries", json!({ "name": "more images", "filter": filter })).await;
        }
        let id = made["data"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        Self { id }
    }

    pub(crate) async fn images(owner: &TestNode) -> Self {
        Self::new(owner, json!({ "mime_prefix": "image/" })).await
    }

    pub(crate) async fn invite(&self, owner: &TestNode, terms: Value) -> Invited {
        let answer = owner.post(&format!("/libraries/{}/invite", self.id), terms).await;
        let ticket = answer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Invited { ticket, serial: answer["data"]["serial"].as_u64().expect("a serial") }
    }

    pub(crate) async fn detail(&self, node: &TestNode) -> Value {
        node.get(&format!("/libraries/{}", self.id)).await["data"].clone()
    }

    /// The first member that was in sync, once there is one.
    pub(crate) async fn member(&self, node: &TestNode) -> Value {
        eventually("a member is in sync", async || {
            let detail = self.detail(node).await;
            let member = detail["members"].get(0).cloned();
            member.ok_or_else(|| detail.to_string())
        })
        .await
    }

    /// Waits until a node has all that the connected members have.
    pub(crate) async fn in_sync(&self, node: &TestNode) {
        eventually("the library is in sync", async || {
            let detail = self.detail(node).await;
            (detail["progress"]["state"] == "in_sync").then_some(()).ok_or_else(|| detail.to_string())
        })
        .await;
    }
}

impl Invited {
    pub(crate) async fn join(&self, node: &TestNode) -> Value {
        let answer = node.post("/join", json!({ "ticket": self.ticket })).await;
        assert_eq!(answer["status"], "success", "{answer}");
        answer
    }
}

/// `PATCH` of an asset's metadata.
pub(crate) async fn edit(node: &TestNode, hash: &str, fields: Value) {
    let url = format!("{}/asset/{hash}/meta", node.node().store_url());
    let answer = node.http.patch(url).json(&fields).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
}
