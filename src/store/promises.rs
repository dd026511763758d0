//! Copies of contents that a machine lets go of, and promises to others to keep one. Pure: time comes in, and what is durable is
//! the store's.
//!
//! Who is about to let go of its copy marks it first, and from then on promises it to nobody. It may not mark what it has promised.
//! So of two machines that want to let go of the same content at the same time, at most one gets the other's promise. What was
//! promised stays for [`KEPT_FOR`], and whoever was promised something lets go of its own copy within [`DROP_WITHIN`] of asking,
//! or not at all: it has no need to know when the promise was given.
//!
//! Times are those of a monotonic clock that counts sleep ([`Clock::uptime`](crate::clock::Clock::uptime)), so that it means nothing
//! what anybody sets the time of day to. A restart loses that clock, and promises run anew from then on.

use std::sync::Arc;
use std::time::Duration;

use super::StoreError;

/// How long what was promised is kept, from when it was asked for.
pub const KEPT_FOR: Duration = Duration::from_hours(24);
/// How long after it began to ask a machine may let go of its own copy.
pub const DROP_WITHIN: Duration = Duration::from_hours(1);
pub const PROMISES_MAX: usize = 1_000_000;
/// Machines that one content is promised to.
pub const PROMISED_TO_MAX: usize = 16;

/// Where copies are: a store, or the object storage that it keeps its contents in. Stores that share one have one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyPlace(pub [u8; 16]);

/// What a store knows of its own copy of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnCopy {
    pub held: bool,
    /// It is marked: the store is about to let go of it.
    pub dropping: bool,
    /// Of the promises to others, the one that lasts longest.
    pub promised: Option<LastingPromise>,
}

/// To whom a copy is promised, by the endpoint id, and until when, by [`Clock::uptime`](crate::clock::Clock::uptime).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastingPromise {
    pub to: [u8; 32],
    pub until: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkAnswer {
    Marked,
    /// It is promised to another machine.
    Promised(LastingPromise),
    NotHeld,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PromiseAnswer {
    Promised,
    /// The store is about to let go of it.
    Dropping,
    NotHeld,
    TooMany,
}

/// On which terms marked copies may go.
#[derive(Clone)]
pub struct DropTerms {
    /// Not later.
    pub by: Duration,
    /// Whether those that promised to keep them still count. Asked while nothing else is written: it waits for nothing.
    pub holds: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl DropTerms {
    /// Terms that always hold, until then.
    pub fn until(by: Duration) -> Self {
        Self { by, holds: Arc::new(|| true) }
    }
}

/// Whether a copy was let go of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropAnswer {
    Dropped,
    /// Too much time has passed since it was asked for promises.
    Late,
    /// Whoever promised to keep it does not count any more.
    Unpromised,
    /// The mark is not there any more, or the copy was promised.
    NotMarked,
    NotHeld,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GivenPromise {
    /// Its endpoint id.
    pub to: [u8; 32],
    pub lasts: Duration,
}

/// What a store's promises say of one content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopyStanding {
    /// The store is about to let go of it.
    pub dropping: bool,
    pub promises: Vec<GivenPromise>,
}

impl OwnCopy {
    fn promised(&self, now: Duration) -> Option<LastingPromise> {
        self.promised.filter(|promised| now < promised.until)
    }

    pub fn is_promised(&self, now: Duration) -> bool {
        self.promised(now).is_some()
    }

    pub fn mark(&self, now: Duration) -> MarkAnswer {
        match self.promised(now) {
            Some(promised) => MarkAnswer::Promised(promised),
            None if self.held => MarkAnswer::Marked,
            None => MarkAnswer::NotHeld,
        }
    }

    pub fn promise(&self) -> PromiseAnswer {
        if self.dropping {
            PromiseAnswer::Dropping
        } else if self.held {
            PromiseAnswer::Promised
        } else {
            PromiseAnswer::NotHeld
        }
    }

    /// Whether it may go now, where that has to be before `by`.
    pub fn drop(&self, by: Duration, now: Duration) -> DropAnswer {
        if !self.held {
            DropAnswer::NotHeld
        } else if !self.dropping || self.is_promised(now) {
            DropAnswer::NotMarked
        } else if now >= by {
            DropAnswer::Late
        } else {
            DropAnswer::Dropped
        }
    }
}

/// Of a store that keeps no promises.
pub(super) fn unsupported() -> StoreError {
    StoreError::Invalid("this store neither promises to keep contents nor lets go of them by promise".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_marked_or_promised_and_never_both() {
        let now = Duration::from_hours(100);
        let here = OwnCopy { held: true, ..OwnCopy::default() };
        let marked = OwnCopy { dropping: true, ..here };
        let lasting = LastingPromise { to: [1; 32], until: now + KEPT_FOR };
        let promised = OwnCopy { promised: Some(lasting), ..here };
        assert_eq!((here.mark(now), here.promise()), (MarkAnswer::Marked, PromiseAnswer::Promised));
        assert_eq!(marked.promise(), PromiseAnswer::Dropping);
        assert_eq!(promised.mark(now), MarkAnswer::Promised(lasting));
        assert_eq!(promised.mark(now + KEPT_FOR), MarkAnswer::Marked, "it is over");
        assert_eq!(promised.promise(), PromiseAnswer::Promised, "to another one, too");
        let gone = OwnCopy::default();
        assert_eq!((gone.mark(now), gone.promise()), (MarkAnswer::NotHeld, PromiseAnswer::NotHeld));
    }

    #[test]
    fn a_copy_goes_while_it_is_marked_and_in_time() {
        let now = Duration::from_hours(100);
        let marked = OwnCopy { held: true, dropping: true, promised: None };
        let by = now + DROP_WITHIN;
        assert_eq!(marked.drop(by, now), DropAnswer::Dropped);
        assert_eq!(marked.drop(by, by), DropAnswer::Late);
        assert_eq!(OwnCopy { dropping: false, ..marked }.drop(by, now), DropAnswer::NotMarked);
        assert_eq!(OwnCopy { held: false, ..marked }.drop(by, now), DropAnswer::NotHeld);
        let promised = OwnCopy { promised: Some(LastingPromise { to: [1; 32], until: by }), ..marked };
        assert_eq!(promised.drop(by, now), DropAnswer::NotMarked);
    }
}
