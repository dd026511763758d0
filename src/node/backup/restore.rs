//! Makes a data directory of a backup.
//!
//! All of it is made below `restoring/` in the new data directory, and moved up at the end. A node does not start while that is
//! there, and a restoration that begins again begins with an empty one.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::contents::{ContentCopier, CopyMethod, CopyOutcome, can_clone};
use super::manifest::{ListedContent, Manifest, hash_file, read_list};
use super::place::{BackupDir, check_apart, copy_file};
use super::target::{begin_draft, move_up, take_target};
use super::{
    BackupError, BackupFinding, CONTENTS_LIST, DATABASES, IDENTITY, RESTORING, SECRETS, SMALL_CONTENTS,
    STORE_DB,
};
use crate::clock::Clock;
use crate::disk::{open_plain, sync_dir};
use crate::identity;
use crate::node::DataDir;
use crate::record::ContentHash;
use crate::store::at_rest::damage_at_rest;
use crate::store::embedded::{CopiedDatabase, EmbeddedConfig, EmbeddedStore, INLINE_BYTES_MAX};
use crate::store::{ContentStore as _, IncomingAsset, IncomingContent, StoreResult};

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct RestoreReport {
    pub(crate) data_dir: PathBuf,
    pub(crate) made_at: String,
    /// Absent where it is a new one, or a CAN Service without an agent.
    pub(crate) endpoint_id: Option<String>,
    pub(crate) assets: u64,
    pub(crate) contents: u64,
    pub(crate) content_bytes: u64,
    /// Contents that are not in the backup, or damaged there: wanted from other machines.
    pub(crate) missing: Vec<BackupFinding>,
    /// Files that are damaged in the backup, and that a node can do without.
    pub(crate) left_out: Vec<String>,
    pub(crate) has_passphrase: bool,
    pub(crate) elapsed_ms: u64,
}

/// A restoration that has checked everything but the contents.
pub(crate) struct RestoreRun {
    began: Instant,
    dir: BackupDir,
    manifest: Manifest,
    target: PathBuf,
    new_id: bool,
    contents: Vec<ListedContent>,
    left_out: Vec<String>,
    /// Keeps other restorations out of the place.
    place: Option<File>,
}

impl RestoreRun {
    /// Checks the backup's files and the place, and begins. Blocks.
    pub(crate) fn begin(backup: &Path, target: &Path, new_id: bool) -> Result<Self, BackupError> {
        let began = Instant::now();
        let (dir, manifest) = BackupDir::open(backup)?;
        check_apart(backup, target)?;
        let mut run = Self {
            began,
            dir,
            manifest,
            target: target.to_owned(),
            new_id,
            contents: Vec::new(),
            left_out: Vec::new(),
            place: None,
        };
        run.check_files()?;
        run.check_place()?;
        Ok(run)
    }

    /// Bytes of contents that are going to be read.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.contents.iter().filter(|content| content.is_here).map(|content| content.size).sum()
    }

    /// Restores; `read` is told what was read of contents.
    pub(crate) async fn finish(
        self,
        read: impl Fn(u64) + Send + 'static,
    ) -> Result<RestoreReport, BackupError> {
        let (run, mut missing) = blocking(move || {
            let missing = self.copy(&read)?;
            Ok((self, missing))
        })
        .await?;
        let store = DataDir::new(run.draft()).store();
        let small = run.small_contents().map(|content| (content, run.dir.content(content.hash))).collect();
        if !missing.is_empty() || run.small_contents().next().is_some() {
            complete(&store, small, &mut missing).await.map_err(|error| {
                BackupError::new(
                    format!("cannot complete the store in '{}': {error}", store.display()),
                    "check the directory and the disk that it is on, and run this once more",
                )
            })?;
        }
        blocking(move || run.conclude(missing)).await
    }

    /// Contents in files of the backup that belong into the database: it had them damaged when the backup was made.
    fn small_contents(&self) -> impl Iterator<Item = ListedContent> {
        self.contents.iter().copied().filter(|content| content.is_here && is_small(content))
    }

    /// Whether a file of the state goes into the new data directory.
    fn is_wanted(&self, name: &str) -> bool {
        let known =
            SECRETS.contains(&name) || name == STORE_DB || DATABASES.iter().any(|(known, _)| *known == name);
        known && !(self.new_id && IDENTITY.contains(&name))
    }

    fn names(&self, name: &str) -> bool {
        self.manifest.files.iter().any(|file| file.name == name)
            && !self.left_out.iter().any(|left| left == name)
    }

    /// Reads every file of the state. What cannot be done without has to be right.
    fn check_files(&mut self) -> Result<(), BackupError> {
        let state = self.dir.state(&self.manifest.state);
        for file in self.manifest.files.clone() {
            if !self.is_wanted(&file.name) && file.name != CONTENTS_LIST {
                continue;
            }
            let path = state.join(&file.name);
            let fault = match hash_file(&path) {
                Ok((size, sha256)) if size == file.size && sha256 == file.sha256 => continue,
                Ok(_) => "its bytes are not those that were written".to_owned(),
                Err(error) => error.to_string(),
            };
            if DATABASES.iter().any(|(name, dispensable)| *name == file.name && *dispensable) {
                self.left_out.push(file.name);
                continue;
            }
            let hint = if IDENTITY.contains(&file.name.as_str()) {
                "take another backup, or restore without it as a new node with --new-id"
            } else {
                "take another backup; contents that are in this one can still be stored again with `can-sync put`"
            };
            return Err(BackupError::new(format!("'{}' is damaged: {fault}", path.display()), hint));
        }
        if self.names(CONTENTS_LIST) {
            self.contents = read_list(&state.join(CONTENTS_LIST))?;
        }
        let database = state.join(STORE_DB);
        if self.names(STORE_DB) {
            let problem = CopiedDatabase::open(&database)
                .err()
                .or_else(|| damage_at_rest(&database, Some(SMALL_CONTENTS)));
            if let Some(problem) = problem {
                return Err(BackupError::new(
                    format!("cannot use '{}': {problem}", database.display()),
                    "use the version of can-sync that made the backup, or a newer one",
                ));
            }
        }
        Ok(())
    }

    /// An empty place with enough room; what an earlier attempt left is removed.
    fn check_place(&mut self) -> Result<(), BackupError> {
        let target = &self.target.clone();
        self.place = Some(take_target(target)?);
        let contents = self.contents.iter().find(|content| content.is_here);
        let shares = contents.is_some_and(|content| can_clone(&self.dir.content(content.hash), target));
        let files: u64 = self.manifest.files.iter().map(|file| file.size).sum();
        let needed = if shares { 0 } else { self.pending_bytes() } + files;
        begin_draft(target, needed)
    }

    fn draft(&self) -> PathBuf {
        self.target.join(RESTORING)
    }

    /// Copies everything; what is missing of contents.
    fn copy(&self, read: &dyn Fn(u64)) -> Result<Vec<BackupFinding>, BackupError> {
        let (state, draft) = (self.dir.state(&self.manifest.state), DataDir::new(self.draft()));
        let has_store = self.names(STORE_DB);
        if has_store {
            let store = draft.store();
            EmbeddedStore::make_dirs(&store).map_err(|error| BackupError::io("make", &store, &error))?;
        }
        for file in
            self.manifest.files.iter().filter(|file| self.is_wanted(&file.name) && self.names(&file.name))
        {
            let from = state.join(&file.name);
            let to = if file.name == STORE_DB {
                EmbeddedStore::database_file(&draft.store())
            } else {
                draft.path().join(&file.name)
            };
            copy_file(&from, &to).map_err(|error| BackupError::io("write", &to, &error))?;
        }
        let missing = if has_store { self.copy_contents(&draft.store(), read)? } else { Vec::new() };
        if has_store {
            sync_dir(&draft.store()).map_err(|error| BackupError::io("fsync", &draft.store(), &error))?;
        }
        if has_store && self.new_id {
            EmbeddedStore::make_another(&draft.store())
                .map_err(|problem| BackupError::database("change", &draft.store(), problem))?;
        }
        Ok(missing)
    }

    fn copy_contents(&self, store: &Path, read: &dyn Fn(u64)) -> Result<Vec<BackupFinding>, BackupError> {
        let tmp = self.draft();
        let database = CopiedDatabase::open(&self.dir.state(&self.manifest.state).join(STORE_DB)).ok();
        let name = |hash| database.as_ref().and_then(|database| database.name_of(hash));
        let mut copier = ContentCopier::new(&tmp, CopyMethod::Clone);
        let mut missing = Vec::new();
        for content in &self.contents {
            let ListedContent { hash, size, is_here } = *content;
            if is_here && is_small(content) {
                continue;
            }
            let problem = if is_here {
                let (from, to) = (self.dir.content(hash), EmbeddedStore::content_file(store, hash));
                let done = copier.copy(&from, &to, hash, size, read);
                match done.map_err(|(path, error)| BackupError::io("write", &path, &error))? {
                    CopyOutcome::Whole => continue,
                    CopyOutcome::Wrong(problem) => format!("damaged in the backup: {problem}"),
                    CopyOutcome::Absent => "its file is missing in the backup".into(),
                }
            } else {
                "it was not there any more, or damaged, when the backup was made".into()
            };
            missing.push(BackupFinding { hash: hash.to_string(), name: name(hash), size, problem });
        }
        copier.settle().map_err(|(path, error)| BackupError::io("fsync", &path, &error))?;
        Ok(missing)
    }

    fn conclude(self, missing: Vec<BackupFinding>) -> Result<RestoreReport, BackupError> {
        let target = &self.target;
        move_up(target)?;
        let whole: HashSet<&str> = missing.iter().map(|finding| finding.hash.as_str()).collect();
        let here =
            || self.contents.iter().filter(|content| !whole.contains(content.hash.to_string().as_str()));
        let is_new = self.new_id || !self.names(identity::KEY_FILE);
        Ok(RestoreReport {
            data_dir: target.clone(),
            made_at: self.manifest.made_at.clone(),
            endpoint_id: self.manifest.endpoint_id.clone().filter(|_| !is_new),
            assets: self.manifest.store.as_ref().map_or(0, |store| store.assets),
            contents: here().count() as u64,
            content_bytes: here().map(|content| content.size).sum(),
            has_passphrase: self.names(identity::PASSPHRASE_FILE),
            missing,
            left_out: self.left_out,
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

fn is_small(content: &ListedContent) -> bool {
    content.size <= INLINE_BYTES_MAX
}

/// Gives the store small contents that the backup has in files, and has it count those that are not there as wanted.
async fn complete(
    dir: &Path,
    small: Vec<(ListedContent, PathBuf)>,
    missing: &mut Vec<BackupFinding>,
) -> StoreResult {
    let config = EmbeddedConfig { dir: dir.to_owned(), disk_reserve_bytes: 0, clock: Clock::system() };
    let store = EmbeddedStore::open(config).await?;
    for (ListedContent { hash, size, .. }, path) in small {
        let Some(record) = store.records(vec![hash]).await?.pop().map(|stored| stored.record) else {
            continue;
        };
        let bytes = open_plain(&path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(size + 1).read_to_end(&mut bytes).map(|_| bytes)
        });
        let problem = match bytes {
            Ok(bytes) if hash.is_of(&bytes) => {
                let content = IncomingContent::Bytes(bytes.into());
                store.ingest(vec![IncomingAsset { record, content }]).await?;
                continue;
            }
            Ok(_) => "damaged in the backup: its bytes are not those that it is named by".to_owned(),
            Err(error) => format!("damaged in the backup: its file cannot be read: {error}"),
        };
        missing.push(BackupFinding { hash: hash.to_string(), name: record.meta.filename, size, problem });
    }
    for hash in missing.iter().filter_map(|finding| finding.hash.parse::<ContentHash>().ok()) {
        store.verify(hash).await?;
    }
    store.close().await;
    Ok(())
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(BackupError::new(error.to_string(), "report this")))
}
