//! The agent and its command line.

fn main() -> std::process::ExitCode {
    can_sync::cli::run(std::env::args_os().collect())
}
