//! Boot, shutdown, supervision: the whole tree is put together here.
//!
//! [`Node::start`] makes the resources in [`resources`] (keys, store, endpoint, sockets), which outlive any actor, and
//! then the tree of actors around them. [`Node::wait`] takes both down again, the actors first.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::EndpointId;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::resources::Resources;
use self::signals::{SignalActor, SignalArgs, SignalMsg, Signals};
use crate::actor::ServiceCell;
use crate::actor::policy::ChildKind;
use crate::actor::supervisor::{self, Child, RootArgs, RootMsg, ShutdownOutcome, StopReason};
use crate::api::metrics;
use crate::api::on_demand::fetch_content;
use crate::api::view::StoreMode;
use crate::api::{AgentView, HttpActor, HttpArgs, HttpMsg};
use crate::clock::Clock;
use crate::config::{Config, ConfiguredFolder, ConfiguredMode, Limits, Origins};
use crate::discovery::candidates::Candidates;
use crate::discovery::channel::{ChannelReport, ChannelState, Channels};
use crate::discovery::gossip::{GossipActor, GossipMsg};
use crate::discovery::rendezvous::{RendezvousActor, RendezvousMsg};
use crate::events::EventLog;
use crate::feed::{CanServiceActor, CanServiceArgs, CanServiceMsg};
use crate::folder::FolderMode;
use crate::folder::files::Forbidden;
use crate::folder::supervisor::{FolderOrder, FolderWishes, FoldersActor, FoldersArgs, FoldersMsg};
use crate::folder::work::{FolderContext, FolderLocks};
use crate::http::ServeLimits;
use crate::identity::PassphraseOrigin;
use crate::library::actor::{LibraryActor, LibraryArgs, LibraryMsg};
use crate::library::manage::Manager;
use crate::net::endpoint;
use crate::peer::args::{
    DiscoveryLinks, FirstPeers, PeerLimits, PeersArgs, PeersLimits, Replica, SpawnPeer, spawn_peer,
};
use crate::peer::establish::Introduction;
use crate::peer::messages::PeersMsg;
use crate::peer::places::PlaceLimits;
use crate::peer::roster::DialLimits;
use crate::peer::supervisor::PeersActor;
use crate::store::scrub::{ScrubActor, ScrubArgs, ScrubMsg, ScrubSettings};
use crate::store::server::{StoreServerActor, StoreServerMsg};
use crate::transfer::pace::Pace;
use crate::transfer::schedule;

mod at_rest;
pub(crate) mod backup;
pub mod discovery;
pub mod dump;
pub(crate) mod preflight;
mod protocols;
pub(crate) mod renewal;
pub mod resources;
pub(crate) mod running;
pub mod secrets;
pub mod signals;

/// How long the endpoint has to say goodbye to peers. Those that answer take less; one that is being dialled and never does takes
/// three seconds by itself.
const CLOSE_ENDPOINT_WITHIN: Duration = Duration::from_secs(1);

/// What ids of folders that the configuration names derive from.
const FOLDERS_CONTEXT: &str = "can-sync 2026 folders of a network";

// A configuration may name as many folders as there can be.
const _: () = assert!(crate::config::FOLDERS_MAX == crate::folder::supervisor::FOLDERS_MAX);

/// How long the actors have for their first start; the supervisor goes on trying after that.
const ACTORS_START_WITHIN: Duration = Duration::from_secs(5);

/// Why a node does not start: a sentence with the next step, or several where several things are wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct StartError(Vec<String>);

impl StartError {
    /// From anything that says what to do.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(vec![sentence.into()])
    }

    /// From everything that says what to do.
    pub fn several<T: ToString>(sentences: impl IntoIterator<Item = T>) -> Self {
        Self(sentences.into_iter().map(|sentence| sentence.to_string()).collect())
    }

    #[must_use]
    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

/// What a start needs from its caller.
pub struct StartOutput {
    /// Where settings came from: errors name it, and what only this start was given is kept.
    pub origins: Origins,
    /// Told what the start is busy with, as a clause such as "stretching the passphrase".
    pub progress: Box<dyn Fn(&str) + Send + Sync>,
    /// The process's signals; without them, the node stops only through [`Node::stop`].
    pub signals: Option<Signals>,
    /// The clock by which the node goes: [`Clock::system`], but in tests.
    pub clock: Clock,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    pub reason: String,
    /// Whether it had to.
    pub failed: bool,
    /// Whether it was asked for twice, and so did not wait for anything.
    pub forced: bool,
}

pub struct Node {
    resources: Resources,
    root: Arc<ServiceCell<RootMsg>>,
    outcome: JoinHandle<ShutdownOutcome>,
    channels: Channels,
    /// Tasks that belong to no actor: the ticket and its file.
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node: resources first, then the tree.
    ///
    /// # Errors
    /// One sentence with the next step; nothing that was there before has changed then.
    pub async fn start(config: Config, output: StartOutput) -> Result<Self, StartError> {
        Box::pin(Self::start_with(config, output, spawn_peer())).await
    }

    /// As [`Node::start`], with PeerActors of the caller's: tests have theirs fail at the worst moment.
    ///
    /// # Errors
    /// As [`Node::start`].
    #[doc(hidden)]
    pub async fn start_with(
        config: Config,
        output: StartOutput,
        spawn_peer: SpawnPeer,
    ) -> Result<Self, StartError> {
        let mut resources = Resources::open(&config, output.origins, output.clock, &output.progress).await?;
        (output.progress)("starting the actors");
        let mut tasks = JoinSet::new();
        let (ticket, follow) = endpoint::follow_ticket(&resources.endpoint);
        tasks.spawn(follow);
        if let Some(path) = config.ticket_file.clone() {
            resources::write_ticket(&path, &ticket.borrow()).await.map_err(|e| {
                StartError::new(format!("cannot write ticket_file '{}': {e}", path.display()))
            })?;
            tasks.spawn(resources::follow_ticket_file(path, ticket.clone()));
        }
        resources.ticket = ticket;

        let cells = Cells::default();
        let channels = discovery::channels(&config);
        resources.on_demand.connect(fetch_content(view(&config, &resources, &cells, &channels)));
        let children = children(&config, &resources, &cells, &channels, output.signals, spawn_peer);
        let events = resources.events.clone();
        let on_degraded = |kind: ChildKind, why: Option<&str>| {
            if let Some(why) = why {
                tracing::error!(%kind, why, "the node goes on without it and keeps trying");
            } else {
                tracing::info!(%kind, "it works again");
            }
        };
        let args =
            RootArgs { cell: Arc::clone(&cells.root), children, events, on_degraded: Arc::new(on_degraded) };
        let (_, outcome) = supervisor::start(args)
            .await
            .map_err(|e| StartError::new(format!("cannot start the supervisor: {e}")))?;
        // A caller that is told that the node runs may ask it something at once.
        if timeout(ACTORS_START_WITHIN, cells.up()).await.is_err() {
            tracing::warn!("not every actor has started yet; GET /actors shows which");
        }
        resources.started().await;
        Ok(Self { resources, root: cells.root, outcome, channels, tasks })
    }

    /// Where the agent's API and page are.
    #[must_use]
    pub fn api_addr(&self) -> SocketAddr {
        self.resources.api_addr
    }

    /// Base URL of the CAN Service, embedded or external.
    #[must_use]
    pub fn store_url(&self) -> String {
        self.resources.store_url.clone()
    }

    #[must_use]
    pub fn endpoint_id(&self) -> EndpointId {
        self.resources.endpoint.id()
    }

    /// Our ticket, as of now.
    #[must_use]
    pub fn ticket(&self) -> String {
        self.resources.ticket.borrow().clone()
    }

    /// Our ticket once it names a relay, which reaches us from other networks; after `limit`, as of then.
    pub async fn ticket_with_relay(&self, limit: Duration) -> String {
        let mut ticket = self.resources.ticket.clone();
        let _ = timeout(limit, ticket.wait_for(|ticket| endpoint::names_relay(ticket))).await;
        self.ticket()
    }

    #[must_use]
    pub fn passphrase_origin(&self) -> PassphraseOrigin {
        self.resources.passphrase_origin
    }

    /// Names of the discovery channels that are up.
    #[must_use]
    pub fn channels(&self) -> Vec<String> {
        let up = self.channels.reports().into_iter().filter(|c| c.state == ChannelState::Up);
        up.map(|c| c.channel.name().to_owned()).collect()
    }

    #[must_use]
    pub fn channel_reports(&self) -> Vec<ChannelReport> {
        self.channels.reports()
    }

    #[must_use]
    pub fn events(&self) -> EventLog {
        self.resources.events.clone()
    }

    /// Begins an ordered shutdown; [`Node::wait`] tells when it is over.
    pub fn stop(&self, reason: &str) {
        let message = RootMsg::Shutdown { reason: StopReason::Requested(reason.to_owned()) };
        // A supervisor that is gone has stopped already.
        let _ = self.root.service_ref().cast(message);
    }

    /// Waits for the node's end and takes its resources down.
    pub async fn wait(mut self) -> Shutdown {
        let outcome = (&mut self.outcome).await.unwrap_or(ShutdownOutcome::Crashed);
        let forced = matches!(outcome, ShutdownOutcome::Forced { .. });
        self.tasks.abort_all();
        self.resources.leave();
        if !forced {
            let closed = timeout(CLOSE_ENDPOINT_WITHIN, self.resources.endpoint.close()).await;
            if closed.is_err() {
                tracing::debug!("peers did not confirm the goodbye in time");
            }
            self.resources.deferrals.save().await;
            self.resources.close_store().await;
        }
        Shutdown { reason: outcome.to_string(), failed: outcome.is_failure() && !forced, forced }
    }
}

/// The places where siblings find each other.
struct Cells {
    root: Arc<ServiceCell<RootMsg>>,
    can_service: Arc<ServiceCell<CanServiceMsg>>,
    rendezvous: Arc<ServiceCell<RendezvousMsg>>,
    gossip: Arc<ServiceCell<GossipMsg>>,
    library: Arc<ServiceCell<LibraryMsg>>,
    store_server: Arc<ServiceCell<StoreServerMsg>>,
    scrub: Arc<ServiceCell<ScrubMsg>>,
    folders: Arc<ServiceCell<FoldersMsg>>,
    peers: Arc<ServiceCell<PeersMsg>>,
    http: Arc<ServiceCell<HttpMsg>>,
    signals: Arc<ServiceCell<SignalMsg>>,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            root: Arc::new(ServiceCell::new("RootSupervisor")),
            can_service: Arc::new(ServiceCell::new("CanServiceActor")),
            rendezvous: Arc::new(ServiceCell::new("RendezvousActor")),
            gossip: Arc::new(ServiceCell::new("GossipActor")),
            library: Arc::new(ServiceCell::new("LibraryActor")),
            store_server: Arc::new(ServiceCell::new("StoreServerActor")),
            scrub: Arc::new(ServiceCell::new("ScrubActor")),
            folders: Arc::new(ServiceCell::new("FoldersActor")),
            peers: Arc::new(ServiceCell::new("PeersActor")),
            http: Arc::new(ServiceCell::new("HttpActor")),
            signals: Arc::new(ServiceCell::new("SignalActor")),
        }
    }
}

impl Cells {
    /// Waits until every actor that others ask runs.
    async fn up(&self) {
        let (can_service, library) = (self.can_service.service_ref(), self.library.service_ref());
        let (peers, http) = (self.peers.service_ref(), self.http.service_ref());
        let folders = self.folders.service_ref();
        tokio::join!(can_service.up(), library.up(), folders.up(), peers.up(), http.up());
    }
}

/// The tree: every child of the root with what it starts from.
fn children(
    config: &Config,
    resources: &Resources,
    cells: &Cells,
    channels: &Channels,
    signals: Option<Signals>,
    spawn_peer: SpawnPeer,
) -> Vec<Child> {
    let can_service = CanServiceArgs {
        store: Arc::clone(&resources.store),
        libraries: Arc::clone(&resources.libraries),
        peers: cells.peers.service_ref(),
        folders: cells.folders.service_ref(),
        poll_interval: config.poll_interval,
        full_scan_interval: config.full_scan_interval,
    };
    let rendezvous = discovery::rendezvous(config, resources, cells, channels);
    let gossip = discovery::gossip(config, resources, cells, channels);
    let library = LibraryArgs { manager: manager(resources, cells, channels.clone()) };
    let peers = PeersArgs { spawn_peer, ..peers_args(config, resources, cells, channels.clone()) };
    let http =
        HttpArgs { listener: resources.api_listener.clone(), view: view(config, resources, cells, channels) };
    let mut children = vec![
        Child::new(
            ChildKind::CanService,
            Arc::clone(&cells.can_service),
            move || (CanServiceActor, can_service.clone()),
            |reply| CanServiceMsg::GetHealth { reply },
        ),
        Child::new(
            ChildKind::Rendezvous,
            Arc::clone(&cells.rendezvous),
            move || (RendezvousActor, rendezvous.clone()),
            |reply| RendezvousMsg::GetHealth { reply },
        ),
        Child::new(
            ChildKind::Gossip,
            Arc::clone(&cells.gossip),
            move || (GossipActor, gossip.clone()),
            |reply| GossipMsg::GetHealth { reply },
        ),
        Child::new(
            ChildKind::Library,
            Arc::clone(&cells.library),
            move || (LibraryActor, library.clone()),
            |reply| LibraryMsg::GetHealth { reply },
        ),
        folders(config, resources, cells),
        Child::new(
            ChildKind::Peers,
            Arc::clone(&cells.peers),
            move || (PeersActor, peers.clone()),
            |reply| PeersMsg::GetHealth { reply },
        ),
        Child::new(
            ChildKind::Http,
            Arc::clone(&cells.http),
            move || (HttpActor, http.clone()),
            |reply| HttpMsg::GetHealth { reply },
        ),
    ];
    if let Some(server) = resources.store_server.clone() {
        children.push(Child::new(
            ChildKind::StoreServer,
            Arc::clone(&cells.store_server),
            move || (StoreServerActor, server.clone()),
            |reply| StoreServerMsg::GetHealth { reply },
        ));
    }
    children.extend(scrub(config, resources, cells));
    if let Some(signals) = signals {
        let args = SignalArgs {
            signals,
            root: cells.root.service_ref(),
            peers: cells.peers.service_ref(),
            channels: channels.clone(),
            data_dir: config.data_dir.clone(),
        };
        children.push(Child::new(
            ChildKind::Signal,
            Arc::clone(&cells.signals),
            move || (SignalActor, args.clone()),
            |reply| SignalMsg::GetHealth { reply },
        ));
    }
    children
}

fn folders(config: &Config, resources: &Resources, cells: &Cells) -> Child {
    let args = FoldersArgs {
        context: FolderContext {
            store: Arc::clone(&resources.store),
            rows: resources.folder_rows.clone(),
            name: config.name.clone(),
            clock: resources.deferrals.clock().clone(),
            events: resources.events.clone(),
            temporary: resources.dir.folders(),
            forbidden: Arc::new(Forbidden {
                data_dir: config.data_dir.clone(),
                home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            }),
            is_store_here: resources.embedded().is_some(),
            endpoint_id: *resources.endpoint.id().as_bytes(),
            network: blake3::derive_key(FOLDERS_CONTEXT, resources.keys.mirror().record().expose()),
            reserve_bytes: config.limits.disk_reserve_bytes,
            full_scan_interval: config.full_scan_interval,
            busy: FolderLocks::default(),
            libraries: Arc::clone(&resources.libraries),
        },
        configured: config.folders.0.iter().map(folder_order).collect(),
    };
    Child::new(
        ChildKind::Folders,
        Arc::clone(&cells.folders),
        move || (FoldersActor, args.clone()),
        |reply| FoldersMsg::GetHealth { reply },
    )
}

/// What the configuration says of a folder is all that is said of it.
fn folder_order(folder: &ConfiguredFolder) -> FolderOrder {
    let ConfiguredFolder { path, name, mode, ignores_removals, is_scan_only } = folder;
    let mode = match mode {
        ConfiguredMode::Both => FolderMode::Both,
        ConfiguredMode::SendOnly => FolderMode::SendOnly,
        ConfiguredMode::ReadOnly => FolderMode::ReadOnly,
    };
    FolderOrder {
        path: std::path::absolute(path).unwrap_or_else(|_| path.clone()),
        name: name.clone(),
        is_new: false,
        is_configured: true,
        wishes: FolderWishes {
            mode: Some(mode),
            ignore_removals: Some(*ignores_removals),
            scan_only: Some(*is_scan_only),
        },
    }
}

fn scrub(config: &Config, resources: &Resources, cells: &Cells) -> Option<Child> {
    let args = ScrubArgs { store: resources.embedded()?, settings: scrub_settings(config, resources) };
    Some(Child::new(
        ChildKind::Scrub,
        Arc::clone(&cells.scrub),
        move || (ScrubActor, args.clone()),
        |reply| ScrubMsg::GetHealth { reply },
    ))
}

/// The store cannot see what comes from peers until it is complete.
fn scrub_settings(config: &Config, resources: &Resources) -> ScrubSettings {
    let progress = resources.events.progress();
    let receives = move || progress.borrow().as_ref().is_some_and(|progress| progress.rate > 0.0);
    ScrubSettings::every(config.scrub_interval_days.0, config.limits.scrub_bytes_per_sec, Arc::new(receives))
}

fn manager(resources: &Resources, cells: &Cells, channels: Channels) -> Manager {
    let peers = cells.peers.service_ref();
    let told = peers.clone();
    Manager {
        libraries: Arc::clone(&resources.libraries),
        store: Arc::clone(&resources.store),
        own_id: resources.endpoint.id(),
        ticket: resources.ticket.clone(),
        book: resources.book.clone(),
        gate: resources.gate.clone(),
        clock: resources.deferrals.clock().clone(),
        members: Candidates::new(channels.clone(), move |addr, channel| {
            // In use from the first library on that was joined.
            channels.up(channel);
            // PeersActor may be down; the timer comes again.
            let _ = peers.cast(PeersMsg::Candidate { addr, channel });
        }),
        changes: Arc::new(move |library, records| {
            // When PeersActor is down it compares every session afresh once it is back.
            let _ = told.cast(PeersMsg::LibraryChanged { library, records });
        }),
        taken: Arc::new(resources.folder_rows.clone()),
        busy: Arc::default(),
    }
}

fn peers_args(config: &Config, resources: &Resources, cells: &Cells, channels: Channels) -> PeersArgs {
    PeersArgs {
        endpoint: resources.endpoint.clone(),
        introduction: Introduction {
            name: config.name.clone(),
            ticket: resources.ticket.clone(),
            clock: resources.deferrals.clock().clone(),
            boot_id: resources.run.boot_id,
        },
        protocols: protocols::all(resources),
        replica: Replica {
            store: Arc::clone(&resources.store),
            libraries: Arc::clone(&resources.libraries),
            partials: resources.partials.clone(),
            deletes: Arc::clone(&resources.deletes),
            deferrals: resources.deferrals.clone(),
        },
        discovery: DiscoveryLinks {
            channels,
            gossip: cells.gossip.service_ref(),
            rendezvous: cells.rendezvous.service_ref(),
            directory: resources.directory.clone(),
            hints: resources.hints_for_peers.clone(),
            connected: resources.connected.clone(),
        },
        first: FirstPeers {
            book: resources.book.clone(),
            connect_ticket_file: config.connect_ticket_file.clone(),
            bootstrap: resources.bootstrap.clone(),
        },
        limits: peers_limits(config),
        events: resources.events.clone(),
        spawn_peer: spawn_peer(),
        myself: cells.peers.service_ref(),
    }
}

fn peers_limits(config: &Config) -> PeersLimits {
    let limits = &config.limits;
    PeersLimits {
        places: PlaceLimits { connections: limits.max_connections, pending: limits.max_pending_handshakes },
        in_flight: schedule::ScheduleLimits {
            node_bytes: limits.in_flight_bytes,
            peer_bytes: limits.in_flight_per_peer_bytes,
            part_bytes: schedule::PART_BYTES,
            stall: limits.stall_timeout,
        },
        dialling: DialLimits {
            dialled_max: limits.max_dialled,
            hints_at_once_max: limits.max_hint_dials,
            known_max: limits.max_known_peers,
            sealed: discovery::sealed_channels(config),
            backoff_min: limits.dial_backoff_min,
            backoff_max: limits.dial_backoff_max,
        },
        session: PeerLimits {
            establish: limits.handshake_timeout,
            streams: u32::try_from(limits.max_streams_per_connection).unwrap_or(u32::MAX),
            stall: limits.stall_timeout,
            probe_after: limits.idle_probe,
            upload: Pace::new(limits.upload_bytes_per_sec),
            download: Pace::new(limits.download_bytes_per_sec),
        },
        verify_interval: config.full_scan_interval,
    }
}

fn view(config: &Config, resources: &Resources, cells: &Cells, channels: &Channels) -> AgentView {
    let limits = &config.limits;
    AgentView {
        endpoint_id: resources.endpoint.id(),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        started: Instant::now(),
        passphrase_origin: resources.passphrase_origin.as_str(),
        store_mode: if config.can_service_url.is_some() { StoreMode::External } else { StoreMode::Embedded },
        store_proxy: resources.store_proxy.clone(),
        store: Arc::clone(&resources.store),
        peers: cells.peers.service_ref(),
        library: cells.library.service_ref(),
        folders: cells.folders.service_ref(),
        libraries: Arc::clone(&resources.libraries),
        deletes: Arc::clone(&resources.deletes),
        root: cells.root.service_ref(),
        clock: resources.deferrals.clock().clone(),
        events: resources.events.clone(),
        registry: metrics::endpoint_registry(&resources.endpoint),
        limits: Arc::new([
            ("max_connections", limits.max_connections as u64),
            ("max_dialled", limits.max_dialled as u64),
            ("max_pending_handshakes", limits.max_pending_handshakes as u64),
            ("in_flight_bytes", limits.in_flight_bytes),
            ("in_flight_per_peer_bytes", limits.in_flight_per_peer_bytes),
            ("disk_reserve_bytes", limits.disk_reserve_bytes),
            ("http_connections", limits.http_connections as u64),
            ("http_min_bytes_per_sec", limits.http_min_bytes_per_sec),
        ]),
        ticket: resources.ticket.clone(),
        discovery: channels.clone(),
        api_token: resources.api_token.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
    }
}

/// How much the clients of an HTTP server may use.
pub(crate) fn serve_limits(limits: &Limits) -> ServeLimits {
    ServeLimits { connections: limits.http_connections, min_bytes_per_sec: limits.http_min_bytes_per_sec }
}

/// Where a node keeps its things.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.0.join("partial")
    }

    /// Copies of files of folders, for a moment.
    pub(crate) fn folders(&self) -> PathBuf {
        self.0.join("folders")
    }

    pub(crate) fn clock_db(&self) -> PathBuf {
        self.0.join("clock.db")
    }

    pub(crate) fn agent_db(&self) -> PathBuf {
        self.0.join("agent.db")
    }

    pub(crate) fn libraries_db(&self) -> PathBuf {
        self.0.join("libraries.db")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn running(&self) -> PathBuf {
        self.0.join("running.json")
    }
}
