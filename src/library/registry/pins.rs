//! What users pinned, so that it is held whatever the configuration says; and what they asked for and did not get yet.

use super::{Registry, RegistryError};
use crate::library::filter::{Filter, FilterSpec};
use crate::library::hold::Pins;
use crate::record::ContentHash;

/// `value` is a hash for a `hash` and a `wish`, and a filter in JSON for a `filter`.
pub(super) const SCHEMA: &str = "CREATE TABLE pins (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;";

const HASH: &str = "hash";
const FILTER: &str = "filter";
const WISH: &str = "wish";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptPins {
    pub pins: Pins,
    pub wished: Vec<ContentHash>,
}

fn rows(pins: &Pins) -> Vec<(&'static str, String)> {
    let filters = pins.filters.iter().filter_map(|filter| {
        // A filter is made of texts: there is nothing that JSON could not say.
        Some((FILTER, serde_json::to_string(&FilterSpec::from(filter)).ok()?))
    });
    pins.hashes.iter().map(|hash| (HASH, hash.to_string())).chain(filters).collect()
}

impl Registry {
    pub fn keep_pins(&self, pins: &Pins) -> Result<(), RegistryError> {
        let rows = rows(pins);
        self.with("write", |db| {
            let mut insert = db.prepare("INSERT OR IGNORE INTO pins (kind, value) VALUES (?1, ?2)")?;
            rows.iter().try_for_each(|row| insert.execute((row.0, &row.1)).map(drop))
        })
    }

    pub fn drop_pins(&self, pins: &Pins) -> Result<(), RegistryError> {
        self.drop_rows(&rows(pins))
    }

    /// Somebody asked for this content.
    pub fn keep_wish(&self, hash: ContentHash) -> Result<(), RegistryError> {
        let hash = hash.to_string();
        self.with("write", |db| {
            db.execute("INSERT OR IGNORE INTO pins (kind, value) VALUES (?1, ?2)", (WISH, &hash)).map(drop)
        })
    }

    /// Nobody waits for these any more.
    pub fn drop_wishes(&self, hashes: &[ContentHash]) -> Result<(), RegistryError> {
        let rows: Vec<_> = hashes.iter().map(|hash| (WISH, hash.to_string())).collect();
        self.drop_rows(&rows)
    }

    fn drop_rows(&self, rows: &[(&'static str, String)]) -> Result<(), RegistryError> {
        self.with("write", |db| {
            let mut delete = db.prepare("DELETE FROM pins WHERE kind = ?1 AND value = ?2")?;
            rows.iter().try_for_each(|row| delete.execute((row.0, &row.1)).map(drop))
        })
    }

    /// All that was written down. What cannot be understood is passed over, and stays.
    pub fn pins(&self) -> Result<KeptPins, RegistryError> {
        let rows: Vec<(String, String)> = self.with("read", |db| {
            let mut select = db.prepare("SELECT kind, value FROM pins ORDER BY kind, value")?;
            select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let mut kept = KeptPins::default();
        for (kind, value) in rows {
            match kind.as_str() {
                HASH => kept.pins.hashes.extend(value.parse::<ContentHash>()),
                WISH => kept.wished.extend(value.parse::<ContentHash>()),
                FILTER => {
                    let spec = serde_json::from_str::<FilterSpec>(&value).ok();
                    kept.pins.filters.extend(spec.and_then(|spec| Filter::try_from(spec).ok()));
                }
                _ => {}
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pinned_and_wished_for_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libraries.db");
        let spec = FilterSpec { tags: Some(vec!["work".into()]), ..FilterSpec::default() };
        let pins = Pins {
            hashes: vec![ContentHash([1; 32]), ContentHash([2; 32])],
            filters: vec![Filter::try_from(spec).unwrap()],
        };
        let registry = Registry::open(&path).unwrap();
        registry.keep_pins(&pins).unwrap();
        registry.keep_pins(&pins).unwrap();
        registry.keep_wish(ContentHash([1; 32])).unwrap();
        drop(registry);
        let registry = Registry::open(&path).unwrap();
        let kept = registry.pins().unwrap();
        assert_eq!(kept, KeptPins { pins: pins.clone(), wished: vec![ContentHash([1; 32])] });
        registry.drop_pins(&Pins { hashes: vec![ContentHash([1; 32])], ..pins.clone() }).unwrap();
        let kept = registry.pins().unwrap();
        assert_eq!(kept.pins, Pins { hashes: vec![ContentHash([2; 32])], filters: Vec::new() });
        registry.drop_wishes(&kept.wished).unwrap();
        assert_eq!(registry.pins().unwrap().wished, []);
    }
}
