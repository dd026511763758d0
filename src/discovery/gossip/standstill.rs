//! Notices that gossip stands still. Pure.
//!
//! iroh-gossip hands its messages to one neighbour after the other, and waits for each that has no room for more. A neighbour that
//! reads nothing holds up everything for as long as its connection lasts
//! (<https://github.com/n0-computer/iroh-gossip/issues/47>, of version 0.101 as well). A flood can do worse: where the queue of what
//! came in is full meanwhile, gossip stands still even after the connections are closed, until the node is started again.

/// Looks in a row, a second apart, in which gossip did nothing before it counts as standing still.
const LOOKS: u32 = 5;

#[derive(Debug, Default)]
pub(super) struct StandstillWatch {
    steps: Option<u64>,
    same: u32,
}

impl StandstillWatch {
    /// Takes note of how many steps gossip has made, where it was given something to do since the look before. Whether it stands
    /// still; said once, and again after as many looks.
    pub(super) fn stands_still(&mut self, steps: u64) -> bool {
        let is_same = self.steps.replace(steps) == Some(steps);
        self.same = if is_same { self.same + 1 } else { 0 };
        let stands_still = self.same >= LOOKS;
        if stands_still {
            self.same = 0;
        }
        stands_still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_still_after_five_looks_without_a_step_and_again_after_five_more() {
        let mut watch = StandstillWatch::default();
        let said: Vec<bool> = [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7].map(|steps| watch.stands_still(steps)).into();
        let expected = |look: usize| look == 5 || look == 10;
        assert!(said.iter().enumerate().all(|(look, said)| *said == expected(look)), "{said:?}");
    }

    #[test]
    fn one_step_in_between_is_enough() {
        let mut watch = StandstillWatch::default();
        for steps in [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3] {
            assert!(!watch.stands_still(steps), "{steps}");
        }
    }
}
