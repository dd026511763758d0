//! Serves a router on a listener: bounded in connections, in the time a client may stall, and in the time that a
//! shutdown may take.
//!
//! Connections belong to the future that [`serve`] returns: dropping it closes them all. A client that stops reading
//! is cut after half a minute; one that stops sending is cut by the reader of its body. When an answer leaves before the
//! whole request has arrived (an upload that is refused, say), the rest is read and thrown away for a moment, so that
//! the client gets to see the answer rather than a reset.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, FromRequestParts};
use axum::http::Request;
use axum::http::request::Parts;
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Open connections of one server. Further clients wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1024;
/// Clients that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long a client may take for the head of a request, and how long an idle connection stays open. Longer than
/// clients and proxies keep theirs (a minute, as a rule), so that they do not send a request into a connection that is
/// just closing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may read nothing while an answer waits for it.
const STALL: Duration = Duration::from_secs(30);
/// How long answers that are under way may take once a shutdown has begun.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a request that was answered early is read and thrown away, and for how long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Tells endless answers (event streams) that the server is closing. Never fires outside [`serve`].
#[derive(Clone, Debug, Default)]
pub struct Closing(CancellationToken);

impl Closing {
    /// Resolves once the server closes.
    pub async fn closed(&self) {
        self.0.cancelled().await;
    }
}

impl<S: Sync> FromRequestParts<S> for Closing {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// An address at which nobody can listen.
#[derive(Debug)]
pub struct ListenError {
    pub addr: SocketAddr,
    /// What the system said.
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
pub struct SharedListener(pub(crate) Arc<std::net::TcpListener>);

impl SharedListener {
    /// Binds `addr`; port 0 takes a free one. `[::]` takes IPv4, too, whatever the system does by default.
    ///
    /// # Errors
    /// The port is in use (and of which family), the address is not ours.
    pub fn bind(addr: SocketAddr) -> Result<Self, ListenError> {
        let takes_both = addr.is_ipv6() && addr.ip().is_unspecified();
        let listener = listen_on(addr, !takes_both).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(Self(Arc::new(socket.into())))
        });
        listener.map_err(|source| {
            // Where IPv6 alone can be had, IPv4 is to blame.
            let is_of_ipv4 =
                takes_both && source.kind() == io::ErrorKind::AddrInUse && listen_on(addr, true).is_ok();
            let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            ListenError { addr: if is_of_ipv4 { ipv4 } else { addr }, source }
        })
    }

    /// The address in use, with the port that was taken.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The URL under which it is reached from this machine.
    ///
    /// # Errors
    /// What the system says.
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
    ///
    /// # Errors
    /// What the system says: typically too many open files.
    pub fn duplicate(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.0.try_clone()?)
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

/// Serves until `shutdown` resolves, then lets answers that are under way finish: event streams end at once, the rest
/// has ten seconds.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let closing = Closing::default();
    let router = router.layer(Extension(closing.clone()));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, permit) = accept(&listener, &permits) => {
                connections.spawn(connection(stream, permit, router.clone(), closing.clone()));
            }
        }
    }
    drop(listener);
    closing.0.cancel();
    let drained = timeout(SHUTDOWN_TIMEOUT, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "closing connections that did not finish in time");
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
            // The semaphore is never closed; if it were, nobody could be let in.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, permit: OwnedSemaphorePermit, router: Router, closing: Closing) {
    let _permit = permit;
    // Answers are small and someone waits for each.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let router = TowerToHyperService::new(router);
    // Boxed because hyper hands the socket back only when the futures can be moved.
    let service =
        service_fn(|request: Request<Incoming>| -> BoxFuture<'static, Result<Response, Infallible>> {
            router.call(request).boxed()
        });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(StallIo::new(stream)), service);
    let mut closed = pin!(closing.closed().fuse());
    let mut told = false;
    let ended = poll_fn(|cx| {
        if !told && closed.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    })
    .await;
    match ended {
        // While shutting down there is no time for that, and idle clients would be waited for.
        Ok(()) if told => {}
        Ok(()) => linger(connection.into_parts().io.into_inner().stream).await,
        Err(error) => tracing::debug!(%error, "a connection ended early"),
    }
}

/// Closes our side, then reads what the client is still sending. Closing a socket with unread bytes resets it, and a
/// reset can overtake the answer.
async fn linger(mut stream: TcpStream) {
    let discard = async {
        stream.shutdown().await?;
        let mut left = LINGER_BYTES;
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        io::Result::Ok(())
    };
    // Whatever happens here, the answer has been given.
    let _ = timeout(LINGER_TIMEOUT, discard).await;
}

/// A stream that fails when the other side takes nothing for [`STALL`].
struct StallIo {
    stream: TcpStream,
    blocked: Option<Pin<Box<Sleep>>>,
}

impl StallIo {
    fn new(stream: TcpStream) -> Self {
        Self { stream, blocked: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.blocked = None;
            return poll;
        }
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl AsyncRead for StallIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for StallIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
