//! Logs on stderr.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Starts logging: `RUST_LOG` decides, else `-v`, else a serving node says what it does and other commands only what
/// goes wrong.
pub(super) fn start(verbose: u8, serves: bool) {
    let default = match (verbose, serves) {
        (0, false) => "warn",
        (0, true) => "warn,can_sync=info",
        (1, _) => "warn,can_sync=debug",
        _ => "info,can_sync=trace",
    };
    let filter = std::env::var("RUST_LOG").ok().filter(|spec| !spec.is_empty());
    let filter = filter.as_deref().map_or_else(|| EnvFilter::new(default), EnvFilter::new);
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Ignoring the error: it says that someone logs already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(verbose > 0)
        .try_init();
}
