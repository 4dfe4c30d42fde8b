use sluice_model::IngestorName;

use crate::kv::LeaseId;

/// Longest name of a lock, stream or hold, in bytes.
pub const MAX_NAME: usize = 512;
/// Bounds of a client's nonce, in bytes.
pub(crate) const NONCE: std::ops::RangeInclusive<usize> = 8..=64;

/// Why a name cannot be part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The empty text names nothing.
    #[error("the {0} must not be empty")]
    Empty(&'static str),
    /// Longer than a key allows.
    #[error("the {what} is {len} bytes long; at most {max} are allowed")]
    TooLong {
        /// What was named.
        what: &'static str,
        /// Its length.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Contains a control character, which would garble logs and terminals.
    #[error("the {0} contains a control character")]
    Control(&'static str),
    /// A nonce outside its bounds.
    #[error("a nonce has 8 to 64 bytes, not {0}")]
    Nonce(usize),
}

/// Where everything is kept. Names are percent-encoded, so that no name is a prefix of another's
/// keys: `a` and `a/b` are strangers.
///
/// ```text
/// <root>/v1/incarnation
/// <root>/v1/session/<lease>/<nonce>            -> lock name     leased; what a session asked for
/// <root>/v1/lock/<lock>/<lease>-<nonce>        -> candidate     leased
/// <root>/v1/ingestor/<ingestor>/journal|commit|control|audit
/// <root>/v1/ingestor/<ingestor>/audit/<number>  -> an entry of the trail
/// <root>/v1/stream/<stream>/checkpoint|reset
/// <root>/v1/hold/<ingestor>/<hold>
/// ```
#[derive(Clone, Debug)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Under a root such as `/sluice`, which separates deployments that share a store.
    pub fn new(root: &str) -> Self {
        Self { root: format!("{}/v1", root.trim_end_matches('/')) }
    }

    pub(crate) fn incarnation(&self) -> String {
        format!("{}/incarnation", self.root)
    }

    pub(crate) fn session(&self, lease: LeaseId) -> String {
        format!("{}/session/{lease:016x}/", self.root)
    }

    pub(crate) fn wish(&self, lease: LeaseId, nonce: &[u8]) -> Result<String, KeyError> {
        Ok(format!("{}{}", self.session(lease), nonce_text(nonce)?))
    }

    pub(crate) fn locks(&self) -> String {
        format!("{}/lock/", self.root)
    }

    /// The lock's name in a candidate's key.
    pub(crate) fn lock_of(&self, key: &str) -> Option<String> {
        let (name, _) = key.strip_prefix(&self.locks())?.split_once('/')?;
        decode(name)
    }

    pub(crate) fn candidates(&self, lock: &str) -> Result<String, KeyError> {
        Ok(format!("{}{}/", self.locks(), encode("lock name", lock)?))
    }

    pub(crate) fn candidate(
        &self,
        lock: &str,
        lease: LeaseId,
        nonce: &[u8],
    ) -> Result<String, KeyError> {
        Ok(format!("{}{lease:016x}-{}", self.candidates(lock)?, nonce_text(nonce)?))
    }

    pub(crate) fn journal(&self, ingestor: &IngestorName) -> String {
        format!("{}/ingestor/{}/journal", self.root, ingestor.encoded())
    }

    pub(crate) fn commit(&self, ingestor: &IngestorName) -> String {
        format!("{}/ingestor/{}/commit", self.root, ingestor.encoded())
    }

    pub(crate) fn control(&self, ingestor: &IngestorName) -> String {
        format!("{}/ingestor/{}/control", self.root, ingestor.encoded())
    }

    /// The head of the trail.
    pub(crate) fn audit(&self, ingestor: &IngestorName) -> String {
        format!("{}/ingestor/{}/audit", self.root, ingestor.encoded())
    }

    pub(crate) fn audit_entries(&self, ingestor: &IngestorName) -> String {
        format!("{}/", self.audit(ingestor))
    }

    /// Numbers in the order of keys.
    pub(crate) fn audit_entry(&self, ingestor: &IngestorName, sequence: u64) -> String {
        format!("{}{sequence:020}", self.audit_entries(ingestor))
    }

    pub(crate) fn streams(&self) -> String {
        format!("{}/stream/", self.root)
    }

    /// The stream whose checkpoint a key is.
    pub(crate) fn stream_of(&self, key: &str) -> Option<String> {
        let (name, rest) = key.strip_prefix(&self.streams())?.split_once('/')?;
        if rest == "checkpoint" { decode(name) } else { None }
    }

    pub(crate) fn checkpoint(&self, stream: &str) -> Result<String, KeyError> {
        Ok(format!("{}{}/checkpoint", self.streams(), encode("stream name", stream)?))
    }

    pub(crate) fn reset(&self, stream: &str) -> Result<String, KeyError> {
        Ok(format!("{}{}/reset", self.streams(), encode("stream name", stream)?))
    }

    pub(crate) fn holds(&self, ingestor: &IngestorName) -> String {
        format!("{}/hold/{}/", self.root, ingestor.encoded())
    }

    pub(crate) fn hold(&self, ingestor: &IngestorName, name: &str) -> Result<String, KeyError> {
        Ok(format!("{}{}", self.holds(ingestor), encode("hold name", name)?))
    }

    pub(crate) fn hold_of(&self, ingestor: &IngestorName, key: &str) -> Option<String> {
        decode(key.strip_prefix(&self.holds(ingestor))?)
    }
}

fn nonce_text(nonce: &[u8]) -> Result<String, KeyError> {
    if !NONCE.contains(&nonce.len()) {
        return Err(KeyError::Nonce(nonce.len()));
    }
    Ok(nonce.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Everything outside `[A-Za-z0-9_.-]` as `%XX`.
const PLAIN: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-');

fn encode(what: &'static str, name: &str) -> Result<String, KeyError> {
    if name.is_empty() {
        return Err(KeyError::Empty(what));
    }
    if name.len() > MAX_NAME {
        return Err(KeyError::TooLong { what, len: name.len(), max: MAX_NAME });
    }
    if name.chars().any(char::is_control) {
        return Err(KeyError::Control(what));
    }
    Ok(percent_encoding::utf8_percent_encode(name, PLAIN).to_string())
}

fn decode(name: &str) -> Option<String> {
    percent_encoding::percent_decode_str(name).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_reaches_into_the_keys_of_another() {
        let keys = Keys::new("/sluice");
        let prefix = |name: &str| keys.candidates(name).unwrap();
        for (a, b) in [("a", "a/b"), ("a", "ab"), ("a", "a%2Fb"), ("a/b", "a%2Fb"), ("ä", "a")] {
            assert!(!prefix(a).starts_with(&prefix(b)), "{a} {b}");
            assert!(!prefix(b).starts_with(&prefix(a)), "{a} {b}");
        }
    }

    #[test]
    fn names_come_back_out_of_keys() {
        let keys = Keys::new("/sluice/");
        for name in ["a", "a/b", "100%", "zürich", "ingestor/x y"] {
            let key = keys.candidate(name, 7, &[1; 16]).unwrap();
            assert_eq!(keys.lock_of(&key).as_deref(), Some(name));
            let key = keys.checkpoint(name).unwrap();
            assert_eq!(keys.stream_of(&key).as_deref(), Some(name));
            assert_eq!(keys.stream_of(&keys.reset(name).unwrap()), None);
        }
    }

    #[test]
    fn refuses_what_is_not_a_name_or_a_nonce() {
        let keys = Keys::new("/s");
        assert_eq!(keys.candidates(""), Err(KeyError::Empty("lock name")));
        assert!(matches!(keys.candidates(&"x".repeat(600)), Err(KeyError::TooLong { .. })));
        assert_eq!(keys.candidates("a\nb"), Err(KeyError::Control("lock name")));
        assert_eq!(keys.candidate("a", 1, &[1; 7]), Err(KeyError::Nonce(7)));
    }
}
