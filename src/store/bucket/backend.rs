//! The client of a bucket, made of what is configured and of the environment.

use std::fs::{self, DirBuilder};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::BucketPatience;
use crate::config::{BucketUrl, ContentBucket};
use crate::identity;

/// How long a connection takes at most.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How often the client repeats a request by itself.
const RETRIES: usize = 3;
/// A file with keys is short.
const CREDENTIALS_BYTES_MAX: u64 = 64 * 1024;

/// What speaks to the service.
pub(super) struct Backend {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// Uploads in parts that can be aborted by their ids.
    pub(super) parts: Option<Arc<dyn MultipartStore>>,
    /// What is in front of every key.
    pub(super) prefix: String,
    /// The directory, where it is one.
    pub(super) root: Option<PathBuf>,
}

/// What becomes of a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IfMissing {
    Make,
    /// It was there once: the disk that it is on may not be mounted.
    Refuse,
}

/// Makes the client. Blocks.
pub(super) fn open(
    place: &ContentBucket,
    patience: &BucketPatience,
    if_missing: IfMissing,
) -> Result<Backend, String> {
    // The client wants a process-wide provider. One that is installed already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let given = place.credentials_file.as_deref().map(read_credentials).transpose()?.unwrap_or_default();
    let endpoint = place.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT_WITHIN)
        .with_timeout(patience.request)
        .with_allow_http(place.allow_http);
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: patience.pause / 4,
            max_backoff: Duration::from_secs(5),
            base: 2.,
        },
        max_retries: RETRIES,
        retry_timeout: patience.retry,
    };
    let failed = |error: object_store::Error| format!("store.content: {error}");
    match &place.url {
        BucketUrl::Dir(dir) => open_dir(dir, if_missing),
        BucketUrl::S3 { bucket, prefix } => {
            let mut builder = AmazonS3Builder::from_env().with_client_options(client).with_retry(retry);
            for (key, value) in keys::<AmazonS3ConfigKey>(given)? {
                builder = builder.with_config(key, value);
            }
            builder = builder
                .with_bucket_name(bucket)
                .with_allow_http(place.allow_http)
                // Not all services delete in bulk, and only single keys are deleted.
                .with_disable_bulk_delete(true);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if let Some(region) = &place.region {
                builder = builder.with_region(region);
            }
            Ok(remote(builder.build().map_err(failed)?, prefix))
        }
        BucketUrl::Google { bucket, prefix } => {
            let mut builder =
                GoogleCloudStorageBuilder::from_env().with_client_options(client).with_retry(retry);
            for (key, value) in keys::<GoogleConfigKey>(given)? {
                builder = builder.with_config(key, value);
            }
            Ok(remote(builder.with_bucket_name(bucket).build().map_err(failed)?, prefix))
        }
        BucketUrl::Azure { container, prefix } => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_client_options(client).with_retry(retry);
            for (key, value) in keys::<AzureConfigKey>(given)? {
                builder = builder.with_config(key, value);
            }
            builder = builder.with_container_name(container).with_allow_http(place.allow_http);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Ok(remote(builder.build().map_err(failed)?, prefix))
        }
    }
}

fn remote<S: ObjectStore + MultipartStore>(store: S, prefix: &str) -> Backend {
    let store = Arc::new(store);
    let parts = Some(Arc::clone(&store) as Arc<dyn MultipartStore>);
    Backend { objects: store, parts, prefix: prefix.to_owned(), root: None }
}

fn open_dir(dir: &Path, if_missing: IfMissing) -> Result<Backend, String> {
    let shown = dir.display();
    if if_missing == IfMissing::Refuse && !dir.is_dir() {
        return Err(format!(
            "store.content: the directory '{shown}' is not there: mount the disk that it is on, or correct store.content.url"
        ));
    }
    // A directory above that is not there is a disk that is not mounted.
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(format!("store.content: cannot make the directory '{shown}': {error}"));
        }
        Ok(()) | Err(_) => {}
    }
    let root = fs::canonicalize(dir)
        .map_err(|error| format!("store.content: cannot use the directory '{shown}': {error}"))?;
    let store = LocalFileSystem::new_with_prefix(&root)
        .map_err(|error| format!("store.content: cannot use the directory '{shown}': {error}"))?;
    Ok(Backend {
        objects: Arc::new(store.with_fsync(true)),
        parts: None,
        prefix: String::new(),
        root: Some(root),
    })
}

/// The lines of a file with keys. A section's head (`[default]`) and comments are passed over.
fn read_credentials(path: &Path) -> Result<Vec<(String, String)>, String> {
    let shown = path.display();
    let failed = |why: &dyn std::fmt::Display| format!("store.content.credentials_file: '{shown}' {why}");
    let file = identity::open_own(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            failed(&"cannot be read, or others can change it: chown it to this user, and chmod 600 it")
        } else {
            failed(&format!("cannot be read: {error}"))
        }
    })?;
    let mode = file.metadata().map_err(|error| failed(&error))?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(failed(&format!("can be read by everybody (mode {:03o}): chmod 600 it", mode & 0o777)));
    }
    let mut text = String::new();
    file.take(CREDENTIALS_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| failed(&format!("cannot be read: {error}")))?;
    let mut given = Vec::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';', '[']) {
            continue;
        }
        // The line itself may hold a secret.
        let (key, value) = line.split_once('=').ok_or_else(|| {
            failed(&format!("has something else than `aws_access_key_id = …` in line {}", at + 1))
        })?;
        let key = key.trim().trim_start_matches("export ").trim().to_lowercase();
        given.push((key, value.trim().trim_matches(['"', '\'']).to_owned()));
    }
    Ok(given)
}

/// Those keys as the client knows them.
fn keys<K: FromStr>(given: Vec<(String, String)>) -> Result<Vec<(K, String)>, String> {
    let known = |(key, value): (String, String)| match key.parse() {
        Ok(key) => Ok((key, value)),
        Err(_) => Err(format!(
            "store.content.credentials_file: '{}' means nothing for this kind of bucket",
            key.chars().filter(char::is_ascii_graphic).take(60).collect::<String>()
        )),
    };
    given.into_iter().map(known).collect()
}
