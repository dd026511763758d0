//! The rows: which promise, which tests show it, how much of each, and what no test shows.

use std::time::Duration;

pub(crate) struct Row {
    /// For `--only`.
    pub(crate) key: &'static str,
    /// What is done to can-sync.
    pub(crate) what: &'static str,
    /// What is promised then.
    pub(crate) promise: &'static str,
    pub(crate) runs: &'static [Run],
    /// What of the promise none of them shows.
    pub(crate) lacks: Option<&'static str>,
    /// For all of them together.
    pub(crate) within: Duration,
    /// The same with `--short`; zero leaves the row out there.
    pub(crate) short_within: Duration,
}

pub(crate) enum Program {
    /// A test in `tests/it`.
    It,
    /// One that measures a speed: built with optimisation.
    Optimised,
    /// A test of the library.
    Lib,
    /// Another bench, with these arguments.
    Bench(&'static [&'static str]),
    /// Every decoder, for so many seconds each; see [`super::fuzzing`].
    Fuzz(u64),
}

/// One test, or with a name that ends in `::` those of a module.
pub(crate) struct Run {
    pub(crate) program: Program,
    pub(crate) name: &'static str,
    /// What the whole run sets in its environment, and what a short one does.
    pub(crate) whole: &'static [(&'static str, &'static str)],
    pub(crate) short: &'static [(&'static str, &'static str)],
    /// What is not shown without it, where a short run leaves it out.
    pub(crate) long: Option<&'static str>,
}

type Setting = (&'static str, &'static str);

const fn it(name: &'static str) -> Run {
    Run { program: Program::It, name, whole: &[], short: &[], long: None }
}

/// `what` is not shown in a short run.
const fn optimised(name: &'static str, what: &'static str) -> Run {
    Run { program: Program::Optimised, name, whole: &[], short: &[], long: Some(what) }
}

const fn lib(name: &'static str) -> Run {
    Run { program: Program::Lib, name, whole: &[], short: &[], long: None }
}

impl Run {
    const fn with(self, whole: &'static [Setting]) -> Self {
        Self { whole, ..self }
    }

    const fn short(self, short: &'static [Setting]) -> Self {
        Self { short, ..self }
    }
}

/// Of a row in a short run: far more than it takes, so that a busy machine misses nothing by it.
const SHORT: Duration = Duration::from_mins(5);
const OUT: Duration = Duration::ZERO;

const fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

pub(crate) static ROWS: &[Row] = &[
    Row {
        key: "kill",
        what: "kill -9 at random points of ingest and transfer",
        promise: "0 acknowledged lost, 0 corrupt, ready again within 2 s (p95); 200 kills",
        runs: &[
            it("store_faults::nothing_acknowledged_is_lost_when_the_process_is_killed")
                .with(&[("CAN_SYNC_TEST_KILLS", "150")])
                .short(&[("CAN_SYNC_TEST_KILLS", "4")]),
            it("kill::killed_again_and_again_both_end_with_everything")
                .with(&[("CAN_SYNC_TEST_ROUNDS", "9")]),
        ],
        lacks: None,
        within: minutes(60),
        short_within: SHORT,
    },
    Row {
        key: "kill-bucket",
        what: "kill -9 while contents go to object storage: before the answer, after it, and where others use the place",
        promise: "0 acknowledged lost; nothing stays there that no record has, and of a shared place nothing goes; 50 kills each",
        runs: &[
            it("store_bucket::on_daemons::killed_in_the_middle_of_uploads_what_was_acknowledged_is_in_the_bucket")
                .with(&[("CAN_SYNC_TEST_KILLS", "50")])
                .short(&[("CAN_SYNC_TEST_KILLS", "2")]),
            it("store_bucket::on_daemons::killed_while_contents_go_up_later_nothing_acknowledged_is_lost")
                .with(&[("CAN_SYNC_TEST_KILLS", "50")])
                .short(&[("CAN_SYNC_TEST_KILLS", "2")]),
            it("store_bucket::on_daemons::killed_in_the_middle_of_uploads_to_a_shared_bucket_nothing_is_lost_and_nothing_deleted")
                .with(&[("CAN_SYNC_TEST_KILLS", "50")])
                .short(&[("CAN_SYNC_TEST_KILLS", "2")]),
        ],
        lacks: None,
        within: minutes(60),
        short_within: SHORT,
    },
    Row {
        key: "kill-steps",
        what: "kill at every fsync, rename and pwrite of one ingest (strace)",
        promise: "every point clean",
        runs: &[
            it("store_faults::injected::a_kill_at_any_step_leaves_a_clean_store").with(&[("CAN_SYNC_TEST_STEP", "1")])
        ],
        lacks: None,
        within: minutes(60),
        short_within: OUT,
    },
    Row {
        key: "kill-folder",
        what: "kill -9 while two directories become alike",
        promise: "they end equal, 0 lost, nothing left over; 100 kills",
        runs: &[it("folder_torture::")
            .with(&[("CAN_SYNC_TORTURE_KILLS", "100"), ("CAN_SYNC_TORTURE_FILES", "2000")])],
        lacks: None,
        within: minutes(60),
        short_within: OUT,
    },
    Row {
        key: "disk",
        what: "EIO on fsync; ENOSPC at each write; a small tmpfs",
        promise: "never acknowledged, no crash, goes on within 10 s once space is back",
        runs: &[
            it("store_faults::injected::a_failing_disk_ends_all_writing"),
            it("store_faults::injected::a_full_disk_at_any_step_passes").with(&[("CAN_SYNC_TEST_STEP", "1")]),
            it("store_faults::a_small_disk_fills_up_and_is_freed"),
        ],
        lacks: None,
        within: minutes(60),
        short_within: OUT,
    },
    Row {
        key: "flips",
        what: "random bit flips in stored content",
        promise: "1,000: one scrub finds all, all healed from one good peer, 0 bad bytes served",
        runs: &[it("healing::one_scrub_finds_every_flip_and_a_peer_heals_all")
            .with(&[("CAN_SYNC_TEST_FLIPS", "1000")])
            .short(&[("CAN_SYNC_TEST_FLIPS", "40")])],
        lacks: None,
        within: minutes(30),
        short_within: SHORT,
    },
    Row {
        key: "hostile",
        what: "a hostile member: wrong bytes, lengths, endless streams, drips, floods, replays, reflections",
        promise: "dropped within 5 s, who only drips within 30 s; memory + 64 MiB; an honest transfer at 80 % of its speed",
        runs: &[
            it("hostile::"),
            optimised("siege::", "the speed of an honest transfer")
                .with(&[("CAN_SYNC_TEST_SIEGE_MIB", "256"), ("CAN_SYNC_TEST_SIEGE_ROUNDS", "5")]),
        ],
        lacks: None,
        within: minutes(60),
        short_within: OUT,
    },
    Row {
        key: "agents",
        what: "100 nodes in one process",
        promise: "all converge within 120 s, 0 missing",
        runs: &[it("network::many_agents_become_one_network_through_slots_alone")
            .with(&[("CAN_SYNC_TEST_AGENTS", "100")])
            .short(&[("CAN_SYNC_TEST_AGENTS", "8")])],
        lacks: None,
        within: minutes(60),
        short_within: SHORT,
    },
    Row {
        key: "partition",
        what: "partition, both sides write, heal (network namespaces)",
        promise: "converge within 30 s, 0 lost",
        runs: &[it("cut::what_both_sides_wrote_during_a_cut_is_everywhere_soon_after_it")
            .with(&[("CAN_SYNC_TEST_ROUNDS", "10")])],
        lacks: None,
        within: minutes(30),
        short_within: SHORT,
    },
    Row {
        key: "path",
        what: "5 % loss, delay, reordering, duplicates; both ends killed",
        promise: "100 MiB completes; resume sends at most one segment again",
        runs: &[it("paths::").with(&[("CAN_SYNC_TEST_PATH_MIB", "100")]), it("transfer::resume::")],
        lacks: None,
        within: minutes(60),
        short_within: OUT,
    },
    Row {
        key: "clock",
        what: "a clock that is days off; 400 days ahead once; 200 days at one start",
        promise: "converges, no slot locked; heals within one comparison, nothing purged",
        runs: &[
            it("clocks::"),
            it("store_clock::"),
            it("rendezvous::real::slots_that_a_clock_ahead_has_written_keep_no_two_apart"),
        ],
        lacks: None,
        within: minutes(20),
        short_within: OUT,
    },
    Row {
        key: "gossip",
        what: "100,000 replayed announcements; a flood of 5,000/s × 60 s",
        promise: "0 counted twice; memory + 64 MiB; the API answers within 200 ms (p99)",
        runs: &[
            it("gossip::hostile::a_flood_of_announcements_is_bounded_and_hides_nobody")
                .with(&[("CAN_SYNC_TEST_FLOOD_PER_SEC", "5000"), ("CAN_SYNC_TEST_FLOOD_SECS", "60")]),
            it("gossip::hostile::what_a_hostile_member_says_does_not_count"),
            it("gossip::hostile::what_was_announced_once_counts_once_however_often_it_is_said_again")
                .with(&[("CAN_SYNC_TEST_REPLAYS", "100000")]),
            optimised("gossip::hostile::a_node_that_is_flooded_goes_on_answering", "how soon the API answers beside a flood")
                .with(&[("CAN_SYNC_TEST_FLOOD_PER_SEC", "5000"), ("CAN_SYNC_TEST_FLOOD_SECS", "60")]),
        ],
        lacks: None,
        within: minutes(30),
        short_within: SHORT,
    },
    Row {
        key: "poison",
        what: "poisoned slots: garbage, own id, invented ids, timestamps far ahead",
        promise: "0 panics; a real peer is found within 60 s",
        runs: &[
            it("rendezvous::real::poison_in_sealed_slots_does_not_keep_two_apart_in_the_dht"),
            it("rendezvous::real::poison_in_sealed_slots_does_not_keep_two_apart_on_relays"),
            it("rendezvous::real::poison_in_compatible_slots_does_not_keep_two_apart"),
        ],
        lacks: None,
        within: minutes(10),
        short_within: OUT,
    },
    Row {
        key: "channels",
        what: "each discovery channel alone",
        promise: "connects within 30 s",
        runs: &[it("discovery::")],
        lacks: None,
        within: minutes(10),
        short_within: OUT,
    },
    Row {
        key: "panics",
        what: "PeerActors panic 1,000 times in 60 s; every kind crashes at once",
        promise: "discovery late by at most 1 s; budgets hold; the process lives",
        runs: &[
            it("crash_storm::discovery_keeps_its_time_while_peer_actors_crash_a_thousand_times"),
            it("restarts::discovery_goes_on_while_every_kind_crashes_at_once"),
        ],
        lacks: None,
        within: minutes(10),
        short_within: SHORT,
    },
    Row {
        key: "restarts",
        what: "each kind of actor is killed",
        promise: "another one answers within 100 ms (p99 of 100 first restarts)",
        runs: &[it("restarts::every_kind_of_actor_is_started_again_and_answers")
            .with(&[("CAN_SYNC_TEST_RESTARTS", "100")])
            .short(&[("CAN_SYNC_TEST_RESTARTS", "2")])],
        lacks: None,
        within: minutes(30),
        short_within: SHORT,
    },
    Row {
        key: "hung",
        what: "an actor that takes no message while some wait: each kind, and real ones in a whole node",
        promise: "killed within 40 s, told, and started again; what it is for goes on",
        runs: &[
            it("hung::"),
            it("supervisor::every_kind_that_hangs_is_started_again"),
            it("supervisor::one_that_does_not_come_on_is_started_again_within_its_budget"),
        ],
        lacks: None,
        within: minutes(10),
        short_within: SHORT,
    },
    Row {
        key: "events",
        what: "the store's event stream is cut again and again; its service is gone, fails, is slow",
        promise: "0 missed, 0 effects twice; caught up within 10 s",
        runs: &[
            it("external::a_service_that_is_killed_costs_delay_and_nothing_else"),
            it("can_http_faults::"),
            it("cut_events::an_event_stream_that_is_cut_every_second_misses_nothing_and_repeats_nothing")
                .with(&[("CAN_SYNC_TEST_CUT_SECS", "600")]),
        ],
        lacks: None,
        within: minutes(30),
        short_within: SHORT,
    },
    Row {
        key: "migrations",
        what: "data directories that each version left, and databases of every schema, killed in the middle of a migration",
        promise: "all readable; 50 kills of each",
        runs: &[
            it("frozen::"),
            it("store_embedded::a_directory_from_before_contents_could_be_absent_opens"),
            lib("discovery::address_book::tests::a_book_of_the_first_version_is_taken_over"),
            lib("library::registry::tests::a_registry_from_before_epochs_and_the_brake_on_deletions_is_taken_over"),
            lib("store::embedded::schema::kills::whatever_was_stored_is_there_when_a_migration_was_killed")
                .with(&[("CAN_SYNC_TEST_KILLS", "50")]),
        ],
        lacks: None,
        within: minutes(10),
        short_within: SHORT,
    },
    Row {
        key: "fuzz",
        what: "every decoder fuzzed for 30 CPU-minutes",
        promise: "0 crashes; a planted defect is found within 60 s",
        runs: &[
            lib("testing::fuzz::"),
            Run {
                program: Program::Fuzz(60),
                name: "fuzz/run",
                whole: &[],
                short: &[],
                long: Some("what fuzzing found is tried again, and nothing new"),
            },
        ],
        lacks: None,
        within: minutes(60),
        short_within: SHORT,
    },
    Row {
        key: "memory",
        what: "10 GiB from one agent to another",
        promise: "peak memory of at most 256 MiB",
        runs: &[Run {
            program: Program::Bench(&["--only", "crossing", "--gib", "10"]),
            name: "memory",
            whole: &[],
            short: &[],
            long: None,
        }],
        lacks: None,
        within: minutes(60),
        short_within: OUT,
    },
    Row {
        key: "connects",
        what: "1,000 connects and disconnects",
        promise: "open files and tasks back to ± 5 of the start, memory too",
        runs: &[it("connects::what_a_thousand_connections_took_is_given_back")
            .with(&[("CAN_SYNC_TEST_CONNECTS", "1000")])
            .short(&[("CAN_SYNC_TEST_CONNECTS", "60")])],
        lacks: None,
        within: minutes(20),
        short_within: SHORT,
    },
    Row {
        key: "copies",
        what: "one data directory on two machines; a store set back to an old backup",
        promise: "named within 60 s on all sides; 0 lost; cursors of before get a reset",
        runs: &[
            it("copied::"),
            it("set_back::"),
            it("external::a_store_that_was_set_back_behind_its_agent_is_read_again_and_made_whole"),
        ],
        lacks: None,
        within: minutes(20),
        short_within: OUT,
    },
    Row {
        key: "scrub",
        what: "scrub: flips, peers killed on the way, a file that cannot be read, a content removed behind our back",
        promise: "all found and healed; 0 wrong bytes served or offered; the store goes on",
        runs: &[
            it("healing::"),
            it("store_damage::"),
            it("store_faults::file_systems::what_lasts_is_the_trouble_of_one_file"),
        ],
        lacks: None,
        within: minutes(20),
        short_within: OUT,
    },
    Row {
        key: "trust",
        what: "every rule of who gets what against a hostile member",
        promise: "0 records or contents to who may not have them; own devices always connect",
        runs: &[
            it("hostile::reflection::"),
            it("hostile::lanes::"),
            it("hostile::denied::"),
            it("hostile::bulk::"),
            it("hostile::strangers::"),
            it("hostile::crowds::"),
            it("list_peers::"),
            it("libraries::"),
        ],
        lacks: None,
        within: minutes(30),
        short_within: OUT,
    },
    Row {
        key: "secrets",
        what: "secrets: line breaks, byte order marks, empty, modes, mounted volumes",
        promise: "works, or one sentence",
        runs: &[it("daemon::secrets::")],
        lacks: None,
        within: minutes(10),
        short_within: OUT,
    },
    Row {
        key: "simulator",
        what: "sessions, folders and letting go simulated: drops, delays, restarts, edits, deletions",
        promise: "10,000 seeds, 0 divergence",
        runs: &[
            lib("peer::session::simulation::")
                .with(&[("CAN_SYNC_SIM_SEEDS", "10000")])
                .short(&[("CAN_SYNC_SIM_SEEDS", "100")]),
            lib("folder::simulation::")
                .with(&[("CAN_SYNC_SIM_SEEDS", "10000")])
                .short(&[("CAN_SYNC_SIM_SEEDS", "100")]),
            lib("peer::letting_go::simulation::")
                .with(&[("CAN_SYNC_SIM_SEEDS", "10000")])
                .short(&[("CAN_SYNC_SIM_SEEDS", "100")]),
        ],
        lacks: None,
        within: minutes(120),
        short_within: SHORT,
    },
];
