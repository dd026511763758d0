//! A real object storage service in the process of the test, and what goes wrong between it and a store.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use can_sync::testing::clock::Clock;
use can_sync::testing::config::{BucketUrl, ContentBucket, HttpUrl};
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::StoreError;
use can_sync::testing::store::bucket::{BucketConfig, BucketPatience, SnapshotPace};
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore};
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::task::JoinHandle;

const BUCKET: &str = "assets";
const PREFIX: &str = "can";
const BODY_BYTES_MAX: usize = 256 << 20;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BucketFault {
    /// The service answers so, with this code.
    Status(u16, &'static str),
    /// The connection ends without an answer.
    Drop,
    /// It ends in the middle of the answer.
    Cut,
    /// The last byte of the answer is another one.
    Flip,
    /// The request is carried out, and the answer lost.
    Deaf,
}

/// A request that a store made.
#[derive(Clone, Debug)]
pub(crate) struct BucketRequest {
    /// Counted from 0.
    pub(crate) number: usize,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) range: Option<String>,
    /// It must not replace an object.
    pub(crate) creates: bool,
    /// It must replace one only if that is as it was read.
    pub(crate) updates: bool,
}

impl BucketRequest {
    /// Whether it is about a content.
    pub(crate) fn is_content(&self) -> bool {
        !self.path.ends_with("can-sync-bucket") && !self.is_of_snapshots()
    }
}

impl BucketRequest {
    /// Whether it is about snapshots of the records.
    pub(crate) fn is_of_snapshots(&self) -> bool {
        self.path.contains("can-sync-snapshots") || self.query.contains("can-sync-snapshots")
    }
}

type Plan = Box<dyn Fn(&BucketRequest) -> Option<BucketFault> + Send + Sync>;

struct Between {
    service: S3Service,
    plan: Mutex<Plan>,
    seen: Mutex<Vec<BucketRequest>>,
}

/// The service, in front of which requests fail as a test wishes.
pub(crate) struct TestBucket {
    pub(crate) dir: tempfile::TempDir,
    addr: SocketAddr,
    between: Arc<Between>,
    server: JoinHandle<()>,
}

impl Drop for TestBucket {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TestBucket {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("s3");
        std::fs::create_dir_all(root.join(BUCKET)).expect("a bucket");
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&root).expect("a service"));
        builder.set_auth(SimpleAuth::from_single("test-key", "test-secret"));
        let between = Arc::new(Between {
            service: builder.build(),
            plan: Mutex::new(Box::new(|_| None)),
            seen: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let server = tokio::spawn(serve(listener, Arc::clone(&between)));
        let credentials = dir.path().join("credentials");
        std::fs::write(
            &credentials,
            "[default]\naws_access_key_id = test-key\naws_secret_access_key = test-secret\n",
        )
        .expect("a file");
        std::fs::set_permissions(&credentials, PermissionsExt::from_mode(0o600)).expect("a mode");
        Self { dir, addr, between, server }
    }

    /// How a store reaches it, with little patience.
    pub(crate) fn config(&self) -> BucketConfig {
        let place = ContentBucket {
            endpoint: HttpUrl::parse(&self.endpoint()),
            region: Some("us-east-1".into()),
            allow_http: true,
            credentials_file: Some(self.dir.path().join("credentials")),
            ..ContentBucket::at(BucketUrl::S3 { bucket: BUCKET.into(), prefix: PREFIX.into() })
        };
        BucketConfig { place, cache_bytes: 0, patience: impatient(), snapshots: None }
    }

    /// The same of a store that makes snapshots all the time.
    pub(crate) fn config_with_snapshots(&self) -> BucketConfig {
        BucketConfig { snapshots: Some(restless()), ..self.config() }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The same as it stands in a configuration file.
    pub(crate) fn yaml(&self) -> String {
        format!(
            "store:\n  cache_bytes: 0\n  content:\n    url: s3://{BUCKET}/{PREFIX}\n    endpoint: {}\n    region: us-east-1\n    \
             allow_http: true\n    credentials_file: {}\n",
            self.endpoint(),
            self.dir.path().join("credentials").display()
        )
    }

    /// The same for contents that go there once they are acknowledged.
    pub(crate) fn write_back_yaml(&self) -> String {
        format!("{}    write_back: true\n", self.yaml())
    }

    /// The same for one of several stores.
    pub(crate) fn shared_yaml(&self) -> String {
        format!("{}    shared: true\n", self.yaml())
    }

    /// What goes wrong from now on.
    pub(crate) fn fail(&self, plan: impl Fn(&BucketRequest) -> Option<BucketFault> + Send + Sync + 'static) {
        *self.between.plan.lock() = Box::new(plan);
    }

    /// The requests since the last look.
    pub(crate) fn take_seen(&self) -> Vec<BucketRequest> {
        std::mem::take(&mut *self.between.seen.lock())
    }

    /// Where the service keeps the object of a content.
    pub(crate) fn object(&self, hash: ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.below().join(&name[..2]).join(&name[2..4]).join(name)
    }

    /// Where it keeps everything below the prefix.
    pub(crate) fn below(&self) -> PathBuf {
        self.dir.path().join("s3").join(BUCKET).join(PREFIX)
    }

    /// The contents that it keeps.
    pub(crate) fn objects(&self) -> std::collections::BTreeSet<ContentHash> {
        let entries = walkdir::WalkDir::new(self.below()).into_iter().filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

/// Little patience, for tests.
pub(crate) fn impatient() -> BucketPatience {
    BucketPatience {
        request: Duration::from_secs(20),
        retry: Duration::from_secs(2),
        pause: Duration::from_millis(20),
        missing: Duration::from_millis(500),
        settle: Duration::from_millis(500),
        look: Duration::from_millis(100),
    }
}

/// Snapshots as soon as something changed.
pub(crate) fn restless() -> SnapshotPace {
    SnapshotPace {
        increment: Duration::from_millis(50),
        base: Duration::from_hours(7 * 24),
        retry: Duration::from_millis(50),
    }
}

/// Opens a store that has its larger contents there.
pub(crate) async fn try_open_on(
    dir: &std::path::Path,
    bucket: BucketConfig,
    clock: Clock,
) -> Result<EmbeddedStore, StoreError> {
    let config = EmbeddedConfig { dir: dir.to_owned(), disk_reserve_bytes: 0, clock };
    EmbeddedStore::open_on(config, Some(bucket)).await
}

async fn serve(listener: tokio::net::TcpListener, between: Arc<Between>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let between = Arc::clone(&between);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&between), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn answer(
    between: Arc<Between>,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, Box<dyn std::error::Error + Send + Sync>> {
    let fault = {
        let mut seen = between.seen.lock();
        let range = request.headers().get("range").and_then(|range| range.to_str().ok());
        let request = BucketRequest {
            number: seen.len(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            range: range.map(str::to_owned),
            creates: request.headers().contains_key("if-none-match"),
            updates: request.headers().contains_key("if-match"),
        };
        let fault = (between.plan.lock())(&request);
        seen.push(request);
        fault
    };
    match fault {
        Some(BucketFault::Status(status, code)) => {
            let said =
                format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
            let answer = Response::builder().status(status);
            let answer = if status == 503 { answer.header("retry-after", "1") } else { answer };
            return Ok(answer.body(s3s::Body::from(said))?);
        }
        Some(BucketFault::Drop) => return Err("the connection ends".into()),
        Some(BucketFault::Cut | BucketFault::Flip | BucketFault::Deaf) | None => {}
    }
    let answer = Service::call(&between.service, request).await.map_err(|error| format!("{error:?}"))?;
    let (parts, body) = answer.into_parts();
    let body = match fault {
        Some(BucketFault::Deaf) => return Err("the connection ends".into()),
        Some(BucketFault::Cut) => {
            let bytes = to_bytes(Body::new(body), BODY_BYTES_MAX).await?;
            let half = bytes.slice(..bytes.len() / 2);
            let chunks = [Ok(half), Err(std::io::Error::other("the connection ends"))];
            // What was sent is on its way before it ends.
            let chunks = futures::stream::iter(chunks).then(|chunk| async {
                tokio::task::yield_now().await;
                chunk
            });
            s3s::Body::http_body_unsync(Body::from_stream(chunks))
        }
        Some(BucketFault::Flip) => {
            let mut bytes = to_bytes(Body::new(body), BODY_BYTES_MAX).await?.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            s3s::Body::from(Bytes::from(bytes))
        }
        Some(BucketFault::Status(..) | BucketFault::Drop) | None => body,
    };
    Ok(Response::from_parts(parts, body))
}

/// A place as people write it.
pub(crate) fn parse_place(text: &str) -> ContentBucket {
    ContentBucket::at(BucketUrl::parse(text).expect("a place"))
}
