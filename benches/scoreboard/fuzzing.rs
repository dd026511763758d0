//! Fuzzes the decoders, after it was seen that a mistake that was planted is found.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::running::{RunOutcome, forget_package, said_within};

/// For how long each decoder is to be fuzzed.
const PROMISED_SECS: u64 = 1_800;
/// How soon the planted mistake is to be found, and for how long it is looked for.
const PLANTED_WITHIN_SECS: u64 = 60;
const PLANTED_SECS_MAX: u64 = 180;
/// Beyond its time, a decoder may take this: what fuzzing starts from is read first.
const BEGINS_WITHIN: Duration = Duration::from_mins(2);

/// For `secs` each; building may take `limit`.
pub(crate) fn run(secs: u64, limit: Duration) -> RunOutcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for with in [&["-b"][..], &["-b", "-p"]] {
        match fuzz(root, with, limit) {
            Ok((Some(true), _)) => {}
            Ok((ended, said)) => {
                if said.contains("cannot update the lock file") {
                    return RunOutcome::Failed("fuzz/Cargo.lock is not of this tree".to_owned());
                }
                // Of the code, and not of the machine.
                if let Some(error) = said.lines().find(|line| line.starts_with("error[E")) {
                    return RunOutcome::Failed(error.to_owned());
                }
                let why = match ended {
                    Some(_) => {
                        said.lines().find(|line| line.starts_with("error")).unwrap_or("it says nothing")
                    }
                    None => "not done in its time",
                };
                return RunOutcome::Skipped(format!("the fuzzer cannot be built here: {why}"));
            }
            Err(error) => return RunOutcome::Skipped(format!("fuzz/run cannot be run here: {error}")),
        }
    }
    let within = Duration::from_secs(PLANTED_SECS_MAX) + BEGINS_WITHIN;
    // It is to be found from the start, and not from where it was found the last time.
    if let Err(error) = forget(&root.join("fuzz/corpus/planted")) {
        return RunOutcome::Failed(format!("fuzz/corpus/planted cannot be removed: {error}"));
    }
    let began = Instant::now();
    let planted = fuzz(root, &["-p", "planted", &PLANTED_SECS_MAX.to_string()], within);
    let took = began.elapsed();
    match planted {
        Ok((Some(false), said)) if said.contains("the planted mistake") => {}
        Ok(_) => return RunOutcome::Failed("fuzzing does not find the mistake that was planted".to_owned()),
        Err(error) => return RunOutcome::Failed(format!("fuzz/run: {error}")),
    }
    let targets = targets(root);
    let within = (Duration::from_secs(secs) + BEGINS_WITHIN) * u32::try_from(targets).unwrap_or(u32::MAX);
    match fuzz(root, &["all", &secs.to_string()], within) {
        Ok((Some(true), said)) => {
            let fuzzed = said.lines().filter(|line| line.starts_with("==> ")).count();
            if fuzzed != targets || targets == 0 {
                return RunOutcome::Failed(format!("{fuzzed} of {targets} decoders were fuzzed"));
            }
            let figures = vec![
                format!("a planted mistake found after {:.1} s", took.as_secs_f64()),
                format!("{fuzzed} decoders fuzzed for {secs} s each, 0 crashes"),
            ];
            let lacks = (secs < PROMISED_SECS).then(|| {
                format!("{secs} of the {PROMISED_SECS} s of each decoder: --only fuzz --fuzz-secs {PROMISED_SECS} is all of it")
            });
            RunOutcome::Passed { figures, kept: took.as_secs() <= PLANTED_WITHIN_SECS, lacks }
        }
        Ok((Some(false), said)) => {
            let last = said.lines().rfind(|line| line.starts_with("==> ")).unwrap_or("the first one");
            RunOutcome::Failed(format!("a crash, in fuzz/artifacts: {last}"))
        }
        Ok((None, _)) => RunOutcome::Failed("fuzz/run all: not done in its time".to_owned()),
        Err(error) => RunOutcome::Failed(format!("fuzz/run: {error}")),
    }
}

fn forget(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn fuzz(root: &Path, args: &[&str], limit: Duration) -> super::support::Result<(Option<bool>, String)> {
    let mut command = Command::new(root.join("fuzz/run"));
    command.args(args);
    forget_package(&mut command);
    said_within(&mut command, limit)
}

/// How many decoders there are, as `fuzz/run` counts them.
fn targets(root: &Path) -> usize {
    let listed = std::fs::read_to_string(root.join("src/testing/fuzz.rs")).unwrap_or_default();
    listed.lines().filter(|line| line.starts_with("    (\"") && line.contains(", crate::")).count()
}
