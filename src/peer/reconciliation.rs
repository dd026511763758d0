//! The two ends of a reconciliation stream. The engine is pure; this moves its messages, within limits.

use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::time::timeout;

use crate::reconcile::engine::{EngineLimits, Initiator, MESSAGE_BYTES_MAX, ReconError, Responder};
use crate::reconcile::tree::Snapshot;
use crate::record::{ContentHash, RecordId};
use crate::text::stated;
use crate::wire::proto::{ReconClose, ReconMsg, ReconOpen, frame};
use crate::wire::{self, WireError};

/// Longest frame: the longest message that either side writes, and what is around it.
const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 64;
/// How long either side waits for the other's next message.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why a reconciliation did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream broke, or what came over it is no frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What came over it makes no sense.
    #[error(transparent)]
    Engine(#[from] ReconError),
    #[error("no answer for {} s", ANSWER_WITHIN.as_secs())]
    Silence,
    #[error("the peer ended it: {0}")]
    Refused(String),
}

impl StreamError {
    /// Whether the peer broke the rules, rather than the stream breaking.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Wire(error) => error.is_violation(),
            Self::Engine(_) => true,
            Self::Silence | Self::Refused(_) => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ComparedRecords {
    /// The entries of folders, and not the assets.
    pub entries: bool,
    /// Whether another comparison follows.
    pub more: bool,
}

/// Opens a reconciliation, and follows it to its end. `found` gets the differences of each message as it arrives.
///
/// # Errors
/// See [`StreamError`]; what was found until then holds.
pub async fn initiate(
    connection: &Connection,
    library: Bytes,
    (snapshot, ComparedRecords { entries, more }): (Snapshot, ComparedRecords),
    mut found: impl FnMut(Vec<ContentHash>, Vec<RecordId>) + Send,
) -> Result<(), StreamError> {
    let (mut send, mut receive) =
        within(async { connection.open_bi().await.map_err(|e| WireError::Broken(e.to_string())) }).await?;
    let (mut initiator, first) = Initiator::new(snapshot, EngineLimits::default());
    let open = ReconOpen { library, message: first.into(), entries, more };
    within(wire::write_frame(&mut send, frame::Kind::ReconOpen(open))).await?;
    loop {
        let message = read_message(&mut receive).await?.ok_or(WireError::Ended)?;
        let step = initiator.handle(&message)?;
        found(step.have.iter().map(|item| item.hash).collect(), step.need);
        let Some(reply) = step.reply else { break };
        let reply = ReconMsg { message: reply.into() };
        within(wire::write_frame(&mut send, frame::Kind::ReconMsg(reply))).await?;
    }
    within(wire::write_frame(&mut send, frame::Kind::ReconClose(ReconClose::default()))).await?;
    // A peer that is gone by now has heard enough.
    let _ = send.finish();
    Ok(())
}

/// Answers a reconciliation that the peer opened with `open`, to its end.
pub async fn respond(
    mut send: SendStream,
    mut receive: RecvStream,
    open: ReconOpen,
    snapshot: Snapshot,
) -> Result<(), StreamError> {
    let mut responder = Responder::new(snapshot, EngineLimits::default());
    let mut message = open.message;
    loop {
        let reply = ReconMsg { message: responder.handle(&message)?.into() };
        within(wire::write_frame(&mut send, frame::Kind::ReconMsg(reply))).await?;
        match read_message(&mut receive).await? {
            Some(next) => message = next,
            None => return Ok(()),
        }
    }
}

/// The next message; `None` once the other side closed the reconciliation.
async fn read_message(receive: &mut RecvStream) -> Result<Option<Bytes>, StreamError> {
    match within(wire::read_frame_of(receive, FRAME_BYTES_MAX)).await? {
        frame::Kind::ReconMsg(message) => Ok(Some(message.message)),
        frame::Kind::ReconClose(close) if close.reason.is_empty() => Ok(None),
        frame::Kind::ReconClose(close) => Err(StreamError::Refused(stated(&close.reason))),
        frame::Kind::Hello(_)
        | frame::Kind::Auth(_)
        | frame::Kind::Welcome(_)
        | frame::Kind::Records(_)
        | frame::Kind::Offer(_)
        | frame::Kind::Want(_)
        | frame::Kind::Cancel(_)
        | frame::Kind::Have(_)
        | frame::Kind::Ping(_)
        | frame::Kind::Pong(_)
        | frame::Kind::Error(_)
        | frame::Kind::Revocations(_)
        | frame::Kind::Find(_)
        | frame::Kind::Lacks(_)
        | frame::Kind::Doubled(_)
        | frame::Kind::Keep(_)
        | frame::Kind::Kept(_)
        | frame::Kind::Later(_)
        | frame::Kind::ReconOpen(_) => {
            Err(WireError::Malformed("a frame that has no place on a reconciliation stream".into()).into())
        }
    }
}

async fn within<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, StreamError>
where
    StreamError: From<E>,
{
    Ok(timeout(ANSWER_WITHIN, work).await.map_err(|_| StreamError::Silence)??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::tree::{Item, ItemTree};
    use crate::record::Hlc;

    /// A stream's first frame is read before its peer's session is looked at.
    #[test]
    fn a_reconciliation_begins_with_a_short_frame() {
        for count in [0, 1, 7, 8, 100, 511, 4_000, 40_000] {
            // Of one time, so that bounds are as long as they can be.
            let item = |n: u32| {
                let mut hash = [0; 32];
                hash[28..].copy_from_slice(&n.to_be_bytes());
                Item { hlc: Hlc(7), rid: RecordId(hash), hash: ContentHash(hash) }
            };
            let tree = ItemTree::from_sorted((0..count).map(item).collect());
            let (_, message) = Initiator::new(tree.snapshot(), EngineLimits::default());
            let open =
                ReconOpen { library: vec![0; 32].into(), message: message.into(), entries: true, more: true };
            let bytes = wire::encode(&crate::wire::proto::Frame { kind: Some(frame::Kind::ReconOpen(open)) });
            assert!(bytes.len() <= wire::FIRST_FRAME_BYTES_MAX, "{count} records: {} bytes", bytes.len());
        }
    }
}
