//! Asks another agent who it knows, and believes of the answer what is signed.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, ConnectionError, VarInt};
use iroh::{Endpoint, EndpointAddr, EndpointId};
use prost::Message as _;
use tokio::time::{Instant, timeout};

use super::{ALPN, CURSOR_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX};
use crate::discovery::announcement::{self, Announcement, AnnouncementError};
use crate::identity::Key;
use crate::net::auth::{
    AUTH_BYTES_MAX, AuthError, Binding, Credential, Handshake, HandshakeStep, LIST_PEERS, OwnProofs,
};
use crate::net::close::{self, is_close};
use crate::wire::decode::decode;
use crate::wire::proto::{ListPeersReply, ListPeersRequest, SignedAnnouncement};
use crate::wire::{self, WireError};

/// For a connection, holepunching and a relay's round trips included.
const CONNECT_WITHIN: Duration = Duration::from_secs(8);
const PROOF_WITHIN: Duration = Duration::from_secs(5);
const PAGE_WITHIN: Duration = Duration::from_secs(5);
/// For everything that one agent knows; it may take its time over each page, but not over all of them.
const LIST_WITHIN: Duration = Duration::from_secs(15);
/// What an agent may send before it was asked for more: a page, and what goes with it.
const WINDOW: u32 = 512 * 1024;
/// Pages of one agent. With [`PAGE_ENTRIES_MAX`] entries in each it has said far more than any directory holds.
const PAGES_MAX: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("no {what} within {} s", within.as_secs())]
    Timeout { what: &'static str, within: Duration },
    #[error("does not know our passphrase or topic secret: check that both use the same one")]
    NotShared,
    #[error("is busy: try again in a moment")]
    Busy,
    /// Frames did not come as they should.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// An entry that was not signed by the agent it is about.
    #[error("gave an answer that cannot be right: {0}")]
    Announcement(#[from] AnnouncementError),
    /// An answer that no honest agent gives.
    #[error("gave an answer that cannot be right: {0}")]
    Invalid(&'static str),
    /// First frames that lead to nothing.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// An agent, as another one (or itself) described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: EndpointId,
    /// What it calls itself: printable and bounded.
    pub name: String,
    /// Live assets that it said to hold.
    pub assets: u64,
    pub total_bytes: u64,
    /// Since it was last known to be alive, by the clock of the agent that was asked.
    pub age: Duration,
    /// Where it said that it can be reached.
    pub addr: EndpointAddr,
}

impl Found {
    /// From what an agent said of itself, last alive `age` ago.
    pub fn new(announcement: Announcement, age: Duration) -> Self {
        let addr = announcement.addr();
        let Announcement { id, name, assets, total_bytes, .. } = announcement;
        Self { id, name, assets, total_bytes, age, addr }
    }
}

#[derive(Clone, Debug, Default)]
pub struct ListingPage {
    /// The agent that was asked, once it has announced itself.
    pub own: Option<Found>,
    pub peers: Vec<Found>,
    /// What the next question begins with; empty at the end.
    pub next_cursor: Bytes,
}

#[derive(Debug, Default)]
pub struct Listed {
    /// The agent that was asked, once it has announced itself.
    pub own: Option<Found>,
    /// The agents that it knows, each once.
    pub peers: Vec<Found>,
    /// Whether it knows more than it was asked for.
    pub more: bool,
    /// What ended it before its time: what came until then is good.
    pub trouble: Option<ListError>,
}

/// A connection on which both sides have proved themselves. Closed when dropped.
#[derive(Debug)]
pub struct ListingConnection {
    connection: Connection,
    peer: EndpointId,
}

impl Drop for ListingConnection {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(close::SHUTDOWN), b"");
    }
}

impl ListingConnection {
    /// Connects, and proves that we know one of `keys`; the agent has to know one of them as well. Takes 13 s at most.
    pub async fn connect(endpoint: &Endpoint, addr: EndpointAddr, keys: &[Key]) -> Result<Self, ListError> {
        let peer = addr.id;
        let connecting = Box::pin(timeout(CONNECT_WITHIN, endpoint.connect(addr, ALPN)));
        let connection = match connecting.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(ListError::Unreachable(format!("{error:#}"))),
            Err(_) => return Err(ListError::Timeout { what: "connection", within: CONNECT_WITHIN }),
        };
        let asking = Self { connection, peer };
        let binding = Binding::of(&asking.connection, endpoint.id(), &LIST_PEERS)?;
        let proved = timeout(PROOF_WITHIN, asking.prove(binding, keys)).await;
        proved
            .unwrap_or(Err(ListError::Timeout { what: "proof", within: PROOF_WITHIN }))
            .map_err(|error| asking.explain(error))?;
        asking.connection.set_receive_window(VarInt::from_u32(WINDOW));
        Ok(asking)
    }

    async fn prove(&self, binding: Binding, keys: &[Key]) -> Result<(), ListError> {
        let (mut send, mut receive) =
            self.connection.open_bi().await.map_err(|e| WireError::Broken(e.to_string()))?;
        // The only stream of this connection on which anything is proved.
        let mut own = OwnProofs::default();
        let (mut handshake, hello) = Handshake::open(&LIST_PEERS, binding, rand::random());
        wire::write_frame(&mut send, hello).await?;
        handshake.handle(wire::read_frame_of(&mut receive, wire::FIRST_FRAME_BYTES_MAX).await?, &own)?;
        let credentials = keys.iter().map(|key| Credential { key: key.clone(), ticket: None }).collect();
        let auth = handshake.show(credentials, |bytes| rand::fill(bytes), &mut own)?;
        wire::write_frame(&mut send, auth).await?;
        // Already closed: reading says why.
        let _ = send.finish();
        match handshake.handle(wire::read_frame_of(&mut receive, AUTH_BYTES_MAX).await?, &own)? {
            HandshakeStep::Judge(proved) if !proved.is_empty() => Ok(()),
            HandshakeStep::Judge(_) | HandshakeStep::Send(_) | HandshakeStep::Show => {
                Err(ListError::NotShared)
            }
        }
    }

    /// What the other side gave as its reason for closing says more than a stream that broke.
    fn explain(&self, error: ListError) -> ListError {
        let ListError::Wire(WireError::Broken(_) | WireError::Ended | WireError::Truncated) = &error else {
            return error;
        };
        match self.connection.close_reason() {
            Some(reason) if is_close(&reason, close::NOT_SHARED) => ListError::NotShared,
            Some(reason) if is_close(&reason, close::BUSY) => ListError::Busy,
            Some(reason @ ConnectionError::ApplicationClosed(_)) => {
                ListError::Unreachable(reason.to_string())
            }
            Some(_) | None => error,
        }
    }

    /// Asks for one page: at most `limit` agents (256 whatever is asked for), beginning at `cursor`, which is empty or comes
    /// from an earlier page. Takes 5 s at most.
    pub async fn list_page(&self, cursor: Bytes, limit: usize) -> Result<ListingPage, ListError> {
        let page = timeout(PAGE_WITHIN, self.ask(cursor, limit)).await;
        page.unwrap_or(Err(ListError::Timeout { what: "answer", within: PAGE_WITHIN }))
            .map_err(|error| self.explain(error))
    }

    async fn ask(&self, cursor: Bytes, limit: usize) -> Result<ListingPage, ListError> {
        let limit = u32::try_from(limit.clamp(1, PAGE_ENTRIES_MAX)).unwrap_or(u32::MAX);
        let (mut send, mut receive) =
            self.connection.open_bi().await.map_err(|e| WireError::Broken(e.to_string()))?;
        wire::write_message(&mut send, &ListPeersRequest { cursor, limit }).await?;
        let _ = send.finish();
        let bytes = wire::read_bytes(&mut receive, PAGE_BYTES_MAX).await?;
        let page = read_page(bytes, self.peer)?;
        if page.peers.len() > limit as usize {
            return Err(ListError::Invalid("more entries than were asked for"));
        }
        Ok(page)
    }

    /// Asks for everyone, up to `limit` agents. Once a first page has come, trouble costs what has not come yet. Takes 20 s at most.
    pub async fn list_all(&self, limit: usize) -> Result<Listed, ListError> {
        let mut listed = Listed::default();
        let mut seen = HashMap::new();
        let mut cursor = Bytes::new();
        let began = Instant::now();
        for number in 0..PAGES_MAX {
            if began.elapsed() > LIST_WITHIN {
                listed.trouble = Some(ListError::Timeout { what: "end of the list", within: LIST_WITHIN });
                break;
            }
            let room = limit.saturating_sub(seen.len());
            if room == 0 && number > 0 {
                listed.more = true;
                break;
            }
            let page = match self.list_page(cursor.clone(), room).await {
                Ok(page) => page,
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    listed.trouble = Some(error);
                    break;
                }
            };
            if number == 0 {
                listed.own = page.own;
            }
            let before = seen.len();
            for found in page.peers {
                if found.id != self.peer {
                    seen.entry(found.id).or_insert(found);
                }
            }
            if page.next_cursor.is_empty() {
                break;
            }
            // A chain of pages that bring nothing could be endless, and so could one that goes in a circle.
            if seen.len() == before || page.next_cursor == cursor || number + 1 == PAGES_MAX {
                listed.trouble = Some(ListError::Invalid("pages without end"));
                break;
            }
            cursor = page.next_cursor;
        }
        listed.more |= seen.len() > limit;
        listed.peers = seen.into_values().collect();
        listed.peers.sort_unstable_by_key(|found| *found.id.as_bytes());
        listed.peers.truncate(limit);
        Ok(listed)
    }
}

/// Asks the agent at `addr` for everyone it knows, up to `limit` agents.
pub async fn list_all(
    endpoint: &Endpoint,
    addr: EndpointAddr,
    keys: &[Key],
    limit: usize,
) -> Result<Listed, ListError> {
    Box::pin(ListingConnection::connect(endpoint, addr, keys)).await?.list_all(limit).await
}

/// Whether the agent at `addr` is alive and knows `key`. One that serves too many others proves that before it says so; that
/// it is busy, anybody can say.
pub async fn probe(endpoint: &Endpoint, addr: EndpointAddr, key: &Key) -> bool {
    Box::pin(ListingConnection::connect(endpoint, addr, std::slice::from_ref(key))).await.is_ok()
}

pub(in crate::discovery) fn read_page(bytes: Bytes, asked: EndpointId) -> Result<ListingPage, ListError> {
    let reply: ListPeersReply = decode(bytes).map_err(WireError::from)?;
    if reply.next_cursor.len() > CURSOR_BYTES_MAX {
        return Err(ListError::Invalid("a cursor that is too long"));
    }
    let own = reply.own.map(|own| read(&own, Duration::ZERO)).transpose()?;
    if own.as_ref().is_some_and(|own| own.id != asked) {
        return Err(ListError::Invalid("another agent's announcement for its own"));
    }
    let found = |entry: crate::wire::proto::ListedPeer| {
        let announcement =
            entry.announcement.ok_or(ListError::Invalid("an entry without an announcement"))?;
        read(&announcement, Duration::from_secs(entry.age_secs))
    };
    let peers = reply.peers.into_iter().map(found).collect::<Result<_, _>>()?;
    Ok(ListingPage { own, peers, next_cursor: reply.next_cursor })
}

fn read(signed: &SignedAnnouncement, age: Duration) -> Result<Found, ListError> {
    Ok(Found::new(announcement::verify(&signed.encode_to_vec().into())?.announcement, age))
}
