//! A small pool of connections that only read, each used on a blocking thread. In WAL mode they see the last commit
//! and never wait for the writer.
//!
//! Searches have connections, a queue and limits of their own: they may have to look at every record, and whatever else is read
//! (content, the feed, the status) must not wait behind them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, ErrorCode, InterruptHandle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::anchors::Anchors;
use super::failure::{self, Abort};
use super::schema;
use crate::disk::SHORT_PATIENCE;
use crate::store::{StoreError, StoreResult};

/// Reads at the same time. More would only contend for two or four cores and the page cache.
const READERS: usize = 4;
/// A connection that nobody used for so long is closed, and gives back what it keeps of the database in memory (up to 4 MB).
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Longest wait for a turn: a read takes milliseconds, so that this is a store in distress.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// Searches at the same time: half of the cores, and no more than these.
const SEARCHERS_MAX: usize = 4;
const SEARCHES_WAITING_MAX: usize = 64;
/// Longest wait of a search for its turn, and how long it may then take.
const SEARCH_TURN_TIMEOUT: Duration = Duration::from_secs(20);
const SEARCH_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Readers {
    dir: PathBuf,
    database: PathBuf,
    reads: Connections,
    searches: Connections,
    searches_waiting: Others,
    anchors: Arc<Anchors>,
    /// Why there are no more writes: damage that a reader meets ends them.
    read_only: Arc<Mutex<Option<String>>>,
}

/// Some connections for one kind of reading.
#[derive(Debug)]
struct Connections {
    count: usize,
    turns: Arc<Semaphore>,
    idle: IdleReaders,
}

/// Searches that wait for a turn.
#[derive(Clone, Default, Debug)]
pub(super) struct Others(Arc<AtomicUsize>);

impl Others {
    /// Whether there are any.
    pub(super) fn wait(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Connections that are open and not used, and since when.
type IdleReaders = Arc<Mutex<Vec<(Connection, Instant)>>>;

fn put_back(idle: &IdleReaders, conn: Connection) {
    idle.lock().push((conn, Instant::now()));
}

impl Connections {
    fn new(count: usize) -> Self {
        Self { count, turns: Arc::new(Semaphore::new(count)), idle: Arc::default() }
    }

    async fn close(&self) {
        let all = u32::try_from(self.count).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(TURN_TIMEOUT, self.turns.acquire_many(all)).await;
        self.turns.close();
        self.idle.lock().clear();
    }
}

impl Readers {
    pub(super) fn new(
        dir: PathBuf,
        database: PathBuf,
        anchors: Arc<Anchors>,
        read_only: Arc<Mutex<Option<String>>>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            dir,
            database,
            reads: Connections::new(READERS),
            searches: Connections::new((cores / 2).clamp(1, SEARCHERS_MAX)),
            searches_waiting: Others::default(),
            anchors,
            read_only,
        }
    }

    /// Who waits while a search runs.
    pub(super) fn others(&self) -> Others {
        self.searches_waiting.clone()
    }

    /// Runs `read` in one read transaction: everything that it sees belongs to the same moment.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreResult<T> {
        let failed = |reason: &str| StoreError::io(action, reason);
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.reads.turns).acquire_owned())
            .await
            .map_err(|_| failed("the store is too busy"))?
            .map_err(|_| failed("the store is closed"))?;
        self.read(&self.reads, turn, action, &Interrupt::default(), read).await
    }

    /// As [`Self::run`], for what may look at every record. It ends when nobody waits for it any more.
    ///
    /// # Errors
    /// As [`Self::run`], and [`StoreError::Busy`] where too many others search, or it takes too long.
    pub(super) async fn search<T: Send + 'static>(
        &self,
        action: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreResult<T> {
        let busy = || StoreError::Busy("too many searches are under way".into());
        let turn = {
            let _place = PlaceInQueue::take(&self.searches_waiting).ok_or_else(busy)?;
            let turn = Arc::clone(&self.searches.turns).acquire_owned();
            tokio::time::timeout(SEARCH_TURN_TIMEOUT, turn).await.map_err(|_| busy())?
        };
        let closed = |_| StoreError::io(action, "the store is closed");
        // Dropped with this future, it interrupts what still runs.
        let interrupt = Interrupt::default();
        let found = self.read(&self.searches, turn.map_err(closed)?, action, &interrupt, read);
        tokio::time::timeout(SEARCH_TIMEOUT, found).await.unwrap_or_else(|_| {
            let secs = SEARCH_TIMEOUT.as_secs();
            Err(StoreError::Busy(format!(
                "the search took longer than {secs} s and was ended: narrow it by tag, type, time or hash"
            )))
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        connections: &Connections,
        turn: OwnedSemaphorePermit,
        action: &'static str,
        interrupt: &Interrupt,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (database, idle) = (self.database.clone(), Arc::clone(&connections.idle));
        let anchors = Arc::clone(&self.anchors);
        let reading = Arc::clone(&interrupt.0);
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let taken = idle.lock().pop();
            let conn = taken.map(|(conn, _)| conn).map_or_else(|| open_same(&database, &anchors), Ok)?;
            if !reading.begin(&conn) {
                put_back(&idle, conn);
                return Ok(None);
            }
            let answer = in_transaction(&conn, read);
            reading.end();
            // A connection that failed is not trusted with the next question.
            if answer.is_ok() {
                put_back(&idle, conn);
            }
            answer.map(Some)
        })
        .await
        .map_err(|error| StoreError::io(action, error))?;
        let done = done.map_err(|error| {
            if failure::is_damage(&error) {
                let why = failure::damaged_database(&self.dir, &error);
                let mut read_only = self.read_only.lock();
                if read_only.is_none() {
                    tracing::error!(why, "the store takes no more writes");
                }
                read_only.get_or_insert(why);
            }
            Abort::Sql(error).answer(action, &self.dir)
        })?;
        done.ok_or_else(|| StoreError::io(action, "nobody waits for it"))
    }

    /// Closes what nobody used for a while.
    pub(super) fn close_unused(&self) {
        for connections in [&self.reads, &self.searches] {
            let mut idle = connections.idle.lock();
            // The one that was used last is taken first, so the others grow old.
            let unused: Vec<_> = idle.extract_if(.., |(_, since)| since.elapsed() >= KEPT_FOR).collect();
            drop(idle);
            drop(unused);
        }
    }

    /// Ends all reading, and waits a while for what is under way.
    pub(super) async fn close(&self) {
        self.searches.close().await;
        self.reads.close().await;
    }
}

/// Ends a read when it is dropped before that has.
#[derive(Default)]
struct Interrupt(Arc<ReadHandle>);

impl Drop for Interrupt {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let ReadState::Runs(connection) = &*state {
            connection.interrupt();
        }
        *state = ReadState::Abandoned;
    }
}

/// One read, as its thread and who waits for it see it.
#[derive(Default)]
struct ReadHandle(Mutex<ReadState>);

#[derive(Default)]
enum ReadState {
    #[default]
    Waits,
    Runs(InterruptHandle),
    Done,
    /// Nobody waits for it any more.
    Abandoned,
}

impl ReadHandle {
    fn lock(&self) -> MutexGuard<'_, ReadState> {
        self.0.lock()
    }

    /// Says that it runs on this connection from now on, unless nobody waits for it.
    fn begin(&self, conn: &Connection) -> bool {
        let mut state = self.lock();
        if matches!(*state, ReadState::Abandoned) {
            return false;
        }
        *state = ReadState::Runs(conn.get_interrupt_handle());
        true
    }

    /// From here on the connection is for others.
    fn end(&self) {
        *self.lock() = ReadState::Done;
    }
}

/// One of the places for searches that wait.
struct PlaceInQueue<'a>(&'a AtomicUsize);

impl<'a> PlaceInQueue<'a> {
    fn take(Others(waiting): &'a Others) -> Option<Self> {
        let place = Self(waiting);
        // Given back by the drop, also where there was none.
        (waiting.fetch_add(1, Ordering::Relaxed) < SEARCHES_WAITING_MAX).then_some(place)
    }
}

impl Drop for PlaceInQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens the database that the store has open, and no other one in its place.
fn open_same(database: &Path, anchors: &Anchors) -> rusqlite::Result<Connection> {
    let conn = open_patiently(database);
    match anchors.database_problem() {
        None => conn,
        Some(why) => {
            let cannot_open = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
            Err(rusqlite::Error::SqliteFailure(cannot_open, Some(why)))
        }
    }
}

/// What cannot be opened for want of a file descriptor can be in a moment.
pub(super) fn open_patiently(database: &Path) -> rusqlite::Result<Connection> {
    for pause in SHORT_PATIENCE {
        match schema::open_for_reading(database) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
                std::thread::sleep(pause);
            }
            opened => return opened,
        }
    }
    schema::open_for_reading(database)
}

fn in_transaction<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let tx = conn.unchecked_transaction()?;
    let answer = read(&tx)?;
    tx.finish()?;
    Ok(answer)
}
