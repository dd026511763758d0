//! `can-sync library invite` and `join`: from one machine to another by ticket.

use std::io::{IsTerminal as _, Read as _};

use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::show::LibrarySizeBody;
use super::{LibraryBody, find};
use crate::cli::Context;
use crate::cli::asking::confirm;
use crate::cli::client::ApiClient;
use crate::cli::error::{CliError, CliResult};
use crate::cli::output::message;
use crate::cli::resolve;
use crate::cli::text;
use crate::library::ticket::{Access, TEXT_BYTES_MAX};
use crate::qr;

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum AccessArg {
    Read,
    Write,
}

#[derive(clap::Args, Debug)]
pub(super) struct InviteArgs {
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
    /// The one machine that may use it: its endpoint id, or the beginning of that or the name of one that is known here
    #[arg(long = "for", value_name = "MACHINE")]
    subject: Option<String>,
    /// Print a QR code, too; the default on a terminal
    #[arg(long)]
    qr: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct JoinArgs {
    /// The ticket, `canlib…`; `-` reads it from stdin
    ticket: String,
    /// Share what is here already and matches, too, if the ticket allows to write; asked for on a terminal. Else only what is
    /// put or changed here from now on is shared
    #[arg(long, conflicts_with = "dry_run")]
    share_existing: bool,
    /// Only say what it would let this node into
    #[arg(long)]
    dry_run: bool,
}

/// `7d`, `12h`, `30m`, `90s`, `90`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
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

pub(super) async fn invite(context: &Context, agent: &ApiClient, args: InviteArgs) -> CliResult {
    #[derive(Deserialize)]
    struct InvitedBody {
        ticket: String,
        serial: u64,
    }
    let InviteArgs { library, access, expires, uses, subject, qr } = args;
    let found = find(agent, &library).await?;
    let access = match access {
        AccessArg::Read => Access::Read,
        AccessArg::Write => Access::Write,
    };
    let subject = match subject {
        Some(wanted) => Some(resolve::endpoint(agent, &wanted).await?),
        None => None,
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
    let invited: InvitedBody = serde_json::from_value(answer)
        .map_err(|e| CliError::failure(format!("the daemon's answer makes no sense: {e}")))?;
    context.out.line(&text::escape(&invited.ticket))?;
    if qr || context.out.terminal {
        match qr::for_terminal(&invited.ticket) {
            Some(code) => context.out.line(&code)?,
            None => message("the ticket is too long for a QR code"),
        }
    }
    let (serial, library) = (invited.serial, &found.id);
    message(&format!(
        "on the other machine: can-sync join TICKET; to take it back: can-sync library revoke {library} --serial {serial}"
    ));
    Ok(())
}

pub(in crate::cli) async fn join(context: &Context, args: JoinArgs) -> CliResult {
    let mut ticket = Zeroizing::new(args.ticket);
    if *ticket == "-" {
        ticket.clear();
        let mut input = std::io::stdin().lock().take(TEXT_BYTES_MAX as u64 + 2);
        let read = input.read_to_string(&mut ticket);
        read.map_err(|e| CliError::failure(format!("cannot read the ticket from stdin: {e}")))?;
    }
    let agent = context.agent()?;
    let ticket = ticket.trim();
    let answer: Value = agent.post("/join/preview", &json!({ "ticket": ticket })).await?;
    let preview: PreviewBody = serde_json::from_value(answer.clone())
        .map_err(|e| CliError::failure(format!("the daemon's answer makes no sense: {e}")))?;
    let (name, held) = (text::escape(&preview.name), preview.counts.told());
    if args.dry_run {
        if context.out.json {
            return Ok(context.out.value(&answer)?);
        }
        let access = text::escape(&preview.access);
        let of_folder = if preview.is_folder() { ", a folder" } else { "" };
        context
            .out
            .line(&format!("'{name}'{of_folder} with {held} when the ticket was issued, to {access}"))?;
        if preview.is_folder() {
            message(
                "its files come into a directory once one is bound: can-sync folder add DIR --name NAME, after joining",
            );
        }
        if preview.matching.assets > 0 {
            message(&format!("{} here would be shared with --share-existing", preview.matching.told()));
        }
        return Ok(());
    }
    let share_existing = args.share_existing || (preview.matching.assets > 0 && ask_to_share(&preview)?);
    let body = json!({ "ticket": ticket, "share_existing": share_existing });
    let joined: LibraryBody = agent.post("/join", &body).await?;
    if context.out.json {
        return Ok(context.out.value(&joined)?);
    }
    context.out.line(&format!("joined '{name}': {held}; members are looked for now"))?;
    if joined.is_folder() {
        message(
            "next: can-sync folder list, which shows the folder as soon as its owner was met; can-sync folder add DIR --name \
             NAME has a directory follow it",
        );
    }
    Ok(())
}

/// What a ticket would let this node into.
#[derive(Deserialize)]
struct PreviewBody {
    name: String,
    access: String,
    counts: LibrarySizeBody,
    matching: LibrarySizeBody,
    #[serde(default)]
    filter: Value,
}

impl PreviewBody {
    fn is_folder(&self) -> bool {
        self.filter["folder"].is_string()
    }
}

/// Whether to share what is here already. Nobody is asked where nobody can answer: it is not shared then.
fn ask_to_share(preview: &PreviewBody) -> CliResult<bool> {
    let (ours, name) = (preview.matching.told(), text::escape(&preview.name));
    if !std::io::stdin().is_terminal() {
        message(&format!(
            "{ours} here would belong to '{name}' and stay private: only what is put or changed from now on is shared \
             (to share all of it: --share-existing)"
        ));
        return Ok(false);
    }
    confirm(&format!("Share {ours} that are here already and match with the members of '{name}'? [y/N]"))
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
