//! How a folder is, for people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a folder is up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FolderState {
    /// It was not looked at yet.
    #[default]
    Starting,
    /// It is looked at, or something is done.
    Busy,
    /// Nothing is left to do.
    Idle,
    /// Contents are on their way, or files change all the time.
    Waiting,
    /// Somebody has to say what is meant.
    Held,
    /// A user wants nothing to be done.
    Paused,
    /// Its directory is not there.
    Missing,
    /// Something does not work.
    Failed,
}

impl FolderState {
    /// As in its JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

/// Something at a path that people should know of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FolderRemark {
    /// From the folder's root.
    pub path: String,
    /// The reason.
    pub why: String,
}

/// How a folder is. Lists have at most 100 items.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[allow(clippy::struct_excessive_bools, reason = "each says something of its own")]
pub struct FolderReport {
    /// 64 hexadecimal digits.
    pub folder: String,
    /// What the network calls it.
    pub name: String,
    pub path: String,
    /// `both`, `send-only` or `read-only`.
    pub mode: String,
    /// `apply` or `ignore`.
    pub removals: String,
    /// What it is up to.
    pub state: FolderState,
    /// Why, where that helps.
    pub reason: Option<String>,
    /// Whether changes are found by looking from time to time alone.
    #[serde(default)]
    pub scan_only: bool,
    /// Whether it came by a ticket: it is only read, and nothing of it is this network's.
    #[serde(default)]
    pub by_ticket: bool,
    /// Whether the configuration names it: it is bound at every start.
    #[serde(default)]
    pub configured: bool,
    /// Whether changes on the disk are noticed at once; else with the next look at everything.
    pub watched: bool,
    /// Plain files on the disk.
    pub files: u64,
    /// Files that the folder has.
    pub entries: u64,
    /// Files whose contents are on their way.
    pub waiting: u64,
    /// Their bytes.
    #[serde(default)]
    pub waiting_bytes: u64,
    /// How far what is done now is.
    #[serde(default)]
    pub progress: Option<FolderProgress>,
    /// Seconds until nothing waits and nothing is left to do, at the rate of late.
    #[serde(default)]
    pub eta_secs: Option<u64>,
    /// Removals that wait for `confirm` or `revert`.
    pub held: u64,
    /// Some of them.
    pub held_paths: Vec<String>,
    /// Files that were removed elsewhere before they were found here: `keep` or `trash`.
    pub asked: Vec<String>,
    /// Copies of what was edited apart.
    pub conflicts: Vec<String>,
    /// What is left as it is.
    pub passed_over: Vec<FolderRemark>,
    /// Of what nothing can be said.
    pub unknown: Vec<FolderRemark>,
    /// What went wrong with the last look.
    pub problems: Vec<String>,
    /// What taking its files into the store needs; told once, by who binds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<FolderRoom>,
}

/// How far a folder is with the files that it reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FolderProgress {
    /// Files that are done.
    pub files: u64,
    /// Files in all.
    pub files_total: u64,
    /// Bytes that are done.
    pub bytes: u64,
    /// Bytes in all.
    pub bytes_total: u64,
}

/// What taking a directory's files into the store needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FolderRoom {
    /// Files of the directory, but for those that are left out.
    pub files: u64,
    /// Their bytes; at least, in very large directories.
    pub bytes: u64,
    /// Bytes that are free for the store, without those that are kept free; null where the store is elsewhere.
    pub free_bytes: Option<u64>,
    /// Whether the store shares the files' blocks, and needs no room of its own.
    pub shares_blocks: bool,
}

/// A copy of what was edited on two machines apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FolderConflict {
    /// The copy, from the folder's root.
    pub path: String,
    /// The machine that wrote it.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The copy's content.
    pub hash: Option<String>,
    /// Length in bytes.
    pub size: Option<u64>,
}

/// A path at which a folder has a content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FolderPlace {
    pub hash: String,
    /// The folder's id.
    pub folder: String,
    /// What people call it.
    pub name: String,
    /// From the folder's root.
    pub path: String,
    /// Milliseconds since the Unix epoch.
    pub mtime_ms: u64,
    /// Whether the file can be run.
    pub executable: bool,
}

/// A folder of the network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KnownFolder {
    /// 64 hexadecimal digits.
    pub folder: String,
    /// What people call it.
    pub name: String,
    /// The machine that said so.
    pub by: String,
    /// Whether a directory of this machine is bound to it.
    pub bound: bool,
    /// Whether it came by a ticket: a directory that is bound to it is only read.
    #[serde(default)]
    pub by_ticket: bool,
}

/// One version of what a folder has at a path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FolderVersion {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The machine that wrote it.
    pub by: String,
    /// The content, unless it was removed.
    pub hash: Option<String>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Whether the folder has this one now.
    pub current: bool,
}

/// Why it is not known which folders the network has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KnownProblem {
    /// For programs: `no_folders` where the store keeps none, `store_unavailable` where it does not say.
    pub code: String,
    /// For people: one sentence.
    pub error: String,
    /// For people: what to do.
    pub hint: String,
}
