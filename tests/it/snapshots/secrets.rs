//! Whoever may read the bucket learns what is in it, and no secret.

use std::fs;
use std::path::Path;

use data_encoding::HEXLOWER;
use rusqlite::types::ValueRef;

use super::{open, snapshot_files, until_snapshot};
use crate::support::bucket::TestBucket;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::PASSPHRASE;
use crate::support::store::noise;

/// Shorter ones may be anywhere.
const SECRET_BYTES_MIN: usize = 16;

/// Everything of a database that is long enough to be a secret.
fn values_of(database: &Path) -> Vec<Vec<u8>> {
    let database = rusqlite::Connection::open(database).unwrap();
    let mut tables = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut found = Vec::new();
    for table in tables {
        let mut rows = database.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                match row.get_ref(column).unwrap() {
                    ValueRef::Blob(value) | ValueRef::Text(value) => found.push(value.to_vec()),
                    _ => {}
                }
            }
        }
    }
    found.retain(|value| value.len() >= SECRET_BYTES_MIN);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_passphrase_or_ticket_is_in_a_snapshot() {
    let bucket = TestBucket::start().await;
    let mut daemon = Daemon::start(&embedded_yaml(&bucket.yaml()));
    for seed in 0..3_usize {
        let name = format!("{seed}.bin");
        daemon.user.write(&name, noise(3000 + 2000 * seed, seed as u64));
        daemon.ok(&["put", &name, "--tag", "work"]);
    }
    daemon.ok(&["library", "create", "work", "--tag", "work"]);
    let invited = daemon.ok(&["library", "invite", "work", "--json"]).json().remove(0);
    let ticket = invited["ticket"].as_str().unwrap_or_else(|| panic!("{invited}")).to_owned();
    daemon.kill();
    let data = daemon.data_dir();
    let store = open(&data.join("store"), bucket.config_with_snapshots()).await;
    until_snapshot(&store).await;
    store.close().await;

    let mut secrets =
        vec![PASSPHRASE.as_bytes().to_vec(), ticket.clone().into_bytes(), b"test-secret".to_vec()];
    for entry in fs::read_dir(&data).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        let bytes = fs::read(entry.path()).unwrap();
        let is_database = entry.path().extension().is_some_and(|end| end == "db");
        if !is_database
            && (SECRET_BYTES_MIN..4096).contains(&bytes.len())
            && entry.file_name() != "running.json"
        {
            secrets.push(bytes.trim_ascii().to_vec());
        }
    }
    let files = secrets.len();
    assert!(files >= 4, "the endpoint's key is among them: {files}");
    secrets.extend(values_of(&data.join("libraries.db")));
    assert!(secrets.len() > files && ticket.len() > SECRET_BYTES_MIN);
    let all: Vec<u8> = snapshot_files(&bucket).iter().flat_map(|path| fs::read(path).unwrap()).collect();
    assert!(all.len() > 3000);
    let has = |needle: &[u8]| all.windows(needle.len()).any(|window| window == needle);
    assert!(has(b"0.bin") && has(&noise(3000, 0)), "names and small contents are there");
    for secret in secrets {
        let forms = [secret.clone(), HEXLOWER.encode(&secret).into_bytes()];
        assert!(!forms.iter().any(|form| has(form)), "{}", String::from_utf8_lossy(&secret));
    }
}
