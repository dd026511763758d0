//! PeersActor tells the guard on deletions how large the libraries are.

use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::PeersState;
use crate::library::Library;

const EVERY: Duration = Duration::from_mins(1);

impl PeersState {
    pub(super) fn tell_sizes(&mut self, now: Instant) {
        // What was not read yet is larger than it looks.
        if !self.accepting || now < self.due.sizes {
            return;
        }
        self.due.sizes = now + EVERY;
        let (libraries, deletes) =
            (Arc::clone(&self.args.replica.libraries), Arc::clone(&self.args.replica.deletes));
        self.tasks.spawn(async move {
            let told = spawn_blocking(move || {
                let size = |library: &Arc<Library>| {
                    let id = library.id().map(|id| id.to_string()).unwrap_or_default();
                    (!library.is_filling()).then(|| (id, library.live_assets()))
                };
                let all = libraries.shared();
                let sizes: Vec<_> = once(libraries.mirror()).chain(&all).filter_map(size).collect();
                deletes.note_sizes(&sizes);
            });
            // Nothing but a panic ends it, and that is told already.
            let _ = told.await;
        });
    }
}
