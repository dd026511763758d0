//! On the real file system, with a user who does something at the worst moment.

#![allow(clippy::print_stdout, reason = "what cannot be tested somewhere is said to be left out")]

mod crashes;
mod looks;
mod markers;
mod moves;
mod reads;
mod removals;
mod sights;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::super::{AgreedRow, DiskSight, FileStat, ReadFile, SeenFile};
use super::ignoring::IGNORE_FILE;
use super::looking::{LookCounts, PassedOver};
use super::marker::{BindError, MARKER};
use super::own::TRASH;
use super::stat::FsTraits;
use super::*;
use crate::entry::{EntryFile, EntryPath, EntryRecord, FolderId};
use crate::record::{ContentHash, Hlc, WriterId};

const MARK: FolderMarker = FolderMarker { folder: FolderId([7; 32]), binding: [9; 16] };
/// Later than every file's time, so that what is read counts as settled.
const LATER_MS: u64 = 4_000_000_000_000;
const NOW_MS: u64 = 1_900_000_000_000;

/// Keeps notes in memory, and fails when it is told to.
#[derive(Default)]
struct MemoryJournal {
    notes: Mutex<BTreeMap<NoteId, JournalNote>>,
    is_broken: AtomicBool,
}

impl FolderJournal for MemoryJournal {
    fn note(&self, notes: &[JournalNote]) -> io::Result<()> {
        if self.is_broken.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::other("the journal is broken"));
        }
        self.notes.lock().extend(notes.iter().map(|note| (note.id, note.clone())));
        Ok(())
    }

    fn forget(&self, ids: &[NoteId]) -> io::Result<()> {
        self.notes.lock().retain(|id, _| !ids.contains(id));
        Ok(())
    }

    fn all(&self) -> io::Result<Vec<JournalNote>> {
        Ok(self.notes.lock().values().cloned().collect())
    }
}

impl MemoryJournal {
    fn steps(&self) -> Vec<NoteStep> {
        self.all().unwrap().iter().map(|note| note.step).collect()
    }

    /// As the caller does with its row.
    fn settle(&self, after: &AfterAct) {
        match after {
            AfterAct::Forget(id) => self.forget(&[*id]).unwrap(),
            AfterAct::Watch(note) => self.note(&[(**note).clone()]).unwrap(),
        }
    }
}

/// A bound directory.
struct Desk {
    tmp: TempDir,
    root: PathBuf,
    dir: FolderDir,
    journal: MemoryJournal,
}

fn forbidden(tmp: &Path) -> Forbidden {
    Forbidden { data_dir: tmp.join("data"), home: Some(tmp.join("home")) }
}

impl Desk {
    fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    /// In memory, where there is such a place: what is done a thousand times does not wait for the disk.
    fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let tmp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self::of(tmp.unwrap())
    }

    fn of(tmp: TempDir) -> Self {
        let root = tmp.path().join("folder");
        for name in ["folder", "data", "home"] {
            fs::create_dir(tmp.path().join(name)).unwrap();
        }
        let dir = FolderDir::bind(&root, MARK, &forbidden(tmp.path())).unwrap();
        Self { root: dir.path().to_owned(), tmp, dir, journal: MemoryJournal::default() }
    }

    /// After a crash.
    fn reopen(&mut self) {
        let abilities = self.dir.abilities;
        self.dir = FolderDir::open(&self.root, MARK).unwrap();
        self.dir.abilities = abilities;
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.at(name)).ok()
    }

    fn hook(&self, hook: impl FnMut(HookPoint) -> io::Result<()> + Send + 'static) {
        *self.dir.hook.lock() = Some(Box::new(hook));
    }

    /// Does something once, at the first moment of this kind.
    fn once(&self, when: HookPoint, act: impl FnOnce() + Send + 'static) {
        let mut act = Some(act);
        self.hook(move |moment| {
            if moment == when
                && let Some(act) = act.take()
            {
                act();
            }
            Ok(())
        });
    }

    fn no_hook(&self) {
        *self.dir.hook.lock() = None;
    }

    fn sight(&self, name: &str) -> DiskSight {
        let path = path(name);
        self.dir.sight(
            &path,
            &path,
            LookRules { ignored: &IgnoreRules::default(), knows: &|_, _| false },
            None,
        )
    }

    fn seen(&self, name: &str) -> SeenFile {
        let sight = self.sight(name);
        let DiskSight::File(file) = sight else { panic!("{name}: {sight:?}") };
        file
    }

    /// The row of a file as it is.
    fn row(&self, name: &str) -> AgreedRow {
        let content = fs::read(self.at(name)).unwrap();
        let seen = self.seen(name);
        let entry = entry(name, &content);
        let read = ReadFile { hash: hash(&content), at_ms: LATER_MS };
        AgreedRow::read(entry, &seen, read)
    }

    fn write_over(&self, name: &str, content: &[u8], over: Option<&AgreedRow>) -> Result<ActEnd, WriteError> {
        let (entry, name) = (entry(name, content), path(name));
        let order = WriteOrder {
            entry: &entry,
            over,
            is_aside: false,
            name: &name,
            content: NewContent::Bytes(content),
        };
        let mut ends = self.dir.write(&[order], &self.journal, (NOW_MS, 0));
        assert_eq!(ends.len(), 1);
        ends.remove(0)
    }

    fn remove(&self, name: &str, over: &AgreedRow) -> io::Result<ActEnd> {
        let (entry, name) = (removal(name), path(name));
        let mut ends =
            self.dir.remove(&[RemoveOrder { entry: &entry, over, name: &name }], &self.journal, NOW_MS);
        assert_eq!(ends.len(), 1);
        ends.remove(0)
    }

    /// Every content of a regular file below the root, ours and the trash's included, by path.
    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.root.clone()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() && entry.file_name() != MARKER {
                    let name = entry.path().strip_prefix(&self.root).unwrap().to_string_lossy().into_owned();
                    found.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
        found
    }

    fn has_content(&self, content: &str) -> bool {
        self.contents().values().any(|found| found == content.as_bytes())
    }

    fn temporaries(&self) -> Vec<String> {
        self.contents()
            .into_keys()
            .filter(|name| name.contains(own::TEMPORARY_PREFIX) && !name.starts_with(TRASH))
            .collect()
    }

    /// All that a look meets.
    fn look(&self, rules: &IgnoreRules, knows: &dyn Fn(&EntryPath, bool) -> bool) -> (Vec<Sighted>, LookEnd) {
        let mut all = Vec::new();
        let end = self.dir.look(LookRules { ignored: rules, knows }, &mut |sighted| {
            all.push(sighted);
            std::ops::ControlFlow::Continue(())
        });
        (all, end)
    }
}

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text).unwrap()
}

fn hash(content: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(content).into())
}

fn removal(name: &str) -> EntryRecord {
    EntryRecord {
        folder: MARK.folder,
        path: path(name),
        hlc: Hlc::from_ms(NOW_MS),
        writer: WriterId([1; 32]),
        file: None,
        was: None,
        by: "desk".to_owned(),
        seen: Vec::new(),
    }
}

fn entry(name: &str, content: &[u8]) -> EntryRecord {
    let (target, size) = (hash(content), content.len() as u64);
    let file = EntryFile { target, size, mtime_ms: 1_500_000_000_123, executable: false };
    EntryRecord { file: Some(file), ..removal(name) }
}

/// Saves as editors do: a new file, renamed over the old one.
fn save_by_rename(at: &Path, content: &str) {
    let new = at.with_file_name("editor's new file");
    fs::write(&new, content).unwrap();
    fs::rename(new, at).unwrap();
}

/// Mounts a small file system in memory, where that is allowed; else says that it is left out.
struct SmallMount(PathBuf);

impl SmallMount {
    fn new(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .stderr(std::process::Stdio::null())
            .status();
        if done.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("left out: nothing can be mounted here");
        None
    }
}

impl Drop for SmallMount {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
