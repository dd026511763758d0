//! `can-sync edit`: changes what is said about an asset.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::Context;
use super::assets::Asset;
use super::error::{CliError, CliResult, Exit};
use super::resolve;
use super::text;
use crate::text::same_text;

/// How often tags and names are read again because somebody else edited the asset meanwhile.
const ATTEMPTS_MAX: u32 = 10;
/// What is added and taken away one by one.
const NAME: &str = "name";
const TAG: &str = "tag";

#[derive(clap::Args, Debug)]
pub(super) struct EditArgs {
    /// The asset: its hash, the beginning of that, or its name
    #[arg(value_name = "ASSET")]
    asset: String,
    /// Its name from now on, in place of the one that ASSET says, or of the first; an empty one takes that away
    #[arg(long, visible_alias = "filename")]
    name: Option<String>,
    /// Add a name beside those that it has; may be given again
    #[arg(long = "add-name", value_name = "NAME")]
    add_names: Vec<String>,
    /// Take one of its names away; may be given again
    #[arg(long = "remove-name", value_name = "NAME")]
    remove_names: Vec<String>,
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

pub(super) async fn run(context: &Context, args: EditArgs) -> CliResult {
    let EditArgs {
        asset,
        name,
        add_names,
        remove_names,
        tags,
        remove_tags,
        clear_tags,
        description,
        application,
        user,
        mime_type,
    } = args;
    let changes_tags = clear_tags || !tags.is_empty() || !remove_tags.is_empty();
    let changes_names = name.is_some() || !add_names.is_empty() || !remove_names.is_empty();
    let texts = [("description", description), ("application", application), ("user", user)];
    let mut patch: Map<String, Value> = texts
        .into_iter()
        .filter_map(|(field, text)| {
            let text = text?;
            Some((field.to_owned(), if text.is_empty() { Value::Null } else { text.into() }))
        })
        .collect();
    patch.extend(mime_type.map(|mime_type| ("mime_type".to_owned(), mime_type.into())));
    if patch.is_empty() && !changes_tags && !changes_names {
        return Err(CliError::new(Exit::Usage, "there is nothing to change")
            .hint("`can-sync edit --help` lists what can be changed, such as --tag and --name"));
    }
    let store = context.store()?;
    let hash = resolve::asset(&store, &asset).await?;
    let of_asset = format!("/asset/{hash}/meta");
    let mut attempts = 0;
    let edited: Asset = loop {
        let mut version = None;
        if changes_tags || changes_names {
            let (now, tag): (Asset, _) = store.get_version(&of_asset).await?;
            if changes_names {
                let names = renamed(&now, &asset, name.as_deref());
                let mut names = without(NAME, names, &remove_names)?;
                names.extend(add_names.iter().cloned());
                let first = if names.is_empty() { Value::Null } else { names.remove(0).into() };
                patch.extend([("filename".to_owned(), first), ("names".to_owned(), json!(names))]);
            }
            if changes_tags {
                let kept = if clear_tags { Vec::new() } else { without(TAG, now.tags, &remove_tags)? };
                let all: Vec<String> = kept.into_iter().chain(tags.iter().cloned()).collect();
                patch.insert("tags".to_owned(), json!(all));
            }
            version = tag;
        }
        let request = store.request(Method::PATCH, &of_asset).json(&patch);
        // Somebody else may edit it at the same time: their tags and names are to stay.
        if let Some(edited) = store.change(request, version).await? {
            break edited;
        }
        attempts += 1;
        if attempts == ATTEMPTS_MAX {
            return Err(CliError::failure(format!("{hash} is edited again and again by somebody else")));
        }
    };
    let told = format!("edited {hash}  {}", edited.called());
    context.out.result(&edited, || text::escape(told.trim_end()).into_owned())
}

/// The names of an asset, with `name` in place of the one that it is called in the command; in place of the first, if that is none.
fn renamed(asset: &Asset, called: &str, name: Option<&str>) -> Vec<String> {
    let mut names: Vec<String> = asset.names().map(str::to_owned).collect();
    let Some(name) = name else { return names };
    let place = names.iter().position(|known| known == called);
    let place = place.or_else(|| names.iter().position(|known| same_text(known, called)));
    let place = place.or(asset.filename.as_ref().map(|_| 0));
    let new = Some(name).filter(|name| !name.is_empty()).map(str::to_owned);
    names.splice(place.map_or(0..0, |place| place..place + 1), new);
    names
}

/// The tags or names that are left: those that are written just so go, or else those that people take for the same.
fn without(what: &str, mut texts: Vec<String>, gone: &[String]) -> CliResult<Vec<String>> {
    for gone in gone {
        // Names that differ in case are two names; tags are one.
        let is_written_so = what == NAME && texts.contains(gone);
        let before = texts.len();
        texts.retain(|text| if is_written_so { text != gone } else { !same_text(text.trim(), gone.trim()) });
        if texts.len() == before {
            let listed = if texts.is_empty() { "none".into() } else { texts.join(", ") };
            return Err(CliError::new(Exit::NotFound, format!("it has no {what} '{gone}'"))
                .hint(format!("its {what}s are: {listed}")));
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_said_is_the_one_that_changes() {
        let asset = |filename: Option<&str>, names: &[&str]| -> Asset {
            let asset = json!({"hash": "ab", "size": 1, "filename": filename, "names": names});
            serde_json::from_value(asset).unwrap()
        };
        let several = asset(Some("a"), &["B", "b", "caf\u{e9}"]);
        for (called, name, expected) in [
            ("a", Some("x"), vec!["x", "B", "b", "caf\u{e9}"]),
            ("b", Some("x"), vec!["a", "B", "x", "caf\u{e9}"]),
            ("CAFE\u{301}", Some("x"), vec!["a", "B", "b", "x"]),
            ("abcd1234", Some("x"), vec!["x", "B", "b", "caf\u{e9}"]),
            ("b", Some(""), vec!["a", "B", "caf\u{e9}"]),
            ("b", None, vec!["a", "B", "b", "caf\u{e9}"]),
        ] {
            assert_eq!(renamed(&several, called, name), expected, "{called} {name:?}");
        }
        assert_eq!(renamed(&asset(None, &["b"]), "abcd1234", Some("x")), ["x", "b"]);
        assert_eq!(renamed(&asset(None, &["b"]), "b", Some("x")), ["x"]);
        assert_eq!(renamed(&asset(None, &[]), "abcd1234", Some("")), [""; 0]);
    }
}
