//! The bulk connection that this end of a session opens, for the contents that it sends.

use std::sync::Arc;
use std::time::Duration;

use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};

use crate::net::auth::{Binding, BulkProof, BulkSecret};
use crate::net::{close, endpoint};

use super::pulse::Pulse;

/// For a connection and both proofs. Contents that wait for it go over the session's connection then.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// Between an attempt and the next one, after one that came to nothing or a connection that did not last; doubled with each, up
/// to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_mins(1);
/// One that lasted so long was a good one: when it is over, another is opened at once.
const LASTED: Duration = Duration::from_mins(1);
/// One that carries nothing for so long is closed.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// Opens and owns a session's bulk connection; dropped, it is closed, and no other is opened.
#[derive(Debug)]
pub struct BulkOutgoing(Arc<Outgoing>);

/// Chooses the connection that a content goes over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BulkCarrier(Arc<Outgoing>);

#[derive(Debug)]
struct Outgoing {
    endpoint: Endpoint,
    session: Connection,
    /// Nothing where the peer takes none.
    secret: Option<BulkSecret>,
    /// Held while one is being opened, so that there is never a second one.
    opening: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: Option<OpenBulk>,
    /// No other is opened before.
    not_before: Instant,
    /// Attempts in a row that led to nothing that lasted.
    failures: u32,
    is_over: bool,
}

#[derive(Debug)]
struct OpenBulk {
    connection: Connection,
    since: Instant,
    /// Contents that are being written to it.
    carried: usize,
    /// Frames of contents that it had sent when it was last looked at; what was written may take long to be sent.
    frames: u64,
    /// When it last carried anything.
    used: Instant,
    pulse: Pulse,
}

/// A content goes over this connection until it is dropped.
#[derive(Debug)]
pub struct Carrying {
    connection: Connection,
    outgoing: Arc<Outgoing>,
}

impl Carrying {
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether it was a bulk connection, and is over: contents can go another way.
    pub fn is_lost(&self) -> bool {
        self.connection.stable_id() != self.outgoing.session.stable_id()
            && self.connection.close_reason().is_some()
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        let mut state = self.outgoing.state();
        if let Some(open) = &mut state.open
            && open.connection.stable_id() == self.connection.stable_id()
        {
            open.carried -= 1;
            open.used = Instant::now();
        }
    }
}

impl BulkOutgoing {
    /// For the contents that `endpoint` sends in a session. Without a secret, they all go over the session's connection.
    pub fn new(endpoint: Endpoint, session: Connection, secret: Option<BulkSecret>) -> Self {
        let state = State { open: None, not_before: Instant::now(), failures: 0, is_over: false };
        let (opening, state) = (tokio::sync::Mutex::new(()), Mutex::new(state));
        Self(Arc::new(Outgoing { endpoint, session, secret, opening, state }))
    }

    /// Chooses for one content after the other.
    pub fn carrier(&self) -> BulkCarrier {
        BulkCarrier(Arc::clone(&self.0))
    }

    /// Closes the connection if it is dead, or has carried nothing for half a minute. To be called every second.
    pub fn look(&self, now: Instant) {
        let mut state = self.0.state();
        if let Some(dead) = state.open.take_if(|open| open.pulse.is_lost(&open.connection)) {
            dead.connection.close(VarInt::from_u32(close::TIMEOUT), b"no sign of life");
            state.lost(&dead);
        }
        if let Some(idle) = state.open.take_if(|open| open.is_idle(now)) {
            idle.connection.close(VarInt::from_u32(close::SHUTDOWN), b"nothing to send");
        }
    }

    pub fn is_open(&self) -> bool {
        self.0.state().open.as_ref().is_some_and(|open| open.connection.close_reason().is_none())
    }
}

impl Drop for BulkOutgoing {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_over = true;
        if let Some(open) = state.open.take() {
            open.connection.close(VarInt::from_u32(close::SHUTDOWN), b"the session is over");
        }
    }
}

impl BulkCarrier {
    /// The bulk connection. Where none is open, one is opened if the content is `worth` it; where that comes to nothing, the
    /// session's connection.
    pub async fn carry(&self, worth: bool) -> Carrying {
        let outgoing = &self.0;
        if let Some(open) = outgoing.carry_open() {
            return open;
        }
        let by_session = || Carrying { connection: outgoing.session.clone(), outgoing: Arc::clone(outgoing) };
        let Some(secret) = outgoing.secret.as_ref().filter(|_| worth) else { return by_session() };
        let _one_at_a_time = outgoing.opening.lock().await;
        if let Some(open) = outgoing.carry_open() {
            return open;
        }
        if !outgoing.state().begin(Instant::now()) {
            return by_session();
        }
        match timeout(OPEN_WITHIN, outgoing.open(secret)).await {
            Ok(Ok(connection)) => outgoing.take(connection).unwrap_or_else(by_session),
            failed => {
                outgoing.state().failed(Instant::now());
                let peer = outgoing.session.remote_id();
                let reason = failed.map_or_else(|_| "no answer in time".to_owned(), Result::unwrap_err);
                tracing::debug!(peer = %peer.fmt_short(), reason, "no bulk connection: contents go over the session's");
                by_session()
            }
        }
    }
}

impl Outgoing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn carry_open(self: &Arc<Self>) -> Option<Carrying> {
        let connection = self.state().carry()?;
        Some(Carrying { connection, outgoing: Arc::clone(self) })
    }

    /// Keeps a connection that was proved, unless the session is over.
    fn take(self: &Arc<Self>, connection: Connection) -> Option<Carrying> {
        let mut state = self.state();
        if state.is_over {
            connection.close(VarInt::from_u32(close::SHUTDOWN), b"the session is over");
            return None;
        }
        let now = Instant::now();
        state.open = Some(OpenBulk {
            connection,
            since: now,
            carried: 0,
            frames: 0,
            used: now,
            pulse: Pulse::default(),
        });
        let connection = state.carry()?;
        Some(Carrying { connection, outgoing: Arc::clone(self) })
    }

    async fn open(&self, secret: &BulkSecret) -> Result<Connection, String> {
        let connection = endpoint::connect_bulk(&self.endpoint, &self.session).await?;
        let binding = Binding::of_bulk(&connection, self.endpoint.id()).map_err(|e| e.to_string())?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
        let ours = secret.prove(&binding, secret.role(), secret.role());
        send.write_all(&ours).await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        let mut theirs = BulkProof::default();
        receive.read_exact(&mut theirs).await.map_err(|e| e.to_string())?;
        if !secret.is_proved(&binding, secret.role(), &theirs) {
            connection.close(VarInt::from_u32(close::VIOLATION), b"a wrong proof");
            return Err("the other end proved nothing".into());
        }
        Ok(connection)
    }
}

impl State {
    /// The open connection, which carries one more.
    fn carry(&mut self) -> Option<Connection> {
        let broken = |open: &mut OpenBulk| open.connection.close_reason().is_some();
        if let Some(broken) = self.open.take_if(broken) {
            self.lost(&broken);
        }
        let open = self.open.as_mut()?;
        open.carried += 1;
        Some(open.connection.clone())
    }

    /// One is over; after one that lasted, another may be opened at once.
    fn lost(&mut self, over: &OpenBulk) {
        if over.since.elapsed() >= LASTED {
            (self.failures, self.not_before) = (0, Instant::now());
        }
    }

    /// Whether one may be opened now; the next one is due later. Noted before the attempt, which may be given up in the middle.
    fn begin(&mut self, now: Instant) -> bool {
        if self.is_over || now < self.not_before {
            return false;
        }
        self.failures += 1;
        self.failed(now);
        true
    }

    /// The attempt that began last came to nothing: the pause begins now, for who waited behind it would wait once more.
    fn failed(&mut self, now: Instant) {
        let doublings = self.failures.saturating_sub(1).min(16);
        self.not_before = now + RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX);
    }
}

impl OpenBulk {
    /// Whether it has carried nothing for a while.
    fn is_idle(&mut self, now: Instant) -> bool {
        let frames = self.connection.stats().frame_tx.stream;
        if self.carried > 0 || std::mem::replace(&mut self.frames, frames) != frames {
            self.used = now;
        }
        now.saturating_duration_since(self.used) >= IDLE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_after_pauses_that_grow() {
        let mut now = Instant::now();
        let mut state = State { open: None, not_before: now, failures: 0, is_over: false };
        for pause in [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs) {
            assert!(state.begin(now));
            assert!(!state.begin(now), "noted at once");
            // It took its time to come to nothing.
            now += OPEN_WITHIN;
            state.failed(now);
            assert!(!state.begin(now + pause - Duration::from_millis(1)), "{pause:?}");
            now += pause;
        }
        state.is_over = true;
        assert!(!state.begin(now));
    }
}
