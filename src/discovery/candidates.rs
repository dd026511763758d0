//! Where hints go.

use std::fmt;
use std::sync::Arc;

use iroh::EndpointAddr;

use super::channel::{Channel, Sources};

/// Hands the peers that were found, and the channel that led to each, to those that the node connected it with. Cheap to
/// clone.
#[derive(Clone)]
pub struct Candidates(Arc<dyn Fn(EndpointAddr, Channel) + Send + Sync>);

impl Candidates {
    /// Calls `take` for each hint; it must not block.
    pub fn new(take: impl Fn(EndpointAddr, Channel) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// A peer that was alive in an earlier run, and the channels that led to it then. That a user named it then does not
    /// make it one that a user names now.
    pub fn restored(&self, addr: &EndpointAddr, sources: &Sources) {
        let found = sources.iter().copied().filter(|channel| !channel.is_static());
        for channel in found.chain([Channel::Saved]) {
            self.found(addr.clone(), channel);
        }
    }

    /// A channel led to a peer.
    pub fn found(&self, addr: EndpointAddr, channel: Channel) {
        (self.0)(addr, channel);
    }
}

impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Candidates")
    }
}
