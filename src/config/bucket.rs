//! Where the store puts contents that are too large for its database, if that is not its directory: an address, or a table.
//!
//! What is wrong with it is told where it stands: the YAML reader adds the line to what is refused here.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Value, json};

use super::setting::{Setting, unexpected};
use super::table::{FieldName, Scalar};
use super::value::{HttpUrl, credentials_problem};

/// Said of an address with keys in it.
const KEYS_ELSEWHERE: &str =
    "keys do not belong into the URL: give them in the environment, or name credentials_file";

/// How long the code is that says which store is the only one left.
const CODE_DIGITS: usize = 8;

const FIELDS: [&str; 9] = [
    "url",
    "endpoint",
    "region",
    "allow_http",
    "credentials_file",
    "shared",
    "write_back",
    "alone",
    "snapshots",
];

/// A bucket, and what is in front of every key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketUrl {
    /// S3, and what speaks like it.
    S3 {
        bucket: String,
        prefix: String,
    },
    Google {
        bucket: String,
        prefix: String,
    },
    Azure {
        container: String,
        prefix: String,
    },
    /// A directory: what lies in a bucket lies in its files.
    Dir(PathBuf),
}

impl BucketUrl {
    /// Reads one; an error says what was expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::from_text(text)
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, prefix) = match self {
            Self::S3 { bucket, prefix } => ("s3", bucket, prefix),
            Self::Google { bucket, prefix } => ("gs", bucket, prefix),
            Self::Azure { container, prefix } => ("az", container, prefix),
            Self::Dir(dir) => return write!(f, "{}", dir.display()),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{bucket}{slash}{prefix}")
    }
}

impl Setting for BucketUrl {
    const EXPECTED: &'static str =
        "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or the path of a directory";

    fn from_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with(['/', '~', '.']) {
            return PathBuf::from_text(text).map(Self::Dir);
        }
        if credentials_problem(text).is_some() {
            return Err(KEYS_ELSEWHERE.into());
        }
        let url = Url::parse(text).map_err(|_| unexpected::<Self>(text))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(unexpected::<Self>(text));
        }
        if url.scheme() == "file" {
            return url.to_file_path().map(Self::Dir).map_err(|()| unexpected::<Self>(text));
        }
        if matches!(url.scheme(), "http" | "https") {
            return Err(format!(
                "expected {}; the address of the service goes into endpoint",
                Self::EXPECTED
            ));
        }
        let bucket =
            url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| unexpected::<Self>(text))?;
        if url.port().is_some() {
            return Err("a bucket has no port: the address of the service goes into endpoint".into());
        }
        let (bucket, prefix) = (bucket.to_owned(), prefix_of(url.path())?);
        match url.scheme() {
            "s3" => Ok(Self::S3 { bucket, prefix }),
            "gs" => Ok(Self::Google { bucket, prefix }),
            "az" => Ok(Self::Azure { container: bucket, prefix }),
            _ => Err(unexpected::<Self>(text)),
        }
    }

    fn shown(&self) -> Value {
        json!(self.to_string())
    }
}

/// The address of a service.
struct Endpoint(HttpUrl);

impl Setting for Endpoint {
    const EXPECTED: &'static str = HttpUrl::EXPECTED;

    fn from_text(text: &str) -> Result<Self, String> {
        if credentials_problem(text).is_some() {
            return Err(KEYS_ELSEWHERE.into());
        }
        HttpUrl::from_text(text).map(Self)
    }

    fn shown(&self) -> Value {
        self.0.shown()
    }
}

/// What is in front of the keys, without slashes at its ends.
fn prefix_of(path: &str) -> Result<String, String> {
    let prefix = path.trim_matches('/');
    let is_plain = |part: &str| {
        let may_be = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part != "." && part != ".." && part.chars().all(may_be)
    };
    if prefix.is_empty() || prefix.split('/').all(is_plain) {
        Ok(prefix.to_owned())
    } else {
        Err("expected a prefix of letters, digits, '-', '_' and '.', with single slashes".into())
    }
}

/// A place for contents, and how it is reached.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the configuration")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentBucket {
    pub url: BucketUrl,
    /// The service, where it is not the provider's own.
    pub endpoint: Option<HttpUrl>,
    pub region: Option<String>,
    /// Contents and signatures may go over the wire in clear.
    pub allow_http: bool,
    /// A file with keys, `aws_access_key_id = …`, instead of the environment.
    pub credentials_file: Option<PathBuf>,
    /// Other stores may have contents there: nothing is deleted.
    pub shared: bool,
    /// Contents are acknowledged once they are on this disk, and uploaded afterwards.
    pub write_back: bool,
    /// This store is the only one left of those that took the place for their own: the code of that, from the status.
    pub alone: Option<String>,
    /// Snapshots of the records go there, too.
    pub snapshots: bool,
}

impl ContentBucket {
    /// One that needs nothing but its address.
    pub fn at(url: BucketUrl) -> Self {
        Self {
            url,
            endpoint: None,
            region: None,
            allow_http: false,
            credentials_file: None,
            shared: false,
            write_back: false,
            alone: None,
            snapshots: true,
        }
    }

    /// What makes no sense together.
    fn problem(&self) -> Option<&'static str> {
        let is_s3 = matches!(self.url, BucketUrl::S3 { .. });
        let has_endpoint = is_s3 || matches!(self.url, BucketUrl::Azure { .. });
        let is_clear = self.endpoint.as_ref().is_some_and(|url| url.as_url().scheme() == "http");
        if matches!(self.url, BucketUrl::Dir(_)) && (self.credentials_file.is_some() || self.allow_http) {
            Some("a directory needs neither credentials_file nor allow_http: leave them out")
        } else if self.endpoint.is_some() && !has_endpoint {
            Some("endpoint goes with s3:// and az:// alone: leave it out")
        } else if self.region.is_some() && !is_s3 {
            Some("region goes with s3:// alone: leave it out")
        } else if self.shared && self.alone.is_some() {
            Some("shared and alone: keep one of the two")
        } else if self.alone.as_deref().is_some_and(|code| !is_code(code)) {
            Some(
                "alone is no code: it has eight digits from 0 to 9 and a to f, as `can-sync status` shows it",
            )
        } else if self.shared && self.write_back {
            Some(
                "shared and write_back: keep one of the two, for what waits on the disk of one machine is not in the bucket where the \
                 others look for it",
            )
        } else if is_clear && !self.allow_http {
            Some(
                "the endpoint is http://, so that contents and names of keys go over the wire in clear: set allow_http: true if that is \
                  meant, or give an https:// endpoint",
            )
        } else {
            None
        }
    }
}

/// Whether this may be a code by which a user decides whose a place is.
fn is_code(text: &str) -> bool {
    text.len() == CODE_DIGITS && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

impl Setting for ContentBucket {
    const EXPECTED: &'static str = "a bucket, such as s3://bucket/prefix, or a table with url";

    fn from_text(text: &str) -> Result<Self, String> {
        BucketUrl::from_text(text).map(Self::at)
    }

    fn shown(&self) -> Value {
        json!({
            "url": self.url.shown(), "endpoint": self.endpoint.shown(), "region": self.region.shown(),
            "allow_http": self.allow_http, "credentials_file": self.credentials_file.shown(), "shared": self.shared,
            "write_back": self.write_back, "alone": self.alone.shown(), "snapshots": self.snapshots,
        })
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Self, String>, D::Error> {
        deserializer.deserialize_any(BucketVisitor).map(Ok)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentPlaceSetting(pub Option<ContentBucket>);

impl Setting for ContentPlaceSetting {
    const EXPECTED: &'static str = ContentBucket::EXPECTED;

    fn from_text(text: &str) -> Result<Self, String> {
        ContentBucket::from_text(text).map(|bucket| Self(Some(bucket)))
    }

    fn shown(&self) -> Value {
        self.0.shown()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Self, String>, D::Error> {
        let bucket = Option::<GivenBucket>::deserialize(deserializer)?;
        Ok(Ok(Self(bucket.map(|GivenBucket(bucket)| bucket))))
    }
}

struct GivenBucket(ContentBucket);

impl<'de> Deserialize<'de> for GivenBucket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BucketVisitor).map(Self)
    }
}

struct BucketVisitor;

impl<'de> Visitor<'de> for BucketVisitor {
    type Value = ContentBucket;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ContentBucket::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ContentBucket, E> {
        ContentBucket::from_text(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ContentBucket, A::Error> {
        let (mut url, mut endpoint, mut region) = (None, None, None);
        let (mut allow_http, mut credentials_file, mut shared) = (None, None, None);
        let (mut write_back, mut alone, mut snapshots) = (None, None, None);
        while let Some(field) = map.next_key_seed(FieldName { known: &FIELDS, of: "a bucket" })? {
            let is_new = match field {
                "url" => url.replace(map.next_value::<Scalar<BucketUrl>>()?.0).is_none(),
                "endpoint" => endpoint.replace(map.next_value::<Scalar<Endpoint>>()?.0.0).is_none(),
                "region" => region.replace(map.next_value::<Scalar<String>>()?.0).is_none(),
                "allow_http" => allow_http.replace(map.next_value::<Scalar<bool>>()?.0).is_none(),
                "credentials_file" => {
                    credentials_file.replace(map.next_value::<Scalar<PathBuf>>()?.0).is_none()
                }
                "write_back" => write_back.replace(map.next_value::<Scalar<bool>>()?.0).is_none(),
                "alone" => alone.replace(map.next_value::<Scalar<String>>()?.0).is_none(),
                "snapshots" => snapshots.replace(map.next_value::<Scalar<bool>>()?.0).is_none(),
                _ => shared.replace(map.next_value::<Scalar<bool>>()?.0).is_none(),
            };
            if !is_new {
                return Err(A::Error::custom(format!("'{field}' is given twice")));
            }
        }
        let url = url.ok_or_else(|| A::Error::custom("it needs its address: `url: s3://bucket/prefix`"))?;
        let bucket = ContentBucket {
            endpoint,
            region,
            allow_http: allow_http.unwrap_or_default(),
            credentials_file,
            shared: shared.unwrap_or_default(),
            write_back: write_back.unwrap_or_default(),
            alone,
            snapshots: snapshots.unwrap_or(true),
            ..ContentBucket::at(url)
        };
        bucket.problem().map_or(Ok(bucket), |problem| Err(A::Error::custom(problem)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let s3 = |bucket: &str, prefix: &str| BucketUrl::S3 { bucket: bucket.into(), prefix: prefix.into() };
        for (text, read) in [
            ("s3://assets", s3("assets", "")),
            ("s3://assets/can/sync/", s3("assets", "can/sync")),
            ("/mnt/contents", BucketUrl::Dir("/mnt/contents".into())),
            ("file:///mnt/contents", BucketUrl::Dir("/mnt/contents".into())),
            ("gs://a/b", BucketUrl::Google { bucket: "a".into(), prefix: "b".into() }),
            ("az://a/b", BucketUrl::Azure { container: "a".into(), prefix: "b".into() }),
        ] {
            assert_eq!(BucketUrl::from_text(text), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_goes_up_later_is_of_one_store_alone() {
        let read = |more: &str| {
            let yaml = format!("url: s3://assets/x\nwrite_back: true\n{more}");
            let given: Result<GivenBucket, _> = serde_yaml::from_str(&yaml);
            given.map(|GivenBucket(bucket)| bucket.write_back).map_err(|error| error.to_string())
        };
        assert_eq!(read(""), Ok(true));
        assert_eq!(read("shared: false\n"), Ok(true));
        let refused = read("shared: true\n").unwrap_err();
        assert!(refused.contains("shared and write_back: keep one of the two"), "{refused}");
    }

    #[test]
    fn a_code_has_the_form_of_one() {
        let read = |code: &str| {
            let given: Result<GivenBucket, _> =
                serde_yaml::from_str(&format!("url: s3://assets/x\nalone: {code}\n"));
            given.map(|GivenBucket(bucket)| bucket.alone).map_err(|error| error.to_string())
        };
        for code in ["1a2b3c4d", "12345678", "1e234567", "00000000"] {
            assert_eq!(read(code), Ok(Some(code.to_owned())));
        }
        for code in ["zz", "1a2b3c4", "1a2b3c4d5", "1a2b3c4g", "1A2B3C4D", "true"] {
            let refused = read(code).unwrap_err();
            assert!(refused.contains("alone is no code"), "{code}: {refused}");
        }
    }

    #[test]
    fn keys_in_the_address_of_a_service_are_refused_and_not_repeated() {
        for endpoint in [
            "https://key:secret@minio:9000",
            "https://secret@minio",
            "http://:secret@minio",
            "ftp://key:secret@minio",
            "https//key:secret@minio",
            "key:secret@minio:9000",
        ] {
            let yaml = format!("url: s3://assets/x\nallow_http: true\nendpoint: '{endpoint}'\n");
            let given: Result<GivenBucket, _> = serde_yaml::from_str(&yaml);
            let refused = given.map(drop).unwrap_err().to_string();
            assert!(refused.contains("credentials_file"), "{endpoint}: {refused}");
            assert!(!refused.contains("secret"), "{endpoint}: {refused}");
        }
    }

    #[test]
    fn addresses_that_make_no_sense_say_what_to_do() {
        for (text, said) in [
            ("assets", "expected s3://"),
            ("https://minio:9000/assets", "goes into endpoint"),
            ("s3://minio:9000/assets", "no port"),
            ("s3://key:secret@assets/x", "credentials_file"),
            ("s3//key:secret@assets/x", "credentials_file"),
            ("s3://assets/a//b", "single slashes"),
            ("s3://assets/a b", "single slashes"),
            ("s3:///prefix", "expected s3://"),
            ("ftp://assets/x", "expected s3://"),
        ] {
            let problem = BucketUrl::from_text(text).unwrap_err();
            assert!(problem.contains(said), "{text}: {problem}");
            assert!(!problem.contains("secret"), "{text}: {problem}");
        }
    }
}
