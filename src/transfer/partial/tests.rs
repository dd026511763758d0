use iroh::{EndpointId, SecretKey};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::store::groups::{GroupHasher, groups_of};

const SIZE: usize = 5_000_000;
const PART: usize = 500_000;

struct Rig {
    dir: TempDir,
    partials: Partials,
    content: Vec<u8>,
    hash: ContentHash,
}

impl Rig {
    fn new() -> Self {
        let mut content = vec![0; SIZE];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        let hash = ContentHash(Sha256::digest(&content).into());
        let dir = tempfile::tempdir().unwrap();
        let partials = Partials::open(dir.path()).unwrap();
        Self { dir, partials, content, hash }
    }

    fn key(&self) -> WantKey {
        WantKey { hash: self.hash, library: None, size: SIZE as u64 }
    }

    async fn begin(&self) -> Arc<Partial> {
        self.partials.begin(self.key(), None).await.unwrap()
    }

    /// Writes the parts of these numbers as `peer` has them: wrong ones if it lies.
    async fn write(&self, parts: impl IntoIterator<Item = usize>, peer: EndpointId, lies: bool) {
        let partial = self.begin().await;
        for part in parts {
            let mut bytes = self.content[part * PART..(part + 1) * PART].to_vec();
            bytes[3] ^= u8::from(lies);
            write_at(&partial, part * PART, bytes, Vec::new(), peer).await;
        }
    }

    /// Nobody works on it any more. A job that ends may hold on to it for a moment.
    async fn rest(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while self.partials.get(&self.key()).is_some() {
            assert!(std::time::Instant::now() < deadline, "it does not rest");
            self.partials.rest(|_| false).await;
        }
    }

    /// As after a crash: nothing is said to the old one.
    fn restart(&mut self) {
        self.partials = Partials::open(self.dir.path()).unwrap();
    }

    fn missing(&self) -> u64 {
        let gaps = self.partials.missing(&self.key(), None, 0..SIZE as u64);
        gaps.into_iter().map(|gap| gap.end - gap.start).sum()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    fn assert_whole(&self, finished: Finished) -> (Option<EndpointId>, Vec<EndpointId>) {
        let Finished::Whole { file, from, liars } = finished else { panic!("{finished:?}") };
        assert_eq!((file.sha256, file.size), (self.hash, SIZE as u64));
        assert_eq!(file.blake3, *blake3::hash(&self.content).as_bytes());
        assert!(fs::read(&file.path).unwrap() == self.content, "other bytes");
        (from, liars)
    }
}

/// Writes as streams do: in pieces of no particular size.
async fn write_at(
    partial: &Arc<Partial>,
    offset: usize,
    bytes: Vec<u8>,
    sums: Vec<GroupSum>,
    peer: EndpointId,
) {
    let pieces = if sums.is_empty() { 70_001 } else { 3 * GROUP_BYTES };
    for (n, piece) in bytes.chunks(pieces).enumerate() {
        let sums = sums.chunks(3).nth(n).unwrap_or_default().to_vec();
        let at = (offset + n * pieces) as u64;
        if let Some(writing) = partial.begin_write(at, Block::from(piece.to_vec()), sums, peer).unwrap() {
            writing.await.unwrap().unwrap();
        }
    }
}

fn peer() -> EndpointId {
    SecretKey::generate().public()
}

#[tokio::test]
async fn parts_from_several_peers_in_any_order_make_a_whole() {
    let rig = Rig::new();
    let (a, b) = (peer(), peer());
    let partial = rig.begin().await;
    tokio::join!(rig.write([8, 3, 1, 9], a, false), rig.write([2, 4, 0, 7, 6, 5], b, false));
    rig.write([0, 1, 2], a, true).await;
    assert_eq!(rig.missing(), 0, "what is there already stays as it is");
    let (from, liars) = rig.assert_whole(partial.finish().await.unwrap());
    assert_eq!((from, liars), (Some(b), vec![]));
    // The store did not take it: it is still here.
    rig.partials.not_taken(&rig.key());
    rig.assert_whole(partial.finish().await.unwrap());
    rig.partials.remove(vec![rig.key()]).await;
    assert_eq!(rig.files(), [""; 0]);
}

#[tokio::test]
async fn a_restart_costs_what_was_not_durable_and_no_more() {
    let mut rig = Rig::new();
    let a = peer();
    rig.write([0, 1, 2, 3, 4, 5, 7], a, false).await;
    assert!(matches!(rig.begin().await.finish().await.unwrap(), Finished::Incomplete));
    // A killed process has lost nothing that it had written.
    rig.restart();
    assert_eq!(rig.missing(), 1_500_000);
    // An ordered end keeps all of it.
    rig.write([0, 1, 2, 3, 4, 5, 7], a, false).await;
    rig.rest().await;
    rig.restart();
    assert_eq!(rig.missing(), 1_500_000);
    rig.write([6, 8, 9], peer(), false).await;
    rig.assert_whole(rig.begin().await.finish().await.unwrap());
}

#[tokio::test]
async fn a_liar_is_known_by_what_it_alone_sent() {
    let rig = Rig::new();
    let (good, liar, other) = (peer(), peer(), peer());
    // All of it.
    rig.write(0..10, liar, true).await;
    let partial = rig.begin().await;
    assert!(matches!(partial.finish().await.unwrap(), Finished::Wrong(Blame::Peer(who)) if who == liar));
    assert_eq!(rig.missing(), SIZE as u64);
    // A part of it: what one sent is kept, and nothing is taken from others until it is whole.
    rig.write(0..5, good, false).await;
    rig.write(5..8, liar, true).await;
    rig.write(8..10, other, false).await;
    let wrong = partial.finish().await.unwrap();
    let Finished::Wrong(Blame::OneOfSeveral(mut suspects)) = wrong else { panic!("{wrong:?}") };
    let mut all = [(good, 2_500_000), (liar, 1_500_000), (other, 1_000_000)];
    suspects.sort_unstable();
    all.sort_unstable();
    assert_eq!(suspects, all);
    partial.restrict(good).await.unwrap();
    assert_eq!(rig.missing(), 2_500_000);
    rig.write(5..10, liar, true).await;
    assert_eq!(rig.missing(), 2_500_000);
    rig.write(5..10, good, false).await;
    assert_eq!(rig.assert_whole(partial.finish().await.unwrap()), (Some(good), vec![liar]));
}

#[tokio::test]
async fn another_one_can_be_made_the_only_source() {
    let rig = Rig::new();
    let (good, liar) = (peer(), peer());
    let partial = rig.begin().await;
    rig.write(0..8, liar, true).await;
    rig.write(8..10, good, false).await;
    let wrong = partial.finish().await.unwrap();
    assert!(matches!(wrong, Finished::Wrong(Blame::OneOfSeveral(_))), "{wrong:?}");
    partial.restrict(liar).await.unwrap();
    assert_eq!(rig.missing(), 1_000_000);
    // It went away, and the other one begins.
    partial.restrict(good).await.unwrap();
    rig.write(0..10, good, false).await;
    let (from, liars) = rig.assert_whole(partial.finish().await.unwrap());
    assert_eq!((from, liars), (Some(good), vec![liar]));
}

#[tokio::test]
async fn nobody_is_blamed_for_what_lay_on_our_own_disk() {
    let mut rig = Rig::new();
    rig.write(0..5, peer(), false).await;
    rig.rest().await;
    let path = rig.dir.path().join(name_of(&rig.key()));
    let mut bytes = fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    rig.restart();
    assert_eq!(rig.missing(), 2_500_000);
    rig.write(5..10, peer(), false).await;
    let wrong = rig.begin().await.finish().await.unwrap();
    assert!(matches!(wrong, Finished::Wrong(Blame::Nobody)), "{wrong:?}");
    assert_eq!(rig.missing(), SIZE as u64);
}

#[tokio::test]
async fn what_is_old_or_of_another_size_or_the_stores_is_not_picked_up() {
    let mut rig = Rig::new();
    let written = async |rig: &Rig| {
        rig.write(0..5, peer(), false).await;
        rig.rest().await;
        assert_eq!(rig.files().len(), 2);
    };
    written(&rig).await;
    let another = WantKey { size: 7, ..rig.key() };
    assert!(rig.partials.missing(&another, None, 0..7).into_iter().eq(std::iter::once(0..7)));
    rig.partials.trim(SystemTime::now() + KEPT_FOR / 2);
    assert_eq!(rig.missing(), 2_500_000);
    rig.partials.trim(SystemTime::now() + KEPT_FOR * 2);
    assert_eq!((rig.missing(), rig.files().len()), (SIZE as u64, 0));

    written(&rig).await;
    let path = rig.dir.path().join(name_of(&rig.key()));
    fs::hard_link(&path, rig.dir.path().join("elsewhere.whole")).unwrap();
    fs::write(rig.dir.path().join(".tmp123"), b"left over").unwrap();
    rig.restart();
    assert_eq!((rig.missing(), rig.files().len()), (SIZE as u64, 0));
}

#[tokio::test]
async fn bytes_of_one_library_complete_nothing_of_another() {
    let mut rig = Rig::new();
    rig.write(0..5, peer(), false).await;
    rig.rest().await;
    rig.restart();
    assert_eq!(rig.missing(), 2_500_000);
    let theirs = WantKey { library: Some(crate::record::LibraryId([7; 32])), ..rig.key() };
    assert!(rig.partials.missing(&theirs, None, 0..10).into_iter().eq(std::iter::once(0..10)));
    let partial = rig.partials.begin(theirs, None).await.unwrap();
    write_at(&partial, 0, rig.content[..2 * PART].to_vec(), Vec::new(), peer()).await;
    drop(partial);
    rig.rest().await;
    rig.partials.rest(|_| false).await;
    rig.restart();
    assert_eq!(rig.missing(), 2_500_000);
    let missing = rig.partials.missing(&theirs, None, 0..SIZE as u64);
    assert!(missing.into_iter().eq(std::iter::once(2 * PART as u64..SIZE as u64)), "it is picked up again");
}

#[tokio::test]
async fn what_an_earlier_version_left_is_picked_up() {
    let mut rig = Rig::new();
    rig.write(0..5, peer(), false).await;
    rig.rest().await;
    let (now, before) = (rig.dir.path().join(name_of(&rig.key())), rig.dir.path().join(rig.hash.to_string()));
    fs::rename(ledger_path(&now), ledger_path(&before)).unwrap();
    fs::rename(now, before).unwrap();
    rig.restart();
    assert_eq!(rig.missing(), 2_500_000);
}

/// What the groups of the rig's content hash to, and all of it.
fn outboard(rig: &Rig) -> (GroupSum, Vec<GroupSum>) {
    let mut hasher = GroupHasher::default();
    hasher.update(&rig.content);
    hasher.finish()
}

/// Writes these groups as ones that were proved.
async fn write_proved(rig: &Rig, root: GroupSum, sums: &[GroupSum], groups: Range<usize>, peer: EndpointId) {
    let partial = rig.partials.begin(rig.key(), Some(root)).await.unwrap();
    let bytes = groups.start * GROUP_BYTES..(groups.end * GROUP_BYTES).min(SIZE);
    write_at(&partial, bytes.start, rig.content[bytes].to_vec(), sums[groups].to_vec(), peer).await;
}

fn missing_for(rig: &Rig, root: GroupSum) -> Vec<Range<u64>> {
    rig.partials.missing(&rig.key(), Some(root), 0..SIZE as u64)
}

#[tokio::test]
async fn what_was_proved_is_handed_over_with_its_sums_and_hashed_no_more_than_it_must() {
    let rig = Rig::new();
    let (root, sums) = outboard(&rig);
    let (a, b) = (peer(), peer());
    assert_eq!(sums.len(), 77);
    tokio::join!(
        write_proved(&rig, root, &sums, 40..77, a),
        write_proved(&rig, root, &sums, 0..20, b),
        write_proved(&rig, root, &sums, 10..50, b)
    );
    assert_eq!(missing_for(&rig, root), []);
    let partial = rig.partials.take_up(rig.key()).await.unwrap();
    let finished = partial.finish().await.unwrap();
    let Finished::Whole { file, .. } = &finished else { panic!("{finished:?}") };
    assert_eq!((file.blake3, &file.groups), (root, &sums));
    rig.assert_whole(finished);
}

#[tokio::test]
async fn a_restart_finds_whole_groups_again_and_makes_their_sums_anew() {
    let mut rig = Rig::new();
    let (root, sums) = outboard(&rig);
    write_proved(&rig, root, &sums, 0..30, peer()).await;
    write_proved(&rig, root, &sums, 70..77, peer()).await;
    rig.restart();
    let missing = 30 * GROUP_BYTES as u64..70 * GROUP_BYTES as u64;
    assert_eq!(missing_for(&rig, root), std::slice::from_ref(&missing));
    assert_eq!(groups_of(&missing), 30..70);
    assert_eq!(rig.missing(), SIZE as u64, "for nobody who proves nothing");
    let other = missing_for(&rig, [9; 32]);
    assert_eq!(other, std::slice::from_ref(&(0..SIZE as u64)), "nor for another root");
    write_proved(&rig, root, &sums, 30..70, peer()).await;
    let partial = rig.partials.take_up(rig.key()).await.unwrap();
    let finished = partial.finish().await.unwrap();
    let Finished::Whole { file, .. } = &finished else { panic!("{finished:?}") };
    assert_eq!(file.groups, sums);
}

#[tokio::test]
async fn what_rotted_on_our_disk_goes_and_what_was_proved_since_stays() {
    let mut rig = Rig::new();
    let (root, sums) = outboard(&rig);
    write_proved(&rig, root, &sums, 0..30, peer()).await;
    rig.restart();
    let path = rig.dir.path().join(name_of(&rig.key()));
    let mut bytes = fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    write_proved(&rig, root, &sums, 30..77, peer()).await;
    let partial = rig.partials.take_up(rig.key()).await.unwrap();
    assert!(matches!(partial.finish().await.unwrap(), Finished::Incomplete));
    assert_eq!(missing_for(&rig, root), std::slice::from_ref(&(0..30 * GROUP_BYTES as u64)));
    write_proved(&rig, root, &sums, 0..30, peer()).await;
    rig.assert_whole(partial.finish().await.unwrap());
}

#[tokio::test]
async fn a_root_of_another_content_is_named_with_all_who_sent_it() {
    let mut rig = Rig::new();
    let (root, sums) = outboard(&rig);
    // Every group is what it was proved to be, and the whole is not what it is named by.
    rig.hash = ContentHash([7; 32]);
    let (a, b) = (peer(), peer());
    write_proved(&rig, root, &sums, 0..30, a).await;
    write_proved(&rig, root, &sums, 30..77, b).await;
    let partial = rig.partials.take_up(rig.key()).await.unwrap();
    let wrong = partial.finish().await.unwrap();
    let Finished::Wrong(Blame::Root(mut givers)) = wrong else { panic!("{wrong:?}") };
    givers.sort_unstable();
    let mut all = [a, b];
    all.sort_unstable();
    assert_eq!(givers, all);
    assert_eq!(missing_for(&rig, root), std::slice::from_ref(&(0..SIZE as u64)));
}

#[tokio::test]
async fn a_content_is_begun_anew_for_another_root_once_nobody_works_on_it() {
    let rig = Rig::new();
    let (root, sums) = outboard(&rig);
    write_proved(&rig, root, &sums, 0..30, peer()).await;
    let before = rig.partials.begin(rig.key(), Some(root)).await.unwrap();
    let busy = rig.partials.begin(rig.key(), None).await;
    assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
    // A task that still writes to the former one changes nothing.
    rig.partials.remove(vec![rig.key()]).await;
    assert_eq!(rig.missing(), SIZE as u64);
    rig.write(0..5, peer(), false).await;
    let late = before.begin_write(0, Block::from(rig.content.clone()), sums, peer()).unwrap();
    assert!(late.is_none());
    assert_eq!(rig.missing(), 2_500_000);
    rig.write(5..10, peer(), false).await;
    rig.assert_whole(rig.begin().await.finish().await.unwrap());
}

/// Whether bytes at this place are in the system's memory; nothing is read that is not.
#[cfg(target_os = "linux")]
fn is_cached(file: &fs::File, at: u64) -> bool {
    let mut block = [0; 4096];
    let mut blocks = [io::IoSliceMut::new(&mut block)];
    rustix::io::preadv2(file, &mut blocks, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok_and(|read| read > 0)
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_does_not_fill_the_memory_of_the_system() {
    const MIB: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    // On tmpfs, files are memory.
    if rustix::fs::statfs(dir.path()).unwrap().f_type == 0x0102_1994 {
        return;
    }
    for (mib, stays) in [(40, false), (4, true)] {
        let mut content = vec![0; mib * MIB];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        let key = WantKey {
            hash: ContentHash(Sha256::digest(&content).into()),
            library: None,
            size: content.len() as u64,
        };
        let partials = Partials::open(dir.path()).unwrap();
        let partial = partials.begin(key, None).await.unwrap();
        for (n, block) in content.chunks(BLOCK_BYTES).enumerate() {
            write_at(&partial, n * BLOCK_BYTES, block.to_vec(), Vec::new(), peer()).await;
        }
        partial.settle().await.unwrap();
        let file = fs::File::open(partials.path(&key)).unwrap();
        assert_eq!(is_cached(&file, 2 * MIB as u64), stays, "of {mib} MiB");
        let finished = partial.finish().await.unwrap();
        let Finished::Whole { file, .. } = finished else { panic!("{finished:?}") };
        assert!(fs::read(&file.path).unwrap() == content);
    }
}
