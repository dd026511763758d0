//! Questions to a person on the terminal.

use std::io::{BufRead as _, Read as _};

use super::error::{CliError, CliResult};
use super::output::message;

/// Longer answers are none to any question.
const ANSWER_BYTES_MAX: u64 = 1024;

/// What is typed in answer to a question that is safe to show, without blanks around it; empty at the end of the input.
pub(super) fn ask(question: &str) -> CliResult<String> {
    message(question);
    let mut answer = String::new();
    let read = std::io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer);
    read.map_err(|e| CliError::failure(format!("cannot read the answer: {e}")))?;
    Ok(answer.trim().to_owned())
}

/// Whether the answer is yes.
pub(super) fn confirm(question: &str) -> CliResult<bool> {
    Ok(matches!(ask(question)?.as_str(), "y" | "Y" | "yes"))
}
