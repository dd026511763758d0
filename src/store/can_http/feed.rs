//! The feed of a CAN Service.

use reqwest::Method;

use super::CanHttpStore;
use crate::record::AssetRecord;
use crate::store::entries::StoredEntry;
use crate::store::sync_wire::{BATCH_MAX, FEED_END, FEED_ENTRIES, FEED_RESET, STORE_ID};
use crate::store::{FeedEntry, FeedPage, StoreResult, StoredRecord};
use crate::wire::proto::WireFeedEntry;

/// Questions for one page of the feed, where what comes has to be passed over.
const FEED_ROUNDS_MAX: usize = 64;

impl CanHttpStore {
    /// A page of the feed. Entries of folders that are none by our rules are passed over, and the page is filled up with what follows.
    pub(super) async fn read_feed(
        &self,
        since: u64,
        limit: usize,
        with_entries: bool,
    ) -> StoreResult<FeedPage> {
        let limit = limit.clamp(1, BATCH_MAX);
        let (mut page, mut last) = (FeedPage::default(), since);
        for _ in 0..FEED_ROUNDS_MAX {
            let mut request = self.request(Method::GET, &format!("sync/feed?since={last}&limit={limit}"));
            if with_entries {
                // One that knows none takes no notice.
                request = request.header(FEED_ENTRIES, "true");
            }
            let response = self.send(request, None).await?;
            let end = response.headers().get(FEED_END).and_then(|end| end.to_str().ok()?.parse().ok());
            let store = response.headers().get(STORE_ID).and_then(|id| id.to_str().ok()?.parse().ok());
            if response.headers().get(FEED_RESET).is_some_and(|value| value == "true") {
                return Ok(FeedPage { reset: true, store, ..FeedPage::default() });
            }
            if last > since && store != page.store {
                // Another store took its place meanwhile.
                return Ok(FeedPage { reset: true, store, ..FeedPage::default() });
            }
            (page.end, page.store) = (end.unwrap_or(0), store);
            let messages = self.messages::<WireFeedEntry>(response, limit).await?;
            let is_full = messages.len() == limit;
            for message in messages {
                if page.len() == limit {
                    page.end = last;
                    return Ok(page);
                }
                if message.seq <= last {
                    return Err(self.garbled(&format!("number {} follows {last} in its feed", message.seq)));
                }
                last = message.seq;
                self.add_to_page(message, with_entries, &mut page)?;
            }
            if !is_full || page.len() == limit {
                return Ok(page);
            }
        }
        // Nothing but entries that cannot be read: whoever follows goes on behind them.
        page.end = last;
        Ok(page)
    }

    fn add_to_page(&self, message: WireFeedEntry, with_entries: bool, page: &mut FeedPage) -> StoreResult {
        let WireFeedEntry { seq, record, holding, formers, entry } = message;
        if let Some(entry) = entry.filter(|_| with_entries) {
            page.folder_records.extend(self.entry(entry).map(|record| StoredEntry { seq, record }));
            return Ok(());
        }
        let StoredRecord { record, holding } = self.stored(record, holding)?;
        let formers = formers.into_iter().map(|former| self.record(former));
        let mut formers = formers.collect::<Result<Vec<AssetRecord>, _>>()?;
        formers.retain(|former| former.hash == record.hash);
        page.entries.push(FeedEntry { seq, record, holding, formers });
        Ok(())
    }
}
