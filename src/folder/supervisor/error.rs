//! Why something cannot be done with a folder.

use crate::store::StoreError;

/// Why something cannot be done with a folder, in a sentence with the next step.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FolderError {
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    #[error("no folder '{0}' is on this machine: `can-sync folder list` shows those that are")]
    Unknown(String),
    #[error("several folders are called '{name}': {}; name one by its id", ids.join(", "))]
    Ambiguous { name: String, ids: Vec<String> },
    #[error("{0}")]
    NoFolders(String),
    /// The store, `agent.db`, or the directory.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for FolderError {
    fn from(error: StoreError) -> Self {
        let why = error.to_string();
        let keeps_none = matches!(error, StoreError::NoFolders | StoreError::Unsupported { .. });
        if keeps_none { Self::NoFolders(why) } else { Self::Failed(why) }
    }
}
