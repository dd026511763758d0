//! `can-sync approve`, `deny` and `devices`: who is let into the network of the passphrase.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::resolve;
use crate::cli::text;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct DeviceArgs {
    /// Its endpoint id, the beginning of that, or its name: `can-sync devices` lists those that wait, `can-sync id` prints a
    /// machine's own
    #[arg(value_name = "MACHINE")]
    machine: String,
}

#[derive(Deserialize, Serialize)]
struct DeviceBody {
    endpoint_id: String,
    name: String,
    standing: String,
    since: Option<String>,
}

#[derive(Deserialize)]
struct Devices {
    devices: Vec<DeviceBody>,
}

pub(in crate::cli) async fn decide(context: &Context, args: &DeviceArgs, what: &str) -> Result<(), CliError> {
    let agent = context.agent()?;
    let endpoint_id = resolve::endpoint(&agent, &args.machine).await?;
    let done: Value = agent.post(&format!("/devices/{endpoint_id}/{what}"), &json!({})).await?;
    if context.out.json {
        return Ok(context.out.value(&done)?);
    }
    let standing = done["standing"].as_str().unwrap_or_default();
    Ok(context.out.line(&format!("{standing} {}", text::escape(&endpoint_id)))?)
}

pub(in crate::cli) async fn devices(context: &Context) -> Result<(), CliError> {
    let out = context.out;
    let Devices { devices } = context.agent()?.get("/devices", &[]).await?;
    if out.json {
        return Ok(devices.iter().try_for_each(|device| out.value(device))?);
    }
    let row = |device: &DeviceBody| {
        let since = device.since.clone().unwrap_or_default();
        let since = if out.terminal && !since.is_empty() { text::ago(&since) } else { since };
        vec![
            resolve::shown(&device.endpoint_id, out.terminal),
            device.name.clone(),
            device.standing.clone(),
            since,
        ]
    };
    let rows: Vec<_> = devices.iter().map(row).collect();
    Ok(out.table(Some(&["ID", "NAME", "STANDING", "SINCE"]), &rows)?)
}
