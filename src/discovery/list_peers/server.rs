//! Answers who this agent knows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, REQUEST_BYTES_MAX};
use crate::discovery::directory::{AgentListing, SharedDirectory};
use crate::identity::Key;
use crate::net::auth::{
    AUTH_BYTES_MAX, AuthError, Binding, Credential, Handshake, HandshakeStep, LIST_PEERS, OwnProofs, Throttle,
};
use crate::net::close;
use crate::net::endpoint::ProtocolHandler;
use crate::net::handshakes::Pending;
use crate::wire::proto::{ListPeersReply, ListPeersRequest, ListedPeer, SignedAnnouncement};
use crate::wire::{self, WireError};

/// Connections that are served at once; a crawl has one for a moment.
const CONNECTIONS_MAX: usize = 16;
/// Time for the asking side to prove that it may ask.
const PROOF_WITHIN: Duration = Duration::from_secs(5);
/// Time for the asking side to read a refusal.
const PROOF_READ_WITHIN: Duration = Duration::from_secs(1);
/// A connection's whole life: enough for the largest directory on a poor path.
const CONNECTION_WITHIN: Duration = Duration::from_mins(1);
/// For one question, with its answer read by the other side.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Questions of one connection that are answered at once. Its streams are bounded too; this does not depend on it.
const REQUESTS_AT_ONCE: usize = 2;
/// Questions that one connection may ask: the largest directory in pages of the largest announcements takes 60.
const REQUESTS_MAX: usize = 128;
/// What of a page is left for its frame.
const PAGE_MARGIN_BYTES: usize = 1024;

/// Where answers come from.
pub trait ListingSource: Send + Sync {
    /// Our own announcement, encoded and signed, once there is one.
    fn own(&self) -> Option<Bytes>;
    /// All agents that we know, by id.
    fn listings(&self) -> Vec<AgentListing>;
}

impl ListingSource for SharedDirectory {
    fn own(&self) -> Option<Bytes> {
        self.lock().own()
    }

    fn listings(&self) -> Vec<AgentListing> {
        self.lock().listings(Instant::now())
    }
}

#[derive(Debug, thiserror::Error)]
enum ProofError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Auth(#[from] AuthError),
}

impl ProofError {
    /// Whether it counts as a failure to prove anything, rather than as a connection that broke.
    fn is_guess(&self) -> bool {
        match self {
            Self::Wire(error) => error.is_violation(),
            Self::Auth(AuthError::Binding(_)) => false,
            Self::Auth(_) => true,
        }
    }
}

/// Answers those who know one of our keys. Cheap to clone.
#[derive(Clone)]
pub struct ListPeersService(Arc<ServerInner>);

struct ServerInner {
    own_id: EndpointId,
    keys: Vec<Key>,
    source: Box<dyn ListingSource>,
    connections: Arc<Semaphore>,
    throttle: Mutex<Throttle>,
}

impl fmt::Debug for ListPeersService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListPeersService").field("own_id", &self.0.own_id).finish_non_exhaustive()
    }
}

impl ListPeersService {
    /// For those who know one of `keys` (see [`PresenceKeys::rpc`](crate::identity::PresenceKeys::rpc)), from `source`: a
    /// [`SharedDirectory`], as a rule.
    pub fn new(own_id: EndpointId, keys: Vec<Key>, source: impl ListingSource + 'static) -> Self {
        Self(Arc::new(ServerInner {
            own_id,
            keys,
            source: Box::new(source),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            throttle: Mutex::default(),
        }))
    }

    /// What takes over the connections on [`ALPN`](super::ALPN). Must be called within a runtime.
    pub fn handler(&self) -> ProtocolHandler {
        let service = self.clone();
        Arc::new(move |connection, pending| {
            let service = service.clone();
            // Bounded in number and in time by what it does first.
            tokio::spawn(async move { service.serve(connection, pending).await });
        })
    }

    /// Serves one connection to its end; `pending` is given back once the other side has proved itself.
    pub async fn serve(&self, connection: Connection, pending: Pending) {
        let peer = connection.remote_id();
        if self.throttle(|throttle, now| throttle.refuses(peer, now)) {
            return close(&connection, close::NOT_SHARED, b"too many failures");
        }
        let proof = match timeout(PROOF_WITHIN, self.authenticate(&connection)).await {
            Ok(Ok(Some(proof))) => {
                drop(pending);
                proof
            }
            Ok(Ok(None)) => {
                self.throttle(|throttle, now| throttle.failed(peer, now));
                return close(&connection, close::NOT_SHARED, b"not shared");
            }
            Ok(Err(error)) => {
                // A connection that sends garbage first is no more welcome than one with a wrong proof.
                if error.is_guess() {
                    self.throttle(|throttle, now| throttle.failed(peer, now));
                }
                tracing::debug!(%peer, %error, "asked for peers without a proof");
                return close(&connection, close::VIOLATION, b"no proof");
            }
            Err(_) => return close(&connection, close::TIMEOUT, b"no proof in time"),
        };
        // Only now: strangers, which `pending` bounds, take no place from those who may ask.
        let Ok(_slot) = Arc::clone(&self.0.connections).try_acquire_owned() else {
            // Our proof gets through all the same: who asks for a sign of life believes nothing less.
            let _ = timeout(PROOF_READ_WITHIN, proof.stopped()).await;
            return close(&connection, close::BUSY, b"busy");
        };
        let served = timeout(CONNECTION_WITHIN, self.answer(&connection)).await;
        let (code, why): (_, &[u8]) = match served {
            Ok(Err(error)) if error.is_violation() => {
                tracing::debug!(%peer, %error, "asked for peers in a way that nobody does");
                (close::VIOLATION, b"malformed request")
            }
            // Its end, or a stream that broke.
            Ok(Ok(()) | Err(_)) => (close::SHUTDOWN, b""),
            Err(_) => (close::TIMEOUT, b"too long"),
        };
        close(&connection, code, why);
    }

    fn throttle<T>(&self, with: impl FnOnce(&mut Throttle, Instant) -> T) -> T {
        with(&mut self.0.throttle.lock(), Instant::now())
    }

    /// Whether the other side knows a key of ours; then it was shown that we do, on the stream that is given back.
    async fn authenticate(&self, connection: &Connection) -> Result<Option<SendStream>, ProofError> {
        let binding = Binding::of(connection, self.0.own_id, &LIST_PEERS)?;
        let (mut send, mut receive) =
            connection.accept_bi().await.map_err(|e| WireError::Broken(e.to_string()))?;
        if receive.is_0rtt() {
            return Err(AuthError::OutOfOrder.into());
        }
        let mut own = OwnProofs::default();
        let mut handshake = Handshake::answer(&LIST_PEERS, binding, rand::random(), self.0.keys.clone());
        let hello = wire::read_frame_of(&mut receive, wire::FIRST_FRAME_BYTES_MAX).await?;
        let HandshakeStep::Send(hello) = handshake.handle(hello, &own)? else {
            return Err(AuthError::OutOfOrder.into());
        };
        wire::write_frame(&mut send, hello).await?;
        let auth = wire::read_frame_of(&mut receive, AUTH_BYTES_MAX).await?;
        let HandshakeStep::Judge(proved) = handshake.handle(auth, &own)? else {
            return Err(AuthError::OutOfOrder.into());
        };
        if proved.is_empty() {
            return Ok(None);
        }
        let shared = proved.iter().filter_map(|proved| self.0.keys.get(proved.index));
        let credentials = shared.map(|key| Credential { key: key.clone(), ticket: None }).collect();
        let auth = handshake.show(credentials, |bytes| rand::fill(bytes), &mut own)?;
        wire::write_frame(&mut send, auth).await?;
        // Already finished or reset: nothing more is said there either way.
        let _ = send.finish();
        Ok(Some(send))
    }

    /// Answers until the connection ends or has had enough.
    async fn answer(&self, connection: &Connection) -> Result<(), WireError> {
        let mut requests = JoinSet::new();
        for _ in 0..REQUESTS_MAX {
            while requests.len() >= REQUESTS_AT_ONCE {
                settle(requests.join_next().await)?;
            }
            tokio::select! {
                stream = connection.accept_bi() => {
                    let Ok(stream) = stream else { return Ok(()) };
                    let service = self.clone();
                    requests.spawn(async move {
                        timeout(REQUEST_WITHIN, service.reply(stream))
                            .await
                            .unwrap_or_else(|_| Err(WireError::Broken("too slow".into())))
                    });
                }
                Some(done) = requests.join_next() => settle(Some(done))?,
            }
        }
        while let Some(done) = requests.join_next().await {
            settle(Some(done))?;
        }
        Ok(())
    }

    async fn reply(&self, (mut send, mut receive): (SendStream, RecvStream)) -> Result<(), WireError> {
        let request: ListPeersRequest = wire::read_message(&mut receive, REQUEST_BYTES_MAX).await?;
        let page = page(self.0.source.as_ref(), &request)?;
        wire::write_message(&mut send, &page).await?;
        let _ = send.finish();
        // Held until it was read: closing earlier would throw away what is on its way.
        let _ = send.stopped().await;
        Ok(())
    }
}

fn close(connection: &Connection, code: u32, why: &[u8]) {
    connection.close(VarInt::from_u32(code), why);
}

/// A question that came to nothing because its stream broke concerns nobody else.
fn settle(done: Option<Result<Result<(), WireError>, tokio::task::JoinError>>) -> Result<(), WireError> {
    match done {
        Some(Ok(Err(error))) if error.is_violation() => Err(error),
        Some(Err(error)) => {
            tracing::warn!(%error, "answering who is known failed");
            Ok(())
        }
        Some(Ok(Ok(()) | Err(_))) | None => Ok(()),
    }
}

/// One page: everyone after the id that the cursor names, so that agents which come and go between two pages move nobody
/// else from one to the other.
fn page(source: &dyn ListingSource, request: &ListPeersRequest) -> Result<ListPeersReply, WireError> {
    let after: Option<[u8; 32]> = match request.cursor.len() {
        0 => None,
        _ => Some(request.cursor.as_ref().try_into().map_err(|_| WireError::Malformed("cursor".into()))?),
    };
    let wanted = match request.limit {
        0 => PAGE_ENTRIES_MAX,
        limit => PAGE_ENTRIES_MAX.min(limit as usize),
    };
    let own = source.own().and_then(decode);
    let mut left = PAGE_BYTES_MAX - PAGE_MARGIN_BYTES - own.as_ref().map_or(0, prost::Message::encoded_len);
    let mut listings = source.listings();
    listings.sort_unstable_by(|a, b| a.id.as_bytes().cmp(b.id.as_bytes()));
    let mut reply = ListPeersReply { own, ..ListPeersReply::default() };
    let mut last = None;
    for listing in listings {
        if after.is_some_and(|after| *listing.id.as_bytes() <= after) {
            continue;
        }
        let Some(announcement) = listing.signed.and_then(decode) else { continue };
        let entry = ListedPeer { announcement: Some(announcement), age_secs: listing.age.as_secs() };
        // With the field's tag and length.
        let bytes = entry.encoded_len() + 8;
        if reply.peers.len() == wanted || bytes > left {
            reply.next_cursor = last.unwrap_or_default();
            break;
        }
        left -= bytes;
        last = Some(Bytes::copy_from_slice(listing.id.as_bytes()));
        reply.peers.push(entry);
    }
    Ok(reply)
}

fn decode(signed: Bytes) -> Option<SignedAnnouncement> {
    crate::wire::decode::decode(signed).ok()
}
