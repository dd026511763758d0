//! RendezvousActor: in paused time with a pkarr that obeys the test, and on a real DHT with a real pkarr relay.

use can_sync::testing::config::SlotFormat;
use can_sync::testing::discovery::network::now_us;
use can_sync::testing::discovery::slot::{SLOTS, Slot, SlotEntry};

use crate::support::rendezvous::{secret_key, slot_keys};

mod paused;
mod real;

/// Today's slots.
fn slots(format: SlotFormat) -> Vec<Slot> {
    let day = slot_keys(format).day(now_us());
    (0..SLOTS).map(|index| Slot { day, index }).collect()
}

fn entry(n: u16) -> SlotEntry {
    SlotEntry { id: secret_key(n).public(), alive_us: now_us() }
}
