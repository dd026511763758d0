//! What can be configured: every setting with its type and default.
//!
//! [`Config::load`] lays the sources over one another, lowest first: defaults, the file, the environment
//! (`CAN_SYNC_…`), flags. `config.yaml` at the top of the repository explains each setting to its user; a test holds
//! the two together.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

mod error;
mod load;
mod setting;
#[cfg(test)]
mod tests;
mod value;

pub use error::ConfigError;
pub use load::{FlagValue, Loaded, LoadedSetting, Origin, Origins, SettingSources};
pub use value::{HttpUrl, RelaySetting, ServiceUrl, SlotFormat};

use setting::settings;

/// The environment variable that sets `discovery.mdns` is this, then `DISCOVERY_MDNS`.
pub const ENV_PREFIX: &str = "CAN_SYNC_";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

settings! {
    /// Everything that can be configured.
    pub struct Config from ConfigLayer {
        /// An external CAN Service; `None` embeds one.
        can_service_url: Option<ServiceUrl> = None;
        /// Where the embedded CAN Service listens; port 0 takes a free one.
        can_listen_addr: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 3210));
        /// Key of the CAN Service's sync API; generated for an embedded one.
        sync_api_key: Option<SecretString> = None;
        /// A file that holds the key of the CAN Service's sync API.
        sync_api_key_file: Option<PathBuf> = None;
        /// The network's passphrase; generated at the first start.
        sync_passphrase: Option<SecretString> = None;
        /// A file that holds the network's passphrase.
        sync_passphrase_file: Option<PathBuf> = None;
        /// Takes a passphrase that can be guessed.
        allow_weak_passphrase: bool = false;
        /// Where the agent's API and web page listen; port 0 takes a free one.
        listen_addr: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 3213));
        /// A file that holds the token which the agent's API asks for.
        api_token_file: Option<PathBuf> = None;
        /// Host names, without port, under which the HTTP servers may be addressed besides those they listen on.
        allowed_hosts: Vec<String> = Vec::new();
        /// Keys, databases, content, partial downloads.
        data_dir: PathBuf = PathBuf::from("./can_sync_data");
        /// What peers are shown; at most 64 characters.
        name: String = value::host_name();
        /// The iroh relay.
        relay_url: RelaySetting = RelaySetting::Default;
        /// How often the store is asked for changes, besides its event stream.
        poll_interval as "poll_interval_secs": Duration = Duration::from_secs(3);
        /// How often the store and the index are compared in full.
        full_scan_interval as "full_scan_interval_secs": Duration = Duration::from_mins(5);
        /// Where this node's ticket is written at start.
        ticket_file: Option<PathBuf> = None;
        /// Where another node's ticket is read, to connect to it.
        connect_ticket_file: Option<PathBuf> = None;
        /// The UDP socket for QUIC; port 0 takes a free one.
        bind_addr: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        /// Applies deletions that peers made.
        replicate_deletes: bool = false;
        /// Has new machines wait for `can-sync approve`, also those that know the passphrase.
        approve_devices: bool = false;
    }
    sections {
        /// How peers are found.
        discovery: Discovery from DiscoveryLayer;
        /// How much may be used.
        limits: Limits from LimitsLayer;
    }
}

settings! {
    /// How peers are found. All channels run side by side.
    pub struct Discovery from DiscoveryLayer {
        /// pkarr relays; empty for none.
        pkarr_relays: Vec<HttpUrl> = pkarr::DEFAULT_RELAYS.iter().filter_map(|url| HttpUrl::parse(url)).collect();
        /// The mainline DHT.
        dht: bool = true;
        /// Nodes, `host:port`, through which the DHT is entered; `None` for its public ones.
        dht_bootstrap: Option<Vec<String>> = None;
        /// The local network.
        mdns: bool = true;
        /// How rendezvous slots are written.
        slots: SlotFormat = SlotFormat::Sealed;
        /// Endpoint ids or tickets of agents to try first.
        bootstrap: Vec<String> = Vec::new();
        /// A gossip topic other than the passphrase's.
        topic: Option<String> = None;
        /// A secret that the gossip topic derives from, instead of the passphrase.
        topic_secret: Option<SecretString> = None;
    }
}

settings! {
    /// How much may be used. What both sides of a connection have to agree on (frame sizes, limits of metadata) is part
    /// of the protocol and cannot be configured.
    pub struct Limits from LimitsLayer {
        /// Connections to peers.
        max_connections: usize = 64;
        /// Of those, connections that this node made.
        max_dialled: usize = 16;
        /// Connections that have not proved yet who they are.
        max_pending_handshakes: usize = 32;
        /// Dials at once to candidates that nobody vouches for.
        max_hint_dials: usize = 8;
        /// Streams that a peer may have open.
        max_streams_per_connection: usize = 32;
        /// Peers that are remembered.
        max_known_peers: usize = 4096;
        /// Announcements from gossip that are looked at, per second.
        max_announcements_per_sec: usize = 64;
        /// Content on its way through memory, all peers together.
        in_flight_bytes: u64 = 64 * MIB;
        /// Content on its way through memory, per peer.
        in_flight_per_peer_bytes: u64 = 8 * MIB;
        /// Free space below which the store takes nothing.
        disk_reserve_bytes: u64 = GIB;
        /// Content sent, all peers together; `None` for no limit.
        upload_bytes_per_sec: Option<u64> = None;
        /// Content received, all peers together; `None` for no limit.
        download_bytes_per_sec: Option<u64> = None;
        /// For a new connection to prove who it is.
        handshake_timeout as "handshake_timeout_secs": Duration = Duration::from_secs(5);
        /// Without progress, a transfer goes to another source.
        stall_timeout as "stall_timeout_secs": Duration = Duration::from_secs(30);
        /// Without a word, a peer is asked whether it is alive.
        idle_probe as "idle_probe_secs": Duration = Duration::from_secs(15);
        /// First pause after a failed dial.
        dial_backoff_min as "dial_backoff_min_secs": Duration = Duration::from_secs(1);
        /// Longest pause after failed dials.
        dial_backoff_max as "dial_backoff_max_secs": Duration = Duration::from_mins(5);
    }
}

impl Config {
    /// Every setting's full key and value, in order; secrets are hidden.
    fn list(&self) -> Vec<(String, serde_json::Value)> {
        let mut list = Vec::new();
        self.list_into("", &mut list);
        list
    }

    /// The URL under which the agent's API can be reached from this machine; `None` while the port is the system's
    /// choice.
    pub fn api_url(&self) -> Option<String> {
        let mut addr = self.listen_addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        (addr.port() != 0).then(|| format!("http://{addr}"))
    }

    /// Rules that concern more than one setting: the first that is broken, with the setting to blame.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let Self { limits, .. } = self;
        let misnamed = self.allowed_hosts.iter().find_map(|host| Some((host, value::host_problem(host)?)));
        let rules: [(bool, &'static str, String); 10] = [
            (
                misnamed.is_none(),
                "allowed_hosts",
                misnamed.map(|(host, problem)| format!("'{host}': {problem}")).unwrap_or_default(),
            ),
            (
                value::name_problem(&self.name).is_none(),
                "name",
                value::name_problem(&self.name).unwrap_or_default(),
            ),
            (
                self.sync_passphrase.is_none() || self.sync_passphrase_file.is_none(),
                "sync_passphrase_file",
                "sync_passphrase is set as well: keep one of the two".to_owned(),
            ),
            (
                self.sync_api_key.is_none() || self.sync_api_key_file.is_none(),
                "sync_api_key_file",
                "sync_api_key is set as well: keep one of the two".to_owned(),
            ),
            (
                self.listen_addr.ip().is_loopback() || self.api_token_file.is_some(),
                "listen_addr",
                format!(
                    "{} can be reached from other machines: set api_token_file, or listen on 127.0.0.1",
                    self.listen_addr
                ),
            ),
            (
                self.can_service_url.is_some() || !overlap(self.listen_addr, self.can_listen_addr),
                "can_listen_addr",
                format!("{} is taken by listen_addr: give each its own port", self.can_listen_addr),
            ),
            (
                limits.max_dialled <= limits.max_connections,
                "limits.max_dialled",
                format!("expected at most max_connections, which is {}", limits.max_connections),
            ),
            (
                limits.in_flight_per_peer_bytes >= 256 * KIB,
                "limits.in_flight_per_peer_bytes",
                "expected at least 256 KiB, or nothing can move".to_owned(),
            ),
            (
                limits.in_flight_per_peer_bytes <= limits.in_flight_bytes,
                "limits.in_flight_per_peer_bytes",
                format!("expected at most in_flight_bytes, which is {}", limits.in_flight_bytes),
            ),
            (
                limits.dial_backoff_min <= limits.dial_backoff_max,
                "limits.dial_backoff_min_secs",
                format!(
                    "expected at most dial_backoff_max_secs, which is {}",
                    limits.dial_backoff_max.as_secs()
                ),
            ),
        ];
        for (key, rate) in [
            ("limits.upload_bytes_per_sec", limits.upload_bytes_per_sec),
            ("limits.download_bytes_per_sec", limits.download_bytes_per_sec),
        ] {
            if rate.is_some_and(|rate| rate < KIB) {
                return Err((
                    key,
                    "expected at least 1 KiB, or nothing can move; null is no limit".to_owned(),
                ));
            }
        }
        match rules.into_iter().find(|(kept, ..)| !kept) {
            Some((_, key, problem)) => Err((key, problem)),
            None => Ok(()),
        }
    }
}

/// Whether two listeners would want the same port of the same address.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_ip
}
