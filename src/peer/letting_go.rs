//! Letting go of contents that enough other machines promise to keep. Pure: time, randomness and outcomes come in.
//!
//! One [`Dropping`] for each command. Of each content: its copy is marked ([`promises`](crate::store::promises)), so that it is promised
//! to nobody from then on, and a piece of it is read. Own devices that are connected are asked to keep theirs, no more of them at a
//! time than promises are missing, each with a nonce of its own: the answer is `keyed_hash(nonce, piece)`. Promises count by the
//! place of the copy, and the own place does not. With enough of them the copy goes, within an hour of the first question; else the
//! mark is taken away, and what may be otherwise soon is tried again after a while, until the command's time is up. Who is shut out
//! meanwhile does not count any more, whatever it promised.
//!
//! Everything volatile may be lost at any time: then nothing is let go of, and marks are cleared at the next start.

mod holders;
mod messages;
mod outcome;
mod progress;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

pub use self::messages::{DropEffect, DropInput, DropRules, KeepAnswer, PreparedCopy};
pub use self::outcome::{DropOutcome, HolderRefusal, KeptBecause, TakenPromise};
use crate::record::ContentHash;
use crate::store::promises::{DropAnswer, KEPT_FOR, MarkAnswer};
use crate::transfer::schedule::SessionId;

/// Bytes of a content that its holder proves to have read.
pub const SAMPLE_BYTES: u64 = 64 * 1024;
/// Contents that are asked for at once.
const AT_ONCE: usize = 64;
/// The sum of their sizes, beyond the first.
const BYTES_AT_ONCE: u64 = 1 << 30;
/// Questions that one machine has not answered.
pub const ASKED_OF_ONE_MAX: usize = 64;
/// How long a machine may take to answer, whatever it has to read.
const PATIENCE: Duration = Duration::from_mins(1);
/// What it is expected to read at least.
const BYTES_PER_SEC: u64 = 8 * 1024 * 1024;
/// No answer is waited for longer.
const PATIENCE_MAX: Duration = Duration::from_mins(40);
/// Between two tries, at first.
const REST_MIN: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_mins(1);
/// How often a content is tried: each time whoever promises reads all of it.
const TRIES_MAX: u32 = 6;

/// A place of copies, as machines of one network tell each other: says nothing to others.
pub type PlaceTag = [u8; 32];
/// A machine's endpoint id.
pub type HolderId = [u8; 32];
pub type Nonce = [u8; 32];

/// What shows that somebody has this piece of a content.
pub fn proof_of(nonce: &Nonce, sample: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(nonce, sample).as_bytes()
}

/// Where the piece begins that is asked for of a content of this size.
fn sample_offset(size: u64, random: u64) -> u64 {
    random % (size.saturating_sub(SAMPLE_BYTES) + 1)
}

pub type Random<'a> = &'a mut dyn FnMut() -> [u8; 32];

#[derive(Debug)]
struct OwnDevice {
    id: HolderId,
    /// Questions that it has not answered.
    open: usize,
}

#[derive(Debug)]
struct OpenQuestion {
    nonce: Nonce,
    by: Duration,
}

#[derive(Debug)]
struct AskedHolders {
    offset: u64,
    sample: Bytes,
    /// When the first one was asked.
    began: Option<Duration>,
    open: BTreeMap<SessionId, OpenQuestion>,
    tried: BTreeSet<SessionId>,
    promises: BTreeMap<PlaceTag, TakenPromise>,
    refusals: Vec<(HolderId, HolderRefusal)>,
}

impl AskedHolders {
    fn new(offset: u64, sample: Bytes) -> Self {
        Self {
            offset,
            sample,
            began: None,
            open: BTreeMap::new(),
            tried: BTreeSet::new(),
            promises: BTreeMap::new(),
            refusals: Vec::new(),
        }
    }

    fn has_promised(&self, holder: &HolderId) -> bool {
        self.promises.values().any(|promise| promise.holder == *holder)
    }

    fn refuse(&mut self, holder: HolderId, why: HolderRefusal) {
        self.refusals.push((holder, why));
    }
}

#[derive(Debug)]
enum DropStep {
    /// It waits for its turn, or for another try.
    Waiting,
    Preparing {
        offset: u64,
    },
    Asking(AskedHolders),
    LettingGo {
        promises: Vec<TakenPromise>,
    },
    Clearing {
        then: AfterClearing,
    },
}

#[derive(Debug)]
enum AfterClearing {
    Again { from: Duration },
    End(DropOutcome),
}

#[derive(Debug)]
struct DropItem {
    size: u64,
    tries: u32,
    step: DropStep,
}

/// One command.
#[derive(Debug)]
pub struct Dropping {
    rules: DropRules,
    items: BTreeMap<ContentHash, DropItem>,
    /// Those that are not begun.
    fresh: VecDeque<ContentHash>,
    /// Those that are tried again, and when.
    resting: BTreeSet<(Duration, ContentHash)>,
    /// All others.
    active: BTreeSet<ContentHash>,
    active_bytes: u64,
    holders: BTreeMap<SessionId, OwnDevice>,
    is_cancelled: bool,
    /// What was lacking when somebody was last asked in vain, where it is tried again.
    shortfall: Option<KeptBecause>,
    /// What came of the others, in the order in which they ended.
    ended: Vec<(ContentHash, DropOutcome)>,
}

impl Dropping {
    /// For these contents, with their sizes.
    pub fn new(rules: DropRules, contents: impl IntoIterator<Item = (ContentHash, u64)>) -> Self {
        let item = |(hash, size)| (hash, DropItem { size, tries: 0, step: DropStep::Waiting });
        let items: BTreeMap<ContentHash, DropItem> = contents.into_iter().map(item).collect();
        // Small ones first: one that takes its holders long to read holds up no other.
        let mut fresh: Vec<(u64, ContentHash)> =
            items.iter().map(|(hash, item)| (item.size, *hash)).collect();
        fresh.sort_unstable();
        Self {
            rules,
            fresh: fresh.into_iter().map(|(_, hash)| hash).collect(),
            resting: BTreeSet::new(),
            active: BTreeSet::new(),
            active_bytes: 0,
            items,
            holders: BTreeMap::new(),
            is_cancelled: false,
            shortfall: None,
            ended: Vec::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.items.is_empty()
    }

    /// What came of contents, in the order in which they ended.
    pub fn ended(&self) -> &[(ContentHash, DropOutcome)] {
        &self.ended
    }

    /// Who is to keep a content that is let go of at this moment.
    pub fn counted_on(&self, hash: &ContentHash) -> Vec<HolderId> {
        match self.items.get(hash).map(|item| &item.step) {
            Some(DropStep::LettingGo { promises }) => promises.iter().map(|promise| promise.holder).collect(),
            _ => Vec::new(),
        }
    }

    /// What was lacking when it was last tried in vain to let go of one of those that are left.
    pub fn shortfall(&self) -> Option<&KeptBecause> {
        self.shortfall.as_ref().filter(|_| !self.resting.is_empty())
    }

    pub fn left(&self) -> usize {
        self.items.len()
    }

    /// What to do about an input at time `now`.
    pub fn handle(&mut self, input: DropInput, now: Duration, random: Random<'_>) -> Vec<DropEffect> {
        let mut out = Vec::new();
        match input {
            DropInput::HolderUp { session, holder } => {
                self.holders.insert(session, OwnDevice { id: holder, open: 0 });
            }
            DropInput::HolderGone { session } => self.on_holder_gone(session),
            DropInput::HolderDenied { holder } => self.on_holder_denied(&holder),
            DropInput::Prepared { hash, answer } => self.on_prepared(hash, answer, now, &mut out),
            DropInput::Answered { session, hash, nonce, answer } => {
                self.on_answered(session, hash, &nonce, answer, now);
            }
            DropInput::LetGo { hash, answer } => self.on_let_go(hash, answer, &mut out),
            DropInput::Cleared { hash } => self.on_cleared(hash, now),
            DropInput::Cancel => self.is_cancelled = true,
            DropInput::Tick => self.give_up_late(now),
        }
        self.begin(now, random, &mut out);
        self.pump(now, random, &mut out);
        out
    }

    fn is_over_time(&self, now: Duration) -> bool {
        self.is_cancelled || now >= self.rules.until
    }

    fn on_prepared(
        &mut self,
        hash: ContentHash,
        answer: Result<PreparedCopy, String>,
        now: Duration,
        out: &mut Vec<DropEffect>,
    ) {
        let is_over_time = self.is_over_time(now);
        let Some(item) = self.items.get_mut(&hash) else { return };
        let DropStep::Preparing { offset } = item.step else { return };
        match answer {
            Ok(PreparedCopy::Marked { .. }) if is_over_time => {
                self.clear(hash, AfterClearing::End(self.time_is_up()), out);
            }
            Ok(PreparedCopy::Marked { sample }) => {
                item.step = DropStep::Asking(AskedHolders::new(offset, sample));
            }
            Ok(PreparedCopy::Not(MarkAnswer::Promised(promised))) => {
                let why =
                    KeptBecause::Promised { to: promised.to, lasts: promised.until.saturating_sub(now) };
                self.end(hash, DropOutcome::Kept(why));
            }
            Ok(PreparedCopy::Not(_)) => self.end(hash, DropOutcome::Kept(KeptBecause::NotHeld)),
            Ok(PreparedCopy::Needed) => {
                let outcome = DropOutcome::Kept(KeptBecause::Needed);
                self.clear(hash, AfterClearing::End(outcome), out);
            }
            // It may be marked all the same.
            Err(why) => {
                let outcome = DropOutcome::Kept(KeptBecause::Failed(why));
                self.clear(hash, AfterClearing::End(outcome), out);
            }
        }
    }

    fn on_answered(
        &mut self,
        session: SessionId,
        hash: ContentHash,
        nonce: &Nonce,
        answer: KeepAnswer,
        now: Duration,
    ) {
        let own_place = self.rules.own_place;
        let (Some(holder), Some(item)) = (self.holders.get_mut(&session), self.items.get_mut(&hash)) else {
            return;
        };
        let DropStep::Asking(asking) = &mut item.step else { return };
        // Late answers to questions of before have other nonces.
        if asking.open.get(&session).is_none_or(|question| question.nonce != *nonce) {
            return;
        }
        asking.open.remove(&session);
        holder.open = holder.open.saturating_sub(1);
        let refusal = match answer {
            KeepAnswer::Promised { proof, .. } if proof != proof_of(nonce, &asking.sample) => {
                HolderRefusal::WrongProof
            }
            KeepAnswer::Promised { place, .. } if place == own_place => HolderRefusal::SamePlace,
            // One machine counts once, whatever it says its place is by now.
            KeepAnswer::Promised { place, .. }
                if asking.promises.contains_key(&place) || asking.has_promised(&holder.id) =>
            {
                HolderRefusal::PlaceCounted
            }
            KeepAnswer::Promised { place, .. } => {
                // It has given it by now, and not before it was asked.
                let lasts_until = asking.began.unwrap_or(now) + KEPT_FOR;
                asking.promises.insert(place, TakenPromise { holder: holder.id, lasts_until });
                return;
            }
            KeepAnswer::Dropping => HolderRefusal::Dropping,
            KeepAnswer::Lacks => HolderRefusal::Lacks,
            KeepAnswer::SamePlace => HolderRefusal::SamePlace,
            KeepAnswer::Unable => HolderRefusal::Unable,
        };
        asking.refuse(holder.id, refusal);
    }

    fn on_let_go(
        &mut self,
        hash: ContentHash,
        answer: Result<DropAnswer, String>,
        out: &mut Vec<DropEffect>,
    ) {
        let Some(item) = self.items.get_mut(&hash) else { return };
        let DropStep::LettingGo { promises } = &mut item.step else { return };
        let promises = std::mem::take(promises);
        let why = match answer {
            // The mark went with it.
            Ok(DropAnswer::Dropped) => return self.end(hash, DropOutcome::Dropped { promises }),
            Ok(DropAnswer::NotHeld) => KeptBecause::NotHeld,
            Ok(DropAnswer::Late) => KeptBecause::Late,
            Ok(DropAnswer::Unpromised) => KeptBecause::ShutOut,
            Ok(DropAnswer::NotMarked) => KeptBecause::Failed("its mark was taken away meanwhile".into()),
            Err(why) => KeptBecause::Failed(why),
        };
        self.clear(hash, AfterClearing::End(DropOutcome::Kept(why)), out);
    }

    fn on_cleared(&mut self, hash: ContentHash, now: Duration) {
        let is_over_time = self.is_over_time(now);
        let Some(item) = self.items.get_mut(&hash) else { return };
        if !matches!(item.step, DropStep::Clearing { .. }) {
            return;
        }
        let step = std::mem::replace(&mut item.step, DropStep::Waiting);
        let DropStep::Clearing { then } = step else { return };
        match then {
            AfterClearing::End(outcome) => self.end(hash, outcome),
            AfterClearing::Again { .. } if is_over_time => self.end(hash, self.time_is_up()),
            AfterClearing::Again { from } => {
                let size = item.size;
                self.leave(hash, size);
                self.resting.insert((from, hash));
            }
        }
    }

    fn time_is_up(&self) -> DropOutcome {
        DropOutcome::Kept(if self.is_cancelled { KeptBecause::Cancelled } else { KeptBecause::TimeIsUp })
    }

    /// It is not asked for any more.
    fn leave(&mut self, hash: ContentHash, size: u64) {
        if self.active.remove(&hash) {
            self.active_bytes = self.active_bytes.saturating_sub(size);
        }
    }

    /// It is over with a content that is asked for.
    fn end(&mut self, hash: ContentHash, outcome: DropOutcome) {
        if let Some(item) = self.items.remove(&hash) {
            self.leave(hash, item.size);
            self.ended.push((hash, outcome));
        }
    }

    fn clear(&mut self, hash: ContentHash, then: AfterClearing, out: &mut Vec<DropEffect>) {
        let Some(item) = self.items.get_mut(&hash) else { return };
        // Whoever answers later finds nothing that waits for it.
        if let DropStep::Asking(asking) = &item.step {
            for session in asking.open.keys() {
                if let Some(holder) = self.holders.get_mut(session) {
                    holder.open = holder.open.saturating_sub(1);
                }
            }
        }
        item.step = DropStep::Clearing { then };
        out.push(DropEffect::Clear { hash });
    }
}

fn number(random: [u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&random[..8]);
    u64::from_le_bytes(first)
}
