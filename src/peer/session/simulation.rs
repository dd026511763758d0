//! Networks of sessions in one thread and in virtual time, from a seed: the real session, scheduler, index and
//! reconciliation of every agent, between them messages that take their time, links that break, and users who add, edit
//! and delete meanwhile. Once the users rest and the links hold, every agent must come to the same records and contents,
//! say so, and fall silent.
//!
//! `CAN_SYNC_SIM_SEEDS=10000 cargo test --lib simulation` runs more of them, `CAN_SYNC_SIM_SEED=7` that one alone.

mod agent;
mod store;
mod world;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use world::{Mode, SimWorld};

use crate::seeded;

/// How many seeds each test runs unless the environment says otherwise; with libraries, where there is more to go wrong.
const SEEDS: u64 = 500;
const SEEDS_WITH_LIBRARIES: u64 = 1_200;

/// Runs seeds until one fails, on all cores.
fn for_each_seed(mode: Mode) {
    let usual = if mode == Mode::Libraries { SEEDS_WITH_LIBRARIES } else { SEEDS };
    let seeds = seeded::seeds(usual);
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || !failed.lock().is_empty() {
                return;
            }
            let outcome = std::panic::catch_unwind(|| SimWorld::new(seed, mode).run());
            let outcome = outcome.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
            });
            if let Err(why) = outcome {
                failed.lock().insert(seed, why);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    if let Some((seed, why)) = failed.into_inner().pop_first() {
        seeded::fail(seed, &format!(" of {mode:?}"), &why);
    }
}

#[test]
fn agents_that_replicate_everything_converge() {
    for_each_seed(Mode::Everything);
}

#[test]
fn agents_converge_though_a_clock_is_minutes_or_days_off_for_a_while() {
    for_each_seed(Mode::WrongClock);
}

#[test]
fn members_of_libraries_agree_and_nobody_learns_what_is_outside_whatever_one_of_them_says() {
    for_each_seed(Mode::Libraries);
}

#[test]
fn agents_that_keep_what_others_delete_agree_on_the_rest_and_rest() {
    for_each_seed(Mode::AddOnly);
}
