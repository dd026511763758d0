//! List keys: integers in the order of creation.
//!
//! A key is the millisecond of creation and, of those that were created in it, how many came before: what comes last is the
//! newest of its millisecond. Where one is full, the first free key of those after it is taken; how far that ever went is
//! written down, as whoever looks for a time has to look so much further.

use rusqlite::Connection;

/// Assets of one millisecond that have keys of it.
const TIES_BITS: u32 = 15;

/// The first key of a millisecond. One later than any that a record can have is later than all keys.
pub(in super::super) fn first_of(ms: u64) -> i64 {
    i64::try_from(ms).ok().filter(|ms| ms >> (63 - TIES_BITS) == 0).map_or(i64::MAX, |ms| ms << TIES_BITS)
}

/// A free key for what was created then.
pub(super) fn assign(conn: &Connection, created_at_ms: u64) -> rusqlite::Result<i64> {
    let mut ms = created_at_ms;
    let key = loop {
        let (first, end) = (first_of(ms), first_of(ms + 1));
        let last: Option<i64> = conn
            .prepare_cached("SELECT max(list_key) FROM records WHERE list_key >= ?1 AND list_key < ?2")?
            .query_row([first, end], |row| row.get(0))?;
        match last {
            None => break first,
            Some(last) if last + 1 < end => break last + 1,
            Some(_) => ms += 1,
        }
    };
    if ms > created_at_ms {
        conn.prepare_cached("UPDATE state SET key_spill = max(key_spill, ?1)")?
            .execute([(ms - created_at_ms).cast_signed()])?;
    }
    Ok(key)
}

/// By how many milliseconds a key may be later than the creation.
pub(in super::super) fn spill(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT key_spill FROM state")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::schema::open_for_writing;

    fn put(conn: &Connection, key: i64) {
        conn.execute(
            "INSERT INTO records (hash, size, hlc, deleted, updated_at_ms, created_at_ms, mime_type, list_key)
             VALUES (randomblob(32), 1, 0, 0, 0, 0, '', ?1)",
            [key],
        )
        .unwrap();
    }

    #[test]
    fn keys_are_in_the_order_of_creation_and_then_of_arrival() {
        let dir = tempfile::tempdir().unwrap();
        let conn = open_for_writing(&dir.path().join("store.db")).unwrap();
        let mut keys = Vec::new();
        for ms in [7, 7, (1 << 48) - 1, 0, 8, 7] {
            let key = assign(&conn, ms).unwrap();
            put(&conn, key);
            keys.push((ms, key));
        }
        keys.sort_by_key(|(ms, _)| *ms);
        assert!(keys.is_sorted_by(|(_, one), (_, other)| one < other), "{keys:?}");
        assert_eq!(spill(&conn), Ok(0));
        assert!(keys.iter().all(|(ms, key)| (first_of(*ms)..first_of(ms + 1)).contains(key)));
        assert!(first_of(1 << 48) > keys[5].1 && first_of(u64::MAX) == i64::MAX);
    }

    #[test]
    fn a_millisecond_that_is_full_goes_on_behind_itself() {
        let dir = tempfile::tempdir().unwrap();
        let conn = open_for_writing(&dir.path().join("store.db")).unwrap();
        put(&conn, first_of(6) - 1);
        put(&conn, first_of(7) - 1);
        assert_eq!(assign(&conn, 5), Ok(first_of(7)));
        assert_eq!(spill(&conn), Ok(2));
        assert_eq!(assign(&conn, 6), Ok(first_of(7)));
        assert_eq!(spill(&conn), Ok(2));
        assert_eq!(assign(&conn, 4), Ok(first_of(4)));
    }
}
