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
//! **Receiving.** Each offered record is compared with ours ([`judge`]): settled at once, applied without content, or
//! handed to the scheduler that picks one source for its content. Either side may know a record without holding its
//! content, and says so in its offers: then there is nothing to ask for, and nothing to wait for ([`judge_holding`]). One
//! that is dated too far ahead is answered `Later`, and delays nothing.
//!
//! **Standing.** A session is in sync when a reconciliation ended and nothing is outstanding either way. A check on
//! demand compares fingerprints afresh and reconciles again where they differ.

mod comparing;
mod deferring;
mod holding;
mod offering;
mod receiving;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::deferring::Deferred;
pub use self::deferring::{WaitingCounts, WaitingVersion};
pub use self::holding::judge_holding;
use super::report::ConnectionState;
use crate::library::{Library, OfferMeaning};
use crate::reconcile::Summary;
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_BY_TICKET_MAX_MS, Hlc, RecordId};
use crate::store::{FeedEntry, Holding, StoredRecord, TOMBSTONES_KEPT_MS};
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
/// Largest content that goes along with an offer.
pub const INLINE_CONTENT_BYTES_MAX: usize = 16 * 1024;
/// Records that are loaded from the store at once in order to be offered.
const LOAD_BATCH: usize = 500;
/// The same of each library where many share a connection.
const LOAD_BATCH_MIN: usize = 8;
/// Record ids that may wait for their records.
const ASKED_MAX: usize = 2000;
/// Hashes waiting to be offered before we give up on the queue and reconcile again instead.
const QUEUE_MAX: usize = 2_000_000;
/// Versions known to be at the peer that our feed has not reported yet. Forgetting one costs a redundant offer.
const ECHOES_MAX: usize = 16_384;
/// Time that it has for the answer. Its store may take a while to answer it.
const PROBE_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Time between attempts at a reconciliation that failed.
const RECONCILE_RETRY: Duration = Duration::from_secs(5);
/// Wait after an answer that said nothing because a store lagged behind.
const ASK_APART: Duration = Duration::from_millis(100);
/// Least time between reconciliations that nobody asked for: some differences are meant to stay, such as deletions that
/// are not applied, and each reconciliation offers them again.
const RECONCILE_APART: Duration = Duration::from_mins(1);
/// Time until assets that could not be moved are found and tried again; doubled up to the second for as long as they are
/// the very same ones each time.
const INCOMPLETE_RETRY: Duration = Duration::from_secs(15);
const INCOMPLETE_RETRY_MAX: Duration = Duration::from_mins(15);

/// Time until a record is looked at again that waits for a newer list of revocations, if none comes.
const HELD_RETRY_MS: u64 = 15 * 60 * 1000;

/// Contents that go along with offers.
pub type InlineContents = HashMap<ContentHash, Bytes>;

/// What is said of the contents of offered records.
#[derive(Debug, Default)]
struct Enclosed<'a> {
    /// Contents that go along.
    contents: Option<&'a InlineContents>,
    /// Assets whose contents are not held here.
    absent: HashSet<ContentHash>,
}

/// What an offered record means for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferVerdict {
    /// Nothing to do: we have it, or something newer, or do not apply deletions.
    Settled,
    /// The library has it from now on, and the store is not concerned.
    Noted,
    /// Take the record; its content is here already, or it is a tombstone.
    Apply,
    /// Take the record without its content, which is on neither side.
    TakeAbsent,
    /// Take the record once its content is here.
    Fetch,
    /// The same, with the record that is named in place of the offered one: a user wants back what was deleted here. It
    /// is news to everybody, the peer included.
    Revive,
    /// Ours stays, since it was written after the offered one was first seen: it is written once more, later than that.
    Reassert,
    /// It is dated too far ahead of our clock: it is taken in so many milliseconds, and not before.
    Later(u64),
    /// Nobody can tell whether its sender's ticket still holds: it is looked at again in so many milliseconds.
    Hold(u64),
    /// Not acceptable, and why.
    Refuse(String),
}

/// What nobody may say of an asset, and why.
fn refuse(offered: &AssetRecord) -> Option<OfferVerdict> {
    let why = || format!("it says {} bytes, which nothing has: at most {SIZE_MAX}", offered.size);
    (offered.size > SIZE_MAX).then(|| OfferVerdict::Refuse(why()))
}

/// Whether a deletion is so old that whoever had it has forgotten it: it is not learned anew from somebody who will
/// forget it, too.
fn is_forgotten(offered: &AssetRecord, now_ms: u64) -> bool {
    offered.deleted && offered.hlc.ms().saturating_add(TOMBSTONES_KEPT_MS) < now_ms
}

/// Compares a record that a member of a library offers with what the library has, where the store has
/// `stored` of it and the peer holds the content, or not (`held_there`), and comes with the ticket of number `from`. With `holds`,
/// what would be news has to wait for a newer list of revocations.
#[must_use]
pub fn judge_for(
    library: &Library,
    offered: &AssetRecord,
    held_there: bool,
    stored: Option<&StoredRecord>,
    now_ms: u64,
    (replicate_deletes, holds): (bool, bool),
    from: Option<u64>,
) -> OfferVerdict {
    if let Some(refused) = refuse(offered) {
        return refused;
    }
    let version = library.version(&offered.hash, stored);
    let is_news = version.as_ref().is_none_or(|version| offered.supersedes(&version.record));
    if let Some(wait_ms) = offered.hlc.is_due_in(now_ms, HLC_AHEAD_BY_TICKET_MAX_MS).filter(|_| is_news) {
        return OfferVerdict::Later(wait_ms);
    }
    // An older version is news, too, where it may be taken for its content.
    let is_other = |version: &StoredRecord| {
        version.holding == Holding::Wanted && held_there && !version.record.is_version_of(offered)
    };
    if holds && (is_news || version.as_ref().is_some_and(is_other)) {
        return OfferVerdict::Hold(HELD_RETRY_MS);
    }
    if version.is_none() && is_forgotten(offered, now_ms) {
        return OfferVerdict::Settled;
    }
    match library.consider(offered, held_there, stored, replicate_deletes, from) {
        OfferMeaning::Known => OfferVerdict::Settled,
        OfferMeaning::Noted => OfferVerdict::Noted,
        OfferMeaning::Replaces => OfferVerdict::Apply,
        OfferMeaning::Wanted => OfferVerdict::Fetch,
        OfferMeaning::Refused(reason) => OfferVerdict::Refuse(reason),
    }
}

/// Compares an offered record with ours, at `now_ms`; one that is dated more than `ahead_max_ms` later has to wait.
#[must_use]
pub fn judge(
    offered: &AssetRecord,
    ours: Option<&AssetRecord>,
    now_ms: u64,
    ahead_max_ms: u64,
    replicate_deletes: bool,
) -> OfferVerdict {
    if let Some(refused) = refuse(offered) {
        return refused;
    }
    if ours.is_some_and(|ours| ours == offered || !offered.supersedes(ours)) {
        return OfferVerdict::Settled;
    }
    if let Some(wait_ms) = offered.hlc.is_due_in(now_ms, ahead_max_ms) {
        return OfferVerdict::Later(wait_ms);
    }
    let held = ours.filter(|ours| !ours.deleted);
    if offered.deleted {
        let forgotten = ours.is_none() && is_forgotten(offered, now_ms);
        return if replicate_deletes && !forgotten { OfferVerdict::Apply } else { OfferVerdict::Settled };
    }
    match held {
        Some(held) if held.size != offered.size => OfferVerdict::Refuse(format!(
            "it says {} bytes, but the content of that hash has {}",
            offered.size, held.size
        )),
        Some(_) => OfferVerdict::Apply,
        None => OfferVerdict::Fetch,
    }
}

/// What the shell tells the session.
#[derive(Debug)]
pub enum SessionInput {
    /// The peer sent a frame, other than those that the shell answers itself.
    Frame(frame::Kind),
    /// A `Ping` or `Pong` with the peer's summary, and ours at this moment.
    Compared {
        /// `Some` for the answer to our own question.
        answer: bool,
        /// Number of the question.
        nonce: u64,
        /// What the peer says.
        theirs: Summary,
        ours: Summary,
        /// Whether both had caught up with their stores: only then is being equal worth anything.
        certain: bool,
    },
    /// Our store's feed moved on.
    StoreChanged(Arc<[FeedEntry]>),
    /// The same, with the contents of small assets that were made here.
    Created {
        entries: Arc<[FeedEntry]>,
        /// Contents of some of them.
        contents: Arc<InlineContents>,
    },
    /// Outcome of [`SessionEffect::Store`] for what the store did not take: it is to be fetched like anything else.
    NotStored(Vec<AssetRecord>),
    /// Outcome of [`SessionEffect::Judge`].
    Judged(Vec<(AssetRecord, OfferVerdict)>),
    /// Outcome of [`SessionEffect::Load`] and [`SessionEffect::Resolve`].
    Loaded {
        /// What the store has of it.
        records: Vec<StoredRecord>,
    },
    /// The peer asked for these by their names.
    Found(Vec<AssetRecord>),
    /// Outcome of [`SessionEffect::Resolve`]: the contents whose records have these ids, and the ids that are gone.
    Resolved {
        found: Vec<(RecordId, ContentHash)>,
        gone: Vec<RecordId>,
    },
    /// The scheduler: ask this peer for these contents, as one request of this number.
    Fetch {
        /// Number of the request.
        request: u64,
        /// What to ask for.
        records: Vec<AssetRecord>,
    },
    /// These are durable here, from whomever, or were applied.
    Settled(Vec<ContentHash>),
    /// These could not be had.
    Failed(Vec<(ContentHash, String)>),
    /// A reconciliation that we opened found these differences so far.
    Differences {
        /// We have them, the peer does not.
        have: Vec<ContentHash>,
        /// The peer has them, we do not.
        need: Vec<RecordId>,
    },
    ReconEnded {
        /// Whether we opened it.
        opened_here: bool,
        /// Why it failed, if it did.
        result: Result<(), String>,
    },
    /// Changes of the store were missed; a reconciliation will find them.
    ChangesLost,
    /// Our clock shows another time than before, or a newer list of revocations came.
    Reconsider,
    /// A user wants to know for sure: compare afresh.
    Verify {
        /// Number of this wish; the standing says when it was fulfilled.
        round: u64,
    },
    Tick,
}

/// What the shell is to do.
#[derive(Debug, PartialEq)]
pub enum SessionEffect {
    /// Send on the control stream.
    Send(frame::Kind),
    /// Compare these with ours ([`judge_holding`]); answer with [`SessionInput::Judged`].
    Judge(Vec<AssetRecord>),
    /// The same, of records whose contents the peer does not hold.
    JudgeAbsent(Vec<AssetRecord>),
    /// Store these without content; answer with [`SessionInput::Settled`] or [`SessionInput::Failed`].
    Apply(Vec<AssetRecord>),
    /// Store these, whose contents are on neither side; answer with [`SessionInput::Settled`] or [`SessionInput::Failed`].
    TakeAbsent(Vec<AssetRecord>),
    /// Write what is here of these once more, later than them; answer with [`SessionInput::Settled`] or [`SessionInput::Failed`].
    Reassert(Vec<AssetRecord>),
    /// Store these, whose contents came with the offer; answer with [`SessionInput::Settled`], [`SessionInput::Failed`] or
    /// [`SessionInput::NotStored`].
    Store(Vec<(AssetRecord, Bytes)>),
    /// Load these from the store; answer with [`SessionInput::Loaded`].
    Load(Vec<ContentHash>),
    /// Find the records with these ids; answer with [`SessionInput::Resolved`].
    Resolve(Vec<RecordId>),
    /// Have the scheduler find a source for these: the peer has them.
    Announce(Vec<AssetRecord>),
    /// Send these contents on content streams.
    Serve(Want),
    /// Stop sending what this request asked for.
    CancelServe(u64),
    /// Let our feed catch up with the store, then send a `Ping` (or a `Pong`, when `answer`) with our summary.
    SendSummary {
        /// Number of the question.
        nonce: u64,
        /// Whether it answers the peer's question.
        answer: bool,
    },
    Reconcile,
    Close {
        code: u32,
        /// For the peer's log and ours.
        reason: String,
    },
}

/// What differs between sessions.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The library's blinded id on this connection.
    pub library: Bytes,
    /// The same, empty for the mirror: says whose offers a confirmation is about.
    pub tag: Bytes,
    /// The library's record key.
    pub record_key: crate::identity::Key,
    /// Whether we may write into the library, and so offer what we have.
    pub gives: bool,
    /// Whether the peer may write into the library, and so its offers are taken.
    pub takes: bool,
    /// How many libraries share the connection, and what may be unconfirmed on it.
    pub lanes: usize,
    /// Whether we dialled: the dialler opens the first reconciliation.
    pub dialer: bool,
    /// Silence after which the peer is asked whether it is still there.
    pub probe_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recon {
    /// Not compared yet; the other side is to open it.
    Expected,
    Running,
    Ended,
    Failed {
        at: Instant,
    },
}

/// How an offered record of the peer stands.
#[derive(Debug, Default, Clone)]
struct Taken {
    /// Its content, if that came along.
    content: Option<Bytes>,
    /// Offers that are not judged yet.
    unjudged: u32,
    /// Offers of this hash that wait for their confirmation, and the bytes of their records.
    offers: u32,
    offered_bytes: usize,
    /// Size of the content, once we know that we want it.
    wanted_bytes: Option<u64>,
}

/// What could not be moved either way: how many assets, and a sum over their hashes, to tell whether they are the same.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Unmoved {
    there: (usize, u64),
    here: (usize, u64),
}

impl Unmoved {
    fn of(refused_there: &HashSet<ContentHash>, failed_here: &HashSet<ContentHash>) -> Self {
        let sum = |hashes: &HashSet<ContentHash>| {
            let (mut count, mut sum) = (0, 0_u64);
            for ContentHash([a, b, c, d, e, f, g, h, ..]) in hashes {
                count += 1;
                sum = sum.wrapping_add(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
            }
            (count, sum)
        };
        Self { there: sum(refused_there), here: sum(failed_here) }
    }
}

/// What we offered of one asset and the peer has not confirmed.
#[derive(Debug, Default, Clone, Copy)]
struct Open {
    offers: u32,
    bytes: usize,
    /// The earliest date of the versions.
    hlc: Hlc,
}

/// The state of one session.
#[derive(Debug)]
pub struct Session {
    settings: SessionSettings,
    theirs: Summary,
    recon: Recon,
    /// When the last reconciliation was opened here.
    opened_at: Instant,
    /// Time until what could not be moved is tried again, and what that was when it was last tried.
    retry_after: Duration,
    unmoved: Unmoved,
    /// What the peer asked for by id, to be offered first.
    answers: VecDeque<(RecordId, ContentHash)>,
    /// Those of them that are being loaded.
    answering: Vec<RecordId>,
    /// Ids that it asked for and that are not in `answers` yet.
    resolving: usize,
    queue: VecDeque<ContentHash>,
    /// The queue overflowed; what was dropped is found by reconciling again.
    queue_overflowed: bool,
    loading: bool,
    /// Offered and not confirmed, with the number of offers.
    open_offers: HashMap<ContentHash, Open>,
    /// Sums of them: what the peer counts.
    open_count: usize,
    open_bytes: usize,
    /// Offers that the peer refused, until the next reconciliation.
    refused_there: HashSet<ContentHash>,
    /// Found by reconciling, not asked for yet.
    to_ask: VecDeque<RecordId>,
    asked: HashSet<RecordId>,
    taken: HashMap<ContentHash, Taken>,
    taken_offers: usize,
    taken_bytes: usize,
    /// Number and bytes of those in `taken` whose content is wanted.
    wanted: (u64, u64),
    failed_here: HashSet<ContentHash>,
    echoes: HashMap<ContentHash, RecordId>,
    echo_order: VecDeque<ContentHash>,
    last_heard: Instant,
    /// A question on its way: its number and when it was asked.
    probe: Option<(u64, Instant)>,
    /// Stores that lag behind are not asked in a tight loop.
    ask_after: Option<Instant>,
    /// When a reconciliation was last opened that nobody asked for.
    unasked_at: Option<Instant>,
    next_nonce: u64,
    /// Something moved since the last comparison.
    was_busy: bool,
    /// The round of comparing afresh that is under way, and the last one that ended.
    verifying: Option<u64>,
    verified: u64,
    /// The question that was asked for it.
    verify_nonce: Option<u64>,
    /// Fingerprints (ours, theirs) that a reconciliation was last opened for. Some differences are meant to stay, such
    /// as deletions that are not applied here; they are not worth a second one.
    reconciled_for: Option<(Summary, Summary)>,
    last_error: Option<String>,
    deferred: Deferred,
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
        let same = ours.same_records(&theirs) || silent;
        let mut effects = Vec::new();
        let recon = if same {
            Recon::Ended
        } else if settings.dialer {
            effects.push(SessionEffect::Reconcile);
            Recon::Running
        } else {
            Recon::Expected
        };
        let session = Self {
            settings,
            theirs,
            recon,
            opened_at: now,
            retry_after: INCOMPLETE_RETRY,
            unmoved: Unmoved::default(),
            answers: VecDeque::new(),
            answering: Vec::new(),
            resolving: 0,
            queue: VecDeque::new(),
            queue_overflowed: false,
            loading: false,
            open_offers: HashMap::new(),
            open_count: 0,
            open_bytes: 0,
            refused_there: HashSet::new(),
            to_ask: VecDeque::new(),
            asked: HashSet::new(),
            taken: HashMap::new(),
            taken_offers: 0,
            taken_bytes: 0,
            wanted: (0, 0),
            failed_here: HashSet::new(),
            echoes: HashMap::new(),
            echo_order: VecDeque::new(),
            last_heard: now,
            probe: None,
            ask_after: None,
            unasked_at: None,
            next_nonce: 1,
            was_busy: !same,
            verifying: None,
            verified: 0,
            verify_nonce: None,
            reconciled_for: None,
            last_error: None,
            deferred: Deferred::default(),
        };
        (session, effects)
    }

    /// What to do about an input at time `now`.
    pub fn handle(&mut self, input: SessionInput, now: Instant) -> Vec<SessionEffect> {
        let mut out = Vec::new();
        match input {
            SessionInput::Frame(kind) => self.on_frame(kind, now, &mut out),
            SessionInput::Compared { answer: false, nonce, theirs, ours, certain } => {
                self.last_heard = now;
                self.theirs = theirs;
                if certain && ours.same_records(&theirs) {
                    self.deferred.all_there();
                }
                out.push(SessionEffect::SendSummary { nonce, answer: true });
            }
            SessionInput::Compared { answer: true, nonce, theirs, ours, certain } => {
                self.last_heard = now;
                self.theirs = theirs;
                self.on_answer(nonce, theirs, ours, certain, now, &mut out);
            }
            SessionInput::StoreChanged(entries) => {
                self.on_store_changed(&entries, &InlineContents::new(), &mut out);
            }
            SessionInput::Created { entries, contents } => {
                self.on_store_changed(&entries, &contents, &mut out);
            }
            SessionInput::NotStored(records) => out.push(SessionEffect::Announce(records)),
            SessionInput::Judged(verdicts) => self.on_judged(verdicts, now, &mut out),
            SessionInput::Loaded { records } => {
                self.loading = false;
                self.on_loaded(records, &mut out);
            }
            SessionInput::Resolved { found, gone } => {
                self.resolving = self.resolving.saturating_sub(found.len() + gone.len());
                self.answers.extend(found);
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
                if !self.settings.takes {
                    // What a reader has and we have not is its own.
                } else if self.to_ask.len() + need.len() > QUEUE_MAX {
                    self.queue_overflowed = true;
                } else {
                    let deferred = &self.deferred;
                    self.to_ask.extend(need.into_iter().filter(|rid| !deferred.waits_here(rid)));
                }
            }
            SessionInput::ReconEnded { opened_here, result } => self.on_recon_ended(opened_here, result, now),
            SessionInput::ChangesLost => self.queue_overflowed = true,
            SessionInput::Reconsider => self.reconsider(),
            SessionInput::Verify { round } => {
                self.verifying = Some(round);
                self.verify_nonce = None;
                // Whoever asks wants what was given up on to be tried again, too.
                self.reconciled_for = None;
                self.retry_after = INCOMPLETE_RETRY;
            }
            SessionInput::Tick => self.on_tick(now, &mut out),
        }
        self.pump(now, &mut out);
        out
    }

    fn on_frame(&mut self, kind: frame::Kind, now: Instant, out: &mut Vec<SessionEffect>) {
        self.last_heard = now;
        match kind {
            frame::Kind::Offer(offer) => self.on_offer(offer, out),
            frame::Kind::Records(records) => self.on_records(&records, out),
            frame::Kind::Want(want) => out.push(SessionEffect::Serve(want)),
            frame::Kind::Cancel(cancel) => out.push(SessionEffect::CancelServe(cancel.request)),
            frame::Kind::Have(have) => {
                for hash in have.hashes.iter().filter_map(|h| ContentHash::from_slice(h)) {
                    self.confirm_offer(&hash);
                }
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
            | frame::Kind::ReconOpen(_)
            | frame::Kind::ReconMsg(_)
            | frame::Kind::ReconClose(_) => {
                out.push(violation("a frame that has no place here on the control stream"));
            }
        }
    }

    fn on_error(&mut self, error: &proto::Error) {
        let message: String = error.message.chars().take(200).collect();
        if let Some(hash) = error.hash.as_ref().and_then(|h| ContentHash::from_slice(h))
            && self.close_offer(&hash)
        {
            self.refused_there.insert(hash);
            self.last_error = Some(format!("the peer does not take {}: {message}", hash.short()));
        } else {
            self.last_error = Some(format!("the peer reports: {message}"));
        }
    }

    /// Moves on whatever has room to move.
    fn pump(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        let room = self.offers_open_max().saturating_sub(self.open_count).min(self.load_batch());
        if !self.loading && room > 0 && self.open_bytes < self.offered_bytes_max() {
            let hashes: Vec<ContentHash> = if self.answers.is_empty() {
                self.queue.drain(..self.queue.len().min(room)).collect()
            } else {
                let batch = self.answers.drain(..self.answers.len().min(room));
                let (rids, hashes) = batch.unzip();
                self.answering = rids;
                hashes
            };
            if !hashes.is_empty() {
                self.loading = true;
                out.push(SessionEffect::Load(hashes));
            }
        }
        // Half the room at a time, so that ids go in few frames while the answers to the last ones come in.
        if !self.to_ask.is_empty() && self.asked.len() <= ASKED_MAX / 2 {
            let batch = self.to_ask.len().min(ASKED_MAX / 2);
            let rids: Vec<RecordId> = self.to_ask.drain(..batch).collect();
            self.asked.extend(rids.iter().copied());
            out.push(SessionEffect::Send(frame::Kind::Records(Records {
                library: self.settings.library.clone(),
                rids: rids.iter().map(|rid| Bytes::copy_from_slice(&rid.0)).collect(),
            })));
        }
        self.was_busy |= self.is_busy();
        if self.verifying.is_some()
            && self.verify_nonce.is_none()
            && !self.is_busy()
            && self.ask_after.is_none_or(|at| now >= at)
        {
            self.ask(now, out);
            self.verify_nonce = self.probe.map(|(nonce, _)| nonce);
        }
    }

    /// Offers that may be unconfirmed: the libraries of a connection share what there is.
    fn offers_open_max(&self) -> usize {
        OFFERS_OPEN_MAX / self.settings.lanes.max(1)
    }

    /// Bytes of their records.
    fn offered_bytes_max(&self) -> usize {
        OFFERED_BYTES_MAX / self.settings.lanes.max(1)
    }

    /// Records that are loaded at once.
    fn load_batch(&self) -> usize {
        (LOAD_BATCH / self.settings.lanes.max(1)).max(LOAD_BATCH_MIN)
    }

    /// Whether we may offer what we have.
    #[must_use]
    pub fn gives(&self) -> bool {
        self.settings.gives
    }

    /// Bytes of the peer's offers that are not settled.
    #[must_use]
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// Whether the peer's offers are taken.
    #[must_use]
    pub fn takes(&self) -> bool {
        self.settings.takes
    }

    /// Whether the peer waits to hear what becomes of its offer of `hash`.
    #[must_use]
    pub fn owes(&self, hash: &ContentHash) -> bool {
        self.taken.contains_key(hash)
    }

    /// How many offers of the peer wait to hear what becomes of them.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.taken_offers
    }

    /// Whether the peer has more offers open in all the sessions of a connection than it may have.
    #[must_use]
    pub fn owe_too_much<'a>(sessions: impl Iterator<Item = &'a Self>) -> bool {
        let sum =
            |(offers, bytes), session: &Self| (offers + session.taken_offers, bytes + session.taken_bytes);
        let (offers, bytes) = sessions.fold((0, 0), sum);
        offers > OFFERS_TAKEN_MAX || bytes > OFFERED_BYTES_TAKEN_MAX
    }

    /// Whether the peer has yet to confirm something.
    fn is_offering(&self) -> bool {
        self.loading
            || self.resolving > 0
            || !self.answers.is_empty()
            || !self.queue.is_empty()
            || !self.open_offers.is_empty()
    }

    /// Whether anything is on its way in either direction.
    fn is_busy(&self) -> bool {
        self.recon != Recon::Ended
            || self.is_offering()
            || !self.to_ask.is_empty()
            || !self.asked.is_empty()
            || !self.taken.is_empty()
    }

    /// Whether something failed that a later reconciliation may mend.
    fn is_incomplete(&self) -> bool {
        self.queue_overflowed || !self.refused_there.is_empty() || !self.failed_here.is_empty()
    }

    #[must_use]
    pub fn standing(&self) -> SessionStatus {
        let reconciling = self.recon != Recon::Ended;
        let moves = !self.taken.is_empty() || self.is_offering();
        let state = if moves && !reconciling || self.is_incomplete() {
            ConnectionState::Syncing
        } else if self.is_busy() || self.verifying.is_some() {
            ConnectionState::Reconciling
        } else {
            ConnectionState::InSync
        };
        SessionStatus {
            state,
            assets: self.theirs.assets,
            missing_here: self.wanted.0 + self.failed_here.len() as u64,
            missing_here_bytes: self.wanted.1,
            unseen: (self.asked.len() + self.to_ask.len()) as u64,
            missing_there: (self.answers.len()
                + self.queue.len()
                + self.open_offers.len()
                + self.refused_there.len()) as u64,
            last_error: self.last_error.clone(),
            waiting: self.deferred.counts(),
            verified: self.verified,
        }
    }
}

/// How a session stands, for the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Reconciling, syncing or in sync.
    pub state: ConnectionState,
    /// Live assets that the peer last said to hold.
    pub assets: u64,
    /// Records that it has and we want and do not have.
    pub missing_here: u64,
    /// Bytes of those whose size is known.
    pub missing_here_bytes: u64,
    /// Versions that it has and we do not know yet: what they say may be new here, or a deletion that is not applied.
    pub unseen: u64,
    /// Records that we have and it has not confirmed.
    pub missing_there: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Versions that one of the two sides does not take yet.
    pub waiting: WaitingCounts,
    /// The last round of comparing afresh that ended.
    pub verified: u64,
}

impl SessionStatus {
    /// Whether nothing is missing on either side. While the peer holds versions of ours, they may be nowhere else.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.state == ConnectionState::InSync && self.waiting.held_there == 0
    }
}

/// About what a record takes on the wire and in memory.
fn offered_bytes(record: &AssetRecord) -> usize {
    160 + 8 * record.meta.dropped_names.len() + record.meta.text_bytes()
}

fn violation(what: &str) -> SessionEffect {
    SessionEffect::Close { code: 400, reason: what.to_owned() }
}
