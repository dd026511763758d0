//! Runs tests and other benches as processes, and reads what they say.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::fuzzing;
use super::rows::{Program, Row, Run};
use super::support::Result;

/// Of what one process may say.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Last lines that are shown of what a process said that failed.
const LINES_SHOWN: usize = 100;
/// Characters kept of a reason.
const REASON_CHARS: usize = 200;

/// What came of one test, or of all of a module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RunOutcome {
    /// What it measured, whether all of it keeps the promise, and what of the promise it does not show.
    Passed { figures: Vec<String>, kept: bool, lacks: Option<String> },
    /// Why it could not run here.
    Skipped(String),
    /// With the reason.
    Failed(String),
}

/// The programs of the tests, built once for all rows.
pub(crate) struct Programs {
    it: PathBuf,
    lib: PathBuf,
    /// Those of `tests/it` with optimisation, once a row wants them: or why there are none.
    optimised: OnceCell<std::result::Result<PathBuf, String>>,
    /// For how long each decoder is fuzzed, where that is asked for.
    fuzz_secs: Option<u64>,
}

impl Programs {
    /// Builds them; decoders are fuzzed for `fuzz_secs`, or for as long as their row says.
    pub(crate) fn build(release: bool, fuzz_secs: Option<u64>) -> Result<Self> {
        let built = BuiltTests::build(release, &["--lib", "--test", "it"])?;
        let (it, lib) = (built.program("it")?, built.program("can_sync")?);
        let optimised = if release { OnceCell::from(Ok(it.clone())) } else { OnceCell::new() };
        Ok(Self { it, lib, optimised, fuzz_secs })
    }

    /// Fails for a row that names a test which does not exist, before the first row runs.
    pub(crate) fn check(&self, rows: &[Row]) -> Result<()> {
        let (it, lib) = (listed(&self.it)?, listed(&self.lib)?);
        for run in rows.iter().flat_map(|row| row.runs) {
            let tests = match run.program {
                Program::It | Program::Optimised => &it,
                Program::Lib => &lib,
                Program::Bench(_) | Program::Fuzz(_) => continue,
            };
            if !tests.iter().any(|test| is_of(test, run.name)) {
                return Err(no_test(run.name).into());
            }
        }
        Ok(())
    }

    fn optimised(&self) -> std::result::Result<&Path, String> {
        let build = || {
            println!("building the tests with optimisation");
            let built = BuiltTests::build(true, &["--test", "it"]).and_then(|built| built.program("it"));
            built.map_err(|error| error.to_string())
        };
        self.optimised.get_or_init(build).as_deref().map_err(Clone::clone)
    }

    /// Runs a row's test, for at most `limit`.
    pub(crate) fn run(&self, run: &Run, seed: u64, short: bool, limit: Duration) -> RunOutcome {
        let command = match run.program {
            Program::It => test(&self.it, run.name),
            Program::Optimised => match self.optimised() {
                Ok(it) => test(it, run.name),
                Err(why) => return RunOutcome::Failed(why),
            },
            Program::Lib => test(&self.lib, run.name),
            Program::Bench(args) => {
                let mut cargo = cargo();
                cargo.args(["bench", "--locked", "--bench", run.name, "--"]).args(args);
                Ok(cargo)
            }
            Program::Fuzz(secs) => return fuzzing::run(self.fuzz_secs.unwrap_or(secs), limit),
        };
        let mut command = match command {
            Ok(command) => command,
            Err(error) => return RunOutcome::Failed(error.to_string()),
        };
        for name in ["CAN_SYNC_TEST_SEED", "CAN_SYNC_TEST_STORE_SEED", "CAN_SYNC_TORTURE_SEED"] {
            command.env(name, seed.to_string());
        }
        command.envs(if short { run.short } else { run.whole }.iter().copied());
        match said_within(&mut command, limit) {
            Ok((ended, said)) => judge(run, ended, &said),
            Err(error) => RunOutcome::Failed(format!("{} could not be run: {error}", run.name)),
        }
    }
}

/// What cargo said while it built tests.
struct BuiltTests(Vec<Value>);

impl BuiltTests {
    fn build(release: bool, which: &[&str]) -> Result<Self> {
        let mut cargo = cargo();
        cargo.args(["test", "--no-run", "--locked"]).args(which);
        cargo.arg("--message-format=json-render-diagnostics").args(release.then_some("--release"));
        let output = cargo.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err("the tests could not be built".into());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(Self(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
    }

    /// The tests of a target.
    fn program(&self, target: &str) -> Result<PathBuf> {
        let is_it = |one: &&Value| one["target"]["name"] == target && one["profile"]["test"] == true;
        let path = self.0.iter().filter(is_it).find_map(|one| one["executable"].as_str());
        Ok(path
            .map(PathBuf::from)
            .ok_or_else(|| format!("cargo does not say where the tests of {target} are"))?)
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_package(&mut cargo);
    cargo
}

/// Keeps from a program that calls cargo what cargo told us.
pub(super) fn forget_package(command: &mut Command) {
    // What the cargo that runs us says of this package: build scripts that look at it would run again, and with them whatever
    // depends on theirs, now and at the next call of cargo.
    let of_package = |name: &str| {
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR"
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        command.env_remove(name);
    }
}

/// The tests of a program.
fn listed(program: &Path) -> Result<Vec<String>> {
    let listed = Command::new(program).args(["--list", "--format", "terse"]).stdin(Stdio::null()).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Whether a test is the one of this name, or in the module of this name, which ends in `::` then.
fn is_of(test: &str, name: &str) -> bool {
    if name.ends_with("::") { test.starts_with(name) } else { test == name }
}

fn no_test(name: &str) -> String {
    format!("there is no test {name}")
}

/// One test, or those of a module.
fn test(program: &Path, name: &str) -> Result<Command> {
    // A filter of libtest is found anywhere in a name: another module may have a part of that name.
    let tests: Vec<String> = listed(program)?.into_iter().filter(|test| is_of(test, name)).collect();
    if tests.is_empty() {
        return Err(no_test(name).into());
    }
    let mut command = Command::new(program);
    command.args(["--nocapture", "--exact"]).args(tests);
    Ok(command)
}

/// What a process said until it ended, and whether well; `None` where it was stopped after `limit`. Whatever it started in its process
/// group ends with it.
pub(super) fn said_within(command: &mut Command, limit: Duration) -> Result<(Option<bool>, String)> {
    let mut said = tempfile::tempfile()?;
    let (out, err): (File, File) = (said.try_clone()?, said.try_clone()?);
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn()?;
    let deadline = Instant::now() + limit;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status.success());
        }
        if Instant::now() > deadline {
            break None;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Nobody is left in it where all went well.
        let _ = kill_process_group(group, Signal::KILL);
    }
    child.wait()?;
    said.rewind()?;
    let mut text = Vec::new();
    said.take(OUTPUT_BYTES_MAX).read_to_end(&mut text)?;
    Ok((ended, String::from_utf8_lossy(&text).into_owned()))
}

fn judge(run: &Run, ended: Option<bool>, said: &str) -> RunOutcome {
    let name = run.name;
    if ended != Some(true) {
        // Of a test that fails here and nowhere else, nothing but this is left.
        let lines: Vec<&str> = said.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
    }
    let Some(well) = ended else { return RunOutcome::Failed(format!("{name}: not done in its time")) };
    if !well {
        let why = said.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or("it failed");
        return RunOutcome::Failed(format!(
            "{name}: {}",
            why.trim().chars().take(REASON_CHARS).collect::<String>()
        ));
    }
    // libtest prints a test's name before what the test prints.
    if let Some((_, why)) = said.lines().find_map(|line| line.split_once("skipped: ")) {
        return RunOutcome::Skipped(why.trim().to_owned());
    }
    let told = said
        .lines()
        .filter_map(|line| line.split_once("scoreboard: ").and_then(|(_, rest)| rest.split_once(' ')));
    let (words, mut figures): (Vec<&str>, Vec<String>) =
        told.map(|(word, figure)| (word, figure.to_owned())).unzip();
    let passed: usize = said
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok())
        .sum();
    if figures.is_empty() {
        match (&run.program, passed) {
            (Program::Bench(_), _) => return RunOutcome::Failed(format!("{name} measured nothing")),
            (_, 0) => return RunOutcome::Failed(no_test(name)),
            (_, 1) => {
                let name = name.trim_end_matches(':');
                let name = name.rsplit("::").next().unwrap_or(name);
                figures.push(format!("{} passed", name.replace('_', " ")));
            }
            (_, several) => figures.push(format!("{several} tests of {} passed", name.trim_end_matches(':'))),
        }
    }
    RunOutcome::Passed { figures, kept: words.iter().all(|word| *word == "kept"), lacks: None }
}
