//! Which peers to dial, and which connection to give up for another.

use std::cmp::Ordering;
use std::collections::HashMap;

use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use super::known::Share;
use super::{GIVE_UP_AFTER, KnownPeer, LinkState, ROTATE_EVERY, Roster};
use crate::library::ticket::TicketSerial;

pub(super) struct Room {
    /// Of those that a user named: others do not count.
    named: usize,
    /// Of our network and of those who may belong to it: those that a user named are company, too; members of libraries do not
    /// count.
    others: usize,
    /// Of those among them that only hints led to.
    hints: usize,
    /// Members of libraries, all together and with the same ticket.
    members: usize,
    per_ticket: usize,
    by_ticket: HashMap<TicketSerial, usize>,
}

impl Room {
    pub(super) fn of(roster: &Roster) -> Self {
        let limits = &roster.limits;
        let members = (limits.dialled_max / 2).max(1);
        let mut room = Self {
            named: limits.dialled_max,
            others: limits.dialled_max,
            hints: limits.hints_at_once_max,
            members,
            per_ticket: (members / 4).max(1),
            by_ticket: HashMap::new(),
        };
        for known in roster.peers.values() {
            let dialed = match known.link {
                LinkState::Idle { .. } => continue,
                LinkState::Dialing if known.retried_at.is_some() => continue,
                LinkState::Dialing => true,
                LinkState::Connected { dialed_here, .. } => dialed_here,
            };
            // A peer that connected to us is company enough, unless nothing is known of it yet.
            let counts = match known.share() {
                Share::Members | Share::Named => dialed,
                Share::Own | Share::LocalNetwork | Share::Slots | Share::Gossip => true,
                Share::Passing => false,
            };
            if counts {
                room.take(known);
            } else if known.share() == Share::Named {
                room.others = room.others.saturating_sub(1);
            }
        }
        room
    }

    fn has_some(&self) -> bool {
        self.named > 0 || self.others > 0 || self.members > 0
    }

    pub(super) fn has_room_for(&self, known: &KnownPeer) -> bool {
        match known.share() {
            Share::Named => self.named > 0,
            Share::Members => {
                let same = known.ticket.and_then(|ticket| self.by_ticket.get(&ticket)).copied();
                self.members > 0 && same.unwrap_or_default() < self.per_ticket
            }
            Share::Own | Share::Passing => self.others > 0,
            Share::LocalNetwork | Share::Slots | Share::Gossip => self.others > 0 && self.hints > 0,
        }
    }

    fn take(&mut self, known: &KnownPeer) {
        let share = known.share();
        let left = match share {
            Share::Named => &mut self.named,
            Share::Members => &mut self.members,
            Share::Own | Share::Passing | Share::LocalNetwork | Share::Slots | Share::Gossip => {
                &mut self.others
            }
        };
        *left = left.saturating_sub(1);
        if share == Share::Named {
            self.others = self.others.saturating_sub(1);
        }
        if share == Share::Members
            && let Some(ticket) = known.ticket
        {
            *self.by_ticket.entry(ticket).or_default() += 1;
        }
        if share.is_hint() && !known.is_connected() {
            self.hints = self.hints.saturating_sub(1);
        }
    }
}

impl Roster {
    /// The peers to dial now, of those that `may_dial` allows, each with whether only hints led to it; they count as being dialled.
    /// First come those that a user named, then own devices, members of libraries, and peers that only hints led to; within each
    /// kind, those that failed least. `chance` orders the rest, so that not every node dials the same peers.
    pub fn due(
        &mut self,
        now: Instant,
        chance: u64,
        may_dial: impl Fn(&EndpointId, &KnownPeer) -> bool,
    ) -> Vec<(EndpointAddr, bool)> {
        let mut room = Room::of(self);
        if !room.has_some() {
            return Vec::new();
        }
        let mut due: Vec<(u8, u32, u64, EndpointId)> = self
            .peers
            .iter()
            .filter(|(_, p)| matches!(p.link, LinkState::Idle { dial_at: Some(at) } if at <= now))
            .filter(|(id, p)| room.has_room_for(p) && may_dial(id, p))
            .map(|(id, p)| (rank(p.share()), p.attempts, shuffled(id, chance), *id))
            .collect();
        due.sort_unstable_by(first_of);
        let mut chosen = Vec::new();
        for (.., id) in due {
            let Some(known) = self.peers.get_mut(&id).filter(|known| room.has_room_for(known)) else {
                continue;
            };
            room.take(known);
            known.begin_dial(now);
            chosen.push((known.addr.clone(), known.is_hint()));
        }
        chosen
    }

    /// Peers to dial because something is searched for, whatever the usual limits and waits: at most `room` under way at
    /// once, of those that `is_sought` says. They count as being dialled; with each, whether only hints led to it.
    pub fn seek(
        &mut self,
        now: Instant,
        chance: u64,
        room: usize,
        is_sought: impl Fn(&EndpointId, &KnownPeer) -> bool,
    ) -> Vec<(EndpointAddr, bool)> {
        let dialing = self.peers.values().filter(|p| p.link == LinkState::Dialing).count();
        let mut sought: Vec<(u32, u64, EndpointId)> = self
            .idle(now)
            .filter(|(id, p)| is_sought(id, p))
            .map(|(id, p)| (p.attempts, shuffled(id, chance), *id))
            .collect();
        sought.sort_unstable_by_key(|(attempts, order, _)| (*attempts, *order));
        sought.truncate(room.saturating_sub(dialing));
        let dial = |(_, _, id)| {
            let known = self.peers.get_mut(&id)?;
            known.begin_dial(now);
            Some((known.addr.clone(), known.is_hint()))
        };
        sought.into_iter().filter_map(dial).collect()
    }

    /// Whether [`Roster::seek`] could give a peer when there is room, or one is being dialled anyway.
    pub fn could_seek(&self, now: Instant, is_sought: impl Fn(&EndpointId, &KnownPeer) -> bool) -> bool {
        let dialed = self.peers.iter().filter(|(_, p)| p.link == LinkState::Dialing);
        self.idle(now).chain(dialed).any(|(id, p)| is_sought(id, p))
    }

    /// Those without a connection that are not left alone.
    fn idle(&self, now: Instant) -> impl Iterator<Item = (&EndpointId, &KnownPeer)> {
        self.peers.iter().filter(move |(_, p)| {
            matches!(p.link, LinkState::Idle { .. }) && p.held_until.is_none_or(|until| now >= until)
        })
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

    /// Peers to offer the mirror now, on a second connection. They count as having been offered it.
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

    /// The connection to give up in favour of a peer that waits for a place, if it is time for that: the oldest of those
    /// that we dialled and that no user asked for.
    pub fn rotate(&mut self, now: Instant, chance: f64) -> Option<EndpointId> {
        let since = *self.rotated_at.get_or_insert(now);
        if now.duration_since(since) < ROTATE_EVERY.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0) {
            return None;
        }
        let connected = self.peers.values().filter(|p| p.is_connected()).count();
        let waiting = self.peers.values().any(|p| {
            matches!(p.link, LinkState::Idle { dial_at: Some(at) } if at <= now) && p.attempts < GIVE_UP_AFTER
        });
        if connected < self.limits.dialled_max || !waiting {
            return None;
        }
        let candidates = self.peers.iter().filter(|(_, p)| !p.is_wanted());
        let dialled = candidates.filter_map(|(id, p)| match p.link {
            LinkState::Connected { since, dialed_here: true } => Some((since, *id)),
            LinkState::Connected { .. } | LinkState::Idle { .. } | LinkState::Dialing => None,
        });
        let (_, oldest) = dialled.min_by_key(|(since, id)| (*since, *id.as_bytes()))?;
        self.rotated_at = Some(now);
        Some(oldest)
    }
}

fn first_of(a: &(u8, u32, u64, EndpointId), b: &(u8, u32, u64, EndpointId)) -> Ordering {
    (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2))
}

fn rank(share: Share) -> u8 {
    match share {
        Share::Named => 0,
        Share::Own => 1,
        Share::Members => 2,
        Share::LocalNetwork | Share::Slots | Share::Gossip | Share::Passing => 3,
    }
}

/// A place in an order that differs from node to node and from time to time. Ids are as good as random.
fn shuffled(id: &EndpointId, chance: u64) -> u64 {
    let bytes = id.as_bytes();
    let id = bytes.iter().rev().fold(0_u64, |sum, byte| sum.rotate_left(9) ^ u64::from(*byte));
    (id ^ chance).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
