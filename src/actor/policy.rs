//! The one table that says what a supervisor does when a child ends, and in which order children stop.
//!
//! `actors.md` shows the same table; a test compares the two.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChildKind {
    CanService,
    Rendezvous,
    Gossip,
    Library,
    /// The HTTP server of an embedded store.
    StoreServer,
    /// Has an embedded store scrubbed.
    Scrub,
    /// Directories of this machine.
    Folders,
    /// One directory; a child of [`ChildKind::Folders`].
    Folder,
    /// Who to connect to.
    Peers,
    /// One session; a child of [`ChildKind::Peers`].
    Peer,
    /// The agent's API and page.
    Http,
    Signal,
}

impl ChildKind {
    /// Every kind, in the order of [`POLICIES`].
    pub const ALL: [Self; 12] = [
        Self::CanService,
        Self::Rendezvous,
        Self::Gossip,
        Self::Library,
        Self::StoreServer,
        Self::Scrub,
        Self::Folders,
        Self::Folder,
        Self::Peers,
        Self::Peer,
        Self::Http,
        Self::Signal,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::CanService => "CanServiceActor",
            Self::Rendezvous => "RendezvousActor",
            Self::Gossip => "GossipActor",
            Self::Library => "LibraryActor",
            Self::StoreServer => "StoreServerActor",
            Self::Scrub => "ScrubActor",
            Self::Folders => "FoldersActor",
            Self::Folder => "FolderActor",
            Self::Peers => "PeersActor",
            Self::Peer => "PeerActor",
            Self::Http => "HttpActor",
            Self::Signal => "SignalActor",
        }
    }
}

impl fmt::Display for ChildKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// After which exits a child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// After every exit that nobody asked for.
    Always,
    /// After a failure or a kill; an actor that stops by itself is let go.
    OnFailure,
}

/// How many restarts are allowed within a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartBudget {
    pub restarts: u32,
    /// Length of the window; a child that runs this long without failing starts afresh.
    pub window: Duration,
}

/// How long to wait before a restart: the first is immediate, the second waits for `min`, then twice as long each time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Delay of the second restart.
    pub min: Duration,
    /// Longest delay, jitter included.
    pub max: Duration,
    /// Largest share of the delay that chance adds, between 0 and 1. At most 1, so that delays never shrink.
    pub jitter: f64,
}

/// What happens when the budget is spent, or when the child says that a restart cannot help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// Ordered shutdown with a failure.
    Escalate,
    /// The node goes on without it, says so, and tries again at the longest back-off.
    Degrade,
    /// That peer is left alone for a while, each time longer.
    BackOffPeer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    pub kind: ChildKind,
    pub restart: Restart,
    pub budget: RestartBudget,
    pub backoff: Backoff,
    pub exhausted: Exhausted,
    /// Children with a lower number stop first, those with the same number together.
    pub stop_order: u8,
    /// How long an ordered stop may take before the child is killed.
    pub stop_timeout: Duration,
}

const PER_MINUTE_10: RestartBudget = RestartBudget { restarts: 10, window: Duration::from_mins(1) };
const PER_MINUTE_5: RestartBudget = RestartBudget { restarts: 5, window: Duration::from_mins(1) };

/// For children that the node cannot do without: ten restarts fit well into the window, so that a child which fails at
/// once spends its budget instead of crawling along at the longest delay.
const BRISK: Backoff = Backoff { min: Duration::from_millis(50), max: Duration::from_secs(2), jitter: 0.5 };

/// The policy of a child that the node cannot do without.
const fn vital(kind: ChildKind, stop_order: u8, stop_secs: u64) -> RestartPolicy {
    RestartPolicy {
        kind,
        restart: Restart::Always,
        budget: PER_MINUTE_10,
        backoff: BRISK,
        exhausted: Exhausted::Escalate,
        stop_order,
        stop_timeout: Duration::from_secs(stop_secs),
    }
}

/// The policy of a child without which the node goes on.
const fn spared(kind: ChildKind, stop_order: u8, stop_secs: u64) -> RestartPolicy {
    RestartPolicy {
        backoff: Backoff { max: Duration::from_secs(30), ..BRISK },
        exhausted: Exhausted::Degrade,
        ..vital(kind, stop_order, stop_secs)
    }
}

pub static POLICIES: [RestartPolicy; 12] = [
    // Stops late: actors that stop before it may still have something to write.
    spared(ChildKind::CanService, 3, 10),
    // Without one of the ways of finding peers, the others go on.
    spared(ChildKind::Rendezvous, 1, 2),
    spared(ChildKind::Gossip, 1, 2),
    // Without it nobody could be shut out any more.
    vital(ChildKind::Library, 2, 2),
    // Stops first, as HttpActor does. Without it programs on this machine reach no store, and peers still do.
    spared(ChildKind::StoreServer, 1, 5),
    // Without it what rots is noticed later.
    spared(ChildKind::Scrub, 1, 2),
    // Without it no directory is kept alike; the network goes on. It has its children stop first.
    spared(ChildKind::Folders, 1, 4),
    RestartPolicy {
        budget: PER_MINUTE_5,
        backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_mins(1), jitter: 0.5 },
        ..spared(ChildKind::Folder, 1, 2)
    },
    vital(ChildKind::Peers, 2, 5),
    // PeersActor stops these while it stops itself, so theirs must be the shorter time.
    RestartPolicy {
        restart: Restart::OnFailure,
        budget: PER_MINUTE_5,
        backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_mins(5), jitter: 0.5 },
        exhausted: Exhausted::BackOffPeer,
        ..vital(ChildKind::Peer, 2, 2)
    },
    // Stops first: no new work comes in while the rest goes down.
    vital(ChildKind::Http, 1, 5),
    // Stops last: a second signal and a status dump must work while the others stop.
    vital(ChildKind::Signal, 4, 1),
];

pub fn policy(kind: ChildKind) -> &'static RestartPolicy {
    &POLICIES[kind as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_row_at_its_place() {
        assert_eq!(ChildKind::ALL.len(), POLICIES.len());
        for kind in ChildKind::ALL {
            assert_eq!(policy(kind).kind, kind);
        }
    }

    #[test]
    fn numbers_are_within_reason() {
        for p in &POLICIES {
            assert!((0.0..=1.0).contains(&p.backoff.jitter), "{}: delays would shrink", p.kind);
            assert!(p.backoff.min <= p.backoff.max, "{}", p.kind);
            assert!(p.budget.restarts > 0 && !p.budget.window.is_zero(), "{}", p.kind);
            assert!(!p.stop_timeout.is_zero(), "{}", p.kind);
        }
        assert!(policy(ChildKind::Peer).stop_timeout < policy(ChildKind::Peers).stop_timeout);
        assert!(policy(ChildKind::Folder).stop_timeout < policy(ChildKind::Folders).stop_timeout);
    }

    #[test]
    fn the_documented_table_is_this_table() {
        let documented: Vec<Vec<&str>> = include_str!("../../actors.md")
            .lines()
            .skip_while(|line| !line.starts_with("| child "))
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let actual: Vec<Vec<String>> = POLICIES.iter().map(row).collect();
        assert_eq!(documented, actual);
    }

    fn row(p: &RestartPolicy) -> Vec<String> {
        let restart = match p.restart {
            Restart::Always => "always",
            Restart::OnFailure => "on failure",
        };
        let exhausted = match p.exhausted {
            Exhausted::Escalate => "escalate",
            Exhausted::Degrade => "degrade",
            Exhausted::BackOffPeer => "back off",
        };
        let percent = p.backoff.jitter * 100.0;
        vec![
            p.kind.to_string(),
            restart.to_owned(),
            format!("{} / {:?}", p.budget.restarts, p.budget.window),
            format!("{:?} to {:?}, + {percent:.0} %", p.backoff.min, p.backoff.max),
            exhausted.to_owned(),
            p.stop_order.to_string(),
            format!("{:?}", p.stop_timeout),
        ]
    }
}
