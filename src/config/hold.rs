//! Of which assets a node holds the contents: of all, of none, or of those that a filter matches, which is a table.
//!
//! What is wrong with the table is told where it stands: the YAML reader adds the line to what is refused here. Whether a filter makes
//! sense is found out by who knows filters, before a start changes anything.

use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Value, json};

use super::setting::{GivenSetting, Setting, unexpected};
use super::table::{FieldName, Scalar};

const FIELDS: [&str; 6] = ["application", "tags", "user", "mime_prefix", "hashes", FOLDER];
/// Filters of libraries have this one, which is refused here.
const FOLDER: &str = "folder";

/// Of which assets contents are held here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HoldSetting {
    #[default]
    Everything,
    Nothing,
    Matching(HoldFilter),
}

/// A filter as it is written: fields are joined by AND, the items of a list by OR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldFilter {
    pub application: Option<String>,
    pub tags: Option<Vec<String>>,
    pub user: Option<String>,
    pub mime_prefix: Option<String>,
    pub hashes: Option<Vec<String>>,
}

impl Setting for HoldSetting {
    const EXPECTED: &'static str =
        "'everything', 'nothing', or a filter with application, tags, user, mime_prefix or hashes";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim() {
            "everything" => Ok(Self::Everything),
            "nothing" => Ok(Self::Nothing),
            _ => Err(unexpected::<Self>(text)),
        }
    }

    fn shown(&self) -> Value {
        let HoldFilter { application, tags, user, mime_prefix, hashes } = match self {
            Self::Everything => return json!("everything"),
            Self::Nothing => return json!("nothing"),
            Self::Matching(filter) => filter,
        };
        let fields = [
            ("application", json!(application)),
            ("tags", json!(tags)),
            ("user", json!(user)),
            ("mime_prefix", json!(mime_prefix)),
            ("hashes", json!(hashes)),
        ];
        let said = fields.into_iter().filter(|(_, value)| !value.is_null());
        Value::Object(said.map(|(field, value)| (field.to_owned(), value)).collect())
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Self, String>, D::Error> {
        deserializer.deserialize_any(HoldVisitor).map(Ok)
    }
}

struct HoldVisitor;

impl<'de> Visitor<'de> for HoldVisitor {
    type Value = HoldSetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HoldSetting::EXPECTED)
    }

    fn visit_unit<E>(self) -> Result<HoldSetting, E> {
        Ok(HoldSetting::default())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<HoldSetting, E> {
        HoldSetting::from_text(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HoldSetting, A::Error> {
        let mut filter = HoldFilter::default();
        while let Some(field) = map.next_key_seed(FieldName { known: &FIELDS, of: "a filter" })? {
            let is_new = match field {
                FOLDER => {
                    let why = "unknown key 'folder'; what a bound folder needs is held whatever hold says";
                    return Err(A::Error::custom(why));
                }
                "application" => filter.application.replace(text(&mut map)?).is_none(),
                "tags" => filter.tags.replace(list(&mut map)?).is_none(),
                "user" => filter.user.replace(text(&mut map)?).is_none(),
                "mime_prefix" => filter.mime_prefix.replace(text(&mut map)?).is_none(),
                _ => filter.hashes.replace(list(&mut map)?).is_none(),
            };
            if !is_new {
                return Err(A::Error::custom(format!("'{field}' is given twice")));
            }
        }
        if filter == HoldFilter::default() {
            return Err(A::Error::custom("a filter needs a field at least: all there is are 'everything'"));
        }
        Ok(HoldSetting::Matching(filter))
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<String, A::Error> {
    Ok(map.next_value::<Scalar<String>>()?.0)
}

fn list<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<String>, A::Error> {
    map.next_value::<GivenSetting<Vec<String>>>()?.0.map_err(A::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<HoldSetting, String> {
        let given: Result<GivenSetting<HoldSetting>, _> = serde_yaml::from_str(yaml);
        given.map_err(|error| error.to_string()).and_then(|given| given.0)
    }

    #[test]
    fn words_and_filters_are_read_as_people_write_them() {
        assert_eq!(read("everything"), Ok(HoldSetting::Everything));
        assert_eq!(read("null"), Ok(HoldSetting::Everything));
        assert_eq!(read("nothing"), Ok(HoldSetting::Nothing));
        let filter = HoldFilter {
            tags: Some(vec!["work".into(), "now".into()]),
            mime_prefix: Some("image/".into()),
            ..HoldFilter::default()
        };
        for yaml in ["{ tags: [work, now], mime_prefix: image/ }", "tags: work, now\nmime_prefix: image/"] {
            let setting = read(yaml).unwrap();
            assert_eq!(setting, HoldSetting::Matching(filter.clone()), "{yaml}");
            assert_eq!(setting.shown(), json!({ "tags": ["work", "now"], "mime_prefix": "image/" }));
        }
    }

    #[test]
    fn what_makes_no_sense_says_what_was_meant() {
        for (yaml, said) in [
            ("all", "expected 'everything'"),
            ("{}", "needs a field"),
            ("{ tag: [work] }", "did you mean 'tags'?"),
            ("{ folder: photos }", "bound folder"),
            ("{ user: a, user: b }", "given twice"),
            ("{ sideways: 1 }", "a filter has application, tags, user, mime_prefix, hashes"),
        ] {
            let problem = read(yaml).unwrap_err();
            assert!(problem.contains(said), "{yaml}: {problem}");
        }
    }
}
