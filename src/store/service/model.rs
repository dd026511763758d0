//! What assets look like in JSON.

use jiff::Timestamp;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock;
use crate::http::envelope::ApiResult;
use crate::record::NameOutcome;
use crate::store::embedded::{IngestFields, Ingested, ListPage, MetaPatch, StoredAsset};
use crate::store::scrub::ScrubReport;
use crate::store::{QuotaStatus, SnapshotReport, WaitingUploads};

/// An asset, or its tombstone.
#[derive(Serialize, Deserialize, ToSchema, Clone, PartialEq, Eq, Debug)]
pub struct AssetJson {
    /// SHA-256 of the content: 64 lower-case hexadecimal digits.
    #[schema(
        pattern = "^[0-9a-f]{64}$",
        example = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )]
    pub hash: String,
    /// Length of the content in bytes.
    pub size: u64,
    /// Media type.
    #[schema(example = "image/png")]
    pub mime_type: String,
    /// Name that the content had where it came from.
    pub filename: Option<String>,
    /// Program that made the asset.
    pub application: Option<String>,
    /// Person that made the asset.
    pub user: Option<String>,
    /// Sorted, without duplicates.
    pub tags: Vec<String>,
    /// Free text.
    pub description: Option<String>,
    /// When the asset was first stored anywhere: RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime, example = "2026-11-20T12:00:00.000Z")]
    pub created_at: String,
    /// When it last changed in this store: RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime, example = "2026-11-20T12:00:00.000Z")]
    pub updated_at: String,
    /// Further names of the same content, sorted.
    #[serde(default)]
    pub names: Vec<String>,
    /// When the file that it came from was last written: RFC 3339, UTC, milliseconds.
    #[serde(default)]
    #[schema(format = DateTime, example = "2026-11-20T12:00:00.000Z")]
    pub modified_at: Option<String>,
    /// Number of its last change in this store; the `id` of its event.
    pub seq: u64,
    /// Whether this is a tombstone: the content is gone.
    pub deleted: bool,
    /// Whether the content is here. Where it is not, what is known of the asset is all the same.
    pub held: bool,
}

impl From<StoredAsset> for AssetJson {
    fn from(asset: StoredAsset) -> Self {
        let StoredAsset { seq, updated_at_ms, record, holding } = asset;
        let meta = record.meta;
        Self {
            hash: record.hash.to_string(),
            size: record.size,
            mime_type: meta.mime_type,
            filename: meta.filename,
            application: meta.application,
            user: meta.user,
            tags: meta.tags,
            description: meta.description,
            created_at: rfc3339(meta.created_at_ms),
            updated_at: rfc3339(updated_at_ms),
            names: meta.names,
            modified_at: meta.modified_at_ms.map(rfc3339),
            seq,
            deleted: record.deleted,
            held: holding.is_held(),
        }
    }
}

/// As [`clock::rfc3339`]; what lies past the year 9999 is shown as its end.
fn rfc3339(ms: u64) -> String {
    clock::rfc3339(ms).unwrap_or_else(|| format!("{:.3}", Timestamp::MAX))
}

/// A page of assets.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct AssetListJson {
    /// The assets of this page.
    pub assets: Vec<AssetJson>,
    /// Give this as `cursor`, with the same filter and order, for the next page; null on the last one.
    pub next_cursor: Option<String>,
    /// How many assets match, on all pages; at least so many where `total_is_bound`.
    pub total: u64,
    /// Whether more may match than `total`: counting ends at 10,000, or where it takes too long for this request or those that wait.
    #[serde(default)]
    pub total_is_bound: bool,
}

impl From<ListPage> for AssetListJson {
    fn from(page: ListPage) -> Self {
        let ListPage { assets, next_cursor, total, total_is_bound } = page;
        let assets = assets.into_iter().map(AssetJson::from).collect();
        Self { assets, next_cursor, total, total_is_bound }
    }
}

/// How the service is.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct StatusJson {
    /// Whether it takes everything that it is asked to.
    pub healthy: bool,
    /// Live assets that are known, whether or not their contents are here: what a list shows.
    pub assets: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
    /// Those of them whose contents are here.
    pub assets_held: u64,
    /// Sum of the sizes of those in bytes: what can be read here.
    pub bytes_held: u64,
    /// Contents that were found damaged, are set aside, and did not come again yet.
    #[serde(default)]
    pub damaged: u64,
    /// Which store it is, 32 hexadecimal digits: numbers of changes of another store mean nothing to this one.
    #[serde(default)]
    pub store_id: Option<String>,
    /// Number of the last change.
    pub seq: u64,
    /// Whether it keeps records of folders.
    #[serde(default)]
    pub keeps_entries: bool,
    /// Why it takes no writes, where it does not.
    pub read_only: Option<String>,
    /// Why it takes nothing but deletions, where the disk has too little room.
    #[serde(default)]
    pub short_of_space: Option<String>,
    /// Why larger contents are neither taken nor given, where they are in object storage that cannot be used.
    #[serde(default)]
    pub contents_away: Option<String>,
    /// How much content may be here, and is, where that is limited.
    #[serde(default)]
    pub quota: Option<QuotaStatus>,
    /// Contents that are acknowledged, and not in object storage yet, where they go there afterwards.
    #[serde(default)]
    pub waiting_uploads: Option<WaitingUploads>,
    /// What people should know of it, and cannot be helped.
    #[serde(default)]
    pub notice: Option<String>,
    /// How scrubbing stands.
    #[serde(default)]
    pub scrub: Option<ScrubReport>,
    /// How snapshots of the records in object storage stand; absent where none are made.
    #[serde(default)]
    pub snapshots: Option<SnapshotReport>,
    /// Version of the program.
    pub version: String,
}

/// New values of metadata. A field that is not given stays as it is; null clears one that may be absent.
#[derive(Deserialize, ToSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three things, as in the store's patch"
)]
pub(super) struct MetaPatchJson {
    /// Media type.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>, nullable = false)]
    mime_type: Option<String>,
    /// Name of the content.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    filename: Option<Option<String>>,
    /// Program that made the asset.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    application: Option<Option<String>>,
    /// Person that made the asset.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    user: Option<Option<String>>,
    /// Free text.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// All tags, in any order.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, nullable = false)]
    tags: Option<Vec<String>>,
    /// All further names, in any order.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, nullable = false)]
    names: Option<Vec<String>>,
}

/// A field that is there, whatever its value: tells null from absent, and refuses null where the type does.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl From<MetaPatchJson> for MetaPatch {
    fn from(patch: MetaPatchJson) -> Self {
        let MetaPatchJson { mime_type, filename, application, user, description, tags, names } = patch;
        Self { mime_type, filename, application, user, description, tags, names }
    }
}

impl MetaPatchJson {
    pub(super) fn mime_type(&self) -> Option<&str> {
        self.mime_type.as_deref()
    }
}

/// What became of an upload.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum IngestOutcome {
    /// The content was not here.
    New,
    /// It was, and is known by more than before: another name, more tags.
    Merged,
    /// It was, and nothing new was said about it.
    Unchanged,
}

/// An asset after an upload.
#[derive(Serialize, Deserialize, ToSchema, Clone, PartialEq, Eq, Debug)]
pub(super) struct IngestedJson {
    #[serde(flatten)]
    pub(super) asset: AssetJson,
    /// What became of it.
    pub(super) outcome: IngestOutcome,
    /// What became of the name that came with content of an asset that is known; absent if none did, or the asset is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) name_outcome: Option<GivenName>,
}

/// What became of a name that was given with an upload.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum GivenName {
    /// The asset has it from now on.
    Added,
    /// The asset had it already.
    Known,
    /// There is no room for it: the asset has 16 further names, or 16 KiB of text, or the name is longer than 1,024 bytes.
    LeftOut,
}

impl From<NameOutcome> for GivenName {
    fn from(outcome: NameOutcome) -> Self {
        match outcome {
            NameOutcome::Added => Self::Added,
            NameOutcome::Known => Self::Known,
            NameOutcome::LeftOut => Self::LeftOut,
        }
    }
}

impl From<Ingested> for IngestedJson {
    fn from(ingested: Ingested) -> Self {
        let Ingested { asset, new, changed, name } = ingested;
        let outcome = match (new, changed) {
            (true, _) => IngestOutcome::New,
            (false, true) => IngestOutcome::Merged,
            (false, false) => IngestOutcome::Unchanged,
        };
        Self { asset: asset.into(), outcome, name_outcome: name.map(GivenName::from) }
    }
}

/// What is said about content that may be here.
#[derive(Deserialize, ToSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KnownJson {
    /// Its length in bytes: whether there would be room for it, where it is not here.
    pub(super) size: u64,
    /// Media type; what it is known as already stays.
    mime_type: Option<String>,
    /// Name of the content.
    filename: Option<String>,
    /// Program that made the asset.
    application: Option<String>,
    /// Person that made the asset.
    user: Option<String>,
    /// Tags, in any order.
    tags: Vec<String>,
    /// Free text.
    description: Option<String>,
    /// When the file was last written: RFC 3339, or milliseconds since 1970.
    modified_at: Option<String>,
}

impl KnownJson {
    pub(super) fn into_fields(self) -> ApiResult<IngestFields> {
        let Self { size: _, mime_type, filename, application, user, tags, description, modified_at } = self;
        let mime_type = mime_type.map(super::ingest::mime_type).transpose()?.flatten();
        let modified_at_ms = modified_at.map(|text| super::ingest::modified_at(&text)).transpose()?.flatten();
        Ok(IngestFields { mime_type, filename, application, user, description, tags, modified_at_ms })
    }
}

/// The parts of an upload.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the multipart form, which is read part by part")]
pub(super) struct IngestForm {
    /// The content.
    #[schema(value_type = String, format = Binary)]
    file: String,
    /// Media type; guessed when absent.
    mime_type: Option<String>,
    /// Program that made the asset.
    application: Option<String>,
    /// Person that made the asset.
    user: Option<String>,
    /// Tags separated by commas; may be repeated.
    #[schema(example = "holiday,2026")]
    tags: Option<String>,
    /// One tag, whatever it holds, commas too; may be repeated.
    tag: Option<String>,
    /// Name of the content; that of the part `file` when absent.
    filename: Option<String>,
    /// Free text.
    description: Option<String>,
    /// When the file was last written: RFC 3339, or milliseconds since 1970.
    #[schema(example = "2026-11-20T12:00:00.000Z")]
    modified_at: Option<String>,
}

/// Raw bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes bodies that are no JSON")]
pub(super) struct Binary(Vec<u8>);

/// Whether `text` is `type/subtype`, with or without parameters, of characters that a header can carry.
pub(super) fn is_media_type(text: &str) -> bool {
    let token = |text: &str| {
        let extra = b"!#$&-^_.+";
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    let printable = text.len() <= 255 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    printable && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_120), "2023-11-14T22:13:20.120Z");
        assert!(rfc3339(u64::MAX).starts_with("9999-12-"));
    }

    #[test]
    fn a_patch_tells_null_from_absent() {
        let patch: MetaPatchJson = serde_json::from_str(r#"{"filename":null,"user":"ann"}"#).unwrap();
        let patch = MetaPatch::from(patch);
        assert_eq!(patch.filename, Some(None));
        assert_eq!(patch.user, Some(Some("ann".into())));
        assert_eq!(patch.description, None);
        for bad in [r#"{"mime_type":null}"#, r#"{"tags":null}"#, r#"{"hash":"x"}"#, "{"] {
            assert!(serde_json::from_str::<MetaPatchJson>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn media_types() {
        for good in ["text/plain", "text/plain; charset=utf-8", "image/svg+xml", "application/x-7z.b"] {
            assert!(is_media_type(good), "{good}");
        }
        for bad in ["", "text", "text/", "/plain", "text/plain\r\nX: y", "té/xt", "a b/c"] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }
}
