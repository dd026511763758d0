//! A PeerActor that crashes in the middle of a transfer, in whole nodes: the connection goes on, and so does everything else.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use can_sync::testing::events::NodeEvent;
use can_sync::testing::peer::actor::{PeerActor, PeerState};
use can_sync::testing::peer::args::{PeerArgs, SpawnPeer};
use can_sync::testing::peer::messages::PeerMsg;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use sha2::{Digest as _, Sha256};

use crate::support::nodes::{TestNode, eventually};
use crate::support::store::noise;

/// Every PeerActor is a real one, and each of which may be told to panic instead of handling its next message.
#[derive(Clone, Default)]
struct Crashes(Arc<State>);

#[derive(Default)]
struct State {
    /// Panics to come.
    due: AtomicUsize,
    /// Actors started.
    starts: AtomicUsize,
    /// The connections that they were started on.
    connections: Mutex<HashSet<usize>>,
}

impl Crashes {
    fn spawn_peer(&self) -> SpawnPeer {
        let crashes = self.clone();
        Arc::new(move |args, supervisor| {
            let crashes = crashes.clone();
            Box::pin(async move {
                crashes.0.starts.fetch_add(1, Ordering::Relaxed);
                crashes.0.connections.lock().insert(args.connection.stable_id());
                let (actor, _) = Actor::spawn_linked(None, CrashingPeer(crashes), args, supervisor).await?;
                Ok(actor)
            })
        })
    }

    /// The next message is the last one of its actor.
    fn arm(&self) {
        self.0.due.fetch_add(1, Ordering::Relaxed);
    }

    fn starts(&self) -> usize {
        self.0.starts.load(Ordering::Relaxed)
    }
}

/// A PeerActor with a fuse.
struct CrashingPeer(Crashes);

impl Actor for CrashingPeer {
    type Msg = PeerMsg;
    type State = PeerState;
    type Arguments = PeerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<PeerMsg>,
        args: PeerArgs,
    ) -> Result<PeerState, ActorProcessingErr> {
        PeerActor.pre_start(myself, args).await
    }

    async fn handle(
        &self,
        myself: ActorRef<PeerMsg>,
        message: PeerMsg,
        state: &mut PeerState,
    ) -> Result<(), ActorProcessingErr> {
        let due = &self.0.0.due;
        let crash = due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| due.checked_sub(1)).is_ok();
        assert!(!crash, "planned panic of a PeerActor");
        PeerActor.handle(myself, message, state).await
    }

    async fn post_stop(
        &self,
        myself: ActorRef<PeerMsg>,
        state: &mut PeerState,
    ) -> Result<(), ActorProcessingErr> {
        PeerActor.post_stop(myself, state).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_during_a_transfer_costs_neither_the_connection_nor_an_asset() {
    let (a_crashes, b_crashes) = (Crashes::default(), Crashes::default());
    let (a, b) = tokio::join!(
        // Slow enough that every crash falls into the transfer.
        TestNode::start_with("a", a_crashes.spawn_peer(), |config| {
            config.limits.upload_bytes_per_sec = Some(3_000_000);
        }),
        TestNode::start_with("b", b_crashes.spawn_peer(), |_| {})
    );
    let mut hashes = Vec::new();
    for n in 0..200 {
        // Small ones in packs, large ones in streams of their own.
        let len = if n % 4 == 0 { 600_000 } else { 20_000 };
        hashes.push(a.ingest(noise(len, n), &[("tags", "kept")]).await);
    }
    b.dial(&a).await;
    let there = async || b.assets().await.len();
    let addr = async || b.peer(&a.id()).await["remote_addr"].clone();
    let mut path = None;
    for (round, crashes) in [&a_crashes, &b_crashes, &a_crashes, &b_crashes].into_iter().enumerate() {
        let before = there().await;
        eventually("some more has come", async || {
            let now = there().await;
            (now > before).then_some(()).ok_or_else(|| format!("{now} of 200"))
        })
        .await;
        let path = path.get_or_insert(addr().await);
        let starts = crashes.starts();
        crashes.arm();
        eventually("its actor is there again", async || {
            let now = crashes.starts();
            (now > starts).then_some(()).ok_or_else(|| format!("{now} starts"))
        })
        .await;
        let now = there().await;
        assert!(now < 200, "crash {round} fell into the transfer");
        assert_eq!(addr().await, *path, "the same path");
    }
    eventually("all there", async || {
        let now = there().await;
        (now == 200).then_some(()).ok_or_else(|| now.to_string())
    })
    .await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(a.assets().await, b.assets().await);
    for hash in hashes {
        let content = b.content(&hash).await.unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&content)), hash);
    }
    for (node, crashes) in [(&a, &a_crashes), (&b, &b_crashes)] {
        let events: Vec<NodeEvent> =
            node.node().events().since(0).0.into_iter().map(|logged| logged.event).collect();
        let count = |kind: &str| events.iter().filter(|event| event.name() == kind).count();
        assert_eq!((count("actor_restarted"), count("peer_connected"), count("peer_lost")), (2, 1, 0));
        assert_eq!(crashes.starts(), 3);
        assert_eq!(crashes.0.connections.lock().len(), 1, "one connection all along");
    }
}
