//! How a session stands, for reports.

use super::comparing::Reconciliation;
use super::{Session, WaitingCounts};
use crate::peer::report::ConnectionState;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Reconciling, syncing or in sync.
    pub state: ConnectionState,
    /// Live assets that the peer last said to hold.
    pub assets: u64,
    /// Records that it has and we want and do not have.
    pub missing_here: u64,
    /// Bytes of those whose size is known.
    pub missing_here_bytes: u64,
    /// Versions that it has and we do not know yet: what they say may be new here, or a deletion that is not applied.
    pub unseen: u64,
    /// Records that we have and it has not confirmed.
    pub missing_there: u64,
    pub last_error: Option<String>,
    /// Versions that one of the two sides does not take yet.
    pub waiting: WaitingCounts,
    /// The last round of comparing afresh that ended.
    pub verified: u64,
}

impl SessionStatus {
    /// Whether nothing is missing on either side. While the peer holds versions of ours, they may be nowhere else.
    pub fn is_in_sync(&self) -> bool {
        self.state == ConnectionState::InSync && self.waiting.held_there == 0
    }
}

impl Session {
    pub fn standing(&self) -> SessionStatus {
        let reconciling = self.comparing.reconciliation != Reconciliation::Ended;
        let moves = !self.taking.by_hash.is_empty() || self.offering.is_busy() || self.entries.is_busy();
        let state = if moves && !reconciling || self.is_incomplete() {
            ConnectionState::Syncing
        } else if self.is_busy() || self.comparing.verifying.is_some() {
            ConnectionState::Reconciling
        } else {
            ConnectionState::InSync
        };
        SessionStatus {
            state,
            assets: self.theirs.assets,
            missing_here: self.taking.wanted.0 + self.taking.failed.len() as u64 + self.entries.unsettled(),
            missing_here_bytes: self.taking.wanted.1,
            unseen: (self.asking.asked.len() + self.asking.waiting.len()) as u64,
            missing_there: self.offering.unconfirmed() + self.entries.unconfirmed(),
            last_error: self.last_error.clone(),
            waiting: self.deferred.counts().and(self.entries.waiting()),
            verified: self.comparing.verified,
        }
    }
}
