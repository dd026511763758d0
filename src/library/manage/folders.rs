//! Folders as libraries: which one is meant, what of it belongs, and by which library one came that is not our own network's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{Filter, FilterSpec, LibraryError, LibrarySize, Manager, PAGE};
use crate::entry::{EntryRecord, FolderDefinition, FolderId, FolderRecord};
use crate::library::Library;
use crate::library::ticket::{Access, LibraryId, Ticket};
use crate::record::ContentHash;
use crate::store::entries::{EntryQuery, FolderClaim};
use crate::store::{FeedEntry, StoreError};

/// What is kept of the contents that the directory had which is bound to a folder here. Blocks.
pub trait TakenContents: Send + Sync {
    /// All of them; `None` if no directory is bound to the folder.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn taken(&self, folder: FolderId) -> Result<Option<Vec<ContentHash>>, String>;

    /// Counts these among them, because a user says so.
    ///
    /// # Errors
    /// Why that cannot be written.
    fn take(&self, folder: FolderId, contents: &[ContentHash]) -> Result<(), String>;
}

impl Manager {
    /// A filter that makes sense, by what this node knows. A folder may be named by what people call it.
    pub(super) async fn checked(&self, mut spec: FilterSpec) -> Result<Filter, LibraryError> {
        let Some(wanted) = spec.folder.take() else { return Ok(Filter::try_from(spec)?) };
        let all = self.folders().await?;
        let id_of = |one: &FolderDefinition| data_encoding::HEXLOWER.encode(&one.folder.0);
        let found = all.iter().find(|one| id_of(one) == wanted);
        let called: Vec<&FolderDefinition> = all.iter().filter(|one| one.name == wanted).collect();
        let ours = || called.iter().filter(|one| self.libraries.foreign(one.folder).is_none());
        let folder = match (found, called.as_slice()) {
            (Some(found), _) => found,
            (None, []) => return Err(LibraryError::FolderUnknown(wanted)),
            (None, [one]) => one,
            // One that came by ticket cannot be meant.
            (None, _) if ours().count() == 1 => ours().next().ok_or(LibraryError::FolderUnknown(wanted))?,
            (None, _) => return Err(LibraryError::FolderAmbiguous(wanted)),
        };
        if self.libraries.foreign(folder.folder).is_some() {
            return Err(LibraryError::FolderForeign(folder.name.clone()));
        }
        if self.taken(folder.folder).await?.is_none() {
            return Err(LibraryError::FolderNotBound(folder.name.clone()));
        }
        spec.folder = Some(id_of(folder));
        Ok(Filter::try_from(spec)?)
    }

    /// What the store knows of all folders.
    async fn folders(&self) -> Result<Vec<FolderDefinition>, StoreError> {
        let mut all = Vec::new();
        self.read_entries(None, |records| {
            all.extend(records.into_iter().filter_map(|record| match record {
                FolderRecord::Definition(definition) => Some(definition),
                FolderRecord::Entry(_) => None,
            }));
        })
        .await?;
        Ok(all)
    }

    async fn read_entries(
        &self,
        folder: Option<FolderId>,
        mut take: impl FnMut(Vec<FolderRecord>),
    ) -> Result<(), StoreError> {
        let mut cursor = None;
        loop {
            let query = EntryQuery { folder, prefix: String::new(), cursor, limit: PAGE };
            let page = self.store.entries(query).await?;
            take(page.records);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn taken(&self, folder: FolderId) -> Result<Option<Vec<ContentHash>>, LibraryError> {
        let taken = Arc::clone(&self.taken);
        let done = spawn_blocking(move || taken.taken(folder)).await;
        done.map_err(|error| LibraryError::Failed(error.to_string()))?.map_err(LibraryError::Failed)
    }

    /// How much of a folder would be shared.
    pub(super) async fn count_folder(&self, folder: FolderId) -> Result<LibrarySize, LibraryError> {
        let taken: HashSet<ContentHash> = self.taken(folder).await?.unwrap_or_default().into_iter().collect();
        let mut sizes: HashMap<ContentHash, u64> = HashMap::new();
        self.read_entries(Some(folder), |records| {
            for record in records {
                if let FolderRecord::Entry(EntryRecord { file: Some(file), .. }) = record
                    && taken.contains(&file.target)
                {
                    sizes.insert(file.target, file.size);
                }
            }
        })
        .await?;
        let bytes = sizes.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
        Ok(LibrarySize { assets: sizes.len() as u64, bytes })
    }

    /// Reads what the store has of the folder that a library is, and what this machine's directory had.
    pub(super) async fn fill_folder(&self, library: &Library) -> Result<(), StoreError> {
        let Some(folder) = library.folder() else { return Ok(()) };
        if let Some(share) = library.share() {
            let failed = |error: LibraryError| StoreError::Io {
                action: "read what a folder's directory had".into(),
                reason: error.to_string(),
            };
            share.note_taken(self.taken(folder).await.map_err(failed)?.unwrap_or_default());
        }
        if let (Some(id), None) = (library.id(), library.share()) {
            // Also where another store took the place of the one that it was joined with.
            match self.store.claim_folder(folder, id).await {
                Ok(FolderClaim::Claimed) => self.libraries.set_foreign(folder, Some(id)),
                Ok(other) => tracing::warn!(?other, "nothing is taken of a folder that came by a ticket"),
                Err(StoreError::NoFolders | StoreError::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match self.read_entries(Some(folder), |records| library.fill_entries(&records)).await {
            // Another store than the one that the library was made with: it has nothing of folders.
            Err(error @ (StoreError::NoFolders | StoreError::Unsupported { .. })) => {
                tracing::warn!(%error, "nothing of a folder is shared");
                Ok(())
            }
            done => done,
        }
    }

    /// Reads what directories had that are bound to shared folders.
    ///
    /// # Errors
    /// The database that it is in.
    pub async fn load_taken(&self) -> Result<(), LibraryError> {
        let folders =
            self.libraries.shared().into_iter().filter_map(|library| Some(library.share()?.folder()));
        for folder in folders.collect::<HashSet<FolderId>>() {
            let taken = self.taken(folder).await?.unwrap_or_default();
            self.libraries.note_taken(folder, &taken);
        }
        Ok(())
    }

    /// Shares what the folder of a library has from other machines of the user's, as it is now; how many contents that are.
    ///
    /// # Errors
    /// A library that is unknown, not ours or no folder; the database.
    pub async fn release(&self, id: LibraryId) -> Result<u64, LibraryError> {
        let library = self.find(id)?;
        let Some(share) = library.share() else {
            let is_ours = library.shared().is_some_and(|shared| shared.key().is_some());
            return Err(if is_ours { LibraryError::NoFolder } else { LibraryError::NotOwner });
        };
        let (folder, contents, taken) = (share.folder(), share.not_taken(), Arc::clone(&self.taken));
        let count = contents.len() as u64;
        let written = spawn_blocking(move || taken.take(folder, &contents).map(|()| contents)).await;
        let written = written.map_err(|error| LibraryError::Failed(error.to_string()))?;
        self.libraries.note_taken(folder, &written.map_err(LibraryError::Failed)?);
        Ok(count)
    }

    /// Takes files' contents into the libraries of their folders, and out of them, as entries came and went; has members told.
    ///
    /// # Errors
    /// A store that does not work; what was not looked at comes again.
    pub async fn keep_shares(&self) -> Result<(), StoreError> {
        for library in self.libraries.shared() {
            let (Some(id), Some(share)) = (library.id(), library.share()) else { continue };
            loop {
                let changed = share.changed(PAGE);
                if changed.is_empty() {
                    break;
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
        Ok(())
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
