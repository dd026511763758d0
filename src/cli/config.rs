//! `can-sync config`: whether a file is good, and what applies.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::{Context, text};
use crate::config::{ConfigError, ConfigErrors, Loaded, LoadedSetting};
use crate::identity::exposure;
use crate::node::preflight::{self, SettingProblem};

#[derive(clap::Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    action: ConfigCommand,
}

#[derive(clap::Subcommand, Debug)]
enum ConfigCommand {
    /// Check a configuration and say what is wrong with it
    Check {
        /// The file; without it, the one that `serve` would read
        file: Option<PathBuf>,
    },
    /// Show every setting, its value, and where that comes from; secrets stay hidden
    Show {
        /// The file; without it, the one that `serve` would read
        file: Option<PathBuf>,
    },
}

pub(super) fn run(context: &Context, args: ConfigArgs) -> CliResult {
    if context.names_another_node() {
        return Err(CliError::new(Exit::NotAllowed, "no node tells another machine its configuration").hint(
            "run `can-sync config` on that machine; without --api (CAN_SYNC_API) it is about this one",
        ));
    }
    match args.action {
        ConfigCommand::Check { file } => {
            let (loaded, errors) = context.read_config(file, Vec::new());
            check(context, &loaded, &errors)
        }
        ConfigCommand::Show { file } => show(context, &context.load_config(file, Vec::new())?),
    }
}

/// Everything that a start would refuse, all at once.
fn check(context: &Context, loaded: &Loaded, errors: &[ConfigError]) -> CliResult {
    let path = loaded.path.as_ref().map(|path| path.display().to_string());
    let settings: Vec<String> = loaded.origins.keys().cloned().collect();
    let examined = examine(loaded, errors);
    if context.out.json {
        let malformed = errors.iter().map(|e| json!({ "setting": e.key(), "problem": e.to_string() }));
        let refused =
            examined.as_ref().err().into_iter().flatten().map(
                |p| json!({ "setting": p.setting, "origin": p.origin.to_string(), "problem": p.problem }),
            );
        let found: Vec<Value> = malformed.chain(refused).collect();
        let ok = found.is_empty();
        context.out.value(&json!({ "ok": ok, "path": path, "set": settings, "problems": found }))?;
        return if ok { Ok(()) } else { Err(CliError::said(Exit::Failure)) };
    }
    let remarks = sentences(errors, examined)?;
    for remark in remarks.into_iter().chain(open_file(loaded)) {
        message(&format!("warning: {}", text::escape(&remark)));
    }
    let what = path.unwrap_or_else(|| "no configuration file, and so the defaults".to_owned());
    Ok(context.out.line(&format!("{}: ok, {} set", text::escape(&what), settings.len()))?)
}

/// That others can read or change a configuration file with secrets in it.
fn open_file(loaded: &Loaded) -> Option<String> {
    let path = loaded.path.as_ref()?;
    let secret = loaded.secret_in_file()?;
    Some(format!("{secret}: {}", exposure(path)?))
}

/// What a start would refuse besides what is no configuration at all.
fn examine(loaded: &Loaded, errors: &[ConfigError]) -> Result<Vec<String>, Vec<SettingProblem>> {
    let is_wrong = |key: &str| errors.iter().any(|error| error.key() == Some(key));
    // Another directory than the one that was meant says nothing.
    if is_wrong("data_dir") {
        return Ok(Vec::new());
    }
    preflight::examine(&loaded.config, &loaded.origins).or_else(|mut problems| {
        problems.retain(|problem| !is_wrong(problem.setting));
        if problems.is_empty() { Ok(Vec::new()) } else { Err(problems) }
    })
}

/// All of it as one error, if anything is wrong; otherwise what somebody should know.
fn sentences(
    errors: &[ConfigError],
    examined: Result<Vec<String>, Vec<SettingProblem>>,
) -> CliResult<Vec<String>> {
    let (remarks, problems) = match examined {
        Ok(remarks) => (remarks, Vec::new()),
        Err(problems) => (Vec::new(), problems),
    };
    let refused = problems.iter().map(ToString::to_string);
    let all: Vec<String> = errors.iter().map(ToString::to_string).chain(refused).collect();
    if all.is_empty() { Ok(remarks) } else { Err(CliError::several(&all)) }
}

/// The error of a start with a configuration that cannot be used: everything that is wrong, as `config check` says it.
pub(super) fn refusal(loaded: &Loaded, errors: Vec<ConfigError>) -> CliError {
    match sentences(&errors, examine(loaded, &errors)) {
        Err(error) if !errors.iter().all(ConfigError::is_usage) => error,
        Ok(_) | Err(_) => ConfigErrors(errors).into(),
    }
}

fn show(context: &Context, loaded: &Loaded) -> CliResult {
    let settings = loaded.settings();
    if context.out.json {
        let entry = |s: LoadedSetting| (s.key, json!({ "value": s.value, "origin": s.origin.to_string() }));
        let settings: Map<String, Value> = settings.into_iter().map(entry).collect();
        let path = loaded.path.as_ref().map(|path| path.display().to_string());
        return Ok(context.out.value(&json!({ "path": path, "settings": settings }))?);
    }
    let row = |s: LoadedSetting| {
        let value = s.value.as_str().map_or_else(|| s.value.to_string(), str::to_owned);
        vec![s.key, value, s.origin.to_string()]
    };
    let rows: Vec<_> = settings.into_iter().map(row).collect();
    Ok(context.out.table(Some(&["SETTING", "VALUE", "FROM"]), &rows)?)
}
