//! What a refusal says beside its reason: positions and heads, as messages in the metadata of a
//! gRPC status. The router writes them, the clients read them.

use bytes::Bytes;
use prost::Message;
use sluice_model::{Head, Position};
use sluice_proto::{convert, v1 as pb};
use tonic::{Status, metadata::MetadataValue};

/// The lowest position to read after; on `OUT_OF_RANGE`.
pub const OLDEST: &str = "sluice-oldest-bin";
/// The last unreadable position; on `CORRUPT`.
pub const THROUGH: &str = "sluice-through-bin";
/// The place that is meant; on `WRONG_PARENT` and `DIVERGENT`.
pub const AT: &str = "sluice-at-bin";
/// The head of the journal; on `DIVERGED` and `WRONG_PARENT`.
pub const HEAD: &str = "sluice-head-bin";
/// The store that differs; on `DIVERGENT`.
pub const STORE: &str = "sluice-store-bin";

/// Adds a position to a status.
pub fn put_position(status: &mut Status, key: &'static str, position: &Position) {
    put(status, key, &pb::Position::from(position).encode_to_vec());
}

/// Adds a head to a status.
pub fn put_head(status: &mut Status, head: &Head) {
    put(status, HEAD, &pb::Head::from(head).encode_to_vec());
}

/// Adds a text to a status.
pub fn put_text(status: &mut Status, key: &'static str, text: &str) {
    put(status, key, text.as_bytes());
}

/// A position of a status; `None` if it has none that can be read.
pub fn position(status: &Status, key: &'static str) -> Option<Position> {
    pb::Position::decode(get(status, key)?).ok()?.try_into().ok()
}

/// The head of a status; `None` if it has none that can be read.
pub fn head(status: &Status) -> Option<Head> {
    convert::head(Some(pb::Head::decode(get(status, HEAD)?).ok()?)).ok().flatten()
}

/// A text of a status; `None` if it has none that can be read.
pub fn text(status: &Status, key: &'static str) -> Option<String> {
    String::from_utf8(get(status, key)?.to_vec()).ok()
}

fn put(status: &mut Status, key: &'static str, value: &[u8]) {
    status.metadata_mut().insert_bin(key, MetadataValue::from_bytes(value));
}

fn get(status: &Status, key: &'static str) -> Option<Bytes> {
    status.metadata().get_bin(key)?.to_bytes().ok()
}

#[cfg(test)]
mod tests {
    use sluice_model::{Digest, Generation, Pointer};

    use super::*;

    #[test]
    fn details_round_trip() {
        let mut status = Status::aborted("x");
        let at = Position { generation: Generation(3), pointer: Pointer::from_height(7), index: 9 };
        let last = Head {
            generation: Generation(1),
            pointer: Pointer::from_height(8),
            height: 8,
            digest: Digest::from_array([7; 32]),
            time: Some(-5),
            appended: 11,
        };
        put_position(&mut status, OLDEST, &at);
        put_head(&mut status, &last);
        put_text(&mut status, STORE, "bänk");
        assert_eq!(position(&status, OLDEST), Some(at));
        assert_eq!(head(&status), Some(last));
        assert_eq!(text(&status, STORE).as_deref(), Some("bänk"));
        assert_eq!(position(&status, THROUGH), None);
    }
}
