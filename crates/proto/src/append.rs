//! `AppendRequest` by hand: its frame is sent as a header and the changes as they lie in memory,
//! and received as one stretch of the receive buffer.

use bytes::{Buf, BufMut};
use prost::{
    DecodeError,
    encoding::{self, DecodeContext, WireType},
};

use self::append_request::Message;
use crate::wire;

/// One message of a writer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppendRequest {
    /// What it says; `None` for a message of a newer version.
    pub message: Option<Message>,
}

/// The kinds of messages of a writer.
pub mod append_request {
    use sluice_frame::WireFrame;

    use crate::v1;

    /// What a message says.
    #[derive(Clone, Debug, PartialEq)]
    pub enum Message {
        /// First message of the stream.
        Start(v1::AppendStart),
        /// The next frame.
        Frame(WireFrame),
    }
}

const START: u32 = 1;
const FRAME: u32 = 2;

impl From<Message> for AppendRequest {
    fn from(message: Message) -> Self {
        Self { message: Some(message) }
    }
}

impl prost::Message for AppendRequest {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match &self.message {
            Some(Message::Start(start)) => encoding::message::encode(START, start, buf),
            Some(Message::Frame(frame)) => wire::encode(FRAME, frame, buf),
            None => {}
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            START => self.message = Some(Message::Start(wire::message(wire_type, buf, ctx)?)),
            FRAME => self.message = Some(Message::Frame(wire::decode(wire_type, buf, ctx)?)),
            _ => encoding::skip_field(wire_type, tag, buf, ctx)?,
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match &self.message {
            Some(Message::Start(start)) => wire::field_len(START, start.encoded_len()),
            Some(Message::Frame(frame)) => wire::field_len(FRAME, frame.len()),
            None => 0,
        }
    }

    fn clear(&mut self) {
        self.message = None;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;
    use sluice_frame::WireFrame;
    use smallvec::smallvec;

    use super::*;
    use crate::v1;

    fn round_trip(message: Message) -> (Bytes, AppendRequest) {
        let request = AppendRequest::from(message);
        let bytes = Bytes::from(request.encode_to_vec());
        assert_eq!(bytes.len(), request.encoded_len());
        let read = AppendRequest::decode(bytes.clone()).unwrap();
        assert_eq!(read, request);
        (bytes, read)
    }

    #[test]
    fn a_frame_in_pieces_reads_as_one() {
        let frame = WireFrame {
            head: Bytes::from_static(b"head"),
            slices: smallvec![Bytes::from_static(b"changes")],
        };
        let (bytes, read) = round_trip(Message::Frame(frame));
        assert_eq!(bytes.as_ref(), b"\x12\x0bheadchanges", "field 2 of the contract");
        let Some(Message::Frame(frame)) = read.message else { panic!("a frame") };
        assert!(frame.slices.is_empty(), "read without a copy");
    }

    #[test]
    fn a_start_is_a_generated_message_in_field_1() {
        let start = v1::AppendStart { ingestor: "hub".into(), writer_id: 7 };
        let (bytes, _) = round_trip(Message::Start(start.clone()));
        assert_eq!(bytes.first(), Some(&0x0a));
        assert_eq!(v1::AppendStart::decode(bytes.slice(2..)).unwrap(), start);
    }

    #[test]
    fn fields_of_newer_versions_are_skipped() {
        let read = AppendRequest::decode(Bytes::from_static(b"\x1a\x02hi")).unwrap();
        assert_eq!(read, AppendRequest::default());
    }
}
