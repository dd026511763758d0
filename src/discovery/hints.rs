//! Hints on their way to the actor that acts on them.
//!
//! Anybody may cause hints, as many as they like, and a mailbox takes whatever is sent. So hints wait here instead: each
//! peer once per channel, so many per channel, the newcomer refused where there are too many, since the channel that found it finds
//! it again. The actor hears once that some wait, and takes a few at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use parking_lot::{Mutex, MutexGuard};

use super::announcement::ADDRS_MAX;
use super::channel::Channel;

pub const HINTS_AT_ONCE: usize = 128;
/// Time until more of them are.
pub const HINTS_AGAIN: Duration = Duration::from_millis(100);
/// Peers of one channel that wait.
const WAITING_MAX: usize = 256;

/// Hints for one actor. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hints(Arc<Mutex<WaitingHint>>);

#[derive(Debug, Default)]
struct WaitingHint {
    channels: BTreeMap<Channel, Queue>,
    /// Whether the actor was told that some wait, and has not taken all of them since.
    told: bool,
    refused: u64,
}

/// What waits of one channel: who, in the order in which they came, and where they are.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<EndpointId>,
    addrs: HashMap<EndpointId, EndpointAddr>,
}

impl Hints {
    /// Has a hint wait. Whether the actor is to be told of it now: while others wait, it knows already.
    #[must_use]
    pub fn put(&self, addr: EndpointAddr, channel: Channel) -> bool {
        let mut waiting = self.lock();
        let WaitingHint { channels, told, refused } = &mut *waiting;
        let Queue { order, addrs } = channels.entry(channel).or_default();
        if let Some(waits) = addrs.get_mut(&addr.id) {
            let before = std::mem::replace(waits, bounded(addr));
            // What it says now goes before what it said first.
            let room = ADDRS_MAX - waits.addrs.len();
            let more = before.addrs.into_iter().filter(|addr| !waits.addrs.contains(addr));
            let more: Vec<_> = more.take(room).collect();
            waits.addrs.extend(more);
        } else if order.len() < WAITING_MAX {
            order.push_back(addr.id);
            addrs.insert(addr.id, bounded(addr));
        } else {
            *refused += 1;
        }
        !std::mem::replace(told, true)
    }

    /// Takes out at most `max` hints, one of each channel in turn, the oldest first; and whether more wait. Where none do, the
    /// actor is told of the next one again.
    #[must_use]
    pub fn take(&self, max: usize) -> (Vec<(EndpointAddr, Channel)>, bool) {
        let mut waiting = self.lock();
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            for (channel, queue) in &mut waiting.channels {
                if taken.len() < max
                    && let Some(id) = queue.order.pop_front()
                {
                    taken.extend(queue.addrs.remove(&id).map(|addr| (addr, *channel)));
                }
            }
            if taken.len() == before {
                break;
            }
        }
        let more = waiting.channels.values().any(|queue| !queue.order.is_empty());
        waiting.told = more;
        (taken, more)
    }

    /// How many hints were refused because too many waited.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    fn lock(&self) -> MutexGuard<'_, WaitingHint> {
        self.0.lock()
    }
}

fn bounded(addr: EndpointAddr) -> EndpointAddr {
    EndpointAddr::from_parts(addr.id, addr.addrs.into_iter().take(ADDRS_MAX))
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn id(n: u16) -> EndpointId {
        let mut seed = [3; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_bytes(&seed).public()
    }

    fn at(n: u16, ports: impl IntoIterator<Item = u16>) -> EndpointAddr {
        let addrs = ports.into_iter().map(|port| ([192, 0, 2, 1], port).into());
        addrs.fold(EndpointAddr::new(id(n)), EndpointAddr::with_ip_addr)
    }

    #[test]
    fn a_flood_of_one_channel_keeps_no_other_waiting() {
        let hints = Hints::default();
        assert!(hints.put(at(0, [1]), Channel::Mdns), "the first one is told of");
        for n in 1..1_000 {
            assert!(!hints.put(at(n, [1]), Channel::Mdns), "and no other");
        }
        assert_eq!(hints.refused(), 1_000 - WAITING_MAX as u64);
        assert!(!hints.put(at(7_000, [1]), Channel::Gossip));
        let (taken, more) = hints.take(3);
        let ids: Vec<_> = taken.iter().map(|(addr, channel)| (addr.id, *channel)).collect();
        let first = [(id(0), Channel::Mdns), (id(7_000), Channel::Gossip), (id(1), Channel::Mdns)];
        assert_eq!((ids.as_slice(), more), (&first[..], true));
        assert!(!hints.put(at(9_000, [1]), Channel::Relays), "it will come again for the rest");
        let (rest, more) = hints.take(1_000);
        assert_eq!((rest.len(), more), (WAITING_MAX - 2 + 1, false));
        assert_eq!(hints.take(1_000), (Vec::new(), false));
        assert!(hints.put(at(0, [1]), Channel::Mdns), "told anew");
    }

    #[test]
    fn hints_at_one_peer_are_one_hint() {
        let hints = Hints::default();
        let ports = |from: u16| from..from + 10;
        assert!(hints.put(at(1, ports(0)), Channel::Mdns));
        assert!(!hints.put(at(1, ports(100)), Channel::Mdns));
        let (taken, more) = hints.take(10);
        let [(addr, Channel::Mdns)] = taken.as_slice() else { panic!("{taken:?}") };
        assert_eq!((addr.addrs.len(), more), (ADDRS_MAX, false));
        assert!(addr.addrs.is_superset(&at(1, ports(100)).addrs), "what it said last");
        let _ = hints.put(at(2, 0..100), Channel::Mdns);
        assert_eq!(hints.take(1).0[0].0.addrs.len(), ADDRS_MAX);
    }
}
