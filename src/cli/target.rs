//! Which node a command talks to.
//!
//! The one that `--api` names, whatever runs here. Without it, the one whose data directory is the configured one, or the working
//! directory; and where no node has used these, whichever answers at the configured `listen_addr`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use crate::config::{Config, Origin};
use crate::node::DataDir;
use crate::node::running::{NodePresence, PassphraseSource, RunningNode};

/// For a node that has just been started to say where it is.
const STARTING_TRIES: usize = 40;
const STARTING_PAUSE: Duration = Duration::from_millis(50);

/// Where the assets of a node are reached through its own API.
const STORE_PATH: &str = "/store";

/// A node, as a command reaches it.
struct Target {
    api_url: String,
    token_file: Option<PathBuf>,
    /// Its CAN Service, where that is on this machine for certain and asks for no token.
    store_url: Option<String>,
}

/// The node that belongs to this place, if one does.
struct NodeHere {
    dir: PathBuf,
    presence: NodePresence,
}

impl NodeHere {
    fn find(config: &Config) -> Self {
        let configured = Self::of(&config.data_dir);
        if configured.presence != NodePresence::Unknown {
            return configured;
        }
        let working = Self::of(Path::new("."));
        if working.presence == NodePresence::Unknown { configured } else { working }
    }

    fn of(dir: &Path) -> Self {
        let data_dir = DataDir::new(dir);
        let mut presence = NodePresence::of(&data_dir);
        for _ in 0..STARTING_TRIES {
            if presence != NodePresence::Starting {
                break;
            }
            std::thread::sleep(STARTING_PAUSE);
            presence = NodePresence::of(&data_dir);
        }
        Self { dir: dir.to_owned(), presence }
    }

    fn running(&self) -> Option<&RunningNode> {
        match &self.presence {
            NodePresence::Running(node) => Some(node),
            NodePresence::Unknown | NodePresence::Stopped | NodePresence::Starting => None,
        }
    }
}

impl Context {
    pub(super) fn agent(&self) -> CliResult<ApiClient> {
        let target = self.target()?;
        ApiClient::agent(&target.api_url, target.token_file.as_deref())
    }

    /// What commands about assets talk to: the daemon's store, through the daemon unless it is known to be here.
    pub(super) fn store(&self) -> CliResult<ApiClient> {
        let target = self.target()?;
        if let Some(url) = &target.store_url {
            return ApiClient::store(url);
        }
        let agent = ApiClient::agent(&target.api_url, target.token_file.as_deref())?;
        Ok(agent.below(STORE_PATH))
    }

    /// The node that runs here and is meant; `None` where `--api` names another one, or none runs.
    pub(super) fn node_here(&self, config: &Config) -> Option<RunningNode> {
        let here = NodeHere::find(config);
        here.running().filter(|node| self.means(node)).cloned()
    }

    /// The data directory of the node of this place, whether it runs or not: the configured one, if there is no node.
    pub(super) fn data_dir_here(config: &Config) -> PathBuf {
        let here = NodeHere::find(config);
        if here.presence == NodePresence::Unknown { config.data_dir.clone() } else { here.dir }
    }

    /// Files outside of data directories that hold secrets of the node of this place: those that settings name, and the
    /// configuration where it holds some itself.
    pub(super) fn secret_files(&self) -> Vec<PathBuf> {
        // The caller has been told what is wrong with the configuration.
        let (loaded, _) = Config::read(&self.sources(None, Vec::new()));
        let config = &loaded.config;
        let running = self.node_here(config);
        let of_running = running.as_ref().and_then(|node| match &node.passphrase {
            PassphraseSource::File { path, .. } => Some(path),
            PassphraseSource::DataDir | PassphraseSource::Setting { .. } => None,
        });
        let holds_secrets = config.sync_passphrase.is_some()
            || config.sync_api_key.is_some()
            || config.discovery.topic_secret.is_some();
        let named = [
            config.sync_passphrase_file.as_ref(),
            config.sync_api_key_file.as_ref(),
            config.api_token_file.as_ref(),
            config.can_token_file.as_ref(),
            config.store.content.0.as_ref().and_then(|bucket| bucket.credentials_file.as_ref()),
            running.as_ref().and_then(|node| node.api_token_file.as_ref()),
            of_running,
            loaded.path.as_ref().filter(|_| holds_secrets),
        ];
        named.into_iter().flatten().cloned().collect()
    }

    /// Whether `--api` names a node that is not the one of this place: nothing of this machine is its.
    pub(super) fn is_elsewhere(&self, config: &Config) -> bool {
        self.globals.api.is_some() && self.node_here(config).is_none()
    }

    /// The same, of whatever can be used of the configuration.
    pub(super) fn names_another_node(&self) -> bool {
        self.globals.api.is_some()
            && self.is_elsewhere(&Config::read(&self.sources(None, Vec::new())).0.config)
    }

    fn means(&self, node: &RunningNode) -> bool {
        self.globals.api.as_ref().is_none_or(|api| is_same(api, &node.api_url))
    }

    fn target(&self) -> CliResult<Target> {
        let loaded = self.load_config(None, Vec::new())?;
        let config = &loaded.config;
        let here = NodeHere::find(config);
        if let Some(node) = here.running().filter(|node| self.means(node)) {
            return Ok(Target {
                api_url: node.api_url.clone(),
                token_file: node.api_token_file.clone(),
                store_url: node.store_url.clone(),
            });
        }
        let token_file = config.api_token_file.clone();
        let elsewhere = |api_url| Target { api_url, token_file, store_url: None };
        if let Some(api) = &self.globals.api {
            return Ok(elsewhere(api.clone()));
        }
        if here.presence == NodePresence::Stopped {
            let dir = here.dir.display();
            return Err(CliError::new(Exit::NoDaemon, format!("the node in '{dir}' does not run"))
                .hint("start it with `can-sync serve`, or name another node with --api"));
        }
        config.api_url().map(elsewhere).ok_or_else(|| {
            let from = match loaded.origin("listen_addr") {
                Origin::Default => String::new(),
                set @ (Origin::File { .. } | Origin::Env(_) | Origin::Flag(_) | Origin::Stdin) => {
                    format!(" ({set})")
                }
            };
            CliError::new(
                Exit::NoDaemon,
                format!("no node has used '{}', and listen_addr has port 0{from}", config.data_dir.display()),
            )
            .hint("start one with `can-sync serve`, or pass the URL that another one printed with --api")
        })
    }
}

/// Whether two URLs name one server: `localhost` is the loopback address that it stands for.
fn is_same(a: &str, b: &str) -> bool {
    let normal = |url: &str| {
        let url = url.trim_end_matches('/').to_ascii_lowercase();
        url.replacen("//localhost", "//127.0.0.1", 1)
    };
    normal(a) == normal(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_by_several_names() {
        assert!(is_same("http://127.0.0.1:1/", "http://localhost:1"));
        assert!(!is_same("http://127.0.0.1:1", "http://127.0.0.1:2"));
        assert!(!is_same("http://127.0.0.1:1", "https://127.0.0.1:1"));
        assert!(!is_same("http://127.0.0.1:1/x", "http://127.0.0.1:1"));
    }
}
