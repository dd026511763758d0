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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use iroh::endpoint::VarInt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::args::PeerArgs;
use super::establish::{self};
use super::held::HeldBySession;
use super::lane::{self, Lane};
use super::messages::{PeerMsg, PeersMsg};
use super::refusal::PeerRefusal;
use super::session::{
    EntryNews, InlineContents, Session, SessionEffect, SessionInput, SessionStatus, WaitingVersion,
};
use super::{effects, streams};
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::clock::now_ms;
use crate::library::Library;
use crate::net::bulk::BulkOutgoing;
use crate::net::close;
use crate::text::stated;
use crate::record::{ContentHash, Hlc, LibraryId, RecordId};
use crate::store::FeedEntry;
use crate::store::entries::StoredEntry;
use crate::transfer::meter::Meter;
use crate::transfer::receive::Expected;
use crate::transfer::schedule::FetchFailure;
use crate::transfer::send::SendStreams;
use crate::transfer::turns::Turns;
use crate::wire;
use crate::wire::decode::CONTENTS_PER_WANT_MAX;
use crate::wire::proto::{Frame, Ping, Pong, Revocations, frame};

mod dates;
mod establishing;
mod membership;
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

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
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
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // Of a session that is over.
            PeerMsg::Frame { epoch, .. }
            | PeerMsg::Outcome { epoch, .. }
            | PeerMsg::SummaryReady { epoch, .. }
            | PeerMsg::Received { epoch, .. }
            | PeerMsg::PartReceived { epoch, .. }
            | PeerMsg::Looked { epoch, .. }
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
            PeerMsg::Frame { epoch, kind, permit } => {
                if state.is_current(epoch) {
                    state.on_frame(&myself, kind);
                }
                drop(permit);
            }
            PeerMsg::ControlEnded { epoch, reason, violation } => {
                state.on_control_ended(epoch, &reason, violation);
            }
            PeerMsg::Outcome { epoch, lane, input } => {
                if state.is_current(epoch) {
                    state.step(&myself, lane, input);
                }
            }
            PeerMsg::SummaryReady { epoch, lane, nonce, answer, behind } => {
                if state.is_current(epoch) {
                    state.on_summary_ready(lane, nonce, answer, behind);
                }
            }
            PeerMsg::BulkLost { epoch, failure } => state.on_bulk_lost(epoch, &failure),
            PeerMsg::Received { epoch, results } => {
                if state.is_current(epoch) {
                    state.on_received(results);
                }
            }
            PeerMsg::PartReceived { epoch, request, key, result } => {
                if state.is_current(epoch) {
                    state.on_part_received(request, key, result);
                }
            }
            PeerMsg::Looked { epoch, lane, found, lacks } => {
                if state.is_current(epoch) {
                    state.on_looked(&myself, lane, found, &lacks);
                }
            }
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

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
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
        self.args.board.lock().unwrap_or_else(PoisonError::into_inner)
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
        } else {
            self.on_store_changed(myself, entries);
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

    /// Finds the records with these ids, of folders where both sides know them, and of assets.
    fn resolve(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, mut rids: Vec<RecordId>) {
        let Some(shared) = self.running.as_ref().and_then(|running| running.lanes.get(lane)) else { return };
        let library = Arc::clone(&shared.library);
        if shared.session.has_entries() {
            let (found, others) = library.resolve_entries(&rids);
            rids = others;
            self.step(myself, lane, SessionInput::Entries(EntryNews::Resolved(found)));
        }
        let (found, gone) = library.resolve(&rids);
        self.step(myself, lane, SessionInput::Resolved { found, gone });
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

    /// The lane of the library with this blinded id; none is named where there is only one.
    fn lane_of(&self, blinded: &bytes::Bytes) -> Option<usize> {
        let running = self.running.as_ref()?;
        if blinded.is_empty() || running.lanes.len() == 1 {
            return Some(0);
        }
        running.lanes.iter().position(|lane| lane.blinded == *blinded)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the session names all the others")]
    fn on_frame(&mut self, myself: &ActorRef<PeerMsg>, kind: frame::Kind) {
        let lane = match &kind {
            frame::Kind::Offer(offer) => self.lane_of(&offer.library),
            frame::Kind::Records(records) => self.lane_of(&records.library),
            frame::Kind::Have(have) => self.lane_of(&have.library),
            frame::Kind::Error(error) => self.lane_of(&error.library),
            frame::Kind::Later(later) => self.lane_of(&later.library),
            frame::Kind::Find(find) => self.lane_of(&find.library),
            frame::Kind::Lacks(lacks) => self.lane_of(&lacks.library),
            frame::Kind::Ping(Ping { libraries, .. }) | frame::Kind::Pong(Pong { libraries, .. }) => {
                libraries.first().map_or(Some(0), |summary| self.lane_of(&summary.blinded))
            }
            _ => Some(0),
        };
        let Some(running) = &self.running else { return };
        let Some((lane, shared)) = lane.and_then(|lane| Some((lane, running.lanes.get(lane)?))) else {
            return self.close(close::VIOLATION, "a frame about a library that is not shared");
        };
        let (answer, nonce, summaries, behind, clock_ms) = match kind {
            frame::Kind::Ping(Ping { nonce, libraries, behind, clock_ms }) => {
                (false, nonce, libraries, behind, clock_ms)
            }
            frame::Kind::Pong(Pong { nonce, libraries, behind, clock_ms }) => {
                (true, nonce, libraries, behind, clock_ms)
            }
            frame::Kind::Revocations(Revocations { library, list }) => {
                return self.on_revocations(myself, &library, &list);
            }
            frame::Kind::Doubled(_) => return self.on_doubled(),
            frame::Kind::Find(find) => return self.on_asked(myself, lane, &find),
            frame::Kind::Lacks(lacks) => return self.on_lacks(lane, &lacks),
            kind => {
                self.step(myself, lane, SessionInput::Frame(kind));
                return self.check_owed();
            }
        };
        match establish::summary_from_wire(&shared.blinded, &summaries) {
            Ok(theirs) => {
                let ours = shared.library.summary();
                let certain = !behind && !shared.asked_behind;
                self.hear_clock(clock_ms);
                self.step(myself, lane, SessionInput::Compared { answer, nonce, theirs, ours, certain });
            }
            Err(error) => self.close(close::VIOLATION, &error.to_string()),
        }
    }

    /// The bounds of a session hold for all of a connection's together.
    fn check_owed(&mut self) {
        let sessions = self.running.iter().flat_map(|running| &running.lanes).map(|lane| &lane.session);
        if Session::owe_too_much(sessions) {
            self.close(close::VIOLATION, "more offers than may be open, in all libraries together");
        }
    }

    fn on_summary_ready(&mut self, lane: usize, nonce: u64, answer: bool, behind: bool) {
        let Some(shared) = self.running.as_mut().and_then(|running| running.lanes.get_mut(lane)) else {
            return;
        };
        let libraries = vec![establish::summary_to_wire(&shared.blinded, &shared.library.summary())];
        let is_mirror = shared.library.shared().is_none();
        let clock_ms = if is_mirror { self.args.replica.deferrals.clock().own_ms() } else { 0 };
        if answer {
            let nonce = shared.answering.take().unwrap_or(nonce);
            self.send(frame::Kind::Pong(Pong { nonce, libraries, behind, clock_ms }));
        } else {
            shared.asked_behind = behind;
            self.send(frame::Kind::Ping(Ping { nonce, libraries, behind, clock_ms }));
        }
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
        self.give_up(stalled, &Failure::Source("no progress".into()));
        // Whoever is shut out hears of it first, and is gone with the next tick.
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
        self.ask_for_wanted();
        if let Some(running) = &self.running {
            let now = now_ms();
            running.lanes.iter().for_each(|lane| lane.note_member(&running.name, now));
        }
    }

    fn perform(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, effects: Vec<SessionEffect>) {
        for effect in effects {
            self.perform_one(myself, lane, effect);
        }
    }

    fn perform_one(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, effect: SessionEffect) {
        let Some(running) = &mut self.running else { return };
        let Some(shared) = running.lanes.get_mut(lane) else { return };
        let args = &self.args;
        let report = effects::Reporter::new(myself.clone(), running.epoch, lane);
        let store = Arc::clone(&args.replica.store);
        match effect {
            SessionEffect::Send(kind) => self.send(kind),
            SessionEffect::Judge(records) => self.judge(myself, lane, records, true),
            SessionEffect::JudgeAbsent(records) => self.judge(myself, lane, records, false),
            SessionEffect::TakeAbsent(records) => {
                running.tasks.spawn(effects::take_absent(report, args.taker(), records));
            }
            SessionEffect::Apply(records) => {
                let library = shared.library.id();
                running.tasks.spawn(effects::apply(report, args.taker(), library, records));
            }
            SessionEffect::Reassert(others) => {
                let library = shared.library.id();
                running.tasks.spawn(effects::reassert(
                    report,
                    store,
                    args.replica.deferrals.clone(),
                    library,
                    others,
                ));
            }
            SessionEffect::Store(items) => {
                let (library, taker) = (shared.library.id(), args.taker());
                let bytes: usize = items.iter().map(|(_, content)| content.len()).sum();
                args.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
                running.tasks.spawn(effects::store_inline(report, taker, args.peers.clone(), library, items));
            }
            SessionEffect::Load(hashes) => {
                let library = Arc::clone(&shared.library);
                running.tasks.spawn(effects::load(report, store, library, hashes));
            }
            SessionEffect::TakeEntries(records) => {
                let (library, clock) = (Arc::clone(&shared.library), args.replica.deferrals.clock().clone());
                running.tasks.spawn(effects::take_entries(report, store, library, clock, records));
            }
            SessionEffect::LoadEntries(hashes) => {
                let library = Arc::clone(&shared.library);
                running.tasks.spawn(effects::load_entries(report, store, library, hashes));
            }
            SessionEffect::Resolve(rids) => self.resolve(myself, lane, rids),
            SessionEffect::Announce(records) => {
                let library = shared.library.id();
                self.tell(PeersMsg::Wanted { session: args.session, library, records });
            }
            SessionEffect::Serve(want) => self.serve(want),
            SessionEffect::CancelServe(request) => {
                if let Some(served) = running.serving.remove(&request) {
                    served.task.abort();
                }
            }
            SessionEffect::SendSummary { nonce, answer: true } if shared.answering.is_some() => {
                // One answer at a time: a flood of questions costs one look at the store, and only the last counts.
                shared.answering = Some(nonce);
            }
            SessionEffect::SendSummary { nonce, answer } => {
                if answer {
                    shared.answering = Some(nonce);
                }
                let library = Arc::clone(&shared.library);
                running.tasks.spawn(effects::catch_up(report, store, library, nonce, answer));
            }
            SessionEffect::Reconcile => {
                let (connection, library) = (args.connection.clone(), shared.blinded.clone());
                let (assets, entries) = shared.session.to_compare(shared.library.summary());
                let assets = assets.then(|| shared.library.snapshot());
                let entries = entries.then(|| shared.library.entries_snapshot());
                running.tasks.spawn(effects::reconcile(report, connection, library, assets, entries));
            }
            SessionEffect::Close { code, reason } => self.close(code, &reason),
        }
    }

    fn send(&mut self, kind: frame::Kind) {
        let Some(running) = &self.running else { return };
        if let frame::Kind::Offer(offer) = &kind {
            let bytes: usize = offer.contents.iter().map(|inline| inline.content.len()).sum();
            self.args.traffic.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        let frame = wire::encode(&Frame { kind: Some(kind) });
        let bytes = frame.len();
        let waiting = running.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        let refused = match running.out.try_send(frame) {
            // A closed queue: the writer's end of the stream is reported by the writer.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => waiting + bytes > BYTES_OUT,
            Err(mpsc::error::TrySendError::Full(_)) => true,
        };
        if refused {
            self.close(close::VIOLATION, "the peer does not read its control stream");
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
