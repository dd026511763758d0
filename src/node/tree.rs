//! The tree of actors: every child of the root with what it starts from, and the places where siblings find each other.

use std::sync::Arc;
use std::time::Instant;

use super::resources::Resources;
use super::signals::{SignalActor, SignalArgs, SignalMsg, Signals};
use super::{ActorStarts, discovery, protocols};
use crate::actor::ServiceCell;
use crate::actor::policy::ChildKind;
use crate::actor::supervisor::{Child, RootMsg};
use crate::api::metrics;
use crate::api::view::{ObjectStorage, StoreMode};
use crate::api::{AgentView, HttpActor, HttpArgs, HttpMsg};
use crate::config::{Config, ConfiguredFolder, ConfiguredMode};
use crate::discovery::candidates::Candidates;
use crate::discovery::channel::Channels;
use crate::discovery::gossip::{GossipActor, GossipMsg};
use crate::discovery::rendezvous::{RendezvousActor, RendezvousMsg};
use crate::feed::{CanServiceActor, CanServiceArgs, CanServiceMsg};
use crate::folder::FolderMode;
use crate::folder::files::Forbidden;
use crate::folder::supervisor::{
    FolderOrder, FolderWishes, FoldersActor, FoldersArgs, FoldersMsg, SpawnFolder,
};
use crate::folder::work::{FolderContext, FolderLocks};
use crate::library::actor::{LibraryActor, LibraryArgs, LibraryMsg};
use crate::library::manage::Manager;
use crate::peer::args::{
    DiscoveryLinks, FirstPeers, PeerLimits, PeersArgs, PeersLimits, Replica, spawn_peer,
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

/// What ids of folders that the configuration names derive from.
const FOLDERS_CONTEXT: &str = "can-sync 2026 folders of a network";

// A configuration may name as many folders as there can be.
const _: () = assert!(crate::config::FOLDERS_MAX == crate::folder::supervisor::FOLDERS_MAX);

/// The places where siblings find each other.
pub(super) struct Cells {
    pub(super) root: Arc<ServiceCell<RootMsg>>,
    pub(super) can_service: Arc<ServiceCell<CanServiceMsg>>,
    pub(super) rendezvous: Arc<ServiceCell<RendezvousMsg>>,
    pub(super) gossip: Arc<ServiceCell<GossipMsg>>,
    pub(super) library: Arc<ServiceCell<LibraryMsg>>,
    pub(super) store_server: Arc<ServiceCell<StoreServerMsg>>,
    pub(super) scrub: Arc<ServiceCell<ScrubMsg>>,
    pub(super) folders: Arc<ServiceCell<FoldersMsg>>,
    pub(super) peers: Arc<ServiceCell<PeersMsg>>,
    pub(super) http: Arc<ServiceCell<HttpMsg>>,
    pub(super) signals: Arc<ServiceCell<SignalMsg>>,
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
    pub(super) async fn up(&self) {
        let (can_service, library) = (self.can_service.service_ref(), self.library.service_ref());
        let (peers, http) = (self.peers.service_ref(), self.http.service_ref());
        let folders = self.folders.service_ref();
        tokio::join!(can_service.up(), library.up(), folders.up(), peers.up(), http.up());
    }
}

/// The tree: every child of the root with what it starts from.
pub(super) fn children(
    config: &Config,
    resources: &Resources,
    cells: &Cells,
    channels: &Channels,
    signals: Option<Signals>,
    starts: ActorStarts,
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
    let peers =
        PeersArgs { spawn_peer: starts.peer, ..peers_args(config, resources, cells, channels.clone()) };
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
        folders(config, resources, cells, starts.folder),
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

fn folders(config: &Config, resources: &Resources, cells: &Cells, spawn_folder: SpawnFolder) -> Child {
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
        spawn_folder,
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
        min_copies: usize::from(config.min_copies.0),
    }
}

/// Where an embedded store has its larger contents, if not in its directory.
fn object_storage(config: &Config) -> Option<ObjectStorage> {
    let place = config.store.content.0.as_ref().filter(|_| config.can_service_url.is_none())?;
    Some(ObjectStorage { url: place.url.to_string(), shared: place.shared, write_back: place.write_back })
}

pub(super) fn view(config: &Config, resources: &Resources, cells: &Cells, channels: &Channels) -> AgentView {
    let limits = &config.limits;
    AgentView {
        endpoint_id: resources.endpoint.id(),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        started: Instant::now(),
        passphrase_origin: resources.passphrase_origin.as_str(),
        store_mode: if config.can_service_url.is_some() { StoreMode::External } else { StoreMode::Embedded },
        object_storage: object_storage(config),
        store_proxy: resources.store_proxy.clone(),
        store: Arc::clone(&resources.store),
        peers: cells.peers.service_ref(),
        library: cells.library.service_ref(),
        folders: cells.folders.service_ref(),
        libraries: Arc::clone(&resources.libraries),
        partials: resources.partials.clone(),
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
