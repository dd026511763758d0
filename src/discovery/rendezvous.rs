//! RendezvousActor: finds agents of its network through slots in pkarr, and lets itself be found.
//!
//! **Owns** the rhythm of looks and writes and one line per channel (relays, DHT): what its slots held, which agents to locate, how
//! it does. **Talks to** PeersActor and GossipActor through [`Candidates`](super::candidates::Candidates), and tells [`Channels`](super::channel::Channels) how the channels do.
//!
//! A *look* reads slots; each agent in them is *located* by the record that it publishes under its own key
//! ([`list`](super::list)) and handed on with its addresses. A *write* brings our own record up to date and claims a slot;
//! later the slot is *verified*, and claimed again if somebody wrote over it at the same time. The channels do not wait for
//! each other.
//!
//! **Bounds**: all of pkarr happens in tasks, at most one look, one write and one verification per channel, and as many lookups
//! as its transport wants; what is read is bounded by the packets' 1,000 bytes, what is remembered by [`channel::LOCATED_MAX`] and
//! [`channel::QUEUE_MAX`]. A panic in pkarr is one restart of this actor. **A restart** makes new clients and loses what was read.

mod channel;
mod messages;
mod publishing;
mod work;

use std::sync::Arc;
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use ractor::{Actor, ActorRef};
use tokio::sync::watch;
use tokio::time::Instant;

use self::channel::RendezvousChannel;
pub use self::messages::{RendezvousArgs, RendezvousMsg};
use self::work::{Location, TaskContext};
use super::channel::Channel;
use super::network::{NetworkError, Transport as _, now_us};
use super::slot::{SLOTS, Slot, SlotKeys, SlotReading};
use crate::actor::ActorResult;
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;

/// Writes that may be repeated at once because they were lost; then the next period is waited for.
const RECLAIMS_MAX: u32 = 5;
/// Two agents that start at the same time meet by writing a slot, reading it again, and locating the other one that wrote over it.
/// Where fewer requests than this may go out at once, a first look at all slots would hold that up.
const WIDTH_FOR_BOTH: usize = 4;
/// So the look comes after the first write was verified, or at the latest after this time.
const LOOK_AFTER_WRITE: Duration = Duration::from_secs(4);
/// Our addresses change several times while an endpoint starts; one write for all of them.
const ADDRESS_SETTLES: Duration = Duration::from_secs(2);

pub struct RendezvousState {
    args: RendezvousArgs,
    channels: Vec<RendezvousChannel>,
    tasks: Tasks<RendezvousMsg>,
}

pub struct RendezvousActor;

impl Actor for RendezvousActor {
    type Msg = RendezvousMsg;
    type State = RendezvousState;
    type Arguments = RendezvousArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RendezvousMsg>,
        args: RendezvousArgs,
    ) -> ActorResult<RendezvousState> {
        let transports = (args.connect)()?;
        let mut tasks = Tasks::new(myself.clone(), RendezvousMsg::TaskFailed);
        tasks.spawn(tell_changes(myself.clone(), args.connected.clone(), args.ticket.clone()));
        let lines = transports
            .into_iter()
            .map(|(channel, transport)| RendezvousChannel::new(channel, transport))
            .collect();
        let mut state = RendezvousState { args, channels: lines, tasks };
        for index in 0..state.channels.len() {
            state.args.channels.up(state.channels[index].channel);
            let is_narrow = state.channels[index].transport.width() < WIDTH_FOR_BOTH;
            let (look, write) = match state.args.slots {
                SlotKeys::Sealed { .. } if is_narrow => (LOOK_AFTER_WRITE, Duration::ZERO),
                SlotKeys::Sealed { .. } => (Duration::ZERO, Duration::ZERO),
                // With one id per slot it matters whether one of them is still ours, which the first look tells.
                SlotKeys::Compatible { .. } => {
                    (Duration::ZERO, state.args.timing.until_publish(rand::random()))
                }
            };
            state.arm_scan(&myself, index, look);
            state.arm_publish(&myself, index, write);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RendezvousMsg>,
        message: RendezvousMsg,
        state: &mut RendezvousState,
    ) -> ActorResult {
        match message {
            RendezvousMsg::ScanDue { channel, generation } => state.on_scan_due(&myself, channel, generation),
            RendezvousMsg::PublishDue { channel, generation } => {
                state.on_publish_due(&myself, channel, generation);
            }
            RendezvousMsg::VerifyDue { channel, slot } => state.on_verify_due(&myself, channel, slot),
            RendezvousMsg::SlotRead { channel, slot, look } => {
                state.on_slot_read(&myself, channel, slot, look);
            }
            RendezvousMsg::Scanned { channel, failure } => state.on_scanned(&myself, channel, failure),
            RendezvousMsg::Published { channel, record, slot, failure } => {
                state.on_published(&myself, channel, record, slot, failure);
            }
            RendezvousMsg::Verified { channel, held } => state.on_verified(&myself, channel, held),
            RendezvousMsg::Located { channel, id, addr } => state.on_located(&myself, channel, id, addr),
            RendezvousMsg::Locate { endpoint_id } => state.on_locate(&myself, endpoint_id),
            RendezvousMsg::LookNow => state.on_look_now(&myself),
            RendezvousMsg::ContactChanged => state.on_contact_changed(&myself),
            RendezvousMsg::AddressChanged => state.on_address_changed(&myself),
            RendezvousMsg::TaskFailed(why) => {
                return Err(format!("a task of the rendezvous: {why}").into());
            }
            RendezvousMsg::GetHealth { reply } => {
                let _ = reply.send(state.detail());
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<RendezvousMsg>, state: &mut RendezvousState) -> ActorResult {
        state.tasks.shutdown().await;
        Ok(())
    }
}

impl RendezvousState {
    fn line(&self, channel: Channel) -> Option<usize> {
        self.channels.iter().position(|line| line.channel == channel)
    }

    fn detail(&self) -> ActorDetail {
        let lines: Vec<String> = self.channels.iter().map(RendezvousChannel::describe).collect();
        let detail = if lines.is_empty() { "no channel is configured".to_owned() } else { lines.join("; ") };
        let queued = self.channels.iter().map(RendezvousChannel::waiting).sum::<usize>();
        ActorDetail { detail: Some(detail), queued: u64::try_from(queued).ok(), children: Vec::new() }
    }

    fn arm_scan(&mut self, myself: &ActorRef<RendezvousMsg>, index: usize, delay: Duration) {
        let line = &mut self.channels[index];
        line.scan_generation += 1;
        let (channel, generation) = (line.channel, line.scan_generation);
        myself.send_after(delay, move || RendezvousMsg::ScanDue { channel, generation });
    }

    fn work(&self, myself: &ActorRef<RendezvousMsg>, index: usize) -> TaskContext {
        let line = &self.channels[index];
        TaskContext {
            channel: line.channel,
            transport: Arc::clone(&line.transport),
            actor: myself.clone(),
            slots: self.args.slots.clone(),
            own: self.args.secret_key.public(),
        }
    }

    fn on_scan_due(&mut self, myself: &ActorRef<RendezvousMsg>, channel: Channel, generation: u64) {
        let Some(index) = self.line(channel) else { return };
        if self.channels[index].scan_generation != generation {
            return;
        }
        let contact = self.args.contact();
        if !self.channels[index].busy.scanning {
            self.channels[index].begin_scan(contact);
            let work = self.work(myself, index);
            // The first look of a restarted actor is thorough, also with peers connected.
            let thorough = !contact || !self.channels[index].scanned_once;
            self.tasks.spawn(work.scan(thorough, rand::random()));
        }
        let delay = self.until_scan(index);
        self.arm_scan(myself, index, delay);
    }

    fn until_scan(&self, index: usize) -> Duration {
        let (line, timing) = (&self.channels[index], &self.args.timing);
        timing.until_scan(line.quiet, rand::random()).max(timing.until_retry(line.failures, rand::random()))
    }

    fn on_slot_read(
        &mut self,
        myself: &ActorRef<RendezvousMsg>,
        channel: Channel,
        slot: Slot,
        look: SlotReading,
    ) {
        let Some(index) = self.line(channel) else { return };
        if let SlotReading::Read(entries) = &look {
            let own = self.args.secret_key.public();
            self.channels[index].wanted(entries.iter().map(|entry| entry.id).filter(|id| *id != own));
        }
        let own = self.args.secret_key.public();
        let gone = matches!(&look, SlotReading::Read(entries) if entries.iter().all(|entry| entry.id != own));
        if gone && self.channels[index].claimed == Some(slot) && !self.args.contact() {
            // In company, an entry may well run out before it is our turn again.
            self.lost(myself, index);
        }
        let day = self.args.slots.day(now_us());
        if slot.day == day && slot.index < SLOTS {
            self.channels[index].looks_of(day)[usize::from(slot.index)] = look;
        }
        self.locate(myself, index);
    }

    /// Looks for as many wanted agents as the transport takes at once.
    fn locate(&mut self, myself: &ActorRef<RendezvousMsg>, index: usize) {
        let contact = self.args.contact();
        while let Some(next) = self.channels[index].next_wanted(contact, Instant::now()) {
            match next {
                Location::Known(addr) => self.args.candidates.found(addr, self.channels[index].channel),
                Location::LookUp(id) => {
                    let work = self.work(myself, index);
                    self.tasks.spawn(work.locate(self.args.keys.clone(), id));
                }
            }
        }
    }

    fn on_locate(&mut self, myself: &ActorRef<RendezvousMsg>, id: EndpointId) {
        for index in 0..self.channels.len() {
            self.channels[index].asked(id);
            self.locate(myself, index);
        }
    }

    /// What failed may work now, and what was found out may be wrong.
    fn on_look_now(&mut self, myself: &ActorRef<RendezvousMsg>) {
        for index in 0..self.channels.len() {
            self.channels[index].begin_afresh();
            self.arm_scan(myself, index, Duration::ZERO);
            self.arm_publish(myself, index, Duration::ZERO);
        }
    }

    fn on_located(
        &mut self,
        myself: &ActorRef<RendezvousMsg>,
        channel: Channel,
        id: EndpointId,
        addr: Result<Option<EndpointAddr>, NetworkError>,
    ) {
        let Some(index) = self.line(channel) else { return };
        if id == self.args.secret_key.public() {
            return self.on_own_record(index, addr.ok().flatten());
        }
        let addr = addr.map(|addr| addr.filter(|addr| !addr.is_empty()));
        self.channels[index].located(id, &addr, Instant::now());
        // Agents of the old kind publish where iroh looks by itself, so their bare id is enough for a dial.
        let bare = matches!(self.args.slots, SlotKeys::Compatible { .. }).then(|| EndpointAddr::new(id));
        if let Some(addr) = addr.ok().flatten().or(bare) {
            self.args.candidates.found(addr, channel);
        }
        self.locate(myself, index);
    }

    fn on_scanned(&mut self, myself: &ActorRef<RendezvousMsg>, channel: Channel, failure: Option<String>) {
        let Some(index) = self.line(channel) else { return };
        self.channels[index].busy.scanning = false;
        if !self.args.contact() {
            // In company, the others notice a second machine with our key. Nobody else waits for this.
            let work = self.work(myself, index);
            self.tasks.spawn(work.locate(self.args.keys.clone(), self.args.secret_key.public()));
        }
        self.report(index, failure);
        if self.channels[index].failures > 0 {
            let delay = self.until_scan(index);
            self.arm_scan(myself, index, delay);
            return;
        }
        let first = !std::mem::replace(&mut self.channels[index].scanned_once, true);
        if first && !self.channels[index].published_once && !self.channels[index].busy.publishing {
            // Now it is known where there is room.
            self.arm_publish(myself, index, Duration::ZERO);
        }
    }

    /// Keeps count of failures, and tells how the channel does.
    fn report(&mut self, index: usize, failure: Option<String>) {
        let line = &mut self.channels[index];
        match failure {
            None => {
                line.failures = 0;
                self.args.channels.succeeded(line.channel, now_us() / 1000);
            }
            Some(why) => {
                line.failures = line.failures.saturating_add(1);
                tracing::debug!(channel = line.channel.name(), failures = line.failures, why, "rendezvous");
                self.args.channels.down(line.channel, &why);
            }
        }
    }

    /// An endpoint that starts learns of its addresses one by one, and a bad network may change them for ever: the first
    /// changes are written soon, further ones later.
    fn on_address_changed(&mut self, myself: &ActorRef<RendezvousMsg>) {
        for index in 0..self.channels.len() {
            let line = &mut self.channels[index];
            // Until something was written, that write is yet to come.
            if line.published_once && !std::mem::replace(&mut line.moving, true) {
                let delay = ADDRESS_SETTLES.saturating_mul(2_u32.saturating_pow(line.moves));
                line.moves = line.moves.saturating_add(1);
                self.arm_publish(myself, index, delay.min(self.args.timing.publish));
            }
        }
    }

    /// A node that has lost all peers looks at once; one that has found some, later.
    fn on_contact_changed(&mut self, myself: &ActorRef<RendezvousMsg>) {
        if self.args.contact() {
            return;
        }
        for index in 0..self.channels.len() {
            if std::mem::take(&mut self.channels[index].quiet) > 0 {
                let delay = self.args.timing.until_scan(0, rand::random()) / 8;
                self.arm_scan(myself, index, delay);
            }
        }
    }
}

/// By the clock that stands still while the machine sleeps, and by the one that does not, in microseconds.
fn now() -> (Instant, u64) {
    (Instant::now(), now_us())
}

/// Tells when the first peer comes or the last one goes, and when our addresses change; ends with those who know.
async fn tell_changes(
    actor: ActorRef<RendezvousMsg>,
    mut connected: watch::Receiver<usize>,
    mut ticket: watch::Receiver<String>,
) {
    let mut contact = *connected.borrow_and_update() > 0;
    ticket.mark_unchanged();
    let (mut counts, mut moves) = (true, true);
    while counts || moves {
        tokio::select! {
            changed = connected.changed(), if counts => {
                counts = changed.is_ok();
                let now = *connected.borrow_and_update() > 0;
                if std::mem::replace(&mut contact, now) != now {
                    let _ = actor.send_message(RendezvousMsg::ContactChanged);
                }
            }
            changed = ticket.changed(), if moves => {
                moves = changed.is_ok();
                if moves {
                    let _ = actor.send_message(RendezvousMsg::AddressChanged);
                }
            }
        }
    }
}
