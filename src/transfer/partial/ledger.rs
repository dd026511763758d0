//! The record of which bytes of a partial content are here: a file of lines that is only ever appended to.
//!
//! The first line names the format, the size of the content, and the root that its groups were proved for, if any; each further
//! one is a range. Its bytes were fsynced
//! before the line was written; or the line names the boot of the machine in which they were written, and counts for as
//! long as that lasts, since what a killed process wrote is in the kernel's hands. Every line carries a checksum of its
//! own, so that one that a crash tore is no line, and the others count all the same. Nothing needs to be fsynced here: a
//! line that is lost costs its bytes again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::record::ContentHash;
use crate::store::groups::GroupSum;
use crate::transfer::ranges::Ranges;

/// Lines after which the file is written anew with those that are left when ranges are joined.
const LINES_MAX: usize = 8192;
/// Longest file that is read, in bytes; an honest one stays far below.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a ledger is about. Ranges of another one do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LedgerSubject {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    /// What all groups together hash to; every range that is noted was proved for it.
    pub(super) root: Option<GroupSum>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    subject: LedgerSubject,
    lines: usize,
}

impl Ledger {
    /// A new one that says `durable`, in place of whatever was there.
    pub(super) fn create(path: &Path, subject: LedgerSubject, durable: &Ranges) -> io::Result<Self> {
        let file = Self::write_whole(path, &subject, durable)?;
        let mut ledger = Self { file, path: path.to_owned(), subject, lines: 0 };
        ledger.lines = durable.iter().count();
        Ok(ledger)
    }

    /// Adds a range that is written, and durable unless the machine stops. Without a way to tell one boot from the next,
    /// it is left out.
    pub(super) fn note(&mut self, range: &Range<u64>) -> io::Result<()> {
        let Some(boot) = boot().filter(|_| self.lines < LINES_MAX) else { return Ok(()) };
        self.lines += 1;
        self.file.write_all(line(&self.subject, range, boot).as_bytes())
    }

    /// Adds ranges that are durable now; `all` of them, with these, in case the file is written anew.
    pub(super) fn append(&mut self, fresh: &[Range<u64>], all: &Ranges) -> io::Result<()> {
        if self.lines + fresh.len() > LINES_MAX {
            return self.replace(all);
        }
        let text: String = fresh.iter().map(|range| line(&self.subject, range, "")).collect();
        self.file.write_all(text.as_bytes())?;
        self.lines += fresh.len();
        Ok(())
    }

    /// Says `durable` from now on, and nothing of what was said before.
    pub(super) fn replace(&mut self, durable: &Ranges) -> io::Result<()> {
        *self = Self::create(&self.path, self.subject, durable)?;
        Ok(())
    }

    fn write_whole(path: &Path, subject: &LedgerSubject, durable: &Ranges) -> io::Result<File> {
        let mut text = head(subject);
        text.extend(durable.iter().map(|range| line(subject, &range, "")));
        // Beside it first, so that a crash leaves one or the other.
        let beside = path.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&beside, path)?;
        Ok(file)
    }

    /// What the file at `path` says: about what it is, and what of that is durable. `None` if it is not there or no such file.
    pub(super) fn load(path: &Path, hash: ContentHash) -> io::Result<Option<(LedgerSubject, Ranges)>> {
        let len = match fs::metadata(path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if len > BYTES_MAX {
            return Ok(None);
        }
        Ok(parse(&String::from_utf8_lossy(&fs::read(path)?), hash))
    }
}

pub(super) fn parse(text: &str, hash: ContentHash) -> Option<(LedgerSubject, Ranges)> {
    let (first, rest) = text.split_once('\n')?;
    let mut fields = first.split(' ').skip(2);
    let (size, next) = (fields.next()?.parse().ok()?, fields.next()?);
    // A checksum follows the root, if there is one.
    let root = match fields.next() {
        Some(_) => Some(next.parse::<ContentHash>().ok()?.0),
        None => None,
    };
    let subject = LedgerSubject { hash, size, root };
    if format!("{first}\n") != head(&subject) {
        return None;
    }
    let range = |text: &str| {
        let mut fields = text.split(' ');
        let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let sound = |boot| format!("{text}\n") == line(&subject, &(start..end), boot);
        (start < end && end <= size && (sound("") || boot().is_some_and(sound))).then_some(start..end)
    };
    Some((subject, rest.lines().filter_map(range).collect()))
}

pub(super) fn head(subject: &LedgerSubject) -> String {
    let (size, check) = (subject.size, checksum(subject, &[], ""));
    match subject.root {
        None => format!("can-sync-partial 1 {size} {check}\n"),
        Some(root) => format!("can-sync-partial 2 {size} {} {check}\n", ContentHash(root)),
    }
}

/// The boot goes into the checksum, so that a line of another one is no line.
pub(super) fn line(subject: &LedgerSubject, range: &Range<u64>, boot: &str) -> String {
    let check = checksum(subject, &[range.start, range.end], boot);
    format!("{} {} {check}\n", range.start, range.end)
}

/// Names this boot of the machine, where that can be had.
fn boot() -> Option<&'static str> {
    static BOOT: LazyLock<Option<String>> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    });
    BOOT.as_deref()
}

fn checksum(subject: &LedgerSubject, numbers: &[u64], boot: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(boot.as_bytes());
    hasher.update(&subject.hash.0);
    hasher.update(&subject.size.to_le_bytes());
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    if let Some(root) = &subject.root {
        hasher.update(root);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: ContentHash = ContentHash([7; 32]);

    fn of(size: u64) -> LedgerSubject {
        LedgerSubject { hash: HASH, size, root: None }
    }

    proptest! {
        /// Cut off anywhere, or with a byte changed, it says nothing that was not durable.
        #[test]
        fn damage_costs_progress_and_never_claims_any(
            ranges in prop::collection::vec((0..900_u64, 1..100_u64, any::<bool>()), 0..20),
            cut in any::<prop::sample::Index>(),
            change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            root in prop::option::of(any::<GroupSum>()),
        ) {
            let subject = LedgerSubject { root, ..of(1_000) };
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ledger");
            let mut all = Ranges::default();
            let mut ledger = Ledger::create(&path, subject, &all).unwrap();
            for (start, len, durable) in ranges {
                all.insert(start..start + len);
                if durable {
                    ledger.append(std::slice::from_ref(&(start..start + len)), &all).unwrap();
                } else {
                    ledger.note(&(start..start + len)).unwrap();
                }
            }
            prop_assert_eq!(Ledger::load(&path, HASH).unwrap(), Some((subject, all.clone())));
            prop_assert_eq!(Ledger::load(&path, ContentHash([8; 32])).unwrap(), None, "of another content");
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Some((at, byte)) = change.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            fs::write(&path, bytes).unwrap();
            if let Some((found, said)) = Ledger::load(&path, HASH).unwrap() {
                prop_assert_eq!(found, subject);
                prop_assert!(said.iter().all(|range| all.missing(range).is_empty()));
            }
        }
    }

    #[test]
    fn what_was_only_written_counts_in_the_same_boot_alone() {
        let (now, then) = (line(&of(10), &(0..5), boot().unwrap()), line(&of(10), &(5..10), "another boot"));
        let text = format!("{}{now}{then}", head(&of(10)));
        assert!(parse(&text, HASH).unwrap().1.iter().eq(std::iter::once(0..5)));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let mut all = Ranges::default();
        let mut ledger = Ledger::create(&path, of(1 << 40), &all).unwrap();
        for n in 0..LINES_MAX as u64 + 10 {
            all.insert(n * 10..n * 10 + 10);
            ledger.append(std::slice::from_ref(&(n * 10..n * 10 + 10)), &all).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 2_000);
        assert_eq!(Ledger::load(&path, HASH).unwrap(), Some((of(1 << 40), all)));
    }
}
