//! What `put` says about what it stored: of each file, and of all together.

use super::{NameTaken, PutOutcome, Stored};
use crate::cli::text;

/// Names that were left out and are told one by one where many files are stored.
const LEFT_OUT_TOLD: u64 = 8;
const NAMES_TOLD: usize = 4;

#[derive(Debug, Default)]
pub(super) struct PutTally {
    new: u64,
    merged: u64,
    /// Those of them that brought another name.
    named: u64,
    unchanged: u64,
    left_out: u64,
    /// Whether the last one is told by itself.
    explains: bool,
}

impl PutTally {
    pub(super) fn add(&mut self, stored: &Stored) {
        match stored.outcome {
            PutOutcome::New => self.new += 1,
            PutOutcome::Merged => self.merged += 1,
            PutOutcome::Unchanged => self.unchanged += 1,
        }
        let is_named = stored.outcome == PutOutcome::Merged && stored.name_outcome == Some(NameTaken::Added);
        self.named += u64::from(is_named);
        let is_left_out = stored.name_outcome == Some(NameTaken::LeftOut);
        self.left_out += u64::from(is_left_out);
        self.explains = is_left_out && self.left_out <= LEFT_OUT_TOLD;
    }

    /// Whether something is to be said of the last one, however many there are.
    pub(super) fn explains(&self) -> bool {
        self.explains
    }

    /// All together, as clauses.
    pub(super) fn told(&self) -> String {
        let Self { new, merged, named, unchanged, left_out, explains: _ } = self;
        let mut told = vec![format!("{} stored", text::counted(*new, "new asset"))];
        if *merged > 0 {
            let named = match *named {
                0 => String::new(),
                named if named == *merged => " as further names".to_owned(),
                named => format!(", {named} as further names"),
            };
            told.push(format!("{} merged into assets that are here{named}", text::counted(*merged, "file")));
        }
        if *unchanged > 0 {
            told.push(format!("{} skipped, here already", text::counted(*unchanged, "file")));
        }
        if *left_out > 0 {
            told.push(format!("{} left out for want of room", text::counted(*left_out, "name")));
        }
        told.join("; ")
    }
}

/// What is to be said of one; of one among `many` only what is not as it should be.
pub(super) fn remark(stored: &Stored, many: bool) -> Option<String> {
    let Stored { asset, outcome, name_outcome, measured, given } = stored;
    if measured.as_ref().is_some_and(|hash| *hash != asset.hash) {
        return Some("it changed while it was read: what was read is stored".to_owned());
    }
    if many || *outcome == PutOutcome::New {
        return None;
    }
    let is_new = |name: &&str| *name_outcome == Some(NameTaken::Added) && given.as_deref() == Some(*name);
    let called = called(asset.names().filter(|name| !is_new(name)));
    if *name_outcome == Some(NameTaken::LeftOut) {
        let command = format!("can-sync edit {} --remove-name NAME", asset.hash);
        return Some(format!(
            "its content is here already{called}; there is no room for one more name: `{command}` makes some"
        ));
    }
    Some(match (outcome, asset.names().find(is_new)) {
        (PutOutcome::Unchanged, _) => format!("it is here already{called}"),
        (_, Some(name)) => format!("its content is here already{called}, now also named {name}"),
        (_, None) => format!("its content is here already{called}; what was new about it is added"),
    })
}

/// Some of the names, as a clause.
fn called<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMES_TOLD);
    let told = names[..names.len() - more].join(", ");
    match (told.as_str(), more) {
        ("", _) => String::new(),
        (told, 0) => format!(" as {told}"),
        (told, more) => format!(" as {told} and {more} more"),
    }
}
