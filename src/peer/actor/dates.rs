//! PeerActor's part in clocks: what the peer's shows, which versions wait for one of the two, and what the peer has.

use super::PeerState;
use crate::peer::session::{Session, WaitingCounts};
use crate::record::Hlc;

/// Versions that wait and are told of one by one, of either side.
const WAITING_SHOWN_MAX: usize = 1_000;

/// Whether the log says already that versions wait, for a clock or for a list.
#[derive(Debug, Default)]
pub(super) struct WaitingTold {
    dated: bool,
    held: bool,
}

impl PeerState {
    /// Takes note of what the peer says its clock shows, if it is a machine of the user's own.
    pub(super) fn hear_clock(&self, clock_ms: u64) {
        let mirrored = self
            .running
            .as_ref()
            .is_some_and(|running| running.lanes.iter().any(|lane| lane.library.is_mirror()));
        if mirrored && clock_ms > 0 {
            self.args.replica.deferrals.clock().hear(*self.args.connection.remote_id().as_bytes(), clock_ms);
        }
    }

    /// Tells the clock what a machine of the user's own has, and the board what waits and what was offered.
    pub(super) fn note_dates(&mut self) {
        let Some(running) = &mut self.running else { return };
        let lanes = &running.lanes;
        for mirror in lanes.iter().filter(|lane| lane.library.is_mirror()) {
            let confirmed = mirror.session.confirmed();
            if confirmed > running.confirmed {
                running.confirmed = confirmed;
                self.args.replica.deferrals.clock().note_confirmed(confirmed.ms());
            }
        }
        for lane in lanes {
            // Of our own versions it has one of this date; whether it is right, only the user's own machines can tell.
            let confirmed_ms = lane.session.confirmed().ms();
            if let Some(id) = lane.library.id().filter(|_| confirmed_ms > 0) {
                self.args.replica.deferrals.note_confirmed(id, confirmed_ms);
            }
        }
        let newest_offered = lanes.iter().map(|lane| lane.session.newest_offered()).max().unwrap_or_default();
        let changes = lanes.iter().map(|lane| lane.session.waiting_changes()).sum();
        let mut board = self.args.board.lock();
        board.newest_offered = newest_offered;
        if std::mem::replace(&mut running.waiting_changes, changes) == changes {
            return;
        }
        board.waiting = lanes.iter().flat_map(|lane| lane.session.waiting(WAITING_SHOWN_MAX)).collect();
        let counts = lanes.iter().map(|lane| Session::standing(&lane.session).waiting);
        let WaitingCounts { dated_here, dated_there, held_here, held_there } =
            counts.fold(WaitingCounts::default(), WaitingCounts::and);
        let peer = self.args.connection.remote_id().fmt_short();
        if dated_here + dated_there > 0 && !std::mem::replace(&mut running.waiting_told.dated, true) {
            tracing::warn!(
                %peer,
                here = dated_here,
                there = dated_there,
                "versions wait because they are dated ahead, here of our clock, there of the peer's: check both clocks"
            );
        }
        if held_here + held_there > 0 && !std::mem::replace(&mut running.waiting_told.held, true) {
            tracing::warn!(
                %peer,
                here = held_here,
                there = held_there,
                "versions are held until a newer list of a library's revoked tickets comes: its owner, or a member that has met it, \
                 has to be met, here or by the peer"
            );
        }
    }

    /// Nothing waits on a session that is over, or begins.
    pub(super) fn forget_dates(&self) {
        let mut board = self.shared_view();
        board.waiting.clear();
        board.newest_offered = Hlc::default();
    }
}
