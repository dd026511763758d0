//! Directories that are kept alike between two real agents on this machine, beside Syncthing where that is installed, in one run.
//!
//! `cargo bench --bench folders [-- --runs N] [-- --only first|live|rename|rescan|tree|wide|real] [-- --files N] [-- --tree DIR] [-- --alone]
//! [-- --bins DIR]`. All directories lie on the disk that counts; both ends share the machine. `real` is measured where `--tree`
//! names a tree of files: every second of them is put into each directory. `--files` makes the rows of many files smaller or
//! larger, `--alone` leaves Syncthing out, `--bins` measures another build.
//!
//! Files are moved into a directory at once, and are an hour old by their times. The clock runs from there until the other directory
//! has all of them; then both are compared byte by byte. Syncthing is told when to look, so that its pause of ten seconds is not
//! measured; but for edits, where its watcher is as it is set by default.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kept::{Kept, Machine, Pair, at};
use support::agent::Bins;
use support::figures::{Runs, Table, mb, ms};
use support::{MIB, Noise, Result, eventually, noise, patience, temp_dir};
use syncthing::Syncthings;
use trees::{Tree, wait_for_files};

#[path = "folders/kept.rs"]
mod kept;
mod support;
#[path = "folders/syncthing.rs"]
mod syncthing;
#[path = "folders/trees.rs"]
mod trees;

const FILE_BYTES: usize = 4096;
const PER_DIRECTORY: u64 = 100;
const EDITED_FILES: u64 = 100;
const EDITS: u64 = 200;
/// Of Syncthing, whose watcher waits ten seconds each time.
const EDITS_OF_OTHERS: u64 = 5;
/// Files of the tree that is moved, and of one directory.
const MOVED_FILES: u64 = 50_000;
const WIDE_FILES: u64 = 200_000;
const RESCANNED_FILES: u64 = 100_000;
const FIRST_FILES: u64 = 10_000;
/// No file of many takes longer, on whatever disk.
const PER_FILE: Duration = Duration::from_millis(20);

#[derive(clap::Parser)]
struct Args {
    /// Runs of each row
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Runs of each row of Syncthing
    #[arg(long, default_value_t = 1)]
    other_runs: usize,
    /// One table alone
    #[arg(long, value_parser = ["first", "live", "rename", "rescan", "tree", "wide", "real"])]
    only: Option<String>,
    /// Files of a row, instead of as many as it has
    #[arg(long)]
    files: Option<u64>,
    /// Size of the file that is renamed
    #[arg(long, default_value_t = 1024)]
    big_mib: u64,
    /// A real tree of files, for `real`
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Leaves Syncthing out
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    bins: Bins,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let wants = |row: &str| args.only.as_deref().is_none_or(|only| only == row);
    let others = if args.alone || !syncthing::is_installed() { 0 } else { args.other_runs };
    let tree = |files: u64| Tree {
        files: args.files.unwrap_or(files),
        per_directory: PER_DIRECTORY,
        bytes: FILE_BYTES,
    };
    if wants("first") {
        first(&args, others, tree(FIRST_FILES)).await?;
    }
    if wants("live") {
        live(&args, others).await?;
    }
    if wants("rename") {
        rename(&args, others).await?;
    }
    if wants("rescan") {
        rescan(&args, others, tree(RESCANNED_FILES)).await?;
    }
    if wants("tree") {
        moved_tree(&args, others, tree(MOVED_FILES)).await?;
    }
    if wants("wide") {
        let files = args.files.unwrap_or(WIDE_FILES);
        wide(&args, Tree { files, per_directory: files, bytes: 64 }).await?;
    }
    if let Some(tree) = args.tree.as_ref().filter(|_| wants("real")) {
        real(&args, tree).await?;
    }
    Ok(())
}

fn limit(files: u64, bytes: u64) -> Duration {
    patience(bytes) + PER_FILE * u32::try_from(files).unwrap_or(u32::MAX)
}

/// Moves a tree into the first directory; how long until the second has all of it.
async fn arrive(kept: &impl Kept, tree: Tree) -> Result<Duration> {
    // Beside the directory, on the same disk.
    let staged = temp_dir()?;
    let ready = staged.path().join("tree");
    tree.make(&ready)?;
    rustix::fs::sync();
    let started = Instant::now();
    fs::rename(&ready, at(kept, 0, "tree"))?;
    let looked = kept.look(0);
    let arrived = wait_for_files(kept.dir(1), tree.files, limit(tree.files, tree.total()));
    tokio::try_join!(looked, arrived)?;
    let took = started.elapsed();
    trees::same(kept.dir(0), kept.dir(1))?;
    Ok(took)
}

async fn first(args: &Args, others: usize, tree: Tree) -> Result<()> {
    let (mut ours, mut theirs) = (Runs::new(), Runs::new());
    for n in 0..args.runs.max(others) {
        if n < args.runs {
            ours.add(arrive(&Pair::start(&args.bins).await?, tree).await?);
        }
        if n < others {
            theirs.add(arrive(&Syncthings::start(false).await?, tree).await?);
        }
    }
    let table = Table::of_runs();
    let target =
        if others > 0 { format!("<= {:.2} s", theirs.median().as_secs_f64() / 5.0) } else { String::new() };
    table.runs(&format!("first sync: {} x {} B", tree.files, tree.bytes), &ours, Some(tree.total()), &target);
    if others > 0 {
        table.runs("Syncthing", &theirs, Some(tree.total()), "");
    }
    Ok(())
}

/// Edits files in one directory, one after the other; how long until each is in place in the other.
async fn edit(kept: &impl Kept, edits: u64, tree: Tree) -> Result<Runs> {
    let mut waits = Runs::new();
    for n in 0..edits {
        let path = format!("tree/{}", tree.path_of(n % tree.files));
        let content = noise(1_000_000 + n, FILE_BYTES);
        let (here, there) = (at(kept, 0, &path), at(kept, 1, &path));
        fs::write(&here, &content)?;
        let saved = Instant::now();
        eventually("the edit", patience(0), async || {
            Ok(fs::read(&there).is_ok_and(|found| found == content).then_some(()))
        })
        .await?;
        waits.add(saved.elapsed());
    }
    Ok(waits)
}

fn live_row(table: &Table, what: &str, waits: &Runs, target: &str) {
    let figures = [50, 90, 99].map(|percent| format!("{:.0}", ms(waits.at(percent))));
    table.row(&[&[what.to_owned()][..], &figures, &[target.to_owned()]].concat());
}

fn live_table() -> Table {
    let columns = [("a file is written here to in place there, ms", 46), ("p50", 9), ("p90", 9), ("p99", 9)];
    Table::new(&[&columns[..], &[("target", 12)]].concat())
}

async fn live(args: &Args, others: usize) -> Result<()> {
    let tree = Tree { files: EDITED_FILES, per_directory: PER_DIRECTORY, bytes: FILE_BYTES };
    let pair = Pair::start(&args.bins).await?;
    arrive(&pair, tree).await?;
    pair.wait_idle(tree.files, patience(0)).await?;
    let ours = edit(&pair, EDITS, tree).await?;
    drop(pair);
    let table = live_table();
    live_row(&table, &format!("{EDITS} edits of 4 KiB"), &ours, "p50 <= 300");
    if others > 0 {
        let pair = Syncthings::start(true).await?;
        arrive(&pair, tree).await?;
        live_row(
            &table,
            &format!("Syncthing: {EDITS_OF_OTHERS} edits"),
            &edit(&pair, EDITS_OF_OTHERS, tree).await?,
            "",
        );
    }
    Ok(())
}

/// Renames a large file; how long until it has the name there, and what crossed.
async fn rename_one(kept: &impl Kept, mib: u64) -> Result<(Duration, u64)> {
    let (old, new) = ("before.bin", "after.bin");
    let staged = temp_dir()?;
    trees::make_big(&staged.path().join(old), Noise { seed: 7, len: mib * MIB }).await?;
    fs::rename(staged.path().join(old), at(kept, 0, old))?;
    kept.look(0).await?;
    let arrived = |name: &'static str, other: &'static str| {
        eventually("the file", patience(mib * MIB), async move || {
            let is_there = at(kept, 1, name).is_file() && !at(kept, 1, other).exists();
            Ok(is_there.then_some(()))
        })
    };
    arrived(old, new).await?;
    // What is told at leisure is no part of it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = kept.crossed().await?;
    let started = Instant::now();
    fs::rename(at(kept, 0, old), at(kept, 0, new))?;
    tokio::try_join!(kept.look(0), arrived(new, old))?;
    let took = started.elapsed();
    let crossed = kept.crossed().await? - before;
    trees::same(kept.dir(0), kept.dir(1))?;
    Ok((took, crossed))
}

async fn rename(args: &Args, others: usize) -> Result<()> {
    let (took, crossed) = rename_one(&Pair::start(&args.bins).await?, args.big_mib).await?;
    let table = Table::new(&[("a file is renamed", 46), ("s", 9), ("bytes crossed", 14), ("target", 12)]);
    let row = |what: &str, took: Duration, crossed: u64, target: &str| {
        let cells =
            [what.to_owned(), format!("{:.2}", took.as_secs_f64()), crossed.to_string(), target.to_owned()];
        table.row(&cells);
    };
    row(&format!("{} MiB, bytes of contents", args.big_mib), took, crossed, "0");
    if others > 0 {
        let (took, crossed) = rename_one(&Syncthings::start(false).await?, args.big_mib).await?;
        row("Syncthing, all bytes", took, crossed, "");
    }
    Ok(())
}

async fn rescan(args: &Args, others: usize, tree: Tree) -> Result<()> {
    let mut machine = Machine::start(&args.bins, "a").await?;
    let limit = limit(tree.files, tree.total());
    tree.make(&machine.dir.path().join("tree"))?;
    let mut runs: [Runs; 4] = Default::default();
    let [added, started, looked, theirs] = &mut runs;
    let began = Instant::now();
    machine.add().await?;
    machine.wait_idle(tree.files, limit).await?;
    added.add(began.elapsed());
    let (mut at_start, mut at_look) = (0, 0);
    for _ in 0..args.runs {
        machine = machine.restart().await?;
        machine.wait_idle(tree.files, limit).await?;
        started.add(machine.agent.process.began.elapsed());
        at_start = machine.agent.process.read()?;
        let began = Instant::now();
        machine.look().await?;
        looked.add(began.elapsed());
        at_look = machine.agent.process.read()? - at_start;
    }
    drop(machine);
    if others > 0 {
        let pair = Syncthings::start(false).await?;
        tree.make(&at(&pair, 0, "tree"))?;
        pair.look(0).await?;
        for _ in 0..args.runs {
            let began = Instant::now();
            pair.look(0).await?;
            theirs.add(began.elapsed());
        }
    }
    let table = Table::of_runs();
    let files = tree.files;
    table.runs(&format!("{files} files: first look, all taken in"), added, Some(tree.total()), "");
    table.runs(&format!("{files} files: start, until all is looked at"), started, None, "");
    table.runs(&format!("{files} files: another look"), looked, None, "<= 2 s");
    if others > 0 {
        table.runs("Syncthing: another look", theirs, None, "");
    }
    println!("\nread with the start: {:.1} MB; with the look: {:.1} MB", mb(at_start), mb(at_look));
    Ok(())
}

/// Renames a directory; how long until it has the name there.
async fn move_tree(kept: &impl Kept, tree: Tree) -> Result<Duration> {
    let started = Instant::now();
    fs::rename(at(kept, 0, "tree"), at(kept, 0, "moved"))?;
    let moved = async {
        let limit = limit(tree.files, 0);
        wait_for_files(&at(kept, 1, "moved"), tree.files, limit).await?;
        wait_for_files(&at(kept, 1, "tree"), 0, limit).await
    };
    tokio::try_join!(kept.look(0), moved)?;
    let took = started.elapsed();
    trees::same(kept.dir(0), kept.dir(1))?;
    Ok(took)
}

async fn moved_tree(args: &Args, others: usize, tree: Tree) -> Result<()> {
    let mut runs: [Runs; 4] = Default::default();
    let [arrived, moved, their_arrived, their_moved] = &mut runs;
    for _ in 0..args.runs {
        let pair = Pair::start(&args.bins).await?;
        arrived.add(arrive(&pair, tree).await?);
        pair.wait_idle(tree.files, limit(tree.files, 0)).await?;
        moved.add(move_tree(&pair, tree).await?);
    }
    for _ in 0..others {
        let pair = Syncthings::start(false).await?;
        their_arrived.add(arrive(&pair, tree).await?);
        their_moved.add(move_tree(&pair, tree).await?);
    }
    let table = Table::of_runs();
    table.runs(
        &format!("a tree of {} x {} B arrives", tree.files, tree.bytes),
        arrived,
        Some(tree.total()),
        "",
    );
    table.runs("its directory is renamed", moved, None, "");
    if others > 0 {
        table.runs("Syncthing: it arrives", their_arrived, Some(tree.total()), "");
        table.runs("Syncthing: its directory is renamed", their_moved, None, "");
    }
    Ok(())
}

async fn wide(args: &Args, tree: Tree) -> Result<()> {
    let pair = Pair::start(&args.bins).await?;
    let arrived: Runs = std::iter::once(arrive(&pair, tree).await?).collect();
    pair.wait_idle(tree.files, limit(tree.files, 0)).await?;
    Table::of_runs().runs(&format!("{} files in one directory arrive", tree.files), &arrived, None, "");
    live_row(&live_table(), "an edit of one of them", &edit(&pair, EDITS / 10, tree).await?, "");
    for machine in &pair.0 {
        println!("\nat most resident: {:.0} MB", mb(machine.agent.process.memory("VmHWM")?));
    }
    Ok(())
}

/// Both directories have every second file of a real tree at first.
async fn real(args: &Args, from: &std::path::Path) -> Result<()> {
    let (mut both, mut began_again) = (Runs::new(), Runs::new());
    let (mut moved, mut read) = ((0, 0), 0);
    for _ in 0..args.runs {
        let mut pair = Pair::start(&args.bins).await?;
        let staged = [temp_dir()?, temp_dir()?];
        moved = trees::deal(from, [staged[0].path(), staged[1].path()])?;
        rustix::fs::sync();
        let began = Instant::now();
        for (side, staged) in staged.iter().enumerate() {
            fs::rename(staged.path(), at(&pair, side, "tree"))?;
            fs::create_dir(staged.path())?;
        }
        let limit = limit(moved.0, moved.1);
        for side in [0, 1] {
            wait_for_files(pair.dir(side), moved.0, limit).await?;
        }
        both.add(began.elapsed());
        pair.wait_idle(moved.0, limit).await?;
        trees::same(pair.dir(0), pair.dir(1))?;
        let [a, b] = pair.0;
        pair = Pair([a.restart().await?, b]);
        pair.0[0].wait_idle(moved.0, limit).await?;
        began_again.add(pair.0[0].agent.process.began.elapsed());
        read = pair.0[0].agent.process.read()?;
    }
    let table = Table::of_runs();
    let what = format!("{}: {} files, half at each side", from.display(), moved.0);
    table.runs(&what, &both, Some(moved.1), "");
    table.runs("one of them starts again, nothing changed", &began_again, None, "");
    println!("\nboth are the same, {:.1} MB; read with the start: {:.1} MB", mb(moved.1), mb(read));
    Ok(())
}
