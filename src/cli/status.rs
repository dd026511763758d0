//! `can-sync status`: how the node is, once or again and again.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::peers::{self, PeerBody};
use super::text;
use crate::clock::rfc3339;
use crate::folder::report::{FolderProgress, FolderState};
use crate::store::object_storage_sentence;
use crate::store::scrub::ScrubReport;
use crate::store::{QuotaStatus, SnapshotReport, WaitingUploads};

/// Between two looks with `--watch`.
const REFRESH: Duration = Duration::from_secs(1);
/// Home, and clear what is below: a screen that is written again without flicker.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";

#[derive(clap::Args, Debug)]
pub(super) struct StatusArgs {
    /// Show it again every second, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// `GET /status`, as far as the command line needs it; the rest is passed on in JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct StatusBody {
    pub(super) endpoint_id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    uptime_secs: u64,
    pub(super) store: StoreBody,
    #[serde(default)]
    hold: HoldingBody,
    drops: Option<DropsBody>,
    pub(super) sync: SyncStatus,
    pub(super) peers: PeerCountsBody,
    #[serde(default)]
    discovery: BTreeMap<String, ChannelBody>,
    #[serde(default)]
    folders: Vec<FolderBody>,
    #[serde(default)]
    actors: Actors,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What is held here, as far as it is shown.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct HoldingBody {
    summary: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// A command that lets go of contents, as far as it is shown.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct DropsBody {
    summary: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct FolderBody {
    name: String,
    path: String,
    state: FolderState,
    reason: Option<String>,
    #[serde(default)]
    entries: u64,
    #[serde(default)]
    waiting: u64,
    #[serde(default)]
    waiting_bytes: u64,
    progress: Option<FolderProgress>,
    eta_secs: Option<u64>,
    #[serde(default)]
    held: u64,
    #[serde(default)]
    asked: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl FolderBody {
    fn sentence(&self) -> String {
        let files = text::counted(self.entries, "file");
        let mut said = format!("{} at {}: {}, {files}", self.name, self.path, self.state.name());
        if let Some(FolderProgress { files, files_total, .. }) = self.progress {
            said = format!("{said}, {files} of {files_total} done");
        }
        if self.waiting > 0 {
            let contents = text::counted(self.waiting, "content");
            said = format!("{said}, {contents} ({}) on the way", text::bytes(self.waiting_bytes));
        }
        if let Some(secs) = self.eta_secs {
            said = format!("{said}, {} left", text::seconds(secs));
        }
        if self.held > 0 {
            let held = text::counted(self.held, "removal");
            said = format!("{said}; {held} held, `can-sync folder confirm` or `revert` decides");
        }
        if self.asked > 0 {
            let asked = text::counted(self.asked, "file");
            said = format!("{said}; {asked} removed elsewhere, `can-sync folder keep` or `trash` decides");
        }
        match &self.reason {
            Some(reason) => format!("{said}: {reason}"),
            None => said,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct StoreBody {
    #[serde(default)]
    mode: String,
    pub(super) url: String,
    object_storage: Option<ObjectStorageBody>,
    pub(super) healthy: bool,
    error: Option<String>,
    assets: Option<u64>,
    bytes: Option<u64>,
    assets_held: Option<u64>,
    bytes_held: Option<u64>,
    damaged: Option<u64>,
    quota: Option<QuotaStatus>,
    waiting_uploads: Option<WaitingUploads>,
    #[serde(default)]
    damaged_contents: Vec<DamagedBody>,
    scrub: Option<ScrubReport>,
    snapshots: Option<SnapshotReport>,
    notice: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct ObjectStorageBody {
    url: String,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    write_back: bool,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// A damaged content, as far as it is shown here.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct DamagedBody {
    hash: String,
    filename: Option<String>,
    #[serde(default)]
    holders: Vec<String>,
    #[serde(default)]
    is_within_reach: bool,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct SyncStatus {
    pub(super) state: String,
    summary: Option<String>,
    pub(super) reason: Option<String>,
    #[serde(default)]
    held_deletions: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct PeerCountsBody {
    pub(super) connected: u64,
    pub(super) known: u64,
    #[serde(default)]
    refusals: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct ChannelBody {
    state: String,
    last_success: Option<String>,
    #[serde(default)]
    found: u64,
    last_error: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Actors {
    #[serde(default)]
    degraded: Vec<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl SyncStatus {
    /// Where things stand, in a clause: the daemon's own words.
    pub(super) fn sentence(&self) -> String {
        let reason = || self.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        self.summary.clone().unwrap_or_else(|| format!("{}{}", self.state.replace('_', " "), reason()))
    }
}

impl StoreBody {
    /// What is here, and what is known besides.
    fn counts(&self) -> String {
        let (Some(assets), Some(bytes)) = (self.assets, self.bytes) else { return String::new() };
        let (held, held_bytes) = (self.assets_held.unwrap_or(assets), self.bytes_held.unwrap_or(bytes));
        let here = format!(", {} ({})", text::counted(held, "asset"), text::bytes(held_bytes));
        match assets.saturating_sub(held) {
            0 => here,
            absent => {
                let absent_bytes = text::bytes(bytes.saturating_sub(held_bytes));
                format!("{here}, {absent} more known and not held here ({absent_bytes})")
            }
        }
    }
}

impl ObjectStorageBody {
    fn sentence(&self) -> String {
        object_storage_sentence(&self.url, self.shared, self.write_back)
    }
}

impl DamagedBody {
    /// What nobody who is connected has.
    fn sentence(&self) -> String {
        let hash: String = self.hash.chars().take(16).collect();
        let name = self.filename.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        let had = match self.holders.as_slice() {
            [] => "nobody is known to have it".to_owned(),
            holders => format!("last known at {}", holders.join(", ")),
        };
        format!("{hash}{name}: nobody who is connected has it; {had}")
    }
}

/// How much of the quota is used.
pub(super) fn quota_sentence(quota: &QuotaStatus) -> String {
    let QuotaStatus { max_bytes, used_bytes, trashed_bytes } = quota;
    let trashed = match trashed_bytes {
        0 => String::new(),
        trashed => format!(", {} of that in the trash", text::bytes(*trashed)),
    };
    format!("{} of {} used{trashed}", text::bytes(*used_bytes), text::bytes(*max_bytes))
}

/// When everything was checked last, and how far the scrub is that is under way; `damaged` contents are set aside now.
fn scrub_sentence(scrub: &ScrubReport, damaged: u64) -> String {
    let ago = |ms| rfc3339(ms).map(|time| text::ago(&time)).unwrap_or_default();
    let last = scrub.last.as_ref().map(|last| {
        let found = match last.found {
            0 if damaged > 0 => "no other damage found".to_owned(),
            0 => "nothing damaged found".to_owned(),
            found => format!("{found} damaged, {} of them healed", last.healed),
        };
        let skipped = (last.not_checked > 0)
            .then(|| format!("{} in object storage", text::counted(last.not_checked, "content")));
        let unreadable = (last.unreadable > 0)
            .then(|| format!("{} that could not be read", text::counted(last.unreadable, "part")));
        let but: Vec<String> = skipped.into_iter().chain(unreadable).collect();
        let but = if but.is_empty() { String::new() } else { format!(" but {}", but.join(" and ")) };
        format!("everything{but} was checked {}, {found}", ago(last.ended_ms))
    });
    let last = last.unwrap_or_else(|| "not everything was checked yet".to_owned());
    let Some(running) = &scrub.running else { return last };
    let passed = running.bytes.saturating_add(running.not_checked_bytes);
    let percent = passed.saturating_mul(100).checked_div(running.bytes_held).unwrap_or(100).min(100);
    let left = running.eta_secs.map(|secs| format!(", {} left", text::seconds(secs))).unwrap_or_default();
    let waits = running.waits_for.as_ref().map(|why| format!(", waits: {why}")).unwrap_or_default();
    let found = if running.found > 0 { format!(", {} damaged", running.found) } else { String::new() };
    format!("{last}; under way: {percent} %{left}{waits}{found}")
}

/// As of when all records are in a snapshot, and why that is not now.
pub(super) fn snapshot_sentence(report: &SnapshotReport) -> String {
    let last = report.last_ms.and_then(rfc3339).map(|time| text::ago(&time));
    let last = last.map_or_else(|| "none was made yet".to_owned(), |ago| format!("the last was made {ago}"));
    match &report.problem {
        Some(why) => format!("{last}; none can be made: {why}"),
        None if report.running => format!("{last}; one is being made"),
        None => last,
    }
}

impl StatusBody {
    /// Why the node is not as it should be.
    fn degraded(&self) -> Option<String> {
        if !self.store.healthy {
            return Some(self.store.error.clone().unwrap_or_else(|| "the store does not work".to_owned()));
        }
        if self.sync.state == "paused" {
            return Some(format!("sync is {}", self.sync.sentence()));
        }
        let degraded = &self.actors.degraded;
        (!degraded.is_empty()).then(|| format!("not running as they should: {}", degraded.join(", ")))
    }

    /// With a line for each peer that something moves with.
    fn watched(&self, peers: &[PeerBody]) -> Vec<(&'static str, String)> {
        let mut fields = self.fields();
        let moving = peers.iter().filter_map(|peer| {
            let progress = peer.progress()?;
            Some(("peer", format!("{}: {progress}", peer.called())))
        });
        let place = fields.iter().position(|(name, _)| *name == "peers").map_or(fields.len(), |n| n + 1);
        fields.splice(place..place, moving);
        fields
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let StoreBody { mode, url, healthy, .. } = &self.store;
        let counts = self.store.counts();
        let health = if *healthy { "" } else { ", not healthy" };
        let mut fields = vec![
            ("node", format!("{} ({})", self.name, self.endpoint_id)),
            ("version", format!("{}, up {}", self.version, text::seconds(self.uptime_secs))),
            ("store", format!("{mode} at {url}{health}{counts}")),
            ("sync", self.sync.sentence()),
            ("peers", format!("{} connected, {} known", self.peers.connected, self.peers.known)),
        ];
        fields.extend(self.store.object_storage.as_ref().map(|storage| ("contents", storage.sentence())));
        fields.extend(self.store.quota.as_ref().map(|quota| ("quota", quota_sentence(quota))));
        let waiting = self.store.waiting_uploads.as_ref().and_then(WaitingUploads::sentence);
        fields.extend(waiting.map(|sentence| ("to upload", sentence)));
        fields.extend(self.hold.summary.clone().map(|summary| ("holds", summary)));
        let drops = self.drops.as_ref().and_then(|drops| drops.summary.clone());
        fields.extend(drops.map(|summary| ("drop", summary)));
        let said = self.sync.sentence();
        let told = |refusal: &&String| !said.contains(refusal.as_str());
        fields.extend(self.peers.refusals.iter().filter(told).map(|told| ("not let in", told.clone())));
        if let Some(reason) = self.sync.reason.as_ref().filter(|reason| !said.contains(reason.as_str())) {
            fields.push(("note", reason.clone()));
        }
        fields.extend(self.store.notice.clone().map(|notice| ("note", notice)));
        if let Some(damaged) = self.store.damaged.filter(|damaged| *damaged > 0) {
            let damaged = text::counted(damaged, "content");
            let told = match self.store.object_storage {
                None => format!("{damaged} on this disk, set aside until a peer has them"),
                Some(_) => {
                    format!("{damaged} damaged here or gone from the object storage, wanted from peers")
                }
            };
            fields.push(("damaged", told));
            let lost = self.store.damaged_contents.iter().filter(|one| !one.is_within_reach);
            fields.extend(lost.map(|one| ("damaged", one.sentence())));
        }
        let damaged = self.store.damaged.unwrap_or_default();
        fields.extend(self.store.scrub.as_ref().map(|scrub| ("scrub", scrub_sentence(scrub, damaged))));
        fields.extend(self.store.snapshots.as_ref().map(|report| ("snapshots", snapshot_sentence(report))));
        if self.sync.held_deletions > 0 {
            let held = text::counted(self.sync.held_deletions, "deletion");
            fields.push(("held back", format!("{held} by peers; `can-sync deletions` lists them")));
        }
        fields.extend(self.folders.iter().map(|folder| ("folder", folder.sentence())));
        let (off, used): (Vec<_>, Vec<_>) =
            self.discovery.iter().partition(|(_, channel)| channel.state == "off");
        for (name, channel) in used {
            let last =
                channel.last_success.as_deref().map(|time| format!(", last success {}", text::ago(time)));
            let found = if channel.found > 0 { format!(", {} found", channel.found) } else { String::new() };
            let error = channel.last_error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            let last = last.unwrap_or_default();
            fields.push(("discovery", format!("{name}: {}{found}{last}{error}", channel.state)));
        }
        if !off.is_empty() {
            let names: Vec<&str> = off.into_iter().map(|(name, _)| name.as_str()).collect();
            fields.push(("not used", names.join(", ")));
        }
        fields
    }
}

pub(super) async fn fetch(agent: &ApiClient) -> CliResult<StatusBody> {
    agent.get("/status", &[]).await
}

/// Exit code 4 when the node is not as it should be.
pub(super) async fn run(context: &Context, args: &StatusArgs) -> CliResult {
    let agent = context.agent()?;
    let out = context.out;
    loop {
        let status = fetch(&agent).await?;
        if out.json {
            out.value(&status)?;
        } else if args.watch && !out.terminal {
            let peers = text::counted(status.peers.connected, "peer");
            out.line(&text::escape(&format!("{}; {peers}", status.sync.sentence())))?;
        } else {
            let mut fields = status.fields();
            if args.watch {
                fields = status.watched(&peers::fetch(&agent).await?);
                std::io::stdout().lock().write_all(CLEAR_SCREEN.as_bytes())?;
            }
            out.fields(&fields)?;
        }
        let degraded = status.degraded();
        if !args.watch {
            return degraded
                .map_or(Ok(()), |why| Err(CliError::new(Exit::Degraded, format!("degraded: {why}"))));
        }
        if let (Some(why), true) = (degraded, out.terminal) {
            message(&format!("\ndegraded: {}", text::escape(&why)));
        }
        tokio::time::sleep(REFRESH).await;
    }
}

#[cfg(test)]
mod tests;
