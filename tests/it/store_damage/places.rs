//! Other things in the places of contents.

use std::fs;
use std::path::Path;

use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{ContentStore, ItemOutcome};

use super::{aside_names, becomes_absent, got};
use crate::support::embedded::{content_path, open, upload};
use crate::support::store::{hash_of, incoming_file, noise, read, record_of};

/// What somebody, or a file system, may leave where a content should be.
const IN_ITS_PLACE: [&str; 12] = [
    "pipe",
    "socket",
    "loop",
    "device",
    "directory",
    "empty",
    "grown",
    "another",
    "loop above",
    "file above",
    "pipe at the top",
    "nothing above",
];

fn put_in_place(dir: &Path, what: &str, content: &[u8]) {
    let path = content_path(dir, hash_of(content));
    let parent = path.parent().unwrap();
    let top = parent.parent().unwrap();
    let pipe = |path: &Path| {
        let mode = rustix::fs::Mode::RUSR.union(rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    match what {
        "empty" => return fs::write(&path, "").unwrap(),
        "grown" => return fs::write(&path, [content, b"x"].concat()).unwrap(),
        "another" => {
            let other = dir.join("other");
            fs::write(&other, noise(content.len(), 4711)).unwrap();
            fs::remove_file(&path).unwrap();
            return fs::hard_link(&other, &path).unwrap();
        }
        "loop above" | "file above" | "nothing above" => fs::remove_dir_all(parent).unwrap(),
        "pipe at the top" => fs::remove_dir_all(top).unwrap(),
        _ => fs::remove_file(&path).unwrap(),
    }
    match what {
        "pipe" => pipe(&path),
        "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
        "loop" => std::os::unix::fs::symlink(&path, &path).unwrap(),
        "device" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
        "directory" => fs::create_dir_all(path.join("below")).unwrap(),
        "loop above" => std::os::unix::fs::symlink(parent, parent).unwrap(),
        "file above" => fs::write(parent, "x").unwrap(),
        "pipe at the top" => pipe(top),
        _ => {}
    }
}

#[tokio::test]
async fn whatever_is_in_a_contents_place_is_that_contents_damage_and_heals() {
    for what in IN_ITS_PLACE {
        let dir = tempfile::tempdir().unwrap();
        // Short enough for a socket.
        let store = open(dir.path()).await;
        let (content, other) = (noise(700_000, 1), noise(700_000, 2));
        let hash = hash_of(&content);
        for content in [&content, &other] {
            upload(&store, content, IngestFields::default()).await;
        }
        put_in_place(dir.path(), what, &content);
        let soon = std::time::Duration::from_mins(1);
        let (_, complete) = tokio::time::timeout(soon, got(&store, hash, 0, Some(10))).await.expect(what);
        assert!(!complete, "{what}");
        becomes_absent(&store, hash).await;
        assert_eq!(store.verify(hash).await, Ok(false), "{what}");
        assert!(read(&store, hash_of(&other), 0, None).await.as_ref() == Ok(&other), "{what}");
        let status = store.status().await.unwrap();
        assert_eq!((status.damaged, status.read_only), (1, None), "{what}");

        let healed = store.ingest(vec![incoming_file(record_of(&content), &content)]).await;
        assert_eq!(healed, Ok(vec![ItemOutcome::Stored]), "{what}");
        assert!(read(&store, hash, 0, None).await.as_ref() == Ok(&content), "{what}");
        assert_eq!(aside_names(dir.path()), usize::from(what == "file above"), "{what}");
        store.close().await;
    }
}
