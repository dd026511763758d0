//! Trees of files: made, counted, compared.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use super::support::{Noise, Result, eventually, noise};

/// How old files are that were there before: long enough that nobody expects them to change.
const AGE: Duration = Duration::from_hours(1);
/// How often a directory is counted.
const COUNT_EVERY: Duration = Duration::from_millis(50);

/// Files of one size, all different.
#[derive(Clone, Copy)]
pub(crate) struct Tree {
    pub(crate) files: u64,
    pub(crate) per_directory: u64,
    pub(crate) bytes: usize,
}

impl Tree {
    pub(crate) fn path_of(self, n: u64) -> String {
        format!("{:04}/{n:06}.bin", n / self.per_directory)
    }

    pub(crate) fn total(self) -> u64 {
        self.files * self.bytes as u64
    }

    /// Makes all of it below a directory.
    pub(crate) fn make(self, root: &Path) -> Result<()> {
        let then = SystemTime::now() - AGE;
        for n in 0..self.files {
            let path = root.join(self.path_of(n));
            if n % self.per_directory == 0 {
                fs::create_dir_all(path.parent().ok_or("a root")?)?;
            }
            let mut file = File::create(path)?;
            file.write_all(&noise(n, self.bytes))?;
            file.set_modified(then)?;
        }
        Ok(())
    }
}

/// One file that is made piece by piece.
pub(crate) async fn make_big(path: &Path, content: Noise) -> Result<()> {
    use futures::TryStreamExt as _;
    let mut file = File::create(path)?;
    let mut chunks = Box::pin(content.chunks());
    while let Some(chunk) = chunks.try_next().await? {
        file.write_all(&chunk)?;
    }
    Ok(file.set_modified(SystemTime::now() - AGE)?)
}

/// Whether a name is one of the programs' own.
fn is_own(name: &str) -> bool {
    [".can-sync", ".st", ".syncthing"].iter().any(|own| name.starts_with(own))
}

/// Files below a directory that are no program's own, sorted.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let walk = WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| !is_own(&entry.file_name().to_string_lossy()));
    let files = walk.filter_map(std::result::Result::ok).filter(|entry| entry.file_type().is_file());
    files.filter_map(|entry| Some(entry.path().strip_prefix(root).ok()?.to_owned())).collect()
}

/// Waits until a directory has so many files.
pub(crate) async fn wait_for_files(root: &Path, count: u64, limit: Duration) -> Result<()> {
    let (mut found, mut next) = (0, std::time::Instant::now());
    let counted = eventually("the files", limit, async || {
        if std::time::Instant::now() < next {
            return Ok(None);
        }
        next = std::time::Instant::now() + COUNT_EVERY;
        let owned = root.to_owned();
        found = tokio::task::spawn_blocking(move || count_in(&owned)).await?;
        Ok((found == count).then_some(()))
    });
    counted.await.map_err(|error| format!("{error}: {found} of {count}").into())
}

/// How many plain files there are, without a look at each of them.
fn count_in(root: &Path) -> u64 {
    let (mut open, mut count) = (vec![root.to_owned()], 0);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok) {
            let is_theirs = is_own(&entry.file_name().to_string_lossy());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !is_theirs => open.push(entry.path()),
                Ok(kind) if kind.is_file() && !is_theirs => count += 1,
                Ok(_) | Err(_) => {}
            }
        }
    }
    count
}

/// That both have the same files with the same contents; how many, and their bytes.
pub(crate) fn same(one: &Path, other: &Path) -> Result<(u64, u64)> {
    let (left, right) = (files(one), files(other));
    if left != right {
        return Err(format!("{} files here, {} there", left.len(), right.len()).into());
    }
    let mut bytes = 0;
    for path in &left {
        let (here, there) = (fs::read(one.join(path))?, fs::read(other.join(path))?);
        if here != there {
            return Err(format!("{} differs", path.display()).into());
        }
        bytes += here.len() as u64;
    }
    Ok((left.len() as u64, bytes))
}

/// Copies plain files from a tree, every second of them to each directory; how many, and their bytes.
pub(crate) fn deal(from: &Path, into: [&Path; 2]) -> Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for path in files(from) {
        let to = into[usize::from(count % 2 == 1)].join(&path);
        fs::create_dir_all(to.parent().ok_or("a root")?)?;
        bytes += fs::copy(from.join(&path), &to)?;
        File::options().write(true).open(&to)?.set_modified(SystemTime::now() - AGE)?;
        count += 1;
    }
    Ok((count, bytes))
}
