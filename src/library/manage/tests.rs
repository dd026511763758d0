mod folders;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use iroh::SecretKey;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::clock::Moment;
use crate::discovery::channel::Channels;
use crate::entry::FolderId;
use crate::identity::LibraryKeys;
use crate::library::OfferMeaning;
use crate::record::{AssetMeta, AssetRecord, ContentHash, Hlc};
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore, MetaPatch};
use crate::store::{ContentStore as _, IncomingAsset, IncomingContent, StoredRecord};

const MINUTE_MS: u64 = 60_000;
const TAG: &str = "trip";

/// A node without peers, whose clock stands where it is set.
struct Node {
    store: EmbeddedStore,
    manager: Manager,
    began_ms: u64,
    now_ms: Arc<AtomicU64>,
    dir: tempfile::TempDir,
}

fn mirror() -> Arc<Library> {
    Arc::new(Library::new(LibraryKeys::of_read_secret(&[0; 32])))
}

fn tagged(tags: &[&str]) -> FilterSpec {
    FilterSpec { tags: Some(tags.iter().map(|tag| (*tag).to_owned()).collect()), ..FilterSpec::default() }
}

/// A ticket of the library of this number.
fn ticket(number: u8, serial: u64, access: Access, filter: FilterSpec) -> String {
    let terms = Terms {
        name: "a library".into(),
        access,
        subject: Subject::Bearer,
        not_before_ms: 0,
        expires_ms: None,
        uses: 0,
        serial,
        epoch: 0,
        held: (0, 0),
        fresh_within_ms: 0,
    };
    let (key, secret) = (SigningKey::from_bytes(&[number; 32]), Zeroizing::new([number; 32]));
    let filter = Filter::try_from(filter).unwrap();
    Ticket::issue(&key, terms, secret, filter, Vec::new()).unwrap().to_text().to_string()
}

struct NoFolders;

impl TakenContents for NoFolders {
    fn taken(&self, _: FolderId) -> Result<Vec<ContentHash>, String> {
        Ok(Vec::new())
    }

    fn is_bound(&self, _: FolderId) -> Result<bool, String> {
        Ok(false)
    }

    fn take(&self, _: FolderId, _: &[ContentHash]) -> Result<(), String> {
        Ok(())
    }
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let began_ms = now_ms();
        let now_ms = Arc::new(AtomicU64::new(began_ms));
        let shows = Arc::clone(&now_ms);
        let clock = Clock::reading_from(move || Moment {
            own_ms: shows.load(Ordering::Relaxed),
            uptime: Duration::ZERO,
        });
        let config =
            EmbeddedConfig { dir: dir.path().join("store"), disk_reserve_bytes: 0, clock: clock.clone() };
        let store = EmbeddedStore::open(config).await.unwrap();
        let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
        let manager = Manager {
            libraries: Arc::new(Libraries::load(mirror(), registry, false).unwrap()),
            store: Arc::new(store.clone()),
            own_id: SecretKey::from_bytes(&[1; 32]).public(),
            ticket: watch::channel(String::new()).1,
            book: AddressBook::open(&dir.path().join("peers.db")).unwrap(),
            members: Candidates::new(Channels::default(), |_, _| {}),
            gate: Gate::new(Arc::new(|_, _| None)),
            changes: Arc::new(|_, _| {}),
            taken: Arc::new(NoFolders),
            clock,
            busy: Arc::default(),
        };
        Self { store, manager, began_ms, now_ms, dir }
    }

    /// Sets the clock to so many minutes after the start.
    fn set_clock(&self, minutes: u64) {
        self.now_ms.store(self.began_ms + minutes * MINUTE_MS, Ordering::Relaxed);
    }

    /// Something that users put at the time of the clock.
    async fn put(&self, content: &str, tags: &[&str]) -> ContentHash {
        self.put_via(content, tags, None).await
    }

    async fn put_via(&self, content: &str, tags: &[&str], via: Option<LibraryId>) -> ContentHash {
        let meta = AssetMeta {
            created_at_ms: self.now_ms.load(Ordering::Relaxed),
            tags: tagged(tags).tags.unwrap_or_default(),
            ..AssetMeta::default()
        };
        let hash = ContentHash(Sha256::digest(content).into());
        let record = AssetRecord { via, ..AssetRecord::new(hash, content.len() as u64, None, meta) };
        let content = IncomingContent::Bytes(Bytes::from(content.to_owned()));
        self.store.ingest(vec![IncomingAsset { record, content }]).await.unwrap();
        hash
    }

    async fn tag(&self, hash: ContentHash, tags: &[&str]) {
        let patch = MetaPatch { tags: tagged(tags).tags, ..MetaPatch::default() };
        self.store.patch(hash, patch).await.unwrap();
    }

    async fn join(&self, ticket: &str, share_existing: bool) -> Arc<Library> {
        let (library, _) = self.manager.join(ticket, share_existing).await.unwrap();
        self.manager.fill(&library).await;
        library
    }

    /// Libraries hear what changed in the store, and what they have besides is written down.
    async fn follow(&self) {
        let page = self.store.feed(0, PAGE).await.unwrap();
        self.manager.libraries.apply(page.entries);
        self.manager.keep_asides().await.unwrap();
    }

    /// The process ends, and another one begins.
    async fn restart(&mut self) {
        let registry = Registry::open(&self.dir.path().join("libraries.db")).unwrap();
        self.manager.libraries = Arc::new(Libraries::load(mirror(), registry, false).unwrap());
        self.follow().await;
    }

    /// What members know of it.
    async fn version(&self, library: &Library, hash: ContentHash) -> Option<StoredRecord> {
        let stored = self.store.records(vec![hash]).await.unwrap();
        library.version(&hash, stored.first())
    }
}

fn set(hashes: impl IntoIterator<Item = ContentHash>) -> HashSet<ContentHash> {
    hashes.into_iter().collect()
}

#[tokio::test]
async fn a_later_yes_tells_members_nothing_of_what_went_before_it() {
    for access in [Access::Write, Access::Read] {
        let node = Node::start().await;
        let moved = node.put("moved", &[TAG]).await;
        let deleted = node.put("deleted", &[TAG]).await;
        let stays = node.put("stays", &[TAG]).await;
        node.set_clock(10);
        let library = node.join(&ticket(1, 1, access, tagged(&[TAG])), false).await;
        assert!(library.hashes().is_empty());
        node.set_clock(20);
        let shared = node.put("shared", &[TAG]).await;
        node.follow().await;
        node.set_clock(30);
        node.tag(moved, &[]).await;
        for hash in [deleted, shared] {
            node.store.delete(hash).await.unwrap();
        }
        node.follow().await;
        // What members heard of once, they hear the end of.
        let told = if access == Access::Write { set([shared]) } else { set([]) };
        assert_eq!(set(library.hashes()), told);
        node.set_clock(40);
        let library = node.join(&ticket(1, 2, Access::Write, tagged(&[TAG])), true).await;
        node.follow().await;
        assert_eq!(set(library.hashes()), &told | &set([stays]));
        // From now on, all of it is the library's.
        node.set_clock(50);
        node.tag(stays, &[]).await;
        node.follow().await;
        assert_eq!(set(library.hashes()), &told | &set([stays]));
        assert!(node.version(&library, stays).await.unwrap().record.left);
    }
}

#[tokio::test]
async fn a_ticket_with_a_wider_filter_shares_nothing_that_is_here() {
    for yes in [false, true] {
        let node = Node::start().await;
        let older = node.put("older", &[TAG]).await;
        node.set_clock(10);
        node.join(&ticket(1, 1, Access::Write, tagged(&[TAG])), false).await;
        node.set_clock(20);
        let (secret, gone) = (node.put("secret", &[]).await, node.put("gone", &[]).await);
        let shared = node.put("shared", &[TAG]).await;
        node.set_clock(25);
        node.store.delete(gone).await.unwrap();
        node.follow().await;
        node.set_clock(30);
        let library = node.join(&ticket(1, 2, Access::Write, FilterSpec::default()), yes).await;
        let all = if yes { set([older, secret, shared]) } else { set([shared]) };
        assert_eq!(set(library.hashes()), all);
        node.set_clock(40);
        let later = node.put("later", &[]).await;
        node.store.delete(secret).await.unwrap();
        node.follow().await;
        assert_eq!(set(library.hashes()), &all | &set([later]), "{yes}");
    }
}

#[tokio::test]
async fn what_was_deleted_is_told_by_the_next_life_of_the_process() {
    let mut node = Node::start().await;
    let (edited, untouched) = (node.put("edited", &[TAG]).await, node.put("untouched", &[TAG]).await);
    node.set_clock(10);
    let library = node.join(&ticket(1, 1, Access::Write, tagged(&[TAG])), false).await;
    node.set_clock(20);
    node.tag(edited, &[TAG, "more"]).await;
    node.follow().await;
    assert_eq!(library.hashes(), [edited]);
    node.set_clock(30);
    for hash in [edited, untouched] {
        node.store.delete(hash).await.unwrap();
    }
    node.restart().await;
    let library = node.manager.libraries.get(library.id().unwrap()).unwrap();
    assert_eq!(library.hashes(), [edited]);
    let version = node.version(&library, edited).await.unwrap().record;
    assert!(version.deleted && !version.left);
}

#[tokio::test]
async fn what_came_through_one_library_and_moved_out_of_another_is_told_to_both() {
    let mut node = Node::start().await;
    let one = node.join(&ticket(1, 1, Access::Write, tagged(&["one"])), true).await.id().unwrap();
    let two = node.join(&ticket(2, 1, Access::Write, tagged(&["two"])), true).await.id().unwrap();
    let came = node.put_via("came", &["one"], Some(one)).await;
    node.set_clock(10);
    node.tag(came, &["one", "two"]).await;
    node.follow().await;
    node.set_clock(20);
    node.tag(came, &[]).await;
    node.restart().await;
    for id in [one, two] {
        let library = node.manager.libraries.get(id).unwrap();
        assert!(node.version(&library, came).await.is_some_and(|version| version.record.left), "{id}");
    }
}

#[tokio::test]
async fn a_deletion_that_is_heard_late_is_kept_from_then_on() {
    let node = Node::start().await;
    let library = node.join(&ticket(1, 1, Access::Write, FilterSpec::default()), true).await;
    let record = AssetRecord::new(ContentHash([9; 32]), 1, None, AssetMeta::default());
    let gone = AssetRecord { deleted: true, hlc: Hlc::from_ms(1_000), ..record }.for_members();
    assert_eq!(library.consider(&gone, false, None, true, Some(1)), OfferMeaning::Noted);
    node.set_clock(10);
    node.manager.keep_asides().await.unwrap();
    node.manager.purge_asides_until(node.began_ms + 10 * MINUTE_MS).await.unwrap();
    assert!(library.has(&gone.hash));
    node.manager.purge_asides_until(node.began_ms + 11 * MINUTE_MS).await.unwrap();
    assert!(!library.has(&gone.hash));
}

#[tokio::test]
async fn nobody_joins_for_writing_without_knowing_what_time_it_is() {
    let node = Node::start().await;
    let text = ticket(1, 1, Access::Write, FilterSpec::default());
    node.now_ms.store(1_000, Ordering::Relaxed);
    let refused = node.manager.join(&text, false).await;
    assert!(matches!(refused, Err(LibraryError::Clock(_))), "{refused:?}");
    node.join(&text, true).await;
    node.join(&ticket(2, 1, Access::Read, FilterSpec::default()), false).await;
}
