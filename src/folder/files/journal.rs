//! What is noted, durably, before a file of the user's is moved: after a crash it says what to look at.

use std::io;

use super::super::AgreedRow;
use super::own::{NoteId, OwnPath};
use crate::entry::{EntryPath, EntryRecord};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoteStep {
    /// A version is put in its place.
    Write,
    Remove,
    /// It is done; the file that made way is watched for as long as somebody may have it open.
    Old,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct JournalNote {
    pub(crate) id: NoteId,
    /// What is being done.
    pub(crate) step: NoteStep,
    pub(crate) entry: EntryRecord,
    /// What the file that makes way has to be; `None` where there is none.
    pub(crate) over: Option<AgreedRow>,
    /// The file's name on the disk.
    pub(crate) name: EntryPath,
    /// The temporary file, for [`NoteStep::Write`]. What came out of an exchange has this name for a moment.
    pub(crate) temporary: Option<OwnPath>,
    /// Where the file goes that makes way.
    pub(crate) trash: OwnPath,
    /// When it was made, by this machine's clock.
    pub(crate) at_ms: u64,
}

impl JournalNote {
    /// The same, for watching the file that made way.
    pub(super) fn into_old(self) -> Self {
        Self { step: NoteStep::Old, temporary: None, ..self }
    }
}

/// Keeps the notes of one folder over restarts.
pub(crate) trait FolderJournal {
    /// Writes notes; one of the same id is replaced.
    ///
    /// # Errors
    /// Nothing is written: it is not durable.
    fn note(&self, notes: &[JournalNote]) -> io::Result<()>;

    /// Drops notes; those that are not there are none.
    ///
    /// # Errors
    /// They may still be there.
    fn forget(&self, ids: &[NoteId]) -> io::Result<()>;

    fn all(&self) -> io::Result<Vec<JournalNote>>;
}
