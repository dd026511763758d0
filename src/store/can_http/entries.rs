//! Folders of a CAN Service. One that knows none is told apart, and named in the error.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response};

use super::answer::check;
use super::{CanHttpStore, READ_TIMEOUT, body_of, concat, in_order, is_unknown_path, screened, upload};
use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::record::{ContentHash, LibraryId};
use crate::store::entries::{
    EntryOutcome, EntryPage, EntryPut, EntryQuery, FolderClaim, HistoryPlace, PLACES_MAX,
};
use crate::store::sync_wire::{BATCH_MAX, NEXT_CURSOR, entry_outcome_of, history_cursor};
use crate::store::{StoreError, StoreResult};
use crate::text::quoted;
use crate::wire::proto::{EntryResult, ForeignFolder, PutEntry, RecordError, WireEntry};

const FOREIGN: &str = "sync/entries/foreign";
/// Most folders that a service may say came by tickets.
const FOREIGN_MAX: usize = 100_000;

impl CanHttpStore {
    /// What the service keeps as an entry; `None` for what is none by our rules, as a newer or older program may have let it in: that
    /// must not keep all others from being read.
    pub(super) fn entry(&self, wire: WireEntry) -> Option<FolderRecord> {
        let path = wire.path.clone();
        wire.try_into()
            .inspect_err(|error: &RecordError| {
                tracing::warn!(url = self.url(), path = %quoted(&path), %error, "an entry of a folder is passed over");
            })
            .ok()
    }

    pub(super) async fn list_entries(&self, query: EntryQuery) -> StoreResult<EntryPage> {
        let EntryQuery { folder, prefix, cursor, limit } = query;
        let limit = limit.clamp(1, BATCH_MAX);
        let folder = folder.map(|FolderId(id)| ("folder", data_encoding::HEXLOWER.encode(&id)));
        let prefix = Some(("prefix", prefix)).filter(|(_, prefix)| !prefix.is_empty());
        let cursor = cursor.map(|cursor| ("cursor", cursor));
        let given: Vec<(&str, String)> = [folder, prefix, cursor].into_iter().flatten().collect();
        let request = self.request(Method::GET, "sync/entries").query(&given).query(&[("limit", limit)]);
        let response = self.ask_about_entries(request, READ_TIMEOUT).await?;
        let next = response.headers().get(NEXT_CURSOR).map(|cursor| cursor.to_str().map(str::to_owned));
        let next_cursor = next.transpose().map_err(|error| self.garbled(&error))?;
        Ok(EntryPage { records: self.entries_in(response, limit).await?, next_cursor })
    }

    pub(super) async fn find_entries(&self, hashes: Vec<EntryHash>) -> StoreResult<Vec<FolderRecord>> {
        check_count(hashes.len())?;
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let request = self.post("sync/entries/query", concat(hashes.iter().map(|hash| &hash.0)));
        let response = self.ask_about_entries(request, READ_TIMEOUT).await?;
        self.entries_in(response, hashes.len()).await
    }

    pub(super) async fn find_entries_with(
        &self,
        contents: Vec<ContentHash>,
    ) -> StoreResult<Vec<FolderRecord>> {
        check_count(contents.len())?;
        if contents.is_empty() {
            return Ok(Vec::new());
        }
        let request = self.post("sync/entries/with", concat(contents.iter().map(|hash| &hash.0)));
        match self.ask_about_entries(request, READ_TIMEOUT).await {
            // An older service does not look by content.
            Err(StoreError::Unsupported { .. }) => Ok(Vec::new()),
            response => self.entries_in(response?, PLACES_MAX).await,
        }
    }

    pub(super) async fn read_entry_history(
        &self,
        FolderId(folder): FolderId,
        path: &str,
        before: Option<HistoryPlace>,
    ) -> StoreResult<Vec<FolderRecord>> {
        let folder = data_encoding::HEXLOWER.encode(&folder);
        let request = self.request(Method::GET, "sync/entries/history");
        let before = before.map(|before| [("before", history_cursor(before))]);
        let request =
            request.query(&[("folder", folder.as_str()), ("path", path)]).query(&before.as_slice().concat());
        let response = self.ask_about_entries(request, READ_TIMEOUT).await?;
        self.entries_in(response, BATCH_MAX).await
    }

    pub(super) async fn send_puts(&self, puts: Vec<EntryPut>) -> StoreResult<Vec<EntryOutcome>> {
        let message = |EntryPut { record, expects }: &EntryPut| PutEntry {
            entry: Some(record.into()),
            expects: expects.map(|digest| Bytes::copy_from_slice(&digest.0)),
        };
        check_count(puts.len())?;
        let (puts, rejected) = screened(puts, |put| broken(&put.record));
        let hashes: Vec<EntryHash> = puts.iter().map(|put| put.record.hash()).collect();
        let body = body_of(puts.iter().map(message));
        Ok(in_order(rejected, self.change_entries("sync/entries", body, &hashes).await?))
    }

    pub(super) async fn send_entries(
        &self,
        records: Vec<FolderRecord>,
        through: Option<LibraryId>,
    ) -> StoreResult<Vec<EntryOutcome>> {
        check_count(records.len())?;
        let (records, rejected) = screened(records, broken);
        let body = body_of(records.iter().map(WireEntry::from));
        let hashes: Vec<EntryHash> = records.iter().map(FolderRecord::hash).collect();
        let through = through.map(|LibraryId(id)| data_encoding::HEXLOWER.encode(&id));
        let path = match &through {
            Some(library) => &format!("sync/entries/take?through={library}"),
            None => "sync/entries/take",
        };
        Ok(in_order(rejected, self.change_entries(path, body, &hashes).await?))
    }

    /// An older service has none.
    pub(super) async fn list_foreign(&self) -> StoreResult<Vec<(FolderId, LibraryId)>> {
        let request = self.request(Method::GET, FOREIGN);
        let response = match self.ask_about_entries(request, READ_TIMEOUT).await {
            Err(StoreError::Unsupported { .. }) => return Ok(Vec::new()),
            response => response?,
        };
        let all = self.messages::<ForeignFolder>(response, FOREIGN_MAX).await?.into_iter();
        all.map(|folder| {
            let (folder, library) = self.foreign(&folder)?;
            Ok((folder, library.ok_or_else(|| self.garbled(&"a library is missing in it"))?))
        })
        .collect()
    }

    pub(super) async fn claim(&self, folder: FolderId, library: LibraryId) -> StoreResult<FolderClaim> {
        let request = self.request(Method::PUT, FOREIGN).query(&both(folder, library));
        let response = self.ask_about_entries(request, upload::COMMIT_TIMEOUT).await?;
        let answer = self.messages::<ForeignFolder>(response, 1).await?.pop();
        let answer = answer.ok_or_else(|| self.garbled(&"it does not say what became of a folder"))?;
        match self.foreign(&answer)? {
            (about, _) if about != folder => Err(self.garbled(&"it speaks of another folder")),
            (_, None) => Ok(FolderClaim::Here),
            (_, Some(source)) if source == library => Ok(FolderClaim::Claimed),
            (_, Some(source)) => Ok(FolderClaim::Elsewhere(source)),
        }
    }

    pub(super) async fn forget_folder(&self, folder: FolderId, library: LibraryId) -> StoreResult {
        let request = self.request(Method::DELETE, FOREIGN).query(&both(folder, library));
        match self.ask_about_entries(request, upload::COMMIT_TIMEOUT).await {
            // It has none.
            Err(StoreError::Unsupported { .. }) => Ok(()),
            answer => answer.map(drop),
        }
    }

    fn foreign(&self, message: &ForeignFolder) -> StoreResult<(FolderId, Option<LibraryId>)> {
        let id = |bytes: &Bytes| <[u8; 32]>::try_from(&bytes[..]).map_err(|error| self.garbled(&error));
        let library = Some(&message.library).filter(|library| !library.is_empty()).map(id).transpose()?;
        Ok((FolderId(id(&message.folder)?), library.map(LibraryId)))
    }

    async fn change_entries(
        &self,
        path: &str,
        body: Vec<u8>,
        hashes: &[EntryHash],
    ) -> StoreResult<Vec<EntryOutcome>> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let response = self.ask_about_entries(self.post(path, body), upload::COMMIT_TIMEOUT).await?;
        let hashes = hashes.iter().map(|hash| hash.0);
        let results = self.results(response, hashes, |result: &EntryResult| &result.hash).await?;
        let outcome = |result| entry_outcome_of(result).map_err(|error| self.garbled(&error));
        results.into_iter().map(outcome).collect()
    }

    async fn entries_in(&self, response: Response, max: usize) -> StoreResult<Vec<FolderRecord>> {
        let messages = self.messages::<WireEntry>(response, max).await?;
        Ok(messages.into_iter().filter_map(|wire| self.entry(wire)).collect())
    }

    /// A service without entries has no such paths.
    async fn ask_about_entries(&self, request: RequestBuilder, limit: Duration) -> StoreResult<Response> {
        let response = self.answer(request, limit).await?;
        if is_unknown_path(&response) {
            return Err(StoreError::Unsupported { url: self.url().to_owned(), what: "keep folders" });
        }
        check(self.url(), response, None).await
    }
}

fn both(FolderId(folder): FolderId, LibraryId(library): LibraryId) -> [(&'static str, String); 2] {
    let hex = |id: [u8; 32]| data_encoding::HEXLOWER.encode(&id);
    [("folder", hex(folder)), ("library", hex(library))]
}

fn broken(record: &FolderRecord) -> Option<EntryOutcome> {
    record.validate().err().map(|rule| EntryOutcome::Rejected(rule.to_string()))
}

fn check_count(count: usize) -> StoreResult {
    if count > BATCH_MAX {
        return Err(StoreError::Invalid(format!("at most {BATCH_MAX} records can be named at once")));
    }
    Ok(())
}
