//! Two directories that a program keeps alike: ours, with two agents.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::agent::{Agent, Bins, Home};
use super::support::http::HTTP;
use super::support::{Result, eventually, patience, temp_dir};

/// What all folders of this bench are called.
const NAME: &str = "bench";

/// Two directories, whoever keeps them alike.
pub(crate) trait Kept {
    /// The directory of one side.
    fn dir(&self, side: usize) -> &Path;
    /// Tells one side to look, where it would not notice by itself.
    async fn look(&self, side: usize) -> Result<()>;
    /// Bytes that went from the first to the second.
    async fn crossed(&self) -> Result<u64>;
}

/// An agent with a directory.
pub(crate) struct Machine {
    pub(crate) agent: Agent,
    pub(crate) dir: TempDir,
}

impl Machine {
    pub(crate) async fn start(bins: &Bins, name: &str) -> Result<Self> {
        Ok(Self { agent: Home::new(bins, name)?.start().await?, dir: temp_dir()? })
    }

    async fn post(&self, path: &str, body: Value) -> Result<()> {
        let post = HTTP.post(format!("{}{path}", self.agent.api)).json(&body);
        let answer = post.timeout(patience(0)).send().await?;
        let (is_done, said) = (answer.status().is_success(), answer.text().await?);
        if is_done { Ok(()) } else { Err(said.into()) }
    }

    /// Binds the directory.
    pub(crate) async fn add(&self) -> Result<()> {
        self.post("/folders", json!({ "path": self.dir.path(), "name": NAME })).await
    }

    /// Has everything looked at; waits until that is done.
    pub(crate) async fn look(&self) -> Result<()> {
        self.post(&format!("/folders/{NAME}/actions"), json!({ "action": "look" })).await
    }

    /// Waits until nothing is left to do with so many files.
    pub(crate) async fn wait_idle(&self, files: u64, limit: Duration) -> Result<()> {
        let mut last = Value::Null;
        let idle = eventually("an idle folder", limit, async || {
            let Ok(report) = self.agent.get(&format!("/folders/{NAME}")).await else { return Ok(None) };
            let is_it = report["state"] == "idle" && report["waiting"] == 0 && report["entries"] == files;
            last = report;
            Ok(is_it.then_some(()))
        });
        idle.await.map_err(|error| format!("{error}: {last}").into())
    }

    /// Ends the agent in order, and starts it again.
    pub(crate) async fn restart(self) -> Result<Self> {
        let Self { agent, dir } = self;
        Ok(Self { agent: agent.stop().await?.start().await?, dir })
    }
}

/// Two agents that know each other, each with a directory of one folder.
pub(crate) struct Pair(pub(crate) [Machine; 2]);

impl Pair {
    pub(crate) async fn start(bins: &Bins) -> Result<Self> {
        let pair = Self([Machine::start(bins, "a").await?, Machine::start(bins, "b").await?]);
        pair.bind().await?;
        Ok(pair)
    }

    async fn bind(&self) -> Result<()> {
        let Self([a, b]) = self;
        b.agent.dial(&a.agent).await?;
        for machine in [a, b] {
            machine.agent.wait_in_sync(None, patience(0)).await?;
        }
        a.add().await?;
        eventually("the folder is known", patience(0), async || {
            let known = b.agent.get("/folders").await?["known"].clone();
            Ok(known.as_array().is_some_and(|known| !known.is_empty()).then_some(()))
        })
        .await?;
        b.add().await?;
        self.wait_idle(0, patience(0)).await
    }

    /// Waits until both have nothing left to do with so many files.
    pub(crate) async fn wait_idle(&self, files: u64, limit: Duration) -> Result<()> {
        for machine in &self.0 {
            machine.wait_idle(files, limit).await?;
        }
        Ok(())
    }
}

impl Kept for Pair {
    fn dir(&self, side: usize) -> &Path {
        self.0[side].dir.path()
    }

    async fn look(&self, _: usize) -> Result<()> {
        Ok(())
    }

    async fn crossed(&self) -> Result<u64> {
        let Self([a, b]) = self;
        Ok(a.agent.peer(&b.agent).await?["bytes_sent"].as_u64().unwrap_or_default())
    }
}

/// Where a side has something.
pub(crate) fn at(kept: &impl Kept, side: usize, name: &str) -> PathBuf {
    kept.dir(side).join(name)
}
