//! Settings that are tables: their fields' names and values, each refused where it stands.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, Visitor};

use super::load::nearest;
use super::setting::Setting;

/// Reads the name of a field, which has to be one of those that are known.
pub(super) struct FieldName {
    pub known: &'static [&'static str],
    /// What has these fields, such as "a folder".
    pub of: &'static str,
}

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        let Self { known, of } = self;
        let name = String::deserialize(deserializer)?;
        known.iter().copied().find(|field| *field == name).ok_or_else(|| {
            let fields: Vec<_> = known.iter().map(|&field| field.to_owned()).collect();
            let near = nearest(&name, &fields).map(|near| format!("; did you mean '{near}'?"));
            let hint = near.unwrap_or_else(|| format!("; {of} has {}", known.join(", ")));
            D::Error::custom(format!("unknown key '{}'{hint}", name.chars().take(60).collect::<String>()))
        })
    }
}

/// A value as settings have it.
pub(super) struct Scalar<T>(pub(super) T);

impl<'de, T: Setting> Deserialize<'de> for Scalar<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ScalarVisitor(PhantomData)).map(Self)
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Setting> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}
