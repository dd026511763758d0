//! RendezvousActor's part in being found: writing our record and a slot, and looking whether it is still there.

use std::time::Duration;

use iroh::EndpointAddr;
use ractor::ActorRef;

use super::{RECLAIMS_MAX, RendezvousMsg, RendezvousState, now, work};
use crate::discovery::channel::Channel;
use crate::discovery::network::now_us;
use crate::discovery::slot::Slot;
use crate::discovery::slot::pace::publishes;

impl RendezvousState {
    pub(super) fn arm_publish(&mut self, myself: &ActorRef<RendezvousMsg>, index: usize, delay: Duration) {
        let line = &mut self.channels[index];
        line.publish_generation += 1;
        let (channel, generation) = (line.channel, line.publish_generation);
        myself.send_after(delay, move || RendezvousMsg::PublishDue { channel, generation });
    }

    /// What is published under our own key. If it leads elsewhere than what we wrote, another machine has that key; it is told the
    /// same by ours, which is written again.
    pub(super) fn on_own_record(&mut self, index: usize, addr: Option<EndpointAddr>) {
        let (Some(addr), own) = (addr, self.args.own_addr()) else { return };
        let line = &mut self.channels[index];
        let is_elsewhere = line.record_addr().is_some_and(|written| {
            addr.addrs.iter().any(|addr| !written.addrs.contains(addr) && !own.addrs.contains(addr))
        });
        if is_elsewhere {
            line.forget_record();
            self.args.candidates.own_id_elsewhere(addr, line.channel);
        }
    }

    pub(super) fn on_publish_due(
        &mut self,
        myself: &ActorRef<RendezvousMsg>,
        channel: Channel,
        generation: u64,
    ) {
        let Some(index) = self.line(channel) else { return };
        if self.channels[index].publish_generation != generation {
            return;
        }
        let turn =
            publishes(self.args.network_size(), rand::random()) || !self.channels[index].published_once;
        self.channels[index].reclaims = 0;
        self.publish(myself, index, turn);
        let (timing, failures) = (&self.args.timing, self.channels[index].failures);
        let delay = timing.until_publish(rand::random()).max(timing.until_retry(failures, rand::random()));
        self.arm_publish(myself, index, delay);
    }

    /// Writes our record if it is out of date, and a slot if it is our turn.
    pub(super) fn publish(&mut self, myself: &ActorRef<RendezvousMsg>, index: usize, turn: bool) {
        if self.channels[index].busy.publishing {
            return;
        }
        let addr = self.args.own_addr();
        let stale = self.channels[index].record_is_stale(&addr, self.args.timing.refresh, now());
        self.channels[index].moving = false;
        if !stale {
            self.channels[index].moves = 0;
        }
        if !turn && !stale {
            return;
        }
        self.channels[index].busy.publishing = true;
        let work = self.work(myself, index);
        let record = stale.then(|| work::Record {
            keys: self.args.keys.clone(),
            secret_key: self.args.secret_key.clone(),
            addr,
            agents: self.args.seen_alive(),
        });
        let day = self.args.slots.day(now_us());
        let looks = turn.then(|| (day, self.channels[index].worth_a_try(day)));
        self.tasks.spawn(work.publish(record, looks));
    }

    pub(super) fn on_published(
        &mut self,
        myself: &ActorRef<RendezvousMsg>,
        channel: Channel,
        record: Option<EndpointAddr>,
        slot: Option<Slot>,
        failure: Option<String>,
    ) {
        let Some(index) = self.line(channel) else { return };
        self.channels[index].busy.publishing = false;
        if let Some(addr) = record {
            self.channels[index].record_written(addr, now());
        }
        self.channels[index].published_once |= failure.is_none();
        if failure.is_some() && !self.channels[index].published_once {
            // Nobody can find us yet: that does not wait for the next period.
            let delay = self.args.timing.until_retry(self.channels[index].failures + 1, rand::random());
            self.arm_publish(myself, index, delay);
        }
        if let Some(slot) = slot {
            self.channels[index].claimed = Some(slot);
            // The more writers met here, the further they spread.
            let delay = self.args.timing.until_verify(rand::random()) * (self.channels[index].reclaims + 1);
            myself.send_after(delay, move || RendezvousMsg::VerifyDue { channel, slot });
        } else {
            self.take_first_look(myself, index);
        }
        let failed = self.channels[index].failures > 0;
        self.report(index, failure);
        if failed && self.channels[index].failures == 0 {
            // It works again, so the next look does not wait as long as for a channel that fails.
            let delay = self.until_scan(index);
            self.arm_scan(myself, index, delay);
        }
    }

    pub(super) fn on_verify_due(&mut self, myself: &ActorRef<RendezvousMsg>, channel: Channel, slot: Slot) {
        let Some(index) = self.line(channel) else { return };
        if !std::mem::replace(&mut self.channels[index].busy.verifying, true) {
            let work = self.work(myself, index);
            self.tasks.spawn(work.verify(slot));
        }
    }

    pub(super) fn on_verified(
        &mut self,
        myself: &ActorRef<RendezvousMsg>,
        channel: Channel,
        held: Option<bool>,
    ) {
        let Some(index) = self.line(channel) else { return };
        self.channels[index].busy.verifying = false;
        self.take_first_look(myself, index);
        if held == Some(false) {
            self.lost(myself, index);
        }
    }

    /// The first write is done, so the look that waited for it goes.
    pub(super) fn take_first_look(&mut self, myself: &ActorRef<RendezvousMsg>, index: usize) {
        if self.channels[index].scans == 0 {
            self.arm_scan(myself, index, Duration::ZERO);
        }
    }

    /// Somebody wrote over our claim, not knowing of it.
    pub(super) fn lost(&mut self, myself: &ActorRef<RendezvousMsg>, index: usize) {
        let line = &mut self.channels[index];
        if line.claimed.take().is_some() && line.reclaims < RECLAIMS_MAX {
            line.reclaims += 1;
            self.publish(myself, index, true);
        }
    }
}
