use proptest::prelude::*;

use super::*;

fn record(hlc: u64, writer: u8, name: &str) -> AssetRecord {
    AssetRecord {
        hlc: Hlc(hlc),
        writer: WriterId([writer; 32]),
        ..AssetRecord::new(
            ContentHash([7; 32]),
            3,
            None,
            AssetMeta { filename: Some(name.into()), ..AssetMeta::default() },
        )
    }
}

#[test]
fn ids_round_trip_and_refuse_everything_else() {
    let hash = ContentHash([0xab; 32]);
    assert_eq!(hash.to_string().parse(), Ok(hash));
    for bad in ["", "ab", &"AB".repeat(32), &"g".repeat(64), &"ab".repeat(33)] {
        assert!(bad.parse::<ContentHash>().is_err(), "{bad}");
    }
}

#[test]
fn a_hash_is_of_one_content() {
    let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let hash: ContentHash = of_abc.parse().unwrap();
    assert!(hash.is_of(b"abc") && !hash.is_of(b"abd"));
}

#[test]
fn an_edit_is_later_than_the_clock_and_than_what_it_edits() {
    assert_eq!(Hlc::end_of_ms(5).0 + 1, Hlc::from_ms(6).0);
    let old = Hlc::from_ms(1_000);
    assert_eq!(old.next(2_000), Hlc::from_ms(2_000));
    assert_eq!(old.next(500), Hlc(old.0 + 1));
}

#[test]
fn what_is_too_far_ahead_is_due_when_it_is_not() {
    assert_eq!(Hlc::from_ms(700_001).is_due_in(100_000, HLC_AHEAD_MAX_MS), Some(1));
    assert_eq!(Hlc::from_ms(700_000).is_due_in(100_000, HLC_AHEAD_MAX_MS), None);
    assert_eq!(Hlc::from_ms(1).is_due_in(u64::MAX, HLC_AHEAD_MAX_MS), None);
    assert_eq!(Hlc(u64::MAX).is_due_in(0, 0), Some(u64::MAX >> 16));
}

#[test]
fn a_version_that_is_dated_anew_is_the_same_edit() {
    let mut one = record(5 << 16, 1, "a");
    one.meta.created_at_ms = 5;
    let mut other = AssetRecord { hlc: Hlc(9 << 16), ..one.clone() };
    other.meta.created_at_ms = 9;
    assert_eq!(one.edit(), other.edit());
    assert_ne!(one.digest(), other.digest());
    for different in [
        record(5 << 16, 1, "b"),
        record(5 << 16, 2, "a"),
        AssetRecord { deleted: true, ..record(5 << 16, 1, "a") },
    ] {
        assert_ne!(one.edit(), different.edit());
    }
}

#[test]
fn the_very_same_version_says_the_same_and_came_the_same_way() {
    let one = AssetRecord { via: Some(LibraryId([4; 32])), ..record(5, 1, "a") };
    assert!(one.is_version_of(&AssetRecord { blake3: Some([1; 32]), ..one.clone() }));
    for other in [
        AssetRecord { hlc: Hlc(6), ..one.clone() },
        AssetRecord { writer: WriterId([2; 32]), ..one.clone() },
        AssetRecord { via: None, ..one.clone() },
        AssetRecord { own_content: true, ..one.clone() },
        AssetRecord { deleted: true, ..one.clone() },
    ] {
        assert!(!one.is_version_of(&other) && !other.is_version_of(&one), "{other:?}");
    }
    let again = one.reasserted(Hlc(9));
    assert_eq!((again.hlc, again.edit()), (Hlc(10), one.edit()));
}

#[test]
fn content_that_users_put_stays_theirs_until_they_delete_it() {
    let mine = record(1, 1, "a");
    let came = AssetRecord { via: Some(LibraryId([4; 32])), ..record(2, 2, "b") };
    let kept = AssetRecord { own_content: true, ..came.clone() };
    let gone = |record: &AssetRecord| AssetRecord { deleted: true, ..record.clone() };
    for (before, after, is_own) in [
        (&mine, &came, true),
        (&kept, &came, true),
        (&came, &came, false),
        (&came, &kept, true),
        // A user deleted it, or it was nobody's of ours; a member deleted what is ours.
        (&gone(&mine), &came, false),
        (&gone(&came), &came, false),
        (&gone(&kept), &came, true),
        (&mine, &gone(&came), false),
    ] {
        let now = after.clone().keeping_own(before);
        assert_eq!(now, AssetRecord { own_content: is_own, ..after.clone() }, "after {before:?}");
        assert_eq!(now.is_own(), is_own);
    }
    // What a user writes is theirs without that mark.
    assert!(mine.clone().keeping_own(&kept) == mine && mine.is_own());
    let outside = came.outside_libraries();
    assert_eq!((outside.via, outside.is_own()), (Some(LibraryId::NONE), true));
}

#[test]
fn a_version_is_recalled_to_now_and_after_what_it_replaced() {
    let year = 365 * 24 * 3600 * 1000;
    let now = 1_800_000_000_000;
    let meta = AssetMeta { created_at_ms: now + year, ..AssetMeta::default() };
    let new = AssetRecord::new(ContentHash([7; 32]), 3, None, meta);
    let recalled = new.recalled(Hlc::default(), now).unwrap();
    assert_eq!((recalled.hlc, recalled.meta.created_at_ms), (Hlc::from_ms(now), now), "as if made now");
    assert_eq!(recalled.edit(), new.edit());
    assert_eq!(recalled.recalled(Hlc::default(), now), None, "once is enough");

    let mut edit = record((now + year) << 16, 1, "a");
    edit.meta.created_at_ms = 5;
    let before = Hlc::from_ms(now + 1_000);
    let recalled = edit.recalled(before, now).unwrap();
    assert_eq!((recalled.hlc, recalled.meta.created_at_ms), (Hlc(before.0 + 1), 5));
    // What it replaced is as far ahead: nothing can be done.
    assert_eq!(edit.recalled(Hlc(edit.hlc.0 - 1), now), None);
}

#[test]
fn absent_and_empty_text_are_different_records() {
    let absent = AssetRecord { meta: AssetMeta::default(), ..record(1, 0, "") };
    assert_ne!(absent.digest(), record(1, 0, "").digest());
}

#[test]
fn the_content_hint_is_no_part_of_the_identity() {
    let plain = record(1, 0, "a");
    let hinted = AssetRecord { blake3: Some([1; 32]), ..plain.clone() };
    assert_eq!(plain.id(&[9; 32]), hinted.id(&[9; 32]));
    assert_ne!(plain.id(&[9; 32]), plain.id(&[8; 32]));
}

#[test]
fn members_see_neither_how_a_version_came_nor_what_a_deleted_one_was() {
    let came = AssetRecord { via: Some(LibraryId([4; 32])), ..record(1, 0, "a") };
    let own = AssetRecord { own_content: true, ..came.clone() };
    for came in [&came, &own] {
        assert_eq!(came.for_members(), record(1, 0, "a"));
    }
    assert_ne!(came.id(&[9; 32]), own.id(&[9; 32]), "own devices tell them apart");
    assert_ne!(came.id(&[9; 32]), record(1, 0, "a").id(&[9; 32]), "own devices tell them apart");
    let gone = AssetRecord { deleted: true, ..came };
    assert_eq!(gone.for_members(), AssetRecord { deleted: true, ..record(1, 0, "b") }.for_members());
    let left = AssetRecord { left: true, ..gone.for_members() };
    assert_ne!(left.digest(), gone.for_members().digest());
}

#[test]
fn limits_of_metadata() {
    let meta = |tags: Vec<String>| AssetMeta { tags, ..AssetMeta::default() };
    let many = (0..65).map(|i| format!("{i:03}")).collect();
    assert_eq!(meta(many).validate(), Err(MetaError::TooManyTags(65)));
    assert_eq!(meta(vec!["é".repeat(129)]).validate(), Err(MetaError::TagTooLong(129)));
    assert_eq!(meta(vec!["b".into(), "a".into()]).validate(), Err(MetaError::TagsNotCanonical));
    assert_eq!(meta(vec!["a".into(), "a".into()]).validate(), Err(MetaError::TagsNotCanonical));
    let most = (0..TAGS_MAX).map(|i| format!("{i:03}") + &"é".repeat(TAG_CHARS_MAX - 3)).collect();
    assert_eq!(meta(most).validate(), Ok(()));
    assert_eq!(meta(vec![String::new(), "a".into()]).validate(), Err(MetaError::TagsNotCanonical));
    let long = AssetMeta { description: Some("x".repeat(META_BYTES_MAX + 1)), ..AssetMeta::default() };
    assert_eq!(long.validate(), Err(MetaError::TooLarge(META_BYTES_MAX + 1)));
    assert_eq!(AssetMeta::normalise_tags([" b ", "a", "", "b"]), ["a", "b"]);
}

proptest! {
    /// Exactly one of two different versions wins, whichever side asks.
    #[test]
    fn one_of_two_versions_wins(
        a in (0..3u64, 0..2u8, "[ab]?", proptest::option::of((0..2u8, any::<bool>()))),
        b in (0..3u64, 0..2u8, "[ab]?", proptest::option::of((0..2u8, any::<bool>()))),
    ) {
        let version = |(hlc, writer, name, via): (u64, u8, String, Option<(u8, bool)>)| {
            let own_content = via.is_some_and(|(_, own_content)| own_content);
            let via = via.map(|(via, _)| LibraryId([via; 32]));
            AssetRecord { via, own_content, ..record(hlc, writer, &name) }
        };
        let (a, b) = (version(a), version(b));
        if a == b {
            prop_assert!(!a.supersedes(&b));
        } else {
            prop_assert_ne!(a.supersedes(&b), b.supersedes(&a));
        }
    }
}
