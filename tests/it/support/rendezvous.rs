//! RendezvousActor with recording neighbours, and a pkarr that obeys the test.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use can_sync::testing::config::SlotFormat;
use can_sync::testing::discovery::channel::{Channel, ChannelReport, Channels};
use can_sync::testing::discovery::directory::SharedDirectory;
use can_sync::testing::discovery::gossip::GossipMsg;
use can_sync::testing::discovery::network::{Connect, KeyLookup, NetworkError, Transport};
use can_sync::testing::discovery::rendezvous::{RendezvousActor, RendezvousArgs, RendezvousMsg};
use can_sync::testing::discovery::slot::SlotKeys;
use can_sync::testing::discovery::slot::pace::Timing;
use can_sync::testing::identity::NetworkKeys;
use can_sync::testing::peer::messages::PeersMsg;
use futures::future::BoxFuture;
use iroh::{EndpointAddr, EndpointId, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use parking_lot::{Mutex, MutexGuard};
use pkarr::{PublicKey, SignedPacket};
use ractor::{Actor, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::candidates::told_at_once;
use super::probe::Probe;

/// The passphrase of these tests' network, for the format that uses it as it is.
pub(crate) const PASSPHRASE: &str = "otters meet at the eighth lantern";

/// Its keys, which take a while.
pub(crate) static KEYS: LazyLock<NetworkKeys> = LazyLock::new(|| NetworkKeys::derive(&PASSPHRASE.into()));

/// The slots' keys.
pub(crate) fn slot_keys(format: SlotFormat) -> SlotKeys {
    SlotKeys::new(format, &KEYS, &PASSPHRASE.into())
}

/// The endpoint's key of agent `n`.
pub(crate) fn secret_key(n: u16) -> SecretKey {
    let mut bytes = [0x5c; 32];
    bytes[..2].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_bytes(&bytes)
}

/// A RendezvousActor between probes.
pub(crate) struct Agent {
    pub(crate) id: EndpointId,
    pub(crate) args: RendezvousArgs,
    pub(crate) peers: Probe<PeersMsg>,
    pub(crate) connected: watch::Sender<usize>,
    pub(crate) ticket: watch::Sender<String>,
    running: Option<(ActorRef<RendezvousMsg>, JoinHandle<()>)>,
}

impl Agent {
    /// Agent `n`, started.
    pub(crate) async fn start(n: u16, format: SlotFormat, connect: Connect) -> Self {
        let mut agent = Self::prepare(n, format, connect).await;
        agent.run().await;
        agent
    }

    /// Agent `n`, yet to be started.
    pub(crate) async fn prepare(n: u16, format: SlotFormat, connect: Connect) -> Self {
        let peers: Probe<PeersMsg> = Probe::spawn().await;
        let gossip: Probe<GossipMsg> = Probe::spawn().await;
        let channels = Channels::default();
        let secret_key = secret_key(n);
        let (connected, connected_receiver) = watch::channel(0);
        let (ticket, ticket_receiver) = watch::channel(ticket_of(n, 4000 + n));
        let args = RendezvousArgs {
            secret_key: secret_key.clone(),
            slots: slot_keys(format),
            keys: KEYS.clone(),
            connect,
            ticket: ticket_receiver,
            candidates: told_at_once(peers.service(), gossip.service(), channels.clone()),
            channels,
            directory: SharedDirectory::default(),
            connected: connected_receiver,
            timing: Timing::default(),
        };
        Self { id: secret_key.public(), args, peers, connected, ticket, running: None }
    }

    pub(crate) async fn run(&mut self) {
        let started = Actor::spawn(None, RendezvousActor, self.args.clone()).await;
        self.running = Some(started.expect("the actor starts"));
    }

    /// Tells it something.
    pub(crate) fn cast(&self, message: RendezvousMsg) {
        let (actor, _) = self.running.as_ref().expect("it runs");
        actor.cast(message).expect("it takes messages");
    }

    /// What it says of itself.
    pub(crate) async fn detail(&self) -> String {
        let (actor, _) = self.running.as_ref().expect("it runs");
        let answer =
            actor.call(|reply| RendezvousMsg::GetHealth { reply }, Some(Duration::from_mins(1))).await;
        let detail = answer.expect("it runs").expect("it answers in time");
        detail.detail.expect("a line on how it is")
    }

    /// Whom it handed on, with the addresses that it knew.
    pub(crate) fn candidates(&self) -> HashMap<EndpointId, EndpointAddr> {
        self.peers.look(|seen| {
            let candidates = seen.iter().map(|message| match message {
                PeersMsg::Candidate { addr, .. } => (addr.id, addr.clone()),
                other => panic!("not for PeersActor: {other:?}"),
            });
            candidates.collect()
        })
    }

    /// How it says that the channel does.
    pub(crate) fn report(&self, channel: Channel) -> ChannelReport {
        self.args.channels.reports().into_iter().find(|r| r.channel == channel).expect("every channel")
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((actor, ended)) = self.running.take() {
            actor.stop(None);
            ended.await.expect("no panic");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some((actor, _)) = self.running.take() {
            actor.kill();
        }
    }
}

/// A ticket of agent `n` at a port on loopback.
pub(crate) fn ticket_of(n: u16, port: u16) -> String {
    let addr = EndpointAddr::new(secret_key(n).public()).with_ip_addr(([127, 0, 0, 1], port).into());
    EndpointTicket::new(addr).to_string()
}

/// A pkarr in memory: answers at once, remembers every request, and fails as the test likes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakePkarr(Arc<Mutex<FakeState>>);

/// What a [`FakePkarr`] holds.
#[derive(Default)]
pub(crate) struct FakeState {
    /// What is under each key.
    pub(crate) packets: HashMap<[u8; 32], SignedPacket>,
    /// Each request: when, which key, whether it was a write.
    pub(crate) log: Vec<(Instant, [u8; 32], bool)>,
    /// Every request fails.
    pub(crate) down: bool,
    /// The next request panics.
    pub(crate) panics: bool,
    /// How many requests at once it claims to take; four if it does not say.
    pub(crate) width: Option<usize>,
}

impl std::fmt::Debug for FakeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeState")
    }
}

impl FakePkarr {
    pub(crate) fn get(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock()
    }

    /// As a channel.
    pub(crate) fn connect(&self, channel: Channel) -> Connect {
        let fake = self.clone();
        Arc::new(move || Ok(vec![(channel, Arc::new(fake.clone()) as Arc<dyn Transport>)]))
    }

    fn request(&self, key: &PublicKey, write: bool) -> Result<MutexGuard<'_, FakeState>, NetworkError> {
        let mut state = self.get();
        state.log.push((Instant::now(), key.to_bytes(), write));
        assert!(!std::mem::take(&mut state.panics), "pkarr panics");
        if state.down {
            let reason = "the test says so".to_owned();
            return Err(NetworkError::Failed { action: "ask", through: "the fake", reason });
        }
        Ok(state)
    }
}

impl Transport for FakePkarr {
    fn resolve(&self, key: PublicKey) -> BoxFuture<'_, Result<KeyLookup, NetworkError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let state = self.request(&key, false)?;
            Ok(state.packets.get(&key.to_bytes()).cloned().map_or(KeyLookup::Nothing, KeyLookup::Packet))
        })
    }

    fn publish(&self, packet: SignedPacket) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let key = packet.public_key();
            let mut state = self.request(&key, true)?;
            let newest =
                state.packets.get(&key.to_bytes()).is_none_or(|there| packet.more_recent_than(there));
            if !newest {
                let reason = "there is a newer one".to_owned();
                return Err(NetworkError::Failed { action: "write", through: "the fake", reason });
            }
            state.packets.insert(key.to_bytes(), packet);
            Ok(())
        })
    }

    fn width(&self) -> usize {
        self.get().width.unwrap_or(4)
    }
}
