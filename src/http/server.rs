//! An HTTP server as a task that an actor owns: it tells of its end, and it is stopped within a limit.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listener::SharedListener;
use super::serve::serve_within;

/// A running server with its connections; dropping it closes them.
#[derive(Debug)]
pub struct ServerTask {
    task: JoinSet<()>,
    stop: CancellationToken,
    bound: SocketAddr,
}

impl ServerTask {
    /// Serves what `router` makes of the address in use. `ended` is told why the server ended, unless it was stopped.
    pub fn start(
        listener: SharedListener,
        router: impl FnOnce(SocketAddr) -> Router + Send + 'static,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        let bound = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let run = async {
                let (limits, listener) = (listener.limits, listener.duplicate()?);
                serve_within(limits, listener, router(bound), stopped.clone().cancelled_owned()).await;
                Ok::<(), io::Error>(())
            };
            let reason = match AssertUnwindSafe(run).catch_unwind().await {
                Ok(Ok(())) => String::from("it stopped by itself"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => String::from("it panicked"),
            };
            if !stopped.is_cancelled() {
                ended(format!("the HTTP server on {bound} ended: {reason}"));
            }
        });
        Ok(Self { task, stop, bound })
    }

    /// The address in use.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Takes no new connections, gives requests under way until `limit`, and cuts the rest.
    pub async fn stop(&mut self, limit: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(limit, self.task.join_next()).await.is_err() {
            tracing::info!(addr = %self.bound, "closing HTTP connections that did not finish in time");
            self.task.shutdown().await;
        }
    }
}
