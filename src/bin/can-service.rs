//! The CAN Service alone. See `can-service --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    can_sync::cli::can_service::main()
}
