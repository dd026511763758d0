//! `can-sync library`, `join`, `approve`, `deny` and `devices`: what is shared by ticket, with whom, and who is let in.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::Context;
use super::client::Service;
use super::error::{CliError, Exit};
use super::output::message;
use super::text;
use crate::library::filter::FilterSpec;
use crate::library::ticket::{Access, TEXT_BYTES_MAX};
use crate::qr;

#[derive(clap::Args, Debug)]
pub(super) struct LibraryArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Share what matches a filter
    Create(CreateArgs),
    /// List the libraries of this node
    List,
    /// Show a library with its members and tickets
    Show {
        /// Its name, or its id or the beginning of that
        library: String,
    },
    /// Forget a library; what came through it stays, unless you say otherwise
    Delete {
        /// Its name, or its id or the beginning of that
        library: String,
        /// What becomes of the assets that came through it and are in no other library; asked for on a terminal
        #[arg(long, value_enum)]
        content: Option<Content>,
    },
    /// Issue a ticket: whoever has it can join
    Invite(InviteArgs),
    /// Take tickets back; who joined by them keeps what it has, and gets no more
    Revoke {
        /// The library's name, or its id or the beginning of that
        library: String,
        /// The number of a ticket: `library show` lists them
        #[arg(long, required_unless_present = "all", conflicts_with = "all")]
        serial: Option<u64>,
        /// All that were issued until now
        #[arg(long)]
        all: bool,
    },
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Content {
    Keep,
    Delete,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum AccessArg {
    Read,
    Write,
}

#[derive(clap::Args, Debug)]
struct CreateArgs {
    /// For people; at most 64 characters
    name: String,
    /// Program that made the asset
    #[arg(long)]
    application: Option<String>,
    /// One of the asset's tags; any of them, where it is given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Person that made the asset
    #[arg(long)]
    user: Option<String>,
    /// How the media type begins, such as `image/`
    #[arg(long, value_name = "PREFIX")]
    mime_prefix: Option<String>,
    /// The asset itself; any of them, where it is given several times
    #[arg(long = "hash", value_name = "HASH")]
    hashes: Vec<String>,
    /// Only say how much that would be
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args, Debug)]
struct InviteArgs {
    /// The library's name, or its id or the beginning of that
    library: String,
    /// Only receive, or also add and edit
    #[arg(long, value_enum, default_value = "read")]
    access: AccessArg,
    /// How long the ticket is valid: `30m`, `12h`, `7d`, or seconds
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    expires: Option<u64>,
    /// How many machines may use it
    #[arg(long, value_name = "N")]
    uses: Option<u32>,
    /// The one endpoint id that may use it
    #[arg(long = "for", value_name = "ID")]
    subject: Option<String>,
    /// Print a QR code, too; the default on a terminal
    #[arg(long)]
    qr: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct JoinArgs {
    /// The ticket, `canlib…`; `-` reads it from stdin
    ticket: String,
    /// Only say what it would let this node into
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct DeviceArgs {
    /// Its endpoint id: `can-sync devices` lists those that wait, `can-sync id` prints a machine's own
    endpoint_id: String,
}

/// A library as far as the command line needs it; the rest is passed on in JSON.
#[derive(Debug, Deserialize, Serialize)]
struct Library {
    id: String,
    name: String,
    access: String,
    owner: bool,
    counts: Held,
    #[serde(default)]
    progress: Progress,
    #[serde(default)]
    problem: Option<String>,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    tickets: Vec<Issued>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Held {
    assets: u64,
    bytes: u64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Progress {
    state: String,
    connected: u64,
    missing: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Member {
    endpoint_id: String,
    name: String,
    access: String,
    connected: bool,
    last_synced: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Issued {
    serial: u64,
    access: String,
    expires: Option<String>,
    uses: Option<u32>,
    used: u32,
    revoked: bool,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
struct Libraries {
    libraries: Vec<Library>,
}

#[derive(Deserialize, Serialize)]
struct Device {
    endpoint_id: String,
    name: String,
    standing: String,
    since: Option<String>,
}

#[derive(Deserialize)]
struct Devices {
    devices: Vec<Device>,
}

/// `7d`, `12h`, `30m`, `90s`, `90`.
fn seconds(text: &str) -> Result<u64, String> {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, secs)| Some((text.strip_suffix(suffix)?, *secs)))
        .unwrap_or((text, 1));
    let parsed: Option<u64> = number.parse().ok();
    parsed
        .and_then(|number| number.checked_mul(unit))
        .filter(|secs| *secs > 0)
        .ok_or_else(|| "expected a time such as 30m, 12h or 7d".to_owned())
}

pub(super) async fn run(context: &Context, args: LibraryArgs) -> Result<(), CliError> {
    let agent = context.agent()?;
    match args.action {
        Action::Create(args) => create(context, &agent, args).await,
        Action::List => list(context, &agent).await,
        Action::Show { library } => {
            let found = find(&agent, &library).await?;
            show(context, &found)
        }
        Action::Delete { library, content } => delete(context, &agent, &library, content).await,
        Action::Invite(args) => invite(context, &agent, args).await,
        Action::Revoke { library, serial, all } => {
            let found = find(&agent, &library).await?;
            let body = if all { json!({ "all": true }) } else { json!({ "serial": serial }) };
            let done: Value = agent.post(&format!("/libraries/{}/revoke", found.id), &body).await?;
            if context.out.json {
                return Ok(context.out.value(&done)?);
            }
            Ok(context
                .out
                .line("revoked; who is connected by it is let go within seconds, and keeps what it has")?)
        }
    }
}

/// By name, id, or the beginning of an id.
async fn find(agent: &Service, wanted: &str) -> Result<Library, CliError> {
    let Libraries { libraries } = agent.get("/libraries", &[]).await?;
    let exact = |library: &Library| library.id == wanted || library.name == wanted;
    let begins = |library: &Library| wanted.len() >= 4 && library.id.starts_with(wanted);
    let any_exact = libraries.iter().any(exact);
    let mut found: Vec<Library> =
        libraries.into_iter().filter(|l| if any_exact { exact(l) } else { begins(l) }).collect();
    match (found.pop(), found.is_empty()) {
        (Some(library), true) => Ok(library),
        (Some(_), false) => {
            Err(CliError::new(Exit::Usage, format!("several libraries are called '{wanted}'"))
                .hint("name one by its id: `can-sync library list` shows them"))
        }
        (None, _) => {
            Err(CliError::new(Exit::NotFound, format!("there is no library '{wanted}' on this node"))
                .hint("`can-sync library list` shows those that are here"))
        }
    }
}

async fn create(context: &Context, agent: &Service, args: CreateArgs) -> Result<(), CliError> {
    let CreateArgs { name, application, tags, user, mime_prefix, hashes, dry_run } = args;
    let filter = FilterSpec { application, tags, user, mime_prefix, hashes };
    if dry_run {
        let held: Held = agent.post("/libraries/preview", &json!({ "filter": filter })).await?;
        if context.out.json {
            return Ok(context.out.value(&held)?);
        }
        let (assets, bytes) = (text::counted(held.assets, "asset"), text::bytes(held.bytes));
        return Ok(context.out.line(&format!("that would be {assets} ({bytes})"))?);
    }
    let made: Library = agent.post("/libraries", &json!({ "name": name, "filter": filter })).await?;
    if context.out.json {
        return Ok(context.out.value(&made)?);
    }
    let (assets, bytes) = (text::counted(made.counts.assets, "asset"), text::bytes(made.counts.bytes));
    context.out.line(&format!("created {} with {assets} ({bytes})", made.id))?;
    message(&format!("next: can-sync library invite {}", &made.id[..made.id.len().min(10)]));
    Ok(())
}

async fn list(context: &Context, agent: &Service) -> Result<(), CliError> {
    let out = context.out;
    let Libraries { libraries } = agent.get("/libraries", &[]).await?;
    if out.json {
        return Ok(libraries.iter().try_for_each(|library| out.value(library))?);
    }
    let row = |library: &Library| {
        let id = if out.terminal { library.id.chars().take(10).collect() } else { library.id.clone() };
        vec![
            id,
            library.name.clone(),
            if library.owner { "owner".to_owned() } else { library.access.clone() },
            library.counts.assets.to_string(),
            library.counts.bytes.to_string(),
            library.progress.state.clone(),
            library.progress.missing.to_string(),
            library.progress.connected.to_string(),
            library.problem.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = libraries.iter().map(row).collect();
    let heading = ["ID", "NAME", "ACCESS", "ASSETS", "BYTES", "STATE", "MISSING", "CONNECTED", "PROBLEM"];
    out.table(Some(&heading), &rows)?;
    if rows.is_empty() && out.terminal {
        message("No libraries: `can-sync library create NAME --mime-prefix image/` makes one.");
    }
    Ok(())
}

fn show(context: &Context, library: &Library) -> Result<(), CliError> {
    let out = context.out;
    if out.json {
        return Ok(out.value(library)?);
    }
    let filter = library.more.get("filter").map(ToString::to_string).unwrap_or_default();
    out.fields(&[
        ("id", library.id.clone()),
        ("name", library.name.clone()),
        ("access", if library.owner { "owner".into() } else { library.access.clone() }),
        ("filter", filter),
        ("assets", format!("{} ({})", library.counts.assets, text::bytes(library.counts.bytes))),
        ("state", format!("{}, {} missing", library.progress.state, library.progress.missing)),
        ("problem", library.problem.clone().unwrap_or_default()),
    ])?;
    let member = |member: &Member| {
        let seen = member.last_synced.as_deref().map(text::ago).unwrap_or_default();
        let state = if member.connected { "connected" } else { "away" };
        vec![member.endpoint_id.clone(), member.name.clone(), member.access.clone(), state.into(), seen]
    };
    if !library.members.is_empty() {
        let rows: Vec<_> = library.members.iter().map(member).collect();
        out.table(Some(&["MEMBER", "NAME", "ACCESS", "STATE", "IN_SYNC"]), &rows)?;
    }
    let issued = |issued: &Issued| {
        let uses = issued.uses.map_or_else(|| "any".into(), |uses| format!("{}/{uses}", issued.used));
        let expires = issued.expires.clone().unwrap_or_else(|| "never".into());
        let state = if issued.revoked { "revoked" } else { "" };
        vec![issued.serial.to_string(), issued.access.clone(), uses, expires, state.into()]
    };
    if !library.tickets.is_empty() {
        let rows: Vec<_> = library.tickets.iter().map(issued).collect();
        out.table(Some(&["TICKET", "ACCESS", "USES", "EXPIRES", "STATE"]), &rows)?;
    }
    Ok(())
}

async fn delete(
    context: &Context,
    agent: &Service,
    wanted: &str,
    asked: Option<Content>,
) -> Result<(), CliError> {
    let library = find(agent, wanted).await?;
    let what = match asked {
        Some(asked) => asked,
        None if std::io::stdin().is_terminal() && !library.owner => ask_content(&library)?,
        None => Content::Keep,
    };
    let word = match what {
        Content::Keep => "keep",
        Content::Delete => "delete",
    };
    let request = agent.request(Method::DELETE, &format!("/libraries/{}", library.id));
    let done: Value = agent.call(request.query(&[("content", word)])).await?;
    if context.out.json {
        return Ok(context.out.value(&done)?);
    }
    let gone = done["deleted"].as_u64().unwrap_or_default();
    let said =
        if gone > 0 { format!(", and {} with it", text::counted(gone, "asset")) } else { String::new() };
    Ok(context.out.line(&format!("forgot {}{said}", text::escape(&library.name)))?)
}

fn ask_content(library: &Library) -> Result<Content, CliError> {
    let held = text::counted(library.counts.assets, "asset");
    message(&format!(
        "Delete what came through '{}' as well, up to {held}? [y/N]",
        text::escape(&library.name)
    ));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| CliError::failure(format!("cannot read the answer: {e}")))?;
    Ok(if matches!(answer.trim(), "y" | "Y" | "yes") { Content::Delete } else { Content::Keep })
}

async fn invite(context: &Context, agent: &Service, args: InviteArgs) -> Result<(), CliError> {
    #[derive(Deserialize)]
    struct Invited {
        ticket: String,
        serial: u64,
    }
    let InviteArgs { library, access, expires, uses, subject, qr } = args;
    let found = find(agent, &library).await?;
    let access = match access {
        AccessArg::Read => Access::Read,
        AccessArg::Write => Access::Write,
    };
    let mut body = json!({ "access": access });
    for (name, value) in [
        ("expires_secs", expires.map(Value::from)),
        ("uses", uses.map(Value::from)),
        ("subject", subject.map(Value::from)),
    ] {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    let answer: Value = agent.post(&format!("/libraries/{}/invite", found.id), &body).await?;
    if context.out.json {
        let mut shown = answer;
        if let Some(fields) = shown.as_object_mut() {
            fields.remove("qr");
        }
        return Ok(context.out.value(&shown)?);
    }
    let invited: Invited = serde_json::from_value(answer)
        .map_err(|e| CliError::failure(format!("the daemon's answer makes no sense: {e}")))?;
    context.out.line(&text::escape(&invited.ticket))?;
    if qr || context.out.terminal {
        match qr::for_terminal(&invited.ticket) {
            Some(code) => context.out.line(&code)?,
            None => message("the ticket is too long for a QR code"),
        }
    }
    let serial = invited.serial;
    message(&format!(
        "on the other machine: can-sync join TICKET; to take it back: can-sync library revoke --serial {serial}"
    ));
    Ok(())
}

pub(super) async fn join(context: &Context, args: JoinArgs) -> Result<(), CliError> {
    let mut ticket = Zeroizing::new(args.ticket);
    if *ticket == "-" {
        ticket.clear();
        let mut input = std::io::stdin().lock().take(TEXT_BYTES_MAX as u64 + 2);
        let read = input.read_to_string(&mut ticket);
        read.map_err(|e| CliError::failure(format!("cannot read the ticket from stdin: {e}")))?;
    }
    let agent = context.agent()?;
    let body = json!({ "ticket": ticket.trim() });
    let preview: Value = agent.post("/join/preview", &body).await?;
    let held = format!(
        "{} ({})",
        text::counted(preview["counts"]["assets"].as_u64().unwrap_or_default(), "asset"),
        text::bytes(preview["counts"]["bytes"].as_u64().unwrap_or_default())
    );
    let name = preview["name"].as_str().unwrap_or_default().to_owned();
    if args.dry_run {
        if context.out.json {
            return Ok(context.out.value(&preview)?);
        }
        let access = preview["access"].as_str().unwrap_or_default();
        return Ok(context.out.line(&format!(
            "'{}' with {held} when the ticket was issued, to {}",
            text::escape(&name),
            text::escape(access)
        ))?);
    }
    let joined: Library = agent.post("/join", &body).await?;
    if context.out.json {
        return Ok(context.out.value(&joined)?);
    }
    Ok(context.out.line(&format!("joined '{}': {held}; members are looked for now", text::escape(&name)))?)
}

pub(super) async fn decide(context: &Context, args: &DeviceArgs, what: &str) -> Result<(), CliError> {
    let path = format!("/devices/{}/{what}", args.endpoint_id);
    let done: Value = context.agent()?.post(&path, &json!({})).await?;
    if context.out.json {
        return Ok(context.out.value(&done)?);
    }
    let standing = done["standing"].as_str().unwrap_or_default();
    Ok(context.out.line(&format!("{standing} {}", text::escape(&args.endpoint_id)))?)
}

pub(super) async fn devices(context: &Context) -> Result<(), CliError> {
    let out = context.out;
    let Devices { devices } = context.agent()?.get("/devices", &[]).await?;
    if out.json {
        return Ok(devices.iter().try_for_each(|device| out.value(device))?);
    }
    let row = |device: &Device| {
        let since = device.since.clone().unwrap_or_default();
        vec![device.endpoint_id.clone(), device.name.clone(), device.standing.clone(), since]
    };
    let rows: Vec<_> = devices.iter().map(row).collect();
    Ok(out.table(Some(&["ID", "NAME", "STANDING", "SINCE"]), &rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("7d"), Ok(604_800));
        assert_eq!((seconds("12h"), seconds("30m"), seconds("90")), (Ok(43_200), Ok(1800), Ok(90)));
        for wrong in ["", "d", "-1", "0", "1w", "99999999999999999999", "9999999999999999999d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
