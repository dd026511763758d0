//! Comparing records one by one with what is asked for.

use rusqlite::{Connection, OptionalExtension as _};

use super::super::rows;

/// What is left to be compared with each record.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub(super) words: Vec<String>,
    pub(super) mime_prefix: Option<String>,
    pub(super) created_ms: Option<(u64, u64)>,
}

impl Comparison {
    pub(super) fn is_needed(&self) -> bool {
        !self.words.is_empty() || self.mime_prefix.is_some() || self.created_ms.is_some()
    }

    pub(super) fn accepts(&self, conn: &Connection, key: i64) -> rusqlite::Result<bool> {
        let sql = "SELECT search, mime_type, created_at_ms FROM records WHERE list_key = ?1";
        let row = conn.prepare_cached(sql)?.query_row([key], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get::<_, String>(1)?, rows::unsigned(row, 2)?))
        });
        let Some((search, mime_type, created_at_ms)) = row.optional()? else { return Ok(false) };
        let search = search.unwrap_or_default();
        let prefix = self.mime_prefix.as_deref().unwrap_or_default();
        Ok(self.words.iter().all(|word| search.contains(word))
            && mime_type.to_ascii_lowercase().starts_with(prefix)
            && self.created_ms.is_none_or(|(from, to)| (from..=to).contains(&created_at_ms)))
    }
}

/// The text in which words of a live record are looked for, folded; `None` where there is no such record, or no text.
pub(super) fn search_text(conn: &Connection, key: i64) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT search FROM records WHERE list_key = ?1";
    Ok(conn.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?.flatten())
}
