//! What a single setting is, and the table that declares many of them.
//!
//! Every source (file, environment, flag) gives text; a [`Setting`] reads it. What is wrong with a value is kept beside the
//! others, so that one look finds every mistake.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::{Value, json};

/// Longest interval or timeout: a day. Longer ones are almost always a slip of the unit.
const DURATION_SECS_MAX: u64 = 24 * 60 * 60;

/// A value that can be read from text and shown again.
pub(super) trait Setting: Sized {
    /// What a value has to be, as it follows "expected".
    const EXPECTED: &'static str;
    /// Whether a YAML sequence is a value, too.
    const LIST: bool = false;

    /// Reads a value.
    ///
    /// # Errors
    /// A clause that says what is wrong. Never repeats a secret.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Reads the items of a YAML sequence.
    fn from_items(_items: &[String]) -> Result<Self, String> {
        Err(format!("expected {}, not a list", Self::EXPECTED))
    }

    /// The value as `config show` prints it; secrets are hidden.
    fn shown(&self) -> Value;

    /// Reads what stands in a file: a value, or a clause that says what is wrong with it.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Self, String>, D::Error> {
        // Asked for a string, the YAML reader hands out any scalar as it was typed: `name: 007` stays `007`.
        let visitor = GivenVisitor(PhantomData);
        if Self::LIST { deserializer.deserialize_any(visitor) } else { deserializer.deserialize_str(visitor) }
    }
}

pub(super) fn unexpected<T: Setting>(text: &str) -> String {
    let shown: String = text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("expected {}, not '{shown}'", T::EXPECTED)
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| unexpected::<Self>(text))
    }

    fn shown(&self) -> Value {
        json!(self)
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = "a whole number of at least 1";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().ok().filter(|count| *count >= 1).ok_or_else(|| unexpected::<Self>(text))
    }

    fn shown(&self) -> Value {
        json!(self)
    }
}

/// Numbers of bytes.
impl Setting for u64 {
    const EXPECTED: &'static str = "a number of bytes such as 1048576 or '64 MiB', below 8 EiB";

    fn from_text(text: &str) -> Result<Self, String> {
        let size: bytesize::ByteSize = text.trim().parse().map_err(|_| unexpected::<Self>(text))?;
        // What is larger than any number becomes the largest one, as if somebody had said that.
        Some(size.as_u64())
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or_else(|| unexpected::<Self>(text))
    }

    fn shown(&self) -> Value {
        json!(self)
    }
}

/// Whole seconds.
impl Setting for Duration {
    const EXPECTED: &'static str = "a whole number of seconds from 1 to 86400 (a day)";

    fn from_text(text: &str) -> Result<Self, String> {
        let secs: Option<u64> = text.parse().ok().filter(|secs| (1..=DURATION_SECS_MAX).contains(secs));
        secs.map(Self::from_secs).ok_or_else(|| unexpected::<Self>(text))
    }

    fn shown(&self) -> Value {
        json!(self.as_secs())
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an IP address with a port, such as 127.0.0.1:3213 or [::1]:3213";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| unexpected::<Self>(text))
    }

    fn shown(&self) -> Value {
        json!(self)
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "text";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Err("expected text, not nothing".to_owned()),
            text => Ok(text.to_owned()),
        }
    }

    fn shown(&self) -> Value {
        json!(self)
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    /// `~/` at the start means the home directory: no shell expands what stands in a file.
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err(unexpected::<Self>(text));
        }
        let below_home = if text == "~" { Some("") } else { text.strip_prefix("~/") };
        match (below_home, std::env::home_dir()) {
            (Some(rest), Some(home)) => Ok(home.join(rest)),
            (None, _) | (_, None) => Ok(Self::from(text)),
        }
    }

    fn shown(&self) -> Value {
        json!(self.to_string_lossy())
    }
}

impl Setting for SecretString {
    const EXPECTED: &'static str = "text";

    /// Whether it is a secret is found out with all the others, wherever they come from.
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn shown(&self) -> Value {
        json!("(hidden)")
    }
}

/// Something that may be left unsaid: `null`.
impl<T: Setting> Setting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const LIST: bool = T::LIST;

    fn from_text(text: &str) -> Result<Self, String> {
        T::from_text(text).map(Some)
    }

    fn from_items(items: &[String]) -> Result<Self, String> {
        T::from_items(items).map(Some)
    }

    fn shown(&self) -> Value {
        self.as_ref().map_or(Value::Null, Setting::shown)
    }
}

/// A YAML sequence, or one text with commas.
impl<T: Setting> Setting for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const LIST: bool = true;

    fn from_text(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::from_text).collect()
    }

    fn from_items(items: &[String]) -> Result<Self, String> {
        items.iter().map(|item| T::from_text(item)).collect()
    }

    fn shown(&self) -> Value {
        self.iter().map(Setting::shown).collect()
    }
}

/// A setting as a source says it: a value, or what is wrong with it.
#[derive(Clone)]
pub(super) struct GivenSetting<T>(pub(super) Result<T, String>);

impl<'de, T: Setting> Deserialize<'de> for GivenSetting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::read(deserializer).map(Self)
    }
}

struct GivenVisitor<T>(PhantomData<T>);

impl<'de, T: Setting> Visitor<'de> for GivenVisitor<T> {
    type Value = Result<T, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if T::LIST { write!(f, "a list: each item {}", T::EXPECTED) } else { f.write_str(T::EXPECTED) }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::from_text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<String>()? {
            items.push(item);
        }
        Ok(T::from_items(&items))
    }
}

/// What is wrong with a key of a file, apart from its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFault {
    Unknown,
    Twice,
}

/// What reading a layer leads to, one setting after the other.
pub(super) enum Laid {
    Set,
    Wrong(String),
}

/// Declares settings: the struct that the program reads with its defaults, the layer that one source fills in, and how
/// the one is laid over the other. A field's name in YAML is its own unless `as` gives another. Sections are structs of
/// the same kind, and keys of theirs begin with the section's name and a dot.
macro_rules! settings {
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (
        $(#[$meta:meta])*
        pub struct $name:ident from $layer:ident {
            $( $(#[$doc:meta])* $field:ident $(as $key:literal)? : $type:ty = $default:expr; )*
        }
        $( sections {
            $( $(#[$section_doc:meta])* $section:ident : $section_type:ident from $section_layer:ident; )*
        } )?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $( $(#[$doc])* pub $field: $type, )*
            $( $( $(#[$section_doc])* pub $section: $section_type, )* )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* $( $( $section: $section_type::default(), )* )? }
            }
        }

        impl $name {
            /// The settings of this section that are numbers and set, by key, in order; for metrics.
            pub fn numbers(&self) -> Vec<(&'static str, u64)> {
                use crate::config::setting::{Setting as _, settings};
                let all = [$( (settings!(@key $field $($key)?), self.$field.shown()) ),*];
                all.into_iter().filter_map(|(key, value)| Some((key, value.as_u64()?))).collect()
            }

            /// Every setting's full key and value, in order.
            fn list_into(&self, prefix: &str, list: &mut Vec<(String, serde_json::Value)>) {
                use crate::config::setting::{Setting as _, settings};
                $( list.push((format!("{prefix}{}", settings!(@key $field $($key)?)), self.$field.shown())); )*
                $( $( self.$section.list_into(concat!(stringify!($section), "."), list); )* )?
            }
        }

        /// What one source says; the rest is `None`.
        #[derive(Default)]
        struct $layer {
            $( $field: Option<crate::config::setting::GivenSetting<$type>>, )*
            $( $( $section: Option<$section_layer>, )* )?
            /// Keys that make no sense.
            faults: Vec<(String, crate::config::setting::KeyFault)>,
        }

        impl<'de> serde::Deserialize<'de> for $layer {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct LayerVisitor;

                impl<'de> serde::de::Visitor<'de> for LayerVisitor {
                    type Value = $layer;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("settings, each `key: value`")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$layer, A::Error> {
                        use crate::config::setting::{KeyFault, settings};
                        let mut layer = $layer::default();
                        let mut seen = std::collections::BTreeSet::new();
                        while let Some(key) = map.next_key::<String>()? {
                            if !seen.insert(key.clone()) {
                                map.next_value::<serde::de::IgnoredAny>()?;
                                layer.faults.push((key, KeyFault::Twice));
                                continue;
                            }
                            $( if key == settings!(@key $field $($key)?) {
                                layer.$field = map.next_value()?;
                                continue;
                            } )*
                            $( $( if key == stringify!($section) {
                                layer.$section = map.next_value()?;
                                continue;
                            } )* )?
                            map.next_value::<serde::de::IgnoredAny>()?;
                            layer.faults.push((key, KeyFault::Unknown));
                        }
                        Ok(layer)
                    }
                }

                deserializer.deserialize_map(LayerVisitor)
            }
        }

        impl $layer {
            /// Sets one setting by its full key; `None` if there is no such key.
            fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
                use crate::config::setting::{GivenSetting, Setting as _, settings};
                $( if key == settings!(@key $field $($key)?) {
                    return Some(<$type>::from_text(text).map(|value| self.$field = Some(GivenSetting(Ok(value)))));
                } )*
                $( $( if let Some(key) = key.strip_prefix(concat!(stringify!($section), ".")) {
                    return self.$section.get_or_insert_default().set(key, text);
                } )* )?
                None
            }

            /// The full keys that make no sense.
            fn key_faults(&self, prefix: &str, faults: &mut Vec<(String, crate::config::setting::KeyFault)>) {
                faults.extend(self.faults.iter().map(|(key, fault)| (format!("{prefix}{key}"), *fault)));
                $( $( if let Some(section) = &self.$section {
                    section.key_faults(concat!(stringify!($section), "."), faults);
                } )* )?
            }

            /// Lays this over `config`, and reports each setting by its full key: set, or what is wrong with it.
            fn lay_over(self, config: &mut $name, prefix: &str, laid: &mut dyn FnMut(String, crate::config::setting::Laid)) {
                use crate::config::setting::{Laid, settings};
                $( if let Some(given) = self.$field {
                    let key = format!("{prefix}{}", settings!(@key $field $($key)?));
                    laid(key, match given.0 {
                        Ok(value) => {
                            config.$field = value;
                            Laid::Set
                        }
                        Err(problem) => Laid::Wrong(problem),
                    });
                } )*
                $( $( if let Some(section) = self.$section {
                    section.lay_over(&mut config.$section, concat!(stringify!($section), "."), laid);
                } )* )?
            }
        }
    };
}
pub(super) use settings;
