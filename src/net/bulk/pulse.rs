//! Whether a bulk connection is alive: its session would go on without it, and where only it lost its path, nobody else notices.

use iroh::endpoint::Connection;

/// Looks in a row, a second apart, at which nothing had come. Something comes every four seconds while both ends live.
const SILENT_LOOKS_MAX: u32 = 7;

/// What comes on a connection, looked at once a second. Looks are counted and not time, for a process that stands still hears
/// nothing either.
#[derive(Debug, Default)]
pub struct Pulse {
    datagrams: u64,
    silent_looks: u32,
}

impl Pulse {
    /// Whether nothing has come for so long that the connection is dead.
    pub fn is_lost(&mut self, connection: &Connection) -> bool {
        self.look(connection.stats().udp_rx.datagrams)
    }

    fn look(&mut self, datagrams: u64) -> bool {
        let is_silent = std::mem::replace(&mut self.datagrams, datagrams) == datagrams;
        self.silent_looks = if is_silent { self.silent_looks + 1 } else { 0 };
        self.silent_looks >= SILENT_LOOKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_silent_looks_in_a_row_are_too_many() {
        let mut pulse = Pulse::default();
        assert!((1..100).all(|datagrams| !pulse.look(datagrams)));
        assert!((0..6).all(|_| !pulse.look(99)));
        assert!(!pulse.look(100));
        assert!((0..6).all(|_| !pulse.look(100)));
        assert!(pulse.look(100));
    }
}
