use std::{fmt, io::Read, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// Largest secret, in bytes.
const MAX_SECRET: u64 = 64 << 10;

/// A reference to a secret: `file:PATH` or `env:NAME`. Never holds the secret itself, so printing
/// a configuration cannot leak one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Secret {
    /// The content of a file, without the line end.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
}

/// Why a secret cannot be had. Never contains it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A literal stands where a reference belongs.
    #[error("a secret must be a reference: file:PATH or env:NAME, never the secret itself")]
    Literal,
    /// The file cannot be read.
    #[error("the secret's file {0}: {1}")]
    File(PathBuf, String),
    /// The variable is not set.
    #[error("the secret's environment variable {0} is not set")]
    Env(String),
    /// Nothing is in it.
    #[error("the secret behind {0} is empty")]
    Empty(String),
}

impl Secret {
    /// Reads the secret, at most 64 KiB of it.
    pub fn resolve(&self) -> Result<String, SecretError> {
        let text = match self {
            Self::File(path) => read(path)?,
            Self::Env(name) => environment(name)?,
        };
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(SecretError::Empty(self.to_string()));
        }
        Ok(secret.to_owned())
    }
}

fn read(path: &PathBuf) -> Result<String, SecretError> {
    let wrong = |reason: String| SecretError::File(path.clone(), reason);
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut text = String::new();
    let read = file.take(MAX_SECRET + 1).read_to_string(&mut text);
    read.map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > MAX_SECRET {
        return Err(wrong(format!("it is larger than {MAX_SECRET} bytes")));
    }
    Ok(text)
}

#[expect(clippy::disallowed_methods, reason = "this crate is the one that reads the environment")]
fn environment(name: &str) -> Result<String, SecretError> {
    std::env::var(name).map_err(|_| SecretError::Env(name.to_owned()))
}

impl FromStr for Secret {
    type Err = SecretError;
    fn from_str(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            _ => Err(SecretError::Literal),
        }
    }
}

impl TryFrom<String> for Secret {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, SecretError> {
        text.parse()
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.to_string()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_literals_without_repeating_them() {
        let error = "hunter2".parse::<Secret>().unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.contains("file:PATH"), "{error}");
    }

    #[test]
    fn reads_files_without_the_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "s3cret\n").unwrap();
        let secret: Secret = format!("file:{}", path.display()).parse().unwrap();
        assert_eq!(secret.resolve().unwrap(), "s3cret");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(secret.resolve(), Err(SecretError::Empty(_))));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(secret.resolve(), Err(SecretError::File(..))));
    }
}
