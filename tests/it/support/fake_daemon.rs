//! A stand-in for a node that misbehaves: answers as the agent's API and its CAN Service would, were they ill. What a
//! real one does is tested with a real one.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::oneshot;

const BASE: &str = "/api/v1/can/0";

/// What it answers from; tests change it.
#[derive(Default)]
pub(crate) struct Fake {
    /// Laid over the usual `/status`.
    pub(crate) status: Value,
    pub(crate) peers: Vec<Value>,
    /// The content of every asset.
    pub(crate) content: Vec<u8>,
    /// Refuses everything with this status and error.
    pub(crate) refuse: Option<(u16, &'static str)>,
    /// Answers without the envelope, as a foreign program would.
    pub(crate) foreign: bool,
    /// Its service knows no parameters of reading, as an older one.
    pub(crate) is_older: bool,
}

type Shared = Arc<Mutex<Fake>>;

/// A running stand-in; stops when dropped.
pub(crate) struct FakeDaemon {
    pub(crate) url: String,
    fake: Shared,
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
        change(&mut self.fake.lock());
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

fn router(addr: SocketAddr, fake: Shared) -> Router {
    Router::new()
        .route("/status", get(move |state| std::future::ready(status(addr, state))))
        .route("/verify", post(|| std::future::ready(success(&json!({ "state": "reconciling" })))))
        .route("/peers", get(|state| std::future::ready(peers(state))))
        .route("/store/asset/{hash}", get(|state, query| std::future::ready(content(state, query))))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&fake), guard))
        .with_state(fake)
}

fn success(data: &Value) -> Response {
    Json(json!({ "status": "success", "data": data })).into_response()
}

async fn guard(State(fake): State<Shared>, request: Request, next: Next) -> Response {
    let refusal = {
        let fake = fake.lock();
        match fake.refuse {
            _ if fake.foreign => Some("<html>It works!</html>".into_response()),
            Some((status, why)) => {
                let status = StatusCode::from_u16(status).expect("a status");
                let hint = "try something else";
                let body = json!({ "status": "error", "error": why, "code": "some_code", "hint": hint });
                Some((status, Json(body)).into_response())
            }
            None => None,
        }
    };
    match refusal {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

fn status(addr: SocketAddr, State(fake): State<Shared>) -> Response {
    let mut status = json!({
        "endpoint_id": "ab".repeat(32), "name": "desk", "version": "0.1.0", "uptime_secs": 61,
        "store": { "mode": "embedded", "url": format!("http://{addr}{BASE}"), "healthy": true },
        "sync": { "state": "syncing", "summary": "syncing: 3 assets (2.0 KiB) to receive", "missing": 3, "missing_bytes": 2048, "rate": 0.0 },
        "peers": { "connected": 1, "known": 2 },
    });
    let fake = fake.lock();
    for (section, fields) in fake.status.as_object().into_iter().flatten() {
        for (key, value) in fields.as_object().into_iter().flatten() {
            status[section][key] = value.clone();
        }
    }
    success(&status)
}

fn peers(State(fake): State<Shared>) -> Response {
    success(&json!({ "peers": fake.lock().peers }))
}

fn content(State(fake): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let fake = fake.lock();
    if fake.is_older && query.is_some() {
        let body = json!({
            "status": "error", "error": "there is no parameter 'local'", "code": "unknown_parameter",
            "hint": "this request takes no parameters"
        });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    fake.content.clone().into_response()
}
