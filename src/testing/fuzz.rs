//! Every decoder of bytes from outside, as a function that takes any bytes and panics where a promise is broken: that nothing
//! panics, that what is taken is the same after another trip, that nothing takes more memory or says more than what came.
//!
//! `fuzz/` tries them on bytes that nobody thought of; the tests of this module try them on what that has found and on what real
//! encoders write, all of which is in `tests/data/fuzz/`. The functions stand in `fuzz.rs` of the room whose decoders they try.

/// Takes any bytes.
pub type FuzzTarget = fn(&[u8]);

/// All of them, by name: the directory of what they are tried on.
pub const TARGETS: &[(&str, FuzzTarget)] = &[
    ("announcement", crate::discovery::fuzz::announcement),
    ("batch", crate::store::fuzz::batch),
    ("claims", crate::library::ticket::fuzz::claims),
    ("config", crate::config::fuzz::file),
    ("disposition", crate::store::fuzz::disposition),
    ("entry", crate::wire::fuzz::entry),
    ("events", crate::http::fuzz::events),
    ("frame", crate::wire::fuzz::frame),
    ("http_range", crate::store::fuzz::http_range),
    ("ignored", crate::folder::files::fuzz::ignored),
    ("ledger", crate::transfer::partial::fuzz::ledger),
    ("marker", crate::folder::files::fuzz::marker),
    ("message", crate::wire::fuzz::message),
    ("path", crate::entry::fuzz::path),
    ("peer_list", crate::discovery::fuzz::peer_list),
    ("proof", crate::store::fuzz::proof),
    ("recon_message", crate::reconcile::fuzz::message),
    ("recon_session", crate::reconcile::fuzz::session),
    ("record", crate::wire::fuzz::record),
    ("revocations", crate::library::ticket::fuzz::revocations),
    ("sealed_list", crate::discovery::fuzz::sealed_list),
    ("slot_packet", crate::discovery::fuzz::slot_packet),
    ("snapshot_items", crate::store::fuzz::snapshot_items),
    ("snapshot_manifest", crate::store::fuzz::snapshot_manifest),
    ("snapshot_name", crate::store::fuzz::snapshot_name),
    ("ticket_rest", crate::library::ticket::fuzz::rest),
    ("ticket_text", crate::library::ticket::fuzz::text),
    ("time", crate::http::fuzz::time),
];

#[cfg(test)]
mod seeds;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::catch_unwind;
    use std::path::{Path, PathBuf};

    use super::*;

    fn dir(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(target)
    }

    #[test]
    fn no_promise_is_broken_by_anything_that_was_found_or_written() {
        let mut tried = 0;
        for (name, target) in TARGETS {
            let files: Vec<_> = fs::read_dir(dir(name)).unwrap().map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name} has nothing to start from");
            for file in files {
                let bytes = fs::read(&file).unwrap();
                assert!(catch_unwind(|| target(&bytes)).is_ok(), "{}", file.display());
                tried += 1;
            }
        }
        assert!(tried >= 2 * TARGETS.len(), "only {tried}");
    }

    #[test]
    fn no_promise_is_broken_by_what_encoders_write_today() {
        for (name, target) in TARGETS {
            for bytes in seeds::of(name) {
                target(&bytes);
            }
        }
    }

    /// The fuzzer has a lock file of its own, which nothing else reads: it cannot be built where that lacks something.
    #[test]
    fn the_fuzzer_s_lock_file_knows_every_dependency() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
        let (manifest, lock) = (read("Cargo.toml"), read("fuzz/Cargo.lock"));
        let own =
            lock.split("[[package]]").find(|package| package.contains("name = \"can-sync\"\n")).unwrap();
        let of = |dependency: &str| {
            own.contains(&format!("\n \"{dependency}\"")) || own.contains(&format!("\n \"{dependency} "))
        };
        let mut asked = 0;
        for section in ["[dependencies]\n", "[build-dependencies]\n"] {
            let lines =
                manifest.split(section).nth(1).unwrap().lines().take_while(|line| !line.starts_with('['));
            for (name, rest) in lines.filter_map(|line| line.split_once(" = ")) {
                let package = rest.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
                let package = package.unwrap_or(name);
                assert!(
                    of(package),
                    "{package}: `cp Cargo.lock fuzz/ && cargo metadata --manifest-path fuzz/Cargo.toml`"
                );
                asked += 1;
            }
        }
        assert!(asked > 50, "{asked} dependencies");
    }

    /// `cargo test --lib write_what_fuzzing_starts_from -- --ignored`, once an encoding has changed: adds to what is there.
    #[test]
    #[ignore = "writes into the source tree"]
    fn write_what_fuzzing_starts_from() {
        for (name, _) in TARGETS {
            fs::create_dir_all(dir(name)).unwrap();
            for bytes in seeds::of(name) {
                let digest = blake3::hash(&bytes).to_hex();
                fs::write(dir(name).join(&digest[..16]), bytes).unwrap();
            }
        }
    }
}
