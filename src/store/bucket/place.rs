//! Whether a directory is still the place that it was.
//!
//! The disk that a directory is on may be taken away at any moment, and what is written then goes to the disk underneath: there it is
//! read back, and is right, and nobody finds it again. So nothing counts as put into a directory unless the marker of the place stands
//! there before and after. A service has no other place under the same name.

use super::{Bucket, BucketError};

impl Bucket {
    /// Whether the directory has the marker of the place at this moment; a service always has.
    pub(super) async fn check_directory(&self) -> Result<(), BucketError> {
        match self.backend.root {
            Some(_) => self.read_known_marker().await.map(drop),
            None => Ok(()),
        }
    }
}
