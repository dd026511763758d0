//! The answer of `GET /status`, and how it comes about from what the actors and the store report. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::bodies::{is_running, visit};
use super::damaged::DamagedView;
use super::pins::HoldingView;
use super::view::{AgentView, ObjectStorage, StoreMode};
use super::words::SyncWords;
use crate::actor::status::ActorStatus;
use crate::clock::{Doubt, Reading, rfc3339};
use crate::discovery::channel::{ChannelReport, ChannelState};
use crate::folder::report::{FolderProgress, FolderReport, FolderState};
use crate::library::{self, report::LibraryReport};
use crate::peer::report::{DropsProgress, PeersReport, SyncReport, SyncState};
use crate::store::scrub::ScrubReport;
use crate::store::{QuotaStatus, SnapshotReport, StoreStatus, WaitingUploads};

/// Refusals that `/status` tells of.
const REFUSALS_SHOWN: usize = 8;

/// The answer of `GET /status`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NodeStatus {
    /// Endpoint id, 64 hexadecimal digits.
    pub endpoint_id: String,
    /// What the node calls itself.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Names this run of the process; event numbers begin again with each.
    pub boot: String,
    /// Seconds since the start.
    pub uptime_secs: u64,
    /// Where the passphrase came from.
    pub passphrase_origin: String,
    /// Where the assets live, and how it is.
    pub store: StoreView,
    /// Of which assets contents are held here.
    pub hold: HoldingView,
    /// The command that lets go of contents here, while one runs; `GET /drops` has all of it.
    pub drops: Option<DropsProgress>,
    /// How far this node and its peers agree.
    pub sync: SyncView,
    /// What time it is, and what this machine's clock is worth.
    pub clock: ClockView,
    /// How many peers there are.
    pub peers: PeerCounts,
    /// The ways of finding peers, by name.
    pub discovery: BTreeMap<String, ChannelView>,
    /// The libraries that this node takes part in, besides the full mirror.
    pub libraries: Vec<LibraryReport>,
    /// Folders with a directory on this machine, in short; `GET /folders` has all of it. None while FoldersActor does not answer.
    pub folders: Vec<FolderSummary>,
    /// The supervision tree in short; `GET /actors` has all of it.
    pub actors: ActorsSummary,
}

/// A folder in `/status`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FolderSummary {
    /// 64 hexadecimal digits; empty for one of the configuration that is not bound.
    pub folder: String,
    /// What the network calls it.
    pub name: String,
    /// The directory.
    pub path: String,
    /// What it is up to.
    pub state: FolderState,
    /// Why, where that helps.
    pub reason: Option<String>,
    /// Files that the folder has.
    pub entries: u64,
    /// Files whose contents are on their way.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// How far what is done now is.
    pub progress: Option<FolderProgress>,
    /// Seconds until nothing waits and nothing is left to do, at the rate of late.
    pub eta_secs: Option<u64>,
    /// Removals that wait for `confirm` or `revert`.
    pub held: u64,
    /// Files that wait for `keep` or `trash`; at most 100 are counted.
    pub asked: usize,
    /// Copies of what was edited apart; at most 100 are counted.
    pub conflicts: usize,
}

impl From<FolderReport> for FolderSummary {
    fn from(report: FolderReport) -> Self {
        Self {
            folder: report.folder,
            name: report.name,
            path: report.path,
            state: report.state,
            reason: report.reason,
            entries: report.entries,
            waiting: report.waiting,
            waiting_bytes: report.waiting_bytes,
            progress: report.progress,
            eta_secs: report.eta_secs,
            held: report.held,
            asked: report.asked.len(),
            conflicts: report.conflicts.len(),
        }
    }
}

/// The `store` part of `/status`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StoreView {
    /// In this process or in one of its own.
    pub mode: StoreMode,
    /// Its HTTP API.
    pub url: String,
    /// Where an embedded store has its larger contents, if that is object storage.
    pub object_storage: Option<ObjectStorage>,
    /// Whether it answers, and takes everything that it is asked to.
    pub healthy: bool,
    /// Why it is not healthy.
    pub error: Option<String>,
    /// Why larger contents in object storage are not given, and not taken either unless they go there afterwards (`write_back`).
    pub contents_away: Option<String>,
    /// What people should know of it, and cannot be helped.
    pub notice: Option<String>,
    /// Live assets that it knows, whether or not their contents are here; absent while it does not answer.
    pub assets: Option<u64>,
    /// Sum of their sizes in bytes.
    pub bytes: Option<u64>,
    /// Those of them whose contents are here.
    pub assets_held: Option<u64>,
    /// Sum of the sizes of those in bytes: what can be read here.
    pub bytes_held: Option<u64>,
    /// How much content may be in the store, and is, where that is limited.
    pub quota: Option<QuotaStatus>,
    /// Contents that are acknowledged, and not in object storage yet, where they go there afterwards.
    pub waiting_uploads: Option<WaitingUploads>,
    /// Contents that were found damaged, are set aside, and did not come again yet.
    pub damaged: Option<u64>,
    /// The latest of them.
    pub damaged_contents: Vec<DamagedView>,
    /// How scrubbing stands; absent where the store does not scrub itself.
    pub scrub: Option<ScrubReport>,
    /// How snapshots of the records in object storage stand; absent where none are made.
    pub snapshots: Option<SnapshotReport>,
    /// Number of its last change.
    pub seq: Option<u64>,
    /// Which store it is: 32 hexadecimal digits, new with each database.
    pub id: Option<String>,
}

impl StoreView {
    pub(super) fn new(
        view: &AgentView,
        status: Result<StoreStatus, String>,
        damaged_contents: Vec<DamagedView>,
    ) -> Self {
        let (error, status) = match status {
            Ok(status) => (status.problem(), Some(status)),
            Err(error) => (Some(error), None),
        };
        let number = |of: fn(&StoreStatus) -> u64| status.as_ref().map(of);
        Self {
            mode: view.store_mode,
            url: view.store_proxy.base().to_owned(),
            object_storage: view.object_storage.clone(),
            healthy: error.is_none(),
            error,
            contents_away: status.as_ref().and_then(|status| status.contents_away.clone()),
            assets: number(|status| status.assets),
            bytes: number(|status| status.bytes),
            assets_held: number(|status| status.assets_held),
            bytes_held: number(|status| status.bytes_held),
            quota: status.as_ref().and_then(|status| status.quota),
            waiting_uploads: status.as_ref().and_then(|status| status.waiting_uploads.clone()),
            damaged: number(|status| status.damaged),
            damaged_contents,
            seq: number(|status| status.seq),
            id: status.as_ref().and_then(|status| Some(status.id?.to_string())),
            notice: status.as_ref().and_then(|status| status.notice.clone()),
            snapshots: status.as_ref().and_then(|status| status.snapshots.as_deref().cloned()),
            scrub: status.and_then(|status| status.scrub).map(|scrub| *scrub),
        }
    }
}

/// The `clock` part of `/status`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClockView {
    /// `own`: this machine's clock is used. `outvoted`: other machines of yours agree with each other and not with it, and
    /// their time is used. `undecided`: another machine of yours shows another time, and it is used all the same.
    /// `behind`: it shows less than it must be by now, which is used.
    pub state: &'static str,
    /// What time it is (RFC 3339).
    pub now: Option<String>,
    /// What this machine's clock shows (RFC 3339).
    pub own: Option<String>,
    /// Other machines of yours whose clocks were heard within the last hour.
    pub devices: usize,
    /// Why versions wait, and what is wrong with this machine's clock; and what to do about it.
    pub reason: Option<String>,
}

impl ClockView {
    fn new(reading: Reading, reason: Option<String>) -> Self {
        let Reading { now_ms, own_ms, doubt, devices } = reading;
        let state = match doubt {
            None => "own",
            Some(Doubt::Outvoted { .. }) => "outvoted",
            Some(Doubt::Undecided { .. }) => "undecided",
            Some(Doubt::Behind { .. }) => "behind",
        };
        Self { state, now: rfc3339(now_ms), own: rfc3339(own_ms), devices, reason }
    }
}

/// The `sync` part of `/status`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SyncView {
    /// `alone`, `reconciling`, `syncing`, `in_sync`, `deletions_held` (in sync but for what `GET /deletions` lists),
    /// `versions_held` (in sync but for versions of this machine that members of a library do not take before they have a newer list
    /// of revoked tickets; nobody else may have them) or `paused`.
    #[schema(value_type = String, example = "in_sync")]
    pub state: SyncState,
    /// The same in words, as the page and `can-sync status` show it.
    #[schema(example = "in sync: nothing is missing, with 2 peers")]
    pub summary: String,
    /// Why, where the state needs a reason; and why versions wait although nothing is missing.
    pub reason: Option<String>,
    /// Different assets that some peer has, and that are wanted and not here yet.
    pub missing: u64,
    /// Bytes of those.
    pub missing_bytes: u64,
    /// Live assets whose contents are wanted and not here, whoever has them. Those that nobody gives delay no `in_sync`.
    pub absent: u64,
    /// Versions that some peer has and that are not looked at yet: more may be missing.
    pub unseen: u64,
    /// Changes (new assets, edits, deletions) that some peer has not confirmed yet.
    pub missing_there: u64,
    /// Content bytes received per second, lately.
    pub rate: f64,
    /// Content bytes sent per second, lately.
    pub send_rate: f64,
    /// Assets whose deletion by peers waits for a decision, because they are many: `GET /deletions`.
    pub held_deletions: u64,
    /// Versions here that are dated ahead of this machine's clock.
    pub dated_ahead: u64,
    /// That another machine runs on a copy of this one's data directory and so has its endpoint id, and what to do about it.
    pub copied: Option<String>,
    /// The same of peers: two machines have the endpoint id of each of these.
    pub copied_peers: Vec<String>,
    /// Seconds until nothing is missing at this rate.
    pub eta_secs: Option<u64>,
}

impl SyncView {
    fn new(report: SyncReport, connected: usize) -> Self {
        let summary = SyncWords::new(&report, connected).sentence();
        // What there is to say of clocks has its own part.
        let SyncReport {
            state,
            reason,
            missing,
            missing_bytes,
            absent,
            unseen,
            missing_there,
            rate,
            send_rate,
            held_deletions,
            dated_ahead,
            copied,
            copied_peers,
            clock: _,
            eta_secs,
        } = report;
        Self {
            state,
            summary,
            reason,
            missing,
            missing_bytes,
            absent,
            unseen,
            missing_there,
            rate,
            send_rate,
            held_deletions,
            dated_ahead,
            copied,
            copied_peers,
            eta_secs,
        }
    }
}

/// How many peers there are.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PeerCounts {
    /// With a session.
    pub connected: usize,
    /// In all.
    pub known: usize,
    /// Those that are not let in, or do not let this node in: who, why, and what to do; at most 8.
    pub refusals: Vec<String>,
}

/// One way of finding peers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChannelView {
    /// Whether it works.
    pub state: ChannelState,
    /// When it last did what it is for (RFC 3339).
    pub last_success: Option<String>,
    /// Peers that it has led to.
    pub found: u64,
    /// Why it is down, where it is.
    pub last_error: Option<String>,
}

pub(super) fn channels(reports: &[ChannelReport]) -> BTreeMap<String, ChannelView> {
    let view = |report: &ChannelReport| {
        let ChannelReport { channel, state, last_success_ms, found, last_error } = report.clone();
        let last_success = last_success_ms.and_then(rfc3339);
        (channel.name().to_owned(), ChannelView { state, last_success, found, last_error })
    };
    reports.iter().map(view).collect()
}

/// The `actors` part of `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ActorsSummary {
    /// Actors in the tree.
    pub total: usize,
    /// Restarts since the process started.
    pub restarts: u64,
    /// Kinds of those that do not run as they should, each once.
    pub degraded: Vec<String>,
}

impl ActorsSummary {
    pub(super) fn new(tree: &ActorStatus) -> Self {
        let mut summary = Self::default();
        visit(tree, 0, &mut |actor, _| {
            summary.total += 1;
            summary.restarts += u64::from(actor.restarts);
            if !is_running(actor) && !summary.degraded.contains(&actor.kind) {
                summary.degraded.push(actor.kind.clone());
            }
        });
        summary
    }
}

/// The answer of `GET /status` from its parts.
pub(super) fn node_status(
    view: &AgentView,
    store: Result<StoreStatus, String>,
    damaged: Vec<DamagedView>,
    (peers, folders): (PeersReport, Vec<FolderReport>),
    tree: &ActorStatus,
) -> NodeStatus {
    let counts = PeerCounts {
        connected: peers.connected(),
        known: peers.peers.len(),
        refusals: peers.refusals().take(REFUSALS_SHOWN).collect(),
    };
    NodeStatus {
        endpoint_id: view.endpoint_id.to_string(),
        name: view.name.clone(),
        version: view.version.to_owned(),
        boot: view.events.boot().to_owned(),
        uptime_secs: view.started.elapsed().as_secs(),
        passphrase_origin: view.passphrase_origin.to_owned(),
        store: StoreView::new(view, store, damaged),
        hold: HoldingView::new(view),
        drops: peers.drops,
        clock: ClockView::new(view.clock.reading(), peers.sync.clock.clone()),
        sync: SyncView::new(peers.sync, counts.connected),
        peers: counts,
        discovery: channels(&view.discovery.reports()),
        libraries: library::actor::reports(&view.libraries, view.clock.now_ms()),
        folders: folders.into_iter().map(FolderSummary::from).collect(),
        actors: ActorsSummary::new(tree),
    }
}
