//! What can be told of a configured place before anything is made there or asked of a service.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{BucketPatience, IfMissing, backend};
use crate::config::{BucketUrl, ContentBucket};

const SETTING: &str = "store.content";

/// Why a store in `store_dir` cannot keep its contents at a place, as it follows `store.content: `. Nothing is made, and no service is
/// asked. Blocks.
pub(crate) fn place_problem(place: &ContentBucket, store_dir: &Path) -> Option<String> {
    if let BucketUrl::Dir(dir) = &place.url {
        return dir_problem(dir, store_dir);
    }
    let problem = backend::open(place, &BucketPatience::default(), IfMissing::Refuse).err()?;
    let problem = problem.strip_prefix(SETTING).unwrap_or(&problem);
    Some(problem.trim_start_matches([':', '.', ' ']).to_owned())
}

fn dir_problem(dir: &Path, store_dir: &Path) -> Option<String> {
    let shown = dir.display();
    let (real, real_store) = (resolved(dir), resolved(store_dir));
    if real.starts_with(&real_store) {
        return Some(format!(
            "'{shown}' is inside the store's own directory: name one elsewhere, or leave the setting out"
        ));
    }
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(format!("'{shown}' is no directory: name one")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.symlink_metadata().is_ok() {
                return Some(format!(
                    "'{shown}' is a link that leads nowhere: mount the disk that it leads to"
                ));
            }
            let parent = real.parent().unwrap_or(Path::new("/"));
            // The data directory is made before.
            let is_made = real_store.starts_with(parent);
            let why = unmakeable_in(parent).filter(|_| !is_made || parent.exists())?;
            Some(format!("cannot make the directory '{shown}': {why}"))
        }
        Err(error) => Some(format!("cannot use the directory '{shown}': {error}")),
    }
}

/// Why no directory can be made in this one.
fn unmakeable_in(parent: &Path) -> Option<String> {
    let shown = parent.display();
    match fs::metadata(parent) {
        Ok(found) if !found.is_dir() => Some(format!("'{shown}' is no directory")),
        Ok(_) => {
            let may = rustix::fs::access(parent, Access::WRITE_OK | Access::EXEC_OK);
            may.err().map(|error| format!("cannot write in '{shown}': {}", io::Error::from(error)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("there is no directory '{shown}': mount its disk, or make it"))
        }
        Err(error) => Some(format!("cannot look at '{shown}': {error}")),
    }
}

/// Where a path leads, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    let Some((above, real)) = found else { return absolute };
    absolute.strip_prefix(above).map_or(real.clone(), |rest| real.join(rest))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_directory_has_to_be_one_and_apart_from_the_store() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let (store, mounted) = (at("data/store"), at("mounted"));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir(&mounted).unwrap();
        fs::write(at("file"), "").unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        symlink(&store, at("link")).unwrap();
        let problem =
            |path: &Path| place_problem(&ContentBucket::at(BucketUrl::Dir(path.to_owned())), &store);
        for good in [mounted.clone(), at("new"), at("data"), at("data/store-2"), mounted.join("new")] {
            assert_eq!(problem(&good), None, "{}", good.display());
            assert!(good == mounted || good == at("data") || !good.exists(), "nothing is made");
        }
        for (bad, said) in [
            (at("file"), "is no directory"),
            (at("file/below"), "cannot use the directory"),
            (at("not/there/deep"), "there is no directory"),
            (at("dangling"), "leads nowhere"),
            (store.clone(), "store's own"),
            (store.join("content"), "store's own"),
            (at("link"), "store's own"),
            (at("link/new"), "store's own"),
            (at("data/store/../store/new"), "store's own"),
        ] {
            let found = problem(&bad);
            assert!(found.as_ref().is_some_and(|why| why.contains(said)), "{}: {found:?}", bad.display());
        }
        // A store that was not made yet: what it is in will be made, and nothing else.
        for (dir, is_good) in [("later/store/x", false), ("later/bucket", true), ("sooner/bucket", false)] {
            let place = ContentBucket::at(BucketUrl::Dir(at(dir)));
            assert_eq!(place_problem(&place, &at("later/store")).is_none(), is_good, "{dir}");
        }
    }

    #[test]
    fn a_file_with_keys_is_read_and_nothing_of_it_told() {
        let home = tempfile::tempdir().unwrap();
        let keys = home.path().join("keys");
        let problem = || {
            let url = BucketUrl::S3 { bucket: "b".into(), prefix: "p".into() };
            let place = ContentBucket { credentials_file: Some(keys.clone()), ..ContentBucket::at(url) };
            place_problem(&place, home.path())
        };
        let said = |part: &str| {
            let found = problem().unwrap();
            assert!(found.starts_with("credentials_file: ") && found.contains(part), "{found}");
            assert!(!found.contains("secret"), "{found}");
        };
        said("cannot be read");
        let write = |text: &str, mode| {
            fs::write(&keys, text).unwrap();
            fs::set_permissions(&keys, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("aws_access_key_id = a\naws_secret_access_key = secret\n", 0o644);
        said("chmod 600");
        write("secret\n", 0o600);
        said("in line 1");
        write("aws_acess_key_id = secret\n", 0o600);
        said("'aws_acess_key_id' means nothing");
        write("[default]\naws_access_key_id = a\naws_secret_access_key = secret\n", 0o600);
        assert_eq!(problem(), None);
    }
}
