//! Which assets belong to a library. Pure.
//!
//! Fields are joined by AND, tags among themselves by OR; a field that is left out asks for nothing, so the empty filter
//! is everything. A filter that no asset could ever match is refused rather than kept. Text is compared as people take it:
//! neither case nor Unicode's composition count.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{CodecError, RowReader, RowWriter};
use crate::record::{AssetRecord, ContentHash, TAG_CHARS_MAX, TAGS_MAX};
use crate::text::{folded, same_text};

/// Most hashes in one filter.
pub const HASHES_MAX: usize = 10_000;
/// Longest application, user and media type, in characters.
pub const TEXT_CHARS_MAX: usize = 256;
/// The same in bytes, for decoders.
const TEXT_BYTES_MAX: usize = 4 * TEXT_CHARS_MAX;

/// A filter as people write it; [`Filter::try_from`] checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilterSpec {
    /// Program that made the asset: the whole name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The asset has at least one of these. An empty list is refused: one that a program made of nothing must not share
    /// everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub tags: Option<Vec<String>>,
    /// Person that made the asset: the whole name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The media type begins so, such as `image/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_prefix: Option<String>,
    /// The asset is one of these: 64 lower-case hexadecimal digits each, 1 to 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub hashes: Option<Vec<String>>,
}

/// A filter that was found to make sense. Equal filters are equal however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    application: Option<String>,
    tags: BTreeSet<String>,
    user: Option<String>,
    mime_prefix: Option<String>,
    hashes: BTreeSet<ContentHash>,
}

/// Why a filter makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A field that is there and says nothing.
    #[error("the filter's {0}: empty, which no asset has; leave it out to ask for any")]
    Empty(&'static str),
    /// Longer than any asset's.
    #[error("the filter's {field} has {chars} characters: at most {max}")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// How long it is.
        chars: usize,
        /// How long it may be.
        max: usize,
    },
    /// Something that is not text.
    #[error("the filter's {0} has control characters: write it without")]
    Control(&'static str),
    /// Spaces at the ends of a tag, which tags never have.
    #[error("the tag '{0}' begins or ends with a space, which no asset's tag does: leave the spaces out")]
    TagSpaces(String),
    /// No media type begins so.
    #[error("no media type begins with '{0}': write it as 'image/' or 'image/png'")]
    MimePrefix(String),
    /// More than a filter may have.
    #[error("the filter has {count} {field}: at most {max}")]
    TooMany {
        /// Which field.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// Not a hash.
    #[error("the filter's hash {0}")]
    Hash(crate::record::ParseIdError),
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), FilterError> {
    let chars = text.chars().count();
    if text.trim().is_empty() {
        Err(FilterError::Empty(field))
    } else if chars > max {
        Err(FilterError::TooLong { field, chars, max })
    } else if text.chars().any(char::is_control) {
        Err(FilterError::Control(field))
    } else {
        Ok(())
    }
}

/// A list as it is written down: nothing where it asks for nothing.
fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}

fn list(field: &'static str, given: Option<Vec<String>>, max: usize) -> Result<Vec<String>, FilterError> {
    match given {
        None => Ok(Vec::new()),
        Some(list) if list.is_empty() => Err(FilterError::Empty(field)),
        Some(list) if list.len() > max => Err(FilterError::TooMany { field, count: list.len(), max }),
        Some(list) => Ok(list),
    }
}

fn check_mime_prefix(prefix: &str) -> Result<(), FilterError> {
    check_text("mime_prefix", prefix, TEXT_CHARS_MAX)?;
    // What follows a semicolon is a parameter, where anything goes.
    let essence = prefix.split(';').next().unwrap_or_default();
    let possible = essence.chars().all(|c| c.is_ascii_graphic());
    if essence.is_empty() || essence.starts_with('/') || essence.matches('/').count() > 1 || !possible {
        return Err(FilterError::MimePrefix(prefix.to_owned()));
    }
    Ok(())
}

impl TryFrom<FilterSpec> for Filter {
    type Error = FilterError;

    fn try_from(spec: FilterSpec) -> Result<Self, FilterError> {
        // Before anything is copied or parsed.
        let hashes = list("hashes", spec.hashes, HASHES_MAX)?;
        let tags = list("tags", spec.tags, TAGS_MAX)?;
        for (field, text) in [("application", &spec.application), ("user", &spec.user)] {
            text.as_ref().map_or(Ok(()), |text| check_text(field, text, TEXT_CHARS_MAX))?;
        }
        for tag in &tags {
            check_text("tag", tag, TAG_CHARS_MAX)?;
            if tag.trim() != tag {
                return Err(FilterError::TagSpaces(tag.clone()));
            }
        }
        spec.mime_prefix.as_ref().map_or(Ok(()), |prefix| check_mime_prefix(prefix))?;
        let hashes = hashes.iter().map(|hash| hash.parse()).collect::<Result<_, _>>();
        Ok(Self {
            application: spec.application,
            tags: tags.into_iter().collect(),
            user: spec.user,
            mime_prefix: spec.mime_prefix.map(|prefix| prefix.to_ascii_lowercase()),
            hashes: hashes.map_err(FilterError::Hash)?,
        })
    }
}

impl From<&Filter> for FilterSpec {
    fn from(filter: &Filter) -> Self {
        Self {
            application: filter.application.clone(),
            tags: some(filter.tags.iter().cloned().collect()),
            user: filter.user.clone(),
            mime_prefix: filter.mime_prefix.clone(),
            hashes: some(filter.hashes.iter().map(ToString::to_string).collect()),
        }
    }
}

impl Filter {
    /// Whether it asks for nothing, and so takes in everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the asset belongs, as its record is now. A tombstone belongs where the asset did.
    #[must_use]
    pub fn matches(&self, record: &AssetRecord) -> bool {
        let meta = &record.meta;
        let same = |asked: &Option<String>, has: &Option<String>| {
            asked.as_ref().is_none_or(|asked| has.as_ref().is_some_and(|has| same_text(asked, has)))
        };
        same(&self.application, &meta.application)
            && same(&self.user, &meta.user)
            && (self.tags.is_empty() || self.has_one_of(&meta.tags))
            && self.mime_prefix.as_ref().is_none_or(|prefix| begins(&meta.mime_type, prefix))
            && (self.hashes.is_empty() || self.hashes.contains(&record.hash))
    }

    fn has_one_of(&self, tags: &[String]) -> bool {
        if tags.iter().any(|tag| self.tags.contains(tag)) {
            return true;
        }
        // Each text is folded once: both sides may have many, and strangers write them.
        let asked: HashSet<String> = self.tags.iter().map(|tag| folded(tag)).collect();
        tags.iter().any(|tag| asked.contains(&folded(tag)))
    }

    /// Appends the one encoding of this filter.
    pub(super) fn encode(&self, out: &mut RowWriter) {
        out.optional_text(self.application.as_deref());
        out.count(self.tags.len());
        for tag in &self.tags {
            out.text(tag);
        }
        out.optional_text(self.user.as_deref()).optional_text(self.mime_prefix.as_deref());
        out.count(self.hashes.len());
        for hash in &self.hashes {
            out.raw(&hash.0);
        }
    }

    /// Reads what [`Filter::encode`] wrote, and nothing else.
    pub(super) fn decode(from: &mut RowReader<'_>) -> Result<Self, CodecError> {
        let application = from.optional_text(TEXT_BYTES_MAX, "application")?;
        let count = from.count(TAGS_MAX, "number of tags")?;
        let tags = (0..count).map(|_| from.text(4 * TAG_CHARS_MAX, "tag")).collect::<Result<_, _>>()?;
        let user = from.optional_text(TEXT_BYTES_MAX, "user")?;
        let mime_prefix = from.optional_text(TEXT_BYTES_MAX, "mime_prefix")?;
        let count = from.count(HASHES_MAX, "number of hashes")?;
        let (hashes, _) = from.raw(count * 32)?.as_chunks::<32>();
        let hashes = hashes.iter().map(|hash| ContentHash(*hash).to_string()).collect();
        // There is one encoding of each filter.
        if mime_prefix.iter().any(|prefix| prefix.bytes().any(|byte| byte.is_ascii_uppercase())) {
            return Err(CodecError::Value("filter"));
        }
        let spec = FilterSpec { application, tags: some(tags), user, mime_prefix, hashes: some(hashes) };
        Self::try_from(spec).map_err(|_| CodecError::Value("filter"))
    }
}

/// Media types are the same in upper and lower case.
fn begins(mime_type: &str, prefix: &str) -> bool {
    mime_type.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::AssetMeta;

    /// Records and filters from so few words that they meet often.
    pub(in crate::library) fn record() -> impl Strategy<Value = AssetRecord> {
        let word = || proptest::option::of(proptest::sample::select(vec!["a", "b", "c"]));
        let tags = proptest::collection::btree_set(proptest::sample::select(vec!["x", "y", "z"]), 0..3);
        let mime = proptest::sample::select(vec!["image/png", "image/jpeg", "text/plain", "IMAGE/gif"]);
        (0..12_u8, word(), word(), tags, mime, 0..1000_u64, any::<bool>()).prop_map(
            |(hash, application, user, tags, mime, at, deleted)| {
                let meta = AssetMeta {
                    mime_type: mime.to_owned(),
                    application: application.map(str::to_owned),
                    user: user.map(str::to_owned),
                    tags: AssetMeta::normalise_tags(tags),
                    created_at_ms: at,
                    ..AssetMeta::default()
                };
                let size = u64::from(hash) + 1;
                AssetRecord { deleted, ..AssetRecord::new(ContentHash([hash; 32]), size, None, meta) }
            },
        )
    }

    pub(in crate::library) fn filter() -> impl Strategy<Value = Filter> {
        let word = || proptest::option::of(proptest::sample::select(vec!["a", "b", "c"]));
        let tags = proptest::collection::vec(proptest::sample::select(vec!["x", "y", "z"]), 0..3);
        let mime = proptest::option::of(proptest::sample::select(vec!["image/", "image/png", "text/", "te"]));
        let hashes = proptest::collection::vec(0..12_u8, 0..8);
        (word(), word(), tags, mime, hashes).prop_map(|(application, user, tags, mime, hashes)| {
            let spec = FilterSpec {
                application: application.map(str::to_owned),
                user: user.map(str::to_owned),
                tags: some(tags.into_iter().map(str::to_owned).collect()),
                mime_prefix: mime.map(str::to_owned),
                hashes: some(hashes.into_iter().map(|hash| ContentHash([hash; 32]).to_string()).collect()),
            };
            Filter::try_from(spec).unwrap()
        })
    }

    fn spec(change: impl FnOnce(&mut FilterSpec)) -> Result<Filter, FilterError> {
        let mut spec = FilterSpec::default();
        change(&mut spec);
        spec.try_into()
    }

    proptest! {
        #[test]
        fn a_filter_is_the_and_of_its_fields(filter in filter(), record in record()) {
            let alone = |keep: fn(&Filter) -> Filter| keep(&filter).matches(&record);
            let fields = [
                alone(|f| Filter { application: f.application.clone(), ..Filter::default() }),
                alone(|f| Filter { tags: f.tags.clone(), ..Filter::default() }),
                alone(|f| Filter { user: f.user.clone(), ..Filter::default() }),
                alone(|f| Filter { mime_prefix: f.mime_prefix.clone(), ..Filter::default() }),
                alone(|f| Filter { hashes: f.hashes.clone(), ..Filter::default() }),
            ];
            prop_assert_eq!(filter.matches(&record), fields.into_iter().all(|matches| matches));
        }

        #[test]
        fn more_tags_match_more_and_no_tag_matches_all(filter in filter(), record in record()) {
            let by_tag = filter.tags.iter().any(|tag| {
                Filter { tags: [tag.clone()].into(), ..filter.clone() }.matches(&record)
            });
            let without = Filter { tags: BTreeSet::new(), ..filter.clone() };
            let expected = if filter.tags.is_empty() { without.matches(&record) } else { by_tag };
            prop_assert_eq!(filter.matches(&record), expected);
            prop_assert!(!filter.matches(&record) || without.matches(&record));
        }

        #[test]
        fn everything_is_in_the_empty_filter(record in record()) {
            prop_assert!(Filter::default().is_everything() && Filter::default().matches(&record));
        }

        #[test]
        fn a_filter_survives_both_encodings(filter in filter()) {
            let mut bytes = RowWriter::default();
            filter.encode(&mut bytes);
            let mut reader = RowReader::new(&bytes.0);
            prop_assert_eq!(&Filter::decode(&mut reader).unwrap(), &filter);
            reader.end().unwrap();
            let json = serde_json::to_string(&FilterSpec::from(&filter)).unwrap();
            let back: FilterSpec = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(Filter::try_from(back).unwrap(), filter);
        }
    }

    #[test]
    fn text_matches_as_people_take_it() {
        let record = |meta: AssetMeta| AssetRecord::new(ContentHash([1; 32]), 1, None, meta);
        let asset = record(AssetMeta {
            application: Some("Cafe\u{301}".into()),
            user: Some("STRASSE".into()),
            tags: vec!["ΟΔΟΣ".into()],
            mime_type: "Image/PNG".into(),
            ..AssetMeta::default()
        });
        let filter = spec(|f| {
            f.application = Some("CAFÉ".into());
            f.user = Some("straße".into());
            f.tags = Some(vec!["οδος".into()]);
            f.mime_prefix = Some("IMAGE/png".into());
        });
        assert!(filter.unwrap().matches(&asset));
        assert!(!spec(|f| f.application = Some("cafe".into())).unwrap().matches(&asset));
    }

    #[test]
    fn what_no_asset_could_match_is_refused_with_the_reason() {
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(spec(|f| f.application = text("  ")), Err(FilterError::Empty("application")));
        assert_eq!(spec(|f| f.user = text("a\u{7}b")), Err(FilterError::Control("user")));
        assert_eq!(spec(|f| f.tags = Some(vec![String::new()])), Err(FilterError::Empty("tag")));
        assert_eq!(spec(|f| f.tags = Some(vec![" x".into()])), Err(FilterError::TagSpaces(" x".into())));
        let long = spec(|f| f.tags = Some(vec!["x".repeat(TAG_CHARS_MAX + 1)]));
        assert!(matches!(long, Err(FilterError::TooLong { field: "tag", .. })), "{long:?}");
        for bad in ["image/png/x", "/png", "im age"] {
            let refused = spec(|f| f.mime_prefix = text(bad));
            assert_eq!(refused, Err(FilterError::MimePrefix(bad.into())));
        }
        assert!(spec(|f| f.mime_prefix = text("text/html; charset=")).is_ok());
        let upper = ContentHash([0xAB; 32]).to_string().to_uppercase();
        assert!(matches!(spec(|f| f.hashes = Some(vec![upper])), Err(FilterError::Hash(_))));
        assert!(matches!(spec(|f| f.hashes = Some(vec!["ABCD".into()])), Err(FilterError::Hash(_))));
        let many = |n: u32| {
            let hash = |i: u32| {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&i.to_be_bytes());
                ContentHash(bytes).to_string()
            };
            spec(|f| f.hashes = Some((0..n).map(hash).collect()))
        };
        assert!(many(10_000).is_ok());
        assert!(matches!(many(10_001), Err(FilterError::TooMany { field: "hashes", .. })));
    }

    #[test]
    fn the_shape_in_json_is_the_documented_one() {
        let json = r#"{"application":"paint","tags":["a","b"],"user":"ann","mime_prefix":"image/"}"#;
        let spec: FilterSpec = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        assert!(serde_json::from_str::<FilterSpec>(r#"{"mime":"image/"}"#).is_err());
        assert!(serde_json::from_str::<FilterSpec>(r#"{"user":"a","user":"b"}"#).is_err());
        assert!(Filter::try_from(serde_json::from_str::<FilterSpec>("{}").unwrap()).unwrap().is_everything());
    }
}
