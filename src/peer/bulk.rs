//! The receiving end of a session's bulk connections: takes in what the peer opens, and its content streams.

use iroh::endpoint::{Connection, ConnectionError, VarInt};
use ractor::ActorRef;
use tokio::time::Instant;

use super::actor::PeerArgs;
use super::messages::PeerMsg;
use super::streams;
use crate::actor::tasks::Tasks;
use crate::net::bulk::{BulkArrivals, BulkWindow, InboundWindow};
use crate::net::close::{self, is_close};
use crate::transfer::receive::Receiver;

/// Takes in a session's bulk connections, one at a time, for as long as the session lasts.
pub(super) struct BulkReceiver {
    actor: ActorRef<PeerMsg>,
    epoch: u64,
    session: Connection,
    window: InboundWindow,
    /// Streams that the peer may have open.
    streams: u32,
    receiver: Receiver,
}

/// A bulk connection that is open; dropped, it is closed.
struct OpenBulk {
    connection: Connection,
    receiver: Receiver,
    since: Instant,
    _window: BulkWindow,
}

impl Drop for OpenBulk {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(close::SHUTDOWN), b"the session is over");
    }
}

impl BulkReceiver {
    pub(super) fn new(actor: ActorRef<PeerMsg>, epoch: u64, args: &PeerArgs, receiver: Receiver) -> Self {
        let (session, window) = (args.connection.clone(), args.window.clone());
        Self { actor, epoch, session, window, streams: args.limits.streams, receiver }
    }

    pub(super) async fn run(self, mut arrivals: BulkArrivals) {
        let mut open: Option<OpenBulk> = None;
        // They are the session's: when a connection breaks, each of its streams still says what became of its content.
        let mut contents = Tasks::new(self.actor.clone(), PeerMsg::TaskFailed);
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
                        self.tell_lost("another one took its place".into());
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
                    let lasted = open.take().map(|open| open.since.elapsed()).unwrap_or_default();
                    let peer = self.session.remote_id();
                    tracing::debug!(peer = %peer.fmt_short(), %reason, ?lasted, "a bulk connection is over");
                    if !is_at_rest(&reason) {
                        self.tell_lost(reason.to_string());
                    }
                }
                (Ok(_), None) => {}
            }
        }
    }

    fn open(&self, connection: Connection) -> OpenBulk {
        let window = self.window.open_bulk(&connection, self.streams);
        let receiver = Receiver { bulk: Some(connection.clone()), ..self.receiver.clone() };
        OpenBulk { connection, receiver, since: Instant::now(), _window: window }
    }

    fn tell_lost(&self, reason: String) {
        // An actor that is gone has no requests.
        let _ = self.actor.send_message(PeerMsg::BulkLost { epoch: self.epoch, reason });
    }
}

/// Whether its opener closed it because nothing is to be sent.
fn is_at_rest(reason: &ConnectionError) -> bool {
    is_close(reason, close::SHUTDOWN)
}
