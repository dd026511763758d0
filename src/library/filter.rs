//! Which assets belong to a library. Pure.
//!
//! Fields are joined by AND, tags among themselves by OR; a field that is left out asks for nothing, so the empty filter
//! is everything. A filter that no asset could ever match is refused rather than kept. Text is compared as people take it:
//! neither case nor Unicode's composition count.

use std::collections::{BTreeSet, HashSet};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{CodecError, RowReader, RowWriter};
use crate::entry::FolderId;
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
    /// The files of this folder, and what it has at its paths, instead of all the others: its id, or its name where it is given to
    /// make a library.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// A filter that was found to make sense. Equal filters are equal however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    application: Option<String>,
    tags: BTreeSet<String>,
    user: Option<String>,
    mime_prefix: Option<String>,
    hashes: BTreeSet<ContentHash>,
    folder: Option<FolderId>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the filter's {0}: empty, which no asset has; leave it out to ask for any")]
    Empty(&'static str),
    #[error("the filter's {field} has {chars} characters: at most {max}")]
    TooLong { field: &'static str, chars: usize, max: usize },
    #[error("the filter's {0} has control characters: write it without")]
    Control(&'static str),
    #[error("the tag '{0}' begins or ends with a space, which no asset's tag does: leave the spaces out")]
    TagSpaces(String),
    #[error("no media type begins with '{0}': write it as 'image/' or 'image/png'")]
    MimePrefix(String),
    #[error("the filter has {count} {field}: at most {max}")]
    TooMany { field: &'static str, count: usize, max: usize },
    #[error("the filter's hash {0}")]
    Hash(crate::record::ParseIdError),
    #[error(
        "the filter's folder has to be one that this node knows, by its name or its id of 64 hexadecimal digits"
    )]
    Folder,
    #[error("a filter that has a folder has nothing else: all of the folder is shared, or none of it")]
    FolderAlone,
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

fn folder_id(text: &str) -> Result<FolderId, FilterError> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(FolderId).ok_or(FilterError::Folder)
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
        let folder = spec.folder.as_deref().map(folder_id).transpose()?;
        let filter = Self {
            application: spec.application,
            tags: tags.into_iter().collect(),
            user: spec.user,
            mime_prefix: spec.mime_prefix.map(|prefix| prefix.to_ascii_lowercase()),
            hashes: hashes.map_err(FilterError::Hash)?,
            folder: None,
        };
        match folder {
            Some(_) if !filter.is_everything() => Err(FilterError::FolderAlone),
            folder => Ok(Self { folder, ..filter }),
        }
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
            folder: filter.folder.map(|FolderId(id)| HEXLOWER.encode(&id)),
        }
    }
}

impl Filter {
    /// Whether it asks for nothing, and so takes in everything.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it takes in the same, however the texts of the two are written.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => same_text(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let tags = |filter: &Self| filter.tags.iter().map(|tag| folded(tag)).collect::<BTreeSet<_>>();
        self.hashes == other.hashes
            && self.folder == other.folder
            && self.mime_prefix == other.mime_prefix
            && same(&self.application, &other.application)
            && same(&self.user, &other.user)
            && tags(self) == tags(other)
    }

    /// The folder whose files belong, if that is what the library is.
    pub fn folder(&self) -> Option<FolderId> {
        self.folder
    }

    /// Whether the asset belongs, as its record is now. A tombstone belongs where the asset did. Of a folder no record tells: what
    /// belongs to one is for [`FolderShare`](super::folder_share::FolderShare) to say.
    pub fn matches(&self, record: &AssetRecord) -> bool {
        let meta = &record.meta;
        let same = |asked: &Option<String>, has: &Option<String>| {
            asked.as_ref().is_none_or(|asked| has.as_ref().is_some_and(|has| same_text(asked, has)))
        };
        self.folder.is_none()
            && same(&self.application, &meta.application)
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
        if let Some(FolderId(folder)) = &self.folder {
            out.raw(folder);
        }
    }

    /// Reads what [`Filter::encode`] wrote, and nothing else; what goes before says whether it has a folder.
    pub(super) fn decode(from: &mut RowReader<'_>, has_folder: bool) -> Result<Self, CodecError> {
        let application = from.optional_text(TEXT_BYTES_MAX, "application")?;
        let count = from.count(TAGS_MAX, "number of tags")?;
        let tags: Vec<String> =
            (0..count).map(|_| from.text(4 * TAG_CHARS_MAX, "tag")).collect::<Result<_, _>>()?;
        let user = from.optional_text(TEXT_BYTES_MAX, "user")?;
        let mime_prefix = from.optional_text(TEXT_BYTES_MAX, "mime_prefix")?;
        let count = from.count(HASHES_MAX, "number of hashes")?;
        let (hashes, _) = from.raw(count * 32)?.as_chunks::<32>();
        // There is one encoding of each filter: what is read is encoded anew, and has to be what was signed.
        let is_lower = !mime_prefix.iter().any(|prefix| prefix.bytes().any(|byte| byte.is_ascii_uppercase()));
        if !is_lower || !tags.is_sorted_by(|a, b| a < b) || !hashes.is_sorted_by(|a, b| a < b) {
            return Err(CodecError::Value("filter"));
        }
        let hashes = hashes.iter().map(|hash| ContentHash(*hash).to_string()).collect();
        let folder = if has_folder { Some(HEXLOWER.encode(&from.array::<32>()?)) } else { None };
        let spec =
            FilterSpec { application, tags: some(tags), user, mime_prefix, hashes: some(hashes), folder };
        Self::try_from(spec).map_err(|_| CodecError::Value("filter"))
    }
}

/// Media types are the same in upper and lower case.
fn begins(mime_type: &str, prefix: &str) -> bool {
    mime_type.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
pub(super) mod tests;
