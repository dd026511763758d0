//! How the schema came to be, one step after the other.

use rusqlite_migration::M;

use self::bucket::{SCHEMA_BUCKET, SCHEMA_CHEAP, SCHEMA_OPENINGS, SCHEMA_PROMISES, SCHEMA_WAITING};

mod bucket;

/// Every version of the schema, oldest first. Released entries are never edited.
pub(super) const MIGRATIONS: &[M<'_>] = &[
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
pub(super) const SCHEMA_1: &str = "
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

/// What is searched for is compared as people take it ([`folded`](crate::text::folded)), whatever was stored; a media type has no case.
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
