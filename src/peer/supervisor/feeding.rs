//! Changes of the store on their way to the PeerActors. Small assets that were made here travel with their contents,
//! which are read once for all peers; changes that come meanwhile wait behind them. What came from a peer goes without:
//! in a mesh, somebody else may have offered it already.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::PeersState;
use crate::clock::now_ms;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::session::{INLINE_CONTENT_BYTES_MAX, InlineContents};
use crate::record::{AssetRecord, ContentHash, LibraryId, WriterId};
use crate::store::FeedEntry;
use crate::store::entries::StoredEntry;

/// Contents that go along with one batch of changes, in bytes. More at once is no single asset that somebody waits for,
/// and travels better in packs.
const CONTENTS_BYTES_MAX: u64 = 256 * 1024;
/// Changes that may wait; beyond it they go without contents.
const WAITING_MAX: usize = 64;
/// How long the store has for them.
const LOAD_WITHIN: Duration = Duration::from_secs(1);
/// An asset is new for so long.
const NEW_FOR_MS: u64 = 60_000;
/// Contents that came from peers, of which the feed may not have told yet.
const FOREIGN_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Feeding {
    /// The first of these are those whose contents are being read.
    waiting: VecDeque<Arc<[FeedEntry]>>,
    foreign: HashSet<ContentHash>,
    order: VecDeque<ContentHash>,
}

impl Feeding {
    /// These come from peers.
    pub(super) fn note_foreign(&mut self, hashes: Vec<ContentHash>) {
        for hash in hashes {
            if self.foreign.insert(hash) {
                self.order.push_back(hash);
            }
        }
        while self.order.len() > FOREIGN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.foreign.remove(&oldest);
            }
        }
    }

    /// Those of the changes whose contents are to go along.
    fn inline(
        &self,
        entries: &[FeedEntry],
        is_coming: impl Fn(&ContentHash) -> bool,
        now_ms: u64,
    ) -> Vec<ContentHash> {
        let is_new = |record: &&AssetRecord| {
            !record.deleted
                && record.writer == WriterId::NULL
                && record.size <= INLINE_CONTENT_BYTES_MAX as u64
                && now_ms.saturating_sub(record.meta.created_at_ms) < NEW_FOR_MS
                && !self.foreign.contains(&record.hash)
                && !is_coming(&record.hash)
        };
        let new: Vec<&AssetRecord> = entries.iter().map(|entry| &entry.record).filter(is_new).collect();
        if new.iter().map(|record| record.size).sum::<u64>() > CONTENTS_BYTES_MAX {
            return Vec::new();
        }
        new.into_iter().map(|record| record.hash).collect()
    }
}

impl PeersState {
    pub(super) fn on_store_changed(&mut self, entries: Arc<[FeedEntry]>) {
        self.forget_parts(&entries);
        self.note_came(&entries);
        self.note_deletions(&entries);
        self.feeding.waiting.push_back(entries);
        match self.feeding.waiting.len() {
            // Nothing is being read.
            1 => self.feed(),
            waiting if waiting > WAITING_MAX => self.feed_rest(),
            _ => {}
        }
    }

    /// Deletions that wait for somebody's decision may have become pointless.
    fn note_deletions(&mut self, entries: &Arc<[FeedEntry]>) {
        let deletes = Arc::clone(&self.args.replica.deletes);
        if deletes.concerns(entries.iter().map(|entry| &entry.record.hash)) {
            let records: Vec<AssetRecord> = entries.iter().map(|entry| entry.record.clone()).collect();
            self.tasks.spawn(async move {
                // Nothing but a panic ends it, and that is told already.
                let _ = spawn_blocking(move || deletes.note(&records)).await;
            });
        }
    }

    pub(super) fn on_contents_loaded(&mut self, contents: InlineContents) {
        // They may have gone ahead without.
        if let Some(entries) = self.feeding.waiting.pop_front() {
            self.tell_changes(&entries, contents);
        }
        self.feed();
    }

    /// Tells what waits, up to the next changes whose contents have to be read.
    fn feed(&mut self) {
        while let Some(entries) = self.feeding.waiting.front() {
            let anybody = self.links.values().any(|link| link.up);
            let is_coming = |hash: &ContentHash| self.fetching.scheduler().wants(hash);
            let inline = if anybody { self.feeding.inline(entries, is_coming, now_ms()) } else { Vec::new() };
            if !inline.is_empty() {
                return self.load(inline);
            }
            if let Some(entries) = self.feeding.waiting.pop_front() {
                self.tell_changes(&entries, InlineContents::new());
            }
        }
    }

    /// Too much waits: all but the first, whose contents are being read, goes without.
    fn feed_rest(&mut self) {
        let rest = self.feeding.waiting.split_off(1);
        for entries in rest {
            self.tell_changes(&entries, InlineContents::new());
        }
    }

    fn load(&mut self, hashes: Vec<ContentHash>) {
        let (store, myself) = (Arc::clone(&self.args.replica.store), self.args.myself.clone());
        self.tasks.spawn(async move {
            // Without them they are offered without them.
            let read = timeout(LOAD_WITHIN, store.small_contents(hashes)).await;
            let contents = read.ok().and_then(Result::ok).unwrap_or_default();
            let _ = myself.cast(PeersMsg::ContentsLoaded(contents.into_iter().collect()));
        });
    }

    fn tell_changes(&self, entries: &Arc<[FeedEntry]>, contents: InlineContents) {
        let contents = Arc::new(contents);
        for link in self.links.values() {
            let (entries, contents) = (Arc::clone(entries), Arc::clone(&contents));
            link.cast(PeerMsg::StoreChanged { entries, contents });
        }
    }

    /// Records of folders go without contents, and wait for none.
    pub(super) fn on_entries_changed(&self, changed: &Arc<[StoredEntry]>) {
        for link in self.links.values() {
            link.cast(PeerMsg::EntriesChanged(Arc::clone(changed)));
        }
    }

    /// A library has something otherwise than the store: its members are to know.
    pub(super) fn on_library_changed(&self, library: LibraryId, records: &Arc<[FeedEntry]>) {
        for link in self.links.values() {
            link.cast(PeerMsg::LibraryChanged { library, records: Arc::clone(records) });
        }
    }

    pub(super) fn on_arrived(&mut self, library: Option<LibraryId>, records: &[AssetRecord]) {
        let decisions = self.fetching.arrived(library, records);
        self.carry_out(decisions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AssetMeta;
    use crate::store::Holding;

    const NOW: u64 = 1_700_000_000_000;

    fn entry(n: u8, size: u64, age_ms: u64) -> FeedEntry {
        let meta = AssetMeta { created_at_ms: NOW - age_ms, ..AssetMeta::default() };
        FeedEntry {
            seq: n.into(),
            record: AssetRecord::new(ContentHash([n; 32]), size, None, meta),
            holding: Holding::Held,
            formers: Vec::new(),
        }
    }

    #[test]
    fn small_new_assets_of_our_own_go_with_their_contents() {
        let mut feeding = Feeding::default();
        let max = INLINE_CONTENT_BYTES_MAX as u64;
        let mut entries = vec![
            entry(1, max, 0),
            entry(2, max + 1, 0),
            entry(3, 5, NEW_FOR_MS),
            entry(4, 5, 10),
            entry(5, 5, 0),
        ];
        feeding.note_foreign(vec![ContentHash([5; 32])]);
        let coming = |hash: &ContentHash| *hash == ContentHash([4; 32]);
        assert_eq!(feeding.inline(&entries, coming, NOW), [ContentHash([1; 32])]);
        // An edit has its content elsewhere already.
        entries[0].record.writer = WriterId([1; 32]);
        assert_eq!(feeding.inline(&entries, |_| false, NOW), [ContentHash([4; 32])]);
        let many: Vec<FeedEntry> = (10..27).map(|n| entry(n, max, 0)).collect();
        assert_eq!(feeding.inline(&many[..16], |_| false, NOW).len(), 16);
        assert_eq!(feeding.inline(&many, |_| false, NOW), []);
    }
}
