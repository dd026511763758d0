//! What records can be asked for as a whole, with the number of live records of each.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _};

use super::super::types::StoredAsset;
use crate::text::folded;

/// What kind of thing a facet says, as a number in the database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in super::super) enum FacetKind {
    /// A tag, folded.
    Tag = 1,
    /// A media type, in lower case.
    MimeType = 2,
    /// The program that made the asset, folded.
    Application = 3,
    /// The person that made the asset, folded.
    User = 4,
    /// Whether the content is here: `1` or `0`.
    Held = 5,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in super::super) struct Facet {
    pub(in super::super) kind: FacetKind,
    pub(in super::super) value: String,
}

/// A facet that live records have.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct KnownFacet {
    pub(in super::super) id: i64,
    /// Live records that have it.
    pub(in super::super) assets: u64,
}

/// The facets of an asset; a deleted one has none.
pub(in super::super) fn of(asset: &StoredAsset) -> BTreeSet<Facet> {
    let record = &asset.record;
    if record.deleted {
        return BTreeSet::new();
    }
    let meta = &record.meta;
    let facet = |kind, value| Facet { kind, value };
    let mut all: BTreeSet<Facet> = meta.tags.iter().map(|tag| facet(FacetKind::Tag, folded(tag))).collect();
    all.insert(facet(FacetKind::MimeType, meta.mime_type.to_ascii_lowercase()));
    all.extend(meta.application.iter().map(|text| facet(FacetKind::Application, folded(text))));
    all.extend(meta.user.iter().map(|text| facet(FacetKind::User, folded(text))));
    all.insert(held(asset.holding.is_held()));
    all
}

pub(in super::super) fn held(is_held: bool) -> Facet {
    Facet { kind: FacetKind::Held, value: if is_held { "1" } else { "0" }.to_owned() }
}

/// Facets that a transaction gives to records and takes from them. How many have each is written at its end, once for each.
#[derive(Default)]
pub(in super::super) struct FacetChanges(BTreeMap<Facet, FacetChange>);

struct FacetChange {
    id: i64,
    /// Records that have it now and did not, less those that had it.
    more: i64,
}

impl FacetChanges {
    pub(super) fn add(
        &mut self,
        conn: &Connection,
        key: i64,
        facets: &BTreeSet<Facet>,
    ) -> rusqlite::Result<()> {
        for facet in facets {
            let change = match self.known(conn, facet)? {
                Some(change) => change,
                None => self.begin(conn, facet)?,
            };
            let added = conn
                .prepare_cached("INSERT OR IGNORE INTO faceted (facet, list_key) VALUES (?1, ?2)")?
                .execute((change.id, key))?;
            change.more += i64::from(added > 0);
        }
        Ok(())
    }

    pub(super) fn remove(
        &mut self,
        conn: &Connection,
        key: i64,
        facets: &BTreeSet<Facet>,
    ) -> rusqlite::Result<()> {
        for facet in facets {
            let Some(change) = self.known(conn, facet)? else { continue };
            let removed = conn
                .prepare_cached("DELETE FROM faceted WHERE facet = ?1 AND list_key = ?2")?
                .execute((change.id, key))?;
            change.more -= i64::from(removed > 0);
        }
        Ok(())
    }

    /// A facet that the database has.
    fn known(&mut self, conn: &Connection, facet: &Facet) -> rusqlite::Result<Option<&mut FacetChange>> {
        if !self.0.contains_key(facet) {
            let Some(known) = find(conn, facet)? else { return Ok(None) };
            self.0.insert(facet.clone(), FacetChange { id: known.id, more: 0 });
        }
        Ok(self.0.get_mut(facet))
    }

    /// One that it does not have.
    fn begin(&mut self, conn: &Connection, facet: &Facet) -> rusqlite::Result<&mut FacetChange> {
        conn.prepare_cached("INSERT INTO facets (kind, value, assets) VALUES (?1, ?2, 0)")?
            .execute((facet.kind as i64, &facet.value))?;
        Ok(self.0.entry(facet.clone()).or_insert(FacetChange { id: conn.last_insert_rowid(), more: 0 }))
    }

    /// Writes how many records have each. What nothing has any more is not listed.
    pub(in super::super) fn write(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        for FacetChange { id, more } in std::mem::take(&mut self.0).into_values() {
            if more != 0 {
                conn.prepare_cached("UPDATE facets SET assets = assets + ?2 WHERE id = ?1")?
                    .execute([id, more])?;
            }
            if more <= 0 {
                conn.prepare_cached("DELETE FROM facets WHERE id = ?1 AND assets <= 0")?.execute([id])?;
            }
        }
        Ok(())
    }
}

pub(in super::super) fn find(conn: &Connection, facet: &Facet) -> rusqlite::Result<Option<KnownFacet>> {
    conn.prepare_cached("SELECT id, assets FROM facets WHERE kind = ?1 AND value = ?2")?
        .query_row((facet.kind as i64, &facet.value), known)
        .optional()
}

/// Whether the record with this key is found by a facet.
pub(in super::super) fn has(conn: &Connection, key: i64, facet: &Facet) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM faceted JOIN facets ON facets.id = facet \
         WHERE kind = ?1 AND value = ?2 AND list_key = ?3)",
    )?
    .query_row((facet.kind as i64, &facet.value, key), |row| row.get(0))
}

/// Facets from `from` to before `end`, at most `limit`.
pub(in super::super) fn between(
    conn: &Connection,
    kind: FacetKind,
    from: &str,
    end: &str,
    limit: usize,
) -> rusqlite::Result<Vec<KnownFacet>> {
    conn.prepare_cached(
        "SELECT id, assets FROM facets WHERE kind = ?1 AND value >= ?2 AND value < ?3 ORDER BY value LIMIT ?4",
    )?
    .query_map((kind as i64, from, end, i64::try_from(limit).unwrap_or(i64::MAX)), known)?
    .collect()
}

/// Facets whose number of records is not what is kept, or of which there are records and nothing else.
pub(in super::super) fn wrong_counts(conn: &Connection) -> rusqlite::Result<Vec<i64>> {
    conn.prepare(
        "WITH counted AS (SELECT facet, count(*) AS assets FROM faceted GROUP BY facet) \
         SELECT id FROM facets LEFT JOIN counted ON facet = id WHERE facets.assets IS NOT counted.assets",
    )?
    .query_map([], |row| row.get(0))?
    .collect()
}

/// Counts the records of facets; how many had other numbers.
pub(in super::super) fn count_anew(conn: &Connection, facets: &[i64]) -> rusqlite::Result<u64> {
    let mut changed = 0;
    for id in facets {
        changed += conn
            .prepare_cached(
                "UPDATE facets SET assets = (SELECT count(*) FROM faceted WHERE facet = ?1) WHERE id = ?1 \
                 AND assets <> (SELECT count(*) FROM faceted WHERE facet = ?1)",
            )?
            .execute([id])?;
        conn.prepare_cached("DELETE FROM facets WHERE id = ?1 AND assets = 0")?.execute([id])?;
    }
    Ok(changed as u64)
}

fn known(row: &rusqlite::Row<'_>) -> rusqlite::Result<KnownFacet> {
    Ok(KnownFacet { id: row.get(0)?, assets: super::super::rows::unsigned(row, 1)? })
}
