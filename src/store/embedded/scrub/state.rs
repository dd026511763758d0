//! What is written down of scrubbing.

use std::time::Duration;

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::super::rows;
use crate::record::ContentHash;
use crate::store::scrub::{ScrubFinding, ScrubResult, ScrubSettings};

const FINDINGS_MAX: usize = 1000;

/// How far it is, as JSON in the table `scrub`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct ScrubState {
    /// Number of the pass under way, or of the last one.
    pub(super) pass: u64,
    /// When it began; `None` when none is under way.
    pub(super) begun_ms: Option<u64>,
    pub(super) asked: bool,
    /// The rate that the user asked for.
    pub(super) bytes_per_sec: Option<u64>,
    /// Contents up to this hash were read; `None` before the database was looked at.
    #[serde(with = "hash_text")]
    pub(super) after: Option<ContentHash>,
    pub(super) checked: u64,
    pub(super) bytes: u64,
    pub(super) not_checked: u64,
    pub(super) not_checked_bytes: u64,
    pub(super) rebuilt: u64,
    pub(super) unreadable: u64,
    pub(super) trash_damaged: u64,
    pub(super) database: Option<String>,
    pub(super) last: Option<ScrubResult>,
}

impl ScrubState {
    /// What cannot be read is begun afresh.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let text: String = conn.prepare_cached("SELECT state FROM scrub")?.query_row([], |row| row.get(0))?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    pub(super) fn save(&self, conn: &Connection) -> rusqlite::Result<()> {
        let text = serde_json::to_string(self).unwrap_or_default();
        conn.prepare_cached("UPDATE scrub SET state = ?1")?.execute([text]).map(drop)
    }

    /// A new pass, which has found nothing yet.
    pub(super) fn begin(&mut self, conn: &Connection, now_ms: u64, asked: bool) -> rusqlite::Result<()> {
        conn.prepare_cached("DELETE FROM scrub_findings")?.execute([])?;
        let (pass, last) = (self.pass + 1, self.last.take());
        *self = Self { pass, begun_ms: Some(now_ms), asked, last, ..Self::default() };
        self.save(conn)
    }

    pub(super) fn end(&mut self, now_ms: u64, found: u64, healed: u64, without_record: u64) {
        let Self {
            pass,
            begun_ms,
            checked,
            bytes,
            not_checked,
            not_checked_bytes,
            rebuilt,
            unreadable,
            trash_damaged,
            ref mut database,
            ..
        } = *self;
        let database = database.take();
        let begun_ms = begun_ms.unwrap_or(now_ms);
        let ended_ms = now_ms;
        self.last = Some(ScrubResult {
            pass,
            begun_ms,
            ended_ms,
            checked,
            bytes,
            not_checked,
            not_checked_bytes,
            found,
            healed,
            without_record,
            rebuilt,
            unreadable,
            trash_damaged,
            database,
        });
        self.begun_ms = None;
    }

    /// When the last pass ended. A clock that was ahead then does not put off the next one.
    pub(super) fn ended_ms(&self, now_ms: u64) -> Option<u64> {
        self.last.as_ref().map(|last| last.ended_ms.min(now_ms))
    }

    /// How long until there is something to do; `None` while nobody asks for it.
    pub(super) fn begins_in(
        &self,
        now_ms: u64,
        open_for: Duration,
        settings: &ScrubSettings,
    ) -> Option<Duration> {
        if self.begun_ms.is_some() && self.asked {
            return Some(Duration::ZERO);
        }
        if settings.interval.is_zero() {
            return None;
        }
        let settling = settings.settle.saturating_sub(open_for);
        if self.begun_ms.is_some() {
            return Some(settling);
        }
        let since_ms = self.ended_ms(now_ms).map(|ended_ms| now_ms - ended_ms);
        let due =
            since_ms.map_or(Duration::ZERO, |ms| settings.interval.saturating_sub(Duration::from_millis(ms)));
        Some(settling.max(due))
    }
}

/// Whether a pass that began then does not wait for anybody any more.
pub(super) fn is_overdue(begun_ms: u64, now_ms: u64, interval: Duration) -> bool {
    Duration::from_millis(now_ms.saturating_sub(begun_ms)) > interval / 2
}

mod hash_text {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::record::ContentHash;

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        hash: &Option<ContentHash>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        hash.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ContentHash>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
    }
}

/// Takes note of a content that was found damaged.
pub(in super::super) fn note_finding(
    conn: &Connection,
    hash: ContentHash,
    size: u64,
    reason: &str,
    now_ms: u64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO scrub_findings (hash, size, found_at_ms, reason) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![hash.0, size.cast_signed(), now_ms.cast_signed(), reason])
    .map(drop)
}

/// How many contents were found damaged since the pass began, and how many of them are whole again. What was deleted since is
/// neither.
pub(super) fn count_findings(conn: &Connection) -> rusqlite::Result<(u64, u64)> {
    conn.prepare_cached(
        "SELECT count(*), count(records.content) FROM scrub_findings JOIN records USING (hash) WHERE records.deleted = 0",
    )?
    .query_row([], |row| Ok((rows::unsigned(row, 0)?, rows::unsigned(row, 1)?)))
}

pub(super) fn findings(
    conn: &Connection,
    after: Option<ContentHash>,
    limit: usize,
) -> rusqlite::Result<Vec<ScrubFinding>> {
    conn.prepare_cached(
        "SELECT hash, scrub_findings.size, reason, found_at_ms, filename, records.content IS NOT NULL \
         FROM scrub_findings JOIN records USING (hash) WHERE records.deleted = 0 AND hash > ?1 ORDER BY hash LIMIT ?2",
    )?
    .query_map(params![after.map(|hash| hash.0.to_vec()).unwrap_or_default(), shown(limit)], finding)?
    .collect()
}

pub(super) fn damaged(conn: &Connection, limit: usize) -> rusqlite::Result<Vec<ScrubFinding>> {
    conn.prepare_cached(
        "SELECT damaged.hash, damaged.size, reason, found_at_ms, filename, 0 FROM damaged LEFT JOIN records USING (hash) \
         ORDER BY found_at_ms DESC, damaged.hash LIMIT ?1",
    )?
    .query_map([shown(limit)], finding)?
    .collect()
}

fn shown(limit: usize) -> i64 {
    i64::try_from(limit.min(FINDINGS_MAX)).unwrap_or(i64::MAX)
}

fn finding(row: &Row<'_>) -> rusqlite::Result<ScrubFinding> {
    Ok(ScrubFinding {
        hash: ContentHash(row.get(0)?).to_string(),
        size: rows::unsigned(row, 1)?,
        reason: row.get(2)?,
        found_ms: rows::unsigned(row, 3)?,
        filename: row.get(4)?,
        healed: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn settings(days: u32) -> ScrubSettings {
        ScrubSettings::every(days, 1 << 20, Arc::new(|| false))
    }

    fn ended(ended_ms: u64) -> ScrubState {
        ScrubState { last: Some(ScrubResult { ended_ms, ..ScrubResult::default() }), ..ScrubState::default() }
    }

    #[test]
    fn a_pass_begins_when_the_last_one_is_old_enough() {
        let every = settings(30);
        let now_ms = 2_000_000_000_000;
        let day_ms = 24 * 3600 * 1000;
        let open = Duration::from_hours(1);
        assert_eq!(ScrubState::default().begins_in(now_ms, open, &every), Some(Duration::ZERO));
        assert_eq!(ScrubState::default().begins_in(now_ms, Duration::ZERO, &every), Some(every.settle));
        assert_eq!(ended(now_ms - 10 * day_ms).begins_in(now_ms, open, &every), Some(20 * DAY));
        assert_eq!(ended(now_ms - 31 * day_ms).begins_in(now_ms, open, &every), Some(Duration::ZERO));
        // It ended by a clock that was ahead.
        assert_eq!(ended(now_ms + 400 * day_ms).begins_in(now_ms, open, &every), Some(30 * DAY));
        assert_eq!(ScrubState::default().begins_in(now_ms, open, &settings(0)), None);
    }

    #[test]
    fn a_pass_under_way_goes_on() {
        let now_ms = 2_000_000_000_000;
        let asked = ScrubState { begun_ms: Some(now_ms), asked: true, ..ScrubState::default() };
        assert_eq!(asked.begins_in(now_ms, Duration::ZERO, &settings(0)), Some(Duration::ZERO));
        let slow = ScrubState { asked: false, ..asked };
        assert_eq!(
            slow.begins_in(now_ms, Duration::from_mins(4), &settings(30)),
            Some(Duration::from_mins(6))
        );
        assert_eq!(slow.begins_in(now_ms, Duration::from_mins(40), &settings(30)), Some(Duration::ZERO));
        assert_eq!(slow.begins_in(now_ms, Duration::from_mins(40), &settings(0)), None);
        assert!(!is_overdue(now_ms, now_ms + 14 * 24 * 3600 * 1000, settings(30).interval));
        assert!(is_overdue(now_ms, now_ms + 16 * 24 * 3600 * 1000, settings(30).interval));
    }

    #[test]
    fn what_is_kept_can_be_read_again_and_what_is_garbled_begins_afresh() {
        let state = ScrubState { pass: 7, after: Some(ContentHash([5; 32])), ..ended(9) };
        let read: ScrubState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!((read.pass, read.after, read.last), (7, state.after, state.last));
        let older: ScrubState = serde_json::from_str(r#"{"pass":3,"unknown":1}"#).unwrap();
        assert_eq!((older.pass, older.after), (3, None));
    }
}
