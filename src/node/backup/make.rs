//! Makes a backup.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::contents::{ContentCopier, CopyMethod, CopyOutcome, can_clone};
use super::manifest::{FileFacts, ListedContent, Manifest, StoreFacts, hashes};
use super::place::{BackupDir, copy_file, private, remove_dir};
use super::{BackupError, BackupFinding, CONTENTS_LIST, DATABASES, SECRETS, SMALL_CONTENTS, STORE_DB};
use crate::clock::{now_ms, rfc3339};
use crate::disk::free_bytes;
use crate::identity::{self, Mend};
use crate::node::DataDir;
use crate::store::at_rest::{contents_in_bucket, copy_database, damage_at_rest};
use crate::store::embedded::{CopiedContent, CopiedDatabase, CopiedFigures, EmbeddedStore};
use crate::text::amounts;

/// Room that the databases may need beyond what they take now.
const SPARE_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BackupOptions {
    /// Every content that is there from before is read and checked.
    pub(crate) verify: bool,
    /// Contents are given a second name instead of being copied.
    pub(crate) hard_link: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct BackupReport {
    pub(crate) dir: PathBuf,
    pub(crate) endpoint_id: Option<String>,
    /// Number of the store's last change that is in it; absent where the store is elsewhere.
    pub(crate) seq: Option<u64>,
    pub(crate) assets: u64,
    /// Contents in files of their own, and their bytes.
    pub(crate) contents: u64,
    pub(crate) content_bytes: u64,
    /// Contents in object storage, which are not in it, and their bytes.
    pub(crate) in_bucket: u64,
    pub(crate) in_bucket_bytes: u64,
    /// Those in files that were not there from before.
    pub(crate) copied: u64,
    pub(crate) copied_bytes: u64,
    /// Those of before that nothing needs any more.
    pub(crate) removed: u64,
    /// Contents that are damaged here, and so not in it.
    pub(crate) damaged: Vec<BackupFinding>,
    /// Contents that are damaged here, or not here, of which the whole copy of before stays in it.
    pub(crate) kept: Vec<BackupFinding>,
    pub(crate) has_passphrase: bool,
    pub(crate) elapsed_ms: u64,
}

/// A backup whose databases are copied, and whose contents are not yet.
pub(crate) struct BackupRun {
    began: Instant,
    pub(super) source: DataDir,
    pub(super) dir: BackupDir,
    options: BackupOptions,
    state: String,
    files: Vec<String>,
    pub(super) endpoint_id: Option<String>,
    figures: Option<CopiedFigures>,
    /// Contents that are in object storage, and their bytes.
    in_bucket: (u64, u64),
    pub(super) contents: Vec<CopiedContent>,
    /// In the database itself.
    damaged: Vec<CopiedContent>,
    /// Not here, and not in a file of the backup: set aside, or in the database of the backup before.
    aside: Vec<CopiedContent>,
    /// By index: what is there from before.
    is_here: Vec<bool>,
    /// Changes that the store acknowledged before its database was copied.
    pub(super) acknowledged: u64,
}

impl BackupRun {
    /// Checks everything, and copies the databases. Blocks.
    pub(crate) fn begin(source: &Path, target: &Path, options: BackupOptions) -> Result<Self, BackupError> {
        let began = Instant::now();
        let source = DataDir::new(source);
        let has_store = check_source(&source)?;
        let endpoint_id = endpoint_id(&source)?;
        let dir = BackupDir::take(target, source.path())?;
        let mut run = Self {
            began,
            source,
            dir,
            options,
            state: String::new(),
            files: Vec::new(),
            endpoint_id,
            figures: None,
            in_bucket: (0, 0),
            contents: Vec::new(),
            damaged: Vec::new(),
            aside: Vec::new(),
            is_here: Vec::new(),
            acknowledged: 0,
        };
        run.acknowledged = EmbeddedStore::acknowledged_changes(&run.source.store());
        run.check_whose(has_store)?;
        run.check_room(run.database_bytes())?;
        run.state =
            run.dir.new_state().map_err(|error| BackupError::io("make a directory in", target, &error))?;
        run.copy_state(has_store).inspect_err(|_| run.drop_state())?;
        run.plan().inspect_err(|_| run.drop_state())?;
        Ok(run)
    }

    /// Bytes of contents that are going to be read.
    pub(crate) fn pending_bytes(&self) -> u64 {
        let all = self.contents.iter().zip(&self.is_here);
        all.filter(|(_, is_here)| self.options.verify || !**is_here).map(|(content, _)| content.size).sum()
    }

    /// Copies the contents, and makes all of it the backup; `read` is told what was read. Blocks.
    pub(crate) fn finish(mut self, read: &dyn Fn(u64)) -> Result<BackupReport, BackupError> {
        let done = self.copy_contents(read).and_then(|copied| self.conclude(copied));
        done.inspect_err(|_| self.drop_state())
    }

    fn database_bytes(&self) -> u64 {
        let store = EmbeddedStore::database_file(&self.source.store());
        let beside = DATABASES.iter().map(|(name, _)| self.source.path().join(name));
        let sizes = beside.chain([store]).filter_map(|path| fs::metadata(path).ok());
        sizes.map(|meta| meta.len()).sum::<u64>() + SPARE_BYTES
    }

    fn check_room(&self, needed: u64) -> Result<(), BackupError> {
        match free_bytes(&self.dir.path) {
            Some(free) if free < needed => Err(BackupError::new(
                format!(
                    "the backup needs {} more in '{}', and {} are free",
                    amounts::bytes(needed),
                    self.dir.path.display(),
                    amounts::bytes(free)
                ),
                "make room there, or name a directory on another disk; what was there before is as it was",
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Databases, checked, and secrets.
    fn copy_state(&mut self, has_store: bool) -> Result<(), BackupError> {
        let state = self.dir.state(&self.state);
        let mut databases: Vec<(PathBuf, &str)> =
            DATABASES.iter().map(|(name, _)| (self.source.path().join(name), *name)).collect();
        if has_store {
            databases.push((EmbeddedStore::database_file(&self.source.store()), STORE_DB));
        }
        // Who does not run does not start meanwhile.
        let held = hold(&self.source);
        let alone = held.is_some();
        for (from, name) in databases {
            if !from.is_file() {
                continue;
            }
            let to = state.join(name);
            // SQLite takes an empty file, and would make one that others can read.
            private(&to).map_err(|error| BackupError::io("make", &to, &error))?;
            copy_database(&from, &to, alone).map_err(|error| BackupError::database("copy", &from, error))?;
            File::open(&to)
                .and_then(|file| file.sync_all())
                .map_err(|error| BackupError::io("write", &to, &error))?;
            // Contents in the database are read one by one: those that are damaged are named, and left out.
            let spared = (name == STORE_DB).then_some(SMALL_CONTENTS);
            if let Some(damage) = damage_at_rest(&to, spared) {
                return Err(BackupError::database("back up", &from, format!("it is damaged: {damage}")));
            }
            self.files.push(name.to_owned());
        }
        drop(held);
        for name in SECRETS {
            let from = self.source.path().join(name);
            match copy_file(&from, &state.join(name)) {
                Ok(()) => self.files.push(name.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(BackupError::io("copy", &from, &error)),
            }
        }
        Ok(())
    }

    /// Finds out what there is to copy.
    fn plan(&mut self) -> Result<(), BackupError> {
        let path = self.dir.state(&self.state).join(STORE_DB);
        if !path.is_file() {
            return Ok(());
        }
        let failed = |problem: String| BackupError::database("read", &path, problem);
        let database = CopiedDatabase::open(&path).map_err(failed)?;
        let sql = |error: rusqlite::Error| failed(error.to_string());
        self.figures = Some(database.figures().map_err(sql)?);
        self.in_bucket = contents_in_bucket(&path).map_err(sql)?;
        self.check_history(&database)?;
        self.contents = database.contents_in_files().map_err(sql)?;
        self.check_contents()?;
        self.damaged = database.damaged_inside().map_err(sql)?;
        let is_here = |content: &CopiedContent| {
            let here = fs::symlink_metadata(self.dir.content(content.hash));
            here.is_ok_and(|meta| meta.is_file() && meta.len() == content.size)
        };
        self.is_here = self.contents.iter().map(is_here).collect();
        // What was found damaged here since may be whole in the backup before.
        let aside: HashSet<_> =
            database.contents_aside().map_err(sql)?.into_iter().map(|content| content.hash).collect();
        let former = self.former_database();
        for content in database.wanted_contents().map_err(sql)? {
            let inside = || former.as_ref().and_then(|former| former.content_inside(content.hash));
            if aside.contains(&content.hash) {
                self.aside.push(content);
            } else if is_here(&content) {
                self.is_here.push(true);
                self.contents.push(content);
            } else if inside().is_some() {
                self.aside.push(content);
            }
        }
        let missing = || self.contents.iter().zip(&self.is_here).filter(|(_, here)| !**here);
        let first = missing().next().map(|(content, _)| self.file_of(content));
        let shares = self.options.hard_link || first.is_some_and(|from| can_clone(&from, &self.dir.tmp()));
        let needed = if shares { 0 } else { missing().map(|(content, _)| content.size).sum::<u64>() };
        self.check_room(needed)
    }

    /// The store's database in the backup before.
    fn former_database(&self) -> Option<CopiedDatabase> {
        let former = self.dir.former.as_ref()?;
        CopiedDatabase::open(&self.dir.state(&former.state).join(STORE_DB)).ok()
    }

    /// Keeps what the backup before has of a content that is damaged here, as a file of its own: with its state, its database goes.
    /// Whether there is a whole copy.
    fn keep(
        &self,
        content: &CopiedContent,
        former: Option<&CopiedDatabase>,
        copier: &mut ContentCopier,
    ) -> Result<bool, BackupError> {
        let CopiedContent { hash, size, .. } = *content;
        let to = self.dir.content(hash);
        if copier.is_right(&to, hash, size, &|_| {}).unwrap_or(false) {
            return Ok(true);
        }
        let Some(bytes) = former.and_then(|former| former.content_inside(hash)) else { return Ok(false) };
        copier.write(&bytes, &to, hash).map_err(|(path, error)| BackupError::io("write", &path, &error))?;
        Ok(true)
    }

    fn file_of(&self, content: &CopiedContent) -> PathBuf {
        EmbeddedStore::content_file(&self.source.store(), content.hash)
    }

    fn copy_contents(&mut self, read: &dyn Fn(u64)) -> Result<CopiedContents, BackupError> {
        let method = if self.options.hard_link { CopyMethod::HardLink } else { CopyMethod::Clone };
        let mut copier = ContentCopier::new(&self.dir.tmp(), method);
        let mut done = CopiedContents::default();
        let former = self.former_database();
        let inside = "its bytes in the database are not those that it is named by";
        let aside = "it was found damaged here, is set aside, and did not come again yet";
        let damaged = self.damaged.iter().map(|content| (content, inside));
        for (content, problem) in damaged.chain(self.aside.iter().map(|content| (content, aside))) {
            if self.keep(content, former.as_ref(), &mut copier)? {
                done.keep(content, problem);
            } else {
                done.miss(content, problem.to_owned());
            }
        }
        for (content, is_here) in self.contents.iter().zip(&self.is_here) {
            let to = self.dir.content(content.hash);
            let is_right = *is_here
                && (!self.options.verify
                    || copier
                        .is_right(&to, content.hash, content.size, read)
                        .map_err(|error| BackupError::io("read", &to, &error))?);
            if is_right {
                done.list(content, true);
                continue;
            }
            let from = self.file_of(content);
            match copier
                .copy(&from, &to, content.hash, content.size, read)
                .map_err(|e| self.copy_error(&e))?
            {
                CopyOutcome::Whole => {
                    done.copied += 1;
                    done.copied_bytes += content.size;
                    done.list(content, true);
                }
                CopyOutcome::Wrong(problem) => done.miss(content, problem),
                // It was deleted for good meanwhile, is being fetched again, or went up to the bucket, where a restored store looks
                // for it.
                CopyOutcome::Absent if !EmbeddedStore::needs_file(&self.source.store(), content.hash) => {
                    done.list(content, false);
                }
                CopyOutcome::Absent => done.miss(content, "its file is missing".into()),
            }
        }
        copier.settle().map_err(|(path, error)| BackupError::io("fsync", &path, &error))?;
        Ok(done)
    }

    fn copy_error(&self, (path, error): &(PathBuf, io::Error)) -> BackupError {
        let failed = BackupError::io("copy to", path, error);
        if self.options.hard_link && error.kind() == io::ErrorKind::CrossesDevices {
            return BackupError::new(
                failed.message,
                "hard links work on one file system only: leave --hard-link away",
            );
        }
        failed
    }

    /// The list, the manifest; and then what nobody needs any more goes.
    fn conclude(&mut self, done: CopiedContents) -> Result<BackupReport, BackupError> {
        let state = self.dir.state(&self.state);
        if self.figures.is_some() {
            let path = state.join(CONTENTS_LIST);
            write_list(&path, &done.listed).map_err(|error| BackupError::io("write", &path, &error))?;
            self.files.push(CONTENTS_LIST.to_owned());
        }
        let files =
            self.files.iter().map(|name| FileFacts::of(&state, name)).collect::<Result<Vec<_>, _>>()?;
        let here = || done.listed.iter().filter(|content| content.is_here);
        let (contents, content_bytes) = (here().count() as u64, here().map(|content| content.size).sum());
        let store = self.figures.map(|figures| StoreFacts {
            id: figures.id.map(|id| id.to_string()),
            seq: figures.seq,
            assets: figures.assets,
            contents,
            content_bytes,
            missing: done.damaged.len() as u64,
        });
        let made_at = rfc3339(now_ms()).unwrap_or_default();
        let manifest = Manifest::new(made_at, self.endpoint_id.clone(), store, self.state.clone(), files);
        let written =
            self.dir.settle(&self.state).and_then(|()| manifest.write(&self.dir.path, &self.dir.tmp()));
        written.map_err(|error| {
            BackupError::io("write", &super::place::manifest_path(&self.dir.path), &error)
        })?;
        let removed = self.dir.sweep(&self.state, &hashes(&done.listed)).map_err(|error| {
            BackupError::io("remove what is not needed any more from", &self.dir.path, &error)
        })?;
        Ok(BackupReport {
            dir: self.dir.path.clone(),
            endpoint_id: self.endpoint_id.clone(),
            seq: self.figures.map(|figures| figures.seq),
            assets: self.figures.map_or(0, |figures| figures.assets),
            contents,
            content_bytes,
            in_bucket: self.in_bucket.0,
            in_bucket_bytes: self.in_bucket.1,
            copied: done.copied,
            copied_bytes: done.copied_bytes,
            removed,
            damaged: done.damaged,
            kept: done.kept,
            has_passphrase: self.files.iter().any(|name| name == identity::PASSPHRASE_FILE),
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// What was copied of contents stays for the next time; half a state is of no use.
    fn drop_state(&self) {
        // What cannot be read may be what counts.
        let is_of_manifest = Manifest::read(&self.dir.path)
            .map_or(true, |manifest| manifest.is_some_and(|manifest| manifest.state == self.state));
        if !self.state.is_empty() && !is_of_manifest {
            // The next one removes what stays.
            let _ = remove_dir(&self.dir.state(&self.state));
            let _ = remove_dir(&self.dir.tmp());
        }
    }
}

#[derive(Default)]
struct CopiedContents {
    listed: Vec<ListedContent>,
    copied: u64,
    copied_bytes: u64,
    damaged: Vec<BackupFinding>,
    kept: Vec<BackupFinding>,
}

impl CopiedContents {
    fn list(&mut self, content: &CopiedContent, is_here: bool) {
        self.listed.push(ListedContent { hash: content.hash, size: content.size, is_here });
    }

    fn miss(&mut self, content: &CopiedContent, problem: String) {
        self.list(content, false);
        self.damaged.push(finding(content, problem));
    }

    fn keep(&mut self, content: &CopiedContent, problem: &str) {
        self.list(content, true);
        self.kept.push(finding(content, problem.to_owned()));
    }
}

fn finding(content: &CopiedContent, problem: String) -> BackupFinding {
    let CopiedContent { hash, size, name } = content.clone();
    BackupFinding { hash: hash.to_string(), name, size, problem }
}

/// Whether there is a store in a data directory. Something of a node has to be.
fn check_source(source: &DataDir) -> Result<bool, BackupError> {
    let path = source.path();
    fs::read_dir(path).map_err(|error| BackupError::io("read the data directory", path, &error))?;
    if path.join(super::RESTORING).exists() {
        return Err(BackupError::new(
            format!("'{}' was not completely restored", path.display()),
            "run `can-sync restore` for it once more, or back up another one",
        ));
    }
    let store = source.store();
    let has_store = EmbeddedStore::database_file(&store).is_file();
    if !has_store && EmbeddedStore::lock_file(&store).exists() {
        return Err(BackupError::new(
            format!("the store in '{}' has lost its database, store.db", store.display()),
            "put it back, or restore a backup; what was backed up before is as it was",
        ));
    }
    if has_store || identity::has_endpoint_key(path) {
        return Ok(has_store);
    }
    Err(BackupError::new(
        format!("'{}' is no data directory: neither a key nor a store is in it", path.display()),
        "name one with --data-dir",
    ))
}

fn endpoint_id(source: &DataDir) -> Result<Option<String>, BackupError> {
    let key = identity::existing_endpoint_key(source.path(), Mend::Never)
        .map_err(|error| BackupError::new(error.to_string(), "a backup holds the node's key"))?;
    Ok(key.map(|(key, _)| key.public().to_string()))
}

/// Keeps the processes of a data directory from starting, where none runs.
///
/// `None` where one does, or may: nothing is kept from it then, and its databases are read as those of a running one.
fn hold(source: &DataDir) -> Option<Vec<File>> {
    let locks = [source.lock(), EmbeddedStore::lock_file(&source.store())];
    let there = locks.iter().filter(|path| path.symlink_metadata().is_ok());
    let shared = |path: &PathBuf| File::open(path).ok().filter(|file| file.try_lock_shared().is_ok());
    let held: Vec<File> = there.map(shared).collect::<Option<_>>()?;
    (!held.is_empty()).then_some(held)
}

fn write_list(path: &Path, listed: &[ListedContent]) -> io::Result<()> {
    let mut file = BufWriter::new(private(path)?);
    for content in listed {
        file.write_all(content.line().as_bytes())?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
