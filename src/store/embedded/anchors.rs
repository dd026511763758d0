//! Whether what the store opened still lies where it opened it.
//!
//! Files that are moved, removed or replaced behind a running store stay open in it: what it writes then goes where nobody finds it
//! again. A directory of contents that is not there is a disk that is not mounted: what is put into its place lies on the wrong one.
//! So the store compares what is at its paths with what it opened, around each commit and whenever somebody asks how it is. What
//! became of the database lasts until the store is opened again; the directory of contents may come back.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::layout::{Layout, leads_nowhere};

/// How long those who only ask before a change believe that all was in its place. The writer looks anew before it acknowledges any.
const BELIEVED_FOR: Duration = Duration::from_millis(100);

/// Device and inode.
pub(super) type Identity = (u64, u64);

#[derive(Debug)]
pub(super) struct Anchors {
    layout: Layout,
    /// The database, and what SQLite keeps beside it as long as it is open.
    files: Vec<(PathBuf, Identity)>,
    contents: Option<Identity>,
    /// The file system gives a directory that nobody has open another inode now and then.
    is_renumbered: bool,
    /// It was said that the directory of contents is away.
    told: AtomicBool,
    /// The store is closed: whatever lies there now is no concern of its.
    released: AtomicBool,
    began: Instant,
    /// Until when it is believed that all is in its place, in milliseconds since it began.
    believed_ms: AtomicU64,
}

impl Anchors {
    /// Of a database that was written to.
    pub(super) fn note(layout: &Layout) -> Self {
        let beside = |ending: &str| {
            let mut path = layout.database().into_os_string();
            path.push(ending);
            PathBuf::from(path)
        };
        let files = ["", "-wal", "-shm"].map(beside).into_iter();
        let files = files.filter_map(|path| identity(&path).ok().map(|identity| (path, identity))).collect();
        let contents = layout.contents_identity();
        let is_renumbered = is_renumbered(&layout.contents());
        Self {
            layout: layout.clone(),
            files,
            contents,
            is_renumbered,
            told: AtomicBool::new(false),
            released: AtomicBool::new(false),
            began: Instant::now(),
            believed_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn database_problem(&self) -> Option<String> {
        if self.released.load(Ordering::Relaxed) {
            return None;
        }
        let changed = self.files.iter().find_map(|(path, opened)| match identity(path) {
            Ok(found) if found == *opened => None,
            Ok(_) => Some((path, "another file is there now")),
            Err(error) if leads_nowhere(&error) => Some((path, "it is not there any more")),
            // Nobody can tell.
            Err(_) => None,
        });
        changed.map(|(path, what)| {
            format!(
                "{} is not the file that the store opened: {what}. Nothing more is written, since it would be lost. What is held can \
                 still be read out; then stop, put the file back or restore a backup, and start again",
                path.display()
            )
        })
    }

    /// Whether all was in its place a moment ago.
    pub(super) fn were_right(&self) -> bool {
        self.began.elapsed() < Duration::from_millis(self.believed_ms.load(Ordering::Relaxed))
    }

    /// All is in its place, by a look that began at this moment.
    pub(super) fn note_right(&self, looked_at: Instant) {
        let until = looked_at.saturating_duration_since(self.began) + BELIEVED_FOR;
        self.believed_ms.store(u64::try_from(until.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// The store is closed.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    pub(super) fn contents_problem(&self) -> Option<String> {
        if self.released.load(Ordering::Relaxed) {
            return None;
        }
        let comparable = |identity: Identity| if self.is_renumbered { (identity.0, 0) } else { identity };
        let found = self.layout.contents_identity();
        let is_away = found.map(comparable) != self.contents.map(comparable);
        let contents = self.layout.contents();
        let told = self.told.swap(is_away, Ordering::Relaxed);
        if is_away && !told {
            tracing::error!(contents = %contents.display(), "the directory of contents is away: the store takes no writes until it is back");
        } else if told && !is_away {
            tracing::info!(contents = %contents.display(), "the directory of contents is back");
        }
        is_away.then(|| {
            format!(
                "the directory of contents {} is away, or is not the one that the store opened: mount its disk or put it back, and all \
                 goes on; nothing is stored until then, and larger contents cannot be read",
                contents.display()
            )
        })
    }
}

/// What tells a database from its copies, wherever they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DatabaseFile {
    inode: u64,
    /// In milliseconds since the Unix epoch, where the file system says.
    born_ms: Option<u64>,
}

impl DatabaseFile {
    /// `None` where the file system does not tell.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok().filter(|_| !path.parent().is_none_or(is_renumbered))?;
        let born = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Some(Self { inode: meta.ino(), born_ms: born.and_then(|born| u64::try_from(born.as_millis()).ok()) })
    }

    pub(super) fn from_columns(inode: Option<i64>, born_ms: Option<i64>) -> Option<Self> {
        let born_ms = born_ms.map(i64::cast_unsigned);
        Some(Self { inode: inode?.cast_unsigned(), born_ms })
    }

    pub(super) fn columns(self) -> (i64, Option<i64>) {
        (self.inode.cast_signed(), self.born_ms.map(u64::cast_signed))
    }

    /// Whether they are two files.
    pub(super) fn differs_from(self, other: Self) -> bool {
        let are_born_apart = |(one, two)| one != two;
        self.inode != other.inode || self.born_ms.zip(other.born_ms).is_some_and(are_born_apart)
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Whether inodes say nothing of directories: FUSE and CIFS make them up, and forget them.
#[cfg(target_os = "linux")]
fn is_renumbered(dir: &Path) -> bool {
    const MADE_UP: [u64; 3] = [0x6573_5546, 0xff53_4d42, 0xfe53_4d42];
    rustix::fs::statfs(dir).is_ok_and(|stat| MADE_UP.contains(&(u64::try_from(stat.f_type).unwrap_or(0))))
}

#[cfg(not(target_os = "linux"))]
fn is_renumbered(_: &Path) -> bool {
    false
}
