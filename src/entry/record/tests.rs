use super::*;

fn record() -> EntryRecord {
    EntryRecord {
        folder: FolderId([1; 32]),
        path: EntryPath::parse("d/a.txt").unwrap(),
        hlc: Hlc(500),
        writer: WriterId([2; 32]),
        file: Some(EntryFile { target: ContentHash([3; 32]), size: 4, mtime_ms: 5, executable: false }),
        was: None,
        by: "laptop".to_owned(),
        seen: vec![SeenVersion { writer: WriterId([6; 32]), hlc: Hlc(7) }],
    }
}

fn file(record: &mut EntryRecord) -> &mut EntryFile {
    record.file.as_mut().unwrap()
}

#[test]
fn every_field_is_part_of_the_digest_and_of_the_id() {
    let changes: [fn(&mut EntryRecord); 15] = [
        |_| {},
        |r| r.folder.0[0] = 9,
        |r| r.path = EntryPath::parse("d/b.txt").unwrap(),
        |r| r.hlc.0 += 1,
        |r| r.writer.0[0] = 9,
        |r| r.file = None,
        |r| file(r).target.0[0] = 9,
        |r| file(r).size += 1,
        |r| file(r).mtime_ms += 1,
        |r| file(r).executable = true,
        |r| r.was = Some(ContentHash([0; 32])),
        |r| r.by.push('s'),
        |r| r.seen.clear(),
        |r| r.seen[0].hlc.0 += 1,
        |r| r.seen[0].writer.0[0] = 9,
    ];
    let records: Vec<EntryRecord> = changes
        .map(|change| {
            let mut record = record();
            change(&mut record);
            record
        })
        .into();
    let digests: std::collections::BTreeSet<_> = records.iter().map(EntryRecord::digest).collect();
    let ids: std::collections::BTreeSet<_> = records.iter().map(|record| record.id(&[1; 32])).collect();
    assert_eq!((digests.len(), ids.len()), (changes.len(), changes.len()));
    assert_ne!(record().id(&[1; 32]), record().id(&[2; 32]));
}

#[test]
fn an_entry_has_one_name_however_its_path_is_written() {
    let of = |text| EntryHash::of(FolderId([1; 32]), &EntryPath::parse(text).unwrap());
    assert_eq!(of("caf\u{e9}"), of("cafe\u{301}"));
    assert_ne!(of("a"), of("A"));
    assert_ne!(of("a"), EntryHash::of(FolderId([2; 32]), &EntryPath::parse("a").unwrap()));
    assert_ne!(of("a"), EntryHash::of_definition(FolderId([1; 32])));
}

#[test]
fn what_comes_from_outside_is_checked() {
    assert_eq!(record().validate(), Ok(()));
    let broken = |change: fn(&mut EntryRecord)| {
        let mut record = record();
        change(&mut record);
        record.validate()
    };
    assert_eq!(broken(|r| r.by = "x".repeat(33)), Err(EntryError::ByTooLong(33)));
    assert_eq!(broken(|r| r.by = "a\u{202e}".to_owned()), Err(EntryError::ByHidden));
    assert_eq!(broken(|r| r.seen[0].hlc = Hlc(500)), Err(EntryError::SeenTooLate));
    assert_eq!(broken(|r| r.seen.push(r.seen[0])), Err(EntryError::SeenNotCanonical));
    assert_eq!(broken(|r| file(r).mtime_ms = 1 << 48), Err(EntryError::Mtime(1 << 48)));
    assert_eq!(broken(|r| r.path = r.path.aside(r.folder)), Err(EntryError::Aside));
    let seen = |n: u8| SeenVersion { writer: WriterId([n; 32]), hlc: Hlc(1) };
    let many = EntryRecord { seen: (0..33).map(seen).collect(), ..record() };
    assert_eq!(many.validate(), Err(EntryError::TooManySeen(33)));
}

#[test]
fn a_version_saw_the_newest_of_each_writer_before_it() {
    let author =
        |writer: u8, now_ms| EntryAuthor { writer: WriterId([writer; 32]), by: String::new(), now_ms };
    let path = EntryPath::parse("a").unwrap();
    let mut versions: Vec<EntryRecord> = Vec::new();
    for turn in 0..100_u8 {
        let author = author(turn % 40, 1_000 - u64::from(turn));
        let next = EntryRecord::after(versions.last(), (FolderId([0; 32]), &path), None, &author, Hlc(0));
        assert_eq!(next.validate(), Ok(()));
        versions.push(next);
    }
    let last = &versions[99];
    assert_eq!(last.seen.len(), SEEN_MAX);
    for (age, version) in versions[..99].iter().rev().enumerate() {
        assert!(last.supersedes(version) && !version.descends_from(last));
        assert_eq!(
            last.descends_from(version),
            age < 32 || (age >= 40 && age - 40 < 32 || age >= 80),
            "{age}"
        );
    }
}

#[test]
fn a_version_is_later_than_the_clock_what_it_follows_and_the_floor() {
    let author = EntryAuthor { writer: WriterId([1; 32]), by: String::new(), now_ms: 9 };
    let after = |before: Option<&EntryRecord>, floor| {
        EntryRecord::after(before, (FolderId([0; 32]), &EntryPath::parse("a").unwrap()), None, &author, floor)
            .hlc
    };
    let late = EntryRecord { hlc: Hlc::from_ms(20), ..record() };
    assert_eq!(after(None, Hlc(0)), Hlc::from_ms(9));
    assert_eq!(after(Some(&late), Hlc(0)), Hlc(Hlc::from_ms(20).0 + 1));
    assert_eq!(after(Some(&late), Hlc::from_ms(30)), Hlc(Hlc::from_ms(30).0 + 1));
}

#[test]
fn definitions_are_told_apart_by_every_field() {
    let one = FolderDefinition {
        folder: FolderId([1; 32]),
        hlc: Hlc(5),
        writer: WriterId([2; 32]),
        name: "photos".to_owned(),
        access: FolderAccess::Everybody,
        by: "laptop".to_owned(),
    };
    assert_eq!(one.validate(), Ok(()));
    let others = [
        FolderDefinition { folder: FolderId([3; 32]), ..one.clone() },
        FolderDefinition { hlc: Hlc(6), ..one.clone() },
        FolderDefinition { writer: WriterId([3; 32]), ..one.clone() },
        FolderDefinition { name: "x".to_owned(), ..one.clone() },
        FolderDefinition { access: FolderAccess::Senders, ..one.clone() },
        FolderDefinition { by: "x".to_owned(), ..one.clone() },
    ];
    for other in others {
        assert_ne!(one.digest(), other.digest());
        assert_ne!(one.id(&[0; 32]), other.id(&[0; 32]));
        assert!(one.supersedes(&other) != other.supersedes(&one));
    }
    let named = |name: &str| FolderDefinition { name: name.to_owned(), ..one.clone() }.validate();
    for bad in ["", "  ", "a\u{200b}", &"x".repeat(65)] {
        assert_eq!(named(bad), Err(EntryError::FolderName));
    }
}
