#![expect(clippy::wildcard_enum_match_arm, reason = "what is of no interest here is passed over")]

mod asking;
mod comparing;
mod deferring;
mod entries;
mod offering;
mod receiving;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::comparing::ASK_APART;
use super::*;
use crate::identity::{LibraryKeys, NetworkKeys};
use crate::library::Library;
use crate::peer::report::ConnectionState;
use crate::record::{AssetMeta, HLC_AHEAD_BY_TICKET_MAX_MS, HLC_AHEAD_MAX_MS, Hlc, RecordId, WriterId};
use crate::store::{FeedEntry, Holding, StoredRecord, TOMBSTONES_KEPT_MS};
use crate::wire;
use crate::wire::proto::{Frame, Hello, Ping, Pong, ReconClose, ReconMsg, ReconOpen, Welcome};
use crate::wire::proto::{Have, InlineContent, Offer, WireRecord};

static KEYS: LazyLock<LibraryKeys> =
    LazyLock::new(|| NetworkKeys::derive(&"a network of tests".into()).mirror().clone());
const LIBRARY: Bytes = Bytes::from_static(b"the mirror");
const NOW_MS: u64 = 1_700_000_000_000;
/// How far ahead a version may be dated, and whether deletions are applied.
const LIMITS: (u64, bool) = (HLC_AHEAD_MAX_MS, true);

const EMPTY: Summary = Summary { count: 0, fingerprint: [0; 16], assets: 0, bytes: 0, entries: None };
const OTHER: Summary = Summary { count: 3, fingerprint: [1; 16], assets: 3, bytes: 3, entries: None };

fn content_of(record: &AssetRecord) -> Bytes {
    vec![7; usize::try_from(record.size).unwrap()].into()
}

fn inline(record: &AssetRecord, content: Bytes) -> InlineContent {
    InlineContent { hash: Bytes::copy_from_slice(&record.hash.0), content }
}

struct Test {
    session: Session,
    now: Instant,
}

impl Test {
    fn in_sync() -> Self {
        let now = Instant::now();
        Self { session: Session::new(settings(true), EMPTY, EMPTY, now).0, now }
    }

    fn reconciling() -> Self {
        let now = Instant::now();
        let (session, effects) = Session::new(settings(true), EMPTY, OTHER, now);
        assert_eq!(effects, [SessionEffect::Reconcile]);
        Self { session, now }
    }

    fn step(&mut self, input: SessionInput) -> Vec<SessionEffect> {
        self.session.handle(input, self.now)
    }

    /// A step that has nothing done.
    #[track_caller]
    fn quiet(&mut self, input: SessionInput) {
        assert_eq!(self.step(input), []);
    }

    /// A step that has the peer asked how it stands; the question's number.
    #[track_caller]
    fn asks(&mut self, input: SessionInput) -> u64 {
        let mut effects = self.step(input);
        if effects.is_empty() {
            // Questions keep a distance.
            self.now += ASK_APART;
            effects = self.step(have([]));
        }
        match effects[..] {
            [SessionEffect::SendSummary { nonce, answer: false }] => nonce,
            ref other => panic!("{other:?}"),
        }
    }

    /// What a tick has done so many seconds later.
    fn after(&mut self, secs: u64) -> Vec<SessionEffect> {
        self.now += Duration::from_secs(secs);
        self.step(SessionInput::Tick)
    }

    /// Whether a reconciliation is opened within so many ticks, one per second; probes are answered on the way.
    fn reconciles_within(&mut self, secs: u64) -> bool {
        (0..secs).any(|_| {
            let effects = self.after(1);
            for effect in &effects {
                if let SessionEffect::SendSummary { nonce, answer: false } = effect {
                    self.quiet(compared(*nonce, EMPTY, EMPTY));
                }
            }
            effects.contains(&SessionEffect::Reconcile)
        })
    }

    fn state(&self) -> ConnectionState {
        self.session.standing().state
    }

    fn missing_here(&self) -> u64 {
        self.session.standing().missing_here
    }

    fn missing_there(&self) -> u64 {
        self.session.standing().missing_there
    }
}

fn settings(dialer: bool) -> SessionSettings {
    SessionSettings {
        tag: Bytes::new(),
        gives: true,
        takes: true,
        library: LIBRARY,
        record_key: KEYS.record().clone(),
        entries: false,
        lanes: 1,
        dialer,
        probe_after: Duration::from_secs(15),
    }
}

fn record(n: u32) -> AssetRecord {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    let meta = AssetMeta { created_at_ms: NOW_MS - 10_000, ..AssetMeta::default() };
    AssetRecord::new(ContentHash(hash), 100 + u64::from(n), None, meta)
}

fn edited(record: &AssetRecord, after_ms: u64, text: &str) -> AssetRecord {
    let mut edited = record.clone();
    edited.hlc = Hlc::from_ms(record.hlc.ms() + after_ms);
    edited.writer = WriterId([7; 32]);
    edited.meta.description = Some(text.to_owned());
    edited
}

fn id(record: &AssetRecord) -> RecordId {
    record.id(KEYS.record().expose())
}

fn rid_bytes(record: &AssetRecord) -> Bytes {
    Bytes::copy_from_slice(&id(record).0)
}

fn ids(records: &[AssetRecord]) -> Vec<RecordId> {
    records.iter().map(id).collect()
}

fn hashes(records: &[AssetRecord]) -> Vec<ContentHash> {
    records.iter().map(|record| record.hash).collect()
}

fn changed<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionInput {
    let entry = |(n, record): (usize, &AssetRecord)| FeedEntry {
        seq: n as u64,
        record: record.clone(),
        holding: Holding::Held,
        formers: Vec::new(),
    };
    SessionInput::changed(records.into_iter().enumerate().map(entry).collect())
}

/// The store has these, and holds what is live of it.
fn loaded(records: Vec<AssetRecord>) -> SessionInput {
    let stored = |record: AssetRecord| {
        let holding = if record.deleted { Holding::Unwanted } else { Holding::Held };
        StoredRecord { record, holding }
    };
    SessionInput::Loaded { records: records.into_iter().map(stored).collect() }
}

fn wire_offer<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> Offer {
    Offer {
        library: LIBRARY,
        records: records.into_iter().map(WireRecord::from).collect(),
        ..Offer::default()
    }
}

fn offer<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionEffect {
    offer_with(records, [])
}

fn offer_with<'a>(
    records: impl IntoIterator<Item = &'a AssetRecord>,
    gone: impl IntoIterator<Item = &'a AssetRecord>,
) -> SessionEffect {
    let gone = gone.into_iter().map(rid_bytes).collect();
    SessionEffect::Send(frame::Kind::Offer(Offer { gone, ..wire_offer(records) }))
}

fn offered<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionInput {
    SessionInput::Frame(frame::Kind::Offer(wire_offer(records)))
}

fn judged<'a>(verdicts: impl IntoIterator<Item = (&'a AssetRecord, OfferVerdict)>) -> SessionInput {
    SessionInput::Judged(verdicts.into_iter().map(|(record, verdict)| (record.clone(), verdict)).collect())
}

fn have_frame<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> frame::Kind {
    let hashes = records.into_iter().map(|record| Bytes::copy_from_slice(&record.hash.0)).collect();
    frame::Kind::Have(Have { hashes, ..Have::default() })
}

fn have<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionInput {
    SessionInput::Frame(have_frame(records))
}

fn confirmed<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionEffect {
    SessionEffect::Send(have_frame(records))
}

fn error_frame(record: Option<&AssetRecord>, message: &str) -> frame::Kind {
    let hash = record.map(|record| Bytes::copy_from_slice(&record.hash.0));
    frame::Kind::Error(proto::Error {
        code: 422,
        message: message.to_owned(),
        hash,
        ..proto::Error::default()
    })
}

fn error(record: Option<&AssetRecord>, message: &str) -> SessionInput {
    SessionInput::Frame(error_frame(record, message))
}

fn refusal(record: &AssetRecord, message: &str) -> SessionEffect {
    SessionEffect::Send(error_frame(Some(record), message))
}

fn records_frame(records: &[AssetRecord]) -> frame::Kind {
    frame::Kind::Records(Records { library: LIBRARY, rids: records.iter().map(rid_bytes).collect() })
}

fn ask(records: &[AssetRecord]) -> SessionEffect {
    SessionEffect::Send(records_frame(records))
}

fn question(records: &[AssetRecord]) -> SessionInput {
    SessionInput::Frame(records_frame(records))
}

fn compared(nonce: u64, theirs: Summary, ours: Summary) -> SessionInput {
    SessionInput::Compared { answer: true, nonce, theirs, ours, certain: true }
}

fn ended(opened_here: bool) -> SessionInput {
    SessionInput::ReconEnded { opened_here, result: Ok(()) }
}

/// Records in an offer; none in anything else.
fn records_in(effect: &SessionEffect) -> usize {
    match effect {
        SessionEffect::Send(frame::Kind::Offer(offer)) => offer.records.len(),
        _ => 0,
    }
}

#[track_caller]
fn assert_closes(effects: &[SessionEffect], expected: u32) {
    let codes: Vec<u32> = effects
        .iter()
        .filter_map(|effect| match effect {
            SessionEffect::Close { code, reason } if !reason.is_empty() => Some(*code),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [expected], "{effects:?}");
}
