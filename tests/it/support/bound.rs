//! A node with directories that are bound to folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::files::files;
use super::nodes::{TestNode, eventually};

/// A node, and a home with a directory for each folder.
pub(crate) struct BoundNode {
    pub(crate) node: TestNode,
    home: TempDir,
}

impl BoundNode {
    pub(crate) fn new(node: TestNode) -> Self {
        Self { node, home: tempfile::tempdir().expect("a directory") }
    }

    /// The directory that is bound to a folder.
    pub(crate) fn dir(&self, folder: &str) -> PathBuf {
        self.home.path().join(folder)
    }

    /// Puts a file, which is as it is meant at once.
    pub(crate) fn put(&self, folder: &str, name: &str, content: &str) {
        put_file(&self.dir(folder).join(name), content);
    }

    pub(crate) async fn add(&self, folder: &str) -> Value {
        fs::create_dir_all(self.dir(folder)).expect("a directory");
        self.node.post("/folders", json!({ "path": self.dir(folder), "name": folder })).await
    }

    /// Binds a directory to a folder, and waits until all is agreed.
    pub(crate) async fn binds(&self, folder: &str) {
        let answer = self.add(folder).await;
        assert_eq!(answer["status"], "success", "{answer}");
        self.says(folder, "all is agreed", |report| report["state"] == "idle").await;
    }

    pub(crate) async fn act(&self, folder: &str, body: Value) -> Value {
        self.node.post(&format!("/folders/{folder}/actions"), body).await
    }

    pub(crate) async fn report(&self, folder: &str) -> Value {
        self.node.get(&format!("/folders/{folder}")).await["data"].clone()
    }

    /// Waits until the folder says this of itself.
    pub(crate) async fn says(&self, folder: &str, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, async || {
            let report = self.report(folder).await;
            is_so(&report).then_some(()).ok_or_else(|| report.to_string())
        })
        .await;
    }

    /// The names of all folders that it knows.
    pub(crate) async fn known(&self) -> Vec<String> {
        let known = self.node.get("/folders").await["data"]["known"].clone();
        let known = known.as_array().expect("a list").iter();
        known.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    }

    pub(crate) async fn knows(&self, folder: &str) {
        eventually("the folder is known", async || {
            let known = self.known().await;
            known.iter().any(|name| name == folder).then_some(()).ok_or_else(|| format!("{known:?}"))
        })
        .await;
    }

    /// Waits until the directory has these files, and no others.
    pub(crate) async fn has(&self, folder: &str, expected: &[(&str, &str)]) {
        has_files(&self.dir(folder), expected, async || self.report(folder).await.to_string()).await;
    }
}

/// Puts a file, which is as it is meant at once.
pub(crate) fn put_file(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, content).expect("a file");
}

/// Waits until a directory has these files, and no others.
pub(crate) async fn has_files(dir: &Path, expected: &[(&str, &str)], more: impl AsyncFn() -> String) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect();
    eventually("the directory has it", async || {
        let found = files(dir);
        if found == expected {
            return Ok(());
        }
        Err(format!("{found:?}, and {}", more().await))
    })
    .await;
}
