//! The client of a CAN Service keeps the contract that every store keeps, against a real service in a process of its
//! own, whose users come over HTTP as well.

use std::sync::Arc;

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::StoreRef;
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::service::BASE_PATH;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::Client;
use reqwest::multipart::{Form, Part};
use tempfile::TempDir;

use crate::store_conformance::{Fixture, conformance_tests};
use crate::support::service::{ServiceProcess, client, data};

struct Remote {
    process: ServiceProcess,
    client: Client,
    _dir: TempDir,
}

impl Remote {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let process = ServiceProcess::start(dir.path(), "127.0.0.1:0");
        Self { process, client: client(), _dir: dir }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{BASE_PATH}{path}", self.process.addr)
    }
}

impl Fixture for Remote {
    fn store(&self) -> StoreRef {
        Arc::new(self.process.remote())
    }

    fn put(&self, content: Vec<u8>, fields: IngestFields) -> BoxFuture<'_, ContentHash> {
        let IngestFields { mime_type, filename, application, user, description, tags, modified_at_ms } =
            fields;
        let modified_at = modified_at_ms.map(|ms| ms.to_string());
        let texts = [
            ("mime_type", mime_type),
            ("filename", filename),
            ("application", application),
            ("user", user),
            ("description", description),
            ("modified_at", modified_at),
        ];
        let given = texts.into_iter().filter_map(|(name, text)| Some((name, text?)));
        let tags = tags.into_iter().map(|tag| ("tags", tag));
        let form = given.chain(tags).fold(Form::new(), |form, (name, text)| form.text(name, text));
        let form = form.part("file", Part::bytes(content));
        async move {
            let response =
                self.client.post(self.url("/ingest")).multipart(form).send().await.expect("an answer");
            let asset = data(response).await;
            asset["hash"].as_str().and_then(|hash| hash.parse().ok()).expect("a hash")
        }
        .boxed()
    }

    fn describe(&self, hash: ContentHash, text: &'static str) -> BoxFuture<'_, ()> {
        async move {
            let patch = serde_json::json!({"description": text});
            let request = self.client.patch(self.url(&format!("/asset/{hash}/meta"))).json(&patch);
            data(request.send().await.expect("an answer")).await;
        }
        .boxed()
    }

    fn delete(&self, hash: ContentHash) -> BoxFuture<'_, ()> {
        async move {
            let request = self.client.delete(self.url(&format!("/asset/{hash}")));
            data(request.send().await.expect("an answer")).await;
        }
        .boxed()
    }
}

conformance_tests!(Remote::new());
