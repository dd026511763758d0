use super::*;
use crate::clock::Clock;
use crate::identity::LibraryKeys;
use crate::library::filter::Filter;
use crate::library::registry::Kept;
use crate::library::ticket::{Access, Terms};
use crate::library::{Libraries, SharedLibrary};
use crate::record::{AssetMeta, Hlc};
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};

const NOW: u64 = 1_700_000_000_000;

fn version(writer: u8, said: &str, at_ms: u64) -> AssetRecord {
    let meta = AssetMeta { description: Some(said.into()), created_at_ms: NOW, ..AssetMeta::default() };
    let record = AssetRecord::new(ContentHash([1; 32]), 5, None, meta);
    AssetRecord { hlc: Hlc::from_ms(at_ms), writer: WriterId([writer; 32]), ..record }
}

fn rules(deleter: Deleter) -> Rules {
    Rules {
        deletes: Arc::new(DeleteGuard::new(true)),
        deleter,
        deferrals: Deferrals::in_memory(Clock::system()),
        gives: true,
        from_owner: false,
    }
}

/// A library that was just made, and is still to be read from the store.
fn filling() -> Arc<Library> {
    let terms = Terms { serial: 1, ..Terms::unlimited("trip".into(), Access::Write) };
    let kept = Kept::sample(7, terms, Filter::default());
    let mirror = Arc::new(Library::new(LibraryKeys::of_read_secret(&[0; 32])));
    Libraries::of(mirror).add(SharedLibrary::new(kept, HashMap::new()))
}

#[tokio::test]
async fn in_the_mirror_a_member_does_not_have_the_last_word() {
    let ahead = version(1, "of an own machine, dated ahead", NOW + 100);
    let later = version(2, "while that had to wait", NOW + 50);
    let through = AssetRecord { via: Some(LibraryId([3; 32])), ..later.clone() };
    let deleted = AssetRecord { deleted: true, ..through.clone() };
    for (ours, stays) in [(&later, true), (&through, false), (&deleted, true)] {
        let rules = rules(Deleter::of_device("other"));
        let mut verdict = OfferVerdict::Later(100);
        rules.settle((&ahead, &mut verdict), None, None, NOW);
        verdict = OfferVerdict::Apply;
        rules.settle((&ahead, &mut verdict), Some(ours), None, NOW + 100);
        assert_eq!(verdict == OfferVerdict::Reassert, stays, "{ours:?}");
    }
    // In the library itself everybody's version may be written once more.
    let library = Some(LibraryId([3; 32]));
    let rules = rules(Deleter::of_ticket("a library".into(), 1));
    let mut verdict = OfferVerdict::Later(100);
    rules.settle((&ahead, &mut verdict), None, library, NOW);
    verdict = OfferVerdict::Apply;
    rules.settle((&ahead, &mut verdict), Some(&through), library, NOW + 100);
    assert_eq!(verdict, OfferVerdict::Reassert);
}

#[tokio::test]
async fn deletions_wait_until_their_library_was_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = EmbeddedConfig { dir: dir.path().into(), disk_reserve_bytes: 0, clock: Clock::system() };
    let store: StoreRef = Arc::new(EmbeddedStore::open(config).await.expect("a store"));
    let (library, rules) = (filling(), rules(Deleter::of_ticket("a library".into(), 1)));
    let deletion = AssetRecord { deleted: true, ..version(1, "gone", NOW) };
    let live = HashSet::from([deletion.hash]);

    // From here on only the limit of the wait lets time pass.
    tokio::time::pause();
    let mut verdicts = [(deletion.clone(), OfferVerdict::Apply)];
    rules.rule_on_deletions(&store, &library, &live, &mut verdicts).await;
    assert_eq!(verdicts[0].1, OfferVerdict::Settled, "it is put off, not held");
    assert_eq!(rules.deletes.holds(), []);
    tokio::time::resume();

    let mut verdicts = [(deletion, OfferVerdict::Apply)];
    let judged = rules.rule_on_deletions(&store, &library, &live, &mut verdicts);
    let ((), ()) = tokio::join!(judged, async { library.filled() });
    assert_eq!(verdicts[0].1, OfferVerdict::Apply);
}
