//! A small pool of connections that only read, each used on a blocking thread. In WAL mode they see the last commit
//! and never wait for the writer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::failure::{self, Abort};
use super::schema;
use crate::store::StoreError;

/// Reads at the same time. More would only contend for two or four cores and the page cache.
const READERS: usize = 4;
/// Longest wait for a turn: a read takes milliseconds, so that this is a store in distress.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Readers {
    dir: PathBuf,
    database: PathBuf,
    turns: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
    /// Why there are no more writes: damage that a reader meets ends them.
    read_only: Arc<Mutex<Option<String>>>,
}

impl Readers {
    pub(super) fn new(dir: PathBuf, database: PathBuf, read_only: Arc<Mutex<Option<String>>>) -> Self {
        Self { dir, database, turns: Arc::new(Semaphore::new(READERS)), idle: Arc::default(), read_only }
    }

    /// Runs `read` in one read transaction: everything that it sees belongs to the same moment.
    ///
    /// # Errors
    /// What `read` said, or that no connection could be had in time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |reason: &str| StoreError::Io { action: action.into(), reason: reason.into() };
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| failed("the store is too busy"))?
            .map_err(|_| failed("the store is closed"))?;
        let (database, idle) = (self.database.clone(), Arc::clone(&self.idle));
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let conn = taken.map_or_else(|| schema::open_for_reading(&database), Ok)?;
            let answer = in_transaction(&conn, read);
            // A connection that failed is not trusted with the next question.
            if answer.is_ok() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            }
            answer
        })
        .await
        .map_err(|error| failed(&error.to_string()))?;
        done.map_err(|error| {
            if failure::is_damage(&error) {
                let why = failure::damaged_database(&self.dir, &error);
                let mut read_only = self.read_only.lock().unwrap_or_else(PoisonError::into_inner);
                if read_only.is_none() {
                    tracing::error!(why, "the store takes no more writes");
                }
                read_only.get_or_insert(why);
            }
            Abort::Sql(error).answer(action, &self.dir)
        })
    }

    /// Ends all reading, and waits a while for what is under way.
    pub(super) async fn close(&self) {
        let all = u32::try_from(READERS).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(TURN_TIMEOUT, self.turns.acquire_many(all)).await;
        self.turns.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn in_transaction<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
) -> Result<T, rusqlite::Error> {
    let tx = conn.unchecked_transaction()?;
    let answer = read(&tx)?;
    tx.finish()?;
    Ok(answer)
}
