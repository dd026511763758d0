//! What a crash or somebody else left of a ledger: see `testing::fuzz`.

use super::ledger::{head, line, parse};
use super::{key_of, name_of};
use crate::record::ContentHash;

/// The text of a ledger, and the name of the file that it is beside.
pub fn ledger(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(key) = key_of(&text) {
        assert_eq!(name_of(&key), text);
    }
    let hash = ContentHash([7; 32]);
    let Some((subject, ranges)) = parse(&text, hash) else { return };
    assert!(ranges.len() <= subject.size);
    let whole: String = ranges.iter().map(|range| line(&subject, &range, "")).collect();
    assert_eq!(parse(&format!("{}{whole}", head(&subject)), hash), Some((subject, ranges)));
}

/// Ledgers with and without a root, and the name of what one is beside.
#[cfg(test)]
pub(crate) fn examples() -> Vec<Vec<u8>> {
    use super::ledger::LedgerSubject;
    let hash = ContentHash([7; 32]);
    let of = |root| {
        let subject = LedgerSubject { hash, size: 1_000_000, root };
        format!(
            "{}{}{}",
            head(&subject),
            line(&subject, &(0..65_536), ""),
            line(&subject, &(70_000..1_000_000), "")
        )
    };
    [of(None), of(Some([3; 32])), format!("{hash}-1000000-{hash}")].map(String::into_bytes).into()
}
