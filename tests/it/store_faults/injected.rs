//! Calls of the system that fail, or at which the process is killed, one by one.

use std::process::{Command, Stdio};

use super::{Said, check, listen, start};
use crate::support::embedded::try_open;
use crate::support::mounted::tell;
use crate::support::scoreboard;

/// Of many calls that write, each so many-th is disturbed; all of them with 1 in this variable.
const STEP: &str = "CAN_SYNC_TEST_STEP";

const STEP_DEFAULT: usize = 11;

/// Says so and is `false` where strace cannot be used.
pub(super) fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = tried.is_ok_and(|status| status.success());
    if !works {
        tell("skipped: strace is not installed or not allowed here");
    }
    works
}

fn one_in(step: usize) -> String {
    if step == 1 { String::new() } else { format!(", one in {step}") }
}

/// An empty store to begin with, so that making the directories is not part of what is interrupted.
pub(super) async fn fresh_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    try_open(dir.path(), 0).await.expect("the store opens").close().await;
    dir
}

/// Calls of one thread, of which none is passed over.
const ONE_BY_ONE: usize = 4;

/// Makes the `n`th of these system calls in any thread of the process fail, for the first `n` one by one (a thread that writes content
/// makes only a few) and then each `step`th, until it passes unnoticed. How many there were.
async fn inject(call: &str, fault: &str, step: usize, mut verdict: impl FnMut(&Said)) -> usize {
    let mut n = 1;
    loop {
        let dir = fresh_store().await;
        let log = tempfile::NamedTempFile::new().expect("a file");
        let expression = format!("inject={call}:{fault}:when={n}");
        let child = {
            let log = log.path().to_str().expect("a path in UTF-8");
            let trace = format!("trace={call}");
            start(dir.path(), "once", &["strace", "-f", "-q", "-e", &trace, "-e", &expression, "-o", log])
        };
        let said = tokio::task::spawn_blocking(move || listen(child, usize::MAX)).await.expect("listened");
        let trace = std::fs::read_to_string(log.path()).expect("strace's log");
        let hit = trace.contains("(INJECTED)") || trace.contains("killed by SIGKILL");
        if !hit {
            assert!(n > 1, "{call} is never called");
            assert!(said.end && said.failed.is_empty(), "undisturbed, all goes well: {said:?}");
            assert_eq!((said.stored.len(), said.deleted.len()), (5, 1));
            return n - 1;
        }
        verdict(&said);
        check(dir.path(), &said).await;
        n += if n < ONE_BY_ONE { 1 } else { step };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_step_leaves_a_clean_store() {
    if !strace_works() {
        return;
    }
    let written = scoreboard::number(STEP, STEP_DEFAULT);
    for (call, step) in [("fsync", 1), ("/^rename", 1), ("mkdir", 1), ("unlink", 1), ("pwrite64", written)] {
        let points = inject(call, "signal=KILL", step, |said| assert!(!said.end)).await;
        scoreboard::figure(true, &format!("killed at {points} calls of {call}{}: clean", one_in(step)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_ends_all_writing() {
    if !strace_works() {
        return;
    }
    let points = inject("fsync", "error=EIO", 1, |said| {
        // Nothing failed if it was the last checkpoint, after all answers.
        for failed in &said.failed {
            assert!(failed.contains("read-only true") || failed.contains("to open"), "{failed}");
        }
    });
    scoreboard::figure(true, &format!("EIO at {} calls of fsync: never acknowledged", points.await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_any_step_passes() {
    if !strace_works() {
        return;
    }
    let written = scoreboard::number(STEP, STEP_DEFAULT);
    for (call, step) in [("pwrite64", written), ("mkdir", 1), ("/^rename", 1)] {
        let points = inject(call, "error=ENOSPC", step, |said| {
            assert!(said.failed.iter().all(|failed| !failed.contains("read-only true")), "{said:?}");
            let opened = !said.failed.iter().any(|failed| failed.contains("to open"));
            // It went on once there was room.
            assert!(!opened || (said.stored.len(), said.deleted.len()) == (5, 1), "{said:?}");
        });
        let points = points.await;
        scoreboard::figure(
            true,
            &format!("ENOSPC at {points} calls of {call}{}: refused, then taken", one_in(step)),
        );
    }
}
