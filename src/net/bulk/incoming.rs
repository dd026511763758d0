//! Bulk connections that come in: whose session they belong to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use iroh::EndpointId;
use iroh::endpoint::{Connection, VarInt};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::net::auth::{Binding, BulkProof, BulkSecret, Throttle};
use crate::net::close;
use crate::net::handshakes::Pending;

/// Time for the other side to prove what it belongs to, and to take our proof.
const PROOF_WITHIN: Duration = Duration::from_secs(5);
/// How often one session may open a bulk connection within [`OPENINGS_WINDOW`]; one that breaks again and again gains nothing.
const OPENINGS_MAX: usize = 8;
/// See [`OPENINGS_MAX`].
const OPENINGS_WINDOW: Duration = Duration::from_mins(1);
/// Connections that were proved and not taken over yet, of one session.
const ARRIVED_MAX: usize = 2;

/// Why a connection is no bulk connection of ours.
#[derive(Debug, thiserror::Error)]
enum BulkRefusal {
    #[error("nothing is shared with it")]
    NoSession,
    #[error("it proved nothing")]
    NoProof,
    #[error("its first stream is out of place")]
    Malformed,
    #[error("it was opened too often")]
    TooOften,
    #[error("the connection broke")]
    Broken,
}

/// The sessions that bulk connections may belong to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BulkSessions(Arc<Mutex<BulkRegistry>>);

#[derive(Debug, Default)]
struct BulkRegistry {
    sessions: HashMap<EndpointId, Vec<Registered>>,
    next: u64,
    throttle: Throttle,
}

#[derive(Debug)]
struct Registered {
    number: u64,
    secret: BulkSecret,
    arrived: mpsc::Sender<Connection>,
    openings: Vec<Instant>,
}

/// The bulk connections that a session's peer opens. Dropped, no more of them are let in.
#[derive(Debug)]
pub struct BulkArrivals {
    sessions: BulkSessions,
    peer: EndpointId,
    number: u64,
    arrived: mpsc::Receiver<Connection>,
}

impl BulkArrivals {
    /// The next one, with proofs shown by both ends.
    pub async fn next(&mut self) -> Connection {
        match self.arrived.recv().await {
            Some(connection) => connection,
            // The registry keeps the other end until this is dropped.
            None => std::future::pending().await,
        }
    }
}

impl Drop for BulkArrivals {
    fn drop(&mut self) {
        let mut registry = self.sessions.lock();
        let Some(theirs) = registry.sessions.get_mut(&self.peer) else { return };
        theirs.retain(|registered| registered.number != self.number);
        if theirs.is_empty() {
            registry.sessions.remove(&self.peer);
        }
    }
}

impl BulkSessions {
    fn lock(&self) -> MutexGuard<'_, BulkRegistry> {
        self.0.lock()
    }

    /// A session with `peer` is up: its bulk connections are let in.
    #[must_use]
    pub fn register(&self, peer: EndpointId, secret: BulkSecret) -> BulkArrivals {
        let (sender, arrived) = mpsc::channel(ARRIVED_MAX);
        let mut registry = self.lock();
        let number = registry.next;
        registry.next += 1;
        let registered = Registered { number, secret, arrived: sender, openings: Vec::new() };
        registry.sessions.entry(peer).or_default().push(registered);
        BulkArrivals { sessions: self.clone(), peer, number, arrived }
    }

    /// Finds out which session of `own_id` a connection belongs to, and hands it over; `pending` is given back then.
    pub async fn accept(&self, connection: Connection, own_id: EndpointId, pending: Pending) {
        let proved = timeout(PROOF_WITHIN, self.prove(&connection, own_id)).await;
        let close = |code: u32, why: &str| connection.close(VarInt::from_u32(code), why.as_bytes());
        let refusal = match proved {
            Ok(Ok(session)) => {
                drop(pending);
                if session.try_send(connection.clone()).is_err() {
                    close(close::BUSY, "the session is over, or has others to take over");
                }
                return;
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => return close(close::TIMEOUT, "no proof in time"),
        };
        tracing::debug!(peer = %connection.remote_id().fmt_short(), %refusal, "refused a bulk connection");
        let code = match refusal {
            BulkRefusal::NoSession | BulkRefusal::NoProof => close::NOT_SHARED,
            BulkRefusal::Malformed => close::VIOLATION,
            BulkRefusal::TooOften => close::BUSY,
            BulkRefusal::Broken => close::SHUTDOWN,
        };
        close(code, &refusal.to_string());
    }

    async fn prove(
        &self,
        connection: &Connection,
        own_id: EndpointId,
    ) -> Result<mpsc::Sender<Connection>, BulkRefusal> {
        let peer = connection.remote_id();
        self.may_prove(peer)?;
        let (mut send, mut receive) = connection.accept_bi().await.map_err(|_| BulkRefusal::Broken)?;
        let mut shown = BulkProof::default();
        if receive.is_0rtt() || receive.read_exact(&mut shown).await.is_err() {
            return Err(BulkRefusal::Malformed);
        }
        let binding = Binding::of_bulk(connection, own_id).map_err(|_| BulkRefusal::Broken)?;
        let (ours, arrived) = self.find(peer, &binding, &shown)?;
        send.write_all(&ours).await.map_err(|_| BulkRefusal::Broken)?;
        send.finish().map_err(|_| BulkRefusal::Broken)?;
        Ok(arrived)
    }

    /// Whether a proof of this peer is looked at.
    fn may_prove(&self, peer: EndpointId) -> Result<(), BulkRefusal> {
        let mut registry = self.lock();
        let is_known = registry.sessions.contains_key(&peer);
        if !is_known || registry.throttle.refuses(peer, Instant::now()) {
            return Err(BulkRefusal::NoSession);
        }
        Ok(())
    }

    /// The session that a proof is of: our own proof, and who takes the connection over.
    fn find(
        &self,
        peer: EndpointId,
        binding: &Binding,
        shown: &BulkProof,
    ) -> Result<(BulkProof, mpsc::Sender<Connection>), BulkRefusal> {
        let (now, mut registry) = (Instant::now(), self.lock());
        let BulkRegistry { sessions, throttle, .. } = &mut *registry;
        let mut theirs = sessions.get_mut(&peer).into_iter().flatten();
        // The side that opened it sends on it.
        let Some(session) =
            theirs.find(|one| one.secret.is_proved(binding, one.secret.role().other(), shown))
        else {
            throttle.failed(peer, now);
            return Err(BulkRefusal::NoProof);
        };
        session.openings.retain(|at| now.duration_since(*at) < OPENINGS_WINDOW);
        if session.openings.len() >= OPENINGS_MAX {
            return Err(BulkRefusal::TooOften);
        }
        session.openings.push(now);
        let secret = &session.secret;
        Ok((secret.prove(binding, secret.role().other(), secret.role()), session.arrived.clone()))
    }
}
