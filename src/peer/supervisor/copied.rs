//! PeersActor notices another machine with our endpoint id: both run on copies of one data directory.
//!
//! Each takes the other's connections over, and neither is told by the other: they do not dial their own id. They meet where one
//! reaches the other by chance, and otherwise a peer shows it: it closes our connection for another one that we do not have.

use iroh::EndpointId;
use std::time::Duration;
use tokio::time::Instant;

use super::PeersState;
use crate::net::auth::AuthError;

/// How long it is told after the last sign of it.
const SHOWN: Duration = Duration::from_mins(10);

/// What is known of such a machine.
#[derive(Debug, Default)]
pub(super) struct Copied {
    seen: Option<Instant>,
}

impl Copied {
    fn is_shown(&self) -> bool {
        self.seen.is_some_and(|at| at.elapsed() < SHOWN)
    }
}

impl PeersState {
    pub(super) fn on_own_id_seen(&mut self) {
        if !self.copied.is_shown() {
            tracing::error!("{}", AuthError::OwnId(self.args.endpoint.id()));
        }
        self.copied.seen = Some(Instant::now());
    }

    /// A peer closed our connection for another one, and we have none with it.
    pub(super) fn on_closed_for_another(&mut self, id: &EndpointId) {
        // Once it is known, each goes on to show it.
        if self.roster.closed_for_another(id, Instant::now()) || self.copied.is_shown() {
            self.on_own_id_seen();
        }
    }

    /// What there is to say of it.
    pub(super) fn copied(&self) -> Option<String> {
        self.copied.is_shown().then(|| AuthError::OwnId(self.args.endpoint.id()).to_string())
    }
}
