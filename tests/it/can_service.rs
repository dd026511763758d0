//! The `can-service` program: starting, stopping, and what it says when it cannot start.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord};
use can_sync::testing::store::hashing_file::HashingFile;
use can_sync::testing::store::service::BASE_PATH;
use can_sync::testing::store::{ContentStore, IncomingAsset, IncomingContent, ItemOutcome, StoreError};
use futures::TryStreamExt;
use reqwest::multipart::{Form, Part};
use tokio::net::TcpListener;

use crate::support::nodes::DEADLINE;
use crate::support::service::{ServiceProcess, client, command, data, soon};

/// Runs a service that must not start, and answers with what it says.
fn complaint(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("can-service runs");
    assert_eq!(status.code(), Some(1));
    assert!(stdout.is_empty());
    let text = String::from_utf8(stderr).expect("text");
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("can-service: ").unwrap_or_else(|| panic!("no complaint in {text}")).to_owned()
}

fn signal(process: &ServiceProcess, name: &str) {
    let kill = format!("kill -{name} {}", process.child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
}

/// Waits for the end of a process, and answers with its exit code.
fn ended(process: &mut ServiceProcess) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = process.child.try_wait().expect("its status") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("can-service did not end in time");
}

#[tokio::test]
async fn it_generates_a_key_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("data").join("sync_api_key");
    let mut keys = Vec::new();
    for expected in [
        format!("Sync API key: {} (new)", key_file.display()),
        format!("Sync API key: {}", key_file.display()),
    ] {
        let mut command = command(&dir.path().join("data"), "127.0.0.1:0");
        command.env_remove("CAN_SYNC_SYNC_API_KEY");
        let mut process = ServiceProcess::spawn(command);
        assert_eq!(process.lines[1], expected);
        let key = std::fs::read_to_string(&key_file).unwrap();
        assert_eq!(std::fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
        let url = format!("http://{}{BASE_PATH}/sync/feed", process.addr);
        let answer = client().get(url).header("X-Sync-Key", key.trim()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        keys.push(key);
        signal(&process, "TERM");
        assert_eq!(ended(&mut process), Some(0));
    }
    assert_eq!(keys[0], keys[1]);
    assert!(keys[0].trim().len() >= 40);
}

#[test]
fn a_key_may_come_from_a_file_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "my-own-key\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let with = |file: &Path| {
        let mut command = command(&dir.path().join("data"), "127.0.0.1:0");
        command.arg("--sync-api-key-file").arg(file).env_remove("CAN_SYNC_SYNC_API_KEY");
        command
    };
    let process = ServiceProcess::spawn(with(&file));
    assert_eq!(process.lines[1], format!("Sync API key: {}", file.display()));
    drop(process);
    let missing = complaint(with(&dir.path().join("nothing")));
    assert!(missing.contains("nothing") && missing.contains("No such file"), "{missing}");
    std::fs::write(&file, "\n").unwrap();
    assert!(complaint(with(&file)).contains("visible ASCII"));
}

#[tokio::test]
async fn a_port_in_use_is_named_and_nothing_changed() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let data_dir = dir.path().join("data");
    let text = complaint(command(&data_dir, &addr.to_string()));
    assert!(text.contains(&addr.port().to_string()) && text.contains("--listen"), "{text}");
    assert!(!data_dir.exists());
}

#[test]
fn a_directory_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let _first = ServiceProcess::start(dir.path(), "127.0.0.1:0");
    let text = complaint(command(dir.path(), "127.0.0.1:0"));
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("sync_api_key");
    std::fs::write(&key, "x").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = command(dir.path(), "127.0.0.1:0");
    command.env_remove("CAN_SYNC_SYNC_API_KEY");
    assert!(complaint(command).contains("chmod 600"));
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let text = complaint(command(&file.join("data"), "127.0.0.1:0"));
    assert!(text.contains("file/data"), "{text}");
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    for args in [&["--nonsense"][..], &["--disk-reserve", "x"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_can-service")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn listening_beyond_this_machine_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), "0.0.0.0:0");
    let log = dir.path().join("log");
    command.stderr(Stdio::from(std::fs::File::create(&log).unwrap()));
    let mut process = ServiceProcess::spawn(command);
    signal(&process, "INT");
    assert_eq!(ended(&mut process), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("needs no key"), "{log}");
}

#[tokio::test]
async fn it_stops_with_streams_open_and_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = ServiceProcess::start(dir.path(), "127.0.0.1:0");
    let url = |addr, path: &str| format!("http://{addr}{BASE_PATH}{path}");
    let form = Form::new().part("file", Part::bytes(b"kept".to_vec()));
    let asset = data(client().post(url(process.addr, "/ingest")).multipart(form).send().await.unwrap()).await;
    let mut events = client().get(url(process.addr, "/events")).send().await.unwrap();
    signal(&process, "TERM");
    assert!(matches!(soon("the end of the stream", events.chunk()).await, Ok(None)));
    assert_eq!(ended(&mut process), Some(0));

    let process = ServiceProcess::start(dir.path(), "127.0.0.1:0");
    let hash = asset["hash"].as_str().unwrap();
    let content = client().get(url(process.addr, &format!("/asset/{hash}"))).send().await.unwrap();
    assert_eq!(content.text().await.unwrap(), "kept");
}

const LARGE_BYTES: usize = 64 << 20;

fn piece(n: usize) -> Bytes {
    vec![u8::try_from(n % 256).expect("a byte"); 1 << 20].into()
}

/// Uploads and downloads of 64 MiB, both ways in and both ways out, in far less memory than that.
#[tokio::test]
async fn memory_does_not_grow_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let process = ServiceProcess::start(&dir.path().join("data"), "127.0.0.1:0");
    let before = process.peak_bytes();
    let pieces = futures::stream::iter((0..LARGE_BYTES >> 20).map(|n| Ok::<_, std::io::Error>(piece(n))));
    let form = Form::new().part("file", Part::stream(reqwest::Body::wrap_stream(pieces)));
    let url = format!("http://{}{BASE_PATH}/ingest", process.addr);
    let asset = data(soon("an upload", client().post(url).multipart(form).send()).await.unwrap()).await;
    assert_eq!(asset["size"], LARGE_BYTES);

    let mut file = HashingFile::create(dir.path()).unwrap();
    for n in (0..LARGE_BYTES >> 20).rev() {
        file.write(piece(n)).await.unwrap();
    }
    let file = file.finish().await.unwrap();
    let path = file.path.to_path_buf();
    let record = AssetRecord::new(file.sha256, file.size, None, AssetMeta::default());
    let batch = vec![IncomingAsset { record: record.clone(), content: IncomingContent::File(file) }];
    let store = process.remote();
    assert_eq!(soon("an upload", store.ingest(batch)).await, Ok(vec![ItemOutcome::Stored]));
    assert!(!path.exists());

    let reader = store.content(record.hash, 0, None).await.unwrap();
    let counted = reader.chunks.try_fold(0, |sum, chunk: Bytes| async move {
        assert!(chunk.len() <= 256 << 10);
        Ok::<usize, StoreError>(sum + chunk.len())
    });
    assert_eq!(soon("a download", counted).await, Ok(LARGE_BYTES));
    let grown = process.peak_bytes() - before;
    assert!(grown < (LARGE_BYTES / 2) as u64, "{} MiB", grown >> 20);
}

/// As for the node: requests are answered and a signal stops the service, whoever does not read its log.
#[tokio::test]
async fn a_reader_of_its_log_that_hangs_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), "127.0.0.1:0");
    command.env("RUST_LOG", "trace").stderr(Stdio::piped());
    let mut process = ServiceProcess::spawn(command);
    let _unread = process.child.stderr.take();
    let (client, url) = (client(), format!("http://{}{BASE_PATH}/status", process.addr));
    // More than a pipe takes, and the queue in front of it.
    for _ in 0..2_000 {
        assert_eq!(soon("an answer", client.get(&url).send()).await.unwrap().status(), 200);
    }
    signal(&process, "TERM");
    assert_eq!(ended(&mut process), Some(0));
}

/// `can-service` under strace, which makes calls that concern `path` fail.
fn failing(dir: &Path, path: &Path, fault: &str) -> Command {
    let service = command(dir, "127.0.0.1:0");
    let calls = fault.split_once(':').expect("calls and a fault").0;
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-o", "/dev/null", "-P"]).arg(path);
    command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={fault}")]);
    command.arg(service.get_program()).args(service.get_args());
    for (key, value) in service.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
}

#[test]
fn what_a_file_system_cannot_do_is_one_sentence() {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        crate::support::mounted::tell("skipped: strace is not installed or not allowed here");
        return;
    }
    for (file, fault, lacks) in [
        ("store.lock", "flock:error=ENOLCK", "has no file locks"),
        ("store.lock", "flock:error=EOPNOTSUPP", "has no file locks"),
        ("store.db-shm", "mmap:error=ENODEV", "cannot share memory"),
        ("store.db", "fcntl:error=EINVAL", "has no file locks"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store").join(file);
        let said = complaint(failing(dir.path(), &path, fault));
        let names_it = said.contains(&path.display().to_string().replace("-shm", ""));
        assert!(
            said.contains(lacks) && said.contains("on a disk of this machine") && names_it,
            "{fault}: {said}"
        );
    }
}

/// Few descriptors, and more clients than they are enough for: it goes on as soon as those are gone, and nothing was taken for
/// damaged.
#[tokio::test]
async fn file_descriptors_run_out_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let process = {
        let service = command(dir.path(), "127.0.0.1:0");
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]);
        limited.arg(service.get_program()).args(service.get_args()).stderr(Stdio::null());
        limited.env("CAN_SYNC_SYNC_API_KEY", crate::support::service::KEY);
        ServiceProcess::spawn(limited)
    };
    let http = client();
    let url = |path: &str| format!("http://{}{BASE_PATH}{path}", process.addr);
    let content = vec![7; 2_000_000];
    let put = || Form::new().part("file", Part::bytes(content.clone()));
    let answer = soon("a put", http.post(url("/ingest")).multipart(put()).send()).await.unwrap();
    let hash = data(answer).await["hash"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let mut crowd = Vec::new();
        for _ in 0..120 {
            if let Ok(stream) = tokio::net::TcpStream::connect(process.addr).await {
                crowd.push(stream);
            }
        }
        // Readers that need a file each; whatever they get is right, or nothing.
        let reads = (0..40).map(|_| async {
            let read = async {
                http.get(url(&format!("/asset/{hash}"))).send().await?.error_for_status()?.bytes().await
            };
            if let Ok(Ok(bytes)) = tokio::time::timeout(Duration::from_secs(5), read).await {
                assert!(bytes == content);
            }
        });
        futures::future::join_all(reads).await;
        drop(crowd);
        crate::support::nodes::eventually("it answers again", async || {
            let read = http.get(url(&format!("/asset/{hash}"))).send().await.map_err(|e| e.to_string())?;
            let read = read.error_for_status().map_err(|e| e.to_string())?;
            assert!(read.bytes().await.map_err(|e| e.to_string())? == content);
            Ok(())
        })
        .await;
    }
    let answer = soon("a put", http.post(url("/ingest")).multipart(put()).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let status = data(http.get(url("/status")).send().await.unwrap()).await;
    assert_eq!((&status["healthy"], &status["damaged"]), (&true.into(), &0.into()), "{status}");
    assert_eq!(std::fs::read_dir(dir.path().join("store/damaged")).unwrap().count(), 0);
}
