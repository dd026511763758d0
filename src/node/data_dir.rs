//! Where a node keeps its things.

use std::path::PathBuf;

/// Where a node keeps its things.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.0.join("partial")
    }

    /// Copies of files of folders, for a moment.
    pub(crate) fn folders(&self) -> PathBuf {
        self.0.join("folders")
    }

    pub(crate) fn clock_db(&self) -> PathBuf {
        self.0.join("clock.db")
    }

    pub(crate) fn agent_db(&self) -> PathBuf {
        self.0.join("agent.db")
    }

    pub(crate) fn libraries_db(&self) -> PathBuf {
        self.0.join("libraries.db")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn running(&self) -> PathBuf {
        self.0.join("running.json")
    }
}
