//! The body of a request: one batch as JSON, written once and sent as often as it takes.

use bytes::Bytes;
use sluice_frame::FrameError;
use sluice_model::{Position, SequenceId, event::Encoding};
use sluice_sink::Batch;

/// Rough size of an event's JSON beside its key and value, in bytes.
const EVENT_FRAME: usize = 256;

/// Writes a batch. Its events are the same text that every other door of Sluice writes.
pub(crate) fn write(batch: &Batch, encoding: Encoding) -> Result<Bytes, FrameError> {
    let guess = 512 + batch.bytes() * 2 + batch.event_count() * EVENT_FRAME;
    let mut out = Vec::with_capacity(guess);
    out.extend_from_slice(br#"{"stream":"#);
    out.extend_from_slice(&text(batch.stream()));
    out.extend_from_slice(br#","type":"events","batchNumber":"#);
    out.extend_from_slice(batch.number().to_string().as_bytes());
    out.extend_from_slice(br#","after":"#);
    position(batch.after(), &mut out);
    out.extend_from_slice(br#","through":"#);
    position(&batch.through().position, &mut out);
    out.extend_from_slice(br#","epoch":"#);
    out.extend_from_slice(batch.epoch().as_u64().to_string().as_bytes());
    out.extend_from_slice(br#","events":["#);
    let mut first = true;
    batch.for_each_event(|event| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        event.write_json(encoding, &mut out);
    })?;
    out.extend_from_slice(b"]}");
    Ok(out.into())
}

fn text(text: &str) -> Vec<u8> {
    serde_json::Value::from(text).to_string().into_bytes()
}

/// A position as a sequence id, which compares as text with the events' ids; `null` before the
/// first block, where there is none.
fn position(position: &Position, out: &mut Vec<u8>) {
    if position.pointer.is_origin() {
        out.extend_from_slice(b"null");
        return;
    }
    out.push(b'"');
    out.extend_from_slice(SequenceId::new(position.clone()).to_string().as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use sluice_sink::testing::batches;

    use super::*;

    #[test]
    fn a_batch_is_its_events_as_everywhere_and_its_bounds() {
        let keys = [vec![vec![2, 255], vec![3]], vec![vec![4]]];
        let batches = batches(2, &keys).unwrap();
        let body = write(&batches[0], Encoding::Base64).unwrap();
        let mut events = Vec::new();
        batches[0]
            .for_each_event(|event| {
                let mut line = Vec::new();
                event.write_json(Encoding::Base64, &mut line);
                events.push(String::from_utf8(line).unwrap());
            })
            .unwrap();
        let expected = format!(
            "{{\"stream\":\"test\",\"type\":\"events\",\"batchNumber\":1,\
             \"after\":\"00000000000000000000-ffffffff\",\
             \"through\":\"00000000000000000001-ffffffff\",\"epoch\":9,\"events\":[{}]}}",
            events.join(",")
        );
        assert_eq!(String::from_utf8(body.to_vec()).unwrap(), expected);
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(parsed["events"][0]["sequenceId"], "00000000000000000001-00000000");
        assert_eq!(parsed["events"][0]["key"], "Av8=");
        let hex = write(&batches[1], Encoding::Hex).unwrap();
        assert!(String::from_utf8(hex.to_vec()).unwrap().contains(r#""key":"04""#));
    }

    #[test]
    fn before_the_first_block_there_is_no_id() {
        let mut out = Vec::new();
        position(&Position::ORIGIN, &mut out);
        assert_eq!(out, b"null");
    }
}
