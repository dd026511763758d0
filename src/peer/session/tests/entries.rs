//! Records of folders: offered, taken, put off and refused, beside those of assets.

use std::slice::from_ref;

use super::*;
use crate::entry::{EntryFile, EntryHash, EntryPath, EntryRecord, FolderId, FolderRecord};
use crate::peer::session::EntryNews;
use crate::store::entries::StoredEntry;
use crate::wire::proto::{Deferral, Later, Records, WireEntry};

fn knowing() -> Test {
    let now = Instant::now();
    let settings = SessionSettings { entries: true, ..settings(true) };
    Test { session: Session::new(settings, EMPTY, EMPTY, now).0, now }
}

fn entry(n: u16) -> FolderRecord {
    let file = EntryFile { target: ContentHash([7; 32]), size: 5, mtime_ms: 0, executable: false };
    FolderRecord::Entry(EntryRecord {
        folder: FolderId([1; 32]),
        path: EntryPath::parse(&format!("d/{n}")).unwrap(),
        hlc: Hlc(u64::from(n) + 1),
        writer: WriterId([2; 32]),
        file: Some(file),
        was: None,
        by: "ann".into(),
        seen: Vec::new(),
    })
}

fn rid(record: &FolderRecord) -> RecordId {
    record.id(KEYS.record().expose())
}

fn news(news: EntryNews) -> SessionInput {
    SessionInput::Entries(news)
}

fn entries_changed(records: &[FolderRecord]) -> SessionInput {
    let stored = |(n, record): (usize, &FolderRecord)| StoredEntry { seq: n as u64, record: record.clone() };
    news(EntryNews::Changed(records.iter().enumerate().map(stored).collect()))
}

fn wire(records: &[FolderRecord], gone: &[RecordId]) -> frame::Kind {
    frame::Kind::Offer(Offer {
        library: LIBRARY,
        entries: records.iter().map(WireEntry::from).collect(),
        gone: gone.iter().map(|rid| Bytes::copy_from_slice(&rid.0)).collect(),
        ..Offer::default()
    })
}

fn names(records: &[FolderRecord]) -> Vec<EntryHash> {
    records.iter().map(FolderRecord::hash).collect()
}

fn bytes_of(records: &[FolderRecord]) -> Vec<Bytes> {
    records.iter().map(|record| Bytes::copy_from_slice(&record.hash().0)).collect()
}

fn have_entries(records: &[FolderRecord]) -> frame::Kind {
    frame::Kind::Have(Have { entries: bytes_of(records), ..Have::default() })
}

fn settled(records: &[FolderRecord]) -> SessionInput {
    news(EntryNews::Taken { settled: names(records), failed: vec![], later: vec![] })
}

#[test]
fn what_changes_is_offered_until_it_is_confirmed_and_not_offered_back() {
    let mut t = knowing();
    let (ours, theirs) = ([entry(1), entry(2)], [entry(3)]);
    assert_eq!(t.step(entries_changed(&ours)), [SessionEffect::Send(wire(&ours, &[]))]);
    assert_eq!((t.missing_there(), t.state()), (2, ConnectionState::Syncing));
    t.quiet(SessionInput::Frame(have_entries(&ours[..1])));
    assert_eq!(t.missing_there(), 1);
    t.quiet(SessionInput::Frame(have_entries(&ours[1..])));
    assert_eq!((t.missing_there(), t.state()), (0, ConnectionState::InSync));
    // Confirmed twice is no harm.
    t.quiet(SessionInput::Frame(have_entries(&ours)));

    let taken = t.step(SessionInput::Frame(wire(&theirs, &[])));
    assert_eq!(taken, [SessionEffect::TakeEntries(theirs.to_vec())]);
    assert_eq!(t.missing_here(), 1);
    assert_eq!(t.step(settled(&theirs)), [SessionEffect::Send(have_entries(&theirs))]);
    assert_eq!((t.missing_here(), t.state()), (0, ConnectionState::InSync));
    t.quiet(entries_changed(&theirs));
    // Once more it would be news.
    assert_eq!(t.step(entries_changed(&theirs)), [SessionEffect::Send(wire(&theirs, &[]))]);
}

#[test]
fn a_peer_that_knows_none_gets_none_and_gives_none() {
    let mut t = Test::in_sync();
    t.quiet(entries_changed(&[entry(1)]));
    t.quiet(news(EntryNews::Differences { have: names(&[entry(1)]), need: vec![rid(&entry(2))] }));
    assert_eq!(t.state(), ConnectionState::InSync);
    let effects = t.step(SessionInput::Frame(wire(&[entry(1)], &[])));
    assert!(matches!(&effects[..], [SessionEffect::Close { code: 400, .. }]), "{effects:?}");
}

#[test]
fn differences_are_loaded_and_asked_for_by_id_whatever_they_are_of() {
    let mut t = knowing();
    let (ours, theirs) = (entry(1), entry(2));
    let effects =
        t.step(news(EntryNews::Differences { have: names(from_ref(&ours)), need: vec![rid(&theirs)] }));
    let asked = Records { library: LIBRARY, rids: vec![Bytes::copy_from_slice(&rid(&theirs).0)] };
    assert_eq!(
        effects,
        [
            SessionEffect::LoadEntries(names(from_ref(&ours))),
            SessionEffect::Send(frame::Kind::Records(asked.clone()))
        ]
    );
    let loaded = t.step(news(EntryNews::Loaded(vec![ours.clone()])));
    assert_eq!(loaded, [SessionEffect::Send(wire(from_ref(&ours), &[]))]);
    t.quiet(SessionInput::Frame(have_entries(from_ref(&ours))));
    assert_eq!(t.session.standing().unseen, 1);
    t.step(SessionInput::Frame(wire(from_ref(&theirs), &[])));
    assert_eq!(t.session.standing().unseen, 0);
    t.step(settled(&[theirs]));
    // The peer asks for one of ours that is there, and for one that was overtaken meanwhile.
    let (there, overtaken, now_there) = (entry(5), entry(6), entry(7));
    let rids = [rid(&there), rid(&overtaken)];
    let bytes = rids.iter().map(|rid| Bytes::copy_from_slice(&rid.0)).collect();
    let question = Records { library: LIBRARY, rids: bytes };
    assert_eq!(
        t.step(SessionInput::Frame(frame::Kind::Records(question))),
        [SessionEffect::Resolve(rids.to_vec())]
    );
    let found = vec![(rids[0], there.hash()), (rids[1], now_there.hash())];
    let load = t.step(news(EntryNews::Resolved(found)));
    assert_eq!(load, [SessionEffect::LoadEntries(names(&[there.clone(), now_there.clone()]))]);
    t.quiet(SessionInput::Resolved { found: vec![], gone: vec![] });
    let both = [there, now_there];
    let answered = t.step(news(EntryNews::Loaded(both.to_vec())));
    assert_eq!(answered, [SessionEffect::Send(wire(&both, &rids[1..]))]);
}

#[test]
fn what_is_not_taken_is_refused_alone_and_tried_again() {
    let mut t = knowing();
    let theirs = [entry(1), entry(2)];
    t.step(SessionInput::Frame(wire(&theirs, &[])));
    let failed = vec![(theirs[0].hash(), "it lies".to_owned())];
    let effects = t.step(news(EntryNews::Taken { settled: names(&theirs[1..]), failed, later: vec![] }));
    let refusal = proto::Error {
        code: 422,
        message: "it lies".into(),
        hash: Some(bytes_of(&theirs)[0].clone()),
        entry: true,
        ..proto::Error::default()
    };
    assert_eq!(
        effects,
        [
            SessionEffect::Send(have_entries(&theirs[1..])),
            SessionEffect::Send(frame::Kind::Error(refusal.clone()))
        ]
    );
    assert_eq!(t.missing_here(), 1);
    assert!(t.reconciles_within(20));
    // The other side of it.
    let mut t = knowing();
    t.step(entries_changed(&theirs));
    t.quiet(SessionInput::Frame(frame::Kind::Error(refusal)));
    t.quiet(SessionInput::Frame(have_entries(&theirs[1..])));
    assert_eq!(t.missing_there(), 1);
    assert!(t.session.standing().last_error.is_some_and(|error| error.contains("it lies")));
    assert!(t.reconciles_within(20));
}

#[test]
fn what_is_dated_too_far_ahead_waits_on_both_sides() {
    let mut t = knowing();
    let record = entry(1);
    t.step(SessionInput::Frame(wire(from_ref(&record), &[])));
    let later = vec![(record.clone(), 60_000)];
    let effects = t.step(news(EntryNews::Taken { settled: vec![], failed: vec![], later }));
    let deferral = Deferral {
        hash: bytes_of(from_ref(&record))[0].clone(),
        rid: Bytes::copy_from_slice(&rid(&record).0),
        wait_ms: 60_000,
        held: false,
        entry: true,
    };
    let frame = frame::Kind::Later(Later { deferrals: vec![deferral], ..Later::default() });
    assert_eq!(effects, [SessionEffect::Send(frame.clone())]);
    assert_eq!(t.state(), ConnectionState::InSync);
    let differs = || news(EntryNews::Differences { have: vec![], need: vec![rid(&record)] });
    t.quiet(differs());
    t.step(SessionInput::Reconsider);
    assert!(
        t.step(differs()).iter().any(|effect| matches!(effect, SessionEffect::Send(_))),
        "asked for again"
    );

    let mut t = knowing();
    t.step(entries_changed(from_ref(&record)));
    t.quiet(SessionInput::Frame(frame));
    assert_eq!((t.missing_there(), t.state()), (0, ConnectionState::InSync));
    t.quiet(entries_changed(from_ref(&record)));
    t.now += Duration::from_secs(61);
    let due = t.step(SessionInput::Tick);
    assert!(due.contains(&SessionEffect::LoadEntries(names(&[record]))), "{due:?}");
}

#[test]
fn offers_are_bounded_in_number_and_bytes() {
    let mut t = knowing();
    let many: Vec<FolderRecord> = (0..5_000).map(entry).collect();
    let effects = t.step(entries_changed(&many));
    let [SessionEffect::LoadEntries(first)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(first.len(), LOAD_BATCH);
    let sent = t.step(news(EntryNews::Loaded(many[..LOAD_BATCH].to_vec())));
    let offered = |effect: &SessionEffect| match effect {
        SessionEffect::Send(frame::Kind::Offer(offer)) => offer.entries.len(),
        _ => 0,
    };
    assert_eq!(sent.iter().map(offered).sum::<usize>(), LOAD_BATCH);
    assert_eq!(t.missing_there(), 5_000 - LOAD_BATCH as u64, "the next are being loaded");

    // A peer that offers and never hears how it went has offered too much.
    let mut t = knowing();
    let frames = OFFERS_TAKEN_MAX / 1_000;
    for _ in 0..frames {
        let taken = t.step(SessionInput::Frame(wire(&many[..1_000], &[])));
        assert!(matches!(&taken[..], [SessionEffect::TakeEntries(_)]));
    }
    let closed = t.step(SessionInput::Frame(wire(&many[..1_000], &[])));
    assert!(matches!(&closed[..], [SessionEffect::Close { code: 400, .. }]), "{closed:?}");
    let mut t = knowing();
    let closed = t.step(SessionInput::Frame(wire(&many[..1_001], &[])));
    assert!(matches!(&closed[..], [SessionEffect::Close { code: 400, .. }]), "{closed:?}");
}

#[test]
fn one_name_for_an_asset_and_an_entry_is_two_things() {
    let mut t = knowing();
    let entry = entry(1);
    let asset = AssetRecord { hash: ContentHash(entry.hash().0), ..record(1) };
    t.step(changed([&asset]));
    t.step(entries_changed(from_ref(&entry)));
    assert_eq!(t.missing_there(), 2);
    t.quiet(SessionInput::Frame(have_entries(&[entry])));
    assert_eq!(t.missing_there(), 1);
    t.quiet(have([&asset]));
    assert_eq!(t.missing_there(), 0);
}

#[test]
fn assets_and_entries_have_one_budget() {
    let mut t = knowing();
    let assets: Vec<AssetRecord> = (0..4_000).map(record).collect();
    let offered = t.step(changed(&assets[..]));
    assert!(!offered.is_empty());
    let entries: Vec<FolderRecord> = (0..200).map(entry).collect();
    // There is room for 96; the rest waits for confirmations, and is loaded then.
    let effects = t.step(entries_changed(&entries));
    assert_eq!(effects, [SessionEffect::LoadEntries(names(&entries[..96]))]);
    t.step(news(EntryNews::Loaded(entries[..96].to_vec())));
    assert_eq!(t.session.open().0, 4_096);
    t.quiet(changed(&[record(5_000)]));
    let confirmed = t.step(SessionInput::Frame(have_entries(&entries[..50])));
    assert_eq!(
        confirmed,
        [SessionEffect::Load(vec![record(5_000).hash]), SessionEffect::LoadEntries(names(&entries[96..146]))]
    );
}

#[test]
fn what_is_dated_ahead_is_counted() {
    let mut t = knowing();
    let before = t.session.waiting_changes();
    t.step(SessionInput::Frame(wire(&[entry(1)], &[])));
    t.step(news(EntryNews::Taken { settled: vec![], failed: vec![], later: vec![(entry(1), 60_000)] }));
    t.step(entries_changed(&[entry(2)]));
    let deferral = Deferral {
        hash: bytes_of(&[entry(2)])[0].clone(),
        rid: Bytes::copy_from_slice(&rid(&entry(2)).0),
        wait_ms: 60_000,
        held: false,
        entry: true,
    };
    t.step(SessionInput::Frame(frame::Kind::Later(Later {
        library: Bytes::new(),
        deferrals: vec![deferral],
    })));
    let waiting = t.session.standing().waiting;
    assert_eq!((waiting.dated_here, waiting.dated_there), (1, 1));
    assert!(t.session.waiting_changes() > before);
    t.now += Duration::from_secs(61);
    t.step(SessionInput::Tick);
    assert_eq!(t.session.standing().waiting, WaitingCounts::default());
}

#[test]
fn only_what_differs_is_compared_and_entries_where_they_were_agreed_on() {
    let told = |count| Some(crate::reconcile::EntrySummary { count, fingerprint: [0; 16] });
    let with = |summary: Summary, count| Summary { entries: told(count), ..summary };
    for (agreed, ours, theirs, expected) in [
        (true, with(EMPTY, 1), with(EMPTY, 1), (true, true)),
        (true, with(EMPTY, 1), with(EMPTY, 2), (false, true)),
        (true, with(OTHER, 1), with(EMPTY, 1), (true, false)),
        (true, with(OTHER, 1), with(EMPTY, 2), (true, true)),
        (false, with(EMPTY, 1), with(EMPTY, 2), (true, false)),
        (false, OTHER, EMPTY, (true, false)),
    ] {
        let settings = SessionSettings { entries: agreed, ..settings(true) };
        let (session, effects) = Session::new(settings, ours, theirs, Instant::now());
        let differ = ours.count != theirs.count || (agreed && ours.entries != theirs.entries);
        assert_eq!(effects.is_empty(), !differ);
        assert_eq!(session.to_compare(ours), expected);
    }
}

#[test]
fn a_session_begins_anew_once_both_sides_keep_entries() {
    let mut t = Test::in_sync();
    let told = Some(crate::reconcile::EntrySummary::default());
    let knows = Summary { entries: told, ..EMPTY };
    let compared =
        |ours, theirs| SessionInput::Compared { answer: false, nonce: 1, theirs, ours, certain: true };
    for (ours, theirs) in [(EMPTY, knows), (knows, EMPTY)] {
        assert_eq!(t.step(compared(ours, theirs)), [SessionEffect::SendSummary { nonce: 1, answer: true }]);
    }
    let effects = t.step(compared(knows, knows));
    assert!(matches!(&effects[..], [SessionEffect::Close { code: 2, .. }, _]), "{effects:?}");
    let mut t = knowing();
    assert_eq!(t.step(compared(knows, knows)), [SessionEffect::SendSummary { nonce: 1, answer: true }]);
}

#[test]
fn other_entries_that_fail_are_worth_trying_as_soon_as_before() {
    let mut t = knowing();
    let fail = |t: &mut Test, n: u16| {
        t.step(SessionInput::Frame(wire(&[entry(n)], &[])));
        let failed = vec![(entry(n).hash(), "no".to_owned())];
        t.step(news(EntryNews::Taken { settled: vec![], failed, later: vec![] }));
    };
    fail(&mut t, 0);
    let mut tries = 0;
    for _ in 0..600 {
        for effect in t.after(1) {
            match effect {
                SessionEffect::SendSummary { nonce, answer: false } => {
                    t.step(compared(nonce, EMPTY, EMPTY));
                }
                SessionEffect::Reconcile => {
                    tries += 1;
                    t.step(ended(true));
                    fail(&mut t, tries);
                }
                _ => {}
            }
        }
    }
    assert!(tries > 20, "{tries} in ten minutes");
}

#[test]
fn a_readers_entries_are_refused_one_by_one_and_a_reader_offers_none() {
    let now = Instant::now();
    let with = |gives, takes| {
        let settings = SessionSettings { entries: true, gives, takes, tag: LIBRARY, ..settings(true) };
        Test { session: Session::new(settings, EMPTY, EMPTY, now).0, now }
    };
    let (mut owner, records) = (with(true, false), [entry(1), entry(2)]);
    let answers = owner.step(SessionInput::Frame(wire(&records, &[])));
    let refused = answers.iter().map(|effect| match effect {
        SessionEffect::Send(frame::Kind::Error(error)) => {
            assert_eq!((error.code, error.entry, &error.library), (403, true, &LIBRARY));
            error.hash.clone().unwrap()
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(refused.collect::<Vec<_>>(), bytes_of(&records));
    assert_eq!((owner.state(), owner.missing_here()), (ConnectionState::InSync, 0), "nothing is left of it");
    owner.quiet(news(EntryNews::Differences { have: Vec::new(), need: vec![rid(&entry(3))] }));
    assert_eq!(owner.step(entries_changed(&records)), [SessionEffect::Send(wire(&records, &[]))]);

    let mut reader = with(false, true);
    reader.quiet(entries_changed(&records));
    reader.quiet(news(EntryNews::Differences { have: names(&records), need: Vec::new() }));
    let taken = reader.step(SessionInput::Frame(wire(&records, &[])));
    assert_eq!(taken, [SessionEffect::TakeEntries(records.to_vec())]);
}
