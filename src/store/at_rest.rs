//! Looking into a database of a data directory without leaving a trace there, and copying it, whether a process has it open
//! or not.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

/// Time for a writer to let others read.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// Opens a database for reading. One that no process has open is read as it lies there, and nothing is made beside it.
pub(crate) fn open_at_rest(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let connection = if Path::new(&log).exists() {
        Connection::open_with_flags(path, flags)?
    } else {
        let uri = format!("file:{}?immutable=1", escaped(path));
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    connection.busy_timeout(READ_WITHIN)?;
    Ok(connection)
}

/// How many contents of live assets a store's database says to be in object storage, and the sum of their sizes.
pub(crate) fn contents_in_bucket(database: &Path) -> rusqlite::Result<(u64, u64)> {
    let sql = "SELECT count(*), coalesce(sum(size), 0) FROM records WHERE deleted = 0 AND content = -1";
    let (count, bytes): (i64, i64) =
        open_at_rest(database)?.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((count.max(0).cast_unsigned(), bytes.max(0).cast_unsigned()))
}

/// Pages that are copied at once.
const STEP_PAGES: i32 = 4096;
/// Pause while somebody else is in the way.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// Copies a database as it is at one moment, also while another process writes it. A stopped one's process must not start
/// meanwhile. The copy is one file that nothing else belongs to, and is durable.
///
/// # Errors
/// The database cannot be read, or the copy not written.
///
/// `alone` says that no process has it open or can open it.
pub(crate) fn copy_database(from: &Path, to: &Path, alone: bool) -> rusqlite::Result<()> {
    let source = if alone {
        open_at_rest(from)?
    } else {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let source = Connection::open_with_flags(from, flags)?;
        source.busy_timeout(READ_WITHIN)?;
        source
    };
    // Holds on to the moment: what is written meanwhile goes into the log, and does not make the copy begin again.
    source.execute_batch("BEGIN")?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut copy = Connection::open(to)?;
    {
        let backup = Backup::new(&source, &mut copy)?;
        loop {
            let step = backup.step(STEP_PAGES)?;
            if step == StepResult::Done {
                break;
            }
            if step != StepResult::More {
                std::thread::sleep(STEP_PAUSE);
            }
        }
    }
    copy.pragma_update(None, "synchronous", "FULL")?;
    // No log beside it, ever.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    copy.close().map_err(|(_, error)| error)
}

/// What is wrong with a database that nobody has open, as far as its pages tell. Of the table `spared` it is no matter.
pub(crate) fn damage_at_rest(path: &Path, spared: Option<&str>) -> Option<String> {
    let checked = open_at_rest(path).and_then(|connection| {
        let verdict = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0));
        let whole = verdict("PRAGMA quick_check(1)");
        if spared.is_none() || whole.as_ref().is_ok_and(|verdict| verdict == "ok") {
            return whole;
        }
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> ?1";
        let names: Vec<String> =
            connection.prepare(names)?.query_map([spared], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for name in names {
            let found = verdict(&format!("PRAGMA quick_check(\"{}\")", name.replace('"', "\"\"")))?;
            if found != "ok" {
                return Ok(found);
            }
        }
        Ok("ok".to_owned())
    });
    match checked {
        Ok(verdict) if verdict == "ok" => None,
        Ok(verdict) => Some(verdict),
        Err(error) => Some(error.to_string()),
    }
}

/// Why a database that nobody has open cannot be used: it is none, or newer than the schema that is `known`. One that is not
/// there can be made.
pub(crate) fn problem_at_rest(path: &Path, known: usize) -> Option<String> {
    if path.symlink_metadata().is_err() {
        return None;
    }
    let version = open_at_rest(path).and_then(|connection| {
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
    });
    match version {
        Ok(version) if usize::try_from(version).is_ok_and(|version| version <= known) => None,
        Ok(version) => Some(format!(
            "a newer version of can-sync wrote it (schema {version}, this one knows {known}): use that version"
        )),
        Err(e) => Some(e.to_string()),
    }
}

/// A path as it stands in a URI.
fn escaped(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_leaves_no_trace() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a? #%41 b\u{e9}");
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("some.db");
        let writer = Connection::open(&path).unwrap();
        writer.pragma_update(None, "journal_mode", "WAL").unwrap();
        writer.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (7);").unwrap();
        let read = || -> i64 {
            open_at_rest(&path).unwrap().query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(read(), 7, "while it is open elsewhere");
        drop(writer);
        let names = || {
            let mut names: Vec<_> =
                std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        assert_eq!(read(), 7);
        assert_eq!(names(), before);
        assert!(open_at_rest(&dir.join("none.db")).is_err());
    }
}
