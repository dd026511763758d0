//! Nodes with bound directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::files::files;
use super::nodes::{TestNode, eventually};

/// A node with a bound directory.
pub(crate) struct Machine {
    pub(crate) node: TestNode,
    pub(crate) home: TempDir,
}

impl Machine {
    pub(crate) async fn start(name: &str) -> Self {
        let node = TestNode::start(name, |_| {}).await;
        let home = tempfile::tempdir().expect("a directory");
        fs::create_dir(home.path().join("Photos")).expect("a directory");
        Self { node, home }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.home.path().join("Photos")
    }

    pub(crate) fn put(&self, name: &str, content: &str) {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("a file");
    }

    pub(crate) async fn add(&self) -> Value {
        self.add_as("both", "apply").await
    }

    /// Binds the directory, to go these ways, and with removals by others `apply`ed or `ignore`d.
    pub(crate) async fn add_as(&self, mode: &str, removals: &str) -> Value {
        let body = json!({ "path": self.dir(), "name": "photos", "mode": mode, "removals": removals });
        let answer = self.node.post("/folders", body).await;
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"].clone()
    }

    /// Forgets the binding.
    pub(crate) async fn remove(&self) {
        let url = format!("http://{}/folders/photos", self.node.node().api_addr());
        let answer = self.node.http.delete(url).send().await.expect("an answer");
        assert!(answer.status().is_success());
    }

    /// Asks something of the folder that it does.
    pub(crate) async fn does(&self, action: &str) {
        let done = self.act(json!({ "action": action })).await;
        assert_eq!(done["status"], "success", "{done}");
    }

    /// Waits until there is nothing to do for it.
    pub(crate) async fn rests(&self, entries: u64) {
        self.says("all is agreed", |report| report["entries"] == entries && report["state"] == "idle").await;
    }

    pub(crate) async fn act(&self, body: Value) -> Value {
        self.node.post("/folders/photos/actions", body).await
    }

    pub(crate) async fn report(&self) -> Value {
        self.node.get("/folders/photos").await["data"].clone()
    }

    /// Waits until the directory has these files, and no others.
    pub(crate) async fn has(&self, expected: &[(&str, &str)]) {
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect();
        eventually("the directory has it", async || {
            let found = files(&self.dir());
            if found == expected {
                return Ok(());
            }
            Err(format!("{found:?}, and {}", self.report().await))
        })
        .await;
    }

    /// Waits until the folder says this of itself.
    pub(crate) async fn says(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, async || {
            let report = self.report().await;
            is_so(&report).then_some(()).ok_or_else(|| report.to_string())
        })
        .await;
    }
}

/// Two machines that know each other, with the folder on both.
pub(crate) async fn pair() -> (Machine, Machine) {
    let (a, b) = acquainted().await;
    a.add().await;
    knows(&b).await;
    b.add().await;
    (a, b)
}

/// Waits until the folder's name is known there: else it would make another one.
pub(crate) async fn knows(machine: &Machine) {
    eventually("the folder is known", async || {
        let known = machine.node.get("/folders").await["data"]["known"].clone();
        known.as_array().is_some_and(|known| known.len() == 1).then_some(()).ok_or_else(|| known.to_string())
    })
    .await;
}

/// Two machines that know each other, without folders.
pub(crate) async fn acquainted() -> (Machine, Machine) {
    let (a, b) = tokio::join!(Machine::start("a"), Machine::start("b"));
    b.node.dial(&a.node).await;
    tokio::join!(a.node.wait_in_sync(), b.node.wait_in_sync());
    (a, b)
}
