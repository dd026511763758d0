//! What is made once at boot and outlives every actor: keys, store, endpoint, sockets.
//!
//! Sockets come first, then the reading of every secret, so that a start which cannot work changes nothing on disk;
//! then the data directory's lock, so that two agents never share one.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iroh::address_lookup::MemoryLookup;
use iroh::{Endpoint, EndpointAddr, RelayMode};
use iroh_gossip::net::Gossip;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use self::store::{OpenedStore, store_url};
use super::preflight::{Listeners, Preflight, udp_problem};
use super::running::{self, PassphraseSource, RunningNode};
use super::{DataDir, StartError, protocols};
use crate::api::proxy::StoreProxy;
use crate::clock::{Clock, now_ms};
use crate::config::{Config, Origins};
use crate::discovery::address_book::AddressBook;
use crate::discovery::directory::SharedDirectory;
use crate::discovery::gossip::{self, NodeRun};
use crate::discovery::hints::Hints;
use crate::disk;
use crate::events::{EventLog, NodeEvent};
use crate::folder::rows::FolderRows;
use crate::http::SharedListener;
use crate::identity::{self, NetworkKeys, PassphraseOrigin, PresenceKeys};
use crate::library::hold::HoldRules;
use crate::library::registry::Registry;
use crate::library::{Libraries, Library};
use crate::net::gate::Gate;
use crate::net::{endpoint, sockets};
use crate::peer::deferrals::Deferrals;
use crate::peer::delete_guard::DeleteGuard;
use crate::store::StoreRef;
use crate::store::embedded::{DamageEvent, EmbeddedStore};
use crate::store::server::StoreServerArgs;
use crate::store::service::on_demand::FetchPort;
use crate::transfer::partial::Partials;

mod store;

/// Tries to lock the data directory, and the pause between them.
const LOCK_TRIES: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(30);

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
    /// Gets what its readers ask for and is not here.
    pub(super) on_demand: FetchPort,
    embedded: Option<EmbeddedStore>,
    pub(super) endpoint: Endpoint,
    pub(super) addresses: MemoryLookup,
    pub(super) gossip: Gossip,
    pub(super) run: NodeRun,
    pub(super) ticket: watch::Receiver<String>,
    pub(super) book: AddressBook,
    pub(super) folder_rows: FolderRows,
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
    pub(super) dir: DataDir,
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
        let dir = DataDir::new(&config.data_dir);
        let (looked, listeners, source) = {
            let config = config.clone();
            blocking(move || look(&config, &origins)).await?
        };
        let Preflight { secrets: given, bootstrap, relay, hold, remarks } = looked;
        let Listeners { api: api_listener, can: can_listener } = listeners;
        let api_addr = api_listener.local_addr().map_err(|e| StartError::new(e.to_string()))?;
        for remark in &remarks {
            tracing::warn!("{remark}");
        }
        let lock = {
            let dir = dir.clone();
            blocking(move || lock(&dir)).await?
        };
        running::forget(&dir);
        tell(config, source, &dir, &api_listener, can_listener.as_ref())?;

        progress("stretching the passphrase");
        let secrets = {
            let (config, dir) = (config.clone(), dir.clone());
            blocking(move || given.complete(&config, &dir)).await?
        };
        let unshown = Unshown::of(secrets.passphrase.origin, &dir);
        progress("opening the store");
        // First, so that the store knows what an earlier run knew of the time.
        let deferrals = open_deferrals(dir.clock_db(), clock.clone()).await?;
        let (key, can_token) = (secrets.sync_api_key, secrets.can_token);
        let opened = OpenedStore::open(config, &dir, can_listener, key, can_token, clock).await?;
        let partial = dir.partial();
        let partials = blocking(move || open_partials(&partial)).await?;
        let agent_dir = dir.clone();
        let (book, folder_rows) = blocking(move || open_agent_db(&agent_dir)).await?;
        let mirror = Arc::new(Library::holding(secrets.keys.mirror().clone(), HoldRules::new(hold)));
        let libraries = open_libraries(dir.libraries_db(), mirror, config.approve_devices).await?;
        let events = EventLog::default();
        publish_damage(opened.embedded.as_ref(), events.clone());
        let deletes =
            open_deletes(config.replicate_deletes, &libraries, deferrals.clock(), events.clone()).await?;
        progress("opening the network endpoint");
        let gate = Gate::new(protocols::shut_out(&libraries));
        let (endpoint, addresses) = open_endpoint(config, secrets.endpoint_key, relay, &book, &gate).await?;
        let gossip = gossip::start(&endpoint);
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
            store_proxy: opened.proxy,
            store_server: opened.server,
            on_demand: opened.on_demand,
            embedded: opened.embedded,
            endpoint,
            addresses,
            gossip,
            run: NodeRun::begin(),
            ticket: watch::Sender::new(String::new()).subscribe(),
            book,
            folder_rows,
            connected: watch::Sender::new(0),
            directory: SharedDirectory::default(),
            hints_for_peers: Hints::default(),
            hints_for_gossip: Hints::default(),
            bootstrap,
            partials,
            deferrals,
            events,
            unshown,
            dir,
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

    /// Takes back what was written down for commands.
    pub(super) fn leave(&self) {
        running::forget(&self.dir);
    }

    /// The store, where it is in this process.
    pub(super) fn embedded(&self) -> Option<EmbeddedStore> {
        self.embedded.clone()
    }

    /// Lets the embedded store finish what it was asked to do.
    pub(super) async fn close_store(&self) {
        if let Some(store) = &self.embedded {
            store.close().await;
        }
    }
}

/// Damaged contents of the embedded store, and what became of them, for those who watch the node.
fn publish_damage(store: Option<&EmbeddedStore>, events: EventLog) {
    let Some(store) = store else { return };
    store.tell_damage(Arc::new(move |event| {
        let event = match event {
            DamageEvent::Damaged { hash, size, reason } => {
                NodeEvent::Damaged { hash: hash.to_string(), size, reason }
            }
            DamageEvent::Healed { hash, size } => NodeEvent::Healed { hash: hash.to_string(), size },
        };
        events.publish(now_ms(), event);
    }));
}

/// A passphrase that was made by this start. If the start fails, nobody will see it: the next one makes another.
struct Unshown(Option<PathBuf>);

impl Unshown {
    fn of(origin: PassphraseOrigin, dir: &DataDir) -> Self {
        let generated = origin == PassphraseOrigin::Generated;
        Self(generated.then(|| dir.path().join(identity::PASSPHRASE_FILE)))
    }
}

impl Drop for Unshown {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // A file that stays is shown by `can-sync passphrase`.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Everything that is looked at before anything is made.
fn look(config: &Config, origins: &Origins) -> Result<(Preflight, Listeners, PassphraseSource), StartError> {
    let listeners = Listeners::open(config, origins);
    match (Preflight::look(config, origins), listeners) {
        (Ok(looked), Ok(listeners)) => Ok((looked, listeners, PassphraseSource::of(config, origins))),
        (looked, listeners) => {
            let problems = listeners.err().into_iter().chain(looked.err()).flatten();
            Err(StartError::several(problems))
        }
    }
}

pub(super) fn lock(dir: &DataDir) -> Result<File, StartError> {
    identity::private_dir(dir.path()).map_err(|e| StartError::new(format!("data_dir: {e}")))?;
    let path = dir.lock();
    let file = File::options().create(true).append(true).mode(0o600).open(&path).map_err(|e| {
        StartError::new(format!(
            "cannot open '{}': {e}; check that this user may write there",
            path.display()
        ))
    })?;
    // Commands believe no lock that others can write. Where modes cannot be changed, none are looked at.
    let _ = file.set_permissions(std::fs::Permissions::from_mode(0o600));
    // A command that looks whether a node runs here holds it for a moment.
    let mut locked = file.try_lock();
    for _ in 0..LOCK_TRIES {
        if locked.is_ok() {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        locked = file.try_lock();
    }
    locked.map_err(|e| {
        let shown = dir.path().display();
        StartError::new(match e {
            std::fs::TryLockError::WouldBlock => format!(
                "the data directory '{shown}' is in use by another agent: stop that one, or set data_dir to another \
                 directory"
            ),
            std::fs::TryLockError::Error(e) => disk::lock_problem(&path, &e)
                .unwrap_or_else(|| format!("cannot lock the data directory '{shown}': {e}")),
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

/// What this machine remembers of peers and folders; copies of files that a killed node left behind go.
fn open_agent_db(dir: &DataDir) -> Result<(AddressBook, FolderRows), StartError> {
    let book = AddressBook::open(&dir.agent_db()).map_err(|e| StartError::new(e.to_string()))?;
    let copies = dir.folders();
    let made = identity::private_dir(&copies).map_err(io::Error::other).and_then(|_| {
        for left in std::fs::read_dir(&copies)? {
            std::fs::remove_file(left?.path())?;
        }
        Ok(())
    });
    made.map_err(|e| {
        StartError::new(format!(
            "cannot open '{}', where copies of files lie for a moment: {e}; check that this user may write there",
            copies.display()
        ))
    })?;
    let rows = FolderRows::open(&dir.agent_db()).map_err(|e| StartError::new(e.to_string()))?;
    Ok((book, rows))
}

/// Writes down where this node is, for the commands that are started beside it.
fn tell(
    config: &Config,
    passphrase: PassphraseSource,
    dir: &DataDir,
    api: &SharedListener,
    can: Option<&SharedListener>,
) -> Result<(), StartError> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let is_open = config.can_token_file.is_none();
    let node = RunningNode {
        pid: std::process::id(),
        api_url: api.local_url().map_err(|e| StartError::new(e.to_string()))?,
        store_url: can.filter(|_| is_open).map(store_url).transpose()?,
        api_token_file: config.api_token_file.as_ref().map(absolute),
        passphrase,
    };
    node.write(dir).map_err(|e| {
        let path = dir.running();
        StartError::new(format!(
            "cannot write '{}': {e}; check that this user may write there",
            path.display()
        ))
    })
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
    relay: RelayMode,
    book: &AddressBook,
    gate: &Gate,
) -> Result<(Endpoint, MemoryLookup), StartError> {
    let wanted = config.bind_addr;
    let last = if wanted.port() == 0 { book.last_port().ok().flatten() } else { None };
    let bind = |addr| endpoint::bind_behind(key.clone(), addr, relay.clone(), Some(gate.clone()));
    let mut bound = Err(String::new());
    for port in last.into_iter().chain(sockets::common_port(wanted)) {
        bound = bind(SocketAddr::new(wanted.ip(), port)).await;
        if bound.is_ok() {
            break;
        }
    }
    if bound.is_err() {
        bound = bind(wanted).await;
    }
    let endpoint = bound.map_err(|e| {
        let cause = format!("cannot open the UDP socket {wanted}: {e}");
        StartError::new(format!("bind_addr: {}", udp_problem(wanted, &cause)))
    })?;
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(StartError::new(format!("a step of the start failed: {e}"))))
}
