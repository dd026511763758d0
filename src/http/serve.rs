//! Serves a router on a listener: bounded in connections (`places`), in how slow a client may be (`patience`), and in the
//! time that a shutdown may take.
//!
//! Connections belong to the future that [`serve`] returns: dropping it closes them all. A client that takes its answer or
//! sends its body more slowly than it may is cut; one that stops sending is cut by the reader of its body as well. When an answer leaves before the
//! whole request has arrived (an upload that is refused, say), the rest is read and thrown away for a moment, so that
//! the client gets to see the answer rather than a reset.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Extension, FromRequestParts};
use axum::http::Request;
use axum::http::header::{CONTENT_TYPE, FORWARDED as FORWARDED_HEADER, HeaderName, VIA};
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::patience::{Patience, Waiting};
use self::places::{ClientPlace, ClientPlaces};
use self::slow::{SlowBody, SlowIo};
use super::envelope::ApiError;

mod patience;
mod places;
mod slow;

pub use self::places::ServeLimits;

/// How long a client may take for the head of a request, and how long an idle connection stays open. Longer than
/// clients and proxies keep theirs (a minute, as a rule), so that they do not send a request into a connection that is
/// just closing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may send nothing of the body of its request. Longer than handlers wait for the next piece, so that theirs
/// is the answer where none comes.
const SENDING_GAP: Duration = Duration::from_mins(2);
/// What is read ahead of a request, and kept of an answer, for each connection; heads of requests are no larger.
const BUFFER_BYTES_MAX: usize = 128 << 10;
/// How long answers that are under way may take once a shutdown has begun.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a request that was answered early is read and thrown away, and for how long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits until it is refused because too many others send a body.
const PLACE_TRIES: u32 = 20;
const PLACE_PAUSE: Duration = Duration::from_millis(50);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Tells endless answers (event streams) that the server is closing. Never fires outside [`serve`].
#[derive(Clone, Debug, Default)]
pub struct Closing(CancellationToken);

impl Closing {
    /// Resolves once the server closes.
    pub async fn closed(&self) {
        self.0.cancelled().await;
    }
}

impl<S: Sync> FromRequestParts<S> for Closing {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Serves until `shutdown` resolves, then lets answers that are under way finish: event streams end at once, the rest
/// has ten seconds.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    serve_within(ServeLimits::default(), listener, router, shutdown).await;
}

/// As [`serve`], for clients that may use so much, or as much less as the system's limit for open files leaves.
pub async fn serve_within(
    limits: ServeLimits,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let closing = Closing::default();
    let router = router.layer(Extension(closing.clone()));
    let places = ClientPlaces::new(limits.within_open_files());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, from) = accept(&listener) => {
                if let Some(place) = places.admit(from.ip(), stream.local_addr().ok().map(|here| here.ip())) {
                    connections.spawn(connection(stream, place, router.clone(), closing.clone()));
                } else {
                    tracing::debug!(%from, "all places are taken, and nobody lets us wait: closed");
                }
            }
        }
    }
    drop(listener);
    closing.0.cancel();
    let drained = timeout(SHUTDOWN_TIMEOUT, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "closing connections that did not finish in time");
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, place: ClientPlace, router: Router, closing: Closing) {
    // Answers are small and someone waits for each.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let cut = place.cut.clone();
    let serving = cut.run_until_cancelled_owned(serve_client(stream, Arc::new(place), router, closing));
    if serving.await.is_none() {
        tracing::debug!("a client that let us wait made room for others");
    }
}

async fn serve_client(stream: TcpStream, place: Arc<ClientPlace>, router: Router, closing: Closing) {
    let stream = SlowIo::new(stream, place.places().min_bytes_per_sec());
    let taking = Arc::clone(&stream.taking.patience);
    let router = TowerToHyperService::new(router);
    // Boxed because hyper hands the socket back only when the futures can be moved.
    let service =
        service_fn(|request: Request<Incoming>| -> BoxFuture<'static, Result<Response, Infallible>> {
            let (router, place, taking) = (router.clone(), Arc::clone(&place), Arc::clone(&taking));
            async move { Ok(answer(request, router, place, taking).await) }.boxed()
        });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut closed = pin!(closing.closed().fuse());
    let mut told = false;
    let ended = poll_fn(|cx| {
        if !told && closed.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // To the end, so that nothing of the last answer stays behind in a buffer.
        Pin::new(&mut connection).poll(cx)
    })
    .await;
    match ended {
        // While shutting down there is no time for that, and idle clients would be waited for.
        Ok(()) if told => {}
        Ok(()) => linger(connection.into_parts().io.into_inner().stream).await,
        Err(error) => tracing::debug!(%error, "a connection ended early"),
    }
}

/// One request's answer, with its place in the table told what it does.
async fn answer(
    request: Request<Incoming>,
    router: TowerToHyperService<Router>,
    place: Arc<ClientPlace>,
    taking: Arc<Patience>,
) -> Response {
    if FORWARDED.iter().any(|name| request.headers().contains_key(name))
        && let Err(refused) = place.comes_through_proxy()
    {
        return ending(refused.into_response(), place);
    }
    let sending = (!request.body().is_end_stream())
        .then(|| Arc::new(Patience::new(place.places().min_bytes_per_sec())));
    if let Err(refused) = begin(&place, sending.as_ref(), &taking).await {
        return ending(refused.into_response(), place);
    }
    let mut too_slow = None;
    let request = match sending {
        None => request.map(Body::new),
        Some(patience) => {
            let slow = CancellationToken::new();
            too_slow = Some(slow.clone());
            let waiting = Waiting::new(patience, SENDING_GAP);
            request
                .map(|body| Body::new(SlowBody { body, waiting, too_slow: slow, place: Arc::clone(&place) }))
        }
    };
    let answered = match router.call(request).await {
        Ok(answered) => answered,
        Err(never) => match never {},
    };
    if too_slow.is_some_and(|slow| slow.is_cancelled()) {
        return ending(ApiError::stalled().into_response(), place);
    }
    let is_events = answered.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM);
    match if is_events { place.begin_events() } else { Ok(()) } {
        Ok(()) => ending(answered, place),
        Err(refused) => ending(refused.into_response(), place),
    }
}

/// Takes note of a request. Where there are too many others, the slow among them show within a moment.
async fn begin(
    place: &ClientPlace,
    sending: Option<&Arc<Patience>>,
    taking: &Arc<Patience>,
) -> Result<(), ApiError> {
    for _ in 0..PLACE_TRIES {
        if place.begin_request(sending.cloned(), Arc::clone(taking)).is_ok() {
            return Ok(());
        }
        sleep(PLACE_PAUSE).await;
    }
    place.begin_request(sending.cloned(), Arc::clone(taking))
}

/// The same answer; its end is noted.
fn ending(response: Response, place: Arc<ClientPlace>) -> Response {
    response.map(|body| Body::new(AnswerBody { body, place }))
}

/// What proxies add to the requests of others.
const FORWARDED: [HeaderName; 3] = [FORWARDED_HEADER, HeaderName::from_static("x-forwarded-for"), VIA];

/// What an answer that never ends says it is.
const EVENT_STREAM: &str = "text/event-stream";

struct AnswerBody {
    body: Body,
    place: Arc<ClientPlace>,
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.place.end_request();
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Our side is closed: reads what the client is still sending. Closing a socket with unread bytes resets it, and a
/// reset can overtake the answer.
async fn linger(mut stream: TcpStream) {
    let discard = async {
        let mut left = LINGER_BYTES;
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        io::Result::Ok(())
    };
    // Whatever happens here, the answer has been given.
    let _ = timeout(LINGER_TIMEOUT, discard).await;
}
