//! The filter of a subscription: which changes of an ingestor a reader asked for.
//!
//! A filter is decided in two steps. Store and topic are decided once per distinct route; only
//! inside the runs of matching routes are operation, key prefix and bucket looked at, and only
//! when the filter has such a clause.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::{Op, bucket::bucket, topic::KeyPrefix};

/// Names of pseudo stores begin like this. They hold what is not key-value state (ABCI events),
/// and a `*` does not include them.
pub const PSEUDO_STORE_PREFIX: &str = "abci.";

/// Memory that one compiled topic expression may take, in bytes. Bounds what a caller can make
/// the router build.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// Most clauses of one kind in a filter.
const MAX_CLAUSES: usize = 1024;

/// A filter as people write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterSpec {
    /// Store names or globs (`*`, `?`), `!` negates; the last match decides. Empty means `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
    /// Regular expression over the whole topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<String>,
    /// Operations; empty means both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<Op>,
    /// Key prefixes, any of which matches; empty means every key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<KeyPrefix>,
    /// Ranges of partition buckets, inclusive at both ends; empty means all 256.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(u8, u8)>,
}

/// Why a filter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The topic expression does not compile or is too large.
    #[error("filter.topics {expression:?}: {reason}")]
    Topics {
        /// As written.
        expression: String,
        /// The compiler's words.
        reason: String,
    },
    /// An empty store pattern.
    #[error("filter.stores[{0}] is empty; name a store, a glob such as gamm*, or !name")]
    EmptyStore(usize),
    /// More clauses than a filter may have.
    #[error("filter.{clause} has {count} entries; at most {MAX_CLAUSES} are allowed")]
    TooMany {
        /// Which clause.
        clause: &'static str,
        /// How many it has.
        count: usize,
    },
    /// A bucket range that ends before it begins.
    #[error("filter.buckets {0}-{1} ends before it begins")]
    Buckets(u8, u8),
}

/// A filter ready to decide.
#[derive(Clone)]
pub struct Filter {
    spec: FilterSpec,
    stores: Vec<StoreRule>,
    topics: Option<Regex>,
}

#[derive(Clone, Debug)]
struct StoreRule {
    include: bool,
    /// `*` alone stands for KV stores only.
    any: bool,
    pattern: String,
}

impl Filter {
    /// A filter that lets every change of KV stores through.
    pub fn all() -> Self {
        Self { spec: FilterSpec::default(), stores: Vec::new(), topics: None }
    }

    /// Checks and compiles what was written.
    pub fn compile(spec: &FilterSpec) -> Result<Self, FilterError> {
        for (clause, count) in [
            ("stores", spec.stores.len()),
            ("prefixes", spec.prefixes.len()),
            ("buckets", spec.buckets.len()),
        ] {
            if count > MAX_CLAUSES {
                return Err(FilterError::TooMany { clause, count });
            }
        }
        if let Some(&(from, to)) = spec.buckets.iter().find(|(from, to)| from > to) {
            return Err(FilterError::Buckets(from, to));
        }
        let stores = spec
            .stores
            .iter()
            .enumerate()
            .map(|(i, written)| StoreRule::parse(written).ok_or(FilterError::EmptyStore(i)))
            .collect::<Result<_, _>>()?;
        let topics = spec.topics.as_deref().map(compile_topics).transpose()?;
        Ok(Self { spec: spec.clone(), stores, topics })
    }

    /// What was written.
    pub const fn spec(&self) -> &FilterSpec {
        &self.spec
    }

    /// A name for the filter that changes exactly when its meaning as written does: BLAKE3 over
    /// its canonical JSON, first 16 bytes, hex.
    pub fn hash(&self) -> String {
        let canonical = serde_json::to_vec(&self.spec).unwrap_or_default();
        let hash = blake3::hash(&canonical);
        hex::encode(hash.as_bytes().first_chunk::<16>().unwrap_or(&[0; 16]))
    }

    /// Decides a route. An empty topic stands for the store's name.
    pub fn matches_route(&self, store: &str, topic: &str) -> bool {
        let topic = if topic.is_empty() { store } else { topic };
        self.matches_store(store) && self.topics.as_ref().is_none_or(|t| t.is_match(topic))
    }

    /// True if some clause looks at single changes, not only at their route.
    pub fn looks_inside_runs(&self) -> bool {
        !(self.spec.ops.is_empty() && self.spec.prefixes.is_empty() && self.spec.buckets.is_empty())
    }

    /// Decides a change of a route that matches.
    pub fn matches_change(&self, store: &str, op: Op, key: &[u8]) -> bool {
        let spec = &self.spec;
        (spec.ops.is_empty() || spec.ops.contains(&op))
            && (spec.prefixes.is_empty() || spec.prefixes.iter().any(|p| p.matches(key)))
            && (spec.buckets.is_empty() || {
                let own = bucket(store, key);
                spec.buckets.iter().any(|(from, to)| (*from..=*to).contains(&own))
            })
    }

    fn matches_store(&self, store: &str) -> bool {
        let pseudo = store.starts_with(PSEUDO_STORE_PREFIX);
        // A list of negations alone starts from "every KV store".
        let initial = !pseudo && self.stores.first().is_none_or(|first| !first.include);
        self.stores
            .iter()
            .rev()
            .find(|rule| rule.matches(store, pseudo))
            .map_or(initial, |rule| rule.include)
    }
}

impl StoreRule {
    fn parse(written: &str) -> Option<Self> {
        let (include, pattern) = match written.strip_prefix('!') {
            Some(rest) => (false, rest),
            None => (true, written),
        };
        (!pattern.is_empty()).then(|| Self {
            include,
            any: pattern == "*",
            pattern: pattern.to_owned(),
        })
    }

    fn matches(&self, store: &str, pseudo: bool) -> bool {
        if pseudo && self.include {
            return self.pattern == store;
        }
        self.any || glob(self.pattern.as_bytes(), store.as_bytes())
    }
}

/// `*` is any stretch, `?` any one byte. Linear with one point of return, so that no pattern can
/// make it slow.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(byte) if Some(byte) == text.get(t) => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

fn compile_topics(expression: &str) -> Result<Regex, FilterError> {
    let wrong = |reason: String| FilterError::Topics { expression: expression.to_owned(), reason };
    // Compiled on its own first, so that an expression cannot escape the anchors around it.
    Regex::new(expression).map_err(|error| wrong(error.to_string()))?;
    RegexBuilder::new(&format!("^(?:{expression})$"))
        .size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map_err(|error| wrong(error.to_string()))
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.spec).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(stores: &[&str]) -> Filter {
        let stores = stores.iter().map(ToString::to_string).collect();
        Filter::compile(&FilterSpec { stores, ..FilterSpec::default() }).unwrap()
    }

    #[test]
    fn stores_by_name_glob_and_negation() {
        let matched = |stores: &[&str], store: &str| filter(stores).matches_route(store, "");
        assert!(matched(&[], "bank"));
        assert!(matched(&["*"], "bank"));
        assert!(matched(&["bank"], "bank") && !matched(&["bank"], "banks"));
        assert!(matched(&["gamm*"], "gammv2") && !matched(&["gamm*"], "bank"));
        assert!(!matched(&["*", "!bank"], "bank") && matched(&["*", "!bank"], "staking"));
        assert!(matched(&["!bank"], "staking") && !matched(&["!bank"], "bank"));
        assert!(matched(&["*", "!ba*", "bank"], "bank"), "the last match decides");
    }

    #[test]
    fn pseudo_stores_only_by_name() {
        assert!(!filter(&["*"]).matches_route("abci.events", "transfer"));
        assert!(!filter(&[]).matches_route("abci.events", "transfer"));
        assert!(!filter(&["abci*"]).matches_route("abci.events", "transfer"));
        assert!(filter(&["abci.events"]).matches_route("abci.events", "transfer"));
    }

    #[test]
    fn topics_match_whole_and_cannot_escape() {
        let spec = FilterSpec { topics: Some("bank\\.balances|x".into()), ..FilterSpec::default() };
        let filter = Filter::compile(&spec).unwrap();
        assert!(filter.matches_route("bank", "bank.balances"));
        assert!(!filter.matches_route("bank", "bank.balances2"));
        assert!(filter.matches_route("x", ""), "without a topic the store's name counts");
        let escape = FilterSpec { topics: Some("a)|(?:.*".into()), ..FilterSpec::default() };
        assert!(Filter::compile(&escape).is_err());
    }

    #[test]
    fn changes_by_op_prefix_and_bucket() {
        let spec: FilterSpec =
            serde_json::from_str(r#"{"ops":["delete"],"prefixes":["hex:02"]}"#).unwrap();
        let filter = Filter::compile(&spec).unwrap();
        assert!(filter.looks_inside_runs());
        assert!(filter.matches_change("bank", Op::Delete, &[2, 1]));
        assert!(!filter.matches_change("bank", Op::Set, &[2, 1]));
        assert!(!filter.matches_change("bank", Op::Delete, &[3]));
        let own = bucket("bank", b"k");
        let only = FilterSpec { buckets: vec![(own, own)], ..FilterSpec::default() };
        assert!(Filter::compile(&only).unwrap().matches_change("bank", Op::Set, b"k"));
    }

    #[test]
    fn unknown_clauses_are_named() {
        let error = serde_json::from_str::<FilterSpec>(r#"{"store":["a"]}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `store`"), "{error}");
    }

    #[test]
    fn glob_is_exact() {
        for (pattern, text, expected) in
            [("a*b*c", "aXbYc", true), ("a*b*c", "aXbY", false), ("?", "", false), ("*", "", true)]
        {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
