//! Where hints go.

use std::fmt;
use std::sync::Arc;

use iroh::EndpointAddr;

use super::channel::{Channel, ChannelSet, Channels};

/// Counts the peers that channels lead to, and hands them, each with its channel, to those that the node connected it with.
/// Cheap to clone.
#[derive(Clone)]
pub struct Candidates {
    channels: Channels,
    take: Arc<dyn Fn(EndpointAddr, Channel) + Send + Sync>,
}

impl Candidates {
    /// Counts in `channels`, and calls `take` for each hint; it must not block.
    pub fn new(channels: Channels, take: impl Fn(EndpointAddr, Channel) + Send + Sync + 'static) -> Self {
        Self { channels, take: Arc::new(take) }
    }

    /// A channel led to a peer.
    pub fn found(&self, addr: EndpointAddr, channel: Channel) {
        self.channels.found(channel, addr.id);
        (self.take)(addr, channel);
    }

    /// Somebody says by our own id that it is at these addresses, which are not ours: that is no peer, and counts for no channel.
    pub fn own_id_elsewhere(&self, addr: EndpointAddr, channel: Channel) {
        (self.take)(addr, channel);
    }

    /// A peer that was alive in an earlier run, and the channels that led to it then: they did not lead to it now, and that a
    /// user named it then does not make it one that a user names now.
    pub fn restored(&self, addr: &EndpointAddr, sources: ChannelSet) {
        for channel in sources.iter().filter(|channel| !channel.is_static()) {
            (self.take)(addr.clone(), channel);
        }
        self.found(addr.clone(), Channel::Saved);
    }
}

impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Candidates")
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use iroh::SecretKey;

    use super::*;

    #[test]
    fn what_is_restored_counts_for_no_channel_but_the_saved_one() {
        let (channels, taken) = (Channels::default(), Arc::<Mutex<Vec<Channel>>>::default());
        let into = Arc::clone(&taken);
        let candidates = Candidates::new(channels.clone(), move |_, channel| into.lock().push(channel));
        let addr = EndpointAddr::new(SecretKey::from_bytes(&[1; 32]).public());
        candidates.restored(&addr, ChannelSet::from([Channel::Tickets, Channel::Dht, Channel::Gossip]));
        assert_eq!(*taken.lock(), [Channel::Dht, Channel::Gossip, Channel::Saved]);
        let found = |channel| channels.reports().into_iter().find(|r| r.channel == channel).unwrap().found;
        assert_eq!(
            [Channel::Dht, Channel::Gossip, Channel::Tickets, Channel::Saved].map(found),
            [0, 0, 0, 1]
        );
    }
}
