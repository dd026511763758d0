//! A program under measurement: killed when dropped, and what the kernel says of its memory and time.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use super::Result;

/// For a program to say where it is, and to end when it is asked to.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// What `/proc` counts time in, on all architectures that matter.
const TICK: Duration = Duration::from_millis(10);

/// A running program.
pub(crate) struct Process {
    child: Child,
    /// When it was started.
    pub(crate) began: Instant,
    line: Option<oneshot::Receiver<(std::io::Result<String>, Instant)>>,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let began = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let (send, line) = oneshot::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line).map(|_| line);
            // Whoever started it may not want to know any more.
            let _ = send.send((read, Instant::now()));
        });
        Ok(Self { child, began, line: Some(line) })
    }

    /// The first line of its standard output, and how long after its start it came.
    pub(crate) async fn first_line(&mut self) -> Result<(String, Duration)> {
        let line = self.line.take().ok_or("it was read before")?;
        let (line, at) = tokio::time::timeout(ANSWER_WITHIN, line).await??;
        Ok((line?, at.duration_since(self.began)))
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        super::eventually("the end of the process", ANSWER_WITHIN, async || Ok(self.child.try_wait()?))
            .await?;
        Ok(())
    }

    /// Waits until it ends by itself, as it should: how long it ran.
    pub(crate) async fn ended_well(mut self, limit: Duration) -> Result<Duration> {
        let ended = super::eventually("the end of the process", limit, async || Ok(self.child.try_wait()?));
        let status = ended.await?;
        if status.success() {
            Ok(self.began.elapsed())
        } else {
            Err(format!("it ended with {status}").into())
        }
    }

    /// Bytes of memory; see [`memory`].
    pub(crate) fn memory(&self, field: &str) -> Result<u64> {
        memory(&self.child.id().to_string(), field)
    }

    /// Bytes that it asked the system for since it started, of files and sockets alike.
    pub(crate) fn read(&self) -> Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        Ok(read.ok_or("no such field")?.trim().parse()?)
    }

    /// Begins to count `VmHWM` anew.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    /// Time on a core since it started, in user and kernel mode, all threads together.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the program, in brackets, may have spaces; the fields behind it are counted from the third.
        let (_, fields) = stat.rsplit_once(')').ok_or("no name")?;
        let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
        let mut next = || times.next().ok_or("too few fields");
        let ticks = next()?? + next()??;
        Ok(TICK * ticks)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes as `/proc/PID/status` has them under `field`: `VmRSS` resident now, `VmHWM` at most.
pub(crate) fn memory(pid: &str, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: u64 = line.ok_or("no such field")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
