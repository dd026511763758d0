//! The parts of one content by themselves, beside a plain list of how each one stands.

use proptest::prelude::*;

use crate::transfer::schedule::parts::{Parts, PartsPhase};

#[derive(Clone, Copy, Debug)]
enum Step {
    Take,
    TakeLast,
    Hedge(prop::sample::Index),
    GiveBack(prop::sample::Index),
    Done(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(Step::Take),
        2 => Just(Step::TakeLast),
        1 => which().prop_map(Step::Hedge),
        2 => which().prop_map(Step::GiveBack),
        2 => which().prop_map(Step::Done),
    ]
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stands {
    Untouched,
    Returned,
    Flying(Vec<u64>),
    Here,
}

/// One of those that are on their way.
fn flying(list: &[Stands], which: prop::sample::Index) -> Option<(u64, Vec<u64>)> {
    let all = (0..).zip(list).filter_map(|(part, stands)| match stands {
        Stands::Flying(requests) => Some((part, requests.clone())),
        _ => None,
    });
    let all: Vec<_> = all.collect();
    (!all.is_empty()).then(|| all[which.index(all.len())].clone())
}

/// The numbers of those that stand so, ascending.
fn those(list: &[Stands], stands: &Stands) -> Vec<u64> {
    (0..).zip(list).filter(|(_, one)| *one == stands).map(|(part, _)| part).collect()
}

fn check(parts: &Parts, list: &[Stands], size: u64) -> Result<(), TestCaseError> {
    let (untouched, returned) = (those(list, &Stands::Untouched), those(list, &Stands::Returned));
    let here = those(list, &Stands::Here);
    prop_assert_eq!(parts.has_free(), !untouched.is_empty() || !returned.is_empty());
    prop_assert_eq!(parts.is_begun(), untouched.len() < list.len());
    prop_assert_eq!(parts.done_bytes(), here.iter().map(|part| parts.len(*part)).sum::<u64>());
    prop_assert_eq!(parts.phase == PartsPhase::Complete, here.len() == list.len());
    let mut requests = Vec::new();
    for (part, stands) in (0..).zip(list) {
        let flies = if let Stands::Flying(flying) = stands { flying.as_slice() } else { &[] };
        requests.extend_from_slice(flies);
        prop_assert_eq!(parts.flies_alone(part), flies.len() == 1);
        if *stands != Stands::Untouched {
            prop_assert_eq!(parts.is_ahead(part), untouched.iter().all(|other| *other > part));
        }
        prop_assert_eq!(parts.range(part), part * 10..size.min(part * 10 + 10));
    }
    prop_assert_eq!(parts.first_request(), requests.first().copied());
    prop_assert_eq!(parts.requests(), requests);
    Ok(())
}

proptest! {
    #[test]
    fn each_part_is_asked_for_until_it_is_here(
        size in 11..300_u64,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut parts = Parts::new(size, 10, None);
        let mut list = vec![Stands::Untouched; usize::try_from(size.div_ceil(10)).unwrap()];
        let at = |part: u64| usize::try_from(part).unwrap();
        for (request, step) in (100..).zip(steps) {
            let (untouched, returned) = (those(&list, &Stands::Untouched), those(&list, &Stands::Returned));
            match step {
                // What came back goes first, and from the end last.
                Step::Take => {
                    let next = returned.first().or(untouched.first()).copied();
                    prop_assert_eq!(parts.take(request), next);
                    if let Some(part) = next {
                        list[at(part)] = Stands::Flying(vec![request]);
                    }
                }
                Step::TakeLast => {
                    let next = untouched.last().or(returned.last()).copied();
                    prop_assert_eq!(parts.take_last(request), next);
                    if let Some(part) = next {
                        list[at(part)] = Stands::Flying(vec![request]);
                    }
                }
                Step::Hedge(which) => if let Some((part, mut requests)) = flying(&list, which) {
                    parts.hedge(part, request);
                    requests.push(request);
                    list[at(part)] = Stands::Flying(requests);
                }
                Step::GiveBack(which) => if let Some((part, mut requests)) = flying(&list, which) {
                    parts.give_back(part, requests.remove(0));
                    let is_last = requests.is_empty();
                    list[at(part)] = if is_last { Stands::Returned } else { Stands::Flying(requests) };
                }
                Step::Done(which) => if let Some((part, requests)) = flying(&list, which) {
                    prop_assert_eq!(parts.done(part), requests);
                    list[at(part)] = Stands::Here;
                }
            }
            check(&parts, &list, size)?;
        }
        let done = parts.done_bytes();
        prop_assert_eq!(parts.start_over(), done);
        check(&parts, &vec![Stands::Untouched; list.len()], size)?;
    }
}
