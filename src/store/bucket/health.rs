//! Whether a bucket can be used, as the latest requests went, and what people are told of it.

use std::time::Instant;

use super::{Bucket, BucketError, INLINE_BYTES_MAX};

/// Looks at a bucket to which nothing could be put until that counts as over, unless it is met again.
const LOOKS_WITHOUT_TROUBLE: u32 = 4;

/// What cannot be done with the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TroubleKind {
    /// It is not known to be the place that it was: its marker has to be seen.
    Place,
    /// Nothing was read.
    Reading,
    /// Nothing can be put; what is there may be read all the same.
    Writing,
}

#[derive(Clone, Debug)]
pub(super) struct BucketTrouble {
    pub(super) since: Instant,
    pub(super) met: Instant,
    pub(super) why: String,
    pub(super) kind: TroubleKind,
    is_logged: bool,
}

impl BucketTrouble {
    fn new(why: String, kind: TroubleKind) -> Self {
        let since = Instant::now();
        Self { since, met: since, why, kind, is_logged: true }
    }

    /// Of a bucket that nobody has asked anything yet.
    pub(super) fn unknown() -> Self {
        Self { is_logged: false, ..Self::new("it was not reached yet".to_owned(), TroubleKind::Place) }
    }
}

impl Bucket {
    /// Why it cannot be used at the moment.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.state().trouble.as_ref().map(|trouble| trouble.why.clone())
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.state().trouble.as_ref().is_none_or(|trouble| trouble.kind == TroubleKind::Writing)
    }

    /// Why it is not worth while to put anything now.
    pub(crate) fn trouble_of_writing(&self) -> Option<String> {
        let state = self.state();
        let trouble = state.trouble.as_ref()?;
        // Whether something can be put is known once it is tried.
        let is_worth_while =
            trouble.kind == TroubleKind::Writing && trouble.met.elapsed() >= self.patience.look;
        (!is_worth_while).then(|| trouble.why.clone())
    }

    /// The same with since when, for people.
    pub(crate) fn trouble_sentence(&self) -> Option<String> {
        let BucketTrouble { since, why, kind, .. } = self.state().trouble.clone()?;
        let what = match (self.write_back, kind == TroubleKind::Writing) {
            (true, true) => "stay on this disk",
            (true, false) => "stay on this disk, and those that are there are not given,",
            (false, true) => "are not taken",
            (false, false) => "are neither taken nor given",
        };
        let minutes = since.elapsed().as_secs() / 60;
        let since = if minutes == 0 { String::new() } else { format!(" for {minutes} min") };
        Some(format!(
            "the object storage {} cannot be used{since}: {why}; contents above {} KiB {what} until that is over",
            self.shown,
            INLINE_BYTES_MAX / 1024
        ))
    }

    /// Takes note of how a request went, and what it means if it failed.
    pub(super) fn note<T>(&self, kind: TroubleKind, done: Result<T, BucketError>) -> Result<T, BucketError> {
        match &done {
            // That an object is missing says nothing of the bucket: it may be another one.
            Ok(_) => self.note_use(kind),
            Err(BucketError::Away(why)) => self.note_trouble(why, kind),
            Err(BucketError::Missing | BucketError::Wrong(_)) => {}
        }
        done
    }

    /// A request of this kind went well.
    pub(super) fn note_use(&self, kind: TroubleKind) {
        let fades = self.patience.look * LOOKS_WITHOUT_TROUBLE;
        let mut state = self.state();
        // What was put was read back as well; but it may be another place where it is now.
        let is_over = |trouble: &mut BucketTrouble| match trouble.kind {
            TroubleKind::Place => kind == TroubleKind::Place,
            TroubleKind::Reading => true,
            // Where nobody puts anything, nothing shows that it works again: it counts until it was not met for a while.
            TroubleKind::Writing => kind == TroubleKind::Writing || trouble.met.elapsed() >= fades,
        };
        if state.place.is_some() && state.trouble.take_if(is_over).is_some() {
            tracing::info!(bucket = self.shown, "the object storage can be used again");
        }
    }

    pub(super) fn note_trouble(&self, why: &str, kind: TroubleKind) {
        let mut state = self.state();
        let trouble = match &mut state.trouble {
            // Only its marker says that it is the place again.
            Some(trouble) if trouble.kind == TroubleKind::Place && kind != TroubleKind::Place => {
                trouble.met = Instant::now();
                trouble
            }
            Some(trouble) => {
                trouble.met = Instant::now();
                trouble.kind = kind;
                why.clone_into(&mut trouble.why);
                trouble
            }
            none => {
                tracing::error!(bucket = self.shown, why, "the object storage cannot be used");
                none.insert(BucketTrouble::new(why.to_owned(), kind))
            }
        };
        if !std::mem::replace(&mut trouble.is_logged, true) {
            tracing::error!(bucket = self.shown, why, "the object storage cannot be used");
        }
    }
}
