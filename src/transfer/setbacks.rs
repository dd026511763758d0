//! What went wrong with which content and whose fault it was, for those who ask why something is not here. Pure.

use std::collections::{HashMap, VecDeque};

use iroh::EndpointId;

use crate::record::ContentHash;

/// Contents that are remembered; the oldest are forgotten first.
const CONTENTS_MAX: usize = 10_000;
/// Sources that are remembered for each.
const SOURCES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    pub peer: EndpointId,
    pub reason: String,
    /// Whether it sent something else.
    pub lied: bool,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The last failure of every source, by content.
#[derive(Debug, Default)]
pub struct Setbacks {
    of: HashMap<ContentHash, Vec<Setback>>,
    order: VecDeque<ContentHash>,
}

impl Setbacks {
    /// Takes note of a failure; it replaces an earlier one of the same source, but a lie is not forgotten over it.
    pub fn note(&mut self, hash: ContentHash, setback: Setback) {
        let known = self.of.entry(hash).or_insert_with(|| {
            self.order.push_back(hash);
            Vec::new()
        });
        match known.iter().position(|other| other.peer == setback.peer) {
            Some(n) if known[n].lied && !setback.lied => {}
            Some(n) => known[n] = setback,
            None if known.len() < SOURCES_MAX => known.push(setback),
            None => {}
        }
        while self.order.len() > CONTENTS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.of.remove(&oldest);
            }
        }
    }

    pub fn of(&self, hash: &ContentHash) -> &[Setback] {
        self.of.get(hash).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn setback(peer: EndpointId, lied: bool, at_ms: u64) -> Setback {
        Setback { peer, reason: "it broke".into(), lied, at_ms }
    }

    #[test]
    fn the_last_failure_of_each_source_counts_and_lies_stay() {
        let [a, b] = [1, 2].map(|n| SecretKey::from_bytes(&[n; 32]).public());
        let mut all = Setbacks::default();
        let hash = ContentHash([1; 32]);
        all.note(hash, setback(a, false, 1));
        all.note(hash, setback(b, true, 2));
        all.note(hash, setback(a, false, 3));
        all.note(hash, setback(b, false, 4));
        assert_eq!(all.of(&hash), [setback(a, false, 3), setback(b, true, 2)]);
        for n in 0..u32::try_from(CONTENTS_MAX).unwrap() {
            let mut other = [2; 32];
            other[..4].copy_from_slice(&n.to_be_bytes());
            all.note(ContentHash(other), setback(a, false, 5));
        }
        assert_eq!(all.of(&hash), []);
        assert!(all.of.len() <= CONTENTS_MAX);
    }
}
