//! What is made once at boot and outlives every actor: keys, store, endpoint, sockets.
//!
//! Sockets come first, then the reading of every secret, so that a start which cannot work changes nothing on disk;
//! then the data directory's lock, so that two agents never share one.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iroh::address_lookup::MemoryLookup;
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode};
use iroh_gossip::net::Gossip;
use iroh_tickets::endpoint::EndpointTicket;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::secrets::GivenSecrets;
use super::{DataDir, StartError, protocols};
use crate::api::proxy::StoreProxy;
use crate::clock::Clock;
use crate::config::{Config, Origins, RelaySetting};
use crate::discovery::address_book::AddressBook;
use crate::discovery::directory::SharedDirectory;
use crate::discovery::gossip;
use crate::discovery::hints::Hints;
use crate::events::EventLog;
use crate::http::SharedListener;
use crate::identity::{self, NetworkKeys, PassphraseOrigin, PresenceKeys};
use crate::library::registry::Registry;
use crate::library::{Libraries, Library};
use crate::net::endpoint;
use crate::net::gate::Gate;
use crate::peer::deferrals::Deferrals;
use crate::peer::delete_guard::DeleteGuard;
use crate::store::StoreRef;
use crate::store::can_http::CanHttpStore;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::server::StoreServerArgs;
use crate::store::service::{self, ServiceSettings};
use crate::text::quoted;
use crate::transfer::partial::Partials;

/// Everything that is made once.
pub(super) struct Resources {
    pub(super) api_listener: SharedListener,
    pub(super) api_addr: SocketAddr,
    pub(super) api_token: Option<SecretString>,
    pub(super) passphrase_origin: PassphraseOrigin,
    /// Where the passphrase is to be kept, if this start alone was given it.
    keep_passphrase: Option<DataDir>,
    pub(super) libraries: Arc<Libraries>,
    pub(super) gate: Gate,
    pub(super) deletes: Arc<DeleteGuard>,
    /// Rendezvous slots of earlier agents derive from the words themselves.
    pub(super) passphrase: SecretString,
    pub(super) keys: NetworkKeys,
    /// The presence network: the passphrase's own, or another topic's.
    pub(super) presence: PresenceKeys,
    pub(super) store: StoreRef,
    pub(super) store_url: String,
    pub(super) store_proxy: StoreProxy,
    /// The embedded store's own HTTP server.
    pub(super) store_server: Option<StoreServerArgs>,
    embedded: Option<EmbeddedStore>,
    pub(super) endpoint: Endpoint,
    /// Addresses that discovery learned.
    pub(super) addresses: MemoryLookup,
    pub(super) gossip: Gossip,
    pub(super) ticket: watch::Receiver<String>,
    pub(super) book: AddressBook,
    pub(super) connected: watch::Sender<usize>,
    pub(super) directory: SharedDirectory,
    /// What discovery found, on its way to PeersActor and to GossipActor.
    pub(super) hints_for_peers: Hints,
    pub(super) hints_for_gossip: Hints,
    pub(super) bootstrap: Vec<EndpointAddr>,
    pub(super) partials: Partials,
    pub(super) deferrals: Deferrals,
    pub(super) events: EventLog,
    unshown: Unshown,
    /// Held for as long as the process lives.
    _lock: File,
}

impl Resources {
    /// Makes everything; `progress` is told what takes its time.
    pub(super) async fn open(
        config: &Config,
        origins: Origins,
        clock: Clock,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Self, StartError> {
        let api_listener = listen(config.listen_addr, "listen_addr")?;
        let api_addr = api_listener.local_addr().map_err(|e| StartError::new(e.to_string()))?;
        let can_listener = match config.can_service_url {
            None => Some(listen(config.can_listen_addr, "can_listen_addr")?),
            Some(_) => None,
        };
        let bootstrap = parse_bootstrap(&config.discovery.bootstrap)?;
        std::net::UdpSocket::bind(config.bind_addr).map_err(|e| udp_failed(config.bind_addr, &e))?;
        let dir = DataDir::new(&config.data_dir);
        let given = {
            let config = config.clone();
            blocking(move || GivenSecrets::look(&config, &origins).map_err(StartError::several)).await?
        };
        for remark in &given.remarks {
            tracing::warn!("{remark}");
        }
        let lock = lock(&dir)?;

        progress("stretching the passphrase");
        let secrets = {
            let (config, dir) = (config.clone(), dir.clone());
            blocking(move || given.complete(&config, &dir)).await?
        };
        let generated = secrets.passphrase.origin == PassphraseOrigin::Generated;
        let unshown = Unshown(generated.then(|| dir.path().join(identity::PASSPHRASE_FILE)));
        progress("opening the store");
        // First, so that the store knows what an earlier run knew of the time.
        let deferrals = open_deferrals(dir.clock_db(), clock.clone()).await?;
        let opened = OpenedStore::open(config, &dir, can_listener, secrets.sync_api_key, clock).await?;
        let path = dir.partial();
        let partials = blocking(move || open_partials(&path)).await?;
        let book = {
            let path = dir.agent_db();
            blocking(move || AddressBook::open(&path).map_err(|e| StartError::new(e.to_string()))).await?
        };
        let mirror = Arc::new(Library::new(secrets.keys.mirror().clone()));
        let libraries = open_libraries(dir.libraries_db(), mirror, config.approve_devices).await?;
        let events = EventLog::default();
        let deletes =
            open_deletes(config.replicate_deletes, &libraries, deferrals.clock(), events.clone()).await?;
        progress("opening the network endpoint");
        let gate = Gate::new(protocols::shut_out(&libraries));
        let (endpoint, addresses) = open_endpoint(config, secrets.endpoint_key, &book, &gate).await?;
        let gossip = gossip::start(&endpoint);
        let store_proxy =
            StoreProxy::new(&opened.url).map_err(|e| StartError::new(format!("can_service_url: {e}")))?;
        Ok(Self {
            api_listener,
            api_addr,
            api_token: secrets.api_token,
            passphrase_origin: secrets.passphrase.origin,
            keep_passphrase: secrets.keep_passphrase.then(|| dir.clone()),
            libraries,
            deletes,
            gate,
            passphrase: secrets.passphrase.secret,
            keys: secrets.keys,
            presence: secrets.presence,
            store: opened.store,
            store_url: opened.url,
            store_proxy,
            store_server: opened.server,
            embedded: opened.embedded,
            endpoint,
            addresses,
            gossip,
            ticket: watch::Sender::new(String::new()).subscribe(),
            book,
            connected: watch::Sender::new(0),
            directory: SharedDirectory::default(),
            hints_for_peers: Hints::default(),
            hints_for_gossip: Hints::default(),
            bootstrap,
            partials,
            deferrals,
            events,
            unshown,
            _lock: lock,
        })
    }

    /// The start has succeeded, and the person who started the node can see its passphrase. One that only this start was given is
    /// kept: the next one without it would be alone in a network of its own.
    pub(super) async fn started(&mut self) {
        self.unshown.0 = None;
        let Some(dir) = self.keep_passphrase.take() else { return };
        let secret = self.passphrase.clone();
        let kept = spawn_blocking(move || identity::keep_passphrase(dir.path(), &secret)).await;
        match kept {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::warn!(
                "this start was given another passphrase than the one that was kept in the data directory: from now on this \
                 one is, and the former is in 'passphrase.former' there"
            ),
            Ok(Err(error)) => tracing::warn!(%error, "the passphrase is not kept for the next start"),
            Err(error) => tracing::warn!(%error, "the passphrase is not kept for the next start"),
        }
    }

    /// Lets the embedded store finish what it was asked to do.
    pub(super) async fn close_store(&self) {
        if let Some(store) = &self.embedded {
            store.close().await;
        }
    }
}

/// A passphrase that was made by this start. If the start fails, nobody will see it: the next one makes another.
struct Unshown(Option<PathBuf>);

impl Drop for Unshown {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // A file that stays is shown by `can-sync passphrase`.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn listen(addr: SocketAddr, setting: &str) -> Result<SharedListener, StartError> {
    SharedListener::bind(addr).map_err(|e| {
        StartError::new(if e.kind() == io::ErrorKind::AddrInUse {
            format!(
                "{addr} is in use, perhaps by another agent: stop that one, or set {setting} to another address"
            )
        } else {
            format!("cannot listen on {addr}: {e}; set {setting} to an address of this machine")
        })
    })
}

fn lock(dir: &DataDir) -> Result<File, StartError> {
    identity::private_dir(dir.path()).map_err(|e| StartError::new(format!("data_dir: {e}")))?;
    let path = dir.lock();
    let file = File::options().create(true).append(true).open(&path).map_err(|e| {
        StartError::new(format!(
            "cannot open '{}': {e}; check that this user may write there",
            path.display()
        ))
    })?;
    file.try_lock().map_err(|e| {
        let shown = dir.path().display();
        StartError::new(match e {
            std::fs::TryLockError::WouldBlock => format!(
                "the data directory '{shown}' is in use by another agent: stop that one, or set data_dir to another \
                 directory"
            ),
            std::fs::TryLockError::Error(e) => format!("cannot lock the data directory '{shown}': {e}"),
        })
    })?;
    Ok(file)
}

/// What an earlier run knew of the time, and of versions that have to wait.
async fn open_deferrals(path: PathBuf, clock: Clock) -> Result<Deferrals, StartError> {
    blocking(move || Deferrals::open(&path, clock).map_err(|e| StartError::new(e.to_string()))).await
}

/// Contents that had not arrived completely when the last process ended.
fn open_partials(path: &Path) -> Result<Partials, StartError> {
    let opened = identity::private_dir(path).map_err(io::Error::other).and_then(|_| Partials::open(path));
    opened.map_err(|e| {
        StartError::new(format!(
            "cannot open '{}', where partial downloads are: {e}; check that this user may write there",
            path.display()
        ))
    })
}

struct OpenedStore {
    store: StoreRef,
    url: String,
    server: Option<StoreServerArgs>,
    embedded: Option<EmbeddedStore>,
}

impl OpenedStore {
    async fn open(
        config: &Config,
        dir: &DataDir,
        listener: Option<SharedListener>,
        key: Option<SecretString>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        match (&config.can_service_url, listener, key) {
            (Some(url), _, Some(key)) => {
                let store = CanHttpStore::new(url.as_str(), &key)
                    .map_err(|e| StartError::new(format!("can_service_url: {e}")))?;
                let url = store.url().to_owned();
                Ok(Self { store: Arc::new(store), url, server: None, embedded: None })
            }
            (None, Some(listener), Some(key)) => Self::embedded(config, dir, listener, key, clock).await,
            (_, _, None) | (None, None, _) => {
                Err(StartError::new("can_service_url: the CAN Service's key is missing"))
            }
        }
    }

    async fn embedded(
        config: &Config,
        dir: &DataDir,
        listener: SharedListener,
        key: SecretString,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let store_config =
            EmbeddedConfig { dir: dir.store(), disk_reserve_bytes: config.limits.disk_reserve_bytes, clock };
        let store = EmbeddedStore::open(store_config).await.map_err(|e| StartError::new(e.to_string()))?;
        let addr = listener.local_addr().map_err(|e| StartError::new(e.to_string()))?;
        let settings = ServiceSettings {
            allowed_hosts: config.allowed_hosts.clone(),
            ..ServiceSettings::new(key, addr)
        };
        let router = service::router(store.clone(), settings);
        let mut reachable = addr;
        if addr.ip().is_unspecified() {
            reachable.set_ip(if addr.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                [0_u16, 0, 0, 0, 0, 0, 0, 1].into()
            });
        }
        Ok(Self {
            store: Arc::new(store.clone()),
            url: format!("http://{reachable}{}", service::BASE_PATH),
            server: Some(StoreServerArgs { listener, router }),
            embedded: Some(store),
        })
    }
}

async fn open_libraries(
    path: PathBuf,
    mirror: Arc<Library>,
    approval: bool,
) -> Result<Arc<Libraries>, StartError> {
    let open = move || Libraries::load(mirror, Registry::open(&path)?, approval);
    blocking(move || open().map(Arc::new).map_err(|e| StartError::new(e.to_string()))).await
}

/// What is known of peers' deletions, as it was written down.
async fn open_deletes(
    enabled: bool,
    libraries: &Libraries,
    clock: &Clock,
    events: EventLog,
) -> Result<Arc<DeleteGuard>, StartError> {
    let (registry, clock) = (libraries.registry().cloned(), clock.clone());
    let open = move || DeleteGuard::open(enabled, registry.as_ref(), clock, events);
    blocking(move || open().map(Arc::new).map_err(|e| StartError::new(e.to_string()))).await
}

/// Opens the endpoint, on the port that it had last time where the setting leaves it open: peers that remember us find
/// us there after a restart.
async fn open_endpoint(
    config: &Config,
    key: iroh::SecretKey,
    book: &AddressBook,
    gate: &Gate,
) -> Result<(Endpoint, MemoryLookup), StartError> {
    let relay_mode = match &config.relay_url {
        RelaySetting::Default => RelayMode::Default,
        RelaySetting::Disabled => RelayMode::Disabled,
        RelaySetting::Url(url) => {
            let parsed = url
                .as_str()
                .parse()
                .map_err(|e| StartError::new(format!("relay_url '{}': {e}", url.as_str())))?;
            RelayMode::custom([parsed])
        }
    };
    let wanted = config.bind_addr;
    let last = if wanted.port() == 0 { book.last_port().ok().flatten() } else { None };
    let bind = |addr| endpoint::bind_behind(key.clone(), addr, relay_mode.clone(), Some(gate.clone()));
    let bound = match last {
        Some(port) => match bind(SocketAddr::new(wanted.ip(), port)).await {
            Ok(endpoint) => Ok(endpoint),
            Err(_) => bind(wanted).await,
        },
        None => bind(wanted).await,
    };
    let endpoint = bound.map_err(|e| udp_failed(wanted, &e))?;
    let port =
        endpoint.bound_sockets().into_iter().find(|a| a.is_ipv4() == wanted.is_ipv4()).map(|a| a.port());
    if let Some(Err(error)) = port.map(|port| book.set_last_port(port)) {
        tracing::warn!(%error, "the UDP port is not remembered for the next start");
    }
    let addresses = MemoryLookup::new();
    if let Ok(services) = endpoint.address_lookup() {
        services.add(addresses.clone());
    }
    Ok((endpoint, addresses))
}

fn udp_failed(addr: SocketAddr, cause: &dyn std::fmt::Display) -> StartError {
    StartError::new(format!("cannot open the UDP socket {addr}: {cause}; set bind_addr to a free address"))
}

/// Peers to try first: endpoint ids or tickets.
fn parse_bootstrap(entries: &[String]) -> Result<Vec<EndpointAddr>, StartError> {
    let parse = |entry: &String| {
        let ticket = entry.parse::<EndpointTicket>().map(|ticket| ticket.endpoint_addr().clone());
        ticket.or_else(|_| entry.parse::<EndpointId>().map(EndpointAddr::new)).map_err(|_| {
            let shown = quoted(entry);
            StartError::new(format!("discovery.bootstrap: '{shown}' is neither an endpoint id nor a ticket"))
        })
    };
    entries.iter().map(parse).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(StartError::new(format!("a step of the start failed: {e}"))))
}

/// Writes the ticket so that a reader finds all of it or nothing.
pub(super) async fn write_ticket(path: &Path, ticket: &str) -> io::Result<()> {
    let (path, ticket) = (path.to_owned(), ticket.to_owned());
    let write = move || {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().permissions(readable_by_all()).tempfile_in(dir)?;
        io::Write::write_all(&mut file, format!("{ticket}\n").as_bytes())?;
        file.persist(&path).map(|_| ()).map_err(|e| e.error)
    };
    spawn_blocking(write).await.map_err(io::Error::other)?
}

/// A ticket is an address, not a secret: the passphrase is what lets somebody in.
fn readable_by_all() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

/// Keeps the ticket file current.
pub(super) async fn follow_ticket_file(path: PathBuf, mut ticket: watch::Receiver<String>) {
    while ticket.changed().await.is_ok() {
        let text = ticket.borrow_and_update().clone();
        if let Err(error) = write_ticket(&path, &text).await {
            tracing::warn!(path = %path.display(), %error, "cannot write ticket_file");
        }
    }
}
