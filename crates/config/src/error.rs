/// Why a configuration cannot be used. Every message names the key, where it was set, and what to
/// write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {reason}; give another file with --config")]
    File {
        /// As given.
        path: String,
        /// Why.
        reason: String,
    },
    /// The text is not TOML, or an environment variable or flag cannot be merged.
    #[error("{origin}: {reason}")]
    Syntax {
        /// The file, variable or flag.
        origin: String,
        /// Why.
        reason: String,
    },
    /// A key is unknown, missing, or has a value that cannot be used.
    #[error("`{key}`: {reason}")]
    Key {
        /// The key's full path.
        key: String,
        /// Why.
        reason: String,
    },
    /// Everything that contradicts itself, one line each.
    #[error("the configuration contradicts itself:\n  {}", .0.join("\n  "))]
    Invalid(Vec<String>),
}

impl ConfigError {
    /// An error of one key.
    #[expect(clippy::needless_pass_by_value, reason = "reads as `key(path, error)` everywhere")]
    pub fn key(key: impl Into<String>, reason: impl ToString) -> Self {
        Self::Key { key: key.into(), reason: reason.to_string() }
    }
}
