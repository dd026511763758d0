//! A line in which so many at a time have their turn, in the order in which they came.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// The line. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    /// How many at the head have their turn.
    at_once: usize,
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

/// A place in the line; dropped, the next one moves up.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    number: u64,
    called: Arc<Notify>,
}

impl Turns {
    /// A line in which `at_once` have their turn; at least one.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(Line { at_once: at_once.max(1), waiting: BTreeMap::new(), next: 0 })))
    }

    /// Takes the last place.
    #[must_use]
    pub fn join(&self) -> Turn {
        let mut line = self.lock();
        let number = line.next;
        line.next += 1;
        let called = Arc::new(Notify::new());
        line.waiting.insert(number, Arc::clone(&called));
        Turn { turns: self.clone(), number, called }
    }

    /// From now on, so many have their turn at once; one that has begun is not taken back.
    pub fn set_at_once(&self, at_once: usize) {
        let mut line = self.lock();
        line.at_once = at_once.max(1);
        line.call();
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock()
    }
}

impl Line {
    fn is_turn_of(&self, number: u64) -> bool {
        self.waiting.keys().take(self.at_once).any(|first| *first == number)
    }

    fn call(&self) {
        self.waiting.values().take(self.at_once).for_each(|called| called.notify_one());
    }
}

impl Turn {
    /// Waits until it is its turn.
    pub async fn come(&self) {
        while !self.turns.lock().is_turn_of(self.number) {
            self.called.notified().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.turns.lock();
        line.waiting.remove(&self.number);
        line.call();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn has_come(turn: &Turn) -> bool {
        turn.come().now_or_never().is_some()
    }

    #[tokio::test]
    async fn turns_come_in_order_and_so_many_at_a_time() {
        let turns = Turns::new(2);
        let mut line: Vec<Turn> = (0..5).map(|_| turns.join()).collect();
        let come = |line: &[Turn]| line.iter().map(has_come).collect::<Vec<_>>();
        assert_eq!(come(&line), [true, true, false, false, false]);
        drop(line.remove(1));
        assert_eq!(come(&line), [true, true, false, false]);
        drop(line.remove(2));
        assert_eq!(come(&line), [true, true, false], "who waits may leave as well");
        turns.set_at_once(1);
        assert_eq!(come(&line), [true, false, false]);
        turns.set_at_once(0);
        assert!(has_come(&line[0]), "one always has its turn");
    }

    #[tokio::test]
    async fn all_that_wait_are_called() {
        let turns = Turns::new(1);
        let (first, second, third) = (turns.join(), turns.join(), turns.join());
        let waits = |turn: Turn| tokio::spawn(async move { turn.come().await });
        let (second, third) = (waits(second), waits(third));
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        // Each leaves the line with its task.
        second.await.unwrap();
        third.await.unwrap();
        let (first, second) = (turns.join(), turns.join());
        let second = waits(second);
        tokio::task::yield_now().await;
        turns.set_at_once(2);
        second.await.unwrap();
        drop(first);
    }
}
