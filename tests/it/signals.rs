//! SignalActor, driven by messages and by a stream of signals that the test feeds. The binary's own tests send real ones.

use std::path::{Path, PathBuf};

use can_sync::testing::actor::policy::ChildKind::{CanService, Peers};
use can_sync::testing::actor::status::{ASK_CHILD_LIMIT, ActorDetail, ActorState, ActorStatus, ask};
use can_sync::testing::actor::supervisor::{RootMsg, StopReason};
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::discovery::channel::Channels;
use can_sync::testing::node::dump::{render, render_channels};
use can_sync::testing::node::signals::{SignalActor, SignalArgs, SignalKind, SignalMsg, Signals};
use can_sync::testing::peer::messages::PeersMsg;
use ractor::{Actor, ActorRef};
use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::faulty::FaultyMsg;
use crate::support::nodes::eventually;
use crate::support::probe::Probe;
use crate::support::tree::Tree;

#[tokio::test(start_paused = true)]
async fn sigusr1_writes_the_tree() {
    let root = Probe::answering(answer_with(tree_of("boom\n\u{1b}[2J"))).await;
    let node = Node::start(root.service(), down("PeersActor")).await;
    node.receive(SignalKind::Dump);
    let path = node.status_file();
    assert_eq!(node.wait_for_dump().await, format!("last dump in {}", path.display()));
    let expected = with_channels(&render(&tree_of("boom\n\u{1b}[2J")));
    assert_eq!(read(&path), expected);
    assert_eq!(node.files(), ["status.txt"], "no temporary file is left");

    // A later dump replaces the file; until then, each request starts one unless one is under way.
    std::fs::write(&path, "old").unwrap();
    eventually("another dump", async || {
        node.receive(SignalKind::Dump);
        let text = read(&path);
        if text == expected { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_dump_shows_a_hung_actor_of_a_real_tree() {
    let tree = Tree::start(&[CanService, Peers]).await;
    tree.send(Peers, FaultyMsg::Hang);
    let node = Node::start(ServiceRef::fixed(tree.root.clone()), down("PeersActor")).await;
    node.receive(SignalKind::Dump);
    node.wait_for_dump().await;
    let text = read(&node.status_file());
    let line = |kind| text.lines().find(|l| l.trim_start().starts_with(kind)).unwrap();
    assert!(line("PeersActor").contains("unresponsive"), "{text}");
    assert!(line("CanServiceActor").contains("running"), "{text}");
    let tree = text.split("\n\n").next().unwrap();
    assert_eq!(tree.lines().count(), 4, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_root_that_does_not_answer_is_said_so_and_holds_up_nothing() {
    // Records the question with its reply port, so that it is neither answered nor refused.
    let mut root = Probe::spawn().await;
    let node = Node::start(root.service(), down("PeersActor")).await;
    node.receive(SignalKind::Dump);
    root.wait_for("the question", |seen| matches!(seen, [RootMsg::GetTree { .. }])).await;
    // While that is open: another dump is not started, a shutdown goes through at once.
    node.receive(SignalKind::Dump);
    node.receive(SignalKind::Terminate);
    root.wait_for("the shutdown", |seen| {
        matches!(seen, [RootMsg::GetTree { .. }, RootMsg::Shutdown { reason: StopReason::Terminate }])
    })
    .await;
    assert!(node.files().is_empty(), "the dump is still open");
    node.wait_for_dump().await;
    let expected = with_channels("no status within 1s: the fixed actor did not answer in time\n");
    assert_eq!(read(&node.status_file()), expected);
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_gone_is_said_so() {
    let node = Node::start(down("root supervisor"), down("PeersActor")).await;
    node.receive(SignalKind::Terminate);
    node.receive(SignalKind::Dump);
    node.wait_for_dump().await;
    let expected = with_channels("no status within 1s: the root supervisor is not running at the moment\n");
    assert_eq!(read(&node.status_file()), expected);
}

#[tokio::test(start_paused = true)]
async fn a_dump_that_cannot_be_written_changes_nothing() {
    let root = Probe::answering(answer_with(tree_of("x"))).await;
    let node = Node::start(root.service(), down("PeersActor")).await;
    std::fs::remove_dir(node.directory.path()).unwrap();
    node.receive(SignalKind::Dump);
    let detail = node.wait_for_dump().await;
    assert!(detail.starts_with("last dump failed: cannot write "), "{detail}");
    assert!(detail.contains("status.txt: No such file"), "{detail}");
}

#[tokio::test(start_paused = true)]
async fn sighup_dials_and_a_peers_actor_that_is_down_is_no_failure() {
    let mut peers = Probe::spawn().await;
    let node = Node::start(down("root supervisor"), peers.service()).await;
    node.receive(SignalKind::Hangup);
    peers.wait_for("the dial", |seen| matches!(seen, [PeersMsg::DialNow])).await;

    let node = Node::start(down("root supervisor"), down("PeersActor")).await;
    node.receive(SignalKind::Hangup);
    status(&node.actor).await;
}

#[tokio::test(start_paused = true)]
async fn each_signal_to_stop_is_passed_on() {
    let mut root = Probe::spawn().await;
    let node = Node::start(root.service(), down("PeersActor")).await;
    for kind in [SignalKind::Interrupt, SignalKind::Terminate, SignalKind::Interrupt] {
        node.receive(kind);
    }
    root.wait_for("the three requests", |seen| {
        matches!(
            seen,
            [
                RootMsg::Shutdown { reason: StopReason::Interrupt },
                RootMsg::Shutdown { reason: StopReason::Terminate },
                RootMsg::Shutdown { reason: StopReason::Interrupt },
            ]
        )
    })
    .await;
}

/// Signals arrive at any moment of a restart: before the kill, in the mailbox, while there is no incarnation. Each is
/// acted on exactly once.
#[tokio::test(start_paused = true)]
async fn a_restart_loses_no_signal_and_repeats_none() {
    let mut peers = Probe::spawn().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1_000);
    let directory = tempfile::tempdir().unwrap();
    let mut args = args(down("root supervisor"), peers.service(), directory.path());
    args.signals = Signals::from_stream(ReceiverStream::new(receiver));
    let mut sent = 0;
    for round in 0..300 {
        let (actor, ended) = Actor::spawn(None, SignalActor, args.clone()).await.unwrap();
        for _ in 0..round % 3 {
            tokio::task::yield_now().await;
        }
        for _ in 0..round % 4 {
            sender.send(SignalKind::Hangup).await.unwrap();
            sent += 1;
        }
        for _ in 0..round % 5 {
            tokio::task::yield_now().await;
        }
        actor.get_cell().kill();
        // A supervisor starts the next one when it is told of the end, which may be before the old tasks are gone.
        if round % 2 == 0 {
            ended.await.unwrap();
        }
    }
    let (last, _) = Actor::spawn(None, SignalActor, args).await.unwrap();
    sender.send(SignalKind::Hangup).await.unwrap();
    sent += 1;
    peers.wait_for("every signal", |seen| seen.len() >= sent).await;
    let idle = ActorDetail { queued: Some(0), detail: None, children: Vec::new() };
    assert_eq!(status(&last).await, idle);
    assert_eq!(peers.look(<[PeersMsg]>::len), sent);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_signals_is_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let mut args = args(down("root supervisor"), down("PeersActor"), directory.path());
    args.signals = Signals::from_stream(tokio_stream::empty());
    let (actor, _) = Actor::spawn(None, SignalActor, args).await.unwrap();
    assert_eq!(wait_for_detail(&actor).await, "no more signals arrive");
    assert_eq!(wait_for_detail(&actor).await, "no more signals arrive", "and that stays so");
}

/// A SignalActor with its data directory.
struct Node {
    actor: ActorRef<SignalMsg>,
    directory: TempDir,
}

impl Node {
    async fn start(root: ServiceRef<RootMsg>, peers: ServiceRef<PeersMsg>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let args = args(root, peers, directory.path());
        let (actor, _) = Actor::spawn(None, SignalActor, args).await.expect("SignalActor starts");
        Self { actor, directory }
    }

    fn receive(&self, kind: SignalKind) {
        self.actor.send_message(SignalMsg::SignalReceived(kind)).expect("SignalActor runs");
    }

    fn status_file(&self) -> PathBuf {
        self.directory.path().join("status.txt")
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("the directory is there");
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// Waits until a dump is written or failed, and gives what the actor says of it.
    async fn wait_for_dump(&self) -> String {
        wait_for_detail(&self.actor).await
    }
}

async fn wait_for_detail(actor: &ActorRef<SignalMsg>) -> String {
    let said = async || status(actor).await.detail.ok_or_else(|| "nothing".to_owned());
    eventually("something that the actor has to say", said).await
}

async fn status(actor: &ActorRef<SignalMsg>) -> ActorDetail {
    let detail = ask(actor, |reply| SignalMsg::GetHealth { reply }, ASK_CHILD_LIMIT).await;
    detail.expect("SignalActor always answers")
}

/// Arguments with signals that never arrive.
/// A dump whose discovery channels are all off.
fn with_channels(tree: &str) -> String {
    format!("{tree}\n{}", render_channels(&Channels::default().reports(), 0))
}

fn args(root: ServiceRef<RootMsg>, peers: ServiceRef<PeersMsg>, data_dir: &Path) -> SignalArgs {
    let signals = Signals::from_stream(futures::stream::pending());
    SignalArgs { signals, root, peers, channels: Channels::default(), data_dir: data_dir.to_owned() }
}

/// A reference to a service that does not run.
fn down<M: ractor::Message>(name: &'static str) -> ServiceRef<M> {
    ServiceCell::new(name).service_ref()
}

/// Answers the question for the tree; everything else is recorded.
fn answer_with(tree: ActorStatus) -> impl FnMut(RootMsg) -> Option<RootMsg> {
    move |message| match message {
        RootMsg::GetTree { reply } => {
            reply.send(tree.clone()).expect("SignalActor waits for it");
            None
        }
        other @ (RootMsg::Shutdown { .. }
        | RootMsg::BeatDue
        | RootMsg::Respawn { .. }
        | RootMsg::Spawned { .. }
        | RootMsg::Surveyed { .. }
        | RootMsg::StageStopped { .. }) => Some(other),
    }
}

fn tree_of(last_error: &str) -> ActorStatus {
    ActorStatus {
        id: Some("0.1".to_owned()),
        uptime_secs: 1,
        last_error: Some(last_error.to_owned()),
        ..ActorStatus::new("RootSupervisor", ActorState::Running)
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the dump is there")
}
