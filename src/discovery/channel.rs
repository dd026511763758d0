//! The ways of finding peers, and how each of them does.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use iroh::EndpointId;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use utoipa::ToSchema;

/// Peers that are counted per channel; beyond that, the count stands still.
const FOUND_MAX: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Peers remembered from earlier runs.
    Saved,
    Mdns,
    /// Tickets: files, users, other programs.
    Tickets,
    /// The configured list.
    Bootstrap,
    /// Rendezvous slots on pkarr relays.
    Relays,
    /// Rendezvous slots in the mainline DHT.
    Dht,
    /// Announcements.
    Gossip,
    /// Members of libraries that we joined, by their tickets.
    Library,
}

impl Channel {
    /// All of them, in the order in which they are preferred.
    pub const ALL: [Self; 8] = [
        Self::Saved,
        Self::Mdns,
        Self::Tickets,
        Self::Bootstrap,
        Self::Relays,
        Self::Dht,
        Self::Gossip,
        Self::Library,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Mdns => "mdns",
            Self::Tickets => "tickets",
            Self::Bootstrap => "bootstrap",
            Self::Relays => "relays",
            Self::Dht => "dht",
            Self::Gossip => "gossip",
            Self::Library => "library",
        }
    }
}

impl Channel {
    /// Whether it names peers once, instead of looking for them again and again; somebody meant these peers, so they are
    /// dialled at once, whatever their back-off.
    pub const fn is_static(self) -> bool {
        match self {
            Self::Saved | Self::Tickets | Self::Bootstrap | Self::Library => true,
            Self::Mdns | Self::Relays | Self::Dht | Self::Gossip => false,
        }
    }
}

/// The channels that led to one peer. It is asked for every known peer each time one is chosen, so it is one byte.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelSet(u8);

impl ChannelSet {
    pub const fn new() -> Self {
        Self(0)
    }

    const fn bit(channel: Channel) -> u8 {
        1 << channel as u8
    }

    pub const fn contains(self, channel: Channel) -> bool {
        self.0 & Self::bit(channel) != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds one; whether it was not there.
    pub fn insert(&mut self, channel: Channel) -> bool {
        let is_new = !self.contains(channel);
        self.0 |= Self::bit(channel);
        is_new
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The channels in the set, in the order of [`Channel::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Channel> {
        Channel::ALL.into_iter().filter(move |channel| self.contains(*channel))
    }
}

impl FromIterator<Channel> for ChannelSet {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> Self {
        channels.into_iter().fold(Self::new(), |set, channel| set.union(Self(Self::bit(channel))))
    }
}

impl<const N: usize> From<[Channel; N]> for ChannelSet {
    fn from(channels: [Channel; N]) -> Self {
        channels.into_iter().collect()
    }
}

impl fmt::Debug for ChannelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Whether a discovery channel works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelState {
    /// In use.
    Up,
    /// Tried, and fails at the moment.
    Down,
    /// Switched off, or nothing to do.
    Off,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelReport {
    pub channel: Channel,
    pub state: ChannelState,
    /// When it last did what it is for, in milliseconds since the Unix epoch.
    pub last_success_ms: Option<u64>,
    /// Peers that it has led to.
    pub found: u64,
    /// Why it is down, where it is.
    pub last_error: Option<String>,
}

/// How all channels do: written by the actors that run them, read for reports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Channels(Arc<Mutex<ChannelReports>>);

#[derive(Debug)]
struct ChannelReports {
    reports: Vec<ChannelReport>,
    /// The agents that each channel led to, so that none counts twice.
    found: HashSet<(Channel, EndpointId)>,
}

impl Default for Channels {
    /// All off.
    fn default() -> Self {
        let off = |channel| ChannelReport {
            channel,
            state: ChannelState::Off,
            last_success_ms: None,
            found: 0,
            last_error: None,
        };
        let reports = Channel::ALL.map(off).to_vec();
        Self(Arc::new(Mutex::new(ChannelReports { reports, found: HashSet::new() })))
    }
}

impl Channels {
    /// Every channel, in the order of [`Channel::ALL`].
    pub fn reports(&self) -> Vec<ChannelReport> {
        self.lock().reports.clone()
    }

    /// It is in use; nothing has come of it yet, or not lately.
    pub fn up(&self, channel: Channel) {
        self.change(channel, |report| {
            report.state = ChannelState::Up;
            report.last_error = None;
        });
    }

    /// It fails at the moment.
    pub fn down(&self, channel: Channel, why: &str) {
        self.change(channel, |report| {
            report.state = ChannelState::Down;
            report.last_error = Some(why.to_owned());
        });
    }

    /// It did what it is for, at `now_ms` since the Unix epoch: a record was read or written, a message came.
    pub fn succeeded(&self, channel: Channel, now_ms: u64) {
        self.change(channel, |report| {
            report.state = ChannelState::Up;
            report.last_error = None;
            report.last_success_ms = Some(now_ms);
        });
    }

    /// It led to a peer; whether for the first time.
    pub fn found(&self, channel: Channel, id: EndpointId) -> bool {
        let mut state = self.lock();
        let ChannelReports { reports, found } = &mut *state;
        let Some(report) = reports.iter_mut().find(|report| report.channel == channel) else { return false };
        let new = report.found < FOUND_MAX && found.insert((channel, id));
        report.found += u64::from(new);
        new
    }

    fn change(&self, channel: Channel, change: impl FnOnce(&mut ChannelReport)) {
        if let Some(report) = self.lock().reports.iter_mut().find(|report| report.channel == channel) {
            change(report);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ChannelReports> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_tells_it_in_order() {
        let mut set = ChannelSet::new();
        assert!(set.is_empty());
        for channel in Channel::ALL.into_iter().rev() {
            assert!(!set.contains(channel));
            assert!(set.insert(channel) && !set.insert(channel));
            assert_eq!(set.iter().next(), Some(channel));
        }
        assert!(set.iter().eq(Channel::ALL));
        let [first, .., last] = Channel::ALL;
        assert_eq!(
            ChannelSet::from([last]).union(ChannelSet::from([first])),
            ChannelSet::from([first, last])
        );
    }

    #[test]
    fn each_peer_counts_once_per_channel() {
        let channels = Channels::default();
        let id = SecretKey::from_bytes(&[1; 32]).public();
        assert!(channels.found(Channel::Mdns, id));
        assert!(!channels.found(Channel::Mdns, id));
        assert!(channels.found(Channel::Dht, id));
        channels.succeeded(Channel::Dht, 5);
        channels.down(Channel::Mdns, "no network");
        let reports = channels.reports();
        let of = |channel| reports.iter().find(|report| report.channel == channel).unwrap();
        assert_eq!((of(Channel::Mdns).found, of(Channel::Dht).found, of(Channel::Saved).found), (1, 1, 0));
        assert_eq!(of(Channel::Dht).last_success_ms, Some(5));
        assert_eq!(of(Channel::Mdns).last_error.as_deref(), Some("no network"));
        assert_eq!(of(Channel::Saved).state, ChannelState::Off);
    }
}
