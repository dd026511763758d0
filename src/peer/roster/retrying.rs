//! Peers that were connected lately and are not now. A path that comes back says nothing, so they are tried again and again,
//! whatever the back-off says of them: it goes on beside this, for those who are away for good.

use std::cmp::Reverse;
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use super::dialling::Room;
use super::known::Share;
use super::{KnownPeer, LinkState, Roster};

/// How long after it was lost a peer is tried so.
const LOST_LATELY: Duration = Duration::from_hours(24);
/// From one attempt to the next, and by how much chance lengthens that. One that nobody answers takes 15 s, and sends less and less
/// often.
const RETRY_EVERY: Duration = Duration::from_secs(18);
const RETRY_JITTER: Duration = Duration::from_secs(4);
/// Peers that are tried so within [`RETRY_EVERY`], and members of libraries among them, however many are known and away.
const RETRIED_MAX: usize = 8;
const RETRIED_MEMBERS_MAX: usize = 4;
/// A sign of life of a peer that was dialled within this time says nothing new.
const DIALLED_JUST_NOW: Duration = Duration::from_secs(5);
/// Peers that are dialled when a path has come back, and how often that may be.
const REVISITED_MAX: usize = 64;
const REVISIT_EVERY: Duration = Duration::from_secs(5);

impl Roster {
    /// Peers to dial now, of those that `may_dial` says, because they were connected lately; whether only hints led there is
    /// said as by [`Roster::due`]. They take no room of others.
    pub fn retry(
        &mut self,
        now: Instant,
        chance: f64,
        may_dial: impl Fn(&EndpointId, &KnownPeer) -> bool,
    ) -> Vec<(EndpointAddr, bool)> {
        let room = Room::of(self);
        let wait = RETRY_EVERY + RETRY_JITTER.mul_f64(chance.clamp(0.0, 1.0));
        let mut lost = self.lost_lately(now);
        lost.retain(|id| {
            self.peers.get(id).is_some_and(|known| {
                let is_idle = matches!(known.link, LinkState::Idle { .. });
                let is_due = known.dialled_at.is_none_or(|at| now.duration_since(at) >= wait);
                is_idle && is_due && room.has_room_for(known) && may_dial(id, known)
            })
        });
        // Where more are away than may be tried at once, all have their turn.
        lost.sort_by_key(|id| {
            self.peers.get(id).map(|known| (known.share() == Share::Members, known.dialled_at))
        });
        let (mut others, mut members) = self.retried_lately(now);
        lost.retain(|id| {
            let is_member = self.peers.get(id).is_some_and(|known| known.share() == Share::Members);
            let has_place = others + members < RETRIED_MAX && (!is_member || members < RETRIED_MEMBERS_MAX);
            if has_place {
                *(if is_member { &mut members } else { &mut others }) += 1;
            }
            has_place
        });
        let dial = |id: EndpointId| {
            let known = self.peers.get_mut(&id)?;
            known.begin_dial(now);
            known.retried_at = Some(now);
            Some((known.addr.clone(), known.is_hint()))
        };
        lost.into_iter().filter_map(dial).collect()
    }

    /// How many were tried so a moment ago: others than members of libraries, and members.
    fn retried_lately(&self, now: Instant) -> (usize, usize) {
        let lately = self.peers.values().filter(|known| {
            known.retried_at.is_some_and(|at| now.duration_since(at) < RETRY_EVERY + RETRY_JITTER)
        });
        let members = lately.clone().filter(|known| known.share() == Share::Members).count();
        (lately.count() - members, members)
    }

    /// A path may have come back that many peers are behind: our addresses are others now, or one of those peers is there again.
    /// Those that were connected lately are dialled.
    pub fn revisit(&mut self, now: Instant) {
        let at = self.revisited_at.map_or(now, |last| now.max(last + REVISIT_EVERY));
        self.revisited_at = Some(at);
        for id in self.lost_lately(now).into_iter().take(REVISITED_MAX) {
            if let Some(known) = self.peers.get_mut(&id) {
                known.dial_by(at);
            }
        }
    }

    /// A session with `id` is up: if dialling it was in vain before, others are behind the same path.
    pub fn came_back(&mut self, id: &EndpointId, now: Instant) {
        let Some(known) = self.peers.get_mut(id) else { return };
        if known.lost_at.take().is_some() && known.attempts > 0 {
            self.revisit(now);
        }
    }

    /// A peer that was connected lately did something that only somebody does who is there.
    pub fn shows_life(&mut self, id: &EndpointId, now: Instant) {
        if let Some(known) = self.peers.get_mut(id)
            && known.is_lost_lately(now)
            && known.is_worth_dialling(now)
        {
            known.hinted_at = Some(now);
            known.dial_by(now);
        }
    }

    /// Those that were connected lately, wait, and are not left alone: own devices and those that users named before members,
    /// of each the last ones first.
    fn lost_lately(&self, now: Instant) -> Vec<EndpointId> {
        let lost = self.peers.iter().filter(|(_, known)| {
            !known.is_connected()
                && known.is_lost_lately(now)
                && known.refusal.is_none()
                && known.held_until.is_none_or(|until| now >= until)
        });
        let order = |(id, known): (&EndpointId, &KnownPeer)| {
            let is_member = known.share() == Share::Members;
            (is_member, Reverse(known.lost_at), Reverse(known.last_seen_ms), *id)
        };
        let mut lost: Vec<_> = lost.map(order).collect();
        lost.sort_unstable();
        lost.into_iter().map(|(.., id)| id).collect()
    }
}

impl KnownPeer {
    pub(super) fn begin_dial(&mut self, now: Instant) {
        self.link = LinkState::Dialing;
        self.dialled_at = Some(now);
        self.retried_at = None;
    }

    /// Whether it had a session with us lately, and has none now.
    pub(super) fn is_lost_lately(&self, now: Instant) -> bool {
        self.lost_at.is_some_and(|at| now.duration_since(at) < LOST_LATELY)
    }

    /// Whether what shows that it is there is news.
    pub(super) fn is_worth_dialling(&self, now: Instant) -> bool {
        let dialled_just_now = self.dialled_at.is_some_and(|at| now.duration_since(at) < DIALLED_JUST_NOW);
        let held = self.held_until.is_some_and(|until| now < until);
        !dialled_just_now && !held && self.refusal.is_none()
    }

    fn dial_by(&mut self, at: Instant) {
        if let LinkState::Idle { dial_at } = &mut self.link {
            *dial_at = Some(dial_at.map_or(at, |due| due.min(at)));
        }
    }

    /// A session with it was up some `ago`, and is over.
    pub(super) fn lose(&mut self, now: Instant, ago: Duration) {
        self.lost_at = (ago < LOST_LATELY).then_some(now);
    }
}
