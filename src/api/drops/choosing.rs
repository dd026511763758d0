//! Which contents a command lets go of: those that are held and asked for, and nothing here needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::timeout;

use super::{DropRefusal, TOLD_MAX};
use crate::api::view::AgentView;
use crate::http::{ApiError, ApiResult};
use crate::library::filter::{Filter, FilterSpec};
use crate::library::hold::HoldRules;
use crate::record::{AssetRecord, ContentHash};
use crate::store::{FeedEntry, StoreError, StoreRef, StoredRecord};

/// For reading all of the store.
const CHOOSE_WITHIN: Duration = Duration::from_secs(25);
/// Records that are asked for at once.
const PAGE: usize = 1_000;
/// Contents of one command.
const CHOSEN_MAX: usize = 100_000;
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

/// What can go, and what stays in any case. It is as large as one command may be, whatever the store has.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// With their sizes.
    pub(super) contents: BTreeMap<ContentHash, u64>,
    /// How many are not held here anyway.
    pub(super) absent: u64,
    /// Some of those.
    pub(super) absent_hashes: Vec<String>,
    /// How many stay.
    pub(super) refused: u64,
    /// Some of those, and why.
    pub(super) refusals: Vec<DropRefusal>,
    /// Those that were refused, so that none counts twice, as long as there are not too many.
    told: HashSet<ContentHash>,
}

/// There is more to let go of than one command takes.
#[derive(Debug)]
struct TooManyContents;

impl Chosen {
    fn refuse(&mut self, hash: ContentHash, explanation: &str) {
        if self.told.contains(&hash) {
            return;
        }
        if self.told.len() < CHOSEN_MAX {
            self.told.insert(hash);
        }
        self.refused += 1;
        if self.refusals.len() < TOLD_MAX {
            let explanation = explanation.to_owned();
            self.refusals.push(DropRefusal { hash: hash.to_string(), explanation });
        }
    }

    fn pass_over(&mut self, hash: ContentHash) {
        self.absent += 1;
        if self.absent_hashes.len() < TOLD_MAX {
            self.absent_hashes.push(hash.to_string());
        }
    }

    fn choose(&mut self, hash: ContentHash, size: u64) -> Result<(), TooManyContents> {
        if self.contents.len() >= CHOSEN_MAX && !self.contents.contains_key(&hash) {
            return Err(TooManyContents);
        }
        self.contents.insert(hash, size);
        Ok(())
    }
}

/// Chooses.
///
/// # Errors
/// Too much at once; a store that does not answer; it is not known yet which folders are bound.
pub(super) async fn choose(view: &AgentView, by: ChosenBy) -> ApiResult<Chosen> {
    let (store, libraries) = (&view.store, &view.libraries);
    let mut choosing = Choosing { store, rules: libraries.hold_rules(), chosen: Chosen::default() };
    let choose = async {
        match by {
            ChosenBy::Hashes(hashes) => choosing.named(hashes).await,
            ChosenBy::Filter { filter, left_over } => choosing.held(filter.as_ref(), left_over).await,
        }
    };
    let late = || {
        let message = format!("the store was not read within {} s", CHOOSE_WITHIN.as_secs());
        let hint = "name the assets, or try again when the machine has less to do";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message, hint)
    };
    timeout(CHOOSE_WITHIN, choose).await.map_err(|_| late())??;
    Ok(choosing.chosen)
}

struct Choosing<'a> {
    store: &'a StoreRef,
    rules: &'a HoldRules,
    chosen: Chosen,
}

impl Choosing<'_> {
    /// Among the contents that have these names.
    async fn named(&mut self, hashes: Vec<ContentHash>) -> ApiResult<()> {
        let hashes: Vec<ContentHash> = hashes.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        for some in hashes.chunks(PAGE) {
            let found = self.store.records(some.to_vec()).await.map_err(|error| unreadable(&error))?;
            let mut found: HashMap<ContentHash, StoredRecord> =
                found.into_iter().map(|stored| (stored.record.hash, stored)).collect();
            let mut records = Vec::new();
            for hash in some {
                match found.remove(hash).filter(|stored| !stored.record.deleted) {
                    Some(stored) if stored.holding.is_held() => records.push(stored.record),
                    Some(_) => self.chosen.pass_over(*hash),
                    None => self.chosen.refuse(*hash, "there is no such asset here"),
                }
            }
            self.judge(&records, false).await?;
        }
        Ok(())
    }

    /// Among all contents that are held, a page at a time.
    async fn held(&mut self, filter: Option<&Filter>, left_over: bool) -> ApiResult<()> {
        let (mut cursor, mut begun) = (0, 1);
        loop {
            let page = self.store.feed(cursor, PAGE).await.map_err(|error| unreadable(&error))?;
            match page.entries.last().map(|last| last.seq) {
                Some(last) => cursor = last,
                None if page.reset && cursor > 0 && begun < READINGS_MAX => {
                    (cursor, begun) = (0, begun + 1);
                    self.chosen = Chosen::default();
                    continue;
                }
                None if page.reset && cursor > 0 => {
                    let why = "its feed began anew again and again";
                    return Err(unreadable(&StoreError::io("read all of the store", why)));
                }
                None => return Ok(()),
            }
            let is_meant = |record: &AssetRecord| {
                filter.is_none_or(|filter| filter.matches(record)) && !(left_over && self.rules.wants(record))
            };
            let mut records = Vec::new();
            for FeedEntry { record, holding, .. } in page.entries {
                // What changed meanwhile comes twice.
                self.chosen.contents.remove(&record.hash);
                if holding.is_held() && !record.deleted && is_meant(&record) {
                    records.push(record);
                }
            }
            self.judge(&records, left_over).await?;
        }
    }

    /// Chooses among contents that are meant; without a word of those in folders, where it is `silent`.
    async fn judge(&mut self, records: &[AssetRecord], silent: bool) -> ApiResult<()> {
        let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
        let in_folders = self.rules.in_bound_folders(self.store, &hashes).await;
        let in_folders = in_folders.map_err(|error| unreadable(&error))?;
        for record in records {
            let hash = record.hash;
            if self.rules.is_pinned(record) {
                self.chosen.refuse(hash, "it is pinned: take the pin back first, by `can-sync unpin`");
            } else if self.rules.is_shared(record) {
                let why = "it belongs to a library of this node, whose members get it here";
                self.chosen.refuse(hash, why);
            } else if !in_folders.contains(&hash) {
                self.chosen.choose(hash, record.size).map_err(|TooManyContents| too_many())?;
            } else if !silent {
                self.chosen.refuse(hash, "a folder that is bound here has it: `can-sync why` says where");
            }
        }
        Ok(())
    }
}

fn too_many() -> ApiError {
    let message = format!("more than {CHOSEN_MAX} contents are too many at once");
    let hint = "choose fewer by a filter, or by name";
    ApiError::bad_request("too_many_contents", message, hint)
}

fn unreadable(error: &StoreError) -> ApiError {
    let hint = "GET /status shows the store's health";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> ContentHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        ContentHash(bytes)
    }

    #[test]
    fn what_is_chosen_is_no_larger_than_a_command_however_much_there_is() {
        let mut chosen = Chosen::default();
        for n in 0..CHOSEN_MAX {
            chosen.choose(hash(n), 1).expect("there is room");
        }
        assert!(chosen.choose(hash(0), 1).is_ok(), "it is chosen already");
        assert!(chosen.choose(hash(CHOSEN_MAX), 1).is_err());
        assert_eq!(chosen.contents.len(), CHOSEN_MAX);
        let all = CHOSEN_MAX as u64 + 50_000;
        for n in 0..CHOSEN_MAX + 50_000 {
            chosen.refuse(hash(n), "why");
        }
        chosen.refuse(hash(1), "it changed meanwhile");
        assert_eq!((chosen.refused, chosen.refusals.len()), (all, TOLD_MAX));
        assert_eq!(chosen.told.len(), CHOSEN_MAX);
    }
}
