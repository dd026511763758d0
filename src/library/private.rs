//! What a user had already when they joined a library, and did not agree to share. Pure.
//!
//! It is recognised by what it says, whatever its date: a version that is dated anew stays private, and one that a user edits
//! is another one. Kept as the first bytes of hashes: 32 bytes for an asset.

use std::collections::HashMap;

use crate::record::{AssetRecord, ContentHash, EditId};

/// Enough of a hash to tell what one node holds apart.
pub type Short = [u8; 16];

/// Assets, and what they said then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Private(HashMap<Short, Short>);

impl Private {
    pub fn add(&mut self, record: &AssetRecord) {
        self.0.insert(of_hash(&record.hash), of_edit(record.edit()));
    }

    /// Whether a record says what was private already. That a private asset was deleted is so, too, whatever became of it
    /// before.
    pub fn has(&self, record: &AssetRecord) -> bool {
        let edit = self.0.get(&of_hash(&record.hash));
        edit.is_some_and(|edit| record.deleted || *edit == of_edit(record.edit()))
    }

    /// All of it: to be written down.
    pub fn all(&self) -> impl Iterator<Item = (&Short, &Short)> {
        self.0.iter()
    }
}

impl FromIterator<(Short, Short)> for Private {
    fn from_iter<I: IntoIterator<Item = (Short, Short)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

fn of_hash(hash: &ContentHash) -> Short {
    first(hash.0)
}

fn of_edit(EditId(edit): EditId) -> Short {
    first(edit)
}

fn first(bytes: [u8; 32]) -> Short {
    let mut short = Short::default();
    short.copy_from_slice(&bytes[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AssetMeta, Hlc};

    #[test]
    fn what_is_dated_anew_stays_private_and_what_is_edited_does_not() {
        let hash = ContentHash([1; 32]);
        let record = AssetRecord::new(hash, 5, None, AssetMeta { created_at_ms: 9, ..AssetMeta::default() });
        let mut private = Private::default();
        private.add(&record);
        let later = record.reasserted(Hlc::from_ms(1_000_000));
        let deleted = AssetRecord { deleted: true, ..later.clone() };
        let meta = AssetMeta { description: Some("edited".into()), ..record.meta.clone() };
        let edited = AssetRecord { meta, ..later.clone() };
        let other = AssetRecord { hash: ContentHash([2; 32]), ..record.clone() };
        for (record, is) in
            [(&record, true), (&later, true), (&deleted, true), (&edited, false), (&other, false)]
        {
            assert_eq!(private.has(record), is, "{record:?}");
        }
        assert_eq!(private.all().map(|(hash, edit)| (*hash, *edit)).collect::<Private>(), private);
    }
}
