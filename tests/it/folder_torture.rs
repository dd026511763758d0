//! kill -9 of either side while two directories become alike, again and again: they end equal, nothing is lost, nothing is left over.
//!
//! The long form: `CAN_SYNC_TORTURE_KILLS=100 CAN_SYNC_TORTURE_FILES=2000 cargo test --test it folder_torture -- --nocapture`;
//! `CAN_SYNC_TORTURE_SEED` says which moments.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::files::contents;
use crate::support::nodes::eventually;

const KILLS: usize = 6;
const FILES: usize = 150;
const SEED: u64 = 0x6b69_6c6c;
/// Every which file is written again, and every which is renamed, while one side is down.
const EDITED: usize = 20;
const RENAMED: usize = 100;
/// Of most files, and of a few.
const BYTES: std::ops::Range<usize> = 0..20_000;
const LARGE_BYTES: std::ops::Range<usize> = 100_000..400_000;

type Files = BTreeMap<String, Vec<u8>>;

/// One side, and what its user has done in its directory.
struct Machine {
    daemon: Option<Daemon>,
    dir: PathBuf,
    /// What begins with this is its user's.
    prefix: &'static str,
    files: Files,
    made: usize,
}

impl Machine {
    fn start(name: &str, prefix: &'static str) -> Self {
        let daemon = Daemon::start(&embedded_yaml(&format!("name: {name}")));
        let dir = daemon.user.home().join("Photos");
        fs::create_dir(&dir).expect("a directory");
        Self { daemon: Some(daemon), dir, prefix, files: Files::new(), made: 0 }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    async fn add(&self) {
        let added = self.daemon().post("/folders", &json!({ "path": self.dir, "name": "photos" })).await;
        assert_eq!(added["status"], "success", "{added}");
    }

    async fn report(&self) -> Value {
        self.daemon().get("/folders/photos").await
    }

    /// What is removed in many rounds adds up until somebody is asked whether it is meant. All of it is.
    async fn confirm_what_is_held(&self) {
        if self.report().await["held"].as_u64().is_some_and(|held| held > 0) {
            let answer = self.daemon().post("/folders/photos/actions", &json!({ "action": "confirm" })).await;
            // By then there may be nothing to confirm any more.
            println!("confirmed: {answer}");
        }
    }

    fn write(&mut self, path: String, content: Vec<u8>) {
        let at = self.dir.join(&path);
        fs::create_dir_all(at.parent().expect("a parent")).expect("directories");
        fs::write(at, &content).expect("a file");
        self.files.insert(path, content);
    }

    fn make(&mut self, random: &mut StdRng) {
        self.made += 1;
        let path = format!("{}/{:02}/{:05}.bin", self.prefix, self.made % 40, self.made);
        self.write(path, content(random));
    }

    /// A few edits and renames, one removal, and a new file for it.
    fn change(&mut self, random: &mut StdRng) {
        let mut paths: Vec<String> = self.files.keys().cloned().collect();
        for _ in 0..paths.len().div_ceil(EDITED) {
            let path = paths.swap_remove(random.random_range(0..paths.len()));
            self.write(path, content(random));
        }
        for _ in 0..paths.len().div_ceil(RENAMED) {
            let path = paths.swap_remove(random.random_range(0..paths.len()));
            self.made += 1;
            let to = format!("{}/moved/{:05}.bin", self.prefix, self.made);
            let content = self.files.remove(&path).expect("it is there");
            let at = self.dir.join(&to);
            fs::create_dir_all(at.parent().expect("a parent")).expect("directories");
            fs::rename(self.dir.join(&path), at).expect("it was there");
            self.files.insert(to, content);
        }
        let path = paths.swap_remove(random.random_range(0..paths.len()));
        self.files.remove(&path).expect("it is there");
        fs::remove_file(self.dir.join(path)).expect("it was there");
        self.make(random);
    }
}

fn content(random: &mut StdRng) -> Vec<u8> {
    let bytes = if random.random_ratio(1, 50) { LARGE_BYTES } else { BYTES };
    let mut content = vec![0; random.random_range(bytes)];
    random.fill(&mut content[..]);
    content
}

/// Every file of a folder's directory, but for what lies in our own.
fn files(dir: &Path) -> Files {
    contents(dir, |name| [".can-sync-trash", ".can-sync-folder"].contains(&name))
}

/// How many files both directories lack together, or have too many.
fn apart(machines: &[Machine; 2]) -> usize {
    let expected: Files = machines.iter().flat_map(|machine| machine.files.clone()).collect();
    let count = |machine: &Machine| {
        let found = files(&machine.dir);
        let missing = expected.iter().filter(|(path, content)| found.get(*path) != Some(content)).count();
        missing + found.keys().filter(|path| !expected.contains_key(*path)).count()
    };
    machines.iter().map(count).sum()
}

async fn wait_until_apart_by(machines: &[Machine; 2], most: usize, what: &str) {
    eventually(what, async || {
        let now = apart(machines);
        if now <= most {
            return Ok(());
        }
        for machine in machines {
            machine.confirm_what_is_held().await;
        }
        Err(format!("{now} of {most} files: {} {}", machines[0].report().await, machines[1].report().await))
    })
    .await;
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_directories_end_equal() {
    let kills = number("CAN_SYNC_TORTURE_KILLS", KILLS as u64);
    let count = number("CAN_SYNC_TORTURE_FILES", FILES as u64);
    let mut random = StdRng::seed_from_u64(number("CAN_SYNC_TORTURE_SEED", SEED));
    let mut machines = [Machine::start("a", "of-a"), Machine::start("b", "of-b")];
    for n in 0..count {
        machines[usize::from(n % 5 == 0)].make(&mut random);
    }
    machines[1].daemon().dial(machines[0].daemon()).await;
    machines[0].add().await;
    eventually("the folder is known", async || {
        let known = machines[1].daemon().get("/folders").await;
        let is_known = known["known"].as_array().is_some_and(|known| known.len() == 1);
        is_known.then_some(()).ok_or_else(|| known.to_string())
    })
    .await;
    machines[1].add().await;

    let began = Instant::now();
    for kill in 0..kills {
        let left = apart(&machines);
        // At once, in the middle, or when all seems to be done.
        let most = if left == 0 { 0 } else { random.random_range(0..=left) };
        wait_until_apart_by(&machines, most, "some of it has come").await;
        let side = random.random_range(0..2);
        let user = machines[side].daemon.take().expect("it runs").into_user();
        for machine in &mut machines {
            machine.change(&mut random);
        }
        machines[side].daemon = Some(Daemon::start_as(user));
        machines[1].daemon().dial(machines[0].daemon()).await;
        println!("kill {kill} of side {side} with {most} of {left} files left, at {:?}", began.elapsed());
    }
    wait_until_apart_by(&machines, 0, "both have everything").await;
    for machine in &machines {
        eventually("nothing is left to do", async || {
            let report = machine.report().await;
            let is_done = report["state"] == "idle" && report["waiting"] == 0 && report["held"] == 0;
            is_done.then_some(()).ok_or_else(|| report.to_string())
        })
        .await;
        let report = machine.report().await;
        assert_eq!(report["conflicts"], json!([]), "nobody edited the same file: {report}");
        // Copies that were under way when it was killed, and none that nobody needs.
        let left: Vec<_> =
            files(&machine.dir).into_keys().filter(|path| path.contains(".can-sync-")).collect();
        assert_eq!(left, [""; 0], "no temporary file is left");
    }
    let [a, b] = &machines;
    // Whose files were all renamed keeps his empty directories, and others have none.
    for machine in [a, b] {
        let prune = ["-mindepth", "1", "-type", "d", "-empty", "-not", "-path", "*/.can-sync*", "-delete"];
        assert!(Command::new("find").arg(&machine.dir).args(prune).status().expect("find runs").success());
    }
    let diff = Command::new("diff").args(["-r", "-x", ".can-sync*"]).arg(&a.dir).arg(&b.dir).output();
    let diff = diff.expect("diff runs");
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    println!("{kills} kills, {} files equal, in {:?}", files(&a.dir).len(), began.elapsed());
}
