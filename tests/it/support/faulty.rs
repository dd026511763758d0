//! An actor that fails in every way an actor can.

use std::sync::Arc;

use can_sync::testing::actor::mailbox;
use can_sync::testing::actor::status::ActorDetail;
use parking_lot::{Mutex, MutexGuard};
use ractor::message::{BoxedDowncastErr, BoxedMessage};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, Message, RpcReplyPort, SupervisionEvent};

/// What to do, and how to fail.
#[derive(Debug)]
pub(crate) enum FaultyMsg {
    /// Panic with this text.
    Panic(String),
    /// Return this plain error from the handler.
    Fail(String),
    /// Take this long.
    Sleep(std::time::Duration),
    /// Never come back from the handler, but wait.
    Hang,
    /// Occupy the thread until the other end speaks or goes away.
    Block(std::sync::mpsc::Receiver<()>),
    /// Stop without having been asked.
    StopYourself,
    /// Say which incarnation this is, from 1.
    Ping(RpcReplyPort<u32>),
    /// Say how you are.
    GetStatus(RpcReplyPort<ActorDetail>),
}

impl Message for FaultyMsg {
    fn box_message(self, to: &ActorId) -> Result<BoxedMessage, BoxedDowncastErr> {
        mailbox::post(self, to)
    }

    fn from_boxed(boxed: BoxedMessage) -> Result<Self, BoxedDowncastErr> {
        mailbox::take(boxed)
    }
}

/// How starts and stops go. Shared by all incarnations of one actor and the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan(Arc<Mutex<PlanState>>);

/// What a [`Plan`] holds.
#[derive(Debug, Default)]
pub(crate) struct PlanState {
    /// Appears in the journal.
    pub(crate) name: String,
    /// Attempts to start so far.
    pub(crate) starts: u32,
    /// How many of the next starts fail in `pre_start`.
    pub(crate) fail_starts: u32,
    /// How many of the next starts panic in `pre_start`.
    pub(crate) panic_starts: u32,
    /// How long `pre_start` takes.
    pub(crate) start_takes: std::time::Duration,
    /// How many of the next starts never come back from `pre_start`.
    pub(crate) hang_starts: u32,
    /// How many of the next starts fail in `post_start`, after the supervisor has the actor.
    pub(crate) fail_late_starts: u32,
    /// Whether `post_stop` never comes back.
    pub(crate) ignore_stop: bool,
    /// Where orderly stops are written down, with a name; shared with other actors.
    pub(crate) journal: Arc<Mutex<Vec<String>>>,
}

impl Plan {
    /// The plan, to read or change. Not to be held over an await.
    pub(crate) fn get(&self) -> MutexGuard<'_, PlanState> {
        self.0.lock()
    }
}

impl PlanState {
    fn take_one(counter: &mut u32) -> bool {
        let some = *counter > 0;
        *counter -= u32::from(some);
        some
    }
}

/// The actor.
pub(crate) struct FaultyActor;

impl Actor for FaultyActor {
    type Msg = FaultyMsg;
    type State = (Plan, u32);
    type Arguments = Plan;

    async fn pre_start(&self, _: ActorRef<FaultyMsg>, plan: Plan) -> Result<(Plan, u32), ActorProcessingErr> {
        let (hangs, takes) = {
            let mut state = plan.get();
            state.starts += 1;
            if PlanState::take_one(&mut state.fail_starts) {
                return Err("planned failure of the start".into());
            }
            if PlanState::take_one(&mut state.panic_starts) {
                drop(state);
                panic!("planned panic of the start");
            }
            (PlanState::take_one(&mut state.hang_starts), state.start_takes)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(takes).await;
        let incarnation = plan.get().starts;
        Ok((plan, incarnation))
    }

    async fn post_start(
        &self,
        _: ActorRef<FaultyMsg>,
        (plan, _): &mut (Plan, u32),
    ) -> Result<(), ActorProcessingErr> {
        if PlanState::take_one(&mut plan.get().fail_late_starts) {
            return Err("planned late failure of the start".into());
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<FaultyMsg>,
        (plan, _): &mut (Plan, u32),
    ) -> Result<(), ActorProcessingErr> {
        let ignore_stop = {
            let state = plan.get();
            let mut journal = state.journal.lock();
            journal.push(format!("{} stops", state.name));
            state.ignore_stop
        };
        if ignore_stop {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<FaultyMsg>,
        message: FaultyMsg,
        (_, incarnation): &mut (Plan, u32),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            FaultyMsg::Panic(text) => panic!("{text}"),
            FaultyMsg::Fail(text) => return Err(text.into()),
            FaultyMsg::Sleep(time) => tokio::time::sleep(time).await,
            FaultyMsg::Hang => std::future::pending::<()>().await,
            FaultyMsg::Block(until) => {
                // Either the word or the test's end lets it go on.
                let _ = until.recv();
            }
            FaultyMsg::StopYourself => myself.stop(Some("of my own accord".to_owned())),
            FaultyMsg::Ping(reply) => {
                let _ = reply.send(*incarnation);
            }
            FaultyMsg::GetStatus(reply) => {
                let detail = Some(format!("incarnation {incarnation}"));
                let _ = reply.send(ActorDetail { queued: Some(0), detail, children: Vec::new() });
            }
        }
        Ok(())
    }

    /// It supervises nobody.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<FaultyMsg>,
        _: SupervisionEvent,
        _: &mut (Plan, u32),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
