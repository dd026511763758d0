//! A complete agent API over real parts: an embedded store behind its own HTTP API, an event log, and probes in the place
//! of PeersActor and RootSupervisor that answer as the test likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use can_sync::testing::actor::ServiceCell;
use can_sync::testing::actor::ServiceRef;
use can_sync::testing::actor::status::{ActorState, ActorStatus};
use can_sync::testing::actor::supervisor::RootMsg;
use can_sync::testing::api::proxy::StoreProxy;
use can_sync::testing::api::view::StoreMode;
use can_sync::testing::api::{AgentView, HttpActor, HttpArgs, HttpMsg};
use can_sync::testing::clock::Clock;
use can_sync::testing::discovery::channel::{Channel, Channels};
use can_sync::testing::events::EventLog;
use can_sync::testing::http::SharedListener;
use can_sync::testing::identity::LibraryKeys;
use can_sync::testing::library::{Libraries, Library};
use can_sync::testing::peer::delete_guard::DeleteGuard;
use can_sync::testing::peer::messages::PeersMsg;
use can_sync::testing::peer::report::{
    ConnectionState, PeerReport, PeersReport, Rates, SyncReport, SyncState, TransferReport, WhyReport,
};
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore, IngestFields, Ingested};
use can_sync::testing::store::service::{ServiceSettings, router};
use can_sync::testing::transfer::partial::Partials;
use iroh::SecretKey;
use iroh_tickets::endpoint::EndpointTicket;
use parking_lot::Mutex;
use ractor::{Actor, ActorRef};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::nodes::DEADLINE;
use super::probe::Probe;

/// What the probe of PeersActor answers.
pub(crate) struct PeersAnswers {
    pub(crate) report: PeersReport,
    pub(crate) transfers: Vec<TransferReport>,
    pub(crate) why: WhyReport,
    pub(crate) dial: Result<(), String>,
    pub(crate) known: bool,
}

/// A running API.
pub(crate) struct Agent {
    pub(crate) args: HttpArgs,
    pub(crate) actor: ActorRef<HttpMsg>,
    pub(crate) join: JoinHandle<()>,
    pub(crate) addr: SocketAddr,
    pub(crate) client: reqwest::Client,
    pub(crate) peers: Probe<PeersMsg>,
    pub(crate) answers: Arc<Mutex<PeersAnswers>>,
    pub(crate) tree: Arc<Mutex<ActorStatus>>,
    pub(crate) events: EventLog,
    pub(crate) store: EmbeddedStore,
    pub(crate) ticket: watch::Sender<String>,
    pub(crate) store_server: JoinHandle<()>,
    _root: Probe<RootMsg>,
    _dir: tempfile::TempDir,
}

impl Agent {
    /// With probes that answer.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// As [`Agent::start`], with changes to what the API sees.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a probe answers questions and records the rest")]
    pub(crate) async fn start_with(change: impl FnOnce(&mut AgentView)) -> Self {
        let answers = Arc::new(Mutex::new(PeersAnswers {
            report: PeersReport { sync: sync(SyncState::Alone), peers: Vec::new(), drops: None },
            transfers: Vec::new(),
            why: WhyReport::default(),
            dial: Ok(()),
            known: true,
        }));
        let peers = Probe::answering(answer_peers(Arc::clone(&answers))).await;
        let tree = Arc::new(Mutex::new(actor("RootSupervisor", vec![actor("PeersActor", vec![])])));
        let shown = Arc::clone(&tree);
        let root = Probe::answering(move |message| match message {
            RootMsg::GetTree { reply } => {
                let _ = reply.send(shown.lock().clone());
                None
            }
            other => Some(other),
        })
        .await;

        let dir = tempfile::tempdir().expect("a directory");
        let config =
            EmbeddedConfig { dir: dir.path().to_owned(), disk_reserve_bytes: 0, clock: Clock::system() };
        let store = EmbeddedStore::open(config).await.expect("the store opens");
        let (store_addr, store_server) = serve_store(&store).await;

        let events = EventLog::default();
        let id = SecretKey::from_bytes(&[1; 32]).public();
        let addr = iroh::EndpointAddr::new(id).with_ip_addr("192.0.2.1:4433".parse().expect("an address"));
        let (ticket, ticket_seen) = watch::channel(EndpointTicket::new(addr).to_string());
        let mut view = AgentView {
            endpoint_id: id,
            name: "atelier".into(),
            version: "0.1.0",
            started: Instant::now(),
            passphrase_origin: "generated",
            store_mode: StoreMode::Embedded,
            object_storage: None,
            store_proxy: StoreProxy::new(&format!("http://{store_addr}")).expect("a URL"),
            store: Arc::new(store.clone()),
            peers: peers.service_called("PeersActor"),
            library: ServiceCell::new("LibraryActor").service_ref(),
            folders: ServiceCell::new("FoldersActor").service_ref(),
            deletes: Arc::new(DeleteGuard::new(true)),
            libraries: Arc::new(Libraries::of(Arc::new(Library::new(LibraryKeys::of_read_secret(&[0; 32]))))),
            partials: Partials::open(&dir.path().join("partial")).expect("a directory"),
            root: root.service_called("RootSupervisor"),
            events: events.clone(),
            clock: Clock::system(),
            registry: Arc::default(),
            limits: Arc::from([("peers", 64)]),
            ticket: ticket_seen,
            discovery: found_by_ticket(id),
            api_token: None,
            allowed_hosts: vec!["nas.lan".into(), "proxy.lan:8080".into()],
        };
        change(&mut view);
        let listener = SharedListener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let args = HttpArgs { listener, view };
        let (actor, join) = Actor::spawn(None, HttpActor, args.clone()).await.expect("the API starts");
        let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().expect("a client");
        Self {
            args,
            actor,
            join,
            addr,
            client,
            peers,
            answers,
            tree,
            events,
            store,
            ticket,
            store_server,
            _root: root,
            _dir: dir,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(path))
    }

    /// The status and JSON body of an answer.
    pub(crate) async fn json(&self, request: reqwest::RequestBuilder) -> (u16, serde_json::Value) {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("JSON"))
    }

    /// The `data` of a successful GET.
    pub(crate) async fn data(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.json(self.get(path)).await;
        assert_eq!((status, &body["status"]), (200, &"success".into()), "{path}: {body}");
        body["data"].clone()
    }

    /// The body of a successful GET as text.
    pub(crate) async fn text(&self, path: &str) -> String {
        let answer = self.get(path).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.expect("text")
    }

    pub(crate) fn set_peers(&self, state: SyncState, peers: Vec<PeerReport>) {
        self.answers.lock().report = PeersReport { sync: sync(state), peers, drops: None };
    }

    /// Puts an asset into the store.
    pub(crate) async fn ingest(&self, content: &[u8], fields: IngestFields) -> Ingested {
        let mut upload = self.store.begin_upload();
        upload.write(Bytes::copy_from_slice(content)).await.expect("written");
        upload.finish(fields).await.expect("stored")
    }
}

async fn serve_store(store: &EmbeddedStore) -> (SocketAddr, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let router = router(store.clone(), ServiceSettings::new("key".into(), addr));
    (addr, tokio::spawn(can_sync::testing::http::serve(listener, router, std::future::pending())))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a probe answers questions and records the rest")]
fn answer_peers(answers: Arc<Mutex<PeersAnswers>>) -> impl FnMut(PeersMsg) -> Option<PeersMsg> + Send + Sync {
    move |message| {
        let answers = answers.lock();
        match message {
            PeersMsg::GetReport { reply } => drop(reply.send(answers.report.clone())),
            PeersMsg::GetTransfers { reply } => drop(reply.send(answers.transfers.clone())),
            PeersMsg::GetWhy { reply, .. } => drop(reply.send(answers.why.clone())),
            PeersMsg::DialPeer { addr, reply } => {
                let _ = reply.send(answers.dial.clone());
                // The address is what the test looks at; the port has had its answer.
                let (spent, _) = ractor::concurrency::oneshot();
                return Some(PeersMsg::DialPeer { addr, reply: spent.into() });
            }
            PeersMsg::ForgetPeer { endpoint_id, reply } => {
                let _ = reply.send(answers.known);
                let (spent, _) = ractor::concurrency::oneshot();
                return Some(PeersMsg::ForgetPeer { endpoint_id, reply: spent.into() });
            }
            other => return Some(other),
        }
        None
    }
}

/// PeersActor as one that takes every message and answers none.
pub(crate) async fn hung() -> (Probe<PeersMsg>, ServiceRef<PeersMsg>) {
    let probe = Probe::spawn().await;
    let service = probe.service_called("PeersActor");
    (probe, service)
}

pub(crate) fn sync(state: SyncState) -> SyncReport {
    SyncReport {
        state,
        reason: None,
        missing: 0,
        missing_bytes: 0,
        absent: 0,
        unseen: 0,
        missing_there: 0,
        rate: 0.0,
        send_rate: 0.0,
        held_deletions: 0,
        dated_ahead: 0,
        copied: None,
        copied_peers: Vec::new(),
        clock: None,
        eta_secs: None,
    }
}

pub(crate) fn peer(seed: u8, name: &str, state: ConnectionState) -> PeerReport {
    PeerReport {
        endpoint_id: SecretKey::from_bytes(&[seed; 32]).public().to_string(),
        name: name.into(),
        state,
        path: Some("direct"),
        remote_addr: Some("192.0.2.7:4433".into()),
        rtt_ms: Some(12.5),
        bulk_in: true,
        bulk_out: false,
        assets: Some(40),
        missing_here: 3,
        missing_here_bytes: 4096,
        missing_there: 2,
        bytes_sent: 1_000,
        bytes_received: 2_000,
        rates: Rates { send: 10.5, receive: 20.5 },
        eta_secs: Some(200),
        last_seen_ms: Some(1_700_000_000_000),
        sources: vec!["mdns", "gossip"],
        ..PeerReport::default()
    }
}

pub(crate) fn actor(kind: &str, children: Vec<ActorStatus>) -> ActorStatus {
    ActorStatus {
        id: Some("0.1".into()),
        uptime_secs: 5,
        children,
        ..ActorStatus::new(kind, ActorState::Running)
    }
}

/// Channels of which tickets have found somebody.
fn found_by_ticket(id: iroh::EndpointId) -> Channels {
    let channels = Channels::default();
    channels.found(Channel::Tickets, id);
    channels.succeeded(Channel::Tickets, 1_700_000_000_123);
    channels
}
