//! Nodes with bound directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use can_sync::testing::config::Config;
use can_sync::testing::entry::{FolderId, FolderRecord};
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::store::entries::EntryQuery;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::files::files;
use super::nodes::{TestNode, eventually};
use super::store::hash_of;

/// A node with a bound directory.
pub(crate) struct Machine {
    pub(crate) node: TestNode,
    pub(crate) home: TempDir,
}

impl Machine {
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_with(name, |_| {}).await
    }

    /// As [`Self::start`]; `adjust` changes the configuration first.
    pub(crate) async fn start_with(name: &str, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::around(TestNode::start(name, adjust).await)
    }

    /// Gives a node a directory.
    pub(crate) fn around(node: TestNode) -> Self {
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
            let peers = self.node.get("/peers").await["data"].to_string();
            Err(format!("{found:?}, and {}, and {peers}", self.report().await))
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

impl Machine {
    /// Waits until every one of these contents lies at some path, or is a version of one.
    pub(crate) async fn keeps(&self, contents: &[&str]) {
        eventually("nothing is lost", async || {
            let found = files(&self.dir());
            let lost: Vec<&str> = contents
                .iter()
                .copied()
                .filter(|content| !found.values().any(|there| there == content))
                .collect();
            let kept = self.versions().await;
            for content in lost {
                let hash = hash_of(content.as_bytes()).to_string();
                if !kept.contains(&hash) || self.node.content(&hash).await.is_none() {
                    return Err(format!("{content:?} is neither in {found:?} nor in the history"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until the folder has a version with this content.
    pub(crate) async fn takes_in(&self, content: &str) {
        let hash = hash_of(content.as_bytes()).to_string();
        eventually("it is taken in", async || {
            self.versions().await.contains(&hash).then_some(()).ok_or_else(|| content.to_owned())
        })
        .await;
    }

    /// The contents of all versions that the folder has and had, at all its paths.
    async fn versions(&self) -> BTreeSet<String> {
        let store = self.node.sync_store();
        let (mut versions, mut cursor) = (BTreeSet::new(), None);
        loop {
            let id = self.report().await["folder"].as_str().expect("an id").to_owned();
            let id = data_encoding::HEXLOWER.decode(id.as_bytes()).expect("digits");
            let folder = FolderId(id.try_into().expect("32 bytes"));
            let query = EntryQuery { folder: Some(folder), prefix: String::new(), cursor, limit: 1000 };
            let page = store.entries(query).await.expect("a page");
            for record in page.records {
                versions.extend(record.target().map(|hash| hash.to_string()));
                let before = store.entry_history(folder, record.path().to_owned(), None).await;
                let before = before.expect("a history");
                versions.extend(before.iter().filter_map(FolderRecord::target).map(|hash| hash.to_string()));
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return versions;
            }
        }
    }
}

/// Waits until directories have the same files, and there is nothing to do for any of them.
pub(crate) async fn alike(machines: &[&Machine]) -> BTreeMap<String, String> {
    eventually("all have the same files", async || {
        let first = files(&machines[0].dir());
        for machine in machines {
            let (found, report) = (files(&machine.dir()), machine.report().await);
            if found != first || report["state"] != "idle" || report["entries"] != first.len() {
                return Err(format!("{found:?} and {first:?}, {report}"));
            }
        }
        Ok(first)
    })
    .await
}

/// A thread that does something over and over, until this ends.
pub(crate) struct Busy {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    pub(crate) fn start(mut each: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            while !stops.load(Ordering::Relaxed) {
                each();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { is_over, thread: Some(thread) }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("no panic");
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
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
