//! FoldersActor: which directories are bound to which folders, and one FolderActor for each.
//!
//! **Owns** the FolderActors. **Talks to** them, and is told by CanServiceActor what is new in the store. **Bounds**: `FOLDERS_MAX`
//! folders. **A restart** loses nothing: bindings are in `agent.db`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::time::sleep;

use super::actor::{CommandReply, FolderMsg};
use super::report::{FolderConflict, FolderPlace, FolderReport, FolderVersion, KnownFolder};
use super::rows::{FolderBinding, FolderBindings};
use super::work::FolderContext;
use super::work::answering::FolderCommand;
use crate::actor::ActorResult;
use crate::actor::mailbox::counted;
use crate::actor::restart::{ExitKind, History};
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::actor::watch::{BEAT, WatchedActor};
use crate::entry::{EntryHash, FolderId};
use crate::record::ContentHash;
use crate::text::naming::meant;
use crate::text::quoted;

mod adding;
mod binding;
mod children;
mod directory;
mod error;
mod orders;

pub use children::{SpawnFolder, spawn_folder};
pub use error::FolderError;
pub(crate) use orders::FolderWishes;
pub use orders::{FolderOrder, UnboundFolder};

pub const FOLDERS_MAX: usize = 64;
/// How long stopping FolderActors are waited for.
const STOP_CHILDREN_WITHIN: Duration = Duration::from_secs(3);
/// Pause before a store that did not say what folders are called is asked again.
const NAMES_RETRY: Duration = Duration::from_secs(2);
/// Longest wait for a FolderActor's report.
const REPORT_WITHIN: Duration = Duration::from_millis(500);

/// What is answered to somebody who asks for something.
pub type FolderReply<T> = RpcReplyPort<Result<T, FolderError>>;

counted!(FoldersMsg);

#[derive(Debug)]
pub enum FoldersMsg {
    /// CanServiceActor: entries that changed, and contents that are here.
    StoreChanged { entries: Arc<[(FolderId, EntryHash)]>, contents: Arc<[ContentHash]> },
    /// HTTP API: bind a directory to a folder.
    AddFolder { order: FolderOrder, reply: FolderReply<FolderReport> },
    /// HTTP API: every folder of this machine.
    ListFolders { reply: RpcReplyPort<Vec<FolderReport>> },
    /// HTTP API: every folder that the network knows.
    ListKnown { reply: FolderReply<Vec<KnownFolder>> },
    /// HTTP API: one folder, by name or id.
    GetFolder { wanted: String, reply: FolderReply<FolderReport> },
    /// HTTP API: forget the binding; files and rows stay.
    RemoveFolder { wanted: String, reply: FolderReply<()> },
    /// HTTP API: ask something of a folder.
    Obey { wanted: String, command: FolderCommand, reply: FolderReply<String> },
    /// HTTP API: the versions of a path, the newest first.
    GetHistory { wanted: String, path: String, reply: FolderReply<Vec<FolderVersion>> },
    /// HTTP API: the copies of what was edited apart.
    ListConflicts { wanted: String, reply: FolderReply<Vec<FolderConflict>> },
    /// HTTP API: at which paths folders have these contents.
    ListPlaces { hashes: Vec<ContentHash>, reply: FolderReply<Vec<FolderPlace>> },
    /// Its task: folders of the configuration that cannot be bound, as of the last try, and those that are.
    Tried { unbound: Vec<UnboundFolder>, bound: Vec<String> },
    /// Its task: the bindings as they are now.
    Bound { bindings: FolderBindings, names: Option<BTreeMap<FolderId, String>> },
    /// Its timer, every [`BEAT`]: see which FolderActors do not come on.
    BeatDue,
    /// Its timer: start that FolderActor again.
    Respawn { folder: FolderId, generation: u64 },
    /// Its tasks: one of them panicked, and why.
    TaskFailed(String),
    /// Status: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

#[derive(Clone)]
pub struct FoldersArgs {
    pub(crate) context: FolderContext,
    pub(crate) configured: Arc<[FolderOrder]>,
    pub(crate) spawn_folder: SpawnFolder,
}

struct BoundFolder {
    binding: FolderBinding,
    actor: Option<ActorRef<FolderMsg>>,
    watched: Option<WatchedActor>,
    /// Messages that found no actor.
    undelivered: u64,
    history: History,
    generation: u64,
    degraded: bool,
}

pub struct FoldersState {
    args: FoldersArgs,
    tasks: Tasks<FoldersMsg>,
    folders: BTreeMap<FolderId, BoundFolder>,
    /// How late it was read which they are.
    bound_at: Option<u64>,
    names: BTreeMap<FolderId, String>,
    awaits_names: bool,
    unbound: Vec<UnboundFolder>,
    /// Ids of folders that the configuration names.
    configured: BTreeSet<String>,
    starts: u64,
}

pub struct FoldersActor;

impl Actor for FoldersActor {
    type Msg = FoldersMsg;
    type State = FoldersState;
    type Arguments = FoldersArgs;

    async fn pre_start(&self, myself: ActorRef<FoldersMsg>, args: FoldersArgs) -> ActorResult<FoldersState> {
        let mut tasks = Tasks::new(myself.clone(), FoldersMsg::TaskFailed);
        myself.send_after(BEAT, || FoldersMsg::BeatDue);
        tasks.spawn(adding::begin(args.clone(), myself));
        Ok(FoldersState {
            args,
            tasks,
            folders: BTreeMap::new(),
            bound_at: None,
            names: BTreeMap::new(),
            awaits_names: false,
            unbound: Vec::new(),
            configured: BTreeSet::new(),
            starts: 0,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<FoldersMsg>,
        message: FoldersMsg,
        state: &mut FoldersState,
    ) -> ActorResult {
        match message {
            FoldersMsg::StoreChanged { entries, contents } => {
                state.on_store_changed(&myself, &entries, &contents);
            }
            FoldersMsg::AddFolder { order, reply } => state.on_add(&myself, order, reply),
            FoldersMsg::ListFolders { reply } => {
                let actors = state.actors();
                let unbound: Vec<FolderReport> = state.unbound().map(UnboundFolder::report).collect();
                state.tasks.spawn(async move {
                    let mut all = binding::reports(actors).await;
                    all.extend(unbound);
                    let _ = reply.send(all);
                });
            }
            FoldersMsg::ListKnown { reply } => {
                let context = state.args.context.clone();
                let bound: Vec<FolderId> = state.folders.keys().copied().collect();
                state.tasks.spawn(async move {
                    let _ = reply.send(binding::known(&context, &bound).await);
                });
            }
            FoldersMsg::GetFolder { wanted, reply } => {
                let found = state.find(&wanted).map(|folder| state.actor_of(folder));
                let unbound = state.unbound().find(|one| one.is(&wanted)).map(UnboundFolder::report);
                state.tasks.spawn(async move {
                    let _ = reply.send(match found {
                        Ok(one) => Ok(binding::report(one).await),
                        Err(error) => unbound.ok_or(error),
                    });
                });
            }
            FoldersMsg::RemoveFolder { wanted, reply } => state.on_remove(&myself, &wanted, reply),
            FoldersMsg::Obey { wanted, command, reply } => state.on_obey(&wanted, command, reply),
            FoldersMsg::GetHistory { wanted, path, reply } => {
                let (context, found) = (state.args.context.clone(), state.find(&wanted));
                state.tasks.spawn(async move {
                    let _ = reply.send(match found {
                        Ok(folder) => binding::history(&context, folder, &path).await,
                        Err(error) => Err(error),
                    });
                });
            }
            FoldersMsg::ListConflicts { wanted, reply } => {
                let (context, found) = (state.args.context.clone(), state.find(&wanted));
                state.tasks.spawn(async move {
                    let _ = reply.send(match found {
                        Ok(folder) => binding::conflicts(&context, folder).await,
                        Err(error) => Err(error),
                    });
                });
            }
            FoldersMsg::ListPlaces { hashes, reply } => {
                let (context, names) = (state.args.context.clone(), state.names.clone());
                state.tasks.spawn(async move {
                    let _ = reply.send(binding::places(&context, hashes, &names).await);
                });
            }
            FoldersMsg::Tried { unbound, bound } => {
                state.unbound = unbound;
                state.configured.extend(bound);
            }
            FoldersMsg::Bound { bindings, names } => state.on_bound(&myself, bindings, names).await,
            FoldersMsg::BeatDue => {
                let watched = state.folders.values_mut().filter_map(|bound| bound.watched.as_mut());
                watched.for_each(WatchedActor::beat);
                myself.send_after(BEAT, || FoldersMsg::BeatDue);
            }
            FoldersMsg::Respawn { folder, generation } => {
                if state.folders.get(&folder).is_some_and(|bound| bound.generation == generation) {
                    state.start(&myself, folder).await;
                }
            }
            FoldersMsg::TaskFailed(why) => return Err(format!("a task of FoldersActor: {why}").into()),
            FoldersMsg::GetHealth { reply } => state.on_get_health(reply),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<FoldersMsg>,
        event: SupervisionEvent,
        state: &mut FoldersState,
    ) -> ActorResult {
        if let Some((who, exit)) = ExitKind::of_event(event, false) {
            state.on_exit(&myself, who.get_id(), exit);
        }
        Ok(())
    }

    async fn post_stop(&self, myself: ActorRef<FoldersMsg>, state: &mut FoldersState) -> ActorResult {
        state.tasks.shutdown().await;
        myself.stop_children_and_wait(Some("shutting down".into()), Some(STOP_CHILDREN_WITHIN)).await;
        Ok(())
    }
}

/// A FolderActor, and what is known of its folder where there is none.
struct ReportSource {
    binding: FolderBinding,
    name: String,
    is_configured: bool,
    actor: Option<ActorRef<FolderMsg>>,
    last_error: Option<String>,
}

impl FoldersState {
    /// By what [`meant`] makes of it, or by directory.
    fn find(&self, wanted: &str) -> Result<FolderId, FolderError> {
        let path = Path::new(wanted);
        let folders = self.folders.iter().map(|(folder, bound)| {
            let name = self.names.get(folder).map_or("", String::as_str);
            (*folder, binding::id_of(*folder), name, bound.binding.path == path)
        });
        let (mut found, others): (Vec<_>, Vec<_>) = folders.partition(|(.., is_there)| *is_there);
        found.extend(meant(wanted, others, |(_, id, name, _)| (id, name)));
        match found.as_slice() {
            [] => Err(match self.unbound().find(|one| one.is(wanted)) {
                Some(one) => FolderError::Failed(one.why.clone()),
                None => FolderError::Unknown(quoted(wanted)),
            }),
            [(folder, ..)] => Ok(*folder),
            several => Err(FolderError::Ambiguous {
                name: quoted(wanted),
                ids: several.iter().map(|(_, id, ..)| id.clone()).collect(),
            }),
        }
    }

    /// Those that nobody has bound meanwhile.
    fn unbound(&self) -> impl Iterator<Item = &UnboundFolder> {
        let is_bound = |path: &Path| self.folders.values().any(|bound| bound.binding.path == path);
        self.unbound.iter().filter(move |one| !is_bound(&one.order.path))
    }

    fn actor_of(&self, folder: FolderId) -> Option<ReportSource> {
        let bound = self.folders.get(&folder)?;
        Some(ReportSource {
            binding: bound.binding.clone(),
            name: self.names.get(&folder).cloned().unwrap_or_default(),
            is_configured: self.configured.contains(&binding::id_of(folder)),
            actor: bound.actor.clone(),
            last_error: bound.history.last_error().map(str::to_owned),
        })
    }

    fn actors(&self) -> Vec<ReportSource> {
        self.folders.keys().filter_map(|folder| self.actor_of(*folder)).collect()
    }

    /// Has what is bound read again and again, until the store says what it is called.
    fn await_names(&mut self, myself: &ActorRef<FoldersMsg>) {
        if std::mem::replace(&mut self.awaits_names, true) {
            return;
        }
        let (context, owner) = (self.args.context.clone(), myself.clone());
        self.tasks.spawn(async move {
            loop {
                sleep(NAMES_RETRY).await;
                match binding::tell(&context, &owner).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, "what folders are called is still not known"),
                }
            }
        });
    }

    fn on_store_changed(
        &mut self,
        myself: &ActorRef<FoldersMsg>,
        entries: &[(FolderId, EntryHash)],
        contents: &Arc<[ContentHash]>,
    ) {
        let is_bound = |folder: &FolderId| self.folders.contains_key(folder);
        if entries.iter().any(|(folder, hash)| is_bound(folder) && *hash == EntryHash::of_definition(*folder))
        {
            // It may be called otherwise.
            let (context, owner) = (self.args.context.clone(), myself.clone());
            self.tasks.spawn(async move {
                if let Err(error) = binding::tell(&context, &owner).await {
                    tracing::debug!(%error, "what folders are called is not known anew");
                }
            });
        }
        for (folder, bound) in &mut self.folders {
            let changed: Vec<EntryHash> =
                entries.iter().filter(|(of, _)| of == folder).map(|(_, hash)| *hash).collect();
            if !changed.is_empty() || !contents.is_empty() {
                // One that is gone looks at everything when it is back.
                let contents = Arc::clone(contents);
                let told = FolderMsg::StoreChanged { entries: changed, contents };
                let sent = bound.actor.as_ref().is_some_and(|actor| actor.send_message(told).is_ok());
                bound.undelivered += u64::from(!sent);
            }
        }
    }

    fn on_add(
        &mut self,
        myself: &ActorRef<FoldersMsg>,
        order: FolderOrder,
        reply: FolderReply<FolderReport>,
    ) {
        let (context, owner) = (self.args.context.clone(), myself.clone());
        self.tasks.spawn(async move {
            let added = adding::add(&context, &order, &owner).await;
            // Who asked was told that it goes on.
            if let (Err(why), true) = (&added, reply.is_closed()) {
                tracing::warn!(path = %order.path.display(), %why, "a folder is not bound that somebody wanted");
            }
            let _ = reply.send(added);
        });
    }

    fn on_obey(&mut self, wanted: &str, command: FolderCommand, reply: FolderReply<String>) {
        let folder = match self.find(wanted) {
            Ok(folder) => folder,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        // One that is started again begins with what was asked for last.
        if let Some(bound) = self.folders.get_mut(&folder) {
            match command {
                FolderCommand::Pause => bound.binding.settings.paused = true,
                FolderCommand::Resume => bound.binding.settings.paused = false,
                FolderCommand::Confirm
                | FolderCommand::Revert
                | FolderCommand::Keep(_)
                | FolderCommand::Trash(_)
                | FolderCommand::Restore { .. }
                | FolderCommand::Look => {}
            }
        }
        let Some(actor) = self.folders.get(&folder).and_then(|bound| bound.actor.clone()) else {
            let _ =
                reply.send(Err(FolderError::Failed("the folder is being started again; try again".into())));
            return;
        };
        self.tasks.spawn(async move {
            let within = Some(binding::OBEY_WITHIN);
            let obey = |reply: CommandReply| FolderMsg::Obey { command, reply };
            let said = match actor.call(obey, within).await {
                Ok(ractor::rpc::CallResult::Success(Ok(said))) => Ok(said),
                Ok(ractor::rpc::CallResult::Success(Err(why))) => Err(FolderError::Failed(why)),
                Ok(_) | Err(_) => Err(FolderError::Failed(
                    "the folder is busy, and does it when it is done with what it does; `folder status` shows that".into(),
                )),
            };
            let _ = reply.send(said);
        });
    }

    fn on_remove(&mut self, myself: &ActorRef<FoldersMsg>, wanted: &str, reply: FolderReply<()>) {
        let folder = match self.find(wanted) {
            Ok(folder) => folder,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let Some(bound) = self.folders.get(&folder) else { return };
        let marker = bound.binding.marker;
        let (context, owner) = (self.args.context.clone(), myself.clone());
        self.tasks.spawn(async move {
            let _ = reply.send(binding::remove(&context, marker, &owner).await);
        });
    }
}
