//! What is known of one agent.

use std::time::Duration;

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use super::AgentListing;
use crate::discovery::announcement::ADDRS_MAX;
use crate::discovery::channel::ChannelSet;

/// Waits between attempts to join through one agent: after one that worked, and after failures, doubled each time.
const JOIN_AGAIN: Duration = Duration::from_mins(2);
const JOIN_RETRY_MIN: Duration = Duration::from_secs(15);
const JOIN_RETRY_MAX: Duration = Duration::from_mins(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AgentStanding {
    /// Heard of lately, or about to be asked.
    Fresh,
    /// Asked for a sign of life.
    Asked {
        since: Instant,
    },
    Stale,
}

/// How much an entry rests on. Nobody makes room for somebody of lower rank, so invented agents, which cost nothing, displace
/// only one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Somebody said that it exists.
    Hint,
    /// It signed an announcement.
    Heard,
    /// It proved that it is of our network.
    Proven,
}

#[derive(Debug)]
pub(super) struct DirectoryEntry {
    pub(super) name: String,
    pub(super) assets: u64,
    pub(super) total_bytes: u64,
    pub(super) addr: EndpointAddr,
    pub(super) sources: ChannelSet,
    pub(super) signed: Option<Bytes>,
    /// When it was last known to be alive; `None` for a hint.
    pub(super) alive: Option<Instant>,
    pub(super) standing: AgentStanding,
    /// The same by the wall clock, for the next start.
    pub(super) last_success_ms: Option<u64>,
    pub(super) heard: Option<Instant>,
    /// How often it did, since it is on the list.
    pub(super) times_heard: u32,
    pub(super) connected: bool,
    /// Whether it has proved in this run that it is of our network.
    pub(super) proven: bool,
    /// Attempts to reach it that failed, since the last that did not.
    pub(super) failures: u32,
    /// When a channel last named it.
    pub(super) hinted: Instant,
    pub(super) join_at: Instant,
    /// When it was last offered as a candidate.
    pub(super) offered: Option<Instant>,
    pub(super) saved: Option<Instant>,
    pub(super) unsaved: bool,
}

impl DirectoryEntry {
    pub(super) fn new(id: EndpointId, now: Instant) -> Self {
        Self {
            name: String::new(),
            assets: 0,
            total_bytes: 0,
            addr: EndpointAddr::new(id),
            sources: ChannelSet::new(),
            signed: None,
            alive: None,
            standing: AgentStanding::Fresh,
            last_success_ms: None,
            heard: None,
            times_heard: 0,
            connected: false,
            proven: false,
            failures: 0,
            hinted: now,
            join_at: now,
            offered: None,
            saved: None,
            unsaved: false,
        }
    }

    /// Since it was last known to be alive.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.alive.map(|alive| now.saturating_duration_since(alive))
    }

    pub(super) fn listing(&self, id: EndpointId, now: Instant) -> Option<AgentListing> {
        let stale = self.standing == AgentStanding::Stale;
        Some(AgentListing {
            id,
            name: self.name.clone(),
            assets: self.assets,
            total_bytes: self.total_bytes,
            age: self.age(now)?,
            stale,
            addr: self.addr.clone(),
            sources: self.sources,
            signed: self.signed.clone().filter(|_| !stale),
        })
    }

    pub(super) fn lives(&mut self, now: Instant, now_ms: u64) {
        self.alive = Some(now);
        self.standing = AgentStanding::Fresh;
        self.last_success_ms = Some(now_ms);
        self.hinted = now;
        self.failures = 0;
    }

    /// Whether it counts for how large the network is. To invent agents that speak once costs nothing, and is not to make the others
    /// speak less often.
    pub(super) fn is_settled(&self) -> bool {
        self.alive.is_some() && (self.proven || self.times_heard > 1)
    }

    /// It is no longer taken for alive; where it was may still help.
    pub(super) fn become_hint(&mut self) {
        self.alive = None;
        self.standing = AgentStanding::Fresh;
        self.signed = None;
        self.heard = None;
        self.times_heard = 0;
        self.offered = None;
        self.connected = false;
    }

    /// An attempt to reach it failed.
    pub(super) fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let wait = JOIN_RETRY_MIN.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
        self.join_at = now + wait.min(JOIN_RETRY_MAX);
    }

    /// An attempt to join through it begins.
    pub(super) fn join_later(&mut self, now: Instant) {
        self.join_at = now + JOIN_AGAIN;
    }

    /// Attempts that were under way have come to nothing.
    pub(super) fn join_again(&mut self, now: Instant) {
        let soon = if self.proven { now } else { now + JOIN_RETRY_MIN };
        self.join_at = self.join_at.min(soon);
    }

    /// Adds addresses; the new ones stay where there are too many.
    pub(super) fn merge_addrs(&mut self, addr: &EndpointAddr) {
        self.addr.addrs.extend(addr.addrs.iter().cloned());
        while self.addr.addrs.len() > ADDRS_MAX {
            let old = self.addr.addrs.iter().find(|old| !addr.addrs.contains(*old)).cloned();
            match old.or_else(|| self.addr.addrs.last().cloned()) {
                Some(old) => self.addr.addrs.remove(&old),
                None => break,
            };
        }
    }

    pub(super) fn rank(&self) -> Rank {
        match (self.alive, self.proven) {
            (None, _) => Rank::Hint,
            (Some(_), true) if self.standing != AgentStanding::Stale => Rank::Proven,
            (Some(_), _) => Rank::Heard,
        }
    }

    /// Who goes first when there is no room: the least.
    pub(super) fn worth(&self) -> (Rank, bool, Option<Instant>, Instant) {
        (self.rank(), self.standing != AgentStanding::Stale, self.alive, self.hinted)
    }
}
