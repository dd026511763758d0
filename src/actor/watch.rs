//! How a supervisor notices an actor that does not come on, and what it does about it.

use std::time::Duration;

use ractor::ActorCell;

use super::mailbox::{Mailbox, MailboxReading};
use super::restart::ExitKind;

/// How often supervisors look at their children's mailboxes. RootSupervisor asks the children how they are as often, so
/// that a message waits for each that hangs.
pub const BEAT: Duration = Duration::from_secs(5);

/// Looks in a row, all of which must find the actor in the same trouble, before it is killed. Looks are counted rather than
/// time: a process that was stopped for an hour has missed one. No handler waits for anything, so half a minute is long.
const MISSES_MAX: u32 = 6;

/// Messages of a mailbox that is full. A mailbox has no bound of its own; whoever fills one from outside holds permits, so
/// this is a defect, which takes memory until the process ends.
const MAILBOX_MAX: u64 = 100_000;

/// Whether an actor comes on, look by look. Pure.
#[derive(Debug, Default)]
struct Heartbeat {
    taken: u64,
    misses: u32,
}

impl Heartbeat {
    /// Takes note of a look. Why the actor has to go, if so: once per [`MISSES_MAX`] looks.
    fn beat(&mut self, reading: &MailboxReading) -> Option<String> {
        let MailboxReading { messages, taken, .. } = *reading;
        let is_still = messages > 0 && taken == self.taken;
        self.taken = taken;
        if !is_still && messages <= MAILBOX_MAX {
            self.misses = 0;
            return None;
        }
        self.misses += 1;
        let long = BEAT * MISSES_MAX;
        let why = if is_still {
            format!("took no message for {long:?} while {messages} waited")
        } else {
            format!("more than {MAILBOX_MAX} messages waited for {long:?}, now {messages}")
        };
        self.misses.is_multiple_of(MISSES_MAX).then_some(why)
    }
}

/// One incarnation, as its supervisor watches it.
#[derive(Debug)]
pub struct WatchedActor {
    actor: ActorCell,
    mailbox: Mailbox,
    heartbeat: Heartbeat,
    /// Why it was killed.
    killed: Option<String>,
}

impl WatchedActor {
    pub fn new(actor: ActorCell) -> Self {
        Self { mailbox: Mailbox::of(&actor), actor, heartbeat: Heartbeat::default(), killed: None }
    }

    /// To be called every [`BEAT`]: kills it if it has not come on for long. Its end comes as a supervision event.
    pub fn beat(&mut self) {
        let Some(why) = self.heartbeat.beat(&self.mailbox.reading()) else { return };
        let id = self.actor.get_id();
        if self.killed.is_none() {
            tracing::error!(%id, why, "an actor does not come on and is killed");
        } else {
            tracing::error!(%id, why, "an actor that does not come on could not be killed");
        }
        self.actor.kill();
        self.killed = Some(why);
    }

    /// What its end is: where it was killed for not coming on, a failure that says so.
    pub fn explain(self, exit: ExitKind) -> ExitKind {
        match (exit, self.killed) {
            (ExitKind::Killed { .. }, Some(reason)) => ExitKind::Failed { reason },
            (exit, _) => exit,
        }
    }

    pub fn reading(&self) -> MailboxReading {
        self.mailbox.reading()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_that_takes_nothing_while_something_waits_has_to_go() {
        let mut heart = Heartbeat::default();
        assert_eq!(heart.beat(&reading(3, 7)), None, "it has come on since the last look");
        for _ in 1..MISSES_MAX {
            assert_eq!(heart.beat(&reading(3, 7)), None);
        }
        let why = "took no message for 30s while 4 waited";
        assert_eq!(heart.beat(&reading(4, 7)).as_deref(), Some(why));
        // It did not go: said once more, after as long again.
        for _ in 1..MISSES_MAX {
            assert_eq!(heart.beat(&reading(4, 7)), None);
        }
        assert_eq!(heart.beat(&reading(4, 7)).as_deref(), Some(why));
    }

    #[test]
    fn one_that_comes_on_or_for_which_nothing_waits_stays() {
        let mut heart = Heartbeat::default();
        for n in 0..100 {
            assert_eq!(heart.beat(&reading(MAILBOX_MAX, n)), None, "it takes one at a time");
        }
        for _ in 0..100 {
            assert_eq!(heart.beat(&reading(0, 99)), None, "nothing to do");
        }
        // A look at the wrong moment, again and again.
        for n in 0..100 {
            assert_eq!(heart.beat(&reading(1, 99 + n / u64::from(MISSES_MAX - 1))), None);
        }
    }

    #[test]
    fn a_full_mailbox_is_none_that_is_worked_off() {
        let mut heart = Heartbeat::default();
        let whys: Vec<String> =
            (0..MISSES_MAX).filter_map(|n| heart.beat(&reading(MAILBOX_MAX + 1, n.into()))).collect();
        assert_eq!(whys, ["more than 100000 messages waited for 30s, now 100001"]);
    }

    fn reading(messages: u64, taken: u64) -> MailboxReading {
        MailboxReading { messages, taken, oldest: Duration::ZERO }
    }
}
