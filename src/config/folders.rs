//! Directories that the configuration binds to folders: a list of tables, where all other settings are single values.
//!
//! What is wrong with an item is told where it stands: the YAML reader adds the line to what is refused here.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::setting::{Setting, unexpected};
use super::table::{FieldName, Scalar};

const FIELDS: [&str; 7] = ["path", "name", "mode", "send_only", "read_only", "removals", "scan_only"];
/// As many as a node has folders.
pub const FOLDERS_MAX: usize = 64;

/// In which directions a folder is kept alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfiguredMode {
    #[default]
    Both,
    SendOnly,
    ReadOnly,
}

/// A directory that is to be bound at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredFolder {
    pub path: PathBuf,
    /// What the network calls it, or its id; `None`: as the directory is called.
    pub name: Option<String>,
    pub mode: ConfiguredMode,
    /// Files stay here that are removed elsewhere.
    pub ignores_removals: bool,
    /// Changes are found by looking from time to time alone.
    pub is_scan_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredFolders(pub Vec<ConfiguredFolder>);

impl ConfiguredFolder {
    fn at(path: &str) -> Result<Self, String> {
        Ok(Self { path: PathBuf::from_text(path)?, ..Self::default() })
    }

    fn shown(&self) -> Value {
        let mode = match self.mode {
            ConfiguredMode::Both => "both",
            ConfiguredMode::SendOnly => "send-only",
            ConfiguredMode::ReadOnly => "read-only",
        };
        let removals = if self.ignores_removals { "ignore" } else { "apply" };
        json!({
            "path": self.path.to_string_lossy(), "name": self.name, "mode": mode, "removals": removals,
            "scan_only": self.is_scan_only,
        })
    }
}

impl ConfiguredFolders {
    /// Takes in one more.
    fn push(&mut self, folder: ConfiguredFolder) -> Result<(), String> {
        if self.0.len() == FOLDERS_MAX {
            return Err(format!("expected at most {FOLDERS_MAX} folders"));
        }
        let path = whole(&folder.path);
        if let Some(before) = self.0.iter().position(|before| whole(&before.path) == path) {
            let shown = folder.path.display();
            return Err(format!(
                "'{shown}' is the directory of folders[{before}] already: keep one of the two"
            ));
        }
        self.0.push(folder);
        Ok(())
    }
}

/// A path as it is compared, which passes over what means nothing. Links are not followed: where they lead is found out by who binds
/// them.
fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Setting for ConfiguredFolders {
    const EXPECTED: &'static str = "folders, such as `- path: ~/Photos`";
    const LIST: bool = true;

    fn from_text(text: &str) -> Result<Self, String> {
        let mut folders = Self::default();
        for path in text.split(',').map(str::trim).filter(|path| !path.is_empty()) {
            folders.push(ConfiguredFolder::at(path)?)?;
        }
        Ok(folders)
    }

    fn shown(&self) -> Value {
        self.0.iter().map(ConfiguredFolder::shown).collect()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Self, String>, D::Error> {
        deserializer.deserialize_any(ListVisitor).map(Ok)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = ConfiguredFolders;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of folders, each such as `- path: ~/Photos`")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(ConfiguredFolders::default())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        ConfiguredFolders::from_text(text).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut folders = ConfiguredFolders::default();
        while seq.next_element_seed(NextItem(&mut folders))?.is_some() {}
        Ok(folders)
    }
}

/// One more of the list: a table, or the path alone. What does not go with those before it is refused where it stands.
struct NextItem<'a>(&'a mut ConfiguredFolders);

impl<'de> DeserializeSeed<'de> for NextItem<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NextItem<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a folder, such as `path: ~/Photos`")
    }

    fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<(), E> {
        ConfiguredFolder::at(path).and_then(|folder| self.0.push(folder)).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut path, mut name, mut mode) = (None, None, None);
        let (mut sends, mut reads) = (None, None);
        let (mut removals, mut scans) = (None, None);
        while let Some(field) = map.next_key_seed(FieldName { known: &FIELDS, of: "a folder" })? {
            let is_new = match field {
                "path" => path.replace(map.next_value::<Scalar<PathBuf>>()?.0).is_none(),
                "name" => name.replace(map.next_value::<Scalar<String>>()?.0).is_none(),
                "mode" => mode.replace(map.next_value::<Scalar<ConfiguredMode>>()?.0).is_none(),
                "send_only" => sends.replace(map.next_value::<Scalar<bool>>()?.0).is_none(),
                "read_only" => reads.replace(map.next_value::<Scalar<bool>>()?.0).is_none(),
                "removals" => removals.replace(map.next_value::<Scalar<Removals>>()?.0).is_none(),
                _ => scans.replace(map.next_value::<Scalar<bool>>()?.0).is_none(),
            };
            if !is_new {
                return Err(A::Error::custom(format!("'{field}' is given twice")));
            }
        }
        let path = path.ok_or_else(|| A::Error::custom("a folder needs its directory: `path: ~/Photos`"))?;
        let (sends, reads) = (sends.unwrap_or_default(), reads.unwrap_or_default());
        let said = match (sends, reads) {
            (true, true) => {
                return Err(A::Error::custom(
                    "send_only and read_only: keep one of the two, or nothing moves",
                ));
            }
            (true, false) => Some(ConfiguredMode::SendOnly),
            (false, true) => Some(ConfiguredMode::ReadOnly),
            (false, false) => None,
        };
        if mode.is_some() && said.is_some() && mode != said {
            return Err(A::Error::custom("mode says something else than send_only or read_only: keep one"));
        }
        let folder = ConfiguredFolder {
            path,
            name,
            mode: mode.or(said).unwrap_or_default(),
            ignores_removals: removals.is_some_and(|Removals { are_ignored }| are_ignored),
            is_scan_only: scans.unwrap_or_default(),
        };
        self.0.push(folder).map_err(A::Error::custom)
    }
}

impl Setting for ConfiguredMode {
    const EXPECTED: &'static str = "'both', 'send-only' or 'read-only'";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.replace('_', "-").as_str() {
            "both" => Ok(Self::Both),
            "send-only" => Ok(Self::SendOnly),
            "read-only" => Ok(Self::ReadOnly),
            _ => Err(unexpected::<Self>(text)),
        }
    }

    fn shown(&self) -> Value {
        Value::Null
    }
}

struct Removals {
    are_ignored: bool,
}

impl Setting for Removals {
    const EXPECTED: &'static str = "'apply' or 'ignore'";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "apply" => Ok(Self { are_ignored: false }),
            "ignore" => Ok(Self { are_ignored: true }),
            _ => Err(unexpected::<Self>(text)),
        }
    }

    fn shown(&self) -> Value {
        Value::Null
    }
}
