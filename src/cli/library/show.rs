//! `can-sync library list` and `show`, and what the API says of a library.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cli::Context;
use crate::cli::client::ApiClient;
use crate::cli::error::{CliError, CliResult, Exit};
use crate::cli::output::message;
use crate::cli::text;
use crate::clock::{now_ms, span};

/// A library as far as the command line needs it; the rest is passed on in JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct LibraryBody {
    pub(super) id: String,
    pub(super) name: String,
    access: String,
    pub(super) owner: bool,
    pub(super) counts: LibrarySizeBody,
    #[serde(default)]
    progress: AgreementBody,
    problem: Option<String>,
    fresh_within_secs: Option<u64>,
    stale: Option<String>,
    held: Option<String>,
    not_shared: Option<u64>,
    #[serde(default)]
    members: Vec<MemberBody>,
    #[serde(default)]
    tickets: Vec<IssuedBody>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl LibraryBody {
    pub(super) fn is_folder(&self) -> bool {
        self.more.get("filter").is_some_and(|filter| filter["folder"].is_string())
    }

    fn trouble(&self) -> String {
        let not_shared = self.not_shared.filter(|contents| *contents > 0).map(|contents| {
            let (files, name) = (text::counted(contents, "content"), text::escape(&self.name));
            format!(
                "{files} of the folder not shared yet: `can-sync library release {name}` shows what, and asks"
            )
        });
        let reasons = [&self.problem, &self.stale, &self.held, &not_shared].into_iter().flatten();
        reasons.map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct LibrarySizeBody {
    pub(super) assets: u64,
    pub(super) bytes: u64,
}

impl LibrarySizeBody {
    /// For people, such as `3 assets (1.2 MB)`.
    pub(super) fn told(&self) -> String {
        format!("{} ({})", text::counted(self.assets, "asset"), text::bytes(self.bytes))
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct AgreementBody {
    state: String,
    connected: u64,
    missing: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct MemberBody {
    endpoint_id: String,
    name: String,
    access: String,
    connected: bool,
    last_synced: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct IssuedBody {
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
pub(super) struct LibrariesBody {
    pub(super) libraries: Vec<LibraryBody>,
}

pub(super) async fn list(context: &Context, agent: &ApiClient) -> CliResult {
    let out = context.out;
    let LibrariesBody { libraries } = agent.get("/libraries", &[]).await?;
    let heading = ["ID", "NAME", "ACCESS", "ASSETS", "BYTES", "STATE", "MISSING", "CONNECTED", "PROBLEM"];
    out.list(&libraries, &heading, |library| {
        vec![
            out.id(&library.id),
            library.name.clone(),
            if library.owner { "owner".to_owned() } else { library.access.clone() },
            library.counts.assets.to_string(),
            library.counts.bytes.to_string(),
            library.progress.state.clone(),
            library.progress.missing.to_string(),
            library.progress.connected.to_string(),
            library.trouble(),
        ]
    })?;
    if libraries.is_empty() && out.terminal {
        message("No libraries: `can-sync library create NAME --mime-prefix image/` makes one.");
    }
    Ok(())
}

pub(super) fn show(context: &Context, library: &LibraryBody) -> CliResult {
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
        (
            "fresh within",
            library.fresh_within_secs.map(|secs| span(secs.saturating_mul(1000))).unwrap_or_default(),
        ),
        ("problem", library.trouble()),
    ])?;
    if !library.members.is_empty() {
        out.list(&library.members, &["MEMBER", "NAME", "ACCESS", "STATE", "IN_SYNC"], |member| {
            let seen = member.last_synced.as_deref().map(text::ago).unwrap_or_default();
            let state = if member.connected { "connected" } else { "away" };
            let id = out.id(&member.endpoint_id);
            vec![id, member.name.clone(), member.access.clone(), state.into(), seen]
        })?;
    }
    if !library.tickets.is_empty() {
        out.list(&library.tickets, &TICKET_HEADING, IssuedBody::row)?;
    }
    Ok(())
}

const TICKET_HEADING: [&str; 5] = ["TICKET", "ACCESS", "USES", "EXPIRES", "STATE"];

impl IssuedBody {
    fn row(&self) -> Vec<String> {
        let uses = self.uses.map_or_else(|| "any".into(), |uses| format!("{}/{uses}", self.used));
        let expires = self.expires.clone().unwrap_or_else(|| "never".into());
        let is_over = self.expires.as_deref().and_then(text::ms_of).is_some_and(|until| until <= now_ms());
        let state = match self.uses {
            _ if self.revoked => "revoked",
            _ if is_over => "expired",
            Some(uses) if self.used >= uses => "used up",
            Some(_) | None => "",
        };
        vec![self.serial.to_string(), self.access.clone(), uses, expires, state.into()]
    }
}

/// The tickets of one library, or of all that are this node's own.
pub(super) async fn tickets(context: &Context, agent: &ApiClient, wanted: Option<&str>) -> CliResult {
    let out = context.out;
    let libraries = match wanted {
        Some(wanted) => vec![super::find(agent, wanted).await?],
        None => agent.get::<LibrariesBody>("/libraries", &[]).await?.libraries,
    };
    if let Some(joined) = libraries.iter().find(|library| wanted.is_some() && !library.owner) {
        return Err(CliError::new(Exit::NotAllowed, format!("'{}' is somebody else's library", joined.name))
            .hint("only its owner issues tickets for it, and knows which there are"));
    }
    let all =
        || libraries.iter().flat_map(|library| library.tickets.iter().map(move |ticket| (library, ticket)));
    if out.json {
        return Ok(all().try_for_each(|(library, ticket)| {
            let mut value = serde_json::to_value(ticket).unwrap_or_default();
            value["library"] = library.id.clone().into();
            out.value(&value)
        })?);
    }
    let row = |(library, ticket): (&LibraryBody, &IssuedBody)| {
        std::iter::once(library.name.clone()).chain(ticket.row()).collect()
    };
    let rows: Vec<Vec<String>> = all().map(row).collect();
    let heading: Vec<&str> = std::iter::once("LIBRARY").chain(TICKET_HEADING).collect();
    out.table(Some(&heading), &rows)?;
    if rows.is_empty() && out.terminal {
        message("No tickets: `can-sync library invite NAME` issues one.");
    }
    Ok(())
}
