//! Files that have the same content are stored one after the other, in the order in which they were named, so that the content is
//! sent once, the others find it there, and the first file gives it its first name.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::record::ContentHash;

#[derive(Debug)]
pub(super) struct PutTurns {
    /// The place of the file whose content is told next.
    next: watch::Sender<usize>,
    /// Ends with the turn of the last file that has this content.
    last: Mutex<HashMap<ContentHash, oneshot::Receiver<()>>>,
}

/// Held for as long as a file is being stored.
#[derive(Debug)]
pub(super) struct PutTurn(
    #[expect(dead_code, reason = "says that it is over by being dropped")] oneshot::Sender<()>,
);

impl Default for PutTurns {
    fn default() -> Self {
        Self { next: watch::Sender::new(0), last: Mutex::default() }
    }
}

impl PutTurns {
    /// The turn of the file at `place`, once all before it told their contents and those that have this one are stored. Each place
    /// takes its turn or [passes](Self::pass).
    pub(super) async fn take(&self, place: usize, hash: ContentHash) -> PutTurn {
        self.reach(place).await;
        let (turn, over) = oneshot::channel();
        let before = self.last.lock().insert(hash, over);
        self.next.send_replace(place + 1);
        if let Some(before) = before {
            // It ends by being dropped.
            let _ = before.await;
        }
        PutTurn(turn)
    }

    /// For what has no content that could be compared.
    pub(super) async fn pass(&self, place: usize) {
        self.reach(place).await;
        self.next.send_replace(place + 1);
    }

    async fn reach(&self, place: usize) {
        // It does not end while we have it.
        let _ = self.next.subscribe().wait_for(|next| *next == place).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_same_content_waits_in_the_order_of_its_files_and_another_does_not() {
        let turns = PutTurns::default();
        let (one, other) = (ContentHash([1; 32]), ContentHash([2; 32]));
        let mut second = Box::pin(turns.take(1, one));
        assert!(second.as_mut().now_or_never().is_none(), "the first may have the same");
        let first = turns.take(0, one).now_or_never().expect("nobody is before it");
        assert!(second.as_mut().now_or_never().is_none(), "it has");
        assert!(turns.pass(2).now_or_never().is_some());
        assert!(turns.take(3, other).now_or_never().is_some());
        let mut third = Box::pin(turns.take(4, one));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "the second comes first");
        let second = second.now_or_never().expect("the first is stored");
        drop(second);
        assert!(third.now_or_never().is_some());
    }
}
