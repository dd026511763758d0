//! The S3 service that is measured: how it is reached, and what is deleted there in the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use can_sync::testing::config::{BucketUrl, ContentBucket, HttpUrl};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use super::support::Result;

/// Deletions at once.
const DELETIONS: usize = 32;

// A doc comment would stand in `--help`, as if it was about the bench.
#[derive(clap::Args)]
pub(crate) struct ServiceArgs {
    /// URL of an S3 service, with --bucket
    #[arg(long, value_name = "URL", requires = "bucket")]
    endpoint: Option<String>,
    /// A bucket of that service; what is put there is deleted in the end
    #[arg(long, value_name = "NAME", requires = "endpoint", requires = "credentials_file")]
    bucket: Option<String>,
    /// A file with `aws_access_key_id = …` and `aws_secret_access_key = …`
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Of the service
    #[arg(long, default_value = "us-east-1")]
    region: String,
}

impl ServiceArgs {
    /// The service, if one is named.
    ///
    /// # Errors
    /// The URL or the file make no sense.
    pub(crate) fn service(&self) -> Result<Option<Service>> {
        let (Some(endpoint), Some(bucket), Some(file)) =
            (&self.endpoint, &self.bucket, &self.credentials_file)
        else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let key = |name: &str| {
            let fields = text.lines().filter_map(|line| line.split_once('='));
            let mut values =
                fields.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
            values.next().ok_or_else(|| format!("{} has no {name}", file.display()))
        };
        HttpUrl::parse(endpoint).ok_or_else(|| format!("'{endpoint}' is no URL of an HTTP service"))?;
        let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok(Some(Service(Arc::new(Inner {
            endpoint: endpoint.clone(),
            bucket: bucket.clone(),
            region: self.region.clone(),
            credentials: file.clone(),
            key_id: key("aws_access_key_id")?,
            secret: key("aws_secret_access_key")?,
            prefix: format!("can-sync-bench-{began}-{}", std::process::id()),
            places: AtomicUsize::new(0),
        }))))
    }
}

/// A bucket of a service, and below which prefix everything lies in it.
#[derive(Clone)]
pub(crate) struct Service(Arc<Inner>);

struct Inner {
    endpoint: String,
    bucket: String,
    region: String,
    credentials: PathBuf,
    key_id: String,
    secret: String,
    prefix: String,
    /// Places that were given out.
    places: AtomicUsize,
}

impl Service {
    /// A prefix that nothing was put below yet.
    fn new_prefix(&self) -> String {
        format!("{}/{}", self.0.prefix, self.0.places.fetch_add(1, Ordering::Relaxed))
    }

    /// A place for a store.
    pub(crate) fn new_place(&self) -> ContentBucket {
        ContentBucket {
            endpoint: HttpUrl::parse(&self.0.endpoint),
            region: Some(self.0.region.clone()),
            allow_http: true,
            credentials_file: Some(self.0.credentials.clone()),
            ..ContentBucket::at(BucketUrl::S3 { bucket: self.0.bucket.clone(), prefix: self.new_prefix() })
        }
    }

    /// What rclone calls a new place.
    pub(crate) fn new_remote(&self, name: &str) -> String {
        format!("{name}:{}/{}", self.0.bucket, self.new_prefix())
    }

    /// The variables that tell rclone of the service, under this name.
    pub(crate) fn rclone_variables(&self, name: &str) -> [(String, String); 6] {
        let of = |key: &str, value: &str| (format!("RCLONE_CONFIG_{name}_{key}"), value.to_owned());
        [
            of("TYPE", "s3"),
            of("PROVIDER", "Other"),
            of("ENDPOINT", &self.0.endpoint),
            of("REGION", &self.0.region),
            of("ACCESS_KEY_ID", &self.0.key_id),
            of("SECRET_ACCESS_KEY", &self.0.secret),
        ]
    }

    /// Deletes what this bench put there.
    pub(crate) async fn clean(&self) -> Result<()> {
        let store = AmazonS3Builder::new()
            .with_endpoint(&self.0.endpoint)
            .with_allow_http(true)
            .with_region(&self.0.region)
            .with_bucket_name(&self.0.bucket)
            .with_access_key_id(&self.0.key_id)
            .with_secret_access_key(&self.0.secret)
            .build()?;
        let keys: Vec<Key> = store
            .list(Some(&Key::from(self.0.prefix.as_str())))
            .map_ok(|object| object.location)
            .try_collect()
            .await?;
        let deletions = futures::stream::iter(&keys).map(|key| store.delete(key));
        deletions.buffer_unordered(DELETIONS).try_for_each(async |()| Ok(())).await?;
        Ok(())
    }
}
