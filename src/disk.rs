//! What file systems cannot do, and failures of the system that pass by themselves.
//!
//! Network and FUSE file systems, and those of memory cards, lack one thing or another that a local disk has. What can be
//! done without is done without, and said once; what cannot is named in one sentence ([`lock_problem`]).

mod direct;

use std::error::Error;
use std::fs::{self, File, FileType, OpenOptions};
use std::io;
#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{OFlags, StatVfs};
use rustix::io::Errno;

pub use self::direct::{DirectWriter, PageBuffer};

/// Pauses between the tries of somebody who is waited for.
pub const SHORT_PATIENCE: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(400)];
/// Pauses between the tries of somebody who decides whether something is broken.
pub const LONG_PATIENCE: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

const PASSING: [Errno; 6] = [Errno::INTR, Errno::AGAIN, Errno::NOMEM, Errno::NFILE, Errno::MFILE, Errno::IO];

/// What is no fault of the one file that it is met at, but of its disk, its file system or this process.
const SHARED: [Errno; 21] = [
    Errno::INTR,
    Errno::AGAIN,
    Errno::NOMEM,
    Errno::NFILE,
    Errno::MFILE,
    Errno::BUSY,
    Errno::NODEV,
    Errno::NXIO,
    Errno::PIPE,
    Errno::NOSYS,
    Errno::TIMEDOUT,
    Errno::STALE,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    Errno::NOTCONN,
    Errno::CONNRESET,
    Errno::CONNABORTED,
    Errno::CONNREFUSED,
    Errno::SHUTDOWN,
];

/// Gives back the system's memory of a range of a file, which is durable: nobody reads it soon.
#[cfg(target_os = "linux")]
pub fn uncache(file: &File, range: &Range<u64>) {
    let Some(length) = NonZeroU64::new(range.end.saturating_sub(range.start)) else { return };
    // It is advice, and costs memory alone where it is not taken.
    let _ = rustix::fs::fadvise(file, range.start, Some(length), rustix::fs::Advice::DontNeed);
}

/// Where no system takes such advice.
#[cfg(not(target_os = "linux"))]
pub fn uncache(_: &File, _: &Range<u64>) {}

/// Something else is where a file should be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is {0} and not a file")]
pub struct NotAFile(pub &'static str);

impl NotAFile {
    /// What is in the place of a file, if that is why it was not opened.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }
}

/// What a thing is that is neither a file nor a directory nor a link.
pub fn oddity(file_type: FileType) -> Option<&'static str> {
    if file_type.is_fifo() {
        Some("a named pipe")
    } else if file_type.is_socket() {
        Some("a socket")
    } else if file_type.is_block_device() || file_type.is_char_device() {
        Some("a device")
    } else {
        None
    }
}

/// Opens a plain file for reading, and nothing else: what may never answer, or does something when it is opened, is neither opened nor
/// waited for ([`NotAFile`]).
pub fn open_plain(path: &Path) -> io::Result<File> {
    check_plain(fs::metadata(path)?.file_type())?;
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // It may have become something else meanwhile.
    check_plain(file.metadata()?.file_type())?;
    Ok(file)
}

fn check_plain(file_type: FileType) -> io::Result<()> {
    if file_type.is_file() {
        return Ok(());
    }
    let what = if file_type.is_dir() { "a directory" } else { oddity(file_type).unwrap_or("something else") };
    Err(io::Error::other(NotAFile(what)))
}

/// Whether a failure that lasts is the fault of the one file that it was met at.
pub fn is_own_fault(error: &io::Error) -> bool {
    NotAFile::of(error).is_some() || Errno::from_io_error(error).is_some_and(|error| !is_shared(error))
}

fn is_shared(error: Errno) -> bool {
    // The key of an encrypted directory is away, and with it all that is in it.
    #[cfg(target_os = "linux")]
    if [Errno::NOKEY, Errno::KEYEXPIRED, Errno::KEYREVOKED].contains(&error) {
        return true;
    }
    SHARED.contains(&error)
}

/// Makes the names in a directory durable, as far as its file system can: some refuse to, and keep them all the same.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|dir| dir.sync_all()) {
        Err(error) if cannot_sync_dirs(&error) => Ok(()),
        done => done,
    }
}

/// As [`sync_dir`], of one that is open.
pub fn sync_open_dir(dir: &File) -> io::Result<()> {
    match dir.sync_all() {
        Err(error) if cannot_sync_dirs(&error) => Ok(()),
        done => done,
    }
}

/// Bytes that are free for this user where a path lies; `None` where the file system does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    free_of(&rustix::fs::statvfs(path).ok()?)
}

/// The same of what a file system said. One without blocks does not know, and says so when it is full.
pub fn free_of(said: &StatVfs) -> Option<u64> {
    (said.f_blocks > 0).then(|| said.f_bavail.saturating_mul(said.f_frsize))
}

/// That names in a directory may be lost by a power cut, if its file system cannot make them durable.
pub fn dir_sync_problem(path: &Path) -> Option<String> {
    let error = File::open(path).and_then(|dir| dir.sync_all()).err().filter(cannot_sync_dirs)?;
    Some(format!(
        "the file system that holds {} cannot make names in directories durable ({error}): all works, but a power cut may cost \
         what was stored in the seconds before it",
        path.display()
    ))
}

fn cannot_sync_dirs(error: &io::Error) -> bool {
    let refusals = [
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::BADF,
        Errno::ACCESS,
        Errno::NOSYS,
        Errno::ISDIR,
        Errno::NOTTY,
    ];
    is_one_of(error, &refusals)
}

/// That a file cannot be locked because its file system has no locks.
pub fn lock_problem(path: &Path, error: &io::Error) -> Option<String> {
    let has_none = is_one_of(error, &[Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL]);
    has_none.then(|| {
        format!(
            "the file system that holds {} has no file locks ({error}), which keep two programs from writing the same data: put \
             data_dir on a disk of this machine, or mount it with locks",
            path.display()
        )
    })
}

/// That a database cannot be used, where its file system lacks what it takes.
pub fn database_problem(path: &Path, error: &rusqlite::Error) -> Option<String> {
    use rusqlite::ffi;
    let rusqlite::Error::SqliteFailure(error, _) = error else { return None };
    let what = match error.extended_code {
        ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMLOCK | ffi::SQLITE_IOERR_SHMMAP => {
            "cannot share memory between the users of a file (mmap)"
        }
        ffi::SQLITE_IOERR_LOCK
        | ffi::SQLITE_IOERR_RDLOCK
        | ffi::SQLITE_IOERR_UNLOCK
        | ffi::SQLITE_IOERR_CHECKRESERVEDLOCK => "has no file locks",
        ffi::SQLITE_BUSY => "has no file locks, or another program has the database open",
        _ => return None,
    };
    Some(format!(
        "the file system that holds {} {what}, which databases need: put data_dir on a disk of this machine (network and FUSE mounts \
         often cannot do it)",
        path.display()
    ))
}

/// The same failure to open a database, with what its file system lacks, if that is the reason.
pub fn explained(path: &Path, error: Box<dyn Error + Send + Sync>) -> Box<dyn Error + Send + Sync> {
    let problem = match error.downcast_ref::<rusqlite_migration::Error>() {
        Some(rusqlite_migration::Error::RusqliteError { err, .. }) => database_problem(path, err),
        _ => error.downcast_ref().and_then(|error| database_problem(path, error)),
    };
    problem.map_or(error, Into::into)
}

/// Whether a failure may be over in a moment: too many open files or too little memory, somebody who was quicker, and a disk
/// that could not read just now.
pub fn may_pass(error: &io::Error) -> bool {
    is_one_of(error, &PASSING)
}

fn is_one_of(error: &io::Error, errors: &[Errno]) -> bool {
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// Does `work` again after each of the `pauses` while it fails with what may pass. Blocks.
pub fn patiently<T>(pauses: &[Duration], mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for pause in pauses {
        match work() {
            Err(error) if may_pass(&error) => std::thread::sleep(*pause),
            done => return done,
        }
    }
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_waited_out_and_what_lasts_is_told() {
        let soon = [Duration::ZERO; 3];
        for errno in PASSING {
            let mut tries = 0;
            let mut fail_for = |times: u32| {
                tries = 0;
                patiently(&soon, || {
                    tries += 1;
                    if tries <= times {
                        Err(io::Error::from_raw_os_error(errno.raw_os_error()))
                    } else {
                        Ok(tries)
                    }
                })
            };
            assert_eq!(fail_for(3).unwrap(), 4);
            assert_eq!(fail_for(4).unwrap_err().raw_os_error(), Some(errno.raw_os_error()));
        }
        let mut tries = 0;
        let gone: io::Result<()> = patiently(&soon, || {
            tries += 1;
            Err(io::ErrorKind::NotFound.into())
        });
        assert!(gone.is_err() && tries == 1);
    }

    #[test]
    fn nothing_but_a_file_is_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mode = rustix::fs::Mode::RUSR.union(rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::create_dir(path("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        fs::write(path("plain"), "x").unwrap();
        std::os::unix::fs::symlink("plain", path("link")).unwrap();
        for (name, what) in
            [("pipe", "named pipe"), ("dir", "directory"), ("socket", "socket"), ("device", "device")]
        {
            let error = open_plain(&path(name)).unwrap_err();
            assert!(is_own_fault(&error) && error.to_string().contains(what), "{name}: {error}");
        }
        let error = open_plain(&path("loop")).unwrap_err();
        assert!(is_own_fault(&error) && NotAFile::of(&error).is_none(), "{error}");
        assert!(open_plain(&path("plain")).is_ok() && open_plain(&path("link")).is_ok());
        for errno in [Errno::ACCESS, Errno::PERM, Errno::LOOP, Errno::NAMETOOLONG, Errno::IO] {
            assert!(is_own_fault(&io::Error::from_raw_os_error(errno.raw_os_error())), "{errno}");
        }
        for errno in SHARED {
            assert!(!is_own_fault(&io::Error::from_raw_os_error(errno.raw_os_error())), "{errno}");
        }
        assert!(!is_own_fault(&io::Error::other("stopped")));
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_weakness_of_its_file_system() {
        let dir = tempfile::tempdir().unwrap();
        sync_dir(dir.path()).unwrap();
        assert_eq!(dir_sync_problem(dir.path()), None);
        let gone = dir.path().join("gone");
        assert!(sync_dir(&gone).is_err());
        assert_eq!(dir_sync_problem(&gone), None);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(!cannot_sync_dirs(&full) && !may_pass(&full));
        assert_eq!(lock_problem(dir.path(), &full), None);
    }
}
