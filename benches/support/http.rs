//! Requests to agents and their stores.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client};
use serde_json::Value;

use super::{MIB, Noise, Result, noise, patience};

/// No answer to a question takes longer.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// For all requests. They have no limit of their own: one may carry an asset of any size.
pub(crate) static HTTP: LazyLock<Client> = LazyLock::new(|| {
    // Whoever was first has installed the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().expect("a client")
});

/// `data` of an answer.
pub(crate) async fn get(url: &str) -> Result<Value> {
    let answer = HTTP.get(url).timeout(ANSWER_WITHIN).send().await?.error_for_status()?;
    let mut answer: Value = answer.json().await?;
    Ok(answer["data"].take())
}

/// Stores a form with so many bytes; its hash.
pub(crate) async fn put(store: &str, form: Form, bytes: u64) -> Result<String> {
    let put = HTTP.post(format!("{store}/ingest")).multipart(form).timeout(patience(bytes));
    let answer: Value = put.send().await?.error_for_status()?.json().await?;
    Ok(answer["data"]["hash"].as_str().ok_or("no hash")?.to_owned())
}

/// Stores noise; its hash.
pub(crate) async fn put_noise(store: &str, content: Noise) -> Result<String> {
    let part = if content.len <= MIB {
        Part::bytes(noise(content.seed, usize::try_from(content.len)?))
    } else {
        Part::stream_with_length(Body::wrap_stream(content.chunks()), content.len)
    };
    put(store, Form::new().part("file", part.file_name("bench.bin")), content.len).await
}

/// What happens in a store, from now on.
pub(crate) struct StoreEvents {
    stream: BoxStream<'static, reqwest::Result<Bytes>>,
    seen: String,
}

impl StoreEvents {
    pub(crate) async fn of(store: &str) -> Result<Self> {
        let events = HTTP.get(format!("{store}/events")).send().await?.error_for_status()?;
        Ok(Self { stream: events.bytes_stream().boxed(), seen: String::new() })
    }

    /// Waits until something is said of an asset; what was said before is forgotten.
    pub(crate) async fn until(&mut self, hash: &str, limit: Duration) -> Result<()> {
        let said = async {
            while !self.seen.contains(hash) {
                let chunk = self.stream.next().await.ok_or("the event stream ended")??;
                self.seen.push_str(&String::from_utf8_lossy(&chunk));
            }
            Result::Ok(())
        };
        tokio::time::timeout(limit, said).await??;
        self.seen.clear();
        Ok(())
    }
}
