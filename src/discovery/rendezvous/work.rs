//! RendezvousActor's tasks: everything that waits for pkarr.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{StreamExt as _, iter};
use iroh::{EndpointAddr, EndpointId, SecretKey};
use ractor::ActorRef;

use super::RendezvousMsg;
use super::channel::Counted;
use crate::discovery::channel::Channel;
use crate::discovery::list;
use crate::discovery::network::{KeyLookup, NetworkError, Transport as _, date_after, now_us};
use crate::discovery::slot::pace::next_read;
use crate::discovery::slot::{SLOTS, Slot, SlotKeys, SlotReading};
use crate::identity::NetworkKeys;

/// What to do about an agent that a slot held.
pub(super) enum Location {
    Known(EndpointAddr),
    LookUp(EndpointId),
}

/// What is in a slot, and its date.
type Looked = Result<(SlotReading, Option<u64>), NetworkError>;

pub(super) struct TaskContext {
    pub(super) channel: Channel,
    pub(super) transport: Arc<Counted>,
    pub(super) actor: ActorRef<RendezvousMsg>,
    pub(super) slots: SlotKeys,
    pub(super) own: EndpointId,
}

/// What our own record is made of.
pub(super) struct Record {
    pub(super) keys: NetworkKeys,
    pub(super) secret_key: SecretKey,
    pub(super) addr: EndpointAddr,
    pub(super) agents: Vec<(EndpointId, Duration)>,
}

impl TaskContext {
    /// An owner that is gone took its tasks along.
    fn tell(&self, message: RendezvousMsg) {
        let _ = self.actor.send_message(message);
    }

    /// Reads a slot and tells what is in it; also the date of what is there.
    async fn look(&self, slot: Slot) -> Looked {
        let answer = self.transport.resolve(self.slots.keypair(slot).public_key()).await;
        let (look, date) = match &answer {
            Ok(KeyLookup::Packet(packet)) => {
                (SlotReading::Read(self.slots.unpack(packet, now_us())), Some(packet.timestamp().as_u64()))
            }
            Ok(KeyLookup::Nothing) => (SlotReading::Read(Vec::new()), None),
            Ok(KeyLookup::FromTheFuture) | Err(_) => (SlotReading::Closed, None),
        };
        self.tell(RendezvousMsg::SlotRead { channel: self.channel, slot, look: look.clone() });
        answer.map(|_| (look, date))
    }

    /// Looks into the slots: into all of them, or into as many as a network in contact needs.
    pub(super) async fn scan(self, thorough: bool, draw: f64) {
        let day = self.slots.day(now_us());
        let (mut reached, mut failure) = (false, None);
        let mut note = |result: Looked| match result {
            Ok((look, _)) => {
                reached = true;
                Some(look)
            }
            Err(error) => {
                failure = Some(error.to_string());
                None
            }
        };
        if thorough {
            let days = [Some(day), self.slots.neighbour_day(now_us())];
            let slots =
                days.into_iter().flatten().flat_map(|day| (0..SLOTS).map(move |index| Slot { day, index }));
            // Lookups of what the first slots held are not to wait for the last slot.
            let width = (self.transport.width() / 2).max(1);
            let mut looks = iter(slots).map(|slot| self.look(slot)).buffer_unordered(width);
            while let Some(result) = looks.next().await {
                note(result);
            }
        } else {
            let mut read = [None; SLOTS as usize];
            while let Some(index) = next_read(read, false, draw) {
                let look = note(self.look(Slot { day, index }).await);
                let room = match look {
                    Some(SlotReading::Read(entries)) => self.slots.has_room(&entries, now_us()),
                    Some(SlotReading::Closed | SlotReading::Unread) | None => false,
                };
                read[usize::from(index)] = Some(room);
            }
        }
        // One slot that nobody can read does not make the channel bad.
        let failure = failure.filter(|_| !reached);
        self.tell(RendezvousMsg::Scanned { channel: self.channel, failure });
    }

    /// Writes our record, if given, then claims a slot, if given what is known of the slots. The record comes first: an agent
    /// that finds us in the slot looks for it.
    pub(super) async fn publish(self, record: Option<Record>, looks: Option<(u64, Vec<SlotReading>)>) {
        let (mut written, mut claimed, mut failure) = (None, None, None);
        // A slot that nobody has written takes a DHT seconds to say so: that time is not lost.
        let write_record = async {
            match &record {
                Some(record) => self.write_record(record).await.map(|()| Some(record.addr.clone())),
                None => Ok(None),
            }
        };
        let first_look = async {
            let (day, looks) = looks.as_ref()?;
            let index = self.slots.claim(&self.own, looks, now_us())?;
            Some((index, self.look(Slot { day: *day, index }).await))
        };
        let (record_written, first_look) = tokio::join!(write_record, first_look);
        match record_written {
            Ok(addr) => written = addr,
            Err(error) => failure = Some(error),
        }
        if let Some((day, looks)) = looks {
            match self.claim(day, looks, first_look).await {
                Ok(slot) => claimed = slot,
                Err(error) => failure = Some(error),
            }
        }
        let channel = self.channel;
        self.tell(RendezvousMsg::Published { channel, record: written, slot: claimed, failure });
    }

    async fn write_record(&self, record: &Record) -> Result<(), String> {
        let Err(error) = self.write_record_after(record, None).await else { return Ok(()) };
        // Most likely it is older than what is there: our clock was set back, or the other channel was faster.
        let key = list::key_of(&self.own).ok_or_else(|| error.clone())?;
        match self.transport.resolve(key).await {
            Ok(KeyLookup::Packet(there)) => {
                self.write_record_after(record, Some(there.timestamp().as_u64())).await
            }
            Ok(KeyLookup::Nothing) => self.write_record_after(record, None).await,
            Ok(KeyLookup::FromTheFuture) => {
                Err("our own record is dated in the future, so it stays until the network forgets it"
                    .to_owned())
            }
            Err(_) => Err(error),
        }
    }

    async fn write_record_after(&self, record: &Record, seen_us: Option<u64>) -> Result<(), String> {
        let Record { keys, secret_key, addr, agents } = record;
        let at_us = date_after(seen_us, now_us());
        let packet = list::pack(keys, secret_key, addr, agents, at_us, rand::random());
        self.transport.publish(packet.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())
    }

    /// Reads the slot that looks best, unless that was just done, writes it if it still does, else goes on to the next. One
    /// that somebody else wrote in between is read and written once more.
    async fn claim(
        &self,
        day: u64,
        mut looks: Vec<SlotReading>,
        mut just_read: Option<(u8, Looked)>,
    ) -> Result<Option<Slot>, String> {
        let mut failure = None;
        let mut fresh = [None; SLOTS as usize];
        let mut overtaken = [false; SLOTS as usize];
        // Each round reads a slot, or closes one, or is the last.
        for _ in 0..=3 * SLOTS {
            let Some(index) = self.slots.claim(&self.own, &looks, now_us()) else { break };
            let at = usize::from(index);
            let slot = Slot { day, index };
            let Some(date) = fresh[at] else {
                let read = match just_read.take() {
                    Some((read, looked)) if read == index => looked,
                    Some(_) | None => self.look(slot).await,
                };
                looks[at] = match read {
                    Ok((look, date)) => {
                        fresh[at] = Some(date);
                        look
                    }
                    Err(error) => {
                        failure = Some(error.to_string());
                        SlotReading::Closed
                    }
                };
                continue;
            };
            let SlotReading::Read(entries) = &looks[at] else { break };
            let now = now_us();
            let entries = self.slots.with_own(self.own, entries, now);
            let packet = self.slots.pack(slot, &entries, date_after(date, now), rand::random());
            match self.transport.publish(packet.map_err(|e| e.to_string())?).await {
                Ok(()) => return Ok(Some(slot)),
                Err(error) => {
                    failure = Some(error.to_string());
                    fresh[at] = None;
                    if std::mem::replace(&mut overtaken[at], true) {
                        looks[at] = SlotReading::Closed;
                    }
                }
            }
        }
        // No place is no failure; no slot that could be read or written is one.
        failure.map_or(Ok(None), Err)
    }

    /// Reads a slot again; whether we are in it.
    pub(super) async fn verify(self, slot: Slot) {
        let held = match self.look(slot).await {
            Ok((SlotReading::Read(entries), _)) => Some(entries.iter().any(|entry| entry.id == self.own)),
            Ok((SlotReading::Closed | SlotReading::Unread, _)) => Some(false),
            Err(_) => None,
        };
        self.tell(RendezvousMsg::Verified { channel: self.channel, held });
    }

    pub(super) async fn locate(self, keys: NetworkKeys, id: EndpointId) {
        let answer = match list::key_of(&id) {
            Some(key) => self.transport.resolve(key).await,
            None => Ok(KeyLookup::Nothing),
        };
        let addr = answer.map(|answer| match answer {
            KeyLookup::Packet(packet) => list::unpack(&keys, id, &packet).map(|published| published.addr),
            KeyLookup::Nothing | KeyLookup::FromTheFuture => None,
        });
        self.tell(RendezvousMsg::Located { channel: self.channel, id, addr });
    }
}
