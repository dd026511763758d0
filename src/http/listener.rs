//! A socket that listens for clients, whatever becomes of the servers on it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::serve::ServeLimits;

/// Clients that wait to be accepted.
const BACKLOG: i32 = 1024;

#[derive(Debug)]
pub struct ListenError {
    pub addr: SocketAddr,
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, source } = self;
        if source.kind() == io::ErrorKind::AddrInUse {
            write!(f, "{addr} is in use")
        } else {
            write!(f, "cannot listen on {addr}: {source}")
        }
    }
}

impl std::error::Error for ListenError {}

/// A bound, listening socket that outlives any server on it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedListener {
    pub(crate) listener: Arc<std::net::TcpListener>,
    pub(crate) limits: ServeLimits,
}

impl SharedListener {
    /// Binds `addr`; port 0 takes a free one. `[::]` takes IPv4, too, whatever the system does by default.
    pub fn bind(addr: SocketAddr) -> Result<Self, ListenError> {
        let takes_both = addr.is_ipv6() && addr.ip().is_unspecified();
        let listener = listen_on(addr, !takes_both).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(Self { listener: Arc::new(socket.into()), limits: ServeLimits::default() })
        });
        listener.map_err(|source| {
            // Where IPv6 alone can be had, IPv4 is to blame.
            let is_of_ipv4 =
                takes_both && source.kind() == io::ErrorKind::AddrInUse && listen_on(addr, true).is_ok();
            let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            ListenError { addr: if is_of_ipv4 { ipv4 } else { addr }, source }
        })
    }

    /// The same for clients that may use so much.
    #[must_use]
    pub fn within(self, limits: ServeLimits) -> Self {
        Self { limits, ..self }
    }

    /// The address in use, with the port that was taken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The URL under which it is reached from this machine.
    pub fn local_url(&self) -> io::Result<String> {
        let mut addr = self.local_addr()?;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Ok(format!("http://{addr}"))
    }

    /// A duplicate for one server; dropping it leaves this one open.
    pub fn duplicate(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener.try_clone()?)
    }
}

fn listen_on(addr: SocketAddr, one_family: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(one_family)?;
    }
    // Connections of a process that has ended stay known to the system for a while; they keep no port.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
