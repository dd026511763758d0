//! Who is known, whom to dial and when, and which of two connections to keep. Pure: time and chance come in.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use crate::discovery::channel::{Channel, Sources};

/// Longest wait before a lost connection is dialled again; chance spreads the two ends apart.
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// Two connections of one pair that came up within this time were dialled at once by both ends; later, a new one means
/// that the peer no longer has the old one.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Failed dials in a row after which a peer is forgotten that only hints led to and that was never there.
const GIVE_UP_AFTER: u32 = 5;
/// How long further hints at such a peer, or at one of another network, are ignored.
const SILENT_FOR: Duration = Duration::from_hours(1);
/// How many of those are remembered.
const SILENT_MAX: usize = 4096;
/// A hint at a peer that is being left alone for longer brings the next dial forward, this often.
const HINTED_EVERY: Duration = Duration::from_secs(30);
/// In a network with more peers than we connect to, one connection is exchanged for another this often, so that no group
/// closes itself off.
const ROTATE_EVERY: Duration = Duration::from_mins(10);
/// A peer that is connected for libraries alone, and may be of our network, is offered the mirror this often: twice as late after
/// each time, up to the longer one.
const OFFER_MIRROR_EVERY: Duration = Duration::from_mins(1);
const OFFER_MIRROR_EVERY_MAX: Duration = Duration::from_hours(1);
/// Addresses of one peer that are kept.
const ADDRS_MAX: usize = 32;

/// How peers are dialled.
#[derive(Clone, Debug)]
pub struct DialLimits {
    /// Connections that we dial; and connections in all beyond which nobody is dialled whom no user named.
    pub dialled_max: usize,
    /// Dials under way at once to peers that only hints led to.
    pub hints_at_once_max: usize,
    /// Peers that are known.
    pub known_max: usize,
    /// Channels on which only those can speak who know the passphrase, or the topic's secret.
    pub sealed: Sources,
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
    /// Whether it is offered the mirror when we dial it: a user named it, it came through a channel that takes the passphrase
    /// to speak on, or it proved before that it knows it.
    vouched: bool,
    /// While it is connected for libraries alone: when it is next offered the mirror, on a second connection.
    offer_mirror_at: Option<Instant>,
    /// How often that was in vain.
    mirror_offers: u32,
    /// Until when it is left alone.
    held_until: Option<Instant>,
    /// When a hint last brought the next dial forward.
    hinted_at: Option<Instant>,
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

    /// Whether nobody vouches for it: it was never there, and no user, ticket or earlier session named it.
    #[must_use]
    pub fn is_hint(&self) -> bool {
        self.last_seen_ms.is_none() && !self.sources.iter().any(|channel| channel.is_static())
    }

    /// Whether a user named it, so that we want a connection to it whoever else is connected.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.sources.iter().any(|channel| Self::names(*channel))
    }

    /// Whether whoever comes through this channel was named by a user.
    #[must_use]
    pub const fn names(channel: Channel) -> bool {
        matches!(channel, Channel::Tickets | Channel::Bootstrap)
    }

    /// Whether it is offered the mirror when we dial it. Others are offered the libraries in which they take part, and nothing
    /// else.
    #[must_use]
    pub fn is_offered_mirror(&self) -> bool {
        self.vouched
    }

    /// Adds addresses, as many as there may be; the new ones stay where there are too many, so that wrong ones keep nobody out.
    fn add_addrs(&mut self, addr: EndpointAddr) {
        let new: BTreeSet<_> = addr.addrs.into_iter().take(ADDRS_MAX).collect();
        let room = ADDRS_MAX - new.len();
        let old = std::mem::take(&mut self.addr.addrs);
        self.addr.addrs = old.into_iter().filter(|addr| !new.contains(addr)).take(room).collect();
        self.addr.addrs.extend(new);
    }

    fn offer_mirror_wait(&self) -> Duration {
        let doublings = self.mirror_offers.saturating_sub(1).min(16);
        OFFER_MIRROR_EVERY.saturating_mul(2_u32.saturating_pow(doublings)).min(OFFER_MIRROR_EVERY_MAX)
    }

    fn is_connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }
}

/// A peer that hints led to in vain.
#[derive(Clone, Copy, Debug)]
struct Silent {
    until: Instant,
    /// Whether it was there, and of another network.
    answered: bool,
}

/// Everyone known.
#[derive(Debug)]
pub struct Roster {
    own_id: EndpointId,
    peers: HashMap<EndpointId, Known>,
    /// Peers that never answered, or are of another network; hints at them are ignored for a while.
    silent: HashMap<EndpointId, Silent>,
    rotated_at: Option<Instant>,
    limits: DialLimits,
}

impl Roster {
    /// Nobody yet.
    #[must_use]
    pub fn new(own_id: EndpointId, limits: DialLimits) -> Self {
        Self { own_id, peers: HashMap::new(), silent: HashMap::new(), rotated_at: None, limits }
    }

    /// A peer may be at `addr`, says this channel. `false` if that is ourselves, if it is not worth a try, or if there is
    /// no room.
    pub fn candidate(&mut self, addr: EndpointAddr, channel: Channel, now: Instant) -> bool {
        let id = addr.id;
        // Whom a user names is dialled at once, whatever the back-off.
        let wanted = Known::names(channel);
        if wanted {
            self.silent.remove(&id);
        }
        // An announcement is a sign of life: whoever did not answer was not there yet, or was sought where it is not.
        let ignored = self
            .silent
            .get(&id)
            .is_some_and(|silent| now < silent.until && (silent.answered || channel != Channel::Gossip));
        if id == self.own_id || ignored || (!self.peers.contains_key(&id) && !self.make_room()) {
            return false;
        }
        let vouched = wanted || self.limits.sealed.contains(&channel);
        let known = self.entry(id);
        known.sources.insert(channel);
        known.vouched |= vouched;
        if wanted && !addr.addrs.is_empty() {
            known.addr = addr;
        } else {
            // Where it was reached before stays: a hint may be wrong.
            known.add_addrs(addr);
        }
        if wanted {
            known.attempts = 0;
            known.held_until = None;
            known.offer_mirror_at = known.offer_mirror_at.map(|at| at.min(now));
        }
        let hinted_lately = known.hinted_at.is_some_and(|at| now.duration_since(at) < HINTED_EVERY);
        let held = known.held_until.is_some_and(|until| now < until);
        if let Link::Idle { dial_at } = &mut known.link {
            let far = dial_at.is_none_or(|at| at > now + HINTED_EVERY);
            let at_once = wanted || dial_at.is_none() || (channel == Channel::Library && !held);
            if at_once || (far && !hinted_lately && !held) {
                *dial_at = Some(now);
                known.hinted_at = Some(now);
            }
        }
        true
    }

    /// This peer is offered the mirror from now on.
    pub fn vouch(&mut self, id: &EndpointId) {
        if let Some(known) = self.peers.get_mut(id) {
            known.vouched = true;
        }
    }

    /// Makes room for one more; whether there is some. What only hints led to goes first, and of that whatever failed most.
    fn make_room(&mut self) -> bool {
        if self.peers.len() < self.limits.known_max {
            return true;
        }
        let idle_hints =
            self.peers.iter().filter(|(_, p)| p.is_hint() && matches!(p.link, Link::Idle { .. }));
        let worst = idle_hints.filter(|(_, p)| p.attempts > 0).max_by_key(|(_, p)| p.attempts);
        let Some(id) = worst.map(|(id, _)| *id) else { return false };
        self.peers.remove(&id);
        true
    }

    /// Forgets a peer and ignores hints at it for a while.
    fn silence(&mut self, id: &EndpointId, answered: bool, now: Instant) {
        self.peers.remove(id);
        if self.silent.len() >= SILENT_MAX {
            self.silent.retain(|_, silent| now < silent.until);
        }
        if self.silent.len() < SILENT_MAX {
            self.silent.insert(*id, Silent { until: now + SILENT_FOR, answered });
        }
    }

    fn entry(&mut self, id: EndpointId) -> &mut Known {
        self.peers.entry(id).or_insert_with(|| Known {
            addr: EndpointAddr::new(id),
            name: String::new(),
            last_seen_ms: None,
            last_error: None,
            link: Link::Idle { dial_at: None },
            sources: Sources::new(),
            vouched: false,
            offer_mirror_at: None,
            mirror_offers: 0,
            held_until: None,
            hinted_at: None,
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

    /// Whom to dial now, of those that `may_dial` says, and whether only hints led there; they count as being dialled. Whom a user
    /// named comes first, then whoever failed least; `chance` spreads the rest, so that not everybody dials the same peers.
    pub fn due(
        &mut self,
        now: Instant,
        chance: u64,
        may_dial: impl Fn(&EndpointId, &Known) -> bool,
    ) -> Vec<(EndpointAddr, bool)> {
        let dialing = self.peers.values().filter(|p| p.link == Link::Dialing).count();
        let hints = self.peers.values().filter(|p| p.link == Link::Dialing && p.is_hint()).count();
        let connected = self.connected_count();
        let dialled = |p: &&Known| matches!(p.link, Link::Connected { dialed_here: true, .. });
        let dialled = self.peers.values().filter(dialled).count();
        let mut room = self.limits.dialled_max.saturating_sub(dialled + dialing);
        let mut room_for_others = self.limits.dialled_max.saturating_sub(connected + dialing);
        let mut room_for_hints = self.limits.hints_at_once_max.saturating_sub(hints);

        let mut due: Vec<(bool, u32, u64, EndpointId)> = self
            .peers
            .iter()
            .filter(|(_, p)| matches!(p.link, Link::Idle { dial_at: Some(at) } if at <= now))
            .filter(|(id, p)| may_dial(id, p))
            .map(|(id, p)| (!p.is_wanted(), p.attempts, shuffled(id, chance), *id))
            .collect();
        due.sort_unstable_by_key(|(unwanted, attempts, order, _)| (*unwanted, *attempts, *order));
        let mut chosen = Vec::new();
        for (unwanted, .., id) in due {
            let known = self.entry(id);
            let hint = known.is_hint();
            if room == 0 || (unwanted && room_for_others == 0) || (hint && room_for_hints == 0) {
                continue;
            }
            room -= 1;
            room_for_others = room_for_others.saturating_sub(1);
            room_for_hints = room_for_hints.saturating_sub(usize::from(hint));
            known.link = Link::Dialing;
            chosen.push((known.addr.clone(), hint));
        }
        chosen
    }

    /// Peers with a connection.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        self.peers.values().filter(|p| p.is_connected()).count()
    }

    /// Whom to dial because something is searched for, whatever the usual limits and waits: at most `room` under way at
    /// once, of those that `is_sought` says. They count as being dialled; with each, whether only hints led to it.
    pub fn seek(
        &mut self,
        now: Instant,
        chance: u64,
        room: usize,
        is_sought: impl Fn(&EndpointId, &Known) -> bool,
    ) -> Vec<(EndpointAddr, bool)> {
        let dialing = self.peers.values().filter(|p| p.link == Link::Dialing).count();
        let mut sought: Vec<(u32, u64, EndpointId)> = self
            .idle(now)
            .filter(|(id, p)| is_sought(id, p))
            .map(|(id, p)| (p.attempts, shuffled(id, chance), *id))
            .collect();
        sought.sort_unstable_by_key(|(attempts, order, _)| (*attempts, *order));
        sought.truncate(room.saturating_sub(dialing));
        let dial = |(_, _, id)| {
            let known = self.entry(id);
            known.link = Link::Dialing;
            (known.addr.clone(), known.is_hint())
        };
        sought.into_iter().map(dial).collect()
    }

    /// Whether there is anybody whom [`Roster::seek`] could give when there is room, or who is being dialled anyway.
    #[must_use]
    pub fn could_seek(&self, now: Instant, is_sought: impl Fn(&EndpointId, &Known) -> bool) -> bool {
        let dialed = self.peers.iter().filter(|(_, p)| p.link == Link::Dialing);
        self.idle(now).chain(dialed).any(|(id, p)| is_sought(id, p))
    }

    /// Those without a connection that are not left alone.
    fn idle(&self, now: Instant) -> impl Iterator<Item = (&EndpointId, &Known)> {
        self.peers.iter().filter(move |(_, p)| {
            matches!(p.link, Link::Idle { .. }) && p.held_until.is_none_or(|until| now >= until)
        })
    }

    /// The connection to give up in favour of a peer that waits for a place, if it is time for that: the oldest of those
    /// that we dialled and that no user asked for.
    pub fn rotate(&mut self, now: Instant, chance: f64) -> Option<EndpointId> {
        let since = *self.rotated_at.get_or_insert(now);
        if now.duration_since(since) < ROTATE_EVERY.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0) {
            return None;
        }
        let connected = self.peers.values().filter(|p| p.is_connected()).count();
        let waiting = self.peers.values().any(|p| {
            matches!(p.link, Link::Idle { dial_at: Some(at) } if at <= now) && p.attempts < GIVE_UP_AFTER
        });
        if connected < self.limits.dialled_max || !waiting {
            return None;
        }
        let candidates = self.peers.iter().filter(|(_, p)| !p.is_wanted());
        let dialled = candidates.filter_map(|(id, p)| match p.link {
            Link::Connected { since, dialed_here: true } => Some((since, *id)),
            Link::Connected { .. } | Link::Idle { .. } | Link::Dialing => None,
        });
        let (_, oldest) = dialled.min_by_key(|(since, id)| (*since, *id.as_bytes()))?;
        self.rotated_at = Some(now);
        Some(oldest)
    }

    /// The connection with `id` was given up in favour of another peer, by us or by it: not dialled again soon.
    pub fn rotated(&mut self, id: &EndpointId, now: Instant) {
        if let Some(known) = self.peers.get_mut(id) {
            known.attempts = 0;
            known.hinted_at = Some(now + ROTATE_EVERY);
            known.link = Link::Idle { dial_at: Some(now + 2 * ROTATE_EVERY) };
        }
    }

    /// Everyone who waits is dialled now, but for those that are left alone.
    pub fn dial_now(&mut self, now: Instant) {
        for known in self.peers.values_mut() {
            if known.held_until.is_some_and(|until| now < until) {
                continue;
            }
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
            if known.attempts >= GIVE_UP_AFTER && known.is_hint() {
                self.silence(id, false, now);
            }
        }
    }

    /// The peer is not of our network. Hints at it were wrong; whom a user named stays, for the user to see why.
    pub fn not_shared(&mut self, id: &EndpointId, now: Instant) {
        let Some(known) = self.peers.get_mut(id) else { return };
        if known.is_hint() && !known.is_stranger() {
            self.silence(id, true, now);
        } else {
            known.last_error =
                Some("it does not know our passphrase: check that both sides use the same one".into());
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

    /// The session with `id` is up; `mirror` says that it proved to know the passphrase.
    pub fn session_up(&mut self, id: &EndpointId, mirror: bool, now_ms: u64) {
        if let Some(known) = self.peers.get_mut(id) {
            known.vouched |= mirror;
            if mirror {
                known.offer_mirror_at = None;
                known.mirror_offers = 0;
            }
            known.attempts = 0;
            known.last_error = None;
            known.last_seen_ms = Some(now_ms);
        }
    }

    /// The session with `id` is for libraries alone. If it is vouched for now or later, it is offered the mirror on a second
    /// connection; a while later where that was `refused` just now.
    pub fn libraries_alone(&mut self, id: &EndpointId, refused: bool, now: Instant) {
        if let Some(known) = self.peers.get_mut(id) {
            known.mirror_offers = known.mirror_offers.max(u32::from(refused));
            let at = if known.mirror_offers == 0 { now } else { now + known.offer_mirror_wait() };
            known.offer_mirror_at.get_or_insert(at);
        }
    }

    /// Whom to offer the mirror now, on a second connection. They count as having been offered it.
    pub fn offer_mirror(&mut self, now: Instant) -> Vec<EndpointAddr> {
        let due = self.peers.values_mut().filter(|known| {
            let due = known.offer_mirror_at.is_some_and(|at| at <= now);
            due && known.vouched && known.is_connected()
        });
        let offered = due.map(|known| {
            known.mirror_offers = known.mirror_offers.saturating_add(1);
            known.offer_mirror_at = Some(now + known.offer_mirror_wait());
            known.addr.clone()
        });
        offered.collect()
    }

    /// A second connection with `id` takes the place of the first.
    pub fn replaced(&mut self, id: &EndpointId, dialed_here: bool, now: Instant) {
        if let Some(known) = self.peers.get_mut(id) {
            known.link = Link::Connected { since: now, dialed_here };
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
        known.offer_mirror_at = None;
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

/// A place in an order that differs from node to node and from time to time. Ids are as good as random.
fn shuffled(id: &EndpointId, chance: u64) -> u64 {
    let bytes = id.as_bytes();
    let id = bytes.iter().rev().fold(0_u64, |sum, byte| sum.rotate_left(9) ^ u64::from(*byte));
    (id ^ chance).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn limits(dialled_max: usize) -> DialLimits {
        DialLimits {
            dialled_max,
            hints_at_once_max: 8,
            known_max: 4096,
            sealed: Sources::from([Channel::Relays, Channel::Dht, Channel::Gossip]),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_mins(5),
        }
    }

    fn anybody(_: &EndpointId, _: &Known) -> bool {
        true
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
    fn a_peer_that_is_left_alone_stays_so_when_the_network_changes() {
        let (small, large) = ids();
        let now = Instant::now();
        let mut roster = Roster::new(small, limits(16));
        assert!(roster.candidate(addr(large), Channel::Tickets, now));
        roster.hold(&large, now + Duration::from_mins(5), "it broke the rules".into());
        roster.dial_now(now);
        assert!(roster.due(now, 0, anybody).is_empty());
        assert_eq!(roster.due(now + Duration::from_mins(5), 0, anybody).len(), 1);
    }

    #[test]
    fn a_search_dials_beyond_the_usual_number_and_whoever_waits() {
        let now = Instant::now();
        let ids: Vec<EndpointId> = (1..=6).map(|n| SecretKey::from_bytes(&[n; 32]).public()).collect();
        let mut roster = Roster::new(SecretKey::from_bytes(&[99; 32]).public(), limits(1));
        for id in &ids {
            assert!(roster.candidate(addr(*id), Channel::Saved, now));
        }
        let usual = roster.due(now, 0, anybody);
        assert_eq!(usual.len(), 1);
        assert!(roster.connected(usual[0].0.id, true, now));
        roster.hold(&ids[5], now + Duration::from_mins(5), "it broke the rules".into());
        let asked = ids[4];
        let sought = |id: &EndpointId, _: &Known| *id != asked;
        let first = roster.seek(now, 0, 2, sought);
        assert_eq!((first.len(), roster.seek(now, 0, 2, sought)), (2, vec![]), "two at a time");
        for (addr, _) in &first {
            assert!(addr.id != asked && addr.id != ids[5], "left alone");
            assert!(roster.connected(addr.id, true, now));
        }
        assert_eq!(roster.connected_count(), 3);
        let rest = roster.seek(now, 0, 2, sought);
        assert_eq!(rest.len(), 6 - 1 - first.len() - 2);
        assert!(roster.could_seek(now, sought), "they are being dialled");
        assert!(roster.could_seek(now, |id, _| *id == asked));
        assert!(!roster.could_seek(now, |id, _| *id == ids[5]));
    }

    #[test]
    fn wrong_addresses_keep_no_right_one_out() {
        let (small, large) = ids();
        let now = Instant::now();
        let mut roster = Roster::new(small, limits(16));
        for n in 0..100 {
            let wrong = EndpointAddr::new(large).with_ip_addr(([192, 0, 2, n], 9).into());
            assert!(roster.candidate(wrong, Channel::Mdns, now));
        }
        assert!(roster.candidate(addr(large), Channel::Relays, now));
        let (dialled, _) = roster.due(now, 0, anybody).remove(0);
        assert_eq!(dialled.addrs.len(), ADDRS_MAX);
        assert!(dialled.addrs.is_superset(&addr(large).addrs), "{dialled:?}");
    }

    #[test]
    fn whoever_did_not_answer_is_dialled_again_once_it_announces_itself() {
        let (small, large) = ids();
        let now = Instant::now();
        let mut roster = Roster::new(small, limits(16));
        let wrong = EndpointAddr::new(large).with_ip_addr(([192, 0, 2, 1], 9).into());
        assert!(roster.candidate(wrong.clone(), Channel::Mdns, now));
        let mut later = now;
        while roster.get(&large).is_some() {
            later += Duration::from_mins(10);
            assert_eq!(roster.due(later, 0, anybody).len(), 1);
            roster.dial_failed(&large, "no answer".into(), later, 0.0);
        }
        assert!(!roster.candidate(wrong, Channel::Mdns, later), "it is ignored for a while");
        assert!(roster.candidate(addr(large), Channel::Gossip, later), "it is there after all");
        // One of another network is left alone, whatever it announces.
        roster.not_shared(&large, later);
        assert!(!roster.candidate(addr(large), Channel::Gossip, later));
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
            assert_eq!(roster.due(now, 0, anybody).len(), 1);
            assert!(roster.due(now, 0, anybody).is_empty(), "one dial at a time");
            roster.dial_failed(&other, "no answer".into(), now, 0.0);
            let Link::Idle { dial_at: Some(at) } = roster.get(&other).unwrap().link else { panic!() };
            waits.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        roster.connected(other, true, now);
        roster.session_up(&other, true, 1);
        roster.disconnected(&other, true, None, now, 1.0);
        assert_eq!(roster.due(now + REDIAL_MAX, 0, anybody).len(), 1);
    }

    #[test]
    fn no_more_dials_than_there_is_room_for() {
        let (own, _) = ids();
        let now = Instant::now();
        let mut roster = Roster::new(own, limits(10));
        for n in 10..60 {
            roster.candidate(addr(SecretKey::from_bytes(&[n; 32]).public()), Channel::Gossip, now);
        }
        let first = roster.due(now, 0, anybody);
        assert_eq!(first.len(), 8);
        for (a, _) in &first {
            roster.connected(a.id, true, now);
        }
        assert_eq!(roster.due(now, 0, anybody).len(), 2, "ten in all");
    }

    fn id(n: u16) -> EndpointId {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_bytes(&seed).public()
    }

    #[test]
    fn a_thousand_hints_do_not_keep_a_named_peer_waiting() {
        let now = Instant::now();
        let mut roster = Roster::new(id(0), limits(16));
        for n in 1..=1000 {
            assert!(roster.candidate(addr(id(n)), Channel::Relays, now));
        }
        assert!(roster.due(now, 1, anybody).iter().all(|(_, hint)| *hint));
        roster.candidate(addr(id(2000)), Channel::Tickets, now);
        let due = roster.due(now, 2, anybody);
        assert_eq!(due.iter().map(|(a, hint)| (a.id, *hint)).collect::<Vec<_>>(), [(id(2000), false)]);
    }

    #[test]
    fn hints_that_lead_nowhere_are_forgotten_and_ignored_for_a_while() {
        let mut now = Instant::now();
        let mut roster = Roster::new(id(0), limits(16));
        roster.candidate(addr(id(1)), Channel::Gossip, now);
        for _ in 0..GIVE_UP_AFTER {
            assert_eq!(roster.due(now, 0, anybody).len(), 1);
            roster.dial_failed(&id(1), "no answer".into(), now, 0.0);
            now += Duration::from_mins(1);
        }
        assert!(roster.get(&id(1)).is_none());
        assert!(!roster.candidate(addr(id(1)), Channel::Relays, now));
        assert!(roster.candidate(addr(id(1)), Channel::Tickets, now), "a user knows better");
        roster.forget(&id(1));
        assert!(roster.candidate(addr(id(1)), Channel::Relays, now + SILENT_FOR));
    }

    #[test]
    fn a_full_roster_lets_go_of_hints_that_failed_and_of_nobody_else() {
        let now = Instant::now();
        let mut roster = Roster::new(id(0), DialLimits { known_max: 3, ..limits(16) });
        roster.candidate(addr(id(1)), Channel::Saved, now);
        roster.candidate(addr(id(2)), Channel::Gossip, now);
        roster.candidate(addr(id(3)), Channel::Gossip, now);
        assert!(!roster.candidate(addr(id(4)), Channel::Gossip, now), "nobody has failed yet");
        roster.due(now, 0, anybody);
        for n in 1..=2 {
            roster.dial_failed(&id(n), "no answer".into(), now, 0.0);
        }
        assert!(roster.candidate(addr(id(4)), Channel::Gossip, now));
        assert!(roster.get(&id(1)).is_some() && roster.get(&id(2)).is_none());
    }

    #[test]
    fn a_hint_brings_a_late_dial_forward_but_not_again_and_again() {
        let mut now = Instant::now();
        let mut roster = Roster::new(id(0), limits(16));
        roster.candidate(addr(id(1)), Channel::Saved, now);
        for _ in 0..10 {
            now += Duration::from_mins(10);
            roster.due(now, 0, anybody);
            roster.dial_failed(&id(1), "no answer".into(), now, 0.0);
        }
        now += Duration::from_secs(1);
        assert!(roster.due(now, 0, anybody).is_empty());
        roster.candidate(addr(id(1)), Channel::Mdns, now);
        assert_eq!(roster.due(now, 0, anybody).len(), 1);
        roster.dial_failed(&id(1), "no answer".into(), now, 0.0);
        roster.candidate(addr(id(1)), Channel::Mdns, now);
        assert!(roster.due(now, 0, anybody).is_empty());
        roster.candidate(addr(id(1)), Channel::Mdns, now + HINTED_EVERY);
        assert_eq!(roster.due(now + HINTED_EVERY, 0, anybody).len(), 1);
    }

    #[test]
    fn in_a_large_network_connections_are_exchanged_slowly() {
        let start = Instant::now();
        let mut roster = Roster::new(id(0), limits(4));
        for n in 1..=10 {
            roster.candidate(addr(id(n)), Channel::Gossip, start);
        }
        roster.candidate(addr(id(11)), Channel::Tickets, start);
        for (n, (a, _)) in roster.due(start, 5, anybody).into_iter().enumerate() {
            roster.connected(a.id, true, start + Duration::from_millis(n as u64));
            roster.session_up(&a.id, true, 1);
        }
        assert_eq!(roster.rotate(start, 0.5), None);
        assert!(roster.due(start, 5, anybody).is_empty(), "four are enough");
        let later = start + 2 * ROTATE_EVERY;
        let given_up = roster.rotate(later, 0.5).unwrap();
        assert_ne!(given_up, id(11), "a user wants that one");
        assert_eq!(roster.rotate(later, 0.5), None, "one at a time");
        roster.rotated(&given_up, later);
        roster.candidate(addr(given_up), Channel::Gossip, later);
        let due = roster.due(later, 5, anybody);
        assert_eq!(due.len(), 1);
        assert_ne!(due[0].0.id, given_up);
    }

    #[test]
    fn nodes_choose_different_peers() {
        let now = Instant::now();
        let mut chosen = std::collections::HashSet::new();
        for chance in 0..50 {
            let mut roster = Roster::new(id(0), limits(4));
            for n in 1..=100 {
                roster.candidate(addr(id(n)), Channel::Gossip, now);
            }
            chosen.extend(roster.due(now, chance, anybody).into_iter().map(|(a, _)| a.id));
        }
        assert!(chosen.len() > 60, "200 choices hit {} of 100 peers", chosen.len());
    }

    #[test]
    fn another_network_is_not_kept_unless_a_user_named_it() {
        let now = Instant::now();
        let mut roster = Roster::new(id(0), limits(4));
        roster.candidate(addr(id(1)), Channel::Mdns, now);
        roster.candidate(addr(id(2)), Channel::Tickets, now);
        roster.not_shared(&id(1), now);
        roster.not_shared(&id(2), now);
        assert!(roster.get(&id(1)).is_none());
        assert!(!roster.candidate(addr(id(1)), Channel::Mdns, now));
        assert!(roster.get(&id(2)).unwrap().last_error.as_ref().unwrap().contains("passphrase"));
    }

    #[test]
    fn the_mirror_is_offered_to_those_alone_who_are_vouched_for() {
        let now = Instant::now();
        let mut roster = Roster::new(id(0), limits(16));
        let offered = |roster: &Roster, n| roster.get(&id(n)).unwrap().is_offered_mirror();
        for (n, channel) in (1..).zip(Channel::ALL) {
            roster.candidate(addr(id(n)), channel, now);
            let expected = match channel {
                Channel::Tickets | Channel::Bootstrap | Channel::Relays | Channel::Dht | Channel::Gossip => {
                    true
                }
                // Not among the sealed ones here.
                Channel::Saved | Channel::Mdns | Channel::Library => false,
            };
            assert_eq!(offered(&roster, n), expected, "{channel:?}");
        }
        roster.candidate(addr(id(20)), Channel::Library, now);
        roster.session_up(&id(20), false, 1);
        assert!(!offered(&roster, 20), "a library is not the mirror");
        roster.session_up(&id(20), true, 2);
        assert!(offered(&roster, 20), "it proved that it knows the passphrase");
        roster.candidate(addr(id(21)), Channel::Saved, now);
        roster.vouch(&id(21));
        assert!(offered(&roster, 21), "it did so in an earlier run");
        let due = roster.due(now, 0, |_, known| known.is_offered_mirror());
        assert!(due.iter().all(|(addr, _)| roster.get(&addr.id).unwrap().is_offered_mirror()));
        assert_eq!(due.len(), 7);
    }

    #[test]
    fn a_member_of_a_library_is_dialled_again_at_once_and_takes_no_place_of_those_that_a_user_named() {
        let now = Instant::now();
        let mut roster = Roster::new(id(0), limits(16));
        assert!(roster.candidate(addr(id(1)), Channel::Library, now));
        assert_eq!(roster.due(now, 0, anybody).len(), 1);
        roster.dial_failed(&id(1), "no answer".into(), now, 0.0);
        assert!(roster.due(now, 0, anybody).is_empty());
        roster.candidate(addr(id(1)), Channel::Library, now);
        assert_eq!(roster.due(now, 0, anybody).len(), 1);
        assert!(!roster.get(&id(1)).unwrap().is_wanted());
        // Whoever broke the rules stays away all the same.
        roster.hold(&id(1), now + Duration::from_mins(5), "lies".into());
        roster.candidate(addr(id(1)), Channel::Library, now);
        assert!(roster.due(now, 0, anybody).is_empty());
    }

    #[test]
    fn who_is_connected_for_libraries_alone_is_offered_the_mirror_once_it_is_vouched_for() {
        let start = Instant::now();
        let mut roster = Roster::new(id(0), limits(16));
        roster.candidate(addr(id(1)), Channel::Library, start);
        roster.connected(id(1), true, start);
        roster.session_up(&id(1), false, 1);
        roster.libraries_alone(&id(1), false, start);
        assert_eq!(roster.offer_mirror(start), [], "nothing says that it is of our network");
        roster.candidate(addr(id(1)), Channel::Relays, start);
        assert_eq!(roster.offer_mirror(start).len(), 1);
        let (mut now, mut waits) = (start, Vec::new());
        while waits.len() < 8 {
            let since = now;
            while roster.offer_mirror(now).is_empty() {
                now += Duration::from_secs(30);
            }
            waits.push((now - since).as_secs() / 60);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60], "it does not want it");
        roster.candidate(addr(id(1)), Channel::Tickets, now);
        assert_eq!(roster.offer_mirror(now).len(), 1, "a user knows better");
        roster.session_up(&id(1), true, 2);
        assert_eq!(roster.offer_mirror(now + OFFER_MIRROR_EVERY_MAX), [], "it has it");

        // It was offered on the connection that there is.
        roster.candidate(addr(id(2)), Channel::Tickets, now);
        roster.connected(id(2), true, now);
        roster.session_up(&id(2), false, 1);
        roster.libraries_alone(&id(2), true, now);
        assert_eq!(roster.offer_mirror(now), []);
        assert_eq!(roster.offer_mirror(now + OFFER_MIRROR_EVERY).len(), 1);
        roster.disconnected(&id(2), true, None, now, 0.0);
        assert_eq!(roster.offer_mirror(now + OFFER_MIRROR_EVERY_MAX), [], "it is dialled as anybody is");
    }
}
