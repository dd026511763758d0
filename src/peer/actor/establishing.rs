//! How PeerActor's session begins, begins anew, and ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dates::WaitingTold;
use super::keeping::Keeping;
use super::{FRAMES_OUT, FRAMES_WAITING, PeerState, ProvedSession, Running, SERVED_AT_ONCE};
use crate::actor::tasks::Tasks;
use crate::library::ticket::{Claims, TicketSerial};
use crate::net::auth::{AuthError, BulkSecret};
use crate::net::bulk::BulkOutgoing;
use crate::net::close::{self, is_close};
use crate::peer::bulk::BulkReceiver;
use crate::peer::establish::{CommonLibrary, EstablishError, Established};
use crate::peer::held::HeldBySession;
use crate::peer::lane::Lane;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::session::{SessionEffect, SessionInput};
use crate::peer::streams;
use crate::record::Hlc;
use crate::transfer::meter::Meter;
use crate::transfer::receive::{Expected, Receiver};
use crate::transfer::send::SendStreams;
use crate::transfer::turns::Turns;
use iroh::endpoint::{ConnectionError, Side, VarInt};
use ractor::ActorRef;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

impl PeerState {
    /// Opens a control stream, on which the session begins or begins anew.
    pub(super) fn open(&mut self, myself: &ActorRef<PeerMsg>) {
        self.opening.store(true, Ordering::Relaxed);
        let (actor, args, opening) = (myself.clone(), self.args.clone(), Arc::clone(&self.opening));
        self.tasks.spawn(async move {
            let result = args.meeting().open().await;
            opening.store(false, Ordering::Relaxed);
            let _ = actor.send_message(match result {
                Ok(established) => PeerMsg::Established(Box::new(established)),
                Err(error) => PeerMsg::EstablishFailed(error),
            });
        });
    }

    pub(super) fn on_established(&mut self, myself: &ActorRef<PeerMsg>, established: Established) {
        let (hears_doubled, boot_id) = (established.hears_doubled, established.boot_id);
        let bulk_secret = BulkSecret::new(&established.transcript, established.role);
        let (takes_bulk, keeps) = (established.takes_bulk, established.keeps);
        let Established { send, receive, shared, known, name, ticket, finds, clock_ms, .. } = established;
        if self.running.take().is_some() {
            tracing::info!(peer = %self.args.connection.remote_id().fmt_short(), "the peer starts the session anew");
        }
        // Also for a first one: an incarnation before us may have left requests that nobody answers any more.
        self.tell(PeersMsg::SessionReset { session: self.args.session });
        self.epochs += 1;
        let epoch = self.epochs;
        let lanes = shared.iter().map(|one| (one.blinded.clone(), Arc::clone(&one.library))).collect();
        let entries = shared.iter().any(|one| one.entries);
        self.proved.send_replace(Some(ProvedSession { epoch, lanes, entries }));
        self.args.window.open_up(self.args.limits.streams);

        let mut tasks = Tasks::new(myself.clone(), PeerMsg::TaskFailed);
        let (out, frames) = mpsc::channel(FRAMES_OUT);
        let expected = Arc::new(Expected::default());
        let bytes_out = Arc::default();
        let tickets = tickets_of(&shared);
        let held = self.hold(tickets.as_deref());
        tasks.spawn(streams::write_control(myself.clone(), epoch, send, frames, Arc::clone(&bytes_out)));
        let permits = Arc::new(Semaphore::new(FRAMES_WAITING));
        tasks.spawn(streams::read_control(myself.clone(), epoch, receive, permits));
        self.receive(myself, epoch, &bulk_secret, &expected, &mut tasks);
        let assets = shared.iter().map(|one| one.theirs.assets).sum();
        let (lanes, effects) = self.begin_lanes(shared);
        let (endpoint, session) = (self.args.endpoint.clone(), self.args.connection.clone());
        let bulk = BulkOutgoing::new(endpoint, session, takes_bulk.then_some(bulk_secret));
        self.running = Some(Running {
            lanes,
            known,
            revocations_sent: HashMap::new(),
            name: name.clone(),
            generation: self.args.replica.libraries.generation(),
            hold_generation: self.args.replica.libraries.hold_rules().generation(),
            epoch,
            out,
            bytes_out,
            held,
            expected,
            serving: HashMap::new(),
            serve_turns: Turns::new(SERVED_AT_ONCE),
            bulk,
            streams: SendStreams::default(),
            meter: Meter::of(Arc::clone(&self.args.traffic)),
            peer_finds: finds,
            peer_hears_doubled: hears_doubled,
            keeping: Keeping::new(keeps),
            finding: HashMap::new(),
            looking: 0,
            confirmed: Hlc::default(),
            waiting_changes: 0,
            waiting_told: WaitingTold::default(),
            stale: 0,
            tasks,
        });
        self.note_proven(boot_id);
        self.shared_view().keeps = keeps;
        self.forget_dates();
        self.hear_clock(clock_ms);
        self.tell(PeersMsg::SessionUp { session: self.args.session, name, ticket, assets, tickets });
        self.send_revocations();
        for (lane, effects) in effects.into_iter().enumerate() {
            self.perform(myself, lane, effects);
        }
        for entries in std::mem::take(&mut self.early) {
            self.step_all(myself, |lane| lane.library.changes(&entries).map(SessionInput::changed));
        }
        if std::mem::take(&mut self.early_lost) {
            self.step_all(myself, |_| Some(SessionInput::ChangesLost));
        }
        self.publish();
    }

    /// Takes in contents, on the session's connection and on bulk connections beside it.
    fn receive(
        &self,
        myself: &ActorRef<PeerMsg>,
        epoch: u64,
        secret: &BulkSecret,
        expected: &Arc<Expected>,
        tasks: &mut Tasks<PeerMsg>,
    ) {
        let (results, arrived) = mpsc::channel(FRAMES_WAITING);
        tasks.spawn(streams::forward_results(myself.clone(), epoch, arrived));
        let receiver = Receiver {
            taker: self.args.taker(),
            partials: self.args.replica.partials.clone(),
            peer: self.args.connection.remote_id(),
            expected: Arc::clone(expected),
            traffic: Arc::clone(&self.args.traffic),
            moving: self.args.receiving.clone(),
            stall: self.args.limits.stall,
            pace: self.args.limits.download.clone(),
            results,
            bulk: None,
        };
        let peer = self.args.connection.remote_id();
        let arrivals = self.args.bulk.register(peer, secret.clone());
        let bulk = BulkReceiver::new(myself.clone(), epoch, &self.args, receiver.clone());
        tasks.spawn(bulk.run(arrivals));
        tasks.spawn(streams::accept_uni(myself.clone(), self.args.connection.clone(), receiver));
    }

    fn begin_lanes(&self, shared: Vec<CommonLibrary>) -> (Vec<Lane>, Vec<Vec<SessionEffect>>) {
        let count = shared.len();
        let begin = |one| {
            let (peer, dialer) =
                (self.args.connection.remote_id(), self.args.connection.side() == Side::Client);
            Lane::new(one, peer, (dialer, count), self.args.limits.probe_after, Instant::now())
        };
        shared.into_iter().map(begin).unzip()
    }

    fn note_proven(&self, boot_id: u64) {
        let mut view = self.shared_view();
        view.proven = true;
        view.boot_id = Some(boot_id);
    }

    /// Counts what the session will hold, among those of its kind.
    fn hold(&self, tickets: Option<&[TicketSerial]>) -> HeldBySession {
        let ticket = tickets.and_then(|tickets| tickets.first().copied());
        let connection = self.args.connection.clone();
        self.args.held.begin(self.args.session, ticket, move || {
            tracing::info!(peer = %connection.remote_id().fmt_short(), "closing a connection: too much waits on it");
            let why = b"too much waits on this connection, and on others like it";
            connection.close(VarInt::from_u32(close::BUSY), why);
        })
    }

    pub(super) fn on_establish_failed(&mut self, myself: &ActorRef<PeerMsg>, error: EstablishError) {
        match error {
            EstablishError::NotShared => {
                self.not_shared(true);
                self.close(close::NOT_SHARED, "no shared library");
            }
            EstablishError::NothingToOffer => self.close(close::SHUTDOWN, "nothing to share any more"),
            EstablishError::Refused(why) => {
                tracing::info!(peer = %self.args.connection.remote_id().fmt_short(), %why, "refused a connection");
                self.refuse(&why);
            }
            EstablishError::Auth(AuthError::OwnId(_)) => self.close(close::REFUSED, &error.to_string()),
            EstablishError::Outdated(id, list) => self.on_outdated(myself, id, *list),
            EstablishError::Wire(_)
            | EstablishError::PeerOutdated
            | EstablishError::Timeout(_)
            | EstablishError::Auth(_)
            | EstablishError::OtherKind => {
                if error.is_violation() {
                    return self.close(close::VIOLATION, &error.to_string());
                }
                // Perhaps both sides opened a control stream at once, and then the dialler's counts; the tick sets the
                // limit.
                if self.args.connection.side() == Side::Client {
                    self.close(close::TIMEOUT, &error.to_string());
                }
            }
        }
    }

    pub(super) fn on_control_ended(&mut self, epoch: u64, reason: &str, violation: bool) {
        if !self.is_current(epoch) {
            return;
        }
        if violation {
            return self.close(close::VIOLATION, reason);
        }
        // The peer's actor may have crashed: it has a moment to open a new control stream.
        tracing::debug!(peer = %self.args.connection.remote_id().fmt_short(), reason, "the control stream ended");
        self.running = None;
        self.shared_view().keeps = false;
        self.forget_dates();
        self.proved.send_replace(None);
        self.establish_by = Instant::now() + self.args.limits.establish;
        self.tell(PeersMsg::SessionReset { session: self.args.session });
        self.publish();
    }

    pub(super) fn on_connection_closed(&mut self) {
        let reason = self.args.connection.close_reason();
        if let Some(ConnectionError::ApplicationClosed(close)) = &reason
            && [close::REFUSED, close::DENIED, close::UNAPPROVED]
                .map(VarInt::from_u32)
                .contains(&close.error_code)
        {
            self.note_refused(&String::from_utf8_lossy(&close.reason));
        }
        if self.running.is_none() && reason.is_some_and(|reason| is_close(&reason, close::NOT_SHARED)) {
            self.not_shared(false);
        }
    }
}

/// By which tickets a peer was let into libraries; `None` for one of our network, which shares everything.
fn tickets_of(shared: &[CommonLibrary]) -> Option<Vec<TicketSerial>> {
    let foreign = shared.iter().all(|one| !one.library.is_mirror());
    let claims = || shared.iter().filter_map(|one| Some(&one.member.as_ref()?.claims));
    let serial = |claims: &Claims| TicketSerial { library: claims.library, serial: claims.serial };
    foreign.then(|| claims().map(serial).collect())
}
