//! Where settings come from, and which source wins.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::file::lay_file;
use super::setting::Laid;
use super::{BrokenRule, Config, ConfigError, ConfigErrors, ConfigLayer, ENV_PREFIX};

/// A configuration file is a few kilobytes; anything beyond this was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The file that is read where none is named.
const FILE_NAME: &str = "config.yaml";
/// Variables with our prefix that are no settings.
const OTHER_VARIABLES: [&str; 3] = ["CAN_SYNC_API", "CAN_SYNC_CONFIG", "CAN_SYNC_TOPIC_SECRET"];

/// Settings that are secrets, or name files with secrets in them.
pub(super) const SECRETS: [&str; 7] = [
    "can_token_file",
    "sync_api_key",
    "sync_api_key_file",
    "sync_passphrase",
    "sync_passphrase_file",
    "api_token_file",
    "discovery.topic_secret",
];

#[derive(Clone, Debug)]
pub struct FlagValue {
    /// The setting's full key.
    pub key: &'static str,
    /// The flag, as it is typed.
    pub flag: &'static str,
    pub text: String,
}

/// Whether what is in an open file of this name comes from us.
pub type IsOurs = fn(&File, &Path) -> io::Result<bool>;

#[derive(Clone, Debug, Default)]
pub struct SettingSources {
    /// The file that was asked for: it has to exist.
    pub file: Option<PathBuf>,
    /// Files to try where none was asked for; the first that exists is read.
    pub search: Vec<PathBuf>,
    /// Whether one of those is to be believed. The working directory may be anybody's, and what stands there decides which node is
    /// talked to, and which file it is told as a token.
    pub is_ours: Option<IsOurs>,
    /// Environment variables; those that do not begin with [`ENV_PREFIX`] are passed over.
    pub env: Vec<(String, String)>,
    /// Flags, the last of several with one key wins.
    pub flags: Vec<FlagValue>,
}

impl SettingSources {
    /// The sources of this process: `file` and `flags` from its command line, its environment, and the usual files
    /// (`./config.yaml`, then `can-sync/config.yaml` in the platform's configuration directory).
    /// Of the usual ones, only what `is_ours` is believed.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<FlagValue>, is_ours: IsOurs) -> Self {
        let user_file = platform_config_dir().map(|dir| dir.join("can-sync").join(FILE_NAME));
        let search = std::iter::once(PathBuf::from(FILE_NAME)).chain(user_file).collect();
        let env = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self { file, search, is_ours: Some(is_ours), env, flags }
    }
}

/// Where a program's configuration goes on this platform.
fn platform_config_dir() -> Option<PathBuf> {
    let from_env = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    if cfg!(windows) {
        return from_env("APPDATA");
    }
    let in_home = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".config" };
    from_env("XDG_CONFIG_HOME").or_else(|| std::env::home_dir().map(|home| home.join(in_home)))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: PathBuf,
        /// The line of its key, counted from 1; unknown in unusual layouts.
        line: Option<usize>,
    },
    /// An environment variable, by name.
    Env(String),
    /// A flag, as it is typed.
    Flag(&'static str),
    /// Standard input, which a setting named.
    Stdin,
}

impl Origin {
    /// Whether the value came with this start of the program alone.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Env(_) | Self::Flag(_) | Self::Stdin => true,
            Self::Default | Self::File { .. } => false,
        }
    }
}

/// Where each setting came from that does not have its default, by full key.
pub type Origins = BTreeMap<String, Origin>;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct LoadedSetting {
    /// Full key, such as `discovery.mdns`.
    pub key: String,
    /// Its value in JSON; secrets are hidden.
    pub value: serde_json::Value,
    pub origin: Origin,
}

/// What came of all sources.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub config: Config,
    /// Where each setting came from that does not have its default, by full key.
    pub origins: Origins,
    pub path: Option<PathBuf>,
    /// What looks like a mistake and is not one for certain.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// A setting with a secret in it, not the name of a file with one, that the configuration file says.
    pub fn secret_in_file(&self) -> Option<&'static str> {
        let is_here = |key: &&str| matches!(self.origin(key), Origin::File { .. });
        SECRETS.into_iter().filter(|key| !key.ends_with("_file")).find(is_here)
    }

    /// Every setting with its origin, in the order of `config.yaml`.
    pub fn settings(&self) -> Vec<LoadedSetting> {
        let with_origin = |(key, value): (String, serde_json::Value)| {
            let origin = self.origin(&key);
            LoadedSetting { key, value, origin }
        };
        self.config.list().into_iter().map(with_origin).collect()
    }

    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Lays one source over the others; `wrong` says where a value that is none stands.
    pub(super) fn lay(
        &mut self,
        layer: ConfigLayer,
        origin: impl Fn(&str) -> Origin,
        wrong: impl Fn(&str, String) -> ConfigError,
    ) -> Vec<ConfigError> {
        let Self { config, origins, .. } = self;
        let mut errors = Vec::new();
        layer.lay_over(config, "", &mut |key, laid| match laid {
            Laid::Set => {
                let origin = origin(&key);
                origins.insert(key, origin);
            }
            Laid::Wrong(problem) => errors.push(wrong(&key, problem)),
        });
        errors
    }
}

impl Config {
    /// Reads every source and lays them over one another: flags win over the environment, that over the file, that over
    /// the defaults.
    pub fn load(sources: &SettingSources) -> Result<Loaded, ConfigErrors> {
        let (loaded, errors) = Self::read(sources);
        if errors.is_empty() { Ok(loaded) } else { Err(ConfigErrors(errors)) }
    }

    /// As [`Config::load`]: what could be used, and everything that could not.
    pub fn read(sources: &SettingSources) -> (Loaded, Vec<ConfigError>) {
        let mut loaded = Loaded::default();
        let mut errors = Vec::new();
        match read_file(sources) {
            Ok(Some((path, text))) => {
                errors.extend(lay_file(&mut loaded, &path, &text));
                loaded.path = Some(path);
            }
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        errors.extend(lay_environment(&mut loaded, &sources.env));
        for FlagValue { key, flag, text } in &sources.flags {
            errors.extend(lay_text(&mut loaded, Origin::Flag(flag), key, text));
        }
        let Loaded { config, origins, .. } = &mut loaded;
        config.limits.follow(|key| origins.contains_key(key));
        let named = |key: &&str| errors.iter().any(|error| error.key() == Some(*key));
        let broken = loaded.config.check().into_iter();
        // What compares a value that was not taken says nothing about what was meant.
        let broken = broken.filter(|rule| !rule.keys.iter().any(named));
        let broken: Vec<_> = broken
            .map(|BrokenRule { keys, problem }| {
                // A default has no place, and is nobody's mistake.
                let said = keys.iter().find_map(|key| loaded.origins.get(*key)).cloned();
                invalid(said.unwrap_or(Origin::Default), keys[0], problem)
            })
            .collect();
        errors.extend(broken);
        (loaded, errors)
    }
}

/// Sets one setting from text.
fn lay_text(loaded: &mut Loaded, origin: Origin, key: &str, text: &str) -> Option<ConfigError> {
    let mut layer = ConfigLayer::default();
    let known = layer.set(key, text);
    debug_assert!(known.is_some(), "{origin} sets '{key}', which is no setting");
    if let Err(problem) = known.unwrap_or(Ok(())) {
        return Some(invalid(origin, key, problem));
    }
    loaded.lay(layer, |_| origin.clone(), |key, problem| invalid(origin.clone(), key, problem)).pop()
}

fn invalid(origin: Origin, key: &str, problem: String) -> ConfigError {
    ConfigError::Invalid { origin, key: key.to_owned(), problem }
}

/// The file that was asked for, or the first of the usual ones that exists.
fn read_file(sources: &SettingSources) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let candidates = sources.file.as_ref().map_or(sources.search.as_slice(), std::slice::from_ref);
    for path in candidates {
        let unreadable = |source| ConfigError::Unreadable { path: path.clone(), source };
        let file = match open(path, sources.file.is_some()) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(unreadable(e)),
        };
        if sources.file.is_none()
            && let Some(is_ours) = sources.is_ours
            && !is_ours(&file, path).map_err(unreadable)?
        {
            return Err(ConfigError::Foreign(path.clone()));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.clone(), limit: FILE_BYTES_MAX });
        }
        return Ok(Some((path.clone(), text)));
    }
    match &sources.file {
        Some(path) => Err(ConfigError::Missing(path.clone())),
        None => Ok(None),
    }
}

/// A file that was asked for may be a pipe; what only lies there must be a file, or a pipe that nobody writes to would hold up every
/// command.
fn open(path: &Path, is_named: bool) -> io::Result<File> {
    if is_named {
        return File::open(path);
    }
    let no_waiting = rustix::fs::OFlags::NONBLOCK.union(rustix::fs::OFlags::NOCTTY);
    let file = File::options().read(true).custom_flags(no_waiting.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

/// Whether a cluster set the variable, to tell where the service of the name `can-sync` is: it is meant for nobody.
fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(ENV_PREFIX) else { return false };
    rest == "PORT" || rest == "SERVICE_HOST" || rest.starts_with("SERVICE_PORT") || rest.starts_with("PORT_")
}

/// The settings as environment variables say them.
fn lay_environment(loaded: &mut Loaded, env: &[(String, String)]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let keys: BTreeMap<String, String> =
        loaded.config.list().into_iter().map(|(key, _)| (variable_of(&key), key)).collect();
    for (name, text) in env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        let Some(key) = keys.get(name) else {
            if !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(name) {
                let hint = nearest(name, keys.keys()).map(|near| format!("; did you mean {near}?"));
                let hint = hint.unwrap_or_default();
                loaded.warnings.push(format!("the environment variable {name} is no setting{hint}"));
            }
            continue;
        };
        // Set to nothing means not set: that is how service managers and compose files leave a variable out. Not so a
        // secret: a node without the one that somebody meant it to have would be open, or in another network.
        if text.is_empty() && !SECRETS.contains(&key.as_str()) {
            continue;
        }
        errors.extend(lay_text(loaded, Origin::Env(name.clone()), key, text));
    }
    loaded.warnings.sort();
    errors
}

/// The environment variable of a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// The candidate that most resembles a name, if one does. The last part counts as well, so that a key in the wrong
/// section is recognised.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a String>,
) -> Option<&'a String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
    let likeness = |candidate: &str| {
        let whole = strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase());
        whole.max(strsim::jaro_winkler(&last(name), &last(candidate)))
    };
    let best = candidates.into_iter().map(|c| (likeness(c), c)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.8).then_some(best.1)
}
