//! Completes commands, flags, fixed values and file names, from what clap knows of them.

use clap::{Arg, Command, ValueHint};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};

/// Besides the commands of the program.
const OWN: [&str; 3] = ["exit", "help", "quit"];

#[derive(Helper, Highlighter, Hinter, Validator)]
pub(super) struct Completion {
    commands: Command,
    files: FilenameCompleter,
}

/// What can stand at one place of a line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Completions {
    words: Vec<String>,
    files: bool,
}

impl Completion {
    pub(super) fn new(mut commands: Command) -> Self {
        // Has every command know the global options.
        commands.build();
        Self { commands, files: FilenameCompleter::new() }
    }

    fn choice(&self, before: &str, partial: &str) -> Completions {
        let mut words = before.split_whitespace().peekable();
        words.next_if_eq(&"help");
        let mut command = &self.commands;
        let mut last = None;
        for word in words {
            match command.find_subcommand(word) {
                Some(sub) => (command, last) = (sub, None),
                None => last = Some(word),
            }
        }
        // `--flag=value` is left to the person who types it.
        let of_flag = last.and_then(|word| word.strip_prefix("--")).and_then(|name| flag(command, name));
        if let Some(flag) = of_flag.filter(|flag| flag.get_action().takes_values()) {
            return values(flag);
        }
        if partial.starts_with('-') {
            let long = command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long);
            return Completions { words: long.map(|name| format!("--{name}")).collect(), files: false };
        }
        let mut choice =
            command.get_positionals().map(values).fold(Completions::default(), |mut all, values| {
                all.words.extend(values.words);
                all.files |= values.files;
                all
            });
        choice.words.extend(command.get_subcommands().map(|sub| sub.get_name().to_owned()));
        if before.trim().is_empty() {
            choice.words.extend(OWN.map(str::to_owned));
        }
        choice
    }
}

fn flag<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(name))
}

fn values(arg: &Arg) -> Completions {
    let values = arg.get_possible_values();
    let shown = values.iter().filter(|value| !value.is_hide_set());
    let words = shown.map(|value| value.get_name().to_owned()).collect();
    let files = matches!(arg.get_value_hint(), ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath);
    Completions { words, files }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        let start = typed.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let partial = &typed[start..];
        let Completions { mut words, files } = self.choice(&typed[..start], partial);
        if files && !partial.starts_with('-') {
            return self.files.complete(line, pos, context);
        }
        words.retain(|word| word.starts_with(partial));
        words.sort();
        words.dedup();
        let pair = |word: String| Pair { replacement: format!("{word} "), display: word };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use rustyline::history::DefaultHistory;

    use super::*;

    fn completed(line: &str) -> Vec<String> {
        let completion = Completion::new(super::super::commands());
        let history = DefaultHistory::new();
        let (start, pairs) = completion.complete(line, line.len(), &Context::new(&history)).unwrap();
        pairs.into_iter().map(|pair| format!("{}{}", &line[..start], pair.replacement)).collect()
    }

    #[test]
    fn commands_flags_and_values_are_completed() {
        assert_eq!(completed("stat"), ["status "]);
        assert_eq!(completed("peers a"), ["peers add "]);
        assert_eq!(completed("peers --max"), ["peers --max-peers "]);
        assert_eq!(completed("peers --j"), ["peers --json "], "global options too");
        assert_eq!(completed("completions ba"), ["completions bash "]);
        assert_eq!(completed("help stat"), ["help status "]);
        assert_eq!(completed("q"), ["quit "]);
        assert!(completed("status q").is_empty());
        assert!(completed("frobnicate").is_empty());
        let all = completed("");
        assert!(all.contains(&"put ".to_owned()) && all.contains(&"exit ".to_owned()));
    }

    #[test]
    fn files_are_completed_where_files_are_meant() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("picture.png"), "x").unwrap();
        let path = format!("{}/pic", dir.path().display());
        assert_eq!(completed(&format!("put {path}")), [format!("put {path}ture.png")]);
        assert!(completed(&format!("search {path}")).is_empty());
    }
}
