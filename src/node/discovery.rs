//! What the discovery actors start from, put together from the configuration and the node's resources.

use std::sync::Arc;

use futures::FutureExt as _;

use super::Cells;
use super::resources::Resources;
use crate::actor::ServiceRef;
use crate::config::Config;
use crate::discovery::candidates::Candidates;
use crate::discovery::channel::{Channel, ChannelSet, Channels};
use crate::discovery::gossip::{GossipArgs, GossipMsg, PresenceProbe, topic_of};
use crate::discovery::hints::Hints;
use crate::discovery::list_peers;
use crate::discovery::mdns::Mdns;
use crate::discovery::network::NetworkSettings;
use crate::discovery::rendezvous::RendezvousArgs;
use crate::discovery::slot::SlotKeys;
use crate::discovery::slot::pace::Timing;
use crate::library::registry::DeviceStanding;
use crate::peer::messages::PeersMsg;

/// The channels, with those up that are about to be used. The actor that runs one says when it does not work.
pub(super) fn channels(config: &Config) -> Channels {
    let discovery = &config.discovery;
    let used = [
        (Channel::Tickets, true),
        (Channel::Gossip, true),
        (Channel::Bootstrap, !discovery.bootstrap.is_empty()),
        (Channel::Mdns, discovery.mdns),
        (Channel::Relays, !discovery.pkarr_relays.is_empty()),
        (Channel::Dht, discovery.dht),
    ];
    let channels = Channels::default();
    for (channel, _) in used.into_iter().filter(|(_, used)| *used) {
        channels.up(channel);
    }
    channels
}

/// Has hints wait for PeersActor, which decides about dialling, and GossipActor, which joins the swarm through what was
/// found. One of the two that is down just now finds them when it is back.
pub fn candidates(
    (peers, for_peers): (ServiceRef<PeersMsg>, Hints),
    (gossip, for_gossip): (ServiceRef<GossipMsg>, Hints),
    channels: Channels,
) -> Candidates {
    Candidates::new(channels, move |addr, channel| {
        if for_gossip.put(addr.clone(), channel) {
            let _ = gossip.cast(GossipMsg::HintsWaiting);
        }
        if for_peers.put(addr, channel) {
            let _ = peers.cast(PeersMsg::HintsWaiting);
        }
    })
}

/// Channels on which only those can speak who know the passphrase, or the topic's secret: slots are signed with keys that derive
/// from it, answers on the local network have a tag, and nobody hears of the topic who did not prove to know its key. A topic
/// without a secret is open to everybody who knows its name.
pub(super) fn sealed_channels(config: &Config) -> ChannelSet {
    let discovery = &config.discovery;
    let gossip = discovery.topic.is_none() || discovery.topic_secret.is_some();
    let mut sealed = ChannelSet::from([Channel::Relays, Channel::Dht, Channel::Mdns]);
    if gossip {
        sealed.insert(Channel::Gossip);
    }
    sealed
}

fn to_actors(resources: &Resources, cells: &Cells, channels: &Channels) -> Candidates {
    candidates(
        (cells.peers.service_ref(), resources.hints_for_peers.clone()),
        (cells.gossip.service_ref(), resources.hints_for_gossip.clone()),
        channels.clone(),
    )
}

pub(super) fn rendezvous(
    config: &Config,
    resources: &Resources,
    cells: &Cells,
    channels: &Channels,
) -> RendezvousArgs {
    RendezvousArgs {
        secret_key: resources.endpoint.secret_key().clone(),
        slots: SlotKeys::new(config.discovery.slots, &resources.keys, &resources.passphrase),
        keys: resources.keys.clone(),
        connect: NetworkSettings::of(&config.discovery).connector(),
        ticket: resources.ticket.clone(),
        candidates: to_actors(resources, cells, channels),
        channels: channels.clone(),
        directory: resources.directory.clone(),
        connected: resources.connected.subscribe(),
        timing: Timing::default(),
    }
}

pub(super) fn gossip(
    config: &Config,
    resources: &Resources,
    cells: &Cells,
    channels: &Channels,
) -> GossipArgs {
    let mirror = Arc::clone(resources.libraries.mirror());
    let (endpoint, rpc) = (resources.endpoint.clone(), resources.presence.rpc().clone());
    let probe: PresenceProbe = Arc::new(move |addr| {
        let (endpoint, rpc) = (endpoint.clone(), rpc.clone());
        async move { list_peers::probe(&endpoint, addr, &rpc).await }.boxed()
    });
    GossipArgs {
        gossip: resources.gossip.clone(),
        endpoint: resources.endpoint.clone(),
        gate: resources.gate.clone(),
        secret_key: resources.endpoint.secret_key().clone(),
        topic: topic_of(resources.presence.topic()),
        name: config.name.clone(),
        run: resources.run,
        run_heard: {
            let peers = cells.peers.service_ref();
            Arc::new(move |endpoint_id, boot_id| {
                // PeersActor may be down; announcements come again.
                let _ = peers.cast(PeersMsg::RunHeard { endpoint_id, boot_id });
            })
        },
        ticket: resources.ticket.clone(),
        summary: Arc::new(move || mirror.summary()),
        directory: resources.directory.clone(),
        book: resources.book.clone(),
        hints: resources.hints_for_gossip.clone(),
        candidates: to_actors(resources, cells, channels),
        channels: channels.clone(),
        lookup: resources.addresses.clone(),
        events: resources.events.clone(),
        announcements_per_sec: u32::try_from(config.limits.max_announcements_per_sec).unwrap_or(u32::MAX),
        probe,
        shut_out: {
            let libraries = Arc::clone(&resources.libraries);
            Arc::new(move |id| libraries.standing(id) == DeviceStanding::Denied)
        },
        mdns: config.discovery.mdns.then(|| Mdns::new(resources.keys.mdns())),
    }
}
