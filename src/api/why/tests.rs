use super::*;
use crate::record::{AssetMeta, AssetRecord};

#[test]
fn what_is_left_out_says_by_what() {
    let record = AssetRecord::new(ContentHash([1; 32]), 5 << 20, None, AssetMeta::default());
    let record = StoredRecord { record, holding: Holding::Wanted };
    let report = WhyReport::default();
    let left_out = whereabouts(Some(&record), Some(Availability::LeftOut), &report).unwrap();
    assert_eq!(left_out, Availability::LeftOut);
    assert!(explain(left_out, None, &report).contains("`hold` in the configuration"));
    assert!(explain(Availability::NoRoom, None, &report).contains("store.quota_bytes"));
}

#[test]
fn every_case_has_its_sentence() {
    let record = AssetRecord::new(ContentHash([1; 32]), 5 << 20, None, AssetMeta::default());
    let mut record = StoredRecord { record, holding: Holding::Held };
    let mut report = WhyReport::default();
    let say = |known: Option<&StoredRecord>, report: &WhyReport| {
        let size = known.map(|known| known.record.size).or(report.size);
        whereabouts(known, None, report).map(|state| (state, explain(state, size, report)))
    };
    assert_eq!(say(None, &report), None);
    assert_eq!(say(Some(&record), &report).unwrap().0, Availability::Here);
    record.holding = Holding::Wanted;
    let (state, text) = say(Some(&record), &report).unwrap();
    assert!(state == Availability::Missing && text.contains("asked for it when it connects"), "{text}");
    record.holding = Holding::Unwanted;
    let (state, text) = say(Some(&record), &report).unwrap();
    assert!(state == Availability::LetGo && text.contains("can-sync fetch"), "{text}");
    record.record.deleted = true;
    assert_eq!(say(Some(&record), &report).unwrap().0, Availability::Deleted);
    let mut search = SearchReport { open: true, asked: 2, lack: 1, unreachable: 0 };
    report.search = Some(search);
    for record in [None, Some(&record)] {
        let (state, text) = say(record, &report).unwrap();
        assert!(state == Availability::Searching && text.starts_with("2 peers are asked"), "{text}");
    }
    search = SearchReport { open: false, asked: 1, lack: 1, unreachable: 3 };
    report.search = Some(search);
    assert_eq!(say(None, &report), None);
    for (deleted, holding) in [(true, Holding::Unwanted), (false, Holding::Wanted)] {
        (record.record.deleted, record.holding) = (deleted, holding);
        let text = say(Some(&record), &report).unwrap().1;
        assert!(text.contains("was asked does not have it; 3 did not answer"), "{text}");
    }
    report.search = None;
    let waiting =
        WaitingReport { name: "desk".into(), here: true, wait_secs: 86_400, ..WaitingReport::default() };
    report.waiting = vec![waiting.clone()];
    let (state, text) = say(None, &report).unwrap();
    assert!(state == Availability::Later && text.contains("desk () has a version"), "{text}");
    assert!(text.contains("taken in 24 hours"), "{text}");
    report.waiting = vec![WaitingReport { here: false, ..waiting }];
    assert_eq!(say(None, &report), None);
    let held = StoredRecord { holding: Holding::Held, ..record.clone() };
    let (state, text) = say(Some(&held), &report).unwrap();
    assert!(state == Availability::Here && text.contains("does not take this machine's version"), "{text}");
    report.waiting = Vec::new();
    let liar = SourceReport {
        endpoint_id: "b".repeat(64),
        last_error: Some("it sent wrong bytes".into()),
        state: SourceState::Lied,
        ..SourceReport::default()
    };
    report.sources.push(liar);
    let (state, text) = say(None, &report).unwrap();
    assert_eq!(state, Availability::Failed);
    assert!(text.contains("bbbbbbbbbb it did not come: it sent wrong bytes"), "{text}");
    report.wanted = true;
    report.size = Some(5 << 20);
    report.sources.push(SourceReport {
        endpoint_id: "a".repeat(64),
        name: "desk".into(),
        state: SourceState::HasIt,
        ..SourceReport::default()
    });
    let (state, text) = say(None, &report).unwrap();
    assert!(state == Availability::Waiting && text.starts_with("desk (aaaaaaaaaa) could send it"), "{text}");
    report.sources[1].state = SourceState::Sending;
    report.done = 1 << 20;
    let (state, text) = say(None, &report).unwrap();
    assert!(state == Availability::OnItsWay && text.contains("1.0 MiB of 5.0 MiB"), "{text}");
    report.complete = true;
    assert_eq!(say(None, &report).unwrap().0, Availability::Checking);
    report.paused = Some("the disk is full".into());
    let (state, text) = say(None, &report).unwrap();
    assert!(state == Availability::Paused && text.contains("the disk is full"), "{text}");
}
