//! `can-sync approve`, `deny` and `devices`: who is let into the network of the passphrase.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::text;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct DeviceArgs {
    /// Its endpoint id: `can-sync devices` lists those that wait, `can-sync id` prints a machine's own
    endpoint_id: String,
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
    let path = format!("/devices/{}/{what}", args.endpoint_id);
    let done: Value = context.agent()?.post(&path, &json!({})).await?;
    if context.out.json {
        return Ok(context.out.value(&done)?);
    }
    let standing = done["standing"].as_str().unwrap_or_default();
    Ok(context.out.line(&format!("{standing} {}", text::escape(&args.endpoint_id)))?)
}

pub(in crate::cli) async fn devices(context: &Context) -> Result<(), CliError> {
    let out = context.out;
    let Devices { devices } = context.agent()?.get("/devices", &[]).await?;
    if out.json {
        return Ok(devices.iter().try_for_each(|device| out.value(device))?);
    }
    let row = |device: &DeviceBody| {
        let since = device.since.clone().unwrap_or_default();
        vec![device.endpoint_id.clone(), device.name.clone(), device.standing.clone(), since]
    };
    let rows: Vec<_> = devices.iter().map(row).collect();
    Ok(out.table(Some(&["ID", "NAME", "STANDING", "SINCE"]), &rows)?)
}
