//! A folder's directory on this machine: the one place where it is looked at and written to.
//!
//! Nothing on a user's disk is lost by it: a file is replaced by an exchange of names and looked at afterwards; what was taken out goes
//! to the trash; no name is ever renamed over. All is done by descriptors from a held root, with no symbolic link followed on the way.
//! Blocking; no clock, no database: the caller says what time it is and keeps the [journal](FolderJournal).
//!
//! ```text
//!   .can-sync-folder            the marker: which folder, which binding
//!   .can-syncignore             what the user leaves out
//!   .can-sync-trash/            what was taken out: TIME-ID-NAME; also at the top of each file system that is mounted inside
//!   a/b.txt
//!   a/.can-sync-tmp-ID.part     being made: never anything of the user's
//!   a/.can-sync-tmp-ID          ready; after an exchange what came out
//! ```

mod copying;
pub(crate) mod fuzz;
mod held;
mod ignoring;
mod journal;
mod known;
mod listing;
mod looking;
mod making;
mod marker;
mod opened;
mod own;
mod placing;
mod recovery;
mod removing;
mod replacing;
mod sighting;
mod stat;
mod suiting;
#[cfg(test)]
mod tests;
mod trash;
mod writing;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

pub(crate) use copying::{CopiedFile, CopyError, WholeFile};
pub(crate) use ignoring::{IGNORE_FILE, IgnoreRules};
pub(crate) use journal::{FolderJournal, JournalNote, NoteStep};
pub(crate) use known::lasting_identity;
pub(crate) use looking::{LookEnd, LookRules, Sighted};
pub(crate) use marker::{FolderGone, FolderMarker, Forbidden};
pub(crate) use own::{NoteId, OwnPath, is_temporary};
pub(crate) use placing::{ActEnd, AfterAct, DiskJudgement};
pub(crate) use recovery::Recovered;
pub(crate) use removing::RemoveOrder;
pub(crate) use stat::FileKind;
pub(crate) use suiting::{distant_kind, room_needed};
pub(crate) use trash::{PutBack, TrashedFile};
pub(crate) use writing::{NewContent, WriteError, WriteOrder};

use super::MountPoint;
use held::HeldDir;
use listing::Listings;
use stat::{FsTraits, RawStat};

/// What this system and its file systems can do; tests take things away.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one system call")]
struct Abilities {
    openat2: bool,
    no_replace: bool,
    exchange: bool,
    /// Sharing blocks between files.
    clone: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        Self { openat2: true, no_replace: true, exchange: true, clone: true }
    }
}

/// Moments at which tests do something to the directory, or fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HookPoint {
    Descending,
    Listing,
    Reading,
    Copied,
    Noted,
    Making,
    Made,
    Placing,
    Linked,
    Placed,
    Looking,
    PuttingBack,
    Trashing,
    Trashed,
}

#[cfg(test)]
type Hook = Box<dyn FnMut(HookPoint) -> io::Result<()> + Send>;

/// The directory of a folder, held open.
pub(crate) struct FolderDir {
    path: PathBuf,
    marker: FolderMarker,
    root: OwnedFd,
    root_stat: RawStat,
    /// Directories that were mount points when rows were written.
    known_mounts: BTreeSet<MountPoint>,
    stop: Arc<AtomicBool>,
    abilities: Abilities,
    traits: Mutex<HashMap<u64, FsTraits>>,
    listings: Mutex<Listings>,
    #[cfg(test)]
    hook: Mutex<Option<Hook>>,
}

impl fmt::Debug for FolderDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FolderDir").field(&self.path).finish()
    }
}

impl FolderDir {
    fn open_unmarked(path: &Path, marker: FolderMarker) -> Result<Self, FolderGone> {
        // A link that leads to the directory is the user's matter; below it none is followed.
        let path = std::fs::canonicalize(path).map_err(|error| gone(path, error))?;
        let (root, root_stat) = Self::root_at(&path)?;
        Ok(Self {
            path,
            marker,
            root,
            root_stat,
            known_mounts: BTreeSet::new(),
            stop: Arc::default(),
            abilities: Abilities::default(),
            traits: Mutex::default(),
            listings: Mutex::default(),
            #[cfg(test)]
            hook: Mutex::default(),
        })
    }

    fn root_at(path: &Path) -> Result<(OwnedFd, RawStat), FolderGone> {
        let flags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
        let opened =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| gone(path, error.into()))?;
        let stat = RawStat::of(&opened).map_err(|error| gone(path, error))?;
        Ok((opened, stat))
    }

    /// Where it is, without links on the way.
    #[cfg(test)]
    fn path(&self) -> &Path {
        &self.path
    }

    /// Says which directories were mount points, by the rows: where one is none now, all below it is unknown, and nothing is written
    /// there.
    pub(crate) fn know_mounts(&mut self, mounts: BTreeSet<MountPoint>) {
        self.known_mounts = mounts.into_iter().filter(|mount| !mount.is_empty()).collect();
    }

    /// Set, it ends what is long: looks, copies, hashes fail with [`io::ErrorKind::Interrupted`].
    pub(crate) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests act here")]
    fn at(&self, _: HookPoint) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn at(&self, moment: HookPoint) -> io::Result<()> {
        // What the test does may come here again.
        let hook = self.hook.lock().take();
        let Some(mut hook) = hook else { return Ok(()) };
        let done = hook(moment);
        self.hook.lock().get_or_insert(hook);
        done
    }
}

impl FolderDir {
    /// Takes what has a name, whatever it is at that moment, to a name of our own that nobody else uses.
    ///
    /// # Errors
    /// What the system says: then nothing has happened.
    fn take(&self, (dir, name): (&HeldDir, &str), (to_dir, own): (&HeldDir, &str)) -> io::Result<()> {
        if self.abilities.no_replace {
            match rustix::fs::renameat_with(dir, name, to_dir, own, RenameFlags::NOREPLACE) {
                Err(error) if cannot(error) => {}
                done => return Ok(done?),
            }
        }
        if to_dir.stat(own)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(rustix::fs::renameat(dir, name, to_dir, own)?)
    }

    /// Gives what has a name of our own a name of the user's, if that is free.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or what the system says: then nothing has happened.
    fn give(&self, (own_dir, own): (&HeldDir, &str), (dir, name): (&HeldDir, &str)) -> io::Result<()> {
        if self.abilities.no_replace {
            match rustix::fs::renameat_with(own_dir, own, dir, name, RenameFlags::NOREPLACE) {
                Err(error) if cannot(error) => {}
                done => return Ok(done?),
            }
        }
        if own_dir.stat(own)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
            // Over an empty directory at most.
            return Ok(rustix::fs::renameat(own_dir, own, dir, name)?);
        }
        // A link never replaces. Where our own name cannot be removed, the file has two.
        rustix::fs::linkat(own_dir, own, dir, name, AtFlags::empty())?;
        self.at(HookPoint::Linked)?;
        own_dir.remove(own).ok();
        Ok(())
    }
}

fn gone(path: &Path, error: io::Error) -> FolderGone {
    let path = path.to_owned();
    if error.kind() == io::ErrorKind::NotFound {
        FolderGone::Missing(path)
    } else if error.kind() == io::ErrorKind::NotADirectory {
        FolderGone::NotADirectory(path)
    } else {
        FolderGone::Unreadable(path, error)
    }
}

fn cannot(error: Errno) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP].contains(&error)
}

/// Exchanges two names. `false` where this system or file system cannot; then nothing has happened.
fn exchange(abilities: Abilities, dir: impl AsFd, one: &str, other: &str) -> io::Result<bool> {
    if !abilities.exchange {
        return Ok(false);
    }
    match rustix::fs::renameat_with(&dir, one, &dir, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(error) if cannot(error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
