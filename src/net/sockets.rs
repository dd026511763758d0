//! Which UDP sockets an address stands for, and why one of them cannot be opened.
//!
//! An address that names no interface (`0.0.0.0`, `[::]`) stands for both families of addresses, on the same port: a rule in a
//! firewall or a router is made for a port, and peers reach this machine by whichever family they have.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Ports tried for one that is free in both families; after so many, they have different ones.
const TRIES: usize = 16;

/// A UDP socket that cannot be opened.
#[derive(Debug)]
pub struct UdpError {
    pub addr: SocketAddr,
    pub source: io::Error,
}

impl fmt::Display for UdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, source } = self;
        let family = if addr.is_ipv4() { "IPv4" } else { "IPv6" };
        if source.kind() == io::ErrorKind::AddrInUse {
            write!(f, "the UDP address {addr} ({family}) is in use")
        } else {
            write!(f, "cannot open the UDP socket {addr} ({family}): {source}")
        }
    }
}

impl std::error::Error for UdpError {}

/// The address of the other family that an address stands for as well.
pub fn counterpart(addr: SocketAddr) -> Option<SocketAddr> {
    let (ip, port) = (addr.ip(), addr.port());
    ip.is_unspecified().then(|| match addr {
        SocketAddr::V4(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    })
}

/// Whether this machine has addresses of the family of `addr`.
pub fn has_family(addr: SocketAddr) -> bool {
    open(match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    })
    .is_ok()
}

/// Whether every socket that `addr` stands for can be opened now. One of a family that the machine lacks is passed over.
pub fn check(addr: SocketAddr) -> Result<(), UdpError> {
    let failed = |addr| move |source| UdpError { addr, source };
    let _first = open(addr).map_err(failed(addr))?;
    match counterpart(addr).filter(|other| other.port() != 0 && has_family(*other)) {
        Some(other) => open(other).map(drop).map_err(failed(other)),
        None => Ok(()),
    }
}

/// A port that is free in both families now, for an address that leaves it open and stands for both.
pub fn common_port(addr: SocketAddr) -> Option<u16> {
    let other = counterpart(addr).filter(|other| addr.port() == 0 && has_family(*other))?;
    (0..TRIES).find_map(|_| {
        let socket = open(addr).ok()?;
        let port = socket.local_addr().ok()?.as_socket()?.port();
        open(SocketAddr::new(other.ip(), port)).ok().map(|_| port)
    })
}

/// Opens a socket of one family, as the endpoint does.
fn open(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn port(socket: &Socket) -> u16 {
        socket.local_addr().unwrap().as_socket().unwrap().port()
    }

    #[test]
    fn no_interface_means_both_families_on_one_port() {
        assert_eq!(counterpart(addr("0.0.0.0:7777")), Some(addr("[::]:7777")));
        assert_eq!(counterpart(addr("[::]:7777")), Some(addr("0.0.0.0:7777")));
        for one in ["127.0.0.1:7777", "[::1]:7777", "10.0.0.7:0"] {
            assert_eq!(counterpart(addr(one)), None);
        }
    }

    #[test]
    fn a_port_that_is_taken_in_either_family_is_named() {
        let families = ["0.0.0.0:0", "[::]:0"].map(addr).into_iter().filter(|any| has_family(*any));
        let families: Vec<SocketAddr> = families.collect();
        for taken in &families {
            let socket = open(*taken).unwrap();
            let at = |any: &SocketAddr| SocketAddr::new(any.ip(), port(&socket));
            for asked in &families {
                let error = check(at(asked)).unwrap_err();
                assert_eq!(error.addr, at(taken), "asked for {asked}");
                assert!(error.to_string().contains("in use"), "{error}");
            }
            check(SocketAddr::new(taken.ip(), 0)).unwrap();
        }
    }

    #[test]
    fn a_port_is_found_for_both_families() {
        for any in ["0.0.0.0:0", "[::]:0"].map(addr) {
            let both = has_family(any) && has_family(counterpart(any).unwrap());
            let port = common_port(any);
            assert_eq!(port.is_some(), both);
            if let Some(port) = port {
                check(SocketAddr::new(any.ip(), port)).unwrap();
            }
        }
        assert_eq!(common_port(addr("127.0.0.1:0")), None);
    }
}
