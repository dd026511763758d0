//! Chance from a seed, the same on every machine, for the simulations of several modules; and which seeds of it they run.

use std::ops::Range;
use std::time::Duration;

/// Numbers that look random (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.roll().to_le_bytes()));
        bytes
    }

    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.below(most))
    }
}

/// The seeds to run: so many as are usual, as many as `CAN_SYNC_SIM_SEEDS` says, or `CAN_SYNC_SIM_SEED` alone.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let all = 0..number("CAN_SYNC_SIM_SEEDS").unwrap_or(usual);
    number("CAN_SYNC_SIM_SEED").map_or(all, |seed| seed..seed + 1)
}

/// Ends a test: with this seed something is wrong.
pub(crate) fn fail(seed: u64, of: &str, why: &str) -> ! {
    panic!("seed {seed}{of}: {why}\nagain: CAN_SYNC_SIM_SEED={seed}");
}
