//! The two sides of a session: messages in, messages and differences out.
//!
//! The initiator opens with the fingerprints of a few ranges. The side that receives a fingerprint that differs from its own
//! answers with the range split further, or with its ids once they are few; the initiator compares lists and settles
//! their ranges. A frame that grows too long ends with one fingerprint of all that remains, which the other side takes
//! up again. Either side may be another implementation of the protocol. Where to split is a matter of taste: ours aims
//! at few bytes and round trips, and with the reference's taste the engine writes the reference's bytes.
//!
//! Each side works on one [`Snapshot`]; what has changed since is for the live feed to say. Differences are given out
//! with the message that showed them, and acting on one twice must do no harm: a difference can be named again.

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::tree::{Item, Snapshot};
pub use super::wire::ReconError;
use super::wire::{MessageReader, MessageWriter, RangeBound, RangeContent};
use crate::record::RecordId;

/// Longest message that is written, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Least limit of a frame: one split range, or some ids, must always fit.
const FRAME_BYTES_MIN: usize = 4096;
/// Kept free in a frame for the range that is being written and for the one that stands for the rest.
const FRAME_BYTES_SPARE: usize = 200;

/// How much a session says at once, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineLimits {
    /// Longest message that we send, in bytes; at least 4096 (less is taken as that), or 0 for any length.
    pub frame_bytes: usize,
    /// Most messages that we take in one session. The longest honest sessions list millions of differences, about
    /// `frame_bytes / 32` a message.
    pub rounds_max: usize,
    /// Most items in one [`EngineStep::have`]; at least 1. The rest comes with later steps, after one round trip each.
    pub have_max: usize,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self { frame_bytes: MESSAGE_BYTES_MAX, rounds_max: 65_536, have_max: 65_536 }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EngineStep {
    /// Items that we have and the peer lacks, in order.
    pub have: Vec<Item>,
    /// Ids of items that the peer has and we lack. The peer finds them with [`ItemTree::find_rid`].
    ///
    /// [`ItemTree::find_rid`]: super::tree::ItemTree::find_rid
    pub need: Vec<RecordId>,
    /// What to send next; `None` when all differences have been named.
    pub reply: Option<Vec<u8>>,
}

/// The side that asks, and learns the differences.
#[derive(Debug)]
pub struct Initiator(EngineSession);

impl Initiator {
    /// With the first message to send. That one is short, whatever the limits.
    pub fn new(snapshot: Snapshot, limits: EngineLimits) -> (Self, Vec<u8>) {
        Self::with(Splitting::Lean, snapshot, limits)
    }

    fn with(splitting: Splitting, snapshot: Snapshot, limits: EngineLimits) -> (Self, Vec<u8>) {
        let session = EngineSession::new(EngineSide::Asking, splitting, snapshot, limits);
        let mut opening = MessageWriter::new();
        session.split(&mut opening, 0..session.snapshot.len(), &RangeBound::END);
        (Self(session), opening.finish())
    }

    /// Takes the peer's answer.
    ///
    /// # Errors
    /// [`ReconError`] for a message that breaks the protocol, for one too many, and for any after the end. The session
    /// is over then; differences already given out stand.
    pub fn handle(&mut self, message: &[u8]) -> Result<EngineStep, ReconError> {
        let mut step = EngineStep::default();
        let reply = self.0.handle(message, Some(&mut step))?;
        // A message without ranges: everything is settled.
        if reply.len() > 1 {
            step.reply = Some(reply);
        } else {
            self.0.over = true;
        }
        Ok(step)
    }
}

/// The side that answers, and learns nothing.
#[derive(Debug)]
pub struct Responder(EngineSession);

impl Responder {
    /// Ready for the first message.
    pub fn new(snapshot: Snapshot, limits: EngineLimits) -> Self {
        Self::with(Splitting::Lean, snapshot, limits)
    }

    fn with(splitting: Splitting, snapshot: Snapshot, limits: EngineLimits) -> Self {
        Self(EngineSession::new(EngineSide::Answering, splitting, snapshot, limits))
    }

    /// Takes a message of the initiator and returns the answer, which has no ranges if there is nothing left to say.
    ///
    /// # Errors
    /// [`ReconError`] for a message that breaks the protocol, for one too many, and for any after an error. A version
    /// other than ours is an error too, not answered with our own: an answer without ranges could pass for "no
    /// differences", and versions are settled before.
    pub fn handle(&mut self, message: &[u8]) -> Result<Vec<u8>, ReconError> {
        self.0.handle(message, None)
    }
}

/// How a range that differs is taken apart. Any choice is understood by any peer; it decides bytes and round trips.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Splitting {
    /// Ours. Sixteen parts, or eight of a range of some hundred items, where every difference costs a split of its own.
    /// The initiator lists next to nothing: the answer to a list is another, the answer to fingerprints only the lists
    /// of the parts that differ. And the side that splits the newest range says that it has nothing newer than its newest
    /// item: the other side then lists all that came since, which is the usual difference, in one round trip.
    Lean,
    /// That of other implementations: sixteen parts, and lists below thirty-two items.
    #[cfg(test)]
    Reference,
}

impl Splitting {
    /// Into how many parts `count` items are split; `None` if they are listed.
    fn parts(self, count: usize, side: EngineSide) -> Option<usize> {
        match self {
            Self::Lean => {
                let list_below = match side {
                    EngineSide::Asking => 3,
                    EngineSide::Answering => 16,
                };
                let parts = if count < 512 { 8 } else { 16 };
                (count >= list_below).then_some(parts.min(count))
            }
            #[cfg(test)]
            Self::Reference => (count >= 32).then_some(16),
        }
    }

    /// Whether the range above the newest item is set apart.
    fn ends_at_newest(self) -> bool {
        self == Self::Lean
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EngineSide {
    Asking,
    Answering,
}

#[derive(Debug)]
struct EngineSession {
    side: EngineSide,
    splitting: Splitting,
    snapshot: Snapshot,
    limits: EngineLimits,
    /// Length at which a message counts as full.
    full_bytes: usize,
    rounds: usize,
    over: bool,
}

/// How far the reading of one message has come.
struct MessageCursor {
    /// Upper bound of the last range that was read, and the number of the first item above it.
    bound: RangeBound,
    next: usize,
    /// Whether ranges below that bound await a skip, once something is said of a later one.
    skipping: bool,
    /// Number of the first item above all that has been written: what a cut message still has to cover.
    written: usize,
}

impl MessageCursor {
    /// Writes the skip that is due before something is said of the next range.
    fn resume(&mut self, out: &mut MessageWriter) {
        if std::mem::take(&mut self.skipping) {
            out.skip(&self.bound);
        }
    }
}

impl EngineSession {
    fn new(side: EngineSide, splitting: Splitting, snapshot: Snapshot, limits: EngineLimits) -> Self {
        let full_bytes = match limits.frame_bytes {
            0 => usize::MAX,
            bytes => bytes.max(FRAME_BYTES_MIN) - FRAME_BYTES_SPARE,
        };
        Self { side, splitting, snapshot, limits, full_bytes, rounds: 0, over: false }
    }

    /// Answers a message. `step` is where the initiator collects differences; the responder has none.
    fn handle(&mut self, message: &[u8], step: Option<&mut EngineStep>) -> Result<Vec<u8>, ReconError> {
        if self.over {
            return Err(ReconError::Finished);
        }
        // Until the message has proved good.
        self.over = true;
        self.rounds += 1;
        if self.rounds > self.limits.rounds_max {
            return Err(ReconError::TooManyRounds(self.limits.rounds_max));
        }
        let reply = self.answer(message, step)?;
        self.over = false;
        Ok(reply)
    }

    fn answer(&self, message: &[u8], mut step: Option<&mut EngineStep>) -> Result<Vec<u8>, ReconError> {
        let mut reader = MessageReader::new(message)?;
        let mut out = MessageWriter::new();
        let mut progress = MessageCursor { bound: RangeBound::START, next: 0, skipping: false, written: 0 };
        while let Some((bound, content)) = reader.next_range()? {
            let numbers = progress.next..self.snapshot.lower_bound(&bound.key).max(progress.next);
            let end = numbers.end;
            // What may be taken back if the frame proves full, and what may not.
            let mut kept = out.len();
            match (content, step.as_deref_mut()) {
                (RangeContent::Skip, _) => progress.skipping = true,
                (RangeContent::Fingerprint(theirs), _) => {
                    if theirs == self.snapshot.fingerprint_of(numbers.clone()) {
                        progress.skipping = true;
                    } else {
                        progress.resume(&mut out);
                        self.split(&mut out, numbers, &bound);
                    }
                }
                (RangeContent::Ids(theirs), Some(step)) => {
                    progress.skipping = true;
                    if let Some(cut) = self.compare(theirs, numbers, step) {
                        progress.bound = RangeBound::before(self.snapshot.item(cut).key());
                        progress.resume(&mut out);
                        self.rest(&mut out, cut);
                        break;
                    }
                }
                (RangeContent::Ids(_), None) => {
                    progress.resume(&mut out);
                    progress.written = self.list(&mut out, kept, numbers, &bound);
                    kept = out.len();
                }
            }
            if out.len() > self.full_bytes {
                out.truncate(kept);
                self.rest(&mut out, progress.written);
                break;
            }
            if out.len() > kept {
                progress.written = end;
            }
            progress.next = end;
            progress.bound = bound;
        }
        Ok(out.finish())
    }

    /// Writes a range that differs in more detail: by fingerprints of its parts, or by its ids.
    fn split(&self, out: &mut MessageWriter, numbers: Range<usize>, upper: &RangeBound) {
        let count = numbers.len();
        let Some(parts) = self.splitting.parts(count, self.side) else {
            return out.ids(upper, count, self.rids(numbers));
        };
        let newest = (self.splitting.ends_at_newest() && *upper == RangeBound::END)
            .then(|| RangeBound::after(self.snapshot.item(numbers.end - 1).key()));
        // The empty range at the end is one of the parts.
        let parts = parts - usize::from(newest.is_some());
        let mut start = numbers.start;
        for part in 0..parts {
            let end = start + count / parts + usize::from(part < count % parts);
            let bound = if end == numbers.end {
                newest.unwrap_or(*upper)
            } else {
                RangeBound::between(self.snapshot.item(end - 1).key(), self.snapshot.item(end).key())
            };
            out.fingerprint(&bound, self.snapshot.fingerprint_of(start..end));
            start = end;
        }
        if newest.is_some() {
            out.ids(upper, 0, std::iter::empty());
        }
    }

    /// Writes the ids of a range, as many as the frame has room for after its first `used` bytes. Returns the number of
    /// the first item that is not among them.
    fn list(&self, out: &mut MessageWriter, used: usize, numbers: Range<usize>, upper: &RangeBound) -> usize {
        let room = self.full_bytes.saturating_sub(used) / 32 + 1;
        let count = numbers.len().min(room);
        let end = numbers.start + count;
        let cut = (end < numbers.end).then(|| RangeBound::before(self.snapshot.item(end).key()));
        out.ids(&cut.unwrap_or(*upper), count, self.rids(numbers.start..end));
        end
    }

    /// Writes everything from an item on as one range, for the other side to take up again.
    fn rest(&self, out: &mut MessageWriter, from: usize) {
        out.fingerprint(&RangeBound::END, self.snapshot.fingerprint_of(from..self.snapshot.len()));
    }

    /// Adds the differences between the peer's list of a range and ours to `step`. Returns the number of the first item
    /// that found no room in it.
    fn compare(&self, theirs: &[[u8; 32]], numbers: Range<usize>, step: &mut EngineStep) -> Option<usize> {
        let have_max = self.limits.have_max.max(1);
        let mut theirs: Vec<(&[u8; 32], bool)> = theirs.iter().map(|id| (id, false)).collect();
        theirs.sort_unstable();
        theirs.dedup();
        let mut cut = None;
        for (number, item) in (numbers.start..).zip(self.snapshot.items_of(numbers)) {
            match theirs.binary_search_by(|(id, _)| (*id).cmp(&item.rid.0)) {
                Ok(place) => theirs[place].1 = true,
                Err(_) if step.have.len() < have_max => step.have.push(*item),
                Err(_) => {
                    cut = cut.or(Some(number));
                    if theirs.is_empty() {
                        break;
                    }
                }
            }
        }
        step.need.extend(theirs.iter().filter(|(_, held)| !held).map(|(id, _)| RecordId(**id)));
        cut
    }

    fn rids(&self, numbers: Range<usize>) -> impl Iterator<Item = &RecordId> {
        self.snapshot.items_of(numbers).map(|item| &item.rid)
    }
}
