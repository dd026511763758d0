//! What GossipActor does of it: joining the swarm, announcing, hearing.

use std::time::Duration;

use can_sync::testing::discovery::announcement::{Signed, verify};
use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::pace::{announce_period, counts_gap, jittered, news_gap};
use iroh::EndpointId;
use iroh_gossip::proto::{Command, Event as TopicEvent, InEvent, OutEvent, Scope, TopicId};
use rand::RngExt as _;

use super::{
    ASSET_EVERY, DIAL, HEARD_BY, HEARD_WITHIN, NOON_US, SPREAD_PER_MIN, SimEvent, Swarm, TOPIC, WATCHED,
    index, number,
};

impl Swarm {
    pub(super) fn tick_gossip(&mut self, n: usize) {
        if n < WATCHED {
            let (now, now_ms) = (self.instant(), self.now_us() / 1000);
            let mut effects = self.agents[n].directory.tick(now);
            if self.now >= self.agents[n].sweep_at {
                self.agents[n].sweep_at = self.now + Duration::from_mins(1);
                effects.extend(self.agents[n].directory.sweep(now, now_ms));
            }
            self.carry_out(n, effects);
        }
        self.join_more(n);
        self.announce_if_due(n);
    }

    pub(super) fn join_more(&mut self, n: usize) {
        let (now, draw) = (self.instant(), self.random.random());
        let agent = &mut self.agents[n];
        let count = agent.joins.joins(agent.neighbours.len(), now, draw);
        self.join(n, count);
    }

    pub(super) fn join(&mut self, n: usize, count: usize) {
        if count == 0 {
            return;
        }
        let (now, seed) = (self.instant(), self.random.random());
        let neighbours = self.agents[n].neighbours.iter().map(|peer| self.agents[index(*peer)].id).collect();
        for (id, proven) in self.agents[n].choose_to_join(neighbours, count, seed, now) {
            // Who has not proved itself is asked first.
            self.figures.questions += u64::from(!proven);
            let through = self.by_id[&id];
            let delay = if proven { Self::one_way(n, through) * 2 } else { DIAL * 2 };
            self.after(delay, n, SimEvent::Joins { through });
        }
    }

    pub(super) fn on_joins(&mut self, n: usize, through: usize) {
        let (now, id) = (self.instant(), self.agents[through].id);
        let is_there = self.agents[through].started.is_some();
        self.agents[n].joining.remove(&id);
        self.agents[n].directory.join_ended(&id, is_there, now);
        if is_there {
            let join = Command::Join(vec![number(through)]);
            self.gossip(n, InEvent::Command(TopicId::from_bytes(TOPIC), join));
        }
    }

    pub(super) fn alive_at(&self, n: usize) -> u32 {
        if n < WATCHED { self.agents[n].directory.settled() } else { self.alive }
    }

    pub(super) fn on_asset(&mut self) {
        for agent in &mut self.agents {
            agent.assets += 1;
            agent.counts_news = agent.said_at.is_some();
        }
        self.after(ASSET_EVERY, 0, SimEvent::Asset);
    }

    pub(super) fn announce_if_due(&mut self, n: usize) {
        let (alive, draw) = (self.alive_at(n), self.random.random());
        let agent = &mut self.agents[n];
        let gap = if agent.news { news_gap(alive) } else { counts_gap(alive) };
        let said_lately = agent.said_at.is_some_and(|at| self.now < at + gap);
        let has_news = agent.news || agent.counts_news;
        if (self.now < agent.announce_at && !has_news) || said_lately {
            return;
        }
        agent.said_at = Some(self.now);
        (agent.news, agent.counts_news) = (false, false);
        agent.announce_at = self.now + jittered(announce_period(alive), draw);
        let now_ms = (NOON_US + u64::try_from(self.now.as_micros()).unwrap_or(0)) / 1000;
        let bytes = agent.announcement(now_ms);
        let Ok(signed) = verify(&bytes) else { return };
        self.figures.announcements += 1;
        // Estimated from the rate so far, so that small networks spread everything.
        let per_min = self.agents.len() as f64 * 60.0 / announce_period(alive).as_secs_f64();
        if self.random.random_bool((SPREAD_PER_MIN / per_min).min(1.0)) {
            self.figures.spread += 1;
            self.spread.insert(bytes.clone(), signed);
            let broadcast = Command::Broadcast(bytes, Scope::Swarm);
            return self.gossip(n, InEvent::Command(TopicId::from_bytes(TOPIC), broadcast));
        }
        let others = (0..HEARD_BY).map(|_| self.random.random_range(0..self.agents.len()));
        let hearers: Vec<usize> =
            (0..WATCHED.min(self.agents.len())).chain(others.collect::<Vec<_>>()).collect();
        for (place, hearer) in hearers.into_iter().enumerate() {
            let is_again = hearer < WATCHED && place >= WATCHED.min(self.agents.len());
            if hearer != n && !is_again && self.agents[hearer].started.is_some() {
                self.hear(hearer, signed.clone());
            }
        }
    }

    /// An announcement has come to an agent.
    pub(super) fn hear(&mut self, n: usize, signed: Signed) {
        let (now, now_ms) = (self.instant(), self.now_us() / 1000);
        if n >= WATCHED {
            self.agents[n].roster.candidate(signed.announcement.addr(), Channel::Gossip, now);
            return;
        }
        self.figures.heard += 1;
        let agent = &mut self.agents[n];
        let known = agent.directory.knows(&signed.announcement.id);
        if !agent.gate.admits(known, now) {
            self.figures.refused += 1;
            return;
        }
        let effects = agent.directory.hear(signed, now, now_ms).unwrap_or_default();
        self.carry_out(n, effects);
    }

    pub(super) fn on_probed(&mut self, n: usize, whom: &EndpointId) {
        let (now, now_ms) = (self.instant(), self.now_us() / 1000);
        let effects = self.agents[n].directory.answered(whom, true, now, now_ms);
        self.carry_out(n, effects);
    }

    pub(super) fn gossip(&mut self, n: usize, event: InEvent<u32>) {
        let now = self.instant();
        let out: Vec<OutEvent<u32>> = self.agents[n].gossip.handle(event, now, None).collect();
        for event in out {
            match event {
                OutEvent::SendMessage(to, message) => {
                    self.figures.gossip_messages += 1;
                    let (delay, message) = (Self::one_way(n, index(to)), Box::new(message));
                    self.after(delay, index(to), SimEvent::Gossip { from: n, message });
                }
                OutEvent::ScheduleTimer(delay, timer) => {
                    self.after(delay, n, SimEvent::GossipTimer(Box::new(timer)));
                }
                OutEvent::DisconnectPeer(from) => {
                    let delay = Self::one_way(n, index(from));
                    self.after(delay, index(from), SimEvent::GossipGone { from: n });
                }
                OutEvent::EmitEvent(_, TopicEvent::NeighborUp(peer)) => {
                    let id = self.agents[index(peer)].id;
                    let agent = &mut self.agents[n];
                    // Others than the watched do not keep what they heard; they have heard all who started minutes ago.
                    let is_new = !agent.directory.has_heard(&id)
                        && (n < WATCHED
                            || self.agents[index(peer)]
                                .started
                                .is_none_or(|at| self.now < at + HEARD_WITHIN));
                    let agent = &mut self.agents[n];
                    agent.news |= agent.neighbours.is_empty() || is_new;
                    agent.neighbours.insert(peer);
                }
                OutEvent::EmitEvent(_, TopicEvent::NeighborDown(peer)) => {
                    self.agents[n].neighbours.remove(&peer);
                }
                OutEvent::EmitEvent(_, TopicEvent::Received(received)) => {
                    if let Some(signed) = self.spread.get(&received.content).cloned() {
                        self.hear(n, signed);
                    }
                }
                OutEvent::PeerData(..) => {}
            }
        }
    }
}
