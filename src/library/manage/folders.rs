//! Folders as libraries: which one is meant, what of it belongs, and by which library one came that is not our own network's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{Filter, FilterSpec, LibraryError, LibrarySize, Manager, PAGE};
use crate::entry::{EntryHash, EntryRecord, FolderDefinition, FolderId, FolderRecord};
use crate::library::Library;
use crate::library::folder_share::WaitingContent;
use crate::library::report::{Released, UnreleasedReport};
use crate::library::ticket::{Access, LibraryId, Ticket};
use crate::record::ContentHash;
use crate::store::entries::{FolderClaim, definitions, entry_pages};
use crate::store::{FeedEntry, StoreError, StoreResult};
use crate::text::naming::meant;

/// How long somebody who asks waits for a library to be read, and how often that is looked at.
const FILLED_WITHIN: Duration = Duration::from_secs(10);
const FILLED_LOOK: Duration = Duration::from_millis(50);

/// What is kept of the contents that directories had which were bound to a folder here. Blocks.
pub trait TakenContents: Send + Sync {
    /// All of them, whether or not a directory is bound to the folder now.
    fn taken(&self, folder: FolderId) -> Result<Vec<ContentHash>, String>;

    fn is_bound(&self, folder: FolderId) -> Result<bool, String>;

    /// Counts these among them, because a user says so.
    fn take(&self, folder: FolderId, contents: &[ContentHash]) -> Result<(), String>;
}

impl Manager {
    /// A filter that makes sense, by what this node knows. A folder may be named as everywhere: see [`meant`].
    pub(super) async fn checked(&self, mut spec: FilterSpec) -> Result<Filter, LibraryError> {
        let Some(wanted) = spec.folder.take() else { return Ok(Filter::try_from(spec)?) };
        let id_of = |one: FolderDefinition| (data_encoding::HEXLOWER.encode(&one.folder.0), one);
        let all = definitions(&self.store).await?.into_iter().map(id_of).collect();
        let found = meant(&wanted, all, |(id, one)| (id, &one.name));
        let ours = || found.iter().filter(|(_, one)| self.libraries.foreign(one.folder).is_none());
        let (id, folder) = match found.as_slice() {
            [] => return Err(LibraryError::FolderUnknown(wanted)),
            [one] => one,
            // One that came by ticket cannot be meant.
            _ if ours().count() == 1 => ours().next().ok_or(LibraryError::FolderUnknown(wanted))?,
            _ => return Err(LibraryError::FolderAmbiguous(wanted)),
        };
        if self.libraries.foreign(folder.folder).is_some() {
            return Err(LibraryError::FolderForeign(folder.name.clone()));
        }
        let named = folder.folder;
        if !self.ask_taken(move |taken| taken.is_bound(named)).await? {
            return Err(LibraryError::FolderNotBound(folder.name.clone()));
        }
        spec.folder = Some(id.clone());
        Ok(Filter::try_from(spec)?)
    }

    async fn taken(&self, folder: FolderId) -> Result<Vec<ContentHash>, LibraryError> {
        self.ask_taken(move |taken| taken.taken(folder)).await
    }

    async fn ask_taken<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn TakenContents) -> Result<T, String> + Send + 'static,
    ) -> Result<T, LibraryError> {
        let taken = Arc::clone(&self.taken);
        let done = spawn_blocking(move || ask(taken.as_ref())).await;
        done.map_err(|error| LibraryError::Failed(error.to_string()))?.map_err(LibraryError::Failed)
    }

    /// How much of a folder would be shared.
    pub(super) async fn count_folder(&self, folder: FolderId) -> Result<LibrarySize, LibraryError> {
        let taken: HashSet<ContentHash> = self.taken(folder).await?.into_iter().collect();
        let mut sizes: HashMap<ContentHash, u64> = HashMap::new();
        let mut pages = entry_pages(&self.store, Some(folder));
        while let Some(records) = pages.try_next().await? {
            let entries = records.into_iter().filter_map(FolderRecord::into_entry);
            let files = entries.filter_map(|entry| entry.file).filter(|file| taken.contains(&file.target));
            sizes.extend(files.map(|file| (file.target, file.size)));
        }
        let bytes = sizes.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
        Ok(LibrarySize { assets: sizes.len() as u64, bytes })
    }

    /// Reads what the store has of the folder that a library is, and what this machine's directories had.
    pub(super) async fn fill_folder(&self, library: &Library) -> StoreResult {
        let Some(folder) = library.folder() else { return Ok(()) };
        if let Some(share) = library.share() {
            let failed = |error: LibraryError| StoreError::io("read what a folder's directory had", error);
            share.note_taken(self.taken(folder).await.map_err(failed)?);
        }
        if let (Some(id), Some(_)) = (library.id(), library.joined_folder()) {
            // Also where another store took the place of the one that it was joined with.
            match self.store.claim_folder(folder, id).await {
                Ok(FolderClaim::Claimed) => self.libraries.set_foreign(folder, Some(id)),
                Ok(other) => tracing::warn!(?other, "nothing is taken of a folder that came by a ticket"),
                Err(StoreError::NoFolders | StoreError::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let fill = async |records: Vec<_>| {
            library.fill_entries(&records);
            Ok(())
        };
        match entry_pages(&self.store, Some(folder)).try_for_each(fill).await {
            // Another store than the one that the library was made with: it has nothing of folders.
            Err(error @ (StoreError::NoFolders | StoreError::Unsupported { .. })) => {
                tracing::warn!(%error, "nothing of a folder is shared");
                Ok(())
            }
            done => done,
        }
    }

    /// The folder that a library is, and which is ours to share.
    async fn shared_folder(&self, id: LibraryId) -> Result<Arc<Library>, LibraryError> {
        let library = self.find(id)?;
        if library.share().is_none() {
            let is_ours = library.shared().is_some_and(|shared| shared.key().is_some());
            return Err(if is_ours { LibraryError::NoFolder } else { LibraryError::NotOwner });
        }
        self.until_filled(&library).await?;
        Ok(library)
    }

    /// Waits a moment for all that a library has: what is told of it before is a part.
    ///
    /// # Errors
    /// It takes longer.
    pub(super) async fn until_filled(&self, library: &Library) -> Result<(), LibraryError> {
        let filled = async {
            while library.share().is_some() && library.is_filling() {
                sleep(FILLED_LOOK).await;
            }
        };
        timeout(FILLED_WITHIN, filled).await.map_err(|_| LibraryError::Filling)
    }

    /// Up to so many contents of the folder of a library that are not shared before the user says so, in the order of their hashes,
    /// those behind `after`; how many there are altogether, and behind which the next ones are.
    pub async fn unreleased(
        &self,
        id: LibraryId,
        after: Option<ContentHash>,
        limit: usize,
    ) -> Result<(Vec<UnreleasedReport>, u64, Option<ContentHash>), LibraryError> {
        let library = self.shared_folder(id).await?;
        let Some(share) = library.share() else { return Err(LibraryError::NoFolder) };
        let waiting = share.waiting(after, limit.min(PAGE));
        let next = waiting.last().map(|last| last.hash).filter(|_| waiting.len() == limit.min(PAGE));
        let named = self.store.entries_named(waiting.iter().map(|one| one.entry).collect()).await?;
        let named = named.into_iter().filter_map(FolderRecord::into_entry);
        let named: HashMap<EntryHash, EntryRecord> = named.map(|entry| (entry.hash(), entry)).collect();
        let held = self.store.held(waiting.iter().map(|one| one.hash).collect()).await?;
        let held: HashSet<ContentHash> = held.into_iter().collect();
        let report = |one: WaitingContent| {
            let EntryRecord { path, file, .. } = named.get(&one.entry)?;
            // The path has something else by now.
            let file = file.as_ref().filter(|file| file.target == one.hash)?;
            Some(UnreleasedReport {
                path: path.as_str().to_owned(),
                hash: one.hash.to_string(),
                size: file.size,
                paths: one.entries,
                held: held.contains(&one.hash),
            })
        };
        Ok((waiting.into_iter().filter_map(report).collect(), share.not_shared(), next))
    }

    /// Shares contents of the folder of a library that wait for that, in all libraries of the folder: those that are named, or all that
    /// wait now. How many of them are here, and how many are not yet.
    pub async fn release(
        &self,
        id: LibraryId,
        hashes: Option<Vec<ContentHash>>,
    ) -> Result<Released, LibraryError> {
        let library = self.shared_folder(id).await?;
        let Some(share) = library.share() else { return Err(LibraryError::NoFolder) };
        let all = || share.waiting(None, usize::MAX).into_iter().map(|one| one.hash).collect();
        let contents: Vec<ContentHash> = hashes.map_or_else(all, |hashes| share.waiting_among(&hashes));
        let (folder, mut released) = (share.folder(), Released::default());
        for part in contents.chunks(PAGE) {
            let held = self.store.held(part.to_vec()).await?.len() as u64;
            let written = part.to_vec();
            self.ask_taken(move |taken| taken.take(folder, &written)).await?;
            self.libraries.note_taken(folder, part);
            released.released += held;
            released.absent += part.len() as u64 - held;
        }
        Ok(released)
    }

    /// Takes files' contents into the libraries of their folders, and out of them, as entries came and went; has members told.
    ///
    /// # Errors
    /// A store that does not work; what was not looked at comes again.
    pub async fn keep_shares(&self) -> StoreResult {
        for library in self.libraries.shared() {
            self.keep_share(&library).await?;
        }
        Ok(())
    }

    /// The same of one of them.
    pub(super) async fn keep_share(&self, library: &Library) -> StoreResult {
        let (Some(id), Some(share)) = (library.id(), library.share()) else { return Ok(()) };
        loop {
            let changed = share.changed(PAGE);
            if changed.is_empty() {
                return Ok(());
            }
            let hashes = changed.iter().map(|(hash, _)| *hash).collect();
            let entry = |stored: crate::store::StoredRecord| FeedEntry {
                seq: 0,
                record: stored.record,
                holding: stored.holding,
                formers: Vec::new(),
            };
            let stored = self.store.records(hashes).await?.into_iter().map(entry).collect();
            let told: Arc<[FeedEntry]> = library.look_again(stored).into();
            if let Some(told) = library.changes(&told) {
                (self.changes)(id, told);
            }
            share.looked_at(&changed);
        }
    }

    /// Takes note that a folder comes by the library of this ticket from now on. One folder has one source: neither what our own
    /// network has in one nor what came by another library is to be changed by whoever knows the folder's id.
    pub(super) async fn claim_folder(&self, ticket: &Ticket) -> Result<(), LibraryError> {
        let Some(folder) = ticket.filter.folder() else { return Ok(()) };
        let claims = ticket.claims();
        if claims.access != Access::Read {
            return Err(LibraryError::FolderWrite);
        }
        match self.store.claim_folder(folder, claims.library).await? {
            FolderClaim::Claimed => self.libraries.set_foreign(folder, Some(claims.library)),
            FolderClaim::Here => return Err(LibraryError::FolderHere),
            FolderClaim::Elsewhere(other) => return Err(LibraryError::FolderElsewhere(other)),
        }
        Ok(())
    }

    /// Forgets what came of a folder by a library that is to be forgotten.
    pub(super) async fn drop_folder(&self, library: LibraryId, folder: FolderId) -> Result<(), LibraryError> {
        self.store.drop_folder(folder, library).await?;
        if self.libraries.foreign(folder) == Some(library) {
            self.libraries.set_foreign(folder, None);
        }
        Ok(())
    }
}
