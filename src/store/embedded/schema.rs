//! The database: its connections, its tables, and how an older one becomes a newer one.
//!
//! Migrations are numbered by their place in [`MIGRATIONS`] (SQLite's `user_version`) and each runs inside a
//! transaction. Before the first one touches a database that holds anything, a copy of it is put beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

use self::steps::MIGRATIONS;
use super::failure::Abort;
use crate::text::folded;

mod steps;

/// Nobody else writes, but a person may look with the sqlite3 shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The newest schema that is understood.
pub(super) const KNOWN: usize = MIGRATIONS.len();
/// Schemas from here on touch nothing but what is made from the records and the contents, or add tables, so that no copy is kept: it
/// would take long, and as much room as the database.
const DERIVED_FROM: u64 = 13;

/// Opens the connection of the writer, and makes or migrates the database.
pub(super) fn open_for_writing(path: &Path) -> Result<Connection, Abort> {
    let mut conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // The writer checkpoints by itself, after the acknowledgements.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    conn.pragma_update(None, "cache_size", -16_000)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "trusted_schema", "OFF")?;
    conn.set_prepared_statement_cache_capacity(64);
    add_folding(&conn)?;
    migrate(&mut conn, path, MIGRATIONS)?;
    Ok(conn)
}

/// What migrations fold text with.
fn add_folding(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    conn.create_scalar_function("folded", 1, flags, |context| {
        let text: Option<String> = context.get(0)?;
        Ok(text.map(|text| folded(&text)))
    })
}

pub(super) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "cache_size", -4_000)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "trusted_schema", "OFF")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Brings the database to the last of `migrations`, keeping a copy of one that is older.
fn migrate(conn: &mut Connection, path: &Path, migrations: &[M<'_>]) -> Result<(), Abort> {
    let version = migrations.len() as u64;
    let found = user_version(conn)?;
    if found > version {
        return Err(Abort::Refused(format!(
            "it was written by a newer version of can-sync (schema {found}, this one knows {version}): use that version"
        )));
    }
    if found > 0 && found < version.min(DERIVED_FROM) {
        keep_copy(conn, &copy_path(path, found))?;
    }
    Migrations::from_slice(migrations).to_latest(conn).map_err(|error| {
        if let rusqlite_migration::Error::RusqliteError { err, .. } = error {
            Abort::Sql(err)
        } else {
            Abort::Refused(format!("its schema cannot be brought up to date: {error}"))
        }
    })
}

fn user_version(conn: &Connection) -> rusqlite::Result<u64> {
    conn.pragma_query_value(None, "user_version", |row| super::rows::unsigned(row, 0))
}

/// Where the copy of a database of schema `version` goes.
fn copy_path(path: &Path, version: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".schema-{version}"));
    name.into()
}

/// Copies the database, unless a finished copy is there already. The copy gets its name only once it is complete.
fn keep_copy(conn: &Connection, copy: &Path) -> Result<(), Abort> {
    if copy.exists() {
        return Ok(());
    }
    let part = copy.with_extension("part");
    let failed = |source| Abort::Io { action: format!("copy the database to {}", copy.display()), source };
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Err(_) | Ok(()) => {}
    }
    let text = part.to_str().ok_or_else(|| {
        failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not valid UTF-8"))
    })?;
    conn.execute("VACUUM INTO ?1", [text])?;
    std::fs::File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&part, copy).map_err(failed)?;
    super::layout::sync_dir(copy.parent().unwrap_or(Path::new("."))).map_err(failed)
}

#[cfg(test)]
mod kills;

#[cfg(test)]
mod tests {
    use super::super::rows;
    use super::steps::SCHEMA_1;
    use super::*;
    use crate::store::Holding;

    #[test]
    fn migrations_are_valid() {
        let mut conn = Connection::open_in_memory().unwrap();
        add_folding(&conn).unwrap();
        assert_eq!(Migrations::from_slice(MIGRATIONS).to_latest(&mut conn), Ok(()));
    }

    /// A database as it was after this many migrations.
    pub(super) fn database(path: &Path, migrations: usize) -> Connection {
        let mut conn = Connection::open(path).unwrap();
        add_folding(&conn).unwrap();
        migrate(&mut conn, path, &MIGRATIONS[..migrations]).unwrap();
        conn
    }

    #[test]
    fn an_older_database_is_migrated_and_its_copy_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let mut conn = database(&path, 1);
        conn.execute("INSERT INTO contents (data) VALUES (x'01')", []).unwrap();
        let next = [M::up(SCHEMA_1), M::up("DELETE FROM contents;")];
        migrate(&mut conn, &path, &next).unwrap();

        let rows = |path: &Path| {
            let conn = Connection::open(path).unwrap();
            conn.query_row("SELECT count(*) FROM contents", [], |row| rows::unsigned(row, 0)).unwrap()
        };
        assert_eq!(rows(&path), 0);
        assert_eq!(rows(&copy_path(&path, 1)), 1);
    }

    #[test]
    fn what_was_live_before_there_were_absent_contents_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let conn = database(&path, 1);
        conn.execute_batch(
            "INSERT INTO records (seq, hash, size, hlc, deleted, content, updated_at_ms, created_at_ms, mime_type)
             VALUES (1, zeroblob(32), 5, 0, 0, 7, 0, 0, ''), (2, randomblob(32), 9, 0, 1, NULL, 0, 0, '');
             UPDATE state SET last_seq = 2, assets = 1, bytes = 5;",
        )
        .unwrap();
        drop(conn);
        let conn = open_for_writing(&path).unwrap();
        let holdings: Vec<Holding> = conn
            .prepare(&format!("SELECT {} FROM records ORDER BY seq", rows::COLUMNS))
            .unwrap()
            .query_map([], |row| Ok(rows::read_asset(row)?.holding))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(holdings, [Holding::Held, Holding::Unwanted]);
        let totals = super::super::tx::Totals::read(&conn).unwrap();
        assert_eq!((totals.assets, totals.bytes), (1, 5));
        assert_eq!((totals.assets_held, totals.bytes_held), (1, 5));
        assert!(copy_path(&path, 1).exists());
    }

    #[test]
    fn what_came_before_it_was_noted_who_put_it_may_be_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let conn = database(&path, 4);
        conn.execute_batch(
            "INSERT INTO records (seq, hash, size, hlc, deleted, updated_at_ms, created_at_ms, mime_type, via)
             VALUES (1, randomblob(32), 5, 0, 0, 0, 0, '', NULL), (2, randomblob(32), 9, 0, 0, 0, 0, '', zeroblob(32)),
                 (3, randomblob(32), 9, 0, 1, 0, 0, '', zeroblob(32));",
        )
        .unwrap();
        drop(conn);
        let conn = open_for_writing(&path).unwrap();
        let own: Vec<(bool, bool)> = conn
            .prepare(&format!("SELECT {} FROM records ORDER BY seq", rows::COLUMNS))
            .unwrap()
            .query_map([], rows::read_asset)
            .unwrap()
            .map(|asset| asset.map(|asset| (asset.record.is_own(), asset.record.own_content)))
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(own, [(true, false), (true, true), (false, false)]);
    }

    #[test]
    fn what_was_stored_before_text_was_folded_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let conn = database(&path, 5);
        conn.execute_batch(
            "INSERT INTO records (seq, hash, size, hlc, deleted, updated_at_ms, created_at_ms, mime_type, user, search)
             VALUES (1, zeroblob(32), 5, 0, 0, 0, 0, 'Image/PNG', 'STRASSE', 'größe');
             INSERT INTO record_tags VALUES ('Sea', zeroblob(32)), ('sea', zeroblob(32)), ('ÉTÉ', zeroblob(32));",
        )
        .unwrap();
        drop(conn);
        let conn = open_for_writing(&path).unwrap();
        let found = |sql: &str| conn.query_row(sql, [], |row| rows::unsigned(row, 0)).unwrap();
        assert_eq!(
            found("SELECT count(*) FROM records WHERE user_folded = 'strasse' AND search = 'grösse'"),
            1
        );
        assert_eq!(found("SELECT count(*) FROM record_tags WHERE tag IN ('sea', 'été')"), 2);
        assert_eq!(found("SELECT count(*) FROM record_tags"), 2);
    }

    #[test]
    fn what_waits_is_counted_as_it_comes_and_goes_and_what_waited_before_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let conn = database(&path, 23);
        let list = "INSERT OR IGNORE INTO waiting_objects (hash, size, since_ms) VALUES (?1, ?2, 7)";
        for (hash, size) in [([1; 32], 100), ([2; 32], 23)] {
            conn.execute(list, (hash, size)).unwrap();
        }
        drop(conn);
        let conn = open_for_writing(&path).unwrap();
        let waits = |contents: u64, bytes: u64| {
            let sql = "SELECT contents, bytes FROM waiting_totals";
            let found = conn.query_row(sql, [], |row| Ok((rows::unsigned(row, 0)?, rows::unsigned(row, 1)?)));
            assert_eq!(found, Ok((contents, bytes)));
        };
        waits(2, 123);
        conn.execute(list, ([3; 32], 1)).unwrap();
        conn.execute(list, ([1; 32], 50)).unwrap();
        waits(3, 124);
        conn.execute("DELETE FROM waiting_objects WHERE hash IN (?1, ?2)", ([2; 32], [9; 32])).unwrap();
        waits(2, 101);
        conn.execute("DELETE FROM waiting_objects", []).unwrap();
        waits(0, 0);
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let mut conn = database(&path, 1);
        let next = [M::up(SCHEMA_1), M::up("DROP TABLE trash; THIS IS NOT SQL;")];
        assert!(migrate(&mut conn, &path, &next).is_err());
        assert_eq!(conn.query_row("SELECT count(*) FROM trash", [], |row| rows::unsigned(row, 0)), Ok(0));
        assert_eq!(user_version(&conn), Ok(1));
    }

    #[test]
    fn a_newer_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        open_for_writing(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open_for_writing(&path), Err(Abort::Refused(why)) if why.contains("newer")));
    }
}
