//! Opening a store, and putting right what a crash left behind.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytesize::ByteSize;
use rusqlite::Connection;
use tokio::sync::{Semaphore, watch};

use super::failure::Abort;
use super::layout::Layout;
use super::loss::SeqMark;
use super::purge::Purging;
use super::readers::Readers;
use super::space::Space;
use super::tx::Totals;
use super::writer::{StoreWriter, clean_pending};
use super::{EmbeddedConfig, EmbeddedStore, QUEUE_TASKS, StoreInner, StoreShared, rows, schema};
use crate::clock::Clock;
use crate::disk;
use crate::record::WriterId;
use crate::store::StoreError;

/// Opens the store; see [`EmbeddedStore::open`]. Blocks.
pub(super) fn open(config: EmbeddedConfig) -> Result<EmbeddedStore, StoreError> {
    let layout = Layout { dir: config.dir };
    let began = Instant::now();
    let store = try_open(&layout, config.disk_reserve_bytes, config.clock)
        .map_err(|abort| abort.answer(&format!("open the store in {}", layout.dir.display()), &layout.dir))?;
    tracing::debug!(dir = %layout.dir.display(), elapsed = ?began.elapsed(), "the store is open");
    Ok(store)
}

fn try_open(layout: &Layout, reserve_bytes: u64, clock: Clock) -> Result<EmbeddedStore, Abort> {
    let io = |action: &str| {
        let action = format!("{action} {}", layout.dir.display());
        move |source| Abort::Io { action, source }
    };
    let found = Found::look(layout)?;
    layout.create().map_err(io("make the store's directories in"))?;
    let lock = lock(layout)?;
    layout.sweep_tmp().map_err(io("remove temporary files from"))?;

    let mut conn =
        schema::open_for_writing(&layout.database()).map_err(|abort| explained(abort, &layout.database()))?;
    super::layout::sync_dir(&layout.dir).map_err(io("fsync"))?;
    if let Some(weakness) = disk::dir_sync_problem(&layout.dir) {
        tracing::warn!("{weakness}");
    }
    let mut totals = Totals::read(&conn)?;
    let mut mark = SeqMark::open(&layout.mark());
    super::loss::notice(&mut conn, layout, &mut totals, &mark, clock.now_ms())?;
    mark.set(totals.last_seq);
    let away = found.missing(&conn, layout)?;
    if !found.database {
        super::loss::keep_unnamed(&mut conn, layout, clock.now_ms())?;
    }
    let mut notices: Vec<String> = mark.problem.take().into_iter().collect();
    notices.extend(away.as_ref().map(|away| away.sentence(layout)));
    notices.extend(super::loss::unnamed_sentence(&conn, layout)?);
    let id = WriterId(conn.query_row("SELECT writer_id FROM state", [], |row| row.get(0))?);
    clean_pending(&mut conn, layout)?;
    super::aside::mend(&conn, layout, clock.now_ms())?;
    let mut purging = Purging::new(&conn, clock.clone())?;
    purging.look(&mut conn, layout, &mut totals)?;

    let (seq, seen) = watch::channel(totals.last_seq);
    let read_only: Arc<Mutex<Option<String>>> = Arc::default();
    let shared = Arc::new(StoreShared {
        contents: layout.contents_identity(),
        space: Space::new(layout.dir.clone(), reserve_bytes),
        readers: Readers::new(layout.dir.clone(), layout.database(), Arc::clone(&read_only)),
        layout: layout.clone(),
        files_missing: away.is_some(),
        opened_with: (!notices.is_empty()).then(|| notices.join("; ")),
        commits: AtomicU64::new(0),
        purge_floor: AtomicU64::new(totals.purge_floor),
        read_only,
        clock: clock.clone(),
        walks: Mutex::new(VecDeque::new()),
        damage: super::damage::DamageWatch::default(),
        sums: super::sums::SumMakers::default(),
        seq: seen,
    });
    shared.space.lay_by();
    // One more than there are turns: for the message that ends the writer.
    let (queue, queued) = std::sync::mpsc::sync_channel(QUEUE_TASKS + 1);
    let writer = StoreWriter {
        conn,
        layout: layout.clone(),
        id,
        totals,
        shared: Arc::clone(&shared),
        seq,
        since_checkpoint: 0,
        has_pending: false,
        clock,
        purging,
        mark,
        unread_since: None,
        _lock: lock,
    };
    let ended = Arc::clone(&shared);
    let writer = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || {
            let run = AssertUnwindSafe(|| writer.run(&queued));
            if catch_unwind(run).is_err() {
                ended.set_read_only("its writer failed by a defect of this program; start again".into());
            }
        })
        .map_err(io("start the writer of the store in"))?;
    Ok(EmbeddedStore(Arc::new(StoreInner {
        shared,
        queue: Mutex::new(Some(queue)),
        turns: Arc::new(Semaphore::new(QUEUE_TASKS)),
        writer: Mutex::new(Some(writer)),
    })))
}

/// What was in the directory before the store made what was missing.
struct Found {
    database: bool,
    contents: FoundContents,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundContents {
    Missing,
    Empty,
    There,
}

/// Contents whose files are all away.
struct Away {
    files: u64,
    bytes: u64,
}

impl Found {
    fn look(layout: &Layout) -> Result<Self, Abort> {
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

    /// Contents in files that the database names, where no file is left.
    ///
    /// # Errors
    /// [`Abort::Refused`] where that looks like a disk that is not mounted.
    fn missing(&self, conn: &Connection, layout: &Layout) -> Result<Option<Away>, Abort> {
        if !self.database || self.contents == FoundContents::There {
            return Ok(None);
        }
        let counted = "SELECT count(*), total(size) FROM records WHERE content = 0";
        let (files, bytes) = conn.query_row(counted, [], |row| {
            let bytes: f64 = row.get(1)?;
            Ok((rows::unsigned(row, 0)?, bytes as u64))
        })?;
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

/// With what the file system cannot do, if that is the reason.
fn explained(abort: Abort, database: &Path) -> Abort {
    let problem = match &abort {
        Abort::Sql(error) => disk::database_problem(database, error),
        Abort::Io { .. } | Abort::Refused(_) => None,
    };
    problem.map_or(abort, Abort::Refused)
}

/// Takes the directory for this process alone.
fn lock(layout: &Layout) -> Result<File, Abort> {
    let path = layout.lock();
    let action = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| Abort::Io { action: action(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Abort::Refused(
            "another process has it open: stop that one, or choose another directory".into(),
        )),
        Err(TryLockError::Error(source)) => Err(match disk::lock_problem(&path, &source) {
            Some(problem) => Abort::Refused(problem),
            None => Abort::Io { action: action(), source },
        }),
    }
}
