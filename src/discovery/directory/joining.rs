//! The agents to join the swarm through: all of which there is an address, whether they are known to be alive or not.

use std::collections::HashSet;

use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use super::entry::{AgentStanding, Rank};
use super::{Directory, DirectoryEffect, FAILURES_MAX};
use crate::discovery::channel::Channel;

impl Directory {
    /// The swarm is to be joined again, as at a start: everything may be different now.
    pub fn join_again(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.join_again(now);
        }
    }

    /// A channel led to an agent that may or may not exist. An agent that is known to be alive keeps the addresses that it gave
    /// itself.
    pub fn hint(&mut self, addr: &EndpointAddr, channel: Channel, now: Instant) -> Vec<DirectoryEffect> {
        let mut effects = Vec::new();
        let Some(entry) = self.entry(addr.id, Rank::Hint, now, &mut effects) else { return effects };
        entry.hinted = now;
        entry.unsaved |= entry.sources.insert(channel) && entry.alive.is_some();
        if entry.alive.is_none() || entry.addr.is_empty() {
            entry.merge_addrs(addr);
        }
        effects
    }

    /// Dialling an agent came to nothing. That ends no entry of somebody who was heard of lately: behind a firewall one can
    /// be well and out of reach.
    pub fn dial_failed(&mut self, id: &EndpointId, now: Instant) -> Vec<DirectoryEffect> {
        let fresh_for = self.fresh_for();
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        entry.fail(now);
        let silent = entry.age(now).is_none_or(|age| age >= fresh_for);
        if silent
            && entry.failures >= FAILURES_MAX
            && entry.standing != AgentStanding::Stale
            && entry.alive.is_some()
        {
            entry.standing = AgentStanding::Stale;
            entry.connected = false;
            return vec![DirectoryEffect::WentStale { id: *id, name: entry.name.clone() }];
        }
        Vec::new()
    }

    /// Up to `count` agents through which to join the swarm, and whether each has proved itself; they are not given again
    /// for a while. Those whose last attempts worked come first, then chance decides, from `seed`.
    pub fn choose_to_join(
        &mut self,
        but: &HashSet<EndpointId>,
        count: usize,
        seed: u64,
        now: Instant,
    ) -> Vec<(EndpointAddr, bool)> {
        let mut open: Vec<(u32, bool, u64, EndpointId)> = self
            .entries
            .iter()
            .filter(|(id, entry)| entry.join_at <= now && !entry.addr.is_empty() && !but.contains(*id))
            .map(|(id, entry)| (entry.failures.min(FAILURES_MAX), !entry.proven, shuffled(id, seed), *id))
            .collect();
        open.sort_unstable();
        open.truncate(count);
        let mut chosen = Vec::with_capacity(open.len());
        for (_, _, _, id) in open {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.join_later(now);
                chosen.push((entry.addr.clone(), entry.proven));
            }
        }
        chosen
    }

    /// How an attempt to join through an agent ended; one that worked also says that it proved itself.
    pub fn join_ended(&mut self, id: &EndpointId, joined: bool, now: Instant) -> Vec<DirectoryEffect> {
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        if !joined {
            entry.fail(now);
            return Vec::new();
        }
        entry.proven = true;
        entry.failures = 0;
        vec![DirectoryEffect::Located(entry.addr.clone())]
    }
}

/// Another order of ids for each seed.
fn shuffled(id: &EndpointId, seed: u64) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    (u64::from_le_bytes(first) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ seed
}
