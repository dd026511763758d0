//! The FolderActors: which there are, and what becomes of one that fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorRef, RpcReplyPort, SpawnErr};

use super::{BoundFolder, FoldersMsg, FoldersState, binding};
use crate::actor::policy::{ChildKind, policy};
use crate::actor::restart::{ExitKind, History, RestartDecision, decide};
use crate::actor::status::{ActorDetail, AskedChild, ask_all};
use crate::actor::watch::WatchedActor;
use crate::entry::FolderId;
use crate::events::NodeEvent;
use crate::folder::actor::{FolderActor, FolderArgs, FolderMsg};
use crate::folder::rows::{FolderBinding, FolderBindings};

/// How a FolderActor is started; tests put another one in its place.
pub type SpawnFolder = Arc<
    dyn Fn(FolderArgs, ActorCell) -> BoxFuture<'static, Result<ActorRef<FolderMsg>, SpawnErr>> + Send + Sync,
>;

#[must_use]
pub fn spawn_folder() -> SpawnFolder {
    Arc::new(|args, supervisor| {
        Box::pin(async move {
            let (actor, _) = Actor::spawn_linked(None, FolderActor, args, supervisor).await?;
            Ok(actor)
        })
    })
}

impl FoldersState {
    /// Starts those that are new, and stops those that are gone; those that are bound in another way are both.
    pub(super) async fn on_bound(
        &mut self,
        myself: &ActorRef<FoldersMsg>,
        bindings: FolderBindings,
        names: Option<BTreeMap<FolderId, String>>,
    ) {
        if let Some(names) = names {
            self.names.extend(names);
            self.awaits_names = false;
        } else {
            self.await_names(myself);
        }
        // What was read earlier may come later.
        if self.bound_at.is_some_and(|at| at > bindings.at) {
            return;
        }
        self.bound_at = Some(bindings.at);
        let wanted: BTreeMap<FolderId, FolderBinding> = bindings
            .all
            .into_iter()
            .filter(|binding| !binding.settings.removed)
            .map(|binding| (binding.marker.folder, binding))
            .collect();
        let is_wanted = |folder: &FolderId, bound: &BoundFolder| {
            wanted.get(folder).is_some_and(|binding| is_bound_so(binding, &bound.binding))
        };
        let gone = self.folders.iter().filter(|(folder, bound)| !is_wanted(folder, bound));
        let gone: Vec<FolderId> = gone.map(|(folder, _)| *folder).collect();
        for folder in gone {
            if let Some(BoundFolder { actor: Some(actor), .. }) = self.folders.remove(&folder) {
                actor.stop(Some("the folder was removed".into()));
            }
        }
        for (folder, binding) in wanted {
            if let Some(bound) = self.folders.get_mut(&folder) {
                bound.binding = binding;
                continue;
            }
            let history = History::default();
            let bound = BoundFolder {
                binding,
                actor: None,
                watched: None,
                undelivered: 0,
                history,
                generation: 0,
                degraded: false,
            };
            self.folders.insert(folder, bound);
            self.start(myself, folder).await;
        }
    }

    pub(super) async fn start(&mut self, myself: &ActorRef<FoldersMsg>, folder: FolderId) {
        // Two that knew different things of one directory would undo what the other does.
        let Some(bound) = self.folders.get_mut(&folder).filter(|bound| bound.actor.is_none()) else { return };
        let args = FolderArgs { context: self.args.context.clone(), binding: bound.binding.clone() };
        self.starts += 1;
        bound.generation = self.starts;
        match (self.args.spawn_folder)(args, myself.get_cell()).await {
            Ok(actor) => {
                bound.watched = Some(WatchedActor::new(actor.get_cell()));
                bound.actor = Some(actor);
                bound.degraded = false;
                bound.history.started(Instant::now());
            }
            Err(error) => {
                let exit = ExitKind::of_spawn_error(&error);
                self.failed(myself, folder, exit);
            }
        }
    }

    pub(super) fn on_exit(&mut self, myself: &ActorRef<FoldersMsg>, who: ActorId, exit: ExitKind) {
        let is_it = |bound: &BoundFolder| bound.actor.as_ref().is_some_and(|actor| actor.get_id() == who);
        let folder = self.folders.iter().find(|(_, bound)| is_it(bound)).map(|(folder, _)| *folder);
        if let Some(folder) = folder {
            self.failed(myself, folder, exit);
        }
    }

    fn failed(&mut self, myself: &ActorRef<FoldersMsg>, folder: FolderId, exit: ExitKind) {
        let Some(bound) = self.folders.get_mut(&folder) else { return };
        bound.actor = None;
        let exit = match bound.watched.take() {
            Some(watched) => watched.explain(exit),
            None => exit,
        };
        let decision =
            decide(policy(ChildKind::Folder), &exit, &mut bound.history, Instant::now(), rand::random());
        let (reason, generation) = (exit.reason(), bound.generation);
        let after = match decision {
            RestartDecision::LetGo => return,
            RestartDecision::Respawn { after } => after,
            RestartDecision::Degrade { retry_after, .. } => {
                bound.degraded = true;
                retry_after
            }
            RestartDecision::BackOff { for_, .. } => for_,
            RestartDecision::Escalate { .. } => policy(ChildKind::Folder).backoff.max,
        };
        tracing::warn!(path = %bound.binding.path.display(), reason, ?after, "a FolderActor failed and is started again");
        let (kind, restarts) = (ChildKind::Folder.to_string(), bound.history.restarts());
        let event = NodeEvent::ActorRestarted { kind, reason, restarts };
        self.args.context.events.publish(self.args.context.clock.own_ms(), event);
        myself.send_after(after, move || FoldersMsg::Respawn { folder, generation });
    }

    pub(super) fn on_get_health(&mut self, reply: RpcReplyPort<ActorDetail>) {
        if reply.is_closed() {
            return;
        }
        let asked: Vec<_> = self
            .folders
            .iter()
            .map(|(folder, bound)| {
                let label = self.names.get(folder).cloned().unwrap_or_else(|| binding::id_of(*folder));
                AskedChild {
                    kind: ChildKind::Folder,
                    label,
                    actor: bound.actor.clone(),
                    history: bound.history.clone(),
                    degraded: bound.degraded,
                    mailbox: bound.watched.as_ref().map(WatchedActor::reading).unwrap_or_default(),
                    undelivered: bound.undelivered,
                }
            })
            .collect();
        self.tasks.spawn(async move {
            let children = ask_all(asked, |reply| FolderMsg::GetHealth { reply }).await;
            let detail = Some(format!("{} folders", children.len()));
            let _ = reply.send(ActorDetail { queued: None, detail, children });
        });
    }
}

/// Whether a FolderActor for the one does for the other. Whether it is paused is its own to say.
fn is_bound_so(one: &FolderBinding, other: &FolderBinding) -> bool {
    let kept =
        |binding: &FolderBinding| (binding.marker, binding.settings.rules(), binding.settings.scan_only);
    kept(one) == kept(other) && one.path == other.path
}
