//! `can-sync export`: assets as plain files, once. Those that files of folders have are at their paths, all others are by their names.
//!
//! Nothing that is there is written over: a file of another content with the same name stays, and the new one has the beginning of its
//! hash in its name. So a second export of the same adds nothing. Memory: a page of assets, and what is on its way.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use self::placing::{ExportDir, ExportName, Place, PlaceError};
use super::Context;
use super::assets::{Asset, AssetPage, PAGE_MAX};
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit, blocking};
use super::folder::which::{self, Which};
use super::output::message;
use super::progress::ProgressLine;
use super::search::SearchFilters;
use super::text;
use crate::folder::report::FolderPlace;
use crate::record::ContentHash;
use crate::store::entries::PLACES_MAX;
use crate::store::service::codes;

mod placing;

/// Files that are written at a time: enough for the disk to make several durable in one go.
const WRITES: usize = 8;
/// Files that could not be exported, and are named at the end.
const FAILED_NAMED: usize = 20;

#[derive(clap::Args, Debug)]
pub(super) struct ExportArgs {
    /// Where the files go; it is made, if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    filters: SearchFilters,
    /// Only what this folder has: its name, its directory on this machine, or the beginning of its id
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Only those whose content is held here; without it, what is not is an error at the end
    #[arg(long)]
    held: bool,
}

#[derive(Deserialize)]
struct PlacesBody {
    places: Vec<FolderPlace>,
}

#[derive(Debug)]
struct Export {
    hash: ContentHash,
    size: u64,
    name: ExportName,
    mtime_ms: Option<u64>,
    executable: bool,
}

#[derive(Debug, Default)]
struct ExportTally {
    written: u64,
    bytes: u64,
    there: u64,
    absent: u64,
    failed: u64,
    /// The first of those that failed.
    failed_names: Vec<String>,
}

impl ExportTally {
    fn told(&self) -> String {
        let mut told =
            format!("{} written, {}", text::counted(self.written, "file"), text::bytes(self.bytes));
        if self.there > 0 {
            told = format!("{told}; {} there already", text::counted(self.there, "file"));
        }
        told
    }

    fn fail(&mut self, name: &str) {
        self.failed += 1;
        if self.failed_names.len() < FAILED_NAMED {
            self.failed_names.push(name.to_owned());
        }
    }

    /// What was not exported, and why as far as it was not said yet.
    fn wrong(&self) -> Vec<String> {
        let failed = (self.failed > 0).then(|| {
            let names = self.failed_names.join(", ");
            let more = match self.failed - self.failed_names.len() as u64 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{} could not be exported: {names}{more}", text::counted(self.failed, "file"))
        });
        let absent = (self.absent > 0).then(|| {
            format!("{} not held here: `can-sync fetch HASH` gets one", text::counted(self.absent, "asset"))
        });
        [failed, absent].into_iter().flatten().collect()
    }
}

pub(super) async fn run(context: &Context, args: ExportArgs) -> CliResult {
    let ExportArgs { dir, filters, folder, held } = args;
    let agent = context.agent()?;
    let store = context.store()?;
    let folder = if let Some(wanted) = folder {
        Some(folder_id(&agent, &wanted).await?)
    } else {
        // Whether there is a node at all.
        places(&agent, &[], None).await?;
        None
    };
    let target = Arc::new(blocking(move || ExportDir::make(&dir)).await??);
    let mut query = filters.query();
    let path = if query.is_empty() { "/list" } else { "/search" };
    if held {
        query.push(("held", "true".to_owned()));
    }
    let progress = ProgressLine::bytes("exporting", None);
    let count: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(progress.counter());
    let (mut tally, mut cursor) = (ExportTally::default(), None::<String>);
    loop {
        let mut query = query.clone();
        query.push(("limit", PAGE_MAX.to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: AssetPage = store.get(path, &query).await?;
        let found = exports(&agent, page.assets, folder.as_deref(), &mut tally).await?;
        let mut writes = futures::stream::iter(found)
            .map(|export| {
                let (store, target, count) = (store.clone(), Arc::clone(&target), Arc::clone(&count));
                async move {
                    let done = write(&store, &target, &export, &*count).await;
                    (export, done)
                }
            })
            .buffer_unordered(WRITES);
        while let Some((export, done)) = writes.next().await {
            progress.set(&format!("exporting, {} so far", text::counted(tally.written, "file")));
            progress.suspend(|| tell(context, &export, done, &mut tally))?;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    drop(progress);
    message(&tally.told());
    let wrong = tally.wrong();
    if wrong.is_empty() { Ok(()) } else { Err(CliError::several(&wrong)) }
}

/// The id of a folder that the network knows, by all that folders are named by.
async fn folder_id(agent: &ApiClient, wanted: &str) -> CliResult<String> {
    if let Ok(found) = Which::of(wanted).find(agent).await
        && !found.folder.is_empty()
    {
        return Ok(found.folder);
    }
    which::known(agent, wanted).await
}

/// Where folders have contents. Where nobody can say, as with a store that keeps no folders: nowhere; but not where one folder is asked for,
/// of which nothing would be exported.
async fn places(agent: &ApiClient, hashes: &[&str], folder: Option<&str>) -> CliResult<Vec<FolderPlace>> {
    let (mut all, mut left) = (Vec::new(), vec![hashes]);
    while let Some(part) = left.pop() {
        let asked = agent.post::<PlacesBody>("/folder-places", &json!({ "hashes": part })).await;
        let found = match asked {
            Ok(PlacesBody { places }) => places,
            Err(error) if error.exit() == Exit::Failure && folder.is_none() => {
                tracing::warn!(%error, "files are exported by their names alone: the paths that they have in folders are not known");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        if found.len() < PLACES_MAX {
            all.extend(found);
        } else if let [hash] = part {
            return Err(CliError::failure(format!(
                "{hash} has {PLACES_MAX} paths in folders, or more: too many to export"
            )));
        } else {
            // There may be more.
            let (one, other) = part.split_at(part.len() / 2);
            left.extend([one, other]);
        }
    }
    Ok(all)
}

/// The files that a page of assets makes.
async fn exports(
    agent: &ApiClient,
    assets: Vec<Asset>,
    folder: Option<&str>,
    tally: &mut ExportTally,
) -> CliResult<Vec<Export>> {
    let hashes: Vec<&str> = assets.iter().map(|asset| asset.hash.as_str()).collect();
    let places = places(agent, &hashes, folder).await?;
    let mut places_of: HashMap<String, Vec<FolderPlace>> = HashMap::new();
    for place in places.into_iter().filter(|place| folder.is_none_or(|folder| place.folder == folder)) {
        places_of.entry(place.hash.clone()).or_default().push(place);
    }
    let mut all = Vec::new();
    for asset in assets {
        let Ok(hash) = asset.hash.parse::<ContentHash>() else {
            tally.fail(&asset.hash);
            continue;
        };
        let places = places_of.remove(&asset.hash).unwrap_or_default();
        if folder.is_some() && places.is_empty() {
            continue;
        }
        if !asset.held {
            tally.absent += 1;
            continue;
        }
        if places.is_empty() {
            let modified = asset.more.get("modified_at").and_then(|time| text::ms_of(time.as_str()?));
            let name = ExportName::of_asset(asset.filename.as_deref(), hash);
            all.push(Export { hash, size: asset.size, name, mtime_ms: modified, executable: false });
        }
        all.extend(places.into_iter().map(|place| Export {
            hash,
            size: asset.size,
            name: ExportName::of_path(&place.path, hash),
            mtime_ms: Some(place.mtime_ms),
            executable: place.executable,
        }));
    }
    Ok(all)
}

/// Writes a file under a temporary name, checks it, makes it durable, and gives it a name that nothing has; `false` if it is there
/// already.
async fn write(
    store: &ApiClient,
    target: &Arc<ExportDir>,
    export: &Export,
    count: &(dyn Fn(u64) + Send + Sync),
) -> Result<(PathBuf, bool), ExportFailure> {
    let &Export { hash, size, executable, mtime_ms, .. } = export;
    let (to, name) = (Arc::clone(target), export.name.clone());
    let (dir, file) = match blocking(move || to.begin(&name, hash, size, executable)).await?? {
        Place::There(path) => return Ok((path, false)),
        Place::Free(dir, file) => (dir, file),
    };
    let path = export.name.below(&dir);
    let cannot = || PlaceError::at("write", &path);
    // What went since it was listed is one file that is not exported, and nothing to fetch.
    let mut response = super::get::read_local(store, hash).await?;
    let mut hasher = Sha256::new();
    let mut writer = tokio::fs::File::from_std(file.as_file().try_clone().map_err(cannot())?);
    while let Some(chunk) = response.chunk().await.map_err(|e| store.unreachable(&e))? {
        hasher.update(&chunk);
        writer.write_all(&chunk).await.map_err(cannot())?;
        count(chunk.len() as u64);
    }
    writer.flush().await.map_err(cannot())?;
    let found = ContentHash(hasher.finalize().into());
    if found != hash {
        let damaged = format!("the content that the store gave is damaged: it hashes to {found}");
        let hint = format!("`can-sync fetch {hash}` gets it from another machine; then export again");
        return Err(CliError::failure(damaged).hint(hint).into());
    }
    let name = export.name.clone();
    let done = blocking(move || {
        if let Some(time) =
            mtime_ms.and_then(|ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)))
        {
            // A file system without such times has its own.
            file.as_file().set_modified(time).ok();
        }
        file.as_file().sync_all().map_err(PlaceError::at("write", &path))?;
        ExportDir::name(file, &dir, &name, hash, size)
    });
    Ok(done.await??)
}

#[derive(Debug)]
struct ExportFailure {
    error: CliError,
    /// Whether all other files would meet it as well.
    is_end: bool,
}

impl From<CliError> for ExportFailure {
    /// Nothing goes on without the node, or while no content can be read. That one cannot be given at the moment says nothing of others.
    fn from(error: CliError) -> Self {
        let is_of_all =
            matches!(error.exit(), Exit::NoDaemon | Exit::Degraded | Exit::NotAllowed | Exit::Timeout);
        Self { is_end: is_of_all && !error.has_code(codes::TOO_BUSY), error }
    }
}

impl From<PlaceError> for ExportFailure {
    fn from(error: PlaceError) -> Self {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let kind = error.source.kind();
        let (hint, is_end) = if matches!(kind, StorageFull | QuotaExceeded) {
            ("make room and export again", true)
        } else if kind == ReadOnlyFilesystem {
            ("nothing can be written there: export to another directory", true)
        } else if kind == PermissionDenied {
            ("see that you may write there, and export again", false)
        } else {
            ("mend that and export again", false)
        };
        let hint = format!("{hint}: what is there already is passed over");
        Self { error: CliError::failure(error.to_string()).hint(hint), is_end }
    }
}

/// What became of one file.
fn tell(
    context: &Context,
    export: &Export,
    done: Result<(PathBuf, bool), ExportFailure>,
    tally: &mut ExportTally,
) -> CliResult {
    let (path, is_new) = match done {
        Ok(done) => done,
        Err(ExportFailure { error, is_end: true }) => {
            message(&tally.told());
            return Err(error);
        }
        Err(ExportFailure { error: e, .. }) => {
            let name = export.name.to_string();
            message(&format!("can-sync: {}: {e}", text::escape(&name)));
            tally.fail(&name);
            return Ok(());
        }
    };
    if is_new {
        tally.written += 1;
        tally.bytes += export.size;
    } else {
        tally.there += 1;
    }
    let path = path.display().to_string();
    if context.out.json {
        let state = if is_new { "written" } else { "there" };
        let hash = export.hash.to_string();
        context.out.value(&json!({ "hash": hash, "path": path, "size": export.size, "state": state }))?;
    } else if is_new {
        context.out.line(&format!("{}  {}", export.hash, text::escape(&path)))?;
    }
    Ok(())
}
