//! LibraryActor: what people do with libraries, one task each.
//!
//! **Owns** nothing that must last: libraries are in the registry on the disk and in [`Libraries`], which outlives the
//! actor. **Talks to** PeersActor (`Candidate`: where members may be). **Bounds**: `TASKS_MAX` operations at once; every one
//! of them is bounded by the registry's limits. **A restart** loses operations under way, each of which is whole or not
//! there: the next incarnation begins by bringing what runs in line with the registry.

use std::sync::Arc;
use std::time::Duration;

use iroh::EndpointId;
use ractor::{Actor, ActorRef, RpcReplyPort};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::error::LibraryError;
use super::filter::FilterSpec;
use super::manage::{Invitation, Manager, Revoke};
use super::registry::DeviceStanding;
use super::report::{
    DeviceReport, Invited, LetGo, LibraryDetail, LibraryReport, LibrarySize, Preview, Released,
    UnreleasedReport,
};
use super::ticket::LibraryId;
use super::{Libraries, Library};
use crate::actor::ActorResult;
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::record::ContentHash;

/// Operations under way; further ones wait.
const TASKS_MAX: usize = 16;
/// How often members are looked for, and news of them written down.
const TICK: Duration = Duration::from_secs(5);
/// How often what was deleted long ago is looked for.
const PURGE: Duration = Duration::from_hours(1);
/// How often it is looked whether what forgotten libraries left is promised to nobody any more.
const LEFT_EVERY: Duration = Duration::from_mins(10);
/// Pause after the registry did not take or give something.
const KEEP_RETRY: Duration = Duration::from_secs(1);
/// The longest pause before it is tried again to read what libraries there are.
const RESTORE_RETRY_MAX: Duration = Duration::from_mins(1);
/// How long an answer waits for what the store held before to be read in; the rest follows.
const FILL_BEFORE_ANSWER: Duration = Duration::from_secs(5);

pub type OperationResult<T> = RpcReplyPort<Result<T, LibraryError>>;

counted!(LibraryMsg);

#[derive(Debug)]
pub enum LibraryMsg {
    /// HTTP API: how much a filter would take in.
    CountMatches { filter: FilterSpec, reply: OperationResult<LibrarySize> },
    /// HTTP API: make a library.
    CreateLibrary {
        name: String,
        filter: FilterSpec,
        /// How old members' lists of revocations may become, in seconds; without it, any age.
        fresh_within_secs: Option<u64>,
        reply: OperationResult<LibraryDetail>,
    },
    /// HTTP API: all libraries, the oldest first.
    ListLibraries { reply: OperationResult<Vec<LibraryDetail>> },
    /// HTTP API: one library with its members and tickets.
    GetLibrary { id: LibraryId, reply: OperationResult<LibraryDetail> },
    /// HTTP API: forget a library.
    DeleteLibrary {
        id: LibraryId,
        /// Whether what came through it goes, too.
        content: bool,
        /// How many assets went, and how many do later.
        reply: OperationResult<LetGo>,
    },
    /// HTTP API: issue a ticket.
    Invite { id: LibraryId, invitation: Invitation, reply: OperationResult<Invited> },
    /// HTTP API: what a ticket would let us into.
    InspectTicket { ticket: String, reply: OperationResult<Preview> },
    /// HTTP API: join a library.
    JoinLibrary {
        ticket: String,
        /// Whether what is here already and matches belongs to it, where the ticket allows to write.
        share_existing: bool,
        /// The library, and whether it is new here.
        reply: OperationResult<(LibraryDetail, bool)>,
    },
    /// HTTP API: take tickets back.
    RevokeTickets {
        id: LibraryId,
        what: Revoke,
        /// How many serials are void now, and the lowest epoch that is not.
        reply: OperationResult<(usize, u64)>,
    },
    /// HTTP API: which contents of a folder are not shared before the user says so, a page of them.
    GetUnreleased {
        id: LibraryId,
        after: Option<ContentHash>,
        limit: usize,
        /// They, how many there are altogether, and behind which the next ones are.
        reply: OperationResult<(Vec<UnreleasedReport>, u64, Option<ContentHash>)>,
    },
    /// HTTP API: share these, or all that wait.
    ReleaseContents { id: LibraryId, hashes: Option<Vec<ContentHash>>, reply: OperationResult<Released> },
    /// HTTP API: let an endpoint in, or shut it out.
    DecideDevice { endpoint_id: EndpointId, standing: DeviceStanding, reply: OperationResult<()> },
    /// HTTP API: the machines that a user decided about, or has to decide about.
    GetDevices { reply: OperationResult<Vec<DeviceReport>> },
    /// HTTP API: hold these whatever the configuration says.
    Pin {
        hashes: Vec<ContentHash>,
        filter: Option<FilterSpec>,
        /// How many pins are new.
        reply: OperationResult<usize>,
    },
    /// HTTP API: take pins back.
    Unpin {
        hashes: Vec<ContentHash>,
        filter: Option<FilterSpec>,
        /// How many there were.
        reply: OperationResult<usize>,
    },
    /// Own tasks: one of them panicked, and why.
    TaskFailed(String),
    /// Timer of the actor itself.
    Tick,
    /// Status: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

#[derive(Clone)]
pub struct LibraryArgs {
    pub manager: Manager,
}

pub struct LibraryState {
    manager: Manager,
    tasks: Tasks<LibraryMsg>,
    permits: Arc<Semaphore>,
    /// When what was deleted long ago was last looked for, by the clock's uptime.
    looked_at: Duration,
}

pub struct LibraryActor;

impl Actor for LibraryActor {
    type Msg = LibraryMsg;
    type State = LibraryState;
    type Arguments = LibraryArgs;

    async fn pre_start(&self, myself: ActorRef<LibraryMsg>, args: LibraryArgs) -> ActorResult<LibraryState> {
        // An incarnation before us may have ended while it held the lock.
        let manager = Manager { busy: Arc::default(), ..args.manager };
        let mut tasks = Tasks::new(myself.clone(), LibraryMsg::TaskFailed);
        tasks.spawn(restore(manager.clone()));
        tasks.spawn(keep_asides(manager.clone()));
        tasks.spawn(keep_shares(manager.clone()));
        tasks.spawn(keep_leaving(manager.clone()));
        myself.send_after(TICK, || LibraryMsg::Tick);
        let (permits, looked_at) = (Arc::new(Semaphore::new(TASKS_MAX)), manager.clock.uptime());
        Ok(LibraryState { manager, tasks, permits, looked_at })
    }

    async fn handle(
        &self,
        myself: ActorRef<LibraryMsg>,
        message: LibraryMsg,
        state: &mut LibraryState,
    ) -> ActorResult {
        let manager = state.manager.clone();
        match message {
            LibraryMsg::CountMatches { filter, reply } => {
                state.run(reply, async move { manager.preview(filter).await });
            }
            LibraryMsg::CreateLibrary { name, filter, fresh_within_secs, reply } => {
                let create = async move {
                    let _one = manager.busy.lock().await;
                    manager.create(name, filter, fresh_within_secs).await
                };
                state.run_and_fill(
                    reply,
                    async { create.await.map(|library| (library, true)) },
                    |detail, _| detail,
                    false,
                );
            }
            LibraryMsg::ListLibraries { reply } => {
                state.run(reply, async move { manager.list().await });
            }
            LibraryMsg::GetLibrary { id, reply } => {
                state.run(reply, async move { manager.show(id).await });
            }
            LibraryMsg::DeleteLibrary { id, content, reply } => {
                state.run(reply, async move {
                    let done = manager.delete(id, content).await?;
                    manager.follow_filters().await;
                    Ok(done)
                });
            }
            LibraryMsg::Invite { id, invitation, reply } => {
                state.run(reply, async move { manager.invite(id, invitation).await });
            }
            LibraryMsg::InspectTicket { ticket, reply } => {
                state.run(reply, async move { manager.inspect(&ticket).await });
            }
            LibraryMsg::JoinLibrary { ticket, share_existing, reply } => {
                let join = async move { manager.join(&ticket, share_existing).await };
                state.run_and_fill(reply, join, |detail, new| (detail, new), true);
            }
            LibraryMsg::RevokeTickets { id, what, reply } => {
                let revoke = async move {
                    manager.revoke(id, what).await.map(|list| (list.serials.len(), list.min_epoch))
                };
                state.run(reply, revoke);
            }
            LibraryMsg::GetUnreleased { id, after, limit, reply } => {
                state.run(reply, async move { manager.unreleased(id, after, limit).await });
            }
            LibraryMsg::ReleaseContents { id, hashes, reply } => {
                state.run(reply, async move { manager.release(id, hashes).await });
            }
            LibraryMsg::DecideDevice { endpoint_id, standing, reply } => {
                state.run(reply, async move { manager.decide(endpoint_id, standing).await });
            }
            LibraryMsg::GetDevices { reply } => {
                state.run(reply, async move { manager.devices().await });
            }
            LibraryMsg::Pin { hashes, filter, reply } => {
                state.run(reply, async move { manager.pin(hashes, filter).await });
            }
            LibraryMsg::Unpin { hashes, filter, reply } => {
                state.run(reply, async move { manager.unpin(hashes, filter).await });
            }
            LibraryMsg::TaskFailed(why) => {
                return Err(format!("a task: {why}").into());
            }
            LibraryMsg::Tick => {
                state.on_tick();
                myself.send_after(TICK, || LibraryMsg::Tick);
            }
            LibraryMsg::GetHealth { reply } => {
                let detail = Some(format!("{} libraries", state.manager.libraries.shared().len()));
                let _ = reply.send(ActorDetail { detail, ..ActorDetail::default() });
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<LibraryMsg>, state: &mut LibraryState) -> ActorResult {
        state.tasks.shutdown().await;
        Ok(())
    }
}

impl LibraryState {
    /// Does something in a task and answers.
    fn run<T: Send + 'static>(
        &mut self,
        reply: OperationResult<T>,
        work: impl Future<Output = Result<T, LibraryError>> + Send + 'static,
    ) {
        let permits = Arc::clone(&self.permits);
        self.tasks.spawn(async move {
            let Ok(_permit) = permits.acquire().await else { return };
            // The caller may have given up while this waited.
            if !reply.is_closed() {
                let done = work.await;
                let _ = reply.send(done);
            }
        });
    }

    /// As [`Self::run`], for what makes a library that is to be filled.
    fn run_and_fill<T: Send + 'static>(
        &mut self,
        reply: OperationResult<T>,
        work: impl Future<Output = Result<(Arc<Library>, bool), LibraryError>> + Send + 'static,
        answer: fn(LibraryDetail, bool) -> T,
        wants_contents: bool,
    ) {
        let (permits, manager) = (Arc::clone(&self.permits), self.manager.clone());
        self.tasks.spawn(async move {
            let Ok(permit) = permits.acquire().await else { return };
            if reply.is_closed() {
                return;
            }
            let (library, new) = match work.await {
                Ok(made) => made,
                Err(error) => return drop(reply.send(Err(error))),
            };
            let mut fill = std::pin::pin!(manager.fill(&library));
            let filled = timeout(FILL_BEFORE_ANSWER, &mut fill).await.is_ok();
            let shown = match library.id() {
                Some(id) => manager.show(id).await,
                None => Err(LibraryError::NoRegistry),
            };
            let _ = reply.send(shown.map(|detail| answer(detail, new)));
            if !filled {
                fill.await;
            }
            drop(permit);
            manager.follow_filters().await;
            if wants_contents {
                manager.want_contents(&library).await;
            }
        });
    }

    fn on_tick(&mut self) {
        self.manager.look_for_members();
        let ran = self.manager.clock.uptime().saturating_sub(self.looked_at);
        if ran >= PURGE && self.manager.libraries.registry().is_some() {
            self.looked_at += ran;
            let manager = self.manager.clone();
            self.tasks.spawn(async move {
                if let Err(error) = manager.purge_asides(ran).await {
                    tracing::warn!(%error, "what was deleted long ago is kept for now");
                }
            });
        }
        let manager = self.manager.clone();
        self.tasks.spawn(async move {
            if let Err(error) = manager.look_for_room().await {
                tracing::warn!(%error, "what there is room for now is not asked for yet");
            }
            if let Err(error) = manager.forget_wishes().await {
                tracing::warn!(%error, "what came is remembered as asked for");
            }
            if let Err(error) = manager.write_news().await {
                tracing::warn!(%error, "which members are in sync is not written down");
            }
            if let Err(error) = manager.renew_lists().await {
                tracing::warn!(%error, "lists of revocations are not signed anew yet");
            }
            match manager.mend_dates().await {
                Ok(mended) => {
                    for library in mended {
                        manager.fill(&library).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "what is put now does not belong to a library yet"),
            }
        });
    }
}

/// What an incarnation begins with.
async fn restore(manager: Manager) {
    let mut restored = manager.restore().await;
    manager.look_for_members();
    let mut pause = KEEP_RETRY;
    let libraries = loop {
        match restored {
            Ok(libraries) => break libraries,
            Err(error) => tracing::warn!(%error, "libraries may not be as they were last left; trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RESTORE_RETRY_MAX);
        restored = manager.restore().await;
    };
    futures::future::join_all(libraries.iter().map(|library| manager.fill(library))).await;
    manager.follow_filters().await;
}

/// Writes down what libraries have otherwise than the store, and has their members told. Never ends.
async fn keep_asides(manager: Manager) {
    loop {
        if let Err(error) = manager.keep_asides().await {
            tracing::warn!(%error, "what libraries have beside the store is not written down; trying again");
            sleep(KEEP_RETRY).await;
        }
        manager.libraries.asides_changed().await;
    }
}

/// Takes what directories had into the libraries of their folders, as entries come and go. Never ends.
async fn keep_shares(manager: Manager) {
    loop {
        if let Err(error) = manager.keep_shares().await {
            tracing::debug!(%error, "files of shared folders wait for the store");
            sleep(KEEP_RETRY).await;
        } else {
            manager.libraries.shares_changed().await;
        }
    }
}

/// Lets go of what forgotten libraries left, once it is promised to nobody any more. Never ends.
async fn keep_leaving(manager: Manager) {
    loop {
        let pause = match manager.let_go_of_left().await {
            Ok(true) => LEFT_EVERY,
            Ok(false) => KEEP_RETRY,
            Err(LibraryError::NoRegistry) => return,
            Err(error) => {
                tracing::debug!(%error, "what forgotten libraries left is let go of later");
                KEEP_RETRY
            }
        };
        sleep(pause).await;
    }
}

/// All that this node has at `now_ms`, for the API: needs no actor.
pub fn reports(libraries: &Libraries, now_ms: u64) -> Vec<LibraryReport> {
    libraries.shared().iter().filter_map(|library| LibraryReport::new(library, now_ms)).collect()
}
