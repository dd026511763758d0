//! What is promised of a can-sync that is killed, lied to, cut off and run out of room, and what of it this machine has shown.
//!
//! `cargo scoreboard [--seed N] [--short] [--only ROW]… [--fuzz-secs N] [--out FILE] [--list]`, an alias in `.cargo/config.toml`.
//! A row runs tests of the project with more rounds than they have from day to day, each in a process group of its own that
//! ends with its time: those of `tests/it`, of the library, another bench, or the fuzzer. A test says in a line `scoreboard: …`
//! what it has measured, and whether that keeps the promise (`tests/it/support/scoreboard.rs`). Its verdict is one of
//!
//! - **shown**: every test passed, and none says that the promise was missed;
//! - **missed**: every test passed, and one measured less than what is promised;
//! - **failed**: a test says no, or took too long;
//! - **not shown**: a test could not run here, or none covers all of the promise; why stands beside it.
//!
//! The whole run takes hours and writes `docs/scoreboard.md` with every row; `--short` has a few rounds of what is quick, takes about three minutes
//! once everything is built, and writes `target/scoreboard.md`. Tests are built as `cargo test` builds them, without
//! optimisation, but for those that measure a speed; `--release` builds all of them with it. The exit code is 1 where a row failed:
//! a figure that is missed may be the machine's fault.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rows::{ROWS, Row};
use running::{Programs, RunOutcome};
use support::Result;
use support::figures::Table;

#[path = "scoreboard/fuzzing.rs"]
mod fuzzing;
#[path = "scoreboard/rows.rs"]
mod rows;
#[path = "scoreboard/running.rs"]
mod running;
mod support;

#[derive(clap::Parser)]
struct Args {
    /// What is random follows from this; random by default
    #[arg(long)]
    seed: Option<u64>,
    /// A few rounds of what is quick
    #[arg(long)]
    short: bool,
    /// These rows alone; nothing is written unless --out is given
    #[arg(long)]
    only: Vec<String>,
    /// For how long each decoder is fuzzed; 1800 is what is promised, and takes half a day
    #[arg(long)]
    fuzz_secs: Option<u64>,
    /// Where the table goes
    #[arg(long)]
    out: Option<PathBuf>,
    /// Names the rows, and ends
    #[arg(long)]
    list: bool,
    /// Build the tests with optimisation, which takes long
    #[arg(long)]
    release: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Shown,
    /// Every test passed, and a figure is not what was promised.
    Missed,
    /// A test says no.
    Failed,
    NotShown(String),
}

struct Line {
    row: &'static Row,
    figure: String,
    verdict: Verdict,
    took: Duration,
}

fn main() -> Result<ExitCode> {
    let Some(args) = support::args::<Args>() else { return Ok(ExitCode::SUCCESS) };
    if args.list {
        for row in ROWS {
            println!("{:<14} {}", row.key, row.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(odd) = args.only.iter().find(|only| ROWS.iter().all(|row| row.key != only.as_str())) {
        return Err(format!("there is no row {odd}: --list names them").into());
    }
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("seed {seed}; building the tests");
    let programs = Programs::build(args.release, args.fuzz_secs)?;
    let table = Table::new(&[("row", 16), ("figure", 70), ("promise", 60), ("verdict", 12), ("s", 6)]);
    let everyday = if args.short { "target/scoreboard.md" } else { "docs/scoreboard.md" };
    let out = args.out.clone().or_else(|| args.only.is_empty().then(|| PathBuf::from(everyday)));
    if let Some(dir) = out.as_deref().and_then(Path::parent) {
        fs::create_dir_all(dir)?;
    }
    let is_asked_for = |row: &&Row| args.only.is_empty() || args.only.iter().any(|only| only == row.key);
    let rows: Vec<&'static Row> = ROWS.iter().filter(is_asked_for).collect();
    let heading = heading(&command(&args, seed));
    let mut lines = Vec::new();
    for row in &rows {
        let line = run(row, &programs, seed, args.short);
        table.row(&[
            row.key.to_owned(),
            line.figure.clone(),
            row.promise.to_owned(),
            line.verdict.name().to_owned(),
            line.took.as_secs().to_string(),
        ]);
        lines.push(line);
        if let Some(out) = &out {
            // With every row: the last ones are hours away.
            fs::write(out, page(&lines, rows.len(), &heading, args.short))?;
        }
    }
    if let Some(out) = &out {
        println!("\nwritten to {}", out.display());
    }
    println!("\n{}", summary(&lines));
    // A figure that is missed may be the machine's fault, and is in the table.
    let failed = lines.iter().any(|line| line.verdict == Verdict::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Verdict {
    fn name(&self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Missed => "missed",
            Self::Failed => "failed",
            Self::NotShown(_) => "not shown",
        }
    }
}

/// Runs the tests of a row until one says no.
fn run(row: &'static Row, programs: &Programs, seed: u64, short: bool) -> Line {
    let began = Instant::now();
    let limit = if short { row.short_within } else { row.within };
    let line = |figures: &[String], verdict| Line {
        row,
        figure: figures.join("; "),
        verdict,
        took: began.elapsed(),
    };
    if limit.is_zero() {
        return line(&[], Verdict::NotShown("only in the whole run".to_owned()));
    }
    if row.runs.is_empty() {
        return line(&[], Verdict::NotShown(row.lacks.unwrap_or("no test").to_owned()));
    }
    let (mut figures, mut all_kept) = (Vec::new(), true);
    let mut lacks: Vec<String> = row.lacks.iter().map(|lacks| (*lacks).to_owned()).collect();
    for one in row.runs {
        if let Some(left_out) = one.long.filter(|_| short) {
            lacks.push(left_out.to_owned());
            continue;
        }
        match programs.run(one, seed, short, limit.saturating_sub(began.elapsed())) {
            RunOutcome::Passed { figures: some, kept, lacks: some_lacks } => {
                figures.extend(some);
                all_kept &= kept;
                lacks.extend(some_lacks);
            }
            RunOutcome::Skipped(why) => return line(&figures, Verdict::NotShown(why)),
            RunOutcome::Failed(why) => {
                figures.push(why);
                return line(&figures, Verdict::Failed);
            }
        }
    }
    let verdict = match lacks.is_empty() {
        _ if !all_kept => Verdict::Missed,
        true => Verdict::Shown,
        false => Verdict::NotShown(lacks.join("; ")),
    };
    line(&figures, verdict)
}

fn summary(lines: &[Line]) -> String {
    let count = |name: &str| lines.iter().filter(|line| line.verdict.name() == name).count();
    let (shown, missed, failed, not_shown) =
        (count("shown"), count("missed"), count("failed"), count("not shown"));
    format!("{} rows: {shown} shown, {missed} missed, {failed} failed, {not_shown} not shown", lines.len())
}

/// What runs the same again.
fn command(args: &Args, seed: u64) -> String {
    let mut command = format!("cargo scoreboard --seed {seed}");
    for (is_given, flag) in [(args.short, " --short"), (args.release, " --release")] {
        if is_given {
            command.push_str(flag);
        }
    }
    for row in &args.only {
        command.extend([" --only ", row]);
    }
    if let Some(secs) = args.fuzz_secs {
        command.extend([" --fuzz-secs ", &secs.to_string()]);
    }
    command
}

/// How the page begins. What is written later is no change of the tree that is tried.
fn heading(command: &str) -> String {
    let git = |args: &[&str]| {
        let said = Command::new("git").args(args).output().ok().filter(|output| output.status.success());
        said.map_or_else(String::new, |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed =
        if git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() { "" } else { " with changes" };
    let date: String = jiff::Timestamp::now().to_string().chars().take(10).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    format!("Written by `{command}` on {date}, of commit {commit}{changed}, on {cores} cores.")
}

/// The page that is kept, of the first of `rows` rows.
fn page(lines: &[Line], rows: usize, heading: &str, short: bool) -> String {
    let mut how = if short {
        "A short run: a few rounds of what is quick. Figures say how many.".to_owned()
    } else {
        "Of each row all that is promised, where its figure says no other number.".to_owned()
    };
    if lines.len() < rows {
        how.push_str(" It did not come to its end.");
    }
    let mut page = format!(
        "# Scoreboard\n\n{heading} {how}\n\n{}.\n\n| row | figure | promise | verdict | took | by |\n|---|---|---|---|---|---|\n",
        summary(lines),
    );
    for line in lines {
        let verdict = match &line.verdict {
            Verdict::NotShown(why) => format!("not shown: {why}"),
            Verdict::Shown | Verdict::Missed | Verdict::Failed => line.verdict.name().to_owned(),
        };
        let by: Vec<String> = line.row.runs.iter().map(|run| format!("`{}`", run.name)).collect();
        let cells = [line.row.what, &line.figure, line.row.promise, &verdict];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        // Into a string: cannot fail.
        let _ = writeln!(page, "| {} | {} s | {} |", cells.join(" | "), line.took.as_secs(), by.join(", "));
    }
    page
}
