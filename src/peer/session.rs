//! One authenticated session as a pure state machine: what to say next, given what was heard.
//!
//! No clock, no socket: [`Session::handle`] takes an [`SessionInput`] and the time, and returns [`SessionEffect`]s that the PeerActor
//! performs; their outcomes come back as further inputs. Everything is idempotent, so effects may be repeated after a
//! crash or a lost connection.
//!
//! **Offering.** Whatever the other side may lack is queued as hashes (from a reconciliation, from the feed) and
//! offered in batches. At most `OFFERS_OPEN_MAX` offers are unconfirmed at a time; the receiver confirms each with
//! `Have` once it is durable there, or was settled otherwise. A record that came from the peer is remembered until our
//! own feed reports it, and is not offered back.
//!
//! **Receiving.** Each offered record is compared with ours ([`judge_holding`]): settled at once, applied without content, or
//! handed to the scheduler that picks one source for its content. Either side may know a record without holding its
//! content, and says so in its offers: then there is nothing to ask for, and nothing to wait for. One
//! that is dated too far ahead is answered `Later`, and delays nothing.
//!
//! **Standing.** A session is in sync when a reconciliation ended and nothing is outstanding either way. A check on
//! demand compares fingerprints afresh and reconciles again where they differ.

mod comparing;
mod deferring;
mod entries;
mod holding;
mod judging;
mod messages;
mod offering;
mod offers;
mod receiving;
mod replies;
#[cfg(test)]
mod simulation;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::comparing::{Comparing, Reconciliation};
use self::deferring::Deferred;
pub use self::deferring::{WaitingCounts, WaitingVersion};
use self::entries::Entries;
pub use self::judging::{OfferVerdict, judge_for, judge_holding};
pub use self::messages::{EntryNews, SessionEffect, SessionInput};
use self::offering::Offering;
use self::offers::Echoes;
use self::receiving::{Asking, Taking};
pub use self::status::SessionStatus;
use crate::reconcile::Summary;
use crate::record::{AssetRecord, ContentHash};
use crate::text::stated;
use crate::wire::decode::RECORDS_PER_FRAME_MAX;
use crate::wire::proto::{self, ContentRequest, Records, Want, frame};

/// Offers that may wait for their confirmation; with it, what the receiver must remember is bounded too.
const OFFERS_OPEN_MAX: usize = 4096;
/// Offers that we take before the peer is held to have broken the rule above; twice, since sides count apart.
const OFFERS_TAKEN_MAX: usize = 2 * OFFERS_OPEN_MAX;
/// Bytes of unconfirmed records beyond which no more are offered: records full of text must not fill the receiver's
/// memory.
const OFFERED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of unconfirmed records that we take: what the rule above allows and a full load that was under way.
const OFFERED_BYTES_TAKEN_MAX: usize = 16 * 1024 * 1024;
/// Size that we believe of an asset, 16 TiB. Sums over everything that may be on offer stay far below 64 bits.
const SIZE_MAX: u64 = 1 << 44;
/// Encoded records in one frame, with their contents; a record has at most 17 KiB and a content 16, and 2,000 ids of records that
/// are gone may go along, so a frame stays below its limit of 512 KiB.
const RECORD_BYTES_PER_FRAME: usize = 256 * 1024;
pub const INLINE_CONTENT_BYTES_MAX: usize = 16 * 1024;
/// Records that are loaded from the store at once in order to be offered.
const LOAD_BATCH: usize = 500;
/// The same of each library where many share a connection.
const LOAD_BATCH_MIN: usize = 8;
/// What a peer hears that offers what its ticket does not let it write.
const READS_ONLY: &str = "your ticket lets you read and not write";
const ASKED_MAX: usize = 2000;
/// Hashes waiting to be offered before we give up on the queue and reconcile again instead.
const QUEUE_MAX: usize = 2_000_000;

pub type InlineContents = HashMap<ContentHash, Bytes>;

/// What is said of the contents of offered records.
#[derive(Debug, Default)]
struct Enclosed<'a> {
    contents: Option<&'a InlineContents>,
    absent: HashSet<ContentHash>,
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the two sides")]
pub struct SessionSettings {
    /// The library's blinded id on this connection.
    pub library: Bytes,
    /// The same, empty for the mirror: says whose offers a confirmation is about.
    pub tag: Bytes,
    pub record_key: crate::identity::Key,
    /// Whether we may write into the library, and so offer what we have.
    pub gives: bool,
    /// Whether the peer may write into the library, and so its offers are taken.
    pub takes: bool,
    /// Whether both sides know the records of folders, and the library has some.
    pub entries: bool,
    /// How many libraries share the connection, and what may be unconfirmed on it.
    pub lanes: usize,
    /// Whether we dialled: the dialler opens the first reconciliation.
    pub dialer: bool,
    /// Silence after which the peer is asked whether it is still there.
    pub probe_after: Duration,
}

#[derive(Debug)]
pub struct Session {
    settings: SessionSettings,
    theirs: Summary,
    offering: Offering,
    asking: Asking,
    taking: Taking,
    echoes: Echoes<ContentHash>,
    comparing: Comparing,
    deferred: Deferred,
    entries: Entries,
    last_error: Option<String>,
}

impl Session {
    /// A session that has just been authenticated, with both sides' summaries. The first effects come with it.
    #[must_use]
    pub fn new(
        settings: SessionSettings,
        ours: Summary,
        theirs: Summary,
        now: Instant,
    ) -> (Self, Vec<SessionEffect>) {
        // Two readers have nothing to say to each other; they may still ask each other for content.
        let silent = !settings.gives && !settings.takes;
        let told = |summary: Summary| summary.with_entries(settings.entries);
        let same = told(ours).same_records(&told(theirs)) || silent;
        let (comparing, effects) = Comparing::begin(same, settings.dialer, now);
        let session = Self {
            settings,
            theirs,
            offering: Offering::default(),
            asking: Asking::default(),
            taking: Taking::default(),
            echoes: Echoes::default(),
            comparing,
            deferred: Deferred::default(),
            entries: Entries::default(),
            last_error: None,
        };
        (session, effects)
    }

    /// What to do about an input at time `now`.
    pub fn handle(&mut self, input: SessionInput, now: Instant) -> Vec<SessionEffect> {
        let mut out = Vec::new();
        match input {
            SessionInput::Frame(kind) => self.on_frame(kind, now, &mut out),
            SessionInput::Compared { answer: false, nonce, theirs, ours, certain } => {
                self.comparing.last_heard = now;
                self.theirs = theirs;
                let (ours, theirs) = self.compared(ours, theirs, &mut out);
                if certain && ours.same_records(&theirs) {
                    self.all_there();
                }
                out.push(SessionEffect::SendSummary { nonce, answer: true });
            }
            SessionInput::Compared { answer: true, nonce, theirs, ours, certain } => {
                self.comparing.last_heard = now;
                self.theirs = theirs;
                let (ours, theirs) = self.compared(ours, theirs, &mut out);
                self.on_answer(nonce, theirs, ours, certain, now, &mut out);
            }
            SessionInput::StoreChanged { entries, contents } => {
                self.on_store_changed(&entries, &contents, &mut out);
            }
            SessionInput::Entries(news) => self.on_entry_news(news, now, &mut out),
            SessionInput::NotStored(records) => out.push(SessionEffect::Announce(records)),
            SessionInput::Judged(verdicts) => self.on_judged(verdicts, now, &mut out),
            SessionInput::Loaded { records } => self.on_loaded(records, &mut out),
            SessionInput::Resolved { found, gone } => {
                self.offering.resolving = self.offering.resolving.saturating_sub(found.len() + gone.len());
                self.offering.queue.answers.extend(found);
                if !gone.is_empty() {
                    self.offer(&[], &gone, &Enclosed::default(), &mut out);
                }
            }
            SessionInput::Found(records) => self.on_found(&records, &mut out),
            SessionInput::Fetch { request, records } => {
                let contents = records
                    .iter()
                    .map(|r| ContentRequest {
                        hash: r.hash.0.to_vec().into(),
                        offset: 0,
                        length: 0,
                        proved: false,
                    })
                    .collect();
                out.push(SessionEffect::Send(frame::Kind::Want(Want { request, contents })));
            }
            SessionInput::Settled(hashes) => self.settle(hashes, &mut out),
            SessionInput::Failed(failures) => self.on_failed(failures, &mut out),
            SessionInput::Differences { have, need } => {
                if self.settings.gives {
                    self.enqueue(have);
                }
                self.ask_for(need);
            }
            SessionInput::ReconEnded { opened_here, result } => self.on_recon_ended(opened_here, result, now),
            SessionInput::ChangesLost => self.comparing.missed = true,
            SessionInput::Reconsider => self.reconsider(),
            SessionInput::Verify { round } => self.comparing.verify(round),
            SessionInput::Tick => self.on_tick(now, &mut out),
        }
        self.pump(now, &mut out);
        out
    }

    fn on_frame(&mut self, kind: frame::Kind, now: Instant, out: &mut Vec<SessionEffect>) {
        self.comparing.last_heard = now;
        match kind {
            frame::Kind::Offer(offer) => self.on_offer(offer, out),
            frame::Kind::Records(records) => self.on_records(&records, out),
            frame::Kind::Want(want) => out.push(SessionEffect::Serve(want)),
            frame::Kind::Cancel(cancel) => out.push(SessionEffect::CancelServe(cancel.request)),
            frame::Kind::Have(have) => {
                for hash in have.hashes.iter().filter_map(|h| ContentHash::from_slice(h)) {
                    self.confirm_offer(&hash);
                }
                self.on_entries_confirmed(&have.entries);
            }
            frame::Kind::Later(later) => self.on_later(&later, now),
            frame::Kind::Error(error) => self.on_error(&error),
            frame::Kind::Hello(_)
            | frame::Kind::Auth(_)
            | frame::Kind::Welcome(_)
            | frame::Kind::Ping(_)
            | frame::Kind::Pong(_)
            | frame::Kind::Revocations(_)
            | frame::Kind::Find(_)
            | frame::Kind::Lacks(_)
            | frame::Kind::Doubled(_)
            | frame::Kind::Keep(_)
            | frame::Kind::Kept(_)
            | frame::Kind::ReconOpen(_)
            | frame::Kind::ReconMsg(_)
            | frame::Kind::ReconClose(_) => {
                out.push(violation("a frame that has no place here on the control stream"));
            }
        }
    }

    fn on_error(&mut self, error: &proto::Error) {
        let message = stated(&error.message);
        if error.entry {
            // Names of entries are no contents.
            if !error.hash.as_ref().is_some_and(|hash| self.on_entry_refused(hash, &message)) {
                self.last_error = Some(format!("the peer reports: {message}"));
            }
            return;
        }
        if let Some(hash) = error.hash.as_ref().and_then(|h| ContentHash::from_slice(h))
            && self.close_offer(&hash)
        {
            self.offering.refused.insert(hash);
            self.last_error = Some(format!("the peer does not take {}: {message}", hash.short()));
        } else {
            self.last_error = Some(format!("the peer reports: {message}"));
        }
    }

    fn pump(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        let hashes = self.offering.queue.load(self.room_to_load());
        if !hashes.is_empty() {
            out.push(SessionEffect::Load(hashes));
        }
        self.pump_entries(out);
        let rids = self.asking.next_batch();
        if !rids.is_empty() {
            out.push(SessionEffect::Send(frame::Kind::Records(Records {
                library: self.settings.library.clone(),
                rids: rids.iter().map(|rid| Bytes::copy_from_slice(&rid.0)).collect(),
            })));
        }
        self.comparing.was_busy |= self.is_busy();
        self.ask_for_round(now, out);
    }

    pub fn gives(&self) -> bool {
        self.settings.gives
    }

    pub fn taken_bytes(&self) -> usize {
        self.taking.bytes + self.entries.owed().1
    }

    pub fn has_entries(&self) -> bool {
        self.settings.entries
    }

    /// Whether the peer's offers are taken.
    pub fn takes(&self) -> bool {
        self.settings.takes
    }

    /// Whether the peer waits to hear what becomes of its offer of `hash`.
    pub fn owes(&self, hash: &ContentHash) -> bool {
        self.taking.by_hash.contains_key(hash)
    }

    /// How many offers of the peer wait to hear what becomes of them.
    pub fn owed(&self) -> usize {
        self.taking.offers
    }

    /// Whether the peer has more offers open in all the sessions of a connection than it may have.
    pub fn owe_too_much<'a>(sessions: impl Iterator<Item = &'a Self>) -> bool {
        let sum = |(offers, bytes), session: &Self| {
            let entries = session.entries.owed();
            (offers + session.taking.offers + entries.0, bytes + session.taking.bytes + entries.1)
        };
        let (offers, bytes) = sessions.fold((0, 0), sum);
        offers > OFFERS_TAKEN_MAX || bytes > OFFERED_BYTES_TAKEN_MAX
    }

    fn is_busy(&self) -> bool {
        self.comparing.reconciliation != Reconciliation::Ended
            || self.offering.is_busy()
            || self.asking.is_busy()
            || !self.taking.by_hash.is_empty()
            || self.entries.is_busy()
    }

    /// Whether something failed that a later reconciliation may mend.
    fn is_incomplete(&self) -> bool {
        let entries = !self.entries.refused.is_empty() || !self.entries.failed.is_empty();
        self.comparing.missed
            || !self.offering.refused.is_empty()
            || !self.taking.failed.is_empty()
            || entries
    }
}

/// About what a record takes on the wire and in memory.
fn offered_bytes(record: &AssetRecord) -> usize {
    160 + 8 * record.meta.dropped_names.len() + record.meta.text_bytes()
}

fn violation(what: &str) -> SessionEffect {
    SessionEffect::Close { code: 400, reason: what.to_owned() }
}
