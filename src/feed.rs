//! CanServiceActor: follows the store and tells everyone else what changed.
//!
//! **Owns** the cursor into the store's feed and its tasks: the *follower*, which reads changes as they come, and the
//! *scan*, which now and then compares all of the store with the index.
//! **Talks to** PeersActor (`StoreChanged`, `StoreHealth`) and keeps the indices of all [`Libraries`] up to date before it
//! does.
//!
//! The event stream only wakes the follower; the records themselves always come from the feed, by the cursor, so
//! events and poll cannot let anything fall between them. A store that is down, slow or cuts the stream costs delay
//! and nothing else.
//!
//! **Bounds**: the follower waits until the actor has taken each page, so at most one page of 1,000 records is in the
//! mailbox. **A restart** loses nothing: the indices and their cursor live in [`Libraries`].

mod reading;

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorRef, RpcReplyPort};

use self::reading::{follow, scan};
use crate::actor::ActorResult;
use crate::actor::ServiceRef;
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::entry::EntryHash;
use crate::folder::supervisor::FoldersMsg;
use crate::library::Libraries;
use crate::peer::messages::PeersMsg;
use crate::record::ContentHash;
use crate::store::entries::StoredEntry;
use crate::store::{FeedEntry, StoreError, StoreRef, StoreStatus};

counted!(CanServiceMsg);

#[derive(Debug)]
pub enum CanServiceMsg {
    /// Follower or scan: a page of changes, ascending; answered once it was taken in.
    Page {
        entries: Vec<FeedEntry>,
        folder_records: Vec<StoredEntry>,
        /// Whether it moves the cursor (the follower's) or not (the scan's).
        follows: bool,
        reply: RpcReplyPort<()>,
    },
    /// Follower: it has caught up with the store, whose counts these are, at this number. Also says that the store works.
    CaughtUp { at: u64, status: Box<StoreStatus> },
    /// Follower: the store does not work at the moment.
    StoreFailed(StoreError),
    /// Follower: the store's numbers do not continue ours; everything is read again.
    Reset,
    /// Scan: these are in the index and not in the store.
    Vanished { assets: Vec<ContentHash>, entries: Vec<EntryHash> },
    /// Scan: it could not read all of the store.
    ScanFailed,
    /// Own tasks: one of them panicked, and why.
    TaskFailed(String),
    /// Timer of the actor itself: compare everything now.
    ScanDue,
    /// Status: how things stand.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

#[derive(Clone)]
pub struct CanServiceArgs {
    pub store: StoreRef,
    /// The indices to keep.
    pub libraries: Arc<Libraries>,
    pub peers: ServiceRef<PeersMsg>,
    pub folders: ServiceRef<FoldersMsg>,
    /// Longest time between two looks at the feed.
    pub poll_interval: Duration,
    /// Time between two full comparisons.
    pub full_scan_interval: Duration,
}

pub struct CanServiceState {
    args: CanServiceArgs,
    tasks: Tasks<CanServiceMsg>,
    scanning: bool,
    /// The store was replaced during a scan, which therefore does not count.
    scan_again: bool,
    /// The store was replaced, and is being compared: peers may have what it lost.
    compare_after: bool,
    failure: Option<StoreError>,
    /// The incarnation of PeersActor that knows how the store is.
    told: Option<ActorId>,
}

pub struct CanServiceActor;

impl Actor for CanServiceActor {
    type Msg = CanServiceMsg;
    type State = CanServiceState;
    type Arguments = CanServiceArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<CanServiceMsg>,
        args: CanServiceArgs,
    ) -> ActorResult<CanServiceState> {
        let mut tasks = Tasks::new(myself.clone(), CanServiceMsg::TaskFailed);
        tasks.spawn(follow(myself.clone(), args.clone()));
        myself.send_after(args.full_scan_interval, || CanServiceMsg::ScanDue);
        Ok(CanServiceState {
            args,
            tasks,
            scanning: false,
            failure: None,
            told: None,
            scan_again: false,
            compare_after: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<CanServiceMsg>,
        message: CanServiceMsg,
        state: &mut CanServiceState,
    ) -> ActorResult {
        match message {
            CanServiceMsg::Page { entries, folder_records, follows, reply } => {
                state.on_page(entries, folder_records, follows);
                // A follower that gave up waiting sends the page again; taking it twice does no harm.
                let _ = reply.send(());
            }
            CanServiceMsg::CaughtUp { at, status } => state.on_caught_up(&myself, at, *status),
            CanServiceMsg::StoreFailed(error) => state.on_store_failed(error),
            CanServiceMsg::Reset => state.on_reset(&myself),
            CanServiceMsg::Vanished { assets, entries } => state.on_vanished(&myself, &assets, &entries),
            CanServiceMsg::ScanFailed => state.scanning = false,
            CanServiceMsg::TaskFailed(why) => {
                return Err(format!("a task of the store's follower: {why}").into());
            }
            CanServiceMsg::ScanDue => {
                if !state.scanning {
                    state.start_scan(&myself);
                }
                myself.send_after(state.args.full_scan_interval, || CanServiceMsg::ScanDue);
            }
            CanServiceMsg::GetHealth { reply } => {
                let _ = reply.send(state.detail());
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<CanServiceMsg>, state: &mut CanServiceState) -> ActorResult {
        state.tasks.shutdown().await;
        Ok(())
    }
}

impl CanServiceState {
    fn detail(&self) -> ActorDetail {
        let cursor = *self.args.libraries.cursor().borrow();
        let detail = match (&self.failure, cursor) {
            (Some(error), _) => format!("store: {error}"),
            (None, Some(seq)) => format!("at {seq}"),
            (None, None) => "reading the store for the first time".to_owned(),
        };
        ActorDetail { detail: Some(detail), ..ActorDetail::default() }
    }

    fn on_page(&mut self, entries: Vec<FeedEntry>, folder_records: Vec<StoredEntry>, follows: bool) {
        let (last, last_entry) = (entries.last(), folder_records.last());
        let last = last.map(|entry| entry.seq).max(last_entry.map(|entry| entry.seq));
        let news = |entries: &[FeedEntry], records: &[StoredEntry]| {
            let held = entries.iter().filter(|entry| entry.holding.is_held());
            let contents: Arc<[ContentHash]> = held.map(|entry| entry.record.hash).collect();
            let named = records.iter().map(|entry| (entry.record.folder(), entry.record.hash()));
            (named.collect::<Arc<[_]>>(), contents)
        };
        let all = follows.then(|| news(&entries, &folder_records));
        let changed = self.args.libraries.apply(entries);
        let changed_entries = self.args.libraries.apply_entries(folder_records);
        // Of a comparison with all of the store, folders hear what was not known.
        let (named, contents) = all.unwrap_or_else(|| news(&changed, &changed_entries));
        if !named.is_empty() || !contents.is_empty() {
            // When FoldersActor is down, everything is looked at once it is back.
            let _ = self.args.folders.cast(FoldersMsg::StoreChanged { entries: named, contents });
        }
        if let Some(seq) = last.filter(|_| follows) {
            // Before the store was read once there is none: sessions that began on a part of the index would offer all of
            // the rest.
            if self.args.libraries.cursor().borrow().is_some() {
                self.args.libraries.set_cursor(seq);
            }
        }
        if !changed.is_empty() {
            self.tell(PeersMsg::StoreChanged(changed.into()));
        }
        if !changed_entries.is_empty() {
            self.tell(PeersMsg::EntriesChanged(changed_entries.into()));
        }
    }

    fn on_caught_up(&mut self, myself: &ActorRef<CanServiceMsg>, at: u64, status: StoreStatus) {
        // First the counts: those who wait until the store was read look at them.
        self.args.libraries.set_store_status(status);
        // The store's last number is that of no change where it was opened since, or its last change was purged.
        if *self.args.libraries.cursor().borrow() != Some(at) {
            self.args.libraries.set_cursor(at);
        }
        if let Some(error) = self.failure.take() {
            tracing::info!(was = %error, "the store works again");
            self.told = None;
        }
        self.tell_health();
        // A comparison that is owed and failed is made once the store works.
        if (self.compare_after || self.scan_again) && !self.scanning {
            self.scan_again = false;
            self.start_scan(myself);
        }
    }

    fn on_store_failed(&mut self, error: StoreError) {
        if self.failure.as_ref() != Some(&error) {
            tracing::warn!(%error, "the store does not work; sync waits for it");
            self.failure = Some(error);
            self.told = None;
        }
        self.tell_health();
    }

    /// Tells PeersActor how the store is, unless this incarnation of it knows. Asked again with every look at the store.
    fn tell_health(&mut self) {
        let Some(peers) = self.args.peers.get() else { return };
        let health = PeersMsg::StoreHealth(self.failure.as_ref().map(ToString::to_string));
        if self.told != Some(peers.get_id()) && peers.send_message(health).is_ok() {
            self.told = Some(peers.get_id());
        }
    }

    fn on_reset(&mut self, myself: &ActorRef<CanServiceMsg>) {
        tracing::warn!(
            "the store is not the one that it was, or was set back (restored from a backup): reading all of it again"
        );
        if self.args.libraries.cursor().borrow().is_some() {
            self.args.libraries.set_cursor(0);
        }
        self.compare_after = true;
        self.start_scan(myself);
    }

    fn on_vanished(
        &mut self,
        myself: &ActorRef<CanServiceMsg>,
        hashes: &[ContentHash],
        entries: &[EntryHash],
    ) {
        self.scanning = false;
        if std::mem::take(&mut self.scan_again) {
            return self.start_scan(myself);
        }
        if !hashes.is_empty() {
            tracing::warn!(records = hashes.len(), "the store no longer has records that it had");
            self.args.libraries.remove(hashes);
        }
        if !entries.is_empty() {
            tracing::warn!(entries = entries.len(), "the store no longer has entries of folders that it had");
            self.args.libraries.remove_entries(entries);
        }
        // They take us to have what we had.
        if std::mem::take(&mut self.compare_after) || !hashes.is_empty() || !entries.is_empty() {
            self.tell(PeersMsg::Verify);
        }
    }

    fn start_scan(&mut self, myself: &ActorRef<CanServiceMsg>) {
        if self.scanning {
            self.scan_again = true;
        } else {
            self.scanning = true;
            let scan = scan(myself.clone(), self.args.clone());
            self.tasks.spawn(scan);
        }
    }

    fn tell(&self, message: PeersMsg) {
        // When PeersActor is down it will reconcile every session from the index once it is back.
        if let Err(error) = self.args.peers.cast(message) {
            tracing::debug!(%error, "peers are not told of a change of the store");
        }
    }
}
