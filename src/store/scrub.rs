//! Scrubbing: all contents of a store are read now and then, so that what rots is noticed while another machine has it whole.
//!
//! The embedded store reads ([`super::embedded`]), [`ScrubActor`] has it go on, and these types tell how it stands.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod actor;

pub use self::actor::{ScrubActor, ScrubArgs, ScrubMsg};

/// Whether the machine has something better to do than to scrub.
pub type BusyProbe = Arc<dyn Fn() -> bool + Send + Sync>;

/// When a store is scrubbed by itself, and how fast.
#[derive(Clone)]
pub struct ScrubSettings {
    /// From the end of one pass to the beginning of the next; zero: nobody begins one but users.
    pub interval: Duration,
    /// Most bytes that are read per second.
    pub bytes_per_sec: u64,
    /// Without anybody's asking, nothing is read for so long after the store opened: starting is work enough.
    pub settle: Duration,
    /// Load that the store cannot see.
    pub is_busy: BusyProbe,
}

impl ScrubSettings {
    /// Every so many days, none for 0.
    pub fn every(days: u32, bytes_per_sec: u64, is_busy: BusyProbe) -> Self {
        let interval = Duration::from_hours(24 * u64::from(days));
        Self { interval, bytes_per_sec, settle: Duration::from_mins(10), is_busy }
    }
}

/// How scrubbing stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ScrubReport {
    /// The pass under way.
    pub running: Option<ScrubProgress>,
    /// The last whole pass.
    pub last: Option<ScrubResult>,
    /// When the next one begins by itself, in milliseconds since the Unix epoch; null while one is under way, or none will.
    pub next_ms: Option<u64>,
}

/// A pass under way.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ScrubProgress {
    /// Number of the pass; they count up.
    pub pass: u64,
    /// Whether somebody asked for it; else it goes slowly and waits for everybody.
    pub asked: bool,
    /// When it began, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// Contents that were read.
    pub checked: u64,
    /// Contents that there are.
    pub contents: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that there are.
    pub bytes_held: u64,
    /// Contents in object storage that were passed over: they are checked when they are read, not by a scrub.
    #[serde(default)]
    pub not_checked: u64,
    /// Their bytes.
    #[serde(default)]
    pub not_checked_bytes: u64,
    /// Bytes per second, lately.
    pub bytes_per_sec: u64,
    /// Seconds that the rest takes at this rate.
    pub eta_secs: Option<u64>,
    /// Why it does not go on at the moment.
    pub waits_for: Option<String>,
    /// Why it cannot go on: the store takes no writes.
    pub stopped: Option<String>,
    /// Damaged contents that were found since it began.
    pub found: u64,
    /// Those of them that are whole again.
    pub healed: u64,
}

/// What a whole pass came to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScrubResult {
    /// Number of the pass; they count up.
    pub pass: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// Contents that were read.
    pub checked: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Contents in object storage, which were not read: they are checked when they are read, not by a scrub.
    pub not_checked: u64,
    /// Their bytes.
    pub not_checked_bytes: u64,
    /// Damaged contents that were found since it began.
    pub found: u64,
    /// Those of them that are whole again.
    pub healed: u64,
    /// Contents that lie there without a record in the database.
    pub without_record: u64,
    /// Entries of search tables, indices and counts that were wrong, and were made anew.
    pub rebuilt: u64,
    /// Contents, and tables of the database, that could not be read or checked, for other reasons than damage.
    pub unreadable: u64,
    /// Damaged contents in the trash, which cannot be brought back.
    pub trash_damaged: u64,
    /// What is wrong with the database.
    pub database: Option<String>,
}

/// A content that was found damaged since a pass began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScrubFinding {
    /// SHA-256 of the content.
    pub hash: String,
    /// Name of the content.
    pub filename: Option<String>,
    /// Its length in bytes.
    pub size: u64,
    /// What is wrong with it.
    pub reason: String,
    /// When it was found, in milliseconds since the Unix epoch.
    pub found_ms: u64,
    /// Whether it is whole again.
    pub healed: bool,
}
