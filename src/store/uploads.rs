//! What is told of contents that are on this disk, and wait to be uploaded to object storage.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::span;
use crate::text::amounts::bytes;

/// Contents that are on this disk, and wait to be uploaded to object storage.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WaitingUploads {
    /// How many.
    pub contents: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// How long the oldest of them waits, in seconds; absent where none does.
    pub oldest_secs: Option<u64>,
    /// Why the latest upload failed, or none is tried; absent once one went well.
    pub last_error: Option<String>,
}

impl WaitingUploads {
    /// The same in a clause, where anything waits.
    pub(crate) fn sentence(&self) -> Option<String> {
        let oldest = self.oldest_secs.filter(|_| self.contents > 0)?;
        let count = match self.contents {
            1 => "1 content".to_owned(),
            contents => format!("{contents} contents"),
        };
        let error = self.last_error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!(
            "{count} ({}) on this disk alone until uploaded, the oldest for {}{error}",
            bytes(self.bytes),
            span(oldest.saturating_mul(1000))
        ))
    }
}

/// That a content waits to be uploaded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct UploadWait {
    /// For so many seconds.
    pub secs: u64,
    /// As [`WaitingUploads::last_error`], of any content.
    pub last_error: Option<String>,
}

impl UploadWait {
    /// The same for people.
    pub(crate) fn sentence(&self) -> String {
        let error = self.last_error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        format!(
            "It is on this disk alone, and has waited for {} to be uploaded to the object storage{error}.",
            span(self.secs.saturating_mul(1000))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_waits_how_long_and_why() {
        let none = WaitingUploads { contents: 0, bytes: 0, oldest_secs: None, last_error: None };
        assert_eq!(none.sentence(), None);
        let why = Some("it does not answer".to_owned());
        let some = WaitingUploads { contents: 3, bytes: 5 << 20, oldest_secs: Some(600), last_error: why };
        let said = "3 contents (5.0 MiB) on this disk alone until uploaded, the oldest for 10 minutes: it does not answer";
        assert_eq!(some.sentence().as_deref(), Some(said));
    }
}
