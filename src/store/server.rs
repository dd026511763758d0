//! StoreServerActor: the HTTP server of an embedded CAN Service.
//!
//! **Owns** one task, the server, which owns its connections. **Talks to** nobody: requests go to the store, and through a port of
//! the node for contents that are not held. Apart from CanServiceActor, so that a socket's trouble never restarts the feed. **A
//! restart** loses open connections; the socket is bound at boot and stays, so new ones wait for the next incarnation instead of
//! being refused.

use std::time::Duration;

use axum::Router;
use ractor::{Actor, ActorRef, RpcReplyPort};

use crate::actor::ActorResult;
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::http::{ServerTask, SharedListener};

/// How long requests under way may take once the actor is told to stop: an upload may be about to be acknowledged.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

counted!(StoreServerMsg);

#[derive(Debug)]
pub enum StoreServerMsg {
    /// Its own server task: it has ended, and why. The actor fails, and its supervisor starts it again.
    ServerEnded(String),
    /// RootSupervisor: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

/// What it is started with; outlives any incarnation.
#[derive(Clone)]
pub struct StoreServerArgs {
    pub listener: SharedListener,
    pub router: Router,
}

#[derive(Debug)]
pub struct StoreServerState {
    server: ServerTask,
}

pub struct StoreServerActor;

impl Actor for StoreServerActor {
    type Msg = StoreServerMsg;
    type State = StoreServerState;
    type Arguments = StoreServerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<StoreServerMsg>,
        args: StoreServerArgs,
    ) -> ActorResult<StoreServerState> {
        let StoreServerArgs { listener, router } = args;
        let server = ServerTask::start(
            listener,
            |_| router,
            move |why| {
                // Without an actor there is nobody left to tell.
                let _ = myself.cast(StoreServerMsg::ServerEnded(why));
            },
        )?;
        Ok(StoreServerState { server })
    }

    async fn handle(
        &self,
        _: ActorRef<StoreServerMsg>,
        message: StoreServerMsg,
        state: &mut StoreServerState,
    ) -> ActorResult {
        match message {
            StoreServerMsg::ServerEnded(why) => Err(why.into()),
            StoreServerMsg::GetHealth { reply } => {
                let detail = Some(format!("http://{}", state.server.bound()));
                let _ = reply.send(ActorDetail { detail, ..ActorDetail::default() });
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<StoreServerMsg>, state: &mut StoreServerState) -> ActorResult {
        state.server.stop(DRAIN_LIMIT).await;
        Ok(())
    }
}
