//! What a snapshot has, from any bytes: see `testing::fuzz`.

use bytes::Bytes;

use super::taking::items_of;

/// A chunk of a snapshot; what is cut off takes nothing with it that comes before.
pub fn snapshot_items(bytes: &[u8]) {
    let Ok(items) = items_of(Bytes::copy_from_slice(bytes)) else { return };
    assert!(items.len() <= bytes.len(), "{} items", items.len());
    if let Ok(fewer) = items_of(Bytes::copy_from_slice(&bytes[..bytes.len() / 2])) {
        assert!(items.starts_with(&fewer), "{fewer:?} before {items:?}");
    }
}
