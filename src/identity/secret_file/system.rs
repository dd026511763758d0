//! What the system says about a file that has secrets in it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Opens a pipe that nobody writes to yet.
pub(super) const NO_WAITING: i32 = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();

/// For a program at the other end of a pipe to say the secret; it may ask a person.
const PIPE_WITHIN: Duration = Duration::from_mins(1);

/// Where service managers put what they hand to a service. systemd names another place in `CREDENTIALS_DIRECTORY`.
const CREDENTIAL_DIRS: [&str; 3] = ["/run/credentials", "/run/secrets", "/var/run/secrets"];

/// File systems that have no modes, by the number that `statfs` gives them: FAT, exFAT, NTFS (two drivers), SMB (three),
/// and the shared folders of three programs for virtual machines.
#[cfg(target_os = "linux")]
const WITHOUT_MODES: [u32; 10] = [
    0x4d44,
    0x2011_bab0,
    0x5346_544e,
    0x7366_746e,
    0xff53_4d42,
    0xfe53_4d42,
    0x517b,
    0x786f_4256,
    0xbacb_acbc,
    0x7c7c_6673,
];
/// File systems that may have modes or not, as their server likes: FUSE and 9P.
#[cfg(target_os = "linux")]
const PERHAPS_WITHOUT_MODES: [u32; 2] = [0x6573_5546, 0x0102_1997];
/// Pipes that have no name.
#[cfg(target_os = "linux")]
const PIPES: u32 = 0x5049_5045;

/// The effective user, and every group that the process is in.
pub(super) fn user_and_groups() -> (u32, Vec<u32>) {
    let mut groups: Vec<u32> = rustix::process::getgroups()
        .unwrap_or_default()
        .into_iter()
        .map(rustix::process::Gid::as_raw)
        .collect();
    groups.push(rustix::process::getegid().as_raw());
    (rustix::process::geteuid().as_raw(), groups)
}

/// Whether the file system of `file`, which has `mode` and lies in `dir`, keeps modes.
pub(super) fn keeps_modes(file: &File, dir: &Path, mode: u32) -> bool {
    // Who is kept out has modes to thank for it, whatever the system calls itself.
    if mode & 0o066 == 0 {
        return true;
    }
    #[cfg(target_os = "linux")]
    match file_system(file) {
        Some(kind) if WITHOUT_MODES.contains(&kind) => return false,
        Some(kind) if PERHAPS_WITHOUT_MODES.contains(&kind) => return tried(dir),
        Some(_) | None => {}
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, dir);
    true
}

#[cfg(target_os = "linux")]
fn file_system(file: &File) -> Option<u32> {
    let kind = rustix::fs::fstatfs(file).ok()?.f_type;
    // The numbers have 32 bits; how wide the field is depends on the machine.
    u32::try_from(kind & 0xffff_ffff).ok()
}

/// Whether a private file in `dir` stays private. Where none can be made, nobody knows, and modes count.
#[cfg(target_os = "linux")]
fn tried(dir: &Path) -> bool {
    let tried = tempfile::NamedTempFile::new_in(dir);
    let mode = tried.and_then(|file| file.as_file().metadata()).map(|metadata| metadata.mode());
    mode.map_or(true, |mode| mode & 0o066 == 0)
}

/// Whether it is a pipe of a shell's (`<(…)`, `/dev/fd/3`): nobody else can reach it.
pub(super) fn is_unnamed_pipe(file: &File) -> bool {
    #[cfg(target_os = "linux")]
    return file_system(file) == Some(PIPES);
    #[cfg(not(target_os = "linux"))]
    return file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
}

/// Where an open file is, links resolved; as it was when it was opened, where the system can say that.
pub(super) fn real_path(file: &File, path: &Path) -> PathBuf {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd as _;
        if let Ok(real) = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
            return real;
        }
    }
    let _ = file;
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether a file lies where a service manager puts what it hands to one service.
pub(super) fn is_credential(real: &Path) -> bool {
    let named = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let dirs = named.into_iter().chain(CREDENTIAL_DIRS.map(PathBuf::from));
    // The root directory would make a credential of everything.
    let mut dirs = dirs.filter_map(|dir| fs::canonicalize(dir).ok()).filter(|dir| dir.parent().is_some());
    dirs.any(|dir| real.starts_with(dir))
}

/// Reads a pipe or a device to its end, at most one byte beyond `limit`.
pub(super) fn read_pipe(mut file: &File, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let until = Instant::now() + PIPE_WITHIN;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let mut buffer = Zeroizing::new([0; 4096]);
    while bytes.len() as u64 <= limit {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        };
        let ready = poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&wait));
        match ready {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came within a minute")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match io::Read::read(&mut file, &mut *buffer) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_pipe_is_read_to_its_end_and_no_further_than_allowed() {
        let (reader, mut writer) = io::pipe().unwrap();
        let reader = File::from(std::os::fd::OwnedFd::from(reader));
        assert!(is_unnamed_pipe(&reader) || cfg!(not(target_os = "linux")));
        let writing = std::thread::spawn(move || {
            for part in ["some ", "words\n"] {
                writer.write_all(part.as_bytes()).unwrap();
            }
        });
        assert_eq!(read_pipe(&reader, 100).unwrap().as_slice(), b"some words\n");
        writing.join().unwrap();
        let zero = File::open("/dev/zero").unwrap();
        let read = read_pipe(&zero, 10_000).unwrap().len();
        assert!((10_001..20_000).contains(&read), "{read}");
    }

    #[test]
    fn only_what_lies_in_the_named_places_is_a_credential() {
        for no in ["/", "/run", "/home/me/run/secrets/x", "/runs/secrets/x"] {
            assert!(!is_credential(Path::new(no)), "{no}");
        }
    }
}
