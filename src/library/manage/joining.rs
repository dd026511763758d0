//! What of a user's own belongs to a library that they join: not what was here already, unless they agree.

use std::sync::Arc;

use super::Manager;
use crate::clock::{Doubt, OFF_MAX_MS};
use crate::library::error::LibraryError;
use crate::library::filter::Filter;
use crate::library::private::Private;
use crate::library::sharing::Sharing;
use crate::library::ticket::{Access, Ticket};
use crate::library::{Library, SharedLibrary};
use crate::record::AssetRecord;
use crate::store::FeedEntry;

/// Within this time after a clock was set, that is noticed.
const SET_WITHIN_MS: u64 = 60 * 1000;

impl Manager {
    /// By what terms what is here belongs to a library that a user joins by this ticket, or has joined `before`, and what of it
    /// stays private: what did already, where nothing is given.
    pub(super) async fn terms(
        &self,
        before: Option<&Library>,
        ticket: &Ticket,
        share_existing: bool,
    ) -> Result<(Sharing, Option<Private>), LibraryError> {
        let reading = self.clock.reading();
        let wrote =
            before.and_then(|library| Some((library, library.shared()?, library.shared()?.sharing()?)));
        let all = share_existing.then(Private::default);
        let Some((library, shared, sharing)) = wrote else {
            let since_ms = if share_existing { 0 } else { reading.now_ms };
            let private = match all {
                None if ticket.claims().access == Access::Write => {
                    // Dated too early, what others of the user's machines have would count as put later.
                    check_not_behind(reading.doubt)?;
                    Some(self.private(&ticket.filter, None).await?)
                }
                all => all,
            };
            return Ok((Sharing::agreed(since_ms, reading.now_ms), private));
        };
        let since_ms = if share_existing { 0 } else { sharing.since_ms };
        if *shared.filter() == ticket.filter {
            return Ok((sharing.renewed(since_ms, reading.now_ms), all));
        }
        // What another filter takes in belongs no more than what was here when the user joined.
        let private = match all {
            Some(all) => all,
            None => self.private(&ticket.filter, Some((library, shared))).await?,
        };
        Ok((Sharing::agreed(since_ms, reading.now_ms), Some(private)))
    }

    /// What is here of our own, would belong to a library of this filter, and does not `before`; with what is private so far.
    async fn private(
        &self,
        filter: &Filter,
        before: Option<(&Library, &SharedLibrary)>,
    ) -> Result<Private, LibraryError> {
        let belongs = |record: &AssetRecord| before.is_some_and(|(library, _)| library.is_member(record));
        let add = |private: &mut Private, entries: Vec<FeedEntry>| {
            let own = entries.iter().map(|entry| &entry.record).filter(|record| record.via.is_none());
            own.filter(|record| filter.matches(record) && !belongs(record)).for_each(|own| private.add(own));
        };
        let more: Private = self.read_store(add).await?;
        let so_far = before.map(|(_, shared)| shared.private()).unwrap_or_default();
        Ok(so_far.all().chain(more.all()).map(|(hash, edit)| (*hash, *edit)).collect())
    }

    /// Has what is put now belong to libraries that were joined while our clock was ahead; what was here before stays what it
    /// was. Gives those that are to be filled once more.
    pub async fn mend_dates(&self) -> Result<Vec<Arc<Library>>, LibraryError> {
        let reading = self.clock.reading();
        // Where it is our clock that may be behind, nothing tells that it was ahead.
        if !matches!(reading.doubt, None | Some(Doubt::Outvoted { .. })) {
            return Ok(Vec::new());
        }
        let is_ahead = |library: &Arc<Library>| {
            let sharing = library.shared().and_then(SharedLibrary::sharing);
            sharing.is_some_and(|sharing| sharing.since_ms > reading.now_ms.saturating_add(OFF_MAX_MS))
        };
        let mut mended = Vec::new();
        for id in self.libraries.shared().iter().filter(|one| is_ahead(one)).filter_map(|one| one.id()) {
            let Ok(_one) = self.busy.try_lock() else { break };
            // Until now it may have been deleted, or joined by other terms.
            let Some(library) = self.libraries.get(id).filter(is_ahead) else { continue };
            let Some((shared, sharing)) =
                library.shared().and_then(|shared| Some((shared, shared.sharing()?)))
            else {
                continue;
            };
            // Of what was put since the clock was set, nothing is to be left out.
            let since_ms = reading.now_ms.saturating_sub(SET_WITHIN_MS);
            let sharing = Sharing { since_ms, agreed_ms: since_ms, ..sharing };
            let ticket = shared.ticket();
            mended.push(self.keep(None, (ticket, None), (sharing, None), Some(&library)).await?);
        }
        Ok(mended)
    }
}

fn check_not_behind(doubt: Option<Doubt>) -> Result<(), LibraryError> {
    match doubt {
        Some(doubt @ Doubt::Behind { .. }) => Err(LibraryError::Clock(doubt)),
        Some(doubt @ Doubt::Undecided { off_ms }) if off_ms < 0 => Err(LibraryError::Clock(doubt)),
        _ => Ok(()),
    }
}
