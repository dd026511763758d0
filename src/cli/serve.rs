//! `can-sync serve`: runs a node until it is told to stop.

use std::io::{self, IsTerminal as _, Read as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::json;
use zeroize::Zeroizing;

use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::progress::ProgressLine;
use super::stopping::{self, StopSignals};
use super::{Context, config, text};
use crate::clock::Clock;
use crate::config::{Config, FlagValue, Loaded, Origin, Origins, RelaySetting};
use crate::identity::{self, Mend, Passphrase, PassphraseOrigin, PassphraseSources};
use crate::node::signals::Signals;
use crate::node::{Node, Shutdown, StartOutput};

/// For a relay to answer before the first start says how to reach this node: a local one does without.
const RELAY_WITHIN: Duration = Duration::from_secs(3);

/// Most that is read from standard input for a passphrase; more is said to be too long.
const STDIN_BYTES_MAX: u64 = 64 * 1024;

/// Flags lie over the environment and the file.
#[derive(clap::Args, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "flags that are there or not")]
pub(super) struct ServeArgs {
    /// The configuration file; without it `./config.yaml`, else the one in the user's configuration directory
    #[arg(value_name = "CONFIG")]
    file: Option<PathBuf>,
    /// Keys, databases, content
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// What peers are shown
    #[arg(long)]
    name: Option<String>,
    /// Where the agent's API and web page listen
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where the built-in CAN Service listens
    #[arg(long, value_name = "ADDR", conflicts_with = "can_service_url")]
    can_listen: Option<String>,
    /// An external CAN Service
    #[arg(long, value_name = "URL")]
    can_service_url: Option<String>,
    /// The UDP socket for connections between agents
    #[arg(long, value_name = "ADDR")]
    bind: Option<String>,
    /// A file that holds the network's passphrase; `-` for standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<String>,
    /// Take a passphrase that can be guessed
    #[arg(long)]
    allow_weak_passphrase: bool,
    /// A file that holds the token which the agent's API asks for
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<String>,
    /// Host names under which the HTTP servers may be addressed, separated by commas
    #[arg(long, value_name = "HOST,…")]
    allowed_hosts: Option<String>,
    /// An iroh relay of your own
    #[arg(long, value_name = "URL")]
    relay_url: Option<String>,
    /// No relay: direct connections only
    #[arg(long, conflicts_with = "relay_url")]
    no_relay: bool,
    /// Write this node's ticket to a file
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<String>,
    /// Connect to the node whose ticket is in a file
    #[arg(long, value_name = "FILE")]
    connect_ticket_file: Option<String>,
    /// Endpoint ids or tickets of agents to try first, separated by commas
    #[arg(long, value_name = "ID,…")]
    bootstrap: Option<String>,
    /// Another gossip topic
    #[arg(long)]
    topic: Option<String>,
    /// A secret that the gossip topic derives from; better in `CAN_SYNC_DISCOVERY_TOPIC_SECRET`, where no one sees it
    #[arg(long, value_name = "SECRET")]
    topic_secret: Option<String>,
    /// Do not look for peers on the local network
    #[arg(long)]
    no_mdns: bool,
    /// Do not use the mainline DHT
    #[arg(long)]
    no_dht: bool,
    /// Apply deletions that peers made
    #[arg(long)]
    replicate_deletes: bool,
}

impl ServeArgs {
    /// The settings that were given as flags.
    fn flags(self) -> (Option<PathBuf>, Vec<FlagValue>) {
        // Taken apart by name, so that no flag is forgotten.
        let Self {
            file,
            data_dir,
            name,
            listen,
            can_listen,
            can_service_url,
            bind,
            passphrase_file,
            allow_weak_passphrase,
            api_token_file,
            allowed_hosts,
            relay_url,
            no_relay,
            ticket_file,
            connect_ticket_file,
            bootstrap,
            topic,
            topic_secret,
            no_mdns,
            no_dht,
            replicate_deletes,
        } = self;
        let switch = |on: bool, text: &str| on.then(|| text.to_owned());
        let flags = [
            ("data_dir", "--data-dir", data_dir),
            ("name", "--name", name),
            ("listen_addr", "--listen", listen),
            ("can_listen_addr", "--can-listen", can_listen),
            ("can_service_url", "--can-service-url", can_service_url),
            ("bind_addr", "--bind", bind),
            ("sync_passphrase_file", "--passphrase-file", passphrase_file),
            ("allow_weak_passphrase", "--allow-weak-passphrase", switch(allow_weak_passphrase, "true")),
            ("api_token_file", "--api-token-file", api_token_file),
            ("allowed_hosts", "--allowed-hosts", allowed_hosts),
            ("relay_url", "--relay-url", relay_url),
            ("relay_url", "--no-relay", switch(no_relay, "disabled")),
            ("ticket_file", "--ticket-file", ticket_file),
            ("connect_ticket_file", "--connect-ticket-file", connect_ticket_file),
            ("discovery.bootstrap", "--bootstrap", bootstrap),
            ("discovery.topic", "--topic", topic),
            ("discovery.topic_secret", "--topic-secret", topic_secret),
            ("discovery.mdns", "--no-mdns", switch(no_mdns, "false")),
            ("discovery.dht", "--no-dht", switch(no_dht, "false")),
            ("replicate_deletes", "--replicate-deletes", switch(replicate_deletes, "true")),
        ];
        let given = |(key, flag, text): (_, _, Option<String>)| Some(FlagValue { key, flag, text: text? });
        (file, flags.into_iter().filter_map(given).collect())
    }
}

pub(super) async fn run(context: &Context, args: ServeArgs) -> CliResult {
    let (file, flags) = args.flags();
    if let (Some(positional), Some(named)) = (&file, &context.globals.config)
        && positional != named
    {
        return Err(CliError::new(Exit::Usage, "two configuration files are named: keep one of them"));
    }
    let (loaded, errors) = context.read_config(file, flags);
    if !errors.is_empty() {
        return Err(config::refusal(&loaded, errors));
    }
    let path = loaded.path.as_ref().map(|path| path.display().to_string());
    let Loaded { mut config, mut origins, .. } = loaded;
    take_stdin(&mut config, &mut origins)?;
    // Before anything takes its time: from here on a signal stops the node in order, and the second one at once.
    let no_signals = |e| CliError::failure(format!("cannot wait for signals: {e}"));
    let signals = Signals::install().map_err(no_signals)?;
    let mut stop = StopSignals::install().map_err(no_signals)?;
    stopping::at_once_when_asked_again(0).map_err(no_signals)?;
    let starting = Box::pin(start(config.clone(), origins, Some(signals)));
    let node = tokio::select! {
        biased;
        node = starting => node?,
        // Whatever has been begun by then is as good as after a crash, and so it is after a kill.
        reason = stop.next() => {
            message(&format!("stopped before it had started: {reason}"));
            return Ok(());
        }
    };
    let said = announce(context, path.as_deref(), &config, &node);
    let said = match said {
        Ok(()) if node.passphrase_origin() == PassphraseOrigin::Generated && !context.out.json => {
            show_passphrase(context, &config, &node).await
        }
        said => said,
    };
    if let Err(error) = said {
        // Whether anybody reads it is no reason to stop.
        tracing::warn!("not all was said on stdout: {error}");
    }
    let Shutdown { reason, failed, forced } = node.wait().await;
    let reason = text::escape(&reason).into_owned();
    if failed {
        return Err(CliError::failure(reason));
    }
    message(&reason);
    if forced {
        // Nothing is waited for, not even what ends by itself.
        crate::stderr::flush();
        std::process::exit(0);
    }
    Ok(())
}

/// Reads the passphrase from standard input, where the settings say so. Signals end the process meanwhile.
fn take_stdin(config: &mut Config, origins: &mut Origins) -> CliResult {
    if !config.sync_passphrase_file.as_deref().is_some_and(identity::is_stdin) {
        return Ok(());
    }
    if io::stdin().is_terminal() {
        message("Type the passphrase, then Enter and Ctrl-D:");
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let read = io::stdin().lock().take(STDIN_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|e| CliError::failure(format!("sync_passphrase_file: cannot read standard input: {e}")))?;
    // Bytes of another encoding are found out with everything else that is wrong with it.
    config.sync_passphrase = Some(String::from_utf8_lossy(&bytes).as_ref().into());
    config.sync_passphrase_file = None;
    origins.remove("sync_passphrase_file");
    origins.insert("sync_passphrase".to_owned(), Origin::Stdin);
    Ok(())
}

/// Starts a node and shows what takes long. With `signals`, the node obeys them.
pub(super) async fn start(config: Config, origins: Origins, signals: Option<Signals>) -> CliResult<Node> {
    let progress = std::sync::Arc::new(ProgressLine::spinner("starting"));
    let shown = std::sync::Arc::downgrade(&progress);
    let output = StartOutput {
        origins,
        signals,
        clock: Clock::system(),
        progress: Box::new(move |what| {
            if let Some(progress) = shown.upgrade() {
                progress.set(what);
            }
        }),
    };
    let started = Box::pin(Node::start(config, output)).await;
    started.map_err(|e| CliError::several(e.sentences()))
}

fn announce(context: &Context, file: Option<&str>, config: &Config, node: &Node) -> CliResult {
    let page = page_url(node.api_addr());
    let generated = (node.passphrase_origin() == PassphraseOrigin::Generated)
        .then(|| config.data_dir.join(identity::PASSPHRASE_FILE));
    let out = context.out;
    if out.json {
        out.value(&json!({
            "endpoint_id": node.endpoint_id().to_string(),
            "name": config.name,
            "config_file": file,
            "data_dir": config.data_dir.display().to_string(),
            "store_url": node.store_url(),
            "api_url": page.trim_end_matches('/'),
            "page_url": page,
            "ticket": node.ticket(),
            "discovery": node.channels(),
            "passphrase_generated": generated.as_ref().map(|path| path.display().to_string()),
        }))?;
    } else {
        let channels = node.channels();
        let alone = || "no channel is up: connect with `can-sync peers add TICKET`".to_owned();
        out.fields(&[
            ("configuration", file.unwrap_or("defaults, no file").to_owned()),
            ("data", config.data_dir.display().to_string()),
            ("endpoint id", node.endpoint_id().to_string()),
            ("store", node.store_url()),
            ("web page", page),
            ("discovery", if channels.is_empty() { alone() } else { channels.join(", ") }),
        ])?;
    }
    Ok(())
}

/// How the next machine joins, when the passphrase was made just now.
async fn show_passphrase(context: &Context, config: &Config, node: &Node) -> CliResult {
    let path = config.data_dir.join(identity::PASSPHRASE_FILE);
    let sources = PassphraseSources { configured: None, file: None, data_dir: &config.data_dir };
    let Some(passphrase) = Passphrase::existing(sources, Mend::Never)? else { return Ok(()) };
    let found_by_itself =
        config.discovery.mdns || config.discovery.dht || !config.discovery.pkarr_relays.is_empty();
    let (bootstrap, where_from) = if found_by_itself {
        (String::new(), "")
    } else {
        let ticket = if config.relay_url == RelaySetting::Disabled {
            node.ticket()
        } else {
            let _progress = ProgressLine::spinner("connecting to a relay");
            node.ticket_with_relay(RELAY_WITHIN).await
        };
        (format!(" --bootstrap {ticket}"), ", and `can-sync id --ticket` what follows --bootstrap")
    };
    let path = path.display().to_string();
    let path = text::escape(&path);
    Ok(context.out.line(&format!(
        "\nThis network's passphrase was made just now and is kept in '{path}'. On the next machine, run\n\n  \
         CAN_SYNC_SYNC_PASSPHRASE='{}' can-sync{bootstrap}\n\n\
         It is not shown again: `can-sync passphrase` prints it{where_from}.\n",
        passphrase.secret.expose_secret()
    ))?)
}

/// The page's URL as a browser on this machine can open it.
pub(super) fn page_url(addr: SocketAddr) -> String {
    let config = Config { listen_addr: addr, ..Config::default() };
    config.api_url().map_or_else(String::new, |url| format!("{url}/"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use std::path::Path;

    use super::*;
    use crate::config::SettingSources;

    #[derive(Parser)]
    struct TestLine {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[test]
    fn every_flag_sets_its_setting() {
        let line = "serve my.yaml --data-dir /d --name n --listen 127.0.0.1:1 --can-listen 127.0.0.1:2 --bind 127.0.0.1:3 \
                    --passphrase-file /p --allow-weak-passphrase --api-token-file /t --allowed-hosts a,b --no-relay \
                    --ticket-file /o --connect-ticket-file /i --bootstrap x,y --topic t --topic-secret s --no-mdns \
                    --no-dht --replicate-deletes";
        let (file, flags) = TestLine::parse_from(line.split_whitespace()).args.flags();
        assert_eq!(file.as_deref(), Some(Path::new("my.yaml")));
        let loaded = Config::load(&SettingSources { flags, ..SettingSources::default() }).unwrap();
        assert_eq!(loaded.origins.len(), 18, "{:?}", loaded.origins);
        let config = loaded.config;
        assert_eq!(config.data_dir, Path::new("/d"));
        assert_eq!(config.relay_url, RelaySetting::Disabled);
        assert_eq!(config.discovery.bootstrap, ["x", "y"]);
        assert_eq!(config.allowed_hosts, ["a", "b"]);
        assert!(!config.discovery.mdns && !config.discovery.dht);
        assert!(config.replicate_deletes && config.allow_weak_passphrase);
        let other = "serve --can-service-url http://h:1 --relay-url https://r";
        let (_, flags) = TestLine::parse_from(other.split_whitespace()).args.flags();
        let loaded = Config::load(&SettingSources { flags, ..SettingSources::default() }).unwrap();
        assert_eq!(loaded.origins.len(), 2);
    }

    #[test]
    fn the_page_can_be_opened_from_here() {
        assert_eq!(page_url("127.0.0.1:3213".parse().unwrap()), "http://127.0.0.1:3213/");
        assert_eq!(page_url("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80/");
        assert_eq!(page_url("[::]:80".parse().unwrap()), "http://[::1]:80/");
    }
}
