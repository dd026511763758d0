//! How a program ends when it is told to: in order at the first signal, at once at the second.
//!
//! The second one is waited for on a thread and a runtime of its own, so that it works whatever the program is busy with: a
//! start, a store that hangs, or the very end of an ordered stop.

use std::io;
use std::process;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::message;

/// For whatever else heard of the second signal to end the program in its own words.
const GRACE: Duration = Duration::from_millis(400);

/// The signals that ask for an end, from the moment this is made.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes over both signals. Needs a runtime.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one, by its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "asked to terminate (SIGTERM)",
            _ = self.interrupt.recv() => "interrupted (SIGINT)",
        }
    }
}

/// Ends the process at the second signal that asks for it, with this exit code, if nothing else has ended it by then.
pub(super) fn at_once_when_asked_again(exit_code: i32) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        StopSignals::install()?
    };
    let wait = move || {
        runtime.block_on(async {
            signals.next().await;
            let reason = signals.next().await;
            tokio::time::sleep(GRACE).await;
            message(&format!("stopped at once: {reason} again"));
            crate::stderr::flush();
            process::exit(exit_code);
        });
    };
    std::thread::Builder::new().name("second-signal".to_owned()).spawn(wait).map(drop)
}
