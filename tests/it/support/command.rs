//! The real program in a directory and an environment of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::nodes::DEADLINE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A machine's user: an empty home, which is also the working directory.
pub(crate) struct User {
    home: TempDir,
    /// The network namespace in which its programs run.
    network: Option<String>,
    /// Whom programs that go on run as; as the tests, if it is missing.
    uid: Option<u32>,
}

/// Who may nothing that is not everybody's.
const NOBODY: u32 = 65_534;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("stdout is UTF-8")
    }

    /// One value per line.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

impl User {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a temporary directory"), network: None, uid: None }
    }

    /// One who may not read everything.
    pub(crate) fn unprivileged() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self { uid: is_root.then_some(NOBODY), ..Self::new() }
    }

    /// Makes what lies in the home its user's.
    pub(crate) fn give_all(&self) {
        let Some(uid) = self.uid else { return };
        for entry in walkdir::WalkDir::new(self.home()) {
            std::os::unix::fs::lchown(entry.expect("an entry").path(), Some(uid), Some(uid))
                .expect("it is given");
        }
    }

    /// One whose programs run in this network namespace.
    pub(crate) fn within(network: &str) -> Self {
        Self { network: Some(network.to_owned()), ..Self::new() }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file into the home directory.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect("a file");
    }

    /// Starts a program of which nobody hears anything.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }

    /// A command that sees nothing of the environment in which the tests run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = command(self.home(), self.network.as_deref(), args);
        if let Some(uid) = self.uid {
            self.give_all();
            std::os::unix::process::CommandExt::uid(&mut command, uid);
            std::os::unix::process::CommandExt::gid(&mut command, uid);
        }
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[], b"")
    }

    /// Runs a command with further environment variables and something on stdin.
    pub(crate) fn run_with(&self, args: &[&str], env: &[(&str, &str)], stdin: &[u8]) -> Ran {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self::run_command(self.network.as_deref(), self.home(), &args, env, stdin)
    }

    /// As [`User::run_with`], for whoever runs it on another thread.
    pub(crate) fn at(home: &Path, args: &[String], env: &[(&str, &str)], stdin: &[u8]) -> Ran {
        Self::run_command(None, home, args, env, stdin)
    }

    fn run_command(
        network: Option<&str>,
        home: &Path,
        args: &[String],
        env: &[(&str, &str)],
        stdin: &[u8],
    ) -> Ran {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut command = command(home, network, &args);
        command.envs(env.iter().copied());
        let output = assert_cmd::Command::from_std(command)
            .write_stdin(stdin)
            .timeout(DEADLINE)
            .output()
            .expect("the program runs and ends in time");
        let code = output.status.code().expect("ended by itself, not by a signal");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ran { code, stdout: output.stdout, stderr }
    }
}

fn command(home: &Path, network: Option<&str>, args: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_can-sync");
    let mut command = match network {
        None => Command::new(program),
        Some(network) => {
            let mut command = Command::new("/usr/sbin/ip");
            command.args(["netns", "exec", network, program]);
            command
        }
    };
    command.args(args).current_dir(home).env_clear().env("HOME", home);
    command
}

/// A command that goes on, whose output is read as it comes. Killed when dropped.
pub(crate) struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl User {
    /// Starts a command that goes on.
    pub(crate) fn follow(&self, args: &[&str]) -> Following {
        self.follow_with(args, &[])
    }

    /// As [`User::follow`], with further environment variables.
    pub(crate) fn follow_with(&self, args: &[&str], env: &[(&str, &str)]) -> Following {
        let mut command = self.command(args);
        command.envs(env.iter().copied());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::sync_channel(16);
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Following { child, lines }
    }
}

impl Following {
    /// The next line.
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("another line in time")
    }

    /// All further lines, up to its end.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return rest,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the output does not end: {rest:?}"),
            }
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Waits for the end, and returns the exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let rest = self.lines.recv_timeout(DEADLINE);
        assert_eq!(rest, Err(mpsc::RecvTimeoutError::Disconnected), "the output ends in time");
        self.child.wait().expect("the program's end").code()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so, or the process has ended, and kills it; whether it still ran.
pub(crate) fn kill_when(child: &mut Child, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() && child.try_wait().expect("its status").is_none() {
        assert!(Instant::now() < deadline, "nothing happens");
        std::thread::sleep(Duration::from_micros(200));
    }
    let ran = child.try_wait().expect("its status").is_none();
    child.kill().expect("it can be killed");
    child.wait().expect("its end");
    ran
}

/// On a directory that was restored in part no node starts, and says so.
pub(crate) fn starts_no_node(user: &User) {
    let ran = user.run(&["serve"]);
    assert!(ran.code == 1 && ran.stderr.contains("not completely restored"), "{}", ran.stderr);
}
