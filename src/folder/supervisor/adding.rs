//! Binding a directory to a folder: everything that speaks against it is said before anything is written to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::sleep;

use super::binding::{bindings, id_of, names, reported, tell, with_rows, within};
use super::directory::{mark, marker_at, real_path, suits};
use super::{FOLDERS_MAX, FolderError, FolderOrder, FolderWishes, FoldersArgs, FoldersMsg, UnboundFolder};
use crate::entry::{EntryAuthor, FolderAccess, FolderDefinition, FolderId, FolderRecord, composed};
use crate::folder::FolderMode;
use crate::folder::files::FolderMarker;
use crate::folder::report::{FolderReport, FolderState};
use crate::folder::rows::{FolderBinding, FolderSettings};
use crate::folder::work::FolderContext;
use crate::record::Hlc;
use crate::store::entries::{EntryOutcome, definitions};

/// Pause after something did not work at the start.
const BEGIN_RETRY: Duration = Duration::from_secs(2);
/// How often folders of the configuration are tried again that cannot be bound.
const CONFIGURED_RETRY: Duration = Duration::from_secs(30);
/// How long the network is waited for to say what folders it has.
const KNOWN_TRIES: u32 = 20;
const KNOWN_RETRY: Duration = Duration::from_millis(250);
/// What a folder is derived from that the configuration names and nobody knows yet.
const CONFIGURED_CONTEXT: &str = "can-sync 2026 folder by configuration";

/// Tells FoldersActor what is bound, and binds what the configuration names; again and again, what cannot be.
pub(super) async fn begin(args: FoldersArgs, owner: ActorRef<FoldersMsg>) {
    loop {
        match tell(&args.context, &owner).await {
            Ok(_) => break,
            Err(error) => {
                tracing::error!(%error, "folders do not start; trying again");
                sleep(BEGIN_RETRY).await;
            }
        }
    }
    if !args.configured.is_empty() {
        let first = unknown(&args).await;
        let waits = |order: FolderOrder| UnboundFolder {
            order,
            why: "it is bound in a moment, once it is known whether the network has a folder of that name"
                .into(),
            state: FolderState::Starting,
        };
        let unbound = first.into_iter().map(waits).collect();
        let _ = owner.send_message(FoldersMsg::Tried { unbound, bound: Vec::new() });
        for _ in 0..KNOWN_TRIES {
            if unknown(&args).await.is_empty() {
                break;
            }
            sleep(KNOWN_RETRY).await;
        }
    }
    let mut told: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut left = args.configured.to_vec();
    while !left.is_empty() {
        let (mut unbound, mut bound) = (Vec::new(), Vec::new());
        for order in left {
            match add(&args.context, &order, &owner).await {
                Ok(report) => bound.push(report.folder),
                Err(error) => {
                    let why = error.to_string();
                    if told.insert(order.path.clone(), why.clone()).as_ref() != Some(&why) {
                        let path = order.path.display().to_string();
                        tracing::warn!(path, why, "a folder of the configuration is not bound");
                    }
                    unbound.push(UnboundFolder { order, why, state: FolderState::Failed });
                }
            }
        }
        left = unbound.iter().map(|one| one.order.clone()).collect();
        let _ = owner.send_message(FoldersMsg::Tried { unbound, bound });
        sleep(CONFIGURED_RETRY).await;
    }
}

/// Folders of the configuration that are not bound, and whose names nobody knows yet: a network that is only being met gets a moment to
/// say what it has, or one that has another id there would be made anew.
async fn unknown(args: &FoldersArgs) -> Vec<FolderOrder> {
    let known = names(&args.context).await.unwrap_or_default();
    let bound = bindings(&args.context).await.map(|bindings| bindings.all).unwrap_or_default();
    let mut unknown = Vec::new();
    for order in args.configured.iter() {
        let own = order.path.file_name().and_then(|name| name.to_str());
        let name = order.name.as_deref().or(own).unwrap_or_default();
        let is_ours = |folder: &FolderId| args.context.libraries.foreign(*folder).is_none();
        let is_known = known.iter().any(|(folder, known)| {
            is_same_name(known, name) && is_ours(folder) || id_of(*folder) == name.to_ascii_lowercase()
        });
        let is_bound = match real_path(&order.path).await {
            Ok(real) => bound.iter().any(|one| one.path == real),
            // It is told of at once, with the first try.
            Err(_) => true,
        };
        if !is_known && !is_bound {
            unknown.push(order.clone());
        }
    }
    unknown
}

/// Binds a directory to a folder that is known by this name, or to a new one. One that is bound already gets the settings that were
/// given.
pub(super) async fn add(
    context: &FolderContext,
    order: &FolderOrder,
    owner: &ActorRef<FoldersMsg>,
) -> Result<FolderReport, FolderError> {
    let real = real_path(&order.path).await?;
    let _alone = context.busy.binding.lock().await;
    let known = within(definitions(&context.store)).await?;
    let before = bindings(context).await?.all;
    let found = marker_at(context, &real).await?;
    // A directory that was several folders is the one whose marker it has.
    let at_path = before.iter().filter(|one| one.path == real);
    let mine = at_path.max_by_key(|one| (!one.settings.removed, found == Some(one.marker)));
    // One that lost its marker is bound anew, and begins without what was agreed.
    let unmarked = mine.filter(|one| !one.settings.removed);
    if let Some(bound) = unmarked {
        let name = name_in(&known, bound.marker.folder);
        check_name(order, bound, &name)?;
        if found == Some(bound.marker) {
            return change(context, order, bound, name, owner).await;
        }
    }
    if unmarked.is_none() && before.iter().filter(|one| !one.settings.removed).count() >= FOLDERS_MAX {
        return Err(FolderError::Failed(format!(
            "there are {FOLDERS_MAX} folders on this machine already: remove one first"
        )));
    }
    let own = mine.map(|one| name_in(&known, one.marker.folder)).filter(|name| !name.is_empty());
    let name = match (&order.name, own) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name,
        (None, None) => own_name(&real)?,
    };
    let is_nested = |one: &&FolderBinding| {
        !one.settings.removed
            && one.path != real
            && (one.path.starts_with(&real) || real.starts_with(&one.path))
    };
    if let Some(nested) = before.iter().find(is_nested) {
        let other = nested.path.display();
        return Err(FolderError::Invalid(format!(
            "{} and the folder {other} lie one inside the other: choose another directory, or remove that folder first",
            real.display()
        )));
    }
    let folder = match unmarked {
        Some(bound) => known.iter().find(|one| one.folder == bound.marker.folder).cloned(),
        None => pick(context, &known, &name, order)?,
    };
    let folder_id = match (&folder, unmarked) {
        (Some(folder), _) => folder.folder,
        (None, Some(bound)) => bound.marker.folder,
        (None, None) => new_id(context, order, &name),
    };
    let former = before.iter().find(|one| one.marker.folder == folder_id);
    if let Some(former) = former.filter(|one| !one.settings.removed && one.path != real) {
        let other = former.path.display();
        return Err(FolderError::Invalid(format!(
            "the folder '{name}' is at {other} on this machine already: remove it there first, or make another one (--new)"
        )));
    }
    let definition = match &folder {
        Some(_) => None,
        None => Some(definition(context, folder_id, &name).await?),
    };
    let kept = unmarked.map_or_else(FolderSettings::default, |bound| bound.settings);
    let settings = settings_of(context, folder_id, &name, order.wishes, kept)?;
    let room = suits(context, &real, settings, mine.is_none()).await?;
    // What was agreed holds for the directory that has the marker of then. One without it may be an empty mount point: nothing counts as
    // removed from that.
    let resumed = former.filter(|former| former.path == real && found == Some(former.marker));
    let binding = resumed.map_or_else(rand::random, |former| former.marker.binding);
    let binding = FolderBinding { marker: FolderMarker { folder: folder_id, binding }, path: real, settings };
    let left = mine.map(|one| one.marker).filter(|marker| *marker != binding.marker);
    let shown = folder.as_ref().map_or_else(|| name.clone(), |folder| folder.name.clone());
    if let Some(definition) = definition {
        define(context, definition).await?;
    }
    mark(context, binding.clone(), left, former.cloned(), resumed.is_some()).await?;
    tell(context, owner).await?;
    Ok(FolderReport { room, configured: order.is_configured, ..reported(&binding, shown) })
}

/// Whether a directory that is bound is the folder that is asked for; an error where it is another one.
fn check_name(order: &FolderOrder, bound: &FolderBinding, name: &str) -> Result<(), FolderError> {
    let id = id_of(bound.marker.folder);
    let is_it = |asked: &String| is_same_name(name, asked) || id == asked.to_ascii_lowercase();
    if !order.is_new && order.name.as_ref().is_none_or(is_it) {
        return Ok(());
    }
    let shown = bound.path.display();
    Err(FolderError::Invalid(format!(
        "{shown} is the folder '{name}' already: `can-sync folder remove {name}` first, to make it another one"
    )))
}

/// A directory that is bound already: its settings, where others were asked for.
async fn change(
    context: &FolderContext,
    order: &FolderOrder,
    bound: &FolderBinding,
    name: String,
    owner: &ActorRef<FoldersMsg>,
) -> Result<FolderReport, FolderError> {
    let settings = settings_of(context, bound.marker.folder, &name, order.wishes, bound.settings)?;
    let changed = FolderBinding { settings, ..bound.clone() };
    if settings != bound.settings {
        suits(context, &bound.path, settings, false).await?;
        let (marker, wishes) = (bound.marker, order.wishes);
        let apply = move |now: &mut FolderSettings| {
            *now = if settings.by_ticket { wishes.over(*now).of_ticket() } else { wishes.over(*now) };
        };
        with_rows(context, move |rows| rows.change_settings(marker, apply)).await?;
        tell(context, owner).await?;
    }
    Ok(FolderReport { configured: order.is_configured, ..reported(&changed, name) })
}

/// The settings that a folder gets: one that came by a ticket is only read.
fn settings_of(
    context: &FolderContext,
    folder: FolderId,
    name: &str,
    wishes: FolderWishes,
    before: FolderSettings,
) -> Result<FolderSettings, FolderError> {
    let settings = wishes.over(before);
    if !before.by_ticket && context.libraries.foreign(folder).is_none() {
        return Ok(settings);
    }
    if wishes.mode.is_some_and(|mode| mode != FolderMode::ReadOnly) {
        return Err(FolderError::Invalid(format!(
            "the folder '{name}' came by a ticket and is only read here: add it without saying how, or with --read-only"
        )));
    }
    Ok(settings.of_ticket())
}

pub(super) fn name_in(known: &[FolderDefinition], folder: FolderId) -> String {
    known.iter().find(|one| one.folder == folder).map_or_else(String::new, |one| one.name.clone())
}

fn own_name(path: &Path) -> Result<String, FolderError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        FolderError::Invalid("the directory's name is no text: give the folder one with --name".into())
    })
}

/// Names are compared as paths are.
fn is_same_name(name: &str, asked: &str) -> bool {
    composed(name) == composed(asked)
}

/// The folder that is meant, if there is one. Whoever owns one that came by a ticket names it as he likes: it is meant only by its id, or
/// by a name that somebody just typed and that no folder of the network has.
fn pick(
    context: &FolderContext,
    known: &[FolderDefinition],
    name: &str,
    order: &FolderOrder,
) -> Result<Option<FolderDefinition>, FolderError> {
    if order.is_new {
        return Ok(None);
    }
    if let Some(found) = known.iter().find(|one| id_of(one.folder) == name.to_ascii_lowercase()) {
        return Ok(Some(found.clone()));
    }
    let called = known.iter().filter(|one| is_same_name(&one.name, name));
    let (ours, foreign): (Vec<_>, Vec<_>) =
        called.partition(|one| context.libraries.foreign(one.folder).is_none());
    let found = match (ours.is_empty(), foreign.is_empty()) {
        (true, false) if order.is_configured => return Ok(None),
        (true, false) if order.name.is_none() => {
            return Err(FolderError::Invalid(format!(
                "a folder '{name}' came by a ticket: with --name '{name}' this directory follows it, with --new it becomes a folder of \
                 your own"
            )));
        }
        (true, _) => foreign,
        (false, _) => ours,
    };
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        several => Err(FolderError::Ambiguous {
            name: name.to_owned(),
            ids: several.iter().map(|one| id_of(one.folder)).collect(),
        }),
    }
}

/// Machines that are configured alike and start before they met make one folder, not one each.
fn new_id(context: &FolderContext, order: &FolderOrder, name: &str) -> FolderId {
    if !order.is_configured {
        return FolderId(rand::random());
    }
    let name = composed(name);
    FolderId(blake3::derive_key(CONFIGURED_CONTEXT, &[&context.network[..], name.as_bytes()].concat()))
}

/// What the network is told of a new folder, by this machine.
async fn definition(
    context: &FolderContext,
    folder: FolderId,
    name: &str,
) -> Result<FolderDefinition, FolderError> {
    let (status, endpoint_id) = (within(context.store.status()).await?, context.endpoint_id);
    let writer = with_rows(context, move |rows| rows.writer(status.id.as_ref(), endpoint_id)).await?;
    let definition = FolderDefinition {
        folder,
        hlc: Hlc::default().next(context.clock.now_ms()),
        writer,
        name: name.to_owned(),
        access: FolderAccess::Everybody,
        by: EntryAuthor::name_from(&context.name),
    };
    definition.validate().map_err(|error| {
        FolderError::Invalid(format!("'{}' is no name for a folder: {error}", crate::text::quoted(name)))
    })?;
    Ok(definition)
}

/// Has the store tell the network of a new folder.
async fn define(context: &FolderContext, definition: FolderDefinition) -> Result<(), FolderError> {
    let failed = |why: String| FolderError::Failed(why);
    let records = vec![FolderRecord::Definition(definition)];
    match within(context.store.take_entries(records, None)).await?.into_iter().next() {
        Some(EntryOutcome::Stored | EntryOutcome::Unchanged) => Ok(()),
        Some(EntryOutcome::Rejected(why)) => Err(failed(why)),
        Some(EntryOutcome::Changed(_)) | None => Err(failed("the store did not take the folder".into())),
    }
}
