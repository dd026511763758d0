//! How much content may be here: what is held and what lies in the trash, in the database, in files or in a bucket.
//!
//! What is about to come is claimed first, and counts until it is committed, or nothing came of it. So the sum never exceeds the quota,
//! however many come at once; what is committed may count twice for a moment, which refuses too much rather than too little. Where the
//! quota is lowered below what is here, nothing goes.

use std::sync::Arc;

use bytesize::ByteSize;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::rows;
use super::tx::Totals;
use crate::store::{QuotaStatus, StoreError, StoreResult};

/// Keeps count. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Quota(Arc<Mutex<QuotaUse>>);

#[derive(Debug, Default)]
struct QuotaUse {
    /// `None`: as much as there is room for.
    max: Option<u64>,
    held: u64,
    trashed: u64,
    claimed: u64,
}

impl QuotaUse {
    fn used(&self) -> u64 {
        self.held.saturating_add(self.trashed)
    }

    /// What is left of it; `None` without a quota.
    fn left(&self) -> Option<u64> {
        Some(self.max?.saturating_sub(self.used().saturating_add(self.claimed)))
    }

    fn check(&self, bytes: u64) -> StoreResult {
        match (self.max, self.left()) {
            (Some(max), Some(left)) if bytes > left => Err(StoreError::OverQuota(self.refusal(max, bytes))),
            _ => Ok(()),
        }
    }

    fn refusal(&self, max: u64, bytes: u64) -> String {
        let trashed = match self.trashed {
            0 => String::new(),
            trashed => format!(", {} of that in the trash", ByteSize(trashed)),
        };
        format!(
            "the quota of this store is {}, {} are used{trashed}, and {} more do not fit: raise store.quota_bytes; what is deleted counts \
             until it leaves the trash after 30 days",
            ByteSize(max),
            ByteSize(self.used().saturating_add(self.claimed)),
            ByteSize(bytes),
        )
    }
}

/// A part of the quota that is taken; given back when it is dropped.
#[derive(Debug)]
pub(super) struct QuotaClaim {
    quota: Quota,
    bytes: u64,
}

impl Quota {
    /// What is here as the store opens, without a limit.
    pub(super) fn open(conn: &Connection, totals: &Totals) -> rusqlite::Result<Self> {
        let quota = Self::default();
        quota.set_used(totals.bytes_held, trashed_bytes(conn)?);
        Ok(quota)
    }

    pub(super) fn set_max(&self, max: Option<u64>) {
        self.0.lock().max = max;
    }

    pub(super) fn set_used(&self, held: u64, trashed: u64) {
        let mut used = self.0.lock();
        (used.held, used.trashed) = (held, trashed);
    }

    /// As [`Self::set_used`], where the trash is as it was.
    pub(super) fn set_held(&self, held: u64) {
        self.0.lock().held = held;
    }

    /// Whether so many bytes more would be taken now.
    pub(super) fn check(&self, bytes: u64) -> StoreResult {
        self.0.lock().check(bytes)
    }

    /// Takes a part of it.
    pub(super) fn claim(&self, bytes: u64) -> StoreResult<QuotaClaim> {
        let mut claim = QuotaClaim { quota: self.clone(), bytes: 0 };
        claim.grow(bytes)?;
        Ok(claim)
    }

    /// What is left of it; `None` without a quota.
    pub(super) fn left(&self) -> Option<u64> {
        self.0.lock().left()
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.lock().max.is_some()
    }

    pub(super) fn status(&self) -> Option<QuotaStatus> {
        let used = self.0.lock();
        Some(QuotaStatus { max_bytes: used.max?, used_bytes: used.used(), trashed_bytes: used.trashed })
    }
}

impl QuotaClaim {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// As [`Quota::check`]; then it is as it was.
    pub(super) fn grow(&mut self, bytes: u64) -> StoreResult {
        let mut used = self.quota.0.lock();
        used.check(bytes)?;
        used.claimed = used.claimed.saturating_add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }
}

impl Drop for QuotaClaim {
    fn drop(&mut self) {
        let mut used = self.quota.0.lock();
        used.claimed = used.claimed.saturating_sub(self.bytes);
    }
}

pub(super) fn trashed_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT coalesce(sum(size), 0) FROM trash")?
        .query_row([], |row| rows::unsigned(row, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_held_and_trashed_bytes_add_up_to_the_quota_and_no_more() {
        let quota = Quota::default();
        assert!(quota.claim(u64::MAX / 2).is_ok() && quota.left().is_none(), "there is none");
        quota.set_max(Some(100));
        quota.set_used(40, 20);
        let mut claim = quota.claim(30).unwrap();
        assert_eq!(quota.left(), Some(10));
        let refused = quota.claim(11).unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, StoreError::OverQuota(_)), "{said}");
        assert!(said.contains("100 B") && said.contains("90 B are used, 20 B of that"), "{said}");
        assert!(claim.grow(11).is_err() && claim.grow(10).is_ok());
        assert!(quota.check(0).is_ok() && quota.check(1).is_err());
        drop(claim);
        assert_eq!(quota.left(), Some(40));
        // Lowered below what is here, it refuses and does nothing else.
        quota.set_max(Some(10));
        assert!(quota.claim(1).is_err() && quota.left() == Some(0));
        let status = quota.status().unwrap();
        assert_eq!((status.max_bytes, status.used_bytes, status.trashed_bytes), (10, 60, 20));
    }

    #[test]
    fn many_at_once_never_take_more_than_there_is() {
        let quota = Quota::default();
        quota.set_max(Some(1_000));
        let taken: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| (0..100).filter_map(|_| quota.claim(7).ok()).collect::<Vec<QuotaClaim>>())
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 1_000 / 7);
    }
}
