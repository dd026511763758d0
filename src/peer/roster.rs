//! Who is known, whom to dial and when, and which of two connections to keep. Pure: time and chance come in.

use std::collections::HashMap;
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use crate::discovery::channel::{Channel, Sources};

/// Longest wait before a lost connection is dialled again; chance spreads the two ends apart.
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// Two connections of one pair that came up within this time were dialled at once by both ends; later, a new one means
/// that the peer no longer has the old one.
const AT_ONCE: Duration = Duration::from_secs(5);

/// How peers are dialled.
#[derive(Clone, Debug)]
pub struct DialLimits {
    /// Connections that we dial.
    pub dialled_max: usize,
    /// Dials under way at once.
    pub at_once_max: usize,
    /// Peers that are known.
    pub known_max: usize,
    /// Waits between attempts to reach a peer: doubled from this one…
    pub backoff_min: Duration,
    /// …to this one, plus up to as much by chance.
    pub backoff_max: Duration,
}

/// Where a peer stands between us and it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing; dialled again at this time, or never by us.
    Idle {
        /// When.
        dial_at: Option<Instant>,
    },
    /// A dial is under way.
    Dialing,
    /// There is a connection.
    Connected {
        /// Since when.
        since: Instant,
        /// Whether we dialled it.
        dialed_here: bool,
    },
}

/// One known peer.
#[derive(Clone, Debug)]
pub struct Known {
    /// Where it can be reached; perhaps without any address yet.
    pub addr: EndpointAddr,
    /// What it calls itself.
    pub name: String,
    /// Milliseconds since the Unix epoch of its last session.
    pub last_seen_ms: Option<u64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Where it stands.
    pub link: Link,
    /// Which channels led to it; none if it only connected.
    pub sources: Sources,
    /// Until when it is left alone.
    held_until: Option<Instant>,
    attempts: u32,
    /// Whether the last connection that it dialled was turned away in favour of the one that there was.
    turned_away: bool,
}

impl Known {
    /// Whether it never had a session with us and nobody named it to us: it only connected.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        self.last_seen_ms.is_none() && self.sources.is_empty()
    }
}

/// Everyone known.
#[derive(Debug)]
pub struct Roster {
    own_id: EndpointId,
    peers: HashMap<EndpointId, Known>,
    limits: DialLimits,
}

impl Roster {
    /// Nobody yet.
    #[must_use]
    pub fn new(own_id: EndpointId, limits: DialLimits) -> Self {
        Self { own_id, peers: HashMap::new(), limits }
    }

    /// A peer may be at `addr`, says this channel. `false` if that is ourselves or there is no room.
    pub fn candidate(&mut self, addr: EndpointAddr, channel: Channel, now: Instant) -> bool {
        // Whom a user names is dialled at once, whatever the back-off.
        let fresh = matches!(channel, Channel::Tickets | Channel::Bootstrap);
        if addr.id == self.own_id
            || (self.peers.len() >= self.limits.known_max && !self.peers.contains_key(&addr.id))
        {
            return false;
        }
        let known = self.entry(addr.id);
        known.sources.insert(channel);
        if !addr.addrs.is_empty() {
            known.addr = addr;
        }
        if fresh {
            known.attempts = 0;
            known.held_until = None;
        }
        if let Link::Idle { dial_at } = &mut known.link
            && (fresh || dial_at.is_none())
        {
            *dial_at = Some(now);
        }
        true
    }

    fn entry(&mut self, id: EndpointId) -> &mut Known {
        self.peers.entry(id).or_insert_with(|| Known {
            addr: EndpointAddr::new(id),
            name: String::new(),
            last_seen_ms: None,
            last_error: None,
            link: Link::Idle { dial_at: None },
            sources: Sources::new(),
            held_until: None,
            attempts: 0,
            turned_away: false,
        })
    }

    /// A peer, if known.
    #[must_use]
    pub fn get(&self, id: &EndpointId) -> Option<&Known> {
        self.peers.get(id)
    }

    /// As [`Roster::get`], to note something about it.
    pub fn get_mut(&mut self, id: &EndpointId) -> Option<&mut Known> {
        self.peers.get_mut(id)
    }

    /// Everyone.
    pub fn iter(&self) -> impl Iterator<Item = (&EndpointId, &Known)> {
        self.peers.iter()
    }

    /// Takes a peer out; whether it was there.
    pub fn forget(&mut self, id: &EndpointId) -> bool {
        self.peers.remove(id).is_some()
    }

    /// Whom to dial now; they count as being dialled.
    pub fn due(&mut self, now: Instant) -> Vec<EndpointAddr> {
        let busy = self.peers.values().filter(|p| p.link == Link::Dialing).count();
        let dialled = |p: &&Known| matches!(p.link, Link::Connected { dialed_here: true, .. });
        let room = self.limits.dialled_max.saturating_sub(self.peers.values().filter(dialled).count() + busy);
        let mut due: Vec<(Instant, EndpointId)> = self
            .peers
            .iter()
            .filter_map(|(id, p)| match p.link {
                Link::Idle { dial_at: Some(at) } if at <= now => Some((at, *id)),
                Link::Idle { .. } | Link::Dialing | Link::Connected { .. } => None,
            })
            .collect();
        due.sort_unstable_by_key(|(at, id)| (*at, *id.as_bytes()));
        due.truncate(self.limits.at_once_max.saturating_sub(busy).min(room));
        due.into_iter()
            .map(|(_, id)| {
                let known = self.entry(id);
                known.link = Link::Dialing;
                known.addr.clone()
            })
            .collect()
    }

    /// Everyone who waits is dialled now.
    pub fn dial_now(&mut self, now: Instant) {
        for known in self.peers.values_mut() {
            if let Link::Idle { dial_at } = &mut known.link {
                *dial_at = Some(now);
                known.attempts = 0;
            }
        }
    }

    /// A dial came to nothing.
    pub fn dial_failed(&mut self, id: &EndpointId, error: String, now: Instant, chance: f64) {
        let Some(known) = self.peers.get_mut(id) else { return };
        known.last_error = Some(error);
        if known.link == Link::Dialing {
            let wait = self.limits.backoff(known.attempts, chance);
            known.link = Link::Idle { dial_at: Some(now + wait) };
            known.attempts = known.attempts.saturating_add(1);
        }
    }

    /// There is a new connection with `id`: whether to keep it. If so and there was one before, that one is to be
    /// closed. Of two that were dialled at once, both ends keep the one dialled by the smaller id. A peer that dials
    /// again after it was turned away does not have the other one: it was started anew, and ours leads nowhere.
    pub fn connected(&mut self, id: EndpointId, dialed_here: bool, now: Instant) -> bool {
        let own_id = self.own_id;
        let known = self.entry(id);
        let keep = match known.link {
            Link::Idle { .. } | Link::Dialing => true,
            Link::Connected { since, dialed_here: old } => {
                let insists = known.turned_away && !dialed_here;
                let at_once = old != dialed_here && now.duration_since(since) < AT_ONCE && !insists;
                let ours_wins = own_id.as_bytes() < id.as_bytes();
                !at_once || dialed_here == ours_wins
            }
        };
        known.turned_away = !keep && !dialed_here;
        if keep {
            known.link = Link::Connected { since: now, dialed_here };
        }
        keep
    }

    /// The session with `id` is up.
    pub fn session_up(&mut self, id: &EndpointId, now_ms: u64) {
        if let Some(known) = self.peers.get_mut(id) {
            known.attempts = 0;
            known.last_error = None;
            known.last_seen_ms = Some(now_ms);
        }
    }

    /// The connection with `id` is over. A session that worked is dialled again soon; one that never came about backs
    /// off as a failed dial does.
    pub fn disconnected(
        &mut self,
        id: &EndpointId,
        worked: bool,
        error: Option<String>,
        now: Instant,
        chance: f64,
    ) {
        let Some(known) = self.peers.get_mut(id) else { return };
        known.last_error = error.or(known.last_error.take());
        let wait = if worked {
            known.attempts = 0;
            REDIAL_MAX.mul_f64(chance)
        } else {
            known.attempts = known.attempts.saturating_add(1);
            self.limits.backoff(known.attempts, chance)
        };
        known.link = Link::Idle { dial_at: Some(now + wait) };
    }

    /// Whether `id` is left alone at `now`.
    #[must_use]
    pub fn holds(&self, id: &EndpointId, now: Instant) -> bool {
        self.peers.get(id).and_then(|known| known.held_until).is_some_and(|until| now < until)
    }

    /// Leaves a peer alone until `until`.
    pub fn hold(&mut self, id: &EndpointId, until: Instant, why: String) {
        if let Some(known) = self.peers.get_mut(id) {
            known.held_until = Some(until);
            known.last_error = Some(why);
            known.link = Link::Idle { dial_at: Some(until) };
        }
    }
}

impl DialLimits {
    fn backoff(&self, attempts: u32, chance: f64) -> Duration {
        let base = self.backoff_min.saturating_mul(2_u32.saturating_pow(attempts)).min(self.backoff_max);
        (base + base.mul_f64(chance.clamp(0.0, 1.0))).min(self.backoff_max)
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn limits(dialled_max: usize) -> DialLimits {
        DialLimits {
            dialled_max,
            at_once_max: 8,
            known_max: 4096,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_mins(5),
        }
    }

    /// Two ids, the smaller first.
    fn ids() -> (EndpointId, EndpointId) {
        let mut ids = [1, 2].map(|n| SecretKey::from_bytes(&[n; 32]).public());
        ids.sort_unstable_by_key(|id| *id.as_bytes());
        (ids[0], ids[1])
    }

    fn addr(id: EndpointId) -> EndpointAddr {
        EndpointAddr::new(id).with_ip_addr(([127, 0, 0, 1], 1).into())
    }

    #[test]
    fn both_ends_keep_the_same_of_two_connections_dialled_at_once() {
        let (small, large) = ids();
        let now = Instant::now();
        for first_is_by_small in [true, false] {
            for (own, other) in [(small, large), (large, small)] {
                let mut roster = Roster::new(own, limits(16));
                let by_small = own == small;
                let first = first_is_by_small == by_small;
                assert!(roster.connected(other, first, now));
                let kept_second = roster.connected(other, !first, now);
                assert_eq!(kept_second, !first_is_by_small, "own id is the smaller: {by_small}");
            }
        }
    }

    #[test]
    fn a_peer_that_comes_back_replaces_its_dead_connection() {
        let (small, large) = ids();
        let now = Instant::now();
        let mut roster = Roster::new(small, limits(16));
        assert!(roster.connected(large, true, now));
        assert!(roster.connected(large, false, now + AT_ONCE), "it dials because it no longer has ours");
        assert!(roster.connected(large, false, now + AT_ONCE), "and once more the same way");
    }

    #[test]
    fn a_peer_that_was_started_anew_at_once_is_let_in_when_it_insists() {
        let (small, large) = ids();
        let now = Instant::now();
        let mut roster = Roster::new(small, limits(16));
        assert!(roster.connected(large, true, now));
        assert!(!roster.connected(large, false, now), "perhaps both dialled at once");
        assert!(roster.connected(large, false, now + AT_ONCE / 2), "no, it has no connection");
        assert!(roster.connected(large, true, now + AT_ONCE / 2), "and what is dialled now is judged afresh");
        assert!(!roster.connected(large, false, now + AT_ONCE / 2));
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_end_with_a_session() {
        let (own, other) = ids();
        let mut now = Instant::now();
        let mut roster = Roster::new(own, limits(16));
        assert!(!roster.candidate(addr(own), Channel::Tickets, now), "nobody dials himself");
        assert!(roster.candidate(addr(other), Channel::Tickets, now));
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(roster.due(now).len(), 1);
            assert!(roster.due(now).is_empty(), "one dial at a time");
            roster.dial_failed(&other, "no answer".into(), now, 0.0);
            let Link::Idle { dial_at: Some(at) } = roster.get(&other).unwrap().link else { panic!() };
            waits.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        roster.connected(other, true, now);
        roster.session_up(&other, 1);
        roster.disconnected(&other, true, None, now, 1.0);
        assert_eq!(roster.due(now + REDIAL_MAX).len(), 1);
    }

    #[test]
    fn no_more_dials_than_there_is_room_for() {
        let (own, _) = ids();
        let now = Instant::now();
        let mut roster = Roster::new(own, limits(10));
        for n in 10..60 {
            roster.candidate(addr(SecretKey::from_bytes(&[n; 32]).public()), Channel::Gossip, now);
        }
        let first = roster.due(now);
        assert_eq!(first.len(), 8);
        for a in &first {
            roster.connected(a.id, true, now);
        }
        assert_eq!(roster.due(now).len(), 2, "ten in all");
    }
}
