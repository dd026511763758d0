//! Files of settings: see `testing::fuzz`.

use std::path::Path;

use super::Loaded;
use super::file::lay_file;

/// A file's text.
pub fn file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut loaded = Loaded::default();
    for error in lay_file(&mut loaded, Path::new("config.yaml"), text) {
        assert!(!error.to_string().is_empty());
    }
    let _ = loaded.config.check();
    assert!(!loaded.settings().is_empty());
}
