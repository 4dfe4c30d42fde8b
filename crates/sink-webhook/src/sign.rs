//! Signatures as Standard Webhooks describes them: HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;

/// The keys of a stream's signatures. With several, a receiver can change keys without missing
/// a delivery: every request carries one signature per key.
#[derive(Clone)]
pub(crate) struct Signer {
    keys: Vec<hmac::Key>,
}

/// Fewest bytes of a key: half of what the hash puts out.
const MIN_KEY: usize = 16;

impl Signer {
    /// Reads keys, separated by white space: `whsec_` and base64, or any other text as it is.
    /// The error never repeats a key.
    pub(crate) fn new(secret: &str) -> Result<Self, String> {
        let keys = secret
            .split_whitespace()
            .enumerate()
            .map(|(i, text)| key(text).map_err(|why| format!("key {}: {why}", i + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self { keys })
    }

    /// The value of `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut out = String::new();
        for key in &self.keys {
            let mut context = hmac::Context::with_key(key);
            for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                context.update(part);
            }
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str("v1,");
            STANDARD.encode_string(context.sign(), &mut out);
        }
        out
    }
}

fn key(text: &str) -> Result<hmac::Key, String> {
    let bytes = match text.strip_prefix("whsec_") {
        Some(encoded) => STANDARD
            .decode(encoded)
            .map_err(|_| "what follows whsec_ is not base64 with padding".to_owned())?,
        None => text.as_bytes().to_vec(),
    };
    if bytes.len() < MIN_KEY {
        return Err(format!("{} bytes are too short; at least {MIN_KEY} are needed", bytes.len()));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed beforehand with another implementation: python's `hmac` and `hashlib.sha256`.
    const EXPECTED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn signs_like_another_implementation() {
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body), EXPECTED);
    }

    #[test]
    fn one_signature_per_key() {
        let both = Signer::new("0123456789abcdef\nfedcba9876543210\n").unwrap();
        let one = Signer::new("fedcba9876543210").unwrap();
        let signed = both.sign("id", "1", b"x");
        assert_eq!(signed.split(' ').nth(1).unwrap(), one.sign("id", "1", b"x"));
    }

    #[test]
    fn bad_keys_are_refused_without_repeating_them() {
        for secret in ["", "  \n", "hunter2", "whsec_!!!", "whsec_c2hvcnQ="] {
            let error = Signer::new(secret).unwrap_err();
            assert!(secret.len() < 5 || !error.contains(secret), "{error}");
        }
        assert_eq!(format!("{:?}", Signer::new("0123456789abcdef").unwrap()), "Signer(1 keys)");
    }
}
