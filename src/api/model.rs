//! What the page shows, ready for its templates: words, numbers and lengths that fit.
//!
//! `gather` asks; the rest is pure.

use super::bodies::{is_running, visit};
use super::deletions::{DeletionList, ExampleView, HoldView};
use super::pins::HoldingView;
use super::view::{AgentView, StoreMode};
use super::words::SyncWords;
use crate::actor::status::ActorStatus;
use crate::clock::rate_sum;
use crate::discovery::channel::ChannelState;
use crate::library::{self, report::LibraryReport};
use crate::peer::report::{ConnectionState, PeersReport};
use crate::store::scrub::ScrubReport;
use crate::store::{StoreStatus, WaitingUploads, object_storage_sentence};
use crate::text::short_id;

mod activity;
mod folders;
mod peers;
mod recent;
mod text;

use self::activity::ActivityRow;
use self::folders::FolderRow;
use self::peers::{PeerRow, TransferRow, WaitingRow};
pub(super) use self::recent::Recent;
use self::text::{Ago, bytes, count, duration, grouped, rate, shown};

/// Rows shown of each list; the API has all of them.
const PEERS_SHOWN: usize = 200;
const WAITING_SHOWN: usize = 5;
const TRANSFERS_SHOWN: usize = 6;
const EVENTS_SHOWN: usize = 12;
const ACTORS_SHOWN: usize = 200;

/// What changes by itself: fetched again every few seconds and after every event.
pub(super) struct Live {
    pub(super) now_ms: u64,
    pub(super) node: NodeModel,
    pub(super) sync: SyncModel,
    /// How a command stands that lets go of contents.
    pub(super) drops: Option<String>,
    pub(super) deletions: Vec<HoldRow>,
    pub(super) waiting: Vec<WaitingRow>,
    /// How many wait beside those.
    pub(super) waiting_more: usize,
    pub(super) peers: Result<Rows<PeerRow>, String>,
    pub(super) libraries: Vec<LibraryRow>,
    pub(super) folders: Result<Vec<FolderRow>, String>,
    pub(super) transfers: Result<Rows<TransferRow>, String>,
    pub(super) actors: Result<Rows<ActorRow>, String>,
    pub(super) actors_summary: String,
    pub(super) activity: Vec<ActivityRow>,
}

/// The first rows of a list, and how many more there are.
pub(super) struct Rows<T> {
    pub(super) shown: Vec<T>,
    pub(super) more: usize,
}

impl<T> Rows<T> {
    fn new<S>(all: impl ExactSizeIterator<Item = S>, max: usize, row: impl FnMut(S) -> T) -> Self {
        let more = all.len().saturating_sub(max);
        Self { shown: all.take(max).map(row).collect(), more }
    }
}

impl Live {
    /// Asks for everything at once.
    pub(super) async fn gather(view: &AgentView, now_ms: u64) -> Self {
        let (store, peers, folders, transfers, tree, deletions) = tokio::join!(
            view.store_status(),
            view.peers_report(),
            view.folder_reports(),
            view.transfers(),
            view.tree(),
            DeletionList::gather(view)
        );
        let names = peers.as_ref().map(|report| report.peers.clone()).unwrap_or_default();
        let waiting: Vec<_> =
            names.iter().filter(|peer| peer.state == ConnectionState::ApprovalWanted).collect();
        let waiting = Rows::new(waiting.into_iter(), WAITING_SHOWN, WaitingRow::new);
        let last = *view.events.subscribe().borrow();
        let (events, _) = view.events.since(last.saturating_sub(EVENTS_SHOWN as u64));
        Self {
            now_ms,
            node: NodeModel::new(view, now_ms, &store),
            libraries: library::actor::reports(&view.libraries, view.clock.now_ms())
                .into_iter()
                .map(LibraryRow::new)
                .collect(),
            folders: folders
                .map(|all| all.into_iter().map(FolderRow::new).collect())
                .map_err(|error| error.message),
            deletions: deletions.holds.iter().map(|hold| HoldRow::new(hold, now_ms)).collect(),
            waiting: waiting.shown,
            waiting_more: waiting.more,
            sync: SyncModel::new(peers.as_ref().map_err(|error| error.message.as_str())),
            drops: peers
                .as_ref()
                .ok()
                .and_then(|report| report.drops.as_ref())
                .map(|drops| shown(&drops.summary)),
            transfers: transfers
                .map(|all| {
                    Rows::new(all.iter(), TRANSFERS_SHOWN, |transfer| TransferRow::new(transfer, &names))
                })
                .map_err(|error| error.message),
            peers: peers
                .map(|report| {
                    Rows::new(report.peers.into_iter(), PEERS_SHOWN, |peer| PeerRow::new(peer, now_ms))
                })
                .map_err(|error| error.message),
            actors_summary: tree.as_ref().map(actors_summary).unwrap_or_default(),
            actors: tree.as_ref().map(actor_rows).map_err(|error| error.message.clone()),
            activity: events.iter().rev().map(|event| ActivityRow::new(event, &names, now_ms)).collect(),
        }
    }
}

pub(super) struct NodeModel {
    pub(super) name: String,
    pub(super) endpoint_id: String,
    pub(super) version: &'static str,
    pub(super) uptime: String,
    pub(super) passphrase_origin: &'static str,
    pub(super) store_mode: &'static str,
    pub(super) store_url: String,
    /// Where larger contents are, if that is object storage.
    pub(super) contents: Option<String>,
    pub(super) store_problem: Option<String>,
    pub(super) assets: Option<String>,
    pub(super) bytes: Option<String>,
    /// Assets that are known beside those.
    pub(super) absent: Option<String>,
    /// What waits to be uploaded to object storage.
    pub(super) waiting_uploads: Option<String>,
    /// What is held, where that is not everything.
    pub(super) holds: Option<String>,
    /// How far the scrub is, or when everything was checked last.
    pub(super) scrub: Option<ScrubModel>,
    /// When the last snapshot of the records was made, and why none is, where they are in object storage.
    pub(super) snapshots: Option<SnapshotModel>,
    pub(super) seq: Option<u64>,
    pub(super) channels: Vec<ChannelRow>,
}

pub(super) struct ChannelRow {
    pub(super) name: &'static str,
    pub(super) state: &'static str,
    pub(super) found: u64,
    pub(super) last_success: Option<Ago>,
    pub(super) last_error: Option<String>,
}

impl NodeModel {
    fn new(view: &AgentView, now_ms: u64, store: &Result<StoreStatus, String>) -> Self {
        let status = store.as_ref().ok();
        let problem = match store {
            Ok(status) => {
                status.problem().or_else(|| status.notice.clone()).map(|clause| capitalised(&clause))
            }
            Err(why) => Some(why.clone()),
        };
        let channels = view.discovery.reports();
        Self {
            name: shown(&view.name),
            endpoint_id: view.endpoint_id.to_string(),
            version: view.version,
            uptime: duration(view.started.elapsed().as_secs()),
            passphrase_origin: view.passphrase_origin,
            store_mode: match view.store_mode {
                StoreMode::Embedded => "embedded",
                StoreMode::External => "external",
            },
            store_url: view.store_proxy.base().to_owned(),
            contents: view.object_storage.as_ref().map(|storage| {
                shown(&object_storage_sentence(&storage.url, storage.shared, storage.write_back))
            }),
            store_problem: problem,
            assets: status.map(|status| count(status.assets_held, "asset", "assets")),
            bytes: status.map(|status| bytes(status.bytes_held)),
            absent: status
                .map(|status| status.assets.saturating_sub(status.assets_held))
                .filter(|absent| *absent > 0)
                .map(|absent| count(absent, "asset", "assets")),
            waiting_uploads: status
                .and_then(|status| status.waiting_uploads.as_ref())
                .and_then(WaitingUploads::sentence)
                .map(|sentence| shown(&sentence)),
            holds: HoldingView::new(view).summary,
            scrub: status
                .and_then(|status| status.scrub.as_ref())
                .map(|scrub| ScrubModel::new(scrub, now_ms)),
            snapshots: status.and_then(|status| status.snapshots.as_ref()).map(|report| SnapshotModel {
                last: report.last_ms.map(|ms| Ago::new(now_ms, ms)),
                problem: report.problem.as_deref().map(shown),
            }),
            seq: status.map(|status| status.seq),
            channels: channels
                .iter()
                .map(|channel| ChannelRow {
                    name: channel.channel.name(),
                    state: match channel.state {
                        ChannelState::Up => "up",
                        ChannelState::Down => "down",
                        ChannelState::Off => "off",
                    },
                    found: channel.found,
                    last_success: channel.last_success_ms.map(|ms| Ago::new(now_ms, ms)),
                    last_error: channel.last_error.as_deref().map(shown),
                })
                .collect(),
        }
    }
}

pub(super) struct SnapshotModel {
    pub(super) last: Option<Ago>,
    pub(super) problem: Option<String>,
}

pub(super) struct ScrubModel {
    /// When everything was checked last.
    pub(super) last: Option<Ago>,
    /// What was not looked at, and what was found.
    pub(super) found: Option<String>,
    pub(super) running: Option<String>,
}

impl ScrubModel {
    fn new(scrub: &ScrubReport, now_ms: u64) -> Self {
        let running = scrub.running.as_ref().map(|running| {
            let left = running.eta_secs.map(|secs| format!(", {} left", duration(secs))).unwrap_or_default();
            let waits = running.waits_for.as_ref().map(|why| format!(", waits: {why}")).unwrap_or_default();
            format!("{} of {}{left}{waits}", bytes(running.bytes), bytes(running.bytes_held))
        });
        let found = scrub.last.as_ref().filter(|last| last.found > 0);
        let skipped = scrub.last.as_ref().filter(|last| last.not_checked > 0);
        let found =
            found.map(|last| format!("{} damaged, {} healed", grouped(last.found), grouped(last.healed)));
        let skipped = skipped.map(|last| format!("but for {} in object storage", grouped(last.not_checked)));
        let said: Vec<String> = skipped.into_iter().chain(found).collect();
        Self {
            last: scrub.last.as_ref().map(|last| Ago::new(now_ms, last.ended_ms)),
            found: (!said.is_empty()).then(|| said.join(", ")),
            running,
        }
    }
}

/// How far this node and its peers agree.
pub(super) struct SyncModel {
    /// `good`, `busy`, `idle` or `bad`: the colour.
    pub(super) mood: &'static str,
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) send_rate: f64,
    pub(super) receive_rate: f64,
    pub(super) send: String,
    pub(super) receive: String,
}

impl SyncModel {
    fn new(report: Result<&PeersReport, &str>) -> Self {
        let (mood, title, detail, send_rate, receive_rate) = match report {
            Err(error) => ("bad", String::from("Unknown"), error.to_owned(), 0.0, 0.0),
            Ok(report) => {
                let words = SyncWords::new(&report.sync, report.connected());
                let (mood, title, detail) = (words.mood, words.heading(), shown(&words.detail()));
                let send = rate_sum(report.peers.iter().map(|peer| peer.rates.send));
                let receive = rate_sum(report.peers.iter().map(|peer| peer.rates.receive));
                (mood, title, detail, send, receive)
            }
        };
        let (send, receive) = (rate(send_rate), rate(receive_rate));
        Self { mood, title, detail, send_rate, receive_rate, send, receive }
    }
}

pub(super) struct HoldRow {
    pub(super) id: String,
    pub(super) count: String,
    pub(super) from: String,
    pub(super) library: Option<String>,
    pub(super) since: Ago,
    pub(super) examples: String,
}

impl HoldRow {
    fn new(hold: &HoldView, now_ms: u64) -> Self {
        let named = |example: &ExampleView| {
            let name = example.filename.as_deref().map(shown);
            name.unwrap_or_else(|| short_id(&example.hash))
        };
        Self {
            id: hold.id.clone(),
            count: count(hold.count, "deletion", "deletions"),
            from: shown(&hold.from),
            library: hold.library.as_ref().map(|library| shown(&library.name)),
            since: Ago::new(now_ms, hold.since_ms),
            examples: hold.examples.iter().map(named).collect::<Vec<_>>().join(", "),
        }
    }
}

pub(super) struct LibraryRow {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) short_id: String,
    pub(super) owner: bool,
    pub(super) access: &'static str,
    pub(super) state: &'static str,
    pub(super) mood: &'static str,
    pub(super) assets: String,
    pub(super) bytes: String,
    pub(super) missing: String,
    pub(super) missing_there: String,
    pub(super) connected: usize,
    pub(super) problem: Option<String>,
}

impl LibraryRow {
    fn new(library: LibraryReport) -> Self {
        let (state, mood) = match library.progress.state {
            _ if library.problem.is_some() => ("shut out", "bad"),
            "in_sync" => ("in sync", "good"),
            "alone" => ("no member here", "idle"),
            "reading" => ("reading the store", "busy"),
            "held" => ("held by members", "bad"),
            _ => ("syncing", "busy"),
        };
        Self {
            name: shown(&library.name),
            short_id: short_id(&library.id),
            id: library.id,
            owner: library.owner,
            access: if library.owner { "owner" } else { library.access.as_str() },
            state,
            mood,
            assets: grouped(library.counts.assets),
            bytes: bytes(library.counts.bytes),
            missing: grouped(library.progress.missing),
            missing_there: grouped(library.progress.missing_there),
            connected: library.progress.connected,
            problem: library
                .problem
                .as_deref()
                .or(library.stale.as_deref())
                .or(library.held.as_deref())
                .map(shown),
        }
    }
}

pub(super) struct ActorRow {
    pub(super) depth: usize,
    pub(super) kind: String,
    pub(super) label: Option<String>,
    pub(super) state: &'static str,
    pub(super) mood: &'static str,
    pub(super) restarts: u32,
    pub(super) uptime: String,
    pub(super) mailbox: String,
    /// Messages that found no actor.
    pub(super) undelivered: u64,
    pub(super) queued: Option<u64>,
    pub(super) notes: Vec<String>,
}

fn actor_rows(tree: &ActorStatus) -> Rows<ActorRow> {
    let mut all = Vec::new();
    visit(tree, 0, &mut |actor, depth| all.push((actor, depth)));
    Rows::new(all.into_iter(), ACTORS_SHOWN, |(actor, depth)| ActorRow {
        depth: depth.min(3),
        kind: shown(&actor.kind),
        label: actor.label.as_deref().map(shown),
        state: actor.state.name(),
        mood: if is_running(actor) { "good" } else { "bad" },
        restarts: actor.restarts,
        uptime: duration(actor.uptime_secs),
        mailbox: mailbox(actor),
        undelivered: actor.undelivered,
        queued: actor.queued,
        notes: actor.detail.iter().chain(&actor.last_error).map(|text| shown(text)).collect(),
    })
}

/// What waits for it, and for how long, in short.
fn mailbox(actor: &ActorStatus) -> String {
    match (actor.mailbox, actor.mailbox_ms / 1000) {
        (messages, 0) => messages.to_string(),
        (messages, secs) => format!("{messages}, {}", duration(secs)),
    }
}

fn capitalised(clause: &str) -> String {
    let mut chars = clause.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn actors_summary(tree: &ActorStatus) -> String {
    let (mut total, mut restarts, mut ailing) = (0, 0, 0);
    visit(tree, 0, &mut |actor, _| {
        total += 1;
        restarts += u64::from(actor.restarts);
        ailing += u64::from(!is_running(actor));
    });
    let health = if ailing == 0 { String::from("all running") } else { format!("{ailing} not running") };
    format!("{total} actors, {health}, {}", count(restarts, "restart", "restarts"))
}
