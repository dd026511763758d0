//! `can-sync edit`: changes what is said about an asset.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::Context;
use super::assets::Asset;
use super::error::{CliError, Exit};
use super::resolve;
use super::text;
use crate::text::same_text;

/// How often the tags are read again because somebody else edited the asset meanwhile.
const ATTEMPTS_MAX: u32 = 10;

#[derive(clap::Args, Debug)]
pub(super) struct EditArgs {
    /// The asset: its hash, the beginning of that, or its name
    #[arg(value_name = "ASSET")]
    asset: String,
    /// Its name from now on; an empty one takes the name away
    #[arg(long, visible_alias = "filename")]
    name: Option<String>,
    /// Add a tag; several with commas, or given again
    #[arg(long = "tag", visible_alias = "tags", value_name = "TAG", value_delimiter = ',')]
    tags: Vec<String>,
    /// Take a tag away; several with commas, or given again
    #[arg(long = "remove-tag", visible_alias = "untag", value_name = "TAG", value_delimiter = ',')]
    remove_tags: Vec<String>,
    /// Take all tags away that are not given with --tag
    #[arg(long, conflicts_with = "remove_tags")]
    clear_tags: bool,
    /// Free text; an empty one takes it away
    #[arg(long)]
    description: Option<String>,
    /// The program that made it; an empty one takes it away
    #[arg(long)]
    application: Option<String>,
    /// The person who made it; an empty one takes it away
    #[arg(long)]
    user: Option<String>,
    /// The media type
    #[arg(long)]
    mime_type: Option<String>,
}

pub(super) async fn run(context: &Context, args: EditArgs) -> Result<(), CliError> {
    let EditArgs { asset, name, tags, remove_tags, clear_tags, description, application, user, mime_type } =
        args;
    let changes_tags = clear_tags || !tags.is_empty() || !remove_tags.is_empty();
    let texts =
        [("filename", name), ("description", description), ("application", application), ("user", user)];
    let mut patch: Map<String, Value> = texts
        .into_iter()
        .filter_map(|(field, text)| {
            let text = text?;
            Some((field.to_owned(), if text.is_empty() { Value::Null } else { text.into() }))
        })
        .collect();
    patch.extend(mime_type.map(|mime_type| ("mime_type".to_owned(), mime_type.into())));
    if patch.is_empty() && !changes_tags {
        return Err(CliError::new(Exit::Usage, "there is nothing to change")
            .hint("`can-sync edit --help` lists what can be changed, such as --tag and --name"));
    }
    let store = context.store()?;
    let hash = resolve::asset(&store, &asset).await?;
    let of_asset = format!("/asset/{hash}/meta");
    let mut attempts = 0;
    let edited: Asset = loop {
        let mut version = None;
        if changes_tags {
            let (now, tag): (Asset, _) = store.get_version(&of_asset).await?;
            let kept = if clear_tags { Vec::new() } else { without(now.tags, &remove_tags)? };
            let all: Vec<String> = kept.into_iter().chain(tags.iter().cloned()).collect();
            patch.insert("tags".to_owned(), json!(all));
            version = tag;
        }
        let request = store.request(Method::PATCH, &of_asset).json(&patch);
        // Somebody else may edit it at the same time: their tags are to stay.
        if let Some(edited) = store.change(request, version).await? {
            break edited;
        }
        attempts += 1;
        if attempts == ATTEMPTS_MAX {
            return Err(CliError::failure(format!("{hash} is edited again and again by somebody else")));
        }
    };
    if context.out.json {
        return Ok(context.out.value(&edited)?);
    }
    let named = edited.filename.as_deref().map(|name| format!("  {name}")).unwrap_or_default();
    Ok(context.out.line(&text::escape(&format!("edited {hash}{named}")))?)
}

/// The tags that are left.
fn without(mut tags: Vec<String>, gone: &[String]) -> Result<Vec<String>, CliError> {
    for gone in gone {
        let before = tags.len();
        tags.retain(|tag| !same_text(tag, gone.trim()));
        if tags.len() == before {
            let listed = if tags.is_empty() { "none".into() } else { tags.join(", ") };
            return Err(CliError::new(Exit::NotFound, format!("it has no tag '{gone}'"))
                .hint(format!("its tags are: {listed}")));
        }
    }
    Ok(tags)
}
