//! Mutations as bytes: a tag, then fixed little-endian numbers and length-prefixed bytes.

use bytes::{Buf, BufMut, Bytes};

use crate::kv::Entry;

use super::state::{Change, Mutation};

const BASE: u8 = 1;
const ENTRY: u8 = 2;
const GRANT: u8 = 3;
const REVOKE: u8 = 4;
const COMMIT: u8 = 5;
const PUT: u8 = 1;
const DELETE: u8 = 2;

pub(super) fn encode(mutations: &[Mutation]) -> Vec<u8> {
    let mut out = Vec::new();
    for mutation in mutations {
        match mutation {
            Mutation::Base(revision) => {
                out.put_u8(BASE);
                out.put_u64_le(*revision);
            }
            Mutation::Entry(entry) => {
                out.put_u8(ENTRY);
                put_bytes(&mut out, entry.key.as_bytes());
                put_bytes(&mut out, &entry.value);
                out.put_u64_le(entry.create_revision);
                out.put_u64_le(entry.mod_revision);
                out.put_u64_le(entry.lease.unwrap_or_default());
            }
            Mutation::Grant(lease, ttl) => {
                out.put_u8(GRANT);
                out.put_u64_le(*lease);
                out.put_u64_le(*ttl);
            }
            Mutation::Revoke(lease, revision) => {
                out.put_u8(REVOKE);
                out.put_u64_le(*lease);
                out.put_u64_le(*revision);
            }
            Mutation::Commit(revision, changes) => {
                out.put_u8(COMMIT);
                out.put_u64_le(*revision);
                out.put_u32_le(u32::try_from(changes.len()).unwrap_or(u32::MAX));
                changes.iter().for_each(|change| put_change(&mut out, change));
            }
        }
    }
    out
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Put { key, value, lease } => {
            out.put_u8(PUT);
            put_bytes(out, key.as_bytes());
            put_bytes(out, value);
            out.put_u64_le(lease.unwrap_or_default());
        }
        Change::Delete { key } => {
            out.put_u8(DELETE);
            put_bytes(out, key.as_bytes());
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

/// Every mutation of a record; the error says what is wrong.
pub(super) fn decode(mut input: Bytes) -> Result<Vec<Mutation>, String> {
    let mut mutations = Vec::new();
    while input.has_remaining() {
        mutations.push(mutation(&mut input)?);
    }
    Ok(mutations)
}

fn mutation(input: &mut Bytes) -> Result<Mutation, String> {
    Ok(match byte(input)? {
        BASE => Mutation::Base(number(input)?),
        ENTRY => Mutation::Entry(Entry {
            key: text(input)?,
            value: bytes(input)?,
            create_revision: number(input)?,
            mod_revision: number(input)?,
            lease: lease(input)?,
        }),
        GRANT => Mutation::Grant(number(input)?, number(input)?),
        REVOKE => Mutation::Revoke(number(input)?, number(input)?),
        COMMIT => {
            let revision = number(input)?;
            let count = input.try_get_u32_le().map_err(|error| short(&error))?;
            let changes = (0..count).map(|_| change(input)).collect::<Result<_, _>>()?;
            Mutation::Commit(revision, changes)
        }
        other => return Err(format!("unknown mutation {other}; written by a newer version?")),
    })
}

fn change(input: &mut Bytes) -> Result<Change, String> {
    match byte(input)? {
        PUT => Ok(Change::Put { key: text(input)?, value: bytes(input)?, lease: lease(input)? }),
        DELETE => Ok(Change::Delete { key: text(input)? }),
        other => Err(format!("unknown change {other}; written by a newer version?")),
    }
}

fn short(error: &bytes::TryGetError) -> String {
    error.to_string()
}

fn byte(input: &mut Bytes) -> Result<u8, String> {
    input.try_get_u8().map_err(|error| short(&error))
}

fn number(input: &mut Bytes) -> Result<u64, String> {
    input.try_get_u64_le().map_err(|error| short(&error))
}

fn lease(input: &mut Bytes) -> Result<Option<u64>, String> {
    Ok(Some(number(input)?).filter(|lease| *lease != 0))
}

fn bytes(input: &mut Bytes) -> Result<Bytes, String> {
    let len = input.try_get_u32_le().map_err(|error| short(&error))? as usize;
    if len > input.len() {
        return Err(format!("{len} bytes announced, {} left", input.len()));
    }
    Ok(input.split_to(len))
}

fn text(input: &mut Bytes) -> Result<String, String> {
    String::from_utf8(bytes(input)?.to_vec()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn one_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (".{0,8}", value(), prop::option::of(1..u64::MAX))
                .prop_map(|(key, value, lease)| Change::Put { key, value, lease }),
            ".{0,8}".prop_map(|key| Change::Delete { key }),
        ]
    }

    fn one_mutation() -> impl Strategy<Value = Mutation> {
        prop_oneof![
            any::<u64>().prop_map(Mutation::Base),
            (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Mutation::Grant(a, b)),
            (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Mutation::Revoke(a, b)),
            (any::<u64>(), prop::collection::vec(one_change(), 0..5))
                .prop_map(|(revision, changes)| Mutation::Commit(revision, changes)),
            (".{0,8}", value(), any::<u64>(), any::<u64>(), prop::option::of(1..u64::MAX))
                .prop_map(|(key, value, create_revision, mod_revision, lease)| {
                    Mutation::Entry(Entry { key, value, create_revision, mod_revision, lease })
                }),
        ]
    }

    proptest! {
        #[test]
        fn comes_back(mutations in prop::collection::vec(one_mutation(), 0..8)) {
            prop_assert_eq!(decode(encode(&mutations).into()).unwrap(), mutations);
        }

        #[test]
        fn never_panics(input in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(input.into()));
        }
    }
}
