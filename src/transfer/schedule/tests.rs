#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::ops::Range;
use std::time::Duration;

use super::*;
use crate::record::AssetMeta;

mod alone;
mod asking;
mod ledger;
mod parts;
mod proofs;
mod random;
mod speed;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);
const LIMITS: ScheduleLimits = ScheduleLimits {
    node_bytes: 64 << 20,
    peer_bytes: 8 << 20,
    part_bytes: PART_BYTES,
    stall: Duration::from_secs(30),
};

fn record(n: u32, size: u64) -> AssetRecord {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    AssetRecord::new(ContentHash(hash), size, None, AssetMeta::default())
}

/// What is wanted of it for the mirror.
fn key(record: &AssetRecord) -> WantKey {
    WantKey::new(None, record)
}

fn scheduler() -> Scheduler {
    Scheduler::new(LIMITS, Instant::now())
}

fn fetched(decisions: &[ScheduleDecision]) -> Vec<(SessionId, WantKey)> {
    decisions
        .iter()
        .filter_map(|d| match d {
            ScheduleDecision::Fetch { session, library, records, .. } => Some((*session, *library, records)),
            _ => None,
        })
        .flat_map(|(session, library, records)| {
            records.iter().map(move |record| (session, WantKey::new(library, record)))
        })
        .collect()
}

fn parts(decisions: &[ScheduleDecision]) -> Vec<(SessionId, u64, Range<u64>)> {
    let part = |decision: &ScheduleDecision| match decision {
        ScheduleDecision::FetchPart { session, request, range, .. } => {
            Some((*session, *request, range.clone()))
        }
        _ => None,
    };
    decisions.iter().filter_map(part).collect()
}

fn revoked(decisions: &[ScheduleDecision]) -> Vec<(SessionId, u64)> {
    let revoked = |decision: &ScheduleDecision| match decision {
        ScheduleDecision::Revoke { session, request } => Some((*session, *request)),
        _ => None,
    };
    decisions.iter().filter_map(revoked).collect()
}

/// Lets `seconds` pass, in each of which a session sends so many bytes.
fn run(s: &mut Scheduler, seconds: u64, rates: &[(SessionId, u64)]) -> Vec<ScheduleDecision> {
    let mut out = Vec::new();
    let start = s.now;
    for second in 1..=seconds {
        let progress = |(session, rate): &(SessionId, u64)| {
            (*session, SourceProgress { received: (1 << 40) + second * rate, held_here: false })
        };
        out.extend(
            s.tick(start + Duration::from_secs(second), rates.iter().map(progress).collect::<Vec<_>>()),
        );
    }
    out
}

fn complete(s: &mut Scheduler, mut decisions: Vec<ScheduleDecision>) -> Vec<ScheduleDecision> {
    let mut all = Vec::new();
    loop {
        let open = parts(&decisions);
        all.append(&mut decisions);
        if open.is_empty() {
            return all;
        }
        for (session, request, _) in open {
            decisions.extend(s.part_finished(session, request, Ok(())));
        }
    }
}

fn newer(record: &AssetRecord) -> AssetRecord {
    let mut newer = record.clone();
    newer.hlc = record.hlc.next(1_700_000_000_000);
    newer.meta.description = Some("edited".into());
    newer
}
