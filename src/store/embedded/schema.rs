//! The database: its connections, its tables, and how an older one becomes a newer one.
//!
//! Migrations are numbered by their place in [`MIGRATIONS`] (SQLite's `user_version`) and each runs inside a
//! transaction. Before the first one touches a database that holds anything, a copy of it is put beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

use super::failure::Abort;
use crate::text::folded;

/// Nobody else writes, but a person may look with the sqlite3 shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The schema.
///
/// - `records` is the feed: its rowid is the sequence number, so a change moves the row to the end and reading the
///   feed is a walk along the table. `writer` is NULL for the null writer. `content` says where the content lies: NULL
///   nowhere, 0 in a file, -1 in a bucket, else an id in `contents`. `search` is what `q` looks into: names and description, folded.
///   Tags are JSON here, so that a record is one row.
/// - `record_tags` finds live records by tag, folded.
/// - `contents` is apart from `records`, so that walking the records does not drag content through the cache.
/// - `trash` names content that was deleted or let go and is still there. A file in the trash stays in its place.
/// - `pending_files` names files that may lie under their final name without a record (see the module `writer`).
/// - `state` has one row. `last_seq` is what makes sequence numbers survive the purge of the newest row.
const SCHEMA_1: &str = "
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    writer_id BLOB NOT NULL,
    last_seq INTEGER NOT NULL,
    purge_floor INTEGER NOT NULL,
    assets INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, randomblob(32), 0, 0, 0, 0);

CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    blake3 BLOB,
    hlc INTEGER NOT NULL,
    writer BLOB,
    deleted INTEGER NOT NULL,
    content INTEGER,
    updated_at_ms INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    mime_type TEXT NOT NULL,
    filename TEXT,
    application TEXT,
    user TEXT,
    tags TEXT,
    description TEXT,
    search TEXT
) STRICT;
CREATE UNIQUE INDEX records_by_hash ON records (hash);
CREATE INDEX records_by_creation ON records (created_at_ms, hash) WHERE deleted = 0;
CREATE INDEX records_by_mime_type ON records (mime_type, created_at_ms, hash) WHERE deleted = 0;
CREATE INDEX records_by_application ON records (application, created_at_ms, hash)
    WHERE deleted = 0 AND application IS NOT NULL;
CREATE INDEX records_by_user ON records (user, created_at_ms, hash)
    WHERE deleted = 0 AND user IS NOT NULL;
CREATE INDEX records_deleted ON records (updated_at_ms) WHERE deleted = 1;

CREATE TABLE record_tags (
    tag TEXT NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (tag, hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE trash (
    hash BLOB PRIMARY KEY,
    content INTEGER NOT NULL,
    size INTEGER NOT NULL,
    trashed_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX trash_by_age ON trash (trashed_at_ms);

CREATE TABLE pending_files (
    hash BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
";

/// Contents of live assets that are not here: `content` is NULL, and `wanted` says whether they are to be fetched.
const SCHEMA_2: &str = "
ALTER TABLE records ADD COLUMN wanted INTEGER NOT NULL DEFAULT 1;
CREATE INDEX records_absent ON records (created_at_ms, hash) WHERE deleted = 0 AND content IS NULL;
ALTER TABLE state ADD COLUMN assets_held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN bytes_held INTEGER NOT NULL DEFAULT 0;
UPDATE state SET assets_held = assets, bytes_held = bytes;
";

/// What it takes to put right what a wrong clock did.
///
/// - `before_hlc` is NULL for a version that was not written here; else the date of the version before it, 0 for none.
/// - `uptime_ms` adds up how long the store was open. `look_ms` and `look_uptime_ms` say what time it was, and what had
///   added up, when somebody last looked for what is old enough to be purged.
const SCHEMA_CLOCKS: &str = "
ALTER TABLE records ADD COLUMN before_hlc INTEGER;
ALTER TABLE state ADD COLUMN uptime_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN look_ms INTEGER;
ALTER TABLE state ADD COLUMN look_uptime_ms INTEGER;
";

/// `via` is the library that a version came through; NULL for what was written here or on an own device.
const SCHEMA_LIBRARIES: &str = "
ALTER TABLE records ADD COLUMN via BLOB;
";

/// `own_content` says of a version that came through a library that users put the content. Who put what came before is not
/// known: nobody is to lose what may be theirs.
const SCHEMA_OWN_CONTENT: &str = "
ALTER TABLE records ADD COLUMN own_content INTEGER NOT NULL DEFAULT 0;
UPDATE records SET own_content = 1 WHERE via IS NOT NULL AND deleted = 0;
";

/// `former` is the version that users changed into the present one, as it is sent ([`crate::store::FeedEntry::formers`]).
const SCHEMA_FORMER: &str = "
ALTER TABLE records ADD COLUMN former BLOB;
";

/// `former_own` is the one of them that users wrote, which was in `former` where none came through a library.
const SCHEMA_FORMERS: &str = "
ALTER TABLE records ADD COLUMN former_own BLOB;
";

/// What is searched for is compared as people take it ([`folded`]), whatever was stored; a media type has no case.
const SCHEMA_FOLDED: &str = "
ALTER TABLE records ADD COLUMN application_folded TEXT;
ALTER TABLE records ADD COLUMN user_folded TEXT;
UPDATE records SET application_folded = folded(application), user_folded = folded(user), search = folded(search);
UPDATE OR REPLACE record_tags SET tag = folded(tag) WHERE tag <> folded(tag);
DROP INDEX records_by_mime_type;
DROP INDEX records_by_application;
DROP INDEX records_by_user;
CREATE INDEX records_by_mime_type ON records (lower(mime_type), created_at_ms, hash) WHERE deleted = 0;
CREATE INDEX records_by_application ON records (application_folded, created_at_ms, hash)
    WHERE deleted = 0 AND application_folded IS NOT NULL;
CREATE INDEX records_by_user ON records (user_folded, created_at_ms, hash)
    WHERE deleted = 0 AND user_folded IS NOT NULL;
";

/// What it takes to notice that content is damaged, and to get over it.
///
/// - `content_sums` has the sums of the groups of content in files, so many to a row. They belong to the bytes that the hash
///   names, so they stay right whatever becomes of the file; they go when it is purged.
/// - `damaged` names contents that were set aside. `content` says where the damaged bytes are: 0 in a file of `damaged/`,
///   -1 in the bucket, else an id in `contents`, NULL nowhere.
const SCHEMA_DAMAGE: &str = "
CREATE TABLE content_sums (
    hash BLOB NOT NULL,
    part INTEGER NOT NULL,
    sums BLOB NOT NULL,
    PRIMARY KEY (hash, part)
) STRICT, WITHOUT ROWID;
CREATE TABLE damaged (
    hash BLOB PRIMARY KEY,
    content INTEGER,
    size INTEGER NOT NULL,
    found_at_ms INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Changes that were acknowledged and are gone, in all, and when that was last noticed.
const SCHEMA_LOSS: &str = "
ALTER TABLE state ADD COLUMN lost_changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN lost_at_ms INTEGER;
";

/// `scrub` says how far the store is scrubbed; `scrub_findings` names what was found damaged since the pass began.
const SCHEMA_SCRUB: &str = "
CREATE TABLE scrub (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    state TEXT NOT NULL
) STRICT;
INSERT INTO scrub VALUES (1, '{}');
CREATE TABLE scrub_findings (
    hash BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    found_at_ms INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Further names of contents, and when their files were written.
///
/// - `names` are those besides `filename`, as JSON; `search` looks into them, too. `dropped_names` are digests of 8 bytes.
/// - `own_names` are the names that users of this store gave contents, whatever the records say by now.
const SCHEMA_NAMES: &str = "
ALTER TABLE records ADD COLUMN names TEXT;
ALTER TABLE records ADD COLUMN dropped_names BLOB;
ALTER TABLE records ADD COLUMN modified_at_ms INTEGER;
CREATE TABLE own_names (
    hash BLOB NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (hash, name)
) STRICT, WITHOUT ROWID;
";

/// What it takes to notice that the store was set back, or is another one.
///
/// - `store_id` names the store for as long as the database lives.
/// - `changes` counts all changes there were; numbers leave gaps (see the module `runs`).
/// - `runs` has the numbers that were given out: the first of each run, and the last, NULL for the run of now. What was
///   opened before there were runs gave out all numbers from 0 on.
const SCHEMA_RUNS: &str = "
ALTER TABLE state ADD COLUMN store_id BLOB;
ALTER TABLE state ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
UPDATE state SET store_id = randomblob(16), changes = last_seq;
CREATE TABLE runs (
    first INTEGER PRIMARY KEY,
    last INTEGER
) STRICT;
INSERT INTO runs SELECT 0, last_seq FROM state WHERE last_seq > 0 OR look_ms IS NOT NULL;
";

/// What lists and searches go by (see the module `index`), empty: it is made from the records, in the background where there are
/// any.
///
/// - `list_key` of a record is its place in lists; NULL for tombstones, and for what is not in the index yet.
/// - `facets` counts what live records can be asked for; `faceted` has the keys of those that have it.
/// - `words` has the trigrams of names and descriptions, under the keys.
/// - `index_stage` says how much of it there is; `key_spill` by how many milliseconds a key may be too late.
const SCHEMA_INDEX: &str = "
ALTER TABLE records ADD COLUMN list_key INTEGER;
CREATE UNIQUE INDEX records_by_list_key ON records (list_key) WHERE list_key IS NOT NULL;
CREATE TABLE facets (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    value TEXT NOT NULL,
    assets INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX facets_by_value ON facets (kind, value);
CREATE TABLE faceted (
    facet INTEGER NOT NULL,
    list_key INTEGER NOT NULL,
    PRIMARY KEY (facet, list_key)
) STRICT, WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (grams, content='', contentless_delete=1, tokenize='ascii');
ALTER TABLE state ADD COLUMN index_stage INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN key_spill INTEGER NOT NULL DEFAULT 0;
";

/// Sums are of groups of 64 KiB, and no more of 256 KiB: the former ones are forgotten, and made anew when a content is asked for
/// or scrubbed.
const SCHEMA_GROUPS: &str = "
DELETE FROM content_sums;
";

/// `words_seq` says up to which number `words` has the words of records (see the module `index::words`): so far, all of them.
const SCHEMA_WORDS_BEHIND: &str = "
ALTER TABLE state ADD COLUMN words_seq INTEGER NOT NULL DEFAULT 0;
UPDATE state SET words_seq = last_seq;
";

/// Records of folders, which are no assets. The numbers of `entries` are of one sequence with those of `records`.
///
/// - `hash` names a path in a folder, and no content; `path` is as paths are compared (NFC), and empty for what the folder is; `target`
///   is the content that it names, where it names one. `entry` is the whole as it is sent.
/// - `entry_history` has the versions that lost, whatever became of them since.
/// - `entry_counts` says how many rows of both a folder has: there is a bound.
const SCHEMA_ENTRIES: &str = "
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    folder BLOB NOT NULL,
    path BLOB NOT NULL,
    target BLOB,
    entry BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_hash ON entries (hash);
CREATE UNIQUE INDEX entries_by_path ON entries (folder, path);
CREATE INDEX entries_by_target ON entries (target) WHERE target IS NOT NULL;
CREATE INDEX entries_of_folders ON entries (folder) WHERE path = x'';
CREATE TABLE entry_history (
    hash BLOB NOT NULL,
    hlc INTEGER NOT NULL,
    digest BLOB NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (hash, hlc, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE entry_counts (
    folder BLOB PRIMARY KEY,
    entries INTEGER NOT NULL,
    history INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Folders that came by a ticket, each with its library.
const SCHEMA_FOREIGN: &str = "
CREATE TABLE foreign_folders (
    folder BLOB PRIMARY KEY,
    library BLOB NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Contents in object storage: `content` is -1 for them, in `records` and `trash`.
///
/// - `bucket` names the place where they are.
/// - `pending_objects` names objects that may be there without a record, and the uploads that are to make them (see the module
///   `objects`).
const SCHEMA_BUCKET: &str = "
CREATE TABLE bucket (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    place BLOB NOT NULL,
    shown TEXT
) STRICT;
CREATE TABLE pending_objects (
    hash BLOB PRIMARY KEY,
    upload TEXT
) STRICT, WITHOUT ROWID;
";

/// Who opened the bucket (see the module `claim` of `bucket`).
///
/// - `bucket_openings` has the openings of this store that may be the latest one, and which file the database was then, where the file
///   system tells.
/// - `bucket_halts` has the codes with which the place was halted, of which this store has taken note.
const SCHEMA_OPENINGS: &str = "
CREATE TABLE bucket_openings (
    id BLOB PRIMARY KEY,
    inode INTEGER,
    born_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE bucket_halts (
    code TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
";

/// Rows of sums are found by an index of their own. As the key of a table without row ids, they were read whole, 32 KiB each, for every
/// comparison of a search.
const SCHEMA_SUMS_BY_PART: &str = "
ALTER TABLE content_sums RENAME TO content_sums_as_keys;
CREATE TABLE content_sums (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    part INTEGER NOT NULL,
    sums BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX content_sums_by_part ON content_sums (hash, part);
INSERT INTO content_sums (hash, part, sums) SELECT hash, part, sums FROM content_sums_as_keys ORDER BY hash, part;
DROP TABLE content_sums_as_keys;
";

/// Contents in files that are to go to the bucket, in the order in which they came (see the module `going_up` of `objects`).
const SCHEMA_WAITING: &str = "
CREATE TABLE waiting_objects (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX waiting_objects_by_hash ON waiting_objects (hash);
";

/// Copies that are let go of, and promises to keep some (see the module `keeping`).
///
/// - `dropping` has the contents that this process is about to let go of; it is emptied when the store opens.
/// - `promises` has those that other machines, by their endpoint ids, were promised to be kept.
const SCHEMA_PROMISES: &str = "
CREATE TABLE dropping (
    hash BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TABLE promises (
    hash BLOB NOT NULL,
    promised_to BLOB NOT NULL,
    PRIMARY KEY (hash, promised_to)
) STRICT, WITHOUT ROWID;
";

/// What makes it cheap to forget promises, and to say how much waits.
///
/// - `run` is the opening of the store in which a promise was given last, and `until_ms` until when it lasts, by that opening's clock.
/// - `waiting_totals` has one row: how many contents wait to go to the bucket, and the sum of their sizes.
const SCHEMA_CHEAP: &str = "
ALTER TABLE promises ADD COLUMN run INTEGER NOT NULL DEFAULT 0;
ALTER TABLE promises ADD COLUMN until_ms INTEGER NOT NULL DEFAULT 0;
CREATE INDEX promises_by_end ON promises (run, until_ms);
CREATE TABLE waiting_totals (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    contents INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO waiting_totals SELECT 1, count(*), coalesce(sum(size), 0) FROM waiting_objects;
CREATE TRIGGER waiting_objects_come AFTER INSERT ON waiting_objects BEGIN
    UPDATE waiting_totals SET contents = contents + 1, bytes = bytes + new.size;
END;
CREATE TRIGGER waiting_objects_go AFTER DELETE ON waiting_objects BEGIN
    UPDATE waiting_totals SET contents = contents - 1, bytes = bytes - old.size;
END;
";

/// The newest schema that is understood.
pub(super) const KNOWN: usize = MIGRATIONS.len();
/// Every version of the schema, oldest first. Released entries are never edited.
const MIGRATIONS: &[M<'_>] = &[
    M::up(SCHEMA_1),
    M::up(SCHEMA_2),
    M::up(SCHEMA_CLOCKS),
    M::up(SCHEMA_LIBRARIES),
    M::up(SCHEMA_OWN_CONTENT),
    M::up(SCHEMA_FORMER),
    M::up(SCHEMA_FOLDED),
    M::up(SCHEMA_FORMERS),
    M::up(SCHEMA_DAMAGE),
    M::up(SCHEMA_LOSS),
    M::up(SCHEMA_SCRUB),
    M::up(SCHEMA_NAMES),
    M::up(SCHEMA_RUNS),
    M::up(SCHEMA_INDEX),
    M::up(SCHEMA_GROUPS),
    M::up(SCHEMA_WORDS_BEHIND),
    M::up(SCHEMA_ENTRIES),
    M::up(SCHEMA_FOREIGN),
    M::up(SCHEMA_BUCKET),
    M::up(SCHEMA_OPENINGS),
    M::up(SCHEMA_SUMS_BY_PART),
    M::up(SCHEMA_WAITING),
    M::up(SCHEMA_PROMISES),
    M::up(SCHEMA_CHEAP),
];
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
fn add_folding(conn: &Connection) -> Result<(), rusqlite::Error> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    conn.create_scalar_function("folded", 1, flags, |context| {
        let text: Option<String> = context.get(0)?;
        Ok(text.map(|text| folded(&text)))
    })
}

pub(super) fn open_for_reading(path: &Path) -> Result<Connection, rusqlite::Error> {
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

fn user_version(conn: &Connection) -> Result<u64, rusqlite::Error> {
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
