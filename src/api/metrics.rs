//! `GET /metrics`: the node's figures, followed by iroh's own, in the text format that is asked for: `OpenMetrics`, or
//! Prometheus's own, which every scraper reads.
//!
//! What cannot be had in time is left out, and `can_sync_part_up` says so: a scrape never fails because one actor hangs.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{self, HeaderMap};
use axum::response::IntoResponse;
use iroh::Endpoint;
use iroh_metrics::Registry;

use super::bodies::{is_running, visit};
use super::pins::HoldingView;
use super::view::{AgentView, ApiState};
use crate::actor::status::ActorStatus;
use crate::peer::report::{PeerReport, PeersReport, SyncState};
use crate::stderr::{self, Lost};
use crate::store::scrub::ScrubReport;
use crate::store::{StoreStatus, WaitingUploads};

mod folders;
mod format;

use format::TextFormat;

/// Peers with series of their own: as many as there may be connections.
const PEERS_MAX: usize = 64;
/// A registry with the endpoint's own metrics, each under the prefix `iroh_`.
pub fn endpoint_registry(endpoint: &Endpoint) -> Arc<Registry> {
    let mut registry = Registry::default();
    registry.sub_registry_with_prefix("iroh").register_all(endpoint.metrics());
    Arc::new(registry)
}

/// Figures for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "node",
    params(("Accept" = Option<String>, Header, description = "`application/openmetrics-text`, or Prometheus's own format")),
    responses((status = 200, description = "In the format that was asked for.", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    )))
)]
pub(super) async fn metrics(State(state): State<ApiState>, headers: HeaderMap) -> impl IntoResponse {
    let view = &state.view;
    let (store, peers, folders, tree, process) = tokio::join!(
        view.store_status(),
        view.peers_report(),
        view.folder_reports(),
        view.tree(),
        ProcessFigures::read()
    );
    let mut out = Exposition::default();
    node(&mut out, view);
    let parts = [
        ("store", store.is_ok()),
        ("peers", peers.is_ok()),
        ("folders", folders.is_ok()),
        ("actors", tree.is_ok()),
    ];
    up(&mut out, parts);
    if let Ok(status) = &store {
        store_figures(&mut out, status);
    }
    if let Ok(report) = &peers {
        peer_figures(&mut out, report);
    }
    if let Ok(reports) = &folders {
        folders::figures(&mut out, reports);
    }
    if let Ok(tree) = &tree {
        actor_figures(&mut out, tree);
    }
    process.write(&mut out);
    stderr_figures(&mut out, stderr::lost());
    let (format, text) = (TextFormat::asked_for(&headers), out.finish(&view.registry));
    let text = match format {
        TextFormat::OpenMetrics => text,
        TextFormat::Prometheus => format::prometheus(&text),
    };
    ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "Accept")], text)
}

fn node(out: &mut Exposition, view: &AgentView) {
    out.family("can_sync_build", "info", "Version of the program and identity of the node.");
    let id = view.endpoint_id.to_string();
    out.sample(
        "can_sync_build_info",
        &[("version", view.version), ("endpoint_id", &id), ("name", &view.name)],
        1,
    );
    out.gauge("can_sync_uptime_seconds", "Seconds since the start.", view.started.elapsed().as_secs());
    if !view.limits.is_empty() {
        out.family("can_sync_limit", "gauge", "Configured limits.");
        for (name, value) in view.limits.iter() {
            out.sample("can_sync_limit", &[("name", name)], value);
        }
    }
    let HoldingView { left_out, no_room, pinned, pinned_filters, .. } = HoldingView::new(view);
    out.gauge(
        "can_sync_left_out_assets",
        "Assets that are known and whose contents are neither here nor asked for: not to be held, or let go of.",
        left_out,
    );
    out.gauge("can_sync_no_room_assets", "Assets that the store's quota leaves no room for.", no_room);
    out.gauge("can_sync_pins", "Assets and filters that are pinned.", pinned + pinned_filters);
    out.family("can_sync_channel_found", "gauge", "Peers that each way of finding peers has led to.");
    for channel in view.discovery.reports() {
        out.sample("can_sync_channel_found", &[("channel", channel.channel.name())], channel.found);
    }
}

fn up(out: &mut Exposition, parts: [(&str, bool); 4]) {
    out.family("can_sync_part_up", "gauge", "Whether this part of the node answered for this scrape.");
    for (part, up) in parts {
        out.sample("can_sync_part_up", &[("part", part)], u8::from(up));
    }
}

fn store_figures(out: &mut Exposition, status: &StoreStatus) {
    let StoreStatus { assets, bytes, assets_held, bytes_held, damaged, seq, .. } = status;
    out.gauge("can_sync_store_assets", "Live assets that are known, held or not.", assets);
    out.gauge("can_sync_store_bytes", "Sum of the sizes of live assets that are known.", bytes);
    out.gauge("can_sync_store_held_assets", "Live assets whose contents are here.", assets_held);
    out.gauge("can_sync_store_held_bytes", "Sum of the sizes of contents that are here.", bytes_held);
    out.gauge(
        "can_sync_store_damaged_assets",
        "Contents that were found damaged and did not come again yet.",
        damaged,
    );
    if let Some(quota) = &status.quota {
        out.gauge("can_sync_store_quota_bytes", "Most content in the store.", quota.max_bytes);
        out.gauge(
            "can_sync_store_quota_used_bytes",
            "What counts of it, the trash included.",
            quota.used_bytes,
        );
    }
    if let Some(waiting) = &status.waiting_uploads {
        upload_figures(out, waiting);
    }
    if let Some(scrub) = &status.scrub {
        scrub_figures(out, scrub);
    }
    if let Some(snapshots) = &status.snapshots {
        out.gauge(
            "can_sync_snapshot_last_seconds",
            "As of when all records are in a snapshot in object storage, in seconds since the Unix epoch; 0 for never.",
            snapshots.last_ms.unwrap_or_default() / 1000,
        );
        out.gauge(
            "can_sync_snapshot_failing",
            "Whether no snapshot can be made at the moment.",
            u8::from(snapshots.problem.is_some()),
        );
    }
    out.gauge("can_sync_store_seq", "Number of the store's last change.", seq);
    out.gauge(
        "can_sync_store_writable",
        "Whether the store takes writes.",
        u8::from(status.problem().is_none()),
    );
}

fn upload_figures(out: &mut Exposition, waiting: &WaitingUploads) {
    out.gauge(
        "can_sync_waiting_uploads",
        "Contents that wait on this disk to be uploaded to object storage.",
        waiting.contents,
    );
    out.gauge("can_sync_waiting_upload_bytes", "Sum of the sizes of those.", waiting.bytes);
    out.gauge(
        "can_sync_waiting_upload_oldest_seconds",
        "How long the oldest of them waits.",
        waiting.oldest_secs.unwrap_or_default(),
    );
    out.gauge(
        "can_sync_waiting_uploads_failing",
        "Whether the latest upload failed, or none is tried.",
        u8::from(waiting.last_error.is_some()),
    );
}

fn scrub_figures(out: &mut Exposition, scrub: &ScrubReport) {
    out.gauge(
        "can_sync_scrub_running",
        "Whether the store is being scrubbed.",
        u8::from(scrub.running.is_some()),
    );
    let running = scrub.running.clone().unwrap_or_default();
    out.gauge("can_sync_scrub_checked_bytes", "Bytes that the scrub under way has read.", running.bytes);
    let last = scrub.last.clone().unwrap_or_default();
    out.gauge(
        "can_sync_scrub_last_end_seconds",
        "When the last whole scrub ended, in seconds since the Unix epoch; 0 for never.",
        last.ended_ms / 1000,
    );
    out.gauge(
        "can_sync_scrub_last_found_assets",
        "Damaged contents that the last whole scrub found.",
        last.found,
    );
    out.gauge("can_sync_scrub_last_healed_assets", "Those of them that are whole again.", last.healed);
    out.gauge(
        "can_sync_scrub_without_record_assets",
        "Contents without a record in the database, at the last whole scrub.",
        last.without_record,
    );
}

fn peer_figures(out: &mut Exposition, report: &PeersReport) {
    let sync = &report.sync;
    let in_sync = matches!(sync.state, SyncState::InSync | SyncState::DeletionsHeld);
    out.gauge("can_sync_in_sync", "Whether nothing is missing.", u8::from(in_sync));
    out.gauge(
        "can_sync_held_deletions",
        "Assets whose deletion by peers waits for somebody's decision.",
        sync.held_deletions,
    );
    out.gauge(
        "can_sync_missing_assets",
        "Assets that a peer has and that are wanted and not here.",
        sync.missing,
    );
    out.gauge("can_sync_missing_bytes", "Bytes of those.", sync.missing_bytes);
    out.gauge(
        "can_sync_absent_assets",
        "Assets that are known and whose contents are wanted and not here, whoever has them.",
        sync.absent,
    );
    out.gauge("can_sync_receive_bytes_per_second", "Content received from all peers, lately.", sync.rate);
    out.gauge("can_sync_peers_connected", "Peers with a session.", report.connected());
    out.gauge("can_sync_peers_known", "Peers in all.", report.peers.len());
    let connected: Vec<&PeerReport> =
        report.peers.iter().filter(|peer| peer.state.is_connected()).take(PEERS_MAX).collect();
    let mut per_peer = |name: &str, kind: &str, help: &str, value: &dyn Fn(&PeerReport) -> Option<f64>| {
        out.family(name, kind, help);
        let sample = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        for peer in &connected {
            if let Some(value) = value(peer) {
                out.sample(&sample, &[("endpoint_id", &peer.endpoint_id)], value);
            }
        }
    };
    per_peer("can_sync_peer_sent_bytes", "counter", "Content sent to a peer.", &|p| {
        Some(float(p.bytes_sent))
    });
    per_peer("can_sync_peer_received_bytes", "counter", "Content received from a peer.", &|p| {
        Some(float(p.bytes_received))
    });
    per_peer("can_sync_peer_missing_here", "gauge", "Assets that are wanted from a peer.", &|p| {
        Some(float(p.missing_here))
    });
    per_peer("can_sync_peer_missing_there", "gauge", "Assets that a peer has not confirmed.", &|p| {
        Some(float(p.missing_there))
    });
    per_peer(
        "can_sync_peer_bulk_connections",
        "gauge",
        "Connections for contents alone, to and from a peer.",
        &|p| Some(float(u64::from(p.bulk_in) + u64::from(p.bulk_out))),
    );
    per_peer("can_sync_peer_rtt_seconds", "gauge", "Round trip to a peer.", &|p| {
        p.rtt_ms.map(|ms| ms / 1000.0)
    });
}

fn actor_figures(out: &mut Exposition, tree: &ActorStatus) {
    // By kind: one series per session would grow with every peer that ever connected.
    let mut kinds: BTreeMap<String, KindFigures> = BTreeMap::new();
    visit(tree, 0, &mut |actor, _| {
        let figures = kinds.entry(actor.kind.clone()).or_default();
        figures.running += u64::from(is_running(actor));
        figures.total += 1;
        figures.restarts += u64::from(actor.restarts);
        figures.mailbox += actor.mailbox;
        figures.mailbox_ms = figures.mailbox_ms.max(actor.mailbox_ms);
        figures.undelivered += actor.undelivered;
    });
    let mut per_kind = |name: &str, kind: &str, help: &str, value: &dyn Fn(&KindFigures) -> f64| {
        out.family(name, kind, help);
        let sample = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        for (kind, figures) in &kinds {
            out.sample(&sample, &[("kind", kind)], value(figures));
        }
    };
    // As f64, which what is counted here never outgrows.
    #[allow(clippy::cast_precision_loss)]
    let of = |value: u64| value as f64;
    per_kind("can_sync_actors", "gauge", "Actors in the tree.", &|f| of(f.total));
    per_kind("can_sync_actors_running", "gauge", "Actors that do their work.", &|f| of(f.running));
    let help = "Restarts of the actors that are in the tree now.";
    per_kind("can_sync_actor_restarts", "counter", help, &|f| of(f.restarts));
    let help = "Messages that wait in the mailboxes of the actors that are in the tree now.";
    per_kind("can_sync_actor_mailbox_messages", "gauge", help, &|f| of(f.mailbox));
    let help = "How long the oldest of those has waited, in seconds.";
    per_kind("can_sync_actor_mailbox_oldest_seconds", "gauge", help, &|f| of(f.mailbox_ms) / 1000.0);
    let help = "Messages that found no actor, by the kind of actor that they were for.";
    per_kind("can_sync_actor_undelivered_messages", "counter", help, &|f| of(f.undelivered));
}

/// All actors of a kind together.
#[derive(Default)]
struct KindFigures {
    running: u64,
    total: u64,
    restarts: u64,
    mailbox: u64,
    mailbox_ms: u64,
    undelivered: u64,
}

fn stderr_figures(out: &mut Exposition, Lost { messages, bytes }: Lost) {
    let families = [
        (
            "can_sync_stderr_lost_messages",
            "Log lines and dumps that nobody read in time from stderr.",
            messages,
        ),
        ("can_sync_stderr_lost_bytes", "Bytes of those.", bytes),
    ];
    for (name, help, value) in families {
        out.family(name, "counter", help);
        out.sample(&format!("{name}_total"), &[], value);
    }
}

/// What the system says about the process, where it says anything (Linux).
#[derive(Debug, Default, PartialEq, Eq)]
struct ProcessFigures {
    resident_bytes: Option<u64>,
    open_fds: Option<usize>,
}

impl ProcessFigures {
    async fn read() -> Self {
        let resident = async {
            let status = tokio::fs::read_to_string("/proc/self/status").await.ok()?;
            resident_bytes(&status)
        };
        let fds =
            tokio::task::spawn_blocking(|| std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok());
        let (resident_bytes, fds) = tokio::join!(resident, fds);
        Self { resident_bytes, open_fds: fds.ok().flatten() }
    }

    fn write(&self, out: &mut Exposition) {
        if let Some(bytes) = self.resident_bytes {
            out.gauge("process_resident_memory_bytes", "Memory in use.", bytes);
        }
        if let Some(fds) = self.open_fds {
            out.gauge("process_open_fds", "Open file descriptors.", fds);
        }
    }
}

/// The resident set from the text of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Counts are shown, not summed: what a float cannot hold exactly does not matter.
#[expect(clippy::cast_precision_loss)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    /// Opens a family; its samples follow.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escape(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn finish(mut self, registry: &Registry) -> String {
        if let Err(error) = registry.encode_openmetrics_to_writer(&mut self.0) {
            tracing::warn!(%error, "cannot write the endpoint's metrics");
        }
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// A label's value: names come from people.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_a_label() {
        let mut out = Exposition::default();
        out.sample("x", &[("name", "a\"} 1\nevil 2\\")], 3);
        assert_eq!(out.0, "x{name=\"a\\\"} 1\\nevil 2\\\\\"} 3\n");
    }

    #[test]
    fn memory_is_read_from_the_system_s_words() {
        assert_eq!(resident_bytes("VmPeak:\t  9 kB\nVmRSS:\t  12345 kB\n"), Some(12_345 * 1024));
        assert_eq!(resident_bytes("VmRSS: many\n"), None);
        assert_eq!(resident_bytes(""), None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_process_has_memory_and_files() {
        let process = ProcessFigures::read().await;
        assert!(process.resident_bytes.unwrap() > 1 << 20);
        assert!(process.open_fds.unwrap() > 2);
    }
}
