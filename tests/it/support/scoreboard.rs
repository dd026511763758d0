//! What a test has in common with a row of the scoreboard (`benches/scoreboard.rs`) that runs it.

use std::fmt::Display;
use std::str::FromStr;

/// How often, how long or how many: what the environment says, or the few of an everyday run.
pub(crate) fn number<N: FromStr>(variable: &str, everyday: N) -> N {
    let Ok(text) = std::env::var(variable) else { return everyday };
    text.parse().unwrap_or_else(|_| panic!("{variable} is '{text}'"))
}

/// What random things follow from: the row's seed, or always the same.
pub(crate) fn seed(everyday: u64) -> u64 {
    number("CAN_SYNC_TEST_SEED", everyday)
}

/// Tells the figure, and whether it keeps the row's promise on the machine at hand. A test fails for what is wrong whatever
/// the machine; what depends on its speed is only told.
pub(crate) fn figure(kept: bool, figure: &dyn Display) {
    println!("scoreboard: {} {figure}", if kept { "kept" } else { "missed" });
}

/// As [`figure`], of a speed: where nothing was optimised it says nothing of the promise, and is only printed.
pub(crate) fn speed(kept: bool, figure: &dyn Display) {
    if cfg!(debug_assertions) {
        println!("without optimisation: {figure}");
    } else {
        self::figure(kept, figure);
    }
}
