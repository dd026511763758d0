//! What a command that lets go of contents tells.

use serde::Serialize;
use utoipa::ToSchema;

use crate::text::amounts::counted;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropRefused {
    #[error("another command lets go of contents already")]
    Busy,
    /// A store that cannot.
    #[error(
        "nobody can say where the copies of this node's store are: it is an external CAN Service, which others may use, too, or its object \
         storage was not reached yet"
    )]
    NoPlace,
    #[error("the store was not read yet")]
    NotReady,
}

/// A machine that promised to keep its copy of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromiseReport {
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    /// Seconds that the promise lasts from now on, at least.
    pub lasts_secs: u64,
}

/// What became of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DropReport {
    /// CAN hash.
    pub hash: String,
    /// Whether it is not held here any more.
    pub dropped: bool,
    /// In a sentence, for people.
    pub explanation: String,
    /// Who promised to keep it.
    pub promises: Vec<PromiseReport>,
}

/// How a command that runs stands, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DropsProgress {
    /// Contents that it was given.
    pub total: u64,
    /// Contents that are left.
    pub left: u64,
    pub dropped: u64,
    pub kept: u64,
    /// As [`DropsReport::lacking`].
    pub lacking: Option<String>,
    /// The same in a clause, for people.
    pub summary: String,
}

impl DropsProgress {
    pub fn new(total: u64, left: u64, dropped: u64, lacking: Option<String>) -> Self {
        let kept = total.saturating_sub(left).saturating_sub(dropped);
        let why = lacking.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let summary = format!(
            "letting go of {}, once other machines promise to keep them: {dropped} gone, {kept} kept, {left} left{why}",
            counted(total, "content")
        );
        Self { total, left, dropped, kept, lacking, summary }
    }
}

/// How a command stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct DropsReport {
    /// Its number.
    pub command: u64,
    /// Whether something is left to do.
    pub running: bool,
    /// Contents that it was given.
    pub total: u64,
    /// Contents that are left.
    pub left: u64,
    pub dropped: u64,
    /// Sum of the sizes of those, in bytes.
    pub dropped_bytes: u64,
    pub kept: u64,
    /// Why it was last tried in vain to let go of one of those that are left, in a clause for people; it is tried again.
    pub lacking: Option<String>,
    /// What became of contents, in the order in which that was settled: at most 1000, from the one that was asked for on.
    pub contents: Vec<DropReport>,
    /// Ask from here for those that follow.
    pub next: u64,
}
