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
//! The whole run takes two hours and writes `docs/scoreboard.md` with every row; `--short` has a few rounds of what is quick, takes about three minutes
//! once everything is built, and writes `target/scoreboard.md`. Tests are built as `cargo test` builds them, without
//! optimisation, but for those that measure a speed; `--release` builds all of them with it. The exit code is 1 where a row failed:
//! a figure that is missed may be the machine's fault.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
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
    /// These rows alone; nothing is written unless --out is given, where they take the place of what the page had of them
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
    programs.check(ROWS)?;
    let table = Table::new(&[("row", 16), ("figure", 70), ("promise", 60), ("verdict", 12), ("s", 6)]);
    let everyday = if args.short { "target/scoreboard.md" } else { "docs/scoreboard.md" };
    let out = args.out.clone().or_else(|| args.only.is_empty().then(|| PathBuf::from(everyday)));
    if let Some(dir) = out.as_deref().and_then(Path::parent) {
        fs::create_dir_all(dir)?;
    }
    let is_asked_for = |row: &&Row| args.only.is_empty() || args.only.iter().any(|only| only == row.key);
    let rows: Vec<&'static Row> = ROWS.iter().filter(is_asked_for).collect();
    let origin = origin(&args, seed);
    let kept = out.as_deref().map(kept_lines).transpose()?.unwrap_or_default();
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
            fs::write(out, page(&lines, &kept, &origin))?;
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
    const NOT_SHOWN: &str = "not shown";

    fn name(&self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Missed => "missed",
            Self::Failed => "failed",
            Self::NotShown(_) => Self::NOT_SHOWN,
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

/// Of which run a row is. What is written later is no change of the tree that is tried.
fn origin(args: &Args, seed: u64) -> String {
    let git = |args: &[&str]| {
        let said = Command::new("git").args(args).output().ok().filter(|output| output.status.success());
        said.map_or_else(String::new, |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed =
        if git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() { "" } else { " with changes" };
    let date: String = jiff::Timestamp::now().to_string().chars().take(10).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let how = match (args.short, args.release) {
        (true, _) => ", short",
        (false, true) => ", optimised",
        (false, false) => "",
    };
    format!("{date}, {commit}{changed}, {cores} cores, seed {seed}{how}")
}

/// The lines of a page that was written before, by the keys of their rows.
fn kept_lines(page: &Path) -> Result<HashMap<String, String>> {
    let text = match fs::read_to_string(page) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashMap::new()),
        read => read?,
    };
    let key = |line: &str| Some(line.strip_prefix("| ")?.split(" | ").next()?.to_owned());
    Ok(text.lines().filter_map(|line| Some((key(line)?, line.to_owned()))).collect())
}

/// The page that is kept: these lines, and of the other rows what it had before.
fn page(lines: &[Line], kept: &HashMap<String, String>, origin: &str) -> String {
    let written = |row: &Row| {
        let line = lines.iter().find(|line| line.row.key == row.key);
        line.map(|line| line.written(origin)).or_else(|| kept.get(row.key).cloned())
    };
    let written: Vec<String> = ROWS.iter().filter_map(written).collect();
    let count = |verdict: &str| {
        let is_so = |line: &&String| line.split(" | ").nth(4).is_some_and(|cell| cell.starts_with(verdict));
        written.iter().filter(is_so).count()
    };
    let mut page = format!(
        "# Scoreboard\n\n\
         What can-sync does when it is killed, lied to, cut off and run out of room. Written by `cargo scoreboard`; each row says of \
         which run it is: the date, the commit, the cores of the machine, and the seed of what is random.\n\n\
         {} of {} rows: {} shown, {} missed, {} failed, {} not shown in full.\n\n\
         | row | what is done | figure | promise | verdict | took | by | of |\n|---|---|---|---|---|---|---|---|\n",
        written.len(),
        ROWS.len(),
        count(Verdict::Shown.name()),
        count(Verdict::Missed.name()),
        count(Verdict::Failed.name()),
        count(Verdict::NOT_SHOWN),
    );
    page.extend(written.iter().flat_map(|line| [line.as_str(), "\n"]));
    page
}

impl Line {
    /// As a line of the page.
    fn written(&self, origin: &str) -> String {
        let verdict = match &self.verdict {
            Verdict::NotShown(why) => format!("{}: {why}", Verdict::NOT_SHOWN),
            Verdict::Shown | Verdict::Missed | Verdict::Failed => self.verdict.name().to_owned(),
        };
        let by: Vec<String> = self.row.runs.iter().map(|run| format!("`{}`", run.name)).collect();
        let cells = [self.row.key, self.row.what, &self.figure, self.row.promise, &verdict];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} | {} s | {} | {origin} |", cells.join(" | "), self.took.as_secs(), by.join(", "))
    }
}
