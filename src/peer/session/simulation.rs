//! Networks of sessions in one thread and in virtual time, from a seed: the real session, scheduler, index and
//! reconciliation of every agent, between them messages that take their time, links that break, and users who add, edit
//! and delete meanwhile. Once the users rest and the links hold, every agent must come to the same records and contents,
//! say so, and fall silent.
//!
//! `CAN_SYNC_SIM_SEEDS=10000 cargo test --lib simulation` runs more of them, `CAN_SYNC_SIM_SEED=7` that one alone.

mod agent;
mod world;

use world::{Mode, World};

/// How many seeds each test runs unless the environment says otherwise.
const SEEDS: u64 = 500;

fn for_each_seed(mode: Mode) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let seeds = match number("CAN_SYNC_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CAN_SYNC_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| World::new(seed, mode).run());
        if let Err(why) = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
        }) {
            panic!("seed {seed} of {mode:?}: {why}\nagain: CAN_SYNC_SIM_SEED={seed}");
        }
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
fn agents_that_keep_what_others_delete_agree_on_the_rest_and_rest() {
    for_each_seed(Mode::AddOnly);
}
