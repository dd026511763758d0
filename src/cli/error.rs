//! How a command fails: an exit code, a sentence, and what to do.

use std::fmt;
use std::io;
use std::process::ExitCode;

use super::{output, text};
use crate::config::ConfigErrors;
use crate::identity::IdentityError;

/// Exit codes other than 0; part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    NoDaemon = 3,
    /// The daemon runs, but not as it should.
    Degraded = 4,
    NotAllowed = 5,
    NotFound = 6,
    Timeout = 7,
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        self as u8
    }
}

pub(super) type CliResult<T = ()> = Result<T, CliError>;

#[derive(Debug)]
pub(super) struct CliError {
    exit: Exit,
    /// Empty where everything has been said already.
    message: String,
    hint: Option<String>,
    /// What a service calls it, for programs.
    code: Option<String>,
    /// What else is wrong.
    also: Vec<String>,
    /// Nobody reads our output any more: no failure of ours.
    closed: bool,
}

impl CliError {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, code: None, also: Vec::new(), closed: false }
    }

    pub(super) fn failure(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// With exit code 1, and everything that is wrong.
    pub(super) fn several(messages: &[String]) -> Self {
        let (first, also) =
            messages.split_first().map_or(("", &[][..]), |(first, also)| (first.as_str(), also));
        Self { also: also.to_vec(), ..Self::failure(first) }
    }

    /// Everything has been said already.
    pub(super) fn said(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the service that refused calls it.
    pub(super) fn with_code(mut self, code: Option<String>) -> Self {
        self.code = code;
        self
    }

    /// Whether a service refused with this code.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints the error and turns it into the process's exit code.
    pub(super) fn report(&self) -> ExitCode {
        if self.closed {
            return ExitCode::SUCCESS;
        }
        if !self.message.is_empty() {
            output::message(&format!("can-sync: {self}"));
        }
        for more in &self.also {
            output::message(&format!("can-sync: {}", text::escape(more)));
        }
        ExitCode::from(self.exit.code())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::escape(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  {}", text::escape(hint))?;
        }
        Ok(())
    }
}

/// Does on another thread what blocks.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> CliResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CliError::failure(error.to_string()))
}

/// Writing to stdout failed.
impl From<io::Error> for CliError {
    fn from(e: io::Error) -> Self {
        let closed = e.kind() == io::ErrorKind::BrokenPipe;
        Self { closed, ..Self::failure(format!("cannot write the output: {e}")) }
    }
}

impl From<ConfigErrors> for CliError {
    fn from(e: ConfigErrors) -> Self {
        let exit = if e.is_usage() { Exit::Usage } else { Exit::Failure };
        let sentences: Vec<String> = e.0.iter().map(ToString::to_string).collect();
        Self { exit, ..Self::several(&sentences) }
    }
}

impl From<IdentityError> for CliError {
    fn from(e: IdentityError) -> Self {
        Self::failure(e.to_string())
    }
}
