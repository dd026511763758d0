//! A start with half of a store: a database without its contents, or the reverse.
//!
//! Contents that are all missing are no damage of each. Where the directory is empty, as when a disk is not mounted, nothing is
//! put there; where it is gone, the store's user has decided to go on without.

use std::fs;
use std::io;

use bytesize::ByteSize;
use rusqlite::Connection;

use super::failure::Abort;
use super::layout::Layout;
use super::{loss, rows};

/// What was in the directory before the store made what was missing.
pub(super) struct FoundOnDisk {
    database: bool,
    contents: FoundContents,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundContents {
    Missing,
    Empty,
    There,
}

/// What a store lacks of which a part was restored, or moved, or is not mounted.
pub(super) struct HalfRestored {
    /// No content is in its file.
    pub(super) files_missing: bool,
    pub(super) sentences: Vec<String>,
}

/// Contents whose files are all away.
struct Away {
    files: u64,
    bytes: u64,
}

impl FoundOnDisk {
    pub(super) fn look(layout: &Layout) -> Result<Self, Abort> {
        let contents = match fs::read_dir(layout.contents()).map(|mut entries| entries.next().is_none()) {
            Ok(true) => FoundContents::Empty,
            Ok(false) => FoundContents::There,
            Err(error) if error.kind() == io::ErrorKind::NotFound => FoundContents::Missing,
            Err(source) => {
                return Err(Abort::Io { action: format!("list {}", layout.contents().display()), source });
            }
        };
        Ok(Self { database: layout.database().exists(), contents })
    }

    /// What is missing, now that the database is open. Contents that were there before the database was stay.
    pub(super) fn half(
        &self,
        conn: &mut Connection,
        layout: &Layout,
        now_ms: u64,
    ) -> Result<HalfRestored, Abort> {
        let away = self.missing(conn, layout)?;
        if !self.database {
            loss::keep_unnamed(conn, layout, now_ms)?;
        }
        let unnamed = loss::unnamed_sentence(conn, layout)?;
        let sentences = away.iter().map(|away| away.sentence(layout)).chain(unnamed).collect();
        Ok(HalfRestored { files_missing: away.is_some(), sentences })
    }

    /// Contents in files that the database names, where no file is left.
    ///
    /// # Errors
    /// [`Abort::Refused`] where that looks like a disk that is not mounted.
    fn missing(&self, conn: &Connection, layout: &Layout) -> Result<Option<Away>, Abort> {
        if !self.database || self.contents == FoundContents::There {
            return Ok(None);
        }
        let counted = "SELECT count(*), coalesce(sum(size), 0) FROM records WHERE content = 0";
        let (files, bytes) =
            conn.query_row(counted, [], |row| Ok((rows::unsigned(row, 0)?, rows::unsigned(row, 1)?)))?;
        match self.contents {
            _ if files == 0 => Ok(None),
            FoundContents::Empty => Err(Abort::Refused(format!(
                "the directory {} is empty, and {files} contents should be in it: mount the disk that they are on, or restore them \
                 from a backup, and start again; if they are lost, remove the empty directory, and what other machines have comes back \
                 from there",
                layout.contents().display()
            ))),
            FoundContents::Missing | FoundContents::There => Ok(Some(Away { files, bytes })),
        }
    }
}

impl Away {
    fn sentence(&self, layout: &Layout) -> String {
        format!(
            "the directory {} was missing when the store opened, and with it {} contents ({}): they count as not here, and come back \
             from machines that have them; to have them from a backup, stop, put the directory back, and start again",
            layout.contents().display(),
            self.files,
            ByteSize(self.bytes)
        )
    }
}
