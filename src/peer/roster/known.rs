//! What is known of one peer.

use std::collections::BTreeSet;
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use super::ADDRS_MAX;
use crate::discovery::channel::{Channel, ChannelSet};
use crate::library::ticket::TicketSerial;
use crate::peer::places::Class;
use crate::peer::refusal::PeerRefusal;

/// A peer that is connected for libraries alone, and may be of our network, is offered the mirror this often: twice as late after
/// each time, up to the longer one.
pub(super) const OFFER_MIRROR_EVERY: Duration = Duration::from_mins(1);
pub(super) const OFFER_MIRROR_EVERY_MAX: Duration = Duration::from_hours(1);

/// The part of the roster that a peer takes up: each has its limit, so that what anybody can say fills no other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Named,
    /// It proved before that it knows the passphrase, or was alive in an earlier run.
    Own,
    /// Libraries led to it.
    Members,
    /// Only the local network did.
    LocalNetwork,
    /// Only rendezvous slots did.
    Slots,
    Gossip,
    /// Nothing did: it connected.
    Passing,
}

impl Share {
    pub(super) const COUNT: usize = 7;

    /// Of a peer of which nothing else is known than that this channel led to it.
    pub(super) fn of(channel: Channel) -> Self {
        match channel {
            Channel::Tickets | Channel::Bootstrap => Self::Named,
            Channel::Saved => Self::Own,
            Channel::Library => Self::Members,
            Channel::Mdns => Self::LocalNetwork,
            Channel::Relays | Channel::Dht => Self::Slots,
            Channel::Gossip => Self::Gossip,
        }
    }

    /// How many peers it may have, of `all` that the roster holds: half are for own devices. Those that a user named come on
    /// top; those that connected are bounded by the places for connections.
    pub(super) fn limit(self, all: usize) -> usize {
        match self {
            Self::Own => (all / 2).max(1),
            Self::Named | Self::Members | Self::LocalNetwork | Self::Slots | Self::Gossip => (all / 8).max(1),
            Self::Passing => usize::MAX,
        }
    }

    pub(super) fn is_hint(self) -> bool {
        match self {
            Self::LocalNetwork | Self::Slots | Self::Gossip => true,
            Self::Named | Self::Own | Self::Members | Self::Passing => false,
        }
    }
}

/// Where a peer stands between us and it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing; dialled again at this time, or never by us.
    Idle {
        dial_at: Option<Instant>,
    },
    Dialing,
    Connected {
        since: Instant,
        dialed_here: bool,
    },
}

#[derive(Clone, Debug)]
pub struct KnownPeer {
    /// Where it can be reached; perhaps without any address yet.
    pub addr: EndpointAddr,
    pub name: String,
    /// Milliseconds since the Unix epoch of its last session.
    pub last_seen_ms: Option<u64>,
    pub last_error: Option<String>,
    /// Who of the two did not let the other in when it was last there.
    pub refusal: Option<PeerRefusal>,
    pub link: LinkState,
    /// Which channels led to it; none if it only connected.
    pub sources: ChannelSet,
    /// Whether it is offered the mirror when we dial it: a user named it, it came through a channel that takes the passphrase
    /// to speak on, or it proved before that it knows it.
    pub(super) vouched: bool,
    /// While it is connected for libraries alone: when it is next offered the mirror, on a second connection.
    pub(super) offer_mirror_at: Option<Instant>,
    /// How often that was in vain.
    pub(super) mirror_offers: u32,
    pub(super) held_until: Option<Instant>,
    pub(super) hinted_at: Option<Instant>,
    pub(super) attempts: u32,
    pub(super) dialled_at: Option<Instant>,
    /// The same, where that dial takes no room of others ([`super::Roster::retry`]).
    pub(super) retried_at: Option<Instant>,
    /// When its last session was over; after a start, when it was remembered. Nothing while there is one, and where the
    /// connection was given up.
    pub(super) lost_at: Option<Instant>,
    /// Whether the last connection that it dialled was turned away in favour of the one that there was.
    pub(super) turned_away: bool,
    /// Whether it was met as a member of libraries alone; and by which ticket it was let in, as far as known.
    pub(super) is_member: bool,
    pub(super) ticket: Option<TicketSerial>,
}

impl KnownPeer {
    pub(super) fn new(id: EndpointId) -> Self {
        Self {
            addr: EndpointAddr::new(id),
            name: String::new(),
            last_seen_ms: None,
            last_error: None,
            refusal: None,
            link: LinkState::Idle { dial_at: None },
            sources: ChannelSet::new(),
            vouched: false,
            offer_mirror_at: None,
            mirror_offers: 0,
            held_until: None,
            hinted_at: None,
            attempts: 0,
            dialled_at: None,
            retried_at: None,
            lost_at: None,
            turned_away: false,
            is_member: false,
            ticket: None,
        }
    }

    pub fn class(&self) -> Class {
        match self.ticket {
            _ if self.is_wanted() => Class::Named,
            _ if self.vouched => Class::Own,
            Some(ticket) => Class::Member(ticket),
            None => Class::Stranger,
        }
    }

    /// Whether it proved to know the passphrase before, or was alive in an earlier run.
    pub fn is_own(&self) -> bool {
        self.share() == Share::Own
    }

    /// Whether it was let in before as a machine of this network, and still would be.
    pub fn was_own(&self) -> bool {
        self.last_seen_ms.is_some() && !self.is_member && self.refusal.is_none()
    }

    pub(super) fn share(&self) -> Share {
        let by = |channel: Channel| self.sources.contains(channel);
        if self.is_wanted() {
            Share::Named
        } else if self.is_member && !self.vouched {
            Share::Members
        } else if self.last_seen_ms.is_some() || by(Channel::Saved) {
            Share::Own
        } else if by(Channel::Library) {
            Share::Members
        } else if by(Channel::Gossip) {
            Share::Gossip
        } else if by(Channel::Relays) || by(Channel::Dht) {
            Share::Slots
        } else if by(Channel::Mdns) {
            Share::LocalNetwork
        } else {
            Share::Passing
        }
    }

    /// Whether it never had a session with us and nobody named it to us: it only connected.
    pub fn is_stranger(&self) -> bool {
        self.last_seen_ms.is_none() && self.sources.is_empty()
    }

    /// Whether our user decides about it: it waits for approval, or was shut out.
    pub(super) fn waits_for_user(&self) -> bool {
        matches!(self.refusal, Some(PeerRefusal::ApprovalWanted | PeerRefusal::DeniedHere))
    }

    /// Whether nobody vouches for it: it was never there, and no user, ticket or earlier session named it.
    pub fn is_hint(&self) -> bool {
        self.last_seen_ms.is_none() && !self.sources.iter().any(Channel::is_static)
    }

    /// Whether a user named it, so that we want a connection to it whatever else is connected.
    pub fn is_wanted(&self) -> bool {
        self.sources.iter().any(Self::names)
    }

    /// Whether a user named the peers that come through this channel.
    pub const fn names(channel: Channel) -> bool {
        matches!(channel, Channel::Tickets | Channel::Bootstrap)
    }

    /// Whether it is offered the mirror when we dial it. Others are offered the libraries in which they take part, and nothing
    /// else.
    pub fn is_offered_mirror(&self) -> bool {
        self.vouched
    }

    /// Adds addresses, as many as there may be; the new ones stay where there are too many, so that wrong ones keep nobody out.
    pub(super) fn add_addrs(&mut self, addr: EndpointAddr) {
        let new: BTreeSet<_> = addr.addrs.into_iter().take(ADDRS_MAX).collect();
        let room = ADDRS_MAX - new.len();
        let old = std::mem::take(&mut self.addr.addrs);
        self.addr.addrs = old.into_iter().filter(|addr| !new.contains(addr)).take(room).collect();
        self.addr.addrs.extend(new);
    }

    pub(super) fn offer_mirror_wait(&self) -> Duration {
        let doublings = self.mirror_offers.saturating_sub(1).min(16);
        OFFER_MIRROR_EVERY.saturating_mul(2_u32.saturating_pow(doublings)).min(OFFER_MIRROR_EVERY_MAX)
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.link, LinkState::Connected { .. })
    }
}
