//! Which peers are known, which to dial and when, and which of two connections to keep. Pure: time and chance come in.

use std::collections::HashMap;
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use self::known::Share;
pub use self::known::{KnownPeer, LinkState};
use super::refusal::PeerRefusal;
use crate::discovery::channel::{Channel, ChannelSet};

mod connections;
mod dialling;
mod known;
mod retrying;

/// Longest wait before a lost connection is dialled again; chance spreads the two ends apart.
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// Two connections of one pair that came up within this time were dialled at once by both ends; later, a new one means
/// that the peer no longer has the old one.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long a peer is left alone that is connected to another machine with our id, so that it is found once that one is gone.
const DOUBLED_RETRY: Duration = Duration::from_secs(25);

/// Failed dials in a row after which a peer is forgotten that only hints led to and that was never there.
const GIVE_UP_AFTER: u32 = 5;
/// How long further hints at such a peer, or at one of another network, are ignored.
const SILENT_FOR: Duration = Duration::from_hours(1);
/// As long as nobody is connected, a peer that did not answer is tried again after this: our own network may have been down, and
/// then the hints were right.
const SILENT_ALONE_FOR: Duration = Duration::from_mins(1);
/// How many of those are remembered.
const SILENT_MAX: usize = 4096;
/// A hint at a peer that is being left alone for longer brings the next dial forward, this often.
const HINTED_EVERY: Duration = Duration::from_secs(30);
/// In a network with more peers than we connect to, one connection is exchanged for another this often, so that no group
/// closes itself off.
const ROTATE_EVERY: Duration = Duration::from_mins(10);
const ADDRS_MAX: usize = 32;
/// Machines that nobody knew before and that wait for approval, or were denied, whose addresses are kept.
const WAITING_KEPT: usize = 64;
/// Longest time between two looks whether the other machine's user has let this one in.
const APPROVAL_RETRY_MAX: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
pub struct DialLimits {
    /// Connections that we dial; and connections in all beyond which only peers are dialled that a user named. Members of
    /// libraries have half as many of their own, and peers that a user named as many.
    pub dialled_max: usize,
    /// Dials under way at once to peers that only hints led to.
    pub hints_at_once_max: usize,
    /// Peers that are known, without those that a user named.
    pub known_max: usize,
    /// Channels on which only those can speak who know the passphrase, or the topic's secret.
    pub sealed: ChannelSet,
    /// Waits between attempts to reach a peer: doubled from this one…
    pub backoff_min: Duration,
    /// …to this one, plus up to as much by chance.
    pub backoff_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRuling {
    /// It is kept: it is the only one, or the better one of two that were dialled at once.
    Keep,
    /// It is kept in place of an older one, which the peer does not have any more.
    Supersede,
    /// It was dialled at the same time as the one that stays.
    TurnAway,
}

impl ConnectionRuling {
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Keep | Self::Supersede)
    }
}

/// A peer that hints led to in vain.
#[derive(Clone, Copy, Debug)]
struct Silent {
    since: Instant,
    /// Whether it was there, and of another network.
    answered: bool,
}

impl Silent {
    /// Whether hints at it are ignored at `now`, by a node that `is_alone` or not.
    fn is_ignored(self, is_alone: bool, now: Instant) -> bool {
        let ignored_for = if is_alone && !self.answered { SILENT_ALONE_FOR } else { SILENT_FOR };
        now.duration_since(self.since) < ignored_for
    }
}

#[derive(Clone, Debug)]
pub struct Roster {
    own_id: EndpointId,
    peers: HashMap<EndpointId, KnownPeer>,
    /// Peers that never answered, or are of another network; hints at them are ignored for a while.
    silent: HashMap<EndpointId, Silent>,
    rotated_at: Option<Instant>,
    /// When those that were connected lately are or were last dialled because a path had come back.
    revisited_at: Option<Instant>,
    /// Whether nobody is connected, as of the last [`Roster::tick`].
    is_alone: bool,
    limits: DialLimits,
    tally: DialTally,
}

/// How many there are of each share. Looking through everybody for each hint would take all the time there is.
#[derive(Clone, Debug, Default)]
struct DialTally {
    /// Never less than there are.
    counts: [usize; Share::COUNT],
    /// Nobody could make room when it was last looked for.
    full: [bool; Share::COUNT],
}

impl Roster {
    pub fn new(own_id: EndpointId, limits: DialLimits) -> Self {
        Self {
            own_id,
            peers: HashMap::new(),
            silent: HashMap::new(),
            rotated_at: None,
            revisited_at: None,
            is_alone: true,
            limits,
            tally: DialTally::default(),
        }
    }

    /// A peer may be at `addr`, says this channel. `false` if that is ourselves, if it is not worth a try, or if there is
    /// no room.
    pub fn candidate(&mut self, addr: EndpointAddr, channel: Channel, now: Instant) -> bool {
        let id = addr.id;
        // A peer that a user names is dialled at once, whatever the back-off.
        let wanted = KnownPeer::names(channel);
        if wanted {
            self.silent.remove(&id);
        }
        // An announcement is a sign of life: a peer that did not answer was not there yet, or was sought where it is not.
        let announced = channel == Channel::Gossip;
        let ignored = self
            .silent
            .get(&id)
            .is_some_and(|silent| silent.is_ignored(self.is_alone, now) && (silent.answered || !announced));
        if id == self.own_id || ignored {
            return false;
        }
        let before = self.peers.get(&id).map(KnownPeer::share);
        let share = Share::of(channel);
        // A peer that only connected has a place there alone, and a hint at it may not add to what hints have.
        let is_new = before.is_none_or(|before| before == Share::Passing);
        if (is_new || wanted && before != Some(Share::Named)) && !self.make_room(share) {
            return false;
        }
        let vouched = wanted || self.limits.sealed.contains(channel);
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
        let after = known.share();
        let hinted_lately = known.hinted_at.is_some_and(|at| now.duration_since(at) < HINTED_EVERY);
        let held = known.held_until.is_some_and(|until| now < until);
        let is_back = known.is_lost_lately(now) && known.is_worth_dialling(now);
        if let LinkState::Idle { dial_at } = &mut known.link {
            let far = dial_at.is_none_or(|at| at > now + HINTED_EVERY);
            let at_once = wanted || is_back || dial_at.is_none() || (channel == Channel::Library && !held);
            if at_once || (far && !hinted_lately && !held) {
                *dial_at = Some(now);
                known.hinted_at = Some(now);
            }
        }
        if !is_new && before != Some(after) && after != Share::Named {
            self.tally.counts[after as usize] += 1;
        }
        true
    }

    /// Makes room for one more in a share; whether there is some. What failed most goes, and nobody else.
    fn make_room(&mut self, share: Share) -> bool {
        let (limit, at) = (share.limit(self.limits.known_max), share as usize);
        if self.tally.counts[at] >= limit {
            if self.tally.full[at] {
                return false;
            }
            self.count();
        }
        if self.tally.counts[at] >= limit {
            let idle = self
                .peers
                .iter()
                .filter(|(_, p)| p.share() == share && matches!(p.link, LinkState::Idle { .. }));
            let worst = idle.filter(|(_, p)| p.attempts > 0).max_by_key(|(_, p)| p.attempts);
            let Some(id) = worst.map(|(id, _)| *id) else {
                self.tally.full[at] = true;
                return false;
            };
            self.peers.remove(&id);
            self.tally.counts[at] -= 1;
        }
        self.tally.counts[at] += 1;
        true
    }

    fn count(&mut self) {
        self.tally.counts = [0; Share::COUNT];
        for known in self.peers.values() {
            self.tally.counts[known.share() as usize] += 1;
        }
    }

    /// Time passed: peers that failed meanwhile may make room for others.
    pub fn tick(&mut self) {
        self.tally.full = [false; Share::COUNT];
        self.is_alone = self.connected_count() == 0;
    }

    /// Forgets a peer and ignores hints at it for a while.
    fn silence(&mut self, id: &EndpointId, answered: bool, now: Instant) {
        self.peers.remove(id);
        if self.silent.len() >= SILENT_MAX {
            self.silent.retain(|_, silent| silent.is_ignored(false, now));
        }
        if self.silent.len() < SILENT_MAX {
            self.silent.insert(*id, Silent { since: now, answered });
        }
    }

    fn entry(&mut self, id: EndpointId) -> &mut KnownPeer {
        self.peers.entry(id).or_insert_with(|| KnownPeer::new(id))
    }

    pub fn get(&self, id: &EndpointId) -> Option<&KnownPeer> {
        self.peers.get(id)
    }

    /// As [`Roster::get`], to note its name, where it is, or what went wrong.
    pub fn get_mut(&mut self, id: &EndpointId) -> Option<&mut KnownPeer> {
        self.peers.get_mut(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&EndpointId, &KnownPeer)> {
        self.peers.iter()
    }

    /// Takes a peer out; whether it was there.
    pub fn forget(&mut self, id: &EndpointId) -> bool {
        self.peers.remove(id).is_some()
    }

    pub fn connected_count(&self) -> usize {
        self.peers.values().filter(|p| p.is_connected()).count()
    }

    /// Everyone who waits is dialled now, but for those that are left alone.
    pub fn dial_now(&mut self, now: Instant) {
        for known in self.peers.values_mut() {
            if known.held_until.is_some_and(|until| now < until) {
                continue;
            }
            if let LinkState::Idle { dial_at } = &mut known.link {
                *dial_at = Some(now);
                known.attempts = 0;
            }
        }
    }

    /// One of the two did not let the other in. A peer that proved that it knows the passphrase and waits for our user is kept with
    /// its addresses, so that it is dialled once it is let in: as many as there is room for. Whether it is kept.
    pub fn refused(&mut self, id: &EndpointId, refusal: PeerRefusal, addr: EndpointAddr) -> bool {
        let room = self.has_room_to_wait();
        let Some(known) = self.peers.get_mut(id) else { return false };
        let is_asking = refusal == PeerRefusal::ApprovalWanted;
        let kept = !known.is_stranger() || is_asking && (room || known.waits_for_user());
        if is_asking {
            known.add_addrs(addr);
        }
        known.refusal = Some(refusal);
        kept
    }

    /// A machine came that our user shut out: where it is, so that it is dialled once the user lets it in again.
    pub fn shut_out(&mut self, id: &EndpointId, addr: EndpointAddr) {
        if self.peers.contains_key(id) || self.has_room_to_wait() {
            let known = self.entry(*id);
            known.add_addrs(addr);
            known.refusal = Some(PeerRefusal::DeniedHere);
        }
    }

    fn has_room_to_wait(&self) -> bool {
        self.peers.values().filter(|known| known.waits_for_user()).count() < WAITING_KEPT
    }

    /// Its user let a machine in: it is dialled now.
    pub fn let_in(&mut self, id: &EndpointId, now: Instant) {
        let Some(known) = self.peers.get_mut(id) else { return };
        // One that asked for it has proved that it knows the passphrase; of one that was shut out nobody knows, and a proof that
        // is shown to it could be guessed at.
        known.vouched |= known.refusal == Some(PeerRefusal::ApprovalWanted);
        known.refusal = None;
        known.attempts = 0;
        known.held_until = None;
        if let LinkState::Idle { dial_at } = &mut known.link {
            *dial_at = Some(now);
        }
    }

    /// A peer is known from an earlier run: what it called itself, when it was last seen, and whether it is offered the mirror.
    pub fn remembered(
        &mut self,
        id: &EndpointId,
        name: String,
        last_seen_ms: Option<u64>,
        mirror: bool,
        (now, now_ms): (Instant, u64),
    ) {
        let Some(known) = self.peers.get_mut(id) else { return };
        let before = known.share();
        known.vouched |= mirror;
        known.is_member |= !mirror;
        if known.last_seen_ms.is_none() {
            known.name = name;
            known.last_seen_ms = last_seen_ms;
            if let Some(seen_ms) = last_seen_ms {
                known.lose(now, Duration::from_millis(now_ms.saturating_sub(seen_ms)));
            }
        }
        let after = known.share();
        self.tally.counts[after as usize] += usize::from(after != before);
    }

    pub fn holds(&self, id: &EndpointId, now: Instant) -> bool {
        self.peers.get(id).and_then(|known| known.held_until).is_some_and(|until| now < until)
    }

    pub fn hold(&mut self, id: &EndpointId, until: Instant, why: String) {
        if let Some(known) = self.peers.get_mut(id) {
            known.held_until = Some(until);
            known.last_error = Some(why);
            known.link = LinkState::Idle { dial_at: Some(until) };
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
mod tests;
