//! What somebody wants of a directory, and what is known of one that the configuration names and that cannot be bound.

use std::path::{Path, PathBuf};

use crate::entry::FolderId;
use crate::folder::FolderMode;
use crate::folder::actor::first_report;
use crate::folder::files::FolderMarker;
use crate::folder::report::{FolderReport, FolderState};
use crate::folder::rows::{FolderBinding, FolderSettings};
use crate::text::naming::is_called;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderOrder {
    /// Absolute.
    pub path: PathBuf,
    /// The folder's name, or its id; the directory's name, if it is missing.
    pub name: Option<String>,
    /// Whether it is made although others have that name.
    pub is_new: bool,
    pub is_configured: bool,
    pub(crate) wishes: FolderWishes,
}

/// How somebody wants a folder to be kept; `None`: as it is, or as usual.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FolderWishes {
    pub(crate) mode: Option<FolderMode>,
    pub(crate) ignore_removals: Option<bool>,
    pub(crate) scan_only: Option<bool>,
}

impl FolderWishes {
    pub(super) fn over(self, before: FolderSettings) -> FolderSettings {
        let mode = self.mode.unwrap_or(before.rules().mode);
        FolderSettings {
            read_only: mode == FolderMode::ReadOnly,
            send_only: mode == FolderMode::SendOnly,
            ignore_removals: self.ignore_removals.unwrap_or(before.ignore_removals),
            scan_only: self.scan_only.unwrap_or(before.scan_only),
            ..before
        }
    }
}

/// A folder of the configuration that cannot be bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnboundFolder {
    pub(super) order: FolderOrder,
    pub(super) why: String,
    pub(super) state: FolderState,
}

impl UnboundFolder {
    pub(super) fn name(&self) -> String {
        let own = || self.order.path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.order.name.clone().or_else(own).unwrap_or_default()
    }

    pub(super) fn is(&self, wanted: &str) -> bool {
        self.order.path == Path::new(wanted) || is_called(&self.name(), wanted)
    }

    pub(super) fn report(&self) -> FolderReport {
        let settings = self.order.wishes.over(FolderSettings::default());
        let marker = FolderMarker { folder: FolderId([0; 32]), binding: [0; 16] };
        let binding = FolderBinding { marker, path: self.order.path.clone(), settings };
        FolderReport {
            folder: String::new(),
            name: self.name(),
            state: self.state,
            reason: Some(self.why.clone()),
            configured: true,
            ..first_report(&binding)
        }
    }
}
