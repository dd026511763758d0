//! Hints that arrive one by one, for those who look at each.

use can_sync::testing::actor::ServiceRef;
use can_sync::testing::discovery::candidates::Candidates;
use can_sync::testing::discovery::channel::Channels;
use can_sync::testing::discovery::gossip::GossipMsg;
use can_sync::testing::peer::messages::PeersMsg;

/// Tells both actors of each hint at once, where a node has hints wait.
pub(crate) fn told_at_once(
    peers: ServiceRef<PeersMsg>,
    gossip: ServiceRef<GossipMsg>,
    channels: Channels,
) -> Candidates {
    Candidates::new(channels, move |addr, channel| {
        let _ = gossip.cast(GossipMsg::Candidate { addr: addr.clone(), channel });
        let _ = peers.cast(PeersMsg::Candidate { addr, channel });
    })
}
