//! Ports of a node that is down, kept from everybody else: it comes back on them, and other tests take any that are free.

use std::net::{SocketAddr, UdpSocket};

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
        // A child that is just being started may still have a copy of the listener, or of this: that keeps nobody from the port.
        let tcp = TcpSocket::new_v4().ok();
        let tcp = tcp.filter(|socket| socket.set_reuseaddr(true).is_ok() && socket.bind(api).is_ok());
        Self { _udp: udp, _tcp: tcp }
    }
}
