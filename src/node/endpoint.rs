//! The QUIC endpoint, and the ticket that says where it is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use iroh::endpoint::{QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, RelayMode, SecretKey, TransportAddr, Watcher as _};
use iroh_tickets::endpoint::EndpointTicket;
use tokio::sync::watch;

use crate::peer::establish::ALPN;

/// Window of one stream. iroh 1.4 ends connections whose streams have 4 MiB or more ("too many gaps"), so long paths
/// use parallel streams instead.
const STREAM_WINDOW: u32 = 1_250_000;
/// Window of a connection: what all its streams may have in flight. Unlimited by default.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The same until the other side has proved itself: what strangers send waits in memory, too.
const UNPROVED_WINDOW: u32 = 128 * 1024;
/// A connection without a sign of life for so long is over.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Signs of life while nothing else is said.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Opens the endpoint. `streams_max` bounds the streams that a peer may have open, of each kind.
///
/// # Errors
/// What the system says, usually that the UDP port is taken.
pub async fn bind(
    key: SecretKey,
    bind_addr: SocketAddr,
    relay_mode: RelayMode,
    streams_max: u32,
) -> Result<Endpoint, String> {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(streams_max))
        .max_concurrent_uni_streams(VarInt::from_u32(streams_max))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(UNPROVED_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().map_err(|e| format!("{e}"))?))
        .keep_alive_interval(KEEP_ALIVE)
        .build();
    // The preset with n0's lookup services would publish this node's addresses to their DNS.
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(key)
        .alpns(vec![ALPN.to_vec()])
        .relay_mode(relay_mode)
        .transport_config(transport)
        .clear_ip_transports()
        .bind_addr(bind_addr)
        .map_err(|e| e.to_string())?;
    if bind_addr == SocketAddr::from(([0, 0, 0, 0], bind_addr.port())) {
        // Any IPv4 address means any address: IPv6 too, where the machine has it.
        builder = builder
            .bind_addr_with_opts(
                SocketAddr::from(([0_u16; 8], 0)),
                iroh::endpoint::BindOpts::default().set_is_required(false),
            )
            .map_err(|e| e.to_string())?;
    }
    builder.bind().await.map_err(|e| format!("{e:#}"))
}

/// Follows the endpoint's addresses: the ticket is always current.
pub fn follow_ticket(endpoint: &Endpoint) -> (watch::Receiver<String>, impl Future<Output = ()> + use<>) {
    let (sender, receiver) = watch::channel(ticket(endpoint));
    let endpoint = endpoint.clone();
    let task = async move {
        let mut addrs = endpoint.watch_addr();
        while addrs.updated().await.is_ok() {
            sender.send_replace(ticket(&endpoint));
        }
    };
    (receiver, task)
}

/// The endpoint's addresses as of now. On a machine without a network, and for a socket bound to loopback, the
/// loopback address is all there is, and it is what a second node on the same machine needs.
fn ticket(endpoint: &Endpoint) -> String {
    let mut addr = endpoint.addr();
    if !addr.addrs.iter().any(TransportAddr::is_ip) {
        addr.addrs.extend(endpoint.bound_sockets().into_iter().map(|socket| {
            let ip = match socket.ip() {
                ip if !ip.is_unspecified() => ip,
                IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
                IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            };
            TransportAddr::Ip(SocketAddr::new(ip, socket.port()))
        }));
    }
    EndpointTicket::new(addr).to_string()
}
