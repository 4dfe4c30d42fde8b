//! One block as a line of JSON: what `sluice capture` reads.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use sluice_model::{Op, event::Encoding};

/// A block, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The line it came from.
    pub(crate) line: u64,
    pub(crate) height: u64,
    /// Nanoseconds since 1970.
    pub(crate) time: Option<i64>,
    pub(crate) changes: Vec<Change>,
    /// Bytes of keys and values.
    pub(crate) bytes: usize,
}

/// A change, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) store: String,
    pub(crate) op: Op,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockLine {
    height: u64,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    changes: Vec<ChangeLine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeLine {
    store: String,
    #[serde(default = "set")]
    op: Op,
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    encoding: Encoding,
}

const fn set() -> Op {
    Op::Set
}

impl Block {
    /// Reads a line. The error says what is wrong, and where in the line.
    pub(crate) fn parse(line: u64, text: &[u8]) -> Result<Self, String> {
        let block: BlockLine = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let time = block.time.as_deref().map(time).transpose()?;
        let mut changes = Vec::with_capacity(block.changes.len());
        let mut bytes = 0;
        for (index, change) in block.changes.into_iter().enumerate() {
            let change = Change::read(change).map_err(|why| format!("changes[{index}]: {why}"))?;
            bytes += change.store.len() + change.key.len() + change.value.len();
            changes.push(change);
        }
        Ok(Self { line, height: block.height, time, changes, bytes })
    }
}

impl Change {
    fn read(line: ChangeLine) -> Result<Self, String> {
        if line.store.is_empty() {
            return Err("store is empty".to_owned());
        }
        let key = decode("key", &line.key, line.encoding)?;
        let value = match (line.op, line.value) {
            (Op::Set, Some(value)) => decode("value", &value, line.encoding)?,
            (Op::Set, None) => return Err("value is missing; a set may have an empty one".into()),
            (Op::Delete, None) => Vec::new(),
            (Op::Delete, Some(value)) if value.is_empty() => Vec::new(),
            (Op::Delete, Some(_)) => return Err("value: a delete has none".to_owned()),
        };
        Ok(Self { store: line.store, op: line.op, key, value })
    }
}

fn decode(field: &str, text: &str, encoding: Encoding) -> Result<Vec<u8>, String> {
    match encoding {
        Encoding::Base64 => {
            STANDARD.decode(text).map_err(|error| format!("{field} is not base64: {error}"))
        }
        Encoding::Hex => hex::decode(text).map_err(|error| format!("{field} is not hex: {error}")),
    }
}

fn time(text: &str) -> Result<i64, String> {
    let position = format!("time:{text}").parse();
    match position {
        Ok(sluice_model::StartPosition::Time(nanos)) => Ok(nanos),
        _ => Err(format!("time {text:?} is not one; write 2026-01-31T12:00:00Z")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Block, String> {
        Block::parse(7, text.as_bytes())
    }

    #[test]
    fn a_block_with_both_encodings() {
        let block = parse(
            r#"{"height":5,"time":"1970-01-01T00:00:01Z","changes":[
                {"store":"bank","key":"Ag==","value":""},
                {"store":"bank","op":"delete","key":"02ff","encoding":"hex"}]}"#,
        )
        .unwrap();
        assert_eq!((block.line, block.height, block.time), (7, 5, Some(1_000_000_000)));
        assert_eq!(block.changes[0].key, [2]);
        assert_eq!(block.changes[0].op, Op::Set);
        assert_eq!((block.changes[1].op, &block.changes[1].key[..]), (Op::Delete, &[2, 255][..]));
        assert_eq!(block.bytes, 4 + 1 + 4 + 2);
        assert_eq!(parse(r#"{"height":1}"#).unwrap().changes, []);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            (r#"{"heigth":1}"#, "heigth"),
            (r#"{"height":1,"time":"noon"}"#, "noon"),
            (r#"{"height":1,"changes":[{"store":"b","key":"Ag","value":""}]}"#, "changes[0]: key"),
            (r#"{"height":1,"changes":[{"store":"b","key":"Ag=="}]}"#, "value is missing"),
            (r#"{"height":1,"changes":[{"store":"","key":"","value":""}]}"#, "store is empty"),
            (
                r#"{"height":1,"changes":[{"store":"b","op":"delete","key":"","value":"Ag=="}]}"#,
                "a delete has none",
            ),
            ("{", "EOF"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
