//! The marker: a file in the folder's root that says whose directory it is. Without it nothing is concluded from what is not there.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustix::fs::{Mode, OFlags};

use super::FolderDir;
use super::held::HeldDir;
use super::opened::open_file;
use super::own::{NoteId, OwnPath};
use crate::entry::FolderId;

pub(crate) const MARKER: &str = ".can-sync-folder";
const MARKER_BYTES_MAX: u64 = 1024;
const FIRST_LINE: &str = "can-sync folder 1";

/// Which folder a directory is bound to, and by which binding: a copy of a bound directory has the same folder and no binding here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FolderMarker {
    pub(crate) folder: FolderId,
    /// The binding: random, made by the machine that binds.
    pub(crate) binding: [u8; 16],
}

impl fmt::Display for FolderMarker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (folder, binding) = (HEXLOWER.encode(&self.folder.0), HEXLOWER.encode(&self.binding));
        writeln!(f, "{FIRST_LINE}\nfolder {folder}\nbinding {binding}")?;
        f.write_str("# This directory is kept alike on several machines. Without this file none of it is.\n")
    }
}

impl FolderMarker {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut value = |key: &str| lines.next()?.strip_prefix(key);
        value(FIRST_LINE)?;
        let folder = HEXLOWER.decode(value("folder ")?.as_bytes()).ok()?.try_into().ok()?;
        let binding = HEXLOWER.decode(value("binding ")?.as_bytes()).ok()?.try_into().ok()?;
        Some(Self { folder: FolderId(folder), binding })
    }
}

/// Why nothing can be said about a folder's directory. No file counts as gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderGone {
    #[error("there is no directory {0}: if it lies on another disk, connect that")]
    Missing(PathBuf),
    /// Something else is there.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// Another directory than the one that was opened, as where a disk was mounted or unmounted meanwhile.
    #[error("{0} is another directory than before")]
    Replaced(PathBuf),
    /// The directory has no marker.
    #[error(
        "{0} has no {MARKER}: if it lies on another disk, connect that; if this is the directory, add the folder again"
    )]
    NoMarker(PathBuf),
    /// The marker is of another folder, or of another binding of this one.
    #[error("{0} is bound to another folder, or by another machine: add the folder again if it is this one")]
    OtherMarker(PathBuf),
    /// The system does not say.
    #[error("cannot look at {0}: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
}

/// Why a directory cannot be bound to a folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// It is not there, or cannot be looked at.
    #[error(transparent)]
    Gone(#[from] FolderGone),
    /// The whole machine, or all that somebody has.
    #[error("{0} cannot be a folder: choose a directory inside it")]
    TooMuch(PathBuf),
    /// The store would take itself in.
    #[error("{folder} and the data directory {data} lie one inside the other: choose another directory")]
    OwnData {
        /// What was to be bound.
        folder: PathBuf,
        /// Where this program keeps its own.
        data: PathBuf,
    },
    #[error("{folder} lies inside {above}, which is a folder itself")]
    Inside {
        /// What was to be bound.
        folder: PathBuf,
        above: PathBuf,
    },
    /// It has the marker of this folder, but of another binding.
    #[error(
        "{0} was bound to this folder by another installation, or is a copy of a directory that was: if nothing else keeps it alike, remove its {MARKER} and add it again; no file is lost by that"
    )]
    OtherBinding(PathBuf),
    /// It has a marker that is not this one.
    #[error(
        "{0} is bound to another folder already: remove that first, and its {MARKER} if no machine uses it"
    )]
    Bound(PathBuf),
    #[error("cannot write to {0}: {1}")]
    NotWritable(PathBuf, #[source] io::Error),
}

pub(super) enum MarkerSight {
    None,
    Marker(FolderMarker),
    /// A file of that name that says nothing.
    Unknown,
}

pub(super) fn read_marker(dir: &HeldDir) -> io::Result<MarkerSight> {
    let Some(stat) = dir.stat(MARKER)? else { return Ok(MarkerSight::None) };
    if stat.kind != super::stat::FileKind::File {
        return Ok(MarkerSight::Unknown);
    }
    let (file, _) = open_file(dir, MARKER)?;
    let mut bytes = Vec::new();
    file.take(MARKER_BYTES_MAX).read_to_end(&mut bytes)?;
    let marker = std::str::from_utf8(&bytes).ok().and_then(FolderMarker::parse);
    Ok(marker.map_or(MarkerSight::Unknown, MarkerSight::Marker))
}

/// The places that no folder may have.
#[derive(Clone, Debug)]
pub(crate) struct Forbidden {
    /// Where this program keeps its own.
    pub(crate) data_dir: PathBuf,
    /// The user's home directory, if there is one.
    pub(crate) home: Option<PathBuf>,
}

impl Forbidden {
    /// Whether a folder may be here.
    pub(crate) fn check(&self, path: &Path) -> Result<(), BindError> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let data = real(&self.data_dir);
        let home = self.home.as_deref().map(real);
        if path.parent().is_none() || home.as_deref() == Some(path) {
            return Err(BindError::TooMuch(path.to_owned()));
        }
        if path.starts_with(&data) || data.starts_with(path) {
            return Err(BindError::OwnData { folder: path.to_owned(), data });
        }
        // Whoever cannot have the home directory cannot have all of them.
        if home.is_some_and(|home| home.starts_with(path)) {
            return Err(BindError::TooMuch(path.to_owned()));
        }
        let above = path.ancestors().skip(1).find(|above| fs::symlink_metadata(above.join(MARKER)).is_ok());
        match above {
            None => Ok(()),
            Some(above) => Err(BindError::Inside { folder: path.to_owned(), above: above.to_owned() }),
        }
    }
}

impl FolderDir {
    /// Binds a directory: checks that it may be one, and writes the marker, durably. One that has this marker already stays as it is.
    ///
    /// # Errors
    /// [`BindError`]; the directory is as it was.
    pub(crate) fn bind(path: &Path, marker: FolderMarker, forbidden: &Forbidden) -> Result<Self, BindError> {
        let dir = Self::open_unmarked(path, marker)?;
        forbidden.check(&dir.path)?;
        let unreadable = |error| FolderGone::Unreadable(dir.path.clone(), error);
        let root = dir.held_root().map_err(unreadable)?;
        match read_marker(&root).map_err(unreadable)? {
            MarkerSight::Marker(found) if found == marker => {}
            MarkerSight::Marker(found) if found.folder == marker.folder => {
                return Err(BindError::OtherBinding(dir.path));
            }
            MarkerSight::Marker(_) | MarkerSight::Unknown => return Err(BindError::Bound(dir.path)),
            MarkerSight::None => dir.write_marker(&root).map_err(|error| {
                let is_there = error.kind() == io::ErrorKind::AlreadyExists;
                let path = dir.path.clone();
                if is_there { BindError::Bound(path) } else { BindError::NotWritable(path, error) }
            })?,
        }
        dir.check()?;
        Ok(dir)
    }

    /// Takes the marker away from a directory that is no folder any more; another marker stays.
    pub(crate) fn leave(path: &Path, marker: FolderMarker) -> Result<(), BindError> {
        let dir = Self::open_unmarked(path, marker)?;
        let unreadable = |error| FolderGone::Unreadable(dir.path.clone(), error);
        let root = dir.held_root().map_err(unreadable)?;
        if matches!(read_marker(&root).map_err(unreadable)?, MarkerSight::Marker(found) if found == marker) {
            root.remove(MARKER).map_err(|error| BindError::NotWritable(dir.path.clone(), error))?;
            root.sync().map_err(unreadable)?;
        }
        Ok(())
    }

    /// The marker of a directory that may be a folder, if it has one. Nothing is written.
    pub(crate) fn marker_at(path: &Path, forbidden: &Forbidden) -> Result<Option<FolderMarker>, BindError> {
        let dir = Self::open_unmarked(path, FolderMarker { folder: FolderId([0; 32]), binding: [0; 16] })?;
        forbidden.check(&dir.path)?;
        let unreadable = |error| FolderGone::Unreadable(dir.path.clone(), error);
        match dir.held_root().and_then(|root| read_marker(&root)).map_err(unreadable)? {
            MarkerSight::None => Ok(None),
            MarkerSight::Marker(found) => Ok(Some(found)),
            MarkerSight::Unknown => Err(BindError::Bound(dir.path)),
        }
    }

    fn write_marker(&self, root: &HeldDir) -> io::Result<()> {
        let temporary = OwnPath::temporary("", NoteId::random());
        let flags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);
        let mode = Mode::from_raw_mode(0o644);
        let mut file = File::from(rustix::fs::openat(root, temporary.as_str(), flags, mode)?);
        let written = file
            .write_all(self.marker.to_string().as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| self.give((root, temporary.as_str()), (root, MARKER)));
        if written.is_err() {
            root.remove(temporary.as_str()).ok();
        }
        written?;
        root.sync()
    }

    /// Opens a directory that was bound.
    pub(crate) fn open(path: &Path, marker: FolderMarker) -> Result<Self, FolderGone> {
        let dir = Self::open_unmarked(path, marker)?;
        dir.check()?;
        Ok(dir)
    }

    /// Whether the marker is there and ours, and the path still leads to the directory that is held. To be asked at the start and at the
    /// end of a look, and before a batch of actions; what was learned since it was last right is worth nothing if it is not.
    pub(crate) fn check(&self) -> Result<(), FolderGone> {
        let now = Self::root_at(&self.path)?.1;
        if (now.key, now.inode) != (self.root_stat.key, self.root_stat.inode) {
            return Err(FolderGone::Replaced(self.path.clone()));
        }
        let unreadable = |error| FolderGone::Unreadable(self.path.clone(), error);
        match self.held_root().and_then(|root| read_marker(&root)).map_err(unreadable)? {
            MarkerSight::Marker(found) if found == self.marker => Ok(()),
            MarkerSight::None => Err(FolderGone::NoMarker(self.path.clone())),
            MarkerSight::Marker(_) | MarkerSight::Unknown => Err(FolderGone::OtherMarker(self.path.clone())),
        }
    }
}
