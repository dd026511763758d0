//! What a word on the command line means: an id or hash, the beginning of one, or a name, by the rule of [`naming`]. Several are an
//! error that lists them, none is one that says where to look.

use std::collections::BTreeMap;

use serde_json::Value;

use super::assets::{self, Asset, AssetPage};
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use crate::record::ContentHash;
use crate::store::embedded::HashPrefix;
use crate::text::naming::{self, DIGITS_MIN, is_called};
use crate::text::short_id;

/// The same where a mistake costs something.
const DIGITS_FOR_GOOD_MIN: usize = 8;
/// Candidates that an error lists.
const LISTED_MAX: usize = 8;
/// Pages of assets that are looked through for a name.
const PAGES_MAX: usize = 20;

/// What kind of thing is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameKind {
    pub(super) one: &'static str,
    pub(super) many: &'static str,
    /// What shows those that are there.
    pub(super) listed_by: &'static str,
}

const ASSET: NameKind = NameKind {
    one: "asset",
    many: "assets",
    listed_by: "`can-sync list` and `can-sync search` show what is here",
};
const TRASHED: NameKind = NameKind {
    one: "asset in the trash",
    many: "assets in the trash",
    listed_by: "`can-sync trash list` shows it",
};
const PEER: NameKind = NameKind {
    one: "machine",
    many: "machines",
    listed_by: "`can-sync peers list` and `can-sync devices` show those that are known",
};

/// The one among `things` that `wanted` means; `names` gives the id and the name of each.
pub(super) fn pick<T>(
    kind: NameKind,
    wanted: &str,
    things: Vec<T>,
    names: impl Fn(&T) -> (&str, &str),
) -> CliResult<T> {
    let mut meant = naming::meant(wanted, things, &names);
    match meant.len() {
        0 => Err(none(kind, wanted)),
        1 => Ok(meant.remove(0)),
        _ => Err(several(kind, wanted, &meant.iter().map(names).collect::<Vec<_>>())),
    }
}

fn none(kind: NameKind, wanted: &str) -> CliError {
    let NameKind { one, listed_by, .. } = kind;
    if wanted.trim().is_empty() {
        return CliError::new(Exit::Usage, format!("an empty word names no {one}")).hint(listed_by);
    }
    let is_digits = !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digits && wanted.len() < DIGITS_MIN {
        let message = format!(
            "there is no {one} called '{wanted}', and an id needs at least {DIGITS_MIN} of its digits"
        );
        return CliError::new(Exit::Usage, message).hint(listed_by);
    }
    CliError::new(Exit::NotFound, format!("there is no {one} '{wanted}'")).hint(listed_by)
}

fn several(kind: NameKind, wanted: &str, meant: &[(&str, &str)]) -> CliError {
    let listed = meant
        .iter()
        .take(LISTED_MAX)
        .map(|(id, name)| if name.is_empty() { short_id(id) } else { format!("{} ({name})", short_id(id)) });
    let listed: Vec<String> = listed.collect();
    let more = match meant.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("'{wanted}' may be any of several {}: {}{more}", kind.many, listed.join(", "));
    CliError::new(Exit::Usage, message).hint("give more digits of the one that you mean")
}

/// Assets that may be meant, by what they are called.
type NamedAssets = BTreeMap<ContentHash, Asset>;

fn pick_asset(kind: NameKind, wanted: &str, assets: NamedAssets) -> CliResult<ContentHash> {
    let assets = assets.into_iter().collect();
    pick(kind, wanted, assets, |(_, asset)| (&asset.hash, called(asset))).map(|(hash, _)| hash)
}

fn called(asset: &Asset) -> &str {
    asset.filename.as_deref().unwrap_or_default()
}

/// Takes assets in as candidates, each once.
fn take(into: &mut NamedAssets, assets: Vec<Asset>, wanted: &str) {
    for mut asset in assets {
        let Ok(hash) = asset.hash.parse() else { continue };
        // It is called by any of its names.
        let further = asset.names.iter().find(|name| is_called(name, wanted)).cloned();
        asset.filename = further.or(asset.filename);
        into.insert(hash, asset);
    }
}

/// The asset that `wanted` means. A whole hash need not be here.
pub(super) async fn asset(store: &ApiClient, wanted: &str) -> CliResult<ContentHash> {
    if let Ok(hash) = assets::hash(wanted) {
        return Ok(hash);
    }
    pick_asset(ASSET, wanted, live(store, wanted).await?)
}

/// As [`asset`], for what cannot be looked at before it is done: few digits may be a slip of the pen, and are no name of an asset.
pub(super) async fn asset_for_good(store: &ApiClient, wanted: &str) -> CliResult<ContentHash> {
    if let Ok(hash) = assets::hash(wanted) {
        return Ok(hash);
    }
    let candidates = live(store, wanted).await?;
    let is_called = candidates.values().any(|asset| is_called(called(asset), wanted));
    if !candidates.is_empty() && !is_called && wanted.len() < DIGITS_FOR_GOOD_MIN {
        let message =
            format!("no asset is called '{wanted}', and so few digits may be another one's by chance");
        return Err(CliError::new(Exit::Usage, message)
            .hint(format!("give at least {DIGITS_FOR_GOOD_MIN} digits of the hash, or the whole name")));
    }
    pick_asset(ASSET, wanted, candidates)
}

/// As [`asset`], of what is here and what was deleted lately.
pub(super) async fn known_asset(store: &ApiClient, wanted: &str) -> CliResult<ContentHash> {
    if let Ok(hash) = assets::hash(wanted) {
        return Ok(hash);
    }
    let mut candidates = live(store, wanted).await?;
    if candidates.is_empty() {
        candidates = in_trash(store, wanted).await?;
    }
    pick_asset(ASSET, wanted, candidates)
}

/// As [`asset`], of what lies in the trash.
pub(super) async fn trashed(store: &ApiClient, wanted: &str) -> CliResult<ContentHash> {
    if let Ok(hash) = assets::hash(wanted) {
        return Ok(hash);
    }
    pick_asset(TRASHED, wanted, in_trash(store, wanted).await?)
}

async fn live(store: &ApiClient, wanted: &str) -> CliResult<NamedAssets> {
    candidates(store, "/search", Some(("q", wanted.to_owned())), wanted).await
}

/// What lies in the trash and may be meant: it cannot be searched by name.
async fn in_trash(store: &ApiClient, wanted: &str) -> CliResult<NamedAssets> {
    candidates(store, "/trash", None, wanted).await
}

/// What `path` lists whose hash begins so, or that is called so; `narrowed` leaves out much of what is called otherwise.
async fn candidates(
    store: &ApiClient,
    path: &str,
    narrowed: Option<(&str, String)>,
    wanted: &str,
) -> CliResult<NamedAssets> {
    let mut found = NamedAssets::new();
    let limit = || ("limit", assets::PAGE_MAX.to_string());
    let prefix = wanted.to_ascii_lowercase();
    if HashPrefix::parse(&prefix).is_some() {
        let page: AssetPage = store.get(path, &[("hash_prefix", prefix), limit()]).await?;
        take(&mut found, page.assets, wanted);
    }
    if wanted.trim().is_empty() {
        return Ok(found);
    }
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut query = vec![limit()];
        query.extend(narrowed.clone());
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: AssetPage = store.get(path, &query).await?;
        let is_called = |asset: &Asset| asset.names().any(|name| is_called(name, wanted));
        take(&mut found, page.assets.into_iter().filter(is_called).collect(), wanted);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(found)
}

/// The endpoint id of the machine that `wanted` means: a whole id, which need not be known, or the name or the beginning of the
/// id of one that is. `@` may stand before it.
pub(super) async fn endpoint(agent: &ApiClient, wanted: &str) -> CliResult<String> {
    let wanted = wanted.strip_prefix('@').unwrap_or(wanted);
    if is_id(wanted) {
        return Ok(wanted.to_ascii_lowercase());
    }
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (path, list) in [("/peers", "peers"), ("/devices", "devices")] {
        let answer: Value = agent.get(path, &[]).await?;
        for one in answer[list].as_array().into_iter().flatten() {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            let name = known.entry(text("endpoint_id")).or_default();
            if name.is_empty() {
                *name = text("name");
            }
        }
    }
    pick(PEER, wanted, known.into_iter().collect(), |(id, name)| (id, name)).map(|(id, _)| id)
}

/// Whether that is a whole id or hash.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THING: NameKind =
        NameKind { one: "thing", many: "things", listed_by: "`can-sync things` lists them" };

    fn picked(wanted: &str) -> Result<usize, String> {
        let all = [
            ("abcd11", "desk"),
            ("abcd22", "Café"),
            ("beef", "abcd33"),
            ("feed", "twin"),
            ("f00d", "TWIN"),
            ("1a2b3c", "guest"),
            ("99", "1A2B3C"),
            ("77", ""),
        ];
        let whole = |(place, (id, name)): (usize, (&str, &'static str))| {
            (place, format!("{id}{}", "0".repeat(64 - id.len())), name)
        };
        let all = all.into_iter().enumerate().map(whole).collect();
        let picked = pick(THING, wanted, all, |(_, id, name)| (id, name));
        picked.map(|(place, ..)| place).map_err(|error| error.to_string())
    }

    #[test]
    fn a_word_is_a_name_or_the_beginning_of_an_id() {
        assert_eq!(picked("desk"), Ok(0));
        assert_eq!(picked("CAFE\u{301}"), Ok(1), "as people type it");
        assert_eq!((picked("abcd1"), picked("ABCD22")), (Ok(0), Ok(1)));
        assert_eq!(picked("abcd33"), Ok(2), "no id begins so");
        assert_eq!(picked(&format!("beef{}", "0".repeat(60))), Ok(2));
    }

    #[test]
    fn what_may_be_several_is_listed_and_what_is_none_said() {
        let several = picked("abcd").unwrap_err();
        assert!(several.contains("abcd110000 (desk), abcd220000 (Café)"), "{several}");
        assert!(picked("twin").unwrap_err().contains("several things"));
        let claimed = picked("1a2b3c").unwrap_err();
        assert!(claimed.contains("several things"), "a name is no id: {claimed}");
        let none = picked("cellar").unwrap_err();
        assert!(none.contains("no thing 'cellar'") && none.contains("can-sync things"), "{none}");
        assert!(picked("abc").unwrap_err().contains("at least 4 of its digits"));
        for blank in ["", " ", "\u{a0}\t"] {
            let none = picked(blank).unwrap_err();
            assert!(
                none.contains("an empty word names no thing"),
                "what has no name is not called so: {none}"
            );
        }
    }
}
