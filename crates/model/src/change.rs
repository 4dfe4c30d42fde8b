use serde::{Deserialize, Serialize};

/// What a change did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The key has this value now.
    Set,
    /// The key is gone.
    Delete,
}

/// One set or delete of one key in one store, borrowed from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The store, such as `bank`.
    pub store: &'a str,
    /// Set or delete. A missing value does not tell: a set may carry an empty one.
    pub op: Op,
    /// The key.
    pub key: &'a [u8],
    /// The value; empty for deletes.
    pub value: &'a [u8],
}
