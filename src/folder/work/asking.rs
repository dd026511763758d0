//! What the store is asked about many paths at once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::runtime::Handle;

use super::{FolderWork, StopSwitch, WorkError, wait};
use crate::entry::{EntryHash, EntryPath, EntryRecord, FolderId, FolderRecord};
use crate::folder::{DiskSight, SeenFile};
use crate::record::ContentHash;
use crate::store::StoreRef;
use crate::store::entries::{entry_pages, whole_history};

/// Contents that the store is asked for at once.
const HELD_MAX: usize = 1_000;
/// Such questions at the same time.
const HELD_AT_ONCE: usize = 4;
const HISTORIES_AT_ONCE: usize = 16;

/// What the store says of the paths of a round.
pub(super) struct StoreAnswers {
    here: HashSet<ContentHash>,
    /// Versions that lost, of the paths for which they matter.
    histories: HashMap<EntryHash, Vec<EntryRecord>>,
}

impl StoreAnswers {
    pub(super) fn is_here(&self, content: ContentHash) -> bool {
        self.here.contains(&content)
    }

    pub(super) fn history(&self, hash: EntryHash) -> &[EntryRecord] {
        self.histories.get(&hash).map_or(&[], Vec::as_slice)
    }
}

/// Reads all that a folder has, on whatever thread.
pub(super) struct EntriesReader {
    store: StoreRef,
    runtime: Handle,
    folder: FolderId,
    stop: Arc<StopSwitch>,
}

impl EntriesReader {
    pub(super) fn read(&self) -> Result<Vec<EntryRecord>, WorkError> {
        let (mut all, mut pages) = (Vec::new(), entry_pages(&self.store, Some(self.folder)));
        while let Some(page) = wait(&self.runtime, pages.try_next())? {
            all.extend(page.into_iter().filter_map(FolderRecord::into_entry));
            if self.stop.is_set() {
                return Err(WorkError::Stopped);
            }
        }
        Ok(all)
    }
}

impl FolderWork {
    pub(super) fn entries_reader(&self) -> EntriesReader {
        EntriesReader {
            store: StoreRef::clone(&self.context.store),
            runtime: self.runtime.clone(),
            folder: self.binding.marker.folder,
            stop: Arc::clone(&self.stop),
        }
    }

    /// Asks all that a plan of these paths depends on.
    pub(super) fn ask_store(&self, todo: &BTreeSet<EntryHash>) -> Result<StoreAnswers, WorkError> {
        let here = self.contents_here(todo)?;
        let folder = self.binding.marker.folder;
        let asked = todo.iter().filter(|hash| self.needs_history(**hash));
        let asked: Vec<(EntryHash, EntryPath)> =
            asked.filter_map(|hash| Some((*hash, self.observed.get(hash)?.path.clone()))).collect();
        let histories = futures::stream::iter(asked).map(async |(hash, path)| {
            let versions = whole_history(&self.context.store, folder, path.as_str()).await?;
            Ok((hash, versions.into_iter().filter_map(FolderRecord::into_entry).collect()))
        });
        // The limit of a wait is that of one answer.
        let mut histories = Box::pin(histories.buffer_unordered(HISTORIES_AT_ONCE));
        let mut answers = StoreAnswers { here, histories: HashMap::new() };
        while let Some((hash, versions)) = self.wait(histories.try_next())? {
            answers.histories.insert(hash, versions);
        }
        Ok(answers)
    }

    /// Whether former versions of a path say what the disk shows.
    fn needs_history(&self, hash: EntryHash) -> bool {
        let Some(entry) = self.entries.get(&hash) else { return false };
        if self.observed.get(&hash).is_some_and(|seen| seen.disk == DiskSight::Ignored) {
            return false;
        }
        let is_same = self.agreed.get(&hash).is_none_or(|row| row.entry == *entry);
        !is_same || self.read_of(hash).is_some_and(|read| entry.target() != Some(read))
    }

    pub(super) fn file_of(&self, hash: EntryHash) -> Option<&SeenFile> {
        let DiskSight::File(file) = &self.observed.get(&hash)?.disk else { return None };
        Some(file)
    }

    /// What was found to be in the file, if it was read.
    pub(super) fn read_of(&self, hash: EntryHash) -> Option<ContentHash> {
        self.file_of(hash)?.read.map(|read| read.hash)
    }

    pub(super) fn history(&self, path: &EntryPath) -> Result<Vec<EntryRecord>, WorkError> {
        let versions = whole_history(&self.context.store, self.binding.marker.folder, path.as_str());
        Ok(self.wait(versions)?.into_iter().filter_map(FolderRecord::into_entry).collect())
    }

    /// Which of the contents that these paths speak of are here.
    fn contents_here(&self, todo: &BTreeSet<EntryHash>) -> Result<HashSet<ContentHash>, WorkError> {
        let mut asked: BTreeSet<ContentHash> = BTreeSet::new();
        for hash in todo {
            asked.extend(self.entries.get(hash).and_then(EntryRecord::target));
            asked.extend(self.agreed.get(hash).and_then(|row| row.entry.target()));
            asked.extend(self.read_of(*hash));
        }
        self.are_here(asked)
    }

    pub(super) fn are_here(
        &self,
        asked: impl IntoIterator<Item = ContentHash>,
    ) -> Result<HashSet<ContentHash>, WorkError> {
        let asked: Vec<ContentHash> = asked.into_iter().collect();
        let mut here = HashSet::with_capacity(asked.len());
        let held = futures::stream::iter(asked.chunks(HELD_MAX))
            .map(|part| self.context.store.held(part.to_vec()))
            .buffer_unordered(HELD_AT_ONCE);
        let mut held = Box::pin(held);
        while let Some(part) = self.wait(held.try_next())? {
            here.extend(part);
        }
        Ok(here)
    }
}
