//! CanServiceActor between a store that the test scripts and a recording PeersActor, in paused time.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::feed::{CanServiceActor, CanServiceArgs, CanServiceMsg};
use can_sync::testing::identity::{LibraryKeys, NetworkKeys};
use can_sync::testing::library::{Libraries, Library};
use can_sync::testing::peer::messages::PeersMsg;
use can_sync::testing::record::AssetRecord;
use can_sync::testing::store::{StoreError, StoreId};
use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::nodes::eventually_within;
use crate::support::probe::Probe;
use crate::support::scripted::{Events, Mood, ScriptedStore, down};
use crate::support::store::{edited, record_of};

static KEYS: LazyLock<LibraryKeys> =
    LazyLock::new(|| NetworkKeys::derive(&"a network of tests".into()).mirror().clone());
const POLL: Duration = Duration::from_secs(3);
const SCAN: Duration = Duration::from_hours(1);

// ---- Following -------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn first_everything_is_read_in_order_then_the_store_is_said_to_work() {
    let store = ScriptedStore::new();
    let all: Vec<_> = (0..2500).map(record).collect();
    for record in &all {
        store.put(record);
    }
    let mut t = Test::start(&store).await;
    t.peers.wait_for("the store's health", |seen| seen.len() == 4).await;
    let pages: Vec<usize> =
        t.peers.look(|seen| seen.iter().map(|message| changes_in(message).len()).collect());
    assert_eq!(pages, [1000, 1000, 500, 0], "page by page, and the health comes last");
    assert_eq!(t.told(), all);
    assert_eq!(t.health(), [None]);
    assert_eq!(*t.library.cursor().borrow(), Some(2500));
    let summary = t.library.summary();
    assert_eq!((summary.count, summary.assets), (2500, 2500));
    assert_eq!(summary.bytes, all.iter().map(|record| record.size).sum::<u64>());
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_works_too() {
    let store = ScriptedStore::new();
    let mut t = Test::start(&store).await;
    t.peers.wait_for("the store's health", |seen| seen.len() == 1).await;
    assert_eq!(t.health(), [None]);
    assert_eq!(*t.library.cursor().borrow(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn only_what_really_changed_is_told() {
    let store = ScriptedStore::new();
    let [a, b] = [1, 2].map(record);
    store.put(&a);
    store.put(&b);
    let t = Test::start(&store).await;
    t.caught_up(2).await;
    // The same version under a new number, as after a repair.
    store.put(&a);
    t.caught_up(3).await;
    let (edit, deletion) = (edited(&a, 5, Some("edited")), edited(&b, 5, None));
    store.put(&edit);
    store.put(&deletion);
    t.caught_up(5).await;
    assert_eq!(t.told(), [a, b, edit, deletion]);
    assert_eq!(t.library.summary().count, 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_followed_at_once() {
    let store = ScriptedStore::new();
    let t = Test::start_with(&store, SCAN).await;
    t.caught_up(0).await;
    for n in 1..20 {
        let started = Instant::now();
        store.put(&record(n));
        t.caught_up(n.into()).await;
        assert!(started.elapsed() < Duration::from_secs(1), "waited for the poll");
    }
}

#[tokio::test(start_paused = true)]
async fn without_events_the_poll_finds_everything() {
    let store = ScriptedStore::new();
    store.script().events = Events::Silent;
    let t = Test::start(&store).await;
    t.caught_up(0).await;
    let all: Vec<_> = (1..6).map(record).collect();
    for (n, record) in (1..).zip(&all) {
        let started = Instant::now();
        store.put(record);
        t.caught_up(n).await;
        assert!(started.elapsed() <= POLL + Duration::from_secs(1));
    }
    assert_eq!(t.told(), all);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_again_and_again_costs_nothing_but_time() {
    for events in [Events::CutAfterOne, Events::Broken] {
        let store = ScriptedStore::new();
        store.script().events = events;
        let t = Test::start(&store).await;
        let all: Vec<_> = (1..=200).map(record).collect();
        let started = Instant::now();
        for (n, record) in (1..).zip(&all) {
            store.put(record);
            sleep(Duration::from_millis(n * 37 % 400)).await;
        }
        t.caught_up(200).await;
        assert_eq!(t.told(), all, "{events:?}: each once, in order");
        assert_eq!(t.health(), [None], "{events:?}: a stream that breaks is no store that fails");
        let streams = store.script().streams;
        let most = usize::try_from(started.elapsed().as_millis() / 100).unwrap();
        assert!((2..most).contains(&streams), "{events:?}: {streams} streams in {:?}", started.elapsed());
    }
}

// ---- Failures --------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_reported_once_and_its_recovery_too() {
    let store = ScriptedStore::new();
    let t = Test::start(&store).await;
    t.caught_up(0).await;
    store.set_mood(Mood::Failing(down("connection refused")));
    let missed = record(1);
    store.put(&missed);
    let asked = store.script().asked.len();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(t.health(), [None, Some(down("connection refused").to_string())]);
    let asked = store.script().asked.len() - asked;
    assert!((10..30).contains(&asked), "asked {asked} times in a minute");

    store.set_mood(Mood::Failing(down("answers 500")));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(t.health().last(), Some(&Some(down("answers 500").to_string())), "another reason is news");

    store.set_mood(Mood::Well);
    t.caught_up(1).await;
    sleep(POLL * 3).await;
    assert_eq!(t.health().len(), 4, "{:?}", t.health());
    assert_eq!(t.health()[3], None);
    assert_eq!(t.told(), [missed]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_from_the_beginning_is_not_said_to_work() {
    let store = ScriptedStore::new();
    store.put(&record(1));
    store.set_mood(Mood::Failing(down("not up yet")));
    let mut t = Test::start(&store).await;
    t.peers.wait_for("the failure", |seen| seen.len() == 1).await;
    assert_eq!(t.health(), [Some(down("not up yet").to_string())]);
    assert_eq!(*t.library.cursor().borrow(), None, "nothing was read");
    store.set_mood(Mood::Well);
    t.caught_up(1).await;
    t.peers.wait_for("its end", |seen| seen.len() == 3).await;
    assert_eq!(t.health()[1..], [None]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_between_pages_loses_nothing_and_repeats_nothing() {
    let store = ScriptedStore::new();
    let all: Vec<_> = (0..3500).map(record).collect();
    for record in &all {
        store.put(record);
    }
    store.set_mood(Mood::FailingAfter(2));
    let mut t = Test::start(&store).await;
    t.peers.wait_for("the failure", |seen| matches!(seen.last(), Some(PeersMsg::StoreHealth(Some(_))))).await;
    assert_eq!(*t.library.cursor().borrow(), None, "no session begins on a part of the index");
    store.set_mood(Mood::FailingAfter(1));
    sleep(Duration::from_secs(10)).await;
    store.set_mood(Mood::Well);
    t.caught_up(3500).await;
    assert_eq!(t.told(), all);
    assert_eq!(store.script().asked.iter().filter(|since| **since < 2000).count(), 2, "went on where it was");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_comes_back_is_given_up_after_30_seconds() {
    let store = ScriptedStore::new();
    let t = Test::start(&store).await;
    t.caught_up(0).await;
    store.set_mood(Mood::Hanging);
    store.put(&record(1));
    sleep(Duration::from_secs(29)).await;
    assert_eq!(t.health(), [None], "it may just be slow");
    // The actor itself is not held up by it.
    assert_eq!(t.detail().await, "at 0");
    sleep(Duration::from_secs(5)).await;
    let [None, Some(why)] = &t.health()[..] else { panic!("{:?}", t.health()) };
    assert!(why.contains("no answer for 30 s"), "{why}");
    store.set_mood(Mood::Well);
    // The call under way is the last one to hang.
    sleep(Duration::from_secs(40)).await;
    assert_eq!((t.told(), t.health().len()), (vec![record(1)], 3));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_store_is_the_actors_failure() {
    let store = ScriptedStore::new();
    let mut t = Test::start(&store).await;
    t.caught_up(0).await;
    store.set_mood(Mood::Panicking);
    timeout(POLL * 2, &mut t.ends).await.expect("it fails at once, for its supervisor to see").unwrap();
    let Test { library, peers, .. } = t;
    store.set_mood(Mood::Well);
    store.put(&record(1));
    let t = Test::again(&store, library, peers).await;
    t.caught_up(1).await;
    assert_eq!(t.told(), [record(1)]);
}

#[tokio::test(start_paused = true)]
async fn health_reaches_whoever_comes_late_or_anew() {
    let store = ScriptedStore::new();
    let cell = ServiceCell::new("PeersActor");
    let library = Arc::new(Library::new(KEYS.clone()));
    let args = args(&store, &library, cell.service_ref(), SCAN);
    let (_actor, _) = Actor::spawn(None, CanServiceActor, args).await.unwrap();
    // By now it has read the store, and found nobody to tell.
    sleep(POLL).await;
    assert_eq!(*library.cursor().borrow(), Some(0));
    let mut first = Probe::spawn().await;
    cell.set(first.service().get());
    first.wait_for("the store's health", |seen| seen.len() == 1).await;
    sleep(POLL * 5).await;
    assert_eq!(healths(&first), [None], "told once");

    store.set_mood(Mood::Failing(down("gone")));
    first.wait_for("the failure", |seen| seen.len() == 2).await;
    let mut second = Probe::spawn().await;
    cell.set(second.service().get());
    second.wait_for("the failure", |seen| seen.len() == 1).await;
    sleep(POLL * 10).await;
    assert_eq!(healths(&second), [Some(down("gone").to_string())], "told once");
}

// ---- Starting anew ---------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_store_restored_from_a_backup_is_read_again_and_what_vanished_goes() {
    let store = ScriptedStore::new();
    let all: Vec<_> = (0..1500).map(record).collect();
    for record in &all {
        store.put(record);
    }
    let t = Test::start(&store).await;
    t.caught_up(1500).await;
    let before = t.told().len();
    // The backup has the first 1200 records, one of them in an older version; its numbers begin anew.
    let older = edited(&all[7], 3, Some("as it was"));
    {
        let mut script = store.script();
        script.records = (1..).zip(all[..1200].to_vec()).collect();
        script.records.insert(8, older.clone());
        script.seq = 1200;
    }
    t.eventually("the index is that of the backup", || t.library.summary().count == 1200).await;
    assert_eq!(t.told()[before..], [older]);
    assert_eq!(*t.library.cursor().borrow(), Some(1200));
    let next = record(9000);
    store.put(&next);
    t.caught_up(1201).await;
    assert_eq!(t.told().last(), Some(&next));
}

#[tokio::test(start_paused = true)]
async fn another_store_under_the_same_address_is_read_again_whatever_its_numbers() {
    let store = ScriptedStore::new();
    store.script().id = Some(StoreId([1; 16]));
    let all: Vec<_> = (0..50).map(record).collect();
    for record in &all {
        store.put(record);
    }
    let t = Test::start(&store).await;
    t.caught_up(50).await;
    let before = t.told().len();
    // Its numbers have passed the cursor before anybody looks.
    {
        let mut script = store.script();
        script.id = Some(StoreId([2; 16]));
        script.records = (1..).zip((100..160).map(record)).collect();
        script.seq = 60;
    }
    t.eventually("the index is that of the other store", || {
        t.library.summary().count == 60 && t.library.has(&record(100).hash)
    })
    .await;
    t.caught_up(60).await;
    assert_eq!(t.told().len(), before + 60);
    t.eventually("peers are asked for what is gone", || t.verified() > 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_comparison_that_is_owed_is_made_once_the_store_works() {
    let store = ScriptedStore::new();
    let all: Vec<_> = (0..20).map(record).collect();
    for record in &all {
        store.put(record);
    }
    let t = Test::start(&store).await;
    t.caught_up(20).await;
    {
        let mut script = store.script();
        script.records = (1..).zip(all[..5].to_vec()).collect();
        script.seq = 5;
        // The follower's question that finds it out is answered; the comparison is not.
        script.mood = Mood::FailingAfter(1);
    }
    t.eventually("it fails", || t.health().last().is_some_and(Option::is_some)).await;
    assert_eq!(t.library.summary().count, 20);
    store.set_mood(Mood::Well);
    t.eventually("the index is that of the backup", || t.library.summary().count == 5).await;
    t.eventually("peers are asked for what is gone", || t.verified() > 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_only_ever_says_reset_is_a_store_that_fails() {
    let store = ScriptedStore::new();
    store.set_mood(Mood::Resetting);
    let t = Test::start(&store).await;
    sleep(Duration::from_mins(1)).await;
    let asked = store.script().asked.len();
    assert!((10..60).contains(&asked), "asked {asked} times in a minute");
    let [Some(why)] = &t.health()[..] else { panic!("{:?}", t.health()) };
    assert!(why.contains("refuses the start"), "{why}");
    store.set_mood(Mood::Well);
    store.put(&record(1));
    t.caught_up(1).await;
}

#[tokio::test(start_paused = true)]
async fn the_full_comparison_finds_what_no_number_told() {
    let store = ScriptedStore::new();
    let all: Vec<_> = (0..1100).map(record).collect();
    for record in &all {
        store.put(record);
    }
    let t = Test::start(&store).await;
    t.caught_up(1100).await;
    let edit = edited(&all[3], 1, Some("behind its back"));
    {
        let mut script = store.script();
        script.records.insert(4, edit.clone());
        script.records.remove(&1050);
    }
    sleep(SCAN.saturating_sub(POLL * 2)).await;
    assert_eq!((t.told().len(), t.library.summary().count), (1100, 1100), "nobody could know");
    sleep(POLL * 4).await;
    assert_eq!(t.told()[1100..], [edit]);
    assert_eq!(t.library.summary().count, 1099);
    assert!(!t.library.hashes().contains(&all[1049].hash));
    // And again, an hour later.
    store.script().records.remove(&1);
    sleep(SCAN + POLL).await;
    assert_eq!(t.library.summary().count, 1098);
}

#[tokio::test(start_paused = true)]
async fn a_comparison_that_the_store_does_not_answer_takes_nothing_for_gone() {
    let store = ScriptedStore::new();
    for n in 0..5 {
        store.put(&record(n));
    }
    let t = Test::start(&store).await;
    t.caught_up(5).await;
    for mood in [Mood::Failing(down("away")), Mood::Hanging, Mood::Resetting] {
        sleep(SCAN.saturating_sub(Duration::from_mins(5))).await;
        store.set_mood(mood);
        sleep(Duration::from_mins(7)).await;
        store.set_mood(Mood::Well);
        sleep(Duration::from_mins(2)).await;
        assert_eq!(t.library.summary().count, 5);
    }
    // The comparisons go on all the same.
    store.script().records.remove(&1);
    sleep(SCAN * 2).await;
    assert_eq!(t.library.summary().count, 4);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_actor_goes_on_where_the_last_one_was() {
    let store = ScriptedStore::new();
    for n in 0..1200 {
        store.put(&record(n));
    }
    let mut t = Test::start(&store).await;
    t.caught_up(1200).await;
    t.actor.kill();
    (&mut t.ends).await.unwrap();
    let Test { library, peers, .. } = t;
    let (new, asked) = (record(5000), store.script().asked.len());
    store.put(&new);
    let t = Test::again(&store, library, peers).await;
    t.caught_up(1201).await;
    assert_eq!(t.told()[1200..], [new], "nothing is told twice");
    assert_eq!(store.script().asked[asked..][0], 1200);
    assert_eq!(t.health(), [None, None], "each incarnation says how the store is");
}

#[tokio::test(start_paused = true)]
async fn it_says_how_it_is() {
    let store = ScriptedStore::new();
    store.put(&record(1));
    store.set_mood(Mood::Hanging);
    let t = Test::start(&store).await;
    assert_eq!(t.detail().await, "reading the store for the first time");
    store.set_mood(Mood::Well);
    t.caught_up(1).await;
    assert_eq!(t.detail().await, "at 1");
    store.set_mood(Mood::Failing(StoreError::ReadOnly("a failing disk".to_owned())));
    sleep(POLL * 2).await;
    assert_eq!(t.detail().await, "store: the store is read-only: a failing disk");
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

struct Test {
    actor: ActorRef<CanServiceMsg>,
    ends: JoinHandle<()>,
    library: Arc<Library>,
    peers: Probe<PeersMsg>,
}

impl Test {
    async fn start(store: &ScriptedStore) -> Self {
        Self::start_with(store, POLL).await
    }

    async fn start_with(store: &ScriptedStore, poll: Duration) -> Self {
        let peers = Probe::spawn().await;
        let library = Arc::new(Library::new(KEYS.clone()));
        let args = CanServiceArgs { poll_interval: poll, ..args(store, &library, peers.service(), SCAN) };
        let (actor, ends) = Actor::spawn(None, CanServiceActor, args).await.expect("it starts");
        Self { actor, ends, library, peers }
    }

    /// The next incarnation.
    async fn again(store: &ScriptedStore, library: Arc<Library>, peers: Probe<PeersMsg>) -> Self {
        let args = args(store, &library, peers.service(), SCAN);
        let (actor, ends) = Actor::spawn(None, CanServiceActor, args).await.expect("it starts");
        Self { actor, ends, library, peers }
    }

    /// Waits until the index has followed the store up to this number, and everybody was told.
    async fn caught_up(&self, seq: u64) {
        let mut cursor = self.library.cursor();
        let there = timeout(Duration::from_mins(5), cursor.wait_for(|at| *at == Some(seq))).await;
        there.unwrap_or_else(|_| panic!("never at {seq}")).expect("the library lives");
        // The cursor moves a moment before the news is sent.
        let _ = self.detail().await;
        sleep(Duration::from_millis(1)).await;
    }

    async fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        eventually_within(Duration::from_mins(5), what, async || {
            condition().then_some(()).ok_or_else(|| "not yet".to_owned())
        })
        .await;
    }

    async fn detail(&self) -> String {
        let service = ServiceRef::fixed(self.actor.clone());
        let answer =
            service.call(|reply| CanServiceMsg::GetHealth { reply }, Duration::from_millis(500)).await;
        answer.expect("it answers").detail.expect("it says something")
    }

    /// Every record that was told to PeersActor, in order.
    fn told(&self) -> Vec<AssetRecord> {
        self.peers.look(|seen| seen.iter().flat_map(changes_in).cloned().collect())
    }

    /// How often peers were to be compared with.
    fn verified(&self) -> usize {
        self.peers.look(|seen| seen.iter().filter(|message| matches!(message, PeersMsg::Verify)).count())
    }

    fn health(&self) -> Vec<Option<String>> {
        healths(&self.peers)
    }
}

fn args(
    store: &ScriptedStore,
    library: &Arc<Library>,
    peers: ServiceRef<PeersMsg>,
    full_scan_interval: Duration,
) -> CanServiceArgs {
    CanServiceArgs {
        store: store.as_ref(),
        libraries: Arc::new(Libraries::of(Arc::clone(library))),
        peers,
        folders: ServiceCell::new("FoldersActor").service_ref(),
        poll_interval: POLL,
        full_scan_interval,
    }
}

fn record(n: u32) -> AssetRecord {
    record_of(&n.to_be_bytes())
}

fn healths(peers: &Probe<PeersMsg>) -> Vec<Option<String>> {
    peers.look(|seen| {
        let health = |message: &PeersMsg| match message {
            PeersMsg::StoreHealth(health) => Some(health.clone()),
            _ => None,
        };
        seen.iter().filter_map(health).collect()
    })
}

/// Records of a `StoreChanged`, which must come in ascending order; none of anything else.
fn changes_in(message: &PeersMsg) -> Vec<&AssetRecord> {
    let PeersMsg::StoreChanged(entries) = message else { return Vec::new() };
    assert!(!entries.is_empty(), "nothing is no news");
    assert!(entries.is_sorted_by(|a, b| a.seq < b.seq), "in sequence");
    entries.iter().map(|entry| &entry.record).collect()
}
