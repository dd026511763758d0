use bytes::Bytes;
use iroh::{EndpointId, SecretKey};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

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
        self.partials.begin(self.key()).await.unwrap()
    }

    /// Writes the parts of these numbers as `peer` has them: wrong ones if it lies.
    async fn write(&self, parts: impl IntoIterator<Item = usize>, peer: EndpointId, lies: bool) {
        let partial = self.begin().await;
        for part in parts {
            let mut bytes = self.content[part * PART..(part + 1) * PART].to_vec();
            bytes[3] ^= u8::from(lies);
            // As they come from a stream: in pieces of no particular size.
            let chunks = bytes.chunks(70_001).map(Bytes::copy_from_slice).collect();
            partial.write((part * PART) as u64, chunks, peer).await.unwrap();
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
        let gaps = self.partials.missing(&self.key(), 0..SIZE as u64);
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
    // Everything but the last two MiB is made durable without being told.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while rig.begin().await.durable().len() < 1_500_000 {
        assert!(std::time::Instant::now() < deadline, "nothing is made durable");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
    assert!(rig.partials.missing(&another, 0..7).into_iter().eq(std::iter::once(0..7)));
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
    assert!(rig.partials.missing(&theirs, 0..10).into_iter().eq(std::iter::once(0..10)));
    let partial = rig.partials.begin(theirs).await.unwrap();
    partial.write(0, vec![Bytes::from(rig.content[..2 * PART].to_vec())], peer()).await.unwrap();
    drop(partial);
    rig.rest().await;
    rig.partials.rest(|_| false).await;
    rig.restart();
    assert_eq!(rig.missing(), 2_500_000);
    let missing = rig.partials.missing(&theirs, 0..SIZE as u64);
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
