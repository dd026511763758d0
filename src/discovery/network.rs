//! pkarr as discovery uses it: read a key, write a key, over relays or over the mainline DHT.
//!
//! Each channel is a [`Transport`] of its own, sufficient alone and reported alone. Nothing is cached: pkarr 8.1 does
//! arithmetic on a packet's date when it takes it from a cache and panics over the largest one. For the same reason a packet
//! from the future is turned away here, before anything else is done with it. The first packet that will do is the answer;
//! waiting for every node's takes seconds and is worth nothing for what is only a hint.

pub(super) mod relays;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::{BoxFuture, join_all};
use pkarr::dht::{DhtClient, DhtConfig};
use pkarr::{PublicKey, SignedPacket};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::relays::Relays;
use super::channel::Channel;
use super::slot::AHEAD_MAX;
use crate::config::{Discovery, HttpUrl};

/// Longest wait for the DHT: a lookup in several steps of at most two seconds, and for a write another round.
const DHT_READ_WITHIN: Duration = Duration::from_secs(12);
const DHT_WRITE_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for the addresses of the DHT's entry nodes.
const BOOTSTRAP_WITHIN: Duration = Duration::from_secs(5);
/// Lookups in the DHT at once: each asks some dozens of nodes.
const DHT_WIDTH: usize = 8;

/// Why a key was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("no answer from {from} within {} s", within.as_secs())]
    Timeout { from: &'static str, within: Duration },
    /// An answer that says no, or no way to ask.
    #[error("cannot {action} through {through}: {reason}")]
    Failed {
        action: &'static str,
        through: &'static str,
        /// What pkarr or the system said.
        reason: String,
    },
    /// The configured entry nodes do not exist.
    #[error(
        "cannot enter the DHT: none of discovery.dht_bootstrap has an IPv4 address ({reason}); check the list"
    )]
    Bootstrap {
        /// What the system said of the last of them.
        reason: String,
    },
}

pub enum KeyLookup {
    /// Nothing, or something that is no signed packet.
    Nothing,
    /// This, signed with the key, and not from the future.
    Packet(SignedPacket),
    /// A packet from the future: it is not looked at, and nothing dated honestly replaces it.
    FromTheFuture,
}

/// One channel to pkarr.
pub trait Transport: fmt::Debug + Send + Sync {
    fn resolve(&self, key: PublicKey) -> BoxFuture<'_, Result<KeyLookup, NetworkError>>;
    /// Writes the packet under its key.
    fn publish(&self, packet: SignedPacket) -> BoxFuture<'_, Result<(), NetworkError>>;
    /// How many reads at once make sense.
    fn width(&self) -> usize;
}

/// The channels of one incarnation of their user.
pub type Transports = Vec<(Channel, Arc<dyn Transport>)>;

/// Makes them. Each incarnation has its own, since what failed may be in there.
pub type Connect = Arc<dyn Fn() -> Result<Transports, NetworkError> + Send + Sync>;

#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// Relays; empty for none.
    pub relays: Vec<HttpUrl>,
    /// Whether to use the mainline DHT.
    pub dht: bool,
    /// The nodes, `host:port`, through which it is entered; `None` for its public ones.
    pub dht_bootstrap: Option<Vec<String>>,
    /// The address of its socket. `None`: any, or loopback when all entry nodes are there.
    pub dht_bind: Option<Ipv4Addr>,
}

impl NetworkSettings {
    pub fn of(config: &Discovery) -> Self {
        Self {
            relays: config.pkarr_relays.clone(),
            dht: config.dht,
            dht_bootstrap: config.dht_bootstrap.clone(),
            dht_bind: None,
        }
    }

    /// Opens the channels. Cheap: the DHT is entered by its first use.
    pub fn connect(&self) -> Result<Transports, NetworkError> {
        let mut transports: Transports = Vec::new();
        if !self.relays.is_empty() {
            transports.push((Channel::Relays, Arc::new(Relays::new(&self.relays)?)));
        }
        if self.dht {
            let (bootstrap, bind) = (self.dht_bootstrap.clone(), self.dht_bind);
            transports.push((Channel::Dht, Arc::new(Dht { bootstrap, bind, client: OnceCell::new() })));
        }
        Ok(transports)
    }

    pub fn connector(self) -> Connect {
        Arc::new(move || self.connect())
    }
}

pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A packet's date, for one that replaces what was there, dated `seen_us`.
pub fn date_after(seen_us: Option<u64>, now_us: u64) -> u64 {
    seen_us.map_or(now_us, |seen| now_us.max(seen.saturating_add(1)))
}

/// Turns packets from the future away.
fn checked(packet: SignedPacket) -> KeyLookup {
    let ahead = u64::try_from(AHEAD_MAX.as_micros()).unwrap_or(u64::MAX);
    if packet.timestamp().as_u64() > now_us().saturating_add(ahead) {
        return KeyLookup::FromTheFuture;
    }
    KeyLookup::Packet(packet)
}

/// What is no packet at all, but has a date.
fn no_packet(seq: i64) -> KeyLookup {
    let ahead = u64::try_from(AHEAD_MAX.as_micros()).unwrap_or(u64::MAX);
    let future = u64::try_from(seq).is_ok_and(|seq| seq > now_us().saturating_add(ahead));
    if future { KeyLookup::FromTheFuture } else { KeyLookup::Nothing }
}

/// A node of our own in the mainline DHT, which asks and does not answer.
#[derive(Debug)]
struct Dht {
    bootstrap: Option<Vec<String>>,
    bind: Option<Ipv4Addr>,
    client: OnceCell<DhtClient>,
}

impl Dht {
    const NAME: &str = "the DHT";

    fn failed(action: &'static str, reason: impl fmt::Display) -> NetworkError {
        NetworkError::Failed { action, through: Self::NAME, reason: reason.to_string() }
    }

    async fn client(&self) -> Result<&DhtClient, NetworkError> {
        self.client.get_or_try_init(|| self.enter()).await
    }

    async fn enter(&self) -> Result<DhtClient, NetworkError> {
        let mut config = DhtConfig::default();
        config.bind_address = self.bind;
        if let Some(names) = &self.bootstrap {
            let nodes = addresses(names).await?;
            if nodes.iter().all(|node| node.ip().is_loopback()) {
                // From any other address, a socket does not reach nodes on this machine alone on every system.
                config.bind_address = self.bind.or(Some(Ipv4Addr::LOCALHOST));
            }
            config.bootstrap = Some(nodes);
        }
        // It looks up the names of nodes, which holds up its thread for as long as no server answers.
        let built = spawn_blocking(move || DhtClient::build(config)).await;
        built.map_err(|e| Self::failed("start", e))?.map_err(|e| Self::failed("open a socket", e))
    }

    async fn read(&self, key: &PublicKey) -> Result<KeyLookup, NetworkError> {
        use pkarr::dht::ResolveError;
        let response = self.client().await?.resolve(key, None).await;
        // The rest of the lookup is given up as soon as one answer will do.
        if let Some(packet) = response.first() {
            let date = packet.timestamp();
            if let KeyLookup::Packet(packet) = checked(packet.clone()) {
                return Ok(KeyLookup::Packet(packet));
            }
            tracing::debug!(date_us = date.as_u64(), "a packet from the future is ignored");
            return Ok(KeyLookup::FromTheFuture);
        }
        match response.complete().await.most_recent {
            Ok(packet) => Ok(checked(packet)),
            Err(ResolveError::NotFound) => Ok(KeyLookup::Nothing),
            Err(ResolveError::InvalidSignedPacket { seq }) => Ok(no_packet(seq)),
            Err(
                e @ (ResolveError::NoNodesQueried
                | ResolveError::NoNodesResponded
                | ResolveError::NoUsableResponses),
            ) => Err(Self::failed("read", e)),
        }
    }

    async fn write(&self, packet: &SignedPacket) -> Result<(), NetworkError> {
        let stored = self.client().await?.publish(packet).await.map_err(|e| Self::failed("write", e))?;
        if stored == 0 {
            return Err(Self::failed("write", "no node stored it"));
        }
        Ok(())
    }
}

impl Transport for Dht {
    fn resolve(&self, key: PublicKey) -> BoxFuture<'_, Result<KeyLookup, NetworkError>> {
        Box::pin(async move { within(DHT_READ_WITHIN, self.read(&key)).await })
    }

    fn publish(&self, packet: SignedPacket) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move { within(DHT_WRITE_WITHIN, self.write(&packet)).await })
    }

    fn width(&self) -> usize {
        DHT_WIDTH
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, NetworkError>>,
) -> Result<T, NetworkError> {
    timeout(limit, work).await.unwrap_or(Err(NetworkError::Timeout { from: Dht::NAME, within: limit }))
}

/// The IPv4 addresses of these nodes: mainline speaks nothing else.
async fn addresses(names: &[String]) -> Result<Vec<SocketAddrV4>, NetworkError> {
    let look_up = |name: &String| {
        let name = name.clone();
        async move {
            let found = timeout(BOOTSTRAP_WITHIN, tokio::net::lookup_host(name)).await;
            found.map_err(|e| e.to_string())?.map(Vec::from_iter).map_err(|e| e.to_string())
        }
    };
    let mut reason = "the list is empty".to_owned();
    let mut nodes = Vec::new();
    for found in join_all(names.iter().map(look_up)).await {
        match found {
            Ok(found) => nodes.extend(found.into_iter().filter_map(|addr: SocketAddr| match addr {
                SocketAddr::V4(addr) => Some(addr),
                SocketAddr::V6(_) => None,
            })),
            Err(error) => reason = error,
        }
    }
    if nodes.is_empty() { Err(NetworkError::Bootstrap { reason }) } else { Ok(nodes) }
}
