//! The command line as a guest in the network: an endpoint of its own for the length of one command, with the network's keys
//! and with addresses from whatever this machine knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use iroh_gossip::api::Event;
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use iroh_tickets::endpoint::EndpointTicket;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{AgentWord, AskArgs};
use crate::cli::Context;
use crate::cli::error::{CliError, CliResult, Exit};
use crate::cli::progress::ProgressLine;
use crate::clock::now_ms;
use crate::config::{Config, RelaySetting};
use crate::discovery::address_book;
use crate::discovery::list_peers::{Found, ListingConnection};
use crate::discovery::mdns::Mdns;
use crate::discovery::{announcement, gossip};
use crate::identity::{self, IdentityError, Key, Mend, NetworkKeys, Passphrase, PresenceKeys};
use crate::net::endpoint;
use crate::node::DataDir;
use crate::node::secrets::passphrase_sources;

/// Where the topic's secret is looked for, besides the settings.
const TOPIC_SECRET_VARIABLE: &str = "CAN_SYNC_TOPIC_SECRET";
/// Agents that were alive lately are waited for, unless time is up before.
const FRESH_FOR: Duration = Duration::from_mins(1);
/// Agents announce themselves every 30 s: after a little more without anybody new, all have been heard.
const QUIET: Duration = Duration::from_secs(32);
/// Agents that are asked at once whether they are of the network.
const PROBES_MAX: usize = 16;
/// For a first neighbour. Joining through an address where nobody answers would wait for ever.
const JOIN_WITHIN: Duration = Duration::from_secs(15);
/// Announcements dated further away are somebody's old ones, or nonsense.
const DATED_WITHIN_MS: u64 = 10 * 60 * 1000;
/// For the local network to answer: a query goes out every two seconds.
const MDNS_WITHIN: Duration = Duration::from_secs(5);
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Remembered agents that a question begins with: the last ones seen.
const REMEMBERED_MAX: usize = 64;

/// Which network, and what proves that one is of it.
pub(super) struct Keys {
    pub(super) presence: PresenceKeys,
    /// Each that an agent may be asked with.
    pub(super) rpc: Vec<Key>,
    /// The passphrase's, where there is one: a topic is enough for listing.
    pub(super) network: Option<NetworkKeys>,
}

impl Keys {
    /// From flags, settings and the data directory, as the daemon has them; nothing is made. `None` without any.
    pub(super) async fn load(config: &Config, args: &AskArgs) -> CliResult<Option<Self>> {
        let variable =
            std::env::var_os(TOPIC_SECRET_VARIABLE).map(|secret| secret.to_string_lossy().into_owned());
        let given = [
            ("--topic-secret", args.topic_secret.as_deref()),
            (TOPIC_SECRET_VARIABLE, variable.as_deref()),
            (
                "discovery.topic_secret",
                config.discovery.topic_secret.as_ref().map(ExposeSecret::expose_secret),
            ),
        ];
        let secret = given.into_iter().find_map(|(source, text)| Some((source, text?)));
        let secret = secret.map(|(source, text)| {
            identity::secret_in(text).map_err(|fault| CliError::failure(format!("{source}: {fault}")))
        });
        let secret = secret.transpose()?.map(SecretString::from);
        let topic = args.topic.clone().or_else(|| config.discovery.topic.clone());
        let sources = passphrase_sources(config);
        let setting = sources.setting();
        let named = |e: IdentityError| CliError::failure(format!("{setting}: {e}"));
        let passphrase = Passphrase::existing(sources, Mend::Never).map_err(named)?;
        if let Some(passphrase) = passphrase.as_ref().filter(|_| !config.allow_weak_passphrase) {
            passphrase.check_strength().map_err(named)?;
        }
        // Stretching blocks for some tenths of a second.
        let derive = move || {
            let network = passphrase.map(|passphrase| NetworkKeys::derive(&passphrase.secret));
            let named = (topic.is_some() || secret.is_some())
                .then(|| PresenceKeys::of_topic(topic.as_deref().unwrap_or_default(), secret.as_ref()));
            let own = network.as_ref().map(NetworkKeys::presence);
            let presence = named.as_ref().or(own)?.clone();
            let rpc = named.iter().chain(own).map(|keys| keys.rpc().clone()).collect();
            Some(Self { presence, rpc, network })
        };
        spawn_blocking(derive).await.map_err(|e| CliError::failure(format!("cannot derive the keys: {e}")))
    }
}

/// Where agents are, as far as this machine knows.
#[derive(Debug, Default)]
pub(super) struct KnownAgents(BTreeMap<EndpointId, EndpointAddr>);

impl KnownAgents {
    /// From the flags, the daemon (its own address) where one runs, the settings and the address book; if nobody is known from
    /// these, from the local network.
    pub(super) async fn gather(
        context: &Context,
        config: &Config,
        args: &AskArgs,
        keys: &Keys,
    ) -> CliResult<Self> {
        let mut known = Self::default();
        for addr in args.from.iter().filter_map(AgentWord::addr).chain(&args.bootstrap) {
            known.add(addr.clone());
        }
        for entry in &config.discovery.bootstrap {
            let addr = super::agent(entry)
                .map_err(|problem| CliError::failure(format!("discovery.bootstrap: {problem}")))?;
            known.add(addr);
        }
        if let Some(addr) = daemon(context).await {
            known.add(addr);
        }
        let path = DataDir::new(&config.data_dir).agent_db();
        let read = move || if path.exists() { address_book::read(&path) } else { Ok(Vec::new()) };
        match spawn_blocking(read).await {
            Ok(Ok(entries)) => {
                for entry in entries.into_iter().take(REMEMBERED_MAX) {
                    known.add(entry.addr);
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "remembered agents are not asked"),
            Err(error) => tracing::warn!(%error, "remembered agents are not asked"),
        }
        let mdns = keys.network.as_ref().map(|keys| Mdns::new(keys.mdns()));
        if let Some(mdns) =
            mdns.filter(|_| config.discovery.mdns && !args.no_mdns && known.reachable().is_empty())
        {
            let _progress = ProgressLine::spinner("looking on the local network");
            match mdns.find(SecretKey::generate().public(), MDNS_WITHIN).await {
                Ok(found) => found.into_iter().for_each(|addr| known.add(addr)),
                Err(why) => tracing::info!(why, "the local network cannot be asked"),
            }
        }
        Ok(known)
    }

    fn add(&mut self, addr: EndpointAddr) {
        self.0.entry(addr.id).or_insert_with(|| EndpointAddr::new(addr.id)).addrs.extend(addr.addrs);
    }

    /// All agents of which more than the id is known.
    pub(super) fn reachable(&self) -> Vec<EndpointAddr> {
        self.0.values().filter(|addr| !addr.addrs.is_empty()).cloned().collect()
    }

    pub(super) fn of(&self, id: EndpointId) -> EndpointAddr {
        self.0.get(&id).cloned().unwrap_or_else(|| EndpointAddr::new(id))
    }
}

#[derive(Deserialize)]
struct DaemonTicket {
    ticket: String,
}

/// Where the daemon is, if one runs here.
pub(super) async fn daemon(context: &Context) -> Option<EndpointAddr> {
    let DaemonTicket { ticket } = context.agent().ok()?.get("/ticket", &[]).await.ok()?;
    Some(ticket.parse::<EndpointTicket>().ok()?.endpoint_addr().clone())
}

/// Opens an endpoint with a key that nobody has seen before.
pub(super) async fn open(config: &Config, no_relay: bool) -> CliResult<Endpoint> {
    let relay = if no_relay { RelayMode::Disabled } else { relay_mode(&config.relay_url)? };
    let addr = SocketAddr::new(config.bind_addr.ip(), 0);
    let bound = Box::pin(endpoint::bind(SecretKey::generate(), addr, relay)).await;
    bound.map_err(|e| CliError::failure(format!("cannot open a UDP socket at {addr}: {e}")))
}

pub(in crate::cli) fn relay_mode(setting: &RelaySetting) -> CliResult<RelayMode> {
    Ok(match setting {
        RelaySetting::Default => RelayMode::Default,
        RelaySetting::Disabled => RelayMode::Disabled,
        RelaySetting::Url(url) => {
            let parsed = url.as_str().parse();
            RelayMode::custom([
                parsed.map_err(|e| CliError::failure(format!("relay_url '{}': {e}", url.as_str())))?
            ])
        }
    })
}

pub(super) async fn close(endpoint: Endpoint) {
    // An agent that does not hear the goodbye notices by itself.
    let _ = timeout(CLOSE_WITHIN, endpoint.close()).await;
}

pub(super) struct HeardAgents {
    pub(super) found: Vec<Found>,
    /// Whether anybody let us into the swarm.
    pub(super) joined: bool,
    /// Whether there were more than were to be taken in.
    pub(super) capped: bool,
}

/// Listens to announcements until all have been heard who are alive, or nobody new is heard for longer than agents are silent, until there are `peers_max` of them,
/// or until `deadline`; `progress` is told how many there are.
pub(super) async fn listen(
    endpoint: &Endpoint,
    presence: &PresenceKeys,
    bootstrap: Vec<EndpointAddr>,
    peers_max: usize,
    deadline: Instant,
    progress: impl Fn(usize),
) -> CliResult<HeardAgents> {
    let failed = |e: &dyn std::fmt::Display| CliError::failure(format!("cannot join the gossip topic: {e}"));
    let lookup = MemoryLookup::new();
    endpoint.address_lookup().map_err(|e| failed(&e))?.add(lookup.clone());
    let swarm = gossip::start(endpoint);
    let _accepting = accept(endpoint.clone(), swarm.clone());
    let topic = gossip::topic_of(presence.topic());
    let (sender, mut events) = swarm.subscribe(topic, Vec::new()).await.map_err(|e| failed(&e))?.split();
    // The topic's name is a secret, and a hint may lead to anybody: only who proves itself hears it.
    let ask = |addr: EndpointAddr| async move {
        let connecting = Box::pin(ListingConnection::connect(
            endpoint,
            addr.clone(),
            std::slice::from_ref(presence.rpc()),
        ));
        let connection = connecting.await.ok()?;
        Some((addr, connection.list_all(peers_max).await.ok()))
    };
    let mut proving = Box::pin(futures::stream::iter(bootstrap).map(ask).buffer_unordered(PROBES_MAX));
    let mut all_asked = false;
    // Who is alive, as those say who proved themselves: once all of them were heard, nobody is left to wait for. `None` where one
    // does not say.
    let mut alive: Option<BTreeSet<[u8; 32]>> = Some(BTreeSet::new());

    let mut heard: BTreeMap<[u8; 32], (Found, Instant)> = BTreeMap::new();
    let mut joined = false;
    let mut capped = false;
    let mut until = deadline.min(Instant::now() + JOIN_WITHIN);
    loop {
        let all_heard =
            |alive: &BTreeSet<[u8; 32]>| !alive.is_empty() && alive.iter().all(|id| heard.contains_key(id));
        if joined && all_asked && alive.as_ref().is_some_and(all_heard) {
            break;
        }
        let event = tokio::select! {
            proven = proving.next(), if !all_asked => {
                all_asked = proven.is_none();
                if let Some((addr, listed)) = proven.flatten() {
                    alive = alive.zip(listed).map(|(mut alive, listed)| {
                        let fresh = listed.peers.iter().filter(|found| found.age < FRESH_FOR).map(|found| found.id);
                        alive.extend(fresh.chain([addr.id]).map(|id| *id.as_bytes()));
                        alive
                    });
                    lookup.add_endpoint_info(addr.clone());
                    sender.join_peers(vec![addr.id]).await.map_err(|e| failed(&e))?;
                }
                continue;
            }
            event = timeout_at(until, events.next()) => event,
        };
        let Ok(Some(event)) = event else { break };
        match event {
            Ok(Event::NeighborUp(_)) => {
                if !joined {
                    until = deadline.min(Instant::now() + QUIET);
                }
                joined = true;
            }
            Ok(Event::Received(message)) => {
                let Ok(signed) = announcement::verify(&message.content) else { continue };
                let announcement = signed.announcement;
                if announcement.timestamp_ms.abs_diff(now_ms()) > DATED_WITHIN_MS {
                    continue;
                }
                lookup.add_endpoint_info(announcement.addr());
                let id = *announcement.id.as_bytes();
                if !heard.contains_key(&id) {
                    if heard.len() == peers_max {
                        capped = true;
                        break;
                    }
                    until = deadline.min(Instant::now() + QUIET);
                }
                heard.insert(id, (Found::new(announcement, Duration::ZERO), Instant::now()));
                progress(heard.len());
            }
            Ok(Event::NeighborDown(_) | Event::Lagged) => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    // Leaving is a courtesy.
    let _ = timeout(CLOSE_WITHIN, swarm.shutdown()).await;
    let found = heard.into_values().map(|(found, at)| Found { age: at.elapsed(), ..found }).collect();
    Ok(HeardAgents { found, joined, capped })
}

/// Lets agents of the swarm connect to us.
fn accept(endpoint: Endpoint, gossip: Gossip) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let server = endpoint::strangers(&endpoint);
        while let Some(incoming) = endpoint.accept().await {
            let Ok(accepting) = incoming.accept_with(Arc::clone(&server)) else { continue };
            let Ok(Ok(connection)) = timeout(JOIN_WITHIN, accepting).await else { continue };
            if connection.alpn() == GOSSIP_ALPN {
                endpoint::open_gossip(&connection);
                // Gossip has ended: so do we.
                let _ = gossip.handle_connection(connection).await;
            }
        }
    }))
}

/// Why nothing can be asked without keys.
pub(super) fn no_keys(config: &Config) -> CliError {
    CliError::new(Exit::NotFound, format!("there is no passphrase: neither a setting nor '{}' has one", config.data_dir.display()))
        .hint("the first `can-sync serve` makes one; --config names another configuration, --topic a network of its own")
}
