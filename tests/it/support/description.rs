//! What holds for the API description of either server.

use std::collections::BTreeSet;

use reqwest::{Client, Method};
use serde_json::Value;

use super::service::KEY;

/// Checks what tools that read descriptions ask for, and what callers need: ids that are there once, descriptions, the refusals
/// that any operation knows, references that lead somewhere.
pub(crate) fn check(described: &Value) {
    let mut ids = BTreeSet::new();
    for (what, operation) in operations(described) {
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{what} has no id"));
        assert!(ids.insert(id.to_owned()), "{what}: {id} is there twice");
        assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{what}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{what}");
        for (status, response) in responses {
            assert!(response["description"].as_str().is_some_and(|text| text.len() > 5), "{what} {status}");
            if status.starts_with(['4', '5']) || status == "default" {
                assert!(response["content"]["application/json"].is_object(), "{what} {status}");
            }
        }
        assert!(responses.contains_key("400") && responses.contains_key("default"), "{what}");
        assert!(operation.get("requestBody").is_none() || responses.contains_key("415"), "{what}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let said = parameter["description"].as_str();
            assert!(said.is_some_and(|text| text.len() > 5), "{what} {parameter}");
        }
    }
    check_references(described, described);
}

/// Every operation refuses a parameter that it does not have, and one that it has is not refused as unknown.
pub(crate) async fn parameters_are_those_described(client: &Client, root: &str, described: &Value) {
    let ask = |method: Method, url: String| client.request(method, url).header("x-sync-key", KEY);
    let mut asked = 0;
    for (what, operation) in operations(described) {
        let (method, path) = what.split_once(' ').unwrap();
        let method: Method = method.to_uppercase().parse().unwrap();
        let id = "0".repeat(64);
        let url = format!("{root}{}", path.replace("{hash}", &id).replace("{id}", &id));
        let refused = ask(method.clone(), format!("{url}?limt=5")).send().await.unwrap();
        assert_eq!(refused.status(), 400, "{what}");
        if method != Method::HEAD {
            let body: Value = refused.json().await.unwrap();
            assert_eq!(body["code"], "unknown_parameter", "{what}");
        }
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        for known in parameters.filter(|parameter| parameter["in"] == "query") {
            let url = format!("{url}?{}=", known["name"].as_str().unwrap());
            // The headers are enough, for a stream has no end.
            let answer = ask(method.clone(), url).send().await.unwrap();
            let is_json = answer.headers()["content-type"] == "application/json";
            if is_json && method != Method::HEAD {
                let body: Value = answer.json().await.unwrap();
                assert_ne!(body["code"], "unknown_parameter", "{what} {known}");
            }
            asked += 1;
        }
    }
    assert!(asked > 0);
}

fn operations(described: &Value) -> Vec<(String, &Value)> {
    let paths = described["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    operations.collect()
}

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
