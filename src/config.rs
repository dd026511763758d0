//! What can be configured: every setting with its type and default.
//!
//! [`Config::load`] lays the sources over one another, lowest first: defaults, the file, the environment
//! (`CAN_SYNC_…`), flags. `config.yaml` at the top of the repository explains each setting to its user; a test holds
//! the two together.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

mod bucket;
mod error;
mod file;
mod folders;
pub mod fuzz;
mod hold;
mod load;
mod setting;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use bucket::{BucketUrl, ContentBucket, ContentPlaceSetting};
pub use error::{ConfigError, ConfigErrors};
pub use folders::{ConfiguredFolder, ConfiguredFolders, ConfiguredMode, FOLDERS_MAX};
pub use hold::{HoldFilter, HoldSetting};
pub use load::{FlagValue, Loaded, LoadedSetting, Origin, Origins, SettingSources};
pub use value::{Copies, Days, HttpUrl, RelaySetting, ServiceUrl, SlotFormat};

use setting::settings;

/// The environment variable that sets `discovery.mdns` is this, then `DISCOVERY_MDNS`.
pub const ENV_PREFIX: &str = "CAN_SYNC_";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Room for a piece of content and what goes with it: with less, nothing moves.
const IN_FLIGHT_BYTES_MIN: u64 = 256 * KIB;

settings! {
    /// Everything that can be configured.
    pub struct Config from ConfigLayer {
        /// An external CAN Service; `None` embeds one.
        can_service_url: Option<ServiceUrl> = None;
        /// Where the embedded CAN Service listens; port 0 takes a free one.
        can_listen_addr: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 3210));
        /// A file that holds the token which the CAN Service asks for.
        can_token_file: Option<PathBuf> = None;
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
        /// How often everything in the embedded store is read and checked; 0 for never.
        scrub_interval_days: Days = Days(30);
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
        /// Of which assets contents are held here.
        hold: HoldSetting = HoldSetting::default();
        /// How many other places have to promise to keep a content before it is let go of here.
        min_copies: Copies = Copies(2);
        /// Directories that are kept alike with those of other machines.
        folders: ConfiguredFolders = ConfiguredFolders::default();
    }
    sections {
        /// How peers are found.
        discovery: Discovery from DiscoveryLayer;
        /// Where the embedded store keeps contents.
        store: StoreSettings from StoreSettingsLayer;
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
    /// Where the embedded store keeps contents.
    pub struct StoreSettings from StoreSettingsLayer {
        /// Object storage for contents that are too large for the database; `None` for files in the data directory.
        content: ContentPlaceSetting = ContentPlaceSetting::default();
        /// Contents of object storage that are kept on this disk, too; 0 for none.
        cache_bytes: u64 = 10 * GIB;
        /// Content that may be in the store in all, that in the trash included; `None` for no limit.
        quota_bytes: Option<u64> = None;
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
        /// How fast the embedded store is read to check it, unless somebody asks for it.
        scrub_bytes_per_sec: u64 = 16 * MIB;
        /// Connections to each HTTP server.
        http_connections: usize = 1024;
        /// Slower clients of the HTTP servers are given up after half a minute.
        http_min_bytes_per_sec: u64 = KIB;
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

    /// Rules that concern more than one setting, or more than its form: those that are broken.
    fn check(&self) -> Vec<BrokenRule> {
        let Self { limits, .. } = self;
        let mut broken = Vec::new();
        let mut rule = |kept: bool, keys: &'static [&'static str], problem: &dyn Fn() -> String| {
            if !kept {
                broken.push(BrokenRule { keys, problem: problem() });
            }
        };
        for host in &self.allowed_hosts {
            if let Some(problem) = value::host_problem(host) {
                rule(false, &["allowed_hosts"], &|| format!("'{host}': {problem}"));
            }
        }
        for node in self.discovery.dht_bootstrap.iter().flatten() {
            if let Some(problem) = value::node_problem(node) {
                // What stands before an `@` is a secret, whatever it was meant for.
                let shown = node.rsplit_once('@').map_or(node.clone(), |(_, place)| format!("…@{place}"));
                rule(false, &["discovery.dht_bootstrap"], &|| format!("'{shown}': {problem}"));
            }
        }
        if let Some(problem) = value::name_problem(&self.name) {
            rule(false, &["name"], &|| problem.clone());
        }
        for (text, file, keys) in [
            (
                self.sync_passphrase.is_some(),
                self.sync_passphrase_file.is_some(),
                &["sync_passphrase_file", "sync_passphrase"],
            ),
            (
                self.sync_api_key.is_some(),
                self.sync_api_key_file.is_some(),
                &["sync_api_key_file", "sync_api_key"],
            ),
        ] {
            rule(!(text && file), keys, &|| format!("{} is set as well: keep one of the two", keys[1]));
        }
        let addr = self.listen_addr;
        rule(
            addr.ip().is_loopback() || self.api_token_file.is_some(),
            &["listen_addr", "api_token_file"],
            &|| {
                format!(
                    "{addr} can be reached from other machines: set api_token_file, or listen on 127.0.0.1"
                )
            },
        );
        rule(
            self.can_service_url.is_none() || self.store.content.0.is_none(),
            &["store.content", "can_service_url"],
            &|| {
                "the external CAN Service keeps the contents: set store.content there, or leave can_service_url out"
                    .to_owned()
            },
        );
        let can_addr = self.can_listen_addr;
        rule(
            self.can_service_url.is_some() || !overlap(addr, can_addr),
            &["can_listen_addr", "listen_addr", "can_service_url"],
            &|| format!("{can_addr} is taken by listen_addr: give each its own port"),
        );
        limits.check(&mut rule);
        broken
    }
}

impl Limits {
    /// Lowers defaults to what was said to be the most of it: nobody has to name a part of it as well.
    fn follow(&mut self, is_said: impl Fn(&str) -> bool) {
        if !is_said("limits.max_dialled") {
            self.max_dialled = self.max_dialled.min(self.max_connections);
        }
        if !is_said("limits.in_flight_per_peer_bytes") {
            let most = self.in_flight_bytes.max(IN_FLIGHT_BYTES_MIN);
            self.in_flight_per_peer_bytes = self.in_flight_per_peer_bytes.min(most);
        }
    }

    fn check(&self, rule: &mut RuleCheck<'_>) {
        const PER_PEER: &str = "limits.in_flight_per_peer_bytes";
        rule(self.scrub_bytes_per_sec >= 64 * KIB, &["limits.scrub_bytes_per_sec"], &|| {
            "expected at least 64 KiB, or a scrub comes to no end; scrub_interval_days: 0 turns it off"
                .to_owned()
        });
        for (keys, rate) in [
            (&["limits.upload_bytes_per_sec"], self.upload_bytes_per_sec),
            (&["limits.download_bytes_per_sec"], self.download_bytes_per_sec),
        ] {
            rule(rate.is_none_or(|rate| rate >= KIB), keys, &|| {
                "expected at least 1 KiB, or nothing can move; null is no limit".to_owned()
            });
        }
        let most = self.max_connections;
        rule(self.max_dialled <= most, &["limits.max_dialled", "limits.max_connections"], &|| {
            format!("expected at most max_connections, which is {most}")
        });
        let (per_peer, all) = (self.in_flight_per_peer_bytes, self.in_flight_bytes);
        for (keys, bytes) in [(&[PER_PEER], per_peer), (&["limits.in_flight_bytes"], all)] {
            rule(bytes >= IN_FLIGHT_BYTES_MIN, keys, &|| {
                "expected at least 256 KiB, or nothing can move".to_owned()
            });
        }
        rule(self.http_connections >= 16, &["limits.http_connections"], &|| {
            "expected at least 16, or programs and the page take turns".to_owned()
        });
        let most = all.max(IN_FLIGHT_BYTES_MIN);
        rule(per_peer <= most, &[PER_PEER, "limits.in_flight_bytes"], &|| {
            format!("expected at most in_flight_bytes, which is {all}")
        });
        let longest = self.dial_backoff_max;
        rule(
            self.dial_backoff_min <= longest,
            &["limits.dial_backoff_min_secs", "limits.dial_backoff_max_secs"],
            &|| format!("expected at most dial_backoff_max_secs, which is {}", longest.as_secs()),
        );
    }
}

/// Takes note of a rule that is not kept: whether it is, the settings that it compares, and what is wrong if not.
type RuleCheck<'a> = dyn FnMut(bool, &'static [&'static str], &dyn Fn() -> String) + 'a;

/// A rule that a configuration breaks.
struct BrokenRule {
    /// The settings that it compares: first the one that it is about. Blamed is the first of them that somebody said.
    keys: &'static [&'static str],
    problem: String,
}

/// Whether two listeners would want the same port of the same address.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_ip
}
