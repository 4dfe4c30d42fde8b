//! `SubscribeResponse` by hand: its frame is written as a header and slices of stored bytes, and
//! read as one stretch of the receive buffer. Neither side decodes a change.

use bytes::{Buf, BufMut};
use prost::{
    DecodeError,
    encoding::{self, DecodeContext, WireType},
};
use sluice_frame::WireFrame;

use self::subscribe_response::Message;

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
            Some(Message::Frame(frame)) => {
                encoding::encode_key(FRAME, WireType::LengthDelimited, buf);
                encoding::encode_varint(frame.len() as u64, buf);
                frame.put(buf);
            }
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
            FRAME => {
                let mut bytes = bytes::Bytes::new();
                encoding::bytes::merge(wire_type, &mut bytes, buf, ctx)?;
                self.message = Some(Message::Frame(WireFrame::from(bytes)));
            }
            2 => self.message = Some(Message::Progress(embedded(wire_type, buf, ctx)?)),
            3 => self.message = Some(Message::Heartbeat(embedded(wire_type, buf, ctx)?)),
            4 => self.message = Some(Message::Gap(embedded(wire_type, buf, ctx)?)),
            5 => self.message = Some(Message::Rewind(embedded(wire_type, buf, ctx)?)),
            6 => self.message = Some(Message::Complete(embedded(wire_type, buf, ctx)?)),
            7 => self.message = Some(Message::Started(embedded(wire_type, buf, ctx)?)),
            _ => encoding::skip_field(wire_type, tag, buf, ctx)?,
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        let embedded =
            |len: usize| encoding::key_len(FRAME) + encoding::encoded_len_varint(len as u64) + len;
        match &self.message {
            Some(Message::Frame(frame)) => embedded(frame.len()),
            Some(Message::Progress(message)) => embedded(message.encoded_len()),
            Some(Message::Heartbeat(message)) => embedded(message.encoded_len()),
            Some(Message::Gap(message)) => embedded(message.encoded_len()),
            Some(Message::Rewind(message)) => embedded(message.encoded_len()),
            Some(Message::Complete(message)) => embedded(message.encoded_len()),
            Some(Message::Started(message)) => embedded(message.encoded_len()),
            None => 0,
        }
    }

    fn clear(&mut self) {
        self.message = None;
    }
}

fn embedded<M: prost::Message + Default>(
    wire_type: WireType,
    buf: &mut impl Buf,
    ctx: DecodeContext,
) -> Result<M, DecodeError> {
    let mut message = M::default();
    encoding::message::merge(wire_type, &mut message, buf, ctx)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;
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
