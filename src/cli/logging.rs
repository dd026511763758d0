//! Logs on stderr. A program that serves writes them through [`crate::stderr`], which waits for no reader.

use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::output;
use crate::stderr::{self, Stderr};

/// Lines of dependencies that tell users of no problem: iroh logs every orderly end of its relay client as an error, gossip
/// warns of every peer that is away, multicast DNS of every interface that takes none, and pkarr of each request that
/// fails, which the state of the channel tells once.
const NOISE: &str = "iroh::socket::transports::relay=off,iroh_gossip=error,swarm_discovery=off,pkarr=error";

/// Starts logging: `RUST_LOG` decides, else `-v`, else a serving node says what it does and other commands only what
/// goes wrong.
pub(super) fn start(verbose: u8, serves: bool) {
    let default = match (verbose, serves) {
        (0, false) => format!("warn,{NOISE}"),
        (0, true) => format!("warn,can_sync=info,{NOISE}"),
        (1, _) => format!("warn,can_sync=debug,{NOISE}"),
        _ => "info,can_sync=trace".to_owned(),
    };
    let filter = std::env::var("RUST_LOG").ok().filter(|spec| !spec.is_empty());
    let filter = filter.as_deref().map_or_else(|| EnvFilter::new(default), EnvFilter::new);
    if serves {
        wait_for_no_reader();
    }
    subscribe(filter, verbose > 0);
}

/// A program that serves goes on whether or not anybody reads its stderr.
pub(super) fn wait_for_no_reader() {
    if let Err(error) = stderr::start() {
        output::message(&format!(
            "warning: stderr is written directly, and a reader that hangs will be waited for: {error}"
        ));
    }
}

/// Writes what passes the filter to stderr. A stderr that is gone (a closed terminal, a reader that ended) loses the
/// lines: left to itself, the subscriber would say so on stderr, and panic.
pub(super) fn subscribe(filter: EnvFilter, with_target: bool) {
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Ignoring the error: it says that someone logs already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Stderr)
        .log_internal_errors(false)
        .with_ansi(colour)
        .with_target(with_target)
        .with_timer(LogTime { terminal })
        .try_init();
}

/// The local time of day for someone who looks on, the whole instant for a file.
struct LogTime {
    terminal: bool,
}

impl FormatTime for LogTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        if self.terminal {
            write!(out, "{}", jiff::ZonedDateTime::now().strftime("%H:%M:%S"))
        } else {
            write!(out, "{:.3}", jiff::Timestamp::now())
        }
    }
}
