//! `can-sync peers` beyond the daemon's own list: listens to announcements, or asks agents for their peers.

use std::time::Duration;

use futures::future::{Either, select};
use iroh::{Endpoint, EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::network::{self, Keys, KnownAgents};
use super::{AgentWord, AskArgs, NOBODY, Row, complain, show};
use crate::cli::Context;
use crate::cli::error::{CliError, CliResult, Exit};
use crate::cli::output::message;
use crate::cli::progress::ProgressLine;
use crate::cli::text;
use crate::config::Config;
use crate::discovery::crawl::{self, Crawl, CrawlLimits};
use crate::discovery::list::{self, LookupError};
use crate::discovery::list_peers::{Found, list_all};
use crate::discovery::network::NetworkSettings;

/// For finding out where the agent is that is to be asked.
const LOCATE_WITHIN: Duration = Duration::from_secs(10);

struct AskOutcome {
    found: Vec<Found>,
    /// What is wrong with it, said after the list.
    trouble: Option<CliError>,
}

/// The network as it answers.
pub(super) async fn run(context: &Context, args: &AskArgs) -> CliResult {
    let config = context.load_config(None, Vec::new())?.config;
    let keys = Keys::load(&config, args).await?.ok_or_else(|| network::no_keys(&config))?;
    let deadline = deadline(args);
    let known = KnownAgents::gather(context, &config, args, &keys).await?;
    discover(context, args, &config, &keys, &known, deadline).await
}

fn deadline(args: &AskArgs) -> Instant {
    Instant::now() + Duration::from_secs(args.timeout)
}

/// What an agent has published about itself and those it has seen alive, in the DHT and on the relays.
pub(super) async fn look_up(context: &Context, args: &AskArgs, id: EndpointId) -> CliResult {
    let config = context.load_config(None, Vec::new())?.config;
    let keys = Keys::load(&config, args).await?.and_then(|keys| keys.network);
    let keys = keys.ok_or_else(|| network::no_keys(&config))?;
    let transports = NetworkSettings::of(&config.discovery)
        .connect()
        .map_err(|error| CliError::failure(error.to_string()))?;
    let within = Duration::from_secs(args.timeout);
    let progress = ProgressLine::spinner("looking the agent up");
    let looked = timeout(within, Box::pin(list::lookup(&transports, &keys, id))).await;
    drop(progress);
    let published = looked
        .map_err(|_| {
            CliError::new(Exit::Timeout, format!("no answer within {}", text::seconds(args.timeout)))
        })?
        .map_err(|error| {
            let exit = match error {
                LookupError::NotFound(_) => Exit::NotFound,
                LookupError::NotOurs(_) => Exit::NotAllowed,
                LookupError::NoChannel(_) | LookupError::Failed { .. } => Exit::Failure,
            };
            CliError::new(exit, error.to_string())
        })?;
    let now = Timestamp::now();
    let since = list::age(&published);
    let others = published.agents.iter().filter(|(agent, _)| *agent != id);
    let rows = others.map(|(agent, age)| Row::published(&EndpointAddr::new(*agent), since + *age, now));
    let rows = rows.chain([Row::published(&published.addr, since, now)]).collect();
    show(context, rows)
}

/// As [`run`], for want of a daemon; `no_daemon` is the error if there is nothing to ask with or nobody to ask.
pub(super) async fn without_daemon(context: &Context, args: &AskArgs, no_daemon: CliError) -> CliResult {
    let config = context.load_config(None, Vec::new())?.config;
    let Some(keys) = Keys::load(&config, args).await? else { return Err(no_daemon) };
    let deadline = deadline(args);
    let known = KnownAgents::gather(context, &config, args, &keys).await?;
    if known.reachable().is_empty() {
        if !context.out.json {
            context.out.line(NOBODY)?;
        }
        return Err(no_daemon.hint(
            "start one with `can-sync serve`, or name an agent of the network with --bootstrap TICKET",
        ));
    }
    message("no daemon running: listening to the agents that are known here");
    discover(context, args, &config, &keys, &known, deadline).await
}

async fn discover(
    context: &Context,
    args: &AskArgs,
    config: &Config,
    keys: &Keys,
    known: &KnownAgents,
    deadline: Instant,
) -> CliResult {
    let endpoint = network::open(config, args.no_relay).await?;
    let asked = if args.asks() {
        ask(args, config, keys, known, &endpoint, deadline).await
    } else {
        listen(args, keys, known, &endpoint, deadline).await
    };
    network::close(endpoint).await;
    let AskOutcome { found, trouble } = asked?;
    let now = Timestamp::now();
    show(context, found.iter().map(|found| Row::found(found, now)).collect())?;
    if args.discover {
        hand_over(context, &found).await?;
    }
    trouble.map_or(Ok(()), Err)
}

async fn listen(
    args: &AskArgs,
    keys: &Keys,
    known: &KnownAgents,
    endpoint: &Endpoint,
    deadline: Instant,
) -> CliResult<AskOutcome> {
    let bootstrap = known.reachable();
    if bootstrap.is_empty() {
        return Err(nobody_to_ask());
    }
    let progress = ProgressLine::spinner("joining the network's gossip");
    let told = |count: usize| {
        progress
            .set(&format!("listening for announcements, {} so far", text::counted(count as u64, "agent")));
    };
    let heard = network::listen(endpoint, &keys.presence, bootstrap, args.max_peers, deadline, told).await?;
    drop(progress);
    warn_of_cap(heard.capped, args);
    let trouble = (!heard.joined).then(|| {
        CliError::new(Exit::Timeout, "none of the agents that are known here let us join the gossip in time")
            .hint("are they running, with the same passphrase? `can-sync doctor` looks at what is between")
    });
    Ok(AskOutcome { found: heard.found, trouble })
}

async fn ask(
    args: &AskArgs,
    config: &Config,
    keys: &Keys,
    known: &KnownAgents,
    endpoint: &Endpoint,
    deadline: Instant,
) -> CliResult<AskOutcome> {
    let start = match args.from.as_ref().and_then(AgentWord::addr) {
        Some(agent) => vec![locate(config, keys, known, endpoint, known.of(agent.id), deadline).await?],
        None => known.reachable(),
    };
    if start.is_empty() {
        return Err(nobody_to_ask());
    }
    let depth = args.depth.map_or(Some(0), |depth| u32::try_from(depth).ok());
    let limits = CrawlLimits { depth, peers_max: args.max_peers, ..CrawlLimits::default() };
    let progress = ProgressLine::spinner("asking agents for their peers");
    let question = |addr: EndpointAddr| async move {
        let listed = Box::pin(list_all(endpoint, addr, &keys.rpc, args.max_peers)).await;
        listed.map_err(|error| error.to_string())
    };
    let told = |answered: usize, known: usize| {
        progress.set(&format!("asking agents for their peers: {answered} of {known} have answered"));
    };
    let crawled = crawl::run(Crawl::new(limits, start), deadline, question, told).await;
    drop(progress);
    for (id, why) in &crawled.errors {
        complain(*id, why);
    }
    warn_of_cap(crawled.capped, args);
    let trouble = if crawled.timed_out {
        let limit = text::seconds(args.timeout);
        Some(
            CliError::new(Exit::Timeout, format!("time was up after {limit}: the list is not complete"))
                .hint("--timeout SECS allows more"),
        )
    } else if crawled.answered == 0 {
        Some(CliError::failure("no agent answered").hint("`can-sync doctor` looks at what is between"))
    } else {
        None
    };
    Ok(AskOutcome { found: crawled.found, trouble })
}

/// Where an agent is of which perhaps only the id is known: known ones may know, and it may have published it.
async fn locate(
    config: &Config,
    keys: &Keys,
    known: &KnownAgents,
    endpoint: &Endpoint,
    agent: EndpointAddr,
    deadline: Instant,
) -> CliResult<EndpointAddr> {
    if !agent.addrs.is_empty() {
        return Ok(agent);
    }
    let _progress = ProgressLine::spinner("asking where the agent is");
    let deadline = deadline.min(Instant::now() + LOCATE_WITHIN);
    let named = Box::pin(named_by_others(keys, known, endpoint, agent.id, deadline));
    let published = Box::pin(timeout_at(deadline, published(config, keys, agent.id)));
    let found = match select(named, published).await {
        Either::Left((Some(addr), _)) | Either::Right((Ok(Some(addr)), _)) => Some(addr),
        Either::Left((None, published)) => published.await.ok().flatten(),
        Either::Right((Ok(None) | Err(_), named)) => named.await,
    };
    found.ok_or_else(|| {
        CliError::new(Exit::NotFound, format!("nobody here knows where {} is", agent.id))
            .hint("give its ticket instead: `can-sync id --ticket` prints it on that machine")
    })
}

async fn named_by_others(
    keys: &Keys,
    known: &KnownAgents,
    endpoint: &Endpoint,
    id: EndpointId,
    deadline: Instant,
) -> Option<EndpointAddr> {
    let limits = CrawlLimits { depth: Some(0), ..CrawlLimits::default() };
    let question = |addr: EndpointAddr| async move {
        let listed = Box::pin(list_all(endpoint, addr, &keys.rpc, limits.peers_max)).await;
        listed.map_err(|error| error.to_string())
    };
    let crawled = crawl::run(Crawl::new(limits, known.reachable()), deadline, question, |_, _| ()).await;
    let found = crawled.found.into_iter().find(|found| found.id == id && !found.addr.addrs.is_empty());
    found.map(|found| found.addr)
}

/// What the agent itself has published, as far as we can read it.
async fn published(config: &Config, keys: &Keys, id: EndpointId) -> Option<EndpointAddr> {
    let network = keys.network.as_ref()?;
    let transports = NetworkSettings::of(&config.discovery).connect().ok()?;
    let published = Box::pin(list::lookup(&transports, network, id)).await;
    let addr = published.inspect_err(|error| tracing::debug!(%error, "nothing published")).ok()?.addr;
    (!addr.addrs.is_empty()).then_some(addr)
}

/// Tells the daemon where everyone is.
async fn hand_over(context: &Context, found: &[Found]) -> CliResult {
    let agent = context.agent()?;
    let _progress = ProgressLine::spinner("handing the agents to the daemon");
    let mut handed = 0_u64;
    // The daemon itself is among those who were found, and it refuses to dial itself.
    let own_id = network::daemon(context).await.map(|daemon| daemon.id);
    let is_other = |found: &&Found| Some(found.id) != own_id && !found.addr.addrs.is_empty();
    for found in found.iter().filter(is_other) {
        let ticket = EndpointTicket::new(found.addr.clone()).to_string();
        match agent.post::<Value>("/peers", &json!({ "ticket": ticket })).await {
            Ok(_) => handed += 1,
            Err(error) if error.exit() == Exit::NoDaemon => return Err(error),
            Err(error) => complain(found.id, &error.to_string()),
        }
    }
    message(&format!("handed {} to the daemon", text::counted(handed, "agent")));
    Ok(())
}

fn warn_of_cap(capped: bool, args: &AskArgs) {
    if capped {
        message(&format!(
            "warning: there are more than {} agents; --max-peers N takes in more",
            args.max_peers
        ));
    }
}

fn nobody_to_ask() -> CliError {
    CliError::new(
        Exit::NotFound,
        "there is nobody to ask: no daemon runs here, and no address of an agent is known",
    )
    .hint("name one with --bootstrap TICKET: `can-sync id --ticket` prints it on another machine")
}
