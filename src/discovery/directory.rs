//! Everyone who has announced themselves, with what they said, by our own clock. Pure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use super::channel::Sources;

/// One agent, as others are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Who.
    pub id: EndpointId,
    /// What it calls itself: printable, at most 64 characters. Empty until it said so.
    pub name: String,
    /// Live assets that it said to hold.
    pub assets: u64,
    /// Bytes of those.
    pub total_bytes: u64,
    /// Since it was last known to be alive, by our own clock.
    pub age: Duration,
    /// Whether it did not answer when it was asked for a sign of life.
    pub stale: bool,
    /// Where it can be reached, as far as known.
    pub addr: EndpointAddr,
    /// Which channels led to it.
    pub sources: Sources,
    /// Its last announcement as it signed it (an encoded [`crate::proto::SignedAnnouncement`]), to be passed on.
    pub signed: Option<Bytes>,
}

/// The directory, shared: GossipActor writes it, others read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SharedDirectory(Arc<Mutex<Directory>>);

impl SharedDirectory {
    /// Exclusive access, for a moment: never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Directory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everyone.
#[derive(Debug, Default)]
pub struct Directory {
    own: Option<Bytes>,
}

impl Directory {
    /// Everyone who is fresh or stale, by id.
    #[must_use]
    pub fn listings(&self, now: Instant) -> Vec<Listing> {
        let _ = now;
        Vec::new()
    }

    /// Agents that were alive within the last two minutes, ourselves not among them.
    #[must_use]
    pub fn fresh(&self, now: Instant) -> usize {
        self.listings(now).iter().filter(|listing| !listing.stale).count()
    }

    /// Our own announcement as we last signed it.
    #[must_use]
    pub fn own(&self) -> Option<Bytes> {
        self.own.clone()
    }
}
