//! How many messages wait for an actor, and for how long: ractor keeps both to itself.
//!
//! A message goes into a mailbox with a [`MessageTicket`], and gives it back when it is taken out or when the mailbox goes with its
//! actor. ractor lets a message's type see both moments with its feature `cluster` alone; nothing else of that feature is used.
//! Every message type of ours says [`counted!`]. Only the mailboxes that a supervisor holds a [`Mailbox`] of are counted.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};
use ractor::message::{BoxedDowncastErr, BoxedMessage};
use ractor::{ActorCell, ActorId, Message};
use tokio::time::Instant;

/// The mailboxes that are counted. Of the process, since several nodes may run in one; ids are never used twice.
static COUNTED: LazyLock<RwLock<HashMap<ActorId, Arc<MailboxCount>>>> = LazyLock::new(RwLock::default);

/// Has the messages of this type counted.
macro_rules! counted {
    ($message:ty) => {
        impl ractor::Message for $message {
            fn box_message(
                self,
                to: &ractor::ActorId,
            ) -> Result<ractor::message::BoxedMessage, ractor::message::BoxedDowncastErr> {
                $crate::actor::mailbox::post(self, to)
            }

            fn from_boxed(
                boxed: ractor::message::BoxedMessage,
            ) -> Result<Self, ractor::message::BoxedDowncastErr> {
                $crate::actor::mailbox::take(boxed)
            }
        }
    };
}
pub(crate) use counted;

/// Puts a message into the form in which it waits. For [`counted!`]; it never fails.
pub fn post<M: Any + Send>(message: M, to: &ActorId) -> Result<BoxedMessage, BoxedDowncastErr> {
    let counted = COUNTED.read().get(to).cloned();
    Posted { message, _ticket: counted.map(MessageTicket::issue) }.box_message(to)
}

/// Takes a message out again. For [`counted!`].
pub fn take<M: Any + Send>(boxed: BoxedMessage) -> Result<M, BoxedDowncastErr> {
    Posted::from_boxed(boxed).map(|Posted { message, .. }| message)
}

struct Posted<M> {
    message: M,
    _ticket: Option<MessageTicket>,
}

impl<M: Any + Send> Message for Posted<M> {}

/// Says that a message waits, until it is dropped.
struct MessageTicket {
    number: u64,
    waiting: Arc<MailboxCount>,
}

impl MessageTicket {
    fn issue(waiting: Arc<MailboxCount>) -> Self {
        let mut messages = waiting.messages();
        messages.issued += 1;
        let number = messages.issued;
        messages.since.push_back((number, Instant::now()));
        drop(messages);
        Self { number, waiting }
    }
}

impl Drop for MessageTicket {
    fn drop(&mut self) {
        let mut messages = self.waiting.messages();
        // The first, or close to it: two that were sent at once may have changed places.
        if let Some(place) = messages.since.iter().position(|(number, _)| *number == self.number) {
            messages.since.remove(place);
        }
        messages.taken += 1;
    }
}

#[derive(Debug, Default)]
struct MailboxCount(Mutex<CountedMessages>);

#[derive(Debug, Default)]
struct CountedMessages {
    issued: u64,
    taken: u64,
    /// Those that wait, the oldest first, and since when.
    since: VecDeque<(u64, Instant)>,
}

impl MailboxCount {
    fn messages(&self) -> MutexGuard<'_, CountedMessages> {
        self.0.lock()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MailboxReading {
    /// Messages that wait; not the one at hand.
    pub messages: u64,
    /// How long the oldest of them has waited.
    pub oldest: Duration,
    /// Messages taken out since the actor's start.
    pub taken: u64,
}

impl MailboxReading {
    /// [`Self::oldest`] in milliseconds.
    pub fn oldest_ms(&self) -> u64 {
        u64::try_from(self.oldest.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A supervisor's hold on the mailbox of one incarnation: it is counted from now until this is dropped.
#[derive(Debug)]
pub struct Mailbox {
    of: ActorId,
    waiting: Arc<MailboxCount>,
}

impl Mailbox {
    pub fn of(actor: &ActorCell) -> Self {
        let (of, waiting) = (actor.get_id(), Arc::<MailboxCount>::default());
        COUNTED.write().insert(of, Arc::clone(&waiting));
        Self { of, waiting }
    }

    pub fn reading(&self) -> MailboxReading {
        let messages = self.waiting.messages();
        MailboxReading {
            messages: messages.since.len() as u64,
            oldest: messages.since.front().map_or(Duration::ZERO, |(_, since)| since.elapsed()),
            taken: messages.taken,
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        COUNTED.write().remove(&self.of);
    }
}
