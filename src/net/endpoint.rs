//! The QUIC endpoint, and the ticket that says where it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{
    BindOpts, ConnectOptions, Connection, ConnectionError, Incoming, IncomingAddr, Path, PathList,
    QuicTransportConfig, ServerConfig, VarInt, presets,
};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, Signature, TransportAddr, Watcher as _,
};
use iroh_gossip::net::GOSSIP_ALPN;
use iroh_tickets::endpoint::EndpointTicket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::congestion::ByRoundTrip;
use super::gate::Gate;
use super::handshakes::{Pending, RemoteNet};
use super::{BULK_ALPN, LIST_PEERS_ALPN, SESSION_ALPN, close, sockets};

/// Window of one stream. noq 1.4 ends the connection ("too many gaps") of a peer that lets more than 1,024 full packets wait on a
/// stream, with or without a gap between them. A packet of the smallest allowed size carries over 1,024 bytes, so a whole
/// window of them is fewer. Long paths use parallel streams instead of a larger window.
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// What we have in flight to a peer, all streams together. Unlimited by default.
const SEND_WINDOW: u32 = 16 * 1024 * 1024;
/// What a peer may have in flight as soon as it has proved itself, until it has its share beside the others.
const FIRST_WINDOW: u32 = 2 * 1024 * 1024;
/// What a peer may have in flight before it proved itself, and the streams that it may open: a control stream, and one
/// more when both sides begin at once.
const STRANGER_WINDOW: u32 = 64 * 1024;
const STRANGER_STREAMS: u32 = 2;
/// Streams that gossip may have from a peer: one per topic, and one more while it is replaced.
const GOSSIP_STREAMS: u32 = 4;
const ALPNS: [&[u8]; 4] = [SESSION_ALPN, BULK_ALPN, GOSSIP_ALPN, LIST_PEERS_ALPN];
/// A connection without a sign of life for so long is over.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Signs of life while nothing else is said.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// A connection that is alive shows a sign of it within this time: each end sends one every [`KEEP_ALIVE`], and confirms those of
/// the other end.
const ALIVE_WITHIN: Duration = Duration::from_secs(6);
/// How often it is looked for.
const ALIVE_LOOK: Duration = Duration::from_millis(200);
/// Limit of finding out who answers at some addresses; and for a connection that came in at this node itself to be closed by it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(8);
const ANSWER_ENDS_WITHIN: Duration = Duration::from_secs(8);
/// For a machine to look at a connection that says by its end that there are two with one id.
const DOUBLE_TOLD_AFTER: Duration = Duration::from_secs(1);

/// Takes over a connection whose ALPN is not a session's; with the place that it has until it proved itself.
pub type ProtocolHandler = Arc<dyn Fn(Connection, Pending) + Send + Sync>;

/// What else is spoken on this endpoint, by ALPN.
pub type Protocols = Arc<[(&'static [u8], ProtocolHandler)]>;

/// Streams that the other end may open.
#[derive(Clone, Copy)]
struct TheirStreams {
    bidirectional: u32,
    unidirectional: u32,
}

impl TheirStreams {
    /// On a connection that is opened for a session, or by gossip.
    const DIALLED: Self = Self { bidirectional: STRANGER_STREAMS, unidirectional: GOSSIP_STREAMS };
    /// On one that comes in.
    const STRANGER: Self = Self { bidirectional: STRANGER_STREAMS, unidirectional: 0 };
    /// On one for contents that we send.
    const NONE: Self = Self { bidirectional: 0, unidirectional: 0 };
}

/// What every connection begins with: a small window, and these streams. `within_machine` says that both ends are here.
fn transport(streams: TheirStreams, within_machine: bool) -> QuicTransportConfig {
    let congestion = if within_machine { ByRoundTrip::within_machine() } else { ByRoundTrip::default() };
    let mut builder = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(streams.bidirectional))
        .max_concurrent_uni_streams(VarInt::from_u32(streams.unidirectional))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .send_window(u64::from(SEND_WINDOW))
        .congestion_controller_factory(Arc::new(congestion))
        .keep_alive_interval(KEEP_ALIVE);
    // A time that fits, by far.
    if let Ok(timeout) = IDLE_TIMEOUT.try_into() {
        builder = builder.max_idle_timeout(Some(timeout));
    }
    builder.build()
}

/// Whether anything comes on a connection within six seconds.
pub async fn is_alive(connection: &Connection) -> bool {
    let received = || connection.stats().udp_rx.datagrams;
    let before = received();
    let comes = async {
        while received() == before {
            sleep(ALIVE_LOOK).await;
        }
    };
    tokio::select! {
        biased;
        _ = connection.closed() => false,
        came = timeout(ALIVE_WITHIN, comes) => came.is_ok(),
    }
}

/// Connects to the id in `addr` at its addresses, by an endpoint of its own with this key.
async fn knock(key: SecretKey, addr: EndpointAddr) -> Option<(Endpoint, Option<Connection>)> {
    let loopback = addr.ip_addrs().all(|addr| addr.ip().is_loopback());
    let from = if loopback { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([0, 0, 0, 0]) };
    let endpoint = bind(key, SocketAddr::new(from, 0), RelayMode::Disabled).await.ok()?;
    let connected = timeout(ANSWERED_WITHIN, connect(&endpoint, addr)).await;
    Some((endpoint, connected.ok().and_then(Result::ok)))
}

/// Whether somebody answers by the id in `addr` at its addresses; asked by an endpoint with this key, which nobody else knows.
pub async fn is_answered(key: SecretKey, addr: EndpointAddr) -> bool {
    let Some((endpoint, connection)) = knock(key, addr).await else { return false };
    let mut found = false;
    if let Some(connection) = connection {
        // Only who has finished the handshake can say why it ends, as it does with a stranger that says nothing: packets of ours
        // that somebody passes on, to ourselves perhaps, are no answer.
        let ended = timeout(ANSWER_ENDS_WITHIN, connection.closed()).await;
        found = matches!(ended, Ok(ConnectionError::ApplicationClosed(_)));
    }
    endpoint.close().await;
    found
}

/// Tells the machine at `addr` that has the same endpoint key as we, `own`, that there are two. A connection of a stranger's ends
/// with a signature that nobody else can make.
pub async fn tell_double(own: &SecretKey, addr: EndpointAddr) {
    let Some((endpoint, connection)) = knock(SecretKey::generate(), addr).await else { return };
    if let Some(connection) = connection {
        // What ends before it was looked at is not seen.
        let _ = timeout(DOUBLE_TOLD_AFTER, connection.closed()).await;
        if let Some(binding) = double_binding(&connection) {
            connection.close(VarInt::from_u32(close::DOUBLED), &own.sign(&binding).to_bytes());
        }
    }
    endpoint.close().await;
}

/// Whether a connection ended as [`tell_double`] ends it, by a machine that has the key of `own_id`.
pub fn is_told_by_double(connection: &Connection, own_id: EndpointId) -> bool {
    let Some(ConnectionError::ApplicationClosed(ended)) = connection.close_reason() else { return false };
    let signature = <[u8; Signature::LENGTH]>::try_from(ended.reason.as_ref()).ok();
    let (Some(signature), Some(binding)) = (signature, double_binding(connection)) else { return false };
    ended.error_code == VarInt::from_u32(close::DOUBLED)
        && own_id.verify(&binding, &Signature::from_bytes(&signature)).is_ok()
}

/// What such a signature is of: this connection alone.
fn double_binding(connection: &Connection) -> Option<[u8; 32]> {
    let mut binding = [0; 32];
    connection.export_keying_material(&mut binding, b"can-sync 2026 v3 doubled", b"").ok()?;
    Some(binding)
}

/// How connections are accepted: with what a stranger may have, whatever it says it wants.
pub fn strangers(endpoint: &Endpoint) -> Arc<ServerConfig> {
    server(endpoint, false)
}

/// As [`strangers`], from this machine.
pub fn strangers_within_machine(endpoint: &Endpoint) -> Arc<ServerConfig> {
    server(endpoint, true)
}

fn server(endpoint: &Endpoint, within_machine: bool) -> Arc<ServerConfig> {
    let alpns = ALPNS.iter().map(|alpn| alpn.to_vec()).collect();
    let transport = transport(TheirStreams::STRANGER, within_machine);
    Arc::new(endpoint.create_server_config_builder(alpns).set_transport_config(transport).build())
}

/// Where a connection that comes in comes from, and whether it has shown that: a relay says whose packets it passes on.
pub fn remote_net(incoming: &Incoming) -> (RemoteNet, bool) {
    match incoming.remote_addr() {
        IncomingAddr::Ip(addr) => (RemoteNet::of(addr), incoming.remote_addr_validated()),
        IncomingAddr::Relay { endpoint_id, .. } => (RemoteNet::Relayed(endpoint_id), true),
        IncomingAddr::Custom(_) | _ => (RemoteNet::Other, incoming.remote_addr_validated()),
    }
}

/// Whether a connection that comes in comes from this machine.
pub fn is_from_machine(incoming: &Incoming) -> bool {
    matches!(incoming.remote_addr(), IncomingAddr::Ip(addr) if addr.ip().is_loopback())
}

fn is_within_machine(addr: &EndpointAddr) -> bool {
    let is_loopback =
        |addr: &TransportAddr| matches!(addr, TransportAddr::Ip(addr) if addr.ip().is_loopback());
    !addr.addrs.is_empty() && addr.addrs.iter().all(is_loopback)
}

/// Opens a connection for a session.
pub async fn connect(endpoint: &Endpoint, addr: EndpointAddr) -> Result<Connection, String> {
    let mut options = ConnectOptions::new();
    if is_within_machine(&addr) {
        options = options.with_transport_config(transport(TheirStreams::DIALLED, true));
    }
    let connecting = endpoint.connect_with_opts(addr, SESSION_ALPN, options).await;
    connecting.map_err(|error| format!("{error:#}"))?.await.map_err(|error| format!("{error:#}"))
}

/// Opens a connection for the contents of a session, where the session's connection has its paths. The other end may open
/// no stream on it.
pub async fn connect_bulk(endpoint: &Endpoint, session: &Connection) -> Result<Connection, String> {
    let addr = EndpointAddr::from_parts(session.remote_id(), remote_addrs(session));
    let transport = transport(TheirStreams::NONE, is_within_machine(&addr));
    let options = ConnectOptions::new().with_transport_config(transport);
    let connecting = endpoint.connect_with_opts(addr, BULK_ALPN, options).await;
    connecting.map_err(|error| format!("{error:#}"))?.await.map_err(|error| format!("{error:#}"))
}

/// The path that a connection uses. iroh chooses one for all connections with an endpoint id; where two machines have one id,
/// that may be a path of the other one's connection, and this one uses what it has.
pub fn path_in_use<'a>(paths: &'a PathList<'_>) -> Option<Path<'a>> {
    paths.iter().find(Path::is_selected).or_else(|| paths.iter().next())
}

/// Where the other end of a connection was seen.
pub fn remote_addrs(connection: &Connection) -> Vec<TransportAddr> {
    connection.paths().iter().map(|path| path.remote_addr().clone()).collect()
}

/// Lets an agent that was accepted on gossip's ALPN send: gossip has one unidirectional stream per topic and side.
pub fn open_gossip(connection: &Connection) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(GOSSIP_STREAMS));
}

/// Opens the endpoint: on both families of addresses where `bind_addr` names no interface. A connection begins with what a stranger may have; [`open_up`] gives more. Those that gossip
/// dials by itself begin with its streams, and sessions that we dial do, too.
pub async fn bind(key: SecretKey, bind_addr: SocketAddr, relay_mode: RelayMode) -> Result<Endpoint, String> {
    bind_behind(key, bind_addr, relay_mode, None).await
}

/// As [`bind`], behind a gate.
pub async fn bind_behind(
    key: SecretKey,
    bind_addr: SocketAddr,
    relay_mode: RelayMode,
    gate: Option<Gate>,
) -> Result<Endpoint, String> {
    // The preset with n0's lookup services would publish this node's addresses to their DNS.
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(key)
        .alpns(ALPNS.iter().map(|alpn| alpn.to_vec()).collect())
        .relay_mode(relay_mode)
        .transport_config(transport(TheirStreams::DIALLED, false))
        .clear_ip_transports()
        .bind_addr(bind_addr)
        .map_err(|e| e.to_string())?;
    if let Some(other) = sockets::counterpart(bind_addr) {
        // A port that somebody asked for is this node's in both families, or not at all.
        let is_required = other.port() != 0 && sockets::has_family(other);
        let options = BindOpts::default().set_is_required(is_required);
        builder = builder.bind_addr_with_opts(other, options).map_err(|e| e.to_string())?;
    }
    if let Some(gate) = gate {
        builder = builder.hooks(gate);
    }
    builder.bind().await.map_err(|e| format!("{e:#}"))
}

/// Lets a peer that has proved itself open `streams` streams of each kind. It begins with the window of `FIRST_WINDOW`.
pub fn open_up(connection: &Connection, streams: u32) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(streams));
    connection.set_receive_window(VarInt::from_u32(FIRST_WINDOW));
}

/// Lets a peer send contents on a bulk connection, on so many streams at once. It begins with the window of `FIRST_WINDOW`.
pub fn open_up_bulk(connection: &Connection, streams: u32) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(streams));
    connection.set_receive_window(VarInt::from_u32(FIRST_WINDOW));
}

/// Lets a peer have so many bytes on their way to us.
pub fn set_window(connection: &Connection, bytes: u32) {
    connection.set_receive_window(VarInt::from_u32(bytes));
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

/// Whether a ticket leads through a relay as well.
pub fn names_relay(ticket: &str) -> bool {
    let ticket = ticket.parse::<EndpointTicket>();
    ticket.is_ok_and(|ticket| ticket.endpoint_addr().relay_urls().next().is_some())
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
