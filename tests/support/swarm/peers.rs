//! What PeersActor does of it: dialling, and sessions.

use can_sync::testing::peer::roster::ConnectionRuling;
use iroh::EndpointId;
use rand::RngExt as _;

use super::{CONNECTIONS_MAX, DIAL, SimEvent, Swarm, TICK};

impl Swarm {
    pub(super) fn on_tick(&mut self, n: usize) {
        let now = self.instant();
        self.agents[n].roster.tick();
        let chance = self.random.random();
        if let Some(id) = self.agents[n].roster.rotate(now, chance) {
            self.give_up(n, id);
        }
        let chance = self.random.random();
        let lost = self.agents[n].roster.retry(now, chance, |_, _| true);
        let lost: Vec<EndpointId> = lost.into_iter().map(|(addr, _)| addr.id).collect();
        self.dial(n, lost);
        self.dial_due(n);
        self.tick_gossip(n);
        self.after(TICK, n, SimEvent::Tick);
    }

    pub(super) fn dial_due(&mut self, n: usize) {
        let chance = self.random.random();
        let due = self.agents[n].roster.due(self.began + self.now, chance, |_, _| true);
        let due: Vec<EndpointId> = due.into_iter().map(|(addr, _)| addr.id).collect();
        self.dial(n, due);
    }

    pub(super) fn dial(&mut self, n: usize, ids: Vec<EndpointId>) {
        for id in ids {
            self.figures.dials += 1;
            self.after(DIAL, n, SimEvent::DialEnds { to: self.by_id[&id] });
        }
    }

    pub(super) fn on_dial_ends(&mut self, n: usize, to: usize) {
        let (now, chance) = (self.instant(), self.random.random());
        let (here, there) = (self.agents[n].id, self.agents[to].id);
        let known = self.agents[to].is_connected_with(&here);
        let room = known || self.agents[to].roster.connected_count() < CONNECTIONS_MAX;
        if self.agents[to].started.is_none() || !room {
            self.figures.turned_away += u64::from(!room);
            self.agents[n].roster.dial_failed(&there, "no place".into(), now, chance);
            self.agents[n].directory.dial_failed(&there, now);
            return;
        }
        // Of two dialled at once, both sides keep the same one; here, the far side decides first, as it does when it accepts.
        let ruling = self.agents[to].roster.connected(here, false, now);
        if ruling == ConnectionRuling::TurnAway {
            self.agents[n].roster.dial_failed(&there, "another connection is kept".into(), now, chance);
            return;
        }
        self.agents[n].roster.connected(there, true, now);
        for (me, other) in [(n, to), (to, n)] {
            self.on_session(me, other);
        }
    }

    pub(super) fn on_session(&mut self, n: usize, other: usize) {
        let (now, now_ms, started) = (self.instant(), self.now_us() / 1000, self.agents[n].started);
        let addr = self.agents[other].addr();
        let agent = &mut self.agents[n];
        agent.session_up(&addr.id, now, now_ms);
        agent.directory.peer_up(&addr, "agent", 0, now, now_ms);
        if agent.first_session.is_none() {
            agent.first_session = started.map(|started| self.now.saturating_sub(started));
        }
        self.join_more(n);
    }

    /// One gives a connection up for another; the other side is told that it was for that.
    pub(super) fn give_up(&mut self, n: usize, id: EndpointId) {
        let (now, other) = (self.instant(), self.by_id[&id]);
        let own = self.agents[n].id;
        self.agents[n].roster.rotated(&id, now);
        self.agents[other].roster.rotated(&own, now);
        for (n, id) in [(n, id), (other, own)] {
            self.agents[n].directory.peer_gone(&id);
        }
    }
}
