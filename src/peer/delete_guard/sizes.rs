//! How many assets each library had lately: the least of it is what a share may be deleted of. Pure.
//!
//! A set that grows gives nobody more to delete before a day has passed. Otherwise a peer would first bring many small assets,
//! and then delete everything else as a tenth of the whole. What was empty when it was first looked at is filled at first, a
//! new machine above all: it begins to count with what it has then, or everything would be held back for a day.

use std::collections::BTreeMap;

use crate::library::registry::DeletionChange;

/// So long a library has to be as large as it is until that counts.
const COUNTS_AFTER_MS: u64 = 24 * 60 * 60 * 1000;
/// Of each of these spans the least is kept.
const SPAN_MS: u64 = 60 * 60 * 1000;

/// What has not grown for so long is filled.
const STEADY_FOR_MS: u64 = 60 * 1000;
/// So long filling takes at most.
const FILLS_FOR_MS: u64 = 60 * 60 * 1000;

#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// The least, by the beginning of a span.
    known: BTreeMap<String, BTreeMap<u64, u64>>,
    /// Those of which nothing is known because they were empty.
    filling: BTreeMap<String, Filling>,
}

#[derive(Debug)]
struct Filling {
    assets: u64,
    /// Since when it has so many, and any.
    grew_ms: u64,
    began_ms: Option<u64>,
}

impl Filling {
    /// Whether it still goes on, with so many now.
    fn goes_on(&mut self, assets: u64, now_ms: u64) -> bool {
        let began_ms = *self.began_ms.get_or_insert(now_ms);
        if assets <= self.assets {
            return now_ms.saturating_sub(self.grew_ms) < STEADY_FOR_MS;
        }
        (self.assets, self.grew_ms) = (assets, now_ms);
        now_ms.saturating_sub(began_ms) < FILLS_FOR_MS
    }
}

impl Sizes {
    pub(super) fn insert(&mut self, library: String, at_ms: u64, least: u64) {
        let spans = self.known.entry(library).or_default();
        spans.entry(at_ms).and_modify(|known| *known = least.min(*known)).or_insert(least);
    }

    /// A library has so many assets now. One that has none has nothing to lose.
    pub(super) fn note(&mut self, library: &str, assets: u64, now_ms: u64) -> Vec<DeletionChange> {
        if !self.known.contains_key(library) {
            if assets == 0 {
                let empty = || Filling { assets: 0, grew_ms: now_ms, began_ms: None };
                self.filling.entry(library.to_owned()).or_insert_with(empty);
            } else if self.filling.get_mut(library).is_some_and(|filling| filling.goes_on(assets, now_ms)) {
                return Vec::new();
            }
        }
        if assets == 0 {
            return Vec::new();
        }
        self.filling.remove(library);
        let spans = self.known.entry(library.to_owned()).or_default();
        let at_ms = now_ms - now_ms % SPAN_MS;
        if spans.get(&at_ms).is_some_and(|least| *least <= assets) {
            return Vec::new();
        }
        let mut changes = vec![DeletionChange::Size(library.to_owned(), at_ms, assets)];
        if spans.insert(at_ms, assets).is_none() {
            // As it was when the day began, however long before that it was looked at.
            let begun = spans.range(..=now_ms.saturating_sub(COUNTS_AFTER_MS)).next_back().map(|(at, _)| *at);
            let kept = begun.map(|begun| spans.split_off(&begun));
            let dropped = kept.map(|kept| std::mem::replace(spans, kept)).is_some_and(|old| !old.is_empty());
            if let Some(begun) = begun.filter(|_| dropped) {
                changes.push(DeletionChange::SizesBefore(library.to_owned(), begun));
            }
        }
        changes
    }

    /// The least that a library had within the last day, if that is known, each with what was `deleted` by the end of its
    /// span.
    pub(super) fn least(&self, library: &str, now_ms: u64, deleted: impl Fn(u64) -> u64) -> Option<u64> {
        let spans = self.known.get(library)?;
        let since = now_ms.saturating_sub(COUNTS_AFTER_MS);
        let begun = spans.range(..=since).next_back().map_or(since, |(at, _)| *at);
        spans.range(begun..).map(|(at, least)| least + deleted(at + SPAN_MS)).min()
    }

    pub(super) fn forget(&mut self, library: &str) {
        self.known.remove(library);
        self.filling.remove(library);
    }

    pub(super) fn latest(&self) -> impl Iterator<Item = u64> {
        self.known.values().filter_map(|spans| spans.keys().next_back().copied())
    }

    pub(super) fn redate(&mut self, date: impl Fn(u64) -> u64) {
        for (library, spans) in std::mem::take(&mut self.known) {
            for (at, least) in spans {
                self.insert(library.clone(), date(at), least);
            }
        }
        for filling in self.filling.values_mut() {
            filling.grew_ms = date(filling.grew_ms);
            filling.began_ms = filling.began_ms.map(&date);
        }
    }

    pub(super) fn rows(&self) -> Vec<(String, u64, u64)> {
        let rows = |(library, spans): (&String, &BTreeMap<u64, u64>)| {
            let library = library.clone();
            spans.iter().map(|(at, least)| (library.clone(), *at, *least)).collect::<Vec<_>>()
        };
        self.known.iter().flat_map(rows).collect()
    }
}
