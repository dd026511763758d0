//! The tasks on a connection that turn its streams into messages for the PeerActor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::actor::{FRAMES_WAITING, ProvedSession};
use super::args::PeerArgs;
use super::establish::{self, EstablishError};
use super::messages::{PeerMsg, PeersMsg};
use super::reconciliation;
use super::refusal::PeerRefusal;
use super::session::SessionInput;
use crate::actor::tasks::Tasks;
use crate::net::close;
use crate::transfer::receive::{self, ReceiveOutcome, Receiver, Results};
use crate::wire;
use crate::wire::proto::{ReconOpen, frame};
use iroh::endpoint::{Connection, RecvStream, SendStream, Side, VarInt};
use ractor::ActorRef;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

/// For each so many bytes a frame takes one more of the places for frames that wait: the longest one, half of them.
const FRAME_UNIT_BYTES: usize = 16 * 1024;
const _: () =
    assert!(wire::FRAME_BYTES_MAX / FRAME_UNIT_BYTES < FRAMES_WAITING, "the longest frame finds no place");
/// Longest wait for the peer to take a control frame.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Reconciliations that a peer may have open at once, of each library.
const RECONCILIATIONS_MAX: usize = 4;
const RECONCILIATIONS_IN_ALL: usize = RECONCILIATIONS_MAX * crate::net::auth::LIBRARIES_MAX;

/// Says when and why the connection is over.
pub(super) async fn watch_closed(actor: ActorRef<PeerMsg>, connection: Connection) {
    let reason = connection.closed().await;
    let _ = actor.send_message(PeerMsg::ConnectionClosed(reason.to_string()));
}

/// Takes in bidirectional streams: a control stream begins with `Hello`, a reconciliation with `ReconOpen`.
pub(super) async fn accept_bi(
    actor: ActorRef<PeerMsg>,
    args: PeerArgs,
    proved: watch::Receiver<Option<ProvedSession>>,
    opening: Arc<AtomicBool>,
) {
    let mut tasks = Tasks::new(actor.clone(), PeerMsg::TaskFailed);
    let reconciliations = Arc::new(Semaphore::new(RECONCILIATIONS_IN_ALL));
    while let Ok((send, receive)) = args.connection.accept_bi().await {
        let stream = BiStream {
            actor: actor.clone(),
            args: args.clone(),
            proved: proved.clone(),
            opening: Arc::clone(&opening),
            reconciliations: Arc::clone(&reconciliations),
        };
        tasks.spawn(stream.run(send, receive));
    }
}

struct BiStream {
    actor: ActorRef<PeerMsg>,
    args: PeerArgs,
    proved: watch::Receiver<Option<ProvedSession>>,
    opening: Arc<AtomicBool>,
    reconciliations: Arc<Semaphore>,
}

impl BiStream {
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other kind may begin a stream")]
    async fn run(self, send: SendStream, mut receive: RecvStream) {
        if receive.is_0rtt() {
            // What was sent before the handshake may be a replay of what somebody else sent.
            return self.violation("data before the end of the handshake".into());
        }
        let first = wire::read_frame_of(&mut receive, wire::FIRST_FRAME_BYTES_MAX);
        let first = timeout(self.args.limits.establish, first).await;
        let first = match first {
            Ok(Ok(kind)) => kind,
            Ok(Err(error)) if error.is_violation() => return self.violation(error.to_string()),
            Ok(Err(_)) | Err(_) => return,
        };
        match first {
            frame::Kind::Hello(hello) => {
                let dialer = self.args.connection.side() == Side::Client;
                if dialer && self.opening.load(Ordering::Relaxed) {
                    // Both sides opened one at once; the dialler's counts.
                    return;
                }
                let established = self.args.meeting().answer(hello, (send, receive)).await;
                self.answered(established);
            }
            frame::Kind::ReconOpen(open) => self.reconcile(send, receive, open).await,
            _ => self.violation("a stream that begins with a frame out of place".into()),
        }
    }

    async fn reconcile(&self, send: SendStream, receive: RecvStream, open: ReconOpen) {
        // Streams overtake each other: the frame that ends the proof may still be on its way to the actor.
        let mut proved = self.proved.clone();
        let session = timeout(self.args.limits.establish, proved.wait_for(Option::is_some)).await;
        let Some(ProvedSession { epoch, lanes, entries }) =
            session.ok().and_then(|proved| proved.ok()?.clone())
        else {
            return;
        };
        let shared = lanes.iter().position(|(blinded, _)| *blinded == open.library);
        let Some((lane, (_, library))) = shared.and_then(|lane| Some((lane, lanes.get(lane)?))) else {
            return self.violation("a reconciliation of a library that is not shared".into());
        };
        let open_already = RECONCILIATIONS_IN_ALL - self.reconciliations.available_permits();
        let permit = self.reconciliations.try_acquire().ok();
        let Some(_permit) = permit.filter(|_| open_already < RECONCILIATIONS_MAX * lanes.len()) else {
            return self.violation("more reconciliations than may be open at once".into());
        };
        let of_entries = open.entries;
        if of_entries && !entries {
            return self.violation("a reconciliation of entries, which were not agreed on".into());
        }
        let more = open.more;
        let snapshot = if of_entries { library.entries_snapshot() } else { library.snapshot() };
        let result = reconciliation::respond(send, receive, open, snapshot).await;
        if let Err(error) = &result
            && error.is_violation()
        {
            return self.violation(format!("in a reconciliation: {error}"));
        }
        if more && result.is_ok() {
            return;
        }
        let input =
            SessionInput::ReconEnded { opened_here: false, result: result.map_err(|e| e.to_string()) };
        let _ = self.actor.send_message(PeerMsg::Outcome { epoch, lane, input });
    }

    fn answered(&self, established: Result<establish::Established, EstablishError>) {
        match established {
            Ok(established) => {
                let _ = self.actor.send_message(PeerMsg::Established(Box::new(established)));
            }
            Err(EstablishError::NotShared) => {
                let connection = &self.args.connection;
                let endpoint_id = connection.remote_id();
                tracing::warn!(
                    peer = %endpoint_id.fmt_short(),
                    "refused a connection: the peer does not know our passphrase, and has no ticket that holds"
                );
                let not_shared = PeersMsg::NotShared { endpoint_id, mirror: true, failed: true };
                let _ = self.args.peers.cast(not_shared);
                connection.close(VarInt::from_u32(close::NOT_SHARED), b"no shared library");
            }
            Err(EstablishError::Refused(why)) => {
                let connection = &self.args.connection;
                tracing::info!(peer = %connection.remote_id().fmt_short(), %why, "refused a connection");
                self.args.board.lock().refusal = PeerRefusal::of_refusal(&why);
                connection.close(VarInt::from_u32(why.close_code()), why.to_string().as_bytes());
            }
            Err(error) if error.is_violation() => self.violation(error.to_string()),
            // The actor's own limit ends it unless another control stream comes.
            Err(error) => tracing::debug!(%error, "a control stream did not become a session"),
        }
    }

    fn violation(&self, reason: String) {
        let _ = self.actor.send_message(PeerMsg::Violation(reason));
    }
}

/// Writes encoded control frames, several at once where they wait; takes their bytes off `waiting` once they are gone.
pub(super) async fn write_control(
    actor: ActorRef<PeerMsg>,
    epoch: u64,
    mut stream: SendStream,
    mut frames: mpsc::Receiver<bytes::Bytes>,
    waiting: Arc<AtomicUsize>,
) {
    const AT_ONCE: usize = 16;
    let mut batch = Vec::with_capacity(AT_ONCE);
    while frames.recv_many(&mut batch, AT_ONCE).await > 0 {
        let bytes: usize = batch.iter().map(bytes::Bytes::len).sum();
        let written = timeout(WRITE_WITHIN, stream.write_all_chunks(&mut batch)).await;
        batch.clear();
        waiting.fetch_sub(bytes, Ordering::Relaxed);
        let reason = match written {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the peer does not read its control stream".to_owned(),
        };
        let _ = actor.send_message(PeerMsg::ControlEnded { epoch, reason, violation: false });
        return;
    }
}

/// Reads control frames; waits while the actor has enough of them.
pub(super) async fn read_control(
    actor: ActorRef<PeerMsg>,
    epoch: u64,
    mut stream: RecvStream,
    permits: Arc<Semaphore>,
) {
    loop {
        let Ok(mut permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let read = match wire::read_bytes(&mut stream, wire::FRAME_BYTES_MAX).await {
            Ok(bytes) => {
                // A long one takes the place of several; it is decoded once there is that much.
                let more = u32::try_from(bytes.len() / FRAME_UNIT_BYTES).unwrap_or(u32::MAX);
                let Ok(more) = Arc::clone(&permits).acquire_many_owned(more).await else { return };
                permit.merge(more);
                wire::decode_frame(bytes)
            }
            Err(error) => Err(error),
        };
        let message = match read {
            Ok(kind) => PeerMsg::Frame { epoch, kind, permit },
            Err(error) => {
                let violation = error.is_violation();
                let ended = PeerMsg::ControlEnded { epoch, reason: error.to_string(), violation };
                let _ = actor.send_message(ended);
                return;
            }
        };
        if actor.send_message(message).is_err() {
            return;
        }
    }
}

/// Takes in content streams, each in a task of its own; QUIC's stream limit bounds how many.
pub(super) async fn accept_uni(actor: ActorRef<PeerMsg>, connection: Connection, receiver: Receiver) {
    let mut tasks = Tasks::new(actor.clone(), PeerMsg::TaskFailed);
    while let Ok(stream) = connection.accept_uni().await {
        tasks.spawn(receive_content(actor.clone(), receiver.clone(), stream));
    }
}

pub(super) async fn receive_content(actor: ActorRef<PeerMsg>, receiver: Receiver, stream: RecvStream) {
    if let Err(receive::Violation(reason)) = receive::receive_stream(receiver, stream).await {
        let _ = actor.send_message(PeerMsg::Violation(reason));
    }
}

/// Passes results of receiving tasks on; several at once where they wait.
pub(super) async fn forward_results(
    actor: ActorRef<PeerMsg>,
    epoch: u64,
    mut arrived: mpsc::Receiver<ReceiveOutcome>,
) {
    while let Some(first) = arrived.recv().await {
        let mut results = Results::new();
        let mut next = Some(first);
        while let Some(received) = next {
            match received {
                ReceiveOutcome::Contents(more) => results.extend(more),
                ReceiveOutcome::Part { request, key, result } => {
                    let part = PeerMsg::PartReceived { epoch, request, key, result };
                    if actor.send_message(part).is_err() {
                        return;
                    }
                }
            }
            next = arrived.try_recv().ok();
        }
        if !results.is_empty() && actor.send_message(PeerMsg::Received { epoch, results }).is_err() {
            return;
        }
    }
}
