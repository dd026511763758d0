//! Hints that arrive one by one, for those who look at each.

use can_sync::actor::ServiceRef;
use can_sync::discovery::candidates::Candidates;
use can_sync::discovery::channel::Channels;
use can_sync::discovery::gossip::GossipMsg;
use can_sync::peer::messages::PeersMsg;

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
