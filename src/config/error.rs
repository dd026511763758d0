//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

use super::load::Origin;

/// A configuration that cannot be used: one sentence that names the place, the setting and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was asked for is not there.
    #[error("there is no configuration file '{}'", .0.display())]
    Missing(PathBuf),
    /// A file that is there cannot be read.
    #[error("cannot read the configuration file '{}': {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// A file of somebody else that nobody asked for.
    #[error(
        "'{}' belongs to another user, or others can change it, so it is not read: name it with --config if you trust it",
        .0.display()
    )]
    Foreign(PathBuf),
    /// A file larger than any configuration.
    #[error("'{}' is larger than {limit} bytes: that is no configuration file", path.display())]
    TooLarge {
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
    /// Something that stands in a file.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Malformed {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// The setting's full key, where it is about one.
        key: Option<String>,
        /// The setting, what is expected, and what stands there instead.
        problem: String,
    },
    /// A value from the environment or a flag, or one that does not go with another.
    #[error("{origin}: {key}: {problem}")]
    Invalid {
        origin: Origin,
        /// The setting's full key.
        key: String,
        /// What is expected, and what is there instead.
        problem: String,
    },
}

impl ConfigError {
    /// Whether the command line is to blame.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Invalid { origin, .. } => matches!(origin, Origin::Flag(_)),
            Self::Missing(_)
            | Self::Foreign(_)
            | Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. } => false,
        }
    }

    /// The full key of the setting to blame, where it is one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Invalid { key, .. } => Some(key),
            Self::Malformed { key, .. } => key.as_deref(),
            Self::Missing(_) | Self::Foreign(_) | Self::Unreadable { .. } | Self::TooLarge { .. } => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Whether the command line alone is to blame.
    pub fn is_usage(&self) -> bool {
        self.0.iter().all(ConfigError::is_usage)
    }
}
