//! PeersActor on real connections, with PeerActors that record what they are told and fail on command.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

mod connections;
mod failing;
mod fetching;
mod places;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::actor::status::{ASK_CHILD_LIMIT, ActorState, ActorStatus};
use can_sync::testing::discovery::address_book::RememberedPeer;
use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::gossip::GossipMsg;
use can_sync::testing::discovery::rendezvous::RendezvousMsg;
use can_sync::testing::events::NodeEvent;
use can_sync::testing::net::close;
use can_sync::testing::peer::messages::{PeerMsg, PeersMsg};
use can_sync::testing::peer::places::PlaceLimits;
use can_sync::testing::peer::report::{ConnectionState, PeerReport, SyncState, TransferDirection};
use can_sync::testing::peer::session::{SessionStatus, WaitingCounts};
use can_sync::testing::record::{AssetRecord, ContentHash};
use can_sync::testing::store::{FeedEntry, Holding, IncomingAsset, IncomingContent};
use can_sync::testing::transfer::schedule::{FetchFailure, SessionId, WantKey};
use iroh::{EndpointAddr, EndpointId, SecretKey};
use ractor::ActorStatus as Life;
use tokio::time::{Instant, sleep, timeout};

use crate::support::nodes::{DEADLINE, eventually};
use crate::support::peers::{Heard, PeersRig, Remote, assert_closed, told};
use crate::support::probe::Probe;
use crate::support::store::record_of;

/// Two peers with sessions; their connections are to be held.
async fn two_sessions() -> (PeersRig, [SessionId; 2], [iroh::endpoint::Connection; 2]) {
    let (rig, a, b) = tokio::join!(PeersRig::start(), Remote::bind(), Remote::bind());
    let (a_session, a_connection) = rig.session(&a).await;
    let (b_session, b_connection) = rig.session(&b).await;
    // Endpoints close when they are dropped.
    std::mem::forget((a, b));
    (rig, [a_session, b_session], [a_connection, b_connection])
}

/// Has a session stand like this.
fn stands(rig: &PeersRig, session: SessionId, state: ConnectionState, verified: u64) {
    rig.stage.args(session).board.lock().standing = Some(SessionStatus {
        state,
        assets: 7,
        missing_here: 0,
        missing_here_bytes: 0,
        unseen: 0,
        missing_there: 0,
        waiting: WaitingCounts::default(),
        last_error: None,
        verified,
    });
}

async fn forget(rig: &PeersRig, endpoint_id: EndpointId) -> bool {
    rig.call(|reply| PeersMsg::ForgetPeer { endpoint_id, reply }).await
}

async fn transfers(rig: &PeersRig) -> Vec<can_sync::testing::peer::report::TransferReport> {
    rig.call(|reply| PeersMsg::GetTransfers { reply }).await
}

async fn health(rig: &PeersRig) -> Vec<ActorStatus> {
    rig.call(|reply| PeersMsg::GetHealth { reply }).await.children
}

/// Every restart of a PeerActor that was told, with its reason and number.
fn restarts(rig: &PeersRig) -> Vec<(String, u32)> {
    let restart = |event| match event {
        NodeEvent::ActorRestarted { kind, reason, restarts } => {
            assert_eq!(kind, "PeerActor");
            Some((reason, restarts))
        }
        _ => None,
    };
    rig.events().into_iter().filter_map(restart).collect()
}

fn record(n: u32) -> AssetRecord {
    record_of(&n.to_be_bytes())
}

fn changed(n: u32) -> PeersMsg {
    PeersMsg::StoreChanged(
        [FeedEntry { seq: n.into(), record: record(n), holding: Holding::Held, formers: Vec::new() }].into(),
    )
}

fn wanted(session: SessionId, records: &[&AssetRecord]) -> PeersMsg {
    PeersMsg::Wanted {
        session,
        library: None,
        records: records.iter().map(|record| (*record).clone()).collect(),
    }
}

fn finished(session: SessionId, record: &AssetRecord, result: Result<(), FetchFailure>) -> PeersMsg {
    PeersMsg::Finished { session, results: vec![(WantKey::new(None, record), result)] }
}

fn stopped(heard: &[Heard], session: SessionId) -> Option<()> {
    heard.iter().any(|heard| matches!(heard, Heard::Stopped(who) if *who == session)).then_some(())
}

fn store_changed(message: &PeerMsg) -> Option<usize> {
    match message {
        PeerMsg::StoreChanged { entries, .. } => Some(entries.len()),
        _ => None,
    }
}

fn fetch(message: &PeerMsg) -> Option<(u64, Vec<AssetRecord>)> {
    match message {
        PeerMsg::Fetch { request, library: None, records } => Some((*request, records.clone())),
        _ => None,
    }
}

fn settled(message: &PeerMsg) -> Option<Vec<ContentHash>> {
    match message {
        PeerMsg::Settled(keys) => Some(keys.iter().map(|key| key.hash).collect()),
        _ => None,
    }
}

fn failed(message: &PeerMsg) -> Option<(ContentHash, String)> {
    match message {
        PeerMsg::Failed { key, reason } => Some((key.hash, reason.clone())),
        _ => None,
    }
}

fn verify(message: &PeerMsg) -> Option<u64> {
    match message {
        PeerMsg::Verify { round } => Some(*round),
        _ => None,
    }
}
