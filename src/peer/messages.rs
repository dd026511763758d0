//! What PeersActor understands; everything that concerns more than one peer goes through it.

use std::sync::Arc;

use iroh::{EndpointAddr, EndpointId};
use ractor::RpcReplyPort;

use super::report::{PeersReport, TransferReport};
use crate::store::FeedEntry;

/// Messages of PeersActor. Variants that only it and its own tasks use are added in `peer/supervisor.rs`'s terms.
#[derive(Debug)]
pub enum PeersMsg {
    /// CanServiceActor: these records changed, in sequence.
    StoreChanged(Arc<[FeedEntry]>),
    /// CanServiceActor: the store stopped working (why) or works again (`None`).
    StoreHealth(Option<String>),
    /// HTTP API and discovery: dial this address now, and remember it. Answers once the dial is under way, or says why
    /// it is not.
    DialPeer {
        /// Where; an id with no address is looked up.
        addr: EndpointAddr,
        /// Whether it took the request; the session's fate shows in the report.
        reply: RpcReplyPort<Result<(), String>>,
    },
    /// HTTP API: forget a peer and close its session.
    ForgetPeer {
        /// Which.
        endpoint_id: EndpointId,
        /// Whether it was known.
        reply: RpcReplyPort<bool>,
    },
    /// SignalActor: the network may have changed; forget back-offs and dial now.
    DialNow,
    /// HTTP API: compare with every connected peer afresh; the report shows `Reconciling` until that is done.
    Verify,
    /// HTTP API, status: everything to tell.
    GetReport {
        /// The answer.
        reply: RpcReplyPort<PeersReport>,
    },
    /// HTTP API: what moves now, at most 1,000.
    GetTransfers {
        /// The answer.
        reply: RpcReplyPort<Vec<TransferReport>>,
    },
}
