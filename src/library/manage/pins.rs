//! What users pin, so that it is held here whatever the configuration says.

use super::{Manager, PAGE, WANTED_AT_ONCE};
use crate::library::error::LibraryError;
use crate::library::filter::{Filter, FilterSpec};
use crate::library::hold::Pins;
use crate::record::ContentHash;
use crate::store::{Holding, StoreError};

/// Most assets that are named at once.
pub const PINNED_AT_ONCE_MAX: usize = 10_000;

impl Manager {
    /// Pins assets by name, and those that a filter matches, now and later. What is pinned and not here is wanted from then on, also
    /// where a user let go of it. Says how many pins are new.
    ///
    /// # Errors
    /// A filter that makes no sense, too many pins, a registry or store that does not work.
    pub async fn pin(
        &self,
        hashes: Vec<ContentHash>,
        filter: Option<FilterSpec>,
    ) -> Result<usize, LibraryError> {
        let _one = self.busy.lock().await;
        let pins = chosen(hashes, filter)?;
        let new = self.libraries.hold_rules().pin(&pins)?;
        let kept = pins.clone();
        if let Err(error) = self.registry(move |registry| registry.keep_pins(&kept)).await {
            // What is not written down would be forgotten with the process. What was pinned before stays.
            self.libraries.hold_rules().unpin(&new);
            return Err(error);
        }
        for some in pins.hashes.chunks(WANTED_AT_ONCE) {
            self.store.want(some.to_vec()).await?;
        }
        for filter in &pins.filters {
            self.want_let_go(filter).await?;
        }
        self.follow_pins(&pins).await?;
        Ok(new.count())
    }

    /// Takes pins back: exactly these. Nothing is let go of by that. Says how many there were.
    ///
    /// # Errors
    /// As [`Self::pin`].
    pub async fn unpin(
        &self,
        hashes: Vec<ContentHash>,
        filter: Option<FilterSpec>,
    ) -> Result<usize, LibraryError> {
        let _one = self.busy.lock().await;
        let pins = chosen(hashes, filter)?;
        let kept = pins.clone();
        self.registry(move |registry| registry.drop_pins(&kept)).await?;
        let gone = self.libraries.hold_rules().unpin(&pins);
        self.follow_pins(&pins).await?;
        Ok(gone)
    }

    /// Wants what a user let go of and a filter matches.
    async fn want_let_go(&self, filter: &Filter) -> Result<(), StoreError> {
        let mut found = Vec::new();
        for some in self.libraries.mirror().unwanted().chunks(PAGE) {
            let stored = self.store.records(some.to_vec()).await?.into_iter();
            let let_go = stored.filter(|stored| stored.is_absent() && stored.holding == Holding::Unwanted);
            found.extend(let_go.filter(|stored| filter.matches(&stored.record)).map(|s| s.record.hash));
        }
        for some in found.chunks(WANTED_AT_ONCE) {
            self.store.want(some.to_vec()).await?;
        }
        Ok(())
    }

    /// Brings what is wanted in line with rules that changed, and has peers asked for it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn apply_hold_rules(&self) -> Result<(), StoreError> {
        self.look_whether_wanted(&self.libraries.mirror().all_absent()).await
    }

    /// The same where no more changed than these pins.
    async fn follow_pins(&self, pins: &Pins) -> Result<(), StoreError> {
        if pins.filters.is_empty() {
            self.look_whether_wanted(&pins.hashes).await
        } else {
            self.apply_hold_rules().await
        }
    }

    async fn look_whether_wanted(&self, hashes: &[ContentHash]) -> Result<(), StoreError> {
        for some in hashes.chunks(PAGE) {
            let stored = self.store.records(some.to_vec()).await?;
            self.libraries.mirror().look_whether_wanted(&stored);
        }
        self.libraries.hold_rules().grow();
        Ok(())
    }

    /// The same where libraries came or went; logged where it fails, for it is done again with the next change, and at the next start.
    pub async fn follow_filters(&self) {
        if self.libraries.note_filters()
            && let Err(error) = self.apply_hold_rules().await
        {
            tracing::warn!(%error, "what a library needs is not asked for yet");
        }
    }

    /// Wants what there was no room for and is some now.
    ///
    /// # Errors
    /// What the store says; then it is not asked for before the next start.
    pub async fn look_for_room(&self) -> Result<(), StoreError> {
        let fitting = self.libraries.hold_rules().take_fitting(self.store.quota_left());
        if fitting.is_empty() { Ok(()) } else { self.look_whether_wanted(&fitting).await }
    }

    /// Forgets wishes that came true.
    ///
    /// # Errors
    /// A registry that does not work; then they are forgotten after the next start.
    pub async fn forget_wishes(&self) -> Result<(), LibraryError> {
        let hashes = self.libraries.hold_rules().take_fulfilled();
        if hashes.is_empty() || self.libraries.registry().is_none() {
            return Ok(());
        }
        self.registry(move |registry| registry.drop_wishes(&hashes)).await
    }
}

fn chosen(hashes: Vec<ContentHash>, filter: Option<FilterSpec>) -> Result<Pins, LibraryError> {
    let filter = filter.map(Filter::try_from).transpose()?;
    if filter.as_ref().is_some_and(|filter| filter.folder().is_some()) {
        return Err(LibraryError::PinnedFolder);
    }
    Ok(Pins { hashes, filters: filter.into_iter().collect() })
}
