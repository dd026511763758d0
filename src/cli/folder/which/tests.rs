use super::*;

fn folder(name: &str, id: &str, path: &Path) -> FolderReport {
    FolderReport {
        name: name.to_owned(),
        folder: id.repeat(64 / id.len()),
        path: path.display().to_string(),
        ..FolderReport::default()
    }
}

#[test]
fn a_folder_is_named_in_many_ways() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    std::fs::create_dir(home.join("Photos")).unwrap();
    let all = || vec![folder("photos", "ab", &home.join("Photos")), folder("text", "cd", &home.join("Text"))];
    let id = |wanted: &str| pick(all(), Some(wanted)).map(|found| found.name);
    assert_eq!(id("photos").unwrap(), "photos");
    assert_eq!(id("ABABABAB").unwrap(), "photos");
    assert_eq!(id("PHOTOS").unwrap(), "photos");
    assert!(id("").is_err() && id("aba").is_err());
    assert_eq!(id(home.join("Photos").to_str().unwrap()).unwrap(), "photos");
    assert_eq!(id(home.join("x/../Photos/.").to_str().unwrap()).unwrap(), "photos");
    let error = id("other").unwrap_err();
    assert_eq!(error.exit(), Exit::NotFound);
    assert!(error.to_string().contains("photos (ababababab"), "{error}");
    let error = pick(all(), None).unwrap_err();
    assert!(error.to_string().contains("text (cdcdcdcdcd"), "{error}");
    assert_eq!(pick(all().split_off(1), None).unwrap().name, "text");
    assert_eq!(pick(Vec::new(), None).unwrap_err().exit(), Exit::NotFound);
    let twins = vec![folder("x", "ab", &home.join("a")), folder("x", "cd", &home.join("b"))];
    let error = pick(twins, Some("x")).unwrap_err();
    assert!(error.to_string().contains("ababababab") && error.to_string().contains("cdcdcdcdcd"), "{error}");
}

#[test]
fn a_file_is_named_from_the_root_or_as_it_is_from_here() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    std::fs::create_dir_all(home.join("Photos/2024")).unwrap();
    std::os::unix::fs::symlink(home.join("Photos"), home.join("link")).unwrap();
    let one = folder("photos", "ab", &home.join("Photos"));
    let file = |path: &str| file_in(&one, path, |_| false).unwrap_or_else(|error| error.to_string());
    assert_eq!(file("2024/a.jpg"), "2024/a.jpg");
    assert_eq!(file("./2024//x/../a.jpg"), "2024/a.jpg");
    for whole in ["Photos/2024/a.jpg", "link/2024/a.jpg", "Photos/../Photos/2024/a.jpg"] {
        assert_eq!(file(home.join(whole).to_str().unwrap()), "2024/a.jpg", "{whole}");
    }
    for outside in ["../a", "", ".", "/etc/passwd"] {
        assert!(file(outside).contains("is not in the folder 'photos'"), "{}", file(outside));
    }
    let other = folder("text", "cd", &home.join("Text"));
    let path = home.join("Photos/a");
    let found = pick_for(vec![other, one], None, path.to_str().unwrap()).unwrap();
    assert_eq!(found.name, "photos");
}
