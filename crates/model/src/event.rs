//! One change as delivered, and the JSON that every door writes the same way.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{Change, IngestorName, Op, Position, SequenceId};

/// How keys and values are written as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Standard base64 with padding.
    #[default]
    Base64,
    /// Lower-case hex.
    Hex,
}

/// One state change as delivered, borrowed from its frame.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// The ingestor it belongs to.
    pub ingestor: &'a IngestorName,
    /// Its place, from which its id is derived.
    pub position: &'a Position,
    /// The block's height.
    pub height: u64,
    /// The block's time, nanoseconds since 1970; `None` if the source gave none.
    pub time: Option<i64>,
    /// Its topic; empty stands for the store's name.
    pub topic: &'a str,
    /// The change.
    pub change: Change<'a>,
}

impl Event<'_> {
    /// The id, derived from the position.
    pub fn id(&self) -> SequenceId {
        SequenceId::new(self.position.clone())
    }

    /// Appends the event as one JSON object, without a line end.
    ///
    /// Written by hand: this runs once per delivered change, and building a tree of values for
    /// each would dominate the cost of a webhook batch.
    pub fn write_json(&self, encoding: Encoding, out: &mut Vec<u8>) {
        let mut text = String::with_capacity(256);
        write!(text, r#"{{"sequenceId":"{}","ingestor":"#, self.id()).ok();
        push_string(&mut text, self.ingestor.as_str());
        write!(text, r#","height":{},"index":{}"#, self.height, self.position.index).ok();
        if let Some(time) = self.time.and_then(timestamp) {
            write!(text, r#","time":"{time}""#).ok();
        } else {
            text.push_str(r#","time":null"#);
        }
        text.push_str(r#","store":"#);
        push_string(&mut text, self.change.store);
        text.push_str(r#","topic":"#);
        push_string(&mut text, if self.topic.is_empty() { self.change.store } else { self.topic });
        text.push_str(match self.change.op {
            Op::Set => r#","op":"set","key":""#,
            Op::Delete => r#","op":"delete","key":""#,
        });
        push_bytes(&mut text, self.change.key, encoding);
        text.push('"');
        if self.change.op == Op::Set {
            text.push_str(r#","value":""#);
            push_bytes(&mut text, self.change.value, encoding);
            text.push('"');
        } else {
            text.push_str(r#","value":null"#);
        }
        text.push_str(match encoding {
            Encoding::Base64 => r#","encoding":"base64"}"#,
            Encoding::Hex => r#","encoding":"hex"}"#,
        });
        out.extend_from_slice(text.as_bytes());
    }
}

/// A time in nanoseconds since 1970 as RFC 3339 in UTC; `None` beyond the calendar.
pub fn timestamp(nanos: i64) -> Option<String> {
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).ok().map(|time| time.to_string())
}

fn push_bytes(text: &mut String, bytes: &[u8], encoding: Encoding) {
    match encoding {
        Encoding::Base64 => STANDARD.encode_string(bytes, text),
        Encoding::Hex => text.push_str(&hex::encode(bytes)),
    }
}

fn push_string(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            c if u32::from(c) < 0x20 => {
                write!(text, "\\u{:04x}", u32::from(c)).ok();
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generation, Pointer};

    fn event_json(op: Op, encoding: Encoding) -> String {
        let ingestor: IngestorName = "cosmos\"hub".parse().unwrap();
        let position =
            Position { generation: Generation(0), pointer: Pointer::from_height(42), index: 31 };
        let change = Change { store: "bank", op, key: &[2, 255], value: b"100stake" };
        let event = Event {
            ingestor: &ingestor,
            position: &position,
            height: 42,
            time: Some(1_700_000_000_123_456_789),
            topic: "",
            change,
        };
        let mut out = Vec::new();
        event.write_json(encoding, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The one golden form; every door's test compares with the same file.
    #[test]
    fn matches_the_golden_file() {
        let golden = include_str!("../golden/events.jsonl");
        let written = [
            event_json(Op::Set, Encoding::Base64),
            event_json(Op::Delete, Encoding::Base64),
            event_json(Op::Set, Encoding::Hex),
        ];
        assert_eq!(golden.lines().collect::<Vec<_>>(), written);
        for line in golden.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}
