use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest ingestor name, in bytes.
pub(crate) const MAX_NAME: usize = 200;

/// The name of an ingestor: the unit of order, of locking and of commit.
///
/// Any printable text of 1 to 200 bytes; stores that need a narrower alphabet percent-encode it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IngestorName(Arc<str>);

/// Why a text is not a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// The empty text names nothing.
    #[error("an ingestor's name must not be empty")]
    Empty,
    /// Longer than 200 bytes.
    #[error("the ingestor name is {0} bytes long; at most {MAX_NAME} are allowed")]
    TooLong(usize),
    /// Contains a control character, which would garble logs and terminals.
    #[error("the ingestor name {0:?} contains a control character")]
    Control(String),
}

impl IngestorName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in the alphabet `[A-Za-z0-9_.-]`, everything else as `%XX`, safe as a file name
    /// and as one segment of a key. Injective, so two names never share a directory.
    pub fn encoded(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        for (i, byte) in self.0.bytes().enumerate() {
            // A leading dot would make "." and ".." directories of their own kind.
            let plain = byte.is_ascii_alphanumeric()
                || matches!(byte, b'_' | b'-')
                || (byte == b'.' && i > 0);
            if plain {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }
}

impl FromStr for IngestorName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::Control(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for IngestorName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<IngestorName> for String {
    fn from(name: IngestorName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for IngestorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for IngestorName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_keeps_names_apart() {
        let encoded = |s: &str| s.parse::<IngestorName>().unwrap().encoded();
        assert_eq!(encoded("cosmoshub-4"), "cosmoshub-4");
        assert_eq!(encoded("a/b"), "a%2Fb");
        assert_eq!(encoded("a%2Fb"), "a%252Fb");
        assert_eq!(encoded(".."), "%2E.");
    }

    #[test]
    fn refuses_empty_long_and_control() {
        assert_eq!("".parse::<IngestorName>(), Err(NameError::Empty));
        assert_eq!("x".repeat(201).parse::<IngestorName>(), Err(NameError::TooLong(201)));
        assert!(matches!("a\nb".parse::<IngestorName>(), Err(NameError::Control(_))));
    }
}
