//! What becomes of a peer with its connections: which of two stays, what a session shows, and when a lost one is dialled again.

use std::time::Duration;

use iroh::EndpointId;
use tokio::time::Instant;

use super::known::Share;
use super::{
    APPROVAL_RETRY_MAX, AT_ONCE, ConnectionRuling, DOUBLED_RETRY, GIVE_UP_AFTER, KnownPeer, LinkState,
    REDIAL_MAX, ROTATE_EVERY, Roster,
};
use crate::peer::places::Class;
use crate::peer::refusal::PeerRefusal;

impl Roster {
    /// The connection with `id` was given up in favour of another peer, by us or by it: not dialled again soon.
    pub fn rotated(&mut self, id: &EndpointId, now: Instant) {
        if let Some(known) = self.peers.get_mut(id) {
            known.attempts = 0;
            known.lost_at = None;
            known.hinted_at = Some(now + ROTATE_EVERY);
            known.link = LinkState::Idle { dial_at: Some(now + 2 * ROTATE_EVERY) };
        }
    }

    pub fn dial_failed(&mut self, id: &EndpointId, error: String, now: Instant, chance: f64) {
        let Some(known) = self.peers.get_mut(id) else { return };
        known.last_error = Some(error);
        if known.link == LinkState::Dialing {
            let wait = self.limits.backoff(known.attempts, chance);
            known.link = LinkState::Idle { dial_at: Some(now + wait) };
            if known.retried_at.is_some() {
                // What failed most makes room for others: that is not one that is tried more often because it was here lately.
                return;
            }
            known.attempts = known.attempts.saturating_add(1);
            if known.attempts >= GIVE_UP_AFTER && known.is_hint() {
                self.silence(id, false, now);
            }
        }
    }

    /// The peer is not of our network. Hints at it were wrong; a peer that a user named stays, for the user to see why.
    pub fn not_shared(&mut self, id: &EndpointId, now: Instant) {
        let Some(known) = self.peers.get_mut(id) else { return };
        if known.is_hint() && !known.is_stranger() {
            self.silence(id, true, now);
        } else {
            known.refusal = Some(PeerRefusal::OtherPassphrase);
        }
    }

    /// There is a new connection with `id`: what becomes of it. If it is kept and there was one before, that one is to be
    /// closed. Of two that were dialled at once, both ends keep the one dialled by the smaller id. A peer that dials
    /// again after it was turned away does not have the other one: it was started anew, and ours leads nowhere.
    pub fn connected(&mut self, id: EndpointId, dialed_here: bool, now: Instant) -> ConnectionRuling {
        let own_id = self.own_id;
        let known = self.entry(id);
        let ruling = match known.link {
            LinkState::Idle { .. } | LinkState::Dialing => ConnectionRuling::Keep,
            LinkState::Connected { since, dialed_here: old } => {
                let insists = known.turned_away && !dialed_here;
                let at_once = old != dialed_here && now.duration_since(since) < AT_ONCE && !insists;
                let ours_wins = own_id.as_bytes() < id.as_bytes();
                if at_once && dialed_here == ours_wins {
                    ConnectionRuling::Keep
                } else if at_once {
                    ConnectionRuling::TurnAway
                } else {
                    ConnectionRuling::Supersede
                }
            }
        };
        known.turned_away = ruling == ConnectionRuling::TurnAway && !dialed_here;
        if ruling.is_kept() {
            known.link = LinkState::Connected { since: now, dialed_here };
        }
        ruling
    }

    /// Whether a connection with `id` comes beside one that there is, rather than being dialled at the same time by the other end.
    pub fn comes_beside(&self, id: &EndpointId, dialed_here: bool, now: Instant) -> bool {
        let Some(known) = self.peers.get(id) else { return false };
        match known.link {
            LinkState::Idle { .. } | LinkState::Dialing => false,
            LinkState::Connected { since, dialed_here: old } => {
                let insists = known.turned_away && !dialed_here;
                old == dialed_here || now.duration_since(since) >= AT_ONCE || insists
            }
        }
    }

    /// A peer of our network is connected to another machine with our id, and keeps that connection.
    pub fn prefers_double(&mut self, id: &EndpointId, now: Instant, chance: f64) {
        if let Some(known) = self.peers.get_mut(id) {
            known.lost_at = None;
            known.last_error =
                Some("it is connected to another machine that has this one's endpoint id".into());
            let wait = DOUBLED_RETRY + DOUBLED_RETRY.mul_f64(chance.clamp(0.0, 1.0) / 5.0);
            known.link = LinkState::Idle { dial_at: Some(now + wait) };
        }
    }

    pub fn session_up(&mut self, id: &EndpointId, class: Class, mirror: bool, now_ms: u64) {
        let Some(known) = self.peers.get_mut(id) else { return };
        let before = known.share();
        known.vouched |= mirror;
        known.is_member = !mirror;
        if mirror {
            known.offer_mirror_at = None;
            known.mirror_offers = 0;
        }
        known.ticket = match class {
            Class::Member(ticket) => Some(ticket),
            Class::Named | Class::Own | Class::Stranger => None,
        };
        known.attempts = 0;
        known.last_error = None;
        known.refusal = None;
        known.last_seen_ms = Some(now_ms);
        let now = known.share();
        self.tally.counts[now as usize] += usize::from(now != before);
    }

    /// Whether there are more of its share, or more with the ticket of a member, than there may be: then it is not kept once
    /// its connection is over.
    pub(super) fn is_one_too_many(&self, known: &KnownPeer) -> bool {
        let share = known.share();
        let limit = share.limit(self.limits.known_max);
        let same = self.peers.values().filter(|other| other.share() == share);
        let (mut all, mut with_ticket) = (0, 0);
        for other in same {
            all += 1;
            with_ticket += usize::from(known.ticket.is_some() && other.ticket == known.ticket);
        }
        all > limit || share == Share::Members && with_ticket > (limit / 8).max(1)
    }

    /// A second connection with `id` takes the place of the first.
    pub fn replaced(&mut self, id: &EndpointId, dialed_here: bool, now: Instant) {
        if let Some(known) = self.peers.get_mut(id) {
            known.link = LinkState::Connected { since: now, dialed_here };
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
        if self.peers.get(id).is_some_and(|known| self.is_one_too_many(known)) {
            self.peers.remove(id);
        }
        let Some(known) = self.peers.get_mut(id) else { return };
        known.offer_mirror_at = None;
        known.last_error = error.or(known.last_error.take());
        let wait = if worked {
            known.attempts = 0;
            known.lose(now, Duration::ZERO);
            REDIAL_MAX.mul_f64(chance)
        } else {
            known.attempts = known.attempts.saturating_add(1);
            let wait = self.limits.backoff(known.attempts, chance);
            let waits_there = known.refusal == Some(PeerRefusal::NotApproved);
            if waits_there { wait.min(APPROVAL_RETRY_MAX) } else { wait }
        };
        known.link = LinkState::Idle { dial_at: Some(now + wait) };
    }
}
