//! `SubscribeResponse` by hand: its frame is written as a header and slices of stored bytes, and
//! read as one stretch of the receive buffer. Neither side decodes a change.

use bytes::{Buf, BufMut};
use prost::{
    DecodeError,
    encoding::{self, DecodeContext, WireType},
};

use self::subscribe_response::Message;
use crate::wire;

/// One message of a subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscribeResponse {
    /// What it says; `None` for a message of a newer version.
    pub message: Option<Message>,
}

/// The kinds of messages of a subscription.
pub mod subscribe_response {
    use sluice_frame::WireFrame;

    use crate::v1;

    /// What a message says.
    #[derive(Clone, Debug, PartialEq)]
    pub enum Message {
        /// Matching changes of one frame.
        Frame(WireFrame),
        /// Everything that matches up to here was sent.
        Progress(v1::Progress),
        /// Nothing else was sent for a while.
        Heartbeat(v1::Heartbeat),
        /// Blocks are missing.
        Gap(v1::GapNotice),
        /// A new history begins.
        Rewind(v1::RewindNotice),
        /// The bounded read is at its end.
        Complete(v1::Complete),
        /// What the router understood.
        Started(v1::Started),
    }
}

const FRAME: u32 = 1;

impl From<Message> for SubscribeResponse {
    fn from(message: Message) -> Self {
        Self { message: Some(message) }
    }
}

impl prost::Message for SubscribeResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match &self.message {
            Some(Message::Frame(frame)) => wire::encode(FRAME, frame, buf),
            Some(Message::Progress(message)) => encoding::message::encode(2, message, buf),
            Some(Message::Heartbeat(message)) => encoding::message::encode(3, message, buf),
            Some(Message::Gap(message)) => encoding::message::encode(4, message, buf),
            Some(Message::Rewind(message)) => encoding::message::encode(5, message, buf),
            Some(Message::Complete(message)) => encoding::message::encode(6, message, buf),
            Some(Message::Started(message)) => encoding::message::encode(7, message, buf),
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
            FRAME => self.message = Some(Message::Frame(wire::decode(wire_type, buf, ctx)?)),
            2 => self.message = Some(Message::Progress(wire::message(wire_type, buf, ctx)?)),
            3 => self.message = Some(Message::Heartbeat(wire::message(wire_type, buf, ctx)?)),
            4 => self.message = Some(Message::Gap(wire::message(wire_type, buf, ctx)?)),
            5 => self.message = Some(Message::Rewind(wire::message(wire_type, buf, ctx)?)),
            6 => self.message = Some(Message::Complete(wire::message(wire_type, buf, ctx)?)),
            7 => self.message = Some(Message::Started(wire::message(wire_type, buf, ctx)?)),
            _ => encoding::skip_field(wire_type, tag, buf, ctx)?,
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match &self.message {
            Some(Message::Frame(frame)) => wire::field_len(FRAME, frame.len()),
            Some(Message::Progress(message)) => wire::field_len(FRAME, message.encoded_len()),
            Some(Message::Heartbeat(message)) => wire::field_len(FRAME, message.encoded_len()),
            Some(Message::Gap(message)) => wire::field_len(FRAME, message.encoded_len()),
            Some(Message::Rewind(message)) => wire::field_len(FRAME, message.encoded_len()),
            Some(Message::Complete(message)) => wire::field_len(FRAME, message.encoded_len()),
            Some(Message::Started(message)) => wire::field_len(FRAME, message.encoded_len()),
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

    #[test]
    fn a_spliced_frame_reads_as_one() {
        let frame = WireFrame {
            head: Bytes::from_static(b"head"),
            slices: smallvec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        };
        let message = SubscribeResponse::from(Message::Frame(frame));
        let bytes = message.encode_to_vec();
        assert_eq!(bytes.len(), message.encoded_len());
        let read = SubscribeResponse::decode(Bytes::from(bytes)).unwrap();
        assert_eq!(read, message);
        let Some(Message::Frame(frame)) = read.message else { panic!("a frame") };
        assert!(frame.slices.is_empty(), "read without a copy");
        assert_eq!(frame.head, Bytes::from_static(b"headonetwo"));
    }

    #[test]
    fn every_other_kind_round_trips() {
        let position = Some(v1::Position { generation: 1, pointer: "p".into(), index: 7 });
        for message in [
            Message::Progress(v1::Progress { through: position.clone(), ..Default::default() }),
            Message::Heartbeat(v1::Heartbeat::default()),
            Message::Gap(v1::GapNotice { through: position.clone(), gap: None }),
            Message::Rewind(v1::RewindNotice::default()),
            Message::Complete(v1::Complete { through: position, digest: "d".into() }),
            Message::Started(v1::Started { filter: "f".into(), ..Default::default() }),
        ] {
            let message = SubscribeResponse::from(message);
            let bytes = message.encode_to_vec();
            assert_eq!(SubscribeResponse::decode(Bytes::from(bytes)).unwrap(), message);
        }
    }
}
