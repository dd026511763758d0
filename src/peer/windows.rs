//! How much each peer may have on its way to us, of what all may have together. Pure.
//!
//! QUIC keeps what a peer sent until it is read in order, up to the connection's window, and a peer that leaves a gap has it
//! kept for good. So windows are parts of a sum: the fewer connections of a class there are, the larger are theirs. Where there are
//! few, one has more than a peer may have in flight, so that contents which wait for the disk leave room for control frames.

use super::places::Class;

/// What all own devices, and those that the user named, may have on its way together, unless there are very many of them.
const OWN_BYTES: u32 = 64 * 1024 * 1024;
/// What all others may.
const OTHERS_BYTES: u32 = OWN_BYTES / 2;
/// Window of a connection that has the most: 100 MB/s over a path of 160 ms.
const LARGEST_BYTES: u32 = 16 * 1024 * 1024;
/// Of a member of a library.
const LARGEST_OF_MEMBER_BYTES: u32 = LARGEST_BYTES / 4;
/// No connection has less, so that it gets on.
const SMALLEST_BYTES: u32 = 1024 * 1024;

/// Connections whose peers have proved themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProvedConnections {
    /// Own devices, and those that the user named.
    pub own: usize,
    pub members: usize,
}

impl ProvedConnections {
    /// The window of a connection of this class while there are so many.
    pub fn window(self, class: Class) -> u32 {
        let (sum, count, largest) = match class {
            Class::Named | Class::Own => (OWN_BYTES, self.own, LARGEST_BYTES),
            Class::Member(_) => (OTHERS_BYTES, self.members, LARGEST_OF_MEMBER_BYTES),
            Class::Stranger => return SMALLEST_BYTES,
        };
        // In steps, so that one who comes and goes does not change everybody's.
        let parts = u32::try_from(count.next_power_of_two()).unwrap_or(u32::MAX);
        (sum / parts).clamp(SMALLEST_BYTES, largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::ticket::{LibraryId, TicketSerial};

    const MEMBER: Class = Class::Member(TicketSerial { library: LibraryId([7; 32]), serial: 1 });

    #[test]
    fn few_have_large_windows_and_many_do_not_add_up_to_more() {
        let window = |own, members, class| ProvedConnections { own, members }.window(class);
        assert_eq!([1, 4].map(|own| window(own, 32, Class::Own)), [16 << 20; 2]);
        assert_eq!([5, 8].map(|own| window(own, 0, Class::Named)), [8 << 20; 2]);
        assert_eq!([1, 8].map(|members| window(60, members, MEMBER)), [4 << 20; 2]);
        for own in 1..=64 {
            for members in 0..=32 {
                let sum = own as u64 * u64::from(window(own, members, Class::Own))
                    + members as u64 * u64::from(window(own, members, MEMBER));
                assert!(sum <= u64::from(OWN_BYTES + OTHERS_BYTES), "{own} and {members}: {sum}");
            }
        }
        assert_eq!(window(0, 0, Class::Stranger), SMALLEST_BYTES);
        assert_eq!(window(100_000, 0, Class::Own), SMALLEST_BYTES, "nobody stands still");
    }
}
