//! Several names of one content, and when its file was written.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::service::{TestService, data, refusal};

const CONTENT: &str = "the same picture";

async fn get(service: &TestService, path: &str) -> Value {
    data(service.get(path).send().await.expect("an answer")).await
}

fn outcome(ingested: &Value) -> (&str, Option<&str>) {
    (ingested["outcome"].as_str().expect("an outcome"), ingested["name_outcome"].as_str())
}

#[tokio::test]
async fn content_under_another_name_has_both_wherever_it_is_shown() {
    let service = TestService::start().await;
    let first = service.put(CONTENT, &[("filename", "a.jpg")]).await;
    assert_eq!(outcome(&first), ("new", None));
    assert_eq!((&first["names"], &first["modified_at"]), (&json!([]), &Value::Null));
    let hash = first["hash"].as_str().expect("a hash").to_owned();
    // The name of the part counts as well, as browsers write it.
    let part = Part::text(CONTENT).file_name("caf\u{e9} \"b\".jpg");
    let form = Form::new().part("file", part);
    let second = data(service.post("/ingest").multipart(form).send().await.unwrap()).await;
    assert_eq!(outcome(&second), ("merged", Some("added")));
    assert_eq!((&second["filename"], &second["names"]), (&json!("a.jpg"), &json!(["caf\u{e9} \"b\".jpg"])));
    let known = |body: Value| service.post(&format!("/asset/{hash}/ingest")).json(&body);
    let third = data(known(json!({"filename": "cafe\u{301} \"b\".jpg"})).send().await.unwrap()).await;
    assert_eq!(outcome(&third), ("unchanged", Some("known")), "canonically equal is the same");
    let nameless = data(known(json!({"tags": ["t"]})).send().await.unwrap()).await;
    assert_eq!(outcome(&nameless), ("merged", None));

    let expected = json!(["caf\u{e9} \"b\".jpg"]);
    assert_eq!(get(&service, &format!("/asset/{hash}/meta")).await["names"], expected);
    for path in ["/list", "/search?q=A.JPG", "/search?q=CAFE%CC%81", "/search?q=jpg%20%22b%22"] {
        let page = get(&service, path).await;
        assert_eq!((&page["total"], &page["assets"][0]["names"]), (&json!(1), &expected), "{path}");
    }
    let deleted = service.client.delete(service.url(&format!("/asset/{hash}"))).send().await.unwrap();
    assert_eq!(data(deleted).await["names"], expected);
    assert_eq!(get(&service, "/trash").await["assets"][0]["names"], expected);
}

#[tokio::test]
async fn the_list_of_names_is_replaced() {
    let service = TestService::start().await;
    let asset = service.put(CONTENT, &[("filename", "a")]).await;
    let path = format!("/asset/{}/meta", asset["hash"].as_str().expect("a hash"));
    let patch = |body: Value| service.client.patch(service.url(&path)).json(&body);
    let named = async |body: Value| {
        let asset = data(patch(body).send().await.expect("an answer")).await;
        (asset["filename"].clone(), asset["names"].clone())
    };
    assert_eq!(
        named(json!({"names": ["c", "b", "a", "b", "", "  "]})).await,
        (json!("a"), json!(["b", "c"]))
    );
    assert_eq!(named(json!({"filename": "b"})).await, (json!("b"), json!(["c"])));
    assert_eq!(named(json!({"filename": null, "names": ["x"]})).await, (Value::Null, json!(["x"])));
    assert_eq!(named(json!({"names": []})).await, (Value::Null, json!([])));
    let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
    for bad in [json!(many), json!(["x".repeat(1025)]), json!(null), json!("a"), json!([1])] {
        let (status, code) = refusal(patch(json!({"names": bad}))).await;
        assert_eq!(status, 400, "{bad}");
        assert!(["invalid_metadata", "invalid_json"].contains(&code.as_str()), "{code}");
    }
    assert_eq!(named(json!({"names": many[1..]})).await.1.as_array().map(Vec::len), Some(16));
    let one_more = service.put(CONTENT, &[("filename", "first")]).await;
    assert_eq!(outcome(&one_more), ("merged", Some("added")), "it had no first one");
    let left_out = service.put(CONTENT, &[("filename", "seventeenth")]).await;
    assert_eq!(outcome(&left_out), ("unchanged", Some("left_out")));
}

#[tokio::test]
async fn when_a_file_was_written_is_taken_in_two_ways_and_refused_in_all_others() {
    let service = TestService::start().await;
    for (n, (given, answered)) in [
        ("1500000000123", "2017-07-14T02:40:00.123Z"),
        ("2017-07-14T04:40:00.123+02:00", "2017-07-14T02:40:00.123Z"),
        ("0", "1970-01-01T00:00:00.000Z"),
        (" 7 ", "1970-01-01T00:00:00.007Z"),
        ("253402207200999", "9999-12-30T22:00:00.999Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000Z"),
    ]
    .into_iter()
    .enumerate()
    {
        let asset = service.put(format!("content {n}"), &[("modified_at", given)]).await;
        let shown = asset["modified_at"].as_str().expect("a time");
        assert_eq!(shown, answered, "{given}");
    }
    let plain = service.put("plain", &[("modified_at", "")]).await;
    assert_eq!(plain["modified_at"], Value::Null, "an empty field says nothing");
    let again = service.put("plain", &[("modified_at", "5")]).await;
    assert_eq!((outcome(&again), &again["modified_at"]), (("unchanged", None), &Value::Null));
    let tagged = service.put("plain", &[("modified_at", "5"), ("tags", "t")]).await;
    assert_eq!(tagged["modified_at"], json!("1970-01-01T00:00:00.005Z"));
    let path = format!("/asset/{}/ingest", plain["hash"].as_str().expect("a hash"));
    for bad in [
        "281474976710656",
        "253402207201000",
        "-1",
        "1969-12-31T23:59:59Z",
        "yesterday",
        "1.5",
        "99999999999999999999999",
        // A year, and seconds: as in searches.
        "2024",
        "1700000000",
    ] {
        let form = Form::new().text("modified_at", bad).part("file", Part::text("bad"));
        let refused = refusal(service.post("/ingest").multipart(form)).await;
        assert_eq!(refused, (400, "invalid_metadata".to_owned()), "{bad}");
        let refused = refusal(service.post(&path).json(&json!({"modified_at": bad}))).await;
        assert_eq!(refused, (400, "invalid_metadata".to_owned()), "{bad}");
    }
    assert_eq!(get(&service, "/search?q=bad").await["total"], 0);
}
