//! The newest assets, as the store lists them.

use serde::Deserialize;

use super::text::{bytes, shown};
use crate::api::view::AgentView;
use crate::record::ContentHash;

const ASSETS_SHOWN: usize = 24;
/// Further names of an asset that are shown.
const ALSO_SHOWN: usize = 3;
/// Largest image that is shown as a thumbnail: it is the whole image that the browser fetches.
const THUMBNAIL_BYTES_MAX: u64 = 4 << 20;
/// Images that hold pixels and nothing else.
const RASTER_TYPES: [&str; 5] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"];

pub(in crate::api) struct Recent {
    pub(in crate::api) tiles: Vec<Tile>,
    pub(in crate::api) problem: Option<String>,
}

pub(in crate::api) struct Tile {
    pub(in crate::api) hash: String,
    pub(in crate::api) title: String,
    /// What else it is called; empty where that is nothing.
    pub(in crate::api) also: String,
    pub(in crate::api) kind: String,
    pub(in crate::api) size: String,
    pub(in crate::api) created_at: String,
    pub(in crate::api) tags: Vec<String>,
    pub(in crate::api) is_thumbnail: bool,
    /// Whether its content can be downloaded.
    pub(in crate::api) is_held: bool,
}

/// As much as the page needs of the store's answer.
#[derive(Deserialize)]
struct RecentAssets {
    data: ListingData,
}

#[derive(Deserialize)]
struct ListingData {
    assets: Vec<ListedAsset>,
}

#[derive(Deserialize)]
struct ListedAsset {
    hash: String,
    size: u64,
    mime_type: Option<String>,
    filename: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    created_at: Option<String>,
    #[serde(default = "held")]
    held: bool,
}

fn held() -> bool {
    true
}

impl Recent {
    pub(in crate::api) async fn gather(view: &AgentView) -> Self {
        let listing = view.store_proxy.newest(ASSETS_SHOWN).await.and_then(|value| {
            serde_json::from_value::<RecentAssets>(value)
                .map_err(|error| view.store_proxy.broken(error.to_string()))
        });
        match listing {
            Ok(listing) => {
                let tiles =
                    listing.data.assets.into_iter().take(ASSETS_SHOWN).filter_map(Tile::new).collect();
                Self { tiles, problem: None }
            }
            Err(error) => Self { tiles: Vec::new(), problem: Some(error.message) },
        }
    }
}

impl Tile {
    /// `None` for what has no proper name: the hash becomes part of a link.
    fn new(asset: ListedAsset) -> Option<Self> {
        let hash: ContentHash = asset.hash.parse().ok()?;
        let kind = asset.mime_type.unwrap_or_default().to_ascii_lowercase();
        let names = asset.filename.iter().chain(&asset.names).filter(|name| !name.trim().is_empty());
        let mut names = names.map(|name| shown(name));
        Some(Self {
            title: names.next().unwrap_or_else(|| hash.short()),
            also: also(names.collect()),
            is_thumbnail: asset.held
                && RASTER_TYPES.contains(&kind.as_str())
                && asset.size <= THUMBNAIL_BYTES_MAX,
            is_held: asset.held,
            kind: shown(&kind),
            size: bytes(asset.size),
            created_at: asset.created_at.as_deref().map(shown).unwrap_or_default(),
            tags: asset.tags.iter().take(4).map(|tag| shown(tag)).collect(),
            hash: hash.to_string(),
        })
    }
}

/// Further names in a line: some of them, and how many more there are.
fn also(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(ALSO_SHOWN);
    names.truncate(ALSO_SHOWN);
    let shown = names.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pixels_become_thumbnails_and_only_hashes_links() {
        let asset = |hash: &str, kind: &str, size| ListedAsset {
            hash: hash.into(),
            size,
            mime_type: Some(kind.into()),
            filename: None,
            names: Vec::new(),
            tags: Vec::new(),
            created_at: None,
            held: true,
        };
        let hash = "ab".repeat(32);
        let thumbnail = |kind: &str, size| Tile::new(asset(&hash, kind, size)).unwrap().is_thumbnail;
        assert!(thumbnail("image/PNG", 10));
        assert!(!thumbnail("image/svg+xml", 10));
        assert!(!thumbnail("text/html", 10));
        assert!(!thumbnail("image/png", THUMBNAIL_BYTES_MAX + 1));
        let elsewhere = Tile::new(ListedAsset { held: false, ..asset(&hash, "image/png", 10) }).unwrap();
        assert!(!elsewhere.is_thumbnail && !elsewhere.is_held);
        assert!(Tile::new(asset("../../etc", "image/png", 1)).is_none());
    }

    #[test]
    fn further_names_are_shown_within_bounds() {
        let tile = |filename: Option<&str>, names: &[&str]| {
            let asset = ListedAsset {
                hash: "ab".repeat(32),
                size: 1,
                mime_type: None,
                filename: filename.map(str::to_owned),
                names: names.iter().map(|&name| name.to_owned()).collect(),
                tags: Vec::new(),
                created_at: None,
                held: true,
            };
            let tile = Tile::new(asset).unwrap();
            (tile.title, tile.also)
        };
        let told = |title: &str, also: &str| (title.to_owned(), also.to_owned());
        assert_eq!(tile(Some("a"), &[]), told("a", ""));
        assert_eq!(tile(Some("a"), &["b", "c"]), told("a", "b, c"));
        assert_eq!(tile(None, &["b", "c", "d", "e", "f"]), told("b", "c, d, e and 1 more"));
        assert_eq!(tile(Some(" "), &["b"]), told("b", ""));
    }
}
