//! List, search, metadata, deletion, status, description.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::service::{TestService, data, refusal};

async fn get(service: &TestService, path: &str) -> Value {
    data(service.get(path).send().await.expect("an answer")).await
}

fn names(page: &Value) -> Vec<&str> {
    let assets = page["assets"].as_array().expect("assets");
    assets.iter().map(|asset| asset["filename"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn lists_come_in_pages_and_both_orders() {
    let service = TestService::start().await;
    for n in 0..7 {
        service.put(format!("content {n}"), &[("filename", &format!("n{n}"))]).await;
    }
    let all = get(&service, "/list?limit=1000").await;
    assert_eq!((&all["total"], &all["next_cursor"]), (&7.into(), &Value::Null));
    let newest: Vec<String> = names(&all).into_iter().map(ToOwned::to_owned).collect();
    let oldest = get(&service, "/list?order=oldest").await;
    assert_eq!(names(&oldest).into_iter().rev().collect::<Vec<_>>(), newest);

    let mut paged = Vec::new();
    let mut path = "/list?limit=3".to_owned();
    loop {
        let page = get(&service, &path).await;
        assert_eq!(page["total"], 7);
        paged.extend(names(&page).into_iter().map(ToOwned::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/list?limit=3&cursor={cursor}");
    }
    assert_eq!(paged, newest);
    assert_eq!(names(&get(&service, "/list?limit=99999&unknown=1").await).len(), 7);
    for bad in ["limit=0", "limit=-1", "limit=x", "limit=1&limit=2", "order=sideways"] {
        let refused = refusal(service.get(&format!("/list?{bad}"))).await;
        assert_eq!(refused, (400, "invalid_parameter".into()), "{bad}");
    }
    assert_eq!(refusal(service.get("/list?cursor=nonsense")).await.0, 400);
}

#[tokio::test]
async fn searches_combine_fields() {
    let service = TestService::start().await;
    let put = async |name: &str, fields: &[(&'static str, &str)]| {
        let mut all = vec![("filename", name)];
        all.extend_from_slice(fields);
        service.put(format!("content of {name}"), &all).await
    };
    let one = put(
        "one",
        &[("application", "camera"), ("user", "ann"), ("tags", "sea,sun"), ("mime_type", "image/png")],
    )
    .await;
    put("two", &[("application", "camera"), ("user", "bob"), ("tags", "sea"), ("mime_type", "image/gif")])
        .await;
    put("three", &[("application", "notes"), ("description", "The Sea shore"), ("mime_type", "text/plain")])
        .await;
    let found = async |query: &str| {
        let page = get(&service, &format!("/search?{query}")).await;
        let mut names: Vec<String> = names(&page).into_iter().map(ToOwned::to_owned).collect();
        names.sort_unstable();
        assert_eq!(page["total"], names.len());
        names.join(" ")
    };
    assert_eq!(found("application=camera").await, "one two");
    assert_eq!(found("application=camera&user=ann").await, "one");
    assert_eq!(found("tags=sun,rain").await, "one");
    assert_eq!(found("tags=sun&tags=sea").await, "one two");
    assert_eq!(found("mime_prefix=image/").await, "one two");
    assert_eq!(found("q=sea").await, "three");
    assert_eq!(found("q=TWO").await, "two");
    assert_eq!(found(&format!("hash={}", one["hash"].as_str().unwrap())).await, "one");
    assert_eq!(found("user=nobody").await, "");
    assert_eq!(found("user=").await, "one three two");
    assert_eq!(found("from=2001-01-01T00:00:00Z").await, "one three two");
    assert_eq!(found("to=978307200000").await, "");
    let created = one["created_at"].as_str().unwrap();
    assert!(found(&format!("from={created}&to={created}")).await.contains("one"));
    assert_eq!(found("mime_prefix=IMAGE/").await, "one two");
    assert_eq!(found("from=2001-01-01&to=9999-01-01").await, "one three two");
    assert_eq!(found(&format!("from={day}&to={day}", day = &created[..10])).await, "one three two");
    for bad in
        ["from=yesterday", "to=-5", "hash=abc", "from=2026", "to=1764300000", "from=2026-01-02&to=2026-01-01"]
    {
        assert_eq!(refusal(service.get(&format!("/search?{bad}"))).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn text_is_found_as_people_type_it() {
    let service = TestService::start().await;
    let decomposed = "E\u{301}te\u{301} a\u{300} la mer.txt";
    let fields = [
        ("filename", decomposed),
        ("tags", "Straße,ΟΔΟΣ"),
        ("user", "İpek"),
        ("description", "Crème brûlée"),
    ];
    let asset = service.put("one", &fields).await;
    assert_eq!(asset["filename"], decomposed, "it is stored as it came");
    service.put("two", &[("filename", "mer"), ("tags", "strase"), ("user", "ipe")]).await;
    let found = async |query: &[(&str, &str)]| {
        let page = data(service.get("/search").query(query).send().await.expect("an answer")).await;
        page["total"].as_u64().expect("a number")
    };
    for query in [
        [("q", "été")],
        [("q", "MER été")],
        [("q", "brûlée  ÉTÉ\tmer")],
        [("q", "CRE\u{300}ME")],
        [("tags", "STRASSE")],
        [("tags", "οδος,none")],
        [("user", "ipek")],
    ] {
        assert_eq!(found(&query).await, 1, "{query:?}");
    }
    assert_eq!(found(&[("q", "mer")]).await, 2);
    assert_eq!(found(&[("q", "mer nowhere")]).await, 0);
    assert_eq!(found(&[("q", "ete")]).await, 0);
}

#[tokio::test]
async fn edits_replace_what_is_given_and_nothing_else() {
    let service = TestService::start().await;
    let mut asset = service
        .put("hello", &[("filename", "a"), ("user", "ann"), ("tags", "x"), ("description", "d")])
        .await;
    assert_eq!(asset.as_object_mut().unwrap().remove("outcome"), Some(json!("new")));
    let path = format!("/asset/{}/meta", asset["hash"].as_str().unwrap());
    assert_eq!(get(&service, &path).await, asset);
    let edit = |body: Value| service.client.patch(service.url(&path)).json(&body);
    let edited = edit(json!({"filename": null, "tags": ["z", "y", "z"], "user": ""})).send().await.unwrap();
    assert_eq!(edited.status(), 200);
    let edited = data(edited).await;
    assert_eq!(
        (&edited["filename"], &edited["user"], &edited["description"]),
        (&Value::Null, &"".into(), &"d".into())
    );
    assert_eq!((&edited["tags"], &edited["seq"]), (&json!(["y", "z"]), &2.into()));
    assert_eq!(edited["created_at"], asset["created_at"]);
    assert_eq!(get(&service, &path).await, edited);

    for bad in [
        json!({"hash": "x"}),
        json!({"mime_type": null}),
        json!({"tags": "a"}),
        json!([]),
        json!(["a/b"]),
        json!({"user": 5}),
    ] {
        assert_eq!(refusal(edit(bad.clone())).await, (400, "invalid_json".into()), "{bad}");
    }
    for bad in [
        json!({"mime_type": "x"}),
        json!({"description": "x".repeat(17_000)}),
        json!({"tags": ["x".repeat(129)]}),
    ] {
        assert_eq!(refusal(edit(bad)).await, (400, "invalid_metadata".into()));
    }
    let raw = |body: String, kind: &'static str| {
        service.client.patch(service.url(&path)).header("Content-Type", kind).body(body)
    };
    assert_eq!(refusal(raw("{".into(), "application/json")).await, (400, "invalid_json".into()));
    assert_eq!(refusal(raw("{}".into(), "text/plain")).await, (415, "unsupported_media_type".into()));
    let long = format!("{{\"user\":\"{}\"}}", "x".repeat(1 << 20));
    assert_eq!(refusal(raw(long, "application/json")).await, (413, "body_too_large".into()));
    assert_eq!(get(&service, &path).await, edited);
}

#[tokio::test]
async fn deleted_assets_are_gone_but_not_forgotten() {
    let service = TestService::start().await;
    let asset = service.put("hello", &[]).await;
    let path = format!("/asset/{}", asset["hash"].as_str().unwrap());
    let delete = || service.client.delete(service.url(&path));
    let tombstone = data(delete().send().await.unwrap()).await;
    assert_eq!((&tombstone["deleted"], &tombstone["seq"]), (&true.into(), &2.into()));
    let gone = (404, "deleted".to_owned());
    assert_eq!(refusal(service.get(&path)).await, gone);
    assert_eq!(refusal(service.get(&format!("{path}/meta"))).await, gone);
    assert_eq!(refusal(delete()).await, gone);
    let edit = service.client.patch(service.url(&format!("{path}/meta"))).json(&json!({"user": "x"}));
    assert_eq!(refusal(edit).await, gone);
    assert_eq!(get(&service, "/list").await["total"], 0);
    let unknown = service.client.delete(service.url(&format!("/asset/{}", "0".repeat(64))));
    assert_eq!(refusal(unknown).await, (404, "not_found".into()));

    let back = service.put("hello", &[]).await;
    assert_eq!((&back["hash"], &back["deleted"]), (&asset["hash"], &false.into()));
}

#[tokio::test]
async fn the_status_counts() {
    let service = TestService::start().await;
    service.put("12345", &[]).await;
    service.put("678", &[]).await;
    let status = get(&service, "/status").await;
    let expected = json!({"healthy": true, "assets": 2, "bytes": 8, "assets_held": 2,
        "bytes_held": 8, "seq": 2, "read_only": null,
        "version": env!("CARGO_PKG_VERSION")});
    assert_eq!(status, expected);
}

/// Every route there is. A new one has to be added here, and then to be described.
const ROUTES: [(&str, &str); 25] = [
    ("post", "/ingest"),
    ("get", "/list"),
    ("get", "/search"),
    ("get", "/asset/{hash}"),
    ("head", "/asset/{hash}"),
    ("delete", "/asset/{hash}"),
    ("get", "/asset/{hash}/meta"),
    ("patch", "/asset/{hash}/meta"),
    ("post", "/asset/{hash}/ingest"),
    ("post", "/asset/{hash}/restore"),
    ("get", "/trash"),
    ("get", "/events"),
    ("get", "/status"),
    ("get", "/openapi.json"),
    ("get", "/sync/feed"),
    ("get", "/sync/records"),
    ("post", "/sync/records"),
    ("post", "/sync/records/query"),
    ("get", "/sync/content/{hash}"),
    ("head", "/sync/content/{hash}"),
    ("post", "/sync/ingest"),
    ("post", "/sync/records/absent"),
    ("post", "/sync/let-go"),
    ("post", "/sync/redate"),
    ("post", "/sync/want"),
];

#[tokio::test]
async fn the_description_covers_every_route() {
    let service = TestService::start().await;
    let described: Value = service.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    let at_root = service.client.get(format!("http://{}/openapi.json", service.addr));
    assert_eq!(at_root.send().await.unwrap().json::<Value>().await.unwrap(), described);

    let mut found = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.insert((method.clone(), path.strip_prefix("/api/v1/can/0").unwrap().to_owned()));
            let what = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{what}");
            assert!(method == "head" || ids.insert(operation["operationId"].to_string()), "{what}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(
                    parameter["description"].as_str().is_some_and(|text| text.len() > 5),
                    "{what} {parameter}"
                );
            }
            let secured = operation["security"].is_array();
            assert_eq!(secured, path.contains("/sync/"), "{what}");
            assert!(operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')));
        }
    }
    let expected = ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(found, expected);
    check_references(&described, &described);
    for (name, schema) in described["components"]["schemas"].as_object().unwrap() {
        for (field, value) in schema["properties"].as_object().into_iter().flatten() {
            assert!(value.to_string().contains("\"description\""), "{name}.{field} is not described");
        }
    }
}

/// Every `$ref` leads somewhere.
fn check_references(root: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                assert!(root.pointer(pointer).is_some(), "{reference}");
            }
            map.values().for_each(|inner| check_references(root, inner));
        }
        Value::Array(list) => list.iter().for_each(|inner| check_references(root, inner)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Each route that is described answers, and answers something else than "unknown".
#[tokio::test]
async fn every_route_exists() {
    let service = TestService::start().await;
    for (method, path) in ROUTES {
        let path = path.replace("{hash}", "nonsense");
        let method: Method = method.to_uppercase().parse().unwrap();
        let answer = service.client.request(method.clone(), service.url(&path)).send().await.unwrap();
        assert!(!matches!(answer.status().as_u16(), 404 | 405), "{method} {path}: {}", answer.status());
    }
}
