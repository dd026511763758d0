//! Which directory belongs to which folder: tasks of FoldersActor, since disk, database and store may take their time.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::TryStreamExt as _;
use ractor::ActorRef;
use ractor::rpc::CallResult;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{FolderError, FoldersMsg, REPORT_WITHIN, ReportSource};
use crate::entry::{EntryHash, EntryPath, EntryRecord, FolderId, FolderRecord};
use crate::folder::actor::{FolderMsg, first_report};
use crate::folder::files::FolderMarker;
use crate::folder::report::{
    FolderConflict, FolderPlace, FolderReport, FolderState, FolderVersion, KnownFolder,
};
use crate::folder::rows::{FolderBinding, FolderBindings, FolderRows, RowsError};
use crate::folder::work::FolderContext;
use crate::record::ContentHash;
use crate::store::entries::{definitions, entry_pages};
use crate::store::{StoreError, StoreResult};

/// Longest wait for a command that is carried out at once where nothing else is.
pub(super) const OBEY_WITHIN: Duration = Duration::from_secs(20);
/// Most copies that are listed.
const CONFLICTS_MAX: usize = 10_000;
const STORE_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn id_of(folder: FolderId) -> String {
    HEXLOWER.encode(&folder.0)
}

pub(super) async fn bindings(context: &FolderContext) -> Result<FolderBindings, FolderError> {
    with_rows(context, FolderRows::bindings).await
}

/// Does what may take its time where nobody waits for it.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FolderError> {
    spawn_blocking(work).await.map_err(|error| FolderError::Failed(error.to_string()))
}

/// The same of what is kept in `agent.db`.
pub(super) async fn with_rows<T: Send + 'static>(
    context: &FolderContext,
    work: impl FnOnce(&FolderRows) -> Result<T, RowsError> + Send + 'static,
) -> Result<T, FolderError> {
    let rows = context.rows.clone();
    off_thread(move || work(&rows)).await?.map_err(|error| FolderError::Failed(error.to_string()))
}

pub(super) async fn within<T>(answer: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    let late = |_| StoreError::io("ask the store about folders", "it did not answer in time");
    timeout(STORE_WITHIN, answer).await.map_err(late)?
}

/// Names of the folders that the store knows; `None`, where it does not answer.
pub(super) async fn names(context: &FolderContext) -> Option<BTreeMap<FolderId, String>> {
    let known = within(definitions(&context.store)).await.ok()?;
    Some(known.into_iter().map(|one| (one.folder, one.name)).collect())
}

pub(super) async fn known(
    context: &FolderContext,
    bound: &[FolderId],
) -> Result<Vec<KnownFolder>, FolderError> {
    let all = within(definitions(&context.store)).await?;
    Ok(all
        .into_iter()
        .map(|one| KnownFolder {
            folder: id_of(one.folder),
            name: one.name,
            by: one.by,
            bound: bound.contains(&one.folder),
            by_ticket: context.libraries.foreign(one.folder).is_some(),
        })
        .collect())
}

/// Takes a directory from its folder; its files and what was agreed stay.
pub(super) async fn remove(
    context: &FolderContext,
    marker: FolderMarker,
    owner: &ActorRef<FoldersMsg>,
) -> Result<(), FolderError> {
    with_rows(context, move |rows| rows.change_settings(marker, |settings| settings.removed = true)).await?;
    tell(context, owner).await.map(drop)
}

/// Reads which folders are bound and sends that to FoldersActor with their names; letting go of contents is told which they are, too.
/// `false` where the store did not give the names.
pub(super) async fn tell(context: &FolderContext, owner: &ActorRef<FoldersMsg>) -> Result<bool, FolderError> {
    let bindings = bindings(context).await?;
    let bound = bindings.all.iter().filter(|binding| !binding.settings.removed);
    let bound = bound.map(|binding| binding.marker.folder).collect();
    context.libraries.hold_rules().set_bound(bindings.at, bound);
    let names = names(context).await;
    let is_named = names.is_some();
    let _ = owner.send_message(FoldersMsg::Bound { bindings, names });
    Ok(is_named)
}

pub(super) fn reported(binding: &FolderBinding, name: String) -> FolderReport {
    FolderReport { name, ..first_report(binding) }
}

pub(super) async fn reports(asked: Vec<ReportSource>) -> Vec<FolderReport> {
    futures::future::join_all(asked.into_iter().map(|one| report(Some(one)))).await
}

/// What a FolderActor says, or what is known where there is none.
pub(super) async fn report(asked: Option<ReportSource>) -> FolderReport {
    let Some(ReportSource { binding, name, is_configured: configured, actor, last_error }) = asked else {
        return FolderReport::default();
    };
    if let Some(actor) = actor
        && let Ok(CallResult::Success(report)) =
            actor.call(|reply| FolderMsg::GetReport { reply }, Some(REPORT_WITHIN)).await
    {
        return FolderReport { name, configured, ..report };
    }
    FolderReport { state: FolderState::Failed, reason: last_error, configured, ..reported(&binding, name) }
}

/// What the folder has and had at a path, the newest first.
pub(super) async fn history(
    context: &FolderContext,
    folder: FolderId,
    path: &str,
) -> Result<Vec<FolderVersion>, FolderError> {
    let parsed = EntryPath::parse(path).map_err(|error| FolderError::Invalid(error.to_string()))?;
    let hash = EntryHash::of(folder, &parsed);
    let ask = async {
        let now = context.store.entries_named(vec![hash]).await?;
        // Others may have made any number of versions: the newest are shown.
        Ok::<_, StoreError>((now, context.store.entry_history(folder, path.to_owned(), None).await?))
    };
    let (now, before) = within(ask).await?;
    let version = |entry: EntryRecord, current: bool| FolderVersion {
        at_ms: entry.hlc.ms(),
        by: entry.by.clone(),
        hash: entry.target().map(|hash| hash.to_string()),
        size: entry.file.as_ref().map(|file| file.size),
        current,
    };
    let now = now.into_iter().filter_map(FolderRecord::into_entry).map(|entry| version(entry, true));
    let before = before.into_iter().filter_map(FolderRecord::into_entry).map(|entry| version(entry, false));
    Ok(now.chain(before).collect())
}

/// Copies of what was edited apart, in the order of their paths.
pub(super) async fn conflicts(
    context: &FolderContext,
    folder: FolderId,
) -> Result<Vec<FolderConflict>, FolderError> {
    let conflict = |entry: EntryRecord| FolderConflict {
        path: entry.path.as_str().to_owned(),
        by: entry.by.clone(),
        at_ms: entry.hlc.ms(),
        hash: entry.target().map(|hash| hash.to_string()),
        size: entry.file.as_ref().map(|file| file.size),
    };
    let (mut all, mut pages) = (Vec::new(), entry_pages(&context.store, Some(folder)));
    while all.len() < CONFLICTS_MAX
        && let Some(page) = within(pages.try_next()).await?
    {
        let entries = page.into_iter().filter_map(FolderRecord::into_entry);
        let copies = entries.filter(|entry| entry.is_live() && entry.path.is_conflict());
        all.extend(copies.map(conflict));
    }
    all.truncate(CONFLICTS_MAX);
    Ok(all)
}

/// At which paths folders have these contents.
pub(super) async fn places(
    context: &FolderContext,
    hashes: Vec<ContentHash>,
    names: &BTreeMap<FolderId, String>,
) -> Result<Vec<FolderPlace>, FolderError> {
    let found = within(context.store.entries_with(hashes)).await?;
    let place = |entry: EntryRecord| {
        let file = entry.file?;
        Some(FolderPlace {
            hash: file.target.to_string(),
            folder: id_of(entry.folder),
            name: names.get(&entry.folder).cloned().unwrap_or_default(),
            path: entry.path.as_str().to_owned(),
            mtime_ms: file.mtime_ms,
            executable: file.executable,
        })
    };
    Ok(found.into_iter().filter_map(FolderRecord::into_entry).filter_map(place).collect())
}
