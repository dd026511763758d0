//! SignalActor: what the process does on Unix signals.
//!
//! SIGUSR1 writes the actors' tree to stderr and to `status.txt`; SIGHUP makes PeersActor look for peers and dial afresh; SIGTERM and
//! SIGINT stop the node in order, a second one at once.
//!
//! **Owns** a task that listens for signals, and at most one task that writes a dump. **Talks to** RootSupervisor and
//! PeersActor. **Bounds**: it never waits for anybody in a handler, so it works while other actors hang.
//! **A restart loses** nothing: [`Signals`] is made at boot and outlives the actor, and keeps what has arrived and not
//! been taken up yet.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use parking_lot::Mutex;
use ractor::{Actor, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::signal::unix::{SignalKind as UnixSignal, signal};
use tokio::task::JoinSet;

use super::dump::{render, render_channels};
use crate::actor::ActorResult;
use crate::actor::ServiceRef;
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::actor::supervisor::{RootMsg, StopReason};
use crate::clock::now_ms;
use crate::discovery::channel::Channels;
use crate::peer::messages::PeersMsg;
use crate::stderr;

/// How long RootSupervisor may take to give the tree: it waits half of this for its children.
const ROOT_LIMIT: Duration = Duration::from_secs(1);

/// Signals kept until an incarnation takes them up. The system merges signals that nobody has fetched, so more than a
/// few mean that somebody is playing.
const SIGNALS_KEPT: usize = 16;

/// Name of the dump in the data directory.
const STATUS_FILE: &str = "status.txt";

/// The signals that mean something to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalKind {
    /// SIGUSR1: tell how the actors are.
    Dump,
    /// SIGHUP: the network may have changed.
    Hangup,
    Interrupt,
    Terminate,
}

impl fmt::Display for SignalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dump => "SIGUSR1",
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The process's signals, from the moment of [`Signals::install`]. Cheap to clone.
#[derive(Clone)]
pub struct Signals {
    /// Locked by whichever incarnation listens.
    stream: Arc<tokio::sync::Mutex<BoxStream<'static, SignalKind>>>,
    /// Arrived, and not taken up by an incarnation yet.
    pending: Arc<Mutex<VecDeque<SignalKind>>>,
}

impl Signals {
    /// Takes over the signals; from now on they do not end the process. Needs a runtime.
    pub fn install() -> std::io::Result<Self> {
        let kinds = [
            (SignalKind::Dump, UnixSignal::user_defined1()),
            (SignalKind::Hangup, UnixSignal::hangup()),
            (SignalKind::Interrupt, UnixSignal::interrupt()),
            (SignalKind::Terminate, UnixSignal::terminate()),
        ];
        let mut sources = Vec::with_capacity(kinds.len());
        for (kind, unix) in kinds {
            sources.push((kind, signal(unix)?));
        }
        let arrivals = futures::stream::poll_fn(move |cx| {
            for (kind, source) in &mut sources {
                if let Poll::Ready(Some(())) = source.poll_recv(cx) {
                    return Poll::Ready(Some(*kind));
                }
            }
            Poll::Pending
        });
        Ok(Self::from_stream(arrivals))
    }

    /// Signals from elsewhere: for tests and for programs that embed a node.
    pub fn from_stream(arrivals: impl Stream<Item = SignalKind> + Send + 'static) -> Self {
        Self { stream: Arc::new(tokio::sync::Mutex::new(arrivals.boxed())), pending: Arc::default() }
    }

    /// Passes on what an earlier incarnation left, then what arrives, until `actor` is gone.
    async fn pass_on(self, actor: ActorRef<SignalMsg>) {
        let mut stream = self.stream.lock().await;
        let left: Vec<SignalKind> = self.pending().iter().copied().collect();
        for kind in left {
            if actor.send_message(SignalMsg::SignalReceived(kind)).is_err() {
                return;
            }
        }
        while let Some(kind) = stream.next().await {
            {
                let mut pending = self.pending();
                if pending.len() == SIGNALS_KEPT {
                    tracing::warn!(%kind, "too many signals at once; this one is ignored");
                    continue;
                }
                pending.push_back(kind);
            }
            if actor.send_message(SignalMsg::SignalReceived(kind)).is_err() {
                return;
            }
        }
    }

    /// Takes note that an incarnation begins to act on `kind`. Before it acts, not after: a signal whose handling
    /// fails must not come back for ever.
    fn taken_up(&self, kind: SignalKind) {
        let mut pending = self.pending();
        if let Some(position) = pending.iter().position(|k| *k == kind) {
            pending.remove(position);
        }
    }

    fn pending(&self) -> parking_lot::MutexGuard<'_, VecDeque<SignalKind>> {
        self.pending.lock()
    }
}

counted!(SignalMsg);

#[derive(Debug)]
pub enum SignalMsg {
    /// Its listening task: a signal arrived.
    SignalReceived(SignalKind),
    /// Its writing task: the dump is written, or why it is not.
    DumpWritten(Result<PathBuf, String>),
    /// RootSupervisor: how are you?
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

#[derive(Clone)]
pub struct SignalArgs {
    pub signals: Signals,
    /// The supervisor, asked for the tree and for a shutdown.
    pub root: ServiceRef<RootMsg>,
    /// Told that the network may have changed.
    pub peers: ServiceRef<PeersMsg>,
    /// How the ways of finding peers do, for the dump.
    pub channels: Channels,
    pub data_dir: PathBuf,
}

pub struct SignalState {
    args: SignalArgs,
    last_dump: Option<String>,
    listening: JoinSet<()>,
    writing: JoinSet<()>,
}

pub struct SignalActor;

impl Actor for SignalActor {
    type Msg = SignalMsg;
    type State = SignalState;
    type Arguments = SignalArgs;

    async fn pre_start(&self, myself: ActorRef<SignalMsg>, args: SignalArgs) -> ActorResult<SignalState> {
        // The set ends the task with the actor, which frees the stream for the next incarnation.
        let mut listening = JoinSet::new();
        listening.spawn(args.signals.clone().pass_on(myself));
        Ok(SignalState { args, last_dump: None, listening, writing: JoinSet::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<SignalMsg>,
        message: SignalMsg,
        state: &mut SignalState,
    ) -> ActorResult {
        match message {
            SignalMsg::SignalReceived(kind) => state.on_signal_received(myself, kind),
            SignalMsg::DumpWritten(outcome) => state.on_dump_written(outcome),
            SignalMsg::GetHealth { reply } => state.on_get_status(reply),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<SignalMsg>,
        _event: SupervisionEvent,
        _state: &mut SignalState,
    ) -> ActorResult {
        Ok(())
    }
}

impl SignalState {
    fn on_signal_received(&mut self, myself: ActorRef<SignalMsg>, kind: SignalKind) {
        self.args.signals.taken_up(kind);
        tracing::info!(signal = %kind, "received");
        match kind {
            SignalKind::Dump => self.dump(myself),
            SignalKind::Hangup => match self.args.peers.cast(PeersMsg::DialNow) {
                Ok(()) => tracing::info!("peers are dialled afresh"),
                Err(error) => {
                    tracing::warn!(%error, "peers cannot be dialled afresh; send SIGHUP again later");
                }
            },
            SignalKind::Interrupt => self.shut_down(StopReason::Interrupt),
            SignalKind::Terminate => self.shut_down(StopReason::Terminate),
        }
    }

    fn shut_down(&self, reason: StopReason) {
        if let Err(error) = self.args.root.cast(RootMsg::Shutdown { reason }) {
            tracing::error!(%error, "the shutdown could not be asked for");
        }
    }

    fn dump(&mut self, myself: ActorRef<SignalMsg>) {
        while self.writing.try_join_next().is_some() {}
        if !self.writing.is_empty() {
            tracing::info!("a status dump is being written already");
            return;
        }
        let (root, path) = (self.args.root.clone(), self.args.data_dir.join(STATUS_FILE));
        let channels = self.args.channels.clone();
        self.writing.spawn(async move {
            let mut text = match root.call(|reply| RootMsg::GetTree { reply }, ROOT_LIMIT).await {
                Ok(tree) => render(&tree),
                Err(error) => format!("no status within {ROOT_LIMIT:?}: {error}\n"),
            };
            text.push('\n');
            text.push_str(&render_channels(&channels.reports(), now_ms()));
            stderr::write(text.as_bytes());
            // The disk may be slow.
            let written = tokio::task::spawn_blocking(move || write_file(&path, &text).map(|()| path));
            let outcome = written.await.unwrap_or_else(|error| Err(error.to_string()));
            // When it fails, this actor is gone; the file is in place.
            let _ = myself.send_message(SignalMsg::DumpWritten(outcome));
        });
    }

    fn on_dump_written(&mut self, outcome: Result<PathBuf, String>) {
        self.last_dump = Some(match outcome {
            Ok(path) => format!("last dump in {}", path.display()),
            Err(error) => {
                tracing::warn!(error, "the status dump went to stderr only");
                format!("last dump failed: {error}")
            }
        });
    }

    fn on_get_status(&mut self, reply: RpcReplyPort<ActorDetail>) {
        if reply.is_closed() {
            return;
        }
        let queued = u64::try_from(self.args.signals.pending().len()).ok();
        let detail = if self.listening.try_join_next().is_some() || self.listening.is_empty() {
            Some("no more signals arrive".to_owned())
        } else {
            self.last_dump.clone()
        };
        // A caller that stopped waiting in this moment does not miss the answer.
        let _ = reply.send(ActorDetail { queued, detail, children: Vec::new() });
    }
}

/// Replaces the file in one step, so that a reader never sees half a dump.
fn write_file(path: &Path, text: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
