//! What the agent's API sees of the node: handles to ask, and facts that were settled at boot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use iroh::EndpointId;
use ractor::{Message, RpcReplyPort};
use secrecy::SecretString;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use super::proxy::StoreProxy;
use crate::actor::ServiceRef;
use crate::actor::service_ref::ServiceError;
use crate::actor::status::ActorStatus;
use crate::actor::supervisor::RootMsg;
use crate::clock::Clock;
use crate::discovery::channel::Channels;
use crate::events::EventLog;
use crate::folder::report::FolderReport;
use crate::folder::supervisor::FoldersMsg;
use crate::http::{ApiError, ApiResult};
use crate::library::Libraries;
use crate::library::actor::LibraryMsg;
use crate::peer::delete_guard::DeleteGuard;
use crate::peer::messages::PeersMsg;
use crate::peer::report::{PeersReport, TransferReport};
use crate::store::{StoreError, StoreRef, StoreStatus};
use crate::transfer::partial::Partials;

/// Longest wait for an actor or the store; then the answer says who did not answer.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the assets live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreMode {
    /// In this process.
    Embedded,
    /// In a CAN Service of its own.
    External,
}

/// The object storage that the embedded store has its larger contents in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct ObjectStorage {
    /// As `store.content` names it; no secrets are in it.
    pub url: String,
    /// Other stores may have contents there: nothing is deleted.
    pub shared: bool,
    /// Contents are acknowledged once they are on this disk, and uploaded afterwards.
    pub write_back: bool,
}

/// Everything that the API shows or asks. Cheap to clone; outlives any incarnation of the actor.
#[derive(Clone)]
pub struct AgentView {
    pub endpoint_id: EndpointId,
    pub name: String,
    pub version: &'static str,
    pub started: Instant,
    /// Where the passphrase came from: `generated`, `config`, `file`, `environment`.
    pub passphrase_origin: &'static str,
    pub store_mode: StoreMode,
    /// Where the embedded store has its larger contents, if not in its directory.
    pub object_storage: Option<ObjectStorage>,
    /// Way to the store's own HTTP API, for the page.
    pub store_proxy: StoreProxy,
    pub store: StoreRef,
    pub peers: ServiceRef<PeersMsg>,
    pub library: ServiceRef<LibraryMsg>,
    pub folders: ServiceRef<FoldersMsg>,
    pub libraries: Arc<Libraries>,
    /// Large contents that are on their way.
    pub partials: Partials,
    /// Peers' deletions, and the brake on them.
    pub deletes: Arc<DeleteGuard>,
    pub root: ServiceRef<RootMsg>,
    pub events: EventLog,
    pub clock: Clock,
    /// The endpoint's own metrics; see [`super::metrics::endpoint_registry`].
    pub registry: Arc<iroh_metrics::Registry>,
    /// Configured limits by name, shown in the metrics.
    pub limits: Arc<[(&'static str, u64)]>,
    /// Our current endpoint ticket; empty until the endpoint has an address.
    pub ticket: watch::Receiver<String>,
    pub discovery: Channels,
    /// Bearer token, if one is required.
    pub api_token: Option<SecretString>,
    /// Host names, besides loopback and the address we listen on, under which the API may be reached.
    pub allowed_hosts: Vec<String>,
}

impl AgentView {
    /// The peers' side of the node.
    pub(super) async fn peers_report(&self) -> ApiResult<PeersReport> {
        ask(&self.peers, |reply| PeersMsg::GetReport { reply }).await
    }

    pub(super) async fn transfers(&self) -> ApiResult<Vec<TransferReport>> {
        ask(&self.peers, |reply| PeersMsg::GetTransfers { reply }).await
    }

    /// Folders with a directory on this machine.
    pub(super) async fn folder_reports(&self) -> ApiResult<Vec<FolderReport>> {
        ask(&self.folders, |reply| FoldersMsg::ListFolders { reply }).await
    }

    pub(super) async fn tree(&self) -> ApiResult<ActorStatus> {
        ask(&self.root, |reply| RootMsg::GetTree { reply }).await
    }

    /// The store's health, or one sentence why there is none.
    pub(super) async fn store_status(&self) -> Result<StoreStatus, String> {
        match tokio::time::timeout(ASK_TIMEOUT, self.store.status()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(StoreError::to_string(&error)),
            Err(_) => Err(format!("the store did not answer within {} s", ASK_TIMEOUT.as_secs())),
        }
    }
}

/// Asks an actor within [`ASK_TIMEOUT`]; silence is a 503 that names it.
pub(super) async fn ask<M: Message, T: Send + 'static>(
    service: &ServiceRef<M>,
    message: impl FnOnce(RpcReplyPort<T>) -> M + Send,
) -> ApiResult<T> {
    service.call(message, ASK_TIMEOUT).await.map_err(|error| unavailable(error, ASK_TIMEOUT))
}

/// 503 about an actor that was asked, and had that long.
pub(super) fn unavailable(error: ServiceError, within: Duration) -> ApiError {
    let (code, message) = match error {
        ServiceError::Down(actor) => ("actor_down", format!("{actor} is not running at the moment")),
        ServiceError::Timeout(actor) => {
            ("actor_timeout", format!("{actor} did not answer within {} s", within.as_secs()))
        }
    };
    let hint = "GET /actors shows what it is doing; one that crashed is started again by itself";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message, hint)
}

/// What the handlers share: the view, and what belongs to one incarnation of the server.
#[derive(Clone)]
pub(super) struct ApiState {
    pub(super) view: AgentView,
    /// One permit per event stream that may still be opened.
    pub(super) streams: Arc<Semaphore>,
}
