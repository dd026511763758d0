//! How the store's errors appear over HTTP. [`crate::store::can_http`] reads them back by their codes.

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};

use crate::http::envelope::ApiError;
use crate::record::ContentHash;
use crate::store::StoreError;

/// Codes that a client acts upon.
pub(crate) mod codes {
    pub(crate) const NOT_FOUND: &str = "not_found";
    pub(crate) const DELETED: &str = "deleted";
    pub(crate) const NOT_HELD: &str = "not_held";
    pub(crate) const NOT_IN_TRASH: &str = "not_in_trash";
    pub(crate) const CORRUPT: &str = "corrupt";
    pub(crate) const DISK_FULL: &str = "disk_full";
    pub(crate) const OVER_QUOTA: &str = "over_quota";
    pub(crate) const READ_ONLY: &str = "read_only";
    pub(crate) const TOO_BUSY: &str = "too_busy";
    pub(crate) const IN_FOLDER: &str = "in_folder";
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let (status, code, hint) = match error {
            StoreError::NotFound(hash) => return not_found(hash),
            StoreError::NotHeld(hash) => return not_held(hash),
            StoreError::Changed(_) => (
                StatusCode::PRECONDITION_FAILED,
                "changed",
                "read the metadata again, and repeat the change with its ETag if it is still wanted",
            ),
            StoreError::InFolder(_) => (
                StatusCode::CONFLICT,
                codes::IN_FOLDER,
                "remove the files from the folders first; or `can-sync rm --from-folders HASH` (`?from_folders=true`) removes both, on all machines",
            ),
            StoreError::NoFolders => {
                (StatusCode::BAD_GATEWAY, "store_unavailable", "update the program that keeps the store")
            }
            StoreError::Corrupt(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                codes::CORRUPT,
                "`can-sync why HASH` says whether another machine has it; storing the same bytes again heals it, too",
            ),
            StoreError::Full(_) => (
                StatusCode::INSUFFICIENT_STORAGE,
                codes::DISK_FULL,
                "make room on the store's disk, then try again",
            ),
            StoreError::OverQuota(_) => return over_quota(message),
            StoreError::ReadOnly(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                codes::READ_ONLY,
                "repair the disk, then start the service again",
            ),
            StoreError::BucketAway { .. } => return bucket_away(message),
            StoreError::Busy(_) => return too_busy(message),
            StoreError::Invalid(_) => {
                (StatusCode::BAD_REQUEST, "invalid", "/openapi.json describes what is expected")
            }
            StoreError::Unavailable { .. }
            | StoreError::Unauthorized { .. }
            | StoreError::Unsupported { .. } => {
                (StatusCode::BAD_GATEWAY, "store_unavailable", "check can_service_url and sync_api_key")
            }
            StoreError::Io { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "storage_error", "see the log of the service")
            }
        };
        if status.is_server_error() {
            tracing::error!(code, "{message}");
        }
        Self::new(status, code, message, hint)
    }
}

/// Said in the log by nobody: those who ask too much would fill it.
fn too_busy(message: String) -> ApiError {
    let hint = "try again in a few seconds, or ask for less at once";
    let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, codes::TOO_BUSY, message, hint);
    error.headers.insert(RETRY_AFTER, HeaderValue::from_static("3"));
    error
}

/// Said in the log by nobody: it is no failure, and comes with every attempt.
fn over_quota(message: String) -> ApiError {
    let hint = "`can-sync drop` makes room: it lets go of what other machines keep; or raise store.quota_bytes and start again. Then repeat it";
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, codes::OVER_QUOTA, message, hint)
}

/// Said in the log once, by the store.
fn bucket_away(message: String) -> ApiError {
    let hint = "try again in a while; `can-sync doctor` says what is wrong";
    let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "bucket_unavailable", message, hint);
    error.headers.insert(RETRY_AFTER, HeaderValue::from_static("15"));
    error
}

/// No such asset, and never was.
pub(super) fn not_found(hash: ContentHash) -> ApiError {
    let hint = "check the hash: /list and /search show what is here";
    ApiError::new(StatusCode::NOT_FOUND, codes::NOT_FOUND, format!("there is no asset {hash}"), hint)
}

/// No such asset any more.
pub(super) fn deleted(hash: ContentHash) -> ApiError {
    let hint = "ingest the content again to bring it back";
    ApiError::new(StatusCode::NOT_FOUND, codes::DELETED, format!("the asset {hash} was deleted"), hint)
}

/// An asset whose content is elsewhere.
pub(super) fn not_held(hash: ContentHash) -> ApiError {
    let message = format!("the asset {hash} is known, but its content is not held here");
    let hint = format!("fetch it from other machines: can-sync fetch {hash}");
    ApiError::new(StatusCode::NOT_FOUND, codes::NOT_HELD, message, hint)
}

/// What is wrong with the metadata that a user gave.
pub(super) fn invalid_metadata(message: impl Into<String>) -> ApiError {
    let hint = "at most 64 tags of 128 characters, 16 further names of 1024 bytes, 16 KiB of text in all";
    ApiError::bad_request("invalid_metadata", message, hint)
}

pub(super) fn no_media_type(text: &str) -> ApiError {
    let message = format!("'{}' is no media type", crate::text::quoted(text));
    ApiError::bad_request("invalid_metadata", message, "give a type and a subtype, such as image/png")
}

/// As the general case, but what the store calls invalid is the metadata.
pub(super) fn about_metadata(error: StoreError) -> ApiError {
    if let StoreError::Invalid(message) = error { invalid_metadata(message) } else { error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::FolderId;
    use crate::store::entries::FolderPlaces;

    #[test]
    fn each_error_of_the_store_has_its_status_and_code() {
        let hash = ContentHash([1; 32]);
        let text = || "why".to_owned();
        let places = FolderPlaces { hash, folder: FolderId([2; 32]), name: None, path: text(), paths: 3 };
        assert!(places.to_string().ends_with("as 'why' and at 2 more paths"), "{places}");
        let cases = [
            (StoreError::NotFound(hash), 404, "not_found"),
            (StoreError::NotHeld(hash), 404, "not_held"),
            (StoreError::Changed(hash), 412, "changed"),
            (StoreError::InFolder(Box::new(places)), 409, "in_folder"),
            (StoreError::NoFolders, 502, "store_unavailable"),
            (StoreError::Corrupt(hash), 500, "corrupt"),
            (StoreError::Full(text()), 507, "disk_full"),
            (StoreError::OverQuota(text()), 507, "over_quota"),
            (StoreError::ReadOnly(text()), 503, "read_only"),
            (StoreError::Busy(text()), 503, "too_busy"),
            (StoreError::BucketAway { url: text(), reason: text() }, 503, "bucket_unavailable"),
            (StoreError::Invalid(text()), 400, "invalid"),
            (StoreError::Unavailable { url: text(), reason: text() }, 502, "store_unavailable"),
            (StoreError::Unauthorized { url: text() }, 502, "store_unavailable"),
            (StoreError::Unsupported { url: text(), what: "do it" }, 502, "store_unavailable"),
            (StoreError::io(text(), text()), 500, "storage_error"),
        ];
        for (error, status, code) in cases {
            let shown = ApiError::from(error);
            assert_eq!((shown.status.as_u16(), shown.code), (status, code));
            assert!(!shown.message.is_empty() && !shown.hint.is_empty());
        }
        let metadata = about_metadata(StoreError::Invalid(text()));
        assert_eq!((metadata.status.as_u16(), metadata.code), (400, "invalid_metadata"));
        assert_eq!(about_metadata(StoreError::Full(text())).code, "disk_full");
    }
}
