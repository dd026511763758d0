//! What PeersActor and its PeerActors are started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, EndpointId};
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::sync::watch;

use super::actor::{PeerActor, SharedView};
use super::deferrals::Deferrals;
use super::delete_guard::DeleteGuard;
use super::establish::{ConnectionMemory, Introduction, Meeting};
use super::held::SessionMemory;
use super::messages::{PeerMsg, PeersMsg};
use super::places::PlaceLimits;
use super::roster::DialLimits;
use crate::actor::ServiceRef;
use crate::discovery::address_book::AddressBook;
use crate::discovery::channel::Channels;
use crate::discovery::directory::SharedDirectory;
use crate::discovery::gossip::GossipMsg;
use crate::discovery::hints::Hints;
use crate::discovery::rendezvous::RendezvousMsg;
use crate::events::EventLog;
use crate::library::Libraries;
use crate::net::bulk::{BulkSessions, InboundWindow};
use crate::net::endpoint::Protocols;
use crate::store::StoreRef;
use crate::transfer::active::ActiveTransfers;
use crate::transfer::pace::Pace;
use crate::transfer::partial::Partials;
use crate::transfer::schedule::{ScheduleLimits, SessionId};
use crate::transfer::send::Traffic;
use crate::transfer::take::Taker;

/// What is shared with peers, and the rules that it is shared by.
#[derive(Clone)]
pub struct Replica {
    pub store: StoreRef,
    pub libraries: Arc<Libraries>,
    pub partials: Partials,
    pub deletes: Arc<DeleteGuard>,
    /// Versions that have to wait, and the clock that says so.
    pub deferrals: Deferrals,
}

/// What discovery tells PeersActor, and hears from it.
#[derive(Clone)]
pub struct DiscoveryLinks {
    pub channels: Channels,
    /// Who is told of sessions and of dials that came to nothing.
    pub gossip: ServiceRef<GossipMsg>,
    /// Who looks peers up that are not where they were.
    pub rendezvous: ServiceRef<RendezvousMsg>,
    pub directory: SharedDirectory,
    /// What discovery found and nobody looked at yet.
    pub hints: Hints,
    /// How many peers are connected: discovery looks less often once somebody is.
    pub connected: watch::Sender<usize>,
}

#[derive(Clone)]
pub struct FirstPeers {
    pub book: AddressBook,
    /// A file with the ticket of a peer to connect to.
    pub connect_ticket_file: Option<PathBuf>,
    pub bootstrap: Vec<EndpointAddr>,
}

#[derive(Clone)]
pub struct PeersLimits {
    pub places: PlaceLimits,
    pub in_flight: ScheduleLimits,
    pub dialling: DialLimits,
    pub session: PeerLimits,
    pub verify_interval: Duration,
    /// How many promises from other places it takes to let go of a content.
    pub min_copies: usize,
}

#[derive(Clone)]
pub struct PeersArgs {
    /// The QUIC endpoint; outlives the actor.
    pub endpoint: Endpoint,
    pub introduction: Introduction,
    pub protocols: Protocols,
    pub replica: Replica,
    pub discovery: DiscoveryLinks,
    pub first: FirstPeers,
    pub limits: PeersLimits,
    pub events: EventLog,
    pub spawn_peer: SpawnPeer,
    /// Ourselves, for the children: leads to whichever incarnation runs.
    pub myself: ServiceRef<PeersMsg>,
}

/// What a PeerActor is started with. The connection and the counters outlive the actor.
#[derive(Clone)]
pub struct PeerArgs {
    pub session: SessionId,
    pub connection: Connection,
    /// What opens connections for contents; its id is ours.
    pub endpoint: Endpoint,
    /// Where connections for contents that the peer opens are let in.
    pub bulk: BulkSessions,
    /// What the peer may have on its way to us.
    pub window: InboundWindow,
    /// Whether this actor opens the control stream: the dialler's does, and one that takes a connection over.
    pub opens: bool,
    /// What is kept of the connection from one control stream to the next.
    pub memory: Arc<ConnectionMemory>,
    /// Whether the mirror is offered to this peer on a control stream that we open.
    pub offers_mirror: bool,
    pub introduction: Introduction,
    pub replica: Replica,
    pub traffic: Arc<Traffic>,
    /// Large contents under way from the peer, and to it.
    pub receiving: ActiveTransfers,
    pub sending: ActiveTransfers,
    /// What PeersActor reads of the session at any time.
    pub board: Arc<Mutex<SharedView>>,
    pub peers: ServiceRef<PeersMsg>,
    pub events: EventLog,
    pub held: SessionMemory,
    pub limits: PeerLimits,
}

impl PeerArgs {
    pub(super) fn meeting(&self) -> Meeting<'_> {
        Meeting {
            connection: &self.connection,
            own_id: self.own_id(),
            libraries: &self.replica.libraries,
            introduction: &self.introduction,
            memory: &self.memory,
            offers_mirror: self.offers_mirror,
            within: self.limits.establish,
        }
    }

    pub(super) fn own_id(&self) -> EndpointId {
        self.endpoint.id()
    }

    pub(super) fn taker(&self) -> Taker {
        Taker { store: Arc::clone(&self.replica.store), libraries: Arc::clone(&self.replica.libraries) }
    }
}

/// How long a session waits, and how fast it may go.
#[derive(Clone, Debug)]
pub struct PeerLimits {
    pub establish: Duration,
    /// Streams of each kind that the peer may have open.
    pub streams: u32,
    /// Without progress, a transfer is given up.
    pub stall: Duration,
    /// Without a word, the peer is asked whether it is there.
    pub probe_after: Duration,
    pub upload: Pace,
    pub download: Pace,
}

/// How a PeerActor is started; tests put another one in its place.
pub type SpawnPeer =
    Arc<dyn Fn(PeerArgs, ActorCell) -> BoxFuture<'static, Result<ActorRef<PeerMsg>, SpawnErr>> + Send + Sync>;

pub fn spawn_peer() -> SpawnPeer {
    Arc::new(|args, supervisor| {
        Box::pin(async move {
            let (actor, _) = Actor::spawn_linked(None, PeerActor, args, supervisor).await?;
            Ok(actor)
        })
    })
}
