//! Messages of a peer that compares records with us: see `testing::fuzz`.

use std::sync::LazyLock;

use super::engine::{EngineLimits, Initiator, Responder};
use super::tree::{Item, ItemTree, Snapshot};
use super::wire::{MessageReader, MessageWriter, RangeContent};
use crate::record::{ContentHash, Hlc, RecordId};

/// Some of everything: alone, many at one time, and at either end of time.
static ITEMS: LazyLock<Snapshot> = LazyLock::new(|| {
    let item = |number: u32| {
        let id = *blake3::hash(&number.to_le_bytes()).as_bytes();
        let hlc = match number {
            0 => 0,
            1 => u64::MAX - 1,
            2..100 => 7,
            number => u64::from(number) << 16,
        };
        Item { hlc: Hlc(hlc), rid: RecordId(id), hash: ContentHash(id) }
    };
    ItemTree::from_unsorted((0..700).map(item).collect()).snapshot()
});

/// A message: what is read of it is read again from what is written of that.
pub fn message(bytes: &[u8]) {
    let Ok(mut reader) = MessageReader::new(bytes) else { return };
    let mut writer = MessageWriter::new();
    let mut ranges = Vec::new();
    while let Ok(Some((bound, content))) = reader.next_range() {
        match content {
            RangeContent::Skip => writer.skip(&bound),
            RangeContent::Fingerprint(fingerprint) => writer.fingerprint(&bound, fingerprint),
            RangeContent::Ids(ids) => {
                assert!(ids.len() * 32 <= bytes.len());
                let rids: Vec<RecordId> = ids.iter().copied().map(RecordId).collect();
                writer.ids(&bound, rids.len(), rids.iter());
            }
        }
        ranges.push((bound, content));
    }
    let written = writer.finish();
    assert!(written.len() <= bytes.len(), "longer than what was read");
    let mut reader = MessageReader::new(&written).expect("it has our version");
    for range in &ranges {
        assert_eq!(reader.next_range().as_ref(), Ok(&Some(*range)));
    }
    assert_eq!(reader.next_range(), Ok(None));
}

/// A peer's messages, each behind its length in two bytes, to either side of a session. Whatever they say, answers keep within
/// the frame, no difference is made up, and a session that failed is over.
pub fn session(bytes: &[u8]) {
    let limits = EngineLimits { frame_bytes: 4096, rounds_max: 8, have_max: 100 };
    let mut answering = Responder::new(ITEMS.clone(), limits);
    let (mut asking, opening) = Initiator::new(ITEMS.clone(), limits);
    assert!(opening.len() <= limits.frame_bytes);
    let (mut rest, mut is_over) = (bytes, false);
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let (message, after) = after.split_at(usize::from(u16::from_be_bytes(*len)).min(after.len()));
        rest = after;
        if let Ok(reply) = answering.handle(message) {
            assert!(reply.len() <= limits.frame_bytes, "an answer of {} bytes", reply.len());
        }
        match asking.handle(message) {
            Ok(step) => {
                assert!(!is_over, "it went on after its end");
                assert!(step.have.len() <= limits.have_max && step.need.len() * 32 <= message.len());
                assert!(step.have.iter().all(|item| ITEMS.find(item.hlc, &item.rid) == Some(*item)));
                assert!(step.reply.as_ref().is_none_or(|reply| reply.len() <= limits.frame_bytes));
                is_over = step.reply.is_none();
            }
            Err(_) => is_over = true,
        }
    }
}
