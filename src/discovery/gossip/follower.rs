//! The follower: GossipActor's task that reads the topic and subscribes again whenever it breaks.
//!
//! **Owns** the subscription and the gate in front of checking signatures. **Talks to** GossipActor, for each message
//! with one of [`FOLLOWER_PERMITS`] permits, so that a flood waits in gossip, which drops it, and not in the mailbox.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use iroh::EndpointId;
use iroh_gossip::api::{Event, GossipReceiver, GossipTopic};
use ractor::ActorRef;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::{GossipArgs, GossipMsg};
use crate::clock::now_ms;
use crate::discovery::announcement::{Signed, Unverified};
use crate::discovery::channel::Channel;
use crate::discovery::directory::gate::SignatureGate;

/// Limit of subscribing, and the wait after that failed or the stream broke.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);
/// Messages of the follower in the mailbox.
const FOLLOWER_PERMITS: usize = 64;

/// Reads the topic, and lets through what is worth it.
pub(super) struct TopicFollower {
    pub(super) actor: ActorRef<GossipMsg>,
    pub(super) args: GossipArgs,
    /// What was not let through.
    pub(super) refused: Arc<AtomicU64>,
}

impl TopicFollower {
    /// Reads who was remembered, once per run of the node.
    pub(super) async fn restore(&self) {
        if self.args.directory.lock().is_restored() {
            return;
        }
        let book = self.args.book.clone();
        let saved = spawn_blocking(move || book.directory()).await.map_err(|e| e.to_string());
        let saved = saved.and_then(|saved| saved.map_err(|e| e.to_string())).unwrap_or_else(|error| {
            tracing::warn!(error, "agents met before are not looked for");
            Vec::new()
        });
        let _ = self.actor.send_message(GossipMsg::Restored(saved));
    }

    pub(super) async fn run(self) {
        let permits = Arc::new(Semaphore::new(FOLLOWER_PERMITS));
        let mut gate = SignatureGate::new(self.args.announcements_per_sec, Instant::now());
        // The last subscription ends only once there is another: with none, gossip leaves the swarm.
        let mut last = None;
        loop {
            let subscribed =
                timeout(SUBSCRIBE_WITHIN, self.args.gossip.subscribe(self.args.topic, Vec::new())).await;
            match subscribed {
                Ok(Ok(topic)) => {
                    drop(last.take());
                    last = Some(self.read(topic, &permits, &mut gate).await);
                }
                Ok(Err(error)) => self.down(&format!("the topic cannot be subscribed to: {error}")),
                Err(_) => self.down("gossip does not answer"),
            }
            sleep(SUBSCRIBE_AGAIN).await;
        }
    }

    fn down(&self, why: &str) {
        self.args.channels.down(Channel::Gossip, why);
    }

    /// Reads until the stream breaks or has lost something, such as who our neighbours are. Gives back what keeps the
    /// subscription alive.
    async fn read(
        &self,
        topic: GossipTopic,
        permits: &Arc<Semaphore>,
        gate: &mut SignatureGate,
    ) -> GossipReceiver {
        let (sender, mut receiver) = topic.split();
        let _ = self.actor.send_message(GossipMsg::Subscribed(sender));
        self.args.channels.up(Channel::Gossip);
        self.tell_neighbours(HashSet::new(), permits).await;
        loop {
            match receiver.next().await {
                Some(Ok(Event::Received(message))) => {
                    let Some(signed) = self.checked(&message.content, gate) else {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    // A semaphore that nobody closes.
                    let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return receiver };
                    let _ = self.actor.send_message(GossipMsg::Heard { signed: Box::new(signed), permit });
                }
                Some(Ok(Event::NeighborUp(_) | Event::NeighborDown(_))) => {
                    let ids = receiver.neighbors().collect();
                    self.tell_neighbours(ids, permits).await;
                }
                Some(Ok(Event::Lagged)) => {
                    tracing::debug!("gossip was faster than we are");
                    return receiver;
                }
                Some(Err(error)) => {
                    self.down(&format!("the subscription broke: {error}"));
                    return receiver;
                }
                None => {
                    self.down("the subscription ended");
                    return receiver;
                }
            }
        }
    }

    /// Our own announcements come back; those of another machine with our key are news.
    fn hear_own_id(&self, claimed: Unverified, gate: &mut SignatureGate) {
        let (mark, now) = (claimed.mark(), Instant::now());
        if self.args.run.is_doubled_by(mark, now, now_ms())
            && gate.admits(true, now)
            && claimed.verify().is_ok()
        {
            (self.args.run_heard)(self.args.endpoint.id(), mark.boot_id);
        }
    }

    async fn tell_neighbours(&self, ids: HashSet<EndpointId>, permits: &Arc<Semaphore>) {
        if let Ok(permit) = Arc::clone(permits).acquire_owned().await {
            let _ = self.actor.send_message(GossipMsg::Neighbours { ids, permit });
        }
    }

    /// What came, if it is an announcement that counts: size and place first, then as many signatures as are allowed.
    fn checked(&self, content: &Bytes, gate: &mut SignatureGate) -> Option<Signed> {
        let claimed = Unverified::read(content).ok()?;
        if claimed.author() == self.args.endpoint.id() {
            self.hear_own_id(claimed, gate);
            return None;
        }
        if (self.args.shut_out)(&claimed.author()) {
            return None;
        }
        let now = Instant::now();
        let known = {
            let directory = self.args.directory.lock();
            directory.admits(&claimed, now, now_ms()).ok()?;
            directory.knows(&claimed.author())
        };
        if !gate.admits(known, now) {
            return None;
        }
        claimed.verify().ok()
    }
}
