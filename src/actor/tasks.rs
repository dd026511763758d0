//! Tasks that an actor owns.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use ractor::{ActorRef, Message};

/// `work`, with a panic turned into a message to its owner, who hears of it at once and can fail in turn: a task that
/// is only joined now and then dies unnoticed.
pub async fn watched<M: Message>(
    owner: ActorRef<M>,
    work: impl Future<Output = ()> + Send,
    failed: fn(String) -> M,
) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        // An owner that is gone took the rest of its tasks along.
        let _ = owner.send_message(failed(message_of(panic.as_ref())));
    }
}

/// What a panic said.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
