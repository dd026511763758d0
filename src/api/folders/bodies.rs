//! What is asked of folders over HTTP, and answered.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::folder::FolderMode;
use crate::folder::report::{
    FolderConflict, FolderPlace, FolderReport, FolderVersion, KnownFolder, KnownProblem,
};

/// In which directions a folder is kept alike.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ModeName {
    Both,
    /// Nothing is written to this directory.
    #[serde(alias = "send_only")]
    SendOnly,
    /// Nothing of this directory shows elsewhere.
    #[serde(alias = "read_only")]
    ReadOnly,
}

impl From<ModeName> for FolderMode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Both => Self::Both,
            ModeName::SendOnly => Self::SendOnly,
            ModeName::ReadOnly => Self::ReadOnly,
        }
    }
}

/// What becomes of files that were removed elsewhere.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RemovalsName {
    Apply,
    Ignore,
}

/// `POST /folders`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddRequest {
    /// The directory, absolute, on this node's machine.
    pub(super) path: String,
    /// The folder's name or id; the directory's name, if it is missing. A name that the network knows joins that folder.
    pub(super) name: Option<String>,
    /// Without it, `both`; of a directory that is bound already, as it is.
    pub(super) mode: Option<ModeName>,
    /// Without it, `apply`; of a directory that is bound already, as it is.
    pub(super) removals: Option<RemovalsName>,
    /// Changes are found by looking from time to time alone, as it has to be on network file systems.
    pub(super) scan_only: Option<bool>,
    /// Makes another folder, also if the network knows one of that name.
    #[serde(default)]
    pub(super) new: bool,
}

/// What a folder is asked for. `look` looks at everything now.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActionName {
    Pause,
    Resume,
    Confirm,
    Revert,
    Keep,
    Trash,
    Restore,
    Look,
}

/// `POST /folders/{id}/actions`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ActRequest {
    pub(super) action: ActionName,
    /// For `restore`, and for `keep` and `trash` of one file alone.
    pub(super) path: Option<String>,
    /// For `restore`: as it was then, in milliseconds since the Unix epoch.
    pub(super) at_ms: Option<u64>,
}

/// `GET /folders`.
#[derive(Serialize, ToSchema)]
pub(super) struct FolderList {
    /// Folders with a directory on this machine.
    pub(super) folders: Vec<FolderReport>,
    /// Every folder that the network knows, as far as this node does.
    pub(super) known: Vec<KnownFolder>,
    /// Why the network's are not known; without it, `known` is all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) known_problem: Option<KnownProblem>,
}

/// What was done.
#[derive(Serialize, ToSchema)]
pub(super) struct Acted {
    /// In a clause.
    pub(super) done: String,
}

/// `GET /folders/{id}/history`.
#[derive(Serialize, ToSchema)]
pub(super) struct FolderHistory {
    /// The newest first.
    pub(super) versions: Vec<FolderVersion>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct FolderForgotten {
    pub(super) removed: bool,
}

/// `GET /folders/{id}/conflicts`.
#[derive(Serialize, ToSchema)]
pub(super) struct FolderConflicts {
    /// In the order of paths; at most 10000.
    pub(super) conflicts: Vec<FolderConflict>,
}

/// `POST /folder-places`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlacesRequest {
    /// Hashes of contents; at most 1000.
    pub(super) hashes: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct FolderPlacesBody {
    /// At most 10000, in no order.
    pub(super) places: Vec<FolderPlace>,
}
