//! `can-sync config`: whether a file is good, and what applies.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::error::{CliError, Exit};
use super::output::message;
use super::{Context, text};
use crate::config::{Loaded, LoadedSetting};
use crate::node::secrets::{GivenSecrets, SecretProblem};

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

pub(super) fn run(context: &Context, args: ConfigArgs) -> Result<(), CliError> {
    match args.action {
        ConfigCommand::Check { file } => check(context, &context.load_config(file, Vec::new())?),
        ConfigCommand::Show { file } => show(context, &context.load_config(file, Vec::new())?),
    }
}

/// Whatever a start would refuse of the settings and of the secrets that they name, all at once.
fn check(context: &Context, loaded: &Loaded) -> Result<(), CliError> {
    let path = loaded.path.as_ref().map(|path| path.display().to_string());
    let settings: Vec<String> = loaded.origins.keys().cloned().collect();
    let problems = match GivenSecrets::look(&loaded.config, &loaded.origins) {
        Ok(given) => {
            given.remarks.iter().for_each(|remark| message(&format!("warning: {}", text::escape(remark))));
            Vec::new()
        }
        Err(problems) => problems,
    };
    if context.out.json {
        let problem = |p: &SecretProblem| json!({ "setting": p.setting, "origin": p.origin.to_string(), "problem": p.problem });
        let found: Vec<Value> = problems.iter().map(problem).collect();
        let ok = found.is_empty();
        context.out.value(&json!({ "ok": ok, "path": path, "set": settings, "problems": found }))?;
        return if ok { Ok(()) } else { Err(CliError::said(Exit::Failure)) };
    }
    if !problems.is_empty() {
        let sentences: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(CliError::several(&sentences));
    }
    let what = path.unwrap_or_else(|| "no configuration file, and so the defaults".to_owned());
    Ok(context.out.line(&format!("{}: ok, {} set", text::escape(&what), settings.len()))?)
}

fn show(context: &Context, loaded: &Loaded) -> Result<(), CliError> {
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
