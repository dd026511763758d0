//! ScrubActor: has the embedded store scrubbed.
//!
//! **Owns** one task, which reads the store ([`EmbeddedStore::scrub_for_ever`]). **Talks to** nobody: users ask the store itself,
//! by its HTTP API. **A restart** loses nothing: how far a pass is stands in the store.

use ractor::{Actor, ActorRef, RpcReplyPort};

use super::ScrubSettings;
use crate::actor::ActorResult;
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::store::embedded::EmbeddedStore;

counted!(ScrubMsg);

#[derive(Debug)]
pub enum ScrubMsg {
    /// Own task: it panicked, and why. The actor fails, and its supervisor starts it again.
    TaskFailed(String),
    /// RootSupervisor: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

#[derive(Clone)]
pub struct ScrubArgs {
    pub store: EmbeddedStore,
    pub settings: ScrubSettings,
}

pub struct ScrubActorState {
    store: EmbeddedStore,
    tasks: Tasks<ScrubMsg>,
}

pub struct ScrubActor;

impl Actor for ScrubActor {
    type Msg = ScrubMsg;
    type State = ScrubActorState;
    type Arguments = ScrubArgs;

    async fn pre_start(&self, myself: ActorRef<ScrubMsg>, args: ScrubArgs) -> ActorResult<ScrubActorState> {
        let ScrubArgs { store, settings } = args;
        let mut tasks = Tasks::new(myself, ScrubMsg::TaskFailed);
        tasks.spawn(store.clone().scrub_for_ever(settings));
        Ok(ScrubActorState { store, tasks })
    }

    async fn handle(
        &self,
        _: ActorRef<ScrubMsg>,
        message: ScrubMsg,
        state: &mut ScrubActorState,
    ) -> ActorResult {
        match message {
            ScrubMsg::TaskFailed(why) => Err(format!("scrubbing the store: {why}").into()),
            ScrubMsg::GetHealth { reply } => {
                let _ =
                    reply.send(ActorDetail { detail: state.store.scrub_detail(), ..ActorDetail::default() });
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<ScrubMsg>, state: &mut ScrubActorState) -> ActorResult {
        state.tasks.shutdown().await;
        Ok(())
    }
}
