//! What happened on this node, for those who watch: a bounded log with numbers, so that a watcher that was cut off
//! resumes where it was.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

/// Events kept for watchers that come back.
const EVENTS_KEPT: usize = 1024;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NodeEvent {
    /// A peer proved that it belongs to our network.
    PeerConnected {
        endpoint_id: String,
        /// What it calls itself.
        name: String,
    },
    /// A peer's session ended.
    PeerLost { endpoint_id: String, reason: String },
    /// An agent of our network was silent and did not answer when it was asked for a sign of life.
    PeerStale {
        endpoint_id: String,
        /// What it calls itself.
        name: String,
    },
    /// An asset from a peer is durable here.
    AssetReceived {
        hash: String,
        size: u64,
        /// The endpoint id of the peer that sent it.
        from: String,
    },
    /// An asset could not be had from a peer.
    AssetFailed {
        hash: String,
        /// The endpoint id of the peer that was to send it.
        from: String,
        reason: String,
    },
    /// The stored content of an asset is damaged or gone: it is set aside, and peers are asked for it.
    Damaged {
        hash: String,
        size: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Content that was damaged is here again, and right.
    Healed { hash: String, size: u64 },
    /// Nothing is missing on either side of any connected peer.
    InSync { assets: u64 },
    /// So much was deleted by a peer at once that it waits for somebody's decision.
    DeletionsHeld {
        /// The library that it was deleted in; absent for the network of the passphrase.
        library: Option<String>,
        /// `device` and an endpoint id, or `ticket` and a number.
        source: String,
        /// How many assets, so far.
        held: u64,
    },
    /// A file of a folder was edited on two machines apart: both versions have a path.
    FolderConflict {
        folder: String,
        /// The copy's path.
        path: String,
    },
    /// The directory of a folder is not there, or is not the one that was bound: nothing is concluded from that.
    FolderMissing {
        folder: String,
        /// The directory.
        path: String,
        reason: String,
    },
    /// So many files of a folder went at once that their removal waits for somebody's word.
    FolderHeld {
        folder: String,
        /// The directory.
        path: String,
        /// How many files.
        held: u64,
    },
    /// An actor was started again.
    ActorRestarted {
        kind: String,
        /// Why it had ended.
        reason: String,
        /// How often it was restarted since the start of the process.
        restarts: u32,
    },
}

impl NodeEvent {
    /// The event's type, as in its JSON and as the SSE event name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PeerConnected { .. } => "peer_connected",
            Self::PeerLost { .. } => "peer_lost",
            Self::PeerStale { .. } => "peer_stale",
            Self::AssetReceived { .. } => "asset_received",
            Self::AssetFailed { .. } => "asset_failed",
            Self::Damaged { .. } => "damaged",
            Self::Healed { .. } => "healed",
            Self::InSync { .. } => "in_sync",
            Self::DeletionsHeld { .. } => "deletions_held",
            Self::FolderConflict { .. } => "folder_conflict",
            Self::FolderMissing { .. } => "folder_missing",
            Self::FolderHeld { .. } => "folder_held",
            Self::ActorRestarted { .. } => "actor_restarted",
        }
    }
}

/// How far this node is with what is missing on either side, about once a second while something is. It is of the moment:
/// no number, and nothing is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncProgress {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Different assets that some peer has and we want and do not have yet.
    pub missing: u64,
    pub missing_bytes: u64,
    /// Content bytes received per second, lately, from all peers.
    pub rate: f64,
    /// Seconds until nothing is missing at this rate.
    pub eta_secs: Option<u64>,
    /// The peers that something is missing or moves with.
    pub peers: Vec<PeerProgress>,
}

/// One peer's part in [`SyncProgress`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerProgress {
    pub endpoint_id: String,
    /// Assets that it has and we want and do not have yet.
    pub missing_here: u64,
    pub missing_here_bytes: u64,
    /// Assets that we offered and it has not confirmed yet.
    pub missing_there: u64,
    /// Content bytes per second, lately.
    pub send_rate: f64,
    /// Content bytes per second, lately.
    pub receive_rate: f64,
    /// Seconds until nothing of what it has is missing at this rate.
    pub eta_secs: Option<u64>,
}

/// An event with its number and time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoggedEvent {
    /// Rises by one with each event of this process.
    pub id: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    #[serde(flatten)]
    pub event: NodeEvent,
}

/// The log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventLog {
    boot: Arc<str>,
    kept: Arc<Mutex<VecDeque<LoggedEvent>>>,
    last: watch::Sender<u64>,
    progress: watch::Sender<Option<SyncProgress>>,
}

impl Default for EventLog {
    fn default() -> Self {
        let boot = format!("{:016x}", rand::random::<u64>()).into();
        Self { boot, kept: Arc::default(), last: watch::Sender::new(0), progress: watch::Sender::new(None) }
    }
}

impl EventLog {
    /// Names this log: 16 hexadecimal digits, different in each process, so that a watcher that comes back notices that
    /// the numbers began again.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Adds an event that happened at `at_ms`.
    pub fn publish(&self, at_ms: u64, event: NodeEvent) {
        let mut kept = self.kept.lock();
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        let id = *self.last.borrow() + 1;
        kept.push_back(LoggedEvent { id, at_ms, event });
        self.last.send_replace(id);
    }

    /// How far everything is; `None` when nothing is missing any more.
    pub fn set_progress(&self, progress: Option<SyncProgress>) {
        self.progress.send_if_modified(|shown| {
            let changes = shown.is_some() || progress.is_some();
            *shown = progress;
            changes
        });
    }

    /// How far everything is, as it changes.
    pub fn progress(&self) -> watch::Receiver<Option<SyncProgress>> {
        self.progress.subscribe()
    }

    /// The events after number `since` that are still kept, and whether some in between are gone.
    pub fn since(&self, since: u64) -> (Vec<LoggedEvent>, bool) {
        let kept = self.kept.lock();
        let gap = kept.front().is_some_and(|first| first.id > since.saturating_add(1));
        (kept.iter().filter(|e| e.id > since).cloned().collect(), gap)
    }

    /// The number of the last event; changes whenever there is a new one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}
