//! Any order of events.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Announce(u64, u32, u64, u8),
    Finish(usize, u8),
    Commit(usize, u8),
    End(u64),
    Tick(u64),
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64, 0..40u32, prop_oneof![0..100u64, 60_000..70_000u64, 2_000_000..6_000_000u64], 0..3u8)
            .prop_map(|(s, n, size, root)| Step::Announce(s, n, size, root)),
        8 => (any::<usize>(), 0..8u8).prop_map(|(i, how)| Step::Finish(i, how)),
        2 => (any::<usize>(), 0..10u8).prop_map(|(i, how)| Step::Commit(i, how)),
        1 => (1..4u64).prop_map(Step::End),
        2 => (1..4u64).prop_map(Step::Tick),
        1 => Just(Step::Resume),
    ]
}

/// What the world around the scheduler knows: what is on its way, and what is being done.
#[derive(Default)]
struct Around {
    flying: Vec<(SessionId, u64, WantKey, Option<Range<u64>>)>,
    /// Commits, applications and restrictions under way.
    doing: Vec<ScheduleDecision>,
}

impl Around {
    fn note(&mut self, decisions: Vec<ScheduleDecision>) -> Result<(), TestCaseError> {
        for decision in decisions {
            match decision {
                ScheduleDecision::Fetch { session, request, records, .. } => {
                    for r in records {
                        prop_assert!(self.flying.iter().all(|f| f.2 != key(&r)), "a whole is fetched twice");
                        self.flying.push((session, request, key(&r), None));
                    }
                }
                ScheduleDecision::FetchPart { session, request, key, range, .. } => {
                    let same: Vec<_> = self
                        .flying
                        .iter()
                        .filter(|f| f.2 == key && f.3.as_ref().is_some_and(|r| r.start == range.start))
                        .collect();
                    prop_assert!(same.len() < 2 && same.iter().all(|f| f.0 != session), "{same:?}");
                    self.flying.push((session, request, key, Some(range)));
                }
                ScheduleDecision::Revoke { session, request } => {
                    self.flying.retain(|f| (f.0, f.1) != (session, request));
                }
                ScheduleDecision::Settled { .. }
                | ScheduleDecision::Failed { .. }
                | ScheduleDecision::Lied { .. }
                | ScheduleDecision::Misnamed { .. } => {}
                ScheduleDecision::Commit(..)
                | ScheduleDecision::Apply(..)
                | ScheduleDecision::Restart(_)
                | ScheduleDecision::Restrict { .. } => {
                    self.doing.push(decision);
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, s: &mut Scheduler, i: usize, how: u8) -> Vec<ScheduleDecision> {
        let (session, request, key, range) = self.flying.remove(i % self.flying.len());
        let result = match how {
            0 => Err(FetchFailure::Source("x".into())),
            1 => Err(FetchFailure::Store("x".into())),
            2 => Err(FetchFailure::WrongBytes("x".into())),
            3 => Err(FetchFailure::NoProof("x".into())),
            4 => Err(FetchFailure::FalseProof("x".into())),
            _ => Ok(()),
        };
        match range {
            Some(_) => s.part_finished(session, request, result),
            None => s.finished(session, [(key, result)]),
        }
    }

    fn done(&mut self, s: &mut Scheduler, i: usize, how: u8) -> Vec<ScheduleDecision> {
        let store = || FetchFailure::Store("x".into());
        match (self.doing.remove(i % self.doing.len()), how) {
            (ScheduleDecision::Commit(key, _), 0) => s.committed(key, Committed::NotTaken(store())),
            (ScheduleDecision::Commit(key, _), 1) => {
                s.committed(key, Committed::NotTaken(FetchFailure::Asset("x".into())))
            }
            (ScheduleDecision::Commit(key, _), 2) => s.committed(key, Committed::WrongFrom(Some(A))),
            (ScheduleDecision::Commit(key, _), 3) => {
                s.committed(key, Committed::WrongFromSeveral(vec![(B, 5)]))
            }
            (ScheduleDecision::Commit(key, _), 4) => s.committed(key, Committed::Again),
            (ScheduleDecision::Commit(key, _), 5) => s.committed(key, Committed::WrongRoot(vec![B])),
            (ScheduleDecision::Commit(key, _), _) => s.committed(key, Committed::Stored),
            (ScheduleDecision::Apply(key, _), 0) => s.applied(key, Err(store())),
            (ScheduleDecision::Apply(key, _), 1) => s.applied(key, Err(FetchFailure::Source("x".into()))),
            (ScheduleDecision::Apply(key, _), _) => s.applied(key, Ok(())),
            (ScheduleDecision::Restrict { key, .. }, 0) => s.restricted(key, Err(store())),
            (ScheduleDecision::Restrict { key, .. } | ScheduleDecision::Restart(key), _) => {
                s.restricted(key, Ok(()))
            }
            (other, _) => panic!("{other:?}"),
        }
    }
}

proptest! {
    /// Whatever happens: wholes come from one source and parts from at most two, limits hold, and once everything
    /// that is asked for arrives, nothing is missing and nothing is charged.
    #[test]
    fn nothing_is_fetched_twice_or_forgotten(steps in prop::collection::vec(step(), 0..200)) {
        let limits = ScheduleLimits { node_bytes: 8 << 20, peer_bytes: 4 << 20, part_bytes: 1 << 20, ..LIMITS };
        let start = Instant::now();
        let mut s = Scheduler::new(limits, start);
        let mut around = Around::default();
        let (mut seconds, mut received) = (0, [0; 4]);
        for step in steps {
            let decisions = match step {
                Step::Announce(session, n, size, root) => {
                    let blake3 = (root > 0).then_some([root; 32]);
                    s.announce(SessionId(session), None, vec![AssetRecord { blake3, ..record(n, size) }])
                }
                Step::Finish(i, how) if !around.flying.is_empty() => around.finish(&mut s, i, how),
                Step::Commit(i, how) if !around.doing.is_empty() => around.done(&mut s, i, how),
                Step::Finish(..) | Step::Commit(..) => continue,
                Step::End(session) => {
                    around.flying.retain(|f| f.0 != SessionId(session));
                    s.session_ended(SessionId(session))
                }
                Step::Tick(fast) => {
                    seconds += 2;
                    received[usize::try_from(fast).unwrap()] += 100_000_000;
                    let progress = (1..4).map(|n| {
                        let received = received[usize::try_from(n).unwrap()];
                        (SessionId(n), SourceProgress { received, held_here: false })
                    });
                    s.tick(start + Duration::from_secs(seconds), progress.collect::<Vec<_>>())
                }
                Step::Resume => s.resume(),
            };
            around.note(decisions)?;
            prop_assert!(s.in_flight <= limits.node_bytes + 3 * LARGE_CHARGE);
            for session in [A, B, C] {
                let requests: BTreeSet<u64> =
                    around.flying.iter().filter(|f| f.0 == session).map(|f| f.1).collect();
                prop_assert!(requests.len() <= 16);
            }
        }
        // All is well from now on; nobody rests any more.
        seconds += 100;
        let mut decisions = s.resume();
        decisions.extend(s.tick(start + Duration::from_secs(seconds), []));
        for _ in 0..20_000 {
            around.note(decisions)?;
            decisions = if !around.flying.is_empty() {
                around.finish(&mut s, 0, 9)
            } else if !around.doing.is_empty() {
                around.done(&mut s, 0, 9)
            } else {
                break;
            };
        }
        prop_assert_eq!(s.missing(), (0, 0));
        prop_assert_eq!((s.in_flight, s.flights.len()), (0, 0));
        let idle = |source: &SessionSource| (source.bytes, source.requests, source.large_requests) == (0, 0, 0);
        prop_assert!(s.sources.values().all(idle));
    }
}
