//! HttpActor: serves the agent's API and page.
//!
//! Owns one task, the server, which owns its connections: when the actor ends, however it ends, they are closed. Talks to
//! nobody by itself; the handlers ask PeersActor, RootSupervisor and the store, each with a time limit.
//! Bounds: those of [`super::serve`], and [`super::events::STREAMS_MAX`] event streams.
//! A restart loses open connections. The socket is bound at boot and stays, so new ones wait for the next incarnation
//! instead of being refused, and watchers of events resume by themselves.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api;
use super::serve::serve;
use super::view::AgentView;
use crate::actor::ActorExit;
use crate::node::status::ActorDetail;

/// How long requests under way may take once the actor is told to stop. Event streams end at once.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// A bound, listening socket that outlives any server on it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedListener(Arc<TcpListener>);

impl SharedListener {
    /// Binds `addr`; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says: the port is in use, the address is not ours.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        Ok(Self(Arc::new(listener)))
    }

    /// The address in use, with the port that was taken.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// A duplicate for one server; dropping it leaves this one open.
    ///
    /// # Errors
    /// What the system says: typically too many open files.
    pub fn duplicate(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.0.try_clone()?)
    }
}

/// What HttpActor understands.
#[derive(Debug)]
pub enum HttpMsg {
    /// Its own server task: it has ended, and why. The actor fails, and its supervisor starts it again.
    ServerEnded(String),
    /// RootSupervisor: how it is.
    GetHealth {
        /// The answer.
        reply: RpcReplyPort<ActorDetail>,
    },
}

/// What an incarnation needs.
#[derive(Clone)]
pub struct HttpArgs {
    /// Where to listen.
    pub listener: SharedListener,
    /// What to show.
    pub view: AgentView,
}

/// What an incarnation has.
pub struct HttpState {
    server: JoinSet<()>,
    stop: CancellationToken,
    bound: SocketAddr,
}

/// Serves the agent's API and page.
pub struct HttpActor;

impl Actor for HttpActor {
    type Msg = HttpMsg;
    type State = HttpState;
    type Arguments = HttpArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let HttpArgs { listener, view } = args;
        let bound = listener.local_addr()?;
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        let stopped = stop.clone();
        server.spawn(async move {
            let run = run(listener, view, bound, stopped.clone());
            let reason = match AssertUnwindSafe(run).catch_unwind().await {
                Ok(Ok(())) => String::from("it stopped by itself"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => String::from("it panicked"),
            };
            if !stopped.is_cancelled() {
                // Without an actor there is nobody left to tell.
                let _ = myself.cast(HttpMsg::ServerEnded(reason));
            }
        });
        Ok(HttpState { server, stop, bound })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HttpMsg::ServerEnded(reason) => {
                Err(ActorExit::Transient(format!("the HTTP server on {} ended: {reason}", state.bound))
                    .into())
            }
            HttpMsg::GetHealth { reply } => {
                let detail = Some(format!("http://{}", state.bound));
                // Whoever asked may have given up.
                let _ = reply.send(ActorDetail { detail, ..ActorDetail::default() });
                Ok(())
            }
        }
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.stop.cancel();
        if tokio::time::timeout(DRAIN_LIMIT, state.server.join_next()).await.is_err() {
            tracing::info!("closing HTTP connections that did not finish in time");
            state.server.shutdown().await;
        }
        Ok(())
    }
}

/// The server, until `stop`.
async fn run(
    listener: SharedListener,
    view: AgentView,
    bound: SocketAddr,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = listener.duplicate()?;
    serve(listener, api::router(view, bound), stop.cancelled_owned()).await;
    Ok(())
}
