//! Records of folders between a session and the store.

use std::sync::Arc;

use tokio::time::sleep;

use super::{Reporter, STORE_RETRY};
use crate::clock::Clock;
use crate::entry::{EntryHash, FolderRecord};
use crate::library::Library;
use crate::peer::session::{EntryNews, SessionInput};
use crate::record::{HLC_AHEAD_BY_TICKET_MAX_MS, HLC_AHEAD_MAX_MS};
use crate::store::entries::EntryOutcome;
use crate::store::{StoreError, StoreRef, StoreResult};

/// Why an entry is not taken that the library does not have.
const OTHER_FOLDER: &str = "it is of a folder that is not shared here";

/// Has the store merge what the peer offered, but for what is dated too far ahead of our clock.
pub(in crate::peer) async fn take_entries(
    report: Reporter,
    store: StoreRef,
    library: Arc<Library>,
    clock: Clock,
    offered: Vec<FolderRecord>,
) {
    let now_ms = clock.now_ms();
    let (mut due, mut later) = (Vec::with_capacity(offered.len()), Vec::new());
    let (mut settled, mut failed) = (Vec::new(), Vec::new());
    let ahead_max_ms = if library.is_mirror() { HLC_AHEAD_MAX_MS } else { HLC_AHEAD_BY_TICKET_MAX_MS };
    for record in offered {
        // A member that shares one folder writes into no other, and what came by ticket is not our own machines' to change.
        if !library.has_folder(record.folder()) {
            if library.is_mirror() {
                // Nothing to wait for: here it comes by the ticket.
                settled.push(record.hash());
            } else {
                failed.push((record.hash(), OTHER_FOLDER.to_owned()));
            }
            continue;
        }
        match record.hlc().is_due_in(now_ms, ahead_max_ms) {
            Some(wait_ms) => later.push((record, wait_ms)),
            None => due.push(record),
        }
    }
    let hashes: Vec<EntryHash> = due.iter().map(FolderRecord::hash).collect();
    let taken = if due.is_empty() {
        Ok(Vec::new())
    } else {
        take(due, |records| store.take_entries(records, library.id())).await
    };
    match taken {
        Ok(outcomes) => {
            for (hash, outcome) in hashes.into_iter().zip(outcomes) {
                match outcome {
                    EntryOutcome::Stored | EntryOutcome::Unchanged => settled.push(hash),
                    EntryOutcome::Rejected(reason) => failed.push((hash, reason)),
                    EntryOutcome::Changed(_) => {
                        failed.push((hash, "the store took it for a version of its own".into()));
                    }
                }
            }
        }
        Err(error) => failed.extend(hashes.into_iter().map(|hash| (hash, error.to_string()))),
    }
    report.report(SessionInput::Entries(EntryNews::Taken { settled, failed, later }));
}

/// Has the store take these. What it refuses to look at together it is given one by one.
async fn take<F: Future<Output = StoreResult<Vec<EntryOutcome>>>>(
    due: Vec<FolderRecord>,
    mut take: impl FnMut(Vec<FolderRecord>) -> F,
) -> StoreResult<Vec<EntryOutcome>> {
    let invalid = match until_it_is_said(|| take(due.clone())).await {
        Err(StoreError::Invalid(why)) => why,
        answer => return answer,
    };
    if due.len() == 1 {
        return Ok(vec![EntryOutcome::Rejected(invalid)]);
    }
    let mut outcomes = Vec::with_capacity(due.len());
    for record in due {
        outcomes.push(match until_it_is_said(|| take(vec![record.clone()])).await {
            Ok(mut outcome) => outcome.pop().unwrap_or(EntryOutcome::Rejected(invalid.clone())),
            Err(StoreError::Invalid(why)) => EntryOutcome::Rejected(why),
            Err(error) => return Err(error),
        });
    }
    Ok(outcomes)
}

/// Loads what is to be offered. Of a store that cannot say, nothing is.
pub(in crate::peer) async fn load_entries(
    report: Reporter,
    store: StoreRef,
    library: Arc<Library>,
    hashes: Vec<EntryHash>,
) {
    let records = match until_it_is_said(|| store.entries_named(hashes.clone())).await {
        Ok(mut records) => {
            records.retain(|record| library.has_folder(record.folder()));
            records
        }
        Err(error) => {
            tracing::warn!(%error, "entries of folders are not offered");
            Vec::new()
        }
    };
    report.report(SessionInput::Entries(EntryNews::Loaded(records)));
}

/// Asks the store until it answers, or says what it will say for ever.
async fn until_it_is_said<T, F: Future<Output = StoreResult<T>>>(
    mut call: impl FnMut() -> F,
) -> StoreResult<T> {
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(
                error @ (StoreError::Unsupported { .. } | StoreError::NoFolders | StoreError::Invalid(_)),
            ) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "the store does not work; asking again");
                sleep(STORE_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;
    use crate::entry::{EntryAuthor, EntryPath, EntryRecord, FolderId};
    use crate::record::{Hlc, WriterId};

    fn named(path: &str) -> FolderRecord {
        let author = EntryAuthor { writer: WriterId([1; 32]), by: String::new(), now_ms: 1 };
        let path = EntryPath::parse(path).unwrap();
        FolderRecord::Entry(EntryRecord::after(None, (FolderId([1; 32]), &path), None, &author, Hlc(0)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_store_will_say_for_ever_is_asked_once() {
        let mut asked = 0;
        for error in [
            StoreError::NoFolders,
            StoreError::Unsupported { url: String::new(), what: "keep folders" },
            StoreError::Invalid("no".into()),
        ] {
            let answer: Result<(), _> = until_it_is_said(|| {
                asked += 1;
                ready(Err(error.clone()))
            })
            .await;
            assert_eq!(answer, Err(error));
        }
        assert_eq!(asked, 3);
        // A store that is down is asked again.
        let mut answers =
            vec![Ok(7), Err(StoreError::Unavailable { url: String::new(), reason: String::new() })];
        assert_eq!(until_it_is_said(|| ready(answers.pop().unwrap())).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_together_is_given_one_by_one() {
        let call = |records: Vec<FolderRecord>| {
            let bad = records.iter().any(|record| record.path() == "bad");
            let answer = || Ok(vec![EntryOutcome::Stored; records.len()]);
            ready(if bad { Err(StoreError::Invalid("a rule".into())) } else { answer() })
        };
        let outcomes = take(["a", "bad", "b"].map(named).to_vec(), call).await;
        let rejected = EntryOutcome::Rejected("a rule".into());
        assert_eq!(outcomes, Ok(vec![EntryOutcome::Stored, rejected.clone(), EntryOutcome::Stored]));
        assert_eq!(take(vec![named("bad")], call).await, Ok(vec![rejected]));
    }
}
