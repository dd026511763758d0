//! Ports of a node that is down, kept from everybody else: it comes back on them, and other tests take any that are free.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::IntoRawFd as _;

use iroh::EndpointAddr;
use iroh_tickets::endpoint::EndpointTicket;
use tokio::net::TcpSocket;

/// Nobody is heard on them, and nobody else gets them, until this is dropped.
pub(crate) struct KeptPorts {
    _udp: Vec<UdpSocket>,
    _tcp: Option<TcpSocket>,
}

impl KeptPorts {
    /// Those of the endpoint that a ticket leads to, and of an API. One that somebody else was quicker to take is not kept.
    pub(crate) fn of(ticket: &str, api: SocketAddr) -> Self {
        let addr: EndpointAddr = ticket.parse::<EndpointTicket>().expect("a ticket").into();
        let udp = addr.ip_addrs().filter_map(|addr| UdpSocket::bind(addr).ok()).collect();
        // It does not listen: whoever connects is refused, as by a port that nobody has.
        Self { _udp: udp, _tcp: kept(api) }
    }
}

/// Reserves a port of a server that is down: no other test gets it, and that server can bind it again.
pub(crate) fn kept(addr: SocketAddr) -> Option<TcpSocket> {
    // A child that is just being started may still have a copy of the listener, or of this: that keeps nobody from the port.
    let socket = TcpSocket::new_v4().ok()?;
    (socket.set_reuseaddr(true).is_ok() && socket.bind(addr).is_ok()).then_some(socket)
}

/// An address at which nobody listens, nor will before the tests are over.
pub(crate) fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = socket.local_addr().expect("an address");
    // It stays bound, for others take any port that is free.
    let _ = socket.into_raw_fd();
    addr
}
