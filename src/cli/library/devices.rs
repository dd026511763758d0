//! `can-sync approve`, `deny` and `devices`: who is let into the network of the passphrase.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::error::CliResult;
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

pub(in crate::cli) async fn decide(context: &Context, args: &DeviceArgs, what: &str) -> CliResult {
    let agent = context.agent()?;
    let endpoint_id = resolve::endpoint(&agent, &args.machine).await?;
    let done: Value = agent.post(&format!("/devices/{endpoint_id}/{what}"), &json!({})).await?;
    let standing = done["standing"].as_str().unwrap_or_default();
    context.out.result(&done, || format!("{standing} {}", text::escape(&endpoint_id)))
}

pub(in crate::cli) async fn devices(context: &Context) -> CliResult {
    let out = context.out;
    let Devices { devices } = context.agent()?.get("/devices", &[]).await?;
    out.list(&devices, &["ID", "NAME", "STANDING", "SINCE"], |device| {
        let DeviceBody { endpoint_id, name, standing, since } = device;
        let since = out.time(since.as_deref().unwrap_or_default());
        vec![out.id(endpoint_id), name.clone(), standing.clone(), since]
    })
}
