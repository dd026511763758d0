//! What users pin, so that it is held here whatever the configuration says.

use std::collections::HashSet;

use super::{Manager, PAGE, WANTED_AT_ONCE};
use crate::library::error::LibraryError;
use crate::library::filter::{Filter, FilterSpec};
use crate::library::hold::{HoldRule, Pins};
use crate::record::{AssetRecord, ContentHash};
use crate::store::{Holding, StoreError, StoreResult, StoredRecord};

/// Most assets that are named at once.
pub const PINNED_AT_ONCE_MAX: usize = 10_000;

impl Manager {
    /// Pins assets by name, and those that a filter matches, now and later. What is pinned and not here is wanted from then on, also
    /// where a user let go of it. Says how many pins are new.
    pub async fn pin(
        &self,
        hashes: Vec<ContentHash>,
        filter: Option<FilterSpec>,
    ) -> Result<usize, LibraryError> {
        let _one = self.busy.lock().await;
        let pins = chosen(hashes, filter)?;
        let new = self.libraries.hold_rules().pin(&pins)?;
        let kept = new.clone();
        if let Err(error) = self.registry(move |registry| registry.keep_pins(&kept)).await {
            // What is not written down would be forgotten with the process. What was pinned before stays.
            self.libraries.hold_rules().unpin(&new);
            return Err(error);
        }
        self.want_again(&pins.hashes).await?;
        for filter in &pins.filters {
            self.want_let_go(filter).await?;
        }
        self.follow_pins(&pins).await?;
        Ok(new.count())
    }

    /// Takes pins back: exactly these. Nothing that is here is let go of by that; what is not, and nothing else asks for, is wanted no
    /// more. Says how many there were.
    pub async fn unpin(
        &self,
        hashes: Vec<ContentHash>,
        filter: Option<FilterSpec>,
    ) -> Result<usize, LibraryError> {
        let _one = self.busy.lock().await;
        let pins = self.libraries.hold_rules().as_pinned(chosen(hashes, filter)?);
        let kept = pins.clone();
        self.registry(move |registry| registry.drop_pins(&kept)).await?;
        let gone = self.libraries.hold_rules().unpin(&pins);
        self.follow_pins(&pins).await?;
        self.let_be(&pins).await?;
        Ok(gone)
    }

    /// Lets be what was let go of once, came to be wanted by pins, and is not here. The store calls it wanted like what is lost, which
    /// no rule leaves out: so only what a pin itself made wanted is let be, and all of it stays wanted behind a restart.
    async fn let_be(&self, pins: &Pins) -> StoreResult {
        let rules = self.libraries.hold_rules();
        if *rules.rule() == HoldRule::Everything {
            return Ok(());
        }
        let named: HashSet<ContentHash> = pins.hashes.iter().copied().collect();
        let is_let_be = |StoredRecord { record, holding }: &StoredRecord| {
            let was_pinned =
                named.contains(&record.hash) || pins.filters.iter().any(|filter| filter.matches(record));
            was_pinned && *holding == Holding::Wanted && record.blake3.is_some() && !rules.wants(record)
        };
        let absent =
            if pins.filters.is_empty() { pins.hashes.clone() } else { self.libraries.mirror().all_absent() };
        let absent = rules.wanted_again(&absent);
        let mirror = self.libraries.mirror();
        let still_absent = async |hashes: Vec<ContentHash>| {
            let stored = self.store.records(hashes).await?.into_iter();
            let stored = stored.filter(|stored| stored.is_absent() && is_let_be(stored));
            Ok::<_, StoreError>(stored.map(|stored| stored.record.hash).collect::<Vec<_>>())
        };
        for some in absent.chunks(PAGE) {
            let mut let_be = still_absent(some.to_vec()).await?;
            if let_be.is_empty() {
                continue;
            }
            // While it is not known which folders are bound, any may need it.
            let Ok(in_folders) = rules.in_bound_folders(&self.store, &let_be).await else { return Ok(()) };
            let libraries = self.libraries.shared();
            let_be.retain(|hash| {
                !in_folders.contains(hash) && !libraries.iter().any(|library| library.has(hash))
            });
            // Nobody is asked for it any more. What is on its way is looked at once more: what comes in the very moment of this goes to the
            // trash, from which reading it brings it back.
            for hash in &let_be {
                mirror.leave_out(hash);
            }
            for few in let_be.chunks(WANTED_AT_ONCE) {
                let few = still_absent(few.to_vec()).await?;
                self.store.let_go(few).await?;
            }
        }
        Ok(())
    }

    /// Wants what a user let go of and a filter matches.
    async fn want_let_go(&self, filter: &Filter) -> StoreResult {
        for some in self.libraries.mirror().unwanted().chunks(PAGE) {
            let found = self.let_go_among(some).await?.filter(|record| filter.matches(record));
            let found: Vec<ContentHash> = found.map(|record| record.hash).collect();
            for few in found.chunks(WANTED_AT_ONCE) {
                self.libraries.hold_rules().note_wanted_again(few);
                self.store.want(few.to_vec()).await?;
            }
        }
        Ok(())
    }

    /// Wants contents, and takes note of those that a user had let go of.
    async fn want_again(&self, hashes: &[ContentHash]) -> StoreResult {
        for some in hashes.chunks(WANTED_AT_ONCE) {
            let let_go: Vec<ContentHash> = self.let_go_among(some).await?.map(|record| record.hash).collect();
            self.libraries.hold_rules().note_wanted_again(&let_go);
            self.store.want(some.to_vec()).await?;
        }
        Ok(())
    }

    /// Records of those of these contents that a user let go of.
    async fn let_go_among(&self, hashes: &[ContentHash]) -> StoreResult<impl Iterator<Item = AssetRecord>> {
        let stored = self.store.records(hashes.to_vec()).await?.into_iter();
        let let_go = stored.filter(|stored| stored.is_absent() && stored.holding == Holding::Unwanted);
        Ok(let_go.map(|stored| stored.record))
    }

    /// Brings what is wanted in line with rules that changed, and has peers asked for it.
    pub async fn apply_hold_rules(&self) -> StoreResult {
        self.look_whether_wanted(&self.libraries.mirror().all_absent()).await
    }

    /// The same where no more changed than these pins.
    async fn follow_pins(&self, pins: &Pins) -> StoreResult {
        if pins.filters.is_empty() {
            self.look_whether_wanted(&pins.hashes).await
        } else {
            self.apply_hold_rules().await
        }
    }

    async fn look_whether_wanted(&self, hashes: &[ContentHash]) -> StoreResult {
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
    pub async fn look_for_room(&self) -> StoreResult {
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
