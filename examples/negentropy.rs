//! Our comparison of sets as the negentropy project's harness drives it: lines on standard input and output.
//!
//! In a checkout of <https://github.com/hoytech/negentropy>, in its directory `test`, give `Utils.pm` a type `can-sync` that stands for
//! `…/target/release/examples/negentropy`, and run `perl fuzz.pl can-sync js`, and with the names the other way round.
//! `FRAMESIZELIMIT` is as for all of them. `tests/it/negentropy.rs` does the same with the `negentropy` crate.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is what the harness reads")]

use std::io::{self, BufRead as _, Write as _};
use std::process::ExitCode;

#[path = "../tests/support/negentropy_lines.rs"]
mod negentropy_lines;

fn main() -> io::Result<ExitCode> {
    let limit = std::env::var("FRAMESIZELIMIT").ok().and_then(|limit| limit.parse().ok());
    let mut lines = negentropy_lines::EngineLines::new(limit.unwrap_or(0));
    for line in io::stdin().lock().lines() {
        match lines.take(&line?) {
            Ok(answers) => {
                let mut out = io::stdout().lock();
                answers.iter().try_for_each(|answer| writeln!(out, "{answer}"))?;
                out.flush()?;
            }
            Err(problem) => {
                eprintln!("{problem}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
