//! Which directory belongs to which folder: tasks of FoldersActor, since disk, database and store may take their time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use data_encoding::HEXLOWER;
use ractor::ActorRef;
use ractor::rpc::CallResult;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{Asked, FolderError, FolderOrder, FoldersArgs, FoldersMsg, REPORT_WITHIN};
use crate::entry::{
    EntryAuthor, EntryHash, EntryPath, FolderAccess, FolderDefinition, FolderId, FolderRecord,
};
use crate::folder::actor::{FolderMsg, first_report};
use crate::folder::files::{FolderDir, FolderMarker};
use crate::folder::report::{FolderReport, FolderState, FolderVersion, KnownFolder};
use crate::folder::rows::{FolderBinding, RowsError};
use crate::folder::work::FolderContext;
use crate::record::Hlc;
use crate::store::StoreError;
use crate::store::entries::{ENTRIES_MAX, EntryOutcome, EntryQuery, whole_history};

/// Longest wait for a command that is carried out at once where nothing else is.
pub(super) const OBEY_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for the store.
const STORE_WITHIN: Duration = Duration::from_secs(10);
/// Pause after something did not work at the start.
const BEGIN_RETRY: Duration = Duration::from_secs(2);

pub(super) fn id_of(folder: FolderId) -> String {
    HEXLOWER.encode(&folder.0)
}

/// Tells FoldersActor what is bound, and binds what the configuration names.
pub(super) async fn begin(args: FoldersArgs, owner: ActorRef<FoldersMsg>) {
    loop {
        match bindings(&args.context).await {
            Ok(bindings) => {
                let names = names(&args.context).await;
                let _ = owner.send_message(FoldersMsg::Bound { bindings, names });
                break;
            }
            Err(error) => {
                tracing::error!(%error, "folders do not start; trying again");
                sleep(BEGIN_RETRY).await;
            }
        }
    }
    for order in args.configured.iter() {
        if let Err(error) = add(&args.context, order, &owner).await {
            tracing::warn!(path = %order.path.display(), %error, "a folder of the configuration is not bound");
        }
    }
}

async fn bindings(context: &FolderContext) -> Result<Vec<FolderBinding>, FolderError> {
    let rows = context.rows.clone();
    blocking(move || rows.bindings()).await
}

async fn blocking<T: Send + 'static>(
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
async fn names(context: &FolderContext) -> BTreeMap<FolderId, String> {
    let known = definitions(context).await.unwrap_or_default();
    known.into_iter().map(|one| (one.folder, one.name)).collect()
}

pub(super) async fn known(
    context: &FolderContext,
    bound: &[FolderId],
) -> Result<Vec<KnownFolder>, FolderError> {
    let all = definitions(context).await.map_err(|error| FolderError::Failed(error.to_string()))?;
    Ok(all
        .into_iter()
        .map(|one| KnownFolder {
            folder: id_of(one.folder),
            name: one.name,
            by: one.by,
            bound: bound.contains(&one.folder),
        })
        .collect())
}

/// Writes a binding, and tells FoldersActor.
pub(super) async fn save(
    context: &FolderContext,
    binding: FolderBinding,
    owner: &ActorRef<FoldersMsg>,
) -> Result<(), FolderError> {
    let rows = context.rows.clone();
    let bindings = blocking(move || {
        rows.save_binding(&binding)?;
        rows.bindings()
    })
    .await?;
    let names = names(context).await;
    let _ = owner.send_message(FoldersMsg::Bound { bindings, names });
    Ok(())
}

/// Binds a directory to a folder that is known by this name, or to a new one.
pub(super) async fn add(
    context: &FolderContext,
    order: &FolderOrder,
    owner: &ActorRef<FoldersMsg>,
) -> Result<FolderReport, FolderError> {
    let failed = |why: String| FolderError::Failed(why);
    if !order.path.is_absolute() {
        return Err(FolderError::Invalid("the path of the directory has to be absolute".into()));
    }
    let known = definitions(context).await.map_err(|error| failed(error.to_string()))?;
    let before = bindings(context).await?;
    let path = order.path.clone();
    let real = spawn_blocking(move || std::fs::canonicalize(&path))
        .await
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e| failed(format!("cannot find {}: {e}", order.path.display())))?;
    if let Some(bound) = before.iter().find(|one| one.path == real && !one.settings.removed) {
        return Ok(reported(bound, name_in(&known, bound.marker.folder)));
    }
    let mine = before.iter().find(|one| one.path == real);
    let name = match &order.name {
        Some(name) => name.clone(),
        None => match mine.map(|one| name_in(&known, one.marker.folder)).filter(|name| !name.is_empty()) {
            Some(name) => name,
            None => own_name(&real)?,
        },
    };
    if let Some(nested) = before
        .iter()
        .filter(|one| !one.settings.removed)
        .find(|one| one.path != real && (one.path.starts_with(&real) || real.starts_with(&one.path)))
    {
        let other = nested.path.display();
        return Err(FolderError::Invalid(format!("{other} is a folder, and one cannot lie in another")));
    }
    let folder = pick(&known, &name, order.is_new)?;
    let folder_id = folder.as_ref().map_or_else(|| FolderId(rand::random()), |folder| folder.folder);
    let former = before.iter().find(|one| one.marker.folder == folder_id);
    if let Some(former) = former.filter(|one| !one.settings.removed) {
        let other = former.path.display();
        return Err(FolderError::Invalid(format!("the folder '{name}' is at {other} on this machine")));
    }
    // The same directory, added again: what was agreed with it still holds.
    let resumed = former.filter(|former| former.path == real);
    let binding = resumed.map_or_else(rand::random, |former| former.marker.binding);
    let binding = FolderBinding {
        marker: FolderMarker { folder: folder_id, binding },
        path: real,
        settings: order.settings,
    };
    let (bound, forbidden, rows) = (binding.clone(), context.forbidden.clone(), context.rows.clone());
    let is_resumed = resumed.is_some();
    spawn_blocking(move || -> Result<(), String> {
        FolderDir::bind(&bound.path, bound.marker, &forbidden).map_err(|error| error.to_string())?;
        if !is_resumed {
            rows.forget_rows(bound.marker.folder).map_err(|error| error.to_string())?;
        }
        Ok(())
    })
    .await
    .map_err(|e| failed(e.to_string()))?
    .map_err(FolderError::Failed)?;
    let shown = folder.as_ref().map_or_else(|| name.clone(), |folder| folder.name.clone());
    if folder.is_none() {
        define(context, folder_id, &name).await?;
    }
    save(context, binding.clone(), owner).await?;
    Ok(reported(&binding, shown))
}

fn name_in(known: &[FolderDefinition], folder: FolderId) -> String {
    known.iter().find(|one| one.folder == folder).map_or_else(String::new, |one| one.name.clone())
}

fn reported(binding: &FolderBinding, name: String) -> FolderReport {
    FolderReport { name, ..first_report(binding) }
}

fn own_name(path: &Path) -> Result<String, FolderError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        FolderError::Invalid("the directory's name is no text: give the folder one with --name".into())
    })
}

/// The folder of the network that is meant, if there is one.
fn pick(
    known: &[FolderDefinition],
    name: &str,
    is_new: bool,
) -> Result<Option<FolderDefinition>, FolderError> {
    if let Some(found) = known.iter().find(|one| id_of(one.folder) == name.to_ascii_lowercase()) {
        return Ok(Some(found.clone()));
    }
    if is_new {
        return Ok(None);
    }
    let found: Vec<&FolderDefinition> = known.iter().filter(|one| one.name == name).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        several => Err(FolderError::Ambiguous {
            name: name.to_owned(),
            ids: several.iter().map(|one| id_of(one.folder)).collect(),
        }),
    }
}

/// Tells the network of a new folder.
async fn define(context: &FolderContext, folder: FolderId, name: &str) -> Result<(), FolderError> {
    let failed = |why: String| FolderError::Failed(why);
    let status = timeout(STORE_WITHIN, context.store.status()).await.map_err(|e| failed(e.to_string()))?;
    let status = status.map_err(|error| failed(error.to_string()))?;
    let rows = context.rows.clone();
    let writer = blocking(move || rows.writer(status.id.as_ref())).await?;
    let definition = FolderDefinition {
        folder,
        hlc: Hlc::default().next(context.clock.now_ms()),
        writer,
        name: name.to_owned(),
        access: FolderAccess::Everybody,
        by: EntryAuthor::name_from(&context.name),
    };
    definition.validate().map_err(|error| FolderError::Invalid(error.to_string()))?;
    let records = vec![FolderRecord::Definition(definition)];
    let taken = timeout(STORE_WITHIN, context.store.take_entries(records)).await;
    let taken = taken.map_err(|e| failed(e.to_string()))?.map_err(|error| failed(error.to_string()))?;
    match taken.into_iter().next() {
        Some(EntryOutcome::Stored | EntryOutcome::Unchanged) => Ok(()),
        Some(EntryOutcome::Rejected(why)) => Err(failed(why)),
        Some(EntryOutcome::Changed(_)) | None => Err(failed("the store did not take the folder".into())),
    }
}

pub(super) async fn reports(asked: Vec<Asked>) -> Vec<FolderReport> {
    futures::future::join_all(asked.into_iter().map(|one| report(Some(one)))).await
}

/// What a FolderActor says, or what is known where there is none.
pub(super) async fn report(asked: Option<Asked>) -> FolderReport {
    let Some(Asked { binding, name, actor, last_error }) = asked else { return FolderReport::default() };
    if let Some(actor) = actor
        && let Ok(CallResult::Success(report)) =
            actor.call(|reply| FolderMsg::GetReport { reply }, Some(REPORT_WITHIN)).await
    {
        return FolderReport { name, ..report };
    }
    FolderReport { state: FolderState::Failed, reason: last_error, ..reported(&binding, name) }
}

/// What the folder has and had at a path, the newest first.
pub(super) async fn history(
    context: &FolderContext,
    folder: FolderId,
    path: &str,
) -> Result<Vec<FolderVersion>, FolderError> {
    let failed = |error: StoreError| FolderError::Failed(error.to_string());
    let parsed = EntryPath::parse(path).map_err(|error| FolderError::Invalid(error.to_string()))?;
    let hash = EntryHash::of(folder, &parsed);
    let ask = async {
        let now = context.store.entries_named(vec![hash]).await?;
        Ok::<_, StoreError>((now, whole_history(&context.store, folder, path).await?))
    };
    let (now, before) = timeout(STORE_WITHIN, ask).await.map_err(|_| failed(late()))?.map_err(failed)?;
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
