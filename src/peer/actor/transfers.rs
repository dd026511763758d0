//! PeerActor's part in transfers: what it asks the peer for, what came of that, and what the peer asks for.

use std::ops::Range;
use std::sync::Arc;

use super::{CONTENTS_PER_WANT_MAX, PeerState, RANGES_PER_WANT_MAX, SERVED_MAX, Served};
use crate::net::close;
use crate::peer::effects;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::session::SessionInput;
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::groups::GroupSum;
use crate::transfer::receive::{self, Left, PartOf, Results};
use crate::transfer::schedule::{FetchFailure, SMALL_BYTES_MAX, WantKey};
use crate::transfer::send::Sender;
use crate::wire::proto::{Cancel, ContentRequest, Want, frame};
use ractor::ActorRef;
use tokio::time::Instant;

impl PeerState {
    pub(super) fn on_fetch(
        &mut self,
        myself: &ActorRef<PeerMsg>,
        request: u64,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    ) {
        let Some(running) = &self.running else { return };
        // What finds no room is not asked for.
        let room = |record: &AssetRecord| receive::check_room(&self.args.replica.store, record.size);
        let refused: Results = records
            .iter()
            .filter(|record| record.size > SMALL_BYTES_MAX)
            .filter_map(|record| Some((WantKey::new(library, record), Err(room(record).err()?))))
            .collect();
        let wanted = |record: &AssetRecord| refused.iter().all(|(key, _)| key.hash != record.hash);
        let records: Vec<AssetRecord> = records.into_iter().filter(wanted).collect();
        if !records.is_empty() {
            running.expected.add(request, library, records.clone(), Instant::now());
            self.step(myself, 0, SessionInput::Fetch { request, records });
        }
        if !refused.is_empty() {
            self.on_received(refused);
        }
    }

    /// Asks for a part of a large content, as far as it is not here: an earlier life, or another peer, may have brought
    /// some of it.
    pub(super) fn on_fetch_part(
        &mut self,
        request: u64,
        key: WantKey,
        root: Option<GroupSum>,
        range: Range<u64>,
    ) {
        let Some(running) = &self.running else { return };
        let mut ranges = self.args.replica.partials.missing(&key, root, range);
        if ranges.is_empty() {
            return self.on_part_received(request, key, Ok(()));
        }
        if let Err(failure) =
            receive::check_room_for_parts(&self.args.replica.store, &self.args.replica.partials, &key)
        {
            return self.on_part_received(request, key, Err(failure));
        }
        if let ([first, .., last], true) = (&ranges[..], ranges.len() > RANGES_PER_WANT_MAX) {
            // What is here already comes once more, and is left as it is.
            let whole = first.start..last.end;
            ranges = Vec::from([whole]);
        }
        let content = |range: &Range<u64>| ContentRequest {
            hash: key.hash.0.to_vec().into(),
            offset: range.start,
            length: range.end - range.start,
            proved: root.is_some(),
        };
        let want = Want { request, contents: ranges.iter().map(content).collect() };
        running.expected.add_part(request, PartOf { key, root, ranges }, Instant::now());
        self.send(frame::Kind::Want(want));
    }

    pub(super) fn on_revoke(&mut self, request: u64) {
        let Some(running) = &self.running else { return };
        running.expected.revoke(request);
        self.send(frame::Kind::Cancel(Cancel { request }));
    }

    /// Contents are here; each library's members hear of what is here for it.
    pub(super) fn on_settled(&mut self, myself: &ActorRef<PeerMsg>, keys: &[WantKey]) {
        let now = Instant::now();
        for lane in self.running.iter_mut().flat_map(|running| &mut running.lanes) {
            let library = lane.library.id();
            let theirs = keys.iter().filter(|key| key.library == library);
            for key in theirs {
                lane.wishes.came(&key.hash, now);
            }
        }
        self.step_all(myself, |lane| {
            let theirs = keys.iter().filter(|key| key.library == lane.library.id());
            let hashes: Vec<ContentHash> = theirs.map(|key| key.hash).collect();
            (!hashes.is_empty()).then_some(SessionInput::Settled(hashes))
        });
    }

    pub(super) fn on_received(&mut self, results: Results) {
        let peer = self.args.connection.remote_id();
        effects::publish_results(&self.args.events, peer, &results);
        self.tell(PeersMsg::Finished { session: self.args.session, results });
    }

    pub(super) fn on_part_received(&mut self, request: u64, key: WantKey, result: Result<(), FetchFailure>) {
        // Of who only cannot prove what it has, the whole can be had.
        if let Some(failure) =
            result.as_ref().err().filter(|failure| !matches!(failure, FetchFailure::NoProof(_)))
        {
            let results = vec![(key, Err(failure.clone()))];
            effects::publish_results(&self.args.events, self.args.connection.remote_id(), &results);
        }
        self.tell(PeersMsg::PartFinished { session: self.args.session, request, key, result });
    }

    /// The bulk connection broke that contents came on. What had begun to come says so itself; of the rest nobody knows whether it
    /// was on its way, so it is asked for anew.
    pub(super) fn on_bulk_lost(&mut self, epoch: u64, failure: &FetchFailure) {
        let Some(running) = self.running.as_ref().filter(|running| running.epoch == epoch) else { return };
        let lost = running.expected.take_unbegun();
        self.give_up(lost, failure);
    }

    /// Requests that are not expected to be answered any more, for this reason.
    pub(super) fn give_up(&mut self, requests: Vec<(u64, Left)>, failure: &FetchFailure) {
        for (request, left) in requests {
            match left {
                Left::Assets(keys) => {
                    self.on_received(keys.into_iter().map(|key| (key, Err(failure.clone()))).collect());
                }
                Left::Part(key) => self.on_part_received(request, key, Err(failure.clone())),
                Left::Nothing => {}
            }
            self.send(frame::Kind::Cancel(Cancel { request }));
        }
    }

    pub(super) fn serve(&mut self, want: Want) {
        let Some(running) = &mut self.running else { return };
        running.serving.retain(|_, served| !served.task.is_finished());
        // An empty request counts, too.
        let contents = want.contents.len().max(1);
        let waiting: usize = running.serving.values().map(|served| served.contents).sum();
        let too_much = contents > CONTENTS_PER_WANT_MAX
            || waiting + contents > SERVED_MAX
            // A number in use would hide the task that it stands for.
            || running.serving.contains_key(&want.request);
        if too_much {
            return self.close(close::VIOLATION, "more content asked for than may be at once");
        }
        let mirrored = running.lanes.iter().any(|lane| lane.library.is_mirror());
        let within =
            (!mirrored).then(|| running.lanes.iter().map(|lane| Arc::clone(&lane.library)).collect());
        let sender = Sender {
            carrier: running.bulk.carrier(),
            streams: running.streams.clone(),
            store: Arc::clone(&self.args.replica.store),
            traffic: Arc::clone(&self.args.traffic),
            moving: self.args.sending.clone(),
            stall: self.args.limits.stall,
            pace: self.args.limits.upload.clone(),
            within,
        };
        // Places in both lines are taken here, in the order of the requests: what waits for its turn with a large content is
        // never behind something that waits to be served.
        let (turn, for_large) = (running.serve_turns.join(), running.streams.turn_for(&want));
        let (request, peer) = (want.request, self.args.connection.remote_id());
        let task = running.tasks.spawn(async move {
            turn.come().await;
            if let Err(error) = sender.serve(want, for_large).await {
                tracing::debug!(peer = %peer.fmt_short(), %error, "a request was not served");
            }
        });
        running.serving.insert(request, Served { task, contents });
    }
}
