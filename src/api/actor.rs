//! HttpActor: serves the agent's API and page.
//!
//! Owns one task, the server, which owns its connections: when the actor ends, however it ends, they are closed. Talks to
//! nobody by itself; the handlers ask PeersActor, RootSupervisor and the store, each with a time limit.
//! Bounds: those of [`crate::http::serve()`], and [`super::events::STREAMS_MAX`] event streams.
//! A restart loses open connections. The socket is bound at boot and stays, so new ones wait for the next incarnation
//! instead of being refused, and watchers of events resume by themselves.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, RpcReplyPort};
use tokio::sync::Semaphore;

use super::events::STREAMS_MAX;
use super::routes;
use super::view::{AgentView, ApiState};
use crate::actor::ActorResult;
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::http::{ServerTask, SharedListener};

/// How long requests under way may take once the actor is told to stop. Event streams end at once.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(2);

counted!(HttpMsg);

#[derive(Debug)]
pub enum HttpMsg {
    /// Its own server task: it has ended, and why. The actor fails, and its supervisor starts it again.
    ServerEnded(String),
    /// RootSupervisor: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

#[derive(Clone)]
pub struct HttpArgs {
    pub listener: SharedListener,
    pub view: AgentView,
}

pub struct HttpState {
    server: ServerTask,
    streams: Arc<Semaphore>,
}

pub struct HttpActor;

impl Actor for HttpActor {
    type Msg = HttpMsg;
    type State = HttpState;
    type Arguments = HttpArgs;

    async fn pre_start(&self, myself: ActorRef<HttpMsg>, args: HttpArgs) -> ActorResult<HttpState> {
        let HttpArgs { listener, view } = args;
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        let api = ApiState { view, streams: Arc::clone(&streams) };
        let server = ServerTask::start(
            listener,
            |bound| routes::router(api, bound),
            move |why| {
                // Without an actor there is nobody left to tell.
                let _ = myself.cast(HttpMsg::ServerEnded(why));
            },
        )?;
        Ok(HttpState { server, streams })
    }

    async fn handle(&self, _: ActorRef<HttpMsg>, message: HttpMsg, state: &mut HttpState) -> ActorResult {
        match message {
            HttpMsg::ServerEnded(why) => Err(why.into()),
            HttpMsg::GetHealth { reply } => {
                let streams = STREAMS_MAX - state.streams.available_permits();
                let detail = Some(format!("http://{}, event streams: {streams}", state.server.bound()));
                // The caller may have given up.
                let _ = reply.send(ActorDetail { detail, ..ActorDetail::default() });
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<HttpMsg>, state: &mut HttpState) -> ActorResult {
        state.server.stop(DRAIN_LIMIT).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use iroh::SecretKey;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::actor::ServiceCell;
    use crate::api::proxy::StoreProxy;
    use crate::api::view::StoreMode;
    use crate::discovery::channel::Channels;
    use crate::events::EventLog;
    use crate::http::ServeLimits;
    use crate::identity::LibraryKeys;
    use crate::library::{Libraries, Library};
    use crate::peer::delete_guard::DeleteGuard;
    use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
    use crate::transfer::partial::Partials;

    async fn view(dir: &std::path::Path) -> AgentView {
        let config = EmbeddedConfig {
            dir: dir.to_owned(),
            disk_reserve_bytes: 0,
            clock: crate::clock::Clock::system(),
        };
        AgentView {
            endpoint_id: SecretKey::from_bytes(&[1; 32]).public(),
            name: "n".into(),
            version: "0",
            started: Instant::now(),
            passphrase_origin: "generated",
            store_mode: StoreMode::Embedded,
            object_storage: None,
            store_proxy: StoreProxy::new("http://127.0.0.1:1").unwrap(),
            store: Arc::new(EmbeddedStore::open(config).await.unwrap()),
            peers: ServiceCell::new("PeersActor").service_ref(),
            library: ServiceCell::new("LibraryActor").service_ref(),
            folders: ServiceCell::new("FoldersActor").service_ref(),
            deletes: Arc::new(DeleteGuard::new(false)),
            libraries: Arc::new(Libraries::of(Arc::new(Library::new(LibraryKeys::of_read_secret(&[0; 32]))))),
            partials: Partials::open(&dir.join("partial")).unwrap(),
            root: ServiceCell::new("RootSupervisor").service_ref(),
            clock: crate::clock::Clock::system(),
            events: EventLog::default(),
            registry: Arc::default(),
            limits: Arc::from([]),
            ticket: watch::channel(String::new()).1,
            discovery: Channels::default(),
            api_token: None,
            allowed_hosts: Vec::new(),
        }
    }

    /// Starts HttpActor and passes on why it failed.
    struct Parent;

    impl Actor for Parent {
        type Msg = ();
        type State = mpsc::Sender<String>;
        type Arguments = mpsc::Sender<String>;

        async fn pre_start(&self, _: ActorRef<()>, told: Self::State) -> ActorResult<Self::State> {
            Ok(told)
        }

        async fn handle_supervisor_evt(
            &self,
            _: ActorRef<()>,
            event: ractor::SupervisionEvent,
            told: &mut Self::State,
        ) -> ActorResult {
            if let ractor::SupervisionEvent::ActorFailed(_, why) = event {
                told.send(why.to_string()).await?;
            }
            Ok(())
        }
    }

    /// A socket that blocks is one that tokio panics on in debug builds: a server task that really dies.
    #[cfg(debug_assertions)]
    #[tokio::test]
    async fn a_server_that_panics_fails_the_actor() {
        let dir = tempfile::tempdir().unwrap();
        let blocking = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let args = HttpArgs {
            listener: SharedListener { listener: Arc::new(blocking), limits: ServeLimits::default() },
            view: view(dir.path()).await,
        };
        let (told, mut failures) = mpsc::channel(1);
        let (parent, _) = Actor::spawn(None, Parent, told).await.unwrap();
        let (_, join) = Actor::spawn_linked(None, HttpActor, args, parent.get_cell()).await.unwrap();
        let why = tokio::time::timeout(Duration::from_secs(10), failures.recv()).await.unwrap().unwrap();
        assert!(why.ends_with("ended: it panicked"), "{why}");
        join.await.unwrap();
    }
}
