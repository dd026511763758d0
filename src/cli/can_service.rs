//! `can-service`: the CAN Service alone, for those who run store and agent apart.
//!
//! The results of starting up (where it listens, where the key is) go to stdout, everything else to stderr. A problem at
//! the start is one sentence with the next step, and exit code 1.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Parser;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::http::serve;
use crate::store::StoreError;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::service::key::{self, KeyError};
use crate::store::service::{BASE_PATH, ServiceSettings, router};

/// Where a key may come from besides a file.
const KEY_VARIABLE: &str = "CAN_SYNC_SYNC_API_KEY";

/// Keep content-addressed assets and serve them over HTTP.
#[derive(Parser, Debug)]
#[command(name = "can-service", version)]
struct Options {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3210")]
    listen: SocketAddr,

    /// Where assets are kept
    #[arg(long, value_name = "DIR", default_value = "./can_service_data")]
    data_dir: PathBuf,

    /// File that holds the sync API key [default: the environment variable `CAN_SYNC_SYNC_API_KEY`, else
    /// `sync_api_key` in the data directory, generated at the first start]
    #[arg(long, value_name = "FILE")]
    sync_api_key_file: Option<PathBuf>,

    /// Space to leave free on the disk
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    disk_reserve: ByteSize,

    /// Another host name under which requests may reach this service; may be repeated
    #[arg(long, value_name = "HOST")]
    allowed_host: Vec<String>,
}

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
    #[error("port {} of {} is in use: stop the program that listens there, or choose another with --listen", .0.port(), .0.ip())]
    PortInUse(SocketAddr),
    #[error("cannot listen on {addr}: {source}; choose another address with --listen")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// Runs the program.
#[expect(clippy::print_stderr, reason = "the log may be filtered away, the reason for not starting may not")]
pub fn main() -> ExitCode {
    let options = Options::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,rusqlite_migration=warn"));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(StartError::Runtime)
        .and_then(|runtime| runtime.block_on(run(options)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("can-service: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), StartError> {
    let Options { listen, data_dir, sync_api_key_file, disk_reserve, allowed_host } = options;
    let shutdown = shutdown_signal().map_err(StartError::Signals)?;
    // First, so that a second start on the same port changes nothing on disk.
    let listener = TcpListener::bind(listen).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            StartError::PortInUse(listen)
        } else {
            StartError::Listen { addr: listen, source }
        }
    })?;
    let addr = listener.local_addr().map_err(|source| StartError::Listen { addr: listen, source })?;
    let config = EmbeddedConfig { dir: data_dir.clone(), disk_reserve_bytes: disk_reserve.as_u64() };
    let store = EmbeddedStore::open(config).await?;
    let (key, key_place) = sync_api_key(&data_dir, sync_api_key_file)?;
    let settings = ServiceSettings { allowed_hosts: allowed_host, ..ServiceSettings::new(key, addr) };
    announce(addr, &key_place);
    serve(listener, router(store.clone(), settings), shutdown).await;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// The key, and where it is kept: the file on the command line, else the environment, else the data directory.
fn sync_api_key(
    data_dir: &std::path::Path,
    file: Option<PathBuf>,
) -> Result<(SecretString, String), KeyError> {
    if let Some(file) = file {
        return Ok((key::read(&file)?, file.display().to_string()));
    }
    if let Ok(text) = std::env::var(KEY_VARIABLE) {
        return Ok((key::parse(&text, KEY_VARIABLE)?, format!("the environment variable {KEY_VARIABLE}")));
    }
    let file = data_dir.join(key::FILE_NAME);
    let (key, new) = key::read_or_generate(&file)?;
    Ok((key, format!("{}{}", file.display(), if new { " (new)" } else { "" })))
}

fn announce(addr: SocketAddr, key_place: &str) {
    let text = format!("CAN Service: http://{addr}{BASE_PATH}\nSync API key: {key_place}\n");
    // Whether anybody reads it is no reason to stop.
    let _ = io::stdout().write_all(text.as_bytes());
    if !addr.ip().is_loopback() {
        tracing::warn!(
            "{addr} can be reached from other machines, and reading and storing assets needs no key: \
             make sure that only those you trust can reach it"
        );
    }
}

/// Resolves at the first SIGTERM or SIGINT; a second one ends the process at once.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut next = async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping; once more to stop at once");
        tokio::spawn(async move {
            next().await;
            std::process::exit(1);
        });
    })
}
