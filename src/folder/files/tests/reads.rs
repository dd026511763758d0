//! Copies.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;

use super::*;

fn into(desk: &Desk) -> PathBuf {
    desk.tmp.path().join("copy")
}

#[test]
fn a_copy_is_what_the_file_held() {
    let desk = Desk::new();
    let large = vec![7; 1_000_000];
    for content in [&b""[..], b"x", &large] {
        desk.put("a", content);
        let mut copied = desk.dir.copy(&path("a"), &into(&desk), None).unwrap();
        assert_eq!((copied.hash, copied.bytes), (hash(content), content.len() as u64));
        assert_eq!(copied.stat, desk.seen("a").stat);
        let mut read = Vec::new();
        copied.file.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        fs::remove_file(into(&desk)).unwrap();
    }
}

#[test]
fn holes_stay_holes() {
    let desk = Desk::new();
    let mut file = fs::File::create(desk.at("sparse")).unwrap();
    file.seek(SeekFrom::Start(64 << 20)).unwrap();
    file.write_all(b"end").unwrap();
    file.set_len(128 << 20).unwrap();
    let copied = desk.dir.copy(&path("sparse"), &into(&desk), None).unwrap();
    assert_eq!(copied.bytes, 128 << 20);
    let copy = fs::metadata(into(&desk)).unwrap();
    assert_eq!(copy.len(), 128 << 20);
    assert!(copy.blocks() * 512 < 4 << 20, "{} blocks", copy.blocks());
    let again = Sha256::digest(fs::read(into(&desk)).unwrap());
    assert_eq!(copied.hash, ContentHash(again.into()));
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    type Change = fn(&Path);
    let changes: [(HookPoint, Change); 5] = [
        (HookPoint::Copied, |at| fs::write(at, "more").unwrap()),
        (HookPoint::Copied, |at| save_by_rename(at, "other")),
        (HookPoint::Copied, |at| fs::remove_file(at).unwrap()),
        (HookPoint::Reading, |at| {
            fs::OpenOptions::new().append(true).open(at).unwrap().write_all(b"x").unwrap();
        }),
        (HookPoint::Reading, |at| fs::OpenOptions::new().write(true).open(at).unwrap().set_len(1).unwrap()),
    ];
    for (moment, change) in changes {
        let desk = Desk::new();
        desk.put("a", vec![1; 300_000]);
        let at = desk.at("a");
        desk.once(moment, move || change(&at));
        let error = desk.dir.copy(&path("a"), &into(&desk), None).unwrap_err();
        assert!(matches!(error, CopyError::Changed(_)), "{error}");
        assert!(!into(&desk).exists());
        // The same where nothing is copied.
        for small in [vec![1; 300_000], b"small".to_vec()] {
            let desk = Desk::new();
            desk.put("a", small);
            let at = desk.at("a");
            desk.once(moment, move || change(&at));
            if moment == HookPoint::Copied {
                let error = desk.dir.read_whole(&path("a"), 1 << 20, None).unwrap_err();
                assert!(matches!(error, CopyError::Changed(_)), "{error}");
            } else {
                let error = desk.dir.hash_in_place(&path("a"), None).unwrap_err();
                assert!(matches!(error, CopyError::Changed(_)), "{error}");
            }
        }
    }
}

#[test]
fn a_small_file_is_read_at_once_and_a_large_one_is_hashed_where_it_is() {
    let desk = Desk::new();
    for content in [&b""[..], b"x", &[7; 1000]] {
        desk.put("a", content);
        let read = desk.dir.read_whole(&path("a"), 1000, None).unwrap();
        assert_eq!((&read.bytes[..], read.hash, read.stat), (content, hash(content), desk.seen("a").stat));
        let hashed = desk.dir.hash_in_place(&path("a"), None).unwrap();
        assert_eq!(hashed, (read.stat, read.hash));
    }
    // It grew since it was looked at.
    desk.put("a", [7; 1001]);
    assert!(matches!(desk.dir.read_whole(&path("a"), 1000, None), Err(CopyError::Changed(_))));
}

#[test]
fn nothing_but_a_file_is_read() {
    let desk = Desk::new();
    desk.put("d/a", "x");
    std::os::unix::fs::symlink("d/a", desk.at("link")).unwrap();
    std::os::unix::fs::symlink("d", desk.at("linked")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, desk.at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    for name in ["d", "link", "linked/a", "pipe", "none", "none/at", "d/a/below"] {
        let error = desk.dir.copy(&path(name), &into(&desk), None).unwrap_err();
        assert!(matches!(error, CopyError::NotThere(_)), "{name}: {error}");
        let error = desk.dir.read_whole(&path(name), 1000, None).unwrap_err();
        assert!(matches!(error, CopyError::NotThere(_)), "{name}: {error}");
    }
    fs::write(into(&desk), "somebody's").unwrap();
    let error = desk.dir.copy(&path("d/a"), &into(&desk), None).unwrap_err();
    assert!(matches!(error, CopyError::Copy(..)), "{error}");
    assert_eq!(fs::read_to_string(into(&desk)).unwrap(), "somebody's");
    fs::remove_file(into(&desk)).unwrap();
    desk.dir.stop_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(desk.dir.copy(&path("d/a"), &into(&desk), None), Err(CopyError::Stopped)));
    assert!(!into(&desk).exists());
}
