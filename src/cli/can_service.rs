//! `can-service`: the CAN Service alone, for those who run store and agent apart.
//!
//! The results of starting up (where it listens, where the key is) go to stdout, everything else to stderr. A problem at
//! the start is one sentence with the next step, and exit code 1; 2 where a flag makes no sense.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

use super::error::Exit;
use super::output::message;
use super::stopping::{self, StopSignals};
use super::{logging, open_files};
use crate::clock::Clock;
use crate::config::{Config, ConfigErrors, FlagValue, SettingSources};
use crate::http::{ListenError, SharedListener, serve_within};
use crate::identity::{self, IdentityError, Mend, private_dir, read_given};
use crate::node::{DataDir, backup, serve_limits};
use crate::stderr;
use crate::store::StoreError;
use crate::store::bucket::BucketConfig;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::scrub::ScrubSettings;
use crate::store::service::key::{self, KeyError};
use crate::store::service::{BASE_PATH, ServiceSettings, router};

/// Until a scrub that failed is begun again.
const SCRUB_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Keep content-addressed assets and serve them over HTTP.
///
/// Takes the same configuration as `can-sync` (file, environment, flags), and of it `can_listen_addr`, `data_dir`,
/// `can_token_file`, `sync_api_key`, `sync_api_key_file`, `allowed_hosts`, `scrub_interval_days`, and of `limits`
/// `disk_reserve_bytes`, `scrub_bytes_per_sec`, `http_connections` and `http_min_bytes_per_sec`. Started on an agent's data
/// directory, it serves the store that was embedded there.
#[derive(Parser, Debug)]
#[command(name = "can-service", version)]
struct Options {
    /// Configuration file [default: ./config.yaml, then the platform's]
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,

    /// Where to listen: `can_listen_addr` [default: 127.0.0.1:3210]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,

    /// Where the store and its key are kept: `data_dir` [default: `./can_sync_data`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,

    /// File that holds the sync API key [default: `sync_api_key` in the data directory, made at the first start]
    #[arg(long, value_name = "FILE")]
    sync_api_key_file: Option<String>,

    /// Space to leave free on the disk: `limits.disk_reserve_bytes` [default: 1 GiB]
    #[arg(long, value_name = "SIZE")]
    disk_reserve: Option<String>,

    /// File that holds a token which every request has to carry: `can_token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,

    /// Other host names under which requests may reach this service: `allowed_hosts`
    #[arg(long, value_name = "HOST,…")]
    allowed_hosts: Option<String>,
}

impl Options {
    fn load(self) -> Result<Config, ConfigErrors> {
        let Self { config, listen, data_dir, sync_api_key_file, disk_reserve, token_file, allowed_hosts } =
            self;
        let flags = [
            ("can_listen_addr", "--listen", listen),
            ("data_dir", "--data-dir", data_dir),
            ("sync_api_key_file", "--sync-api-key-file", sync_api_key_file),
            ("limits.disk_reserve_bytes", "--disk-reserve", disk_reserve),
            ("can_token_file", "--token-file", token_file),
            ("allowed_hosts", "--allowed-hosts", allowed_hosts),
        ];
        let given = |(key, flag, text): (_, _, Option<String>)| Some(FlagValue { key, flag, text: text? });
        let flags = flags.into_iter().filter_map(given).collect();
        let loaded = Config::load(&SettingSources::of_process(config, flags, identity::is_of_ours))?;
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded.config)
    }
}

#[derive(Debug, thiserror::Error)]
enum ServiceStartError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("data_dir: {0}")]
    Identity(#[from] IdentityError),
    #[error("data_dir: {0}")]
    Restoring(String),
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
    #[error(
        "can_listen_addr: {0}; stop the program that listens there, or choose another address with --listen"
    )]
    Listen(#[from] ListenError),
    #[error("can_token_file: {0}")]
    Token(IdentityError),
    #[error("{setting}: {source}")]
    Key { setting: &'static str, source: KeyError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

pub fn main() -> ExitCode {
    let options = Options::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,rusqlite_migration=warn"));
    logging::wait_for_no_reader();
    logging::subscribe(filter, false);
    open_files::allow_many();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServiceStartError::Runtime)
        .and_then(|runtime| runtime.block_on(run(options)));
    let exit = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may be filtered away, the reason for not starting may not.
            message(&format!("can-service: {error}"));
            if matches!(&error, ServiceStartError::Config(errors) if errors.is_usage()) {
                ExitCode::from(Exit::Usage.code())
            } else {
                ExitCode::FAILURE
            }
        }
    };
    stderr::flush();
    exit
}

async fn run(options: Options) -> Result<(), ServiceStartError> {
    let config = options.load()?;
    let shutdown = shutdown_signal().map_err(ServiceStartError::Signals)?;
    let token = api_token(&config)?;
    // First, so that a second start on the same port changes nothing on disk.
    let listen = config.can_listen_addr;
    let shared = SharedListener::bind(listen)?;
    let listen_failed = |source| ListenError { addr: listen, source };
    let listener = shared.duplicate().map_err(listen_failed)?;
    let addr = shared.local_addr().map_err(listen_failed)?;
    drop(shared);
    let dir = DataDir::new(&config.data_dir);
    if let Some(problem) = backup::problem(dir.path()) {
        return Err(ServiceStartError::Restoring(problem));
    }
    for remark in private_dir(dir.path())? {
        tracing::warn!("data_dir: {remark}");
    }
    let store_config = EmbeddedConfig {
        dir: dir.store(),
        disk_reserve_bytes: config.limits.disk_reserve_bytes,
        clock: Clock::system(),
    };
    let bucket = config.store.content.0.clone();
    let bucket = bucket.map(|place| BucketConfig::new(place, config.store.cache_bytes));
    let store = EmbeddedStore::open_on(store_config, bucket).await?;
    store.set_quota(config.store.quota_bytes);
    let (key, key_place) = sync_api_key(&config, &dir)?;
    announce(addr, &key_place, token.is_some());
    let settings = ServiceSettings {
        allowed_hosts: config.allowed_hosts.clone(),
        token,
        ..ServiceSettings::new(key, addr)
    };
    let limits = serve_limits(&config.limits);
    let scrub = ScrubSettings::every(
        config.scrub_interval_days.0,
        config.limits.scrub_bytes_per_sec,
        Arc::new(|| false),
    );
    let scrub = tokio::spawn(scrub_again(store.clone(), scrub));
    serve_within(limits, listener, router(store.clone(), settings), shutdown).await;
    scrub.abort();
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Has the store scrubbed, whatever happens to those who do it.
async fn scrub_again(store: EmbeddedStore, settings: ScrubSettings) {
    loop {
        let mut scrub = JoinSet::new();
        scrub.spawn(store.clone().scrub_for_ever(settings.clone()));
        match scrub.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(%error, "scrubbing the store failed by a defect of this program");
                tokio::time::sleep(SCRUB_AGAIN_AFTER).await;
            }
            Some(_) | None => return,
        }
    }
}

/// What requests have to carry, if anything.
fn api_token(config: &Config) -> Result<Option<SecretString>, ServiceStartError> {
    let Some(path) = &config.can_token_file else { return Ok(None) };
    let kept = read_given(path, Mend::Never).map_err(ServiceStartError::Token)?;
    for remark in kept.remarks {
        tracing::warn!("can_token_file: {remark}");
    }
    Ok(Some(kept.text.as_str().into()))
}

/// The key, and where it is kept: as configured, else in the data directory.
fn sync_api_key(config: &Config, dir: &DataDir) -> Result<(SecretString, String), ServiceStartError> {
    let at = |setting| move |source| ServiceStartError::Key { setting, source };
    if let Some(key) = &config.sync_api_key {
        let key = key::parse(key.expose_secret(), "it").map_err(at("sync_api_key"))?;
        return Ok((key, "setting sync_api_key".to_owned()));
    }
    if let Some(file) = &config.sync_api_key_file {
        let (key, remarks) = key::read(file, Mend::Ours).map_err(at("sync_api_key_file"))?;
        for remark in remarks {
            tracing::warn!("sync_api_key_file: {remark}");
        }
        return Ok((key, file.display().to_string()));
    }
    let file = dir.path().join(key::FILE_NAME);
    let (key, new) = key::read_or_generate(&file).map_err(at("data_dir"))?;
    Ok((key, format!("{}{}", file.display(), if new { " (new)" } else { "" })))
}

fn announce(addr: SocketAddr, key_place: &str, asks_for_token: bool) {
    let text = format!("CAN Service: http://{addr}{BASE_PATH}\nSync API key: {key_place}\n");
    // Whether anybody reads it is no reason to stop.
    let _ = io::stdout().write_all(text.as_bytes());
    if !addr.ip().is_loopback() && !asks_for_token {
        tracing::warn!(
            "{addr} can be reached from other machines, and reading and storing assets needs no key: \
             set can_token_file, or make sure that only those you trust can reach it"
        );
    }
}

/// Resolves at the first SIGTERM or SIGINT; a second one ends the process at once.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut signals = StopSignals::install()?;
    stopping::at_once_when_asked_again(1)?;
    Ok(async move {
        let reason = signals.next().await;
        tracing::info!("stopping: {reason}; once more to stop at once");
    })
}
