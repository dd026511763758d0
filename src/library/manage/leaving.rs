//! Forgetting libraries, with what came through them or without. What another machine was promised stays until that is over, and goes then.

use super::{Manager, PAGE};
use crate::library::error::LibraryError;
use crate::library::registry::LeftContent;
use crate::library::report::LetGo;
use crate::library::ticket::LibraryId;
use crate::record::ContentHash;
use crate::store::{FeedEntry, ItemOutcome, StoreResult};

impl Manager {
    /// Forgets a library; with `content`, lets go of what came through it and is in no other: the records stay, here and
    /// everywhere, and nobody deletes anything. Says how much that was, and how much stays for now.
    ///
    /// # Errors
    /// An unknown library, a registry or store that does not work; then the library is still there.
    pub async fn delete(&self, id: LibraryId, content: bool) -> Result<LetGo, LibraryError> {
        let _one = self.busy.lock().await;
        let library = self.find(id)?;
        let mut done = LetGo::default();
        if content {
            let mut hashes = self.came_through(id).await?;
            let others: Vec<_> =
                self.libraries.shared().into_iter().filter(|other| other.id() != Some(id)).collect();
            hashes.retain(|hash| !others.iter().any(|other| other.has(hash)));
            let hashes = self.not_pinned(hashes).await?;
            let (gone, promised) = self.let_go(&hashes).await?;
            done = LetGo { gone: gone.len() as u64, promised: promised.len() as u64 };
            let left: Vec<LeftContent> =
                promised.into_iter().map(|hash| LeftContent { hash, library: id }).collect();
            self.registry(move |registry| registry.keep_left(&left)).await?;
        }
        if let Some(folder) = library.joined_folder() {
            self.drop_folder(id, folder).await?;
        }
        self.registry(move |registry| registry.forget(id)).await?;
        self.libraries.take(id);
        Ok(done)
    }

    /// What the store has through a library alone. What was here before it came, and what somebody put here since, is this
    /// node's own, whatever members said about it.
    async fn came_through(&self, id: LibraryId) -> Result<Vec<ContentHash>, LibraryError> {
        let add = |hashes: &mut Vec<ContentHash>, entries: Vec<FeedEntry>| {
            let records = entries.iter().map(|entry| &entry.record);
            let theirs =
                records.filter(|record| !record.deleted && record.via == Some(id) && !record.is_own());
            hashes.extend(theirs.map(|record| record.hash));
        };
        Ok(self.read_store(add).await?)
    }

    async fn not_pinned(&self, hashes: Vec<ContentHash>) -> StoreResult<Vec<ContentHash>> {
        let rules = self.libraries.hold_rules();
        let mut free = Vec::with_capacity(hashes.len());
        for some in hashes.chunks(PAGE) {
            let stored = self.store.records(some.to_vec()).await?.into_iter().map(|stored| stored.record);
            free.extend(stored.filter(|record| !rules.is_pinned(record)).map(|record| record.hash));
        }
        Ok(free)
    }

    /// Lets go of contents: those that went, and those that stay because they are promised to other machines.
    async fn let_go(&self, hashes: &[ContentHash]) -> StoreResult<(Vec<ContentHash>, Vec<ContentHash>)> {
        let (mut gone, mut promised) = (Vec::new(), Vec::new());
        for some in hashes.chunks(PAGE) {
            let outcomes = self.store.let_go(some.to_vec()).await?;
            let mut others = Vec::new();
            for (hash, outcome) in some.iter().zip(outcomes) {
                if outcome == ItemOutcome::Absent { gone.push(*hash) } else { others.push(*hash) }
            }
            let stay = self.store.records(others).await?.into_iter();
            promised.extend(stay.filter(|stay| stay.holding.is_held()).map(|stay| stay.record.hash));
        }
        Ok((gone, promised))
    }

    /// Lets go of what was promised to other machines when its library was forgotten, as far as that is over by now. What somebody
    /// wants here meanwhile stays for good. `false` while nobody can say that yet.
    ///
    /// # Errors
    /// A registry or store that does not work, and while it is not known which folders are bound.
    pub async fn let_go_of_left(&self) -> Result<bool, LibraryError> {
        let mut after = None;
        loop {
            let page = self.registry(move |registry| registry.left(after, PAGE)).await?;
            let Some(last) = page.last() else { return Ok(true) };
            after = Some(last.hash);
            let _one = self.busy.lock().await;
            if self.libraries.shared().iter().any(|library| library.is_filling()) {
                return Ok(false);
            }
            let hashes: Vec<ContentHash> = page.iter().map(|left| left.hash).collect();
            let unneeded = self.unneeded(&page).await?;
            let (gone, promised) = self.let_go(&unneeded).await?;
            if !gone.is_empty() {
                let contents = gone.len();
                tracing::info!(
                    contents,
                    "let go of contents of a forgotten library that were promised to other machines"
                );
            }
            let settled: Vec<ContentHash> =
                hashes.into_iter().filter(|hash| !promised.contains(hash)).collect();
            self.registry(move |registry| registry.drop_left(&settled)).await?;
        }
    }

    /// Those of these contents that nothing here asks for.
    async fn unneeded(&self, left: &[LeftContent]) -> StoreResult<Vec<ContentHash>> {
        let hashes: Vec<ContentHash> = left.iter().map(|left| left.hash).collect();
        let libraries = self.libraries.shared();
        let rules = self.libraries.hold_rules();
        let in_folders = rules.in_bound_folders(&self.store, &hashes).await?;
        let stored = self.store.records(hashes).await?;
        let is_unneeded = |hash: &ContentHash, library: LibraryId| {
            let is_joined_again =
                libraries.iter().any(|other| other.id() == Some(library) || other.has(hash));
            let theirs = stored.iter().map(|stored| &stored.record).find(|record| record.hash == *hash);
            !is_joined_again
                && !in_folders.contains(hash)
                && theirs.is_some_and(|record| {
                    !record.deleted
                        && record.via == Some(library)
                        && !record.is_own()
                        && !rules.is_pinned(record)
                })
        };
        let unneeded = left.iter().filter(|left| is_unneeded(&left.hash, left.library));
        Ok(unneeded.map(|left| left.hash).collect())
    }
}
