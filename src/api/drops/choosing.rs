//! Which contents a command lets go of: those that are held and asked for, and nothing here needs.

use std::collections::HashSet;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::timeout;

use super::DropRefusal;
use crate::api::view::AgentView;
use crate::http::{ApiError, ApiResult};
use crate::library::filter::{Filter, FilterSpec};
use crate::record::{AssetRecord, ContentHash};
use crate::store::{StoreError, StoreRef, StoredRecord};

/// For reading all of the store.
const CHOOSE_WITHIN: Duration = Duration::from_secs(25);
/// Records that are asked for at once.
const PAGE: usize = 1_000;
/// Contents of one command.
const DROPPED_AT_ONCE_MAX: usize = 100_000;
/// How often reading all of the store may begin anew.
const READINGS_MAX: usize = 4;

/// What a user asks for.
#[derive(Debug)]
pub(super) enum ChosenBy {
    Hashes(Vec<ContentHash>),
    Filter {
        filter: Option<Filter>,
        /// Only what nothing here asks for.
        left_over: bool,
    },
}

impl ChosenBy {
    pub(super) fn filter(filter: Option<FilterSpec>, left_over: bool) -> ApiResult<Self> {
        let filter = filter.map(Filter::try_from).transpose().map_err(|error| {
            let hint = "its fields are application, tags, user, mime_prefix and hashes";
            ApiError::bad_request("invalid_drop", error.to_string(), hint)
        })?;
        if filter.as_ref().is_some_and(|filter| filter.folder().is_some()) {
            let hint = "files of folders are let go of once the folder is not bound here any more";
            return Err(ApiError::bad_request(
                "invalid_drop",
                "a folder cannot be let go of like this",
                hint,
            ));
        }
        Ok(Self::Filter { filter, left_over })
    }
}

/// What can go, with sizes, and what stays in any case.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) contents: Vec<(ContentHash, u64)>,
    pub(super) refused: Vec<DropRefusal>,
}

impl Chosen {
    fn refuse(&mut self, hash: ContentHash, explanation: &str) {
        self.refused.push(DropRefusal { hash: hash.to_string(), explanation: explanation.to_owned() });
    }
}

/// Chooses.
///
/// # Errors
/// Too much at once; a store that does not answer; it is not known yet which folders are bound.
pub(super) async fn choose(view: &AgentView, by: ChosenBy) -> ApiResult<Chosen> {
    let chosen = timeout(CHOOSE_WITHIN, all_chosen(view, by)).await;
    let late = || {
        let message = format!("the store was not read within {} s", CHOOSE_WITHIN.as_secs());
        let hint = "name the assets, or try again when the machine has less to do";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message, hint)
    };
    let chosen = chosen.map_err(|_| late())??;
    if chosen.contents.len() > DROPPED_AT_ONCE_MAX {
        let message = format!("{} contents are too many at once", chosen.contents.len());
        let hint = format!("choose fewer by a filter, at most {DROPPED_AT_ONCE_MAX}");
        return Err(ApiError::bad_request("too_many_contents", message, hint));
    }
    Ok(chosen)
}

async fn all_chosen(view: &AgentView, by: ChosenBy) -> ApiResult<Chosen> {
    let rules = view.libraries.hold_rules();
    let mut chosen = Chosen::default();
    let (records, silent) = match by {
        ChosenBy::Hashes(hashes) => (named(&view.store, hashes, &mut chosen).await?, false),
        ChosenBy::Filter { filter, left_over } => {
            let is_meant = |record: &AssetRecord| {
                filter.as_ref().is_none_or(|filter| filter.matches(record))
                    && !(left_over && rules.wants(record))
            };
            (held(&view.store, is_meant).await.map_err(|error| unreadable(&error))?, left_over)
        }
    };
    let mut free = Vec::with_capacity(records.len());
    for record in records {
        if rules.is_pinned(&record) {
            chosen.refuse(record.hash, "it is pinned: take the pin back first, by `can-sync unpin`");
        } else if rules.is_shared(&record) {
            chosen.refuse(record.hash, "it belongs to a library of this node, whose members get it here");
        } else {
            free.push((record.hash, record.size));
        }
    }
    let hashes: Vec<ContentHash> = free.iter().map(|(hash, _)| *hash).collect();
    let in_folders =
        rules.in_bound_folders(&view.store, &hashes).await.map_err(|error| unreadable(&error))?;
    for (hash, size) in free {
        if !in_folders.contains(&hash) {
            chosen.contents.push((hash, size));
        } else if !silent {
            chosen.refuse(hash, "a folder that is bound here has it: `can-sync why` says where");
        }
    }
    Ok(chosen)
}

/// The records of those that are held.
async fn named(
    store: &StoreRef,
    hashes: Vec<ContentHash>,
    chosen: &mut Chosen,
) -> ApiResult<Vec<AssetRecord>> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    let hashes: Vec<ContentHash> = hashes.into_iter().filter(|hash| seen.insert(*hash)).collect();
    for some in hashes.chunks(PAGE) {
        let found = store.records(some.to_vec()).await.map_err(|error| unreadable(&error))?;
        let mut found: std::collections::HashMap<ContentHash, StoredRecord> =
            found.into_iter().map(|stored| (stored.record.hash, stored)).collect();
        for hash in some {
            match found.remove(hash).filter(|stored| !stored.record.deleted) {
                Some(stored) if stored.holding.is_held() => all.push(stored.record),
                Some(_) => chosen.refuse(*hash, "it is not held here"),
                None => chosen.refuse(*hash, "there is no such asset here"),
            }
        }
    }
    Ok(all)
}

/// The records of all contents that are held, and meant.
async fn held(
    store: &StoreRef,
    is_meant: impl Fn(&AssetRecord) -> bool,
) -> Result<Vec<AssetRecord>, StoreError> {
    let (mut all, mut cursor, mut begun) = (Vec::new(), 0, 1);
    loop {
        let page = store.feed(cursor, PAGE).await?;
        match page.entries.last().map(|last| last.seq) {
            Some(last) => {
                cursor = last;
                let held = page.entries.into_iter().filter(|entry| entry.holding.is_held());
                all.extend(
                    held.map(|entry| entry.record).filter(|record| !record.deleted && is_meant(record)),
                );
            }
            None if page.reset && cursor > 0 && begun < READINGS_MAX => {
                (all, cursor, begun) = (Vec::new(), 0, begun + 1);
            }
            None if page.reset && cursor > 0 => {
                return Err(StoreError::io("read all of the store", "its feed began anew again and again"));
            }
            None => break,
        }
    }
    // What changed meanwhile came twice.
    all.sort_unstable_by_key(|record: &AssetRecord| record.hash);
    all.dedup_by_key(|record| record.hash);
    Ok(all)
}

fn unreadable(error: &StoreError) -> ApiError {
    let hint = "GET /status shows the store's health";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string(), hint)
}
