use proptest::prelude::*;

use super::*;
use crate::record::AssetMeta;

/// Records and filters from so few words that they meet often.
pub(in crate::library) fn record() -> impl Strategy<Value = AssetRecord> {
    let word = || proptest::option::of(proptest::sample::select(vec!["a", "b", "c"]));
    let tags = proptest::collection::btree_set(proptest::sample::select(vec!["x", "y", "z"]), 0..3);
    let mime = proptest::sample::select(vec!["image/png", "image/jpeg", "text/plain", "IMAGE/gif"]);
    (0..12_u8, word(), word(), tags, mime, 0..1000_u64, any::<bool>()).prop_map(
        |(hash, application, user, tags, mime, at, deleted)| {
            let meta = AssetMeta {
                mime_type: mime.to_owned(),
                application: application.map(str::to_owned),
                user: user.map(str::to_owned),
                tags: AssetMeta::normalise_tags(tags),
                created_at_ms: at,
                ..AssetMeta::default()
            };
            let size = u64::from(hash) + 1;
            AssetRecord { deleted, ..AssetRecord::new(ContentHash([hash; 32]), size, None, meta) }
        },
    )
}

pub(in crate::library) fn filter() -> impl Strategy<Value = Filter> {
    let word = || proptest::option::of(proptest::sample::select(vec!["a", "b", "c"]));
    let tags = proptest::collection::vec(proptest::sample::select(vec!["x", "y", "z"]), 0..3);
    let mime = proptest::option::of(proptest::sample::select(vec!["image/", "image/png", "text/", "te"]));
    let hashes = proptest::collection::vec(0..12_u8, 0..8);
    (word(), word(), tags, mime, hashes).prop_map(|(application, user, tags, mime, hashes)| {
        let spec = FilterSpec {
            application: application.map(str::to_owned),
            user: user.map(str::to_owned),
            tags: some(tags.into_iter().map(str::to_owned).collect()),
            mime_prefix: mime.map(str::to_owned),
            hashes: some(hashes.into_iter().map(|hash| ContentHash([hash; 32]).to_string()).collect()),
            folder: None,
        };
        Filter::try_from(spec).unwrap()
    })
}

fn spec(change: impl FnOnce(&mut FilterSpec)) -> Result<Filter, FilterError> {
    let mut spec = FilterSpec::default();
    change(&mut spec);
    spec.try_into()
}

proptest! {
    #[test]
    fn a_filter_is_the_and_of_its_fields(filter in filter(), record in record()) {
        let alone = |keep: fn(&Filter) -> Filter| keep(&filter).matches(&record);
        let fields = [
            alone(|f| Filter { application: f.application.clone(), ..Filter::default() }),
            alone(|f| Filter { tags: f.tags.clone(), ..Filter::default() }),
            alone(|f| Filter { user: f.user.clone(), ..Filter::default() }),
            alone(|f| Filter { mime_prefix: f.mime_prefix.clone(), ..Filter::default() }),
            alone(|f| Filter { hashes: f.hashes.clone(), ..Filter::default() }),
        ];
        prop_assert_eq!(filter.matches(&record), fields.into_iter().all(|matches| matches));
    }

    #[test]
    fn more_tags_match_more_and_no_tag_matches_all(filter in filter(), record in record()) {
        let by_tag = filter.tags.iter().any(|tag| {
            Filter { tags: [tag.clone()].into(), ..filter.clone() }.matches(&record)
        });
        let without = Filter { tags: BTreeSet::new(), ..filter.clone() };
        let expected = if filter.tags.is_empty() { without.matches(&record) } else { by_tag };
        prop_assert_eq!(filter.matches(&record), expected);
        prop_assert!(!filter.matches(&record) || without.matches(&record));
    }

    #[test]
    fn everything_is_in_the_empty_filter(record in record()) {
        prop_assert!(Filter::default().is_everything() && Filter::default().matches(&record));
    }

    #[test]
    fn a_filter_survives_both_encodings(filter in filter()) {
        let mut bytes = RowWriter::default();
        filter.encode(&mut bytes);
        let mut reader = RowReader::new(&bytes.0);
        prop_assert_eq!(&Filter::decode(&mut reader, false).unwrap(), &filter);
        reader.end().unwrap();
        let json = serde_json::to_string(&FilterSpec::from(&filter)).unwrap();
        let back: FilterSpec = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(Filter::try_from(back).unwrap(), filter);
    }
}

#[test]
fn text_matches_as_people_take_it() {
    let record = |meta: AssetMeta| AssetRecord::new(ContentHash([1; 32]), 1, None, meta);
    let asset = record(AssetMeta {
        application: Some("Cafe\u{301}".into()),
        user: Some("STRASSE".into()),
        tags: vec!["ΟΔΟΣ".into()],
        mime_type: "Image/PNG".into(),
        ..AssetMeta::default()
    });
    let filter = spec(|f| {
        f.application = Some("CAFÉ".into());
        f.user = Some("straße".into());
        f.tags = Some(vec!["οδος".into()]);
        f.mime_prefix = Some("IMAGE/png".into());
    });
    assert!(filter.unwrap().matches(&asset));
    assert!(!spec(|f| f.application = Some("cafe".into())).unwrap().matches(&asset));
}

#[test]
fn what_no_asset_could_match_is_refused_with_the_reason() {
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(spec(|f| f.application = text("  ")), Err(FilterError::Empty("application")));
    assert_eq!(spec(|f| f.user = text("a\u{7}b")), Err(FilterError::Control("user")));
    assert_eq!(spec(|f| f.tags = Some(vec![String::new()])), Err(FilterError::Empty("tag")));
    assert_eq!(spec(|f| f.tags = Some(vec![" x".into()])), Err(FilterError::TagSpaces(" x".into())));
    let long = spec(|f| f.tags = Some(vec!["x".repeat(TAG_CHARS_MAX + 1)]));
    assert!(matches!(long, Err(FilterError::TooLong { field: "tag", .. })), "{long:?}");
    for bad in ["image/png/x", "/png", "im age"] {
        let refused = spec(|f| f.mime_prefix = text(bad));
        assert_eq!(refused, Err(FilterError::MimePrefix(bad.into())));
    }
    assert!(spec(|f| f.mime_prefix = text("text/html; charset=")).is_ok());
    let upper = ContentHash([0xAB; 32]).to_string().to_uppercase();
    assert!(matches!(spec(|f| f.hashes = Some(vec![upper])), Err(FilterError::Hash(_))));
    assert!(matches!(spec(|f| f.hashes = Some(vec!["ABCD".into()])), Err(FilterError::Hash(_))));
    let many = |n: u32| {
        let hash = |i: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&i.to_be_bytes());
            ContentHash(bytes).to_string()
        };
        spec(|f| f.hashes = Some((0..n).map(hash).collect()))
    };
    assert!(many(10_000).is_ok());
    assert!(matches!(many(10_001), Err(FilterError::TooMany { field: "hashes", .. })));
}

#[test]
fn a_folder_is_alone_in_its_filter_and_no_record_tells_whether_it_belongs() {
    let id = "0a".repeat(32);
    let folder = spec(|f| f.folder = Some(id.clone())).unwrap();
    assert_eq!(folder.folder(), Some(FolderId([10; 32])));
    let record = AssetRecord::new(ContentHash([1; 32]), 1, None, AssetMeta::default());
    assert!(!folder.is_everything() && !folder.matches(&record));
    let mut bytes = RowWriter::default();
    folder.encode(&mut bytes);
    let mut reader = RowReader::new(&bytes.0);
    assert_eq!(Filter::decode(&mut reader, true).unwrap(), folder);
    reader.end().unwrap();
    let both = spec(|f| (f.folder, f.user) = (Some(id), Some("ann".into())));
    assert_eq!(both, Err(FilterError::FolderAlone));
    assert_eq!(spec(|f| f.folder = Some("photos".into())), Err(FilterError::Folder));
}

#[test]
fn the_shape_in_json_is_the_documented_one() {
    let json = r#"{"application":"paint","tags":["a","b"],"user":"ann","mime_prefix":"image/"}"#;
    let spec: FilterSpec = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&spec).unwrap(), json);
    assert!(serde_json::from_str::<FilterSpec>(r#"{"mime":"image/"}"#).is_err());
    assert!(serde_json::from_str::<FilterSpec>(r#"{"user":"a","user":"b"}"#).is_err());
    assert!(Filter::try_from(serde_json::from_str::<FilterSpec>("{}").unwrap()).unwrap().is_everything());
}
