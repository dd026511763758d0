//! Messages as bytes: a version, then ranges, each with its upper bound and what is said of it.
//!
//! A range begins where the one before it ended. Bounds are shortened: the clock as the difference to the bound before,
//! the id as the prefix that is needed to tell it from its lower neighbour. Everything read is checked against what is
//! left of the message before anything is reserved for it.

use super::fingerprint::FINGERPRINT_BYTES;
use crate::record::{Hlc, RecordId};

/// First byte of every message: version 1.
pub(super) const VERSION: u8 = 0x61;
/// The clock of the bound above everything; written as 0.
pub(super) const INFINITY: Hlc = Hlc(u64::MAX);
/// Longest number: 64 bits in groups of seven.
const VARINT_BYTES_MAX: usize = 10;

/// Why a session of reconciliation cannot go on.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum ReconError {
    #[error("the reconciliation message is empty")]
    Empty,
    #[error("the peer speaks reconciliation version byte {0:#04x}, not {VERSION:#04x}")]
    Version(u8),
    #[error("the reconciliation message ends within {what} at byte {at}")]
    Truncated {
        what: &'static str,
        /// Where it began, in bytes from the start of the message.
        at: usize,
    },
    /// A number that does not fit 64 bits, or is written with more bytes than it needs.
    #[error("malformed number for {what} at byte {at} of the reconciliation message")]
    Varint { what: &'static str, at: usize },
    #[error("id prefix of {len} bytes at byte {at} of the reconciliation message: at most 32")]
    IdPrefix { len: u64, at: usize },
    #[error("bounds out of order at byte {at} of the reconciliation message")]
    BoundsOutOfOrder { at: usize },
    #[error("unknown range mode {mode} at byte {at} of the reconciliation message")]
    Mode { mode: u64, at: usize },
    /// A list that the message cannot hold.
    #[error("list of {count} ids at byte {at} of the reconciliation message, which has room for {room}")]
    IdCount { count: u64, room: usize, at: usize },
    #[error("no end of the reconciliation after {0} rounds")]
    TooManyRounds(usize),
    /// A message after the end, or after an error.
    #[error("the reconciliation is already over")]
    Finished,
}

/// A place between items: below every item that is not less than it, above all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RangeBound {
    /// The clock first, then the id, filled up with zeros.
    pub(super) key: (Hlc, RecordId),
    /// Bytes of the id that are written.
    prefix: usize,
}

impl RangeBound {
    pub(super) const START: Self = Self { key: (Hlc(0), RecordId([0; 32])), prefix: 0 };
    pub(super) const END: Self = Self { key: (INFINITY, RecordId([0; 32])), prefix: 0 };

    /// Just below an item.
    pub(super) fn before((hlc, rid): (Hlc, RecordId)) -> Self {
        Self { key: (hlc, rid), prefix: 32 }
    }

    /// A short bound above an item and below all of a later time.
    pub(super) fn after((hlc, _): (Hlc, RecordId)) -> Self {
        Self { key: (Hlc(hlc.0.saturating_add(1)), RecordId([0; 32])), prefix: 0 }
    }

    /// The shortest bound above `lower` and not above `upper`, two neighbours in order.
    pub(super) fn between(lower: (Hlc, RecordId), upper: (Hlc, RecordId)) -> Self {
        let mut bound = Self { key: (upper.0, RecordId([0; 32])), prefix: 0 };
        if lower.0 == upper.0 {
            let shared = lower.1.0.iter().zip(upper.1.0).take_while(|(l, u)| **l == *u).count();
            bound.prefix = (shared + 1).min(32);
            bound.key.1.0[..bound.prefix].copy_from_slice(&upper.1.0[..bound.prefix]);
        }
        bound
    }
}

/// What a message says of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RangeContent<'a> {
    /// Nothing: settled, or not its turn.
    Skip,
    /// The sender's items in it have this fingerprint.
    Fingerprint([u8; FINGERPRINT_BYTES]),
    /// The ids of all of the sender's items in it.
    Ids(&'a [[u8; 32]]),
}

const MODE_SKIP: u8 = 0;
const MODE_FINGERPRINT: u8 = 1;
const MODE_IDS: u8 = 2;

/// Appends a number: groups of seven bits, the most significant first, all but the last marked.
pub(super) fn put_varint(out: &mut Vec<u8>, number: u64) {
    let groups = (u64::BITS - (number | 1).leading_zeros()).div_ceil(7);
    for group in (0..groups).rev() {
        let more = if group == 0 { 0 } else { 0x80 };
        out.push(((number >> (7 * group)) & 0x7f) as u8 | more);
    }
}

#[derive(Debug)]
pub(super) struct MessageWriter {
    out: Vec<u8>,
    last: Hlc,
}

impl MessageWriter {
    /// With the version and nothing else.
    pub(super) fn new() -> Self {
        Self { out: vec![VERSION], last: Hlc(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Takes back everything after the first `len` bytes. Only a range up to [`RangeBound::END`] may follow: it alone is
    /// written without regard to the bound before.
    pub(super) fn truncate(&mut self, len: usize) {
        self.out.truncate(len);
    }

    fn bound(&mut self, bound: &RangeBound) {
        let hlc = bound.key.0;
        let number = if hlc == INFINITY { 0 } else { hlc.0.saturating_sub(self.last.0).saturating_add(1) };
        self.last = hlc;
        put_varint(&mut self.out, number);
        put_varint(&mut self.out, bound.prefix as u64);
        self.out.extend_from_slice(&bound.key.1.0[..bound.prefix]);
    }

    /// A range of which nothing is said.
    pub(super) fn skip(&mut self, upper: &RangeBound) {
        self.bound(upper);
        self.out.push(MODE_SKIP);
    }

    pub(super) fn fingerprint(&mut self, upper: &RangeBound, fingerprint: [u8; FINGERPRINT_BYTES]) {
        self.bound(upper);
        self.out.push(MODE_FINGERPRINT);
        self.out.extend_from_slice(&fingerprint);
    }

    /// A range by all its ids, of which there are `count`.
    pub(super) fn ids<'a>(
        &mut self,
        upper: &RangeBound,
        count: usize,
        ids: impl Iterator<Item = &'a RecordId>,
    ) {
        self.bound(upper);
        self.out.push(MODE_IDS);
        put_varint(&mut self.out, count as u64);
        self.out.reserve(count * 32);
        for id in ids {
            self.out.extend_from_slice(&id.0);
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads a message's ranges in order.
#[derive(Debug)]
pub(super) struct MessageReader<'a> {
    message: &'a [u8],
    at: usize,
    last: RangeBound,
}

impl<'a> MessageReader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Result<Self, ReconError> {
        match message.first() {
            None => Err(ReconError::Empty),
            Some(&VERSION) => Ok(Self { message, at: 1, last: RangeBound::START }),
            Some(&other) => Err(ReconError::Version(other)),
        }
    }

    /// The next range, or `None` at the end of the message. Bounds never decrease; a range may be empty.
    pub(super) fn next_range(&mut self) -> Result<Option<(RangeBound, RangeContent<'a>)>, ReconError> {
        if self.at == self.message.len() {
            return Ok(None);
        }
        let bound = self.bound()?;
        let at = self.at;
        let content = match self.varint("a range's mode")? {
            mode if mode == u64::from(MODE_SKIP) => RangeContent::Skip,
            mode if mode == u64::from(MODE_FINGERPRINT) => {
                RangeContent::Fingerprint(self.array("a fingerprint")?)
            }
            mode if mode == u64::from(MODE_IDS) => RangeContent::Ids(self.ids()?),
            mode => return Err(ReconError::Mode { mode, at }),
        };
        Ok(Some((bound, content)))
    }

    fn bound(&mut self) -> Result<RangeBound, ReconError> {
        let start = self.at;
        let hlc = match self.varint("a bound's clock")? {
            0 => INFINITY,
            number => Hlc(self.last.key.0.0.saturating_add(number - 1)),
        };
        let at = self.at;
        let len = self.varint("an id prefix's length")?;
        let prefix = usize::try_from(len).ok().filter(|prefix| *prefix <= 32);
        let prefix = prefix.ok_or(ReconError::IdPrefix { len, at })?;
        let mut rid = [0; 32];
        rid[..prefix].copy_from_slice(self.take(prefix, "an id prefix")?);
        let bound = RangeBound { key: (hlc, RecordId(rid)), prefix };
        if bound.key < self.last.key {
            return Err(ReconError::BoundsOutOfOrder { at: start });
        }
        self.last = bound;
        Ok(bound)
    }

    fn ids(&mut self) -> Result<&'a [[u8; 32]], ReconError> {
        let at = self.at;
        let count = self.varint("a list's length")?;
        let room = (self.message.len() - self.at) / 32;
        let fitting = usize::try_from(count).ok().filter(|count| *count <= room);
        let fitting = fitting.ok_or(ReconError::IdCount { count, room, at })?;
        Ok(self.take(fitting * 32, "a list of ids")?.as_chunks().0)
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], ReconError> {
        let rest = &self.message[self.at..];
        let (taken, _) = rest.split_at_checked(len).ok_or(ReconError::Truncated { what, at: self.at })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ReconError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// A number in its shortest form.
    fn varint(&mut self, what: &'static str) -> Result<u64, ReconError> {
        let start = self.at;
        let malformed = ReconError::Varint { what, at: start };
        let mut number: u64 = 0;
        for count in 1..=VARINT_BYTES_MAX {
            let byte = *self.message.get(self.at).ok_or(ReconError::Truncated { what, at: start })?;
            self.at += 1;
            if (count == 1 && byte == 0x80) || number.leading_zeros() < 7 {
                return Err(malformed);
            }
            number = (number << 7) | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(RangeBound, RangeContent<'_>)>, ReconError> {
        let mut reader = MessageReader::new(message)?;
        std::iter::from_fn(|| reader.next_range().transpose()).collect()
    }

    fn after_version(rest: &[u8]) -> Vec<u8> {
        [&[VERSION], rest].concat()
    }

    #[test]
    fn every_flaw_is_named_where_it_stands() {
        let long = [0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80];
        let overflowing = [&[0x83][..], &[0xff; 8], &[0x7f]].concat();
        let wide_prefix = [&[1, 33][..], &[0; 40]].concat();
        let cases: [(&[u8], ReconError); 13] = [
            (&long, ReconError::Varint { what: "a bound's clock", at: 1 }),
            (&overflowing, ReconError::Varint { what: "a bound's clock", at: 1 }),
            (&[0x80, 1, 0, 0], ReconError::Varint { what: "a bound's clock", at: 1 }),
            (&[0x81], ReconError::Truncated { what: "a bound's clock", at: 1 }),
            (&[1], ReconError::Truncated { what: "an id prefix's length", at: 2 }),
            (&[1, 2, 7], ReconError::Truncated { what: "an id prefix", at: 3 }),
            (&wide_prefix, ReconError::IdPrefix { len: 33, at: 2 }),
            (&[1, 0], ReconError::Truncated { what: "a range's mode", at: 3 }),
            (&[1, 0, 3], ReconError::Mode { mode: 3, at: 3 }),
            (&[1, 0, 1, 9, 9], ReconError::Truncated { what: "a fingerprint", at: 4 }),
            (&[0, 0, 2, 0xc0, 0x80, 0x00], ReconError::IdCount { count: 1 << 20, room: 0, at: 4 }),
            (&[9, 1, 5, 0, 1, 1, 4, 0], ReconError::BoundsOutOfOrder { at: 5 }),
            (&[0, 0, 0, 1, 0, 0, 7], ReconError::Truncated { what: "an id prefix's length", at: 8 }),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read(&after_version(bytes)), Err(expected), "{bytes:x?}");
        }
        assert_eq!(read(&[]), Err(ReconError::Empty));
        for version in [0x60, 0x62, 0x00] {
            assert_eq!(read(&[version]), Err(ReconError::Version(version)));
        }
        let one_short = after_version(&[&[0, 0, 2, 2][..], &[0xbb; 63]].concat());
        assert_eq!(read(&one_short), Err(ReconError::IdCount { count: 2, room: 1, at: 4 }));
    }

    #[test]
    fn the_greatest_number_is_read_and_one_more_is_not() {
        let mut message = vec![VERSION];
        put_varint(&mut message, u64::MAX);
        assert_eq!(message.len(), 1 + VARINT_BYTES_MAX);
        message.extend([0, 0]);
        assert_eq!(read(&message).unwrap()[0].0.key.0, Hlc(u64::MAX - 1));
        message[1] = 0x82;
        assert!(matches!(read(&message), Err(ReconError::Varint { .. })));
    }

    #[test]
    fn the_shortest_bound_tells_neighbours_apart() {
        let id = |start: &[u8]| {
            let mut id = [0xee; 32];
            id[..start.len()].copy_from_slice(start);
            RecordId(id)
        };
        let by_clock = RangeBound::between((Hlc(1), id(&[9])), (Hlc(5), id(&[1])));
        assert_eq!((by_clock.key.0, by_clock.prefix), (Hlc(5), 0));
        let by_id = RangeBound::between((Hlc(5), id(&[1, 2, 3])), (Hlc(5), id(&[1, 2, 4])));
        assert_eq!((by_id.prefix, &by_id.key.1.0[..4]), (3, &[1, 2, 4, 0][..]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            mut bounds in prop::collection::vec((0..u64::MAX, any::<[u8; 32]>(), 0..=32usize), 0..20),
            kinds in prop::collection::vec((0..3u8, any::<[u8; 16]>(), prop::collection::vec(any::<[u8; 32]>(), 0..4)), 20),
        ) {
            for (_, id, prefix) in &mut bounds {
                id[*prefix..].fill(0);
            }
            bounds.sort_unstable();
            let ids: Vec<Vec<RecordId>> =
                kinds.iter().map(|kind| kind.2.iter().copied().map(RecordId).collect()).collect();
            let mut writer = MessageWriter::new();
            let mut expected = Vec::new();
            for (i, (hlc, id, prefix)) in bounds.into_iter().enumerate() {
                let bound = RangeBound { key: (Hlc(hlc), RecordId(id)), prefix };
                let content = match kinds[i].0 {
                    0 => { writer.skip(&bound); RangeContent::Skip }
                    1 => { writer.fingerprint(&bound, kinds[i].1); RangeContent::Fingerprint(kinds[i].1) }
                    _ => { writer.ids(&bound, ids[i].len(), ids[i].iter()); RangeContent::Ids(&kinds[i].2) }
                };
                expected.push((bound, content));
            }
            let message = writer.finish();
            prop_assert_eq!(read(&message).unwrap(), expected);
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_more_than_there_is(bytes: Vec<u8>) {
            let message = after_version(&bytes);
            if let Ok(ranges) = read(&message) {
                let ids: usize = ranges.iter().map(|(_, content)| match content {
                    RangeContent::Ids(ids) => ids.len(),
                    RangeContent::Skip | RangeContent::Fingerprint(_) => 0,
                }).sum();
                prop_assert!(ids * 32 <= bytes.len());
            }
        }
    }
}
