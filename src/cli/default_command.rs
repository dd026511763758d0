//! `can-sync my-config.yaml` means `can-sync serve my-config.yaml`.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, Command};

use super::error::{CliError, CliResult, Exit};

/// Inserts `serve` into a command line that names no command. `args` begin with the program's name.
///
/// # Errors
/// If the first word is neither a command nor what could be a configuration file.
pub(super) fn insert(mut args: Vec<OsString>, cli: &Command) -> CliResult<Vec<OsString>> {
    let mut index = 1;
    while let Some(arg) = args.get(index) {
        let text = arg.to_string_lossy();
        if matches!(&*text, "-h" | "--help" | "-V" | "--version") {
            return Ok(args);
        }
        if let Some(option) = global_option(cli, &text) {
            let takes_next = option.get_action().takes_values() && !text.contains('=');
            index += if takes_next { 2 } else { 1 };
            continue;
        }
        if text.starts_with('-') {
            break;
        }
        if cli.find_subcommand(&*text).is_some() {
            return Ok(args);
        }
        if !could_be_file(&text) {
            return Err(unknown_command(&text, cli));
        }
        break;
    }
    args.insert(1.min(args.len()), OsString::from("serve"));
    Ok(args)
}

/// The global option that an argument is, if it is one.
fn global_option<'a>(cli: &'a Command, text: &str) -> Option<&'a Arg> {
    let long = text.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or(rest));
    let short = text.strip_prefix('-').and_then(|rest| rest.chars().next());
    cli.get_arguments().filter(|arg| arg.is_global_set()).find(|arg| match long {
        Some(long) => arg.get_long() == Some(long),
        None => short.is_some() && arg.get_short() == short,
    })
}

/// A name with a dot or a separator was meant as a file, whether it exists or not; any other only if it does.
fn could_be_file(text: &str) -> bool {
    text.contains(['.', '/', std::path::MAIN_SEPARATOR]) || Path::new(text).exists()
}

fn unknown_command(text: &str, cli: &Command) -> CliError {
    let names = cli.get_subcommands().map(Command::get_name);
    let likeness = |name: &str| strsim::jaro_winkler(name, &text.to_lowercase());
    let nearest = names.map(|name| (likeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    let shown = super::text::escape(text);
    let message = format!("there is no command '{shown}', and no file of that name to serve with");
    CliError::new(Exit::Usage, message).hint(match nearest {
        Some((likeness, name)) if likeness >= 0.8 => format!("did you mean `can-sync {name}`?"),
        Some(_) | None => "`can-sync --help` lists the commands".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn inserted(line: &str) -> CliResult<String> {
        let args = std::iter::once("can-sync").chain(line.split_whitespace()).map(OsString::from).collect();
        let args = insert(args, &super::super::Cli::command())?;
        let words: Vec<String> = args[1..].iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn serve_is_inserted_where_no_command_is_named() {
        for (line, expected) in [
            ("", "serve"),
            ("my-config.yaml", "serve my-config.yaml"),
            ("/etc/can-sync", "serve /etc/can-sync"),
            ("Cargo.toml", "serve Cargo.toml"),
            ("src", "serve src"),
            ("--name status", "serve --name status"),
            ("--json my.yaml", "serve --json my.yaml"),
            ("--config status", "serve --config status"),
            ("--wat", "serve --wat"),
        ] {
            assert_eq!(inserted(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn commands_help_and_version_stay() {
        for line in [
            "status",
            "--json status",
            "--api http://a status",
            "--api=http://a -vv status",
            "--help",
            "-V",
            "--json --help",
            "serve x.yaml",
        ] {
            assert_eq!(inserted(line).unwrap(), line);
        }
    }

    #[test]
    fn a_mistyped_command_is_not_taken_for_a_file() {
        let error = inserted("statsu").unwrap_err().to_string();
        assert!(error.contains("no command 'statsu'") && error.contains("can-sync status"), "{error}");
        let error = inserted("frobnicate").unwrap_err().to_string();
        assert!(error.contains("can-sync --help"), "{error}");
    }
}
