//! What a backup consists of.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Component, Path};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BackupError;
use super::place::private;
use crate::disk::{open_plain, sync_dir};
use crate::record::ContentHash;

pub(super) const MANIFEST: &str = "manifest.json";
/// The format that is written, and the newest that is understood.
const FORMAT: u32 = 1;
const MANIFEST_BYTES_MAX: u64 = 256 * 1024;
const BLOCK_BYTES: usize = 256 * 1024;

/// Only this, of a manifest of any format.
#[derive(Deserialize)]
struct AnyManifest {
    format: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(super) format: u32,
    /// The version of the program that wrote it.
    pub(super) version: String,
    pub(super) made_at: String,
    /// Absent for a CAN Service that has no agent.
    pub(super) endpoint_id: Option<String>,
    pub(super) store: Option<StoreFacts>,
    /// The directory of its files, below the backup's.
    pub(super) state: String,
    pub(super) files: Vec<FileFacts>,
    /// SHA-256 of all of this with nothing here.
    pub(super) sum: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct StoreFacts {
    pub(super) id: Option<String>,
    /// Number of its last change.
    pub(super) seq: u64,
    pub(super) assets: u64,
    /// Contents in files of their own.
    pub(super) contents: u64,
    pub(super) content_bytes: u64,
    /// Contents that the store counts as held and the backup does not have.
    pub(super) missing: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct FileFacts {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl FileFacts {
    pub(super) fn of(dir: &Path, name: &str) -> Result<Self, BackupError> {
        let path = dir.join(name);
        let (size, sha256) = hash_file(&path).map_err(|error| BackupError::io("read", &path, &error))?;
        Ok(Self { name: name.to_owned(), size, sha256 })
    }
}

impl Manifest {
    pub(super) fn new(
        made_at: String,
        endpoint_id: Option<String>,
        store: Option<StoreFacts>,
        state: String,
        files: Vec<FileFacts>,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let manifest =
            Self { format: FORMAT, version, made_at, endpoint_id, store, state, files, sum: String::new() };
        let sum = manifest.own_sum();
        Self { sum, ..manifest }
    }

    fn own_sum(&self) -> String {
        let bare = Self { sum: String::new(), ..self.clone() };
        // A structure of strings and numbers has a JSON.
        let text = serde_json::to_vec(&bare).unwrap_or_default();
        HEXLOWER.encode(&Sha256::digest(text))
    }

    /// The one of this directory; `None` where there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, BackupError> {
        let path = dir.join(MANIFEST);
        let file = match open_plain(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BackupError::io("read", &path, &error)),
        };
        let mut text = Vec::new();
        file.take(MANIFEST_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(|error| BackupError::io("read", &path, &error))?;
        let damaged = |problem: &str| {
            BackupError::new(
                format!("'{}' is damaged: {problem}", path.display()),
                "take another backup; a new one can be made in another directory",
            )
        };
        let AnyManifest { format } =
            serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))?;
        if format > FORMAT {
            return Err(BackupError::new(
                format!(
                    "the backup in '{}' was made by a newer version of can-sync (format {format}, this one knows {FORMAT})",
                    dir.display()
                ),
                "use that version",
            ));
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))?;
        if manifest.own_sum() != manifest.sum {
            return Err(damaged("it is not what was written"));
        }
        let names = manifest.files.iter().map(|file| file.name.as_str());
        if !is_plain(&manifest.state, 2) || names.into_iter().any(|name| !is_plain(name, 1)) {
            return Err(damaged("it names files outside of the backup"));
        }
        Ok(Some(manifest))
    }

    /// Puts it into the place of the former one, durably.
    pub(super) fn write(&self, dir: &Path, tmp: &Path) -> io::Result<()> {
        let part = tmp.join(MANIFEST);
        let mut file = private(&part)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&part, dir.join(MANIFEST))?;
        sync_dir(dir)
    }
}

/// Whether a path leads down by so many plain names.
fn is_plain(path: &str, names: usize) -> bool {
    let mut components = Path::new(path).components();
    components.by_ref().take(names).filter(|part| matches!(part, Component::Normal(_))).count() == names
        && components.next().is_none()
}

/// A line of the list of contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListedContent {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    /// Whether the backup has it, in a file of its own; else the store is to look for it.
    pub(super) is_here: bool,
}

impl ListedContent {
    pub(super) fn line(&self) -> String {
        format!("{} {} {}\n", self.hash, self.size, if self.is_here { "here" } else { "missing" })
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (hash, size, place) = (words.next()?, words.next()?, words.next()?);
        let is_here = match place {
            "here" => true,
            "missing" => false,
            _ => return None,
        };
        Some(Self { hash: hash.parse().ok()?, size: size.parse().ok()?, is_here })
    }
}

pub(super) fn read_list(path: &Path) -> Result<Vec<ListedContent>, BackupError> {
    let failed = |error: io::Error| BackupError::io("read", path, &error);
    let mut listed = Vec::new();
    for line in BufReader::new(open_plain(path).map_err(failed)?).lines() {
        let line = line.map_err(failed)?;
        listed.push(ListedContent::parse(&line).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?);
    }
    Ok(listed)
}

pub(super) fn hashes(listed: &[ListedContent]) -> HashSet<ContentHash> {
    listed.iter().filter(|content| content.is_here).map(|content| content.hash).collect()
}

pub(super) fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = open_plain(path)?;
    let (mut sha256, mut size) = (Sha256::new(), 0);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => return Ok((size, HEXLOWER.encode(&sha256.finalize()))),
            n => {
                sha256.update(&block[..n]);
                size += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let files = vec![FileFacts { name: "store.db".into(), size: 3, sha256: "ab".into() }];
        Manifest::new("2026-11-29T00:00:00Z".into(), Some("id".into()), None, "states/1".into(), files)
    }

    fn written(text: &str) -> Result<Option<Manifest>, BackupError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST), text).unwrap();
        Manifest::read(dir.path())
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()), Ok(None));
        manifest().write(dir.path(), dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()), Ok(Some(manifest())));
        let text = fs::read_to_string(dir.path().join(MANIFEST)).unwrap();
        for cut in 0..text.len() - 2 {
            assert!(written(&text[..cut]).is_err(), "cut after {cut}");
        }
        let changed = text.replace("\"size\": 3", "\"size\": 4");
        assert!(written(&changed).unwrap_err().message.contains("damaged"));
        let newer = text.replace("\"format\": 1", "\"format\": 2");
        assert!(written(&newer).unwrap_err().message.contains("newer version"), "newer, not damaged");
        assert!(written("garbage").is_err());
    }

    #[test]
    fn a_manifest_names_nothing_outside_of_its_backup() {
        for (state, name) in [
            ("states/1", "../x"),
            ("states/1", "/etc/passwd"),
            ("../states", "x"),
            ("states/../..", "x"),
            ("/a", "x"),
        ] {
            let files = vec![FileFacts { name: name.into(), size: 3, sha256: "ab".into() }];
            let manifest = Manifest::new(String::new(), None, None, state.into(), files);
            let text = serde_json::to_string(&manifest).unwrap();
            assert!(written(&text).unwrap_err().message.contains("outside"), "{state} {name}");
        }
    }

    #[test]
    fn contents_are_listed_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contents");
        let listed =
            [true, false].map(|is_here| ListedContent { hash: ContentHash([7; 32]), size: 9, is_here });
        fs::write(&path, listed.map(|content| content.line()).concat()).unwrap();
        assert_eq!(read_list(&path), Ok(listed.to_vec()));
        fs::write(&path, "x\n").unwrap();
        assert!(read_list(&path).is_err());
    }
}
