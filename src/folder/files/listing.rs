//! Listings that are kept for the length of a batch: whether a directory has a name, and whether it has one that is the same to people
//! or to another machine's file system.

use std::collections::HashMap;
use std::io;
use std::sync::{MutexGuard, PoisonError};

use super::held::HeldDir;
use super::{FolderDir, Moment};
use crate::text::folded;

/// Most names that are kept, about 200 bytes each.
const KEPT_NAMES_MAX: usize = 250_000;

/// Names of a directory by what they are compared by.
type Folded = HashMap<String, Vec<Box<str>>>;

/// Directories that were listed to the end.
#[derive(Debug, Default)]
pub(super) struct Listings {
    by_directory: HashMap<String, Folded>,
    names: usize,
}

impl FolderDir {
    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget_listings(&self) {
        *self.listings() = Listings::default();
    }

    fn list_again(&self, dir: &HeldDir) -> io::Result<()> {
        self.at(Moment::Listing)?;
        let (mut folded_names, mut count) = (Folded::new(), 0);
        for listed in dir.list()? {
            if let Ok(name) = std::str::from_utf8(&listed.name) {
                folded_names.entry(folded(name)).or_default().push(name.into());
                count += 1;
            }
        }
        let mut listings = self.listings();
        if listings.names + count > KEPT_NAMES_MAX {
            *listings = Listings::default();
        }
        listings.names += count;
        let before = listings.by_directory.insert(dir.path.clone(), folded_names);
        listings.names -= before.map_or(0, |before| before.values().map(Vec::len).sum());
        Ok(())
    }

    fn with_listing<T>(&self, dir: &HeldDir, ask: impl Fn(&Folded) -> T) -> io::Result<T> {
        if let Some(kept) = self.listings().by_directory.get(&dir.path) {
            return Ok(ask(kept));
        }
        self.list_again(dir)?;
        let listings = self.listings();
        Ok(listings.by_directory.get(&dir.path).map_or_else(|| ask(&Folded::new()), &ask))
    }

    /// Whether a listing of the directory that came to its end lacks a name. One that is kept will do; one that has the name is made
    /// anew.
    pub(super) fn lacks(&self, dir: &HeldDir, name: &str) -> io::Result<bool> {
        let key = folded(name);
        let has = |names: &Folded| names.get(&key).is_some_and(|names| names.iter().any(|n| **n == *name));
        if self.with_listing(dir, has)? {
            self.list_again(dir)?;
            return Ok(!self.with_listing(dir, has)?);
        }
        Ok(true)
    }

    /// Names of the directory that differ from this one, but not to everybody. Those that are gone since are left out.
    pub(super) fn twins(&self, dir: &HeldDir, name: &str) -> io::Result<Vec<String>> {
        let key = folded(name);
        let others = self.with_listing(dir, |names| {
            let same = names.get(&key).into_iter().flatten();
            same.filter(|other| ***other != *name).map(ToString::to_string).collect::<Vec<_>>()
        })?;
        let mut twins = Vec::new();
        for other in others {
            if dir.stat(&other)?.is_some() {
                twins.push(other);
            }
        }
        Ok(twins)
    }

    /// Notes a name that was made here.
    pub(super) fn note_name(&self, directory: &str, name: &str) {
        if let Some(names) = self.listings().by_directory.get_mut(directory) {
            let same = names.entry(folded(name)).or_default();
            if !same.iter().any(|known| **known == *name) {
                same.push(name.into());
            }
        }
    }
}
