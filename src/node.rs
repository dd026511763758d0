//! Boot, shutdown, supervision: the whole tree is put together here.
//!
//! [`Node::start`] makes the resources in [`resources`] (keys, store, endpoint, sockets), which outlive any actor, and
//! then the tree of actors around them. [`Node::wait`] takes both down again, the actors first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::EndpointId;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::resources::Resources;
use self::signals::Signals;
use self::tree::Cells;
use crate::actor::policy::ChildKind;
use crate::actor::supervisor::{self, RootArgs, RootMsg, ShutdownOutcome, StopReason};
use crate::actor::{ServiceCell, ServiceRef};
use crate::api::on_demand::fetch_content;
use crate::clock::Clock;
use crate::config::{Config, Limits, Origins};
use crate::discovery::channel::{ChannelReport, ChannelState, Channels};
use crate::events::EventLog;
use crate::folder::supervisor::{SpawnFolder, spawn_folder};
use crate::http::ServeLimits;
use crate::identity::PassphraseOrigin;
use crate::net::endpoint;
use crate::peer::args::{SpawnPeer, spawn_peer};

mod at_rest;
pub(crate) mod backup;
mod data_dir;
pub mod discovery;
pub mod dump;
pub(crate) mod preflight;
mod protocols;
pub(crate) mod renewal;
pub mod resources;
pub(crate) mod running;
pub mod secrets;
pub mod signals;
mod ticket_file;
mod tree;

pub(crate) use self::data_dir::DataDir;

/// How long the endpoint has to say goodbye to peers. Those that answer take less; one that is being dialled and never does takes
/// three seconds by itself.
const CLOSE_ENDPOINT_WITHIN: Duration = Duration::from_secs(1);

/// How long the actors have for their first start; the supervisor goes on trying after that.
const ACTORS_START_WITHIN: Duration = Duration::from_secs(5);

/// Why a node does not start: a sentence with the next step, or several where several things are wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct StartError(Vec<String>);

impl StartError {
    /// From anything that says what to do.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(vec![sentence.into()])
    }

    /// From everything that says what to do.
    pub fn several<T: ToString>(sentences: impl IntoIterator<Item = T>) -> Self {
        Self(sentences.into_iter().map(|sentence| sentence.to_string()).collect())
    }

    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

/// What a start needs from its caller.
pub struct StartOutput {
    /// Where settings came from: errors name it, and what only this start was given is kept.
    pub origins: Origins,
    /// Told what the start is busy with, as a clause such as "stretching the passphrase".
    pub progress: Box<dyn Fn(&str) + Send + Sync>,
    /// The process's signals; without them, the node stops only through [`Node::stop`].
    pub signals: Option<Signals>,
    /// The clock by which the node goes: [`Clock::system`], but in tests.
    pub clock: Clock,
}

/// How the actors are started of which there are many; tests put others in their place.
#[derive(Clone)]
pub struct ActorStarts {
    pub peer: SpawnPeer,
    pub folder: SpawnFolder,
}

impl Default for ActorStarts {
    fn default() -> Self {
        Self { peer: spawn_peer(), folder: spawn_folder() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    pub reason: String,
    /// Whether it had to.
    pub failed: bool,
    /// Whether it was asked for twice, and so did not wait for anything.
    pub forced: bool,
}

pub struct Node {
    resources: Resources,
    root: Arc<ServiceCell<RootMsg>>,
    outcome: JoinHandle<ShutdownOutcome>,
    channels: Channels,
    /// Tasks that belong to no actor: the ticket and its file.
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node: resources first, then the tree.
    ///
    /// # Errors
    /// One sentence with the next step; nothing that was there before has changed then.
    pub async fn start(config: Config, output: StartOutput) -> Result<Self, StartError> {
        Box::pin(Self::start_with(config, output, ActorStarts::default())).await
    }

    /// As [`Node::start`], with actors of the caller's: tests have theirs fail at the worst moment.
    #[doc(hidden)]
    pub async fn start_with(
        config: Config,
        output: StartOutput,
        starts: ActorStarts,
    ) -> Result<Self, StartError> {
        let mut resources = Resources::open(&config, output.origins, output.clock, &output.progress).await?;
        (output.progress)("starting the actors");
        let mut tasks = JoinSet::new();
        let (ticket, follow) = endpoint::follow_ticket(&resources.endpoint);
        tasks.spawn(follow);
        if let Some(path) = config.ticket_file.clone() {
            ticket_file::write(&path, &ticket.borrow()).await.map_err(|e| {
                StartError::new(format!("cannot write ticket_file '{}': {e}", path.display()))
            })?;
            tasks.spawn(ticket_file::follow(path, ticket.clone()));
        }
        resources.ticket = ticket;

        let cells = Cells::default();
        let channels = discovery::channels(&config);
        resources.on_demand.connect(fetch_content(tree::view(&config, &resources, &cells, &channels)));
        let children = tree::children(&config, &resources, &cells, &channels, output.signals, starts);
        let events = resources.events.clone();
        let on_degraded = |kind: ChildKind, why: Option<&str>| {
            if let Some(why) = why {
                tracing::error!(%kind, why, "the node goes on without it and keeps trying");
            } else {
                tracing::info!(%kind, "it works again");
            }
        };
        let args =
            RootArgs { cell: Arc::clone(&cells.root), children, events, on_degraded: Arc::new(on_degraded) };
        let (_, outcome) = supervisor::start(args)
            .await
            .map_err(|e| StartError::new(format!("cannot start the supervisor: {e}")))?;
        // A caller that is told that the node runs may ask it something at once.
        if timeout(ACTORS_START_WITHIN, cells.up()).await.is_err() {
            tracing::warn!("not every actor has started yet; GET /actors shows which");
        }
        resources.started().await;
        Ok(Self { resources, root: cells.root, outcome, channels, tasks })
    }

    /// Where the agent's API and page are.
    pub fn api_addr(&self) -> SocketAddr {
        self.resources.api_addr
    }

    /// Base URL of the CAN Service, embedded or external.
    pub fn store_url(&self) -> String {
        self.resources.store_url.clone()
    }

    pub fn endpoint_id(&self) -> EndpointId {
        self.resources.endpoint.id()
    }

    pub fn ticket(&self) -> String {
        self.resources.ticket.borrow().clone()
    }

    /// Our ticket once it names a relay, which reaches us from other networks; after `limit`, as of then.
    pub async fn ticket_with_relay(&self, limit: Duration) -> String {
        let mut ticket = self.resources.ticket.clone();
        let _ = timeout(limit, ticket.wait_for(|ticket| endpoint::names_relay(ticket))).await;
        self.ticket()
    }

    pub fn passphrase_origin(&self) -> PassphraseOrigin {
        self.resources.passphrase_origin
    }

    /// Names of the discovery channels that are up.
    pub fn channels(&self) -> Vec<String> {
        let up = self.channels.reports().into_iter().filter(|c| c.state == ChannelState::Up);
        up.map(|c| c.channel.name().to_owned()).collect()
    }

    pub fn channel_reports(&self) -> Vec<ChannelReport> {
        self.channels.reports()
    }

    pub fn events(&self) -> EventLog {
        self.resources.events.clone()
    }

    /// The root of the tree: for tests, which end its actors.
    #[doc(hidden)]
    pub fn root(&self) -> ServiceRef<RootMsg> {
        self.root.service_ref()
    }

    /// Begins an ordered shutdown; [`Node::wait`] tells when it is over.
    pub fn stop(&self, reason: &str) {
        let message = RootMsg::Shutdown { reason: StopReason::Requested(reason.to_owned()) };
        // A supervisor that is gone has stopped already.
        let _ = self.root.service_ref().cast(message);
    }

    /// Waits for the node's end and takes its resources down.
    pub async fn wait(mut self) -> Shutdown {
        let outcome = (&mut self.outcome).await.unwrap_or(ShutdownOutcome::Crashed);
        let forced = matches!(outcome, ShutdownOutcome::Forced { .. });
        self.tasks.abort_all();
        self.resources.leave();
        if !forced {
            let closed = timeout(CLOSE_ENDPOINT_WITHIN, self.resources.endpoint.close()).await;
            if closed.is_err() {
                tracing::debug!("peers did not confirm the goodbye in time");
            }
            self.resources.deferrals.save().await;
            self.resources.close_store().await;
        }
        Shutdown { reason: outcome.to_string(), failed: outcome.is_failure() && !forced, forced }
    }
}

/// How much the clients of an HTTP server may use.
pub(crate) fn serve_limits(limits: &Limits) -> ServeLimits {
    ServeLimits { connections: limits.http_connections, min_bytes_per_sec: limits.http_min_bytes_per_sec }
}
