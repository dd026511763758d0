//! What a failure of object storage means, and what people can do about it.

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// Most of what a service says that is shown, in characters.
const SAID_MAX: usize = 240;

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

/// What the service says, in the words of its protocol, and what to do.
const SAYINGS: [(&str, &str); 13] = [
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
    said.find("Server returned").map_or(said, |at| &said[at..])
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

/// As much as people read of it, on one line.
fn clipped(said: &str) -> String {
    let line: String =
        said.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).collect();
    if line.chars().count() <= SAID_MAX {
        line
    } else {
        format!("{}…", line.chars().take(SAID_MAX).collect::<String>())
    }
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
        assert!(why.chars().count() <= SAID_MAX + 1 && !why.contains('\u{1b}'), "{why}");
    }
}
