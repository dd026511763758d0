//! What reconciliation costs: CPU on each side, bytes, round trips, and the tree's upkeep and memory.
//!
//! `cargo bench --bench reconcile -- [SIZE]...` prints the tables for these numbers of records, by default 10,000,
//! 100,000 and 1,000,000. Beside ours stand the `negentropy` crate over its sorted vector and the plain exchange of all
//! ids. Both sides run in turn on one thread. Times of sessions are those of the fastest of several runs, the one that was
//! disturbed least; a change of the tree is the median of thousands.
#![allow(clippy::print_stdout, reason = "it prints tables")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::HashSet;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use can_sync::reconcile::tree::{Item, ItemTree};
use can_sync::reconcile::{Initiator, Limits, Responder};
use can_sync::record::{ContentHash, Hlc, RecordId};
use negentropy::{Id, Negentropy, NegentropyStorageVector};

const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
const RUNS: usize = 7;
/// Changes per measurement of the live tree.
const CHANGES: usize = 2_000;
/// Records are spread over three years, as a collection grows.
const SPAN_MS: u64 = 3 * 365 * 24 * 3600 * 1000;
const SINCE_MS: u64 = 1_700_000_000_000;
/// First argument of the child process that measures memory.
const MEMORY: &str = "memory";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if args.first().is_some_and(|arg| arg == MEMORY) {
        return memory_child(&args[1], args[2].parse().expect("a number of records"));
    }
    let mut sizes: Vec<usize> = args.iter().map(|arg| arg.parse().expect("a number of records")).collect();
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    println!("Sessions (CPU in ms with the snapshot, or for the crate without its sort)\n");
    println!(
        "{:>9}  {:<18} {:<8} {:>10} {:>10} {:>12} {:>6}",
        "records", "differences", "how", "initiator", "responder", "bytes", "trips"
    );
    for size in &sizes {
        sessions(*size);
    }
    println!("\nThe tree\n");
    println!(
        "{:>9} {:>10} {:>12} {:>12} {:>9} {:>9} {:>11} {:>7} {:>8} {:>8}",
        "records",
        "build ms",
        "crate's sort",
        "snapshot ms",
        "insert µs",
        "and held",
        "newest held",
        "B built",
        "B random",
        "B newest"
    );
    for size in &sizes {
        tree(*size);
    }
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

fn sessions(size: usize) {
    let mut numbers = Numbers(1);
    let all: Vec<Item> = {
        let mut all: Vec<Item> = (0..size).map(|_| numbers.item()).collect();
        all.sort_unstable_by_key(|item| (item.hlc, item.rid));
        all
    };
    for (name, count, newest_of) in [
        ("0", 0, None),
        ("10 random", 10, None),
        ("1,000 random", 1_000, None),
        ("1,000 newest here", 1_000, Some(Owner::Initiator)),
        ("1,000 newest there", 1_000, Some(Owner::Responder)),
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
            println!(
                "{size:>9}  {name:<18} {how:<8} {:>10.3} {:>10.3} {:>12} {:>6}",
                cost.initiator, cost.responder, cost.bytes, cost.trips
            );
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
    let limits = Limits::default();
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
    let frame_bytes = Limits::default().frame_bytes as u64;
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

fn tree(size: usize) {
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
    println!(
        "{size:>9} {:>10.1} {:>12.1} {snapshot:>12.3} {plain:>9.2} {held:>9.2} {newest_held:>11.2} {:>7.1} {:>8.1} {:>8.1}",
        build.as_secs_f64() * 1e3,
        sort.as_secs_f64() * 1e3,
        memory("built", size),
        memory("random", size),
        memory("newest", size),
    );
}

/// Resident bytes a record, measured in a process of its own so that nothing else's memory is reused.
fn memory(how: &str, size: usize) -> f64 {
    let program = std::env::current_exe().expect("a path to this program");
    let size_text = size.to_string();
    let child = Command::new(program).args([MEMORY, how, &size_text]).output().expect("a child process");
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
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib * 1024
}
