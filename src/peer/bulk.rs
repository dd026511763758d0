//! The receiving end of a session's bulk connections: takes in what the peer opens, and its content streams.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, ConnectionError, VarInt};
use ractor::ActorRef;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::args::PeerArgs;
use super::messages::PeerMsg;
use super::streams;
use crate::actor::tasks::Tasks;
use crate::net::bulk::{BulkArrivals, BulkWindow, InboundWindow, Pulse};
use crate::net::close::{self, is_close};
use crate::transfer::receive::{Breaks, BulkSource, Receiver};

/// Time between two looks whether one is alive.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes in a session's bulk connections, one at a time, for as long as the session lasts.
pub(super) struct BulkReceiver {
    actor: ActorRef<PeerMsg>,
    epoch: u64,
    session: Connection,
    window: InboundWindow,
    streams: u32,
    receiver: Receiver,
    breaks: Breaks,
}

/// A bulk connection that is open; dropped, it is closed.
struct InboundBulk {
    connection: Connection,
    source: Arc<BulkSource>,
    receiver: Receiver,
    since: Instant,
    pulse: Pulse,
    _window: BulkWindow,
}

impl Drop for InboundBulk {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(close::SHUTDOWN), b"the session is over");
    }
}

impl BulkReceiver {
    pub(super) fn new(actor: ActorRef<PeerMsg>, epoch: u64, args: &PeerArgs, receiver: Receiver) -> Self {
        let (session, window) = (args.connection.clone(), args.window.clone());
        Self {
            actor,
            epoch,
            session,
            window,
            streams: args.limits.streams,
            receiver,
            breaks: Breaks::default(),
        }
    }

    pub(super) async fn run(self, mut arrivals: BulkArrivals) {
        let mut open: Option<InboundBulk> = None;
        // They are the session's: when a connection breaks, each of its streams still says what became of its content.
        let mut contents = Tasks::new(self.actor.clone(), PeerMsg::TaskFailed);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stream = async {
                match &open {
                    Some(open) => open.connection.accept_uni().await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                // It ends with its session.
                _ = self.session.closed() => return,
                connection = arrivals.next() => {
                    if let Some(replaced) = open.replace(self.open(connection)) {
                        let why = b"another bulk connection took its place";
                        replaced.connection.close(VarInt::from_u32(close::DUPLICATE), why);
                        self.tell_lost(&replaced.source, "another one took its place");
                    }
                    continue;
                }
                _ = looks.tick() => {
                    if let Some(dead) = open.take_if(|open| open.pulse.is_lost(&open.connection)) {
                        dead.connection.close(VarInt::from_u32(close::TIMEOUT), b"no sign of life");
                        self.tell_lost(&dead.source, "nothing came on it any more");
                    }
                    continue;
                }
                accepted = stream => accepted,
            };
            match (accepted, &open) {
                (Ok(stream), Some(open)) => {
                    contents.spawn(streams::receive_content(
                        self.actor.clone(),
                        open.receiver.clone(),
                        stream,
                    ));
                }
                (Err(reason), _) => {
                    let Some(lost) = open.take() else { continue };
                    let (peer, lasted) = (self.session.remote_id(), lost.since.elapsed());
                    tracing::debug!(peer = %peer.fmt_short(), %reason, ?lasted, "a bulk connection is over");
                    if !is_at_rest(&reason) {
                        self.tell_lost(&lost.source, &reason.to_string());
                    }
                }
                (Ok(_), None) => {}
            }
        }
    }

    fn open(&self, connection: Connection) -> InboundBulk {
        let window = self.window.open_bulk(&connection, self.streams);
        let source = Arc::new(BulkSource::new(connection.clone(), self.breaks.clone()));
        let receiver = Receiver { bulk: Some(Arc::clone(&source)), ..self.receiver.clone() };
        InboundBulk {
            connection,
            source,
            receiver,
            since: Instant::now(),
            pulse: Pulse::default(),
            _window: window,
        }
    }

    fn tell_lost(&self, source: &BulkSource, reason: &str) {
        let failure = source.failure(format!("its connection broke: {reason}"));
        // An actor that is gone has no requests.
        let _ = self.actor.send_message(PeerMsg::BulkLost { epoch: self.epoch, failure });
    }
}

/// Whether its opener closed it because nothing is to be sent.
fn is_at_rest(reason: &ConnectionError) -> bool {
    is_close(reason, close::SHUTDOWN)
}
