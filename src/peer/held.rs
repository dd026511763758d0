//! What peers have this node hold, all sessions together: offers that are not settled, and frames that they do not read.
//!
//! Each session has limits of its own, that no honest peer reaches; sixty-four of them together are too much. So there is a
//! sum, with shares as for places: members of libraries have half of it, one ticket half of that, and own devices all that
//! members do not have. Where a share is exceeded, the session that holds the most of it is closed, and may come back: what was
//! offered and not taken is offered again then.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::library::ticket::TicketSerial;
use crate::transfer::schedule::SessionId;

/// Bytes of all sessions together, as they come over the wire; in memory they take about three times as much.
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a session may hold whatever others do: all offers that it may have open, with metadata as most assets have it.
const ALWAYS_BYTES: usize = 1280 * 1024;

/// What all sessions hold. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SessionMemory(Arc<Mutex<HashMap<SessionId, SessionUse>>>);

struct SessionUse {
    /// By which ticket its peer was let in, if it is none of our own devices.
    ticket: Option<TicketSerial>,
    bytes: usize,
    close: Box<dyn Fn() + Send>,
}

impl fmt::Debug for SessionUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("ticket", &self.ticket)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A session's part of it; nothing any more once it is dropped.
#[derive(Debug)]
pub struct HeldBySession {
    held: SessionMemory,
    session: SessionId,
}

impl SessionMemory {
    /// A session begins, of an own device or of a member by this ticket. `close` ends it because it holds too much; it must not
    /// block.
    #[must_use]
    pub fn begin(
        &self,
        session: SessionId,
        ticket: Option<TicketSerial>,
        close: impl Fn() + Send + 'static,
    ) -> HeldBySession {
        self.lock().insert(session, SessionUse { ticket, bytes: 0, close: Box::new(close) });
        HeldBySession { held: self.clone(), session }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, SessionUse>> {
        self.0.lock()
    }
}

impl HeldBySession {
    /// The session holds so many bytes now. Where that is too much for a share that it is in, the one that holds the most of that
    /// share is closed.
    pub fn set(&self, bytes: usize) {
        let mut sessions = self.held.lock();
        let Some(own) = sessions.get_mut(&self.session) else { return };
        let grows = bytes > own.bytes;
        own.bytes = bytes;
        let ticket = own.ticket;
        if !grows {
            return;
        }
        let members = ALL_BYTES_MAX / 2;
        if ticket.is_some() {
            bound(&mut sessions, members / 2, |session| session.ticket == ticket);
            bound(&mut sessions, members, |session| session.ticket.is_some());
        } else {
            // What members hold is none of the own devices' concern as long as those keep to their half.
            let others: usize =
                sessions.values().filter(|other| other.ticket.is_some()).map(|o| o.bytes).sum();
            let own = ALL_BYTES_MAX - others.min(members);
            bound(&mut sessions, own, |session| session.ticket.is_none());
        }
    }
}

/// Closes those of a share that hold the most, until the rest keeps to `max`, or holds little.
fn bound(sessions: &mut HashMap<SessionId, SessionUse>, max: usize, is_in: impl Fn(&SessionUse) -> bool) {
    loop {
        let share = sessions.iter().filter(|(_, session)| is_in(session));
        let sum: usize = share.clone().map(|(_, session)| session.bytes).sum();
        let most = share.max_by_key(|(id, session)| (session.bytes, id.0));
        let Some((id, _)) = most.filter(|(_, session)| sum > max && session.bytes > ALWAYS_BYTES) else {
            return;
        };
        let id = *id;
        // It is let go of from now on.
        if let Some(session) = sessions.remove(&id) {
            (session.close)();
        }
    }
}

impl Drop for HeldBySession {
    fn drop(&mut self) {
        self.held.lock().remove(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::library::ticket::LibraryId;

    const MIB: usize = 1024 * 1024;

    fn ticket(serial: u64) -> TicketSerial {
        TicketSerial { library: LibraryId([7; 32]), serial }
    }

    /// A session, and whether it was closed.
    struct Greedy(HeldBySession, Arc<AtomicBool>);

    impl Greedy {
        fn begin(held: &SessionMemory, n: u64, ticket: Option<TicketSerial>) -> Self {
            let closed = Arc::new(AtomicBool::new(false));
            let close = Arc::clone(&closed);
            Self(held.begin(SessionId(n), ticket, move || close.store(true, Ordering::Relaxed)), closed)
        }

        fn is_closed(&self) -> bool {
            self.1.load(Ordering::Relaxed)
        }
    }

    /// Sessions that each hold more and more, 1 MiB at a time and at most 16, until they are closed.
    fn greedy(
        held: &SessionMemory,
        numbers: std::ops::Range<u64>,
        of: impl Fn(u64) -> Option<TicketSerial>,
    ) -> Vec<Greedy> {
        let sessions: Vec<Greedy> = numbers.map(|n| Greedy::begin(held, n, of(n))).collect();
        for mib in 1..=16 {
            for session in &sessions {
                session.0.set(mib * MIB);
            }
        }
        sessions
    }

    fn sum(held: &SessionMemory, is_in: impl Fn(&SessionUse) -> bool) -> usize {
        held.lock().values().filter(|session| is_in(session)).map(|session| session.bytes).sum()
    }

    #[test]
    fn all_together_hold_no_more_than_there_is() {
        let held = SessionMemory::default();
        let own = greedy(&held, 0..64, |_| None);
        assert!(sum(&held, |_| true) <= ALL_BYTES_MAX);
        assert_eq!(own.iter().filter(|session| !session.is_closed()).count(), 2, "16 MiB each");
        drop(own);
        assert_eq!(held.lock().len(), 0);
        // One alone has all that it may have by itself.
        assert!(!greedy(&held, 0..1, |_| None)[0].is_closed());
    }

    #[test]
    fn members_and_one_ticket_have_shares_and_own_devices_have_theirs() {
        let held = SessionMemory::default();
        let _one = greedy(&held, 0..32, |_| Some(ticket(1)));
        assert!(sum(&held, |session| session.ticket == Some(ticket(1))) <= ALL_BYTES_MAX / 4);
        let _others = greedy(&held, 100..132, |n| Some(ticket(n)));
        assert!(sum(&held, |session| session.ticket.is_some()) <= ALL_BYTES_MAX / 2);
        let own = Greedy::begin(&held, 1_000, None);
        own.0.set(ALL_BYTES_MAX / 2);
        assert!(!own.is_closed(), "an own device has what is its own");
    }

    #[test]
    fn who_holds_the_most_goes_and_who_holds_little_stays() {
        let held = SessionMemory::default();
        let modest: Vec<Greedy> = (0..40).map(|n| Greedy::begin(&held, n, Some(ticket(n)))).collect();
        for session in &modest {
            session.0.set(ALWAYS_BYTES);
        }
        let (more, most) =
            (Greedy::begin(&held, 98, Some(ticket(98))), Greedy::begin(&held, 99, Some(ticket(99))));
        most.0.set(4 * MIB);
        assert!(most.is_closed(), "there are too many of them, and it holds the most");
        more.0.set(ALWAYS_BYTES);
        assert!(!more.is_closed() && modest.iter().all(|session| !session.is_closed()));
    }
}
