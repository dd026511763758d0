//! Steps for contents in object storage, and for promises to keep copies.

/// Contents in object storage: `content` is -1 for them, in `records` and `trash`.
///
/// - `bucket` names the place where they are.
/// - `pending_objects` names objects that may be there without a record, and the uploads that are to make them (see the module
///   `objects`).
pub(super) const SCHEMA_BUCKET: &str = "
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
pub(super) const SCHEMA_OPENINGS: &str = "
CREATE TABLE bucket_openings (
    id BLOB PRIMARY KEY,
    inode INTEGER,
    born_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE bucket_halts (
    code TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
";

/// Contents in files that are to go to the bucket, in the order in which they came (see the module `going_up` of `objects`).
pub(super) const SCHEMA_WAITING: &str = "
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
pub(super) const SCHEMA_PROMISES: &str = "
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
pub(super) const SCHEMA_CHEAP: &str = "
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
