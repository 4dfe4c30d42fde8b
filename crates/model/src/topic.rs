//! Topics: the finer labels that rules give to changes at capture.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A prefix of keys, written `hex:02` or `text:abc`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyPrefix {
    bytes: Vec<u8>,
    text: bool,
}

/// Why a text is not a key prefix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a key prefix: write hex:02ff or text:abc")]
pub struct KeyPrefixError(String);

impl KeyPrefix {
    /// The prefix itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// True for keys that begin with the prefix.
    pub fn matches(&self, key: &[u8]) -> bool {
        key.starts_with(&self.bytes)
    }
}

impl FromStr for KeyPrefix {
    type Err = KeyPrefixError;
    fn from_str(written: &str) -> Result<Self, KeyPrefixError> {
        let wrong = || KeyPrefixError(written.to_owned());
        match written.split_once(':') {
            Some(("hex", digits)) => {
                Ok(Self { bytes: hex::decode(digits).map_err(|_| wrong())?, text: false })
            }
            Some(("text", text)) => Ok(Self { bytes: text.as_bytes().to_vec(), text: true }),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for KeyPrefix {
    type Error = KeyPrefixError;
    fn try_from(written: String) -> Result<Self, KeyPrefixError> {
        written.parse()
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) if self.text => write!(f, "text:{text}"),
            _ => write!(f, "hex:{}", hex::encode(&self.bytes)),
        }
    }
}

impl From<KeyPrefix> for String {
    fn from(prefix: KeyPrefix) -> Self {
        prefix.to_string()
    }
}

/// Gives `topic` to the changes of `store` whose key begins with `prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRule {
    /// The store the rule is for.
    pub store: String,
    /// The keys it is for; without one, every key of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<KeyPrefix>,
    /// The label.
    pub topic: String,
}

/// Rules in order; the first match wins.
#[derive(Clone, Debug, Default)]
pub struct TopicRules(Vec<TopicRule>);

impl TopicRules {
    /// The rules, in order of precedence.
    pub const fn new(rules: Vec<TopicRule>) -> Self {
        Self(rules)
    }

    /// The rules that can match in a store, in order; a walk over sorted changes asks once per
    /// store and then only looks at these.
    pub fn of_store<'a>(&'a self, store: &'a str) -> impl Iterator<Item = &'a TopicRule> + 'a {
        self.0.iter().filter(move |rule| rule.store == store)
    }

    /// The topic of a change; empty, meaning the store's name, where no rule matches.
    pub fn topic<'a>(&'a self, store: &str, key: &[u8]) -> &'a str {
        self.0
            .iter()
            .find(|rule| rule.store == store && rule.prefix.as_ref().is_none_or(|p| p.matches(key)))
            .map_or("", |rule| rule.topic.as_str())
    }

    /// True without any rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(store: &str, prefix: Option<&str>, topic: &str) -> TopicRule {
        TopicRule {
            store: store.into(),
            prefix: prefix.map(|p| p.parse().unwrap()),
            topic: topic.into(),
        }
    }

    #[test]
    fn first_match_wins() {
        let rules = TopicRules::new(vec![
            rule("bank", Some("hex:02"), "bank.balances"),
            rule("bank", None, "bank.other"),
        ]);
        assert_eq!(rules.topic("bank", &[2, 1]), "bank.balances");
        assert_eq!(rules.topic("bank", &[3]), "bank.other");
        assert_eq!(rules.topic("staking", &[2]), "");
        assert_eq!(rules.of_store("bank").count(), 2);
    }

    #[test]
    fn prefixes_are_hex_or_text() {
        assert!("hex:02ff".parse::<KeyPrefix>().unwrap().matches(&[2, 0xff, 9]));
        assert!("text:abc".parse::<KeyPrefix>().unwrap().matches(b"abcd"));
        assert!("02ff".parse::<KeyPrefix>().is_err());
        assert!("hex:0".parse::<KeyPrefix>().is_err());
        assert_eq!("text:ab".parse::<KeyPrefix>().unwrap().to_string(), "text:ab");
    }
}
