//! A few machines with one folder in one thread and in virtual time, from a seed: the real plan, merge and brake of each, and around them
//! disks, stores and an actor that carries out what is planned, one step at a time. Between any two steps a user may do something, or the
//! machine may crash. Stores and `agent.db` are set back, listings break off, file systems are not mounted, directories become symlinks,
//! clocks are off, a data directory is copied, a member lies.
//!
//! Once the trouble is over, every machine must show the same; every content that ever was in the folder must be reachable by path, copy
//! or history; nothing may happen any more. At no time may a file be taken away whose content the store there lacks, or a removal be
//! written for a file that is there.
//!
//! `CAN_SYNC_SIM_SEEDS=10000 cargo test --lib folder::simulation` runs more seeds, `CAN_SYNC_SIM_SEED=7` that one alone, and
//! `CAN_SYNC_SIM_TOLD=1` prints what happens in it. Each of
//! [`PlantedBug`] must be found: a simulation that finds nothing says nothing.
#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    clippy::struct_excessive_bools,
    clippy::large_enum_variant,
    reason = "what a test does not expect is one case; seeds are told; a disk has many troubles"
)]

mod aftermath;
mod answering;
mod disk;
mod ledger;
mod machine;
mod perform;
mod store;
mod world;

use self::disk::SimContent;
use self::ledger::FolderLedger;
use self::world::FolderWorld;
use crate::entry::EntryRecord;
use crate::record::ContentHash;
use crate::seeded::{self, Dice};

const SEEDS: u64 = 1_000;
/// Within how many seeds a planted bug has to be found.
const SEEDS_FOR_A_BUG: u64 = 200;

/// What may be wrong with a plan, a store or an actor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PlantedBug {
    RemoveWithoutLooking,
    ReplaceWithoutLooking,
    /// What was not listed is gone, though the listing broke off.
    HalfListing,
    /// An older version in the store is what the folder has.
    SetBackRollsBack,
    ConflictWithoutCopy,
    /// An edit saw what the store has learned, not what the disk showed.
    SawTheStore,
    /// The row has what the file is when the row is written.
    RowOfLater,
    /// A file that changes while it is read is taken for what was read.
    TornRead,
    /// Times are believed that are younger than their granularity.
    TrustsFreshTimes,
    /// Nobody asks whether the store has what the disk shows.
    ForgetsToKeep,
    EmptyMountPoint,
    /// A start drops what was on its way out.
    JournalIgnored,
    IgnoredIsGone,
    LinkIsDirectory,
    MarkerIgnored,
    WritesOverUnread,
    /// A removal leaves no row.
    RemovalWithoutRow,
    OldFileForgotten,
}

/// Chance, time, and what everything is judged by.
#[derive(Debug)]
struct SimTrouble {
    dice: Dice,
    now_ms: u64,
    bug: Option<PlantedBug>,
    is_calm: bool,
    /// What comes from another machine during a look, with contents.
    inbox: Vec<(EntryRecord, Option<ContentHash>)>,
    /// The file that the actor works on: users work on the same at the worst of times.
    focus: Option<String>,
    ledger: FolderLedger,
    contents: u32,
    slots: u64,
    writers: u8,
    /// Whether all that happens is printed.
    is_told: bool,
}

impl SimTrouble {
    fn new(seed: u64, bug: Option<PlantedBug>) -> Self {
        Self {
            dice: Dice(seed),
            now_ms: 1_800_000_000_000,
            bug,
            is_calm: false,
            inbox: Vec::new(),
            focus: None,
            ledger: FolderLedger::default(),
            contents: 0,
            slots: 0,
            writers: 100,
            is_told: std::env::var_os("CAN_SYNC_SIM_TOLD").is_some(),
        }
    }

    /// For whoever looks into one seed.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{} {}", self.now_ms, what());
        }
    }

    fn next_slot(&mut self) -> u64 {
        self.slots += 1;
        self.slots
    }

    fn next_writer(&mut self) -> u8 {
        self.writers += 1;
        self.writers
    }

    /// A content that nobody ever had.
    fn unsaved_content(&mut self) -> SimContent {
        self.contents += 1;
        SimContent(1 << 30 | self.contents)
    }
}

fn first_failure(seeds: std::ops::Range<u64>, bug: Option<PlantedBug>) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let outcome = std::panic::catch_unwind(|| FolderWorld::new(seed, bug).run());
        let outcome = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
        });
        outcome.err().map(|why| (seed, why))
    })
}

#[test]
fn all_end_equal_and_nothing_is_lost() {
    let seeds = seeded::seeds(SEEDS);
    let count = seeds.end - seeds.start;
    if let Some((seed, why)) = first_failure(seeds, None) {
        seeded::fail(seed, "", &why);
    }
    println!("{count} seeds, 0 lost, 0 apart");
}

macro_rules! finds {
    ($($name:ident: $bug:ident;)*) => { $(
        #[test]
        fn $name() {
            let (seed, why) = first_failure(0..SEEDS_FOR_A_BUG, Some(PlantedBug::$bug)).expect("it is found");
            println!("{:?} is found with seed {seed}: {why}", PlantedBug::$bug);
        }
    )* };
}

finds! {
    finds_a_removal_that_does_not_look: RemoveWithoutLooking;
    finds_a_replacement_that_does_not_look: ReplaceWithoutLooking;
    finds_half_a_listing_that_counts_as_whole: HalfListing;
    finds_a_set_back_store_that_rolls_the_disk_back: SetBackRollsBack;
    finds_a_conflict_without_a_copy: ConflictWithoutCopy;
    finds_an_edit_that_says_it_saw_what_it_did_not: SawTheStore;
    finds_a_row_of_what_was_saved_since: RowOfLater;
    finds_a_file_that_was_read_while_it_changed: TornRead;
    finds_times_that_are_believed_too_soon: TrustsFreshTimes;
    finds_a_plan_that_does_not_ask_what_the_store_has: ForgetsToKeep;
    finds_an_empty_mount_point_that_counts_as_removals: EmptyMountPoint;
    finds_a_start_that_does_not_read_the_journal: JournalIgnored;
    finds_ignored_files_that_count_as_removed: IgnoredIsGone;
    finds_a_symlink_that_counts_as_an_empty_directory: LinkIsDirectory;
    finds_a_missing_root_that_counts_as_an_empty_one: MarkerIgnored;
    finds_a_file_that_is_replaced_unread: WritesOverUnread;
    finds_a_removal_that_leaves_no_row: RemovalWithoutRow;
    finds_an_old_file_that_is_dropped_though_it_was_written_to: OldFileForgotten;
}
