//! One program for all targets: `CAN_SYNC_FUZZ_TARGET` says which. See README.md; the targets are in `src/testing/fuzz.rs`.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use can_sync::testing::fuzz::{FuzzTarget, TARGETS};
use libfuzzer_sys::fuzz_target;

/// Memory that any input may take, in bytes, and what each of its bytes may add: an empty record is two bytes on the wire and
/// over three hundred here.
const MEMORY: usize = 1 << 20;
const MEMORY_PER_BYTE: usize = 256;

static TARGET: OnceLock<FuzzTarget> = OnceLock::new();

/// The system's allocator, which counts.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }
}

fn chosen() -> FuzzTarget {
    let name = std::env::var("CAN_SYNC_FUZZ_TARGET").unwrap_or_default();
    #[cfg(feature = "planted")]
    if name == "planted" {
        return planted::target;
    }
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let names: Vec<&str> = TARGETS.iter().map(|(known, _)| *known).collect();
    let target = found
        .unwrap_or_else(|| panic!("CAN_SYNC_FUZZ_TARGET is '{name}', and not one of: {}", names.join(" ")))
        .1;
    // What is made once and kept is made by the first input.
    target(&[]);
    target
}

fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(chosen);
    let before = IN_USE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    target(bytes);
    let taken = MOST.load(Ordering::Relaxed) - before;
    assert!(
        taken <= MEMORY + bytes.len() * MEMORY_PER_BYTE,
        "{taken} bytes of memory for {} bytes",
        bytes.len()
    );
});

/// Shows that a mistake is found: the one that every decoder of something of a fixed length must not make.
#[cfg(feature = "planted")]
mod planted {
    use can_sync::testing::wire::decode::decode;
    use can_sync::testing::wire::proto::{Frame, frame};

    /// The hash of the first record in an offer, taken for one without a look at its length.
    pub fn target(bytes: &[u8]) {
        let Ok(Frame { kind: Some(frame::Kind::Offer(offer)) }) = decode(bytes.to_vec().into()) else {
            return;
        };
        let Some(record) = offer.records.first() else { return };
        let _: [u8; 32] = record.hash[..].try_into().expect("the planted mistake: a hash of another length");
    }
}
