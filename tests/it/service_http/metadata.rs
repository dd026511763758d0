//! List, search, metadata, deletion, status, description.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::description;
use crate::support::service::{TestService, data, refusal, status};

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
    assert_eq!(names(&get(&service, "/list?limit=99999").await).len(), 7);
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
        (&Value::Null, &Value::Null, &"d".into())
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
        "bytes_held": 8, "damaged": 0, "seq": 2, "keeps_entries": true, "read_only": null, "short_of_space": null, "contents_away": null,
        "quota": null, "waiting_uploads": null, "notice": null,
        "scrub": {"running": null, "last": null, "next_ms": null}, "snapshots": null, "store_id": service.store.id().to_string(),
        "version": env!("CARGO_PKG_VERSION")});
    assert_eq!(status, expected);
}

/// Every route there is. A new one has to be added here, and then to be described.
const ROUTES: [(&str, &str); 38] = [
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
    ("get", "/scrub"),
    ("post", "/scrub"),
    ("get", "/scrub/findings"),
    ("get", "/damaged"),
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
    ("get", "/sync/entries"),
    ("post", "/sync/entries"),
    ("get", "/sync/entries/history"),
    ("post", "/sync/entries/query"),
    ("post", "/sync/entries/take"),
    ("post", "/sync/entries/with"),
    ("get", "/sync/entries/foreign"),
    ("put", "/sync/entries/foreign"),
    ("delete", "/sync/entries/foreign"),
];

#[tokio::test]
async fn the_description_covers_every_route() {
    let service = TestService::start().await;
    let described: Value = service.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    let at_root = service.client.get(format!("http://{}/openapi.json", service.addr));
    assert_eq!(at_root.send().await.unwrap().json::<Value>().await.unwrap(), described);

    description::check(&described);
    let mut found = BTreeSet::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.insert((method.clone(), path.strip_prefix("/api/v1/can/0").unwrap().to_owned()));
            assert_eq!(operation["security"].is_array(), path.contains("/sync/"), "{method} {path}");
        }
    }
    let expected = ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(found, expected);
    let root = format!("http://{}", service.addr);
    description::parameters_are_those_described(&service.client, &root, &described).await;
    for (name, schema) in described["components"]["schemas"].as_object().unwrap() {
        for (field, value) in schema["properties"].as_object().into_iter().flatten() {
            assert!(value.to_string().contains("\"description\""), "{name}.{field} is not described");
        }
    }
}

#[tokio::test]
async fn a_parameter_that_is_misspelt_is_named_with_the_one_that_was_meant() {
    let service = TestService::start().await;
    service.put("a", &[]).await;
    for (query, hint) in
        [("tgas=holiday", "'tags'"), ("Limit=3", "'limit'"), ("mime=image/", "'mime_prefix'")]
    {
        let answer = service.get(&format!("/search?{query}")).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        let body: Value = answer.json().await.unwrap();
        assert!(body["hint"].as_str().unwrap().contains(hint), "{query}: {body}");
    }
    let body: Value = service.get("/status?verbose=1").send().await.unwrap().json().await.unwrap();
    assert_eq!(body["hint"], "this request takes no parameters");
}

#[tokio::test]
async fn two_who_edit_at_once_do_not_undo_each_other() {
    let service = TestService::start().await;
    let hash = service.put("shared", &[("description", "first")]).await["hash"].as_str().unwrap().to_owned();
    let path = format!("/asset/{hash}/meta");
    let read = async || {
        let answer = service.get(&path).send().await.unwrap();
        answer.headers()["etag"].to_str().unwrap().to_owned()
    };
    let edit = async |tag: &str, user: &str| {
        let change = service.client.patch(service.url(&path)).header("if-match", tag);
        change.json(&json!({"user": user})).send().await.unwrap()
    };
    let tag = read().await;
    let first = edit(&tag, "ann").await;
    assert_eq!(first.status(), 200);
    let newer = first.headers()["etag"].to_str().unwrap().to_owned();
    assert_ne!(newer, tag);
    assert_eq!(newer, read().await);
    let late = edit(&tag, "bob").await;
    assert_eq!(crate::support::service::refusal_of(late).await, (412, "changed".into()));
    let weak = edit(&format!("W/{newer}"), "bob").await;
    assert_eq!(weak.status(), 412, "a weak tag names no version");
    assert_eq!(edit(&format!("\"other\", {newer}"), "cid").await.status(), 200);
    assert_eq!(edit("*", "dan").await.status(), 200);

    let delete =
        |tag: &str| service.client.delete(service.url(&format!("/asset/{hash}"))).header("if-match", tag);
    assert_eq!(refusal(delete(&newer)).await, (412, "changed".to_owned()));
    assert_eq!(status(delete(&read().await)).await, 200);
}

#[tokio::test]
async fn empty_fields_say_nothing_wherever_they_come() {
    let service = TestService::start().await;
    let blank = [("user", ""), ("application", " "), ("description", ""), ("mime_type", ""), ("tags", " , ")];
    let asset = service.put("plain text", &blank).await;
    for field in ["user", "application", "description"] {
        assert_eq!(asset[field], Value::Null, "{field}");
    }
    assert_eq!((&asset["tags"], &asset["mime_type"]), (&json!([]), &json!("text/plain")));
    let path = format!("/asset/{}/meta", asset["hash"].as_str().unwrap());
    let patch = |body: Value| service.client.patch(service.url(&path)).json(&body);
    let full = data(patch(json!({"user": "ann", "filename": "a.txt"})).send().await.unwrap()).await;
    assert_eq!((&full["user"], &full["filename"]), (&json!("ann"), &json!("a.txt")));
    let cleared = data(patch(json!({"user": "", "filename": null})).send().await.unwrap()).await;
    assert_eq!((&cleared["user"], &cleared["filename"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn tags_with_commas_are_stored_and_found() {
    let service = TestService::start().await;
    service.put("one", &[("tag", "Paris, France"), ("tags", "trip,2026")]).await;
    service.put("two", &[("tags", "Paris, France")]).await;
    let found = async |query: &str| {
        let page = data(service.get(&format!("/search?{query}")).send().await.unwrap()).await;
        page["total"].as_u64().unwrap()
    };
    assert_eq!(found("tag=Paris%2C%20France").await, 1);
    assert_eq!(found("tags=Paris%2C%20France").await, 1, "that is two tags");
    assert_eq!(found("tag=Paris%2C%20France&tag=Paris").await, 2);
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
