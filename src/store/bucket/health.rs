//! Whether a bucket can be used, as the latest requests went, and what people are told of it.

use std::time::Instant;

use super::{Bucket, BucketError, INLINE_BYTES_MAX};

/// Why the bucket cannot be used.
#[derive(Clone, Debug)]
pub(super) struct BucketTrouble {
    pub(super) since: Instant,
    /// When it was met last.
    pub(super) met: Instant,
    pub(super) why: String,
    /// Nothing can be put; what is there may be read all the same.
    pub(super) is_of_writing: bool,
}

impl BucketTrouble {
    pub(super) fn new(why: String, is_of_writing: bool) -> Self {
        let since = Instant::now();
        Self { since, met: since, why, is_of_writing }
    }
}

impl Bucket {
    /// Why it cannot be used at the moment.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.state().trouble.as_ref().map(|trouble| trouble.why.clone())
    }

    /// Why it is not worth while to put anything now.
    pub(crate) fn trouble_of_writing(&self) -> Option<String> {
        let state = self.state();
        let trouble = state.trouble.as_ref()?;
        // Whether something can be put is known once it is tried.
        let is_worth_while = trouble.is_of_writing && trouble.met.elapsed() >= self.patience.look;
        (!is_worth_while).then(|| trouble.why.clone())
    }

    /// The same with since when, for people.
    pub(crate) fn trouble_sentence(&self) -> Option<String> {
        let BucketTrouble { since, why, is_of_writing, .. } = self.state().trouble.clone()?;
        let what = match (self.write_back, is_of_writing) {
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

    /// Takes note of how a request to read went.
    pub(super) fn note<T>(&self, done: Result<T, BucketError>) -> Result<T, BucketError> {
        self.note_request(done, false)
    }

    /// The same of one that changes what is there.
    pub(super) fn note_change<T>(&self, done: Result<T, BucketError>) -> Result<T, BucketError> {
        self.note_request(done, true)
    }

    fn note_request<T>(&self, done: Result<T, BucketError>, is_change: bool) -> Result<T, BucketError> {
        match &done {
            // That an object is missing says nothing of the bucket: it may be another one.
            Ok(_) => self.note_use(is_change),
            Err(BucketError::Away(why)) => self.note_trouble(why, is_change),
            Err(BucketError::Missing | BucketError::Wrong(_)) => {}
        }
        done
    }

    pub(super) fn note_use(&self, is_change: bool) {
        let mut state = self.state();
        let is_over = |trouble: &mut BucketTrouble| is_change || !trouble.is_of_writing;
        if state.place.is_some() && state.trouble.take_if(is_over).is_some() {
            tracing::info!(bucket = self.shown, "the object storage can be used again");
        }
    }

    pub(super) fn note_trouble(&self, why: &str, is_of_writing: bool) {
        let mut state = self.state();
        match &mut state.trouble {
            Some(trouble) => {
                trouble.met = Instant::now();
                trouble.is_of_writing = is_of_writing;
                why.clone_into(&mut trouble.why);
            }
            none => {
                tracing::error!(bucket = self.shown, why, "the object storage cannot be used");
                *none = Some(BucketTrouble::new(why.to_owned(), is_of_writing));
            }
        }
    }
}
