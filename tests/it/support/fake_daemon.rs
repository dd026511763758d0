//! A stand-in for a node: answers as the agent's API and its CAN Service do, from memory, and can be told to misbehave.
//! To be replaced by a real node wherever a test does not need the misbehaviour.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{DefaultBodyLimit, Multipart, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

const BASE: &str = "/api/v1/can/0";

/// What it answers from; tests change it.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) assets: Vec<(Value, Vec<u8>)>,
    /// Laid over the usual `/status`.
    pub(crate) status: Value,
    pub(crate) peers: Vec<Value>,
    /// Bodies of `POST /peers`.
    pub(crate) dialled: Vec<Value>,
    pub(crate) verified: u32,
    /// How often `/status` is asked until it says `in_sync`.
    pub(crate) in_sync_after: u32,
    /// Refuses everything with this status and error.
    pub(crate) refuse: Option<(u16, &'static str)>,
    /// Asked for as a bearer token.
    pub(crate) token: Option<&'static str>,
    /// Answers without the envelope, as a foreign program would.
    pub(crate) foreign: bool,
}

type Shared = Arc<Mutex<Fake>>;

/// A running stand-in; stops when dropped.
pub(crate) struct FakeDaemon {
    pub(crate) url: String,
    pub(crate) fake: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let fake = Shared::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let addr = listener.local_addr().expect("an address");
        let router = router(addr, Arc::clone(&fake));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { url: format!("http://{addr}"), fake, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Fake)) {
        change(&mut self.fake.lock().expect("no test panicked inside"));
    }

    /// Puts an asset in, and returns its hash.
    pub(crate) fn add(&self, content: &[u8], meta: &Value) -> String {
        let asset = describe(content, meta);
        let hash = asset["hash"].as_str().expect("a hash").to_owned();
        self.change(|fake| fake.assets.push((asset, content.to_vec())));
        hash
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn sha256(content: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(content))
}

fn describe(content: &[u8], meta: &Value) -> Value {
    let mut asset = json!({
        "hash": sha256(content), "size": content.len(), "mime_type": "application/octet-stream",
        "filename": null, "application": null, "user": null, "tags": [], "description": null,
        "created_at": "2026-11-20T12:00:00.000Z", "updated_at": "2026-11-20T12:00:00.000Z", "seq": 1, "deleted": false,
    });
    for (key, value) in meta.as_object().into_iter().flatten() {
        asset[key] = value.clone();
    }
    asset
}

fn router(addr: SocketAddr, fake: Shared) -> Router {
    let store = Router::new()
        .route("/list", get(list))
        .route("/search", get(list))
        .route("/ingest", post(ingest))
        .route("/asset/{hash}", get(content).delete(delete))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/status", get(move |state| std::future::ready(status(addr, state))))
        .route("/verify", post(verify))
        .route("/peers", get(peers).post(dial))
        .route("/ticket", get(ticket))
        .route("/events", get(events))
        .nest(BASE, store)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&fake), guard))
        .with_state(fake)
}

fn success(data: &Value) -> Response {
    Json(json!({ "status": "success", "data": data })).into_response()
}

fn error(status: u16, error: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let body =
        json!({ "status": "error", "error": error, "code": "some_code", "hint": "try something else" });
    (status, Json(body)).into_response()
}

async fn guard(
    State(fake): State<Shared>,
    headers: HeaderMap,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let refusal = {
        let fake = fake.lock().expect("not poisoned");
        let sent = headers.get("authorization").and_then(|value| value.to_str().ok());
        let is_store = request.uri().path().starts_with(BASE);
        match (&*fake, fake.token) {
            (Fake { foreign: true, .. }, _) => Some("<html>It works!</html>".into_response()),
            (Fake { refuse: Some((status, why)), .. }, _) => Some(error(*status, why)),
            (_, Some(token)) if !is_store && sent != Some(&format!("Bearer {token}")) => {
                Some(error(401, "this API needs a token"))
            }
            _ => None,
        }
    };
    match refusal {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

fn status(addr: SocketAddr, State(fake): State<Shared>) -> Response {
    let mut fake = fake.lock().expect("not poisoned");
    let state = if fake.in_sync_after == 0 { "in_sync" } else { "syncing" };
    fake.in_sync_after = fake.in_sync_after.saturating_sub(1);
    let mut status = json!({
        "endpoint_id": "ab".repeat(32), "name": "desk", "version": "0.1.0", "boot": "b", "uptime_secs": 61,
        "passphrase_origin": "generated",
        "store": { "mode": "embedded", "url": format!("http://{addr}{BASE}"), "healthy": true, "error": null,
                   "assets": fake.assets.len(), "bytes": 10, "seq": 3 },
        "sync": { "state": state, "reason": null, "missing": 3, "missing_bytes": 2048, "rate": 0.0, "eta_secs": null },
        "peers": { "connected": 1, "known": 2 },
        "discovery": { "mdns": { "state": "up", "last_success": null, "found": 0 } },
        "libraries": [], "actors": { "total": 7, "restarts": 0, "degraded": [] },
    });
    for (section, fields) in fake.status.as_object().into_iter().flatten() {
        for (key, value) in fields.as_object().into_iter().flatten() {
            status[section][key] = value.clone();
        }
    }
    success(&status)
}

async fn verify(State(fake): State<Shared>) -> Response {
    fake.lock().expect("not poisoned").verified += 1;
    success(&json!({ "state": "reconciling" }))
}

async fn peers(State(fake): State<Shared>) -> Response {
    success(&json!({ "peers": fake.lock().expect("not poisoned").peers }))
}

async fn dial(State(fake): State<Shared>, Json(body): Json<Value>) -> Response {
    fake.lock().expect("not poisoned").dialled.push(body);
    success(&json!({ "endpoint_id": "cd".repeat(32) }))
}

async fn ticket() -> Response {
    success(&json!({ "endpoint_id": "ab".repeat(32), "ticket": "endpointticket" }))
}

async fn events() -> Response {
    let body = "event: hello\nid: b-0\ndata: {\"boot\":\"b\",\"last_id\":0}\n\n: heartbeat\n\n\
        event: peer_connected\nid: b-1\ndata: {\"id\":1,\"at_ms\":0,\"type\":\"peer_connected\",\"name\":\"a\\u001b[2Jb\"}\n\n\
        event: asset_received\nid: b-2\ndata: {\"id\":2,\"at_ms\":1500,\"type\":\"asset_received\",\"size\":7}\n\n";
    ([("content-type", "text/event-stream")], body).into_response()
}

/// Pages by position; `q` matches file names.
async fn list(State(fake): State<Shared>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let fake = fake.lock().expect("not poisoned");
    let number = |name: &str| query.get(name).map_or(Ok(0), |text| text.parse::<usize>());
    let (Ok(start), Ok(limit @ 1..=1000)) = (number("cursor"), number("limit")) else {
        return error(400, "bad limit or cursor");
    };
    let wanted = |asset: &&(Value, Vec<u8>)| {
        query.get("q").is_none_or(|q| asset.0["filename"].as_str().is_some_and(|name| name.contains(q)))
    };
    let all: Vec<&Value> = fake.assets.iter().filter(wanted).map(|(asset, _)| asset).collect();
    let page: Vec<_> = all.iter().skip(start).take(limit).collect();
    let end = start + page.len();
    let next = (end < all.len()).then(|| end.to_string());
    success(&json!({ "assets": page, "next_cursor": next, "total": all.len() }))
}

async fn ingest(State(fake): State<Shared>, mut form: Multipart) -> Response {
    let (mut content, mut meta) = (None, json!({}));
    while let Some(field) = form.next_field().await.expect("a well-formed form") {
        let name = field.name().expect("a name").to_owned();
        let bytes = field.bytes().await.expect("a whole part");
        match name.as_str() {
            "file" => content = Some(bytes.to_vec()),
            "tags" => meta["tags"] = String::from_utf8_lossy(&bytes).split(',').collect(),
            name => meta[name] = String::from_utf8_lossy(&bytes).into(),
        }
    }
    let Some(content) = content else { return error(400, "the form has no part 'file'") };
    if content == b"refuse me" {
        return error(400, "this one is refused");
    }
    let asset = describe(&content, &meta);
    fake.lock().expect("not poisoned").assets.push((asset.clone(), content));
    (StatusCode::CREATED, success(&asset)).into_response()
}

async fn content(State(fake): State<Shared>, Path(hash): Path<String>) -> Response {
    let fake = fake.lock().expect("not poisoned");
    match fake.assets.iter().find(|(asset, _)| asset["hash"] == *hash) {
        Some((_, content)) => content.clone().into_response(),
        None => error(404, &format!("no asset {hash}")),
    }
}

async fn delete(State(fake): State<Shared>, Path(hash): Path<String>) -> Response {
    let mut fake = fake.lock().expect("not poisoned");
    let before = fake.assets.len();
    fake.assets.retain(|(asset, _)| asset["hash"] != *hash);
    if fake.assets.len() == before { error(404, &format!("no asset {hash}")) } else { success(&json!({})) }
}
