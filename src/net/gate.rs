//! Who is shut out: asked before every dial and after every handshake, whatever the protocol, and whichever side began it.
//!
//! Gossip dials by itself, and hands on connections that nobody else sees; so this stands in the endpoint and not in front of
//! each protocol.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use iroh::endpoint::{
    AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, VarInt, WeakConnectionHandle,
};
use iroh::{EndpointAddr, EndpointId};
use parking_lot::Mutex;

/// Endpoints with connections that are remembered before those are forgotten whose connections are over.
const FORGET_AT: usize = 256;

/// Why an endpoint is shut out: the code that closes its connections, and what it is told.
pub type ShutOut = (u32, &'static str);

/// Says why an endpoint may not use a protocol, by its ALPN; nothing where it may.
pub type GatePolicy = Arc<dyn Fn(&EndpointId, &[u8]) -> Option<ShutOut> + Send + Sync>;

/// Keeps the endpoint's door. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    policy: GatePolicy,
    /// Connections that were let through, as long as they last.
    open: Arc<Mutex<HashMap<EndpointId, Vec<WeakConnectionHandle>>>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// Lets through what `policy` does not shut out.
    pub fn new(policy: GatePolicy) -> Self {
        Self { policy, open: Arc::default() }
    }

    /// Closes the connections that this endpoint may not have any more.
    pub fn enforce(&self, id: &EndpointId) {
        let mut open = self.open.lock();
        let Some(handles) = open.get_mut(id) else { return };
        let mut allowed = Vec::new();
        // The latest first. The end of a session ends its bulk connections, too: closed after it they would be told that
        // instead of why.
        for handle in handles.drain(..).rev() {
            let Some(connection) = handle.upgrade() else { continue };
            match (self.policy)(id, connection.alpn()) {
                Some((code, why)) => connection.close(VarInt::from_u32(code), why.as_bytes()),
                None => allowed.push(handle),
            }
        }
        allowed.reverse();
        *handles = allowed;
    }

    /// Closes all connections of a protocol; how many there were.
    pub fn hang_up(&self, alpn: &[u8], (code, why): ShutOut) -> usize {
        let open = self.open.lock();
        let connections = open.values().flatten().filter_map(WeakConnectionHandle::upgrade);
        let of_protocol =
            connections.filter(|connection| connection.alpn() == alpn && connection.close_reason().is_none());
        of_protocol.map(|connection| connection.close(VarInt::from_u32(code), why.as_bytes())).count()
    }

    fn remember(&self, connection: &Connection) {
        let mut open = self.open.lock();
        let lasts = |handle: &WeakConnectionHandle| {
            handle.upgrade().is_some_and(|connection| connection.close_reason().is_none())
        };
        if open.len() >= FORGET_AT {
            open.retain(|_, handles| {
                handles.retain(lasts);
                !handles.is_empty()
            });
        }
        let handles = open.entry(connection.remote_id()).or_default();
        handles.retain(lasts);
        handles.push(connection.weak_handle());
    }
}

impl EndpointHooks for Gate {
    async fn before_connect<'a>(&'a self, addr: &'a EndpointAddr, alpn: &'a [u8]) -> BeforeConnectOutcome {
        match (self.policy)(&addr.id, alpn) {
            Some(_) => BeforeConnectOutcome::Reject,
            None => BeforeConnectOutcome::Accept,
        }
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        // Remembered first: an endpoint that is shut out at this very moment is found by one of the two.
        self.remember(connection);
        match (self.policy)(&connection.remote_id(), connection.alpn()) {
            Some((code, why)) => {
                let error_code = VarInt::from_u32(code);
                AfterHandshakeOutcome::Reject { error_code, reason: why.as_bytes().to_vec() }
            }
            None => AfterHandshakeOutcome::Accept,
        }
    }
}
