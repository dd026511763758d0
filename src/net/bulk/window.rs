//! What a peer may have on its way to us, on its session's connection and on the bulk connection beside it together.

use std::sync::Arc;

use iroh::endpoint::Connection;
use parking_lot::{Mutex, MutexGuard};

use crate::net::endpoint;

/// The part that stays with the session's connection while contents come on another one: an eighth.
const SESSION_PARTS: u32 = 8;
/// And no less than this, so that frames get on.
const SESSION_BYTES_MIN: u32 = 256 * 1024;

/// The window of one peer. Cheap to clone; clones are of the same peer.
#[derive(Clone, Debug)]
pub struct InboundWindow(Arc<Mutex<Windows>>);

#[derive(Debug)]
struct Windows {
    session: Connection,
    /// The bulk connection that contents come on, and its number.
    bulk: Option<(u64, Connection)>,
    next: u64,
    /// What both may have together; nothing before that was decided.
    bytes: Option<u32>,
}

impl InboundWindow {
    /// Of the peer at the other end of a session's connection, which has the window that it was opened with.
    pub fn new(session: Connection) -> Self {
        Self(Arc::new(Mutex::new(Windows { session, bulk: None, next: 0, bytes: None })))
    }

    /// Lets the peer have so many bytes on their way to us.
    pub fn set(&self, bytes: u32) {
        let mut windows = self.lock();
        if windows.bytes.replace(bytes) != Some(bytes) {
            windows.apply();
        }
    }

    /// A session begins on the connection, which lets its peer open `streams` streams of each kind.
    pub fn open_up(&self, streams: u32) {
        let windows = self.lock();
        endpoint::open_up(&windows.session, streams);
        windows.apply();
    }

    /// Contents come on this connection, which has most of the window until what is given back is dropped.
    #[must_use]
    pub fn open_bulk(&self, bulk: &Connection, streams: u32) -> BulkWindow {
        endpoint::open_up_bulk(bulk, streams);
        let mut windows = self.lock();
        let number = windows.next;
        windows.next += 1;
        windows.bulk = Some((number, bulk.clone()));
        windows.apply();
        BulkWindow { window: self.clone(), number }
    }

    /// Whether contents come on a connection of their own.
    pub fn has_bulk(&self) -> bool {
        self.lock().bulk.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.0.lock()
    }
}

impl Windows {
    fn apply(&self) {
        let Some(bytes) = self.bytes else { return };
        let Some((_, bulk)) = &self.bulk else { return endpoint::set_window(&self.session, bytes) };
        let (session, rest) = split(bytes);
        endpoint::set_window(&self.session, session);
        endpoint::set_window(bulk, rest);
    }
}

/// The parts of the session's connection and of the bulk connection.
fn split(bytes: u32) -> (u32, u32) {
    let session = (bytes / SESSION_PARTS).max(SESSION_BYTES_MIN).min(bytes / 2);
    (session, bytes - session)
}

/// A bulk connection's part of the window; dropped, the session's connection has all of it again.
#[derive(Debug)]
pub struct BulkWindow {
    window: InboundWindow,
    number: u64,
}

impl Drop for BulkWindow {
    fn drop(&mut self) {
        let mut windows = self.window.lock();
        // Another one may have taken its place.
        if windows.bulk.as_ref().is_some_and(|(number, _)| *number == self.number) {
            windows.bulk = None;
            windows.apply();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_never_more_than_the_whole_and_neither_stands_still() {
        for bytes in [1, 2, 4, 16].map(|mib: u32| mib << 20) {
            let (session, bulk) = split(bytes);
            assert_eq!(session + bulk, bytes);
            assert!(session >= SESSION_BYTES_MIN && bulk >= session, "{bytes}: {session} and {bulk}");
        }
        assert_eq!(split(16 << 20), (2 << 20, 14 << 20));
    }
}
