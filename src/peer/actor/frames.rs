//! Frames of the control stream on their way to the session that they are for.

use ractor::ActorRef;

use super::PeerState;
use crate::net::close;
use crate::peer::establish;
use crate::peer::messages::PeerMsg;
use crate::peer::session::{Session, SessionInput};
use crate::wire::proto::{Ping, Pong, Revocations, frame};

impl PeerState {
    /// The lane of the library with this blinded id; none is named where there is only one.
    pub(super) fn lane_of(&self, blinded: &bytes::Bytes) -> Option<usize> {
        let running = self.running.as_ref()?;
        if blinded.is_empty() || running.lanes.len() == 1 {
            return Some(0);
        }
        running.lanes.iter().position(|lane| lane.blinded == *blinded)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the session names all the others")]
    pub(super) fn on_frame(&mut self, myself: &ActorRef<PeerMsg>, kind: frame::Kind) {
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
            frame::Kind::Keep(keep) => return self.on_asked_to_keep(myself, lane, &keep),
            frame::Kind::Kept(kept) => return self.on_kept(&kept),
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
    pub(super) fn check_owed(&mut self) {
        let sessions = self.running.iter().flat_map(|running| &running.lanes).map(|lane| &lane.session);
        if Session::owe_too_much(sessions) {
            self.close(close::VIOLATION, "more offers than may be open, in all libraries together");
        }
    }

    pub(super) fn on_summary_ready(&mut self, lane: usize, nonce: u64, answer: bool, behind: bool) {
        let Some(shared) = self.running.as_mut().and_then(|running| running.lanes.get_mut(lane)) else {
            return;
        };
        let libraries = vec![establish::summary_to_wire(&shared.blinded, &shared.library.summary())];
        let is_mirror = shared.library.is_mirror();
        let clock_ms = if is_mirror { self.args.replica.deferrals.clock().own_ms() } else { 0 };
        if answer {
            let nonce = shared.answering.take().unwrap_or(nonce);
            self.send(frame::Kind::Pong(Pong { nonce, libraries, behind, clock_ms }));
        } else {
            shared.asked_behind = behind;
            self.send(frame::Kind::Ping(Ping { nonce, libraries, behind, clock_ms }));
        }
    }
}
