//! `can-sync repl`: the commands one after the other, without the program's name before each.
//!
//! On a terminal with history and completion; from a pipe line by line and without a prompt. A command that fails is told of
//! and does not end it; from a pipe, the exit code is that of the first that failed.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Editor};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::error::{CliError, CliResult, Exit};
use super::output::{Output, message};
use super::{Cli, Command, Context, Globals, dispatch, text};
use crate::identity;
use complete::Completion;

mod complete;
mod words;

const PROMPT: &str = "can-sync> ";
const AFTER_HELP: &str =
    "help [COMMAND] says more, exit or quit ends, and an empty line or one that begins with # does nothing.";
const HISTORY_MAX: usize = 1000;
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// What is typed with this is not remembered.
const SECRET_FLAG: &str = "--topic-secret";

#[derive(Debug)]
enum ReplLine {
    Nothing,
    End,
    Help(Vec<String>),
    Command(Vec<String>),
}

/// Runs until `exit`, the end of stdin, or a stdin that cannot be read.
pub(super) async fn run(context: &Context) -> CliResult {
    let terminal = io::stdin().is_terminal();
    if terminal {
        let version = env!("CARGO_PKG_VERSION");
        message(&format!("can-sync {version}; help lists the commands, exit ends"));
    }
    if daemon_is_away(context).await {
        message("no daemon running: commands that need one will say so, the others work");
    }
    let mut input = if terminal { LineSource::terminal()? } else { LineSource::Pipe };
    let mut failed = None;
    loop {
        let (returned, line) = spawn_blocking(move || input.read())
            .await
            .map_err(|e| CliError::failure(format!("cannot read stdin: {e}")))?;
        input = returned;
        let Some(line) = line? else { break };
        let done = match understand(&line) {
            Ok(ReplLine::Nothing) => Ok(()),
            Ok(ReplLine::End) => break,
            Ok(ReplLine::Help(of)) => {
                help(of);
                Ok(())
            }
            Ok(ReplLine::Command(words)) => execute(context, words, terminal).await,
            Err(problem) => {
                message(&problem);
                Err(Exit::Usage)
            }
        };
        failed = failed.or(done.err());
    }
    // A person has seen it; a script goes by the exit code.
    match failed {
        Some(exit) if !terminal => Err(CliError::said(exit)),
        Some(_) | None => Ok(()),
    }
}

async fn daemon_is_away(context: &Context) -> bool {
    let agent = match context.agent() {
        Ok(agent) => agent,
        Err(error) => return error.exit() == Exit::NoDaemon,
    };
    let alive: Result<Value, _> = agent.get("/healthz", &[]).await;
    alive.is_err_and(|error| error.exit() == Exit::NoDaemon)
}

fn understand(line: &str) -> Result<ReplLine, String> {
    let mut words = words::split(line)?;
    if line.trim_start().starts_with('#') {
        return Ok(ReplLine::Nothing);
    }
    Ok(match words.first().map(String::as_str) {
        None => ReplLine::Nothing,
        Some("exit" | "quit") if words.len() == 1 => ReplLine::End,
        Some("help") => ReplLine::Help(words.split_off(1)),
        Some(_) => ReplLine::Command(words),
    })
}

fn commands() -> clap::Command {
    Cli::command().no_binary_name(true).bin_name("").after_help(AFTER_HELP)
}

fn help(mut of: Vec<String>) {
    of.push("--help".to_owned());
    if let Err(shown) = commands().try_get_matches_from(of) {
        // A closed pipe is no reason to end.
        let _ = shown.print();
    }
}

/// Runs one command; how it failed, once that was said.
async fn execute(context: &Context, words: Vec<String>, terminal: bool) -> Result<(), Exit> {
    let parsed = commands().try_get_matches_from(words).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((matches, cli))
    });
    let (matches, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // As above.
            let _ = error.print();
            return if error.use_stderr() { Err(Exit::Usage) } else { Ok(()) };
        }
    };
    let Cli { globals, command } = cli;
    if matches!(command, Command::Repl) {
        message("this is the repl already");
        return Err(Exit::Usage);
    }
    // A node ends by itself when it is told to.
    let interruptible = terminal && !matches!(command, Command::Serve(_) | Command::Demo);
    let globals = over(&context.globals, globals, &matches);
    let context = Context { out: Output::new(globals.json), globals };
    let work = Box::pin(dispatch(command, &context));
    let done = if interruptible {
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => Err(CliError::failure("interrupted")),
        }
    } else {
        work.await
    };
    let Err(error) = done else { return Ok(()) };
    if error.exit() == Exit::NoDaemon {
        message(&format!("no daemon running: {error}"));
    } else {
        // Has been printed; its code would be that of a process.
        let _ = error.report();
    }
    Err(error.exit())
}

/// What was given with the line, over what the repl was started with.
fn over(outer: &Globals, line: Globals, matches: &ArgMatches) -> Globals {
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    Globals {
        json: outer.json || line.json,
        api: if typed("api") { line.api } else { outer.api.clone() },
        config: if typed("config") { line.config } else { outer.config.clone() },
        verbose: outer.verbose,
    }
}

enum LineSource {
    Pipe,
    Terminal { editor: Box<Editor<Completion, FileHistory>>, history: Option<PathBuf> },
}

impl LineSource {
    fn terminal() -> CliResult<Self> {
        let failed = |e: ReadlineError| CliError::failure(format!("cannot use the terminal: {e}"));
        let config = rustyline::Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .auto_add_history(false);
        let config = config.max_history_size(HISTORY_MAX).map_err(failed)?.build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Completion::new(commands())));
        let history = history_file();
        if let Some(path) = &history {
            // There is none the first time.
            let _ = editor.load_history(path);
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    /// The next line; `None` at the end. Blocks.
    fn read(mut self) -> (Self, CliResult<Option<String>>) {
        let line = match &mut self {
            Self::Pipe => from_pipe(),
            Self::Terminal { editor, history } => from_terminal(editor, history.as_deref()),
        };
        (self, line)
    }
}

fn from_pipe() -> CliResult<Option<String>> {
    let mut line = String::new();
    let read = io::stdin().lock().take(LINE_BYTES_MAX).read_line(&mut line);
    match read {
        Ok(0) => Ok(None),
        Ok(read) if read as u64 == LINE_BYTES_MAX && !line.ends_with('\n') => {
            Err(CliError::failure(format!("a line has more than {}", text::bytes(LINE_BYTES_MAX))))
        }
        Ok(_) => Ok(Some(line)),
        Err(error) => Err(CliError::failure(format!("cannot read stdin: {error}"))),
    }
}

fn from_terminal(
    editor: &mut Editor<Completion, FileHistory>,
    history: Option<&std::path::Path>,
) -> CliResult<Option<String>> {
    match editor.readline(PROMPT) {
        Ok(line) => {
            let worth = !line.trim().is_empty() && !line.contains(SECRET_FLAG);
            let added = worth && editor.add_history_entry(line.as_str()).unwrap_or(false);
            if let Some(path) = history.filter(|_| added) {
                // A history that cannot be kept is no reason to end.
                let _ = editor.append_history(path);
            }
            Ok(Some(line))
        }
        // Ctrl-C throws the line away.
        Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
        Err(ReadlineError::Eof) => Ok(None),
        Err(error) => Err(CliError::failure(format!("cannot read from the terminal: {error}"))),
    }
}

/// In the user's directory for such things, made if it is not there.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let dir = state.join("can-sync");
    identity::private_dir(&dir).ok()?;
    Some(dir.join("history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert!(matches!(understand(""), Ok(ReplLine::Nothing)));
        assert!(matches!(understand("  # it's a remark"), Ok(ReplLine::Nothing)));
        assert!(matches!(understand("exit"), Ok(ReplLine::End)));
        assert!(matches!(understand(" quit "), Ok(ReplLine::End)));
        assert!(matches!(understand("help peers"), Ok(ReplLine::Help(of)) if of == ["peers"]));
        assert!(matches!(understand("put 'a b'"), Ok(ReplLine::Command(words)) if words == ["put", "a b"]));
        assert!(understand("put 'a").is_err());
    }

    #[test]
    fn what_the_repl_was_started_with_lies_under_the_line() {
        let outer = Globals { json: false, api: Some("http://outer".into()), config: None, verbose: 1 };
        let merged = |line: &[&str]| {
            let matches = commands().try_get_matches_from(line).unwrap();
            let cli = Cli::from_arg_matches(&matches).unwrap();
            over(&outer, cli.globals, &matches)
        };
        assert_eq!(merged(&["status"]).api.as_deref(), Some("http://outer"));
        let typed = merged(&["status", "--json", "--api", "http://typed"]);
        assert_eq!((typed.api.as_deref(), typed.json), (Some("http://typed"), true));
    }
}
