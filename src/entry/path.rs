//! A path inside a folder: what may be one, which two are the same, and the names that are made from it.
//!
//! A path is UTF-8 with `/` between its components. It is kept as it was written and compared as NFC, since some file systems hand
//! names back decomposed. What a stranger may write into an entry is a path only if every machine can have a file of that name, and
//! if it names none of our own files.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use unicode_normalization::UnicodeNormalization as _;

use super::record::{EntryHash, FolderId};
use crate::record::Hlc;
use crate::text::{folded, is_hazard, is_invisible};

pub const PATH_BYTES_MAX: usize = 1024;
/// Longest component, in bytes: what Linux takes.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// How the names of our own files begin. No entry has a component that begins so, in whatever case.
pub const OWN_PREFIX: &str = ".can-sync";
/// A longer extension is none, and stays with the stem.
const EXTENSION_BYTES_MAX: usize = 32;
/// Bytes of a stem that a name made from it keeps.
const STEM_BYTES_MIN: usize = 8;
/// The stem of a made name, where that of the path gives none: cut, it may begin as those of our own files do.
const STEM_ELSE: &str = "file";

/// Why text is no path of an entry.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum PathError {
    #[error("the path is empty")]
    Empty,
    /// More than [`PATH_BYTES_MAX`].
    #[error("the path has {0} bytes, more than {PATH_BYTES_MAX}")]
    TooLong(usize),
    /// An empty component, `.` or `..`.
    #[error("the path has an empty component, '.' or '..'")]
    Component,
    /// More than [`COMPONENT_BYTES_MAX`].
    #[error("a name of the path has {0} bytes, more than {COMPONENT_BYTES_MAX}")]
    ComponentTooLong(usize),
    #[error("the path has a control character")]
    Control,
    /// A name that begins as those of our own files do.
    #[error("the path has a name that begins with '{OWN_PREFIX}', as can-sync's own files do")]
    Own,
}

/// A path of an entry, as it was written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(String);

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EntryPath {
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong(text.len()));
        }
        if text.contains(char::is_control) {
            return Err(PathError::Control);
        }
        for component in text.split('/') {
            if matches!(component, "" | "." | "..") {
                return Err(PathError::Component);
            }
            if component.len() > COMPONENT_BYTES_MAX {
                return Err(PathError::ComponentTooLong(component.len()));
            }
            if is_own(component) {
                return Err(PathError::Own);
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What paths are compared by.
    pub fn composed(&self) -> Cow<'_, str> {
        composed(&self.0)
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0 || self.composed() == other.composed()
    }

    pub fn is_below(&self, directory: &Self) -> bool {
        let below = |path: &str, directory: &str| {
            path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
        };
        below(&self.composed(), &directory.composed())
    }

    /// The directory, empty at the root, and the name.
    fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// Where the loser of two edits goes that were made apart: `stem (BY DATE DIGEST8).ext`, in the same directory. Everybody makes
    /// the same of the same arguments. A suffix of this shape that is there is replaced; a stem that is too long is cut; where the
    /// directory leaves no room, the copy goes to the nearest one above that does.
    #[must_use]
    pub fn conflict(&self, by: &str, at: Hlc, digest: &[u8; 32]) -> Self {
        let (directory, name) = self.split();
        let (stem, extension) = split_name(name);
        let suffix = format!(" ({} {} {})", name_of(by), date_of(at), first8(digest));
        Self::joined(directory, without_conflict_suffix(stem), &suffix, extension)
    }

    /// Whether it has a name that [`EntryPath::conflict`] makes.
    pub fn is_conflict(&self) -> bool {
        let (stem, _) = split_name(self.split().1);
        without_conflict_suffix(stem) != stem
    }

    /// The name on disk of a file whose own is taken by a directory: `stem (file DIGEST8).ext`. The entry keeps its path.
    #[must_use]
    pub fn aside(&self, folder: FolderId) -> Self {
        let (directory, name) = self.split();
        let (stem, extension) = split_name(name);
        let EntryHash(hash) = EntryHash::of(folder, self);
        Self::joined(directory, stem, &format!(" (file {})", first8(&hash)), extension)
    }

    /// The path whose file is aside under this name, if it is such a name: a file of it stands for that path, and no entry has it. The
    /// names of stems that had to be cut are not told apart.
    pub fn plain(&self, folder: FolderId) -> Option<Self> {
        let (directory, name) = self.split();
        let (stem, extension) = split_name(name);
        let (before, digits) = stem.strip_suffix(')')?.rsplit_once(" (file ")?;
        if !is_hex8(digits) {
            return None;
        }
        let slash = if directory.is_empty() { "" } else { "/" };
        let plain = Self::parse(&format!("{directory}{slash}{before}{extension}")).ok()?;
        Some(plain).filter(|plain| plain.aside(folder).is_same(self))
    }

    fn joined(directory: &str, stem: &str, suffix: &str, extension: &str) -> Self {
        let fixed = suffix.len() + extension.len();
        let mut directory = directory;
        loop {
            let before = if directory.is_empty() { 0 } else { directory.len() + 1 };
            let room = COMPONENT_BYTES_MAX.min(PATH_BYTES_MAX.saturating_sub(before)).saturating_sub(fixed);
            if room >= STEM_BYTES_MIN || directory.is_empty() {
                let stem = &stem[..stem.floor_char_boundary(room.min(stem.len()))];
                let slash = if directory.is_empty() { "" } else { "/" };
                let named = |stem: &str| format!("{directory}{slash}{stem}{suffix}{extension}");
                return Self::parse(&named(stem)).unwrap_or_else(|_| Self(named(STEM_ELSE)));
            }
            directory = directory.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
}

/// What paths and their beginnings are compared by.
pub fn composed(path: &str) -> Cow<'_, str> {
    if path.is_ascii() { Cow::Borrowed(path) } else { Cow::Owned(path.nfc().collect()) }
}

/// Whether a component begins as the names of our own files do, as far as any file system may tell them apart: some fold case, some
/// leave out characters that show nothing.
pub(crate) fn is_own(component: &str) -> bool {
    // Most names are told apart by their first letter.
    if component.starts_with(|c: char| c.is_ascii() && c != '.') {
        return false;
    }
    let visible: String = component.chars().filter(|c| !is_invisible(*c)).collect();
    folded(&visible).starts_with(OWN_PREFIX)
}

/// Stem and extension, with its dot.
fn split_name(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= EXTENSION_BYTES_MAX => name.split_at(dot),
        Some(_) | None => (name, ""),
    }
}

fn without_conflict_suffix(stem: &str) -> &str {
    let before = || {
        let inner = stem.strip_suffix(')')?;
        let (before, inner) = inner.rsplit_once(" (")?;
        let (rest, digest) = inner.rsplit_once(' ')?;
        let (by, date) = rest.rsplit_once(' ')?;
        let is_ours = !by.is_empty() && is_date(date) && is_hex8(digest) && !before.is_empty();
        is_ours.then_some(before)
    };
    before().unwrap_or(stem)
}

fn is_hex8(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_date(text: &str) -> bool {
    let is_digit = |at: usize, b: u8| if at == 4 || at == 7 { b == b'-' } else { b.is_ascii_digit() };
    text.len() == 10 && text.bytes().enumerate().all(|(at, b)| is_digit(at, b))
}

fn first8(digest: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&digest[..4])
}

/// Who made a version, as part of a name: without what separates components, this suffix from the stem, or an extension.
fn name_of(by: &str) -> String {
    let is_odd = |c: char| matches!(c, '/' | '\\' | '(' | ')' | '.') || is_hazard(c);
    let name: String = by.trim().chars().map(|c| if is_odd(c) { '-' } else { c }).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// The day in UTC; a day that no calendar has is the last that one has.
fn date_of(at: Hlc) -> String {
    let ms = i64::try_from(at.ms()).ok();
    let time = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    // RFC 3339, in UTC.
    time.map_or_else(|| "9999-12-31".to_owned(), |time| time.to_string()[..10].to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text).unwrap()
    }

    fn at(ms: u64) -> Hlc {
        Hlc::from_ms(ms)
    }

    #[test]
    fn only_what_every_machine_can_have_is_a_path() {
        for good in ["a", "a/b.txt", ".hidden", "..a", "a/.../b", "Grüße/日本", "a b", ".can", "x.can-sync"]
        {
            assert_eq!(EntryPath::parse(good).map(|path| path.as_str().to_owned()), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", PathError::Empty),
            ("/a", PathError::Component),
            ("a/", PathError::Component),
            ("a//b", PathError::Component),
            (".", PathError::Component),
            ("a/../b", PathError::Component),
            ("a\nb", PathError::Control),
            ("a\0", PathError::Control),
            ("\u{85}", PathError::Control),
            (".can-sync-folder", PathError::Own),
            ("a/.CAN-Sync-trash/b", PathError::Own),
            (".can-\u{200d}sync-folder", PathError::Own),
            ("\u{feff}.can-syncignore", PathError::Own),
            (&"a".repeat(256), PathError::ComponentTooLong(256)),
            (&"a/".repeat(600), PathError::TooLong(1200)),
        ] {
            assert_eq!(EntryPath::parse(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn paths_that_are_written_differently_are_one_and_lie_below_the_same() {
        assert!(path("caf\u{e9}").is_same(&path("cafe\u{301}")));
        assert!(!path("a").is_same(&path("A")));
        assert!(path("cafe\u{301}/x").is_below(&path("caf\u{e9}")));
        assert!(!path("ab/x").is_below(&path("a")) && !path("a").is_below(&path("a")));
    }

    #[test]
    fn a_conflict_has_a_name_that_says_whose_and_when_and_replaces_an_earlier_one() {
        let day = at(1_795_910_400_000);
        let first = path("d/photo.tar.gz").conflict("Kim's laptop", day, &[0xab; 32]);
        assert_eq!(first.as_str(), "d/photo.tar (Kim's laptop 2026-11-29 abababab).gz");
        assert_eq!(
            first.conflict("b(/)x", at(0), &[1; 32]).as_str(),
            "d/photo.tar (b---x 1970-01-01 01010101).gz"
        );
        assert_eq!(
            path(".bashrc").conflict(" ", day, &[2; 32]).as_str(),
            ".bashrc (unnamed 2026-11-29 02020202)"
        );
        assert_eq!(
            path("a (b) (1)").conflict("c", Hlc(u64::MAX), &[2; 32]).as_str(),
            "a (b) (1) (c 9999-12-31 02020202)"
        );
        let of_host = path("Makefile").conflict("kim.local", day, &[2; 32]);
        assert_eq!(of_host.as_str(), "Makefile (kim-local 2026-11-29 02020202)");
        assert!(of_host.is_conflict(), "no part of it is an extension");
    }

    #[test]
    fn a_file_aside_is_known_by_its_name() {
        let folder = FolderId([7; 32]);
        let aside = path("d/a.txt").aside(folder);
        let EntryHash(hash) = EntryHash::of(folder, &path("d/a.txt"));
        assert_eq!(aside.as_str(), format!("d/a (file {}).txt", first8(&hash)));
        assert_eq!(aside.plain(folder), Some(path("d/a.txt")));
        assert_eq!(path("d").aside(folder).plain(folder), Some(path("d")));
        assert_eq!(aside.plain(FolderId([8; 32])), None);
        for other in ["a", "a (file).txt", "a (file 1234567).txt", "a (file 1234567G)", "a (file 12345678)"] {
            assert_eq!(path(other).plain(folder), None);
        }
    }

    #[test]
    fn a_name_that_begins_as_our_own_once_it_is_cut_has_another_stem() {
        // With its cedilla it is no name of ours.
        for (name, digits) in
            [(format!(".can-sync\u{327}{}", "x".repeat(230)), 0), (".can-sync\u{327}".into(), 900)]
        {
            let directory = "d".repeat(200) + "/";
            let path = path(&(directory.repeat(digits / 201) + &name));
            for made in [path.conflict(&"b".repeat(32), at(0), &[1; 32]), path.aside(FolderId([7; 32]))] {
                assert_eq!(EntryPath::parse(made.as_str()), Ok(made.clone()), "{made}");
            }
        }
        // Nine bytes of the stem are left: ".can-sync".
        let by = "\u{1d400}".repeat(32);
        let long = format!(".can-sync\u{327}{}.{}", "x".repeat(140), "e".repeat(31));
        for cut in 0..50 {
            let long = format!("{}/{long}", vec!["d".repeat(98); 8].join("/") + &"d".repeat(cut));
            let made = path(&long).conflict(&by, at(0), &[1; 32]);
            assert_eq!(EntryPath::parse(made.as_str()), Ok(made.clone()), "{made}");
        }
    }

    proptest! {
        #[test]
        fn names_made_from_paths_are_paths(
            parts in prop::collection::vec(
                prop_oneof![
                    "[a-zé日. ()0-9-]{1,80}",
                    "\\.[cC]an-sync[\u{327}\u{301}\u{200d}][a-z\u{327}]{0,70}(\\.[a-z]{1,31})?",
                    "[a-z\u{300}-\u{32f}]{1,60}( \\([a-z.]{1,9} 2026-11-29 [0-9a-f]{8}\\))?",
                    "[dé]{60,85}",
                ],
                1..14,
            ),
            by in "\\PC{0,32}",
            ms in any::<u64>(),
            digest in any::<[u8; 32]>(),
        ) {
            if let Ok(path) = EntryPath::parse(&parts.join("/")) {
                for made in [path.conflict(&by, Hlc(ms), &digest), path.aside(FolderId(digest))] {
                    prop_assert_eq!(EntryPath::parse(made.as_str()), Ok(made.clone()));
                    prop_assert!(!made.is_same(&path));
                    // A copy of a copy does not grow.
                    let again = made.conflict(&by, Hlc(ms), &[!digest[0]; 32]);
                    prop_assert!(!again.is_same(&made));
                    prop_assert!(again.as_str().len() <= PATH_BYTES_MAX);
                }
            }
        }
    }
}
