//! What of a user's own belongs to a library that they join: not what was here already, unless they agree.

use std::sync::Arc;

use super::{Manager, PAGE};
use crate::clock::{Doubt, OFF_MAX_MS};
use crate::library::filter::Filter;
use crate::library::private::Private;
use crate::library::report::LibraryError;
use crate::library::{Library, SharedLibrary};

/// Within this time after a clock was set, that is noticed.
const SET_WITHIN_MS: u64 = 60 * 1000;

impl Manager {
    /// What is here of our own and would belong to a library of this filter.
    pub(super) async fn private(&self, filter: &Filter) -> Result<Private, LibraryError> {
        let (mut private, mut cursor) = (Private::default(), 0);
        loop {
            let page = self.store.feed(cursor, PAGE).await?;
            let Some(last) = page.entries.last() else { return Ok(private) };
            cursor = last.seq;
            let records = page.entries.iter().map(|entry| &entry.record);
            for record in records.filter(|record| record.via.is_none() && filter.matches(record)) {
                private.add(record);
            }
        }
    }

    /// Has what is put now belong to libraries that were joined while our clock was ahead; what was here before stays what it
    /// was. Gives those that are to be filled once more.
    ///
    /// # Errors
    /// A registry that does not work.
    pub async fn mend_dates(&self) -> Result<Vec<Arc<Library>>, LibraryError> {
        let reading = self.clock.reading();
        // Where it is our clock that may be behind, nothing tells that it was ahead.
        if !matches!(reading.doubt, None | Some(Doubt::Outvoted { .. })) {
            return Ok(Vec::new());
        }
        let is_ahead = |library: &Arc<Library>| {
            let since_ms = library.shared().and_then(SharedLibrary::writes_since_ms);
            since_ms.is_some_and(|since_ms| since_ms > reading.now_ms.saturating_add(OFF_MAX_MS))
        };
        let mut mended = Vec::new();
        for library in self.libraries.shared().into_iter().filter(is_ahead) {
            let Ok(_one) = self.busy.try_lock() else { break };
            let Some(shared) = library.shared() else { continue };
            // Of what was put since the clock was set, nothing is to be left out.
            let since_ms = reading.now_ms.saturating_sub(SET_WITHIN_MS);
            let ticket = shared.ticket();
            mended.push(self.keep(None, (ticket, None), (since_ms, None), Some(&library)).await?);
        }
        Ok(mended)
    }
}
