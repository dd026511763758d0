//! Which directory belongs to which folder: tasks of FoldersActor, since disk, database and store may take their time.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use ractor::ActorRef;
use ractor::rpc::CallResult;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Asked, FolderError, FoldersMsg, REPORT_WITHIN};
use crate::entry::{EntryHash, EntryPath, FolderDefinition, FolderId, FolderRecord};
use crate::folder::actor::{FolderMsg, first_report};
use crate::folder::files::FolderMarker;
use crate::folder::report::{
    FolderConflict, FolderPlace, FolderReport, FolderState, FolderVersion, KnownFolder,
};
use crate::folder::rows::{FolderBinding, FolderBindings, RowsError};
use crate::folder::work::FolderContext;
use crate::record::ContentHash;
use crate::store::StoreError;
use crate::store::entries::{ENTRIES_MAX, EntryQuery};

/// Longest wait for a command that is carried out at once where nothing else is.
pub(super) const OBEY_WITHIN: Duration = Duration::from_secs(20);
/// Most copies that are listed.
const CONFLICTS_MAX: usize = 10_000;
/// Longest wait for the store.
pub(super) const STORE_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn id_of(folder: FolderId) -> String {
    HEXLOWER.encode(&folder.0)
}

pub(super) async fn bindings(context: &FolderContext) -> Result<FolderBindings, FolderError> {
    let rows = context.rows.clone();
    blocking(move || rows.bindings()).await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RowsError> + Send + 'static,
) -> Result<T, FolderError> {
    let failed = |why: String| FolderError::Failed(why);
    spawn_blocking(work).await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
}

/// What the store knows of all folders.
pub(super) async fn definitions(context: &FolderContext) -> Result<Vec<FolderDefinition>, StoreError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let query = EntryQuery { folder: None, prefix: String::new(), cursor, limit: ENTRIES_MAX };
        let page = timeout(STORE_WITHIN, context.store.entries(query)).await.map_err(|_| late())??;
        all.extend(page.records.into_iter().filter_map(|record| match record {
            FolderRecord::Definition(definition) => Some(definition),
            FolderRecord::Entry(_) => None,
        }));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(all);
        }
    }
}

fn late() -> StoreError {
    StoreError::Io {
        action: "ask the store about folders".into(),
        reason: "it did not answer in time".into(),
    }
}

/// Names of the folders that the store knows; none, where it does not answer.
pub(super) async fn names(context: &FolderContext) -> BTreeMap<FolderId, String> {
    let known = definitions(context).await.unwrap_or_default();
    known.into_iter().map(|one| (one.folder, one.name)).collect()
}

pub(super) async fn known(
    context: &FolderContext,
    bound: &[FolderId],
) -> Result<Vec<KnownFolder>, FolderError> {
    let all = definitions(context).await?;
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
    let rows = context.rows.clone();
    blocking(move || rows.change_settings(marker, |settings| settings.removed = true)).await?;
    tell(context, owner).await
}

/// Tells FoldersActor what is bound now.
pub(super) async fn tell(context: &FolderContext, owner: &ActorRef<FoldersMsg>) -> Result<(), FolderError> {
    let bindings = bindings(context).await?;
    let names = names(context).await;
    let _ = owner.send_message(FoldersMsg::Bound { bindings, names });
    Ok(())
}

pub(super) fn reported(binding: &FolderBinding, name: String) -> FolderReport {
    FolderReport { name, ..first_report(binding) }
}

pub(super) async fn reports(asked: Vec<Asked>) -> Vec<FolderReport> {
    futures::future::join_all(asked.into_iter().map(|one| report(Some(one)))).await
}

/// What a FolderActor says, or what is known where there is none.
pub(super) async fn report(asked: Option<Asked>) -> FolderReport {
    let Some(Asked { binding, name, is_configured: configured, actor, last_error }) = asked else {
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
    let (now, before) = timeout(STORE_WITHIN, ask).await.map_err(|_| late())??;
    let version = |record: FolderRecord, current: bool| match record {
        FolderRecord::Entry(entry) => Some(FolderVersion {
            at_ms: entry.hlc.ms(),
            by: entry.by.clone(),
            hash: entry.target().map(|hash| hash.to_string()),
            size: entry.file.as_ref().map(|file| file.size),
            current,
        }),
        FolderRecord::Definition(_) => None,
    };
    let now = now.into_iter().filter_map(|record| version(record, true));
    Ok(now.chain(before.into_iter().filter_map(|record| version(record, false))).collect())
}

/// Copies of what was edited apart, in the order of their paths.
pub(super) async fn conflicts(
    context: &FolderContext,
    folder: FolderId,
) -> Result<Vec<FolderConflict>, FolderError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let query = EntryQuery { folder: Some(folder), prefix: String::new(), cursor, limit: ENTRIES_MAX };
        let page = timeout(STORE_WITHIN, context.store.entries(query)).await;
        let page = page.map_err(|_| late())??;
        all.extend(page.records.into_iter().filter_map(|record| match record {
            FolderRecord::Entry(entry) if entry.is_live() && entry.path.is_conflict() => {
                Some(FolderConflict {
                    path: entry.path.as_str().to_owned(),
                    by: entry.by.clone(),
                    at_ms: entry.hlc.ms(),
                    hash: entry.target().map(|hash| hash.to_string()),
                    size: entry.file.as_ref().map(|file| file.size),
                })
            }
            FolderRecord::Entry(_) | FolderRecord::Definition(_) => None,
        }));
        cursor = page.next_cursor.filter(|_| all.len() < CONFLICTS_MAX);
        if cursor.is_none() {
            all.truncate(CONFLICTS_MAX);
            return Ok(all);
        }
    }
}

/// At which paths folders have these contents.
pub(super) async fn places(
    context: &FolderContext,
    hashes: Vec<ContentHash>,
    names: &BTreeMap<FolderId, String>,
) -> Result<Vec<FolderPlace>, FolderError> {
    let found = timeout(STORE_WITHIN, context.store.entries_with(hashes)).await;
    let found = found.map_err(|_| late())??;
    Ok(found
        .into_iter()
        .filter_map(|record| {
            let FolderRecord::Entry(entry) = record else { return None };
            let file = entry.file.as_ref()?;
            Some(FolderPlace {
                hash: file.target.to_string(),
                folder: id_of(entry.folder),
                name: names.get(&entry.folder).cloned().unwrap_or_default(),
                path: entry.path.as_str().to_owned(),
                mtime_ms: file.mtime_ms,
                executable: file.executable,
            })
        })
        .collect())
}
