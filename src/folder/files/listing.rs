//! Listings that are kept for the length of a look, and on to later ones as long as the directory did not change: whether it has a name,
//! and whether it has one that is the same to people or to another machine's file system.

use std::collections::HashMap;
use std::io;

use parking_lot::MutexGuard;

use super::held::HeldDir;
use super::stat::RawStat;
use super::{FolderDir, HookPoint};
use crate::text::folded;

/// Most names that are kept, about 200 bytes each.
const KEPT_NAMES_MAX: usize = 250_000;

/// Names of a directory by what they are compared by.
type Folded = HashMap<String, Vec<Box<str>>>;

/// A directory that was listed to the end.
#[derive(Debug)]
struct DirListing {
    folded: Folded,
    /// In which look it was made, or found to hold still.
    look: u64,
    /// The directory before it was listed, if a change after that would show in its times.
    before: Option<RawStat>,
}

/// Directories that were listed to the end.
#[derive(Debug, Default)]
pub(super) struct Listings {
    by_directory: HashMap<String, DirListing>,
    names: usize,
    look: u64,
    began_ms: u64,
}

impl Listings {
    fn clear(&mut self) {
        (self.by_directory, self.names) = (HashMap::new(), 0);
    }
}

impl FolderDir {
    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.listings.lock()
    }

    /// Says that a look begins: what is known of a directory's names from earlier ones counts only if it did not change.
    pub(crate) fn begin_look(&self, now_ms: u64) {
        let mut listings = self.listings();
        listings.look += 1;
        listings.began_ms = now_ms;
    }

    fn list_again(&self, dir: &HeldDir) -> io::Result<()> {
        self.at(HookPoint::Listing)?;
        let before = RawStat::of(dir)?;
        let (mut folded_names, mut count) = (Folded::new(), 0);
        for listed in dir.list()? {
            if let Ok(name) = std::str::from_utf8(&listed.name) {
                folded_names.entry(folded(name)).or_default().push(name.into());
                count += 1;
            }
        }
        let mut listings = self.listings();
        if listings.names + count > KEPT_NAMES_MAX {
            listings.clear();
        }
        listings.names += count;
        // Elsewhere the times of directories are what somebody remembers of them.
        let is_settled = dir.traits.has_inodes && before.seen(dir.traits, None).is_settled(listings.began_ms);
        let (look, before) = (listings.look, is_settled.then_some(before));
        let listing = DirListing { folded: folded_names, look, before };
        let former = listings.by_directory.insert(dir.path.clone(), listing);
        let former: usize = former.map_or(0, |former| former.folded.values().map(Vec::len).sum());
        listings.names = listings.names.saturating_sub(former);
        Ok(())
    }

    fn with_listing<T>(&self, dir: &HeldDir, ask: impl Fn(&Folded) -> T) -> io::Result<T> {
        let mut listings = self.listings();
        let look = listings.look;
        if let Some(kept) = listings.by_directory.get_mut(&dir.path) {
            if kept.look != look && kept.before.is_some() && kept.before == Some(RawStat::of(dir)?) {
                kept.look = look;
            }
            if kept.look == look {
                return Ok(ask(&kept.folded));
            }
        }
        drop(listings);
        self.list_again(dir)?;
        let listings = self.listings();
        let kept = listings.by_directory.get(&dir.path);
        Ok(kept.map_or_else(|| ask(&Folded::new()), |kept| ask(&kept.folded)))
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

    pub(super) fn note_name(&self, directory: &str, name: &str) {
        let mut listings = self.listings();
        let Some(listing) = listings.by_directory.get_mut(directory) else { return };
        let same = listing.folded.entry(folded(name)).or_default();
        if !same.iter().any(|known| **known == *name) {
            same.push(name.into());
            listings.names += 1;
        }
    }

    /// Notes that a name was taken out here.
    pub(super) fn drop_name(&self, directory: &str, name: &str) {
        let mut listings = self.listings();
        let Some(listing) = listings.by_directory.get_mut(directory) else { return };
        let key = folded(name);
        let Some(same) = listing.folded.get_mut(&key) else { return };
        let before = same.len();
        same.retain(|known| **known != *name);
        let dropped = before - same.len();
        if same.is_empty() {
            listing.folded.remove(&key);
        }
        listings.names = listings.names.saturating_sub(dropped);
    }
}
