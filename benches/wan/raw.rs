//! Bare iroh endpoints on a path: one stream on a connection, and nothing done with what comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use can_sync::testing::net::SESSION_ALPN;
use iroh::endpoint::{Connection, ControllerFactory, QuicTransportConfig, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, TransportAddr};
use tokio::time::timeout;

use super::forwarder::{Forwarder, Way};
use super::support::{Result, patience};
use super::{PATIENCE, Path};

pub(super) type Controller = Arc<dyn ControllerFactory + Send + Sync>;

/// How often the round trip is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const CHUNK_BYTES: usize = 64 << 10;

pub(super) fn bbr3() -> Controller {
    Arc::new(noq_proto::congestion::Bbr3Config::default())
}

pub(super) fn addr_of(id: EndpointId, addr: SocketAddr) -> EndpointAddr {
    EndpointAddr::from_parts(id, [TransportAddr::Ip(addr)])
}

pub(super) async fn bind(addr: &str, controller: Option<Controller>) -> Result<Endpoint> {
    let mut transport = QuicTransportConfig::builder();
    if let Some(controller) = controller {
        transport = transport.congestion_controller_factory(controller);
    }
    let builder = Endpoint::builder(presets::Minimal)
        .alpns(vec![SESSION_ALPN.to_vec()])
        .relay_mode(RelayMode::Disabled)
        .transport_config(transport.build())
        .clear_ip_transports();
    Ok(builder.bind_addr(addr)?.bind().await?)
}

/// A far end, and the path to it.
pub(super) struct Far {
    endpoint: Endpoint,
    forwarder: Option<Forwarder>,
    pub(super) addr: EndpointAddr,
}

impl Far {
    pub(super) async fn start(path: &Path, seed: u64, controller: Option<Controller>) -> Result<Self> {
        let endpoint = bind(if path.is_loopback() { "127.0.0.1:0" } else { "[::1]:0" }, controller).await?;
        let to = *endpoint.bound_sockets().first().ok_or("not bound")?;
        let forwarder = if path.is_loopback() { None } else { Some(path.forwarder(to, seed)?) };
        let addr = addr_of(endpoint.id(), forwarder.as_ref().map_or(to, Forwarder::addr));
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move { answer(incoming.await?).await });
            }
        });
        Ok(Self { endpoint, forwarder, addr })
    }

    /// The share of what came to the bottleneck that found no room in its queue, on the way there.
    fn overflowed(&self) -> f64 {
        let counts =
            self.forwarder.as_ref().map(|forwarder| forwarder.counts(Way::There)).unwrap_or_default();
        super::support::figures::ratio(counts.overflowed, counts.came.max(1))
    }

    pub(super) async fn close(self) {
        self.endpoint.close().await;
    }
}

/// Takes what comes, and sends as much back as its first eight bytes ask for.
async fn answer(connection: Connection) -> Result<()> {
    let mut stream = connection.accept_uni().await?;
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted).await?;
    while let Some(chunk) = stream.read_chunk(256 << 10).await? {
        std::hint::black_box(chunk);
    }
    let wanted = u64::from_le_bytes(wanted);
    if wanted > 0 {
        write(&connection, &[], wanted).await?;
    }
    connection.closed().await;
    Ok(())
}

/// Sends so many bytes until all are acknowledged.
async fn write(connection: &Connection, first: &[u8], bytes: u64) -> Result<()> {
    let mut stream = connection.open_uni().await?;
    stream.write_all(first).await?;
    let chunk = bytes::Bytes::from(vec![7; CHUNK_BYTES]);
    for _ in 0..bytes / chunk.len() as u64 {
        stream.write_chunk(chunk.clone()).await?;
    }
    stream.finish()?;
    stream.stopped().await?;
    Ok(())
}

/// Writes until the connection ends, and counts what the stream takes: its window bounds what of that is not there yet.
pub(super) async fn write_on(connection: Connection, taken: Arc<AtomicU64>) -> Result<()> {
    let mut stream = connection.open_uni().await?;
    stream.write_all(&0_u64.to_le_bytes()).await?;
    let chunk = bytes::Bytes::from(vec![7; CHUNK_BYTES]);
    while stream.write_chunk(chunk.clone()).await.is_ok() {
        taken.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// How a stream fared.
pub(super) struct Sent {
    /// From the dial until all was acknowledged.
    pub(super) took: Duration,
    /// Median of the round trip as the sender knew it.
    pub(super) round_trip: Duration,
    pub(super) overflowed: f64,
}

pub(super) async fn one_way(
    path: &Path,
    seed: u64,
    bytes: u64,
    controller: Option<Controller>,
) -> Result<Sent> {
    let far = Far::start(path, seed, None).await?;
    let near = bind("127.0.0.1:0", controller).await?;
    let started = Instant::now();
    let sent = timeout(patience(bytes) * PATIENCE, async {
        let connection = near.connect(far.addr.clone(), SESSION_ALPN).await?;
        let mut round_trips = Vec::new();
        let looks = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                round_trips.extend(connection.paths().iter().map(|path| path.stats().rtt).max());
            }
        };
        let nothing = 0_u64.to_le_bytes();
        tokio::select! {
            written = write(&connection, &nothing, bytes) => written?,
            () = looks => {}
        }
        let took = started.elapsed();
        round_trips.sort_unstable();
        let round_trip = round_trips.get(round_trips.len() / 2).copied().unwrap_or_default();
        connection.close(0_u32.into(), b"done");
        Result::Ok(Sent { took, round_trip, overflowed: far.overflowed() })
    });
    let sent = sent.await??;
    tokio::join!(near.close(), far.close());
    Ok(sent)
}

/// So many bytes each way at once, on a connection for each direction; from the dial until both have everything.
pub(super) async fn both_ways(
    path: &Path,
    seed: u64,
    bytes: u64,
    controller: Option<Controller>,
) -> Result<Duration> {
    let far = Far::start(path, seed, controller.clone()).await?;
    let near = bind("127.0.0.1:0", controller).await?;
    let started = Instant::now();
    let there = async {
        let connection = near.connect(far.addr.clone(), SESSION_ALPN).await?;
        write(&connection, &0_u64.to_le_bytes(), bytes).await?;
        Result::Ok(connection)
    };
    let back = async {
        let connection = near.connect(far.addr.clone(), SESSION_ALPN).await?;
        write(&connection, &bytes.to_le_bytes(), 0).await?;
        let mut stream = connection.accept_uni().await?;
        while let Some(chunk) = stream.read_chunk(256 << 10).await? {
            std::hint::black_box(chunk);
        }
        Result::Ok(connection)
    };
    let ends = timeout(patience(bytes) * PATIENCE, async { tokio::try_join!(there, back) }).await??;
    let took = started.elapsed();
    for connection in [ends.0, ends.1] {
        connection.close(0_u32.into(), b"done");
    }
    tokio::join!(near.close(), far.close());
    Ok(took)
}
