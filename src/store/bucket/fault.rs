//! What a failure of object storage means, and what people can do about it.

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// Most of what a service says that is shown, in characters.
const SAID_MAX: usize = 240;
/// Longest word that is left out where it was cut, in bytes.
const WORD_MAX: usize = 40;
/// What the client says in front of an answer.
const ANSWER: &str = "Server returned";

/// What is known of an object after a request that did not go well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum BucketError {
    /// The service says that there is none.
    Missing,
    /// Its bytes are others than those that were put, and why.
    Wrong(String),
    /// Nothing: why, and what to do.
    Away(String),
}

/// Where no keys were given, the client asks the machine's own service for some, at a place that providers have agreed upon.
const NO_S3_KEYS: &str = "no keys were found, neither in the environment nor in store.content.credentials_file, and this machine has no \
                          service that gives any: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a credentials_file, and \
                          start again";
const NO_GOOGLE_KEYS: &str = "no keys were found, neither in the environment nor in store.content.credentials_file, and this machine has \
                              no service that gives any: set GOOGLE_SERVICE_ACCOUNT to the path of an account's file, or name a \
                              credentials_file, and start again";
const NO_AZURE_KEYS: &str = "no keys were found, neither in the environment nor in store.content.credentials_file, and this machine has \
                             no service that gives any: set AZURE_STORAGE_ACCOUNT_KEY, or name a credentials_file, and start again";

/// What the service says, in the words of its protocol, and what to do.
const SAYINGS: [(&str, &str); 17] = [
    ("/latest/api/token", NO_S3_KEYS),
    ("/latest/meta-data/", NO_S3_KEYS),
    ("/computeMetadata/", NO_GOOGLE_KEYS),
    ("/metadata/identity/", NO_AZURE_KEYS),
    ("NoSuchBucket", "there is no such bucket: make it, or correct store.content.url"),
    ("ContainerNotFound", "there is no such container: make it, or correct store.content.url"),
    ("The specified bucket does not exist", "there is no such bucket: make it, or correct store.content.url"),
    ("RequestTimeTooSkewed", "this machine's clock and that of the service differ too much: set the clock"),
    ("ExpiredToken", "the keys have expired: give new ones, and start again"),
    ("TokenRefreshRequired", "the keys have expired: give new ones, and start again"),
    ("InvalidAccessKeyId", "the service does not know the access key: correct it, and start again"),
    ("SignatureDoesNotMatch", "the secret key is wrong, or the clock is: correct it, and start again"),
    ("AuthorizationHeaderMalformed", "the region is wrong: set store.content.region"),
    ("PermanentRedirect", "the bucket is elsewhere: set store.content.region or endpoint"),
    ("SlowDown", "the service asks to slow down: it is tried again"),
    ("status code: 429", "the service asks to slow down: it is tried again"),
    ("QuotaExceeded", "the bucket is full: make room there"),
];

/// What is said of a range behind the end of an object.
const TOO_SHORT: [&str; 3] = ["InvalidRange", "status code: 416", "Wanted range starting at"];

/// What is said of a header that the service does not know.
const UNSUPPORTED: [&str; 2] = ["NotImplemented", "status code: 501"];

/// What a failure means.
pub(super) fn of(error: &Error) -> BucketError {
    let said = chain(error);
    if TOO_SHORT.iter().any(|word| said.contains(word)) {
        return BucketError::Wrong("its object is too short".into());
    }
    let known = SAYINGS.iter().find(|(word, _)| said.contains(word)).map(|(_, advice)| *advice);
    let default = if matches!(error, Error::PermissionDenied { .. }) {
        Some("access is denied (403): the keys need the right to list, read, write and delete objects there")
    } else if matches!(error, Error::Unauthenticated { .. }) {
        Some("it does not accept the keys (401): correct them, and start again")
    } else {
        None
    };
    match known.or(default) {
        Some(advice) => BucketError::Away(format!("{advice} (it said: {})", clipped(answer_in(&said)))),
        // A bucket that is gone is said in the same way as an object.
        None if matches!(error, Error::NotFound { .. }) => BucketError::Missing,
        None => BucketError::Away(clipped(answer_in(&said))),
    }
}

/// Whether the service lacks what was asked of it.
pub(super) fn is_unsupported(error: &Error) -> bool {
    let is_ours = matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. });
    is_ours || UNSUPPORTED.iter().any(|word| chain(error).contains(word))
}

/// Whether the connection ended after the request had begun and before its answer: what became of it is not known.
pub(super) fn is_unanswered(error: &Error) -> bool {
    use HttpErrorKind::{Interrupted, Request, Unknown};
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let mut http = causes.filter_map(|cause| cause.downcast_ref::<HttpError>());
    http.any(|error| matches!(error.kind(), Interrupted | Request | Unknown))
}

/// What the service answered, without the client's account of what it asked.
fn answer_in(said: &str) -> &str {
    said.find(ANSWER).map_or(said, |at| &said[at..])
}

/// An error with what it came of: messages of the client leave that out now and then.
fn chain(error: &Error) -> String {
    let mut said = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said
}

/// As much as people read of it, on one line. An answer begins with what matters; of a chain of causes, the last one tells the most.
fn clipped(said: &str) -> String {
    let line: String =
        said.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).collect();
    let count = line.chars().count();
    if count <= SAID_MAX {
        return line;
    }
    let from = |at: usize| line.char_indices().nth(at).map_or(line.len(), |(byte, _)| byte);
    if line.starts_with(ANSWER) {
        return format!("{}…", whole_words(&line[..from(SAID_MAX)]));
    }
    let (head, tail) = (whole_words(&line[..from(SAID_MAX / 3)]), &line[from(count - SAID_MAX * 2 / 3)..]);
    // No word is cut, if they are of a usual length.
    let tail = tail.find(' ').filter(|at| *at < WORD_MAX).map_or(tail, |at| &tail[at + 1..]);
    format!("{head} … {tail}")
}

/// A text that was cut off, without the word that was cut.
fn whole_words(text: &str) -> &str {
    text.rfind(' ').filter(|at| text.len() - at < WORD_MAX).map_or(text, |at| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Box<dyn std::error::Error + Send + Sync> {
        text.to_owned().into()
    }

    #[test]
    fn a_bucket_that_is_gone_is_no_object_that_is_gone() {
        let path = || "ab/cd/abcd".to_owned();
        let object =
            Error::NotFound { path: path(), source: source("404 <Error><Code>NoSuchKey</Code></Error>") };
        assert_eq!(of(&object), BucketError::Missing);
        let bucket =
            Error::NotFound { path: path(), source: source("404 <Error><Code>NoSuchBucket</Code></Error>") };
        assert!(matches!(of(&bucket), BucketError::Away(why) if why.starts_with("there is no such bucket")));
    }

    #[test]
    fn what_people_can_do_comes_first() {
        for (said, advice) in [
            ("403 <Code>RequestTimeTooSkewed</Code>", "set the clock"),
            ("403 <Code>InvalidAccessKeyId</Code>", "does not know the access key"),
            ("403 <Code>AccessDenied</Code>", "the right to list"),
            ("400 <Code>ExpiredToken</Code>", "expired"),
        ] {
            let denied = Error::PermissionDenied { path: "a".into(), source: source(said) };
            assert!(matches!(of(&denied), BucketError::Away(why) if why.contains(advice)), "{said}");
        }
        let asked = format!(
            "Error performing PUT http://a/{} - Server returned non-2xx status code: 503",
            "x".repeat(500)
        );
        let generic = Error::Generic { store: "S3", source: source(&asked) };
        assert!(matches!(of(&generic), BucketError::Away(why) if why.ends_with("503")));
        let generic =
            Error::Generic { store: "S3", source: source(&format!("503 {}\n\u{1b}[31m", "x".repeat(500))) };
        let BucketError::Away(why) = of(&generic) else { panic!("it is away") };
        assert!(why.chars().count() <= SAID_MAX + 3 && !why.contains('\u{1b}'), "{why}");
    }

    #[test]
    fn of_a_long_chain_the_last_cause_is_told_and_no_word_is_cut() {
        let causes = (0..60).map(|n| format!("cause {n}:")).collect::<Vec<_>>().join(" ") + " ";
        let said = clipped(&format!("Error performing HEAD: {causes}Connection refused (os error 111)"));
        assert!(said.starts_with("Error performing HEAD: cause 0"), "{said}");
        assert!(said.ends_with("cause 59: Connection refused (os error 111)"), "{said}");
        let (head, tail) = said.split_once(" … ").unwrap();
        let is_whole = |word: &str| word.ends_with(':') || word.parse::<u8>().is_ok() || word == "cause";
        assert!(head.split(' ').next_back().is_some_and(is_whole), "{said}");
        assert!(tail.split(' ').next().is_some_and(is_whole), "{said}");
        let answer = clipped(&format!("Server returned 503: <Code>SlowDown</Code> {causes}"));
        assert!(answer.starts_with("Server returned 503: <Code>SlowDown</Code> cause 0"), "{answer}");
        assert!(answer.ends_with('…') && answer.chars().count() <= SAID_MAX + 1, "{answer}");
        assert_eq!(clipped("short"), "short");
    }

    /// The client asks the machine for keys, and nobody is there, or somebody who has none.
    #[tokio::test]
    async fn keys_that_are_missing_are_named_and_the_end_of_the_chain_is_told() {
        use std::io::{Read as _, Write as _};

        use object_store::aws::AmazonS3Builder;
        use object_store::{ObjectStoreExt as _, RetryConfig};

        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let without_keys = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { return };
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection
                    .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        let nobody = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap()
        };
        for (addr, end) in [(nobody, "Connection refused (os error"), (without_keys, "404 Not Found")] {
            let client = AmazonS3Builder::new()
                .with_bucket_name("b")
                .with_region("us-east-1")
                .with_metadata_endpoint(format!("http://{addr}"))
                .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
                .build()
                .unwrap();
            let error = client.head(&"a".into()).await.unwrap_err();
            let BucketError::Away(why) = of(&error) else { panic!("{error}") };
            assert!(why.starts_with("no keys were found") && why.contains("AWS_ACCESS_KEY_ID"), "{why}");
            assert!(why.contains(end), "{why}");
        }
    }
}
