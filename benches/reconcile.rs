//! What reconciliation costs: CPU on each side, bytes, round trips, and the tree's upkeep and memory.
//!
//! `cargo bench --bench reconcile -- [SIZE]...` prints the tables for these numbers of records, by default 10,000,
//! 100,000 and 1,000,000. Beside ours stand the `negentropy` crate over its sorted vector and the plain exchange of all
//! ids. Both sides run in turn on one thread. Times of sessions are those of the fastest of several runs, the one that was
//! disturbed least; a change of the tree is the median of thousands. Targets of sessions are those for 1,000,000 records.
#![expect(clippy::print_stdout, reason = "it prints tables")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::HashSet;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use can_sync::testing::reconcile::tree::{Item, ItemTree};
use can_sync::testing::reconcile::{EngineLimits, Initiator, Responder};
use can_sync::testing::record::{ContentHash, Hlc, RecordId};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use support::figures::Table;

mod support;

/// The size for which there are targets.
const LARGE: usize = 1_000_000;
const RUNS: usize = 7;
/// Changes per measurement of the live tree.
const CHANGES: usize = 2_000;
/// Records are spread over three years, as a collection grows.
const SPAN_MS: u64 = 3 * 365 * 24 * 3600 * 1000;
const SINCE_MS: u64 = 1_700_000_000_000;

#[derive(clap::Parser)]
struct Args {
    /// Numbers of records
    #[arg(default_values_t = [10_000, 100_000, LARGE])]
    sizes: Vec<usize>,
    /// In the child process that measures memory: how the tree comes about
    #[arg(long, hide = true)]
    memory: Option<String>,
}

fn main() {
    let Some(args) = support::args::<Args>() else { return };
    if let Some(how) = args.memory {
        return memory_child(&how, args.sizes[0]);
    }
    println!("Sessions (CPU in ms with the snapshot, or for the crate without its sort)");
    let columns = [("records", 9), ("differences", 18), ("how", 8), ("initiator", 10), ("responder", 10)];
    let table = Table::new(&[&columns[..], &[("bytes", 12), ("trips", 6), ("target", 24)]].concat());
    for size in &args.sizes {
        sessions(&table, *size);
    }
    println!("\nThe tree");
    let times =
        [("records", 9), ("build ms", 10), ("crate's sort", 12), ("snapshot ms", 12), ("insert µs", 9)];
    let memory = [("and held", 9), ("newest held", 11), ("B built", 7), ("B random", 8), ("B newest", 8)];
    let table = Table::new(&[times, memory].concat());
    for size in &args.sizes {
        tree(&table, *size);
    }
    let targets = ["", "", "", "", "<= 3", "<= 3", "<= 3", "<= 100", "<= 100", "<= 100"].map(str::to_owned);
    table.row(&targets);
    println!("\nheld: with a snapshot of the tree held, so that a chunk is copied at its first change.");
    println!(
        "B: resident bytes a record, of a tree built at once, or one by one at random places, or in time's order."
    );
}

/// Reproducible numbers (`SplitMix64`).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for lane in bytes.as_chunks_mut().0 {
            *lane = self.next().to_le_bytes();
        }
        bytes
    }

    fn item_at(&mut self, ms: u64) -> Item {
        Item { hlc: Hlc::from_ms(ms), rid: RecordId(self.bytes()), hash: ContentHash(self.bytes()) }
    }

    fn item(&mut self) -> Item {
        let ms = SINCE_MS + self.next() % SPAN_MS;
        self.item_at(ms)
    }
}

fn fastest_ms(times: impl IntoIterator<Item = Duration>) -> f64 {
    times.into_iter().min().unwrap_or_default().as_secs_f64() * 1e3
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// What a session cost, times in milliseconds.
struct Cost {
    initiator: f64,
    responder: f64,
    bytes: usize,
    trips: usize,
}

/// Runs `session` several times. It returns both sides' times, bytes, round trips and the number of differences.
fn measure(
    differences: usize,
    mut session: impl FnMut() -> (Duration, Duration, usize, usize, usize),
) -> Cost {
    let (mut asks, mut answers) = (Vec::new(), Vec::new());
    let mut last = (0, 0);
    for _ in 0..RUNS {
        let (initiator, responder, bytes, trips, found) = session();
        assert_eq!(found, differences, "a wrong result has no cost");
        asks.push(initiator);
        answers.push(responder);
        last = (bytes, trips);
    }
    Cost { initiator: fastest_ms(asks), responder: fastest_ms(answers), bytes: last.0, trips: last.1 }
}

/// Who has a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Both,
    Initiator,
    Responder,
}

fn sessions(table: &Table, size: usize) {
    let mut numbers = Numbers(1);
    let all: Vec<Item> = {
        let mut all: Vec<Item> = (0..size).map(|_| numbers.item()).collect();
        all.sort_unstable_by_key(|item| (item.hlc, item.rid));
        all
    };
    for (name, count, newest_of, target) in [
        ("0", 0, None, "<= 1 ms, 0.4 KB, 3"),
        ("10 random", 10, None, "<= 2 ms, 25 KB, 3"),
        ("1,000 random", 1_000, None, "<= 40 ms, 800 KB, 3"),
        ("1,000 newest here", 1_000, Some(Owner::Initiator), "<= 2 ms, 40 KB, 3"),
        ("1,000 newest there", 1_000, Some(Owner::Responder), "<= 2 ms, 40 KB, 3"),
    ] {
        let mut owners = vec![Owner::Both; size];
        for i in 0..count {
            if let Some(owner) = newest_of {
                owners[size - 1 - i] = owner;
            } else {
                let place = loop {
                    let place = usize::try_from(numbers.next() % size as u64).expect("64 bits");
                    if owners[place] == Owner::Both {
                        break place;
                    }
                };
                owners[place] = if i % 2 == 0 { Owner::Initiator } else { Owner::Responder };
            }
        }
        let without = |other: Owner| -> Vec<Item> {
            let kept = all.iter().zip(&owners).filter(|(_, owner)| **owner != other);
            kept.map(|(item, _)| *item).collect()
        };
        let (a, b) = (without(Owner::Responder), without(Owner::Initiator));
        let ours = {
            let (a, b) = (ItemTree::from_sorted(a.clone()), ItemTree::from_sorted(b.clone()));
            measure(count, || our_session(&a, &b))
        };
        let oracle = {
            let (a, b) = (oracle_storage(&a), oracle_storage(&b));
            measure(count, || oracle_session(&a, &b))
        };
        let list = measure(count, || list_session(&a, &b));
        for (how, cost) in [("ours", ours), ("crate", oracle), ("all ids", list)] {
            let target = if how == "ours" && size == LARGE { target } else { "" };
            let times = [cost.initiator, cost.responder].map(|ms| format!("{ms:.3}"));
            let counts = [cost.bytes.to_string(), cost.trips.to_string(), target.to_owned()];
            let names = [size.to_string(), name.to_owned(), how.to_owned()];
            table.row(&[&names[..], &times, &counts].concat());
        }
    }
}

fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *total += start.elapsed();
    result
}

fn our_session(a: &ItemTree, b: &ItemTree) -> (Duration, Duration, usize, usize, usize) {
    let (mut asks, mut answers) = (Duration::ZERO, Duration::ZERO);
    let limits = EngineLimits::default();
    let (mut initiator, mut message) = timed(&mut asks, || Initiator::new(a.snapshot(), limits));
    let mut responder = timed(&mut answers, || Responder::new(b.snapshot(), limits));
    let (mut bytes, mut trips, mut found) = (0, 0, 0);
    loop {
        let answer = timed(&mut answers, || responder.handle(&message)).expect("a good message");
        bytes += message.len() + answer.len();
        trips += 1;
        let step = timed(&mut asks, || initiator.handle(&answer)).expect("a good answer");
        found += step.have.len() + step.need.len();
        match step.reply {
            Some(reply) => message = reply,
            None => return (asks, answers, bytes, trips, found),
        }
    }
}

fn oracle_storage(items: &[Item]) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::with_capacity(items.len());
    for item in items {
        storage.insert(item.hlc.0, Id::from_byte_array(item.rid.0)).expect("not sealed");
    }
    storage.seal().expect("not sealed");
    storage
}

fn oracle_session(
    a: &NegentropyStorageVector,
    b: &NegentropyStorageVector,
) -> (Duration, Duration, usize, usize, usize) {
    let (mut asks, mut answers) = (Duration::ZERO, Duration::ZERO);
    let frame_bytes = EngineLimits::default().frame_bytes as u64;
    let mut initiator = Negentropy::borrowed(a, frame_bytes).expect("a good limit");
    let mut responder = Negentropy::borrowed(b, frame_bytes).expect("a good limit");
    let mut message = timed(&mut asks, || initiator.initiate()).expect("a first message");
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let (mut bytes, mut trips) = (0, 0);
    loop {
        let answer = timed(&mut answers, || responder.reconcile(&message)).expect("a good message");
        bytes += message.len() + answer.len();
        trips += 1;
        let reply = timed(&mut asks, || initiator.reconcile_with_ids(&answer, &mut have, &mut need));
        match reply.expect("a good answer") {
            Some(reply) => message = reply,
            None => return (asks, answers, bytes, trips, have.len() + need.len()),
        }
    }
}

/// Each side sends all its ids and compares those that it receives with its own.
fn list_session(a: &[Item], b: &[Item]) -> (Duration, Duration, usize, usize, usize) {
    let (mut asks, mut answers) = (Duration::ZERO, Duration::ZERO);
    let list = |items: &[Item]| -> Vec<u8> { items.iter().flat_map(|item| item.rid.0).collect() };
    let missing = |theirs: &[u8], own: &[Item]| {
        let own: HashSet<&[u8; 32]> = own.iter().map(|item| &item.rid.0).collect();
        theirs.as_chunks().0.iter().filter(|id| !own.contains(id)).count()
    };
    let from_a = timed(&mut asks, || list(a));
    let from_b = timed(&mut answers, || list(b));
    let need = timed(&mut asks, || missing(&from_b, a));
    let have = timed(&mut answers, || missing(&from_a, b));
    (asks, answers, from_a.len() + from_b.len(), 1, need + have)
}

fn tree(table: &Table, size: usize) {
    let mut numbers = Numbers(2);
    let items: Vec<Item> = (0..size).map(|_| numbers.item()).collect();
    let mut build = Duration::ZERO;
    let mut tree = timed(&mut build, || ItemTree::from_unsorted(items.clone()));
    let mut sort = Duration::ZERO;
    timed(&mut sort, || black_box(oracle_storage(&items)));
    drop(items);
    let snapshot = fastest_ms((0..RUNS).map(|_| {
        let mut time = Duration::ZERO;
        timed(&mut time, || black_box(tree.snapshot()));
        time
    }));
    let mut newest = SINCE_MS + SPAN_MS;
    let mut inserts = |tree: &mut ItemTree, hold: bool, at_the_end: bool| {
        let mut times = Vec::with_capacity(RUNS * CHANGES);
        for _ in 0..RUNS {
            let items: Vec<Item> = (0..CHANGES)
                .map(|_| {
                    newest += 1;
                    if at_the_end { numbers.item_at(newest) } else { numbers.item() }
                })
                .collect();
            let held = hold.then(|| tree.snapshot());
            for item in &items {
                let mut time = Duration::ZERO;
                timed(&mut time, || black_box(tree.upsert(*item)));
                times.push(time);
            }
            drop(held);
            for item in &items {
                tree.remove(&item.hash);
            }
        }
        median_us(times)
    };
    let plain = inserts(&mut tree, false, false);
    let held = inserts(&mut tree, true, false);
    let newest_held = inserts(&mut tree, true, true);
    let ms = [build, sort].map(|time| format!("{:.1}", time.as_secs_f64() * 1e3));
    let us = [plain, held, newest_held].map(|us| format!("{us:.2}"));
    let bytes = ["built", "random", "newest"].map(|how| format!("{:.1}", memory(how, size)));
    table.row(&[&[size.to_string()][..], &ms, &[format!("{snapshot:.3}")], &us, &bytes].concat());
}

/// Resident bytes a record, measured in a process of its own so that nothing else's memory is reused.
fn memory(how: &str, size: usize) -> f64 {
    let program = std::env::current_exe().expect("a path to this program");
    let size_text = size.to_string();
    let child = Command::new(program).args(["--memory", how, &size_text]).output().expect("a child process");
    let printed = String::from_utf8(child.stdout).expect("a number");
    let bytes: u64 = printed.trim().parse().expect("a number");
    bytes as f64 / size as f64
}

fn memory_child(how: &str, size: usize) {
    let mut numbers = Numbers(3);
    let before = resident_bytes();
    let tree = if how == "built" {
        ItemTree::from_unsorted((0..size).map(|_| numbers.item()).collect())
    } else {
        let mut tree = ItemTree::new();
        for i in 0..size as u64 {
            let item = if how == "newest" { numbers.item_at(SINCE_MS + i) } else { numbers.item() };
            tree.upsert(item);
        }
        tree
    };
    println!("{}", resident_bytes() - before);
    assert_eq!(black_box(tree).len(), size);
}

fn resident_bytes() -> u64 {
    support::process::memory("self", "VmRSS").expect("a Linux system")
}
