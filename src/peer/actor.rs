//! PeerActor: one connection to one peer.
//!
//! **Owns** the session's state ([`Session`](super::session::Session), pure, one for each library that is shared) and every
//! task on the connection: the control stream's reader and writer, the acceptors of streams, reconciliations, and one
//! task per content stream. **Talks to** PeersActor (`SessionUp`,
//! `Wanted`, `Finished`, …), which keeps the connection itself.
//!
//! **States**: connecting (a control stream is being opened or awaited), then in session. Either side may open a new
//! control stream on the same connection at any time, which starts the session anew: that is how a PeerActor that was
//! restarted after a crash takes the connection over.
//!
//! **Bounds**: `FRAMES_WAITING` frames in the mailbox, `FRAMES_OUT` to be written, `SERVED_AT_ONCE` content
//! streams out, as many in as QUIC's stream limit allows. **A restart** loses the session's state and nothing else: both
//! sides compare again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use iroh::endpoint::VarInt;
use parking_lot::MutexGuard;
use ractor::{Actor, ActorRef};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::args::PeerArgs;
use super::held::HeldBySession;
use super::lane::{self, Lane};
use super::messages::{PeerMsg, PeersMsg};
use super::refusal::PeerRefusal;
use super::session::{EntryNews, InlineContents, SessionInput, SessionStatus, WaitingVersion};
use super::streams;
use crate::actor::ActorResult;
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::clock::now_ms;
use crate::library::Library;
use crate::net::bulk::BulkOutgoing;
use crate::net::close;
use crate::record::{ContentHash, Hlc, LibraryId};
use crate::store::FeedEntry;
use crate::store::entries::StoredEntry;
use crate::text::stated;
use crate::transfer::meter::Meter;
use crate::transfer::receive::Expected;
use crate::transfer::schedule::FetchFailure;
use crate::transfer::send::SendStreams;
use crate::transfer::turns::Turns;
use crate::wire::decode::CONTENTS_PER_WANT_MAX;

mod dates;
mod establishing;
mod frames;
mod keeping;
mod membership;
mod performing;
mod searching;
mod transfers;

/// Frames of the control stream that may wait in the mailbox.
pub(super) const FRAMES_WAITING: usize = 64;
/// Frames that may wait to be written. What a session has outstanding is bounded, so only a peer that does not read
/// fills it.
const FRAMES_OUT: usize = 16_384;
/// Bytes of frames that may wait to be written; offers are most of what an honest session has outstanding, and have
/// a limit of their own below this.
const BYTES_OUT: usize = 16 * 1024 * 1024;
const SERVED_AT_ONCE: usize = 16;
/// Contents that a peer may have asked for and not got yet: those of all offers that may be open, and as many again for
/// what was given up and is asked for anew. Over a slow path each may come in a request of its own.
const SERVED_MAX: usize = 8192;
/// Pieces of a part that are asked for one by one.
const RANGES_PER_WANT_MAX: usize = 16;
/// Changes of the store that are kept while the session is being established.
const EARLY_CHANGES_MAX: usize = 256;
const TICK: Duration = Duration::from_secs(1);

/// What a session shows without being asked, and what outlives its actor: messages can be overtaken by the news of its
/// end.
#[derive(Debug, Default)]
pub struct SharedView {
    pub standing: Option<SessionStatus>,
    /// Whether our contents go out on a connection of their own.
    pub bulk_out: bool,
    /// What the peer did that no honest peer does.
    pub misbehaved: Option<String>,
    /// Whether a session came about: the peer has proved itself.
    pub proven: bool,
    pub refusal: Option<PeerRefusal>,
    /// Versions that wait on either side for one of the clocks, not all of them if they are many.
    pub waiting: Vec<WaitingVersion>,
    /// The newest date among offers that the peer has not answered.
    pub newest_offered: Hlc,
    /// Which run of the peer the last session is with.
    pub boot_id: Option<u64>,
    /// Whether it can be asked to keep contents: a session with one of our own devices is up.
    pub keeps: bool,
}

/// A session that is up, as the tasks that accept streams need to know it.
#[derive(Clone)]
pub(super) struct ProvedSession {
    pub(super) epoch: u64,
    /// What is shared, by its blinded id, in the order of the lanes.
    pub(super) lanes: Arc<[(bytes::Bytes, Arc<Library>)]>,
    pub(super) entries: bool,
}

/// A request of the peer's that is being served or waits for it.
struct Served {
    task: AbortHandle,
    contents: usize,
}

struct Running {
    lanes: Vec<Lane>,
    /// Libraries that both know beside the mirror: only their revocations are passed on.
    known: Vec<(bytes::Bytes, Arc<Library>)>,
    /// Versions of the lists of revocations that the peer was sent, by blinded id.
    revocations_sent: HashMap<bytes::Bytes, u64>,
    /// What the peer calls itself.
    name: String,
    generation: u64,
    /// Of the rules by which contents are wanted.
    hold_generation: u64,
    epoch: u64,
    out: mpsc::Sender<bytes::Bytes>,
    /// Bytes that wait in `out`.
    bytes_out: Arc<AtomicUsize>,
    held: HeldBySession,
    expected: Arc<Expected>,
    serving: HashMap<u64, Served>,
    serve_turns: Turns,
    bulk: BulkOutgoing,
    streams: SendStreams,
    meter: Meter,
    /// Whether the peer can be asked for contents by their names.
    peer_finds: bool,
    /// Whether it can be told that another machine has its endpoint id.
    peer_hears_doubled: bool,
    /// What either side is to keep, so that the other may let go of it.
    keeping: keeping::Keeping,
    /// Contents that it was asked for, each in one of the lanes, and has not answered.
    finding: HashMap<ContentHash, (usize, Instant)>,
    /// How many it asked for that are being looked for.
    looking: usize,
    /// The newest date of a version that the clock was told it has.
    confirmed: Hlc,
    /// As of which change the board says what waits.
    waiting_changes: u64,
    waiting_told: dates::WaitingTold,
    /// Libraries whose list of revocations was too old at the last look.
    stale: usize,
    tasks: Tasks<PeerMsg>,
}

pub struct PeerState {
    args: PeerArgs,
    /// Tasks that live as long as the connection.
    tasks: Tasks<PeerMsg>,
    running: Option<Running>,
    epochs: u64,
    /// The session, for the tasks that accept streams: nothing but a control stream is served without one.
    proved: watch::Sender<Option<ProvedSession>>,
    opening: Arc<AtomicBool>,
    early: Vec<Arc<[FeedEntry]>>,
    early_lost: bool,
    establish_by: Instant,
}

pub struct PeerActor;

impl Actor for PeerActor {
    type Msg = PeerMsg;
    type State = PeerState;
    type Arguments = PeerArgs;

    async fn pre_start(&self, myself: ActorRef<PeerMsg>, args: PeerArgs) -> ActorResult<PeerState> {
        let proved = watch::Sender::new(None);
        let opening = Arc::new(AtomicBool::new(false));
        let mut tasks = Tasks::new(myself.clone(), PeerMsg::TaskFailed);
        tasks.spawn(streams::watch_closed(myself.clone(), args.connection.clone()));
        tasks.spawn(streams::accept_bi(
            myself.clone(),
            args.clone(),
            proved.subscribe(),
            Arc::clone(&opening),
        ));
        let (opens, establish_by) = (args.opens, Instant::now() + args.limits.establish);
        let mut state = PeerState {
            args,
            tasks,
            running: None,
            epochs: 0,
            proved,
            opening,
            early: Vec::new(),
            early_lost: false,
            establish_by,
        };
        if opens {
            state.open(&myself);
        }
        myself.send_after(TICK, || PeerMsg::Tick);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<PeerMsg>,
        message: PeerMsg,
        state: &mut PeerState,
    ) -> ActorResult {
        match message {
            // Of a session that is over.
            PeerMsg::Frame { epoch, .. }
            | PeerMsg::Outcome { epoch, .. }
            | PeerMsg::SummaryReady { epoch, .. }
            | PeerMsg::NotTakenOver { epoch, .. }
            | PeerMsg::Received { epoch, .. }
            | PeerMsg::PartReceived { epoch, .. }
            | PeerMsg::Looked { epoch, .. }
            | PeerMsg::KeepDecided { epoch, .. }
                if !state.is_current(epoch) => {}
            PeerMsg::StoreChanged { entries, contents } => {
                state.on_store_changed(&myself, entries, &contents);
            }
            PeerMsg::EntriesChanged(changed) => state.on_entries_changed(&myself, &changed),
            PeerMsg::LibraryChanged { library, records } => {
                state.on_library_changed(&myself, library, &records);
            }
            PeerMsg::Fetch { request, library, records } => {
                state.on_fetch(&myself, request, library, records);
            }
            PeerMsg::FetchPart { request, key, root, range } => {
                state.on_fetch_part(request, key, root, range);
            }
            PeerMsg::Revoke { request } => state.on_revoke(request),
            PeerMsg::Find(hashes) => state.on_find(hashes),
            PeerMsg::Keep { place, question } => state.on_keep(&place, &question),
            PeerMsg::KeepDecided { kept, .. } => state.on_keep_decided(*kept),
            PeerMsg::Settled(keys) => state.on_settled(&myself, &keys),
            PeerMsg::Failed { key, reason } => state.step_all(&myself, |lane| {
                let owes = key.library == lane.library.id() && lane.session.owes(&key.hash);
                owes.then(|| SessionInput::Failed(vec![(key.hash, reason.clone())]))
            }),
            PeerMsg::Verify { round } => state.step_all(&myself, |_| Some(SessionInput::Verify { round })),
            PeerMsg::TellDoubled => state.tell_doubled(),
            PeerMsg::ClockChanged => state.step_all(&myself, |_| Some(SessionInput::Reconsider)),
            PeerMsg::Established(established) => state.on_established(&myself, *established),
            PeerMsg::EstablishFailed(error) => state.on_establish_failed(&myself, error),
            PeerMsg::Frame { kind, permit, .. } => {
                state.on_frame(&myself, kind);
                drop(permit);
            }
            PeerMsg::ControlEnded { epoch, reason, violation } => {
                state.on_control_ended(epoch, &reason, violation);
            }
            PeerMsg::Outcome { lane, input, .. } => state.step(&myself, lane, input),
            PeerMsg::SummaryReady { lane, nonce, answer, behind, .. } => {
                state.on_summary_ready(lane, nonce, answer, behind);
            }
            PeerMsg::BulkLost { epoch, failure } => state.on_bulk_lost(epoch, &failure),
            PeerMsg::NotTakenOver { records, .. } => {
                state.tell(PeersMsg::Wanted { session: state.args.session, library: None, records });
            }
            PeerMsg::Received { results, .. } => state.on_received(results),
            PeerMsg::PartReceived { request, key, result, .. } => {
                state.on_part_received(request, key, result);
            }
            PeerMsg::Looked { lane, found, lacks, .. } => state.on_looked(&myself, lane, found, &lacks),
            PeerMsg::Violation(reason) => state.close(close::VIOLATION, &reason),
            PeerMsg::RevocationsTaken => state.check_admission(),
            PeerMsg::TaskFailed(why) => {
                // The supervisor starts us again on the same connection.
                return Err(format!("a task of the session: {why}").into());
            }
            PeerMsg::ConnectionClosed(reason) => {
                state.on_connection_closed();
                myself.stop(Some(reason));
            }
            PeerMsg::GetHealth { reply } => {
                let _ = reply.send(state.detail());
            }
            PeerMsg::Tick => {
                state.on_tick(&myself);
                myself.send_after(TICK, || PeerMsg::Tick);
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<PeerMsg>, state: &mut PeerState) -> ActorResult {
        state.close(close::SHUTDOWN, "shutting down");
        state.running = None;
        state.tasks.shutdown().await;
        Ok(())
    }
}

impl PeerState {
    fn is_current(&self, epoch: u64) -> bool {
        self.running.as_ref().is_some_and(|running| running.epoch == epoch)
    }

    /// Feeds one library's session and performs what it decides.
    fn step(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, input: SessionInput) {
        let Some(running) = &mut self.running else { return };
        let Some(shared) = running.lanes.get_mut(lane) else { return };
        let effects = shared.session.handle(input, Instant::now());
        let (receiving, partials) = (&self.args.receiving, &self.args.replica.partials);
        shared.publish(running.meter.receive_rate, || {
            let under_way = receiving.list().into_iter();
            under_way.map(|(hash, moving)| partials.held_for_any(&hash).unwrap_or(moving.done)).sum()
        });
        self.perform(myself, lane, effects);
        self.note_dates();
        self.note_held();
        self.publish();
    }

    fn note_held(&self) {
        let Some(running) = &self.running else { return };
        let taken: usize = running.lanes.iter().map(|lane| lane.session.taken_bytes()).sum();
        running.held.set(taken + running.bytes_out.load(Ordering::Relaxed));
    }

    /// Feeds each library's session with what is meant for it.
    fn step_all(&mut self, myself: &ActorRef<PeerMsg>, input: impl Fn(&Lane) -> Option<SessionInput>) {
        let lanes = self.running.as_ref().map_or(0, |running| running.lanes.len());
        for lane in 0..lanes {
            // One of them may have ended the session.
            let shared = self.running.as_ref().and_then(|running| running.lanes.get(lane));
            if let Some(input) = shared.and_then(&input) {
                self.step(myself, lane, input);
            }
        }
    }

    fn detail(&self) -> ActorDetail {
        let detail = match &self.running {
            None => "establishing a session".to_owned(),
            Some(running) => {
                let shown = lane::standing(&running.lanes).map(|standing| {
                    format!(
                        "{:?}, missing here {}, missing there {}",
                        standing.state, standing.missing_here, standing.missing_there
                    )
                });
                shown.unwrap_or_default()
            }
        };
        ActorDetail { detail: Some(detail), ..ActorDetail::default() }
    }

    fn shared_view(&self) -> MutexGuard<'_, SharedView> {
        self.args.board.lock()
    }

    fn publish(&self) {
        let standing = self.running.as_ref().and_then(|running| lane::standing(&running.lanes));
        let bulk_out = self.running.as_ref().is_some_and(|running| running.bulk.is_open());
        let mut view = self.shared_view();
        (view.standing, view.bulk_out) = (standing, bulk_out);
    }

    fn on_store_changed(
        &mut self,
        myself: &ActorRef<PeerMsg>,
        entries: Arc<[FeedEntry]>,
        contents: &Arc<InlineContents>,
    ) {
        if self.running.is_some() {
            self.step_all(myself, |lane| {
                let entries = lane.library.changes(&entries)?;
                Some(SessionInput::StoreChanged { entries, contents: Arc::clone(contents) })
            });
            self.note_missed(&entries);
        } else if self.early.len() < EARLY_CHANGES_MAX {
            // The session may already have told the peer a summary that does not have these.
            self.early.push(entries);
        } else {
            self.early_lost = true;
        }
    }

    fn on_entries_changed(&mut self, myself: &ActorRef<PeerMsg>, changed: &Arc<[StoredEntry]>) {
        // Before a session, the summary may not have them.
        self.early_lost |= self.running.is_none();
        self.step_all(myself, |lane| {
            let changed = lane.library.entry_changes(changed)?;
            Some(SessionInput::Entries(EntryNews::Changed(changed)))
        });
    }

    /// A library has something otherwise than the store.
    fn on_library_changed(
        &mut self,
        myself: &ActorRef<PeerMsg>,
        library: LibraryId,
        records: &Arc<[FeedEntry]>,
    ) {
        // Before a session, the summary may not have it.
        self.early_lost |= self.running.is_none();
        self.step_all(myself, |lane| {
            (lane.library.id() == Some(library)).then(|| SessionInput::changed(Arc::clone(records)))
        });
    }

    fn on_tick(&mut self, myself: &ActorRef<PeerMsg>) {
        let now = Instant::now();
        let Some(running) = &mut self.running else {
            if now > self.establish_by {
                self.close(close::TIMEOUT, "no session in time");
            }
            return;
        };
        running.meter.tick(TICK);
        running.bulk.look(now);
        let stalled = running.expected.take_stalled(self.args.limits.stall, now);
        self.give_up(stalled, &FetchFailure::Source("no progress".into()));
        // A peer that is shut out hears of it first, and is gone with the next tick.
        let any_sent = self.send_revocations();
        if self.lists_are_fresh_again() || any_sent {
            // What waited for a newer list may not have to any more.
            self.step_all(myself, |_| Some(SessionInput::Reconsider));
        }
        if !any_sent {
            self.check_admission();
        }
        self.share_more(myself);
        self.step_all(myself, |_| Some(SessionInput::Tick));
        self.note_hold_rules();
        self.ask_for_wanted();
        if let Some(running) = &self.running {
            let now = now_ms();
            running.lanes.iter().for_each(|lane| lane.note_member(&running.name, now));
        }
    }

    fn tell(&self, message: PeersMsg) {
        // Without PeersActor there is no tree above us either; we are about to be stopped.
        if let Err(error) = self.args.peers.cast(message) {
            tracing::debug!(%error, "PeersActor is not told");
        }
    }

    /// Closes the connection. The watcher reports it, and the actor stops then.
    fn close(&mut self, code: u32, reason: &str) {
        if self.args.connection.close_reason().is_none() {
            let peer = self.args.connection.remote_id();
            if code == close::VIOLATION {
                self.shared_view().misbehaved = Some(reason.to_owned());
                tracing::warn!(peer = %peer.fmt_short(), reason, "closing the connection: the peer broke the rules");
            }
            self.args.connection.close(VarInt::from_u32(code), stated(reason).as_bytes());
        }
    }
}
