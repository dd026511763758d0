//! What a look is given, and how it ends.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::entry::{EntryHash, FolderId};
use crate::events::EventLog;
use crate::folder::files::{FolderGone, Forbidden};
use crate::folder::rows::{FolderRows, RowsError};
use crate::library::Libraries;
use crate::record::ContentHash;
use crate::store::{StoreError, StoreRef};

/// What all folders of a node share.
#[derive(Clone)]
pub(crate) struct FolderContext {
    pub(crate) store: StoreRef,
    pub(crate) rows: FolderRows,
    /// The name of this node, by which entries say who wrote them.
    pub(crate) name: String,
    pub(crate) clock: Clock,
    pub(crate) events: EventLog,
    /// The directory for copies of files on their way into the store.
    pub(crate) temporary: PathBuf,
    /// Directories that may not become folders.
    pub(crate) forbidden: Arc<Forbidden>,
    /// Whether the store is on this machine, and takes its room.
    pub(crate) is_store_here: bool,
    pub(crate) endpoint_id: [u8; 32],
    /// The id of the network, derived from its passphrase.
    pub(crate) network: [u8; 32],
    /// Room that stays free on the disk.
    pub(crate) reserve_bytes: u64,
    pub(crate) full_scan_interval: Duration,
    pub(crate) busy: FolderLocks,
    /// What is shared by ticket, and which folders came by one.
    pub(crate) libraries: Arc<Libraries>,
}

/// One look at a folder at a time, also where an actor ended while its look went on. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct FolderLocks {
    looks: Arc<Mutex<HashMap<FolderId, Arc<Mutex<()>>>>>,
    /// Directories are bound one after the other: which ones are decides what others may be.
    pub(in crate::folder) binding: Arc<tokio::sync::Mutex<()>>,
}

impl FolderLocks {
    pub(in crate::folder) fn of(&self, folder: FolderId) -> Arc<Mutex<()>> {
        let mut all = self.looks.lock();
        Arc::clone(all.entry(folder).or_default())
    }
}

/// Ends the work of a folder after the step at hand.
#[derive(Debug, Default)]
pub(crate) struct StopSwitch {
    is_set: AtomicBool,
    /// The same for what is long in a directory.
    of_directory: Mutex<Option<Arc<AtomicBool>>>,
}

impl StopSwitch {
    pub(in crate::folder) fn set(&self) {
        self.turn(true);
    }

    /// What comes next may go on.
    pub(in crate::folder) fn clear(&self) {
        self.turn(false);
    }

    fn turn(&self, is_set: bool) {
        let of_directory = self.of_directory.lock();
        self.is_set.store(is_set, Ordering::Relaxed);
        if let Some(flag) = &*of_directory {
            flag.store(is_set, Ordering::Relaxed);
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    pub(super) fn reaches(&self, flag: Arc<AtomicBool>) {
        let mut of_directory = self.of_directory.lock();
        flag.store(self.is_set(), Ordering::Relaxed);
        *of_directory = Some(flag);
    }
}

/// Why a look did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// The directory is not there, or not ours.
    #[error("{0}")]
    Gone(#[from] FolderGone),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Rows(#[from] RowsError),
    #[error("{action}: {source}")]
    Io {
        action: String,
        /// What the system says.
        source: std::io::Error,
    },
    #[error("stopped")]
    Stopped,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct LookScope {
    pub(crate) is_full: bool,
    /// These names on the disk.
    pub(crate) names: BTreeSet<String>,
    /// These entries of the store.
    pub(crate) entries: BTreeSet<EntryHash>,
    /// What waits for these contents.
    pub(crate) contents: BTreeSet<ContentHash>,
    /// All that waits for contents.
    pub(crate) waiting: bool,
    /// Those of the names to which somebody still writes, as far as is known.
    pub(crate) unrested: BTreeSet<String>,
    /// Those that somebody wrote to, and closed.
    pub(crate) closed: BTreeSet<String>,
    /// Paths whose turn it is.
    pub(crate) later: bool,
}

impl LookScope {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { is_full, names, entries, contents, waiting, unrested: _, closed: _, later } = self;
        !is_full && names.is_empty() && entries.is_empty() && contents.is_empty() && !waiting && !later
    }
}
