//! PeerActor performs what its sessions decide, and sends their frames.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::ActorRef;
use tokio::sync::mpsc;

use super::{BYTES_OUT, PeerState};
use crate::net::close;
use crate::peer::effects;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::session::{EntryNews, SessionEffect, SessionInput};
use crate::record::{AssetRecord, LibraryId, RecordId};
use crate::wire;
use crate::wire::proto::{Frame, frame};

impl PeerState {
    pub(super) fn perform(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, effects: Vec<SessionEffect>) {
        for effect in effects {
            self.perform_one(myself, lane, effect);
        }
    }

    pub(super) fn perform_one(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, effect: SessionEffect) {
        let Some(running) = &mut self.running else { return };
        let Some(shared) = running.lanes.get_mut(lane) else { return };
        let args = &self.args;
        let report = effects::Reporter::new(myself.clone(), running.epoch, lane);
        let store = Arc::clone(&args.replica.store);
        match effect {
            SessionEffect::Send(kind) => self.send(kind),
            SessionEffect::Judge(records) => self.judge(myself, lane, records, true),
            SessionEffect::JudgeAbsent(records) => self.judge(myself, lane, records, false),
            SessionEffect::TakeAbsent(records) => {
                running.tasks.spawn(effects::take_absent(report, args.taker(), records));
            }
            SessionEffect::Apply(records) => {
                let library = shared.library.id();
                running.tasks.spawn(effects::apply(report, args.taker(), library, records));
            }
            SessionEffect::Reassert(others) => {
                let library = shared.library.id();
                running.tasks.spawn(effects::reassert(
                    report,
                    store,
                    args.replica.deferrals.clone(),
                    library,
                    others,
                ));
            }
            SessionEffect::Store(items) => {
                let (library, taker) = (shared.library.id(), args.taker());
                let bytes: usize = items.iter().map(|(_, content)| content.len()).sum();
                args.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
                running.tasks.spawn(effects::store_inline(report, taker, args.peers.clone(), library, items));
            }
            SessionEffect::Load(hashes) => {
                let library = Arc::clone(&shared.library);
                running.tasks.spawn(effects::load(report, store, library, hashes));
            }
            SessionEffect::TakeEntries(records) => {
                let (library, clock) = (Arc::clone(&shared.library), args.replica.deferrals.clock().clone());
                running.tasks.spawn(effects::take_entries(report, store, library, clock, records));
            }
            SessionEffect::LoadEntries(hashes) => {
                let library = Arc::clone(&shared.library);
                running.tasks.spawn(effects::load_entries(report, store, library, hashes));
            }
            SessionEffect::Resolve(rids) => self.resolve(myself, lane, rids),
            SessionEffect::Announce(records) => {
                let library = shared.library.id();
                self.want(report, library, records);
            }
            SessionEffect::Serve(want) => self.serve(want),
            SessionEffect::CancelServe(request) => {
                if let Some(served) = running.serving.remove(&request) {
                    served.task.abort();
                }
            }
            SessionEffect::SendSummary { nonce, answer: true } if shared.answering.is_some() => {
                // One answer at a time: a flood of questions costs one look at the store, and only the last counts.
                shared.answering = Some(nonce);
            }
            SessionEffect::SendSummary { nonce, answer } => {
                if answer {
                    shared.answering = Some(nonce);
                }
                let library = Arc::clone(&shared.library);
                running.tasks.spawn(effects::catch_up(report, store, library, nonce, answer));
            }
            SessionEffect::Reconcile => {
                let (connection, library) = (args.connection.clone(), shared.blinded.clone());
                let (assets, entries) = shared.session.to_compare(shared.library.summary());
                let assets = assets.then(|| shared.library.snapshot());
                let entries = entries.then(|| shared.library.entries_snapshot());
                running.tasks.spawn(effects::reconcile(report, connection, library, assets, entries));
            }
            SessionEffect::Close { code, reason } => self.close(code, &reason),
        }
    }

    /// Has contents fetched that the peer offers, but for those that may be where the store keeps its own already.
    fn want(&mut self, report: effects::Reporter, library: Option<LibraryId>, records: Vec<AssetRecord>) {
        let Some(running) = &mut self.running else { return };
        let args = &self.args;
        // What a library wants does not depend on what is where.
        let may_be_here =
            |record: &AssetRecord| library.is_none() && args.replica.store.may_take_over(record.size);
        let (looked_for, others): (Vec<_>, Vec<_>) = records.into_iter().partition(may_be_here);
        if !looked_for.is_empty() {
            let (taker, peers) = (args.taker(), args.peers.clone());
            running.tasks.spawn(effects::take_over(report, taker, peers, looked_for));
        }
        if !others.is_empty() {
            self.tell(PeersMsg::Wanted { session: args.session, library, records: others });
        }
    }

    /// Finds the records with these ids, of folders where both sides know them, and of assets.
    pub(super) fn resolve(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, mut rids: Vec<RecordId>) {
        let Some(shared) = self.running.as_ref().and_then(|running| running.lanes.get(lane)) else { return };
        let library = Arc::clone(&shared.library);
        if shared.session.has_entries() {
            let (found, others) = library.resolve_entries(&rids);
            rids = others;
            self.step(myself, lane, SessionInput::Entries(EntryNews::Resolved(found)));
        }
        let (found, gone) = library.resolve(&rids);
        self.step(myself, lane, SessionInput::Resolved { found, gone });
    }

    pub(super) fn send(&mut self, kind: frame::Kind) {
        let Some(running) = &self.running else { return };
        if let frame::Kind::Offer(offer) = &kind {
            let bytes: usize = offer.contents.iter().map(|inline| inline.content.len()).sum();
            self.args.traffic.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        let frame = wire::encode(&Frame { kind: Some(kind) });
        let bytes = frame.len();
        let waiting = running.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        let refused = match running.out.try_send(frame) {
            // A closed queue: the writer's end of the stream is reported by the writer.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => waiting + bytes > BYTES_OUT,
            Err(mpsc::error::TrySendError::Full(_)) => true,
        };
        if refused {
            self.close(close::VIOLATION, "the peer does not read its control stream");
        }
    }
}
