//! What people do with libraries: each operation whole or not at all, whatever is in the way.
//!
//! The registry is written first and what runs follows it, so that a crash in between is made good by reading the
//! registry again ([`Manager::restore`]).

mod asides;
mod folders;
mod joining;
mod leaving;
mod members;
mod pins;
#[cfg(test)]
mod tests;
mod tickets;

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use iroh::EndpointId;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use zeroize::Zeroizing;

pub use self::folders::TakenContents;
pub use self::pins::PINNED_AT_ONCE_MAX;
pub use self::tickets::{Invitation, Revoke};
use super::error::LibraryError;
use super::filter::{Filter, FilterSpec};
use super::private::Private;
use super::registry::{Kept, Registry};
use super::report::{LibraryDetail, LibraryReport, LibrarySize};
use super::revocation::{FRESH_WITHIN_SECS_MAX, FRESH_WITHIN_SECS_MIN, Revocations, SignedRevocations};
use super::sharing::Sharing;
use super::ticket::{Access, LibraryId, Subject, Terms, Ticket};
use super::{Libraries, Library, SharedLibrary};
use crate::clock::{Clock, now_ms};
use crate::discovery::address_book::AddressBook;
use crate::discovery::candidates::Candidates;
use crate::net::gate::Gate;
use crate::store::{FeedEntry, StoreError, StoreRef, StoreResult};
use crate::text::same_text;

/// Records in one page of the store.
const PAGE: usize = 1000;
/// How often the whole store is read anew, where its feed begins anew under the reader, before that is an error.
const READINGS_MAX: u32 = 10;
/// Contents that are wanted at once: what of them is in the trash is hashed meanwhile.
const WANTED_AT_ONCE: usize = 100;
/// Pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// Hears what a library has otherwise than the store from now on, to tell its members.
pub type LibraryChanges = Arc<dyn Fn(LibraryId, Arc<[FeedEntry]>) + Send + Sync>;

/// Does it. Cheap to clone.
#[derive(Clone)]
pub struct Manager {
    pub libraries: Arc<Libraries>,
    pub store: StoreRef,
    pub own_id: EndpointId,
    /// Where we can be reached.
    pub ticket: watch::Receiver<String>,
    /// Where members can be reached.
    pub book: AddressBook,
    /// Where addresses of members go.
    pub members: Candidates,
    pub gate: Gate,
    /// Who tells members what libraries have otherwise than the store.
    pub changes: LibraryChanges,
    /// What directories of this machine had that are bound to folders.
    pub taken: Arc<dyn TakenContents>,
    pub clock: Clock,
    /// One change at a time.
    pub busy: Arc<tokio::sync::Mutex<()>>,
}

impl Manager {
    /// Does something with the registry off the async threads.
    async fn registry<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T, super::registry::RegistryError> + Send + 'static,
    ) -> Result<T, LibraryError> {
        let registry = self.libraries.registry().ok_or(LibraryError::NoRegistry)?.clone();
        match spawn_blocking(move || work(&registry)).await {
            Ok(done) => Ok(done?),
            Err(error) => Err(LibraryError::Failed(error.to_string())),
        }
    }

    fn find(&self, id: LibraryId) -> Result<Arc<Library>, LibraryError> {
        self.libraries.get(id).ok_or(LibraryError::Unknown(id))
    }

    /// Counts what a filter would take in of what is held here.
    pub async fn preview(&self, filter: FilterSpec) -> Result<LibrarySize, LibraryError> {
        self.count(&self.checked(filter).await?).await
    }

    async fn count(&self, filter: &Filter) -> Result<LibrarySize, LibraryError> {
        if let Some(folder) = filter.folder() {
            return self.count_folder(folder).await;
        }
        let add = |size: &mut LibrarySize, entries: Vec<FeedEntry>| {
            for FeedEntry { record, holding, .. } in entries {
                if holding.is_held() && record.via.is_none() && filter.matches(&record) {
                    size.assets += 1;
                    size.bytes += record.size;
                }
            }
        };
        Ok(self.read_store(add).await?)
    }

    /// Reads all that the store has, page by page: anew where it cannot go on from where it was read to, a few times.
    async fn read_store<T: Default>(&self, mut take: impl FnMut(&mut T, Vec<FeedEntry>)) -> StoreResult<T> {
        let (mut all, mut cursor, mut begun) = (T::default(), 0, 1);
        loop {
            let page = self.store.feed(cursor, PAGE).await?;
            match page.entries.last().map(|last| last.seq) {
                Some(last) => {
                    cursor = last;
                    take(&mut all, page.entries);
                }
                None if page.reset && cursor > 0 && begun == READINGS_MAX => {
                    let reason = format!("its feed began anew {READINGS_MAX} times meanwhile");
                    return Err(StoreError::io("read all of the store", reason));
                }
                None if page.reset && cursor > 0 => (all, cursor, begun) = (T::default(), 0, begun + 1),
                None => return Ok(all),
            }
        }
    }

    /// Makes a library, which is ours. With `fresh_within_secs`, members hold what others than we write once their list of
    /// revocations is older than that.
    pub async fn create(
        &self,
        name: String,
        filter: FilterSpec,
        fresh_within_secs: Option<u64>,
    ) -> Result<Arc<Library>, LibraryError> {
        let filter = self.checked(filter).await?;
        if let Some(secs) = fresh_within_secs
            && !(FRESH_WITHIN_SECS_MIN..=FRESH_WITHIN_SECS_MAX).contains(&secs)
        {
            return Err(LibraryError::FreshWithin(secs));
        }
        let is_called = |library: &Arc<Library>| {
            library.shared().is_some_and(|shared| same_text(&shared.ticket().claims().name, name.trim()))
        };
        if self.libraries.shared().iter().any(is_called) {
            return Err(LibraryError::NameTaken(name));
        }
        let mut seed = Zeroizing::new([0; 32]);
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(seed.as_mut_slice());
        rand::fill(secret.as_mut_slice());
        let key = SigningKey::from_bytes(&seed);
        let ticket = Ticket::issue(&key, self.own_terms(name, 0), secret, filter, Vec::new())?;
        let list = fresh_within_secs.map(|secs| {
            let list = Revocations { fresh_within_ms: secs * 1000, ..Revocations::default() };
            SignedRevocations::sign(&key, list.dated(self.clock.now_ms()))
        });
        let sharing = Sharing::agreed(0, self.clock.now_ms());
        self.keep(Some(key), (ticket, list), (sharing, None), None).await
    }

    /// The owner's own ticket is like any other.
    fn own_terms(&self, name: String, epoch: u64) -> Terms {
        let subject = Subject::Endpoint(self.own_id);
        Terms { subject, epoch, ..Terms::unlimited(name, Access::Write) }
    }

    async fn keep(
        &self,
        key: Option<SigningKey>,
        (ticket, first_list): (Ticket, Option<SignedRevocations>),
        (sharing, private): (Sharing, Option<Private>),
        replaced: Option<&Library>,
    ) -> Result<Arc<Library>, LibraryError> {
        let now = now_ms();
        let room = {
            let (key, ticket, list) = (key.clone(), ticket.clone(), first_list.clone());
            let private = private.clone();
            let keep = move |registry: &Registry| {
                registry.keep(key.as_ref(), &ticket, list.as_ref(), (sharing, private.as_ref()), now)
            };
            self.registry(keep).await?
        };
        if !room {
            return Err(LibraryError::Full);
        }
        let before = replaced.and_then(Library::shared);
        let list = before.and_then(SharedLibrary::signed_revocations).or(first_list);
        let revocations = list.map(|list| list.encode());
        let created_ms = before.map_or(now, SharedLibrary::created_ms);
        let kept = Kept { key, ticket, created_ms, revocations, sharing };
        let shared = SharedLibrary::new(kept, replaced.map(Library::asides).unwrap_or_default());
        if let Some(before) = before {
            shared.adopt(before);
        }
        if let Some(private) = private {
            shared.set_private(private);
        }
        for (id, serial) in before.map(SharedLibrary::members).unwrap_or_default() {
            shared.met(id, serial);
        }
        let library = self.libraries.add(shared);
        if let Some(replaced) = replaced {
            library.take_over_asides(replaced);
        }
        Ok(library)
    }

    /// Reads what the store holds into a library that was just added.
    pub async fn fill(&self, library: &Library) {
        if !library.is_filling() {
            return;
        }
        while let Err(error) = self.fill_once(library).await {
            tracing::debug!(%error, "the store cannot be read into a library; trying again");
            sleep(RETRY).await;
        }
        library.filled();
    }

    async fn fill_once(&self, library: &Library) -> StoreResult {
        self.fill_folder(library).await?;
        if library.share().is_some() {
            // Contents whose entries were read are looked at one by one.
            return self.keep_share(library).await;
        }
        self.read_store(|(), entries| library.fill(&entries)).await
    }

    pub async fn list(&self) -> Result<Vec<LibraryDetail>, LibraryError> {
        let mut all = Vec::new();
        for id in self.libraries.shared().iter().filter_map(|library| library.id()) {
            match self.show(id).await {
                Ok(detail) => all.push(detail),
                // Deleted meanwhile.
                Err(LibraryError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    pub async fn show(&self, id: LibraryId) -> Result<LibraryDetail, LibraryError> {
        self.write_news().await?;
        let library = self.find(id)?;
        let (members, tickets) =
            self.registry(move |registry| Ok((registry.members(id)?, registry.tickets(id)?))).await?;
        let report = LibraryReport::new(&library, self.clock.now_ms()).ok_or(LibraryError::Unknown(id))?;
        Ok(LibraryDetail::new(report, &library, members, tickets))
    }

    /// Wants what is in a library that a user has just joined and was let go of before: it comes back from the trash, or
    /// from members.
    pub async fn want_contents(&self, library: &Library) {
        for some in library.unwanted().chunks(WANTED_AT_ONCE) {
            while let Err(error) = self.store.want(some.to_vec()).await {
                tracing::debug!(%error, "the store does not take what is wanted; trying again");
                sleep(RETRY).await;
            }
        }
    }

    /// Brings what runs in line with the registry, after an incarnation that ended in the middle of something; gives
    /// the libraries that are still to be filled.
    pub async fn restore(&self) -> Result<Vec<Arc<Library>>, LibraryError> {
        let _one = self.busy.lock().await;
        if self.libraries.registry().is_none() {
            return Ok(Vec::new());
        }
        let kept = self.registry(Registry::libraries).await?;
        let ids: Vec<LibraryId> = kept.iter().map(|kept| kept.ticket.claims().library).collect();
        for library in self.libraries.shared() {
            if let Some(id) = library.id().filter(|id| !ids.contains(id)) {
                self.libraries.take(id);
            }
        }
        for kept in kept {
            let id = kept.ticket.claims().library;
            let runs = self.libraries.get(id);
            let same = |library: &Arc<Library>| library.shared().is_some_and(|s| s.ticket() == kept.ticket);
            if !runs.as_ref().is_some_and(same) {
                let replaced = runs.clone();
                let shared = self.registry(move |registry| {
                    // What runs may have more than was written down.
                    let asides = replaced.map_or_else(|| registry.asides(id), |runs| Ok(runs.asides()))?;
                    let shared = SharedLibrary::new(kept, asides);
                    shared.restore(registry)?;
                    Ok(shared)
                });
                let library = self.libraries.add(shared.await?);
                if let Some(replaced) = runs {
                    library.take_over_asides(&replaced);
                }
            }
        }
        Ok(self.libraries.shared().into_iter().filter(|library| library.is_filling()).collect())
    }
}
