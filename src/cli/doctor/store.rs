//! Whether assets can be kept.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::Finding;
use crate::cli::status::{quota_sentence, snapshot_sentence};
use crate::cli::text;
use crate::clock::now_ms;
use crate::config::Config;
use crate::identity::Mend;
use crate::node::DataDir;
use crate::store::can_http::CanHttpStore;
use crate::store::service::key;
use crate::store::{ContentStore as _, SnapshotReport, WaitingUploads};

/// What to do where object storage cannot be used.
const BUCKET: &str = "look whether the object storage runs and is reached from here, and whether `store.content` (url, endpoint, region) and its \
                      keys are right and may read and write there; it is tried again by itself, and what you change in the configuration \
                      or of the keys counts after a new start";
/// The same where it is another program's.
const BUCKET_ELSEWHERE: &str = "on the machine of the CAN Service: look whether the object storage runs and is reached from there, and whether \
                                `store.content` and its keys are right; it is tried again by itself";
/// Without a snapshot for so long, somebody should look.
const SNAPSHOT_AGE_MAX_MS: u64 = 24 * 3600 * 1000;

/// With a daemon, what it says of its store; without one, the store itself. The disk in any case.
pub(super) async fn check(config: &Config, daemon: Option<&Value>) -> Finding {
    let said = match (daemon, &config.can_service_url) {
        (Some(status), _) => of_daemon(status),
        (None, Some(url)) => external(config, url.as_str()).await,
        (None, None) => Ok("no daemon has it open".to_owned()),
    };
    let detail = match said {
        Ok(detail) => detail,
        Err(finding) => return finding,
    };
    if config.can_service_url.is_some() {
        return Finding::ok(detail);
    }
    let (dir, reserve) = (config.data_dir.clone(), config.limits.disk_reserve_bytes);
    let disk = spawn_blocking(move || disk(&dir, reserve)).await;
    match disk.unwrap_or_else(|e| Err(Finding::fail(e.to_string(), "try again"))) {
        Ok((free, finding)) => {
            let detail = format!("{detail}, {free}");
            finding.unwrap_or_else(|| Finding::ok(detail))
        }
        Err(finding) => finding,
    }
}

/// What a daemon on another machine says of its store.
pub(super) fn by_its_word(status: &Value) -> Finding {
    of_daemon(status).map_or_else(|finding| finding, Finding::ok)
}

fn of_daemon(status: &Value) -> Result<String, Finding> {
    let text = |pointer| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let waiting = waiting_uploads(status);
    if status.pointer("/store/healthy").and_then(Value::as_bool) == Some(true) {
        let number = |pointer| status.pointer(pointer).and_then(Value::as_u64);
        let assets = number("/store/assets").unwrap_or_default();
        let counts = counts(assets, number("/store/assets_held").unwrap_or(assets));
        if let no_room @ 1.. = number("/hold/no_room").unwrap_or_default() {
            let quota =
                status.pointer("/store/quota").cloned().and_then(|quota| serde_json::from_value(quota).ok());
            let used = quota.map(|quota| format!(", {}", quota_sentence(&quota))).unwrap_or_default();
            let why =
                format!("the store's quota leaves no room for {}{used}", text::counted(no_room, "asset"));
            return Err(Finding::warn(
                why,
                "`can-sync drop` lets go of what other machines keep; or raise store.quota_bytes and start again. What is deleted counts for \
                 30 days",
            ));
        }
        if let (Some(sentence), true) = &waiting {
            return Err(Finding::warn(
                sentence.clone(),
                "nothing is lost, and the disk fills: what the object storage says tells what to put right",
            ));
        }
        if let Some(last) = overdue_snapshot(status) {
            return Err(Finding::warn(
                format!("{counts}; snapshots: {last}"),
                "they are for when this machine is lost: correct what is wrong, or set store.content.snapshots: false",
            ));
        }
        let notice = status.pointer("/store/notice").and_then(Value::as_str);
        let told = notice.map(str::to_owned).into_iter().chain(waiting.0).map(|told| format!("; {told}"));
        let told: String = told.collect();
        return Ok(format!("{} at {}, {counts}{told}", text("/store/mode"), text("/store/url")));
    }
    let waiting = waiting.0.map(|sentence| format!("; {sentence}")).unwrap_or_default();
    let away = text("/store/contents_away");
    if !away.is_empty() && away == text("/store/error") {
        let why = format!("{away}{waiting}");
        // Of a CAN Service of its own it is not known; such a one tells what waits.
        let is_external = text("/store/mode") == "external";
        let write_back = status.pointer("/store/object_storage/write_back").and_then(Value::as_bool);
        let stays_here = write_back.unwrap_or(is_external && !status["store"]["waiting_uploads"].is_null());
        let advice = if is_external { BUCKET_ELSEWHERE } else { BUCKET };
        return Err(if stays_here { Finding::warn(why, advice) } else { Finding::fail(why, advice) });
    }
    let why = format!(
        "the daemon's store at {} does not work: {}{waiting}",
        text("/store/url"),
        text("/store/error")
    );
    Err(Finding::fail(why, "the daemon's log says more; for an external CAN Service, look whether it runs"))
}

/// What waits to be uploaded, and whether something hinders it.
fn waiting_uploads(status: &Value) -> (Option<String>, bool) {
    let waiting = status.pointer("/store/waiting_uploads").cloned();
    let waiting: Option<WaitingUploads> = waiting.and_then(|waiting| serde_json::from_value(waiting).ok());
    let is_hindered = waiting.as_ref().is_some_and(|waiting| waiting.last_error.is_some());
    (waiting.and_then(|waiting| waiting.sentence()), is_hindered)
}

/// What there is to say of snapshots, where none was made for long and none can be.
fn overdue_snapshot(status: &Value) -> Option<String> {
    let report: SnapshotReport = serde_json::from_value(status.pointer("/store/snapshots")?.clone()).ok()?;
    let is_old = report.last_ms.is_none_or(|last_ms| now_ms().saturating_sub(last_ms) > SNAPSHOT_AGE_MAX_MS);
    (report.problem.is_some() && is_old).then(|| snapshot_sentence(&report))
}

/// How many assets there are, and how many of them are only known.
fn counts(assets: u64, held: u64) -> String {
    let known = text::counted(assets, "asset");
    match assets.saturating_sub(held) {
        0 => known,
        absent => format!("{known}, {absent} of them known and not held here"),
    }
}

async fn external(config: &Config, url: &str) -> Result<String, Finding> {
    let read = match (&config.sync_api_key, &config.sync_api_key_file) {
        (Some(key), _) => Ok(key.clone()),
        (None, Some(path)) => key::read(path, Mend::Never).map(|(key, _)| key).map_err(|e| e.to_string()),
        (None, None) => {
            Err("it needs a key, and neither sync_api_key nor sync_api_key_file is set".to_owned())
        }
    };
    let failed = |why: String| {
        Finding::fail(
            format!("the CAN Service at {url} cannot be used: {why}"),
            "start it, or correct can_service_url and sync_api_key",
        )
    };
    let store = CanHttpStore::new(url, &read.map_err(failed)?).map_err(|e| failed(e.to_string()))?;
    match store.status().await {
        Ok(status) => match status.problem() {
            Some(why) => Err(failed(why)),
            None => Ok(format!("external at {url}, {}", counts(status.assets, status.assets_held))),
        },
        Err(error) => Err(failed(error.to_string())),
    }
}

/// How much room there is, and what is wrong although the store can be used. Blocks.
fn disk(dir: &Path, reserve_bytes: u64) -> Result<(String, Option<Finding>), Finding> {
    let exists = dir.is_dir();
    let there = nearest(dir);
    let shown = there.display().to_string();
    let written = tempfile::tempfile_in(&there).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.sync_all()
    });
    written.map_err(|e| {
        Finding::fail(
            format!("'{shown}' cannot be written: {e}"),
            "let this user write there, free some space, or set data_dir to another directory",
        )
    })?;
    let database = DataDir::new(dir).store().join("store.db");
    if database.exists() {
        readable(&database).map_err(|e| {
            Finding::fail(
                format!("'{}' cannot be read: {e}", database.display()),
                "restore the data directory from a backup, or move it away and let the network fill a new one",
            )
        })?;
    }
    let stat = rustix::fs::statvfs(&there).map_err(|e| {
        Finding::fail(format!("cannot ask how much space '{shown}' has: {e}"), "look at the disk")
    })?;
    let Some(free) = crate::disk::free_of(&stat) else {
        return Ok((format!("'{shown}' does not say how much is free"), None));
    };
    let room = format!("{} free under '{shown}'", text::bytes(free));
    let advice = "free some space, or lower limits.disk_reserve_bytes";
    if free < reserve_bytes {
        let why = format!(
            "{room}, less than the {} kept in reserve: nothing more is stored",
            text::bytes(reserve_bytes)
        );
        return Err(Finding::fail(why, advice));
    }
    let low = free < reserve_bytes.saturating_mul(2);
    let finding = low.then(|| {
        Finding::warn(format!("{room}, and {} of it are kept in reserve", text::bytes(reserve_bytes)), advice)
    });
    let room = if exists { room } else { format!("{room}; the data directory is made at the first start") };
    Ok((room, finding))
}

/// The directory itself, or whatever of the way to it is there.
fn nearest(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new(".")).to_owned()
}

fn readable(database: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::CheckVerdict;

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_what_is() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        let (room, finding) = disk(&dir, 0).unwrap();
        assert!(room.contains("first start") && finding.is_none(), "{room}");
        assert!(!dir.exists() && !home.path().join("a").exists());
        let full = disk(&dir, u64::MAX).unwrap_err();
        assert!(full.verdict == CheckVerdict::Fail && full.detail.contains("kept in reserve"), "{full:?}");
    }

    #[test]
    fn a_database_that_is_none_is_named() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("store")).unwrap();
        std::fs::write(home.path().join("store/store.db"), "garbage ".repeat(200)).unwrap();
        let broken = disk(home.path(), 0).unwrap_err();
        assert!(broken.detail.contains("store.db") && broken.advice.is_some(), "{broken:?}");
    }
}
