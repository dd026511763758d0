//! What libraries have otherwise than the store: written down, told, and purged.

use std::collections::HashSet;
use std::time::Duration;

use super::{Manager, PAGE};
use crate::library::AsideNews;
use crate::library::error::LibraryError;
use crate::library::registry::Registry;
use crate::record::ContentHash;
use crate::store::{FeedEntry, TOMBSTONES_KEPT_MS};

impl Manager {
    /// Writes down which versions libraries have otherwise than the store, and has their members told.
    ///
    /// # Errors
    /// A registry that does not work; what was not written comes again.
    pub async fn keep_asides(&self) -> Result<(), LibraryError> {
        for library in self.libraries.shared() {
            let Some(id) = library.id() else { continue };
            let now_ms = self.clock.now_ms();
            let AsideNews { unwritten, changed } = library.take_aside_news();
            if !changed.is_empty() {
                let records = changed.into_iter().map(FeedEntry::from).collect();
                (self.changes)(id, records);
            }
            if !unwritten.is_empty() && self.libraries.registry().is_some() {
                let write = move |registry: &Registry| {
                    registry.set_asides(id, &unwritten, now_ms)?;
                    Ok(unwritten)
                };
                library.wrote_asides(&self.registry(write).await?);
            }
        }
        Ok(())
    }

    /// Forgets what was deleted long ago and stands beside the store, after the node has run for so long since this was
    /// asked last. As for tombstones of the store, one look is not enough.
    pub async fn purge_asides(&self, ran: Duration) -> Result<(), LibraryError> {
        let now_ms = self.clock.reading().earlier_ms();
        let ran_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.registry(move |registry| registry.look(now_ms, ran_ms)).await?;
        let Some(until_ms) = until_ms.filter(|_| self.clock.is_vouched_for()) else { return Ok(()) };
        self.purge_asides_until(until_ms.saturating_sub(TOMBSTONES_KEPT_MS)).await
    }

    pub(super) async fn purge_asides_until(&self, until_ms: u64) -> Result<(), LibraryError> {
        for library in self.libraries.shared() {
            let Some(id) = library.id() else { continue };
            // As for tombstones of the store, what counts is when it was heard, however long ago it was.
            let noted = self.registry(move |registry| registry.asides_noted(id, until_ms)).await?;
            for some in library.old_asides(noted, until_ms).chunks(PAGE) {
                let stored = self.store.records(some.to_vec()).await?;
                // Without the deletion, what is here would be the library's again.
                let here = stored.iter().filter(|stored| !stored.record.deleted);
                let here: HashSet<ContentHash> = here.map(|stored| stored.record.hash).collect();
                library.purge_asides(some, &here, until_ms);
            }
        }
        Ok(())
    }
}
