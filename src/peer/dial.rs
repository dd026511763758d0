//! The tasks through which connections come about: accepting, dialling, and following a ticket file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::Incoming;
use iroh::{Endpoint, EndpointAddr};
use iroh_tickets::endpoint::EndpointTicket;
use ractor::ActorRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::establish::ALPN;
use super::messages::PeersMsg;

/// Addresses of one peer that are tried.
pub(super) const ADDRS_MAX: usize = 32;
/// Limit of a dial: holepunching and a relay's round trips included.
const DIAL_WITHIN: Duration = Duration::from_secs(15);
/// How often the ticket file is looked at.
const TICKET_FILE_EVERY: Duration = Duration::from_secs(1);
/// Largest ticket file.
const TICKET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Accepts connections for as long as the endpoint lives; waits while too many are proving themselves.
pub(super) async fn accept(
    actor: ActorRef<PeersMsg>,
    endpoint: Endpoint,
    pending: Arc<Semaphore>,
    within: Duration,
) {
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&pending).acquire_owned().await else { return };
        let Some(incoming) = endpoint.accept().await else { return };
        while handshakes.try_join_next().is_some() {}
        handshakes.spawn(handshake(actor.clone(), incoming, permit, within));
    }
}

async fn handshake(
    actor: ActorRef<PeersMsg>,
    incoming: Incoming,
    permit: OwnedSemaphorePermit,
    within: Duration,
) {
    let accepting = match incoming.accept() {
        Ok(accepting) => accepting,
        Err(error) => return tracing::debug!(%error, "an incoming connection broke"),
    };
    match timeout(within, accepting).await {
        Ok(Ok(connection)) => {
            let _ = actor.send_message(PeersMsg::Accepted { connection, permit });
        }
        Ok(Err(error)) => tracing::debug!(%error, "an incoming connection failed its handshake"),
        Err(_) => tracing::debug!("an incoming connection took too long over its handshake"),
    }
}

/// Dials once.
pub(super) async fn dial(actor: ActorRef<PeersMsg>, endpoint: Endpoint, addr: EndpointAddr) {
    let endpoint_id = addr.id;
    let result = match timeout(DIAL_WITHIN, endpoint.connect(addr, ALPN)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", DIAL_WITHIN.as_secs())),
    };
    let _ = actor.send_message(PeersMsg::Dialed { endpoint_id, result });
}

/// Looks for the ticket in a file, which may not be there yet, and again whenever the file changes: the other side
/// writes it anew when its addresses change.
pub(super) async fn watch_ticket_file(actor: ActorRef<PeersMsg>, path: PathBuf) {
    let mut last = String::new();
    loop {
        match read_ticket_file(&path).await {
            Ok(Some(text)) if text != last => {
                match text.trim().parse::<EndpointTicket>() {
                    Ok(ticket) => {
                        let candidate = PeersMsg::Candidate(ticket.endpoint_addr().clone());
                        if actor.send_message(candidate).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(
                        path = %path.display(), %error,
                        "connect_ticket_file holds no ticket: copy the other node's ticket_file"
                    ),
                }
                last = text;
            }
            Ok(_) => {}
            Err(error) => {
                let shown = error.to_string();
                if shown != last {
                    tracing::warn!(path = %path.display(), %error, "cannot read connect_ticket_file");
                    last = shown;
                }
            }
        }
        sleep(TICKET_FILE_EVERY).await;
    }
}

async fn read_ticket_file(path: &PathBuf) -> std::io::Result<Option<String>> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.len() > TICKET_FILE_BYTES_MAX => {
            Err(std::io::Error::other("it is far too large for a ticket"))
        }
        Ok(_) => tokio::fs::read_to_string(path).await.map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
