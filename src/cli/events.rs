//! `can-sync events`: what happens on the node, as it happens.

use reqwest::Method;
use serde_json::Value;

use super::Context;
use super::error::{CliError, CliResult, Exit};
use super::text;
use crate::http::sse::{Parser, SseEvent};

/// An event is a line of JSON of a few hundred bytes.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

#[derive(clap::Args, Debug)]
pub(super) struct EventsArgs {
    /// Begin after this event (the `id` of one that was printed); 0 begins with the oldest that is kept
    #[arg(long, value_name = "ID")]
    since: Option<String>,
    /// Only these, such as `asset_received`, separated by commas; `progress`, every second while something is missing, comes
    /// only when it is named
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Stop after this many
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// Ends when the daemon does.
pub(super) async fn run(context: &Context, args: &EventsArgs) -> CliResult {
    let agent = context.agent()?;
    let query: Vec<_> = args.since.iter().map(|since| ("since", since)).collect();
    let mut response = agent.send(agent.request(Method::GET, "/events").query(&query)).await?;
    let mut parser = Parser::with_data(EVENT_BYTES_MAX);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let piece = response.chunk().await.map_err(|e| {
            CliError::new(Exit::NoDaemon, format!("the event stream of {} broke off: {e}", agent.base()))
        })?;
        let Some(piece) = piece else {
            return Err(CliError::new(Exit::NoDaemon, format!("the daemon at {} stopped", agent.base())));
        };
        for event in parser.push(&piece) {
            if left > 0 && args.wants(&event) {
                print(context, &event)?;
                left -= 1;
            }
        }
    }
    Ok(())
}

impl EventsArgs {
    /// The greeting tells where the stream begins, and is no event; progress comes every second and has to be named.
    fn wants(&self, SseEvent { kind, .. }: &SseEvent) -> bool {
        let named = self.types.contains(kind) || (self.types.is_empty() && kind != "progress");
        named && kind != "hello"
    }
}

fn print(context: &Context, event: &SseEvent) -> CliResult {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_else(|_| Value::String(event.data.clone()));
    if context.out.json {
        let line = serde_json::json!({ "id": event.id, "event": event.kind, "data": data });
        return Ok(context.out.value(&line)?);
    }
    let time = data["at_ms"].as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let time = time.map(|time| format!("{time:.3}  ")).unwrap_or_default();
    let detail = data.as_object().map_or_else(
        || plain(&data),
        |fields| {
            let shown = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "at_ms" | "type"));
            shown.map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ")
        },
    );
    Ok(context.out.line(&text::escape(&format!("{time}{}  {detail}", event.kind)))?)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
