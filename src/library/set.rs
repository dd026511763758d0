//! All libraries of a node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iroh::EndpointId;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::registry::{DeviceStanding, Registry, RegistryError};
use super::ticket::{LibraryId, TicketSerial};
use super::{Library, SharedLibrary};
use crate::entry::{EntryHash, FolderId};
use crate::record::ContentHash;
use crate::store::entries::StoredEntry;
use crate::store::{FeedEntry, StoreId, StoreStatus};

/// All libraries of a node: the mirror and those that are shared by ticket, and who is let in at all.
#[derive(Debug)]
pub struct Libraries {
    mirror: Arc<Library>,
    shared: RwLock<Vec<Arc<Library>>>,
    devices: RwLock<HashMap<EndpointId, DeviceStanding>>,
    /// Whether new devices of the network wait for somebody to approve them.
    approval: bool,
    registry: Option<Registry>,
    /// Grows with each library that comes.
    generation: AtomicU64,
}

impl Libraries {
    pub fn of(mirror: Arc<Library>) -> Self {
        Self {
            mirror,
            shared: RwLock::default(),
            devices: RwLock::default(),
            approval: false,
            registry: None,
            generation: AtomicU64::new(0),
        }
    }

    /// The mirror, and what the registry holds. Blocks. Nothing was read from the store yet, so its feed fills the
    /// libraries. With `approval`, new devices wait for somebody to approve them.
    pub fn load(mirror: Arc<Library>, registry: Registry, approval: bool) -> Result<Self, RegistryError> {
        let mut shared = Vec::new();
        for kept in registry.libraries()? {
            let asides = registry.asides(kept.ticket.claims().library)?;
            let shared_by = SharedLibrary::new(kept, asides);
            shared_by.restore(&registry)?;
            let library = Library::beside(&mirror, shared_by);
            if let (Some(folder), Some(id)) = (library.joined_folder(), library.id()) {
                mirror.feed.foreign.write().insert(folder, id);
            }
            // What of a folder that we share belongs, the store's feed does not say.
            if library.share().is_none() {
                library.filled();
            }
            shared.push(Arc::new(library));
        }
        mirror.holds.restore(registry.pins()?);
        let devices = registry.devices()?.into_iter();
        let devices = devices.filter_map(|d| Some((d.endpoint_id.parse().ok()?, d.standing))).collect();
        let libraries = Self {
            mirror,
            shared: RwLock::new(shared),
            devices: RwLock::new(devices),
            approval,
            registry: Some(registry),
            generation: AtomicU64::new(0),
        };
        libraries.note_filters();
        Ok(libraries)
    }

    pub fn mirror(&self) -> &Arc<Library> {
        &self.mirror
    }

    /// What outlives the process; `None` where only the mirror is.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Those that are shared by ticket, the oldest first.
    pub fn shared(&self) -> Vec<Arc<Library>> {
        self.shared.read().clone()
    }

    pub fn get(&self, id: LibraryId) -> Option<Arc<Library>> {
        self.shared().into_iter().find(|library| library.id() == Some(id))
    }

    /// Adds one in place of an older one of the same id. Its index follows the feed from now on; what the store holds
    /// already is to be given to [`Library::fill`].
    pub fn add(&self, shared: SharedLibrary) -> Arc<Library> {
        let library = Arc::new(Library::beside(&self.mirror, shared));
        let mut all = self.shared.write();
        all.retain(|other| other.id() != library.id());
        all.push(Arc::clone(&library));
        self.generation.fetch_add(1, Ordering::Relaxed);
        library
    }

    /// Grows with each library that comes: sessions then look whether they share it.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Whether a library is shared with this endpoint as far as is known, so that there is something to offer to it.
    pub fn lead_to(&self, id: &EndpointId) -> bool {
        self.shared().iter().any(|library| library.shared().is_some_and(|shared| shared.leads_to(id)))
    }

    /// The ticket by which this endpoint was let into a library before.
    pub fn ticket_of(&self, id: &EndpointId) -> Option<TicketSerial> {
        let of = |library: &Arc<Library>| {
            let shared = library.shared()?;
            Some(TicketSerial { library: shared.id(), serial: shared.serial_of(id)? })
        };
        self.shared().iter().find_map(of)
    }

    /// Takes one out; whether it was there.
    pub fn take(&self, id: LibraryId) -> bool {
        let mut all = self.shared.write();
        let before = all.len();
        all.retain(|library| library.id() != Some(id));
        all.len() < before
    }

    /// Takes changed records into every library; returns those that differ from what the mirror had.
    pub fn apply(&self, entries: Vec<FeedEntry>) -> Vec<FeedEntry> {
        for library in self.shared() {
            library.apply(entries.clone());
        }
        self.mirror.apply(entries)
    }

    /// Takes changed records of folders into every library that has them; returns those that differ from what some had.
    pub fn apply_entries(&self, changed: Vec<StoredEntry>) -> Vec<StoredEntry> {
        if changed.is_empty() {
            return changed;
        }
        let mut is_news = self.mirror.apply_entries(&changed);
        for library in self.shared() {
            for (is_news, is_news_there) in is_news.iter_mut().zip(library.apply_entries(&changed)) {
                *is_news |= is_news_there;
            }
        }
        let mut is_news = is_news.into_iter();
        changed.into_iter().filter(|_| is_news.next().unwrap_or_default()).collect()
    }

    /// Takes out records of folders that the store no longer has.
    pub fn remove_entries(&self, hashes: &[EntryHash]) {
        for library in self.shared() {
            library.remove_entries(hashes);
        }
        self.mirror.remove_entries(hashes);
    }

    /// Every record of a folder that some index knows.
    pub fn entry_hashes(&self) -> Vec<EntryHash> {
        let mut all = self.mirror.entry_hashes();
        // Those of our own folders are in the mirror, too.
        let joined = self.shared().into_iter().filter(|library| library.share().is_none());
        all.extend(joined.flat_map(|library| library.entry_hashes()));
        all
    }

    /// The library by which a folder came that is not our network's own.
    pub fn foreign(&self, folder: FolderId) -> Option<LibraryId> {
        self.mirror.feed.foreign.read().get(&folder).copied()
    }

    /// Takes note of all of them, as the store said while `before` was what [`Self::foreign_folders`] gave; whether that was so until now.
    /// What the store said before one was claimed or dropped would undo that.
    pub fn set_foreign_folders(
        &self,
        before: &HashMap<FolderId, LibraryId>,
        folders: Vec<(FolderId, LibraryId)>,
    ) -> bool {
        let mut foreign = self.mirror.feed.foreign.write();
        let is_as_before = *foreign == *before;
        if is_as_before {
            *foreign = folders.into_iter().collect();
        }
        is_as_before
    }

    /// All folders that came by a library, as far as is known.
    pub fn foreign_folders(&self) -> HashMap<FolderId, LibraryId> {
        self.mirror.feed.foreign.read().clone()
    }

    pub(super) fn set_foreign(&self, folder: FolderId, library: Option<LibraryId>) {
        let mut foreign = self.mirror.feed.foreign.write();
        match library {
            Some(library) => drop(foreign.insert(folder, library)),
            None => drop(foreign.remove(&folder)),
        }
    }

    /// Takes note of contents that files of the directory had which is bound to a folder here.
    pub fn note_taken(&self, folder: FolderId, hashes: &[ContentHash]) {
        let all = self.shared();
        let shares = all.iter().filter_map(|library| library.share());
        for share in shares.filter(|share| share.folder() == folder) {
            if share.note_taken(hashes.iter().copied()) {
                self.mirror.feed.shares_changed.notify_one();
            }
        }
    }

    /// Waits until what belongs to some library of a folder may have changed.
    pub async fn shares_changed(&self) {
        self.mirror.feed.shares_changed.notified().await;
    }

    /// Waits until asides of some library changed.
    pub async fn asides_changed(&self) {
        self.mirror.feed.asides_changed.notified().await;
    }

    /// Takes out records that the store no longer has.
    pub fn remove(&self, hashes: &[ContentHash]) {
        for library in self.shared() {
            library.remove(hashes);
        }
        self.mirror.remove(hashes);
    }

    /// As [`Library::set_cursor`], for all of them.
    pub fn set_cursor(&self, seq: u64) {
        self.mirror.set_cursor(seq);
    }

    /// As [`Library::cursor`].
    pub fn cursor(&self) -> watch::Receiver<Option<u64>> {
        self.mirror.cursor()
    }

    /// Takes note which store the feed is read of, from its beginning.
    pub fn set_source(&self, store: Option<StoreId>) {
        *self.mirror.feed.source.lock() = store;
    }

    /// Whether this is not the store any more that the feed was read of: the cursor means nothing to it.
    pub fn is_other_source(&self, store: Option<StoreId>) -> bool {
        let source = *self.mirror.feed.source.lock();
        source.zip(store).is_some_and(|(source, store)| source != store)
    }

    /// As [`Library::set_store_status`].
    pub fn set_store_status(&self, status: StoreStatus) {
        self.mirror.set_store_status(status);
    }

    /// How an endpoint stands with the network of the passphrase, by what somebody decided.
    pub fn standing(&self, id: &EndpointId) -> DeviceStanding {
        let known = self.devices.read().get(id).copied();
        match known {
            Some(DeviceStanding::Denied) => DeviceStanding::Denied,
            Some(DeviceStanding::Waiting) | None if self.approval => DeviceStanding::Waiting,
            Some(DeviceStanding::Approved | DeviceStanding::Waiting) | None => DeviceStanding::Approved,
        }
    }

    pub fn set_standing(&self, id: EndpointId, standing: DeviceStanding) {
        self.devices.write().insert(id, standing);
    }
}
